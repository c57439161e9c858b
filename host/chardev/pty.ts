// backend=pty: a new pseudo-terminal, whose path is told to the user. `screen PATH` and the
// like connect to it, any number of times.

import {
  type Libc,
  O_CLOEXEC,
  O_NOCTTY,
  O_NONBLOCK,
  O_RDWR,
  openLibc,
  POLLIN,
  POLLOUT,
  TCSANOW,
} from "./libc.ts";
import { InputQueue, OutputQueue } from "./queues.ts";
import { ChardevError } from "./types.ts";
import type { Chardev } from "./types.ts";

const READ_SIZE = 4096;
/** More than any struct termios. */
const TERMIOS_SIZE = 256;
/** struct pollfd: int fd, short events, short revents. */
const POLLFD_SIZE = 8;
const POLLFD_EVENTS = 4;
const POLLFD_REVENTS = 6;
/** poll(2): no time limit. */
const FOREVER = -1;

/** A serial line on a pseudo-terminal. */
export class PtyChardev implements Chardev {
  /** The path to connect to. */
  readonly path: string;
  readonly #libc: Libc;
  /** The emulator's side. */
  readonly #master: number;
  /** The other side, held open so that a hang-up there is not an error here. */
  readonly #slave: number;
  readonly #wakeRead: number;
  readonly #wakeWrite: number;
  readonly #input = new InputQueue();
  readonly #output = new OutputQueue();
  readonly #serving: Promise<void>;
  #polling = false;
  #closed = false;

  private constructor(libc: Libc) {
    this.#libc = libc;
    this.#master = require(
      libc.posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC),
      "open",
    );
    require(libc.grantpt(this.#master), "grant");
    require(libc.unlockpt(this.#master), "unlock");
    const name = libc.ptsname(this.#master);
    if (name === null) require(-1, "name");
    this.path = Deno.UnsafePointerView.getCString(name!);
    const path = new TextEncoder().encode(`${this.path}\0`);
    this.#slave = require(
      libc.open(path, O_RDWR | O_NOCTTY | O_CLOEXEC),
      "open the other side of",
    );
    const termios = new Uint8Array(TERMIOS_SIZE);
    require(libc.tcgetattr(this.#slave, termios), "read the mode of");
    libc.cfmakeraw(termios);
    require(libc.tcsetattr(this.#slave, TCSANOW, termios), "set the mode of");
    const pipe = new Int32Array(2);
    require(
      libc.pipe2(new Uint8Array(pipe.buffer), O_NONBLOCK | O_CLOEXEC),
      "make a pipe for",
    );
    [this.#wakeRead, this.#wakeWrite] = pipe;
    this.#serving = this.#serve();
  }

  /**
   * Makes a pseudo-terminal.
   *
   * @returns The chardev.
   * @throws {ChardevError} If the host has none to give.
   */
  static open(): PtyChardev {
    try {
      return new PtyChardev(openLibc());
    } catch (cause) {
      if (cause instanceof ChardevError) throw cause;
      throw new ChardevError(
        `cannot make a pseudo-terminal: ${(cause as Error).message}`,
        { cause },
      );
    }
  }

  /** Writes the bytes, or holds them until someone reads. */
  write(bytes: Uint8Array): boolean {
    this.#output.push(bytes);
    this.#flush();
    if (this.#output.length > 0) this.#wake();
    return true;
  }

  /** Sets who takes what is typed on the other side. */
  onInput(accept: (bytes: Uint8Array) => number): void {
    this.#input.open(accept);
  }

  /** Offers input that was not taken. */
  ready(): void {
    const full = this.#input.full;
    this.#input.offer();
    if (full && !this.#input.full) this.#wake();
  }

  /** Never calls back: nobody may be reading, so old output gives way to new. */
  onDrain(): void {}

  /** Closes both sides. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#wake();
    if (this.#polling) await this.#serving;
    for (
      const fd of [this.#master, this.#slave, this.#wakeRead, this.#wakeWrite]
    ) this.#libc.close(fd);
  }

  #wake(): void {
    this.#libc.write(this.#wakeWrite, new Uint8Array(1), 1n);
  }

  #flush(): void {
    while (this.#output.length > 0) {
      const bytes = this.#output.take();
      const written = Number(
        this.#libc.write(this.#master, bytes, BigInt(bytes.length)),
      );
      if (written === bytes.length) continue;
      this.#output.unshift(bytes.subarray(Math.max(0, written)));
      return;
    }
  }

  async #serve(): Promise<void> {
    const buffer = new Uint8Array(READ_SIZE);
    const fds = new DataView(new ArrayBuffer(2 * POLLFD_SIZE));
    fds.setInt32(0, this.#master, true);
    fds.setInt32(POLLFD_SIZE, this.#wakeRead, true);
    fds.setInt16(POLLFD_SIZE + POLLFD_EVENTS, POLLIN, true);
    while (!this.#closed) {
      const wanted = (this.#input.full ? 0 : POLLIN) |
        (this.#output.length > 0 ? POLLOUT : 0);
      fds.setInt16(POLLFD_EVENTS, wanted, true);
      this.#polling = true;
      await this.#libc.poll(new Uint8Array(fds.buffer), 2n, FOREVER);
      this.#polling = false;
      if (this.#closed) return;
      const ready = fds.getInt16(POLLFD_REVENTS, true);
      if (fds.getInt16(POLLFD_SIZE + POLLFD_REVENTS, true) !== 0) {
        this.#libc.read(this.#wakeRead, buffer, BigInt(READ_SIZE));
      }
      if (ready & POLLOUT) this.#flush();
      if (!(ready & POLLIN)) continue;
      const n = Number(
        this.#libc.read(this.#master, buffer, BigInt(READ_SIZE)),
      );
      if (n > 0) this.#input.push(buffer.slice(0, n));
    }
  }
}

function require(result: number, what: string): number {
  if (result >= 0) return result;
  throw new ChardevError(
    `cannot ${what} a pseudo-terminal: is /dev/pts mounted, and is its limit reached?`,
  );
}
