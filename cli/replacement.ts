// Another plugin, or another version, in the place of a device: what a running machine and a
// restored one are asked for.

import { parseOptions } from "../core/device_options.ts";
import {
  type DeviceSpec,
  isModuleSpecifier,
  parseDeviceSpecs,
} from "../core/device_spec.ts";
import type { OptionValue, Plugin } from "../core/plugin.ts";
import { allOptions, BACKEND_OPTIONS } from "./backends.ts";
import { loadPlugin } from "./devices.ts";
import { CliError, reason } from "./errors.ts";

/** A plugin for the place of a device. */
export interface Replacement {
  /** How it was named. */
  specifier: string;
  /** The plugin. */
  plugin: Plugin;
  /** Options that are to be others than before. */
  changed: Record<string, OptionValue>;
}

/**
 * Loads what is to replace a device of a running machine. A file is loaded as it is now, even if
 * it was loaded before.
 *
 * @param device The device.
 * @param spec What is to replace it.
 * @returns The plugin and the options that were given.
 * @throws {CliError} When it cannot be loaded, or has another kind of backend.
 * @throws {MachineError} When an option is wrong.
 */
export async function planReplacement(
  device: { id: string },
  spec: DeviceSpec,
): Promise<Replacement> {
  const { id } = device;
  const plugin = await loadPlugin(spec, true);
  const typed = parseOptions(id, allOptions(plugin), spec.options);
  for (const name of spec.options.keys()) {
    if (!isOwnOption(plugin, name)) {
      throw new CliError(
        `option "${name}" of device "${id}" stays: a device that is replaced keeps its place and what it is connected to`,
      );
    }
  }
  return {
    specifier: spec.name,
    plugin,
    changed: Object.fromEntries(
      Object.entries(typed).filter(([name]) => spec.options.has(name)),
    ),
  };
}

/**
 * Whether an option is the device's own, not of its backend nor of its place.
 *
 * @param plugin The device's plugin.
 * @param name The option.
 */
export function isOwnOption(plugin: Plugin, name: string): boolean {
  const backend = plugin.backend ? BACKEND_OPTIONS[plugin.backend] : {};
  return Object.hasOwn(plugin.options, name) && !Object.hasOwn(backend, name);
}

/** What the user changes of the devices of a snapshot. */
export interface Changes {
  /** By id: options of its backend. */
  rebound: Map<string, DeviceSpec>;
  /** By id: what is to replace it. */
  replaced: Map<string, DeviceSpec>;
  /** What is wrong with the changes, a line each. */
  blockers: string[];
}

/** `NAME@PATH`: a plugin's name, and what is to replace it. */
const NAMED_MODULE = /^([A-Za-z][A-Za-z0-9_-]*)@(.+)$/s;

/**
 * Takes `--dev` and `--replace` of a restore apart.
 *
 * @param dev `ID:key=value`, `NAME@VERSION` or `NAME@PATH`, each as given.
 * @param replace `ID=SPEC`, each as given.
 * @param devices The devices of the snapshot.
 * @returns The changes, by device.
 */
export function parseChanges(
  dev: readonly string[],
  replace: readonly string[],
  devices: readonly { id: string; plugin: string }[],
): Changes {
  const changes: Changes = {
    rebound: new Map(),
    replaced: new Map(),
    blockers: [],
  };
  const { rebound, replaced, blockers } = changes;
  const attempt = (what: () => void) => {
    try {
      what();
    } catch (error) {
      blockers.push(reason(error));
    }
  };
  const ids = devices.map(({ id }) => id);
  const put = (id: string, spec: DeviceSpec) => {
    if (replaced.has(id)) {
      throw new CliError(
        `device "${id}" is to be replaced twice: say it once`,
      );
    }
    replaced.set(id, spec);
  };
  for (const text of replace) {
    attempt(() => {
      const at = text.indexOf("=");
      const id = text.slice(0, Math.max(at, 0));
      if (at < 0 || !ids.includes(id)) {
        throw new CliError(
          `--replace "${text}": expected ID=SPEC with one of the snapshot's devices ${
            ids.join(", ")
          }`,
        );
      }
      const [spec, ...more] = parseDeviceSpecs(text.slice(at + 1));
      if (more.length > 0 || spec.id !== undefined) {
        throw new CliError(
          `--replace "${text}": expected one device, without an id`,
        );
      }
      put(id, spec);
    });
  }
  for (const text of dev) {
    attempt(() => {
      for (const spec of parseDeviceSpecs(text)) {
        const { name } = spec;
        if (ids.includes(name)) {
          if (spec.version !== undefined) {
            throw new CliError(
              `--dev "${text}": a version goes with a plugin's name, not with the id "${name}": write --replace ${name}=PLUGIN@${spec.version}`,
            );
          }
          rebound.set(name, spec);
          continue;
        }
        const module = NAMED_MODULE.exec(name);
        const plugin = module === null ? name : module[1];
        const named = devices.filter((device) => device.plugin === plugin);
        const isChange = module !== null || spec.version !== undefined;
        if (named.length === 0 || !isChange || isModuleSpecifier(plugin)) {
          throw new CliError(
            `--dev "${text}": expected ID:key=value, NAME@VERSION or NAME@PATH of one of the snapshot's devices ${
              devices.map(({ id, plugin }) => `${id} (${plugin})`).join(", ")
            }`,
          );
        }
        const by = module === null ? spec : {
          ...spec,
          name: module[2],
        };
        for (const { id } of named) put(id, by);
      }
    });
  }
  return changes;
}
