/**
 * Local APIC, one for each vCPU, in xAPIC and x2APIC mode (Intel SDM vol. 3A, chapter 12).
 *
 * All vCPUs see their own APIC at the same address, so one device holds them all. This file
 * has the two register interfaces and the messages; `lapic_timer.ts` has the timer.
 *
 * @module
 */
import {
  type AccessSize,
  type ApicMessage,
  type CpuPort,
  definePlugin,
  type Device,
  type DeviceContext,
  type LocalApic,
  MsrFault,
} from "../../core/plugin.ts";
import { type Infer, list, schema } from "../../snapshot/schema.ts";
import { ApicTimer, TIMER_DIVIDE_MASK } from "./lapic_timer.ts";
import {
  APIC_BASE_BSP,
  APIC_BASE_EN,
  APIC_BASE_EXTD,
  APIC_BASE_FLAGS,
  APIC_DEFAULT_BASE,
  APR,
  CLASS,
  CURRENT_COUNT,
  DFR,
  DFR_FLAT,
  DFR_MODEL,
  DIVIDE_CONFIGURATION,
  EOI,
  ESR,
  ESR_ILLEGAL_REGISTER,
  ESR_RECEIVE_ILLEGAL_VECTOR,
  ESR_SEND_ILLEGAL_VECTOR,
  EXTINT,
  FIRST_VECTOR,
  FIXED,
  IA32_APIC_BASE,
  IA32_TSC_DEADLINE,
  ICR_ASSERT,
  ICR_HIGH,
  ICR_LEVEL,
  ICR_LOGICAL,
  ICR_LOW,
  ICR_SHORTHAND_SHIFT,
  ICR_VECTOR,
  ICR_WRITABLE,
  ID,
  INIT,
  INITIAL_COUNT,
  IRR,
  ISR,
  LDR,
  LINT0_VIRTUAL_WIRE,
  LOWEST_PRIORITY,
  LVT_COUNT,
  LVT_DELIVERY,
  LVT_DELIVERY_SHIFT,
  LVT_ERROR,
  LVT_INDEX_ERROR,
  LVT_INDEX_LINT0,
  LVT_LEVEL,
  LVT_MASKED,
  LVT_REMOTE_IRR,
  LVT_TIMER,
  LVT_VECTOR,
  LVT_WRITABLE,
  NMI,
  PPR,
  SELF_IPI,
  SHORTHAND_ALL,
  SHORTHAND_NONE,
  SHORTHAND_SELF,
  STARTUP,
  SVR,
  SVR_ENABLE,
  SVR_MASK,
  SVR_RESET,
  TMR,
  TPR,
  VECTOR_WORDS,
  VERSION,
  VERSION_VALUE,
  X2APIC_BROADCAST,
  X2APIC_COUNT,
  X2APIC_FIRST,
  XAPIC_BROADCAST,
} from "./lapic_registers.ts";
import { type ApicState, apicState, checkApicState } from "./lapic_state.ts";
import { check } from "./support.ts";

const PAGE_SIZE = 0x1000;
const MAX_APICS = 255;

const lapicState = schema("lapic", 1, {
  apics: list(apicState, { max: MAX_APICS }),
});

type LapicState = Infer<typeof lapicState>;

/** The highest vector whose bit is set; -1 for none. */
function highestVector(words: Uint32Array): number {
  for (let word = VECTOR_WORDS - 1; word >= 0; word--) {
    if (words[word] !== 0) return word * 32 + 31 - Math.clz32(words[word]);
  }
  return -1;
}

function setVector(words: Uint32Array, vector: number, on: boolean): void {
  const bit = 1 << (vector & 31);
  if (on) words[vector >> 5] |= bit;
  else words[vector >> 5] &= ~bit;
}

function hasVector(words: Uint32Array, vector: number): boolean {
  return (words[vector >> 5] & 1 << (vector & 31)) !== 0;
}

/** One local APIC. */
class Apic implements LocalApic {
  readonly #ctx: DeviceContext<LapicState>;
  readonly #cpu: CpuPort;
  readonly #all: readonly Apic[];
  readonly #timer: ApicTimer;
  #base: bigint;
  #id: number;
  #tpr = 0;
  #logical = 0;
  #dfr = DFR_FLAT;
  #svr = SVR_RESET;
  readonly #isr = new Uint32Array(VECTOR_WORDS);
  readonly #tmr = new Uint32Array(VECTOR_WORDS);
  readonly #irr = new Uint32Array(VECTOR_WORDS);
  #esr = 0;
  #esrPending = 0;
  #icrLow = 0;
  #icrHigh = 0;
  readonly #lvt = new Uint32Array(LVT_COUNT).fill(LVT_MASKED);
  #externalLevel = false;
  #externalMessage = false;

