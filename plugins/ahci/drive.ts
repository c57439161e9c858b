/**
 * What the drives on an AHCI controller share: their options, and their place on a port.
 *
 * @module
 */
import type { OptionSpec, PortPlace } from "../../core/plugin.ts";
import { MAX_SERIAL } from "./ata.ts";

/** The options of a drive. */
export const driveOptions = {
  serial: {
    type: "string",
    help:
      `serial number, up to ${MAX_SERIAL} characters; the instance id when absent`,
  },
  bus: {
    type: "string",
    help: "id of the controller; the first with a free port when absent",
  },
  port: { type: "number", help: "port of the controller", min: 0, max: 31 },
} as const satisfies Record<string, OptionSpec>;

/** Who a drive is, and where the user wants it. */
export interface DriveIdentity {
  /** Serial number. */
  serial: string;
  /** Controller and port. */
  place: Partial<PortPlace>;
}

/**
 * What the options of a drive say.
 *
 * @param id The drive's instance id.
 * @param options Its options.
 */
export function identityOf(
  id: string,
  options: { serial?: string; bus?: string; port?: number },
): DriveIdentity {
  const { serial = id.slice(0, MAX_SERIAL), bus, port } = options;
  return { serial, place: { controller: bus, port } };
}
