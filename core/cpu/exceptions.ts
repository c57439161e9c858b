/**
 * Delivery of exceptions and interrupts (Intel SDM vol. 3, chapter 6; vol. 2, INT n; vol. 3, 20.1.4 and 20.3 for real and
 * virtual-8086 mode).
 *
 * @module
 */
import type { HelperCpu } from "./helper.ts";
import {
  checkStackDescriptor,
  checkTarget,
  type Descriptor,
  descriptorAt,
  ERROR,
  ERROR_SELECTOR,
  fetchDescriptor,
  isCanonical,
  isCode64,
  isNull,
  markAccessed,
  segmentAttr,
  segmentBase,
  segmentLimit,
  segmentSelector,
  setCodeSegment,
  setNullSegment,
  setRealSegment,
  setSegmentFrom,
  SYSTEM_TYPE,
} from "./segments.ts";
import { Stack } from "./stack.ts";
import {
  ATTR,
  CS,
  DS,
  ES,
  FLAG,
  FS,
  GS,
  GuestFault,
  OFF,
  RSP,
  SS,
  TR,
  VECTOR,
} from "./state.ts";
import { switchTask, TaskSwitchFault } from "./tasks.ts";

/**
 * Where an event comes from: `fault` saves the RIP of the instruction and sets RF in the image; `trap` (single step, data
 * breakpoint) saves the RIP that execution has reached; `software` is INT n, `int3` and `into` the one-byte forms, `int1`
 * ICEBP; `external` and `nmi` come between instructions.
 */
export type EventKind =
  | "fault"
  | "trap"
  | "software"
  | "int3"
  | "into"
  | "int1"
  | "external"
  | "nmi";

/** An exception or interrupt to be delivered. */
export interface CpuEvent {
  /** 0 to 255. */
  readonly vector: number;
  /** Where it comes from. */
  readonly kind: EventKind;
  /** For the exceptions that push one; ignored for all others. */
  readonly errorCode?: number;
  /**
   * The RIP to save. Without it: `nextRip` for software, int3, into and int1; otherwise `rip`.
   */
  readonly rip?: bigint;
}

/** DR6 bits (SDM vol. 3, 17.2.3). */
export const DR6 = {
  B0: 1,
  B1: 2,
  B2: 4,
  B3: 8,
  BD: 1 << 13,
  BS: 1 << 14,
  BT: 1 << 15,
} as const;
/** DR6 bits that read as ones. */
export const DR6_FIXED = 0xffff0ff0;
/** DR6 bits that MOV sets as it is told. */
export const DR6_WRITABLE = DR6.B0 | DR6.B1 | DR6.B2 | DR6.B3 | DR6.BD |
  DR6.BS | DR6.BT;
/** DR7 bits (SDM vol. 3, 17.2.4). */
export const DR7 = {
  LE: 1 << 8,
  GE: 1 << 9,
  FIXED: 1 << 10,
  GD: 1 << 13,
} as const;
/** DR7 bits that MOV sets as it is told. */
export const DR7_WRITABLE = 0xffff_23ff;

const ERROR_CODE_VECTORS = (1 << VECTOR.DF) | (1 << VECTOR.TS) |
  (1 << VECTOR.NP) | (1 << VECTOR.SS) |
  (1 << VECTOR.GP) | (1 << VECTOR.PF) | (1 << VECTOR.AC);
const CONTRIBUTORY_VECTORS = (1 << VECTOR.DE) | (1 << VECTOR.TS) |
  (1 << VECTOR.NP) | (1 << VECTOR.SS) |
  (1 << VECTOR.GP);

const GATE_SIZE = 8;
const GATE_SIZE_LONG = 16;
const IVT_ENTRY_SIZE = 4;
/** Offsets of RSP0 and IST1 in the 64-bit TSS (SDM vol. 3, figure 8-11). */
const TSS64_RSP0 = 4;
const TSS64_IST1 = 36;
/** Offsets of the first inner stack in the 32-bit and 16-bit TSS (SDM vol. 3, figures 8-2 and 8-10). */
const TSS32_ESP0 = 4;
const TSS16_SP0 = 2;
/** Flags that every delivery through a gate clears. */
const CLEARED_FLAGS = FLAG.TF | FLAG.NT | FLAG.RF | FLAG.VM;
const RPL_MASK = 3;

