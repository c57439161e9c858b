// Devices replaced in a machine: what hands over, and what stays when a successor is refused.

import { assertEquals, assertRejects } from "@std/assert";
import { MemoryChardev } from "../host/chardev/memory.ts";
import { schema, SchemaError, str, timer, u8 } from "../snapshot/schema.ts";
import { ECAM_BASE } from "./bus/pci.ts";
import { PluginError } from "./fault.ts";
import { Machine } from "./machine.ts";
import {
  definePlugin,
  type DeviceContext,
  MachineError,
  type PciFunction,
  type Plugin,
} from "./plugin.ts";

const PORT = 0x510;
const IRQ = 7;
const PERIOD = 1000;
const TABLE_OFFSET = 0x800;
const PENDING_OFFSET = 0xc00;
const BAR_BYTES = 4096;
const BAR_ADDRESS = 0xfe000000;
const REG_COMMAND = 0x04;
const REG_BAR0 = 0x10;
const COMMAND_MEMORY_MASTER = 6;
const ID = "gadget0";

const firstSchema = schema("gadget", 1, { value: u8(), tick: timer() });
const secondSchema = schema("gadget", 2, {
  value: u8(),
  tick: timer(),
  note: str({ max: 32 }),
}, { 1: (old) => ({ ...old as object, note: "migrated" }) });

/** What a test looks at: filled anew by each device that is created. */
interface Seen {
  fired: number;
  received: string;
  events: string[];
  fn?: PciFunction;
}

type Context = Pick<
  DeviceContext,
  "id" | "isa" | "pci" | "clock" | "backend" | "machine"
>;

/** Ports, an interrupt line, a timer, a PCI function with MSI-X, a console, the power button. */
class Gadget {
  value = 0;
  readonly tick;
  constructor(ctx: Context, readonly version: number, readonly seen: Seen) {
    const line = ctx.isa.irq(IRQ);
    this.tick = ctx.clock.timer(() => {
      seen.fired = version;
      this.tick.armAt(ctx.clock.now() + PERIOD);
    });
    ctx.isa.claimPorts(PORT, 4, {
      read: (port) => port === PORT ? this.value : version,
      write: (_port, _size, value) => {
        this.value = value & 0xff;
        line.set(value !== 0);
        if (value !== 0) this.tick.armAt(ctx.clock.now() + PERIOD);
      },
    });
    seen.fn = ctx.pci.attach({
      vendor: 0x1234,
      device: 0x5678,
      classCode: 0xff0000,
      interruptPin: 1,
      bars: [{
        index: 0,
        kind: "memory",
        size: BAR_BYTES,
        handler: { read: () => version, write() {} },
      }],
      msix: {
        vectors: 2,
        bar: 0,
        tableOffset: TABLE_OFFSET,
        pbaOffset: PENDING_OFFSET,
      },
    });
    const console = ctx.backend as MemoryChardev;
    console.onInput((bytes) => {
      seen.received += `${version}${new TextDecoder().decode(bytes)}`;
      return bytes.length;
    });
    ctx.machine.onPowerButton(() => seen.events.push(`button ${version}`));
    // A successor is created and reset while its predecessor has the place.
    line.set(false);
    seen.fn.setIntx(false);
  }
  reset(): void {
    this.value = 0;
    this.seen.fn?.setIntx(false);
  }
  start(): void {
    this.seen.events.push(`start ${this.version}`);
  }
  stop(): void {
    this.seen.events.push(`stop ${this.version}`);
    this.seen.fn?.signal(0);
  }
}

function remaining(device: Gadget, ctx: Pick<DeviceContext, "clock">) {
  const { deadline } = device.tick;
  return deadline === undefined
    ? null
    : { remaining: deadline - ctx.clock.now() };
}

function firstVersion(seen: Seen) {
  return definePlugin({
    name: "gadget",
    version: "1.0.0",
    summary: "test device",
    options: {},
    backend: "char",
    state: firstSchema,
    create(ctx) {
      const device = new Gadget(ctx, 1, seen);
      ctx.snapshot.register({
        save: () => ({ value: device.value, tick: remaining(device, ctx) }),
        restore: ({ value, tick }) => {
          device.value = value;
          if (tick) device.tick.armAt(ctx.clock.now() + tick.remaining);
        },
      });
      return device;
    },
  });
}

