// A network of its own for the guest, in user space: a gateway at 10.0.2.2 that gives an address,
// resolves names, and carries TCP and UDP to where the host gets.
//
// There is no such library for JavaScript, and the C one (libslirp) needs the host's poll(2) and
// a package; sockets of Deno are all that this needs.
//
//   10.0.2.0/24   the network; fec0::/64
//   10.0.2.2      the gateway: DHCP, echo; its TCP and UDP ports are the host's loopback; fec0::2
//   10.0.2.3      names, by the host's resolver; fec0::3
//   10.0.2.15     the first address that DHCP gives

import {
  addWords,
  ETHERNET_HEADER,
  fold,
  isBroadcast,
  isMulticast,
  MAC_BYTES,
  putWord,
  word,
} from "../../../plugins/net/frame.ts";
import { Inbox, type Net, NetError } from "../types.ts";
import { answerDhcp, CLIENT_PORT, SERVER_PORT } from "./dhcp.ts";
import { type Forward, parseForwards } from "./forward.ts";
import {
  type Address,
  formatAddress,
  isSame,
  type Packet,
  parseAddress,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  readPacket,
  transportSum,
  TYPE_ARP,
  TYPE_IPV4,
  TYPE_IPV6,
  writePacket,
} from "./ip.ts";
import { answerIcmpV6, type GatewayV6 } from "./ndp.ts";
import { bindUdp, Datagrams, SocketPipe } from "./sockets.ts";
import {
  type Ends,
  isOpening,
  readSegment,
  resetFor,
  type Segment,
  TcpEnd,
} from "./tcp.ts";

const GATEWAY_MAC = Uint8Array.of(0x52, 0x55, 0x0a, 0x00, 0x02, 0x02);
const GATEWAY = Uint8Array.of(10, 0, 2, 2);
const DNS = Uint8Array.of(10, 0, 2, 3);
const MASK = Uint8Array.of(255, 255, 255, 0);
const BROADCAST = new Uint8Array(4).fill(255);
const BROADCAST_MAC = new Uint8Array(MAC_BYTES).fill(0xff);
const FIRST_GUEST = 15;
const MAX_GUESTS = 200;
const MTU = 1500;
const V6: GatewayV6 = {
  mac: GATEWAY_MAC,
  local: parseAddress("fe80::2")!,
  address: parseAddress("fec0::2")!,
  dns: parseAddress("fec0::3")!,
  prefix: parseAddress("fec0::")!,
  mtu: MTU,
};
const DNS_PORT = 53;
const UDP_HEADER = 8;
const ICMP_ECHO_REQUEST = 8;
const ICMP_ECHO_REPLY = 0;
const ICMP_UNREACHABLE = 3;
const ICMP_HOST_UNREACHABLE = 1;
const ICMP_HEADER = 8;
/** Of a packet that cannot be delivered this much is sent back, RFC 792. */
const ICMP_QUOTE = 8 + 20;
/** Connections of a card at most. */
const MAX_CONNECTIONS = 1024;
/** First port that the gateway connects from, for forwards. */
const FIRST_PORT = 49_152;
const LAST_PORT = 65_535;

/** What the user may set. */
export interface UserOptions {
  /** Port forwards, as `hostfwd=` has them. */
  hostfwd?: string;
  /** The guest reaches nothing outside. */
  restrict?: boolean;
}

/** A port of UDP. */
interface Port {
  readonly address: Address;
  readonly port: number;
}

/** The network of one card, or of those on one hub. */
class UserNet implements Net {
  readonly link = true;
  readonly #inbox = new Inbox();
  readonly #restrict: boolean;
  /** By address of a guest, its card. */
  readonly #cards = new Map<string, Uint8Array>();
  /** By card, the address that it was given. */
  readonly #leases = new Map<string, Address>();
  readonly #connections = new Map<string, TcpEnd>();
  /** Connections whose socket of the host is not connected yet. */
  readonly #opening = new Map<string, { cancelled: boolean }>();
  readonly #datagrams = new Datagrams();
  readonly #listeners: (() => void)[] = [];
  /** Each takes a datagram that answers one that was forwarded, or returns false. */
  readonly #answers: ((from: Port, to: Port, data: Uint8Array) => boolean)[] =
    [];
  #nextPort = FIRST_PORT;
  #closed = false;

