// Allocation of file ranges: fallocate(2), which Deno has no API for.

/** FALLOC_FL_KEEP_SIZE, linux/falloc.h. */
const FALLOC_FL_KEEP_SIZE = 0x01;
/** FALLOC_FL_PUNCH_HOLE: deallocates; the range reads as zeroes. */
const FALLOC_FL_PUNCH_HOLE = 0x02;
/** FALLOC_FL_ZERO_RANGE: the range reads as zeroes and stays allocated. */
const FALLOC_FL_ZERO_RANGE = 0x10;

/** What to do with a range. */
export type Allocation = "punch" | "zero";

type Fallocate = (
  fd: number,
  mode: number,
  offset: bigint,
  length: bigint,
) => Promise<number>;

let symbol: Fallocate | null | undefined;

/** fallocate(2) of the C library, or null where it cannot be had (another system, no --allow-ffi). */
function fallocate(): Fallocate | null {
  if (symbol !== undefined) return symbol;
  symbol = null;
  if (Deno.build.os === "linux") {
    try {
      symbol = Deno.dlopen("libc.so.6", {
        fallocate64: {
          parameters: ["i32", "i32", "i64", "i64"],
          result: "i32",
          nonblocking: true,
        },
      }).symbols.fallocate64;
    } catch {
      // Without it ranges are not deallocated, and zeroes are written.
    }
  }
  return symbol;
}

/**
 * Makes a range of a file read as zeroes without writing them.
 *
 * @param fd The file descriptor.
 * @param how `punch` deallocates, `zero` keeps the range allocated.
 * @param offset First byte.
 * @param length Bytes.
 * @returns Whether it was done; if not, the file is as it was.
 */
export async function zeroRange(
  fd: number,
  how: Allocation,
  offset: number,
  length: number,
): Promise<boolean> {
  const call = fallocate();
  if (call === null) return false;
  if (length === 0) return true;
  const mode = FALLOC_FL_KEEP_SIZE |
    (how === "punch" ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
  return await call(fd, mode, BigInt(offset), BigInt(length)) === 0;
}
