/**
 * Packed integer operations on 128-bit vectors, shared by the MMX and the SSE instructions of the same name (Intel SDM
 * vol. 1, 9.4, 10.4.4, 11.4.2, 12.6). Operands and results are v128 values.
 *
 * @module
 */
import type { Emitter, Operand, Value } from "../emitter.ts";

/** A packed operation of two operands. */
export type Packed2 = (e: Emitter, a: Value, b: Value) => Value;
/** A packed operation of one operand. */
export type Packed1 = (e: Emitter, a: Value) => Value;
/** A packed shift by an i64 count of any size. */
export type PackedShift = (e: Emitter, a: Value, count: Value) => Value;
/** A packed operation of two operands and an immediate (i32). */
export type PackedImmediate2 = (
  e: Emitter,
  a: Value,
  b: Value,
  imm: Value,
) => Value;
/** A packed operation of one operand and an immediate (i32). */
export type PackedImmediate1 = (e: Emitter, a: Value, imm: Value) => Value;

/** Bytes of a vector register. */
export const VECTOR_BYTES = 16;

/** Lane numbers `first`, `first + step`, … as a shuffle or a constant takes them. */
export function lanes(count: number, first = 0, step = 1): number[] {
  return Array.from({ length: count }, (_, i) => first + i * step);
}

/** The bytes of a constant vector of `size`-byte little-endian lanes. */
export function laneBytes(
  size: 1 | 2 | 4 | 8,
  values: readonly number[],
): number[] {
  return values.flatMap((value) =>
    lanes(size).map((byte) =>
      Number((BigInt(value) >> BigInt(8 * byte)) & 0xffn)
    )
  );
}

/** A constant vector of `size`-byte lanes. */
export function laneConstant(
  e: Emitter,
  size: 1 | 2 | 4 | 8,
  values: readonly number[],
): Value {
  return e.v128(laneBytes(size, values));
}

/** A constant vector with `value` in every `size`-byte lane. */
export function splatConstant(
  e: Emitter,
  size: 1 | 2 | 4 | 8,
  value: number,
): Value {
  return laneConstant(e, size, lanes(VECTOR_BYTES / size, value, 0));
}

/** The vector of zeros. */
export function zeroVector(e: Emitter): Value {
  return e.v128(lanes(VECTOR_BYTES, 0, 0));
}

/** An immediate operand as i32. */
export function immediate(e: Emitter, operand: Operand): Value {
  return e.op("i32.wrap_i64", e.read(operand));
}

/** The wasm instruction `name` as a packed operation. */
export function direct(name: string): Packed2 {
  return (e, a, b) => e.op(name, a, b);
}

/** `~a & b` (PANDN, ANDNPS). */
export const andNot: Packed2 = (e, a, b) => e.op("v128.andnot", b, a);

/** Indices of an i8x16.shuffle that takes whole elements of `size` bytes; those of the second operand follow the first's. */
export function elements(
  size: 1 | 2 | 4 | 8,
  indices: readonly number[],
): number[] {
  return indices.flatMap((index) => lanes(size, index * size));
}

/** PUNPCKL*, PUNPCKH*, UNPCKLPS and kin: interleaves the low or high halves of two vectors. */
export function unpack(size: 1 | 2 | 4 | 8, high: boolean): Packed2 {
  const count = VECTOR_BYTES / size;
  const first = high ? count / 2 : 0;
  const pick = lanes(count / 2, first).flatMap((i) => [i, i + count]);
  return (e, a, b) => e.shuffle(elements(size, pick), a, b);
}

/** The low halves of two vectors as one. */
export const joinLow: Packed2 = (e, a, b) =>
  e.shuffle(elements(8, [0, 2]), a, b);

/** Packs the products of two 16-bit multiplications: their upper halves. */
function multiplyHigh(sign: "s" | "u"): Packed2 {
  return (e, a, b) => {
    const low = e.op(`i32x4.extmul_low_i16x8_${sign}`, a, b);
    const high = e.op(`i32x4.extmul_high_i16x8_${sign}`, a, b);
    return e.shuffle(elements(2, lanes(8, 1, 2)), low, high);
  };
}

