/**
 * Puts a saved state back into a vCPU: first checks it against what the architecture permits
 * (Intel SDM vol. 3, sections 2.5, 4.1 and 26.3), then writes it.
 *
 * @module
 */
import { SchemaError } from "../../snapshot/schema.ts";
import type { Cpu } from "./cpu.ts";
import type { CpuSaved } from "./saved.ts";
import {
  ATTR,
  CpuState,
  CR0,
  CR4,
  CS,
  EFER,
  FLAG,
  FS,
  GS,
  LDTR,
  OFF,
  SEGMENT_NAMES,
  ST_STRIDE,
  TR,
} from "./state.ts";

const DEBUG_REGISTERS = [0, 1, 2, 3, 6, 7];
const bits = (named: Readonly<Record<string, number>>) =>
  Object.values(named).reduce((all, bit) => all | BigInt(bit >>> 0), 0n);
const CR0_BITS = bits(CR0);
const CR4_BITS = bits(CR4);
const EFER_BITS = bits(EFER);
const RFLAGS_BITS = Number(bits(FLAG));
const ATTRIBUTE_BITS = Number(bits(ATTR));
/** Reserved bits of MXCSR are the upper half (vol. 1, 10.2.3). */
const MXCSR_BITS = 0xffff;
/** x87, SSE and AVX: the components that this vCPU can have. */
const XCR0_BITS = 7n;
/** Physical addresses are below 2^52. */
const CR3_LIMIT = 1n << 52n;
/** No-flush bit of CR3, never stored. */
const LOW_32 = 0xffff_ffffn;

function isCanonical(address: bigint): boolean {
  return BigInt.asUintN(64, BigInt.asIntN(48, address)) === address;
}

/**
 * Checks that a state is one that a vCPU can be in.
 *
 * @param saved A state that fits its schema.
 * @param path How errors name it.
 * @throws {SchemaError} Where it is not.
 */
export function checkCpu(saved: CpuSaved, path: string): void {
  const refuse = (field: string, value: bigint | number, expected: string) => {
    throw new SchemaError(
      `${path}.${field}`,
      `is 0x${value.toString(16)}: expected ${expected}`,
    );
  };
  const onlyBits = (field: string, value: bigint, permitted: bigint) => {
    if ((value & ~permitted) !== 0n) {
      refuse(field, value, `no bits but 0x${permitted.toString(16)}`);
    }
  };
  const canonical = (field: string, value: bigint) => {
    if (!isCanonical(value)) refuse(field, value, "a canonical address");
  };
  onlyBits("cr0", saved.cr0, CR0_BITS);
  onlyBits("cr4", saved.cr4, CR4_BITS);
  onlyBits("efer", saved.efer, EFER_BITS);
  onlyBits("rflags", BigInt(saved.rflags), BigInt(RFLAGS_BITS));
  onlyBits("mxcsr", BigInt(saved.mxcsr), BigInt(MXCSR_BITS));
  onlyBits("xcr0", saved.xcr0, XCR0_BITS);
  onlyBits("xss", saved.xss, 0n);
  if ((saved.xcr0 & 1n) === 0n || (saved.xcr0 & 6n) === 4n) {
    refuse("xcr0", saved.xcr0, "bit 0 set, and bit 1 where bit 2 is");
  }
  if (saved.cr3 >= CR3_LIMIT) refuse("cr3", saved.cr3, "a value below 2^52");
  const paging = (saved.cr0 & BigInt(CR0.PG)) !== 0n;
  const protectedMode = (saved.cr0 & BigInt(CR0.PE)) !== 0n;
  if (paging && !protectedMode) refuse("cr0", saved.cr0, "PE set where PG is");
  const longMode = (saved.efer & BigInt(EFER.LMA)) !== 0n;
  const longEnabled = (saved.efer & BigInt(EFER.LME)) !== 0n;
  if (longMode !== (longEnabled && paging)) {
    refuse("efer", saved.efer, "LMA set exactly where LME and CR0.PG are");
  }
  if (longMode && (saved.cr4 & BigInt(CR4.PAE)) === 0n) {
    refuse("cr4", saved.cr4, "PAE set in long mode");
  }
  if (longMode && (saved.rflags & FLAG.VM) !== 0) {
    refuse("rflags", saved.rflags, "VM clear in long mode");
  }
  saved.segments.forEach(({ base, attributes }, i) => {
    const field = `segments[${i}]`;
    onlyBits(
      `${field}.attributes`,
      BigInt(attributes),
      BigInt(ATTRIBUTE_BITS),
    );
    if (i === FS || i === GS || i === LDTR || i === TR) {
      canonical(`${field}.base`, base);
    } else if (base > LOW_32) {
      refuse(`${field}.base`, base, "32 bits");
    }
  });
  const code64 = longMode && (saved.segments[CS].attributes & ATTR.L) !== 0;
  if (code64) canonical("rip", saved.rip);
  else if (saved.rip > LOW_32) refuse("rip", saved.rip, "32 bits");
  canonical("gdt.base", saved.gdt.base);
  canonical("idt.base", saved.idt.base);
  for (
    const name of [
      "lstar",
      "cstar",
      "kernelGsBase",
      "sysenterEsp",
      "sysenterEip",
    ] as const
  ) canonical(`msrs.${name}`, saved.msrs[name]);
  for (let i = 0; i < 8; i++) {
    const type = Number((saved.msrs.pat >> BigInt(8 * i)) & 0xffn);
    if (type > 7 || type === 2 || type === 3) {
      refuse("msrs.pat", saved.msrs.pat, "memory types 0, 1 and 4 to 7");
    }
  }
}

