import { assertEquals, assertThrows } from "@std/assert";
import { createTestContext } from "../../core/testing/context.ts";
import pit from "./pit.ts";
import { PIT_HERTZ } from "./pit_counter.ts";
import { timeOfTick } from "./support.ts";
import { testRoundTrip } from "../../tests/golden.ts";

const CONTROL = 0x43, PORT61 = 0x61;
const OUT = 0x80, NULL_COUNT = 0x40;

function make() {
  const device = createTestContext(pit);
  const { machine } = device;
  /** Goes to a clock of the counters, counted from the start. */
  const at = (tick: number) =>
    machine.advance(timeOfTick(tick, PIT_HERTZ) - machine.clock.now());
  const control = (channel: number, mode: number, bcd = 0) => {
    machine.out(CONTROL, channel << 6 | 0x30 | mode << 1 | bcd);
    // Leaving mode 0 takes the output high, which is an interrupt, but not one that is counted here.
    machine.isaEvents.length = 0;
  };
  const load = (channel: number, count: number) => {
    machine.out(0x40 + channel, count & 0xff);
    machine.out(0x40 + channel, count >> 8);
  };
  const count = (channel: number) => {
    machine.out(CONTROL, channel << 6);
    return machine.in(0x40 + channel) | machine.in(0x40 + channel) << 8;
  };
  const status = (channel: number) => {
    machine.out(CONTROL, 0xe0 | 2 << channel);
    return machine.in(0x40 + channel);
  };
  const gate = (level: boolean) => machine.out(PORT61, level ? 1 : 0);
  const output = (channel: number) => (status(channel) & OUT) !== 0;
  const ticks = () =>
    machine.isaEvents.filter(([irq, level]) => irq === 0 && level).length;
  return { ...device, at, control, load, count, status, gate, output, ticks };
}

Deno.test("pit mode 0 interrupts on terminal count", () => {
  const { at, control, load, count, output, ticks, status } = make();
  control(0, 0);
  assertEquals(status(0), NULL_COUNT | 0x30);
  load(0, 1000);
  assertEquals(status(0), 0x30);
  at(400);
  assertEquals(count(0), 600);
  at(999);
  assertEquals([output(0), ticks()], [false, 0]);
  at(1000);
  assertEquals([output(0), ticks()], [true, 1]);
  at(1001);
  assertEquals(count(0), 0xffff);
  at(200_000);
  assertEquals(ticks(), 1);
});

Deno.test("pit mode 0 pauses with the gate, and stops at a first byte", () => {
  const { machine, at, control, load, count, gate, output } = make();
  gate(true);
  control(2, 0);
  load(2, 100);
  at(40);
  gate(false);
  at(500);
  assertEquals(count(2), 60);
  gate(true);
  at(559);
  assertEquals(output(2), false);
  at(560);
  assertEquals(output(2), true);
  assertEquals(machine.in(PORT61) & 0x20, 0x20);
  machine.out(0x42, 5);
  assertEquals(output(2), false);
});

Deno.test("pit mode 1 gives one pulse for each trigger", () => {
  const { at, control, load, gate, output, count } = make();
  control(2, 1);
  load(2, 50);
  assertEquals(output(2), true);
  at(10);
  gate(true);
  assertEquals(output(2), false);
  at(30);
  assertEquals(count(2), 30);
  gate(false);
  gate(true);
  at(79);
  assertEquals(output(2), false);
  at(80);
  assertEquals(output(2), true);
});

Deno.test("pit mode 2 divides the rate", () => {
  const { at, control, load, count, output, ticks } = make();
  control(0, 2);
  load(0, 100);
  assertEquals(count(0), 100);
  at(99);
  assertEquals([count(0), output(0), ticks()], [1, false, 0]);
  at(100);
  assertEquals([count(0), output(0), ticks()], [100, true, 1]);
  at(100 * 50);
  assertEquals(ticks(), 50);
});

Deno.test("pit mode 2 takes a new count at the end of its cycle", () => {
  const { at, control, load, count, ticks, status } = make();
  control(0, 2);
  load(0, 100);
  at(30);
  load(0, 40);
  assertEquals(status(0) & NULL_COUNT, NULL_COUNT);
  assertEquals(count(0), 70);
  at(100);
  assertEquals([count(0), ticks()], [40, 1]);
  assertEquals(status(0) & NULL_COUNT, 0);
  at(180);
  assertEquals(ticks(), 3);
});

