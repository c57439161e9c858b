/**
 * The decoder: prefixes, opcode maps, ModRM and immediates (Intel SDM vol. 2, chapter 2), driven by the declarations in
 * `isa/`.
 *
 * @module
 */
import { allDefinitions, type Definition } from "./isa/define.ts";
import type { Insn } from "./helper.ts";
import { CS, DS, ES, FS, GS, SS, VECTOR } from "./state.ts";

/** Longest instruction (Intel SDM vol. 2, 2.3.11). */
export const MAX_LENGTH = 15;

/** A declaration prepared for matching. */
export interface Form {
  readonly definition: Definition;
  /** Position among all forms. */
  readonly id: number;
  /** Mandatory prefix: 0 none of them, 0x66, 0xf2, 0xf3; -1 any. */
  readonly prefix: number;
  /** REX.W required: 0, 1, or -1. */
  readonly w: number;
  /** Opcode map (0 one byte, 1 0F, 2 0F38, 3 0F3A) and byte. */
  readonly map: number;
  readonly opcode: number;
  /** Fixed ModRM byte, or -1. */
  readonly fixed: number;
  /** ModRM.reg as an opcode extension, -1 for any; -2 without ModRM. */
  readonly extension: number;
  /** "m", "r" or "" for both. */
  readonly only: "" | "m" | "r";
  /** `+r`. */
  readonly plus: boolean;
  /** Not with REX.B. */
  readonly noRexB: boolean;
  /** Whether generated code depends on the operand size. */
  readonly sized: boolean;
  /** Parsed operand letters. */
  readonly operands: readonly OperandSpec[];
}

/** One operand of a form: the letter and the size letter of `define.ts`. */
export interface OperandSpec {
  readonly text: string;
  readonly letter: string;
  readonly width: string;
}

/** An instruction with the form it matched. */
export interface Decoded extends Insn {
  readonly form: Form;
}

/** Why nothing was decoded: the exception to raise, or `"more"` when the bytes end inside the instruction. */
export type DecodeFailure = { readonly vector: number } | "more";

const FIXED_OPERANDS = new Set(["al", "cl", "dx", "rax", "1"]);

/** Parses the encoding and operands of a declaration. */
export function parseForm(definition: Definition, id: number): Form {
  const tokens = definition.encoding.toLowerCase().split(/\s+/);
  let prefix = -1, w = -1;
  if (tokens[0] === "np") {
    prefix = 0;
    tokens.shift();
  } else if (
    (tokens[0] === "66" || tokens[0] === "f2" || tokens[0] === "f3") &&
    tokens.length > 1
  ) {
    prefix = parseInt(tokens.shift()!, 16);
  }
  const noRexB = tokens[0] === "nb";
  if (noRexB) tokens.shift();
  if (tokens[0] === "w0" || tokens[0] === "w1") {
    w = tokens.shift() === "w1" ? 1 : 0;
  }
  const bytes: number[] = [];
  while (tokens.length > 0 && /^[0-9a-f]{2}$/.test(tokens[0])) {
    bytes.push(parseInt(tokens.shift()!, 16));
  }
  let extension = -2, plus = false;
  let only: "" | "m" | "r" = "";
  for (const token of tokens) {
    if (token === "/r") extension = -1;
    else if (/^\/[0-7]$/.test(token)) extension = Number(token[1]);
    else if (token === "+r") plus = true;
    else if (token === "m" || token === "r") only = token;
    else {throw new Error(
        `${definition.name} "${definition.encoding}": unknown token ${token}`,
      );}
  }
  let map = 0;
  if (bytes[0] === 0x0f && bytes.length > 1) {
    bytes.shift();
    map = 1;
    const second: number = bytes[0];
    if ((second === 0x38 || second === 0x3a) && bytes.length > 1) {
      map = second === 0x38 ? 2 : 3;
      bytes.shift();
    }
  }
  const operands = definition.operands.map((text) =>
    FIXED_OPERANDS.has(text)
      ? { text, letter: text, width: "" }
      : { text, letter: text[0], width: text.slice(1) }
  );
  for (const operand of operands) {
    // MOV to and from control and debug registers takes its operand as a register whatever mod says.
    if (
      "RUN".includes(operand.letter) &&
      !operands.some((o) => "CD".includes(o.letter))
    ) only = "r";
    if (operand.letter === "M") only = "m";
  }
  const sized = definition.options.modes === true ||
    definition.options.default64 === true ||
    definition.options.force64 === true ||
    operands.some((o) =>
      ["v", "y", "z", "n", "s"].includes(o.width) || o.letter === "rax" ||
      o.letter === "J" || o.text === "M"
    );
  return {
    definition,
    id,
    prefix,
    w,
    map,
    opcode: bytes[0],
    fixed: bytes.length > 1 ? bytes[1] : -1,
    extension,
    only,
    plus,
    noRexB,
    sized,
    operands,
  };
}

