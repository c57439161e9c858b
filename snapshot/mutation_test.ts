import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { arbitrary } from "./arbitrary.ts";
import { mutations } from "./mutation.ts";
import {
  bytes,
  gpa,
  list,
  optional,
  record,
  schema,
  SchemaError,
  timer,
  u16,
  u64,
  u8,
  union,
} from "./schema.ts";

const device = schema("device", 1, {
  level: u8({ max: 9 }),
  wide: u64(),
  key: bytes(4),
  fifo: list(record({ character: u8(), errors: u8() }), { max: 4 }),
  latch: optional(u16()),
  phase: union({ idle: record({}), busy: record({ left: u16() }) }),
  ring: gpa(),
  next: timer(),
});
const state = device.validate({
  level: 3,
  wide: 5n,
  key: Uint8Array.of(1, 2, 3, 4),
  fifo: [{ character: 65, errors: 0 }, { character: 66, errors: 4 }],
  latch: null,
  phase: { tag: "busy", left: 7 },
  ring: { address: 0x1000n, length: 64 },
  next: { remaining: 10 },
});

Deno.test("mutations change every field, some within the schema and some not", () => {
  const before = structuredClone(state);
  const found = [...mutations(device.type.description, state)];
  assertEquals(state, before);
  const verdicts = new Map<string, Set<boolean>>();
  for (const { path, state: changed } of found) {
    let isValid = true;
    try {
      device.validate(changed);
    } catch (error) {
      assert(error instanceof SchemaError);
      isValid = false;
    }
    verdicts.set(path, (verdicts.get(path) ?? new Set()).add(isValid));
  }
  for (
    const path of [
      "level",
      "wide",
      "key",
      "fifo",
      "fifo[0].character",
      "fifo[1].errors",
      "phase",
      "phase.left",
      "next",
    ]
  ) assertEquals(verdicts.get(path), new Set([true, false]), path);
  assertEquals(verdicts.get("latch"), new Set([true]));
  assertEquals(verdicts.get("ring"), new Set([true]));
});

Deno.test("mutations try bounds, neighbours and single bits of a number", () => {
  const type = record({ level: u8({ max: 9 }) });
  const values = [...mutations(type.description, { level: 3 })]
    .filter(({ path }) => path === "level").map(({ shown }) => shown);
  assertEquals(values, ["0", "9", "2", "4", "1", "7", "10", "-1", "0.5", "3"]);
});

Deno.test("mutations of any state are as many as its fields allow, and no more", () => {
  fc.assert(
    fc.property(arbitrary(device), (any) => {
      const count = [...mutations(device.type.description, any)].length;
      assert(count > 50 && count < 400, `${count}`);
    }),
  );
});
