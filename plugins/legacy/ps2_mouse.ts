/**
 * PS/2 mouse (IBM Personal System/2 Hardware Interface Technical Reference, "Mouse"), with the wheel and the five
 * buttons of Microsoft's IntelliMouse and IntelliMouse Explorer, which a driver turns on by a series of sample rates.
 *
 * Motion that does not fit a packet goes into the next one, and clicks between two samples wait for their turn, so
 * that nothing of what the user does is lost. The self-test's result is not sent at power-on, as firmware has taken
 * it before a guest runs.
 *
 * @module
 */
import type { DeviceClock, Timer } from "../../core/plugin.ts";
import {
  bool,
  bytes,
  i32,
  type Infer,
  list,
  record,
  timer,
  u8,
} from "../../snapshot/schema.ts";
import { check, NS_PER_SECOND } from "./support.ts";

// Commands.
const SCALE_1_1 = 0xe6;
const SCALE_2_1 = 0xe7;
const SET_RESOLUTION = 0xe8;
const STATUS = 0xe9;
const STREAM_MODE = 0xea;
const READ_DATA = 0xeb;
const RESET_WRAP = 0xec;
const WRAP_MODE = 0xee;
const REMOTE_MODE = 0xf0;
const READ_ID = 0xf2;
const SET_RATE = 0xf3;
const ENABLE = 0xf4;
const DISABLE = 0xf5;
const SET_DEFAULT = 0xf6;
const RESEND = 0xfe;
const RESET = 0xff;

// Replies.
const ACK = 0xfa;
const SELF_TEST_PASSED = 0xaa;

// Device IDs.
const ID_STANDARD = 0;
const ID_WHEEL = 3;
const ID_FIVE_BUTTONS = 4;
/** The last rates of a driver that asks for the wheel, and for the buttons. */
const KNOCKS: readonly { rates: readonly number[]; id: number }[] = [
  { rates: [200, 100, 80], id: ID_WHEEL },
  { rates: [200, 200, 80], id: ID_FIVE_BUTTONS },
];
const KNOCK_LENGTH = 3;

// The status, first byte; buttons in the lowest three bits.
const STATUS_REMOTE = 0x40;
const STATUS_ENABLED = 0x20;
const STATUS_SCALING = 0x10;
const STATUS_LEFT = 0x04;
const STATUS_MIDDLE = 0x02;
const STATUS_RIGHT = 0x01;

// A packet, first byte; buttons in the lowest three bits as the host gives them.
const PACKET_BUTTONS = 0x07;
const PACKET_ALWAYS = 0x08;
const PACKET_X_SIGN = 0x10;
const PACKET_Y_SIGN = 0x20;
// The fourth byte of a mouse with five buttons.
const WHEEL_BITS = 0x0f;
const SIDE_BUTTONS_SHIFT = 1;
const SIDE_BUTTONS = 0x30;

const BUTTON_LEFT = 1;
const BUTTON_RIGHT = 2;
const BUTTON_MIDDLE = 4;
const BUTTON_MASK = 0x1f;

/** What a packet holds at most. */
const MOST_MOTION = 255;
const MOST_WHEEL = 7;
/** Counts that wait at most; a mouse is not moved further than this at once. */
const MOST_WAITING = 1 << 15;
/** Reports that wait at most; the next ones are put into the last. */
const MAX_REPORTS = 64;
const MAX_REPLIES = 8;
const MAX_PACKET = 4;

const RATES: readonly number[] = [10, 20, 40, 60, 80, 100, 200];
const DEFAULT_RATE = 100;
/** Resolutions are 1, 2, 4 and 8 counts a millimetre. */
const MOST_RESOLUTION = 3;
const DEFAULT_RESOLUTION = 2;

/** Counts that scaling 2:1 makes of few; more are doubled. */
const SCALED = [0, 1, 1, 3, 6, 9];

/** Motion with one state of the buttons. */
const reportState = record({
  dx: i32({ min: -MOST_WAITING, max: MOST_WAITING }),
  dy: i32({ min: -MOST_WAITING, max: MOST_WAITING }),
  wheel: i32({ min: -MOST_WAITING, max: MOST_WAITING }),
  buttons: u8({ max: BUTTON_MASK }),
});

