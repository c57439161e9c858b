/**
 * virtio-blk, a disk: virtio 1.2, section 5.2.
 *
 * @module
 */
import {
  type AccessSize,
  type BlockBackend,
  definePlugin,
  type Device,
  type DeviceContext,
  type ImmediateBlock,
  MachineError,
} from "../../core/plugin.ts";
import {
  bool,
  type Infer,
  list,
  record,
  schema,
  SchemaError,
  u16,
  u64,
} from "../../snapshot/schema.ts";
import {
  type Chain,
  gather,
  scatter,
  type Segment,
  slice,
  totalLength,
} from "./ring.ts";
import { DEVICE_NEEDS_RESET, virtioState } from "./state.ts";
import { type VirtioModel, VirtioPci } from "./transport.ts";

/** Section 5.2.1. */
const DEVICE_ID = 2;
/** Section 4.1.2.1. */
const TRANSITIONAL_PCI_ID = 0x1001;
/** Mass storage controller, SCSI: what drivers and firmware expect of the transitional device. */
const CLASS_SCSI = 0x010000;

// Feature bits, section 5.2.3.
const VIRTIO_BLK_F_SIZE_MAX = 1n << 1n;
const VIRTIO_BLK_F_SEG_MAX = 1n << 2n;
const VIRTIO_BLK_F_GEOMETRY = 1n << 4n;
const VIRTIO_BLK_F_RO = 1n << 5n;
const VIRTIO_BLK_F_BLK_SIZE = 1n << 6n;
const VIRTIO_BLK_F_FLUSH = 1n << 9n;
const VIRTIO_BLK_F_TOPOLOGY = 1n << 10n;
const VIRTIO_BLK_F_CONFIG_WCE = 1n << 11n;
const VIRTIO_BLK_F_MQ = 1n << 12n;
const VIRTIO_BLK_F_DISCARD = 1n << 13n;
const VIRTIO_BLK_F_WRITE_ZEROES = 1n << 14n;

// struct virtio_blk_config, section 5.2.4.
const CONFIG_CAPACITY = 0;
const CONFIG_SIZE_MAX = 8;
const CONFIG_SEG_MAX = 12;
const CONFIG_CYLINDERS = 16;
const CONFIG_HEADS = 18;
const CONFIG_SECTORS = 19;
const CONFIG_BLK_SIZE = 20;
const CONFIG_MIN_IO_SIZE = 26;
const CONFIG_WRITEBACK = 32;
const CONFIG_NUM_QUEUES = 34;
const CONFIG_MAX_DISCARD_SECTORS = 36;
const CONFIG_MAX_DISCARD_SEG = 40;
const CONFIG_DISCARD_SECTOR_ALIGNMENT = 44;
const CONFIG_MAX_WRITE_ZEROES_SECTORS = 48;
const CONFIG_MAX_WRITE_ZEROES_SEG = 52;
const CONFIG_WRITE_ZEROES_MAY_UNMAP = 56;
const CONFIG_LENGTH = 60;

// Request types and status, section 5.2.6.
const VIRTIO_BLK_T_IN = 0;
const VIRTIO_BLK_T_OUT = 1;
const VIRTIO_BLK_T_FLUSH = 4;
const VIRTIO_BLK_T_GET_ID = 8;
const VIRTIO_BLK_T_DISCARD = 11;
const VIRTIO_BLK_T_WRITE_ZEROES = 13;
const VIRTIO_BLK_S_OK = 0;
const VIRTIO_BLK_S_IOERR = 1;
const VIRTIO_BLK_S_UNSUPP = 2;

// struct virtio_blk_req: type, reserved and sector, then the data, then the status byte.
const HEADER_SIZE = 16;
const HEADER_SECTOR = 8;

// struct virtio_blk_discard_write_zeroes.
const RANGE_SIZE = 16;
const RANGE_NUM_SECTORS = 8;
const RANGE_FLAGS = 12;
const RANGE_FLAG_UNMAP = 1;

/** Length of the answer to VIRTIO_BLK_T_GET_ID. */
const ID_LENGTH = 20;

const SECTOR_SIZE = 512;

