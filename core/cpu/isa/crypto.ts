/**
 * AES-NI and PCLMULQDQ (Intel SDM vol. 1, 12.13; FIPS 197), in vector instructions without tables in memory, so that their time
 * does not depend on the data.
 *
 * @module
 */
import type { Emitter, Operand, Value } from "../emitter.ts";
import { define, type Semantic } from "./define.ts";
import {
  immediate,
  laneConstant,
  lanes,
  type Packed1,
  splatConstant,
  VECTOR_BYTES,
} from "./packed.ts";

const SSE = { unit: "sse" } as const;

// ---- AES ----

/** x^8 + x^4 + x^3 + x + 1 without its highest term (FIPS 197, 4.2). */
const AES_POLYNOMIAL = 0x1b;

/** Product in GF(2^8) (FIPS 197, 4.2). */
function multiplyField(a: number, b: number): number {
  let product = 0;
  for (let bit = 0; bit < 8; bit++) {
    if (b >> bit & 1) product ^= a;
    a = (a << 1 ^ (a & 0x80 ? AES_POLYNOMIAL : 0)) & 0xff;
  }
  return product;
}

/** The S-box: the inverse in GF(2^8), then an affine map (FIPS 197, 5.1.1). */
function makeSbox(): number[] {
  return lanes(256).map((x) => {
    // x^254 is the inverse, and 0 for 0.
    let inverse = 1;
    for (let i = 0; i < 254; i++) inverse = multiplyField(inverse, x);
    let result = 0x63;
    for (let turn = 0; turn < 5; turn++) {
      result ^= (inverse << turn | inverse >> (8 - turn)) & 0xff;
    }
    return result;
  });
}

const SBOX = makeSbox();
const INVERSE_SBOX = lanes(256).map((x) => SBOX.indexOf(x));

/** Byte positions after ShiftRows and its inverse (FIPS 197, 5.1.2, 5.3.1): byte row + 4 * column. */
const SHIFT_ROWS = lanes(VECTOR_BYTES).map((i) => (i * 5) % VECTOR_BYTES);
const INVERSE_SHIFT_ROWS = lanes(VECTOR_BYTES).map((i) =>
  (i * 13) % VECTOR_BYTES
);

/** Each byte replaced by its entry in a table of 256: swizzle gives zero outside the sixteen entries of each row. */
function substitute(table: readonly number[]): Packed1 {
  return (e, a) => {
    let result: Value | undefined;
    for (let row = 0; row < 256; row += VECTOR_BYTES) {
      const index = row === 0
        ? a
        : e.op("v128.xor", a, splatConstant(e, 1, row));
      const part = e.op(
        "i8x16.swizzle",
        e.v128(table.slice(row, row + VECTOR_BYTES)),
        index,
      );
      result = result === undefined ? part : e.op("v128.or", result, part);
    }
    return result!;
  };
}

const subBytes = substitute(SBOX);
const inverseSubBytes = substitute(INVERSE_SBOX);

/** Every byte times x in GF(2^8). */
const timesX: Packed1 = (e, a) => {
  const reduce = e.op(
    "v128.and",
    e.op("i8x16.shr_s", a, e.i32(7)),
    splatConstant(e, 1, AES_POLYNOMIAL),
  );
  return e.op("v128.xor", e.op("i8x16.add", a, a), reduce);
};

/** Each column turned up by `count` bytes. */
function turnColumns(e: Emitter, a: Value, count: number): Value {
  return e.shuffle(
    lanes(VECTOR_BYTES).map((i) => (i & ~3) | ((i + count) & 3)),
    a,
    a,
  );
}

function xor(e: Emitter, first: Value, ...rest: Value[]): Value {
  return rest.reduce((sum, value) => e.op("v128.xor", sum, value), first);
}

/** MixColumns: column times {03}x^3 + {01}x^2 + {01}x + {02} (FIPS 197, 5.1.3). */
const mixColumns: Packed1 = (e, a) => {
  const next = turnColumns(e, a, 1);
  // 2a + 3b + c + d = 2(a + b) + b + (c + d)
  const pair = e.op("v128.xor", a, next);
  return xor(e, timesX(e, pair), next, turnColumns(e, pair, 2));
};

/** InvMixColumns: MixColumns after a multiplication by {04}x^2 + {05}. */
const inverseMixColumns: Packed1 = (e, a) => {
  const opposite = e.op("v128.xor", a, turnColumns(e, a, 2));
  return mixColumns(e, e.op("v128.xor", a, timesX(e, timesX(e, opposite))));
};

/** One round: `rows` and `bytes` on the state, `columns` unless it is the last, then the round key. */
function round(
  rows: readonly number[],
  bytes: Packed1,
  columns?: Packed1,
): Semantic {
  return (e, dst: Operand, src: Operand) => {
    const key = e.read(src);
    const state = e.read(dst);
    const replaced = bytes(e, e.shuffle(rows, state, state));
    e.write(
      dst,
      e.op("v128.xor", columns ? columns(e, replaced) : replaced, key),
    );
  };
}

