/**
 * Addresses for cards that were given none: from the range that QEMU's users know, and the same for
 * the same id, so that two cards of a machine differ and a guest finds its card again.
 *
 * @module
 */
import { formatMac } from "./frame.ts";

/** Locally administered. */
const PREFIX = [0x52, 0x54, 0x00];
/** FNV-1a, 32 bits. */
const HASH_BASIS = 0x811c9dc5;
const HASH_PRIME = 0x01000193;

/**
 * Makes an address.
 *
 * @param id The card's instance id.
 * @returns The address as text.
 */
export function defaultMac(id: string): string {
  let hash = HASH_BASIS;
  for (const byte of new TextEncoder().encode(id)) {
    hash = Math.imul(hash ^ byte, HASH_PRIME);
  }
  return formatMac(
    Uint8Array.of(...PREFIX, hash >>> 16, hash >>> 8, hash),
  );
}
