// X11 keysyms, which VNC clients send, as keys of a US keyboard: usages of HID page 7
// (X11 protocol, appendix A; USB HID Usage Tables, section 10).

import { KEY_NAMES, keysOf } from "../input/keys.ts";

/** Keysyms of keys without a character, by the names that QEMU gives the keys. */
const NAMED: readonly (readonly [number, string])[] = [
  [0xff08, "backspace"],
  [0xff09, "tab"],
  [0xff0d, "ret"],
  [0xff13, "pause"],
  [0xff14, "scroll_lock"],
  [0xff15, "sysrq"],
  [0xff1b, "esc"],
  [0xff50, "home"],
  [0xff51, "left"],
  [0xff52, "up"],
  [0xff53, "right"],
  [0xff54, "down"],
  [0xff55, "pgup"],
  [0xff56, "pgdn"],
  [0xff57, "end"],
  [0xff61, "print"],
  [0xff63, "insert"],
  [0xff67, "menu"],
  [0xff7f, "num_lock"],
  [0xff8d, "kp_enter"],
  [0xffaa, "kp_multiply"],
  [0xffab, "kp_add"],
  [0xffad, "kp_subtract"],
  [0xffae, "kp_decimal"],
  [0xffaf, "kp_divide"],
  [0xffe1, "shift"],
  [0xffe2, "shift_r"],
  [0xffe3, "ctrl"],
  [0xffe4, "ctrl_r"],
  [0xffe5, "caps_lock"],
  [0xffe9, "alt"],
  [0xffea, "alt_r"],
  [0xfe03, "alt_r"],
  [0xffeb, "meta_l"],
  [0xffec, "meta_r"],
  [0xffff, "delete"],
  ...Array.from({ length: 12 }, (_, i) => [0xffbe + i, `f${i + 1}`] as const),
  ...Array.from({ length: 10 }, (_, i) => [0xffb0 + i, `kp_${i}`] as const),
];

const USAGES = new Map(
  NAMED.flatMap(([keysym, name]) => {
    const usage = KEY_NAMES.get(name);
    return usage === undefined ? [] : [[keysym, usage] as const];
  }),
);

/**
 * The key that has a keysym.
 *
 * @param keysym The keysym. Of a character it is the key alone: clients send Shift as a key of its own.
 * @returns Its usage; undefined where a US keyboard has none.
 */
export function usageOfKeysym(keysym: number): number | undefined {
  const named = USAGES.get(keysym);
  if (named !== undefined) return named;
  if (keysym < 0x20 || keysym > 0x7e) return undefined;
  return keysOf(String.fromCharCode(keysym))?.at(-1);
}

/** Keys by their codes of the XT's keyboard, from 1 on. */
const XT_NAMES =
  ("esc 1 2 3 4 5 6 7 8 9 0 minus equal backspace tab q w e r t y u i o p " +
    "bracket_left bracket_right ret ctrl a s d f g h j k l semicolon apostrophe " +
    "grave_accent shift backslash z x c v b n m comma dot slash shift_r " +
    "kp_multiply alt spc caps_lock f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 num_lock " +
    "scroll_lock kp_7 kp_8 kp_9 kp_subtract kp_4 kp_5 kp_6 kp_add kp_1 kp_2 kp_3 " +
    "kp_0 kp_decimal").split(" ");
/** The same of codes that have others before or after them; bit 7 stands for the prefix E0. */
const XT_OTHERS: readonly (readonly [number, string])[] = [
  [0x56, "less"],
  [0x57, "f11"],
  [0x58, "f12"],
  [0x9c, "kp_enter"],
  [0x9d, "ctrl_r"],
  [0xb5, "kp_divide"],
  [0xb7, "print"],
  [0xb8, "alt_r"],
  [0xc6, "pause"],
  [0xc7, "home"],
  [0xc8, "up"],
  [0xc9, "pgup"],
  [0xcb, "left"],
  [0xcd, "right"],
  [0xcf, "end"],
  [0xd0, "down"],
  [0xd1, "pgdn"],
  [0xd2, "insert"],
  [0xd3, "delete"],
  [0xdb, "meta_l"],
  [0xdc, "meta_r"],
  [0xdd, "menu"],
];
const XT_USAGES = new Map(
  [...XT_NAMES.map((name, i) => [i + 1, name] as const), ...XT_OTHERS].map((
    [code, name],
  ) => [code, KEY_NAMES.get(name)]),
);

/**
 * The key that has a code on the XT's keyboard, as QEMU's extended key event tells it.
 *
 * @param code The code; with the prefix E0 it has bit 7 set.
 * @returns Its usage; undefined where there is none.
 */
export function usageOfXtCode(code: number): number | undefined {
  return XT_USAGES.get(code);
}
