// Displays of a run: QMP's `screendump`, which `ctl PATH screenshot` asks for, and `--vnc`.

import { resolve } from "node:path";
import type { Backends } from "../core/plugin.ts";
import { type ControlCommand, ControlError } from "../host/control.ts";
import { Display } from "../host/display/display.ts";
import { encodePng } from "../host/display/png.ts";
import {
  parseVncAddress,
  type VncAddress,
  VncError,
  VncServer,
} from "../host/display/vnc.ts";
import type { InputHub } from "../host/input/hub.ts";
import { CliError, reason, UsageError } from "./errors.ts";
import type { PlannedDevice } from "./setup.ts";

/** A display of the machine. */
export interface MachineDisplay {
  /** Id of its device. */
  id: string;
  /** What shows its picture. */
  display: Display;
}

/**
 * The displays of a machine.
 *
 * @param devices Its devices.
 * @param backends What they are connected to.
 */
export function displaysOf(
  devices: readonly PlannedDevice[],
  backends: readonly (Backends[keyof Backends] | undefined)[],
): MachineDisplay[] {
  return devices.flatMap(({ id }, i) => {
    const display = backends[i];
    return display instanceof Display ? [{ id, display }] : [];
  });
}

/**
 * The commands of displays.
 *
 * @param displays The machine's.
 */
export function screenCommands(
  displays: readonly MachineDisplay[],
): Record<string, ControlCommand> {
  return {
    screendump: {
      arguments: { filename: "string", device: "string?", format: "string?" },
      run: async (args) => {
        const { filename, device, format = "png" } = args as {
          filename: string;
          device?: string;
          format?: string;
        };
        if (format !== "png") {
          throw new ControlError(
            `"format" is "${format}": expected png, all that there is`,
          );
        }
        const found = displays.find(({ id }) => id === (device ?? id));
        const picture = found?.display.update();
        if (picture === undefined) {
          const has = displays.map(({ id }) => id).join(", ");
          throw new ControlError(
            device === undefined
              ? "the machine has no display: give it one with --dev vga"
              : `there is no display "${device}": the machine has ${
                has || "none"
              }`,
            "DeviceNotFound",
          );
        }
        const path = resolve(filename);
        try {
          await Deno.writeFile(path, encodePng(picture));
        } catch (error) {
          throw new ControlError(`cannot write "${path}": ${reason(error)}`);
        }
      },
    },
  };
}

/** Host names of this host alone. */
const LOOPBACK = /^(127\.|::1$|localhost$)/;

/**
 * Reads the option `--vnc`.
 *
 * @param text Its value.
 * @throws {UsageError} When it is no address.
 */
export function vncAddress(text: string): VncAddress {
  try {
    return parseVncAddress(text);
  } catch (error) {
    if (error instanceof VncError) throw new UsageError(error.message);
    throw error;
  }
}

/**
 * Shows the first display to VNC clients.
 *
 * @param address Where.
 * @param devices The machine's devices.
 * @param backends What they are connected to.
 * @param input Who gets the clients' keys.
 * @param note Takes what the user should know.
 * @returns The server.
 * @throws {CliError} When there is no display, or nobody can listen there.
 */
export function serveVnc(
  address: VncAddress,
  devices: readonly PlannedDevice[],
  backends: readonly (Backends[keyof Backends] | undefined)[],
  input: InputHub,
  note: (message: string) => void,
): VncServer {
  const [first] = displaysOf(devices, backends);
  if (first === undefined) {
    throw new CliError(
      "--vnc: the machine has no display: give it one with --dev vga",
    );
  }
  if (address.transport === "tcp" && !LOOPBACK.test(address.hostname)) {
    note(
      `--vnc: whoever reaches ${address.hostname} port ${address.port} can see and type, without a password`,
    );
  }
  try {
    return VncServer.listen(address, first.display, input, note);
  } catch (error) {
    if (error instanceof VncError) throw new CliError(error.message);
    throw error;
  }
}
