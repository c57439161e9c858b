// A qcow2 image as a disk: QEMU's docs/interop/qcow2.txt. The order of writes is in store.ts.

import { dirname, resolve } from "node:path";
import { MachineError } from "../../../core/plugin.ts";
import { RawBlock } from "../raw.ts";
import { type BlockImage, checkRange } from "../types.ts";
import { decompress } from "./compressed.ts";
import type { Backing } from "./header.ts";
import type { CompressedPlace, Extent, Mapping } from "./mapping.ts";
import { CorruptError } from "./owners.ts";
import { RequestQueue } from "./requests.ts";
import { Store } from "./store.ts";
import type { Unit } from "./units.ts";

/** Images on top of each other at most. */
const MAX_CHAIN = 512;
/** Units of L2 tables that may wait for a commit before a write has to wait for it. */
const MAX_DIRTY_UNITS = 256;
/** Decompressed clusters that are kept: a guest reads them in parts. */
const KEPT_CLUSTERS = 8;
/** Bytes of zeroes written at a time where the mapping cannot say it. */
const ZERO_BLOCK = 1024 * 1024;
/** A name with a protocol, as QEMU tells it: what is before a colon has no slash. */
const PROTOCOL = /^([^/:]+):/;

/** A qcow2 image, with the images under it. */
export class Qcow2Block implements BlockImage {
  /** Bytes of the disk. */
  readonly size: number;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  readonly #path: string;
  readonly #store: Store;
  readonly #map: Mapping;
  readonly #backing: BlockImage | undefined;
  readonly #queue = new RequestQueue();
  /** Requests that have not been answered. */
  readonly #requests = new Set<Promise<unknown>>();
  /** Clusters of the disk that a write is allocating, with what to wait for. */
  readonly #claims = new Map<number, Promise<void>>();
  readonly #decompressed = new Map<number, Promise<Uint8Array>>();
  #closed: Promise<void> | undefined;

  private constructor(
    path: string,
    store: Store,
    readOnly: boolean,
    backing: BlockImage | undefined,
  ) {
    this.#path = path;
    this.#store = store;
    this.#map = store.mapping;
    this.#backing = backing;
    this.size = store.header.size;
    this.readOnly = readOnly;
  }

  /**
   * Opens an image, and the images under it for reading.
   *
   * @param path The file.
   * @param readOnly Opens it for reading only; writes are refused.
   * @returns The image.
   * @throws {MachineError} If one of the files cannot be opened or is no image that can be used; the message names it.
   *
   * @example
   * ```ts ignore
   * const disk = await Qcow2Block.open("disk.qcow2");
   * await disk.write(0, new Uint8Array(512).fill(1));
   * await disk.flush();
   * await disk.close();
   * ```
   */
  static open(path: string, readOnly = false): Promise<Qcow2Block> {
    return Qcow2Block.#open(path, readOnly, new Set());
  }

