/**
 * The container: a snapshot as one file, specified byte by byte in docs/snapshot-format.md.
 *
 * A file is a header, chunks, an index and a trailer. The index has the SHA-256 of each chunk's
 * payload; the trailer that of the header and the index, which covers the whole file and needs no
 * more than a chunk in memory. This reads; `writer.ts` writes.
 *
 * @module
 */
import {
  ascii,
  BYTE_ORDER,
  type Codec,
  concat,
  END_MAGIC,
  ENTRY_BYTES,
  FORMAT_VERSION,
  HASH_BYTES,
  HEADER_BYTES,
  IN_FLIGHT,
  MAGIC,
  MAX_CHAIN,
  MAX_CHUNK,
  MAX_DISK,
  MAX_MEMORY,
  sha256,
  SnapshotError,
  type Source,
  type StoredComponent,
  TAG,
  type Tag,
  TAGS,
  TRAILER_BYTES,
} from "./format.ts";
import { type Manifest, manifestSchema, MAX_COMPONENTS } from "./manifest.ts";
import {
  BLOCK_PAGES,
  blocksOf,
  type BlockUse,
  overlay,
  PAGE_BYTES,
  type PageMap,
} from "./memory_image.ts";
import { unpackValue } from "./msgpack.ts";
import {
  bool,
  checkValue,
  f64,
  isPlain,
  record,
  SchemaError,
  show,
  str,
  type TypeDescription,
  u32,
} from "./schema.ts";
import { checkDescription, fromWire } from "./wire.ts";

export {
  type Codec,
  FORMAT_VERSION,
  MAX_CHAIN,
  type Sink,
  SnapshotError,
  type Source,
  type StoredComponent,
  type SyncCodec,
} from "./format.ts";
export {
  fromManifestOptions,
  type Manifest,
  type ManifestImage,
  type ManifestImageFile,
  type ManifestOptions,
  type ManifestParent,
  manifestSchema,
  toManifestOptions,
} from "./manifest.ts";
export {
  type SnapshotContent,
  type WriteOptions,
  writeSnapshot,
  type WrittenSnapshot,
} from "./writer.ts";

/** Controls, and what turns the direction of writing. */
const NOT_SHOWN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u;
/** Characters of the name of a component or its schema at most. */
const MAX_NAME = 256;

interface Chunk {
  tag: Tag;
  number: number;
  offset: number;
  length: number;
  hash: Uint8Array;
}

