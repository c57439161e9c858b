/**
 * SSE to SSE4.1 floating-point arithmetic, comparison and rounding.
 *
 * Intel SDM volume 1: 10.4.1, 11.4.1, 12.5, 12.8 (SSE, SSE2, SSE3, SSE4.1 instructions); volume 2
 * for each. Conversions are in sse_convert.ts, logic and moves in sse_moves.ts.
 *
 * @module
 */
import type { Rounding } from "../float/env.ts";
import { float32 } from "../float/binary.ts";
import type { Emitter, Operand, Value } from "../emitter.ts";
import { FLAG, OFF } from "../state.ts";
import {
  define,
  type DefineOptions,
  helper,
  type HelperSemantic,
  type Semantic,
} from "./define.ts";
import {
  arithmeticOf,
  type ElementOperation,
  type Elements,
  exactElements,
  exactVector,
  RC_SHIFT,
  readSource,
  readXmm,
  reportSse,
  sseEnvironment,
  type Width,
  writeXmm,
} from "./sse_exact.ts";
import {
  fallbackUnless,
  inexactIsFree,
  type LaneKind,
  Lanes,
  precisionIsFree,
  roundsToNearest,
} from "./sse_lanes.ts";

/** The four forms of most instructions: suffix, mandatory prefix, operands, wasm type and elements. */
interface Form {
  readonly suffix: "ps" | "pd" | "ss" | "sd";
  readonly prefix: string;
  readonly operands: string;
  readonly kind: LaneKind;
  readonly width: Width;
  readonly count: number;
}

const PS: Form = {
  suffix: "ps",
  prefix: "np",
  operands: "Vx, Wx",
  kind: "f32x4",
  width: 32,
  count: 4,
};
const PD: Form = {
  suffix: "pd",
  prefix: "66",
  operands: "Vx, Wx",
  kind: "f64x2",
  width: 64,
  count: 2,
};
const SS: Form = {
  suffix: "ss",
  prefix: "f3",
  operands: "Vd, Wd",
  kind: "f32",
  width: 32,
  count: 1,
};
const SD: Form = {
  suffix: "sd",
  prefix: "f2",
  operands: "Vq, Wq",
  kind: "f64",
  width: 64,
  count: 1,
};
const FORMS: readonly Form[] = [PS, PD, SS, SD];

function sse(fallback?: HelperSemantic): DefineOptions {
  return fallback ? { unit: "sse", fallback } : { unit: "sse" };
}

// Arithmetic.

/** The fast path of an operation of two operands. */
interface Arithmetic {
  /** Computes. */
  readonly result: (f: Lanes, a: Value, b: Value) => Value;
  /** Lanes where a result of zero is exact, the operands being usable. */
  readonly zeroIsExact: (f: Lanes, a: Value, b: Value, r: Value) => Value;
  /** Lanes where the result is exact. */
  readonly isExact: (f: Lanes, a: Value, b: Value, r: Value) => Value;
}

const ADD: Arithmetic = {
  result: (f, a, b) => f.op("add", a, b),
  zeroIsExact: (f, _a, _b, r) => f.isZero(r),
  isExact: (f, a, b, r) => f.isExactSum(a, b, r),
};
const SUB: Arithmetic = {
  result: (f, a, b) => f.op("sub", a, b),
  zeroIsExact: (f, _a, _b, r) => f.isZero(r),
  isExact: (f, a, b, r) => f.isExactSum(a, f.op("neg", b), r),
};
const MUL: Arithmetic = {
  result: (f, a, b) => f.op("mul", a, b),
  zeroIsExact: (f, a, b, r) =>
    f.and(f.isZero(r), f.or(f.isZero(a), f.isZero(b))),
  isExact: (f, a, b, r) => f.isExactProduct(a, b, r),
};
const DIV: Arithmetic = {
  result: (f, a, b) => f.op("div", a, b),
  zeroIsExact: (f, a, _b, r) => f.and(f.isZero(r), f.isZero(a)),
  isExact: (f, a, b, r) => {
    const back = f.op("mul", r, b);
    return f.and(f.op("eq", back, a), f.isExactProduct(r, b, back));
  },
};

