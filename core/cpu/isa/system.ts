/**
 * System instructions: descriptor tables, control and debug registers, MSRs, CPUID, time stamps (Intel SDM vol. 2 and
 * vol. 3, chapter 2).
 *
 * @module
 */
import type { DynamicFeatures } from "../cpuid.ts";
import { cr4Bits, PHYSICAL_BITS } from "../cpuid.ts";
import {
  DR6,
  DR6_FIXED,
  DR6_WRITABLE,
  DR7,
  DR7_WRITABLE,
  setDebugStatus,
} from "../exceptions.ts";
import type { HelperCpu, Insn } from "../helper.ts";
import { MSR, readMsr, readTsc, writeMsr } from "../msr.ts";
import { setPdptes } from "../pdpte.ts";
import {
  canonicalHigh,
  type Descriptor,
  ERROR_SELECTOR,
  fetchDescriptor,
  isCanonical,
  isNull,
  segmentAttr,
  segmentBase,
  segmentSelector,
  SELECTOR,
  setBusy,
  setNullSegment,
  setSegment,
  SYSTEM_TYPE,
  tryDescriptor,
  TSS_BUSY,
  TYPE,
  upperHalf,
} from "../segments.ts";
import {
  ATTR,
  CR0,
  CR4,
  CS,
  EFER,
  FLAG,
  FS,
  GS,
  GuestFault,
  LDTR,
  OFF,
  RAX,
  RBX,
  RCX,
  RDX,
  TR,
  VECTOR,
} from "../state.ts";
import { define, helper } from "./define.ts";
import { requireCpl0 } from "./interrupts.ts";

const SYSTEM = { ends: true, noOracle: true } as const;
const QUIET = { noOracle: true } as const;

const quad = new BigUint64Array(1);
const words = new Uint32Array(quad.buffer);

/** Raises #UD in real and virtual-8086 mode. */
function requireProtected(cpu: HelperCpu): void {
  if (!cpu.protectedMode) throw new GuestFault(VECTOR.UD);
}

// --- Descriptor-table registers -------------------------------------------------------------------------------------

const tableImage = new Uint8Array(10);
const tableView = new DataView(tableImage.buffer);

function storeTable(
  cpu: HelperCpu,
  insn: Insn,
  base: number,
  limit: number,
): void {
  const bytes = insn.mode === 64 ? 10 : 6;
  const address = cpu.linear(insn, bytes, true);
  tableView.setUint16(0, cpu.state.get32(limit), true);
  tableView.setBigUint64(2, cpu.state.get(base), true);
  cpu.writeBytes(address, tableImage.subarray(0, bytes));
}

function loadTable(
  cpu: HelperCpu,
  insn: Insn,
  base: number,
  limit: number,
): void {
  requireCpl0(cpu);
  const bytes = insn.mode === 64 ? 10 : 6;
  const address = cpu.linear(insn, bytes, false);
  tableView.setBigUint64(2, 0n, true);
  cpu.readBytes(address, tableImage.subarray(0, bytes));
  let value = tableView.getBigUint64(2, true);
  // A 16-bit operand size loads 24 bits of base.
  if (insn.mode !== 64) value &= insn.size === 2 ? 0xff_ffffn : 0xffff_ffffn;
  if (!isCanonical(value)) throw new GuestFault(VECTOR.GP, 0);
  cpu.state.set(base, value);
  cpu.state.set32(limit, tableView.getUint16(0, true));
}

define(
  "sgdt",
  "0f 01 /0 m",
  "M",
  helper((cpu, insn) => storeTable(cpu, insn, OFF.gdtBase, OFF.gdtLimit)),
  QUIET,
);
define(
  "sidt",
  "0f 01 /1 m",
  "M",
  helper((cpu, insn) => storeTable(cpu, insn, OFF.idtBase, OFF.idtLimit)),
  QUIET,
);
define(
  "lgdt",
  "0f 01 /2 m",
  "M",
  helper((cpu, insn) => loadTable(cpu, insn, OFF.gdtBase, OFF.gdtLimit)),
  QUIET,
);
define(
  "lidt",
  "0f 01 /3 m",
  "M",
  helper((cpu, insn) => loadTable(cpu, insn, OFF.idtBase, OFF.idtLimit)),
  QUIET,
);

/** Stores a 16-bit value: zero-extended in a register, 16 bits in memory. */
function storeWord(cpu: HelperCpu, insn: Insn, value: bigint): void {
  if (insn.mod === 3) cpu.writeReg(insn, insn.rm, insn.size, value);
  else cpu.writeRm(insn, 2, value & 0xffffn);
}

