/**
 * A command of the command list: its header, its table, and the guest's buffers for its data
 * (AHCI 1.3.1, section 4.2).
 *
 * @module
 */
import type { DmaMemory } from "../../core/plugin.ts";
import {
  CTBA_MASK,
  HEADER_A,
  HEADER_BYTES,
  HEADER_C,
  HEADER_CFL_MASK,
  HEADER_CTBA,
  HEADER_CTBAU,
  HEADER_PRDBC,
  HEADER_PRDTL_SHIFT,
  PRD_BYTES,
  PRD_DBAU,
  PRD_DBC,
  PRD_DBC_MASK,
  PRD_I,
  TABLE_ACMD,
  TABLE_ACMD_BYTES,
  TABLE_CFIS_BYTES,
  TABLE_PRDT,
} from "./registers.ts";
import type { AtaCommand, AtaTask } from "./sata.ts";

const TWO_32 = 2 ** 32;

/** One buffer of the guest. */
interface Segment {
  /** Guest-physical address. */
  readonly address: number;
  /** Bytes. */
  readonly length: number;
  /** Offset of its first byte in the command's data. */
  readonly offset: number;
  /** Whether the driver wants to be told when it is done. */
  readonly interrupt: boolean;
}

/** A command header and what it points to. */
export interface CommandHeader {
  /** The command FIS. */
  readonly fis: Uint8Array;
  /** The packet. */
  readonly packet: Uint8Array;
  /** The PACKET command has one. */
  readonly atapi: boolean;
  /** The port is to clear BSY when the FIS is sent. */
  readonly clearBusy: boolean;
  /** Length of the FIS in 32-bit words. */
  readonly words: number;
  /** Guest-physical address of the header. */
  readonly address: number;
  readonly segments: readonly Segment[];
}

/**
 * Reads a command header, its table and its buffer list.
 *
 * @param memory Guest memory.
 * @param list Guest-physical address of the command list.
 * @param slot Number of the slot.
 * @returns What is there.
 * @throws {DmaError} When something of it is outside RAM.
 */
export function readHeader(
  memory: DmaMemory,
  list: number,
  slot: number,
): CommandHeader {
  const address = list + slot * HEADER_BYTES;
  const flags = memory.readU32(address);
  const table = ((memory.readU32(address + HEADER_CTBA) & CTBA_MASK) >>> 0) +
    memory.readU32(address + HEADER_CTBAU) * TWO_32;
  const fis = new Uint8Array(TABLE_CFIS_BYTES);
  memory.read(table, fis);
  const packet = new Uint8Array(TABLE_ACMD_BYTES);
  memory.read(table + TABLE_ACMD, packet);
  const count = flags >>> HEADER_PRDTL_SHIFT;
  const raw = new Uint8Array(count * PRD_BYTES);
  memory.read(table + TABLE_PRDT, raw);
  const view = new DataView(raw.buffer);
  const segments: Segment[] = [];
  let offset = 0;
  for (let at = 0; at < raw.length; at += PRD_BYTES) {
    const word = view.getUint32(at + PRD_DBC, true);
    const length = (word & PRD_DBC_MASK) + 1;
    segments.push({
      // Bit 0 is reserved: buffers begin at words.
      address: ((view.getUint32(at, true) & ~1) >>> 0) +
        view.getUint32(at + PRD_DBAU, true) * TWO_32,
      length,
      offset,
      interrupt: (word & PRD_I) !== 0,
    });
    offset += length;
  }
  return {
    fis,
    packet,
    atapi: (flags & HEADER_A) !== 0,
    clearBusy: (flags & HEADER_C) !== 0,
    words: flags & HEADER_CFL_MASK,
    address,
    segments,
  };
}

/** The data of one command, and its way to and from the drive. */
export class Task implements AtaTask {
  readonly room: number;
  readonly packet: Uint8Array;
  /** Bytes moved, from the start of the buffers. */
  moved = 0;
  /** The drive had more data, or wanted more, than the buffers hold. */
  overflow = false;
  /** A buffer whose end the driver wants to know of was filled. */
  descriptorDone = false;
  /** The driver has stopped the port, or a buffer was outside RAM: nothing may reach the guest any more. */
  stale = false;

  /**
   * @param tag Command slot.
   * @param command The task file.
   * @param header Where its data go.
   * @param memory Guest memory.
   * @param fail Called with an access outside RAM.
   */
  constructor(
    readonly tag: number,
    readonly command: AtaCommand,
    readonly header: CommandHeader,
    private readonly memory: DmaMemory,
    private readonly fail: (error: Error) => void,
  ) {
    const last = header.segments.at(-1);
    this.room = last === undefined ? 0 : last.offset + last.length;
    this.packet = header.packet;
  }

  toGuest(offset: number, bytes: Uint8Array): void {
    this.#each(offset, bytes.length, (address, from, count) => {
      this.memory.write(address, bytes.subarray(from, from + count));
    });
  }

  fromGuest(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.#each(offset, length, (address, from, count) => {
      this.memory.read(address, bytes.subarray(from, from + count));
    });
    return bytes;
  }

  /** Writes PRDBC, the count of bytes moved. */
  writeCount(): void {
    this.memory.writeU32(this.header.address + HEADER_PRDBC, this.moved);
  }

  /** Calls `part` with the address, the place in the data, and the count, for each buffer of a range. */
  #each(
    offset: number,
    length: number,
    part: (address: number, from: number, count: number) => void,
  ): void {
    const { segments } = this.header;
    if (offset + length > this.room) this.overflow = true;
    const end = Math.min(offset + length, this.room);
    let [low, high] = [0, segments.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const { offset: at, length } = segments[middle];
      if (at + length <= offset) low = middle + 1;
      else high = middle;
    }
    for (let i = low, at = offset; at < end && !this.stale; i++) {
      const segment = segments[i];
      const inside = at - segment.offset;
      const count = Math.min(segment.length - inside, end - at);
      try {
        part(segment.address + inside, at - offset, count);
      } catch (error) {
        this.stale = true;
        this.fail(error as Error);
        return;
      }
      at += count;
      this.moved = Math.max(this.moved, at);
      if (inside + count === segment.length && segment.interrupt) {
        this.descriptorDone = true;
      }
    }
  }
}
