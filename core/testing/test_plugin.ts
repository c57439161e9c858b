/**
 * The round-trip test of a plugin, for the author's own `deno test` (DESIGN.md section 6,
 * "Continuation equivalence"): a device that is saved at any step and restored into a new machine
 * goes on as the one that was saved.
 *
 * @module
 */
import { toJson } from "../../snapshot/schema.ts";
import type { Backends, OptionSpec, Plugin } from "../plugin.ts";
import {
  createTestContext,
  type TestContext,
  type TestContextOptions,
} from "./context.ts";

/** One step of a guest, or of time: what it returns must be equal in the copy. */
export type ScenarioStep = (machine: TestContext) => unknown;

/** What is done with the device. */
export interface Scenario<
  S extends Record<string, OptionSpec>,
  B extends keyof Backends,
> {
  /** How each machine is made; called once for each, so that backends are not shared. */
  make?: () => TestContextOptions<S, B>;
  /** The steps; the device is saved before, between and after them, each in turn. */
  steps: readonly ScenarioStep[];
  /** States of older versions, which must migrate: version, and the state as it was saved. */
  golden?: readonly { version: number; state: unknown }[];
}

/** What a plugin did differently after a restore. Its message names the step. */
export class RoundTripError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "RoundTripError";
}

/** Everything that a guest has seen of a device so far. */
function observed(machine: TestContext) {
  const { messages, isaEvents, gsiEvents, requests } = machine;
  return { messages, isaEvents, gsiEvents, requests };
}

function forget(machine: TestContext): void {
  for (const events of Object.values(observed(machine))) events.length = 0;
}

function text(value: unknown): string {
  return JSON.stringify(toJson(value)) ?? "undefined";
}

/** Places where two values in JSON form differ; the first is enough. */
function compare(what: string, original: unknown, copy: unknown): void {
  const [one, other] = [text(original), text(copy)];
  if (one === other) return;
  let at = 0;
  while (one[at] === other[at]) at++;
  const near = (all: string) => all.slice(Math.max(0, at - 40), at + 40);
  throw new RoundTripError(
    `${what}: the restored device has …${near(other)}…: expected …${
      near(one)
    }…, as the saved one`,
  );
}

function equalBytes(a: Uint32Array, b: Uint32Array): boolean {
  return a.every((word, i) => word === b[i]);
}

/**
 * Tests that a plugin's state is whole: saves at every step boundary in turn, restores into a new
 * machine, goes on in both, and compares replies, interrupts, requests, memory and final state;
 * that saving changes nothing; and that older states migrate.
 *
 * @param plugin The plugin.
 * @param scenario What is done with it.
 * @throws {RoundTripError} Where the restored device differs.
 * @throws {SchemaError} When a state does not fit the plugin's schema, or does not migrate.
 * @example
 * ```ts ignore
 * Deno.test("blinker survives a save at any moment", () =>
 *   testPlugin(blinker, {
 *     steps: [
 *       (machine) => machine.out(0x500, 3),
 *       (machine) => machine.advance(1000),
 *       (machine) => machine.in(0x500),
 *     ],
 *   }));
 * ```
 */
export async function testPlugin<
  S extends Record<string, OptionSpec>,
  T,
  B extends keyof Backends = keyof Backends,
>(plugin: Plugin<S, T, B>, scenario: Scenario<S, B>): Promise<void> {
  const { steps, golden = [] } = scenario;
  const make = () => createTestContext(plugin, scenario.make?.() ?? {});
  const perform = async (machine: TestContext, step: ScenarioStep) => {
    const reply = await step(machine);
    await machine.settle();
    return reply;
  };
  for (let moment = 0; moment <= steps.length; moment++) {
    const original = make();
    for (const step of steps.slice(0, moment)) {
      await perform(original.machine, step);
    }
    const where = `${plugin.name}, saved after step ${moment}`;
    await original.instance.pause();
    const saved = original.save();
    compare(`${where}: a second save`, saved, original.save());
    const copy = make();
    const from = original.machine;
    const to = copy.machine;
    to.memory.bytes.set(
      from.memory.bytes.subarray(from.memory.ramBase),
      to.memory.ramBase,
    );
    to.clock.restore(from.clock.save());
    to.interrupts.quietly(() => {
      to.interrupts.restore(from.interrupts.save());
      to.pci.restore(from.pci.save());
      copy.restore(saved);
    });
    compare(`${where}: the state`, saved, copy.save());
    original.instance.resume();
    copy.instance.start();
    forget(from);
    forget(to);
    for (const [i, step] of steps.slice(moment).entries()) {
      const at = `${where}, in step ${moment + i + 1}`;
      const reply = await perform(from, step);
      compare(`${at}: the reply`, reply, await perform(to, step));
      compare(`${at}: interrupts`, observed(from), observed(to));
    }
    compare(`${where}: the final state`, original.save(), copy.save());
    compare(`${where}: the bus`, from.pci.save(), to.pci.save());
    const ram = (machine: TestContext) =>
      machine.memory.words.subarray(machine.memory.ramBase / 4);
    if (!equalBytes(ram(from), ram(to))) {
      throw new RoundTripError(`${where}: memory differs: DMA was not equal`);
    }
  }
  for (const { version, state } of golden) make().restore(state, version);
}