type Report = Infer<typeof reportState>;

/** The mouse's state in a snapshot. */
export const mouseState = record({
  /** Device ID: 0 standard, 3 with a wheel, 4 with five buttons. */
  id: u8({ max: ID_FIVE_BUTTONS }),
  /** Whether it reports by itself, in stream mode. */
  enabled: bool(),
  remote: bool(),
  wrap: bool(),
  /** Scaling 2:1. */
  scaling: bool(),
  resolution: u8({ max: MOST_RESOLUTION }),
  rate: u8(),
  /** The last rates that were set, the newest last. */
  knocks: list(u8(), { max: KNOCK_LENGTH }),
  /** The command whose option comes next; 0 for none. */
  command: u8(),
  replies: bytes({ max: MAX_REPLIES }),
  /** What is left of the packet that is being sent. */
  packet: bytes({ max: MAX_PACKET }),
  /** The last byte that was sent. */
  sent: u8(),
  /** Buttons that are down. */
  buttons: u8({ max: BUTTON_MASK }),
  /** What is still to be reported, the oldest first. */
  reports: list(reportState, { max: MAX_REPORTS }),
  /** When the next packet may be made. */
  sample: timer(),
});

type MouseState = Infer<typeof mouseState>;

function within(value: number, most: number): number {
  return Math.max(-most, Math.min(most, value));
}

/** The mouse. */
export class Ps2Mouse {
  readonly #clock: DeviceClock;
  readonly #changed: () => void;
  readonly #sample: Timer;
  #id = ID_STANDARD;
  #enabled = false;
  #remote = false;
  #wrap = false;
  #scaling = false;
  #resolution = DEFAULT_RESOLUTION;
  #rate = DEFAULT_RATE;
  #knocks: number[] = [];
  #command = 0;
  #replies: number[] = [];
  #packet: number[] = [];
  #sent = 0;
  #buttons = 0;
  #reports: Report[] = [];

  /**
   * A mouse that reports nothing yet.
   *
   * @param clock What its samples go by.
   * @param changed Called when it has something to send.
   */
  constructor(clock: DeviceClock, changed: () => void) {
    this.#clock = clock;
    this.#changed = changed;
    this.#sample = clock.timer(() => this.#report());
  }

  /** Power-on. Buttons that are down stay down. */
  reset(): void {
    this.#defaults();
    this.#id = ID_STANDARD;
    this.#remote = false;
    this.#wrap = false;
    this.#knocks = [];
    this.#command = 0;
    this.#replies = [];
    this.#sent = 0;
  }

  /** Whether it has a byte to send. */
  get hasByte(): boolean {
    return this.#replies.length > 0 || this.#packet.length > 0;
  }

  /** Takes the next byte that it sends. */
  take(): number {
    this.#sent = this.#replies.shift() ?? this.#packet.shift() ?? this.#sent;
    return this.#sent;
  }

  /**
   * Takes a byte from the controller.
   *
   * @param value A command or the option of one.
   */
  receive(value: number): void {
    const command = this.#command;
    this.#command = 0;
    this.#replies = [];
    this.#packet = [];
    if (this.#wrap && value !== RESET && value !== RESET_WRAP) {
      this.#reply(value);
    } else if (command !== 0 && value < SCALE_1_1) {
      this.#option(command, value);
    } else {
      this.#execute(value);
    }
    this.#report();
    this.#changed();
  }

  #option(command: number, value: number): void {
    const isRate = command === SET_RATE;
    if (isRate ? !RATES.includes(value) : value > MOST_RESOLUTION) {
      this.#command = command;
      return this.#reply(RESEND);
    }
    this.#reply(ACK);
    if (!isRate) {
      this.#resolution = value;
      return;
    }
    this.#rate = value;
    this.#knocks = [...this.#knocks, value].slice(-KNOCK_LENGTH);
    const knocked = KNOCKS.find(({ rates }) =>
      rates.every((rate, i) => rate === this.#knocks[i])
    );
    if (knocked !== undefined) this.#id = knocked.id;
  }

