/**
 * The EEPROM of the 82540EM, a 93C46 of 64 words behind a serial bus, and its register interface:
 * Intel 317453, chapters 5 and 13.4.3 to 13.4.4.
 *
 * @module
 */
import {
  bool,
  type Infer,
  list,
  record,
  u16,
  u32,
  u8,
} from "../../snapshot/schema.ts";
import { MAC_BYTES } from "../net/frame.ts";

const WORDS = 64;
const CHECKSUM_WORD = 0x3f;
/** Sum of all words. */
const CHECKSUM = 0xbaba;
const ADDRESS_BITS = 6;
const OPCODE_BITS = 2;
const WORD_BITS = 16;
const INSTRUCTION_BITS = 1 + OPCODE_BITS + ADDRESS_BITS;
/** Bits of the longest instruction; then the EEPROM waits for its select line. */
const ALL_BITS = INSTRUCTION_BITS + WORD_BITS;
/** A zero bit comes before the word that is read. */
const OUTPUT_BITS = 1 + WORD_BITS;

// EECD.
const EECD_SK = 1 << 0;
const EECD_CS = 1 << 1;
const EECD_DI = 1 << 2;
const EECD_DO = 1 << 3;
const EECD_REQ = 1 << 6;
const EECD_GNT = 1 << 7;
const EECD_PRES = 1 << 8;

// EERD.
const EERD_START = 1 << 0;
const EERD_DONE = 1 << 4;
const EERD_ADDRESS_SHIFT = 8;
const EERD_DATA_SHIFT = 16;

// Microwire instructions, after the start bit.
const OP_EXTENDED = 0;
const OP_WRITE = 1;
const OP_READ = 2;
const OP_ERASE = 3;
/** The two upper bits of the address of an extended instruction. */
const EXTENDED_DISABLE = 0;
const EXTENDED_WRITE_ALL = 1;
const EXTENDED_ERASE_ALL = 2;
const EXTENDED_ENABLE = 3;

/** State of the EEPROM and its bus. */
export const nvmState = record({
  words: list(u16(), { length: WORDS }),
  /** Lines as EECD drives them. */
  lines: u8(),
  /** Bits that came in since the start bit, and how many; 0 before it. */
  input: u32({ max: 2 ** ALL_BITS - 1 }),
  count: u8({ max: ALL_BITS }),
  /** Bits on their way out, the next one highest, and how many are left. */
  output: u32({ max: 2 ** OUTPUT_BITS - 1 }),
  left: u8({ max: OUTPUT_BITS }),
  writeEnabled: bool(),
});

/** The EEPROM. */
export class Nvm {
  readonly #initial: Uint16Array;
  #words: Uint16Array;
  #lines = 0;
  #input = 0;
  #count = 0;
  #output = 0;
  #left = 0;
  #writeEnabled = false;

  /** @param mac The address that it holds. */
  constructor(mac: Uint8Array) {
    const words = new Uint16Array(WORDS);
    for (let i = 0; i < MAC_BYTES / 2; i++) {
      words[i] = mac[2 * i] | mac[2 * i + 1] << 8;
    }
    // Compatibility, PBA number, initialization control, subsystem and device ids (section 5.6).
    words[0x03] = 0x0000;
    words[0x08] = 0x3000;
    words[0x09] = 0x1000;
    words[0x0a] = 0x6403;
    words[0x0b] = 0x001e;
    words[0x0c] = 0x8086;
    words[0x0d] = 0x100e;
    words[0x0e] = 0x8086;
    words[0x0f] = 0x3040;
    words[CHECKSUM_WORD] = CHECKSUM -
      words.reduce((sum, word) => sum + word, 0);
    this.#initial = words;
    this.#words = words.slice();
  }

  /** Power-on: the content is as it was made. */
  reset(): void {
    this.#words = this.#initial.slice();
    this.#lines = 0;
    this.#select();
    this.#writeEnabled = false;
  }

  /** The address that it holds now. */
  get mac(): Uint8Array {
    const mac = new Uint8Array(MAC_BYTES);
    for (let i = 0; i < MAC_BYTES; i++) {
      mac[i] = this.#words[i >> 1] >>> 8 * (i & 1);
    }
    return mac;
  }

