/**
 * The x87 transcendental functions and constants, in fixed-point integers with more than 64
 * bits to spare, so that each result is the correctly rounded one except in cases closer to a
 * rounding boundary than 2^-60 of a unit.
 *
 * Intel SDM volume 1: 8.3.4 (constants), 8.3.7 to 8.3.10 (trigonometric, logarithmic,
 * accuracy: the 66-bit pi of argument reduction); volume 2 for the special cases of each.
 *
 * The result of a function that is not trivially exact always raises PE, as processors do.
 *
 * @module
 */

import {
  type FpEnv,
  PE,
  ROUND_DOWN,
  ROUND_NEAREST,
  ROUND_UP,
  ROUND_ZERO,
  UE,
  ZE,
} from "./env.ts";
import {
  BIAS,
  EXPONENT_MASK,
  type F80,
  infinity,
  invalid,
  noteDenormal,
  ONE,
  propagate1,
  propagate2,
  roundPack,
  SIGN,
  unpack,
  zero,
} from "./f80.ts";
import {
  EXTENDED80,
  INTEGER_BIT,
  Kind,
  normalize,
  round,
  type Unpacked,
} from "./unpacked.ts";

/** Fraction bits of the constants below. */
const CONSTANT_BITS = 320;
const PI =
  0x3243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89452821e638d01377n;
const LN2 =
  0xb17217f7d1cf79abc9e3b39803f2f6af40f343267298b62d8a0d175b8baafa2be7b876206debac98n;
const LOG2E =
  0x171547652b82fe1777d0ffda0d23a7d11d6aef551bad2b4b1164a2cd9a342648fbc3887eeaa2ed9acn;
const LOG2_10 =
  0x35269e12f346e2bf924afdbfd36bf6d3365b157f8deceb53a46dab2020b9e167419943f7a77547ce8n;
const LOG10_2 =
  0x4d104d427de7fbcc47c4acd605be48bc13569862a1e8f9a4c52f37935be631e5943516c0c8cfd5e8n;

/** A constant with `bits` fraction bits. */
function at(constant: bigint, bits: number): bigint {
  return constant >> BigInt(CONSTANT_BITS - bits);
}

/** The bits of accuracy that every function keeps below the leading bit of its result. */
const WORKING_BITS = 136;
/** Below 2^-this a function equals the first term of its series, to 64 bits and more. */
const TINY = 72;

/** Rounds `magnitude * 2^-scale`, an approximation and so inexact, to the format. */
function finish(
  sign: number,
  magnitude: bigint,
  scale: number,
  env: FpEnv,
): F80 {
  const { sig, bits } = normalize(magnitude);
  env.flags |= PE;
  return roundPack({ sign, exp: bits - 1 - scale, sig: sig | 1n }, env, 64);
}

/** Like {@link finish}, of a number that may be negative. */
function finishSigned(value: bigint, scale: number, env: FpEnv): F80 {
  return value < 0n
    ? finish(1, -value, scale, env)
    : finish(0, value, scale, env);
}

/** A finite operand as a fixed-point magnitude; exact if `scale >= 63 - exp`. */
function fixed(a: Unpacked, scale: number): bigint {
  const shift = scale + a.exp - 63;
  return shift >= 0 ? a.sig << BigInt(shift) : a.sig >> BigInt(-shift);
}

/** A constant rounded as the rounding control says. */
function constant(value: bigint, env: FpEnv): F80 {
  const { sig, bits } = normalize(value);
  const quiet: FpEnv = { ...env };
  const r = round(0, bits - 1 - CONSTANT_BITS, sig | 1n, EXTENDED80, 64, quiet);
  return { se: r.exp + BIAS, sig: r.sig };
}

/** One constant by rounding control; they never change. */
function constants(
  value: bigint,
  env: (rounding: 0 | 1 | 2 | 3) => FpEnv,
): readonly F80[] {
  const modes = [ROUND_NEAREST, ROUND_DOWN, ROUND_UP, ROUND_ZERO] as const;
  return modes.map((rounding) => constant(value, env(rounding)));
}

