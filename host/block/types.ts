// What every kind of block image shares.

import { type BlockBackend, MachineError } from "../../core/plugin.ts";

/** The unit of a disk's size and of every access: virtio 1.2 section 5.2 and ATA count in these. */
export const SECTOR_SIZE = 512;

/** An open block image: what a device sees of it, and its end. */
export interface BlockImage extends BlockBackend {
  /** Finishes what is under way and lets go of the file. Further calls do nothing. */
  close(): Promise<void>;
}

/**
 * Checks that a range is whole sectors inside an image.
 *
 * @param size The image's size in bytes.
 * @param offset First byte.
 * @param length Bytes.
 * @throws {RangeError} If it is not.
 */
export function checkRange(size: number, offset: number, length: number): void {
  if (offset % SECTOR_SIZE !== 0 || length % SECTOR_SIZE !== 0) {
    throw new RangeError(
      `block access at ${offset}, ${length} bytes, is not in whole sectors of ${SECTOR_SIZE} bytes`,
    );
  }
  if (!(offset >= 0 && length >= 0 && offset + length <= size)) {
    throw new RangeError(
      `block access at ${offset}, ${length} bytes, is outside the image of ${size} bytes`,
    );
  }
}

/**
 * Checks the size of an image.
 *
 * @param what The image, as the message is to name it.
 * @param size Bytes.
 * @throws {MachineError} If it is not a positive multiple of 512 that a number holds exactly.
 */
export function checkSize(what: string, size: number): void {
  if (size === 0) {
    throw new MachineError(
      `${what} is empty: a disk holds at least one sector of ${SECTOR_SIZE} bytes`,
    );
  }
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new MachineError(
      `${what} has an impossible size of ${size} bytes`,
    );
  }
  if (size % SECTOR_SIZE !== 0) {
    const up = size + SECTOR_SIZE - size % SECTOR_SIZE;
    throw new MachineError(
      `${what} is ${size} bytes, which is not a multiple of ${SECTOR_SIZE}: the next is ${up} (truncate -s ${up} makes a raw file that long)`,
    );
  }
}
