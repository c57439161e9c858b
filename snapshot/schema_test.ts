import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { arbitrary } from "./arbitrary.ts";
import {
  bool,
  bytes,
  f64,
  gpa,
  i32,
  type Infer,
  list,
  optional,
  record,
  schema,
  SchemaError,
  str,
  timer,
  toJson,
  u16,
  u32,
  u64,
  u8,
  union,
} from "./schema.ts";

const everything = schema("everything", 1, {
  a: u8(),
  b: u16({ max: 1024 }),
  c: u32(),
  d: u64(),
  e: i32(),
  f: f64(),
  g: bool(),
  fixed: bytes(4),
  bounded: bytes({ max: 8 }),
  text: str({ max: 10 }),
  items: list(record({ x: u8(), y: optional(u16()) }), { max: 5 }),
  pair: list(bool(), { length: 2 }),
  phase: union({ idle: record({}), busy: record({ left: u32() }) }),
  ring: gpa(),
  tick: timer(),
});

function valid(): Infer<typeof everything> {
  return {
    a: 1,
    b: 2,
    c: 3,
    d: 4n,
    e: -5,
    f: 0.5,
    g: true,
    fixed: new Uint8Array(4),
    bounded: new Uint8Array(8),
    text: "text",
    items: [{ x: 1, y: null }, { x: 2, y: 3 }],
    pair: [true, false],
    phase: { tag: "busy", left: 7 },
    ring: { address: 0x1000n, length: 4096 },
    tick: { remaining: 1_000_000 },
  };
}

function refused(change: Record<string, unknown>, message: string): void {
  const error = assertThrows(
    () => everything.validate({ ...valid(), ...change }),
    SchemaError,
  );
  assertEquals(error.message, message);
}

Deno.test("schema.validate accepts a value of every type and returns a copy", () => {
  const state = valid();
  const copy = everything.validate(state);
  assertEquals(copy, state);
  copy.fixed[0] = 1;
  assertEquals(state.fixed[0], 0);
});

Deno.test("schema.validate returns fields in the declared order", () => {
  const pair = schema("pair", 1, { first: u8(), second: u8() });
  assertEquals(
    Object.keys(pair.validate({ second: 2, first: 1 })),
    ["first", "second"],
  );
});

Deno.test("schema.validate names the path, the value and what was expected", () => {
  refused({ a: 256 }, "everything.a is 256: expected an integer from 0 to 255");
  refused(
    { b: 1025 },
    "everything.b is 1025: expected an integer from 0 to 1024",
  );
  refused(
    { c: 1.5 },
    "everything.c is 1.5: expected an integer from 0 to 4294967295",
  );
  refused({ d: 4 }, "everything.d is 4: expected a bigint from 0 to 2^64 - 1");
  refused(
    { d: -1n },
    "everything.d is -1n: expected a bigint from 0 to 2^64 - 1",
  );
  refused({ g: 1 }, "everything.g is 1: expected true or false");
  refused(
    { fixed: new Uint8Array(3) },
    "everything.fixed is 3 bytes: expected 4 bytes",
  );
  refused(
    { text: "longer than ten" },
    'everything.text is "longer than ten": expected a text of at most 10 characters',
  );
  refused(
    { items: [{ x: 1, y: null }, { x: 300, y: 1 }] },
    "everything.items[1].x is 300: expected an integer from 0 to 255",
  );
  refused(
    { pair: [true] },
    "everything.pair is a list of 1: expected a list of 2 items",
  );
  refused(
    { phase: { tag: "gone" } },
    'everything.phase.tag is "gone": expected one of idle, busy',
  );
  refused({ phase: { tag: "busy" } }, "everything.phase.left is missing");
  refused(
    { tick: { remaining: -1 } },
    "everything.tick.remaining is -1: expected whole nanoseconds, at least 0",
  );
  refused(
    { more: 1 },
    `everything.more is not a field: expected ${
      Object.keys(valid()).join(", ")
    }`,
  );
  const { a: _, ...rest } = valid();
  assertThrows(
    () => everything.validate(rest),
    SchemaError,
    "everything.a is missing",
  );
});

