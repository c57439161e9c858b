/**
 * x87 arithmetic on 80-bit data: everything but conversions (convert80.ts) and the
 * transcendental functions (transcendental.ts), which this module exports too.
 *
 * Intel SDM volume 1, chapter 8 (8.3 instructions, 8.5 exceptions); volume 2 for FPREM,
 * FPREM1, FSCALE, FXTRACT and FRNDINT.
 *
 * Each function takes an environment (env.ts), adds to its `flags` what the operation raises
 * and sets `roundedUp`.
 *
 * @module
 */

import { DE, type FpEnv, IE, PE, ROUND_DOWN, ZE } from "./env.ts";
import {
  addFinite,
  divideFinite,
  multiplyFinite,
  sqrtFinite,
} from "./kernel.ts";
import {
  EXTENDED80,
  INTEGER_BIT,
  integerMagnitude,
  Kind,
  normalize,
  round,
  type Unpacked,
} from "./unpacked.ts";
import {
  BIAS,
  EXPONENT_MASK,
  type F80,
  infinity,
  invalid,
  noteDenormal,
  pack,
  propagate1,
  propagate2,
  roundPack,
  SIGN,
  unpack,
  UNROUNDED_SHIFT,
  zero,
} from "./f80.ts";

export {
  BIAS,
  DEFAULT_NAN,
  EXPONENT_MASK,
  type F80,
  INFINITY,
  infinity,
  ONE,
  SIGN,
  ZERO,
  zero,
} from "./f80.ts";
export * from "./convert80.ts";
export * from "./transcendental.ts";

/** The results of a comparison. */
export const LESS = -1;
/** Operands are equal (zeros of either sign are). */
export const EQUAL = 0;
/** The first operand is greater. */
export const GREATER = 1;
/** At least one operand is a NaN or unsupported. */
export const UNORDERED = 2;
/** What a comparison returns. */
export type Relation = -1 | 0 | 1 | 2;

/** An exactly zero sum is negative only when rounding down. */
function zeroSum(env: FpEnv): F80 {
  return zero(env.rounding === ROUND_DOWN ? 1 : 0);
}

function addOrSubtract(x: F80, y: F80, negate: number, env: FpEnv): F80 {
  const a = unpack(x), b = unpack(y);
  env.roundedUp = false;
  if (a.kind === Kind.Finite && b.kind === Kind.Finite) {
    if (a.denormal || b.denormal) env.flags |= DE;
    const sum = addFinite(a, b, negate);
    if (sum.sig === 0n) return zeroSum(env);
    return roundPack(sum, env, env.precision);
  }
  if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
    return propagate2(x, y, a, b, env);
  }
  const signB = b.sign ^ negate;
  if (a.kind === Kind.Infinity) {
    if (b.kind === Kind.Infinity && a.sign !== signB) return invalid(env);
    noteDenormal(b, env);
    return infinity(a.sign);
  }
  noteDenormal(a, env);
  if (b.kind === Kind.Infinity) return infinity(signB);
  noteDenormal(b, env);
  if (a.kind === Kind.Finite) return reround(a, a.sign, env);
  if (b.kind === Kind.Finite) return reround(b, signB, env);
  return a.sign === signB ? zero(a.sign) : zeroSum(env);
}

/** A finite operand that becomes the result is still rounded to the precision. */
function reround(a: Unpacked, sign: number, env: FpEnv): F80 {
  return pack(
    round(
      sign,
      a.exp,
      a.sig << UNROUNDED_SHIFT,
      EXTENDED80,
      env.precision,
      env,
    ),
  );
}

/**
 * FADD.
 *
 * @param x Augend.
 * @param y Addend.
 * @param env The environment.
 * @returns x + y.
 */
export function add(x: F80, y: F80, env: FpEnv): F80 {
  return addOrSubtract(x, y, 0, env);
}

/**
 * FSUB.
 *
 * @param x Minuend.
 * @param y Subtrahend.
 * @param env The environment.
 * @returns x - y.
 */
export function sub(x: F80, y: F80, env: FpEnv): F80 {
  return addOrSubtract(x, y, 1, env);
}

/**
 * FMUL.
 *
 * @param x Multiplicand.
 * @param y Multiplier.
 * @param env The environment.
 * @returns x × y.
 */
