/**
 * What the host says of a running process: proc(5), `/proc/PID/stat`, `status` and `smaps`.
 *
 * @module
 */

/** Clock ticks of `/proc/PID/stat` in a second: USER_HZ, 100 on every architecture of Linux but Alpha. */
const TICKS_PER_SECOND = 100;
/** utime and stime, counted from the field after the command's name, which is field 3. */
const UTIME = 14 - 3;
const STIME = 15 - 3;

/** What a process has used so far. */
export interface Usage {
  /** Processor time of all its threads, in seconds. */
  cpuSeconds: number;
  /** The most memory that was resident at any time, in MiB. */
  peakRssMib: number;
}

/**
 * Reads the contents of the two files.
 *
 * @param stat `/proc/PID/stat`.
 * @param status `/proc/PID/status`.
 * @returns What they say; undefined if they do not.
 */
export function parseUsage(stat: string, status: string): Usage | undefined {
  const peak = /^VmHWM:\s+(\d+) kB$/m.exec(status);
  // The command's name may contain spaces and parentheses.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const ticks = Number(fields[UTIME]) + Number(fields[STIME]);
  if (peak === null || !Number.isFinite(ticks)) return undefined;
  return {
    cpuSeconds: ticks / TICKS_PER_SECOND,
    peakRssMib: Number(peak[1]) / 1024,
  };
}

/**
 * Asks what a process has used.
 *
 * @param pid The process.
 * @returns The answer; undefined if it has ended, or the host has no `/proc`.
 */
export function readUsage(pid: number): Usage | undefined {
  try {
    return parseUsage(
      Deno.readTextFileSync(`/proc/${pid}/stat`),
      Deno.readTextFileSync(`/proc/${pid}/status`),
    );
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/**
 * Reads the contents of `/proc/PID/smaps`.
 *
 * @param smaps The text.
 * @returns Resident memory of the largest mapping, in MiB: in an emulator, that is the guest's RAM.
 * Mappings that can be executed are left out: QEMU's cache of translated code is larger.
 */
export function parseLargestMapping(smaps: string): number {
  let largest = 0;
  let resident = 0;
  for (const [, size, rss] of smaps.matchAll(MAPPING)) {
    if (Number(size) <= largest) continue;
    largest = Number(size);
    resident = Number(rss);
  }
  return resident / 1024;
}

/** A mapping that can be written and not executed; the line of its Rss is the fourth below its first. */
const MAPPING =
  /^[0-9a-f]+-[0-9a-f]+ rw-.*\nSize: +(\d+) kB\n(?:.*\n){2}Rss: +(\d+) kB$/gm;

/**
 * Asks how much of a process's largest mapping is resident. It takes tens of milliseconds, in
 * which the process cannot change its mappings.
 *
 * @param pid The process.
 * @returns MiB; undefined if it has ended, or the host has no `/proc`.
 */
export function readLargestMapping(pid: number): number | undefined {
  try {
    return parseLargestMapping(Deno.readTextFileSync(`/proc/${pid}/smaps`));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