  constructor(
    ctx: DeviceContext<LapicState>,
    cpu: CpuPort,
    all: readonly Apic[],
  ) {
    this.#ctx = ctx;
    this.#cpu = cpu;
    this.#all = all;
    this.#id = cpu.index;
    this.#base = this.#resetBase();
    this.#timer = new ApicTimer(
      ctx.clock,
      cpu,
      () => this.#lvt[0],
      () => this.#deliverLocal(0),
    );
    cpu.claimMsrs(IA32_APIC_BASE, 1, {
      read: () => this.#base,
      write: (_index, value) => this.#writeBase(value),
    });
    cpu.claimMsrs(IA32_TSC_DEADLINE, 1, {
      read: () => this.#timer.tscDeadline,
      write: (_index, value) => void (this.#timer.tscDeadline = value),
    });
    cpu.claimMsrs(X2APIC_FIRST, X2APIC_COUNT, {
      read: (index) => this.#readMsr(index - X2APIC_FIRST),
      write: (index, value) => this.#writeMsr(index - X2APIC_FIRST, value),
    });
    ctx.interrupts.registerLocalApic(cpu.index, this);
  }

  /** Power-on state (section 12.4.7.1). */
  reset(): void {
    this.#base = this.#resetBase();
    this.#id = this.#cpu.index;
    this.#externalMessage = false;
    this.#initialize();
    if (this.#cpu.index === 0) {
      this.#lvt[LVT_INDEX_LINT0] = LINT0_VIRTUAL_WIRE;
    }
  }

