// Snapshot files on the command line: saving a machine, planning one from a file, restoring it.

import {
  checkManifest,
  restoreFile,
  writeMachine,
} from "../core/machine_file.ts";
import type { DeviceSpec } from "../core/device_spec.ts";
import { parseDeviceSpecs } from "../core/device_spec.ts";
import type { Machine } from "../core/machine.ts";
import { parseOptions } from "../core/device_options.ts";
import type { OptionValue } from "../core/plugin.ts";
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
import { SchemaError } from "../snapshot/schema.ts";
import { allOptions, BACKEND_OPTIONS } from "./backends.ts";
import { loadPlugin } from "./devices.ts";
import { CliError, reason } from "./errors.ts";
import type { PlannedDevice } from "./setup.ts";

/** A snapshot file that is open. */
export interface OpenSnapshot {
  /** Its content. */
  reader: SnapshotReader;
  /** Closes the file. */
  close(): void;
}

/**
 * Opens a snapshot and checks it, pages aside.
 *
 * @param path The file.
 * @returns The snapshot.
 * @throws {CliError} When it cannot be read or is damaged.
 */
export async function openSnapshot(path: string): Promise<OpenSnapshot> {
  let file: SourceFile | undefined;
  try {
    const source = await openSource(path);
    file = source;
    const reader = await SnapshotReader.open(source, zstd);
    return { reader, close: () => source.close() };
  } catch (cause) {
    file?.close();
    throw snapshotFailure(`cannot open the snapshot "${path}"`, cause);
  }
}

function snapshotFailure(what: string, cause: unknown): unknown {
  const isOurs = cause instanceof SnapshotError ||
    cause instanceof SchemaError ||
    cause instanceof Deno.errors.NotFound || cause instanceof Error;
  return isOurs
    ? new CliError(`${what}: ${reason(cause)}`, undefined, { cause })
    : cause;
}

/** What the user changes of a device: `--dev ID:key=value`. */
function rebindings(texts: readonly string[]): Map<string, DeviceSpec> {
  return new Map(
    texts.flatMap(parseDeviceSpecs).map((spec) => [spec.name, spec]),
  );
}

/** The devices of a snapshot, and what they lack to be restored. */
export interface SnapshotPlan {
  /** Devices, in the order in which they are made. */
  devices: PlannedDevice[];
  /** Everything that is in the way, a line each. */
  blockers: string[];
}

/**
 * Finds the plugins and backends of a snapshot's devices.
 *
 * @param reader The snapshot.
 * @param changes `--dev ID:key=value`, each as given: options of backends.
 * @returns The devices, and all that is in the way.
 */
export async function planSnapshot(
  reader: SnapshotReader,
  changes: readonly string[],
): Promise<SnapshotPlan> {
  const { manifest, components } = reader;
  const devices: PlannedDevice[] = [];
  const blockers: string[] = [];
  const attempt = async (what: () => void | Promise<void>) => {
    try {
      await what();
    } catch (error) {
      blockers.push(reason(error));
    }
  };
  await attempt(() => void checkManifest(manifest));
  let rebound = new Map<string, DeviceSpec>();
  await attempt(() => void (rebound = rebindings(changes)));
  for (const device of manifest.devices) {
    const { id, specifier } = device;
    const change = rebound.get(id);
    rebound.delete(id);
    await attempt(async () => {
      const plugin = await loadPlugin({ name: specifier });
      if (plugin.name !== device.plugin) {
        throw new CliError(
          `device "${id}": "${specifier}" is the plugin "${plugin.name}": expected "${device.plugin}"`,
        );
      }
      const saved = components.find((component) => component.id === id);
      if (saved === undefined) {
        throw new CliError(`device "${id}" has no state in the snapshot`);
      }
      if (saved.schema.version > plugin.state.version) {
        throw new CliError(
          `device "${id}" was saved with version ${saved.schema.version} of the schema "${saved.schema.name}", and this build reads up to version ${plugin.state.version}: use a newer build`,
        );
      }
      plugin.state.migrate(saved.state, saved.schema.version, { path: id });
      const backend = fromManifestOptions(device.backend ?? []);
      if (change !== undefined) {
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
      if (typeof backend.image === "string") {
        await Deno.stat(backend.image).catch((error) => {
          throw new CliError(
            `device "${id}": image "${backend.image}": ${
              reason(error)
            }: give another with --dev ${id}:image=PATH`,
          );
        });
      }
      devices.push({
        id,
        specifier,
        plugin,
        options: { own: fromManifestOptions(device.options), backend },
      });
    });
  }
  for (const id of rebound.keys()) {
    blockers.push(
      `--dev "${id}": the snapshot has no such device: it has ${
        manifest.devices.map((d) => d.id).join(", ")
      }`,
    );
  }
  return { devices, blockers };
}

/**
 * Restores a snapshot into a new machine.
 *
 * @param machine The machine, made from its manifest.
 * @param reader The snapshot.
 * @param path The file, for messages.
 * @throws {CliError} When it does not fit.
 */
export async function restoreSnapshot(
  machine: Machine,
  reader: SnapshotReader,
  path: string,
): Promise<void> {
  try {
    await restoreFile(machine, reader);
  } catch (cause) {
    throw snapshotFailure(`cannot restore "${path}"`, cause);
  }
}

/**
 * What keeps devices out of a snapshot.
 *
 * @param devices The devices.
 * @returns A line each; none when a snapshot can be taken.
 */
export function saveBlockers(devices: readonly PlannedDevice[]): string[] {
  return devices.flatMap(({ id, plugin, options }) =>
    plugin.backend === "block" && options.backend.image === undefined
      ? [
        `device "${id}" has a scratch disk in memory, which no snapshot holds: give it image=PATH`,
      ]
      : []
  );
}

/**
 * Saves a machine to a file; pauses it meanwhile.
 *
 * @param machine The machine.
 * @param devices Its devices.
 * @param path The file.
 * @throws {CliError} When it cannot be written.
 */
export async function saveSnapshot(
  machine: Machine,
  devices: readonly PlannedDevice[],
  path: string,
): Promise<void> {
  const wasPaused = machine.paused;
  await machine.pause();
  try {
    const backends = new Map<string, Record<string, OptionValue>>(
      devices.flatMap(({ id, plugin, options }) =>
        plugin.backend === undefined ? [] : [[id, options.backend]]
      ),
    );
    await writeWhole(path, (sink) =>
      writeMachine(machine, {
        sink,
        codec: zstd,
        producer: `diapause ${denoConfig.version}`,
        backends,
      }));
  } catch (cause) {
    throw snapshotFailure(`cannot save to "${path}"`, cause);
  } finally {
    if (!wasPaused) machine.resume();
  }
}
