// The file of a qcow2 image: its tables, and the order in which they are written.
//
// Order is what keeps an image whole whenever the process or the host ends. Data go to newly allocated
// clusters at once, while the tables change in memory. A commit writes refcounts, waits until they and
// the data are durable, and then writes the L2 tables and the L1 table. A cluster that is no longer used
// keeps its refcount until the commit that drops the last mention of it is durable, and every request
// that might still use it has ended. So no table in the file ever mentions a cluster that could be
// given away: what a crash leaves is at most clusters that are counted but not used.

import { MachineError } from "../../../core/plugin.ts";
import { HostFile } from "../file.ts";
import {
  AUTOCLEAR_FEATURES,
  type Header,
  HEADER_BYTES,
  headerClusterBytes,
  INCOMPATIBLE_CORRUPT,
  INCOMPATIBLE_FEATURES,
  parseHeader,
  TABLE_ENTRY,
} from "./header.ts";
import { Mapping } from "./mapping.ts";
import { CorruptError, Owners } from "./owners.ts";
import { Refcounts } from "./refcounts.ts";
import { rebuildRefcounts } from "./repair.ts";
import { readSnapshots, type SnapshotTable } from "./snapshots.ts";
import { Table, writeTable } from "./table.ts";
import { UnitCache } from "./units.ts";

/** Clusters that are not used any more. */
interface Retired {
  offset: number;
  length: number;
}

/** The file of an image. */
export class Store {
  readonly file: HostFile;
  readonly header: Header;
  readonly mapping: Mapping;
  readonly refcounts: Refcounts;
  /** Where the image's tables are; known of one that is opened for writing. */
  readonly owners: Owners;
  /** Requests under way: none of the clusters that they may use is given away before they end. */
  readonly pending: Set<Promise<unknown>> = new Set();
  readonly #readOnly: boolean;
  readonly #l1: Table;
  readonly #l2Units: UnitCache;
  readonly #refcountUnits: UnitCache;
  #retired: Retired[] = [];
  /** The commit under way, and the one that comes after it. */
  #running: Promise<void> = Promise.resolve();
  #next: Promise<void> | undefined;
  #reclaiming: Promise<void> = Promise.resolve();
  #autoclear: Promise<void> | undefined;
  #corrupt: CorruptError | undefined;

