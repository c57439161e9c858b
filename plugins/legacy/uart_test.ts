import { assertEquals, assertThrows } from "@std/assert";
import type { CharBackend } from "../../core/plugin.ts";
import { createTestContext, TestContext } from "../../core/testing/context.ts";
import uart from "./uart.ts";
import { testRoundTrip } from "../../tests/golden.ts";

const COM1 = 0x3f8;
const THR = COM1, RBR = COM1, DLL = COM1;
const IER = COM1 + 1, DLM = COM1 + 1;
const IIR = COM1 + 2, FCR = COM1 + 2;
const LCR = COM1 + 3, MCR = COM1 + 4, LSR = COM1 + 5, MSR = COM1 + 6;
const SCR = COM1 + 7;
/** Ten bits at 9600 baud, and four times that. */
const CHARACTER_NS = Math.ceil(10 * 1e9 / 9600);
const TIMEOUT_NS = 4 * 10 * 1e9 / 9600;

/** A line whose other end the test holds. */
class Line implements CharBackend {
  sent: number[] = [];
  full = false;
  queue: number[] = [];
  #accept: (bytes: Uint8Array) => number = () => 0;
  #drain: () => void = () => {};

  write(bytes: Uint8Array): boolean {
    this.sent.push(...bytes);
    return !this.full;
  }
  onInput(accept: (bytes: Uint8Array) => number): void {
    this.#accept = accept;
  }
  ready(): void {
    while (this.queue.length > 0) {
      const taken = this.#accept(Uint8Array.from(this.queue));
      if (taken === 0) return;
      this.queue.splice(0, taken);
    }
  }
  onDrain(listener: () => void): void {
    this.#drain = listener;
  }
  type(...characters: number[]): void {
    this.queue.push(...characters);
    this.ready();
  }
  drain(): void {
    this.full = false;
    this.#drain();
  }
  get text(): string {
    return String.fromCharCode(...this.sent);
  }
}

async function make() {
  const line = new Line();
  const device = createTestContext(uart, { backend: line });
  await device.instance.start();
  const { machine } = device;
  machine.out(LCR, 0x83);
  machine.out(DLL, 12);
  machine.out(DLM, 0);
  machine.out(LCR, 0x03);
  return { ...device, line };
}

Deno.test("uart sends what is written and stays ready", async () => {
  const { machine, line } = await make();
  for (const c of "hello") {
    assertEquals(machine.in(LSR) & 0x60, 0x60);
    machine.out(THR, c.charCodeAt(0));
  }
  assertEquals(line.text, "hello");
});

Deno.test("uart holds output while the backend is full, and loses none", async () => {
  const { machine, line } = await make();
  machine.out(FCR, 0x01);
  machine.out(IER, 0x02);
  machine.out(MCR, 0x08);
  line.full = true;
  machine.out(THR, 0x61);
  // The backend took the first byte and asked for no more.
  machine.out(THR, 0x62);
  assertEquals(machine.in(LSR) & 0x60, 0);
  machine.out(THR, 0x63);
  assertEquals(line.text, "a");
  line.drain();
  assertEquals(line.text, "abc");
  assertEquals(machine.in(LSR) & 0x60, 0x60);
  assertEquals(machine.in(IIR), 0xc2);
});

Deno.test("uart raises THRE again when its interrupt is enabled again", async () => {
  const { machine } = await make();
  machine.out(MCR, 0x08);
  machine.out(IER, 0x02);
  assertEquals(machine.isaEvents, [[4, true]]);
  assertEquals(machine.in(IIR), 0x02);
  assertEquals(machine.in(IIR), 0x01);
  assertEquals(machine.isaEvents.at(-1), [4, false]);
  machine.out(IER, 0x00);
  machine.out(IER, 0x02);
  assertEquals(machine.in(IIR), 0x02);
});

Deno.test("uart interrupts at the trigger level, and after four characters of silence", async () => {
  const { machine, line } = await make();
  machine.out(FCR, 0x41);
  machine.out(MCR, 0x08);
  machine.out(IER, 0x01);
  machine.advance(CHARACTER_NS);
  line.type(1, 2, 3);
  assertEquals(machine.in(IIR), 0xc1);
  machine.advance(TIMEOUT_NS + 1);
  assertEquals(machine.in(IIR), 0xcc);
  assertEquals(machine.isaEvents.at(-1), [4, true]);
  line.type(4);
  assertEquals(machine.in(IIR), 0xc4);
  assertEquals([1, 2, 3, 4].map(() => machine.in(RBR)), [1, 2, 3, 4]);
  assertEquals(machine.in(IIR), 0xc1);
  assertEquals(machine.isaEvents.at(-1), [4, false]);
});

