/**
 * State schemas: the declaration of what a component saves (DESIGN.md section 6).
 *
 * A schema is a name, a version, named fields of fixed types, and a chain of migrations from older
 * versions. From it come the TypeScript type of the state, its validation, its JSON Schema and,
 * in `arbitrary.ts`, random values for property tests. A type is plain data
 * ({@linkcode TypeDescription}), so a snapshot can carry its schemas and be read without the
 * plugins that made it.
 *
 * @module
 */

/** A type as data: what a snapshot stores of it. */
export type TypeDescription =
  | { kind: IntegerKind; min?: number; max?: number }
  | { kind: "u64" | "f64" | "bool" | "gpa" | "timer" }
  | { kind: "bytes"; length?: number; max?: number }
  | { kind: "str"; max?: number }
  | { kind: "list"; of: TypeDescription; length?: number; max?: number }
  | { kind: "record"; fields: Record<string, TypeDescription> }
  | { kind: "optional"; of: TypeDescription }
  | { kind: "union"; tags: Record<string, TypeDescription> };

/** The integer types that are a JavaScript number. */
export type IntegerKind = "u8" | "u16" | "u32" | "i32";

/** Carries the TypeScript type of a {@linkcode Type}; never present at run time. */
export declare const VALUE: unique symbol;

/** A type of which `T` is the TypeScript type. */
export interface Type<T> {
  /** The type as data. */
  readonly description: TypeDescription;
  /** Only for type inference. */
  readonly [VALUE]?: T;
}

/** A pointer into guest memory: guest-physical address and length in bytes; null where it is not set up. */
export type Gpa = { address: bigint; length: number } | null;

/** A timer: virtual nanoseconds until it fires, 0 if it is due; null when it is not armed. */
export type TimerState = { remaining: number } | null;

/** Named fields. */
export type Fields = Record<string, Type<unknown>>;

/** The TypeScript type of fields `F`. */
export type FieldsOf<F extends Fields> = {
  -readonly [K in keyof F]: ValueOf<F[K]>;
};

/** The TypeScript type of the values of a {@linkcode Type}. */
export type ValueOf<X> = X extends Type<infer T> ? T : never;

/** The TypeScript type of the state that a {@linkcode Schema} (or a {@linkcode Type}) declares. */
export type Infer<S> = S extends Schema<infer T> ? T : ValueOf<S>;

/** Inclusive bounds of an integer. */
export interface Bounds {
  /** Least value; that of the type when absent. */
  min?: number;
  /** Greatest value; that of the type when absent. */
  max?: number;
}

/** A value does not fit its schema. */
export class SchemaError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "SchemaError";
  /** Where in the state: `uart.fifo[3]`. */
  readonly path: string;

  /**
   * Makes the error; its message starts with the path.
   *
   * @param path Where in the state.
   * @param message What is there and what was expected.
   */
  constructor(path: string, message: string) {
    super(`${path} ${message}`);
    this.path = path;
  }
}

const RANGES: Readonly<Record<IntegerKind, readonly [number, number]>> = {
  u8: [0, 0xff],
  u16: [0, 0xffff],
  u32: [0, 0xffffffff],
  i32: [-0x80000000, 0x7fffffff],
};
/** The greatest u64. */
export const U64_MAX = 0xffff_ffff_ffff_ffffn;
const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
/** Controls, and what turns the direction of writing: a terminal obeys them. */
const NOT_SHOWN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
/** Shown of an offending value at most. */
const SHOWN = 40;

/**
 * The least and greatest value of an integer type.
 *
 * @param type Its description.
 * @returns Both, inclusive.
 */
export function integerRange(
  type: { kind: IntegerKind } & Bounds,
): [number, number] {
  const [min, max] = RANGES[type.kind];
  return [type.min ?? min, type.max ?? max];
}

function integer(kind: IntegerKind, bounds: Bounds): Type<number> {
  const [least, greatest] = RANGES[kind];
  const { min = least, max = greatest } = bounds;
  if (
    !Number.isInteger(min) || !Number.isInteger(max) || min < least ||
    max > greatest || min > max
  ) {
    throw new TypeError(
      `bounds ${min} to ${max} of a ${kind}: expected integers in order from ${least} to ${greatest}`,
    );
  }
  return { description: { kind, ...bounds } };
}

