/**
 * Keyboard controller (Intel 8042; IBM Personal System/2 Hardware Interface Technical Reference, "Keyboard and
 * auxiliary device controller") with a keyboard and a mouse.
 *
 * A byte from a device takes its time on the line, in virtual time, so that a guest that reads the data port twice in
 * an interrupt reads the same byte twice, as on the desk.
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
  bool,
  bytes,
  type Infer,
  optional,
  record,
  schema,
  timer,
  u8,
} from "../../snapshot/schema.ts";
import { keyboardState, Ps2Keyboard } from "./ps2_keyboard.ts";
import { mouseState, Ps2Mouse } from "./ps2_mouse.ts";
import { BREAK, SET1_BREAK, translate } from "./scancodes.ts";
import { check, checkBits } from "./support.ts";

const DATA_PORT = 0x60;
/** Status when read, command when written. */
const COMMAND_PORT = 0x64;
const KEYBOARD_IRQ = 1;
const MOUSE_IRQ = 12;

/** Eleven bits at the fastest clock that the devices may have, 16.7 kHz. */
const BYTE_NS = 660_000;

// Status.
const STATUS_OUTPUT_FULL = 0x01;
const STATUS_SYSTEM = 0x04;
const STATUS_COMMAND = 0x08;
const STATUS_NOT_INHIBITED = 0x10;
const STATUS_AUX_FULL = 0x20;

// Command byte.
const ENABLE_KEYBOARD_INT = 0x01;
const ENABLE_MOUSE_INT = 0x02;
const SYSTEM_FLAG = 0x04;
const DISABLE_KEYBOARD = 0x10;
const DISABLE_MOUSE = 0x20;
const TRANSLATE = 0x40;
const COMMAND_BYTE_MASK = 0x77;
/** As firmware leaves it. */
const COMMAND_BYTE_RESET = ENABLE_KEYBOARD_INT | SYSTEM_FLAG | TRANSLATE;

// Output port.
const OUTPUT_NOT_RESET = 0x01;
const OUTPUT_A20 = 0x02;
const OUTPUT_MOUSE_CLOCK_LOW = 0x08;
const OUTPUT_KEYBOARD_FULL = 0x10;
const OUTPUT_MOUSE_FULL = 0x20;
const OUTPUT_KEYBOARD_CLOCK = 0x40;
const OUTPUT_KEYBOARD_DATA = 0x80;
/** Input port: the keyboard is not locked. */
const INPUT_NOT_LOCKED = 0x80;

// Commands.
const READ_RAM = 0x20;
const WRITE_RAM = 0x60;
const RAM_SIZE = 0x20;
const TEST_PASSWORD = 0xa4;
const DISABLE_MOUSE_PORT = 0xa7;
const ENABLE_MOUSE_PORT = 0xa8;
const TEST_MOUSE_PORT = 0xa9;
const SELF_TEST = 0xaa;
const TEST_KEYBOARD_PORT = 0xab;
const DISABLE_KEYBOARD_PORT = 0xad;
const ENABLE_KEYBOARD_PORT = 0xae;
const READ_INPUT_PORT = 0xc0;
const READ_OUTPUT_PORT = 0xd0;
const WRITE_OUTPUT_PORT = 0xd1;
const WRITE_KEYBOARD_BUFFER = 0xd2;
const WRITE_MOUSE_BUFFER = 0xd3;
const WRITE_MOUSE = 0xd4;
/** Not IBM's, but every chipset's: the A20 gate in one command. */
const DISABLE_A20 = 0xdd;
const ENABLE_A20 = 0xdf;
const READ_TEST_INPUTS = 0xe0;
const PULSE_OUTPUT = 0xf0;
/** A bit of PULSE_OUTPUT that is clear is pulsed; this one is RESET#. */
const PULSE_NOT_RESET = 0x01;

const SELF_TEST_PASSED = 0x55;
const PORT_TEST_PASSED = 0x00;
const NO_PASSWORD = 0xf1;

/** Commands that a byte at the data port follows, beside {@linkcode WRITE_RAM}. */
const WITH_DATA = [
  WRITE_OUTPUT_PORT,
  WRITE_KEYBOARD_BUFFER,
  WRITE_MOUSE_BUFFER,
  WRITE_MOUSE,
];