  /** State after INIT: as after power-on but for the ID and IA32_APIC_BASE (section 12.4.7.3). */
  #initialize(): void {
    this.#tpr = 0;
    this.#logical = 0;
    this.#dfr = DFR_FLAT;
    this.#svr = SVR_RESET;
    this.#isr.fill(0);
    this.#tmr.fill(0);
    this.#irr.fill(0);
    this.#esr = 0;
    this.#esrPending = 0;
    this.#icrLow = 0;
    this.#icrHigh = 0;
    this.#lvt.fill(LVT_MASKED);
    this.#timer.reset();
    this.#cpu.interruptChanged();
  }

  #resetBase(): bigint {
    return BigInt(APIC_DEFAULT_BASE) | APIC_BASE_EN |
      (this.#cpu.index === 0 ? APIC_BASE_BSP : 0n);
  }

  get #enabled(): boolean {
    return (this.#base & APIC_BASE_EN) !== 0n;
  }

  get #x2apic(): boolean {
    return (this.#base & APIC_BASE_EXTD) !== 0n;
  }

  get #softwareEnabled(): boolean {
    return (this.#svr & SVR_ENABLE) !== 0;
  }

  // --- What the rest of the machine sees.

  get id(): number {
    return this.#x2apic ? this.#cpu.index : this.#id;
  }

  matches(message: ApicMessage): boolean {
    if (!this.#enabled) return false;
    const { destination } = message;
    if (message.destinationMode === 0) {
      return destination === this.id || destination === XAPIC_BROADCAST ||
        destination === X2APIC_BROADCAST;
    }
    if (this.#x2apic) {
      const logical = this.#readLdr();
      return destination === X2APIC_BROADCAST ||
        (destination >>> 16 === logical >>> 16 &&
          (destination & logical & 0xffff) !== 0);
    }
    if (destination === XAPIC_BROADCAST) return true;
    if ((this.#dfr & DFR_MODEL) >>> 0 === DFR_MODEL) {
      return (destination & this.#logical) !== 0;
    }
    // Cluster model (section 12.6.2.2): cluster in the high half, members in the low half.
    return (destination ^ this.#logical) >> 4 === 0 &&
      (destination & this.#logical & 0x0f) !== 0;
  }

  accept(message: ApicMessage): void {
    switch (message.deliveryMode) {
      case FIXED:
      case LOWEST_PRIORITY:
        this.#acceptVector(message.vector, message.level);
        break;
      case NMI:
        this.#cpu.nmi();
        break;
      case INIT:
        this.#initialize();
        this.#cpu.init();
        break;
      case STARTUP:
        this.#cpu.startup(message.vector);
        break;
      case EXTINT:
        this.#externalMessage = true;
        this.#cpu.interruptChanged();
        break;
    }
  }

  pending(): boolean {
    return this.#deliverable() >= 0 || this.#externalPending();
  }

  acknowledge(): number {
    const vector = this.#deliverable();
    if (vector >= 0) {
      setVector(this.#irr, vector, false);
      setVector(this.#isr, vector, true);
      return vector;
    }
    if (!this.#externalPending()) return -1;
    this.#externalMessage = false;
    return this.#ctx.interrupts.pic?.acknowledge() ?? -1;
  }

  get taskPriority(): number {
    return this.#tpr >> 4;
  }

  set taskPriority(value: number) {
    this.#writeTpr((value & 0x0f) << 4);
  }

  get arbitrationPriority(): number {
    return Math.max(
      this.#tpr,
      highestVector(this.#isr) & CLASS,
      highestVector(this.#irr) & CLASS,
    );
  }

  setExternalInterrupt(level: boolean): void {
    if (level === this.#externalLevel) return;
    this.#externalLevel = level;
    if (level) this.#raiseLint0();
    this.#cpu.interruptChanged();
  }

  // --- Interrupts.

  /** Processor priority (section 12.8.3.1). */
  get #ppr(): number {
    const inService = Math.max(0, highestVector(this.#isr)) & CLASS;
    return (this.#tpr & CLASS) >= inService ? this.#tpr : inService;
  }

  /** The requested vector that the processor priority lets through; -1 for none. */
  #deliverable(): number {
    if (!this.#enabled || !this.#softwareEnabled) return -1;
    const vector = highestVector(this.#irr);
    return vector >> 4 > this.#ppr >> 4 ? vector : -1;
  }

  /** Whether an ExtINT, by message or through LINT0, can be taken. */
  #externalPending(): boolean {
    // With the APIC disabled, LINT0 is the processor's INTR pin (section 12.4.3).
    if (!this.#enabled) return this.#externalLevel;
    const lint0 = this.#lvt[LVT_INDEX_LINT0];
    return this.#externalMessage ||
      this.#externalLevel &&
        (lint0 & (LVT_DELIVERY | LVT_MASKED)) === EXTINT << LVT_DELIVERY_SHIFT;
  }

  #acceptVector(vector: number, level: boolean): void {
    if (!this.#enabled || !this.#softwareEnabled) return;
    if (vector < FIRST_VECTOR) {
      this.#error(ESR_RECEIVE_ILLEGAL_VECTOR);
      return;
    }
    setVector(this.#irr, vector, true);
    setVector(this.#tmr, vector, level);
    this.#cpu.interruptChanged();
  }

  /** LINT0 rose, or was unmasked while high, in a mode other than ExtINT. */
  #raiseLint0(): void {
    const entry = this.#lvt[LVT_INDEX_LINT0];
    if (entry & LVT_MASKED) return;
    if (!(entry & LVT_LEVEL)) {
      this.#deliverLocal(LVT_INDEX_LINT0);
    } else if (!(entry & (LVT_REMOTE_IRR | LVT_DELIVERY))) {
      this.#lvt[LVT_INDEX_LINT0] |= LVT_REMOTE_IRR;
      this.#acceptVector(entry & LVT_VECTOR, true);
    }
  }

  /** Delivers a local interrupt as its LVT entry says. */
  #deliverLocal(index: number): void {
    const entry = this.#lvt[index];
    if (entry & LVT_MASKED) return;
    switch ((entry & LVT_DELIVERY) >> LVT_DELIVERY_SHIFT) {
      case FIXED:
        this.#acceptVector(entry & LVT_VECTOR, false);
        break;
      case NMI:
        this.#cpu.nmi();
        break;
    }
  }

  #error(bit: number): void {
    if (this.#esrPending & bit) return;
    this.#esrPending |= bit;
    // An error entry with an illegal vector would be an error again.
    const entry = this.#lvt[LVT_INDEX_ERROR];
    if ((entry & LVT_VECTOR) >= FIRST_VECTOR) {
      this.#deliverLocal(LVT_INDEX_ERROR);
    }
  }

  #writeEoi(): void {
    const vector = highestVector(this.#isr);
    if (vector < 0) return;
    setVector(this.#isr, vector, false);
    if (hasVector(this.#tmr, vector)) {
      this.#ctx.interrupts.broadcastEoi(vector);
      const entry = this.#lvt[LVT_INDEX_LINT0];
      if (entry & LVT_REMOTE_IRR && (entry & LVT_VECTOR) === vector) {
        this.#lvt[LVT_INDEX_LINT0] &= ~LVT_REMOTE_IRR;
        if (this.#externalLevel) this.#raiseLint0();
      }
    }
    this.#cpu.interruptChanged();
  }

  #writeTpr(value: number): void {
    this.#tpr = value;
    this.#cpu.interruptChanged();
  }

  #writeSvr(value: number): void {
    this.#svr = value & SVR_MASK;
    // Software disable masks every LVT entry (section 12.4.7.2).
    if (!this.#softwareEnabled) {
      for (let i = 0; i < LVT_COUNT; i++) this.#lvt[i] |= LVT_MASKED;
    }
    this.#cpu.interruptChanged();
  }

  #writeLvt(index: number, value: number): void {
    if (index === 0) this.#timer.settle();
    const old = this.#lvt[index];
    let entry = value & LVT_WRITABLE[index];
    if (!this.#softwareEnabled) entry |= LVT_MASKED;
    if (index === LVT_INDEX_LINT0 && entry & LVT_LEVEL) {
      entry |= old & LVT_REMOTE_IRR;
    }
    this.#lvt[index] = entry;
    if (index === 0) {
      this.#timer.modeChanged(old);
    } else if (index === LVT_INDEX_LINT0) {
      if (this.#externalLevel && entry & LVT_LEVEL) this.#raiseLint0();
      this.#cpu.interruptChanged();
    }
  }

  // --- Interprocessor interrupts (section 12.6).

  #sendIpi(destination: number): void {
    const low = this.#icrLow;
    const deliveryMode = low >> LVT_DELIVERY_SHIFT & 7;
    const vector = low & ICR_VECTOR;
    const level = (low & ICR_LEVEL) !== 0;
    // INIT level de-assert only synchronizes arbitration IDs, which this APIC does not have.
    if (deliveryMode === INIT && level && !(low & ICR_ASSERT)) return;
    if (deliveryMode <= LOWEST_PRIORITY && vector < FIRST_VECTOR) {
      this.#error(ESR_SEND_ILLEGAL_VECTOR);
      return;
    }
    const message: ApicMessage = {
      destination,
      destinationMode: low & ICR_LOGICAL ? 1 : 0,
      deliveryMode,
      vector,
      level: false,
    };
    const shorthand = low >> ICR_SHORTHAND_SHIFT & 3;
    if (shorthand === SHORTHAND_NONE) {
      this.#ctx.interrupts.deliver(message);
    } else if (shorthand === SHORTHAND_SELF) {
      // Only fixed interrupts may be sent to self.
      if (deliveryMode === FIXED) this.accept(message);
    } else {
      for (const apic of this.#all) {
        if (shorthand === SHORTHAND_ALL || apic !== this) {
          if (apic.#enabled) apic.accept(message);
        }
      }
    }
  }

  // --- Registers.

  #readLdr(): number {
    if (!this.#x2apic) return (this.#logical << 24) >>> 0;
    // Section 12.12.10.2: cluster and member from the x2APIC ID.
    const id = this.#cpu.index;
    return ((id >> 4) << 16 | 1 << (id & 0x0f)) >>> 0;
  }

  /** A register both modes have; undefined where there is none to read. */
  #read(register: number): number | undefined {
    if (register >= ISR && register < ESR) {
      const words = register < TMR
        ? this.#isr
        : register < IRR
        ? this.#tmr
        : this.#irr;
      return words[register % VECTOR_WORDS];
    }
    if (register >= LVT_TIMER && register <= LVT_ERROR) {
      return this.#lvt[register - LVT_TIMER];
    }
    switch (register) {
      case VERSION:
        return VERSION_VALUE;
      case TPR:
        return this.#tpr;
      case PPR:
        return this.#ppr;
      case LDR:
        return this.#readLdr();
      case SVR:
        return this.#svr;
      case ESR:
        return this.#esr;
      case INITIAL_COUNT:
        return this.#timer.initialCount;
      case CURRENT_COUNT:
        return this.#timer.currentCount;
      case DIVIDE_CONFIGURATION:
        return this.#timer.divide;
      default:
        return undefined;
    }
  }

  /** Writes a register both modes have; false where there is none to write. */
  #write(register: number, value: number): boolean {
    if (register >= LVT_TIMER && register <= LVT_ERROR) {
      this.#writeLvt(register - LVT_TIMER, value);
      return true;
    }
    switch (register) {
      case TPR:
        this.#writeTpr(value & 0xff);
        return true;
      case EOI:
        this.#writeEoi();
        return true;
      case SVR:
        this.#writeSvr(value);
        return true;
      case ESR:
        this.#esr = this.#esrPending;
        this.#esrPending = 0;
        return true;
      case INITIAL_COUNT:
        this.#timer.initialCount = value;
        return true;
      case DIVIDE_CONFIGURATION:
        this.#timer.divide = value & TIMER_DIVIDE_MASK;
        return true;
      default:
        return false;
    }
  }

  /** The register page; it is there in xAPIC mode only. */
  readPage(offset: number, size: AccessSize): number {
    if (!this.#enabled || this.#x2apic) return 0xffff_ffff;
    const value = this.#readXapic(offset >> 4);
    // A register is the first doubleword of its 16 bytes.
    const byte = offset & 0x0f;
    return byte + size > 4 ? 0 : value >>> (8 * byte);
  }

  #readXapic(register: number): number {
    switch (register) {
      case ID:
        return (this.#id << 24) >>> 0;
      case APR:
        return this.arbitrationPriority;
      case DFR:
        return this.#dfr;
      case ICR_LOW:
        return this.#icrLow;
      case ICR_HIGH:
        return this.#icrHigh;
      case EOI:
        return 0;
    }
    const value = this.#read(register);
    if (value === undefined) this.#error(ESR_ILLEGAL_REGISTER);
    return value ?? 0;
  }

  /** Only aligned doublewords may be written (section 12.4.1). */
  writePage(offset: number, size: AccessSize, value: number): void {
    if (!this.#enabled || this.#x2apic || size !== 4 || offset & 0x0f) return;
    const register = offset >> 4;
    switch (register) {
      case ID:
        this.#id = value >>> 24;
        break;
      case LDR:
        this.#logical = value >>> 24;
        break;
      case DFR:
        this.#dfr = (value | ~DFR_MODEL) >>> 0;
        break;
      case ICR_LOW:
        this.#icrLow = value & ICR_WRITABLE;
        this.#sendIpi(this.#icrHigh >>> 24);
        break;
      case ICR_HIGH:
        this.#icrHigh = (value & 0xff00_0000) >>> 0;
        break;
      default:
        if (
          !this.#write(register, value) &&
          this.#readXapicExists(register) === false
        ) this.#error(ESR_ILLEGAL_REGISTER);
    }
  }

  /** Whether a register that cannot be written can at least be read. */
  #readXapicExists(register: number): boolean {
    return register === APR || this.#read(register) !== undefined;
  }

  #readMsr(register: number): bigint {
    if (!this.#x2apic) throw new MsrFault("x2APIC register in xAPIC mode");
    if (register === ID) return BigInt(this.#cpu.index);
    if (register === ICR_LOW) {
      return BigInt(this.#icrHigh) << 32n | BigInt(this.#icrLow);
    }
    const value = this.#read(register);
    if (value === undefined) {
      throw new MsrFault(`no x2APIC register 0x${register.toString(16)}`);
    }
    return BigInt(value);
  }

  #writeMsr(register: number, value: bigint): void {
    if (!this.#x2apic) throw new MsrFault("x2APIC register in xAPIC mode");
    const low = Number(value & 0xffff_ffffn);
    const reserved = (mask: number) => {
      if (value >> 32n !== 0n || (low & ~mask) !== 0) {
        throw new MsrFault(
          `reserved bits in x2APIC register 0x${register.toString(16)}`,
        );
      }
    };
    if (register === ICR_LOW) {
      if (low & ~ICR_WRITABLE) throw new MsrFault("reserved bits in ICR");
      this.#icrLow = low;
      this.#icrHigh = Number(value >> 32n);
      this.#sendIpi(this.#icrHigh);
      return;
    }
    switch (register) {
      case EOI:
      case ESR:
        reserved(0);
        break;
      case TPR:
        reserved(0xff);
        break;
      case SVR:
        reserved(SVR_MASK);
        break;
      case INITIAL_COUNT:
        reserved(-1);
        break;
      case DIVIDE_CONFIGURATION:
        reserved(TIMER_DIVIDE_MASK);
        break;
      case SELF_IPI:
        reserved(ICR_VECTOR);
        if (low < FIRST_VECTOR) this.#error(ESR_SEND_ILLEGAL_VECTOR);
        else this.#acceptVector(low, false);
        return;
      default:
        if (register >= LVT_TIMER && register <= LVT_ERROR) {
          reserved(LVT_WRITABLE[register - LVT_TIMER]);
        }
    }
    if (!this.#write(register, low)) {
      throw new MsrFault(`no x2APIC register 0x${register.toString(16)}`);
    }
  }

  /** Mode changes that figure 12-27 has no arrow for are #GP. */
  #writeBase(value: bigint): void {
    const flags = value & APIC_BASE_FLAGS;
    const enable = (value & APIC_BASE_EN) !== 0n;
    const extend = (value & APIC_BASE_EXTD) !== 0n;
    if (extend && (!enable || !this.#enabled)) {
      throw new MsrFault("x2APIC mode is entered from xAPIC mode only");
    }
    if (!extend && enable && this.#x2apic) {
      throw new MsrFault("x2APIC mode is left by disabling the APIC only");
    }
    if (value - flags !== BigInt(APIC_DEFAULT_BASE)) {
      this.#ctx.log.warn(
        `vCPU ${this.#cpu.index} tried to move its APIC to ` +
          `0x${(value - flags).toString(16)}: it stays at 0x${
            APIC_DEFAULT_BASE.toString(16)
          }`,
      );
      throw new MsrFault("the APIC page cannot be moved");
    }
    const disabled = this.#enabled && !enable;
    this.#base = value & ~APIC_BASE_BSP |
      (this.#cpu.index === 0 ? APIC_BASE_BSP : 0n);
    if (disabled) {
      this.#id = this.#cpu.index;
      this.#initialize();
    }
    this.#cpu.interruptChanged();
  }

  // --- Snapshots.

  save(): ApicState {
    return {
      base: this.#base,
      id: this.#id,
      tpr: this.#tpr,
      logical: this.#logical,
      dfr: this.#dfr,
      svr: this.#svr,
      isr: [...this.#isr],
      tmr: [...this.#tmr],
      irr: [...this.#irr],
      esr: this.#esr,
      esrPending: this.#esrPending,
      icrLow: this.#icrLow,
      icrHigh: this.#icrHigh,
      lvt: [...this.#lvt],
      ...this.#timer.save(),
      externalLevel: this.#externalLevel,
      externalMessage: this.#externalMessage,
    };
  }

  restore(state: ApicState): void {
    this.#base = state.base;
    this.#id = state.id;
    this.#tpr = state.tpr;
    this.#logical = state.logical;
    this.#dfr = state.dfr;
    this.#svr = state.svr;
    this.#isr.set(state.isr);
    this.#tmr.set(state.tmr);
    this.#irr.set(state.irr);
    this.#esr = state.esr;
    this.#esrPending = state.esrPending;
    this.#icrLow = state.icrLow;
    this.#icrHigh = state.icrHigh;
    this.#lvt.set(state.lvt);
    this.#timer.restore(state);
    this.#externalLevel = state.externalLevel;
    this.#externalMessage = state.externalMessage;
  }
}

class LocalApics implements Device {
  readonly #apics: Apic[] = [];

  constructor(ctx: DeviceContext<LapicState>) {
    for (const cpu of ctx.cpus) {
      this.#apics.push(new Apic(ctx, cpu, this.#apics));
    }
    const current = () => this.#apics[ctx.machine.currentCpu ?? 0];
    ctx.isa.claimMemory(APIC_DEFAULT_BASE, PAGE_SIZE, {
      read: (offset, size) => current().readPage(offset, size),
      write: (offset, size, value) => current().writePage(offset, size, value),
    });
    ctx.snapshot.register({
      save: () => ({ apics: this.#apics.map((apic) => apic.save()) }),
      restore: ({ apics }) => {
        check(
          apics.length === this.#apics.length,
          "apics",
          apics.length,
          `${this.#apics.length}, one for each vCPU`,
        );
        apics.forEach((state, i) =>
          checkApicState(`apics.${i}`, state, i === 0)
        );
        apics.forEach((state, i) => this.#apics[i].restore(state));
      },
    });
  }

  reset(): void {
    for (const apic of this.#apics) apic.reset();
  }
}

/** The local APICs of all vCPUs. */
export default definePlugin({
  name: "lapic",
  version: "1.0.0",
  summary: "local APIC (xAPIC and x2APIC) of every vCPU",
  options: {},
  state: lapicState,
  create: (ctx) => new LocalApics(ctx),
});
