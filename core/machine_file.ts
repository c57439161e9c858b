/**
 * Machines in snapshot files: what a machine was made from goes into the manifest, and comes back.
 *
 * @module
 */
import type { ClockMode } from "./clock.ts";
import { EventLoopTurn } from "./event_loop.ts";
import type { Baseline, Machine } from "./machine.ts";
import { diskRegion, freezeMachine } from "./machine_snapshot.ts";
import { AbsentPages } from "./memory/absent.ts";
import { PAGE_SIZE } from "./memory/memory.ts";
import { MachineError, type OptionValue } from "./plugin.ts";
import {
  type Codec,
  type Manifest,
  type ManifestImage,
  type ManifestParent,
  MAX_CHAIN,
  type Sink,
  SnapshotError,
  type SnapshotReader,
  toManifestOptions,
  writeSnapshot,
  type WrittenSnapshot,
} from "../snapshot/container.ts";

/** Model of the vCPU that this version has. */
export const CPU_MODEL = "v2";
const CLOCKS: readonly string[] = ["realtime", "instructions"];
/** Bytes of RAM at least. */
const MIN_MEMORY = 1 << 20;

/** How a machine is written. */
export interface SaveOptions {
  /**
   * Puts the file in its place: calls `write` with where it is to be written, and resolves when it is safe. An error
   * of either is thrown by {@linkcode writeMachine}.
   */
  file: (write: (sink: Sink) => Promise<void>) => Promise<void>;
  /** What a later incremental snapshot calls this file; without it, none can build on it. */
  name?: string;
  /**
   * Makes it incremental, so that it leaves out what the last snapshot has: checks that this one is still there, and
   * returns its path from the folder of the new file.
   */
  parent?: (baseline: Baseline) => Promise<string>;
  /** Compression. */
  codec: Codec;
  /** The program that writes it. */
  producer: string;
  /** What devices are connected to, by id, as options that choose it. */
  backends?: ReadonlyMap<string, Readonly<Record<string, OptionValue>>>;
  /** Called while the machine stands still: keeps the files of disks as they are now, and tells them by device. */
  pinImages?: () => Promise<ReadonlyMap<string, ManifestImage>>;
  /** Told when the machine runs on, with the milliseconds that this took. */
  onTaken?: (pause: number) => void;
  /** Told the pages that are done, and all of them. */
  onProgress?: (done: number, total: number) => void;
}

/** For each machine, the end of the snapshot that is being written, and of those that wait. */
const writing = new WeakMap<Machine, Promise<unknown>>();

/**
 * Writes the snapshot of a machine. One that runs stands still while its state is taken, and runs
 * on while it is written; what it writes to memory meanwhile is not in the snapshot. A second
 * snapshot waits for the first.
 *
 * @param machine The machine.
 * @param options Where and how.
 * @returns What was written.
 * @throws {MachineError} When it is to be incremental, and there is nothing that it can build on.
 * @throws {PluginError} When a device fails to save.
 */
export async function writeMachine(
  machine: Machine,
  options: SaveOptions,
): Promise<WrittenSnapshot> {
  const before = writing.get(machine);
  const written = (async () => {
    await before?.catch(() => {});
    return await machine.attend(() => writeNow(machine, options));
  })();
  writing.set(machine, written);
  return await written;
}

async function writeNow(
  machine: Machine,
  options: SaveOptions,
): Promise<WrittenSnapshot> {
  const { codec, name, onProgress } = options;
  const incremental = options.parent !== undefined;
  const { baseline } = machine;
  let parent: ManifestParent | null = null;
  if (options.parent !== undefined) {
    if (baseline === undefined) {
      throw new MachineError(
        "there is no snapshot that an incremental one could build on: take a full one first",
      );
    }
    if (baseline.depth + 1 >= MAX_CHAIN) {
      throw new MachineError(
        `the last snapshot builds on ${baseline.depth} others, and a chain has at most ${MAX_CHAIN}: take a full one`,
      );
    }
    parent = { path: await options.parent(baseline), hash: baseline.hash };
  }
  const asked = performance.now();
  const { frozen, manifest } = await machine.whilePaused(async () => {
    const images = await options.pinImages?.();
    return {
      manifest: manifestOf(machine, options, parent, images),
      frozen: freezeMachine(machine, incremental),
    };
  });
  options.onTaken?.(performance.now() - asked);
  const turn = new EventLoopTurn();
  let written: WrittenSnapshot | undefined;
  try {
    await options.file(async (sink) => {
      written = await writeSnapshot(
        {
          manifest,
          components: frozen.components,
          memories: frozen.memories,
        },
        sink,
        codec,
        { onProgress, turn: () => turn.wait() },
      );
    });
    if (written === undefined) {
      throw new MachineError(
        "the snapshot was not written: its file is missing",
      );
    }
    if (name !== undefined) {
      machine.baseline = {
        name,
        hash: written.hash,
        depth: incremental ? baseline!.depth + 1 : 0,
      };
    }
    frozen.end(name !== undefined);
    return written;
  } catch (error) {
    frozen.end(false);
    throw error;
  } finally {
    turn.close();
  }
}