Deno.test("pit mode 3 makes a square wave, odd counts too", () => {
  const { at, control, load, count, output, ticks, gate } = make();
  gate(true);
  control(2, 3);
  load(2, 5);
  const wave: boolean[] = [];
  for (let tick = 0; tick < 10; tick++) {
    at(tick);
    wave.push(output(2));
  }
  assertEquals(wave.map(Number).join(""), "1110011100");
  control(0, 3);
  load(0, 100);
  at(9 + 50);
  assertEquals([count(0), output(0)], [100, false]);
  at(9 + 60);
  assertEquals(count(0), 80);
  at(9 + 1000);
  assertEquals(ticks(), 10);
});

Deno.test("pit mode 3 takes a new count at the end of a half cycle", () => {
  const { at, control, load, output, ticks } = make();
  control(0, 3);
  load(0, 100);
  at(10);
  load(0, 20);
  at(49);
  assertEquals(output(0), true);
  at(50);
  assertEquals(output(0), false);
  at(60);
  assertEquals([output(0), ticks()], [true, 1]);
  at(80);
  assertEquals(ticks(), 2);
});

Deno.test("pit modes 4 and 5 strobe for one clock", () => {
  const { at, control, load, output, gate, ticks } = make();
  control(0, 4);
  load(0, 20);
  at(19);
  assertEquals(output(0), true);
  at(20);
  assertEquals(output(0), false);
  at(21);
  assertEquals([output(0), ticks()], [true, 1]);
  control(2, 5);
  load(2, 10);
  at(100);
  gate(true);
  at(110);
  assertEquals(output(2), false);
  at(111);
  assertEquals(output(2), true);
});

Deno.test("pit counts in BCD", () => {
  const { at, control, load, count } = make();
  control(0, 2, 1);
  load(0, 0x1000);
  at(1);
  assertEquals(count(0), 0x0999);
  at(1000);
  assertEquals(count(0), 0x1000);
  control(0, 2, 1);
  load(0, 0);
  at(1001);
  assertEquals(count(0), 0x9999);
});

Deno.test("pit latches counts and status until they are read", () => {
  const { machine, at, control, load } = make();
  control(0, 2);
  load(0, 0x1234);
  at(4);
  machine.out(CONTROL, 0xc2);
  at(100);
  machine.out(CONTROL, 0x00);
  assertEquals(machine.in(0x40), 0x80 | 0x34);
  assertEquals(machine.in(0x40), 0x30);
  assertEquals(machine.in(0x40), 0x12);
  // Not latched any more: 0x1234 - 100.
  assertEquals([machine.in(0x40), machine.in(0x40)], [0xd0, 0x11]);
});

Deno.test("pit reads and writes single bytes", () => {
  const { machine, at } = make();
  machine.out(CONTROL, 0x14);
  machine.out(0x40, 50);
  at(10);
  assertEquals([machine.in(0x40), machine.in(0x40)], [40, 40]);
  machine.out(CONTROL, 0x24);
  machine.out(0x40, 2);
  at(266);
  assertEquals(machine.in(0x40), 1);
});

Deno.test("pit shows the refresh toggle in port 0x61", () => {
  const { machine } = make();
  const first = machine.in(PORT61) & 0x10;
  machine.advance(15_085);
  assertEquals(machine.in(PORT61) & 0x10, first ^ 0x10);
  machine.out(PORT61, 0xff);
  assertEquals(machine.in(PORT61) & 0xcf, 0x0f);
});

Deno.test("pit calibrates a time-stamp counter as Linux does", () => {
  const { machine, control, load } = make();
  const MS = 10;
  const latch = Math.floor(PIT_HERTZ / (1000 / MS));
  machine.out(PORT61, machine.in(PORT61) & ~2 | 1);
  control(2, 0);
  load(2, latch);
  const start = machine.clock.now();
  while ((machine.in(PORT61) & 0x20) === 0) machine.advance(1000);
  const took = machine.clock.now() - start;
  assertEquals(Math.round(took / 1e4), MS * 100);
});

Deno.test("pit leaves IRQ 0 to the HPET in legacy replacement", () => {
  const { machine, control, load, at, ticks } = make();
  machine.interrupts.legacyReplacement = true;
  control(0, 2);
  load(0, 100);
  at(1000);
  assertEquals(ticks(), 0);
});

