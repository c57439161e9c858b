// For the tests of the command: runs it, and makes tiny kernels for it.

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
