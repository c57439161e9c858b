/**
 * What a saved vCPU may be: a state that instructions can bring about (Intel SDM vol. 3, sections 2.5, 4.1, 9.9
 * and 26.3.1, which is the same for virtual machines).
 *
 * @module
 */
import { SchemaError } from "../../snapshot/schema.ts";
import { CpuModel, cr4Bits, PHYSICAL_BITS } from "./cpuid.ts";
import { DR6_FIXED, DR6_WRITABLE, DR7, DR7_WRITABLE } from "./exceptions.ts";
import { ALL_EXCEPTIONS } from "./float/env.ts";
import { CW_FIXED, CW_WRITABLE, SW } from "./isa/x87_state.ts";
import {
  isFixedMtrr,
  isMtrrBase,
  isMtrrMask,
  isPat,
  MISC_ENABLE_WRITABLE,
  MSR_RESET,
  MTRR_DEF_TYPE_BITS,
} from "./msr.ts";
import { isPdpte } from "./pdpte.ts";
import type { CpuSaved } from "./saved.ts";
import { isCanonical, SYSTEM_TYPE, TYPE, V86_ATTR } from "./segments.ts";
import {
  ATTR,
  CR0,
  CR4,
  CS,
  EFER,
  FLAG,
  FS,
  GS,
  LDTR,
  SEGMENT_NAMES,
  SS,
  TR,
} from "./state.ts";

const bits = (named: Readonly<Record<string, number>>) =>
  Object.values(named).reduce((all, bit) => all | BigInt(bit >>> 0), 0n);
const CR0_BITS = bits(CR0);
const EFER_BITS = bits(EFER);
const RFLAGS_BITS = bits(FLAG);
const ATTRIBUTE_BITS = bits(ATTR);
/** Reserved bits of MXCSR are the upper half (vol. 1, 10.2.3). */
const MXCSR_BITS = 0xffffn;
/** The x87 opcode is of 11 bits (vol. 1, 8.1.9). */
const FOP_BITS = 0x7ffn;
const PHYSICAL_LIMIT = 1n << BigInt(PHYSICAL_BITS);
const LOW_32 = 0xffff_ffffn;
/** One past the lower half: where code runs on to from the last byte of it, to fault there. */
const LOWER_HALF_END = 0x8000_0000_0000n;
/** Of a limit in bytes: what a granular one has set, and what one that is not does not reach. */
const GRANULE = 0xfff;
const SMALL_LIMIT = 0xfffff;
const V86_LIMIT = 0xffff;
const DATA_WRITABLE = TYPE.WRITABLE;

type Refuse = (
  field: string,
  value: bigint | number,
  expected: string,
) => never;

/** The modes of a state, as the checks ask for them. */
interface Modes {
  paging: boolean;
  protectedMode: boolean;
  longMode: boolean;
  v86: boolean;
}

/**
 * Checks that a state is one that a vCPU can be in.
 *
 * @param saved A state that fits its schema.
 * @param path How errors name it.
 * @param model The vCPU's model.
 * @throws {SchemaError} Where it is not.
 */
export function checkCpu(
  saved: CpuSaved,
  path: string,
  model: CpuModel = new CpuModel("v2", 0),
): void {
  const refuse: Refuse = (field, value, expected) => {
    throw new SchemaError(
      `${path}.${field}`,
      `is 0x${value.toString(16)}: expected ${expected}`,
    );
  };
  const modes = checkModes(saved, model, refuse);
  checkSegments(saved, modes, refuse);
  checkDebug(saved, refuse);
  checkFloat(saved, model, refuse);
  checkMsrs(saved, refuse);
}

function onlyBits(
  refuse: Refuse,
  field: string,
  value: bigint,
  permitted: bigint,
): void {
  if ((value & ~permitted) !== 0n) {
    refuse(field, value, `no bits but 0x${permitted.toString(16)}`);
  }
}