/** Computes a op b, having left to the exact version unless that is all there is to do. */
function compute(
  e: Emitter,
  f: Lanes,
  arithmetic: Arithmetic,
  a: Value,
  b: Value,
): Value {
  const r = arithmetic.result(f, a, b);
  const ordinary = f.and(f.and(f.isNormal(a), f.isNormal(b)), f.isSafe(r));
  fallbackUnless(e, e.op("i32.and", f.all(ordinary), inexactIsFree(e)), () => {
    const usable = f.and(f.isUsable(a), f.isUsable(b));
    const safe = f.or(f.isSafe(r), arithmetic.zeroIsExact(f, a, b, r));
    const exact = e.op(
      "i32.and",
      f.all(arithmetic.isExact(f, a, b, r)),
      roundsToNearest(e),
    );
    return e.op(
      "i32.and",
      f.all(f.and(usable, safe)),
      e.op("i32.or", inexactIsFree(e), exact),
    );
  });
  return r;
}

function arithmeticSemantic(kind: LaneKind, arithmetic: Arithmetic): Semantic {
  return (e, dst: Operand, src: Operand) => {
    const f = new Lanes(e, kind);
    const b = f.read(src), a = f.read(dst);
    e.write(dst, f.toBits(compute(e, f, arithmetic, a, b)));
  };
}

for (
  const [name, opcode, arithmetic, exact] of [
    ["add", "58", ADD, (f, x, y, env) => f.add(x, y, env)],
    ["mul", "59", MUL, (f, x, y, env) => f.mul(x, y, env)],
    ["sub", "5c", SUB, (f, x, y, env) => f.sub(x, y, env)],
    ["div", "5e", DIV, (f, x, y, env) => f.div(x, y, env)],
  ] as readonly (readonly [string, string, Arithmetic, ElementOperation])[]
) {
  for (const { suffix, prefix, operands, kind, width, count } of FORMS) {
    define(
      `${name}${suffix}`,
      `${prefix} 0f ${opcode} /r`,
      operands,
      arithmeticSemantic(kind, arithmetic),
      sse(exactElements(width, count, exact)),
    );
  }
}

for (const { suffix, prefix, operands, kind, width, count } of FORMS) {
  const semantic: Semantic = (e, dst: Operand, src: Operand) => {
    const f = new Lanes(e, kind);
    const a = f.read(src);
    const r = f.op("sqrt", a);
    const ordinary = f.and(f.isNormal(a), f.isSafe(r));
    fallbackUnless(
      e,
      e.op("i32.and", f.all(ordinary), inexactIsFree(e)),
      () => {
        const safe = f.or(ordinary, f.isZero(a));
        const back = f.op("mul", r, r);
        const square = f.and(f.op("eq", back, a), f.isExactProduct(r, r, back));
        const exact = e.op("i32.and", f.all(square), roundsToNearest(e));
        return e.op(
          "i32.and",
          f.all(safe),
          e.op("i32.or", inexactIsFree(e), exact),
        );
      },
    );
    e.write(dst, f.toBits(r));
  };
  const exact = exactElements(width, count, (f, _x, y, env) => f.sqrt(y, env));
  define(`sqrt${suffix}`, `${prefix} 0f 51 /r`, operands, semantic, sse(exact));
}

// Horizontal and alternating sums (SSE3).

/** Lanes that HADD and HSUB pair up: the first and the second of each pair, from both operands. */
const PAIRS = {
  f32x4: [[0, 2, 4, 6], [1, 3, 5, 7]],
  f64x2: [[0, 2], [1, 3]],
} as const;

/** A shuffle of whole lanes. */
function gather(
  e: Emitter,
  width: Width,
  indices: readonly number[],
  a: Value,
  b: Value,
): Value {
  const size = width / 8;
  const bytes = indices.flatMap((lane) =>
    Array.from({ length: size }, (_, i) => lane * size + i)
  );
  return e.shuffle(bytes, a, b);
}

