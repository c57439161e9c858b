/**
 * Finds out before the boot whether an initial RAM disk is whole. The kernel would find out
 * itself, seconds later and in the middle of its log.
 *
 * Formats: cpio "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format.rst),
 * gzip (RFC 1952), zstd (RFC 8878), LZ4 legacy frames and xz (the .xz file format, 1.2.0).
 *
 * @module
 */

import type { BootFile } from "./types.ts";
import { BootError } from "./types.ts";

const CPIO_HEADER_SIZE = 110;
const CPIO_MAGIC = "07070"; // then 1, or 2 with checksums
const CPIO_TRAILER = "TRAILER!!!";
const CPIO_FILESIZE_FIELD = 54;
const CPIO_NAMESIZE_FIELD = 94;
const CPIO_FIELD = 8;
const ZSTD_MAGIC = 0xfd2fb528;
const ZSTD_SKIPPABLE_MAGIC = 0x184d2a50;
const LZ4_LEGACY_MAGIC = 0x184c2102;
const XZ_MAGIC = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00];
const XZ_FOOTER_MAGIC = [0x59, 0x5a];

/** What a check of one archive or frame found: where the next begins, or the fault. */
type Extent = number | { fault: string };

/**
 * Checks that an initial RAM disk is not cut short.
 *
 * A file that starts with none of the known formats is let through: the kernel may know more.
 *
 * @param initrd The file.
 * @throws {BootError} If the file ends before its content does.
 */
export async function checkInitrd(initrd: BootFile): Promise<void> {
  const { bytes, label } = initrd;
  if (bytes.length === 0) throw new BootError(label, "initrd is empty");
  let at = 0;
  while (at < bytes.length) {
    if (bytes[at] === 0) {
      at++;
      continue;
    }
    const next = await checkPart(bytes, at);
    if (typeof next === "object") {
      throw new BootError(
        label,
        `initrd is truncated: ${next.fault}; the file has ${bytes.length} bytes`,
      );
    }
    at = next;
  }
}

function checkPart(bytes: Uint8Array, at: number): Extent | Promise<Extent> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (ascii(bytes, at, 5) === CPIO_MAGIC) return checkCpio(bytes, at);
  if (bytes[at] === 0x1f && bytes[at + 1] === 0x8b) return checkGzip(bytes, at);
  if (XZ_MAGIC.every((b, i) => bytes[at + i] === b)) return checkXz(bytes);
  if (at + 4 <= bytes.length) {
    const magic = view.getUint32(at, true);
    if (magic === ZSTD_MAGIC) return checkZstd(view, at);
    if ((magic & ~0xf) === ZSTD_SKIPPABLE_MAGIC) {
      return at + 8 +
        (at + 8 <= bytes.length ? view.getUint32(at + 4, true) : 0);
    }
    if (magic === LZ4_LEGACY_MAGIC) return checkLz4(view, at);
  }
  return bytes.length;
}

function checkCpio(bytes: Uint8Array, start: number): Extent {
  let at = start;
  let entries = 0;
  for (;;) {
    if (at + CPIO_HEADER_SIZE > bytes.length) {
      return { fault: `no ${CPIO_TRAILER} after ${entries} cpio entries` };
    }
    if (ascii(bytes, at, 5) !== CPIO_MAGIC) {
      return { fault: `no cpio header at offset ${at}` };
    }
    const fileSize = hexField(bytes, at + CPIO_FILESIZE_FIELD);
    const nameSize = hexField(bytes, at + CPIO_NAMESIZE_FIELD);
    if (Number.isNaN(fileSize) || !(nameSize > 0)) {
      return { fault: `damaged cpio header at offset ${at}` };
    }
    const nameAt = at + CPIO_HEADER_SIZE;
    const name = ascii(bytes, nameAt, Math.min(nameSize - 1, 4096));
    // Name and content are each padded to 4 bytes, counted from the archive's start.
    const contentAt = start + align4(nameAt + nameSize - start);
    const end = contentAt + fileSize;
    if (end > bytes.length) {
      return { fault: `cpio entry "${name}" ends at byte ${end}` };
    }
    if (name === CPIO_TRAILER) return Math.min(end, bytes.length);
    at = start + align4(end - start);
    entries++;
  }
}

/** zstd: the frame header and the blocks' headers say where the frame ends (RFC 8878, 3.1.1). */
function checkZstd(view: DataView, start: number): Extent {
  const fault = (at: number) => ({ fault: `zstd frame ends after byte ${at}` });
  const size = view.byteLength;
  if (start + 5 > size) return fault(start + 5);
  const descriptor = view.getUint8(start + 4);
  const singleSegment = (descriptor >> 5) & 1;
  const checksum = (descriptor >> 2) & 1;
  const contentSizeFlag = descriptor >> 6;
  const contentSizeBytes = contentSizeFlag === 0
    ? singleSegment
    : 1 << contentSizeFlag;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3];
  let at = start + 5 + (singleSegment ? 0 : 1) + dictionaryBytes +
    contentSizeBytes;
  for (;;) {
    if (at + 3 > size) return fault(at + 3);
    const header = view.getUint16(at, true) | view.getUint8(at + 2) << 16;
    const isLast = (header & 1) !== 0;
    const RLE_BLOCK = 1;
    at += 3 + (((header >> 1) & 3) === RLE_BLOCK ? 1 : header >>> 3);
    if (at > size) return fault(at);
    if (!isLast) continue;
    at += checksum * 4;
    return at > size ? fault(at) : at;
  }
}

/** LZ4 legacy: chunks, each with its length; the last is followed by the end or a new magic. */
function checkLz4(view: DataView, start: number): Extent {
  const MAX_CHUNK = 16 * 1024 * 1024;
  let at = start + 4;
  while (at + 4 <= view.byteLength) {
    const length = view.getUint32(at, true);
    if (length === 0 || length > MAX_CHUNK) return at;
    at += 4 + length;
    if (at > view.byteLength) return { fault: `LZ4 chunk ends at byte ${at}` };
  }
  return view.byteLength;
}

/** xz: a whole file ends in a footer, maybe followed by zeros. */
function checkXz(bytes: Uint8Array): Extent {
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end--;
  return XZ_FOOTER_MAGIC.every((b, i) => bytes[end - 2 + i] === b)
    ? bytes.length
    : { fault: "the xz stream has no footer" };
}

/**
 * gzip says nowhere how long it is: it must be inflated. An error at the end of the input means
 * that more was to come; one before it, that something else follows the stream or that the
 * stream is damaged, which the kernel judges.
 */
async function checkGzip(bytes: Uint8Array, at: number): Promise<Extent> {
  const stream = new DecompressionStream("gzip");
  const drained = stream.readable.pipeTo(new WritableStream()).catch(() => {});
  const writer = stream.writable.getWriter();
  try {
    await writer.write(new Uint8Array(bytes.subarray(at)));
  } catch {
    return bytes.length;
  }
  try {
    await writer.close();
    return bytes.length;
  } catch {
    return { fault: "the gzip stream is not whole" };
  } finally {
    await drained;
  }
}

function ascii(bytes: Uint8Array, at: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(at, at + length));
}

function hexField(bytes: Uint8Array, at: number): number {
  const text = ascii(bytes, at, CPIO_FIELD);
  return /^[0-9a-fA-F]{8}$/.test(text) ? parseInt(text, 16) : NaN;
}

function align4(n: number): number {
  return Math.ceil(n / 4) * 4;
}
