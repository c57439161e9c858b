/**
 * Fast system calls and the GS and FS bases (Intel SDM vol. 2: SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, RDFSBASE).
 *
 * @module
 */
import type { HelperCpu, Insn } from "../helper.ts";
import {
  canonicalHigh,
  ERROR_SELECTOR,
  FLAT_CODE32,
  FLAT_CODE64,
  FLAT_DATA,
  isCanonical,
  isNull,
  setSegment,
} from "../segments.ts";
import {
  ATTR,
  CR4,
  CS,
  EFER,
  FLAG,
  FS,
  GS,
  GuestFault,
  OFF,
  R11,
  RCX,
  RDX,
  RSP,
  SS,
  VECTOR,
} from "../state.ts";
import { define, helper } from "./define.ts";
import { requireCpl0 } from "./interrupts.ts";

const FLAT_LIMIT = 0xffff_ffff;
/** Flags that SYSRET takes from R11. */
const SYSRET_FLAGS = 0x3c7fd7;
/** Distances of the selectors that SYSRET and SYSEXIT derive (SDM vol. 2). */
const SYSRET_CS64 = 16, SYSRET_SS = 8;
const SYSEXIT_CS = 16, SYSEXIT_SS = 24, SYSEXIT_CS64 = 32, SYSEXIT_SS64 = 40;
const USER_RPL = 3;
const STAR_HIGH = (OFF.star >> 2) + 1;

function setFlat(
  cpu: HelperCpu,
  cs: number,
  ss: number,
  codeAttr: number,
  cpl: number,
): void {
  const state = cpu.state;
  const dpl = cpl === 3 ? ATTR.DPL : 0;
  setSegment(state, CS, cs, 0, FLAT_LIMIT, codeAttr | dpl);
  setSegment(state, SS, ss, 0, FLAT_LIMIT, FLAT_DATA | dpl);
  state.d[OFF.cpl >> 2] = cpl;
}

/** SYSCALL: on this vendor's processors only 64-bit code has it. */
export function syscall(cpu: HelperCpu): void {
  const state = cpu.state;
  const d = state.d;
  if (!cpu.code64 || !(d[OFF.efer >> 2] & EFER.SCE)) {
    throw new GuestFault(VECTOR.UD);
  }
  const flags = state.rflags & ~FLAG.RF;
  state.q[RCX] = cpu.nextRip;
  d[R11 * 2] = flags;
  d[R11 * 2 + 1] = 0;
  state.rflags = flags & ~d[OFF.fmask >> 2];
  if (d[OFF.fmask >> 2] & FLAG.TF) cpu.cancelStep();
  const selector = d[STAR_HIGH] & ERROR_SELECTOR;
  setFlat(cpu, selector, (selector + SYSRET_SS) & 0xffff, FLAT_CODE64, 0);
  cpu.modeChanged();
  cpu.jump(state.q[OFF.lstar >> 3]);
}

/** SYSRET. */
export function sysret(cpu: HelperCpu, insn: Insn): void {
  const state = cpu.state;
  const d = state.d;
  if (!cpu.code64 || !(d[OFF.efer >> 2] & EFER.SCE)) {
    throw new GuestFault(VECTOR.UD);
  }
  requireCpl0(cpu);
  const base = d[STAR_HIGH] >>> 16;
  const wide = insn.rexW;
  if (wide && !canonicalHigh(d[RCX * 2 + 1])) {
    throw new GuestFault(VECTOR.GP, 0);
  }
  state.rflags = (d[R11 * 2] & SYSRET_FLAGS) | FLAG.FIXED;
  const cs = ((wide ? base + SYSRET_CS64 : base) & 0xffff) | USER_RPL;
  setFlat(
    cpu,
    cs,
    ((base + SYSRET_SS) & 0xffff) | USER_RPL,
    wide ? FLAT_CODE64 : FLAT_CODE32,
    3,
  );
  cpu.modeChanged();
  cpu.jump(wide ? state.q[RCX] : BigInt(d[RCX * 2]));
}

