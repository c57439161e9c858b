/**
 * Random instances of the declared forms in 64-bit mode: prefixes, REX, ModRM, SIB, displacement and immediates
 * (Intel SDM vol. 2, chapter 2).
 *
 * @module
 */
import type { Form } from "../decode.ts";
import type { Random } from "./random.ts";

/** An encoded instance. */
export interface Instance {
  readonly form: Form;
  readonly bytes: Uint8Array;
  /** The memory operand, or undefined. */
  readonly memory: MemoryOperand | undefined;
  /** ModRM.reg or the `+r` register as a general register, -1 where there is none. */
  readonly reg: number;
  /** Operand size in bytes. */
  readonly size: 2 | 4 | 8;
  /** Address size 4 instead of 8. */
  readonly short: boolean;
}

/** A memory operand: base and index are -1 where absent, base -2 is RIP. */
export interface MemoryOperand {
  readonly base: number;
  readonly index: number;
  readonly scale: number;
  readonly disp: number;
  /** Where the 4-byte displacement of a RIP-relative or absolute operand is, so that it can be set; or -1. */
  readonly dispAt: number;
  /** Address size 4 instead of 8. */
  readonly short: boolean;
}

const REPEATS = [0xf3, 0xf3, 0xf2];
const PREFIX_66 = 0x66, PREFIX_67 = 0x67, LOCK = 0xf0;
const REX = 0x40, REX_W = 8, REX_R = 4, REX_X = 2, REX_B = 1;
/** Segment prefixes that 64-bit mode ignores. */
const IGNORED_SEGMENTS = [0x26, 0x2e, 0x36, 0x3e];
const IMMEDIATE_EDGES = [
  0,
  1,
  2,
  7,
  8,
  15,
  16,
  31,
  32,
  63,
  64,
  0x7f,
  0x80,
  0x81,
  0xff,
];
/** Operand letters in ModRM.reg and in ModRM.rm. */
const REG_LETTERS = "GVP", RM_GENERAL = "ER";

/** Instructions that take REP prefixes. */
export const STRINGS: ReadonlySet<string> = new Set([
  "movs",
  "cmps",
  "stos",
  "lods",
  "scas",
]);

/** Near branches of all kinds. */
const BRANCHES =
  /^(j(o|no|b|ae|e|ne|be|a|s|ns|p|np|l|ge|le|g|mp|cxz)|loop(e|ne)?|call|ret)$/;
/** lea rbx, [rbx + 1]: shows whether a branch was taken. */
export const MARKER: readonly number[] = [0x48, 0x8d, 0x5b, 0x01];

/** Whether a form is a near branch; {@linkcode encode} puts {@linkcode MARKER} behind it. */
export function isBranch(form: Form): boolean {
  return BRANCHES.test(form.definition.name);
}

/** Whether ModRM belongs to the encoding. */
function hasModrm(form: Form): boolean {
  return form.extension !== -2 && form.fixed < 0;
}

