// The host's sockets behind connections and datagrams of the guest.

import { createSocket, type Socket } from "node:dgram";
import type { Pipe, TcpEnd } from "./tcp.ts";

const READ_BYTES = 64 << 10;

/** A TCP socket of the host as the pipe of a connection. */
export class SocketPipe implements Pipe {
  readonly #socket: Deno.TcpConn;
  readonly #over: () => void;
  readonly #out: Uint8Array[] = [];
  #end: TcpEnd | undefined;
  #reading = false;
  #writing = false;
  #ended = false;
  #closed = false;
  #hostDone = false;

  /**
   * @param socket The socket, connected.
   * @param over Called when the connection is over.
   */
  constructor(socket: Deno.TcpConn, over: () => void) {
    this.#socket = socket;
    this.#over = over;
    socket.setNoDelay();
  }

  /** The guest's side of the connection. */
  connect(end: TcpEnd): void {
    this.#end = end;
  }

  write(bytes: Uint8Array): void {
    this.#out.push(bytes);
    void this.#flush();
  }

  end(): void {
    this.#ended = true;
    void this.#flush();
  }

  more(): void {
    void this.#read();
  }

  over(): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      this.#socket.close();
    } catch {
      // It has closed itself.
    }
    this.#over();
  }

  async #read(): Promise<void> {
    if (this.#reading || this.#hostDone) return;
    this.#reading = true;
    try {
      for (;;) {
        const room = this.#end!.room;
        if (room === 0) return;
        const buffer = new Uint8Array(Math.min(room, READ_BYTES));
        const count = await this.#socket.read(buffer);
        if (count === null) {
          this.#hostDone = true;
          this.#end!.finish();
          return;
        }
        this.#end!.send(buffer.subarray(0, count));
      }
    } catch {
      if (!this.#closed) this.#end!.reset();
    } finally {
      this.#reading = false;
    }
  }

  async #flush(): Promise<void> {
    if (this.#writing) return;
    this.#writing = true;
    try {
      for (;;) {
        const bytes = this.#out.shift();
        if (bytes === undefined) break;
        for (let at = 0; at < bytes.length;) {
          at += await this.#socket.write(bytes.subarray(at));
        }
        this.#end!.taken(bytes.length);
      }
      if (this.#ended && !this.#closed) await this.#socket.closeWrite();
    } catch {
      // The other side has gone: the guest is told.
      if (!this.#closed) this.#end!.reset();
    } finally {
      this.#writing = false;
    }
  }
}

/** Milliseconds after which an association without datagrams is forgotten. */
const IDLE_MS = 120_000;
/** Associations of a card at most; the oldest goes. */
const MAX_ASSOCIATIONS = 512;

/** UDP sockets of the host, one for each port of the guest's that sends to a host. */
export class Datagrams {
  readonly #sockets = new Map<string, { socket: Socket; used: number }>();

  /**
   * Sends a datagram from the guest.
   *
   * @param key The association.
   * @param to Where to.
   * @param payload The datagram.
   * @param receive Takes what comes back, with the sender's port and address.
   */
  send(
    key: string,
    to: { address: string; port: number },
    payload: Uint8Array,
    receive: (payload: Uint8Array, port: number, address: string) => void,
  ): void {
    let entry = this.#sockets.get(key);
    if (entry === undefined) {
      this.#makeRoom();
      const socket = createSocket(to.address.includes(":") ? "udp6" : "udp4");
      // A datagram that cannot be sent is lost, as any may be.
      socket.on("error", () => this.#close(key));
      socket.on("message", (message, { port, address }) => {
        const own = this.#sockets.get(key);
        if (own !== undefined) own.used = Date.now();
        receive(message, port, address);
      });
      entry = { socket, used: Date.now() };
      this.#sockets.set(key, entry);
    }
    entry.used = Date.now();
    entry.socket.send(payload.slice(), to.port, to.address);
    entry.socket.unref();
  }

  /** Closes every socket. */
  closeAll(): void {
    for (const key of [...this.#sockets.keys()]) this.#close(key);
  }

  #makeRoom(): void {
    const now = Date.now();
    for (const [key, { used }] of this.#sockets) {
      if (now - used > IDLE_MS) this.#close(key);
    }
    if (this.#sockets.size < MAX_ASSOCIATIONS) return;
    const [oldest] = [...this.#sockets].reduce((a, b) =>
      a[1].used <= b[1].used ? a : b
    );
    this.#close(oldest);
  }

  #close(key: string): void {
    const entry = this.#sockets.get(key);
    this.#sockets.delete(key);
    try {
      entry?.socket.close();
    } catch {
      // It has closed itself.
    }
  }
}

/**
 * Binds a UDP socket of the host.
 *
 * @param address Its address.
 * @param port Its port.
 * @returns The socket.
 */
export function bindUdp(address: string, port: number): Promise<Socket> {
  const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
  return new Promise((resolve, reject) => {
    socket.once("error", reject);
    socket.bind(port, address, () => {
      socket.off("error", reject);
      // What goes wrong with one datagram is the loss of that datagram.
      socket.on("error", () => {});
      resolve(socket);
    });
  });
}
