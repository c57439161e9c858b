// What a damaged or malicious snapshot may be: a good one with one change, from a flipped bit to a
// field that means something else under hashes that are right.

import { decode, encode, type ValueType } from "@std/msgpack";
import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { assemble, type Chunk, chunksOf, join } from "./file.ts";
import { Random } from "../../core/cpu/testing/random.ts";

/** A file with one change. */
export interface Mutant {
  /** The file. */
  file: Uint8Array;
  /** Tells what was changed. */
  what: () => string;
}

/** A good file, taken apart once. */
export interface Original {
  file: Uint8Array;
  chunks: Chunk[];
  /** By chunk, its decoded payload, and the path of everything in it. */
  trees: Map<number, { tree: unknown; paths: Path[] }>;
  /** Texts that mean something in it. */
  texts: string[];
}

type Path = readonly (string | number)[];
type Replacement = (random: Random, original: Original) => unknown;

function randomBytes(random: Random, length: number): Uint8Array {
  return Uint8Array.from({ length }, () => random.below(256));
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null &&
    !Array.isArray(value) && !(value instanceof Uint8Array);
}

function* pathsOf(value: unknown, path: Path): Generator<Path> {
  yield path;
  if (Array.isArray(value)) {
    for (const [i, each] of value.entries()) yield* pathsOf(each, [...path, i]);
  } else if (isMap(value)) {
    for (const [key, each] of Object.entries(value)) {
      yield* pathsOf(each, [...path, key]);
    }
  }
}

/** Takes a good file apart. */
export function takeApart(file: Uint8Array): Original {
  const chunks = chunksOf(file);
  const trees: Original["trees"] = new Map();
  const texts = new Set<string>();
  chunks.forEach(({ tag, payload }, i) => {
    if (tag === "PAGE") return;
    const tree = decode(payload);
    const paths = [...pathsOf(tree, [])];
    for (const path of paths) {
      const value = at(tree, path);
      if (typeof value === "string") texts.add(value);
    }
    trees.set(i, { tree, paths });
  });
  return { file, chunks, trees, texts: [...texts] };
}

function at(tree: unknown, path: Path): unknown {
  return path.reduce(
    (value, key) => (value as Record<string | number, unknown>)[key],
    tree,
  );
}

/** A copy in which the value at `path` is another; `REMOVED` takes it out. */
function put(tree: unknown, path: Path, value: unknown): unknown {
  if (path.length === 0) return value === REMOVED ? null : value;
  const [key, ...rest] = path;
  const inner = put(
    (tree as Record<string | number, unknown>)[key],
    rest,
    value,
  );
  const removed = rest.length === 0 && value === REMOVED;
  if (Array.isArray(tree)) {
    const copy = [...tree];
    if (removed) copy.splice(key as number, 1);
    else copy[key as number] = inner;
    return copy;
  }
  const entries = Object.entries(tree as Record<string, unknown>);
  return Object.fromEntries(
    entries.flatMap(([name, old]) =>
      name !== key ? [[name, old]] : removed ? [] : [[name, inner]]
    ),
  );
}

const REMOVED = Symbol("removed");
const NUMBERS = [
  ...[0, 1, -1, 2, 7, 8, 127, 128, 255, 256, 4095, 4096, 32767, 32768, 65535],
  ...[65536, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40, 2 ** 52],
  ...[
    2 ** 53 - 1,
    2 ** 53,
    2 ** 63,
    2 ** 64,
    -(2 ** 31),
    -(2 ** 53),
    0.5,
    1e300,
  ],
  ...[-1e300, 5e-324, -0, NaN, Infinity, -Infinity],
];
const WIDE = [
  ...[0n, 1n, 0xfffn, 0x1000n, 0x9f000n, 0xa0000n, 0x1ffff8n, 0x200000n],
  ...[0xc0000000n, 0xfee00000n, 0xffffffffn, 1n << 32n, (1n << 40n) - 1n],
  ...[1n << 40n, 1n << 47n, 1n << 52n, (1n << 53n) - 1n, 1n << 53n],
  ...[1n << 63n, (1n << 64n) - 1n, 0xffff_8000_0000_0000n, -1n],
];
const TEXTS = [
  ...["", "x", "__proto__", "constructor", "toString", "../../../etc/passwd"],
  ...["\u001b[2J\n\r\u0007", "\u0000", "a\nb", "\u202e", "disk:", "ram", "9"],
  ...["1.0.0-\u009b0m", "x".repeat(5000), "null", "*", "%s%n"],
];

