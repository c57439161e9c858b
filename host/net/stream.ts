// Frames over a stream socket, each after its length as 32 bits, big-endian: what QEMU's
// `-netdev stream` speaks. One side listens, the other connects; either may be QEMU.

import { parseSocketAddress } from "./address.ts";
import { Inbox, MAX_FRAME, MIN_FRAME, type Net, NetError } from "./types.ts";

const LENGTH_BYTES = 4;
/** Bytes on their way to the socket; beyond them the card waits. */
const OUT_BYTES = 1 << 20;
const READ_BYTES = 64 << 10;
/** Milliseconds between attempts to connect again. */
const RETRY_MS = 1000;

/** A connection that frames go over. */
class StreamNet implements Net {
  readonly #inbox = new Inbox();
  readonly #notify: (message: string) => void;
  readonly #name: string;
  readonly #out: Uint8Array[] = [];
  #outBytes = 0;
  #writing = false;
  #wasFull = false;
  #socket: Deno.Conn | undefined;
  #listener: Deno.Listener | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #drained: () => void = () => {};
  #linkChanged: () => void = () => {};
  #closed = false;

  constructor(name: string, notify: (message: string) => void) {
    this.#name = name;
    this.#notify = notify;
  }

  /** Takes connections, one after another; a second one waits for the end of the first. */
  listen(listener: Deno.Listener): void {
    this.#listener = listener;
    void (async () => {
      try {
        for await (const socket of listener) await this.#serve(socket);
      } catch (error) {
        if (!this.#closed) this.#notify(`${this.#name}: ${reason(error)}`);
      }
    })();
  }

  /** Connects, and again whenever the connection ends. */
  async connect(open: () => Promise<Deno.Conn>): Promise<void> {
    const socket = await open();
    const again = async () => {
      if (this.#closed) return;
      try {
        void this.#serve(await open()).then(schedule);
      } catch {
        schedule();
      }
    };
    const schedule = () => {
      if (!this.#closed) {
        this.#retry = setTimeout(() => void again(), RETRY_MS);
      }
    };
    void this.#serve(socket).then(schedule);
  }

  get link(): boolean {
    return this.#socket !== undefined;
  }

  send(frame: Uint8Array): boolean {
    // Nobody is there: lost, as on a cable that is out.
    if (this.#socket === undefined) return true;
    if (this.#outBytes > OUT_BYTES) {
      this.#wasFull = true;
      return false;
    }
    const bytes = new Uint8Array(LENGTH_BYTES + frame.length);
    new DataView(bytes.buffer).setUint32(0, frame.length);
    bytes.set(frame, LENGTH_BYTES);
    this.#out.push(bytes);
    this.#outBytes += bytes.length;
    void this.#flush(this.#socket);
    return true;
  }

  onReceive(accept: (frame: Uint8Array) => boolean): void {
    this.#inbox.onReceive(accept);
  }

  ready(): void {
    this.#inbox.ready();
  }

  onDrain(listener: () => void): void {
    this.#drained = listener;
  }

  onLink(listener: () => void): void {
    this.#linkChanged = listener;
  }

  // deno-lint-ignore require-await -- what it throws becomes a rejection
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#listener?.close();
    this.#hangUp();
  }

  /** Takes frames from a connection until it ends. */
  async #serve(socket: Deno.Conn): Promise<void> {
    if (this.#closed) {
      socket.close();
      return;
    }
    this.#socket = socket;
    this.#linkChanged();
    try {
      await this.#read(socket);
    } catch (error) {
      if (!this.#closed) this.#notify(`${this.#name}: ${reason(error)}`);
    }
    this.#hangUp();
  }

  async #read(socket: Deno.Conn): Promise<void> {
    const buffer = new Uint8Array(READ_BYTES);
    let rest = new Uint8Array(0);
    for (;;) {
      const count = await socket.read(buffer);
      if (count === null) return;
      const bytes = new Uint8Array(rest.length + count);
      bytes.set(rest);
      bytes.set(buffer.subarray(0, count), rest.length);
      const view = new DataView(bytes.buffer);
      let at = 0;
      while (bytes.length - at >= LENGTH_BYTES) {
        const length = view.getUint32(at);
        if (length > MAX_FRAME) {
          throw new Error(
            `the other side sends a frame of ${length} bytes: expected at most ${MAX_FRAME}, each after its length; it is hung up`,
          );
        }
        const end = at + LENGTH_BYTES + length;
        if (end > bytes.length) break;
        if (length >= MIN_FRAME) {
          this.#inbox.push(bytes.subarray(at + LENGTH_BYTES, end));
        }
        at = end;
      }
      rest = bytes.slice(at);
    }
  }

  async #flush(socket: Deno.Conn): Promise<void> {
    if (this.#writing) return;
    this.#writing = true;
    try {
      while (this.#out.length > 0 && this.#socket === socket) {
        const bytes = this.#out.shift()!;
        for (let at = 0; at < bytes.length;) {
          at += await socket.write(bytes.subarray(at));
        }
        this.#outBytes -= bytes.length;
      }
    } catch {
      // The reader sees the end as well, and hangs up.
      this.#out.length = 0;
      this.#outBytes = 0;
    } finally {
      this.#writing = false;
    }
    if (this.#wasFull && this.#outBytes <= OUT_BYTES / 2) {
      this.#wasFull = false;
      this.#drained();
    }
  }

  #hangUp(): void {
    const socket = this.#socket;
    if (socket === undefined) return;
    this.#socket = undefined;
    this.#out.length = 0;
    this.#outBytes = 0;
    try {
      socket.close();
    } catch {
      // It has closed itself.
    }
    this.#linkChanged();
    if (this.#wasFull) {
      this.#wasFull = false;
      this.#drained();
    }
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/**
 * Opens a network over a stream socket.
 *
 * @param role Which side this is.
 * @param text The address: `HOST:PORT` or `unix=PATH`.
 * @param id The card's id, for messages.
 * @param notify Tells the user of a peer that misbehaves or goes.
 * @returns The network; its link is up while somebody is connected.
 * @throws {NetError} When it cannot listen, or nobody is there to connect to.
 */
export async function openStream(
  role: "listen" | "connect",
  text: string,
  id: string,
  notify: (message: string) => void,
): Promise<Net> {
  const address = parseSocketAddress(text, `net=${role} of ${id}`);
  const net = new StreamNet(id, notify);
  try {
    if (role === "connect") {
      await net.connect(() =>
        address.transport === "unix"
          ? Deno.connect({ transport: "unix", path: address.path })
          : Deno.connect(address)
      );
    } else {
      net.listen(
        address.transport === "unix"
          ? Deno.listen({ transport: "unix", path: address.path })
          : Deno.listen(address),
      );
    }
  } catch (cause) {
    throw new NetError(
      `cannot ${role} ${role === "listen" ? "on" : "to"} "${text}" for ${id}: ${
        reason(cause)
      }`,
      { cause },
    );
  }
  return net;
}
