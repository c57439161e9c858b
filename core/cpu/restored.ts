/**
 * Puts a saved state, which `check_saved.ts` has accepted, back into a vCPU.
 *
 * @module
 */
import type { Cpu } from "./cpu.ts";
import { type CpuSaved, DEBUG_REGISTERS } from "./saved.ts";
import { CpuState, OFF, SEGMENT_NAMES, ST_STRIDE } from "./state.ts";

/**
 * Puts a state into a vCPU that is not running.
 *
 * @param cpu The vCPU.
 * @param saved A state that `checkCpu` has accepted.
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
