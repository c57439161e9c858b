/**
 * The picture of a VGA: text, planar and packed-pixel modes, and the linear modes of the Bochs
 * display interface, from registers and memory to pixels.
 *
 * Text does not blink and the cursor stands, so that a picture is the same whenever it is looked
 * at. Panning by single dots is that of the graphics modes only; the modes of the CGA, whose lines
 * are interleaved, are drawn as 16 colours.
 *
 * @module
 */
import type { Rectangle } from "../../core/plugin.ts";
import {
  AR,
  AR_INDEX_SCREEN_ON,
  AR_MODE_BLINK,
  AR_MODE_LINE_GRAPHICS,
  AR_MODE_P54_SELECT,
  CLOCKING_8_DOTS,
  CLOCKING_SCREEN_OFF,
  CR,
  CURSOR_OFF,
  DISPI,
  DISPI_8BIT_DAC,
  DISPI_ENABLED,
  DISPI_MAX_XRES,
  DISPI_MAX_YRES,
  GR,
  GR_MISC_GRAPHICS,
  MODE_SHIFT_256,
  OVERFLOW_LINE_COMPARE,
  SCAN_LINE_COMPARE,
  SCAN_LINE_DOUBLE,
  SCAN_LINE_MASK,
  SR,
  type VgaRegisters,
} from "./vga_registers.ts";
import {
  changedLines,
  MAX_RECTANGLES,
  type VideoMemory,
} from "./video_memory.ts";

/** Words of four planes that the modes without DISPI reach. */
const PLANE_WORDS = 0x10000;
/** Words of one font, and of a character in it. */
const FONT_WORDS = 0x2000;
const CHARACTER_WORDS = 32;
/** The plane that has the fonts: its place in a word. */
const FONT_SHIFT = 16;
/** Characters whose eighth dot goes on into the ninth. */
const LINE_GRAPHICS_FIRST = 0xc0;
const LINE_GRAPHICS_LAST = 0xdf;
const COLORS = 256;

/** How the screen is divided. */
export interface Geometry {
  /** What a pixel is made of. */
  kind: "blank" | "text" | "planar" | "packed" | "linear";
  /** Dots a line. */
  width: number;
  /** Lines. */
  height: number;
  /** Bytes of memory from one line to the next; of text, from one row. */
  stride: number;
  /** Offset of the first line in memory. */
  start: number;
  /** Bits of a pixel, of `linear`. */
  depth: number;
  /** Scan lines for each line; of text, lines of a character. */
  repeat: number;
  /** The line at which memory starts again from 0. */
  split: number;
}

/** Whether the DISPI decides. */
export function isDispi({ dispi }: VgaRegisters): boolean {
  return (dispi[DISPI.ENABLE] & DISPI_ENABLED) !== 0;
}

/** Bits of a pixel that the DISPI has: what is none is 8. */
export function dispiDepth({ dispi }: VgaRegisters): number {
  const bpp = dispi[DISPI.BPP];
  return [4, 8, 15, 16, 24, 32].includes(bpp) ? bpp : 8;
}

/** Bytes of a line of the DISPI. */
export function dispiStride(registers: VgaRegisters, pixels: number): number {
  const depth = dispiDepth(registers);
  return depth === 4 ? pixels >> 1 : pixels * ((depth + 7) >> 3);
}

/** Pixels of a line of the DISPI. */
export function dispiWidth({ dispi }: VgaRegisters): number {
  return Math.min(Math.max(dispi[DISPI.XRES] & ~7, 8), DISPI_MAX_XRES);
}

function dispiGeometry(registers: VgaRegisters, size: number): Geometry {
  const { dispi } = registers;
  const depth = dispiDepth(registers);
  const width = dispiWidth(registers);
  const stride = Math.max(
    dispiStride(registers, Math.max(width, dispi[DISPI.VIRT_WIDTH] & ~7)),
    1,
  );
  const height = Math.min(
    Math.max(dispi[DISPI.YRES], 1),
    DISPI_MAX_YRES,
    Math.floor(size / stride),
  );
  const start = dispi[DISPI.Y_OFFSET] * stride +
    dispiStride(registers, dispi[DISPI.X_OFFSET]);
  return {
    kind: depth === 4 ? "planar" : "linear",
    width,
    height,
    stride,
    // Planes lie side by side in words.
    start: depth === 4 ? start & ~3 : start,
    depth,
    repeat: 1,
    split: height,
  };
}

