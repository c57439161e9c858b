// New qcow2 images, version 3: QEMU's docs/interop/qcow2.txt.

import { MachineError } from "../../../core/plugin.ts";
import { checkSize } from "../types.ts";
import {
  encodeHeader,
  l1Coverage,
  MAX_CLUSTER_BITS,
  MAX_L1_BYTES,
  MIN_CLUSTER_BITS,
  TABLE_ENTRY,
  USUAL_REFCOUNT_ORDER,
} from "./header.ts";
import { setRefcount } from "./refcounts.ts";

/** Bytes of a cluster, as QEMU chooses it. */
const DEFAULT_CLUSTER_SIZE = 64 * 1024;

/** What a new image is to be. */
export interface Qcow2Options {
  /** Bytes of the disk: a multiple of 512. */
  size: number;
  /** The image under it: a path, seen from the new image's folder unless it is absolute, and the format. */
  backing?: { path: string; format: "raw" | "qcow2" };
  /** Bytes of a cluster: a power of two from 512 to 2 MiB, 64 KiB when absent. */
  clusterSize?: number;
}

/**
 * Makes an image that is empty, or an overlay that reads as the image under it. It is durable on return, but for its
 * name in the folder.
 *
 * @param path The new file.
 * @param options What it is to be.
 * @throws {Deno.errors.AlreadyExists} If there is such a file.
 * @throws {MachineError} If the sizes are not possible.
 *
 * @example An overlay of a raw image
 * ```ts ignore
 * await createQcow2("overlay.qcow2", {
 *   size: 64 * 1024 * 1024,
 *   backing: { path: "base.img", format: "raw" },
 * });
 * ```
 */
export async function createQcow2(
  path: string,
  options: Qcow2Options,
): Promise<void> {
  const { size, backing, clusterSize = DEFAULT_CLUSTER_SIZE } = options;
  const clusterBits = Math.log2(clusterSize);
  if (
    !Number.isInteger(clusterBits) || clusterBits < MIN_CLUSTER_BITS ||
    clusterBits > MAX_CLUSTER_BITS
  ) {
    throw new MachineError(
      `a cluster of ${clusterSize} bytes: expected a power of two from ${
        2 ** MIN_CLUSTER_BITS
      } to ${2 ** MAX_CLUSTER_BITS}`,
    );
  }
  checkSize(`image "${path}"`, size);
  const l1Size = Math.ceil(size / l1Coverage(clusterBits, false));
  const greatest = MAX_L1_BYTES / TABLE_ENTRY * l1Coverage(clusterBits, false);
  if (size > greatest) {
    throw new MachineError(
      `image "${path}" of ${size} bytes: expected at most ${greatest} with clusters of ${clusterSize} bytes`,
    );
  }

  // The header, the refcount table, its blocks, and the L1 table.
  const clusters = (bytes: number) => Math.ceil(bytes / clusterSize);
  const l1Clusters = clusters(l1Size * TABLE_ENTRY);
  const perBlock = clusterSize * 8 / 2 ** USUAL_REFCOUNT_ORDER;
  let blocks = 1;
  let tableClusters: number;
  let total: number;
  for (;;) {
    tableClusters = clusters(blocks * TABLE_ENTRY);
    total = 1 + tableClusters + blocks + l1Clusters;
    if (blocks * perBlock >= total) break;
    blocks = Math.ceil(total / perBlock);
  }
  const tableOffset = clusterSize;
  const blocksOffset = tableOffset + tableClusters * clusterSize;
  const l1Offset = blocksOffset + blocks * clusterSize;
  const bytes = new Uint8Array(l1Offset);
  bytes.set(encodeHeader({
    clusterBits,
    size,
    l1Size,
    l1Offset,
    refcountTableOffset: tableOffset,
    refcountTableClusters: tableClusters,
    backing: backing && { name: backing.path, format: backing.format },
  }));
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < blocks; i++) {
    const block = blocksOffset + i * clusterSize;
    view.setBigUint64(tableOffset + i * TABLE_ENTRY, BigInt(block));
  }
  const counts = new DataView(bytes.buffer, blocksOffset);
  for (let i = 0; i < total; i++) {
    setRefcount(counts, USUAL_REFCOUNT_ORDER, i, 1);
  }

  const file = await Deno.open(path, { write: true, createNew: true });
  try {
    for (let done = 0; done < bytes.length;) {
      done += await file.write(bytes.subarray(done));
    }
    // The L1 table is zeroes.
    await file.truncate(l1Offset + l1Clusters * clusterSize);
    await file.sync();
  } catch (error) {
    await Deno.remove(path).catch(() => {});
    throw error;
  } finally {
    file.close();
  }
}
