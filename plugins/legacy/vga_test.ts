import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import {
  createTestContext,
  type TestContext,
} from "../../core/testing/context.ts";
import { testRoundTrip } from "../../tests/golden.ts";
import vga from "./vga.ts";
import { startFont } from "./vga_font.ts";

const SLOT = 1;
const COMMAND = 4;
const BAR0 = 0x10;
const BAR2 = 0x18;
const LINEAR = 0xc1000000;
const REGISTERS = 0xc2000000;
const TEXT = 0xb8000;
const GRAPHICS = 0xa0000;
const GREY = 0xaaaaaa;
/** Bytes of the window that a mode is begun with. */
const CLEARED = 0x8000;
const SEQUENCER = 0x3c4;
const GRAPHICS_CONTROLLER = 0x3ce;
const CRTC = 0x3d4;
const [XRES, YRES, BPP, ENABLE, BANK, VIRT_WIDTH] = [1, 2, 3, 4, 5, 6];

function place(machine: TestContext): void {
  machine.configWrite(SLOT, 0, BAR0, LINEAR);
  machine.configWrite(SLOT, 0, BAR2, REGISTERS);
  machine.configWrite(SLOT, 0, COMMAND, 3, 2);
}

function adapter() {
  const device = createTestContext(vga, { ram: 2 << 20 });
  place(device.machine);
  return device;
}

/** Writes an indexed register as drivers do. */
function set(machine: TestContext, port: number, index: number, value: number) {
  machine.out(port, value << 8 | index, 2);
}

function dispi(machine: TestContext, index: number, value: number) {
  machine.out(0x1ce, index, 2);
  machine.out(0x1cf, value, 2);
}

function attributes(machine: TestContext, values: readonly number[]) {
  machine.in(0x3da);
  values.forEach((value, i) => {
    machine.out(0x3c0, i);
    machine.out(0x3c0, value);
  });
  machine.out(0x3c0, 0x20);
}

/** Sets a mode from the tables of the VGA BIOS. */
function setMode(
  machine: TestContext,
  mode: { misc: number; sr: number[]; cr: number[]; gr: number[] },
) {
  machine.out(0x3c2, mode.misc);
  mode.sr.forEach((value, i) => set(machine, SEQUENCER, i, value));
  set(machine, CRTC, 0x11, 0);
  mode.cr.forEach((value, i) => set(machine, CRTC, i, value));
  mode.gr.forEach((value, i) => set(machine, GRAPHICS_CONTROLLER, i, value));
  for (let at = 0; at < CLEARED; at += 4) machine.store(GRAPHICS + at, 0);
}

// deno-fmt-ignore
const MODE_12H = {
  misc: 0xe3,
  sr: [0x03, 0x01, 0x0f, 0x00, 0x06],
  cr: [
    0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0x00, 0x40, 0, 0, 0, 0,
    0, 0, 0xea, 0x8c, 0xdf, 0x28, 0x00, 0xe7, 0x04, 0xe3, 0xff,
  ],
  gr: [0, 0, 0, 0, 0, 0x00, 0x05, 0x0f, 0xff],
};
// deno-fmt-ignore
const MODE_13H = {
  misc: 0x63,
  sr: [0x03, 0x01, 0x0f, 0x00, 0x0e],
  cr: [
    0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0x41, 0, 0, 0, 0,
    0, 0, 0x9c, 0x8e, 0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff,
  ],
  gr: [0, 0, 0, 0, 0, 0x40, 0x05, 0x0f, 0xff],
};

/** The dots of a cell of text, a byte a line; the colour is the foreground's. */
function cell(machine: TestContext, column: number, row: number, fore: number) {
  return Array.from({ length: 16 }, (_, line) => {
    let bits = 0;
    for (let x = 0; x < 8; x++) {
      const on =
        machine.display.pixel(9 * column + x, 16 * row + line) === fore;
      bits = bits << 1 | (on ? 1 : 0);
    }
    return bits;
  });
}

