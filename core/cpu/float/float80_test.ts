import { assert, assertEquals } from "@std/assert";
import {
  ALL_EXCEPTIONS,
  type FpEnv,
  fpEnv,
  IE,
  isStopped,
  type Precision,
  raised,
  type Rounding,
} from "./env.ts";
import * as float80 from "./float80.ts";
import type { F80 } from "./float80.ts";
import { againstHost } from "./testdata/against_host.ts";
import type { Datum, HostResult } from "./testdata/host_fpu.ts";
import type { Operands } from "./testdata/operands.ts";

const PRECISIONS: readonly (readonly [Precision, number])[] = [
  [24, 0],
  [53, 2],
  [64, 3],
];
const FLAGS = ALL_EXCEPTIONS;
const C0 = 0x0100, C1 = 0x0200, C2 = 0x0400, C3 = 0x4000;

/** A control word at random and the environment that it stands for. */
function controls(
  o: Operands,
  unmasked: boolean,
): { controlWord: number; env: FpEnv } {
  const rounding = o.below(4) as Rounding;
  const [precision, pc] = o.pick(PRECISIONS);
  const masks = unmasked && o.below(2) ? o.below(64) : ALL_EXCEPTIONS;
  const controlWord = 0x40 | masks | (pc << 8) | (rounding << 10);
  return { controlWord, env: fpEnv({ rounding, precision, masks }) };
}

function show(x: Datum): string {
  return `${x.se.toString(16).padStart(4, "0")}:${
    x.sig.toString(16).padStart(16, "0")
  }`;
}

/** The exceptions and, if there is a result, C1. */
function verifyStatus(result: HostResult, env: FpEnv): void {
  const looked = FLAGS | (isStopped(env) ? 0 : C1);
  const expected = raised(env) | (env.roundedUp ? C1 : 0);
  assertEquals(
    (result.statusWord & looked).toString(16),
    (expected & looked).toString(16),
  );
}

function assertDatum(actual: Datum, expected: Datum): void {
  assertEquals(show(actual), show(expected));
}

type Binary = (x: F80, y: F80, env: FpEnv) => F80;

const BINARY: readonly (readonly [string, number[], Binary])[] = [
  ["FADD", [0xd8, 0xc1], float80.add],
  ["FSUB", [0xd8, 0xe1], float80.sub],
  ["FSUBR", [0xd8, 0xe9], (x, y, env) => float80.sub(y, x, env)],
  ["FMUL", [0xd8, 0xc9], float80.mul],
  ["FDIV", [0xd8, 0xf1], float80.div],
  ["FSCALE", [0xd9, 0xfd], float80.scale],
];

for (const [name, code, operation] of BINARY) {
  Deno.test(`float80 ${name} agrees with the host`, () =>
    againstHost((o) => {
      const x = o.f80(), y = o.near80(x);
      const { controlWord, env } = controls(o, true);
      const expected = operation(x, y, env);
      return {
        host: { code, st: [x, y], controlWord },
        text: `${name} ${show(x)} ${show(y)} cw=${controlWord.toString(16)}`,
        verify: (result) => {
          verifyStatus(result, env);
          if (!isStopped(env)) assertDatum(expected, result.st[0]);
        },
      };
    }));
}

const UNARY:
  readonly (readonly [string, number[], (x: F80, env: FpEnv) => F80])[] = [
    ["FSQRT", [0xd9, 0xfa], float80.sqrt],
    ["FRNDINT", [0xd9, 0xfc], float80.roundToInteger],
    ["FABS", [0xd9, 0xe1], float80.abs],
    ["FCHS", [0xd9, 0xe0], float80.negate],
  ];

for (const [name, code, operation] of UNARY) {
  Deno.test(`float80 ${name} agrees with the host`, () =>
    againstHost((o) => {
      const x = o.f80();
      const { controlWord, env } = controls(o, true);
      const expected = operation(x, env);
      return {
        host: { code, st: [x], controlWord },
        text: `${name} ${show(x)} cw=${controlWord.toString(16)}`,
        verify: (result) => {
          verifyStatus(result, env);
          if (!isStopped(env)) assertDatum(expected, result.st[0]);
        },
      };
    }));
}

