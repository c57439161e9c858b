/**
 * One command in the Debian guest: how it gets in, and how its output and status get out.
 *
 * The command is a file in a second, small archive behind the initramfs. On the console the
 * guest marks where the output begins and where it ended with lines that start with the ASCII
 * record separator and a token. The token is a hash that the command can neither contain nor
 * guess, and the same whenever the same command is run, so that two runs of the machine are
 * equal.
 *
 * @module
 */

import {
  bytes,
  type Infer,
  record,
  SchemaError,
  str,
} from "../../snapshot/schema.ts";
import { encodeCpio } from "./cpio.ts";
import { sha256 } from "./cache.ts";

const RECORD_SEPARATOR = 0x1e;
const LINE_FEED = 0x0a;
const TOKEN_DIGITS = 32;
const PHASES = ["before", "output", "status", "after"] as const;
/** How much of the console before the output is kept for a message. */
const LOG_LIMIT = 64 * 1024;

/** The type of an {@linkcode ExecOutputFilter}'s state in a snapshot. */
export const execStateType = record({
  /** From {@linkcode execToken}. */
  token: str({ max: TOKEN_DIGITS }),
  /** Before the command, in its output, in its status, or after. */
  phase: str({ max: 16 }),
  /** The start of what may be a marker. */
  held: bytes({ max: 64 }),
  /** What has come of the status. */
  status: str({ max: 16 }),
});

/** The state of an {@linkcode ExecOutputFilter}. */
export type ExecState = Infer<typeof execStateType>;

/**
 * The token of a command.
 * @param command The shell command.
 * @returns 32 hexadecimal digits.
 */
export async function execToken(command: string): Promise<string> {
  const text = new TextEncoder().encode(`diapause exec\0${command}`);
  return (await sha256(text)).slice(0, TOKEN_DIGITS);
}

/**
 * The archive that tells the guest what to run.
 * @param command The shell command, of any length and with any characters.
 * @param token From {@linkcode execToken}.
 * @returns A cpio archive to append to the initramfs.
 */
export function execArchive(command: string, token: string): Uint8Array {
  const encoder = new TextEncoder();
  return encodeCpio([
    { path: "exec", type: "directory" },
    {
      path: "exec/command",
      type: "file",
      content: encoder.encode(`${command}\n`),
    },
    { path: "exec/token", type: "file", content: encoder.encode(`${token}\n`) },
  ]);
}

/**
 * Takes a command's output out of what the guest writes to its console.
 *
 * @example
 * ```ts
 * const filter = new ExecOutputFilter(token);
 * filter.push(bytes); // the command's output among these bytes
 * filter.status; // the command's exit status, once it has ended
 * ```
 */
export class ExecOutputFilter {
  readonly #token: string;
  readonly #begin: Uint8Array;
  readonly #exit: Uint8Array;
  #state: typeof PHASES[number] = "before";
  /** The start of what may be a marker. */
  #held: number[] = [];
  #statusText = "";
  #log: number[] = [];

  /** The command's exit status; undefined until it has ended. */
  status: number | undefined;

  /**
   * Waits for the command to begin.
   *
   * @param token The token that the guest was given.
   */
  constructor(token: string) {
    this.#token = token;
    const marker = (what: string) =>
      new TextEncoder().encode(
        `${String.fromCharCode(RECORD_SEPARATOR)}${token} ${what}`,
      );
    this.#begin = marker("begin\n");
    this.#exit = marker("exit ");
  }

  /** What a snapshot keeps of it: all but the console before the command. */
  save(): ExecState {
    return {
      token: this.#token,
      phase: this.#state,
      held: Uint8Array.from(this.#held),
      status: this.#statusText,
    };
  }

  /**
   * One that goes on where another was saved.
   *
   * @param state Its state.
   * @returns The filter.
   */
  static restore(
    { token, phase, held, status }: ExecState,
  ): ExecOutputFilter {
    const filter = new ExecOutputFilter(token);
    const known = PHASES.find((each) => each === phase);
    if (
      known === undefined || (known === "after" && !/^\d{1,3}$/.test(status))
    ) {
      throw new SchemaError(
        "session.exec",
        `is in the phase "${phase}" with the status "${status}": expected ${
          PHASES.join(", ")
        }, and then a number`,
      );
    }
    filter.#state = known;
    filter.#held = [...held];
    filter.#statusText = status;
    if (known === "after") filter.status = parseInt(status, 10);
    return filter;
  }

  /** Whether the command has been started. */
  get started(): boolean {
    return this.#state !== "before";
  }

  /** The last of what was on the console before the command, to explain a failed boot. */
  get log(): string {
    return new TextDecoder().decode(Uint8Array.from(this.#log));
  }

  /**
   * Takes console output.
   * @param bytes What the guest has written.
   * @returns The part of it that the command has written.
   */
  push(bytes: Uint8Array): Uint8Array {
    const out: number[] = [];
    for (const byte of bytes) this.#next(byte, out);
    return Uint8Array.from(out);
  }

  #next(byte: number, out: number[]): void {
    if (this.#state === "after") return;
    if (this.#state === "status") {
      if (byte !== LINE_FEED) {
        this.#statusText += String.fromCharCode(byte);
        return;
      }
      this.status = parseInt(this.#statusText, 10);
      this.#state = "after";
      return;
    }
    const marker = this.#state === "before" ? this.#begin : this.#exit;
    if (byte === marker[this.#held.length]) {
      this.#held.push(byte);
      if (this.#held.length < marker.length) return;
      this.#held = [];
      this.#state = this.#state === "before" ? "output" : "status";
      return;
    }
    // The separator occurs only at a marker's start, so nothing but this byte can start one.
    const plain = this.#held;
    this.#held = [];
    if (byte === RECORD_SEPARATOR) this.#held.push(byte);
    else plain.push(byte);
    if (this.#state === "output") {
      for (const each of plain) out.push(each);
    } else {
      for (const each of plain) this.#log.push(each);
      if (this.#log.length > 2 * LOG_LIMIT) {
        this.#log = this.#log.slice(-LOG_LIMIT);
      }
    }
  }
}
