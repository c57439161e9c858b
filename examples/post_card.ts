/**
 * A POST card for the ISA bus, as technicians put into a PC that does not start: two digits that
 * show the last power-on self-test (POST) code, a history of codes, a watchdog that notices a
 * guest that has stopped reporting, and a debug console.
 *
 * ```
 * deno run -A mod.ts --dev ./examples/post_card.ts:backend=file=/tmp/card.log,uart
 * ```
 *
 * # Ports, from the option `port` on (0x300)
 *
 * | port | name       | access | meaning                                                              |
 * | ---- | ---------- | ------ | -------------------------------------------------------------------- |
 * | +0   | CODE       | r/w    | the code on display; a write also adds it to the history and feeds the watchdog |
 * | +1   | DIGIT_LOW  | r      | segments of the right digit: bit 0 is a, bit 6 is g                  |
 * | +2   | DIGIT_HIGH | r      | segments of the left digit; bit 7, its point, is lit while the watchdog runs |
 * | +3   | HISTORY    | r      | takes the oldest code out of the history; 0 when it is empty         |
 * | +4   | STATUS     | r/w1c  | below                                                                |
 * | +5   | CONTROL    | r/w    | bit 0 watchdog on, bit 1 interrupt on, bit 2 reset on                |
 * | +6   | TIMEOUT    | r/w    | tenths of a second until the watchdog expires; 0 stands for 256      |
 * | +7   | CONSOLE    | r/w    | writes a character; reads 0xE9: a console is there                   |
 *
 * STATUS: bit 0 the history is not empty; bit 1 it was full and lost its oldest code; bit 2 the
 * watchdog expired; bit 3 the console can take no more; bit 4 it has lost a character; bit 7 the
 * last reset of the machine was the watchdog's. Bits 1, 2, 4 and 7 are cleared by writing 1.
 *
 * The interrupt line is high while bit 2 of STATUS and bit 1 of CONTROL are set. A watchdog that
 * expires starts again; if it expires a second time with bit 2 of STATUS still set, and CONTROL
 * allows it, it resets the machine.
 *
 * @module
 */
import {
  bool,
  bytes,
  bytewise,
  definePlugin,
  type DeviceContext,
  type Infer,
  type IrqLine,
  list,
  MachineError,
  schema,
  type Timer,
  timer,
  u8,
} from "@diapause/diapause";

const PORT_COUNT = 8;
const CODE = 0, DIGIT_LOW = 1, DIGIT_HIGH = 2, HISTORY = 3;
const STATUS = 4, CONTROL = 5, TIMEOUT = 6, CONSOLE = 7;

const STATUS_HISTORY = 0x01;
const STATUS_HISTORY_LOST = 0x02;
const STATUS_EXPIRED = 0x04;
const STATUS_CONSOLE_FULL = 0x08;
const STATUS_CONSOLE_LOST = 0x10;
const STATUS_WAS_RESET = 0x80;
/** The bits that the card holds; the others follow from its queues. */
const STATUS_HELD = STATUS_HISTORY_LOST | STATUS_EXPIRED |
  STATUS_CONSOLE_LOST | STATUS_WAS_RESET;

const CONTROL_WATCHDOG = 0x01;
const CONTROL_INTERRUPT = 0x02;
const CONTROL_RESET = 0x04;
const CONTROL_MASK = 0x07;

/** What CONSOLE reads as: the same as the debug port of Bochs and QEMU. */
const CONSOLE_PRESENT = 0xe9;
const HISTORY_LENGTH = 16;
const CONSOLE_LENGTH = 16;
const TENTH_NS = 100_000_000;
const TIMEOUT_MAX = 256;
const POINT = 0x80;
/** Segments a to g for the digits 0 to F. */
const SEGMENTS = [
  ...[0x3f, 0x06, 0x5b, 0x4f, 0x66, 0x6d, 0x7d, 0x07],
  ...[0x7f, 0x6f, 0x77, 0x7c, 0x39, 0x5e, 0x79, 0x71],
];

/** Version 1 had no console and did not remember its resets; its STATUS had bits 1 and 2 only. */
const state = schema("post-card", 2, {
  code: u8(),
  history: list(u8(), { max: HISTORY_LENGTH }),
  status: u8(),
  control: u8({ max: CONTROL_MASK }),
  timeout: u8(),
  watchdog: timer(),
  /** What the backend has not taken yet. */
  console: bytes({ max: CONSOLE_LENGTH }),
  /** The reset that the watchdog has asked for is still to come. */
  resetting: bool(),
}, {
  1: (old) => ({
    ...old as object,
    console: new Uint8Array(),
    resetting: false,
  }),
});

type State = Infer<typeof state>;

class PostCard {
  readonly #ctx: DeviceContext<State, "char">;
  readonly #line: IrqLine;
  readonly #watchdog: Timer;
  #code = 0;
  #history: number[] = [];
  #status = 0;
  #control = 0;
  #timeout = 0;
  #console: number[] = [];
  #resetting = false;
  /** The backend has asked for no more. */
  #held = false;