Deno.test("the guest finds Bochs' adapter in text mode", () => {
  const { machine } = adapter();
  assertEquals(machine.configRead(SLOT, 0, 0), 0x11111234);
  assertEquals(machine.configRead(SLOT, 0, 8), 0x03000002);
  assertMatch(machine.display.seen, /^720x400 /);
});

Deno.test("a character in text memory has the glyph of its font, in its colours", () => {
  const { machine } = adapter();
  set(machine, CRTC, 0x0a, 0x20); // no cursor
  const at = TEXT + 2 * (3 * 80 + 5);
  machine.store(at, 0x1f41, 2); // "A", white on blue
  const font = startFont();
  const A = [...font.slice(16 * 0x41, 16 * 0x42)];
  assertEquals(cell(machine, 5, 3, 0xffffff), A);
  assertEquals(machine.display.pixel(9 * 5, 16 * 3), 0x0000aa);
  assertEquals(machine.load(at, 2), 0x1f41);
});

Deno.test("a font that the guest loads into plane 2 shows at once", () => {
  const { machine } = adapter();
  set(machine, CRTC, 0x0a, 0x20);
  machine.store(TEXT, 0x0741, 2);
  machine.display.look();
  // As Linux's vgacon does it.
  set(machine, SEQUENCER, 2, 4);
  set(machine, SEQUENCER, 4, 7);
  set(machine, GRAPHICS_CONTROLLER, 4, 2);
  set(machine, GRAPHICS_CONTROLLER, 5, 0);
  set(machine, GRAPHICS_CONTROLLER, 6, 0);
  const glyph = Array.from({ length: 16 }, (_, i) => 0x11 * i);
  glyph.forEach((row, i) => machine.store(GRAPHICS + 32 * 0x41 + i, row, 1));
  assertEquals(machine.load(GRAPHICS + 32 * 0x41 + 3, 1), 0x33);
  set(machine, SEQUENCER, 2, 3);
  set(machine, SEQUENCER, 4, 3);
  set(machine, GRAPHICS_CONTROLLER, 4, 0);
  set(machine, GRAPHICS_CONTROLLER, 5, 0x10);
  set(machine, GRAPHICS_CONTROLLER, 6, 0x0e);
  assertEquals(cell(machine, 0, 0, GREY), glyph);
  assertEquals(machine.load(TEXT, 2), 0x0741);
});

Deno.test("the cursor is drawn where the CRTC has it, and only cells that change are told", () => {
  const { machine } = adapter();
  const { display } = machine;
  display.look();
  assertEquals(display.look(), []);
  machine.store(TEXT + 2 * (80 + 1), 0x0758, 2);
  assertEquals(display.look(), [{ x: 9, y: 16, width: 9, height: 16 }]);
  set(machine, CRTC, 0x0f, 83);
  const parts = display.look();
  assertEquals(parts, [
    { x: 0, y: 0, width: 9, height: 16 },
    { x: 27, y: 16, width: 9, height: 16 },
  ]);
  assertEquals(display.pixel(27, 16 + 13), GREY);
  assertEquals(display.pixel(27, 16 + 12), 0);
});

Deno.test("a line of graphics goes on into the ninth dot", () => {
  const { machine } = adapter();
  machine.store(TEXT + 2, 0x07c4, 2);
  machine.store(TEXT + 6, 0x072d, 2);
  const { display } = machine;
  const line = startFont().slice(16 * 0xc4, 16 * 0xc5).indexOf(0xff);
  assertEquals(display.pixel(9 + 8, line), GREY);
  for (let y = 0; y < 16; y++) assertEquals(display.pixel(27 + 8, y), 0);
});

