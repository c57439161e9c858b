/**
 * Split virtqueues as a device uses them: virtio 1.2, section 2.7.
 *
 * The driver's side is untrusted. Whatever it wrote that the specification forbids gives a
 * {@linkcode RingError}, after which the transport asks for a reset (section 2.1, DEVICE_NEEDS_RESET).
 *
 * @module
 */
import type { DmaMemory } from "../../core/plugin.ts";

/** The largest Queue Size of a split virtqueue, section 2.7. */
export const MAX_QUEUE_SIZE = 32768;

/** The most descriptors in one chain, direct or in an indirect table; the buffers of one request. */
const MAX_CHAIN = 1024;

// struct virtq_desc, section 2.7.5.
const DESC_SIZE = 16;
const DESC_LEN = 8;
const DESC_FLAGS = 12;
const DESC_NEXT = 14;
const VIRTQ_DESC_F_NEXT = 1;
const VIRTQ_DESC_F_WRITE = 2;
const VIRTQ_DESC_F_INDIRECT = 4;

// struct virtq_avail, section 2.7.6.
const AVAIL_FLAGS = 0;
const AVAIL_IDX = 2;
const AVAIL_RING = 4;
const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;

// struct virtq_used, section 2.7.8.
const USED_IDX = 2;
const USED_RING = 4;
const USED_ELEM_SIZE = 8;
const USED_ELEM_LEN = 4;

/** Bytes of used_event and avail_event, which follow the rings (section 2.7.10). */
const EVENT_SIZE = 2;

/** Alignment of the three parts, section 2.7. */
const ALIGNMENT = { desc: 16, avail: 2, used: 4 };

/** The driver broke a rule of the ring; the message says which. */
export class RingError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "RingError";
}

/** One buffer of a request, inside guest RAM. */
export interface Segment {
  /** Guest-physical address. */
  readonly address: number;
  /** Bytes. */
  readonly length: number;
}

/** A descriptor chain: a request. */
export interface Chain {
  /** Index of its first descriptor, which names it in the used ring. */
  readonly head: number;
  /** Buffers that the device reads, in order. */
  readonly readable: Segment[];
  /** Buffers that the device writes, in order. */
  readonly writable: Segment[];
}

/** Where the parts of a ring are in guest memory. */
export interface RingLayout {
  /** The descriptor table. */
  readonly desc: Segment;
  /** The available ring, with used_event. */
  readonly avail: Segment;
  /** The used ring, with avail_event. */
  readonly used: Segment;
}

/** What the driver negotiated that changes the ring. */
export interface RingFeatures {
  /** VIRTIO_F_INDIRECT_DESC. */
  readonly indirect: boolean;
  /** VIRTIO_F_EVENT_IDX. */
  readonly eventIdx: boolean;
}

/**
 * Where a ring of `size` descriptors is when its parts are at these addresses.
 *
 * @throws {RingError} If a part is not aligned or not wholly in RAM.
 */
export function layOut(
  memory: DmaMemory,
  size: number,
  addresses: { desc: bigint; avail: bigint; used: bigint },
): RingLayout {
  const place = (part: keyof RingLayout, length: number): Segment => {
    const address = Number(addresses[part]);
    const text = `the ${part} part of the ring, ${length} bytes at 0x${
      addresses[part].toString(16)
    }`;
    if (address % ALIGNMENT[part] !== 0) {
      throw new RingError(`${text}, is not aligned to ${ALIGNMENT[part]}`);
    }
    if (
      !Number.isSafeInteger(address) || !memory.contains(address, length)
    ) {
      throw new RingError(`${text}, is not in RAM`);
    }
    return { address, length };
  };
  return {
    desc: place("desc", size * DESC_SIZE),
    avail: place("avail", AVAIL_RING + size * 2 + EVENT_SIZE),
    used: place("used", USED_RING + size * USED_ELEM_SIZE + EVENT_SIZE),
  };
}

/** The device's side of one split virtqueue that the driver has set up. */
export class Ring {
  /** Descriptors, a power of two. */
  readonly size: number;
  /** Where it is. */
  readonly layout: RingLayout;
  readonly #memory: DmaMemory;
  readonly #features: RingFeatures;
  #lastAvail: number;
  #usedIdx: number;

