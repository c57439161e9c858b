// Snapshot files taken apart and put together again, hashes and all: docs/snapshot-format.md,
// written a second time and for attackers.

import { createHash } from "node:crypto";

const HEADER = 16;
const ENTRY = 48;
const TRAILER = 48;
const HASH = 32;

/** A chunk of a file. */
export interface Chunk {
  /** `MANI`, `COMP`, `PAGE` or `PMAP`. */
  tag: string;
  /** What is in it. */
  payload: Uint8Array;
}

/** SHA-256. */
export function sha256(bytes: Uint8Array): Uint8Array {
  return createHash("sha256").update(bytes).digest();
}

/** All parts, one after another. */
export function join(
  ...parts: readonly Uint8Array[]
): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** The chunks of a good file. */
export function chunksOf(file: Uint8Array): Chunk[] {
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const count = Number(view.getBigUint64(file.length - TRAILER, true));
  const index = file.length - TRAILER - count * ENTRY;
  let at = HEADER;
  return Array.from({ length: count }, (_, i) => {
    const entry = index + i * ENTRY;
    const tag = String.fromCharCode(...file.subarray(entry, entry + 4));
    const length = Number(view.getBigUint64(entry + 8, true));
    const payload = file.subarray(at, at += length);
    return { tag, payload };
  });
}

/** What {@linkcode assemble} gets wrong on purpose. */
export interface Faults {
  /** Changes the index before it is hashed. */
  index?: (index: Uint8Array) => Uint8Array;
  /** Added to the number of chunks in the trailer. */
  count?: bigint;
  /** The header, before it is hashed. */
  header?: (header: Uint8Array) => void;
}

/** A file of chunks, its hashes right. */
export function assemble(
  file: Uint8Array,
  chunks: readonly Chunk[],
  faults: Faults = {},
): Uint8Array<ArrayBuffer> {
  const header = file.slice(0, HEADER);
  faults.header?.(header);
  const entries = chunks.map(({ tag, payload }) => {
    const entry = new Uint8Array(ENTRY);
    entry.set(new TextEncoder().encode(tag).subarray(0, 4));
    new DataView(entry.buffer).setBigUint64(8, BigInt(payload.length), true);
    entry.set(sha256(payload), ENTRY - HASH);
    return entry;
  });
  const plain = join(...entries);
  const index = faults.index?.(plain) ?? plain;
  const count = new Uint8Array(8);
  new DataView(count.buffer).setBigUint64(
    0,
    BigInt.asUintN(64, BigInt(chunks.length) + (faults.count ?? 0n)),
    true,
  );
  return join(
    header,
    ...chunks.map(({ payload }) => payload),
    index,
    count,
    sha256(join(header, index, count)),
    file.subarray(-8),
  );
}
