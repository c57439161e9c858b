/**
 * The pair of 8259A interrupt controllers of a PC (Intel 8259A data sheet, 231468), with the
 * edge/level control registers of the ICH9 (Intel ICH9 data sheet, section 13.4).
 *
 * @module
 */
import {
  bytewise,
  definePlugin,
  type Device,
  type DeviceContext,
} from "../../core/plugin.ts";
import { bool, type Infer, record, schema, u8 } from "../../snapshot/schema.ts";
import { check, checkBits } from "./support.ts";

const MASTER_PORT = 0x20;
const SLAVE_PORT = 0xa0;
const PORT_COUNT = 2;
const ELCR_PORT = 0x4d0;
/** Lines that may be level-triggered: not the timer, keyboard, cascade, RTC and FERR#. */
const ELCR1_MASK = 0xf8;
const ELCR2_MASK = 0xde;
/** The master's input to which the slave is wired. */
const CASCADE = 2;
/** The input that a spurious request is reported on. */
const SPURIOUS = 7;
const INPUTS = 8;

// ICW1 (data sheet, "Initialization command words").
const ICW1_IC4 = 0x01;
const ICW1_SNGL = 0x02;
const ICW1_SELECT = 0x10;
// ICW2: T7-T3 of the vector.
const ICW2_VECTOR = 0xf8;
// ICW4.
const ICW4_AEOI = 0x02;
const ICW4_SFNM = 0x10;
const ICW4_MASK = 0x1f;

// OCW2.
const OCW2_LEVEL = 0x07;
const OCW2_EOI = 0x20;
const OCW2_SL = 0x40;
const OCW2_R = 0x80;
const OCW2_COMMAND = OCW2_R | OCW2_SL | OCW2_EOI;
// OCW3.
const OCW3_SELECT = 0x08;
const OCW3_RIS = 0x01;
const OCW3_RR = 0x02;
const OCW3_POLL = 0x04;
const OCW3_SMM = 0x20;
const OCW3_ESMM = 0x40;
/** A poll's answer when a request was waiting. */
const POLL_INTERRUPT = 0x80;

/** Which ICW the next write to the odd port is; 0 when initialization is complete. */
type InitStep = 0 | 2 | 3 | 4;

const chipState = record({
  /** Request latches of the edge-triggered inputs. */
  edges: u8(),
  /** Levels of the inputs. */
  lines: u8(),
  isr: u8(),
  imr: u8(),
  /** ICW2: the vector of input 0. */
  base: u8(),
  icw1: u8(),
  icw3: u8(),
  icw4: u8(),
  initStep: u8({ max: 4 }),
  specialMask: bool(),
  rotateOnAutoEoi: bool(),
  /** The input of the lowest priority. */
  lowest: u8({ max: INPUTS - 1 }),
  poll: bool(),
  readIsr: bool(),
  elcr: u8(),
});

const picState = schema("pic", 1, { master: chipState, slave: chipState });

type ChipState = Infer<typeof chipState>;
type PicState = Infer<typeof picState>;

/** One 8259A. */
class Chip {
  readonly #elcrMask: number;
  readonly #changed: () => void;
  #edges = 0;
  #lines = 0;
  #isr = 0;
  #imr = 0;
  #base = 0;
  #icw1 = 0;
  #icw3 = 0;
  #icw4 = 0;
  #initStep: InitStep = 0;
  #specialMask = false;
  #rotateOnAutoEoi = false;
  #lowest = INPUTS - 1;
  #poll = false;
  #readIsr = false;
  #elcr = 0;

  /**
   * @param elcrMask Inputs that may be level-triggered.
   * @param levelInputs Inputs whose request always follows the line (the cascade).
   * @param changed Called when the INT output may have changed.
   */
  constructor(
    elcrMask: number,
    readonly levelInputs: number,
    changed: () => void,
  ) {
    this.#elcrMask = elcrMask;
    this.#changed = changed;
  }

  /** RESET#. The levels of the lines are not the chip's own. */
  reset(): void {
    this.#edges = 0;
    this.#isr = 0;
    this.#imr = 0;
    this.#base = 0;
    this.#icw1 = 0;
    this.#icw3 = 0;
    this.#icw4 = 0;
    this.#initStep = 0;
    this.#specialMask = false;
    this.#rotateOnAutoEoi = false;
    this.#lowest = INPUTS - 1;
    this.#poll = false;
    this.#readIsr = false;
    this.#elcr = 0;
    this.#changed();
  }

  get elcr(): number {
    return this.#elcr;
  }

  set elcr(value: number) {
    this.#elcr = value & this.#elcrMask;
    this.#changed();
  }

