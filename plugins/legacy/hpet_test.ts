import { assertEquals, assertThrows } from "@std/assert";
import { createTestContext } from "../../core/testing/context.ts";
import hpet from "./hpet.ts";
import { testRoundTrip } from "../../tests/golden.ts";

const BASE = 0xfed0_0000;
const CONF = BASE + 0x10, STATUS = BASE + 0x20, COUNTER = BASE + 0xf0;
const T0 = BASE + 0x100, T1 = BASE + 0x120, T2 = BASE + 0x140;
const COMPARATOR = 8;
const ENABLE = 1, LEGACY = 2;
const LEVEL = 0x02, INT = 0x04, PERIODIC = 0x08, VAL_SET = 0x40, NARROW = 0x100;
const ROUTE_11 = 11 << 9;

function make() {
  const device = createTestContext(hpet);
  const { machine } = device;
  const edges = (irq: number) =>
    machine.isaEvents.filter(([line, level]) => line === irq && level).length;
  return { ...device, edges };
}

Deno.test("hpet describes itself", () => {
  const { machine } = make();
  assertEquals(machine.load(BASE), 0x8086_a201);
  assertEquals(machine.load(BASE + 4), 10_000_000);
  assertEquals(machine.load(T0), 0x30);
  assertEquals(machine.load(T0 + 4), 0x0c00);
  assertEquals(machine.load(T0 + COMPARATOR), 0xffff_ffff);
  assertEquals(machine.load(BASE + 0x160), 0);
});

Deno.test("hpet counts at 100 MHz while it is enabled", () => {
  const { machine } = make();
  machine.advance(1000);
  assertEquals(machine.load(COUNTER), 0);
  machine.store(COUNTER, 0xffff_fff0);
  machine.store(CONF, ENABLE);
  machine.advance(250);
  assertEquals([machine.load(COUNTER), machine.load(COUNTER + 4)], [9, 1]);
  machine.store(CONF, 0);
  machine.advance(1000);
  assertEquals(machine.load(COUNTER), 9);
});

Deno.test("hpet interrupts once, on an edge, through its route", () => {
  const { machine, edges } = make();
  machine.store(T2, INT | ROUTE_11);
  assertEquals(machine.load(T2), INT | ROUTE_11 | 0x30);
  machine.store(T2, INT | 9 << 9);
  assertEquals(machine.load(T2) >> 9 & 31, 11);
  machine.store(T2 + COMPARATOR, 100);
  machine.store(T2 + COMPARATOR + 4, 0);
  machine.store(CONF, ENABLE);
  machine.advance(999);
  assertEquals(edges(11), 0);
  machine.advance(1);
  assertEquals(edges(11), 1);
  machine.advance(1e9);
  assertEquals(edges(11), 1);
  assertEquals(machine.load(STATUS), 0);
});

Deno.test("hpet holds a level until its status is cleared", () => {
  const { machine } = make();
  machine.store(T2, INT | LEVEL | ROUTE_11 | NARROW);
  machine.store(T2 + COMPARATOR, 100);
  machine.store(CONF, ENABLE);
  machine.advance(1000);
  assertEquals(machine.load(STATUS), 4);
  assertEquals(machine.isaEvents, [[11, true]]);
  machine.store(STATUS, 4);
  assertEquals(machine.isaEvents, [[11, true], [11, false]]);
});

Deno.test("hpet wraps a 32-bit timer", () => {
  const { machine, edges } = make();
  machine.store(T2, INT | ROUTE_11 | NARROW);
  machine.store(T2 + COMPARATOR, 100);
  machine.store(CONF, ENABLE);
  machine.advance(10 * (2 ** 32 + 100));
  assertEquals(edges(11), 2);
});

Deno.test("hpet ticks periodically with legacy replacement, as Linux sets it up", () => {
  const { machine, edges } = make();
  machine.store(CONF, ENABLE);
  machine.advance(500);
  machine.store(T0, INT | PERIODIC | VAL_SET | NARROW);
  machine.store(T0 + COMPARATOR, 50 + 1000);
  machine.store(T0 + COMPARATOR, 1000);
  assertEquals(machine.interrupts.legacyReplacement, false);
  machine.store(CONF, ENABLE | LEGACY);
  assertEquals(machine.interrupts.legacyReplacement, true);
  assertEquals(machine.load(T0) & VAL_SET, 0);
  machine.advance(100 * 10_000);
  assertEquals(edges(0), 100);
  assertEquals(machine.load(T0 + COMPARATOR), 50 + 101 * 1000);
  // The timer's second legacy line is the real-time clock's.
  machine.store(T1, INT | NARROW);
  machine.store(T1 + COMPARATOR, machine.load(COUNTER) + 10);
  machine.advance(100);
  assertEquals(edges(8), 1);
});

Deno.test("hpet sets a 64-bit accumulator in two halves", () => {
  const { machine, save } = make();
  machine.store(T0, INT | PERIODIC | VAL_SET);
  machine.store(T0 + COMPARATOR, 5);
  machine.store(T0 + COMPARATOR + 4, 1);
  assertEquals(save().timers[0].comparator, 0x1_0000_0005n);
  machine.store(T0 + COMPARATOR, 7);
  machine.store(T0 + COMPARATOR + 4, 0);
  assertEquals(save().timers[0].comparator, 0x1_0000_0005n);
  assertEquals(save().timers[0].period, 7n);
});