/**
 * An unsigned 8-bit integer.
 *
 * @param bounds Narrower bounds, where the device has them.
 * @returns The type.
 */
export function u8(bounds: Bounds = {}): Type<number> {
  return integer("u8", bounds);
}

/**
 * An unsigned 16-bit integer.
 *
 * @param bounds Narrower bounds, where the device has them.
 * @returns The type.
 */
export function u16(bounds: Bounds = {}): Type<number> {
  return integer("u16", bounds);
}

/**
 * An unsigned 32-bit integer.
 *
 * @param bounds Narrower bounds, where the device has them.
 * @returns The type.
 */
export function u32(bounds: Bounds = {}): Type<number> {
  return integer("u32", bounds);
}

/**
 * A signed 32-bit integer.
 *
 * @param bounds Narrower bounds, where the device has them.
 * @returns The type.
 */
export function i32(bounds: Bounds = {}): Type<number> {
  return integer("i32", bounds);
}

/** An unsigned 64-bit integer, a bigint. @returns The type. */
export function u64(): Type<bigint> {
  return { description: { kind: "u64" } };
}

/** A double, NaN and the infinities included. @returns The type. */
export function f64(): Type<number> {
  return { description: { kind: "f64" } };
}

/** A boolean. @returns The type. */
export function bool(): Type<boolean> {
  return { description: { kind: "bool" } };
}

/**
 * A byte string.
 *
 * @param size Its exact length, or `{ max }`; any length when absent.
 * @returns The type.
 */
export function bytes(size?: number | { max: number }): Type<Uint8Array> {
  if (typeof size === "number") {
    return { description: { kind: "bytes", length: size } };
  }
  return { description: { kind: "bytes", ...size } };
}

/**
 * A text.
 *
 * @param size The greatest number of UTF-16 units.
 * @returns The type.
 */
export function str(size: { max?: number } = {}): Type<string> {
  return { description: { kind: "str", ...size } };
}

/**
 * A list.
 *
 * @param type The type of each item.
 * @param size The exact length or the greatest; one of them must be given.
 * @returns The type.
 */
export function list<T>(
  type: Type<T>,
  size: { length: number } | { max: number },
): Type<T[]> {
  return { description: { kind: "list", of: type.description, ...size } };
}

/**
 * A record of named fields.
 *
 * @param fields Name and type of each.
 * @returns The type.
 */
export function record<const F extends Fields>(fields: F): Type<FieldsOf<F>> {
  return { description: { kind: "record", fields: describeFields(fields) } };
}

/**
 * A value that may be absent; then it is null.
 *
 * @param type The type of the value when it is there.
 * @returns The type.
 */
export function optional<T>(type: Type<T>): Type<T | null> {
  return { description: { kind: "optional", of: type.description } };
}

/** The TypeScript type of a union. */
export type UnionOf<U extends Record<string, Type<object>>> = {
  [K in keyof U]: { tag: K } & ValueOf<U[K]>;
}[keyof U];

/**
 * One of several records. The value is the record's with one more field, `tag`, that says which.
 *
 * @param tags The record for each tag.
 * @returns The type.
 * @example
 * ```ts
 * import { record, u32, union } from "./schema.ts";
 *
 * const phase = union({ idle: record({}), reading: record({ left: u32() }) });
 * // { tag: "idle" } | { tag: "reading", left: 3 }
 * ```
 */
export function union<const U extends Record<string, Type<object>>>(
  tags: U,
): Type<UnionOf<U>> {
  const described: Record<string, TypeDescription> = {};
  for (const [tag, { description }] of Object.entries(tags)) {
    if (description.kind !== "record") {
      throw new TypeError(`tag "${tag}" of a union: expected a record`);
    }
    if (Object.hasOwn(description.fields, "tag")) {
      throw new TypeError(`tag "${tag}" of a union: has a field named "tag"`);
    }
    described[tag] = description;
  }
  return { description: { kind: "union", tags: described } };
}

