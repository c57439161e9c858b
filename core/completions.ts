/**
 * Host work that a device waits for: its results reach the device between slices.
 *
 * In `realtime` mode a result is delivered when it is there. In `instructions` mode work takes no
 * virtual time: the slice ends with the instruction that began it, and the machine waits for the
 * host. So neither when the host answers nor a pause, which finishes what is in flight, shows in
 * the guest.
 *
 * @module
 */
import type { Clock } from "./clock.ts";
import { type FaultSink, type Owner, PluginError } from "./fault.ts";

interface Work {
  owner: Owner;
  /** What to call; set when the promise is settled. */
  settle: (() => void) | undefined;
  settled: Promise<void>;
}

/** The host work in flight of one machine. */
export class Completions {
  /** Called when {@linkcode run} has something to do. */
  onReady: () => void = () => {};
  /** Called when work began for which the guest must wait. */
  onAwaited: () => void = () => {};
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
    };
    const ready = (settle: () => void) => {
      work.settle = settle;
      this.onReady();
    };
    work.settled = promise.then(
      (result) => ready(() => done(result)),
      (error) =>
        ready(() =>
          failed(error instanceof Error ? error : new Error(String(error)))
        ),
    );
    this.#works.add(work);
    if (this.holdsGuest) this.onAwaited();
  }

  /** Whether there is work that must be delivered before virtual time goes on. */
  get holdsGuest(): boolean {
    return this.#clock.mode === "instructions" && this.#works.size > 0;
  }

  /**
   * What must be waited for before the guest may go on; undefined if nothing.
   *
   * @returns Resolves when one more piece of work can be delivered.
   */
  awaited(): Promise<void> | undefined {
    if (!this.holdsGuest) return undefined;
    for (const work of this.#works) {
      if (work.settle === undefined) return work.settled;
    }
    return undefined;
  }

  /**
   * Delivers what can be delivered, in the order in which the work began; in `instructions` mode
   * nothing overtakes.
   *
   * @returns Whether anything was delivered.
   */
  run(): boolean {
    let delivered = false;
    for (const work of [...this.#works]) {
      if (work.settle === undefined) {
        if (this.holdsGuest) break;
        continue;
      }
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
      this.run();
    }
  }
}
