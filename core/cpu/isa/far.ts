/**
 * Far transfers and segment registers (Intel SDM vol. 2: JMP, CALL, RET, MOV, PUSH, POP, LDS; vol. 3, 5.8).
 *
 * @module
 */
import {
  innerStack,
  innerStack64,
  innerStackDescriptor,
} from "../exceptions.ts";
import type { HelperCpu, Insn } from "../helper.ts";
import {
  checkCodeDescriptor,
  checkTarget,
  type Descriptor,
  dropInnerSegments,
  ERROR_SELECTOR,
  fetchDescriptor,
  isCode64,
  isNull,
  loadSegment,
  markAccessed,
  segmentLimit,
  segmentSelector,
  SELECTOR,
  setCodeSegment,
  setNullSegment,
  setRealSegment,
  setSegmentFrom,
  setV86Segment,
  SYSTEM_TYPE,
  TSS_BUSY,
  upperHalf,
} from "../segments.ts";
import { Stack } from "../stack.ts";
import {
  ATTR,
  CS,
  DS,
  ES,
  FS,
  GS,
  GuestFault,
  RSP,
  SS,
  VECTOR,
} from "../state.ts";
import { switchTask } from "../tasks.ts";
import { define, helper } from "./define.ts";
import {
  returnCodeDescriptor,
  returnStackDescriptor,
  setReturnStack,
} from "./interrupts.ts";

const PARAMETER_COUNT = 0x1f;
/** Type field in the second descriptor slot of a 16-byte gate, which must be 0. */
const UPPER_TYPE = 0x1f00;
const CS_FIELD = 0xffffn;

/** The target of a far JMP or CALL behind a call gate. */
interface Gate {
  readonly size: 2 | 4 | 8;
  readonly selector: number;
  readonly offset: bigint;
  readonly parameters: number;
}

/** Far JMP and CALL in real and virtual-8086 mode. */
function setRealCs(cpu: HelperCpu, selector: number, offset: bigint): void {
  if (cpu.v86) setV86Segment(cpu.state, CS, selector);
  else setRealSegment(cpu.state, CS, selector);
  cpu.modeChanged();
  cpu.jump(offset);
}

/** Sets CS of the same privilege and continues there. */
function enterCode(
  cpu: HelperCpu,
  selector: number,
  code: Descriptor,
  cpl: number,
  offset: bigint,
): void {
  setCodeSegment(cpu.state, selector, code, cpl);
  cpu.modeChanged();
  cpu.jump(isCode64(cpu, code) ? offset : BigInt.asUintN(32, offset));
}

/**
 * Reads a call gate.
 *
 * @throws {GuestFault} #GP or #NP with the gate's selector.
 */
function readCallGate(
  cpu: HelperCpu,
  selector: number,
  gate: Descriptor,
): Gate {
  checkGatePrivilege(cpu, selector, gate);
  const low = gate.lo & 0xffff;
  const target = gate.lo >>> 16;
  if (gate.type === SYSTEM_TYPE.CALL_GATE16) {
    return {
      size: 2,
      selector: target,
      offset: BigInt(low),
      parameters: gate.hi & PARAMETER_COUNT,
    };
  }
  const offset = BigInt((low | (gate.hi & 0xffff0000)) >>> 0);
  if (!cpu.longMode) {
    return {
      size: 4,
      selector: target,
      offset,
      parameters: gate.hi & PARAMETER_COUNT,
    };
  }
  const upper = upperHalf(cpu, gate);
  if (upper.reserved & UPPER_TYPE) {
    throw new GuestFault(VECTOR.GP, selector & ERROR_SELECTOR);
  }
  return {
    size: 8,
    selector: target,
    offset: offset | (BigInt(upper.base) << 32n),
    parameters: 0,
  };
}

function checkGatePrivilege(
  cpu: HelperCpu,
  selector: number,
  gate: Descriptor,
): void {
  const error = selector & ERROR_SELECTOR;
  if (gate.dpl < cpu.cpl || gate.dpl < (selector & SELECTOR.RPL)) {
    throw new GuestFault(VECTOR.GP, error);
  }
  if (!gate.present) throw new GuestFault(VECTOR.NP, error);
}

/**
 * Reads the code segment that a call gate names.
 *
 * @param call CALL may go to an inner privilege, JMP may not.
 */
