/**
 * Requests of a disk that wait for its image: each is a generator that yields operations on the
 * image and goes on when they are done.
 *
 * @module
 */
import type {
  BlockBackend,
  DeviceContext,
  ImmediateBlock,
} from "../../core/plugin.ts";

/** One step of a request: an operation on the image. */
export type BlockWork = (
  block: BlockBackend | ImmediateBlock,
) => Promise<void> | void;

/** The steps of a request; what it returns is its result. An operation that fails throws in it. */
export type BlockSteps<R> = Generator<BlockWork, R>;

interface Request {
  /** Nothing of it may reach the guest any more. */
  cancelled: boolean;
  /** What it waits for: settles when the host has finished, and takes the result to the request, once. */
  waiting?: {
    readonly settled: Promise<Error | null>;
    take(failure: Error | null): void;
  };
}

/** The requests of one disk. */
export class BlockRequests {
  readonly #ctx: DeviceContext<unknown, "block">;
  readonly #running = new Set<Request>();
  /** Requests that wait until the host has let go of those that were cancelled. */
  #queued: (() => void)[] = [];

  /** @param ctx What the disk sees of the machine. */
  constructor(ctx: DeviceContext<unknown, "block">) {
    this.#ctx = ctx;
  }

  /** Whether nothing is under way. */
  get idle(): boolean {
    return this.#running.size === 0 && this.#queued.length === 0;
  }

  /**
   * Begins a request. It must not meet one that was cancelled and that the host still works on, so
   * it waits for those.
   *
   * @param steps What it does.
   * @param done Takes its result, perhaps before this returns; not called once it is cancelled.
   */
  start<R>(steps: BlockSteps<R>, done: (result: R) => void): void {
    const request: Request = { cancelled: false };
    const begin = () => {
      this.#running.add(request);
      this.#advance(request, steps, done, null);
    };
    if ([...this.#running].some(({ cancelled }) => cancelled)) {
      this.#queued.push(begin);
    } else begin();
  }

  /** Forgets every request: none of them calls `done`. */
  cancel(): void {
    this.#queued = [];
    for (const request of this.#running) request.cancelled = true;
  }

  /** Resolves when nothing is under way. */
  async drain(): Promise<void> {
    while (this.#running.size > 0) {
      const [{ waiting }] = this.#running;
      waiting?.take(await waiting.settled);
    }
  }

  #advance<R>(
    request: Request,
    steps: BlockSteps<R>,
    done: (result: R) => void,
    failure: Error | null,
  ): void {
    let failed = failure;
    while (!request.cancelled) {
      const step = failed === null ? steps.next() : steps.throw(failed);
      failed = null;
      if (step.done) {
        this.#running.delete(request);
        done(step.value);
        return;
      }
      try {
        const work = step.value(
          this.#ctx.backend.immediate ?? this.#ctx.backend,
        );
        if (work !== undefined) {
          this.#wait(
            request,
            work,
            (error) => this.#advance(request, steps, done, error),
          );
          return;
        }
      } catch (error) {
        failed = error as Error;
      }
    }
    this.#running.delete(request);
    if (this.#running.size === 0) {
      for (const begin of this.#queued.splice(0)) begin();
    }
  }

  /** Lets a request wait for the host. Its result is taken between slices, or earlier by a pause. */
  #wait(
    request: Request,
    work: Promise<void>,
    go: (failure: Error | null) => void,
  ): void {
    const waiting = {
      settled: work.then(() => null, (error: Error) => error),
      take: (failure: Error | null) => {
        if (request.waiting !== waiting) return;
        request.waiting = undefined;
        go(failure);
      },
    };
    request.waiting = waiting;
    this.#ctx.async(
      work,
      () => waiting.take(null),
      (error) => waiting.take(error),
    );
  }
}
