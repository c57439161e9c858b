/**
 * A {@linkcode HelperCpu} over flat memory without paging, for tests of the instructions written in TypeScript: it decodes
 * one instruction at CS:RIP and runs its helper, with no engine behind it.
 *
 * @module
 */
import { CpuModel } from "../cpuid.ts";
import { Decoder } from "../decode.ts";
import { deliverEvent } from "../exceptions.ts";
import type { HelperCpu, Insn } from "../helper.ts";
import type { CpuIo } from "../io.ts";
import "../isa/far.ts";
import "../isa/interrupts.ts";
import "../isa/port.ts";
import "../isa/syscalls.ts";
import "../isa/system.ts";
import { resetCpu } from "../reset.ts";
import {
  ATTR,
  CpuState,
  CR0,
  CS,
  DS,
  EFER,
  ES,
  FLAG,
  FS,
  GS,
  GuestFault,
  OFF,
  RSP,
  SS,
  VECTOR,
} from "../state.ts";
import {
  segmentAttr,
  segmentBase,
  segmentLimit,
  setSegment,
} from "../segments.ts";
import { setStackPointer, stackMask } from "../stack.ts";

/** Bytes of memory; addresses wrap. */
export const FLAT_MEMORY = 1 << 20;
const PAGE_SHIFT = 12n;
const FLAT = 0xffff_ffff;
/** A 64-bit or 32-bit flat segment, accessed. */
const CODE64 = 0xa09b, CODE32 = 0xc09b, DATA32 = 0xc093;

/** What a test sees of the ports. */
export interface PortLog {
  readonly port: number;
  readonly size: number;
  readonly value: number;
}

/** The test vCPU. */
export class FlatCpu implements HelperCpu {
  readonly memory = new Uint8Array(FLAT_MEMORY);
  readonly view = new DataView(this.memory.buffer);
  readonly state = new CpuState(new WebAssembly.Memory({ initial: 1 }), 0);
  readonly decoder = new Decoder();
  readonly io: CpuIo;
  /** Linear page numbers that are not mapped. */
  readonly unmapped = new Set<bigint>();
  /** Linear page numbers that only CPL 0 to 2 may use. */
  readonly supervisor = new Set<bigint>();
  /** Port writes, oldest first. */
  readonly writes: PortLog[] = [];
  /** Values that port reads give; all ones without one. */
  readonly ports = new Map<number, number>();
  /** Values of MSRs that the machine claims. */
  readonly claimed = new Map<number, bigint>();
  tscValue = 0n;
  halted = false;
  isShutdown = false;
  inhibited = false;
  modeChanges = 0;
  flushes = 0;
  invalidated: bigint[] = [];
  private insn: Insn | undefined;
  private jumped = false;

  constructor(readonly model: CpuModel = new CpuModel()) {
    resetCpu(this.state);
    this.io = {
      portRead: (port, size) =>
        this.ports.get(port) ?? (size === 4 ? FLAT : (1 << (size * 8)) - 1),
      portWrite: (port, size, value) => {
        this.writes.push({ port, size, value });
      },
      interruptPending: () => false,
      acknowledgeInterrupt: () => -1,
      msrRead: (index) => this.claimed.get(index),
      msrWrite: (index, value) => {
        if (!this.claimed.has(index)) return false;
        this.claimed.set(index, value);
        return true;
      },
      tsc: () => this.tscValue,
      taskPriority: 0,
      ferr: () => {},
      tripleFault: () => {},
    };
  }

  // ---- setting up ----

  /** Flat protected mode at CPL 0 with 32-bit code, selectors 8 and 16. */
  protected32(): this {
    this.state.set(OFF.cr0, BigInt(CR0.PE | CR0.ET));
    setSegment(this.state, CS, 8, 0, FLAT, CODE32);
    for (const segment of [SS, DS, ES, FS, GS]) {
      setSegment(this.state, segment, 16, 0, FLAT, DATA32);
    }
    this.modeChanged();
    return this;
  }

