/**
 * Memory images: pages of zeroes cost nothing, equal pages are stored once, the rest is stored in
 * compressed blocks (docs/snapshot-format.md, section 5).
 *
 * @module
 */

/** Bytes of a page. */
export const PAGE_BYTES = 4096;
/** Distinct pages of a block at most. */
export const BLOCK_PAGES = 256;
const WORDS = PAGE_BYTES / 4;
/** FNV-1a, 32 bits, over words. */
const HASH_BASIS = 0x811c9dc5;
const HASH_PRIME = 0x01000193;

/** What stands for a page in an index: 0 for zeroes, else 1 + the number of the stored page. */
export type PageIndex = Uint32Array<ArrayBuffer>;

/** Which pages of a memory have to be stored. */
export interface PagePlan {
  /** By page of memory. */
  index: PageIndex;
  /** By number of the stored page, the page of memory that it is taken from. */
  stored: number[];
}

/** Hashes the page at word `at`; 0 exactly when every word is zero. */
function hashPage(words: Uint32Array, at: number): number {
  let hash = HASH_BASIS;
  let any = 0;
  for (let i = at; i < at + WORDS; i++) {
    const word = words[i];
    any |= word;
    hash = Math.imul(hash ^ word, HASH_PRIME);
    hash ^= hash >>> 15;
  }
  return any === 0 ? 0 : hash >>> 0 || 1;
}

function equalPages(words: Uint32Array, a: number, b: number): boolean {
  for (let i = 0; i < WORDS; i++) {
    if (words[a + i] !== words[b + i]) return false;
  }
  return true;
}

/**
 * Finds zero pages and equal pages.
 *
 * @param memory The memory: whole pages, at a multiple of four bytes in its buffer.
 * @returns What to store.
 */
export function planPages(memory: Uint8Array): PagePlan {
  const words = new Uint32Array(
    memory.buffer,
    memory.byteOffset,
    memory.length / 4,
  );
  const pages = memory.length / PAGE_BYTES;
  const index = new Uint32Array(pages);
  const stored: number[] = [];
  const first = new Map<number, number>();
  for (let page = 0; page < pages; page++) {
    const at = page * WORDS;
    const hash = hashPage(words, at);
    if (hash === 0) continue;
    const other = first.get(hash);
    if (
      other !== undefined && equalPages(words, at, stored[other] * WORDS)
    ) {
      index[page] = other + 1;
      continue;
    }
    if (other === undefined) first.set(hash, stored.length);
    stored.push(page);
    index[page] = stored.length;
  }
  return { index, stored };
}

/**
 * The bytes of one block of stored pages.
 *
 * @param memory The memory.
 * @param plan What to store.
 * @param block The block's number.
 * @returns Its pages, one after another.
 */
export function blockOf(
  memory: Uint8Array,
  plan: PagePlan,
  block: number,
): Uint8Array<ArrayBuffer> {
  const pages = plan.stored.slice(
    block * BLOCK_PAGES,
    (block + 1) * BLOCK_PAGES,
  );
  const bytes = new Uint8Array(pages.length * PAGE_BYTES);
  pages.forEach((page, i) => {
    const from = page * PAGE_BYTES;
    bytes.set(memory.subarray(from, from + PAGE_BYTES), i * PAGE_BYTES);
  });
  return bytes;
}