  constructor(restrict: boolean) {
    this.#restrict = restrict;
  }

  send(frame: Uint8Array): boolean {
    if (this.#closed || frame.length < ETHERNET_HEADER) return true;
    const isForUs = isBroadcast(frame) || isMulticast(frame) ||
      GATEWAY_MAC.every((byte, i) => frame[i] === byte);
    if (!isForUs) return true;
    const card = frame.slice(MAC_BYTES, 2 * MAC_BYTES);
    const payload = frame.subarray(ETHERNET_HEADER);
    switch (word(frame, ETHERNET_HEADER - 2)) {
      case TYPE_ARP:
        this.#arp(payload);
        break;
      case TYPE_IPV4:
      case TYPE_IPV6: {
        const packet = readPacket(payload);
        if (packet !== null) this.#packet(packet, payload, card);
        break;
      }
    }
    return true;
  }

  onReceive(accept: (frame: Uint8Array) => boolean): void {
    this.#inbox.onReceive(accept);
  }

  ready(): void {
    this.#inbox.ready();
  }

  onDrain(): void {}

  onLink(): void {}

  // deno-lint-ignore require-await -- what it throws becomes a rejection
  async close(): Promise<void> {
    this.#closed = true;
    for (const stop of this.#listeners) stop();
    for (const each of this.#opening.values()) each.cancelled = true;
    for (const connection of [...this.#connections.values()]) {
      connection.drop();
    }
    this.#datagrams.closeAll();
  }

  // To the guest.

  #emit(bytes: Uint8Array, card: Uint8Array, type: number): void {
    if (this.#closed) return;
    const frame = new Uint8Array(ETHERNET_HEADER + bytes.length);
    frame.set(card);
    frame.set(GATEWAY_MAC, MAC_BYTES);
    putWord(frame, ETHERNET_HEADER - 2, type);
    frame.set(bytes, ETHERNET_HEADER);
    this.#inbox.push(frame);
  }

  /** Sends a packet to the card that has its destination. */
  #deliver(packet: Uint8Array, destination: Address): void {
    const card = this.#cards.get(formatAddress(destination)) ?? BROADCAST_MAC;
    this.#emit(packet, card, destination.length === 4 ? TYPE_IPV4 : TYPE_IPV6);
  }

  #sendUdp(
    from: Port,
    to: Port,
    data: Uint8Array,
    card?: Uint8Array,
  ): void {
    const headers = (from.address.length === 4 ? 20 : 40) + UDP_HEADER;
    // Nothing here makes fragments: what does not fit is lost.
    if (headers + data.length > MTU) return;
    const payload = new Uint8Array(UDP_HEADER + data.length);
    putWord(payload, 0, from.port);
    putWord(payload, 2, to.port);
    putWord(payload, 4, payload.length);
    payload.set(data, UDP_HEADER);
    const packet = {
      source: from.address,
      destination: to.address,
      protocol: PROTOCOL_UDP,
      payload,
    };
    putWord(payload, 6, transportSum(packet) || 0xffff);
    const bytes = writePacket(packet);
    if (card !== undefined) this.#emit(bytes, card, TYPE_IPV4);
    else this.#deliver(bytes, to.address);
  }

  // From the guest.

  /** ARP, RFC 826: who has an address of ours. */
  #arp(request: Uint8Array): void {
    const REQUEST = 1, REPLY = 2, LENGTH = 28;
    if (request.length < LENGTH || word(request, 6) !== REQUEST) return;
    const card = request.slice(8, 14);
    const source = request.slice(14, 18);
    const target = request.subarray(24, 28);
    if (source.some((byte) => byte !== 0)) {
      this.#cards.set(formatAddress(source), card);
    }
    if (!isSame(target, GATEWAY) && !isSame(target, DNS)) return;
    const reply = new Uint8Array(LENGTH);
    reply.set(request.subarray(0, 6));
    putWord(reply, 6, REPLY);
    reply.set(GATEWAY_MAC, 8);
    reply.set(target, 14);
    reply.set(card, 18);
    reply.set(source, 24);
    this.#emit(reply, card, TYPE_ARP);
  }

  #packet(packet: Packet, whole: Uint8Array, card: Uint8Array): void {
    const source = formatAddress(packet.source);
    if (packet.source.some((byte) => byte !== 0)) this.#learn(source, card);
    switch (packet.protocol) {
      case PROTOCOL_ICMP:
        this.#echo(packet, whole);
        break;
      case PROTOCOL_ICMPV6: {
        const answer = answerIcmpV6(packet, V6);
        if (answer !== null) this.#emit(answer, card, TYPE_IPV6);
        break;
      }
      case PROTOCOL_UDP:
        this.#udp(packet, card);
        break;
      case PROTOCOL_TCP:
        this.#tcp(packet);
        break;
    }
  }