  /** IA-32e mode at CPL 0 with 64-bit code. */
  long64(): this {
    this.protected32();
    setSegment(this.state, CS, 8, 0, FLAT, CODE64);
    this.state.set(
      OFF.cr0,
      BigInt(CR0.PE) | BigInt(CR0.ET) | BigInt(CR0.PG),
    );
    this.state.set(OFF.cr4, 0x20n);
    this.state.set(OFF.efer, BigInt(EFER.LME | EFER.LMA | EFER.SCE));
    this.modeChanged();
    return this;
  }

  /** Writes bytes. */
  put(address: number, ...bytes: number[]): void {
    this.memory.set(bytes, address);
  }

  /** Writes a descriptor: `access` and `flags` as in its bytes 5 and 6 (G, D, L in the upper half of `flags`). */
  descriptor(
    address: number,
    base: number,
    limit: number,
    access: number,
    flags = 0,
  ): void {
    this.view.setUint16(address, limit & 0xffff, true);
    this.view.setUint16(address + 2, base & 0xffff, true);
    this.memory[address + 4] = base >>> 16;
    this.memory[address + 5] = access;
    this.memory[address + 6] = ((limit >>> 16) & 15) | (flags << 4);
    this.memory[address + 7] = base >>> 24;
  }

  /** Writes a gate. */
  gate(
    address: number,
    selector: number,
    offset: number,
    access: number,
    parameter = 0,
  ): void {
    this.view.setUint16(address, offset & 0xffff, true);
    this.view.setUint16(address + 2, selector, true);
    this.memory[address + 4] = parameter;
    this.memory[address + 5] = access;
    this.view.setUint16(address + 6, offset >>> 16, true);
  }

  // ---- running ----

  /** The instruction pointer. */
  get ip(): bigint {
    return this.state.get(OFF.rip);
  }
  set ip(value: bigint) {
    this.state.set(OFF.rip, value);
  }

  private mode(): 16 | 32 | 64 {
    if (this.code64) return 64;
    return segmentAttr(this.state, CS) & ATTR.DB && !this.v86 ? 32 : 16;
  }

  /**
   * Puts an instruction at CS:RIP and runs it.
   *
   * @throws {GuestFault} what the instruction raises; RIP then still points at it.
   */
  exec(...bytes: number[]): void {
    const linear = segmentBase(this.state, CS) + this.ip;
    const at = Number(linear % BigInt(FLAT_MEMORY));
    this.put(at, ...bytes);
    const insn = this.decoder.decode(
      this.memory,
      at,
      at + bytes.length,
      this.mode(),
    );
    if (insn === "more") throw new Error("the instruction is incomplete");
    if ("vector" in insn) throw new GuestFault(insn.vector);
    const { semantic } = insn.form.definition;
    if (typeof semantic === "function") {
      throw new Error(`${insn.name} is not a helper`);
    }
    this.insn = insn;
    this.jumped = false;
    semantic.run(this, insn);
    if (!this.jumped) this.ip = this.nextRip;
    this.insn = undefined;
  }

  /** As {@linkcode exec}, and delivers the exception that the instruction raises, if any. */
  step(...bytes: number[]): void {
    try {
      this.exec(...bytes);
    } catch (fault) {
      if (!(fault instanceof GuestFault)) throw fault;
      this.insn = undefined;
      deliverEvent(this, {
        vector: fault.vector,
        kind: "fault",
        errorCode: fault.errorCode,
      });
    }
  }

  // ---- HelperCpu ----

