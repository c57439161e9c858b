import { assert, assertEquals, assertThrows } from "@std/assert";
import { E820_RAM, pcMemoryMap } from "./e820.ts";

const MIB = 1 << 20;
const GIB = 1 << 30;

Deno.test("pcMemoryMap is in order, without overlap, and accounts for all RAM", () => {
  for (const size of [MIB, 64 * MIB, 3 * GIB, 3 * GIB + MIB, 16 * GIB]) {
    const map = pcMemoryMap(size);
    let end = 0;
    let ram = 0;
    for (const { base, length, type } of map) {
      assert(base >= end && length > 0);
      end = base + length;
      if (type === E820_RAM) ram += length;
    }
    // What lies between 0x9fc00 and 1 MiB is RAM that the guest may not use.
    assertEquals(ram, size - (MIB - 0x9fc00));
  }
});

Deno.test("pcMemoryMap refuses a size that no machine can have", () => {
  assertThrows(() => pcMemoryMap(4096), RangeError, "4096 bytes");
  assertThrows(() => pcMemoryMap(64 * MIB + 1), RangeError, "multiple of 4096");
});