/** PMULHW. */
export const multiplyHighSigned = multiplyHigh("s");
/** PMULHUW. */
export const multiplyHighUnsigned = multiplyHigh("u");

/** PMULUDQ, PMULDQ: 64-bit products of the even doublewords. */
export function multiplyEven(sign: "s" | "u"): Packed2 {
  const even = elements(4, [0, 2, 0, 2]);
  return (e, a, b) =>
    e.op(
      `i64x2.extmul_low_i32x4_${sign}`,
      e.shuffle(even, a, a),
      e.shuffle(even, b, b),
    );
}

/** PMULHRSW. Only -1 times -1 differs from the saturating wasm instruction: it gives 0x8000. */
export const multiplyRoundScale: Packed2 = (e, a, b) => {
  const most = splatConstant(e, 2, 0x8000);
  const both = e.op(
    "v128.and",
    e.op("i16x8.eq", a, most),
    e.op("i16x8.eq", b, most),
  );
  return e.op("v128.xor", e.op("i16x8.q15mulr_sat_s", a, b), both);
};

/** PMADDUBSW: unsigned bytes of `a` by signed bytes of `b`, neighbours added with saturation. */
export const multiplyAddBytes: Packed2 = (e, a, b) => {
  const eight = e.i32(8);
  const even = e.op(
    "i16x8.mul",
    e.op("v128.and", a, splatConstant(e, 2, 0xff)),
    e.op("i16x8.shr_s", e.op("i16x8.shl", b, eight), eight),
  );
  const odd = e.op(
    "i16x8.mul",
    e.op("i16x8.shr_u", a, eight),
    e.op("i16x8.shr_s", b, eight),
  );
  return e.op("i16x8.add_sat_s", even, odd);
};

/** |a - b| of unsigned bytes. */
export const byteDistance: Packed2 = (e, a, b) =>
  e.op("v128.or", e.op("i8x16.sub_sat_u", a, b), e.op("i8x16.sub_sat_u", b, a));

/** PSADBW. */
export const sumOfDistances: Packed2 = (e, a, b) => {
  const words = e.op("i16x8.extadd_pairwise_i8x16_u", byteDistance(e, a, b));
  const doublewords = e.op("i32x4.extadd_pairwise_i16x8_u", words);
  const low = e.op(
    "v128.and",
    doublewords,
    laneConstant(e, 4, [0xffffffff, 0, 0xffffffff, 0]),
  );
  return e.op("i64x2.add", low, e.op("i64x2.shr_u", doublewords, e.i32(32)));
};

/** PHADD*, PHSUB*: `name` applied to even and odd neighbours of `a`, then of `b`. */
export function horizontal(size: 2 | 4, name: string): Packed2 {
  const count = VECTOR_BYTES / size;
  return (e, a, b) =>
    e.op(
      name,
      e.shuffle(elements(size, lanes(count, 0, 2)), a, b),
      e.shuffle(elements(size, lanes(count, 1, 2)), a, b),
    );
}

/** PSIGN*: `a` negated, kept or cleared as `b` is negative, positive or zero. */
export function sign(shape: "i8x16" | "i16x8" | "i32x4"): Packed2 {
  return (e, a, b) => {
    const zero = zeroVector(e);
    const signed = e.op(
      "v128.bitselect",
      e.op(`${shape}.neg`, a),
      a,
      e.op(`${shape}.lt_s`, b, zero),
    );
    return e.op("v128.and", signed, e.op(`${shape}.ne`, b, zero));
  };
}

/** PSLL*, PSRL*: counts of the lane width and more give zero. */
export function shiftLogical(
  shape: "i16x8" | "i32x4" | "i64x2",
  bits: number,
  name: "shl" | "shr_u",
): PackedShift {
  return (e, a, count) => {
    const shifted = e.op(`${shape}.${name}`, a, e.op("i32.wrap_i64", count));
    return e.select(
      e.op("i64.lt_u", count, e.i64(bits)),
      shifted,
      zeroVector(e),
    );
  };
}

