// A real machine in the middle of its work, small enough to be restored thousands of times: the
// monitor reads its disk and prints, and every device of the platform has something armed or
// pending.

import { Machine, type MachineDevice } from "../../core/machine.ts";
import { writeMachine } from "../../core/machine_file.ts";
import { MemoryBlock } from "../../host/block/mod.ts";
import { MemoryChardev } from "../../host/chardev/memory.ts";
import { prepareMonitor } from "../../host/guests/monitor.ts";
import { zstd } from "../../host/snapshot_file.ts";
import { BUILT_IN, PLATFORM } from "../../plugins/mod.ts";
import { join } from "./file.ts";

/** Bytes of its RAM. */
export const MEMORY = 2 << 20;
/** Bytes of its disk. */
export const DISK = 64 << 10;
/** Where in its RAM tests may write: the last page. */
export const MARK = MEMORY - 4096;
/** Between two bytes of what the monitor prints of a sector. */
const MOMENT = 400_123;
const COMMANDS = Array.from({ length: 60 }, (_, i) => `read ${i}`).join("; ");

/** A backend of the kind that a plugin asks for, in memory. */
export function backendOf(
  kind: string | undefined,
): MachineDevice["backend"] {
  if (kind === "char") return new MemoryChardev();
  return kind === "block" ? new MemoryBlock(DISK) : undefined;
}

/** Writes the registers of devices that the monitor leaves alone. */
function useDevices(machine: Machine): void {
  const { isa, memory } = machine;
  const mmio = (base: number, ...writes: [number, number][]) => {
    for (const [offset, value] of writes) {
      memory.mmioWrite(base + offset, 4, value);
    }
  };
  // HPET: counting; timer 0 periodic, timer 1 once, without interrupts (IA-PC HPET 1.0a, 2.3).
  mmio(0xfed00000, [0x100, 0x48], [0x108, 1000], [0x108, 500]);
  mmio(0xfed00000, [0x128, 123_456], [0x10, 1]);
  // Local APIC: enabled; the timer periodic and masked (SDM vol. 3, 12.5).
  mmio(0xfee00000, [0xf0, 0x1ff], [0x320, 0x300f0], [0x3e0, 0xb]);
  mmio(0xfee00000, [0x380, 777_777]);
  // I/O APIC: pin 9 level triggered and masked.
  mmio(0xfec00000, [0, 0x22], [0x10, 0x1a039]);
  // RTC: the alarm each second, the periodic rate, and a read of register C to come.
  for (
    const [register, value] of [[1, 0xff], [3, 0xff], [5, 0xff], [0xb, 0x62]]
  ) {
    isa.write(0x70, 1, register);
    isa.write(0x71, 1, value);
  }
  // PIT: counter 2 for the speaker, half of a latch read (8254, "Counter Latch Command").
  isa.write(0x43, 1, 0xb6);
  isa.write(0x42, 1, 0x34);
  isa.write(0x42, 1, 0x12);
  isa.write(0x43, 1, 0x80);
  isa.read(0x42, 1);
  // UART: both FIFOs, and a received byte.
  isa.write(0x3fa, 1, 1);
}

/** Makes the machine and runs it to the middle of its work. */
export async function busyMachine(): Promise<Machine> {
  const devices: MachineDevice[] = await Promise.all(
    [...PLATFORM, "virtio-blk"].map(async (name) => {
      const plugin = await BUILT_IN[name]();
      return {
        id: `${name}0`,
        specifier: name,
        plugin,
        backend: backendOf(plugin.backend),
      };
    }),
  );
  const machine = await Machine.create({
    memory: MEMORY,
    clock: "instructions",
    hostNow: () => performance.now(),
    rtcBase: Date.UTC(2026, 0, 1),
    devices,
    maxInstructions: MOMENT,
  });
  const { kernel, label, cmdline } = await prepareMonitor();
  await machine.boot({
    kernel: { bytes: kernel, label },
    cmdline: `${cmdline} ${COMMANDS}`,
  });
  await machine.run();
  useDevices(machine);
  return machine;
}

/** The snapshot of a machine as bytes. */
export async function snapshotOf(machine: Machine): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  await writeMachine(machine, {
    codec: zstd,
    producer: "test",
    file: (write) =>
      write({
        write(bytes) {
          parts.push(bytes.slice());
          return Promise.resolve();
        },
      }),
  });
  return join(...parts);
}
