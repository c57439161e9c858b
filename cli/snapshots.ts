// Snapshot files on the command line: saving a machine, planning one from a file, restoring it.

import { basename, dirname, join, relative, resolve } from "node:path";
import {
  checkManifest,
  type RestoredMachine,
  restoreFile,
  writeMachine,
} from "../core/machine_file.ts";
import type { DeviceSpec } from "../core/device_spec.ts";
import type { Baseline, Machine } from "../core/machine.ts";
import { formatSize, parseOptions, parseSize } from "../core/device_options.ts";
import { adoptState } from "../core/adopt.ts";
import type { OptionValue, Plugin } from "../core/plugin.ts";
import denoConfig from "../deno.json" with { type: "json" };
import {
  openSource,
  type SourceFile,
  writeWhole,
  zstd,
} from "../host/snapshot_file.ts";
import {
  fromManifestOptions,
  SnapshotError,
  SnapshotReader,
} from "../snapshot/container.ts";
import { allOptions, BACKEND_OPTIONS, COMMON_OPTIONS } from "./backends.ts";
import { absoluteSpecifier, isForeign, loadPlugin } from "./devices.ts";
import { CliError, reason } from "./errors.ts";
import { ImagePins, planImage } from "./images.ts";
import { isOwnOption, parseChanges } from "./replacement.ts";
import type { PlannedDevice } from "./setup.ts";

/** A snapshot file that is open. */
export interface OpenSnapshot {
  /** Its content. */
  reader: SnapshotReader;
  /** The file and those that it builds on, as absolute paths. */
  files: string[];
  /** Closes the files. */
  close(): void;
}

/**
 * Opens a snapshot, and those that it builds on, and checks it, pages aside.
 *
 * @param path The file.
 * @returns The snapshot.
 * @throws {CliError} When it cannot be read or is damaged.
 */
export async function openSnapshot(path: string): Promise<OpenSnapshot> {
  const files: string[] = [];
  const sources: SourceFile[] = [];
  const open = async (file: string) => {
    const source = await openSource(file);
    sources.push(source);
    files.push(await Deno.realPath(file));
    return source;
  };
  const close = () => sources.forEach((source) => source.close());
  const openParent = async (relativePath: string) => {
    const file = resolve(dirname(files.at(-1)!), relativePath);
    try {
      return await open(file);
    } catch (error) {
      const what = error instanceof Deno.errors.NotFound
        ? `there is no file "${file}"`
        : `"${file}" cannot be opened: ${reason(error)}`;
      throw new SnapshotError(
        `${what}: put it back, or use a snapshot that builds on none`,
      );
    }
  };
  try {
    const reader = await SnapshotReader.open(await open(path), zstd, {
      openParent,
    });
    return { reader, files, close };
  } catch (cause) {
    close();
    const what = `cannot open the snapshot "${path}"`;
    throw cause instanceof Deno.errors.NotFound
      ? new CliError(`${what}: there is no such file`, undefined, { cause })
      : snapshotFailure(what, cause);
  }
}

function snapshotFailure(what: string, cause: unknown): unknown {
  return cause instanceof Error
    ? new CliError(`${what}: ${reason(cause)}`, undefined, { cause })
    : cause;
}

/** The devices of a snapshot, and what they lack to be restored. */
export interface SnapshotPlan {
  /** Devices, in the order in which they are made. */
  devices: PlannedDevice[];
  /** Everything that is in the way, a line each. */
  blockers: string[];
  /** What the user should know although it is not in the way, a line each. */
  notes: string[];
}

/** What the user changes when a snapshot is restored. */
export interface RestoreChanges {
  /** `--dev ID:key=value`, `NAME@VERSION` and `NAME@PATH`, each as given. */
  dev?: readonly string[];
  /** `--replace ID=SPEC`, each as given. */
  replace?: readonly string[];
  /** `--mem`, which can only be what it was. */
  mem?: string;
  /** `--clock`, likewise. */
  clock?: string;
}

/**
 * Finds the plugins and backends of a snapshot's devices.
 *
 * @param reader The snapshot.
 * @param path Its file.
 * @param changes What is to be other than it was.
 * @returns The devices, and all that is in the way.
 */