/** PSRA*: counts of the lane width and more give copies of the sign. */
export function shiftArithmetic(
  shape: "i16x8" | "i32x4",
  bits: number,
): PackedShift {
  return (e, a, count) => {
    const most = e.i64(bits - 1);
    const clamped = e.select(e.op("i64.lt_u", count, most), count, most);
    return e.op(`${shape}.shr_s`, a, e.op("i32.wrap_i64", clamped));
  };
}

/** PSLLDQ: bytes move up by an immediate. */
export const shiftBytesLeft: PackedImmediate1 = (e, a, imm) => {
  // Lane numbers below zero wrap to 240 and up, where swizzle gives 0.
  const count = e.op(
    "i8x16.min_u",
    e.op("i8x16.splat", imm),
    splatConstant(e, 1, VECTOR_BYTES),
  );
  return e.op(
    "i8x16.swizzle",
    a,
    e.op("i8x16.sub", e.v128(lanes(VECTOR_BYTES)), count),
  );
};

/** PSRLDQ: bytes move down by an immediate. */
export const shiftBytesRight: PackedImmediate1 = (e, a, imm) =>
  e.op(
    "i8x16.swizzle",
    a,
    e.op(
      "i8x16.add_sat_u",
      e.v128(lanes(VECTOR_BYTES)),
      e.op("i8x16.splat", imm),
    ),
  );

/** PALIGNR: sixteen bytes of `a:b` from byte `imm` of `b` on. */
export const alignRight: PackedImmediate2 = (e, a, b, imm) => {
  const from = e.op(
    "i8x16.add_sat_u",
    e.v128(lanes(VECTOR_BYTES)),
    e.op("i8x16.splat", imm),
  );
  const low = e.op("i8x16.swizzle", b, from);
  const high = e.op(
    "i8x16.swizzle",
    a,
    e.op("i8x16.sub", from, splatConstant(e, 1, VECTOR_BYTES)),
  );
  return e.op("v128.or", low, high);
};

/** PALIGNR on the low halves: eight bytes of `a:b`. */
export const alignRightLow: PackedImmediate2 = (e, a, b, imm) =>
  shiftBytesRight(e, joinLow(e, b, a), imm);

/** PSHUFB: lanes of `a` by the indices in `b`, modulo `count`; an index with bit 7 set gives zero. */
export function shuffleBytes(count: 8 | 16): Packed2 {
  return (e, a, b) =>
    e.op(
      "i8x16.swizzle",
      a,
      e.op("v128.and", b, splatConstant(e, 1, 0x80 | (count - 1))),
    );
}

/**
 * Swizzle indices of the doublewords that an immediate selects with two bits each (PSHUFD, SHUFPS): doubleword i comes
 * from bits 2i and 2i+1.
 */
export function doublewordIndices(e: Emitter, imm: Value): Value {
  // Multiplying moves the field of each lane to bits 6 and 7.
  const moved = e.op(
    "i32x4.mul",
    e.op("i32x4.splat", imm),
    laneConstant(e, 4, [64, 16, 4, 1]),
  );
  const field = e.op(
    "v128.and",
    e.op("i32x4.shr_u", moved, e.i32(6)),
    splatConstant(e, 4, 3),
  );
  return e.op(
    "i32x4.add",
    e.op("i32x4.mul", field, splatConstant(e, 4, 0x04040404)),
    splatConstant(e, 4, 0x03020100),
  );
}

/** The same for words (PSHUFLW, PSHUFW): the fields appear twice, each counting from word 0. */
export function wordIndices(e: Emitter, imm: Value): Value {
  const moved = e.op(
    "i16x8.mul",
    e.op("i16x8.splat", imm),
    laneConstant(e, 2, [64, 16, 4, 1, 64, 16, 4, 1]),
  );
  const field = e.op(
    "v128.and",
    e.op("i16x8.shr_u", moved, e.i32(6)),
    splatConstant(e, 2, 3),
  );
  return e.op(
    "i16x8.add",
    e.op("i16x8.mul", field, splatConstant(e, 2, 0x0202)),
    splatConstant(e, 2, 0x0100),
  );
}

