/**
 * Host work that a device waits for: its results reach the device between slices.
 *
 * In `realtime` mode a result is delivered when it is there. In `instructions` mode it is
 * delivered a fixed virtual time after the work began, and the machine waits for the host if it is
 * not there yet: when the host answers does not show in the guest.
 *
 * @module
 */
import type { Clock } from "./clock.ts";
import { type FaultSink, type Owner, PluginError } from "./fault.ts";

/** Virtual nanoseconds that host work takes in `instructions` mode. */
export const HOST_LATENCY_NS = 50_000;

interface Work {
  owner: Owner;
  /** What to call; set when the promise is settled. */
  settle: (() => void) | undefined;
  settled: Promise<void>;
  /** Whether the guest may see it. */
  due: boolean;
}

/** The host work in flight of one machine. */
export class Completions {
  /** Called when {@linkcode run} has something to do. */
  onReady: () => void = () => {};
  readonly #works = new Set<Work>();
  readonly #clock: Clock;
  readonly #fault: FaultSink;

  /**
   * No work in flight.
   *
   * @param clock Virtual time.
   * @param fault Takes the errors of devices.
   */
  constructor(clock: Clock, fault: FaultSink) {
    this.#clock = clock;
    this.#fault = fault;
  }

  /** How much work is in flight or not yet delivered. */
  get count(): number {
    return this.#works.size;
  }

  /**
   * Adds work.
   *
   * @param owner The device that waits.
   * @param promise The work.
   * @param done Takes its result, between slices.
   * @param failed Takes its error, between slices.
   */
  add<R>(
    owner: Owner,
    promise: Promise<R>,
    done: (result: R) => void,
    failed: (error: Error) => void,
  ): void {
    const work: Work = {
      owner,
      settle: undefined,
      settled: Promise.resolve(),
      due: this.#clock.mode === "realtime",
    };
    const ready = (settle: () => void) => {
      work.settle = settle;
      if (work.due) this.onReady();
    };
    work.settled = promise.then(
      (result) => ready(() => done(result)),
      (error) =>
        ready(() =>
          failed(error instanceof Error ? error : new Error(String(error)))
        ),
    );
    this.#works.add(work);
    if (!work.due) {
      const timer = this.#clock.timer(owner, () => work.due = true);
      timer.armAt(this.#clock.now() + HOST_LATENCY_NS);
    }
  }

  /**
   * What must be waited for before the guest may go on; undefined if nothing.
   *
   * @returns Resolves when one more piece of work can be delivered.
   */
  awaited(): Promise<void> | undefined {
    if (this.#clock.mode === "realtime") return undefined;
    for (const work of this.#works) {
      if (work.due && work.settle === undefined) return work.settled;
    }
    return undefined;
  }

  /**
   * Delivers what can be delivered, in the order in which the work began.
   *
   * @returns Whether anything was delivered.
   */
  run(): boolean {
    let delivered = false;
    for (const work of [...this.#works]) {
      if (!work.due || work.settle === undefined) continue;
      this.#works.delete(work);
      delivered = true;
      try {
        work.settle();
      } catch (error) {
        this.#fault(
          new PluginError(
            work.owner,
            "the completion of host work",
            undefined,
            error,
          ),
        );
      }
    }
    return delivered;
  }

  /**
   * Waits until no work is in flight, delivering everything; work that a delivery begins is
   * waited for too.
   */
  async drain(): Promise<void> {
    while (this.#works.size > 0) {
      await Promise.all([...this.#works].map((work) => work.settled));
      for (const work of this.#works) work.due = true;
      this.run();
    }
  }
}
