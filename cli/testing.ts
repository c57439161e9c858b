// For the tests of the command: runs it, and makes tiny kernels for it.

import { JsonMessages } from "../host/json_messages.ts";
import { fakeElf } from "../core/boot/testing.ts";
import { PM_BASE, SLP_TYP_S5 } from "../core/boot/acpi/dsdt.ts";

const ROOT = new URL("..", import.meta.url).pathname;

/** The command's path and first arguments. */
export const COMMAND: readonly string[] = [
  Deno.execPath(),
  "run",
  "-A",
  `${ROOT}mod.ts`,
];

/** How a run of the command ended. */
export interface Outcome {
  /** Exit code. */
  code: number;
  /** Standard output. */
  stdout: string;
  /** Standard error. */
  stderr: string;
}

/**
 * Runs the command with no input.
 *
 * @param args Its arguments.
 * @returns How it ended.
 */
export async function diapause(...args: string[]): Promise<Outcome> {
  const [program, ...first] = COMMAND;
  const { code, stdout, stderr } = await new Deno.Command(program, {
    args: [...first, ...args],
    stdin: "null",
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  return {
    code,
    stdout: decoder.decode(stdout),
    stderr: decoder.decode(stderr),
  };
}

/** Where the tiny kernels are loaded. */
const KERNEL_BASE = 0x100000;

/** Machine code in 64-bit mode. */
export const CODE = {
  /** hlt; jmp to it: for ever. */
  idle: [0xf4, 0xeb, 0xfd],
  /** lidt of ten zero bytes behind the code; int3. */
  tripleFault: [0x0f, 0x01, 0x1d, 1, 0, 0, 0, 0xcc, ...new Array(10).fill(0)],
  /** Reads a byte from a port. */
  readPort: (port: number) => [0x66, 0xba, port & 0xff, port >> 8, 0xec],
  /** Turns the machine off: SLP_EN with the type of S5 to PM1a_CNT (ACPI 6.4, 4.8.3.2). */
  powerOff: [
    ...[0x66, 0xba, PM_BASE + 4 & 0xff, PM_BASE + 4 >> 8],
    ...[0x66, 0xb8, 0, 0x20 | SLP_TYP_S5 << 2],
    ...[0x66, 0xef],
  ],
  /** Waits until the first uart has input. */
  waitForInput: [
    ...[0x66, 0xba, 0xfd, 0x03],
    ...[0xec, 0xa8, 1, 0x74, 0xfb],
  ],
  /** Resets the machine: 0xCF9 (ICH9 datasheet, 13.7.5). */
  reset: [0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee],
  /** Writes a letter to the first uart. */
  print: (letter: string) => [
    ...[0x66, 0xba, 0xf8, 0x03, 0xb0],
    letter.charCodeAt(0),
    0xee,
  ],
} as const;

/**
 * Writes a kernel to a temporary file.
 *
 * @param code What it does, one after the other.
 * @returns The file's path.
 */
export async function kernelFile(
  ...code: (readonly number[])[]
): Promise<string> {
  const path = await Deno.makeTempFile({ suffix: ".elf" });
  await Deno.writeFile(
    path,
    fakeElf({
      bits: 64,
      physical: KERNEL_BASE,
      entry: BigInt(KERNEL_BASE),
      content: Uint8Array.from(code.flat()),
    }),
  );
  return path;
}

/** A client of a control socket, a message at a time. */
export class Qmp {
  readonly #messages = new JsonMessages(1 << 20);
  readonly #queue: Record<string, unknown>[] = [];
  readonly #connection: Deno.UnixConn;

  private constructor(connection: Deno.UnixConn) {
    this.#connection = connection;
  }

  /**
   * Connects, and takes the greeting.
   *
   * @param path The socket.
   */
  static async open(path: string): Promise<Qmp> {
    const client = new Qmp(await Deno.connect({ transport: "unix", path }));
    await client.next();
    return client;
  }

  /** The next reply or event; `{ closed: true }` at the end. */
  async next(): Promise<Record<string, unknown>> {
    const buffer = new Uint8Array(4096);
    while (this.#queue.length === 0) {
      const read = await this.#connection.read(buffer).catch(() => null);
      if (read === null) return { closed: true };
      for (const text of this.#messages.push(buffer.subarray(0, read))) {
        this.#queue.push(JSON.parse(text));
      }
    }
    return this.#queue.shift()!;
  }

  /**
   * Sends what is given, as it is.
   *
   * @param text A message, or a part of one.
   */
  async send(text: string | Uint8Array): Promise<void> {
    const bytes = typeof text === "string"
      ? new TextEncoder().encode(text)
      : text;
    for (let at = 0; at < bytes.length;) {
      at += await this.#connection.write(bytes.subarray(at));
    }
  }

  /**
   * Sends a message.
   *
   * @param text The message.
   * @returns What comes next.
   */
  async ask(text: string): Promise<Record<string, unknown>> {
    await this.send(text);
    return await this.next();
  }

  /**
   * Gives a command.
   *
   * @param execute Its name.
   * @param args Its arguments.
   * @returns What it returns; events before it are left out.
   * @throws {Error} When it is refused, or the machine ends.
   */
  async execute(
    execute: string,
    args: Record<string, unknown> = {},
  ): Promise<unknown> {
    await this.send(JSON.stringify({ execute, arguments: args, id: execute }));
    for (;;) {
      const { closed, id, error, return: value } = await this.next();
      if (error !== undefined) {
        throw new Error((error as { desc: string }).desc);
      }
      if (id === execute) return value;
      if (closed) throw new Error("the machine ended");
    }
  }

  /** Ends the connection. */
  close(): void {
    this.#connection.close();
  }
}
