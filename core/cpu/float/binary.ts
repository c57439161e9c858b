/**
 * binary32 and binary64 arithmetic with the rules of SSE: MXCSR rounding, flags, DAZ and FTZ,
 * the first operand's NaN, and MIN and MAX that return their second operand.
 *
 * Intel SDM volume 1: 4.8.3.5 and table 4-7 (NaNs), 10.2.3 (MXCSR), 11.5 (exceptions);
 * volume 2 for MINSD, MAXSD, CMPSD, CVT*, ROUNDSD.
 *
 * Numbers are their bits, as non-negative BigInts: the slow path that decides every flag.
 *
 * @module
 */

import {
  DE,
  type FpEnv,
  IE,
  PE,
  ROUND_DOWN,
  ROUND_ZERO,
  type Rounding,
  ZE,
} from "./env.ts";
import { compareNumbers, type Relation, UNORDERED } from "./float80.ts";
import {
  addFinite,
  divideFinite,
  multiplyFinite,
  sqrtFinite,
  type Unrounded,
} from "./kernel.ts";
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
  type Unpacked,
  UNROUNDED_MSB,
} from "./unpacked.ts";

const UNROUNDED_SHIFT = BigInt(UNROUNDED_MSB - 63);

/** Arithmetic on one of the two formats. */
export class BinaryFloat {
  readonly #format: Format;
  readonly #fraction: number;
  readonly #width: number;
  readonly #bias: number;
  readonly #special: number;
  /** Shift between a fraction and the 64-bit significand. */
  readonly #align: bigint;
  readonly #signBit: bigint;
  readonly #quietBit: bigint;
  readonly #infinity: bigint;
  /** The NaN of every masked invalid operation: negative and quiet. */
  readonly defaultNaN: bigint;

  /**
   * @param format The format.
   */
  constructor(format: Format) {
    this.#format = format;
    this.#fraction = format.precision - 1;
    this.#bias = format.emax;
    this.#special = 2 * format.emax + 1;
    this.#width = format.precision === 24 ? 32 : 64;
    this.#align = BigInt(64 - format.precision);
    this.#signBit = 1n << BigInt(this.#width - 1);
    this.#quietBit = 1n << BigInt(this.#fraction - 1);
    this.#infinity = BigInt(this.#special) << BigInt(this.#fraction);
    this.defaultNaN = this.#signBit | this.#infinity | this.#quietBit;
  }

  /**
   * Takes a number apart; DAZ makes zeros of denormals.
   *
   * @param bits The number.
   * @param env The environment.
   * @returns The parts.
   */
  unpack(bits: bigint, env: FpEnv): Unpacked {
    const sign = (bits & this.#signBit) === 0n ? 0 : 1;
    const fraction = BigInt.asUintN(this.#fraction, bits);
    const biased = Number(bits >> BigInt(this.#fraction)) & this.#special;
    const sig = INTEGER_BIT | (fraction << this.#align);
    if (biased === this.#special) {
      const kind = fraction === 0n
        ? Kind.Infinity
        : (sig & QUIET_BIT) !== 0n
        ? Kind.QuietNaN
        : Kind.SignalingNaN;
      return { kind, sign, exp: 0, sig, denormal: false };
    }
    if (biased !== 0) {
      return {
        kind: Kind.Finite,
        sign,
        exp: biased - this.#bias,
        sig,
        denormal: false,
      };
    }
    if (fraction === 0n || env.daz) {
      return { kind: Kind.Zero, sign, exp: 0, sig: 0n, denormal: false };
    }
    const length = bitLength(fraction);
    return {
      kind: Kind.Finite,
      sign,
      exp: this.#format.emin - this.#fraction + length - 1,
      sig: fraction << BigInt(64 - length),
      denormal: true,
    };
  }

  #zero(sign: number): bigint {
    return sign ? this.#signBit : 0n;
  }

  #inf(sign: number): bigint {
    return sign ? this.#signBit | this.#infinity : this.#infinity;
  }

  #invalid(env: FpEnv): bigint {
    env.flags |= IE;
    return this.defaultNaN;
  }

  /** Rounds a number that is not zero and encodes it. */
  #round({ sign, exp, sig }: Unrounded, env: FpEnv): bigint {
    const r = round(sign, exp, sig, this.#format, this.#format.precision, env);
    const biased = r.sig >= INTEGER_BIT ? r.exp + this.#bias : 0;
    return this.#zero(r.sign) | (BigInt(biased) << BigInt(this.#fraction)) |
      (BigInt.asUintN(63, r.sig) >> this.#align);
  }

  /** The first NaN of two operands, made quiet. */
  #propagate(
    x: bigint,
    y: bigint,
    a: Unpacked,
    b: Unpacked,
    env: FpEnv,
  ): bigint {
    if (a.kind === Kind.SignalingNaN || b.kind === Kind.SignalingNaN) {
      env.flags |= IE;
    }
    return (a.kind >= Kind.QuietNaN ? x : y) | this.#quietBit;
  }

  #propagate1(x: bigint, a: Unpacked, env: FpEnv): bigint {
    if (a.kind === Kind.SignalingNaN) env.flags |= IE;
    return x | this.#quietBit;
  }

  #zeroSum(env: FpEnv): bigint {
    return env.rounding === ROUND_DOWN ? this.#signBit : 0n;
  }

