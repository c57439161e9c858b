/**
 * The workloads: what each system does for each, and what is measured.
 *
 * @module
 */

import { prepareDebian } from "../host/guests/debian.ts";
import { HostCpu } from "../core/cpu/testing/host_cpu.ts";
import {
  LOOP,
  LOOP_INSTRUCTIONS,
  LOOP_TURNS,
  loopKernel,
  runLoopNatively,
} from "./loop.ts";
import {
  installBusybox,
  type NativeBusybox,
  runNativeScript,
} from "./native.ts";
import { measureBootRate, runOurs, runOursScript } from "./ours.ts";
import {
  firstInstructionFirmware,
  type QemuGuest,
  qemuStartSeconds,
  qemuVersion,
  runQemu,
} from "./qemu.ts";
import type { Row, Sample, System, Unit } from "./report.ts";
import {
  AWK,
  IDLE,
  IN_GUEST,
  MEMORY,
  script,
  SHA256,
  SHELL,
  usedMemory,
} from "./script.ts";
import { BenchError, type Session, type SessionOptions } from "./session.ts";
import { readLargestMapping } from "./process.ts";
import { ALIVE } from "./live_guest.ts";
import { measureSnapshots } from "./snapshot.ts";

const PER_MILLION = 1e-6;
const PER_CENT = 100;

/** What the systems need: files in a directory that is removed at the end. */
export class Equipment implements AsyncDisposable {
  #serial = 0;

  private constructor(
    /** The directory. */
    readonly directory: string,
    /** QEMU's version; undefined if it is not installed. */
    readonly qemu: string | undefined,
    /** The guest's busybox on the host; undefined if the host cannot run it. */
    readonly busybox: NativeBusybox | undefined,
  ) {}

  /**
   * Makes the directory and looks for QEMU.
   * @returns The equipment, to be disposed of.
   */
  static async open(): Promise<Equipment> {
    const directory = await Deno.makeTempDir({ prefix: "diapause-bench-" });
    const { initrd } = await prepareDebian();
    return new Equipment(
      directory,
      await qemuVersion(),
      await installBusybox(initrd, directory),
    );
  }

  /**
   * Which systems can be measured.
   * @returns The systems.
   */
  systems(): Set<System> {
    const systems = new Set<System>(["ours"]);
    if (this.qemu !== undefined) systems.add("tcg");
    if (this.busybox !== undefined) systems.add("native");
    return systems;
  }

  /**
   * Writes a file.
   *
   * @param bytes Its content.
   * @returns Its path.
   */
  async file(bytes: Uint8Array): Promise<string> {
    const path = `${this.directory}/${this.#serial++}`;
    await Deno.writeFile(path, bytes);
    return path;
  }

  /**
   * The Debian guest with a script, as files.
   *
   * @param body The script's commands; a shell without one.
   * @returns What QEMU is to boot.
   */
  async debian(body?: string): Promise<QemuGuest> {
    const guest = await prepareDebian({
      exec: body === undefined ? undefined : script(IN_GUEST, body),
    });
    return {
      kernel: await this.file(guest.kernel),
      initrd: await this.file(guest.initrd),
      cmdline: guest.cmdline,
    };
  }

