/**
 * 16550A serial port (National Semiconductor PC16550D, section 8 for the registers).
 *
 * Output leaves as fast as the backend takes it; while the backend is full it waits in the
 * transmit FIFO with THRE clear, so that nothing is lost. Input enters the receive FIFO as the
 * guest makes room for it, and not before the guest listens, since a driver that probes the port
 * throws away what is in the FIFO.
 *
 * @module
 */
import {
  bytewise,
  type CharBackend,
  type Claim,
  definePlugin,
  type Device,
  type DeviceContext,
  type IrqLine,
  MachineError,
  type Timer,
} from "../../core/plugin.ts";
import {
  bool,
  bytes,
  type Infer,
  list,
  record,
  schema,
  timer,
  u16,
  u8,
} from "../../snapshot/schema.ts";
import { check, checkBits, NS_PER_SECOND } from "./support.ts";

/** Ports of one UART. */
const PORT_COUNT = 8;
const FIFO_SIZE = 16;
/** Where a PC has its serial ports, and their interrupts. */
const COM_PORTS = [
  { port: 0x3f8, irq: 4 },
  { port: 0x2f8, irq: 3 },
  { port: 0x3e8, irq: 4 },
  { port: 0x2e8, irq: 3 },
] as const;

/** The crystal divided by 16: the baud rate of divisor 1. */
const BAUD_BASE = 115_200;
/** 9600 baud, as firmware leaves it. */
const DEFAULT_DIVISOR = 12;
/** So many reads of LSR in a row, without an answer, are a guest that polls for input. */
const POLLING_READS = 16;
/** The character timeout, in characters (section 8.4). */
const TIMEOUT_CHARACTERS = 4;
/** The longest character: twelve bits at the greatest divisor. */
const LONGEST_CHARACTER_NS = Math.ceil(12 * 0xffff * NS_PER_SECOND / BAUD_BASE);

// Register offsets (table II).
const RBR_THR_DLL = 0;
const IER_DLM = 1;
const IIR_FCR = 2;
const LCR = 3;
const MCR = 4;
const LSR = 5;
const MSR = 6;
const SCR = 7;

// IER: interrupt enable (section 8.6).
const IER_ERBFI = 0x01;
const IER_ETBEI = 0x02;
const IER_ELSI = 0x04;
const IER_EDSSI = 0x08;
const IER_MASK = 0x0f;

// IIR: interrupt identification (section 8.5, table III).
const IIR_NONE = 0x01;
const IIR_MODEM_STATUS = 0x00;
const IIR_THR_EMPTY = 0x02;
const IIR_DATA_AVAILABLE = 0x04;
const IIR_LINE_STATUS = 0x06;
const IIR_CHARACTER_TIMEOUT = 0x0c;
const IIR_FIFOS_ENABLED = 0xc0;

// FCR: FIFO control (section 8.4).
const FCR_ENABLE = 0x01;
const FCR_RX_RESET = 0x02;
const FCR_TX_RESET = 0x04;
const FCR_DMA_MODE = 0x08;
const FCR_TRIGGER = 0xc0;
const FCR_TRIGGER_SHIFT = 6;
const TRIGGER_LEVELS = [1, 4, 8, 14] as const;

// LCR: line control (section 8.1).
const LCR_WLS = 0x03;
const LCR_STB = 0x04;
const LCR_PEN = 0x08;
const LCR_BREAK = 0x40;
const LCR_DLAB = 0x80;

// MCR: modem control (section 8.7).
const MCR_DTR = 0x01;
const MCR_RTS = 0x02;
const MCR_OUT1 = 0x04;
const MCR_OUT2 = 0x08;
const MCR_LOOP = 0x10;
const MCR_MASK = 0x1f;

// LSR: line status (section 8.3).
const LSR_DR = 0x01;
const LSR_OE = 0x02;
const LSR_PE = 0x04;
const LSR_FE = 0x08;
const LSR_BI = 0x10;
const LSR_THRE = 0x20;
const LSR_TEMT = 0x40;
const LSR_FIFO_ERROR = 0x80;
/** What an entry of the receive FIFO says of its own character. */
const LSR_CHARACTER_ERRORS = LSR_PE | LSR_FE | LSR_BI;
const LSR_ERRORS = LSR_OE | LSR_CHARACTER_ERRORS;

