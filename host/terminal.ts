// The terminal this process runs on: raw mode, given back on every way out, and the keys
// that are for the emulator rather than for the guest.

/** ^A, the key after which one key is a command. */
const ESCAPE = 0x01;

/** Signals that end the process; the terminal is restored before each. */
const ENDING_SIGNALS: readonly Deno.Signal[] = [
  "SIGHUP",
  "SIGINT",
  "SIGQUIT",
  "SIGTERM",
];

/** Exit status of a process that a signal ended, as shells report it. */
const SIGNAL_EXIT_BASE = 128;
const SIGNAL_NUMBERS: Readonly<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGPIPE: 13,
  SIGTERM: 15,
};

/**
 * The exit code that tells of a signal.
 *
 * @param signal One of those that {@linkcode onEndingSignal} waits for, or SIGPIPE.
 * @returns 128 and the signal's number, as shells have it.
 */
export function signalExitCode(signal: Deno.Signal): number {
  return SIGNAL_EXIT_BASE + SIGNAL_NUMBERS[signal];
}

/** What the keys after ^A do. */
export interface EscapeCommands {
  /** `x`: end the emulator. */
  quit(): void;
  /** `h` or `?`: show the keys. */
  help(): void;
}

/** The text that `Ctrl-A h` shows. */
export const ESCAPE_HELP = [
  "",
  "Ctrl-A h    this help",
  "Ctrl-A x    quit",
  "Ctrl-A Ctrl-A    send Ctrl-A to the guest",
  "",
].join("\r\n");

/**
 * Takes the emulator's own keys out of terminal input.
 *
 * @example
 * ```ts
 * import { EscapeFilter } from "./terminal.ts";
 *
 * const filter = new EscapeFilter({ quit() {}, help() {} });
 * filter.feed(new Uint8Array([0x61, 0x01, 0x01])); // a, ^A
 * ```
 */
export class EscapeFilter {
  readonly #commands: EscapeCommands;
  #escaped = false;

  /** @param commands What the keys do. */
  constructor(commands: EscapeCommands) {
    this.#commands = commands;
  }

  /**
   * Takes input as typed; a command may be split over two calls.
   *
   * @param bytes The input.
   * @returns What is for the guest; keys that mean nothing after ^A are dropped.
   */
  feed(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
    const kept: number[] = [];
    for (const byte of bytes) {
      if (!this.#escaped) {
        if (byte === ESCAPE) this.#escaped = true;
        else kept.push(byte);
        continue;
      }
      this.#escaped = false;
      switch (byte) {
        case ESCAPE:
          kept.push(ESCAPE);
          break;
        case "x".charCodeAt(0):
          this.#commands.quit();
          break;
        case "h".charCodeAt(0):
        case "?".charCodeAt(0):
          this.#commands.help();
          break;
      }
    }
    return Uint8Array.from(kept);
  }
}

let raw = false;

function leaveRawMode(): void {
  if (!raw) return;
  raw = false;
  try {
    Deno.stdin.setRaw(false);
  } catch {
    // The terminal is gone; there is nothing left to restore.
  }
}

/**
 * Puts the terminal on standard input, if it is one, in raw mode: no echo, no line editing,
 * ^C and the like go to the guest. The mode is restored when the process ends in any way
 * that it can see: return, `Deno.exit`, exception, unhandled rejection.
 *
 * @returns Gives the terminal back early; may be called more than once.
 */
export function enterRawMode(): () => void {
  if (!Deno.stdin.isTerminal() || raw) return leaveRawMode;
  Deno.stdin.setRaw(true);
  raw = true;
  for (const event of ["unload", "error", "unhandledrejection"]) {
    globalThis.addEventListener(event, leaveRawMode);
  }
  return leaveRawMode;
}

/**
 * Calls back once when a signal asks the process to end. A second signal ends it at once,
 * with the terminal restored.
 *
 * @param end Ends the machine in order.
 * @returns Stops listening.
 */
export function onEndingSignal(end: (signal: Deno.Signal) => void): () => void {
  let asked = false;
  const listeners = ENDING_SIGNALS.map((signal) => {
    const listener = () => {
      if (asked) {
        leaveRawMode();
        Deno.exit(signalExitCode(signal));
      }
      asked = true;
      end(signal);
    };
    Deno.addSignalListener(signal, listener);
    return { signal, listener };
  });
  return () => {
    for (const { signal, listener } of listeners) {
      Deno.removeSignalListener(signal, listener);
    }
  };
}