/** PSHUFLW; its low half is PSHUFW. */
export const shuffleLowWords: PackedImmediate1 = (e, a, imm) =>
  e.shuffle(
    elements(8, [0, 3]),
    e.op("i8x16.swizzle", a, wordIndices(e, imm)),
    a,
  );

/** PSHUFHW. */
export const shuffleHighWords: PackedImmediate1 = (e, a, imm) => {
  const indices = e.op(
    "i8x16.add",
    wordIndices(e, imm),
    splatConstant(e, 1, 8),
  );
  return e.shuffle(elements(8, [0, 3]), a, e.op("i8x16.swizzle", a, indices));
};

/** A lane mask from the bits of an immediate: lane i is all ones when bit i is set (BLENDPS, PBLENDW). */
export function maskOfBits(e: Emitter, size: 2 | 4 | 8, imm: Value): Value {
  const shape = { 2: "i16x8", 4: "i32x4", 8: "i64x2" }[size];
  const bits = laneConstant(
    e,
    size,
    lanes(VECTOR_BYTES / size).map((i) => 1 << i),
  );
  const splat = size === 8
    ? e.op("i64x2.splat", e.op("i64.extend_i32_u", imm))
    : e.op(`${shape}.splat`, imm);
  return e.op(`${shape}.eq`, e.op("v128.and", splat, bits), bits);
}

const SHAPE = { 1: "i8x16", 2: "i16x8", 4: "i32x4", 8: "i64x2" } as const;

/** Element `index` (i32, modulo the number of elements) of a vector, zero-extended to i64 (PEXTR*). */
export function extractElement(
  e: Emitter,
  size: 1 | 2 | 4 | 8,
  v: Value,
  index: Value,
  count = VECTOR_BYTES / size,
): Value {
  const first = e.op(
    "i32.mul",
    e.op("i32.and", index, e.i32(count - 1)),
    e.i32(size),
  );
  // Lanes after the element ask for numbers that swizzle makes zero.
  const pattern = lanes(VECTOR_BYTES).map((i) => i < size ? i : 0x80);
  const moved = e.op(
    "i8x16.swizzle",
    v,
    e.op("i8x16.add", e.v128(pattern), e.op("i8x16.splat", first)),
  );
  return e.lane("i64x2.extract_lane", 0, moved);
}

/** A vector with the low `size` bytes of an i64 at element `index` (i32, modulo the number of elements) (PINSR*). */
export function insertElement(
  e: Emitter,
  size: 1 | 2 | 4 | 8,
  v: Value,
  index: Value,
  value: Value,
  count = VECTOR_BYTES / size,
): Value {
  const shape = SHAPE[size];
  const narrow = (x: Value) => size === 8 ? x : e.op("i32.wrap_i64", x);
  const at = e.op("i32.and", index, e.i32(count - 1));
  const position = e.op(
    `${shape}.splat`,
    size === 8 ? e.op("i64.extend_i32_u", at) : at,
  );
  const mask = e.op(
    `${shape}.eq`,
    position,
    laneConstant(e, size, lanes(VECTOR_BYTES / size)),
  );
  return e.op("v128.bitselect", e.op(`${shape}.splat`, narrow(value)), v, mask);
}

/** One instruction that exists with MMX registers (no prefix) and with XMM registers (prefix 66). */
export interface SharedForm {
  readonly name: string;
  /** Opcode bytes after the prefix, in hexadecimal. */
  readonly opcode: string;
  readonly xmm: Packed2;
  /** On vectors whose halves are both the MMX operand; the low half of the result counts. */
  readonly mmx: Packed2;
  /** The MMX form reads only this much of its source in memory. */
  readonly mmxSource?: "Qd";
}

