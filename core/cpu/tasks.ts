/**
 * Task switches (Intel SDM vol. 3, chapter 7).
 *
 * @module
 */
import type { HelperCpu } from "./helper.ts";
import { deliverEvent, DR6, setDebugStatus } from "./exceptions.ts";
import {
  checkDataDescriptor,
  checkStackDescriptor,
  type Descriptor,
  ERROR_SELECTOR,
  fetchDescriptor,
  isNull,
  markAccessed,
  segmentAttr,
  segmentBase,
  segmentLimit,
  segmentSelector,
  SELECTOR,
  setBusy,
  setNullSegment,
  setSegment,
  setSegmentFrom,
  setV86Segment,
  SYSTEM_TYPE,
  TSS_BUSY,
} from "./segments.ts";
import { setPdptes } from "./pdpte.ts";
import { Stack } from "./stack.ts";
import {
  ATTR,
  CR0,
  CS,
  DS,
  ES,
  FLAG,
  FS,
  GS,
  GuestFault,
  LDTR,
  OFF,
  SS,
  TR,
  VECTOR,
} from "./state.ts";

/** What causes a task switch: it decides about busy bits, the link and NT (SDM vol. 3, table 7-2). */
export type TaskSwitchReason = "jump" | "call" | "iret" | "gate";

/** Options of {@linkcode switchTask}. */
export interface TaskSwitchOptions {
  /** EFLAGS to save in the old TSS; the current ones without it. */
  readonly flags?: number;
  /** EXT bit for error codes. */
  readonly ext?: number;
  /** Error code to push on the new task's stack. */
  readonly errorCode?: number;
}

/** A fault raised after the switch: it belongs to the first instruction of the new task. */
export class TaskSwitchFault extends GuestFault {
  /**
   * A fault of the new task.
   *
   * @param rip EIP of the new task.
   */
  constructor(vector: number, errorCode: number, readonly rip: bigint) {
    super(vector, errorCode);
  }
}

/** Offsets in a TSS (SDM vol. 3, figures 8-2 and 8-10); -1 where the 16-bit form has no such field. */
interface TssLayout {
  readonly minimumLimit: number;
  readonly width: 2 | 4;
  readonly cr3: number;
  readonly ip: number;
  readonly flags: number;
  readonly gpr: number;
  readonly segments: number;
  readonly segmentCount: number;
  readonly ldt: number;
  readonly trap: number;
}

const TSS32: TssLayout = {
  minimumLimit: 103,
  width: 4,
  cr3: 28,
  ip: 32,
  flags: 36,
  gpr: 40,
  segments: 72,
  segmentCount: 6,
  ldt: 96,
  trap: 100,
};
const TSS16: TssLayout = {
  minimumLimit: 43,
  width: 2,
  cr3: -1,
  ip: 14,
  flags: 16,
  gpr: 18,
  segments: 34,
  segmentCount: 4,
  ldt: 42,
  trap: -1,
};
const LINK = 0;
const GPR_COUNT = 8;
const TRAP_BIT = 1;
const SEGMENT_ORDER = [ES, CS, SS, DS, FS, GS] as const;

function layoutOf(type: number): TssLayout {
  return (type & ~TSS_BUSY) === SYSTEM_TYPE.TSS32 ? TSS32 : TSS16;
}

function field(
  cpu: HelperCpu,
  base: bigint,
  offset: number,
  size: 2 | 4,
): number {
  return Number(
    cpu.readSystem(BigInt.asUintN(32, base + BigInt(offset)), size),
  );
}

function setField(
  cpu: HelperCpu,
  base: bigint,
  offset: number,
  size: 2 | 4,
  value: number,
): void {
  cpu.writeSystem(
    BigInt.asUintN(32, base + BigInt(offset)),
    size,
    BigInt.asUintN(size * 8, BigInt(value)),
  );
}

/** A TSS descriptor that has passed the checks for this kind of switch. */
function checkTss(
  cpu: HelperCpu,
  selector: number,
  reason: TaskSwitchReason,
  ext: number,
): Descriptor {
  const vector = reason === "iret" ? VECTOR.TS : VECTOR.GP;
  const error = (selector & ERROR_SELECTOR) | ext;
  if (isNull(selector) || selector & SELECTOR.TI) {
    throw new GuestFault(vector, error);
  }
  const descriptor = fetchDescriptor(cpu, selector, vector, ext);
  const wanted = reason === "iret" ? TSS_BUSY : 0;
  const base = descriptor.type & ~TSS_BUSY;
  if (
    !descriptor.system ||
    (base !== SYSTEM_TYPE.TSS32 && base !== SYSTEM_TYPE.TSS16) ||
    (descriptor.type & TSS_BUSY) !== wanted
  ) throw new GuestFault(vector, error);
  if (!descriptor.present) throw new GuestFault(VECTOR.NP, error);
  if (descriptor.limit < layoutOf(descriptor.type).minimumLimit) {
    throw new GuestFault(VECTOR.TS, error);
  }
  return descriptor;
}

