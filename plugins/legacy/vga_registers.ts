/**
 * The registers of a VGA, by the names and numbers of the IBM PS/2 Hardware Interface Technical
 * Reference (Video Subsystem), and those of the Bochs display interface (DISPI, `vbe_display_api`
 * of the Bochs VGA BIOS).
 *
 * @module
 */

/** I/O ports. CRTC and status are at 0x3Bx instead where {@linkcode MISC.COLOR} is clear. */
export const PORT = {
  MONO_FIRST: 0x3b0,
  MONO_COUNT: 12,
  CRTC_INDEX_MONO: 0x3b4,
  CRTC_DATA_MONO: 0x3b5,
  STATUS1_MONO: 0x3ba,
  FIRST: 0x3c0,
  COUNT: 32,
  ATTRIBUTE: 0x3c0,
  ATTRIBUTE_READ: 0x3c1,
  /** Write: miscellaneous output; read: input status 0. */
  MISC_WRITE: 0x3c2,
  ENABLE: 0x3c3,
  SEQUENCER_INDEX: 0x3c4,
  SEQUENCER_DATA: 0x3c5,
  DAC_MASK: 0x3c6,
  /** Write: index for reading; read: state. */
  DAC_READ_INDEX: 0x3c7,
  DAC_WRITE_INDEX: 0x3c8,
  DAC_DATA: 0x3c9,
  FEATURE_READ: 0x3ca,
  MISC_READ: 0x3cc,
  GRAPHICS_INDEX: 0x3ce,
  GRAPHICS_DATA: 0x3cf,
  CRTC_INDEX: 0x3d4,
  CRTC_DATA: 0x3d5,
  /** Read: input status 1; write: feature control. */
  STATUS1: 0x3da,
  DISPI_INDEX: 0x1ce,
  DISPI_DATA: 0x1cf,
  DISPI_COUNT: 3,
} as const;

/** Miscellaneous output. */
export const MISC = { COLOR: 0x01, ENABLE_RAM: 0x02 } as const;

/** Sequencer. */
export const SR = {
  RESET: 0,
  CLOCKING: 1,
  MAP_MASK: 2,
  FONT_SELECT: 3,
  MEMORY_MODE: 4,
} as const;
export const CLOCKING_8_DOTS = 0x01;
export const CLOCKING_SCREEN_OFF = 0x20;
export const MEMORY_ODD_EVEN_OFF = 0x04;
export const MEMORY_CHAIN_4 = 0x08;

/** CRT controller. */
export const CR = {
  HORIZONTAL_DISPLAY_END: 0x01,
  OVERFLOW: 0x07,
  MAX_SCAN_LINE: 0x09,
  CURSOR_START: 0x0a,
  CURSOR_END: 0x0b,
  START_HIGH: 0x0c,
  START_LOW: 0x0d,
  CURSOR_HIGH: 0x0e,
  CURSOR_LOW: 0x0f,
  VERTICAL_RETRACE_END: 0x11,
  VERTICAL_DISPLAY_END: 0x12,
  OFFSET: 0x13,
  LINE_COMPARE: 0x18,
} as const;
/** VERTICAL_RETRACE_END: registers 0 to 7 cannot be written, but for bit 4 of OVERFLOW. */
export const CRTC_PROTECT = 0x80;
export const OVERFLOW_LINE_COMPARE = 0x10;
export const SCAN_LINE_MASK = 0x1f;
export const SCAN_LINE_COMPARE = 0x40;
export const SCAN_LINE_DOUBLE = 0x80;
export const CURSOR_OFF = 0x20;

/** Graphics controller. */
export const GR = {
  SET_RESET: 0,
  ENABLE_SET_RESET: 1,
  COLOR_COMPARE: 2,
  ROTATE: 3,
  READ_MAP: 4,
  MODE: 5,
  MISC: 6,
  COLOR_CARE: 7,
  BIT_MASK: 8,
} as const;
export const MODE_WRITE = 0x03;
export const MODE_READ_COMPARE = 0x08;
export const MODE_ODD_EVEN = 0x10;
export const MODE_SHIFT_256 = 0x40;
export const GR_MISC_GRAPHICS = 0x01;

