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
/** Pages that are looked at in one go at most, so that whoever shares the thread is not held up. */
const QUANTUM_PAGES = 1024;
const WORDS = PAGE_BYTES / 4;
/** FNV-1a, 32 bits, over words. */
const HASH_BASIS = 0x811c9dc5;
const HASH_PRIME = 0x01000193;

/** A page that is to be stored. */
export interface TakenPage {
  /** Its number. */
  page: number;
  /** Its bytes, valid until the thread is given away; undefined where all of them are zero. */
  content: Uint8Array | undefined;
  /** A hash of its bytes, where the source has one; never 0. */
  hash?: number;
}

/** The pages of a memory at one instant, in the order that suits who has them. */
export interface PageSource {
  /** `ram`, `rom`, or `disk:` and the id of a device. */
  readonly region: string;
  /** Bytes of the memory. */
  readonly bytes: number;
  /** Whether pages that are never taken are as in the parent; if not, they are zeroes. */
  readonly inherits: boolean;
  /** How many pages are left, at most. */
  readonly left: number;
  /** Takes the next page; undefined when there is none left. */
  take(): TakenPage | undefined;
  /** The bytes of a page that was taken, if they can still be had. */
  again(page: number): Uint8Array | undefined;
}

/** Content by page: what {@linkcode pagesOf} takes. */
export interface PagedContent {
  /** Bytes. */
  readonly bytes: number;
  /** 4096 bytes; undefined where all of them are zero. */
  page(index: number): Uint8Array | undefined;
}

/**
 * The pages of content that does not change.
 *
 * @param region Name of the memory.
 * @param content The content.
 * @returns Its pages in order.
 */
export function pagesOf(region: string, content: PagedContent): PageSource {
  const pages = Math.ceil(content.bytes / PAGE_BYTES);
  let next = 0;
  return {
    region,
    bytes: content.bytes,
    inherits: false,
    get left() {
      return pages - next;
    },
    take: () =>
      next === pages
        ? undefined
        : { page: next, content: content.page(next++) },
    again: (page) => content.page(page),
  };
}

/**
 * Bytes as content.
 *
 * @param bytes Whole pages.
 * @returns The same by page.
 */
export function contentOf(bytes: Uint8Array): PagedContent {
  return {
    bytes: bytes.length,
    page: (index) =>
      bytes.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES),
  };
}

function wordsOf(page: Uint8Array): Uint32Array {
  const aligned = page.byteOffset % 4 === 0 ? page : page.slice();
  return new Uint32Array(aligned.buffer, aligned.byteOffset, WORDS);
}

/** Hashes a page; 0 exactly when every byte is zero. */
function hashPage(page: Uint8Array): number {
  const words = wordsOf(page);
  let hash = HASH_BASIS;
  let any = 0;
  for (let i = 0; i < WORDS; i++) {
    const word = words[i];
    any |= word;
    hash = Math.imul(hash ^ word, HASH_PRIME);
    hash ^= hash >>> 15;
  }
  return any === 0 ? 0 : hash >>> 0 || 1;
}

function equalPages(a: Uint8Array, b: Uint8Array): boolean {
  const left = wordsOf(a), right = wordsOf(b);
  for (let i = 0; i < WORDS; i++) if (left[i] !== right[i]) return false;
  return true;
}

/** Collects the pages of one memory into blocks. */
export class ImageBuilder {
  /** Pages stored so far. */
  stored = 0;
  readonly #source: PageSource;
  readonly #pages: number[] = [];
  readonly #numbers: number[] = [];
  /** By hash, the number of a stored page; and by that number less 1, the page it was taken from. */
  readonly #known = new Map<number, number>();
  readonly #origin: number[] = [];
  #block = new Uint8Array(BLOCK_PAGES * PAGE_BYTES);
  #used = 0;
  /** Nothing is left to take. */
  #done = false;

  /** @param source The memory. */
  constructor(source: PageSource) {
    this.#source = source;
  }

  /**
   * Looks at some more pages.
   *
   * @returns A block that is full, or the last one; `"more"` when it was enough for now, undefined at the end.
   */
  next(): Uint8Array<ArrayBuffer> | "more" | undefined {
    if (this.#done) return undefined;
    for (let i = 0; i < QUANTUM_PAGES; i++) {
      const taken = this.#source.take();
      if (taken === undefined) {
        this.#done = true;
        return this.#used === 0
          ? undefined
          : this.#block.subarray(0, this.#used * PAGE_BYTES);
      }
      this.#add(taken);
      if (this.#used === BLOCK_PAGES) {
        const full = this.#block;
        this.#block = new Uint8Array(BLOCK_PAGES * PAGE_BYTES);
        this.#used = 0;
        return full;
      }
    }
    return "more";
  }

  #add({ page, content, hash }: TakenPage): void {
    if (content === undefined || hash === 0) return this.#enter(page, 0);
    const at = this.#used * PAGE_BYTES;
    hash ??= hashPage(content);
    if (hash === 0) return this.#enter(page, 0);
    const known = this.#known.get(hash);
    const other = known === undefined
      ? undefined
      : this.#source.again(this.#origin[known - 1]);
    if (other !== undefined && equalPages(content, other)) {
      return this.#enter(page, known!);
    }
    this.#block.set(content, at);
    this.#used++;
    this.stored++;
    this.#origin.push(page);
    // What cannot be compared with any more makes room for what can.
    if (other === undefined) this.#known.set(hash, this.stored);
    this.#enter(page, this.stored);
  }