for (
  const [form, prefix] of [[PS, "f2"], [
    PD,
    "66",
  ]] as readonly (readonly [Form, string])[]
) {
  const { suffix, kind, width, count } = form;
  const pairs = PAIRS[kind as "f32x4" | "f64x2"];
  for (
    const [name, opcode, arithmetic, subtract] of [["hadd", "7c", ADD, false], [
      "hsub",
      "7d",
      SUB,
      true,
    ]] as const
  ) {
    const semantic: Semantic = (e, dst: Operand, src: Operand) => {
      const f = new Lanes(e, kind);
      const b = f.read(src), a = f.read(dst);
      const first = gather(e, width, pairs[0], a, b),
        second = gather(e, width, pairs[1], a, b);
      e.write(dst, compute(e, f, arithmetic, first, second));
    };
    const exact = exactVector(width, count, (f, x, y, env) => {
      const all = [...x, ...y];
      return x.map((_, i) =>
        subtract
          ? f.sub(all[2 * i], all[2 * i + 1], env)
          : f.add(all[2 * i], all[2 * i + 1], env)
      );
    });
    define(
      `${name}${suffix}`,
      `${prefix} 0f ${opcode} /r`,
      "Vx, Wx",
      semantic,
      sse(exact),
    );
  }
  const semantic: Semantic = (e, dst: Operand, src: Operand) => {
    const f = new Lanes(e, kind);
    const b = f.read(src), a = f.read(dst);
    // Subtracting is adding with the sign turned.
    const signs = Array.from(
      { length: 16 },
      (_, i) => i % (width / 4) === width / 8 - 1 ? 0x80 : 0,
    );
    const turned = e.op("v128.xor", b, e.v128(signs));
    e.write(dst, compute(e, f, ADD, a, turned));
  };
  const exact = exactVector(
    width,
    count,
    (f, x, y, env) =>
      x.map((_, i) => i % 2 ? f.add(x[i], y[i], env) : f.sub(x[i], y[i], env)),
  );
  define(
    `addsub${suffix}`,
    `${prefix} 0f d0 /r`,
    "Vx, Wx",
    semantic,
    sse(exact),
  );
}

// Minimum and maximum: the second operand unless the first is truly less or greater.

for (const { suffix, prefix, operands, kind, width, count } of FORMS) {
  const vector = count > 1;
  for (
    const [name, opcode, test, packed] of [["min", "5d", "lt", "pmin"], [
      "max",
      "5f",
      "gt",
      "pmax",
    ]] as const
  ) {
    const semantic: Semantic = (e, dst: Operand, src: Operand) => {
      const f = new Lanes(e, kind);
      const b = f.read(src), a = f.read(dst);
      const usable = f.all(f.and(f.isUsable(a), f.isUsable(b)));
      e.fallbackIf(e.op("i32.eqz", usable));
      e.write(
        dst,
        f.toBits(
          vector ? f.op(packed, b, a) : e.select(f.op(test, a, b), a, b),
        ),
      );
    };
    const exact = exactElements(
      width,
      count,
      (f, x, y, env) => f[name](x, y, env),
    );
    define(
      `${name}${suffix}`,
      `${prefix} 0f ${opcode} /r`,
      operands,
      semantic,
      sse(exact),
    );
  }
}

// Comparisons.

/** CMPPS predicates: bits 1:0 choose equal, less, less or equal, unordered; bit 2 negates. */
const PREDICATE_EQUAL = 0, PREDICATE_LESS = 1, PREDICATE_UNORDERED = 3;
const PREDICATE_NEGATED = 4;
/** Predicates (without negation) for which a quiet NaN is an invalid operation. */
function isSignaling(predicate: number): boolean {
  const kind = predicate & ~PREDICATE_NEGATED;
  return kind !== PREDICATE_EQUAL && kind !== PREDICATE_UNORDERED;
}

/** All ones or all zeros from an i32 condition, in every lane or as i64. */
function spread(e: Emitter, vector: boolean, condition: Value): Value {
  const mask = e.op("i32.sub", e.i32(0), condition);
  return vector ? e.op("i32x4.splat", mask) : e.op("i64.extend_i32_s", mask);
}

const compareExactly: ElementOperation = (f, x, y, env, insn) => {
  const predicate = Number(insn.imm & 7n);
  const relation = f.compare(x, y, isSignaling(predicate), env);
  const kind = predicate & ~PREDICATE_NEGATED;
  let holds: boolean;
  if (kind === PREDICATE_UNORDERED) holds = relation === 2;
  else if (kind === PREDICATE_EQUAL) holds = relation === 0;
  else if (kind === PREDICATE_LESS) holds = relation === -1;
  else holds = relation === -1 || relation === 0;
  const ones = (f === float32) ? 0xffffffffn : 0xffffffffffffffffn;
  return holds !== ((predicate & PREDICATE_NEGATED) !== 0) ? ones : 0n;
};

