/**
 * SSE to SSE4.1 instructions that move, arrange and select data without looking at it as numbers: moves, shuffles, unpacks,
 * blends, inserts, extracts and the logic on floating-point vectors (Intel SDM vol. 1, 10.4.1, 11.4.1, 12.3, 12.10).
 *
 * @module
 */
import type { Emitter, Operand, Value } from "../emitter.ts";
import { CpuState, OFF, RDI, ST_STRIDE } from "../state.ts";
import {
  define,
  helper,
  type HelperSemantic,
  type Semantic,
} from "./define.ts";
import {
  andNot,
  direct,
  doublewordIndices,
  elements,
  extractElement,
  immediate,
  insertElement,
  maskOfBits,
  type Packed2,
  unpack,
} from "./packed.ts";
import { setMmxState } from "./x87_state.ts";

const SSE = { unit: "sse" } as const;

const move: Semantic = (e, dst: Operand, src: Operand) =>
  e.write(dst, e.read(src));

/** A scalar that clears the rest of the register. */
const moveZero: Semantic = (e, dst: Operand, src: Operand) =>
  e.writeXmmZero(dst, e.read(src));

function binary(operation: Packed2): Semantic {
  return (e, dst: Operand, src: Operand) => {
    const b = e.read(src);
    e.write(dst, operation(e, e.read(dst), b));
  };
}

/** The quadword `index` of an XMM register as i64. */
function quadword(e: Emitter, index: 0 | 1, source: Operand): Value {
  return e.lane("i64x2.extract_lane", index, e.read(source));
}

// ---- moves of whole registers ----

define("movups", "np 0f 10 /r", "Vx, Wu", move, SSE);
define("movups", "np 0f 11 /r", "Wu, Vx", move, SSE);
define("movupd", "66 0f 10 /r", "Vx, Wu", move, SSE);
define("movupd", "66 0f 11 /r", "Wu, Vx", move, SSE);
define("movaps", "np 0f 28 /r", "Vx, Wx", move, SSE);
define("movaps", "np 0f 29 /r", "Wx, Vx", move, SSE);
define("movapd", "66 0f 28 /r", "Vx, Wx", move, SSE);
define("movapd", "66 0f 29 /r", "Wx, Vx", move, SSE);
define("movdqa", "66 0f 6f /r", "Vx, Wx", move, SSE);
define("movdqa", "66 0f 7f /r", "Wx, Vx", move, SSE);
define("movdqu", "f3 0f 6f /r", "Vx, Wu", move, SSE);
define("movdqu", "f3 0f 7f /r", "Wu, Vx", move, SSE);
define("lddqu", "f2 0f f0 /r", "Vx, Mu", move, SSE);
define("movntdqa", "66 0f 38 2a /r", "Vx, Mx", move, SSE);
define("movntps", "np 0f 2b /r", "Mx, Vx", move, SSE);
define("movntpd", "66 0f 2b /r", "Mx, Vx", move, SSE);
define("movntdq", "66 0f e7 /r", "Mx, Vx", move, SSE);
define("movnti", "np 0f c3 /r", "My, Gy", move);

// ---- moves of parts ----

define("movss", "f3 0f 10 /r", "Vd, Ud", move, SSE);
define("movss", "f3 0f 10 /r", "Vd, Md", moveZero, SSE);
define("movss", "f3 0f 11 /r", "Wd, Vd", move, SSE);
define("movsd", "f2 0f 10 /r", "Vq, Uq", move, SSE);
define("movsd", "f2 0f 10 /r", "Vq, Mq", moveZero, SSE);
define("movsd", "f2 0f 11 /r", "Wq, Vq", move, SSE);

define("movd", "66 0f 6e /r", "Vy, Ey", moveZero, SSE);
define("movd", "66 0f 7e /r", "Ey, Vy", move, SSE);
define("movq", "f3 0f 7e /r", "Vq, Wq", moveZero, SSE);
define("movq", "66 0f d6 /r", "Uq, Vq", moveZero, SSE);
define("movq", "66 0f d6 /r", "Mq, Vq", move, SSE);

/** The source's quadword becomes the destination's high one. */
const moveHigh: Semantic = (e, dst: Operand, src: Operand) => {
  const value = e.read(src);
  e.write(dst, e.lane("i64x2.replace_lane", 1, e.read(dst), value));
};
const storeHigh: Semantic = (e, dst: Operand, src: Operand) =>
  e.write(dst, quadword(e, 1, src));

define("movhlps", "np 0f 12 /r", "Vq, Ux", storeHigh, SSE);
define("movlps", "np 0f 12 /r", "Vq, Mq", move, SSE);
define("movlps", "np 0f 13 /r", "Mq, Vq", move, SSE);
define("movlpd", "66 0f 12 /r", "Vq, Mq", move, SSE);
define("movlpd", "66 0f 13 /r", "Mq, Vq", move, SSE);
define("movlhps", "np 0f 16 /r", "Vx, Uq", moveHigh, SSE);
define("movhps", "np 0f 16 /r", "Vx, Mq", moveHigh, SSE);
define("movhps", "np 0f 17 /r", "Mq, Vx", storeHigh, SSE);
define("movhpd", "66 0f 16 /r", "Vx, Mq", moveHigh, SSE);
define("movhpd", "66 0f 17 /r", "Mq, Vx", storeHigh, SSE);