  #learn(address: string, card: Uint8Array): void {
    if (this.#cards.size >= MAX_CONNECTIONS) this.#cards.clear();
    this.#cards.set(address, card);
  }

  /** ICMP echo to the gateway; nobody else can be reached by a program without privileges. */
  #echo(packet: Packet, whole: Uint8Array): void {
    const { payload, source, destination } = packet;
    if (payload.length < ICMP_HEADER || payload[0] !== ICMP_ECHO_REQUEST) {
      return;
    }
    const isOurs = isSame(destination, GATEWAY) || isSame(destination, DNS);
    const body = isOurs
      ? payload.slice()
      : new Uint8Array(ICMP_HEADER + Math.min(whole.length, ICMP_QUOTE));
    if (isOurs) body[0] = ICMP_ECHO_REPLY;
    else {
      body[0] = ICMP_UNREACHABLE;
      body[1] = ICMP_HOST_UNREACHABLE;
      body.set(whole.subarray(0, ICMP_QUOTE), ICMP_HEADER);
    }
    putWord(body, 2, 0);
    putWord(body, 2, sumOf(body));
    const reply = writePacket({
      source: isOurs ? destination : GATEWAY,
      destination: source,
      protocol: PROTOCOL_ICMP,
      payload: body,
    });
    this.#deliver(reply, source);
  }

  /** Where a guest's packet to an address goes; null when nowhere. */
  #hostFor(address: Address): string | null {
    if (isSame(address, GATEWAY)) return "127.0.0.1";
    if (isSame(address, V6.address) || isSame(address, V6.local)) return "::1";
    if (isSame(address, DNS) || isSame(address, V6.dns)) return nameServer();
    return this.#restrict ? null : formatAddress(address);
  }

  #udp(packet: Packet, card: Uint8Array): void {
    const { payload, source, destination } = packet;
    if (payload.length < UDP_HEADER) return;
    const length = word(payload, 4);
    if (length < UDP_HEADER || length > payload.length) return;
    const data = payload.subarray(UDP_HEADER, length);
    const from = { address: source.slice(), port: word(payload, 0) };
    const to = { address: destination.slice(), port: word(payload, 2) };
    if (to.port === SERVER_PORT && from.port === CLIENT_PORT) {
      this.#dhcp(data, card);
      return;
    }
    if (isSame(destination, BROADCAST) || (destination[0] & 0xf0) === 0xe0) {
      return;
    }
    if (this.#answers.some((answer) => answer(from, to, data))) return;
    const isName = isSame(destination, DNS) || isSame(destination, V6.dns);
    const host = isName && to.port !== DNS_PORT
      ? null
      : this.#hostFor(destination);
    if (host === null) return;
    const key = `${formatAddress(source)} ${from.port} ${
      formatAddress(destination)
    } ${to.port}`;
    this.#datagrams.send(
      key,
      { address: host, port: to.port },
      data,
      (answer) => this.#sendUdp(to, from, answer),
    );
  }

  #dhcp(message: Uint8Array, card: Uint8Array): void {
    const answer = answerDhcp(message, {
      guest: this.#leaseFor(card),
      mask: MASK,
      gateway: GATEWAY,
      dns: DNS,
      mtu: MTU,
    });
    if (answer === null) return;
    this.#sendUdp(
      { address: GATEWAY, port: SERVER_PORT },
      { address: BROADCAST, port: CLIENT_PORT },
      answer,
      card,
    );
  }

  #leaseFor(card: Uint8Array): Address {
    const key = card.toHex();
    const known = this.#leases.get(key);
    if (known !== undefined) return known;
    const number = FIRST_GUEST + this.#leases.size % MAX_GUESTS;
    const lease = Uint8Array.of(10, 0, 2, number);
    this.#leases.set(key, lease);
    return lease;
  }

  #tcp(packet: Packet): void {
    const segment = readSegment(packet.payload);
    if (segment === null || transportSum(packet) !== 0) return;
    const ends: Ends = {
      guest: packet.source.slice(),
      guestPort: segment.sourcePort,
      peer: packet.destination.slice(),
      peerPort: segment.destinationPort,
    };
    const key = keyOf(ends);
    const connection = this.#connections.get(key);
    if (connection !== undefined) {
      connection.receive(segment);
      return;
    }
    if (isOpening(segment)) {
      // The guest asks again while the host connects: one attempt is enough.
      if (!this.#opening.has(key)) void this.#open(key, ends, segment);
      return;
    }
    // Of a connection that this process knows nothing of, such as one from before a restore.
    this.#refuse(ends, segment);
  }

  #refuse(ends: Ends, segment: Segment): void {
    const reset = resetFor(ends, segment);
    if (reset !== null) this.#deliver(reset, ends.guest);
  }

  /** Connects the host's socket, and then the guest. */
  async #open(key: string, ends: Ends, segment: Segment): Promise<void> {
    const first = { ...segment, data: segment.data.slice() };
    const host = this.#hostFor(ends.peer);
    if (
      host === null ||
      this.#connections.size + this.#opening.size >= MAX_CONNECTIONS
    ) {
      this.#refuse(ends, first);
      return;
    }
    const attempt = { cancelled: false };
    this.#opening.set(key, attempt);
    try {
      const socket = await Deno.connect({
        hostname: host,
        port: ends.peerPort,
      });
      if (attempt.cancelled) {
        socket.close();
        return;
      }
      this.#join(key, ends, socket).accept(first);
    } catch {
      // Refused, or unreachable: the guest sees the same.
      this.#refuse(ends, first);
    } finally {
      this.#opening.delete(key);
    }
  }

  #join(key: string, ends: Ends, socket: Deno.TcpConn): TcpEnd {
    const pipe = new SocketPipe(socket, () => this.#connections.delete(key));
    const end = new TcpEnd(
      ends,
      pipe,
      (packet) => this.#deliver(packet, ends.guest),
      MTU,
    );
    pipe.connect(end);
    this.#connections.set(key, end);
    return end;
  }

  // Forwards.

  /**
   * Listens on the host for a port of the guest.
   *
   * @throws {NetError} When the host's port cannot be had.
   */
  async forward(forward: Forward, id: string): Promise<void> {
    try {
      if (forward.protocol === "tcp") this.#forwardTcp(forward);
      else await this.#forwardUdp(forward);
    } catch (cause) {
      throw new NetError(
        `hostfwd of ${id}: cannot listen on ${forward.protocol} ${forward.hostAddress}:${forward.hostPort}: ${
          cause instanceof Error ? cause.message : cause
        }: choose another port`,
        { cause },
      );
    }
  }

  #guestOf({ guestAddress }: Forward): Address {
    return guestAddress ?? Uint8Array.of(10, 0, 2, FIRST_GUEST);
  }

  #forwardTcp(forward: Forward): void {
    const listener = Deno.listen({
      hostname: forward.hostAddress,
      port: forward.hostPort,
    });
    this.#listeners.push(() => listener.close());
    void (async () => {
      try {
        for await (const socket of listener) this.#connectIn(socket, forward);
      } catch (error) {
        if (!this.#closed) throw error;
      }
    })();
  }

  /** Connects the gateway to the guest, for a connection that has come to the host. */
  #connectIn(socket: Deno.TcpConn, forward: Forward): void {
    const guest = this.#guestOf(forward);
    for (let tries = FIRST_PORT; tries <= LAST_PORT; tries++) {
      const port = this.#nextPort;
      this.#nextPort = port === LAST_PORT ? FIRST_PORT : port + 1;
      const ends: Ends = {
        guest,
        guestPort: forward.guestPort,
        peer: GATEWAY,
        peerPort: port,
      };
      const key = keyOf(ends);
      if (this.#connections.has(key)) continue;
      if (this.#connections.size < MAX_CONNECTIONS) {
        this.#join(key, ends, socket).connect();
        return;
      }
      break;
    }
    socket.close();
  }

  async #forwardUdp(forward: Forward): Promise<void> {
    const guest = this.#guestOf(forward);
    const socket = await bindUdp(forward.hostAddress, forward.hostPort);
    this.#listeners.push(() => void socket.close());
    /** By port of the gateway, who sent from the host; and back. */
    const senders = new Map<number, { address: string; port: number }>();
    const ports = new Map<string, number>();
    socket.on("message", (data, { port, address }) => {
      const name = `${address} ${port}`;
      let own = ports.get(name);
      if (own === undefined) {
        if (ports.size >= MAX_CONNECTIONS) {
          ports.clear();
          senders.clear();
        }
        own = FIRST_PORT + ports.size;
        ports.set(name, own);
        senders.set(own, { address, port });
      }
      this.#sendUdp(
        { address: GATEWAY, port: own },
        { address: guest, port: forward.guestPort },
        data,
      );
    });
    this.#answers.push((from, to, data) => {
      const sender = senders.get(to.port);
      if (
        sender === undefined || from.port !== forward.guestPort ||
        !isSame(from.address, guest) || !isSame(to.address, GATEWAY)
      ) return false;
      socket.send(data.slice(), sender.port, sender.address);
      return true;
    });
  }
}

function keyOf({ guest, guestPort, peer, peerPort }: Ends): string {
  return `${formatAddress(guest)} ${guestPort} ${
    formatAddress(peer)
  } ${peerPort}`;
}

function sumOf(bytes: Uint8Array): number {
  return fold(addWords(bytes, 0, bytes.length));
}

/** The host's resolver; null where the host tells of none. */
function nameServer(): string | null {
  try {
    const text = Deno.readTextFileSync("/etc/resolv.conf");
    return /^\s*nameserver\s+(\S+)/m.exec(text)?.[1] ?? null;
  } catch {
    return null;
  }
}

/**
 * Opens a network in user space.
 *
 * @param options What the user may set.
 * @param id The card's id, for messages.
 * @returns The network; its user closes it.
 * @throws {NetError} When a port of the host cannot be had, or an option is malformed.
 */
export async function openUser(options: UserOptions, id: string): Promise<Net> {
  const forwards = options.hostfwd === undefined
    ? []
    : parseForwards(options.hostfwd, id);
  const net = new UserNet(options.restrict ?? false);
  try {
    for (const forward of forwards) await net.forward(forward, id);
  } catch (error) {
    await net.close();
    throw error;
  }
  return net;
}