Deno.test("pit restores what it saved, and ticks on", () => {
  const { machine, at, control, load, gate, save } = make();
  control(0, 3);
  load(0, 100);
  gate(true);
  control(2, 0);
  load(2, 5000);
  at(130);
  load(0, 60);
  machine.out(CONTROL, 0x80);
  const state = save();
  const other = make();
  other.machine.clock.advance(machine.clock.now());
  other.restore(state);
  assertEquals(other.save(), state);
  const before = machine.isaEvents.length;
  for (const one of [{ at }, other]) one.at(1000);
  assertEquals(other.machine.isaEvents, machine.isaEvents.slice(before));
  assertEquals(other.save(), save());
});

Deno.test("pit refuses states that it cannot be in", () => {
  const { save, restore } = make();
  const state = save();
  const broken = (change: Record<string, unknown>) => () =>
    restore({
      ...state,
      channels: state.channels.with(0, { ...state.channels[0], ...change }),
    });
  assertThrows(broken({ counting: true }), Error, "channels.0.counting");
  assertThrows(broken({ elapsed: 0.5 }), Error, "channels.0.elapsed");
  assertThrows(broken({ gate: false }), Error, "channels.0.gate");
  assertThrows(broken({ reloadIn: 4 }), Error, "channels.0.reloadIn");
  assertThrows(
    broken({ bcd: true, reload: 20_000 }),
    Error,
    "channels.0.reload",
  );
  const running = { mode: 2, period: 9, counting: true, nullCount: false };
  assertThrows(broken(running), Error, "channels.0.reload");
  assertThrows(
    broken({ access: 1, firstByte: 4 }),
    Error,
    "channels.0.firstByte",
  );
  assertThrows(broken({ ...running, reload: 9 }), Error, "timer");
  assertThrows(
    broken({ ...running, reload: 9, elapsed: 4, reloadIn: 4 }),
    Error,
    "channels.0.reloadIn",
  );
  assertThrows(
    () => restore({ ...state, timer: { remaining: 77 } }),
    Error,
    "timer",
  );
});

testRoundTrip(pit, {
  steps: [
    // A rate generator, saved between the halves of its count.
    (machine) => machine.out(CONTROL, 0x34),
    (machine) => machine.out(0x40, 0xa9),
    (machine) => machine.out(0x40, 0x04),
    (machine) => machine.advance(1_500_000),
    // A new count, which waits for the end of the cycle; half of it, to begin with.
    (machine) => machine.out(0x40, 0x00),
    (machine) => machine.advance(700_001),
    (machine) => machine.out(0x40, 0x03),
    (machine) => machine.advance(300_000),
    // Latched and read by halves.
    (machine) => machine.out(CONTROL, 0x00),
    (machine) => machine.advance(40_000),
    (machine) => machine.in(0x40),
    (machine) => machine.in(0x40),
    // A square wave on the speaker, gated; a BCD one-shot beside it.
    (machine) => machine.out(CONTROL, 0xb6),
    (machine) => machine.out(0x42, 0x33),
    (machine) => machine.out(0x42, 0x05),
    (machine) => machine.out(0x61, 0x03),
    (machine) => machine.advance(333_333),
    (machine) => machine.in(0x61),
    (machine) => machine.out(0x61, 0x02),
    (machine) => machine.advance(55_555),
    (machine) => machine.out(0x61, 0x01),
    (machine) => machine.out(CONTROL, 0x71),
    (machine) => machine.out(0x41, 0x99),
    (machine) => machine.out(0x41, 0x12),
    // Status and count of all three latched, and read one by one.
    (machine) => machine.out(CONTROL, 0xce),
    (machine) => [machine.in(0x40), machine.in(0x40)],
    (machine) => [machine.in(0x41), machine.in(0x42)],
    (machine) => [machine.in(0x40), machine.in(0x41), machine.in(0x42)],
    // One shot, and over.
    (machine) => machine.out(CONTROL, 0x10),
    (machine) => machine.out(0x40, 0x80),
    (machine) => machine.advance(107_000),
    (machine) => machine.advance(2_000),
    (machine) => [machine.in(0x40), machine.in(0x61)],
  ],
}, import.meta.url);
