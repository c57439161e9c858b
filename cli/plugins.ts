// `plugins [NAME]`: what devices there are, and what one of them takes and saves.

import { Command } from "@cliffy/command";
import { describeOption, formatSize } from "../core/device_options.ts";
import type { OptionSpec, Plugin } from "../core/plugin.ts";
import { BUILT_IN } from "../plugins/mod.ts";
import { allOptions } from "./backends.ts";
import { loadPlugin } from "./devices.ts";
import { UsageError } from "./errors.ts";
import { columns } from "./text.ts";

function showDefault(spec: OptionSpec): string {
  const value = spec.default;
  if (value === undefined) return "";
  if (typeof value === "boolean") return ` (default ${value ? "on" : "off"})`;
  return spec.type === "size"
    ? ` (default ${formatSize(value as number)})`
    : ` (default ${value})`;
}

/** The states that a plugin reads, in words. */
function statesOf({ state, accepts = {} }: Plugin): string {
  const oldest = Math.min(
    state.version,
    ...Object.keys(state.migrations).map(Number),
  );
  const reads = oldest < state.version ? `, reads from ${oldest} on` : "";
  const others = Object.keys(accepts).map((name) => `, accepts "${name}"`);
  return `"${state.name}" version ${state.version}${reads}${others.join("")}`;
}

function describe(plugin: Plugin): string {
  const options = Object.entries(allOptions(plugin)).map((
    [name, spec],
  ): [string, string] => [
    name,
    `${spec.help}: ${describeOption(spec)}${showDefault(spec)}`,
  ]);
  return [
    `${plugin.name} ${plugin.version}`,
    plugin.summary,
    "",
    ...columns([
      ["State:", statesOf(plugin)],
      ["Backend:", plugin.backend ?? "none"],
    ]).map((line) => line.trimStart()),
    "",
    "Options:",
    ...columns([...options, ["id", "name of this instance: text"]]),
  ].join("\n");
}

/** A plugin as programs read it. */
function asJson(plugin: Plugin): Record<string, unknown> {
  const { name, version, summary, state, backend = null, accepts } = plugin;
  return {
    name,
    version,
    summary,
    state: {
      name: state.name,
      version: state.version,
      migratesFrom: Object.keys(state.migrations).map(Number),
      accepts: Object.keys(accepts ?? {}),
    },
    backend,
    options: allOptions(plugin),
  };
}

async function builtIn(): Promise<Plugin[]> {
  const plugins = await Promise.all(
    Object.keys(BUILT_IN).map((name) => loadPlugin({ name })),
  );
  return plugins.sort((a, b) => a.name < b.name ? -1 : 1);
}

async function list(): Promise<string> {
  return columns(
    (await builtIn()).map(({ name, version, summary }) => [
      `${name} ${version}`,
      summary,
    ]),
  ).join("\n");
}

function print(value: unknown): void {
  console.log(JSON.stringify(value, null, 2));
}

/**
 * Makes the command.
 *
 * @returns The command `plugins`.
 */
export function pluginsCommand() {
  return new Command()
    .description("List the built-in devices, or the options of one device.")
    .arguments("[name:string]")
    .option("--json", "Print JSON.")
    .option("--schema", "Print the JSON Schema of the device's state.")
    .action(async ({ json, schema }, name) => {
      if (name === undefined) {
        if (schema) throw new UsageError("plugins --schema: expected a device");
        if (json) print((await builtIn()).map(asJson));
        else console.log(await list());
        return;
      }
      const plugin = await loadPlugin({ name });
      if (schema) print(plugin.state.jsonSchema());
      else if (json) print(asJson(plugin));
      else console.log(describe(plugin));
    });
}
