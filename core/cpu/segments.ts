/**
 * Segment descriptors and the loading of segment registers (Intel SDM vol. 3, chapters 3.4, 3.5 and 5; vol. 2, MOV,
 * LDS, LAR).
 *
 * A descriptor in hand is two 32-bit words; the hidden part of a segment register is base, byte limit and the
 * attributes in the order of {@linkcode ATTR}.
 *
 * @module
 */
import type { HelperCpu } from "./helper.ts";
import {
  ATTR,
  type CpuState,
  CS,
  DS,
  ES,
  FS,
  GS,
  GuestFault,
  LDTR,
  OFF,
  SS,
  VECTOR,
} from "./state.ts";

/** Selector bits (SDM vol. 3, 3.4.2). */
export const SELECTOR = { RPL: 3, TI: 4, INDEX: 0xfff8 } as const;

/** What of a selector goes in an error code (SDM vol. 3, 6.13). */
export const ERROR_SELECTOR = 0xfffc;
/** Error code bits (SDM vol. 3, 6.13). */
export const ERROR = { EXT: 1, IDT: 2 } as const;

/** System descriptor types (SDM vol. 3, table 3-2). */
export const SYSTEM_TYPE = {
  TSS16: 1,
  LDT: 2,
  BUSY_TSS16: 3,
  CALL_GATE16: 4,
  TASK_GATE: 5,
  INTERRUPT_GATE16: 6,
  TRAP_GATE16: 7,
  TSS32: 9,
  BUSY_TSS32: 11,
  CALL_GATE32: 12,
  INTERRUPT_GATE32: 14,
  TRAP_GATE32: 15,
} as const;

/** The busy bit in the type of a TSS descriptor. */
export const TSS_BUSY = 2;

/** Type bits of code and data descriptors (SDM vol. 3, table 3-1). */
export const TYPE = {
  ACCESSED: 1,
  WRITABLE: 2,
  READABLE: 2,
  EXPAND_DOWN: 4,
  CONFORMING: 4,
  CODE: 8,
} as const;

/** Attributes that a register gets in real mode: present, accessed, writable data. */
export const REAL_DATA_ATTR = ATTR.P | ATTR.S | TYPE.WRITABLE | TYPE.ACCESSED;
/** Attributes of every segment in virtual-8086 mode: DPL 3. */
export const V86_ATTR = REAL_DATA_ATTR | ATTR.DPL;

/** The flat 64-bit code segment that SYSCALL and its kin load, DPL 0. */
export const FLAT_CODE64 = ATTR.G | ATTR.L | ATTR.P | ATTR.S | TYPE.CODE |
  TYPE.READABLE | TYPE.ACCESSED;
/** As {@linkcode FLAT_CODE64}, 32 bits. */
export const FLAT_CODE32 = ATTR.G | ATTR.DB | ATTR.P | ATTR.S | TYPE.CODE |
  TYPE.READABLE | TYPE.ACCESSED;
/** The flat stack segment that goes with them. */
export const FLAT_DATA = ATTR.G | ATTR.DB | ATTR.P | ATTR.S | TYPE.WRITABLE |
  TYPE.ACCESSED;

const DESCRIPTOR_ATTR = ATTR.TYPE | ATTR.S | ATTR.DPL | ATTR.P | ATTR.AVL |
  ATTR.L | ATTR.DB | ATTR.G;
const ACCESS_BYTE = 5;
const PAGE_LIMIT_SHIFT = 12;

const quad = new BigUint64Array(1);
const words = new Uint32Array(quad.buffer);

/** A descriptor read from a table. */
export class Descriptor {
  /**
   * Takes the two words as they are.
   *
   * @param address Linear address of its first byte.
   * @param lo Bytes 0 to 3.
   * @param hi Bytes 4 to 7.
   */
  constructor(
    readonly address: bigint,
    readonly lo: number,
    readonly hi: number,
  ) {}

  /** The attributes as {@linkcode ATTR} has them. */
  get attr(): number {
    return (this.hi >>> 8) & DESCRIPTOR_ATTR;
  }
  /** The four type bits. */
  get type(): number {
    return (this.hi >>> 8) & ATTR.TYPE;
  }
  /** Descriptor privilege level. */
  get dpl(): number {
    return (this.hi >>> 13) & 3;
  }
  /** The present bit. */
  get present(): boolean {
    return (this.hi & (ATTR.P << 8)) !== 0;
  }
  /** Not a code or data segment. */
  get system(): boolean {
    return (this.hi & (ATTR.S << 8)) === 0;
  }
  /** A code segment. */
  get code(): boolean {
    return !this.system && (this.type & TYPE.CODE) !== 0;
  }
  /** A conforming code segment. */
  get conforming(): boolean {
    return (this.type & TYPE.CONFORMING) !== 0;
  }
  /** The 32-bit base. */
  get base(): number {
    return ((this.lo >>> 16) | ((this.hi & 0xff) << 16) |
      (this.hi & 0xff000000)) >>> 0;
  }
  /** The limit in bytes. */
  get limit(): number {
    const raw = (this.lo & 0xffff) | (this.hi & 0xf0000);
    return this.hi & (ATTR.G << 8)
      ? ((raw << PAGE_LIMIT_SHIFT) | 0xfff) >>> 0
      : raw;
  }
}

