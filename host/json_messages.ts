// JSON values in a stream of bytes, as QEMU's monitor takes them: one after another, with or
// without line ends between them. A byte of 0xFF forgets what has come of a value.

const RESET = 0xff;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN: readonly number[] = [0x5b, 0x7b];
const CLOSE: readonly number[] = [0x5d, 0x7d];
const SPACE: readonly number[] = [0x09, 0x0a, 0x0d, 0x20];
const LINE_FEED = 0x0a;

/**
 * Finds the ends of JSON values in a stream.
 *
 * @example
 * ```ts
 * import { JsonMessages } from "./json_messages.ts";
 *
 * const messages = new JsonMessages(1024);
 * const bytes = new TextEncoder().encode('{"a":1}{"b"');
 * messages.push(bytes); // ['{"a":1}']
 * ```
 */
export class JsonMessages {
  readonly #limit: number;
  /** What has come of the next value. */
  #held: number[] = [];
  #depth = 0;
  #inString = false;
  #escaped = false;

  /** @param limit Bytes of a value at most. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * Takes bytes of the stream.
   *
   * @param bytes The bytes.
   * @returns The text of each value that they complete, or of what is none, to its line's end.
   * @throws {RangeError} When a value is longer than the limit.
   */
  push(bytes: Uint8Array): string[] {
    const found: string[] = [];
    const end = () => {
      found.push(new TextDecoder().decode(Uint8Array.from(this.#held)));
      this.#forget();
    };
    for (const byte of bytes) {
      if (byte === RESET) {
        this.#forget();
        continue;
      }
      if (this.#held.length === 0 && SPACE.includes(byte)) continue;
      if (this.#depth === 0 && byte === LINE_FEED) {
        end();
        continue;
      }
      this.#held.push(byte);
      if (this.#held.length > this.#limit) {
        throw new RangeError(
          `a message of more than ${this.#limit} bytes: expected a shorter one`,
        );
      }
      if (this.#inString) this.#string(byte);
      else if (byte === QUOTE) this.#inString = this.#depth > 0;
      else if (OPEN.includes(byte)) this.#depth++;
      else if (CLOSE.includes(byte) && this.#depth > 0) {
        this.#depth--;
        if (this.#depth === 0) end();
      }
    }
    return found;
  }

  #string(byte: number): void {
    if (this.#escaped) this.#escaped = false;
    else if (byte === BACKSLASH) this.#escaped = true;
    else if (byte === QUOTE) this.#inString = false;
  }

  #forget(): void {
    this.#held = [];
    this.#depth = 0;
    this.#inString = false;
    this.#escaped = false;
  }
}
