/**
 * Numbers taken apart, and the one rounding routine that puts them together again.
 *
 * Every format (binary32, binary64, double extended) unpacks to the same shape: a class, a
 * sign, the exponent of the leading bit, and a 64-bit significand whose bit 63 is set.
 * Arithmetic produces an unrounded significand with three more bits (guard, round, sticky);
 * {@link round} makes it fit a format, with the masked and unmasked responses of
 * Intel SDM volume 1, 4.9.1 (exception conditions) and 8.5 (x87 responses).
 *
 * @module
 */

import {
  type FpEnv,
  OE,
  PE,
  ROUND_DOWN,
  ROUND_NEAREST,
  ROUND_UP,
  type Rounding,
  UE,
} from "./env.ts";

/** What a datum is. The order matters: everything from `QNAN` up is not a number. */
export const enum Kind {
  Zero,
  Finite,
  Infinity,
  QuietNaN,
  SignalingNaN,
  /** An x87 encoding that no operation accepts (unnormal, pseudo-infinity, pseudo-NaN). */
  Unsupported,
}

/** A datum taken apart. For NaNs, `sig` holds the payload with the quiet bit at bit 62. */
export interface Unpacked {
  readonly kind: Kind;
  /** 0 positive, 1 negative. */
  readonly sign: number;
  /** Finite: the value is `sig * 2^(exp - 63)`, with bit 63 of `sig` set. */
  readonly exp: number;
  readonly sig: bigint;
  /** The operand was denormal (or pseudo-denormal): using it raises DE. */
  readonly denormal: boolean;
}

/** A rounded result: bit 63 of `sig` clear means denormal (or zero), `exp` > emax infinity. */
export interface Rounded {
  readonly sign: number;
  readonly exp: number;
  readonly sig: bigint;
}

/** The parameters of a format. */
export interface Format {
  /** Bits of precision, the integer bit included. */
  readonly precision: 24 | 53 | 64;
  /** Exponent of the smallest normal number. */
  readonly emin: number;
  /** Exponent of the largest finite numbers. */
  readonly emax: number;
  /** What an unmasked overflow subtracts from, and an underflow adds to, the exponent. */
  readonly biasAdjust: number;
}

/** IEEE 754 binary32. */
export const BINARY32: Format = {
  precision: 24,
  emin: -126,
  emax: 127,
  biasAdjust: 192,
};
/** IEEE 754 binary64. */
export const BINARY64: Format = {
  precision: 53,
  emin: -1022,
  emax: 1023,
  biasAdjust: 1536,
};
/** x87 double extended. */
export const EXTENDED80: Format = {
  precision: 64,
  emin: -16382,
  emax: 16383,
  biasAdjust: 3 << 13,
};

/** The integer bit of a 64-bit significand. */
export const INTEGER_BIT = 1n << 63n;
/** The bit that makes a NaN quiet. */
export const QUIET_BIT = 1n << 62n;
/** Position of the leading bit of an unrounded significand: 64 bits and three more. */
export const UNROUNDED_MSB = 66;

const SHIFTS: bigint[] = Array.from({ length: 160 }, (_, i) => BigInt(i));
const POWERS: bigint[] = Array.from({ length: 160 }, (_, i) => 1n << BigInt(i));

/**
 * Number of bits of a non-negative integer.
 *
 * @param value The integer.
 * @returns 0 for zero, else the index of the leading one plus one.
 */
export function bitLength(value: bigint): number {
  let bits = 0;
  while (value >= 0x1_0000_0000_0000_0000n) {
    const digits = value.toString(16).length;
    const drop = (digits - 1) * 4;
    bits += drop;
    value >>= BigInt(drop);
  }
  const high = Number(value >> 32n);
  if (high !== 0) return bits + 64 - Math.clz32(high);
  return bits + 32 - Math.clz32(Number(value));
}

/**
 * Shifts right; the last bit of the result is set if any bit was lost ("jamming").
 *
 * @param value A non-negative integer.
 * @param count How far; negative shifts left.
 * @returns The shifted integer.
 */
export function shiftRightJam(value: bigint, count: number): bigint {
  if (count <= 0) return value << BigInt(-count);
  const n = count < 160 ? SHIFTS[count] : BigInt(count);
  const result = value >> n;
  return BigInt.asUintN(count, value) === 0n ? result : result | 1n;
}

/**
 * Brings any positive integer to the unrounded form.
 *
 * @param sig The significand.
 * @returns The significand with its leading bit at {@link UNROUNDED_MSB}, and the number of
 * bits `sig` had.
 */
export function normalize(sig: bigint): { sig: bigint; bits: number } {
  const bits = bitLength(sig);
  return { sig: shiftRightJam(sig, bits - 1 - UNROUNDED_MSB), bits };
}

/**
 * Whether rounding goes away from zero.
 *
 * @param rounding Rounding control.
 * @param sign Sign of the number.
 * @param odd Whether the kept part is odd.
 * @param dropped The bits dropped.
 * @param half Half of a unit in the last place, on the scale of `dropped`.
 * @returns True if the kept part is to be incremented.
 */
