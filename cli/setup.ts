// From the options of `run` to the parts of a machine. Everything that can be wrong with the
// command line is found here, before any file or terminal is touched.

import { parseSize } from "../core/device_options.ts";
import {
  assignIds,
  type DeviceSpec,
  parseDeviceSpecs,
  requireDistinctIds,
} from "../core/device_spec.ts";
import { MachineError } from "../core/plugin.ts";
import type { Plugin } from "../core/plugin.ts";
import type { PinnedBlock, RemovableBlock } from "../host/block/mod.ts";
import { PLATFORM } from "../plugins/mod.ts";
import { type SortedOptions, sortOptions } from "./backends.ts";
import { absoluteSpecifier, loadPlugin } from "./devices.ts";
import { reason, UsageError } from "./errors.ts";
import { DEFAULT_MEMORY, type RunOptions } from "./run.ts";
import { parseTraceKinds, type TraceKind } from "./trace.ts";

/** One device to make. */
export interface PlannedDevice {
  /** Instance id. */
  id: string;
  /** How it was named: built-in name, path or URL. */
  specifier: string;
  /** Its plugin. */
  plugin: Plugin;
  /** Its options. */
  options: SortedOptions;
  /** The snapshot that it is restored from. */
  restoredFrom?: string;
  /** Its disk, if it is in files, once that is open. */
  image?: PinnedBlock | RemovableBlock;
}

/** What the command line asks for. */
export interface Plan {
  /** Bytes of guest memory. */
  memory: number;
  /** Devices, in the order in which they are made. */
  devices: PlannedDevice[];
  /** What to log. */
  trace: Set<TraceKind>;
}

/** Puts the platform's devices first, each unless the user names it themselves. */
function withPlatform(specs: readonly DeviceSpec[]): DeviceSpec[] {
  const ordered = PLATFORM.flatMap((name): DeviceSpec[] => {
    const named = specs.filter((spec) => spec.name === name);
    return named.length > 0 ? named : [{ name, options: new Map() }];
  });
  const others = specs.filter((spec) => !PLATFORM.includes(spec.name));
  return [...ordered, ...others];
}

/** A device that the user named, or that another needs. */
interface NamedPlugin {
  spec: DeviceSpec;
  plugin: Plugin;
}

/** Puts controllers before what is plugged into them, and adds those that are missing. */
async function withControllers(
  named: readonly NamedPlugin[],
): Promise<NamedPlugin[]> {
  const wanted = new Set(
    named.flatMap(({ plugin: { controller } }) => controller ?? []),
  );
  const controllers = named.filter(({ plugin }) => wanted.has(plugin.name));
  const ordered: NamedPlugin[] = [];
  for (const each of named) {
    const { controller } = each.plugin;
    if (controller !== undefined && wanted.delete(controller)) {
      const given = controllers.filter(({ plugin }) =>
        plugin.name === controller
      );
      const spec = { name: controller, options: new Map() };
      ordered.push(
        ...given.length > 0
          ? given.filter((one) => !ordered.includes(one))
          : [{ spec, plugin: await loadPlugin(spec) }],
      );
    }
    if (!ordered.includes(each)) ordered.push(each);
  }
  return ordered;
}

/** Gives the first console without a backend standard input and output, and others none. */
function chooseConsoles(devices: readonly PlannedDevice[]): void {
  const consoles = devices.filter(({ plugin }) => plugin.backend === "char");
  let taken = consoles.some(({ options }) =>
    options.backend.backend === "stdio"
  );
  for (const { options } of consoles) {
    if (options.backend.backend !== undefined) continue;
    options.backend.backend = taken ? "null" : "stdio";
    taken = true;
  }
}

async function planDevices(texts: readonly string[]): Promise<PlannedDevice[]> {
  const given = texts.flatMap(parseDeviceSpecs);
  requireDistinctIds(given);
  const named: NamedPlugin[] = [];
  for (const spec of withPlatform(given)) {
    named.push({ spec, plugin: await loadPlugin(spec) });
  }
  const all = await withControllers(named);
  const specs = all.map(({ spec }) => spec);
  const plugins = all.map(({ plugin }) => plugin);
  const ids = assignIds(
    specs.map((spec, i) => ({ ...spec, name: plugins[i].name })),
  );
  const devices = specs.map((spec, i) => ({
    id: ids[i],
    specifier: absoluteSpecifier(spec.name),
    plugin: plugins[i],
    options: sortOptions(plugins[i], spec.options),
  }));
  chooseConsoles(devices);
  return devices;
}

/**
 * Checks the options of `run`.
 *
 * @param options The options.
 * @returns What they ask for.
 * @throws {UsageError} If one of them is wrong; the message says what would be right.
 */
export async function plan(options: RunOptions): Promise<Plan> {
  const size = options.mem ?? DEFAULT_MEMORY;
  const memory = parseSize(size);
  if (memory === undefined) {
    throw new UsageError(
      `--mem is "${size}": expected a size such as 512M or 2G`,
    );
  }
  if (options.cpus !== 1) {
    throw new UsageError(
      `--cpus is ${options.cpus}: expected 1, all that this version has`,
    );
  }
  const { maxInstructions, exec, guest } = options;
  if (maxInstructions !== undefined && maxInstructions < 1) {
    throw new UsageError(
      `--max-instructions is ${maxInstructions}: expected a number above 0`,
    );
  }
  if (exec !== undefined && guest === "monitor") {
    throw new UsageError(
      "--exec runs a command in the debian guest: leave out --guest monitor",
    );
  }
  const trace = parseTraceKinds(options.trace ?? []);
  try {
    const devices = options.restore === undefined
      ? await planDevices(options.dev ?? [])
      : [];
    return { memory, devices, trace };
  } catch (error) {
    if (error instanceof MachineError) throw new UsageError(reason(error));
    throw error;
  }
}
