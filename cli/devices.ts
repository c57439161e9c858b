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

/**
 * A device's name that means the same from every directory.
 *
 * @param name Built-in name, path or URL.
 * @returns The same, a path being absolute.
 */
export function absoluteSpecifier(name: string): string {
  return isModuleSpecifier(name) && !/^[a-z]+:/.test(name)
    ? resolve(name)
    : name;
}

/**
 * Whether a specifier names code that is not built in and no file of this host. A snapshot may
 * come from anywhere: what it names is not run unless the user names it too.
 *
 * @param specifier The specifier.
 */
export function isForeign(specifier: string): boolean {
  return /^[a-z][a-z+.-]*:/i.test(specifier) &&
    !specifier.toLowerCase().startsWith("file:");
}

/**
 * The specifier to import for a path or URL given by the user. With `fresh`, a file that has
 * changed since it was first imported has another, by its time.
 */
async function importSpecifier(name: string, fresh: boolean): Promise<string> {
  if (!isAbsolute(name) && /^[a-z]+:/.test(name)) return name;
  const url = pathToFileURL(resolve(name));
  if (fresh) {
    const found = await Deno.stat(url).catch(() => undefined);
    if (found?.mtime) url.searchParams.set("changed", `${+found.mtime}`);
  }
  return url.href;
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

async function load(name: string, fresh: boolean): Promise<Plugin> {
  if (isModuleSpecifier(name)) {
    let module: { default?: unknown };
    try {
      module = await import(await importSpecifier(name, fresh));
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
 * @param fresh Whether a file is loaded as it is now, even if it was loaded before.
 * @returns The plugin.
 * @throws {CliError} If there is none, it cannot be loaded, it is not a plugin, or its version
 * is not the one asked for.
 */
export async function loadPlugin(
  spec: Pick<DeviceSpec, "name" | "version">,
  fresh = false,
): Promise<Plugin> {
  const plugin = await load(spec.name, fresh);
  if (spec.version !== undefined && !satisfies(plugin.version, spec.version)) {
    throw new CliError(
      `device "${spec.name}" is version ${plugin.version}, but ${spec.version} was asked for`,
    );
  }
  return plugin;
}
