/**
 * The sending half of the 82540EM: legacy, context and data descriptors; Intel 317453, section 3.3.
 *
 * @module
 */
import { type Infer, record, u16, u32, u8 } from "../../snapshot/schema.ts";
import {
  addWords,
  ETHERNET_HEADER,
  fold,
  isBroadcast,
  isMulticast,
  MIN_FRAME,
  payloadOf,
  putWord,
  splitSegment,
} from "../net/frame.ts";
import type { Card } from "./e1000.ts";
import {
  CTRL_VME,
  DESCRIPTOR,
  ICR_TXDW,
  ICR_TXQE,
  TCTL_EN,
  TCTL_PSP,
} from "./registers.ts";

const TWO_32 = 2 ** 32;
/** Bytes of a frame that a driver may hand over for segmentation: 64 KiB and its headers. */
const MAX_FRAME = 65_550 + 256;
/** Descriptors worked on before the guest goes on. */
const BATCH = 512;
const FCS_BYTES = 4;

// The command byte of every descriptor, section 3.3.3.
const CMD_EOP = 1 << 0;
const CMD_IC = 1 << 2;
const CMD_TSE = 1 << 2;
const CMD_RS = 1 << 3;
const CMD_RPS = 1 << 4;
const CMD_DEXT = 1 << 5;
const CMD_VLE = 1 << 6;
const CMD_IDE = 1 << 7;
const STA_DD = 1 << 0;
const STATUS_OFFSET = 12;
const DTYP_DATA = 1;
// Of a context: TUCMD.
const TUCMD_TCP = 1 << 0;
const TUCMD_IPV4 = 1 << 1;
// Of data: POPTS.
const POPTS_IXSM = 1 << 0;
const POPTS_TXSM = 1 << 1;

const context = record({
  ipcss: u8(),
  ipcso: u8(),
  ipcse: u16(),
  tucss: u8(),
  tucso: u8(),
  tucse: u16(),
  payload: u32(),
  command: u8(),
  header: u8(),
  mss: u16(),
});
type Context = Infer<typeof context>;

/** State of the sending half: the context for checksums, and the one for segmentation. */
export const transmitState = record({
  checksum: context,
  segmentation: context,
});

/** A descriptor. */
interface Descriptor {
  readonly address: number;
  readonly length: number;
  readonly command: number;
  readonly view: DataView;
}

/** The sending half. */
export class Transmitter {
  /** The interrupt that tells of descriptors that are done. */
  static readonly CAUSE = ICR_TXDW;
  readonly #card: Card;
  #checksum: Context = noContext();
  #segmentation: Context = noContext();
  #running = false;
  #later = false;

  /** @param card The card. */
  constructor(card: Card) {
    this.#card = card;
  }

  reset(): void {
    this.#checksum = noContext();
    this.#segmentation = noContext();
  }

  save(): Infer<typeof transmitState> {
    return {
      checksum: { ...this.#checksum },
      segmentation: { ...this.#segmentation },
    };
  }

  restore(state: Infer<typeof transmitState>): void {
    this.#checksum = { ...state.checksum };
    this.#segmentation = { ...state.segmentation };
  }

  /** Sends what is between TDH and TDT, as long as the network takes it. */
  run(): void {
    if (this.#running) return;
    this.#running = true;
    try {
      const { registers } = this.#card;
      let budget = BATCH;
      while (!this.#isIdle) {
        if (budget <= 0) {
          this.#goOnLater();
          return;
        }
        const used = this.#step();
        if (used === 0) return;
        budget -= used;
        if (registers.TDH === registers.TDT) this.#card.interrupt(ICR_TXQE);
      }
    } finally {
      this.#running = false;
    }
  }

  get #ringSize(): number {
    return this.#card.registers.TDLEN / DESCRIPTOR;
  }

  get #isIdle(): boolean {
    const { TCTL, TDH, TDT } = this.#card.registers;
    const size = this.#ringSize;
    return this.#card.holding || (TCTL & TCTL_EN) === 0 || TDH === TDT ||
      TDH >= size || TDT >= size || !this.#card.busMaster;
  }

  /** A driver that never stops must not stop the machine. */
  #goOnLater(): void {
    if (this.#later) return;
    this.#later = true;
    const go = () => {
      this.#later = false;
      this.run();
    };
    this.#card.ctx.async(Promise.resolve(), go, go);
  }

  /** Works on a context, or on the descriptors of one frame; returns how many, 0 when it has to wait. */
  #step(): number {
    const indexes: number[] = [];
    try {
      const { TDH } = this.#card.registers;
      const first = this.#descriptor(TDH);
      if (isContext(first)) {
        indexes.push(TDH);
        this.#setContext(first);
        this.#writeBack(indexes, first);
        return 1;
      }
      return this.#frame(indexes);
    } catch (error) {
      // The bus ends the access with a master abort: the frame is lost. Its descriptors are not
      // read again, since a ring of them, each found wanting in turn, would keep the host busy.
      this.#card.ctx.log.warn(`transmit: ${(error as Error).message}`);
      const lost = Math.max(1, indexes.length);
      this.#advance(lost);
      return lost;
    }
  }

