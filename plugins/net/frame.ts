/**
 * Ethernet frames as network cards see them: addresses, the Internet checksum (RFC 1071), and the
 * splitting of long TCP and UDP segments that drivers leave to a card.
 *
 * @module
 */

/** Bytes of a MAC address. */
export const MAC_BYTES = 6;
/** Two addresses and the type. */
export const ETHERNET_HEADER = 14;
/** The shortest frame without its check sequence. */
export const MIN_FRAME = 60;
/** EtherType of a VLAN tag, IEEE 802.1Q. */
export const TYPE_VLAN = 0x8100;
const TYPE_OFFSET = 12;
const VLAN_ID = 0xfff;

/**
 * Reads a MAC address.
 *
 * @param text Six bytes in hexadecimal with colons.
 * @returns The bytes, or null when the text is none, or is a group address.
 */
export function parseMac(text: string): Uint8Array | null {
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text)) return null;
  const bytes = Uint8Array.from(text.split(":"), (byte) => parseInt(byte, 16));
  return (bytes[0] & 1) === 0 ? bytes : null;
}

/**
 * Writes a MAC address.
 *
 * @param mac Six bytes.
 */
export function formatMac(mac: Uint8Array): string {
  return [...mac].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}

/** Whether a frame goes to everybody. */
export function isBroadcast(frame: Uint8Array): boolean {
  for (let i = 0; i < MAC_BYTES; i++) if (frame[i] !== 0xff) return false;
  return true;
}

/** Whether a frame goes to a group; broadcast is one. */
export function isMulticast(frame: Uint8Array): boolean {
  return (frame[0] & 1) !== 0;
}

/** Whether a frame goes to an address. */
export function isTo(frame: Uint8Array, mac: Uint8Array): boolean {
  for (let i = 0; i < MAC_BYTES; i++) if (frame[i] !== mac[i]) return false;
  return true;
}

/**
 * The VLAN that a frame is tagged with.
 *
 * @param frame The frame.
 * @param type EtherType of tags.
 * @returns Its id, or null without a tag.
 */
export function vlanOf(frame: Uint8Array, type = TYPE_VLAN): number | null {
  if (frame.length < ETHERNET_HEADER + 4 || word(frame, TYPE_OFFSET) !== type) {
    return null;
  }
  return word(frame, ETHERNET_HEADER) & VLAN_ID;
}

/** 16 bits, big-endian. */
export function word(bytes: Uint8Array, at: number): number {
  return bytes[at] << 8 | bytes[at + 1];
}

/** Puts 16 bits, big-endian. */
export function putWord(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}

function putLong(bytes: Uint8Array, at: number, value: number): void {
  putWord(bytes, at, value >>> 16);
  putWord(bytes, at + 2, value & 0xffff);
}

function long(bytes: Uint8Array, at: number): number {
  return (word(bytes, at) << 16 | word(bytes, at + 2)) >>> 0;
}

/**
 * Adds the 16-bit words of a range to a sum, as the Internet checksum does.
 *
 * @param bytes The bytes.
 * @param from First byte.
 * @param to End; an odd last byte counts as the upper half of a word.
 * @param sum What was added before.
 * @returns The sum, not folded.
 */
export function addWords(
  bytes: Uint8Array,
  from: number,
  to: number,
  sum = 0,
): number {
  let total = sum;
  let at = from;
  for (; at + 1 < to; at += 2) total += bytes[at] << 8 | bytes[at + 1];
  if (at < to) total += bytes[at] << 8;
  return total;
}

/**
 * The Internet checksum of a sum.
 *
 * @param sum From {@linkcode addWords}.
 */
export function fold(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) {
    folded = (folded & 0xffff) + Math.floor(folded / 0x10000);
  }
  return ~folded & 0xffff;
}

const PROTOCOL_UDP = 17;
const IPV4_HEADER = 20;
const IPV4_LENGTH = 2;
const IPV4_ID = 4;
const IPV4_CHECKSUM = 10;
const IPV6_LENGTH = 4;
const IPV6_HEADER = 40;
const TCP_SEQUENCE = 4;
const TCP_OFFSET = 12;
const TCP_FLAGS = 13;
const TCP_CHECKSUM = 16;
const TCP_FIN_PSH = 0x09;
const TCP_CWR = 0x80;
const UDP_LENGTH = 4;
const UDP_HEADER = 8;