interface Region extends PageMap {
  bytes: number;
  inherits: boolean;
  stored: number;
  blocks: Chunk[];
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function named(chunk: Chunk): string {
  return `chunk ${chunk.number} (${chunk.tag}) at byte ${chunk.offset}`;
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** A block of pages that a memory needs. */
export interface ImageBlock {
  /** Pages of the memory. */
  readonly pages: readonly number[];
  /** For each of them, the page of the block. */
  readonly slots: readonly number[];
  /**
   * Reads the block and checks its hash.
   *
   * @returns Its pages, one after another.
   * @throws {SnapshotError} When it is damaged.
   */
  load(): Promise<Uint8Array>;
  /** The same at once, where source and codec can. */
  loadNow?(): Uint8Array;
}

/** How a snapshot is opened. */
export interface OpenOptions {
  /**
   * Opens the parent of a snapshot; without it, one that has a parent is refused.
   *
   * @param path The parent's path from the folder of the child.
   * @param depth How many children lead to it: 1 for the parent of the snapshot that is opened.
   * @throws {SnapshotError} When there is no such file; the message names it and what to do.
   */
  openParent?: (path: string, depth: number) => Promise<Source>;
}

/** A snapshot that was opened: its structure, its manifest and its components are checked. */
export class SnapshotReader {
  /** What the machine was made from. */
  readonly manifest: Manifest;
  /** States of its components; each fits the schema that it is stored with. */
  readonly components: readonly StoredComponent[];
  /** The hash of the whole, in hexadecimal. */
  readonly hash: string;
  /** The snapshot that has the pages which this one leaves out. */
  readonly parent: SnapshotReader | undefined;
  readonly #source: Source;
  readonly #codec: Codec;
  readonly #regions: ReadonlyMap<string, Region>;

  private constructor(
    source: Source,
    codec: Codec,
    content: {
      hash: string;
      manifest: Manifest;
      components: StoredComponent[];
      regions: Map<string, Region>;
      parent: SnapshotReader | undefined;
    },
  ) {
    this.#source = source;
    this.#codec = codec;
    this.hash = content.hash;
    this.manifest = content.manifest;
    this.components = content.components;
    this.#regions = content.regions;
    this.parent = content.parent;
  }

  /**
   * Opens a snapshot, and those that it builds on, and checks everything but the content of pages.
   *
   * @param source Where it is.
   * @param codec Compression.
   * @param options How its parent is found.
   * @returns The snapshot.
   * @throws {SnapshotError} When it is none, of another format, damaged or cut off, or its parent is another one.
   * @throws {SchemaError} When a component does not fit its own schema.
   */
  static open(
    source: Source,
    codec: Codec,
    options: OpenOptions = {},
  ): Promise<SnapshotReader> {
    return SnapshotReader.#open(source, codec, options, []);
  }

  static async #open(
    source: Source,
    codec: Codec,
    options: OpenOptions,
    children: readonly string[],
  ): Promise<SnapshotReader> {
    const { hash, chunks } = await readStructure(source);
    if (children.length > 0 && children.at(-1) !== hash) {
      throw new SnapshotError(
        "it is another snapshot than the one that was the parent: it has changed since; put back the one with the hash " +
          children.at(-1),
      );
    }
    let manifest: Manifest | undefined;
    const components: StoredComponent[] = [];
    const regions = new Map<string, Region>();
    let blocks: Chunk[] = [];
    const ids = new Set<string>();
    for (const chunk of chunks) {
      if ((chunk.number === 0) !== (chunk.tag === TAG.manifest)) {
        throw new SnapshotError(
          `${
            named(chunk)
          } is out of place: expected one manifest, as the first chunk`,
        );
      }
      if (chunk.tag === TAG.pages) {
        blocks.push(chunk);
        continue;
      }
      const value = unpack(chunk, await payloadOf(source, chunk));
      if (chunk.tag === TAG.manifest) {
        manifest = readManifest(chunk, value);
      } else if (chunk.tag === TAG.component) {
        const component = readComponent(chunk, value);
        if (ids.has(component.id)) {
          throw new SnapshotError(
            `${
              named(chunk)
            } is a second state of "${component.id}": expected one`,
          );
        }
        ids.add(component.id);
        components.push(component);
      } else {
        const [name, region] = await readMap(
          chunk,
          value,
          blocks,
          codec,
          (name) => {
            if (!regions.has(name)) return memoryLimit(manifest!, name);
            throw new SnapshotError(
              `${named(chunk)} is a second map of "${name}": expected one`,
            );
          },
        );
        regions.set(name, region);
        blocks = [];
      }
    }
    if (manifest === undefined || !regions.has("ram") || blocks.length > 0) {
      throw new SnapshotError(
        "the snapshot lacks its manifest or the map of a memory: it is damaged; use another copy",
      );
    }
    if (regions.get("ram")!.bytes !== manifest.memory) {
      throw new SnapshotError(
        `the memory image has ${
          regions.get("ram")!.bytes
        } bytes: expected ${manifest.memory}, as the manifest says`,
      );
    }
    const parent = await SnapshotReader.#openParent(
      manifest,
      codec,
      options,
      children,
    );
    for (const [name, { inherits, bytes }] of regions) {
      if (inherits && parent?.bytes(name) !== bytes) {
        throw new SnapshotError(
          `memory "${name}" has ${bytes} bytes and builds on ${
            parent === undefined
              ? "a parent, but none is named"
              : `a parent with ${parent.bytes(name)}`
          }: the snapshot is damaged; use another copy`,
        );
      }
    }
    return new SnapshotReader(source, codec, {
      hash,
      manifest,
      components,
      regions,
      parent,
    });
  }