  #enter(page: number, number: number): void {
    if (number === 0 && !this.#source.inherits) return;
    this.#pages.push(page);
    this.#numbers.push(number);
  }

  /** The map: the pages in ascending order, each with its number. */
  map(): PageMap {
    const pages = Uint32Array.from(this.#pages);
    const numbers = Uint32Array.from(this.#numbers);
    if (pages.every((page, i) => i === 0 || page > pages[i - 1])) {
      return { pages, numbers };
    }
    const all = Math.ceil(this.#source.bytes / PAGE_BYTES);
    // One more than the number, so that 0 is a page that is not there.
    const byPage = new Uint32Array(all);
    pages.forEach((page, i) => byPage[page] = numbers[i] + 1);
    let at = 0;
    for (let page = 0; page < all; page++) {
      if (byPage[page] === 0) continue;
      pages[at] = page;
      numbers[at++] = byPage[page] - 1;
    }
    return { pages, numbers };
  }
}

/** Which pages a snapshot has. */
export interface PageMap {
  /** Pages, ascending. */
  pages: Uint32Array<ArrayBuffer>;
  /** For each of them, 0 for zeroes or the number of the stored page, from 1. */
  numbers: Uint32Array<ArrayBuffer>;
}

/** Pages of a memory, and where they are in a chain of snapshots. */
export interface LayeredMap extends PageMap {
  /** For each of the pages, which snapshot: 0 for the newest. */
  layers: Uint8Array;
}

/**
 * Lays maps over each other.
 *
 * @param maps The newest first.
 * @returns All their pages, each from the newest that has it; none that is zero.
 */
export function overlay(maps: readonly PageMap[]): LayeredMap {
  let under: LayeredMap = {
    pages: new Uint32Array(0),
    numbers: new Uint32Array(0),
    layers: new Uint8Array(0),
  };
  for (let layer = maps.length - 1; layer >= 0; layer--) {
    const over = maps[layer];
    const most = under.pages.length + over.pages.length;
    const pages = new Uint32Array(most);
    const numbers = new Uint32Array(most);
    const layers = new Uint8Array(most);
    let count = 0;
    for (let u = 0, o = 0; u < under.pages.length || o < over.pages.length;) {
      const below = u < under.pages.length ? under.pages[u] : Infinity;
      const above = o < over.pages.length ? over.pages[o] : Infinity;
      if (above <= below) {
        if (above === below) u++;
        if (over.numbers[o] !== 0) {
          pages[count] = above;
          numbers[count] = over.numbers[o];
          layers[count++] = layer;
        }
        o++;
      } else {
        pages[count] = below;
        numbers[count] = under.numbers[u];
        layers[count++] = under.layers[u++];
      }
    }
    under = {
      pages: pages.subarray(0, count),
      numbers: numbers.subarray(0, count),
      layers: layers.subarray(0, count),
    };
  }
  return under;
}

/** The pages of a memory that one block has. */
export interface BlockUse {
  /** Which snapshot of the chain: 0 for the newest. */
  layer: number;
  /** The block's number in it. */
  block: number;
  /** Pages of the memory. */
  pages: number[];
  /** For each of them, the page of the block. */
  slots: number[];
}

/**
 * Groups pages by the block that has them.
 *
 * @param map The pages.
 * @returns The blocks, in the order of the first page that each has.
 */
export function blocksOf(map: LayeredMap): BlockUse[] {
  const found = new Map<number, BlockUse>();
  for (let i = 0; i < map.pages.length; i++) {
    const number = map.numbers[i] - 1;
    const layer = map.layers[i];
    const block = Math.floor(number / BLOCK_PAGES);
    const key = layer * 2 ** 32 + block;
    let use = found.get(key);
    if (use === undefined) {
      use = { layer, block, pages: [], slots: [] };
      found.set(key, use);
    }
    use.pages.push(map.pages[i]);
    use.slots.push(number % BLOCK_PAGES);
  }
  return [...found.values()];
}
