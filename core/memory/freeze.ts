/**
 * RAM at one instant, while the guest goes on writing to it: pages that a snapshot still needs are flagged, and the
 * first write to one keeps a copy (DESIGN.md sections 4 and 6).
 *
 * @module
 */
import type { PageSource, TakenPage } from "../../snapshot/memory_image.ts";
import {
  type GuestMemory,
  PAGE,
  PAGE_SIZE,
  type PageKeeper,
} from "./memory.ts";

/** Bytes of copies at which the guest waits until the snapshot has caught up. */
const BEHIND_BYTES = 128 << 20;

/** A page that the guest has written since. */
interface KeptPage {
  hash: number;
  /** Undefined where all bytes are zero. */
  content: Uint8Array | undefined;
}

/** The content of RAM at the instant at which this is made. */
export class FrozenMemory implements PageSource, PageKeeper {
  /** Name of this memory in a snapshot. */
  readonly region = "ram";
  /** Bytes of RAM. */
  readonly bytes: number;
  /** Whether only pages without the flag CLEAN are taken. */
  readonly inherits: boolean;
  readonly #memory: GuestMemory;
  readonly #pages: number;
  /** The flags before, so that a snapshot that fails leaves CLEAN as it was. */
  readonly #flags: Uint8Array;
  readonly #kept = new Map<number, KeptPage>();
  #next = 0;
  #left = 0;

  /**
   * Freezes. The vCPUs must be between two instructions.
   *
   * @param memory The memory; it has no other snapshot in progress.
   * @param inherits Leaves out the pages that are as in the last snapshot.
   */
  constructor(memory: GuestMemory, inherits: boolean) {
    this.#memory = memory;
    this.bytes = memory.ram;
    this.inherits = inherits;
    this.#pages = memory.ram / PAGE_SIZE;
    const { flags } = memory;
    this.#flags = flags.slice(0, this.#pages);
    // A page of zeroes is in a full snapshot by being left out.
    const skipped = inherits ? PAGE.CLEAN : PAGE.ZERO;
    for (let page = 0; page < this.#pages; page++) {
      if (flags[page] & skipped) flags[page] |= PAGE.CLEAN;
      else {
        flags[page] |= PAGE.CLEAN | PAGE.COW;
        this.#left++;
      }
    }
    memory.keeper = this;
    memory.onWatch();
  }

  /** How many pages are left. */
  get left(): number {
    return this.#left;
  }

  get behind(): boolean {
    return this.#kept.size * PAGE_SIZE > BEHIND_BYTES;
  }

  #address(page: number): number {
    return this.#memory.ramBase + page * PAGE_SIZE;
  }

  #content(page: number): Uint8Array {
    const at = this.#address(page);
    return this.#memory.bytes.subarray(at, at + PAGE_SIZE);
  }

  #hashOf(page: number): number {
    return this.#memory.flags[page] & PAGE.ZERO
      ? 0
      : this.#memory.hashPage(this.#address(page));
  }

  keep(page: number): void {
    const hash = this.#hashOf(page);
    this.#kept.set(page, {
      hash,
      content: hash === 0 ? undefined : this.#content(page).slice(),
    });
  }

  take(): TakenPage | undefined {
    // What was kept goes first: its memory is free again then.
    for (const [page, { hash, content }] of this.#kept) {
      this.#kept.delete(page);
      this.#left--;
      return { page, hash, content };
    }
    const { flags } = this.#memory;
    while (this.#next < this.#pages && (flags[this.#next] & PAGE.COW) === 0) {
      this.#next++;
    }
    if (this.#next === this.#pages) return undefined;
    const page = this.#next++;
    this.#memory.present(this.#address(page));
    const hash = this.#hashOf(page);
    flags[page] &= ~PAGE.COW;
    if (hash === 0) flags[page] |= PAGE.ZERO;
    this.#left--;
    return {
      page,
      hash,
      content: hash === 0 ? undefined : this.#content(page),
    };
  }

  again(page: number): Uint8Array | undefined {
    return this.#memory.flags[page] & PAGE.CLEAN
      ? this.#content(page)
      : undefined;
  }

  /**
   * Ends it; the guest's writes keep nothing any more.
   *
   * @param written Whether the snapshot is there: then, clean is what was not written since. If not, clean is what it
   *   was before, less what was written since.
   */
  end(written: boolean): void {
    const { flags } = this.#memory;
    for (let page = 0; page < this.#pages; page++) {
      flags[page] &= ~PAGE.COW;
      if (!written && (this.#flags[page] & PAGE.CLEAN) === 0) {
        flags[page] &= ~PAGE.CLEAN;
      }
    }
    this.#kept.clear();
    this.#memory.keeper = undefined;
  }
}