/** A pointer into guest memory, or null. @returns The type. */
export function gpa(): Type<Gpa> {
  return { description: { kind: "gpa" } };
}

/** A timer. @returns The type. */
export function timer(): Type<TimerState> {
  return { description: { kind: "timer" } };
}

function describeFields(fields: Fields): Record<string, TypeDescription> {
  const described: Record<string, TypeDescription> = {};
  for (const [name, type] of Object.entries(fields)) {
    if (!NAME.test(name)) {
      throw new TypeError(
        `field "${name}": expected a letter, then letters, digits and _`,
      );
    }
    described[name] = type.description;
  }
  return described;
}

/** What a validation may check beyond the types. */
export interface ValidateOptions {
  /** What the path of an error starts with; the schema's name when absent. */
  path?: string;
  /** Whether a range lies wholly in guest RAM; every `gpa` is checked with it. */
  contains?: (address: number, length: number) => boolean;
}

/**
 * A value as error messages have it.
 *
 * @param value Anything.
 * @returns A few printable characters.
 */
export function show(value: unknown): string {
  if (value === null) return "null";
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  if (Array.isArray(value)) return `a list of ${value.length}`;
  switch (typeof value) {
    case "object":
      return "a record";
    case "string": {
      const text = JSON.stringify(value).replace(
        NOT_SHOWN,
        (c) => `\\u{${c.codePointAt(0)!.toString(16)}}`,
      );
      return text.length > SHOWN ? `${text.slice(0, SHOWN)}…"` : text;
    }
    case "bigint":
      return `${value}n`;
    case "number":
    case "boolean":
      return String(value);
    default:
      return typeof value;
  }
}

function refuse(path: string, value: unknown, expected: string): never {
  throw new SchemaError(path, `is ${show(value)}: expected ${expected}`);
}

/**
 * Whether a value is a record, and neither a list nor bytes.
 *
 * @param value Anything.
 */
export function isPlain(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null &&
    !Array.isArray(value) && !ArrayBuffer.isView(value);
}

/** The path of a key that nobody has declared: it may be any text. */
function unknownKey(path: string, key: string): string {
  return NAME.test(key) && key.length <= SHOWN
    ? `${path}.${key}`
    : `${path}[${show(key)}]`;
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** Says how long a bytes, str or list may be, for messages. */
function expectedSize(
  { length, max }: { length?: number; max?: number },
  noun: string,
): string {
  if (length !== undefined) return plural(length, noun);
  return max === undefined ? `${noun}s` : `at most ${plural(max, noun)}`;
}

function fits(
  size: number,
  limits: { length?: number; max?: number },
): boolean {
  return (limits.length === undefined || size === limits.length) &&
    (limits.max === undefined || size <= limits.max);
}

function checkFields(
  fields: Record<string, TypeDescription>,
  value: Record<string, unknown>,
  path: string,
  options: ValidateOptions,
  extra?: string,
): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  for (const key of Object.keys(value)) {
    if (key !== extra && !Object.hasOwn(fields, key)) {
      throw new SchemaError(
        unknownKey(path, key),
        `is not a field: expected ${
          Object.keys(fields).join(", ") || "no fields"
        }`,
      );
    }
  }
  for (const [key, type] of Object.entries(fields)) {
    if (!Object.hasOwn(value, key)) {
      throw new SchemaError(`${path}.${key}`, "is missing");
    }
    result[key] = checkValue(type, value[key], `${path}.${key}`, options);
  }
  return result;
}

/**
 * Checks a value against a type that is given as data.
 *
 * @param type The type.
 * @param value What to check.
 * @param path How errors name the value.
 * @param options Further checks.
 * @returns A copy of the value, its fields in the declared order.
 * @throws {SchemaError} Where the value does not fit, with the path to the offending part.
 */
