/**
 * Shows how far a guest's download has come: a bar on a terminal, a line each in a log.
 *
 * @module
 */

import { ProgressBar } from "@std/cli/unstable-progress-bar";
import type { GuestProgress } from "./apt.ts";

/** Shows progress on standard error; to be closed when all is done. */
export class ProgressReporter {
  readonly #terminal: boolean;
  #what = "";
  #bar: ProgressBar | undefined;
  #stopping: Promise<void> = Promise.resolve();

  /**
   * Shows nothing yet.
   *
   * @param terminal Whether to draw a bar; by default, whether standard error is a terminal.
   */
  constructor(terminal: boolean = Deno.stderr.isTerminal()) {
    this.#terminal = terminal;
  }

  /**
   * Takes a report.
   * @param progress How far what has come.
   */
  update(progress: GuestProgress): void {
    const { what, done, total } = progress;
    if (what !== this.#what) {
      this.#what = what;
      const MIB = 1 << 20;
      console.error(`${what} (${(total / MIB).toFixed(1)} MiB)`);
      if (this.#terminal) {
        const previous = this.#bar;
        this.#stopping = this.#stopping.then(() => previous?.stop());
        this.#bar = new ProgressBar({ max: total, clear: true });
      }
    }
    if (this.#bar !== undefined) this.#bar.value = done;
  }

  /** Removes the bar. */
  async close(): Promise<void> {
    await this.#stopping;
    await this.#bar?.stop();
    this.#bar = undefined;
    this.#what = "";
  }
}
