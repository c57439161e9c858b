/**
 * Hostile states: every field of a good one changed to what a damaged or malicious snapshot could
 * hold there (DESIGN.md section 6, "Hostile input").
 *
 * @module
 */
import { integerRange, type TypeDescription, U64_MAX } from "./schema.ts";

/** A state with one place changed. */
export interface Mutation {
  /** Where: `receive[0].errors`. */
  path: string;
  /** What is there now, for reports. */
  shown: string;
  /** The whole state. */
  state: unknown;
}

/** Items of a list that are changed, beside the first and the last. */
const INNER_ITEMS = 2;
/** Bits of wide integers that are flipped. */
const WIDE_BITS = [0, 1, 2, 3, 5, 7, 8, 11, 12, 15, 16, 20, 24, 30, 31];
const WIDER_BITS = [...WIDE_BITS, 32, 33, 40, 47, 52, 53, 62, 63];
/** An hour and 300 years of virtual nanoseconds. */
const FAR = [3_600e9, Number.MAX_SAFE_INTEGER];
const LONGEST = 4096;

/**
 * Changes every field of a state in turn.
 *
 * @param type The type of the state.
 * @param state A good state; it stays as it is.
 * @returns States with one change each, in the order of the fields; some fit the type, some do not.
 * @example
 * ```ts
 * import { mutations } from "./mutation.ts";
 * import { record, u8 } from "./schema.ts";
 *
 * const led = record({ brightness: u8({ max: 9 }) });
 * [...mutations(led.description, { brightness: 3 })].map(({ path, shown }) => `${path} ${shown}`);
 * // "brightness 0", "brightness 9", …, "brightness 10", "brightness -1", …
 * ```
 */
export function* mutations(
  type: TypeDescription,
  state: unknown,
): Generator<Mutation> {
  yield* at(type, state, "", (value) => value);
}

function show(value: unknown): string {
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) {
    return JSON.stringify(
      value,
      (_key, each) => typeof each === "bigint" ? `${each}n` : each,
    );
  }
  return typeof value === "bigint" ? `${value}n` : String(value);
}

/** A value of a type, the least there is. */
function least(type: TypeDescription): unknown {
  switch (type.kind) {
    case "u8":
    case "u16":
    case "u32":
    case "i32": {
      const [min, max] = integerRange(type);
      return Math.min(Math.max(0, min), max);
    }
    case "u64":
      return 0n;
    case "f64":
      return 0;
    case "bool":
      return false;
    case "bytes":
      return new Uint8Array(type.length ?? 0);
    case "str":
      return "";
    case "list":
      return Array.from({ length: type.length ?? 0 }, () => least(type.of));
    case "record":
      return Object.fromEntries(
        Object.entries(type.fields).map(([name, of]) => [name, least(of)]),
      );
    case "union": {
      const [[tag, of]] = Object.entries(type.tags);
      return { tag, ...least(of) as object };
    }
    case "optional":
    case "gpa":
    case "timer":
      return null;
  }
}

function* at(
  type: TypeDescription,
  value: unknown,
  path: string,
  put: (value: unknown) => unknown,
): Generator<Mutation> {
  for (const other of replacements(type, value)) {
    yield { path, shown: show(other), state: put(other) };
  }
  yield* inside(type, value, path, put);
}

function* inside(
  type: TypeDescription,
  value: unknown,
  path: string,
  put: (value: unknown) => unknown,
): Generator<Mutation> {
  switch (type.kind) {
    case "record":
    case "union": {
      const record = value as Record<string, unknown>;
      const of = type.kind === "record" ? type : type.tags[String(record.tag)];
      if (of.kind !== "record") return;
      for (const [name, field] of Object.entries(of.fields)) {
        yield* at(
          field,
          record[name],
          path === "" ? name : `${path}.${name}`,
          (changed) => put({ ...record, [name]: changed }),
        );
      }
      return;
    }
    case "list": {
      const items = value as unknown[];
      const chosen = new Set([
        0,
        ...Array.from({ length: INNER_ITEMS }, (_, i) => i + 1),
        items.length - 1,
      ]);
      for (const i of chosen) {
        if (i < 0 || i >= items.length) continue;
        yield* at(
          type.of,
          items[i],
          `${path}[${i}]`,
          (changed) => put(items.with(i, changed)),
        );
      }
      return;
    }
    case "optional":
      if (value !== null) yield* inside(type.of, value, path, put);
      return;
  }
}

