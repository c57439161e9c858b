import { assertEquals } from "@std/assert";
import {
  createTestContext,
  type DeviceUnderTest,
  type Scenario,
  TestChar,
  testPlugin,
} from "@diapause/diapause";
import postCard from "./post_card.ts";
import version1 from "./testdata/post_card_v1.json" with { type: "json" };

const BASE = 0x300;
const CODE = BASE, DIGIT_LOW = BASE + 1, DIGIT_HIGH = BASE + 2;
const HISTORY = BASE + 3, STATUS = BASE + 4, CONTROL = BASE + 5;
const TIMEOUT = BASE + 6, CONSOLE = BASE + 7;
const TENTH = 100_000_000;
const WATCHDOG = 1, INTERRUPT = 2, RESET = 4;
const IRQ = 5;

function make(): DeviceUnderTest<unknown> & { line: TestChar } {
  const line = new TestChar();
  return { ...createTestContext(postCard, { backend: line }), line };
}

function printed(line: TestChar): string {
  return String.fromCharCode(...line.sent);
}

/** What the golden snapshots go on with: it stays as it is. */
export const scenario: Scenario<typeof postCard.options> = {
  steps: [
    (machine) => machine.out(CODE, 0x13),
    (machine) => machine.out(TIMEOUT, 10),
    (machine) => machine.out(CONTROL, WATCHDOG | INTERRUPT | RESET),
    (machine) => machine.advance(6 * TENTH),
    (machine) => machine.out(CODE, 0x14),
    (machine) => [machine.in(DIGIT_LOW), machine.in(DIGIT_HIGH)],
    (machine) => machine.out(CONSOLE, 0x6f6b, 2),
    (machine) => machine.in(HISTORY),
    (machine) => machine.advance(12 * TENTH),
    (machine) => machine.in(STATUS),
    (machine) => machine.out(STATUS, 0x04),
    (machine) => machine.advance(20 * TENTH),
    (machine) => machine.in(HISTORY),
    (machine) => machine.in(STATUS),
  ],
};

Deno.test("post-card survives a save at any moment, and reads states of version 1", () =>
  testPlugin(postCard, { ...scenario, golden: [version1] }));

Deno.test("post-card shows codes on its digits and keeps the last sixteen", () => {
  const { machine } = make();
  machine.out(CODE, 0xe7);
  const SEVEN = 0x07, E = 0x79;
  assertEquals([machine.in(DIGIT_LOW), machine.in(DIGIT_HIGH)], [SEVEN, E]);
  for (let code = 0; code < 16; code++) machine.out(CODE, code);
  assertEquals(machine.in(STATUS), 0x03);
  const codes = Array.from({ length: 17 }, () => machine.in(HISTORY));
  assertEquals(codes, [...Array(16).keys(), 0]);
  machine.out(STATUS, 0x02);
  assertEquals(machine.in(STATUS), 0);
});

Deno.test("post-card interrupts a guest that stops reporting, then resets it", () => {
  const { machine, instance } = make();
  machine.out(TIMEOUT, 20);
  machine.out(CONTROL, WATCHDOG | INTERRUPT | RESET);
  machine.out(CODE, 0x42);
  machine.advance(20 * TENTH - 1);
  assertEquals(machine.isaEvents, []);
  machine.out(CODE, 0x43);
  machine.advance(20 * TENTH);
  assertEquals(machine.isaEvents, [[IRQ, true]]);
  machine.out(STATUS, 0x04);
  assertEquals(machine.isaEvents.at(-1), [IRQ, false]);
  machine.advance(40 * TENTH);
  assertEquals(machine.requests, ["reset"]);
  assertEquals(
    machine.logged.at(-1),
    "warn: the guest has reported nothing since code 43: resetting it",
  );
  instance.reset();
  assertEquals(machine.in(STATUS), 0x80);
  instance.reset();
  assertEquals(machine.in(STATUS), 0);
});

Deno.test("post-card holds console output while its backend is full", () => {
  const { machine, line } = make();
  line.block();
  for (const character of "0123456789abcdefg") {
    machine.out(CONSOLE, character.charCodeAt(0));
  }
  // The backend took the character with which it became full.
  assertEquals(printed(line), "0");
  assertEquals(machine.in(STATUS), 0x08);
  machine.out(CONSOLE, 0x21);
  assertEquals(machine.in(STATUS), 0x18);
  line.drain();
  assertEquals(printed(line), "0123456789abcdefg");
  assertEquals(machine.in(STATUS), 0x10);
});
