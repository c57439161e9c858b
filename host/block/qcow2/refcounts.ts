// Which clusters of an image are in use, and by how many: QEMU's docs/interop/qcow2.txt, section
// "Host cluster management".

import type { HostFile } from "../file.ts";
import {
  type Header,
  MAX_REFCOUNT_TABLE_BYTES,
  REFCOUNT_TABLE_OFFSET,
  TABLE_ENTRY,
} from "./header.ts";
import { CorruptError, type Owners } from "./owners.ts";
import { OFFSET_LOW, Table, WORD } from "./table.ts";
import type { UnitCache } from "./units.ts";

/** A file that grows does so by this factor in its refcount table. */
const TABLE_GROWTH = 1.5;
/** Bits 9 to 55 of an L2 entry are the place of a cluster: there are none beyond. */
const MAX_FILE_BYTES = 2 ** 53;

/** Clusters next to each other that were allocated. */
export interface Allocation {
  /** Place of the first in the file. */
  offset: number;
  /** How many. */
  count: number;
  /** Whether nothing has ever been written there, so that they read as zeroes. */
  isFresh: boolean;
}

/**
 * Reads a refcount.
 *
 * @param view Refcounts.
 * @param order log2 of their bits.
 * @param index Which.
 */
export function getRefcount(
  view: DataView,
  order: number,
  index: number,
): number {
  switch (order) {
    case 3:
      return view.getUint8(index);
    case 4:
      return view.getUint16(index * 2);
    case 5:
      return view.getUint32(index * 4);
    case 6:
      return view.getUint32(index * 8) * WORD + view.getUint32(index * 8 + 4);
    default: {
      const bit = index << order;
      return view.getUint8(bit >> 3) >> (bit & 7) & (1 << (1 << order)) - 1;
    }
  }
}

/**
 * Writes a refcount.
 *
 * @param view Refcounts.
 * @param order log2 of their bits.
 * @param index Which.
 * @param value The refcount.
 */
export function setRefcount(
  view: DataView,
  order: number,
  index: number,
  value: number,
): void {
  switch (order) {
    case 3:
      return view.setUint8(index, value);
    case 4:
      return view.setUint16(index * 2, value);
    case 5:
      return view.setUint32(index * 4, value);
    case 6:
      view.setUint32(index * 8, value / WORD);
      return view.setUint32(index * 8 + 4, value % WORD);
    default: {
      const bit = index << order;
      const mask = (1 << (1 << order)) - 1 << (bit & 7);
      const rest = view.getUint8(bit >> 3) & ~mask;
      view.setUint8(bit >> 3, rest | value << (bit & 7));
    }
  }
}

/** The refcounts of an image. */
export class Refcounts {
  readonly #file: HostFile;
  readonly #units: UnitCache;
  readonly #owners: Owners;
  readonly #clusterSize: number;
  readonly #order: number;
  /** Refcounts in a block, which is a cluster. */
  readonly #perBlock: number;
  /** Refcounts in a unit of the cache. */
  readonly #perUnit: number;
  readonly #retire: (offset: number, length: number) => void;
  #table: Table;
  /** No cluster before this one is free. */
  #next = 0;
  #allocations: Promise<unknown> = Promise.resolve();

  /**
   * @param file The image.
   * @param header Its header.
   * @param table Its refcount table.
   * @param units Where refcount blocks are kept.
   * @param owners Where the image's tables are; the blocks are added.
   * @param retire Called for clusters that the refcount table leaves.
   */
  constructor(
    file: HostFile,
    header: Header,
    table: Table,
    units: UnitCache,
    owners: Owners,
    retire: (offset: number, length: number) => void,
  ) {
    this.#file = file;
    this.#units = units;
    this.#owners = owners;
    this.#clusterSize = 2 ** header.clusterBits;
    this.#order = header.refcountOrder;
    this.#perBlock = this.#clusterSize * 8 / 2 ** this.#order;
    this.#perUnit = units.unitBytes * 8 / 2 ** this.#order;
    this.#table = table;
    this.#retire = retire;
  }

  /** The refcount table. */
  get table(): Table {
    return this.#table;
  }

  /**
   * Checks the places of all refcount blocks, and notes them as tables.
   *
   * @throws {CorruptError} If one is where it cannot be.
   */
  claimBlocks(): void {
    for (let index = 0; index < this.#table.length; index++) {
      const offset = this.#blockAt(index);
      if (offset === 0) continue;
      const what = "a refcount block";
      if (offset % this.#clusterSize !== 0 || offset >= this.#file.size) {
        throw new CorruptError(
          `${what} is at ${offset}, which is no cluster of the file`,
        );
      }
      this.#owners.check(what, offset, this.#clusterSize);
      this.#owners.add(what, offset, this.#clusterSize);
    }
  }

  /**
   * Allocates clusters.
   *
   * @param count How many at most.
   * @returns One or more that lie next to each other; their refcount is 1.
   * @throws {CorruptError} If the refcounts are wrong.
   */
  allocate(count: number): Promise<Allocation> {
    const allocation = this.#allocations.then(() => this.#allocate(count));
    this.#allocations = allocation.catch(() => {});
    return allocation;
  }

