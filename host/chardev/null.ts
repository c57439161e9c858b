// backend=null: output is dropped, and there is no input.

import type { Chardev } from "./types.ts";

/** A serial line that is not connected. */
export class NullChardev implements Chardev {
  /** Drops the bytes. */
  write(_bytes: Uint8Array): boolean {
    return true;
  }

  /** Never calls back. */
  onInput(): void {}

  /** There is no input to offer. */
  ready(): void {}

  /** Never calls back: the line is never full. */
  onDrain(): void {}

  /** Nothing to let go of. */
  close(): Promise<void> {
    return Promise.resolve();
  }
}
