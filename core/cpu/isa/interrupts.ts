/**
 * Software interrupts, returns from interrupts, the interrupt flag and the undefined instructions (Intel SDM vol. 2: INT n,
 * IRET, CLI, STI, PUSHF, POPF, HLT, BOUND, UD).
 *
 * @module
 */
import { deliverEvent } from "../exceptions.ts";
import type { HelperCpu, Insn } from "../helper.ts";
import {
  checkCodeWidth,
  checkTarget,
  type Descriptor,
  dropInnerSegments,
  ERROR_SELECTOR,
  fetchDescriptor,
  isCanonical,
  isCode64,
  isNull,
  markAccessed,
  segmentBase,
  segmentLimit,
  SELECTOR,
  setCodeSegment,
  setNullSegment,
  setRealSegment,
  setSegmentFrom,
  setV86Segment,
  TYPE,
} from "../segments.ts";
import { setStackPointer, Stack } from "../stack.ts";
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
} from "../state.ts";
import { switchTask } from "../tasks.ts";
import { define, helper } from "./define.ts";

/** Flags that POPF and IRET may always change. */
const USER_FLAGS = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF | FLAG.TF |
  FLAG.DF | FLAG.OF | FLAG.NT;
/** Flags above bit 15 among them, for operand sizes 4 and 8. */
const USER_FLAGS_HIGH = FLAG.AC | FLAG.ID;
const IOPL_SHIFT = 12;
const V86_FRAME_SELECTORS = [ES, DS, FS, GS] as const;

/** I/O privilege level. */
export function iopl(cpu: HelperCpu): number {
  return (cpu.state.get32(OFF.rflags) >> IOPL_SHIFT) & 3;
}

/** Whether CLI, STI, POPF and IRET may change IF. */
function mayChangeIf(cpu: HelperCpu): boolean {
  return cpu.cpl <= iopl(cpu);
}

/** Raises #GP(0) in virtual-8086 mode unless IOPL is 3. */
function checkV86Iopl(cpu: HelperCpu): void {
  if (cpu.v86 && iopl(cpu) !== 3) throw new GuestFault(VECTOR.GP, 0);
}

/** Raises #GP(0) unless CPL is 0. */
export function requireCpl0(cpu: HelperCpu): void {
  if (cpu.cpl !== 0) throw new GuestFault(VECTOR.GP, 0);
}

define(
  "int3",
  "cc",
  "",
  helper((cpu) => deliverEvent(cpu, { vector: VECTOR.BP, kind: "int3" })),
  { ends: true, noOracle: true },
);

define(
  "int",
  "cd",
  "Ib",
  helper((cpu, insn) => {
    checkV86Iopl(cpu);
    deliverEvent(cpu, { vector: Number(insn.imm) & 0xff, kind: "software" });
  }),
  { ends: true, noOracle: true },
);

define(
  "into",
  "ce",
  "",
  helper((cpu) => {
    if (cpu.state.arithmeticFlags() & FLAG.OF) {
      deliverEvent(cpu, { vector: VECTOR.OF, kind: "into" });
    }
  }),
  { ends: true, legacyOnly: true, noOracle: true },
);

define(
  "int1",
  "f1",
  "",
  helper((cpu) => deliverEvent(cpu, { vector: VECTOR.DB, kind: "int1" })),
  { ends: true, noOracle: true },
);

/** Masks the flags that an image popped by IRET or POPF may change; the rest comes from `old`. */
function mergeFlags(old: number, image: number, mask: number): number {
  return (old & ~mask) | (image & mask) | FLAG.FIXED;
}

function iretReal(cpu: HelperCpu, size: 2 | 4): void {
  const state = cpu.state;
  const v86 = cpu.v86;
  checkV86Iopl(cpu);
  const stack = Stack.current(cpu);
  const rip = stack.pop(size);
  const selector = Number(stack.pop(size) & 0xffffn);
  const image = Number(stack.pop(size));
  if (rip > BigInt(segmentLimit(state, CS))) throw new GuestFault(VECTOR.GP, 0);
  stack.commit();
  let mask = USER_FLAGS | FLAG.IF;
  if (!v86) mask |= FLAG.IOPL;
  if (size === 4) mask |= USER_FLAGS_HIGH | FLAG.RF;
  state.rflags = mergeFlags(state.rflags & ~FLAG.RF, image, mask);
  if (v86) setV86Segment(state, CS, selector);
  else setRealSegment(state, CS, selector);
  cpu.modeChanged();
  cpu.jump(rip);
}