/**
 * The geometry that registers make.
 *
 * @param registers The registers.
 * @param size Bytes of video memory.
 */
export function geometry(registers: VgaRegisters, size: number): Geometry {
  const { sr, cr, gr, arIndex } = registers;
  const isOff = (arIndex & AR_INDEX_SCREEN_ON) === 0 ||
    (sr[SR.CLOCKING] & CLOCKING_SCREEN_OFF) !== 0;
  if (isDispi(registers)) {
    const found = dispiGeometry(registers, size);
    return isOff ? { ...found, kind: "blank" } : found;
  }
  const overflow = cr[CR.OVERFLOW];
  const scanLines = 1 + (cr[CR.VERTICAL_DISPLAY_END] |
    (overflow & 0x02) << 7 | (overflow & 0x40) << 3);
  const scan = cr[CR.MAX_SCAN_LINE];
  const lineCompare = 1 + (cr[CR.LINE_COMPARE] |
    (overflow & OVERFLOW_LINE_COMPARE) << 4 | (scan & SCAN_LINE_COMPARE) << 3);
  const repeat = (scan & SCAN_LINE_MASK) + 1;
  const columns = cr[CR.HORIZONTAL_DISPLAY_END] + 1;
  const stride = cr[CR.OFFSET] * 8;
  const start = (cr[CR.START_HIGH] << 8 | cr[CR.START_LOW]) * 4;
  const common = { stride, start, depth: 0 };
  if ((gr[GR.MISC] & GR_MISC_GRAPHICS) === 0) {
    const rows = Math.max(1, Math.floor(scanLines / repeat));
    const dots = sr[SR.CLOCKING] & CLOCKING_8_DOTS ? 8 : 9;
    return {
      ...common,
      kind: isOff ? "blank" : "text",
      width: columns * dots,
      height: rows * repeat,
      repeat,
      split: Math.ceil(lineCompare / repeat),
    };
  }
  const lines = repeat * (scan & SCAN_LINE_DOUBLE ? 2 : 1);
  const mode = gr[GR.MODE];
  const kind = mode & MODE_SHIFT_256 ? "packed" : "planar";
  return {
    ...common,
    kind: isOff ? "blank" : kind,
    width: columns * (kind === "packed" ? 4 : 8),
    height: Math.max(1, Math.floor(scanLines / lines)),
    repeat: lines,
    split: Math.ceil(lineCompare / lines),
  };
}

/** The colours of the DAC, 0x00RRGGBB. */
function dacColors(registers: VgaRegisters): Uint32Array {
  const { palette, dispi } = registers;
  const isWide = isDispi(registers) &&
    (dispi[DISPI.ENABLE] & DISPI_8BIT_DAC) !== 0;
  const wide = (value: number) =>
    isWide ? value : (value & 0x3f) << 2 | (value & 0x3f) >> 4;
  return Uint32Array.from(
    { length: COLORS },
    (_, i) =>
      wide(palette[3 * i]) << 16 | wide(palette[3 * i + 1]) << 8 |
      wide(palette[3 * i + 2]),
  );
}

/** The 16 colours of the attribute controller. */
function attributeColors(registers: VgaRegisters): Uint32Array {
  const { ar, dacMask } = registers;
  const dac = dacColors(registers);
  const select = ar[AR.COLOR_SELECT];
  return Uint32Array.from({ length: 16 }, (_, i) => {
    const entry = ar[i & ar[AR.PLANE_ENABLE]];
    const index = ar[AR.MODE] & AR_MODE_P54_SELECT
      ? (entry & 0x0f) | (select & 0x0f) << 4
      : entry | (select & 0x0c) << 4;
    return dac[index & dacMask];
  });
}

/** Draws lines of one mode: what was looked up once for all of them. */
type DrawLine = (at: number, target: Uint32Array, to: number) => void;