const silent = (rounding: 0 | 1 | 2 | 3): FpEnv => ({
  rounding,
  precision: 64,
  masks: 0x3f,
  flags: 0,
  roundedUp: false,
  daz: false,
  ftz: false,
});

/** FLDPI: the datum by rounding control. */
export const LOAD_PI: readonly F80[] = constants(PI, silent);
/** FLDL2T, log2(10): the datum by rounding control. */
export const LOAD_L2T: readonly F80[] = constants(LOG2_10, silent);
/** FLDL2E, log2(e): the datum by rounding control. */
export const LOAD_L2E: readonly F80[] = constants(LOG2E, silent);
/** FLDLG2, log10(2): the datum by rounding control. */
export const LOAD_LG2: readonly F80[] = constants(LOG10_2, silent);
/** FLDLN2, ln(2): the datum by rounding control. */
export const LOAD_LN2: readonly F80[] = constants(LN2, silent);

/**
 * F2XM1. Outside -1 to +1, where the result is undefined, the operand is returned.
 *
 * @param x The operand.
 * @param env The environment.
 * @returns 2^x - 1.
 */
export function exp2Minus1(x: F80, env: FpEnv): F80 {
  const a = unpack(x);
  env.roundedUp = false;
  if (a.kind >= Kind.QuietNaN) return propagate1(x, a, env);
  if (a.kind === Kind.Zero) return x;
  if (a.kind === Kind.Infinity) {
    return a.sign ? { se: SIGN | BIAS, sig: INTEGER_BIT } : x;
  }
  noteDenormal(a, env);
  if (a.exp >= 0) {
    env.flags |= PE;
    const minusOne = a.exp === 0 && a.sign === 1 && a.sig === INTEGER_BIT;
    return minusOne ? { se: SIGN | (BIAS - 1), sig: INTEGER_BIT } : x;
  }
  if (a.exp < -TINY) {
    return finish(a.sign, a.sig * at(LN2, 128), 128 + 63 - a.exp, env);
  }
  const scale = WORKING_BITS - a.exp;
  const shift = BigInt(scale);
  let y = (fixed(a, scale) * at(LN2, scale)) >> shift;
  if (a.sign) y = -y;
  let sum = y, term = y;
  for (let n = 2n; term !== 0n && term !== -1n; n++) {
    term = ((term * y) >> shift) / n;
    sum += term;
  }
  return finishSigned(sum, scale, env);
}

/** Twice the inverse hyperbolic tangent of a fixed-point s, that is ln((1 + s) / (1 - s)). */
function twiceAtanh(s: bigint, scale: number): bigint {
  const shift = BigInt(scale);
  const square = (s * s) >> shift;
  let sum = s, power = s;
  for (let n = 3n; power !== 0n && power !== -1n; n += 2n) {
    power = (power * square) >> shift;
    sum += power / n;
  }
  return sum << 1n;
}

/** Fraction bits of logarithms: near 1 they lose up to 64 to cancellation. */
const LOG_BITS = 224;

/** The significand of the square root of two, where the logarithm's reduction folds. */
const SQRT2 = 0xb504f333f9de6484n;

/** log2 of a positive finite number, in fixed point with {@link LOG_BITS}. */
function log2(a: Unpacked): bigint {
  const fold = a.sig > SQRT2 ? 1 : 0;
  const m = a.sig << BigInt(LOG_BITS - 63 - fold);
  const one = 1n << BigInt(LOG_BITS);
  const s = ((m - one) << BigInt(LOG_BITS)) / (m + one);
  const ln = twiceAtanh(s, LOG_BITS);
  const fraction = (ln * at(LOG2E, LOG_BITS)) >> BigInt(LOG_BITS);
  return (BigInt(a.exp + fold) << BigInt(LOG_BITS)) + fraction;
}

