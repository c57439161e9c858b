// What tells whether a file is the one that a snapshot was made with (docs/snapshot-format.md,
// section "Disks"): its size, the time it was last written, and a hash of samples of its content.

import { Buffer } from "node:buffer";
import fs from "node:fs";
import { promisify } from "node:util";
import { deviceBytes } from "./file.ts";

const read = promisify(fs.read) as (
  fd: number,
  buffer: Uint8Array,
  offset: number,
  length: number,
  position: number,
) => Promise<{ bytesRead: number }>;

/** Bytes of a sample. */
const SAMPLE_BYTES = 16 * 1024;
/** Samples of a file; one that is not larger than all of them is hashed as a whole. */
const SAMPLES = 64;

/** What a file is recognized by. */
export interface FileIdentity {
  /** Bytes. */
  bytes: number;
  /** When it was last written, milliseconds since 1970 UTC; 0 for a block device. */
  modified: number;
  /** SHA-256 of its size and its samples, in hexadecimal. */
  fingerprint: string;
}

/**
 * Whether a fingerprint covers all of a file.
 *
 * @param bytes The file's size.
 */
export function isWholeFingerprint(bytes: number): boolean {
  return bytes <= SAMPLES * SAMPLE_BYTES;
}

/**
 * Looks at a file.
 *
 * @param path A file, or a block device.
 * @returns What it is recognized by.
 */
export async function identify(path: string): Promise<FileIdentity> {
  const fd = fs.openSync(path, "r");
  try {
    const stat = fs.fstatSync(fd);
    const bytes = stat.isBlockDevice() ? await deviceBytes(path) : stat.size;
    const modified = stat.isBlockDevice() ? 0 : Math.floor(stat.mtimeMs);
    const whole = isWholeFingerprint(bytes);
    const length = whole ? bytes : SAMPLES * SAMPLE_BYTES;
    // The size, then the samples.
    const hashed = new Uint8Array(8 + length);
    new DataView(hashed.buffer).setBigUint64(0, BigInt(bytes), true);
    const step = whole
      ? SAMPLE_BYTES
      : Math.floor((bytes - SAMPLE_BYTES) / (SAMPLES - 1));
    for (let i = 0; i * SAMPLE_BYTES < length; i++) {
      const at = i * SAMPLE_BYTES;
      const count = Math.min(SAMPLE_BYTES, length - at);
      const offset = i === SAMPLES - 1 ? bytes - count : i * step;
      await readFully(fd, hashed.subarray(8 + at, 8 + at + count), offset);
    }
    const digest = await crypto.subtle.digest("SHA-256", hashed);
    return {
      bytes,
      modified,
      fingerprint: Buffer.from(digest).toString("hex"),
    };
  } finally {
    fs.closeSync(fd);
  }
}

async function readFully(
  fd: number,
  target: Uint8Array,
  offset: number,
): Promise<void> {
  for (let done = 0; done < target.length;) {
    const { bytesRead } = await read(
      fd,
      target,
      done,
      target.length - done,
      offset + done,
    );
    if (bytesRead === 0) throw new Error("it became shorter while it was read");
    done += bytesRead;
  }
}
