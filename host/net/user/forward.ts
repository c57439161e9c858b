// Port forwards: `hostfwd=tcp:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT`, as QEMU's users write them.

import { NetError } from "../types.ts";
import { parseAddress } from "./ip.ts";

/** A port of the host that leads to one of the guest. */
export interface Forward {
  readonly protocol: "tcp" | "udp";
  readonly hostAddress: string;
  readonly hostPort: number;
  /** The guest's address; the one that DHCP gives when absent. */
  readonly guestAddress?: Uint8Array;
  readonly guestPort: number;
}

const FORM = "tcp|udp:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT";
const PATTERN = /^(tcp|udp):([^:]*):(\d+)-([^:]*):(\d+)$/;
const MAX_PORT = 65_535;

/**
 * Reads the forwards of an option.
 *
 * @param text One or more, with `;` between them.
 * @param id The card's id, for messages.
 * @returns The forwards.
 * @throws {NetError} When one is malformed.
 */
export function parseForwards(text: string, id: string): Forward[] {
  return text.split(";").map((each) => {
    const refuse = (why: string): never => {
      throw new NetError(
        `hostfwd "${each}" of ${id}: ${why}: write ${FORM}, with ; between several`,
      );
    };
    const match = PATTERN.exec(each);
    if (match === null) return refuse("it is malformed");
    const [, protocol, hostAddress, hostPort, guestAddress, guestPort] = match;
    for (const port of [hostPort, guestPort]) {
      if (Number(port) > MAX_PORT) refuse(`there is no port ${port}`);
    }
    if (Number(guestPort) === 0) refuse("there is no port 0 of the guest");
    const guest = guestAddress === "" ? undefined : parseAddress(guestAddress);
    if (guest === null || guest?.length === 16) {
      return refuse(`"${guestAddress}" is no IPv4 address`);
    }
    return {
      protocol: protocol as "tcp" | "udp",
      hostAddress: hostAddress === "" ? "127.0.0.1" : hostAddress,
      hostPort: Number(hostPort),
      guestAddress: guest,
      guestPort: Number(guestPort),
    };
  });
}
