import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import {
  createTestContext,
  type TestContext,
} from "../../core/testing/context.ts";
import { testRoundTrip } from "../../tests/golden.ts";
import virtioBalloon from "./balloon.ts";
import {
  DRIVER_OK,
  F_EVENT_IDX,
  F_VERSION_1,
  NEEDS_RESET,
} from "./testing/driver.ts";
import {
  bufferAt,
  driverOf,
  notifyQueue,
  offer,
  setUpRings,
  usedOf,
} from "./testing/rings.ts";

const RAM = 16 << 20;
const MIB = 1 << 20;
const SECOND = 1e9;
const INFLATE = 0, DEFLATE = 1, STATS = 2, REPORTING = 3;
const F_REPORTING = 1n << 5n;

function balloon(options: { stats?: number; features?: bigint } = {}) {
  const { features, ...own } = options;
  const device = createTestContext(virtioBalloon, { options: own, ram: RAM });
  device.instance.start();
  const driver = driverOf(device.machine);
  driver.negotiate(features ?? driver.offered & ~F_EVENT_IDX);
  const rings = [INFLATE, DEFLATE, STATS, REPORTING].map((queue) =>
    driver.queue(queue)
  );
  driver.status |= DRIVER_OK;
  const send = (queue: number, content: Uint8Array) => {
    const address = driver.memory.allocate(Math.max(1, content.length));
    driver.memory.ram.set(content, address);
    rings[queue].add([{ address, length: content.length }]);
    driver.notify(queue);
  };
  const used = (queue: number) => rings[queue].collect().length;
  const ask = (name: string, args: Record<string, unknown> = {}) =>
    device.instance.command(name, args);
  return { ...device, driver, rings, send, used, ask };
}

function pages(...numbers: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(numbers).buffer);
}

function statistics(...stats: [tag: number, value: number][]): Uint8Array {
  const view = new DataView(new ArrayBuffer(10 * stats.length));
  stats.forEach(([tag, value], i) => {
    view.setUint16(10 * i, tag, true);
    view.setBigUint64(10 * i + 2, BigInt(value), true);
  });
  return new Uint8Array(view.buffer);
}

Deno.test("pages that the guest gives back are zeroes, and others are as they were", () => {
  const { driver, send, used } = balloon();
  const { ram } = driver.memory;
  ram.fill(0xaa, 8 * MIB, 8 * MIB + 4 * 4096);
  send(INFLATE, pages(2049, 2051));
  assertEquals(used(INFLATE), 1);
  assertEquals(
    [0, 1, 2, 3].map((page) => ram[8 * MIB + page * 4096 + 100]),
    [0xaa, 0, 0xaa, 0],
  );
  send(DEFLATE, pages(2049));
  assertEquals(used(DEFLATE), 1);
});

Deno.test("the user's target reaches the guest, and its answer the user", () => {
  const { driver, ask, machine } = balloon();
  driver.enableMsix(0x40);
  driver.setCommon(0x10, 2, 0);
  assertEquals(ask("query-balloon"), { actual: RAM });
  ask("balloon", { value: 12 * MIB });
  assertEquals(driver.device(0, 4), 1024);
  assertEquals(machine.messages.map(({ vector }) => vector), [0x40]);
  driver.setDevice(4, 4, 1000);
  assertEquals(ask("query-balloon"), { actual: RAM - 1000 * 4096 });
  ask("balloon", { value: 2 * RAM });
  assertEquals(driver.device(0, 4), 0);
});

Deno.test("a legacy driver says byte by byte how much it has given back", () => {
  const { driver, ask } = balloon();
  for (const [i, byte] of [0x10, 0x02, 0, 0].entries()) {
    driver.setLegacy(0x14 + 4 + i, 1, byte);
  }
  assertEquals(ask("query-balloon"), { actual: RAM - 0x210 * 4096 });
});

Deno.test("a target that is none is refused", () => {
  const { ask } = balloon();
  for (const value of [0, -1, "1G", undefined, NaN, Infinity, 1.5]) {
    assertThrows(
      () => ask("balloon", { value }),
      Error,
      `"value" is ${value}: expected the bytes of memory`,
    );
  }
});

Deno.test("statistics are asked for and come back by name", () => {
  const { send, used, ask } = balloon();
  assertEquals(ask("query-statistics"), {});
  send(STATS, statistics([4, 5 * MIB], [5, RAM], [999, 1]));
  assertEquals(used(STATS), 0);
  const known = { "stat-free-memory": 5 * MIB, "stat-total-memory": RAM };
  assertEquals(ask("query-statistics"), known);
  assertEquals(used(STATS), 1);
  assertEquals(ask("query-statistics"), known);
  assertEquals(used(STATS), 0);
});

