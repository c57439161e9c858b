/**
 * Real-time clock and CMOS memory (Motorola MC146818A data sheet; Intel ICH9 data sheet,
 * section 13.6, for ports 0x70 to 0x73 and the upper bank).
 *
 * The clock shows the guest's wall-clock time plus an offset that the guest makes by setting it.
 * Flags that no interrupt is enabled for are worked out when register C is read, so that an
 * unused clock costs no timer.
 *
 * @module
 */
import {
  bytewise,
  definePlugin,
  type Device,
  type DeviceContext,
  type IrqLine,
  type Timer,
} from "../../core/plugin.ts";
import {
  bytes,
  f64,
  type Infer,
  optional,
  schema,
  timer,
  u8,
} from "../../snapshot/schema.ts";
import {
  CLOCK_REGISTERS,
  decodeTime,
  encodeTime,
  nextAlarm,
  REG,
  RTC_24H,
} from "./rtc_time.ts";
import { check, checkBits, ticksAt, timeOfTick } from "./support.ts";

const INDEX_PORT = 0x70;
const PORT_COUNT = 4;
const RTC_IRQ = 8;
const BANK_SIZE = 128;
/** Bit 7 of port 0x70 disables NMIs, of which this chipset raises none; it is kept. */
const INDEX_MASK = 0x7f;
const CMOS_SIZE = 2 * BANK_SIZE;
const MS_PER_SECOND = 1000;
const NS_PER_MS = 1e6;

// Register A.
const REG_A_UIP = 0x80;
const REG_A_DV = 0x70;
const REG_A_RS = 0x0f;
const DV_32768 = 0x20;
/** DV2 and DV1: the divider is held in reset. */
const DV_RESET = 0x60;
const REG_A_RESET = DV_32768 | 0x06;
// Register B.
const REG_B_SET = 0x80;
const REG_B_PIE = 0x40;
const REG_B_AIE = 0x20;
const REG_B_UIE = 0x10;
const REG_B_SQWE = 0x08;
// Register C.
const REG_C_IRQF = 0x80;
const REG_C_PF = 0x40;
const REG_C_AF = 0x20;
const REG_C_UF = 0x10;
const REG_C_MASK = REG_C_IRQF | REG_C_PF | REG_C_AF | REG_C_UF;
// Register D.
const REG_D_VRT = 0x80;

/** UIP is set this long before an update, in milliseconds (t_BUC, table 6). */
const UIP_MS = 0.244;
const BASE_HERTZ = 32_768;
/** The first update comes half a second after the divider leaves reset. */
const DIVIDER_RESET_PHASE_MS = 500;

// CMOS locations that a PC's firmware fills.
const CMOS_EQUIPMENT = 0x14;
const EQUIPMENT_FPU = 0x02;
const CMOS_BASE_MEMORY = 0x15;
const CMOS_EXTENDED_MEMORY = 0x17;
const CMOS_CHECKSUM = 0x2e;
const CHECKSUM_FIRST = 0x10;
const CHECKSUM_LAST = 0x2d;
const CMOS_EXTENDED_MEMORY_2 = 0x30;
const CMOS_MEMORY_ABOVE_16M = 0x34;
const CMOS_MEMORY_ABOVE_4G = 0x5b;
const CMOS_CPU_COUNT = 0x5f;
const KIB = 1024;
const MIB = KIB * KIB;
const BASE_MEMORY_KIB = 640;

const rtcState = schema("rtc", 1, {
  index: u8(),
  upperIndex: u8({ max: INDEX_MASK }),
  /** CMOS memory; alarms and registers A and B are in it, the time and C are not. */
  cmos: bytes(CMOS_SIZE),
  registerC: u8(),
  /** The clock less the wall-clock time, in milliseconds. */
  offset: f64(),
  /** The clock, in milliseconds since 1970, while SET or the divider's reset holds it. */
  heldTime: optional(f64()),
  /** Days that the day of the week is ahead of the date. */
  weekdayOffset: u8({ max: 6 }),
  /** Virtual nanoseconds since flags were last worked out. */
  sinceFlags: f64(),
  /** The clock, in milliseconds since 1970, when they were. */
  flagsTime: f64(),
  periodic: timer(),
  update: timer(),
});

type RtcState = Infer<typeof rtcState>;

/** Milliseconds since the second began. */
function fraction(time: number): number {
  return time - Math.floor(time / MS_PER_SECOND) * MS_PER_SECOND;
}