function isWriteRam(command: number): boolean {
  return command >= WRITE_RAM && command < WRITE_RAM + RAM_SIZE;
}

const i8042State = schema("i8042", 1, {
  commandByte: u8(),
  /** The controller's RAM behind the command byte. */
  ram: bytes(RAM_SIZE - 1),
  a20: bool(),
  /** The command whose data comes next; 0 for none. */
  command: u8(),
  /** Whether the last write went to the command port. */
  commandWritten: bool(),
  /** The output buffer; it keeps its byte when it has been read. */
  data: u8(),
  full: bool(),
  /** Whether the byte is the mouse's. */
  aux: bool(),
  /** The controller's own reply, which waits for the output buffer. */
  reply: optional(record({ value: u8(), aux: bool() })),
  /** The translation has seen the prefix of a break code. */
  breakSeen: bool(),
  /** A byte on its way from a device. */
  line: timer(),
  keyboard: keyboardState,
  mouse: mouseState,
});

type I8042State = Infer<typeof i8042State>;

class I8042 implements Device {
  readonly #ctx: DeviceContext<I8042State, "input">;
  readonly #keyboardIrq: IrqLine;
  readonly #mouseIrq: IrqLine;
  readonly #line: Timer;
  readonly #keyboard: Ps2Keyboard;
  readonly #mouse: Ps2Mouse;
  #commandByte = COMMAND_BYTE_RESET;
  readonly #ram = new Uint8Array(RAM_SIZE - 1);
  #a20 = true;
  #command = 0;
  #commandWritten = false;
  #data = 0;
  #full = false;
  #aux = false;
  #reply: { value: number; aux: boolean } | null = null;
  #breakSeen = false;

