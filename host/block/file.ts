// A file or block device of the host that holds an image.
//
// node:fs is used for its positional reads and writes (pread and pwrite), which share no file
// offset: any number of requests may be under way.

import fs from "node:fs";
import { MachineError } from "../../core/plugin.ts";
import { type Allocation, zeroRange } from "./allocation.ts";
import { SECTOR_SIZE } from "./types.ts";

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

/** Bytes of zeroes written at a time where the file system cannot zero a range. */
const ZERO_BLOCK = 1024 * 1024;

/** An open file or block device. */
export class HostFile {
  /** Its path, for messages. */
  readonly path: string;
  /** Whether it is a block device: one has a fixed size, and content everywhere. */
  readonly isDevice: boolean;
  /** What is equal for two paths of the same file. */
  readonly identity: string;
  readonly #fd: number;
  #size: number;

  private constructor(
    path: string,
    fd: number,
    stat: fs.Stats,
    size: number,
  ) {
    this.path = path;
    this.#fd = fd;
    this.isDevice = stat.isBlockDevice();
    this.identity = this.isDevice
      ? `device ${stat.rdev}`
      : `${stat.dev} ${stat.ino}`;
    this.#size = size;
  }

  /**
   * Opens a file.
   *
   * @param path The file or block device.
   * @param readOnly Opens it for reading only.
   * @returns The file.
   * @throws {MachineError} If there is none, or it cannot be opened.
   */
  static async open(path: string, readOnly: boolean): Promise<HostFile> {
    const kind = await imageKind(path);
    let fd: number | undefined;
    try {
      fd = fs.openSync(
        path,
        readOnly ? fs.constants.O_RDONLY : fs.constants.O_RDWR,
      );
      const stat = fs.fstatSync(fd);
      const size = kind === "file"
        ? stat.size
        : wholeSectors(await deviceBytes(path));
      return new HostFile(path, fd, stat, size);
    } catch (cause) {
      if (fd !== undefined) fs.closeSync(fd);
      throw openError(path, readOnly, cause);
    }
  }

  /** Bytes: those it was opened with, and more after a write behind them. */
  get size(): number {
    return this.#size;
  }

  /**
   * Reads until the target is full or the file ends.
   *
   * @param target Where to.
   * @param position First byte in the file.
   * @returns Bytes that were read.
   */
  async read(target: Uint8Array, position: number): Promise<number> {
    let done = 0;
    while (done < target.length) {
      const count = await this.#transfer(fs.read, target, done, position);
      if (count === 0) break;
      done += count;
    }
    return done;
  }

  /**
   * Reads; what is behind the end of the file is zero.
   *
   * @param target Where to.
   * @param position First byte in the file.
   */
  async readPadded(target: Uint8Array, position: number): Promise<void> {
    const done = await this.read(target, position);
    if (done < target.length) target.fill(0, done);
  }

  /**
   * Writes.
   *
   * @param source What; it must not change until it has finished.
   * @param position First byte in the file.
   */
  async write(source: Uint8Array, position: number): Promise<void> {
    this.#size = Math.max(this.#size, position + source.length);
    for (let done = 0; done < source.length;) {
      done += await this.#transfer(fs.write, source, done, position);
    }
  }

  /** fdatasync(2). */
  async sync(): Promise<void> {
    await new Promise<void>((resolve, reject) =>
      fs.fdatasync(this.#fd, (error) => error ? reject(error) : resolve())
    );
  }

  /**
   * Deallocates a range, which then reads as zeroes.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @returns Whether the host can do that; if not, the content is as it was.
   */
  async punch(offset: number, length: number): Promise<boolean> {
    return await zeroRange(this.#fd, "punch", offset, length);
  }

  /**
   * Makes a range read as zeroes: by the file system where it can, else by writing.
   *
   * @param how What of the range stays allocated.
   * @param offset First byte.
   * @param length Bytes.
   */
  async zero(how: Allocation, offset: number, length: number): Promise<void> {
    if (await zeroRange(this.#fd, how, offset, length)) return;
    const zeroes = new Uint8Array(Math.min(length, ZERO_BLOCK));
    for (let done = 0; done < length; done += ZERO_BLOCK) {
      await this.write(
        zeroes.subarray(0, Math.min(length - done, ZERO_BLOCK)),
        offset + done,
      );
    }
  }

  /** Closes it. Nothing may be under way. */
  close(): void {
    fs.closeSync(this.#fd);
  }

  /** One positional call: the part of `buffer` from `done` on, at file offset `position + done`. */
  #transfer(
    call: typeof fs.read | typeof fs.write,
    buffer: Uint8Array,
    done: number,
    position: number,
  ): Promise<number> {
    return new Promise((resolve, reject) =>
      (call as typeof fs.read)(
        this.#fd,
        buffer,
        done,
        buffer.length - done,
        position + done,
        (error, count) => error ? reject(error) : resolve(count),
      )
    );
  }
}

/**
 * What an image is to the host.
 *
 * @param path The image.
 * @returns A file or a block device.
 * @throws {MachineError} If it is neither, or is not there.
 */
export async function imageKind(path: string): Promise<"file" | "device"> {
  let stat: Deno.FileInfo;
  try {
    stat = await Deno.stat(path);
  } catch (cause) {
    throw openError(path, true, cause);
  }
  if (stat.isFile) return "file";
  if (stat.isBlockDevice) return "device";
  throw new MachineError(
    `cannot open image "${path}": ${
      stat.isDirectory
        ? CAUSES.EISDIR
        : "it is neither a file nor a block device"
    }`,
  );
}

/**
 * The error for an image that could not be opened.
 *
 * @param path The image.
 * @param readOnly Whether it was opened for reading only.
 * @param cause What happened; returned as it is where it says enough.
 * @returns The error; its message names the path and the cause.
 */
export function openError(
  path: string,
  readOnly: boolean,
  cause: unknown,
): Error {
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

/**
 * The size of a block device, whose metadata say 0: the place of its end.
 *
 * @param path The device.
 * @returns Bytes.
 */
export async function deviceBytes(path: string): Promise<number> {
  using file = await Deno.open(path, { read: true });
  return await file.seek(0, Deno.SeekMode.End);
}

/** The size of a disk of so many bytes. */
function wholeSectors(bytes: number): number {
  return bytes - bytes % SECTOR_SIZE;
}
