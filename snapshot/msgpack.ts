/**
 * MessagePack from an untrusted file: a payload is walked before it is decoded, so that what it
 * claims is what it has. A decoder makes an array as long as its header says, and of two equal
 * keys takes one.
 *
 * @module
 */
import { decode } from "@std/msgpack";

/** Values of a payload at most, keys not counted. */
const MAX_VALUES = 1 << 20;
/** How deep a payload nests at most: types of 32 levels, two maps each, in a component. */
const MAX_NESTING = 80;

/** Bytes after the first one of the formats 0xc0 to 0xdf; those with a length have 0 and are told apart. */
const FIXED: Readonly<Record<number, number>> = {
  0xc0: 0, // nil
  0xc2: 0, // false
  0xc3: 0, // true
  0xca: 4, // float 32
  0xcb: 8, // float 64
  0xcc: 1, // uint 8 to 64
  0xcd: 2,
  0xce: 4,
  0xcf: 8,
  0xd0: 1, // int 8 to 64
  0xd1: 2,
  0xd2: 4,
  0xd3: 8,
};
/** By first byte, the bytes of the length that follows it: bin, str, array and map. */
const BIN: Readonly<Record<number, number>> = { 0xc4: 1, 0xc5: 2, 0xc6: 4 };
const STR: Readonly<Record<number, number>> = { 0xd9: 1, 0xda: 2, 0xdb: 4 };
const ARRAY: Readonly<Record<number, number>> = { 0xdc: 2, 0xdd: 4 };
const MAP: Readonly<Record<number, number>> = { 0xde: 2, 0xdf: 4 };

/** A list or map whose items are being read. */
interface Open {
  /** Items, or pairs, still to come. */
  left: number;
  /** The keys of a map so far. */
  keys: Set<string> | undefined;
}

class Walker {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  #take(length: number): number {
    const from = this.#at;
    if (length > this.#bytes.length - from) {
      throw new RangeError(`a value at byte ${from} goes beyond the end`);
    }
    this.#at = from + length;
    return from;
  }

  #length(bytes: number): number {
    const at = this.#take(bytes);
    return bytes === 1
      ? this.#view.getUint8(at)
      : bytes === 2
      ? this.#view.getUint16(at)
      : this.#view.getUint32(at);
  }

  /** Bytes of the text that begins with `first`; undefined where it is none. */
  #text(first: number): number | undefined {
    if (first >= 0xa0 && first <= 0xbf) return first & 0x1f;
    const wide = STR[first];
    return wide === undefined ? undefined : this.#length(wide);
  }

  #key(keys: Set<string>): void {
    const at = this.#at;
    const length = this.#text(this.#bytes[this.#take(1)]);
    if (length === undefined) {
      throw new TypeError(`the key at byte ${at} is no text`);
    }
    const from = this.#take(length);
    const key = new TextDecoder().decode(
      this.#bytes.subarray(from, from + length),
    );
    if (keys.has(key)) throw new TypeError(`the key at byte ${at} is a second`);
    keys.add(key);
  }

  /** Walks over everything. */
  walk(): void {
    const open: Open[] = [];
    let values = 0;
    for (;;) {
      if (++values > MAX_VALUES) {
        throw new RangeError(`it has more than ${MAX_VALUES} values`);
      }
      const at = this.#at;
      const inner = this.#value(this.#bytes[this.#take(1)], at);
      if (inner !== undefined) {
        if (open.length >= MAX_NESTING) {
          throw new RangeError(`it nests more than ${MAX_NESTING} deep`);
        }
        open.push(inner);
      }
      while (open.length > 0 && open[open.length - 1].left === 0) open.pop();
      if (open.length === 0) break;
      const last = open[open.length - 1];
      last.left--;
      if (last.keys !== undefined) this.#key(last.keys);
    }
    if (this.#at !== this.#bytes.length) {
      throw new RangeError(`it ends at byte ${this.#at}, and more follows`);
    }
  }

  /** Walks over a value; returns what it contains, if anything can be in it. */
  #value(first: number, at: number): Open | undefined {
    if (first <= 0x7f || first >= 0xe0) return undefined;
    if (first <= 0x8f) return { left: first & 0x0f, keys: new Set() };
    if (first <= 0x9f) return { left: first & 0x0f, keys: undefined };
    const text = this.#text(first);
    if (text !== undefined || BIN[first] !== undefined) {
      this.#take(text ?? this.#length(BIN[first]));
      return undefined;
    }
    if (ARRAY[first] !== undefined) {
      return { left: this.#length(ARRAY[first]), keys: undefined };
    }
    if (MAP[first] !== undefined) {
      return { left: this.#length(MAP[first]), keys: new Set() };
    }
    if (FIXED[first] === undefined) {
      throw new TypeError(
        `byte ${at} is 0x${first.toString(16)}, which begins no value here`,
      );
    }
    this.#take(FIXED[first]);
    return undefined;
  }
}

/**
 * Decodes a payload.
 *
 * @param bytes One MessagePack value.
 * @returns The value.
 * @throws {Error} When it is cut off, goes on after its end, has a key twice or an extension, or is too big.
 */
export function unpackValue(bytes: Uint8Array): unknown {
  new Walker(bytes).walk();
  return decode(bytes);
}
