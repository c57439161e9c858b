import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { FrozenMemory } from "./freeze.ts";
import { GuestMemory, PAGE_SIZE } from "./memory.ts";
import { sameImage, takePages } from "./testing.ts";

const RAM = 1 << 20;
/** Few, so that writes meet. */
const PAGES = 24;

/** A write of bytes, or so many pages of the snapshot taken. */
const step = fc.oneof(
  fc.record({
    address: fc.nat(PAGES * PAGE_SIZE - 1),
    length: fc.integer({ min: 1, max: 3 * PAGE_SIZE }),
    value: fc.nat(3),
  }),
  fc.record({ pages: fc.integer({ min: 1, max: 5 }) }),
);
type Step = { address: number; length: number; value: number } | {
  pages: number;
};

function perform(
  memory: GuestMemory,
  steps: readonly Step[],
  take: (pages: number) => void,
): void {
  for (const each of steps) {
    if ("pages" in each) take(each.pages);
    else {
      const { address, length, value } = each;
      memory.write(address, new Uint8Array(length).fill(value));
    }
  }
}

Deno.test("FrozenMemory has what memory was, whatever is written meanwhile", () => {
  fc.assert(
    fc.property(fc.array(step), fc.array(step), (before, meanwhile) => {
      const memory = new GuestMemory(RAM);
      perform(memory, before, () => {});
      const expected = memory.ramBytes.slice();
      const frozen = new FrozenMemory(memory, false);
      const image = new Uint8Array(RAM);
      perform(
        memory,
        meanwhile,
        (pages) => takePages(frozen, image, pages),
      );
      takePages(frozen, image);
      frozen.end(true);
      assertEquals(frozen.left, 0);
      assert(sameImage(image, expected));
    }),
    { numRuns: 100 },
  );
});

Deno.test("FrozenMemory that builds on others gives what was written since the last that succeeded", () => {
  const round = fc.record({
    before: fc.array(step, { maxLength: 5 }),
    meanwhile: fc.array(step, { maxLength: 8 }),
    full: fc.boolean(),
    written: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(round, { maxLength: 6 }), (rounds) => {
      const memory = new GuestMemory(RAM);
      let last: Uint8Array | undefined;
      for (const { before, meanwhile, full, written } of rounds) {
        perform(memory, before, () => {});
        const expected = memory.ramBytes.slice();
        const inherits = !full && last !== undefined;
        const frozen = new FrozenMemory(memory, inherits);
        const image = inherits ? last!.slice() : new Uint8Array(RAM);
        perform(
          memory,
          meanwhile,
          (pages) => takePages(frozen, image, pages),
        );
        if (written) takePages(frozen, image);
        frozen.end(written);
        if (!written) continue;
        assert(sameImage(image, expected));
        last = image;
      }
    }),
    { numRuns: 100 },
  );
});

Deno.test("FrozenMemory that builds on another takes only pages that were written", () => {
  const memory = new GuestMemory(RAM);
  const pages = (inherits: boolean) => {
    const frozen = new FrozenMemory(memory, inherits);
    const taken: number[] = [];
    for (let each = frozen.take(); each !== undefined; each = frozen.take()) {
      taken.push(each.page);
    }
    frozen.end(true);
    return taken;
  };
  memory.writeU8(5 * PAGE_SIZE, 1);
  memory.writeU8(9 * PAGE_SIZE, 1);
  assertEquals(pages(false), [5, 9]);
  assertEquals(pages(true), []);
  memory.writeU64(7 * PAGE_SIZE - 4, 1n << 40n);
  memory.readU8(3 * PAGE_SIZE);
  assertEquals(pages(true), [6, 7]);
  // The first part of that write was zeroes, and pages of zeroes are in no full snapshot.
  assertEquals(pages(false), [5, 7, 9]);
});

Deno.test("FrozenMemory gives a page again only as it was", () => {
  const memory = new GuestMemory(RAM);
  memory.writeU8(0, 1);
  memory.writeU8(PAGE_SIZE, 2);
  const frozen = new FrozenMemory(memory, false);
  takePages(frozen, new Uint8Array(RAM));
  memory.writeU8(PAGE_SIZE, 3);
  assertEquals(frozen.again(0)?.[0], 1);
  assertEquals(frozen.again(1), undefined);
  frozen.end(true);
});

Deno.test("FrozenMemory tells when the guest writes faster than the snapshot", () => {
  const memory = new GuestMemory(160 << 20);
  const all = memory.ram / PAGE_SIZE;
  const write = (page: number) =>
    memory.writeU8(0x100000 + page * PAGE_SIZE, 1);
  for (let page = 0; page < all - 256; page++) write(page);
  const frozen = new FrozenMemory(memory, false);
  assertEquals(frozen.behind, false);
  for (let page = 0; page < all - 256; page++) write(page);
  assertEquals(frozen.behind, true);
  while (frozen.take() !== undefined) { /* the snapshot catches up */ }
  assertEquals(frozen.behind, false);
  frozen.end(true);
});
