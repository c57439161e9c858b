/**
 * Exact arithmetic on finite, unpacked numbers: every function returns an unrounded
 * significand (see unpacked.ts) that {@link round} then fits to a format. The rules for zeros,
 * infinities and NaNs are those of the instruction sets and live in float80.ts and binary.ts.
 *
 * @module
 */

import {
  bitLength,
  shiftRightJam,
  type Unpacked,
  UNROUNDED_MSB,
} from "./unpacked.ts";

/** An unrounded number: `sig` has its leading bit at {@link UNROUNDED_MSB}; 0 is zero. */
export interface Unrounded {
  readonly sign: number;
  readonly exp: number;
  readonly sig: bigint;
}

const CARRY = 1n << BigInt(UNROUNDED_MSB + 1);
const LEADING = 1n << BigInt(UNROUNDED_MSB);
const HALF_LEADING = LEADING >> 1n;

/** Bits beyond which an aligned addend is nothing but a sticky bit. */
const FAR = UNROUNDED_MSB + 2;

/**
 * Adds two finite numbers that are not zero.
 *
 * @param a Augend.
 * @param b Addend.
 * @param negateB 1 to subtract.
 * @returns The unrounded sum; `sig` is 0n if it is exactly zero.
 */
export function addFinite(
  a: Unpacked,
  b: Unpacked,
  negateB: number,
): Unrounded {
  const signB = b.sign ^ negateB;
  let big = a, small = b, sign = a.sign;
  if (b.exp > a.exp || (b.exp === a.exp && b.sig > a.sig)) {
    big = b;
    small = a;
    sign = signB;
  }
  const distance = big.exp - small.exp;
  let exp = big.exp;
  let sig = big.sig << 3n;
  const addend = distance === 0
    ? small.sig << 3n
    : distance > FAR
    ? 1n
    : shiftRightJam(small.sig << 3n, distance);
  if (a.sign === signB) {
    sig += addend;
    if (sig >= CARRY) {
      sig = (sig >> 1n) | (sig & 1n);
      exp++;
    }
    return { sign, exp, sig };
  }
  sig -= addend;
  if (sig >= LEADING) return { sign, exp, sig };
  if (sig >= HALF_LEADING) return { sign, exp: exp - 1, sig: sig << 1n };
  if (sig === 0n) return { sign: 0, exp: 0, sig };
  const shift = UNROUNDED_MSB + 1 - bitLength(sig);
  return { sign, exp: exp - shift, sig: sig << BigInt(shift) };
}

/** A product of two significands has its leading bit at 127 or one below. */
const PRODUCT_TOP = 1n << 127n;
const PRODUCT_DROP = 127 - UNROUNDED_MSB;

/**
 * Multiplies two finite numbers that are not zero.
 *
 * @param a Multiplicand.
 * @param b Multiplier.
 * @returns The unrounded product.
 */
export function multiplyFinite(a: Unpacked, b: Unpacked): Unrounded {
  const product = a.sig * b.sig;
  const high = product >= PRODUCT_TOP;
  return {
    sign: a.sign ^ b.sign,
    exp: a.exp + b.exp + (high ? 1 : 0),
    sig: shiftRightJam(product, high ? PRODUCT_DROP : PRODUCT_DROP - 1),
  };
}

const QUOTIENT_SHIFT = BigInt(UNROUNDED_MSB);

/**
 * Divides two finite numbers that are not zero.
 *
 * @param a Dividend.
 * @param b Divisor.
 * @returns The unrounded quotient.
 */
export function divideFinite(a: Unpacked, b: Unpacked): Unrounded {
  const below = a.sig < b.sig;
  const dividend = a.sig << (below ? QUOTIENT_SHIFT + 1n : QUOTIENT_SHIFT);
  const quotient = dividend / b.sig;
  return {
    sign: a.sign ^ b.sign,
    exp: a.exp - b.exp - (below ? 1 : 0),
    sig: quotient * b.sig === dividend ? quotient : quotient | 1n,
  };
}

/**
 * Integer square root.
 *
 * @param value A non-negative integer.
 * @returns The largest integer whose square is not above `value`.
 */
export function integerSqrt(value: bigint): bigint {
  if (value < 1n << 52n) return BigInt(Math.floor(Math.sqrt(Number(value))));
  const bits = bitLength(value);
  const drop = Math.max(0, bits - 104) & ~1;
  let root = BigInt(Math.floor(Math.sqrt(Number(value >> BigInt(drop))))) <<
    BigInt(drop >> 1);
  for (;;) {
    const next = (root + value / root) >> 1n;
    const delta = next - root;
    root = next;
    if (delta >= -1n && delta <= 1n) break;
  }
  while (root * root > value) root -= 1n;
  while ((root + 1n) * (root + 1n) <= value) root += 1n;
  return root;
}

/**
 * Square root of a positive finite number.
 *
 * @param a The radicand.
 * @returns The unrounded root.
 */
export function sqrtFinite(a: Unpacked): Unrounded {
  const odd = a.exp & 1;
  const radicand = a.sig << BigInt(2 * UNROUNDED_MSB - 63 + odd);
  const root = integerSqrt(radicand);
  return {
    sign: 0,
    exp: (a.exp - odd) / 2,
    sig: root * root === radicand ? root : root | 1n,
  };
}