  /** Removes the directory. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.directory, { recursive: true });
  }
}

/** A workload. */
export interface Workload {
  /** Its name, for `--only`. */
  name: string;
  /** What is measured. */
  summary: string;
  /** The unit. */
  unit: Unit;
  /** How each system measures it; a system that cannot is missing. */
  measure: Partial<
    Record<System, (equipment: Equipment) => Promise<Sample> | Sample>
  >;
}

/** A workload with several rows. */
export interface RowsWorkload {
  /** Its name, for `--only`. */
  name: string;
  /** What is measured. */
  summary: string;
  /**
   * Measures it on all systems.
   *
   * @param equipment What they need.
   * @param repeat How often; the best counts.
   * @param note Is told what is measured.
   * @returns The rows.
   */
  rows(
    equipment: Equipment,
    repeat: number,
    note: (text: string) => void,
  ): Promise<Row[]>;
}

/** A workload that is a script in the Debian guest. */
function scripted(
  name: string,
  summary: string,
  unit: Unit,
  body: string,
  read: (session: Session) => Sample,
): Workload {
  return {
    name,
    summary,
    unit,
    measure: {
      ours: async () => read(await runOursScript(body)),
      tcg: async (equipment) =>
        read(await runQemu(await equipment.debian(body))),
    },
  };
}

/** Those of the numbers that are known. */
function numbers(
  all: Readonly<Record<string, number | undefined>>,
): Record<string, number> {
  return Object.fromEntries(
    Object.entries(all).filter((entry): entry is [string, number] =>
      entry[1] !== undefined
    ),
  );
}

/** The time between the marks of a name. */
function timed(name: string): (session: Session) => Sample {
  return (session) => {
    const { seconds, guestSeconds, output } = session.span(name);
    return {
      value: seconds,
      output,
      details: numbers({ guest_s: guestSeconds }),
    };
  };
}

/** The same script in the guest and on the host. */
function program(name: string, summary: string, body: string): Workload {
  const workload = scripted(name, summary, "s", body, timed(name));
  workload.measure.native = async (equipment) => {
    const { value, output } = timed(name)(
      await runNativeScript(equipment.busybox!, body),
    );
    return { value, output };
  };
  return workload;
}

function readBoot(session: Session): Sample {
  const shell = session.mark("shell", "begin");
  return {
    value: shell.at,
    details: numbers({
      guest_s: shell.guestAt,
      until_power_off_s: session.duration,
    }),
  };
}

/** Booted to the shell; what the process holds is asked at the last mark, while it still runs. */
async function peakMemory(
  run: (options: SessionOptions) => Promise<Session>,
): Promise<Sample> {
  let guestRam: number | undefined;
  const session = await run({
    onMark: ({ event }, pid) => {
      if (event === "end") guestRam = readLargestMapping(pid);
    },
  });
  const { usage } = session.mark("rss", "end");
  if (usage === undefined) {
    throw new BenchError(
      "peak memory is read from /proc, which this host does not have",
    );
  }
  return {
    value: usage.peakRssMib,
    details: numbers({
      guest_ram_mib: guestRam,
      guest_used_mib: usedMemory(session.span("rss").output),
    }),
  };
}

const rss: Workload = {
  name: "rss",
  summary: "most resident memory of the process, booted to the shell",
  unit: "MiB",
  measure: {
    ours: () => peakMemory((options) => runOursScript(MEMORY, options)),
    tcg: async (equipment) => {
      const guest = await equipment.debian(MEMORY);
      return peakMemory((options) => runQemu(guest, options));
    },
  },
};

function readIdle(session: Session): Sample {
  const { seconds, cpuSeconds } = session.span("idle");
  if (cpuSeconds === undefined) {
    throw new BenchError(
      "processor time is read from /proc, which this host does not have",
    );
  }
  return { value: cpuSeconds / seconds * PER_CENT };
}

function loopSample(seconds: number, output: string): Sample {
  const millions = LOOP_TURNS * LOOP_INSTRUCTIONS * PER_MILLION;
  return { value: seconds, output, details: { mips: millions / seconds } };
}

function readLoop(session: Session): Sample {
  const { seconds, output } = session.span(LOOP);
  return loopSample(seconds, output);
}

const loop: Workload = {
  name: "loop",
  summary: `${
    LOOP_TURNS * LOOP_INSTRUCTIONS * PER_MILLION
  } M instructions of a loop`,
  unit: "s",
  measure: {
    ours: async (equipment) => {
      const kernel = await equipment.file(loopKernel(LOOP_TURNS));
      return readLoop(await runOurs(["--kernel", kernel], { endAfter: LOOP }));
    },
    tcg: async (equipment) => {
      const kernel = await equipment.file(loopKernel(LOOP_TURNS));
      return readLoop(await runQemu({ kernel }, { endAfter: LOOP }));
    },
    native: () => {
      const reason = HostCpu.unavailable();
      if (reason !== null) throw new BenchError(reason);
      const start = performance.now();
      const output = runLoopNatively(LOOP_TURNS);
      return loopSample((performance.now() - start) / 1000, output);
    },
  },
};

const bootRate: Workload = {
  name: "boot-rate",
  summary: "time in which the vCPU runs, from the kernel's entry to the shell",
  unit: "s",
  measure: {
    ours: async () => {
      const { instructions, cpuSeconds, seconds } = await measureBootRate();
      return {
        value: cpuSeconds,
        details: {
          mips: instructions * PER_MILLION / cpuSeconds,
          instructions_m: instructions * PER_MILLION,
          with_waits_s: seconds,
        },
      };
    },
  },
};

const start: Workload = {
  name: "start",
  summary: "from the start of the command to the first guest instruction",
  unit: "s",
  measure: {
    ours: async () => {
      const session = await runOurs([
        ...["--guest", "debian", "--max-instructions", "1"],
      ]);
      return { value: session.duration };
    },
    tcg: async (equipment) => {
      const firmware = await equipment.file(firstInstructionFirmware());
      const guest = await equipment.debian();
      return { value: await qemuStartSeconds({ ...guest, firmware }) };
    },
  },
};

const snapshot: RowsWorkload = {
  name: "snapshot",
  summary:
    "saving and restoring a Debian guest: the pause, the two times and the file",
  rows: async (equipment, repeat, note) =>
    await measureSnapshots(
      equipment.directory,
      await equipment.debian(ALIVE),
      repeat,
      note,
    ),
};

/** Every workload, in the order in which they are measured. */
export const WORKLOADS: readonly (Workload | RowsWorkload)[] = [
  start,
  scripted(
    "boot",
    "from the start of the command to the shell of the Debian guest",
    "s",
    SHELL,
    readBoot,
  ),
  bootRate,
  loop,
  program("sha256", "sha256sum of 32 MiB of zeroes, by busybox", SHA256),
  program("awk", "2 M turns of an awk loop, by busybox", AWK),
  rss,
  scripted(
    "idle",
    "share of one core while the guest sleeps",
    "%",
    IDLE,
    readIdle,
  ),
  snapshot,
];
