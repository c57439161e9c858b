// The header of a qcow2 image and its extensions: QEMU's docs/interop/qcow2.txt, sections "Header",
// "Feature name table" and "Header extensions". Everything in it is untrusted.

import { MachineError } from "../../../core/plugin.ts";
import { checkSize } from "../types.ts";

/** "QFI\xfb". */
export const MAGIC = 0x514649fb;

// Header fields: offsets in bytes, all big endian.
const VERSION = 4;
const BACKING_FILE_OFFSET = 8;
const BACKING_FILE_SIZE = 16;
const CLUSTER_BITS = 20;
const SIZE = 24;
const CRYPT_METHOD = 32;
const L1_SIZE = 36;
const L1_TABLE_OFFSET = 40;
/** Followed by the number of clusters: together what a grown table changes. */
export const REFCOUNT_TABLE_OFFSET = 48;
const REFCOUNT_TABLE_CLUSTERS = 56;
const NB_SNAPSHOTS = 60;
const SNAPSHOTS_OFFSET = 64;
/** u64; version 3 from here on. */
export const INCOMPATIBLE_FEATURES = 72;
/** u64. */
export const AUTOCLEAR_FEATURES = 88;
const REFCOUNT_ORDER = 96;
const HEADER_LENGTH = 100;
const COMPRESSION_TYPE = 104;

/** Bytes of a version 2 header. */
const V2_HEADER_BYTES = 72;
/** Least bytes of a version 3 header. */
const V3_HEADER_BYTES = 104;
/** Bytes of the header that is written: with the compression type and its padding. */
const WRITTEN_HEADER_BYTES = 112;
/** Bytes that hold every header field that is read. */
export const HEADER_BYTES = WRITTEN_HEADER_BYTES;

// Header extensions.
const EXTENSION_END = 0;
const EXTENSION_BACKING_FORMAT = 0xe2792aca;
const EXTENSION_FEATURE_NAMES = 0x6803f857;
/** Bytes of an extension's type and length. */
const EXTENSION_HEAD = 8;
/** Bytes of an entry of the feature name table: type, bit, and a name of 46. */
const FEATURE_NAME_ENTRY = 48;
const FEATURE_TYPE_INCOMPATIBLE = 0;

// Incompatible features.
/** The refcounts may be wrong. */
export const INCOMPATIBLE_DIRTY = 1n << 0n;
/** Any structure may be wrong: the image must not be written. */
export const INCOMPATIBLE_CORRUPT = 1n << 1n;
const INCOMPATIBLE_DATA_FILE = 1n << 2n;
const INCOMPATIBLE_COMPRESSION = 1n << 3n;
const INCOMPATIBLE_EXTENDED_L2 = 1n << 4n;
const INCOMPATIBLE_KNOWN = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT |
  INCOMPATIBLE_DATA_FILE | INCOMPATIBLE_COMPRESSION | INCOMPATIBLE_EXTENDED_L2;

/** Least and greatest `cluster_bits`: 512 bytes is the specification's least, 2 MiB is QEMU's greatest. */
export const MIN_CLUSTER_BITS = 9;
export const MAX_CLUSTER_BITS = 21;
/** Least `cluster_bits` with extended L2 entries. */
const MIN_EXTENDED_CLUSTER_BITS = 14;
/** Greatest `refcount_order`: 64-bit refcounts. */
const MAX_REFCOUNT_ORDER = 6;
/** `refcount_order` of version 2, and the usual one: 16-bit refcounts. */
export const USUAL_REFCOUNT_ORDER = 4;
/** Longest name of a backing file. */
export const MAX_BACKING_NAME = 1023;
/** Greatest tables that QEMU opens, bytes. */
export const MAX_L1_BYTES = 32 * 1024 * 1024;
export const MAX_REFCOUNT_TABLE_BYTES = 8 * 1024 * 1024;
/** Bytes of an entry of the L1 table and of the refcount table. */
export const TABLE_ENTRY = 8;

/** How a compressed cluster is compressed. */
export type Compression = "deflate" | "zstd";
const COMPRESSION_TYPES: readonly Compression[] = ["deflate", "zstd"];

/** What an image says of the file under it. */
export interface Backing {
  /** The name, as the header has it. */
  name: string;
  /** The format, where the header tells it. */
  format?: string;
}