  static async #open(
    path: string,
    readOnly: boolean,
    above: Set<string>,
  ): Promise<Qcow2Block> {
    const store = await Store.open(path, readOnly);
    try {
      if (above.has(store.file.identity)) {
        throw new MachineError(`image "${path}" is under itself`);
      }
      above.add(store.file.identity);
      if (above.size > MAX_CHAIN) {
        throw new MachineError(
          `image "${path}" is under ${MAX_CHAIN} others, which is too many`,
        );
      }
      const { backing } = store.header;
      const under = backing && await openBacking(path, backing, above);
      return new Qcow2Block(path, store, readOnly, under);
    } catch (error) {
      store.file.close();
      throw error;
    }

    async function openBacking(
      overlay: string,
      backing: Backing,
      above: Set<string>,
    ): Promise<BlockImage> {
      const { path, format } = await findBacking(overlay, backing);
      try {
        return format === "raw"
          ? await RawBlock.open(path, true)
          : await Qcow2Block.#open(path, true, above);
      } catch (cause) {
        throw new MachineError(
          `${(cause as Error).message} (the base of "${overlay}")`,
          { cause },
        );
      }
    }
  }

  /** Reads. */
  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#run(
      "read",
      offset,
      target.length,
      () => this.#read(offset, target),
    );
  }

  /** Writes. `source` must not change until it has finished. */
  write(offset: number, source: Uint8Array): Promise<void> {
    return this.#run(
      "write",
      offset,
      source.length,
      () => this.#write(offset, source),
    );
  }

  /** Makes what was written durable: content and tables. */
  flush(): Promise<void> {
    return this.#run(
      "flush",
      0,
      0,
      () => this.readOnly ? Promise.resolve() : this.#store.commit(),
    );
  }

  /**
   * Tells whether the beginning of a part of the disk is in one of the uppermost files, or only under them.
   *
   * @param offset First byte.
   * @param length Bytes.
   * @param files How many files count: 1 is this one alone.
   * @returns Whether it is, and for how many bytes that holds.
   */
  async upperPart(
    offset: number,
    length: number,
    files: number,
  ): Promise<{ isUpper: boolean; length: number }> {
    checkRange(this.size, offset, length);
    const found = await this.#find(offset, length);
    const backing = this.#backing;
    if (found.kind !== "unallocated") {
      return { isUpper: true, length: found.length };
    }
    if (
      files > 1 && backing instanceof Qcow2Block && offset < backing.size
    ) {
      const part = Math.min(found.length, backing.size - offset);
      return await backing.upperPart(offset, part, files - 1);
    }
    return { isUpper: false, length: found.length };
  }

  /** Gives up the clusters that are in the range as a whole. */
  discard(offset: number, length: number): Promise<void> {
    return this.#run("discard", offset, length, async () => {
      const { first, end } = this.#wholeClusters(offset, length);
      await this.#clear(first, end, "discard");
    });
  }

  /** Zeroes a range, by the tables where it is whole clusters. */
  writeZeroes(offset: number, length: number, unmap: boolean): Promise<void> {
    return this.#run("write zeroes", offset, length, async () => {
      const { first, end } = this.#wholeClusters(offset, length);
      const how = unmap ? "unmap" : "zero";
      // An image of version 2 cannot tell zeroes, but for what is nowhere.
      if (first >= end || !this.#canClear(how)) {
        return await this.#fillZeroes(offset, offset + length);
      }
      const { clusterSize } = this.#map;
      await this.#fillZeroes(offset, first * clusterSize);
      await this.#clear(first, end, how);
      await this.#fillZeroes(
        Math.min(end * clusterSize, offset + length),
        offset + length,
      );
    });
  }

  /** Finishes what is under way, writes the tables, and lets go of the files. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await Promise.allSettled(this.#requests);
    try {
      await this.#store.close();
    } finally {
      await this.#backing?.close();
    }
  }

  async #run(
    what: string,
    offset: number,
    length: number,
    work: () => Promise<void>,
  ): Promise<void> {
    checkRange(this.size, offset, length);
    const say = (why: string) =>
      `cannot ${what} image "${this.#path}" at byte ${offset}: ${why}`;
    if (this.#closed !== undefined) throw new Error(say("it is closed"));
    const isChange = what !== "read" && what !== "flush";
    if (this.readOnly && isChange) throw new Error(say("it is read-only"));
    const request = this.#answer(work, isChange, what !== "flush");
    this.#requests.add(request);
    try {
      await request;
    } catch (cause) {
      throw new Error(say((cause as Error).message), { cause });
    } finally {
      this.#requests.delete(request);
    }
  }

  /** Does a request when it is its turn. */
  async #answer(
    work: () => Promise<void>,
    isChange: boolean,
    usesClusters: boolean,
  ): Promise<void> {
    const turn = this.#queue.acquire();
    if (turn !== undefined) await turn;
    const { pending } = this.#store;
    let running: Promise<void> | undefined;
    try {
      if (isChange) {
        await this.#store.beginChange();
        if (this.#store.dirtyUnits > MAX_DIRTY_UNITS) {
          await this.#store.commit();
        }
      }
      running = work();
      if (usesClusters) pending.add(running);
      await running;
    } catch (error) {
      if (isChange && error instanceof CorruptError) {
        await this.#store.markCorrupt(error);
      }
      throw error;
    } finally {
      if (running !== undefined) pending.delete(running);
      this.#queue.release();
    }
  }

  async #read(offset: number, target: Uint8Array): Promise<void> {
    // All parts are read at the same time, and all have ended before this does.
    const parts: Promise<void>[] = [];
    for (let done = 0; done < target.length;) {
      const at = offset + done;
      try {
        const found = this.#find(at, target.length - done);
        const extent = found instanceof Promise ? await found : found;
        const part = target.subarray(done, done + extent.length);
        const reading = this.#readExtent(extent, at, part);
        // It may fail while others are looked for; all are waited for below.
        reading.catch(() => {});
        parts.push(reading);
        done += extent.length;
      } catch (error) {
        parts.push(Promise.reject(error));
        break;
      }
    }
    if (parts.length === 1) return await parts[0];
    for (const result of await Promise.allSettled(parts)) {
      if (result.status === "rejected") throw result.reason;
    }
  }

  /** What the disk is from a byte on. */
  #find(offset: number, length: number): Found | Promise<Found> {
    const cluster = Math.floor(offset / this.#map.clusterSize);
    const unit = this.#map.unitOf(cluster);
    if (unit instanceof Promise) {
      return unit.then((unit) => this.#foundIn(unit, offset, length, cluster));
    }
    if (unit !== undefined) {
      return this.#foundIn(unit, offset, length, cluster);
    }
    const { coverage } = this.#map;
    return {
      kind: "unallocated",
      length: Math.min(length, coverage - offset % coverage),
      host: 0,
      isCopied: false,
    };
  }

  #foundIn(unit: Unit, offset: number, length: number, cluster: number): Found {
    const found: Found = this.#map.extent(unit, offset, length);
    if (found.kind === "compressed") {
      found.place = this.#map.compressedPlace(unit, cluster);
    }
    return found;
  }

  #readExtent(
    extent: Found,
    offset: number,
    target: Uint8Array,
  ): Promise<void> {
    switch (extent.kind) {
      case "data":
        this.#checkHost(extent);
        return this.#store.file.readPadded(target, extent.host);
      case "compressed":
        return this.#readCompressed(extent.place!, offset, target);
      case "unallocated":
        if (this.#backing !== undefined && offset < this.#backing.size) {
          return this.#readBacking(this.#backing, offset, target);
        }
    }
    target.fill(0);
    return Promise.resolve();
  }

  #readBacking(
    backing: BlockImage,
    offset: number,
    target: Uint8Array,
  ): Promise<void> {
    const length = Math.min(target.length, backing.size - offset);
    target.fill(0, length);
    return backing.read(offset, target.subarray(0, length));
  }

  async #readCompressed(
    place: CompressedPlace,
    offset: number,
    target: Uint8Array,
  ): Promise<void> {
    const cluster = await this.#decompress(place);
    const start = offset % this.#map.clusterSize;
    target.set(cluster.subarray(start, start + target.length));
  }

  #decompress({ offset, length }: CompressedPlace): Promise<Uint8Array> {
    const kept = this.#decompressed;
    let cluster = kept.get(offset);
    if (cluster === undefined) {
      const { file, header } = this.#store;
      if (offset >= file.size) {
        throw new CorruptError(
          `compressed data are at byte ${offset} of the file, which has ${file.size}`,
        );
      }
      cluster = (async () => {
        const bytes = new Uint8Array(length);
        const count = await file.read(bytes, offset);
        return await decompress(
          header.compression,
          bytes.subarray(0, count),
          this.#map.clusterSize,
        );
      })();
      cluster.catch(() => kept.delete(offset));
    }
    // The one that was used last is the last.
    kept.delete(offset);
    kept.set(offset, cluster);
    if (kept.size > KEPT_CLUSTERS) kept.delete(kept.keys().next().value!);
    return cluster;
  }

  /** Whether data are where the file has something. */
  #checkHost({ host }: Extent): void {
    const { clusterSize } = this.#map;
    if (host - host % clusterSize >= this.#store.file.size) {
      throw new CorruptError(
        `its data are at byte ${host} of the file, which has ${this.#store.file.size}`,
      );
    }
  }

  async #write(offset: number, source: Uint8Array): Promise<void> {
    for (let done = 0; done < source.length;) {
      done += await this.#writePart(offset + done, source.subarray(done));
    }
  }

  /** Writes what can be written at once; returns its length, 0 if it had to wait for another write. */
  async #writePart(offset: number, source: Uint8Array): Promise<number> {
    const { file, owners } = this.#store;
    const cluster = Math.floor(offset / this.#map.clusterSize);
    const unit = await this.#ownUnit(cluster);
    const extent = this.#map.extent(unit, offset, source.length);
    if (extent.kind === "data" && extent.isCopied) {
      this.#checkHost(extent);
      owners.check("the disk's content", extent.host, extent.length);
      await file.write(source.subarray(0, extent.length), extent.host);
      return extent.length;
    }
    const busy = this.#claims.get(cluster);
    if (busy !== undefined) {
      await busy;
      return 0;
    }
    const length = this.#map.ownCluster(unit, cluster) === 0
      ? source.length
      // Parts that have data can be written by others meanwhile.
      : extent.length;
    return await this.#writeNew(
      unit,
      cluster,
      offset,
      source.subarray(0, length),
    );
  }

  /** The unit with the entry of a cluster that is going to be changed. */
  async #ownUnit(cluster: number): Promise<Unit> {
    if (!this.#map.ownsTable(cluster)) {
      await this.#map.ownTable(
        cluster,
        this.#store.refcounts,
        (offset, length) => this.#store.retire(offset, length),
      );
    }
    const unit = this.#map.unitOf(cluster);
    if (unit === undefined) throw new CorruptError("an L2 table is missing");
    return await unit;
  }

  /** Writes to clusters that have no place in the file yet, or not all of one; returns the length. */
  async #writeNew(
    unit: Unit,
    cluster: number,
    offset: number,
    source: Uint8Array,
  ): Promise<number> {
    const { clusterSize } = this.#map;
    const own = this.#map.ownCluster(unit, cluster);
    const end = Math.ceil((offset + source.length) / clusterSize);
    let count = 1;
    while (
      own === 0 && cluster + count < end &&
      (cluster + count) % this.#map.perUnit !== 0 &&
      !this.#claims.has(cluster + count) &&
      this.#map.ownCluster(unit, cluster + count) === 0
    ) count++;

    const { promise, resolve } = Promise.withResolvers<void>();
    const claimed = count;
    for (let i = 0; i < claimed; i++) this.#claims.set(cluster + i, promise);
    try {
      let host = own;
      let isFresh = false;
      if (own === 0) {
        const allocation = await this.#store.refcounts.allocate(count);
        ({ offset: host, count, isFresh } = allocation);
      } else this.#checkOwn(own);
      const limit = (cluster + count) * clusterSize - offset;
      const data = source.subarray(0, limit);
      try {
        await this.#fill(cluster, count, host, isFresh, offset, data);
      } catch (error) {
        if (own === 0) this.#store.retire(host, count * clusterSize);
        throw error;
      }
      return data.length;
    } finally {
      for (let i = 0; i < claimed; i++) this.#claims.delete(cluster + i);
      resolve();
    }
  }

  #checkOwn(host: number): void {
    if (host >= this.#store.file.size) {
      throw new CorruptError(
        `a cluster is at byte ${host} of the file, which has ${this.#store.file.size}`,
      );
    }
    this.#store.owners.check(
      "the disk's content",
      host,
      this.#map.clusterSize,
    );
  }

  /** Writes data to the clusters from `host` on, with what was around them on the disk, and maps them. */
  async #fill(
    cluster: number,
    count: number,
    host: number,
    isFresh: boolean,
    offset: number,
    data: Uint8Array,
  ): Promise<void> {
    const map = this.#map;
    const base = cluster * map.clusterSize;
    const end = offset + data.length;
    const last = cluster + count - 1;
    let unit = await this.#ownUnit(cluster);
    const hasContent = (cluster: number) =>
      map.compressedPlace(unit, cluster) !== undefined ||
      (map.ownCluster(unit, cluster) === 0 &&
        map.usedCluster(unit, cluster) !== 0);
    const grain = (cluster: number) =>
      hasContent(cluster) ? map.clusterSize : map.grain;
    const headGrain = grain(cluster);
    const tailGrain = grain(last);
    const start = offset - offset % headGrain;
    const stop = Math.ceil(end / tailGrain) * tailGrain;
    // What was never written in the file reads as zeroes already.
    const isBlank = (from: number, to: number) =>
      from === to || (isFresh && this.#isZero(unit, from, to));
    const first = isBlank(start, offset) ? offset : start;
    const final = isBlank(end, stop) ? end : stop;
    let bytes = data;
    if (first < offset || final > end) {
      bytes = new Uint8Array(final - first);
      bytes.set(data, offset - first);
      await Promise.all([
        this.#readInside(first, bytes.subarray(0, offset - first)),
        this.#readInside(end, bytes.subarray(end - first)),
      ]);
    }
    await this.#store.file.write(bytes, host + first - base);

    unit = await this.#ownUnit(cluster);
    for (let i = 0; i < count; i++) {
      const at = base + i * map.clusterSize;
      this.#retireContent(unit, cluster + i, host + i * map.clusterSize);
      map.setData(
        unit,
        cluster + i,
        host + i * map.clusterSize,
        Math.max(start - at, 0),
        Math.min(stop - at, map.clusterSize),
      );
    }
  }

  /** Reads what may go beyond the end of the disk, where there are zeroes. */
  async #readInside(offset: number, target: Uint8Array): Promise<void> {
    const length = Math.min(target.length, Math.max(this.size - offset, 0));
    await this.#read(offset, target.subarray(0, length));
  }

  /** Whether a part of the disk in one unit reads as zeroes, as far as the tables tell. */
  #isZero(unit: Unit, from: number, to: number): boolean {
    for (let at = from; at < to;) {
      const { kind, length } = this.#map.extent(unit, at, to - at);
      const isZero = kind === "zero" ||
        (kind === "unallocated" && at >= (this.#backing?.size ?? 0));
      if (!isZero) return false;
      at += length;
    }
    return true;
  }

  /** Gives up what a cluster of the disk has in the file, but for a place that it keeps. */
  #retireContent(unit: Unit, cluster: number, kept: number): void {
    const compressed = this.#map.compressedPlace(unit, cluster);
    if (compressed !== undefined) {
      return this.#store.retire(compressed.offset, compressed.length);
    }
    const used = this.#map.usedCluster(unit, cluster);
    if (used !== 0 && used !== kept) {
      this.#store.retire(used, this.#map.clusterSize);
    }
  }

  /** The clusters that are in a range as a whole; the last one of the disk may be shorter. */
  #wholeClusters(
    offset: number,
    length: number,
  ): { first: number; end: number } {
    const { clusterSize } = this.#map;
    const end = offset + length;
    return {
      first: Math.ceil(offset / clusterSize),
      end: end === this.size
        ? Math.ceil(end / clusterSize)
        : Math.floor(end / clusterSize),
    };
  }

  /** Whether the tables can say that a cluster is zero, or need not. */
  #canClear(how: Clearing): boolean {
    return this.#store.header.version === 3 ||
      (how !== "zero" && this.#backing === undefined);
  }

  /** Lets clusters read as zeroes. */
  async #clear(first: number, end: number, how: Clearing): Promise<void> {
    if (!this.#canClear(how)) return;
    const { clusterSize, coverage, perUnit } = this.#map;
    const backed = Math.ceil((this.#backing?.size ?? 0) / clusterSize);
    for (let cluster = first; cluster < end;) {
      const isEmpty = !this.#map.hasTable(cluster);
      // What is nowhere may stay so when it is discarded, or reads as zeroes.
      if (isEmpty && (how === "discard" || cluster >= backed)) {
        const perTable = coverage / clusterSize;
        cluster += perTable - cluster % perTable;
        continue;
      }
      const unit = await this.#ownUnit(cluster);
      const stop = Math.min(end, cluster + perUnit - cluster % perUnit);
      let busy: Promise<void> | undefined;
      while (cluster < stop && busy === undefined) {
        busy = this.#claims.get(cluster);
        if (busy !== undefined) break;
        this.#clearCluster(unit, cluster, how, cluster < backed);
        cluster++;
      }
      if (busy !== undefined) await busy;
    }
  }

  #clearCluster(
    unit: Unit,
    cluster: number,
    how: Clearing,
    isBacked: boolean,
  ): void {
    const map = this.#map;
    const start = cluster * map.clusterSize;
    const end = Math.min(start + map.clusterSize, this.size);
    const own = map.ownCluster(unit, cluster);
    const isUsed = own !== 0 || map.usedCluster(unit, cluster) !== 0 ||
      map.compressedPlace(unit, cluster) !== undefined;
    if (!isUsed && (how === "discard" || !isBacked)) return;
    const isZero = this.#isZero(unit, start, end);
    if (isZero && (!isUsed || how === "zero")) return;
    const kept = how === "zero" ? own : 0;
    this.#retireContent(unit, cluster, kept);
    map.setZero(unit, cluster, kept);
  }

  /** Writes zeroes where there is something else. */
  async #fillZeroes(from: number, to: number): Promise<void> {
    const backed = this.#backing?.size ?? 0;
    let zeroes = new Uint8Array();
    for (let at = from; at < to;) {
      const { kind, length } = await this.#find(at, to - at);
      const isZero = kind === "zero" ||
        (kind === "unallocated" && at >= backed);
      const count = isZero ? length : Math.min(length, ZERO_BLOCK);
      if (!isZero) {
        if (zeroes.length < count) zeroes = new Uint8Array(count);
        await this.#write(at, zeroes.subarray(0, count));
      }
      at += count;
    }
  }
}