function secondVersion(seen: Seen) {
  return definePlugin({
    name: "gadget",
    version: "2.0.0",
    summary: "test device",
    options: {},
    backend: "char",
    state: secondSchema,
    accepts: {
      other: (state) => ({
        ...state as { value: number },
        tick: null,
        note: "",
      }),
    },
    create(ctx) {
      const device = new Gadget(ctx, 2, seen);
      let note = "";
      ctx.snapshot.register({
        save: () => ({
          value: device.value,
          tick: remaining(device, ctx),
          note,
        }),
        restore: (state) => {
          device.value = state.value;
          note = state.note;
          if (state.tick) {
            device.tick.armAt(ctx.clock.now() + state.tick.remaining);
          }
        },
      });
      return device;
    },
  });
}

async function make() {
  const seen: Seen = { fired: 0, received: "", events: [] };
  const console = new MemoryChardev();
  const machine = await Machine.create({
    memory: 4 << 20,
    clock: "instructions",
    hostNow: () => 0,
    devices: [{ id: ID, plugin: firstVersion(seen), backend: console }],
  });
  const config = (offset: number, value: number) =>
    machine.memory.mmioWrite(ECAM_BASE + (1 << 15) + offset, 4, value);
  config(REG_BAR0, BAR_ADDRESS);
  config(REG_COMMAND, COMMAND_MEMORY_MASTER);
  return {
    machine,
    seen,
    console,
    in: (port: number) => machine.isa.read(port, 1),
    out: (value: number) => machine.isa.write(PORT, 1, value),
    load: (offset: number) => machine.memory.mmioRead(BAR_ADDRESS + offset, 4),
    store: (offset: number, value: number) =>
      machine.memory.mmioWrite(BAR_ADDRESS + offset, 4, value),
  };
}

Deno.test("a replaced device goes on from its state, its place as it was", async () => {
  const { machine, seen, console, ...guest } = await make();
  guest.out(42);
  seen.fn!.setIntx(true);
  guest.store(TABLE_OFFSET + 8, 0x1234);
  const irq = machine.interrupts.save();
  const pci = machine.pci.save();
  const deadline = machine.clock.nextDeadline;
  const changes: number[] = [];
  machine.interrupts.onIsaIrq((line) => changes.push(line));

  await machine.replaceDevice(ID, { plugin: secondVersion(seen) });

  assertEquals([guest.in(PORT), guest.in(PORT + 1)], [42, 2]);
  assertEquals(guest.load(0), 2);
  assertEquals(guest.load(TABLE_OFFSET + 8), 0x1234);
  assertEquals(machine.interrupts.save(), irq);
  assertEquals(machine.pci.save(), pci);
  assertEquals(changes, []);
  assertEquals(machine.clock.nextDeadline, deadline);
  machine.clock.advance(deadline!);
  machine.clock.fireDue();
  assertEquals(seen.fired, 2);
  console.send("x");
  assertEquals(seen.received, "2x");
  machine.pressPowerButton();
  assertEquals(seen.events, ["stop 1", "start 2", "button 2"]);
  assertEquals(
    machine.devices[0].save(),
    { value: 42, tick: { remaining: PERIOD }, note: "migrated" },
  );
  const { version } = machine.configuration.devices[0];
  assertEquals(version, "2.0.0");
  guest.out(0);
  assertEquals(machine.interrupts.isaLevel(IRQ), false);
  await machine.close();
});

Deno.test("a device is replaced again and again, and may declare less the next time", async () => {
  const { machine, seen, ...guest } = await make();
  guest.out(9);
  const back = {
    ...firstVersion(seen),
    accepts: {
      gadget: (state: unknown) => {
        const { value, tick } = state as {
          value: number;
          tick: { remaining: number } | null;
        };
        return { value, tick };
      },
    },
  };
  for (let i = 0; i < 5; i++) {
    await machine.replaceDevice(ID, { plugin: secondVersion(seen) });
    assertEquals([guest.in(PORT), guest.in(PORT + 1)], [9, 2]);
    await machine.replaceDevice(ID, { plugin: back });
    assertEquals([guest.in(PORT), guest.in(PORT + 1)], [9, 1]);
  }
  assertEquals(machine.devices[0].save(), {
    value: 9,
    tick: { remaining: PERIOD },
  });
  await machine.close();
});

