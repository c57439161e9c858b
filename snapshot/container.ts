/**
 * The container: a snapshot as one file, specified byte by byte in docs/snapshot-format.md.
 *
 * A file is a header, chunks, and a trailer. Each chunk carries the SHA-256 of its payload; the
 * trailer that of the header and of every chunk's header and hash, which covers the whole file
 * and needs no more than a chunk in memory.
 *
 * @module
 */
import { decode, encode, type ValueType } from "@std/msgpack";
import { BLOCK_PAGES, blockOf, PAGE_BYTES, planPages } from "./memory_image.ts";
import {
  bool,
  checkValue,
  f64,
  list,
  optional,
  record,
  schema,
  type SchemaDescription,
  SchemaError,
  str,
  type TypeDescription,
  u32,
  union,
} from "./schema.ts";

/** Version of the container. */
export const FORMAT_VERSION = 1;
const MAGIC = "DIAPAUSE";
const END_MAGIC = "ESUAPAID";
/** Reads as 0xFFFE where the byte order is the other one. */
const BYTE_ORDER = 0xfeff;
const HEADER_BYTES = 16;
const CHUNK_HEADER_BYTES = 16;
const HASH_BYTES = 32;
const TRAILER_BYTES = 8 + HASH_BYTES + 8;
/** Bytes of a chunk at most, its compressed form included. */
const MAX_CHUNK = 64 << 20;
/** Memory of a machine at most: what a 32-bit wasm memory can hold. */
const MAX_MEMORY = 2 ** 32;
const MAX_COMPONENTS = 4096;
const MAX_DEPTH = 32;

const TAG = {
  manifest: "MANI",
  component: "COMP",
  pages: "PAGE",
  map: "PMAP",
} as const;
type Tag = typeof TAG[keyof typeof TAG];

/** What a snapshot cannot be, or be opened as. Its message names the chunk. */
export class SnapshotError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "SnapshotError";
}

/** Compression, handed in by the host. */
export interface Codec {
  /** Compresses with zstd. */
  compress(bytes: Uint8Array): Promise<Uint8Array>;
  /** Decompresses; refuses to make more than `limit` bytes. */
  decompress(bytes: Uint8Array, limit: number): Promise<Uint8Array>;
}

/** Where a snapshot is written: in order, never back. */
export interface Sink {
  /** Appends bytes; the caller may change them when it resolves. */
  write(bytes: Uint8Array): Promise<void>;
}

/** Where a snapshot is read from. */
export interface Source {
  /** Bytes of the whole. */
  readonly size: number;
  /** Reads exactly `length` bytes. */
  read(offset: number, length: number): Promise<Uint8Array>;
}

const optionValue = union({
  text: record({ value: str({ max: 65536 }) }),
  number: record({ value: f64() }),
  flag: record({ value: bool() }),
});
const options = list(
  record({ name: str({ max: 256 }), value: optionValue }),
  { max: 256 },
);

/** What a machine was made from. */
export const manifestSchema = schema("manifest", 1, {
  /** The program that wrote it. */
  producer: str({ max: 256 }),
  /** Bytes of RAM. */
  memory: f64(),
  /** Bytes kept for a firmware image. */
  romSize: f64(),
  /** Number of vCPUs. */
  cpus: u32({ min: 1, max: 255 }),
  /** Model of the vCPU. */
  cpuModel: str({ max: 64 }),
  /** `realtime` or `instructions`. */
  clock: str({ max: 32 }),
  /** Virtual nanoseconds of an instruction. */
  nsPerInstruction: f64(),
  /** Devices in the order in which they are made. */
  devices: list(
    record({
      id: str({ max: 256 }),
      plugin: str({ max: 256 }),
      version: str({ max: 64 }),
      specifier: str({ max: 4096 }),
      options,
      /** What it was connected to; null where its plugin needs nothing. */
      backend: optional(options),
    }),
    { max: MAX_COMPONENTS },
  ),
});

