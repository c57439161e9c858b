/**
 * One counter of an 8254 (Intel 8254 data sheet, 231164): what its output and its count are is
 * computed from how many clocks have passed, so that nothing happens while nobody looks.
 *
 * @module
 */
import {
  bool,
  f64,
  type Infer,
  optional,
  record,
  u16,
  u32,
  u8,
} from "../../snapshot/schema.ts";
import { check } from "./support.ts";

/** The counters' clock. */
export const PIT_HERTZ = 1_193_182;

// Control word format ("Programming the 8254").
const RW_SHIFT = 4;
const RW_LSB = 1;
const RW_MSB = 2;
const RW_BOTH = 3;
const MODE_SHIFT = 1;
const MODE_MASK = 7;
const BCD = 0x01;
// Status byte (read-back command).
const STATUS_OUTPUT = 0x80;
const STATUS_NULL_COUNT = 0x40;

const BINARY_RANGE = 0x10000;
const BCD_RANGE = 10_000;
const MAX_MODE = 5;

/** What a snapshot holds of a counter. Clocks are relative to the present one. */
export const pitCounterState = record({
  access: u8({ min: RW_LSB, max: RW_BOTH }),
  mode: u8({ max: MAX_MODE }),
  bcd: bool(),
  gate: bool(),
  /** The first of two bytes of a count, when it has been written. */
  firstByte: optional(u8()),
  /** The next byte read is the high one. */
  readHigh: bool(),
  latchedCount: optional(u16()),
  latchedStatus: optional(u8()),
  nullCount: bool(),
  /** Count register: 1 to the range, or 0 before one is written. */
  reload: u32({ max: BINARY_RANGE }),
  /** The count that the counting element began with; 0 before it has one. */
  period: u32({ max: BINARY_RANGE }),
  counting: bool(),
  /** Clocks since it began. */
  elapsed: f64(),
  /** Clocks until a rewritten count takes effect (modes 2 and 3). */
  reloadIn: optional(f64()),
});

/** What a snapshot holds of a counter. */
export type PitCounterState = Infer<typeof pitCounterState>;

function fromBcd(value: number): number {
  return (value >> 12) * 1000 + (value >> 8 & 15) * 100 +
    (value >> 4 & 15) * 10 + (value & 15);
}

function toBcd(value: number): number {
  return Math.floor(value / 1000) << 12 | Math.floor(value / 100) % 10 << 8 |
    Math.floor(value / 10) % 10 << 4 | value % 10;
}

/** Clocks in the first, high part of a mode 3 cycle. */
function highPart(period: number): number {
  return Math.ceil(period / 2);
}

/** Clocks until the present cycle (mode 2) or half cycle (mode 3) ends. */
function cycleLeft(mode: number, elapsed: number, period: number): number {
  const phase = elapsed % period;
  const high = highPart(period);
  return (mode === 3 && phase < high ? high : period) - phase;
}

/** A counter. Every method takes `now`, the present clock. */
export class PitCounter {
  #access = RW_BOTH;
  #mode = 0;
  #bcd = false;
  #gate: boolean;
  #firstByte: number | null = null;
  #readHigh = false;
  #latchedCount: number | null = null;
  #latchedStatus: number | null = null;
  #nullCount = true;
  #reload = 0;
  #period = 0;
  /** The clock at which counting began; null while it stands. */
  #start: number | null = null;
  /** Clocks counted when it came to stand. */
  #held = 0;
  /** The clock at which a rewritten count takes effect. */
  #reloadAt: number | null = null;

  /** @param gate The GATE input's level. */
  constructor(gate: boolean) {
    this.#gate = gate;
  }

  /** GATE. */
  get gate(): boolean {
    return this.#gate;
  }

  /** Power-on state, which the data sheet leaves undefined: mode 0, no count. */
  reset(gate: boolean): void {
    this.#gate = gate;
    this.#control(RW_BOTH, 0, false);
  }

