// Continuation equivalence: a machine that is restored goes on as the one that was saved, and a
// machine that was saved goes on as if it had not been (DESIGN.md section 6).
//
// `DIAPAUSE_SEED` repeats a failure: the moments are random, and the seed is printed.

import { assert, assertEquals, assertThrows } from "@std/assert";
import { saveCpu } from "../core/cpu/saved.ts";
import { CR0, EFER } from "../core/cpu/state.ts";
import { Random } from "../core/cpu/testing/random.ts";
import {
  type BootOptions,
  Machine,
  type MachineDevice,
} from "../core/machine.ts";
import { type BlockBackend, MachineError } from "../core/plugin.ts";
import { MemoryBlock } from "../host/block/memory.ts";
import { MemoryChardev } from "../host/chardev/memory.ts";
import { BUILT_IN, PLATFORM } from "../plugins/mod.ts";
import { SchemaError } from "../snapshot/schema.ts";
import { debianTest, newSeed, noise } from "./support.ts";

const MEMORY = 128 << 20;
const DISK_BYTES = 1 << 20;
const RTC_BASE = Date.UTC(2026, 0, 1);

/** Reads, writes and sleeps, while the console gets lines. */
const DISK_WORK = `date; sha256sum /dev/vda &
for i in 1 2 3 4 5 6 7 8; do
  dd if=/dev/urandom of=/tmp/part bs=16k count=2 2> /dev/null
  dd if=/tmp/part of=/dev/vda bs=16k seek=$((i * 4)) conv=fsync 2> /dev/null
  echo "part $i"; sleep 0.01
done
wait; cat /proc/uptime /proc/interrupts; sha256sum /dev/vda`;
const FURTHER = 30_000_000;

/** A disk in memory whose host takes its time: every request is in flight for a while. */
class SlowDisk implements BlockBackend {
  readonly size: number;
  readonly readOnly = false;
  /** Called when a request begins. */
  onRequest = () => {};
  readonly #bytes: Uint8Array;
  #requests = 0;

