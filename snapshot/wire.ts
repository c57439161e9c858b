/**
 * MessagePack values to states: types that a file describes, and integers whose width the writer chose
 * (docs/snapshot-format.md, section 4).
 *
 * @module
 */
import {
  integerRange,
  isPlain,
  SchemaError,
  type TypeDescription,
} from "./schema.ts";

/** Types may nest so deep. */
const MAX_DEPTH = 32;
/** Names of fields and tags, which messages show as they are. */
const NAME = /^[A-Za-z0-9_-]{1,256}$/;

/**
 * Checks that something is a type description, so that values can be checked with it.
 *
 * @param type What the file has.
 * @param path Its name, for messages.
 * @param depth How deep it is nested.
 * @returns The description.
 * @throws {SchemaError} When it is none.
 */
export function checkDescription(
  type: unknown,
  path: string,
  depth = 0,
): TypeDescription {
  const refuse = (expected: string): never => {
    throw new SchemaError(path, `is no type: expected ${expected}`);
  };
  if (!isPlain(type) || depth > MAX_DEPTH) {
    return refuse(`a type, nested up to ${MAX_DEPTH} deep`);
  }
  const t = type;
  const inner = (value: unknown, name: string) =>
    checkDescription(value, `${path}.${name}`, depth + 1);
  const limits: Record<string, number> = {};
  for (const name of ["min", "max", "length"]) {
    if (t[name] === undefined) continue;
    if (!Number.isSafeInteger(t[name])) return refuse(`whole ${name}`);
    limits[name] = t[name] as number;
  }
  const sizes = () => {
    const { length = 0, max = 0 } = limits;
    return length < 0 || max < 0 ? refuse("a length of at least 0") : limits;
  };
  const all = (value: unknown, name: string) => {
    if (!isPlain(value)) return refuse(name);
    return Object.fromEntries(
      Object.entries(value).map(([key, each]) => {
        if (!NAME.test(key)) refuse("names of letters, digits, - and _");
        return [key, inner(each, key)];
      }),
    );
  };
  switch (t.kind) {
    case "u8":
    case "u16":
    case "u32":
    case "i32": {
      const [least, greatest] = integerRange({ kind: t.kind });
      const { min = least, max = greatest } = limits;
      if (min < least || max > greatest || min > max) {
        return refuse(`bounds in order from ${least} to ${greatest}`);
      }
      return { kind: t.kind, ...limits };
    }
    case "bytes":
    case "str":
      return { kind: t.kind, ...sizes() };
    case "u64":
    case "f64":
    case "bool":
    case "gpa":
    case "timer":
      return { kind: t.kind };
    case "list":
      return { kind: "list", of: inner(t.of, "of"), ...sizes() };
    case "optional":
      return { kind: "optional", of: inner(t.of, "of") };
    case "record":
      return { kind: "record", fields: all(t.fields, "fields") };
    case "union": {
      const tags = all(t.tags, "tags");
      for (const each of Object.values(tags)) {
        if (each.kind !== "record" || Object.hasOwn(each.fields, "tag")) {
          return refuse('records without a field "tag" as tags');
        }
      }
      return { kind: "union", tags };
    }
    default:
      return refuse("a known kind");
  }
}

/**
 * MessagePack writers choose the width of integers: a bigint becomes a number where the type is one.
 *
 * @param type The type.
 * @param value What the file has.
 * @returns The value, to be checked against the type.
 */
export function fromWire(type: TypeDescription, value: unknown): unknown {
  const number = (v: unknown) => typeof v === "bigint" ? Number(v) : v;
  const isMap = typeof value === "object" && value !== null &&
    !Array.isArray(value) && !(value instanceof Uint8Array);
  const fields = (types: Record<string, TypeDescription>) =>
    Object.fromEntries(
      Object.entries(value as Record<string, unknown>).map(([k, v]) => [
        k,
        Object.hasOwn(types, k) ? fromWire(types[k], v) : v,
      ]),
    );
  switch (type.kind) {
    case "u8":
    case "u16":
    case "u32":
    case "i32":
    case "f64":
      return number(value);
    case "u64":
      return Number.isSafeInteger(value) ? BigInt(value as number) : value;
    case "list":
      return Array.isArray(value)
        ? value.map((each) => fromWire(type.of, each))
        : value;
    case "optional":
      return value === null ? null : fromWire(type.of, value);
    case "record":
      return isMap ? fields(type.fields) : value;
    case "union": {
      const tag = isMap ? (value as { tag?: unknown }).tag : undefined;
      const chosen = typeof tag === "string" && Object.hasOwn(type.tags, tag)
        ? type.tags[tag]
        : undefined;
      return chosen?.kind === "record" ? fields(chosen.fields) : value;
    }
    case "gpa":
      return isMap
        ? fields({ address: { kind: "u64" }, length: { kind: "f64" } })
        : value;
    case "timer":
      return isMap ? fields({ remaining: { kind: "f64" } }) : value;
    default:
      return value;
  }
}
