/**
 * The receiving half of the 82540EM: filters, descriptors and checksums; Intel 317453, section 3.2.
 *
 * @module
 */
import {
  addWords,
  ETHERNET_HEADER,
  fold,
  isBroadcast,
  isMulticast,
  MAC_BYTES,
  MIN_FRAME,
  vlanOf,
  word,
} from "../net/frame.ts";
import { crc32 } from "../net/crc.ts";
import type { Card } from "./e1000.ts";
import {
  CTRL_VME,
  DESCRIPTOR,
  ICR_RXDMT0,
  ICR_RXO,
  ICR_RXT0,
  RAH_AV,
  RCTL_BAM,
  RCTL_BSEX,
  RCTL_BSIZE_SHIFT,
  RCTL_CFI,
  RCTL_CFIEN,
  RCTL_EN,
  RCTL_LPE,
  RCTL_MO_SHIFT,
  RCTL_MPE,
  RCTL_RDMTS_SHIFT,
  RCTL_SECRC,
  RCTL_UPE,
  RCTL_VFE,
  RXCSUM_IPOFLD,
  RXCSUM_PCSS,
  RXCSUM_TUOFLD,
} from "./registers.ts";

const TWO_32 = 2 ** 32;
const FCS_BYTES = 4;
/** The longest frame without RCTL.LPE, its VLAN tag and its check sequence included; and with it. */
const MAX_NORMAL = 1522;
const MAX_LONG = 16_384;

// Receive descriptor, section 3.2.3.
const LENGTH = 8;
const STATUS_DD = 1 << 0;
const STATUS_EOP = 1 << 1;
const STATUS_IXSM = 1 << 2;
const STATUS_VP = 1 << 3;
const STATUS_TCPCS = 1 << 5;
const STATUS_IPCS = 1 << 6;
const STATUS_PIF = 1 << 7;
const ERROR_TCPE = 1 << 5;
const ERROR_IPE = 1 << 6;

const TYPE_IPV4 = 0x0800;
const TYPE_IPV6 = 0x86dd;
const PROTOCOL_TCP = 6;
const PROTOCOL_UDP = 17;
const VLAN_CFI = 1 << 12;
const VLAN_BYTES = 4;

/** The receiving half. */
export class Receiver {
  /** The interrupt that tells of frames. */
  static readonly CAUSE = ICR_RXT0;
  readonly #card: Card;
  /** A frame waits for room, and the driver was told. */
  waits = false;

  /** @param card The card. */
  constructor(card: Card) {
    this.#card = card;
  }