for (const { suffix, prefix, operands, kind, width, count } of FORMS) {
  const vector = count > 1;
  const semantic: Semantic = (e, dst: Operand, src: Operand, imm: Operand) => {
    const f = new Lanes(e, kind);
    const b = f.read(src), a = f.read(dst);
    e.fallbackIf(e.op("i32.eqz", f.all(f.and(f.isUsable(a), f.isUsable(b)))));
    const predicate = e.op("i32.wrap_i64", e.read(imm));
    const choice = e.op("i32.and", predicate, e.i32(3));
    const negated = e.op(
      "i32.and",
      e.op("i32.shr_u", predicate, e.i32(2)),
      e.i32(1),
    );
    // Operands are ordered here. Equality counts for predicates 0 and 2, less-than for 1 and 2.
    const wantsEqual = e.op("i32.eqz", e.op("i32.and", choice, e.i32(1)));
    const wantsLess = e.op(
      "i32.lt_u",
      e.op("i32.sub", choice, e.i32(1)),
      e.i32(2),
    );
    const type = vector ? "v128" : "i64";
    const mask = (name: string) =>
      vector ? f.op(name, a, b) : spread(e, false, f.op(name, a, b));
    const equal = e.op(
      `${type}.and`,
      mask("eq"),
      spread(e, vector, wantsEqual),
    );
    const less = e.op(`${type}.and`, mask("lt"), spread(e, vector, wantsLess));
    const either = e.op(`${type}.or`, equal, less);
    e.write(dst, e.op(`${type}.xor`, either, spread(e, vector, negated)));
  };
  const exact = exactElements(width, count, compareExactly);
  define(
    `cmp${suffix}`,
    `${prefix} 0f c2 /r`,
    `${operands}, Ib`,
    semantic,
    sse(exact),
  );
}

for (
  const [form, prefix] of [[SS, "np"], [
    SD,
    "66",
  ]] as readonly (readonly [Form, string])[]
) {
  for (
    const [name, opcode, signaling] of [["ucomi", "2e", false], [
      "comi",
      "2f",
      true,
    ]] as const
  ) {
    const semantic: Semantic = (e, dst: Operand, src: Operand) => {
      const f = new Lanes(e, form.kind);
      const b = f.read(src), a = f.read(dst);
      e.fallbackIf(e.op("i32.eqz", f.and(f.isUsable(a), f.isUsable(b))));
      e.flags.zpc(f.op("eq", a, b), e.i32(0), f.op("lt", a, b));
    };
    const arithmetic = arithmeticOf(form.width);
    const exact = helper((cpu, insn) => {
      const s = cpu.state;
      const [y] = readSource(cpu, insn, form.width, 1);
      const [x] = readXmm(s, insn.reg, form.width, 1);
      const env = sseEnvironment(s);
      const relation = arithmetic.compare(x, y, signaling, env);
      reportSse(cpu, env);
      const unordered = FLAG.ZF | FLAG.PF | FLAG.CF;
      s.setArithmeticFlags(
        relation === 2
          ? unordered
          : relation === -1
          ? FLAG.CF
          : relation === 0
          ? FLAG.ZF
          : 0,
      );
    });
    define(
      `${name}${form.suffix}`,
      `${prefix} 0f ${opcode} /r`,
      form.operands,
      semantic,
      sse(exact),
    );
  }
}

// Rounding to integers (SSE4.1).

/** Immediate of ROUNDPS: bits 1:0 the direction, bit 2 take MXCSR's, bit 3 raise no PE. */
const ROUND_BY_MXCSR = 4, ROUND_QUIETLY = 8;

const roundExactly: ElementOperation = (f, _x, y, env, insn) => {
  const control = Number(insn.imm & 0xffn);
  const rounding = control & ROUND_BY_MXCSR
    ? env.rounding
    : (control & 3) as Rounding;
  return f.roundToInteger(y, rounding, env, (control & ROUND_QUIETLY) !== 0);
};