export function roundsUp(
  rounding: Rounding,
  sign: number,
  odd: boolean,
  dropped: bigint,
  half: bigint,
): boolean {
  if (dropped === 0n) return false;
  switch (rounding) {
    case ROUND_NEAREST:
      return dropped > half || (dropped === half && odd);
    case ROUND_DOWN:
      return sign === 1;
    case ROUND_UP:
      return sign === 0;
    default:
      return false;
  }
}

/**
 * Rounds a number to a format and raises OE, UE and PE as the environment says.
 *
 * Tininess is detected after rounding. With the exception unmasked, the exponent is adjusted
 * by the format's bias adjustment (what an x87 register receives; the other destinations are
 * not written then).
 *
 * @param sign Sign.
 * @param exp Exponent of the leading bit.
 * @param sig Significand with its leading bit at {@link UNROUNDED_MSB}, the last bit sticky.
 * @param format Where the number goes; decides the exponent range.
 * @param precision Bits to round to, at most the format's.
 * @param env The environment.
 * @returns The rounded number.
 */
export function round(
  sign: number,
  exp: number,
  sig: bigint,
  format: Format,
  precision: number,
  env: FpEnv,
): Rounded {
  const shift = UNROUNDED_MSB + 1 - precision;
  const dropped = BigInt.asUintN(shift, sig);
  let kept = sig >> SHIFTS[shift];
  let e = exp;
  let up = false;
  if (dropped !== 0n) {
    up = roundsUp(
      env.rounding,
      sign,
      (kept & 1n) === 1n,
      dropped,
      POWERS[shift - 1],
    );
    if (up) {
      kept += 1n;
      if (kept === POWERS[precision]) {
        kept = POWERS[precision - 1];
        e++;
      }
    }
  }
  if (e < format.emin) {
    if (env.masks & UE) {
      return roundTiny(sign, exp, sig, format, precision, env);
    }
    env.flags |= UE;
    e += format.biasAdjust;
    if (e < format.emin && format === EXTENDED80) { // massive underflow: FSCALE only
      env.flags |= PE;
      env.roundedUp = false;
      return { sign, exp: format.emin, sig: 0n };
    }
  } else if (e > format.emax) {
    env.flags |= OE;
    if (env.masks & OE) {
      env.flags |= PE;
      return overflowed(sign, format, precision, env);
    }
    e -= format.biasAdjust;
    if (e > format.emax && format === EXTENDED80) { // massive overflow: FSCALE only
      env.flags |= PE;
      env.roundedUp = true;
      return { sign, exp: format.emax + 1, sig: INTEGER_BIT };
    }
  }
  if (dropped !== 0n) env.flags |= PE;
  env.roundedUp = up;
  return {
    sign,
    exp: e,
    sig: precision === 64 ? kept : kept << SHIFTS[64 - precision],
  };
}

/**
 * Rounds a finite number to an integer, without raising anything.
 *
 * @param a The number.
 * @param rounding The direction.
 * @returns The integer's magnitude, whether it differs, and whether it grew.
 */
export function integerMagnitude(
  a: Unpacked,
  rounding: Rounding,
): { magnitude: bigint; inexact: boolean; up: boolean } {
  if (a.exp >= 63) {
    return {
      magnitude: a.sig << BigInt(a.exp - 63),
      inexact: false,
      up: false,
    };
  }
  // Below one half, only its not being zero matters.
  const shift = a.exp < -1 ? 65 : 63 - a.exp;
  const sig = a.exp < -1 ? 1n : a.sig;
  const dropped = BigInt.asUintN(shift, sig);
  let magnitude = sig >> SHIFTS[shift];
  const up = roundsUp(
    rounding,
    a.sign,
    (magnitude & 1n) === 1n,
    dropped,
    POWERS[shift - 1],
  );
  if (up) magnitude += 1n;
  return { magnitude, inexact: dropped !== 0n, up };
}

/** The masked response to a tiny result: a denormal, or with FTZ a zero. */
function roundTiny(
  sign: number,
  exp: number,
  sig: bigint,
  format: Format,
  precision: number,
  env: FpEnv,
): Rounded {
  if (env.ftz) {
    env.flags |= UE | PE;
    env.roundedUp = false;
    return { sign, exp: format.emin, sig: 0n };
  }
  const shift = UNROUNDED_MSB + 1 - precision;
  const denormal = shiftRightJam(sig, format.emin - exp);
  const dropped = BigInt.asUintN(shift, denormal);
  let kept = denormal >> SHIFTS[shift];
  const up = roundsUp(
    env.rounding,
    sign,
    (kept & 1n) === 1n,
    dropped,
    POWERS[shift - 1],
  );
  if (up) kept += 1n;
  if (dropped !== 0n) env.flags |= UE | PE;
  env.roundedUp = up;
  return { sign, exp: format.emin, sig: kept << SHIFTS[64 - precision] };
}

/** The masked response to overflow: infinity or the largest finite number. */
function overflowed(
  sign: number,
  format: Format,
  precision: number,
  env: FpEnv,
): Rounded {
  const toInfinity = env.rounding === ROUND_NEAREST ||
    env.rounding === (sign ? ROUND_DOWN : ROUND_UP);
  env.roundedUp = toInfinity;
  if (toInfinity) return { sign, exp: format.emax + 1, sig: INTEGER_BIT };
  const ones = (POWERS[precision] - 1n) << SHIFTS[64 - precision];
  return { sign, exp: format.emax, sig: ones };
}
