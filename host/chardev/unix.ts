// backend=unix=PATH: a UNIX socket that one client at a time may connect to, any number of
// them in a row. Output made while nobody is connected is held for the next client.

import { InputQueue, OUTPUT_HIGH_WATER, OutputQueue } from "./queues.ts";
import { ChardevError } from "./types.ts";
import type { Chardev } from "./types.ts";

const READ_SIZE = 4096;
/** How long a client may take to read the last output. */
const GRACE_MS = 1000;

/** A serial line that listens on a socket. */
export class UnixChardev implements Chardev {
  readonly #path: string;
  readonly #listener: Deno.UnixListener;
  readonly #input = new InputQueue();
  readonly #output = new OutputQueue();
  #client: Deno.UnixConn | undefined;
  #onDrain: () => void = () => {};
  /** Whether the device was told to hold output. */
  #held = false;
  #writing: Promise<void> | undefined;
  #closed = false;
  readonly #serving: Promise<void>;

  private constructor(path: string, listener: Deno.UnixListener) {
    this.#path = path;
    this.#listener = listener;
    this.#serving = this.#serve();
  }

  /**
   * Listens; a socket left behind by a process that is gone is replaced.
   *
   * @param path Where.
   * @returns The chardev.
   * @throws {ChardevError} If the path cannot be listened on.
   */
  static async open(path: string): Promise<UnixChardev> {
    const listen = () => Deno.listen({ transport: "unix", path });
    try {
      return new UnixChardev(path, listen());
    } catch (cause) {
      try {
        if (await isAbandoned(path)) {
          await Deno.remove(path);
          return new UnixChardev(path, listen());
        }
      } catch {
        // The first error says more.
      }
      throw new ChardevError(
        `cannot listen on console socket "${path}": ${
          (cause as Error).message
        }`,
        { cause },
      );
    }
  }

  /** Sends the bytes to the client, or holds them for the next one. */
  write(bytes: Uint8Array): boolean {
    this.#output.push(bytes);
    this.#startWriting();
    this.#held = this.#client !== undefined &&
      this.#output.length > OUTPUT_HIGH_WATER;
    return !this.#held;
  }

  /** Sets who takes what clients send. */
  onInput(accept: (bytes: Uint8Array) => number): void {
    this.#input.open(accept);
  }

  /** Offers input that was not taken. */
  ready(): void {
    this.#input.offer();
  }

  /** Sets who is told that output flows again. */
  onDrain(listener: () => void): void {
    this.#onDrain = listener;
  }

  /** Sends what is held, hangs up, and removes the socket. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#listener.close();
    await this.#lastWrites();
    this.#client?.close();
    this.#client = undefined;
    await Deno.remove(this.#path).catch(() => {});
  }

  /** Settles when the socket no longer accepts. */
  get done(): Promise<void> {
    return this.#serving;
  }

  /** Waits for the client to take what is held, but not for one that does not read. */
  async #lastWrites(): Promise<void> {
    if (!this.#writing) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, GRACE_MS);
    await Promise.race([this.#writing, promise]);
    clearTimeout(timer);
  }

  async #serve(): Promise<void> {
    while (!this.#closed) {
      let client: Deno.UnixConn;
      try {
        client = await this.#listener.accept();
      } catch {
        return; // Closed.
      }
      this.#client = client;
      this.#startWriting();
      await this.#read(client);
      if (this.#client !== client) return; // Closed, by close().
      this.#client = undefined;
      client.close();
      this.#release();
    }
  }

  /** Reads until the client hangs up. */
  async #read(client: Deno.UnixConn): Promise<void> {
    const buffer = new Uint8Array(READ_SIZE);
    try {
      for (;;) {
        const n = await client.read(buffer);
        if (n === null) return;
        this.#input.push(buffer.slice(0, n));
        await this.#input.room();
      }
    } catch {
      // A connection that breaks is a client that hung up.
    }
  }

  #startWriting(): void {
    if (this.#writing || !this.#client || this.#output.length === 0) return;
    this.#writing = this.#drain(this.#client).finally(() => {
      this.#writing = undefined;
    });
  }

  async #drain(client: Deno.UnixConn): Promise<void> {
    // One turn later, so that the bytes of a burst go out together.
    await Promise.resolve();
    while (this.#output.length > 0) {
      const bytes = this.#output.take();
      let sent = 0;
      try {
        while (sent < bytes.length) {
          sent += await client.write(bytes.subarray(sent));
        }
      } catch {
        this.#output.unshift(bytes.subarray(sent));
        return; // The reader finds out that the client is gone.
      }
      this.#release();
    }
  }

  /** Lets the device go on. */
  #release(): void {
    if (!this.#held) return;
    this.#held = false;
    this.#onDrain();
  }
}

/** Whether a socket file exists that nobody listens on. */
async function isAbandoned(path: string): Promise<boolean> {
  if (!(await Deno.lstat(path)).isSocket) return false;
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return false;
  } catch (error) {
    return error instanceof Deno.errors.ConnectionRefused;
  }
}