/** A part of the disk, and where it is if it is compressed. */
interface Found extends Extent {
  place?: CompressedPlace;
}

/** What is asked of clusters that are to read as zeroes: giving them up need not, may, or must not be done. */
type Clearing = "discard" | "unmap" | "zero";

/**
 * Where the image under another one is.
 *
 * @param overlay Path of the image.
 * @param backing What its header says of the one under it.
 * @returns Path and format of the one under it.
 * @throws {MachineError} If it is no file, or its format is not told or unknown.
 */
export function findBacking(
  overlay: string,
  { name, format }: Backing,
): { path: string; format: "raw" | "qcow2" } {
  const protocol = PROTOCOL.exec(name)?.[1];
  if (protocol !== undefined && protocol !== "file") {
    throw new MachineError(
      `image "${overlay}" is based on "${name}": only files are supported, and "./${name}" is one`,
    );
  }
  const path = resolve(dirname(overlay), name.replace(/^file:/, ""));
  if (format === "raw" || format === "qcow2") return { path, format };
  throw new MachineError(
    format === undefined
      ? `image "${overlay}" does not say the format of "${path}", on which it is based: "qemu-img rebase -u -b ${name} -F FORMAT ${overlay}" tells it`
      : `image "${overlay}" is based on "${path}" of the format "${format}": expected raw or qcow2`,
  );
}