/** The header of an image, checked. */
export interface Header {
  version: 2 | 3;
  clusterBits: number;
  /** Bytes of the disk. */
  size: number;
  /** Entries of the L1 table. */
  l1Size: number;
  l1Offset: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  /** log2 of the bits of a refcount. */
  refcountOrder: number;
  snapshotCount: number;
  snapshotsOffset: number;
  isDirty: boolean;
  isCorrupt: boolean;
  hasExtendedL2: boolean;
  /** Features that end with the first write of somebody who does not know them: all, for this program. */
  autoclear: bigint;
  incompatible: bigint;
  compression: Compression;
  backing?: Backing;
}

/** Bytes of the disk that an entry of the L1 table stands for. */
export function l1Coverage(clusterBits: number, hasExtendedL2: boolean) {
  const entry = hasExtendedL2 ? 16 : 8;
  return 2 ** clusterBits * (2 ** clusterBits / entry);
}

/**
 * Whether a file begins as a qcow2 image does.
 *
 * @param bytes Its first bytes.
 */
export function hasMagic(bytes: Uint8Array): boolean {
  return bytes.length >= 4 &&
    new DataView(bytes.buffer, bytes.byteOffset).getUint32(0) === MAGIC;
}

/**
 * Bytes of the file that the header and all that belongs to it are in: the first cluster.
 *
 * @param bytes The first {@linkcode HEADER_BYTES} bytes or more.
 */
export function headerClusterBytes(bytes: Uint8Array): number {
  if (bytes.length < V2_HEADER_BYTES) return bytes.length;
  const bits = new DataView(bytes.buffer, bytes.byteOffset)
    .getUint32(CLUSTER_BITS);
  return 2 **
    Math.min(Math.max(bits, MIN_CLUSTER_BITS), MAX_CLUSTER_BITS);
}

/**
 * Reads a header.
 *
 * @param path The image, for messages.
 * @param bytes The first cluster, or less where the file ends.
 * @returns The header; the places and sizes of its tables are checked against the limits of the format, not against
 * the size of the file.
 * @throws {MachineError} If it is not one that can be used; the message names the field.
 */