/** What a TSS holds of a task. */
interface TaskImage {
  readonly cr3: number;
  readonly ip: number;
  readonly flags: number;
  readonly gpr: readonly number[];
  readonly segments: readonly number[];
  readonly ldt: number;
  readonly trap: boolean;
}

function readTask(cpu: HelperCpu, base: bigint, layout: TssLayout): TaskImage {
  const { width } = layout;
  // Upper halves of registers are undefined after a switch from a 16-bit TSS; ones, as processors do.
  const fill = width === 2 ? 0xffff0000 : 0;
  const gpr = [];
  for (let i = 0; i < GPR_COUNT; i++) {
    gpr.push((field(cpu, base, layout.gpr + i * width, width) | fill) >>> 0);
  }
  const segments = [];
  for (let i = 0; i < layout.segmentCount; i++) {
    segments.push(field(cpu, base, layout.segments + i * width, 2));
  }
  while (segments.length < SEGMENT_ORDER.length) segments.push(0);
  return {
    cr3: layout.cr3 < 0 ? 0 : field(cpu, base, layout.cr3, 4),
    ip: field(cpu, base, layout.ip, width),
    flags: field(cpu, base, layout.flags, width),
    gpr,
    segments,
    ldt: field(cpu, base, layout.ldt, 2),
    trap: layout.trap >= 0 &&
      (field(cpu, base, layout.trap, 2) & TRAP_BIT) !== 0,
  };
}

function saveTask(
  cpu: HelperCpu,
  base: bigint,
  layout: TssLayout,
  ip: number,
  flags: number,
): void {
  const state = cpu.state;
  const { width } = layout;
  setField(cpu, base, layout.ip, width, ip);
  setField(cpu, base, layout.flags, width, flags);
  for (let i = 0; i < GPR_COUNT; i++) {
    setField(cpu, base, layout.gpr + i * width, width, state.d[i * 2]);
  }
  for (let i = 0; i < layout.segmentCount; i++) {
    setField(
      cpu,
      base,
      layout.segments + i * width,
      2,
      segmentSelector(state, SEGMENT_ORDER[i]),
    );
  }
}

/**
 * Switches to another task.
 *
 * @param selector TSS selector of the new task (for "iret": the back link).
 * @param rip The RIP to save in the old TSS.
 * @throws {GuestFault} Before the switch has changed anything. Later faults are delivered in the new task, or thrown as
 * {@linkcode TaskSwitchFault} for `reason` "gate", whose caller delivers them.
 */