Deno.test("planes, latches and write modes make the dots of mode 12h", () => {
  const { machine } = adapter();
  setMode(machine, MODE_12H);
  attributes(machine, [
    ...Array.from({ length: 16 }, (_, i) => i < 8 ? i : 0x30 + i),
    1,
    0,
    15,
    0,
    0,
  ]);
  const { display } = machine;
  const colors = (at: number) =>
    Array.from({ length: 8 }, (_, x) => display.pixel(at * 8 + x, 0));
  assertMatch(display.seen, /^640x480 /);
  const gr = (index: number, value: number) =>
    set(machine, GRAPHICS_CONTROLLER, index, value);
  // Write mode 0 through the map mask: plane 2 is red.
  set(machine, SEQUENCER, 2, 4);
  machine.store(GRAPHICS, 0xf0, 1);
  const [RED, BLACK, BLUE] = [0xaa0000, 0, 0x0000aa];
  assertEquals(colors(0), [RED, RED, RED, RED, BLACK, BLACK, BLACK, BLACK]);
  set(machine, SEQUENCER, 2, 15);
  // Read mode 0 reads one plane, and fills the latches.
  gr(4, 2);
  assertEquals(machine.load(GRAPHICS, 1), 0xf0);
  gr(4, 0);
  assertEquals(machine.load(GRAPHICS, 1), 0);
  // Write mode 1 copies them.
  gr(5, 1);
  machine.store(GRAPHICS + 1, 0, 1);
  assertEquals(colors(1), colors(0));
  // Write mode 2: a colour through the bit mask, the rest from the latches.
  gr(5, 2);
  gr(8, 0x81);
  machine.load(GRAPHICS, 1);
  machine.store(GRAPHICS + 2, 1, 1);
  assertEquals(colors(2), [BLUE, RED, RED, RED, BLACK, BLACK, BLACK, BLUE]);
  // Write mode 3: set/reset through the rotated data and the mask.
  gr(5, 3);
  gr(8, 0xff);
  gr(0, 1);
  gr(3, 4);
  machine.load(GRAPHICS, 1);
  machine.store(GRAPHICS + 3, 0x0f, 1);
  assertEquals(colors(3), [BLUE, BLUE, BLUE, BLUE, BLACK, BLACK, BLACK, BLACK]);
  // Write mode 0 with set/reset on plane 0, and exclusive-or with the latches.
  gr(5, 0);
  gr(1, 1);
  gr(3, 3 << 3);
  machine.load(GRAPHICS, 1);
  machine.store(GRAPHICS + 4, 0x00, 1);
  assertEquals(machine.load(GRAPHICS + 4, 1), 0xff);
  assertEquals(colors(4), [
    ...Array(4).fill(0xaa00aa),
    ...Array(4).fill(BLUE),
  ]);
  // Read mode 1: where the colour is red.
  gr(5, 8);
  gr(2, 4);
  gr(7, 15);
  assertEquals(machine.load(GRAPHICS, 1), 0xf0);
  gr(7, 0);
  assertEquals(machine.load(GRAPHICS, 1), 0xff);
});

Deno.test("mode 13h shows a byte a dot in the colours of the DAC", () => {
  const { machine } = adapter();
  setMode(machine, MODE_13H);
  attributes(machine, [...Array(16).keys(), 0x41, 0, 15, 0, 0]);
  machine.out(0x3c8, 200);
  for (const value of [63, 32, 1]) machine.out(0x3c9, value);
  machine.store(GRAPHICS + 320 * 10 + 20, 200, 1);
  assertMatch(machine.display.seen, /^320x200 /);
  assertEquals(machine.display.pixel(20, 10), 0xff8204);
  assertEquals(machine.load(GRAPHICS + 320 * 10 + 20, 1), 200);
  machine.out(0x3c7, 200);
  assertEquals([1, 2, 3].map(() => machine.in(0x3c9)), [63, 32, 1]);
  // Only one plane of four.
  set(machine, SEQUENCER, 2, 1);
  machine.store(GRAPHICS, 0x05050505);
  assertEquals(machine.load(GRAPHICS), 5);
});