export function checkValue(
  type: TypeDescription,
  value: unknown,
  path: string,
  options: ValidateOptions = {},
): unknown {
  switch (type.kind) {
    case "u8":
    case "u16":
    case "u32":
    case "i32": {
      const [min, max] = integerRange(type);
      if (
        !Number.isInteger(value) || value as number < min ||
        value as number > max
      ) {
        refuse(path, value, `an integer from ${min} to ${max}`);
      }
      return (value as number) + 0; // -0 becomes 0
    }
    case "u64":
      if (typeof value !== "bigint" || value < 0n || value > U64_MAX) {
        refuse(path, value, "a bigint from 0 to 2^64 - 1");
      }
      return value;
    case "f64":
      if (typeof value !== "number") refuse(path, value, "a number");
      return value;
    case "bool":
      if (typeof value !== "boolean") refuse(path, value, "true or false");
      return value;
    case "bytes":
      if (!(value instanceof Uint8Array) || !fits(value.length, type)) {
        refuse(path, value, expectedSize(type, "byte"));
      }
      return value.slice();
    case "str":
      if (typeof value !== "string" || !fits(value.length, type)) {
        refuse(path, value, `a text of ${expectedSize(type, "character")}`);
      }
      return value;
    case "list":
      if (!Array.isArray(value) || !fits(value.length, type)) {
        refuse(path, value, `a list of ${expectedSize(type, "item")}`);
      }
      return Array.from(
        value,
        (item, i) => checkValue(type.of, item, `${path}[${i}]`, options),
      );
    case "record":
      if (!isPlain(value)) refuse(path, value, "a record");
      return checkFields(type.fields, value, path, options);
    case "optional":
      return value === null ? null : checkValue(type.of, value, path, options);
    case "union": {
      if (!isPlain(value)) refuse(path, value, "a record with a tag");
      const tags = Object.keys(type.tags);
      const tag = Object.hasOwn(value, "tag") ? value.tag : undefined;
      if (typeof tag !== "string" || !Object.hasOwn(type.tags, tag)) {
        refuse(`${path}.tag`, tag, `one of ${tags.join(", ")}`);
      }
      const chosen = type.tags[tag];
      if (chosen.kind !== "record") {
        throw new TypeError(`tag "${tag}" of a union: expected a record`);
      }
      return {
        tag,
        ...checkFields(chosen.fields, value, path, options, "tag"),
      };
    }
    case "gpa":
      return checkGpa(value, path, options);
    case "timer": {
      if (value === null) return null;
      const timer = checkShape(value, path, ["remaining"]);
      const { remaining } = timer;
      if (!Number.isSafeInteger(remaining) || (remaining as number) < 0) {
        refuse(
          `${path}.remaining`,
          remaining,
          "whole nanoseconds, at least 0",
        );
      }
      return { remaining: (remaining as number) + 0 };
    }
  }
}

function checkShape(
  value: unknown,
  path: string,
  keys: string[],
): Record<string, unknown> {
  if (!isPlain(value)) refuse(path, value, `null or { ${keys.join(", ")} }`);
  for (const key of keys) {
    if (!Object.hasOwn(value, key)) {
      throw new SchemaError(`${path}.${key}`, "is missing");
    }
  }
  for (const key of Object.keys(value)) {
    if (!keys.includes(key)) {
      throw new SchemaError(
        unknownKey(path, key),
        `is not a field: expected ${keys.join(", ")}`,
      );
    }
  }
  return value;
}

function checkGpa(value: unknown, path: string, options: ValidateOptions): Gpa {
  if (value === null) return null;
  const { address, length } = checkShape(value, path, ["address", "length"]);
  if (typeof address !== "bigint" || address < 0n || address > U64_MAX) {
    refuse(`${path}.address`, address, "a bigint from 0 to 2^64 - 1");
  }
  if (!Number.isSafeInteger(length) || (length as number) < 0) {
    refuse(`${path}.length`, length, "whole bytes, at least 0");
  }
  const size = (length as number) + 0;
  if (options.contains && !options.contains(Number(address), size)) {
    throw new SchemaError(
      path,
      `is 0x${address.toString(16)}, ${
        plural(size, "byte")
      }: expected a range wholly inside guest RAM`,
    );
  }
  return { address, length: size };
}

/** A JSON Schema (draft 2020-12). */
export type JsonSchema = { [keyword: string]: unknown };