/** `y * logarithm`, where the logarithm is fixed-point with `scale` fraction bits. */
function timesLog(
  b: Unpacked,
  logarithm: bigint,
  scale: number,
  env: FpEnv,
): F80 {
  const negative = logarithm < 0n;
  const magnitude = (negative ? -logarithm : logarithm) * b.sig;
  return finish(
    b.sign ^ (negative ? 1 : 0),
    magnitude,
    scale + 63 - b.exp,
    env,
  );
}

/**
 * FYL2X.
 *
 * @param x ST(0).
 * @param y ST(1).
 * @param env The environment.
 * @returns y × log2(x).
 */
export function yLog2(x: F80, y: F80, env: FpEnv): F80 {
  const a = unpack(x), b = unpack(y);
  env.roundedUp = false;
  if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
    return propagate2(x, y, a, b, env);
  }
  if (a.kind === Kind.Zero) {
    if (b.kind === Kind.Zero) return invalid(env);
    if (b.kind === Kind.Finite) env.flags |= ZE;
    return infinity(b.sign ^ 1);
  }
  if (a.sign) return invalid(env);
  if (a.kind === Kind.Infinity) {
    if (b.kind === Kind.Zero) return invalid(env);
    noteDenormal(b, env);
    return infinity(b.sign);
  }
  const isOne = a.exp === 0 && a.sig === INTEGER_BIT;
  const below = a.exp < 0 ? 1 : 0;
  if (b.kind === Kind.Infinity) {
    if (isOne) return invalid(env);
    noteDenormal(a, env);
    return infinity(b.sign ^ below);
  }
  noteDenormal(a, env);
  noteDenormal(b, env);
  if (isOne || b.kind === Kind.Zero) return zero(b.sign ^ below);
  if (a.sig === INTEGER_BIT) { // a power of two: the product is exact but for its rounding
    const power = a.exp < 0 ? -a.exp : a.exp;
    const { sig, bits } = normalize(b.sig * BigInt(power));
    env.flags |= PE;
    const product = { sign: b.sign ^ below, exp: b.exp + bits - 64, sig };
    const result = roundPack(product, env, 64);
    if ((result.se & EXPONENT_MASK) === 0) env.flags |= UE;
    return result;
  }
  return timesLog(b, log2(a), LOG_BITS, env);
}

/**
 * FYL2XP1. For x of -1 and below, where the result is undefined, x is returned.
 *
 * @param x ST(0).
 * @param y ST(1).
 * @param env The environment.
 * @returns y × log2(x + 1).
 */
export function yLog2Plus1(x: F80, y: F80, env: FpEnv): F80 {
  const a = unpack(x), b = unpack(y);
  env.roundedUp = false;
  if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
    return propagate2(x, y, a, b, env);
  }
  if (a.kind === Kind.Infinity) {
    if (a.sign || b.kind === Kind.Zero) return invalid(env);
    noteDenormal(b, env);
    return infinity(b.sign);
  }
  if (b.kind === Kind.Infinity) {
    if (a.kind === Kind.Zero) return invalid(env);
    noteDenormal(a, env);
    return infinity(a.sign ^ b.sign);
  }
  if (a.denormal || b.denormal) {
    noteDenormal(a, env);
    noteDenormal(b, env);
  }
  if (a.kind === Kind.Zero || b.kind === Kind.Zero) {
    return zero(a.sign ^ b.sign);
  }
  if (a.sign && a.exp >= 0) {
    env.flags |= PE;
    return x;
  }
  if (a.exp < -TINY) { // log2(1 + x) = x log2(e)
    const scale = 128 + 63 - a.exp;
    const logarithm = a.sig * at(LOG2E, 128);
    return timesLog(b, a.sign ? -logarithm : logarithm, scale, env);
  }
  if (a.exp < -2) { // ln(1 + x) = 2 atanh(x / (x + 2))
    const scale = WORKING_BITS + 16 - a.exp;
    const magnitude = fixed(a, scale);
    const f = a.sign ? -magnitude : magnitude;
    const s = (f << BigInt(scale)) / (f + (2n << BigInt(scale)));
    const logarithm = (twiceAtanh(s, scale) * at(LOG2E, scale)) >>
      BigInt(scale);
    return timesLog(b, logarithm, scale, env);
  }
  // Far from zero: 1 + x exactly, as the logarithm's argument.
  const scale = 63 - Math.min(a.exp, 0);
  const one = 1n << BigInt(scale);
  const magnitude = fixed(a, scale);
  const sum = a.sign ? one - magnitude : one + magnitude;
  return timesLog(b, log2Of(sum, scale), LOG_BITS, env);
}