export async function planSnapshot(
  reader: SnapshotReader,
  path: string,
  changes: RestoreChanges,
): Promise<SnapshotPlan> {
  const { manifest, components } = reader;
  const devices: PlannedDevice[] = [];
  const blockers: string[] = [];
  const notes: string[] = [];
  const attempt = async <T>(
    what: () => T | Promise<T>,
  ): Promise<T | undefined> => {
    try {
      return await what();
    } catch (error) {
      blockers.push(reason(error));
      return undefined;
    }
  };
  await attempt(() => checkManifest(manifest));
  blockers.push(...otherMachine(manifest, changes));
  const changed = parseChanges(
    changes.dev ?? [],
    changes.replace ?? [],
    manifest.devices,
  );
  blockers.push(...changed.blockers);
  for (const device of manifest.devices) {
    const { id } = device;
    const replaced = changed.replaced.get(id);
    const plugin = await attempt(() => pluginFor(device, replaced));
    if (plugin === undefined) continue;
    const rebound = reboundTo(plugin, changed.rebound.get(id), replaced);
    await attempt(() => {
      const saved = components.find((component) => component.id === id);
      if (saved === undefined) {
        throw new CliError(`device "${id}" has no state in the snapshot`);
      }
      const { schema: { name, version }, state } = saved;
      adoptState(plugin, { name, version, state }, { path: id });
    });
    const own = await attempt(() =>
      ownOptions(id, plugin, fromManifestOptions(device.options), replaced)
    );
    const backend = fromManifestOptions(device.backend ?? []);
    if (rebound !== undefined) {
      await attempt(() => rebind(id, plugin, rebound, backend));
    }
    const isGiven = rebound?.options.has("image") === true;
    // The format is that of the image which it was.
    if (isGiven && !rebound.options.has("format")) delete backend.format;
    await attempt(async () => {
      const note = await planImage(id, device.image, backend, isGiven, path);
      if (note !== undefined) notes.push(note);
    });
    if (own === undefined) continue;
    devices.push({
      id,
      specifier: replaced === undefined
        ? device.specifier
        : absoluteSpecifier(replaced.name),
      plugin,
      options: { own, backend },
      restoredFrom: path,
    });
  }
  return { devices, blockers, notes };
}

/** What the user asks of the machine itself that is not as it was saved. */
function otherMachine(
  { memory, clock }: SnapshotReader["manifest"],
  changes: RestoreChanges,
): string[] {
  const lines: string[] = [];
  if (changes.mem !== undefined && parseSize(changes.mem) !== memory) {
    lines.push(
      `--mem is ${changes.mem}, but the snapshot is of a machine with ${
        formatSize(memory)
      }: leave it out`,
    );
  }
  if (changes.clock !== undefined && changes.clock !== clock) {
    lines.push(
      `--clock is ${changes.clock}, but the snapshot is of a machine with the clock ${
        JSON.stringify(clock)
      }: leave it out`,
    );
  }
  return lines;
}

type ManifestDevice = SnapshotReader["manifest"]["devices"][number];

/** Loads the plugin of a device, or the one that is to replace it. */
async function pluginFor(
  { id, plugin: name, specifier }: ManifestDevice,
  replaced: DeviceSpec | undefined,
): Promise<Plugin> {
  try {
    if (replaced === undefined && isForeign(specifier)) {
      throw new CliError(
        `the snapshot names the code "${specifier}", which is not of this host: if you trust it, say --replace ${id}=SPEC`,
      );
    }
    const plugin = await loadPlugin(replaced ?? { name: specifier });
    if (replaced !== undefined || plugin.name === name) return plugin;
    throw new CliError(
      `"${specifier}" is the plugin "${plugin.name}": expected "${name}"`,
    );
  } catch (error) {
    throw new CliError(`device "${id}": ${reason(error)}`);
  }
}

/** The options of a device: those of the snapshot, as far as its plugin knows them, and those of `--replace`. */
function ownOptions(
  id: string,
  plugin: Plugin,
  saved: Record<string, OptionValue>,
  replaced: DeviceSpec | undefined,
): Record<string, OptionValue> {
  if (replaced === undefined) return saved;
  const known = { ...COMMON_OPTIONS, ...plugin.options };
  const kept = Object.entries(saved).filter(([name]) =>
    Object.hasOwn(known, name)
  );
  const given = Object.entries(
    parseOptions(id, allOptions(plugin), replaced.options),
  ).filter(([name]) => replaced.options.has(name) && isOwnOption(plugin, name));
  return Object.fromEntries([...kept, ...given]);
}

