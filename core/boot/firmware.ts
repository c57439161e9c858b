/**
 * A flat firmware image (BIOS or UEFI): it ends at 4 GiB, where the reset vector is, and its
 * last 128 KiB are found below 1 MiB as well (Intel ICH9, section 9.4).
 *
 * @module
 */

import type { BootFile, BootState, GuestRam } from "./types.ts";
import { BootError } from "./types.ts";
import { BIOS_AREA_BASE, HIGH_MEMORY_BASE } from "./e820.ts";
import { resetVectorEntry } from "./entry.ts";

const PAGE_SIZE = 4096;
const KIB = 1024;
const MIB = KIB * KIB;
/** The firmware hub's range below 4 GiB. */
const MAX_SIZE = 16 * MIB;
const MIN_SIZE = 64 * KIB;
const SHADOW_SIZE = HIGH_MEMORY_BASE - BIOS_AREA_BASE;
const TOP = 2 ** 32;

/**
 * Prepares a firmware image.
 *
 * @param ram Guest memory; the shadow below 1 MiB is written there, and is writable.
 * @param firmware The image.
 * @returns The state after a reset, with the read-only memory to map below 4 GiB.
 * @throws {BootError} If the image's size is not that of a firmware image.
 */
export function loadFirmware(ram: GuestRam, firmware: BootFile): BootState {
  const { bytes, label } = firmware;
  const size = bytes.length;
  if (size < MIN_SIZE || size > MAX_SIZE || size % PAGE_SIZE !== 0) {
    throw new BootError(
      label,
      `not a firmware image: ${size} bytes; expected ${
        MIN_SIZE / KIB
      } KiB to ` +
        `${MAX_SIZE / MIB} MiB in whole pages of ${PAGE_SIZE}`,
    );
  }
  const shadow = bytes.subarray(-Math.min(size, SHADOW_SIZE));
  ram.write(HIGH_MEMORY_BASE - shadow.length, shadow);
  return { ...resetVectorEntry(), roms: [{ base: TOP - size, bytes }] };
}
