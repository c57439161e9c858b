// One run: opens what the devices are connected to, makes the machine, boots it, runs it to
// its end, and puts everything back.

import { BootError } from "../core/boot/types.ts";
import type { ClockMode } from "../core/clock.ts";
import { PluginError } from "../core/fault.ts";
import { Machine } from "../core/machine.ts";
import type { RunResult } from "../core/machine.ts";
import { checkManifest } from "../core/machine_file.ts";
import {
  type Backends,
  type CharBackend,
  MachineError,
} from "../core/plugin.ts";
import { ChardevError } from "../host/chardev/mod.ts";
import { Batch } from "../host/chardev/queues.ts";
import type { ExecOutputFilter } from "../host/guests/exec.ts";
import { ProgressReporter } from "../host/guests/progress.ts";
import { InputHub } from "../host/input/hub.ts";
import {
  ESCAPE_HELP,
  onEndingSignal,
  signalExitCode,
} from "../host/terminal.ts";
import { type BackendHost, openBackend } from "./backends.ts";
import { Boot, sessionSchema } from "./boot.ts";
import { checkSnapshot, reportCheck } from "./check.ts";
import type { Checkpoints } from "./checkpoints.ts";
import { Control } from "./control.ts";
import { CliError, EXIT_DONE, EXIT_FAILED, reason } from "./errors.ts";
import { DEFAULT_CLOCK, type RunOptions } from "./run.ts";
import { serveVnc, vncAddress } from "./screen.ts";
import { plan, type PlannedDevice } from "./setup.ts";
import {
  type OpenSnapshot,
  openSnapshot,
  planSnapshot,
  restoreSnapshot,
} from "./snapshots.ts";
import { BLOCK_PAGES, PAGE_BYTES } from "../snapshot/memory_image.ts";
import { openTrace } from "./trace.ts";

/** Guest wall-clock time at the start in `instructions` mode, where runs must be equal. */
const FIXED_WALL_TIME = Date.UTC(2026, 0, 1);

/** Bytes of a block of a memory image. */
const BLOCK_BYTES = BLOCK_PAGES * PAGE_BYTES;
/** A restore of fewer blocks is over before anybody reads of it. */
const LONG_RESTORE_BLOCKS = 128;

function note(message: string): void {
  console.error(`diapause: ${message}`);
}

/**
 * The console of `--exec`: of all that the guest writes, the command's output is shown. When
 * nobody reads it any more, that is told, and the rest is dropped.
 */
function execConsole(
  filter: ExecOutputFilter,
  brokenPipe: () => void,
): CharBackend & { close(): Promise<void> } {
  const batch = new Batch((bytes) => {
    try {
      for (let offset = 0; offset < bytes.length;) {
        offset += Deno.stdout.writeSync(bytes.subarray(offset));
      }
    } catch (error) {
      if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
      brokenPipe();
    }
  });
  return {
    write(bytes) {
      batch.push(filter.push(bytes));
      return true;
    },
    onInput() {},
    ready() {},
    onDrain() {},
    close() {
      batch.flush();
      return Promise.resolve();
    },
  };
}

/** Warnings of one device that are shown. */
const MAX_WARNINGS = 100;

/**
 * Shows what devices warn of. A guest that tries the same again and again is told of once, and one
 * that goes on with ever other mistakes does not fill the user's disk.
 */
function warnings(
  show: (message: string) => void,
): (id: string, message: string) => void {
  const seen = new Map<string, { last: string; count: number }>();
  return (id, message) => {
    const before = seen.get(id) ?? { last: "", count: 0 };
    if (message === before.last || before.count > MAX_WARNINGS) return;
    const count = before.count + 1;
    seen.set(id, { last: message, count });
    show(
      count > MAX_WARNINGS
        ? `${id}: has warned ${MAX_WARNINGS} times: no more is shown`
        : `${id}: ${message}`,
    );
  };
}

/** What has been opened, closed in the opposite order. */
class Closers {
  readonly #closers: (() => void | Promise<void>)[] = [];

  push(close: () => void | Promise<void>): void {
    this.#closers.push(close);
  }

  async closeAll(): Promise<void> {
    for (;;) {
      const close = this.#closers.pop();
      if (close === undefined) return;
      await close();
    }
  }
}

/**
 * Saves the machine on SIGUSR2; a signal that comes meanwhile is one more save. Not on SIGUSR1,
 * on which Deno opens its debugger's port, whoever else listens to it.
 *
 * @returns Ends listening.
 */
