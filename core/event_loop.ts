/**
 * Gives the thread to others for a moment.
 *
 * @module
 */

/**
 * A message to oneself serves what is ready in JavaScript, but Deno looks at sockets only when the
 * event loop sleeps. After so many milliseconds without, a turn is a sleep, which takes about one.
 */
const SLEEP_EVERY_MS = 20;

/** A macrotask of the event loop, mostly in microseconds where `setTimeout` takes milliseconds. */
export class EventLoopTurn {
  readonly #channel = new MessageChannel();
  #resolve: () => void = () => {};
  #slept = performance.now();

  constructor() {
    this.#channel.port1.onmessage = () => this.#resolve();
  }

  /** Resolves after the event loop has served what is ready. */
  wait(): Promise<void> {
    return new Promise((resolve) => {
      if (performance.now() - this.#slept < SLEEP_EVERY_MS) {
        this.#resolve = resolve;
        this.#channel.port2.postMessage(0);
        return;
      }
      setTimeout(() => {
        this.#slept = performance.now();
        resolve();
      }, 0);
    });
  }

  /** Lets the process end. */
  close(): void {
    this.#channel.port1.close();
    this.#channel.port2.close();
  }
}