function gateCode(cpu: HelperCpu, gate: Gate, call: boolean): Descriptor {
  if (isNull(gate.selector)) throw new GuestFault(VECTOR.GP, 0);
  const error = gate.selector & ERROR_SELECTOR;
  const code = fetchDescriptor(cpu, gate.selector);
  const cpl = cpu.cpl;
  if (
    !code.code || code.dpl > cpl ||
    (!call && !code.conforming && code.dpl !== cpl)
  ) {
    throw new GuestFault(VECTOR.GP, error);
  }
  if (gate.size === 8 && (code.attr & (ATTR.L | ATTR.DB)) !== ATTR.L) {
    throw new GuestFault(VECTOR.GP, error);
  }
  if (!code.present) throw new GuestFault(VECTOR.NP, error);
  return code;
}

/**
 * Handles the system descriptors that a far JMP or CALL may name, but for call gates.
 *
 * @returns false for a call gate.
 * @throws {GuestFault} #GP for every other type.
 */
function farTask(
  cpu: HelperCpu,
  selector: number,
  descriptor: Descriptor,
  reason: "jump" | "call",
): boolean {
  const type = descriptor.type;
  if (
    type === SYSTEM_TYPE.CALL_GATE32 ||
    (type === SYSTEM_TYPE.CALL_GATE16 && !cpu.longMode)
  ) return false;
  if (!cpu.longMode) {
    const base = type & ~TSS_BUSY;
    if (type === SYSTEM_TYPE.TASK_GATE) {
      checkGatePrivilege(cpu, selector, descriptor);
      switchTask(cpu, descriptor.lo >>> 16, reason, cpu.nextRip);
      return true;
    }
    if (base === SYSTEM_TYPE.TSS16 || base === SYSTEM_TYPE.TSS32) {
      if (
        descriptor.dpl < cpu.cpl || descriptor.dpl < (selector & SELECTOR.RPL)
      ) {
        throw new GuestFault(VECTOR.GP, selector & ERROR_SELECTOR);
      }
      switchTask(cpu, selector, reason, cpu.nextRip);
      return true;
    }
  }
  throw new GuestFault(VECTOR.GP, selector & ERROR_SELECTOR);
}

/** Far JMP to `selector:offset`. */
export function farJump(
  cpu: HelperCpu,
  selector: number,
  offset: bigint,
): void {
  if (!cpu.protectedMode) {
    if (offset > BigInt(segmentLimit(cpu.state, CS))) {
      throw new GuestFault(VECTOR.GP, 0);
    }
    setRealCs(cpu, selector, offset);
    return;
  }
  if (isNull(selector)) throw new GuestFault(VECTOR.GP, 0);
  const descriptor = fetchDescriptor(cpu, selector);
  if (!descriptor.system) {
    checkCodeDescriptor(cpu, selector, descriptor);
    checkTarget(cpu, descriptor, offset);
    enterCode(cpu, selector, markAccessed(cpu, descriptor), cpu.cpl, offset);
    return;
  }
  if (farTask(cpu, selector, descriptor, "jump")) return;
  const gate = readCallGate(cpu, selector, descriptor);
  const code = gateCode(cpu, gate, false);
  checkTarget(cpu, code, gate.offset);
  enterCode(cpu, gate.selector, markAccessed(cpu, code), cpu.cpl, gate.offset);
}

/** Far CALL to `selector:offset` with a return address of `size`. */
export function farCall(
  cpu: HelperCpu,
  selector: number,
  offset: bigint,
  size: 2 | 4 | 8,
): void {
  const state = cpu.state;
  const returnCs = BigInt(segmentSelector(state, CS));
  const stack = Stack.current(cpu);
  if (!cpu.protectedMode) {
    if (offset > BigInt(segmentLimit(state, CS))) {
      throw new GuestFault(VECTOR.GP, 0);
    }
    stack.push(size, returnCs);
    stack.push(size, cpu.nextRip);
    stack.commit();
    setRealCs(cpu, selector, offset);
    return;
  }
  if (isNull(selector)) throw new GuestFault(VECTOR.GP, 0);
  const descriptor = fetchDescriptor(cpu, selector);
  if (!descriptor.system) {
    checkCodeDescriptor(cpu, selector, descriptor);
    checkTarget(cpu, descriptor, offset);
    const code = markAccessed(cpu, descriptor);
    stack.push(size, returnCs);
    stack.push(size, cpu.nextRip);
    stack.commit();
    enterCode(cpu, selector, code, cpu.cpl, offset);
    return;
  }
  if (farTask(cpu, selector, descriptor, "call")) return;
  const gate = readCallGate(cpu, selector, descriptor);
  const code = gateCode(cpu, gate, true);
  if (!code.conforming && code.dpl < cpu.cpl) {
    callInner(cpu, gate, code, stack);
    return;
  }
  checkTarget(cpu, code, gate.offset);
  const marked = markAccessed(cpu, code);
  stack.push(gate.size, returnCs);
  stack.push(gate.size, cpu.nextRip);
  stack.commit();
  enterCode(cpu, gate.selector, marked, cpu.cpl, gate.offset);
}

