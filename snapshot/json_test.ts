import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { arbitrary } from "./arbitrary.ts";
import { fromJson } from "./json.ts";
import {
  bool,
  bytes,
  f64,
  gpa,
  i32,
  list,
  optional,
  record,
  schema,
  SchemaError,
  str,
  timer,
  toJson,
  u64,
  u8,
  union,
} from "./schema.ts";

const everything = schema("everything", 1, {
  small: u8(),
  signed: i32(),
  wide: u64(),
  real: f64(),
  flag: bool(),
  data: bytes({ max: 9 }),
  text: str({ max: 9 }),
  many: list(record({ wide: u64(), data: bytes(2) }), { max: 3 }),
  maybe: optional(u64()),
  phase: union({ idle: record({}), busy: record({ left: u64() }) }),
  pointer: gpa(),
  next: timer(),
});

Deno.test("fromJson gives back what toJson was given, for any state", () => {
  const { description } = everything.type;
  fc.assert(
    fc.property(arbitrary(everything), (state) => {
      const json = JSON.parse(JSON.stringify(toJson(state)));
      const value = everything.validate(fromJson(description, json));
      assertEquals(value, everything.validate(state));
    }),
  );
});

Deno.test("fromJson names what is no u64 and no base64", () => {
  const { description } = everything.type;
  for (
    const [json, message] of [
      [{ wide: 7 }, "state.wide is 7: expected a u64 as decimal text"],
      [{ wide: "0x7" }, 'state.wide is "0x7"'],
      [{ data: "!" }, "state.data is no base64 text"],
      [{ many: [{ data: 5 }] }, "state.many[0].data is no base64 text"],
      [
        { phase: { tag: "busy", left: null } },
        "state.phase.left is null: expected a u64",
      ],
    ] as const
  ) assertThrows(() => fromJson(description, json), SchemaError, message);
});

Deno.test("fromJson leaves what does not fit for the schema to refuse", () => {
  const { description } = everything.type;
  for (const json of [null, 5, [], { phase: { tag: "gone" } }, { many: 3 }]) {
    const value = fromJson(description, json);
    assertThrows(() => everything.validate(value), SchemaError);
  }
});