const quad = new BigUint64Array(1);
const words = new Uint32Array(quad.buffer);

function has(set: number, vector: number): boolean {
  return vector < 32 && ((set >>> vector) & 1) !== 0;
}

/** Caused by an instruction that names the vector: gate privilege is checked and EXT is clear. */
function isSoftware(kind: EventKind): boolean {
  return kind === "software" || kind === "int3" || kind === "into";
}

/**
 * Delivers an event, with everything that may follow from it: a fault on the way is delivered in its turn, as #DF where
 * SDM vol. 3, table 6-5 says so, and ends in {@linkcode HelperCpu.shutdown} when #DF cannot be delivered.
 *
 * Called by the run loop between instructions (for what a {@linkcode GuestFault} tells, kind `fault`) and by INT n and
 * its kin from inside the instruction. CR2 is set by whoever raises #PF.
 */
export function deliverEvent(cpu: HelperCpu, event: CpuEvent): void {
  let current = event;
  for (;;) {
    try {
      deliverOnce(cpu, current);
      return;
    } catch (fault) {
      if (!(fault instanceof GuestFault)) throw fault;
      if (current.vector === VECTOR.DF && current.kind === "fault") {
        cpu.shutdown();
        return;
      }
      // A fault after the switch to a task belongs to the new task.
      const rip = fault instanceof TaskSwitchFault
        ? fault.rip
        : event.rip ?? cpu.rip;
      current = doubleFaults(current, fault.vector)
        ? { vector: VECTOR.DF, kind: "fault", errorCode: 0, rip }
        : {
          vector: fault.vector,
          kind: "fault",
          errorCode: fault.errorCode,
          rip,
        };
    }
  }
}

function doubleFaults(first: CpuEvent, second: number): boolean {
  if (first.kind !== "fault" && first.kind !== "trap") return false;
  if (has(CONTRIBUTORY_VECTORS, first.vector)) {
    return has(CONTRIBUTORY_VECTORS, second);
  }
  return first.vector === VECTOR.PF &&
    (second === VECTOR.PF || has(CONTRIBUTORY_VECTORS, second));
}

function deliverOnce(cpu: HelperCpu, event: CpuEvent): void {
  const state = cpu.state;
  const kind = event.kind;
  const next = kind === "software" || kind === "int3" || kind === "into" ||
    kind === "int1";
  const rip = event.rip ?? (next ? cpu.nextRip : cpu.rip);
  if (!cpu.protectedMode && !cpu.v86) deliverReal(cpu, event.vector, rip);
  else {
    const ext = isSoftware(kind) ? 0 : ERROR.EXT;
    const hasError = kind === "fault" && has(ERROR_CODE_VECTORS, event.vector);
    let flags = state.rflags;
    if (kind === "fault") flags |= FLAG.RF;
    if (cpu.longMode) deliverLong(cpu, event, rip, flags, ext, hasError);
    else deliverProtected(cpu, event, rip, flags, ext, hasError);
  }
  if (kind === "nmi") state.set32(OFF.nmiBlocked, 1);
  if (next) cpu.cancelStep();
  // General detect is disabled on entry to the debug handler (SDM vol. 3, 17.2.4).
  if (event.vector === VECTOR.DB && !isSoftware(kind)) {
    state.d[(OFF.dr + 7 * 8) >> 2] &= ~DR7.GD;
  }
}

/** Real mode: the interrupt vector table (SDM vol. 3, 20.1.4). */
function deliverReal(cpu: HelperCpu, vector: number, rip: bigint): void {
  const state = cpu.state;
  if (
    vector * IVT_ENTRY_SIZE + IVT_ENTRY_SIZE - 1 > state.get32(OFF.idtLimit)
  ) throw new GuestFault(VECTOR.GP);
  const entry = Number(
    cpu.readSystem(state.get(OFF.idtBase) + BigInt(vector * IVT_ENTRY_SIZE), 4),
  );
  const stack = Stack.current(cpu);
  stack.push(2, BigInt(state.rflags & 0xffff));
  stack.push(2, BigInt(segmentSelector(state, CS)));
  stack.push(2, rip & 0xffffn);
  stack.commit();
  clearFlags(cpu, FLAG.IF | FLAG.TF | FLAG.AC | FLAG.RF);
  setRealSegment(state, CS, entry >>> 16);
  cpu.modeChanged();
  cpu.jump(BigInt(entry & 0xffff));
}