/**
 * The JSON Schema of a type's JSON form, which {@linkcode toJson} makes: a u64 is a decimal
 * string, bytes are base64, a double that JSON has no number for is a string.
 *
 * @param type The type.
 * @returns The schema, without `$schema`.
 */
export function jsonSchemaOf(type: TypeDescription): JsonSchema {
  const U64 = { type: "string", pattern: "^(0|[1-9][0-9]{0,19})$" };
  switch (type.kind) {
    case "u8":
    case "u16":
    case "u32":
    case "i32": {
      const [minimum, maximum] = integerRange(type);
      return { type: "integer", minimum, maximum };
    }
    case "u64":
      return U64;
    case "f64":
      return {
        anyOf: [{ type: "number" }, { enum: ["NaN", "Infinity", "-Infinity"] }],
      };
    case "bool":
      return { type: "boolean" };
    case "bytes": {
      const encoded = (length: number) => Math.ceil(length / 3) * 4;
      const { length, max = length } = type;
      return {
        type: "string",
        contentEncoding: "base64",
        ...(length === undefined ? {} : { minLength: encoded(length) }),
        ...(max === undefined ? {} : { maxLength: encoded(max) }),
      };
    }
    case "str":
      return {
        type: "string",
        ...(type.max === undefined ? {} : { maxLength: type.max }),
      };
    case "list": {
      const { length, max = length } = type;
      return {
        type: "array",
        items: jsonSchemaOf(type.of),
        ...(length === undefined ? {} : { minItems: length }),
        ...(max === undefined ? {} : { maxItems: max }),
      };
    }
    case "record":
      return objectSchema(
        Object.fromEntries(
          Object.entries(type.fields).map(([k, t]) => [k, jsonSchemaOf(t)]),
        ),
      );
    case "optional":
      return { anyOf: [jsonSchemaOf(type.of), { type: "null" }] };
    case "union":
      return {
        oneOf: Object.entries(type.tags).map(([tag, t]) =>
          objectSchema({
            tag: { const: tag },
            ...(jsonSchemaOf(t).properties as JsonSchema),
          })
        ),
      };
    case "gpa":
      return {
        anyOf: [
          objectSchema({
            address: U64,
            length: { type: "integer", minimum: 0 },
          }),
          { type: "null" },
        ],
      };
    case "timer":
      return {
        anyOf: [
          objectSchema({ remaining: { type: "integer", minimum: 0 } }),
          { type: "null" },
        ],
      };
  }
}

function objectSchema(properties: JsonSchema): JsonSchema {
  return {
    type: "object",
    properties,
    required: Object.keys(properties),
    additionalProperties: false,
  };
}

/**
 * The JSON form of a value, as {@linkcode jsonSchemaOf} describes it.
 *
 * @param value A value that a schema has validated.
 * @returns What `JSON.stringify` can take.
 */
export function toJson(value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "number") {
    return Number.isFinite(value) ? value : String(value);
  }
  if (value instanceof Uint8Array) {
    let text = "";
    for (const byte of value) text += String.fromCharCode(byte);
    return btoa(text);
  }
  if (Array.isArray(value)) return value.map(toJson);
  if (isPlain(value)) {
    return Object.fromEntries(
      Object.entries(value).map(([k, v]) => [k, toJson(v)]),
    );
  }
  return value;
}

/** A migration: takes a state of version n and returns it as version n + 1. Pure. */
export type Migration = (old: unknown) => unknown;

/** A schema as data: what a snapshot stores of it. */
export interface SchemaDescription {
  /** The component's kind. */
  name: string;
  /** Version of the schema. */
  version: number;
  /** Type of the state. */
  type: TypeDescription;
}