/** log2 of a fixed-point number, in fixed point with {@link LOG_BITS}. */
function log2Of(value: bigint, scale: number): bigint {
  const bits = value.toString(2).length;
  const m = value << BigInt(LOG_BITS - (bits - 1));
  const one = 1n << BigInt(LOG_BITS);
  const s = ((m - one) << BigInt(LOG_BITS)) / (m + one);
  const fraction = (twiceAtanh(s, LOG_BITS) * at(LOG2E, LOG_BITS)) >>
    BigInt(LOG_BITS);
  return (BigInt(bits - 1 - scale) << BigInt(LOG_BITS)) + fraction;
}

/** Fraction bits of arctangents. */
const ATAN_BITS = 224;
/** Arctangents are reduced to within half of one part in this many. */
const ATAN_STEPS = 8;

/** The arctangent's series; |t| at most about 1/16. */
function atanSeries(t: bigint): bigint {
  const shift = BigInt(ATAN_BITS);
  const square = (t * t) >> shift;
  let sum = t, power = t;
  for (let n = 3n, negative = true; power !== 0n && power !== -1n; n += 2n) {
    power = (power * square) >> shift;
    sum = negative ? sum - power / n : sum + power / n;
    negative = !negative;
  }
  return sum;
}

let atanTable: bigint[] | undefined;

/** atan(k / ATAN_STEPS) for k from 0 to ATAN_STEPS, each from the one before. */
function atanSteps(): bigint[] {
  if (atanTable) return atanTable;
  const table = [0n];
  for (let k = 0; k < ATAN_STEPS; k++) {
    // tan(atan((k+1)/n) - atan(k/n)) = (1/n) / (1 + k(k+1)/n²)
    const n = ATAN_STEPS;
    const t = (BigInt(n) << BigInt(ATAN_BITS)) / BigInt(n * n + k * (k + 1));
    table.push(table[k] + atanSeries(t));
  }
  return atanTable = table;
}

/** Arctangent of a fixed-point t from 0 to 1. */
function atanFixed(t: bigint): bigint {
  const n = BigInt(ATAN_STEPS);
  const k = Number(
    (t * n + (1n << BigInt(ATAN_BITS - 1))) >> BigInt(ATAN_BITS),
  );
  if (k === 0) return atanSeries(t);
  const difference = t * n - (BigInt(k) << BigInt(ATAN_BITS));
  const reduced = (difference << BigInt(ATAN_BITS)) /
    ((n << BigInt(ATAN_BITS)) + BigInt(k) * t);
  return atanSteps()[k] + atanSeries(reduced);
}

/**
 * FPATAN.
 *
 * @param x ST(0).
 * @param y ST(1).
 * @param env The environment.
 * @returns The angle of the point (x, y), from -pi to pi.
 */
