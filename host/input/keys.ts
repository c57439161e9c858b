// Names of keys as QEMU has them (QAPI type QKeyCode), and the keys that type a text on a US keyboard, as usages of HID
// page 7 (USB HID Usage Tables 1.12, section 10).

/** Usages in a row, from the first on. */
function row(first: number, ...names: string[]): [string, number][] {
  return names.map((name, i) => [name, first + i]);
}

const LETTERS = "abcdefghijklmnopqrstuvwxyz";
const DIGITS = "1234567890";
const FIRST_LETTER = 0x04;
const FIRST_DIGIT = 0x1e;
const ENTER = 0x28;
const TAB = 0x2b;
const BACKSPACE = 0x2a;
const ESCAPE = 0x29;
const SPACE = 0x2c;
const LEFT_SHIFT = 0xe1;

/** Usages by the names of keys. */
export const KEY_NAMES: ReadonlyMap<string, number> = new Map([
  ...row(FIRST_LETTER, ...LETTERS),
  ...row(FIRST_DIGIT, ...DIGITS),
  ...row(ENTER, "ret", "esc", "backspace", "tab", "spc", "minus", "equal"),
  ...row(0x2f, "bracket_left", "bracket_right", "backslash"),
  ...row(0x33, "semicolon", "apostrophe", "grave_accent", "comma", "dot"),
  ...row(0x38, "slash", "caps_lock"),
  ...row(0x3a, "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9", "f10"),
  ...row(0x44, "f11", "f12", "print", "scroll_lock", "pause", "insert"),
  ...row(0x4a, "home", "pgup", "delete", "end", "pgdn"),
  ...row(0x4f, "right", "left", "down", "up", "num_lock"),
  ...row(0x54, "kp_divide", "kp_multiply", "kp_subtract", "kp_add"),
  ...row(0x58, "kp_enter", "kp_1", "kp_2", "kp_3", "kp_4", "kp_5", "kp_6"),
  ...row(0x5f, "kp_7", "kp_8", "kp_9", "kp_0", "kp_decimal", "less"),
  ...row(0x65, "compose", "power", "kp_equals"),
  ...row(0x68, "f13", "f14", "f15", "f16", "f17", "f18", "f19", "f20"),
  ...row(0x70, "f21", "f22", "f23", "f24"),
  ...row(0x7f, "audiomute", "volumeup", "volumedown"),
  ...row(0x85, "kp_comma"),
  ...row(0x87, "ro", "katakanahiragana", "yen", "henkan", "muhenkan"),
  ...row(0xe0, "ctrl", "shift", "alt", "meta_l"),
  ...row(0xe4, "ctrl_r", "shift_r", "alt_r", "meta_r"),
  // Names that keys have besides.
  ["sysrq", 0x46],
  ["menu", 0x65],
  ["del", 0x4c],
  ["enter", ENTER],
  ["space", SPACE],
]);

/** What a US keyboard types, without and with Shift, from a usage on. */
const TYPED: readonly (readonly [number, string, string])[] = [
  [FIRST_LETTER, LETTERS, LETTERS.toUpperCase()],
  [FIRST_DIGIT, DIGITS, "!@#$%^&*()"],
  [SPACE, " -=[]\\", " _+{}|"],
  [0x33, ";'`,./", ':"~<>?'],
];

const KEYS_OF: ReadonlyMap<string, readonly number[]> = new Map([
  ...TYPED.flatMap(([first, plain, shifted]) => [
    ...Array.from(
      shifted,
      (c, i): [string, number[]] => [c, [LEFT_SHIFT, first + i]],
    ),
    // Last: space is the same with Shift and without.
    ...Array.from(plain, (c, i): [string, number[]] => [c, [first + i]]),
  ]),
  ["\n", [ENTER]],
  ["\r", [ENTER]],
  ["\t", [TAB]],
  ["\b", [BACKSPACE]],
  ["\x7f", [BACKSPACE]],
  ["\x1b", [ESCAPE]],
]);

/**
 * The keys that type a character on a US keyboard.
 *
 * @param character The character.
 * @returns Usages that are pressed together, in that order; undefined where there are none.
 */
export function keysOf(character: string): readonly number[] | undefined {
  return KEYS_OF.get(character);
}