// MSR: modem status (section 8.8).
const MSR_DCTS = 0x01;
const MSR_DDSR = 0x02;
const MSR_TERI = 0x04;
const MSR_DDCD = 0x08;
const MSR_DELTAS = MSR_DCTS | MSR_DDSR | MSR_TERI | MSR_DDCD;
const MSR_CTS = 0x10;
const MSR_DSR = 0x20;
const MSR_RI = 0x40;
const MSR_DCD = 0x80;
/** The other end is there and ready. */
const MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD;

/** An entry of the receive FIFO as the device holds it: errors in bits 15:8, the character in bits 7:0. */
function unpackEntry(entry: number): { character: number; errors: number } {
  return { character: entry & 0xff, errors: entry >> 8 };
}

const uartState = schema("uart", 2, {
  ier: u8(),
  fcr: u8(),
  lcr: u8(),
  mcr: u8(),
  /** LSR's latched error bits; the rest follows from the FIFOs. */
  lineErrors: u8(),
  msr: u8(),
  scr: u8(),
  divisor: u16(),
  /** The receive FIFO, oldest first: characters, and the bits that LSR will show of each. */
  receive: list(record({ character: u8(), errors: u8() }), { max: FIFO_SIZE }),
  transmit: bytes({ max: FIFO_SIZE }),
  thrEmptyPending: bool(),
  timeoutPending: bool(),
  timeout: timer(),
  arrival: timer(),
  /** Reads of LSR in a row; the maximum, once reached, stays. */
  statusReads: u8({ max: POLLING_READS }),
}, {
  // Version 1 had errors and character in one number, of which the schema could say nothing.
  1: (old) => {
    const { receive, ...rest } = old as { receive: number[] };
    return { ...rest, receive: receive.map(unpackEntry) };
  },
});

type UartState = Infer<typeof uartState>;

/** Modem lines: of the connection, or, in loopback, the four outputs of MCR (section 8.7). */
function modemLines(mcr: number): number {
  if (!(mcr & MCR_LOOP)) return MSR_CONNECTED;
  return (mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) |
    (mcr & MCR_OUT1 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0);
}

/** Claims `wanted`, or else the first of a PC's four places that is free. */
function claimPlace(
  ctx: DeviceContext<UartState, "char">,
  wanted: number | undefined,
  handler: ReturnType<typeof bytewise>,
): { port: number; claim: Claim } {
  if (wanted !== undefined) {
    return {
      port: wanted,
      claim: ctx.isa.claimPorts(wanted, PORT_COUNT, handler),
    };
  }
  for (const { port } of COM_PORTS) {
    try {
      return { port, claim: ctx.isa.claimPorts(port, PORT_COUNT, handler) };
    } catch (error) {
      if (!(error instanceof MachineError)) throw error;
    }
  }
  throw new MachineError(
    `${ctx.id}: a PC has places for ${COM_PORTS.length} serial ports and all are taken; ` +
      `give this one its own: uart:port=NUMBER:irq=NUMBER`,
  );
}

class Uart implements Device {
  readonly #ctx: DeviceContext<UartState, "char">;
  readonly #backend: CharBackend;
  readonly #irq: IrqLine;
  readonly #timeout: Timer;
  /** Until it ends, the other end has not begun to send after a change of settings. */
  readonly #arrival: Timer;
  readonly #base: number;

  #ier = 0;
  #fcr = 0;
  #lcr = 0;
  #mcr = 0;
  #lineErrors = 0;
  #msr = MSR_CONNECTED;
  #scr = 0;
  #divisor = DEFAULT_DIVISOR;
  #receive: number[] = [];
  #transmit: number[] = [];
  #thrEmptyPending = false;
  #timeoutPending = false;
  #statusReads = 0;
  /** The backend said that it is full. Of the host, so not part of the state. */
  #backendFull = false;
  #paused = true;

