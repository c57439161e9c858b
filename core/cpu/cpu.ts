/**
 * The vCPU: runs translated code in wasm, and does in TypeScript what leaves it: translation, faults, interrupts and the
 * instructions written as helpers. Memory is in `access.ts`.
 *
 * @module
 */
import { PAGE } from "../memory/memory.ts";
import { CpuMemory } from "./access.ts";
import { type CodeMode, MAX_BLOCK } from "./blocks.ts";
import type { Decoded } from "./decode.ts";
import { Engine } from "./engine.ts";
import { JUMP_CACHE_BASE, JUMP_CACHE_BYTES, MAX_CPUS } from "./layout.ts";
import { CpuModel } from "./cpuid.ts";
import {
  breakpointsEnabled,
  codeBreakpoints,
  dataBreakpointsEnabled,
} from "./breakpoints.ts";
import { debugTrap, deliverEvent, DR6, setDebugStatus } from "./exceptions.ts";
import type { HelperCpu } from "./helper.ts";
import type { CpuIo } from "./io.ts";
import { EXIT, FAULT_SINGLE, JUMP_CACHE_ENTRIES, REC } from "./record.ts";
import {
  ATTR,
  CR0,
  CR4,
  CS,
  DS,
  EFER,
  ES,
  FLAG,
  FS,
  GPR_NAMES,
  GS,
  GuestFault,
  OFF,
  SEGMENT_NAMES,
  SS,
  VECTOR,
} from "./state.ts";
import { resetCpu } from "./reset.ts";
/** Why {@linkcode Cpu.run} returned. */
export type RunResult = "budget" | "halted" | "shutdown" | "stopped";
export { Engine, MAX_CPUS };

/** One vCPU. */
export class Cpu extends CpuMemory implements HelperCpu {
  /** Instructions retired since power-on. */
  retired = 0;
  /** Waiting for an interrupt. */
  halted = false;
  /** Stopped by a triple fault. */
  isShutdown = false;
  private nmiPending = false;
  /** Between an NMI and the IRET that ends it. */
  get nmiBlocked(): boolean {
    return this.state.get32(OFF.nmiBlocked) !== 0;
  }
  private inhibit = false;
  private stopRequested = false;
  /** Instructions that the current {@linkcode run} was given, and those of them that {@linkcode step} keeps aside. */
  private granted = 0;
  private setAside = 0;
  private isRunning = false;
  /** Inside generated code, which charges a block to the budget before it runs. */
  private inCode = false;
  private insnRecord = 0;
  private currentInsn: Decoded | undefined;
  private jumped = false;
  private leaveAfter = false;
  private readonly code = new Uint8Array(32);
  private generation = 1;
  private lastCsBase = 0n;
  /** Jump cache entries (word indices) for pages that are not global. */
  private localJumps: number[] = [];
  /** Called for every exception and interrupt delivered, for traces. */
  onEvent:
    | ((
      vector: number,
      kind: string,
      errorCode: number | undefined,
      rip: bigint,
    ) => void)
    | undefined;

  /** @param index 0 for the bootstrap processor. */
  constructor(
    readonly engine: Engine,
    readonly index: number,
    readonly io: CpuIo,
    readonly model: CpuModel = new CpuModel("v2", index),
  ) {
    super(engine.memory, engine.blocks, index);
    this.state.set32(OFF.jumpCache, JUMP_CACHE_BASE + index * JUMP_CACHE_BYTES);
    engine.cpus.push(this);
    engine.current ??= this;
    this.reset();
  }

  /** Power-on and RESET# (Intel SDM vol. 3, table 10-1). */
  reset(): void {
    const jumpCache = this.state.get32(OFF.jumpCache);
    this.state.b.fill(0);
    this.state.set32(OFF.jumpCache, jumpCache);
    this.halted =
      this.isShutdown =
      this.nmiPending =
      this.inhibit =
        false;
    resetCpu(this.state);
    this.mmu.flush();
    this.modeChanged();
  }

  // ---- running ----

  /** Instructions retired up to the current one: exact in helpers and MMIO handlers too, where {@linkcode retired} is not. */
  get retiredNow(): number {
    if (!this.isRunning) return this.retired;
    const charged = !this.inCode
      ? 0
      : this.single
      ? 1
      : this.memory.bytes[this.insnRecord + REC.remaining];
    return this.retired + this.granted - this.setAside -
      (this.state.get32(OFF.budget) | 0) - charged;
  }