  /** The driver has given descriptors, or changed the mode. */
  changed(): void {
    if (this.#card.holding) return;
    this.waits = false;
    this.#card.ctx.backend.ready();
  }

  /** A frame has come; false when there is no room for it yet. */
  receive(frame: Uint8Array): boolean {
    const card = this.#card;
    const { RCTL, RXCSUM, CTRL, VET } = card.registers;
    if (card.holding) return false;
    if ((RCTL & RCTL_EN) === 0) return true;
    const length = Math.max(frame.length, MIN_FRAME) + FCS_BYTES;
    const filter = this.#filter(frame);
    if (
      filter === null || length > MAX_LONG ||
      length > MAX_NORMAL && (RCTL & RCTL_LPE) === 0
    ) {
      if (filter !== null) card.count("ROC");
      return true;
    }
    const vlan = vlanOf(frame, VET);
    const isStripped = vlan !== null && (CTRL & CTRL_VME) !== 0;
    const data = withCheckSequence(
      frame,
      isStripped,
      (RCTL & RCTL_SECRC) === 0,
    );
    if (!this.#hasRoom(data.length)) {
      if (!this.waits) {
        card.count("RNBC");
        card.interrupt(ICR_RXO);
      }
      this.waits = true;
      return false;
    }
    const status = filter | (isStripped ? STATUS_VP : 0);
    const checked = checkSums(
      frame,
      (RXCSUM & RXCSUM_IPOFLD) !== 0,
      (RXCSUM & RXCSUM_TUOFLD) !== 0,
    );
    this.#put(data, {
      checksum: fold(
        addWords(
          data,
          Math.min(RXCSUM & RXCSUM_PCSS, data.length),
          data.length,
        ),
      ),
      status: status | checked.status,
      errors: checked.errors,
      special: isStripped ? word(frame, ETHERNET_HEADER) : 0,
    });
    this.#count(frame, length);
    return true;
  }

  /** Whether the card takes a frame (section 3.2.1): the status that says how it matched, or null. */
  #filter(frame: Uint8Array): number | null {
    const { RCTL, VET } = this.#card.registers;
    const { VFTA } = this.#card.arrays;
    if (frame.length < ETHERNET_HEADER) return null;
    const vlan = vlanOf(frame, VET);
    if (vlan !== null && (RCTL & RCTL_VFE) !== 0) {
      if ((VFTA[vlan >>> 5] >>> (vlan & 31) & 1) === 0) return null;
      const cfi = (word(frame, ETHERNET_HEADER) & VLAN_CFI) !== 0;
      if ((RCTL & RCTL_CFIEN) !== 0 && cfi !== ((RCTL & RCTL_CFI) !== 0)) {
        return null;
      }
    }
    if (this.#isAddress(frame)) return 0;
    if (isBroadcast(frame)) {
      return (RCTL & (RCTL_BAM | RCTL_MPE)) !== 0 ? 0 : null;
    }
    if (!isMulticast(frame)) return (RCTL & RCTL_UPE) !== 0 ? 0 : null;
    if ((RCTL & RCTL_MPE) !== 0) return 0;
    return this.#isInMulticastTable(frame) ? STATUS_PIF : null;
  }

  /** Whether a receive address is that of the frame. */
  #isAddress(frame: Uint8Array): boolean {
    const { RA } = this.#card.arrays;
    for (let i = 0; i < RA.length; i += 2) {
      if ((RA[i + 1] & RAH_AV) === 0) continue;
      let isEqual = true;
      for (let n = 0; n < MAC_BYTES && isEqual; n++) {
        const half = n < 4 ? RA[i] : RA[i + 1];
        isEqual = frame[n] === (half >>> 8 * (n & 3) & 0xff);
      }
      if (isEqual) return true;
    }
    return false;
  }

  /** The multicast table: 12 bits of the address, chosen by RCTL.MO (section 13.5.1). */
  #isInMulticastTable(frame: Uint8Array): boolean {
    const SHIFTS = [4, 3, 2, 0];
    const shift = SHIFTS[this.#card.registers.RCTL >>> RCTL_MO_SHIFT & 3];
    const hash = (frame[4] | frame[5] << 8) >>> shift & 0xfff;
    return (this.#card.arrays.MTA[hash >>> 5] >>> (hash & 31) & 1) !== 0;
  }

  /** Bytes of a receive buffer. */
  get #bufferSize(): number {
    const { RCTL } = this.#card.registers;
    const code = RCTL >>> RCTL_BSIZE_SHIFT & 3;
    return (RCTL & RCTL_BSEX) !== 0 && code !== 0
      ? 32_768 >>> code
      : 2048 >>> code;
  }

  /** Descriptors of the ring. */
  get #ringSize(): number {
    return this.#card.registers.RDLEN / DESCRIPTOR;
  }

  /** Whether the descriptors that the driver has given hold so many bytes. */
  #hasRoom(length: number): boolean {
    const { RDH, RDT } = this.#card.registers;
    const size = this.#ringSize;
    if (size === 0 || RDH >= size || RDT >= size || !this.#card.busMaster) {
      return false;
    }
    return (RDT - RDH + size) % size * this.#bufferSize >= length;
  }

  #put(
    data: Uint8Array,
    end: { checksum: number; status: number; errors: number; special: number },
  ): void {
    const { ctx: { memory, log }, registers } = this.#card;
    const size = this.#ringSize;
    const base = registers.RDBAL + registers.RDBAH * TWO_32;
    const buffer = this.#bufferSize;
    try {
      for (let at = 0; at < data.length; at += buffer) {
        const descriptor = base + registers.RDH * DESCRIPTOR;
        const part = data.subarray(at, at + buffer);
        const address = Number(memory.readU64(descriptor));
        // A null address is skipped (section 3.2.3).
        if (address !== 0) memory.write(address, part);
        const isLast = at + buffer >= data.length;
        const fields = new Uint8Array(DESCRIPTOR - LENGTH);
        const view = new DataView(fields.buffer);
        view.setUint16(0, part.length, true);
        view.setUint16(2, isLast ? end.checksum : 0, true);
        fields[4] = STATUS_DD | (isLast ? STATUS_EOP | end.status : 0);
        fields[5] = isLast ? end.errors : 0;
        view.setUint16(6, isLast ? end.special : 0, true);
        memory.write(descriptor + LENGTH, fields);
        registers.RDH = (registers.RDH + 1) % size;
      }
    } catch (error) {
      // The bus ends the access with a master abort: the frame is lost.
      log.warn(`receive: ${(error as Error).message}`);
    }
    const free = (registers.RDT - registers.RDH + size) % size;
    const threshold = size >>> 1 + (registers.RCTL >>> RCTL_RDMTS_SHIFT & 3);
    if (free === threshold) this.#card.interrupt(ICR_RXDMT0);
    this.#card.interruptLater("receive");
  }

  #count(frame: Uint8Array, length: number): void {
    const card = this.#card;
    card.count("TPR");
    card.count("GPRC");
    if (isBroadcast(frame)) card.count("BPRC");
    else if (isMulticast(frame)) card.count("MPRC");
    card.countBytes("GORC", length);
    card.countBytes("TOR", length);
    card.count(
      length <= 64
        ? "PRC64"
        : length <= 127
        ? "PRC127"
        : length <= 255
        ? "PRC255"
        : length <= 511
        ? "PRC511"
        : length <= 1023
        ? "PRC1023"
        : "PRC1522",
    );
  }
}

