/**
 * x87 conversions: binary32, binary64, 16/32/64-bit integers and 80-bit packed BCD to and from
 * the 80-bit datum.
 *
 * Intel SDM volume 1, 4.2 (formats), 4.7 (BCD), 8.1.6 and table 8-10 (invalid stores).
 *
 * @module
 */

import { type FpEnv, IE, PE, ROUND_ZERO } from "./env.ts";
import {
  BIAS,
  type F80,
  noteDenormal,
  SIGN,
  unpack,
  UNROUNDED_SHIFT,
  zero,
} from "./f80.ts";
import {
  BINARY32,
  BINARY64,
  bitLength,
  type Format,
  INTEGER_BIT,
  integerMagnitude,
  Kind,
  QUIET_BIT,
  round,
} from "./unpacked.ts";

/** Where a binary interchange format keeps its fields. */
interface Layout {
  readonly format: Format;
  /** Bits of the fraction. */
  readonly fraction: number;
  /** Bits of the whole. */
  readonly width: number;
  readonly bias: number;
  /** Biased exponent of infinities and NaNs. */
  readonly special: number;
}

const LAYOUT32: Layout = {
  format: BINARY32,
  fraction: 23,
  width: 32,
  bias: 127,
  special: 0xff,
};
const LAYOUT64: Layout = {
  format: BINARY64,
  fraction: 52,
  width: 64,
  bias: 1023,
  special: 0x7ff,
};

function widen(bits: bigint, layout: Layout): F80 {
  const sign = Number(bits >> BigInt(layout.width - 1)) << 15;
  const biased = Number(bits >> BigInt(layout.fraction)) & layout.special;
  const fraction = BigInt.asUintN(layout.fraction, bits);
  const align = BigInt(63 - layout.fraction);
  if (biased === layout.special) {
    return { se: sign | 0x7fff, sig: INTEGER_BIT | (fraction << align) };
  }
  if (biased !== 0) {
    const se = sign | (biased - layout.bias + BIAS);
    return { se, sig: INTEGER_BIT | (fraction << align) };
  }
  if (fraction === 0n) return { se: sign, sig: 0n };
  const length = bitLength(fraction);
  const exp = layout.format.emin - layout.fraction + length - 1;
  return {
    se: sign | (exp + BIAS),
    sig: fraction << BigInt(64 - length),
    denormal: true,
  };
}

/**
 * Widens a binary32 memory operand of an arithmetic instruction. Exact; a signaling NaN stays
 * one and a denormal is marked, so that the arithmetic raises IE or DE in its turn.
 *
 * @param bits The operand.
 * @returns The datum.
 */
export function widen32(bits: number): F80 {
  return widen(BigInt(bits >>> 0), LAYOUT32);
}

/**
 * Widens a binary64 memory operand; see {@link widen32}.
 *
 * @param bits The operand, 0 to 2^64 - 1.
 * @returns The datum.
 */
export function widen64(bits: bigint): F80 {
  return widen(bits, LAYOUT64);
}

/** What FLD does with a widened operand: raises IE or DE, quiets a NaN. */
function load(value: F80, env: FpEnv): F80 {
  env.roundedUp = false;
  const a = unpack(value);
  if (a.kind === Kind.SignalingNaN) {
    env.flags |= IE;
    return { se: value.se, sig: value.sig | QUIET_BIT };
  }
  noteDenormal(a, env);
  return { se: value.se, sig: value.sig };
}

/**
 * FLD m32fp. An unmasked DE is reported, yet the operand is loaded.
 *
 * @param bits The operand.
 * @param env The environment.
 * @returns The datum.
 */
export function fromFloat32(bits: number, env: FpEnv): F80 {
  return load(widen32(bits), env);
}

/**
 * FLD m64fp; see {@link fromFloat32}.
 *
 * @param bits The operand, 0 to 2^64 - 1.
 * @param env The environment.
 * @returns The datum.
 */
export function fromFloat64(bits: bigint, env: FpEnv): F80 {
  return load(widen64(bits), env);
}

function narrow(x: F80, layout: Layout, env: FpEnv): bigint {
  const a = unpack(x);
  env.roundedUp = false;
  const sign = a.sign ? 1n << BigInt(layout.width - 1) : 0n;
  const special = BigInt(layout.special) << BigInt(layout.fraction);
  const align = BigInt(63 - layout.fraction);
  switch (a.kind) {
    case Kind.Zero:
      return sign;
    case Kind.Infinity:
      return sign | special;
    case Kind.Unsupported: {
      env.flags |= IE;
      return (1n << BigInt(layout.width - 1)) | special |
        (1n << BigInt(layout.fraction - 1));
    }
    case Kind.SignalingNaN:
    case Kind.QuietNaN: {
      if (a.kind === Kind.SignalingNaN) env.flags |= IE;
      const payload = BigInt.asUintN(63, a.sig | QUIET_BIT) >> align;
      return sign | special | payload;
    }
  }
  const r = round(
    a.sign,
    a.exp,
    a.sig << UNROUNDED_SHIFT,
    layout.format,
    layout.format.precision,
    env,
  );
  const biased = r.sig >= INTEGER_BIT ? r.exp + layout.bias : 0;
  return sign | (BigInt(biased) << BigInt(layout.fraction)) |
    (BigInt.asUintN(63, r.sig) >> align);
}

