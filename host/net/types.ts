// What every kind of network shares.

import { MachineError, type NetBackend } from "../../core/plugin.ts";

/** The longest frame that a network carries: a TCP segment of 64 KiB that a card did not split. */
export const MAX_FRAME = 65_550;
/** The shortest: two addresses and a type. */
export const MIN_FRAME = 14;

/** An open network: what a card sees of it, and its end. */
export interface Net extends NetBackend {
  /** Lets go of it. Further calls do nothing. */
  close(): Promise<void>;
}

/** A network that cannot be opened. Its message is complete. */
export class NetError extends MachineError {
  /** The class's name, as `Error` has it. */
  override name = "NetError";
}

/** Frames for a card at most, and their bytes: more are dropped, as a full switch does. */
const QUEUE_FRAMES = 1024;
const QUEUE_BYTES = 4 << 20;

/** Frames on their way to a card, held while it has no room. */
export class Inbox {
  readonly #held: Uint8Array[] = [];
  #bytes = 0;
  #accept: ((frame: Uint8Array) => boolean) | undefined;

  /** Frames that came while the queue was full. */
  dropped = 0;

  /** The card listens. */
  onReceive(accept: (frame: Uint8Array) => boolean): void {
    this.#accept = accept;
    this.ready();
  }

  /** Whether nothing waits for the card. */
  get empty(): boolean {
    return this.#held.length === 0;
  }

  /** Gives the card what was held, while it takes it. */
  ready(): void {
    while (this.#held.length > 0) {
      if (this.#accept === undefined || !this.#accept(this.#held[0])) return;
      this.#bytes -= this.#held.shift()!.length;
    }
  }

  /**
   * A frame has come.
   *
   * @param frame The frame; copied where it has to be held.
   */
  push(frame: Uint8Array): void {
    if (this.#held.length === 0 && this.#accept?.(frame) === true) return;
    if (
      this.#held.length >= QUEUE_FRAMES ||
      this.#bytes + frame.length > QUEUE_BYTES
    ) {
      this.dropped++;
      return;
    }
    this.#held.push(frame.slice());
    this.#bytes += frame.length;
  }
}
