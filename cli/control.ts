// The control socket of a run: QMP's commands, and this program's own, on a machine.

import { dirname, resolve } from "node:path";
import { access, constants } from "node:fs/promises";
import { parseDeviceSpecs } from "../core/device_spec.ts";
import type { Machine, RunResult } from "../core/machine.ts";
import type { Backends } from "../core/plugin.ts";
import denoConfig from "../deno.json" with { type: "json" };
import {
  type ControlArguments,
  type ControlCommand,
  ControlError,
  type ControlSocket,
  listenControl,
} from "../host/control.ts";
import type { InputHub } from "../host/input/hub.ts";
import { Checkpoints } from "./checkpoints.ts";
import { CliError, reason } from "./errors.ts";
import { inputCommands } from "./input.ts";
import { mediaCommands } from "./media.ts";
import { hardwareQueries } from "./queries.ts";
import { planReplacement } from "./replacement.ts";
import { displaysOf, screenCommands } from "./screen.ts";
import type { PlannedDevice } from "./setup.ts";

/** Name of the event that tells how far a snapshot has come. */
export const SNAPSHOT_EVENT = "X_SNAPSHOT";

/** What the control socket controls. */
export interface Controlled {
  /** The machine. */
  machine: Machine;
  /** Its devices; what is replaced changes in the list. */
  devices: PlannedDevice[];
  /** What they are connected to. */
  backends: readonly (Backends[keyof Backends] | undefined)[];
  /** Its user. */
  input: InputHub;
  /**
   * Makes sure that the guest could boot again.
   *
   * @throws {CliError} When it could not.
   */
  prepareReset(): Promise<void>;
}

/** The control of one machine. */
export class Control {
  readonly #controlled: Controlled;
  readonly #checkpoints: Checkpoints;
  #socket: ControlSocket | undefined;
  #resetAsked = false;
  #quitAsked = false;
  #suspended: string | undefined;