for (
  const [form, opcode] of [[PS, "08"], [PD, "09"], [SS, "0a"], [
    SD,
    "0b",
  ]] as const
) {
  const { suffix, operands, kind, width, count } = form;
  const semantic: Semantic = (e, dst: Operand, src: Operand, imm: Operand) => {
    const f = new Lanes(e, kind);
    const a = f.read(src);
    const control = e.op("i32.wrap_i64", e.read(imm));
    const rc = e.op("i32.shr_u", e.get32(OFF.mxcsr), e.i32(RC_SHIFT));
    const byMxcsr = e.op("i32.and", control, e.i32(ROUND_BY_MXCSR));
    const mode = e.op("i32.and", e.select(byMxcsr, rc, control), e.i32(3));
    const is = (n: number) => e.op("i32.eq", mode, e.i32(n));
    const r = e.select(
      e.op("i32.eqz", mode),
      f.op("nearest", a),
      e.select(
        is(1),
        f.op("floor", a),
        e.select(is(2), f.op("ceil", a), f.op("trunc", a)),
      ),
    );
    const quiet = e.op(
      "i32.ne",
      e.op("i32.and", control, e.i32(ROUND_QUIETLY)),
      e.i32(0),
    );
    const silent = e.op(
      "i32.or",
      e.op("i32.or", quiet, precisionIsFree(e)),
      f.all(f.op("eq", r, a)),
    );
    e.fallbackIf(
      e.op("i32.eqz", e.op("i32.and", f.all(f.isUsable(a)), silent)),
    );
    e.write(dst, f.toBits(r));
  };
  define(
    `round${suffix}`,
    `66 0f 3a ${opcode} /r`,
    `${operands}, Ib`,
    semantic,
    sse(exactElements(width, count, roundExactly)),
  );
}

// Dot products (SSE4.1): the immediate's upper half chooses the products, its lower half the results.

for (const [form, opcode] of [[PS, "40"], [PD, "41"]] as const) {
  const { suffix, width, count } = form;
  const f = arithmeticOf(width);
  const dotProduct = helper((cpu, insn) => {
    const s = cpu.state;
    const y = readSource(cpu, insn, width, count);
    const x = readXmm(s, insn.reg, width, count);
    const control = Number(insn.imm & 0xffn);
    const env = sseEnvironment(s);
    // An unmasked exception of the products keeps the sums from being looked at, and so on.
    const stage = (elements: Elements): Elements => {
      reportSse(cpu, env);
      env.flags = 0;
      return elements;
    };
    const chosen = (i: number) => (control >> (4 + i)) & 1;
    let sums = stage(x.map((_, i) => chosen(i) ? f.mul(x[i], y[i], env) : 0n));
    while (sums.length > 1) {
      const pairs = Array.from({ length: sums.length / 2 }, (_, i) => 2 * i);
      sums = stage(pairs.map((i) => f.add(sums[i], sums[i + 1], env)));
    }
    writeXmm(
      s,
      insn.reg,
      width,
      x.map((_, i) => (control >> i) & 1 ? sums[0] : 0n),
    );
  });
  define(
    `dp${suffix}`,
    `66 0f 3a ${opcode} /r`,
    "Vx, Wx, Ib",
    dotProduct,
    sse(),
  );
}

// Approximate reciprocals: no flags, no rounding control; here they are the correctly rounded ones,
// well within the relative error of 1.5 * 2^-12 that the specification allows.

const bits32 = new DataView(new ArrayBuffer(4));

/** The smallest normal binary32: smaller operands and results are zeros. */
const LEAST_NORMAL = 2 ** -126;
const QUIET_BIT32 = 0x00400000n;

function approximately(operation: (x: number) => number): ElementOperation {
  return (_f, _x, y) => {
    bits32.setUint32(0, Number(y));
    let x = bits32.getFloat32(0);
    if (Number.isNaN(x)) return y | QUIET_BIT32;
    if (Math.abs(x) < LEAST_NORMAL) x *= 0;
    const result = operation(x);
    if (Number.isNaN(result)) return float32.defaultNaN;
    bits32.setFloat32(0, Math.abs(result) < LEAST_NORMAL ? result * 0 : result);
    return BigInt(bits32.getUint32(0));
  };
}

for (const form of [PS, SS]) {
  for (
    const [name, opcode, operation] of [
      ["rsqrt", "52", (x: number) => 1 / Math.sqrt(x)],
      ["rcp", "53", (x: number) => 1 / x],
    ] as const
  ) {
    define(
      `${name}${form.suffix}`,
      `${form.prefix} 0f ${opcode} /r`,
      form.operands,
      exactElements(form.width, form.count, approximately(operation)),
      sse(),
    );
  }
}