function checkModes(
  { cr0, cr3, cr4, efer, rflags, pdptes }: CpuSaved,
  model: CpuModel,
  refuse: Refuse,
): Modes {
  onlyBits(refuse, "cr0", cr0, CR0_BITS);
  onlyBits(refuse, "cr4", cr4, BigInt(cr4Bits(model) >>> 0));
  onlyBits(refuse, "efer", efer, EFER_BITS);
  onlyBits(refuse, "rflags", BigInt(rflags), RFLAGS_BITS);
  if ((rflags & FLAG.FIXED) === 0) refuse("rflags", rflags, "bit 1 set");
  const has = (register: bigint, bit: number) =>
    (register & BigInt(bit >>> 0)) !== 0n;
  const modes: Modes = {
    paging: has(cr0, CR0.PG),
    protectedMode: has(cr0, CR0.PE),
    longMode: has(efer, EFER.LMA),
    v86: (rflags & FLAG.VM) !== 0,
  };
  const { paging, protectedMode, longMode, v86 } = modes;
  if (!has(cr0, CR0.ET)) refuse("cr0", cr0, "ET set");
  if (has(cr0, CR0.NW) && !has(cr0, CR0.CD)) {
    refuse("cr0", cr0, "CD set where NW is");
  }
  if (paging && !protectedMode) refuse("cr0", cr0, "PE set where PG is");
  if (cr3 >= PHYSICAL_LIMIT) {
    refuse("cr3", cr3, `a value below 2^${PHYSICAL_BITS}`);
  }
  if (longMode !== (has(efer, EFER.LME) && paging)) {
    refuse("efer", efer, "LMA set exactly where LME and CR0.PG are");
  }
  if (longMode && !has(cr4, CR4.PAE)) {
    refuse("cr4", cr4, "PAE set in long mode");
  }
  if (!longMode && has(cr4, CR4.PCIDE)) {
    refuse("cr4", cr4, "PCIDE clear outside long mode");
  }
  if (v86 && (longMode || !protectedMode)) {
    refuse("rflags", rflags, "VM clear but in legacy protected mode");
  }
  if (paging && !longMode && has(cr4, CR4.PAE)) {
    pdptes.forEach((entry, i) => {
      if (!isPdpte(entry)) {
        refuse(`pdptes[${i}]`, entry, "reserved bits clear where P is set");
      }
    });
  }
  return modes;
}

/** 26.3.1.2, as far as it holds for a vCPU that also runs in real mode and changes between modes. */
function checkSegments(saved: CpuSaved, modes: Modes, refuse: Refuse): void {
  const { longMode, protectedMode, v86 } = modes;
  saved.segments.forEach(({ selector, base, limit, attributes }, i) => {
    const field = `segments[${i}]`;
    const wrong = (expected: string) =>
      refuse(
        `${field}.attributes`,
        attributes,
        `${SEGMENT_NAMES[i].toUpperCase()} with ${expected}`,
      );
    onlyBits(
      refuse,
      `${field}.attributes`,
      BigInt(attributes),
      ATTRIBUTE_BITS,
    );
    if (i === FS || i === GS || i === LDTR || i === TR) {
      if (!isCanonical(base)) {
        refuse(`${field}.base`, base, "a canonical address");
      }
    } else if (base > LOW_32) {
      refuse(`${field}.base`, base, "32 bits");
    }
    if ((attributes & ATTR.UNUSABLE) !== 0) {
      if (i === CS || i === TR) wrong("a descriptor");
      return;
    }
    if ((attributes & ATTR.P) === 0) wrong("P set");
    const granular = (attributes & ATTR.G) !== 0;
    if (granular ? (limit & GRANULE) !== GRANULE : limit > SMALL_LIMIT) {
      refuse(`${field}.limit`, limit, "one that fits the G attribute");
    }
    const type = attributes & ATTR.TYPE;
    const isSystem = (attributes & ATTR.S) === 0;
    if (isSystem !== (i === LDTR || i === TR)) {
      wrong(isSystem ? "S set" : "S clear");
    }
    if (i === LDTR) {
      if (type !== SYSTEM_TYPE.LDT) wrong("type 2");
      return;
    }
    if (i === TR) {
      if (
        type !== SYSTEM_TYPE.BUSY_TSS32 &&
        (longMode || type !== SYSTEM_TYPE.BUSY_TSS16)
      ) wrong(`the type of a busy TSS`);
      return;
    }
    if (v86) {
      if (attributes !== V86_ATTR || limit !== V86_LIMIT) {
        wrong("limit and attributes of virtual-8086 mode");
      }
      if (base !== BigInt(selector << 4)) {
        refuse(`${field}.base`, base, "16 times the selector");
      }
      return;
    }
    const isCode = (type & TYPE.CODE) !== 0;
    if (i === CS && !isCode) wrong("a code segment");
    if (i === SS && (isCode || (type & DATA_WRITABLE) === 0)) {
      wrong("a writable data segment");
    }
    if (i !== CS && isCode && (type & TYPE.READABLE) === 0) {
      wrong("a readable segment");
    }
  });
  const { attributes } = saved.segments[CS];
  const code64 = longMode && (attributes & ATTR.L) !== 0;
  if (code64 && (attributes & ATTR.DB) !== 0) {
    refuse(`segments[${CS}].attributes`, attributes, "D clear where L is set");
  }
  if (protectedMode && !v86) {
    const dpl = attributes & ATTR.DPL;
    const cpl = saved.segments[SS].attributes & ATTR.DPL;
    const conforming = (attributes & TYPE.CONFORMING) !== 0;
    if (conforming ? dpl > cpl : dpl !== cpl) {
      refuse(
        `segments[${CS}].attributes`,
        attributes,
        `a DPL that fits SS's, ${cpl >> 5}`,
      );
    }
  }
  const { rip } = saved;
  if (code64) {
    if (!isCanonical(rip) && rip !== LOWER_HALF_END) {
      refuse("rip", rip, "a canonical address");
    }
  } else if (rip > LOW_32) refuse("rip", rip, "32 bits");
  for (const table of ["gdt", "idt"] as const) {
    const { base } = saved[table];
    if (!isCanonical(base)) {
      refuse(`${table}.base`, base, "a canonical address");
    }
  }
}