for (
  const [name, code, nearest] of [["FPREM", 0xf8, false], [
    "FPREM1",
    0xf5,
    true,
  ]] as const
) {
  Deno.test(`float80 ${name} agrees with the host`, () =>
    againstHost((o) => {
      const x = o.f80(), y = o.near80(x);
      const { controlWord, env } = controls(o, true);
      const expected = float80.remainder(x, y, nearest, env);
      const q = expected.quotient;
      const conditions = (q & 4 ? C0 : 0) | (q & 2 ? C3 : 0) |
        (q & 1 ? C1 : 0) |
        (expected.incomplete ? C2 : 0);
      return {
        host: { code: [0xd9, code], st: [x, y], controlWord },
        text: `${name} ${show(x)} ${show(y)} cw=${controlWord.toString(16)}`,
        verify: (result) => {
          assertEquals(result.statusWord & FLAGS, raised(env));
          if (isStopped(env)) return;
          assertDatum(expected.value, result.st[0]);
          assertEquals(result.statusWord & (C0 | C1 | C2 | C3), conditions);
        },
      };
    }));
}

Deno.test("float80 FXTRACT agrees with the host", () =>
  againstHost((o) => {
    const x = o.f80();
    const { controlWord, env } = controls(o, true);
    const expected = float80.extract(x, env);
    return {
      host: { code: [0xd9, 0xf4], st: [x], controlWord },
      text: `FXTRACT ${show(x)} cw=${controlWord.toString(16)}`,
      verify: (result) => {
        assertEquals(result.statusWord & FLAGS, raised(env));
        if (isStopped(env)) return;
        assertDatum(expected.significand, result.st[0]);
        assertDatum(expected.exponent, result.st[1]);
      },
    };
  }));

for (
  const [name, code, quietly] of [["FCOM", 0xd8d1, false], [
    "FUCOM",
    0xdde1,
    true,
  ]] as const
) {
  Deno.test(`float80 ${name} agrees with the host`, () =>
    againstHost((o) => {
      const x = o.f80(), y = o.below(8) === 0 ? x : o.near80(x);
      const { controlWord, env } = controls(o, false);
      const relation = float80.compare(x, y, quietly, env);
      const conditions = relation === 2
        ? C0 | C2 | C3
        : relation < 0
        ? C0
        : relation
        ? 0
        : C3;
      return {
        host: { code: [code >> 8, code & 0xff], st: [x, y], controlWord },
        text: `${name} ${show(x)} ${show(y)}`,
        verify: (result) =>
          assertEquals(
            (result.statusWord & (FLAGS | C0 | C2 | C3)).toString(16),
            (env.flags | conditions).toString(16),
          ),
      };
    }));
}

Deno.test("float80 FXAM agrees with the host", () =>
  againstHost((o) => {
    const x = o.f80();
    const c = float80.examine(x);
    const expected = (c & 4 ? C3 : 0) | (c & 2 ? C2 : 0) | (c & 1 ? C0 : 0) |
      (x.se & float80.SIGN ? C1 : 0);
    return {
      host: { code: [0xd9, 0xe5], st: [x] },
      text: `FXAM ${show(x)}`,
      verify: (result) =>
        assertEquals(result.statusWord & (C0 | C1 | C2 | C3), expected),
    };
  }));

const LOADS:
  readonly (readonly [string, number[], (o: Operands) => bigint, number])[] = [
    ["FLD m32", [0xd9, 0x07], (o) => o.f32(), 4],
    ["FLD m64", [0xdd, 0x07], (o) => o.f64(), 8],
    ["FILD m16", [0xdf, 0x07], (o) => BigInt.asUintN(16, o.next()), 2],
    ["FILD m32", [0xdb, 0x07], (o) => BigInt.asUintN(32, o.next()), 4],
    ["FILD m64", [0xdf, 0x2f], (o) => o.next() >> BigInt(o.below(64)), 8],
    ["FBLD", [0xdf, 0x27], bcdOperand, 10],
  ];

function bcdOperand(o: Operands): bigint {
  const digits = o.next() % 10n ** BigInt(1 + o.below(18));
  return BigInt(`0x${digits}`) | (BigInt(o.below(2)) << 79n);
}

const LOAD: Record<string, (bits: bigint, env: FpEnv) => F80> = {
  "FLD m32": (bits, env) => float80.fromFloat32(Number(bits), env),
  "FLD m64": float80.fromFloat64,
  "FILD m16": (bits) => float80.fromInteger(BigInt.asIntN(16, bits)),
  "FILD m32": (bits) => float80.fromInteger(BigInt.asIntN(32, bits)),
  "FILD m64": (bits) => float80.fromInteger(BigInt.asIntN(64, bits)),
  "FBLD": float80.fromBcd,
};