/** What a machine was made from. */
export interface Manifest {
  /** The program that wrote it. */
  producer: string;
  /** Bytes of RAM. */
  memory: number;
  /** Bytes kept for a firmware image. */
  romSize: number;
  /** Number of vCPUs. */
  cpus: number;
  /** Model of the vCPU. */
  cpuModel: string;
  /** `realtime` or `instructions`. */
  clock: string;
  /** Virtual nanoseconds of an instruction. */
  nsPerInstruction: number;
  /** Devices in the order in which they are made. */
  devices: {
    id: string;
    plugin: string;
    version: string;
    specifier: string;
    options: ManifestOptions;
    backend: ManifestOptions | null;
  }[];
}
/** Options as a manifest has them. */
export type ManifestOptions = {
  /** The option. */
  name: string;
  /** Its value, tagged with its type. */
  value:
    | { tag: "text"; value: string }
    | { tag: "number"; value: number }
    | { tag: "flag"; value: boolean };
}[];

/**
 * Options in the form of a manifest.
 *
 * @param values The options.
 * @returns The same as a list.
 */
export function toManifestOptions(
  values: Readonly<Record<string, string | number | boolean>>,
): ManifestOptions {
  return Object.entries(values).map(([name, value]) => ({
    name,
    value: typeof value === "string"
      ? { tag: "text", value }
      : typeof value === "number"
      ? { tag: "number", value }
      : { tag: "flag", value },
  }));
}

/**
 * Options in the form that plugins take.
 *
 * @param list Options of a manifest.
 * @returns The options by name.
 */
export function fromManifestOptions(
  list: ManifestOptions,
): Record<string, string | number | boolean> {
  return Object.fromEntries(list.map(({ name, value }) => [name, value.value]));
}

/** A component as it is in a snapshot. */
export interface StoredComponent {
  /** Component. */
  id: string;
  /** The schema of its state. */
  schema: SchemaDescription;
  /** Its state, which fits that schema. */
  state: unknown;
}

/** A snapshot to write. */
export interface SnapshotContent {
  /** What the machine was made from. */
  manifest: Manifest;
  /** States of its components. */
  components: readonly StoredComponent[];
  /** Its RAM. */
  ram: Uint8Array;
  /** Its firmware image. */
  rom?: Uint8Array;
}

async function sha256(bytes: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(
    await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>),
  );
}

const ascii = (text: string) => new TextEncoder().encode(text);

function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function header(): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  bytes.set(ascii(MAGIC));
  const view = new DataView(bytes.buffer);
  view.setUint16(8, BYTE_ORDER, true);
  view.setUint16(10, FORMAT_VERSION, true);
  return bytes;
}

/** The memories of a snapshot, as one sequence of pages: RAM, then the firmware image. */
const REGIONS = ["ram", "rom"] as const;

/**
 * Writes a snapshot, holding one chunk at a time.
 *
 * @param content What to write.
 * @param sink Where.
 * @param codec Compression.
 * @param onProgress Told the bytes of memory that are done, and all of them.
 */
