/**
 * MMX, and the SSE, SSE2 and SSSE3 instructions on MMX registers (Intel SDM vol. 1, chapter 9; 10.4.4; 11.4.2; 12.6). After
 * the semantic the interpreter sets TOP to 0 and marks every x87 register valid, as each of these instructions does (SDM vol. 3,
 * table 13-1).
 *
 * @module
 */
import type { Emitter, Operand, Value } from "../emitter.ts";
import { OFF, VECTOR } from "../state.ts";
import { define, defineSlow, type Semantic } from "./define.ts";
import {
  alignRightLow,
  extractElement,
  immediate,
  insertElement,
  type Packed2,
  type PackedShift,
  SHARED_FORMS,
  SHIFT_FORMS,
  shuffleLowWords,
} from "./packed.ts";
import { maskMove } from "./sse_moves.ts";
import { checkPending } from "./x87_state.ts";

const MMX = { unit: "mmx" } as const;

/** Words in an MMX register. */
const WORDS = 4;

/** An MMX value as a vector with it in both halves. */
function widen(e: Emitter, value: Value): Value {
  return e.op("i64x2.splat", value);
}

/** The low half of a vector. */
function low(e: Emitter, value: Value): Value {
  return e.lane("i64x2.extract_lane", 0, value);
}

function binary(operation: Packed2): Semantic {
  return (e, dst: Operand, src: Operand) => {
    const b = widen(e, e.read(src));
    e.write(dst, low(e, operation(e, widen(e, e.read(dst)), b)));
  };
}

function shift(operation: PackedShift): Semantic {
  return (e, dst: Operand, src: Operand) => {
    const count = e.read(src);
    e.write(dst, low(e, operation(e, widen(e, e.read(dst)), count)));
  };
}

const move: Semantic = (e, dst: Operand, src: Operand) =>
  e.write(dst, e.read(src));

/** Raises what an SSE instruction would, for MMX instructions that also touch an XMM register. */
function checkSse(e: Emitter): void {
  const trap = e.get32(OFF.sseTrap);
  e.faultIf(e.op("i32.eq", trap, e.i32(VECTOR.UD)), VECTOR.UD);
  e.faultIf(e.op("i32.eq", trap, e.i32(VECTOR.NM)), VECTOR.NM);
}

for (const form of SHARED_FORMS) {
  define(
    form.name,
    `np ${form.opcode} /r`,
    `Pq, ${form.mmxSource ?? "Qq"}`,
    binary(form.mmx),
    MMX,
  );
}

for (const form of SHIFT_FORMS) {
  define(
    form.name,
    `np ${form.byRegister} /r`,
    "Pq, Qq",
    shift(form.operation),
    MMX,
  );
  define(
    form.name,
    `np ${form.byImmediate}`,
    "Nq, Ib",
    shift(form.operation),
    MMX,
  );
}

define("movd", "np 0f 6e /r", "Pq, Ey", move, MMX);
define("movd", "np 0f 7e /r", "Ey, Py", move, MMX);
define("movq", "np 0f 6f /r", "Pq, Qq", move, MMX);
define("movq", "np 0f 7f /r", "Qq, Pq", move, MMX);
define("movntq", "np 0f e7 /r", "Mq, Pq", move, MMX);
define("maskmovq", "np 0f f7 /r r", "Pq, Nq", maskMove(8), MMX);

define("movq2dq", "f3 0f d6 /r", "Vq, Nq", (e, dst: Operand, src: Operand) => {
  checkSse(e);
  e.writeXmmZero(dst, e.read(src));
}, MMX);
define("movdq2q", "f2 0f d6 /r", "Pq, Uq", (e, dst: Operand, src: Operand) => {
  checkSse(e);
  e.write(dst, e.read(src));
}, MMX);

define(
  "pshufw",
  "np 0f 70 /r",
  "Pq, Qq, Ib",
  (e, dst: Operand, src: Operand, imm: Operand) => {
    e.write(
      dst,
      low(e, shuffleLowWords(e, widen(e, e.read(src)), immediate(e, imm))),
    );
  },
  MMX,
);
define(
  "palignr",
  "np 0f 3a 0f /r",
  "Pq, Qq, Ib",
  (e, dst: Operand, src: Operand, imm: Operand) => {
    const b = widen(e, e.read(src));
    e.write(
      dst,
      low(e, alignRightLow(e, widen(e, e.read(dst)), b, immediate(e, imm))),
    );
  },
  MMX,
);
const insertWord: Semantic = (e, dst: Operand, src: Operand, imm: Operand) => {
  const value = e.read(src);
  e.write(
    dst,
    low(
      e,
      insertElement(
        e,
        2,
        widen(e, e.read(dst)),
        immediate(e, imm),
        value,
        WORDS,
      ),
    ),
  );
};
define("pinsrw", "np 0f c4 /r", "Pq, Rd, Ib", insertWord, MMX);
define("pinsrw", "np 0f c4 /r", "Pq, Mw, Ib", insertWord, MMX);
define(
  "pextrw",
  "np 0f c5 /r",
  "Gd, Nq, Ib",
  (e, dst: Operand, src: Operand, imm: Operand) => {
    e.write(
      dst,
      extractElement(e, 2, widen(e, e.read(src)), immediate(e, imm), WORDS),
    );
  },
  MMX,
);
define("pmovmskb", "np 0f d7 /r", "Gd, Nq", (e, dst: Operand, src: Operand) => {
  const mask = e.op(
    "i32.and",
    e.op("i8x16.bitmask", widen(e, e.read(src))),
    e.i32(0xff),
  );
  e.write(dst, e.op("i64.extend_i32_u", mask));
}, MMX);

define("emms", "np 0f 77", "", () => {}, { ...MMX, emptiesX87: true });
defineSlow("x87Pending", (cpu) => checkPending(cpu.state));