define(
  "sldt",
  "0f 00 /0",
  "Ev",
  helper((cpu, insn) => {
    requireProtected(cpu);
    storeWord(cpu, insn, BigInt(segmentSelector(cpu.state, LDTR)));
  }),
  QUIET,
);
define(
  "str",
  "0f 00 /1",
  "Ev",
  helper((cpu, insn) => {
    requireProtected(cpu);
    storeWord(cpu, insn, BigInt(segmentSelector(cpu.state, TR)));
  }),
  QUIET,
);

/** Reads a system descriptor for LLDT or LTR: in the GDT, 16 bytes in long mode. */
function systemDescriptor(
  cpu: HelperCpu,
  selector: number,
  permitted: (type: number) => boolean,
): { descriptor: Descriptor; baseHigh: number } {
  const error = selector & ERROR_SELECTOR;
  if (selector & SELECTOR.TI) throw new GuestFault(VECTOR.GP, error);
  const descriptor = fetchDescriptor(cpu, selector);
  if (!descriptor.system || !permitted(descriptor.type)) {
    throw new GuestFault(VECTOR.GP, error);
  }
  if (!descriptor.present) throw new GuestFault(VECTOR.NP, error);
  if (!cpu.longMode) return { descriptor, baseHigh: 0 };
  if ((selector & SELECTOR.INDEX) + 15 > cpu.state.get32(OFF.gdtLimit)) {
    throw new GuestFault(VECTOR.GP, error);
  }
  const upper = upperHalf(cpu, descriptor);
  if (upper.reserved & (ATTR.TYPE << 8) || !canonicalHigh(upper.base)) {
    throw new GuestFault(VECTOR.GP, error);
  }
  return { descriptor, baseHigh: upper.base };
}

define(
  "lldt",
  "0f 00 /2",
  "Ew",
  helper((cpu, insn) => {
    requireProtected(cpu);
    requireCpl0(cpu);
    const selector = Number(cpu.readRm(insn, 2));
    if (isNull(selector)) {
      setNullSegment(cpu.state, LDTR, selector);
      return;
    }
    const { descriptor, baseHigh } = systemDescriptor(
      cpu,
      selector,
      (type) => type === SYSTEM_TYPE.LDT,
    );
    setSegment(
      cpu.state,
      LDTR,
      selector,
      descriptor.base,
      descriptor.limit,
      descriptor.attr,
      baseHigh,
    );
  }),
  QUIET,
);
define(
  "ltr",
  "0f 00 /3",
  "Ew",
  helper((cpu, insn) => {
    requireProtected(cpu);
    requireCpl0(cpu);
    const selector = Number(cpu.readRm(insn, 2));
    if (isNull(selector)) throw new GuestFault(VECTOR.GP, 0);
    const { descriptor, baseHigh } = systemDescriptor(
      cpu,
      selector,
      (type) =>
        type === SYSTEM_TYPE.TSS32 ||
        (type === SYSTEM_TYPE.TSS16 && !cpu.longMode),
    );
    setBusy(cpu, descriptor, true);
    setSegment(
      cpu.state,
      TR,
      selector,
      descriptor.base,
      descriptor.limit,
      descriptor.attr | TSS_BUSY,
      baseHigh,
    );
  }),
  QUIET,
);

// --- Looking at descriptors ------------------------------------------------------------------------------------------

function setZero(cpu: HelperCpu, zero: boolean): void {
  const flags = cpu.state.arithmeticFlags() & ~FLAG.ZF;
  cpu.state.setArithmeticFlags(zero ? flags | FLAG.ZF : flags);
}

function typeSet(...types: number[]): number {
  return types.reduce((set, type) => set | (1 << type), 0);
}

const T = SYSTEM_TYPE;
const LSL_TYPES = typeSet(T.TSS16, T.LDT, T.BUSY_TSS16, T.TSS32, T.BUSY_TSS32);
const LAR_TYPES = LSL_TYPES |
  typeSet(T.CALL_GATE16, T.TASK_GATE, T.CALL_GATE32);
const LSL_TYPES_LONG = typeSet(T.LDT, T.TSS32, T.BUSY_TSS32);
const LAR_TYPES_LONG = LSL_TYPES_LONG | typeSet(T.CALL_GATE32);
const LAR_MASK = 0x00ff_ff00;

