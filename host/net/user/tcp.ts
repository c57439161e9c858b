// The gateway's end of a TCP connection with the guest: RFC 9293. The other end is a socket of the
// host, through the pipe that this is given.
//
// Frames reach the guest in order, and are lost only when its card is long without room, so what
// was not acknowledged is sent again from its start, and what comes out of order is not kept.

import { putWord, word } from "../../../plugins/net/frame.ts";
import { type Address, PROTOCOL_TCP, transportSum, writePacket } from "./ip.ts";

const FIN = 0x01, SYN = 0x02, RST = 0x04, PSH = 0x08, ACK = 0x10;
const HEADER = 20;
const OPTION_END = 0, OPTION_NOP = 1, OPTION_MSS = 2, OPTION_SCALE = 3;
const MAX_SCALE = 14;
/** What the gateway takes from the guest before the host has it. */
const RECEIVE_BUFFER = 256 << 10;
const RECEIVE_SCALE = 3;
/** What the gateway keeps for the guest until it is acknowledged. */
const SEND_BUFFER = 512 << 10;
const DEFAULT_MSS = 536;
/** Milliseconds until the first retransmission, and at most. */
const RETRY_MS = 300;
const MAX_RETRY_MS = 10_000;
/** Retransmissions after which the guest is gone. */
const MAX_RETRIES = 8;

/** A segment as it came from the guest. */
export interface Segment {
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly sequence: number;
  readonly acknowledgment: number;
  readonly flags: number;
  readonly window: number;
  /** Options: greatest segment, and window scale or -1. */
  readonly mss: number;
  readonly scale: number;
  readonly data: Uint8Array;
}

/**
 * Reads a segment.
 *
 * @param payload The payload of an IP packet.
 * @returns The segment, or null when it is malformed.
 */
export function readSegment(payload: Uint8Array): Segment | null {
  if (payload.length < HEADER) return null;
  const header = (payload[12] >>> 4) * 4;
  if (header < HEADER || header > payload.length) return null;
  const view = new DataView(payload.buffer, payload.byteOffset, header);
  let mss = DEFAULT_MSS;
  let scale = -1;
  for (let at = HEADER; at < header;) {
    const kind = payload[at];
    if (kind === OPTION_END) break;
    if (kind === OPTION_NOP) {
      at++;
      continue;
    }
    const length = payload[at + 1];
    if (!(length >= 2) || at + length > header) break;
    if (kind === OPTION_MSS && length === 4) mss = view.getUint16(at + 2);
    if (kind === OPTION_SCALE && length === 3) {
      scale = Math.min(payload[at + 2], MAX_SCALE);
    }
    at += length;
  }
  return {
    sourcePort: word(payload, 0),
    destinationPort: word(payload, 2),
    sequence: view.getUint32(4),
    acknowledgment: view.getUint32(8),
    flags: payload[13],
    window: word(payload, 14),
    mss: Math.max(mss, 64),
    scale,
    data: payload.subarray(header),
  };
}

/** Whether a segment opens a connection. */
export function isOpening({ flags }: Segment): boolean {
  return (flags & (SYN | ACK | RST)) === SYN;
}

/** Both ends of a connection: the guest's, and the one that the gateway plays. */
export interface Ends {
  readonly guest: Address;
  readonly guestPort: number;
  readonly peer: Address;
  readonly peerPort: number;
}

/** The socket of the host. */
export interface Pipe {
  /** Takes bytes from the guest; calls {@linkcode TcpEnd.taken} when the host has them. */
  write(bytes: Uint8Array): void;
  /** The guest will send no more. */
  end(): void;
  /** There is room for more bytes for the guest. */
  more(): void;
  /** The connection is over; `reset` when not in order. */
  over(reset: boolean): void;
}

/** What a connection sends by. */
export type Output = (packet: Uint8Array) => void;

/** The answer to a segment that belongs to no connection: a reset (RFC 9293, section 3.10.7.1). */
export function resetFor(
  ends: Ends,
  segment: Segment,
): Uint8Array | null {
  if ((segment.flags & RST) !== 0) return null;
  const hasAck = (segment.flags & ACK) !== 0;
  const length = segment.data.length +
    ((segment.flags & (SYN | FIN)) !== 0 ? 1 : 0);
  return segmentOf(ends, {
    sequence: hasAck ? segment.acknowledgment : 0,
    acknowledgment: hasAck ? 0 : segment.sequence + length >>> 0,
    flags: hasAck ? RST : RST | ACK,
    window: 0,
    options: [],
    data: new Uint8Array(0),
  });
}