export async function writeSnapshot(
  content: SnapshotContent,
  sink: Sink,
  codec: Codec,
  onProgress: (done: number, total: number) => void = () => {},
): Promise<void> {
  const sums: Uint8Array[] = [header()];
  await sink.write(sums[0]);
  let chunks = 0;
  const put = async (tag: Tag, payload: Uint8Array) => {
    if (payload.length > MAX_CHUNK) {
      throw new SnapshotError(
        `chunk ${chunks} (${tag}) has ${payload.length} bytes: expected at most ${MAX_CHUNK}`,
      );
    }
    const head = new Uint8Array(CHUNK_HEADER_BYTES);
    head.set(ascii(tag));
    new DataView(head.buffer).setBigUint64(8, BigInt(payload.length), true);
    const hash = await sha256(payload);
    await sink.write(head);
    await sink.write(payload);
    await sink.write(hash);
    sums.push(head, hash);
    chunks++;
  };
  await put(
    TAG.manifest,
    encode(manifestSchema.validate(content.manifest) as unknown as ValueType),
  );
  for (const { id, schema, state } of content.components) {
    await put(
      TAG.component,
      encode({ id, schema, state } as unknown as ValueType),
    );
  }
  const regions = [content.ram, content.rom ?? new Uint8Array(0)];
  const total = regions.reduce((n, region) => n + region.length, 0);
  let passed = 0;
  for (const [i, region] of regions.entries()) {
    if (i > 0 && region.length === 0) continue;
    const plan = planPages(region);
    const blocks = Math.ceil(plan.stored.length / BLOCK_PAGES);
    for (let block = 0; block < blocks; block++) {
      const raw = blockOf(region, plan, block);
      await put(TAG.pages, await codec.compress(raw));
      onProgress(passed + region.length * (block + 1) / blocks, total);
    }
    const map = await codec.compress(new Uint8Array(plan.index.buffer));
    await put(
      TAG.map,
      encode({
        region: REGIONS[i],
        bytes: region.length,
        stored: plan.stored.length,
        map,
      }),
    );
    passed += region.length;
  }
  const trailer = new Uint8Array(TRAILER_BYTES);
  new DataView(trailer.buffer).setBigUint64(0, BigInt(chunks), true);
  trailer.set(await sha256(concat([...sums, trailer.subarray(0, 8)])), 8);
  trailer.set(ascii(END_MAGIC), 8 + HASH_BYTES);
  await sink.write(trailer);
}

interface Chunk {
  tag: Tag;
  number: number;
  offset: number;
  length: number;
  hash: Uint8Array;
}

interface Region {
  bytes: number;
  stored: number;
  index: Uint32Array;
  blocks: Chunk[];
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function named(chunk: Chunk): string {
  return `chunk ${chunk.number} (${chunk.tag}) at byte ${chunk.offset}`;
}

/** A snapshot that was opened: its structure, its manifest and its components are checked. */
export class SnapshotReader {
  /** What the machine was made from. */
  readonly manifest: Manifest;
  /** States of its components; each fits the schema that it is stored with. */
  readonly components: readonly StoredComponent[];
  readonly #source: Source;
  readonly #codec: Codec;
  readonly #regions: ReadonlyMap<string, Region>;

  private constructor(
    source: Source,
    codec: Codec,
    manifest: Manifest,
    components: StoredComponent[],
    regions: Map<string, Region>,
  ) {
    this.#source = source;
    this.#codec = codec;
    this.manifest = manifest;
    this.components = components;
    this.#regions = regions;
  }