/** The descriptor if the current privilege may see it. */
function visible(
  cpu: HelperCpu,
  selector: number,
  systemTypes: number,
): Descriptor | undefined {
  if (isNull(selector)) return undefined;
  const descriptor = tryDescriptor(cpu, selector);
  if (!descriptor) return undefined;
  if (descriptor.system) {
    if (!((systemTypes >> descriptor.type) & 1)) return undefined;
  } else if (descriptor.code && descriptor.conforming) return descriptor;
  const rpl = selector & SELECTOR.RPL;
  return descriptor.dpl >= cpu.cpl && descriptor.dpl >= rpl
    ? descriptor
    : undefined;
}

define(
  "lar",
  "0f 02 /r",
  "Gv, Ew",
  helper((cpu, insn) => {
    requireProtected(cpu);
    const descriptor = visible(
      cpu,
      Number(cpu.readRm(insn, 2)),
      cpu.longMode ? LAR_TYPES_LONG : LAR_TYPES,
    );
    setZero(cpu, descriptor !== undefined);
    if (descriptor) {
      cpu.writeReg(insn, insn.reg, insn.size, BigInt(descriptor.hi & LAR_MASK));
    }
  }),
  QUIET,
);
define(
  "lsl",
  "0f 03 /r",
  "Gv, Ew",
  helper((cpu, insn) => {
    requireProtected(cpu);
    const descriptor = visible(
      cpu,
      Number(cpu.readRm(insn, 2)),
      cpu.longMode ? LSL_TYPES_LONG : LSL_TYPES,
    );
    setZero(cpu, descriptor !== undefined);
    if (descriptor) {
      cpu.writeReg(insn, insn.reg, insn.size, BigInt(descriptor.limit));
    }
  }),
  QUIET,
);
define(
  "verr",
  "0f 00 /4",
  "Ew",
  helper((cpu, insn) => {
    requireProtected(cpu);
    const descriptor = visible(cpu, Number(cpu.readRm(insn, 2)), 0);
    setZero(
      cpu,
      descriptor !== undefined &&
        (descriptor.type & (TYPE.CODE | TYPE.READABLE)) !== TYPE.CODE,
    );
  }),
  QUIET,
);
define(
  "verw",
  "0f 00 /5",
  "Ew",
  helper((cpu, insn) => {
    requireProtected(cpu);
    const descriptor = visible(cpu, Number(cpu.readRm(insn, 2)), 0);
    setZero(
      cpu,
      descriptor !== undefined &&
        (descriptor.type & (TYPE.CODE | TYPE.WRITABLE)) === TYPE.WRITABLE,
    );
  }),
  QUIET,
);
define(
  "arpl",
  "63 /r",
  "Ew, Gw",
  helper((cpu, insn) => {
    requireProtected(cpu);
    const destination = Number(cpu.readRm(insn, 2));
    const rpl = Number(cpu.readReg(insn, insn.reg, 2)) & SELECTOR.RPL;
    const lower = (destination & SELECTOR.RPL) < rpl;
    // The destination is written either way, so that a read-only page faults either way.
    cpu.writeRm(
      insn,
      2,
      BigInt(lower ? (destination & ~SELECTOR.RPL) | rpl : destination),
    );
    setZero(cpu, lower);
  }),
  { legacyOnly: true, noOracle: true },
);

// --- Control registers -----------------------------------------------------------------------------------------------

/** CR0 bits that exist. */
const CR0_BITS = CR0.PE | CR0.MP | CR0.EM | CR0.TS | CR0.ET | CR0.NE | CR0.WP |
  CR0.AM | CR0.NW | CR0.CD | CR0.PG;
/** CR4 bits whose change invalidates translations. */
const CR4_TLB = CR4.PSE | CR4.PAE | CR4.PGE | CR4.PCIDE | CR4.SMEP | CR4.SMAP;
/** Bits whose change reloads the PDPTE registers (4.4.1). */
const CR0_PDPTE = CR0.CD | CR0.NW | CR0.PG;
const CR4_PDPTE = CR4.PAE | CR4.PGE | CR4.PSE | CR4.SMEP;
const CR3_RESERVED_LONG = ~((1n << BigInt(PHYSICAL_BITS)) - 1n) &
  0xffff_ffff_ffff_ffffn;
const CR3_PCID = 0xfffn;

function gp(): never {
  throw new GuestFault(VECTOR.GP, 0);
}