function clearFlags(cpu: HelperCpu, flags: number): void {
  cpu.state.d[OFF.rflags >> 2] &= ~flags;
}

/** Reads the part of an IDT entry that all modes share. */
function readGate(
  cpu: HelperCpu,
  event: CpuEvent,
  ext: number,
  size: number,
): Descriptor {
  const state = cpu.state;
  const offset = event.vector * size;
  const error = offset / size * GATE_SIZE + ERROR.IDT + ext;
  if (offset + size - 1 > state.get32(OFF.idtLimit)) {
    throw new GuestFault(VECTOR.GP, error);
  }
  const gate = descriptorAt(
    cpu,
    BigInt.asUintN(64, state.get(OFF.idtBase) + BigInt(offset)),
  );
  if (isSoftware(event.kind) && gate.dpl < cpu.cpl) {
    throw new GuestFault(VECTOR.GP, error);
  }
  return gate;
}

function gateError(event: CpuEvent, ext: number): number {
  return event.vector * GATE_SIZE + ERROR.IDT + ext;
}

/** IA-32e mode (SDM vol. 3, 6.14). */
function deliverLong(
  cpu: HelperCpu,
  event: CpuEvent,
  rip: bigint,
  flags: number,
  ext: number,
  hasError: boolean,
): void {
  const state = cpu.state;
  const gate = readGate(cpu, event, ext, GATE_SIZE_LONG);
  const interrupt = gate.type === SYSTEM_TYPE.INTERRUPT_GATE32;
  if (!gate.system || (!interrupt && gate.type !== SYSTEM_TYPE.TRAP_GATE32)) {
    throw new GuestFault(VECTOR.GP, gateError(event, ext));
  }
  if (!gate.present) throw new GuestFault(VECTOR.NP, gateError(event, ext));
  quad[0] = cpu.readSystem(BigInt.asUintN(64, gate.address + 8n), 8);
  words[1] = words[0];
  words[0] = (gate.lo & 0xffff) | (gate.hi & 0xffff0000);
  const target = quad[0];

  const selector = gate.lo >>> 16;
  const selectorError = (selector & ERROR_SELECTOR) | ext;
  if (isNull(selector)) throw new GuestFault(VECTOR.GP, ext);
  let code = fetchDescriptor(cpu, selector, VECTOR.GP, ext);
  const cpl = cpu.cpl;
  if (
    !code.code || code.dpl > cpl || (code.attr & (ATTR.L | ATTR.DB)) !== ATTR.L
  ) {
    throw new GuestFault(VECTOR.GP, selectorError);
  }
  if (!code.present) throw new GuestFault(VECTOR.NP, selectorError);
  const newCpl = code.conforming ? cpl : code.dpl;

  const ist = gate.hi & 7;
  let rsp: bigint;
  if (ist !== 0) rsp = readTss64(cpu, TSS64_IST1 + (ist - 1) * 8, ext);
  else if (newCpl !== cpl) rsp = readTss64(cpu, TSS64_RSP0 + newCpl * 8, ext);
  else rsp = state.q[RSP];
  if (!isCanonical(rsp)) throw new GuestFault(VECTOR.SS, ext);
  if (!isCanonical(target)) throw new GuestFault(VECTOR.GP, ext);
  code = markAccessed(cpu, code);

  quad[0] = rsp;
  words[0] &= ~0xf;
  const top = quad[0];
  cpu.writeAs(
    newCpl,
    BigInt.asUintN(64, top - 8n),
    8,
    BigInt(segmentSelector(state, SS)),
  );
  cpu.writeAs(newCpl, BigInt.asUintN(64, top - 16n), 8, state.q[RSP]);
  cpu.writeAs(newCpl, BigInt.asUintN(64, top - 24n), 8, BigInt(flags >>> 0));
  cpu.writeAs(
    newCpl,
    BigInt.asUintN(64, top - 32n),
    8,
    BigInt(segmentSelector(state, CS)),
  );
  let sp = BigInt.asUintN(64, top - 40n);
  cpu.writeAs(newCpl, sp, 8, rip);
  if (hasError) {
    sp = BigInt.asUintN(64, top - 48n);
    cpu.writeAs(newCpl, sp, 8, BigInt(event.errorCode ?? 0));
  }

  state.q[RSP] = sp;
  if (newCpl !== cpl) setNullSegment(state, SS, newCpl, newCpl);
  setCodeSegment(state, selector, code, newCpl);
  clearFlags(cpu, interrupt ? CLEARED_FLAGS | FLAG.IF : CLEARED_FLAGS);
  cpu.modeChanged();
  cpu.jump(target);
}