function sysenter(cpu: HelperCpu): void {
  const state = cpu.state;
  const base = state.get32(OFF.sysenterCs) & 0xffff;
  if (!cpu.protectedMode && !cpu.v86 || isNull(base)) {
    throw new GuestFault(VECTOR.GP, 0);
  }
  const long = cpu.longMode;
  const cs = base & ERROR_SELECTOR;
  state.d[OFF.rflags >> 2] &= ~(FLAG.VM | FLAG.IF | FLAG.RF);
  const esp = state.get(OFF.sysenterEsp), eip = state.get(OFF.sysenterEip);
  state.q[RSP] = long ? esp : esp & 0xffff_ffffn;
  setFlat(
    cpu,
    cs,
    (cs + SYSRET_SS) & 0xffff,
    long ? FLAT_CODE64 : FLAT_CODE32,
    0,
  );
  cpu.modeChanged();
  cpu.jump(long ? eip : eip & 0xffff_ffffn);
}

function sysexit(cpu: HelperCpu, insn: Insn): void {
  const state = cpu.state;
  const base = state.get32(OFF.sysenterCs) & 0xffff;
  if (!cpu.protectedMode || isNull(base) || cpu.cpl !== 0) {
    throw new GuestFault(VECTOR.GP, 0);
  }
  const wide = insn.rexW && cpu.code64;
  const rip = state.q[RDX], rsp = state.q[RCX];
  if (wide && !(isCanonical(rip) && isCanonical(rsp))) {
    throw new GuestFault(VECTOR.GP, 0);
  }
  const cs = ((base + (wide ? SYSEXIT_CS64 : SYSEXIT_CS)) & 0xffff) | USER_RPL;
  const ss = ((base + (wide ? SYSEXIT_SS64 : SYSEXIT_SS)) & 0xffff) | USER_RPL;
  state.q[RSP] = wide ? rsp : rsp & 0xffff_ffffn;
  setFlat(cpu, cs, ss, wide ? FLAT_CODE64 : FLAT_CODE32, 3);
  cpu.modeChanged();
  cpu.jump(wide ? rip : rip & 0xffff_ffffn);
}

const TRANSFER = { ends: true, noOracle: true } as const;
define("syscall", "0f 05", "", helper(syscall), TRANSFER);
define("sysret", "0f 07", "", helper(sysret), TRANSFER);
define("sysenter", "0f 34", "", helper(sysenter), TRANSFER);
define("sysexit", "0f 35", "", helper(sysexit), TRANSFER);

const GS_BASE = (OFF.segBase >> 2) + GS * 2;
const KERNEL_GS_BASE = OFF.kernelGsBase >> 2;

define(
  "swapgs",
  "0f 01 f8",
  "",
  helper((cpu) => {
    if (!cpu.code64) throw new GuestFault(VECTOR.UD);
    requireCpl0(cpu);
    const d = cpu.state.d;
    const lo = d[GS_BASE], hi = d[GS_BASE + 1];
    d[GS_BASE] = d[KERNEL_GS_BASE];
    d[GS_BASE + 1] = d[KERNEL_GS_BASE + 1];
    d[KERNEL_GS_BASE] = lo;
    d[KERNEL_GS_BASE + 1] = hi;
  }),
  { noOracle: true },
);

function requireFsGsBase(cpu: HelperCpu): void {
  if (!cpu.code64 || !(cpu.state.get32(OFF.cr4) & CR4.FSGSBASE)) {
    throw new GuestFault(VECTOR.UD);
  }
}

function defineBase(
  segment: number,
  suffix: string,
  readDigit: number,
  writeDigit: number,
): void {
  const offset = OFF.segBase + segment * 8;
  define(
    `rd${suffix}`,
    `f3 0f ae /${readDigit} r`,
    "Ry",
    helper((cpu, insn) => {
      requireFsGsBase(cpu);
      cpu.writeReg(insn, insn.rm, insn.rexW ? 8 : 4, cpu.state.get(offset));
    }),
    { longOnly: true, noOracle: true },
  );
  define(
    `wr${suffix}`,
    `f3 0f ae /${writeDigit} r`,
    "Ry",
    helper((cpu, insn) => {
      requireFsGsBase(cpu);
      const value = cpu.readReg(insn, insn.rm, insn.rexW ? 8 : 4);
      if (!isCanonical(value)) throw new GuestFault(VECTOR.GP, 0);
      cpu.state.set(offset, value);
    }),
    { longOnly: true, noOracle: true },
  );
}

defineBase(FS, "fsbase", 0, 2);
defineBase(GS, "gsbase", 1, 3);
