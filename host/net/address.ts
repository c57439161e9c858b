// Addresses of sockets in options: `unix=PATH`, or HOST:PORT.

import { NetError } from "./types.ts";

/** Where a socket is. */
export type SocketAddress =
  | { transport: "unix"; path: string }
  | { transport: "tcp"; hostname: string; port: number };

/**
 * Reads an address.
 *
 * @param text `unix=PATH`, `HOST:PORT` or `:PORT`, which is of 127.0.0.1.
 * @param what The option, as messages name it.
 * @returns The address.
 * @throws {NetError} When it is malformed.
 */
export function parseSocketAddress(text: string, what: string): SocketAddress {
  if (text.startsWith("unix=")) {
    const path = text.slice("unix=".length);
    if (path !== "") return { transport: "unix", path };
  }
  const match = /^(.*):(\d{1,5})$/.exec(text);
  if (match !== null && Number(match[2]) <= 65_535) {
    return {
      transport: "tcp",
      hostname: match[1] || "127.0.0.1",
      port: Number(match[2]),
    };
  }
  throw new NetError(
    `${what}: "${text}" is no address: write HOST:PORT, or unix=PATH`,
  );
}
