/**
 * States in JSON form, back to values: the inverse of `toJson` (docs/snapshot-format.md, section 4).
 *
 * @module
 */
import { SchemaError, type TypeDescription } from "./schema.ts";

const DECIMAL = /^(0|[1-9][0-9]{0,19})$/;

/**
 * Reads a value in the JSON form that `toJson` makes. The value is then to be checked against its
 * type, as one from a snapshot.
 *
 * @param type The type.
 * @param json What `JSON.parse` returned.
 * @param path How errors name the value.
 * @returns The value: u64 as bigint, bytes as Uint8Array.
 * @throws {SchemaError} Where the text of a u64 or of bytes is malformed.
 * @example
 * ```ts
 * import { fromJson } from "./json.ts";
 * import { bytes, record, toJson, u64 } from "./schema.ts";
 *
 * const { description } = record({ id: u64(), key: bytes(2) });
 * const value = { id: 7n, key: Uint8Array.of(1, 2) };
 * fromJson(description, JSON.parse(JSON.stringify(toJson(value)))); // value again
 * ```
 */
export function fromJson(
  type: TypeDescription,
  json: unknown,
  path: string = "state",
): unknown {
  const fields = (
    types: Record<string, TypeDescription>,
    value: Record<string, unknown>,
  ) =>
    Object.fromEntries(
      Object.entries(value).map(([name, each]) => [
        name,
        Object.hasOwn(types, name)
          ? fromJson(types[name], each, `${path}.${name}`)
          : each,
      ]),
    );
  const isMap = typeof json === "object" && json !== null &&
    !Array.isArray(json);
  const map = json as Record<string, unknown>;
  switch (type.kind) {
    case "u64":
      if (typeof json !== "string" || !DECIMAL.test(json)) {
        throw new SchemaError(
          path,
          `is ${JSON.stringify(json)}: expected a u64 as decimal text`,
        );
      }
      return BigInt(json);
    case "f64":
      return typeof json === "string" ? Number(json) : json;
    case "bytes":
      return decodeBytes(json, path);
    case "list":
      return Array.isArray(json)
        ? json.map((item, i) => fromJson(type.of, item, `${path}[${i}]`))
        : json;
    case "optional":
      return json === null ? null : fromJson(type.of, json, path);
    case "record":
      return isMap ? fields(type.fields, map) : json;
    case "union": {
      const chosen = isMap && typeof map.tag === "string" &&
          Object.hasOwn(type.tags, map.tag)
        ? type.tags[map.tag]
        : undefined;
      return chosen?.kind === "record" ? fields(chosen.fields, map) : json;
    }
    case "gpa":
      return isMap ? fields({ address: { kind: "u64" } }, map) : json;
    default:
      return json;
  }
}

function decodeBytes(json: unknown, path: string): Uint8Array {
  try {
    if (typeof json === "string") {
      return Uint8Array.from(atob(json), (char) => char.charCodeAt(0));
    }
  } catch {
    // Said below.
  }
  throw new SchemaError(path, "is no base64 text: expected bytes");
}