  /**
   * Takes a ring up where its indexes say.
   *
   * @param memory Guest RAM.
   * @param size Queue Size, a power of two.
   * @param layout From {@linkcode layOut}.
   * @param features What was negotiated.
   * @param lastAvail The available index up to which requests were taken.
   * @param usedIdx The used index as the device last wrote it.
   */
  constructor(
    memory: DmaMemory,
    size: number,
    layout: RingLayout,
    features: RingFeatures,
    lastAvail = 0,
    usedIdx = 0,
  ) {
    this.#memory = memory;
    this.size = size;
    this.layout = layout;
    this.#features = features;
    this.#lastAvail = lastAvail;
    this.#usedIdx = usedIdx;
  }

  /** The available index up to which requests were taken. */
  get lastAvail(): number {
    return this.#lastAvail;
  }

  /** The used index as the device last wrote it. */
  get usedIdx(): number {
    return this.#usedIdx;
  }

  /**
   * Takes the next request.
   *
   * @returns The request, or `null` when there is none; then the driver has been told to notify of the next.
   * @throws {RingError} If the driver broke a rule.
   */
  pop(): Chain | null {
    const { avail, used } = this.layout;
    const waiting = this.#waiting();
    if (waiting === 0) {
      if (this.#features.eventIdx) {
        const availEvent = used.address + USED_RING +
          this.size * USED_ELEM_SIZE;
        if (this.#memory.readU16(availEvent) !== this.#lastAvail) {
          this.#memory.writeU16(availEvent, this.#lastAvail);
        }
      }
      return null;
    }
    const slot = this.#lastAvail & (this.size - 1);
    const head = this.#memory.readU16(avail.address + AVAIL_RING + slot * 2);
    const chain = this.chain(head);
    this.#lastAvail = (this.#lastAvail + 1) & 0xffff;
    return chain;
  }

  /**
   * Makes requests that were taken last available again: the device could not do them.
   *
   * @param count How many.
   */
  untake(count: number): void {
    this.#lastAvail = (this.#lastAvail - count) & 0xffff;
  }

