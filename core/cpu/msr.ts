/**
 * Model-specific registers (Intel SDM vol. 4) as a table; the local APIC's are asked of the machine first.
 *
 * @module
 */
import { type Feature, PHYSICAL_BITS } from "./cpuid.ts";
import type { HelperCpu } from "./helper.ts";
import { isCanonical } from "./segments.ts";
import {
  type CpuState,
  CR0,
  EFER,
  FS,
  GS,
  GuestFault,
  OFF,
  VECTOR,
} from "./state.ts";

/** One register. */
export interface Msr {
  /** Name in SDM vol. 4. */
  readonly name: string;
  /** Without this feature the register does not exist. */
  readonly feature?: Feature;
  /** The value that RDMSR gives. */
  read(cpu: HelperCpu): bigint;
  /** Absent for registers that cannot be written (#GP). @throws {GuestFault} #GP(0) for a value that is not permitted. */
  write?(cpu: HelperCpu, value: bigint): void;
}

/** Architectural numbers of registers that other code names. */
export const MSR = {
  PLATFORM_ID: 0x17,
  APIC_BASE: 0x1b,
  TSC: 0x10,
  EBL_CR_POWERON: 0x2a,
  FEATURE_CONTROL: 0x3a,
  TSC_ADJUST: 0x3b,
  BIOS_UPDT_TRIG: 0x79,
  BIOS_SIGN_ID: 0x8b,
  MTRRCAP: 0xfe,
  ARCH_CAPABILITIES: 0x10a,
  SYSENTER_CS: 0x174,
  SYSENTER_ESP: 0x175,
  SYSENTER_EIP: 0x176,
  MCG_CAP: 0x179,
  MCG_STATUS: 0x17a,
  MISC_ENABLE: 0x1a0,
  DEBUGCTL: 0x1d9,
  MTRR_PHYSBASE0: 0x200,
  MTRR_FIX64K_00000: 0x250,
  MTRR_FIX16K_80000: 0x258,
  MTRR_FIX16K_A0000: 0x259,
  MTRR_FIX4K_C0000: 0x268,
  PAT: 0x277,
  MTRR_DEF_TYPE: 0x2ff,
  EFER: 0xc000_0080,
  STAR: 0xc000_0081,
  LSTAR: 0xc000_0082,
  CSTAR: 0xc000_0083,
  FMASK: 0xc000_0084,
  FS_BASE: 0xc000_0100,
  GS_BASE: 0xc000_0101,
  KERNEL_GS_BASE: 0xc000_0102,
  TSC_AUX: 0xc000_0103,
} as const;

const U32 = 0xffff_ffffn;

/** Reset values that are not zero. */
export const MSR_RESET = {
  /** WB, WT, UC-, UC, twice (SDM vol. 3, 12.12.4). */
  PAT: 0x0007_0406_0007_0406n,
  /** Fast strings; branch trace and PEBS unavailable. */
  MISC_ENABLE: 0x1801n,
  /** Locked by the firmware, no VMX. */
  FEATURE_CONTROL: 1,
} as const;

/** IA32_ARCH_CAPABILITIES: every "not affected" bit that is true of this processor (SDM vol. 4, 10AH). */
const ARCH_CAPABILITIES = [
  0, // RDCL_NO
  3, // SKIP_L1DFL_VMENTRY
  4, // SSB_NO
  5, // MDS_NO
  6, // IF_PSCHANGE_MC_NO
  8, // TAA_NO
  13, // SBDR_SSDP_NO
  14, // FBSDP_NO
  15, // PSDP_NO
  20, // BHI_NO
  24, // PBRSB_NO
  26, // GDS_NO
  27, // RFDS_NO
].reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);

/** Revision in the upper half, as processors report it. */
const MICROCODE_REVISION = 1n << 32n;
/** MTRRcap: 8 variable ranges, fixed ranges, write-combining. */
const MTRR_VARIABLE_RANGES = 8;
const MTRRCAP = BigInt(MTRR_VARIABLE_RANGES | (1 << 8) | (1 << 10));
/** Bits of IA32_MTRR_DEF_TYPE that exist. */
export const MTRR_DEF_TYPE_BITS = 0xcffn;
const MTRR_MASK_VALID = 1n << 11n;
const PHYSICAL_MASK = (1n << BigInt(PHYSICAL_BITS)) - 1n;
/** Bits of IA32_MISC_ENABLE that software may change: fast strings, CPUID limit, XD disable. */
export const MISC_ENABLE_WRITABLE = 1n | (1n << 3n) | (1n << 16n) |
  (1n << 18n) |
  (1n << 22n) | (1n << 34n);