function checkDebug({ debug }: CpuSaved, refuse: Refuse): void {
  const [, , , , dr6, dr7] = debug;
  const fixed = (
    field: string,
    value: bigint,
    permitted: number,
    ones: number,
  ) => {
    if ((value & ~BigInt(permitted >>> 0)) !== BigInt(ones >>> 0)) {
      refuse(field, value, `0x${(ones >>> 0).toString(16)} in reserved bits`);
    }
  };
  fixed("debug[4]", dr6, DR6_WRITABLE, DR6_FIXED);
  fixed("debug[5]", dr7, DR7_WRITABLE, DR7.FIXED);
}

function checkFloat(
  { x87, mxcsr, xcr0, xss }: CpuSaved,
  model: CpuModel,
  refuse: Refuse,
): void {
  if ((x87.control & ~CW_WRITABLE) !== CW_FIXED) {
    refuse(
      "x87.control",
      x87.control,
      `0x${CW_FIXED.toString(16)} in reserved bits`,
    );
  }
  const pending = (x87.status & ~x87.control & ALL_EXCEPTIONS) !== 0;
  if ((x87.status & (SW.ES | SW.B)) !== (pending ? SW.ES | SW.B : 0)) {
    refuse(
      "x87.status",
      x87.status,
      "ES and B set exactly where an unmasked exception is",
    );
  }
  onlyBits(refuse, "x87.opcode", BigInt(x87.opcode), FOP_BITS);
  onlyBits(refuse, "mxcsr", BigInt(mxcsr), MXCSR_BITS);
  const components = model.has("avx") ? 7n : model.has("xsave") ? 3n : 1n;
  onlyBits(refuse, "xcr0", xcr0, components);
  onlyBits(refuse, "xss", xss, 0n);
  if ((xcr0 & 1n) === 0n || (xcr0 & 6n) === 4n) {
    refuse("xcr0", xcr0, "bit 0 set, and bit 1 where bit 2 is");
  }
}

function checkMsrs({ msrs }: CpuSaved, refuse: Refuse): void {
  for (
    const name of [
      "lstar",
      "cstar",
      "kernelGsBase",
      "sysenterEsp",
      "sysenterEip",
    ] as const
  ) {
    if (!isCanonical(msrs[name])) {
      refuse(`msrs.${name}`, msrs[name], "a canonical address");
    }
  }
  onlyBits(refuse, "msrs.fmask", msrs.fmask, LOW_32);
  onlyBits(refuse, "msrs.tscAux", msrs.tscAux, LOW_32);
  const fixed = MSR_RESET.MISC_ENABLE & ~MISC_ENABLE_WRITABLE;
  if ((msrs.miscEnable & ~MISC_ENABLE_WRITABLE) !== fixed) {
    refuse(
      "msrs.miscEnable",
      msrs.miscEnable,
      `0x${fixed.toString(16)} in read-only bits`,
    );
  }
  if (!isPat(msrs.pat)) {
    refuse("msrs.pat", msrs.pat, "memory types 0, 1 and 4 to 7");
  }
  onlyBits(refuse, "msrs.mtrrDefType", msrs.mtrrDefType, MTRR_DEF_TYPE_BITS);
  msrs.mtrrFixed.forEach((value, i) => {
    if (!isFixedMtrr(value)) {
      refuse(`msrs.mtrrFixed[${i}]`, value, "memory types 0, 1 and 4 to 6");
    }
  });
  msrs.mtrrVariable.forEach((value, i) => {
    if (!(i % 2 === 0 ? isMtrrBase(value) : isMtrrMask(value))) {
      refuse(`msrs.mtrrVariable[${i}]`, value, "reserved bits clear");
    }
  });
}