  #addOrSubtract(x: bigint, y: bigint, negate: number, env: FpEnv): bigint {
    const a = this.unpack(x, env), b = this.unpack(y, env);
    if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
      return this.#propagate(x, y, a, b, env);
    }
    const signB = b.sign ^ negate;
    if (
      a.kind === Kind.Infinity && b.kind === Kind.Infinity && a.sign !== signB
    ) {
      return this.#invalid(env);
    }
    if (a.denormal || b.denormal) env.flags |= DE;
    if (a.kind === Kind.Infinity) return this.#inf(a.sign);
    if (b.kind === Kind.Infinity) return this.#inf(signB);
    if (a.kind === Kind.Finite && b.kind === Kind.Finite) {
      const sum = addFinite(a, b, negate);
      return sum.sig === 0n ? this.#zeroSum(env) : this.#round(sum, env);
    }
    if (a.kind === Kind.Finite) return this.#reround(a, a.sign, env);
    if (b.kind === Kind.Finite) return this.#reround(b, signB, env);
    return a.sign === signB ? this.#zero(a.sign) : this.#zeroSum(env);
  }

  /** A finite operand that becomes the result: FTZ and an unmasked UE still see it. */
  #reround(a: Unpacked, sign: number, env: FpEnv): bigint {
    return this.#round(
      { sign, exp: a.exp, sig: a.sig << UNROUNDED_SHIFT },
      env,
    );
  }

  /**
   * ADDSS, ADDSD.
   *
   * @param x First operand (the destination).
   * @param y Second operand.
   * @param env The environment.
   * @returns x + y.
   */
  add(x: bigint, y: bigint, env: FpEnv): bigint {
    return this.#addOrSubtract(x, y, 0, env);
  }

  /**
   * SUBSS, SUBSD.
   *
   * @param x First operand (the destination).
   * @param y Second operand.
   * @param env The environment.
   * @returns x - y.
   */
  sub(x: bigint, y: bigint, env: FpEnv): bigint {
    return this.#addOrSubtract(x, y, 1, env);
  }

  /**
   * MULSS, MULSD.
   *
   * @param x First operand (the destination).
   * @param y Second operand.
   * @param env The environment.
   * @returns x × y.
   */
  mul(x: bigint, y: bigint, env: FpEnv): bigint {
    const a = this.unpack(x, env), b = this.unpack(y, env);
    if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
      return this.#propagate(x, y, a, b, env);
    }
    const sign = a.sign ^ b.sign;
    const infinite = a.kind === Kind.Infinity || b.kind === Kind.Infinity;
    const zero = a.kind === Kind.Zero || b.kind === Kind.Zero;
    if (infinite && zero) return this.#invalid(env);
    if (a.denormal || b.denormal) env.flags |= DE;
    if (infinite) return this.#inf(sign);
    if (zero) return this.#zero(sign);
    return this.#round(multiplyFinite(a, b), env);
  }

  /**
   * DIVSS, DIVSD.
   *
   * @param x First operand (the destination).
   * @param y Second operand.
   * @param env The environment.
   * @returns x ÷ y.
   */
  div(x: bigint, y: bigint, env: FpEnv): bigint {
    const a = this.unpack(x, env), b = this.unpack(y, env);
    if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
      return this.#propagate(x, y, a, b, env);
    }
    const sign = a.sign ^ b.sign;
    if (a.kind === b.kind && a.kind !== Kind.Finite) return this.#invalid(env);
    if (a.kind !== Kind.Infinity && b.kind === Kind.Zero) {
      env.flags |= ZE;
      return this.#inf(sign);
    }
    if (a.denormal || b.denormal) env.flags |= DE;
    if (a.kind === Kind.Infinity) return this.#inf(sign);
    if (a.kind === Kind.Zero || b.kind === Kind.Infinity) {
      return this.#zero(sign);
    }
    return this.#round(divideFinite(a, b), env);
  }

  /**
   * SQRTSS, SQRTSD.
   *
   * @param x The radicand.
   * @param env The environment.
   * @returns The square root; -0 for -0.
   */
  sqrt(x: bigint, env: FpEnv): bigint {
    const a = this.unpack(x, env);
    if (a.kind >= Kind.QuietNaN) return this.#propagate1(x, a, env);
    if (a.kind === Kind.Zero) return this.#zero(a.sign);
    if (a.sign) return this.#invalid(env);
    if (a.kind === Kind.Infinity) return x;
    if (a.denormal) env.flags |= DE;
    return this.#round(sqrtFinite(a), env);
  }

  #select(x: bigint, y: bigint, wanted: Relation, env: FpEnv): bigint {
    const a = this.unpack(x, env), b = this.unpack(y, env);
    if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
      env.flags |= IE;
      return this.#flush(y, b);
    }
    if (a.denormal || b.denormal) env.flags |= DE;
    return compareNumbers(a, b) === wanted
      ? this.#flush(x, a)
      : this.#flush(y, b);
  }

  /** An operand as DAZ makes it. */
  #flush(bits: bigint, a: Unpacked): bigint {
    return a.kind === Kind.Zero ? this.#zero(a.sign) : bits;
  }

  /**
   * MINSS, MINSD: the second operand if either is a NaN or both are zeros.
   *
   * @param x First operand (the destination).
   * @param y Second operand.
   * @param env The environment.
   * @returns The smaller.
   */
  min(x: bigint, y: bigint, env: FpEnv): bigint {
    return this.#select(x, y, -1, env);
  }

  /**
   * MAXSS, MAXSD: the second operand if either is a NaN or both are zeros.
   *
   * @param x First operand (the destination).
   * @param y Second operand.
   * @param env The environment.
   * @returns The larger.
   */
  max(x: bigint, y: bigint, env: FpEnv): bigint {
    return this.#select(x, y, 1, env);
  }

  /**
   * COMISS, UCOMISS, CMPSS and their binary64 forms.
   *
   * @param x First operand.
   * @param y Second operand.
   * @param signaling True if a quiet NaN is an invalid operation too.
   * @param env The environment.
   * @returns The relation of x to y.
   */
  compare(x: bigint, y: bigint, signaling: boolean, env: FpEnv): Relation {
    const a = this.unpack(x, env), b = this.unpack(y, env);
    if (a.kind >= Kind.QuietNaN || b.kind >= Kind.QuietNaN) {
      if (
        signaling || a.kind === Kind.SignalingNaN ||
        b.kind === Kind.SignalingNaN
      ) {
        env.flags |= IE;
      }
      return UNORDERED;
    }
    if (a.denormal || b.denormal) env.flags |= DE;
    return compareNumbers(a, b);
  }

  /**
   * ROUNDSS, ROUNDSD.
   *
   * @param x The operand.
   * @param rounding The direction: the immediate's or MXCSR's.
   * @param env The environment.
   * @param exactly True to suppress PE.
   * @returns The integer, in this format.
   */
  roundToInteger(
    x: bigint,
    rounding: Rounding,
    env: FpEnv,
    exactly: boolean,
  ): bigint {
    const a = this.unpack(x, env);
    if (a.kind >= Kind.QuietNaN) return this.#propagate1(x, a, env);
    if (a.kind === Kind.Zero) return this.#zero(a.sign);
    if (a.kind === Kind.Infinity || a.exp >= this.#fraction) return x;
    const { magnitude, inexact } = integerMagnitude(a, rounding);
    if (inexact && !exactly) env.flags |= PE;
    return this.#zero(a.sign) | this.#encodeInteger(magnitude);
  }

  /** Encodes a magnitude of at most `precision` bits. */
  #encodeInteger(magnitude: bigint): bigint {
    if (magnitude === 0n) return 0n;
    const length = bitLength(magnitude);
    const biased = BigInt(this.#bias + length - 1) << BigInt(this.#fraction);
    const fraction = BigInt.asUintN(63, magnitude << BigInt(64 - length)) >>
      this.#align;
    return biased | fraction;
  }

  /**
   * CVTSS2SI, CVTTSS2SI and the like.
   *
   * @param x The operand.
   * @param width 32 or 64.
   * @param truncate True for the CVTT forms.
   * @param env The environment.
   * @returns The integer as signed BigInt; the most negative one with IE.
   */
  toInteger(x: bigint, width: 32 | 64, truncate: boolean, env: FpEnv): bigint {
    const a = this.unpack(x, env);
    const limit = 1n << BigInt(width - 1);
    if (a.kind === Kind.Zero) return 0n;
    if (a.kind !== Kind.Finite || a.exp >= width) {
      env.flags |= IE;
      return -limit;
    }
    const { magnitude, inexact } = integerMagnitude(
      a,
      truncate ? ROUND_ZERO : env.rounding,
    );
    if (magnitude > limit || (magnitude === limit && !a.sign)) {
      env.flags |= IE;
      return -limit;
    }
    if (inexact) env.flags |= PE;
    return a.sign ? -magnitude : magnitude;
  }

  /**
   * CVTSI2SS, CVTSI2SD, CVTDQ2PS, CVTDQ2PD.
   *
   * @param value A signed integer of at most 64 bits.
   * @param env The environment.
   * @returns The number, rounded.
   */
  fromInteger(value: bigint, env: FpEnv): bigint {
    if (value === 0n) return 0n;
    const sign = value < 0n ? 1 : 0;
    const magnitude = sign ? -value : value;
    const length = bitLength(magnitude);
    const sig = magnitude << BigInt(UNROUNDED_MSB + 1 - length);
    return this.#round({ sign, exp: length - 1, sig }, env);
  }

  /**
   * CVTSS2SD, CVTSD2SS: converts a number of the other format to this one.
   *
   * @param x The number's bits.
   * @param from Its format.
   * @param env The environment.
   * @returns The number in this format.
   */
  convert(x: bigint, from: BinaryFloat, env: FpEnv): bigint {
    const a = from.unpack(x, env);
    switch (a.kind) {
      case Kind.Zero:
        return this.#zero(a.sign);
      case Kind.Infinity:
        return this.#inf(a.sign);
      case Kind.Finite:
        if (a.denormal) env.flags |= DE;
        return this.#reround(a, a.sign, env);
      default:
        if (a.kind === Kind.SignalingNaN) env.flags |= IE;
        return this.#inf(a.sign) | this.#quietBit |
          (BigInt.asUintN(63, a.sig) >> this.#align);
    }
  }
}

/** binary32 arithmetic. */
export const float32: BinaryFloat = new BinaryFloat(BINARY32);
/** binary64 arithmetic. */
export const float64: BinaryFloat = new BinaryFloat(BINARY64);