const number: Replacement = (random) => random.pick(NUMBERS);
const wide: Replacement = (random) => random.pick(WIDE);
const text: Replacement = (random, { texts }) =>
  random.below(2) === 0 ? random.pick(TEXTS) : random.pick(texts);
const otherType: Replacement = (random) =>
  random.pick([
    null,
    true,
    0,
    -1,
    1.5,
    7n,
    "text",
    [],
    {},
    new Uint8Array(3),
    [
      [[[]]],
    ],
    { remaining: 5 },
    { address: 0x1000n, length: 16 },
    { tag: "text" },
  ]);

/** A value that may stand where `value` stands. */
function replacement(
  value: unknown,
  random: Random,
  original: Original,
): unknown {
  if (random.below(12) === 0) return otherType(random, original);
  if (random.below(25) === 0) return REMOVED;
  switch (typeof value) {
    case "number": {
      const bit = 2 ** random.below(32);
      const near = random.pick([value + 1, value - 1, (value ^ bit) >>> 0]);
      return random.below(2) === 0 ? near : number(random, original);
    }
    case "bigint":
      return random.below(2) === 0
        ? BigInt.asUintN(64, value ^ (1n << BigInt(random.below(64))))
        : wide(random, original);
    case "string":
      return text(random, original);
    case "boolean":
      return random.pick([!value, !value, 0, 1, null]);
  }
  if (value === null) return otherType(random, original);
  if (value instanceof Uint8Array) return bytes(value, random);
  if (Array.isArray(value)) return list(value, random, original);
  return map(value as Record<string, unknown>, random, original);
}

function bytes(value: Uint8Array, random: Random): Uint8Array {
  const copy = value.slice();
  if (copy.length > 0) {
    copy[random.below(copy.length)] ^= 1 << random.below(8);
  }
  return random.pick([
    ...[copy, copy, copy, copy],
    value.slice(0, random.below(value.length + 1)),
    join(value, randomBytes(random, 1 + random.below(40))),
    new Uint8Array(value.length),
    new Uint8Array(value.length).fill(0xff),
    randomBytes(random, Math.min(value.length, 4096)),
    new Uint8Array(0),
  ]);
}

function list(
  value: readonly unknown[],
  random: Random,
  original: Original,
): unknown {
  const i = value.length === 0 ? 0 : random.below(value.length);
  const j = value.length === 0 ? 0 : random.below(value.length);
  switch (random.below(6)) {
    case 0:
      return value.toSpliced(i, 1);
    case 1:
      return [...value, value[i] ?? null];
    case 2:
      return value.length === 0 ? [null] : value.with(i, value[j]);
    case 3:
      return [];
    case 4:
      return Array(5000).fill(value[i] ?? null);
    default:
      return otherType(random, original);
  }
}

function map(
  value: Record<string, unknown>,
  random: Random,
  original: Original,
): unknown {
  const entries = Object.entries(value);
  const name = text(random, original) as string;
  const key = entries.length === 0 ? 0 : random.below(entries.length);
  switch (random.below(4)) {
    case 0:
      return Object.fromEntries(entries.toSpliced(key, 1));
    case 1:
      return Object.fromEntries([...entries, [name, 0]]);
    case 2:
      return Object.fromEntries(
        entries.map(([k, v], i) => [i === key ? name : k, v]),
      );
    default:
      return otherType(random, original);
  }
}

function shown(value: unknown): string {
  return Deno.inspect(value, {
    depth: 2,
    iterableLimit: 6,
    strAbbreviateSize: 60,
    breakLength: Infinity,
  }).slice(0, 200);
}