function same(name: string, opcode: string, operation: Packed2): SharedForm {
  return { name, opcode, xmm: operation, mmx: operation };
}

function wasm(name: string, opcode: string, instruction: string): SharedForm {
  return same(name, opcode, direct(instruction));
}

/** MMX of instructions that take all of the first operand, then all of the second, to make a vector. */
function joined(name: string, opcode: string, operation: Packed2): SharedForm {
  return { name, opcode, xmm: operation, mmx: joinThen(operation) };
}

function joinThen(operation: Packed2): Packed2 {
  return (e, a, b) => {
    const both = joinLow(e, a, b);
    return operation(e, both, both);
  };
}

function unpackLow(name: string, opcode: string, size: 1 | 2 | 4): SharedForm {
  const operation = unpack(size, false);
  return { name, opcode, xmm: operation, mmx: operation, mmxSource: "Qd" };
}

function unpackHigh(name: string, opcode: string, size: 1 | 2 | 4): SharedForm {
  const low = unpack(size, false);
  const mmx: Packed2 = (e, a, b) => {
    const interleaved = low(e, a, b);
    return e.shuffle(elements(8, [1, 1]), interleaved, interleaved);
  };
  return { name, opcode, xmm: unpack(size, true), mmx };
}

/** Instructions with MMX and XMM forms of two operands: MMX, SSE and SSE2, then SSSE3. */
export const SHARED_FORMS: readonly SharedForm[] = [
  unpackLow("punpcklbw", "0f 60", 1),
  unpackLow("punpcklwd", "0f 61", 2),
  unpackLow("punpckldq", "0f 62", 4),
  joined("packsswb", "0f 63", direct("i8x16.narrow_i16x8_s")),
  wasm("pcmpgtb", "0f 64", "i8x16.gt_s"),
  wasm("pcmpgtw", "0f 65", "i16x8.gt_s"),
  wasm("pcmpgtd", "0f 66", "i32x4.gt_s"),
  joined("packuswb", "0f 67", direct("i8x16.narrow_i16x8_u")),
  unpackHigh("punpckhbw", "0f 68", 1),
  unpackHigh("punpckhwd", "0f 69", 2),
  unpackHigh("punpckhdq", "0f 6a", 4),
  joined("packssdw", "0f 6b", direct("i16x8.narrow_i32x4_s")),
  wasm("pcmpeqb", "0f 74", "i8x16.eq"),
  wasm("pcmpeqw", "0f 75", "i16x8.eq"),
  wasm("pcmpeqd", "0f 76", "i32x4.eq"),
  wasm("paddq", "0f d4", "i64x2.add"),
  wasm("pmullw", "0f d5", "i16x8.mul"),
  wasm("psubusb", "0f d8", "i8x16.sub_sat_u"),
  wasm("psubusw", "0f d9", "i16x8.sub_sat_u"),
  wasm("pminub", "0f da", "i8x16.min_u"),
  wasm("pand", "0f db", "v128.and"),
  wasm("paddusb", "0f dc", "i8x16.add_sat_u"),
  wasm("paddusw", "0f dd", "i16x8.add_sat_u"),
  wasm("pmaxub", "0f de", "i8x16.max_u"),
  same("pandn", "0f df", andNot),
  wasm("pavgb", "0f e0", "i8x16.avgr_u"),
  wasm("pavgw", "0f e3", "i16x8.avgr_u"),
  same("pmulhuw", "0f e4", multiplyHighUnsigned),
  same("pmulhw", "0f e5", multiplyHighSigned),
  wasm("psubsb", "0f e8", "i8x16.sub_sat_s"),
  wasm("psubsw", "0f e9", "i16x8.sub_sat_s"),
  wasm("pminsw", "0f ea", "i16x8.min_s"),
  wasm("por", "0f eb", "v128.or"),
  wasm("paddsb", "0f ec", "i8x16.add_sat_s"),
  wasm("paddsw", "0f ed", "i16x8.add_sat_s"),
  wasm("pmaxsw", "0f ee", "i16x8.max_s"),
  wasm("pxor", "0f ef", "v128.xor"),
  same("pmuludq", "0f f4", multiplyEven("u")),
  wasm("pmaddwd", "0f f5", "i32x4.dot_i16x8_s"),
  same("psadbw", "0f f6", sumOfDistances),
  wasm("psubb", "0f f8", "i8x16.sub"),
  wasm("psubw", "0f f9", "i16x8.sub"),
  wasm("psubd", "0f fa", "i32x4.sub"),
  wasm("psubq", "0f fb", "i64x2.sub"),
  wasm("paddb", "0f fc", "i8x16.add"),
  wasm("paddw", "0f fd", "i16x8.add"),
  wasm("paddd", "0f fe", "i32x4.add"),
  {
    name: "pshufb",
    opcode: "0f 38 00",
    xmm: shuffleBytes(16),
    mmx: shuffleBytes(8),
  },
  joined("phaddw", "0f 38 01", horizontal(2, "i16x8.add")),
  joined("phaddd", "0f 38 02", horizontal(4, "i32x4.add")),
  joined("phaddsw", "0f 38 03", horizontal(2, "i16x8.add_sat_s")),
  same("pmaddubsw", "0f 38 04", multiplyAddBytes),
  joined("phsubw", "0f 38 05", horizontal(2, "i16x8.sub")),
  joined("phsubd", "0f 38 06", horizontal(4, "i32x4.sub")),
  joined("phsubsw", "0f 38 07", horizontal(2, "i16x8.sub_sat_s")),
  same("psignb", "0f 38 08", sign("i8x16")),
  same("psignw", "0f 38 09", sign("i16x8")),
  same("psignd", "0f 38 0a", sign("i32x4")),
  same("pmulhrsw", "0f 38 0b", multiplyRoundScale),
  same("pabsb", "0f 38 1c", (e, _a, b) => e.op("i8x16.abs", b)),
  same("pabsw", "0f 38 1d", (e, _a, b) => e.op("i16x8.abs", b)),
  same("pabsd", "0f 38 1e", (e, _a, b) => e.op("i32x4.abs", b)),
];