export function switchTask(
  cpu: HelperCpu,
  selector: number,
  reason: TaskSwitchReason,
  rip: bigint,
  options: TaskSwitchOptions = {},
): void {
  const state = cpu.state;
  const ext = options.ext ?? 0;
  const descriptor = checkTss(cpu, selector, reason, ext);
  const layout = layoutOf(descriptor.type);
  const base = BigInt(descriptor.base);
  const task = readTask(cpu, base, layout);

  const oldSelector = segmentSelector(state, TR);
  const oldBase = segmentBase(state, TR);
  const oldLayout = layoutOf(segmentAttr(state, TR) & ATTR.TYPE);
  if (segmentLimit(state, TR) < oldLayout.minimumLimit) {
    throw new GuestFault(VECTOR.TS, (oldSelector & ERROR_SELECTOR) | ext);
  }
  const loadsCr3 = layout.cr3 >= 0 && state.get32(OFF.cr0) >>> 31 !== 0;
  const pdptes = loadsCr3 ? cpu.readPdptes(BigInt(task.cr3)) : [];
  const nested = reason === "call" || reason === "gate";
  let flags = options.flags ?? state.rflags;
  if (reason === "iret") flags &= ~FLAG.NT;
  saveTask(cpu, oldBase, oldLayout, Number(BigInt.asUintN(32, rip)), flags);
  if (nested) setField(cpu, base, LINK, 2, oldSelector);
  else setBusy(cpu, fetchDescriptor(cpu, oldSelector, VECTOR.TS, ext), false);
  if (reason !== "iret") setBusy(cpu, descriptor, true);

  // From here on the new task is the current one.
  setSegment(
    state,
    TR,
    selector,
    descriptor.base,
    descriptor.limit,
    descriptor.attr | TSS_BUSY,
  );
  state.set32(OFF.cr0, state.get32(OFF.cr0) | CR0.TS);
  if (loadsCr3) {
    state.set(OFF.cr3, BigInt(task.cr3));
    setPdptes(state, pdptes);
    cpu.flushTlb(true);
  }
  let newFlags = task.flags | FLAG.FIXED;
  if (layout.width === 2) newFlags &= 0xffff;
  if (nested) newFlags |= FLAG.NT;
  state.rflags = newFlags & EFLAGS_MASK;
  for (let i = 0; i < GPR_COUNT; i++) state.q[i] = BigInt(task.gpr[i]);
  const v86 = (newFlags & FLAG.VM) !== 0;
  const cpl = v86 ? 3 : task.segments[1] & SELECTOR.RPL;
  for (let i = 0; i < SEGMENT_ORDER.length; i++) {
    if (v86) setV86Segment(state, SEGMENT_ORDER[i], task.segments[i]);
    else setNullSegment(state, SEGMENT_ORDER[i], task.segments[i], cpl);
  }
  setNullSegment(state, LDTR, task.ldt);
  state.set32(OFF.cpl, cpl);
  // Local breakpoint enables are for one task (SDM vol. 3, 17.2.4).
  state.d[(OFF.dr + 7 * 8) >> 2] &= ~LOCAL_BREAKPOINTS;
  cpu.modeChanged();
  const ip = BigInt(task.ip);
  cpu.jump(ip);

  try {
    loadTaskSegments(cpu, task, v86, cpl);
    cpu.modeChanged();
    if (options.errorCode !== undefined) {
      const stack = Stack.current(cpu, ext);
      stack.push(layout.width, BigInt(options.errorCode));
      stack.commit();
    }
    if (task.ip > segmentLimit(state, CS)) throw new GuestFault(VECTOR.GP, 0);
    if (task.trap) {
      setDebugStatus(cpu, DR6.BT);
      throw new GuestFault(VECTOR.DB);
    }
  } catch (fault) {
    if (!(fault instanceof GuestFault)) throw fault;
    cpu.modeChanged();
    if (reason === "gate" && fault.vector !== VECTOR.DB) {
      throw new TaskSwitchFault(fault.vector, fault.errorCode | ext, ip);
    }
    const kind = fault.vector === VECTOR.DB ? "trap" : "fault";
    deliverEvent(cpu, {
      vector: fault.vector,
      errorCode: fault.errorCode,
      kind,
      rip: ip,
    });
  }
}

const EFLAGS_MASK = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF | FLAG.TF |
  FLAG.IF | FLAG.DF | FLAG.OF |
  FLAG.IOPL | FLAG.NT | FLAG.RF | FLAG.VM | FLAG.AC | FLAG.VIF | FLAG.VIP |
  FLAG.ID | FLAG.FIXED;
/** DR7.L0 to L3 and LE. */
const LOCAL_BREAKPOINTS = 0x155;

function loadTaskSegments(
  cpu: HelperCpu,
  task: TaskImage,
  v86: boolean,
  cpl: number,
): void {
  const state = cpu.state;
  if (!isNull(task.ldt)) {
    const error = task.ldt & ERROR_SELECTOR;
    if (task.ldt & SELECTOR.TI) throw new GuestFault(VECTOR.TS, error);
    const ldt = fetchDescriptor(cpu, task.ldt, VECTOR.TS);
    if (!ldt.system || ldt.type !== SYSTEM_TYPE.LDT || !ldt.present) {
      throw new GuestFault(VECTOR.TS, error);
    }
    setSegmentFrom(state, LDTR, task.ldt, ldt);
  }
  if (v86) return;

  const [es, cs, ss, ds, fs, gs] = task.segments;
  const csError = cs & ERROR_SELECTOR;
  if (isNull(cs)) throw new GuestFault(VECTOR.TS, 0);
  const code = fetchDescriptor(cpu, cs, VECTOR.TS);
  if (!code.code || (code.conforming ? code.dpl > cpl : code.dpl !== cpl)) {
    throw new GuestFault(VECTOR.TS, csError);
  }
  if (!code.present) throw new GuestFault(VECTOR.NP, csError);
  setSegmentFrom(state, CS, cs, markAccessed(cpu, code));

  if (isNull(ss)) throw new GuestFault(VECTOR.TS, 0);
  const stack = fetchDescriptor(cpu, ss, VECTOR.TS);
  checkStackDescriptor(ss, stack, cpl, VECTOR.TS);
  setSegmentFrom(state, SS, ss, markAccessed(cpu, stack));

  for (const [segment, selector] of [[ES, es], [DS, ds], [FS, fs], [GS, gs]]) {
    if (isNull(selector)) continue;
    const data = fetchDescriptor(cpu, selector, VECTOR.TS);
    checkDataDescriptor(selector, data, cpl, VECTOR.TS);
    setSegmentFrom(state, segment, selector, markAccessed(cpu, data));
  }
}
