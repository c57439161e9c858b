/**
 * Integer instructions on XMM registers, SSE2 to SSE4.2, with CRC32 and POPCNT (Intel SDM vol. 1, 11.4.2, 12.6, 12.10, 12.12).
 *
 * @module
 */
import type { Emitter, Operand, Value } from "../emitter.ts";
import { CpuState, FLAG, RAX, RCX, RDX } from "../state.ts";
import {
  define,
  helper,
  type HelperSemantic,
  type Semantic,
} from "./define.ts";
import {
  alignRight,
  byteDistance,
  direct,
  doublewordIndices,
  elements,
  immediate,
  laneConstant,
  lanes,
  multiplyEven,
  type Packed1,
  type Packed2,
  type PackedImmediate1,
  type PackedImmediate2,
  type PackedShift,
  SHARED_FORMS,
  SHIFT_FORMS,
  shiftBytesLeft,
  shiftBytesRight,
  shuffleHighWords,
  shuffleLowWords,
  splatConstant,
  unpack,
  VECTOR_BYTES,
  zeroVector,
} from "./packed.ts";
import { compareStrings, type StringComparison } from "./string_compare.ts";

const SSE = { unit: "sse" } as const;

function binary(operation: Packed2): Semantic {
  return (e, dst: Operand, src: Operand) => {
    const b = e.read(src);
    e.write(dst, operation(e, e.read(dst), b));
  };
}

function unary(operation: Packed1): Semantic {
  return (e, dst: Operand, src: Operand) =>
    e.write(dst, operation(e, e.read(src)));
}

function binaryImmediate(operation: PackedImmediate2): Semantic {
  return (e, dst: Operand, src: Operand, imm: Operand) => {
    const b = e.read(src);
    e.write(dst, operation(e, e.read(dst), b, immediate(e, imm)));
  };
}

function unaryImmediate(operation: PackedImmediate1): Semantic {
  return (e, dst: Operand, src: Operand, imm: Operand) =>
    e.write(dst, operation(e, e.read(src), immediate(e, imm)));
}

// ---- SSE2 and SSSE3 instructions that MMX has too ----

for (const form of SHARED_FORMS) {
  define(form.name, `66 ${form.opcode} /r`, "Vx, Wx", binary(form.xmm), SSE);
}

function shiftByRegister(operation: PackedShift): Semantic {
  return (e, dst: Operand, src: Operand) => {
    const count = e.lane("i64x2.extract_lane", 0, e.read(src));
    e.write(dst, operation(e, e.read(dst), count));
  };
}

function shiftByImmediate(operation: PackedShift): Semantic {
  return (e, dst: Operand, imm: Operand) =>
    e.write(dst, operation(e, e.read(dst), e.read(imm)));
}

for (const form of SHIFT_FORMS) {
  define(
    form.name,
    `66 ${form.byRegister} /r`,
    "Vx, Wx",
    shiftByRegister(form.operation),
    SSE,
  );
  define(
    form.name,
    `66 ${form.byImmediate}`,
    "Ux, Ib",
    shiftByImmediate(form.operation),
    SSE,
  );
}

// ---- SSE2 and SSSE3, XMM only ----

define("punpcklqdq", "66 0f 6c /r", "Vx, Wx", binary(unpack(8, false)), SSE);
define("punpckhqdq", "66 0f 6d /r", "Vx, Wx", binary(unpack(8, true)), SSE);

/** PSLLDQ, PSRLDQ. */
function shiftBytes(operation: PackedImmediate1): Semantic {
  return (e, dst: Operand, imm: Operand) =>
    e.write(dst, operation(e, e.read(dst), immediate(e, imm)));
}

define("psrldq", "66 0f 73 /3", "Ux, Ib", shiftBytes(shiftBytesRight), SSE);
define("pslldq", "66 0f 73 /7", "Ux, Ib", shiftBytes(shiftBytesLeft), SSE);

