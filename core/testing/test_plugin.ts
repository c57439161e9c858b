/**
 * The round-trip test of a plugin, for the author's own `deno test` (DESIGN.md section 6,
 * "Continuation equivalence"): a device that is saved at any moment and restored into a new
 * machine goes on as the one that was saved; states of older versions are read; hostile ones do no
 * harm.
 *
 * @module
 */
import type { AnyPlugin, InstanceOptions } from "../instance.ts";
import type { Backends, OptionSpec, Plugin } from "../plugin.ts";
import { TestContext, type TestContextOptions } from "./context.ts";
import { continueGolden, type GoldenSnapshot, takeGolden } from "./golden.ts";
import {
  compare,
  RoundTripError,
  type ScenarioStep,
  Subject,
} from "./subject.ts";

export { RoundTripError, type ScenarioStep };
export type { GoldenComponent, GoldenSnapshot } from "./golden.ts";

/** Guest memory of a machine of which the scenario says nothing: little, since it is copied and compared often. */
const DEFAULT_RAM = 2 << 20;
/** Random sequences of a test that says nothing. */
const DEFAULT_RUNS = 30;
/** The seed of a test that says nothing: every run is the same. */
const DEFAULT_SEED = 0x5eed;

/** A device that the one under test needs in its machine: a controller, for example. */
export interface Companion extends Partial<InstanceOptions> {
  /** Its plugin. */
  plugin: AnyPlugin;
}

/** What is done with the device. */
export interface Scenario<
  S extends Record<string, OptionSpec> = Record<string, OptionSpec>,
  B extends keyof Backends = keyof Backends,
  T = unknown,
> {
  /**
   * How each machine is made; called once for each, so that backends are not shared. Without a backend the device gets
   * `machine.char` or `machine.block`, which every sequence then drives too. 2 MiB of RAM when absent.
   */
  make?: () => TestContextOptions<S, B>;
  /** Devices that must be there before it, new ones at each call. */
  beside?: () => readonly Companion[];
  /**
   * The steps; the device is saved before, between and after them, each in turn. A step keeps what it must remember in
   * guest memory: the next one may run in another machine.
   */
  steps: readonly ScenarioStep[];
  /**
   * States of older versions, which must be read: what {@linkcode goldenSnapshot} made, after which the scenario goes
   * on, or a version and the state as it was saved.
   */
  golden?: readonly (
    | GoldenSnapshot
    | { version: number; state: unknown }
  )[];
  /**
   * Throws when the guest could not have brought the device into a state: checked where the guest did, and where a
   * hostile state was accepted.
   */
  invariant?: (state: T) => void;
  /** Random sequences of operations; 30 when absent. 0 leaves random and hostile runs out. */
  runs?: number;
  /** Where randomness begins; always the same when absent. */
  seed?: number;
}

/** Makes machines with the device. */
function maker<
  S extends Record<string, OptionSpec>,
  T,
  B extends keyof Backends,
>(plugin: Plugin<S, T, B>, scenario: Scenario<S, B, T>): () => TestContext {
  return () => {
    const given = scenario.make?.() ?? {};
    const { options: _, backend: __, id: ___, ...surroundings } = given;
    const machine = new TestContext({ ram: DEFAULT_RAM, ...surroundings });
    for (const { plugin, ...made } of scenario.beside?.() ?? []) {
      machine.addAny(plugin, made);
    }
    machine.add(plugin, given);
    return machine;
  };
}

/** Saves at every boundary of the steps in turn, and compares what follows. */
async function everyBoundary(
  name: string,
  make: () => TestContext,
  steps: readonly ScenarioStep[],
  invariant: (state: unknown) => void,
): Promise<void> {
  // The same without a pause: nothing that went to a backend may be lost or done twice for it.
  const reference = new Subject(make(), steps);
  reference.start();
  while (reference.done < steps.length) await reference.step();
  await reference.machine.pause();
  const isDisturbed = reference.backends.some((each) => each.isDisturbed);
  const output = reference.output;
  await reference.machine.stop();
  for (let moment = 0; moment <= steps.length; moment++) {
    const where = `${name}, saved after step ${moment}`;
    const original = new Subject(make(), steps);
    original.start();
    while (original.done < moment) await original.step();
    const isQuiet = original.backends.every((each) => each.isQuiet);
    await original.machine.pause();
    invariant(original.device.save());
    const copy = original.transplant(make, where);
    while (original.done < steps.length) {
      const at = `${where}, in step ${original.done + 1}`;
      const reply = await original.step();
      compare(`${at}: the reply`, reply, await copy.step());
      compare(`${at}: output`, original.observed(), copy.observed());
    }
    await original.compareEnd(copy, where);
    if (isQuiet || !isDisturbed) {
      compare(
        `${where}: what went to backends in all`,
        output,
        original.output,
        ["the device that was paused", "one that was not"],
      );
    }
    await original.machine.stop();
    await copy.machine.stop();
  }
}