export function arctangent(x: F80, y: F80, env: FpEnv): F80 {
  const a = unpack(x), b = unpack(y);
  env.roundedUp = false;
  if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
    return propagate2(x, y, a, b, env);
  }
  noteDenormal(a, env);
  noteDenormal(b, env);
  const pi = at(PI, ATAN_BITS);
  const angle = (value: bigint): F80 => finish(b.sign, value, ATAN_BITS, env);
  if (b.kind === Kind.Infinity) {
    if (a.kind !== Kind.Infinity) return angle(pi >> 1n);
    return angle(a.sign ? (3n * pi) >> 2n : pi >> 2n);
  }
  if (a.kind === Kind.Infinity || b.kind === Kind.Zero) {
    return a.sign ? angle(pi) : zero(b.sign);
  }
  if (a.kind === Kind.Zero) return angle(pi >> 1n);
  const distance = b.exp - a.exp;
  if (distance < -TINY) {
    if (a.sign) return angle(pi - 1n);
    // atan(t) is t, or rather a little less.
    const ratio = (b.sig << 192n) / a.sig;
    return finish(b.sign, (ratio << 2n) - 1n, 194 - distance, env);
  }
  if (distance > TINY) return angle(pi >> 1n);
  const steep = distance > 0 || (distance === 0 && b.sig > a.sig);
  const above = steep ? a : b, beneath = steep ? b : a;
  const t = (above.sig << BigInt(ATAN_BITS - Math.abs(distance))) / beneath.sig;
  let value = atanFixed(t);
  if (steep) value = a.sign ? (pi >> 1n) + value : (pi >> 1n) - value;
  else if (a.sign) value = pi - value;
  return angle(value);
}

/** Half of the 66-bit pi that argument reduction uses, with 67 fraction bits. */
const HALF_PI_66 = 0xc90fdaa22168c234cn;
const HALF_PI_66_BITS = 67;
/** Fraction bits of a reduced argument, of which the first 67 may be zero. */
const REDUCED_BITS = 208;
/** Arguments from 2^63 up are not reduced: C2 is set. */
const REDUCTION_EXPONENT = 63;

/** An argument reduced to -pi/4 ... pi/4. */
interface Reduced {
  /** The reduced argument, signed fixed point. */
  readonly r: bigint;
  readonly scale: number;
  /** The multiple of pi/2 that was taken off, modulo 4. */
  readonly quadrant: number;
}

/** Reduces the magnitude of a finite argument. */
function reduce(a: Unpacked): Reduced {
  if (a.exp < -1) {
    const scale = WORKING_BITS - a.exp;
    return { r: fixed(a, scale), scale, quadrant: 0 };
  }
  const value = fixed(a, REDUCED_BITS);
  const modulus = HALF_PI_66 << BigInt(REDUCED_BITS - HALF_PI_66_BITS);
  let quadrant = value / modulus;
  let r = value - quadrant * modulus;
  if (r << 1n > modulus) {
    r -= modulus;
    quadrant += 1n;
  }
  return { r, scale: REDUCED_BITS, quadrant: Number(quadrant & 3n) };
}

/** The series of the sine (`first` = r) or the cosine (`first` = 1). */
function alternating(
  first: bigint,
  square: bigint,
  shift: bigint,
  start: number,
): bigint {
  let sum = first, term = first;
  for (let n = start; term !== 0n && term !== -1n; n += 2) {
    term = -(((term * square) >> shift) / BigInt(n * (n + 1)));
    sum += term;
  }
  return sum;
}

/** Sine and cosine of a reduced argument, moved to its quadrant, in fixed point. */
function sineAndCosine(
  { r, scale, quadrant }: Reduced,
): { sin: bigint; cos: bigint } {
  const shift = BigInt(scale);
  const square = (r * r) >> shift;
  const sin = alternating(r, square, shift, 2);
  const cos = alternating(1n << shift, square, shift, 1);
  switch (quadrant) {
    case 0:
      return { sin, cos };
    case 1:
      return { sin: cos, cos: -sin };
    case 2:
      return { sin: -sin, cos: -cos };
    default:
      return { sin: -cos, cos: sin };
  }
}

/** A trigonometric result; `undefined` stands for "out of range": set C2, change nothing. */
export type Trigonometric<T> = T | undefined;

function outOfRange(a: Unpacked): boolean {
  return a.kind === Kind.Finite && a.exp >= REDUCTION_EXPONENT;
}

