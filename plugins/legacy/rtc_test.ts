import { assertEquals, assertThrows } from "@std/assert";
import {
  createTestContext,
  type TestContext,
} from "../../core/testing/context.ts";
import rtc from "./rtc.ts";
import { testRoundTrip } from "../../tests/golden.ts";

const SECOND = 1e9;
const A = 0x0a, B = 0x0b, C = 0x0c, D = 0x0d, CENTURY = 0x32;
const SET = 0x80, PIE = 0x40, AIE = 0x20, UIE = 0x10, BINARY = 4, H24 = 2;
const TIME = [CENTURY, 9, 8, 7, 4, 2, 0];

function make(iso = "2026-11-21T15:58:57Z", ram?: number) {
  const device = createTestContext(rtc, { rtcBase: Date.parse(iso), ram });
  const { machine } = device;
  const read = (index: number) => {
    machine.out(0x70, index);
    return machine.in(0x71);
  };
  const write = (index: number, value: number) => {
    machine.out(0x70, index);
    machine.out(0x71, value);
  };
  const time = () =>
    TIME.map((i) => read(i).toString(16).padStart(2, "0")).join(" ");
  return { ...device, read, write, time };
}

Deno.test("rtc shows the guest's wall-clock time in BCD", () => {
  const { machine, read, time } = make();
  assertEquals([read(A), read(B), read(D)], [0x26, 0x02, 0x80]);
  assertEquals(time(), "20 26 11 21 15 58 57");
  // Saturday.
  assertEquals(read(6), 7);
  machine.advance(65 * SECOND);
  assertEquals(time(), "20 26 11 21 16 00 02");
});

Deno.test("rtc shows binary and 12 hours", () => {
  const { write, time } = make();
  write(B, BINARY);
  assertEquals(time(), "14 1a 0b 15 83 3a 39");
  write(B, 0);
  assertEquals(time(), "20 26 11 21 83 58 57");
});

Deno.test("rtc is set as Linux sets it", () => {
  const { machine, write, time } = make();
  machine.advance(0.3 * SECOND);
  write(B, SET | H24);
  write(A, 0x76);
  TIME.forEach((index, i) =>
    write(index, [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59][i])
  );
  write(6, 6);
  machine.advance(10 * SECOND);
  assertEquals(time(), "19 99 12 31 23 59 59");
  write(B, H24);
  write(A, 0x26);
  machine.advance(0.499 * SECOND);
  assertEquals(time(), "19 99 12 31 23 59 59");
  machine.advance(0.002 * SECOND);
  assertEquals(time(), "20 00 01 01 00 00 00");
});

Deno.test("rtc keeps its second through SET", () => {
  const { machine, write, read } = make();
  machine.advance(0.7 * SECOND);
  write(B, SET | H24);
  write(0, 0x10);
  write(B, H24);
  machine.advance(0.299 * SECOND);
  assertEquals(read(0), 0x10);
  machine.advance(0.002 * SECOND);
  assertEquals(read(0), 0x11);
});

Deno.test("rtc sets UIP shortly before an update", () => {
  const { machine, read } = make();
  machine.advance(SECOND - 300_000);
  assertEquals(read(A) & 0x80, 0);
  machine.advance(100_000);
  assertEquals(read(A) & 0x80, 0x80);
  machine.advance(200_001);
  assertEquals(read(A) & 0x80, 0);
});

Deno.test("rtc interrupts after each update", () => {
  const { machine, read, write } = make();
  read(C);
  write(B, UIE | H24);
  let updates = 0;
  for (let i = 0; i < 30; i++) {
    machine.advance(0.1 * SECOND);
    if (read(C) === 0xd0) updates++;
  }
  assertEquals(updates, 3);
  assertEquals(machine.isaEvents, [
    [8, true],
    [8, false],
    [8, true],
    [8, false],
    [8, true],
    [8, false],
  ]);
});

Deno.test("rtc interrupts at its alarm", () => {
  const { machine, read, write } = make();
  write(1, 0x05);
  write(3, 0x00);
  write(5, 0x16);
  write(B, AIE | H24);
  read(C);
  machine.advance(67 * SECOND);
  assertEquals(machine.isaEvents, []);
  machine.advance(SECOND);
  assertEquals(machine.isaEvents, [[8, true]]);
  assertEquals(read(C), 0xf0);
  // Every minute at second 5.
  write(3, 0xff);
  write(5, 0xc0);
  machine.advance(60 * SECOND);
  assertEquals(read(C) & 0x20, 0x20);
});

Deno.test("rtc sets flags that nobody is interrupted for", () => {
  const { machine, read, write } = make();
  read(C);
  write(1, 0x59);
  write(3, 0x58);
  write(5, 0x15);
  machine.advance(SECOND);
  assertEquals(read(C), 0x50);
  machine.advance(2 * SECOND);
  assertEquals(read(C), 0x70);
  assertEquals(read(C), 0);
  assertEquals(machine.isaEvents, []);
});

