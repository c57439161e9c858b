import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { AbsentPages } from "./absent.ts";
import { FrozenMemory } from "./freeze.ts";
import { GuestMemory, PAGE_SIZE } from "./memory.ts";
import { imageBlocks, sameImage, takePages } from "./testing.ts";

const RAM = 1 << 20;
const PAGES = 16;

/** Some pages of an image; a value of 0 leaves zeroes. */
const someImage = fc.array(fc.nat(3), { minLength: PAGES, maxLength: PAGES })
  .map((values) => {
    const image = new Uint8Array(RAM);
    values.forEach((value, page) =>
      image.fill(value, page * PAGE_SIZE + 8, (page + 1) * PAGE_SIZE)
    );
    return image;
  });

Deno.test("AbsentPages makes memory what the image is, whatever is touched first", async () => {
  const access = fc.record({
    kind: fc.constantFrom("read", "view", "write", "freeze", "stream"),
    address: fc.nat(PAGES * PAGE_SIZE - 9),
    length: fc.integer({ min: 1, max: 2 * PAGE_SIZE }),
  });
  await fc.assert(
    fc.asyncProperty(someImage, fc.array(access), async (image, accesses) => {
      const memory = new GuestMemory(RAM);
      const pages = new AbsentPages(memory, imageBlocks(image));
      const expected = image.slice();
      for (const { kind, address, length } of accesses) {
        const end = address + length;
        if (kind === "write") {
          memory.write(address, new Uint8Array(length).fill(9));
          expected.fill(9, address, end);
        } else if (kind === "freeze") {
          const frozen = new FrozenMemory(memory, false);
          const copy = new Uint8Array(RAM);
          takePages(frozen, copy);
          frozen.end(false);
          assert(sameImage(copy, expected));
        } else if (kind === "stream") {
          await pages.stream();
        } else {
          const seen = kind === "view"
            ? memory.view(address, length).slice()
            : new Uint8Array(length);
          if (kind === "read") memory.read(address, seen);
          assertEquals(seen, expected.slice(address, end));
        }
      }
      pages.loadRest();
      assert(sameImage(memory.ramBytes, expected));
      assertEquals(memory.loader, undefined);
    }),
    { numRuns: 60 },
  );
});

Deno.test("AbsentPages loads a block once, and pages that were written meanwhile stay", async () => {
  const image = new Uint8Array(RAM).fill(1, 0, 6 * PAGE_SIZE);
  const memory = new GuestMemory(RAM);
  const blocks = imageBlocks(image);
  const pages = new AbsentPages(memory, blocks);
  const streamed = pages.stream();
  memory.writeU8(0, 7);
  await streamed;
  assertEquals(memory.readU8(0), 7);
  assertEquals(memory.readU8(5 * PAGE_SIZE), 1);
  // The first was on its way when the write asked for it.
  assertEquals(blocks.map(({ loads }) => loads), [2, 1]);
});

Deno.test("an image that pages are absent of is left out of what builds on it", () => {
  const image = new Uint8Array(RAM).fill(1, 0, 6 * PAGE_SIZE);
  const memory = new GuestMemory(RAM);
  const blocks = imageBlocks(image);
  new AbsentPages(memory, blocks);
  memory.writeU8(4 * PAGE_SIZE, 2);
  const frozen = new FrozenMemory(memory, true);
  assertEquals(frozen.take()?.page, 4);
  assertEquals(frozen.take(), undefined);
  frozen.end(true);
  assertEquals(blocks.map(({ loads }) => loads), [0, 1]);
});

Deno.test("AbsentPages tells of a block that is damaged before it throws", async () => {
  const image = new Uint8Array(RAM).fill(1, 0, PAGE_SIZE);
  const damage = new Error("chunk 5 is damaged");
  const [block] = imageBlocks(image);
  const broken = {
    ...block,
    load: () => Promise.reject(damage),
    loadNow: () => {
      throw damage;
    },
  };
  const memory = new GuestMemory(RAM);
  const pages = new AbsentPages(memory, [broken]);
  const told: unknown[] = [];
  pages.onLost = (error) => told.push(error);
  assertThrows(() => memory.readU8(0), Error, "chunk 5");
  assertThrows(() => memory.writeU8(0, 1), Error, "chunk 5");
  await assertRejects(() => pages.stream(), Error, "chunk 5");
  assertEquals(told, [damage, damage, damage]);
});
