// Frames over UDP, one a datagram: what QEMU's `-netdev dgram` speaks.

import { bindUdp } from "./user/sockets.ts";
import { parseSocketAddress } from "./address.ts";
import { Inbox, MAX_FRAME, MIN_FRAME, type Net, NetError } from "./types.ts";

/** Bytes of UDP's payload at most. */
const MAX_DATAGRAM = 65_507;

/**
 * Opens a network over UDP.
 *
 * @param text `LOCAL-REMOTE`, each `HOST:PORT`.
 * @param id The card's id, for messages.
 * @returns The network. Whether anybody is at the other end does not show.
 * @throws {NetError} When it is malformed, or the local port cannot be had.
 */
export async function openDgram(text: string, id: string): Promise<Net> {
  const what = `net=dgram of ${id}`;
  const [local, remote] = text.split("-").map((part) =>
    parseSocketAddress(part, what)
  );
  if (local?.transport !== "tcp" || remote?.transport !== "tcp") {
    throw new NetError(
      `${what}: "${text}" is malformed: write net=dgram=HOST:PORT-HOST:PORT, its own address first`,
    );
  }
  const inbox = new Inbox();
  let socket: Awaited<ReturnType<typeof bindUdp>>;
  try {
    socket = await bindUdp(local.hostname, local.port);
  } catch (cause) {
    throw new NetError(
      `${what}: cannot use ${local.hostname}:${local.port}: ${
        cause instanceof Error ? cause.message : cause
      }`,
      { cause },
    );
  }
  socket.on("message", (message) => {
    if (message.length >= MIN_FRAME && message.length <= MAX_FRAME) {
      const { buffer, byteOffset, length } = message;
      // Not a Buffer, whose slices share its bytes.
      inbox.push(new Uint8Array(buffer, byteOffset, length));
    }
  });
  let isClosed = false;
  return {
    link: true,
    send(frame) {
      if (!isClosed && frame.length <= MAX_DATAGRAM) {
        socket.send(frame.slice(), remote.port, remote.hostname);
      }
      return true;
    },
    onReceive: (accept) => inbox.onReceive(accept),
    ready: () => inbox.ready(),
    onDrain: () => {},
    onLink: () => {},
    close() {
      if (isClosed) return Promise.resolve();
      isClosed = true;
      return new Promise((resolve) => void socket.close(() => resolve()));
    },
  };
}
