/**
 * The PC's memory map, as firmware reports it through INT 15h E820 (ACPI 6.4, section 15.2),
 * and the fixed addresses of this machine.
 *
 * @module
 */

import type { MemoryRegion } from "./types.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

/** AddressRangeMemory. */
export const E820_RAM = 1;
/** AddressRangeReserved. */
export const E820_RESERVED = 2;

/** End of conventional memory; the extended BIOS data area follows. */
export const EBDA_BASE = 0x9fc00;
/** Start of the legacy VGA window. */
export const VGA_HOLE_BASE = 0xa0000;
/** The BIOS area, where the ACPI tables are. */
export const BIOS_AREA_BASE = 0xe0000;
/** The first megabyte's end. */
export const HIGH_MEMORY_BASE: number = MIB;
/** RAM below 4 GiB ends here at the latest. */
export const LOW_RAM_LIMIT: number = 3 * GIB;
/** First address of the window from which 32-bit BARs are given. */
export const PCI_HOLE_BASE = 0xc000_0000;
/** Length of that window. */
export const PCI_HOLE_LENGTH = 0x2000_0000;
/** PCI Express configuration space. */
export const ECAM_BASE = 0xe000_0000;
/** Length of the configuration space of 256 buses. */
export const ECAM_LENGTH = 0x1000_0000;
/** The I/O APIC's registers. */
export const IOAPIC_BASE = 0xfec0_0000;
/** The HPET's registers. */
export const HPET_BASE = 0xfed0_0000;
/** The local APIC's registers. */
export const LAPIC_BASE = 0xfee0_0000;
/** RAM beyond 3 GiB continues here. */
export const RAM_ABOVE_4G: number = 4 * GIB;

/** The least RAM with which the map makes sense. */
export const MIN_RAM: number = MIB;

/**
 * Where RAM below 4 GiB ends.
 * @param ramSize Bytes of RAM in all.
 * @returns The first address past low RAM.
 */
export function lowRamTop(ramSize: number): number {
  return Math.min(ramSize, LOW_RAM_LIMIT);
}

/**
 * The memory map that a guest with this much RAM is told.
 *
 * @param ramSize Bytes of RAM in all, at least 1 MiB.
 * @returns Regions in ascending order that do not overlap.
 * @throws {RangeError} With less than 1 MiB, or a size that is no multiple of a page.
 */
export function pcMemoryMap(ramSize: number): MemoryRegion[] {
  if (ramSize < MIN_RAM || ramSize % (4 * KIB) !== 0) {
    throw new RangeError(
      `guest memory of ${ramSize} bytes: expected a multiple of 4096 of at least ${MIN_RAM}`,
    );
  }
  const map: MemoryRegion[] = [
    { base: 0, length: EBDA_BASE, type: E820_RAM },
    { base: EBDA_BASE, length: VGA_HOLE_BASE - EBDA_BASE, type: E820_RESERVED },
    {
      base: BIOS_AREA_BASE,
      length: HIGH_MEMORY_BASE - BIOS_AREA_BASE,
      type: E820_RESERVED,
    },
  ];
  const low = lowRamTop(ramSize);
  if (low > HIGH_MEMORY_BASE) {
    map.push({
      base: HIGH_MEMORY_BASE,
      length: low - HIGH_MEMORY_BASE,
      type: E820_RAM,
    });
  }
  map.push({ base: ECAM_BASE, length: ECAM_LENGTH, type: E820_RESERVED });
  if (ramSize > LOW_RAM_LIMIT) {
    map.push({
      base: RAM_ABOVE_4G,
      length: ramSize - LOW_RAM_LIMIT,
      type: E820_RAM,
    });
  }
  return map;
}

/** Bytes of one entry: base, length, type. */
export const E820_ENTRY_SIZE = 20;

/**
 * Encodes the map as E820 entries.
 * @param map The regions.
 * @returns 20 bytes for each.
 */
export function encodeE820(map: readonly MemoryRegion[]): Uint8Array {
  const bytes = new Uint8Array(map.length * E820_ENTRY_SIZE);
  const view = new DataView(bytes.buffer);
  map.forEach((region, i) => {
    const at = i * E820_ENTRY_SIZE;
    view.setBigUint64(at, BigInt(region.base), true);
    view.setBigUint64(at + 8, BigInt(region.length), true);
    view.setUint32(at + 16, region.type, true);
  });
  return bytes;
}
