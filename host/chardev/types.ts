// What a character device is connected to on the host.

import type { CharBackend } from "../../core/plugin.ts";

/** The host's end of a serial line: what a device sees of it, and its end. */
export interface Chardev extends CharBackend {
  /** Writes out what is held, and lets go of files, sockets and terminals. */
  close(): Promise<void>;
}

/** A chardev that could not be opened, or was asked for wrongly. */
export class ChardevError extends Error {
  /**
   * @param message What went wrong and what to do.
   * @param options The cause.
   */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "ChardevError";
  }
}