function manifestOf(
  { configuration }: Machine,
  { producer, backends }: SaveOptions,
  parent: ManifestParent | null,
  images?: ReadonlyMap<string, ManifestImage>,
): Manifest {
  return {
    producer,
    parent,
    memory: configuration.memory,
    romSize: configuration.romSize,
    cpus: 1,
    cpuModel: CPU_MODEL,
    clock: configuration.clock,
    nsPerInstruction: configuration.nsPerInstruction,
    devices: configuration.devices.map((device) => {
      const backend = backends?.get(device.id);
      return {
        ...device,
        options: toManifestOptions(device.options),
        backend: backend === undefined ? null : toManifestOptions(backend),
        image: images?.get(device.id) ?? null,
      };
    }),
  };
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

/** How a machine is restored. */
export interface RestoreOptions {
  /** What a later incremental snapshot calls the file; without it, none can build on it. */
  name?: string;
  /** The guest may run at once: pages are loaded when they are touched, and the others meanwhile. */
  lazy?: boolean;
  /** Told the blocks of RAM that are read, and all of them. */
  onProgress?: (done: number, total: number) => void;
}

/** A machine that was restored. */
export interface RestoredMachine {
  /**
   * Resolves when the snapshot's file is not needed any more; never rejects. A page that cannot be
   * loaded ends the machine's run with the reason `memory-lost`.
   */
  loaded: Promise<void>;
}

/** Checks that the memories of a snapshot are those of the machine. */
function checkMemories(machine: Machine, reader: SnapshotReader): void {
  const expect = (region: string, what: string, bytes: number) => {
    if (reader.bytes(region) === bytes) return;
    throw new MachineError(
      `the snapshot has ${
        reader.bytes(region)
      } bytes of ${what}, the machine ${bytes}: make it of the same size`,
    );
  };
  expect("ram", "memory", machine.memory.ram);
  const romBytes = reader.bytes("rom");
  if (romBytes > machine.configuration.romSize) {
    throw new MachineError(
      `the snapshot has ${romBytes} bytes of firmware: expected at most ${machine.configuration.romSize}`,
    );
  }
  for (const { id, size } of machine.contents) {
    if (!reader.regions.includes(diskRegion(id))) {
      throw new MachineError(
        `the snapshot has no content for the disk in memory of device "${id}": give it the image that it had`,
      );
    }
    expect(diskRegion(id), `the disk of device "${id}"`, size);
  }
}

/**
 * Restores a snapshot into a machine that was made from its manifest. The content of a disk whose
 * device has an image now is left out.
 *
 * @param machine The machine, new; when this throws it is to be thrown away.
 * @param reader The snapshot.
 * @param options How.
 * @returns When the file is not needed any more.
 * @throws {SnapshotError} When a page is damaged or a memory is of another size.
 * @throws {SchemaError} When a component does not fit the machine.
 * @throws {PluginError} When a device refuses its state.
 */
export async function restoreFile(
  machine: Machine,
  reader: SnapshotReader,
  options: RestoreOptions = {},
): Promise<RestoredMachine> {
  const { memory } = machine;
  checkMemories(machine, reader);
  const pages = new AbsentPages(memory, reader.blocks("ram"));
  const lazy = options.lazy === true && pages.canWait;
  if (!lazy) await pages.stream(options.onProgress);
  for (const { id, content } of machine.contents) {
    await reader.readBlocks(diskRegion(id), ({ pages, slots }, raw) => {
      pages.forEach((page, i) => {
        const from = slots[i] * PAGE_SIZE;
        content.restore(page, raw.subarray(from, from + PAGE_SIZE));
      });
    });
  }
  const romBytes = reader.bytes("rom");
  const rom = romBytes === 0 ? undefined : new Uint8Array(romBytes);
  if (rom !== undefined) await reader.readMemory("rom", rom);
  machine.restore({
    components: [...reader.components],
    ram: memory.ramBytes,
    rom,
  });
  if (options.name !== undefined) {
    machine.baseline = {
      name: options.name,
      hash: reader.hash,
      depth: reader.chain.length - 1,
    };
  }
  if (!lazy) return { loaded: Promise.resolve() };
  machine.loadFrom(pages);
  // A failure has been told to the machine, whose run it ends.
  const loaded = machine.attend(() => pages.stream(options.onProgress));
  return { loaded: loaded.catch(() => {}) };
}
