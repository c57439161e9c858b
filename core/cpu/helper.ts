/**
 * What an instruction written in TypeScript sees: the decoded instruction and the vCPU.
 *
 * @module
 */
import type { CpuState } from "./state.ts";
import type { CpuIo } from "./io.ts";
import type { CpuModel } from "./cpuid.ts";

/** A decoded instruction, for helpers, the disassembler test and traces. */
export interface Insn {
  /** Mnemonic of the definition. */
  readonly name: string;
  /** Bytes, 1 to 15. */
  readonly length: number;
  /** Code width: 16, 32 or 64. */
  readonly mode: 16 | 32 | 64;
  /** Operand size in bytes after prefixes: 2, 4 or 8. */
  readonly size: 2 | 4 | 8;
  /** Address size in bytes. */
  readonly addressSize: 2 | 4 | 8;
  /** The last opcode byte. */
  readonly opcode: number;
  /** ModRM fields with REX applied; -1 without ModRM. `mod` 3 is a register. */
  readonly mod: number;
  readonly reg: number;
  readonly rm: number;
  /** Register in the low opcode bits, with REX.B (encoding `+r`). */
  readonly opReg: number;
  /** Effective segment of the memory operand (after override and default). */
  readonly segment: number;
  /** Memory operand: register numbers or -1; base -2 is RIP. */
  readonly base: number;
  readonly index: number;
  /** 0 to 3. */
  readonly scale: number;
  /** Sign-extended displacement. */
  readonly disp: number;
  /** First and second immediate (sign-extended where the encoding says so). Far pointers: offset, selector. */
  readonly imm: bigint;
  readonly imm2: number;
  /** 0, 0xf2 or 0xf3. */
  readonly rep: number;
  readonly lock: boolean;
  /** A REX prefix was there: SPL BPL SIL DIL instead of AH CH DH BH. */
  readonly rex: boolean;
  /** REX.W. */
  readonly rexW: boolean;
}

/** The vCPU as helpers see it. Memory accessors take linear addresses and throw GuestFault (#PF) precisely. */
export interface HelperCpu {
  readonly state: CpuState;
  readonly io: CpuIo;
  /** What CPUID says, and so which control bits and MSRs exist. */
  readonly model: CpuModel;

  /** RIP of this instruction; `nextRip` of the one after it. Both truncated as the mode says. */
  readonly rip: bigint;
  readonly nextRip: bigint;
  /** Continues at `rip` (checked to be canonical or inside CS by the caller); the block ends. */
  jump(rip: bigint): void;
  /** To be called after CR0, CR3, CR4, EFER, CS, SS, CPL, RFLAGS.AC or A20 changed: recomputes derived state. The block ends. */
  modeChanged(): void;
  /** Drops all translations (MOV CR3 keeps global ones with `keepGlobal`). */
  flushTlb(keepGlobal: boolean): void;
  /** The PDPTE registers that `cr3` stands for; none unless paging is PAE paging. @throws {GuestFault} #GP(0) for reserved bits. */
  readPdptes(cr3: bigint): readonly bigint[];
  /** INVLPG. */
  invalidatePage(linear: bigint): void;
  /** Waits for an interrupt after this instruction. */
  halt(): void;
  /** A triple fault: nothing runs any more until reset. */
  shutdown(): void;
  /** STI, MOV SS, POP SS: no interrupt is taken before the instruction after the next one starts. */
  inhibitInterrupts(): void;
  /** This instruction gives no single-step trap though it started with TF set (INT n, SYSCALL, SYSENTER). */
  cancelStep(): void;
  /** Ends the block so that pending interrupts are looked at (after IF was set, after I/O). */
  endBlock(): void;

  readonly cpl: number;
  /** CR0.PE, without VM. */
  readonly protectedMode: boolean;
  readonly v86: boolean;
  /** EFER.LMA. */
  readonly longMode: boolean;
  /** EFER.LMA and CS.L. */
  readonly code64: boolean;

  /** Linear address of the memory operand, after segment checks (#GP/#SS) for an access of `bytes`. */
  linear(insn: Insn, bytes: number, write: boolean): bigint;
  /** Offset of the memory operand in its segment. */
  effectiveAddress(insn: Insn): bigint;
  /** Adds a segment base to an offset after the checks of its limit and type. */
  segmentAddress(
    segment: number,
    offset: bigint,
    bytes: number,
    write: boolean,
  ): bigint;

  /** Accesses with the current privilege. Values of up to 4 bytes are numbers. */
  read8(linear: bigint): number;
  read16(linear: bigint): number;
  read32(linear: bigint): number;
  read64(linear: bigint): bigint;
  readBytes(linear: bigint, target: Uint8Array): void;
  write8(linear: bigint, value: number): void;
  write16(linear: bigint, value: number): void;
  write32(linear: bigint, value: number): void;
  write64(linear: bigint, value: bigint): void;
  writeBytes(linear: bigint, source: Uint8Array): void;
  /** All of wasm memory, for {@linkcode direct}. */
  readonly memoryBytes: Uint8Array;
  /**
   * Index in {@linkcode memoryBytes} of `bytes` at `linear`, all in one page, with translated code there dropped before a write;
   * -1 when the page is not plain RAM. Throws #PF.
   */
  direct(linear: bigint, bytes: number, write: boolean): number;
  /** Index in {@linkcode memoryBytes} from the software TLB, for the current privilege; -1 when it is not there. */
  cachedHost(low: number, high: number, write: boolean): number;
  /** Throws the fault that a write of `bytes` would give, and writes nothing. */
  probeWrite(linear: bigint, bytes: number): void;
  /** Accesses with supervisor privilege: descriptor tables, TSS, interrupt stacks (pass the new CPL's right: 0, 1, 2 are supervisor). */
  readSystem(linear: bigint, bytes: 1 | 2 | 4 | 8): bigint;
  writeSystem(linear: bigint, bytes: 1 | 2 | 4 | 8, value: bigint): void;
  /** Writes with the privilege of `cpl` rather than the current one (stack switches). */
  writeAs(cpl: number, linear: bigint, bytes: 2 | 4 | 8, value: bigint): void;
  readAs(cpl: number, linear: bigint, bytes: 2 | 4 | 8): bigint;

  /** General register operand of `size`, honouring AH CH DH BH without REX. */
  readReg(insn: Insn, index: number, size: 1 | 2 | 4 | 8): bigint;
  writeReg(insn: Insn, index: number, size: 1 | 2 | 4 | 8, value: bigint): void;
  /** ModRM.rm as register or memory of `size`. */
  readRm(insn: Insn, size: 1 | 2 | 4 | 8): bigint;
  writeRm(insn: Insn, size: 1 | 2 | 4 | 8, value: bigint): void;
  /** Stack operations with the current stack; `size` 2, 4 or 8. */
  push(size: 2 | 4 | 8, value: bigint): void;
  pop(size: 2 | 4 | 8): bigint;
}
