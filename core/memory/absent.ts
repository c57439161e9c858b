/**
 * Pages that are still in a snapshot's file: loaded when they are first touched, and all the others meanwhile
 * (DESIGN.md section 6).
 *
 * @module
 */
import { eachBlock, type ImageBlock } from "../../snapshot/container.ts";
import {
  type GuestMemory,
  PAGE,
  PAGE_SIZE,
  type PageLoader,
} from "./memory.ts";

/** The pages of RAM that a snapshot has. */
export class AbsentPages implements PageLoader {
  /** Called with what went wrong, before it is thrown: a page of RAM cannot be had. */
  onLost: (error: unknown) => void = () => {};
  readonly #memory: GuestMemory;
  readonly #blocks: readonly ImageBlock[];
  /** By page, the block that has it. */
  readonly #blockOf: Uint32Array;
  #left = 0;
  #stopped = false;

  /**
   * Makes RAM hold what the blocks have, and zeroes.
   *
   * @param memory The memory, in which nothing was written yet.
   * @param blocks The blocks.
   */
  constructor(memory: GuestMemory, blocks: readonly ImageBlock[]) {
    this.#memory = memory;
    this.#blocks = blocks;
    const pages = memory.ram / PAGE_SIZE;
    this.#blockOf = new Uint32Array(pages);
    memory.flags.fill(PAGE.CLEAN | PAGE.ZERO, 0, pages);
    for (const [i, block] of blocks.entries()) {
      for (const page of block.pages) {
        this.#blockOf[page] = i;
        memory.flags[page] = PAGE.CLEAN | PAGE.ABSENT;
      }
      this.#left += block.pages.length;
    }
    if (this.#left > 0) memory.loader = this;
  }

  /** Whether pages can be loaded at once, as a guest that runs needs it. */
  get canWait(): boolean {
    return this.#blocks.every(({ loadNow }) => loadNow !== undefined);
  }

  load(page: number): void {
    const block = this.#blocks[this.#blockOf[page]];
    try {
      this.#place(block, block.loadNow!());
    } catch (error) {
      this.onLost(error);
      throw error;
    }
  }

  /** Loads at once what is not there yet. */
  loadRest(): void {
    const { flags } = this.#memory;
    for (let page = 0; this.#left > 0 && page < this.#blockOf.length; page++) {
      if (flags[page] & PAGE.ABSENT) this.load(page);
    }
  }

  /**
   * Loads everything, block after block, while others use the thread too.
   *
   * @param onProgress Told the blocks that are done, and all of them.
   * @throws {SnapshotError} When a block is damaged.
   */
  async stream(
    onProgress?: (done: number, total: number) => void,
  ): Promise<void> {
    try {
      await eachBlock(
        this.#blocks.filter((block) => this.#isNeeded(block)),
        (block, raw) => this.#place(block, raw),
        onProgress,
        () => this.#stopped || this.#left === 0,
      );
    } catch (error) {
      if (this.#stopped) return;
      this.onLost(error);
      throw error;
    }
  }

  /** Begins no more. */
  stop(): void {
    this.#stopped = true;
  }

  #isNeeded({ pages }: ImageBlock): boolean {
    const { flags } = this.#memory;
    return pages.some((page) => flags[page] & PAGE.ABSENT);
  }

  /** Puts those pages of a block into RAM that are not there yet. */
  #place({ pages, slots }: ImageBlock, raw: Uint8Array): void {
    const { bytes, flags, ramBase } = this.#memory;
    for (let i = 0; i < pages.length; i++) {
      const page = pages[i];
      if ((flags[page] & PAGE.ABSENT) === 0) continue;
      const from = slots[i] * PAGE_SIZE;
      bytes.set(
        raw.subarray(from, from + PAGE_SIZE),
        ramBase + page * PAGE_SIZE,
      );
      flags[page] &= ~PAGE.ABSENT;
      this.#left--;
    }
    if (this.#left === 0) this.#memory.loader = undefined;
  }
}