function bytesOf(bits: bigint, size: number): Uint8Array {
  return Uint8Array.from(
    { length: size },
    (_, i) => Number((bits >> BigInt(i * 8)) & 0xffn),
  );
}

function bitsOf(bytes: Uint8Array): bigint {
  return bytes.reduceRight((bits, byte) => (bits << 8n) | BigInt(byte), 0n);
}

for (const [name, code, operand, size] of LOADS) {
  Deno.test(`float80 ${name} agrees with the host`, () =>
    againstHost((o) => {
      const bits = operand(o);
      const { controlWord, env } = controls(o, true);
      const expected = LOAD[name](bits, env);
      return {
        host: { code, memory: bytesOf(bits, size), controlWord },
        text: `${name} ${bits.toString(16)}`,
        verify: (result) => {
          assertEquals(result.statusWord & FLAGS, raised(env));
          const loads = (env.flags & ~env.masks & IE) === 0;
          assertEquals(result.tagWord === 0xffff, !loads);
          if (loads) assertDatum(expected, result.st[0]);
        },
      };
    }));
}

const STORES: readonly (readonly [
  string,
  number[],
  number,
  (x: F80, env: FpEnv) => bigint,
])[] = [
  [
    "FSTP m32",
    [0xd9, 0x1f],
    4,
    (x, env) => BigInt(float80.toFloat32(x, env)),
  ],
  ["FSTP m64", [0xdd, 0x1f], 8, float80.toFloat64],
  [
    "FISTP m16",
    [0xdf, 0x1f],
    2,
    (x, env) => float80.toInteger(x, 16, false, env),
  ],
  [
    "FISTP m32",
    [0xdb, 0x1f],
    4,
    (x, env) => float80.toInteger(x, 32, false, env),
  ],
  [
    "FISTP m64",
    [0xdf, 0x3f],
    8,
    (x, env) => float80.toInteger(x, 64, false, env),
  ],
  [
    "FISTTP m32",
    [0xdb, 0x0f],
    4,
    (x, env) => float80.toInteger(x, 32, true, env),
  ],
  ["FBSTP", [0xdf, 0x37], 10, float80.toBcd],
];

/** A datum of a magnitude that the stores care about, more often than not. */
function storable(o: Operands, name: string): F80 {
  const x = o.f80();
  if (o.below(4) === 0) return x;
  const top = name.includes("m32") && name.startsWith("FST")
    ? 300
    : name.startsWith("FSTP")
    ? 2200
    : 136;
  const exponent = 16383 + o.below(top) - (top >> 1);
  return { se: (x.se & 0x8000) | exponent, sig: x.sig | (1n << 63n) };
}

for (const [name, code, size, operation] of STORES) {
  Deno.test(`float80 ${name} agrees with the host`, () =>
    againstHost((o) => {
      const x = storable(o, name);
      const { controlWord, env } = controls(o, true);
      const expected = BigInt.asUintN(size * 8, operation(x, env));
      const unmasked = env.flags & ~env.masks & 0x1f; // OE and UE too: the store does not happen
      return {
        host: {
          code,
          st: [x],
          memory: new Uint8Array(size).fill(0xa5),
          controlWord,
        },
        text: `${name} ${show(x)} cw=${controlWord.toString(16)}`,
        verify: (result) => {
          const actual = bitsOf(result.memory.subarray(0, size));
          if (unmasked) {
            const flags = result.statusWord & FLAGS & ~0x20;
            assertEquals(flags, env.flags & ~0x20);
            assertEquals(actual, bitsOf(new Uint8Array(size).fill(0xa5)));
            assert(result.tagWord !== 0xffff, "popped");
            return;
          }
          verifyStatus(result, env);
          assertEquals(actual.toString(16), expected.toString(16));
        },
      };
    }));
}

const CONSTANTS: readonly (readonly [string, number, readonly F80[]])[] = [
  ["FLDL2T", 0xe9, float80.LOAD_L2T],
  ["FLDL2E", 0xea, float80.LOAD_L2E],
  ["FLDPI", 0xeb, float80.LOAD_PI],
  ["FLDLG2", 0xec, float80.LOAD_LG2],
  ["FLDLN2", 0xed, float80.LOAD_LN2],
];

