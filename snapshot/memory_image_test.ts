import { assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  BLOCK_PAGES,
  blocksOf,
  ImageBuilder,
  overlay,
  PAGE_BYTES,
  type PageMap,
  pagesOf,
  type PageSource,
} from "./memory_image.ts";

const PAGES = 40;

/** A page by what it is filled with; few values, so that many are equal. */
function page(value: number): Uint8Array {
  return new Uint8Array(PAGE_BYTES).fill(value);
}

/** A source that gives pages in any order, and some of them never again. */
function shuffled(
  taken: readonly { page: number; value: number; again: boolean }[],
  inherits: boolean,
): PageSource {
  let next = 0;
  return {
    region: "ram",
    bytes: PAGES * PAGE_BYTES,
    inherits,
    get left() {
      return taken.length - next;
    },
    take() {
      const each = taken[next++];
      return each && { page: each.page, content: page(each.value) };
    },
    again(number) {
      const each = taken.find((t) => t.page === number)!;
      return each.again ? page(each.value) : undefined;
    },
  };
}

/** Builds an image; returns its map, and what each stored page is filled with. */
function build(source: PageSource): { map: PageMap; stored: number[] } {
  const builder = new ImageBuilder(source);
  const stored: number[] = [];
  for (;;) {
    const block = builder.next();
    if (block === undefined) break;
    if (block === "more") continue;
    for (let at = 0; at < block.length; at += PAGE_BYTES) {
      assertEquals(block.subarray(at, at + PAGE_BYTES), page(block[at]));
      stored.push(block[at]);
    }
  }
  assertEquals(stored.length, builder.stored);
  return { map: builder.map(), stored };
}

const takenPages = fc.uniqueArray(
  fc.record({
    page: fc.nat(PAGES - 1),
    value: fc.nat(4),
    again: fc.boolean(),
  }),
  { selector: (each) => each.page },
);

Deno.test("a chain of images is each page from the newest that has it", () => {
  fc.assert(
    fc.property(fc.array(takenPages, { maxLength: 5 }), (snapshots) => {
      const memory = new Array<number>(PAGES).fill(0);
      const images = snapshots.map((taken, i) => {
        for (const { page, value } of taken) memory[page] = value;
        return build(shuffled(taken, i > 0));
      }).reverse();
      const found = overlay(images.map(({ map }) => map));
      const read = new Array<number>(PAGES).fill(0);
      found.pages.forEach((page, i) => {
        read[page] = images[found.layers[i]].stored[found.numbers[i] - 1];
      });
      assertEquals(read, memory);
      const ascending = [...found.pages].sort((a, b) => a - b);
      assertEquals([...found.pages], ascending);
    }),
  );
});

Deno.test("equal pages are stored once as long as they can be compared", () => {
  const all = [1, 2, 1, 2, 1].map((value, page) => ({ page, value }));
  const stored = (again: (page: number) => boolean) =>
    build(shuffled(
      all.map((each) => ({ ...each, again: again(each.page) })),
      false,
    )).stored;
  assertEquals(stored(() => true), [1, 2]);
  assertEquals(stored(() => false), [1, 2, 1, 2, 1]);
  assertEquals(stored((page) => page > 0), [1, 2, 1]);
});

Deno.test("blocks name each page of a memory once, with its place", () => {
  const pages = 2 * BLOCK_PAGES + 10;
  const content = {
    bytes: pages * PAGE_BYTES,
    page: (i: number) => i < 2 ? undefined : page(i % 255 + 1),
  };
  // None is compared, so that all are stored.
  const source = { ...pagesOf("ram", content), again: () => undefined };
  const { map } = build(source);
  const blocks = blocksOf(overlay([map]));
  assertEquals(
    blocks.flatMap((block) => block.pages).sort((a, b) => a - b),
    Array.from({ length: pages - 2 }, (_, i) => i + 2),
  );
  for (const { pages, slots, block } of blocks) {
    pages.forEach((page, i) => {
      const number = map.numbers[map.pages.indexOf(page)];
      assertEquals(block * BLOCK_PAGES + slots[i] + 1, number);
    });
  }
});