Deno.test("a device stays when its successor is refused", async () => {
  const { machine, seen, console, ...guest } = await make();
  guest.out(42);
  const before = JSON.stringify(machine.devices[0].save());
  const pci = machine.pci.save();
  const second = secondVersion(seen);
  const refused = async (
    changes: Partial<Plugin<Record<string, never>>>,
    // deno-lint-ignore no-explicit-any -- what assertRejects takes
    kind: new (...args: any[]) => Error,
    message: string,
  ) => {
    const plugin = { ...second, ...changes };
    await assertRejects(
      () => machine.replaceDevice(ID, { plugin }),
      kind,
      message,
    );
    assertEquals([guest.in(PORT), guest.in(PORT + 1)], [42, 1], message);
    assertEquals(guest.load(0), 1);
    assertEquals(JSON.stringify(machine.devices[0].save()), before);
    assertEquals(machine.pci.save(), pci);
    assertEquals(machine.interrupts.isaLevel(IRQ), true);
    assertEquals(machine.configuration.devices[0].version, "1.0.0");
  };
  const create = second.create as unknown as Plugin["create"];
  await refused({ state: schema("toaster", 1, {}) }, SchemaError, '"toaster"');
  await refused({ backend: undefined }, MachineError, "needs no backend");
  await refused(
    {
      create: (ctx) => {
        ctx.isa.claimPorts(0x600, 4, { read: () => 0, write() {} });
        throw new Error("no crystal");
      },
    },
    PluginError,
    "no crystal",
  );
  assertEquals(guest.in(0x600), 0xff);
  await refused(
    {
      create: (ctx) => {
        ctx.snapshot.register({ save: () => ({}), restore() {} });
        return { reset() {} };
      },
    },
    MachineError,
    "does not claim source 0, interrupt line 7, ports 0x510 to 0x513, PCI function 0",
  );
  const changed = (change: (ctx: DeviceContext) => Partial<DeviceContext>) => ({
    create: (ctx: DeviceContext) =>
      create({ ...ctx, ...change(ctx) } as DeviceContext, {}),
  });
  await refused(
    changed((ctx) => ({
      pci: { attach: (c) => ctx.pci.attach({ ...c, revision: 3 }) },
    })),
    MachineError,
    "another configuration space, from offset 0x8",
  );
  await refused(
    changed((ctx) => ({ isa: { ...ctx.isa, irq: () => ctx.isa.irq(5) } })),
    MachineError,
    "interrupt line 5",
  );
  await refused(
    changed((ctx) => ({
      snapshot: {
        register: ({ save }) =>
          ctx.snapshot.register({
            save,
            restore: () => {
              throw new Error("does not fit in here");
            },
          }),
      },
    })),
    PluginError,
    "does not fit in here",
  );
  await assertRejects(
    () => machine.replaceDevice("gizmo", { plugin: second }),
    MachineError,
    'there is no device "gizmo": the machine has gadget0',
  );
  console.send("y");
  assertEquals(seen.received, "1y");
  machine.clock.advance(machine.clock.nextDeadline!);
  machine.clock.fireDue();
  assertEquals(seen.fired, 1);
  await machine.close();
});

Deno.test("a machine that is paused for a section goes on after the last, unless the user paused it", async () => {
  const { machine } = await make();
  const first = Promise.withResolvers<void>();
  const inside = machine.whilePaused(() => first.promise);
  await machine.whilePaused(() => {});
  machine.save();
  const pausing = machine.pause();
  machine.resume();
  assertEquals(machine.paused, false);
  await pausing;
  await machine.pause();
  first.resolve();
  await inside;
  assertEquals(machine.paused, true);
  await machine.replaceDevice(ID, {
    plugin: secondVersion({ fired: 0, received: "", events: [] }),
  });
  assertEquals(machine.paused, true);
  machine.resume();
  assertEquals(machine.paused, false);
  await machine.close();
});
