/**
 * PS/2 keyboard with 101 or 102 keys (IBM Personal System/2 Hardware Interface Technical Reference, "Keyboards").
 *
 * Three things are not as on the desk. What is typed waits in a buffer of {@linkcode BUFFER_SIZE} bytes, not of 16,
 * since a program types faster than fingers and a guest may be slow. The keyboard does not send the self-test's result
 * at power-on, as firmware has taken it before a guest runs. And it sends no shift codes around the keys of the
 * navigation block, whose only purpose was software for the 84-key keyboard.
 *
 * @module
 */
import type { DeviceClock, Timer } from "../../core/plugin.ts";
import {
  bool,
  bytes,
  type Infer,
  list,
  record,
  timer,
  u8,
} from "../../snapshot/schema.ts";
import {
  BREAK,
  defaultKeyModes,
  EXTENDED,
  EXTENDED_1,
  KEY_MODE,
  type KeyCodes,
  KEYS,
  SET1_BREAK,
  SET3_CODES,
  translate,
  USAGE,
} from "./scancodes.ts";
import { check, checkBits, NS_PER_SECOND } from "./support.ts";

/** Bytes of codes that wait to be sent. */
const BUFFER_SIZE = 1024;
/** Buffered bytes from which keys do not repeat: a held key must not fill the buffer of a guest that is busy. */
const REPEAT_LIMIT = 16;
/** Replies to one command at most. */
const MAX_REPLIES = 4;

// Commands.
const SET_LEDS = 0xed;
const ECHO = 0xee;
const SELECT_SET = 0xf0;
const READ_ID = 0xf2;
const SET_RATE = 0xf3;
const ENABLE = 0xf4;
const DEFAULT_DISABLE = 0xf5;
const SET_DEFAULT = 0xf6;
const ALL_REPEAT = 0xf7;
const ALL_BREAK = 0xf8;
const ALL_MAKE = 0xf9;
const ALL_REPEAT_AND_BREAK = 0xfa;
const KEY_REPEATS = 0xfb;
const KEY_BREAKS = 0xfc;
const KEY_MAKES = 0xfd;
const RESEND = 0xfe;
const RESET = 0xff;
/** Commands that a byte follows. */
const WITH_OPTION = [
  SET_LEDS,
  SELECT_SET,
  SET_RATE,
  KEY_REPEATS,
  KEY_BREAKS,
  KEY_MAKES,
];
const ALL_MODES: Readonly<Record<number, number>> = {
  [ALL_REPEAT]: KEY_MODE.REPEATS,
  [ALL_BREAK]: KEY_MODE.BREAKS,
  [ALL_MAKE]: 0,
  [ALL_REPEAT_AND_BREAK]: KEY_MODE.REPEATS | KEY_MODE.BREAKS,
};
const ONE_MODE: Readonly<Record<number, number>> = {
  [KEY_REPEATS]: KEY_MODE.REPEATS,
  [KEY_BREAKS]: KEY_MODE.BREAKS,
  [KEY_MAKES]: 0,
};

// Replies.
const ACK = 0xfa;
const SELF_TEST_PASSED = 0xaa;
const ID = [0xab, 0x83];
/** The buffer was full: in set 1, and in the others. */
const OVERRUN_SET1 = 0xff;
const OVERRUN = 0x00;

/** Scroll, Num and Caps Lock in the option of {@linkcode SET_LEDS}. */
const LED_SCROLL = 1;
const LED_NUM = 2;
const LED_CAPS = 4;
const LED_MASK = LED_SCROLL | LED_NUM | LED_CAPS;

// The option of SET_RATE: period in bits 4:0, delay in bits 6:5.
const RATE_MASK = 0x7f;
/** 10.9 characters a second after half a second. */
const DEFAULT_RATE = 0x2b;
const DELAY_UNIT_NS = 250_000_000;
/** The period's unit of 1/240 s. */
const PERIODS_A_SECOND = 240;

const DEFAULT_SET = 2;
/** Print Screen with Alt, in set 2. */
const SYSRQ = 0x84;
/** Scroll Lock in set 2. */
const SCROLL_LOCK = 0x7e;

/** Nanoseconds from the press to the first repetition. */
function delayOf(rate: number): number {
  return ((rate >> 5 & 3) + 1) * DELAY_UNIT_NS;
}

/** Nanoseconds between repetitions: (8 + A) times 2 to the B, in 1/240 s. */
function periodOf(rate: number): number {
  return Math.floor(
    (8 + (rate & 7)) * 2 ** (rate >> 3 & 3) * NS_PER_SECOND / PERIODS_A_SECOND,
  );
}

