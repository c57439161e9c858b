import { assertEquals, assertThrows } from "@std/assert";
import { createTestContext } from "../../core/testing/context.ts";
import pmtimer from "./pmtimer.ts";
import { timeOfTick } from "./support.ts";
import { testRoundTrip } from "../../tests/golden.ts";

const PM1_STS = 0x600, PM1_EN = 0x602, PM1_CNT = 0x604, PM_TMR = 0x608;
const GPE0_EN = 0x628, SMI_EN = 0x630, SMI_STS = 0x634;
const TMR = 0x0001, PWRBTN = 0x0100;
const HALF = 2 ** 31;
const HERTZ = 3_579_545;

Deno.test("pmtimer counts at 3.579545 MHz, in 32 bits", () => {
  const { machine } = createTestContext(pmtimer);
  assertEquals(machine.in(PM_TMR, 4), 0);
  machine.advance(1e9);
  assertEquals(machine.in(PM_TMR, 4), HERTZ);
  assertEquals(machine.in(PM_TMR, 2), HERTZ & 0xffff);
  assertEquals(machine.in(PM_TMR + 2, 1), HERTZ >> 16 & 0xff);
  machine.advance(timeOfTick(2 * HALF, HERTZ) - 1e9);
  assertEquals(machine.in(PM_TMR, 4), 0);
});

Deno.test("pmtimer sets TMR_STS when the highest bit changes", () => {
  const { machine } = createTestContext(pmtimer);
  machine.advance(timeOfTick(HALF, HERTZ) - 1);
  assertEquals(machine.in(PM1_STS, 2), 0);
  machine.advance(1);
  assertEquals(machine.in(PM1_STS, 2), TMR);
  machine.out(PM1_STS, TMR, 2);
  assertEquals(machine.in(PM1_STS, 2), 0);
  machine.out(PM1_EN, TMR, 2);
  assertEquals(machine.isaEvents, []);
  machine.advance(timeOfTick(HALF, HERTZ) + 1);
  assertEquals(machine.isaEvents, [[9, true]]);
  machine.out(PM1_STS, TMR, 2);
  assertEquals(machine.isaEvents.at(-1), [9, false]);
});

Deno.test("pmtimer interrupts when the power button is pressed", () => {
  const { machine } = createTestContext(pmtimer);
  machine.pressPowerButton();
  assertEquals(machine.isaEvents, []);
  machine.out(PM1_EN, PWRBTN, 2);
  assertEquals(machine.isaEvents, [[9, true]]);
  machine.out(PM1_STS, PWRBTN, 2);
  assertEquals(machine.isaEvents, [[9, true], [9, false]]);
  machine.pressPowerButton();
  assertEquals(machine.isaEvents.at(-1), [9, true]);
});

Deno.test("pmtimer turns the machine off", () => {
  const { machine } = createTestContext(pmtimer);
  assertEquals(machine.in(PM1_CNT, 2), 1);
  machine.out(PM1_CNT, 5 << 10 | 1, 2);
  assertEquals(machine.requests, []);
  machine.out(PM1_CNT, 5 << 10 | 1 << 13 | 1, 2);
  assertEquals(machine.requests, ["powerOff"]);
  assertEquals(machine.in(PM1_CNT, 2), 5 << 10 | 1);
  machine.out(PM1_CNT, 1 << 10 | 1 << 13 | 1, 2);
  assertEquals(machine.requests, ["powerOff"]);
});

Deno.test("pmtimer keeps GPE0 and SMI registers", () => {
  const { machine } = createTestContext(pmtimer);
  machine.out(GPE0_EN, 0xdead_beef, 4);
  assertEquals(machine.in(GPE0_EN, 4), 0xdead_beef);
  machine.out(SMI_EN, 0xffff_ffff, 4);
  assertEquals(machine.in(SMI_EN, 4), 0x0606_787f);
  machine.out(0xb3, 0x77);
  machine.out(0xb2, 0x03);
  assertEquals([machine.in(0xb2), machine.in(0xb3)], [0x03, 0x77]);
  assertEquals(machine.in(SMI_STS, 4), 0x20);
  assertEquals(machine.in(PM1_CNT, 2), 0);
  machine.out(0xb2, 0x02);
  assertEquals(machine.in(PM1_CNT, 2), 1);
});

Deno.test("pmtimer restores what it saved", () => {
  const { machine, save } = createTestContext(pmtimer);
  machine.out(PM1_EN, TMR | PWRBTN, 2);
  machine.advance(5e9);
  const state = save();
  const other = createTestContext(pmtimer);
  other.machine.clock.advance(5e9);
  other.restore(state);
  assertEquals(other.save(), state);
  other.machine.advance(timeOfTick(HALF, HERTZ) - 5e9);
  assertEquals(other.machine.isaEvents, [[9, true]]);
});

Deno.test("pmtimer refuses reserved bits", () => {
  const { save, restore } = createTestContext(pmtimer);
  const state = save();
  assertThrows(() => restore({ ...state, pm1Status: 2 }), Error, "pm1Status");
  // Events that nothing here raises.
  assertThrows(
    () => restore({ ...state, pm1Status: 0x8000 }),
    Error,
    "pm1Status",
  );
  assertThrows(
    () => restore({ ...state, gpeStatus: state.gpeStatus.with(3, 1) }),
    Error,
    "gpeStatus.3",
  );
  assertThrows(() => restore({ ...state, smiStatus: 4 }), Error, "smiStatus");
  assertThrows(
    () => restore({ ...state, timer: { remaining: 5 } }),
    Error,
    "timer",
  );
  assertThrows(
    () => restore({ ...state, pm1Control: 0x2000 }),
    Error,
    "pm1Control",
  );
});

testRoundTrip(pmtimer, {
  steps: [
    (machine) => machine.advance(timeOfTick(HALF, HERTZ) - 1_000),
    (machine) => machine.in(PM_TMR, 4),
    (machine) => machine.out(PM1_EN, TMR, 2),
    (machine) => machine.advance(2_000),
    (machine) => machine.in(PM1_STS, 2),
    (machine) => machine.out(PM1_STS, TMR, 2),
    (machine) => machine.out(PM1_EN, TMR | PWRBTN, 2),
    (machine) => machine.pressPowerButton(),
    (machine) => machine.out(PM1_EN, TMR, 2),
    (machine) => machine.in(PM1_STS, 4),
    (machine) => machine.out(GPE0_EN, 0xa5a5, 2),
    (machine) => machine.out(SMI_EN, 0x20, 4),
    (machine) => machine.out(0xb3, 0x5a),
    (machine) => machine.out(0xb2, 0x42),
    (machine) => [machine.in(SMI_STS, 4), machine.in(0xb2), machine.in(0xb3)],
    (machine) => machine.out(PM1_STS, PWRBTN, 2),
    (machine) => machine.out(PM1_CNT, 5 << 10 | 1, 2),
    (machine) => machine.advance(timeOfTick(HALF, HERTZ)),
    (machine) => machine.out(PM1_CNT, 5 << 10 | 1 << 13 | 1, 2),
    (machine) => [machine.in(PM1_CNT, 4), machine.in(PM_TMR, 4)],
  ],
}, import.meta.url);
