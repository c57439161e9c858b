// Frames in a file that Wireshark and tcpdump open: the pcap format,
// draft-ietf-opsawg-pcap, with Ethernet as its link type.

import { MAX_FRAME, type Net, NetError } from "./types.ts";

const MAGIC_MICROSECONDS = 0xa1b2c3d4;
const VERSION_MAJOR = 2, VERSION_MINOR = 4;
const LINKTYPE_ETHERNET = 1;
const FILE_HEADER = 24;
const RECORD_HEADER = 16;
/** Bytes kept for the file at most; what comes beyond them is left out, and told. */
const MAX_PENDING = 16 << 20;

/** The file of one capture. */
class Capture {
  readonly #file: Deno.FsFile;
  readonly #notify: (message: string) => void;
  #pending: Uint8Array[] = [];
  #bytes = 0;
  #writing: Promise<void> | undefined;
  #isBroken = false;

  constructor(file: Deno.FsFile, notify: (message: string) => void) {
    this.#file = file;
    this.#notify = notify;
    const header = new Uint8Array(FILE_HEADER);
    const view = new DataView(header.buffer);
    view.setUint32(0, MAGIC_MICROSECONDS, true);
    view.setUint16(4, VERSION_MAJOR, true);
    view.setUint16(6, VERSION_MINOR, true);
    view.setUint32(16, MAX_FRAME, true);
    view.setUint32(20, LINKTYPE_ETHERNET, true);
    this.#add(header);
  }

  frame(frame: Uint8Array): void {
    const now = performance.timeOrigin + performance.now();
    const record = new Uint8Array(RECORD_HEADER + frame.length);
    const view = new DataView(record.buffer);
    view.setUint32(0, Math.floor(now / 1000), true);
    view.setUint32(4, Math.floor(now % 1000 * 1000), true);
    view.setUint32(8, frame.length, true);
    view.setUint32(12, frame.length, true);
    record.set(frame, RECORD_HEADER);
    this.#add(record);
  }

  async close(): Promise<void> {
    await this.#writing;
    this.#file.close();
  }

  #add(bytes: Uint8Array): void {
    if (this.#isBroken) return;
    if (this.#bytes + bytes.length > MAX_PENDING) {
      this.#fail("the disk is too slow");
      return;
    }
    this.#pending.push(bytes);
    this.#bytes += bytes.length;
    this.#writing ??= this.#flush();
  }

  async #flush(): Promise<void> {
    try {
      while (this.#pending.length > 0) {
        const all = this.#pending;
        this.#pending = [];
        for (const bytes of all) {
          for (let at = 0; at < bytes.length;) {
            at += await this.#file.write(bytes.subarray(at));
          }
          this.#bytes -= bytes.length;
        }
      }
    } catch (error) {
      this.#fail(error instanceof Error ? error.message : String(error));
    } finally {
      this.#writing = undefined;
    }
  }

  #fail(why: string): void {
    this.#isBroken = true;
    this.#pending = [];
    this.#notify(`${why}: the capture ends here`);
  }
}

/**
 * Captures what goes over a network.
 *
 * @param net The network.
 * @param path The file; what was in it is gone.
 * @param id The card's id, for messages.
 * @param notify Tells the user when the file cannot be written any more.
 * @returns The network, seen through the capture.
 * @throws {NetError} When the file cannot be made.
 */
export function capture(
  net: Net,
  path: string,
  id: string,
  notify: (message: string) => void,
): Net {
  let file: Deno.FsFile;
  try {
    file = Deno.openSync(path, { create: true, write: true, truncate: true });
  } catch (cause) {
    throw new NetError(
      `pcap of ${id}: cannot write "${path}": ${
        cause instanceof Error ? cause.message : cause
      }`,
      { cause },
    );
  }
  const to = new Capture(
    file,
    (message) => notify(`pcap of ${id}: cannot write "${path}": ${message}`),
  );
  return {
    get link() {
      return net.link;
    },
    send(frame) {
      const isTaken = net.send(frame);
      if (isTaken) to.frame(frame);
      return isTaken;
    },
    onReceive: (accept) =>
      net.onReceive((frame) => {
        const isTaken = accept(frame);
        if (isTaken) to.frame(frame);
        return isTaken;
      }),
    ready: () => net.ready(),
    onDrain: (listener) => net.onDrain(listener),
    onLink: (listener) => net.onLink(listener),
    async close() {
      await net.close();
      await to.close();
    },
  };
}
