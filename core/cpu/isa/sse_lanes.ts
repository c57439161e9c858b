/**
 * What the fast paths of SSE floating point have in common: the same code for a scalar and for a
 * vector, and the proof that an operation raises nothing that MXCSR does not hold already.
 *
 * A fast path may be taken when every operand is a zero, a normal number or, where that is
 * harmless, an infinity; when the result is a number that no underflow or overflow touched; when
 * rounding is to nearest; and when the result is exact, or PE is set and masked. Then the wasm
 * operation gives the bits and no flag changes. Everything else is left to the exact version.
 *
 * @module
 */
import type { Emitter, Operand, Value } from "../emitter.ts";
import { OFF } from "../state.ts";
import { MXCSR } from "./sse_exact.ts";

/** The wasm types that instructions compute with. */
export type LaneKind = "f32" | "f64" | "f32x4" | "f64x2";

/** Limits of a format. */
interface Limits {
  /** The smallest normal number. */
  readonly least: number;
  /** The largest finite number. */
  readonly most: number;
  /** 2^s + 1, which splits a significand in two halves (Dekker). */
  readonly splitter: number;
  /** Products below this lose bits of their error term. */
  readonly product: number;
}

const LIMITS32: Limits = {
  least: 2 ** -126,
  most: (2 - 2 ** -23) * 2 ** 127,
  splitter: 2 ** 12 + 1,
  product: 2 ** -100,
};
const LIMITS64: Limits = {
  least: 2 ** -1022,
  most: Number.MAX_VALUE,
  splitter: 2 ** 27 + 1,
  product: 2 ** -960,
};

/** Operations of one {@link LaneKind} in one semantic. Masks are i32 for scalars, v128 for vectors. */
export class Lanes {
  readonly #e: Emitter;
  readonly #limits: Limits;
  readonly #vector: boolean;

  /**
   * @param e The emitter.
   * @param kind What is computed with.
   */
  constructor(e: Emitter, readonly kind: LaneKind) {
    this.#e = e;
    this.#limits = kind.startsWith("f32") ? LIMITS32 : LIMITS64;
    this.#vector = kind.includes("x");
  }

  /**
   * An operand's value.
   *
   * @param operand The operand.
   * @returns A value of the kind's type.
   */
  read(operand: Operand): Value {
    const value = this.#e.read(operand);
    return this.#vector ? value : this.fromBits(value);
  }

  /**
   * A scalar from its bits.
   *
   * @param bits i64.
   * @returns The number.
   */
  fromBits(bits: Value): Value {
    const e = this.#e;
    return this.kind === "f32"
      ? e.op("f32.reinterpret_i32", e.op("i32.wrap_i64", bits))
      : e.op("f64.reinterpret_i64", bits);
  }