/** How narrowly a form matches: the narrower is tried first. */
function specificity(form: Form): number {
  return (form.fixed >= 0 ? 32 : 0) + (form.extension >= 0 ? 8 : 0) +
    (form.only !== "" ? 4 : 0) +
    (form.prefix > 0 ? 3 : form.prefix === 0 ? 1 : 0) +
    (form.w >= 0 || form.noRexB ? 1 : 0);
}

/** Registers of 16-bit addressing (Intel SDM vol. 2, table 2-1): base and index by ModRM.rm. */
const ADDRESS16: readonly (readonly [number, number])[] = [
  [3, 6],
  [3, 7],
  [5, 6],
  [5, 7],
  [6, -1],
  [7, -1],
  [5, -1],
  [3, -1],
];

/** Matches instruction bytes against every declared form. */
export class Decoder {
  readonly forms: readonly Form[];
  private readonly table: (readonly Form[] | undefined)[] = new Array(1024);
  private readonly hasModrm = new Uint8Array(1024);

  constructor(definitions: readonly Definition[] = allDefinitions()) {
    this.forms = definitions.map(parseForm);
    const lists: Form[][] = Array.from({ length: 1024 }, () => []);
    for (const form of this.forms) {
      const count = form.plus ? 8 : 1;
      for (let i = 0; i < count; i++) {
        lists[form.map * 256 + form.opcode + i].push(form);
      }
      if (form.extension !== -2 || form.fixed >= 0) {
        this.hasModrm[form.map * 256 + form.opcode] = 1;
      }
    }
    lists.forEach((list, i) => {
      if (list.length > 0) {
        this.table[i] = list.sort((a, b) => specificity(b) - specificity(a));
      }
    });
  }

