import { assertEquals } from "@std/assert";
import { Clock, type ClockMode } from "./clock.ts";
import { Completions } from "./completions.ts";
import type { PluginError } from "./fault.ts";

const owner = { id: "disk0", plugin: "disk" };

function made(mode: ClockMode) {
  const faults: PluginError[] = [];
  const fault = (error: PluginError) => void faults.push(error);
  const clock = new Clock({ mode }, fault);
  const events: string[] = [];
  const completions = new Completions(clock, fault);
  const add = (name: string, promise: Promise<unknown>) =>
    completions.add(
      owner,
      promise,
      () => events.push(name),
      (error) => events.push(`${name}: ${error.message}`),
    );
  return { completions, events, faults, add };
}

/** Lets settled promises call back. */
async function microtasks(): Promise<void> {
  for (let i = 0; i < 10; i++) await Promise.resolve();
}

Deno.test("Completions delivers results between slices, as they come, in real time", async () => {
  const { completions, events, add } = made("realtime");
  let ready = 0;
  completions.onReady = () => ready++;
  const slow = Promise.withResolvers<void>();
  add("slow", slow.promise);
  add("fast", Promise.resolve());
  add("bad", Promise.reject(new Error("no medium")));
  await microtasks();
  assertEquals([ready, events, completions.count], [2, [], 3]);
  completions.run();
  assertEquals(events, ["fast", "bad: no medium"]);
  assertEquals(completions.awaited(), undefined);
  slow.resolve();
  await microtasks();
  completions.run();
  assertEquals([events[2], completions.count], ["slow", 0]);
});

Deno.test("Completions delivers before instruction time goes on, in the order of beginning", async () => {
  const { completions, events, add } = made("instructions");
  let awaitedCalls = 0;
  completions.onAwaited = () => awaitedCalls++;
  assertEquals(completions.holdsGuest, false);
  const slow = Promise.withResolvers<void>();
  add("slow", slow.promise);
  add("fast", Promise.resolve());
  assertEquals([awaitedCalls, completions.holdsGuest], [2, true]);
  await microtasks();
  completions.run();
  assertEquals(events, []);
  const awaited = completions.awaited();
  slow.resolve();
  await awaited;
  completions.run();
  assertEquals(events, ["slow", "fast"]);
  assertEquals(completions.awaited(), undefined);
});

Deno.test("Completions.drain finishes work that a delivery begins", async () => {
  const { completions, events, add } = made("instructions");
  completions.add(
    owner,
    Promise.resolve(),
    () => add("second", Promise.resolve()),
    () => {},
  );
  await completions.drain();
  assertEquals([events, completions.count], [["second"], 0]);
});

Deno.test("Completions names the device that throws when it takes a result", async () => {
  const { completions, faults } = made("realtime");
  completions.add(owner, Promise.resolve(), () => {
    throw new Error("lost");
  }, () => {});
  await completions.drain();
  assertEquals(
    faults[0].message,
    'plugin "disk", instance "disk0", failed in the completion of host work: Error: lost',
  );
});