/** Descriptors in each queue. */
const QUEUE_SIZE = 256;
/** Data buffers in a request: all of a queue but the header and the status. */
const SEG_MAX = QUEUE_SIZE - 2;
/** Bytes in one data buffer. */
const SIZE_MAX = 1024 * 1024;
/** Bytes moved at a time between the guest and the image; bounds what a request costs the host. */
const CHUNK = 1024 * 1024;
/** Requests under way at once; the others wait in their queue. */
const MAX_IN_FLIGHT = 64;
/** Largest range of a discard or write-zeroes request, in sectors, and the number of ranges. */
const MAX_RANGE_SECTORS = 1024 * 1024 * 1024 / SECTOR_SIZE;
const MAX_RANGES = 16;
const MAX_QUEUES = 16;

// The geometry that BIOSes give a large disk; drivers since 1994 count sectors.
const GEOMETRY_HEADS = 16;
const GEOMETRY_SECTORS = 63;
const GEOMETRY_MAX_CYLINDERS = 16383;

/** One step of a request: an operation on the image. */
type Work = (block: BlockBackend | ImmediateBlock) => Promise<void> | void;

/** A request that was taken from its queue and not given back. */
interface Request {
  readonly queue: number;
  readonly chain: Chain;
  /** Guest address of the status byte. */
  readonly statusAddress: number;
  /** Writable bytes before the status. */
  readonly room: number;
  /** Bytes written from the start of the writable buffers. */
  written: number;
  /** The driver has forgotten it (a reset): nothing of it may reach the guest any more. */
  stale: boolean;
  /** What it waits for: settles when the host has finished, and takes the result to the request, once. */
  waiting?: {
    readonly settled: Promise<Error | null>;
    take(error: Error | null): void;
  };
}

const blkState = schema("virtio-blk", 2, {
  transport: virtioState,
  /** Size of the disk in sectors, which the guest has seen. */
  capacity: u64(),
  writeback: bool(),
  /** Requests taken and not given back, oldest first; they are submitted again, which is harmless to repeat. */
  inFlight: list(record({ queue: u16(), head: u16() }), {
    max: MAX_IN_FLIGHT,
  }),
  /** Queues, in rising order, of which the driver has said that they hold requests, and that were not yet found empty. */
  notified: list(u16({ max: MAX_QUEUES - 1 }), { max: MAX_QUEUES }),
}, {
  // Version 1 looked at every queue when the machine went on.
  1: (old) => {
    const state = old as { transport: { queues: unknown[] } };
    const notified = state.transport.queues.map((_, queue) => queue);
    return { ...state, notified };
  },
});

const options = {
  image: {
    type: "string",
    help:
      "image file, raw or qcow2, or block device; a scratch disk in memory when absent",
  },
  readonly: {
    type: "boolean",
    help: "the guest cannot write",
    default: false,
  },
  size: {
    type: "size",
    help: "size of the scratch disk (64M when absent)",
    min: SECTOR_SIZE,
  },
  serial: {
    type: "string",
    help:
      `serial number, up to ${ID_LENGTH} bytes; the instance id when absent`,
  },
  queues: {
    type: "number",
    help: "number of request queues",
    default: 1,
    min: 1,
    max: MAX_QUEUES,
  },
  legacy: {
    type: "boolean",
    help:
      "also offer the interface of before virtio 1.0 (a transitional device)",
    default: true,
  },
} as const;

/** The disk. */
class VirtioBlk implements Device, VirtioModel {
  readonly deviceId = DEVICE_ID;
  readonly transitionalId?: number;
  readonly classCode = CLASS_SCSI;
  readonly queueSize = QUEUE_SIZE;
  readonly configLength = CONFIG_LENGTH;
  readonly features: bigint;
  readonly queueCount: number;

  readonly #ctx: DeviceContext<Infer<typeof blkState>, "block">;
  readonly #block: BlockBackend;
  readonly #id = new Uint8Array(ID_LENGTH);
  readonly #transport: VirtioPci;
  readonly #inFlight = new Set<Request>();
  /** Requests of a restored state that are to be submitted again when the machine runs. */
  #resubmit: { queue: number; head: number }[] = [];
  #writeback = false;
  /** Queues to look into: a driver may have put a request in a ring and not yet notified, and a pause must not show. */
  readonly #notified = new Set<number>();
  #holding = false;
  #pumping = false;