define(
  "aesimc",
  "66 0f 38 db /r",
  "Vx, Wx",
  (e, dst: Operand, src: Operand) => {
    e.write(dst, inverseMixColumns(e, e.read(src)));
  },
  SSE,
);
define(
  "aesenc",
  "66 0f 38 dc /r",
  "Vx, Wx",
  round(SHIFT_ROWS, subBytes, mixColumns),
  SSE,
);
define(
  "aesenclast",
  "66 0f 38 dd /r",
  "Vx, Wx",
  round(SHIFT_ROWS, subBytes),
  SSE,
);
define(
  "aesdec",
  "66 0f 38 de /r",
  "Vx, Wx",
  round(INVERSE_SHIFT_ROWS, inverseSubBytes, inverseMixColumns),
  SSE,
);
define(
  "aesdeclast",
  "66 0f 38 df /r",
  "Vx, Wx",
  round(INVERSE_SHIFT_ROWS, inverseSubBytes),
  SSE,
);

define(
  "aeskeygenassist",
  "66 0f 3a df /r",
  "Vx, Wx, Ib",
  (e, dst: Operand, src: Operand, imm: Operand) => {
    const replaced = subBytes(e, e.read(src));
    // SubWord(X1), RotWord(SubWord(X1)), SubWord(X3), RotWord(SubWord(X3)); the constant joins the turned ones.
    const words = e.shuffle(
      [4, 5, 6, 7, 5, 6, 7, 4, 12, 13, 14, 15, 13, 14, 15, 12],
      replaced,
      replaced,
    );
    const constant = e.op(
      "v128.and",
      e.op("i32x4.splat", immediate(e, imm)),
      laneConstant(e, 4, [0, 0xffffffff, 0, 0xffffffff]),
    );
    e.write(dst, e.op("v128.xor", words, constant));
  },
  SSE,
);

// ---- PCLMULQDQ ----

/** Distance of the bits kept in each part of a carry-less factor, so that integer sums do not run into the next. */
const HOLES = 4;

/** The low 64 bits of a carry-less product, from integer products of numbers with three zeros after each bit. */
function multiplyLow(e: Emitter, a: Value, b: Value): Value {
  const mask = (i: number) => e.i64(0x1111111111111111n << BigInt(i));
  const parts = (v: Value) =>
    lanes(HOLES).map((i) => e.op("i64.and", v, mask(i)));
  const x = parts(a), y = parts(b);
  let result: Value | undefined;
  for (let i = 0; i < HOLES; i++) {
    let sum: Value | undefined;
    for (let j = 0; j < HOLES; j++) {
      const product = e.op("i64.mul", x[j], y[(i - j + HOLES) % HOLES]);
      sum = sum === undefined ? product : e.op("i64.xor", sum, product);
    }
    const bits = e.op("i64.and", sum!, mask(i));
    result = result === undefined ? bits : e.op("i64.or", result, bits);
  }
  return result!;
}

/** Both quadwords of a vector with their bits in reverse order. */
function reverseBits(e: Emitter, v: Value): Value {
  const reversed = lanes(VECTOR_BYTES).map((n) =>
    (n & 1) << 3 | (n & 2) << 1 | (n & 4) >> 1 | n >> 3
  );
  const table = e.v128(reversed);
  const four = e.i32(4);
  const low = e.op(
    "i8x16.swizzle",
    table,
    e.op("v128.and", v, splatConstant(e, 1, 0x0f)),
  );
  const high = e.op("i8x16.swizzle", table, e.op("i8x16.shr_u", v, four));
  const bytes = e.op("v128.or", e.op("i8x16.shl", low, four), high);
  return e.shuffle(
    [7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8],
    bytes,
    bytes,
  );
}

define(
  "pclmulqdq",
  "66 0f 3a 44 /r",
  "Vx, Wx, Ib",
  (e, dst: Operand, src: Operand, imm: Operand) => {
    const b = e.read(src);
    const a = e.read(dst);
    const control = immediate(e, imm);
    const half = (v: Value, bit: number) =>
      e.select(
        e.op("i32.and", control, e.i32(bit)),
        e.lane("i64x2.extract_lane", 1, v),
        e.lane("i64x2.extract_lane", 0, v),
      );
    const x = half(a, 1), y = half(b, 1 << 4);
    const low = multiplyLow(e, x, y);
    // The high half is the low half of the product of the reversed factors, reversed and moved by one.
    const reversed = reverseBits(
      e,
      e.lane("i64x2.replace_lane", 1, e.op("i64x2.splat", x), y),
    );
    const mirrored = multiplyLow(
      e,
      e.lane("i64x2.extract_lane", 0, reversed),
      e.lane("i64x2.extract_lane", 1, reversed),
    );
    const restored = e.lane(
      "i64x2.extract_lane",
      0,
      reverseBits(e, e.op("i64x2.splat", mirrored)),
    );
    const high = e.op("i64.shr_u", restored, e.i64(1));
    e.write(
      dst,
      e.lane("i64x2.replace_lane", 1, e.op("i64x2.splat", low), high),
    );
  },
  SSE,
);
