// backend=file=PATH: output goes to a file; there is no input.

import { Batch } from "./queues.ts";
import { ChardevError } from "./types.ts";
import type { Chardev } from "./types.ts";

/** A serial line that is written to a file. */
export class FileChardev implements Chardev {
  readonly #file: Deno.FsFile;
  readonly #output = new Batch((bytes) => {
    for (let offset = 0; offset < bytes.length;) {
      offset += this.#file.writeSync(bytes.subarray(offset));
    }
  });

  /** @param file The open file; closed with the chardev. */
  constructor(file: Deno.FsFile) {
    this.#file = file;
  }

  /**
   * Creates the file, or empties it.
   *
   * @param path Where.
   * @param append Goes on after what is in the file: it is that of the guest's earlier life.
   * @returns The chardev.
   * @throws {ChardevError} If the file cannot be written.
   */
  static open(path: string, append = false): FileChardev {
    try {
      return new FileChardev(
        Deno.openSync(path, {
          create: true,
          append,
          write: true,
          truncate: !append,
        }),
      );
    } catch (cause) {
      throw new ChardevError(
        `cannot write console file "${path}": ${(cause as Error).message}`,
        { cause },
      );
    }
  }

  /** Writes the bytes at the end of the turn, or when a batch is full. */
  write(bytes: Uint8Array): boolean {
    this.#output.push(bytes);
    return true;
  }

  /** Never calls back. */
  onInput(): void {}

  /** There is no input to offer. */
  ready(): void {}

  /** Never calls back: the file is never full. */
  onDrain(): void {}

  /** Writes the rest and closes the file. */
  close(): Promise<void> {
    this.#output.flush();
    this.#file.close();
    return Promise.resolve();
  }
}
