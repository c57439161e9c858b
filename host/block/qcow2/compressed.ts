// Compressed clusters: raw deflate or zstd (QEMU's docs/interop/qcow2.txt, section "Compressed
// Clusters Descriptor"; the zstd frame format, RFC 8878 section 3.1.1).

import { promisify } from "node:util";
import zlib from "node:zlib";
import type { Compression } from "./header.ts";

type Inflate = (
  bytes: Uint8Array,
  options: { maxOutputLength: number },
) => Promise<Uint8Array>;

const inflateRaw = promisify(zlib.inflateRaw) as Inflate;
const zstdDecompress = promisify(zlib.zstdDecompress) as Inflate;

/**
 * Decompresses a cluster.
 *
 * @param compression How it is compressed.
 * @param bytes The compressed data, and whatever is behind them in their last sector.
 * @param clusterSize Bytes of the cluster.
 * @returns The cluster.
 * @throws {Error} If the data are damaged, or are not exactly a cluster.
 */
export async function decompress(
  compression: Compression,
  bytes: Uint8Array,
  clusterSize: number,
): Promise<Uint8Array> {
  let cluster: Uint8Array;
  try {
    const options = { maxOutputLength: clusterSize };
    cluster = compression === "deflate"
      ? await inflateRaw(bytes, options)
      : await zstdDecompress(bytes.subarray(0, frameBytes(bytes)), options);
  } catch (cause) {
    throw new Error("a compressed cluster is damaged", { cause });
  }
  if (cluster.length !== clusterSize) {
    throw new Error(
      `a compressed cluster is of ${cluster.length} bytes: expected ${clusterSize}`,
    );
  }
  return cluster;
}

const ZSTD_MAGIC_BYTES = 4;
/** Bytes of the field Frame_Content_Size by its flag, and of Dictionary_ID by its own. */
const CONTENT_SIZE_BYTES = [0, 2, 4, 8];
const DICTIONARY_ID_BYTES = [0, 1, 2, 4];
const CHECKSUM_BYTES = 4;
const BLOCK_HEADER_BYTES = 3;
const BLOCK_RLE = 1;

/** Bytes of the zstd frame at the start: the decoder takes no others behind it. */
function frameBytes(bytes: Uint8Array): number {
  const descriptor = bytes[ZSTD_MAGIC_BYTES];
  const isSingleSegment = (descriptor >> 5 & 1) === 1;
  const sizeFlag = descriptor >> 6;
  let at = ZSTD_MAGIC_BYTES + 1 + (isSingleSegment ? 0 : 1) +
    DICTIONARY_ID_BYTES[descriptor & 3] +
    (sizeFlag === 0 && isSingleSegment ? 1 : CONTENT_SIZE_BYTES[sizeFlag]);
  for (;;) {
    if (at + BLOCK_HEADER_BYTES > bytes.length) {
      throw new Error("the zstd frame is cut short");
    }
    const header = bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16;
    const isRle = (header >> 1 & 3) === BLOCK_RLE;
    at += BLOCK_HEADER_BYTES + (isRle ? 1 : header >> 3);
    if (header & 1) break;
  }
  return at + ((descriptor >> 2 & 1) === 1 ? CHECKSUM_BYTES : 0);
}