class Rtc implements Device {
  readonly #ctx: DeviceContext<RtcState>;
  readonly #irq: IrqLine;
  readonly #periodic: Timer;
  readonly #update: Timer;
  readonly #cmos = new Uint8Array(CMOS_SIZE);
  #index = 0;
  #upperIndex = 0;
  #registerC = 0;
  #offset = 0;
  #heldTime: number | null = null;
  #weekdayOffset = 0;
  #flagsAt = 0;
  #flagsTime: number;

  constructor(ctx: DeviceContext<RtcState>) {
    this.#ctx = ctx;
    this.#irq = ctx.isa.irq(RTC_IRQ);
    const look = () => {
      this.#updateFlags();
      this.#schedule();
    };
    this.#periodic = ctx.clock.timer(look);
    this.#update = ctx.clock.timer(look);
    this.#flagsTime = this.#time;
    this.#cmos[REG.A] = REG_A_RESET;
    this.#cmos[REG.B] = RTC_24H;
    this.#describeMachine();
    ctx.isa.claimPorts(
      INDEX_PORT,
      PORT_COUNT,
      bytewise({
        read: (port) => this.#readPort(port - INDEX_PORT),
        write: (port, value) => this.#writePort(port - INDEX_PORT, value),
      }),
    );
    ctx.declare({ kind: "rtc", base: INDEX_PORT, irq: RTC_IRQ });
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  /** RESET#: interrupts off; time and memory run on the battery (data sheet, "RESET"). */
  reset(): void {
    this.#index = 0;
    this.#upperIndex = 0;
    this.#cmos[REG.B] &= ~(REG_B_PIE | REG_B_AIE | REG_B_UIE | REG_B_SQWE);
    this.#clearFlags();
    this.#describeMachine();
    this.#schedule();
  }

  // --- Ports.

  #readPort(port: number): number {
    switch (port) {
      case 1:
        return this.#read(this.#index & INDEX_MASK);
      case 3:
        return this.#read(BANK_SIZE + this.#upperIndex);
      default:
        // The index registers cannot be read.
        return 0xff;
    }
  }

