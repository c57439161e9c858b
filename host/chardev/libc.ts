// The few libc calls that a pseudo-terminal needs and Deno does not have: POSIX.1-2017
// posix_openpt, grantpt, unlockpt, ptsname, poll, termios.

/** Flags of open(2) on Linux. */
export const O_RDWR = 0x2;
/** The terminal does not become the controlling one. */
export const O_NOCTTY = 0x100;
/** Calls that would block fail instead. */
export const O_NONBLOCK = 0x800;
/** The descriptor is not inherited. */
export const O_CLOEXEC = 0x80000;

/** poll(2): there is input. */
export const POLLIN = 0x1;
/** poll(2): output can be written. */
export const POLLOUT = 0x4;
/** tcsetattr(3): at once. */
export const TCSANOW = 0;

const SYMBOLS = {
  posix_openpt: { parameters: ["i32"], result: "i32" },
  grantpt: { parameters: ["i32"], result: "i32" },
  unlockpt: { parameters: ["i32"], result: "i32" },
  ptsname: { parameters: ["i32"], result: "pointer" },
  open: { parameters: ["buffer", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  poll: {
    parameters: ["buffer", "u64", "i32"],
    result: "i32",
    nonblocking: true,
  },
  tcgetattr: { parameters: ["i32", "buffer"], result: "i32" },
  tcsetattr: { parameters: ["i32", "i32", "buffer"], result: "i32" },
  cfmakeraw: { parameters: ["buffer"], result: "void" },
} as const satisfies Deno.ForeignLibraryInterface;

/** The loaded functions. */
export type Libc = Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];

/**
 * Loads libc.
 *
 * @returns Its functions.
 * @throws {Error} Where the C library is not glibc on Linux.
 */
export function openLibc(): Libc {
  return Deno.dlopen("libc.so.6", SYMBOLS).symbols;
}