function planarLines(
  memory: VideoMemory,
  registers: VgaRegisters,
  { width }: Geometry,
  mask: number,
): DrawLine {
  const colors = attributeColors(registers);
  const { words } = memory;
  const panning = isDispi(registers) ? 0 : registers.ar[AR.PANNING] & 7;
  return (at, target, to) => {
    for (let x = 0; x < width; x++) {
      const dot = x + panning;
      const word = words[(at >> 2) + (dot >> 3) & mask];
      const bits = word >>> (7 - (dot & 7));
      const color = (bits & 1) | (bits >>> 7 & 2) | (bits >>> 14 & 4) |
        (bits >>> 21 & 8);
      target[to + x] = colors[color];
    }
  };
}

function linearLines(
  memory: VideoMemory,
  registers: VgaRegisters,
  { width, depth }: Geometry,
): DrawLine {
  const { bytes, size } = memory;
  const colors = dacColors(registers);
  const { dacMask } = registers;
  const five = (value: number) => (value & 31) << 3 | (value & 31) >> 2;
  const step = (depth + 7) >> 3;
  const byte = (at: number) => bytes[at % size];
  const pixel: (at: number) => number = {
    8: (at: number) => colors[byte(at) & dacMask],
    15: (at: number) => {
      const value = byte(at) | byte(at + 1) << 8;
      return five(value >> 10) << 16 | five(value >> 5) << 8 | five(value);
    },
    16: (at: number) => {
      const value = byte(at) | byte(at + 1) << 8;
      const green = value >> 5 & 63;
      return five(value >> 11) << 16 | (green << 2 | green >> 4) << 8 |
        five(value);
    },
    24: (at: number) => byte(at) | byte(at + 1) << 8 | byte(at + 2) << 16,
    32: (at: number) => byte(at) | byte(at + 1) << 8 | byte(at + 2) << 16,
  }[depth]!;
  const { words } = memory;
  return (at, target, to) => {
    if (depth === 32 && at % 4 === 0 && at + 4 * width <= size) {
      const from = at / 4;
      for (let x = 0; x < width; x++) {
        target[to + x] = words[from + x] & 0xffffff;
      }
      return;
    }
    for (let x = 0; x < width; x++) target[to + x] = pixel(at + step * x);
  };
}

function packedLines(
  memory: VideoMemory,
  registers: VgaRegisters,
  { width }: Geometry,
): DrawLine {
  const { bytes } = memory;
  const { dacMask, ar } = registers;
  const colors = dacColors(registers);
  const panning = ar[AR.PANNING] >> 1 & 3;
  const mask = 4 * PLANE_WORDS - 1;
  return (at, target, to) => {
    for (let x = 0; x < width; x++) {
      target[to + x] = colors[bytes[at + x + panning & mask] & dacMask];
    }
  };
}

/** Keeps the pixels of one geometry up to date. */
export class VgaCanvas {
  /** The pixels, 0x00RRGGBB. */
  readonly pixels: Uint32Array;
  readonly #memory: VideoMemory;
  /** Text: what each cell showed, and -1 for what is to be drawn. */
  #cells = new Int32Array(0);

  /**
   * A black canvas.
   *
   * @param size Width and height.
   * @param memory Video memory.
   */
  constructor(readonly size: Geometry, memory: VideoMemory) {
    this.pixels = new Uint32Array(size.width * size.height);
    this.#memory = memory;
  }

  /**
   * Draws what has changed.
   *
   * @param registers The registers.
   * @param mode Their geometry, of the canvas's size.
   * @param all Draws everything.
   * @returns The parts that were drawn.
   */
  draw(registers: VgaRegisters, mode: Geometry, all: boolean): Rectangle[] {
    const { width, height } = mode;
    if (mode.kind === "blank") {
      if (!all) return [];
      this.pixels.fill(0);
      return [{ x: 0, y: 0, width, height }];
    }
    if (mode.kind === "text") return this.#drawText(registers, mode, all);
    return this.#drawLines(registers, mode, all);
  }

