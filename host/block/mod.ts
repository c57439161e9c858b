// Block images by what the user asked for.

import { MachineError } from "../../core/plugin.ts";
import { DEFAULT_MEMORY_SIZE, MemoryBlock } from "./memory.ts";
import { RawBlock } from "./raw.ts";
import type { BlockImage } from "./types.ts";

export type { BlockImage } from "./types.ts";
export { SECTOR_SIZE } from "./types.ts";
export { DEFAULT_MEMORY_SIZE, MemoryBlock } from "./memory.ts";
export { RawBlock } from "./raw.ts";

/** What a block device's options say of its image. */
export interface BlockOptions {
  /** Path of a raw file or a block device; a scratch disk in memory when absent. */
  image?: string;
  /** Refuses writes. */
  readonly?: boolean;
  /** Bytes of the scratch disk; 64 MiB when absent. */
  size?: number;
}

/**
 * Opens the image of a block device.
 *
 * @param options What to open.
 * @returns The image; its user closes it.
 * @throws {MachineError} If it cannot be opened or is no disk; the message names the path and the cause.
 *
 * @example A scratch disk of 1 MiB
 * ```ts
 * import { openBlock } from "./mod.ts";
 *
 * const disk = await openBlock({ size: 1024 * 1024 });
 * await disk.write(512, new Uint8Array(512).fill(1));
 * await disk.close();
 * ```
 */
export async function openBlock(
  options: BlockOptions = {},
): Promise<BlockImage> {
  const { image, readonly = false, size } = options;
  if (image === undefined) {
    return new MemoryBlock(size ?? DEFAULT_MEMORY_SIZE, readonly);
  }
  if (image === "") {
    throw new MachineError(
      "image= is empty: give the path of a raw image, or leave it out for a scratch disk in memory",
    );
  }
  if (size !== undefined) {
    throw new MachineError(
      `size=${size} is for a scratch disk in memory: image "${image}" has the size that it has`,
    );
  }
  return await RawBlock.open(image, readonly);
}
