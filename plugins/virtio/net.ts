/**
 * virtio-net, a network card: virtio 1.2, section 5.1.
 *
 * @module
 */
import {
  type AccessSize,
  definePlugin,
  type Device,
  type DeviceContext,
  MachineError,
  type NetBackend,
} from "../../core/plugin.ts";
import {
  bool,
  bytes,
  type Infer,
  list,
  schema,
  SchemaError,
  u16,
  u32,
} from "../../snapshot/schema.ts";
import {
  addWords,
  ETHERNET_HEADER,
  fold,
  isBroadcast,
  isMulticast,
  isTo,
  MAC_BYTES,
  parseMac,
  payloadOf,
  putWord,
  splitSegment,
  vlanOf,
} from "../net/frame.ts";
import { defaultMac } from "../net/mac.ts";
import {
  type Chain,
  gather,
  scatter,
  type Segment,
  slice,
  totalLength,
} from "./ring.ts";
import { virtioState } from "./state.ts";
import { type VirtioModel, VirtioPci } from "./transport.ts";

/** Section 5.1.1. */
const DEVICE_ID = 1;
/** Section 4.1.2.1. */
const TRANSITIONAL_PCI_ID = 0x1000;
const CLASS_ETHERNET = 0x020000;

// Feature bits, section 5.1.3.
const VIRTIO_NET_F_CSUM = 1n << 0n;
const VIRTIO_NET_F_MTU = 1n << 3n;
const VIRTIO_NET_F_MAC = 1n << 5n;
const VIRTIO_NET_F_HOST_TSO4 = 1n << 11n;
const VIRTIO_NET_F_HOST_TSO6 = 1n << 12n;
const VIRTIO_NET_F_MRG_RXBUF = 1n << 15n;
const VIRTIO_NET_F_STATUS = 1n << 16n;
const VIRTIO_NET_F_CTRL_VQ = 1n << 17n;
const VIRTIO_NET_F_CTRL_RX = 1n << 18n;
const VIRTIO_NET_F_CTRL_VLAN = 1n << 19n;
const VIRTIO_NET_F_CTRL_RX_EXTRA = 1n << 20n;
const VIRTIO_NET_F_GUEST_ANNOUNCE = 1n << 21n;
const VIRTIO_NET_F_MQ = 1n << 22n;
const VIRTIO_NET_F_CTRL_MAC_ADDR = 1n << 23n;
const VIRTIO_F_VERSION_1 = 1n << 32n;

// struct virtio_net_config, section 5.1.4.
const CONFIG_MAC = 0;
const CONFIG_STATUS = 6;
const CONFIG_MAX_PAIRS = 8;
const CONFIG_MTU = 10;
const CONFIG_LENGTH = 12;
const VIRTIO_NET_S_LINK_UP = 1;
const VIRTIO_NET_S_ANNOUNCE = 2;

// struct virtio_net_hdr, section 5.1.6.
const HDR_FLAGS = 0;
const HDR_GSO_TYPE = 1;
const HDR_GSO_SIZE = 4;
const HDR_CSUM_START = 6;
const HDR_CSUM_OFFSET = 8;
const HDR_NUM_BUFFERS = 10;
const HDR_BYTES = 12;
/** A legacy driver's header without mergeable buffers has no count of buffers. */
const HDR_LEGACY_BYTES = 10;
const VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;
const VIRTIO_NET_HDR_GSO_NONE = 0;
const VIRTIO_NET_HDR_GSO_TCPV4 = 1;
const VIRTIO_NET_HDR_GSO_TCPV6 = 4;
const VIRTIO_NET_HDR_GSO_ECN = 0x80;

// Control commands, section 5.1.6.5.
const CTRL_RX = 0;
const RX_PROMISC = 0;
const RX_ALLMULTI = 1;
const RX_ALLUNI = 2;
const RX_NOMULTI = 3;
const RX_NOUNI = 4;
const RX_NOBCAST = 5;
const CTRL_MAC = 1;
const MAC_TABLE_SET = 0;
const MAC_ADDR_SET = 1;
const CTRL_VLAN = 2;
const VLAN_ADD = 0;
const VLAN_DEL = 1;
const CTRL_ANNOUNCE = 3;
const ANNOUNCE_ACK = 0;
const CTRL_MQ = 4;
const MQ_VQ_PAIRS_SET = 0;
const VIRTIO_NET_OK = 0;
const VIRTIO_NET_ERR = 1;
/** Bytes of a control command at most: both tables of addresses. */
const MAX_CONTROL = 1 << 16;