function saveOnSignal(checkpoints: Checkpoints, path: string): () => void {
  const onSignal = () =>
    void checkpoints.save(path).then(
      () => note(`saved to "${path}"`),
      (error) => note(reason(error)),
    );
  Deno.addSignalListener("SIGUSR2", onSignal);
  return () => Deno.removeSignalListener("SIGUSR2", onSignal);
}

/** Opens the backend of each device that needs one. */
async function openBackends(
  devices: readonly PlannedDevice[],
  exec: ExecOutputFilter | undefined,
  host: BackendHost,
  brokenPipe: () => void,
  closers: Closers,
): Promise<(Backends[keyof Backends] | undefined)[]> {
  const backends: (Backends[keyof Backends] | undefined)[] = [];
  for (const device of devices) {
    const { id, plugin, options, restoredFrom } = device;
    if (plugin.backend === undefined) {
      backends.push(undefined);
      continue;
    }
    const isConsole = plugin.backend === "char" &&
      options.backend.backend === "stdio";
    if (isConsole && exec !== undefined) {
      const backend = execConsole(exec, brokenPipe);
      closers.push(() => backend.close());
      backends.push(backend);
      continue;
    }
    const open = await openBackend(
      plugin.backend,
      id,
      options.backend,
      host,
      restoredFrom,
      plugin.removable,
    );
    device.image = open.image;
    closers.push(open.close);
    backends.push(open.backend);
  }
  return backends;
}

/** Tells how the run ended, where that needs telling; returns the exit code. */
function conclude(
  result: RunResult,
  exec: ExecOutputFilter | undefined,
  signal: Deno.Signal | undefined,
  suspended: string | undefined,
): number {
  switch (result.reason) {
    case "triple-fault":
      note("the guest's processor shut down: triple fault");
      console.error(result.state);
      return EXIT_FAILED;
    case "plugin-error":
      note(result.error.message);
      return EXIT_FAILED;
    case "memory-lost":
      note(`memory cannot be loaded: ${reason(result.error)}`);
      return EXIT_FAILED;
  }
  if (exec === undefined) return EXIT_DONE;
  if (exec.status !== undefined) return exec.status;
  if (signal !== undefined) return signalExitCode(signal);
  if (suspended !== undefined) {
    note(
      `the machine was suspended before the command ended: --restore ${suspended} goes on with it`,
    );
  } else if (exec.started) note("the run ended before the command did");
  else {
    note("the run ended before the command began; the guest's console was:");
    console.error(exec.log);
  }
  return EXIT_FAILED;
}

/**
 * Runs until the end; a guest that resets itself boots again, but not for a command.
 *
 * @param machine The machine.
 * @param boot What it boots.
 * @param isRestored Whether it goes on from a snapshot, and boots only after a reset.
 * @param onReset Called before it boots again.
 */
async function runToEnd(
  machine: Machine,
  boot: Boot,
  isRestored: boolean,
  onReset: () => void,
): Promise<RunResult> {
  let isBooted = isRestored;
  for (;;) {
    if (!isBooted) {
      const { kernel, initrd, cmdline } = await boot.load();
      await machine.boot({ kernel, initrd, cmdline });
    }
    const result = await machine.run();
    if (result.reason !== "reset" || boot.exec !== undefined) return result;
    onReset();
    try {
      await boot.load();
    } catch (error) {
      throw new CliError(
        `the guest has reset itself, and cannot boot again: ${reason(error)}`,
        undefined,
        { cause: error },
      );
    }
    machine.reset();
    isBooted = false;
  }
}

/**
 * Runs the command `run`.
 *
 * @param options Its options.
 * @returns The exit code.
 * @throws {CliError} If the command line is wrong, or something cannot be opened.
 */
