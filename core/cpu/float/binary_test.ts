import { assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  ALL_EXCEPTIONS,
  type FpEnv,
  fpEnv,
  PRE_COMPUTATION,
  raised,
  type Rounding,
} from "./env.ts";
import { type BinaryFloat, float32, float64 } from "./binary.ts";
import { againstHost } from "./testdata/against_host.ts";
import type { HostResult } from "./testdata/host_fpu.ts";
import type { Operands } from "./testdata/operands.ts";

const DAZ = 1 << 6, FTZ = 1 << 15;
const SIGFPE = 8;

/** MXCSR at random and the environment that it stands for. */
function controls(o: Operands): { mxcsr: number; env: FpEnv } {
  const rounding = o.below(4) as Rounding;
  const masks = o.below(4) === 0 ? o.below(64) : ALL_EXCEPTIONS;
  const daz = o.below(4) === 0, ftz = o.below(4) === 0;
  const mxcsr = (masks << 7) | (rounding << 13) | (daz ? DAZ : 0) |
    (ftz ? FTZ : 0);
  return { mxcsr, env: fpEnv({ rounding, masks, daz, ftz }) };
}

/** Compares flags and, unless an unmasked exception kept it from being written, the result. */
function verify(
  result: HostResult,
  env: FpEnv,
  actual: bigint,
  expected: bigint,
): void {
  assertEquals(
    (result.mxcsr & ALL_EXCEPTIONS).toString(16),
    raised(env).toString(16),
    "flags",
  );
  const trapped = (env.flags & ~env.masks) !== 0;
  assertEquals(result.signal, trapped ? SIGFPE : 0, "signal");
  if (!trapped) assertEquals(actual.toString(16), expected.toString(16));
}

interface Side {
  readonly name: string;
  readonly prefix: number;
  readonly width: number;
  readonly float: BinaryFloat;
  readonly operand: (o: Operands) => bigint;
}

const SIDES: readonly Side[] = [
  {
    name: "SS",
    prefix: 0xf3,
    width: 32,
    float: float32,
    operand: (o) => o.f32(),
  },
  {
    name: "SD",
    prefix: 0xf2,
    width: 64,
    float: float64,
    operand: (o) => o.f64(),
  },
];

type Operation = (f: BinaryFloat, x: bigint, y: bigint, env: FpEnv) => bigint;

const OPERATIONS: readonly (readonly [string, number, Operation])[] = [
  ["ADD", 0x58, (f, x, y, env) => f.add(x, y, env)],
  ["SUB", 0x5c, (f, x, y, env) => f.sub(x, y, env)],
  ["MUL", 0x59, (f, x, y, env) => f.mul(x, y, env)],
  ["DIV", 0x5e, (f, x, y, env) => f.div(x, y, env)],
  ["MIN", 0x5d, (f, x, y, env) => f.min(x, y, env)],
  ["MAX", 0x5f, (f, x, y, env) => f.max(x, y, env)],
  ["SQRT", 0x51, (f, _, y, env) => f.sqrt(y, env)],
];

/** A second operand: unrelated, or near the first one. */
function partner(o: Operands, side: Side, x: bigint): bigint {
  if (o.below(3) !== 0) return side.operand(o);
  const sign = BigInt(o.below(2)) << BigInt(side.width - 1);
  return BigInt.asUintN(side.width, (x + BigInt(o.below(9)) - 4n) ^ sign);
}

