/**
 * The x87 register file as instructions see it: the stack, tags, condition codes, stack faults,
 * exception reporting and the last instruction and data pointers.
 *
 * Intel SDM volume 1: 8.1 (execution environment), 8.5 and 8.6 (exceptions), 8.7 (#MF and FERR#).
 *
 * @module
 */
import {
  ALL_EXCEPTIONS,
  type FpEnv,
  fpEnv,
  IE,
  isStopped,
  type Precision,
  raised,
  type Rounding,
} from "../float/env.ts";
import { DEFAULT_NAN, type F80 } from "../float/float80.ts";
import type { HelperCpu, Insn } from "../helper.ts";
import {
  type CpuState,
  CR0,
  CS,
  GuestFault,
  OFF,
  ST_STRIDE,
  VECTOR,
} from "../state.ts";

/** Status word bits (SDM vol. 1, figure 8-4). The six exceptions are in bits 0 to 5. */
export const SW = {
  /** Stack fault. */
  SF: 1 << 6,
  /** Exception summary: an unmasked exception is pending. */
  ES: 1 << 7,
  C0: 1 << 8,
  C1: 1 << 9,
  C2: 1 << 10,
  TOP: 7 << 11,
  C3: 1 << 14,
  /** Busy: the same as ES since the 387. */
  B: 1 << 15,
} as const;

/** Position of TOP in the status word. */
export const TOP_SHIFT = 11;
/** C0, C2 and C3: what a comparison sets. */
export const CONDITION_CODES: number = SW.C0 | SW.C2 | SW.C3;

/** Control word after FNINIT: all exceptions masked, 64 bits, nearest. */
export const CW_INIT = 0x037f;
/** Control word bits that can be written: masks, PC, RC and the infinity control that does nothing. */
export const CW_WRITABLE = 0x1f3f;
/** Control word bit that always reads as one. */
export const CW_FIXED = 0x0040;

/** Precision by FCW.PC; the reserved encoding acts as 64 bits. */
const PRECISION: readonly Precision[] = [24, 64, 53, 64];

const shared: FpEnv = fpEnv();

/**
 * The environment of an operation, from the control word. There is one object, for all: it is
 * good until the next call.
 *
 * @param s The vCPU's state.
 * @returns The environment, with no exception raised.
 */
export function environment(s: CpuState): FpEnv {
  const cw = s.get32(OFF.fcw);
  shared.rounding = ((cw >> 10) & 3) as Rounding;
  shared.precision = PRECISION[(cw >> 8) & 3];
  shared.masks = cw & ALL_EXCEPTIONS;
  shared.flags = 0;
  shared.roundedUp = false;
  return shared;
}

/**
 * TOP.
 *
 * @param s The vCPU's state.
 * @returns The physical register that is ST(0).
 */
export function top(s: CpuState): number {
  return (s.get32(OFF.fsw) >> TOP_SHIFT) & 7;
}

/**
 * Moves TOP.
 *
 * @param s The vCPU's state.
 * @param by How far.
 */
export function moveTop(s: CpuState, by: number): void {
  const sw = s.get32(OFF.fsw);
  s.set32(
    OFF.fsw,
    (sw & ~SW.TOP) | (((sw >> TOP_SHIFT) + by & 7) << TOP_SHIFT),
  );
}

/**
 * All registers valid and TOP 0, as MMX instructions leave them (SDM vol. 1, 9.2.1).
 *
 * @param s The vCPU's state.
 */
export function setMmxState(s: CpuState): void {
  s.set32(OFF.fsw, s.get32(OFF.fsw) & ~SW.TOP);
  s.set32(OFF.ftw, 0xff);
}

/**
 * Whether ST(i) is empty.
 *
 * @param s The vCPU's state.
 * @param i Register.
 * @returns True if so.
 */
export function isEmpty(s: CpuState, i: number): boolean {
  return (s.get32(OFF.ftw) & (1 << ((top(s) + i) & 7))) === 0;
}

/**
 * Tags ST(i) as empty.
 *
 * @param s The vCPU's state.
 * @param i Register.
 */
