// A TAP device of Linux: the guest is on a network of the host's kernel. See the kernel's
// Documentation/networking/tuntap.rst.

import { Inbox, MAX_FRAME, MIN_FRAME, type Net, NetError } from "./types.ts";

const DEVICE = "/dev/net/tun";
const O_RDWR = 0x2, O_NONBLOCK = 0x800, O_CLOEXEC = 0x80000;
const POLLIN = 0x1;
/** ioctl: TUNSETIFF, with a struct ifreq of 40 bytes: a name of 16 and flags. */
const TUNSETIFF = 0x400454can;
const IFREQ_BYTES = 40;
const NAME_BYTES = 16;
const IFF_TAP = 0x0002, IFF_NO_PI = 0x1000;
/** Milliseconds that one wait for frames takes at most, so that closing does not hang. */
const POLL_MS = 100;
const POLLFD_BYTES = 8;

const SYMBOLS = {
  open: { parameters: ["buffer", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  ioctl: { parameters: ["i32", "u64", "buffer"], result: "i32" },
  poll: {
    parameters: ["buffer", "u64", "i32"],
    result: "i32",
    nonblocking: true,
  },
} as const satisfies Deno.ForeignLibraryInterface;

/**
 * Opens a TAP device.
 *
 * @param name Its name; the kernel chooses one when it is empty.
 * @param id The card's id, for messages.
 * @returns The network.
 * @throws {NetError} When this user or this system may not.
 */
export function openTap(name: string, id: string): Net {
  const refuse = (why: string): never => {
    throw new NetError(
      `tap "${name}" of ${id}: ${why}: make it with \`ip tuntap add ${
        name || "NAME"
      } mode tap user $USER\`, or use net=user`,
    );
  };
  if (new TextEncoder().encode(name).length >= NAME_BYTES) {
    refuse(`the name has more than ${NAME_BYTES - 1} bytes`);
  }
  if (Deno.build.os !== "linux") refuse("there are none but on Linux");
  const library = Deno.dlopen("libc.so.6", SYMBOLS);
  const libc = library.symbols;
  const fd = libc.open(
    new TextEncoder().encode(`${DEVICE}\0`),
    O_RDWR | O_NONBLOCK | O_CLOEXEC,
  );
  if (fd < 0) {
    library.close();
    refuse(`${DEVICE} cannot be opened`);
  }
  const request = new Uint8Array(IFREQ_BYTES);
  request.set(new TextEncoder().encode(name));
  new DataView(request.buffer).setUint16(
    NAME_BYTES,
    IFF_TAP | IFF_NO_PI,
    true,
  );
  if (libc.ioctl(fd, TUNSETIFF, request) < 0) {
    libc.close(fd);
    library.close();
    refuse("the kernel refuses it; it takes CAP_NET_ADMIN, or its owner");
  }
  const inbox = new Inbox();
  let isClosed = false;
  const polled = new Uint8Array(POLLFD_BYTES);
  const view = new DataView(polled.buffer);
  view.setInt32(0, fd, true);
  view.setInt16(4, POLLIN, true);
  const frame = new Uint8Array(MAX_FRAME);
  const reading = (async () => {
    while (!isClosed) {
      await libc.poll(polled, 1n, POLL_MS);
      for (let i = 0; i < 64 && !isClosed; i++) {
        const count = Number(libc.read(fd, frame, BigInt(frame.length)));
        if (count < MIN_FRAME) break;
        inbox.push(frame.subarray(0, count));
      }
    }
  })();
  return {
    link: true,
    send(bytes) {
      if (!isClosed) libc.write(fd, bytes.slice(), BigInt(bytes.length));
      return true;
    },
    onReceive: (accept) => inbox.onReceive(accept),
    ready: () => inbox.ready(),
    onDrain: () => {},
    onLink: () => {},
    async close() {
      if (isClosed) return;
      isClosed = true;
      await reading;
      libc.close(fd);
      library.close();
    },
  };
}