  /**
   * The value as {@link Emitter.write} takes it.
   *
   * @param value A number.
   * @returns i64 or v128.
   */
  toBits(value: Value): Value {
    const e = this.#e;
    if (this.#vector) return value;
    return this.kind === "f32"
      ? e.op("i64.extend_i32_u", e.op("i32.reinterpret_f32", value))
      : e.op("i64.reinterpret_f64", value);
  }

  /**
   * A constant in every lane.
   *
   * @param value The number.
   * @returns The value.
   */
  constant(value: number): Value {
    const e = this.#e;
    switch (this.kind) {
      case "f32":
        return e.f32(value);
      case "f64":
        return e.f64(value);
      default: {
        const bytes = this.kind === "f32x4"
          ? new Uint8Array(new Float32Array(4).fill(value).buffer)
          : new Uint8Array(new Float64Array(2).fill(value).buffer);
        return e.v128([...bytes]);
      }
    }
  }

  /**
   * An operation of the kind: `op("add", a, b)`.
   *
   * @param name Its name.
   * @param args Operands.
   * @returns The result.
   */
  op(name: string, ...args: Value[]): Value {
    return this.#e.op(`${this.kind}.${name}`, ...args);
  }

  /**
   * Both masks.
   *
   * @param a A mask.
   * @param b A mask.
   * @returns The mask.
   */
  and(a: Value, b: Value): Value {
    return this.#e.op(this.#vector ? "v128.and" : "i32.and", a, b);
  }

  /**
   * Either mask.
   *
   * @param a A mask.
   * @param b A mask.
   * @returns The mask.
   */
  or(a: Value, b: Value): Value {
    return this.#e.op(this.#vector ? "v128.or" : "i32.or", a, b);
  }

  /**
   * Whether a mask holds in every lane.
   *
   * @param mask The mask.
   * @returns i32.
   */
  all(mask: Value): Value {
    if (!this.#vector) return mask;
    return this.#e.op(
      this.kind === "f32x4" ? "i32x4.all_true" : "i64x2.all_true",
      mask,
    );
  }

  /**
   * Lanes that are zeros.
   *
   * @param a A value.
   * @returns The mask.
   */
  isZero(a: Value): Value {
    return this.op("eq", a, this.constant(0));
  }

  /**
   * Lanes that are normal numbers or infinities.
   *
   * @param a A value.
   * @returns The mask.
   */
  isNormal(a: Value): Value {
    return this.op("ge", this.op("abs", a), this.constant(this.#limits.least));
  }

  /**
   * Lanes that are zeros, normal numbers or infinities.
   *
   * @param a A value.
   * @returns The mask.
   */
  isUsable(a: Value): Value {
    return this.or(this.isNormal(a), this.isZero(a));
  }

  /**
   * Lanes that are finite and larger than the smallest normal number, which a rounded underflow
   * may give.
   *
   * @param a A result.
   * @returns The mask.
   */
  isSafe(a: Value): Value {
    const magnitude = this.op("abs", a);
    return this.and(
      this.op("gt", magnitude, this.constant(this.#limits.least)),
      this.op("le", magnitude, this.constant(this.#limits.most)),
    );
  }

  /**
   * Lanes whose sum `r` of a and b is exact (Knuth's two-sum).
   *
   * @param a Augend.
   * @param b Addend.
   * @param r The sum.
   * @returns The mask.
   */
  isExactSum(a: Value, b: Value, r: Value): Value {
    const back = this.op("sub", r, a);
    const restA = this.op("sub", a, this.op("sub", r, back));
    const restB = this.op("sub", b, back);
    return this.isZero(this.op("add", restA, restB));
  }

  /** The upper half of a significand, and the rest. */
  #split(a: Value): [Value, Value] {
    const c = this.op("mul", a, this.constant(this.#limits.splitter));
    const high = this.op("sub", c, this.op("sub", c, a));
    return [high, this.op("sub", a, high)];
  }

  /**
   * Lanes whose product `r` of a and b is exact (Dekker's product).
   *
   * @param a Multiplicand.
   * @param b Multiplier.
   * @param r The product.
   * @returns The mask.
   */
  isExactProduct(a: Value, b: Value, r: Value): Value {
    const [highA, lowA] = this.#split(a);
    const [highB, lowB] = this.#split(b);
    let rest = this.op("sub", r, this.op("mul", highA, highB));
    rest = this.op("sub", rest, this.op("mul", lowA, highB));
    rest = this.op("sub", rest, this.op("mul", highA, lowB));
    const exact = this.op("eq", this.op("mul", lowA, lowB), rest);
    const large = this.op(
      "ge",
      this.op("abs", r),
      this.constant(this.#limits.product),
    );
    return this.or(
      this.and(exact, large),
      this.or(this.isZero(a), this.isZero(b)),
    );
  }
}

/**
 * MXCSR rounds to nearest and holds PE, masked: inexact results change nothing.
 *
 * @param e The emitter.
 * @returns i32.
 */
export function inexactIsFree(e: Emitter): Value {
  const looked = e.op(
    "i32.and",
    e.get32(OFF.mxcsr),
    e.i32(MXCSR.RC | MXCSR.PM | MXCSR.PE),
  );
  return e.op("i32.eq", looked, e.i32(MXCSR.PM | MXCSR.PE));
}

/**
 * MXCSR rounds to nearest.
 *
 * @param e The emitter.
 * @returns i32.
 */
export function roundsToNearest(e: Emitter): Value {
  return e.op("i32.eqz", e.op("i32.and", e.get32(OFF.mxcsr), e.i32(MXCSR.RC)));
}

/**
 * PE is set and masked, in whatever direction MXCSR rounds.
 *
 * @param e The emitter.
 * @returns i32.
 */
export function precisionIsFree(e: Emitter): Value {
  const looked = e.op(
    "i32.and",
    e.get32(OFF.mxcsr),
    e.i32(MXCSR.PM | MXCSR.PE),
  );
  return e.op("i32.eq", looked, e.i32(MXCSR.PM | MXCSR.PE));
}

/**
 * Leaves to the exact version unless the common case holds or else the rarer one.
 *
 * @param e The emitter.
 * @param common i32: the cheap test, of the most frequent case.
 * @param rarer Makes i32: the full test, evaluated only where the cheap one fails.
 */
export function fallbackUnless(
  e: Emitter,
  common: Value,
  rarer: () => Value,
): void {
  e.if(e.op("i32.eqz", common), () => e.fallbackIf(e.op("i32.eqz", rarer())));
}