/** The declared state of one kind of component. */
export interface Schema<T> {
  /** The component's kind. */
  readonly name: string;
  /** The current version, from 1. */
  readonly version: number;
  /** The type of the state. */
  readonly type: Type<T>;
  /** By version n, from n to n + 1. */
  readonly migrations: Readonly<Record<number, Migration>>;
  /**
   * Checks a value of the current version.
   *
   * @param value What to check.
   * @param options Further checks, and how errors name the value.
   * @returns A copy, its fields in the declared order.
   * @throws {SchemaError} Where the value does not fit.
   */
  validate(value: unknown, options?: ValidateOptions): T;
  /**
   * Brings a value of an older version to the current one and checks it.
   *
   * @param value The state as it was saved.
   * @param version The schema version it was saved with.
   * @param options Further checks, and how errors name the value.
   * @returns The state in the current version.
   * @throws {SchemaError} When the version is newer, too old to migrate, or the value does not fit.
   */
  migrate(value: unknown, version: number, options?: ValidateOptions): T;
  /** The JSON Schema of the state's JSON form. */
  jsonSchema(): JsonSchema;
  /** The schema as data. */
  describe(): SchemaDescription;
}

/**
 * Declares the state of a component.
 *
 * @param name The component's kind, usually the plugin's name.
 * @param version The current version, from 1.
 * @param fields Name and type of each field.
 * @param migrations For each older version n that can be read, the step from n to n + 1.
 * @returns The schema.
 * @throws {TypeError} If the declaration itself is wrong.
 * @example
 * ```ts
 * import { type Infer, schema, timer, u8 } from "./schema.ts";
 *
 * const blinker = schema("blinker", 2, { rate: u8({ max: 9 }), next: timer() }, {
 *   1: (old) => ({ ...(old as { rate: number }), next: null }),
 * });
 * type Blinker = Infer<typeof blinker>; // { rate: number; next: { remaining: number } | null }
 * blinker.migrate({ rate: 3 }, 1); // { rate: 3, next: null }
 * ```
 */
export function schema<const F extends Fields>(
  name: string,
  version: number,
  fields: F,
  migrations: Readonly<Record<number, Migration>> = {},
): Schema<FieldsOf<F>> {
  if (!Number.isInteger(version) || version < 1) {
    throw new TypeError(
      `schema "${name}": version ${version}, expected an integer from 1`,
    );
  }
  const steps = Object.keys(migrations).map(Number).sort((a, b) => a - b);
  const oldest = steps[0] ?? version;
  for (let n = oldest; n < version; n++) {
    if (migrations[n] === undefined) {
      throw new TypeError(
        `schema "${name}": no migration from version ${n} to ${n + 1}`,
      );
    }
  }
  if (steps.some((n) => n < 1 || n >= version)) {
    throw new TypeError(
      `schema "${name}": migrations from ${
        steps.join(", ")
      }, expected only versions from 1 below ${version}`,
    );
  }
  const type = record(fields);
  const self: Schema<FieldsOf<F>> = {
    name,
    version,
    type,
    migrations,
    validate: (value, options = {}) =>
      checkValue(
        type.description,
        value,
        options.path ?? name,
        options,
      ) as FieldsOf<F>,
    migrate: (value, from, options = {}) => {
      const path = options.path ?? name;
      if (!Number.isInteger(from) || from < 1) {
        throw new SchemaError(
          path,
          `has schema version ${show(from)}: expected an integer from 1`,
        );
      }
      if (from > version) {
        throw new SchemaError(
          path,
          `was saved with version ${from} of the schema "${name}", and this build reads up to version ${version}: use a newer build`,
        );
      }
      if (from < oldest) {
        throw new SchemaError(
          path,
          `was saved with version ${from} of the schema "${name}", and this build reads from version ${oldest}: convert it with an older build`,
        );
      }
      let state = value;
      for (let n = from; n < version; n++) {
        try {
          state = migrations[n](state);
        } catch (error) {
          throw new SchemaError(
            path,
            `cannot be migrated from version ${n} to ${n + 1}: ${
              error instanceof Error ? error.message : error
            }`,
          );
        }
      }
      return self.validate(state, options);
    },
    jsonSchema: () => ({
      $schema: "https://json-schema.org/draft/2020-12/schema",
      title: name,
      description: `State of ${name}, version ${version}`,
      ...jsonSchemaOf(type.description),
    }),
    describe: () => ({ name, version, type: type.description }),
  };
  return self;
}
