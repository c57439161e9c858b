// Snapshot files: read in place, and written so that a crash leaves the old file or the new one.

import { basename, dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { createHash } from "node:crypto";
import { closeSync, openSync, read, readSync } from "node:fs";
import {
  constants,
  zstdCompress,
  zstdDecompress,
  zstdDecompressSync,
} from "node:zlib";
import type { Codec, Sink, Source } from "../snapshot/container.ts";

const readAt = promisify(read) as unknown as (
  file: number,
  target: Uint8Array,
  at: number,
  length: number,
  position: number,
) => Promise<{ bytesRead: number }>;
const compress = promisify(zstdCompress) as (
  bytes: Uint8Array,
  options: { params: Record<number, number> },
) => Promise<Uint8Array>;
const decompress = promisify(zstdDecompress) as (
  bytes: Uint8Array,
  options: { maxOutputLength: number },
) => Promise<Uint8Array>;
/** Fast rather than small: pages are mostly code, text and pointers. */
const LEVEL = 1;

/** zstd, as Deno has it. */
export const zstd: Codec = {
  compress: (bytes) =>
    compress(bytes, {
      params: { [constants.ZSTD_c_compressionLevel]: LEVEL },
    }),
  decompress: (bytes, limit) =>
    // Zero is no limit there.
    decompress(bytes, { maxOutputLength: Math.max(1, limit) }),
  sync: {
    decompress: (bytes, limit) =>
      zstdDecompressSync(bytes, { maxOutputLength: Math.max(1, limit) }),
    sha256: (bytes) => createHash("sha256").update(bytes).digest(),
  },
};

/** Whether this process has the only lock on a file. */
function lock(file: Deno.FsFile): boolean {
  try {
    return file.tryLockSync(true);
  } catch {
    // A file system without locks: two saves of one name at a time are the user's to avoid.
    return true;
  }
}

/**
 * Opens the file under whose name a snapshot is written. It is the same for every save to `path`,
 * so that what a save left that was killed is taken over by the next one; a lock, which ends with
 * its process, keeps two from writing it.
 */
async function openTemporary(temporary: string): Promise<Deno.FsFile> {
  for (;;) {
    const file = await Deno.open(temporary, {
      write: true,
      create: true,
      mode: 0o600,
    });
    try {
      if (!lock(file)) {
        throw new Error("another process is saving to it: wait for that one");
      }
      const mine = await file.stat();
      const there = await Deno.lstat(temporary).catch(() => undefined);
      if (there?.isSymlink) {
        throw new Error(`"${temporary}" is a link: remove it`);
      }
      if (there?.ino === mine.ino && there.dev === mine.dev) {
        await file.truncate();
        return file;
      }
    } catch (error) {
      file.close();
      throw error;
    }
    // It has been put in its place since, or removed.
    file.close();
  }
}

/**
 * Writes a file under a temporary name, syncs it, and puts it in the place of the old one. The
 * temporary file is `.NAME.part`, in the same folder.
 *
 * @param path The file.
 * @param write Writes the content.
 * @throws {Error} When it cannot be written; the old file is as it was.
 */
export async function writeWhole(
  path: string,
  write: (sink: Sink) => Promise<void>,
): Promise<void> {
  const target = resolve(path);
  const directory = dirname(target);
  const old = await Deno.stat(target).catch(() => undefined);
  if (old !== undefined && !old.isFile) {
    throw new Error(
      `there is ${
        old.isDirectory ? "a folder" : "no regular file"
      } of that name: give another`,
    );
  }
  const temporary = join(directory, `.${basename(target)}.part`);
  const file = await openTemporary(temporary);
  try {
    await write({
      async write(bytes) {
        for (let at = 0; at < bytes.length;) {
          at += await file.write(bytes.subarray(at));
        }
      },
    });
    await file.sync();
    await Deno.rename(temporary, target);
  } catch (error) {
    await Deno.remove(temporary).catch(() => {});
    throw error;
  } finally {
    file.close();
  }
  const folder = await Deno.open(directory);
  try {
    await folder.sync();
  } finally {
    folder.close();
  }
}

/** An open file. */
export interface SourceFile extends Source {
  /** Closes it. */
  close(): void;
}

/**
 * Opens a file for reading.
 *
 * @param path The file.
 * @returns Where it can be read.
 */
export async function openSource(path: string): Promise<SourceFile> {
  // Its errors are Deno's, which the caller tells from others.
  const { size, isFile, isDirectory } = await Deno.stat(path);
  if (!isFile) {
    throw new Error(isDirectory ? "it is a folder" : "it is no regular file");
  }
  const file = openSync(path, "r");
  const shorter = () =>
    new Deno.errors.UnexpectedEof(`${path} became shorter while it was read`);
  return {
    size,
    async read(offset, length) {
      const bytes = new Uint8Array(length);
      for (let at = 0; at < length;) {
        const { bytesRead } = await readAt(
          file,
          bytes,
          at,
          length - at,
          offset + at,
        );
        if (bytesRead === 0) throw shorter();
        at += bytesRead;
      }
      return bytes;
    },
    readSync(offset, length) {
      const bytes = new Uint8Array(length);
      for (let at = 0; at < length;) {
        const read = readSync(file, bytes, at, length - at, offset + at);
        if (read === 0) throw shorter();
        at += read;
      }
      return bytes;
    },
    close: () => closeSync(file),
  };
}