/**
 * FST m32fp. An unmasked OE or UE leaves the destination unwritten, like the pre-computation
 * exceptions.
 *
 * @param x The datum.
 * @param env The environment.
 * @returns The binary32 encoding.
 */
export function toFloat32(x: F80, env: FpEnv): number {
  return Number(narrow(x, LAYOUT32, env));
}

/**
 * FST m64fp; see {@link toFloat32}.
 *
 * @param x The datum.
 * @param env The environment.
 * @returns The binary64 encoding.
 */
export function toFloat64(x: F80, env: FpEnv): bigint {
  return narrow(x, LAYOUT64, env);
}

/**
 * FILD and the widening of an integer operand: always exact.
 *
 * @param value A signed integer of at most 64 bits.
 * @returns The datum.
 */
export function fromInteger(value: bigint): F80 {
  if (value === 0n) return zero(0);
  const negative = value < 0n;
  const magnitude = negative ? -value : value;
  const length = bitLength(magnitude);
  return {
    se: (negative ? SIGN : 0) | (BIAS + length - 1),
    sig: magnitude << BigInt(64 - length),
  };
}

/**
 * FIST, FISTP and, truncating, FISTTP.
 *
 * @param x The datum.
 * @param width 16, 32 or 64.
 * @param truncate True for FISTTP: round toward zero whatever the control word says.
 * @param env The environment.
 * @returns The signed integer; the integer indefinite (the most negative) with IE.
 */
export function toInteger(
  x: F80,
  width: 16 | 32 | 64,
  truncate: boolean,
  env: FpEnv,
): bigint {
  const a = unpack(x);
  env.roundedUp = false;
  const limit = 1n << BigInt(width - 1);
  if (a.kind === Kind.Zero) return 0n;
  if (a.kind !== Kind.Finite || a.exp >= width) {
    env.flags |= IE;
    return -limit;
  }
  const rounding = truncate ? ROUND_ZERO : env.rounding;
  const { magnitude, inexact, up } = integerMagnitude(a, rounding);
  if (magnitude > limit || (magnitude === limit && !a.sign)) {
    env.flags |= IE;
    return -limit;
  }
  if (inexact) env.flags |= PE;
  env.roundedUp = up;
  return a.sign ? -magnitude : magnitude;
}

/** Decimal digits of the packed BCD format. */
const BCD_DIGITS = 18;
const BCD_LIMIT = 10n ** BigInt(BCD_DIGITS);
/** The packed BCD indefinite: FFFF C000000000000000. */
const BCD_INDEFINITE = 0xffffc000000000000000n;
const BCD_SIGN = 1n << 79n;

/**
 * FBLD: eighteen digits and a sign; always exact. Nibbles above 9 count as their value.
 *
 * @param bits The 80 bits.
 * @returns The datum.
 */
export function fromBcd(bits: bigint): F80 {
  let value = 0n;
  for (let digit = BCD_DIGITS - 1; digit >= 0; digit--) {
    value = value * 10n + ((bits >> BigInt(digit * 4)) & 0xfn);
  }
  const negative = (bits & BCD_SIGN) !== 0n;
  if (value === 0n) return zero(negative ? 1 : 0);
  return fromInteger(negative ? -value : value);
}

/**
 * FBSTP.
 *
 * @param x The datum.
 * @param env The environment.
 * @returns The 80 bits of the packed BCD integer; the packed BCD indefinite with IE.
 */
export function toBcd(x: F80, env: FpEnv): bigint {
  const a = unpack(x);
  env.roundedUp = false;
  const sign = a.sign ? BCD_SIGN : 0n;
  if (a.kind === Kind.Zero) return sign;
  if (a.kind !== Kind.Finite || a.exp >= 64) {
    env.flags |= IE;
    return BCD_INDEFINITE;
  }
  const { magnitude, inexact, up } = integerMagnitude(a, env.rounding);
  if (magnitude >= BCD_LIMIT) {
    env.flags |= IE;
    return BCD_INDEFINITE;
  }
  if (inexact) env.flags |= PE;
  env.roundedUp = up;
  return sign | BigInt("0x" + magnitude.toString());
}