export function parseHeader(path: string, bytes: Uint8Array): Header {
  const fail = (why: string): never => {
    throw new MachineError(`cannot open image "${path}": ${why}`);
  };
  if (!hasMagic(bytes)) fail("it is not a qcow2 image (format=raw opens it)");
  if (bytes.length < V2_HEADER_BYTES) fail("its qcow2 header is cut short");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const u32 = (at: number) => view.getUint32(at);
  const u64 = (at: number, name: string) => {
    const value = view.getBigUint64(at);
    return value <= Number.MAX_SAFE_INTEGER
      ? Number(value)
      : fail(`${name} is ${value}, which is impossible`);
  };
  const version = u32(VERSION);
  if (version !== 2 && version !== 3) {
    return fail(`it is qcow2 version ${version}: expected 2 or 3`);
  }
  const length = version === 2
    ? V2_HEADER_BYTES
    : bytes.length < V3_HEADER_BYTES
    ? fail("its qcow2 header is cut short")
    : u32(HEADER_LENGTH);
  if (version === 3 && (length < V3_HEADER_BYTES || length % 8 !== 0)) {
    fail(
      `header_length is ${length}: expected a multiple of 8, at least ${V3_HEADER_BYTES}`,
    );
  }
  if (length > bytes.length) {
    fail(`header_length is ${length}, which is more than a cluster`);
  }
  const extensions = parseExtensions(view, length, fail);

  const incompatible = version === 2
    ? 0n
    : view.getBigUint64(INCOMPATIBLE_FEATURES);
  const unknown = incompatible & ~INCOMPATIBLE_KNOWN;
  if (unknown !== 0n) fail(`it needs ${extensions.nameFeatures(unknown)}`);
  if (incompatible & INCOMPATIBLE_DATA_FILE) {
    fail(
      'its data are in a file of their own, which is not supported: "qemu-img convert -O qcow2" makes one file of both',
    );
  }
  if (u32(CRYPT_METHOD) !== 0) {
    fail(
      'it is encrypted, which is not supported: "qemu-img convert" makes an image without encryption',
    );
  }
  const clusterBits = u32(CLUSTER_BITS);
  if (clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS) {
    fail(
      `cluster_bits is ${clusterBits}: expected ${MIN_CLUSTER_BITS} to ${MAX_CLUSTER_BITS}`,
    );
  }
  const hasExtendedL2 = (incompatible & INCOMPATIBLE_EXTENDED_L2) !== 0n;
  if (hasExtendedL2 && clusterBits < MIN_EXTENDED_CLUSTER_BITS) {
    fail(
      `cluster_bits is ${clusterBits}: expected at least ${MIN_EXTENDED_CLUSTER_BITS} with extended L2 entries`,
    );
  }
  const refcountOrder = version === 2
    ? USUAL_REFCOUNT_ORDER
    : u32(REFCOUNT_ORDER);
  if (refcountOrder > MAX_REFCOUNT_ORDER) {
    fail(
      `refcount_order is ${refcountOrder}: expected 0 to ${MAX_REFCOUNT_ORDER}`,
    );
  }
  const compressionType = length > COMPRESSION_TYPE
    ? view.getUint8(COMPRESSION_TYPE)
    : 0;
  const compression = COMPRESSION_TYPES[compressionType] ??
    fail(`compression_type is ${compressionType}: expected 0 or 1`);
  const isUsual = (incompatible & INCOMPATIBLE_COMPRESSION) === 0n;
  if (isUsual !== (compressionType === 0)) {
    fail(
      `compression_type is ${compressionType}, which contradicts its feature bit`,
    );
  }

  const size = u64(SIZE, "size");
  checkSize(`image "${path}"`, size);
  const clusterSize = 2 ** clusterBits;
  const table = (name: string, offset: number, count: number, max: number) => {
    if (offset % clusterSize !== 0 || (offset === 0 && count > 0)) {
      fail(`${name} is at ${offset}, which is no cluster for it`);
    }
    if (count * TABLE_ENTRY > max) {
      fail(
        `${name} has ${count} entries: expected at most ${max / TABLE_ENTRY}`,
      );
    }
    return offset;
  };
  const l1Size = u32(L1_SIZE);
  const needed = Math.ceil(size / l1Coverage(clusterBits, hasExtendedL2));
  if (l1Size < needed) {
    fail(
      `the L1 table has ${l1Size} entries: expected ${needed} for a disk of ${size} bytes`,
    );
  }
  const refcountTableClusters = u32(REFCOUNT_TABLE_CLUSTERS);
  if (refcountTableClusters === 0) fail("it has no refcount table");
  const snapshotsOffset = u64(SNAPSHOTS_OFFSET, "snapshots_offset");
  const snapshotCount = u32(NB_SNAPSHOTS);
  if (snapshotCount > 0 && snapshotsOffset % clusterSize !== 0) {
    fail(`the snapshot table is at ${snapshotsOffset}, which is no cluster`);
  }
  return {
    version,
    clusterBits,
    size,
    l1Size,
    l1Offset: table(
      "the L1 table",
      u64(L1_TABLE_OFFSET, "l1_table_offset"),
      l1Size,
      MAX_L1_BYTES,
    ),
    refcountTableOffset: table(
      "the refcount table",
      u64(REFCOUNT_TABLE_OFFSET, "refcount_table_offset"),
      refcountTableClusters * clusterSize / TABLE_ENTRY,
      MAX_REFCOUNT_TABLE_BYTES,
    ),
    refcountTableClusters,
    refcountOrder,
    snapshotCount,
    snapshotsOffset,
    isDirty: (incompatible & INCOMPATIBLE_DIRTY) !== 0n,
    isCorrupt: (incompatible & INCOMPATIBLE_CORRUPT) !== 0n,
    hasExtendedL2,
    autoclear: version === 2 ? 0n : view.getBigUint64(AUTOCLEAR_FEATURES),
    incompatible,
    compression,
    backing: parseBacking(view, extensions.backingFormat, fail),
  };
}

function text(view: DataView, offset: number, length: number): string {
  return new TextDecoder().decode(
    new Uint8Array(view.buffer, view.byteOffset + offset, length),
  );
}

function parseBacking(
  view: DataView,
  format: string | undefined,
  fail: (why: string) => never,
): Backing | undefined {
  const offset = view.getBigUint64(BACKING_FILE_OFFSET);
  if (offset === 0n) return undefined;
  const length = view.getUint32(BACKING_FILE_SIZE);
  if (length === 0) return undefined;
  if (
    length > MAX_BACKING_NAME || offset + BigInt(length) > view.byteLength
  ) {
    fail(
      `the name of its backing file is ${length} bytes at ${offset}: expected at most ${MAX_BACKING_NAME} in the first cluster`,
    );
  }
  return { name: text(view, Number(offset), length), format };
}