  #execute(command: number): void {
    switch (command) {
      case SCALE_1_1:
      case SCALE_2_1:
        this.#scaling = command === SCALE_2_1;
        return this.#reply(ACK);
      case SET_RESOLUTION:
      case SET_RATE:
        this.#command = command;
        return this.#reply(ACK);
      case STATUS:
        return this.#reply(
          ACK,
          this.#status(),
          this.#resolution,
          this.#rate,
        );
      case STREAM_MODE:
      case REMOTE_MODE:
        this.#forget();
        this.#remote = command === REMOTE_MODE;
        return this.#reply(ACK);
      case READ_DATA:
        return this.#reply(ACK, ...this.#nextPacket());
      case WRAP_MODE:
      case RESET_WRAP:
        this.#forget();
        this.#wrap = command === WRAP_MODE;
        return this.#reply(ACK);
      case READ_ID:
        return this.#reply(ACK, this.#id);
      case ENABLE:
      case DISABLE:
        this.#forget();
        this.#enabled = command === ENABLE;
        return this.#reply(ACK);
      case SET_DEFAULT:
        this.#defaults();
        return this.#reply(ACK);
      case RESEND:
        return this.#reply(this.#sent);
      case RESET:
        this.reset();
        return this.#reply(ACK, SELF_TEST_PASSED, this.#id);
      default:
        this.#reply(RESEND);
    }
  }

  #reply(...values: number[]): void {
    this.#replies.push(...values);
  }

  #status(): number {
    const down = (button: number, bit: number) =>
      this.#buttons & button ? bit : 0;
    return (this.#remote ? STATUS_REMOTE : 0) |
      (this.#enabled ? STATUS_ENABLED : 0) |
      (this.#scaling ? STATUS_SCALING : 0) |
      down(BUTTON_LEFT, STATUS_LEFT) | down(BUTTON_MIDDLE, STATUS_MIDDLE) |
      down(BUTTON_RIGHT, STATUS_RIGHT);
  }

  #defaults(): void {
    this.#forget();
    this.#enabled = false;
    this.#scaling = false;
    this.#resolution = DEFAULT_RESOLUTION;
    this.#rate = DEFAULT_RATE;
  }

  #forget(): void {
    this.#packet = [];
    this.#reports = [];
    this.#sample.cancel();
  }

  /**
   * The mouse is moved, or a button goes down or up.
   *
   * @param dx Counts to the right.
   * @param dy Counts towards the user.
   * @param wheel Steps away from the user.
   * @param buttons Those that are down: 1 left, 2 right, 4 middle, 8 back, 16 forward.
   */
  pointer(dx: number, dy: number, wheel: number, buttons: number): void {
    const clicked = (buttons & BUTTON_MASK) !== this.#buttons;
    this.#buttons = buttons & BUTTON_MASK;
    if (!this.#remote && !this.#enabled) return;
    const last = this.#reports.at(-1);
    const joins = last !== undefined &&
      (last.buttons === this.#buttons || this.#reports.length >= MAX_REPORTS);
    if (!clicked && dx === 0 && dy === 0 && wheel === 0) return;
    const from = joins ? last : { dx: 0, dy: 0, wheel: 0 };
    const report = {
      dx: within(from.dx + Math.trunc(dx), MOST_WAITING),
      dy: within(from.dy + Math.trunc(dy), MOST_WAITING),
      wheel: within(from.wheel + Math.trunc(wheel), MOST_WAITING),
      buttons: this.#buttons,
    };
    if (joins) this.#reports[this.#reports.length - 1] = report;
    else this.#reports.push(report);
    this.#report();
  }

  /** Starts the next packet where there is something to report and its time has come. */
  #report(): void {
    if (
      this.#reports.length === 0 || !this.#enabled || this.#remote ||
      this.#wrap || this.#sample.deadline !== undefined
    ) return;
    this.#sample.armAt(
      this.#clock.now() + Math.floor(NS_PER_SECOND / this.#rate),
    );
    // The last packet is still being sent: at the next sample.
    if (this.#packet.length > 0) return;
    this.#packet = this.#nextPacket();
    this.#changed();
  }

  /** Makes a packet of the oldest report; what does not fit stays. */
  #nextPacket(): number[] {
    const report = this.#reports[0] ??
      { dx: 0, dy: 0, wheel: 0, buttons: this.#buttons };
    const dx = within(report.dx, MOST_MOTION);
    const dy = within(report.dy, MOST_MOTION);
    const hasWheel = this.#id !== ID_STANDARD;
    const wheel = within(report.wheel, MOST_WHEEL);
    const rest = {
      ...report,
      dx: report.dx - dx,
      dy: report.dy - dy,
      wheel: hasWheel ? report.wheel - wheel : 0,
    };
    if (rest.dx !== 0 || rest.dy !== 0 || rest.wheel !== 0) {
      this.#reports[0] = rest;
    } else {
      this.#reports.shift();
    }
    const x = this.#scaled(dx);
    // Up is positive on this bus, and so is a turn of the wheel towards the user.
    const y = this.#scaled(-dy);
    const packet = [
      PACKET_ALWAYS | report.buttons & PACKET_BUTTONS |
      (x < 0 ? PACKET_X_SIGN : 0) | (y < 0 ? PACKET_Y_SIGN : 0),
      x & 0xff,
      y & 0xff,
    ];
    if (this.#id === ID_WHEEL) packet.push(-wheel & 0xff);
    if (this.#id === ID_FIVE_BUTTONS) {
      packet.push(
        -wheel & WHEEL_BITS |
          report.buttons << SIDE_BUTTONS_SHIFT & SIDE_BUTTONS,
      );
    }
    return packet;
  }

  #scaled(counts: number): number {
    if (!this.#scaling || this.#remote) return counts;
    const few = SCALED[Math.abs(counts)];
    return few === undefined
      ? within(2 * counts, MOST_MOTION)
      : Math.sign(counts) * few;
  }

  /** Its state. */
  save(): MouseState {
    return {
      id: this.#id,
      enabled: this.#enabled,
      remote: this.#remote,
      wrap: this.#wrap,
      scaling: this.#scaling,
      resolution: this.#resolution,
      rate: this.#rate,
      knocks: [...this.#knocks],
      command: this.#command,
      replies: Uint8Array.from(this.#replies),
      packet: Uint8Array.from(this.#packet),
      sent: this.#sent,
      buttons: this.#buttons,
      reports: this.#reports.map((report) => ({ ...report })),
      sample: this.#sample.save(),
    };
  }

  /**
   * Refuses what it cannot be in.
   *
   * @param state Its state.
   * @throws {MachineError} When no guest could have brought it there.
   */
  check(state: MouseState): void {
    const { id, rate, command, enabled, remote, reports, sample } = state;
    const known = [ID_STANDARD, ID_WHEEL, ID_FIVE_BUTTONS];
    check(known.includes(id), "mouse.id", id, "0, 3 or 4");
    const isRate = (rate: number) => RATES.includes(rate);
    check(isRate(rate), "mouse.rate", rate, `one of ${RATES.join(", ")}`);
    state.knocks.forEach((rate, i) =>
      check(isRate(rate), `mouse.knocks[${i}]`, rate, "a sample rate")
    );
    check(
      command === 0 || command === SET_RATE || command === SET_RESOLUTION,
      "mouse.command",
      command,
      "0 or a command with an option",
    );
    check(
      reports.length === 0 || enabled || remote,
      "mouse.reports",
      reports.length,
      "none while the mouse is disabled",
    );
    check(
      sample === null || enabled,
      "mouse.sample",
      sample !== null,
      "not armed while the mouse is disabled",
    );
    const slowest = NS_PER_SECOND / RATES[0];
    const remaining = sample?.remaining ?? 0;
    check(
      remaining <= slowest,
      "mouse.sample.remaining",
      remaining,
      `at most ${slowest} ns`,
    );
  }

  /**
   * Takes a state that was {@linkcode check}ed.
   *
   * @param state Its state.
   */
  restore(state: MouseState): void {
    this.#id = state.id;
    this.#enabled = state.enabled;
    this.#remote = state.remote;
    this.#wrap = state.wrap;
    this.#scaling = state.scaling;
    this.#resolution = state.resolution;
    this.#rate = state.rate;
    this.#knocks = [...state.knocks];
    this.#command = state.command;
    this.#replies = [...state.replies];
    this.#packet = [...state.packet];
    this.#sent = state.sent;
    this.#buttons = state.buttons;
    this.#reports = state.reports.map((report) => ({ ...report }));
    this.#sample.restore(state.sample);
  }
}