/** CALL through a gate to a more privileged segment. */
function callInner(
  cpu: HelperCpu,
  gate: Gate,
  target: Descriptor,
  outer: Stack,
): void {
  const state = cpu.state;
  const cpl = target.dpl;
  const size = gate.size;
  let inner: Stack;
  let ss: Descriptor | undefined;
  let ssSelector = cpl;
  if (size === 8) {
    inner = Stack.flat(cpu, innerStack64(cpu, cpl), cpl, 0);
  } else {
    const from = innerStack(cpu, cpl);
    ssSelector = from.selector;
    ss = innerStackDescriptor(cpu, ssSelector, cpl);
    inner = Stack.inSegment(
      cpu,
      ss,
      from.pointer,
      cpl,
      ssSelector & ERROR_SELECTOR,
    );
  }
  checkTarget(cpu, target, gate.offset);
  const code = markAccessed(cpu, target);
  if (ss) ss = markAccessed(cpu, ss);
  inner.push(size, BigInt(segmentSelector(state, SS)));
  inner.push(size, state.q[RSP]);
  for (let i = gate.parameters - 1; i >= 0; i--) {
    inner.push(size, outer.peek(i * size, size));
  }
  inner.push(size, BigInt(segmentSelector(state, CS)));
  inner.push(size, cpu.nextRip);

  if (ss) setSegmentFrom(state, SS, ssSelector, ss);
  else setNullSegment(state, SS, ssSelector, cpl);
  inner.commit();
  enterCode(cpu, gate.selector, code, cpl, gate.offset);
}

/** Far RET, releasing `release` bytes of parameters. */
export function farReturn(
  cpu: HelperCpu,
  size: 2 | 4 | 8,
  release: number,
): void {
  const state = cpu.state;
  const stack = Stack.current(cpu);
  const rip = stack.pop(size);
  const selector = Number(stack.pop(size) & CS_FIELD);
  if (!cpu.protectedMode) {
    if (rip > BigInt(segmentLimit(state, CS))) {
      throw new GuestFault(VECTOR.GP, 0);
    }
    stack.skip(release);
    stack.commit();
    setRealCs(cpu, selector, rip);
    return;
  }
  const target = returnCodeDescriptor(cpu, selector);
  const cpl = selector & SELECTOR.RPL;
  stack.skip(release);
  if (cpl === cpu.cpl) {
    checkTarget(cpu, target, rip);
    const code = markAccessed(cpu, target);
    stack.commit();
    enterCode(cpu, selector, code, cpl, rip);
    return;
  }
  const rsp = stack.pop(size);
  const ssSelector = Number(stack.pop(size) & CS_FIELD);
  let ss = returnStackDescriptor(cpu, ssSelector, target, cpl);
  checkTarget(cpu, target, rip);
  const code = markAccessed(cpu, target);
  if (ss) ss = markAccessed(cpu, ss);
  setReturnStack(
    cpu,
    ssSelector,
    ss,
    code,
    cpl,
    BigInt.asUintN(64, rsp + BigInt(release)),
  );
  dropInnerSegments(state, cpl);
  enterCode(cpu, selector, code, cpl, rip);
}

/** Reads a far pointer operand in memory. */
function farPointer(
  cpu: HelperCpu,
  insn: Insn,
): { offset: bigint; selector: number } {
  const size = insn.size;
  const address = cpu.linear(insn, size + 2, false);
  const offset = size === 8
    ? cpu.read64(address)
    : BigInt(size === 4 ? cpu.read32(address) : cpu.read16(address));
  return {
    offset,
    selector: cpu.read16(BigInt.asUintN(64, address + BigInt(size))),
  };
}

function immediateOffset(insn: Insn): bigint {
  return BigInt.asUintN(insn.size * 8, insn.imm);
}

const FAR = { ends: true, noOracle: true } as const;