/** The keyboard's state in a snapshot. */
export const keyboardState = record({
  /** Scan code set. */
  set: u8({ min: 1, max: 3 }),
  /** Whether keys are reported. */
  scanning: bool(),
  /** As {@linkcode SET_LEDS} has it. */
  leds: u8({ max: LED_MASK }),
  rate: u8({ max: RATE_MASK }),
  /** The command whose option comes next; 0 for none. */
  command: u8(),
  replies: bytes({ max: MAX_REPLIES }),
  buffer: bytes({ max: BUFFER_SIZE }),
  /** The last byte that was sent. */
  sent: u8(),
  /** Usages of the keys that are down. */
  pressed: list(u8(), { max: KEYS.size }),
  /** Usage of the key that repeats; 0 for none. */
  repeating: u8(),
  typematic: timer(),
  /** How each key behaves in set 3, by code. */
  modes: bytes(SET3_CODES),
});

type KeyboardState = Infer<typeof keyboardState>;

/** The keyboard. */
export class Ps2Keyboard {
  readonly #clock: DeviceClock;
  readonly #showLeds: (leds: number) => void;
  readonly #changed: () => void;
  readonly #typematic: Timer;
  #set = DEFAULT_SET;
  #scanning = true;
  #leds = 0;
  #rate = DEFAULT_RATE;
  #command = 0;
  #replies: number[] = [];
  #buffer: number[] = [];
  #sent = 0;
  #pressed: number[] = [];
  #repeating = 0;
  #modes = defaultKeyModes();

  /**
   * A keyboard as firmware leaves it: set 2, keys reported.
   *
   * @param clock What its repetition goes by.
   * @param showLeds Takes its LEDs: 1 num, 2 caps, 4 scroll.
   * @param changed Called when it has something to send.
   */
  constructor(
    clock: DeviceClock,
    showLeds: (leds: number) => void,
    changed: () => void,
  ) {
    this.#clock = clock;
    this.#showLeds = showLeds;
    this.#changed = changed;
    this.#typematic = clock.timer(() => this.#repeat());
  }

  /** Power-on. Keys that are down stay down: their releases are to come. */
  reset(): void {
    this.#command = 0;
    this.#replies = [];
    this.#sent = 0;
    this.#setLeds(0);
    this.#defaults();
    this.#scanning = true;
  }

  /** Whether it has a byte to send. */
  get hasByte(): boolean {
    return this.#replies.length > 0 || this.#buffer.length > 0;
  }

  /** Takes the next byte that it sends. */
  take(): number {
    this.#sent = this.#replies.shift() ?? this.#buffer.shift() ?? this.#sent;
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
    const isKey = command in ONE_MODE;
    if (command !== 0 && (isKey || value < SET_LEDS)) {
      this.#option(command, value);
    } else {
      this.#execute(value);
    }
    this.#changed();
  }