const shuffleDoublewords: PackedImmediate1 = (e, a, imm) =>
  e.op("i8x16.swizzle", a, doublewordIndices(e, imm));
define(
  "pshufd",
  "66 0f 70 /r",
  "Vx, Wx, Ib",
  unaryImmediate(shuffleDoublewords),
  SSE,
);
define(
  "pshuflw",
  "f2 0f 70 /r",
  "Vx, Wx, Ib",
  unaryImmediate(shuffleLowWords),
  SSE,
);
define(
  "pshufhw",
  "f3 0f 70 /r",
  "Vx, Wx, Ib",
  unaryImmediate(shuffleHighWords),
  SSE,
);
define(
  "palignr",
  "66 0f 3a 0f /r",
  "Vx, Wx, Ib",
  binaryImmediate(alignRight),
  SSE,
);

// ---- SSE4.1 and SSE4.2 ----

const SSE4_BINARY: readonly [string, string, Packed2][] = [
  ["pmuldq", "28", multiplyEven("s")],
  ["pcmpeqq", "29", direct("i64x2.eq")],
  ["packusdw", "2b", direct("i16x8.narrow_i32x4_u")],
  ["pcmpgtq", "37", direct("i64x2.gt_s")],
  ["pminsb", "38", direct("i8x16.min_s")],
  ["pminsd", "39", direct("i32x4.min_s")],
  ["pminuw", "3a", direct("i16x8.min_u")],
  ["pminud", "3b", direct("i32x4.min_u")],
  ["pmaxsb", "3c", direct("i8x16.max_s")],
  ["pmaxsd", "3d", direct("i32x4.max_s")],
  ["pmaxuw", "3e", direct("i16x8.max_u")],
  ["pmaxud", "3f", direct("i32x4.max_u")],
  ["pmulld", "40", direct("i32x4.mul")],
];
for (const [name, opcode, operation] of SSE4_BINARY) {
  define(name, `66 0f 38 ${opcode} /r`, "Vx, Wx", binary(operation), SSE);
}

/** PMOVSX*, PMOVZX*: widens the low elements step by step from `from` to `to` bytes. */
function extend(from: 1 | 2 | 4, to: 2 | 4 | 8, sign: "s" | "u"): Semantic {
  const steps = [
    "i16x8.extend_low_i8x16",
    "i32x4.extend_low_i16x8",
    "i64x2.extend_low_i32x4",
  ]
    .slice(Math.log2(from), Math.log2(to));
  return (e, dst: Operand, src: Operand) => {
    let value = e.op("i64x2.splat", e.read(src));
    for (const step of steps) value = e.op(`${step}_${sign}`, value);
    e.write(dst, value);
  };
}

const EXTENSIONS: readonly [string, 1 | 2 | 4, 2 | 4 | 8, string][] = [
  ["bw", 1, 2, "Wq"],
  ["bd", 1, 4, "Wd"],
  ["bq", 1, 8, "Ww"],
  ["wd", 2, 4, "Wq"],
  ["wq", 2, 8, "Wd"],
  ["dq", 4, 8, "Wq"],
];
EXTENSIONS.forEach(([name, from, to, source], i) => {
  define(
    `pmovsx${name}`,
    `66 0f 38 2${i} /r`,
    `Vx, ${source}`,
    extend(from, to, "s"),
    SSE,
  );
  define(
    `pmovzx${name}`,
    `66 0f 38 3${i} /r`,
    `Vx, ${source}`,
    extend(from, to, "u"),
    SSE,
  );
});

define("ptest", "66 0f 38 17 /r", "Vx, Wx", (e, dst: Operand, src: Operand) => {
  const b = e.read(src);
  const a = e.read(dst);
  const none = (v: Value) => e.op("i32.eqz", e.op("v128.any_true", v));
  e.flags.zpc(
    none(e.op("v128.and", a, b)),
    e.i32(0),
    none(e.op("v128.andnot", b, a)),
  );
}, SSE);