export async function run(options: RunOptions): Promise<number> {
  if (options.check) {
    return reportCheck(
      options.restore!,
      await checkSnapshot(options.restore!, options),
    );
  }
  const vnc = options.vnc === undefined ? undefined : vncAddress(options.vnc);
  const planned = await plan(options);
  const { trace: kinds } = planned;
  let { memory, devices } = planned;
  let clock: ClockMode = options.clock ?? DEFAULT_CLOCK;
  let nsPerInstruction: number | undefined;
  const closers = new Closers();
  let machine: Machine | undefined;
  let signal: Deno.Signal | undefined;
  let quit = false;
  const end = () => {
    quit = true;
    machine?.stop();
  };
  closers.push(onEndingSignal((received) => {
    signal = received;
    // Until there is a machine there is nothing to end in order.
    if (machine === undefined) Deno.exit(signalExitCode(received));
    end();
  }));
  const brokenPipe = () => {
    signal = "SIGPIPE";
    end();
  };
  try {
    let snapshot: OpenSnapshot | undefined;
    if (options.restore !== undefined) {
      const open = await openSnapshot(options.restore);
      snapshot = open;
      closers.push(() => open.close());
      const { manifest } = open.reader;
      const found = await planSnapshot(open.reader, options.restore, options);
      if (found.blockers.length > 0) {
        throw new CliError(
          `cannot restore "${options.restore}": ${found.blockers.join("; ")}`,
        );
      }
      for (const line of found.notes) note(line);
      clock = checkManifest(manifest);
      ({ memory, nsPerInstruction } = manifest);
      devices = found.devices;
    }
    const { snapshot: target } = options;
    const boot = snapshot === undefined
      ? await Boot.choose(options, note)
      : Boot.restore(snapshot.reader, options, note);
    const trace = openTrace(kinds, options.traceFile);
    closers.push(() => trace.close());
    const host: BackendHost = {
      isRestored: snapshot !== undefined,
      escape: {
        quit: end,
        help: () => console.error(ESCAPE_HELP),
      },
      notify: note,
      input: new InputHub(),
    };
    const warn = warnings(note);
    const backends = await openBackends(
      devices,
      boot.exec,
      host,
      brokenPipe,
      closers,
    );
    machine = await Machine.create({
      memory,
      clock,
      nsPerInstruction,
      rtcBase: clock === "instructions" ? FIXED_WALL_TIME : Date.now(),
      romSize: snapshot?.reader.manifest.romSize,
      hostNow: () => performance.now(),
      devices: devices.map(({ id, specifier, plugin, options }, i) => ({
        id,
        specifier,
        plugin,
        options: options.own,
        backend: backends[i],
      })),
      maxInstructions: options.maxInstructions,
      trace: trace.sinks,
      log: (id, level, message) => {
        if (level === "warn") warn(id, message);
      },
    });
    const made = machine;
    // The file may be closed when nothing is read from it any more.
    let loaded: Promise<void> | undefined;
    closers.push(() => loaded);
    closers.push(() => made.close());
    if (quit) return EXIT_DONE;
    // Not sooner: what is wrong with a device is said in one line, and nothing before it.
    if (boot.notice !== undefined) note(boot.notice);
    machine.session = { schema: sessionSchema, save: () => boot.save() };
    if (snapshot !== undefined) {
      const { lazy } = options;
      const progress = new ProgressReporter();
      try {
        const restored = await restoreSnapshot(
          machine,
          snapshot.reader,
          options.restore!,
          {
            lazy,
            onProgress: (done, total) => {
              if (lazy || total < LONG_RESTORE_BLOCKS) return;
              progress.update({
                what: `diapause: restoring "${options.restore}"`,
                done: done * BLOCK_BYTES,
                total: total * BLOCK_BYTES,
              });
            },
          },
        );
        loaded = restored.loaded;
      } finally {
        await progress.close();
      }
    }
    const control = new Control({
      machine: made,
      devices,
      backends,
      input: host.input,
      prepareReset: async () => void await boot.load(),
    });
    const ended: { result?: RunResult } = {};
    closers.push(() => control.close(ended.result));
    if (target !== undefined) {
      closers.push(saveOnSignal(control.checkpoints, target));
    }
    if (options.control !== undefined) await control.listen(options.control);
    if (vnc !== undefined) {
      const server = serveVnc(vnc, devices, backends, host.input, note);
      closers.push(() => server.close());
    }
    if (target !== undefined || options.control !== undefined) {
      boot.prepareRecord();
    }
    const result = ended.result = await runToEnd(
      machine,
      boot,
      snapshot !== undefined,
      () => control.reset(),
    );
    if (result.reason === "instructions" && target !== undefined) {
      await control.checkpoints.save(target);
    }
    if (options.printHash) {
      const hash = await machine.stateHash();
      await closers.closeAll();
      console.error(`state-hash: ${hash}`);
    }
    return conclude(result, boot.exec, signal, control.suspended);
  } catch (error) {
    if (
      error instanceof MachineError || error instanceof PluginError ||
      error instanceof BootError || error instanceof ChardevError
    ) {
      throw new CliError(reason(error), EXIT_FAILED, { cause: error });
    }
    throw error;
  } finally {
    await closers.closeAll();
  }
}
