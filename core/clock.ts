/**
 * Virtual time: nanoseconds since the machine was made, and the timers of devices.
 *
 * In `realtime` mode virtual time follows the host's monotonic clock and stops while the machine
 * is paused. In `instructions` mode it advances by retired instructions and skips idle time, so
 * that equal inputs give equal runs. Host time is injected; nothing here reads it.
 *
 * @module
 */
import type { DeviceClock, Timer } from "./plugin.ts";
import { type FaultSink, type Owner, PluginError } from "./fault.ts";
import {
  f64,
  type Infer,
  schema,
  SchemaError,
  u64,
} from "../snapshot/schema.ts";

/** How virtual time passes. */
export type ClockMode = "realtime" | "instructions";

/** Virtual nanoseconds in a millisecond. */
export const NS_PER_MS = 1_000_000;
/** Frequency of the time-stamp counter: one tick a virtual nanosecond. */
export const TSC_HZ = 1_000_000_000;

/** Timers that follow from timers at one instant, before {@linkcode Clock.fireAllDue} gives up. */
const MOST_ROUNDS = 1_000;

/** The most milliseconds that a `Date` can have. */
const MAX_DATE = 8.64e15;

/** What a clock is made with. */
export interface ClockOptions {
  /** How time passes. */
  mode: ClockMode;
  /** Host monotonic time in milliseconds, with fractions; needed in `realtime` mode. */
  hostNow?: () => number;
  /** Virtual nanoseconds of one instruction in `instructions` mode; 1 when absent. */
  nsPerInstruction?: number;
  /** Wall-clock time of the guest at virtual time 0, in milliseconds since 1970 UTC. */
  rtcBase?: number;
}

/** Saved state of the clock. */
export const clockSchema = schema("clock", 2, {
  /** Virtual nanoseconds at the last jump over idle time, pause or restore. */
  now: u64(),
  /** Instructions retired since then, of which `nsPerInstruction` makes time; 0 in `realtime` mode. */
  retired: u64(),
  /** Milliseconds since 1970 UTC at virtual time 0. */
  rtcBase: f64(),
}, {
  1: (old) => ({ ...old as { now: bigint; rtcBase: number }, retired: 0n }),
});

/** Saved state of the clock. */
export type ClockState = Infer<typeof clockSchema>;

/** A timer in the heap. */
interface Entry {
  deadline: number;
  /** Order of arming: equal deadlines fire in it. */
  sequence: number;
  /** Place in the heap; -1 when not armed. */
  index: number;
  owner: Owner;
  fire: () => void;
}

function before(a: Entry, b: Entry): boolean {
  return a.deadline < b.deadline ||
    (a.deadline === b.deadline && a.sequence < b.sequence);
}

/** The virtual clock of one machine. */
export class Clock {
  /** How time passes. */
  readonly mode: ClockMode;
  /** Virtual nanoseconds of one instruction in `instructions` mode. */
  readonly nsPerInstruction: number;
  /**
   * Instructions retired since power-on; set by the machine, so that a device reads exact time in
   * the middle of a slice.
   */
  retired: () => number = () => 0;
  /** Called when a timer is armed before every other: the slice that runs may have to end sooner. */
  onEarlier: (deadline: number) => void = () => {};
  readonly #hostNow: () => number;
  readonly #fault: FaultSink;
  readonly #heap: Entry[] = [];
  #sequence = 0;
  #rtcBase: number;
  /** Virtual time at the last jump, pause or resume. */
  #base = 0;
  /** Instructions retired at virtual time {@linkcode #base}. */
  #retiredBase = 0;
  /** Host time that corresponds to {@linkcode #base}; undefined while paused. */
  #hostBase: number | undefined;

  /**
   * A clock at virtual time 0, paused.
   *
   * @param options How time passes.
   * @param fault Takes the errors of timers.
   */
  constructor(options: ClockOptions, fault: FaultSink) {
    this.mode = options.mode;
    this.nsPerInstruction = options.nsPerInstruction ?? 1;
    this.#hostNow = options.hostNow ?? (() => 0);
    this.#rtcBase = options.rtcBase ?? 0;
    this.#fault = fault;
  }

