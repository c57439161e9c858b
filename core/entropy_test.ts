import { assertEquals, assertNotEquals } from "@std/assert";
import { Entropy } from "./entropy.ts";

function drawn(entropy: Entropy, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  entropy.fill(bytes);
  return bytes;
}

Deno.test("entropy of a machine that counts instructions is what SplitMix64 gives from 0", () => {
  // The first two outputs of the published reference for the seed 0.
  const bytes = drawn(new Entropy("instructions"), 16);
  assertEquals(
    [...new BigUint64Array(bytes.buffer)],
    [0xe220_a839_7b1d_cdafn, 0x6e78_9e6a_a1b9_65f4n],
  );
});

Deno.test("entropy of a machine that counts instructions goes on where it was saved", () => {
  const first = new Entropy("instructions");
  drawn(first, 13);
  const second = new Entropy("instructions");
  second.restore(first.save());
  assertEquals(drawn(second, 100), drawn(first, 100));
});

Deno.test("entropy in real time is never that of another machine restored from the same state", () => {
  const first = new Entropy("realtime");
  const second = new Entropy("realtime");
  second.restore(first.save());
  assertNotEquals(drawn(second, 32), drawn(first, 32));
});

Deno.test("entropy in real time fills arrays of any length", () => {
  const bytes = drawn(new Entropy("realtime"), 200_000);
  const last = bytes.subarray(-64);
  assertEquals(last.some((byte) => byte !== 0), true);
});
