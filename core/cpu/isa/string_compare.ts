/**
 * What PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM compute (Intel SDM vol. 2, 4.1). The names follow it: IntRes1 is the
 * aggregated comparison, IntRes2 the same after the polarity.
 *
 * @module
 */

/** The results of one comparison. */
export interface StringComparison {
  /** ECX: the first or last bit of IntRes2, or the number of elements when there is none. */
  readonly index: number;
  /** XMM0: IntRes2 as bits or as elements. */
  readonly mask: Uint8Array;
  /** CF: IntRes2 is not zero. */
  readonly carry: boolean;
  /** ZF: the second string ends in the register. */
  readonly zero: boolean;
  /** SF: the first string ends in the register. */
  readonly sign: boolean;
  /** OF: bit 0 of IntRes2. */
  readonly overflow: boolean;
}

/** Fields of the immediate (Intel SDM vol. 2, table 4-1 to 4-5). */
const CONTROL = {
  WORDS: 1 << 0,
  SIGNED: 1 << 1,
  AGGREGATION: 3 << 2,
  NEGATIVE: 1 << 4,
  /** Negation only where the second string has elements. */
  MASKED: 1 << 5,
  /** Last rather than first index; elements rather than bits. */
  OUTPUT: 1 << 6,
} as const;

const EQUAL_ANY = 0, RANGES = 1 << 2, EQUAL_EACH = 2 << 2;

/**
 * Compares two strings of bytes or words.
 *
 * @param first Sixteen bytes of the destination operand (the set, the ranges, the needle).
 * @param second Sixteen bytes of the source operand.
 * @param control The immediate byte.
 * @param lengths Lengths in elements, for the explicit forms; their absolute values count, at most a register full.
 */
export function compareStrings(
  first: Uint8Array,
  second: Uint8Array,
  control: number,
  lengths?: readonly [bigint, bigint],
): StringComparison {
  const size = control & CONTROL.WORDS ? 2 : 1;
  const count = 16 / size;
  const a = elementsOf(first, control), b = elementsOf(second, control);
  const limit = (length: bigint) => {
    const absolute = length < 0n ? -length : length;
    return absolute < BigInt(count) ? Number(absolute) : count;
  };
  const implicit = (elements: readonly number[]) => {
    const end = elements.indexOf(0);
    return end < 0 ? count : end;
  };
  const lengthA = lengths ? limit(lengths[0]) : implicit(a);
  const lengthB = lengths ? limit(lengths[1]) : implicit(b);

  let result = aggregate(
    a.slice(0, lengthA),
    b.slice(0, lengthB),
    count,
    control & CONTROL.AGGREGATION,
  );
  if (control & CONTROL.NEGATIVE) {
    result ^= control & CONTROL.MASKED ? (1 << lengthB) - 1 : (1 << count) - 1;
  }

  let index = count;
  if (result !== 0) {
    index = control & CONTROL.OUTPUT
      ? 31 - Math.clz32(result)
      : 31 - Math.clz32(result & -result);
  }
  const mask = new Uint8Array(16);
  for (let i = 0; i < count; i++) {
    if (!(result >> i & 1)) continue;
    if (control & CONTROL.OUTPUT) mask.fill(0xff, i * size, (i + 1) * size);
    else mask[i >> 3] |= 1 << (i & 7);
  }
  return {
    index,
    mask,
    carry: result !== 0,
    zero: lengthB < count,
    sign: lengthA < count,
    overflow: (result & 1) !== 0,
  };
}

/** The elements of a register, signed or not. */
function elementsOf(bytes: Uint8Array, control: number): number[] {
  if (control & CONTROL.WORDS) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return Array.from(
      { length: 8 },
      (_, i) =>
        control & CONTROL.SIGNED
          ? view.getInt16(2 * i, true)
          : view.getUint16(2 * i, true),
    );
  }
  return Array.from(
    bytes,
    (byte) => control & CONTROL.SIGNED ? byte << 24 >> 24 : byte,
  );
}

/** IntRes1 of strings cut to their lengths (table 4-7: how elements past an end compare). */
function aggregate(
  a: readonly number[],
  b: readonly number[],
  count: number,
  aggregation: number,
): number {
  let result = 0;
  for (let i = 0; i < count; i++) {
    let bit: boolean;
    switch (aggregation) {
      case EQUAL_ANY:
        bit = i < b.length && a.includes(b[i]);
        break;
      case RANGES:
        bit = i < b.length &&
          a.some((low, j) =>
            j % 2 === 0 && j + 1 < a.length && low <= b[i] && b[i] <= a[j + 1]
          );
        break;
      case EQUAL_EACH:
        // Past both ends equal, past one end not.
        bit = i < a.length && i < b.length
          ? a[i] === b[i]
          : i >= a.length && i >= b.length;
        break;
      default:
        // Equal ordered: the first string from here on, as far as the register reaches.
        bit = a.every((element, j) =>
          i + j >= count || (i + j < b.length && element === b[i + j])
        );
    }
    if (bit) result |= 1 << i;
  }
  return result;
}
