import { assertEquals, assertThrows } from "@std/assert";
import { createTestContext } from "../../core/testing/context.ts";
import type { IrqLine } from "../../core/plugin.ts";
import pic from "./pic.ts";
import { testRoundTrip } from "../../tests/golden.ts";

const MASTER = 0x20, MASTER_DATA = 0x21;
const SLAVE = 0xa0, SLAVE_DATA = 0xa1;
const EOI = 0x20;
const NO_INTERRUPT = -1;

/** A pair that is initialized as a PC does it, nothing masked. */
function make(icw4 = 0x01, initialize = true) {
  const device = createTestContext(pic, { recordMessages: false });
  const { machine } = device;
  const lines = Array.from(
    { length: 16 },
    (_, irq): IrqLine =>
      machine.interrupts.isaSource(
        { id: "test", plugin: "test" },
        irq,
      ),
  );
  if (initialize) {
    for (const [port, base, icw3] of [[MASTER, 0x20, 4], [SLAVE, 0x28, 2]]) {
      machine.out(port, 0x11);
      machine.out(port + 1, base);
      machine.out(port + 1, icw3);
      machine.out(port + 1, icw4);
    }
  }
  const take = () =>
    machine.interrupts.pending(0)
      ? machine.interrupts.acknowledge(0)
      : NO_INTERRUPT;
  return { ...device, lines, take };
}

Deno.test("pic gives vectors in order of priority, and waits for each EOI", () => {
  const { machine, lines, take } = make();
  for (const irq of [4, 1, 8]) lines[irq].set(true);
  assertEquals(take(), 0x21);
  assertEquals(take(), NO_INTERRUPT);
  machine.out(MASTER, EOI);
  // IRQ 8 comes through input 2, above IRQ 4.
  assertEquals(take(), 0x28);
  machine.out(SLAVE, EOI);
  assertEquals(take(), NO_INTERRUPT);
  machine.out(MASTER, EOI);
  assertEquals(take(), 0x24);
  machine.out(MASTER, EOI);
  assertEquals(take(), NO_INTERRUPT);
});

Deno.test("pic latches an edge, and follows a level", () => {
  const { machine, lines, take } = make();
  lines[3].pulse();
  assertEquals(take(), 0x23);
  machine.out(MASTER, EOI);
  machine.out(0x4d0, 0xff);
  assertEquals(machine.in(0x4d0, 2), 0x00f8);
  lines[5].pulse();
  assertEquals(take(), NO_INTERRUPT);
  lines[5].set(true);
  assertEquals(take(), 0x25);
  machine.out(MASTER, EOI);
  assertEquals(take(), 0x25);
  lines[5].set(false);
  machine.out(MASTER, EOI);
  assertEquals(take(), NO_INTERRUPT);
});

Deno.test("pic masks, and a masked edge waits", () => {
  const { machine, lines, take } = make();
  machine.out(MASTER_DATA, 0xff);
  assertEquals(machine.in(MASTER_DATA), 0xff);
  lines[6].pulse();
  assertEquals(take(), NO_INTERRUPT);
  machine.out(MASTER, 0x0a);
  assertEquals(machine.in(MASTER), 0x40);
  machine.out(MASTER_DATA, 0x00);
  assertEquals(take(), 0x26);
  machine.out(MASTER, 0x0b);
  assertEquals(machine.in(MASTER), 0x40);
});

Deno.test("pic answers an INTA without a request with input 7", () => {
  const { machine, lines } = make();
  assertEquals(machine.interrupts.pic?.acknowledge(), 0x27);
  machine.out(MASTER, 0x0b);
  assertEquals(machine.in(MASTER), 0);
  machine.out(0x4d1, 0x20);
  lines[13].set(true);
  assertEquals(machine.in(0x4d1), 0);
  // IRQ 13 is edge-triggered whatever was written; its latch gives IRQ 13.
  assertEquals(machine.interrupts.pic?.acknowledge(), 0x2d);
});

Deno.test("pic ends its own interrupts with AEOI, and rotates", () => {
  const { machine, lines, take } = make(0x03);
  machine.out(MASTER, 0x80);
  lines[1].pulse();
  lines[4].pulse();
  assertEquals(take(), 0x21);
  // Input 1 has the lowest priority now, so 4 beats it.
  lines[1].pulse();
  assertEquals(take(), 0x24);
  assertEquals(take(), 0x21);
});

Deno.test("pic serves slave requests one after the other with AEOI", () => {
  const { lines, take } = make(0x03);
  lines[9].pulse();
  lines[12].pulse();
  assertEquals(take(), 0x29);
  assertEquals(take(), 0x2c);
  assertEquals(take(), NO_INTERRUPT);
});