Deno.test("CRTC registers 0 to 7 are protected", () => {
  const { machine } = adapter();
  set(machine, CRTC, 0x11, 0x8e);
  set(machine, CRTC, 1, 0);
  machine.out(CRTC, 1);
  assertEquals(machine.in(CRTC + 1), 0x4f);
  set(machine, CRTC, 7, 0x00);
  machine.out(CRTC, 7);
  assertEquals(machine.in(CRTC + 1), 0x0f);
});

Deno.test("the CRTC is at 3Bx where the adapter is monochrome", () => {
  const { machine } = adapter();
  assertEquals(machine.in(0x3b4), 0xff);
  machine.out(0x3c2, 0x66);
  assertEquals(machine.in(0x3d4), 0xff);
  machine.out(0x3b4, 0x01);
  assertEquals(machine.in(0x3b5), 0x4f);
});

Deno.test("input status 1 follows the beam", () => {
  const { machine } = adapter();
  const seen = new Set<number>();
  for (let i = 0; i < 525; i++) {
    machine.advance(31_778);
    seen.add(machine.in(0x3da) & 8);
  }
  assertEquals(seen, new Set([0, 8]));
});

Deno.test("the DISPI sets a linear mode that the guest draws in", () => {
  const { machine } = adapter();
  machine.out(0x1ce, 0, 2);
  assertEquals(machine.in(0x1cf, 2), 0xb0c5);
  machine.out(0x1ce, 10, 2);
  assertEquals(machine.in(0x1cf, 2), 256);
  dispi(machine, XRES, 800);
  dispi(machine, YRES, 600);
  dispi(machine, BPP, 32);
  dispi(machine, ENABLE, 0x41);
  assertMatch(machine.display.seen, /^800x600 /);
  machine.store(LINEAR + 4 * (800 * 599 + 799), 0xabcdef);
  assertEquals(machine.display.look(), [
    { x: 0, y: 599, width: 800, height: 1 },
  ]);
  assertEquals(machine.display.pixel(799, 599), 0xabcdef);
  // Through the window, and its bank.
  dispi(machine, BANK, 2);
  machine.store(GRAPHICS + 4, 0x112233);
  assertEquals(machine.load(LINEAR + 0x20004), 0x112233);
  // Another start of the picture.
  dispi(machine, VIRT_WIDTH, 1024);
  dispi(machine, 9, 32);
  machine.store(LINEAR + 4 * 1024 * 32, 0x00ff00);
  assertEquals(machine.display.pixel(0, 0), 0x00ff00);
});

Deno.test("the DISPI has 8, 15, 16 and 24 bits a pixel", () => {
  const colors = [8, 15, 16, 24].map((depth) => {
    const { machine } = adapter();
    dispi(machine, XRES, 640);
    dispi(machine, YRES, 400);
    dispi(machine, BPP, depth);
    dispi(machine, ENABLE, 0x61);
    machine.out(0x3c8, 0x34);
    for (const value of [0x80, 0x90, 0xa0]) machine.out(0x3c9, value);
    machine.store(LINEAR, 0x56_1234);
    return machine.display.pixel(0, 0);
  });
  assertEquals(colors, [0x8090a0, 0x218ca5, 0x1045a5, 0x561234]);
});

Deno.test("the register BAR has the ports and the DISPI", () => {
  const { machine } = adapter();
  assertEquals(machine.load(REGISTERS + 0x500, 2), 0xb0c5);
  machine.store(REGISTERS + 0x502, 1024, 2);
  machine.store(REGISTERS + 0x504, 768, 2);
  machine.store(REGISTERS + 0x506, 32, 2);
  machine.store(REGISTERS + 0x508, 0x41, 2);
  assertMatch(machine.display.seen, /^1024x768 /);
  assertEquals(machine.load(REGISTERS + 0x40c, 1), 0x67);
  machine.store(LINEAR, 0x123456);
  assertEquals(machine.display.pixel(0, 0), 0x123456);
  // As bochs-drm blanks the screen.
  machine.load(REGISTERS + 0x41a, 1);
  machine.store(REGISTERS + 0x400, 0, 1);
  assertEquals(machine.display.pixel(0, 0), 0);
});

