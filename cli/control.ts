// The control socket of a run: QMP's commands, and this program's own, on a machine.

import type { Machine } from "../core/machine.ts";
import denoConfig from "../deno.json" with { type: "json" };
import { type ControlSocket, listenControl } from "../host/control.ts";
import { CliError } from "./errors.ts";
import type { PlannedDevice } from "./setup.ts";
import { saveSnapshot } from "./snapshots.ts";

/**
 * Opens the control socket of a machine.
 *
 * @param path The socket.
 * @param machine The machine.
 * @param devices Its devices.
 * @returns The socket.
 */
export function openControl(
  path: string,
  machine: Machine,
  devices: readonly PlannedDevice[],
): ControlSocket {
  const save = async (args: Readonly<Record<string, unknown>>) => {
    if (typeof args.file !== "string" || args.file === "") {
      throw new CliError('expected "file": the path to save to');
    }
    await saveSnapshot(machine, devices, args.file);
  };
  const [major, minor, patch] = denoConfig.version.split(".").map(Number);
  const socket = listenControl(path, [major, minor, patch], {
    "query-status": () => ({
      status: machine.paused ? "paused" : "running",
      running: !machine.paused,
    }),
    "query-version": () => ({
      qemu: { major, minor, micro: patch },
      package: "diapause",
    }),
    stop: async () => {
      await machine.pause();
      socket.event("STOP");
    },
    cont: () => {
      machine.resume();
      socket.event("RESUME");
    },
    system_powerdown: () => {
      machine.pressPowerButton();
      socket.event("POWERDOWN");
    },
    system_reset: () => {
      machine.requestReset();
      socket.event("RESET", { guest: false, reason: "host-qmp-system-reset" });
    },
    // After the reply.
    quit: () => void setTimeout(() => machine.stop()),
    "x-checkpoint": save,
    "x-suspend": async (args) => {
      await machine.pause();
      try {
        await save(args);
      } catch (error) {
        machine.resume();
        throw error;
      }
      setTimeout(() => machine.stop());
    },
    "x-query-devices": () => machine.configuration.devices,
  });
  return socket;
}