export function setEmpty(s: CpuState, i: number): void {
  s.set32(OFF.ftw, s.get32(OFF.ftw) & ~(1 << ((top(s) + i) & 7)));
}

/**
 * Reads a physical register.
 *
 * @param s The vCPU's state.
 * @param n Number.
 * @returns Its datum.
 */
export function readPhysical(s: CpuState, n: number): F80 {
  const at = OFF.st + n * ST_STRIDE;
  return { se: s.get32(at + 8) & 0xffff, sig: s.get(at) };
}

/**
 * Reads ST(i).
 *
 * @param s The vCPU's state.
 * @param i Register.
 * @returns Its datum.
 */
export function readSt(s: CpuState, i: number): F80 {
  return readPhysical(s, (top(s) + i) & 7);
}

/**
 * Writes a physical register.
 *
 * @param s The state.
 * @param n Number.
 * @param value Its datum.
 */
export function writePhysical(s: CpuState, n: number, value: F80): void {
  const at = OFF.st + n * ST_STRIDE;
  s.set(at, value.sig);
  s.set32(at + 8, value.se);
  s.set32(at + 12, 0);
}

/**
 * Writes ST(i), which is then not empty.
 *
 * @param s The state.
 * @param i Register.
 * @param value It.
 */
export function writeSt(s: CpuState, i: number, value: F80): void {
  const n = (top(s) + i) & 7;
  writePhysical(s, n, value);
  s.set32(OFF.ftw, s.get32(OFF.ftw) | (1 << n));
}

/**
 * Pushes without a check.
 *
 * @param s The vCPU's state.
 * @param value The new ST(0).
 */
export function push(s: CpuState, value: F80): void {
  moveTop(s, -1);
  writeSt(s, 0, value);
}

/**
 * Pops.
 *
 * @param s The vCPU's state.
 */
export function pop(s: CpuState): void {
  setEmpty(s, 0);
  moveTop(s, 1);
}

/**
 * Makes ES and B agree with the exceptions and their masks, and with CR0.NE clear drives FERR#.
 *
 * @param cpu The vCPU.
 */
export function summarize(cpu: HelperCpu): void {
  const s = cpu.state;
  const sw = s.get32(OFF.fsw);
  const pending = (sw & ~s.get32(OFF.fcw) & ALL_EXCEPTIONS) !== 0;
  if (pending === ((sw & SW.ES) !== 0)) return;
  s.set32(OFF.fsw, pending ? sw | SW.ES | SW.B : sw & ~(SW.ES | SW.B));
  if ((s.get32(OFF.cr0) & CR0.NE) === 0) {
    cpu.io.ferr(pending);
    cpu.endBlock();
  }
}

/**
 * What every waiting instruction starts with: a pending unmasked exception becomes #MF, or with
 * CR0.NE clear has already driven FERR#, and the instruction goes on as with IGNNE#.
 *
 * @param s The vCPU's state.
 * @throws GuestFault #MF.
 */
export function checkPending(s: CpuState): void {
  if ((s.get32(OFF.fsw) & SW.ES) !== 0 && (s.get32(OFF.cr0) & CR0.NE) !== 0) {
    throw new GuestFault(VECTOR.MF);
  }
}

/**
 * Merges what an operation raised into the status word; C1 says whether it rounded up.
 *
 * @param cpu The vCPU.
 * @param env The environment after the operation.
 * @returns False if an unmasked exception keeps the result from being written.
 */
export function report(cpu: HelperCpu, env: FpEnv): boolean {
  const s = cpu.state;
  const stopped = isStopped(env);
  const sw = (s.get32(OFF.fsw) & ~SW.C1) | raised(env);
  s.set32(OFF.fsw, env.roundedUp && !stopped ? sw | SW.C1 : sw);
  if (env.flags !== 0) summarize(cpu);
  return !stopped;
}

/**
 * Whether IE is masked.
 *
 * @param s The vCPU's state.
 * @returns True if so.
 */
export function invalidMasked(s: CpuState): boolean {
  return (s.get32(OFF.fcw) & IE) !== 0;
}

