// The internal snapshots of an image: QEMU's docs/interop/qcow2.txt, section "Snapshots". They are
// kept as they are; what they refer to has to be known so that nothing is written there.

import type { HostFile } from "../file.ts";
import { type Header, MAX_L1_BYTES, TABLE_ENTRY } from "./header.ts";
import { CorruptError } from "./owners.ts";

// Fields of an entry.
const L1_TABLE_OFFSET = 0;
const L1_SIZE = 8;
const ID_BYTES = 12;
const NAME_BYTES = 14;
const EXTRA_BYTES = 36;
/** Bytes of an entry without its extra data, id and name. */
const ENTRY_BYTES = 40;
const ENTRY_ALIGNMENT = 8;

/** Limits of QEMU: snapshots, and bytes of extra data in each. */
const MAX_SNAPSHOTS = 65536;
const MAX_EXTRA_BYTES = 1024;

/** What an internal snapshot refers to. */
export interface InternalSnapshot {
  /** Place of its L1 table. */
  l1Offset: number;
  /** Entries of its L1 table. */
  l1Size: number;
}

/** The snapshot table of an image. */
export interface SnapshotTable {
  /** Bytes. */
  length: number;
  snapshots: InternalSnapshot[];
}

/**
 * Reads the snapshot table.
 *
 * @param file The image.
 * @param header Its header.
 * @returns The table.
 * @throws {CorruptError} If it, or what it refers to, is not inside the file.
 */
export async function readSnapshots(
  file: HostFile,
  header: Header,
): Promise<SnapshotTable> {
  const { snapshotCount, snapshotsOffset } = header;
  if (snapshotCount > MAX_SNAPSHOTS) {
    throw new CorruptError(
      `it has ${snapshotCount} snapshots: expected at most ${MAX_SNAPSHOTS}`,
    );
  }
  const snapshots: InternalSnapshot[] = [];
  const entry = new Uint8Array(ENTRY_BYTES);
  const view = new DataView(entry.buffer);
  let at = snapshotsOffset;
  let l1Bytes = 0;
  for (let i = 0; i < snapshotCount; i++) {
    if (await file.read(entry, at) < ENTRY_BYTES) {
      throw new CorruptError(`snapshot ${i} is behind the end of the file`);
    }
    const extra = view.getUint32(EXTRA_BYTES);
    if (extra > MAX_EXTRA_BYTES) {
      throw new CorruptError(
        `snapshot ${i} has ${extra} bytes of extra data: expected at most ${MAX_EXTRA_BYTES}`,
      );
    }
    const l1Offset = Number(view.getBigUint64(L1_TABLE_OFFSET));
    const l1Size = view.getUint32(L1_SIZE);
    const bytes = l1Size * TABLE_ENTRY;
    l1Bytes += bytes;
    if (
      l1Bytes > MAX_L1_BYTES || l1Offset % 2 ** header.clusterBits !== 0 ||
      l1Offset + bytes > file.size
    ) {
      throw new CorruptError(
        `the L1 table of snapshot ${i} is at ${l1Offset}, ${bytes} bytes, which is not in the file`,
      );
    }
    snapshots.push({ l1Offset, l1Size });
    at += ENTRY_BYTES + extra + view.getUint16(ID_BYTES) +
      view.getUint16(NAME_BYTES);
    at = Math.ceil(at / ENTRY_ALIGNMENT) * ENTRY_ALIGNMENT;
  }
  return { length: at - snapshotsOffset, snapshots };
}
