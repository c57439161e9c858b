/**
 * What saving and restoring take: for a guest with Debian booted, how long it stands still, how
 * long until the file is there, how large that is, and how long until a new process runs it.
 *
 * @module
 */

import { ALIVE, LiveGuest, type SnapshotTimes } from "./live_guest.ts";
import { denoRun } from "./ours.ts";
import { Qmp } from "./qmp.ts";
import { PROGRAM, qemuArguments, type QemuGuest, qemuVersion } from "./qemu.ts";
import { makeRow, type Row, type Sample, type System } from "./report.ts";
import { IN_GUEST, script } from "./script.ts";
import { BenchError } from "./session.ts";
import { measureV86Snapshot, prepareV86, type V86Guest } from "./v86.ts";

/** Sizes of guests, in MiB. */
export const SNAPSHOT_SIZES_MIB: readonly number[] = [128, 512, 2048];

const MIB = 1 << 20;
const MS_PER_SECOND = 1000;
/** A migration of QEMU is asked this often whether it is done. */
const POLL_MS = 5;
/** No limit to a migration's bandwidth, in bytes a second. */
const UNLIMITED = 1e12;

async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / MS_PER_SECOND;
}

/** What a checkpoint of ours replies. */
interface Checkpoint {
  "pause-ms": number;
  bytes: number;
}

/**
 * Measures this project's command.
 *
 * @param directory A directory for files.
 * @param mib The guest's memory.
 * @returns What it took.
 * @throws {BenchError} If something fails.
 */
export async function measureOurSnapshot(
  directory: string,
  mib: number,
): Promise<SnapshotTimes> {
  const socket = `${directory}/ours-${mib}.sock`;
  const file = `${directory}/ours-${mib}`;
  const next = `${file}.next`;
  const title = `ours, ${mib} MiB`;
  const take = async (qmp: Qmp, args: Record<string, unknown>) => {
    let reply: unknown;
    const seconds = await timed(async () =>
      reply = await qmp.execute("x-checkpoint", args)
    );
    return { seconds, ...reply as Checkpoint };
  };
  let full, increment;
  {
    await using guest = new LiveGuest(
      title,
      denoRun("mod.ts", [
        ...["--guest", "debian", "--mem", `${mib}M`, "--control", socket],
        ...["--exec", script(IN_GUEST, ALIVE)],
      ]),
    );
    await guest.alive();
    using qmp = await Qmp.connect(socket);
    full = await take(qmp, { file });
    increment = await take(qmp, { file: next, incremental: true });
  }
  await Deno.remove(socket);
  const restore = async (...args: string[]) => {
    await using guest = new LiveGuest(
      `${title}, restored`,
      denoRun("mod.ts", ["--restore", file, ...args]),
    );
    return await guest.alive();
  };
  const eager = await restore();
  const lazy = await restore("--lazy");
  const times = {
    pause: full["pause-ms"] / MS_PER_SECOND,
    save: full.seconds,
    restore: Math.min(eager, lazy),
    bytes: full.bytes,
    details: {
      pause: { incremental_s: increment["pause-ms"] / MS_PER_SECOND },
      save: { incremental_s: increment.seconds },
      restore: { eager_s: eager, lazy_s: lazy },
      size: { incremental_mib: increment.bytes / MIB },
    },
  };
  await Deno.remove(next);
  await Deno.remove(file);
  return times;
}

