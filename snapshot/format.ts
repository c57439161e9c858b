/**
 * What writing and reading a snapshot share: the numbers of docs/snapshot-format.md, and what a
 * host hands in.
 *
 * @module
 */
import type { SchemaDescription } from "./schema.ts";

/** Version of the container. */
export const FORMAT_VERSION = 1;
/** Its first bytes. */
export const MAGIC = "DIAPAUSE";
/** Its last. */
export const END_MAGIC = "ESUAPAID";
/** Reads as 0xFFFE where the byte order is the other one. */
export const BYTE_ORDER = 0xfeff;
/** Bytes before the first chunk. */
export const HEADER_BYTES = 16;
/** Bytes of a SHA-256. */
export const HASH_BYTES = 32;
/** An entry of the index: tag, zero, length, hash. */
export const ENTRY_BYTES = 16 + HASH_BYTES;
/** Count, hash, magic. */
export const TRAILER_BYTES = 8 + HASH_BYTES + 8;
/** Bytes of a chunk at most, and of what a map expands to. */
export const MAX_CHUNK = 64 << 20;
/** RAM of a machine at most: what a 32-bit wasm memory can hold. */
export const MAX_MEMORY = 2 ** 32;
/** A disk at most: what 32-bit page numbers reach. */
export const MAX_DISK = 2 ** 44;
/** Snapshots of a chain at most. */
export const MAX_CHAIN = 64;
/** Blocks that are compressed or expanded at the same time. */
export const IN_FLIGHT = 4;

/** Kinds of chunks. */
export const TAG = {
  manifest: "MANI",
  component: "COMP",
  pages: "PAGE",
  map: "PMAP",
} as const;
/** A kind of chunk. */
export type Tag = typeof TAG[keyof typeof TAG];
/** All kinds. */
export const TAGS: readonly string[] = Object.values(TAG);

/** What a snapshot cannot be, or be opened as. Its message names the chunk. */
export class SnapshotError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "SnapshotError";
}

/** What works at once, for pages that the guest waits for. */
export interface SyncCodec {
  /** Decompresses; refuses to make more than `limit` bytes. */
  decompress(bytes: Uint8Array, limit: number): Uint8Array;
  /** The SHA-256 of bytes. */
  sha256(bytes: Uint8Array): Uint8Array;
}

/** Compression, handed in by the host. */
export interface Codec {
  /** Compresses with zstd. */
  compress(bytes: Uint8Array): Promise<Uint8Array>;
  /** Decompresses; refuses to make more than `limit` bytes. */
  decompress(bytes: Uint8Array, limit: number): Promise<Uint8Array>;
  /** The same at once; without it no restore can be lazy. */
  readonly sync?: SyncCodec;
}

/** Where a snapshot is written: in order, never back. */
export interface Sink {
  /** Appends bytes; the caller may change them when it resolves. */
  write(bytes: Uint8Array): Promise<void>;
}

/** Where a snapshot is read from. */
export interface Source {
  /** Bytes of the whole. */
  readonly size: number;
  /** Reads exactly `length` bytes. */
  read(offset: number, length: number): Promise<Uint8Array>;
  /** The same at once; without it no restore can be lazy. */
  readSync?(offset: number, length: number): Uint8Array;
}

/** A component as it is in a snapshot. */
export interface StoredComponent {
  /** Component. */
  id: string;
  /** The schema of its state. */
  schema: SchemaDescription;
  /** Its state, which fits that schema. */
  state: unknown;
}

/** SHA-256, a chunk at a time. */
export async function sha256(bytes: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(
    await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>),
  );
}

/** ASCII as bytes. */
export const ascii = (text: string) => new TextEncoder().encode(text);

/** All parts, one after another. */
export function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