  /**
   * A control on which nobody listens yet.
   *
   * @param controlled What it controls.
   */
  constructor(controlled: Controlled) {
    this.#controlled = controlled;
    this.#checkpoints = new Checkpoints(
      controlled.machine,
      controlled.devices,
      (job) => this.#socket?.event(SNAPSHOT_EVENT, { ...job }),
    );
  }

  /** The file that the machine was suspended to. */
  get suspended(): string | undefined {
    return this.#suspended;
  }

  /** Takes the machine's snapshots. */
  get checkpoints(): Checkpoints {
    return this.#checkpoints;
  }

  /**
   * Listens for QMP clients.
   *
   * @param path The socket.
   * @throws {CliError} When it cannot be made.
   */
  async listen(path: string): Promise<void> {
    const [major, minor, patch] = denoConfig.version.split(".").map(Number);
    try {
      this.#socket = await listenControl(
        path,
        [major, minor, patch],
        this.#commands([major, minor, patch]),
      );
    } catch (cause) {
      throw new CliError(
        `cannot listen on "${path}": ${reason(cause)}`,
        undefined,
        { cause },
      );
    }
  }

  /** Tells clients that the guest is about to boot again. */
  reset(): void {
    const guest = !this.#resetAsked;
    this.#resetAsked = false;
    // Where the user asked for it, the command has told.
    if (guest) {
      this.#socket?.event("RESET", { guest, reason: "guest-reset" });
    }
  }

  /**
   * Tells clients that the run has ended, and lets them go.
   *
   * @param result Why it ended, if it came to run.
   */
  async close(result?: RunResult): Promise<void> {
    await this.#checkpoints.idle();
    const guest = result?.reason === "poweroff" || result?.reason === "reset" ||
      result?.reason === "triple-fault";
    if (!this.#quitAsked) {
      this.#socket?.event("SHUTDOWN", {
        guest,
        reason: result === undefined
          ? "host-error"
          : SHUTDOWN_REASONS[result.reason],
      });
    }
    await this.#socket?.close();
  }

  #commands(
    version: readonly [number, number, number],
  ): Record<string, ControlCommand> {
    const { machine, devices, backends, input, prepareReset } =
      this.#controlled;
    const [major, minor, micro] = version;
    const tell = (name: string, data?: Record<string, unknown>) =>
      this.#socket?.event(name, data);
    return {
      "query-status": {
        run: () => ({
          status: machine.paused ? "paused" : "running",
          singlestep: false,
          running: !machine.paused,
        }),
      },
      "query-version": {
        run: () => ({ qemu: { micro, minor, major }, package: "diapause" }),
      },
      ...hardwareQueries(machine, devices, backends),
      ...inputCommands(input),
      ...mediaCommands(devices, () => this.#checkpoints.idle()),
      ...screenCommands(displaysOf(devices, backends)),
      stop: {
        run: async () => {
          if (machine.paused) return;
          await machine.pause();
          tell("STOP");
        },
      },
      cont: {
        run: () => {
          if (!machine.paused) return;
          machine.resume();
          tell("RESUME");
        },
      },
      system_powerdown: {
        run: () => {
          machine.pressPowerButton();
          tell("POWERDOWN");
        },
      },
      system_reset: {
        run: async () => {
          await prepareReset();
          this.#resetAsked = true;
          machine.requestReset();
          tell("RESET", { guest: false, reason: "host-qmp-system-reset" });
        },
      },
      quit: { run: () => this.#quit() },
      "x-checkpoint": {
        arguments: {
          file: "string",
          incremental: "boolean?",
          check: "boolean?",
        },
        run: (args) => this.#checkpoint(args),
      },
      "x-suspend": {
        arguments: { file: "string", incremental: "boolean?" },
        run: (args) => this.#suspend(args),
      },
      "x-query-snapshot": { run: () => this.#checkpoints.job },
      balloon: {
        arguments: { value: "number" },
        run: (args) => this.#ask("balloon", args),
      },
      "query-balloon": { run: () => this.#ask("query-balloon", {}) },
      "x-device-command": {
        arguments: { id: "string", command: "string", arguments: "object?" },
        run: (args) => {
          const { id, command, arguments: given = {} } = args as {
            id: string;
            command: string;
            arguments?: Record<string, unknown>;
          };
          return this.#ask(command, given, id);
        },
      },
      "x-query-devices": { run: () => machine.configuration.devices },
      "x-replace-device": {
        arguments: { id: "string", specifier: "string", options: "object?" },
        run: (args) => this.#replace(args),
      },
    };
  }

  #quit(): void {
    this.#quitAsked = true;
    this.#socket?.event("SHUTDOWN", { guest: false, reason: "host-qmp-quit" });
    // After the reply.
    setTimeout(() => this.#controlled.machine.stop());
  }

  async #checkpoint(args: ControlArguments): Promise<unknown> {
    const { file, incremental = false, check = false } = args as {
      file: string;
      incremental?: boolean;
      check?: boolean;
    };
    if (check) return { blockers: await this.#blockers(file, incremental) };
    return await this.#checkpoints.save(fileOf(file), incremental);
  }

  async #suspend(args: ControlArguments): Promise<unknown> {
    const { machine } = this.#controlled;
    const { file, incremental = false } = args as {
      file: string;
      incremental?: boolean;
    };
    const path = fileOf(file);
    const wasPaused = machine.paused;
    await machine.pause();
    try {
      const job = await this.#checkpoints.save(path, incremental);
      this.#suspended = path;
      this.#quit();
      return job;
    } catch (error) {
      if (!wasPaused) machine.resume();
      throw error;
    }
  }

  /** What would keep the machine from being saved; nothing is written. */
  async #blockers(file: string, incremental: boolean): Promise<string[]> {
    const { machine, devices } = this.#controlled;
    const blockers: string[] = [];
    const attempt = async (what: () => unknown) => {
      try {
        await what();
      } catch (error) {
        blockers.push(reason(error));
      }
    };
    await attempt(() => checkTarget(fileOf(file)));
    for (const { image } of devices) await attempt(() => image?.checkPin(file));
    await machine.whilePaused(async () => {
      for (const device of machine.devices) await attempt(() => device.save());
    });
    if (incremental && machine.baseline === undefined) {
      blockers.push(
        "there is no snapshot that an incremental one could build on: take a full one first",
      );
    }
    return blockers;
  }

  /** Asks something of a device: of the first that knows the command, or of that with an id. */
  #ask(name: string, args: ControlArguments, id?: string): unknown {
    const { devices } = this.#controlled.machine;
    const device = devices.find(({ owner, commands }) =>
      id === undefined ? commands.includes(name) : owner.id === id
    );
    if (device === undefined) {
      throw new ControlError(
        id === undefined
          ? `no device of the machine has the command "${name}"`
          : `there is no device "${id}": the machine has ${
            devices.map(({ owner }) => owner.id).join(", ")
          }`,
        id === undefined ? "DeviceNotActive" : "DeviceNotFound",
      );
    }
    if (!device.commands.includes(name)) {
      throw new ControlError(
        `device "${id}" has no command "${name}": expected ${
          device.commands.map((each) => `"${each}"`).join(", ") || "none"
        }`,
      );
    }
    return device.command(name, args);
  }

  async #replace(args: ControlArguments): Promise<void> {
    const { machine, devices } = this.#controlled;
    const { id, specifier, options = {} } = args as {
      id: string;
      specifier: string;
      options?: Record<string, unknown>;
    };
    const index = devices.findIndex((device) => device.id === id);
    if (index < 0) {
      throw new ControlError(
        `there is no device "${id}": the machine has ${
          devices.map((device) => device.id).join(", ")
        }`,
        "DeviceNotFound",
      );
    }
    const [spec, ...more] = parseDeviceSpecs(specifier);
    if (more.length > 0 || spec.id !== undefined) {
      throw new ControlError(
        `"${specifier}": expected one device, without an id`,
      );
    }
    for (const [name, value] of Object.entries(options)) {
      spec.options.set(name, String(value));
    }
    const planned = await planReplacement(devices[index], spec);
    await machine.replaceDevice(id, {
      plugin: planned.plugin,
      specifier: planned.specifier,
      options: planned.changed,
    });
    devices[index] = {
      ...devices[index],
      specifier: planned.specifier,
      plugin: planned.plugin,
    };
  }
}

/** How QEMU names the ends of a run. */
const SHUTDOWN_REASONS: Readonly<Record<RunResult["reason"], string>> = {
  poweroff: "guest-shutdown",
  reset: "guest-reset",
  "triple-fault": "guest-panic",
  "plugin-error": "host-error",
  "memory-lost": "host-error",
  stopped: "host-signal",
  instructions: "host-signal",
};

function fileOf(file: string): string {
  if (file === "") {
    throw new ControlError('"file" is empty: expected the path to save to');
  }
  return resolve(file);
}

/** Checks that a file can be written, without writing it. */
async function checkTarget(path: string): Promise<void> {
  const found = await Deno.stat(path).catch(() => undefined);
  if (found?.isDirectory) {
    throw new CliError(`"${path}" is a folder: expected a file`);
  }
  const folder = dirname(path);
  try {
    await access(folder, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new CliError(`cannot write in "${folder}": ${reason(error)}`);
  }
}