/** Whether the upper word of a linear address extends bit 47. */
export function canonicalHigh(high: number): boolean {
  const sign = (high | 0) >> 15;
  return sign === 0 || sign === -1;
}

/** Whether a linear address is canonical (48 bits; SDM vol. 1, 3.3.7.1). */
export function isCanonical(address: bigint): boolean {
  quad[0] = address;
  return canonicalHigh(words[1]);
}

/** Base of segment `segment` as u64. */
export function segmentBase(state: CpuState, segment: number): bigint {
  return state.q[(OFF.segBase >> 3) + segment];
}
/** Attributes of `segment`. */
export function segmentAttr(state: CpuState, segment: number): number {
  return state.d[(OFF.segAttr >> 2) + segment];
}
/** Selector of `segment`. */
export function segmentSelector(state: CpuState, segment: number): number {
  return state.d[(OFF.segSelector >> 2) + segment];
}
/** Limit of `segment` in bytes. */
export function segmentLimit(state: CpuState, segment: number): number {
  return state.d[(OFF.segLimit >> 2) + segment];
}

/**
 * Sets every part of a segment register without any check.
 *
 * @param base Lower 32 bits of the base.
 * @param baseHigh Upper 32 bits.
 */
export function setSegment(
  state: CpuState,
  segment: number,
  selector: number,
  base: number,
  limit: number,
  attr: number,
  baseHigh = 0,
): void {
  const d = state.d;
  d[(OFF.segSelector >> 2) + segment] = selector;
  d[(OFF.segBase >> 2) + segment * 2] = base;
  d[(OFF.segBase >> 2) + segment * 2 + 1] = baseHigh;
  d[(OFF.segLimit >> 2) + segment] = limit;
  d[(OFF.segAttr >> 2) + segment] = attr;
}

/** Sets a segment register from a descriptor that has passed its checks. */
export function setSegmentFrom(
  state: CpuState,
  segment: number,
  selector: number,
  descriptor: Descriptor,
): void {
  setSegment(
    state,
    segment,
    selector,
    descriptor.base,
    descriptor.limit,
    descriptor.attr,
  );
}

/**
 * Sets a segment register to a null selector. `dpl` is kept for SS in 64-bit mode.
 */
export function setNullSegment(
  state: CpuState,
  segment: number,
  selector: number,
  dpl = 0,
): void {
  setSegment(state, segment, selector, 0, 0, ATTR.UNUSABLE | (dpl << 5));
}

/** Sets a segment register as virtual-8086 mode does. */
export function setV86Segment(
  state: CpuState,
  segment: number,
  selector: number,
): void {
  setSegment(state, segment, selector, selector << 4, 0xffff, V86_ATTR);
}

/** Whether a selector is null whatever its RPL. */
export function isNull(selector: number): boolean {
  return (selector & ERROR_SELECTOR) === 0;
}

/**
 * Linear address of a selector's descriptor, or -1n when it lies outside its table.
 *
 * @param bytes 8, or 16 for system descriptors in long mode.
 */
export function descriptorAddress(
  cpu: HelperCpu,
  selector: number,
  bytes = 8,
): bigint {
  const state = cpu.state;
  const offset = selector & SELECTOR.INDEX;
  if (selector & SELECTOR.TI) {
    if (
      segmentAttr(state, LDTR) & ATTR.UNUSABLE ||
      offset + bytes - 1 > segmentLimit(state, LDTR)
    ) return -1n;
    return BigInt.asUintN(64, segmentBase(state, LDTR) + BigInt(offset));
  }
  if (offset + bytes - 1 > state.get32(OFF.gdtLimit)) return -1n;
  return BigInt.asUintN(64, state.get(OFF.gdtBase) + BigInt(offset));
}

/** Reads a descriptor by its linear address. */
export function descriptorAt(cpu: HelperCpu, address: bigint): Descriptor {
  quad[0] = cpu.readSystem(address, 8);
  return new Descriptor(address, words[0], words[1]);
}

/** Reads a selector's descriptor; undefined when it lies outside its table (LAR, VERR and their kin). */
export function tryDescriptor(
  cpu: HelperCpu,
  selector: number,
): Descriptor | undefined {
  const address = descriptorAddress(cpu, selector);
  return address < 0n ? undefined : descriptorAt(cpu, address);
}

