// Scratch disks in snapshots: frozen content stays what it was, whatever is written afterwards.

import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import type { FrozenContent } from "../../core/plugin.ts";
import { MemoryBlock } from "./memory.ts";

const PAGE = 4096;
const CHUNK = 64 * 1024;

/** All that a frozen disk holds. */
function thaw(frozen: FrozenContent): Uint8Array {
  const pages = Math.ceil(frozen.bytes / PAGE);
  const bytes = new Uint8Array(pages * PAGE);
  for (let i = 0; i < pages; i++) {
    const page = frozen.page(i);
    if (page !== undefined) {
      assertEquals(page.length, PAGE);
      assert(page.some((byte) => byte !== 0), `page ${i} is zeroes`);
      bytes.set(page, i * PAGE);
    }
  }
  assert(bytes.subarray(frozen.bytes).every((byte) => byte === 0));
  return bytes.subarray(0, frozen.bytes);
}

Deno.test("each frozen content of a scratch disk stays that of its instant", () => {
  // Not whole chunks, nor whole pages.
  const sectors = 3 * CHUNK / 512 + 21;
  const operation = fc.record({
    kind: fc.constantFrom("write", "zero", "freeze", "release"),
    sector: fc.nat(sectors - 1),
    count: fc.integer({ min: 1, max: 200 }),
    value: fc.nat(255),
  });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 40 }), (operations) => {
      const disk = new MemoryBlock(sectors * 512);
      const model = new Uint8Array(disk.size);
      const frozen: { content: FrozenContent; was: Uint8Array }[] = [];
      for (const { kind, sector, count, value } of operations) {
        const offset = sector * 512;
        const length = Math.min(count * 512, disk.size - offset);
        const part = model.subarray(offset, offset + length);
        if (kind === "write") {
          disk.immediate.write(offset, part.fill(value));
        } else if (kind === "zero") {
          disk.immediate.writeZeroes(offset, length, true);
          part.fill(0);
        } else if (kind === "freeze") {
          const content = disk.content.freeze();
          frozen.push({ content, was: model.slice() });
        } else {
          frozen.splice(value % (frozen.length || 1), 1)[0]?.content.release();
        }
      }
      for (const { content, was } of frozen) assertEquals(thaw(content), was);
      const now = new Uint8Array(disk.size);
      disk.immediate.read(0, now);
      assertEquals(now, model);
    }),
    { numRuns: 100 },
  );
});

Deno.test("a scratch disk that was frozen is restored page by page, read-only or not", () => {
  const disk = new MemoryBlock(CHUNK + 512);
  disk.immediate.write(0, new Uint8Array(512).fill(1));
  disk.immediate.write(CHUNK, new Uint8Array(512).fill(2));
  const frozen = disk.content.freeze();
  for (const readOnly of [false, true]) {
    const copy = new MemoryBlock(disk.size, readOnly);
    for (let i = 0; i <= CHUNK / PAGE; i++) {
      const page = frozen.page(i);
      if (page !== undefined) copy.content.restore(i, page);
    }
    assertEquals(thaw(copy.content.freeze()), thaw(frozen));
    assertThrows(
      () => copy.content.restore(CHUNK / PAGE + 1, new Uint8Array(PAGE)),
      RangeError,
      "outside",
    );
  }
  assertEquals([...Array(CHUNK / PAGE + 1).keys()].filter(frozen.page), [
    0,
    CHUNK / PAGE,
  ]);
});

Deno.test("a scratch disk copies a chunk once for each content that holds it", () => {
  const disk = new MemoryBlock(4 * CHUNK);
  const sector = new Uint8Array(512).fill(7);
  for (let i = 0; i < 4; i++) disk.immediate.write(i * CHUNK, sector);
  const frozen = disk.content.freeze();
  const before = frozen.page(0);
  disk.immediate.write(512, sector);
  disk.immediate.write(1024, sector);
  assertEquals(frozen.page(0), before);
  // The chunk that it holds is its own now; those that were not written are still shared.
  const again = disk.content.freeze();
  assert(again.page(0)!.buffer !== frozen.page(0)!.buffer);
  assert(again.page(16)!.buffer === frozen.page(16)!.buffer);
  const shared = again.page(16)!.buffer;
  frozen.release();
  again.release();
  disk.immediate.write(CHUNK, sector);
  const last = disk.content.freeze();
  assert(last.page(16)!.buffer === shared, "copied, though nothing held it");
});
