/**
 * Several devices of one plugin keep their own states through a snapshot: bhyve gave the state of
 * the first of a type to all (FreeBSD D19495).
 */
import { assertEquals, assertThrows } from "@std/assert";
import { fakeElf } from "../core/boot/testing.ts";
import { Machine, type MachineDevice } from "../core/machine.ts";
import { definePlugin } from "../core/plugin.ts";
import { MemoryBlock } from "../host/block/mod.ts";
import { MemoryChardev } from "../host/chardev/memory.ts";
import pic from "../plugins/legacy/pic.ts";
import uart from "../plugins/legacy/uart.ts";
import virtioBlk from "../plugins/virtio/blk.ts";
import { GuestDriver } from "../plugins/virtio/testing/driver.ts";
import {
  bytes,
  type Fields,
  type Schema,
  schema,
  SchemaError,
  u8,
} from "../snapshot/schema.ts";

const RAM = 8 << 20;
const LOAD = 0x10_0000;
const LOOP_FOREVER = Uint8Array.of(0xeb, 0xfe);
const COM1 = 0x3f8, COM3 = 0x3e8;
const [THR, IER, IIR, FCR, , MCR, LSR, SCR] = [0, 1, 2, 2, 3, 4, 5, 7];
const SHARED_IRQ = 4;
const DISKS = 3;

function create(devices: MachineDevice[]): Promise<Machine> {
  return Machine.create({
    memory: RAM,
    clock: "instructions",
    hostNow: () => performance.now(),
    devices,
  });
}

/** Two serial ports on one interrupt line, a third on another, and three disks. */
async function setUp(disks: MemoryBlock[]) {
  const consoles = [0, 1, 2].map(() => new MemoryChardev());
  const ports: MachineDevice["options"][] = [
    { port: COM1, irq: SHARED_IRQ },
    { port: COM3, irq: SHARED_IRQ },
    {},
  ];
  const machine = await create([
    { id: "pic0", plugin: pic },
    ...ports.map((options, i): MachineDevice => ({
      id: `uart${i}`,
      plugin: uart,
      options,
      backend: consoles[i],
    })),
    ...disks.map((backend, i): MachineDevice => ({
      id: `disk${i}`,
      plugin: virtioBlk,
      backend,
    })),
  ]);
  return { machine, consoles };
}

async function boot(machine: Machine): Promise<void> {
  const kernel = fakeElf({
    bits: 64,
    physical: LOAD,
    entry: BigInt(LOAD),
    content: LOOP_FOREVER,
  });
  await machine.boot({ kernel: { bytes: kernel, label: "test kernel" } });
}

/** Runs a few instructions, so that devices run. */
async function run(machine: Machine): Promise<void> {
  machine.maxInstructions = machine.cpu.retired + 100;
  await machine.run();
}

/** The driver of the disk in a slot, its BARs where no other slot has any. */
function driver({ isa, memory }: Machine, slot: number): GuestDriver {
  const guest = new GuestDriver({
    in: (port, size) => isa.read(port, size),
    out: (port, size, value) => isa.write(port, size, value),
    read: (address, size) => memory.mmioRead(address, size),
    write: (address, size, value) => memory.mmioWrite(address, size, value),
    ram: memory.bytes.subarray(memory.ramBase, memory.ramBase + RAM),
  }, slot);
  guest.bars.forEach((base, i) => {
    guest.bars[i] = base + slot * (base < 0x1_0000 ? 0x400 : 0x100_0000);
    guest.setConfig(0x10 + 4 * i, 4, guest.bars[i]);
  });
  return guest;
}

