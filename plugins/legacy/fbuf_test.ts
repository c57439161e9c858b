import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import {
  createTestContext,
  type TestContext,
} from "../../core/testing/context.ts";
import { testRoundTrip } from "../../tests/golden.ts";
import fbuf from "./fbuf.ts";

const SLOT = 1;
const COMMAND = 4;
const BAR0 = 0x10;
const BAR1 = 0x14;
const REGISTERS = 0xc1000000;
const FRAME_BUFFER = 0xc2000000;
const WIDTH = 4;
const HEIGHT = 6;

function place(machine: TestContext): void {
  machine.configWrite(SLOT, 0, BAR0, REGISTERS);
  machine.configWrite(SLOT, 0, BAR1, FRAME_BUFFER);
  machine.configWrite(SLOT, 0, COMMAND, 2, 2);
}

function frameBuffer(options: { width?: number; height?: number } = {}) {
  const device = createTestContext(fbuf, { options, ram: 2 << 20 });
  place(device.machine);
  return device;
}

Deno.test("fbuf has bhyve's registers", () => {
  const { machine } = frameBuffer({ width: 800, height: 600 });
  assertEquals(machine.configRead(SLOT, 0, 0), 0x40fbfb5d);
  assertEquals(machine.load(REGISTERS), 16 << 20);
  assertEquals(machine.load(REGISTERS + 4), 600 << 16 | 800);
  assertEquals(machine.load(REGISTERS + 8), 60 << 16 | 32);
  assertEquals(machine.load(REGISTERS + 12), 0);
  assertEquals(machine.load(REGISTERS + 5, 1), 3);
});

Deno.test("fbuf shows what the guest writes, and tells only the lines that changed", () => {
  const { machine } = frameBuffer();
  const { display } = machine;
  assertEquals(display.look(), [{ x: 0, y: 0, width: 1024, height: 768 }]);
  assertEquals(display.look(), []);
  machine.store(FRAME_BUFFER + 4 * (100 * 1024 + 7), 0x12345678);
  machine.store(FRAME_BUFFER + 4 * (100 * 1024 + 8) + 1, 0xab, 1);
  assertEquals(display.look(), [{ x: 0, y: 100, width: 1024, height: 1 }]);
  assertEquals(display.pixel(7, 100), 0x345678);
  assertEquals(display.pixel(8, 100), 0x00ab00);
  assertEquals(machine.load(FRAME_BUFFER + 4 * (100 * 1024 + 7)), 0x12345678);
});

Deno.test("fbuf tells 64 parts at most", () => {
  const { machine } = frameBuffer();
  machine.display.look();
  for (let line = 0; line < 768; line += 2) {
    machine.store(FRAME_BUFFER + 4 * 1024 * line, 1);
  }
  const parts = machine.display.look();
  assertEquals(parts, [{ x: 0, y: 0, width: 1024, height: 767 }]);
});

Deno.test("fbuf takes another size, and none that cannot be shown", () => {
  const { machine } = frameBuffer();
  machine.store(REGISTERS + WIDTH, 640, 2);
  machine.store(REGISTERS + HEIGHT, 480, 2);
  assertMatch(machine.display.seen, /^640x480 /);
  machine.store(REGISTERS + WIDTH, 0, 2);
  machine.store(REGISTERS + WIDTH, 4096, 2);
  assertMatch(machine.display.seen, /^640x480 /);
  machine.store(FRAME_BUFFER + 4 * (640 + 1), 0xff00ff);
  assertEquals(machine.display.pixel(1, 1), 0xff00ff);
});

Deno.test("fbuf answers beyond its registers and at the end of its memory", () => {
  const { machine } = frameBuffer();
  machine.store(REGISTERS + 0xffc, 0xffffffff);
  assertEquals(machine.load(REGISTERS + 0xffc), 0);
  machine.store(FRAME_BUFFER + (16 << 20) - 4, 0xaabbccdd);
  assertEquals(machine.load(FRAME_BUFFER + (16 << 20) - 4), 0xaabbccdd);
});

Deno.test("fbuf shows the same picture after a restore, before anything runs", () => {
  const { machine, save } = frameBuffer({ width: 640, height: 480 });
  for (let i = 0; i < 640; i++) {
    machine.store(FRAME_BUFFER + 4 * 640 * (i % 480) + 4 * i, 0x10203 * i);
  }
  const seen = machine.display.seen;
  const other = createTestContext(fbuf, { ram: 2 << 20 });
  other.restore(save());
  assertEquals(other.machine.display.seen, seen);
});

Deno.test("fbuf refuses memory that is not its own", () => {
  const { restore, save } = frameBuffer();
  const state = save();
  const page = new Uint8Array(4096);
  assertThrows(
    () =>
      restore({
        ...state,
        memory: [{ page: 2, bytes: page }, { page: 2, bytes: page }],
      }),
    Error,
    "expected ascending numbers",
  );
});

testRoundTrip(fbuf, {
  runs: 8,
  make: () => ({ options: { width: 640, height: 480 } }),
  steps: [
    (machine) => place(machine),
    (machine) => machine.store(FRAME_BUFFER + 0x1000, 0x445566),
    (machine) => machine.display.seen,
    (machine) => machine.store(REGISTERS + WIDTH, 700, 2),
    (machine) => machine.display.seen,
    (machine) => machine.store(FRAME_BUFFER + 0x2004, 0x77, 1),
    (machine) => [machine.load(FRAME_BUFFER + 0x2004), machine.display.seen],
    (machine) => machine.load(REGISTERS + 4),
  ],
}, import.meta.url);