/** PHMINPOSUW: each word with its index below it, so that the least is the first least word. */
const minimumWord: Packed1 = (e, a) => {
  const sixteen = e.i32(16);
  const half = (which: "low" | "high", first: number) =>
    e.op(
      "v128.or",
      e.op("i32x4.shl", e.op(`i32x4.extend_${which}_i16x8_u`, a), sixteen),
      laneConstant(e, 4, lanes(4, first)),
    );
  let least = e.op("i32x4.min_u", half("low", 0), half("high", 4));
  for (const swapped of [[2, 3, 0, 1], [1, 0, 3, 2]]) {
    least = e.op(
      "i32x4.min_u",
      least,
      e.shuffle(elements(4, swapped), least, least),
    );
  }
  // The value goes to word 0, the index to word 1.
  return e.shuffle(
    [2, 3, 0, 1, ...lanes(12, VECTOR_BYTES, 0)],
    least,
    zeroVector(e),
  );
};
define("phminposuw", "66 0f 38 41 /r", "Vx, Wx", unary(minimumWord), SSE);

/** MPSADBW: eight sums of four byte distances between a sliding window of `a` and one block of `b`. */
const slidingDistances: PackedImmediate2 = (e, a, b, imm) => {
  const field = (mask: number, shift: number) =>
    e.op(
      "i8x16.splat",
      e.op("i32.shl", e.op("i32.and", imm, e.i32(mask)), e.i32(shift)),
    );
  // Bit 2 chooses window start 0 or 4, bits 1:0 the block of four bytes.
  const window = field(4, 0), block = field(3, 2);
  let sum: Value | undefined;
  for (let j = 0; j < 4; j++) {
    const from = e.op(
      "i8x16.swizzle",
      a,
      e.op("i8x16.add", e.v128(lanes(VECTOR_BYTES, j)), window),
    );
    const to = e.op(
      "i8x16.swizzle",
      b,
      e.op("i8x16.add", splatConstant(e, 1, j), block),
    );
    const distance = e.op(
      "i16x8.extend_low_i8x16_u",
      byteDistance(e, from, to),
    );
    sum = sum === undefined ? distance : e.op("i16x8.add", sum, distance);
  }
  return sum!;
};
define(
  "mpsadbw",
  "66 0f 3a 42 /r",
  "Vx, Wx, Ib",
  binaryImmediate(slidingDistances),
  SSE,
);

// ---- SSE4.2 string comparison ----

/** PCMPxSTRx in TypeScript: `explicit` lengths in RAX and RDX, result an index in ECX or a mask in XMM0. */
function stringInstruction(
  explicit: boolean,
  result: "index" | "mask",
): HelperSemantic {
  return helper((cpu, insn) => {
    const state = cpu.state;
    const second = new Uint8Array(VECTOR_BYTES);
    if (insn.mod === 3) {
      second.set(
        state.b.subarray(
          CpuState.xmm(insn.rm),
          CpuState.xmm(insn.rm) + VECTOR_BYTES,
        ),
      );
    } else cpu.readBytes(cpu.linear(insn, VECTOR_BYTES, false), second);
    const first = state.b.slice(
      CpuState.xmm(insn.reg),
      CpuState.xmm(insn.reg) + VECTOR_BYTES,
    );
    const length = (index: number) =>
      BigInt.asIntN(insn.rexW ? 64 : 32, state.reg(index));
    const control = Number(insn.imm & 0xffn);
    const comparison: StringComparison = compareStrings(
      first,
      second,
      control,
      explicit ? [length(RAX), length(RDX)] : undefined,
    );
    if (result === "index") state.setReg(RCX, BigInt(comparison.index), 4);
    else state.b.set(comparison.mask, CpuState.xmm(0));
    state.setArithmeticFlags(
      (comparison.carry ? FLAG.CF : 0) | (comparison.zero ? FLAG.ZF : 0) |
        (comparison.sign ? FLAG.SF : 0) |
        (comparison.overflow ? FLAG.OF : 0),
    );
  });
}