function segmentOf(
  ends: Ends,
  fields: {
    sequence: number;
    acknowledgment: number;
    flags: number;
    window: number;
    options: readonly number[];
    data: Uint8Array;
  },
): Uint8Array {
  const { options, data } = fields;
  const header = HEADER + options.length;
  const payload = new Uint8Array(header + data.length);
  const view = new DataView(payload.buffer);
  view.setUint16(0, ends.peerPort);
  view.setUint16(2, ends.guestPort);
  view.setUint32(4, fields.sequence);
  view.setUint32(8, fields.acknowledgment);
  payload[12] = header / 4 << 4;
  payload[13] = fields.flags;
  view.setUint16(14, fields.window);
  payload.set(options, HEADER);
  payload.set(data, header);
  const packet = {
    source: ends.peer,
    destination: ends.guest,
    protocol: PROTOCOL_TCP,
    payload,
  };
  putWord(payload, 16, transportSum(packet));
  return writePacket(packet);
}

/** Distance from one sequence number to another, which may be behind. */
function distance(from: number, to: number): number {
  return to - from | 0;
}

/** One connection. */
export class TcpEnd {
  readonly #ends: Ends;
  readonly #output: Output;
  readonly #pipe: Pipe;
  readonly #mtu: number;
  /** Bytes for the guest from `#una` on. */
  #queue: Uint8Array[] = [];
  #queued = 0;
  #una: number;
  #next: number;
  /** The end of all that was ever sent: after a retransmission began, ahead of `#next`. */
  #highest: number;
  /** The guest's own sequence numbers are known. */
  #isSynchronized = false;
  #received = 0;
  #window = 0;
  #scale = 0;
  /** Whether both sides scale their windows. */
  #isScaled = false;
  #mss = DEFAULT_MSS;
  /** Bytes that the host has not taken yet. */
  #pending = 0;
  #state: "opening" | "open" | "over" = "opening";
  /** The guest's FIN has come; ours is wanted, sent, and acknowledged. */
  #guestDone = false;
  #finWanted = false;
  #finSent = false;
  /** Where our FIN is, once it was sent. */
  #finSequence: number | null = null;
  #finAcknowledged = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #retries = 0;
  /** A SYN is out that is not acknowledged. */
  #synOut: number | null = null;

  /**
   * @param ends Who is connected.
   * @param pipe The host's socket.
   * @param output Sends a packet to the guest.
   * @param mtu Bytes of a packet at most.
   */
  constructor(ends: Ends, pipe: Pipe, output: Output, mtu: number) {
    this.#ends = ends;
    this.#pipe = pipe;
    this.#output = output;
    this.#mtu = mtu;
    this.#una = crypto.getRandomValues(new Uint32Array(1))[0];
    this.#next = this.#una;
    this.#highest = this.#una;
  }

  /** Bytes that may be given to {@linkcode send}. */
  get room(): number {
    return this.#state === "open" ? Math.max(0, SEND_BUFFER - this.#queued) : 0;
  }

  /** The guest has opened the connection, and the host's socket is connected. */
  accept(segment: Segment): void {
    this.#learn(segment);
    this.#sendSyn(SYN | ACK);
  }

  /** The gateway opens the connection to the guest. */
  connect(): void {
    this.#sendSyn(SYN);
  }

