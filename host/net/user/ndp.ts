// The gateway in the neighbour discovery of IPv6: RFC 4861, with the prefix that guests make their
// addresses of (RFC 4862).

import { MAC_BYTES, putWord } from "../../../plugins/net/frame.ts";
import {
  type Address,
  HOP_LIMIT,
  isSame,
  type Packet,
  parseAddress,
  PROTOCOL_ICMPV6,
  transportSum,
  writePacket,
} from "./ip.ts";

const ECHO_REQUEST = 128, ECHO_REPLY = 129;
const ROUTER_SOLICITATION = 133, ROUTER_ADVERTISEMENT = 134;
const NEIGHBOR_SOLICITATION = 135, NEIGHBOR_ADVERTISEMENT = 136;
const OPTION_SOURCE_LINK = 1, OPTION_TARGET_LINK = 2, OPTION_PREFIX = 3;
const OPTION_MTU = 5, OPTION_RDNSS = 25;
const PREFIX_BITS = 64;
/** On link, and for addresses of their own. */
const PREFIX_FLAGS = 0xc0;
const ROUTER_SECONDS = 1800;
const PREFIX_SECONDS = 86_400;
const FLAGS_ROUTER_SOLICITED_OVERRIDE = 0xe0;

/** All nodes of the link. */
const ALL_NODES: Address = parseAddress("ff02::1")!;

/** The gateway's addresses. */
export interface GatewayV6 {
  readonly mac: Uint8Array;
  readonly local: Address;
  readonly address: Address;
  readonly dns: Address;
  readonly prefix: Address;
  readonly mtu: number;
}

function icmp(
  source: Address,
  destination: Address,
  body: Uint8Array,
): Uint8Array {
  const packet = {
    source,
    destination,
    protocol: PROTOCOL_ICMPV6,
    payload: body,
  };
  putWord(body, 2, 0);
  putWord(body, 2, transportSum(packet));
  return writePacket(packet, HOP_LIMIT);
}

function seconds(value: number): number[] {
  return [value >>> 24, value >>> 16 & 0xff, value >>> 8 & 0xff, value & 0xff];
}

/** The advertisement of the gateway as a router. */
function routerAdvertisement(
  gateway: GatewayV6,
  to: Address,
): Uint8Array {
  const body = Uint8Array.of(
    ROUTER_ADVERTISEMENT,
    0,
    0,
    0,
    64,
    0,
    ROUTER_SECONDS >>> 8,
    ROUTER_SECONDS & 0xff,
    ...new Array(8).fill(0),
    OPTION_SOURCE_LINK,
    1,
    ...gateway.mac,
    OPTION_MTU,
    1,
    0,
    0,
    ...seconds(gateway.mtu),
    OPTION_PREFIX,
    4,
    PREFIX_BITS,
    PREFIX_FLAGS,
    ...seconds(PREFIX_SECONDS),
    ...seconds(PREFIX_SECONDS),
    0,
    0,
    0,
    0,
    ...gateway.prefix,
    OPTION_RDNSS,
    3,
    0,
    0,
    ...seconds(PREFIX_SECONDS),
    ...gateway.dns,
  );
  return icmp(gateway.local, to, body);
}

/**
 * Answers an ICMPv6 message.
 *
 * @param packet What came from the guest.
 * @param gateway The gateway.
 * @returns An IPv6 packet, or null when there is nothing to answer.
 */
export function answerIcmpV6(
  packet: Packet,
  gateway: GatewayV6,
): Uint8Array | null {
  const { payload, source, destination } = packet;
  if (payload.length < 8 || transportSum(packet) !== 0) return null;
  const own = [gateway.local, gateway.address, gateway.dns];
  switch (payload[0]) {
    case ECHO_REQUEST: {
      if (!own.some((address) => isSame(address, destination))) return null;
      const body = payload.slice();
      body[0] = ECHO_REPLY;
      return icmp(destination, source, body);
    }
    case ROUTER_SOLICITATION:
      return routerAdvertisement(gateway, ALL_NODES);
    case NEIGHBOR_SOLICITATION: {
      const target = payload.subarray(8, 24);
      if (!own.some((address) => isSame(address, target))) return null;
      const body = new Uint8Array(24 + 2 + MAC_BYTES);
      body[0] = NEIGHBOR_ADVERTISEMENT;
      body[4] = FLAGS_ROUTER_SOLICITED_OVERRIDE;
      body.set(target, 8);
      body.set([OPTION_TARGET_LINK, 1], 24);
      body.set(gateway.mac, 26);
      // An unspecified source asks whether the address is taken.
      const isProbe = source.every((byte) => byte === 0);
      return icmp(target.slice(), isProbe ? ALL_NODES : source, body);
    }
    default:
      return null;
  }
}
