// The two tables of an image that are in memory as a whole: the L1 table and the refcount table
// (QEMU's docs/interop/qcow2.txt, sections "Cluster mapping" and "Host cluster management").

import type { HostFile } from "../file.ts";
import { SECTOR_SIZE } from "../types.ts";
import { TABLE_ENTRY } from "./header.ts";

/** The high word of an entry holds bits 32 to 63. */
export const WORD = 2 ** 32;
/** Bits 9 to 31: the low word of an entry's offset. */
export const OFFSET_LOW = 0xfffffe00;

/** A part of a table as it was at an instant, to be written. */
interface Copy {
  readonly sector: number;
  readonly position: number;
  readonly bytes: Uint8Array;
}

/** A table of 64-bit entries. */
export class Table {
  /** Its place in the file. */
  readonly offset: number;
  /** The entries, as the file has them. */
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Numbers of the sectors that differ from the file. */
  readonly #dirty = new Set<number>();

  /**
   * @param offset Its place in the file.
   * @param bytes Its entries.
   */
  constructor(offset: number, bytes: Uint8Array) {
    this.offset = offset;
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  /** Entries. */
  get length(): number {
    return this.bytes.length / TABLE_ENTRY;
  }

  /** Whether the file lacks something. */
  get isDirty(): boolean {
    return this.#dirty.size > 0;
  }

  /** Bits 32 to 63 of an entry. */
  high(index: number): number {
    return this.view.getUint32(index * TABLE_ENTRY);
  }

  /** Bits 0 to 31 of an entry. */
  low(index: number): number {
    return this.view.getUint32(index * TABLE_ENTRY + 4);
  }

  /** Changes an entry. */
  set(index: number, high: number, low: number): void {
    this.view.setUint32(index * TABLE_ENTRY, high);
    this.view.setUint32(index * TABLE_ENTRY + 4, low);
    this.#dirty.add(Math.floor(index * TABLE_ENTRY / SECTOR_SIZE));
  }

  /** Takes what differs from the file, as it is now. */
  takeDirty(): Copy[] {
    const copies = Array.from(this.#dirty, (sector): Copy => {
      const start = sector * SECTOR_SIZE;
      return {
        sector,
        position: this.offset + start,
        bytes: this.bytes.slice(start, start + SECTOR_SIZE),
      };
    });
    this.#dirty.clear();
    return copies;
  }

  /** Puts back what could not be written. */
  putBack(copies: Copy[]): void {
    for (const { sector } of copies) this.#dirty.add(sector);
  }
}

/**
 * Writes parts of a table.
 *
 * @param file The image.
 * @param copies What {@linkcode Table.takeDirty} gave.
 */
export async function writeTable(
  file: HostFile,
  copies: Copy[],
): Promise<void> {
  for (const { bytes, position } of copies) await file.write(bytes, position);
}