  /** What is pending or blocked at this boundary, apart from the registers. */
  get activity(): {
    halted: boolean;
    shutdown: boolean;
    nmiPending: boolean;
    nmiBlocked: boolean;
    inhibited: boolean;
  } {
    const {
      halted,
      isShutdown: shutdown,
      nmiPending,
      nmiBlocked,
      inhibit: inhibited,
    } = this;
    return { halted, shutdown, nmiPending, nmiBlocked, inhibited };
  }

  /**
   * Takes up a state that was written into the registers, as a restore does: drops what was cached
   * of the one before.
   *
   * @param activity What is pending or blocked.
   * @param retired Instructions retired since power-on.
   */
  resumeFrom(activity: Cpu["activity"], retired: number): void {
    this.halted = activity.halted;
    this.isShutdown = activity.shutdown;
    this.nmiPending = activity.nmiPending;
    this.inhibit = activity.inhibited;
    this.state.set32(OFF.nmiBlocked, activity.nmiBlocked ? 1 : 0);
    this.retired = retired;
    this.stopRequested = false;
    this.modeChanged();
    this.flushTlb(false);
    // Whether anything is pending is seen at the first boundary.
    this.state.set32(OFF.attention, 1);
  }

  /** Ends the current {@linkcode run} at the next boundary. */
  stop(): void {
    this.stopRequested = true;
    this.state.set32(OFF.attention, 1);
  }

  /** Something about interrupts may have changed: look at the next boundary. */
  interruptChanged(): void {
    if (this.io.interruptPending()) this.state.set32(OFF.attention, 1);
  }

  /** Makes an NMI pending. */
  nmi(): void {
    this.nmiPending = true;
    this.state.set32(OFF.attention, 1);
  }

  /**
   * Runs until `count` instructions are retired, or the vCPU halts, shuts down or is stopped.
   */
  run(count: number): RunResult {
    const s = this.state;
    const engine = this.engine;
    const start = count;
    engine.current = this;
    s.set32(OFF.budget, count);
    this.granted = count;
    this.isRunning = true;
    let record = 0;
    let linkFrom = 0;
    let result: RunResult = "budget";
    for (;;) {
      if (
        s.get32(OFF.attention) !== 0 || this.halted || this.inhibit ||
        this.isShutdown
      ) {
        if (this.isShutdown) {
          result = "shutdown";
          break;
        }
        if (this.stopRequested) {
          this.stopRequested = false;
          result = "stopped";
          break;
        }
        if (this.inhibit) {
          if ((s.get32(OFF.budget) | 0) <= 0) break;
          this.inhibit = false;
          this.step(1);
          record = linkFrom = 0;
          continue;
        }
        this.takeInterrupts();
        record = linkFrom = 0;
        if (this.halted) {
          result = "halted";
          break;
        }
      }
      if (
        s.get32(OFF.rflags) & FLAG.TF || (s.get32(OFF.dr + 7 * 8) & 0xff) !== 0
      ) {
        if ((s.get32(OFF.budget) | 0) <= 0) break;
        this.step(1);
        record = linkFrom = 0;
        continue;
      }
      this.inCode = true;
      const reason = engine.run(s.base, record);
      this.inCode = false;
      record = 0;
      if (reason === EXIT.lookup) {
        linkFrom = s.get32(OFF.faultRecord);
        record = this.lookup(linkFrom);
      } else if (reason === EXIT.fault) {
        this.handleFault();
      } else if (reason === EXIT.budget) {
        const left = s.get32(OFF.budget) | 0;
        if (left <= 0) break;
        this.step(left);
      }
    }
    this.retired += start - (s.get32(OFF.budget) | 0);
    this.isRunning = false;
    return result;
  }

  /** Delivers what is pending and deliverable at this boundary. */
  private takeInterrupts(): void {
    const s = this.state;
    if (this.nmiPending && !this.nmiBlocked) {
      this.nmiPending = false;
      this.halted = false;
      this.deliver(VECTOR.NMI, "nmi");
    } else if (s.get32(OFF.rflags) & FLAG.IF && this.io.interruptPending()) {
      const vector = this.io.acknowledgeInterrupt();
      if (vector >= 0) {
        this.halted = false;
        this.deliver(vector, "external");
      }
    }
    s.set32(
      OFF.attention,
      this.nmiPending || this.io.interruptPending() ? 1 : 0,
    );
  }

  private deliver(
    vector: number,
    kind: "fault" | "external" | "nmi",
    errorCode?: number,
  ): void {
    const rip = this.state.get(OFF.rip);
    this.onEvent?.(vector, kind, errorCode, rip);
    deliverEvent(this, { vector, kind, errorCode, rip });
  }