Deno.test("hpet restores what it saved, and ticks on", () => {
  const { machine, save } = make();
  machine.store(T0, INT | PERIODIC | VAL_SET | NARROW);
  machine.store(T0 + COMPARATOR, 777);
  machine.store(T0 + COMPARATOR, 333);
  machine.store(CONF, ENABLE | LEGACY);
  machine.advance(12_345);
  const state = save();
  const other = make();
  other.machine.clock.advance(machine.clock.now());
  other.restore(state);
  assertEquals(other.save(), state);
  assertEquals(other.machine.interrupts.legacyReplacement, true);
  const before = machine.isaEvents.length;
  for (const one of [machine, other.machine]) one.advance(100_000);
  assertEquals(other.machine.isaEvents, machine.isaEvents.slice(before));
  assertEquals(other.save(), save());
});

Deno.test("hpet refuses states that it cannot be in", () => {
  const { save, restore } = make();
  const state = save();
  const broken = (change: Record<string, unknown>) => () =>
    restore({
      ...state,
      timers: state.timers.with(1, { ...state.timers[1], ...change }),
    });
  assertThrows(
    () => restore({ ...state, configuration: 4 }),
    Error,
    "configuration",
  );
  assertThrows(broken({ configuration: 1 }), Error, "timers.1.configuration");
  assertThrows(
    broken({ configuration: 5 << 9 }),
    Error,
    "timers.1.configuration",
  );
  assertThrows(broken({ timer: { remaining: 5 } }), Error, "timers.1.timer");
  // A running counter meets a comparator when it does, and at no other time.
  const running = { ...state, configuration: ENABLE };
  const meets = (remaining: number) => ({
    ...running,
    timers: state.timers.map((timer, i) =>
      i === 0
        ? { ...timer, comparator: 50n, timer: { remaining } }
        : { ...timer, comparator: 0n, timer: null }
    ),
  });
  assertThrows(() => restore(meets(510)), Error, "timers.0.timer");
  restore(meets(500));
});

Deno.test("hpet keeps the comparator of a periodic timer true without waking the guest", () => {
  const { machine } = createTestContext(hpet);
  const timer = 0xfed0_0100;
  machine.store(0xfed0_0010, 1);
  machine.store(timer, 0x48); // periodic, VAL_SET, interrupt off
  machine.store(timer + 8, 100);
  machine.store(timer + 12, 0);
  machine.advance(10_500);
  assertEquals(machine.clock.nextDeadline, 1_000_001_000);
  assertEquals(machine.load(timer + 8), 1100);
  machine.store(timer, 0x0c);
  assertEquals(machine.clock.nextDeadline, 11_000);
});

Deno.test("hpet leaves a match that is due to the event loop when it is saved", () => {
  const { machine, save, edges } = make();
  machine.store(T2, INT | ROUTE_11);
  machine.store(T2 + COMPARATOR, 100);
  machine.store(T2 + COMPARATOR + 4, 0);
  machine.store(CONF, ENABLE);
  machine.stall(1_500);
  assertEquals(save().timers[2].timer, { remaining: 0 });
  assertEquals(edges(11), 0);
  machine.advance(0);
  assertEquals(edges(11), 1);
});

Deno.test("hpet's state fits itself where time passes between two looks at the clock", () => {
  const { machine, save } = make();
  const now = machine.clock.now.bind(machine.clock);
  let passed = 0;
  machine.clock.now = () => now() + (passed += 6007);
  machine.store(T1, INT | ROUTE_11);
  machine.store(CONF, ENABLE);
  machine.store(T1 + COMPARATOR, 5_000_000);
  machine.store(T1 + COMPARATOR + 4, 0);
  const paused = now() + passed;
  machine.clock.now = () => paused;
  const other = make();
  other.machine.clock.now = () => paused;
  other.restore(save());
  assertEquals(other.save(), save());
});

testRoundTrip(hpet, {
  steps: [
    (machine) => machine.store(COUNTER, 0xffff_ff00),
    (machine) => machine.store(COUNTER + 4, 1),
    // A periodic timer, saved between the writes that set it.
    (machine) => machine.store(T0, INT | PERIODIC | VAL_SET | ROUTE_11),
    (machine) => machine.store(T0 + COMPARATOR, 0x200),
    (machine) => machine.store(T0 + COMPARATOR + 4, 2),
    (machine) => machine.store(T0 + COMPARATOR, 0x180),
    (machine) => machine.store(T0 + COMPARATOR + 4, 0),
    (machine) => machine.store(CONF, ENABLE),
    (machine) => machine.advance(4_001),
    (machine) => machine.load(COUNTER),
    (machine) => machine.advance(6_000),
    (machine) => machine.load(T0 + COMPARATOR),
    // A level-triggered one-shot of 32 bits, its interrupt not yet cleared.
    (machine) => machine.store(T1, LEVEL | INT | NARROW | ROUTE_11),
    (machine) =>
      machine.store(T1 + COMPARATOR, machine.load(COUNTER) + 100 >>> 0),
    (machine) => machine.advance(999),
    (machine) => machine.advance(2),
    (machine) => machine.load(STATUS),
    (machine) => machine.store(STATUS, 2),
    // A match that nobody hears, legacy replacement, the counter stopped and set.
    (machine) => machine.store(T2, PERIODIC | VAL_SET | NARROW),
    (machine) => machine.store(T2 + COMPARATOR, 0x300),
    (machine) => machine.store(T2 + COMPARATOR, 77),
    (machine) => machine.store(CONF, ENABLE | LEGACY),
    (machine) => machine.advance(20_000),
    (machine) => machine.load(T2 + COMPARATOR),
    (machine) => machine.store(CONF, LEGACY),
    (machine) => machine.advance(5_000),
    (machine) => [machine.load(COUNTER), machine.load(COUNTER + 4)],
    (machine) => machine.store(CONF, ENABLE),
    (machine) => machine.advance(50_000),
    (machine) => [0, 8].map((at) => machine.load(T0 + at)),
  ],
}, import.meta.url);