  constructor(
    ctx: DeviceContext<State, "char">,
    { port, irq }: { port: number; irq: number },
  ) {
    this.#ctx = ctx;
    this.#line = ctx.isa.irq(irq);
    this.#watchdog = ctx.clock.timer(() => this.#expire());
    ctx.isa.claimPorts(
      port,
      PORT_COUNT,
      bytewise({
        read: (address) => this.#read(address - port),
        write: (address, value) => this.#write(address - port, value),
      }),
    );
    ctx.backend.onDrain(() => this.start());
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (saved) => this.#restore(saved),
    });
  }

  reset(): void {
    this.#watchdog.cancel();
    this.#code = 0;
    this.#history = [];
    this.#status = this.#resetting ? STATUS_WAS_RESET : 0;
    this.#resetting = false;
    this.#control = 0;
    this.#timeout = 0;
    // The line to the host is not reset with the machine: what was written before comes out.
    this.#update();
  }

  #read(register: number): number {
    switch (register) {
      case CODE:
        return this.#code;
      case DIGIT_LOW:
        return SEGMENTS[this.#code & 0xf];
      case DIGIT_HIGH:
        return SEGMENTS[this.#code >> 4] |
          (this.#control & CONTROL_WATCHDOG ? POINT : 0);
      case HISTORY:
        return this.#history.shift() ?? 0;
      case STATUS:
        return this.#status |
          (this.#history.length > 0 ? STATUS_HISTORY : 0) |
          (this.#console.length === CONSOLE_LENGTH ? STATUS_CONSOLE_FULL : 0);
      case CONTROL:
        return this.#control;
      case TIMEOUT:
        return this.#timeout;
      default:
        return CONSOLE_PRESENT;
    }
  }

  #write(register: number, value: number): void {
    switch (register) {
      case CODE:
        this.#show(value);
        break;
      case STATUS:
        this.#status &= ~value;
        this.#update();
        break;
      case CONTROL:
        this.#control = value & CONTROL_MASK;
        this.#feed();
        this.#update();
        break;
      case TIMEOUT:
        this.#timeout = value;
        this.#feed();
        break;
      case CONSOLE:
        this.#print(value);
        break;
    }
  }

  #show(code: number): void {
    this.#ctx.log.debug(`code ${code.toString(16).padStart(2, "0")}`);
    this.#code = code;
    if (this.#history.length === HISTORY_LENGTH) {
      this.#history.shift();
      this.#status |= STATUS_HISTORY_LOST;
    }
    this.#history.push(code);
    this.#feed();
  }

  #print(character: number): void {
    if (this.#console.length === CONSOLE_LENGTH) {
      this.#status |= STATUS_CONSOLE_LOST;
      return;
    }
    this.#console.push(character);
    this.#flush();
  }

  /** Hands characters over until the backend has enough of them. */
  #flush(): void {
    while (this.#console.length > 0 && !this.#held) {
      const next = Uint8Array.of(this.#console.shift()!);
      this.#held = !this.#ctx.backend.write(next);
    }
  }

  /** Starts the watchdog's time again, or stops it. */
  #feed(): void {
    if (this.#control & CONTROL_WATCHDOG) {
      const tenths = this.#timeout || TIMEOUT_MAX;
      this.#watchdog.armAt(this.#ctx.clock.now() + tenths * TENTH_NS);
    } else {
      this.#watchdog.cancel();
    }
  }

  #expire(): void {
    if (this.#status & STATUS_EXPIRED && this.#control & CONTROL_RESET) {
      this.#ctx.log.warn(
        `the guest has reported nothing since code ${
          this.#code.toString(16).padStart(2, "0")
        }: resetting it`,
      );
      this.#resetting = true;
      this.#ctx.machine.reset();
      return;
    }
    this.#status |= STATUS_EXPIRED;
    this.#feed();
    this.#update();
  }

  #update(): void {
    this.#line.set(
      (this.#status & STATUS_EXPIRED) !== 0 &&
        (this.#control & CONTROL_INTERRUPT) !== 0,
    );
  }

  #save(): State {
    return {
      code: this.#code,
      history: [...this.#history],
      status: this.#status,
      control: this.#control,
      timeout: this.#timeout,
      watchdog: this.#watchdog.save(),
      console: Uint8Array.from(this.#console),
      resetting: this.#resetting,
    };
  }

  #restore(saved: State): void {
    if ((saved.status & ~STATUS_HELD) !== 0) {
      throw new MachineError(
        `state field status is 0x${
          saved.status.toString(16)
        }: expected no bits outside 0x${STATUS_HELD.toString(16)}`,
      );
    }
    const running = (saved.control & CONTROL_WATCHDOG) !== 0;
    const longest = (saved.timeout || TIMEOUT_MAX) * TENTH_NS;
    const possible = saved.watchdog === null
      ? !running || saved.resetting
      : running && saved.watchdog.remaining <= longest;
    if (!possible) {
      throw new MachineError(
        `state field watchdog is ${
          saved.watchdog === null
            ? "not armed"
            : `${saved.watchdog.remaining} ns`
        }: expected ${
          running ? `at most ${longest} ns` : "not armed"
        }, as control and timeout say`,
      );
    }
    this.#code = saved.code;
    this.#history = [...saved.history];
    this.#status = saved.status;
    this.#control = saved.control;
    this.#timeout = saved.timeout;
    this.#watchdog.restore(saved.watchdog);
    this.#console = [...saved.console];
    this.#resetting = saved.resetting;
  }

  /** The backend can take characters: it is a new one, after a restore too, or has drained. */
  start(): void {
    this.#held = false;
    this.#flush();
  }
}

export default definePlugin({
  name: "post-card",
  version: "2.0.0",
  summary: "POST code display with history, watchdog and debug console",
  options: {
    port: {
      type: "number",
      help: "first of its 8 ports",
      default: 0x300,
      min: 0x100,
      max: 0xfff8,
    },
    irq: {
      type: "number",
      help: "ISA interrupt of the watchdog",
      default: 5,
      min: 3,
      max: 15,
    },
  },
  state,
  backend: "char",
  create: (ctx, options) => new PostCard(ctx, options),
});
