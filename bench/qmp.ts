/**
 * A client of QMP, QEMU's machine protocol, which `--control` speaks too.
 *
 * @module
 */

import { BenchError } from "./session.ts";

const POLL_MS = 5;
/** A machine that does not listen after this time never will. */
const PATIENCE_MS = 60_000;

/** A connection to a machine. */
export class Qmp implements Disposable {
  readonly #connection: Deno.UnixConn;
  readonly #buffer = new Uint8Array(1 << 16);
  readonly #decoder = new TextDecoder();
  #text = "";
  #serial = 0;

  private constructor(connection: Deno.UnixConn) {
    this.#connection = connection;
  }

  /**
   * Connects, as soon as somebody listens, and leaves the negotiation behind.
   *
   * @param path The socket.
   * @returns The connection.
   * @throws {BenchError} If nobody listens.
   */
  static async connect(path: string): Promise<Qmp> {
    const start = performance.now();
    for (;;) {
      try {
        const qmp = new Qmp(await Deno.connect({ transport: "unix", path }));
        await qmp.execute("qmp_capabilities");
        return qmp;
      } catch (error) {
        if (error instanceof BenchError) throw error;
        if (performance.now() - start > PATIENCE_MS) {
          throw new BenchError(`nobody listens on ${path}`, { cause: error });
        }
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
    }
  }

  /**
   * Executes a command.
   *
   * @param execute The command.
   * @param args Its arguments.
   * @returns What it returns.
   * @throws {BenchError} If it fails, or the machine ends.
   */
  async execute(
    execute: string,
    args: Readonly<Record<string, unknown>> = {},
  ): Promise<Record<string, unknown>> {
    const id = ++this.#serial;
    const request = new TextEncoder().encode(
      `${JSON.stringify({ execute, arguments: args, id })}\n`,
    );
    for (let at = 0; at < request.length;) {
      at += await this.#connection.write(request.subarray(at));
    }
    for (;;) {
      const message = await this.#message();
      if (message.id !== id) continue;
      if (message.error !== undefined) {
        const { desc } = message.error as { desc: string };
        throw new BenchError(`${execute}: ${desc}`);
      }
      return message.return as Record<string, unknown>;
    }
  }

  /** The next message: an event, a greeting or a reply. */
  async #message(): Promise<Record<string, unknown>> {
    for (;;) {
      const end = this.#text.indexOf("\n");
      if (end >= 0) {
        const line = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 1);
        return JSON.parse(line);
      }
      const read = await this.#connection.read(this.#buffer);
      if (read === null) throw new BenchError("the machine closed its socket");
      this.#text += this.#decoder.decode(this.#buffer.subarray(0, read), {
        stream: true,
      });
    }
  }

  /** Closes the connection. */
  [Symbol.dispose](): void {
    this.#connection.close();
  }
}