/** IRET from CPL 0 to virtual-8086 mode (SDM vol. 3, 20.2.3). */
function iretToV86(
  cpu: HelperCpu,
  stack: Stack,
  rip: bigint,
  selector: number,
  image: number,
): void {
  const state = cpu.state;
  const esp = stack.pop(4);
  const ss = Number(stack.pop(4) & 0xffffn);
  const selectors = V86_FRAME_SELECTORS.map(() =>
    Number(stack.pop(4) & 0xffffn)
  );
  if (rip > 0xffffn) throw new GuestFault(VECTOR.GP, 0);
  state.q[RSP] = esp;
  state.rflags = mergeFlags(state.rflags, image, ~0);
  setV86Segment(state, CS, selector);
  setV86Segment(state, SS, ss);
  V86_FRAME_SELECTORS.forEach((segment, i) =>
    setV86Segment(state, segment, selectors[i])
  );
  state.set32(OFF.cpl, 3);
  cpu.modeChanged();
  cpu.jump(rip);
}

/**
 * Checks the code segment that RET or IRET returns to.
 *
 * @throws {GuestFault} #GP or #NP.
 */
export function returnCodeDescriptor(
  cpu: HelperCpu,
  selector: number,
): Descriptor {
  if (isNull(selector)) throw new GuestFault(VECTOR.GP, 0);
  const error = selector & ERROR_SELECTOR;
  const rpl = selector & SELECTOR.RPL;
  const code = fetchDescriptor(cpu, selector);
  if (
    !code.code || rpl < cpu.cpl ||
    (code.conforming ? code.dpl > rpl : code.dpl !== rpl)
  ) {
    throw new GuestFault(VECTOR.GP, error);
  }
  checkCodeWidth(cpu, code, error);
  if (!code.present) throw new GuestFault(VECTOR.NP, error);
  return code;
}

/**
 * Checks the stack segment that RET or IRET returns to.
 *
 * @param code The checked code segment.
 * @returns undefined for a null selector, which only 64-bit code above CPL 3 may have.
 * @throws {GuestFault} #GP or #SS.
 */
export function returnStackDescriptor(
  cpu: HelperCpu,
  selector: number,
  code: Descriptor,
  cpl: number,
): Descriptor | undefined {
  if (isNull(selector)) {
    if (
      !isCode64(cpu, code) || cpl === 3 || (selector & SELECTOR.RPL) !== cpl
    ) throw new GuestFault(VECTOR.GP, 0);
    return undefined;
  }
  const error = selector & ERROR_SELECTOR;
  const stack = fetchDescriptor(cpu, selector);
  if (
    (selector & SELECTOR.RPL) !== cpl || stack.dpl !== cpl || stack.system ||
    (stack.type & (TYPE.CODE | TYPE.WRITABLE)) !== TYPE.WRITABLE
  ) throw new GuestFault(VECTOR.GP, error);
  if (!stack.present) throw new GuestFault(VECTOR.SS, error);
  return stack;
}

/** Sets SS for a return, and RSP by the width of the new stack. */
export function setReturnStack(
  cpu: HelperCpu,
  selector: number,
  descriptor: Descriptor | undefined,
  code: Descriptor,
  cpl: number,
  rsp: bigint,
): void {
  const state = cpu.state;
  if (descriptor) setSegmentFrom(state, SS, selector, descriptor);
  else setNullSegment(state, SS, selector, cpl);
  if (isCode64(cpu, code)) state.q[RSP] = rsp;
  else {setStackPointer(
      state,
      descriptor && descriptor.attr & ATTR.DB ? 0xffff_ffffn : 0xffffn,
      rsp,
    );}
}

function iretProtected(cpu: HelperCpu, size: 2 | 4 | 8): void {
  const state = cpu.state;
  const cpl = cpu.cpl;
  const old = state.rflags;
  if (old & FLAG.NT) {
    if (cpu.longMode) throw new GuestFault(VECTOR.GP, 0);
    const link = Number(cpu.readSystem(segmentBase(state, TR), 2));
    switchTask(cpu, link, "iret", cpu.nextRip);
    return;
  }

  let rip: bigint, selector: number, image: number;
  let rsp = 0n, ssSelector = 0;
  let stack: Stack | undefined;
  const code64 = cpu.code64;
  if (code64 && size === 8) {
    const sp = state.q[RSP];
    if (!isCanonical(sp)) throw new GuestFault(VECTOR.SS, 0);
    rip = cpu.read64(sp);
    selector = cpu.read32(BigInt.asUintN(64, sp + 8n)) & 0xffff;
    image = cpu.read32(BigInt.asUintN(64, sp + 16n));
    rsp = cpu.read64(BigInt.asUintN(64, sp + 24n));
    ssSelector = cpu.read32(BigInt.asUintN(64, sp + 32n)) & 0xffff;
  } else {
    stack = Stack.current(cpu);
    rip = stack.pop(size);
    selector = Number(stack.pop(size) & 0xffffn);
    image = Number(stack.pop(size) & 0xffff_ffffn);
    if (image & FLAG.VM && cpl === 0 && !cpu.longMode && size === 4) {
      iretToV86(cpu, stack, rip, selector, image);
      return;
    }
  }

  let code = returnCodeDescriptor(cpu, selector);
  const newCpl = selector & SELECTOR.RPL;
  const outer = newCpl > cpl;
  let ss: Descriptor | undefined;
  if (outer || code64) {
    if (stack) {
      rsp = stack.pop(size);
      ssSelector = Number(stack.pop(size) & 0xffffn);
    }
    ss = returnStackDescriptor(cpu, ssSelector, code, newCpl);
  }
  checkTarget(cpu, code, rip);
  code = markAccessed(cpu, code);
  if (ss) ss = markAccessed(cpu, ss);

  let mask = USER_FLAGS;
  if (size !== 2) mask |= USER_FLAGS_HIGH | FLAG.RF;
  if (mayChangeIf(cpu)) mask |= FLAG.IF;
  if (cpl === 0) {
    mask |= size === 2 ? FLAG.IOPL : FLAG.IOPL | FLAG.VIF | FLAG.VIP;
  }
  state.rflags = mergeFlags(old & ~FLAG.RF, image, mask);
  if (outer || code64) setReturnStack(cpu, ssSelector, ss, code, newCpl, rsp);
  else stack?.commit();
  setCodeSegment(state, selector, code, newCpl);
  if (outer) dropInnerSegments(state, newCpl);
  cpu.modeChanged();
  cpu.jump(rip);
}