/** Rearranges the doublewords of the source. */
function arrange(indices: readonly number[]): Semantic {
  return (e, dst: Operand, src: Operand) => {
    const value = e.read(src);
    e.write(dst, e.shuffle(elements(4, indices), value, value));
  };
}

define("movddup", "f2 0f 12 /r", "Vx, Wq", (e, dst: Operand, src: Operand) => {
  e.write(dst, e.op("i64x2.splat", e.read(src)));
}, SSE);
define("movsldup", "f3 0f 12 /r", "Vx, Wx", arrange([0, 0, 2, 2]), SSE);
define("movshdup", "f3 0f 16 /r", "Vx, Wx", arrange([1, 1, 3, 3]), SSE);

// ---- masks ----

/** Gathers the sign bits of the lanes. */
function signMask(name: string): Semantic {
  return (e, dst: Operand, src: Operand) =>
    e.write(dst, e.op("i64.extend_i32_u", e.op(name, e.read(src))));
}

define("movmskps", "np 0f 50 /r", "Gd, Ux", signMask("i32x4.bitmask"), SSE);
define("movmskpd", "66 0f 50 /r", "Gd, Ux", signMask("i64x2.bitmask"), SSE);
define("pmovmskb", "66 0f d7 /r", "Gd, Ux", signMask("i8x16.bitmask"), SSE);

/**
 * MASKMOVDQU and MASKMOVQ: stores the bytes of the first register whose mask bytes in the second have bit 7 set, at
 * DS:rDI. A mask of zeros makes no access.
 *
 * @param bytes 16 for XMM registers, 8 for MMX registers.
 */
export function maskMove(bytes: 8 | 16): HelperSemantic {
  return helper((cpu, insn) => {
    const bits = BigInt(8 * insn.addressSize);
    const at = cpu.segmentAddress(
      insn.segment,
      BigInt.asUintN(Number(bits), cpu.state.reg(RDI)),
      bytes,
      true,
    );
    const register = (index: number) =>
      bytes === 16 ? CpuState.xmm(index) : OFF.st + (index & 7) * ST_STRIDE;
    const source = register(insn.reg), mask = register(insn.rm);
    const chosen: number[] = [];
    for (let i = 0; i < bytes; i++) {
      if (cpu.state.b[mask + i] & 0x80) chosen.push(i);
    }
    if (chosen.length > 0) {
      cpu.probeWrite(
        at + BigInt(chosen[0]),
        chosen.at(-1)! - chosen[0] + 1,
      );
    }
    for (const i of chosen) cpu.write8(at + BigInt(i), cpu.state.b[source + i]);
    if (bytes === 8) setMmxState(cpu.state);
  });
}

define("maskmovdqu", "66 0f f7 /r r", "Vx, Ux", maskMove(16), SSE);

// ---- shuffles and unpacks ----

define("unpcklps", "np 0f 14 /r", "Vx, Wx", binary(unpack(4, false)), SSE);
define("unpcklpd", "66 0f 14 /r", "Vx, Wx", binary(unpack(8, false)), SSE);
define("unpckhps", "np 0f 15 /r", "Vx, Wx", binary(unpack(4, true)), SSE);
define("unpckhpd", "66 0f 15 /r", "Vx, Wx", binary(unpack(8, true)), SSE);

define(
  "shufps",
  "np 0f c6 /r",
  "Vx, Wx, Ib",
  (e, dst: Operand, src: Operand, imm: Operand) => {
    const b = e.read(src);
    const indices = doublewordIndices(e, immediate(e, imm));
    const low = e.op("i8x16.swizzle", e.read(dst), indices);
    e.write(
      dst,
      e.shuffle(elements(8, [0, 3]), low, e.op("i8x16.swizzle", b, indices)),
    );
  },
  SSE,
);
define(
  "shufpd",
  "66 0f c6 /r",
  "Vx, Wx, Ib",
  (e, dst: Operand, src: Operand, imm: Operand) => {
    const b = e.read(src);
    const a = e.read(dst);
    const low = e.shuffle(elements(8, [0, 2]), a, b);
    const high = e.shuffle(elements(8, [1, 3]), a, b);
    e.write(
      dst,
      e.op("v128.bitselect", high, low, maskOfBits(e, 8, immediate(e, imm))),
    );
  },
  SSE,
);

// ---- blends ----

/** Takes the lanes of the source whose bit in the immediate is set. */
function blend(size: 2 | 4 | 8): Semantic {
  return (e, dst: Operand, src: Operand, imm: Operand) => {
    const b = e.read(src);
    e.write(
      dst,
      e.op(
        "v128.bitselect",
        b,
        e.read(dst),
        maskOfBits(e, size, immediate(e, imm)),
      ),
    );
  };
}

