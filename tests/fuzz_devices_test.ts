/**
 * Hostile guests on every built-in device: random accesses to whatever it has claimed, random
 * events of its backend, and rings and command lists that no honest driver would write. Nothing
 * may throw, be written outside guest memory, or go on without end.
 *
 * `DIAPAUSE_FUZZ=5000000` does so many operations instead of a continuous integration's share;
 * `DIAPAUSE_SEED=n` repeats a run.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Plugin } from "../core/plugin.ts";
import { TestContext } from "../core/testing/context.ts";
import { type Hints, operations } from "../core/testing/generate.ts";
import {
  describe,
  type Operation,
  perform,
} from "../core/testing/operation.ts";
import { BUILT_IN } from "../plugins/mod.ts";
import {
  Choices,
  hostileAhci,
  type HostileDriver,
  hostileE1000,
  hostileVirtio,
} from "./hostile.ts";
import {
  driverOf,
  notifyQueue,
  offer,
  ringAt,
  setUpRings,
} from "../plugins/virtio/testing/rings.ts";
import { DRIVER_OK, NEEDS_RESET } from "../plugins/virtio/testing/driver.ts";
import { newSeed } from "./support.ts";

const OPERATIONS = Number(Deno.env.get("DIAPAUSE_FUZZ") ?? 200_000);
const RAM = 4 << 20;
/** Flags of a descriptor: virtio 1.2, section 2.7.5. */
const DESC_NEXT = 1;
const DESC_WRITE = 2;
/** Operations on one machine: many end in a state that only a reset leaves. */
const PER_MACHINE = 2_000;
/** Random accesses that are made at a time. */
const POOL = 20_000;
/** Of so many operations, one is a hostile driver's, where the device has one. */
const DRIVER_SHARE = 2;
/** Operations between two waits for the backend. */
const SETTLE = 4;
/** What the device may do for one operation and what follows from it. */
const MOST_ACCESSES = 1_000_000;
const MOST_BYTES = 256 << 20;
/** Host work that may wait for a backend. */
const MOST_IN_FLIGHT = 8_192;
/** Operations that are shown when something goes wrong. */
const SHOWN = 12;

/** Who drives a device, and what it is plugged into. */
function driverFor(
  name: string,
): ((machine: TestContext) => HostileDriver) | undefined {
  if (name.startsWith("ahci")) return hostileAhci;
  if (name === "e1000") return hostileE1000;
  if (name.startsWith("virtio")) return hostileVirtio;
  return undefined;
}

async function machineWith(plugin: Plugin): Promise<TestContext> {
  const machine = new TestContext({
    ram: RAM,
    recordMessages: plugin.name !== "lapic",
  });
  if (plugin.controller !== undefined) {
    machine.addAny(await BUILT_IN[plugin.controller]());
  }
  machine.addAny(plugin);
  for (const instance of machine.instances) instance.start();
  return machine;
}

/** Values that hostile drivers like: places where something is, or where nothing is. */
const HINTS: Hints = {
  accesses: [],
  values: [
    0,
    1,
    0x10_0000,
    RAM - 8,
    RAM,
    0xf000_0000,
    0xfee0_0000,
    0xffff_fff0,
  ],
};

/** Forgets what the test's backends and buses have recorded. */
function forget(machine: TestContext): void {
  machine.messages.length = 0;
  machine.isaEvents.length = 0;
  machine.gsiEvents.length = 0;
  machine.logged.length = 0;
  machine.requests.length = 0;
  machine.cpus[0].calls.length = 0;
  for (const char of machine.chars) char.sent.length = 0;
  for (const block of machine.blocks) block.journal.length = 0;
  for (const net of machine.nets) {
    net.sent.length = 0;
    net.frames.length = 0;
  }
}

/** Whether anything outside RAM was written: the engine's memory lies before it. */
function isOutsideClean({ memory }: TestContext): boolean {
  const before = memory.words.subarray(0, memory.ramBase / 4);
  return before.every((word) => word === 0);
}

/** Does operations on one machine; returns it, stopped. */
async function fuzz(
  plugin: Plugin,
  pool: readonly Operation[],
  seed: number,
  count: number,
): Promise<TestContext> {
  const machine = await machineWith(plugin);
  const choices = new Choices(seed);
  const drive = driverFor(plugin.name)?.(machine);
  const shown: string[] = [];
  const { meter } = machine;
  try {
    for (let i = 0; i < count; i++) {
      meter.restart();
      if (drive !== undefined && choices.once(DRIVER_SHARE)) {
        shown.push("hostile driver");
        drive(choices);
      } else {
        const operation = choices.of(pool);
        shown.push(describe(operation));
        perform(machine, operation);
      }
      if (shown.length > SHOWN) shown.shift();
      if (choices.once(SETTLE)) await machine.settle();
      const { accesses, bytes } = meter;
      if (accesses > MOST_ACCESSES || bytes > MOST_BYTES) {
        throw new Error(
          `${accesses} accesses and ${bytes} bytes for one operation`,
        );
      }
      if (machine.completions.count > MOST_IN_FLIGHT) {
        throw new Error(`${machine.completions.count} requests in flight`);
      }
      forget(machine);
    }
    meter.restart();
    await machine.pause();
    // What it has become, its successor must take.
    for (const instance of machine.instances) instance.restore(instance.save());
  } catch (cause) {
    throw new Error(
      `${plugin.name}: ${
        cause instanceof Error ? cause.message : cause
      }\nafter …\n  ${shown.join("\n  ")}\nmachine seed ${seed}`,
      { cause },
    );
  }
  await machine.stop();
  return machine;
}

const seed = newSeed();
const names = Object.keys(BUILT_IN);

for (const name of names) {
  Deno.test(`${name} stands a hostile guest`, async () => {
    const plugin = await BUILT_IN[name]();
    const share = Math.ceil(OPERATIONS / names.length);
    const probe = await machineWith(plugin);
    let pool: Operation[] = [];
    let last = probe;
    for (let done = 0; done < share; done += PER_MACHINE) {
      if (done % POOL === 0) {
        pool = fc.sample(operations(probe, HINTS, false), {
          seed: seed + done | 0,
          numRuns: Math.min(share, POOL),
        });
      }
      last = await fuzz(
        plugin,
        pool,
        seed + done,
        Math.min(PER_MACHINE, share - done),
      );
    }
    assertEquals(isOutsideClean(last), true, "memory outside RAM was written");
    await probe.stop();
  });
}

for (const name of names.filter((name) => name.startsWith("virtio"))) {
  if (name === "virtio-port") continue;
  Deno.test(`${name} needs a reset after a chain that loops, and works again after one`, async () => {
    const machine = await machineWith(await BUILT_IN[name]());
    const { memory } = machine;
    // Cards and consoles look into a queue for input only when there is some.
    const queue = ["virtio-net", "virtio-console"].includes(name) ? 1 : 0;
    setUpRings(machine, queue + 1);
    const driver = driverOf(machine);
    setUpRings(machine, queue + 1);
    offer(machine, queue, 0, 512);
    // Its only descriptor is followed by itself.
    memory.writeU32(ringAt(queue) + 12, DESC_NEXT | DESC_WRITE);
    notifyQueue(machine, queue);
    await machine.settle();
    assertEquals(driver.status & NEEDS_RESET, NEEDS_RESET);
    memory.write(ringAt(queue), new Uint8Array(0x3000));
    setUpRings(machine, queue + 1);
    notifyQueue(machine, queue);
    assertEquals(driver.status & (NEEDS_RESET | DRIVER_OK), DRIVER_OK);
    await machine.stop();
  });
}