Deno.test("statistics are polled in virtual time", () => {
  const { send, used, machine } = balloon({ stats: 2 });
  send(STATS, statistics([4, MIB]));
  machine.advance(2 * SECOND - 1);
  assertEquals(used(STATS), 0);
  machine.advance(1);
  assertEquals(used(STATS), 1);
});

Deno.test("memory that the guest reports as free is zeroed; queues count as the features say", () => {
  const { driver, rings } = balloon({ features: F_VERSION_1 | F_REPORTING });
  const { ram } = driver.memory;
  ram.fill(0xaa, 8 * MIB, 10 * MIB);
  rings[STATS].add([{ address: 8 * MIB, length: MIB, write: true }]);
  driver.notify(STATS);
  assertEquals(rings[STATS].collect().length, 1);
  assertEquals(ram[8 * MIB], 0);
  assertEquals(ram[9 * MIB - 1], 0);
  assertEquals(ram[9 * MIB], 0xaa);
});

Deno.test("pages outside of memory are left alone, as is the video window", () => {
  const { driver, send } = balloon();
  send(INFLATE, pages(0xffff_ffff, 0xa0, RAM / 4096));
  assertEquals(driver.status & NEEDS_RESET, 0);
});

Deno.test("more to zero than a turn has time for is done in several", async () => {
  const { driver, rings, machine } = balloon();
  const part = { address: 8 * MIB, length: MIB, write: true };
  for (let i = 0; i < 3; i++) {
    rings[REPORTING].add(new Array(40).fill(part), true);
  }
  driver.notify(REPORTING);
  assertEquals(rings[REPORTING].collect().length, 2);
  await machine.settle();
  assertEquals(rings[REPORTING].collect().length, 1);
});

Deno.test("page numbers that are none stop the device", () => {
  for (const length of [3, 20_000]) {
    const { driver, send, machine } = balloon();
    send(INFLATE, new Uint8Array(length));
    assertEquals(driver.status & NEEDS_RESET, NEEDS_RESET);
    assertMatch(
      machine.logged[0],
      /bytes of page numbers: expected a multiple/,
    );
  }
});

Deno.test("a ring in a page that is given back ends", () => {
  const { driver, rings, send } = balloon();
  send(INFLATE, pages(rings[INFLATE].avail >>> 12, rings[INFLATE].desc >>> 12));
  driver.notify(INFLATE);
});

Deno.test("the target outlives a reset of the driver, and statistics do not", () => {
  const { driver, ask, send, save } = balloon();
  ask("balloon", { value: 8 * MIB });
  send(STATS, statistics([4, MIB]));
  driver.status = 0;
  const { target, statistics: held, known } = save();
  assertEquals([target, held, known], [2048, null, []]);
});

Deno.test("states that no guest could have caused are refused", () => {
  const { save, restore, send } = balloon();
  send(STATS, statistics([4, MIB]));
  const state = save();
  assertThrows(
    () => restore({ ...state, target: 4097 }),
    Error,
    "target is 4097: expected at most 4096",
  );
  assertThrows(
    () => restore({ ...state, statistics: 256 }),
    Error,
    "statistics is 256: expected less than 128",
  );
  assertThrows(
    () => restore({ ...state, poll: { remaining: 5 } }),
    Error,
    "poll.remaining is 5: expected at most 0",
  );
});

testRoundTrip(virtioBalloon, {
  make: () => ({ options: { stats: 5 } }),
  steps: [
    (machine) => setUpRings(machine, 4),
    (machine) => machine.instances[0].command("balloon", { value: MIB }),
    (machine) => driverOf(machine).device(0, 4),
    (machine: TestContext) =>
      offer(machine, STATS, 0, statistics([4, MIB], [5, RAM])),
    (machine) => notifyQueue(machine, STATS),
    (machine) => usedOf(machine, STATS),
    (machine) => machine.memory.write(0x1c_0000, new Uint8Array(64).fill(7)),
    (machine) => offer(machine, INFLATE, 0, pages(0x1c0, 0x1c1)),
    (machine) => notifyQueue(machine, INFLATE),
    (machine) => [usedOf(machine, INFLATE), machine.memory.readU8(0x1c_0000)],
    (machine) => machine.advance(5 * SECOND),
    (machine) => usedOf(machine, STATS),
    (machine) => offer(machine, REPORTING, 1, 64),
    (machine) =>
      machine.memory.write(bufferAt(REPORTING, 1), Uint8Array.of(1, 2, 3)),
    (machine) => notifyQueue(machine, REPORTING),
    (machine) => [
      usedOf(machine, REPORTING),
      machine.memory.readU32(bufferAt(REPORTING, 1)),
    ],
    (machine) => machine.instances[0].command("query-statistics", {}),
  ],
}, import.meta.url);