export function mul(x: F80, y: F80, env: FpEnv): F80 {
  const a = unpack(x), b = unpack(y);
  env.roundedUp = false;
  if (a.kind === Kind.Finite && b.kind === Kind.Finite) {
    if (a.denormal || b.denormal) env.flags |= DE;
    return roundPack(multiplyFinite(a, b), env, env.precision);
  }
  if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
    return propagate2(x, y, a, b, env);
  }
  const sign = a.sign ^ b.sign;
  if (a.kind === Kind.Infinity || b.kind === Kind.Infinity) {
    if (a.kind === Kind.Zero || b.kind === Kind.Zero) return invalid(env);
    if (a.denormal || b.denormal) env.flags |= DE;
    return infinity(sign);
  }
  if (a.denormal || b.denormal) env.flags |= DE;
  return zero(sign);
}

/**
 * FDIV.
 *
 * @param x Dividend.
 * @param y Divisor.
 * @param env The environment.
 * @returns x ÷ y.
 */
export function div(x: F80, y: F80, env: FpEnv): F80 {
  const a = unpack(x), b = unpack(y);
  env.roundedUp = false;
  if (a.kind === Kind.Finite && b.kind === Kind.Finite) {
    if (a.denormal || b.denormal) env.flags |= DE;
    return roundPack(divideFinite(a, b), env, env.precision);
  }
  if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
    return propagate2(x, y, a, b, env);
  }
  const sign = a.sign ^ b.sign;
  if (a.kind === Kind.Infinity) {
    if (b.kind === Kind.Infinity) return invalid(env);
    noteDenormal(b, env);
    return infinity(sign);
  }
  if (b.kind === Kind.Zero) {
    if (a.kind === Kind.Zero) return invalid(env);
    env.flags |= ZE;
    return infinity(sign);
  }
  if (a.denormal || b.denormal) env.flags |= DE;
  return zero(sign); // 0 ÷ finite, 0 ÷ ∞ or finite ÷ ∞
}

/**
 * FSQRT.
 *
 * @param x Radicand.
 * @param env The environment.
 * @returns The square root of x; -0 for -0.
 */
export function sqrt(x: F80, env: FpEnv): F80 {
  const a = unpack(x);
  env.roundedUp = false;
  if (a.kind >= Kind.QuietNaN) return propagate1(x, a, env);
  if (a.kind === Kind.Zero) return x;
  if (a.sign) return invalid(env);
  if (a.kind === Kind.Infinity) return x;
  noteDenormal(a, env);
  return roundPack(sqrtFinite(a), env, env.precision);
}

/**
 * FCHS: flips the sign of any 80 bits.
 *
 * @param x The operand.
 * @returns -x.
 */
export function negate(x: F80): F80 {
  return { se: x.se ^ SIGN, sig: x.sig };
}

/**
 * FABS: clears the sign of any 80 bits.
 *
 * @param x The operand.
 * @returns |x|.
 */
export function abs(x: F80): F80 {
  return { se: x.se & EXPONENT_MASK, sig: x.sig };
}

/**
 * FCOM and FUCOM.
 *
 * @param x First operand.
 * @param y Second operand.
 * @param quietly True for FUCOM: a quiet NaN is not an invalid operation.
 * @param env The environment.
 * @returns The relation of x to y.
 */
export function compare(
  x: F80,
  y: F80,
  quietly: boolean,
  env: FpEnv,
): Relation {
  const a = unpack(x), b = unpack(y);
  env.roundedUp = false;
  if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
    if (!quietly || a.kind > Kind.QuietNaN || b.kind > Kind.QuietNaN) {
      env.flags |= IE;
    }
    return UNORDERED;
  }
  if (a.denormal || b.denormal) env.flags |= DE;
  return compareNumbers(a, b);
}

/**
 * Orders two operands that are numbers.
 *
 * @param a First operand.
 * @param b Second operand.
 * @returns The relation of a to b.
 */