  /** The record of the block at OFF.rip, or 0 after an exception was delivered instead. */
  private lookup(linkFrom: number): number {
    const s = this.state;
    const ripLow = s.get32(OFF.rip), ripHigh = s.d[(OFF.rip >> 2) + 1];
    let low = ripLow, high = ripHigh;
    if (this.mode !== 64) {
      low = (ripLow + s.get32(OFF.segBase + CS * 8)) >>> 0;
      high = 0;
      if (ripLow > s.get32(OFF.segLimit + CS * 4)) {
        this.deliver(VECTOR.GP, "fault", 0);
        return 0;
      }
    }
    const pa = this.fetch(low, high);
    if (pa < 0) return 0;
    let global = this.mmu.fetchGlobal;
    const blocks = this.engine.blocks;
    let record = blocks.find(pa, this.mode);
    if (record === undefined) {
      if (this.memory.host(pa) < 0) {
        this.step(1); // code in MMIO: one instruction at a time
        return 0;
      }
      const limit = this.mode === 64
        ? 0x10000
        : s.get32(OFF.segLimit + CS * 4) - ripLow + 1;
      const made = blocks.translate(pa, this.mode, limit);
      if (made.needsNextPage) {
        if (limit < 15) {
          this.step(1);
          return 0;
        }
        const first = 4096 - (low & 0xfff);
        const nextLow = (low + first) >>> 0;
        const next = this.fetch(
          nextLow,
          nextLow < low && this.mode === 64 ? (high + 1) >>> 0 : high,
        );
        if (next < 0) return 0;
        global = global && this.mmu.fetchGlobal;
        const crossing = this.memory.host(next) < 0
          ? 0
          : blocks.crossing(pa, next, this.mode);
        if (crossing === 0) {
          this.step(1);
          return 0;
        }
        record = crossing;
        linkFrom = 0; // a linked branch would not notice that the second page is another one now
      } else record = made.record;
    }
    if (linkFrom !== 0) blocks.link(linkFrom, record);
    const words = this.memory.words;
    const hash = (ripLow ^ ((ripLow >>> 12) | (ripHigh << 20))) &
      (JUMP_CACHE_ENTRIES - 1);
    const at = (s.get32(OFF.jumpCache) >> 2) + hash * 4;
    words[at] = ripLow;
    words[at + 1] = ripHigh;
    words[at + 2] = s.get32(OFF.jumpKey);
    words[at + 3] = record;
    if (!global) {
      this.localJumps.push(at);
      if (this.localJumps.length > 4 * JUMP_CACHE_ENTRIES) {
        this.localJumps = [...new Set(this.localJumps)];
      }
    }
    return record;
  }

  /** Translates a fetch; delivers the fault and returns -1 when there is one. */
  private fetch(low: number, high: number): number {
    const pa = this.mmu.fetch(low, high, this.cpl === 3);
    if (pa >= 0) return pa;
    if (this.mmu.vector === VECTOR.PF) this.setCr2(low, high);
    this.deliver(this.mmu.vector, "fault", this.mmu.errorCode);
    return -1;
  }

