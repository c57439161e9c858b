// From the names on the command line to plugins: built in, or imported from a path or URL.

import { isAbsolute, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import {
  type DeviceSpec,
  isModuleSpecifier,
  satisfies,
} from "../core/device_spec.ts";
import { didYouMean } from "../core/nearest.ts";
import type { Plugin } from "../core/plugin.ts";
import { BUILT_IN } from "../plugins/mod.ts";
import { CliError, reason, UsageError } from "./errors.ts";

/** What a plugin's default export must have, and of which type. */
const PLUGIN_SHAPE: Readonly<Record<string, string>> = {
  name: "string",
  version: "string",
  summary: "string",
  options: "object",
  state: "object",
  create: "function",
};

/** The specifier to import for a path or URL given by the user. */
function importSpecifier(name: string): string {
  if (isAbsolute(name) || !/^[a-z]+:/.test(name)) {
    return pathToFileURL(resolve(name)).href;
  }
  return name;
}

function requirePlugin(name: string, value: unknown): Plugin {
  const wrong = typeof value !== "object" || value === null
    ? "default"
    : Object.entries(PLUGIN_SHAPE).find(([key, type]) => {
      const actual = typeof (value as Record<string, unknown>)[key];
      return actual !== type;
    })?.[0];
  if (wrong === undefined) return value as Plugin;
  throw new CliError(
    `"${name}" is not a device: its default export must come from definePlugin({…}), but ${
      wrong === "default" ? "there is none" : `"${wrong}" is missing`
    }`,
  );
}

async function load(name: string): Promise<Plugin> {
  if (isModuleSpecifier(name)) {
    let module: { default?: unknown };
    try {
      module = await import(importSpecifier(name));
    } catch (cause) {
      throw new CliError(
        `cannot load device "${name}": ${reason(cause)}`,
        undefined,
        { cause },
      );
    }
    return requirePlugin(name, module.default);
  }
  if (!Object.hasOwn(BUILT_IN, name)) {
    throw new UsageError(
      `unknown device "${name}".${
        didYouMean(name, Object.keys(BUILT_IN))
      } The command "plugins" lists them; a file is named ./${name}.ts`,
    );
  }
  return await BUILT_IN[name]();
}

/**
 * Loads the plugin that a device specification names.
 *
 * @param spec The specification.
 * @returns The plugin.
 * @throws {CliError} If there is none, it cannot be loaded, it is not a plugin, or its version
 * is not the one asked for.
 */
export async function loadPlugin(
  spec: Pick<DeviceSpec, "name" | "version">,
): Promise<Plugin> {
  const plugin = await load(spec.name);
  if (spec.version !== undefined && !satisfies(plugin.version, spec.version)) {
    throw new CliError(
      `device "${spec.name}" is version ${plugin.version}, but ${spec.version} was asked for`,
    );
  }
  return plugin;
}