/** Memory types: UC WC WT WP WB, and UC- in the PAT (SDM vol. 3, table 12-10). */
const MTRR_TYPES = 0b111_0011;
const PAT_TYPES = 0b1111_0011;
/** Bits of an MTRR mask that exist. */
const MTRR_MASK_BITS = (PHYSICAL_MASK & ~0xfffn) | MTRR_MASK_VALID;

function gp(): never {
  throw new GuestFault(VECTOR.GP, 0);
}

function typesOk(value: bigint, permitted: number): boolean {
  for (let i = 0; i < 8; i++) {
    const type = Number((value >> BigInt(i * 8)) & 0xffn);
    if (type > 7 || !((permitted >> type) & 1)) return false;
  }
  return true;
}

/** Whether IA32_PAT can have a value. */
export function isPat(value: bigint): boolean {
  return typesOk(value, PAT_TYPES);
}

/** Whether a fixed-range MTRR can have a value. */
export function isFixedMtrr(value: bigint): boolean {
  return typesOk(value, MTRR_TYPES);
}

/** Whether IA32_MTRR_PHYSBASE can have a value. */
export function isMtrrBase(value: bigint): boolean {
  const type = Number(value & 0xffn);
  return (value & ~(PHYSICAL_MASK & ~0xf00n)) === 0n && type <= 7 &&
    ((MTRR_TYPES >> type) & 1) !== 0;
}

/** Whether IA32_MTRR_PHYSMASK can have a value. */
export function isMtrrMask(value: bigint): boolean {
  return (value & ~MTRR_MASK_BITS) === 0n;
}

/** A register that is a state field and takes any value. */
function plain(name: string, offset: number, mask = U32 << 32n | U32): Msr {
  return {
    name,
    read: (cpu) => cpu.state.get(offset),
    write: (cpu, value) => value & ~mask ? gp() : cpu.state.set(offset, value),
  };
}

/** A state field that holds a canonical address. */
function address(name: string, offset: number): Msr {
  return {
    name,
    read: (cpu) => cpu.state.get(offset),
    write: (cpu, value) =>
      isCanonical(value) ? cpu.state.set(offset, value) : gp(),
  };
}

/** A value that never changes and cannot be written. */
function constant(name: string, value: bigint, feature?: Feature): Msr {
  return { name, feature, read: () => value };
}

/** Reads as zero, and only zero may be written. */
function zero(name: string): Msr {
  return {
    name,
    read: () => 0n,
    write: (_cpu, value) => value === 0n ? undefined : gp(),
  };
}

function timeStamp(cpu: HelperCpu): bigint {
  return BigInt.asUintN(64, cpu.io.tsc() + cpu.state.get(OFF.tscOffset));
}

/**
 * Sets IA32_EFER with its checks; LMA stays.
 *
 * @throws {GuestFault} #GP(0)
 */
export function writeEfer(cpu: HelperCpu, value: bigint): void {
  const state = cpu.state;
  const old = Number(state.get(OFF.efer));
  let permitted = 0;
  if (cpu.model.has("syscall")) permitted |= EFER.SCE;
  if (cpu.model.has("lm")) permitted |= EFER.LME | EFER.LMA;
  if (cpu.model.has("nx")) permitted |= EFER.NXE;
  if (value & ~BigInt(permitted)) gp();
  const bits = (Number(value) & ~EFER.LMA) | (old & EFER.LMA);
  if ((bits ^ old) & EFER.LME && state.get32(OFF.cr0) & CR0.PG) gp();
  state.set(OFF.efer, BigInt(bits));
  if ((bits ^ old) & EFER.NXE) cpu.flushTlb(false);
  cpu.modeChanged();
}