/** Reads a stack pointer from the 64-bit TSS. */
export function readTss64(cpu: HelperCpu, offset: number, ext: number): bigint {
  const state = cpu.state;
  if (offset + 7 > segmentLimit(state, TR)) {
    throw new GuestFault(
      VECTOR.TS,
      (segmentSelector(state, TR) & ERROR_SELECTOR) | ext,
    );
  }
  return cpu.readSystem(
    BigInt.asUintN(64, segmentBase(state, TR) + BigInt(offset)),
    8,
  );
}

/** Reads RSP for `cpl` from the 64-bit TSS. */
export function innerStack64(cpu: HelperCpu, cpl: number, ext = 0): bigint {
  const rsp = readTss64(cpu, TSS64_RSP0 + cpl * 8, ext);
  if (!isCanonical(rsp)) throw new GuestFault(VECTOR.SS, ext);
  return rsp;
}

/** Reads SS:ESP for `cpl` from a 32-bit or 16-bit TSS. */
export function innerStack(
  cpu: HelperCpu,
  cpl: number,
  ext = 0,
): { selector: number; pointer: bigint } {
  const state = cpu.state;
  const wide = (segmentAttr(state, TR) & ATTR.TYPE & ~2) === SYSTEM_TYPE.TSS32;
  const offset = wide ? TSS32_ESP0 + cpl * 8 : TSS16_SP0 + cpl * 4;
  const bytes = wide ? 6 : 4;
  if (offset + bytes - 1 > segmentLimit(state, TR)) {
    throw new GuestFault(
      VECTOR.TS,
      (segmentSelector(state, TR) & ERROR_SELECTOR) | ext,
    );
  }
  const address = segmentBase(state, TR) + BigInt(offset);
  const pointer = cpu.readSystem(BigInt.asUintN(32, address), wide ? 4 : 2);
  const selector = Number(
    cpu.readSystem(BigInt.asUintN(32, address + (wide ? 4n : 2n)), 2),
  );
  return { selector, pointer };
}

/**
 * Checks and reads the SS descriptor of an inner stack.
 *
 * @throws {GuestFault} #TS or #SS with the selector.
 */
export function innerStackDescriptor(
  cpu: HelperCpu,
  selector: number,
  cpl: number,
  ext = 0,
): Descriptor {
  if (isNull(selector)) throw new GuestFault(VECTOR.TS, ext);
  const descriptor = fetchDescriptor(cpu, selector, VECTOR.TS, ext);
  checkStackDescriptor(selector, descriptor, cpl, VECTOR.TS, ext);
  return descriptor;
}