/** Encodes a random instance of `form`. */
export function encode(form: Form, random: Random): Instance {
  const { operands, definition: { options } } = form;
  const bytes: number[] = [];
  const letters = operands.map((o) => o.letter).join("");
  const mmx = options.unit === "mmx", x87 = options.unit === "x87";
  let size66 = false;
  if (form.prefix === -1 && form.sized && random.oneIn(3)) size66 = true;
  if (
    form.prefix === -1 && !form.sized && !x87 && form.map === 0 &&
    random.oneIn(16)
  ) size66 = true;
  const string = STRINGS.has(form.definition.name);
  if (string) size66 = random.oneIn(3);
  // AMD's processors cut near branches to 16 bits with 66, Intel's do not.
  if (isBranch(form)) size66 = false;
  let rex = 0;
  if (string && random.oneIn(2)) rex |= REX_W;
  if (form.w === 1 || (form.w < 0 && random.oneIn(form.sized ? 2 : 16))) {
    rex |= REX_W;
  }
  let modrm = -1, sib = -1;
  let dispBytes = 0, disp = 0;
  let memory: MemoryOperand | undefined;
  let reg = -1;
  let short = false;
  let base = -1, index = -1, scale = 0, ripRelative = false;
  if (hasModrm(form)) {
    reg = form.extension >= 0
      ? form.extension
      : random.below(mmx && !random.oneIn(8) ? 8 : 16);
    if (form.extension >= 0 && random.oneIn(16)) rex |= REX_R;
    if (reg & 8) rex |= REX_R;
    const register = form.only === "r" || (form.only === "" && random.oneIn(2));
    if (register) {
      const rm = random.below(16);
      if (rm & 8) rex |= REX_B;
      modrm = 0xc0 | ((reg & 7) << 3) | (rm & 7);
      if (form.extension >= 0) reg = -1;
    } else {
      short = random.oneIn(12);
      const kind = random.below(8);
      let mod = random.below(3);
      if (kind === 0) {
        // RIP-relative, or absolute through a SIB byte without base and index.
        ripRelative = random.oneIn(2);
        mod = 0;
        dispBytes = 4;
        base = ripRelative ? -2 : -1;
        if (!ripRelative) sib = 0x25;
        modrm = ((reg & 7) << 3) | (ripRelative ? 5 : 4);
      } else {
        base = random.below(16);
        // RSP holds the stack pointer: it is a base often enough.
        if (kind < 4 || (base & 7) === 4) {
          index = random.below(16);
          if (index === 4) index = -1;
          scale = random.below(4);
          if (index === base) scale = 0;
          sib = (scale << 6) | ((index < 0 ? 4 : index & 7) << 3) | (base & 7);
          if (index >= 8) rex |= REX_X;
          if (random.oneIn(16)) {
            // No base, only an index and a displacement.
            base = -1;
            mod = 0;
            sib = (sib & ~7) | 5;
            dispBytes = 4;
          }
        }
        if (base >= 8) rex |= REX_B;
        if (mod === 0 && base >= 0 && (base & 7) === 5) mod = 1;
        if (mod === 1) dispBytes = 1;
        if (mod === 2) dispBytes = 4;
        if (dispBytes === 1) disp = ((random.u32() & 0xff) << 24) >> 24;
        else if (dispBytes === 4) {
          disp = random.oneIn(4) ? random.u32() | 0 : random.below(4096) - 2048;
        }
        modrm = (mod << 6) | ((reg & 7) << 3) | (sib >= 0 ? 4 : base & 7);
      }
      if (form.extension >= 0) reg = -1;
    }
  } else if (form.plus) {
    reg = random.below(16);
    if (form.noRexB) reg &= 7;
    if (reg & 8) rex |= REX_B;
  }
  const counts = form.definition.name.startsWith("loop") ||
    form.definition.name === "jcxz";
  if (string || counts || letters.includes("O")) short = random.oneIn(6);
  if (form.noRexB) rex &= ~REX_B;
  if (
    reg >= 0 && !form.plus && ![...letters].some((l) => REG_LETTERS.includes(l))
  ) reg = -1;
  const generalReg = reg >= 0 && (form.plus || letters.includes("G"))
    ? reg
    : -1;

  // Prefixes, in any order that keeps REX last.
  if (random.oneIn(16)) bytes.push(random.pick(IGNORED_SEGMENTS));
  if (short) bytes.push(PREFIX_67);
  if (form.prefix > 0) bytes.push(form.prefix);
  else if (size66) bytes.push(PREFIX_66);
  const isMemory = modrm >= 0 && modrm < 0xc0;
  if (string && !random.oneIn(3)) bytes.push(random.pick(REPEATS));
  if (options.lock && isMemory && random.oneIn(6)) bytes.push(LOCK);
  const byteRegister = operands.some((o) =>
    o.width === "b" && (RM_GENERAL + "GZ").includes(o.letter)
  );
  if (rex !== 0 || random.oneIn(byteRegister ? 3 : 12)) bytes.push(REX | rex);
  if (form.map > 0) bytes.push(0x0f);
  if (form.map > 1) bytes.push(form.map === 2 ? 0x38 : 0x3a);
  bytes.push(form.opcode + (form.plus ? reg & 7 : 0));
  if (form.fixed >= 0) bytes.push(form.fixed);
  if (modrm >= 0) bytes.push(modrm);
  if (sib >= 0) bytes.push(sib);
  const dispAt = dispBytes === 4 && (ripRelative || base === -1)
    ? bytes.length
    : -1;
  for (let i = 0; i < dispBytes; i++) bytes.push((disp >> (8 * i)) & 0xff);
  if (isMemory) memory = { base, index, scale, disp, dispAt, short };

  const size = rex & REX_W ? 8 : size66 ? 2 : 4;
  for (const operand of operands) {
    if (operand.letter === "O") {
      memory = {
        base: -1,
        index: -1,
        scale: 0,
        disp: 0,
        dispAt: bytes.length,
        short,
      };
      for (let i = 0; i < (short ? 4 : 8); i++) bytes.push(0);
    }
    if (operand.letter !== "I") continue;
    const count = {
      b: 1,
      s: 1,
      w: 2,
      z: size === 2 ? 2 : 4,
      v: size,
      d: 4,
    }[operand.width] ?? 1;
    if (count === 1) {
      bytes.push(
        random.oneIn(2) ? random.pick(IMMEDIATE_EDGES) : random.u32() & 0xff,
      );
    } else if (random.oneIn(3)) {
      const edge = random.pick([0, 1, 0xff, 0x7f, 0x80]);
      for (let i = 0; i < count; i++) {
        bytes.push(i === count - 1 ? edge : random.pick([0, 0xff, edge]));
      }
    } else for (let i = 0; i < count; i++) bytes.push(random.u32() & 0xff);
  }
  if (isBranch(form)) {
    // Taken or not: the marker behind it is skipped or run.
    if (operands[0]?.letter === "J") {
      bytes.push(MARKER.length);
      if (operands[0].width !== "b") bytes.push(0, 0, 0);
    }
    bytes.push(...MARKER);
  }
  return {
    form,
    bytes: Uint8Array.from(bytes),
    memory,
    reg: generalReg,
    size,
    short,
  };
}