/** Other values for a place: bounds, single bits, neighbours, and what does not fit the type. */
function* replacements(
  type: TypeDescription,
  value: unknown,
): Generator<unknown> {
  switch (type.kind) {
    case "u8":
    case "u16":
    case "u32":
    case "i32": {
      const [min, max] = integerRange(type);
      const now = value as number;
      const wide = type.kind === "u32" || type.kind === "i32";
      const bits = wide
        ? WIDE_BITS
        : Array.from({ length: type.kind === "u8" ? 8 : 16 }, (_, i) => i);
      const flipped = bits.map((bit) =>
        type.kind === "i32" ? now ^ 1 << bit : (now ^ 1 << bit) >>> 0
      );
      const tried = new Set([min, max, now - 1, now + 1, ...flipped]);
      tried.delete(now);
      for (const each of tried) if (each >= min && each <= max) yield each;
      yield max + 1;
      yield min - 1;
      yield 0.5;
      yield String(now);
      return;
    }
    case "u64": {
      const now = value as bigint;
      const flipped = WIDER_BITS.map((bit) => now ^ 1n << BigInt(bit));
      const tried = new Set([0n, U64_MAX, now + 1n, now - 1n, ...flipped]);
      tried.delete(now);
      for (const each of tried) {
        if (each >= 0n && each <= U64_MAX) yield each;
      }
      yield -1n;
      yield 0;
      return;
    }
    case "f64":
      yield* [NaN, Infinity, -Infinity, -0, 0, 1, -1, 0.5];
      yield* [2 ** 53, -(2 ** 53), 1e308, -1e308, 5e-324];
      yield (value as number) + 1;
      yield "1";
      return;
    case "bool":
      yield !value;
      yield 1;
      return;
    case "bytes": {
      const now = value as Uint8Array;
      const { length = Math.min(type.max ?? LONGEST, LONGEST) } = type;
      yield new Uint8Array(0);
      yield new Uint8Array(length);
      yield new Uint8Array(length).fill(0xff);
      yield now.slice(0, -1);
      yield new Uint8Array(length + 1);
      for (const i of new Set([0, now.length >> 1, now.length - 1])) {
        if (now.length > 0) yield now.with(i, now[i] ^ 0xff);
      }
      return;
    }
    case "str":
      yield "";
      yield "x".repeat(Math.min(type.max ?? LONGEST, LONGEST));
      yield "\u0000\ud800";
      yield null;
      return;
    case "list": {
      const now = value as unknown[];
      const { length = Math.min(type.max ?? LONGEST, LONGEST) } = type;
      const more = now[0] ?? least(type.of);
      yield [];
      yield now.slice(0, -1);
      yield [...now, more];
      yield Array.from({ length }, () => more);
      yield Array.from({ length }, () => least(type.of));
      yield Array.from({ length: length + 1 }, () => more);
      yield now.toReversed();
      return;
    }
    case "record":
      yield null;
      return;
    case "optional":
      if (value === null) yield least(type.of);
      else {
        yield null;
        yield* replacements(type.of, value);
      }
      return;
    case "union":
      for (const [tag, of] of Object.entries(type.tags)) {
        yield { tag, ...least(of) as object };
      }
      yield { tag: "no such tag" };
      return;
    case "gpa":
      yield* pointers(value as { address: bigint; length: number } | null);
      return;
    case "timer":
      yield null;
      for (const remaining of [0, 1, ...FAR]) yield { remaining };
      yield { remaining: -1 };
      yield { remaining: 0.5 };
      return;
  }
}

function* pointers(
  value: { address: bigint; length: number } | null,
): Generator<unknown> {
  const { address, length } = value ?? { address: 0n, length: 16 };
  if (value !== null) yield null;
  yield { address: address + 1n, length };
  yield { address: address ^ 0x1000n, length };
  yield { address: U64_MAX, length };
  yield { address: 0xc0000000n, length };
  yield { address, length: 0 };
  yield { address, length: length + 1 };
  yield { address, length: 2 ** 40 };
}