  get rip(): bigint {
    return this.ip;
  }
  get nextRip(): bigint {
    const next = this.ip + BigInt(this.insn?.length ?? 0);
    return BigInt.asUintN(this.code64 ? 64 : 32, next);
  }
  jump(rip: bigint): void {
    this.ip = rip;
    this.jumped = true;
  }
  modeChanged(): void {
    this.modeChanges++;
    const state = this.state;
    const cpl = this.v86
      ? 3
      : this.protectedMode
      ? (segmentAttr(state, SS) & ATTR.DPL) >> 5
      : 0;
    state.set32(OFF.cpl, cpl);
    state.set(OFF.spMask, stackMask(this));
  }
  flushTlb(): void {
    this.flushes++;
  }
  readPdptes(): readonly bigint[] {
    return [];
  }
  invalidatePage(linear: bigint): void {
    this.invalidated.push(linear);
  }
  halt(): void {
    this.halted = true;
  }
  shutdown(): void {
    this.isShutdown = true;
  }
  inhibitInterrupts(): void {
    this.inhibited = true;
  }
  cancelStep(): void {}
  endBlock(): void {}

  get cpl(): number {
    return this.state.get32(OFF.cpl);
  }
  get protectedMode(): boolean {
    return (this.state.get32(OFF.cr0) & CR0.PE) !== 0 && !this.v86;
  }
  get v86(): boolean {
    return (this.state.get32(OFF.rflags) & FLAG.VM) !== 0;
  }
  get longMode(): boolean {
    return (this.state.get32(OFF.efer) & EFER.LMA) !== 0;
  }
  get code64(): boolean {
    return this.longMode && (segmentAttr(this.state, CS) & ATTR.L) !== 0;
  }

  effectiveAddress(insn: Insn): bigint {
    let offset = BigInt(insn.disp);
    if (insn.base === -2) offset += this.nextRip;
    else if (insn.base >= 0) offset += this.state.reg(insn.base);
    if (insn.index >= 0) {
      offset += this.state.reg(insn.index) << BigInt(insn.scale);
    }
    return BigInt.asUintN(insn.addressSize * 8, offset);
  }
  linear(insn: Insn, bytes: number, write: boolean): bigint {
    return this.segmentAddress(
      insn.segment,
      this.effectiveAddress(insn),
      bytes,
      write,
    );
  }
  segmentAddress(
    segment: number,
    offset: bigint,
    bytes: number,
    _write: boolean,
  ): bigint {
    const base = segmentBase(this.state, segment);
    if (this.code64) {
      return segment >= FS ? BigInt.asUintN(64, base + offset) : offset;
    }
    const limit = BigInt(segmentLimit(this.state, segment));
    if (
      segmentAttr(this.state, segment) & ATTR.UNUSABLE ||
      offset + BigInt(bytes) - 1n > limit
    ) {
      throw new GuestFault(segment === SS ? VECTOR.SS : VECTOR.GP, 0);
    }
    return BigInt.asUintN(32, base + offset);
  }

