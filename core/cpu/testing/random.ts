/**
 * Random values for the oracle: reproducible from a seed, and rich in the values at which instructions change their mind.
 *
 * @module
 */

/** A 32-bit generator (sfc32). */
export class Random {
  #a: number;
  #b = 0x9e3779b9;
  #c = 0x243f6a88;
  #counter = 1;

  /** @param seed Any 32-bit number. */
  constructor(seed: number) {
    this.#a = seed | 0;
    for (let i = 0; i < 16; i++) this.u32();
  }

  /** @returns 32 uniform bits. */
  u32(): number {
    const t = (this.#a + this.#b + this.#counter++) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + t | 0;
    return t >>> 0;
  }

  /** @returns An integer below `n`. */
  below(n: number): number {
    return this.u32() % n;
  }

  /** @returns True once in `n` times. */
  oneIn(n: number): boolean {
    return this.u32() % n === 0;
  }

  /** @returns One of the list. */
  pick<T>(list: ArrayLike<T>): T {
    return list[this.u32() % list.length];
  }
}

/** 64-bit patterns at which integer instructions change: low and high halves. */
const INTEGER_EDGES: readonly (readonly [number, number])[] = [
  [0, 0],
  [1, 0],
  [2, 0],
  [0xffffffff, 0xffffffff],
  [0xfffffffe, 0xffffffff],
  [0x7f, 0],
  [0x80, 0],
  [0xff, 0],
  [0x100, 0],
  [0x7fff, 0],
  [0x8000, 0],
  [0xffff, 0],
  [0x10000, 0],
  [0x7fffffff, 0],
  [0x80000000, 0],
  [0xffffffff, 0],
  [0, 1],
  [0xffffffff, 0x7fffffff],
  [0, 0x80000000],
  [1, 0x80000000],
  [0xffffff80, 0xffffffff],
  [0xffff8000, 0xffffffff],
  [0x80000000, 0xffffffff],
  [0x80808080, 0x80808080],
  [0x7f7f7f7f, 0x7f7f7f7f],
  [0x55555555, 0x55555555],
  [0x80008000, 0x80008000],
  [0x7fff7fff, 0x7fff7fff],
  [0x80000000, 0x80000000],
];

/** Writes 64 bits as a general register may hold them. */
export function putInteger(
  random: Random,
  words: Uint32Array,
  at: number,
): void {
  const kind = random.below(8);
  if (kind < 3) {
    words[at] = random.u32();
    words[at + 1] = random.u32();
  } else if (kind < 6) {
    [words[at], words[at + 1]] = random.pick(INTEGER_EDGES);
  } else if (kind < 7) {
    words[at] = random.below(128);
    words[at + 1] = 0;
  } else {
    // A value of random length.
    const bits = random.below(64);
    words[at] = bits >= 32 ? random.u32() : random.u32() >>> (31 - (bits & 31));
    words[at + 1] = bits >= 32
      ? random.u32() >>> (31 - (bits & 31))
      : random.oneIn(2)
      ? 0xffffffff
      : 0;
  }
}

const F32_EDGES = new Uint32Array([
  0x00000000,
  0x80000000,
  0x3f800000,
  0xbf800000,
  0x7f800000,
  0xff800000,
  0x7fc00000,
  0xffc00000,
  0x7f800001,
  0xffbfffff,
  0x7fc12345,
  0x00000001,
  0x80000001,
  0x007fffff,
  0x807fffff,
  0x00800000,
  0x80800000,
  0x7f7fffff,
  0xff7fffff,
  0x3f000000,
  0x3fc00000,
  0x40200000,
  0xc0200000,
  0x4f000000,
  0xcf000000,
  0x4effffff,
  0x5f000000,
  0xdf000000,
  0x4b000001,
  0x4affffff,
  0x3f7fffff,
  0x3f800001,
  0x33800000,
  0x0c000000,
  0x1f000000,
]);
/** Upper halves of doubles; the lower half is zero, all ones or random. */
const F64_EDGES = new Uint32Array([
  0x00000000,
  0x80000000,
  0x3ff00000,
  0xbff00000,
  0x7ff00000,
  0xfff00000,
  0x7ff80000,
  0xfff80000,
  0x7ff40000,
  0x000fffff,
  0x800fffff,
  0x00100000,
  0x80100000,
  0x7fefffff,
  0xffefffff,
  0x3fe00000,
  0x3ff80000,
  0x40040000,
  0xc0040000,
  0x41e00000,
  0xc1e00000,
  0x41dfffff,
  0x43e00000,
  0xc3e00000,
  0x43300000,
  0x47efffff,
  0x47f00000,
  0x38100000,
  0x36a00000,
  0x380fffff,
  0x3ca00000,
  0x20000000,
]);

/** Writes a single. */
export function putFloat32(
  random: Random,
  words: Uint32Array,
  at: number,
): void {
  const kind = random.below(4);
  if (kind === 0) words[at] = random.u32();
  else if (kind === 1) words[at] = random.pick(F32_EDGES);
  else {
    // Exponents near one another, with long and short fractions: sums that cancel, products that round.
    const fraction = random.u32() & 0x7fffff &
      (random.oneIn(2) ? -1 : -1 << random.below(23));
    words[at] = (random.oneIn(2) ? 0x80000000 : 0) |
      ((127 - 12 + random.below(48)) << 23) | fraction;
  }
}

/** Writes a double. */
export function putFloat64(
  random: Random,
  words: Uint32Array,
  at: number,
): void {
  const kind = random.below(4);
  const low = random.below(4);
  words[at] = low === 0
    ? 0
    : low === 1
    ? 0xffffffff
    : low === 2
    ? 0x20000000
    : random.u32();
  if (kind === 0) words[at + 1] = random.u32();
  else if (kind === 1) words[at + 1] = random.pick(F64_EDGES);
  else {
    const fraction = random.u32() & 0xfffff &
      (random.oneIn(2) ? -1 : -1 << random.below(20));
    words[at + 1] = (random.oneIn(2) ? 0x80000000 : 0) |
      ((1023 - 30 + random.below(100)) << 20) | fraction;
  }
}

/** Sign and exponent, and the upper half of the significand, of extended values at the edges; unsupported encodings too. */
const F80_EDGES: readonly (readonly [number, number])[] = [
  [0, 0],
  [0x8000, 0],
  [0x3fff, 0x80000000],
  [0xbfff, 0x80000000],
  [0x7fff, 0x80000000],
  [0xffff, 0x80000000],
  [0x7fff, 0xc0000000],
  [0xffff, 0xc0000000],
  [0x7fff, 0xa0000000],
  [0, 0x00000001],
  [0x8000, 0x7fffffff],
  [0, 0x80000000],
  [1, 0x80000000],
  [0x7ffe, 0xffffffff],
  [0xfffe, 0xffffffff],
  [0x3ffe, 0x80000000],
  [0x3fff, 0xc0000000],
  [0x4000, 0xa0000000],
  [0x403e, 0x80000000],
  [0xc03e, 0x80000000],
  [0x403d, 0xffffffff],
  [0x401e, 0x80000000],
  [0xc01e, 0x80000000],
  [0x400e, 0x80000000],
  [0x3fff, 0x00000000],
  [0x7fff, 0x00000000],
  [0x4010, 0x40000000],
  [0x43fe, 0xffffffff],
  [0x3c01, 0x80000000],
  [0x407e, 0xffffffff],
  [0x3f81, 0x80000000],
  [0x3fbe, 0x80000000],
];

/** Writes an extended value, 10 bytes in 3 words; the two bytes above it are cleared. */
export function putFloat80(
  random: Random,
  words: Uint32Array,
  at: number,
): void {
  const kind = random.below(8);
  const low = random.below(4);
  words[at] = low === 0
    ? 0
    : low === 1
    ? 0xffffffff
    : low === 2
    ? 0x400
    : random.u32();
  if (kind === 0) {
    words[at + 1] = random.u32();
    words[at + 2] = random.u32() & 0xffff;
  } else if (kind < 3) {
    [words[at + 2], words[at + 1]] = random.pick(F80_EDGES);
    if (random.oneIn(2)) words[at] = 0;
  } else {
    const fraction = random.u32() &
      (random.oneIn(2) ? -1 : -1 << random.below(31));
    if (random.oneIn(2)) words[at] = 0;
    words[at + 1] = fraction | 0x80000000;
    words[at + 2] = (random.oneIn(2) ? 0x8000 : 0) |
      (0x3fff - 20 + random.below(70));
  }
}

/** Fills `count` words, which start at a multiple of 4, with one kind of data. */
export function putData(
  random: Random,
  words: Uint32Array,
  at: number,
  count: number,
  kind: number,
): void {
  for (let i = 0; i < count;) {
    switch (kind) {
      case 0:
        words[at + i++] = random.u32();
        break;
      case 1:
        putInteger(random, words, at + i);
        i += 2;
        break;
      case 2:
        putFloat32(random, words, at + i++);
        break;
      case 3:
        putFloat64(random, words, at + i);
        i += 2;
        break;
      default:
        putFloat80(random, words, at + i);
        words[at + i + 3] = random.u32();
        i += 4;
    }
  }
}
/** How many kinds {@linkcode putData} has. */
export const DATA_KINDS = 5;
