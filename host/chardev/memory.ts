// A chardev in memory, for tests and for programs that talk to a guest.

import { InputQueue } from "./queues.ts";
import type { Chardev } from "./types.ts";

/**
 * A serial line whose other end is this program.
 *
 * @example
 * ```ts
 * import { MemoryChardev } from "./memory.ts";
 *
 * const line = new MemoryChardev();
 * line.write(new TextEncoder().encode("login: "));
 * line.text(); // "login: "
 * ```
 */
export class MemoryChardev implements Chardev {
  readonly #input = new InputQueue();
  readonly #decoder = new TextDecoder();
  #output = new Uint8Array(0);
  #length = 0;
  readonly #waiting: { text: string; resolve: () => void }[] = [];

  /** Keeps the bytes. */
  write(bytes: Uint8Array): boolean {
    const needed = this.#length + bytes.length;
    if (needed > this.#output.length) {
      const larger = new Uint8Array(Math.max(needed, 2 * this.#output.length));
      larger.set(this.#output.subarray(0, this.#length));
      this.#output = larger;
    }
    this.#output.set(bytes, this.#length);
    this.#length = needed;
    for (const waiter of this.#waiting.slice()) {
      if (!this.#endHolds(waiter.text, bytes.length)) continue;
      this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
      waiter.resolve();
    }
    return true;
  }

  /** Sets who takes what {@linkcode MemoryChardev.send} sends. */
  onInput(accept: (bytes: Uint8Array) => number): void {
    this.#input.open(accept);
  }

  /** Offers input that was not taken. */
  ready(): void {
    this.#input.offer();
  }

  /** Never calls back: memory is never full. */
  onDrain(): void {}

  /**
   * Sends input to the guest.
   *
   * @param input Text, or bytes.
   */
  send(input: string | Uint8Array): void {
    this.#input.push(
      typeof input === "string"
        ? new TextEncoder().encode(input)
        : input.slice(),
    );
  }

  /**
   * All output so far.
   *
   * @returns A copy.
   */
  output(): Uint8Array<ArrayBuffer> {
    return this.#output.slice(0, this.#length);
  }

  /**
   * All output so far, as text.
   *
   * @returns The output, decoded as UTF-8.
   */
  text(): string {
    return this.#decoder.decode(this.#output.subarray(0, this.#length));
  }

  /**
   * Waits for output.
   *
   * @param text What to wait for.
   * @returns When the output holds it.
   */
  waitFor(text: string): Promise<void> {
    if (this.text().includes(text)) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push({ text, resolve });
    return promise;
  }

  /** Nothing to let go of. */
  close(): Promise<void> {
    return Promise.resolve();
  }

  /** Whether the text ends within the last `fresh` bytes of output. */
  #endHolds(text: string, fresh: number): boolean {
    const width = new TextEncoder().encode(text).length;
    const from = Math.max(0, this.#length - fresh - width);
    return this.#decoder.decode(this.#output.subarray(from, this.#length))
      .includes(text);
  }
}