const QUEUE_SIZE = 256;
const MAX_PAIRS = 8;
/** Addresses of a filter table; beyond them everything of that kind is let through. */
const MAX_ADDRESSES = 64;
const VLANS = 4096;
const IPV4_HEADER = 20;
const IPV6_HEADER = 40;
const TCP_HEADER = 20;
/** Bytes of a frame that tell one flow from another. */
const FLOW_START = 26;
const FLOW_END = 58;
/** Bytes of a frame that a driver may send: 64 KiB of IP and the Ethernet header. */
const MAX_FRAME = 65_550;
/** Frames sent before the guest goes on, so that a driver that never stops does not stop the machine. */
const TX_BATCH = 256;

const netState = schema("virtio-net", 1, {
  transport: virtioState,
  mac: bytes(MAC_BYTES),
  /** Whether the link was up when the guest last saw it. */
  link: bool(),
  /** The guest has been asked to announce itself, and has not said that it has. */
  announce: bool(),
  /** Queues that the driver has notified and that still have to be looked at, a bit each. */
  notified: u32(),
  /** Pairs of queues in use. */
  pairs: u16({ min: 1, max: MAX_PAIRS }),
  promiscuous: bool(),
  allMulticast: bool(),
  allUnicast: bool(),
  noMulticast: bool(),
  noUnicast: bool(),
  noBroadcast: bool(),
  /** More addresses were set than the table holds: all of them pass. */
  unicastOverflow: bool(),
  multicastOverflow: bool(),
  unicast: list(bytes(MAC_BYTES), { max: MAX_ADDRESSES }),
  multicast: list(bytes(MAC_BYTES), { max: MAX_ADDRESSES }),
  /** The VLAN filter, a bit each. */
  vlans: bytes(VLANS / 8),
});
type NetState = Infer<typeof netState>;
/** What the control queue sets. */
type Filter = Omit<NetState, "transport" | "link" | "announce" | "notified">;

const options = {
  mac: {
    type: "string",
    help: "address of the card; made of the instance id when absent",
  },
  mtu: {
    type: "number",
    help: "greatest packet that the network carries",
    default: 1500,
    min: 68,
    max: 65535,
  },
  queues: {
    type: "number",
    help: "pairs of queues",
    default: 1,
    min: 1,
    max: MAX_PAIRS,
  },
  legacy: {
    type: "boolean",
    help:
      "also offer the interface of before virtio 1.0 (a transitional device)",
    default: true,
  },
} as const;

/** The card. */
class VirtioNet implements Device, VirtioModel {
  readonly deviceId = DEVICE_ID;
  readonly transitionalId?: number;
  readonly classCode = CLASS_ETHERNET;
  readonly queueSize = QUEUE_SIZE;
  readonly configLength = CONFIG_LENGTH;
  readonly features: bigint;
  readonly queueCount: number;

  readonly #ctx: DeviceContext<NetState, "net">;
  readonly #net: NetBackend;
  readonly #transport: VirtioPci;
  readonly #address: Uint8Array;
  readonly #mtu: number;
  readonly #pairs: number;
  #filter: Filter;
  #link: boolean;
  #announce = false;
  /** Queues to look at when the machine goes on, or the network has room; a bit each. */
  #notified = 0;
  #holding = true;
  /** Sending has stopped: the network is full, or the batch is. */
  #later = false;