/** Where the headers of a segment to split are. */
export interface SegmentLayout {
  /** Offset of the IP header. */
  ip: number;
  /** Offset of the TCP or UDP header. */
  transport: number;
  /** Offset of the payload. */
  payload: number;
  /** Whether it is IPv6. */
  v6: boolean;
  /** Whether it is TCP; UDP otherwise. */
  tcp: boolean;
  /** Bytes of payload in a segment. */
  mss: number;
}

/**
 * Splits a long TCP or UDP segment into frames, each with its own lengths, sequence number and
 * checksums. The checksum field of the transport header holds what the driver put there: the
 * pseudo header's sum is made anew for each.
 *
 * @param frame The long frame.
 * @param layout Where its headers are: inside the frame.
 * @param emit Takes each frame; valid during the call.
 */
export function splitSegment(
  frame: Uint8Array,
  layout: SegmentLayout,
  emit: (frame: Uint8Array) => void,
): void {
  const { ip, transport, payload, v6, tcp, mss } = layout;
  const header = frame.subarray(0, payload);
  const sequence = tcp ? long(frame, transport + TCP_SEQUENCE) : 0;
  const flags = frame[transport + TCP_FLAGS];
  const id = word(frame, ip + IPV4_ID);
  for (let at = payload, n = 0; at < frame.length; at += mss, n++) {
    const end = Math.min(at + mss, frame.length);
    const part = new Uint8Array(payload + end - at);
    part.set(header);
    part.set(frame.subarray(at, end), payload);
    if (v6) putWord(part, ip + IPV6_LENGTH, part.length - ip - IPV6_HEADER);
    else {
      putWord(part, ip + IPV4_LENGTH, part.length - ip);
      putWord(part, ip + IPV4_ID, id + n & 0xffff);
      putWord(part, ip + IPV4_CHECKSUM, 0);
      putWord(
        part,
        ip + IPV4_CHECKSUM,
        fold(addWords(part, ip, ip + (part[ip] & 0xf) * 4)),
      );
    }
    if (tcp) {
      putLong(
        part,
        transport + TCP_SEQUENCE,
        sequence + (at - payload) >>> 0,
      );
      // FIN and PSH belong to the last segment, CWR to the first.
      let own = flags;
      if (end < frame.length) own &= ~TCP_FIN_PSH;
      if (n > 0) own &= ~TCP_CWR;
      part[transport + TCP_FLAGS] = own;
    } else putWord(part, transport + UDP_LENGTH, part.length - transport);
    putTransportChecksum(part, ip, transport, v6, tcp);
    emit(part);
  }
}

/** Puts the checksum of a whole TCP or UDP segment. */
function putTransportChecksum(
  frame: Uint8Array,
  ip: number,
  transport: number,
  v6: boolean,
  tcp: boolean,
): void {
  const at = transport + (tcp ? TCP_CHECKSUM : 6);
  putWord(frame, at, 0);
  const length = frame.length - transport;
  // The pseudo header: both addresses, the protocol, the length.
  const addresses = v6
    ? [ip + 8, ip + IPV6_HEADER]
    : [ip + 12, ip + IPV4_HEADER];
  const pseudo = addWords(frame, addresses[0], addresses[1]) +
    (tcp ? 6 : PROTOCOL_UDP) + length;
  const sum = fold(addWords(frame, transport, frame.length, pseudo));
  putWord(frame, at, !tcp && sum === 0 ? 0xffff : sum);
}

/**
 * Finds the end of the transport header.
 *
 * @param frame The frame.
 * @param transport Offset of the TCP or UDP header.
 * @param tcp Whether it is TCP.
 */
export function payloadOf(
  frame: Uint8Array,
  transport: number,
  tcp: boolean,
): number {
  return transport +
    (tcp ? (frame[transport + TCP_OFFSET] >>> 4) * 4 : UDP_HEADER);
}