/**
 * Reads a selector's descriptor.
 *
 * @param vector What to raise when it lies outside its table.
 * @param ext {@linkcode ERROR.EXT} while an event is delivered.
 * @throws {GuestFault}
 */
export function fetchDescriptor(
  cpu: HelperCpu,
  selector: number,
  vector: number = VECTOR.GP,
  ext = 0,
): Descriptor {
  const address = descriptorAddress(cpu, selector);
  if (address < 0n) {
    throw new GuestFault(vector, (selector & ERROR_SELECTOR) | ext);
  }
  return descriptorAt(cpu, address);
}

/** The upper half of a base or gate offset in a 16-byte descriptor of long mode (SDM vol. 3, figure 8-4). */
export function upperHalf(
  cpu: HelperCpu,
  descriptor: Descriptor,
): { base: number; reserved: number } {
  quad[0] = cpu.readSystem(BigInt.asUintN(64, descriptor.address + 8n), 8);
  return { base: words[0], reserved: words[1] };
}

/** Sets the accessed bit in memory if it is not set. The returned descriptor has it. */
export function markAccessed(
  cpu: HelperCpu,
  descriptor: Descriptor,
): Descriptor {
  if (descriptor.type & TYPE.ACCESSED) return descriptor;
  const hi = descriptor.hi | (TYPE.ACCESSED << 8);
  const address = BigInt.asUintN(64, descriptor.address + BigInt(ACCESS_BYTE));
  cpu.writeSystem(address, 1, BigInt((hi >>> 8) & 0xff));
  return new Descriptor(descriptor.address, descriptor.lo, hi >>> 0);
}

/** Sets or clears the busy bit of a TSS descriptor in memory. */
export function setBusy(
  cpu: HelperCpu,
  descriptor: Descriptor,
  busy: boolean,
): void {
  const access = (descriptor.hi >>> 8) & 0xff;
  const address = BigInt.asUintN(64, descriptor.address + BigInt(ACCESS_BYTE));
  cpu.writeSystem(
    address,
    1,
    BigInt(busy ? access | TSS_BUSY : access & ~TSS_BUSY),
  );
}

/**
 * Checks a descriptor for SS.
 *
 * @param cpl The privilege that RPL and DPL must equal.
 * @param vector #GP for a load by an instruction, #TS for one from a TSS.
 */
export function checkStackDescriptor(
  selector: number,
  descriptor: Descriptor,
  cpl: number,
  vector: number,
  ext = 0,
): void {
  const error = (selector & ERROR_SELECTOR) | ext;
  if (
    (selector & SELECTOR.RPL) !== cpl || descriptor.dpl !== cpl ||
    descriptor.system ||
    (descriptor.type & (TYPE.CODE | TYPE.WRITABLE)) !== TYPE.WRITABLE
  ) throw new GuestFault(vector, error);
  if (!descriptor.present) throw new GuestFault(VECTOR.SS, error);
}

/**
 * Loads a data segment register or SS (MOV, POP, LDS and kin; SDM vol. 2, MOV).
 *
 * @param segment ES, SS, DS, FS or GS; loading CS this way is #UD, the caller's to raise.
 * @throws {GuestFault} #GP, #SS or #NP.
 */
export function loadSegment(
  cpu: HelperCpu,
  segment: number,
  selector: number,
): void {
  const state = cpu.state;
  if (!cpu.protectedMode) {
    if (cpu.v86) setV86Segment(state, segment, selector);
    else setRealSegment(state, segment, selector);
    cpu.modeChanged();
    return;
  }
  const cpl = cpu.cpl;
  if (segment === SS) {
    if (isNull(selector)) {
      if (!cpu.code64 || cpl === 3 || (selector & SELECTOR.RPL) !== cpl) {
        throw new GuestFault(VECTOR.GP, 0);
      }
      setNullSegment(state, SS, selector, cpl);
    } else {
      const descriptor = fetchDescriptor(cpu, selector);
      checkStackDescriptor(selector, descriptor, cpl, VECTOR.GP);
      setSegmentFrom(state, SS, selector, markAccessed(cpu, descriptor));
    }
    cpu.modeChanged();
    return;
  }
  if (isNull(selector)) {
    setNullSegment(state, segment, selector);
  } else {
    const descriptor = fetchDescriptor(cpu, selector);
    checkDataDescriptor(selector, descriptor, cpl, VECTOR.GP);
    setSegmentFrom(state, segment, selector, markAccessed(cpu, descriptor));
  }
  // 64-bit code looks at no limit and no type, so nothing depends on these there.
  if (!cpu.code64) cpu.modeChanged();
}

