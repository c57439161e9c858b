/**
 * Random values of a state schema, for property tests with fast-check.
 *
 * @module
 */
import fc from "fast-check";
import {
  integerRange,
  type Schema,
  type TypeDescription,
  U64_MAX,
} from "./schema.ts";

/** Length of bytes, texts and lists that declare no bound. */
const UNBOUNDED = 64;
/** Lists and bytes with a great bound are tried up to this length. */
const LONGEST = 4096;

/** Where random guest pointers may point. */
export interface ArbitraryOptions {
  /** Guest RAM from address 0 in bytes; every `gpa` lies inside it. */
  ram?: number;
}

/**
 * Makes random states of a schema.
 *
 * @param schema The schema.
 * @param options Limits on guest pointers.
 * @returns A fast-check arbitrary whose values the schema accepts.
 * @example
 * ```ts
 * import fc from "fast-check";
 * import { arbitrary } from "./arbitrary.ts";
 * import { schema, u8 } from "./schema.ts";
 *
 * const led = schema("led", 1, { brightness: u8() });
 * fc.assert(fc.property(arbitrary(led), (state) => led.validate(state).brightness < 256));
 * ```
 */
export function arbitrary<T>(
  schema: Schema<T>,
  options: ArbitraryOptions = {},
): fc.Arbitrary<T> {
  return ofType(schema.type.description, options) as fc.Arbitrary<T>;
}

function sizes(
  { length, max }: { length?: number; max?: number },
): { minLength: number; maxLength: number } {
  return {
    minLength: length ?? 0,
    maxLength: length ?? Math.min(max ?? UNBOUNDED, LONGEST),
  };
}

function ofFields(
  fields: Record<string, TypeDescription>,
  options: ArbitraryOptions,
): fc.Arbitrary<Record<string, unknown>> {
  const model = Object.entries(fields).map(([name, type]) =>
    [name, ofType(type, options)] as const
  );
  return fc.record(Object.fromEntries(model), { noNullPrototype: true });
}

function ofType(
  type: TypeDescription,
  options: ArbitraryOptions,
): fc.Arbitrary<unknown> {
  switch (type.kind) {
    case "u8":
    case "u16":
    case "u32":
    case "i32": {
      const [min, max] = integerRange(type);
      return fc.integer({ min, max });
    }
    case "u64":
      return fc.bigInt({ min: 0n, max: U64_MAX });
    case "f64":
      return fc.double();
    case "bool":
      return fc.boolean();
    case "bytes":
      return fc.uint8Array(sizes(type));
    case "str":
      return fc.string(sizes(type));
    case "list":
      return fc.array(ofType(type.of, options), sizes(type));
    case "record":
      return ofFields(type.fields, options);
    case "optional":
      return fc.option(ofType(type.of, options), { nil: null });
    case "union":
      return fc.oneof(
        ...Object.entries(type.tags).map(([tag, chosen]) =>
          ofType(chosen, options).map((value) => ({
            tag,
            ...(value as Record<string, unknown>),
          }))
        ),
      );
    case "gpa": {
      const { ram } = options;
      const range = ram === undefined
        ? fc.record({
          address: fc.bigInt({ min: 0n, max: U64_MAX }),
          length: fc.nat(),
        }, { noNullPrototype: true })
        : fc.nat(ram).chain((address) =>
          fc.nat(ram - address).map((length) => ({
            address: BigInt(address),
            length,
          }))
        );
      return fc.option(range, { nil: null });
    }
    case "timer":
      return fc.option(
        fc.record({ remaining: fc.maxSafeNat() }, { noNullPrototype: true }),
        { nil: null },
      );
  }
}
