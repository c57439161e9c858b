/**
 * How instructions are declared: an encoding, operands, and one meaning for every tier.
 *
 * ```ts ignore
 * define("add", "00 /r", "Eb, Gb", alu, { lock: true });
 * define("paddd", "66 0f fe /r", "Vx, Wx", (e, d, s) => e.write(d, e.op("i32x4.add", e.read(d), e.read(s))), { unit: "sse" });
 * define("cpuid", "0f a2", "", helper((cpu) => …), { ends: false });
 * ```
 *
 * **Encoding**: an optional mandatory prefix (`np` none of 66 F3 F2; `66`, `f3`, `f2`), optional `nb` (no REX.B), optional `w0`/`w1` (REX.W), the
 * opcode bytes in hexadecimal, then `/r` (ModRM), `/0` to `/7` (ModRM with an opcode extension) or `+r` (register in the low
 * three bits). `/r m` and `/3 m` match memory forms only, `/r r` register forms only (likewise `/3 r`). A fixed ModRM byte is
 * an opcode byte more (`0f 01 f8`, `d9 e8`): such an entry is preferred over one with ModRM.
 *
 * **Operands**, separated by commas, in the manner of Intel SDM vol. 2 appendix A:
 *
 * | letter | what |
 * | --- | --- |
 * | `E` | ModRM.rm, register or memory |
 * | `R` `M` | ModRM.rm, only register / only memory |
 * | `G` | ModRM.reg, general register |
 * | `Z` | general register in the low opcode bits |
 * | `I` | immediate: `Ib` zero-extended byte, `Is` sign-extended byte, `Iw`, `Iz` (2 or 4 bytes, sign-extended), `Iv` (up to 8) |
 * | `J` | relative target: `Jb`, `Jz` |
 * | `O` | absolute offset (A0 to A3) |
 * | `V` `W` `U` | XMM register in reg; XMM register or memory in rm; XMM register in rm |
 * | `P` `Q` `N` | MMX register in reg; MMX register or memory in rm; MMX register in rm |
 * | `S` `C` `D` | segment, control, debug register in reg (helpers only) |
 * | `A` | far pointer (helpers only) |
| `al` `cl` `dx` `rax` `1` | fixed; `rax` has the operand size |
 *
 * sizes: `b` 1, `w` 2, `d` 4, `q` 8, `x` 16 (aligned in memory), `u` 16 (any alignment), `v` the operand size (2, 4, 8), `y` 4, or 8 with
 * REX.W, `z` 2 or 4 (operand size, at most 4), `n` 8 in 64-bit mode and 4 elsewhere, none for LEA's `M`.
 *
 * @module
 */
import type { Emitter } from "../emitter.ts";
import type { HelperCpu, Insn } from "../helper.ts";

/** What an instruction does, written once for all tiers. Operands come in the order of the declaration. */
// deno-lint-ignore no-explicit-any
export type Semantic = (e: Emitter, ...operands: any[]) => void;

/** An instruction done in TypeScript: rare and system instructions. */
export interface HelperSemantic {
  readonly run: (cpu: HelperCpu, insn: Insn) => void;
}

/** Options of a declaration. */
export interface DefineOptions {
  /** LOCK is permitted (with a memory destination); otherwise it gives #UD. */
  lock?: boolean;
  /** The unit whose availability is checked first: x87 (#NM), mmx, sse (#UD, #NM). */
  unit?: "x87" | "mmx" | "sse";
  /** EMMS: of the MMX instructions the one that leaves every x87 register empty. */
  emptiesX87?: boolean;
  /** Not in 64-bit mode (#UD there). */
  legacyOnly?: boolean;
  /** Only in 64-bit mode. */
  longOnly?: boolean;
  /** In 64-bit mode the operand size is 8 (66 makes it 2). */
  default64?: boolean;
  /** In 64-bit mode the operand size is 8 whatever the prefixes. */
  force64?: boolean;
  /** Leaves the straight line: always, or because it changes mode, interrupts or translation. The block ends after it. */
  ends?: boolean;
  /** Uses the stack or an implicit address, so that long mode and other modes have different code. */
  modes?: boolean;
  /** The TypeScript version that `Emitter.fallbackIf` leaves to. */
  fallback?: HelperSemantic;
  /** CPL 0 only (#GP(0) otherwise); not needed by helpers that check themselves. */
  privileged?: boolean;
  /** An ignored prefix combination or hint: `rep` permits F3/F2 as ignored prefixes on an `np` entry. */
  rep?: boolean;
  /** Arithmetic flags left undefined by the specification (a mask of FLAG), for the oracle. */
  undefinedFlags?: number;
  /** Kept out of the random oracle: not user mode, or with effects outside registers and scratch memory. */
  noOracle?: boolean;
}

/** One declared form. */
export interface Definition {
  readonly name: string;
  readonly encoding: string;
  readonly operands: readonly string[];
  readonly semantic: Semantic | HelperSemantic;
  readonly options: DefineOptions;
}

const definitions: Definition[] = [];
const slowPaths = new Map<string, (cpu: HelperCpu) => void>();

/** Declares one form of an instruction. */
export function define(
  name: string,
  encoding: string,
  operands: string,
  semantic: Semantic | HelperSemantic,
  options: DefineOptions = {},
): void {
  definitions.push({
    name,
    encoding,
    operands: operands === "" ? [] : operands.split(",").map((o) => o.trim()),
    semantic,
    options,
  });
}

/** Marks a TypeScript function as the meaning of an instruction. */
export function helper(
  run: (cpu: HelperCpu, insn: Insn) => void,
): HelperSemantic {
  return { run };
}

/** Declares a slow path that semantics reach with `e.slow(name)`. */
export function defineSlow(name: string, run: (cpu: HelperCpu) => void): void {
  if (slowPaths.has(name)) {
    throw new Error(`slow path ${name} is declared twice`);
  }
  slowPaths.set(name, run);
}

/** Everything declared so far, in order. */
export function allDefinitions(): readonly Definition[] {
  return definitions;
}

/** The declared slow paths. */
export function allSlowPaths(): ReadonlyMap<string, (cpu: HelperCpu) => void> {
  return slowPaths;
}
