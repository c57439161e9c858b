import {
  assert,
  assertEquals,
  assertNotEquals,
  assertRejects,
} from "@std/assert";
import { fakeElf } from "./boot/testing.ts";
import { Machine, type MachineDevice, type MachineOptions } from "./machine.ts";
import { definePlugin, type DeviceContext, MachineError } from "./plugin.ts";
import { schema, u8 } from "../snapshot/schema.ts";

const LOAD = 0x100000;
const IDT = 0x200000;
const HANDLER = 0x201000;
const TIMER_VECTOR = 0x20;
const CODE_SELECTOR = 0x10;
/** Ports of the test device: what it is told, and what a write makes it do. */
const DATA = 0x500;
const COMMAND = 0x501;
const POWER_OFF = 1;
const RESET = 2;
const THROW = 3;
const ARM = 4;
const READ_HOST = 5;
const ARM_NS = 777;

/** `mov edx, port; mov al, value; out dx, al`. */
function out(port: number, value: number): number[] {
  return [0xba, port & 0xff, port >> 8, 0, 0, 0xb0, value, 0xee];
}
const NOP = 0x90;
const HLT = 0xf4;
const STI = 0xfb;
const LOOP_FOREVER = [0xeb, 0xfe];
const UD2 = [0x0f, 0x0b];
/** `mov esp, HANDLER; lidt [IDT - 16]`. */
const LIDT = [
  ...[0xbc, 0x00, 0x10, 0x20, 0x00],
  ...[0x0f, 0x01, 0x1c, 0x25, 0xf0, 0xff, 0x1f, 0x00],
];

interface Probe {
  written: number[];
  fired: number[];
  ctx?: DeviceContext<{ last: number }>;
}

/** A device that does what its command port says, and an interrupt controller of one line. */
function testDevice(probe: Probe, work: () => Promise<void>): MachineDevice {
  const plugin = definePlugin({
    name: "probe",
    version: "1.0.0",
    summary: "test device",
    options: {},
    state: schema("probe", 1, { last: u8() }),
    create(ctx) {
      probe.ctx = ctx;
      let last = 0;
      ctx.interrupts.pic = {
        acknowledge() {
          ctx.interrupts.setPicOutput(false);
          return TIMER_VECTOR;
        },
      };
      const timer = ctx.clock.timer(() => {
        probe.fired.push(ctx.clock.now());
        ctx.interrupts.setPicOutput(true);
        ctx.cpus[0].interruptChanged();
      });
      ctx.isa.claimPorts(DATA, 1, {
        read: () => last,
        write: (_port, _size, value) => {
          last = value;
          probe.written.push(value);
        },
      });
      const commands: Record<number, () => void> = {
        [POWER_OFF]: () => ctx.machine.powerOff(),
        [RESET]: () => ctx.machine.reset(),
        [THROW]: () => {
          throw new Error("out of paper");
        },
        [ARM]: () => {
          probe.written.push(ctx.clock.now());
          timer.armAt(ctx.clock.now() + ARM_NS);
        },
        [READ_HOST]: () =>
          ctx.async(
            work(),
            () => {
              probe.fired.push(ctx.clock.now());
              ctx.machine.powerOff();
            },
            () => {},
          ),
      };
      ctx.isa.claimPorts(COMMAND, 1, {
        read: () => 0,
        write: (_port, _size, value) => commands[value](),
      });
      ctx.snapshot.register({
        save: () => ({ last }),
        restore: (state) => void (last = state.last),
      });
      return { reset: () => timer.cancel() };
    },
  });
  return { id: "probe0", plugin };
}

/** A machine with the test device and `code` in it. */
async function boot(
  code: number[],
  options: Partial<MachineOptions> = {},
  work: () => Promise<void> = () => Promise.resolve(),
): Promise<{ machine: Machine; probe: Probe }> {
  const probe: Probe = { written: [], fired: [] };
  const machine = await Machine.create({
    memory: 4 << 20,
    clock: "instructions",
    hostNow: () => performance.now(),
    devices: [testDevice(probe, work)],
    ...options,
  });
  await load(machine, code);
  return { machine, probe };
}

async function load(machine: Machine, code: number[]): Promise<void> {
  const kernel = fakeElf({
    bits: 64,
    physical: LOAD,
    entry: BigInt(LOAD),
    content: Uint8Array.from(code),
  });
  await machine.boot({ kernel: { bytes: kernel, label: "test kernel" } });
  // A gate for the timer, whose handler turns the machine off.
  const { memory } = machine;
  memory.writeU16(IDT - 16, 0xfff);
  memory.writeU64(IDT - 14, BigInt(IDT));
  const gate = IDT + TIMER_VECTOR * 16;
  memory.writeU16(gate, HANDLER & 0xffff);
  memory.writeU16(gate + 2, CODE_SELECTOR);
  memory.writeU16(gate + 4, 0x8e00);
  memory.writeU16(gate + 6, HANDLER >> 16);
  memory.write(HANDLER, Uint8Array.from(out(COMMAND, POWER_OFF)));
}

Deno.test("Machine.run ends when the guest powers off", async () => {
  const { machine, probe } = await boot([
    ...out(DATA, 42),
    ...out(COMMAND, POWER_OFF),
    ...out(DATA, 43),
  ]);
  assertEquals(await machine.run(), { reason: "poweroff" });
  assertEquals(probe.written, [42]);
});

