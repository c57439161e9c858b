/**
 * Machines in snapshot files: what a machine was made from goes into the manifest, and comes back.
 *
 * @module
 */
import type { ClockMode } from "./clock.ts";
import type { Machine } from "./machine.ts";
import { MachineError, type OptionValue } from "./plugin.ts";
import {
  type Codec,
  type Manifest,
  type Sink,
  SnapshotError,
  type SnapshotReader,
  toManifestOptions,
  writeSnapshot,
} from "../snapshot/container.ts";

/** Model of the vCPU that this version has. */
export const CPU_MODEL = "v2";
const CLOCKS: readonly string[] = ["realtime", "instructions"];
/** Bytes of RAM at least. */
const MIN_MEMORY = 1 << 20;

/** How a machine is written. */
export interface SaveOptions {
  /** Where to. */
  sink: Sink;
  /** Compression. */
  codec: Codec;
  /** The program that writes it. */
  producer: string;
  /** What devices are connected to, by id, as options that choose it. */
  backends?: ReadonlyMap<string, Readonly<Record<string, OptionValue>>>;
  /** Told the bytes of memory that are done, and all of them. */
  onProgress?: (done: number, total: number) => void;
}

/**
 * Writes the snapshot of a machine that is paused or does not run.
 *
 * @param machine The machine.
 * @param options Where and how.
 * @throws {MachineError} When it runs.
 * @throws {PluginError} When a device fails to save.
 */
export async function writeMachine(
  machine: Machine,
  options: SaveOptions,
): Promise<void> {
  const { configuration } = machine;
  const manifest: Manifest = {
    producer: options.producer,
    memory: configuration.memory,
    romSize: configuration.romSize,
    cpus: 1,
    cpuModel: CPU_MODEL,
    clock: configuration.clock,
    nsPerInstruction: configuration.nsPerInstruction,
    devices: configuration.devices.map((device) => {
      const backend = options.backends?.get(device.id);
      return {
        ...device,
        options: toManifestOptions(device.options),
        backend: backend === undefined ? null : toManifestOptions(backend),
      };
    }),
  };
  const { sink, codec, onProgress } = options;
  await writeSnapshot(
    { manifest, ...machine.save() },
    sink,
    codec,
    onProgress,
  );
}

/**
 * Checks what a manifest says of the machine itself.
 *
 * @param manifest The manifest.
 * @returns The clock's mode.
 * @throws {SnapshotError} When this version cannot have such a machine.
 */
export function checkManifest(manifest: Manifest): ClockMode {
  const refuse = (field: string, expected: string): never => {
    throw new SnapshotError(
      `chunk 0 (MANI): ${field} is ${
        JSON.stringify(manifest[field as keyof Manifest])
      }: expected ${expected}`,
    );
  };
  const { memory, romSize, nsPerInstruction, clock } = manifest;
  if (!Number.isSafeInteger(memory) || memory < MIN_MEMORY) {
    refuse("memory", `bytes, at least ${MIN_MEMORY}`);
  }
  if (!Number.isSafeInteger(romSize) || romSize < 0) refuse("romSize", "bytes");
  if (manifest.cpus !== 1) refuse("cpus", "1, all that this version has");
  if (manifest.cpuModel !== CPU_MODEL) refuse("cpuModel", `"${CPU_MODEL}"`);
  if (!CLOCKS.includes(clock)) refuse("clock", CLOCKS.join(" or "));
  if (!(nsPerInstruction > 0 && Number.isFinite(nsPerInstruction))) {
    refuse("nsPerInstruction", "a number above 0");
  }
  return clock as ClockMode;
}

/**
 * Restores a snapshot into a machine that was made from its manifest.
 *
 * @param machine The machine, new; when this throws it is to be thrown away.
 * @param reader The snapshot.
 * @param onProgress Told the stored pages that are read, and all of them.
 * @throws {SnapshotError} When a page is damaged or a memory is of another size.
 * @throws {SchemaError} When a component does not fit the machine.
 * @throws {PluginError} When a device refuses its state.
 */
export async function restoreFile(
  machine: Machine,
  reader: SnapshotReader,
  onProgress?: (done: number, total: number) => void,
): Promise<void> {
  const { memory } = machine;
  if (reader.bytes("ram") !== memory.ram) {
    throw new MachineError(
      `the snapshot has ${
        reader.bytes("ram")
      } bytes of memory, the machine ${memory.ram}: make it of the same size`,
    );
  }
  const ram = memory.bytes.subarray(
    memory.ramBase,
    memory.ramBase + memory.ram,
  );
  const romBytes = reader.bytes("rom");
  if (romBytes > machine.configuration.romSize) {
    throw new MachineError(
      `the snapshot has ${romBytes} bytes of firmware: expected at most ${machine.configuration.romSize}`,
    );
  }
  await reader.readMemory("ram", ram, onProgress);
  const rom = romBytes === 0 ? undefined : new Uint8Array(romBytes);
  if (rom !== undefined) await reader.readMemory("rom", rom);
  machine.restore({ components: [...reader.components], ram, rom });
}
