// Packets of IPv4 (RFC 791) and IPv6 (RFC 8200), and the addresses in them.

import { addWords, fold, putWord, word } from "../../../plugins/net/frame.ts";

export const PROTOCOL_ICMP = 1;
export const PROTOCOL_TCP = 6;
export const PROTOCOL_UDP = 17;
export const PROTOCOL_ICMPV6 = 58;

export const TYPE_IPV4 = 0x0800;
export const TYPE_ARP = 0x0806;
export const TYPE_IPV6 = 0x86dd;

const IPV4_HEADER = 20;
const IPV6_HEADER = 40;
const TTL = 64;
/** NDP requires this hop limit, RFC 4861 section 4. */
export const HOP_LIMIT = 255;
const MORE_FRAGMENTS_OR_OFFSET = 0x3fff;
const DONT_FRAGMENT = 0x4000;

/** An address: 4 or 16 bytes. */
export type Address = Uint8Array;

/** A packet without its header. */
export interface Packet {
  source: Address;
  destination: Address;
  protocol: number;
  payload: Uint8Array;
}

/**
 * Reads an address.
 *
 * @param text `10.0.2.2`, or `fec0::2`.
 * @returns Its bytes, or null when it is none.
 */
export function parseAddress(text: string): Address | null {
  if (/^\d+(\.\d+){3}$/.test(text)) {
    const bytes = text.split(".").map(Number);
    return bytes.every((byte) => byte <= 255) ? Uint8Array.from(bytes) : null;
  }
  if (!/^[0-9a-f:]+$/i.test(text) || !text.includes(":")) return null;
  const halves = text.split("::");
  if (halves.length > 2) return null;
  const groups = halves.map((half) => half === "" ? [] : half.split(":"));
  const given = groups.flat();
  if (given.some((group) => !/^[0-9a-f]{1,4}$/i.test(group))) return null;
  const missing = 8 - given.length;
  if (halves.length === 1 ? missing !== 0 : missing < 1) return null;
  const all = halves.length === 1
    ? given
    : [...groups[0], ...new Array(missing).fill("0"), ...groups[1]];
  const bytes = new Uint8Array(16);
  all.forEach((group, i) => putWord(bytes, 2 * i, parseInt(group, 16)));
  return bytes;
}

/**
 * Writes an address, as sockets take it.
 *
 * @param address The address.
 */
export function formatAddress(address: Address): string {
  if (address.length === 4) return address.join(".");
  return Array.from(
    { length: 8 },
    (_, i) => word(address, 2 * i).toString(16),
  ).join(":");
}

/** Whether two addresses are the same. */
export function isSame(a: Address, b: Address): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/**
 * Reads a packet.
 *
 * @param bytes From its IP header on.
 * @returns What is in it, or null when it is malformed, or a fragment: none is put together again.
 */
export function readPacket(bytes: Uint8Array): Packet | null {
  const version = bytes[0] >>> 4;
  if (version === 4 && bytes.length >= IPV4_HEADER) {
    const header = (bytes[0] & 0xf) * 4;
    const length = word(bytes, 2);
    if (
      header < IPV4_HEADER || length < header || length > bytes.length ||
      fold(addWords(bytes, 0, header)) !== 0 ||
      (word(bytes, 6) & MORE_FRAGMENTS_OR_OFFSET) !== 0
    ) return null;
    return {
      source: bytes.subarray(12, 16),
      destination: bytes.subarray(16, 20),
      protocol: bytes[9],
      payload: bytes.subarray(header, length),
    };
  }
  if (version === 6 && bytes.length >= IPV6_HEADER) {
    const length = IPV6_HEADER + word(bytes, 4);
    if (length > bytes.length) return null;
    return {
      source: bytes.subarray(8, 24),
      destination: bytes.subarray(24, 40),
      protocol: bytes[6],
      payload: bytes.subarray(IPV6_HEADER, length),
    };
  }
  return null;
}

/**
 * Makes a packet.
 *
 * @param packet What is in it; the addresses tell the version.
 * @param ttl Hops that it may take.
 * @returns Its bytes, the IP header included.
 */
export function writePacket(
  { source, destination, protocol, payload }: Packet,
  ttl: number = TTL,
): Uint8Array {
  if (source.length === 4) {
    const bytes = new Uint8Array(IPV4_HEADER + payload.length);
    bytes[0] = 0x45;
    putWord(bytes, 2, bytes.length);
    putWord(bytes, 6, DONT_FRAGMENT);
    bytes[8] = ttl;
    bytes[9] = protocol;
    bytes.set(source, 12);
    bytes.set(destination, 16);
    putWord(bytes, 10, fold(addWords(bytes, 0, IPV4_HEADER)));
    bytes.set(payload, IPV4_HEADER);
    return bytes;
  }
  const bytes = new Uint8Array(IPV6_HEADER + payload.length);
  bytes[0] = 0x60;
  putWord(bytes, 4, payload.length);
  bytes[6] = protocol;
  bytes[7] = ttl;
  bytes.set(source, 8);
  bytes.set(destination, 24);
  bytes.set(payload, IPV6_HEADER);
  return bytes;
}

/**
 * The checksum of TCP, UDP or ICMPv6, with its pseudo header.
 *
 * @param packet The packet; the checksum in its payload is zero, or is checked along.
 * @returns The checksum; 0 when the one in the payload is right.
 */
export function transportSum(
  { source, destination, protocol, payload }: Packet,
): number {
  let sum = protocol + payload.length;
  sum = addWords(source, 0, source.length, sum);
  sum = addWords(destination, 0, destination.length, sum);
  return fold(addWords(payload, 0, payload.length, sum));
}