Deno.test("Machine.run returns reset and can boot and run again", async () => {
  const { machine } = await boot(out(COMMAND, RESET));
  assertEquals(await machine.run(), { reason: "reset" });
  machine.reset();
  await load(machine, out(COMMAND, POWER_OFF));
  assertEquals(await machine.run(), { reason: "poweroff" });
});

Deno.test("Machine.run names the plugin that threw and where", async () => {
  const { machine } = await boot(out(COMMAND, THROW));
  const result = await machine.run();
  assert(result.reason === "plugin-error");
  assertEquals(
    result.error.message,
    'plugin "probe", instance "probe0", failed in port write at 0x501: Error: out of paper',
  );
});

Deno.test("Machine.run ends with the registers after a triple fault", async () => {
  const { machine } = await boot(UD2);
  const result = await machine.run();
  assert(result.reason === "triple-fault");
  assert(result.state.includes("rip 0000000000100000"));
});

Deno.test("Machine.run tells where a triple fault came from inside an instruction", async () => {
  // LIDT of a limit of 0, then INT3.
  const { machine } = await boot([
    NOP,
    ...[0x0f, 0x01, 0x1d, 1, 0, 0, 0],
    0xcc,
    ...new Array(10).fill(0),
  ]);
  const result = await machine.run();
  assert(result.reason === "triple-fault");
  assertEquals(
    result.state.match(/rip [0-9a-f]+/)?.[0],
    "rip 0000000000100008",
  );
});

Deno.test("Machine.run retires exactly maxInstructions", async () => {
  const { machine } = await boot(LOOP_FOREVER, { maxInstructions: 12_345 });
  assertEquals(await machine.run(), { reason: "instructions" });
  assertEquals(machine.cpu.retired, 12_345);
  assertEquals(machine.clock.now(), 12_345);
});

Deno.test("instruction time in a handler is the number of instructions before it", async () => {
  const { machine, probe } = await boot([
    NOP,
    NOP,
    NOP,
    ...out(COMMAND, ARM),
    ...LOOP_FOREVER,
  ], { maxInstructions: 2_000 });
  await machine.run();
  assertEquals(probe.written, [5]);
  assertEquals(probe.fired, [5 + ARM_NS]);
});

Deno.test("a halted guest's time jumps to the next timer, which wakes it", async () => {
  const { machine, probe } = await boot([
    ...LIDT,
    ...out(COMMAND, ARM),
    STI,
    HLT,
    ...LOOP_FOREVER,
  ]);
  assertEquals(await machine.run(), { reason: "poweroff" });
  assertEquals(probe.fired, [probe.written[0] + ARM_NS]);
});

Deno.test("a halted guest wakes in real time too", async () => {
  const { machine, probe } = await boot([
    ...LIDT,
    ...out(COMMAND, ARM),
    STI,
    HLT,
    ...LOOP_FOREVER,
  ], { clock: "realtime" });
  assertEquals(await machine.run(), { reason: "poweroff" });
  assert(probe.fired[0] >= probe.written[0] + ARM_NS);
});

Deno.test("host work takes no instruction time, however long the host takes", async () => {
  const code = [...out(COMMAND, READ_HOST), ...LOOP_FOREVER];
  const AFTER_OUT = 3;
  const slow = async () => {
    for (let i = 0; i < 20; i++) {
      await new Promise<void>((resolve) => queueMicrotask(resolve));
    }
  };
  for (const work of [() => Promise.resolve(), slow]) {
    const { machine, probe } = await boot(code, {}, work);
    assertEquals(await machine.run(), { reason: "poweroff" });
    assertEquals(probe.fired, [AFTER_OUT]);
  }
});

Deno.test("Machine.stop ends a run, also before it begins", async () => {
  const { machine } = await boot(LOOP_FOREVER);
  machine.stop();
  assertEquals(await machine.run(), { reason: "stopped" });
  const running = machine.run();
  queueMicrotask(() => machine.stop());
  assertEquals(await running, { reason: "stopped" });
});

Deno.test("Machine.pause stops instructions and time until resume", async () => {
  const { machine } = await boot(LOOP_FOREVER, { clock: "realtime" });
  const running = machine.run();
  await machine.pause();
  const { retired } = machine.cpu;
  const now = machine.clock.now();
  await new Promise<void>((resolve) => setTimeout(resolve, 0));
  assertEquals([machine.cpu.retired, machine.clock.now()], [retired, now]);
  machine.resume();
  machine.stop();
  assertEquals(await running, { reason: "stopped" });
});

Deno.test("Machine.stop ends a paused run", async () => {
  const { machine } = await boot(LOOP_FOREVER);
  const running = machine.run();
  await machine.pause();
  machine.stop();
  assertEquals(await running, { reason: "stopped" });
});

Deno.test("equal runs have equal state hashes, and others have not", async () => {
  const hash = async (maxInstructions: number, value: number) => {
    const { machine } = await boot([...out(DATA, value), ...LOOP_FOREVER], {
      maxInstructions,
    });
    await machine.run();
    return await machine.stateHash();
  };
  const first = await hash(1000, 1);
  assertEquals(first.length, 64);
  assertEquals(await hash(1000, 1), first);
  assertNotEquals(await hash(1001, 1), first);
  assertNotEquals(await hash(1000, 2), first);
});

Deno.test("Machine.create refuses an id that is used twice", async () => {
  const device = testDevice(
    { written: [], fired: [] },
    () => Promise.resolve(),
  );
  await assertRejects(
    () =>
      Machine.create({
        memory: 4 << 20,
        hostNow: () => 0,
        devices: [device, device],
      }),
    MachineError,
    'id "probe0" is used twice',
  );
});