  /** Virtual nanoseconds now. */
  now(): number {
    if (this.mode === "instructions") {
      const retired = this.retired() - this.#retiredBase;
      return this.#base + Math.floor(retired * this.nsPerInstruction);
    }
    if (this.#hostBase === undefined) return this.#base;
    const passed = Math.floor((this.#hostNow() - this.#hostBase) * NS_PER_MS);
    return this.#base + Math.max(0, passed);
  }

  /** Milliseconds since 1970 UTC as the guest's hardware has it. */
  wallTime(): number {
    return this.#rtcBase + this.now() / NS_PER_MS;
  }

  /** Lets real time pass. Does nothing in `instructions` mode. */
  resume(): void {
    if (this.mode === "realtime") this.#hostBase ??= this.#hostNow();
  }

  /** Stops real time. Does nothing in `instructions` mode. */
  pause(): void {
    if (this.mode !== "realtime") return;
    this.#base = this.now();
    this.#hostBase = undefined;
  }

  /**
   * Moves virtual time to a later moment in `instructions` mode, over idle time.
   *
   * @param time Virtual nanoseconds.
   */
  advance(time: number): void {
    if (this.mode === "instructions" && time > this.now()) this.#jump(time);
  }

  #jump(time: number): void {
    this.#base = time;
    this.#retiredBase = this.retired();
  }

  /** When the next timer fires; undefined when none is armed. */
  get nextDeadline(): number | undefined {
    return this.#heap[0]?.deadline;
  }

  /**
   * Fires what is due, by deadline and then by order of arming. A timer that is armed meanwhile
   * waits for the next call even if it is due.
   *
   * @returns Whether anything fired.
   */
  fireDue(): boolean {
    const now = this.now();
    const last = this.#sequence;
    let fired = false;
    for (;;) {
      const entry = this.#heap[0];
      if (entry === undefined || entry.deadline > now) return fired;
      if (entry.sequence > last) return fired;
      this.#remove(entry);
      fired = true;
      try {
        entry.fire();
      } catch (error) {
        this.#fault(new PluginError(entry.owner, "a timer", undefined, error));
      }
    }
  }

  /** Fires until nothing is due; a timer that is armed for the present again and again ends it. */
  fireAllDue(): void {
    for (let round = 0; round < MOST_ROUNDS && this.fireDue(); round++);
  }

  /**
   * The clock as one device sees it.
   *
   * @param owner The device.
   * @returns What `ctx.clock` is.
   */
  view(owner: Owner): DeviceClock {
    return {
      now: () => this.now(),
      wallTime: () => this.wallTime(),
      timer: (fire) => this.timer(owner, fire),
    };
  }

  /**
   * Makes a timer.
   *
   * @param owner Who is named when it throws.
   * @param fire What it does.
   * @returns The timer, not armed.
   */
  timer(owner: Owner, fire: () => void): Timer {
    const entry: Entry = { deadline: 0, sequence: 0, index: -1, owner, fire };
    const timer: Timer = {
      get deadline() {
        return entry.index < 0 ? undefined : entry.deadline;
      },
      armAt: (deadline) => {
        if (Number.isNaN(deadline)) {
          throw new RangeError("a timer was armed at NaN");
        }
        this.#remove(entry);
        if (deadline === Infinity) return;
        // Time ends at 2^53: what is armed beyond it never fires, and can still be saved.
        entry.deadline = Math.min(
          Math.max(0, Math.ceil(deadline)),
          Number.MAX_SAFE_INTEGER,
        );
        entry.sequence = ++this.#sequence;
        this.#insert(entry);
        if (entry.index === 0) this.onEarlier(entry.deadline);
      },
      cancel: () => this.#remove(entry),
      save: () =>
        entry.index < 0
          ? null
          : { remaining: Math.max(0, entry.deadline - this.now()) },
      restore: (state) => {
        if (state === null) timer.cancel();
        else timer.armAt(this.now() + state.remaining);
      },
    };
    return timer;
  }

  #insert(entry: Entry): void {
    entry.index = this.#heap.length;
    this.#heap.push(entry);
    this.#up(entry);
  }

  #remove(entry: Entry): void {
    const { index } = entry;
    if (index < 0) return;
    entry.index = -1;
    const last = this.#heap.pop()!;
    if (last === entry) return;
    this.#heap[index] = last;
    last.index = index;
    this.#up(last);
    this.#down(last);
  }

  #up(entry: Entry): void {
    while (entry.index > 0) {
      const parent = this.#heap[(entry.index - 1) >> 1];
      if (!before(entry, parent)) return;
      this.#swap(entry, parent);
    }
  }

  #down(entry: Entry): void {
    for (;;) {
      const left = this.#heap[2 * entry.index + 1];
      const right = this.#heap[2 * entry.index + 2];
      const least = right !== undefined && before(right, left) ? right : left;
      if (least === undefined || !before(least, entry)) return;
      this.#swap(entry, least);
    }
  }

  #swap(a: Entry, b: Entry): void {
    [a.index, b.index] = [b.index, a.index];
    this.#heap[a.index] = a;
    this.#heap[b.index] = b;
  }

  /**
   * Disarms every timer of a device that is no longer in the machine.
   *
   * @param owner The device.
   */
  cancel(owner: Owner): void {
    for (const entry of this.#heap.filter((e) => e.owner === owner)) {
      this.#remove(entry);
    }
  }

  /** The state of the clock. Devices save their own timers. */
  save(): ClockState {
    const { mode } = this;
    const isCounted = mode === "instructions";
    return {
      now: BigInt(isCounted ? this.#base : this.now()),
      retired: BigInt(isCounted ? this.retired() - this.#retiredBase : 0),
      rtcBase: this.#rtcBase,
    };
  }

  /**
   * Restores the time, before devices arm their timers.
   *
   * @param state A validated state.
   * @throws {SchemaError} When the time is not possible.
   */
  restore(state: ClockState): void {
    for (
      const [field, what] of [
        ["now", "nanoseconds"],
        ["retired", "instructions"],
      ] as const
    ) {
      if (state[field] > BigInt(Number.MAX_SAFE_INTEGER)) {
        throw new SchemaError(
          `clock.${field}`,
          `is ${state[field]}: expected ${what} below 2^53`,
        );
      }
    }
    if (!(Math.abs(state.rtcBase) <= MAX_DATE)) {
      throw new SchemaError(
        "clock.rtcBase",
        `is ${state.rtcBase}: expected milliseconds since 1970, up to ${MAX_DATE}`,
      );
    }
    this.#base = Number(state.now);
    this.#retiredBase = this.retired() - Number(state.retired);
    this.#rtcBase = state.rtcBase;
    if (this.#hostBase !== undefined) this.#hostBase = this.#hostNow();
  }
}
