// A scratch disk in memory (DESIGN.md section 6, "Disks"). Chunks are allocated when something other
// than zero is written to them, and shared with frozen copies until they are written again.

import type {
  BackendContent,
  FrozenContent,
  ImmediateBlock,
} from "../../core/plugin.ts";
import { type BlockImage, checkRange, checkSize } from "./types.ts";

/** Bytes allocated at a time. */
const CHUNK_SIZE = 64 * 1024;

/** Bytes of a page of {@linkcode FrozenContent}. */
const PAGE_SIZE = 4096;
const PAGES_PER_CHUNK = CHUNK_SIZE / PAGE_SIZE;

/** Size of a scratch disk when none is given. */
export const DEFAULT_MEMORY_SIZE = 64 * 1024 * 1024;

/** A piece of the disk, as long as something in it may be other than zero. */
interface Chunk {
  /** {@linkcode CHUNK_SIZE} of them, also where the disk ends sooner: the rest stays zero. */
  readonly bytes: Uint8Array;
  /** Frozen copies that hold it; while there are any its bytes do not change. */
  holders: number;
}

/** A block image in memory; it is gone when it is closed. */
export class MemoryBlock implements BlockImage {
  /** Bytes. */
  readonly size: number;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  readonly #chunks = new Map<number, Chunk>();

  /** The operations themselves; the promised ones call these. */
  readonly immediate: ImmediateBlock = {
    read: (offset, target) => {
      checkRange(this.size, offset, target.length);
      this.#each(offset, target.length, (chunk, at, from, count) => {
        const bytes = this.#chunks.get(chunk)?.bytes;
        if (bytes === undefined) target.fill(0, from, from + count);
        else target.set(bytes.subarray(at, at + count), from);
      });
    },
    write: (offset, source) => {
      this.#checkWritable();
      checkRange(this.size, offset, source.length);
      this.#put(offset, source);
    },
    flush: () => {},
    discard: (offset, length) => this.#clear(offset, length),
    writeZeroes: (offset, length) => this.#clear(offset, length),
  };

  /** The content for a snapshot. Freezing costs a list of the chunks; a write that follows copies its chunk. */
  readonly content: BackendContent = {
    freeze: () => this.#freeze(),
    restore: (index, page) => {
      const offset = index * PAGE_SIZE;
      if (!(index >= 0 && offset < this.size)) {
        throw new RangeError(
          `page ${index} is outside the scratch disk of ${this.size} bytes`,
        );
      }
      this.#put(
        offset,
        page.subarray(0, Math.min(PAGE_SIZE, this.size - offset)),
      );
    },
  };

  /**
   * Makes a disk of zeroes.
   *
   * @param size Bytes, a multiple of 512.
   * @param readOnly Whether writes are refused.
   * @throws {MachineError} If the size is not a positive multiple of 512.
   */
  constructor(size: number = DEFAULT_MEMORY_SIZE, readOnly = false) {
    checkSize("the scratch disk", size);
    this.size = size;
    this.readOnly = readOnly;
  }

  /** Bytes that the disk takes up now. */
  get allocated(): number {
    return this.#chunks.size * CHUNK_SIZE;
  }

  // deno-lint-ignore require-await -- what it throws becomes a rejection
  async read(offset: number, target: Uint8Array): Promise<void> {
    this.immediate.read(offset, target);
  }

  // deno-lint-ignore require-await
  async write(offset: number, source: Uint8Array): Promise<void> {
    this.immediate.write(offset, source);
  }

  // deno-lint-ignore require-await
  async flush(): Promise<void> {
    this.immediate.flush();
  }

  // deno-lint-ignore require-await
  async discard(offset: number, length: number): Promise<void> {
    this.immediate.discard(offset, length);
  }

  // deno-lint-ignore require-await
  async writeZeroes(
    offset: number,
    length: number,
    unmap: boolean,
  ): Promise<void> {
    this.immediate.writeZeroes(offset, length, unmap);
  }

  /** Frees the memory. */
  // deno-lint-ignore require-await
  async close(): Promise<void> {
    this.#chunks.clear();
  }

  #checkWritable(): void {
    if (this.readOnly) throw new Error("the scratch disk is read-only");
  }

  /** Makes a range zero, and frees the chunks that are wholly inside it. */
  #clear(offset: number, length: number): void {
    this.#checkWritable();
    checkRange(this.size, offset, length);
    // A range may span the whole disk: visit the chunks that exist, not all that could.
    const end = offset + length;
    for (const chunk of this.#chunks.keys()) {
      const base = chunk * CHUNK_SIZE;
      const from = Math.max(offset - base, 0);
      const to = Math.min(end - base, CHUNK_SIZE);
      if (from >= to) continue;
      if (from === 0 && to === CHUNK_SIZE) this.#chunks.delete(chunk);
      else this.#own(chunk).fill(0, from, to);
    }
  }

  #put(offset: number, source: Uint8Array): void {
    this.#each(offset, source.length, (chunk, at, from, count) => {
      const part = source.subarray(from, from + count);
      if (!this.#chunks.has(chunk) && isZero(part)) return;
      this.#own(chunk).set(part, at);
    });
  }

  /** A chunk's bytes for writing: made where there are none, a copy where a frozen one holds them. */
  #own(index: number): Uint8Array {
    const chunk = this.#chunks.get(index);
    if (chunk?.holders === 0) return chunk.bytes;
    const bytes = chunk?.bytes.slice() ?? new Uint8Array(CHUNK_SIZE);
    this.#chunks.set(index, { bytes, holders: 0 });
    return bytes;
  }

  #freeze(): FrozenContent {
    const held = new Map(this.#chunks);
    for (const chunk of held.values()) chunk.holders++;
    return {
      bytes: this.size,
      page(index) {
        const chunk = held.get(Math.floor(index / PAGES_PER_CHUNK));
        const at = index % PAGES_PER_CHUNK * PAGE_SIZE;
        const page = chunk?.bytes.subarray(at, at + PAGE_SIZE);
        return page === undefined || isZero(page) ? undefined : page;
      },
      release() {
        for (const chunk of held.values()) chunk.holders--;
        held.clear();
      },
    };
  }

  /** Calls `part` with the chunk, the place in it, the place in the buffer, and the count, for each chunk of a range. */
  #each(
    offset: number,
    length: number,
    part: (chunk: number, at: number, from: number, count: number) => void,
  ): void {
    for (let from = 0; from < length;) {
      const at = (offset + from) % CHUNK_SIZE;
      const count = Math.min(CHUNK_SIZE - at, length - from);
      part(Math.floor((offset + from) / CHUNK_SIZE), at, from, count);
      from += count;
    }
  }
}

/** Whether every byte is zero. */
function isZero(bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== 0) return false;
  return true;
}