/** One field of each of some chunks is another value; every hash is right. */
function fields(original: Original, random: Random): Mutant {
  const { chunks, file } = original;
  const changed = [...chunks];
  const what: (() => string)[] = [];
  const count = random.below(4) === 0 ? 2 + random.below(3) : 1;
  for (let i = 0; i < count; i++) {
    const made = field(original, random);
    changed[made.number] = { ...chunks[made.number], payload: made.payload };
    what.push(made.what);
  }
  return {
    file: assemble(file, changed),
    what: () => what.map((each) => each()).join("; "),
  };
}

interface Change {
  /** The chunk. */
  number: number;
  payload: Uint8Array;
  what: () => string;
}

function field(original: Original, random: Random): Change {
  const { chunks, trees } = original;
  const number = random.pick([...trees.keys()]);
  const { tree, paths } = trees.get(number)!;
  // The type descriptions outnumber the fields that they describe.
  const inState = paths.filter(([first]) => first !== "schema");
  const path = random.pick(random.below(4) === 0 ? paths : inState);
  const old = at(tree, path);
  if (chunks[number].tag === "PMAP" && path.at(-1) === "map") {
    return pageMap(random, number, tree, old as Uint8Array);
  }
  const value = replacement(old, random, original);
  const { id } = tree as { id?: string };
  return {
    number,
    payload: encode(put(tree, path, value) as ValueType),
    what: () =>
      `${id ?? chunks[number].tag}: ${path.join(".")} = ${
        value === REMOVED ? "(removed)" : shown(value)
      } instead of ${shown(old)}`,
  };
}

/** The list of pages of a memory, compressed again. */
function pageMap(
  random: Random,
  number: number,
  tree: unknown,
  map: Uint8Array,
): Change {
  const raw = new Uint8Array(zstdDecompressSync(map));
  const words = new Uint32Array(raw.buffer, 0, raw.length >> 2);
  const i = random.below(words.length || 1);
  words[i] = random.pick([0, 1, words[i] + 1, words.length, 0xffffffff]);
  const packed = new Uint8Array(zstdCompressSync(raw));
  return {
    number,
    payload: encode(put(tree, ["map"], packed) as ValueType),
    what: () => `PMAP: word ${i} of the map = ${words[i]}`,
  };
}

/** A chunk's bytes are others; every hash is right. */
function payload(original: Original, random: Random): Mutant {
  const { file, chunks } = original;
  const number = random.below(chunks.length);
  const { tag, payload } = chunks[number];
  const changed = (what: string, payload: Uint8Array): Mutant => ({
    file: assemble(file, chunks.with(number, { tag, payload })),
    what: () => `payload of chunk ${number} (${tag}): ${what}`,
  });
  if (tag === "PAGE") {
    const frame = (raw: Uint8Array) => new Uint8Array(zstdCompressSync(raw));
    const raw = new Uint8Array(zstdDecompressSync(payload));
    switch (random.below(5)) {
      case 0:
        return changed(
          "64 MiB of zeroes",
          BOMB ??= frame(new Uint8Array(1 << 26)),
        );
      case 1:
        return changed("two frames", join(frame(raw), frame(raw)));
      case 2:
        return changed("a page less", frame(raw.subarray(4096)));
      case 3:
        return changed(
          "cut off",
          payload.subarray(0, random.below(payload.length)),
        );
      default: {
        const i = random.below(raw.length - 64);
        raw.set(randomBytes(random, 64), i);
        return changed(`other bytes at ${i}`, frame(raw));
      }
    }
  }
  const i = random.below(payload.length);
  switch (random.below(5)) {
    case 0:
      return changed(`cut off at ${i}`, payload.subarray(0, i));
    case 1: {
      // A list or map of many items, of which there are none.
      const claim = Uint8Array.of(
        random.pick([0xdd, 0xdf, 0xc6, 0xdb]),
        1,
        255,
        255,
        255,
      );
      const many = join(
        ...Array<Uint8Array>(1 + random.below(300)).fill(claim),
      );
      return changed(
        `claims at ${i}`,
        join(payload.subarray(0, i), many, payload.subarray(i)),
      );
    }
    case 2: {
      const deep = new Uint8Array(20_000).fill(random.pick([0x91, 0x81]));
      return changed(
        `nests at ${i}`,
        join(payload.subarray(0, i), deep, payload.subarray(i)),
      );
    }
    case 3: {
      // One pair more, with a key that is there already.
      const key = payload.subarray(1, 2 + (payload[1] & 0x1f));
      const more = join(
        Uint8Array.of(payload[0] + 1),
        payload.subarray(1),
        key,
        Uint8Array.of(0xc0),
      );
      return changed("a key twice", more);
    }
    default: {
      const copy = payload.slice();
      copy[i] ^= 1 << random.below(8);
      return changed(`bit flipped at ${i}`, copy);
    }
  }
}
let BOMB: Uint8Array | undefined;

