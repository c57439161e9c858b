// Pictures as PNG files (PNG, third edition: ISO/IEC 15948): true colour, 8 bits a sample.

import { crc32, deflateSync } from "node:zlib";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const BIT_DEPTH = 8;
const TRUE_COLOR = 2;
/** Filter type of a line: none. */
const FILTER_NONE = 0;
const SAMPLES = 3;

function chunk(type: string, data: Uint8Array): Uint8Array {
  const made = new Uint8Array(12 + data.length);
  const view = new DataView(made.buffer);
  view.setUint32(0, data.length);
  made.set(new TextEncoder().encode(type), 4);
  made.set(data, 8);
  view.setUint32(8 + data.length, crc32(made.subarray(4, 8 + data.length)));
  return made;
}

/** What is drawn. */
export interface Image {
  /** Pixels a line. */
  readonly width: number;
  /** Lines. */
  readonly height: number;
  /** 0x00RRGGBB, line by line. */
  readonly pixels: Uint32Array;
}

/**
 * Makes a PNG file.
 *
 * @param image What is on it.
 * @returns The file.
 */
export function encodePng({ width, height, pixels }: Image): Uint8Array {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = BIT_DEPTH;
  header[9] = TRUE_COLOR;
  const stride = 1 + SAMPLES * width;
  const lines = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    let at = y * stride;
    lines[at++] = FILTER_NONE;
    for (let x = 0; x < width; x++) {
      const pixel = pixels[y * width + x];
      lines[at++] = pixel >> 16;
      lines[at++] = pixel >> 8;
      lines[at++] = pixel;
    }
  }
  const parts = [
    Uint8Array.from(SIGNATURE),
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(lines)),
    chunk("IEND", new Uint8Array(0)),
  ];
  const file = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    file.set(part, at);
    at += part.length;
  }
  return file;
}