  /**
   * Opens a snapshot and checks everything but the content of pages.
   *
   * @param source Where it is.
   * @param codec Compression.
   * @returns The snapshot.
   * @throws {SnapshotError} When it is none, of another format, damaged or cut off.
   * @throws {SchemaError} When a component does not fit its own schema.
   */
  static async open(source: Source, codec: Codec): Promise<SnapshotReader> {
    const chunks = await readStructure(source);
    let manifest: Manifest | undefined;
    const components: StoredComponent[] = [];
    const regions = new Map<string, Region>();
    let blocks: Chunk[] = [];
    for (const chunk of chunks) {
      if (chunk.tag === TAG.pages) {
        blocks.push(chunk);
        continue;
      }
      const value = unpack(chunk, await payloadOf(source, chunk));
      if (chunk.tag === TAG.manifest) {
        if (manifest !== undefined) {
          throw new SnapshotError(
            `${named(chunk)} is a second manifest: expected one`,
          );
        }
        manifest = manifestSchema.validate(
          fromWire(manifestSchema.type.description, value),
        );
      } else if (chunk.tag === TAG.component) {
        components.push(readComponent(chunk, value));
      } else {
        const [name, region] = await readMap(chunk, value, blocks, codec);
        if (regions.has(name)) {
          throw new SnapshotError(
            `${named(chunk)} is a second map of "${name}": expected one`,
          );
        }
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
    return new SnapshotReader(source, codec, manifest, components, regions);
  }

  /**
   * Bytes of a memory; 0 where there is none.
   *
   * @param region `ram` or `rom`.
   */
  bytes(region: "ram" | "rom"): number {
    return this.#regions.get(region)?.bytes ?? 0;
  }

  /**
   * How many pages of a memory are stored.
   *
   * @param region `ram` or `rom`.
   */
  storedPages(region: "ram" | "rom"): number {
    return this.#regions.get(region)?.stored ?? 0;
  }

  /**
   * Reads a memory.
   *
   * @param region `ram` or `rom`.
   * @param target Where to; as long as {@linkcode bytes} says. It holds zeroes.
   * @param onProgress Told the stored pages that are done, and all of them.
   * @throws {SnapshotError} When a page chunk is damaged; `target` is then half filled.
   */
  async readMemory(
    region: "ram" | "rom",
    target: Uint8Array,
    onProgress: (done: number, total: number) => void = () => {},
  ): Promise<void> {
    const found = this.#regions.get(region);
    if (found === undefined) return;
    if (target.length !== found.bytes) {
      throw new SnapshotError(
        `memory "${region}" has ${found.bytes} bytes in the snapshot, but ${target.length} in the machine`,
      );
    }
    const users: number[][] = [];
    found.index.forEach((entry, page) => {
      if (entry !== 0) (users[entry - 1] ??= []).push(page);
    });
    for (const [i, chunk] of found.blocks.entries()) {
      const pages = Math.min(BLOCK_PAGES, found.stored - i * BLOCK_PAGES);
      const raw = await expand(
        this.#codec,
        chunk,
        await payloadOf(this.#source, chunk),
        pages * PAGE_BYTES,
      );
      for (let n = 0; n < pages; n++) {
        const page = raw.subarray(n * PAGE_BYTES, (n + 1) * PAGE_BYTES);
        for (const to of users[i * BLOCK_PAGES + n] ?? []) {
          target.set(page, to * PAGE_BYTES);
        }
      }
      onProgress(i * BLOCK_PAGES + pages, found.stored);
    }
  }
}

/** Finds the chunks, and checks what the trailer's hash covers. */
async function readStructure(source: Source): Promise<Chunk[]> {
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
  const chunks: Chunk[] = [];
  const sums: Uint8Array[] = [head];
  for (let at = HEADER_BYTES; at < end;) {
    const where = `chunk ${chunks.length} at byte ${at}`;
    if (at + CHUNK_HEADER_BYTES + HASH_BYTES > end) throw cut(where);
    const chunkHead = await source.read(at, CHUNK_HEADER_BYTES);
    const tag = String.fromCharCode(...chunkHead.subarray(0, 4));
    const length = Number(
      new DataView(chunkHead.buffer, chunkHead.byteOffset).getBigUint64(
        8,
        true,
      ),
    );
    if (
      length > MAX_CHUNK || at + CHUNK_HEADER_BYTES + length + HASH_BYTES > end
    ) {
      throw cut(`${where} claims ${length} bytes`);
    }
    const tags: readonly string[] = Object.values(TAG);
    if (!tags.includes(tag)) {
      throw cut(`${where} is of the unknown kind ${JSON.stringify(tag)}`);
    }
    const offset = at + CHUNK_HEADER_BYTES;
    const hash = await source.read(offset + length, HASH_BYTES);
    sums.push(chunkHead, hash);
    chunks.push({
      tag: tag as Tag,
      number: chunks.length,
      offset,
      length,
      hash,
    });
    at = offset + length + HASH_BYTES;
  }
  sums.push(trailer.subarray(0, 8));
  if (
    !same(await sha256(concat(sums)), trailer.subarray(8, 8 + HASH_BYTES))
  ) throw cut("the hash of the whole does not match");
  const counted = new DataView(trailer.buffer, trailer.byteOffset)
    .getBigUint64(0, true);
  if (counted !== BigInt(chunks.length)) {
    throw cut(`there are ${chunks.length} chunks, not ${counted}`);
  }
  if (
    chunks.filter(({ tag }) => tag === TAG.component).length > MAX_COMPONENTS
  ) {
    throw cut(`there are more than ${MAX_COMPONENTS} components`);
  }
  return chunks;
}

async function payloadOf(source: Source, chunk: Chunk): Promise<Uint8Array> {
  const payload = await source.read(chunk.offset, chunk.length);
  if (!same(await sha256(payload), chunk.hash)) {
    throw new SnapshotError(
      `${named(chunk)} is damaged: its hash does not match; use another copy`,
    );
  }
  return payload;
}

function unpack(chunk: Chunk, payload: Uint8Array): unknown {
  try {
    return decode(payload);
  } catch (error) {
    throw new SnapshotError(
      `${named(chunk)} is not MessagePack: ${
        error instanceof Error ? error.message : error
      }`,
    );
  }
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
    throw new SnapshotError(
      `${named(chunk)} cannot be decompressed to ${expected} bytes: ${
        error instanceof Error ? error.message : error
      }`,
    );
  }
  if (raw.length !== expected) {
    throw new SnapshotError(
      `${named(chunk)} has ${raw.length} bytes: expected ${expected}`,
    );
  }
  return raw;
}

const mapType = record({
  region: str({ max: 16 }),
  bytes: f64(),
  stored: f64(),
}).description as TypeDescription & { kind: "record" };

async function readMap(
  chunk: Chunk,
  value: unknown,
  blocks: Chunk[],
  codec: Codec,
): Promise<[string, Region]> {
  const { map, ...rest } = (value ?? {}) as Record<string, unknown>;
  const { region, bytes, stored } = checkValue(
    mapType,
    fromWire(mapType, rest),
    named(chunk),
  ) as { region: string; bytes: number; stored: number };
  const refuse = (field: string, expected: string): never => {
    throw new SchemaError(
      `${named(chunk)}.${field}`,
      `is not possible: expected ${expected}`,
    );
  };
  if (region !== "ram" && region !== "rom") refuse("region", "ram or rom");
  if (
    !Number.isSafeInteger(bytes) || bytes < 0 || bytes > MAX_MEMORY ||
    bytes % PAGE_BYTES !== 0
  ) refuse("bytes", `a multiple of ${PAGE_BYTES} up to ${MAX_MEMORY}`);
  if (
    !Number.isSafeInteger(stored) || stored < 0 ||
    Math.ceil(stored / BLOCK_PAGES) !== blocks.length
  ) refuse("stored", `pages of the ${blocks.length} blocks before it`);
  if (!(map instanceof Uint8Array)) return refuse("map", "bytes");
  const pages = bytes / PAGE_BYTES;
  const raw = await expand(codec, chunk, map, pages * 4);
  const index = new Uint32Array(pages);
  const view = new DataView(raw.buffer, raw.byteOffset, raw.length);
  for (let page = 0; page < pages; page++) {
    const entry = view.getUint32(4 * page, true);
    if (entry > stored) refuse(`map[${page}]`, `0 to ${stored}`);
    index[page] = entry;
  }
  return [region, { bytes, stored, index, blocks }];
}

function readComponent(chunk: Chunk, value: unknown): StoredComponent {
  const { id, schema, state } = (value ?? {}) as Record<string, unknown>;
  const { name, version, type } = (schema ?? {}) as Record<string, unknown>;
  if (
    typeof id !== "string" || typeof name !== "string" ||
    !Number.isSafeInteger(version)
  ) {
    throw new SnapshotError(
      `${named(chunk)} is no component: expected id, schema and state`,
    );
  }
  const description = checkDescription(type, `${id}.schema`);
  const typed = checkValue(description, fromWire(description, state), id);
  return {
    id,
    schema: { name, version: version as number, type: description },
    state: typed,
  };
}

/** Checks that something is a type description, so that values can be checked with it. */
function checkDescription(
  type: unknown,
  path: string,
  depth = 0,
): TypeDescription {
  const refuse = (expected: string): never => {
    throw new SchemaError(path, `is no type: expected ${expected}`);
  };
  if (typeof type !== "object" || type === null || depth > MAX_DEPTH) {
    return refuse(`a type, nested up to ${MAX_DEPTH} deep`);
  }
  const t = type as Record<string, unknown>;
  const inner = (value: unknown, name: string) =>
    checkDescription(value, `${path}.${name}`, depth + 1);
  const limits: Record<string, number> = {};
  for (const name of ["min", "max", "length"]) {
    if (t[name] === undefined) continue;
    if (!Number.isSafeInteger(t[name])) return refuse(`whole ${name}`);
    limits[name] = t[name] as number;
  }
  const all = (value: unknown, name: string) => {
    if (typeof value !== "object" || value === null) return refuse(name);
    return Object.fromEntries(
      Object.entries(value).map(([key, each]) => [key, inner(each, key)]),
    );
  };
  switch (t.kind) {
    case "u8":
    case "u16":
    case "u32":
    case "i32":
    case "bytes":
    case "str":
      return { kind: t.kind, ...limits };
    case "u64":
    case "f64":
    case "bool":
    case "gpa":
    case "timer":
      return { kind: t.kind };
    case "list":
      return { kind: "list", of: inner(t.of, "of"), ...limits };
    case "optional":
      return { kind: "optional", of: inner(t.of, "of") };
    case "record":
      return { kind: "record", fields: all(t.fields, "fields") };
    case "union": {
      const tags = all(t.tags, "tags");
      for (const each of Object.values(tags)) {
        if (each.kind !== "record") return refuse("records as tags");
      }
      return { kind: "union", tags };
    }
    default:
      return refuse("a known kind");
  }
}

/** MessagePack writers choose the width of integers: a bigint becomes a number where the type is one. */
function fromWire(type: TypeDescription, value: unknown): unknown {
  const number = (v: unknown) => typeof v === "bigint" ? Number(v) : v;
  const isMap = typeof value === "object" && value !== null &&
    !Array.isArray(value) && !(value instanceof Uint8Array);
  const fields = (types: Record<string, TypeDescription>) =>
    Object.fromEntries(
      Object.entries(value as Record<string, unknown>).map(([k, v]) => [
        k,
        Object.hasOwn(types, k) ? fromWire(types[k], v) : v,
      ]),
    );
  switch (type.kind) {
    case "u8":
    case "u16":
    case "u32":
    case "i32":
    case "f64":
      return number(value);
    case "u64":
      return Number.isSafeInteger(value) ? BigInt(value as number) : value;
    case "list":
      return Array.isArray(value)
        ? value.map((each) => fromWire(type.of, each))
        : value;
    case "optional":
      return value === null ? null : fromWire(type.of, value);
    case "record":
      return isMap ? fields(type.fields) : value;
    case "union": {
      const tag = isMap ? (value as { tag?: unknown }).tag : undefined;
      const chosen = typeof tag === "string" && Object.hasOwn(type.tags, tag)
        ? type.tags[tag]
        : undefined;
      return chosen?.kind === "record" ? fields(chosen.fields) : value;
    }
    case "gpa":
      return isMap
        ? fields({ address: { kind: "u64" }, length: { kind: "f64" } })
        : value;
    case "timer":
      return isMap ? fields({ remaining: { kind: "f64" } }) : value;
    default:
      return value;
  }
}
