// The gateway's DHCP server: RFC 2131 and 2132. It has one address to give, the same each time.

import { putWord } from "../../../plugins/net/frame.ts";

const BOOTREQUEST = 1, BOOTREPLY = 2;
const ETHERNET = 1;
const COOKIE = [0x63, 0x82, 0x53, 0x63];
const COOKIE_OFFSET = 236;
const OPTIONS_OFFSET = 240;
const YIADDR = 16, SIADDR = 20, CHADDR = 28;

const OPTION_PAD = 0, OPTION_MASK = 1, OPTION_ROUTER = 3, OPTION_DNS = 6;
const OPTION_HOST_NAME = 12, OPTION_MTU = 26, OPTION_REQUESTED = 50;
const OPTION_LEASE = 51, OPTION_TYPE = 53, OPTION_SERVER = 54;
const OPTION_END = 255;
const DISCOVER = 1, OFFER = 2, REQUEST = 3, ACK = 5, NAK = 6, INFORM = 8;
const LEASE_SECONDS = [0, 1, 0x51, 0x80];

/** Ports, RFC 2131 section 4.1. */
export const SERVER_PORT = 67;
export const CLIENT_PORT = 68;

/** What the server gives. */
export interface DhcpAddresses {
  readonly guest: Uint8Array;
  readonly mask: Uint8Array;
  readonly gateway: Uint8Array;
  readonly dns: Uint8Array;
  readonly mtu: number;
  readonly hostName?: string;
}

/**
 * Answers a message of a client.
 *
 * @param message The payload of its UDP packet.
 * @param give What the server gives.
 * @returns The answer's payload, or null when there is none to give.
 */
export function answerDhcp(
  message: Uint8Array,
  give: DhcpAddresses,
): Uint8Array | null {
  if (
    message.length < OPTIONS_OFFSET || message[0] !== BOOTREQUEST ||
    message[1] !== ETHERNET ||
    COOKIE.some((byte, i) => message[COOKIE_OFFSET + i] !== byte)
  ) return null;
  const options = readOptions(message.subarray(OPTIONS_OFFSET));
  const type = options.get(OPTION_TYPE)?.[0];
  const wanted = options.get(OPTION_REQUESTED);
  const isOther = wanted !== undefined &&
    wanted.some((byte, i) => byte !== give.guest[i]);
  let answer: number;
  if (type === DISCOVER) answer = OFFER;
  else if (type === REQUEST) answer = isOther ? NAK : ACK;
  else if (type === INFORM) answer = ACK;
  else return null;
  const fields: number[] = [OPTION_TYPE, 1, answer];
  const put = (option: number, bytes: ArrayLike<number>) =>
    fields.push(option, bytes.length, ...Array.from(bytes));
  put(OPTION_SERVER, give.gateway);
  if (answer !== NAK) {
    put(OPTION_MASK, give.mask);
    put(OPTION_ROUTER, give.gateway);
    put(OPTION_DNS, give.dns);
    put(OPTION_MTU, [give.mtu >>> 8, give.mtu & 0xff]);
    if (give.hostName !== undefined) {
      put(OPTION_HOST_NAME, new TextEncoder().encode(give.hostName));
    }
    if (type !== INFORM) put(OPTION_LEASE, LEASE_SECONDS);
  }
  fields.push(OPTION_END);
  const reply = new Uint8Array(OPTIONS_OFFSET + Math.max(fields.length, 60));
  reply.set(message.subarray(0, 12));
  reply[0] = BOOTREPLY;
  reply[3] = 0;
  putWord(reply, 10, message[10] << 8 | message[11]);
  if (answer !== NAK && type !== INFORM) reply.set(give.guest, YIADDR);
  reply.set(give.gateway, SIADDR);
  reply.set(message.subarray(CHADDR, CHADDR + 16), CHADDR);
  reply.set(COOKIE, COOKIE_OFFSET);
  reply.set(fields, OPTIONS_OFFSET);
  return reply;
}

function readOptions(bytes: Uint8Array): Map<number, Uint8Array> {
  const options = new Map<number, Uint8Array>();
  for (let at = 0; at < bytes.length && bytes[at] !== OPTION_END;) {
    if (bytes[at] === OPTION_PAD) {
      at++;
      continue;
    }
    const length = bytes[at + 1] ?? 0;
    options.set(bytes[at], bytes.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return options;
}
