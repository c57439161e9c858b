// Keeps the overlays of an image few: every one costs a descriptor or two, and a look at each read of
// what lies below. No file is changed for that: a new overlay takes the content of those on top, and is
// based on what is under them.

import fs from "node:fs";
import type { ImageFile } from "./chain.ts";
import type { Qcow2Block } from "./qcow2/mod.ts";
import type { BlockImage } from "./types.ts";

/** Files of an image at most, before some are merged. */
const MAX_FILES = 64;
/** Files that are merged at least, so that it is not done at each snapshot. */
const MIN_MERGED = 32;
/** Bytes copied at a time. */
const COPY_BYTES = 1024 * 1024;

/**
 * How many of an image's files on top a new overlay is to take the content of.
 *
 * A file further down is merged only if it is not larger than all above it together, so what is written is copied a
 * number of times that grows with the logarithm of its amount.
 *
 * @param files The image's files, the one on top first.
 * @returns The number; the last file is never among them.
 */
export function countToMerge(files: readonly ImageFile[]): number {
  if (files.length < MAX_FILES) return 0;
  let count = 0;
  let sum = 0;
  for (; count < files.length - 1; count++) {
    // Where one is shorter, those above read zeroes there, and not what is under it.
    if (files[count].size !== files[0].size) return 0;
    const { size } = fs.statSync(files[count].path);
    if (count >= MIN_MERGED && size > sum) break;
    sum += size;
  }
  return count;
}

/**
 * Copies the content of an image's files on top.
 *
 * @param from The image; nothing writes to it.
 * @param count How many files.
 * @param to An empty overlay on what is under them.
 */
export async function copyUpper(
  from: Qcow2Block,
  count: number,
  to: BlockImage,
): Promise<void> {
  const buffer = new Uint8Array(COPY_BYTES);
  for (let at = 0; at < from.size;) {
    const part = await from.upperPart(at, from.size - at, count);
    const end = at + part.length;
    for (; part.isUpper && at < end; at += COPY_BYTES) {
      const bytes = buffer.subarray(0, Math.min(COPY_BYTES, end - at));
      await from.read(at, bytes);
      if (bytes.some((byte) => byte !== 0)) await to.write(at, bytes);
      else await to.writeZeroes(at, bytes.length, true);
    }
    at = end;
  }
  await to.flush();
}
