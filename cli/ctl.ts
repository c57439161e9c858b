// `ctl`: the client of a control socket.

import { resolve } from "node:path";
import { Command } from "@cliffy/command";
import { formatSize, parseSize } from "../core/device_options.ts";
import { parseDeviceSpecs } from "../core/device_spec.ts";
import { didYouMean } from "../core/nearest.ts";
import { ProgressReporter } from "../host/guests/progress.ts";
import { JsonMessages } from "../host/json_messages.ts";
import type { SnapshotJob } from "./checkpoints.ts";
import { SNAPSHOT_EVENT } from "./control.ts";
import { absoluteSpecifier } from "./devices.ts";
import {
  CliError,
  EXIT_DONE,
  EXIT_FAILED,
  reason,
  UsageError,
} from "./errors.ts";
import { columns } from "./text.ts";

/** The options of the command. */
interface CtlOptions {
  json?: true;
  check?: true;
  incremental?: true;
  force?: true;
}

/** What a user types. */
interface Verb {
  /** The command of the protocol. */
  execute: string;
  /** What follows the verb, for messages. */
  takes?: readonly string[];
  /** What may follow that. */
  mayTake?: readonly string[];
  /** Which of the options it has, beside `--json`. */
  options?: readonly (keyof CtlOptions)[];
  /** Makes the command's arguments. */
  arguments?(words: readonly string[], options: CtlOptions): unknown;
  /** Shows the reply to people; nothing is shown without it. */
  show?(reply: never, words: readonly string[]): string;
}

const KIB = 1 << 10;
const MIB = 1 << 20;
/** Bytes of a reply at most. */
const MAX_REPLY = 16 << 20;

function saved(job: SnapshotJob): string {
  const bytes = job.bytes ?? 0;
  const size = bytes < MIB
    ? `${(bytes / KIB).toFixed(1)} KiB`
    : `${(bytes / MIB).toFixed(1)} MiB`;
  const pause = (job["pause-ms"] ?? 0).toFixed(1);
  return `saved to ${job.file}: ${size}; the machine stood still for ${pause} ms`;
}

function numberOf(name: string, text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isInteger(value)) {
    throw new UsageError(`${name} is "${text}": expected a whole number`);
  }
  return value;
}

const VERBS: Readonly<Record<string, Verb>> = {
  status: {
    execute: "query-status",
    show: ({ status }: { status: string }) => status,
  },
  stop: { execute: "stop" },
  cont: { execute: "cont" },
  powerdown: { execute: "system_powerdown" },
  reset: { execute: "system_reset" },
  quit: { execute: "quit" },
  checkpoint: {
    execute: "x-checkpoint",
    takes: ["FILE"],
    options: ["check", "incremental"],
    arguments: ([file], { check, incremental }) => ({
      file: resolve(file),
      ...incremental && { incremental },
      ...check && { check },
    }),
    show: (reply: SnapshotJob | { blockers: string[] }, [file]) =>
      "blockers" in reply
        ? reply.blockers.length > 0 ? "" : `${file}: can be saved`
        : saved(reply),
  },
  suspend: {
    execute: "x-suspend",
    takes: ["FILE"],
    options: ["incremental"],
    arguments: ([file], { incremental }) => ({
      file: resolve(file),
      ...incremental && { incremental },
    }),
    show: saved,
  },
  "query-snapshot": {
    execute: "x-query-snapshot",
    show: (job: SnapshotJob) =>
      job.status === "completed"
        ? saved(job)
        : job.status === "active"
        ? `saving to ${job.file}: ${job.done} of ${job.total} pages`
        : job.status === "failed"
        ? `failed: ${job.error}`
        : "no snapshot was taken",
  },
  type: {
    execute: "x-type",
    takes: ["TEXT"],
    arguments: ([text]) => ({ text }),
  },
  key: {
    execute: "send-key",
    takes: ["KEYS"],
    arguments: ([keys]) => ({
      keys: keys.split("-").map((data) => ({ type: "qcode", data })),
    }),
  },
  mouse: {
    execute: "x-mouse",
    takes: ["DX", "DY"],
    mayTake: ["BUTTONS"],
    arguments: ([dx, dy, buttons]) => ({
      dx: numberOf("DX", dx),
      dy: numberOf("DY", dy),
      ...buttons !== undefined && { buttons: numberOf("BUTTONS", buttons) },
    }),
  },
  screenshot: {
    execute: "screendump",
    takes: ["FILE"],
    mayTake: ["DEVICE"],
    arguments: ([file, device]) => ({
      filename: resolve(file),
      ...device !== undefined && { device },
    }),
  },
  balloon: {
    execute: "balloon",
    takes: ["SIZE"],
    arguments: ([size]) => {
      const value = parseSize(size);
      if (value === undefined) {
        throw new UsageError(
          `SIZE is "${size}": expected the memory that the guest is to have, such as 512M`,
        );
      }
      return { value };
    },
  },
  "query-balloon": {
    execute: "query-balloon",
    show: ({ actual }: { actual: number }) => formatSize(actual),
  },
  "query-devices": {
    execute: "x-query-devices",
    show: (devices: { id: string; plugin: string; version: string }[]) =>
      columns(
        devices.map(({ id, plugin, version }) => [id, `${plugin} ${version}`]),
      ).join("\n"),
  },
  eject: {
    execute: "eject",
    takes: ["ID"],
    options: ["force"],
    arguments: ([id], { force }) => ({ id, ...force && { force } }),
  },
  change: {
    execute: "blockdev-change-medium",
    takes: ["ID", "FILE"],
    options: ["force"],
    arguments: ([id, file], { force }) => ({
      id,
      filename: resolve(file),
      ...force && { force },
    }),
  },
  "replace-device": {
    execute: "x-replace-device",
    takes: ["ID", "SPEC"],
    arguments: ([id, text]) => {
      const [spec, ...more] = parseDeviceSpecs(text);
      if (more.length > 0) {
        throw new UsageError(`"${text}" is more than one device: expected one`);
      }
      const name = absoluteSpecifier(spec.name);
      const version = spec.version === undefined ? "" : `@${spec.version}`;
      return {
        id,
        specifier: `${name}${version}`,
        options: Object.fromEntries(spec.options),
      };
    },
  },
};