Deno.test("uart takes input only as it has room", async () => {
  const { machine, line } = await make();
  machine.out(MCR, 0x02);
  machine.advance(CHARACTER_NS);
  line.type(...Array(40).keys());
  assertEquals(line.queue.length, 39);
  machine.out(FCR, 0x01);
  machine.advance(CHARACTER_NS);
  // Changing FCR0 emptied the receiver.
  assertEquals(line.queue.length, 23);
  const read: number[] = [];
  while (machine.in(LSR) & 1) read.push(machine.in(RBR));
  assertEquals(read, [...Array(40).keys()].slice(1));
});

Deno.test("uart keeps what was typed ahead until the guest listens", async () => {
  for (
    const listen of [
      (machine: TestContext) => machine.out(MCR, 0x02),
      (machine: TestContext) => {
        machine.out(MCR, 0x08);
        machine.out(IER, 0x01);
      },
      (machine: TestContext) => {
        for (let i = 0; i < 16; i++) machine.in(LSR);
      },
    ]
  ) {
    const { machine, line } = await make();
    line.type(1, 2, 3);
    // A driver probes.
    machine.out(IER, 0x0f);
    machine.out(IER, 0x00);
    machine.in(LSR);
    machine.in(RBR);
    machine.out(FCR, 0x07);
    listen(machine);
    machine.out(FCR, 0x01);
    machine.advance(CHARACTER_NS);
    assertEquals([1, 2, 3].map(() => machine.in(RBR)), [1, 2, 3]);
  }
});

Deno.test("uart loops back characters, modem lines, break and overrun", async () => {
  const { machine, line } = await make();
  machine.out(MCR, 0x1a);
  machine.in(MSR);
  assertEquals(machine.in(MSR) & 0xf0, 0x90);
  machine.out(MCR, 0x1f);
  assertEquals(machine.in(MSR), 0xf2);
  machine.out(MCR, 0x1b);
  // RI fell: TERI.
  assertEquals(machine.in(MSR), 0xb4);
  machine.out(THR, 0x55);
  assertEquals(machine.in(LSR), 0x61);
  machine.out(THR, 0x66);
  assertEquals(machine.in(LSR), 0x63);
  assertEquals(machine.in(RBR), 0x66);
  machine.out(LCR, 0x43);
  assertEquals(machine.in(LSR), 0x71);
  assertEquals(machine.in(LSR), 0x61);
  assertEquals(machine.in(RBR), 0);
  assertEquals(line.text, "");
  assertEquals(machine.isaEvents, []);
});

Deno.test("uart reports line errors before anything else", async () => {
  const { machine } = await make();
  machine.out(MCR, 0x10);
  machine.out(IER, 0x0f);
  machine.out(THR, 1);
  machine.out(THR, 2);
  assertEquals(machine.in(IIR), 0x06);
  machine.in(LSR);
  assertEquals(machine.in(IIR), 0x04);
  machine.in(RBR);
  assertEquals(machine.in(IIR), 0x02);
  assertEquals(machine.in(IIR), 0x00);
  machine.in(MSR);
  assertEquals(machine.in(IIR), 0x01);
});

Deno.test("uart has a scratch register, and a divisor behind DLAB", async () => {
  const { machine } = await make();
  machine.out(SCR, 0xa5);
  assertEquals(machine.in(SCR), 0xa5);
  machine.out(LCR, 0x80);
  assertEquals(machine.in(DLL, 2), 12);
  machine.out(DLL, 0x1234, 2);
  assertEquals(machine.in(DLM), 0x12);
});

Deno.test("uart takes the next free place of a PC", () => {
  const machine = new TestContext();
  for (let i = 0; i < 4; i++) machine.add(uart, { backend: new Line() });
  machine.out(0x2e8 + 7, 0x99);
  assertEquals(machine.in(0x2e8 + 7), 0x99);
  assertThrows(
    () => machine.add(uart, { backend: new Line() }),
    Error,
    "all are taken",
  );
});

Deno.test("uart restores what it saved, its timeout included", async () => {
  const { machine, line, save } = await make();
  machine.out(FCR, 0x81);
  machine.out(MCR, 0x08);
  machine.out(IER, 0x05);
  machine.advance(CHARACTER_NS);
  line.type(7, 8);
  machine.advance(1000);
  const state = save();
  const other = await make();
  other.machine.clock.advance(machine.clock.now());
  other.restore(state);
  assertEquals(other.save(), state);
  other.machine.advance(TIMEOUT_NS);
  assertEquals(other.machine.in(IIR), 0xcc);
  assertEquals(other.machine.in(RBR), 7);
});

