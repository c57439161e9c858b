/**
 * The operands of a form as record fields.
 *
 * @module
 */
import type { Form, OperandSpec } from "./decode.ts";
import type { Size } from "./emitter.ts";
import { REC } from "./record.ts";
import type { RecordOperand } from "./record_emitter.ts";
import { RAX, RCX, RDX } from "./state.ts";

/** Bytes that an operand covers, by its size letter. */
export function operandSize(
  spec: OperandSpec,
  size: 2 | 4 | 8,
  long: boolean,
): Size {
  switch (spec.width) {
    case "b":
      return 1;
    case "w":
      return 2;
    case "d":
      return 4;
    case "q":
      return 8;
    case "x":
    case "u":
      return 16;
    case "y":
      return size === 8 ? 8 : 4;
    case "z":
      return size === 2 ? 2 : 4;
    case "n":
      return long ? 8 : 4;
    default:
      return size;
  }
}

/** Builds the operand list of a variant. */
export function makeOperands(
  form: Form,
  size: 2 | 4 | 8,
  memory: boolean,
  long: boolean,
): RecordOperand[] {
  return form.operands.map((spec): RecordOperand => {
    const bytes = operandSize(spec, size, long);
    const unaligned = spec.width !== "x";
    const rmField = (kind: "reg" | "xmm" | "mmx"): RecordOperand =>
      memory
        ? { kind: "mem", size: bytes, unaligned }
        : { kind, size: bytes, field: REC.rm };
    switch (spec.letter) {
      case "E":
      case "R":
        return rmField("reg");
      case "M":
        return { kind: "mem", size: bytes, unaligned };
      case "G":
      case "Z":
        return { kind: "reg", size: bytes, field: REC.reg };
      case "V":
        return { kind: "xmm", size: bytes, field: REC.reg };
      case "W":
      case "U":
        return rmField("xmm");
      case "P":
        return { kind: "mmx", size: bytes, field: REC.reg };
      case "Q":
      case "N":
        return rmField("mmx");
      case "O":
        return { kind: "mem", size: bytes };
      case "I":
      case "J": {
        return {
          kind: "imm",
          size: spec.width === "s" || spec.width === "z" ? size : bytes,
        };
      }
      case "al":
        return { kind: "reg", size: 1, fixed: RAX * 8 };
      case "cl":
        return { kind: "reg", size: 1, fixed: RCX * 8 };
      case "dx":
        return { kind: "reg", size: 2, fixed: RDX * 8 };
      case "rax":
        return { kind: "reg", size, fixed: RAX * 8 };
      case "1":
        return { kind: "imm", size: 1, constant: 1n };
      default:
        throw new Error(
          `${form.definition.name}: operand ${spec.text} is for helpers only`,
        );
    }
  });
}
