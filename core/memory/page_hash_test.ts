import { assertEquals, assertNotEquals } from "@std/assert";
import fc from "fast-check";
import { pageHasher } from "./page_hash.ts";

const PAGE = 4096;

Deno.test("pageHasher gives 0 exactly for pages of zeroes, and tells others apart", () => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
  const hash = pageHasher(memory, 1);
  const bytes = new Uint8Array(memory.buffer);
  const page = fc.nat(15);
  const place = fc.nat(PAGE - 1);
  const value = fc.integer({ min: 1, max: 255 });
  assertEquals(hash(0), 0);
  fc.assert(
    fc.property(page, place, value, place, (n, at, byte, other) => {
      // Its neighbours are no part of it.
      bytes.fill(1);
      bytes.fill(0, n * PAGE, (n + 1) * PAGE);
      assertEquals(hash(n * PAGE), 0);
      bytes[n * PAGE + at] = byte;
      const one = hash(n * PAGE);
      assertNotEquals(one, 0);
      assertEquals(hash(n * PAGE), one);
      if (other === at) return;
      bytes[n * PAGE + at] = 0;
      bytes[n * PAGE + other] = byte;
      assertNotEquals(hash(n * PAGE), one);
    }),
    { numRuns: 200 },
  );
});

Deno.test("pageHasher tells pages apart that differ in one byte of any word", () => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
  const hash = pageHasher(memory, 1);
  const bytes = new Uint8Array(memory.buffer);
  const seen = new Set<number>();
  for (let at = 0; at < PAGE; at++) {
    bytes[at] = 0x80;
    seen.add(hash(0));
    bytes[at] = 0;
  }
  assertEquals(seen.size, PAGE);
});

Deno.test("pageHasher finds equal pages wherever they are", () => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
  const hash = pageHasher(memory, 1);
  const bytes = new Uint8Array(memory.buffer);
  for (let i = 0; i < PAGE; i++) bytes[i] = i * i;
  bytes.copyWithin(5 * PAGE, 0, PAGE);
  assertEquals(hash(5 * PAGE), hash(0));
});