function buildTable(): ReadonlyMap<number, Msr> {
  const table = new Map<number, Msr>();
  const add = (index: number, msr: Msr) => table.set(index, msr);

  // P5 machine-check registers, which exist wherever MCE does.
  add(0x0, zero("P5_MC_ADDR"));
  add(0x1, zero("P5_MC_TYPE"));
  add(MSR.TSC, {
    name: "IA32_TIME_STAMP_COUNTER",
    read: timeStamp,
    write: (cpu, value) =>
      cpu.state.set(OFF.tscOffset, BigInt.asUintN(64, value - cpu.io.tsc())),
  });
  add(MSR.PLATFORM_ID, constant("IA32_PLATFORM_ID", 0n));
  add(MSR.EBL_CR_POWERON, zero("MSR_EBL_CR_POWERON"));
  add(MSR.FEATURE_CONTROL, {
    name: "IA32_FEATURE_CONTROL",
    read: () => BigInt(MSR_RESET.FEATURE_CONTROL),
  });
  // The offset is what software has added to the counter, so it is the adjustment.
  add(MSR.TSC_ADJUST, {
    ...plain("IA32_TSC_ADJUST", OFF.tscOffset),
    feature: "tsc_adjust",
  });
  // A microcode update is taken and changes nothing, as one for another processor.
  add(MSR.BIOS_UPDT_TRIG, {
    name: "IA32_BIOS_UPDT_TRIG",
    read: gp,
    write: () => {},
  });
  add(MSR.BIOS_SIGN_ID, {
    name: "IA32_BIOS_SIGN_ID",
    read: () => MICROCODE_REVISION,
    write: () => {},
  });
  add(MSR.MTRRCAP, constant("IA32_MTRRCAP", MTRRCAP, "mtrr"));
  add(
    MSR.ARCH_CAPABILITIES,
    constant("IA32_ARCH_CAPABILITIES", ARCH_CAPABILITIES, "arch_capabilities"),
  );
  add(MSR.SYSENTER_CS, plain("IA32_SYSENTER_CS", OFF.sysenterCs));
  add(MSR.SYSENTER_ESP, address("IA32_SYSENTER_ESP", OFF.sysenterEsp));
  add(MSR.SYSENTER_EIP, address("IA32_SYSENTER_EIP", OFF.sysenterEip));
  add(MSR.MCG_CAP, constant("IA32_MCG_CAP", 0n, "mca"));
  add(MSR.MCG_STATUS, { ...zero("IA32_MCG_STATUS"), feature: "mca" });
  add(MSR.MISC_ENABLE, {
    name: "IA32_MISC_ENABLE",
    read: (cpu) => cpu.state.get(OFF.miscEnable),
    write: (cpu, value) => {
      const old = cpu.state.get(OFF.miscEnable);
      cpu.state.set(
        OFF.miscEnable,
        (old & ~MISC_ENABLE_WRITABLE) | (value & MISC_ENABLE_WRITABLE),
      );
    },
  });
  add(MSR.DEBUGCTL, zero("IA32_DEBUGCTL"));

  for (let i = 0; i < MTRR_VARIABLE_RANGES; i++) {
    const base = OFF.mtrrVariable + i * 16;
    add(MSR.MTRR_PHYSBASE0 + i * 2, {
      name: `IA32_MTRR_PHYSBASE${i}`,
      feature: "mtrr",
      read: (cpu) => cpu.state.get(base),
      write: (cpu, value) =>
        isMtrrBase(value) ? cpu.state.set(base, value) : gp(),
    });
    add(MSR.MTRR_PHYSBASE0 + i * 2 + 1, {
      ...plain(
        `IA32_MTRR_PHYSMASK${i}`,
        base + 8,
        MTRR_MASK_BITS,
      ),
      feature: "mtrr",
    });
  }
  const fixed = [
    MSR.MTRR_FIX64K_00000,
    MSR.MTRR_FIX16K_80000,
    MSR.MTRR_FIX16K_A0000,
  ];
  for (let i = 0; i < 8; i++) {
    fixed.push((MSR.MTRR_FIX4K_C0000 + i) as typeof fixed[number]);
  }
  fixed.forEach((index, i) =>
    add(index, {
      name: `IA32_MTRR_FIX_${index.toString(16)}`,
      feature: "mtrr",
      read: (cpu) => cpu.state.get(OFF.mtrrFixed + i * 8),
      write: (cpu, value) =>
        isFixedMtrr(value) ? cpu.state.set(OFF.mtrrFixed + i * 8, value) : gp(),
    })
  );
  add(MSR.PAT, {
    name: "IA32_PAT",
    feature: "pat",
    read: (cpu) => cpu.state.get(OFF.pat),
    write: (cpu, value) => isPat(value) ? cpu.state.set(OFF.pat, value) : gp(),
  });
  add(MSR.MTRR_DEF_TYPE, {
    ...plain("IA32_MTRR_DEF_TYPE", OFF.mtrrDefType, MTRR_DEF_TYPE_BITS),
    feature: "mtrr",
  });

  add(MSR.EFER, {
    name: "IA32_EFER",
    read: (cpu) => cpu.state.get(OFF.efer),
    write: writeEfer,
  });
  add(MSR.STAR, plain("IA32_STAR", OFF.star));
  add(MSR.LSTAR, address("IA32_LSTAR", OFF.lstar));
  add(MSR.CSTAR, address("IA32_CSTAR", OFF.cstar));
  add(MSR.FMASK, plain("IA32_FMASK", OFF.fmask, U32));
  add(MSR.FS_BASE, address("IA32_FS_BASE", OFF.segBase + FS * 8));
  add(MSR.GS_BASE, address("IA32_GS_BASE", OFF.segBase + GS * 8));
  add(MSR.KERNEL_GS_BASE, address("IA32_KERNEL_GS_BASE", OFF.kernelGsBase));
  add(MSR.TSC_AUX, {
    ...plain("IA32_TSC_AUX", OFF.tscAux, U32),
    feature: "rdtscp",
  });
  return table;
}

