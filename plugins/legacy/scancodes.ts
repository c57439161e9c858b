/**
 * Keys in the three scan code sets of PS/2 keyboards, by their usage on HID page 7 (USB HID Usage Tables 1.12,
 * section 10; IBM Personal System/2 Hardware Interface Technical Reference, "Keyboards", tables of scan code sets 1 to
 * 3; the mapping between both worlds: Microsoft, "USB HID to PS/2 Scan Code Translation Table").
 *
 * Set 1 is not tabled: it is by definition what the keyboard controller makes of set 2.
 *
 * @module
 */

/** Precedes the code of a key that the 84-key keyboard did not have. */
export const EXTENDED = 0xe0;
/** Precedes the only code of Pause. */
export const EXTENDED_1 = 0xe1;
/** Precedes a break code in sets 2 and 3. */
export const BREAK = 0xf0;
/** The bit that makes a break code in set 1. */
export const SET1_BREAK = 0x80;

/** What the keyboard controller makes of codes 0 to 0x7f of set 2. */
const TRANSLATION = Uint8Array.fromHex(
  "ff43413f3d3b3c58644442403e0f2959" +
    "65382a701d10025a66712c1f1e11035b" +
    "672e2d201205045c68392f211413065d" +
    "693130232215075e6a7232241608095f" +
    "6b332517180b0a606c34352627190c61" +
    "6d7328741a0d626e3a361c1b752b6376" +
    "55567778797a0e7b7c4f7d4b477e7f6f" +
    "5253504c4d480145574e514a37494654",
);
/** Two codes beyond them: F7 and Alt with Print Screen. */
const TRANSLATION_HIGH: Readonly<Record<number, number>> = {
  0x83: 0x41,
  0x84: 0x54,
};

/**
 * Translates a byte from the keyboard as the controller does, all but {@linkcode BREAK}.
 *
 * @param code A byte.
 * @returns The code of set 1; bytes that are no codes of set 2 stay as they are.
 */
export function translate(code: number): number {
  return TRANSLATION[code] ?? TRANSLATION_HIGH[code] ?? code;
}

/** How a key behaves in set 3. */
export const KEY_MODE = {
  /** Sends its break code. */
  BREAKS: 1,
  /** Repeats. */
  REPEATS: 2,
} as const;

/** A key's codes. */
export interface KeyCodes {
  /** The code in set 2. */
  readonly set2: number;
  /** Whether {@linkcode EXTENDED} precedes the code in sets 1 and 2. */
  readonly extended: boolean;
  /** The code in set 3; 0 for a key without one. */
  readonly set3: number;
}

/** Usages that other parts treat by name. */
export const USAGE = {
  PRINT_SCREEN: 0x46,
  PAUSE: 0x48,
  LEFT_CTRL: 0xe0,
  LEFT_SHIFT: 0xe1,
  LEFT_ALT: 0xe2,
  RIGHT_CTRL: 0xe4,
  RIGHT_SHIFT: 0xe5,
  RIGHT_ALT: 0xe6,
} as const;

