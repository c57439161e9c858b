/**
 * Compares the memories of two snapshots.
 *
 * @module
 */
import type { ImageBlock, SnapshotReader } from "./container.ts";
import { PAGE_BYTES } from "./memory_image.ts";

/** Blocks of each snapshot that are kept: pages are asked for nearly in the order of the file. */
const KEPT_BLOCKS = 16;

/** The pages of a memory, one at a time. */
class Pages {
  readonly #blocks: readonly ImageBlock[];
  readonly #places = new Map<number, { block: number; slot: number }>();
  readonly #kept = new Map<number, Uint8Array>();

  constructor(reader: SnapshotReader, region: string) {
    this.#blocks = reader.blocks(region);
    this.#blocks.forEach(({ pages, slots }, block) =>
      pages.forEach((page, i) =>
        this.#places.set(page, { block, slot: slots[i] })
      )
    );
  }

  get numbers(): Iterable<number> {
    return this.#places.keys();
  }

  /** The bytes of a page; undefined where all are zero. */
  async page(page: number): Promise<Uint8Array | undefined> {
    const place = this.#places.get(page);
    if (place === undefined) return undefined;
    const { block, slot } = place;
    let raw = this.#kept.get(block);
    if (raw === undefined) {
      raw = await this.#blocks[block].load();
      for (const oldest of this.#kept.keys()) {
        if (this.#kept.size < KEPT_BLOCKS) break;
        this.#kept.delete(oldest);
      }
      this.#kept.set(block, raw);
    }
    const bytes = raw.subarray(slot * PAGE_BYTES, (slot + 1) * PAGE_BYTES);
    return bytes.some((byte) => byte !== 0) ? bytes : undefined;
  }
}

/** Pages one after another that differ. */
export interface PageRange {
  /** The first. */
  first: number;
  /** How many. */
  pages: number;
}

/**
 * Finds the pages in which a memory of two snapshots differs.
 *
 * @param a One.
 * @param b The other.
 * @param region Name of the memory; where one snapshot has none, its pages are zeroes.
 * @returns The ranges, ascending.
 * @throws {SnapshotError} When a block is damaged.
 */
export async function differingPages(
  a: SnapshotReader,
  b: SnapshotReader,
  region: string,
): Promise<PageRange[]> {
  const left = new Pages(a, region);
  const right = new Pages(b, region);
  const numbers = [...new Set([...left.numbers, ...right.numbers])];
  const ranges: PageRange[] = [];
  for (const page of numbers.sort((x, y) => x - y)) {
    const one = await left.page(page);
    const other = await right.page(page);
    if (
      one === other ||
      (one !== undefined && other !== undefined &&
        one.every((byte, i) => byte === other[i]))
    ) continue;
    const last = ranges.at(-1);
    if (last !== undefined && last.first + last.pages === page) last.pages++;
    else ranges.push({ first: page, pages: 1 });
  }
  return ranges;
}
