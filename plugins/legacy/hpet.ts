/**
 * High precision event timers (IA-PC HPET specification 1.0a): a 64-bit counter at 100 MHz and
 * three timers, each one-shot or periodic, with legacy replacement routing.
 *
 * @module
 */
import {
  type AccessSize,
  definePlugin,
  type Device,
  type DeviceClock,
  type DeviceContext,
  type IrqLine,
  type Timer,
} from "../../core/plugin.ts";
import {
  bool,
  type Infer,
  list,
  record,
  schema,
  timer,
  u32,
  u64,
} from "../../snapshot/schema.ts";
import { check, checkBits, ticksAt, timeOfTick } from "./support.ts";

const HPET_BASE = 0xfed0_0000;
const PAGE_SIZE = 0x1000;
const TIMERS = 3;
const HERTZ = 100_000_000;
const NS_PER_TICK = 10;
const PERIOD_FS = 10_000_000;
const REVISION = 1;
const VENDOR_INTEL = 0x8086;

// Registers (section 2.3.1, table 2); a timer's are at TIMER + 0x20 * n.
const GCAP_ID = 0x000;
const GEN_CONF = 0x010;
const GINTR_STA = 0x020;
const MAIN_CNT = 0x0f0;
const TIMER = 0x100;
const TIMER_STRIDE = 0x20;
const TN_CONF = 0x00;
const TN_COMPARATOR = 0x08;

// General capabilities (section 2.3.4).
const COUNT_SIZE_CAP = 0x2000;
const LEG_RT_CAP = 0x8000;
const GCAP_LOW = VENDOR_INTEL * 2 ** 16 + LEG_RT_CAP + COUNT_SIZE_CAP +
  (TIMERS - 1) * 2 ** 8 + REVISION;

// General configuration (section 2.3.5).
const ENABLE_CNF = 0x01;
const LEG_RT_CNF = 0x02;
const GEN_CONF_MASK = ENABLE_CNF | LEG_RT_CNF;

// Timer configuration (section 2.3.8).
const TN_INT_TYPE_CNF = 0x0002;
const TN_INT_ENB_CNF = 0x0004;
const TN_TYPE_CNF = 0x0008;
const TN_PER_INT_CAP = 0x0010;
const TN_SIZE_CAP = 0x0020;
const TN_VAL_SET_CNF = 0x0040;
const TN_32MODE_CNF = 0x0100;
const TN_INT_ROUTE_SHIFT = 9;
const TN_INT_ROUTE_CNF = 0x1f << TN_INT_ROUTE_SHIFT;
const TN_WRITABLE = TN_INT_TYPE_CNF | TN_INT_ENB_CNF | TN_TYPE_CNF |
  TN_VAL_SET_CNF | TN_32MODE_CNF | TN_INT_ROUTE_CNF;
const TN_CAPABILITIES = TN_PER_INT_CAP | TN_SIZE_CAP;
/** Interrupts that a timer may be routed to, besides those of legacy replacement. */
const ROUTES = [10, 11];
const TN_INT_ROUTE_CAP = ROUTES.reduce((mask, irq) => mask | 1 << irq, 0);
/** Legacy replacement: timer 0 has IRQ 0 and timer 1 has IRQ 8 (section 2.3.5, table 4). */
const LEGACY_ROUTES = [0, 8];
const NO_ROUTE = -1;

const MASK_64 = 2n ** 64n - 1n;
const MASK_32 = 2n ** 32n - 1n;

const timerState = record({
  configuration: u32(),
  comparator: u64(),
  /** The last value written, which a periodic timer adds to its comparator. */
  period: u64(),
  /** The high half of the comparator is the next to be set. */
  setHigh: bool(),
  timer: timer(),
});

const hpetState = schema("hpet", 1, {
  configuration: u32(),
  interruptStatus: u32(),
  /** The main counter now. */
  counter: u64(),
  timers: list(timerState, { length: TIMERS }),
});

type TimerState = Infer<typeof timerState>;
type HpetState = Infer<typeof hpetState>;

/** One half of a 64-bit register, replaced. */
function withHalf(value: bigint, high: boolean, half: number): bigint {
  return high
    ? value & MASK_32 | BigInt(half) << 32n
    : value & ~MASK_32 | BigInt(half);
}

function halfOf(value: bigint, high: boolean): number {
  return Number(high ? value >> 32n : value & MASK_32);
}

/** How late a match may be that nobody can see, in virtual nanoseconds: a halted guest sleeps through it. */
const SILENT_LATENESS = 1e9;