/** Attribute controller. */
export const AR = {
  MODE: 0x10,
  PLANE_ENABLE: 0x12,
  PANNING: 0x13,
  COLOR_SELECT: 0x14,
} as const;
export const AR_MODE_LINE_GRAPHICS = 0x04;
export const AR_MODE_BLINK = 0x08;
export const AR_MODE_P54_SELECT = 0x80;
/** Of the index: the screen is on. */
export const AR_INDEX_SCREEN_ON = 0x20;
export const AR_INDEX_MASK = 0x3f;

/** Bits that exist, by register. */
export const SR_MASKS = [0x03, 0x3d, 0x0f, 0x3f, 0x0e];
export const GR_MASKS = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];
export const AR_MASKS = [
  ...Array(16).fill(0x3f),
  0xef,
  0xff,
  0x3f,
  0x0f,
  0x0f,
];
export const CR_COUNT = 0x19;

/** DISPI registers. */
export const DISPI = {
  ID: 0,
  XRES: 1,
  YRES: 2,
  BPP: 3,
  ENABLE: 4,
  BANK: 5,
  VIRT_WIDTH: 6,
  VIRT_HEIGHT: 7,
  X_OFFSET: 8,
  Y_OFFSET: 9,
  VIDEO_MEMORY_64K: 10,
} as const;
/** Registers that are kept; VIDEO_MEMORY_64K is a constant. */
export const DISPI_COUNT = 10;
/** The oldest and the newest version of the interface. */
export const DISPI_ID0 = 0xb0c0;
export const DISPI_ID5 = 0xb0c5;
export const DISPI_ENABLED = 0x01;
export const DISPI_GETCAPS = 0x02;
export const DISPI_8BIT_DAC = 0x20;
export const DISPI_LFB = 0x40;
export const DISPI_NOCLEARMEM = 0x80;
export const DISPI_ENABLE_MASK = DISPI_ENABLED | DISPI_GETCAPS |
  DISPI_8BIT_DAC | DISPI_LFB | DISPI_NOCLEARMEM;
/** What GETCAPS tells. */
export const DISPI_MAX_XRES = 2560;
export const DISPI_MAX_YRES = 1600;
export const DISPI_MAX_BPP = 32;

/** All registers that decide what is shown. */
export interface VgaRegisters {
  misc: number;
  /** Sequencer. */
  sr: Uint8Array;
  /** CRT controller. */
  cr: Uint8Array;
  /** Graphics controller. */
  gr: Uint8Array;
  /** Attribute controller. */
  ar: Uint8Array;
  /** Index of the attribute controller, which also turns the screen on. */
  arIndex: number;
  /** Red, green and blue of 256 colours. */
  palette: Uint8Array;
  dacMask: number;
  dispi: Uint16Array;
}

const COLORS = 256;

/**
 * Mode 3, text of 80 columns and 25 lines, as a video BIOS sets it: a kernel that is loaded
 * without firmware finds it.
 *
 * @returns New registers.
 */
export function textMode(): VgaRegisters {
  const palette = new Uint8Array(3 * COLORS);
  // The 64 colours of the EGA: bits 5 to 3 are the weak red, green, blue, bits 2 to 0 the strong.
  const STRONG = 42, WEAK = 21;
  for (let i = 0; i < 64; i++) {
    for (let c = 0; c < 3; c++) {
      palette[3 * i + c] = (i >> (2 - c) & 1) * STRONG +
        (i >> (5 - c) & 1) * WEAK;
    }
  }
  const dispi = new Uint16Array(DISPI_COUNT);
  dispi[DISPI.ID] = DISPI_ID5;
  return {
    misc: 0x67,
    sr: Uint8Array.of(0x03, 0x00, 0x03, 0x00, 0x02),
    // deno-fmt-ignore
    cr: Uint8Array.of(
      0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f,
      0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00,
      0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
    ),
    gr: Uint8Array.of(0, 0, 0, 0, 0, 0x10, 0x0e, 0x00, 0xff),
    // deno-fmt-ignore
    ar: Uint8Array.of(
      0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07,
      0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
      0x0c, 0x00, 0x0f, 0x08, 0x00,
    ),
    arIndex: AR_INDEX_SCREEN_ON,
    palette,
    dacMask: 0xff,
    dispi,
  };
}
