/**
 * A guest of a few instructions in long mode at CPL 0, with descriptor tables and a handler for every vector, for tests of what
 * the engine does around instructions.
 *
 * @module
 */
import { OFF, RSP } from "../state.ts";
import type { RunResult } from "../cpu.ts";
import { LongMode } from "./long_mode.ts";

/** Linear addresses; each area is 64 KiB and the page after it is not mapped. */
export const AT = {
  code: 0x400000,
  data: 0x500000,
  stack: 0x600000,
  tables: 0x700000,
} as const;
/** Where the handlers are: sixteen bytes each, in the last pages of the code. */
const HANDLERS = AT.code + 0xf000;
const AREA = 0x10000;
const PHYSICAL = {
  code: 0x100000,
  data: 0x140000,
  stack: 0x180000,
  tables: 0x1c0000,
} as const;
const GDT = 0, IDT = 0x1000;
const CODE64_DESCRIPTOR = 0x00af9b000000ffffn,
  DATA_DESCRIPTOR = 0x00cf93000000ffffn;
const INTERRUPT_GATE = 0x8e00;
const HLT = 0xf4;
const VECTORS = 256, HANDLER_SIZE = 16;

/** An exception or interrupt as it was delivered. */
export interface Delivered {
  readonly vector: number;
  readonly errorCode: number | undefined;
  readonly rip: number;
}

/** The guest. */
export class Guest extends LongMode {
  /** What was delivered since the last {@linkcode start}. */
  readonly events: Delivered[] = [];
  /** Called at a delivery, before it changes anything. */
  onEvent: (event: Delivered) => void = () => {};

  constructor() {
    super();
    for (const area of ["code", "data", "stack", "tables"] as const) {
      this.map(AT[area], PHYSICAL[area], AREA);
    }
    const tables = PHYSICAL.tables;
    this.memory.writeU64(tables + GDT + 0x08, CODE64_DESCRIPTOR);
    this.memory.writeU64(tables + GDT + 0x10, DATA_DESCRIPTOR);
    for (let vector = 0; vector < VECTORS; vector++) {
      const handler = HANDLERS + vector * HANDLER_SIZE;
      const gate = tables + IDT + vector * 16;
      this.memory.writeU16(gate, handler & 0xffff);
      this.memory.writeU16(gate + 2, 0x08);
      this.memory.writeU16(gate + 4, INTERRUPT_GATE);
      this.memory.writeU16(gate + 6, handler >>> 16);
      this.memory.writeU8(this.physical(handler), HLT);
    }
    const s = this.cpu.state;
    s.set(OFF.gdtBase, BigInt(AT.tables + GDT));
    s.set32(OFF.gdtLimit, 0x17);
    s.set(OFF.idtBase, BigInt(AT.tables + IDT));
    s.set32(OFF.idtLimit, VECTORS * 16 - 1);
    this.cpu.onEvent = (vector, _kind, errorCode, rip) => {
      const event = { vector, errorCode, rip: Number(rip) };
      this.events.push(event);
      this.onEvent(event);
    };
  }

  /** The physical address behind an address of {@linkcode AT}'s areas. */
  physical(linear: number): number {
    for (const area of ["code", "data", "stack", "tables"] as const) {
      if (linear >= AT[area] && linear < AT[area] + AREA) {
        return linear - AT[area] + PHYSICAL[area];
      }
    }
    throw new RangeError(`0x${linear.toString(16)} is in no area of the guest`);
  }

  /** Writes bytes, as DMA does. */
  poke(linear: number, bytes: ArrayLike<number>): void {
    this.memory.write(this.physical(linear), Uint8Array.from(bytes));
  }

  /** Reads 64 bits. */
  peek(linear: number): bigint {
    return this.memory.readU64(this.physical(linear));
  }

  /** Replaces the handler of a vector, which is HLT at first. */
  handler(vector: number, bytes: number[]): void {
    this.poke(HANDLERS + vector * HANDLER_SIZE, bytes);
  }

  /** Puts code at `at`, and RIP there; interrupts off, the stack empty. */
  start(
    code: number[],
    registers: Record<number, number | bigint> = {},
    at: number = AT.code,
  ): this {
    this.poke(at, code);
    const s = this.cpu.state;
    s.set(OFF.rip, BigInt(at));
    s.rflags = 2;
    s.setReg(RSP, BigInt(AT.stack + 0x8000));
    for (const [index, value] of Object.entries(registers)) {
      s.setReg(Number(index), BigInt.asUintN(64, BigInt(value)));
    }
    this.cpu.halted = false;
    this.events.length = 0;
    return this;
  }

  /** Runs until HLT, or for `count` instructions. */
  run(count = 10_000): RunResult {
    return this.cpu.run(count);
  }

  /** A register as a number. */
  reg(index: number): number {
    return Number(this.cpu.state.reg(index));
  }

  /** RIP. */
  get rip(): number {
    return Number(this.cpu.state.get(OFF.rip));
  }
}
