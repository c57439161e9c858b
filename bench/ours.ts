/**
 * Runs this project's own command, as a user does.
 *
 * @module
 */

import {
  BenchError,
  type CommandLine,
  runSession,
  type Session,
  type SessionOptions,
} from "./session.ts";
import { IN_GUEST, script } from "./script.ts";

const ROOT = new URL("..", import.meta.url);

/**
 * How to run a module of this project.
 *
 * @param module The module, from the project's folder.
 * @param args Its arguments.
 * @returns The command line.
 */
export function denoRun(module: string, args: readonly string[]): CommandLine {
  const url = new URL(module, ROOT);
  return {
    command: Deno.execPath(),
    args: [
      "run",
      "-A",
      url.protocol === "file:" ? path(url) : url.href,
      ...args,
    ],
  };
}

function path(url: URL): string {
  return decodeURIComponent(url.pathname);
}

/**
 * Runs the command.
 *
 * @param args Its arguments.
 * @param options When to end it.
 * @returns Its session.
 */
export function runOurs(
  args: readonly string[],
  options?: SessionOptions,
): Promise<Session> {
  return runSession("ours", denoRun("mod.ts", args), options);
}

/**
 * Runs a script in the Debian guest.
 *
 * @param body Its commands; `mark` and `$bb` are there.
 * @param options When to end it.
 * @returns The command's session.
 */
export function runOursScript(
  body: string,
  options?: SessionOptions,
): Promise<Session> {
  return runOurs(
    ["--guest", "debian", "--exec", script(IN_GUEST, body)],
    options,
  );
}

/** What `boot_rate.ts` prints. */
export interface BootRate {
  /** Instructions from the kernel's entry to the shell. */
  instructions: number;
  /** Seconds of them in which the vCPU ran. */
  cpuSeconds: number;
  /** Seconds in all: also the time in which it waited. */
  seconds: number;
}

/**
 * Boots to the shell and counts instructions, in a process of its own.
 *
 * @returns What was counted.
 * @throws {BenchError} If the boot failed.
 */
export async function measureBootRate(): Promise<BootRate> {
  const session = await runSession(
    "boot_rate.ts",
    denoRun("bench/boot_rate.ts", []),
  );
  const { output } = session.span("boot-rate");
  try {
    return JSON.parse(output) as BootRate;
  } catch (cause) {
    throw new BenchError(`boot_rate.ts printed "${output}", expected JSON`, {
      cause,
    });
  }
}
