// Continuation equivalence: a machine that is restored goes on as the one that was saved.

import { assertEquals, assertThrows } from "@std/assert";
import { Machine, type MachineDevice } from "../core/machine.ts";
import { MachineError } from "../core/plugin.ts";
import { MemoryBlock } from "../host/block/mod.ts";
import { MemoryChardev } from "../host/chardev/memory.ts";
import { BUILT_IN, PLATFORM } from "../plugins/mod.ts";
import { SchemaError } from "../snapshot/schema.ts";
import { debianTest } from "./support.ts";

const MEMORY = 256 << 20;
const DISK_BYTES = 1 << 20;
const RTC_BASE = Date.UTC(2026, 0, 1);
/** From the decompressor to init: protected and long mode, interrupt handlers, user code. */
const MOMENTS = [1_000, 3_000_017, 60_000_001, 400_000_003, 900_000_011];
const FURTHER = 20_000_000;

async function makeMachine(): Promise<
  { machine: Machine; out: MemoryChardev }
> {
  const out = new MemoryChardev();
  const devices: MachineDevice[] = await Promise.all(
    [...PLATFORM, "virtio-blk"].map(async (name) => ({
      id: `${name}0`,
      specifier: name,
      plugin: await BUILT_IN[name](),
      backend: name === "uart"
        ? out
        : name === "virtio-blk"
        ? new MemoryBlock(DISK_BYTES)
        : undefined,
    })),
  );
  const hasUart = PLATFORM.includes("uart");
  if (!hasUart) {
    devices.push({
      id: "uart0",
      specifier: "uart",
      plugin: await BUILT_IN.uart(),
      backend: out,
    });
  }
  const machine = await Machine.create({
    memory: MEMORY,
    clock: "instructions",
    hostNow: () => performance.now(),
    rtcBase: RTC_BASE,
    devices,
  });
  return { machine, out };
}

async function runTo(machine: Machine, instructions: number): Promise<void> {
  machine.maxInstructions = instructions;
  const result = await machine.run();
  assertEquals(result.reason, "instructions");
}

debianTest(
  "a restored machine goes on as the saved one does",
  async (guest) => {
    const { machine, out } = await makeMachine();
    await machine.boot({
      kernel: { bytes: guest.kernel, label: guest.label },
      initrd: { bytes: guest.initrd, label: "initramfs" },
      cmdline: guest.cmdline,
    });
    for (const moment of MOMENTS) {
      await runTo(machine, moment);
      await machine.pause();
      const state = machine.save();
      const { machine: copy, out: copyOut } = await makeMachine();
      copy.restore(state);
      assertEquals(await copy.stateHash(), await machine.stateHash());
      machine.resume();
      const before = out.text().length;
      const end = machine.cpu.retired + FURTHER;
      await runTo(machine, end);
      await runTo(copy, end);
      assertEquals(copyOut.text(), out.text().slice(before), `from ${moment}`);
      assertEquals(
        await copy.stateHash(),
        await machine.stateHash(),
        `from ${moment}`,
      );
      await copy.close();
    }
    await machine.close();
  },
);

Deno.test("restore refuses a state that does not fit, naming it", async () => {
  const { machine } = await makeMachine();
  const state = machine.save();
  const refused = async (
    change: (cpu: Record<string, unknown>) => void,
    message: string,
  ) => {
    const components = state.components.map((each) => {
      if (each.id !== "cpu0") return each;
      const cpu = { ...each.state as Record<string, unknown> };
      change(cpu);
      return { ...each, state: cpu };
    });
    const { machine: other } = await makeMachine();
    assertThrows(
      () => other.restore({ ...state, components }),
      SchemaError,
      message,
    );
    await other.close();
  };
  await refused((cpu) => cpu.cr0 = 0x80000000n, "cpu0.cr0 is 0x80000000");
  await refused((cpu) => cpu.rip = "0", "cpu0.rip is");
  await refused((cpu) => delete cpu.xcr0, "cpu0.xcr0 is missing");
  await machine.close();
});

Deno.test("save refuses a machine that runs", async () => {
  const { machine } = await makeMachine();
  const running = machine.run();
  assertThrows(() => machine.save(), MachineError, "pause it");
  machine.stop();
  await running;
  await machine.close();
});
