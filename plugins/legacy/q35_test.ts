import { assertEquals } from "@std/assert";
import { createTestContext } from "../../core/testing/context.ts";
import q35 from "./q35.ts";
import { testRoundTrip } from "../../tests/golden.ts";

Deno.test("q35 reports what is fixed", () => {
  const { machine } = createTestContext(q35, { ram: 64 << 20 });
  const read = (offset: number, size: 1 | 2 | 4 = 4) =>
    machine.configRead(0, 0, offset, size);
  assertEquals(read(0), 0x29c0_8086);
  assertEquals(read(8) >>> 8, 0x06_00_00);
  assertEquals([read(0x60), read(0x64)], [0xe000_0001, 0]);
  assertEquals(read(0xb0, 2) >> 4, 64);
  machine.configWrite(0, 0, 0x60, 0);
  assertEquals(read(0x60), 0xe000_0001);
  assertEquals(read(0x90, 1), 0x30);
});

Deno.test("q35 has no state of its own", () => {
  const { save, restore } = createTestContext(q35);
  assertEquals(save(), {});
  restore({});
});

testRoundTrip(q35, {
  steps: [
    (machine) => machine.configWrite(0, 0, 0x90, 0x33, 1),
    (machine) => machine.out(0xcf8, 0x8000_0090, 4),
    (machine) => machine.in(0xcfc, 4),
    (machine) => machine.configWrite(0, 0, 4, 7, 2),
    (machine) => machine.configRead(0, 0, 4),
  ],
}, import.meta.url);
