/**
 * The frame check sequence of Ethernet: IEEE 802.3, section 3.2.9.
 *
 * @module
 */

/** The generator polynomial, reflected. */
const POLYNOMIAL = 0xedb8_8320;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) {
    value = (value & 1) !== 0 ? value >>> 1 ^ POLYNOMIAL : value >>> 1;
  }
  return value >>> 0;
});

/**
 * The check sequence of a frame.
 *
 * @param bytes The frame.
 * @returns 32 bits, that go on the wire with the lowest byte first.
 */
export function crc32(bytes: Uint8Array): number {
  let value = 0xffff_ffff;
  for (let i = 0; i < bytes.length; i++) {
    value = value >>> 8 ^ TABLE[(value ^ bytes[i]) & 0xff];
  }
  return ~value >>> 0;
}
