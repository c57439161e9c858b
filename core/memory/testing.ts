/**
 * For the tests of frozen and absent pages: images in memory.
 *
 * @module
 */
import type { ImageBlock } from "../../snapshot/container.ts";
import type { PageSource } from "../../snapshot/memory_image.ts";
import { PAGE_SIZE } from "./memory.ts";

/**
 * Takes some pages of a source into an image, as a snapshot's writer does.
 *
 * @param source The source.
 * @param image The memory as its parent has it, or zeroes.
 * @param count How many; all when absent.
 */
export function takePages(
  source: PageSource,
  image: Uint8Array,
  count = Infinity,
): void {
  for (let i = 0; i < count; i++) {
    const taken = source.take();
    if (taken === undefined) return;
    const at = taken.page * PAGE_SIZE;
    if (taken.content !== undefined) image.set(taken.content, at);
    else image.fill(0, at, at + PAGE_SIZE);
  }
}

/**
 * Whether two images are equal.
 *
 * @param a One, at a multiple of four bytes in its buffer, as the other.
 * @param b The other.
 */
export function sameImage(a: Uint8Array, b: Uint8Array): boolean {
  const words = (image: Uint8Array) =>
    new Uint32Array(image.buffer, image.byteOffset, image.length / 4);
  const left = words(a), right = words(b);
  for (let i = 0; i < left.length; i++) if (left[i] !== right[i]) return false;
  return left.length === right.length;
}

/** An {@linkcode ImageBlock} that counts. */
export interface CountedBlock extends ImageBlock {
  /** How often it was loaded. */
  loads: number;
}

/**
 * The blocks of an image, a few pages in each.
 *
 * @param image The image.
 * @param pagesPerBlock Pages that are not zero, per block.
 * @returns The blocks; they keep a copy.
 */
export function imageBlocks(
  image: Uint8Array,
  pagesPerBlock = 3,
): CountedBlock[] {
  const copy = image.slice();
  const pages: number[] = [];
  for (let page = 0; page < copy.length / PAGE_SIZE; page++) {
    const at = page * PAGE_SIZE;
    const content = copy.subarray(at, at + PAGE_SIZE);
    if (!sameImage(content, new Uint8Array(PAGE_SIZE))) pages.push(page);
  }
  const blocks: CountedBlock[] = [];
  while (pages.length > 0) {
    const own = pages.splice(0, pagesPerBlock);
    const content = () => {
      const raw = new Uint8Array(own.length * PAGE_SIZE);
      own.forEach((page, i) => {
        const at = page * PAGE_SIZE;
        raw.set(copy.subarray(at, at + PAGE_SIZE), i * PAGE_SIZE);
      });
      block.loads++;
      return raw;
    };
    const block: CountedBlock = {
      pages: own,
      slots: own.map((_page, i) => i),
      loads: 0,
      load: () => Promise.resolve().then(content),
      loadNow: content,
    };
    blocks.push(block);
  }
  return blocks;
}