  #drawLines(
    registers: VgaRegisters,
    mode: Geometry,
    all: boolean,
  ): Rectangle[] {
    const memory = this.#memory;
    const { width, height, stride, start, split } = mode;
    const isWide = isDispi(registers);
    const mask = isWide ? memory.size / 4 - 1 : PLANE_WORDS - 1;
    const bytesMask = 4 * mask + 3;
    const line = mode.kind === "linear"
      ? linearLines(memory, registers, mode)
      : mode.kind === "packed"
      ? packedLines(memory, registers, mode)
      : planarLines(memory, registers, mode, mask);
    const offset = (y: number) =>
      (y < split ? start + y * stride : (y - split) * stride) & bytesMask;
    // What a line takes of memory, whatever a pixel takes, and the dots that panning brings in.
    const length = 4 * width + 4;
    const changed = (y: number) =>
      all || memory.wasWritten(offset(y), length) ||
      offset(y) + length > bytesMask;
    const parts = changedLines(changed, width, height);
    for (const part of parts) {
      for (let y = part.y; y < part.y + part.height; y++) {
        line(offset(y), this.pixels, y * width);
      }
    }
    return parts;
  }

  #drawText(
    registers: VgaRegisters,
    mode: Geometry,
    all: boolean,
  ): Rectangle[] {
    const { words } = this.#memory;
    const { sr, cr } = registers;
    const { width, height, stride, start, split, repeat } = mode;
    const dots = sr[SR.CLOCKING] & CLOCKING_8_DOTS ? 8 : 9;
    const columns = width / dots;
    const rows = height / repeat;
    if (all || this.#cells.length !== columns * rows) {
      this.#cells = new Int32Array(columns * rows).fill(-1);
    }
    const cursor = cr[CR.CURSOR_START] & CURSOR_OFF
      ? -1
      : cr[CR.CURSOR_HIGH] << 8 | cr[CR.CURSOR_LOW];
    const colors = attributeColors(registers);
    const parts: Rectangle[] = [];
    for (let row = 0; row < rows; row++) {
      const from =
        (row < split ? start + row * stride : (row - split) * stride) >> 2;
      let first = columns, last = -1;
      for (let column = 0; column < columns; column++) {
        const at = from + column & (PLANE_WORDS - 1);
        const isCursor = at === cursor;
        const cell = words[at] & 0xffff | (isCursor ? 0x10000 : 0);
        const index = row * columns + column;
        if (this.#cells[index] === cell) continue;
        this.#cells[index] = cell;
        first = Math.min(first, column);
        last = column;
        const to = row * repeat * width + column * dots;
        this.#drawCell(registers, mode, cell, dots, colors, to);
      }
      if (last < 0) continue;
      parts.push({
        x: first * dots,
        y: row * repeat,
        width: (last - first + 1) * dots,
        height: repeat,
      });
    }
    return parts.length <= MAX_RECTANGLES
      ? parts
      : [{ x: 0, y: 0, width, height }];
  }

  #drawCell(
    { sr, cr, ar }: VgaRegisters,
    { width, repeat }: Geometry,
    cell: number,
    dots: number,
    colors: Uint32Array,
    to: number,
  ): void {
    const { words } = this.#memory;
    const character = cell & 0xff;
    const attribute = cell >> 8 & 0xff;
    const select = sr[SR.FONT_SELECT];
    const font = attribute & 8
      ? (select >> 5 & 1) | (select >> 1 & 6)
      : (select >> 4 & 1) | (select << 1 & 6);
    const glyph = font * FONT_WORDS + character * CHARACTER_WORDS;
    const blinks = (ar[AR.MODE] & AR_MODE_BLINK) !== 0;
    const fore = colors[attribute & 15];
    const back = colors[attribute >> 4 & (blinks ? 7 : 15)];
    const goesOn = (ar[AR.MODE] & AR_MODE_LINE_GRAPHICS) !== 0 &&
      character >= LINE_GRAPHICS_FIRST && character <= LINE_GRAPHICS_LAST;
    const isCursor = (cell & 0x10000) !== 0;
    const cursorFirst = cr[CR.CURSOR_START] & SCAN_LINE_MASK;
    const cursorLast = cr[CR.CURSOR_END] & SCAN_LINE_MASK;
    for (let line = 0; line < repeat; line++) {
      let bits = (words[glyph + line] >>> FONT_SHIFT & 0xff) << 1;
      if (goesOn) bits |= bits >> 1 & 1;
      if (isCursor && line >= cursorFirst && line <= cursorLast) bits = 0x1ff;
      for (let x = 0; x < dots; x++) {
        this.pixels[to + line * width + x] = bits >> (8 - x) & 1 ? fore : back;
      }
    }
  }
}
