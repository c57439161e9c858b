/**
 * A guest in a process that shows that it lives.
 *
 * @module
 */

import { BenchError, type CommandLine } from "./session.ts";

const MS_PER_SECOND = 1000;
/** What the guest prints, again and again: a sign of life. */
export const TICK = "@tick";
/** The guest when it is booted: it sleeps, and shows a hundred times a second that it lives. */
export const ALIVE = `$bb mkfifo /tmp/never
exec 3<> /tmp/never
while :; do echo '${TICK}'; read -t 0.01 -u 3 -r line; done
`;
/** What one system took. */
export interface SnapshotTimes {
  /** Seconds that the guest stood still. */
  pause: number;
  /** Seconds from the command to the finished file. */
  save: number;
  /** Seconds from the start of the command to the guest's first output. */
  restore: number;
  /** Bytes of the file. */
  bytes: number;
  /** More numbers, of one of the four. */
  details?: Partial<
    Record<"pause" | "save" | "restore" | "size", Record<string, number>>
  >;
}

/** A machine in a process, its console read. */
export class LiveGuest implements AsyncDisposable {
  readonly #title: string;
  readonly #child: Deno.ChildProcess;
  readonly #reader: ReadableStreamDefaultReader<string>;
  readonly #stderr: Promise<string>;
  readonly #start = performance.now();

  /**
   * Starts it.
   *
   * @param title Names it in errors.
   * @param line The program and its arguments.
   */
  constructor(title: string, { command, args }: CommandLine) {
    this.#title = title;
    this.#child = new Deno.Command(command, {
      args,
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#reader = this.#child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
    this.#stderr = new Response(this.#child.stderr).text();
  }

  /**
   * Waits until the guest shows that it lives.
   *
   * @returns Seconds since the start of the process.
   */
  async alive(): Promise<number> {
    let text = "";
    for (;;) {
      const { value, done } = await this.#reader.read();
      if (done) {
        throw new BenchError(
          `${this.#title}: it ended: ${text}${await this.#stderr}`,
        );
      }
      text += value;
      if (text.includes(TICK)) break;
    }
    const seconds = this.#seconds();
    // The console must not fill up.
    void this.#drain();
    return seconds;
  }

  #seconds(): number {
    return (performance.now() - this.#start) / MS_PER_SECOND;
  }

  /**
   * Waits for its end.
   *
   * @returns What it has printed on standard error.
   */
  errors(): Promise<string> {
    return this.#stderr;
  }

  async #drain(): Promise<void> {
    while (!(await this.#reader.read()).done);
  }

  /** Ends it. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.#child.status;
    await this.#stderr;
  }
}
