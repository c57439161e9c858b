// A raw image: a file whose bytes are the disk's, or a block device of the host.
//
// node:fs is used for its positional reads and writes (pread and pwrite), which share no file
// offset: any number of requests may be under way.

import fs from "node:fs";
import { MachineError } from "../../core/plugin.ts";
import { zeroRange } from "./allocation.ts";
import {
  type BlockImage,
  checkRange,
  checkSize,
  SECTOR_SIZE,
} from "./types.ts";

/** Bytes of zeroes written at a time where the file system cannot zero a range. */
const ZERO_BLOCK = 1024 * 1024;

/** What the system's error codes mean for a disk image. */
const CAUSES: Record<string, string> = {
  ENOENT: "there is no such file",
  ENOTDIR: "a part of its path is not a directory",
  EISDIR: "it is a directory",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EROFS: "it is on a read-only file system",
  EBUSY: "it is in use",
  ELOOP: "too many symbolic links",
  EMFILE: "too many open files",
  ETXTBSY: "it is a program that is running",
};

/** The codes after which read-only access may still work. */
const NOT_WRITABLE = new Set(["EACCES", "EPERM", "EROFS"]);

/** A raw image file or block device. */
export class RawBlock implements BlockImage {
  /** Bytes. */
  readonly size: number;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  readonly #path: string;
  readonly #fd: number;
  readonly #pending = new Set<Promise<unknown>>();
  #closed: Promise<void> | undefined;

  private constructor(
    path: string,
    fd: number,
    size: number,
    readOnly: boolean,
  ) {
    this.#path = path;
    this.#fd = fd;
    this.size = size;
    this.readOnly = readOnly;
  }

  /**
   * Opens an image.
   *
   * @param path The file or block device.
   * @param readOnly Opens it for reading only; writes are refused.
   * @returns The image.
   * @throws {MachineError} If there is none, it cannot be opened, or its size is not a disk's.
   */
  static async open(path: string, readOnly = false): Promise<RawBlock> {
    let kind: "file" | "device";
    try {
      const stat = await Deno.stat(path);
      if (stat.isFile) kind = "file";
      else if (stat.isBlockDevice) kind = "device";
      else if (stat.isDirectory) {
        throw Object.assign(new Error(), { code: "EISDIR" });
      } else {
        throw new MachineError(
          `cannot open image "${path}": it is neither a file nor a block device`,
        );
      }
    } catch (cause) {
      throw openError(path, true, cause);
    }
    const flags = readOnly ? fs.constants.O_RDONLY : fs.constants.O_RDWR;
    let fd: number;
    try {
      fd = fs.openSync(path, flags);
    } catch (cause) {
      throw openError(path, readOnly, cause);
    }
    try {
      const size = kind === "file"
        ? fs.fstatSync(fd).size
        : await deviceSize(path);
      checkSize(`image "${path}"`, size);
      return new RawBlock(path, fd, size, readOnly);
    } catch (error) {
      fs.closeSync(fd);
      throw error;
    }
  }

  /** Reads; a file that has been cut short since it was opened gives an error. */
  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#run("read", offset, target.length, async () => {
      for (let done = 0; done < target.length;) {
        const count = await this.#transfer(fs.read, target, done, offset);
        if (count === 0) throw new Error("the file ends before its size");
        done += count;
      }
    });
  }

  /** Writes. `source` must not change until it has finished. */
  write(offset: number, source: Uint8Array): Promise<void> {
    return this.#run("write", offset, source.length, async () => {
      for (let done = 0; done < source.length;) {
        done += await this.#transfer(fs.write, source, done, offset);
      }
    });
  }

  /** fdatasync(2). */
  flush(): Promise<void> {
    return this.#run("flush", 0, 0, async () => {
      if (this.readOnly) return;
      await new Promise<void>((resolve, reject) =>
        fs.fdatasync(this.#fd, (error) => error ? reject(error) : resolve())
      );
    });
  }

  /** Punches a hole where the host can; otherwise the content stays, which a discard permits. */
  discard(offset: number, length: number): Promise<void> {
    return this.#run("discard", offset, length, async () => {
      await zeroRange(this.#fd, "punch", offset, length);
    });
  }

  /** Zeroes a range: by the file system where it can, else by writing. */
  writeZeroes(offset: number, length: number, unmap: boolean): Promise<void> {
    return this.#run("write zeroes", offset, length, async () => {
      const how = unmap ? "punch" : "zero";
      if (await zeroRange(this.#fd, how, offset, length)) return;
      const zeroes = new Uint8Array(Math.min(length, ZERO_BLOCK));
      for (let done = 0; done < length;) {
        const part = zeroes.subarray(0, Math.min(length - done, ZERO_BLOCK));
        done += await this.#transfer(fs.write, part, 0, offset + done);
      }
    });
  }

  /** Waits for what is under way, then closes the file. */
  close(): Promise<void> {
    this.#closed ??= Promise.allSettled(this.#pending).then(() =>
      fs.closeSync(this.#fd)
    );
    return this.#closed;
  }

  /** One positional call: the part of `buffer` from `done` on, at file offset `offset + done`. */
  #transfer(
    call: typeof fs.read | typeof fs.write,
    buffer: Uint8Array,
    done: number,
    offset: number,
  ): Promise<number> {
    return new Promise((resolve, reject) =>
      (call as typeof fs.read)(
        this.#fd,
        buffer,
        done,
        buffer.length - done,
        offset + done,
        (error, count) => error ? reject(error) : resolve(count),
      )
    );
  }

  async #run(
    what: string,
    offset: number,
    length: number,
    work: () => Promise<void>,
  ): Promise<void> {
    checkRange(this.size, offset, length);
    const say = (why: string) =>
      `cannot ${what} image "${this.#path}" at byte ${offset}: ${why}`;
    if (this.#closed !== undefined) throw new Error(say("it is closed"));
    if (this.readOnly && what !== "read" && what !== "flush") {
      throw new Error(say("it is read-only"));
    }
    const running = work();
    this.#pending.add(running);
    try {
      await running;
    } catch (cause) {
      throw new Error(say((cause as Error).message), { cause });
    } finally {
      this.#pending.delete(running);
    }
  }
}

/** The message for an image that could not be opened. */
function openError(path: string, readOnly: boolean, cause: unknown): Error {
  if (cause instanceof MachineError) return cause;
  const error = cause as NodeJS.ErrnoException;
  const code = error.code ?? "";
  const why = CAUSES[code] ?? error.message;
  const hint = !readOnly && NOT_WRITABLE.has(code)
    ? " (to write; readonly=on opens it for reading)"
    : "";
  return new MachineError(`cannot open image "${path}": ${why}${hint}`, {
    cause,
  });
}

/** The size of a block device, whose metadata say 0: the place of its end. */
async function deviceSize(path: string): Promise<number> {
  using file = await Deno.open(path, { read: true });
  const size = await file.seek(0, Deno.SeekMode.End);
  return size - size % SECTOR_SIZE;
}