  /**
   * Reads the request whose first descriptor is `head`.
   *
   * @throws {RingError} If the driver broke a rule.
   */
  chain(head: number): Chain {
    const chain: Chain = { head, readable: [], writable: [] };
    let { address: table } = this.layout.desc;
    let entries = this.size;
    let limit = Math.min(this.size, MAX_CHAIN);
    let indirect = false;
    let index = head;
    for (let count = 0;; count++) {
      if (index >= entries) {
        throw new RingError(
          `descriptor ${index} of request ${head} is not in a table of ${entries}`,
        );
      }
      if (count === limit) {
        throw new RingError(
          `request ${head} has more than ${limit} descriptors, or a loop`,
        );
      }
      const at = table + index * DESC_SIZE;
      const flags = this.#memory.readU16(at + DESC_FLAGS);
      const segment = this.#buffer(at, head);
      if ((flags & VIRTQ_DESC_F_INDIRECT) !== 0) {
        entries = this.#indirectEntries(head, flags, segment, indirect);
        limit = MAX_CHAIN;
        indirect = true;
        table = segment.address;
        index = 0;
        count = -1;
        continue;
      }
      if ((flags & VIRTQ_DESC_F_WRITE) !== 0) {
        if (segment.length > 0) chain.writable.push(segment);
      } else if (chain.writable.length > 0) {
        throw new RingError(
          `request ${head} has a buffer to read after one to write`,
        );
      } else if (segment.length > 0) {
        chain.readable.push(segment);
      }
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) return chain;
      index = this.#memory.readU16(at + DESC_NEXT);
    }
  }

  /**
   * Gives a request back to the driver.
   *
   * @param head The request.
   * @param length Bytes written from the start of its writable buffers.
   * @returns Whether the driver wants an interrupt.
   */
  push(head: number, length: number): boolean {
    const { avail, used } = this.layout;
    const slot = this.#usedIdx & (this.size - 1);
    const element = used.address + USED_RING + slot * USED_ELEM_SIZE;
    this.#memory.writeU32(element, head);
    this.#memory.writeU32(element + USED_ELEM_LEN, length);
    const old = this.#usedIdx;
    this.#usedIdx = (old + 1) & 0xffff;
    this.#memory.writeU16(used.address + USED_IDX, this.#usedIdx);
    if (this.#features.eventIdx) {
      const usedEvent = this.#memory.readU16(
        avail.address + AVAIL_RING + this.size * 2,
      );
      return usedEvent === old;
    }
    const flags = this.#memory.readU16(avail.address + AVAIL_FLAGS);
    return (flags & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
  }

  /** How many requests are available and not taken. */
  #waiting(): number {
    const idx = this.#memory.readU16(this.layout.avail.address + AVAIL_IDX);
    const waiting = (idx - this.#lastAvail) & 0xffff;
    if (waiting > this.size) {
      throw new RingError(
        `the available index went from ${this.#lastAvail} to ${idx} in a ring of ${this.size}`,
      );
    }
    return waiting;
  }

  /** The buffer of the descriptor at `at`. */
  #buffer(at: number, head: number): Segment {
    const address = Number(this.#memory.readU64(at));
    const length = this.#memory.readU32(at + DESC_LEN);
    if (
      length > 0 &&
      !(Number.isSafeInteger(address) && this.#memory.contains(address, length))
    ) {
      throw new RingError(
        `request ${head} has a buffer of ${length} bytes at 0x${
          address.toString(16)
        }, which is not in RAM`,
      );
    }
    return { address, length };
  }

  /** How many descriptors are in an indirect table, section 2.7.5.3. */
  #indirectEntries(
    head: number,
    flags: number,
    table: Segment,
    nested: boolean,
  ): number {
    if (!this.#features.indirect) {
      throw new RingError(
        `request ${head} has an indirect table, which was not negotiated`,
      );
    }
    if (nested) {
      throw new RingError(
        `request ${head} has an indirect table in an indirect table`,
      );
    }
    if ((flags & VIRTQ_DESC_F_NEXT) !== 0) {
      throw new RingError(
        `request ${head} has an indirect table that is followed by another descriptor`,
      );
    }
    if (table.length === 0 || table.length % DESC_SIZE !== 0) {
      throw new RingError(
        `request ${head} has an indirect table of ${table.length} bytes, which is not a multiple of ${DESC_SIZE}`,
      );
    }
    return table.length / DESC_SIZE;
  }
}

/** Bytes in all of some buffers. */
export function totalLength(segments: readonly Segment[]): number {
  return segments.reduce((sum, { length }) => sum + length, 0);
}

/**
 * A part of some buffers taken as one run of bytes.
 *
 * @param segments The buffers.
 * @param from First byte.
 * @param length Bytes; fewer if the buffers end before.
 */
export function slice(
  segments: readonly Segment[],
  from: number,
  length: number,
): Segment[] {
  const parts: Segment[] = [];
  let skip = from;
  let left = length;
  for (const segment of segments) {
    if (left <= 0) break;
    if (skip >= segment.length) {
      skip -= segment.length;
      continue;
    }
    const count = Math.min(segment.length - skip, left);
    parts.push({ address: segment.address + skip, length: count });
    left -= count;
    skip = 0;
  }
  return parts;
}

/** Copies some buffers out of guest memory, as one run of bytes. */
export function gather(
  memory: DmaMemory,
  segments: readonly Segment[],
): Uint8Array {
  const bytes = new Uint8Array(totalLength(segments));
  let at = 0;
  for (const { address, length } of segments) {
    memory.read(address, bytes.subarray(at, at + length));
    at += length;
  }
  return bytes;
}

/** Copies a run of bytes into some buffers, as far as both go. */
export function scatter(
  memory: DmaMemory,
  segments: readonly Segment[],
  bytes: Uint8Array,
): void {
  let at = 0;
  for (const { address, length } of segments) {
    if (at >= bytes.length) return;
    const part = bytes.subarray(at, Math.min(at + length, bytes.length));
    memory.write(address, part);
    at += part.length;
  }
}
