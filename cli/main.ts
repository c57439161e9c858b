// The command: parses the command line, runs what it names, and turns every error into one
// line and an exit code.

import { Command, ValidationError } from "@cliffy/command";
import { DeviceSpecError } from "../core/device_spec.ts";
import denoConfig from "../deno.json" with { type: "json" };
import { CliError, EXIT_DONE, EXIT_FAILED, EXIT_USAGE } from "./errors.ts";
import { checkCommand } from "./check.ts";
import { ctlCommand } from "./ctl.ts";
import { diffCommand, inspectCommand } from "./inspect.ts";
import { pluginsCommand } from "./plugins.ts";
import { runCommand } from "./run.ts";

/** Options of the main command itself; any other means the default command, `run`. */
const MAIN_OPTIONS = ["-h", "--help", "-V", "--version"];

/** Inserts the default command where no command is named. */
function withDefaultCommand(args: readonly string[]): string[] {
  const [first] = args;
  const isRun = first === undefined ||
    first.startsWith("-") && !MAIN_OPTIONS.includes(first);
  return isRun ? ["run", ...args] : [...args];
}

/**
 * Runs the command line.
 *
 * @param args The arguments after the program's name.
 * @returns The exit code.
 */
export async function main(args: readonly string[]): Promise<number> {
  let exitCode = EXIT_DONE;
  const cli = new Command()
    .name("diapause")
    .version(denoConfig.version)
    .description(
      "An x86-64 PC whose devices are plugins. Without a command: run.",
    )
    .help({ colors: false })
    .throwErrors();
  cli.command("run", runCommand((code) => exitCode = code));
  cli.command("plugins", pluginsCommand());
  cli.command("ctl", ctlCommand((code) => exitCode = code));
  cli.command("inspect", inspectCommand());
  cli.command("diff", diffCommand((code) => exitCode = code));
  cli.command("check", checkCommand((code) => exitCode = code));
  try {
    await cli.parse(withDefaultCommand(args));
  } catch (error) {
    return report(error);
  }
  return exitCode;
}

/** Prints an error on standard error; returns the exit code for it. */
function report(error: unknown): number {
  if (error instanceof ValidationError) {
    console.error(`diapause: ${error.message} See --help.`);
    return error.exitCode;
  }
  if (error instanceof DeviceSpecError) {
    console.error(`diapause: ${error.message}`);
    return EXIT_USAGE;
  }
  if (error instanceof CliError) {
    console.error(`diapause: ${error.message}`);
    return error.exitCode;
  }
  // Not the user's doing: the stack is what a report of it needs.
  console.error(
    `diapause: internal error: ${
      error instanceof Error ? error.stack ?? error.message : error
    }`,
  );
  return EXIT_FAILED;
}