  constructor(
    ctx: DeviceContext<UartState, "char">,
    port: number | undefined,
    irq: number | undefined,
  ) {
    this.#ctx = ctx;
    this.#backend = ctx.backend;
    const place = claimPlace(
      ctx,
      port,
      bytewise({
        read: (address) => this.#read(address - this.#base),
        write: (address, value) => this.#write(address - this.#base, value),
      }),
    );
    this.#base = place.port;
    const line = irq ??
      COM_PORTS.find((com) => com.port === place.port)?.irq ?? COM_PORTS[0].irq;
    this.#irq = ctx.isa.irq(line);
    this.#timeout = ctx.clock.timer(() => {
      this.#timeoutPending = this.#receive.length > 0;
      this.#updateIrq();
    });
    this.#arrival = ctx.clock.timer(() => this.#offerRoom());
    this.#backend.onInput((input) => this.#input(input));
    this.#backend.onDrain(() => {
      this.#backendFull = false;
      this.#send();
    });
    ctx.declare({ kind: "uart", base: place.port, irq: line });
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  reset(): void {
    this.#ier = 0;
    this.#fcr = 0;
    this.#lcr = 0;
    this.#mcr = 0;
    this.#lineErrors = 0;
    this.#msr = MSR_CONNECTED;
    this.#scr = 0;
    this.#divisor = DEFAULT_DIVISOR;
    this.#receive = [];
    this.#transmit = [];
    this.#thrEmptyPending = false;
    this.#statusReads = 0;
    this.#clearTimeout();
    this.#arrival.cancel();
    this.#updateIrq();
  }

  start(): void {
    this.resume();
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#send();
    this.#offerRoom();
  }

  get #fifosEnabled(): boolean {
    return (this.#fcr & FCR_ENABLE) !== 0;
  }

  get #capacity(): number {
    return this.#fifosEnabled ? FIFO_SIZE : 1;
  }

  #read(register: number): number {
    this.#countStatusReads(register === LSR);
    switch (register) {
      case RBR_THR_DLL:
        return this.#lcr & LCR_DLAB ? this.#divisor & 0xff : this.#readRbr();
      case IER_DLM:
        return this.#lcr & LCR_DLAB ? this.#divisor >> 8 : this.#ier;
      case IIR_FCR:
        return this.#readIir();
      case LCR:
        return this.#lcr;
      case MCR:
        return this.#mcr;
      case LSR:
        return this.#readLsr();
      case MSR:
        return this.#readMsr();
      default:
        return this.#scr;
    }
  }

  #write(register: number, value: number): void {
    this.#countStatusReads(false);
    switch (register) {
      case RBR_THR_DLL:
        if (this.#lcr & LCR_DLAB) {
          this.#divisor = this.#divisor & 0xff00 | value;
        } else {
          this.#writeThr(value);
        }
        break;
      case IER_DLM:
        if (this.#lcr & LCR_DLAB) {
          this.#divisor = value << 8 | this.#divisor & 0xff;
        } else {
          this.#writeIer(value & IER_MASK);
        }
        break;
      case IIR_FCR:
        this.#writeFcr(value);
        break;
      case LCR:
        this.#writeLcr(value);
        break;
      case MCR:
        this.#writeMcr(value & MCR_MASK);
        break;
      case SCR:
        this.#scr = value;
        break;
    }
  }

  #readRbr(): number {
    const character = this.#receive.shift() ?? 0;
    this.#timeoutPending = false;
    this.#exposeErrors();
    this.#startTimeout();
    this.#updateIrq();
    if (this.#receive.length === 0) this.#offerRoom();
    return character & 0xff;
  }

  #writeThr(value: number): void {
    this.#thrEmptyPending = false;
    if (this.#mcr & MCR_LOOP) {
      this.#receiveCharacter(value);
      this.#thrEmptyPending = true;
      this.#updateIrq();
      return;
    }
    if (this.#transmit.length >= this.#capacity) {
      // The FIFO keeps what it holds; without one the holding register is overwritten.
      if (!this.#fifosEnabled) this.#transmit[0] = value;
    } else {
      this.#transmit.push(value);
    }
    this.#send();
    this.#updateIrq();
  }

  #writeIer(value: number): void {
    const enabled = value & ~this.#ier;
    this.#ier = value;
    // Enabling the interrupt while THRE is set raises it at once.
    if (enabled & IER_ETBEI) {
      this.#thrEmptyPending = this.#transmit.length === 0;
    }
    this.#updateIrq();
    if (enabled & IER_ERBFI) this.#offerSoon();
  }

  #readIir(): number {
    const identification = this.#interrupt();
    if (identification === IIR_THR_EMPTY) {
      this.#thrEmptyPending = false;
      this.#updateIrq();
    }
    return identification | (this.#fifosEnabled ? IIR_FIFOS_ENABLED : 0);
  }

  #writeFcr(value: number): void {
    const toggled = (value ^ this.#fcr) & FCR_ENABLE;
    // The other bits are programmed only while FCR0 is being written as one.
    this.#fcr = value & FCR_ENABLE
      ? value & (FCR_ENABLE | FCR_DMA_MODE | FCR_TRIGGER)
      : 0;
    if (toggled || (value & FCR_ENABLE && value & FCR_RX_RESET)) {
      this.#receive = [];
      this.#clearTimeout();
    }
    if (toggled || (value & FCR_ENABLE && value & FCR_TX_RESET)) {
      if (this.#transmit.length > 0) this.#thrEmptyPending = true;
      this.#transmit = [];
    }
    this.#updateIrq();
    this.#offerSoon();
  }

  #writeLcr(value: number): void {
    const breakStarts = value & ~this.#lcr & LCR_BREAK;
    this.#lcr = value;
    // With the transmitter looped back, the receiver sees the break.
    if (breakStarts && this.#mcr & MCR_LOOP) {
      this.#receiveCharacter(LSR_BI << 8);
      this.#updateIrq();
    }
  }

  #writeMcr(value: number): void {
    this.#mcr = value;
    this.#updateModemStatus();
    this.#updateIrq();
    this.#send();
    this.#offerSoon();
  }

  #readLsr(): number {
    let value = this.#lineErrors;
    if (this.#receive.length > 0) value |= LSR_DR;
    if (this.#transmit.length === 0) value |= LSR_THRE | LSR_TEMT;
    if (
      this.#fifosEnabled &&
      this.#receive.some((entry) => entry >> 8 & LSR_CHARACTER_ERRORS)
    ) value |= LSR_FIFO_ERROR;
    this.#lineErrors = 0;
    // What the first character had to say has now been said.
    if (this.#receive.length > 0) this.#receive[0] &= 0xff;
    this.#updateIrq();
    return value;
  }

  #readMsr(): number {
    const value = this.#msr;
    this.#msr &= ~MSR_DELTAS;
    this.#updateIrq();
    return value;
  }

  #updateModemStatus(): void {
    const lines = modemLines(this.#mcr);
    const changed = (lines ^ this.#msr) & ~MSR_DELTAS;
    let deltas = this.#msr & MSR_DELTAS;
    if (changed & MSR_CTS) deltas |= MSR_DCTS;
    if (changed & MSR_DSR) deltas |= MSR_DDSR;
    if (changed & MSR_RI && !(lines & MSR_RI)) deltas |= MSR_TERI;
    if (changed & MSR_DCD) deltas |= MSR_DDCD;
    this.#msr = lines | deltas;
  }

  /** The interrupt of highest priority (table III). */
  #interrupt(): number {
    if (this.#ier & IER_ELSI && this.#lineErrors & LSR_ERRORS) {
      return IIR_LINE_STATUS;
    }
    if (this.#ier & IER_ERBFI) {
      const level = this.#fifosEnabled
        ? TRIGGER_LEVELS[this.#fcr >> FCR_TRIGGER_SHIFT]
        : 1;
      if (this.#receive.length >= level) return IIR_DATA_AVAILABLE;
      if (this.#timeoutPending) return IIR_CHARACTER_TIMEOUT;
    }
    if (this.#ier & IER_ETBEI && this.#thrEmptyPending) return IIR_THR_EMPTY;
    if (this.#ier & IER_EDSSI && this.#msr & MSR_DELTAS) {
      return IIR_MODEM_STATUS;
    }
    return IIR_NONE;
  }

  /** A PC gates the interrupt with OUT2, which loopback forces inactive. */
  #updateIrq(): void {
    const gate = (this.#mcr & (MCR_OUT2 | MCR_LOOP)) === MCR_OUT2;
    const level = gate && this.#interrupt() !== IIR_NONE;
    if (level !== this.#irq.level) this.#irq.set(level);
  }

  /** Gives the backend what waits in the transmitter. */
  #send(): void {
    if (
      this.#backendFull || this.#paused || this.#transmit.length === 0 ||
      this.#mcr & MCR_LOOP
    ) return;
    const waiting = Uint8Array.from(this.#transmit);
    this.#transmit = [];
    // The backend has taken the bytes either way; false asks for no more until it drains.
    this.#backendFull = !this.#backend.write(waiting);
    this.#thrEmptyPending = true;
    this.#updateIrq();
  }

  /** Takes input from the backend, as much as there is room for. */
  #input(input: Uint8Array): number {
    if (!this.#listening) return 0;
    const room = this.#capacity - this.#receive.length;
    const taken = Math.min(room, input.length);
    if (taken <= 0) return 0;
    for (let i = 0; i < taken; i++) this.#receive.push(input[i]);
    this.#startTimeout();
    this.#updateIrq();
    return taken;
  }

  /** The next character takes its time on the line, so a driver can finish what it sets up. */
  #offerSoon(): void {
    this.#arrival.armAt(
      this.#ctx.clock.now() + Math.ceil(this.#characterTime()),
    );
  }

  #offerRoom(): void {
    if (this.#listening && this.#receive.length < this.#capacity) {
      this.#backend.ready();
    }
  }

  /**
   * Whether the other end may send: it waits for RTS, or for another sign that the guest takes
   * input, the receiver's interrupt or polling.
   */
  get #listening(): boolean {
    if (this.#paused || this.#mcr & MCR_LOOP) return false;
    if (this.#arrival.deadline !== undefined) return false;
    return (this.#mcr & MCR_RTS) !== 0 ||
      ((this.#mcr & MCR_OUT2) !== 0 && (this.#ier & IER_ERBFI) !== 0) ||
      this.#statusReads === POLLING_READS;
  }

  #countStatusReads(status: boolean): void {
    if (this.#statusReads === POLLING_READS) return;
    this.#statusReads = status ? this.#statusReads + 1 : 0;
    if (this.#statusReads === POLLING_READS) this.#offerSoon();
  }

  /** A character from the looped-back transmitter, which unlike the backend does not wait for room. */
  #receiveCharacter(entry: number): void {
    if (this.#receive.length >= this.#capacity) {
      this.#lineErrors |= LSR_OE;
      if (!this.#fifosEnabled) this.#receive[0] = entry;
    } else {
      this.#receive.push(entry);
    }
    this.#exposeErrors();
    this.#startTimeout();
  }

  /** LSR shows the errors of the character that is next to be read (section 8.3). */
  #exposeErrors(): void {
    if (this.#receive.length > 0) {
      this.#lineErrors |= this.#receive[0] >> 8 & LSR_CHARACTER_ERRORS;
    }
  }

  #startTimeout(): void {
    if (this.#fifosEnabled && this.#receive.length > 0) {
      this.#timeout.armAt(
        this.#ctx.clock.now() +
          Math.ceil(TIMEOUT_CHARACTERS * this.#characterTime()),
      );
    } else {
      this.#clearTimeout();
    }
  }

  #clearTimeout(): void {
    this.#timeout.cancel();
    this.#timeoutPending = false;
  }

  /** Nanoseconds that one character takes on the line. */
  #characterTime(): number {
    const bits = 1 + 5 + (this.#lcr & LCR_WLS) +
      (this.#lcr & LCR_PEN ? 1 : 0) + (this.#lcr & LCR_STB ? 2 : 1);
    return bits * Math.max(1, this.#divisor) * NS_PER_SECOND / BAUD_BASE;
  }

  #save(): UartState {
    return {
      ier: this.#ier,
      fcr: this.#fcr,
      lcr: this.#lcr,
      mcr: this.#mcr,
      lineErrors: this.#lineErrors,
      msr: this.#msr,
      scr: this.#scr,
      divisor: this.#divisor,
      receive: this.#receive.map(unpackEntry),
      transmit: Uint8Array.from(this.#transmit),
      thrEmptyPending: this.#thrEmptyPending,
      timeoutPending: this.#timeoutPending,
      timeout: this.#timeout.save(),
      arrival: this.#arrival.save(),
      statusReads: this.#statusReads,
    };
  }

  #restore(state: UartState): void {
    checkBits("ier", state.ier, IER_MASK);
    checkBits("fcr", state.fcr, FCR_ENABLE | FCR_DMA_MODE | FCR_TRIGGER);
    check(
      state.fcr === 0 || (state.fcr & FCR_ENABLE) !== 0,
      "fcr",
      state.fcr,
      "FCR0 set, or nothing",
    );
    checkBits("mcr", state.mcr, MCR_MASK);
    checkBits("lineErrors", state.lineErrors, LSR_OE | LSR_BI);
    const capacity = state.fcr & FCR_ENABLE ? FIFO_SIZE : 1;
    check(
      state.receive.length <= capacity,
      "receive",
      state.receive.length,
      `at most ${capacity} entries`,
    );
    check(
      state.transmit.length <= capacity,
      "transmit",
      state.transmit.length,
      `at most ${capacity} bytes`,
    );
    // The line has no noise: of a character's errors there is only a break, in loopback. LSR shows the first one's already.
    state.receive.forEach(({ errors }, i) =>
      checkBits(
        `receive[${i}].errors`,
        errors,
        LSR_BI & (i === 0 ? state.lineErrors : 0xff),
      )
    );
    const waits = state.receive.length > 0 && (state.fcr & FCR_ENABLE) !== 0;
    check(
      waits || !state.timeoutPending,
      "timeoutPending",
      state.timeoutPending,
      "false while the receive FIFO is empty or off",
    );
    check(
      waits || state.timeout === null,
      "timeout",
      state.timeout !== null,
      "not armed while the receive FIFO is empty or off",
    );
    for (
      const [name, most] of [["timeout", TIMEOUT_CHARACTERS], [
        "arrival",
        1,
      ]] as const
    ) {
      const remaining = state[name]?.remaining ?? 0;
      check(
        remaining <= most * LONGEST_CHARACTER_NS,
        `${name}.remaining`,
        remaining,
        `at most ${most} characters at the lowest rate`,
      );
    }
    check(
      (state.msr & ~MSR_DELTAS) === modemLines(state.mcr),
      "msr",
      state.msr,
      `the lines 0x${modemLines(state.mcr).toString(16)}, as MCR says`,
    );
    this.#ier = state.ier;
    this.#fcr = state.fcr;
    this.#lcr = state.lcr;
    this.#mcr = state.mcr;
    this.#lineErrors = state.lineErrors;
    this.#msr = state.msr;
    this.#scr = state.scr;
    this.#divisor = state.divisor;
    this.#receive = state.receive.map(({ character, errors }) =>
      errors << 8 | character
    );
    this.#transmit = [...state.transmit];
    this.#thrEmptyPending = state.thrEmptyPending;
    this.#timeoutPending = state.timeoutPending;
    this.#statusReads = state.statusReads;
    this.#timeout.restore(state.timeout);
    this.#arrival.restore(state.arrival);
  }
}

/** 16550A serial port; any number, sharing interrupts as a PC does. */
export default definePlugin({
  name: "uart",
  version: "1.1.0",
  summary: "16550A serial port",
  options: {
    port: {
      type: "number",
      help: "first I/O port (the first free of 0x3f8, 0x2f8, 0x3e8, 0x2e8)",
      min: 0,
      max: 0x10000 - PORT_COUNT,
    },
    irq: {
      type: "number",
      help: "ISA interrupt (4 or 3, as the port says)",
      min: 0,
      max: 15,
    },
  },
  state: uartState,
  backend: "char",
  create: (ctx, options) => new Uart(ctx, options.port, options.irq),
});