  constructor(
    ctx: DeviceContext<Infer<typeof blkState>, "block">,
    serial: string,
    queues: number,
    legacy: boolean,
  ) {
    const bytes = new TextEncoder().encode(serial);
    if (bytes.length > ID_LENGTH) {
      throw new MachineError(
        `serial "${serial}" is ${bytes.length} bytes: a virtio-blk serial number has at most ${ID_LENGTH}`,
      );
    }
    this.#id.set(bytes);
    this.#ctx = ctx;
    this.#block = ctx.backend;
    this.queueCount = queues;
    if (legacy) this.transitionalId = TRANSITIONAL_PCI_ID;
    this.features = VIRTIO_BLK_F_SIZE_MAX | VIRTIO_BLK_F_SEG_MAX |
      VIRTIO_BLK_F_GEOMETRY | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_FLUSH |
      VIRTIO_BLK_F_TOPOLOGY | (queues > 1 ? VIRTIO_BLK_F_MQ : 0n) |
      (this.#block.readOnly
        ? VIRTIO_BLK_F_RO
        : VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_BLK_F_DISCARD |
          VIRTIO_BLK_F_WRITE_ZEROES);
    this.#transport = new VirtioPci(ctx, this);
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  /** Power-on, and the driver's own reset of the device. */
  reset(): void {
    this.#transport.reset();
    this.#writeback = false;
    this.#resubmit = [];
    this.#notified.clear();
    for (const request of this.#inFlight) request.stale = true;
  }

  start(): void {
    this.resume();
  }

  /** Takes no more requests, and finishes those under way. */
  async pause(): Promise<void> {
    this.#holding = true;
    while (this.#holding && this.#inFlight.size > 0) {
      const [{ waiting }] = this.#inFlight;
      waiting?.take(await waiting.settled);
    }
  }

  resume(): void {
    this.#holding = false;
    for (const { queue, head } of this.#resubmit.splice(0)) {
      const chain = this.#transport.chain(queue, head);
      if (chain !== null) this.#submit(queue, chain);
    }
    this.#pumpAll();
  }

  readConfig(): Uint8Array {
    const view = new DataView(new ArrayBuffer(CONFIG_LENGTH));
    const capacity = this.#block.size / SECTOR_SIZE;
    view.setBigUint64(CONFIG_CAPACITY, BigInt(capacity), true);
    view.setUint32(CONFIG_SIZE_MAX, SIZE_MAX, true);
    view.setUint32(CONFIG_SEG_MAX, SEG_MAX, true);
    const cylinders = Math.floor(capacity / GEOMETRY_HEADS / GEOMETRY_SECTORS);
    view.setUint16(
      CONFIG_CYLINDERS,
      Math.min(cylinders, GEOMETRY_MAX_CYLINDERS),
      true,
    );
    view.setUint8(CONFIG_HEADS, GEOMETRY_HEADS);
    view.setUint8(CONFIG_SECTORS, GEOMETRY_SECTORS);
    view.setUint32(CONFIG_BLK_SIZE, SECTOR_SIZE, true);
    view.setUint16(CONFIG_MIN_IO_SIZE, 1, true);
    view.setUint8(CONFIG_WRITEBACK, this.#writeback ? 1 : 0);
    view.setUint16(CONFIG_NUM_QUEUES, this.queueCount, true);
    if (!this.#block.readOnly) {
      view.setUint32(CONFIG_MAX_DISCARD_SECTORS, MAX_RANGE_SECTORS, true);
      view.setUint32(CONFIG_MAX_DISCARD_SEG, MAX_RANGES, true);
      view.setUint32(CONFIG_DISCARD_SECTOR_ALIGNMENT, 1, true);
      view.setUint32(CONFIG_MAX_WRITE_ZEROES_SECTORS, MAX_RANGE_SECTORS, true);
      view.setUint32(CONFIG_MAX_WRITE_ZEROES_SEG, MAX_RANGES, true);
      view.setUint8(CONFIG_WRITE_ZEROES_MAY_UNMAP, 1);
    }
    return new Uint8Array(view.buffer);
  }

  /** The cache mode is the one field that a driver may write, section 5.2.4. */
  writeConfig(offset: number, _size: AccessSize, value: number): void {
    if (
      offset === CONFIG_WRITEBACK && this.#negotiated(VIRTIO_BLK_F_CONFIG_WCE)
    ) this.#writeback = (value & 1) !== 0;
  }

  /** A driver that does not know how to flush gets a write-through cache, section 5.2.5.2. */
  negotiated(): void {
    this.#writeback = this.#negotiated(VIRTIO_BLK_F_FLUSH);
  }

  notify(queue: number): void {
    this.#notified.add(queue);
    this.#pump(queue);
  }

  queueReset(queue: number): void {
    this.#resubmit = this.#resubmit.filter((request) =>
      request.queue !== queue
    );
    this.#notified.delete(queue);
    for (const request of this.#inFlight) {
      if (request.queue === queue) request.stale = true;
    }
  }

  #negotiated(feature: bigint): boolean {
    return (this.#transport.features & feature) !== 0n;
  }

  #save(): Infer<typeof blkState> {
    const inFlight = [...this.#inFlight].filter(({ stale }) => !stale)
      .map(({ queue, chain }) => ({ queue, head: chain.head }));
    return {
      transport: this.#transport.save(),
      capacity: BigInt(this.#block.size / SECTOR_SIZE),
      writeback: this.#writeback,
      inFlight: [...this.#resubmit, ...inFlight],
      notified: [...this.#notified].sort((a, b) => a - b),
    };
  }

  #restore(state: Infer<typeof blkState>): void {
    const capacity = BigInt(this.#block.size / SECTOR_SIZE);
    if (state.capacity !== capacity) {
      throw new SchemaError(
        "capacity",
        `is ${state.capacity} sectors, but the image given has ${capacity}: give the image that the snapshot was made with, or one of its size`,
      );
    }
    const restoreTransport = this.#transport.prepare(state.transport);
    const seen = new Set<string>();
    state.inFlight.forEach(({ queue, head }, i) => {
      const of = state.transport.queues[queue];
      const name = `${queue} ${head}`;
      if (!of?.ring || head >= of.size || seen.has(name)) {
        throw new SchemaError(
          `inFlight[${i}]`,
          `is request ${head} of queue ${queue}: expected an enabled queue, and a descriptor of it that is not in the list yet`,
        );
      }
      seen.add(name);
    });
    this.#checkOutstanding(state);
    state.notified.forEach((queue, i) => {
      const before = i === 0 ? -1 : state.notified[i - 1];
      if (queue <= before || queue >= this.queueCount) {
        throw new SchemaError(
          `notified[${i}]`,
          `is ${queue}: expected a queue below ${this.queueCount}, and above the one before`,
        );
      }
    });
    restoreTransport();
    for (const request of this.#inFlight) request.stale = true;
    this.#writeback = state.writeback;
    this.#resubmit = state.inFlight;
    this.#notified.clear();
    for (const queue of state.notified) this.#notified.add(queue);
  }

  /** Every request that was taken from a ring is given back or in flight; only a driver's mistake loses some. */
  #checkOutstanding({ transport, inFlight }: Infer<typeof blkState>): void {
    if ((transport.status & DEVICE_NEEDS_RESET) !== 0) return;
    transport.queues.forEach(({ ring }, i) => {
      if (ring === null) return;
      const taken = (ring.lastAvail - ring.usedIdx) & 0xffff;
      const listed = inFlight.filter(({ queue }) => queue === i).length;
      if (taken !== listed) {
        throw new SchemaError(
          "inFlight",
          `lists ${listed} requests of queue ${i}: expected ${taken}, for lastAvail is ${ring.lastAvail} and usedIdx is ${ring.usedIdx}`,
        );
      }
    });
  }

  #pumpAll(): void {
    for (let queue = 0; queue < this.queueCount; queue++) {
      if (this.#notified.has(queue)) this.#pump(queue);
    }
  }

  /** Whether another request may be taken. After a reset, one that the host still works on must not meet new ones. */
  get #ready(): boolean {
    if (this.#holding || this.#inFlight.size >= MAX_IN_FLIGHT) return false;
    for (const { stale } of this.#inFlight) if (stale) return false;
    return true;
  }

  /** Takes requests from a queue and submits them. */
  #pump(queue: number): void {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      while (this.#ready) {
        const chain = this.#transport.pop(queue);
        if (chain === null) {
          this.#notified.delete(queue);
          break;
        }
        this.#submit(queue, chain);
      }
    } finally {
      this.#pumping = false;
    }
  }

  /** Starts a request. */
  #submit(queue: number, chain: Chain): void {
    const room = totalLength(chain.writable) - 1;
    if (totalLength(chain.readable) < HEADER_SIZE || room < 0) {
      this.#transport.needsReset(
        `queue ${queue}: request ${chain.head} has no ${
          room < 0 ? "status byte" : `header of ${HEADER_SIZE} bytes`
        }`,
      );
      return;
    }
    const request: Request = {
      queue,
      chain,
      statusAddress: slice(chain.writable, room, 1)[0].address,
      room,
      written: 0,
      stale: false,
    };
    this.#inFlight.add(request);
    this.#advance(request, this.#perform(request), null);
  }

  /** Goes on with a request until it waits for the host or is finished. */
  #advance(
    request: Request,
    steps: Iterator<Work, number>,
    failure: Error | null,
  ): void {
    let status: number;
    try {
      if (failure !== null) throw failure;
      for (;;) {
        const step = request.stale ? null : steps.next();
        if (step === null || step.done) {
          status = step?.value ?? VIRTIO_BLK_S_OK;
          break;
        }
        const work = step.value(this.#block.immediate ?? this.#block);
        if (work !== undefined) {
          this.#wait(request, steps, work);
          return;
        }
      }
    } catch (error) {
      this.#ctx.log.warn((error as Error).message);
      status = VIRTIO_BLK_S_IOERR;
    }
    this.#finish(request, status);
  }

  /** Lets a request wait for the host. Its result is taken between slices, or earlier by a pause. */
  #wait(
    request: Request,
    steps: Iterator<Work, number>,
    work: Promise<void>,
  ): void {
    const waiting = {
      settled: work.then(() => null, (error: Error) => error),
      take: (failure: Error | null) => {
        if (request.waiting !== waiting) return;
        request.waiting = undefined;
        this.#advance(request, steps, failure);
      },
    };
    request.waiting = waiting;
    this.#ctx.async(
      work,
      () => waiting.take(null),
      (error) => waiting.take(error),
    );
  }

  /** Gives a request back to the driver. */
  #finish(request: Request, status: number): void {
    this.#inFlight.delete(request);
    if (!request.stale) {
      const { queue, chain, written, room } = request;
      this.#ctx.memory.writeU8(request.statusAddress, status);
      // The status byte is the last: it counts only if all before it was written, section 2.7.8.2.
      this.#transport.push(
        queue,
        chain.head,
        written === room ? room + 1 : written,
      );
    }
    this.#pumpAll();
  }

  /** Does a request step by step; the value is its status. */
  *#perform(request: Request): Generator<Work, number> {
    const { readable, writable } = request.chain;
    const header = view(
      gather(this.#ctx.memory, slice(readable, 0, HEADER_SIZE)),
    );
    const sector = Number(header.getBigUint64(HEADER_SECTOR, true));
    const incoming = slice(readable, HEADER_SIZE, Infinity);
    const outgoing = slice(writable, 0, request.room);
    switch (header.getUint32(0, true)) {
      case VIRTIO_BLK_T_IN:
        return yield* this.#read(request, sector, outgoing);
      case VIRTIO_BLK_T_OUT:
        return yield* this.#write(sector, incoming);
      case VIRTIO_BLK_T_FLUSH:
        yield (block) => block.flush();
        return VIRTIO_BLK_S_OK;
      case VIRTIO_BLK_T_GET_ID:
        scatter(this.#ctx.memory, outgoing, this.#id);
        request.written = Math.min(request.room, ID_LENGTH);
        return VIRTIO_BLK_S_OK;
      case VIRTIO_BLK_T_DISCARD:
        return yield* this.#ranges(
          VIRTIO_BLK_F_DISCARD,
          0,
          incoming,
          (offset, length) => (block) => block.discard(offset, length),
        );
      case VIRTIO_BLK_T_WRITE_ZEROES:
        return yield* this.#ranges(
          VIRTIO_BLK_F_WRITE_ZEROES,
          RANGE_FLAG_UNMAP,
          incoming,
          (offset, length, flags) => (block) =>
            block.writeZeroes(offset, length, (flags & RANGE_FLAG_UNMAP) !== 0),
        );
      default:
        return VIRTIO_BLK_S_UNSUPP;
    }
  }

  *#read(
    request: Request,
    sector: number,
    data: Segment[],
  ): Generator<Work, number> {
    const length = totalLength(data);
    if (!this.#inside(sector, length)) return VIRTIO_BLK_S_IOERR;
    for (let done = 0; done < length; done += CHUNK) {
      const bytes = new Uint8Array(Math.min(CHUNK, length - done));
      yield (block) => block.read(sector * SECTOR_SIZE + done, bytes);
      scatter(this.#ctx.memory, slice(data, done, bytes.length), bytes);
      request.written = done + bytes.length;
    }
    return VIRTIO_BLK_S_OK;
  }

  *#write(sector: number, data: Segment[]): Generator<Work, number> {
    const length = totalLength(data);
    if (this.#block.readOnly || !this.#inside(sector, length)) {
      return VIRTIO_BLK_S_IOERR;
    }
    for (let done = 0; done < length; done += CHUNK) {
      const bytes = gather(this.#ctx.memory, slice(data, done, CHUNK));
      yield (block) => block.write(sector * SECTOR_SIZE + done, bytes);
    }
    return yield* this.#written();
  }

  /** Discard and write-zeroes: a list of ranges, each with flags. All are checked before any is done. */
  *#ranges(
    feature: bigint,
    permitted: number,
    data: Segment[],
    work: (offset: number, length: number, flags: number) => Work,
  ): Generator<Work, number> {
    if (!this.#negotiated(feature)) return VIRTIO_BLK_S_UNSUPP;
    const size = totalLength(data);
    if (
      size === 0 || size % RANGE_SIZE !== 0 || size > MAX_RANGES * RANGE_SIZE
    ) return VIRTIO_BLK_S_IOERR;
    const list = view(gather(this.#ctx.memory, data));
    const steps: Work[] = [];
    for (let at = 0; at < size; at += RANGE_SIZE) {
      const sector = Number(list.getBigUint64(at, true));
      const sectors = list.getUint32(at + RANGE_NUM_SECTORS, true);
      const flags = list.getUint32(at + RANGE_FLAGS, true);
      if ((flags & ~permitted) !== 0) return VIRTIO_BLK_S_UNSUPP;
      const length = sectors * SECTOR_SIZE;
      if (sectors > MAX_RANGE_SECTORS || !this.#inside(sector, length)) {
        return VIRTIO_BLK_S_IOERR;
      }
      steps.push(work(sector * SECTOR_SIZE, length, flags));
    }
    yield* steps;
    return yield* this.#written();
  }

  /** The end of a request that changed the disk: durable before it is given back, if the cache is write-through. */
  *#written(): Generator<Work, number> {
    if (!this.#writeback) yield (block) => block.flush();
    return VIRTIO_BLK_S_OK;
  }

  /** Whether some bytes from a sector on are whole sectors of the disk. */
  #inside(sector: number, length: number): boolean {
    return length % SECTOR_SIZE === 0 && length <= SEG_MAX * SIZE_MAX &&
      sector * SECTOR_SIZE + length <= this.#block.size;
  }
}

/** A view of all of some bytes. */
function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The virtio disk. */
export default definePlugin({
  name: "virtio-blk",
  version: "1.0.0",
  summary: "virtio disk on PCI, modern and transitional",
  options,
  state: blkState,
  backend: "block",
  create: (ctx, { serial = ctx.id.slice(0, ID_LENGTH), queues, legacy }) =>
    new VirtioBlk(ctx, serial, queues, legacy),
});
