// New refcounts for an image whose own may be wrong: one with lazy refcounts that was not closed
// (QEMU's docs/interop/qcow2.txt, section "Header", dirty bit).
//
// Everything that the tables mention is counted. The new refcounts go behind the end of the file, and
// one write to the header then puts them in the place of the old ones and ends the dirty state.

import type { HostFile } from "../file.ts";
import {
  AUTOCLEAR_FEATURES,
  type Header,
  INCOMPATIBLE_DIRTY,
  INCOMPATIBLE_FEATURES,
  MAX_REFCOUNT_TABLE_BYTES,
  REFCOUNT_TABLE_OFFSET,
  TABLE_ENTRY,
} from "./header.ts";
import {
  COMPRESSED_HIGH,
  compressedPlaceOf,
  COPIED_HIGH,
  OFFSET_HIGH,
} from "./mapping.ts";
import { CorruptError } from "./owners.ts";
import { setRefcount } from "./refcounts.ts";
import type { SnapshotTable } from "./snapshots.ts";
import { OFFSET_LOW, Table, WORD } from "./table.ts";

/** Clusters of a file, and bytes of its L2 tables, that are counted: a larger image is left to qemu-img. */
const MAX_CLUSTERS = 2 ** 26;
const MAX_L2_BYTES = 2 ** 30;
/** More users than this are not told apart. */
const MAX_COUNT = 2 ** 32 - 1;

/** Counts the users of clusters. */
class Counter {
  readonly counts: Uint32Array;
  readonly #clusterSize: number;

  constructor(clusters: number, clusterSize: number) {
    this.counts = new Uint32Array(clusters);
    this.#clusterSize = clusterSize;
  }

