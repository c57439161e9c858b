import { assertEquals } from "@std/assert";
import { difference } from "./difference.ts";
import {
  bool,
  bytes,
  type Fields,
  list,
  optional,
  record,
  timer,
  u16,
  u8,
  union,
} from "./schema.ts";

function between(saved: Fields, own: Fields): string | undefined {
  return difference(record(saved).description, record(own).description);
}

Deno.test("difference names the first place where two types differ, and what is there", () => {
  const entry = record({ character: u8(), errors: u8() });
  for (
    const [saved, own, expected] of [
      [{ a: u8() }, { a: u8() }, undefined],
      [
        { a: u8(), level: u8() },
        { a: u8(), level: u16() },
        "level is u8 in the snapshot, and u16 here",
      ],
      [
        { a: u8() },
        { a: u8(), b: bool() },
        "b is not there in the snapshot, and bool here",
      ],
      [
        { b: timer() },
        {},
        "b is timer in the snapshot, and not there here",
      ],
      [
        { fifo: list(u16(), { max: 16 }) },
        { fifo: list(entry, { max: 16 }) },
        "fifo[] is u16 in the snapshot, and a record of character, errors here",
      ],
      [
        { fifo: list(u16(), { max: 16 }) },
        { fifo: list(u16(), { max: 64 }) },
        "fifo is a list of at most 16 u16 in the snapshot, and a list of at most 64 u16 here",
      ],
      [
        { n: optional(u8({ max: 3 })) },
        { n: optional(u8({ max: 4 })) },
        "n is u8 from 0 to 3 in the snapshot, and u8 from 0 to 4 here",
      ],
      [
        { m: bytes(6) },
        { m: bytes({ max: 6 }) },
        "m is 6 bytes in the snapshot, and at most 6 bytes here",
      ],
      [
        { p: union({ idle: record({}), busy: record({ left: u8() }) }) },
        { p: union({ idle: record({}), busy: record({ left: u16() }) }) },
        "p.busy.left is u8 in the snapshot, and u16 here",
      ],
    ] as [Fields, Fields, string | undefined][]
  ) assertEquals(between(saved, own), expected);
});