Deno.test("two serial ports on one line and three disks keep their own states through a snapshot", async () => {
  const disks = Array.from(
    { length: DISKS },
    (_, i) => new MemoryBlock((i + 1) << 20),
  );
  const { machine } = await setUp(disks);
  await boot(machine);
  const { isa } = machine;
  for (const [i, base] of [COM1, COM3].entries()) {
    isa.write(base + SCR, 1, 0xa0 + i);
    isa.write(base + FCR, 1, 0x01);
    isa.write(base + MCR, 1, 0x08);
    // Neither has been started: what it sends waits.
    for (const c of ["first", "2nd"][i]) {
      isa.write(base + THR, 1, c.charCodeAt(0));
    }
  }
  // The second asks for an interrupt, the first does not.
  isa.write(COM3 + FCR, 1, 0x05);
  isa.write(COM3 + IER, 1, 0x02);
  assertEquals(machine.interrupts.isaLevel(SHARED_IRQ), true);
  for (const c of "2nd") isa.write(COM3 + THR, 1, c.charCodeAt(0));

  const slots = machine.pci.functions.map(({ slot }) => slot);
  assertEquals(slots.length, DISKS);
  for (const [i, slot] of slots.entries()) {
    const guest = driver(machine, slot);
    guest.negotiate(guest.offered);
    guest.setCommon(0x16, 2, 0);
    guest.setCommon(0x18, 2, 8 << i);
    guest.setConfig(0x3c, 1, 5 + i);
  }
  const state = machine.save();
  const states = new Map(state.components.map(({ id, state }) => [id, state]));

  const { machine: copy, consoles } = await setUp(disks);
  copy.restore(state);
  for (const { id, state } of copy.save().components) {
    assertEquals(state, states.get(id), id);
  }
  assertEquals(copy.isa.read(COM1 + SCR, 1), 0xa0);
  assertEquals(copy.isa.read(COM3 + SCR, 1), 0xa1);
  await run(copy);
  assertEquals(consoles.map((each) => each.text()), ["first", "2nd", ""]);
  // What was sent raises the second's interrupt, and only its own register lowers the line.
  assertEquals(copy.interrupts.isaLevel(SHARED_IRQ), true);
  assertEquals(copy.isa.read(COM1 + IIR, 1), 0xc1);
  assertEquals(copy.interrupts.isaLevel(SHARED_IRQ), true);
  assertEquals(copy.isa.read(COM3 + IIR, 1), 0xc2);
  assertEquals(copy.interrupts.isaLevel(SHARED_IRQ), false);
  assertEquals(copy.isa.read(COM1 + LSR, 1), 0x60);
  for (const [i, slot] of slots.entries()) {
    const guest = driver(copy, slot);
    guest.setCommon(0x16, 2, 0);
    assertEquals(guest.common(0x18, 2), 8 << i);
    assertEquals(guest.device(0, 4), ((i + 1) << 20) / 512);
    assertEquals(guest.config(0x3c, 1), 5 + i);
  }
  await machine.close();
  await copy.close();
});

/** A device whose state is one field. */
function plain<T>(state: Schema<T>, initial: T): MachineDevice {
  return {
    id: "plain0",
    plugin: definePlugin({
      name: "plain",
      version: "1.0.0",
      summary: "test device",
      options: {},
      state,
      create(ctx) {
        let value = initial;
        ctx.snapshot.register({
          save: () => value,
          restore: (saved) => void (value = saved),
        });
        return { reset: () => void (value = initial) };
      },
    }),
  };
}

Deno.test("a state of the same version but another schema names the incompatible build", async () => {
  const of = <F extends Fields>(version: number, fields: F) =>
    schema("plain", version, fields);
  const first = await create([plain(of(1, { level: u8() }), { level: 200 })]);
  const state = first.save();
  const narrower = of(1, { level: u8({ max: 9 }) });
  const second = await create([plain(narrower, { level: 0 })]);
  assertThrows(
    () => second.restore(state),
    SchemaError,
    'plain0.level is 200: expected an integer from 0 to 9. The snapshot was made by an incompatible build of the plugin "plain", whose state has the same version 1 but another schema (level is u8 in the snapshot, and u8 from 0 to 9 here)',
  );
  const other = of(1, { level: u8(), name: bytes(1) });
  const third = await create([
    plain(other, { level: 0, name: new Uint8Array(1) }),
  ]);
  assertThrows(
    () => third.restore(state),
    SchemaError,
    "(name is not there in the snapshot, and 1 bytes here)",
  );
  // What fits is taken: a bound that was widened hurts nobody.
  const wider = of(1, { level: u8({ max: 250 }) });
  const fourth = await create([plain(wider, { level: 0 })]);
  fourth.restore(state);
  for (const each of [first, second, third, fourth]) await each.close();
});

Deno.test("a state of a newer version is refused with both versions", async () => {
  const newer = schema("plain", 3, { level: u8() }, {
    2: (old) => old,
  });
  const first = await create([plain(newer, { level: 1 })]);
  const older = schema("plain", 2, { level: u8() });
  const second = await create([plain(older, { level: 0 })]);
  assertThrows(
    () => second.restore(first.save()),
    SchemaError,
    'plain0 was saved with version 3 of the schema "plain", and this build reads up to version 2',
  );
  for (const each of [first, second]) await each.close();
});
