/**
 * Where processors differ from one another, or do not say: what the oracle does not insist on.
 *
 * @module
 */

/** Results that processors compute to their own precision: compared with a tolerance. */
export const TRANSCENDENTAL: ReadonlySet<string> = new Set([
  "fsin",
  "fcos",
  "fsincos",
  "fptan",
  "fpatan",
  "f2xm1",
  "fyl2x",
  "fyl2xp1",
]);
/** Units in the last place by which transcendental results may differ. */
const TRANSCENDENTAL_ULPS = 4;
/** Approximations with a relative error of at most 1.5 * 2^-12 on either side. */
export const APPROXIMATE: ReadonlySet<string> = new Set([
  "rcpps",
  "rcpss",
  "rsqrtps",
  "rsqrtss",
]);
const APPROXIMATE_ERROR = 2 ** -10;

/** x87 instructions that leave C1 as this or that processor likes. */
export const C1_UNSPECIFIED: ReadonlySet<string> = new Set([
  "fcmovb",
  "fcmove",
  "fcmovbe",
  "fcmovu",
  "fcmovnb",
  "fcmovne",
  "fcmovnbe",
  "fcmovnu",
  "fcomi",
  "fcompi",
  "fucomi",
  "fucompi",
  "ffree",
  "ffreep",
  "fstp1",
]);
/** Those whose condition codes are undefined when there is no quotient. */
export const QUOTIENT: ReadonlySet<string> = new Set(["fprem", "fprem1"]);
/** SSE instructions on MMX registers: with #XM some processors have entered MMX all the same. */
export const ENTERS_MMX: ReadonlySet<string> = new Set([
  "cvtpi2ps",
  "cvtpi2pd",
  "cvtps2pi",
  "cvttps2pi",
  "cvtpd2pi",
  "cvttpd2pi",
]);
/** With a 16-bit operand Intel's MOVSXD reads 2 bytes and AMD's 4. */
export const SIZE_UNSPECIFIED: ReadonlySet<string> = new Set(["movsxd"]);
/** Those that load many fields, in an order of their own. */
export const ANY_ORDER: ReadonlySet<string> = new Set(["fldenv", "frstor"]);
/** Instructions of which some processors clear the upper half of a 4-byte register that they do not change. */
export const UPPER_UNSPECIFIED: ReadonlySet<string> = new Set([
  "cmpxchg",
  "bsf",
  "bsr",
]);

const floatBits = new Uint32Array(2);
const floats = new Float32Array(floatBits.buffer);

/** Whether two singles differ by no more than approximations may. */
export function closeSingles(a: number, b: number): boolean {
  floatBits[0] = a;
  floatBits[1] = b;
  return Math.abs(floats[0] - floats[1]) <=
    Math.abs(floats[0]) * APPROXIMATE_ERROR;
}

/** Whether two extended values differ by a few units in the last place. */
export function closeExtended(
  host: Uint32Array,
  guest: Uint32Array,
  at: number,
): boolean {
  const value = (w: Uint32Array) =>
    (BigInt(w[at + 2] & 0x7fff) << 63n) |
    (((BigInt(w[at + 1]) << 32n) | BigInt(w[at])) & 0x7fffffffffffffffn);
  if ((host[at + 2] ^ guest[at + 2]) & 0x8000) return false;
  const distance = value(host) - value(guest);
  return distance <= BigInt(TRANSCENDENTAL_ULPS) &&
    distance >= -BigInt(TRANSCENDENTAL_ULPS);
}