  /** Counts users of a range of the file. */
  add(what: string, offset: number, length: number, users = 1): void {
    const first = Math.floor(offset / this.#clusterSize);
    const end = Math.ceil((offset + length) / this.#clusterSize);
    if (end > this.counts.length) {
      throw new CorruptError(`${what} is at ${offset}, behind the file's end`);
    }
    for (let cluster = first; cluster < end; cluster++) {
      this.counts[cluster] = Math.min(
        this.counts[cluster] + users,
        MAX_COUNT,
      );
    }
  }

  /** Users of the cluster at a place of the file. */
  at(offset: number): number {
    return this.counts[offset / this.#clusterSize];
  }
}

/**
 * Counts what uses each cluster of an image, and gives it refcounts that say so.
 *
 * @param file The image, open for writing.
 * @param header Its header.
 * @param l1 Its L1 table.
 * @param snapshotTable The snapshots inside it.
 * @throws {CorruptError} If its tables contradict each other, or are too large for this.
 */
export async function rebuildRefcounts(
  file: HostFile,
  header: Header,
  l1: Table,
  snapshotTable: SnapshotTable,
): Promise<void> {
  const clusterSize = 2 ** header.clusterBits;
  const clusters = Math.ceil(file.size / clusterSize);
  if (clusters > MAX_CLUSTERS || file.isDevice) {
    throw new CorruptError("its refcounts cannot be repaired here");
  }
  const counter = new Counter(clusters, clusterSize);
  const tables = [l1];
  counter.add("the header", 0, clusterSize);
  counter.add("the L1 table", l1.offset, l1.bytes.length);
  const { snapshots, length } = snapshotTable;
  if (length > 0) {
    counter.add("the snapshot table", header.snapshotsOffset, length);
  }
  for (const { l1Offset, l1Size } of snapshots) {
    const bytes = new Uint8Array(l1Size * TABLE_ENTRY);
    counter.add("the L1 table of a snapshot", l1Offset, bytes.length);
    await file.readPadded(bytes, l1Offset);
    tables.push(new Table(l1Offset, bytes));
  }
  const taken: number[] = [];
  counter.counts.forEach((count, cluster) => {
    if (count > 0) taken.push(cluster);
  });
  await countTables(file, header, counter, tables);
  if (taken.some((cluster) => counter.counts[cluster] !== 1)) {
    throw new CorruptError("something else is where one of its tables is");
  }
  await checkCopied(file, header, counter, l1);
  await writeRefcounts(file, header, counter.counts);
}

/** Place of an L2 table. */
function tableAt(l1: Table, index: number): number {
  return (l1.high(index) & OFFSET_HIGH) * WORD +
    ((l1.low(index) & OFFSET_LOW) >>> 0);
}

/** Counts the L2 tables, and what their entries mention. */
async function countTables(
  file: HostFile,
  header: Header,
  counter: Counter,
  l1Tables: Table[],
): Promise<void> {
  const clusterSize = 2 ** header.clusterBits;
  // Snapshots share tables: each of them is read once.
  const users = new Map<number, number>();
  for (const l1 of l1Tables) {
    for (let index = 0; index < l1.length; index++) {
      const offset = tableAt(l1, index);
      if (offset === 0) continue;
      if (offset % clusterSize !== 0) {
        throw new CorruptError(
          `an L2 table is at ${offset}, which is no cluster`,
        );
      }
      counter.add("an L2 table", offset, clusterSize);
      users.set(offset, (users.get(offset) ?? 0) + 1);
    }
  }
  if (users.size * clusterSize > MAX_L2_BYTES) {
    throw new CorruptError("its refcounts cannot be repaired here");
  }
  const what = "the disk's content";
  for (const [offset, count] of users) {
    for await (const { view, at, host } of entriesOf(file, header, offset)) {
      const compressed = compressedPlaceOf(view, at, header.clusterBits);
      if (compressed !== undefined) {
        counter.add(what, compressed.offset, compressed.length, count);
      } else if (host !== 0) counter.add(what, host, clusterSize, count);
    }
  }
}

/** Checks that what may be written in place has one user. */
async function checkCopied(
  file: HostFile,
  header: Header,
  counter: Counter,
  l1: Table,
): Promise<void> {
  const check = (high: number, offset: number) => {
    if ((high & COPIED_HIGH) === 0 || (high & COMPRESSED_HIGH) !== 0) return;
    if (offset !== 0 && counter.at(offset) !== 1) {
      throw new CorruptError(
        `the cluster at ${offset} is used more than once, but is not marked so`,
      );
    }
  };
  for (let index = 0; index < l1.length; index++) {
    const table = tableAt(l1, index);
    if (table === 0) continue;
    check(l1.high(index), table);
    for await (const { view, at, host } of entriesOf(file, header, table)) {
      check(view.getUint32(at), host);
    }
  }
}

/** The entries of an L2 table; `host` is the place of a cluster that is not compressed. */
async function* entriesOf(
  file: HostFile,
  header: Header,
  table: number,
): AsyncGenerator<{ view: DataView; at: number; host: number }> {
  const clusterSize = 2 ** header.clusterBits;
  const bytes = new Uint8Array(clusterSize);
  await file.readPadded(bytes, table);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < clusterSize; at += header.hasExtendedL2 ? 16 : 8) {
    const high = view.getUint32(at);
    const host = (high & OFFSET_HIGH) * WORD +
      ((view.getUint32(at + 4) & OFFSET_LOW) >>> 0);
    const isCompressed = (high & COMPRESSED_HIGH) !== 0;
    if (!isCompressed && host % clusterSize !== 0) {
      throw new CorruptError(`a cluster is at ${host}, which is no cluster`);
    }
    yield { view, at, host };
  }
}

/** Writes refcounts behind the end of the file, and names them in the header. */
async function writeRefcounts(
  file: HostFile,
  header: Header,
  counts: Uint32Array,
): Promise<void> {
  const clusterSize = 2 ** header.clusterBits;
  const order = header.refcountOrder;
  const perBlock = clusterSize * 8 / 2 ** order;
  const greatest = 2 ** (2 ** order) - 1;
  let blocks = 0;
  let tableClusters = 0;
  let total = 0;
  for (let needed = 1; needed > blocks;) {
    blocks = needed;
    tableClusters = Math.ceil(blocks * TABLE_ENTRY / clusterSize);
    total = counts.length + blocks + tableClusters;
    needed = Math.ceil(total / perBlock);
  }
  if (tableClusters * clusterSize > MAX_REFCOUNT_TABLE_BYTES) {
    throw new CorruptError("its refcounts cannot be repaired here");
  }
  const start = counts.length * clusterSize;
  const table = new DataView(new ArrayBuffer(tableClusters * clusterSize));
  for (let i = 0; i < blocks; i++) {
    const bytes = new Uint8Array(clusterSize);
    const view = new DataView(bytes.buffer);
    const first = i * perBlock;
    for (let at = 0; at < perBlock && first + at < total; at++) {
      const cluster = first + at;
      const count = cluster < counts.length ? counts[cluster] : 1;
      if (count > greatest) {
        throw new CorruptError(
          `the cluster at ${
            cluster * clusterSize
          } has more users than can be counted`,
        );
      }
      setRefcount(view, order, at, count);
    }
    const offset = start + i * clusterSize;
    await file.write(bytes, offset);
    table.setBigUint64(i * TABLE_ENTRY, BigInt(offset));
  }
  const tableOffset = start + blocks * clusterSize;
  await file.write(new Uint8Array(table.buffer), tableOffset);
  await file.sync();

  // All fields are in one sector: they change together.
  const end = AUTOCLEAR_FEATURES + 8;
  const fields = new Uint8Array(end - REFCOUNT_TABLE_OFFSET);
  await file.read(fields, REFCOUNT_TABLE_OFFSET);
  const view = new DataView(fields.buffer);
  view.setBigUint64(0, BigInt(tableOffset));
  view.setUint32(8, tableClusters);
  view.setBigUint64(
    INCOMPATIBLE_FEATURES - REFCOUNT_TABLE_OFFSET,
    header.incompatible & ~INCOMPATIBLE_DIRTY,
  );
  // What it is for was not counted.
  view.setBigUint64(AUTOCLEAR_FEATURES - REFCOUNT_TABLE_OFFSET, 0n);
  await file.write(fields, REFCOUNT_TABLE_OFFSET);
  await file.sync();
}