export function compareNumbers(a: Unpacked, b: Unpacked): -1 | 0 | 1 {
  if (a.kind === Kind.Zero && b.kind === Kind.Zero) return EQUAL;
  if (a.kind === Kind.Zero) return b.sign ? GREATER : LESS;
  if (b.kind === Kind.Zero || a.sign !== b.sign) return a.sign ? LESS : GREATER;
  const larger = a.sign ? LESS : GREATER;
  if (a.kind !== b.kind) {
    return a.kind === Kind.Infinity ? larger : a.sign ? GREATER : LESS;
  }
  if (a.kind === Kind.Infinity) return EQUAL;
  if (a.exp === b.exp && a.sig === b.sig) return EQUAL;
  const aLarger = a.exp > b.exp || (a.exp === b.exp && a.sig > b.sig);
  return aLarger ? larger : a.sign ? GREATER : LESS;
}

/**
 * FRNDINT.
 *
 * @param x The operand.
 * @param env The environment; `rounding` decides the direction.
 * @returns The nearest integer in that direction.
 */
export function roundToInteger(x: F80, env: FpEnv): F80 {
  const a = unpack(x);
  env.roundedUp = false;
  if (a.kind >= Kind.QuietNaN) return propagate1(x, a, env);
  if (a.kind !== Kind.Finite) return x;
  noteDenormal(a, env);
  if (a.exp >= 63) return x;
  const { magnitude, inexact, up } = integerMagnitude(a, env.rounding);
  if (inexact) env.flags |= PE;
  env.roundedUp = up;
  if (magnitude === 0n) return zero(a.sign);
  const normal = normalize(magnitude);
  const exp = normal.bits - 1;
  return {
    se: (a.sign << 15) | (exp + BIAS),
    sig: normal.sig >> UNROUNDED_SHIFT,
  };
}

/** What FPREM and FPREM1 return. */
export interface RemainderResult {
  readonly value: F80;
  /** The low three bits of the quotient; 0 while incomplete. */
  readonly quotient: number;
  /** C2: the reduction is incomplete. */
  readonly incomplete: boolean;
}

/** Exponent difference from which one FPREM does not complete. */
const REDUCTION_LIMIT = 64;
/**
 * One incomplete reduction takes `D - N` bits off, with N chosen so that D - N is a multiple of
 * this and N within the 32 to 63 that the SDM allows.
 */
const REDUCTION_STEP = 32;

/**
 * FPREM and FPREM1.
 *
 * @param x Dividend, ST(0).
 * @param y Modulus, ST(1).
 * @param nearest True for FPREM1: the quotient is rounded to nearest instead of truncated.
 * @param env The environment.
 * @returns The remainder, or a partial one to go on with.
 */
export function remainder(
  x: F80,
  y: F80,
  nearest: boolean,
  env: FpEnv,
): RemainderResult {
  const a = unpack(x), b = unpack(y);
  env.roundedUp = false;
  const done = (value: F80): RemainderResult => ({
    value,
    quotient: 0,
    incomplete: false,
  });
  if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
    return done(propagate2(x, y, a, b, env));
  }
  if (a.kind === Kind.Infinity || b.kind === Kind.Zero) {
    return done(invalid(env));
  }
  if (a.denormal || b.denormal) env.flags |= DE;
  if (a.kind === Kind.Zero || b.kind === Kind.Infinity) {
    return done(a.kind === Kind.Finite ? exact(a.sign, a.exp, a.sig, env) : x);
  }
  const distance = a.exp - b.exp;
  if (distance < -1) return done(exact(a.sign, a.exp, a.sig, env));
  if (distance >= REDUCTION_LIMIT) {
    const n = REDUCTION_STEP + (distance % REDUCTION_STEP);
    const rest = (a.sig << BigInt(n)) % b.sig;
    const value = rest === 0n
      ? zero(a.sign)
      : exact(a.sign, b.exp + distance - n, rest, env);
    return { value, quotient: 0, incomplete: true };
  }
  // Both on the scale of the smaller exponent, so that the division is one of integers.
  const dividend = distance >= 0 ? a.sig << BigInt(distance) : a.sig;
  const divisor = distance >= 0 ? b.sig : b.sig << 1n;
  const scale = distance >= 0 ? b.exp : a.exp;
  let quotient = dividend / divisor;
  let rest = dividend - quotient * divisor;
  let sign = a.sign;
  if (nearest) {
    const twice = rest << 1n;
    if (twice > divisor || (twice === divisor && (quotient & 1n) === 1n)) {
      quotient += 1n;
      rest = divisor - rest;
      sign ^= 1;
    }
  }
  const value = rest === 0n ? zero(a.sign) : exact(sign, scale, rest, env);
  return { value, quotient: Number(quotient & 7n), incomplete: false };
}

