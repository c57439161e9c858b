// Pixels in the format that a VNC client asks for (RFC 6143, section 7.4).

/** A pixel format. */
export interface PixelFormat {
  /** 8, 16 or 32. */
  bitsPerPixel: number;
  bigEndian: boolean;
  /** Greatest value and place of red, green and blue. */
  max: readonly [number, number, number];
  shift: readonly [number, number, number];
}

/** What the server offers: the pixels as they are. */
export const NATIVE_FORMAT: PixelFormat = {
  bitsPerPixel: 32,
  bigEndian: false,
  max: [255, 255, 255],
  shift: [16, 8, 0],
};
const NATIVE_DEPTH = 24;
/** Bytes of a format in a message. */
export const FORMAT_BYTES = 16;

/** {@linkcode NATIVE_FORMAT} as it is sent. */
export function encodeNativeFormat(): Uint8Array {
  const view = new DataView(new ArrayBuffer(FORMAT_BYTES));
  const { bitsPerPixel, max, shift } = NATIVE_FORMAT;
  view.setUint8(0, bitsPerPixel);
  view.setUint8(1, NATIVE_DEPTH);
  view.setUint8(3, 1);
  max.forEach((value, i) => view.setUint16(4 + 2 * i, value));
  shift.forEach((value, i) => view.setUint8(10 + i, value));
  return new Uint8Array(view.buffer);
}

/**
 * Reads a format.
 *
 * @param view 16 bytes.
 * @returns It; a text that says what is wrong with one that is not possible.
 */
export function decodeFormat(view: DataView): PixelFormat | string {
  const bitsPerPixel = view.getUint8(0);
  if (![8, 16, 32].includes(bitsPerPixel)) {
    return `${bitsPerPixel} bits a pixel: expected 8, 16 or 32`;
  }
  if (view.getUint8(3) === 0) return "a colour map: expected true colour";
  const max = [4, 6, 8].map((at) => view.getUint16(at));
  const shift = [10, 11, 12].map((at) => view.getUint8(at));
  for (let i = 0; i < 3; i++) {
    if (max[i] * 2 ** shift[i] >= 2 ** bitsPerPixel) {
      return `a colour of ${max[i]} at bit ${
        shift[i]
      }: expected one inside ${bitsPerPixel} bits`;
    }
  }
  const bigEndian = view.getUint8(2) !== 0;
  const three = (list: number[]) => list as [number, number, number];
  return { bitsPerPixel, bigEndian, max: three(max), shift: three(shift) };
}

/** A part of a picture. */
export interface Part {
  x: number;
  y: number;
  width: number;
  height: number;
}

/**
 * A part of a picture in a client's format.
 *
 * @param pixels 0x00RRGGBB.
 * @param stride Pixels a line.
 * @param part Which part.
 * @param format The format.
 * @returns The bytes, line by line.
 */
export function encodePixels(
  pixels: Uint32Array,
  stride: number,
  part: Part,
  format: PixelFormat,
): Uint8Array {
  const { bitsPerPixel, bigEndian, max, shift } = format;
  const bytes = bitsPerPixel / 8;
  const made = new Uint8Array(part.width * part.height * bytes);
  const view = new DataView(made.buffer);
  const scale = max.map((most, i) =>
    Uint32Array.from(
      { length: 256 },
      (_, value) => Math.round(value * most / 255) * 2 ** shift[i],
    )
  );
  let at = 0;
  for (let y = part.y; y < part.y + part.height; y++) {
    const from = y * stride;
    for (let x = part.x; x < part.x + part.width; x++) {
      const pixel = pixels[from + x];
      const value = scale[0][pixel >> 16 & 255] | scale[1][pixel >> 8 & 255] |
        scale[2][pixel & 255];
      if (bytes === 4) view.setUint32(at, value, !bigEndian);
      else if (bytes === 2) view.setUint16(at, value, !bigEndian);
      else made[at] = value;
      at += bytes;
    }
  }
  return made;
}
