/**
 * Gives the thread to others for a moment.
 *
 * @module
 */

/** A macrotask of the event loop, in microseconds where `setTimeout` takes milliseconds. */
export class EventLoopTurn {
  readonly #channel = new MessageChannel();
  #resolve: () => void = () => {};

  constructor() {
    this.#channel.port1.onmessage = () => this.#resolve();
  }

  /** Resolves after the event loop has served what is ready. */
  wait(): Promise<void> {
    return new Promise((resolve) => {
      this.#resolve = resolve;
      this.#channel.port2.postMessage(0);
    });
  }

  /** Lets the process end. */
  close(): void {
    this.#channel.port1.close();
    this.#channel.port2.close();
  }
}