/** Encodes `sig * 2^(exp - 63)`, which is exact; raises UE if that is unmasked and it is tiny. */
function exact(sign: number, exp: number, sig: bigint, env: FpEnv): F80 {
  const normal = normalize(sig);
  const top = exp + normal.bits - 64;
  return pack(round(sign, top, normal.sig, EXTENDED80, 64, env));
}

/** Beyond this, FSCALE over- or underflows whatever the operand. */
const SCALE_LIMIT = 0x10000;

/**
 * FSCALE.
 *
 * @param x The operand, ST(0).
 * @param y The scale, ST(1), truncated to an integer.
 * @param env The environment.
 * @returns x × 2^trunc(y).
 */
export function scale(x: F80, y: F80, env: FpEnv): F80 {
  const a = unpack(x), b = unpack(y);
  env.roundedUp = false;
  if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
    return propagate2(x, y, a, b, env);
  }
  if (b.kind === Kind.Infinity) {
    if (b.sign ? a.kind === Kind.Infinity : a.kind === Kind.Zero) {
      return invalid(env);
    }
    noteDenormal(a, env);
    return b.sign ? zero(a.sign) : infinity(a.sign);
  }
  if (a.denormal || b.denormal) env.flags |= DE;
  if (a.kind !== Kind.Finite) return x;
  let steps = 0;
  if (b.kind === Kind.Finite && b.exp >= 0) {
    steps = b.exp > 16 ? SCALE_LIMIT : Number(b.sig >> BigInt(63 - b.exp));
    if (b.sign) steps = -steps;
  }
  return pack(
    round(a.sign, a.exp + steps, a.sig << UNROUNDED_SHIFT, EXTENDED80, 64, env),
  );
}

/**
 * FXTRACT.
 *
 * @param x The operand.
 * @param env The environment.
 * @returns The exponent (to replace ST(0)) and the significand (to be pushed).
 */
export function extract(
  x: F80,
  env: FpEnv,
): { exponent: F80; significand: F80 } {
  const a = unpack(x);
  env.roundedUp = false;
  if (a.kind >= Kind.QuietNaN) {
    const nan = propagate1(x, a, env);
    return { exponent: nan, significand: nan };
  }
  if (a.kind === Kind.Infinity) {
    return { exponent: infinity(0), significand: x };
  }
  if (a.kind === Kind.Zero) {
    env.flags |= ZE;
    return { exponent: infinity(1), significand: x };
  }
  noteDenormal(a, env);
  return {
    exponent: smallInteger(a.exp),
    significand: { se: (a.sign << 15) | BIAS, sig: a.sig },
  };
}

/** Encodes an integer of at most 32 bits. */
function smallInteger(value: number): F80 {
  if (value === 0) return zero(0);
  const magnitude = Math.abs(value);
  const exp = 31 - Math.clz32(magnitude);
  const sig = BigInt(magnitude) << BigInt(63 - exp);
  return { se: (value < 0 ? SIGN : 0) | (exp + BIAS), sig };
}

/** What FXAM finds, as C3, C2 and C0 encode it. */
export const FXAM_UNSUPPORTED = 0b000;
/** NaN. */
export const FXAM_NAN = 0b001;
/** Normal number. */
export const FXAM_NORMAL = 0b010;
/** Infinity. */
export const FXAM_INFINITY = 0b011;
/** Zero. */
export const FXAM_ZERO = 0b100;
/** Empty register. */
export const FXAM_EMPTY = 0b101;
/** Denormal number. */
export const FXAM_DENORMAL = 0b110;

/**
 * FXAM of a register that is not empty.
 *
 * @param x The operand.
 * @returns C3, C2 and C0 as bits 2, 1 and 0.
 */
export function examine(x: F80): number {
  const biased = x.se & EXPONENT_MASK;
  if (biased === 0) return x.sig === 0n ? FXAM_ZERO : FXAM_DENORMAL;
  if (x.sig < INTEGER_BIT) return FXAM_UNSUPPORTED;
  if (biased === EXPONENT_MASK) {
    return x.sig === INTEGER_BIT ? FXAM_INFINITY : FXAM_NAN;
  }
  return FXAM_NORMAL;
}
