// Where the disk's clusters are in the file: L1 table, L2 tables and their entries, standard and
// extended (QEMU's docs/interop/qcow2.txt, sections "Cluster mapping" and "Extended L2 Entries").

import type { HostFile } from "../file.ts";
import { SECTOR_SIZE } from "../types.ts";
import { type Header, l1Coverage } from "./header.ts";
import { CorruptError, type Owners } from "./owners.ts";
import type { Refcounts } from "./refcounts.ts";
import { OFFSET_LOW, type Table, WORD } from "./table.ts";
import type { Unit, UnitCache } from "./units.ts";

// Bits of an entry, by word. The words of an extended entry's bitmap follow.
/** Refcount is exactly 1: the cluster, or the L2 table, may be written in place. */
export const COPIED_HIGH = 0x80000000;
export const COMPRESSED_HIGH = 0x40000000;
/** Bits 32 to 55: the high word of an offset. */
export const OFFSET_HIGH = 0x00ffffff;
/** The cluster reads as zeroes; standard entries of version 3. */
const ZERO_LOW = 1;
/** Bytes from an extended entry to the word of its "reads as zeroes" bits, and of its "allocated" bits. */
const ZERO_BITS = 8;
const ALLOCATED_BITS = 12;
const ALL_SUBCLUSTERS = 0xffffffff;
const EXTENDED_SUBCLUSTERS = 32;

/** What a part of the disk is. */
export type ExtentKind = "unallocated" | "zero" | "data" | "compressed";

/** A part of the disk that is of one kind. */
export interface Extent {
  kind: ExtentKind;
  /** Bytes. */
  length: number;
  /** Place in the file, of data. */
  host: number;
  /** Whether the cluster has the refcount 1, and may be written in place. */
  isCopied: boolean;
}

/** The place of a compressed cluster in the file. */
export interface CompressedPlace {
  offset: number;
  /** Bytes at most: whole sectors. */
  length: number;
}

/**
 * Where a compressed cluster is.
 *
 * @param view L2 entries.
 * @param at The entry's place in them.
 * @param clusterBits log2 of the bytes of a cluster.
 * @returns The place; undefined if the cluster is not compressed.
 */
export function compressedPlaceOf(
  view: DataView,
  at: number,
  clusterBits: number,
): CompressedPlace | undefined {
  if ((view.getUint32(at) & COMPRESSED_HIGH) === 0) return undefined;
  const entry = view.getBigUint64(at);
  const sectorBits = clusterBits - 8;
  const offsetBits = 62 - sectorBits;
  const offset = Number(BigInt.asUintN(offsetBits, entry));
  const sectors = Number(
    BigInt.asUintN(sectorBits, entry >> BigInt(offsetBits)),
  );
  return { offset, length: (sectors + 1) * SECTOR_SIZE - offset % SECTOR_SIZE };
}

/** The mapping of an image. */
export class Mapping {
  /** Bytes of a cluster. */
  readonly clusterSize: number;
  /** Bytes of what is allocated by itself: a cluster, or a subcluster with extended entries. */
  readonly grain: number;
  /** Entries in a unit of the cache. */
  readonly perUnit: number;
  readonly #clusterBits: number;
  readonly #entryBytes: number;
  readonly #isExtended: boolean;
  readonly #hasZeroFlag: boolean;
  readonly #tableEntries: number;
  readonly #file: HostFile;
  readonly #units: UnitCache;
  readonly #owners: Owners;
  readonly #l1: Table;
  readonly #making = new Map<number, Promise<void>>();

  /**
   * @param file The image.
   * @param header Its header.
   * @param l1 Its L1 table.
   * @param units Where L2 tables are kept.
   * @param owners Where the image's tables are.
   */
  constructor(
    file: HostFile,
    header: Header,
    l1: Table,
    units: UnitCache,
    owners: Owners,
  ) {
    this.#file = file;
    this.#units = units;
    this.#owners = owners;
    this.#l1 = l1;
    this.#isExtended = header.hasExtendedL2;
    this.#hasZeroFlag = header.version === 3 && !this.#isExtended;
    this.#clusterBits = header.clusterBits;
    this.#entryBytes = this.#isExtended ? 16 : 8;
    this.clusterSize = 2 ** header.clusterBits;
    this.grain = this.#isExtended
      ? this.clusterSize / EXTENDED_SUBCLUSTERS
      : this.clusterSize;
    this.perUnit = units.unitBytes / this.#entryBytes;
    this.#tableEntries = this.clusterSize / this.#entryBytes;
  }

