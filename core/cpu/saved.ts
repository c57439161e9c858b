/**
 * A vCPU's state as a snapshot and the state hash have it: everything architectural, lazy flags
 * made real, nothing of the engine's own.
 *
 * @module
 */
import {
  bool,
  bytes,
  type Infer,
  list,
  record,
  schema,
  u16,
  u32,
  u64,
  u8,
} from "../../snapshot/schema.ts";
import type { Cpu } from "./cpu.ts";
import { PDPTES } from "./pdpte.ts";
import {
  CpuState,
  GPR_NAMES,
  OFF,
  SEGMENT_NAMES,
  ST_STRIDE,
  XMM_STRIDE,
} from "./state.ts";

/** Bytes of an x87 register. */
const ST_BYTES = 10;
const X87_REGISTERS = 8;
/** The debug registers that are saved, in this order. */
export const DEBUG_REGISTERS = [0, 1, 2, 3, 6, 7];
const MTRR_FIXED = 11;
const MTRR_VARIABLE = 16;

/** Saved state of a vCPU. */
export const cpuSchema = schema("cpu", 1, {
  /** General registers in encoding order: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15. */
  gpr: list(u64(), { length: GPR_NAMES.length }),
  rip: u64(),
  rflags: u32(),
  /** ES, CS, SS, DS, FS, GS, LDTR, TR with their hidden parts. */
  segments: list(
    record({ selector: u16(), base: u64(), limit: u32(), attributes: u32() }),
    { length: SEGMENT_NAMES.length },
  ),
  gdt: record({ base: u64(), limit: u16() }),
  idt: record({ base: u64(), limit: u16() }),
  cr0: u64(),
  cr2: u64(),
  cr3: u64(),
  cr4: u64(),
  /** CR8 of a vCPU without a local APIC; with one it is that one's task priority. */
  cr8: u8({ max: 15 }),
  /** What CR3 stands for under PAE paging. */
  pdptes: list(u64(), { length: PDPTES }),
  efer: u64(),
  /** DR0 to DR3, DR6, DR7. */
  debug: list(u64(), { length: DEBUG_REGISTERS.length }),
  x87: record({
    control: u16(),
    status: u16(),
    /** Bit i set: physical register i is not empty. */
    tags: u8(),
    opcode: u16(),
    instruction: u64(),
    instructionSelector: u16(),
    operand: u64(),
    operandSelector: u16(),
    /** Physical registers, 80 bits each; MMX registers are their low 64 bits. */
    registers: list(bytes(ST_BYTES), { length: X87_REGISTERS }),
  }),
  mxcsr: u32(),
  /** YMM registers. */
  vector: list(bytes(XMM_STRIDE), { length: GPR_NAMES.length }),
  xcr0: u64(),
  xss: u64(),
  msrs: record({
    star: u64(),
    lstar: u64(),
    cstar: u64(),
    fmask: u64(),
    kernelGsBase: u64(),
    sysenterCs: u64(),
    sysenterEsp: u64(),
    sysenterEip: u64(),
    pat: u64(),
    tscAux: u64(),
    tscOffset: u64(),
    miscEnable: u64(),
    mtrrDefType: u64(),
    mtrrFixed: list(u64(), { length: MTRR_FIXED }),
    mtrrVariable: list(u64(), { length: MTRR_VARIABLE }),
  }),
  a20: bool(),
  halted: bool(),
  shutdown: bool(),
  nmiPending: bool(),
  nmiBlocked: bool(),
  /** Interrupts are held off for one instruction: MOV SS, POP SS, STI. */
  inhibited: bool(),
});

/** Saved state of a vCPU. */
export type CpuSaved = Infer<typeof cpuSchema>;

/**
 * Takes the state of a vCPU that is not running; changes nothing in it.
 *
 * @param cpu The vCPU.
 * @returns Its architectural state.
 */
export function saveCpu(cpu: Cpu): CpuSaved {
  const s = cpu.state;
  const many = (offset: number, count: number) =>
    Array.from({ length: count }, (_, i) => s.get(offset + 8 * i));
  const low16 = (offset: number) => s.get32(offset) & 0xffff;
  const slice = (offset: number, length: number) =>
    s.b.slice(offset, offset + length);
  return {
    gpr: many(OFF.gpr, GPR_NAMES.length),
    rip: s.get(OFF.rip),
    rflags: s.rflags >>> 0,
    segments: SEGMENT_NAMES.map((_, i) => ({
      selector: low16(OFF.segSelector + 4 * i),
      base: s.get(OFF.segBase + 8 * i),
      limit: s.get32(OFF.segLimit + 4 * i),
      attributes: s.get32(OFF.segAttr + 4 * i),
    })),
    gdt: { base: s.get(OFF.gdtBase), limit: low16(OFF.gdtLimit) },
    idt: { base: s.get(OFF.idtBase), limit: low16(OFF.idtLimit) },
    cr0: s.get(OFF.cr0),
    cr2: s.get(OFF.cr2),
    cr3: s.get(OFF.cr3),
    cr4: s.get(OFF.cr4),
    cr8: s.get32(OFF.cr8),
    pdptes: many(OFF.pdpte, PDPTES),
    efer: s.get(OFF.efer),
    debug: DEBUG_REGISTERS.map((i) => s.get(OFF.dr + 8 * i)),
    x87: {
      control: low16(OFF.fcw),
      status: low16(OFF.fsw),
      tags: s.get32(OFF.ftw) & 0xff,
      opcode: low16(OFF.fop),
      instruction: s.get(OFF.fip),
      instructionSelector: low16(OFF.fcs),
      operand: s.get(OFF.fdp),
      operandSelector: low16(OFF.fds),
      registers: Array.from(
        { length: X87_REGISTERS },
        (_, i) => slice(OFF.st + i * ST_STRIDE, ST_BYTES),
      ),
    },
    mxcsr: s.get32(OFF.mxcsr),
    vector: GPR_NAMES.map((_, i) => slice(CpuState.xmm(i), XMM_STRIDE)),
    xcr0: s.get(OFF.xcr0),
    xss: s.get(OFF.xss),
    msrs: {
      star: s.get(OFF.star),
      lstar: s.get(OFF.lstar),
      cstar: s.get(OFF.cstar),
      fmask: s.get(OFF.fmask),
      kernelGsBase: s.get(OFF.kernelGsBase),
      sysenterCs: s.get(OFF.sysenterCs),
      sysenterEsp: s.get(OFF.sysenterEsp),
      sysenterEip: s.get(OFF.sysenterEip),
      pat: s.get(OFF.pat),
      tscAux: s.get(OFF.tscAux),
      tscOffset: s.get(OFF.tscOffset),
      miscEnable: s.get(OFF.miscEnable),
      mtrrDefType: s.get(OFF.mtrrDefType),
      mtrrFixed: many(OFF.mtrrFixed, MTRR_FIXED),
      mtrrVariable: many(OFF.mtrrVariable, MTRR_VARIABLE),
    },
    a20: cpu.mmu.a20,
    ...cpu.activity,
  };
}