/** What a device is to be connected to: `--dev`, and before it what `--replace` says of it. */
function reboundTo(
  plugin: Plugin,
  rebound: DeviceSpec | undefined,
  replaced: DeviceSpec | undefined,
): DeviceSpec | undefined {
  const known = plugin.backend ? BACKEND_OPTIONS[plugin.backend] : {};
  const given = [...replaced?.options ?? []].filter(([name]) =>
    Object.hasOwn(known, name)
  );
  if (given.length === 0) return rebound;
  const options = new Map([...given, ...rebound?.options ?? []]);
  return { name: plugin.name, options };
}

/** Changes what a device is connected to. */
function rebind(
  id: string,
  plugin: Plugin,
  change: DeviceSpec,
  backend: Record<string, OptionValue>,
): void {
  const known = plugin.backend ? BACKEND_OPTIONS[plugin.backend] : {};
  const given = parseOptions(id, allOptions(plugin), change.options);
  for (const [name, value] of Object.entries(given)) {
    if (!change.options.has(name)) continue;
    if (!Object.hasOwn(known, name)) {
      throw new CliError(
        `option "${name}" of device "${id}" belongs to its state: a restored device can be given ${
          Object.keys(known).join(", ") || "none"
        }`,
      );
    }
    backend[name] = value;
  }
}

/** How {@linkcode restoreSnapshot} restores. */
export interface RestoreChoice {
  /** Lets the guest run at once; the file stays open until everything is loaded. */
  lazy?: boolean;
  /** Told the blocks of memory that are read, and all of them. */
  onProgress?: (done: number, total: number) => void;
}

/**
 * Restores a snapshot into a new machine.
 *
 * @param machine The machine, made from its manifest.
 * @param reader The snapshot.
 * @param path The file.
 * @param choice How.
 * @returns When the file is not needed any more.
 * @throws {CliError} When it does not fit.
 */
export async function restoreSnapshot(
  machine: Machine,
  reader: SnapshotReader,
  path: string,
  choice: RestoreChoice = {},
): Promise<RestoredMachine> {
  try {
    const name = await Deno.realPath(path);
    return await restoreFile(machine, reader, { ...choice, name });
  } catch (cause) {
    throw snapshotFailure(`cannot restore "${path}"`, cause);
  }
}

/** How {@linkcode saveSnapshot} saves. */
export interface SaveChoice {
  /** Leaves out the pages that are as in the last snapshot, on which the new one then builds. */
  incremental?: boolean;
  /** Told when the machine runs on, with the milliseconds that this took. */
  onTaken?: (pause: number) => void;
  /** Told the pages that are done, and all of them. */
  onProgress?: (done: number, total: number) => void;
}

/** The path of what a new snapshot builds on, from its folder, after checking that it is there and stays there. */
async function pathToParent(
  baseline: Baseline,
  target: string,
): Promise<string> {
  const { reader, files, close } = await openSnapshot(baseline.name);
  close();
  if (reader.hash !== baseline.hash) {
    throw new CliError(
      `"${baseline.name}", the last snapshot, has changed since: take a full one`,
    );
  }
  if (files.includes(target)) {
    throw new CliError(
      `it would build on "${target}" and replace it: give it another name`,
    );
  }
  return relative(dirname(target), baseline.name);
}

async function realFolder(path: string): Promise<string> {
  try {
    return await Deno.realPath(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new CliError(`there is no folder "${path}": make it first`);
  }
}

/**
 * Saves a machine to a file; a machine that runs stands still only while its state is taken.
 *
 * @param machine The machine.
 * @param devices Its devices.
 * @param path The file.
 * @param choice How.
 * @throws {CliError} When it cannot be written.
 */
export async function saveSnapshot(
  machine: Machine,
  devices: readonly PlannedDevice[],
  path: string,
  choice: SaveChoice = {},
): Promise<void> {
  let pins: ImagePins | undefined;
  const { incremental, onTaken, onProgress } = choice;
  try {
    const folder = await realFolder(dirname(resolve(path)));
    const target = join(folder, basename(path));
    const images = pins = new ImagePins(devices, machine.contents, target);
    await writeMachine(machine, {
      file: (write) => writeWhole(target, write),
      name: target,
      parent: incremental
        ? (baseline) => pathToParent(baseline, target)
        : undefined,
      codec: zstd,
      producer: `diapause ${denoConfig.version}`,
      backends: images.backends,
      pinImages: () => images.take(),
      onTaken,
      onProgress,
    });
  } catch (cause) {
    await pins?.cancel();
    throw snapshotFailure(`cannot save to "${path}"`, cause);
  }
}
