/**
 * How two descriptions of one type differ: a snapshot carries the schema that it was saved with,
 * and a plugin whose build was changed without a new version has another one of the same version.
 *
 * @module
 */
import { integerRange, type TypeDescription } from "./schema.ts";

/** A type in a few words: `a list of at most 16 u16`. */
function inWords(type: TypeDescription | undefined): string {
  if (type === undefined) return "not there";
  const size = (
    { length, max }: { length?: number; max?: number },
    unit: string,
  ) =>
    length !== undefined
      ? `${length} ${unit}`
      : max !== undefined
      ? `at most ${max} ${unit}`
      : unit;
  switch (type.kind) {
    case "u8":
    case "u16":
    case "u32":
    case "i32": {
      const { min, max } = type;
      if (min === undefined && max === undefined) return type.kind;
      const [from, to] = integerRange(type);
      return `${type.kind} from ${from} to ${to}`;
    }
    case "bytes":
      return size(type, "bytes");
    case "str":
      return `a text of ${size(type, "characters")}`;
    case "list":
      return `a list of ${size(type, inWords(type.of))}`;
    case "record":
      return `a record of ${Object.keys(type.fields).join(", ") || "nothing"}`;
    case "union":
      return `a union of ${Object.keys(type.tags).join(", ")}`;
    case "optional":
      return `${inWords(type.of)} or null`;
    default:
      return type.kind;
  }
}

/**
 * Finds the first difference between two types.
 *
 * @param saved The type that a snapshot describes.
 * @param own The type as this build has it.
 * @param path What the place is called.
 * @returns `receive[] is u16 in the snapshot, and a record of character, errors here`; undefined when they are equal.
 * @example
 * ```ts
 * import { difference } from "./difference.ts";
 * import { record, u16, u8 } from "./schema.ts";
 *
 * difference(record({ level: u8() }).description, record({ level: u16() }).description);
 * // "level is u8 in the snapshot, and u16 here"
 * ```
 */
export function difference(
  saved: TypeDescription | undefined,
  own: TypeDescription | undefined,
  path: string = "",
): string | undefined {
  const inside = (
    of: Record<string, TypeDescription>,
    ours: Record<string, TypeDescription>,
  ) => {
    for (const name of new Set([...Object.keys(of), ...Object.keys(ours)])) {
      const at = path === "" ? name : `${path}.${name}`;
      const get = (types: Record<string, TypeDescription>) =>
        Object.hasOwn(types, name) ? types[name] : undefined;
      const found = difference(get(of), get(ours), at);
      if (found !== undefined) return found;
    }
    return undefined;
  };
  if (saved?.kind === "record" && own?.kind === "record") {
    return inside(saved.fields, own.fields);
  }
  if (saved?.kind === "union" && own?.kind === "union") {
    return inside(saved.tags, own.tags);
  }
  if (saved?.kind === "optional" && own?.kind === "optional") {
    return difference(saved.of, own.of, path);
  }
  if (
    saved?.kind === "list" && own?.kind === "list" &&
    saved.length === own.length && saved.max === own.max
  ) return difference(saved.of, own.of, `${path}[]`);
  const [theirs, ours] = [inWords(saved), inWords(own)];
  return theirs === ours
    ? undefined
    : `${path || "it"} is ${theirs} in the snapshot, and ${ours} here`;
}