  constructor(
    ctx: DeviceContext<NetState, "net">,
    mac: Uint8Array,
    options: { mtu: number; queues: number; legacy: boolean },
  ) {
    const { queues, legacy } = options;
    this.#ctx = ctx;
    this.#net = ctx.backend;
    this.#address = mac;
    this.#mtu = options.mtu;
    this.#pairs = queues;
    this.#filter = this.#noFilter();
    this.#link = this.#net.link;
    // Receive and send for each pair, then control.
    this.queueCount = 2 * queues + 1;
    if (legacy) this.transitionalId = TRANSITIONAL_PCI_ID;
    this.features = VIRTIO_NET_F_CSUM | VIRTIO_NET_F_MTU | VIRTIO_NET_F_MAC |
      VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6 |
      VIRTIO_NET_F_MRG_RXBUF | VIRTIO_NET_F_STATUS | VIRTIO_NET_F_CTRL_VQ |
      VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_VLAN |
      VIRTIO_NET_F_CTRL_RX_EXTRA | VIRTIO_NET_F_GUEST_ANNOUNCE |
      VIRTIO_NET_F_CTRL_MAC_ADDR | (queues > 1 ? VIRTIO_NET_F_MQ : 0n);
    this.#transport = new VirtioPci(ctx, this);
    this.#net.onReceive((frame) => this.#receive(frame));
    this.#net.onDrain(() => this.#sendAll());
    this.#net.onLink(() => this.#linkChanged());
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  reset(): void {
    this.#transport.reset();
    this.#filter = this.#noFilter();
    this.#announce = false;
    this.#notified = 0;
    this.#link = this.#net.link;
  }

  start(): void {
    this.resume();
  }

  pause(): void {
    this.#holding = true;
  }

  resume(): void {
    this.#holding = false;
    this.#linkChanged();
    const notified = this.#notified;
    this.#notified = 0;
    for (let queue = 0; queue < this.queueCount; queue++) {
      if ((notified >>> queue & 1) !== 0) this.notify(queue);
    }
    this.#net.ready();
  }

  readConfig(): Uint8Array {
    const view = new DataView(new ArrayBuffer(CONFIG_LENGTH));
    const config = new Uint8Array(view.buffer);
    config.set(this.#filter.mac, CONFIG_MAC);
    view.setUint16(
      CONFIG_STATUS,
      (this.#link ? VIRTIO_NET_S_LINK_UP : 0) |
        (this.#announce ? VIRTIO_NET_S_ANNOUNCE : 0),
      true,
    );
    view.setUint16(CONFIG_MAX_PAIRS, this.#pairs, true);
    view.setUint16(CONFIG_MTU, this.#mtu, true);
    return config;
  }

  /** A legacy driver sets the address here, section 5.1.4.1; others use the control queue. */
  writeConfig(offset: number, size: AccessSize, value: number): void {
    if (this.#negotiated(VIRTIO_F_VERSION_1)) return;
    for (let i = 0; i < size; i++) {
      if (offset + i < CONFIG_MAC + MAC_BYTES) {
        this.#filter.mac[offset + i] = value >>> 8 * i;
      }
    }
  }

  negotiated(): void {}

  notify(queue: number): void {
    if (this.#holding) this.#notified |= 1 << queue;
    else if (queue === this.#control) this.#doControl();
    else if ((queue & 1) === 1) this.#send(queue);
    else this.#net.ready();
  }

  /** Frames are sent and received whole within a call, so that no request is kept. */
  queueReset(queue: number): void {
    this.#notified &= ~(1 << queue);
  }

  /** Index of the control queue: after the pairs, section 5.1.2; without MQ after the first. */
  get #control(): number {
    return this.#negotiated(VIRTIO_NET_F_MQ) ? 2 * this.#pairs : 2;
  }

  /** Bytes of the header before each frame. */
  get #headerBytes(): number {
    return this.#negotiated(VIRTIO_F_VERSION_1) ||
        this.#negotiated(VIRTIO_NET_F_MRG_RXBUF)
      ? HDR_BYTES
      : HDR_LEGACY_BYTES;
  }

  #negotiated(feature: bigint): boolean {
    return (this.#transport.features & feature) !== 0n;
  }

  #noFilter(): Filter {
    return {
      mac: this.#address.slice(),
      pairs: 1,
      promiscuous: false,
      allMulticast: false,
      allUnicast: false,
      noMulticast: false,
      noUnicast: false,
      noBroadcast: false,
      unicastOverflow: false,
      multicastOverflow: false,
      unicast: [],
      multicast: [],
      vlans: new Uint8Array(VLANS / 8),
    };
  }

  #save(): NetState {
    const { mac, vlans, unicast, multicast } = this.#filter;
    return {
      ...this.#filter,
      transport: this.#transport.save(),
      link: this.#link,
      announce: this.#announce,
      notified: this.#notified,
      mac: mac.slice(),
      vlans: vlans.slice(),
      unicast: [...unicast],
      multicast: [...multicast],
    };
  }

  #restore(state: NetState): void {
    const { transport, link, announce, notified, ...filter } = state;
    if (filter.pairs > this.#pairs) {
      throw new SchemaError(
        "pairs",
        `is ${filter.pairs}: expected at most ${this.#pairs}, as the option queues says`,
      );
    }
    if (notified >= 2 ** this.queueCount) {
      throw new SchemaError(
        "notified",
        `is 0x${
          notified.toString(16)
        }: expected bits of ${this.queueCount} queues`,
      );
    }
    this.#transport.prepare(transport)();
    this.#filter = filter;
    this.#link = link;
    this.#announce = announce;
    this.#notified = notified;
  }

  /** The cable is in another place: the guest tells the switch there where it is (section 5.1.6.5.4). */
  #linkChanged(): void {
    if (this.#link === this.#net.link) return;
    this.#link = this.#net.link;
    this.#announce = this.#link &&
      this.#negotiated(VIRTIO_NET_F_GUEST_ANNOUNCE);
    this.#transport.configChanged();
  }

  // Sending.

  /** Goes on with the queues that had to wait. */
  #sendAll(): void {
    this.#later = false;
    if (this.#holding) return;
    const notified = this.#notified;
    this.#notified = 0;
    for (let pair = 0; pair < this.#pairs; pair++) {
      const queue = 2 * pair + 1;
      if ((notified >>> queue & 1) !== 0) this.#send(queue);
    }
  }

  /** Sends what is in a queue, as long as the network takes it. */
  #send(queue: number): void {
    if (queue >= this.#control) return;
    for (let n = 0; !this.#later; n++) {
      if (n === TX_BATCH) {
        this.#wait(queue);
        this.#ctx.async(Promise.resolve(), () => this.#sendAll(), () => {});
        return;
      }
      const chain = this.#transport.pop(queue);
      if (chain === null) return;
      if (this.#transmit(queue, chain)) {
        this.#transport.push(queue, chain.head, 0);
      } else {
        this.#transport.untake(queue, 1);
        this.#wait(queue);
        return;
      }
    }
    this.#wait(queue);
  }

  /** A queue is looked at again when there is room. */
  #wait(queue: number): void {
    this.#later = true;
    this.#notified |= 1 << queue;
  }

  /** Sends the frame of a request; false when the network is full. */
  #transmit(queue: number, { head, readable }: Chain): boolean {
    const headerBytes = this.#headerBytes;
    const length = totalLength(readable);
    if (length < headerBytes) {
      this.#transport.needsReset(
        `queue ${queue}: request ${head} has no header of ${headerBytes} bytes`,
      );
      return true;
    }
    // What is too long or too short for Ethernet is lost, as on a wire.
    if (
      length > headerBytes + MAX_FRAME || length < headerBytes + ETHERNET_HEADER
    ) return true;
    const all = gather(this.#ctx.memory, readable);
    return this.#offload(
      all.subarray(0, headerBytes),
      all.subarray(headerBytes),
    );
  }

  /** Does what the driver has left to the card, section 5.1.6.2, and hands the frame on. */
  #offload(header: Uint8Array, frame: Uint8Array): boolean {
    const view = new DataView(header.buffer, header.byteOffset, header.length);
    const start = view.getUint16(HDR_CSUM_START, true);
    const needsChecksum =
      (header[HDR_FLAGS] & VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0;
    const gso = header[HDR_GSO_TYPE] & ~VIRTIO_NET_HDR_GSO_ECN;
    if (gso === VIRTIO_NET_HDR_GSO_NONE) {
      if (needsChecksum) {
        const at = start + view.getUint16(HDR_CSUM_OFFSET, true);
        if (at + 2 > frame.length) return true;
        const sum = fold(addWords(frame, start, frame.length));
        putWord(frame, at, sum === 0 ? 0xffff : sum);
      }
      return this.#net.send(frame);
    }
    const v6 = gso === VIRTIO_NET_HDR_GSO_TCPV6;
    const mss = view.getUint16(HDR_GSO_SIZE, true);
    const ip = vlanOf(frame) === null ? ETHERNET_HEADER : ETHERNET_HEADER + 4;
    const payload = payloadOf(frame, start, true);
    if (
      !v6 && gso !== VIRTIO_NET_HDR_GSO_TCPV4 || !needsChecksum || mss === 0 ||
      start < ip + (v6 ? IPV6_HEADER : IPV4_HEADER) ||
      payload < start + TCP_HEADER || !(payload < frame.length)
    ) return true;
    // When the network fills up the rest is lost, and TCP sends it again.
    splitSegment(
      frame,
      { ip, transport: start, payload, v6, tcp: true, mss },
      (part) => void this.#net.send(part),
    );
    return true;
  }

  // Receiving.

  /** Whether the filters let a frame through, section 5.1.6.5. */
  #wants(frame: Uint8Array): boolean {
    const f = this.#filter;
    const vlan = vlanOf(frame);
    if (
      vlan !== null && this.#negotiated(VIRTIO_NET_F_CTRL_VLAN) &&
      (f.vlans[vlan >>> 3] & 1 << (vlan & 7)) === 0
    ) return false;
    if (f.promiscuous || !this.#negotiated(VIRTIO_NET_F_CTRL_RX)) return true;
    if (isBroadcast(frame)) return !f.noBroadcast;
    if (isMulticast(frame)) {
      return !f.noMulticast &&
        (f.allMulticast || f.multicastOverflow ||
          f.multicast.some((mac) => isTo(frame, mac)));
    }
    return !f.noUnicast &&
      (f.allUnicast || f.unicastOverflow || isTo(frame, f.mac) ||
        f.unicast.some((mac) => isTo(frame, mac)));
  }

  /** A frame has come; false when there is no room for it yet. */
  #receive(frame: Uint8Array): boolean {
    if (this.#holding) return false;
    if (!this.#transport.running || !this.#wants(frame)) return true;
    const queue = 2 * this.#pairFor(frame);
    const headerBytes = this.#headerBytes;
    const isMergeable = this.#negotiated(VIRTIO_NET_F_MRG_RXBUF);
    const need = headerBytes + frame.length;
    const taken: Chain[] = [];
    let room = 0;
    while (room < need) {
      const chain = this.#transport.pop(queue);
      if (chain === null) {
        this.#transport.untake(queue, taken.length);
        return false;
      }
      taken.push(chain);
      room += totalLength(chain.writable);
      if (!isMergeable) break;
    }
    if (totalLength(taken[0].writable) < headerBytes) {
      this.#transport.needsReset(
        `queue ${queue}: request ${
          taken[0].head
        } has no room for a header of ${headerBytes} bytes`,
      );
      return true;
    }
    if (room < need) {
      // Longer than the driver's buffers: lost.
      this.#transport.untake(queue, taken.length);
      return true;
    }
    this.#deliver(queue, taken, frame, headerBytes);
    return true;
  }

  #deliver(
    queue: number,
    taken: readonly Chain[],
    frame: Uint8Array,
    headerBytes: number,
  ): void {
    const data = new Uint8Array(headerBytes + frame.length);
    if (headerBytes === HDR_BYTES) data[HDR_NUM_BUFFERS] = taken.length;
    data.set(frame, headerBytes);
    let at = 0;
    for (const { head, writable } of taken) {
      const part: Segment[] = slice(writable, 0, data.length - at);
      const length = totalLength(part);
      scatter(this.#ctx.memory, part, data.subarray(at, at + length));
      at += length;
      this.#transport.push(queue, head, length);
    }
  }

  /** The pair that a frame goes to: one flow stays in one queue, section 5.1.6.5.6. */
  #pairFor(frame: Uint8Array): number {
    const { pairs } = this.#filter;
    if (pairs === 1) return 0;
    // The addresses and ports of IPv4 and IPv6 are inside these bytes.
    return addWords(
      frame,
      FLOW_START,
      Math.min(frame.length, FLOW_END) & ~1,
    ) % pairs;
  }