/** Sends one command; returns what the machine replies. */
async function ask(
  path: string,
  execute: string,
  args: unknown,
  onEvent: (name: string, data: unknown) => void,
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
  const messages = new JsonMessages(MAX_REPLY);
  try {
    const writer = connection.writable.getWriter();
    await writer.write(request({ execute: "qmp_capabilities" }));
    await writer.write(request({ execute, arguments: args, id: execute }));
    for await (const part of connection.readable) {
      for (const text of messages.push(part)) {
        const message = JSON.parse(text);
        if (message.event !== undefined) onEvent(message.event, message.data);
        if (message.id !== execute) continue;
        if (message.error !== undefined) {
          throw new CliError(message.error.desc);
        }
        return message.return;
      }
    }
  } catch (error) {
    const isOurs = error instanceof CliError;
    if (isOurs || !(error instanceof Error)) throw error;
    throw new CliError(
      `the machine at "${path}" cut the connection: ${reason(error)}`,
      undefined,
      { cause: error },
    );
  } finally {
    try {
      connection.close();
    } catch {
      // The stream has closed it.
    }
  }
  throw new CliError(`the machine at "${path}" ended before it replied`);
}

/** What follows a verb, as messages say it. */
function usage({ takes = [], mayTake = [] }: Verb): string {
  return [...takes, ...mayTake.map((name) => `[${name}]`)].join(" ");
}

/** Checks what follows the verb. */
function checkWords(
  verb: string,
  words: readonly string[],
  options: CtlOptions,
): Verb {
  if (!Object.hasOwn(VERBS, verb)) {
    const names = Object.keys(VERBS);
    throw new UsageError(
      `"${verb}" is no verb of ctl: expected ${names.join(", ")}.${
        didYouMean(verb, names)
      }`,
    );
  }
  const { takes = [], mayTake = [], options: known = [] } = VERBS[verb];
  if (
    words.length < takes.length ||
    words.length > takes.length + mayTake.length
  ) {
    throw new UsageError(
      `ctl ${verb}: expected ${usage(VERBS[verb]) || "nothing"} after it`,
    );
  }
  for (const name of Object.keys(options) as (keyof CtlOptions)[]) {
    if (name !== "json" && !known.includes(name)) {
      throw new UsageError(`ctl ${verb} has no option --${name}`);
    }
  }
  return VERBS[verb];
}

/** Shows how far a snapshot has come, where somebody watches. */
function showProgress(reporter: ProgressReporter, job: SnapshotJob): void {
  const { file, done, total, status } = job;
  if (status !== "active" || !total || !Deno.stderr.isTerminal()) return;
  const PAGE = 4096;
  reporter.update({
    what: `saving to ${file}`,
    done: (done ?? 0) * PAGE,
    total: total * PAGE,
  });
}

/**
 * Makes the command.
 *
 * @param setExitCode Takes 1 when a check finds something.
 * @returns The command `ctl`.
 */
export function ctlCommand(setExitCode: (code: number) => void) {
  return new Command()
    .description(
      `Control a machine that runs with --control: ${
        Object.entries(VERBS).map(([name, verb]) =>
          `${name} ${usage(verb)}`.trim()
        ).join(", ")
      }.`,
    )
    .arguments(
      "<socket:file> <verb:string> [first:string] [second:string] [third:string]",
    )
    .option("--json", "Print the machine's reply as JSON.")
    .option("--check", "Only list what is in the way of a checkpoint.")
    .option("--incremental", "Leave out what the last snapshot has.")
    .option("--force", "Take the medium though the guest keeps it in.")
    .action(async (options, socket, name, first, second, third) => {
      const words = [first, second, third].filter((word) => word !== undefined);
      const verb = checkWords(name, words, options);
      const reporter = new ProgressReporter();
      let reply: unknown;
      try {
        reply = await ask(
          socket,
          verb.execute,
          verb.arguments?.(words, options) ?? {},
          (event, data) => {
            if (event === SNAPSHOT_EVENT) {
              showProgress(reporter, data as SnapshotJob);
            }
          },
        );
      } finally {
        await reporter.close();
      }
      const { blockers = [] } = reply as { blockers?: string[] };
      setExitCode(blockers.length > 0 ? EXIT_FAILED : EXIT_DONE);
      if (options.json) {
        console.log(JSON.stringify(reply, null, 2));
        return;
      }
      for (const line of blockers) console.error(`diapause: ${line}`);
      const text = verb.show?.(reply as never, words) ?? "";
      if (text !== "") console.log(text);
    });
}
