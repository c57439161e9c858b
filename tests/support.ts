// For the tests of the whole machine: Debian's files, the command with input, clean kernel logs.

import { assertEquals } from "@std/assert";
import { COMMAND, type Outcome } from "../cli/testing.ts";
import {
  type DebianGuest,
  type DebianOptions,
  GuestUnavailable,
  prepareDebian,
} from "../host/guests/debian.ts";

/** Gets the guest; undefined where it cannot be had, which a machine of CI may not be. */
async function available(
  options: DebianOptions,
): Promise<DebianGuest | undefined> {
  try {
    return await prepareDebian(options);
  } catch (error) {
    if (
      !(error instanceof GuestUnavailable) || Deno.env.get("CI") === "true"
    ) throw error;
    console.log(`skipped: ${error.message}`);
    return undefined;
  }
}

/**
 * A test that needs a Debian guest: skipped where none can be had, unless CI is "true".
 *
 * @param name What holds.
 * @param test The test; it gets the guest.
 * @param options Which guest.
 */
export function debianTest(
  name: string,
  test: (guest: DebianGuest) => Promise<void>,
  options: DebianOptions = {},
): void {
  Deno.test(name, async () => {
    const guest = await available(options);
    if (guest !== undefined) await test(guest);
  });
}

/** The command while it runs, its console at hand. */
export class Session {
  readonly #process: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reader: ReadableStreamDefaultReader<string>;
  readonly #stderr: Promise<string>;
  #text = "";
  #seen = 0;

  /** @param args Arguments of the command. */
  constructor(...args: string[]) {
    const [program, ...first] = COMMAND;
    this.#process = new Deno.Command(program, {
      args: [...first, ...args],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    }).spawn();
    this.#writer = this.#process.stdin.getWriter();
    this.#reader = this.#process.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
    this.#stderr = new Response(this.#process.stderr).text();
  }

  /** What the guest has printed, as far as it was read. */
  get text(): string {
    return this.#text;
  }

  /**
   * Reads on until the guest has printed it, after what was expected before.
   *
   * @param text What it prints.
   */
  async expect(text: string): Promise<void> {
    for (;;) {
      const at = this.#text.indexOf(text, this.#seen);
      if (at >= 0) {
        this.#seen = at + text.length;
        return;
      }
      const { value, done } = await this.#reader.read();
      if (done) {
        throw new Error(
          `"${text}" is not in:\n${this.#text}${await this.#stderr}`,
        );
      }
      this.#text += value;
    }
  }

  /**
   * Types a line.
   *
   * @param text Without the line's end.
   */
  async type(text: string): Promise<void> {
    await this.#writer.write(new TextEncoder().encode(`${text}\n`));
  }

  /** Ends the command's input, but not the machine. */
  async endInput(): Promise<void> {
    await this.#writer.close();
  }

  /** Waits for the command's end. */
  async end(): Promise<Outcome> {
    for (;;) {
      const { value, done } = await this.#reader.read();
      if (done) break;
      this.#text += value;
    }
    const { code } = await this.#process.status;
    try {
      await this.#writer.close();
    } catch {
      // Closed by the test, or by the command's end.
    }
    return {
      code,
      stdout: this.#text.replaceAll("\r\n", "\n"),
      stderr: await this.#stderr,
    };
  }
}

/** What a kernel says when something is wrong with the machine. */
const COMPLAINTS = [
  /WARNING/,
  /\bBUG\b/,
  /\bOops\b/,
  /unchecked MSR access/,
  /ACPI (BIOS )?(Error|Warning|Exception)/,
  /\[Firmware (Bug|Warn)/,
  /nobody cared/,
  /Call Trace/,
  /unhandled/i,
  /\] .*spurious/i,
  /Kernel panic/,
  /segfault|general protection|invalid opcode/,
  /\bstall/,
  /lockup/,
];

/**
 * Asserts that the kernel has booted and complains of nothing.
 *
 * @param log Its log.
 */
export function assertCleanLog(log: string): void {
  const lines = log.split("\n");
  assertEquals(lines.some((line) => line.includes("Linux version ")), true);
  assertEquals(
    lines.filter((line) => COMPLAINTS.some((pattern) => pattern.test(line))),
    [],
  );
}

/**
 * Runs something with a directory of its own.
 *
 * @param use Gets the directory's path.
 */
export async function withDirectory(
  use: (path: string) => Promise<void>,
): Promise<void> {
  const path = await Deno.makeTempDir({ prefix: "diapause-test-" });
  try {
    await use(path);
  } finally {
    await Deno.remove(path, { recursive: true });
  }
}

/** What CI begins with: whether a change may be merged must not depend on chance. */
const CI_SEED = 20261121;

/**
 * A seed for random choices, printed: another in each run, but for CI. `DIAPAUSE_SEED` gives that
 * of a run that failed.
 */
export function newSeed(): number {
  const given = Deno.env.get("DIAPAUSE_SEED");
  const seed = given !== undefined
    ? Number(given)
    : Deno.env.get("CI") === "true"
    ? CI_SEED
    : crypto.getRandomValues(new Uint32Array(1))[0];
  console.log(`DIAPAUSE_SEED=${seed}`);
  return seed;
}

/**
 * Bytes that look random and are always the same.
 *
 * @param length How many.
 * @param seed Which.
 */
export function noise(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(length / 4));
  let x = seed;
  for (let i = 0; i < words.length; i++) {
    // xorshift32
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    words[i] = x;
  }
  return new Uint8Array(words.buffer, 0, length);
}

/**
 * SHA-256 as `sha256sum` prints it.
 *
 * @param bytes Of what.
 */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}
