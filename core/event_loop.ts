/**
 * Gives the thread to others for a moment.
 *
 * @module
 */

/**
 * A message to oneself serves what is ready in JavaScript, but Deno looks at sockets, files and
 * other threads only when the event loop sleeps. After so many milliseconds without, a turn is a
 * sleep, which takes about one.
 */
const SLEEP_EVERY_MS = 20;
/** The same while somebody waits for one answer of the host after the other. */
const EAGER_SLEEP_EVERY_MS = 3;

/** A macrotask of the event loop, mostly in microseconds where `setTimeout` takes milliseconds. */
export class EventLoopTurn {
  readonly #channel = new MessageChannel();
  #resolve: () => void = () => {};
  #slept = performance.now();

  constructor() {
    this.#channel.port1.onmessage = () => this.#resolve();
  }

  /**
   * Resolves after the event loop has served what is ready.
   *
   * @param eager Whether the host's answers are waited for: a snapshot's, a disk's.
   */
  wait(eager = false): Promise<void> {
    const every = eager ? EAGER_SLEEP_EVERY_MS : SLEEP_EVERY_MS;
    return new Promise((resolve) => {
      if (performance.now() - this.#slept < every) {
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