  constructor(ctx: DeviceContext<I8042State, "input">) {
    this.#ctx = ctx;
    this.#keyboardIrq = ctx.isa.irq(KEYBOARD_IRQ);
    this.#mouseIrq = ctx.isa.irq(MOUSE_IRQ);
    this.#line = ctx.clock.timer(() => this.#receive());
    const changed = () => this.#startLine();
    this.#keyboard = new Ps2Keyboard(
      ctx.clock,
      (leds) => ctx.backend.setLeds(leds),
      changed,
    );
    this.#mouse = new Ps2Mouse(ctx.clock, changed);
    ctx.backend.onKey((usage, down) => this.#keyboard.key(usage, down));
    ctx.backend.onPointer((dx, dy, wheel, buttons) =>
      this.#mouse.pointer(dx, dy, wheel, buttons)
    );
    ctx.isa.claimPorts(
      DATA_PORT,
      1,
      bytewise({
        read: () => this.#readData(),
        write: (_port, value) => this.#writeData(value),
      }),
    );
    ctx.isa.claimPorts(
      COMMAND_PORT,
      1,
      bytewise({
        read: () => this.#status(),
        write: (_port, value) => this.#writeCommand(value),
      }),
    );
    ctx.declare({ kind: "ps2" });
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  reset(): void {
    this.#commandByte = COMMAND_BYTE_RESET;
    this.#ram.fill(0);
    this.#a20 = true;
    this.#command = 0;
    this.#commandWritten = false;
    this.#data = 0;
    this.#full = false;
    this.#aux = false;
    this.#reply = null;
    this.#breakSeen = false;
    this.#line.cancel();
    this.#keyboard.reset();
    this.#mouse.reset();
    this.#updateIrqs();
  }

  #status(): number {
    return (this.#full ? STATUS_OUTPUT_FULL : 0) |
      (this.#commandByte & SYSTEM_FLAG ? STATUS_SYSTEM : 0) |
      (this.#commandWritten ? STATUS_COMMAND : 0) | STATUS_NOT_INHIBITED |
      (this.#full && this.#aux ? STATUS_AUX_FULL : 0);
  }

  #updateIrqs(): void {
    const set = (line: IrqLine, level: boolean) => {
      if (line.level !== level) line.set(level);
    };
    const has = (bit: number) => this.#full && (this.#commandByte & bit) !== 0;
    set(this.#keyboardIrq, has(ENABLE_KEYBOARD_INT) && !this.#aux);
    set(this.#mouseIrq, has(ENABLE_MOUSE_INT) && this.#aux);
  }

  #readData(): number {
    if (this.#full) {
      this.#full = false;
      this.#updateIrqs();
      this.#showReply();
      this.#startLine();
    }
    return this.#data;
  }

  #put(value: number, aux: boolean): void {
    this.#data = value;
    this.#aux = aux;
    this.#full = true;
    this.#updateIrqs();
  }

  /** The controller itself has something to say: as soon as the output buffer is free. */
  #answer(value: number, aux = false): void {
    this.#reply = { value, aux };
    this.#showReply();
  }

  #showReply(): void {
    if (this.#full || this.#reply === null) return;
    const { value, aux } = this.#reply;
    this.#reply = null;
    this.#put(value, aux);
  }

  get #keyboardSends(): boolean {
    return !(this.#commandByte & DISABLE_KEYBOARD) && this.#keyboard.hasByte;
  }

  get #mouseSends(): boolean {
    return !(this.#commandByte & DISABLE_MOUSE) && this.#mouse.hasByte;
  }

  /** Lets a device send its next byte, where the buffer has room for it. */
  #startLine(): void {
    if (this.#full || this.#line.deadline !== undefined) return;
    if (!this.#keyboardSends && !this.#mouseSends) return;
    this.#line.armAt(this.#ctx.clock.now() + BYTE_NS);
  }

  /** A byte has come. */
  #receive(): void {
    // The controller has used the buffer meanwhile: the line starts again when it is free.
    if (this.#full) return;
    if (this.#keyboardSends) this.#receiveFromKeyboard(this.#keyboard.take());
    else if (this.#mouseSends) this.#put(this.#mouse.take(), true);
  }

  #receiveFromKeyboard(value: number): void {
    if (!(this.#commandByte & TRANSLATE)) {
      this.#breakSeen = false;
      return this.#put(value, false);
    }
    if (value === BREAK) {
      this.#breakSeen = true;
      return this.#startLine();
    }
    const released = this.#breakSeen ? SET1_BREAK : 0;
    this.#breakSeen = false;
    this.#put(translate(value) | released, false);
  }

  #writeCommand(command: number): void {
    this.#commandWritten = true;
    this.#command = 0;
    if (command >= READ_RAM && command < READ_RAM + RAM_SIZE) {
      const index = command - READ_RAM;
      return this.#answer(
        index === 0 ? this.#commandByte : this.#ram[index - 1],
      );
    }
    if (isWriteRam(command) || WITH_DATA.includes(command)) {
      this.#command = command;
      return;
    }
    if (command >= PULSE_OUTPUT) {
      if (!(command & PULSE_NOT_RESET)) this.#ctx.machine.reset();
      return;
    }
    switch (command) {
      case TEST_PASSWORD:
        return this.#answer(NO_PASSWORD);
      case DISABLE_MOUSE_PORT:
        return this.#setCommandByte(this.#commandByte | DISABLE_MOUSE);
      case ENABLE_MOUSE_PORT:
        return this.#setCommandByte(this.#commandByte & ~DISABLE_MOUSE);
      case DISABLE_KEYBOARD_PORT:
        return this.#setCommandByte(this.#commandByte | DISABLE_KEYBOARD);
      case ENABLE_KEYBOARD_PORT:
        return this.#setCommandByte(this.#commandByte & ~DISABLE_KEYBOARD);
      case SELF_TEST:
        this.#setCommandByte(this.#commandByte | SYSTEM_FLAG);
        return this.#answer(SELF_TEST_PASSED);
      case TEST_MOUSE_PORT:
      case TEST_KEYBOARD_PORT:
        return this.#answer(PORT_TEST_PASSED);
      case READ_INPUT_PORT:
        return this.#answer(INPUT_NOT_LOCKED);
      case READ_OUTPUT_PORT:
        return this.#answer(this.#outputPort());
      case DISABLE_A20:
      case ENABLE_A20:
        return this.#setA20(command === ENABLE_A20);
      case READ_TEST_INPUTS:
        // Both clock lines are low: nothing is being sent.
        return this.#answer(0);
    }
  }

  #writeData(value: number): void {
    this.#commandWritten = false;
    const command = this.#command;
    this.#command = 0;
    if (isWriteRam(command)) {
      const index = command - WRITE_RAM;
      if (index === 0) this.#setCommandByte(value & COMMAND_BYTE_MASK);
      else this.#ram[index - 1] = value;
      return;
    }
    switch (command) {
      case WRITE_OUTPUT_PORT:
        this.#setA20((value & OUTPUT_A20) !== 0);
        if (!(value & OUTPUT_NOT_RESET)) this.#ctx.machine.reset();
        return;
      case WRITE_KEYBOARD_BUFFER:
      case WRITE_MOUSE_BUFFER:
        return this.#answer(value, command === WRITE_MOUSE_BUFFER);
      case WRITE_MOUSE:
        // What is sent to a device lets it answer.
        this.#setCommandByte(this.#commandByte & ~DISABLE_MOUSE);
        return this.#mouse.receive(value);
      default:
        this.#setCommandByte(this.#commandByte & ~DISABLE_KEYBOARD);
        this.#breakSeen = false;
        return this.#keyboard.receive(value);
    }
  }

  #setCommandByte(value: number): void {
    this.#commandByte = value;
    this.#updateIrqs();
    this.#startLine();
  }

  #setA20(enabled: boolean): void {
    this.#a20 = enabled;
    this.#ctx.machine.setA20(enabled);
  }