/** Usage, code in set 2 with `EXTENDED` above it, code in set 3 if it has one. */
const ROWS: readonly (readonly [number, number, number?])[] = [
  // A to Z.
  ...[
    ...[0x1c, 0x32, 0x21, 0x23, 0x24, 0x2b, 0x34, 0x33, 0x43, 0x3b, 0x42],
    ...[0x4b, 0x3a, 0x31, 0x44, 0x4d, 0x15, 0x2d, 0x1b, 0x2c, 0x3c, 0x2a],
    ...[0x1d, 0x22, 0x35, 0x1a],
  ].map((code, i) => [0x04 + i, code, code] as const),
  // 1 to 9 and 0.
  ...[0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45]
    .map((code, i) => [0x1e + i, code, code] as const),
  [0x28, 0x5a, 0x5a], // Enter
  [0x29, 0x76, 0x08], // Escape
  [0x2a, 0x66, 0x66], // Backspace
  [0x2b, 0x0d, 0x0d], // Tab
  [0x2c, 0x29, 0x29], // Space
  [0x2d, 0x4e, 0x4e], // -
  [0x2e, 0x55, 0x55], // =
  [0x2f, 0x54, 0x54], // [
  [0x30, 0x5b, 0x5b], // ]
  [0x31, 0x5d, 0x5c], // \
  [0x32, 0x5d, 0x53], // # of keyboards with 102 keys
  [0x33, 0x4c, 0x4c], // ;
  [0x34, 0x52, 0x52], // '
  [0x35, 0x0e, 0x0e], // `
  [0x36, 0x41, 0x41], // ,
  [0x37, 0x49, 0x49], // .
  [0x38, 0x4a, 0x4a], // /
  [0x39, 0x58, 0x14], // Caps Lock
  // F1 to F12.
  [0x3a, 0x05, 0x07],
  [0x3b, 0x06, 0x0f],
  [0x3c, 0x04, 0x17],
  [0x3d, 0x0c, 0x1f],
  [0x3e, 0x03, 0x27],
  [0x3f, 0x0b, 0x2f],
  [0x40, 0x83, 0x37],
  [0x41, 0x0a, 0x3f],
  [0x42, 0x01, 0x47],
  [0x43, 0x09, 0x4f],
  [0x44, 0x78, 0x56],
  [0x45, 0x07, 0x5e],
  [0x46, 0xe07c, 0x57], // Print Screen
  [0x47, 0x7e, 0x5f], // Scroll Lock
  [0x48, 0x77, 0x62], // Pause; its code in set 2 is a sequence
  [0x49, 0xe070, 0x67], // Insert
  [0x4a, 0xe06c, 0x6e], // Home
  [0x4b, 0xe07d, 0x6f], // Page Up
  [0x4c, 0xe071, 0x64], // Delete
  [0x4d, 0xe069, 0x65], // End
  [0x4e, 0xe07a, 0x6d], // Page Down
  [0x4f, 0xe074, 0x6a], // Right
  [0x50, 0xe06b, 0x61], // Left
  [0x51, 0xe072, 0x60], // Down
  [0x52, 0xe075, 0x63], // Up
  [0x53, 0x77, 0x76], // Num Lock
  // The keypad: / * - + Enter, 1 to 9, 0 and the point.
  [0x54, 0xe04a, 0x77],
  [0x55, 0x7c, 0x7e],
  [0x56, 0x7b, 0x84],
  [0x57, 0x79, 0x7c],
  [0x58, 0xe05a, 0x79],
  [0x59, 0x69, 0x69],
  [0x5a, 0x72, 0x72],
  [0x5b, 0x7a, 0x7a],
  [0x5c, 0x6b, 0x6b],
  [0x5d, 0x73, 0x73],
  [0x5e, 0x74, 0x74],
  [0x5f, 0x6c, 0x6c],
  [0x60, 0x75, 0x75],
  [0x61, 0x7d, 0x7d],
  [0x62, 0x70, 0x70],
  [0x63, 0x71, 0x71],
  [0x64, 0x61, 0x13], // < of keyboards with 102 keys
  [0x65, 0xe02f, 0x8d], // Menu
  [0x66, 0xe037], // Power
  [0x67, 0x0f], // = of the keypad
  // F13 to F24.
  ...[
    ...[0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x40, 0x48, 0x50, 0x57],
    0x5f,
  ].map((code, i) => [0x68 + i, code] as const),
  [0x7f, 0xe023], // Mute
  [0x80, 0xe032], // Volume up
  [0x81, 0xe021], // Volume down
  [0x85, 0x6d], // Comma of the keypad
  // International 1 to 6: ro, katakana and hiragana, yen, henkan, muhenkan, comma.
  [0x87, 0x51],
  [0x88, 0x13],
  [0x89, 0x6a],
  [0x8a, 0x64],
  [0x8b, 0x67],
  [0x8c, 0x27],
  [0x92, 0x63], // Katakana
  [0x93, 0x62], // Hiragana
  [0xe0, 0x14, 0x11], // Left Control
  [0xe1, 0x12, 0x12], // Left Shift
  [0xe2, 0x11, 0x19], // Left Alt
  [0xe3, 0xe01f, 0x8b], // Left GUI
  [0xe4, 0xe014, 0x58], // Right Control
  [0xe5, 0x59, 0x59], // Right Shift
  [0xe6, 0xe011, 0x39], // Right Alt
  [0xe7, 0xe027, 0x8c], // Right GUI
];

/** The codes of every key that a PS/2 keyboard has, by its usage. */
export const KEYS: ReadonlyMap<number, KeyCodes> = new Map(
  ROWS.map(([usage, code, set3 = 0]): [number, KeyCodes] => [usage, {
    set2: code & 0xff,
    extended: code >> 8 === EXTENDED,
    set3,
  }]),
);

/** Usages whose keys in set 3 send a break code and do not repeat, after power-on: modifiers and Caps Lock. */
const MAKE_AND_BREAK = [0x39, 0xe0, 0xe1, 0xe2, 0xe5];
/** First and last usages of keys that only send a make code: what needs neither. */
const MAKE_ONLY = [
  ...[[0x29, 0x29], [0x3a, 0x4b], [0x4d, 0x4e], [0x53, 0x56], [0x58, 0x63]],
  ...[[0x65, 0x65], [0xe3, 0xe4], [0xe6, 0xe7]],
];

/** How many codes set 3 could have. */
export const SET3_CODES = 256;

/**
 * How keys behave in set 3 after power-on.
 *
 * @returns {@linkcode KEY_MODE}s by code.
 */
export function defaultKeyModes(): Uint8Array {
  const modes = new Uint8Array(SET3_CODES).fill(KEY_MODE.REPEATS);
  for (const [usage, { set3 }] of KEYS) {
    if (MAKE_AND_BREAK.includes(usage)) modes[set3] = KEY_MODE.BREAKS;
    else if (MAKE_ONLY.some(([a, b]) => usage >= a && usage <= b)) {
      modes[set3] = 0;
    }
  }
  return modes;
}
