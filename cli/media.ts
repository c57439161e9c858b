// QMP's commands on the media of drives, in the shapes of QEMU's (QAPI schema).

import { RemovableBlock } from "../host/block/mod.ts";
import { type ControlCommand, ControlError } from "../host/control.ts";
import type { PlannedDevice } from "./setup.ts";

/** The drive of a device. */
function driveOf(
  devices: readonly PlannedDevice[],
  id: string,
): RemovableBlock {
  const found = devices.find((device) => device.id === id)?.image;
  if (found instanceof RemovableBlock) return found;
  const drives = devices.flatMap(({ id, image }) =>
    image instanceof RemovableBlock ? [id] : []
  );
  throw new ControlError(
    `"${id}" is no drive whose medium may be changed: the machine has ${
      drives.join(", ") || "none"
    }`,
    "DeviceNotFound",
  );
}

/**
 * The commands that change media.
 *
 * @param devices The machine's devices.
 * @param idle Resolves when no snapshot is being taken, which would have half of a change.
 * @returns The commands by name.
 */
export function mediaCommands(
  devices: readonly PlannedDevice[],
  idle: () => Promise<void>,
): Record<string, ControlCommand> {
  return {
    eject: {
      arguments: { id: "string", force: "boolean?" },
      run: async (args) => {
        const { id, force } = args as { id: string; force?: boolean };
        const drive = driveOf(devices, id);
        await idle();
        await drive.eject(force);
      },
    },
    "blockdev-change-medium": {
      arguments: {
        id: "string",
        filename: "string",
        format: "string?",
        force: "boolean?",
      },
      run: async (args) => {
        const { id, filename, format, force } = args as {
          id: string;
          filename: string;
          format?: string;
          force?: boolean;
        };
        const drive = driveOf(devices, id);
        await idle();
        await drive.change(filename, format, force);
      },
    },
  };
}