/**
 * Sets a control register, and the PDPTE registers with it where `reload`; if one of those has reserved bits set, the
 * register is as it was.
 */
function changeMode(
  cpu: HelperCpu,
  offset: number,
  value: bigint,
  reload: boolean,
): void {
  const state = cpu.state;
  const old = state.get(offset);
  state.set(offset, value);
  try {
    if (reload) setPdptes(state, cpu.readPdptes(state.get(OFF.cr3)));
    cpu.modeChanged();
  } catch (fault) {
    state.set(offset, old);
    cpu.modeChanged();
    throw fault;
  }
}

/**
 * Sets CR0 with every check, entering and leaving IA-32e mode with PG (SDM vol. 3, 2.5 and 9.8.5).
 *
 * @param value The lower 32 bits.
 * @throws {GuestFault} #GP(0)
 */
export function writeCr0(cpu: HelperCpu, value: number): void {
  const state = cpu.state;
  const old = state.get32(OFF.cr0);
  const bits = ((value & CR0_BITS) | CR0.ET) >>> 0;
  if (
    (bits & CR0.PG && !(bits & CR0.PE)) || (bits & CR0.NW && !(bits & CR0.CD))
  ) gp();
  const efer = state.get32(OFF.efer);
  if ((bits & CR0.PG) !== (old & CR0.PG) && efer & EFER.LME) {
    const long = (segmentAttr(state, CS) & ATTR.L) !== 0;
    if (bits & CR0.PG) {
      const trType = segmentAttr(state, TR) & (ATTR.TYPE | ATTR.S | ATTR.P);
      if (
        !(state.get32(OFF.cr4) & CR4.PAE) || long ||
        trType === (SYSTEM_TYPE.BUSY_TSS16 | ATTR.P)
      ) gp();
      state.set32(OFF.efer, efer | EFER.LMA);
    } else {
      if (cpu.code64 || state.get32(OFF.cr4) & CR4.PCIDE) gp();
      state.set32(OFF.efer, efer & ~EFER.LMA);
    }
  }
  if ((bits ^ old) & (CR0.PG | CR0.PE | CR0.WP)) cpu.flushTlb(false);
  try {
    changeMode(cpu, OFF.cr0, BigInt(bits), ((bits ^ old) & CR0_PDPTE) !== 0);
  } catch (fault) {
    state.set32(OFF.efer, efer);
    cpu.modeChanged();
    throw fault;
  }
}

/**
 * Sets CR3.
 *
 * @throws {GuestFault} #GP(0) for reserved address bits in long mode.
 */
export function writeCr3(cpu: HelperCpu, value: bigint): void {
  const pcid = (cpu.state.get32(OFF.cr4) & CR4.PCIDE) !== 0;
  // With CR4.PCIDE, bit 63 only asks to keep translations.
  if (pcid) value = BigInt.asUintN(63, value);
  if (cpu.longMode && value & CR3_RESERVED_LONG) gp();
  cpu.flushTlb(true);
  changeMode(cpu, OFF.cr3, value, true);
}

/**
 * Sets CR4.
 *
 * @throws {GuestFault} #GP(0) for reserved bits and for leaving PAE in long mode.
 */
export function writeCr4(cpu: HelperCpu, value: bigint): void {
  const state = cpu.state;
  const old = state.get32(OFF.cr4);
  const bits = Number(value & 0xffff_ffffn);
  if (value >> 32n || bits & ~cr4Bits(cpu.model)) gp();
  if (cpu.longMode && !(bits & CR4.PAE)) gp();
  if (
    bits & ~old & CR4.PCIDE && (!cpu.longMode || state.get(OFF.cr3) & CR3_PCID)
  ) gp();
  if ((bits ^ old) & CR4_TLB) cpu.flushTlb(false);
  changeMode(cpu, OFF.cr4, value, ((bits ^ old) & CR4_PDPTE) !== 0);
}

function registerSize(insn: Insn): 4 | 8 {
  return insn.mode === 64 ? 8 : 4;
}

