import { assertEquals, assertThrows } from "@std/assert";
import { decode, encode, type ValueType } from "@std/msgpack";

const hex = (bytes: Uint8Array) => bytes.toHex();

Deno.test("encode makes the bytes that the specification says", () => {
  const table: [ValueType, string][] = [
    [null, "c0"],
    [true, "c3"],
    [127, "7f"],
    [-32, "e0"],
    [200, "ccc8"],
    [-129, "d1ff7f"],
    [65536, "ce00010000"],
    [2 ** 32, "cb41f0000000000000"],
    [1.5, "cb3ff8000000000000"],
    [1n, "cf0000000000000001"],
    [-1n, "d3ffffffffffffffff"],
    ["é", "a2c3a9"],
    [Uint8Array.of(1, 2), "c4020102"],
    [[1, [2]], "92019102"],
    [{ a: 1 }, "81a16101"],
  ];
  for (const [value, bytes] of table) {
    assertEquals(hex(encode(value)), bytes, Deno.inspect(value));
    assertEquals(decode(encode(value)), value);
  }
});

Deno.test("encode refuses what MessagePack cannot hold", () => {
  for (const value of [undefined, new Date(0), () => 0, { a: undefined }]) {
    assertThrows(() => encode(value as unknown as ValueType), Error);
  }
  assertThrows(() => encode(1n << 64n), Error, "larger than 64 bits");
});

Deno.test("decode refuses rest, truncation and extensions", () => {
  assertThrows(() => decode(Uint8Array.of(1, 2)), EvalError);
  assertThrows(() => decode(Uint8Array.of(0xa5, 0x61)), RangeError);
  assertThrows(() => decode(Uint8Array.of(0xd4, 1, 0)), Error, "ext");
});