/**
 * Reports a stack underflow: an operand is empty.
 *
 * @param cpu The vCPU.
 * @returns True if masked: the destination becomes {@link DEFAULT_NAN}.
 */
export function underflow(cpu: HelperCpu): boolean {
  const s = cpu.state;
  s.set32(OFF.fsw, (s.get32(OFF.fsw) & ~SW.C1) | IE | SW.SF);
  summarize(cpu);
  return invalidMasked(s);
}

/**
 * Reports a stack overflow: the register to be pushed on is not empty.
 *
 * @param cpu The vCPU.
 * @returns True if masked: {@link DEFAULT_NAN} is pushed.
 */
export function overflow(cpu: HelperCpu): boolean {
  const s = cpu.state;
  s.set32(OFF.fsw, s.get32(OFF.fsw) | SW.C1 | IE | SW.SF);
  summarize(cpu);
  return invalidMasked(s);
}

/**
 * Pushes what `make` returns, or reports a stack overflow. C1 is cleared otherwise.
 *
 * @param cpu The vCPU.
 * @param make Makes the datum; undefined when an exception keeps it from being pushed.
 */
export function pushChecked(cpu: HelperCpu, make: () => F80 | undefined): void {
  const s = cpu.state;
  if (!isEmpty(s, -1)) {
    if (overflow(cpu)) push(s, DEFAULT_NAN);
    return;
  }
  s.set32(OFF.fsw, s.get32(OFF.fsw) & ~SW.C1);
  const value = make();
  if (value !== undefined) push(s, value);
}

/**
 * Sets condition codes.
 *
 * @param s The state.
 * @param among Which.
 * @param bits Those that are one.
 */
export function setConditions(s: CpuState, among: number, bits: number): void {
  s.set32(OFF.fsw, (s.get32(OFF.fsw) & ~among) | bits);
}

/**
 * Loads the control word, whose reserved bits are fixed.
 *
 * @param cpu The vCPU.
 * @param value The new control word.
 */
export function writeControlWord(cpu: HelperCpu, value: number): void {
  cpu.state.set32(OFF.fcw, (value & CW_WRITABLE) | CW_FIXED);
  summarize(cpu);
}

/**
 * FNINIT.
 *
 * @param cpu The vCPU.
 */
export function initialize(cpu: HelperCpu): void {
  const s = cpu.state;
  s.set32(OFF.fcw, CW_INIT);
  clearExceptions(cpu);
  s.set32(OFF.fsw, 0);
  s.set32(OFF.ftw, 0);
  s.set32(OFF.fop, 0);
  s.set(OFF.fip, 0n);
  s.set(OFF.fdp, 0n);
  s.set32(OFF.fcs, 0);
  s.set32(OFF.fds, 0);
}

/**
 * FNCLEX.
 *
 * @param cpu The vCPU.
 */
export function clearExceptions(cpu: HelperCpu): void {
  const s = cpu.state;
  s.set32(OFF.fsw, s.get32(OFF.fsw) & ~(ALL_EXCEPTIONS | SW.SF));
  summarize(cpu);
}

/** Position in FOP of the low three bits of the first opcode byte. */
const FOP_OPCODE_SHIFT = 8;

/**
 * Records the instruction, and its memory operand if it has one, as the last one.
 *
 * @param cpu The vCPU.
 * @param insn The instruction.
 */
export function notePointers(cpu: HelperCpu, insn: Insn): void {
  const s = cpu.state;
  const modRm = (insn.mod << 6) | ((insn.reg & 7) << 3) | (insn.rm & 7);
  s.set32(OFF.fop, ((insn.opcode & 7) << FOP_OPCODE_SHIFT) | modRm);
  s.set(OFF.fip, cpu.rip);
  s.set32(OFF.fcs, s.get32(OFF.segSelector + CS * 4));
  if (insn.mod === 3) return;
  s.set(OFF.fdp, cpu.effectiveAddress(insn));
  s.set32(OFF.fds, s.get32(OFF.segSelector + insn.segment * 4));
}
