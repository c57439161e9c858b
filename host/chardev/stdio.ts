// backend=stdio: the terminal or pipes this process was started with. The end of standard
// input is the end of input, not of the machine.

import type { TerminalSize } from "../../core/plugin.ts";
import { enterRawMode, EscapeFilter } from "../terminal.ts";
import type { EscapeCommands } from "../terminal.ts";
import { Batch, InputQueue } from "./queues.ts";
import type { Chardev } from "./types.ts";

const READ_SIZE = 1024;

/** Where a {@linkcode StdioChardev} reads and writes. */
export interface StdioStreams {
  /** Reads input; `null` at its end. */
  read(buffer: Uint8Array): Promise<number | null>;
  /** Writes output, all or part. */
  writeSync(bytes: Uint8Array): number;
  /** The size of the terminal that is written to; absent, or undefined, where it is none. */
  size?(): TerminalSize | undefined;
}

const PROCESS_STREAMS: StdioStreams = {
  read: (buffer) => Deno.stdin.read(buffer),
  writeSync: (bytes) => Deno.stdout.writeSync(bytes),
  size: () => Deno.stdout.isTerminal() ? Deno.consoleSize() : undefined,
};

/** A serial line on standard input and output. */
export class StdioChardev implements Chardev {
  readonly #streams: StdioStreams;
  readonly #filter: EscapeFilter;
  readonly #input = new InputQueue();
  readonly #output = new Batch((bytes) => this.#print(bytes));
  /** Whether someone types: what they type ahead of a stuck guest may be dropped. */
  readonly #interactive: boolean;
  #closed = false;
  #restore: () => void = () => {};
  #resized: (() => void) | undefined;

  /**
   * @param commands What the keys after Ctrl-A do.
   * @param streams Standard input and output, unless a test says otherwise.
   */
  constructor(
    commands: EscapeCommands,
    streams: StdioStreams = PROCESS_STREAMS,
  ) {
    this.#filter = new EscapeFilter(commands);
    this.#streams = streams;
    this.#interactive = streams === PROCESS_STREAMS &&
      Deno.stdin.isTerminal();
    if (this.#interactive) this.#restore = enterRawMode();
    this.#read();
  }

  /** Writes the bytes at the end of the turn, or when a batch is full. */
  write(bytes: Uint8Array): boolean {
    this.#output.push(bytes);
    return true;
  }

  /** Sets who takes what is typed. */
  onInput(accept: (bytes: Uint8Array) => number): void {
    this.#input.open(accept);
  }

  /** Offers what was typed and not taken. */
  ready(): void {
    this.#input.offer();
  }

  /** Never calls back: writing to standard output waits for its reader. */
  onDrain(): void {}

  /** The size of the terminal. */
  get size(): TerminalSize | undefined {
    return this.#streams.size?.();
  }

  /** Sets who is told when the terminal gets another size. */
  onResize(listener: () => void): void {
    if (!this.#interactive || this.#closed) return;
    this.#forgetResize();
    this.#resized = listener;
    Deno.addSignalListener("SIGWINCH", listener);
  }

  #forgetResize(): void {
    if (this.#resized === undefined) return;
    Deno.removeSignalListener("SIGWINCH", this.#resized);
    this.#resized = undefined;
  }

  /** Writes the rest and gives the terminal back. */
  close(): Promise<void> {
    this.#closed = true;
    this.#forgetResize();
    this.#output.flush();
    this.#restore();
    return Promise.resolve();
  }

  async #read(): Promise<void> {
    const buffer = new Uint8Array(READ_SIZE);
    try {
      for (;;) {
        const n = await this.#streams.read(buffer);
        if (n === null || this.#closed) return;
        // Read on while the guest takes nothing, or Ctrl-A would not work.
        const bytes = this.#filter.feed(buffer.subarray(0, n));
        if (bytes.length === 0) continue;
        if (!this.#interactive) await this.#input.room();
        if (!this.#input.full) this.#input.push(bytes);
      }
    } catch {
      // Input that cannot be read (a closed descriptor, a terminal gone) has ended.
    }
  }

  #print(bytes: Uint8Array): void {
    try {
      for (let offset = 0; offset < bytes.length;) {
        offset += this.#streams.writeSync(bytes.subarray(offset));
      }
    } catch {
      // Nobody reads our output any more (a closed pipe): the guest runs on unseen.
    }
  }
}