/**
 * Tests that a plugin's state is whole, by
 *
 * - the scenario, saved at every step boundary in turn, restored into a new machine, and continued in both: replies,
 *   interrupts, DMA, backend output and the final state must be equal, saving must change nothing, and the state must
 *   fit the schema and survive MessagePack and JSON;
 * - random sequences of accesses to whatever the device has claimed, backend events, time, and the scenario's steps,
 *   likewise;
 * - golden snapshots of older versions, from which the scenario goes on;
 * - hostile states, every field changed: each must be refused with an error that names the field, or leave a device
 *   that works.
 *
 * @param plugin The plugin.
 * @param scenario What is done with it.
 * @throws {RoundTripError} Where the restored device differs, with the shortest sequence that was found, and the seed.
 * @throws {SchemaError} When a state does not fit the plugin's schema, or does not migrate.
 * @throws {PluginError} When the device throws.
 * @example
 * ```ts
 * import { definePlugin } from "../plugin.ts";
 * import { schema, u8 } from "../../snapshot/schema.ts";
 * import { testPlugin } from "./test_plugin.ts";
 *
 * const scratch = definePlugin({
 *   name: "scratch",
 *   version: "1.0.0",
 *   summary: "one byte at port 0x500",
 *   options: {},
 *   state: schema("scratch", 1, { value: u8() }),
 *   create(ctx) {
 *     let value = 0;
 *     ctx.isa.claimPorts(0x500, 1, { read: () => value, write: (_port, _size, v) => void (value = v) });
 *     ctx.snapshot.register({ save: () => ({ value }), restore: (state) => void (value = state.value) });
 *     return { reset: () => void (value = 0) };
 *   },
 * });
 * await testPlugin(scratch, {
 *   steps: [
 *     (machine) => machine.out(0x500, 3),
 *     (machine) => machine.in(0x500),
 *   ],
 * });
 * ```
 */
export async function testPlugin<
  S extends Record<string, OptionSpec>,
  T,
  B extends keyof Backends = keyof Backends,
>(plugin: Plugin<S, T, B>, scenario: Scenario<S, B, T>): Promise<void> {
  const { steps, golden = [], runs = DEFAULT_RUNS } = scenario;
  const make = maker(plugin, scenario);
  const invariant = (state: unknown) => scenario.invariant?.(state as T);
  await everyBoundary(plugin.name, make, steps, invariant);
  for (const each of golden) {
    const subject = new Subject(make(), steps);
    if ("components" in each) await continueGolden(subject, each);
    else {
      subject.device.restore(each.state, each.version);
      subject.start();
      while (subject.done < steps.length) await subject.step();
    }
    await subject.machine.stop();
  }
  if (runs === 0) return;
  // fast-check is loaded by tests only, not by a machine that runs.
  const { explore } = await import("./explore.ts");
  await explore({
    name: plugin.name,
    make,
    steps,
    runs,
    seed: scenario.seed ?? DEFAULT_SEED,
    invariant,
  });
}

/**
 * Makes a golden snapshot of a plugin's present state version, to be kept in a JSON file: give it to
 * {@linkcode testPlugin} from then on.
 *
 * @param plugin The plugin.
 * @param scenario The scenario of its test; it stays as it is for as long as the snapshot is kept.
 * @param after Steps that are done before; half of them when absent.
 * @returns What `JSON.stringify` can take.
 */
export function goldenSnapshot<
  S extends Record<string, OptionSpec>,
  T,
  B extends keyof Backends = keyof Backends,
>(
  plugin: Plugin<S, T, B>,
  scenario: Scenario<S, B, T>,
  after: number = Math.ceil(scenario.steps.length / 2),
): Promise<GoldenSnapshot> {
  const subject = new Subject(maker(plugin, scenario)(), scenario.steps);
  subject.start();
  return takeGolden(subject, after);
}
