// Machines that start with firmware: the image is memory of its own, which a snapshot holds.

import { assertEquals, assertRejects } from "@std/assert";
import { Machine, type MachineDevice } from "../core/machine.ts";
import { restoreFile } from "../core/machine_file.ts";
import { MachineError } from "../core/plugin.ts";
import { zstd } from "../host/snapshot_file.ts";
import { BUILT_IN, PLATFORM } from "../plugins/mod.ts";
import { SnapshotReader } from "../snapshot/container.ts";
import { backendOf, snapshotOf } from "./hostile/guest.ts";

const ROM = 64 << 10;
const MEMORY = 16 << 20;
/** Debian's package `seabios`, on which that of QEMU depends. */
const SEABIOS = "/usr/share/seabios/bios.bin";

/** At the image's start: counts in RAM for ever, and tries to write to itself. */
const PROGRAM = [
  ...[0xb8, 0x34, 0x12], // mov ax, 0x1234
  ...[0xa3, 0x00, 0x05], // mov [0x500], ax
  ...[0x2e, 0xa3, 0x00, 0x80], // mov cs:[0x8000], ax
  ...[0x2e, 0xa1, 0x00, 0x80], // mov ax, cs:[0x8000]
  ...[0xa3, 0x02, 0x05], // mov [0x502], ax
  ...[0xff, 0x06, 0x04, 0x05], // inc word [0x504]
  ...[0xeb, 0xfa], // jmp to the inc
];
/** At F000:FFF0: jmp to F000:0000. */
const RESET_VECTOR = [0xe9, 0x0d, 0x00];
const UNTOUCHED = 0x5aa5;

function image(): Uint8Array {
  const bytes = new Uint8Array(ROM);
  bytes.set(PROGRAM);
  bytes.set(RESET_VECTOR, ROM - 16);
  new DataView(bytes.buffer).setUint16(0x8000, UNTOUCHED, true);
  return bytes;
}

async function makeMachine(romSize: number): Promise<Machine> {
  const devices: MachineDevice[] = await Promise.all(
    PLATFORM.map(async (name) => {
      const plugin = await BUILT_IN[name]();
      const backend = backendOf(plugin.backend);
      return { id: `${name}0`, specifier: name, plugin, backend };
    }),
  );
  return await Machine.create({
    memory: MEMORY,
    romSize,
    clock: "instructions",
    hostNow: () => performance.now(),
    rtcBase: Date.UTC(2026, 0, 1),
    devices,
  });
}

async function runTo(machine: Machine, count: number): Promise<void> {
  machine.maxInstructions = count;
  assertEquals((await machine.run()).reason, "instructions");
}

function open(file: Uint8Array): Promise<SnapshotReader> {
  return SnapshotReader.open({
    size: file.length,
    read: (offset, length) =>
      Promise.resolve(file.slice(offset, offset + length)),
  }, zstd);
}

/** Saves a machine to a file and restores it into another; both go on and stay equal. */
async function goesOn(
  machine: Machine,
  romSize: number,
  further: number,
): Promise<Machine> {
  const reader = await open(await snapshotOf(machine));
  assertEquals(reader.bytes("rom"), romSize);
  const copy = await makeMachine(romSize);
  await restoreFile(copy, reader);
  assertEquals(await copy.stateHash(), await machine.stateHash());
  const end = machine.cpu.retired + further;
  await runTo(machine, end);
  await runTo(copy, end);
  assertEquals(await copy.stateHash(), await machine.stateHash());
  return copy;
}

Deno.test("a machine in its firmware goes on from a snapshot, and the image is still read-only", async () => {
  const machine = await makeMachine(ROM);
  await machine.boot({ firmware: { bytes: image(), label: "image" } });
  // After the move to AX, before any store.
  await runTo(machine, 2);
  const copy = await goesOn(machine, ROM, 1000);
  assertEquals(copy.memory.readU16(0x500), 0x1234);
  assertEquals(copy.memory.readU16(0x502), UNTOUCHED);
  assertEquals(copy.memory.romImage, image());
  await copy.close();
  const smaller = await makeMachine(ROM / 2);
  const reader = await open(await snapshotOf(machine));
  await assertRejects(
    () => restoreFile(smaller, reader),
    MachineError,
    `${ROM} bytes of firmware: expected at most ${ROM / 2}`,
  );
  await machine.close();
});

Deno.test("SeaBIOS goes on from snapshots in real and in protected mode", async () => {
  let bytes: Uint8Array;
  try {
    bytes = await Deno.readFile(SEABIOS);
  } catch (error) {
    if (
      !(error instanceof Deno.errors.NotFound) || Deno.env.get("CI") === "true"
    ) throw error;
    console.log(`skipped: ${SEABIOS} is missing: install seabios`);
    return;
  }
  const machine = await makeMachine(bytes.length);
  await machine.boot({ firmware: { bytes, label: SEABIOS } });
  const modes = new Set<boolean>();
  for (const moment of [3, 1_001, 40_009, 600_011, 2_000_003]) {
    await runTo(machine, moment);
    modes.add(machine.cpu.protectedMode);
    const copy = await goesOn(machine, bytes.length, 20_000);
    await copy.close();
  }
  assertEquals(modes, new Set([false, true]));
  await machine.close();
});
