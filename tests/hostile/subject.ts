// What becomes of a mutant: one clear error, or a machine that works.

import { planSnapshot } from "../../cli/snapshots.ts";
import { CliError } from "../../cli/errors.ts";
import { PluginError } from "../../core/fault.ts";
import { Machine } from "../../core/machine.ts";
import { checkManifest, restoreFile } from "../../core/machine_file.ts";
import { DmaError, MachineError } from "../../core/plugin.ts";
import { zstd } from "../../host/snapshot_file.ts";
import {
  type Codec,
  SnapshotError,
  SnapshotReader,
} from "../../snapshot/container.ts";
import { SchemaError } from "../../snapshot/schema.ts";
import { backendOf } from "./guest.ts";

/** A machine that was restored must retire so many instructions. */
const INSTRUCTIONS = 50_000;
/** How often a run is looked at, in milliseconds. */
const LOOK_MS = 20;
/** Bytes that anything compressed may expand to, memory and its map aside. */
const MAX_EXPANDED = 1 << 20;
const LONGEST_MESSAGE = 700;
/** What every message begins with: the chunk, or the component and its field, or what is wrong with the whole. */
const NAMES_PLACE =
  /^(chunk \d+ |[\w:.-]+(\.|\[| )|device "|plugin "|option "|the snapshot |the hash |there (is|are) |this is not |memory |parent |BAR )/;

/** Something is wrong with the product. */
export class Failure extends Error {}

/** How a mutant ended. */
export type Outcome = "refused by the file" | "refused by the machine" | "ran";

/** Takes a snapshot after another. */
export class Subject {
  /** A machine that has never run, and what it was made from. */
  #spare: { key: string; machine: Machine } | undefined;

  /**
   * Restores a snapshot and runs it.
   *
   * @param file The snapshot.
   * @returns What became of it.
   * @throws {Failure} When it is neither refused clearly nor works.
   */
  async take(file: Uint8Array): Promise<Outcome> {
    const reader = await refusable(() => open(file));
    if (reader === undefined) return "refused by the file";
    const machine = await refusable(async () => {
      const machine = await this.#machineFor(reader);
      await restoreFile(machine, reader);
      return machine;
    });
    if (machine === undefined) return "refused by the machine";
    this.#spare = undefined;
    await run(machine);
    await machine.close();
    return "ran";
  }

  /** A machine of the snapshot's configuration: the last one, if it has never run. */
  async #machineFor(reader: SnapshotReader): Promise<Machine> {
    const { producer: _, parent: _none, ...made } = reader.manifest;
    const key = JSON.stringify([made, planKey(reader)]);
    if (this.#spare?.key === key) return this.#spare.machine;
    const { devices, blockers } = await planSnapshot(
      reader,
      "mutant.snap",
      {},
    );
    for (const line of blockers) checkMessage(line);
    if (blockers.length > 0) throw new CliError(blockers[0]);
    const { manifest } = reader;
    const machine = await Machine.create({
      memory: manifest.memory,
      romSize: manifest.romSize,
      clock: checkManifest(manifest),
      nsPerInstruction: manifest.nsPerInstruction,
      hostNow: () => performance.now(),
      devices: devices.map(({ id, plugin, specifier, options }) => ({
        id,
        specifier,
        plugin,
        options: options.own,
        backend: backendOf(plugin.backend),
      })),
    });
    this.#spare = { key, machine };
    return machine;
  }
}

/** What of the components decides whether there are blockers. */
function planKey({ components }: SnapshotReader): unknown {
  return components.map(({ id, schema: { name, version } }) => [
    id,
    name,
    version,
  ]);
}

/** Opens a snapshot; nothing may be allocated that its size does not account for. */
export function open(file: Uint8Array): Promise<SnapshotReader> {
  let declared = MAX_EXPANDED;
  const codec: Codec = {
    compress: zstd.compress,
    async decompress(bytes, limit) {
      if (limit > declared) {
        throw new Failure(`${limit} bytes were made room for`);
      }
      return await zstd.decompress(bytes, limit);
    },
  };
  declared += file.length * 8;
  return SnapshotReader.open({
    size: file.length,
    read(offset, length) {
      if (offset < 0 || length < 0 || offset + length > file.length) {
        throw new Failure(`bytes ${offset} to ${offset + length} were read`);
      }
      return Promise.resolve(file.slice(offset, offset + length));
    },
  }, codec);
}

/** Undefined where it was refused as it should be. */
async function refusable<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (!isRefusal(error)) throw error;
    checkMessage(error.message);
    return undefined;
  }
}

