// A guest on the network in user space, for its tests: it makes frames and takes them apart.

import {
  addWords,
  ETHERNET_HEADER,
  fold,
  putWord,
  word,
} from "../../../plugins/net/frame.ts";
import type { Net } from "../types.ts";
import {
  type Address,
  type Packet,
  PROTOCOL_ICMP,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  readPacket,
  transportSum,
  TYPE_ARP,
  TYPE_IPV4,
  writePacket,
} from "./ip.ts";
import { readSegment, type Segment } from "./tcp.ts";

export const CARD: Uint8Array = Uint8Array.of(0x52, 0x54, 0, 0, 0, 1);
export const GUEST: Address = Uint8Array.of(10, 0, 2, 15);
export const GATEWAY: Address = Uint8Array.of(10, 0, 2, 2);
const GATEWAY_MAC = Uint8Array.of(0x52, 0x55, 0x0a, 0, 2, 2);

/** The guest. */
export class TestGuest {
  readonly #net: Net;
  readonly #frames: Uint8Array[] = [];
  #waiting: (() => void) | undefined;

  /** @param net The network. */
  constructor(net: Net) {
    this.#net = net;
    net.onReceive((frame) => {
      this.#frames.push(frame.slice());
      this.#waiting?.();
      return true;
    });
  }

  /** Frames that have come and that nobody has asked for. */
  get pending(): number {
    return this.#frames.length;
  }

  /** The next frame. */
  async frame(): Promise<Uint8Array> {
    while (this.#frames.length === 0) {
      await new Promise<void>((resolve) => this.#waiting = resolve);
    }
    return this.#frames.shift()!;
  }

  /** The next packet; its sums are checked. */
  async packet(): Promise<Packet> {
    const packet = readPacket((await this.frame()).subarray(ETHERNET_HEADER));
    if (packet === null) throw new Error("the packet is malformed");
    const hasPseudo = packet.protocol !== PROTOCOL_ICMP;
    const sum = hasPseudo
      ? transportSum(packet)
      : fold(addWords(packet.payload, 0, packet.payload.length));
    if (sum !== 0) throw new Error("the packet's sum is wrong");
    return packet;
  }

  /** Sends bytes of a protocol of Ethernet. */
  ethernet(type: number, bytes: Uint8Array, to = GATEWAY_MAC): void {
    const frame = new Uint8Array(ETHERNET_HEADER + bytes.length);
    frame.set(to);
    frame.set(CARD, 6);
    putWord(frame, 12, type);
    frame.set(bytes, ETHERNET_HEADER);
    this.#net.send(frame);
  }

  /** Asks who has an address. */
  arp(target: Address): void {
    const body = new Uint8Array(28);
    body.set([0, 1, 8, 0, 6, 4, 0, 1]);
    body.set(CARD, 8);
    body.set(GUEST, 14);
    body.set(target, 24);
    this.ethernet(TYPE_ARP, body, new Uint8Array(6).fill(0xff));
  }

  /** Sends an ICMP echo request. */
  ping(to: Address, sequence: number): void {
    const payload = Uint8Array.of(8, 0, 0, 0, 0, 1, 0, sequence, 1, 2, 3, 4);
    putWord(payload, 2, fold(addWords(payload, 0, payload.length)));
    this.#ip(to, PROTOCOL_ICMP, payload);
  }

  /** Sends a datagram. */
  udp(
    to: Address,
    ports: { from: number; to: number },
    data: Uint8Array,
    from: Address = GUEST,
  ): void {
    const payload = new Uint8Array(8 + data.length);
    putWord(payload, 0, ports.from);
    putWord(payload, 2, ports.to);
    putWord(payload, 4, payload.length);
    payload.set(data, 8);
    const packet = {
      source: from,
      destination: to,
      protocol: PROTOCOL_UDP,
      payload,
    };
    putWord(payload, 6, transportSum(packet));
    this.ethernet(TYPE_IPV4, writePacket(packet));
  }

  /** Sends a segment. */
  tcp(
    to: Address,
    fields: {
      from: number;
      to: number;
      sequence: number;
      acknowledgment?: number;
      flags: number;
      window?: number;
      data?: Uint8Array;
      options?: readonly number[];
    },
  ): void {
    const { data = new Uint8Array(0), options = [] } = fields;
    const payload = new Uint8Array(20 + options.length + data.length);
    const view = new DataView(payload.buffer);
    view.setUint16(0, fields.from);
    view.setUint16(2, fields.to);
    view.setUint32(4, fields.sequence);
    view.setUint32(8, fields.acknowledgment ?? 0);
    payload[12] = (20 + options.length) / 4 << 4;
    payload[13] = fields.flags;
    view.setUint16(14, fields.window ?? 0xffff);
    payload.set(options, 20);
    payload.set(data, 20 + options.length);
    const packet = {
      source: GUEST,
      destination: to,
      protocol: PROTOCOL_TCP,
      payload,
    };
    putWord(payload, 16, transportSum(packet));
    this.ethernet(TYPE_IPV4, writePacket(packet));
  }

  /** The next segment. */
  async segment(): Promise<Segment> {
    const { payload, protocol } = await this.packet();
    if (protocol !== PROTOCOL_TCP) throw new Error("the packet is not of TCP");
    return readSegment(payload)!;
  }

  #ip(to: Address, protocol: number, payload: Uint8Array): void {
    this.ethernet(
      TYPE_IPV4,
      writePacket({ source: GUEST, destination: to, protocol, payload }),
    );
  }
}

/** Whether a frame answers ARP for an address. */
export function isArpReply(frame: Uint8Array, address: Address): boolean {
  return word(frame, 12) === TYPE_ARP && word(frame, 20) === 2 &&
    address.every((byte, i) => frame[28 + i] === byte);
}
