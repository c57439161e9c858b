/**
 * The timer of a local APIC: one-shot, periodic and TSC-deadline (Intel SDM vol. 3A, section 12.5.4).
 *
 * @module
 */
import type { CpuPort, DeviceClock, Timer } from "../../core/plugin.ts";
import type { TimerState } from "../../snapshot/schema.ts";
import { settleTimer } from "./support.ts";

/** LVT timer bits 18:17. */
export const TIMER_MODE_SHIFT = 17;
const TIMER_MODE_MASK = 3;
const TIMER_MODE_PERIODIC = 1;
/** The mode in which IA32_TSC_DEADLINE is live. */
export const TIMER_MODE_TSC_DEADLINE = 2;
/** The count registers have 32 bits. */
const COUNT_MAX = 0xffff_ffff;
/** Divide configuration register: bits 0, 1 and 3 (figure 12-10). */
export const TIMER_DIVIDE_MASK = 0x0b;

/** What a snapshot holds of the timer. */
export interface ApicTimerState {
  initialCount: number;
  divide: number;
  tscDeadline: bigint;
  timer: TimerState;
}

/**
 * The divisor that a divide configuration register selects: 2 to 128, and 1 for 0b111.
 *
 * @param register The register.
 */
export function timerDivisor(register: number): number {
  const selected = register & 3 | register >> 1 & 4;
  return 1 << (selected + 1 & 7);
}

/**
 * The timer. It counts at 1 GHz, one virtual nanosecond, before the divisor. All of its state
 * is in when it ends: the current count is what remains.
 */
export class ApicTimer {
  readonly #clock: DeviceClock;
  readonly #cpu: CpuPort;
  readonly #lvt: () => number;
  readonly #expired: () => void;
  readonly #timer: Timer;
  #initialCount = 0;
  #divide = 0;
  #tscDeadline = 0n;
  /** When the count, or the TSC deadline, ends. */
  #due: number | undefined;

  /**
   * @param clock Virtual time.
   * @param cpu Whose TSC it compares.
   * @param lvt Reads the LVT timer register.
   * @param expired Delivers the interrupt.
   */
  constructor(
    clock: DeviceClock,
    cpu: CpuPort,
    lvt: () => number,
    expired: () => void,
  ) {
    this.#clock = clock;
    this.#cpu = cpu;
    this.#lvt = lvt;
    this.#expired = expired;
    this.#timer = clock.timer(() => this.#fire());
  }

  /** State after reset: stopped. */
  reset(): void {
    this.#initialCount = 0;
    this.#divide = 0;
    this.#tscDeadline = 0n;
    this.#disarm();
  }

  /** Initial count register. */
  get initialCount(): number {
    return this.#initialCount;
  }

  /** Starts the timer, or stops it with 0; without effect in TSC-deadline mode. */
  set initialCount(value: number) {
    this.settle();
    if (this.#mode === TIMER_MODE_TSC_DEADLINE) return;
    this.#initialCount = value;
    if (value === 0) this.#disarm();
    else this.#arm(this.#clock.now() + value * timerDivisor(this.#divide));
  }

  /** Current count register: 0 once a one-shot has ended, and in TSC-deadline mode. */
  get currentCount(): number {
    if (this.#due === undefined || this.#mode === TIMER_MODE_TSC_DEADLINE) {
      return 0;
    }
    const divisor = timerDivisor(this.#divide);
    const remaining = this.#due - this.#clock.now();
    // Past due, and not yet seen by the event loop: a periodic timer has begun again.
    const count = remaining >= 0 || this.#mode !== TIMER_MODE_PERIODIC
      ? Math.ceil(Math.max(0, remaining) / divisor)
      : this.#initialCount -
        Math.floor(-remaining / divisor) % this.#initialCount;
    return Math.min(count, COUNT_MAX);
  }

  /** Divide configuration register. */
  get divide(): number {
    return this.#divide;
  }

  /** Changes the rate at which the current count goes on. */
  set divide(value: number) {
    this.settle();
    const count = this.currentCount;
    this.#divide = value;
    if (count > 0) this.#arm(this.#clock.now() + count * timerDivisor(value));
  }

  /** IA32_TSC_DEADLINE. */
  get tscDeadline(): bigint {
    return this.#tscDeadline;
  }

  /** Arms the timer, or disarms it with 0; without effect outside TSC-deadline mode. */
  set tscDeadline(value: bigint) {
    this.settle();
    if (this.#mode !== TIMER_MODE_TSC_DEADLINE) return;
    this.#tscDeadline = value;
    if (value === 0n) this.#disarm();
    else if (this.#cpu.readTsc() >= value) this.#fire();
    else this.#armTscDeadline();
  }

  /**
   * The LVT timer register was written.
   *
   * @param old What it held before.
   */
  modeChanged(old: number): void {
    const before = old >> TIMER_MODE_SHIFT & TIMER_MODE_MASK;
    const deadlineModes = [before, this.#mode]
      .filter((mode) => mode === TIMER_MODE_TSC_DEADLINE).length;
    // A transition to or from TSC-deadline mode disarms the timer.
    if (deadlineModes === 1) {
      this.#initialCount = 0;
      this.#tscDeadline = 0n;
      this.#disarm();
    }
  }

  /** What a snapshot holds. */
  save(): ApicTimerState {
    return {
      initialCount: this.#initialCount,
      divide: this.#divide,
      tscDeadline: this.#tscDeadline,
      timer: this.#timer.save(),
    };
  }

  /** Takes the state back, and arms the timer again. */
  restore(state: ApicTimerState): void {
    this.#initialCount = state.initialCount;
    this.#divide = state.divide;
    this.#tscDeadline = state.tscDeadline;
    this.#timer.restore(state.timer);
    this.#due = this.#timer.deadline;
  }

  get #mode(): number {
    return this.#lvt() >> TIMER_MODE_SHIFT & TIMER_MODE_MASK;
  }

  /** Lets what is due happen, before something changes that it depends on. */
  settle(): void {
    settleTimer(this.#timer, this.#clock, () => this.#fire());
  }

  #arm(due: number): void {
    this.#due = due;
    this.#timer.armAt(due);
  }

  #disarm(): void {
    this.#due = undefined;
    this.#timer.cancel();
  }

  #armTscDeadline(): void {
    const ahead = this.#tscDeadline - this.#cpu.readTsc();
    const due = this.#cpu.tscToTime(this.#tscDeadline);
    // A deadline beyond what virtual time can hold never comes.
    if (ahead > Number.MAX_SAFE_INTEGER || due > Number.MAX_SAFE_INTEGER) {
      this.#disarm();
    } else {
      this.#arm(Math.ceil(due));
    }
  }

  #fire(): void {
    if (this.#mode === TIMER_MODE_TSC_DEADLINE) {
      if (this.#cpu.readTsc() < this.#tscDeadline) {
        this.#armTscDeadline();
        return;
      }
      this.#tscDeadline = 0n;
      this.#disarm();
    } else if (
      this.#mode === TIMER_MODE_PERIODIC && this.#initialCount > 0 &&
      this.#due !== undefined
    ) {
      // The next multiple of the period that is yet to come.
      const period = this.#initialCount * timerDivisor(this.#divide);
      const late = Math.max(0, this.#clock.now() - this.#due);
      this.#arm(this.#due + (Math.floor(late / period) + 1) * period);
    } else {
      this.#disarm();
    }
    this.#expired();
  }
}