  private at(
    linear: bigint,
    bytes: number,
    write: boolean,
    user: boolean,
  ): number {
    for (const end of [linear, linear + BigInt(bytes - 1)]) {
      const page = BigInt.asUintN(64, end) >> PAGE_SHIFT;
      const present = !this.unmapped.has(page);
      if (present && !(user && this.supervisor.has(page))) continue;
      this.state.set(OFF.cr2, end);
      throw new GuestFault(
        VECTOR.PF,
        (present ? 1 : 0) | (write ? 2 : 0) | (user ? 4 : 0),
      );
    }
    return Number(linear % BigInt(FLAT_MEMORY));
  }
  private get user(): boolean {
    return this.cpl === 3;
  }
  private get(linear: bigint, bytes: number, user: boolean): bigint {
    const at = this.at(linear, bytes, false, user);
    switch (bytes) {
      case 1:
        return BigInt(this.memory[at]);
      case 2:
        return BigInt(this.view.getUint16(at, true));
      case 4:
        return BigInt(this.view.getUint32(at, true));
      default:
        return this.view.getBigUint64(at, true);
    }
  }
  private set(
    linear: bigint,
    bytes: number,
    value: bigint,
    user: boolean,
  ): void {
    const at = this.at(linear, bytes, true, user);
    for (let i = 0; i < bytes; i++) {
      this.memory[at + i] = Number((value >> BigInt(i * 8)) & 0xffn);
    }
  }
  read8(linear: bigint): number {
    return Number(this.get(linear, 1, this.user));
  }
  read16(linear: bigint): number {
    return Number(this.get(linear, 2, this.user));
  }
  read32(linear: bigint): number {
    return Number(this.get(linear, 4, this.user));
  }
  read64(linear: bigint): bigint {
    return this.get(linear, 8, this.user);
  }
  readBytes(linear: bigint, target: Uint8Array): void {
    const at = this.at(linear, target.length, false, this.user);
    target.set(this.memory.subarray(at, at + target.length));
  }
  write8(linear: bigint, value: number): void {
    this.set(linear, 1, BigInt(value), this.user);
  }
  write16(linear: bigint, value: number): void {
    this.set(linear, 2, BigInt(value), this.user);
  }
  write32(linear: bigint, value: number): void {
    this.set(linear, 4, BigInt(value), this.user);
  }
  write64(linear: bigint, value: bigint): void {
    this.set(linear, 8, value, this.user);
  }
  writeBytes(linear: bigint, source: Uint8Array): void {
    this.memory.set(source, this.at(linear, source.length, true, this.user));
  }
  probeWrite(linear: bigint, bytes: number): void {
    this.at(linear, bytes, true, this.user);
  }
  get memoryBytes(): Uint8Array {
    return this.memory;
  }
  direct(linear: bigint, bytes: number, write: boolean): number {
    return this.at(linear, bytes, write, this.user);
  }
  /** Nothing is cached: every access takes the checked way. */
  cachedHost(): number {
    return -1;
  }
  readSystem(linear: bigint, bytes: 1 | 2 | 4 | 8): bigint {
    return this.get(linear, bytes, false);
  }
  writeSystem(linear: bigint, bytes: 1 | 2 | 4 | 8, value: bigint): void {
    this.set(linear, bytes, value, false);
  }
  writeAs(cpl: number, linear: bigint, bytes: 2 | 4 | 8, value: bigint): void {
    this.set(linear, bytes, value, cpl === 3);
  }
  readAs(cpl: number, linear: bigint, bytes: 2 | 4 | 8): bigint {
    return this.get(linear, bytes, cpl === 3);
  }

  readReg(insn: Insn, index: number, size: 1 | 2 | 4 | 8): bigint {
    if (size === 1 && !insn.rex && index >= 4 && index < 8) {
      return BigInt(this.state.b[(index - 4) * 8 + 1]);
    }
    return BigInt.asUintN(size * 8, this.state.reg(index));
  }
  writeReg(
    insn: Insn,
    index: number,
    size: 1 | 2 | 4 | 8,
    value: bigint,
  ): void {
    if (size === 1 && !insn.rex && index >= 4 && index < 8) {
      this.state.b[(index - 4) * 8 + 1] = Number(value & 0xffn);
    } else this.state.setReg(index, value, size);
  }
  readRm(insn: Insn, size: 1 | 2 | 4 | 8): bigint {
    if (insn.mod === 3) return this.readReg(insn, insn.rm, size);
    return this.get(this.linear(insn, size, false), size, this.user);
  }
  writeRm(insn: Insn, size: 1 | 2 | 4 | 8, value: bigint): void {
    if (insn.mod === 3) this.writeReg(insn, insn.rm, size, value);
    else this.set(this.linear(insn, size, true), size, value, this.user);
  }
  push(size: 2 | 4 | 8, value: bigint): void {
    const mask = stackMask(this);
    const pointer = (this.state.q[RSP] - BigInt(size)) & mask;
    const address = this.segmentAddress(SS, pointer, size, true);
    this.set(address, size, value, this.user);
    setStackPointer(this.state, mask, pointer);
  }
  pop(size: 2 | 4 | 8): bigint {
    const mask = stackMask(this);
    const pointer = this.state.q[RSP] & mask;
    const address = this.segmentAddress(SS, pointer, size, false);
    const value = this.get(address, size, this.user);
    setStackPointer(this.state, mask, (pointer + BigInt(size)) & mask);
    return value;
  }
}
