/**
 * The double extended-precision datum: its encodings, unpacking, packing and NaN rules.
 *
 * Intel SDM volume 1: 4.2.2 (formats), 4.8.3 (encodings), 4.8.3.5 and table 4-7 (NaNs),
 * 8.2.2 (unsupported encodings).
 *
 * @module
 */

import { DE, type FpEnv, IE } from "./env.ts";
import {
  bitLength,
  EXTENDED80,
  INTEGER_BIT,
  Kind,
  QUIET_BIT,
  round,
  type Rounded,
  type Unpacked,
  UNROUNDED_MSB,
} from "./unpacked.ts";
import type { Unrounded } from "./kernel.ts";

/** An 80-bit datum: what FLD m80 reads. */
export interface F80 {
  /** Sign in bit 15, biased exponent in bits 14:0. */
  readonly se: number;
  /** The significand with its explicit integer bit. */
  readonly sig: bigint;
  /** It was widened from a denormal binary32 or binary64: using it raises DE. */
  readonly denormal?: boolean;
}

/** Exponent bias of the format. */
export const BIAS = 16383;
/** The largest biased exponent: infinities and NaNs. */
export const EXPONENT_MASK = 0x7fff;
/** The sign bit of {@link F80.se}. */
export const SIGN = 0x8000;

/** The real indefinite: the NaN of every masked invalid operation. */
export const DEFAULT_NAN: F80 = { se: 0xffff, sig: INTEGER_BIT | QUIET_BIT };
/** +0. */
export const ZERO: F80 = { se: 0, sig: 0n };
/** +1. */
export const ONE: F80 = { se: BIAS, sig: INTEGER_BIT };
/** Plus infinity. */
export const INFINITY: F80 = { se: EXPONENT_MASK, sig: INTEGER_BIT };

/**
 * Zero of a sign.
 *
 * @param sign 0 or 1.
 * @returns The datum.
 */
export function zero(sign: number): F80 {
  return sign ? { se: SIGN, sig: 0n } : ZERO;
}

/**
 * Infinity of a sign.
 *
 * @param sign 0 or 1.
 * @returns The datum.
 */
export function infinity(sign: number): F80 {
  return sign ? { se: SIGN | EXPONENT_MASK, sig: INTEGER_BIT } : INFINITY;
}

/**
 * Takes a datum apart.
 *
 * @param value Any 80 bits.
 * @returns Its class and, if finite, its normalized parts.
 */
export function unpack(value: F80): Unpacked {
  const { se, sig } = value;
  const sign = se >> 15;
  const biased = se & EXPONENT_MASK;
  if (biased === EXPONENT_MASK) {
    if (sig < INTEGER_BIT) {
      return { kind: Kind.Unsupported, sign, exp: 0, sig, denormal: false };
    }
    if (sig === INTEGER_BIT) {
      return { kind: Kind.Infinity, sign, exp: 0, sig, denormal: false };
    }
    const kind = (sig & QUIET_BIT) !== 0n ? Kind.QuietNaN : Kind.SignalingNaN;
    return { kind, sign, exp: 0, sig, denormal: false };
  }
  if (sig >= INTEGER_BIT) {
    if (biased === 0) {
      return { kind: Kind.Finite, sign, exp: 1 - BIAS, sig, denormal: true };
    }
    return {
      kind: Kind.Finite,
      sign,
      exp: biased - BIAS,
      sig,
      denormal: value.denormal === true,
    };
  }
  if (biased !== 0) {
    return { kind: Kind.Unsupported, sign, exp: 0, sig, denormal: false };
  }
  if (sig === 0n) {
    return { kind: Kind.Zero, sign, exp: 0, sig, denormal: false };
  }
  const shift = 64 - bitLength(sig);
  return {
    kind: Kind.Finite,
    sign,
    exp: 1 - BIAS - shift,
    sig: sig << BigInt(shift),
    denormal: true,
  };
}

/**
 * Encodes a number that was rounded to {@link EXTENDED80}.
 *
 * @param value The number.
 * @returns The datum.
 */
export function pack(value: Rounded): F80 {
  const biased = value.sig >= INTEGER_BIT ? value.exp + BIAS : 0;
  return { se: (value.sign << 15) | biased, sig: value.sig };
}

/**
 * Rounds the result of an operation that precision control governs, and encodes it.
 *
 * @param value The unrounded result, not zero.
 * @param env The environment.
 * @param precision Bits to round to: `env.precision`, or 64 for operations it does not govern.
 * @returns The datum.
 */
export function roundPack(
  value: Unrounded,
  env: FpEnv,
  precision: number,
): F80 {
  return pack(
    round(value.sign, value.exp, value.sig, EXTENDED80, precision, env),
  );
}

/**
 * Makes a NaN quiet.
 *
 * @param value A NaN.
 * @returns The datum.
 */
export function quiet(value: F80): F80 {
  return { se: value.se, sig: value.sig | QUIET_BIT };
}

/**
 * Raises IE.
 *
 * @param env The environment.
 * @returns The real indefinite.
 */
export function invalid(env: FpEnv): F80 {
  env.flags |= IE;
  return DEFAULT_NAN;
}

/**
 * Applies the rules for one operand that is a NaN or an unsupported encoding.
 *
 * @param value The operand.
 * @param a The operand unpacked.
 * @param env The environment.
 * @returns The result.
 */
export function propagate1(value: F80, a: Unpacked, env: FpEnv): F80 {
  if (a.kind === Kind.Unsupported) return invalid(env);
  if (a.kind === Kind.SignalingNaN) env.flags |= IE;
  return quiet(value);
}

/**
 * Applies the rules for two operands of which at least one is a NaN or unsupported:
 * a quiet NaN wins over a signaling one, otherwise the larger significand, otherwise the
 * positive one.
 *
 * @param x First operand.
 * @param y Second operand.
 * @param a First operand unpacked.
 * @param b Second operand unpacked.
 * @param env The environment.
 * @returns The result.
 */
export function propagate2(
  x: F80,
  y: F80,
  a: Unpacked,
  b: Unpacked,
  env: FpEnv,
): F80 {
  if (a.kind === Kind.Unsupported || b.kind === Kind.Unsupported) {
    return invalid(env);
  }
  const signalsA = a.kind === Kind.SignalingNaN,
    signalsB = b.kind === Kind.SignalingNaN;
  if (signalsA || signalsB) env.flags |= IE;
  if (b.kind < Kind.QuietNaN) return quiet(x);
  if (a.kind < Kind.QuietNaN) return quiet(y);
  if (signalsA !== signalsB) return signalsA ? y : x;
  if (a.sig !== b.sig) return quiet(a.sig > b.sig ? x : y);
  return quiet(a.sign <= b.sign ? x : y);
}

/**
 * Raises DE if an operand was denormal.
 *
 * @param a The operand.
 * @param env The environment.
 */
export function noteDenormal(a: Unpacked, env: FpEnv): void {
  if (a.denormal) env.flags |= DE;
}

/** Shifts a 64-bit significand to the unrounded form. */
export const UNROUNDED_SHIFT = BigInt(UNROUNDED_MSB - 63);