/** One shift with forms by register and by immediate, MMX and XMM. */
export interface ShiftForm {
  readonly name: string;
  /** Opcode of the form whose count is the low quadword of a register or memory. */
  readonly byRegister: string;
  /** Opcode and extension of the form by immediate. */
  readonly byImmediate: string;
  readonly operation: PackedShift;
}

/** PSLL*, PSRL*, PSRA*. */
export const SHIFT_FORMS: readonly ShiftForm[] = [
  {
    name: "psrlw",
    byRegister: "0f d1",
    byImmediate: "0f 71 /2",
    operation: shiftLogical("i16x8", 16, "shr_u"),
  },
  {
    name: "psraw",
    byRegister: "0f e1",
    byImmediate: "0f 71 /4",
    operation: shiftArithmetic("i16x8", 16),
  },
  {
    name: "psllw",
    byRegister: "0f f1",
    byImmediate: "0f 71 /6",
    operation: shiftLogical("i16x8", 16, "shl"),
  },
  {
    name: "psrld",
    byRegister: "0f d2",
    byImmediate: "0f 72 /2",
    operation: shiftLogical("i32x4", 32, "shr_u"),
  },
  {
    name: "psrad",
    byRegister: "0f e2",
    byImmediate: "0f 72 /4",
    operation: shiftArithmetic("i32x4", 32),
  },
  {
    name: "pslld",
    byRegister: "0f f2",
    byImmediate: "0f 72 /6",
    operation: shiftLogical("i32x4", 32, "shl"),
  },
  {
    name: "psrlq",
    byRegister: "0f d3",
    byImmediate: "0f 73 /2",
    operation: shiftLogical("i64x2", 64, "shr_u"),
  },
  {
    name: "psllq",
    byRegister: "0f f3",
    byImmediate: "0f 73 /6",
    operation: shiftLogical("i64x2", 64, "shl"),
  },
];
