/**
 * The shell scripts that are timed, for the guest and for the host: they differ only in where
 * busybox and its scratch directory are.
 *
 * @module
 */

/** Where a script runs. */
export interface ScriptPlace {
  /** Path of busybox. */
  busybox: string;
  /** A directory for files. */
  scratch: string;
}

/** The Debian guest. */
export const IN_GUEST: ScriptPlace = {
  busybox: "/bin/busybox",
  scratch: "/tmp",
};

/** Bytes of the file that is hashed, in MiB. */
export const SHA256_MIB = 32;
/** Turns of the awk loop. */
export const AWK_TURNS = 2_000_000;
/** Seconds for which an idle guest is watched. */
export const IDLE_SECONDS = 10;
/** Seconds before that, for what a kernel does after it has started. */
const SETTLE_SECONDS = 3;

/**
 * A script with the function `mark`, and busybox's commands behind `$bb`.
 *
 * @param place Where it runs.
 * @param body Its commands.
 * @returns A script for busybox's shell.
 */
export function script(place: ScriptPlace, body: string): string {
  return `mark() {
  read -r up rest < /proc/uptime
  echo "@bench $1 $2 $up"
}
bb='${place.busybox}'
file='${place.scratch}/bench-data'
${body}`;
}

/** Only marks that the shell has been reached. */
export const SHELL = "mark shell begin\n";

/** Hashes a file that is in memory. */
export const SHA256 =
  `$bb dd if=/dev/zero of="$file" bs=1M count=${SHA256_MIB} 2> /dev/null
mark sha256 begin
$bb sha256sum < "$file"
mark sha256 end
$bb rm -f "$file"
`;

/** Adds squares. */
export const AWK = `mark awk begin
$bb awk 'BEGIN { for (i = 0; i < ${AWK_TURNS}; i++) s += i * i; print s }'
mark awk end
`;

/** Prints what the guest's kernel says of its memory. */
export const MEMORY = `mark rss begin
while read -r key kib unit; do
  case $key in MemTotal:|MemFree:) echo "$key $kib" ;; esac
done < /proc/meminfo
mark rss end
`;

/** Waits. */
export const IDLE = `$bb sleep ${SETTLE_SECONDS}
mark idle begin
$bb sleep ${IDLE_SECONDS}
mark idle end
`;

/**
 * Reads the output of {@linkcode MEMORY}.
 * @param text The output.
 * @returns Memory in use in the guest, in MiB, without what its kernel has reserved for itself.
 */
export function usedMemory(text: string): number | undefined {
  const value = (key: string) =>
    Number(new RegExp(`^${key}: (\\d+)$`, "m").exec(text)?.[1]);
  const used = (value("MemTotal") - value("MemFree")) / 1024;
  return Number.isFinite(used) ? used : undefined;
}
