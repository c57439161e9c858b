// A raw image: a file whose bytes are the disk's, or a block device of the host.

import { HostFile } from "./file.ts";
import { type BlockImage, checkRange, checkSize } from "./types.ts";

export { imageKind, openError } from "./file.ts";

/** A raw image file or block device. */
export class RawBlock implements BlockImage {
  /** Bytes. */
  readonly size: number;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  readonly #file: HostFile;
  readonly #pending = new Set<Promise<unknown>>();
  #closed: Promise<void> | undefined;

  private constructor(file: HostFile, readOnly: boolean) {
    this.#file = file;
    this.size = file.size;
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
    const file = await HostFile.open(path, readOnly);
    try {
      checkSize(`image "${path}"`, file.size);
      return new RawBlock(file, readOnly);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** Reads; a file that has been cut short since it was opened gives an error. */
  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#run("read", offset, target.length, async () => {
      if (await this.#file.read(target, offset) < target.length) {
        throw new Error("the file ends before its size");
      }
    });
  }

  /** Writes. `source` must not change until it has finished. */
  write(offset: number, source: Uint8Array): Promise<void> {
    return this.#run(
      "write",
      offset,
      source.length,
      () => this.#file.write(source, offset),
    );
  }

  /** fdatasync(2). */
  flush(): Promise<void> {
    return this.#run("flush", 0, 0, async () => {
      if (!this.readOnly) await this.#file.sync();
    });
  }

  /** Punches a hole where the host can; otherwise the content stays, which a discard permits. */
  discard(offset: number, length: number): Promise<void> {
    return this.#run("discard", offset, length, async () => {
      await this.#file.punch(offset, length);
    });
  }

  /** Zeroes a range: by the file system where it can, else by writing. */
  writeZeroes(offset: number, length: number, unmap: boolean): Promise<void> {
    const how = unmap ? "punch" : "zero";
    return this.#run(
      "write zeroes",
      offset,
      length,
      () => this.#file.zero(how, offset, length),
    );
  }

  /** Waits for what is under way, then closes the file. */
  close(): Promise<void> {
    this.#closed ??= Promise.allSettled(this.#pending).then(() =>
      this.#file.close()
    );
    return this.#closed;
  }

  async #run(
    what: string,
    offset: number,
    length: number,
    work: () => Promise<void>,
  ): Promise<void> {
    checkRange(this.size, offset, length);
    const say = (why: string) =>
      `cannot ${what} image "${this.#file.path}" at byte ${offset}: ${why}`;
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