  #writePort(port: number, value: number): void {
    switch (port) {
      case 0:
        this.#index = value;
        break;
      case 1:
        this.#write(this.#index & INDEX_MASK, value);
        break;
      case 2:
        this.#upperIndex = value & INDEX_MASK;
        break;
      case 3:
        this.#write(BANK_SIZE + this.#upperIndex, value);
        break;
    }
  }

  #read(index: number): number {
    if (CLOCK_REGISTERS.has(index)) return this.#readClock()[index];
    switch (index) {
      case REG.A:
        return this.#cmos[REG.A] | (this.#updateInProgress ? REG_A_UIP : 0);
      case REG.C: {
        this.#updateFlags();
        const flags = this.#registerC;
        this.#clearFlags();
        this.#schedule();
        return flags;
      }
      case REG.D:
        return REG_D_VRT;
      default:
        return this.#cmos[index];
    }
  }

  #write(index: number, value: number): void {
    if (CLOCK_REGISTERS.has(index)) {
      this.#writeClock(index, value);
      return;
    }
    switch (index) {
      case REG.A:
        this.#updateFlags();
        this.#changeControl(() =>
          this.#cmos[REG.A] = value & (REG_A_DV | REG_A_RS)
        );
        this.#schedule();
        break;
      case REG.B:
        this.#updateFlags();
        this.#changeControl(() =>
          // SET clears UIE.
          this.#cmos[REG.B] = value & REG_B_SET ? value & ~REG_B_UIE : value
        );
        this.#updateIrq();
        this.#schedule();
        break;
      case REG.C:
      case REG.D:
        break;
      default:
        this.#updateFlags();
        this.#cmos[index] = value;
        this.#schedule();
    }
  }

  // --- Time, in milliseconds since 1970.

  get #dividerHeld(): boolean {
    return (this.#cmos[REG.A] & DV_RESET) === DV_RESET;
  }

  /** The clock, with fractions. */
  get #time(): number {
    return this.#heldTime ?? this.#ctx.clock.wallTime() + this.#offset;
  }

  /** Applies a change of register A or B, which may stop or start the clock. */
  #changeControl(change: () => void): void {
    const time = this.#time;
    const divided = this.#dividerHeld;
    change();
    const held = (this.#cmos[REG.B] & REG_B_SET) !== 0 || this.#dividerHeld;
    if (held) {
      this.#heldTime ??= time;
    } else if (this.#heldTime !== null) {
      const wall = this.#ctx.clock.wallTime();
      const seconds = Math.floor(time / MS_PER_SECOND);
      // The divider keeps its phase through SET, but not through its own reset.
      const phase = divided
        ? DIVIDER_RESET_PHASE_MS
        : fraction(wall + this.#offset);
      this.#heldTime = null;
      this.#offset = Math.round(seconds * MS_PER_SECOND + phase - wall);
    }
    this.#restartFlags();
  }

  get #updateInProgress(): boolean {
    return this.#heldTime === null &&
      MS_PER_SECOND - fraction(this.#time) <= UIP_MS;
  }

  #readClock(): Record<number, number> {
    return encodeTime(this.#time, this.#weekdayOffset, this.#cmos[REG.B]);
  }

  #writeClock(index: number, value: number): void {
    this.#updateFlags();
    const registers = { ...this.#readClock(), [index]: value };
    const { time, weekdayOffset } = decodeTime(registers, this.#cmos[REG.B]);
    if (index === REG.DAY_OF_WEEK) this.#weekdayOffset = weekdayOffset;
    const old = this.#time;
    const seconds = Math.floor(old / MS_PER_SECOND) * MS_PER_SECOND;
    if (this.#heldTime === null) this.#offset += time - seconds;
    else this.#heldTime = time + (old - seconds);
    this.#restartFlags();
    this.#schedule();
  }

  // --- Flags and interrupts.

  /** Periods per second that RS3-RS0 select (table 5); undefined for none. */
  #periodicHertz(): number | undefined {
    const rate = this.#cmos[REG.A] & REG_A_RS;
    if (rate === 0 || this.#dividerHeld) return undefined;
    // The two shortest rates of the 4 MHz time base are 256 and 128 Hz with this one.
    return BASE_HERTZ >> (rate <= 2 ? rate + 6 : rate - 1);
  }

  /** Works out which flags have been set since the last time. */
  #updateFlags(): void {
    const now = this.#ctx.clock.now();
    const time = this.#time;
    const hertz = this.#periodicHertz();
    if (
      hertz !== undefined &&
      ticksAt(now, hertz) > ticksAt(this.#flagsAt, hertz)
    ) this.#registerC |= REG_C_PF;
    const second = Math.floor(time / MS_PER_SECOND);
    const last = Math.floor(this.#flagsTime / MS_PER_SECOND);
    if (this.#heldTime === null && second > last) {
      this.#registerC |= REG_C_UF;
      const alarm = this.#nextAlarm(last);
      if (alarm !== undefined && alarm <= second) this.#registerC |= REG_C_AF;
    }
    this.#restartFlags();
    this.#updateIrq();
  }

  #restartFlags(): void {
    this.#flagsAt = this.#ctx.clock.now();
    this.#flagsTime = this.#time;
  }

  #nextAlarm(after: number): number | undefined {
    return nextAlarm(after, this.#cmos, this.#cmos[REG.B]);
  }

  #clearFlags(): void {
    this.#registerC = 0;
    this.#restartFlags();
    this.#updateIrq();
  }

  #updateIrq(): void {
    // Flags and enables are in the same bits.
    const enabled = this.#registerC & this.#cmos[REG.B] &
      (REG_C_PF | REG_C_AF | REG_C_UF);
    if (enabled) this.#registerC |= REG_C_IRQF;
    else this.#registerC &= ~REG_C_IRQF;
    const level = enabled !== 0 && !this.#ctx.interrupts.legacyReplacement;
    if (level !== this.#irq.level) this.#irq.set(level);
  }

  /** Arms the timers for the next event that would interrupt. */
  #schedule(): void {
    const control = this.#cmos[REG.B];
    const hertz = this.#periodicHertz();
    if (control & REG_B_PIE && hertz !== undefined) {
      const tick = ticksAt(this.#ctx.clock.now(), hertz) + 1;
      this.#periodic.armAt(timeOfTick(tick, hertz));
    } else {
      this.#periodic.cancel();
    }
    const second = Math.floor(this.#time / MS_PER_SECOND);
    let next: number | undefined;
    if (this.#heldTime !== null) next = undefined;
    else if (control & REG_B_UIE) next = second + 1;
    else if (control & REG_B_AIE) next = this.#nextAlarm(second);
    if (next === undefined) {
      this.#update.cancel();
    } else {
      const wait = (next * MS_PER_SECOND - this.#time) * NS_PER_MS;
      this.#update.armAt(this.#ctx.clock.now() + Math.max(1, Math.ceil(wait)));
    }
  }

  // --- What firmware leaves in CMOS.

  #describeMachine(): void {
    const { low, high } = this.#ctx.machine.memory;
    const put = (at: number, value: number, count: number) => {
      for (let i = 0; i < count; i++) {
        this.#cmos[at + i] = Math.floor(value / 2 ** (8 * i));
      }
    };
    const word = (value: number) => Math.min(Math.floor(value), 0xffff);
    const extended = word(Math.max(0, low - MIB) / KIB);
    put(CMOS_EQUIPMENT, EQUIPMENT_FPU, 1);
    put(CMOS_BASE_MEMORY, BASE_MEMORY_KIB, 2);
    put(CMOS_EXTENDED_MEMORY, extended, 2);
    put(CMOS_EXTENDED_MEMORY_2, extended, 2);
    put(
      CMOS_MEMORY_ABOVE_16M,
      word(Math.max(0, low - 16 * MIB) / (64 * KIB)),
      2,
    );
    put(CMOS_MEMORY_ABOVE_4G, Math.floor(high / (64 * KIB)), 3);
    put(CMOS_CPU_COUNT, Math.max(0, this.#ctx.cpus.length - 1), 1);
    let sum = 0;
    for (let i = CHECKSUM_FIRST; i <= CHECKSUM_LAST; i++) sum += this.#cmos[i];
    // The checksum alone is stored high byte first.
    this.#cmos[CMOS_CHECKSUM] = sum >> 8;
    this.#cmos[CMOS_CHECKSUM + 1] = sum;
  }

  // --- Snapshots.

  #save(): RtcState {
    return {
      index: this.#index,
      upperIndex: this.#upperIndex,
      cmos: this.#cmos.slice(),
      registerC: this.#registerC,
      offset: this.#offset,
      heldTime: this.#heldTime,
      weekdayOffset: this.#weekdayOffset,
      sinceFlags: this.#ctx.clock.now() - this.#flagsAt,
      flagsTime: this.#flagsTime,
      periodic: this.#periodic.save(),
      update: this.#update.save(),
    };
  }

  #restore(state: RtcState): void {
    checkBits("registerC", state.registerC, REG_C_MASK);
    checkBits("cmos.10", state.cmos[REG.A], REG_A_DV | REG_A_RS);
    for (const register of [...CLOCK_REGISTERS, REG.C, REG.D]) {
      check(
        state.cmos[register] === 0,
        `cmos.${register}`,
        state.cmos[register],
        "0, for the register is not kept in memory",
      );
    }
    check(
      (state.cmos[REG.B] & (REG_B_SET | REG_B_UIE)) !==
        (REG_B_SET | REG_B_UIE),
      "cmos.11",
      state.cmos[REG.B],
      "UIE clear while SET is set",
    );
    const held = (state.cmos[REG.B] & REG_B_SET) !== 0 ||
      (state.cmos[REG.A] & DV_RESET) === DV_RESET;
    check(
      (state.heldTime !== null) === held,
      "heldTime",
      state.heldTime ?? "null",
      "a time exactly while SET or the divider's reset holds the clock",
    );
    for (const field of ["offset", "heldTime", "flagsTime"] as const) {
      const value = state[field] ?? 0;
      check(
        Math.abs(value) <= MAX_TIME_MS,
        field,
        value,
        "milliseconds within the years that the clock can show",
      );
    }
    check(
      state.sinceFlags >= 0 && state.sinceFlags <= this.#ctx.clock.now(),
      "sinceFlags",
      state.sinceFlags,
      "nanoseconds since some time in the machine's life",
    );
    this.#index = state.index;
    this.#upperIndex = state.upperIndex;
    this.#cmos.set(state.cmos);
    this.#registerC = state.registerC;
    this.#offset = state.offset;
    this.#heldTime = state.heldTime;
    this.#weekdayOffset = state.weekdayOffset;
    this.#flagsAt = this.#ctx.clock.now() - state.sinceFlags;
    this.#flagsTime = state.flagsTime;
    this.#periodic.restore(state.periodic);
    this.#update.restore(state.update);
  }
}

/** More than the years that two binary bytes can be made to mean. */
const MAX_TIME_MS = 26_000 * 366 * 86_400 * MS_PER_SECOND;

/** Real-time clock with 256 bytes of CMOS memory. */
export default definePlugin({
  name: "rtc",
  version: "1.0.0",
  summary: "MC146818 real-time clock and CMOS memory",
  options: {},
  state: rtcState,
  create: (ctx) => new Rtc(ctx),
});