/**
 * Puts a state into a vCPU that is not running.
 *
 * @param cpu The vCPU.
 * @param saved A state that {@linkcode checkCpu} has accepted.
 * @param retired Instructions that it had retired.
 */
export function restoreCpu(cpu: Cpu, saved: CpuSaved, retired: number): void {
  cpu.reset();
  const s = cpu.state;
  const many = (offset: number, values: readonly bigint[]) =>
    values.forEach((value, i) => s.set(offset + 8 * i, value));
  many(OFF.gpr, saved.gpr);
  s.set(OFF.rip, saved.rip);
  s.rflags = saved.rflags;
  SEGMENT_NAMES.forEach((_, i) => {
    const { selector, base, limit, attributes } = saved.segments[i];
    s.set32(OFF.segSelector + 4 * i, selector);
    s.set(OFF.segBase + 8 * i, base);
    s.set32(OFF.segLimit + 4 * i, limit);
    s.set32(OFF.segAttr + 4 * i, attributes);
  });
  s.set(OFF.gdtBase, saved.gdt.base);
  s.set32(OFF.gdtLimit, saved.gdt.limit);
  s.set(OFF.idtBase, saved.idt.base);
  s.set32(OFF.idtLimit, saved.idt.limit);
  s.set(OFF.cr0, saved.cr0);
  s.set(OFF.cr2, saved.cr2);
  s.set(OFF.cr3, saved.cr3);
  s.set(OFF.cr4, saved.cr4);
  s.set32(OFF.cr8, saved.cr8);
  many(OFF.pdpte, saved.pdptes);
  s.set(OFF.efer, saved.efer);
  DEBUG_REGISTERS.forEach((register, i) =>
    s.set(OFF.dr + 8 * register, saved.debug[i])
  );
  const { x87, msrs } = saved;
  s.set32(OFF.fcw, x87.control);
  s.set32(OFF.fsw, x87.status);
  s.set32(OFF.ftw, x87.tags);
  s.set32(OFF.fop, x87.opcode);
  s.set(OFF.fip, x87.instruction);
  s.set32(OFF.fcs, x87.instructionSelector);
  s.set(OFF.fdp, x87.operand);
  s.set32(OFF.fds, x87.operandSelector);
  x87.registers.forEach((value, i) => s.b.set(value, OFF.st + i * ST_STRIDE));
  s.set32(OFF.mxcsr, saved.mxcsr);
  saved.vector.forEach((value, i) => s.b.set(value, CpuState.xmm(i)));
  s.set(OFF.xcr0, saved.xcr0);
  s.set(OFF.xss, saved.xss);
  s.set(OFF.star, msrs.star);
  s.set(OFF.lstar, msrs.lstar);
  s.set(OFF.cstar, msrs.cstar);
  s.set(OFF.fmask, msrs.fmask);
  s.set(OFF.kernelGsBase, msrs.kernelGsBase);
  s.set(OFF.sysenterCs, msrs.sysenterCs);
  s.set(OFF.sysenterEsp, msrs.sysenterEsp);
  s.set(OFF.sysenterEip, msrs.sysenterEip);
  s.set(OFF.pat, msrs.pat);
  s.set(OFF.tscAux, msrs.tscAux);
  s.set(OFF.tscOffset, msrs.tscOffset);
  s.set(OFF.miscEnable, msrs.miscEnable);
  s.set(OFF.mtrrDefType, msrs.mtrrDefType);
  many(OFF.mtrrFixed, msrs.mtrrFixed);
  many(OFF.mtrrVariable, msrs.mtrrVariable);
  cpu.mmu.a20 = saved.a20;
  cpu.resumeFrom(
    {
      halted: saved.halted,
      shutdown: saved.shutdown,
      nmiPending: saved.nmiPending,
      nmiBlocked: saved.nmiBlocked,
      inhibited: saved.inhibited,
    },
    retired,
  );
}