  #descriptor(index: number): Descriptor {
    const { registers: { TDBAL, TDBAH }, ctx: { memory } } = this.#card;
    const bytes = new Uint8Array(DESCRIPTOR);
    memory.read(TDBAL + TDBAH * TWO_32 + index * DESCRIPTOR, bytes);
    const view = new DataView(bytes.buffer);
    const word = view.getUint32(8, true);
    const command = word >>> 24;
    return {
      address: Number(view.getBigUint64(0, true)),
      length: (command & CMD_DEXT) !== 0 ? word & 0xf_ffff : word & 0xffff,
      command,
      view,
    };
  }

  #advance(count: number): void {
    const { registers } = this.#card;
    registers.TDH = (registers.TDH + count) % this.#ringSize;
  }

  /** Tells the driver that descriptors are done, where it asks for it. */
  #writeBack(indexes: readonly number[], last: Descriptor): void {
    const { registers: { TDBAL, TDBAH }, ctx: { memory } } = this.#card;
    const base = TDBAL + TDBAH * TWO_32;
    let isTold = false;
    for (const index of indexes) {
      const at = base + index * DESCRIPTOR;
      const command = memory.readU8(at + 11);
      if ((command & (CMD_RS | CMD_RPS)) === 0) continue;
      memory.writeU8(
        at + STATUS_OFFSET,
        memory.readU8(at + STATUS_OFFSET) | STA_DD,
      );
      isTold = true;
    }
    this.#advance(indexes.length);
    if (!isTold) return;
    if ((last.command & CMD_IDE) !== 0) this.#card.interruptLater("transmit");
    else this.#card.interrupt(ICR_TXDW);
  }

  /** Section 3.3.6: the card keeps one context for segmentation, and one for checksums alone. */
  #setContext({ view, command, length }: Descriptor): void {
    const made: Context = {
      ipcss: view.getUint8(0),
      ipcso: view.getUint8(1),
      ipcse: view.getUint16(2, true),
      tucss: view.getUint8(4),
      tucso: view.getUint8(5),
      tucse: view.getUint16(6, true),
      payload: length,
      command,
      header: view.getUint8(13),
      mss: view.getUint16(14, true),
    };
    if ((command & CMD_TSE) !== 0) this.#segmentation = made;
    else this.#checksum = made;
  }

  /**
   * Sends one frame.
   *
   * @param indexes Gets the descriptors that were read.
   * @returns How many they are; 0 when the frame is not whole yet or the network is full.
   */
  #frame(indexes: number[]): number {
    const { registers: { TDH, TDT }, ctx: { memory } } = this.#card;
    const size = this.#ringSize;
    const parts: Descriptor[] = [];
    let length = 0;
    for (let index = TDH; index !== TDT; index = (index + 1) % size) {
      const descriptor = this.#descriptor(index);
      indexes.push(index);
      if (isContext(descriptor)) {
        this.#setContext(descriptor);
        continue;
      }
      parts.push(descriptor);
      length += descriptor.length;
      if ((descriptor.command & CMD_EOP) === 0 && length <= MAX_FRAME) continue;
      if (length > MAX_FRAME) {
        // No card buffers so much: lost.
        this.#writeBack(indexes, descriptor);
        return indexes.length;
      }
      const frame = new Uint8Array(length);
      let at = 0;
      for (const { address, length } of parts) {
        if (address !== 0) {
          memory.read(address, frame.subarray(at, at + length));
        }
        at += length;
      }
      if (!this.#send(frame, parts[0], descriptor)) return 0;
      this.#writeBack(indexes, descriptor);
      return indexes.length;
    }
    return 0;
  }

  /** Does what the driver has left to the card, and sends; false when the network is full. */
  #send(frame: Uint8Array, first: Descriptor, last: Descriptor): boolean {
    const isExtended = (first.command & CMD_DEXT) !== 0;
    if (isExtended && (first.command & CMD_TSE) !== 0) {
      this.#segment(frame, last);
      return true;
    }
    if (isExtended) {
      const options = first.view.getUint8(13);
      const { ipcss, ipcso, ipcse, tucss, tucso, tucse } = this.#checksum;
      if ((options & POPTS_TXSM) !== 0) insertSum(frame, tucss, tucso, tucse);
      if ((options & POPTS_IXSM) !== 0) insertSum(frame, ipcss, ipcso, ipcse);
    } else if ((last.command & CMD_IC) !== 0) {
      insertSum(frame, last.view.getUint8(13), last.view.getUint8(10), 0);
    }
    return this.#emit(frame, last);
  }

  /** Section 3.5: TCP segmentation. When the network fills up the rest is lost, and TCP sends it again. */
  #segment(frame: Uint8Array, last: Descriptor): void {
    const { ipcss, tucss, command, mss } = this.#segmentation;
    const isTcp = (command & TUCMD_TCP) !== 0;
    const isV4 = (command & TUCMD_IPV4) !== 0;
    if (
      mss === 0 || ipcss < ETHERNET_HEADER ||
      tucss < ipcss + (isV4 ? 20 : 40) || frame.length < tucss + 20
    ) {
      this.#card.ctx.log.warn("transmit: a segmentation context that is none");
      return;
    }
    const payload = payloadOf(frame, tucss, isTcp);
    if (payload >= frame.length || payload <= tucss) return;
    this.#card.count("TSCTC");
    splitSegment(
      frame,
      {
        ip: ipcss,
        transport: tucss,
        payload,
        v6: !isV4,
        tcp: isTcp,
        mss,
      },
      (part) => void this.#emit(part, last),
    );
  }

  #emit(frame: Uint8Array, last: Descriptor): boolean {
    if (frame.length < ETHERNET_HEADER) return true;
    const { registers: { CTRL, VET, TCTL }, ctx: { backend } } = this.#card;
    let whole = frame;
    if ((last.command & CMD_VLE) !== 0 && (CTRL & CTRL_VME) !== 0) {
      whole = withTag(whole, VET, last.view.getUint16(14, true));
    }
    if (whole.length < MIN_FRAME && (TCTL & TCTL_PSP) !== 0) {
      const padded = new Uint8Array(MIN_FRAME);
      padded.set(whole);
      whole = padded;
    }
    if (!backend.send(whole)) return false;
    this.#count(whole);
    return true;
  }

  #count(frame: Uint8Array): void {
    const card = this.#card;
    const length = frame.length + FCS_BYTES;
    card.count("TPT");
    card.count("GPTC");
    if (isBroadcast(frame)) card.count("BPTC");
    else if (isMulticast(frame)) card.count("MPTC");
    card.countBytes("GOTC", length);
    card.countBytes("TOT", length);
    card.count(
      length <= 64
        ? "PTC64"
        : length <= 127
        ? "PTC127"
        : length <= 255
        ? "PTC255"
        : length <= 511
        ? "PTC511"
        : length <= 1023
        ? "PTC1023"
        : "PTC1522",
    );
  }
}