  // Control, section 5.1.6.5.

  #doControl(): void {
    const queue = this.#control;
    for (;;) {
      const chain = this.#transport.pop(queue);
      if (chain === null) return;
      const room = totalLength(chain.writable);
      if (room < 1) {
        this.#transport.needsReset(
          `queue ${queue}: request ${chain.head} has no status byte`,
        );
        return;
      }
      const command = gather(
        this.#ctx.memory,
        slice(chain.readable, 0, MAX_CONTROL),
      );
      const isDone = totalLength(chain.readable) <= MAX_CONTROL &&
        command.length >= 2 &&
        this.#command(command[0], command[1], command.subarray(2));
      scatter(
        this.#ctx.memory,
        slice(chain.writable, 0, 1),
        Uint8Array.of(isDone ? VIRTIO_NET_OK : VIRTIO_NET_ERR),
      );
      this.#transport.push(queue, chain.head, 1);
    }
  }

  /** Does a control command; false when it is refused. */
  #command(kind: number, command: number, data: Uint8Array): boolean {
    const f = this.#filter;
    switch (kind) {
      case CTRL_RX:
        return this.#receiveMode(command, data);
      case CTRL_MAC:
        if (command === MAC_ADDR_SET) {
          if (data.length !== MAC_BYTES) return false;
          f.mac = data.slice();
          return true;
        }
        return command === MAC_TABLE_SET && this.#macTables(data);
      case CTRL_VLAN: {
        if (data.length !== 2) return false;
        const vlan = data[0] | data[1] << 8;
        if (vlan >= VLANS) return false;
        const bit = 1 << (vlan & 7);
        if (command === VLAN_ADD) f.vlans[vlan >>> 3] |= bit;
        else if (command === VLAN_DEL) f.vlans[vlan >>> 3] &= ~bit;
        else return false;
        return true;
      }
      case CTRL_ANNOUNCE:
        if (command !== ANNOUNCE_ACK) return false;
        this.#announce = false;
        return true;
      case CTRL_MQ: {
        if (command !== MQ_VQ_PAIRS_SET || data.length !== 2) return false;
        const pairs = data[0] | data[1] << 8;
        if (pairs < 1 || pairs > this.#pairs) return false;
        f.pairs = pairs;
        return true;
      }
      default:
        return false;
    }
  }

  #receiveMode(command: number, data: Uint8Array): boolean {
    if (data.length !== 1) return false;
    const on = data[0] !== 0;
    const f = this.#filter;
    switch (command) {
      case RX_PROMISC:
        f.promiscuous = on;
        return true;
      case RX_ALLMULTI:
        f.allMulticast = on;
        return true;
      case RX_ALLUNI:
        f.allUnicast = on;
        return true;
      case RX_NOMULTI:
        f.noMulticast = on;
        return true;
      case RX_NOUNI:
        f.noUnicast = on;
        return true;
      case RX_NOBCAST:
        f.noBroadcast = on;
        return true;
      default:
        return false;
    }
  }

  /** Two tables, unicast and multicast: a count of 32 bits, and addresses. */
  #macTables(data: Uint8Array): boolean {
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    const tables: Uint8Array[][] = [];
    let at = 0;
    for (let table = 0; table < 2; table++) {
      if (at + 4 > data.length) return false;
      const count = view.getUint32(at, true);
      at += 4;
      if (count * MAC_BYTES > data.length - at) return false;
      tables.push(
        Array.from(
          { length: count },
          (_, i) => data.slice(at + i * MAC_BYTES, at + (i + 1) * MAC_BYTES),
        ),
      );
      at += count * MAC_BYTES;
    }
    if (at !== data.length) return false;
    const [unicast, multicast] = tables;
    const f = this.#filter;
    f.unicastOverflow = unicast.length > MAX_ADDRESSES;
    f.multicastOverflow = multicast.length > MAX_ADDRESSES;
    f.unicast = f.unicastOverflow ? [] : unicast;
    f.multicast = f.multicastOverflow ? [] : multicast;
    return true;
  }
}

/** The virtio network card. */
export default definePlugin({
  name: "virtio-net",
  version: "1.0.0",
  summary: "virtio network card on PCI, modern and transitional",
  options,
  state: netState,
  backend: "net",
  create: (ctx, { mac = defaultMac(ctx.id), mtu, queues, legacy }) => {
    const address = parseMac(mac);
    if (address === null) {
      throw new MachineError(
        `mac "${mac}": expected six bytes such as 52:54:00:12:34:56, not of a group`,
      );
    }
    return new VirtioNet(ctx, address, { mtu, queues, legacy });
  },
});
