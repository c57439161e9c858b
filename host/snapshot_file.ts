// Snapshot files: read in place, and written so that a crash leaves the old file or the new one.

import { dirname, resolve } from "node:path";
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

/**
 * Writes a file under a temporary name, syncs it, and puts it in the place of the old one.
 *
 * @param path The file.
 * @param write Writes the content.
 */
export async function writeWhole(
  path: string,
  write: (sink: Sink) => Promise<void>,
): Promise<void> {
  const directory = dirname(resolve(path));
  const temporary = await Deno.makeTempFile({
    dir: directory,
    prefix: ".snapshot-",
  });
  try {
    const file = await Deno.open(temporary, { write: true });
    try {
      await write({
        async write(bytes) {
          for (let at = 0; at < bytes.length;) {
            at += await file.write(bytes.subarray(at));
          }
        },
      });
      await file.sync();
    } finally {
      file.close();
    }
    await Deno.rename(temporary, path);
  } catch (error) {
    await Deno.remove(temporary).catch(() => {});
    throw error;
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
  const { size } = await Deno.stat(path);
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