  /**
   * The refcount of a cluster.
   *
   * @param cluster Its number.
   */
  async get(cluster: number): Promise<number> {
    const place = this.#placeOf(cluster);
    if (place === undefined) return 0;
    const { view } = await this.#units.get(place);
    return getRefcount(view, this.#order, cluster % this.#perUnit);
  }

  /**
   * Changes the refcount of a cluster that has one.
   *
   * @param cluster Its number.
   * @param value The refcount; 0 makes the cluster free.
   */
  async set(cluster: number, value: number): Promise<void> {
    const place = this.#placeOf(cluster);
    if (place === undefined) return;
    const unit = await this.#units.get(place);
    setRefcount(unit.view, this.#order, cluster % this.#perUnit, value);
    this.#units.markDirty(unit);
    if (value === 0) this.#next = Math.min(this.#next, cluster);
  }

  #blockAt(index: number): number {
    return this.#table.high(index) * WORD +
      ((this.#table.low(index) & OFFSET_LOW) >>> 0);
  }

  /** Where the unit of a cluster's refcount is in the file; undefined where there is none. */
  #placeOf(cluster: number): number | undefined {
    const index = Math.floor(cluster / this.#perBlock);
    const block = index < this.#table.length ? this.#blockAt(index) : 0;
    if (block === 0) return undefined;
    const unit = Math.floor(cluster % this.#perBlock / this.#perUnit);
    return block + unit * this.#units.unitBytes;
  }

  async #allocate(count: number): Promise<Allocation> {
    for (;;) {
      const first = this.#next;
      const index = Math.floor(first / this.#perBlock);
      this.#checkRoom(first, 1);
      if (index >= this.#table.length) {
        await this.#growTable(first);
        continue;
      }
      const place = this.#placeOf(first);
      if (place === undefined) {
        await this.#addBlock(index, first);
        continue;
      }
      const unit = await this.#units.get(place);
      // A cluster before it may have become free meanwhile.
      if (this.#next !== first) continue;
      const { view } = unit;
      const end = this.#perUnit;
      const isFree = (at: number) => getRefcount(view, this.#order, at) === 0;
      let at = first % this.#perUnit;
      const base = first - at;
      while (at < end && !isFree(at)) at++;
      const start = at;
      while (at < end && at - start < count && isFree(at)) at++;
      this.#next = base + at;
      if (at === start) continue;
      const offset = (base + start) * this.#clusterSize;
      const found = at - start;
      this.#checkRoom(base + start, found);
      this.#owners.check("a free cluster", offset, found * this.#clusterSize);
      for (let i = start; i < at; i++) setRefcount(view, this.#order, i, 1);
      this.#units.markDirty(unit);
      return { offset, count: found, isFresh: this.#isFresh(offset) };
    }
  }

  #isFresh(offset: number): boolean {
    return !this.#file.isDevice && offset >= this.#file.size;
  }

  #checkRoom(cluster: number, count: number): void {
    const limit = this.#file.isDevice ? this.#file.size : MAX_FILE_BYTES;
    if ((cluster + count) * this.#clusterSize > limit) {
      throw new Error(`no space left in the image of ${limit} bytes`);
    }
  }

  /** Makes a refcount block where there is none: at the cluster that was to be allocated, its own first refcount. */
  async #addBlock(index: number, cluster: number): Promise<void> {
    const offset = cluster * this.#clusterSize;
    const what = "a refcount block";
    this.#owners.check(what, offset, this.#clusterSize);
    const bytes = new Uint8Array(this.#clusterSize);
    setRefcount(
      new DataView(bytes.buffer),
      this.#order,
      cluster % this.#perBlock,
      1,
    );
    this.#units.drop(offset, this.#clusterSize);
    await this.#file.write(bytes, offset);
    this.#table.set(index, Math.floor(offset / WORD), offset % WORD);
    this.#owners.add(what, offset, this.#clusterSize);
  }

  /** Moves the refcount table to where it can be larger: behind everything that it stands for. */
  async #growTable(first: number): Promise<void> {
    const old = this.#table;
    const perCluster = this.#clusterSize / TABLE_ENTRY;
    let blocks = 0;
    let tableClusters = 0;
    for (let needed = 1; needed > blocks;) {
      blocks = needed;
      const entries = Math.max(old.length * TABLE_GROWTH, old.length + blocks);
      tableClusters = Math.ceil(entries / perCluster);
      needed = Math.ceil((blocks + tableClusters) / this.#perBlock);
    }
    const total = blocks + tableClusters;
    const tableBytes = tableClusters * this.#clusterSize;
    if (tableBytes > MAX_REFCOUNT_TABLE_BYTES) {
      throw new Error("no space left in the image: its tables are full");
    }
    this.#checkRoom(first, total);
    const start = first * this.#clusterSize;
    this.#owners.check("a free cluster", start, total * this.#clusterSize);

    const bytes = new Uint8Array(total * this.#clusterSize);
    const blockBytes = blocks * this.#clusterSize;
    const counts = new DataView(bytes.buffer, 0, blockBytes);
    for (let i = 0; i < total; i++) setRefcount(counts, this.#order, i, 1);
    const offset = start + blockBytes;
    const table = new Table(offset, bytes.subarray(blockBytes));
    table.bytes.set(old.bytes);
    for (let i = 0; i < blocks; i++) {
      const block = start + i * this.#clusterSize;
      table.set(old.length + i, Math.floor(block / WORD), block % WORD);
    }
    // All of it is going to be in the file.
    table.takeDirty();
    this.#units.drop(start, blockBytes);
    await this.#file.write(bytes, start);
    await this.#file.sync();
    const field = new DataView(new ArrayBuffer(12));
    field.setBigUint64(0, BigInt(offset));
    field.setUint32(8, tableClusters);
    // The old table is one as good until the next commit waits for this.
    await this.#file.write(
      new Uint8Array(field.buffer),
      REFCOUNT_TABLE_OFFSET,
    );
    this.#table = table;
    for (let i = 0; i < blocks; i++) {
      const what = "a refcount block";
      this.#owners.add(what, start + i * this.#clusterSize, this.#clusterSize);
    }
    this.#owners.add("the refcount table", offset, tableBytes);
    this.#owners.remove(old.offset, old.bytes.length);
    this.#retire(old.offset, old.bytes.length);
  }
}