/** Checks a descriptor for DS, ES, FS or GS. */
export function checkDataDescriptor(
  selector: number,
  descriptor: Descriptor,
  cpl: number,
  vector: number,
): void {
  const error = selector & ERROR_SELECTOR;
  const type = descriptor.type;
  const unreadable = (type & (TYPE.CODE | TYPE.READABLE)) === TYPE.CODE;
  const conforming =
    (type & (TYPE.CODE | TYPE.CONFORMING)) === (TYPE.CODE | TYPE.CONFORMING);
  const dpl = descriptor.dpl;
  if (
    descriptor.system || unreadable ||
    (!conforming && ((selector & SELECTOR.RPL) > dpl || cpl > dpl))
  ) throw new GuestFault(vector, error);
  if (!descriptor.present) throw new GuestFault(VECTOR.NP, error);
}

/** Loads a segment register in real mode: limit and attributes stay, unless there are none (SDM vol. 3, 20.1.1). */
export function setRealSegment(
  state: CpuState,
  segment: number,
  selector: number,
): void {
  const d = state.d;
  if (segmentAttr(state, segment) & ATTR.UNUSABLE) {
    setSegment(state, segment, selector, selector << 4, 0xffff, REAL_DATA_ATTR);
    return;
  }
  d[(OFF.segSelector >> 2) + segment] = selector;
  d[(OFF.segBase >> 2) + segment * 2] = selector << 4;
  d[(OFF.segBase >> 2) + segment * 2 + 1] = 0;
}

/**
 * After a return to an outer privilege: registers that the new level may not hold become null (SDM vol. 2, RET).
 */
export function dropInnerSegments(state: CpuState, cpl: number): void {
  dropInner(state, ES, cpl);
  dropInner(state, DS, cpl);
  dropInner(state, FS, cpl);
  dropInner(state, GS, cpl);
}

function dropInner(state: CpuState, segment: number, cpl: number): void {
  const attr = segmentAttr(state, segment);
  if (attr & ATTR.UNUSABLE || ((attr & ATTR.DPL) >> 5) >= cpl) return;
  if (
    (attr & (TYPE.CODE | TYPE.CONFORMING)) === (TYPE.CODE | TYPE.CONFORMING)
  ) return;
  setNullSegment(state, segment, 0);
}

/**
 * Checks a code segment descriptor as the target of a far JMP or CALL without a gate.
 *
 * @throws {GuestFault} #GP or #NP with the selector.
 */
export function checkCodeDescriptor(
  cpu: HelperCpu,
  selector: number,
  descriptor: Descriptor,
): void {
  const error = selector & ERROR_SELECTOR;
  const cpl = cpu.cpl;
  if (!descriptor.code) throw new GuestFault(VECTOR.GP, error);
  if (descriptor.conforming) {
    if (descriptor.dpl > cpl) throw new GuestFault(VECTOR.GP, error);
  } else if ((selector & SELECTOR.RPL) > cpl || descriptor.dpl !== cpl) {
    throw new GuestFault(VECTOR.GP, error);
  }
  checkCodeWidth(cpu, descriptor, error);
  if (!descriptor.present) throw new GuestFault(VECTOR.NP, error);
}

/** In long mode a code segment may not have both L and D set. */
export function checkCodeWidth(
  cpu: HelperCpu,
  descriptor: Descriptor,
  error: number,
): void {
  if (
    cpu.longMode &&
    (descriptor.attr & (ATTR.L | ATTR.DB)) === (ATTR.L | ATTR.DB)
  ) {
    throw new GuestFault(VECTOR.GP, error);
  }
}

/** Whether code in this segment runs in 64-bit mode. */
export function isCode64(cpu: HelperCpu, descriptor: Descriptor): boolean {
  return cpu.longMode && (descriptor.attr & ATTR.L) !== 0;
}

/**
 * Checks the target of a far transfer against its new code segment.
 *
 * @throws {GuestFault} #GP(0)
 */
export function checkTarget(
  cpu: HelperCpu,
  descriptor: Descriptor,
  offset: bigint,
  ext = 0,
): void {
  const ok = isCode64(cpu, descriptor)
    ? isCanonical(offset)
    : offset <= BigInt(descriptor.limit);
  if (!ok) throw new GuestFault(VECTOR.GP, ext);
}

/** Sets CS, with RPL = CPL = `cpl`. The caller calls `modeChanged`. */
export function setCodeSegment(
  state: CpuState,
  selector: number,
  descriptor: Descriptor,
  cpl: number,
): void {
  setSegmentFrom(state, CS, (selector & ERROR_SELECTOR) | cpl, descriptor);
  state.set32(OFF.cpl, cpl);
}