/** The registers of the processor itself, by number. */
export const MSRS: ReadonlyMap<number, Msr> = buildTable();

function find(cpu: HelperCpu, index: number): Msr {
  const msr = MSRS.get(index);
  if (!msr || (msr.feature && !cpu.model.has(msr.feature))) gp();
  return msr;
}

/**
 * RDMSR without its privilege check.
 *
 * @throws {GuestFault} #GP(0) for a register that does not exist.
 */
export function readMsr(cpu: HelperCpu, index: number): bigint {
  index >>>= 0;
  return cpu.io.msrRead(index) ?? find(cpu, index).read(cpu);
}

/**
 * WRMSR without its privilege check.
 *
 * @throws {GuestFault} #GP(0) for a register that does not exist, cannot be written, or refuses the value.
 */
export function writeMsr(cpu: HelperCpu, index: number, value: bigint): void {
  index >>>= 0;
  if (cpu.io.msrWrite(index, value)) return;
  const msr = find(cpu, index);
  if (!msr.write) gp();
  msr.write(cpu, value);
}

/** Memory types of MTRRs. */
const UNCACHEABLE = 0n, WRITE_BACK = 6n;
/** IA32_MTRR_DEF_TYPE: E and FE. */
const MTRR_ENABLE = (1n << 11n) | (1n << 10n);
const EIGHT_WRITE_BACK = 0x0606_0606_0606_0606n;
/** The fixed ranges as state fields: those of A0000 to BFFFF. */
const FIXED_VGA = 2;
const FIXED_COUNT = 11;

/**
 * Sets the MTRRs as firmware leaves them: everything write-back but the VGA window and the hole below 4 GiB, where devices
 * are. For guests that are entered without firmware.
 *
 * @param hole First byte of the hole; a power-of-two distance below 4 GiB.
 */
export function setFirmwareMtrrs(state: CpuState, hole: number): void {
  for (let i = 0; i < FIXED_COUNT; i++) {
    state.set(OFF.mtrrFixed + i * 8, i === FIXED_VGA ? 0n : EIGHT_WRITE_BACK);
  }
  const size = (1n << 32n) - BigInt(hole);
  state.set(OFF.mtrrVariable, BigInt(hole) | UNCACHEABLE);
  state.set(
    OFF.mtrrVariable + 8,
    (PHYSICAL_MASK & ~(size - 1n)) | MTRR_MASK_VALID,
  );
  state.set(OFF.mtrrDefType, MTRR_ENABLE | WRITE_BACK);
}

/** The time-stamp counter as this vCPU reads it. */
export function readTsc(cpu: HelperCpu): bigint {
  return timeStamp(cpu);
}