  private constructor(
    file: HostFile,
    header: Header,
    readOnly: boolean,
    l1: Table,
    refcountTable: Table,
  ) {
    const clusterSize = 2 ** header.clusterBits;
    this.file = file;
    this.header = header;
    this.#readOnly = readOnly;
    this.#l1 = l1;
    this.#l2Units = new UnitCache(file, clusterSize);
    this.#refcountUnits = new UnitCache(file, clusterSize);
    this.owners = new Owners(clusterSize);
    this.mapping = new Mapping(file, header, l1, this.#l2Units, this.owners);
    this.refcounts = new Refcounts(
      file,
      header,
      refcountTable,
      this.#refcountUnits,
      this.owners,
      (offset, length) => this.retire(offset, length),
    );
  }

  /**
   * Opens the file of an image.
   *
   * @param path The file.
   * @param readOnly Opens it for reading only.
   * @returns The file; of the image under it only the name is known.
   * @throws {MachineError} If it cannot be opened, or is no image that can be used.
   */
  static async open(path: string, readOnly: boolean): Promise<Store> {
    const file = await HostFile.open(path, readOnly);
    try {
      let header = await readHeader(file);
      if (!readOnly && header.isCorrupt) {
        throw new CorruptError(
          "it is marked as corrupt (readonly=on opens it for reading)",
        );
      }
      const { l1Offset, l1Size } = header;
      const l1 = await readTable(
        file,
        "the L1 table",
        l1Offset,
        l1Size * TABLE_ENTRY,
      );
      const snapshots = readOnly
        ? undefined
        : await readSnapshots(file, header);
      if (snapshots !== undefined && header.isDirty) {
        await rebuildRefcounts(file, header, l1, snapshots);
        header = await readHeader(file);
      }
      const { refcountTableOffset, refcountTableClusters } = header;
      const tableBytes = refcountTableClusters * 2 ** header.clusterBits;
      const refcountTable = readOnly
        ? new Table(refcountTableOffset, new Uint8Array())
        : await readTable(
          file,
          "the refcount table",
          refcountTableOffset,
          tableBytes,
        );
      const store = new Store(file, header, readOnly, l1, refcountTable);
      if (snapshots !== undefined) store.#claim(snapshots);
      return store;
    } catch (error) {
      file.close();
      if (!(error instanceof CorruptError)) throw error;
      throw new MachineError(
        `cannot open image "${path}": ${error.message}; "qemu-img check -r all" may repair it`,
        { cause: error },
      );
    }
  }

  /** Bytes of the L2 tables in memory that a commit has to write. */
  get dirtyUnits(): number {
    return this.#l2Units.dirtyCount;
  }

  /**
   * Prepares for a change of the content.
   *
   * @throws {CorruptError} If the image turned out to be corrupt.
   */
  async beginChange(): Promise<void> {
    if (this.#corrupt !== undefined) throw this.#corrupt;
    if (this.header.autoclear === 0n) return;
    this.#autoclear ??= this.#setFeatures(AUTOCLEAR_FEATURES, 0n);
    try {
      await this.#autoclear;
    } catch (error) {
      this.#autoclear = undefined;
      throw error;
    }
  }

  /**
   * Gives up clusters, each of which loses one from its refcount after the next commit.
   *
   * @param offset Place of the first in the file.
   * @param length Bytes.
   */
  retire(offset: number, length: number): void {
    this.#retired.push({ offset, length });
  }

  /**
   * Makes all that was done before durable.
   *
   * @throws {Error} If it cannot be written; the next call tries again.
   */
  commit(): Promise<void> {
    if (this.#next !== undefined) return this.#next;
    const next = this.#running.then(() => {
      this.#next = undefined;
      return this.#commit();
    });
    this.#next = next;
    this.#running = next.catch(() => {});
    return next;
  }

  /**
   * Notes that the image is corrupt, in its header too: nothing is written from now on.
   *
   * @param error What is wrong.
   */
  async markCorrupt(error: CorruptError): Promise<void> {
    if (this.#corrupt !== undefined || this.#readOnly) return;
    this.#corrupt = error;
    if (this.header.version === 2) return;
    await this.#setFeatures(
      INCOMPATIBLE_FEATURES,
      this.header.incompatible | INCOMPATIBLE_CORRUPT,
    );
  }

  /** Writes what is left to write, and closes the file. Nothing may be under way. */
  async close(): Promise<void> {
    try {
      if (this.#readOnly) return;
      if (this.#isDirty || this.#retired.length > 0) await this.commit();
      await this.#reclaiming;
      // What was reclaimed changed refcounts.
      if (this.#isDirty) await this.commit();
    } finally {
      this.file.close();
    }
  }

  get #isDirty(): boolean {
    return this.#l1.isDirty || this.refcounts.table.isDirty ||
      this.#l2Units.dirtyCount > 0 || this.#refcountUnits.dirtyCount > 0;
  }

  async #commit(): Promise<void> {
    const l2 = this.#l2Units.takeDirty();
    const l1 = this.#l1.takeDirty();
    const counts = this.#refcountUnits.takeDirty();
    const table = this.refcounts.table;
    const blocks = table.takeDirty();
    const retired = this.#retired;
    this.#retired = [];
    let isWritten = false;
    try {
      await this.#refcountUnits.write(counts);
      if (blocks.length > 0) {
        await this.file.sync();
        await writeTable(this.file, blocks);
      }
      await this.file.sync();
      if (l2.length > 0 || l1.length > 0) {
        await this.#l2Units.write(l2);
        await writeTable(this.file, l1);
        await this.file.sync();
      }
      isWritten = true;
    } finally {
      this.#l2Units.settle(l2, isWritten);
      this.#refcountUnits.settle(counts, isWritten);
      if (!isWritten) {
        this.#l1.putBack(l1);
        table.putBack(blocks);
        this.#retired.push(...retired);
      }
    }
    if (retired.length > 0) {
      const users = [...this.pending];
      this.#reclaiming = this.#reclaiming
        .then(() => Promise.allSettled(users))
        .then(() => this.#reclaim(retired))
        // The clusters stay counted: what is lost is room in the file.
        .catch((error) => this.#noteCorrupt(error));
    }
  }

  async #noteCorrupt(error: unknown): Promise<void> {
    if (!(error instanceof CorruptError)) return;
    await this.markCorrupt(error).catch(() => {});
  }

  /** Takes one from the refcounts of clusters for each time that they were retired. */
  async #reclaim(retired: Retired[]): Promise<void> {
    const { clusterSize } = this.mapping;
    const times = new Map<number, number>();
    for (const { offset, length } of retired) {
      const first = Math.floor(offset / clusterSize);
      const end = Math.ceil((offset + length) / clusterSize);
      for (let cluster = first; cluster < end; cluster++) {
        times.set(cluster, (times.get(cluster) ?? 0) + 1);
      }
    }
    const free: number[] = [];
    for (const [cluster, count] of times) {
      const refcount = await this.refcounts.get(cluster);
      if (refcount < count) {
        throw new CorruptError(
          `the refcount of the cluster at ${
            cluster * clusterSize
          } is ${refcount}, which is less than there were users`,
        );
      }
      if (refcount === count) free.push(cluster);
      else await this.refcounts.set(cluster, refcount - count);
    }
    free.sort((a, b) => a - b);
    for (let i = 0; i < free.length;) {
      let end = i + 1;
      while (end < free.length && free[end] === free[end - 1] + 1) end++;
      const offset = free[i] * clusterSize;
      const length = (end - i) * clusterSize;
      if (offset < this.file.size) await this.file.punch(offset, length);
      this.#l2Units.drop(offset, length);
      this.#refcountUnits.drop(offset, length);
      for (; i < end; i++) await this.refcounts.set(free[i], 0);
    }
  }

  /** Notes where all tables are. */
  #claim({ snapshots, length }: SnapshotTable): void {
    const { header, owners } = this;
    const add = (what: string, offset: number, length: number) => {
      owners.check(what, offset, length);
      owners.add(what, offset, length);
    };
    add("the header", 0, this.mapping.clusterSize);
    add("the L1 table", header.l1Offset, header.l1Size * TABLE_ENTRY);
    const { table } = this.refcounts;
    add("the refcount table", table.offset, table.bytes.length);
    if (length > 0) add("the snapshot table", header.snapshotsOffset, length);
    for (const { l1Offset, l1Size } of snapshots) {
      add("the L1 table of a snapshot", l1Offset, l1Size * TABLE_ENTRY);
    }
    this.refcounts.claimBlocks();
    this.mapping.claimTables();
  }

  async #setFeatures(field: number, value: bigint): Promise<void> {
    const view = new DataView(new ArrayBuffer(8));
    view.setBigUint64(0, value);
    await this.file.write(new Uint8Array(view.buffer), field);
    await this.file.sync();
  }
}

async function readHeader(file: HostFile): Promise<Header> {
  let bytes = new Uint8Array(HEADER_BYTES);
  bytes = bytes.subarray(0, await file.read(bytes, 0));
  const clusterBytes = headerClusterBytes(bytes);
  if (clusterBytes > bytes.length) {
    bytes = new Uint8Array(clusterBytes);
    bytes = bytes.subarray(0, await file.read(bytes, 0));
  }
  return parseHeader(file.path, bytes);
}

/** Reads a table whose size was checked against what the format permits. */
async function readTable(
  file: HostFile,
  what: string,
  offset: number,
  length: number,
): Promise<Table> {
  const bytes = new Uint8Array(length);
  if (offset + length > file.size) {
    throw new CorruptError(
      `${what} is at ${offset}, ${length} bytes, but the file has ${file.size}`,
    );
  }
  await file.readPadded(bytes, offset);
  return new Table(offset, bytes);
}
