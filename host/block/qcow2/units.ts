// Parts of an image's tables in memory: L2 tables and refcount blocks are read and written in units
// of a page, and a bounded number of them is kept.

import type { HostFile } from "../file.ts";

/** Bytes of a unit at most; a cluster where that is less. */
const UNIT_BYTES = 4096;
/** Units that a cache keeps: as L2 entries of 64 KiB clusters they stand for 32 GiB. */
const UNITS = 1024;

/** A part of a table. */
export interface Unit {
  /** Its place in the file. */
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Whether the file has something else. */
  dirty: boolean;
  /** Writes to the file that are under way. */
  writing: number;
  /** When it was used last. */
  used: number;
}

/** A unit as it was at an instant, to be written. */
interface Copy {
  readonly unit: Unit;
  readonly bytes: Uint8Array;
}

/** Units of an image's tables. */
export class UnitCache {
  /** Bytes of a unit: a power of two. */
  readonly unitBytes: number;
  readonly #file: HostFile;
  readonly #units = new Map<number, Unit>();
  readonly #loading = new Map<number, Promise<Unit>>();
  readonly #dirty = new Set<Unit>();
  #clock = 0;

  /**
   * @param file The image.
   * @param clusterSize Bytes of a cluster.
   */
  constructor(file: HostFile, clusterSize: number) {
    this.#file = file;
    this.unitBytes = Math.min(clusterSize, UNIT_BYTES);
  }

  /** Units that differ from the file. */
  get dirtyCount(): number {
    return this.#dirty.size;
  }

  /**
   * The unit that holds a byte of the file.
   *
   * @param position The byte.
   * @returns The unit, at once where it is in memory. It stays valid until the caller awaits something.
   */
  get(position: number): Unit | Promise<Unit> {
    const offset = position - position % this.unitBytes;
    const unit = this.#units.get(offset);
    if (unit !== undefined) {
      unit.used = ++this.#clock;
      return unit;
    }
    let loading = this.#loading.get(offset);
    if (loading === undefined) {
      loading = this.#load(offset);
      this.#loading.set(offset, loading);
    }
    return loading;
  }

  /** Notes that a unit was changed. */
  markDirty(unit: Unit): void {
    unit.dirty = true;
    this.#dirty.add(unit);
  }

  /**
   * Forgets a cluster, which is no longer a table, or is a new one.
   *
   * @param offset Its place.
   * @param length Its bytes.
   */
  drop(offset: number, length: number): void {
    for (let at = offset; at < offset + length; at += this.unitBytes) {
      const unit = this.#units.get(at);
      if (unit === undefined) continue;
      unit.dirty = false;
      this.#dirty.delete(unit);
      this.#units.delete(at);
    }
  }

  /** Takes what differs from the file, as it is now. */
  takeDirty(): Copy[] {
    const copies = Array.from(
      this.#dirty,
      (unit) => ({ unit, bytes: unit.bytes.slice() }),
    );
    for (const { unit } of copies) {
      unit.dirty = false;
      unit.writing++;
    }
    this.#dirty.clear();
    return copies.sort((a, b) => a.unit.offset - b.unit.offset);
  }

  /**
   * Writes what was taken.
   *
   * @param copies What {@linkcode takeDirty} gave.
   */
  async write(copies: Copy[]): Promise<void> {
    for (const { unit, bytes } of copies) {
      await this.#file.write(bytes, unit.offset);
    }
  }

  /**
   * Ends what {@linkcode takeDirty} began.
   *
   * @param copies What it gave.
   * @param isWritten Whether the file has it now.
   */
  settle(copies: Copy[], isWritten: boolean): void {
    for (const { unit } of copies) {
      unit.writing--;
      if (!isWritten && this.#units.get(unit.offset) === unit) {
        this.markDirty(unit);
      }
    }
    this.#evict();
  }

  async #load(offset: number): Promise<Unit> {
    try {
      const bytes = new Uint8Array(this.unitBytes);
      await this.#file.readPadded(bytes, offset);
      const unit: Unit = {
        offset,
        bytes,
        view: new DataView(bytes.buffer),
        dirty: false,
        writing: 0,
        used: ++this.#clock,
      };
      this.#units.set(offset, unit);
      this.#evict();
      return unit;
    } finally {
      this.#loading.delete(offset);
    }
  }

  /** Makes room: those go that were not used for the longest time, and do not differ from the file. */
  #evict(): void {
    if (this.#units.size <= UNITS) return;
    const candidates = Array.from(this.#units.values())
      .filter((unit) => !unit.dirty && unit.writing === 0)
      .sort((a, b) => a.used - b.used);
    // More than is needed, so that the sorting is not done each time.
    const count = this.#units.size - UNITS + UNITS / 8;
    for (const unit of candidates.slice(0, count)) {
      this.#units.delete(unit.offset);
    }
  }
}
