// `ctl`: the client of a control socket.

import { Command } from "@cliffy/command";
import { CliError, reason, UsageError } from "./errors.ts";

/** What a user types, and the command of the protocol. */
const VERBS: Readonly<Record<string, string>> = {
  status: "query-status",
  stop: "stop",
  cont: "cont",
  powerdown: "system_powerdown",
  reset: "system_reset",
  quit: "quit",
  checkpoint: "x-checkpoint",
  suspend: "x-suspend",
  "query-devices": "x-query-devices",
};
const WITH_FILE = ["checkpoint", "suspend"];

/** Sends one command; returns what the machine replies. */
async function ask(
  path: string,
  execute: string,
  args: Record<string, unknown>,
): Promise<unknown> {
  let connection: Deno.UnixConn;
  try {
    connection = await Deno.connect({ transport: "unix", path });
  } catch (cause) {
    throw new CliError(
      `cannot reach a machine at "${path}": ${reason(cause)}`,
      undefined,
      { cause },
    );
  }
  const request = (message: unknown) =>
    new TextEncoder().encode(`${JSON.stringify(message)}\n`);
  const writer = connection.writable.getWriter();
  let text = "";
  try {
    await writer.write(request({ execute: "qmp_capabilities" }));
    await writer.write(request({ execute, arguments: args, id: execute }));
    for await (
      const part of connection.readable.pipeThrough(new TextDecoderStream())
    ) {
      text += part;
      const lines = text.split("\n");
      text = lines.pop()!;
      for (const line of lines) {
        const message = JSON.parse(line);
        if (message.id !== execute) continue;
        if (message.error !== undefined) {
          throw new CliError(message.error.desc);
        }
        return message.return;
      }
    }
  } finally {
    try {
      connection.close();
    } catch {
      // The stream has closed it.
    }
  }
  throw new CliError(`the machine at "${path}" ended before it replied`);
}

/**
 * Makes the command.
 *
 * @returns The command `ctl`.
 */
export function ctlCommand() {
  return new Command()
    .description(
      `Control a machine that runs with --control: ${
        Object.keys(VERBS).join(", ")
      }.`,
    )
    .arguments("<socket:file> <verb:string> [file:file]")
    .action(async (_options, socket, verb, file) => {
      if (!Object.hasOwn(VERBS, verb)) {
        throw new UsageError(
          `"${verb}" is no verb of ctl: expected ${
            Object.keys(VERBS).join(", ")
          }`,
        );
      }
      if (WITH_FILE.includes(verb) !== (file !== undefined)) {
        throw new UsageError(
          `ctl ${verb}: expected ${
            file === undefined ? "a FILE to save to" : "no FILE"
          }`,
        );
      }
      const args: Record<string, unknown> = file === undefined
        ? {}
        : { file: absolute(file) };
      const result = await ask(socket, VERBS[verb], args);
      if (JSON.stringify(result) !== "{}") {
        console.log(JSON.stringify(result, null, 2));
      }
    });
}

/** The machine may run in another directory. */
function absolute(file: string): string {
  return file.startsWith("/") ? file : `${Deno.cwd()}/${file}`;
}