/** Chunks are missing, twice, elsewhere, of another kind, or the index lies; every hash is right. */
function structure(original: Original, random: Random): Mutant {
  const { file, chunks } = original;
  const i = random.below(chunks.length);
  const j = random.below(chunks.length);
  const made = (
    what: string,
    ...rest: Parameters<typeof assemble> extends [unknown, ...infer R] ? R
      : never
  ): Mutant => ({
    file: assemble(file, ...rest),
    what: () => what,
  });
  switch (random.below(8)) {
    case 0:
      return made(`chunk ${i} removed`, chunks.toSpliced(i, 1));
    case 1:
      return made(
        `chunk ${i} again at ${j}`,
        chunks.toSpliced(j, 0, chunks[i]),
      );
    case 2:
      return made(
        `chunks ${i} and ${j} exchanged`,
        chunks.with(i, chunks[j]).with(j, chunks[i]),
      );
    case 3: {
      const tag = random.pick([
        "MANI",
        "COMP",
        "PAGE",
        "PMAP",
        "XXXX",
        "\0\0\0\0",
      ]);
      return made(
        `chunk ${i} is ${JSON.stringify(tag)}`,
        chunks.with(i, { ...chunks[i], tag }),
      );
    }
    case 4: {
      const count = random.pick([1n, -1n, 1n << 32n, 1n << 63n, 1000n]);
      return made(`count ${count} off`, chunks, { count });
    }
    case 5: {
      const at = random.below(chunks.length * 48);
      const bit = random.below(8);
      return made(`bit ${bit} of the index's byte ${at}`, chunks, {
        index: (index) => index.with(at, index[at] ^ (1 << bit)),
      });
    }
    case 6: {
      const at = random.below(16);
      const bit = random.below(8);
      return made(`bit ${bit} of the header's byte ${at}`, chunks, {
        header: (header) => void (header[at] ^= 1 << bit),
      });
    }
    default: {
      const many = Array<Chunk>(2000).fill(chunks[i]);
      return made(
        `chunk ${i} two thousand times more`,
        chunks.toSpliced(i, 0, ...many),
      );
    }
  }
}

/** Bytes are others, and no hash is right. */
function raw({ file }: Original, random: Random): Mutant {
  const i = random.below(file.length);
  switch (random.below(5)) {
    case 0:
      return { file: file.subarray(0, i), what: () => `cut off at ${i}` };
    case 1: {
      const more = randomBytes(random, 1 + random.below(64));
      const what = () => `${more.length} bytes more at ${i}`;
      return { file: join(file.subarray(0, i), more, file.subarray(i)), what };
    }
    case 2: {
      const end = i + 1 + random.below(64);
      const what = () => `bytes ${i} to ${end} gone`;
      return { file: join(file.subarray(0, i), file.subarray(end)), what };
    }
    default: {
      const bit = random.below(8);
      const copy = file.slice();
      copy[i] ^= 1 << bit;
      return { file: copy, what: () => `bit ${bit} of byte ${i} flipped` };
    }
  }
}

/** Of twenty mutants, so many are of each kind. */
const KINDS = [
  ...Array(4).fill(raw),
  ...Array(2).fill(structure),
  ...Array(2).fill(payload),
  ...Array(12).fill(fields),
] as const;

/** Changes a snapshot in one place. */
function mutate(original: Original, random: Random): Mutant {
  return random.pick(KINDS)(original, random);
}

/**
 * One of the changes of a snapshot that follow from a seed.
 *
 * @param original The snapshot.
 * @param seed Which changes.
 * @param number Which of them.
 */
export function mutantOf(
  original: Original,
  seed: number,
  number: number,
): Mutant {
  return mutate(original, new Random(Math.imul(seed, 1_000_003) + number));
}