  /** Bytes of the disk that one L2 table stands for. */
  get coverage(): number {
    return l1Coverage(this.#clusterBits, this.#isExtended);
  }

  /**
   * Checks the places of all L2 tables, and notes them as tables.
   *
   * @throws {CorruptError} If one is where it cannot be.
   */
  claimTables(): void {
    for (let index = 0; index < this.#l1.length; index++) {
      const offset = this.#tableAt(index);
      if (offset === 0) continue;
      const what = "an L2 table";
      this.#checkTable(index, offset);
      this.#owners.check(what, offset, this.clusterSize);
      this.#owners.add(what, offset, this.clusterSize);
    }
  }

  /**
   * The unit with the entry of a cluster.
   *
   * @param cluster Number of the cluster on the disk.
   * @returns The unit, at once where it is in memory; undefined where there is no L2 table.
   */
  unitOf(cluster: number): Unit | Promise<Unit> | undefined {
    const index = Math.floor(cluster / this.#tableEntries);
    const table = this.#tableAt(index);
    if (table === 0) return undefined;
    this.#checkTable(index, table);
    return this.#units.get(
      table + cluster % this.#tableEntries * this.#entryBytes,
    );
  }

  /** Whether a cluster's L2 table is there. */
  hasTable(cluster: number): boolean {
    return this.#tableAt(Math.floor(cluster / this.#tableEntries)) !== 0;
  }

  /** Whether a cluster's L2 table is there, and may be written. */
  ownsTable(cluster: number): boolean {
    const high = this.#l1.high(Math.floor(cluster / this.#tableEntries));
    return (high & COPIED_HIGH) !== 0;
  }

  /**
   * Makes a cluster's L2 table, or a copy of one that a snapshot has too.
   *
   * @param cluster Number of the cluster on the disk.
   * @param refcounts Where the table is allocated.
   * @param retire Called for the table that was copied.
   */
  ownTable(
    cluster: number,
    refcounts: Refcounts,
    retire: (offset: number, length: number) => void,
  ): Promise<void> {
    const index = Math.floor(cluster / this.#tableEntries);
    let making = this.#making.get(index);
    if (making === undefined) {
      making = this.#makeTable(index, refcounts, retire)
        .finally(() => this.#making.delete(index));
      this.#making.set(index, making);
    }
    return making;
  }

  /**
   * What the disk is from a byte on.
   *
   * @param unit The unit with its entry.
   * @param offset The byte.
   * @param length Bytes at most.
   * @returns The part, which does not go beyond the unit.
   * @throws {CorruptError} If the entry is invalid.
   */
  extent(unit: Unit, offset: number, length: number): Extent {
    const inCluster = offset % this.clusterSize;
    const cluster = (offset - inCluster) / this.clusterSize;
    const index = cluster % this.perUnit;
    const found = this.#part(unit, index, inCluster, cluster);
    for (
      let next = index + 1;
      found.length < length && next < this.perUnit &&
      found.kind !== "compressed" &&
      (inCluster + found.length) % this.clusterSize === 0;
      next++
    ) {
      const part = this.#part(unit, next, 0, cluster + next - index);
      if (
        part.kind !== found.kind || part.isCopied !== found.isCopied ||
        (part.kind === "data" && part.host !== found.host + found.length)
      ) break;
      found.length += part.length;
    }
    found.length = Math.min(found.length, length);
    return found;
  }

  /** Place of the file's cluster that a cluster of the disk has for itself, with data or not; 0 if it has none. */
  ownCluster(unit: Unit, cluster: number): number {
    const at = cluster % this.perUnit * this.#entryBytes;
    const high = unit.view.getUint32(at);
    if ((high & COMPRESSED_HIGH) !== 0 || (high & COPIED_HIGH) === 0) return 0;
    return this.#hostOf(unit.view, at, cluster);
  }

  /** Place of the file's cluster that a cluster of the disk uses, shared or not; 0 if it has none. */
  usedCluster(unit: Unit, cluster: number): number {
    const at = cluster % this.perUnit * this.#entryBytes;
    const high = unit.view.getUint32(at);
    if ((high & COMPRESSED_HIGH) !== 0) return 0;
    return this.#hostOf(unit.view, at, cluster);
  }

  /** Where a compressed cluster is; undefined if the cluster is not compressed. */
  compressedPlace(unit: Unit, cluster: number): CompressedPlace | undefined {
    const at = cluster % this.perUnit * this.#entryBytes;
    return compressedPlaceOf(unit.view, at, this.#clusterBits);
  }

  /**
   * Lets clusters next to each other be data.
   *
   * @param unit The unit with the entry.
   * @param cluster Number of the cluster on the disk.
   * @param host Place of the file's cluster.
   * @param from First byte in the cluster that is data.
   * @param to End of the data in the cluster; what is neither was and stays unallocated or zero.
   */
  setData(
    unit: Unit,
    cluster: number,
    host: number,
    from: number,
    to: number,
  ): void {
    const { view } = unit;
    const at = cluster % this.perUnit * this.#entryBytes;
    const isCompressed = (view.getUint32(at) & COMPRESSED_HIGH) !== 0;
    view.setUint32(at, Math.floor(host / WORD) | COPIED_HIGH);
    view.setUint32(at + 4, host % WORD);
    if (this.#isExtended) {
      const first = Math.floor(from / this.grain);
      const count = Math.ceil(to / this.grain) - first;
      const bits = count === EXTENDED_SUBCLUSTERS
        ? ALL_SUBCLUSTERS
        : (1 << count) - 1 << first;
      // The bitmap of a compressed cluster has no meaning.
      const allocated = isCompressed ? 0 : view.getUint32(at + ALLOCATED_BITS);
      const zero = isCompressed ? 0 : view.getUint32(at + ZERO_BITS);
      view.setUint32(at + ALLOCATED_BITS, allocated | bits);
      view.setUint32(at + ZERO_BITS, zero & ~bits);
    }
    this.#units.markDirty(unit);
  }

  /**
   * Lets a cluster read as zeroes, or be unallocated in an image that cannot tell zeroes.
   *
   * @param unit The unit with the entry.
   * @param cluster Number of the cluster on the disk.
   * @param host Place of the file's cluster that it keeps; 0 for none.
   */
  setZero(unit: Unit, cluster: number, host: number): void {
    const { view } = unit;
    const at = cluster % this.perUnit * this.#entryBytes;
    const copied = host === 0 ? 0 : COPIED_HIGH;
    view.setUint32(at, Math.floor(host / WORD) | copied);
    view.setUint32(at + 4, host % WORD | (this.#hasZeroFlag ? ZERO_LOW : 0));
    if (this.#isExtended) {
      view.setUint32(at + ZERO_BITS, ALL_SUBCLUSTERS);
      view.setUint32(at + ALLOCATED_BITS, 0);
    }
    this.#units.markDirty(unit);
  }

  #tableAt(index: number): number {
    return (this.#l1.high(index) & OFFSET_HIGH) * WORD +
      ((this.#l1.low(index) & OFFSET_LOW) >>> 0);
  }

  #checkTable(index: number, offset: number): void {
    if (offset % this.clusterSize !== 0 || offset >= this.#file.size) {
      throw new CorruptError(
        `L2 table ${index} is at ${offset}, which is no cluster of the file`,
      );
    }
  }

  #hostOf(view: DataView, at: number, cluster: number): number {
    const host = (view.getUint32(at) & OFFSET_HIGH) * WORD +
      ((view.getUint32(at + 4) & OFFSET_LOW) >>> 0);
    if (host % this.clusterSize !== 0) {
      throw new CorruptError(
        `cluster ${cluster} is at ${host}, which is no cluster of the file`,
      );
    }
    return host;
  }

  /** The rest of a cluster from a byte on, as far as it is of one kind. */
  #part(
    { view }: Unit,
    index: number,
    inCluster: number,
    cluster: number,
  ): Extent {
    const at = index * this.#entryBytes;
    const high = view.getUint32(at);
    const isCopied = (high & COPIED_HIGH) !== 0;
    const length = this.clusterSize - inCluster;
    if ((high & COMPRESSED_HIGH) !== 0) {
      return { kind: "compressed", length, host: 0, isCopied: false };
    }
    const host = this.#hostOf(view, at, cluster);
    if (this.#isExtended) {
      return this.#extendedPart(view, at, inCluster, host, isCopied);
    }
    const kind: ExtentKind =
      this.#hasZeroFlag && (view.getUint32(at + 4) & ZERO_LOW) !== 0
        ? "zero"
        : host === 0
        ? "unallocated"
        : "data";
    return { kind, length, host: host + inCluster, isCopied };
  }

  #extendedPart(
    view: DataView,
    at: number,
    inCluster: number,
    host: number,
    isCopied: boolean,
  ): Extent {
    const allocated = view.getUint32(at + ALLOCATED_BITS);
    const zero = view.getUint32(at + ZERO_BITS);
    if ((allocated & zero) !== 0 || (allocated !== 0 && host === 0)) {
      throw new CorruptError("an extended L2 entry contradicts itself");
    }
    const kindOf = (sub: number): ExtentKind =>
      allocated >>> sub & 1
        ? "data"
        : zero >>> sub & 1
        ? "zero"
        : "unallocated";
    const first = Math.floor(inCluster / this.grain);
    const kind = kindOf(first);
    let end = first + 1;
    while (end < EXTENDED_SUBCLUSTERS && kindOf(end) === kind) end++;
    const length = end * this.grain - inCluster;
    return { kind, length, host: host + inCluster, isCopied };
  }

  async #makeTable(
    index: number,
    refcounts: Refcounts,
    retire: (offset: number, length: number) => void,
  ): Promise<void> {
    const old = this.#tableAt(index);
    const bytes = new Uint8Array(this.clusterSize);
    if (old !== 0) {
      this.#checkTable(index, old);
      await this.#file.readPadded(bytes, old);
    }
    const { offset } = await refcounts.allocate(1);
    try {
      this.#units.drop(offset, this.clusterSize);
      await this.#file.write(bytes, offset);
    } catch (error) {
      retire(offset, this.clusterSize);
      throw error;
    }
    this.#owners.add("an L2 table", offset, this.clusterSize);
    const high = Math.floor(offset / WORD) | COPIED_HIGH;
    this.#l1.set(index, high, offset % WORD);
    if (old !== 0) {
      this.#owners.remove(old, this.clusterSize);
      retire(old, this.clusterSize);
    }
  }
}