  /** Control word other than a latch or read-back command. */
  writeControl(word: number): void {
    const mode = word >> MODE_SHIFT & MODE_MASK;
    // Modes 6 and 7 are 2 and 3: their high bit is "don't care".
    this.#control(
      word >> RW_SHIFT & RW_BOTH,
      mode > MAX_MODE ? mode & 3 : mode,
      (word & BCD) !== 0,
    );
  }

  #control(access: number, mode: number, bcd: boolean): void {
    this.#access = access;
    this.#mode = mode;
    this.#bcd = bcd;
    this.#firstByte = null;
    this.#readHigh = false;
    this.#latchedCount = null;
    this.#latchedStatus = null;
    this.#nullCount = true;
    this.#reload = 0;
    this.#stop();
  }

  #stop(): void {
    this.#period = 0;
    this.#start = null;
    this.#held = 0;
    this.#reloadAt = null;
  }

  /** Counter latch command; without effect while an earlier one has not been read. */
  latchCount(now: number): void {
    this.#latchedCount ??= this.#count(now);
  }

  /** Read-back command for the status. */
  latchStatus(now: number): void {
    this.#sync(now);
    this.#latchedStatus ??= (this.output(now) ? STATUS_OUTPUT : 0) |
      (this.#nullCount ? STATUS_NULL_COUNT : 0) |
      this.#access << RW_SHIFT | this.#mode << MODE_SHIFT |
      (this.#bcd ? BCD : 0);
  }

  /** One byte: latched status, latched count, or the running count. */
  read(now: number): number {
    if (this.#latchedStatus !== null) {
      const status = this.#latchedStatus;
      this.#latchedStatus = null;
      return status;
    }
    const count = this.#latchedCount ?? this.#count(now);
    const high = this.#access === RW_BOTH
      ? this.#readHigh
      : this.#access === RW_MSB;
    if (this.#access === RW_BOTH) this.#readHigh = !this.#readHigh;
    if (this.#access !== RW_BOTH || high) this.#latchedCount = null;
    return high ? count >> 8 : count & 0xff;
  }

  /** One byte of a new count. */
  write(now: number, value: number): void {
    if (this.#access === RW_LSB) {
      this.#load(now, value);
    } else if (this.#access === RW_MSB) {
      this.#load(now, value << 8);
    } else if (this.#firstByte === null) {
      this.#firstByte = value;
      // In mode 0 the first byte stops the counting and takes the output low.
      if (this.#mode === 0) this.#stop();
    } else {
      this.#load(now, value << 8 | this.#firstByte);
      this.#firstByte = null;
    }
  }

  get #range(): number {
    return this.#bcd ? BCD_RANGE : BINARY_RANGE;
  }

  #load(now: number, written: number): void {
    this.#sync(now);
    const value = this.#bcd ? fromBcd(written) % BCD_RANGE : written;
    this.#reload = value === 0 ? this.#range : value;
    this.#nullCount = true;
    switch (this.#mode) {
      case 0:
      case 4:
        this.#begin(now);
        if (!this.#gate) this.#hold(now);
        break;
      case 2:
      case 3:
        if (this.#period === 0) {
          this.#begin(now);
          if (!this.#gate) this.#hold(now);
        } else if (this.#start !== null) {
          this.#reloadAt ??= now +
            cycleLeft(this.#mode, now - this.#start, this.#period);
        }
        break;
    }
  }

  /** Loads the counting element from the count register. */
  #begin(now: number): void {
    this.#period = this.#reload;
    this.#start = now;
    this.#reloadAt = null;
    this.#nullCount = false;
  }

  #hold(now: number): void {
    this.#held = this.#elapsed(now);
    this.#start = null;
    this.#reloadAt = null;
  }

  #elapsed(now: number): number {
    return this.#start === null ? this.#held : now - this.#start;
  }

  /** The GATE input ("GATE pin operations summary"). */
  setGate(now: number, level: boolean): void {
    if (level === this.#gate) return;
    this.#sync(now);
    this.#gate = level;
    const pausable = this.#mode === 0 || this.#mode === 4;
    const triggered = this.#mode === 1 || this.#mode === 5;
    if (level) {
      if (pausable) {
        if (this.#period > 0) this.#start = now - this.#held;
      } else if (this.#reload > 0) {
        this.#begin(now);
      }
    } else if (!triggered && this.#start !== null) {
      this.#hold(now);
    }
  }

  /** Clocks in the first, high part of a mode 3 cycle. */
  #highPart(): number {
    return highPart(this.#period);
  }

  /** Lets a rewritten count take effect when its time has come. */
  #sync(now: number): void {
    const at = this.#reloadAt;
    if (at === null || this.#start === null || now < at) return;
    const atHalf = (at - this.#start) % this.#period !== 0;
    this.#begin(at);
    // After the high half comes the low half of the new period.
    if (this.#mode === 3 && atHalf) this.#start = at - this.#highPart();
  }

  /** OUT. */
  output(now: number): boolean {
    this.#sync(now);
    const elapsed = this.#elapsed(now);
    const period = this.#period;
    switch (this.#mode) {
      case 0:
        return period > 0 && elapsed >= period;
      case 1:
        return period === 0 || elapsed >= period;
      case 2:
        return !this.#gate || period <= 1 || elapsed % period !== period - 1;
      case 3:
        return !this.#gate || period <= 1 ||
          elapsed % period < this.#highPart();
      default:
        return period === 0 || elapsed !== period;
    }
  }

  /** The counting element, as it is read. */
  #count(now: number): number {
    this.#sync(now);
    const elapsed = this.#elapsed(now);
    const period = this.#period;
    let value: number;
    if (period === 0) {
      value = 0;
    } else if (this.#mode === 2) {
      value = period - elapsed % period;
    } else if (this.#mode === 3) {
      // Counts by two, from an even number, twice a cycle.
      const high = this.#highPart();
      const phase = elapsed % period;
      value = (period & ~1) - 2 * (phase < high ? phase : phase - high);
    } else {
      const range = this.#range;
      value = (period - elapsed % range + range) % range;
    }
    return this.#bcd ? toBcd(value % BCD_RANGE) : value & 0xffff;
  }

  /** The next clock at which OUT rises; undefined if it will not by itself. */
  nextRise(now: number): number | undefined {
    this.#sync(now);
    const start = this.#start;
    const period = this.#period;
    if (start === null || period === 0) return undefined;
    const elapsed = now - start;
    switch (this.#mode) {
      case 2:
      case 3:
        if (period === 1) return undefined;
        if (this.#reloadAt !== null && this.#mode === 3) {
          // The half cycle now ending may be followed by a new low half.
          return elapsed % period < this.#highPart()
            ? this.#reloadAt + Math.floor(this.#reload / 2)
            : this.#reloadAt;
        }
        return now - elapsed % period + period;
      case 0:
      case 1:
        return elapsed < period ? start + period : undefined;
      default:
        return elapsed <= period ? start + period + 1 : undefined;
    }
  }

  /** What a snapshot holds. */
  save(now: number): PitCounterState {
    // Time has made this due already; it changes nothing that can be seen.
    this.#sync(now);
    return {
      access: this.#access,
      mode: this.#mode,
      bcd: this.#bcd,
      gate: this.#gate,
      firstByte: this.#firstByte,
      readHigh: this.#readHigh,
      latchedCount: this.#latchedCount,
      latchedStatus: this.#latchedStatus,
      nullCount: this.#nullCount,
      reload: this.#reload,
      period: this.#period,
      counting: this.#start !== null,
      elapsed: this.#elapsed(now),
      reloadIn: this.#reloadAt === null ? null : this.#reloadAt - now,
    };
  }

  /** Takes a state back. */
  restore(now: number, state: PitCounterState): void {
    this.#access = state.access;
    this.#mode = state.mode;
    this.#bcd = state.bcd;
    this.#gate = state.gate;
    this.#firstByte = state.firstByte;
    this.#readHigh = state.readHigh;
    this.#latchedCount = state.latchedCount;
    this.#latchedStatus = state.latchedStatus;
    this.#nullCount = state.nullCount;
    this.#reload = state.reload;
    this.#period = state.period;
    this.#start = state.counting ? now - state.elapsed : null;
    this.#held = state.counting ? 0 : state.elapsed;
    this.#reloadAt = state.reloadIn === null ? null : now + state.reloadIn;
  }
}

/**
 * Refuses what a guest could not have reached.
 *
 * @param path Where the state is, for the message.
 * @param state The state.
 * @throws {MachineError} When it is impossible.
 */
export function checkPitCounter(path: string, state: PitCounterState): void {
  const range = state.bcd ? BCD_RANGE : BINARY_RANGE;
  for (const field of ["reload", "period"] as const) {
    check(
      state[field] <= range,
      `${path}.${field}`,
      state[field],
      `at most ${range}`,
    );
  }
  check(
    Number.isSafeInteger(state.elapsed) && state.elapsed >= 0,
    `${path}.elapsed`,
    state.elapsed,
    "a number of clocks",
  );
  const triggered = state.mode === 1 || state.mode === 5;
  check(
    !state.counting || (state.period > 0 && (state.gate || triggered)),
    `${path}.counting`,
    state.counting,
    "false without a count, and in modes that the gate stops",
  );
  check(
    state.period === 0 || state.reload > 0,
    `${path}.reload`,
    state.reload,
    "a count, since one is being counted",
  );
  check(
    state.period > 0 || state.elapsed === 0,
    `${path}.elapsed`,
    state.elapsed,
    "0 without a count",
  );
  for (const field of ["firstByte", "readHigh"] as const) {
    check(
      state.access === RW_BOTH || state[field] === null ||
        state[field] === false,
      `${path}.${field}`,
      String(state[field]),
      "none unless both bytes are accessed in turn",
    );
  }
  check(
    state.reloadIn === null ||
      (state.counting && (state.mode === 2 || state.mode === 3) &&
        state.reloadIn === cycleLeft(state.mode, state.elapsed, state.period)),
    `${path}.reloadIn`,
    state.reloadIn ?? 0,
    "the clocks that are left of a cycle of mode 2 or 3",
  );
}
