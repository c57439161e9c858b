/**
 * A driver of the AHCI controller for its tests: it brings a port up, builds commands in guest
 * memory, and issues them (AHCI 1.3.1, sections 10.1 and 5.5).
 *
 * @module
 */
import type { TestContext } from "../../core/testing/context.ts";
import {
  CMD_FRE,
  CMD_ST,
  GHC,
  GHC_IE,
  HEADER_A,
  HEADER_BYTES,
  HEADER_C,
  HEADER_CTBA,
  HEADER_PRDBC,
  HEADER_PRDTL_SHIFT,
  IE_MASK,
  IS,
  PORT_BASE,
  PORT_BYTES,
  PRD_BYTES,
  PRD_DBC,
  PxCI,
  PxCLB,
  PxCMD,
  PxFB,
  PxIE,
  PxIS,
  PxSACT,
  PxSERR,
  PxTFD,
  TABLE_ACMD,
  TABLE_PRDT,
} from "./registers.ts";

const FIS_H2D = 0x27;
const FIS_C = 0x80;
const ABAR_OFFSET = 0x24;
const COMMAND_OFFSET = 4;
const COMMAND_MEMORY_MASTER = 6;
const ABAR = 0xf000_0000;
const LIST = 0x1_0000;
const RECEIVED = 0x1_1000;
const TABLES = 0x2_0000;
const TABLE_STRIDE = 0x1000;
/** Where the data of a slot are. */
const DATA = 0x10_0000;
const DATA_STRIDE = 0x8000;
/** Bytes of one buffer, so that commands have several. */
const BUFFER = 0x600;
/** Controller: the first free slot of the bus. */
const SLOT = 1;

/** A command to issue. */
export interface Request {
  /** COMMAND. */
  command: number;
  lba?: number;
  count?: number;
  features?: number;
  device?: number;
  /** Packet of a PACKET command. */
  packet?: readonly number[];
  /** Bytes of buffers. */
  room?: number;
  /** What is in the buffers. */
  data?: Uint8Array;
  /** Queued: the slot is set in PxSACT too. */
  queued?: boolean;
}

/** How a command ended. */
export interface Reply {
  status: number;
  error: number;
  /** PRDBC. */
  moved: number;
  data: Uint8Array;
}

/** The driver of one port. */
export class AhciDriver {
  readonly #machine: TestContext;
  readonly #base: number;

  /**
   * @param machine The machine.
   * @param port The port's number.
   */
  constructor(machine: TestContext, port = 0) {
    this.#machine = machine;
    this.#base = PORT_BASE + port * PORT_BYTES;
  }

  /** Places the controller's memory and starts the port. */
  start(): void {
    this.#machine.configWrite(SLOT, 0, ABAR_OFFSET, ABAR);
    this.#machine.configWrite(SLOT, 0, COMMAND_OFFSET, COMMAND_MEMORY_MASTER);
    this.global(GHC, GHC_IE);
    this.write(PxCLB, LIST);
    this.write(PxFB, RECEIVED);
    this.write(PxIE, IE_MASK);
    this.write(PxCMD, CMD_FRE);
    this.write(PxSERR, 0xffff_ffff);
    this.write(PxIS, 0xffff_ffff);
    this.write(PxCMD, CMD_FRE | CMD_ST);
  }

  /** Writes a global register, or reads it. */
  global(register: number, value?: number): number {
    if (value === undefined) return this.#machine.load(ABAR + register);
    this.#machine.store(ABAR + register, value);
    return value;
  }

  /** Reads a register of the port. */
  read(register: number): number {
    return this.#machine.load(ABAR + this.#base + register);
  }

  /** Writes a register of the port. */
  write(register: number, value: number): void {
    this.#machine.store(ABAR + this.#base + register, value);
  }

  /** Clears every interrupt; returns what PxIS was. */
  acknowledge(): number {
    const is = this.read(PxIS);
    this.write(PxIS, is);
    this.global(IS, this.global(IS));
    return is;
  }

  /** Stops and starts the port, as after an error. */
  restart(): void {
    this.write(PxCMD, CMD_FRE);
    this.acknowledge();
    this.write(PxCMD, CMD_FRE | CMD_ST);
  }

  /** Builds a command in a slot and issues it. */
  issue(slot: number, request: Request): void {
    const { memory } = this.#machine;
    const { lba = 0, count = 0, features = 0, device = 0x40 } = request;
    const table = TABLES + slot * TABLE_STRIDE;
    const high = Math.floor(lba / 2 ** 24);
    const fis = Uint8Array.of(
      FIS_H2D,
      FIS_C,
      request.command,
      features,
      lba,
      lba >>> 8,
      lba >>> 16,
      device,
      high,
      high >>> 8,
      high >>> 16,
      features >>> 8,
      count,
      count >>> 8,
    );
    memory.write(table, new Uint8Array(TABLE_PRDT));
    memory.write(table, fis);
    if (request.packet !== undefined) {
      memory.write(table + TABLE_ACMD, Uint8Array.from(request.packet));
    }
    const room = request.data?.length ?? request.room ?? 0;
    const data = DATA + slot * DATA_STRIDE;
    memory.write(data, request.data ?? new Uint8Array(room).fill(0xee));
    let entries = 0;
    for (let at = 0; at < room; at += BUFFER, entries++) {
      const prd = table + TABLE_PRDT + entries * PRD_BYTES;
      memory.write(prd, new Uint8Array(PRD_BYTES));
      memory.writeU32(prd, data + at);
      memory.writeU32(prd + PRD_DBC, Math.min(BUFFER, room - at) - 1);
    }
    const header = LIST + slot * HEADER_BYTES;
    memory.write(header, new Uint8Array(HEADER_BYTES));
    memory.writeU32(
      header,
      5 | (request.packet === undefined ? 0 : HEADER_A) |
        entries << HEADER_PRDTL_SHIFT,
    );
    memory.writeU32(header + HEADER_CTBA, table);
    if (request.queued) this.write(PxSACT, 2 ** slot);
    this.write(PxCI, 2 ** slot);
  }

  /** What a slot's command has left. */
  reply(slot: number, room: number): Reply {
    const { memory } = this.#machine;
    const tfd = this.read(PxTFD);
    const data = new Uint8Array(room);
    memory.read(DATA + slot * DATA_STRIDE, data);
    return {
      status: tfd & 0xff,
      error: tfd >>> 8,
      moved: memory.readU32(LIST + slot * HEADER_BYTES + HEADER_PRDBC),
      data,
    };
  }

  /** Issues a command and waits for its end. */
  async perform(request: Request, slot = 0): Promise<Reply> {
    this.issue(slot, request);
    await this.#machine.settle();
    return this.reply(slot, request.data?.length ?? request.room ?? 0);
  }

  /** Software reset: SRST is set and cleared. */
  softReset(): void {
    const { memory } = this.#machine;
    for (const [slot, control] of [4, 0].entries()) {
      const table = TABLES + slot * TABLE_STRIDE;
      const fis = new Uint8Array(20);
      fis[0] = FIS_H2D;
      fis[15] = control;
      memory.write(table, fis);
      const header = LIST + slot * HEADER_BYTES;
      memory.write(header, new Uint8Array(HEADER_BYTES));
      memory.writeU32(header, 5 | (control === 0 ? 0 : HEADER_C));
      memory.writeU32(header + HEADER_CTBA, table);
      this.write(PxCI, 2 ** slot);
    }
  }
}