  /** Opens what a snapshot builds on; `children` are the hashes of the parents that were named so far. */
  static async #openParent(
    { parent }: Manifest,
    codec: Codec,
    { openParent }: OpenOptions,
    children: readonly string[],
  ): Promise<SnapshotReader | undefined> {
    if (parent === null) return undefined;
    const { path, hash } = parent;
    const of = `parent "${path}"`;
    if (openParent === undefined) {
      throw new SnapshotError(
        `the snapshot builds on the ${of}, which cannot be opened here: take a full one`,
      );
    }
    if (children.includes(hash)) {
      throw new SnapshotError(
        `the snapshot builds on itself through its ${of}: it is damaged; use another copy`,
      );
    }
    if (children.length + 1 >= MAX_CHAIN) {
      throw new SnapshotError(
        `the chain of its parents has more than ${MAX_CHAIN} snapshots: it is damaged; use another copy`,
      );
    }
    try {
      const source = await openParent(path, children.length + 1);
      return await SnapshotReader.#open(source, codec, { openParent }, [
        ...children,
        hash,
      ]);
    } catch (error) {
      if (error instanceof SnapshotError || error instanceof SchemaError) {
        throw new SnapshotError(`${of}: ${error.message}`, { cause: error });
      }
      throw error;
    }
  }

  /** This snapshot, its parent, and so on. */
  get chain(): SnapshotReader[] {
    return [this, ...this.parent?.chain ?? []];
  }

  /** Names of the memories: `ram`, `rom`, `disk:` and the id of a device. */
  get regions(): string[] {
    return [...this.#regions.keys()];
  }

  /**
   * Bytes of a memory; 0 where there is none.
   *
   * @param region Its name.
   */
  bytes(region: string): number {
    return this.#regions.get(region)?.bytes ?? 0;
  }

  /**
   * How many pages of a memory this snapshot has, those of its parent not counted.
   *
   * @param region Its name.
   */
  storedPages(region: string): number {
    return this.#regions.get(region)?.stored ?? 0;
  }

  /** The chain as far as a memory builds on it. */
  #layers(region: string): SnapshotReader[] {
    const layers: SnapshotReader[] = [];
    for (const each of this.chain) {
      layers.push(each);
      if (!each.#regions.get(region)!.inherits) break;
    }
    return layers;
  }

  /**
   * The blocks that have a memory's pages, those of parents included; pages in none are zeroes.
   *
   * @param region Its name.
   * @returns The blocks; each page of the memory is in one at most.
   */
  blocks(region: string): ImageBlock[] {
    if (!this.#regions.has(region)) return [];
    const layers = this.#layers(region);
    const map = overlay(layers.map((each) => each.#regions.get(region)!));
    return blocksOf(map).map((use) => layers[use.layer].#block(region, use));
  }

  #block(region: string, { block, pages, slots }: BlockUse): ImageBlock {
    const { blocks, stored } = this.#regions.get(region)!;
    const chunk = blocks[block];
    const bytes = PAGE_BYTES *
      Math.min(BLOCK_PAGES, stored - block * BLOCK_PAGES);
    const source = this.#source;
    const codec = this.#codec;
    const { sync } = codec;
    const load = async () =>
      await expand(codec, chunk, await payloadOf(source, chunk), bytes);
    if (sync === undefined || source.readSync === undefined) {
      return { pages, slots, load };
    }
    const loadNow = () => {
      const payload = source.readSync!(chunk.offset, chunk.length);
      checkPayload(chunk, sync.sha256(payload));
      let raw: Uint8Array;
      try {
        raw = sync.decompress(payload, bytes);
      } catch (error) {
        throw notExpanded(chunk, bytes, error);
      }
      return checkLength(chunk, raw, bytes);
    };
    return { pages, slots, load, loadNow };
  }

  /**
   * Reads every block of a memory, some at the same time.
   *
   * @param region Its name.
   * @param use Takes a block and its pages; what it does must not wait.
   * @param onProgress Told the blocks that are done, and all of them.
   * @throws {SnapshotError} When a block is damaged; those before it have been used.
   */
  async readBlocks(
    region: string,
    use: (block: ImageBlock, raw: Uint8Array) => void,
    onProgress: (done: number, total: number) => void = () => {},
  ): Promise<void> {
    await eachBlock(this.blocks(region), use, onProgress);
  }

  /**
   * Reads a memory.
   *
   * @param region Its name.
   * @param target Where to; as long as {@linkcode bytes} says. It holds zeroes.
   * @param onProgress Told the blocks that are done, and all of them.
   * @throws {SnapshotError} When a page chunk is damaged; `target` is then half filled.
   */
  async readMemory(
    region: string,
    target: Uint8Array,
    onProgress?: (done: number, total: number) => void,
  ): Promise<void> {
    if (target.length !== this.bytes(region)) {
      throw new SnapshotError(
        `memory "${region}" has ${
          this.bytes(region)
        } bytes in the snapshot, but ${target.length} in the machine`,
      );
    }
    await this.readBlocks(region, ({ pages, slots }, raw) => {
      pages.forEach((page, i) => {
        const from = slots[i] * PAGE_BYTES;
        const at = page * PAGE_BYTES;
        // The last page of a disk may reach beyond its end.
        const length = Math.min(PAGE_BYTES, target.length - at);
        target.set(raw.subarray(from, from + length), at);
      });
    }, onProgress);
  }
}

/**
 * Loads blocks, some at the same time.
 *
 * @param blocks The blocks.
 * @param use Takes a block and its pages; what it does must not wait.
 * @param onProgress Told the blocks that are done, and all of them.
 * @param ended Whether to begin no more.
 */
export async function eachBlock(
  blocks: readonly ImageBlock[],
  use: (block: ImageBlock, raw: Uint8Array) => void,
  onProgress: (done: number, total: number) => void = () => {},
  ended: () => boolean = () => false,
): Promise<void> {
  let next = 0;
  let done = 0;
  let failed = false;
  const worker = async () => {
    while (next < blocks.length && !failed && !ended()) {
      const block = blocks[next++];
      try {
        use(block, await block.load());
      } catch (error) {
        failed = true;
        throw error;
      }
      onProgress(++done, blocks.length);
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
}

/** Finds the chunks, and checks what the trailer's hash covers. */
async function readStructure(
  source: Source,
): Promise<{ hash: string; chunks: Chunk[] }> {
  const { size } = source;
  const head = size < HEADER_BYTES
    ? new Uint8Array(HEADER_BYTES)
    : await source.read(0, HEADER_BYTES);
  const view = new DataView(head.buffer, head.byteOffset);
  if (!same(head.subarray(0, 8), ascii(MAGIC))) {
    throw new SnapshotError(
      `this is not a snapshot: it does not begin with "${MAGIC}"`,
    );
  }
  if (view.getUint16(8, true) !== BYTE_ORDER) {
    throw new SnapshotError(
      "the snapshot has another byte order: expected little-endian",
    );
  }
  const version = view.getUint16(10, true);
  if (version !== FORMAT_VERSION) {
    throw new SnapshotError(
      `the snapshot has format version ${version}, and this build reads ${FORMAT_VERSION}: use another build`,
    );
  }
  const cut = (what: string) =>
    new SnapshotError(
      `${what}: the file of ${size} bytes is cut off or damaged; use another copy`,
    );
  const end = size - TRAILER_BYTES;
  if (end < HEADER_BYTES) throw cut("there is no trailer");
  const trailer = await source.read(end, TRAILER_BYTES);
  if (!same(trailer.subarray(8 + HASH_BYTES), ascii(END_MAGIC))) {
    throw cut("there is no trailer");
  }
  const count = Number(
    new DataView(trailer.buffer, trailer.byteOffset).getBigUint64(0, true),
  );
  const indexAt = end - count * ENTRY_BYTES;
  if (indexAt < HEADER_BYTES) throw cut(`there is no index of ${count} chunks`);
  const index = await source.read(indexAt, count * ENTRY_BYTES);
  const hash = trailer.slice(8, 8 + HASH_BYTES);
  const found = await sha256(concat([head, index, trailer.subarray(0, 8)]));
  if (!same(found, hash)) throw cut("the hash of the whole does not match");
  const entries = new DataView(index.buffer, index.byteOffset, index.length);
  const chunks: Chunk[] = [];
  let components = 0;
  let at = HEADER_BYTES;
  for (let number = 0; number < count; number++) {
    const from = number * ENTRY_BYTES;
    const tag = String.fromCharCode(...index.subarray(from, from + 4));
    const length = Number(entries.getBigUint64(from + 8, true));
    const where = `chunk ${number} at byte ${at}`;
    if (length > MAX_CHUNK || at + length > indexAt) {
      throw cut(`${where} claims ${length} bytes`);
    }
    if (!TAGS.includes(tag)) {
      throw cut(`${where} is of the unknown kind ${JSON.stringify(tag)}`);
    }
    if (tag === TAG.component && ++components > MAX_COMPONENTS) {
      throw cut(`there are more than ${MAX_COMPONENTS} components`);
    }
    chunks.push({
      tag: tag as Tag,
      number,
      offset: at,
      length,
      hash: index.slice(from + ENTRY_BYTES - HASH_BYTES, from + ENTRY_BYTES),
    });
    at += length;
  }
  if (at !== indexAt) {
    throw cut(`there are ${indexAt - at} bytes that belong to no chunk`);
  }
  return { hash: hash.toHex(), chunks };
}

function checkPayload(chunk: Chunk, hash: Uint8Array): void {
  if (!same(hash, chunk.hash)) {
    throw new SnapshotError(
      `${named(chunk)} is damaged: its hash does not match; use another copy`,
    );
  }
}

async function payloadOf(source: Source, chunk: Chunk): Promise<Uint8Array> {
  const payload = await source.read(chunk.offset, chunk.length);
  checkPayload(chunk, await sha256(payload));
  return payload;
}

function unpack(chunk: Chunk, payload: Uint8Array): unknown {
  try {
    return unpackValue(payload);
  } catch (error) {
    throw new SnapshotError(
      `${named(chunk)} is not MessagePack: ${message(error)}`,
    );
  }
}

function notExpanded(chunk: Chunk, expected: number, error: unknown): Error {
  return new SnapshotError(
    `${named(chunk)} cannot be decompressed to ${expected} bytes: ${
      message(error)
    }`,
  );
}

function checkLength(
  chunk: Chunk,
  raw: Uint8Array,
  expected: number,
): Uint8Array {
  if (raw.length !== expected) {
    throw new SnapshotError(
      `${named(chunk)} has ${raw.length} bytes: expected ${expected}`,
    );
  }
  return raw;
}

async function expand(
  codec: Codec,
  chunk: Chunk,
  payload: Uint8Array,
  expected: number,
): Promise<Uint8Array> {
  let raw: Uint8Array;
  try {
    raw = await codec.decompress(payload, expected);
  } catch (error) {
    throw notExpanded(chunk, expected, error);
  }
  return checkLength(chunk, raw, expected);
}

/** Bytes that a memory may have, as the manifest says; undefined where there is no such memory. */
function memoryLimit(manifest: Manifest, name: string): number | undefined {
  if (name === "ram") return Math.min(manifest.memory, MAX_MEMORY);
  if (name === "rom") return Math.min(manifest.romSize, MAX_MEMORY);
  return manifest.devices.some(({ id }) => name === `disk:${id}`)
    ? MAX_DISK
    : undefined;
}

const mapType = record({
  region: str({ max: 512 }),
  bytes: f64(),
  inherits: bool(),
  stored: f64(),
  pages: f64(),
}).description as TypeDescription & { kind: "record" };

async function readMap(
  chunk: Chunk,
  value: unknown,
  blocks: Chunk[],
  codec: Codec,
  limitOf: (name: string) => number | undefined,
): Promise<[string, Region]> {
  if (!isPlain(value)) {
    throw new SnapshotError(`${named(chunk)} is no map: expected a record`);
  }
  const { map, ...rest } = value;
  const { region, bytes, inherits, stored, pages: count } = checkValue(
    mapType,
    fromWire(mapType, rest),
    named(chunk),
  ) as {
    region: string;
    bytes: number;
    inherits: boolean;
    stored: number;
    pages: number;
  };
  const refuse = (field: string, expected: string): never => {
    throw new SchemaError(
      `${named(chunk)}.${field}`,
      `is not possible: expected ${expected}`,
    );
  };
  const limit = limitOf(region);
  if (limit === undefined) {
    return refuse("region", "ram, rom or the disk of a device of the manifest");
  }
  const isDisk = region.startsWith("disk:");
  const whole = (field: string, n: number, most: number) => {
    if (!Number.isSafeInteger(n) || n < 0 || n > most) {
      refuse(field, `a whole number up to ${most}`);
    }
  };
  whole("bytes", bytes, limit);
  if (!isDisk && bytes % PAGE_BYTES !== 0) {
    refuse("bytes", `a multiple of ${PAGE_BYTES}`);
  }
  whole("stored", stored, blocks.length * BLOCK_PAGES);
  if (Math.ceil(stored / BLOCK_PAGES) !== blocks.length) {
    refuse("stored", `pages of the ${blocks.length} blocks before it`);
  }
  const all = Math.ceil(bytes / PAGE_BYTES);
  whole("pages", count, Math.min(all, MAX_CHUNK / 8));
  if (!(map instanceof Uint8Array)) return refuse("map", "bytes");
  const raw = await expand(codec, chunk, map, count * 8);
  const view = new DataView(raw.buffer, raw.byteOffset, raw.length);
  const pages = new Uint32Array(count);
  const numbers = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    const page = pages[i] = view.getUint32(4 * i, true);
    const number = numbers[i] = view.getUint32(4 * (count + i), true);
    if (page >= all || (i > 0 && page <= pages[i - 1])) {
      refuse(`map[${i}]`, `ascending pages below ${all}`);
    }
    if (number > stored || (number === 0 && !inherits)) {
      refuse(`map[${i}]`, `a stored page, 1 to ${stored}`);
    }
  }
  return [region, { bytes, inherits, stored, pages, numbers, blocks }];
}

function readManifest(chunk: Chunk, value: unknown): Manifest {
  const path = `${named(chunk)}: manifest`;
  const manifest = manifestSchema.validate(
    fromWire(manifestSchema.type.description, value),
    { path },
  );
  manifest.devices.forEach((device, i) => {
    for (const field of ["id", "plugin", "version", "specifier"] as const) {
      printable(`${path}.devices[${i}].${field}`, device[field]);
    }
  });
  return manifest;
}

/** Refuses names that could not be shown in a message as they are. */
function printable(path: string, name: string): void {
  if (NOT_SHOWN.test(name)) {
    throw new SchemaError(
      path,
      `is ${show(name)}: expected printable characters`,
    );
  }
}

const componentType = record({
  id: str({ max: MAX_NAME }),
  name: str({ max: MAX_NAME }),
  version: u32({ min: 1 }),
}).description;

function readComponent(chunk: Chunk, value: unknown): StoredComponent {
  if (!isPlain(value) || !isPlain(value.schema)) {
    throw new SnapshotError(
      `${named(chunk)} is no component: expected id, schema and state`,
    );
  }
  const { state, schema: { type, ...rest } } = value;
  const { id, name, version } = checkValue(
    componentType,
    fromWire(componentType, { id: value.id, ...rest }),
    named(chunk),
  ) as { id: string; name: string; version: number };
  const where = `${named(chunk)}: ${id}`;
  printable(`${named(chunk)}.id`, id);
  printable(`${where}.schema.name`, name);
  const description = checkDescription(type, `${where}.schema`);
  return {
    id,
    schema: { name, version, type: description },
    state: checkValue(description, fromWire(description, state), where),
  };
}