  /** @param bytes The content; the disk's own from now on. */
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.size = bytes.length;
  }

  clone(): SlowDisk {
    return new SlowDisk(this.#bytes.slice());
  }

  async #answer(): Promise<void> {
    this.onRequest();
    // Through the event loop now and then, where the other requests overtake.
    if (this.#requests++ % 8 === 0) {
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    await this.#answer();
    target.set(this.#bytes.subarray(offset, offset + target.length));
  }

  async write(offset: number, source: Uint8Array): Promise<void> {
    await this.#answer();
    this.#bytes.set(source, offset);
  }

  async flush(): Promise<void> {
    await this.#answer();
  }

  async discard(): Promise<void> {
    await this.#answer();
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    await this.#answer();
    this.#bytes.fill(0, offset, offset + length);
  }
}

interface Made {
  machine: Machine;
  out: MemoryChardev;
}

interface MakeOptions {
  memory?: number;
  disk?: BlockBackend;
  romSize?: number;
  /** Told each exception and interrupt. */
  onEvent?: (line: string) => void;
}

async function makeMachine(options: MakeOptions = {}): Promise<Made> {
  const { memory = MEMORY, disk = new MemoryBlock(DISK_BYTES), romSize } =
    options;
  const out = new MemoryChardev();
  const devices: MachineDevice[] = await Promise.all(
    [...PLATFORM, "virtio-blk"].map(async (name) => ({
      id: `${name}0`,
      specifier: name,
      plugin: await BUILT_IN[name](),
      backend: name === "uart" ? out : name === "virtio-blk" ? disk : undefined,
    })),
  );
  const machine = await Machine.create({
    memory,
    clock: "instructions",
    hostNow: () => performance.now(),
    rtcBase: RTC_BASE,
    devices,
    romSize,
    trace: options.onEvent && { exceptions: options.onEvent },
  });
  return { machine, out };
}

async function runTo(machine: Machine, instructions: number): Promise<void> {
  machine.maxInstructions = instructions;
  const result = await machine.run();
  assertEquals(result.reason, "instructions");
}

/** What the vCPU does at some moment. */
interface Moment {
  mode: "real" | "protected" | "long";
  /** A device's interrupt has been delivered and its handler has not ended it yet. */
  inHandler: boolean;
  halted: boolean;
}

function lookAt(machine: Machine): Moment {
  const cpu = saveCpu(machine.cpu);
  const state = (id: string) =>
    machine.devices.find(({ owner }) => owner.id === id)!.save();
  const lapic = state("lapic0") as { apics: { isr: number[] }[] };
  const pic = state("pic0") as { master: { isr: number } };
  return {
    mode: (cpu.cr0 & BigInt(CR0.PE)) === 0n
      ? "real"
      : (cpu.efer & BigInt(EFER.LMA)) === 0n
      ? "protected"
      : "long",
    inHandler: pic.master.isr !== 0 ||
      lapic.apics.some(({ isr }) => isr.some((word) => word !== 0)),
    halted: cpu.halted,
  };
}

/** A guest, and how machines for it are made. */
interface Guest {
  memory: number;
  romSize?: number;
  disk: SlowDisk;
  boot: BootOptions;
  /** Instructions that the run takes; without, it takes them until the guest turns itself off. */
  end?: number;
}

/** A run without a pause: when things happened in it, in instructions, and what it came to. */
interface Recorded {
  end: number;
  hash: string;
  text: string;
  interrupts: number[];
  requests: number[];
}

async function record(guest: Guest): Promise<Recorded> {
  const interrupts: number[] = [];
  const requests: number[] = [];
  const disk = guest.disk.clone();
  const { machine, out } = await makeMachine({
    ...guest,
    disk,
    onEvent: (line) => {
      if (line.startsWith("external")) interrupts.push(machine.cpu.retiredNow);
    },
  });
  disk.onRequest = () => requests.push(machine.cpu.retiredNow);
  await machine.boot(guest.boot);
  await runToEnd(machine, guest);
  const result = {
    end: machine.cpu.retired,
    hash: await machine.stateHash(),
    text: out.text(),
    interrupts,
    requests,
  };
  await machine.close();
  return result;
}

async function runToEnd(machine: Machine, { end }: Guest): Promise<void> {
  machine.maxInstructions = end ?? Infinity;
  const { reason } = await machine.run();
  assertEquals(reason, end === undefined ? "poweroff" : "instructions");
}

/**
 * Runs to each moment, saves, restores into a new machine, and lets both go on for some
 * instructions; at the end the saved one must be as one that was never saved.
 */
async function assertContinues(
  guest: Guest,
  recorded: Recorded,
  moments: readonly number[],
  further: number,
): Promise<Moment[]> {
  const seen: Moment[] = [];
  const disk = guest.disk.clone();
  const { machine, out } = await makeMachine({ ...guest, disk });
  await machine.boot(guest.boot);
  for (const [i, moment] of moments.entries()) {
    await runTo(machine, moment);
    await machine.pause();
    seen.push(lookAt(machine));
    const state = machine.save();
    const { machine: copy, out: copyOut } = await makeMachine({
      ...guest,
      disk: disk.clone(),
    });
    copy.restore(state);
    assertEquals(
      await copy.stateHash(),
      await machine.stateHash(),
      `at ${moment}`,
    );
    machine.resume();
    const before = out.text().length;
    const next = moments[i + 1] ?? recorded.end - 1;
    const end = Math.min(moment + further, next);
    await runTo(machine, end);
    await runTo(copy, end);
    assertEquals(copyOut.text(), out.text().slice(before), `from ${moment}`);
    assertEquals(
      await copy.stateHash(),
      await machine.stateHash(),
      `from ${moment} to ${end}`,
    );
    await copy.close();
  }
  await runToEnd(machine, guest);
  assertEquals(out.text(), recorded.text);
  assertEquals(
    [machine.cpu.retired, await machine.stateHash()],
    [recorded.end, recorded.hash],
    "the machine that was saved has gone on as one that was not",
  );
  await machine.close();
  return seen;
}

/** Random moments between the first instruction and the end, in order, and some way apart. */
function draw(
  end: number,
  apart: number,
  kinds: readonly (readonly [count: number, moment: () => number])[],
): number[] {
  const drawn: number[] = [];
  for (const [count, moment] of kinds) {
    for (const wanted = drawn.length + count; drawn.length < wanted;) {
      const candidate = moment();
      if (
        candidate > 0 && candidate + apart < end &&
        drawn.every((other) => Math.abs(other - candidate) > apart)
      ) drawn.push(candidate);
    }
  }
  return drawn.toSorted((a, b) => a - b);
}

/** The kinds of moments that are among them. */
function kinds(seen: readonly Moment[]): string[] {
  return [
    ...new Set(
      seen.map(({ mode, inHandler }) =>
        `${mode}${inHandler ? " in a handler" : ""}`
      ),
    ),
  ].sort();
}

Deno.test("a saved machine goes on as one that was not, and its copy too, from real mode to long mode", async () => {
  const random = new Random(newSeed());
  const ROM = 64 << 10;
  const RESET_VECTOR = 0xfff0;
  const rom = new Uint8Array(ROM);
  rom.set(
    await Deno.readFile(new URL("./testdata/ticks.bin", import.meta.url)),
  );
  rom.set([0xea, 0, 0, 0, 0xf0], RESET_VECTOR); // jmp f000:0000
  const guest: Guest = {
    memory: 4 << 20,
    romSize: ROM,
    disk: new SlowDisk(new Uint8Array(DISK_BYTES)),
    boot: { firmware: { bytes: rom, label: "ticks" } },
    end: 1_000_000,
  };
  const recorded = await record(guest);
  assertEquals(recorded.text, "rrrrppppllll");
  const { end, interrupts } = recorded;
  const inEach = (text: string) =>
    interrupts.filter((_, i) => recorded.text[i] === text);
  // A tick comes every 67,000 instructions, and its handler takes some 10,000 of them.
  const moments = draw(end, 1_000, [
    [8, () => random.below(end)],
    ...["r", "p", "l"].flatMap((text) =>
      [
        [2, () => random.pick(inEach(text)) + 1 + random.below(8_000)],
        [2, () => random.pick(inEach(text)) + 15_000 + random.below(40_000)],
      ] as const
    ),
  ]);
  const seen = await assertContinues(guest, recorded, moments, 10_000);
  assertEquals(kinds(seen), [
    "long",
    "long in a handler",
    "protected",
    "protected in a handler",
    "real",
    "real in a handler",
  ]);
});

debianTest(
  "a saved Debian guest goes on as one that was not, and its copy too, from twenty random moments",
  async (debian) => {
    const random = new Random(newSeed());
    const guest: Guest = {
      memory: MEMORY,
      disk: new SlowDisk(noise(DISK_BYTES)),
      boot: {
        kernel: { bytes: debian.kernel, label: debian.label },
        initrd: { bytes: debian.initrd, label: "initramfs" },
        cmdline: debian.cmdline,
      },
    };
    const recorded = await record(guest);
    const { end, interrupts, requests } = recorded;
    const moments = draw(end, 1_000_000, [
      [8, () => random.below(end)],
      [4, () => random.pick(interrupts)],
      [4, () => random.pick(interrupts) + 1 + random.below(20)],
      [4, () => random.pick(requests) + random.below(3)],
    ]);
    const seen = await assertContinues(guest, recorded, moments, FURTHER);
    assertEquals(seen.length, 20);
    assert(seen.some(({ inHandler }) => inHandler));
  },
  { exec: DISK_WORK },
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