Deno.test("pic rotates on specific and non-specific EOI and sets priority", () => {
  const { machine, lines, take } = make();
  lines[3].pulse();
  assertEquals(take(), 0x23);
  machine.out(MASTER, 0xa0);
  lines[3].pulse();
  lines[5].pulse();
  assertEquals(take(), 0x25);
  machine.out(MASTER, 0xe0 | 5);
  assertEquals(take(), 0x23);
  machine.out(MASTER, 0x60 | 3);
  machine.out(MASTER, 0xc0 | 0);
  lines[0].pulse();
  lines[7].pulse();
  assertEquals(take(), 0x27);
});

Deno.test("pic lets lower priorities through in special mask mode", () => {
  const { machine, lines, take } = make();
  lines[1].pulse();
  assertEquals(take(), 0x21);
  lines[6].pulse();
  assertEquals(take(), NO_INTERRUPT);
  machine.out(MASTER, 0x68);
  machine.out(MASTER_DATA, 0x02);
  assertEquals(take(), 0x26);
  // A non-specific EOI ends 6, not the masked 1.
  machine.out(MASTER, EOI);
  machine.out(MASTER, 0x0b);
  assertEquals(machine.in(MASTER), 0x02);
});

Deno.test("pic nests slave interrupts in special fully nested mode", () => {
  const { lines, take } = make(0x11);
  lines[12].pulse();
  assertEquals(take(), 0x2c);
  lines[9].pulse();
  assertEquals(take(), 0x29);
});

Deno.test("pic is polled", () => {
  const { machine, lines, take } = make();
  machine.out(MASTER, 0x0c);
  assertEquals(machine.in(MASTER), 0);
  lines[4].pulse();
  machine.out(MASTER, 0x0c);
  assertEquals(machine.in(MASTER), 0x84);
  assertEquals(take(), NO_INTERRUPT);
  machine.out(MASTER, EOI);
  // The command held for one read.
  assertEquals(machine.in(MASTER), 0);
});

Deno.test("pic restores what it saved in the middle of initialization", () => {
  const { machine, lines, save } = make();
  lines[10].set(true);
  machine.interrupts.acknowledge(0);
  machine.out(SLAVE, 0x11);
  machine.out(SLAVE_DATA, 0x70);
  const state = save();
  const other = make(0x01, false);
  other.restore(state);
  assertEquals(other.save(), state);
  other.machine.out(SLAVE_DATA, 2);
  other.machine.out(SLAVE_DATA, 1);
  other.machine.out(SLAVE_DATA, 0x5a);
  assertEquals(other.machine.in(SLAVE_DATA), 0x5a);
});

Deno.test("pic refuses states that it cannot be in", () => {
  const { save, restore } = make();
  const state = save();
  const broken = (change: Record<string, unknown>) => () =>
    restore({ ...state, master: { ...state.master, ...change } });
  assertThrows(broken({ base: 0x21 }), Error, "master.base");
  assertThrows(broken({ initStep: 1 }), Error, "master.initStep");
  assertThrows(broken({ elcr: 0x04 }), Error, "master.elcr");
});

testRoundTrip(pic, {
  make: () => ({ recordMessages: false }),
  steps: [
    // Initialization, saved in the middle of each sequence.
    (machine) => machine.out(MASTER, 0x11),
    (machine) => machine.out(MASTER_DATA, 0x20),
    (machine) => machine.line(1, true),
    (machine) => machine.out(MASTER_DATA, 0x04),
    (machine) => machine.out(MASTER_DATA, 0x01),
    (machine) => machine.out(SLAVE, 0x11),
    (machine) => machine.out(SLAVE_DATA, 0x28),
    (machine) => machine.out(SLAVE_DATA, 0x02),
    (machine) => machine.out(SLAVE_DATA, 0x03),
    (machine) => machine.out(MASTER_DATA, 0xa8),
    // Edges and levels, in service and waiting, through the cascade.
    (machine) => machine.line(1, false),
    (machine) => machine.line(1, true),
    (machine) => machine.out(0x4d0, 0x0800, 2),
    (machine) => machine.line(11, true),
    (machine) => machine.line(4, true),
    (machine) => machine.interrupts.acknowledge(0),
    (machine) => machine.interrupts.acknowledge(0),
    (machine) => machine.line(4, false),
    (machine) => machine.out(MASTER, 0x0b),
    (machine) => [machine.in(MASTER), machine.in(SLAVE)],
    // Special mask, poll, rotation, end of interrupt.
    (machine) => machine.out(MASTER, 0x68),
    (machine) => machine.out(MASTER, 0x0c),
    (machine) => machine.in(MASTER),
    (machine) => machine.out(MASTER, 0xa0),
    (machine) => machine.interrupts.pending(0),
    (machine) => machine.interrupts.acknowledge(0),
    (machine) => machine.out(SLAVE, EOI),
    (machine) => machine.out(MASTER, 0x80),
    (machine) => machine.in(MASTER_DATA),
    (machine) => machine.in(0x4d0, 2),
  ],
}, import.meta.url);
