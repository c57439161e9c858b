/**
 * I/O APIC (Intel 82093AA data sheet, 290566; EOI register as in the Intel ICH9 data sheet,
 * section 13.5.4).
 *
 * @module
 */
import {
  type AccessSize,
  definePlugin,
  type Device,
  type DeviceContext,
} from "../../core/plugin.ts";
import { type Infer, list, schema, u32, u8 } from "../../snapshot/schema.ts";
import { checkBits } from "./support.ts";

const IOAPIC_BASE = 0xfec0_0000;
const PAGE_SIZE = 0x1000;
const INPUTS = 24;

// Memory-mapped registers (table 1; EOI: ICH9).
const IOREGSEL = 0x00;
const IOWIN = 0x10;
const EOI = 0x40;

// Registers behind IOWIN (table 2).
const IOAPICID = 0x00;
const IOAPICVER = 0x01;
const IOAPICARB = 0x02;
const IOREDTBL = 0x10;
const ID_SHIFT = 24;
const ID_MASK = 0x0f;
const VERSION = 0x20;
const VERSION_VALUE = (INPUTS - 1) << 16 | VERSION;

// Low half of a redirection entry (section 3.2.4).
const INTVEC = 0xff;
const DELMOD_SHIFT = 8;
const DELMOD_MASK = 7;
const DESTMOD_SHIFT = 11;
const REMOTE_IRR = 0x4000;
const TRIGGER_LEVEL = 0x8000;
const MASKED = 0x1_0000;
const LOW_WRITABLE = 0x1_afff;
// High half: the destination.
const HIGH_WRITABLE = 0xff00_0000;
const DESTINATION_SHIFT = 24;
/** Delivery modes whose level-triggered interrupts wait for an EOI: fixed and lowest priority. */
const LOWEST_PRIORITY = 1;

/** Inputs that have a line. */
const LINES_WIRED = 2 ** INPUTS - 2;

const ioapicState = schema("ioapic", 1, {
  select: u8(),
  id: u8({ max: ID_MASK }),
  /** Redirection entries, low and high halves. */
  low: list(u32(), { length: INPUTS }),
  high: list(u32(), { length: INPUTS }),
  /** Levels of the inputs, a bit each. */
  lines: u32({ max: 2 ** INPUTS - 1 }),
});

type IoApicState = Infer<typeof ioapicState>;

class IoApic implements Device {
  readonly #ctx: DeviceContext<IoApicState>;
  #select = 0;
  #id = 0;
  readonly #low = new Uint32Array(INPUTS).fill(MASKED);
  readonly #high = new Uint32Array(INPUTS);
  #lines = 0;