  /**
   * Decodes one instruction.
   *
   * @param code Bytes to decode from `start`.
   * @param end First byte that may not be read; `"more"` is returned when the instruction does not end before it.
   * @param mode Code width of the CS descriptor.
   */
  decode(
    code: Uint8Array,
    start: number,
    end: number,
    mode: 16 | 32 | 64,
  ): Decoded | DecodeFailure {
    const limit = start + MAX_LENGTH;
    let at = start;
    let rex = -1,
      has66 = false,
      has67 = false,
      rep = 0,
      lock = false,
      override = -1;
    let byte = 0;
    prefixes: for (;;) {
      if (at >= limit) return { vector: VECTOR.GP };
      if (at >= end) return "more";
      byte = code[at++];
      switch (byte) {
        case 0x66:
          has66 = true;
          break;
        case 0x67:
          has67 = true;
          break;
        case 0xf2:
        case 0xf3:
          rep = byte;
          break;
        case 0xf0:
          lock = true;
          break;
        case 0x2e:
          if (mode !== 64) override = CS;
          break;
        case 0x36:
          if (mode !== 64) override = SS;
          break;
        case 0x3e:
          if (mode !== 64) override = DS;
          break;
        case 0x26:
          if (mode !== 64) override = ES;
          break;
        case 0x64:
          override = FS;
          break;
        case 0x65:
          override = GS;
          break;
        default:
          if (mode === 64 && (byte & 0xf0) === 0x40) {
            rex = byte;
            continue; // a REX prefix counts only right before the opcode
          }
          break prefixes;
      }
      rex = -1;
    }
    let map = 0;
    if (byte === 0x0f) {
      if (at >= limit) return { vector: VECTOR.GP };
      if (at >= end) return "more";
      byte = code[at++];
      map = 1;
      if (byte === 0x38 || byte === 0x3a) {
        map = byte === 0x38 ? 2 : 3;
        if (at >= limit) return { vector: VECTOR.GP };
        if (at >= end) return "more";
        byte = code[at++];
      }
    }
    const key = map * 256 + byte;
    const list = this.table[key];
    if (list === undefined) return { vector: VECTOR.UD };
    let modrm = -1;
    if (this.hasModrm[key]) {
      if (at >= limit) return { vector: VECTOR.GP };
      if (at >= end) return "more";
      modrm = code[at++];
    }
    const rexBits = rex < 0 ? 0 : rex & 15;
    const wide = (rexBits & 8) !== 0;
    let form: Form | undefined;
    const mandatory = rep !== 0 ? rep : has66 ? 0x66 : 0;
    for (let pass = 0; pass < 3 && form === undefined; pass++) {
      // F2/F3 select before 66; then forms that ignore prefixes.
      const wanted = pass === 0
        ? mandatory
        : pass === 1
        ? (rep !== 0 && has66 ? 0x66 : mandatory)
        : -1;
      for (const candidate of list) {
        if (
          pass < 2 ? candidate.prefix !== wanted : candidate.prefix !== -1 &&
            !(candidate.prefix === 0 && candidate.definition.options.rep)
        ) {
          continue;
        }
        if (candidate.w >= 0 && candidate.w !== (wide ? 1 : 0)) continue;
        if (candidate.fixed >= 0 && candidate.fixed !== modrm) continue;
        if (
          candidate.extension >= 0 && candidate.extension !== ((modrm >> 3) & 7)
        ) continue;
        if (
          candidate.only !== "" && (candidate.only === "r") !== (modrm >= 0xc0)
        ) continue;
        if (candidate.noRexB && rexBits & 1) continue;
        const options = candidate.definition.options;
        if (mode === 64 ? options.legacyOnly : options.longOnly) continue;
        form = candidate;
        break;
      }
    }
    if (form === undefined) return { vector: VECTOR.UD };
    const options = form.definition.options;
    const size66 = has66 && !(form.prefix === 0x66);
    let size: 2 | 4 | 8;
    if (mode === 64) {
      size = options.force64
        ? 8
        : wide
        ? 8
        : size66
        ? 2
        : options.default64
        ? 8
        : 4;
    } else {
      size = (mode === 32) !== size66 ? 4 : 2;
    }
    const addressSize = mode === 64
      ? (has67 ? 4 : 8)
      : (mode === 32) !== has67
      ? 4
      : 2;

    let mod = -1,
      reg = -1,
      rm = -1,
      base = -1,
      index = -1,
      scale = 0,
      disp = 0,
      segment = DS;
    if (modrm >= 0) {
      mod = modrm >> 6;
      reg = ((modrm >> 3) & 7) | ((rexBits & 4) << 1);
      const low = modrm & 7;
      rm = low | ((rexBits & 1) << 3);
      // MOV to and from control and debug registers takes ModRM as a register form whatever mod says.
      if (form.operands.some((o) => o.letter === "C" || o.letter === "D")) {
        mod = 3;
      }
      if (mod !== 3) {
        let dispSize = mod === 1
          ? 1
          : mod === 2
          ? (addressSize === 2 ? 2 : 4)
          : 0;
        if (addressSize === 2) {
          [base, index] = ADDRESS16[low];
          if (mod === 0 && low === 6) {
            base = -1;
            dispSize = 2;
          }
          if (base === 5) segment = SS;
        } else if (low === 4) {
          if (at >= limit) return { vector: VECTOR.GP };
          if (at >= end) return "more";
          const sib = code[at++];
          scale = sib >> 6;
          index = ((sib >> 3) & 7) | ((rexBits & 2) << 2);
          if (index === 4) index = -1;
          base = (sib & 7) | ((rexBits & 1) << 3);
          if ((sib & 7) === 5 && mod === 0) {
            base = -1;
            dispSize = 4;
          }
          if (base === 4 || base === 5) segment = SS;
        } else {
          base = rm;
          if (low === 5 && mod === 0) {
            base = mode === 64 ? -2 : -1;
            dispSize = 4;
          }
          if (base === 5) segment = SS;
        }
        if (dispSize > 0) {
          if (at + dispSize > limit) return { vector: VECTOR.GP };
          if (at + dispSize > end) return "more";
          disp = dispSize === 1
            ? (code[at] << 24) >> 24
            : dispSize === 2
            ? ((code[at] | (code[at + 1] << 8)) << 16) >> 16
            : code[at] | (code[at + 1] << 8) | (code[at + 2] << 16) |
              (code[at + 3] << 24);
          at += dispSize;
        }
      }
    }
    if (override >= 0) segment = override;

    let imm = 0n, imm2 = 0;
    for (const operand of form.operands) {
      let bytes = 0;
      let signed = true;
      switch (operand.letter) {
        case "I":
          switch (operand.width) {
            case "b":
              bytes = 1;
              signed = false;
              break;
            case "s":
              bytes = 1;
              break;
            case "w":
              bytes = 2;
              signed = false;
              break;
            case "z":
              bytes = size === 2 ? 2 : 4;
              break;
            case "v":
              bytes = size;
              break;
            case "d":
              bytes = 4;
              break;
            default:
              throw new Error(
                `${form.definition.name}: unknown immediate ${operand.text}`,
              );
          }
          break;
        case "J":
          bytes = operand.width === "b"
            ? 1
            : mode === 64
            ? 4
            : size === 2
            ? 2
            : 4;
          break;
        case "O":
          bytes = addressSize;
          signed = false;
          break;
        case "A": { // far pointer: offset, then selector
          const n = size === 2 ? 2 : 4;
          if (at + n + 2 > limit) return { vector: VECTOR.GP };
          if (at + n + 2 > end) return "more";
          imm = readImmediate(code, at, n, false);
          imm2 = code[at + n] | (code[at + n + 1] << 8);
          at += n + 2;
          continue;
        }
      }
      if (bytes === 0) continue;
      if (at + bytes > limit) return { vector: VECTOR.GP };
      if (at + bytes > end) return "more";
      const value = readImmediate(code, at, bytes, signed);
      at += bytes;
      if (operand.letter === "O") {
        base = index = -1;
        mod = 0;
        imm = value;
      } else if (form.operands.indexOf(operand) === firstImmediate(form)) {
        imm = value;
      } else imm2 = Number(value);
    }
    if (lock && !(options.lock && mod >= 0 && mod !== 3)) {
      return { vector: VECTOR.UD };
    }
    return {
      form,
      name: form.definition.name,
      length: at - start,
      mode,
      size,
      addressSize,
      opcode: byte,
      mod,
      reg,
      rm,
      opReg: (byte & 7) | ((rexBits & 1) << 3),
      segment,
      base,
      index,
      scale,
      disp,
      imm,
      imm2,
      rep,
      lock,
      rex: rex >= 0,
      rexW: wide,
    };
  }
}

/** Index of the operand whose value goes to `imm`. */
function firstImmediate(form: Form): number {
  return form.operands.findIndex((o) =>
    o.letter === "I" || o.letter === "J" || o.letter === "O"
  );
}

/** A little-endian immediate. */
function readImmediate(
  code: Uint8Array,
  at: number,
  bytes: number,
  signed: boolean,
): bigint {
  let low = code[at];
  if (bytes === 1) return BigInt(signed ? (low << 24) >> 24 : low);
  low |= code[at + 1] << 8;
  if (bytes === 2) return BigInt(signed ? (low << 16) >> 16 : low);
  low |= (code[at + 2] << 16) | (code[at + 3] << 24);
  if (bytes === 4) return BigInt(signed ? low : low >>> 0);
  const high = code[at + 4] | (code[at + 5] << 8) | (code[at + 6] << 16) |
    (code[at + 7] << 24);
  return (BigInt(high) << 32n) | BigInt(low >>> 0);
}
