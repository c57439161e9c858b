/**
 * Runs a program and times what it prints. A guest, or a program on the host, prints marks:
 *
 *     @bench NAME begin|end [SECONDS]
 *
 * one line each; SECONDS is what the guest's own clock says. When a mark arrives, the host's
 * clock and what the process has used are recorded beside it.
 *
 * @module
 */

import { readUsage, type Usage } from "./process.ts";

const MARK = /@bench (\S+) (begin|end)(?: (\d+(?:\.\d+)?))?$/;
/** Lines of the console that an error shows. */
const TAIL_LINES = 12;
const MS_PER_SECOND = 1000;
/** A program that was asked to end is killed after this time. */
const GRACE_MS = 5_000;
const DEFAULT_TIMEOUT_S = 900;

/** A measurement that could not be made; the message says why. */
export class BenchError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "BenchError";
}

/** A program and its arguments. */
export interface CommandLine {
  /** Name or path of the program. */
  command: string;
  /** Its arguments. */
  args: string[];
}

/** A mark, and what the host knew when it arrived. */
export interface Mark {
  /** What is timed. */
  name: string;
  /** Whether it begins or ends. */
  event: "begin" | "end";
  /** Seconds since the program was started. */
  at: number;
  /** Seconds by the guest's clock. */
  guestAt?: number;
  /** What the process had used. */
  usage?: Usage;
}

/** Time between two marks of a name. */
export interface Span {
  /** Seconds by the host's clock. */
  seconds: number;
  /** Seconds by the guest's clock. */
  guestSeconds?: number;
  /** Processor time of the process, in seconds. */
  cpuSeconds?: number;
  /** The lines between the marks. */
  output: string;
}

/** How to run a program. */
export interface SessionOptions {
  /** The program is ended when this name's end is marked; it ends by itself without one. */
  endAfter?: string;
  /** Is told of each mark when it arrives, and of the process. */
  onMark?: (mark: Mark, pid: number) => void;
  /** Seconds after which it is killed. */
  timeoutSeconds?: number;
}

/**
 * Reads a mark.
 * @param line A line, without its line feed.
 * @returns The mark without what the host adds; undefined if the line is none.
 */
export function parseMark(
  line: string,
): Pick<Mark, "name" | "event" | "guestAt"> | undefined {
  const found = MARK.exec(line.trimEnd());
  if (found === null) return undefined;
  const [, name, event, seconds] = found;
  return {
    name,
    event: event as Mark["event"],
    ...(seconds === undefined ? {} : { guestAt: Number(seconds) }),
  };
}

/** A program's run: its lines and marks. */
export class Session {
  /** Every mark, oldest first. */
  readonly marks: Mark[] = [];
  /** Seconds from the start to the end of the program. */
  duration = 0;
  readonly #title: string;
  readonly #lines: string[] = [];
  /** The line after each mark. */
  readonly #places = new Map<Mark, number>();
  #partial = "";
  #errors = "";

  /** @param title Names the program in errors. */
  constructor(title: string) {
    this.#title = title;
  }

  /**
   * Takes what the program has printed.
   *
   * @param text Any part of its output.
   * @param at Seconds since the start.
   * @param usage What the process has used.
   * @returns The marks in it.
   */
  push(text: string, at: number, usage: () => Usage | undefined): Mark[] {
    const lines = (this.#partial + text).split("\n");
    this.#partial = lines.pop()!;
    const found: Mark[] = [];
    for (const line of lines) {
      this.#lines.push(line.trimEnd());
      const parsed = parseMark(line);
      if (parsed === undefined) continue;
      const mark: Mark = { ...parsed, at, usage: usage() };
      this.#places.set(mark, this.#lines.length);
      this.marks.push(mark);
      found.push(mark);
    }
    return found;
  }

  /**
   * Takes what the program has printed on standard error.
   * @param text Any part of it.
   */
  pushError(text: string): void {
    this.#errors += text;
  }

  /**
   * Finds a mark.
   *
   * @param name Whose.
   * @param event Which.
   * @returns The mark.
   * @throws {BenchError} If the program did not print it; with the end of what it did print.
   */
  mark(name: string, event: Mark["event"]): Mark {
    const mark = this.marks.find((each) =>
      each.name === name && each.event === event
    );
    if (mark === undefined) throw this.failure(`no ${event} of ${name}`);
    return mark;
  }

  /**
   * The time between a name's marks.
   *
   * @param name The name.
   * @returns Times and output.
   * @throws {BenchError} If a mark is missing.
   */
  span(name: string): Span {
    const begin = this.mark(name, "begin");
    const end = this.mark(name, "end");
    const span: Span = {
      seconds: end.at - begin.at,
      output: this.#lines.slice(
        this.#places.get(begin),
        this.#places.get(end)! - 1,
      ).join("\n"),
    };
    if (begin.guestAt !== undefined && end.guestAt !== undefined) {
      span.guestSeconds = end.guestAt - begin.guestAt;
    }
    if (begin.usage !== undefined && end.usage !== undefined) {
      span.cpuSeconds = end.usage.cpuSeconds - begin.usage.cpuSeconds;
    }
    return span;
  }

  /**
   * Makes an error that shows the end of the program's output.
   * @param what What went wrong.
   * @returns The error.
   */
  failure(what: string): BenchError {
    const tail = [...this.#lines, this.#partial, ...this.#errors.split("\n")]
      .filter((line) => line.trim() !== "").slice(-TAIL_LINES);
    const shown = tail.length === 0
      ? "it printed nothing"
      : `its last lines:\n${tail.map((line) => `    ${line}`).join("\n")}`;
    return new BenchError(`${this.#title}: ${what}; ${shown}`);
  }
}

/** Decodes a stream of text, piece by piece. */
async function readText(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  take: (text: string) => void,
): Promise<void> {
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    take(text);
  }
}

/**
 * Runs a program to its end.
 *
 * @param title Names it in errors.
 * @param line The program and its arguments.
 * @param options When to end it.
 * @returns What it printed, and when.
 * @throws {BenchError} If it fails or takes too long.
 */
export async function runSession(
  title: string,
  line: CommandLine,
  options: SessionOptions = {},
): Promise<Session> {
  const { endAfter, timeoutSeconds = DEFAULT_TIMEOUT_S } = options;
  const session = new Session(title);
  const start = performance.now();
  const child = new Deno.Command(line.command, {
    args: line.args,
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const seconds = () => (performance.now() - start) / MS_PER_SECOND;
  let asked = false;
  let late = false;
  let killer: ReturnType<typeof setTimeout> | undefined;
  const ask = () => {
    if (asked) return;
    asked = true;
    child.kill("SIGTERM");
    killer = setTimeout(() => child.kill("SIGKILL"), GRACE_MS);
  };
  const timer = setTimeout(() => {
    late = true;
    ask();
  }, timeoutSeconds * MS_PER_SECOND);
  const [status] = await Promise.all([
    child.status.then((status) => {
      session.duration = seconds();
      clearTimeout(timer);
      clearTimeout(killer);
      return status;
    }),
    readText(child.stdout, (text) => {
      const marks = session.push(text, seconds(), () => readUsage(child.pid));
      for (const mark of marks) {
        options.onMark?.(mark, child.pid);
        if (mark.name === endAfter && mark.event === "end") ask();
      }
    }),
    readText(child.stderr, (text) => session.pushError(text)),
  ]);
  if (late) throw session.failure(`took more than ${timeoutSeconds} s`);
  if (!status.success && !asked) {
    throw session.failure(`ended with status ${status.code}`);
  }
  return session;
}
