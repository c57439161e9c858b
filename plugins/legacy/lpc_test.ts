import { assertEquals, assertThrows } from "@std/assert";
import { createTestContext } from "../../core/testing/context.ts";
import lpc from "./lpc.ts";
import { testRoundTrip } from "../../tests/golden.ts";

const SLOT = 0x1f;
const PIRQA = 0x60, PIRQE = 0x68, RCBA = 0xf0;
const GCS = 0x3410, HPTC = 0x3404;

function make() {
  const device = createTestContext(lpc);
  const { machine } = device;
  const read = (offset: number, size: 1 | 2 | 4 = 1) =>
    machine.configRead(SLOT, 0, offset, size);
  const write = (offset: number, value: number, size: 1 | 2 | 4 = 1) =>
    machine.configWrite(SLOT, 0, offset, value, size);
  return { ...device, read, write };
}

Deno.test("lpc is an ICH9 whose power management block is at 0x600", () => {
  const { read, write } = make();
  assertEquals(read(0, 4), 0x2918_8086);
  assertEquals(read(8, 4) >>> 8, 0x06_01_00);
  write(0x40, 0xb01, 4);
  write(0x44, 0);
  assertEquals([read(0x40, 4), read(0x44)], [0x601, 0x80]);
});

Deno.test("lpc routes PIRQs to the PICs", () => {
  const { machine, read, write } = make();
  const owner = { id: "test", plugin: "test" };
  assertEquals(read(PIRQA, 4), 0x8080_8080);
  machine.interrupts.setPirq(1, true, owner);
  machine.interrupts.setPirq(4, true, owner);
  const events = machine.isaEvents;
  assertEquals(events, []);
  write(PIRQA + 1, 0x0b);
  assertEquals(events.splice(0), [[11, true]]);
  write(PIRQA + 1, 0xff);
  assertEquals(read(PIRQA + 1), 0x8f);
  assertEquals(events.splice(0), [[11, false]]);
  write(PIRQE, 0x8080_800a, 4);
  assertEquals(events.splice(0), [[10, true]]);
  // IRQ 8 is not one that can be routed to.
  write(PIRQE, 0x08);
  assertEquals(events.splice(0), [[10, false]]);
});

Deno.test("lpc resets the machine through 0xCF9", () => {
  const { machine } = make();
  machine.out(0xcf9, 0x02);
  assertEquals(machine.requests, []);
  assertEquals(machine.in(0xcf9), 0x02);
  machine.out(0xcf9, 0x06);
  assertEquals(machine.requests, ["reset"]);
});

Deno.test("lpc switches A20 and sends INIT through port 0x92", () => {
  const { machine } = make();
  assertEquals(machine.in(0x92), 0x02);
  machine.out(0x92, 0x00);
  machine.out(0x92, 0x02);
  assertEquals(machine.requests, ["a20 0", "a20 1"]);
  machine.out(0x92, 0x03);
  machine.out(0x92, 0x03);
  assertEquals(machine.cpus[0].calls, ["init"]);
});

Deno.test("lpc maps the chipset registers where RCBA says", () => {
  const { machine, write } = make();
  write(RCBA, 0xfed1_c001, 4);
  assertEquals(machine.load(0xfed1_c000 + GCS), 0x20);
  machine.store(0xfed1_c000 + GCS, 0xffff_ffff);
  assertEquals(machine.load(0xfed1_c000 + GCS), 0x0c64);
  machine.store(0xfed1_c000 + HPTC, 0x00, 1);
  assertEquals(machine.load(0xfed1_c000 + HPTC), 0);
  write(RCBA, 0xfed2_0001, 4);
  assertEquals(machine.load(0xfed1_c000 + GCS), 0xffff_ffff);
  assertEquals(machine.load(0xfed2_0000 + GCS), 0x0c64);
});

Deno.test("lpc restores what it saved", () => {
  const { machine, write, save } = make();
  write(PIRQA, 0x0a);
  write(RCBA, 0xfed1_c001, 4);
  machine.out(0x80, 0x5a);
  machine.out(0x92, 0x00);
  const state = save();
  const other = make();
  other.restore(state);
  assertEquals(other.save(), state);
  assertEquals(other.machine.in(0x80), 0x5a);
  assertEquals(other.machine.load(0xfed1_c000 + GCS), 0x20);
  assertEquals(other.machine.requests, []);
});

Deno.test("lpc refuses reserved bits", () => {
  const { save, restore } = make();
  const state = save();
  assertThrows(
    () =>
      restore({
        ...state,
        pirqRoute: Uint8Array.of(0x10, 0, 0, 0, 0, 0, 0, 0),
      }),
    Error,
    "pirqRoute.0",
  );
  assertThrows(() => restore({ ...state, rcba: 2 }), Error, "rcba");
  assertThrows(() => restore({ ...state, resetControl: 4 }), Error, "reset");
});

testRoundTrip(lpc, {
  steps: [
    (machine) => machine.pirq(1, true),
    (machine) => machine.configWrite(SLOT, 0, PIRQA + 1, 0x0b, 1),
    (machine) => machine.pirq(4, true),
    (machine) => machine.configWrite(SLOT, 0, PIRQE, 0x8080_800b, 4),
    (machine) => machine.pirq(1, false),
    (machine) => machine.configWrite(SLOT, 0, PIRQE, 0x0a, 1),
    (machine) => machine.configWrite(SLOT, 0, RCBA, 0xfed1_c001),
    (machine) => machine.store(0xfed1_c000 + GCS, 0x64),
    (machine) => machine.store(0xfed1_c000 + HPTC, 0x01),
    (machine) =>
      [GCS, HPTC].map((register) => machine.load(0xfed1_c000 + register)),
    (machine) => machine.configWrite(SLOT, 0, RCBA, 0xfed2_0001),
    (machine) => machine.load(0xfed2_0000 + GCS),
    (machine) => machine.out(0x80, 0x5a),
    (machine) => machine.out(0x92, 0x00),
    (machine) => machine.out(0xcf9, 0x0a),
    (machine) => [0x80, 0x92, 0xcf9].map((port) => machine.in(port)),
    (machine) => machine.configWrite(SLOT, 0, 0x84, 0x1234_5679),
    (machine) => machine.out(0xcf9, 0x0e),
    (machine) => machine.pirq(4, false),
    (machine) => machine.configRead(SLOT, 0, PIRQA, 4),
  ],
}, import.meta.url);
