/**
 * 8254 programmable interval timer (Intel 8254 data sheet, 231164) with the PC's port 0x61
 * (Intel ICH9 data sheet, section 13.7.1): channel 0 drives IRQ 0, channel 2 the speaker.
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
import { type Infer, list, schema, timer, u8 } from "../../snapshot/schema.ts";
import {
  checkPitCounter,
  PIT_HERTZ,
  PitCounter,
  pitCounterState,
} from "./pit_counter.ts";
import {
  check,
  checkBits,
  settleTimer,
  ticksAt,
  timeOfTick,
} from "./support.ts";

const COUNTER_PORT = 0x40;
const CONTROL_PORT = 0x43;
const PORT_COUNT = 4;
const CHANNELS = 3;
const TIMER_IRQ = 0;
const SPEAKER = 2;

// Control word.
const SC_SHIFT = 6;
const READ_BACK = 3;
const RW_MASK = 0x30;
// Read-back command: the low bits say what is not latched.
const READ_BACK_NO_COUNT = 0x20;
const READ_BACK_NO_STATUS = 0x10;

const NMI_SC_PORT = 0x61;
// NMI_SC: NMI status and control.
const TIM_CNT2_EN = 0x01;
const NMI_SC_WRITABLE = 0x0f;
const REF_TOGGLE = 0x10;
const TMR2_OUT_STS = 0x20;
/** Nanoseconds between two toggles of the refresh request: 18 clocks. */
const REFRESH_NS = 15_085;

const pitState = schema("pit", 1, {
  channels: list(pitCounterState, { length: CHANNELS }),
  /** The writable bits of port 0x61. */
  nmiSc: u8({ max: NMI_SC_WRITABLE }),
  timer: timer(),
});

type PitState = Infer<typeof pitState>;

class Pit implements Device {
  readonly #ctx: DeviceContext<PitState>;
  readonly #irq: IrqLine;
  readonly #timer: Timer;
  readonly #counters = [true, true, false].map((gate) => new PitCounter(gate));
  #nmiSc = 0;

  constructor(ctx: DeviceContext<PitState>) {
    this.#ctx = ctx;
    this.#irq = ctx.isa.irq(TIMER_IRQ);
    this.#timer = ctx.clock.timer(() => this.#fire());
    ctx.isa.claimPorts(
      COUNTER_PORT,
      PORT_COUNT,
      bytewise({
        read: (port) => this.#read(port),
        write: (port, value) => this.#write(port, value),
      }),
    );
    ctx.isa.claimPorts(
      NMI_SC_PORT,
      1,
      bytewise({
        read: () => this.#readNmiSc(),
        write: (_port, value) => this.#writeNmiSc(value),
      }),
    );
    ctx.declare({ kind: "pit", base: COUNTER_PORT, irq: TIMER_IRQ });
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  reset(): void {
    this.#nmiSc = 0;
    this.#counters.forEach((counter, i) => counter.reset(i !== SPEAKER));
    this.#timer.cancel();
  }

  /** The present clock of all three counters. */
  get #now(): number {
    return ticksAt(this.#ctx.clock.now(), PIT_HERTZ);
  }

  #read(port: number): number {
    // The control word cannot be read; the bus floats.
    if (port === CONTROL_PORT) return 0xff;
    return this.#counters[port - COUNTER_PORT].read(this.#now);
  }

  #write(port: number, value: number): void {
    if (port === CONTROL_PORT) this.#writeControl(value);
    else {
      this.#change(
        port - COUNTER_PORT,
        (counter, now) => counter.write(now, value),
      );
    }
  }

  #writeControl(word: number): void {
    const select = word >> SC_SHIFT;
    if (select === READ_BACK) {
      this.#counters.forEach((counter, i) => {
        if (!(word >> 1 & 1 << i)) return;
        if (!(word & READ_BACK_NO_COUNT)) counter.latchCount(this.#now);
        if (!(word & READ_BACK_NO_STATUS)) counter.latchStatus(this.#now);
      });
    } else if (word & RW_MASK) {
      this.#change(select, (counter) => counter.writeControl(word));
    } else {
      this.#counters[select].latchCount(this.#now);
    }
  }

  /** Changes a counter; what channel 0's output does is an interrupt. */
  #change(
    channel: number,
    action: (counter: PitCounter, now: number) => void,
  ): void {
    settleTimer(this.#timer, this.#ctx.clock, () => this.#fire());
    const counter = this.#counters[channel];
    const now = this.#now;
    const before = counter.output(now);
    action(counter, now);
    if (channel !== TIMER_IRQ) return;
    if (!before && counter.output(now)) this.#interrupt();
    this.#schedule();
  }

  #fire(): void {
    this.#interrupt();
    this.#schedule();
  }

  /** IRQ 0 is edge-triggered: only that the output rises matters. */
  #interrupt(): void {
    if (!this.#ctx.interrupts.legacyReplacement) this.#irq.pulse();
  }

  #schedule(): void {
    const rise = this.#counters[TIMER_IRQ].nextRise(this.#now);
    if (rise === undefined) this.#timer.cancel();
    else this.#timer.armAt(timeOfTick(rise, PIT_HERTZ));
  }

  #readNmiSc(): number {
    const refresh = Math.floor(this.#ctx.clock.now() / REFRESH_NS) & 1;
    return this.#nmiSc | (refresh ? REF_TOGGLE : 0) |
      (this.#counters[SPEAKER].output(this.#now) ? TMR2_OUT_STS : 0);
  }

  #writeNmiSc(value: number): void {
    this.#nmiSc = value & NMI_SC_WRITABLE;
    this.#counters[SPEAKER].setGate(
      this.#now,
      (value & TIM_CNT2_EN) !== 0,
    );
  }

  #save(): PitState {
    return {
      channels: this.#counters.map((counter) => counter.save(this.#now)),
      nmiSc: this.#nmiSc,
      timer: this.#timer.save(),
    };
  }

  #restore(state: PitState): void {
    state.channels.forEach((channel, i) => {
      checkPitCounter(`channels.${i}`, channel);
      const gate = i === SPEAKER ? (state.nmiSc & TIM_CNT2_EN) !== 0 : true;
      check(
        channel.gate === gate,
        `channels.${i}.gate`,
        channel.gate,
        `${gate}, as it is wired`,
      );
    });
    checkBits("nmiSc", state.nmiSc, NMI_SC_WRITABLE);
    const now = this.#now;
    this.#counters.forEach((counter, i) =>
      counter.restore(now, state.channels[i])
    );
    this.#nmiSc = state.nmiSc;
    this.#schedule();
    // What is late is due at once; any other time follows from the counter.
    const due = this.#timer.save();
    const { remaining } = state.timer ?? { remaining: undefined };
    check(
      remaining === due?.remaining || remaining === 0,
      "timer",
      String(remaining),
      `${due?.remaining}, when the output of counter 0 rises`,
    );
    this.#timer.restore(state.timer);
  }
}

/** The three-channel timer of a PC. */
export default definePlugin({
  name: "pit",
  version: "1.0.0",
  summary: "8254 interval timer and port 0x61",
  options: {},
  state: pitState,
  create: (ctx) => new Pit(ctx),
});