define(
  "jmpf",
  "ea",
  "Iz, Iw",
  helper((cpu, insn) =>
    farJump(cpu, insn.imm2 & 0xffff, immediateOffset(insn))
  ),
  { ...FAR, legacyOnly: true },
);
define(
  "callf",
  "9a",
  "Iz, Iw",
  helper((cpu, insn) =>
    farCall(cpu, insn.imm2 & 0xffff, immediateOffset(insn), insn.size)
  ),
  { ...FAR, legacyOnly: true },
);
define(
  "jmpf",
  "ff /5 m",
  "M",
  helper((cpu, insn) => {
    const { selector, offset } = farPointer(cpu, insn);
    farJump(cpu, selector, offset);
  }),
  FAR,
);
define(
  "callf",
  "ff /3 m",
  "M",
  helper((cpu, insn) => {
    const { selector, offset } = farPointer(cpu, insn);
    farCall(cpu, selector, offset, insn.size);
  }),
  FAR,
);
define(
  "retf",
  "ca",
  "Iw",
  helper((cpu, insn) => farReturn(cpu, insn.size, Number(insn.imm) & 0xffff)),
  FAR,
);
define(
  "retf",
  "cb",
  "",
  helper((cpu, insn) => farReturn(cpu, insn.size, 0)),
  FAR,
);

/** The segment register in ModRM.reg; REX.R is ignored. @throws {GuestFault} #UD when there is none. */
function segmentOperand(insn: Insn): number {
  const segment = insn.reg & 7;
  if (segment > GS) throw new GuestFault(VECTOR.UD);
  return segment;
}

define(
  "mov",
  "8c /r",
  "Ev, Sw",
  helper((cpu, insn) => {
    const selector = BigInt(segmentSelector(cpu.state, segmentOperand(insn)));
    if (insn.mod === 3) cpu.writeReg(insn, insn.rm, insn.size, selector);
    else cpu.writeRm(insn, 2, selector);
  }),
  { noOracle: true },
);

/** Loads a segment register and, for SS, holds off interrupts for one instruction. */
function load(cpu: HelperCpu, segment: number, selector: number): void {
  loadSegment(cpu, segment, selector);
  if (segment === SS) cpu.inhibitInterrupts();
}

define(
  "mov",
  "8e /r",
  "Sw, Ew",
  helper((cpu, insn) => {
    const segment = segmentOperand(insn);
    if (segment === CS) throw new GuestFault(VECTOR.UD);
    load(cpu, segment, Number(cpu.readRm(insn, 2)));
  }),
  { ends: true, noOracle: true },
);

function definePushPop(
  segment: number,
  push: string,
  pop: string | undefined,
  legacyOnly: boolean,
): void {
  define(
    "push",
    push,
    "",
    helper((cpu, insn) =>
      cpu.push(insn.size, BigInt(segmentSelector(cpu.state, segment)))
    ),
    { legacyOnly, default64: true, noOracle: true },
  );
  if (!pop) return;
  define(
    "pop",
    pop,
    "",
    helper((cpu, insn) => {
      const stack = Stack.current(cpu);
      const selector = Number(stack.pop(insn.size) & CS_FIELD);
      load(cpu, segment, selector);
      stack.commit();
    }),
    { legacyOnly, default64: true, ends: true, noOracle: true },
  );
}

definePushPop(ES, "06", "07", true);
definePushPop(CS, "0e", undefined, true);
definePushPop(SS, "16", "17", true);
definePushPop(DS, "1e", "1f", true);
definePushPop(FS, "0f a0", "0f a1", false);
definePushPop(GS, "0f a8", "0f a9", false);

function defineLoadPointer(
  name: string,
  encoding: string,
  segment: number,
  legacyOnly: boolean,
): void {
  define(
    name,
    encoding,
    "Gv, M",
    helper((cpu, insn) => {
      const { selector, offset } = farPointer(cpu, insn);
      load(cpu, segment, selector);
      cpu.writeReg(insn, insn.reg, insn.size, offset);
    }),
    { legacyOnly, ends: true, noOracle: true },
  );
}

defineLoadPointer("les", "c4 /r m", ES, true);
defineLoadPointer("lds", "c5 /r m", DS, true);
defineLoadPointer("lss", "0f b2 /r m", SS, false);
defineLoadPointer("lfs", "0f b4 /r m", FS, false);
defineLoadPointer("lgs", "0f b5 /r m", GS, false);
