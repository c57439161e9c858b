/**
 * Randomness for devices.
 *
 * Where time is real it is the host's (Web Crypto API, section 10.1), so that two machines
 * restored from one snapshot never share any. Where time is made of instructions it is SplitMix64
 * (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, section 4), whose state
 * belongs to the machine: two runs are equal, and a restored machine goes on as the saved one.
 *
 * @module
 */
import type { ClockMode } from "./clock.ts";

/** The most bytes that `crypto.getRandomValues` gives at once. */
const HOST_BYTES = 65536;
const WORD_BYTES = 8;

const GAMMA = 0x9e37_79b9_7f4a_7c15n;
const MIX_1 = 0xbf58_476d_1ce4_e5b9n;
const MIX_2 = 0x94d0_49bb_1331_11ebn;

/** The randomness of one machine. */
export class Entropy {
  readonly #mode: ClockMode;
  #state = 0n;

  /** @param mode How the machine's time passes. */
  constructor(mode: ClockMode) {
    this.#mode = mode;
  }

  /**
   * Fills an array.
   *
   * @param target Gets random bytes.
   */
  fill(target: Uint8Array): void {
    if (this.#mode === "instructions") return this.#generate(target);
    for (let at = 0; at < target.length; at += HOST_BYTES) {
      // The API takes no shared memory, which the array may be in.
      const part = new Uint8Array(Math.min(HOST_BYTES, target.length - at));
      target.set(crypto.getRandomValues(part), at);
    }
  }

  #generate(target: Uint8Array): void {
    const word = new DataView(new ArrayBuffer(WORD_BYTES));
    const bytes = new Uint8Array(word.buffer);
    for (let at = 0; at < target.length; at += WORD_BYTES) {
      word.setBigUint64(0, this.#next(), true);
      target.set(bytes.subarray(0, target.length - at), at);
    }
  }

  #next(): bigint {
    this.#state = BigInt.asUintN(64, this.#state + GAMMA);
    let z = this.#state;
    z = BigInt.asUintN(64, (z ^ z >> 30n) * MIX_1);
    z = BigInt.asUintN(64, (z ^ z >> 27n) * MIX_2);
    return z ^ z >> 31n;
  }

  /** The state of the generator: 64 bits. */
  save(): bigint {
    return this.#state;
  }

  /**
   * Goes on from a saved state.
   *
   * @param state 64 bits.
   */
  restore(state: bigint): void {
    this.#state = state;
  }
}