/** One migration of QEMU to a file. */
async function migrate(
  qmp: Qmp,
  uri: string,
): Promise<{ seconds: number; pause: number }> {
  let pause = 0;
  const seconds = await timed(async () => {
    await qmp.execute("migrate", { uri });
    for (;;) {
      const { status, downtime } = await qmp.execute("query-migrate");
      if (status === "completed") {
        pause = downtime as number / MS_PER_SECOND;
        return;
      }
      if (status === "failed" || status === "cancelled") {
        throw new BenchError(`QEMU's migration is ${status}`);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  });
  // A guest that has migrated stands still.
  await qmp.execute("cont");
  return { seconds, pause };
}

/**
 * Measures QEMU's migration to a file, with its own limit of bandwidth and without one; the faster
 * counts.
 *
 * @param directory A directory for files.
 * @param guest What to boot, with {@linkcode ALIVE} as its script.
 * @param mib The guest's memory.
 * @returns What it took.
 * @throws {BenchError} If something fails.
 */
export async function measureQemuSnapshot(
  directory: string,
  guest: QemuGuest,
  mib: number,
): Promise<SnapshotTimes> {
  const socket = `${directory}/qemu-${mib}.sock`;
  const file = `${directory}/qemu-${mib}`;
  const title = `QEMU, ${mib} MiB`;
  const line = (...extra: string[]) => ({
    command: PROGRAM,
    args: qemuArguments({ ...guest, extra: ["-m", `${mib}`, ...extra] }),
  });
  let limited, free, synced;
  {
    await using machine = new LiveGuest(
      title,
      line("-qmp", `unix:${socket},server=on,wait=off`),
    );
    await machine.alive();
    using qmp = await Qmp.connect(socket);
    const uri = `exec:cat > ${file}`;
    limited = await migrate(qmp, uri);
    await qmp.execute("migrate-set-parameters", { "max-bandwidth": UNLIMITED });
    synced = await migrate(
      qmp,
      `exec:dd bs=1M conv=fsync of=${file} 2> /dev/null`,
    );
    free = await migrate(qmp, uri);
  }
  const { size } = await Deno.stat(file);
  await using copy = new LiveGuest(
    `${title}, restored`,
    line("-incoming", `exec:cat ${file}`),
  );
  const restore = await copy.alive();
  const best = free.seconds < limited.seconds ? free : limited;
  return {
    pause: best.pause,
    save: best.seconds,
    restore,
    bytes: size,
    details: {
      pause: { limited_s: limited.pause, unlimited_s: free.pause },
      save: {
        limited_s: limited.seconds,
        unlimited_s: free.seconds,
        unlimited_synced_s: synced.seconds,
      },
    },
  };
}

type Metric = "pause" | "save" | "restore" | "size";

/** What each row is called, and how its value is read. */
const METRICS: readonly (readonly [
  metric: Metric,
  unit: Row["unit"],
  read: (times: SnapshotTimes) => number,
])[] = [
  ["pause", "s", ({ pause }) => pause],
  ["save", "s", ({ save }) => save],
  ["restore", "s", ({ restore }) => restore],
  ["size", "MiB", ({ bytes }) => bytes / MIB],
];

/** Of each number the least that was measured. */
function least(
  all: readonly SnapshotTimes[],
  metric: Metric,
  read: (times: SnapshotTimes) => number,
): Sample {
  const details: Record<string, number> = {};
  for (const times of all) {
    for (const [name, value] of Object.entries(times.details?.[metric] ?? {})) {
      details[name] = Math.min(details[name] ?? Infinity, value);
    }
  }
  return { value: Math.min(...all.map(read)), details };
}

/**
 * Measures all systems with guests of all sizes, the systems in turn.
 *
 * @param directory A directory for files.
 * @param guest The Debian guest with {@linkcode ALIVE} as its script.
 * @param repeat How often; the best counts.
 * @param note Is told what is measured.
 * @returns Four rows for each size; a system that fails is an error in them.
 */
export async function measureSnapshots(
  directory: string,
  guest: QemuGuest,
  repeat: number,
  note: (text: string) => void,
): Promise<Row[]> {
  let v86: V86Guest | string;
  try {
    v86 = await prepareV86(directory);
  } catch (error) {
    if (!(error instanceof BenchError)) throw error;
    v86 = error.message;
  }
  const qemu = await qemuVersion();
  const systems: readonly [
    System,
    ((mib: number) => Promise<SnapshotTimes>) | undefined,
  ][] = [
    ["ours", (mib) => measureOurSnapshot(directory, mib)],
    [
      "tcg",
      qemu === undefined
        ? undefined
        : (mib) => measureQemuSnapshot(directory, guest, mib),
    ],
    ["v86", (mib) => {
      if (typeof v86 === "string") throw new BenchError(v86);
      return measureV86Snapshot(directory, v86, mib);
    }],
  ];
  const rows: Row[] = [];
  for (const mib of SNAPSHOT_SIZES_MIB) {
    const taken = new Map<System, SnapshotTimes[]>();
    const failed = new Map<System, string>();
    for (let i = 0; i < repeat; i++) {
      for (const [system, measure] of systems) {
        if (measure === undefined || failed.has(system)) continue;
        try {
          const times = await measure(mib);
          taken.set(system, [...taken.get(system) ?? [], times]);
          note(
            `snapshot, ${mib} MiB: ${system} ${
              METRICS.map(([metric, unit, read]) =>
                `${metric} ${read(times).toPrecision(3)} ${unit}`
              ).join(", ")
            }`,
          );
        } catch (error) {
          if (!(error instanceof BenchError)) throw error;
          failed.set(system, error.message);
          note(`snapshot, ${mib} MiB: ${system} failed: ${error.message}`);
        }
      }
    }
    for (const [metric, unit, read] of METRICS) {
      const samples = Object.fromEntries(
        [...taken].map(([system, all]) => [system, least(all, metric, read)]),
      );
      rows.push(
        makeRow(`${metric}-${mib}`, unit, samples, [...failed.values()]),
      );
    }
  }
  return rows;
}