/** What the extensions tell. */
interface Extensions {
  backingFormat?: string;
  /** Names for incompatible features. */
  nameFeatures(bits: bigint): string;
}

function parseExtensions(
  view: DataView,
  start: number,
  fail: (why: string) => never,
): Extensions {
  const names = new Map<number, string>();
  let backingFormat: string | undefined;
  // They end at the backing file's name, which may take the rest of the cluster.
  const name = view.getBigUint64(BACKING_FILE_OFFSET);
  const end = name > start && name < view.byteLength
    ? Number(name)
    : view.byteLength;
  for (let at = start; at + EXTENSION_HEAD <= end;) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === EXTENSION_END) break;
    const data = at + EXTENSION_HEAD;
    if (data + length > end) {
      fail(
        `a header extension of type 0x${
          type.toString(16)
        } has ${length} bytes, which do not fit`,
      );
    }
    if (type === EXTENSION_BACKING_FORMAT) {
      backingFormat = text(view, data, length);
    }
    if (type === EXTENSION_FEATURE_NAMES) {
      for (
        let entry = data;
        entry + FEATURE_NAME_ENTRY <= data + length;
        entry += FEATURE_NAME_ENTRY
      ) {
        if (view.getUint8(entry) !== FEATURE_TYPE_INCOMPATIBLE) continue;
        const name = text(view, entry + 2, FEATURE_NAME_ENTRY - 2);
        names.set(view.getUint8(entry + 1), name.replace(/\0.*$/s, ""));
      }
    }
    at = data + Math.ceil(length / 8) * 8;
  }
  return {
    backingFormat,
    nameFeatures: (bits) =>
      Array.from({ length: 64 }, (_, bit) => bit)
        .filter((bit) => bits >> BigInt(bit) & 1n)
        .map((bit) =>
          `the feature ${JSON.stringify(names.get(bit) ?? `bit ${bit}`)}`
        )
        .join(" and ") + ", which is not supported",
  };
}

/** What goes into a new header. */
export interface NewHeader {
  clusterBits: number;
  size: number;
  l1Size: number;
  l1Offset: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  backing?: Backing;
}

/**
 * Makes the first cluster of an image of version 3.
 *
 * @param header What it has to say.
 * @returns The cluster.
 * @throws {MachineError} If the name of the backing file does not fit.
 */
export function encodeHeader(header: NewHeader): Uint8Array {
  const bytes = new Uint8Array(2 ** header.clusterBits);
  const view = new DataView(bytes.buffer);
  const u64 = (at: number, value: number) =>
    view.setBigUint64(at, BigInt(value));
  view.setUint32(0, MAGIC);
  view.setUint32(VERSION, 3);
  view.setUint32(CLUSTER_BITS, header.clusterBits);
  u64(SIZE, header.size);
  view.setUint32(L1_SIZE, header.l1Size);
  u64(L1_TABLE_OFFSET, header.l1Offset);
  u64(REFCOUNT_TABLE_OFFSET, header.refcountTableOffset);
  view.setUint32(REFCOUNT_TABLE_CLUSTERS, header.refcountTableClusters);
  view.setUint32(REFCOUNT_ORDER, USUAL_REFCOUNT_ORDER);
  view.setUint32(HEADER_LENGTH, WRITTEN_HEADER_BYTES);
  if (header.backing === undefined) return bytes;

  const encoder = new TextEncoder();
  const format = encoder.encode(header.backing.format);
  const name = encoder.encode(header.backing.name);
  let at = WRITTEN_HEADER_BYTES;
  view.setUint32(at, EXTENSION_BACKING_FORMAT);
  view.setUint32(at + 4, format.length);
  bytes.set(format, at + EXTENSION_HEAD);
  at += EXTENSION_HEAD + Math.ceil(format.length / 8) * 8;
  // The end of the extensions is zeroes.
  at += EXTENSION_HEAD;
  const room = Math.min(MAX_BACKING_NAME, bytes.length - at);
  if (name.length > room) {
    throw new MachineError(
      `the name of the backing file "${header.backing.name}" is ${name.length} bytes: expected at most ${room}`,
    );
  }
  bytes.set(name, at);
  u64(BACKING_FILE_OFFSET, at);
  view.setUint32(BACKING_FILE_SIZE, name.length);
  return bytes;
}