Deno.test("rtc interrupts periodically", () => {
  const { machine, read, write } = make();
  write(A, 0x26);
  read(C);
  write(B, PIE | H24);
  let periods = 0;
  for (let i = 0; i < 10_000; i++) {
    machine.advance(100_000);
    if (read(C) & 0x40) periods++;
  }
  assertEquals(periods, 1024);
  write(A, 0x20);
  machine.advance(SECOND);
  assertEquals(read(C) & 0x40, 0);
});

Deno.test("rtc reports memory in CMOS, with a checksum", () => {
  const { read } = make(undefined, 48 << 20);
  const word = (at: number) => read(at) | read(at + 1) << 8;
  assertEquals(word(0x15), 640);
  assertEquals(word(0x17), 47 * 1024);
  assertEquals(word(0x30), 47 * 1024);
  assertEquals(word(0x34), 32 * 16);
  assertEquals(read(0x5b), 0);
  let sum = 0;
  for (let i = 0x10; i <= 0x2d; i++) sum += read(i);
  assertEquals(read(0x2e) << 8 | read(0x2f), sum);
});

Deno.test("rtc has two banks of memory that survive a reset", () => {
  const { machine, instance, read, write } = make();
  write(0x40, 0x12);
  machine.out(0x72, 0x40);
  machine.out(0x73, 0x34);
  instance.reset();
  assertEquals(read(0x40), 0x12);
  machine.out(0x72, 0x40);
  assertEquals(machine.in(0x73), 0x34);
});

Deno.test("rtc restores what it saved, and interrupts on", () => {
  const { machine, read, write, save } = make();
  write(0, 0x30);
  write(B, UIE | PIE | H24);
  machine.advance(1.2345 * SECOND);
  read(C);
  machine.advance(100);
  const state = save();
  const other = make();
  other.machine.clock.advance(machine.clock.now());
  other.restore(state);
  assertEquals(other.save(), state);
  const before = machine.isaEvents.length;
  for (const one of [{ machine, read }, other]) {
    for (let i = 0; i < 200; i++) {
      one.machine.advance(0.01 * SECOND);
      one.read(C);
    }
  }
  assertEquals(other.machine.isaEvents, machine.isaEvents.slice(before));
  assertEquals(other.time(), "20 26 11 21 15 58 33");
});

Deno.test("rtc refuses states that it cannot be in", () => {
  const { save, restore } = make();
  const state = save();
  assertThrows(() => restore({ ...state, registerC: 1 }), Error, "registerC");
  assertThrows(() => restore({ ...state, heldTime: 5 }), Error, "heldTime");
  assertThrows(
    () => restore({ ...state, cmos: state.cmos.with(4, 1) }),
    Error,
    "cmos.4",
  );
  assertThrows(() => restore({ ...state, offset: 1e300 }), Error, "offset");
  assertThrows(() => restore({ ...state, sinceFlags: 9 }), Error, "sinceFlags");
});

/** Writes a register of the clock. */
function put(machine: TestContext, index: number, value: number): void {
  machine.out(0x70, index);
  machine.out(0x71, value);
}

/** Reads registers of the clock. */
function get(machine: TestContext, ...indexes: number[]): number[] {
  return indexes.map((index) => {
    machine.out(0x70, index);
    return machine.in(0x71);
  });
}

testRoundTrip(rtc, {
  make: () => ({ rtcBase: Date.parse("2026-11-21T15:58:57.250Z") }),
  steps: [
    (machine) => get(machine, ...TIME, 6, D),
    // Periodic interrupts, one of them unread.
    (machine) => put(machine, A, 0x29),
    (machine) => put(machine, B, H24 | PIE),
    (machine) => machine.advance(10_000_000),
    (machine) => get(machine, C),
    (machine) => machine.advance(3_000_001),
    // The time is set, with the clock standing.
    (machine) => put(machine, B, H24 | SET),
    (machine) => put(machine, 4, 0x23),
    (machine) => machine.advance(SECOND / 3),
    (machine) => [put(machine, 2, 0x59), put(machine, 0, 0x58)],
    (machine) => put(machine, 7, 0x31),
    (machine) => put(machine, B, H24 | AIE | UIE),
    // An alarm at any hour, across midnight.
    (machine) => [put(machine, 1, 0x01), put(machine, 3, 0x00)],
    (machine) => put(machine, 5, 0xc0),
    (machine) => machine.advance(1.5 * SECOND),
    (machine) => get(machine, C, ...TIME),
    (machine) => machine.advance(2 * SECOND),
    (machine) => get(machine, C),
    // The divider in reset, then running half a second ahead.
    (machine) => put(machine, A, 0x76),
    (machine) => machine.advance(SECOND),
    (machine) => put(machine, A, 0x26),
    (machine) => machine.advance(0.6 * SECOND),
    // NVRAM of both banks; an index waits for its data.
    (machine) => put(machine, 0x55, 0xaa),
    (machine) => machine.out(0x72, 0x33),
    (machine) => machine.out(0x73, 0xcc),
    (machine) => machine.in(0x73),
    (machine) => get(machine, 0x55, A, B, C, ...TIME),
  ],
}, import.meta.url);