  #outputPort(): number {
    return OUTPUT_NOT_RESET | (this.#a20 ? OUTPUT_A20 : 0) |
      (this.#commandByte & DISABLE_MOUSE ? OUTPUT_MOUSE_CLOCK_LOW : 0) |
      (this.#full && !this.#aux ? OUTPUT_KEYBOARD_FULL : 0) |
      (this.#full && this.#aux ? OUTPUT_MOUSE_FULL : 0) |
      (this.#commandByte & DISABLE_KEYBOARD ? 0 : OUTPUT_KEYBOARD_CLOCK) |
      OUTPUT_KEYBOARD_DATA;
  }

  #save(): I8042State {
    return {
      commandByte: this.#commandByte,
      ram: this.#ram.slice(),
      a20: this.#a20,
      command: this.#command,
      commandWritten: this.#commandWritten,
      data: this.#data,
      full: this.#full,
      aux: this.#aux,
      reply: this.#reply === null ? null : { ...this.#reply },
      breakSeen: this.#breakSeen,
      line: this.#line.save(),
      keyboard: this.#keyboard.save(),
      mouse: this.#mouse.save(),
    };
  }

  #restore(state: I8042State): void {
    checkBits("commandByte", state.commandByte, COMMAND_BYTE_MASK);
    const { command } = state;
    check(
      command === 0 || isWriteRam(command) || WITH_DATA.includes(command),
      "command",
      command,
      "0 or a command with data",
    );
    check(
      state.reply === null || state.full,
      "reply",
      state.reply !== null,
      "none while the output buffer is empty",
    );
    const remaining = state.line?.remaining ?? 0;
    check(
      remaining <= BYTE_NS,
      "line.remaining",
      remaining,
      `at most ${BYTE_NS} ns`,
    );
    this.#keyboard.check(state.keyboard);
    this.#mouse.check(state.mouse);
    this.#commandByte = state.commandByte;
    this.#ram.set(state.ram);
    this.#a20 = state.a20;
    this.#command = command;
    this.#commandWritten = state.commandWritten;
    this.#data = state.data;
    this.#full = state.full;
    this.#aux = state.aux;
    this.#reply = state.reply === null ? null : { ...state.reply };
    this.#breakSeen = state.breakSeen;
    this.#line.restore(state.line);
    this.#keyboard.restore(state.keyboard);
    this.#mouse.restore(state.mouse);
  }
}

/** The keyboard controller, with the keyboard and the mouse behind it. */
export default definePlugin({
  name: "i8042",
  version: "1.0.0",
  summary: "PS/2 keyboard and mouse behind their controller",
  options: {},
  state: i8042State,
  backend: "input",
  create: (ctx) => new I8042(ctx),
});
