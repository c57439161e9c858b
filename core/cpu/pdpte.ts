/**
 * The PDPTE registers of PAE paging: loaded from memory when CR3 or the mode of paging is written,
 * and not looked at in memory again (Intel SDM vol. 3, 4.4.1).
 *
 * @module
 */
import { PHYSICAL_BITS } from "./cpuid.ts";
import { type CpuState, CR0, CR4, EFER, OFF } from "./state.ts";

/** How many there are. */
export const PDPTES = 4;
const PRESENT = 1n;
/** Reserved in a present one: bits 2:1, 8:5, and from the physical address width on (table 4-8). */
const RESERVED = 0x1e6n | BigInt.asUintN(64, -1n << BigInt(PHYSICAL_BITS));

/**
 * Whether paging is PAE paging, that with PDPTE registers.
 *
 * @param state The vCPU's state.
 */
export function isPaePaging(state: CpuState): boolean {
  return (state.get32(OFF.cr0) & CR0.PG) !== 0 &&
    (state.get32(OFF.cr4) & CR4.PAE) !== 0 &&
    (state.get32(OFF.efer) & EFER.LMA) === 0;
}

/**
 * Whether a value can be in a PDPTE register.
 *
 * @param entry The value.
 */
export function isPdpte(entry: bigint): boolean {
  return (entry & PRESENT) === 0n || (entry & RESERVED) === 0n;
}

/**
 * Puts values into the registers.
 *
 * @param state The vCPU's state.
 * @param entries The four, or none to leave them as they are.
 */
export function setPdptes(state: CpuState, entries: readonly bigint[]): void {
  entries.forEach((entry, i) => state.set(OFF.pdpte + 8 * i, entry));
}