Deno.test("uart refuses states that it cannot be in", () => {
  const { save, restore } = createTestContext(uart, { backend: new Line() });
  const state = save();
  assertThrows(() => restore({ ...state, ier: 0x10 }), Error, "ier");
  assertThrows(() => restore({ ...state, fcr: 0x02 }), Error, "fcr");
  const character = { character: 1, errors: 0 };
  assertThrows(
    () => restore({ ...state, receive: [character, character] }),
    Error,
    "receive",
  );
  assertThrows(
    () => restore({ ...state, receive: [{ character: 1, errors: 0x10 }] }),
    Error,
    "receive[0].errors",
  );
  assertThrows(
    () =>
      restore({ ...state, receive: [character], timeout: { remaining: 9 } }),
    Error,
    "timeout",
  );
  assertThrows(
    () => restore({ ...state, arrival: { remaining: 1e12 } }),
    Error,
    "arrival.remaining",
  );
  assertThrows(() => restore({ ...state, msr: 0x40 }), Error, "msr");
  assertThrows(
    () => restore({ ...state, timeoutPending: true }),
    Error,
    "timeoutPending",
  );
});

Deno.test("uart reads states of version 1, and refuses newer ones than it knows", () => {
  const { save, restore } = createTestContext(uart, { backend: new Line() });
  const state = save();
  restore({ ...state, lineErrors: 0x10, receive: [0x1041] }, 1);
  assertEquals(save().receive, [{ character: 0x41, errors: 0x10 }]);
  assertThrows(
    () => restore(state, 3),
    Error,
    'version 3 of the schema "uart", and this build reads up to version 2',
  );
});

testRoundTrip(uart, {
  steps: [
    // A driver probes and sets the line up; input waits at the other end meanwhile.
    (machine) => machine.char.type("typed ahead"),
    (machine) => machine.out(IER, 0x0f),
    (machine) => [machine.in(IIR), machine.out(IER, 0)],
    (machine) => machine.out(LCR, 0x83),
    (machine) => machine.out(DLL, 1, 2),
    (machine) => machine.out(LCR, 0x03),
    (machine) => machine.out(FCR, 0x81),
    (machine) => machine.out(IER, 0x0d),
    // The first character is on its way; fewer than the trigger level have come.
    (machine) => machine.out(MCR, 0x0b),
    (machine) => machine.advance(50_000),
    (machine) => machine.advance(50_000),
    (machine) => machine.in(IIR),
    (machine) => [machine.in(RBR), machine.in(RBR), machine.in(LSR)],
    // The character timeout runs, and then asks.
    (machine) => [1, 2, 3, 4].map(() => machine.in(RBR)),
    (machine) => machine.advance(200_000),
    (machine) => machine.advance(200_000),
    (machine) => [machine.in(IIR), machine.in(RBR)],
    // Output: THRE pending, its interrupt enabled late, the backend full.
    (machine) => machine.out(IER, 0x0f),
    (machine) => machine.in(IIR),
    (machine) => machine.char.block(),
    (machine) => [..."stuck"].map((c) => machine.out(THR, c.charCodeAt(0))),
    (machine) => machine.in(IIR),
    (machine) => machine.char.drain(),
    (machine) => [machine.in(IIR), machine.in(LSR)],
    // Errors behind good characters, in loopback, with modem lines that change.
    (machine) => machine.out(MCR, 0x12),
    (machine) => [machine.out(THR, 0x41), machine.out(LCR, 0x43)],
    (machine) => [machine.out(LCR, 0x03), machine.out(THR, 0x42)],
    (machine) => machine.in(LSR),
    (machine) => machine.in(RBR),
    (machine) => [machine.in(IIR), machine.in(LSR), machine.in(RBR)],
    (machine) => machine.out(MCR, 0x0b),
    (machine) => [machine.in(MSR), machine.in(IIR)],
    // Input in pieces, the FIFO full.
    (machine) => machine.char.type(Array(20).keys()),
    (machine) => machine.advance(1_000_000),
    (machine) => [machine.in(IIR), machine.in(RBR)],
    (machine) => machine.out(FCR, 0x07),
    (machine) => machine.advance(1_000_000),
    (machine) => [machine.in(LSR), machine.in(RBR), machine.in(SCR)],
  ],
}, import.meta.url);