Deno.test("float80 constants agree with the host in every rounding mode", () =>
  againstHost((o) => {
    const [name, code, values] = o.pick(CONSTANTS);
    const { controlWord, env } = controls(o, false);
    return {
      host: { code: [0xd9, code], controlWord },
      text: `${name} cw=${controlWord.toString(16)}`,
      verify: (result) => assertDatum(values[env.rounding], result.st[0]),
    };
  }));

/** Position of a datum on a line where neighbours differ by one. */
function ordinal(x: Datum): bigint {
  const exponent = BigInt(x.se & 0x7fff);
  const magnitude = ((exponent === 0n ? 0n : exponent - 1n) << 63n) + x.sig;
  return x.se & float80.SIGN ? -magnitude : magnitude;
}

function assertWithinOneUlp(actual: Datum, host: Datum): void {
  const distance = ordinal(actual) - ordinal(host);
  const special = (x: Datum) => (x.se & 0x7fff) === 0x7fff;
  if (special(actual) || special(host) || distance < -1n || distance > 1n) {
    assertDatum(actual, host);
  }
}

type Results = readonly F80[] | undefined;
type Function = readonly [
  string,
  number,
  number,
  (x: F80, y: F80, env: FpEnv) => Results,
  (o: Operands) => readonly [F80, F80],
];

function moderate(o: Operands, lowest: number, count: number): F80 {
  const x = o.f80();
  return {
    se: (x.se & 0x8000) | (16383 + lowest + o.below(count)),
    sig: x.sig | (1n << 63n),
  };
}

function angle(o: Operands): readonly [F80, F80] {
  return [o.below(4) ? moderate(o, -70, 133) : o.f80(), float80.ONE];
}

function pair(o: Operands): readonly [F80, F80] {
  const x = o.below(4) ? moderate(o, -80, 160) : o.f80();
  return [x, o.near80(x)];
}

function positivePair(o: Operands): readonly [F80, F80] {
  const [x, y] = pair(o);
  return [{ se: x.se & (o.below(20) ? 0x7fff : 0xffff), sig: x.sig }, y];
}

const FUNCTIONS: readonly Function[] = [
  ["F2XM1", 0xf0, 1, (x, _, env) => [float80.exp2Minus1(x, env)], (o) => [
    o.below(8) ? moderate(o, -75, 75) : o.f80(),
    float80.ONE,
  ]],
  ["FYL2X", 0xf1, 2, (x, y, env) => [float80.yLog2(x, y, env)], positivePair],
  ["FYL2XP1", 0xf9, 2, (x, y, env) => [float80.yLog2Plus1(x, y, env)], (o) => [
    moderate(o, -80, 78),
    o.f80(),
  ]],
  ["FPATAN", 0xf3, 2, (x, y, env) => [float80.arctangent(x, y, env)], pair],
  ["FSIN", 0xfe, 1, (x, _, env) => {
    const r = float80.sine(x, env);
    return r && [r];
  }, angle],
  ["FCOS", 0xff, 1, (x, _, env) => {
    const r = float80.cosine(x, env);
    return r && [r];
  }, angle],
  ["FSINCOS", 0xfb, 1, (x, _, env) => {
    const r = float80.sineCosine(x, env);
    return r && [r.cos, r.sin];
  }, angle],
  ["FPTAN", 0xf2, 1, (x, _, env) => {
    const r = float80.tangent(x, env);
    return r && [r.pushed, r.tan];
  }, angle],
];

for (const [name, code, operands, operation, make] of FUNCTIONS) {
  Deno.test(`float80 ${name} is within one unit in the last place of the host`, () =>
    againstHost((o) => {
      const [x, y] = make(o);
      const { controlWord, env } = controls(o, false);
      env.precision = 64;
      const expected = operation(x, y, env);
      return {
        host: {
          code: [0xd9, code],
          st: operands === 2 ? [x, y] : [x],
          controlWord,
        },
        text: `${name} ${show(x)} ${show(y)} cw=${controlWord.toString(16)}`,
        verify: (result) => {
          assertEquals(
            (result.statusWord & C2) !== 0,
            expected === undefined,
            "C2",
          );
          if (expected === undefined) return;
          assertEquals(
            (result.statusWord & FLAGS).toString(16),
            env.flags.toString(16),
          );
          expected.forEach((value, i) =>
            assertWithinOneUlp(value, result.st[i])
          );
        },
      };
    }));
}
