import { assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import type { ClockMode } from "../../core/clock.ts";
import { createTestContext } from "../../core/testing/context.ts";
import { testRoundTrip } from "../../tests/golden.ts";
import virtioRng from "./rng.ts";
import { F_EVENT_IDX, NEEDS_RESET } from "./testing/driver.ts";
import {
  bufferAt,
  driverOf,
  notifyQueue,
  offer,
  setUpRings,
  usedOf,
} from "./testing/rings.ts";

const RAM = 4 << 20;
const SECOND = 1e9;

function rng(options: { rate?: number; clock?: ClockMode } = {}) {
  const { clock, ...own } = options;
  const device = createTestContext(virtioRng, {
    options: own,
    ram: RAM,
    clock,
  });
  device.instance.start();
  const driver = driverOf(device.machine);
  const ring = driver.start(driver.offered & ~F_EVENT_IDX);
  const ask = (length: number): Uint8Array => {
    const address = driver.memory.allocate(length);
    ring.add([{ address, length, write: true }]);
    driver.notify(0);
    return driver.memory.bytes(address, length);
  };
  return { ...device, driver, ring, ask };
}

Deno.test("a request is filled with bytes that are no others' again", () => {
  const { ask, ring } = rng({ clock: "realtime" });
  const first = ask(64);
  const second = ask(64);
  assertEquals(ring.collect().map(({ length }) => length), [64, 64]);
  assertNotEquals(first, second);
  assertNotEquals(first.slice(32), new Uint8Array(32));
});

Deno.test("two machines that count instructions have equal entropy, and two in real time do not", () => {
  const [one, other] = [rng(), rng()].map(({ ask }) => ask(32));
  assertEquals(one, other);
  const [live, clone] = [rng({ clock: "realtime" }), rng({ clock: "realtime" })]
    .map(({ ask }) => ask(32));
  assertNotEquals(live, clone);
});

Deno.test("a huge request is answered in part", () => {
  const { ask, ring } = rng();
  ask(100_000);
  assertEquals(ring.collect().map(({ length }) => length), [65536]);
});

Deno.test("the rate is kept over seconds, and what waits comes by itself", () => {
  const { ask, ring, machine } = rng({ rate: 100 });
  ask(60);
  ask(60);
  ask(60);
  const lengths = () => ring.collect().map(({ length }) => length);
  assertEquals(lengths(), [60, 40]);
  machine.advance(SECOND - 1_000_000);
  assertEquals(lengths(), []);
  machine.advance(1_000_000);
  assertEquals(lengths(), [60]);
});

Deno.test("a request that waits for the rate is answered once after a restore", () => {
  const { ask, ring, machine, instance, save, restore } = rng({ rate: 10 });
  ask(10);
  ask(10);
  machine.advance(SECOND / 2);
  restore(save());
  instance.resume();
  assertEquals(ring.collect().length, 1);
  machine.advance(SECOND / 2);
  assertEquals(ring.collect().length, 1);
});

Deno.test("requests that are none stop the device", () => {
  for (const write of [false, undefined]) {
    const { driver, ring, machine } = rng();
    const address = driver.memory.allocate(16);
    ring.add([{ address, length: write === false ? 16 : 0, write }]);
    driver.notify(0);
    assertEquals(driver.status & NEEDS_RESET, NEEDS_RESET);
    assertMatch(machine.logged[0], /expected some to write and none to read/);
  }
});

Deno.test("a ring that is overwritten by its own answers ends", () => {
  const { driver, ring } = rng();
  for (let i = 0; i < ring.size; i++) {
    ring.describe(i, { address: ring.avail, length: 64, flags: 2 });
  }
  ring.offer(0);
  driver.notify(0);
  driver.notify(0);
});

Deno.test("an entropy source has no configuration space, as drivers expect", () => {
  const { driver } = rng();
  assertEquals(driver.structures.has(4), false);
  assertEquals(driver.config(2, 2), 0x1005);
});

testRoundTrip(virtioRng, {
  make: () => ({ options: { rate: 64 } }),
  steps: [
    (machine) => setUpRings(machine, 1),
    (machine) => offer(machine, 0, 0, 48),
    (machine) => notifyQueue(machine, 0),
    (machine) => [usedOf(machine, 0), machine.memory.readU32(bufferAt(0, 0))],
    (machine) => offer(machine, 0, 1, 48),
    (machine) => notifyQueue(machine, 0),
    (machine) => offer(machine, 0, 2, 48),
    (machine) => notifyQueue(machine, 0),
    (machine) => usedOf(machine, 0),
    (machine) => machine.advance(SECOND),
    (machine) => [usedOf(machine, 0), machine.memory.readU32(bufferAt(0, 2))],
  ],
}, import.meta.url);
