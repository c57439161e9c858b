/**
 * Writes snapshots: header, chunks, index, trailer (docs/snapshot-format.md).
 *
 * @module
 */
import { encode, type ValueType } from "@std/msgpack";
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
  MAX_CHUNK,
  sha256,
  type Sink,
  SnapshotError,
  type StoredComponent,
  TAG,
  type Tag,
  TRAILER_BYTES,
} from "./format.ts";
import { type Manifest, manifestSchema } from "./manifest.ts";
import { ImageBuilder, type PageMap, type PageSource } from "./memory_image.ts";

/** Work is done for so long, in milliseconds, before others may use the thread. */
const QUANTUM_MS = 2;

/** A snapshot to write. */
export interface SnapshotContent {
  /** What the machine was made from. */
  manifest: Manifest;
  /** States of its components. */
  components: readonly StoredComponent[];
  /** Its memories, `ram` among them. */
  memories: readonly PageSource[];
}

/** How a snapshot is written. */
export interface WriteOptions {
  /** Told the pages that are done, and all of them. */
  onProgress?: (done: number, total: number) => void;
  /** Gives the thread away for a moment: called after every few milliseconds of work. */
  turn?: () => Promise<void>;
}

/** A snapshot that was written. */
export interface WrittenSnapshot {
  /** The hash of the whole, as a child names it. */
  hash: string;
  /** Bytes of the file. */
  bytes: number;
  /** Pages that it has. */
  storedPages: number;
}

function bytesOf(words: Uint32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}

function header(): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  bytes.set(ascii(MAGIC));
  const view = new DataView(bytes.buffer);
  view.setUint16(8, BYTE_ORDER, true);
  view.setUint16(10, FORMAT_VERSION, true);
  return bytes;
}

/** A file while it is written. */
class ChunkWriter {
  readonly #sink: Sink;
  readonly #codec: Codec;
  readonly #index: Uint8Array[] = [];
  /** Blocks that are being compressed, in their order in the file. */
  readonly #packing: Promise<{ payload: Uint8Array; hash: Uint8Array }>[] = [];
  #bytes = 0;

  constructor(sink: Sink, codec: Codec) {
    this.#sink = sink;
    this.#codec = codec;
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.#sink.write(bytes);
    this.#bytes += bytes.length;
  }

  async put(tag: Tag, payload: Uint8Array): Promise<void> {
    await this.#append(tag, payload, await sha256(payload));
  }

  async #append(
    tag: Tag,
    payload: Uint8Array,
    hash: Uint8Array,
  ): Promise<void> {
    if (payload.length > MAX_CHUNK) {
      throw new SnapshotError(
        `chunk ${this.#index.length} (${tag}) has ${payload.length} bytes: expected at most ${MAX_CHUNK}`,
      );
    }
    const entry = new Uint8Array(ENTRY_BYTES);
    entry.set(ascii(tag));
    new DataView(entry.buffer).setBigUint64(8, BigInt(payload.length), true);
    entry.set(hash, ENTRY_BYTES - HASH_BYTES);
    this.#index.push(entry);
    await this.write(payload);
  }

  /** Puts a block of pages; waits only when there are many that are not compressed yet. */
  async putBlock(block: Uint8Array): Promise<void> {
    const packing = this.#codec.compress(block).then(async (payload) => ({
      payload,
      hash: await sha256(payload),
    }));
    // It is awaited later, or never where another fails first.
    packing.catch(() => {});
    this.#packing.push(packing);
    if (this.#packing.length >= IN_FLIGHT) await this.#drain(IN_FLIGHT - 1);
  }

  async #drain(left: number): Promise<void> {
    while (this.#packing.length > left) {
      const { payload, hash } = await this.#packing.shift()!;
      await this.#append(TAG.pages, payload, hash);
    }
  }

  async putMap(
    source: PageSource,
    stored: number,
    map: PageMap,
  ): Promise<void> {
    await this.#drain(0);
    const columns = concat([bytesOf(map.pages), bytesOf(map.numbers)]);
    await this.put(
      TAG.map,
      encode({
        region: source.region,
        bytes: source.bytes,
        inherits: source.inherits,
        stored,
        pages: map.pages.length,
        map: await this.#codec.compress(columns),
      }),
    );
  }

  /** Writes index and trailer. */
  async end(): Promise<{ hash: string; bytes: number }> {
    const index = concat(this.#index);
    const trailer = new Uint8Array(TRAILER_BYTES);
    new DataView(trailer.buffer).setBigUint64(
      0,
      BigInt(this.#index.length),
      true,
    );
    const hash = await sha256(
      concat([header(), index, trailer.subarray(0, 8)]),
    );
    trailer.set(hash, 8);
    trailer.set(ascii(END_MAGIC), 8 + HASH_BYTES);
    await this.write(index);
    await this.write(trailer);
    return { hash: hash.toHex(), bytes: this.#bytes };
  }
}

/**
 * Writes a snapshot, holding a few blocks at a time.
 *
 * @param content What to write.
 * @param sink Where.
 * @param codec Compression.
 * @param options How.
 * @returns What was written.
 */
export async function writeSnapshot(
  content: SnapshotContent,
  sink: Sink,
  codec: Codec,
  options: WriteOptions = {},
): Promise<WrittenSnapshot> {
  const { onProgress = () => {}, turn = () => Promise.resolve() } = options;
  const file = new ChunkWriter(sink, codec);
  await file.write(header());
  await file.put(
    TAG.manifest,
    encode(manifestSchema.validate(content.manifest) as unknown as ValueType),
  );
  for (const { id, schema, state } of content.components) {
    await file.put(
      TAG.component,
      encode({ id, schema, state } as unknown as ValueType),
    );
  }
  const left = () => content.memories.reduce((n, each) => n + each.left, 0);
  const total = left();
  let storedPages = 0;
  let began = performance.now();
  for (const source of content.memories) {
    const image = new ImageBuilder(source);
    for (;;) {
      const block = image.next();
      if (block === undefined) break;
      if (block !== "more") await file.putBlock(block);
      onProgress(total - left(), total);
      if (performance.now() - began >= QUANTUM_MS) {
        await turn();
        began = performance.now();
      }
    }
    await file.putMap(source, image.stored, image.map());
    storedPages += image.stored;
  }
  return { ...await file.end(), storedPages };
}