/** IRET, IRETD, IRETQ in every mode. */
export function iret(cpu: HelperCpu, insn: Insn): void {
  if (cpu.protectedMode) iretProtected(cpu, insn.size);
  else iretReal(cpu, insn.size === 2 ? 2 : 4);
  cpu.state.set32(OFF.nmiBlocked, 0);
}

define("iret", "cf", "", helper(iret), { ends: true, noOracle: true });

define(
  "cli",
  "fa",
  "",
  helper((cpu) => {
    if (!mayChangeIf(cpu)) throw new GuestFault(VECTOR.GP, 0);
    cpu.state.d[OFF.rflags >> 2] &= ~FLAG.IF;
  }),
  { noOracle: true },
);

define(
  "sti",
  "fb",
  "",
  helper((cpu) => {
    if (!mayChangeIf(cpu)) throw new GuestFault(VECTOR.GP, 0);
    const d = cpu.state.d;
    if (d[OFF.rflags >> 2] & FLAG.IF) return;
    d[OFF.rflags >> 2] |= FLAG.IF;
    cpu.inhibitInterrupts();
    cpu.endBlock();
  }),
  { ends: true, noOracle: true },
);

define(
  "pushf",
  "9c",
  "",
  helper((cpu, insn) => {
    checkV86Iopl(cpu);
    cpu.push(
      insn.size,
      BigInt((cpu.state.rflags & ~(FLAG.VM | FLAG.RF)) >>> 0),
    );
  }),
  { default64: true, noOracle: true },
);

define(
  "popf",
  "9d",
  "",
  helper((cpu, insn) => {
    checkV86Iopl(cpu);
    const state = cpu.state;
    const old = state.rflags;
    let mask = USER_FLAGS;
    if (insn.size !== 2) mask |= USER_FLAGS_HIGH;
    if (mayChangeIf(cpu)) mask |= FLAG.IF;
    if (cpu.cpl === 0) mask |= FLAG.IOPL;
    const image = Number(cpu.pop(insn.size) & 0xffff_ffffn);
    const flags = mergeFlags(old & ~FLAG.RF, image, mask);
    state.rflags = flags;
    if ((flags ^ old) & FLAG.AC) cpu.modeChanged();
    else if (flags & ~old & FLAG.IF || flags & FLAG.TF) cpu.endBlock();
  }),
  { default64: true, ends: true, noOracle: true },
);

define(
  "hlt",
  "f4",
  "",
  helper((cpu) => {
    requireCpl0(cpu);
    cpu.halt();
  }),
  { ends: true, noOracle: true },
);

define(
  "bound",
  "62 /r m",
  "Gv, M",
  helper((cpu, insn) => {
    const size = insn.size === 2 ? 2 : 4;
    const address = cpu.linear(insn, size * 2, false);
    const second = address + BigInt(size);
    let index: number, lower: number, upper: number;
    if (size === 2) {
      index = (Number(cpu.readReg(insn, insn.reg, 2)) << 16) >> 16;
      lower = (cpu.read16(address) << 16) >> 16;
      upper = (cpu.read16(second) << 16) >> 16;
    } else {
      index = Number(cpu.readReg(insn, insn.reg, 4)) | 0;
      lower = cpu.read32(address) | 0;
      upper = cpu.read32(second) | 0;
    }
    if (index < lower || index > upper) throw new GuestFault(VECTOR.BR);
  }),
  { legacyOnly: true, noOracle: true },
);

const undefinedInstruction = helper(() => {
  throw new GuestFault(VECTOR.UD);
});
define("ud2", "0f 0b", "", undefinedInstruction, {
  ends: true,
  noOracle: true,
});
define("ud1", "0f b9 /r", "Gv, Ev", undefinedInstruction, {
  ends: true,
  noOracle: true,
});
define("ud0", "0f ff /r", "Gv, Ev", undefinedInstruction, {
  ends: true,
  noOracle: true,
});
