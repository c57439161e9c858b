import { assertEquals, assertThrows } from "@std/assert";
import { createTestContext } from "../../core/testing/context.ts";
import ioapic from "./ioapic.ts";
import { testRoundTrip } from "../../tests/golden.ts";

const BASE = 0xfec0_0000;
const EOI = BASE + 0x40;
const MASKED = 0x1_0000, LEVEL = 0x8000, REMOTE_IRR = 0x4000;

function make() {
  const device = createTestContext(ioapic);
  const { machine } = device;
  const line = (irq: number) =>
    machine.interrupts.isaSource({ id: "test", plugin: "test" }, irq);
  const read = (register: number) => {
    machine.store(BASE, register);
    return machine.load(BASE + 0x10);
  };
  const write = (register: number, value: number) => {
    machine.store(BASE, register);
    machine.store(BASE + 0x10, value);
  };
  const entry = (input: number, low: number, high = 0) => {
    write(0x10 + 2 * input + 1, high);
    write(0x10 + 2 * input, low);
  };
  const vectors = () => machine.messages.splice(0).map((m) => m.vector);
  return { ...device, line, read, write, entry, vectors };
}

Deno.test("ioapic identifies itself, everything masked", () => {
  const { read, write } = make();
  assertEquals(read(1), 0x0017_0020);
  write(0, 0x0500_0000);
  assertEquals([read(0), read(2)], [0x0500_0000, 0x0500_0000]);
  for (let i = 0; i < 24; i++) assertEquals(read(0x10 + 2 * i), MASKED);
  assertEquals(read(0x40), 0);
});

Deno.test("ioapic keeps the writable bits of an entry", () => {
  const { read, entry } = make();
  entry(3, 0xffff_ffff, 0xffff_ffff);
  assertEquals(read(0x16), 0x1_afff);
  assertEquals(read(0x17), 0xff00_0000);
});

Deno.test("ioapic sends a message for each edge that is not masked", () => {
  const { machine, line, entry, vectors } = make();
  const irq4 = line(4);
  irq4.set(true);
  entry(4, 0x0831, 0x0300_0000);
  // The edge came while the input was masked.
  assertEquals(vectors(), []);
  irq4.set(false);
  irq4.set(true);
  assertEquals(machine.messages, [{
    destination: 3,
    destinationMode: 1,
    deliveryMode: 0,
    vector: 0x31,
    level: false,
  }]);
  machine.messages.length = 0;
  const timer = line(0);
  entry(2, 0x30);
  timer.pulse();
  timer.pulse();
  assertEquals(vectors(), [0x30, 0x30]);
});

Deno.test("ioapic holds a level until its EOI", () => {
  const { machine, line, read, entry, vectors } = make();
  const irq9 = line(9), other = line(9);
  entry(9, LEVEL | 0x39);
  irq9.set(true);
  assertEquals(vectors(), [0x39]);
  assertEquals(read(0x22), LEVEL | REMOTE_IRR | 0x39);
  other.set(true);
  irq9.set(false);
  assertEquals(vectors(), []);
  machine.interrupts.broadcastEoi(0x38);
  assertEquals(vectors(), []);
  machine.interrupts.broadcastEoi(0x39);
  assertEquals(vectors(), [0x39]);
  other.set(false);
  machine.store(EOI, 0x39);
  assertEquals(vectors(), []);
  assertEquals(read(0x22), LEVEL | 0x39);
});

Deno.test("ioapic sends a level that waits when it is unmasked", () => {
  const { line, read, entry, vectors } = make();
  line(11).set(true);
  entry(11, MASKED | LEVEL | 0x3b);
  assertEquals(vectors(), []);
  entry(11, LEVEL | 0x3b);
  assertEquals(vectors(), [0x3b]);
  // A change to edge and back clears remote IRR, as Linux relies on for old versions.
  entry(11, MASKED | 0x3b);
  assertEquals(read(0x26) & REMOTE_IRR, 0);
});

Deno.test("ioapic restores what it saved", () => {
  const { machine, line, entry, save } = make();
  entry(9, LEVEL | 0x39, 0x0100_0000);
  line(9).set(true);
  machine.store(BASE, 0x12);
  const state = save();
  const other = make();
  other.restore(state);
  assertEquals(other.save(), state);
  assertEquals(other.vectors(), []);
  other.machine.interrupts.broadcastEoi(0x39);
  assertEquals(other.vectors(), [0x39]);
});

Deno.test("ioapic refuses reserved bits", () => {
  const { save, restore } = make();
  const state = save();
  assertThrows(
    () => restore({ ...state, low: state.low.with(2, 0x2_0000) }),
    Error,
    "low.2",
  );
  assertThrows(() => restore({ ...state, lines: 1 }), Error, "lines");
  assertThrows(
    () => restore({ ...state, high: state.high.with(2, 1) }),
    Error,
    "high.2",
  );
});

testRoundTrip(ioapic, {
  steps: [
    // An edge, and a level with its entry half written.
    (machine) => machine.store(BASE, 0x18),
    (machine) => machine.store(BASE + 0x10, 0x0831),
    (machine) => machine.line(4, true),
    (machine) => machine.store(BASE, 0x27),
    (machine) => machine.store(BASE + 0x10, 0x0300_0000),
    (machine) => machine.line(11, true),
    (machine) => machine.store(BASE, 0x26),
    (machine) => machine.store(BASE + 0x10, LEVEL | 0x55),
    (machine) => machine.load(BASE + 0x10),
    // It stays high over an EOI, and falls before the next.
    (machine) => machine.interrupts.broadcastEoi(0x55),
    (machine) => machine.line(11, false),
    (machine) => machine.load(BASE + 0x10) & REMOTE_IRR,
    (machine) => machine.store(EOI, 0x55),
    (machine) => machine.load(BASE + 0x10) & REMOTE_IRR,
    // Masked while a PIRQ rises, and unmasked.
    (machine) => machine.store(BASE, 0x10 + 2 * 17),
    (machine) => machine.store(BASE + 0x10, MASKED | LEVEL | 0x66),
    (machine) => machine.pirq(1, true),
    (machine) => machine.store(BASE + 0x10, LEVEL | 0x66),
    (machine) => machine.interrupts.broadcastEoi(0x66),
    (machine) => machine.pirq(1, false),
    (machine) => machine.line(4, false),
    (machine) => machine.line(4, true),
    (machine) => machine.load(BASE + 0x10),
  ],
}, import.meta.url);
