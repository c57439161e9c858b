/**
 * Frames for the tests of network cards.
 *
 * @module
 */

/**
 * Makes an Ethernet frame.
 *
 * @param to Destination.
 * @param from Source.
 * @param length Bytes of payload, numbered.
 * @param type EtherType.
 */
export function frameTo(
  to: Uint8Array,
  from: Uint8Array,
  length: number,
  type = 0x88b5,
): Uint8Array {
  const frame = new Uint8Array(14 + length);
  frame.set(to);
  frame.set(from, 6);
  frame.set([type >>> 8, type & 0xff], 12);
  for (let i = 0; i < length; i++) frame[14 + i] = i;
  return frame;
}

/** Everybody. */
export const BROADCAST: Uint8Array = new Uint8Array(6).fill(0xff);
