// Snapshots of a machine that runs: one after another, and how far the present one has come.

import type { Machine } from "../core/machine.ts";
import { reason } from "./errors.ts";
import type { PlannedDevice } from "./setup.ts";
import { saveSnapshot } from "./snapshots.ts";

/** How far the last snapshot has come, as `x-query-snapshot` tells it. */
export interface SnapshotJob {
  /** Whether there was one, it is being written, or how it ended. */
  status: "none" | "active" | "completed" | "failed";
  /** The file. */
  file?: string;
  /** Pages of memory that are done. */
  done?: number;
  /** All pages. */
  total?: number;
  /** Milliseconds that the machine stood still. */
  "pause-ms"?: number;
  /** Bytes of the file. */
  bytes?: number;
  /** Why it failed. */
  error?: string;
}

/** Milliseconds between two reports of progress at least. */
const REPORT_MS = 100;

/** Takes the snapshots of one machine. */
export class Checkpoints {
  readonly #machine: Machine;
  readonly #devices: readonly PlannedDevice[];
  readonly #report: (job: SnapshotJob) => void;
  #last: Promise<unknown> = Promise.resolve();
  #job: SnapshotJob = { status: "none" };

  /**
   * Takes none yet.
   *
   * @param machine The machine.
   * @param devices Its devices.
   * @param report Told how far the present one has come, now and then, and how it ended.
   */
  constructor(
    machine: Machine,
    devices: readonly PlannedDevice[],
    report: (job: SnapshotJob) => void = () => {},
  ) {
    this.#machine = machine;
    this.#devices = devices;
    this.#report = report;
  }

  /** The present or last one. */
  get job(): SnapshotJob {
    return this.#job;
  }

  /**
   * Saves the machine, after the save that is under way, if any.
   *
   * @param file The file.
   * @param incremental Whether to leave out what the last snapshot has.
   * @returns What became of it: completed.
   * @throws {CliError} When it cannot be written.
   */
  save(file: string, incremental = false): Promise<SnapshotJob> {
    const saved = this.#last.then(() => this.#save(file, incremental));
    this.#last = saved.catch(() => {});
    return saved;
  }

  async #save(file: string, incremental: boolean): Promise<SnapshotJob> {
    let reported = performance.now();
    const update = (change: SnapshotJob, always = false) => {
      this.#job = { ...this.#job, ...change };
      const now = performance.now();
      if (!always && now - reported < REPORT_MS) return;
      reported = now;
      this.#report(this.#job);
    };
    this.#job = { status: "active", file, done: 0, total: 0 };
    try {
      await saveSnapshot(this.#machine, this.#devices, file, {
        incremental,
        onTaken: (pause) => update({ status: "active", "pause-ms": pause }),
        onProgress: (done, total) => update({ status: "active", done, total }),
      });
      const { size } = await Deno.stat(file);
      update({ status: "completed", bytes: size }, true);
      return this.#job;
    } catch (error) {
      update({ status: "failed", error: reason(error) }, true);
      throw error;
    }
  }

  /** Resolves when nothing is being saved. */
  async idle(): Promise<void> {
    await this.#last;
  }
}