  /** The level of one input. */
  setInput(input: number, level: boolean): void {
    const bit = 1 << input;
    if (level) {
      if (!(this.#lines & bit)) this.#edges |= bit;
      this.#lines |= bit;
    } else {
      this.#lines &= ~bit;
    }
    this.#changed();
  }

  /** Interrupt request register: latched edges, and the lines of level-triggered inputs. */
  get #irr(): number {
    const level = this.#elcr | this.levelInputs;
    return this.#edges & ~level | this.#lines & level;
  }

  /** The input of highest priority among `bits`; INPUTS when there is none. 0 is the highest. */
  #rank(bits: number): number {
    for (let rank = 0; rank < INPUTS; rank++) {
      if (bits & 1 << ((this.#lowest + 1 + rank) % INPUTS)) return rank;
    }
    return INPUTS;
  }

  #inputOfRank(rank: number): number {
    return (this.#lowest + 1 + rank) % INPUTS;
  }

  /** The input that INT asks service for; -1 for none. */
  request(): number {
    const rank = this.#rank(this.#irr & ~this.#imr);
    if (rank === INPUTS) return -1;
    let inService = this.#isr;
    // Special mask mode: a masked input in service holds back nobody.
    if (this.#specialMask) inService &= ~this.#imr;
    // Special fully nested mode: the slave may interrupt its own service.
    if (this.#icw4 & ICW4_SFNM) inService &= ~this.levelInputs;
    return rank < this.#rank(inService) ? this.#inputOfRank(rank) : -1;
  }

  /** INTA: puts an input in service. */
  #serve(input: number): void {
    const bit = 1 << input;
    this.#edges &= ~bit;
    if (!(this.#icw4 & ICW4_AEOI)) this.#isr |= bit;
    else if (this.#rotateOnAutoEoi) this.#lowest = input;
    this.#changed();
  }

  /** INTA cycle. Returns the input, and the vector it gives. */
  acknowledge(): { input: number; vector: number } {
    const input = this.request();
    // A request that went away is reported as input 7, and is not in service.
    if (input < 0) {
      return { input: SPURIOUS, vector: this.#base | SPURIOUS };
    }
    this.#serve(input);
    return { input, vector: this.#base | input };
  }

  read(odd: boolean): number {
    if (this.#poll) {
      this.#poll = false;
      const input = this.request();
      if (input < 0) return 0;
      this.#serve(input);
      return POLL_INTERRUPT | input;
    }
    if (odd) return this.#imr;
    return this.#readIsr ? this.#isr : this.#irr;
  }

  write(odd: boolean, value: number): void {
    if (odd) this.#writeOdd(value);
    else if (value & ICW1_SELECT) this.#writeIcw1(value);
    else if (value & OCW3_SELECT) this.#writeOcw3(value);
    else this.#writeOcw2(value);
    this.#changed();
  }

  #writeIcw1(value: number): void {
    this.#icw1 = value & (ICW1_IC4 | ICW1_SNGL);
    this.#edges = 0;
    this.#imr = 0;
    this.#isr = 0;
    this.#lowest = INPUTS - 1;
    this.#icw3 = 0;
    this.#specialMask = false;
    this.#readIsr = false;
    this.#poll = false;
    this.#rotateOnAutoEoi = false;
    if (!(value & ICW1_IC4)) this.#icw4 = 0;
    this.#initStep = 2;
  }

  #writeOdd(value: number): void {
    const last: InitStep = this.#icw1 & ICW1_IC4 ? 4 : 0;
    switch (this.#initStep) {
      case 0:
        this.#imr = value;
        break;
      case 2:
        this.#base = value & ICW2_VECTOR;
        this.#initStep = this.#icw1 & ICW1_SNGL ? last : 3;
        break;
      case 3:
        this.#icw3 = value;
        this.#initStep = last;
        break;
      case 4:
        this.#icw4 = value & ICW4_MASK;
        this.#initStep = 0;
        break;
    }
  }

  #writeOcw3(value: number): void {
    if (value & OCW3_POLL) this.#poll = true;
    if (value & OCW3_RR) this.#readIsr = (value & OCW3_RIS) !== 0;
    if (value & OCW3_ESMM) this.#specialMask = (value & OCW3_SMM) !== 0;
  }

  #writeOcw2(value: number): void {
    const level = value & OCW2_LEVEL;
    switch (value & OCW2_COMMAND) {
      case 0:
        this.#rotateOnAutoEoi = false;
        break;
      case OCW2_R:
        this.#rotateOnAutoEoi = true;
        break;
      case OCW2_EOI:
      case OCW2_R | OCW2_EOI: {
        // In special mask mode a non-specific EOI passes over masked inputs.
        const rank = this.#rank(
          this.#isr & ~(this.#specialMask ? this.#imr : 0),
        );
        if (rank === INPUTS) break;
        const input = this.#inputOfRank(rank);
        this.#isr &= ~(1 << input);
        if (value & OCW2_R) this.#lowest = input;
        break;
      }
      case OCW2_SL | OCW2_EOI:
        this.#isr &= ~(1 << level);
        break;
      case OCW2_R | OCW2_SL | OCW2_EOI:
        this.#isr &= ~(1 << level);
        this.#lowest = level;
        break;
      case OCW2_R | OCW2_SL:
        this.#lowest = level;
        break;
    }
  }

  save(): ChipState {
    return {
      edges: this.#edges,
      lines: this.#lines,
      isr: this.#isr,
      imr: this.#imr,
      base: this.#base,
      icw1: this.#icw1,
      icw3: this.#icw3,
      icw4: this.#icw4,
      initStep: this.#initStep,
      specialMask: this.#specialMask,
      rotateOnAutoEoi: this.#rotateOnAutoEoi,
      lowest: this.#lowest,
      poll: this.#poll,
      readIsr: this.#readIsr,
      elcr: this.#elcr,
    };
  }

  /** Refuses what the guest could not have reached. */
  checkState(chip: string, state: ChipState): void {
    checkBits(`${chip}.base`, state.base, ICW2_VECTOR);
    checkBits(`${chip}.icw1`, state.icw1, ICW1_IC4 | ICW1_SNGL);
    checkBits(`${chip}.icw4`, state.icw4, ICW4_MASK);
    checkBits(`${chip}.elcr`, state.elcr, this.#elcrMask);
    check(
      state.initStep !== 1,
      `${chip}.initStep`,
      state.initStep,
      "0, 2, 3 or 4",
    );
  }

  restore(state: ChipState): void {
    this.#edges = state.edges;
    this.#lines = state.lines;
    this.#isr = state.isr;
    this.#imr = state.imr;
    this.#base = state.base;
    this.#icw1 = state.icw1;
    this.#icw3 = state.icw3;
    this.#icw4 = state.icw4;
    this.#initStep = state.initStep as InitStep;
    this.#specialMask = state.specialMask;
    this.#rotateOnAutoEoi = state.rotateOnAutoEoi;
    this.#lowest = state.lowest;
    this.#poll = state.poll;
    this.#readIsr = state.readIsr;
    this.#elcr = state.elcr;
  }
}

class PicPair implements Device {
  readonly #slave = new Chip(ELCR2_MASK, 0, () => this.#cascade());
  readonly #master: Chip;

  constructor(ctx: DeviceContext<PicState>) {
    this.#master = new Chip(
      ELCR1_MASK,
      1 << CASCADE,
      () => ctx.interrupts.setPicOutput(this.#master.request() >= 0),
    );
    ctx.interrupts.pic = { acknowledge: () => this.#acknowledge() };
    ctx.interrupts.onIsaIrq((irq, level) => {
      if (irq >= INPUTS) this.#slave.setInput(irq - INPUTS, level);
      else if (irq !== CASCADE) this.#master.setInput(irq, level);
    });
    for (
      const [port, chip] of [
        [MASTER_PORT, this.#master],
        [SLAVE_PORT, this.#slave],
      ] as const
    ) {
      ctx.isa.claimPorts(
        port,
        PORT_COUNT,
        bytewise({
          read: (address) => chip.read(address !== port),
          write: (address, value) => chip.write(address !== port, value),
        }),
      );
    }
    const elcrOf = (address: number) =>
      address === ELCR_PORT ? this.#master : this.#slave;
    ctx.isa.claimPorts(
      ELCR_PORT,
      PORT_COUNT,
      bytewise({
        read: (address) => elcrOf(address).elcr,
        write: (address, value) => void (elcrOf(address).elcr = value),
      }),
    );
    ctx.snapshot.register({
      save: () => ({
        master: this.#master.save(),
        slave: this.#slave.save(),
      }),
      restore: (state) => {
        this.#master.checkState("master", state.master);
        this.#slave.checkState("slave", state.slave);
        this.#master.restore(state.master);
        this.#slave.restore(state.slave);
      },
    });
  }

  reset(): void {
    this.#slave.reset();
    this.#master.reset();
  }

  #cascade(): void {
    this.#master.setInput(CASCADE, this.#slave.request() >= 0);
  }

  #acknowledge(): number {
    const { input, vector } = this.#master.acknowledge();
    return input === CASCADE ? this.#slave.acknowledge().vector : vector;
  }
}

/** The two cascaded 8259A of a PC. */
export default definePlugin({
  name: "pic",
  version: "1.0.0",
  summary: "pair of 8259A interrupt controllers",
  options: {},
  state: picState,
  create: (ctx) => new PicPair(ctx),
});
