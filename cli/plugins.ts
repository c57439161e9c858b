// `plugins [NAME]`: what devices there are, and what one of them takes.

import { Command } from "@cliffy/command";
import { describeOption, formatSize } from "../core/device_options.ts";
import type { OptionSpec, Plugin } from "../core/plugin.ts";
import { BUILT_IN } from "../plugins/mod.ts";
import { allOptions } from "./backends.ts";
import { loadPlugin } from "./devices.ts";

function showDefault(spec: OptionSpec): string {
  const value = spec.default;
  if (value === undefined) return "";
  if (typeof value === "boolean") return ` (default ${value ? "on" : "off"})`;
  return spec.type === "size"
    ? ` (default ${formatSize(value as number)})`
    : ` (default ${value})`;
}

function columns(rows: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(0, ...rows.map(([first]) => first.length));
  return rows.map(([first, second]) => `  ${first.padEnd(width)}  ${second}`);
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
    "Options:",
    ...columns([...options, ["id", "name of this instance: text"]]),
  ].join("\n");
}

async function list(): Promise<string> {
  const plugins = await Promise.all(
    Object.keys(BUILT_IN).map((name) => loadPlugin({ name })),
  );
  plugins.sort((a, b) => a.name < b.name ? -1 : 1);
  return columns(
    plugins.map(({ name, version, summary }) => [
      `${name} ${version}`,
      summary,
    ]),
  ).join("\n");
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
    .action(async (_options, name) => {
      console.log(
        name === undefined
          ? await list()
          : describe(await loadPlugin({ name })),
      );
    });
}
