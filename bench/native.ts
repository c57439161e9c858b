/**
 * Runs the same work on the host itself: the guest's own busybox, and the loop's own bytes.
 *
 * @module
 */

import { BenchError, runSession, type Session } from "./session.ts";
import { script } from "./script.ts";

const BUSYBOX = "bin/busybox";

// The "newc" format of cpio(5): 13 fields of 8 hexadecimal digits behind the magic.
const MAGIC = "070701";
const HEADER_LENGTH = 110;
const FIELD_LENGTH = 8;
const FILESIZE = 6;
const NAMESIZE = 11;
const ALIGNMENT = 4;

/**
 * Takes one file out of an archive.
 *
 * @param archive A cpio archive.
 * @param path The file's path in it.
 * @returns The content; undefined if it is not in there.
 */
export function fileOfArchive(
  archive: Uint8Array,
  path: string,
): Uint8Array | undefined {
  const text = (from: number, to: number) =>
    new TextDecoder().decode(archive.subarray(from, to));
  const align = (at: number) => Math.ceil(at / ALIGNMENT) * ALIGNMENT;
  for (let at = 0; text(at, at + MAGIC.length) === MAGIC;) {
    const field = (index: number) => {
      const from = at + MAGIC.length + index * FIELD_LENGTH;
      return parseInt(text(from, from + FIELD_LENGTH), 16);
    };
    const nameAt = at + HEADER_LENGTH;
    const dataAt = align(nameAt + field(NAMESIZE));
    const end = dataAt + field(FILESIZE);
    if (text(nameAt, nameAt + field(NAMESIZE) - 1) === path) {
      return archive.subarray(dataAt, end);
    }
    at = align(end);
  }
  return undefined;
}

/** The guest's busybox, on the host. */
export interface NativeBusybox {
  /** Its path. */
  path: string;
  /** A directory for files. */
  scratch: string;
}

/**
 * Puts the guest's busybox on the host.
 *
 * @param initrd The guest's initial RAM disk.
 * @param directory Where to.
 * @returns The program; undefined if the host is of another kind.
 * @throws {BenchError} If the guest has none.
 */
export async function installBusybox(
  initrd: Uint8Array,
  directory: string,
): Promise<NativeBusybox | undefined> {
  if (Deno.build.os !== "linux" || Deno.build.arch !== "x86_64") {
    return undefined;
  }
  const content = fileOfArchive(initrd, BUSYBOX);
  if (content === undefined) {
    throw new BenchError(`the guest's initramfs has no ${BUSYBOX}`);
  }
  const path = `${directory}/busybox`;
  await Deno.writeFile(path, content, { mode: 0o755 });
  return { path, scratch: directory };
}

/**
 * Runs a script with the guest's busybox on the host.
 *
 * @param busybox The program.
 * @param body The script's commands; `mark` and `$bb` are there.
 * @returns The shell's session.
 */
export function runNativeScript(
  busybox: NativeBusybox,
  body: string,
): Promise<Session> {
  const text = script({
    busybox: busybox.path,
    scratch: busybox.scratch,
  }, body);
  return runSession("host", {
    command: busybox.path,
    args: ["sh", "-c", text],
  });
}