/** A number a hair below `x` in magnitude: the sine of a tiny x. */
function justBelow(a: Unpacked, env: FpEnv): F80 {
  return finish(a.sign, (a.sig << 8n) - 1n, 63 + 8 - a.exp, env);
}

/** A number a hair below 1: the cosine of a tiny x. */
function justBelowOne(env: FpEnv): F80 {
  return finish(0, (1n << BigInt(WORKING_BITS)) - 1n, WORKING_BITS, env);
}

/**
 * FSIN.
 *
 * @param x The angle.
 * @param env The environment.
 * @returns sin(x), or undefined for 2^63 and above.
 */
export function sine(x: F80, env: FpEnv): Trigonometric<F80> {
  const a = unpack(x);
  env.roundedUp = false;
  if (a.kind >= Kind.QuietNaN) return propagate1(x, a, env);
  if (a.kind === Kind.Infinity) return invalid(env);
  if (a.kind === Kind.Zero) return x;
  if (outOfRange(a)) return undefined;
  noteDenormal(a, env);
  if (a.exp < -TINY) return justBelow(a, env);
  const reduced = reduce(a);
  const { sin } = sineAndCosine(reduced);
  return finishSigned(a.sign ? -sin : sin, reduced.scale, env);
}

/**
 * FCOS.
 *
 * @param x The angle.
 * @param env The environment.
 * @returns cos(x), or undefined for 2^63 and above.
 */
export function cosine(x: F80, env: FpEnv): Trigonometric<F80> {
  const a = unpack(x);
  env.roundedUp = false;
  if (a.kind >= Kind.QuietNaN) return propagate1(x, a, env);
  if (a.kind === Kind.Infinity) return invalid(env);
  if (a.kind === Kind.Zero) return ONE;
  if (outOfRange(a)) return undefined;
  noteDenormal(a, env);
  if (a.exp < -TINY) return justBelowOne(env);
  const reduced = reduce(a);
  return finishSigned(sineAndCosine(reduced).cos, reduced.scale, env);
}

/**
 * FSINCOS.
 *
 * @param x The angle.
 * @param env The environment.
 * @returns sin(x), to replace ST(0), and cos(x), to be pushed; or undefined for 2^63 and above.
 */
export function sineCosine(
  x: F80,
  env: FpEnv,
): Trigonometric<{ sin: F80; cos: F80 }> {
  const sin = sine(x, env);
  if (sin === undefined) return undefined;
  const cos = cosine(x, env);
  return cos && { sin, cos };
}

/**
 * FPTAN.
 *
 * @param x The angle.
 * @param env The environment.
 * @returns tan(x), to replace ST(0), and what is pushed: 1.0, or the same NaN; or undefined for
 * 2^63 and above.
 */
export function tangent(
  x: F80,
  env: FpEnv,
): Trigonometric<{ tan: F80; pushed: F80 }> {
  const a = unpack(x);
  env.roundedUp = false;
  if (a.kind >= Kind.QuietNaN) {
    const nan = propagate1(x, a, env);
    return { tan: nan, pushed: nan };
  }
  if (a.kind === Kind.Infinity) {
    const nan = invalid(env);
    return { tan: nan, pushed: nan };
  }
  if (a.kind === Kind.Zero) return { tan: x, pushed: ONE };
  if (outOfRange(a)) return undefined;
  noteDenormal(a, env);
  if (a.exp < -TINY) {
    const tan = finish(a.sign, (a.sig << 8n) | 1n, 63 + 8 - a.exp, env);
    return { tan, pushed: ONE };
  }
  const reduced = reduce(a);
  const { sin, cos } = sineAndCosine(reduced);
  const sign = a.sign ^ ((sin < 0n) !== (cos < 0n) ? 1 : 0);
  const numerator = sin < 0n ? -sin : sin, denominator = cos < 0n ? -cos : cos;
  const quotient = (numerator << BigInt(REDUCED_BITS)) / denominator;
  return { tan: finish(sign, quotient, REDUCED_BITS, env), pushed: ONE };
}