/** What one timer asks of the block that it belongs to. */
interface Block {
  readonly clock: DeviceClock;
  /** Whether the main counter runs. */
  readonly enabled: boolean;
  /** Virtual time in ticks. */
  readonly tick: number;
  /** The main counter at a tick. */
  counterAt(tick: number): bigint;
  /** Timer `index` has met its comparator. */
  met(index: number): void;
}

/** One timer. */
class HpetTimer {
  readonly #block: Block;
  readonly #index: number;
  readonly #timer: Timer;
  /** When the counter meets the comparator next, in virtual time. */
  #due: number | undefined;
  #configuration = 0;
  #comparator = MASK_64;
  #period = 0n;
  /** VAL_SET held for the low half just written, so it holds for the high half next to come. */
  #setHigh = false;

  constructor(block: Block, index: number) {
    this.#block = block;
    this.#index = index;
    this.#timer = block.clock.timer(() => this.#fire());
  }

  reset(): void {
    this.#configuration = 0;
    this.#comparator = MASK_64;
    this.#period = 0n;
    this.#setHigh = false;
    this.#arm(undefined);
  }

  get levelTriggered(): boolean {
    return (this.#configuration & TN_INT_TYPE_CNF) !== 0;
  }

  get interruptEnabled(): boolean {
    return (this.#configuration & TN_INT_ENB_CNF) !== 0;
  }

  /** The interrupt it is routed to; 0 for none. */
  get route(): number {
    return (this.#configuration & TN_INT_ROUTE_CNF) >> TN_INT_ROUTE_SHIFT;
  }

  get #narrow(): boolean {
    return (this.#configuration & TN_32MODE_CNF) !== 0;
  }

  get #mask(): bigint {
    return this.#narrow ? MASK_32 : MASK_64;
  }

  get #periodic(): boolean {
    return (this.#configuration & TN_TYPE_CNF) !== 0;
  }

  read(register: number, high: boolean): number {
    switch (register) {
      case TN_CONF:
        return high ? TN_INT_ROUTE_CAP : this.#configuration | TN_CAPABILITIES;
      case TN_COMPARATOR:
        this.settle();
        return halfOf(this.#comparator, high);
      default:
        // Without FSB_INT_DEL_CAP there is no FSB route register.
        return 0;
    }
  }

  write(register: number, high: boolean, value: number): void {
    this.settle();
    if (register === TN_CONF && !high) this.#writeConfiguration(value);
    else if (register === TN_COMPARATOR) this.#writeComparator(high, value);
    else return;
    this.schedule();
  }

  #writeConfiguration(value: number): void {
    let configuration = value & TN_WRITABLE;
    const route = (value & TN_INT_ROUTE_CNF) >> TN_INT_ROUTE_SHIFT;
    // A route that the timer does not have is not taken (section 2.3.8, Tn_INT_ROUTE_CNF).
    if (route !== 0 && !ROUTES.includes(route)) {
      configuration = configuration & ~TN_INT_ROUTE_CNF |
        this.#configuration & TN_INT_ROUTE_CNF;
    }
    this.#configuration = configuration;
    this.#setHigh = false;
    this.#comparator &= this.#mask;
    this.#period &= this.#mask;
  }

  /** A periodic timer's accumulator is written only after VAL_SET (section 2.3.9.2.2). */
  #writeComparator(high: boolean, value: number): void {
    if (high && this.#narrow) return;
    const set = !this.#periodic || (high && this.#setHigh) ||
      (this.#configuration & TN_VAL_SET_CNF) !== 0;
    if (set) this.#comparator = withHalf(this.#comparator, high, value);
    if (this.#periodic) this.#period = withHalf(this.#period, high, value);
    this.#setHigh = set && !high;
    this.#configuration &= ~TN_VAL_SET_CNF;
  }

  /** Arms the timer for when the counter will meet the comparator. */
  schedule(): void {
    if (!this.#block.enabled) return this.#arm(undefined);
    const mask = this.#mask;
    // One look at the clock: real time does not stand still between two.
    const now = this.#block.tick;
    const ahead = (this.#comparator - this.#block.counterAt(now)) & mask;
    const ticks = Number(ahead === 0n ? mask + 1n : ahead);
    // Beyond the end of virtual time it never comes.
    const tick = now + ticks;
    this.#arm(
      tick > Number.MAX_SAFE_INTEGER / NS_PER_TICK
        ? undefined
        : timeOfTick(tick, HERTZ),
    );
  }

  /** A match that interrupts nobody shows in the comparator only: it may be late until that is looked at. */
  #arm(due: number | undefined): void {
    this.#due = due;
    if (due === undefined) this.#timer.cancel();
    else this.#timer.armAt(this.#silent ? due + SILENT_LATENESS : due);
  }

  get #silent(): boolean {
    return !this.interruptEnabled && !this.levelTriggered;
  }

  /** Takes a match that is due. */
  settle(): void {
    if (this.#due !== undefined && this.#due <= this.#block.clock.now()) {
      this.#fire();
    }
  }

  #fire(): void {
    if (this.#periodic && this.#period > 0n) {
      // The next multiple of the period that is yet to come.
      const mask = this.#mask;
      const late =
        (this.#block.counterAt(this.#block.tick) - this.#comparator) &
        mask;
      this.#comparator =
        (this.#comparator + (late / this.#period + 1n) * this.#period) & mask;
    }
    this.schedule();
    this.#block.met(this.#index);
  }

  save(): TimerState {
    // A match that nobody hears may have been left for later; any other is the event loop's to fire.
    if (this.#silent) this.settle();
    return {
      configuration: this.#configuration,
      comparator: this.#comparator,
      period: this.#period,
      setHigh: this.#setHigh,
      timer: this.#due === undefined
        ? null
        : { remaining: Math.max(0, this.#due - this.#block.clock.now()) },
    };
  }

  /** Takes a state back, after the main counter. What is late is due at once; any other time follows from the counter. */
  restore(state: TimerState): void {
    this.#configuration = state.configuration;
    this.#comparator = state.comparator;
    this.#period = state.period;
    this.#setHigh = state.setHigh;
    this.schedule();
    const now = this.#block.clock.now();
    const left = this.#due === undefined ? undefined : this.#due - now;
    const remaining = state.timer?.remaining;
    check(
      remaining === left || remaining === 0,
      `timers.${this.#index}.timer`,
      String(remaining),
      `${left}, when the counter meets the comparator`,
    );
    this.#arm(remaining === undefined ? undefined : now + remaining);
  }
}

/** Refuses what a guest could not have reached. */
function checkTimer(path: string, state: TimerState, enabled: boolean): void {
  const { configuration } = state;
  checkBits(`${path}.configuration`, configuration, TN_WRITABLE);
  const route = (configuration & TN_INT_ROUTE_CNF) >> TN_INT_ROUTE_SHIFT;
  check(
    route === 0 || ROUTES.includes(route),
    `${path}.configuration`,
    configuration,
    `a route among ${ROUTES.join(", ")}`,
  );
  const mask = configuration & TN_32MODE_CNF ? MASK_32 : MASK_64;
  for (const field of ["comparator", "period"] as const) {
    check(
      state[field] <= mask,
      `${path}.${field}`,
      state[field],
      "32 bits in 32-bit mode",
    );
  }
  check(
    state.timer === null || enabled,
    `${path}.timer`,
    state.timer !== null,
    "not armed while the counter stands",
  );
}

class Hpet implements Device, Block {
  readonly #ctx: DeviceContext<HpetState>;
  readonly #lines: ReadonlyMap<number, IrqLine>;
  readonly #timers: readonly HpetTimer[];
  #configuration = 0;
  #interruptStatus = 0;
  /** The main counter when it was last started, written or stopped. */
  #base = 0n;
  /** The tick at which that was. */
  #baseTick = 0;

  constructor(ctx: DeviceContext<HpetState>) {
    this.#ctx = ctx;
    this.#lines = new Map(
      [...LEGACY_ROUTES, ...ROUTES].map((irq) => [irq, ctx.isa.irq(irq)]),
    );
    this.#timers = Array.from(
      { length: TIMERS },
      (_, i) => new HpetTimer(this, i),
    );
    ctx.isa.claimMemory(HPET_BASE, PAGE_SIZE, {
      read: (offset, size) => this.#read(offset, size),
      write: (offset, size, value) => this.#write(offset, size, value),
    });
    ctx.declare({ kind: "hpet", base: HPET_BASE });
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  reset(): void {
    this.#configuration = 0;
    this.#interruptStatus = 0;
    this.#base = 0n;
    for (const timer of this.#timers) timer.reset();
    this.#ctx.interrupts.legacyReplacement = false;
    this.#updateLines();
  }

  get clock(): DeviceClock {
    return this.#ctx.clock;
  }

  get enabled(): boolean {
    return (this.#configuration & ENABLE_CNF) !== 0;
  }

  get tick(): number {
    return ticksAt(this.#ctx.clock.now(), HERTZ);
  }

  counterAt(tick: number): bigint {
    return this.enabled
      ? (this.#base + BigInt(tick - this.#baseTick)) & MASK_64
      : this.#base;
  }

  get counter(): bigint {
    return this.counterAt(this.tick);
  }

  met(index: number): void {
    const timer = this.#timers[index];
    if (timer.levelTriggered) {
      this.#interruptStatus |= 1 << index;
      this.#updateLines();
    } else if (timer.interruptEnabled) {
      this.#lines.get(this.#routeOf(index))?.pulse();
    }
  }

  /** Whether legacy replacement is in force. */
  get #legacy(): boolean {
    return (this.#configuration & GEN_CONF_MASK) === GEN_CONF_MASK;
  }

  #routeOf(index: number): number {
    if (this.#legacy && index < LEGACY_ROUTES.length) {
      return LEGACY_ROUTES[index];
    }
    const { route } = this.#timers[index];
    return route === 0 ? NO_ROUTE : route;
  }

  /** Drives the lines of level-triggered timers. */
  #updateLines(): void {
    const asserted = new Set<number>();
    this.#timers.forEach((timer, i) => {
      if (
        this.#interruptStatus >> i & 1 && timer.levelTriggered &&
        timer.interruptEnabled
      ) asserted.add(this.#routeOf(i));
    });
    for (const [irq, line] of this.#lines) {
      const level = asserted.has(irq);
      if (level !== line.level) line.set(level);
    }
  }

  #read(offset: number, size: AccessSize): number {
    const byte = offset & 3;
    const value = this.#readHalf(offset & ~7, (offset & 4) !== 0);
    return byte + size > 4 ? 0 : value >>> (8 * byte);
  }

  #readHalf(register: number, high: boolean): number {
    if (register >= TIMER && register < TIMER + TIMERS * TIMER_STRIDE) {
      const index = Math.floor((register - TIMER) / TIMER_STRIDE);
      return this.#timers[index].read(register % TIMER_STRIDE, high);
    }
    switch (register) {
      case GCAP_ID:
        return high ? PERIOD_FS : GCAP_LOW;
      case GEN_CONF:
        return high ? 0 : this.#configuration;
      case GINTR_STA:
        return high ? 0 : this.#interruptStatus;
      case MAIN_CNT:
        return halfOf(this.counter, high);
      default:
        return 0;
    }
  }

  /** Registers are written as aligned doublewords or quadwords (section 2.3.2). */
  #write(offset: number, size: AccessSize, value: number): void {
    if (size !== 4 || offset & 3) return;
    const register = offset & ~7;
    const high = (offset & 4) !== 0;
    if (register >= TIMER && register < TIMER + TIMERS * TIMER_STRIDE) {
      const index = Math.floor((register - TIMER) / TIMER_STRIDE);
      this.#timers[index].write(register % TIMER_STRIDE, high, value);
      this.#updateLines();
    } else if (register === MAIN_CNT) {
      for (const timer of this.#timers) timer.settle();
      this.#setCounter(withHalf(this.counter, high, value));
    } else if (register === GEN_CONF && !high) {
      this.#writeConfiguration(value & GEN_CONF_MASK);
    } else if (register === GINTR_STA && !high) {
      this.#interruptStatus &= ~value;
      this.#updateLines();
    }
  }

  #setCounter(value: bigint): void {
    this.#base = value;
    this.#baseTick = this.tick;
    for (const timer of this.#timers) timer.schedule();
  }

  #writeConfiguration(value: number): void {
    for (const timer of this.#timers) timer.settle();
    // Stop or start where the counter stands.
    const counter = this.counter;
    const toggled = (value ^ this.#configuration) & ENABLE_CNF;
    this.#configuration = value;
    if (toggled) this.#setCounter(counter);
    this.#ctx.interrupts.legacyReplacement = this.#legacy;
    this.#updateLines();
  }

  #save(): HpetState {
    return {
      configuration: this.#configuration,
      interruptStatus: this.#interruptStatus,
      counter: this.counter,
      timers: this.#timers.map((timer) => timer.save()),
    };
  }

  #restore(state: HpetState): void {
    checkBits("configuration", state.configuration, GEN_CONF_MASK);
    checkBits("interruptStatus", state.interruptStatus, 2 ** TIMERS - 1);
    const enabled = (state.configuration & ENABLE_CNF) !== 0;
    state.timers.forEach((timer, i) =>
      checkTimer(`timers.${i}`, timer, enabled)
    );
    this.#configuration = state.configuration;
    this.#interruptStatus = state.interruptStatus;
    this.#base = state.counter;
    this.#baseTick = this.tick;
    this.#timers.forEach((timer, i) => timer.restore(state.timers[i]));
    this.#ctx.interrupts.legacyReplacement = this.#legacy;
  }
}

/** The event timers at 0xFED00000. */
export default definePlugin({
  name: "hpet",
  version: "1.0.0",
  summary: "high precision event timers",
  options: {},
  state: hpetState,
  create: (ctx) => new Hpet(ctx),
});
