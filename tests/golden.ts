/**
 * The round-trip test of the repository's own plugins, with the golden snapshots that lie in
 * `testdata/` beside them: one JSON file for each version of a plugin's state.
 *
 * A file is made once, when the version is new, and never again:
 *
 * ```
 * DIAPAUSE_GOLDEN=write deno test -A plugins/legacy/uart_test.ts
 * ```
 *
 * `DIAPAUSE_RUNS=1000` explores further than the usual test does, and `DIAPAUSE_SEED=n` elsewhere.
 *
 * @module
 */
import {
  type GoldenSnapshot,
  goldenSnapshot,
  type Scenario,
  testPlugin,
} from "../core/testing/test_plugin.ts";
import type { Backends, OptionSpec, Plugin } from "../core/plugin.ts";

function numberFrom(name: string): number | undefined {
  const text = Deno.env.get(name);
  return text === undefined ? undefined : Number(text);
}

/**
 * Reads the golden snapshots of a plugin; makes the one of the present version where the
 * environment asks for it.
 *
 * @param plugin The plugin.
 * @param scenario Its scenario.
 * @param beside The test file: `import.meta.url`.
 * @returns One for each version of its state.
 * @throws {Error} When that of a version is missing; the message says how to make it.
 */
export async function goldens<
  S extends Record<string, OptionSpec>,
  T,
  B extends keyof Backends,
>(
  plugin: Plugin<S, T, B>,
  scenario: Scenario<S, B, T>,
  beside: string,
): Promise<GoldenSnapshot[]> {
  const { name, state } = plugin;
  const found: GoldenSnapshot[] = [];
  for (let version = 1; version <= state.version; version++) {
    const file = new URL(`./testdata/${name}.v${version}.json`, beside);
    try {
      found.push(JSON.parse(await Deno.readTextFile(file)));
      continue;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    if (
      version < state.version || Deno.env.get("DIAPAUSE_GOLDEN") !== "write"
    ) {
      throw new Error(
        `${file.pathname} is missing: make it with the plugin as it was at state version ${version}, by DIAPAUSE_GOLDEN=write deno test -A ${
          new URL(beside).pathname
        }`,
      );
    }
    const golden = await goldenSnapshot(plugin, scenario);
    await Deno.mkdir(new URL(".", file), { recursive: true });
    await Deno.writeTextFile(file, `${JSON.stringify(golden, null, 2)}\n`);
    found.push(golden);
  }
  return found;
}

/**
 * Registers the round-trip test of a plugin.
 *
 * @param plugin The plugin.
 * @param scenario What is done with it; golden snapshots are added.
 * @param beside The test file: `import.meta.url`.
 */
export function testRoundTrip<
  S extends Record<string, OptionSpec>,
  T,
  B extends keyof Backends,
>(
  plugin: Plugin<S, T, B>,
  scenario: Scenario<S, B, T>,
  beside: string,
): void {
  Deno.test(`${plugin.name} goes on after a save and restore at any moment`, async () => {
    await testPlugin(plugin, {
      runs: numberFrom("DIAPAUSE_RUNS"),
      seed: numberFrom("DIAPAUSE_SEED"),
      ...scenario,
      golden: await goldens(plugin, scenario, beside),
    });
  });
}