/** Protected mode and virtual-8086 mode without IA-32e (SDM vol. 3, 6.12 and 20.3). */
function deliverProtected(
  cpu: HelperCpu,
  event: CpuEvent,
  rip: bigint,
  flags: number,
  ext: number,
  hasError: boolean,
): void {
  const state = cpu.state;
  const gate = readGate(cpu, event, ext, GATE_SIZE);
  if (!gate.system) throw new GuestFault(VECTOR.GP, gateError(event, ext));
  if (gate.type === SYSTEM_TYPE.TASK_GATE) {
    if (!gate.present) throw new GuestFault(VECTOR.NP, gateError(event, ext));
    switchTask(cpu, gate.lo >>> 16, "gate", rip, {
      flags,
      ext,
      errorCode: hasError ? event.errorCode ?? 0 : undefined,
    });
    return;
  }
  let size: 2 | 4;
  let interrupt: boolean;
  switch (gate.type) {
    case SYSTEM_TYPE.INTERRUPT_GATE16:
    case SYSTEM_TYPE.TRAP_GATE16:
      size = 2;
      interrupt = gate.type === SYSTEM_TYPE.INTERRUPT_GATE16;
      break;
    case SYSTEM_TYPE.INTERRUPT_GATE32:
    case SYSTEM_TYPE.TRAP_GATE32:
      size = 4;
      interrupt = gate.type === SYSTEM_TYPE.INTERRUPT_GATE32;
      break;
    default:
      throw new GuestFault(VECTOR.GP, gateError(event, ext));
  }
  if (!gate.present) throw new GuestFault(VECTOR.NP, gateError(event, ext));

  const target = BigInt(
    ((gate.lo & 0xffff) | (size === 4 ? gate.hi & 0xffff0000 : 0)) >>> 0,
  );
  const selector = gate.lo >>> 16;
  const selectorError = (selector & ERROR_SELECTOR) | ext;
  if (isNull(selector)) throw new GuestFault(VECTOR.GP, ext);
  let code = fetchDescriptor(cpu, selector, VECTOR.GP, ext);
  const v86 = cpu.v86;
  const cpl = cpu.cpl;
  if (!code.code || code.dpl > cpl) {
    throw new GuestFault(VECTOR.GP, selectorError);
  }
  if (!code.present) throw new GuestFault(VECTOR.NP, selectorError);
  const newCpl = code.conforming ? cpl : code.dpl;
  if (v86 && newCpl !== 0) throw new GuestFault(VECTOR.GP, selectorError);

  let stack: Stack;
  let ss: Descriptor | undefined;
  let ssSelector = 0;
  if (newCpl !== cpl) {
    const inner = innerStack(cpu, newCpl, ext);
    ssSelector = inner.selector;
    ss = innerStackDescriptor(cpu, ssSelector, newCpl, ext);
    stack = Stack.inSegment(
      cpu,
      ss,
      inner.pointer,
      newCpl,
      (ssSelector & ERROR_SELECTOR) | ext,
    );
  } else {
    stack = Stack.current(cpu, ext);
  }
  checkTarget(cpu, code, target, ext);
  code = markAccessed(cpu, code);
  if (ss) {
    ss = markAccessed(cpu, ss);
    if (v86) {
      for (const segment of [GS, FS, DS, ES]) {
        stack.push(size, BigInt(segmentSelector(state, segment)));
      }
    }
    stack.push(size, BigInt(segmentSelector(state, SS)));
    stack.push(size, state.q[RSP]);
  }
  stack.push(size, BigInt(flags >>> 0));
  stack.push(size, BigInt(segmentSelector(state, CS)));
  stack.push(size, rip);
  if (hasError) stack.push(size, BigInt(event.errorCode ?? 0));

  if (ss) {
    if (v86) {
      for (const segment of [GS, FS, DS, ES]) {
        setNullSegment(state, segment, 0);
      }
    }
    setSegmentFrom(state, SS, (ssSelector & ~RPL_MASK) | newCpl, ss);
  }
  stack.commit();
  setCodeSegment(state, selector, code, newCpl);
  clearFlags(cpu, interrupt ? CLEARED_FLAGS | FLAG.IF : CLEARED_FLAGS);
  cpu.modeChanged();
  cpu.jump(isCode64(cpu, code) ? target : BigInt.asUintN(32, target));
}

/**
 * Raises #DB as a trap after an instruction: single step and data or I/O breakpoints.
 *
 * @param causes Bits to set in DR6 ({@linkcode DR6}).
 * @param rip The RIP to save; `cpu.rip` without it.
 */
export function debugTrap(cpu: HelperCpu, causes: number, rip?: bigint): void {
  setDebugStatus(cpu, causes);
  deliverEvent(cpu, { vector: VECTOR.DB, kind: "trap", rip });
}

/** Sets cause bits in DR6; breakpoint bits are not cleared by the processor (SDM vol. 3, 17.2.3). */
export function setDebugStatus(cpu: HelperCpu, causes: number): void {
  cpu.state.d[(OFF.dr + 6 * 8) >> 2] |= causes | DR6_FIXED;
}