  /**
   * Runs up to `count` instructions of the straight line at RIP from records that are used once: the last ones of a slice, an
   * instruction that crosses a page or that touches MMIO.
   */
  private step(count: number): void {
    const s = this.state;
    const ripLow = s.get32(OFF.rip), ripHigh = s.d[(OFF.rip >> 2) + 1];
    let low = ripLow, high = ripHigh, limit = 32;
    if (this.mode !== 64) {
      low = (ripLow + s.get32(OFF.segBase + CS * 8)) >>> 0;
      high = 0;
      limit = s.get32(OFF.segLimit + CS * 4) - ripLow + 1;
      if (limit <= 0) return this.deliver(VECTOR.GP, "fault", 0);
    }
    if (this.codeBreakpoint(low, high)) return;
    const pa = this.fetch(low, high);
    if (pa < 0) return;
    const inPage = 4096 - (low & 0xfff);
    const host = this.memory.host(pa);
    let record = 0;
    // More than one only while stores to the page are seen: they may change what was decoded.
    if (
      host >= 0 && count > 1 &&
      (this.memory.pageFlags(host) & (PAGE.CODE | PAGE.ROM)) !== 0
    ) {
      const length = Math.min(inPage, limit === 32 ? 4096 : limit);
      record = this.engine.blocks.temporary(
        this.memory.bytes.subarray(host, host + length),
        length,
        low & 0xfff,
        this.mode,
        Math.min(count, MAX_BLOCK),
        Math.floor(pa / 4096),
      );
    }
    if (record === 0) {
      const code = this.code;
      let have = Math.min(15, inPage, limit);
      this.copyCode(pa, code, 0, have);
      record = this.engine.blocks.temporary(
        code,
        have,
        low & 0xfff,
        this.mode,
        1,
      );
      if (record === 0) {
        const wanted = Math.min(15, limit);
        if (wanted <= have) return this.deliver(VECTOR.GP, "fault", 0);
        const nextLow = (low + inPage) >>> 0;
        const nextHigh = nextLow < low ? (high + 1) >>> 0 : high;
        const next = this.fetch(nextLow, this.mode === 64 ? nextHigh : 0);
        if (next < 0) return;
        this.copyCode(next, code, have, wanted - have);
        have = wanted;
        record = this.engine.blocks.temporary(
          code,
          have,
          low & 0xfff,
          this.mode,
          1,
        );
        if (record === 0) return this.deliver(VECTOR.GP, "fault", 0);
      }
      count = 1;
    }
    this.stepping = (s.get32(OFF.rflags) & FLAG.TF) !== 0;
    this.dataHits = 0;
    const budget = s.get32(OFF.budget) | 0;
    const run = Math.min(count, this.memory.bytes[record + REC.remaining]);
    s.set32(OFF.budget, run);
    this.setAside += budget - run;
    this.single = count === 1;
    this.inCode = true;
    const reason = this.engine.run(s.base, record);
    this.inCode = false;
    this.single = false;
    if (reason === EXIT.fault) this.handleFault();
    this.setAside -= budget - run;
    const done = run - (s.get32(OFF.budget) | 0);
    s.set32(OFF.budget, budget - done);
    // #DB after an instruction that started with TF set or met a data breakpoint (Intel SDM vol. 3, 18.3.1).
    const causes = (this.stepping ? DR6.BS : 0) | this.dataHits;
    if (causes !== 0 && done === 1 && reason !== EXIT.fault) {
      this.onEvent?.(VECTOR.DB, "trap", undefined, s.get(OFF.rip));
      debugTrap(this, causes, s.get(OFF.rip));
    }
  }

  /** Delivers #DB when an execution breakpoint is at the linear address and RF does not hold it off; RF is for one instruction. */
  private codeBreakpoint(low: number, high: number): boolean {
    const s = this.state;
    if (!breakpointsEnabled(s)) return false;
    if (s.get32(OFF.rflags) & FLAG.RF) {
      s.set32(OFF.rflags, s.get32(OFF.rflags) & ~FLAG.RF);
      return false;
    }
    const causes = codeBreakpoints(
      s,
      (BigInt(high >>> 0) << 32n) | BigInt(low),
    );
    if (causes === 0) return false;
    setDebugStatus(this, causes);
    this.deliver(VECTOR.DB, "fault");
    return true;
  }

  private copyCode(
    pa: number,
    target: Uint8Array,
    at: number,
    length: number,
  ): void {
    const host = this.memory.host(pa);
    for (let i = 0; i < length; i++) {
      target[at + i] = host >= 0
        ? this.memory.bytes[host + i]
        : this.memory.mmioRead(pa + i, 1);
    }
  }

  /** A record left generated code with an exception: nothing of its instruction happened. */
  private handleFault(): void {
    const s = this.state;
    const record = s.get32(OFF.faultRecord);
    const bytes = this.memory.bytes;
    s.set32(
      OFF.budget,
      (s.get32(OFF.budget) | 0) + bytes[record + REC.remaining],
    );
    const offset = bytes[record + REC.offset] |
      (bytes[record + REC.offset + 1] << 8);
    let rip = s.get(OFF.ripPage) + BigInt(offset);
    rip = this.mode === 64 ? BigInt.asUintN(64, rip) : rip & 0xffffffffn;
    s.set(OFF.rip, rip);
    const vector = s.get32(OFF.fault);
    if (vector === FAULT_SINGLE) {
      if ((s.get32(OFF.budget) | 0) > 0) this.step(1);
      return;
    }
    const withCode = vector === 8 || (vector >= 10 && vector <= 14) ||
      vector === 17;
    this.deliver(
      vector,
      "fault",
      withCode ? s.get32(OFF.faultError) : undefined,
    );
  }

  // ---- imports of generated code ----