for (const side of SIDES) {
  for (const [name, opcode, operation] of OPERATIONS) {
    Deno.test(`binary ${name}${side.name} agrees with the host`, () =>
      againstHost((o) => {
        const x = side.operand(o), y = partner(o, side, x);
        const { mxcsr, env } = controls(o);
        const expected = operation(side.float, x, y, env);
        return {
          host: {
            code: [side.prefix, 0x0f, opcode, 0xc1],
            xmm0: x,
            xmm1: y,
            mxcsr,
          },
          text: `${name}${side.name} ${x.toString(16)} ${y.toString(16)} ${
            mxcsr.toString(16)
          }`,
          verify: (r) =>
            verify(r, env, BigInt.asUintN(side.width, r.xmm0), expected),
        };
      }));
  }

  for (const signaling of [false, true]) {
    const name = `${signaling ? "" : "U"}COMI${side.name}`;
    Deno.test(`binary ${name} agrees with the host`, () =>
      againstHost((o) => {
        const x = side.operand(o),
          y = o.below(6) === 0 ? x : partner(o, side, x);
        const { mxcsr, env } = controls(o);
        const relation = side.float.compare(x, y, signaling, env);
        const expected = relation === 2
          ? 0x45
          : relation < 0
          ? 0x01
          : relation
          ? 0
          : 0x40;
        const prefix = side.width === 64 ? [0x66] : [];
        return {
          host: {
            code: [...prefix, 0x0f, signaling ? 0x2f : 0x2e, 0xc1],
            xmm0: x,
            xmm1: y,
            mxcsr,
          },
          text: `${name} ${x.toString(16)} ${y.toString(16)} ${
            mxcsr.toString(16)
          }`,
          verify: (r) =>
            verify(r, env, BigInt(r.rflags & 0x45), BigInt(expected)),
        };
      }));
  }

  Deno.test(`binary ROUND${side.name} agrees with the host`, () =>
    againstHost((o) => {
      const x = side.operand(o);
      const { mxcsr, env } = controls(o);
      const immediate = o.below(16);
      const rounding = immediate & 4
        ? env.rounding
        : (immediate & 3) as Rounding;
      const expected = side.float.roundToInteger(
        x,
        rounding,
        env,
        (immediate & 8) !== 0,
      );
      const opcode = side.width === 32 ? 0x0a : 0x0b;
      return {
        host: {
          code: [0x66, 0x0f, 0x3a, opcode, 0xc1, immediate],
          xmm1: x,
          mxcsr,
        },
        text: `ROUND${side.name} ${x.toString(16)} ${immediate} ${
          mxcsr.toString(16)
        }`,
        verify: (r) =>
          verify(r, env, BigInt.asUintN(side.width, r.xmm0), expected),
      };
    }));

  for (const width of [32, 64] as const) {
    for (const truncate of [false, true]) {
      const name = `CVT${truncate ? "T" : ""}${side.name}2SI r${width}`;
      Deno.test(`binary ${name} agrees with the host`, () =>
        againstHost((o) => {
          const x = side.operand(o);
          const { mxcsr, env } = controls(o);
          const expected = BigInt.asUintN(
            width,
            side.float.toInteger(x, width, truncate, env),
          );
          const rex = width === 64 ? [0x48] : [];
          return {
            host: {
              code: [side.prefix, ...rex, 0x0f, truncate ? 0x2c : 0x2d, 0xc1],
              xmm1: x,
              mxcsr,
            },
            text: `${name} ${x.toString(16)} ${mxcsr.toString(16)}`,
            verify: (r) => verify(r, env, r.rax, expected),
          };
        }));
    }
    const name = `CVTSI2${side.name} r${width}`;
    Deno.test(`binary ${name} agrees with the host`, () =>
      againstHost((o) => {
        const value = BigInt.asIntN(width, o.next() >> BigInt(o.below(width)));
        const { mxcsr, env } = controls(o);
        const expected = side.float.fromInteger(value, env);
        const rex = width === 64 ? [0x48] : [];
        return {
          host: {
            code: [side.prefix, ...rex, 0x0f, 0x2a, 0xc0],
            rax: BigInt.asUintN(64, value),
            mxcsr,
          },
          text: `${name} ${value} ${mxcsr.toString(16)}`,
          verify: (r) =>
            verify(r, env, BigInt.asUintN(side.width, r.xmm0), expected),
        };
      }));
  }

  const other = side.width === 32 ? SIDES[1] : SIDES[0];
  Deno.test(`binary CVT${side.name}2${other.name} agrees with the host`, () =>
    againstHost((o) => {
      const x = narrowable(o, side);
      const { mxcsr, env } = controls(o);
      const expected = other.float.convert(x, side.float, env);
      return {
        host: { code: [side.prefix, 0x0f, 0x5a, 0xc1], xmm1: x, mxcsr },
        text: `CVT${side.name}2${other.name} ${x.toString(16)} ${
          mxcsr.toString(16)
        }`,
        verify: (r) =>
          verify(r, env, BigInt.asUintN(other.width, r.xmm0), expected),
      };
    }));
}

/** An operand that often lands near the limits of binary32. */
function narrowable(o: Operands, side: Side): bigint {
  const x = side.operand(o);
  if (side.width === 32 || o.below(2)) return x;
  const exponent = BigInt(1023 - 160 + o.below(300));
  return BigInt.asUintN(52, x) | (exponent << 52n) |
    (BigInt(o.below(2)) << 63n);
}

const scratch = new DataView(new ArrayBuffer(8));

function bits64(value: number): bigint {
  scratch.setFloat64(0, value);
  return scratch.getBigUint64(0);
}

function bits32(value: number): bigint {
  scratch.setFloat32(0, value);
  return BigInt(scratch.getUint32(0));
}

Deno.test("binary64 arithmetic to nearest is JavaScript's", () => {
  fc.assert(
    fc.property(
      fc.double({ noNaN: true }),
      fc.double({ noNaN: true }),
      (x, y) => {
        const env = fpEnv();
        const check = (actual: bigint, expected: number) =>
          Number.isNaN(expected) || assertEquals(actual, bits64(expected));
        check(float64.add(bits64(x), bits64(y), env), x + y);
        check(float64.sub(bits64(x), bits64(y), env), x - y);
        check(float64.mul(bits64(x), bits64(y), env), x * y);
        check(float64.div(bits64(x), bits64(y), env), x / y);
        check(float64.sqrt(bits64(x), env), Math.sqrt(x));
        assertEquals(float32.convert(bits64(x), float64, env), bits32(x));
      },
    ),
  );
});

Deno.test("binary operations stop at unmasked invalid operations", () => {
  const env = fpEnv({ masks: 0 });
  float64.div(bits64(0), bits64(0), env);
  assertEquals(raised(env) & PRE_COMPUTATION, 1);
});