define(
  "mov",
  "0f 20 /r",
  "Rn, Cn",
  helper((cpu, insn) => {
    let value: bigint;
    switch (insn.reg) {
      case 0:
        value = cpu.state.get(OFF.cr0);
        break;
      case 2:
        value = cpu.state.get(OFF.cr2);
        break;
      case 3:
        value = cpu.state.get(OFF.cr3);
        break;
      case 4:
        value = cpu.state.get(OFF.cr4);
        break;
      case 8:
        value = BigInt(cpu.io.taskPriority);
        break;
      default:
        throw new GuestFault(VECTOR.UD);
    }
    requireCpl0(cpu);
    cpu.writeReg(insn, insn.rm, registerSize(insn), value);
  }),
  QUIET,
);
define(
  "mov",
  "0f 22 /r",
  "Cn, Rn",
  helper((cpu, insn) => {
    if (insn.reg > 8 || !((1 << insn.reg) & CONTROL_REGISTERS)) {
      throw new GuestFault(VECTOR.UD);
    }
    requireCpl0(cpu);
    const value = cpu.readReg(insn, insn.rm, registerSize(insn));
    switch (insn.reg) {
      case 0:
        if (value >> 32n) gp();
        writeCr0(cpu, Number(value));
        break;
      case 2:
        cpu.state.set(OFF.cr2, value);
        break;
      case 3:
        writeCr3(cpu, value);
        break;
      case 4:
        writeCr4(cpu, value);
        break;
      default:
        if (value > 15n) gp();
        cpu.io.taskPriority = Number(value);
        cpu.endBlock();
    }
  }),
  SYSTEM,
);
/** CR0, CR2, CR3, CR4, CR8. */
const CONTROL_REGISTERS = 0b1_0001_1101;

define(
  "smsw",
  "0f 01 /4",
  "Ev",
  helper((cpu, insn) => storeWord(cpu, insn, cpu.state.get(OFF.cr0))),
  QUIET,
);
define(
  "lmsw",
  "0f 01 /6",
  "Ew",
  helper((cpu, insn) => {
    requireCpl0(cpu);
    const old = cpu.state.get32(OFF.cr0);
    const value = Number(cpu.readRm(insn, 2));
    const mask = CR0.MP | CR0.EM | CR0.TS;
    // PE can be set but not cleared.
    writeCr0(cpu, (old & ~mask) | (value & mask) | (value & CR0.PE));
  }),
  SYSTEM,
);
define(
  "clts",
  "0f 06",
  "",
  helper((cpu) => {
    requireCpl0(cpu);
    const d = cpu.state.d;
    if (!(d[OFF.cr0 >> 2] & CR0.TS)) return;
    d[OFF.cr0 >> 2] &= ~CR0.TS;
    cpu.modeChanged();
  }),
  SYSTEM,
);

// --- Debug registers -------------------------------------------------------------------------------------------------

/** The register that ModRM.reg names: DR4 and DR5 are DR6 and DR7 unless CR4.DE. @throws {GuestFault} */
function debugRegister(cpu: HelperCpu, insn: Insn): number {
  let index = insn.reg;
  if (index > 7) throw new GuestFault(VECTOR.UD);
  if (index === 4 || index === 5) {
    if (cpu.state.get32(OFF.cr4) & CR4.DE) throw new GuestFault(VECTOR.UD);
    index += 2;
  }
  requireCpl0(cpu);
  if (cpu.state.d[(OFF.dr + 7 * 8) >> 2] & DR7.GD) {
    setDebugStatus(cpu, DR6.BD);
    throw new GuestFault(VECTOR.DB);
  }
  return index;
}

define(
  "mov",
  "0f 21 /r",
  "Rn, Dn",
  helper((cpu, insn) => {
    const index = debugRegister(cpu, insn);
    cpu.writeReg(
      insn,
      insn.rm,
      registerSize(insn),
      cpu.state.get(OFF.dr + index * 8),
    );
  }),
  QUIET,
);
define(
  "mov",
  "0f 23 /r",
  "Dn, Rn",
  helper((cpu, insn) => {
    const index = debugRegister(cpu, insn);
    let value = cpu.readReg(insn, insn.rm, registerSize(insn));
    if (index >= 6) {
      if (value >> 32n) gp();
      const low = Number(value);
      value = BigInt(
        (index === 6
          ? (low & DR6_WRITABLE) | DR6_FIXED
          : (low & DR7_WRITABLE) | DR7.FIXED) >>> 0,
      );
    }
    cpu.state.set(OFF.dr + index * 8, value);
    cpu.modeChanged();
  }),
  SYSTEM,
);

// --- Caches and translations -----------------------------------------------------------------------------------------

