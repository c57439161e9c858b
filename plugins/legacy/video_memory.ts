/**
 * The memory of a display adapter: its bytes, which pages were written since the display looked,
 * and how it is saved.
 *
 * @module
 */
import type { AccessSize, IoHandler, Rectangle } from "../../core/plugin.ts";
import {
  bytes,
  type Infer,
  list,
  record,
  SchemaError,
  u32,
} from "../../snapshot/schema.ts";

/** Bytes of a page, in which writes are noticed and content is saved. */
export const VIDEO_PAGE = 4096;
const PAGE_SHIFT = 12;
/** Flags of a page: written since the display looked; written since all was zero. */
const DIRTY = 1;
const USED = 2;
const MAX_PAGES = (16 << 20) / VIDEO_PAGE;

/** The type of saved video memory: the pages that are not zero, ascending. */
export const videoPages = () =>
  list(
    record({ page: u32({ max: MAX_PAGES - 1 }), bytes: bytes(VIDEO_PAGE) }),
    {
      max: MAX_PAGES,
    },
  );

/** Saved video memory. */
export type VideoPages = Infer<ReturnType<typeof videoPages>>;

/** Memory of a display adapter. */
export class VideoMemory {
  /** The content. Whoever changes it calls {@linkcode touch}. */
  readonly bytes: Uint8Array;
  /** The same as little-endian words: the four planes of a VGA side by side. */
  readonly words: Uint32Array;
  readonly #view: DataView;
  /** By page: {@linkcode DIRTY} and {@linkcode USED}. */
  readonly #flags: Uint8Array;
  #any = true;

  /**
   * Memory of zeroes.
   *
   * @param size Bytes, a multiple of {@linkcode VIDEO_PAGE}.
   */
  constructor(readonly size: number) {
    this.bytes = new Uint8Array(size);
    this.words = new Uint32Array(this.bytes.buffer);
    this.#view = new DataView(this.bytes.buffer);
    this.#flags = new Uint8Array(size / VIDEO_PAGE).fill(DIRTY);
  }

  /** The byte at an offset was written. */
  touch(offset: number): void {
    this.#flags[offset >>> PAGE_SHIFT] = DIRTY | USED;
    this.#any = true;
  }

  /** Everything may have changed. */
  touchAll(): void {
    for (let page = 0; page < this.#flags.length; page++) {
      this.#flags[page] |= DIRTY;
    }
    this.#any = true;
  }

  /** Makes everything zero. */
  clear(): void {
    for (let page = 0; page < this.#flags.length; page++) {
      const start = page * VIDEO_PAGE;
      if (this.#flags[page] & USED) {
        this.bytes.fill(0, start, start + VIDEO_PAGE);
      }
    }
    this.#flags.fill(DIRTY);
    this.#any = true;
  }

  /** Whether anything was written since {@linkcode forget}. */
  get isDirty(): boolean {
    return this.#any;
  }

  /**
   * Whether a range was written since {@linkcode forget}.
   *
   * @param offset Its start.
   * @param length Bytes, at least 1.
   */
  wasWritten(offset: number, length: number): boolean {
    const last = Math.min(offset + length, this.size) - 1;
    for (
      let page = offset >>> PAGE_SHIFT;
      page <= last >>> PAGE_SHIFT;
      page++
    ) {
      if (this.#flags[page] & DIRTY) return true;
    }
    return false;
  }

  /** All that was written has been seen. */
  forget(): void {
    if (!this.#any) return;
    this.#any = false;
    for (let page = 0; page < this.#flags.length; page++) {
      this.#flags[page] &= USED;
    }
  }

  /** Answers accesses to the whole memory, byte by byte as it is: a linear frame buffer. */
  get handler(): IoHandler {
    return {
      read: (offset, size) => this.#read(offset, size),
      write: (offset, size, value) => this.#write(offset, size, value),
    };
  }

  #read(offset: number, size: AccessSize): number {
    if (offset + size > this.size) return 0xffffffff;
    if (size === 4) return this.#view.getUint32(offset, true);
    return size === 2 ? this.#view.getUint16(offset, true) : this.bytes[offset];
  }

  #write(offset: number, size: AccessSize, value: number): void {
    if (offset + size > this.size) return;
    if (size === 4) this.#view.setUint32(offset, value, true);
    else if (size === 2) this.#view.setUint16(offset, value, true);
    else this.bytes[offset] = value;
    this.touch(offset);
    this.touch(offset + size - 1);
  }

  /** The content, as it is saved. */
  save(): VideoPages {
    const pages: VideoPages = [];
    const words = VIDEO_PAGE / 4;
    for (let page = 0; page < this.#flags.length; page++) {
      if ((this.#flags[page] & USED) === 0) continue;
      const end = (page + 1) * words;
      let at = page * words;
      while (at < end && this.words[at] === 0) at++;
      if (at === end) continue;
      const start = page * VIDEO_PAGE;
      pages.push({ page, bytes: this.bytes.slice(start, start + VIDEO_PAGE) });
    }
    return pages;
  }

  /**
   * Puts saved content back.
   *
   * @param pages The pages that are not zero.
   * @throws {SchemaError} When they are not ascending or beyond the end.
   */
  restore(pages: VideoPages): void {
    let before = -1;
    for (const [i, { page }] of pages.entries()) {
      if (page <= before || page >= this.#flags.length) {
        throw new SchemaError(
          `memory[${i}].page`,
          `is ${page}: expected ascending numbers below ${this.#flags.length}`,
        );
      }
      before = page;
    }
    this.clear();
    for (const { page, bytes } of pages) {
      this.bytes.set(bytes, page * VIDEO_PAGE);
      this.touch(page * VIDEO_PAGE);
    }
  }
}

/** Rectangles of a picture at most, in one update. */
export const MAX_RECTANGLES = 64;

/**
 * Makes whole-width rectangles of lines.
 *
 * @param changed Whether a line has changed.
 * @param width Width of the picture.
 * @param height Lines.
 * @returns Runs of changed lines; where there are too many, one from the first to the last.
 */
export function changedLines(
  changed: (line: number) => boolean,
  width: number,
  height: number,
): Rectangle[] {
  const parts: Rectangle[] = [];
  let from = -1;
  for (let line = 0; line <= height; line++) {
    if (line < height && changed(line)) {
      if (from < 0) from = line;
    } else if (from >= 0) {
      parts.push({ x: 0, y: from, width, height: line - from });
      from = -1;
    }
  }
  if (parts.length <= MAX_RECTANGLES) return parts;
  const last = parts[parts.length - 1];
  const y = parts[0].y;
  return [{ x: 0, y, width, height: last.y + last.height - y }];
}