Deno.test("any size, depth and offset of the DISPI is survived", () => {
  const { machine } = adapter();
  for (
    const [x, y, bpp, virtual, offset] of [
      [0, 0, 0, 0, 0],
      [0xffff, 0xffff, 32, 0xffff, 0xffff],
      [2560, 1600, 32, 4096, 0xffff],
      [8, 1, 4, 0xffff, 0xffff],
      [2560, 1600, 24, 0xffff, 3],
    ]
  ) {
    dispi(machine, ENABLE, 0);
    dispi(machine, XRES, x);
    dispi(machine, YRES, y);
    dispi(machine, BPP, bpp);
    dispi(machine, ENABLE, 0xc1);
    dispi(machine, VIRT_WIDTH, virtual);
    dispi(machine, 8, offset);
    dispi(machine, 9, offset);
    machine.display.look();
    const { width, height, pixels } = machine.display.picture;
    assertEquals(pixels.length, width * height);
  }
});

Deno.test("a restored adapter shows the same picture before anything runs", () => {
  const { machine, save } = adapter();
  machine.store(TEXT + 100, 0x4c42, 2);
  set(machine, CRTC, 0x0f, 77);
  const seen = machine.display.seen;
  const other = createTestContext(vga, { ram: 2 << 20 });
  other.restore(save());
  assertEquals(other.machine.display.seen, seen);
});

Deno.test("a text screen takes little of a snapshot", () => {
  const { save } = adapter();
  assertEquals(save().memory.length, 8);
});

Deno.test("registers that cannot be are refused", () => {
  const { save, restore } = adapter();
  const state = save();
  const refused = (change: Partial<typeof state>, message: string) =>
    assertThrows(() => restore({ ...state, ...change }), Error, message);
  refused({ sr: Uint8Array.of(3, 0xff, 3, 0, 2) }, "sr[1] is 0xff");
  refused({ dacState: 1 }, "dacState is 0x1");
  refused({ dispi: [0, ...state.dispi.slice(1)] }, "dispi[0] is 0x0");
});

testRoundTrip(vga, {
  runs: 8,
  steps: [
    (machine) => place(machine),
    (machine) => machine.store(TEXT + 2, 0x2e40, 2),
    (machine) => machine.display.seen,
    (machine) => machine.out(0x3c8, 7),
    (machine) => machine.out(0x3c9, 33),
    (machine) => machine.out(0x3c9, 44),
    (machine) => machine.out(0x3c9, 55),
    (machine) => machine.in(0x3da),
    (machine) => machine.out(0x3c0, 0x10),
    (machine) => machine.out(0x3c0, 0x04),
    (machine) => machine.out(0x3c0, 0x20),
    (machine) => machine.display.seen,
    (machine) => setMode(machine, MODE_12H),
    (machine) => machine.store(GRAPHICS + 81, 0x5a, 1),
    (machine) => machine.load(GRAPHICS + 81, 1),
    (machine) => set(machine, GRAPHICS_CONTROLLER, 5, 1),
    (machine) => machine.store(GRAPHICS + 300, 0, 1),
    (machine) => machine.display.seen,
    (machine) => dispi(machine, XRES, 640),
    (machine) => dispi(machine, YRES, 200),
    (machine) => dispi(machine, BPP, 32),
    (machine) => dispi(machine, ENABLE, 0x41),
    (machine) => machine.store(LINEAR + 0x3000, 0x8899aa),
    (machine) => machine.display.seen,
  ],
}, import.meta.url);
