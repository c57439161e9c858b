// A bounded number of requests at a time; the others wait in the order in which they came.

/** Requests that are done at the same time. */
const SLOTS = 64;

/** Lets a bounded number of requests go on at a time. */
export class RequestQueue {
  #free = SLOTS;
  readonly #waiting: (() => void)[] = [];

  /** Waits for a slot; undefined where there is one. */
  acquire(): Promise<void> | undefined {
    if (this.#free > 0) {
      this.#free--;
      return undefined;
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Gives a slot to who waits for it. */
  release(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free++;
    else next();
  }
}
