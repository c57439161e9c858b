/**
 * The start of Linux's zero page, `struct screen_info`: what firmware has left on the screen
 * (Linux, Documentation/arch/x86/zero-page.rst, include/uapi/linux/screen_info.h).
 *
 * @module
 */
import type { BootScreen } from "./types.ts";

// Names are those of the structure.
const ORIG_VIDEO_MODE = 0x06;
const ORIG_VIDEO_COLS = 0x07;
const ORIG_VIDEO_EGA_BX = 0x0a;
const ORIG_VIDEO_LINES = 0x0e;
const ORIG_VIDEO_ISVGA = 0x0f;
const ORIG_VIDEO_POINTS = 0x10;
const LFB_WIDTH = 0x12;
const LFB_HEIGHT = 0x14;
const LFB_DEPTH = 0x16;
const LFB_BASE = 0x18;
const LFB_SIZE = 0x1c;
const LFB_LINELENGTH = 0x24;
const RED_SIZE = 0x26;
const RED_POS = 0x27;
const GREEN_SIZE = 0x28;
const GREEN_POS = 0x29;
const BLUE_SIZE = 0x2a;
const BLUE_POS = 0x2b;
const RSVD_SIZE = 0x2c;
const RSVD_POS = 0x2d;

/** Mode 3: text of 80 columns and 25 lines, 16 lines a character. */
const MODE_3 = { mode: 3, columns: 80, lines: 25, points: 16 };
/** What INT 10h, function 12h, says of 256 KiB of colour EGA memory. */
const EGA_256K = 3;
const IS_VGA = 1;
const VIDEO_TYPE_VLFB = 0x23;
/** The unit of lfb_size with VIDEO_TYPE_VLFB. */
const LFB_UNIT = 1 << 16;
const DEPTH = 32;
const BYTES_PER_PIXEL = 4;

/**
 * Writes the structure.
 *
 * @param zero The zero page.
 * @param screen What is on the screen.
 */
export function writeScreenInfo(zero: DataView, screen: BootScreen): void {
  if (screen.kind === "text") {
    zero.setUint8(ORIG_VIDEO_MODE, MODE_3.mode);
    zero.setUint8(ORIG_VIDEO_COLS, MODE_3.columns);
    zero.setUint16(ORIG_VIDEO_EGA_BX, EGA_256K, true);
    zero.setUint8(ORIG_VIDEO_LINES, MODE_3.lines);
    zero.setUint8(ORIG_VIDEO_ISVGA, IS_VGA);
    zero.setUint16(ORIG_VIDEO_POINTS, MODE_3.points, true);
    return;
  }
  const { base, width, height } = screen;
  const stride = width * BYTES_PER_PIXEL;
  zero.setUint8(ORIG_VIDEO_ISVGA, VIDEO_TYPE_VLFB);
  zero.setUint16(LFB_WIDTH, width, true);
  zero.setUint16(LFB_HEIGHT, height, true);
  zero.setUint16(LFB_DEPTH, DEPTH, true);
  zero.setUint32(LFB_BASE, base, true);
  zero.setUint32(LFB_SIZE, Math.ceil(stride * height / LFB_UNIT), true);
  zero.setUint16(LFB_LINELENGTH, stride, true);
  for (
    const [size, position, at] of [
      [RED_SIZE, RED_POS, 16],
      [GREEN_SIZE, GREEN_POS, 8],
      [BLUE_SIZE, BLUE_POS, 0],
      [RSVD_SIZE, RSVD_POS, 24],
    ]
  ) {
    zero.setUint8(size, 8);
    zero.setUint8(position, at);
  }
}