  #option(command: number, value: number): void {
    if (command in ONE_MODE) {
      this.#modes[value] = ONE_MODE[command];
      this.#reply(ACK);
      return;
    }
    switch (command) {
      case SET_LEDS:
        if (value > LED_MASK) return this.#refuse(command);
        this.#reply(ACK);
        return this.#setLeds(value);
      case SET_RATE:
        if (value > RATE_MASK) return this.#refuse(command);
        this.#reply(ACK);
        this.#rate = value;
        return;
      default:
        if (value > 3) return this.#refuse(command);
        this.#reply(ACK);
        if (value === 0) return this.#reply(this.#set);
        this.#clear();
        this.#set = value;
    }
  }

  /** Asks for the option again. */
  #refuse(command: number): void {
    this.#command = command;
    this.#reply(RESEND);
  }

  #execute(command: number): void {
    if (WITH_OPTION.includes(command)) {
      this.#command = command;
      return this.#reply(ACK);
    }
    if (command in ALL_MODES) {
      this.#clear();
      this.#modes.fill(ALL_MODES[command]);
      return this.#reply(ACK);
    }
    switch (command) {
      case ECHO:
        return this.#reply(ECHO);
      case READ_ID:
        return this.#reply(ACK, ...ID);
      case ENABLE:
        this.#clear();
        this.#scanning = true;
        return this.#reply(ACK);
      case DEFAULT_DISABLE:
        this.#defaults();
        this.#scanning = false;
        return this.#reply(ACK);
      case SET_DEFAULT:
        this.#defaults();
        return this.#reply(ACK);
      case RESEND:
        return this.#reply(this.#sent);
      case RESET:
        this.reset();
        return this.#reply(ACK, SELF_TEST_PASSED);
      default:
        this.#reply(RESEND);
    }
  }

  #reply(...values: number[]): void {
    this.#replies.push(...values);
  }

  #setLeds(leds: number): void {
    this.#leds = leds;
    this.showLeds();
  }

  /** Shows the LEDs to whoever looks at them: after a restore, too. */
  showLeds(): void {
    const leds = this.#leds;
    this.#showLeds(
      (leds & LED_NUM ? 1 : 0) | (leds & LED_CAPS ? 2 : 0) |
        (leds & LED_SCROLL ? 4 : 0),
    );
  }

  /** Forgets what was typed, and what repeats. */
  #clear(): void {
    this.#buffer = [];
    this.#stopRepeating();
  }

  #defaults(): void {
    this.#clear();
    this.#set = DEFAULT_SET;
    this.#rate = DEFAULT_RATE;
    this.#modes = defaultKeyModes();
  }

  #stopRepeating(): void {
    this.#repeating = 0;
    this.#typematic.cancel();
  }

  /**
   * A key goes down or up.
   *
   * @param usage Its usage on HID page 7; one that a PS/2 keyboard does not have is left out.
   * @param down Whether it goes down.
   */
  key(usage: number, down: boolean): void {
    const codes = KEYS.get(usage);
    if (codes === undefined || down === this.#pressed.includes(usage)) return;
    if (down) {
      this.#pressed.push(usage);
      this.#type(this.#make(usage, codes));
      if (this.#scanning && this.#repeats(usage, codes)) {
        this.#repeating = usage;
        this.#typematic.armAt(this.#clock.now() + delayOf(this.#rate));
      } else {
        this.#stopRepeating();
      }
    } else {
      this.#pressed = this.#pressed.filter((each) => each !== usage);
      this.#type(this.#break(usage, codes));
      if (this.#repeating === usage) this.#stopRepeating();
    }
  }

  #repeats(usage: number, { set3 }: KeyCodes): boolean {
    return this.#set === 3
      ? (this.#modes[set3] & KEY_MODE.REPEATS) !== 0
      : usage !== USAGE.PAUSE;
  }

  #repeat(): void {
    const codes = KEYS.get(this.#repeating);
    if (codes === undefined) return;
    this.#typematic.armAt(this.#clock.now() + periodOf(this.#rate));
    if (this.#buffer.length < REPEAT_LIMIT) {
      this.#type(this.#make(this.#repeating, codes));
    }
  }

  #isDown(...usages: number[]): boolean {
    return usages.some((usage) => this.#pressed.includes(usage));
  }

  #make(usage: number, codes: KeyCodes): number[] {
    if (this.#set === 3) return codes.set3 === 0 ? [] : [codes.set3];
    const plain = this.#coded(codes.set2, codes.extended, false);
    const ctrl = this.#isDown(USAGE.LEFT_CTRL, USAGE.RIGHT_CTRL);
    if (usage === USAGE.PAUSE) {
      // Its release sends nothing: both codes come at once.
      return ctrl ? [...this.#ctrlBreak(false), ...this.#ctrlBreak(true)] : [
        ...this.#pause(false),
        ...this.#pause(true),
      ];
    }
    if (usage !== USAGE.PRINT_SCREEN) return plain;
    if (this.#isDown(USAGE.LEFT_ALT, USAGE.RIGHT_ALT)) {
      return this.#sysRq(false);
    }
    return ctrl || this.#isDown(USAGE.LEFT_SHIFT, USAGE.RIGHT_SHIFT)
      ? plain
      : [...this.#shift(false), ...plain];
  }

  #break(usage: number, codes: KeyCodes): number[] {
    if (this.#set === 3) {
      return codes.set3 !== 0 && this.#modes[codes.set3] & KEY_MODE.BREAKS
        ? [BREAK, codes.set3]
        : [];
    }
    if (usage === USAGE.PAUSE) return [];
    const plain = this.#coded(codes.set2, codes.extended, true);
    if (usage !== USAGE.PRINT_SCREEN) return plain;
    if (this.#isDown(USAGE.LEFT_ALT, USAGE.RIGHT_ALT)) return this.#sysRq(true);
    return this.#isDown(
        USAGE.LEFT_CTRL,
        USAGE.RIGHT_CTRL,
        USAGE.LEFT_SHIFT,
        USAGE.RIGHT_SHIFT,
      )
      ? plain
      : [...plain, ...this.#shift(true)];
  }

  /** A code of set 2 in set 1 or 2. */
  #coded(
    code: number,
    extended: boolean,
    released: boolean,
    prefix = EXTENDED,
  ): number[] {
    const first = extended ? [prefix] : [];
    if (this.#set === 1) {
      return [...first, translate(code) | (released ? SET1_BREAK : 0)];
    }
    return [...first, ...released ? [BREAK] : [], code];
  }

  /** The shift that Print Screen brings along. */
  #shift(released: boolean): number[] {
    const { set2 } = KEYS.get(USAGE.LEFT_SHIFT)!;
    return this.#coded(set2, true, released);
  }

  /** Print Screen with Alt. */
  #sysRq(released: boolean): number[] {
    return this.#coded(SYSRQ, false, released);
  }

  /** Pause with Control: a key of the 84-key keyboard that lay on Scroll Lock. */
  #ctrlBreak(released: boolean): number[] {
    return this.#coded(SCROLL_LOCK, true, released);
  }

  /** Control and Num Lock, behind a prefix of their own: how the 84-key keyboard paused. */
  #pause(released: boolean): number[] {
    const { set2: control } = KEYS.get(USAGE.LEFT_CTRL)!;
    const { set2: numLock } = KEYS.get(USAGE.PAUSE)!;
    return [
      ...this.#coded(control, true, released, EXTENDED_1),
      ...this.#coded(numLock, false, released),
    ];
  }

  #type(codes: readonly number[]): void {
    if (!this.#scanning || codes.length === 0) return;
    if (this.#buffer.length + codes.length < BUFFER_SIZE) {
      this.#buffer.push(...codes);
    } else if (this.#buffer.length < BUFFER_SIZE) {
      // Room for the overrun only; it fills the buffer, and nothing comes after it until there is room for all.
      const overrun = this.#set === 1 ? OVERRUN_SET1 : OVERRUN;
      if (this.#buffer.at(-1) !== overrun) this.#buffer.push(overrun);
    }
    this.#changed();
  }

  /** Its state. */
  save(): KeyboardState {
    return {
      set: this.#set,
      scanning: this.#scanning,
      leds: this.#leds,
      rate: this.#rate,
      command: this.#command,
      replies: Uint8Array.from(this.#replies),
      buffer: Uint8Array.from(this.#buffer),
      sent: this.#sent,
      pressed: [...this.#pressed],
      repeating: this.#repeating,
      typematic: this.#typematic.save(),
      modes: this.#modes.slice(),
    };
  }

  /**
   * Refuses what it cannot be in.
   *
   * @param state Its state.
   * @throws {MachineError} When no guest could have brought it there.
   */
  check(state: KeyboardState): void {
    const { command, pressed, repeating, typematic } = state;
    check(
      command === 0 || WITH_OPTION.includes(command),
      "keyboard.command",
      command,
      "0 or a command with an option",
    );
    pressed.forEach((usage, i) =>
      check(
        KEYS.has(usage) && pressed.indexOf(usage) === i,
        `keyboard.pressed[${i}]`,
        usage,
        "a key of the keyboard, once",
      )
    );
    check(
      repeating === 0 || pressed.includes(repeating) && state.scanning,
      "keyboard.repeating",
      repeating,
      "0, or a key that is down while keys are reported",
    );
    check(
      (typematic !== null) === (repeating !== 0),
      "keyboard.typematic",
      typematic !== null,
      "armed while a key repeats, and only then",
    );
    const longest = Math.max(delayOf(RATE_MASK), periodOf(RATE_MASK));
    const remaining = typematic?.remaining ?? 0;
    check(
      remaining <= longest,
      "keyboard.typematic.remaining",
      remaining,
      `at most ${longest} ns`,
    );
    state.modes.forEach((mode, code) =>
      checkBits(
        `keyboard.modes[${code}]`,
        mode,
        KEY_MODE.BREAKS | KEY_MODE.REPEATS,
      )
    );
  }

  /**
   * Takes a state that was {@linkcode check}ed.
   *
   * @param state Its state.
   */
  restore(state: KeyboardState): void {
    this.#set = state.set;
    this.#scanning = state.scanning;
    this.#leds = state.leds;
    this.#rate = state.rate;
    this.#command = state.command;
    this.#replies = [...state.replies];
    this.#buffer = [...state.buffer];
    this.#sent = state.sent;
    this.#pressed = [...state.pressed];
    this.#repeating = state.repeating;
    this.#typematic.restore(state.typematic);
    this.#modes = state.modes.slice();
    this.showLeds();
  }
}