/** Takes the lanes of the source whose sign bit in XMM0 is set. */
function blendVariable(shape: string, bits: number): Semantic {
  return (e, dst: Operand, src: Operand) => {
    const b = e.read(src);
    const mask = e.op(`${shape}.shr_s`, e.getXmm(0), e.i32(bits - 1));
    e.write(dst, e.op("v128.bitselect", b, e.read(dst), mask));
  };
}

define("blendps", "66 0f 3a 0c /r", "Vx, Wx, Ib", blend(4), SSE);
define("blendpd", "66 0f 3a 0d /r", "Vx, Wx, Ib", blend(8), SSE);
define("pblendw", "66 0f 3a 0e /r", "Vx, Wx, Ib", blend(2), SSE);
define("pblendvb", "66 0f 38 10 /r", "Vx, Wx", blendVariable("i8x16", 8), SSE);
define("blendvps", "66 0f 38 14 /r", "Vx, Wx", blendVariable("i32x4", 32), SSE);
define("blendvpd", "66 0f 38 15 /r", "Vx, Wx", blendVariable("i64x2", 64), SSE);

// ---- inserts and extracts ----

function insert(size: 1 | 2 | 4 | 8): Semantic {
  return (e, dst: Operand, src: Operand, imm: Operand) => {
    const value = e.read(src);
    e.write(dst, insertElement(e, size, e.read(dst), immediate(e, imm), value));
  };
}

function extract(size: 1 | 2 | 4 | 8): Semantic {
  return (e, dst: Operand, src: Operand, imm: Operand) =>
    e.write(dst, extractElement(e, size, e.read(src), immediate(e, imm)));
}

define("pinsrb", "66 0f 3a 20 /r", "Vx, Rd, Ib", insert(1), SSE);
define("pinsrb", "66 0f 3a 20 /r", "Vx, Mb, Ib", insert(1), SSE);
define("pinsrw", "66 0f c4 /r", "Vx, Rd, Ib", insert(2), SSE);
define("pinsrw", "66 0f c4 /r", "Vx, Mw, Ib", insert(2), SSE);
define("pinsrd", "66 w0 0f 3a 22 /r", "Vx, Ed, Ib", insert(4), SSE);
define("pinsrq", "66 w1 0f 3a 22 /r", "Vx, Eq, Ib", insert(8), SSE);
define("pextrb", "66 0f 3a 14 /r", "Rd, Vx, Ib", extract(1), SSE);
define("pextrb", "66 0f 3a 14 /r", "Mb, Vx, Ib", extract(1), SSE);
define("pextrw", "66 0f c5 /r", "Gd, Ux, Ib", extract(2), SSE);
define("pextrw", "66 0f 3a 15 /r", "Rd, Vx, Ib", extract(2), SSE);
define("pextrw", "66 0f 3a 15 /r", "Mw, Vx, Ib", extract(2), SSE);
define("pextrd", "66 w0 0f 3a 16 /r", "Ed, Vx, Ib", extract(4), SSE);
define("pextrq", "66 w1 0f 3a 16 /r", "Eq, Vx, Ib", extract(8), SSE);
define("extractps", "66 0f 3a 17 /r", "Ed, Vx, Ib", extract(4), SSE);

/** INSERTPS: `value` (i64) to the lane in bits 5:4 of the immediate, then zero to the lanes in bits 3:0. */
function insertSingle(
  e: Emitter,
  dst: Operand,
  imm: Value,
  value: Value,
): void {
  const inserted = insertElement(
    e,
    4,
    e.read(dst),
    e.op("i32.shr_u", imm, e.i32(4)),
    value,
  );
  e.write(dst, e.op("v128.andnot", inserted, maskOfBits(e, 4, imm)));
}

define(
  "insertps",
  "66 0f 3a 21 /r",
  "Vx, Ux, Ib",
  (e, dst: Operand, src: Operand, imm: Operand) => {
    const control = immediate(e, imm);
    insertSingle(
      e,
      dst,
      control,
      extractElement(e, 4, e.read(src), e.op("i32.shr_u", control, e.i32(6))),
    );
  },
  SSE,
);
define(
  "insertps",
  "66 0f 3a 21 /r",
  "Vx, Md, Ib",
  (e, dst: Operand, src: Operand, imm: Operand) => {
    const value = e.read(src);
    insertSingle(e, dst, immediate(e, imm), value);
  },
  SSE,
);

// ---- logic ----

const LOGIC: readonly [string, string, Packed2][] = [
  ["and", "54", direct("v128.and")],
  ["andn", "55", andNot],
  ["or", "56", direct("v128.or")],
  ["xor", "57", direct("v128.xor")],
];
for (const [name, opcode, operation] of LOGIC) {
  define(`${name}ps`, `np 0f ${opcode} /r`, "Vx, Wx", binary(operation), SSE);
  define(`${name}pd`, `66 0f ${opcode} /r`, "Vx, Wx", binary(operation), SSE);
}