  /** Runs a helper: 0 go on, 1 fault, 2 leave generated code with OFF.rip set. */
  callHelper(record: number): number {
    const insn = this.engine.blocks.insn(record);
    const s = this.state;
    this.currentInsn = insn;
    this.insnRecord = record;
    this.jumped = this.leaveAfter = false;
    try {
      const { semantic, options } = insn.form.definition;
      const helper = typeof semantic === "function"
        ? options.fallback!
        : semantic;
      helper.run(this, insn);
    } catch (error) {
      if (!(error instanceof GuestFault)) throw error;
      s.set32(OFF.fault, error.vector);
      s.set32(OFF.faultError, error.errorCode);
      return 1;
    }
    if (this.jumped) return 2;
    if (this.isShutdown) {
      // What is described after a triple fault is the instruction that led to it.
      s.set(OFF.rip, this.rip);
      return 2;
    }
    if (this.leaveAfter || insn.form.definition.options.ends) {
      s.set(OFF.rip, this.nextRip);
      return 2;
    }
    return 0;
  }

  /** Runs a slow path: 0 go on, 1 fault. */
  callSlowPath(_record: number, run: (cpu: HelperCpu) => void): number {
    try {
      run(this);
      return 0;
    } catch (error) {
      if (!(error instanceof GuestFault)) throw error;
      this.state.set32(OFF.fault, error.vector);
      this.state.set32(OFF.faultError, error.errorCode);
      return 1;
    }
  }

  // ---- HelperCpu ----

  get rip(): bigint {
    const bytes = this.memory.bytes;
    const offset = bytes[this.insnRecord + REC.offset] |
      (bytes[this.insnRecord + REC.offset + 1] << 8);
    return this.truncateRip(this.state.get(OFF.ripPage) + BigInt(offset));
  }

  get nextRip(): bigint {
    const bytes = this.memory.bytes;
    const offset = bytes[this.insnRecord + REC.next] |
      (bytes[this.insnRecord + REC.next + 1] << 8);
    return this.truncateRip(this.state.get(OFF.ripPage) + BigInt(offset));
  }

  private truncateRip(rip: bigint): bigint {
    return this.mode === 64 ? BigInt.asUintN(64, rip) : rip & 0xffffffffn;
  }

  jump(rip: bigint): void {
    this.state.set(OFF.rip, rip);
    this.jumped = true;
  }

  modeChanged(): void {
    const s = this.state;
    const cr0 = s.get32(OFF.cr0), cr4 = s.get32(OFF.cr4);
    const rflags = s.get32(OFF.rflags);
    const longMode = (s.get32(OFF.efer) & EFER.LMA) !== 0;
    const csAttr = s.get32(OFF.segAttr + CS * 4);
    const ssAttr = s.get32(OFF.segAttr + SS * 4);
    const v86 = (rflags & FLAG.VM) !== 0;
    const protectedMode = (cr0 & CR0.PE) !== 0;
    const cpl = !protectedMode ? 0 : v86 ? 3 : (ssAttr >> 5) & 3;
    const mode: CodeMode = longMode && csAttr & ATTR.L
      ? 64
      : csAttr & ATTR.DB && !v86
      ? 32
      : 16;
    s.set32(OFF.cpl, cpl);
    const watched = dataBreakpointsEnabled(s);
    if (watched !== this.mmu.watched) {
      this.mmu.watched = watched;
      this.mmu.flush();
    }
    this.mode = mode;
    this.tlbSet = cpl === 3 ? 2 : cr4 & CR4.SMAP && rflags & FLAG.AC ? 1 : 0;
    s.set32(OFF.readTlb, this.mmu.tlbAddress(this.tlbSet, false));
    s.set32(OFF.writeTlb, this.mmu.tlbAddress(this.tlbSet, true));
    s.set(
      OFF.spMask,
      mode === 64
        ? 0xffffffffffffffffn
        : ssAttr & ATTR.DB && protectedMode
        ? 0xffffffffn
        : 0xffffn,
    );
    const em = (cr0 & CR0.EM) !== 0, ts = (cr0 & CR0.TS) !== 0;
    s.set32(OFF.fpuTrap, em || ts ? VECTOR.NM : 0);
    s.set32(OFF.mmxTrap, em ? VECTOR.UD : ts ? VECTOR.NM : 0);
    s.set32(
      OFF.sseTrap,
      em || (cr4 & CR4.OSFXSR) === 0 ? VECTOR.UD : ts ? VECTOR.NM : 0,
    );
    let flat = 0;
    for (const segment of [ES, CS, SS, DS, FS, GS]) {
      if (mode === 64 || this.isFlat(segment)) flat |= 1 << segment;
    }
    s.set32(OFF.segFlat, flat);
    if (mode !== 64) {
      const base = s.get(OFF.segBase + CS * 8);
      if (base !== this.lastCsBase) {
        this.lastCsBase = base;
        this.generation++;
      }
    }
    this.updateJumpKey();
    this.leaveAfter = true;
  }

