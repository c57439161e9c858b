/**
 * The exact versions of the SSE floating-point instructions: what the fast paths of sse_float.ts
 * and sse_convert.ts leave to when an operand, the result or MXCSR is out of the ordinary.
 *
 * Intel SDM volume 1: 10.2.3 (MXCSR), 11.5 (SIMD floating-point exceptions).
 *
 * @module
 */
import {
  ALL_EXCEPTIONS,
  type FpEnv,
  fpEnv,
  raised,
  type Rounding,
} from "../float/env.ts";
import { type BinaryFloat, float32, float64 } from "../float/binary.ts";
import type { HelperCpu, Insn } from "../helper.ts";
import { CpuState, CR4, GuestFault, OFF, VECTOR } from "../state.ts";
import { helper, type HelperSemantic } from "./define.ts";

/** MXCSR fields (SDM vol. 1, figure 10-3). The six exception flags are in bits 0 to 5. */
export const MXCSR = {
  PE: 1 << 5,
  DAZ: 1 << 6,
  /** The six masks. */
  MASKS: 0x3f << 7,
  PM: 1 << 12,
  /** Rounding control. */
  RC: 3 << 13,
  FTZ: 1 << 15,
} as const;
const MASKS_SHIFT = 7;
/** Position of rounding control. */
export const RC_SHIFT = 13;

const XMM_BYTES = 16;
const ALIGNMENT = 15n;

const shared: FpEnv = fpEnv();

/**
 * The environment of an instruction, from MXCSR. There is one object, for all: it is good until
 * the next call.
 *
 * @param s The vCPU's state.
 * @returns The environment, with no exception raised.
 */
export function sseEnvironment(s: CpuState): FpEnv {
  const mxcsr = s.get32(OFF.mxcsr);
  shared.rounding = ((mxcsr & MXCSR.RC) >> RC_SHIFT) as Rounding;
  shared.masks = (mxcsr & MXCSR.MASKS) >> MASKS_SHIFT;
  shared.daz = (mxcsr & MXCSR.DAZ) !== 0;
  shared.ftz = (mxcsr & MXCSR.FTZ) !== 0;
  shared.flags = 0;
  shared.roundedUp = false;
  return shared;
}

/**
 * Merges what an instruction raised into MXCSR.
 *
 * @param cpu The vCPU.
 * @param env The environment after the operation on all elements.
 * @throws GuestFault #XM for an unmasked exception, or #UD if the system does not expect it.
 */
export function reportSse(cpu: HelperCpu, env: FpEnv): void {
  const s = cpu.state;
  s.set32(OFF.mxcsr, s.get32(OFF.mxcsr) | raised(env));
  if ((env.flags & ~env.masks & ALL_EXCEPTIONS) === 0) return;
  const expected = (s.get32(OFF.cr4) & CR4.OSXMMEXCPT) !== 0;
  throw new GuestFault(expected ? VECTOR.XM : VECTOR.UD);
}

/** The elements of a vector as bits. */
export type Elements = bigint[];

/** How many bits an element has. */
export type Width = 32 | 64;

/**
 * The arithmetic of a width.
 *
 * @param width 32 or 64.
 * @returns It.
 */
export function arithmeticOf(width: Width): BinaryFloat {
  return width === 32 ? float32 : float64;
}

/**
 * Reads the low elements of an XMM register.
 *
 * @param s The state.
 * @param n Register.
 * @param width Element width.
 * @param count How many.
 * @returns Them.
 */
export function readXmm(
  s: CpuState,
  n: number,
  width: Width,
  count: number,
): Elements {
  const at = CpuState.xmm(n);
  return Array.from(
    { length: count },
    (_, i) => width === 64 ? s.get(at + i * 8) : BigInt(s.get32(at + i * 4)),
  );
}

/**
 * Writes the low elements of an XMM register; the others stay.
 *
 * @param s The state.
 * @param n Register.
 * @param width Element width.
 * @param elements Them.
 */
export function writeXmm(
  s: CpuState,
  n: number,
  width: Width,
  elements: Elements,
): void {
  const at = CpuState.xmm(n);
  elements.forEach((bits, i) => {
    if (width === 64) s.set(at + i * 8, bits);
    else s.set32(at + i * 4, Number(bits));
  });
}

/**
 * Reads the elements of ModRM.rm: an XMM register or memory.
 *
 * @param cpu The vCPU.
 * @param insn The instruction.
 * @param width Element width.
 * @param count How many.
 * @returns Them.
 * @throws GuestFault #GP for sixteen misaligned bytes.
 */
export function readSource(
  cpu: HelperCpu,
  insn: Insn,
  width: Width,
  count: number,
): Elements {
  if (insn.mod === 3) return readXmm(cpu.state, insn.rm, width, count);
  const bytes = (width / 8) * count;
  const at = cpu.linear(insn, bytes, false);
  if (bytes === XMM_BYTES && (at & ALIGNMENT) !== 0n) {
    throw new GuestFault(VECTOR.GP, 0);
  }
  return Array.from(
    { length: count },
    (_, i) =>
      width === 64
        ? cpu.read64(at + BigInt(i * 8))
        : BigInt(cpu.read32(at + BigInt(i * 4)) >>> 0),
  );
}

/** An operation on one element of the destination and the one of the source. */
export type ElementOperation = (
  f: BinaryFloat,
  x: bigint,
  y: bigint,
  env: FpEnv,
  insn: Insn,
) => bigint;

/**
 * An instruction that computes each of `count` elements from the same one of its operands.
 *
 * @param width Element width.
 * @param count 1 for scalar instructions.
 * @param operation What it computes.
 * @returns The exact version.
 */
export function exactElements(
  width: Width,
  count: number,
  operation: ElementOperation,
): HelperSemantic {
  return exactVector(
    width,
    count,
    (f, x, y, env, insn) =>
      x.map((_, i) => operation(f, x[i], y[i], env, insn)),
  );
}

/** An operation on all elements. */
export type VectorOperation = (
  f: BinaryFloat,
  x: Elements,
  y: Elements,
  env: FpEnv,
  insn: Insn,
) => Elements;

/**
 * An instruction that computes its elements from any of its operands'.
 *
 * @param width Element width.
 * @param count How many elements the operands have.
 * @param operation What it computes.
 * @returns The exact version.
 */
export function exactVector(
  width: Width,
  count: number,
  operation: VectorOperation,
): HelperSemantic {
  const f = arithmeticOf(width);
  return helper((cpu, insn) => {
    const s = cpu.state;
    const y = readSource(cpu, insn, width, count);
    const x = readXmm(s, insn.reg, width, count);
    const env = sseEnvironment(s);
    const result = operation(f, x, y, env, insn);
    reportSse(cpu, env);
    writeXmm(s, insn.reg, width, result);
  });
}