Deno.test("schema.validate refuses a pointer outside guest RAM", () => {
  const contains = (address: number, length: number) =>
    address + length <= 0x2000;
  everything.validate(valid(), { contains });
  const error = assertThrows(() =>
    everything.validate({
      ...valid(),
      ring: { address: 0x1001n, length: 4096 },
    }, { contains, path: "disk0" }), SchemaError);
  assertEquals(
    error.message,
    "disk0.ring is 0x1001, 4096 bytes: expected a range wholly inside guest RAM",
  );
});

Deno.test("schema.validate accepts every arbitrary value unchanged", () => {
  fc.assert(
    fc.property(arbitrary(everything), (state) => {
      assertEquals(everything.validate(state), state);
    }),
    { numRuns: 200 },
  );
});

Deno.test("arbitrary keeps guest pointers inside RAM", () => {
  const ram = 1 << 16;
  fc.assert(
    fc.property(arbitrary(everything, { ram }), (state) => {
      everything.validate(state, {
        contains: (address, length) => address + length <= ram,
      });
    }),
  );
});

Deno.test("schema.migrate runs the chain from the saved version", () => {
  const state = schema("led", 3, { level: u8(), colour: str(), on: bool() }, {
    1: (old) => ({ ...(old as object), colour: "red" }),
    2: (old) => ({ ...(old as object), on: true }),
  });
  assertEquals(state.migrate({ level: 4 }, 1), {
    level: 4,
    colour: "red",
    on: true,
  });
  assertEquals(state.migrate({ level: 4, colour: "blue" }, 2).colour, "blue");
  assertThrows(
    () => state.migrate({}, 4),
    SchemaError,
    'led was saved with version 4 of the schema "led", and this build reads up to version 3',
  );
  assertThrows(
    () => state.migrate({ level: 999 }, 1),
    SchemaError,
    "led.level is 999",
  );
  assertThrows(
    () => state.migrate({}, 0),
    SchemaError,
    "expected an integer from 1",
  );
});

Deno.test("schema.migrate names the failing step", () => {
  const state = schema("led", 2, { level: u8() }, {
    1: () => {
      throw new Error("no brightness");
    },
  });
  assertThrows(
    () => state.migrate({}, 1),
    SchemaError,
    "led cannot be migrated from version 1 to 2: no brightness",
  );
});

Deno.test("schema refuses a gap in its migrations", () => {
  assertThrows(
    () => schema("led", 3, {}, { 1: (old) => old }),
    TypeError,
    "no migration from version 2 to 3",
  );
  assertThrows(() => schema("led", 1, {}, { 1: (old) => old }), TypeError);
});

Deno.test("schema.jsonSchema describes the JSON form", () => {
  const small = schema("small", 2, {
    n: u8({ max: 3 }),
    big: u64(),
    raw: bytes(3),
  });
  assertEquals(small.jsonSchema(), {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "small",
    description: "State of small, version 2",
    type: "object",
    properties: {
      n: { type: "integer", minimum: 0, maximum: 3 },
      big: { type: "string", pattern: "^(0|[1-9][0-9]{0,19})$" },
      raw: {
        type: "string",
        contentEncoding: "base64",
        minLength: 4,
        maxLength: 4,
      },
    },
    required: ["n", "big", "raw"],
    additionalProperties: false,
  });
  assertEquals(
    toJson(
      small.validate({ n: 1, big: 1n << 63n, raw: Uint8Array.of(1, 2, 3) }),
    ),
    { n: 1, big: "9223372036854775808", raw: "AQID" },
  );
});

Deno.test("schema.describe is plain data", () => {
  assertEquals(
    JSON.parse(JSON.stringify(everything.describe())),
    everything.describe(),
  );
});