  constructor(ctx: DeviceContext<IoApicState>) {
    this.#ctx = ctx;
    ctx.isa.claimMemory(IOAPIC_BASE, PAGE_SIZE, {
      read: (offset, size) => this.#read(offset, size),
      write: (offset, size, value) => this.#write(offset, size, value),
    });
    ctx.interrupts.onGsi((gsi, level) => this.#setInput(gsi, level));
    ctx.interrupts.onEoi((vector) => this.#eoi(vector));
    ctx.declare({ kind: "ioapic", base: IOAPIC_BASE, id: 0 });
    ctx.snapshot.register({
      save: () => ({
        select: this.#select,
        id: this.#id,
        low: [...this.#low],
        high: [...this.#high],
        lines: this.#lines,
      }),
      restore: (state) => {
        state.low.forEach((entry, i) =>
          checkBits(`low.${i}`, entry, LOW_WRITABLE | REMOTE_IRR)
        );
        // Nothing is wired to input 0: the timer has input 2.
        checkBits("lines", state.lines, LINES_WIRED);
        state.high.forEach((entry, i) =>
          checkBits(`high.${i}`, entry, HIGH_WRITABLE)
        );
        this.#select = state.select;
        this.#id = state.id;
        this.#low.set(state.low);
        this.#high.set(state.high);
        this.#lines = state.lines;
      },
    });
  }

  /** RESET#. The levels of the lines are not the I/O APIC's own. */
  reset(): void {
    this.#select = 0;
    this.#id = 0;
    this.#low.fill(MASKED);
    this.#high.fill(0);
  }

  #setInput(input: number, level: boolean): void {
    if (input >= INPUTS) return;
    const bit = 1 << input;
    const rose = level && !(this.#lines & bit);
    if (level) this.#lines |= bit;
    else this.#lines &= ~bit;
    // Edges at a masked input are lost (section 3.2.4, interrupt mask).
    if (rose) this.#service(input);
  }

  /** Sends an input's message, if it is not masked and its last one does not wait for an EOI. */
  #service(input: number): void {
    const low = this.#low[input];
    if (low & MASKED) return;
    const level = (low & TRIGGER_LEVEL) !== 0;
    if (level && low & REMOTE_IRR) return;
    const deliveryMode = low >> DELMOD_SHIFT & DELMOD_MASK;
    if (level && deliveryMode <= LOWEST_PRIORITY) {
      this.#low[input] |= REMOTE_IRR;
    }
    this.#ctx.interrupts.deliver({
      destination: this.#high[input] >>> DESTINATION_SHIFT,
      destinationMode: low >> DESTMOD_SHIFT & 1 ? 1 : 0,
      deliveryMode,
      vector: low & INTVEC,
      level,
    });
  }

  #serviceLevel(input: number): void {
    if (this.#low[input] & TRIGGER_LEVEL && this.#lines >> input & 1) {
      this.#service(input);
    }
  }

  #eoi(vector: number): void {
    for (let input = 0; input < INPUTS; input++) {
      const low = this.#low[input];
      if (!(low & REMOTE_IRR) || (low & INTVEC) !== vector) continue;
      this.#low[input] = low & ~REMOTE_IRR;
      this.#serviceLevel(input);
    }
  }

  #read(offset: number, size: AccessSize): number {
    const byte = offset & 3;
    const value = this.#readRegister(offset - byte);
    return byte + size > 4 ? 0 : value >>> (8 * byte);
  }

  #readRegister(offset: number): number {
    if (offset === IOREGSEL) return this.#select;
    if (offset !== IOWIN) return 0;
    switch (this.#select) {
      case IOAPICID:
      case IOAPICARB:
        return this.#id << ID_SHIFT;
      case IOAPICVER:
        return VERSION_VALUE;
      default: {
        const input = this.#select - IOREDTBL >> 1;
        if (input < 0 || input >= INPUTS) return 0;
        return this.#select & 1 ? this.#high[input] : this.#low[input];
      }
    }
  }

  #write(offset: number, size: AccessSize, value: number): void {
    switch (offset) {
      case IOREGSEL:
        this.#select = value & 0xff;
        break;
      case IOWIN:
        if (size === 4) this.#writeWindow(value);
        break;
      case EOI:
        this.#eoi(value & INTVEC);
        break;
    }
  }

  #writeWindow(value: number): void {
    if (this.#select === IOAPICID) {
      this.#id = value >>> ID_SHIFT & ID_MASK;
      return;
    }
    const input = this.#select - IOREDTBL >> 1;
    if (input < 0 || input >= INPUTS) return;
    if (this.#select & 1) {
      this.#high[input] = value & HIGH_WRITABLE;
      return;
    }
    // Remote IRR has no meaning for edges, and a change to edge clears it.
    const kept = value & TRIGGER_LEVEL ? this.#low[input] & REMOTE_IRR : 0;
    this.#low[input] = value & LOW_WRITABLE | kept;
    this.#serviceLevel(input);
  }
}

/** The I/O APIC: 24 inputs, version 0x20. */
export default definePlugin({
  name: "ioapic",
  version: "1.0.0",
  summary: "82093AA I/O APIC",
  options: {},
  state: ioapicState,
  create: (ctx) => new IoApic(ctx),
});