  /** Bytes from the host; at most {@linkcode room}. */
  send(bytes: Uint8Array): void {
    if (this.#state === "over" || bytes.length === 0) return;
    this.#queue.push(bytes.slice());
    this.#queued += bytes.length;
    this.#push();
  }

  /** The host will send no more. */
  finish(): void {
    this.#finWanted = true;
    this.#push();
  }

  /** The host has taken bytes. */
  taken(count: number): void {
    const before = this.#advertised;
    this.#pending -= count;
    // Tell of a window that was closed, or has grown much.
    if (
      this.#state === "open" &&
      (before < this.#mss || this.#advertised - before >= RECEIVE_BUFFER / 4)
    ) this.#acknowledge();
  }

  /** The host's socket failed, or the guest is to be told that nobody is there. */
  reset(): void {
    if (this.#state === "over") return;
    this.#emit(RST | ACK, this.#next, new Uint8Array(0));
    this.#end(true);
  }

  /** Forgets the connection without a word. */
  drop(): void {
    if (this.#state !== "over") this.#end(true);
  }

  /** A segment from the guest. */
  receive(segment: Segment): void {
    const { flags, sequence } = segment;
    if (this.#state === "over") return;
    if ((flags & RST) !== 0) {
      const inWindow = distance(this.#received, sequence);
      if (
        this.#synOut !== null || inWindow >= 0 && inWindow < RECEIVE_BUFFER
      ) this.#end(true);
      return;
    }
    if ((flags & SYN) !== 0) {
      this.#receiveSyn(segment);
      return;
    }
    if ((flags & ACK) === 0) return;
    if (!this.#receiveAck(segment)) return;
    this.#receiveData(segment);
    if (this.#isOver) this.#end(false);
    else this.#push();
  }

  get #isOver(): boolean {
    return this.#guestDone && this.#finAcknowledged && this.#pending === 0;
  }

  /** A SYN: the answer to ours, or the guest's again. */
  #receiveSyn(segment: Segment): void {
    const isAnswer = (segment.flags & ACK) !== 0 && !this.#isSynchronized &&
      segment.acknowledgment === this.#next;
    if (isAnswer) {
      this.#learn(segment);
      this.#una = this.#next;
      this.#opened();
      this.#acknowledge();
    } else if (this.#synOut !== null) this.#retransmit();
    else if (this.#state === "open") this.#acknowledge();
  }

  #learn(segment: Segment): void {
    this.#isSynchronized = true;
    this.#received = segment.sequence + 1 >>> 0;
    this.#isScaled = segment.scale >= 0;
    this.#scale = Math.max(0, segment.scale);
    const headers = (this.#ends.peer.length === 4 ? 20 : 40) + HEADER;
    this.#mss = Math.min(segment.mss, this.#mtu - headers);
    this.#window = segment.window;
  }

  #opened(): void {
    this.#state = "open";
    this.#synOut = null;
    this.#stopTimer();
    this.#pipe.more();
    this.#push();
  }

  /** What the guest acknowledges; false when the segment is of no use. */
  #receiveAck({ acknowledgment, window }: Segment): boolean {
    const count = distance(this.#una, acknowledgment);
    if (count < 0) return true;
    if (distance(acknowledgment, this.#highest) < 0) {
      this.#acknowledge();
      return false;
    }
    this.#window = window << this.#scale;
    if (this.#state === "opening") {
      if (count < 1) return false;
      this.#una = acknowledgment;
      this.#opened();
      return true;
    }
    if (count === 0) return true;
    this.#retries = 0;
    this.#stopTimer();
    const isFin = this.#finSequence !== null &&
      distance(this.#finSequence, acknowledgment) === 1;
    this.#discard(count - (isFin ? 1 : 0));
    this.#una = acknowledgment;
    if (distance(this.#next, acknowledgment) > 0) this.#next = acknowledgment;
    if (isFin) {
      this.#finSent = true;
      this.#finAcknowledged = true;
    }
    if (this.#una !== this.#next) this.#startTimer();
    if (!this.#finWanted && this.room > 0) this.#pipe.more();
    return true;
  }

  /** Drops bytes that the guest has. */
  #discard(count: number): void {
    let left = count;
    this.#queued -= count;
    while (left > 0) {
      const [first] = this.#queue;
      if (first.length > left) {
        this.#queue[0] = first.subarray(left);
        return;
      }
      left -= first.length;
      this.#queue.shift();
    }
  }

  #receiveData({ sequence, data, flags }: Segment): void {
    const hasFin = (flags & FIN) !== 0;
    if (data.length === 0 && !hasFin) return;
    const skip = distance(sequence, this.#received);
    // Out of order, or all of it was here before.
    if (
      skip < 0 || this.#guestDone || skip > data.length ||
      skip === data.length && !hasFin && data.length > 0
    ) {
      this.#acknowledge();
      return;
    }
    const fresh = data.subarray(skip);
    const room = RECEIVE_BUFFER - this.#pending;
    const take = Math.min(fresh.length, room);
    if (take > 0) {
      this.#received = this.#received + take >>> 0;
      this.#pending += take;
      this.#pipe.write(fresh.slice(0, take));
    }
    if (hasFin && take === fresh.length) {
      this.#received = this.#received + 1 >>> 0;
      this.#guestDone = true;
      this.#pipe.end();
    }
    this.#acknowledge();
  }

  /** Sends what the guest's window lets through. */
  #push(): void {
    if (this.#state !== "open") return;
    for (;;) {
      const sent = distance(this.#una, this.#next) - (this.#finSent ? 1 : 0);
      const left = this.#queued - sent;
      const room = this.#window - sent;
      if (left <= 0 || room <= 0) {
        if (left > 0) this.#startTimer();
        break;
      }
      const data = this.#bytes(sent, Math.min(this.#mss, left, room));
      const isLast = data.length === left;
      this.#emit(ACK | (isLast ? PSH : 0), this.#next, data);
      this.#sent(data.length);
    }
    const sent = distance(this.#una, this.#next);
    if (this.#finWanted && !this.#finSent && sent === this.#queued) {
      this.#finSent = true;
      this.#finSequence = this.#next;
      this.#emit(FIN | ACK, this.#next, new Uint8Array(0));
      this.#sent(1);
    }
  }

  /** So many sequence numbers are out. */
  #sent(count: number): void {
    this.#next = this.#next + count >>> 0;
    if (distance(this.#highest, this.#next) > 0) this.#highest = this.#next;
    this.#startTimer();
  }

  /** Bytes of the queue. */
  #bytes(from: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    let skip = from;
    let at = 0;
    for (const part of this.#queue) {
      if (at === length) break;
      if (skip >= part.length) {
        skip -= part.length;
        continue;
      }
      const piece = part.subarray(skip, skip + length - at);
      bytes.set(piece, at);
      at += piece.length;
      skip = 0;
    }
    return bytes;
  }

  get #advertised(): number {
    return Math.max(0, RECEIVE_BUFFER - this.#pending);
  }

  #acknowledge(): void {
    this.#emit(ACK, this.#next, new Uint8Array(0));
  }

  #emit(flags: number, sequence: number, data: Uint8Array): void {
    const isSyn = (flags & SYN) !== 0;
    const headers = (this.#ends.peer.length === 4 ? 20 : 40) + HEADER;
    const mss = this.#mtu - headers;
    const hasScale = isSyn && ((flags & ACK) === 0 || this.#isScaled);
    const options = isSyn
      ? [
        OPTION_MSS,
        4,
        mss >>> 8,
        mss & 0xff,
        ...hasScale ? [OPTION_NOP, OPTION_SCALE, 3, RECEIVE_SCALE] : [],
      ]
      : [];
    const shift = isSyn || !this.#isScaled ? 0 : RECEIVE_SCALE;
    this.#output(segmentOf(this.#ends, {
      sequence,
      acknowledgment: (flags & ACK) !== 0 ? this.#received : 0,
      flags,
      window: Math.min(0xffff, this.#advertised >>> shift),
      options,
      data,
    }));
  }

  #sendSyn(flags: number): void {
    this.#synOut = flags;
    this.#emit(flags, this.#una, new Uint8Array(0));
    this.#sent(1);
  }

  #startTimer(): void {
    if (this.#timer !== undefined) return;
    const wait = Math.min(RETRY_MS * 2 ** this.#retries, MAX_RETRY_MS);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#retries++ >= MAX_RETRIES) this.reset();
      else this.#retransmit();
    }, wait);
  }

  #stopTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** Sends again from what was not acknowledged; with a closed window one byte, to ask. */
  #retransmit(): void {
    if (this.#synOut !== null) {
      this.#emit(this.#synOut, this.#una, new Uint8Array(0));
      this.#startTimer();
      return;
    }
    this.#next = this.#una;
    this.#finSent = this.#finAcknowledged;
    if (this.#window === 0 && this.#queued > 0) {
      this.#emit(ACK, this.#next, this.#bytes(0, 1));
      this.#sent(1);
    } else this.#push();
  }

  #end(reset: boolean): void {
    this.#state = "over";
    this.#stopTimer();
    this.#queue = [];
    this.#queued = 0;
    this.#pipe.over(reset);
  }
}