function isRefusal(error: unknown): error is Error {
  if (error instanceof PluginError) return isRefusal(error.cause);
  return error instanceof SnapshotError || error instanceof SchemaError ||
    error instanceof MachineError || error instanceof DmaError ||
    error instanceof CliError;
}

function checkMessage(message: string): void {
  // deno-lint-ignore no-control-regex
  if (/[\x00-\x1f\x7f-\x9f]/.test(message)) {
    throw new Failure(`not one printable line: ${JSON.stringify(message)}`);
  }
  if (message.length > LONGEST_MESSAGE) {
    throw new Failure(`a message of ${message.length} characters: ${message}`);
  }
  if (!NAMES_PLACE.test(message)) {
    throw new Failure(`the message names no place: ${message}`);
  }
}

/** The registers of every device, as a guest that looks around reads them. */
const PORTS = [
  ...[0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61],
  ...[0x60, 0x64, 0x70, 0x71, 0x72, 0x73, 0x80, 0x92, 0xb2, 0xcf8, 0xcf9],
  ...Array.from({ length: 8 }, (_, i) => 0x3f8 + i),
  ...Array.from({ length: 0x80 }, (_, i) => 0x600 + i),
  ...Array.from({ length: 0x40 }, (_, i) => 0xc000 + i),
];
const MMIO: readonly [number, number][] = [
  [0xfed00000, 0x160],
  [0xfee00000, 0x400],
  [0xfec00000, 0x20],
  [0xe0008000, 0x100],
  [0xc0000000, 0x100],
  [0xc0004000, 0x100],
];
/** Steps of virtual time, and how long one is, in nanoseconds. */
const STEPS = 40;
const STEP_NS = 50_000_000;

/** Reads registers and lets time pass, so that timers fire. */
function lookAround(machine: Machine): void {
  const { isa, memory, clock } = machine;
  for (const port of PORTS) isa.read(port, 1);
  for (const [base, length] of MMIO) {
    for (let at = 0; at < length; at += 4) memory.mmioRead(base + at, 4);
  }
  for (let step = 0; step < STEPS; step++) {
    clock.advance(clock.now() + STEP_NS);
    clock.fireDue();
  }
}

/** Runs a machine, looks at all its devices, and runs it on. */
async function run(machine: Machine): Promise<void> {
  await runSome(machine, INSTRUCTIONS);
  lookAround(machine);
  await runSome(machine, INSTRUCTIONS / 10);
}

/** Runs a machine until it has retired enough, or has ended, or waits for nothing. */
async function runSome(machine: Machine, count: number): Promise<void> {
  machine.maxInstructions = machine.cpu.retired + count;
  let stopped = false;
  const timer = setInterval(() => {
    if (!machine.cpu.halted) return;
    stopped = true;
    machine.stop();
  }, LOOK_MS);
  try {
    const result = await machine.run();
    switch (result.reason) {
      case "instructions":
      case "poweroff":
      case "reset":
      case "triple-fault":
        return;
      case "stopped":
        if (stopped) return;
        throw new Failure("the run was stopped");
      case "plugin-error":
        throw result.error;
      default:
        throw new Failure(`the run ended: ${result.reason}`);
    }
  } finally {
    clearInterval(timer);
  }
}