  /** EECD as a driver reads it. */
  get eecd(): number {
    const out = this.#left > 0
      ? this.#output >>> OUTPUT_BITS - 1
      // Idle, or a write that is done: ready.
      : 1;
    return this.#lines | (out === 1 ? EECD_DO : 0) | EECD_PRES |
      ((this.#lines & EECD_REQ) !== 0 ? EECD_GNT : 0);
  }

  /** EECD as a driver writes it: bits move on the rising edge of the clock. */
  set eecd(value: number) {
    const before = this.#lines;
    this.#lines = value & (EECD_SK | EECD_CS | EECD_DI | EECD_REQ);
    if ((value & EECD_CS) === 0) {
      this.#select();
      return;
    }
    const isRising = (before & EECD_SK) === 0 && (value & EECD_SK) !== 0;
    if (isRising) this.#clock((value & EECD_DI) !== 0 ? 1 : 0);
  }

  /**
   * EERD.
   *
   * @param value What a driver writes: the address and the start bit.
   * @returns What it reads afterwards.
   */
  read(value: number): number {
    if ((value & EERD_START) === 0) return 0;
    const address = value >>> EERD_ADDRESS_SHIFT & 0xff;
    const data = address < WORDS ? this.#words[address] : 0;
    return (EERD_DONE | address << EERD_ADDRESS_SHIFT |
      data << EERD_DATA_SHIFT) >>> 0;
  }

  save(): Infer<typeof nvmState> {
    return {
      words: [...this.#words],
      lines: this.#lines,
      input: this.#input,
      count: this.#count,
      output: this.#output,
      left: this.#left,
      writeEnabled: this.#writeEnabled,
    };
  }

  restore(state: Infer<typeof nvmState>): void {
    this.#words = Uint16Array.from(state.words);
    this.#lines = state.lines & (EECD_SK | EECD_CS | EECD_DI | EECD_REQ);
    this.#input = state.input;
    this.#count = state.count;
    this.#output = state.output;
    this.#left = state.left;
    this.#writeEnabled = state.writeEnabled;
  }

  /** Ends an instruction. */
  #select(): void {
    this.#input = 0;
    this.#count = 0;
    this.#output = 0;
    this.#left = 0;
  }

  #clock(bit: number): void {
    if (this.#left > 0) {
      this.#output = this.#output << 1 & 2 ** OUTPUT_BITS - 1;
      this.#left--;
      return;
    }
    // A zero before the start bit is waited out, and so is all after an instruction.
    if (this.#count === 0 && bit === 0 || this.#count === ALL_BITS) return;
    this.#input = (this.#input << 1 | bit) >>> 0;
    this.#count++;
    if (this.#count === INSTRUCTION_BITS) this.#decode();
    else if (this.#count === ALL_BITS) this.#store();
  }

  /** The instruction is in: those without data are done. */
  #decode(): void {
    const address = this.#input & (1 << ADDRESS_BITS) - 1;
    const kind = address >>> ADDRESS_BITS - 2;
    switch (this.#input >>> ADDRESS_BITS & (1 << OPCODE_BITS) - 1) {
      case OP_READ:
        this.#output = this.#words[address];
        this.#left = OUTPUT_BITS;
        break;
      case OP_ERASE:
        if (this.#writeEnabled) this.#words[address] = 0xffff;
        break;
      case OP_EXTENDED:
        this.#extended(kind);
        if (kind === EXTENDED_WRITE_ALL) return;
        break;
      case OP_WRITE:
        return;
    }
    this.#count = ALL_BITS;
  }

  #extended(kind: number): void {
    if (kind === EXTENDED_ENABLE) this.#writeEnabled = true;
    else if (kind === EXTENDED_DISABLE) this.#writeEnabled = false;
    else if (kind === EXTENDED_ERASE_ALL && this.#writeEnabled) {
      this.#words.fill(0xffff);
    }
  }

  /** The word of a write is in. */
  #store(): void {
    const word = this.#input & 0xffff;
    const address = this.#input >>> WORD_BITS & (1 << ADDRESS_BITS) - 1;
    const operation = this.#input >>> WORD_BITS + ADDRESS_BITS &
      (1 << OPCODE_BITS) - 1;
    if (!this.#writeEnabled) return;
    if (operation === OP_WRITE) this.#words[address] = word;
    else if (
      operation === OP_EXTENDED &&
      address >>> ADDRESS_BITS - 2 === EXTENDED_WRITE_ALL
    ) this.#words.fill(word);
  }
}