define(
  "pcmpestrm",
  "66 0f 3a 60 /r",
  "Vx, Wu, Ib",
  stringInstruction(true, "mask"),
  SSE,
);
define(
  "pcmpestri",
  "66 0f 3a 61 /r",
  "Vx, Wu, Ib",
  stringInstruction(true, "index"),
  SSE,
);
define(
  "pcmpistrm",
  "66 0f 3a 62 /r",
  "Vx, Wu, Ib",
  stringInstruction(false, "mask"),
  SSE,
);
define(
  "pcmpistri",
  "66 0f 3a 63 /r",
  "Vx, Wu, Ib",
  stringInstruction(false, "index"),
  SSE,
);

// ---- CRC32, POPCNT ----

/** The polynomial 0x11EDC6F41 with its bits reversed (Intel SDM vol. 2, CRC32). */
const CRC32C_POLYNOMIAL = 0x82f63b78;

/** What each of the low `count` bits of a CRC register becomes after `shifts` steps. */
function crcContributions(count: number, shifts: number): number[] {
  return lanes(count).map((bit) => {
    let value = 1n << BigInt(bit);
    for (let i = 0; i < shifts; i++) {
      value = (value >> 1n) ^ (value & 1n ? BigInt(CRC32C_POLYNOMIAL) : 0n);
    }
    return Number(value);
  });
}

/**
 * CRC32 is linear: the result is the exclusive or of one constant for each bit set in crc ^ data, four bits at a time.
 */
const crc32: Semantic = (e, dst: Operand, src: Operand) => {
  const data = e.read(src);
  const crc = e.op("i64.and", e.read(dst), e.i64(0xffffffffn));
  const bits = 8 * src.size;
  const mixed = e.op("i64.xor", crc, data);
  const contributions = crcContributions(bits, bits);
  let sum = zeroVector(e);
  for (let word = 0; word < bits; word += 32) {
    const half = e.op(
      "i32x4.splat",
      e.op("i32.wrap_i64", e.op("i64.shr_u", mixed, e.i64(word))),
    );
    for (let bit = word; bit < Math.min(word + 32, bits); bit += 4) {
      const set = laneConstant(
        e,
        4,
        lanes(4).map((i) => 2 ** (bit - word + i)),
      );
      const chosen = e.op("i32x4.eq", e.op("v128.and", half, set), set);
      sum = e.op(
        "v128.xor",
        sum,
        e.op(
          "v128.and",
          chosen,
          laneConstant(e, 4, contributions.slice(bit, bit + 4)),
        ),
      );
    }
  }
  const folded = e.op(
    "i64.xor",
    e.lane("i64x2.extract_lane", 0, sum),
    e.lane("i64x2.extract_lane", 1, sum),
  );
  let result = e.op(
    "i64.and",
    e.op("i64.xor", folded, e.op("i64.shr_u", folded, e.i64(32))),
    e.i64(0xffffffffn),
  );
  // The bits of the register above the data only move down.
  if (bits < 32) {
    result = e.op("i64.xor", result, e.op("i64.shr_u", crc, e.i64(bits)));
  }
  e.write(dst, result);
};

define("crc32", "f2 0f 38 f0 /r", "Gd, Eb", crc32);
define("crc32", "f2 0f 38 f1 /r", "Gd, Ev", crc32);

define(
  "popcnt",
  "f3 0f b8 /r",
  "Gv, Ev",
  (e: Emitter, dst: Operand, src: Operand) => {
    const value = e.read(src);
    e.flags.zpc(e.op("i64.eqz", value), e.i32(0), e.i32(0));
    e.write(dst, e.op("i64.popcnt", value));
  },
);
