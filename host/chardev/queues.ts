// The bounded queues between a chardev and the host.

/** Most bytes of output that are held for a reader that is slow or absent. */
export const OUTPUT_LIMIT = 64 * 1024;
/** Bytes of output at which a device is told to hold more. */
export const OUTPUT_HIGH_WATER = OUTPUT_LIMIT / 2;

/** Output on its way to the host; drops its oldest bytes beyond a limit. */
export class OutputQueue {
  readonly #limit: number;
  readonly #pieces: Uint8Array[] = [];
  #length = 0;

  /** @param limit Most bytes to hold. */
  constructor(limit: number = OUTPUT_LIMIT) {
    this.#limit = limit;
  }

  /** Bytes held. */
  get length(): number {
    return this.#length;
  }

  /**
   * Adds bytes at the end.
   *
   * @param bytes The bytes; copied.
   */
  push(bytes: Uint8Array): void {
    this.#pieces.push(bytes.slice(-this.#limit));
    this.#length += Math.min(bytes.length, this.#limit);
    let excess = this.#length - this.#limit;
    while (excess > 0) {
      const first = this.#pieces[0];
      if (first.length <= excess) this.#pieces.shift();
      else this.#pieces[0] = first.subarray(excess);
      const dropped = Math.min(first.length, excess);
      excess -= dropped;
      this.#length -= dropped;
    }
  }

  /**
   * Removes all that is held.
   *
   * @returns The bytes, in order.
   */
  take(): Uint8Array<ArrayBuffer> {
    const all = new Uint8Array(this.#length);
    let offset = 0;
    for (const piece of this.#pieces) {
      all.set(piece, offset);
      offset += piece.length;
    }
    this.#pieces.length = 0;
    this.#length = 0;
    return all;
  }

  /**
   * Puts back, at the front, bytes that could not be written.
   *
   * @param bytes The bytes; not copied.
   */
  unshift(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    const room = Math.max(0, this.#limit - this.#length);
    const kept = bytes.subarray(Math.max(0, bytes.length - room));
    if (kept.length === 0) return;
    this.#pieces.unshift(kept);
    this.#length += kept.length;
  }
}

/** Bytes gathered before they are written at once. */
const BATCH_SIZE = 4096;

/** Gathers small writes, and makes one of them at the end of the turn. */
export class Batch {
  readonly #sink: (bytes: Uint8Array) => void;
  readonly #bytes = new Uint8Array(BATCH_SIZE);
  #length = 0;
  #scheduled = false;

  /** @param sink Writes all of the bytes; they are valid during the call. */
  constructor(sink: (bytes: Uint8Array) => void) {
    this.#sink = sink;
  }

  /**
   * Adds bytes.
   *
   * @param bytes The bytes; copied.
   */
  push(bytes: Uint8Array): void {
    for (let offset = 0; offset < bytes.length;) {
      const n = Math.min(bytes.length - offset, BATCH_SIZE - this.#length);
      this.#bytes.set(bytes.subarray(offset, offset + n), this.#length);
      this.#length += n;
      offset += n;
      if (this.#length === BATCH_SIZE) this.flush();
    }
    if (this.#scheduled || this.#length === 0) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.flush();
    });
  }

  /** Writes what is held. */
  flush(): void {
    const length = this.#length;
    this.#length = 0;
    if (length > 0) this.#sink(this.#bytes.subarray(0, length));
  }
}

/** Most bytes of input that are held for a guest that does not take them. */
export const INPUT_LIMIT = 64 * 1024;

/** Input on its way to the guest, offered to the device until it has accepted all. */
export class InputQueue {
  readonly #pieces: Uint8Array[] = [];
  #length = 0;
  #accept: ((bytes: Uint8Array) => number) | undefined;
  #offering = false;
  #room = Promise.withResolvers<void>();

  /**
   * Sets who takes input, and offers what is held.
   *
   * @param accept Returns how many of the bytes it took.
   */
  open(accept: (bytes: Uint8Array) => number): void {
    this.#accept = accept;
    this.offer();
  }

  /** Whether no more should be pushed until there is room. */
  get full(): boolean {
    return this.#length >= INPUT_LIMIT;
  }

  /**
   * Adds input.
   *
   * @param bytes The input; not copied.
   */
  push(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#pieces.push(bytes);
    this.#length += bytes.length;
    this.offer();
  }

  /** Offers what is held; called when the device is ready for more. */
  offer(): void {
    if (this.#offering || !this.#accept) return;
    this.#offering = true;
    while (this.#pieces.length > 0) {
      const first = this.#pieces[0];
      const taken = this.#accept(first);
      this.#length -= taken;
      if (taken < first.length) {
        this.#pieces[0] = first.subarray(taken);
        if (taken === 0) break;
      } else {
        this.#pieces.shift();
      }
    }
    this.#offering = false;
    if (!this.full) {
      this.#room.resolve();
      this.#room = Promise.withResolvers<void>();
    }
  }

  /**
   * Waits until the queue is no longer full.
   *
   * @returns When more may be pushed.
   */
  room(): Promise<void> {
    return this.full ? this.#room.promise : Promise.resolve();
  }
}
