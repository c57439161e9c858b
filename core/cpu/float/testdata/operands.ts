/**
 * Operands that find faults: a seeded stream of floating-point data that favours the edges of
 * each format (zeros, denormals, powers of two, the largest numbers, NaNs, invalid encodings)
 * and numbers near to one another.
 *
 * @module
 */

import type { Datum } from "./host_fpu.ts";

/** A seeded stream of operands. */
export class Operands {
  #state: bigint;

  /**
   * @param seed Where the stream starts.
   */
  constructor(seed: number) {
    this.#state = BigInt.asUintN(64, BigInt(seed) * 0x9e3779b97f4a7c15n + 1n);
  }

  /**
   * The next 64 random bits (splitmix64).
   *
   * @returns Them.
   */
  next(): bigint {
    this.#state = BigInt.asUintN(64, this.#state + 0x9e3779b97f4a7c15n);
    let z = this.#state;
    z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
    z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
    return z ^ (z >> 31n);
  }

  /**
   * A number below `n`.
   *
   * @param n The bound.
   * @returns The number.
   */
  below(n: number): number {
    return Number(this.next() % BigInt(n));
  }

  /**
   * One of a list.
   *
   * @param list The list.
   * @returns The element.
   */
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)];
  }

  /** A fraction of `bits` bits: often sparse, all ones or nearly so. */
  #fraction(bits: number): bigint {
    const all = (1n << BigInt(bits)) - 1n;
    switch (this.below(8)) {
      case 0:
        return 0n;
      case 1:
        return all;
      case 2:
        return 1n << BigInt(this.below(bits));
      case 3:
        return all ^ ((1n << BigInt(this.below(bits))) - 1n);
      case 4:
        return BigInt(this.below(16));
      case 5:
        return all - BigInt(this.below(16));
      case 6:
        return BigInt.asUintN(bits, this.next() << BigInt(this.below(bits)));
      default:
        return BigInt.asUintN(bits, this.next());
    }
  }

  /** A biased exponent of a format. */
  #exponent(bias: number): number {
    const special = 2 * bias + 1;
    switch (this.below(10)) {
      case 0:
        return this.pick([0, special]);
      case 1:
        return this.pick([1, 2, special - 1, special - 2]);
      case 2:
        return this.below(special + 1);
      case 3:
        return Math.min(this.below(70), special);
      case 4:
        return special - Math.min(this.below(70), special);
      case 5:
        return Math.min(Math.max(bias + this.below(140) - 70, 0), special);
      case 6:
        return bias >> 1;
      default:
        return bias + this.below(9) - 4;
    }
  }

  /**
   * Any 80 bits.
   *
   * @returns The datum.
   */
  f80(): Datum {
    const se = this.#exponent(16383) | (this.below(2) << 15);
    const integer = (se & 0x7fff) === 0
      ? this.below(16) === 0
      : this.below(40) !== 0;
    return { se, sig: this.#fraction(63) | (integer ? 1n << 63n : 0n) };
  }

  /**
   * Any 64 bits.
   *
   * @returns The binary64.
   */
  f64(): bigint {
    const exponent = BigInt(this.#exponent(1023) | (this.below(2) << 11));
    return (exponent << 52n) | this.#fraction(52);
  }

  /**
   * Any 32 bits.
   *
   * @returns The binary32.
   */
  f32(): bigint {
    const exponent = BigInt(this.#exponent(127) | (this.below(2) << 8));
    return (exponent << 23n) | this.#fraction(23);
  }

  /**
   * A datum close to another, or unrelated to it.
   *
   * @param x The other.
   * @returns The datum.
   */
  near80(x: Datum): Datum {
    if (this.below(3) !== 0) return this.f80();
    const exponent = Math.min(
      Math.max((x.se & 0x7fff) + this.below(7) - 3, 0),
      0x7fff,
    );
    const sig = this.below(2)
      ? x.sig
      : BigInt.asUintN(64, x.sig + BigInt(this.below(9)) - 4n);
    return { se: exponent | (this.below(2) << 15), sig };
  }
}
