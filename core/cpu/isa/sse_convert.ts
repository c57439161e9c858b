/**
 * SSE and SSE2 conversions between floating point and integers, and between the two formats.
 *
 * Intel SDM volume 2, the CVT instructions; volume 1, 11.4.1.6 and 11.5.2 for the exceptions.
 *
 * @module
 */
import { type BinaryFloat, float32, float64 } from "../float/binary.ts";
import type { FpEnv } from "../float/env.ts";
import type { Emitter, Operand, Value } from "../emitter.ts";
import type { HelperCpu, Insn } from "../helper.ts";
import { type CpuState, GuestFault, OFF, ST_STRIDE } from "../state.ts";
import {
  define,
  type DefineOptions,
  helper,
  type HelperSemantic,
  type Semantic,
} from "./define.ts";
import {
  arithmeticOf,
  type Elements,
  readSource,
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
import { checkPending, setMmxState } from "./x87_state.ts";

function sse(fallback?: HelperSemantic): DefineOptions {
  return fallback ? { unit: "sse", fallback } : { unit: "sse" };
}

/** An exact conversion that writes XMM elements. */
function exactToXmm(
  sourceWidth: Width,
  sourceCount: number,
  resultWidth: Width,
  convert: (x: Elements, env: FpEnv) => Elements,
): HelperSemantic {
  return helper((cpu, insn) => {
    const x = readSource(cpu, insn, sourceWidth, sourceCount);
    const env = sseEnvironment(cpu.state);
    const result = convert(x, env);
    reportSse(cpu, env);
    writeXmm(cpu.state, insn.reg, resultWidth, result);
  });
}

// Between the formats.

const toDouble = (x: bigint, env: FpEnv) => float64.convert(x, float32, env);
const toSingle = (x: bigint, env: FpEnv) => float32.convert(x, float64, env);

define(
  "cvtss2sd",
  "f3 0f 5a /r",
  "Vq, Wd",
  (e, dst: Operand, src: Operand) => {
    const single = new Lanes(e, "f32"), double = new Lanes(e, "f64");
    const a = single.read(src);
    e.fallbackIf(e.op("i32.eqz", single.isUsable(a)));
    e.write(dst, double.toBits(e.op("f64.promote_f32", a)));
  },
  sse(exactToXmm(32, 1, 64, ([x], env) => [toDouble(x, env)])),
);

/** The two low binary32 of a vector: each is usable if its binary64 is not below their range. */
const LEAST_SINGLE = 2 ** -126;

define(
  "cvtps2pd",
  "np 0f 5a /r",
  "Vx, Wq",
  (e, dst: Operand, src: Operand) => {
    const double = new Lanes(e, "f64x2");
    const r = e.op("f64x2.promote_low_f32x4", e.op("i64x2.splat", e.read(src)));
    const normal = double.op(
      "ge",
      double.op("abs", r),
      double.constant(LEAST_SINGLE),
    );
    e.fallbackIf(
      e.op("i32.eqz", double.all(double.or(normal, double.isZero(r)))),
    );
    e.write(dst, r);
  },
  sse(exactToXmm(32, 2, 64, (x, env) => x.map((v) => toDouble(v, env)))),
);

/** Magnitudes for which narrowing to binary32 can neither underflow nor overflow. */
const NARROW_LEAST = 2 ** -125, NARROW_MOST = 2 ** 127;

/** Leaves to the exact version unless `a`, narrowed and widened to `back`, raises nothing. */
function checkNarrowing(
  e: Emitter,
  double: Lanes,
  a: Value,
  back: Value,
): void {
  const magnitude = double.op("abs", a);
  const within = double.and(
    double.op("ge", magnitude, double.constant(NARROW_LEAST)),
    double.op("le", magnitude, double.constant(NARROW_MOST)),
  );
  fallbackUnless(
    e,
    e.op("i32.and", double.all(within), inexactIsFree(e)),
    () => {
      const usable = double.all(double.or(within, double.isZero(a)));
      const exact = e.op(
        "i32.and",
        double.all(double.op("eq", back, a)),
        roundsToNearest(e),
      );
      return e.op("i32.and", usable, e.op("i32.or", inexactIsFree(e), exact));
    },
  );
}

define(
  "cvtsd2ss",
  "f2 0f 5a /r",
  "Vd, Wq",
  (e, dst: Operand, src: Operand) => {
    const single = new Lanes(e, "f32"), double = new Lanes(e, "f64");
    const a = double.read(src);
    const r = e.op("f32.demote_f64", a);
    checkNarrowing(e, double, a, e.op("f64.promote_f32", r));
    e.write(dst, single.toBits(r));
  },
  sse(exactToXmm(64, 1, 32, ([x], env) => [toSingle(x, env)])),
);

define(
  "cvtpd2ps",
  "66 0f 5a /r",
  "Vx, Wx",
  (e, dst: Operand, src: Operand) => {
    const double = new Lanes(e, "f64x2");
    const a = double.read(src);
    const r = e.op("f32x4.demote_f64x2_zero", a);
    checkNarrowing(e, double, a, e.op("f64x2.promote_low_f32x4", r));
    e.write(dst, r);
  },
  sse(
    exactToXmm(
      64,
      2,
      32,
      (x, env) => [...x.map((v) => toSingle(v, env)), 0n, 0n],
    ),
  ),
);

// From integers.

const signed = (width: Width, bits: bigint) => BigInt.asIntN(width, bits);

/** Integers up to this magnitude are exact in the format. */
const EXACT_INTEGER: Record<Width, bigint> = { 32: 1n << 24n, 64: 1n << 53n };

for (
  const [suffix, prefix, width, operand] of [
    ["ss", "f3", 32, "Vd"],
    ["sd", "f2", 64, "Vq"],
  ] as const
) {
  const kind: LaneKind = width === 32 ? "f32" : "f64";
  const semantic: Semantic = (e, dst: Operand, src: Operand) => {
    const f = new Lanes(e, kind);
    const bits = e.read(src);
    if (src.size === 4 && width === 64) { // always exact
      e.write(dst, f.toBits(f.op("convert_i32_s", e.op("i32.wrap_i64", bits))));
      return;
    }
    const integer = src.size === 4 ? e.op("i64.extend32_s", bits) : bits;
    const limit = EXACT_INTEGER[width];
    const offset = e.op("i64.add", integer, e.i64(limit));
    const exact = e.op("i64.le_u", offset, e.i64(2n * limit));
    e.fallbackIf(e.op("i32.eqz", e.op("i32.or", exact, inexactIsFree(e))));
    e.write(dst, f.toBits(f.op("convert_i64_s", integer)));
  };
  const arithmetic = arithmeticOf(width);
  const exact = helper((cpu, insn) => {
    const size = insn.rexW ? 8 : 4;
    const integer = signed(size === 8 ? 64 : 32, cpu.readRm(insn, size));
    const env = sseEnvironment(cpu.state);
    const result = arithmetic.fromInteger(integer, env);
    reportSse(cpu, env);
    writeXmm(cpu.state, insn.reg, width, [result]);
  });
  define(
    `cvtsi2${suffix}`,
    `${prefix} 0f 2a /r`,
    `${operand}, Ey`,
    semantic,
    sse(exact),
  );
}

define("cvtdq2pd", "f3 0f e6 /r", "Vx, Wq", (e, dst: Operand, src: Operand) => {
  e.write(
    dst,
    e.op("f64x2.convert_low_i32x4_s", e.op("i64x2.splat", e.read(src))),
  );
}, sse());

define(
  "cvtdq2ps",
  "np 0f 5b /r",
  "Vx, Wx",
  (e, dst: Operand, src: Operand) => {
    const a = e.read(src);
    const limit = e.op("i32x4.splat", e.i32(Number(EXACT_INTEGER[32])));
    const exact = e.op(
      "i32x4.all_true",
      e.op("i32x4.le_u", e.op("i32x4.abs", a), limit),
    );
    e.fallbackIf(e.op("i32.eqz", e.op("i32.or", exact, inexactIsFree(e))));
    e.write(dst, e.op("f32x4.convert_i32x4_s", a));
  },
  sse(
    exactToXmm(
      32,
      4,
      32,
      (x, env) => x.map((v) => float32.fromInteger(signed(32, v), env)),
    ),
  ),
);

// To integers.

/** The exclusive limits below which magnitudes convert, rounded either way. */
const INTEGER_LIMIT: Record<4 | 8, number> = { 4: 2 ** 31 - 1, 8: 2 ** 63 };

/** Rounds a value to an integer, leaving to the exact version unless that raises nothing. */
function toIntegral(
  e: Emitter,
  f: Lanes,
  a: Value,
  size: 4 | 8,
  truncate: boolean,
): Value {
  const r = f.op(truncate ? "trunc" : "nearest", a);
  const within = f.all(
    f.op("lt", f.op("abs", a), f.constant(INTEGER_LIMIT[size])),
  );
  const silent = e.op("i32.or", f.all(f.op("eq", r, a)), precisionIsFree(e));
  const possible = e.op("i32.and", within, silent);
  const fits = truncate
    ? possible
    : e.op("i32.and", possible, roundsToNearest(e));
  e.fallbackIf(e.op("i32.eqz", fits));
  return r;
}

for (
  const [suffix, prefix, width, operand] of [
    ["ss", "f3", 32, "Wd"],
    ["sd", "f2", 64, "Wq"],
  ] as const
) {
  for (
    const [name, opcode, truncate] of [["cvtt", "2c", true], [
      "cvt",
      "2d",
      false,
    ]] as const
  ) {
    const semantic: Semantic = (e, dst: Operand, src: Operand) => {
      const f = new Lanes(e, "f64");
      const a = width === 64
        ? f.read(src)
        : e.op("f64.promote_f32", new Lanes(e, "f32").read(src));
      const size = dst.size === 8 ? 8 : 4;
      const r = toIntegral(e, f, a, size, truncate);
      const integer = size === 8
        ? e.op("i64.trunc_sat_f64_s", r)
        : e.op("i64.extend_i32_u", e.op("i32.trunc_sat_f64_s", r));
      e.write(dst, integer);
    };
    const arithmetic = arithmeticOf(width);
    const exact = helper((cpu, insn) => {
      const size = insn.rexW ? 8 : 4;
      const [x] = readSource(cpu, insn, width, 1);
      const env = sseEnvironment(cpu.state);
      const integer = arithmetic.toInteger(
        x,
        size === 8 ? 64 : 32,
        truncate,
        env,
      );
      reportSse(cpu, env);
      cpu.state.setReg(insn.reg, BigInt.asUintN(64, integer), size);
    });
    define(
      `${name}${suffix}2si`,
      `${prefix} 0f ${opcode} /r`,
      `Gy, ${operand}`,
      semantic,
      sse(exact),
    );
  }
}

function toInt32(
  f: BinaryFloat,
  x: Elements,
  truncate: boolean,
  env: FpEnv,
): Elements {
  return x.map((v) => BigInt.asUintN(32, f.toInteger(v, 32, truncate, env)));
}

for (
  const [name, prefix, truncate] of [
    ["cvtps2dq", "66", false],
    ["cvttps2dq", "f3", true],
  ] as const
) {
  define(
    name,
    `${prefix} 0f 5b /r`,
    "Vx, Wx",
    (e, dst: Operand, src: Operand) => {
      const f = new Lanes(e, "f32x4");
      const r = toIntegral(e, f, f.read(src), 4, truncate);
      e.write(dst, e.op("i32x4.trunc_sat_f32x4_s", r));
    },
    sse(exactToXmm(32, 4, 32, (x, env) => toInt32(float32, x, truncate, env))),
  );
}

for (
  const [name, prefix, truncate] of [
    ["cvtpd2dq", "f2", false],
    ["cvttpd2dq", "66", true],
  ] as const
) {
  define(
    name,
    `${prefix} 0f e6 /r`,
    "Vx, Wx",
    (e, dst: Operand, src: Operand) => {
      const f = new Lanes(e, "f64x2");
      const r = toIntegral(e, f, f.read(src), 4, truncate);
      e.write(dst, e.op("i32x4.trunc_sat_f64x2_s_zero", r));
    },
    sse(
      exactToXmm(
        64,
        2,
        32,
        (x, env) => [...toInt32(float64, x, truncate, env), 0n, 0n],
      ),
    ),
  );
}

// Between XMM and MMX registers: rare, and always exact. Those with an MMX operand enter MMX state.

/** Exponent bits of a register written by MMX. */
const MMX_EXPONENT = 0xffff;

/** The checks of an MMX instruction, and its effect on the x87 state (SDM vol. 1, 9.2.1). */
function enterMmx(s: CpuState): void {
  const trap = s.get32(OFF.mmxTrap);
  if (trap !== 0) throw new GuestFault(trap);
  checkPending(s);
}

/** The two doublewords of an MMX register or of memory. */
function readMmxSource(cpu: HelperCpu, insn: Insn): Elements {
  const bits = insn.mod === 3
    ? cpu.state.get(OFF.st + (insn.rm & 7) * ST_STRIDE)
    : cpu.read64(cpu.linear(insn, 8, false));
  return [bits & 0xffffffffn, bits >> 32n];
}

for (
  const [name, prefix, width] of [["cvtpi2ps", "np", 32], [
    "cvtpi2pd",
    "66",
    64,
  ]] as const
) {
  const f = arithmeticOf(width);
  define(
    name,
    `${prefix} 0f 2a /r`,
    "Vq, Qq",
    helper((cpu, insn) => {
      const s = cpu.state;
      // CVTPI2PD of memory touches no MMX state.
      const mmx = insn.mod === 3 || width === 32;
      if (mmx) enterMmx(s);
      const x = readMmxSource(cpu, insn);
      const env = sseEnvironment(s);
      const result = x.map((v) => f.fromInteger(signed(32, v), env));
      reportSse(cpu, env);
      if (mmx) setMmxState(s);
      writeXmm(s, insn.reg, width, result);
    }),
    sse(),
  );
}

for (
  const [name, encoding, width, truncate] of [
    ["cvttps2pi", "np 0f 2c /r", 32, true],
    ["cvtps2pi", "np 0f 2d /r", 32, false],
    ["cvttpd2pi", "66 0f 2c /r", 64, true],
    ["cvtpd2pi", "66 0f 2d /r", 64, false],
  ] as const
) {
  const f = arithmeticOf(width);
  define(
    name,
    encoding,
    width === 32 ? "Pq, Wq" : "Pq, Wx",
    helper((cpu, insn) => {
      const s = cpu.state;
      enterMmx(s);
      const x = readSource(cpu, insn, width, 2);
      const env = sseEnvironment(s);
      const [low, high] = toInt32(f, x, truncate, env);
      reportSse(cpu, env);
      setMmxState(s);
      const at = OFF.st + (insn.reg & 7) * ST_STRIDE;
      s.set(at, low | (high << 32n));
      s.set32(at + 8, MMX_EXPONENT);
    }),
    sse(),
  );
}