/** The frame as it goes to memory: padded, without a tag that is stripped, with its check sequence. */
function withCheckSequence(
  frame: Uint8Array,
  isStripped: boolean,
  hasSequence: boolean,
): Uint8Array {
  const length = Math.max(frame.length, MIN_FRAME);
  const whole = new Uint8Array(length + (hasSequence ? FCS_BYTES : 0));
  whole.set(frame);
  if (hasSequence) {
    new DataView(whole.buffer).setUint32(
      length,
      crc32(whole.subarray(0, length)),
      true,
    );
  }
  if (!isStripped) return whole;
  const TAG = ETHERNET_HEADER - 2;
  whole.copyWithin(TAG, TAG + VLAN_BYTES);
  return whole.subarray(0, whole.length - VLAN_BYTES);
}

/** Checks the sums of an IPv4 header and of a TCP or UDP segment (section 3.2.9). */
function checkSums(
  frame: Uint8Array,
  ofIp: boolean,
  ofTransport: boolean,
): { status: number; errors: number } {
  const none = { status: STATUS_IXSM, errors: 0 };
  const ip = vlanOf(frame) === null
    ? ETHERNET_HEADER
    : ETHERNET_HEADER + VLAN_BYTES;
  const type = word(frame, ip - 2);
  const isV4 = type === TYPE_IPV4;
  if (!isV4 && type !== TYPE_IPV6 || frame.length < ip + 40) return none;
  const header = isV4 ? (frame[ip] & 0xf) * 4 : 40;
  const end = isV4
    ? ip + word(frame, ip + 2)
    : ip + header + word(frame, ip + 4);
  const protocol = isV4 ? frame[ip + 9] : frame[ip + 6];
  if (header < 20 || end > frame.length || end < ip + header) return none;
  let status = 0;
  let errors = 0;
  if (ofIp && isV4) {
    status |= STATUS_IPCS;
    if (fold(addWords(frame, ip, ip + header)) !== 0) errors |= ERROR_IPE;
  }
  // A fragment has no whole segment: more fragments, or an offset.
  const isFragment = isV4 && (word(frame, ip + 6) & 0x3fff) !== 0;
  const transport = ip + header;
  const isUdpWithout = protocol === PROTOCOL_UDP &&
    word(frame, transport + 6) === 0;
  if (
    ofTransport && !isFragment && !isUdpWithout &&
    (protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP)
  ) {
    const pseudo = isV4
      ? addWords(frame, ip + 12, ip + 20)
      : addWords(frame, ip + 8, ip + 40);
    status |= STATUS_TCPCS;
    const sum = addWords(
      frame,
      transport,
      end,
      pseudo + protocol + end - transport,
    );
    if (fold(sum) !== 0) errors |= ERROR_TCPE;
  }
  return status === 0 ? none : { status, errors };
}