function isContext({ command, view }: Descriptor): boolean {
  return (command & CMD_DEXT) !== 0 &&
    (view.getUint32(8, true) >>> 20 & 0xf) !== DTYP_DATA;
}

/** Puts the Internet checksum of a range, its end included; an end of 0 is that of the frame. */
function insertSum(
  frame: Uint8Array,
  start: number,
  at: number,
  end: number,
): void {
  const stop = end === 0 ? frame.length : Math.min(end + 1, frame.length);
  if (at + 2 > frame.length || start >= stop) return;
  putWord(frame, at, fold(addWords(frame, start, stop)));
}

/** A frame with a VLAN tag after its addresses. */
function withTag(frame: Uint8Array, type: number, tag: number): Uint8Array {
  const TAG = ETHERNET_HEADER - 2;
  const tagged = new Uint8Array(frame.length + 4);
  tagged.set(frame.subarray(0, TAG));
  putWord(tagged, TAG, type);
  putWord(tagged, TAG + 2, tag);
  tagged.set(frame.subarray(TAG), TAG + 4);
  return tagged;
}

function noContext(): Context {
  return {
    ipcss: 0,
    ipcso: 0,
    ipcse: 0,
    tucss: 0,
    tucso: 0,
    tucse: 0,
    payload: 0,
    command: 0,
    header: 0,
    mss: 0,
  };
}