define(
  "invlpg",
  "0f 01 /7 m",
  "M",
  helper((cpu, insn) => {
    requireCpl0(cpu);
    const offset = cpu.effectiveAddress(insn);
    if (insn.mode === 64 && insn.segment < FS) {
      cpu.invalidatePage(offset);
      return;
    }
    const linear = segmentBase(cpu.state, insn.segment) + offset;
    cpu.invalidatePage(BigInt.asUintN(insn.mode === 64 ? 64 : 32, linear));
  }),
  SYSTEM,
);
// There is no cache to write back or to drop.
define("invd", "0f 08", "", helper(requireCpl0), QUIET);
define("wbinvd", "0f 09", "", helper(requireCpl0), QUIET);
// Nothing is in flight between instructions; the block ends, so what was modified is decoded again.
define(
  "serialize",
  "np 0f 01 e8",
  "",
  helper((cpu) => {
    if (!cpu.model.has("serialize")) throw new GuestFault(VECTOR.UD);
  }),
  SYSTEM,
);

// --- MSRs, time, CPUID -----------------------------------------------------------------------------------------------

/** Writes EDX:EAX from a 64-bit value, clearing the upper halves. */
function setEdxEax(cpu: HelperCpu, value: bigint): void {
  const d = cpu.state.d;
  quad[0] = value;
  d[RAX * 2] = words[0];
  d[RAX * 2 + 1] = 0;
  d[RDX * 2] = words[1];
  d[RDX * 2 + 1] = 0;
}

define(
  "rdmsr",
  "0f 32",
  "",
  helper((cpu) => {
    requireCpl0(cpu);
    setEdxEax(cpu, readMsr(cpu, cpu.state.d[RCX * 2]));
  }),
  QUIET,
);

const BASES: Readonly<Record<number, number>> = {
  [MSR.FS_BASE]: (OFF.segBase >> 2) + FS * 2,
  [MSR.GS_BASE]: (OFF.segBase >> 2) + GS * 2,
  [MSR.KERNEL_GS_BASE]: OFF.kernelGsBase >> 2,
};

define(
  "wrmsr",
  "0f 30",
  "",
  helper((cpu) => {
    requireCpl0(cpu);
    const d = cpu.state.d;
    const index = d[RCX * 2], lo = d[RAX * 2], hi = d[RDX * 2];
    // The bases are written on every task switch: no BigInt for them.
    if (index >= MSR.FS_BASE && index <= MSR.KERNEL_GS_BASE) {
      if (!canonicalHigh(hi)) gp();
      const field = BASES[index];
      d[field] = lo;
      d[field + 1] = hi;
      return;
    }
    words[0] = lo;
    words[1] = hi;
    writeMsr(cpu, index, quad[0]);
    cpu.endBlock();
  }),
  SYSTEM,
);

function requireTsc(cpu: HelperCpu): void {
  if (cpu.state.get32(OFF.cr4) & CR4.TSD && cpu.cpl !== 0) gp();
}

define(
  "rdtsc",
  "0f 31",
  "",
  helper((cpu) => {
    requireTsc(cpu);
    setEdxEax(cpu, readTsc(cpu));
  }),
  QUIET,
);
define(
  "rdtscp",
  "0f 01 f9",
  "",
  helper((cpu) => {
    if (!cpu.model.has("rdtscp")) throw new GuestFault(VECTOR.UD);
    requireTsc(cpu);
    setEdxEax(cpu, readTsc(cpu));
    cpu.state.d[RCX * 2] = cpu.state.get32(OFF.tscAux);
    cpu.state.d[RCX * 2 + 1] = 0;
  }),
  QUIET,
);
// There is no performance counter, so every number is out of range.
define("rdpmc", "0f 33", "", helper(gp), QUIET);

const APIC_GLOBAL_ENABLE = 1n << 11n;

function dynamicFeatures(cpu: HelperCpu): DynamicFeatures {
  const base = cpu.io.msrRead(MSR.APIC_BASE);
  return {
    apicEnabled: base !== undefined && (base & APIC_GLOBAL_ENABLE) !== 0n,
    osxsave: (cpu.state.get32(OFF.cr4) & CR4.OSXSAVE) !== 0,
  };
}

define(
  "cpuid",
  "0f a2",
  "",
  helper((cpu) => {
    const d = cpu.state.d;
    const result = cpu.model.cpuid(
      d[RAX * 2],
      d[RCX * 2],
      dynamicFeatures(cpu),
    );
    const registers = [RAX, RBX, RCX, RDX];
    for (let i = 0; i < 4; i++) {
      d[registers[i] * 2] = result[i];
      d[registers[i] * 2 + 1] = 0;
    }
  }),
  QUIET,
);