  private updateJumpKey(): void {
    const modeBits = this.mode === 64 ? 2 : this.mode === 32 ? 1 : 0;
    if (this.generation >= 1 << 28) {
      this.generation = 1;
      this.clearJumpCache();
    }
    this.state.set32(
      OFF.jumpKey,
      ((this.generation << 4) | (modeBits << 1) | (this.cpl === 3 ? 1 : 0)) >>>
        0,
    );
  }

  /** Readable, writable, expand-up, with a 4 GiB limit: no access can fail. */
  private isFlat(segment: number): boolean {
    const s = this.state;
    const attr = s.get32(OFF.segAttr + segment * 4);
    return s.get32(OFF.segLimit + segment * 4) === 0xffffffff &&
      (attr & (ATTR.UNUSABLE | ATTR.P | ATTR.S | 0xe)) ===
        (ATTR.P | ATTR.S | 2);
  }

  clearJumpCache(): void {
    const at = this.state.get32(OFF.jumpCache) >> 2;
    this.memory.words.fill(0, at, at + JUMP_CACHE_BYTES / 4);
  }

  flushTlb(keepGlobal: boolean): void {
    this.mmu.flush(keepGlobal);
    if (keepGlobal) {
      for (const at of this.localJumps) this.memory.words[at + 2] = 0;
    } else {
      this.generation++;
      this.updateJumpKey();
    }
    this.localJumps.length = 0;
    this.leaveAfter = true;
  }

  invalidatePage(linear: bigint): void {
    this.mmu.invalidate(Number(linear & 0xffffffffn));
    this.generation++;
    this.updateJumpKey();
    this.leaveAfter = true;
  }

  halt(): void {
    this.halted = true;
    this.leaveAfter = true;
  }

  inhibitInterrupts(): void {
    this.inhibit = true;
    this.leaveAfter = true;
  }

  cancelStep(): void {
    this.stepping = false;
  }

  endBlock(): void {
    this.leaveAfter = true;
  }

  /** Stops the vCPU for good, as the machine does when it is told of a triple fault. */
  shutdown(): void {
    this.isShutdown = true;
    this.leaveAfter = true;
  }

  /** The registers as text, for error messages and the monitor. */
  describe(): string {
    const s = this.state;
    const hex = (v: bigint | number, n = 16) => v.toString(16).padStart(n, "0");
    const lines: string[] = [];
    for (let i = 0; i < 16; i += 4) {
      lines.push(
        GPR_NAMES.slice(i, i + 4).map((name, j) =>
          `${name.padEnd(3)} ${hex(s.reg(i + j))}`
        ).join("  "),
      );
    }
    lines.push(
      `rip ${hex(s.get(OFF.rip))}  rflags ${
        hex(s.rflags, 8)
      }  cpl ${this.cpl}  ${this.mode}-bit code`,
    );
    for (let i = 0; i < 8; i++) {
      lines.push(
        `${SEGMENT_NAMES[i].padEnd(4)} ${
          hex(s.get32(OFF.segSelector + i * 4), 4)
        }  base ${hex(s.get(OFF.segBase + i * 8))}  ` +
          `limit ${hex(s.get32(OFF.segLimit + i * 4), 8)}  attributes ${
            hex(s.get32(OFF.segAttr + i * 4), 5)
          }`,
      );
    }
    lines.push(
      `cr0 ${hex(s.get(OFF.cr0))}  cr2 ${hex(s.get(OFF.cr2))}  cr3 ${
        hex(s.get(OFF.cr3))
      }  cr4 ${hex(s.get(OFF.cr4))}`,
    );
    lines.push(
      `efer ${hex(s.get(OFF.efer))}  gdt ${hex(s.get(OFF.gdtBase))}/${
        hex(s.get32(OFF.gdtLimit), 4)
      }  ` +
        `idt ${hex(s.get(OFF.idtBase))}/${hex(s.get32(OFF.idtLimit), 4)}`,
    );
    return lines.join("\n");
  }
}
