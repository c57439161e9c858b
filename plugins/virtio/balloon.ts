/**
 * virtio-balloon, memory that the guest gives back: virtio 1.2, section 5.5. What it gives back or
 * reports as free is zeroed, so that it costs nothing in a snapshot.
 *
 * @module
 */
import {
  type AccessSize,
  definePlugin,
  type Device,
  type DeviceCommand,
  type DeviceContext,
  MachineError,
  type Timer,
} from "../../core/plugin.ts";
import {
  type Infer,
  list,
  optional,
  record,
  schema,
  SchemaError,
  timer,
  u16,
  u32,
  u64,
} from "../../snapshot/schema.ts";
import {
  type Chain,
  gather,
  type Segment,
  slice,
  totalLength,
} from "./ring.ts";
import { virtioState } from "./state.ts";
import { type VirtioModel, VirtioPci } from "./transport.ts";

/** Section 5. */
const DEVICE_ID = 5;
/** Section 4.1.2.1. */
const TRANSITIONAL_PCI_ID = 0x1002;
/** A device that fits into no class, PCI Code and ID Assignment, section 1.1. */
const CLASS_OTHER = 0xff0000;

// Feature bits, section 5.5.3.
const VIRTIO_BALLOON_F_STATS_VQ = 1n << 1n;
const VIRTIO_BALLOON_F_DEFLATE_ON_OOM = 1n << 2n;
const VIRTIO_BALLOON_F_PAGE_REPORTING = 1n << 5n;

// struct virtio_balloon_config, section 5.5.4.
const CONFIG_NUM_PAGES = 0;
const CONFIG_ACTUAL = 4;
const CONFIG_LENGTH = 8;

/** Section 5.5.6: pages of the balloon are always of this size. */
const PAGE = 4096;
const PFN_BYTES = 4;
const QUEUE_COUNT = 4;
const QUEUE_SIZE = 128;
/** Bytes of page numbers in one request at most; drivers have them in one page. */
const MAX_PFN_BYTES = 4 * PAGE;
/** Bytes zeroed before the guest goes on. */
const BATCH = 64 << 20;
const ZEROES = new Uint8Array(64 * PAGE);

/** struct virtio_balloon_stat, section 5.5.6.3: a tag of 16 bits and a value of 64. */
const STAT_BYTES = 10;
const MAX_STATS = 64;
/** Names of the tags, section 5.5.6.4, as QEMU's clients know them. */
const STAT_NAMES = [
  "stat-swap-in",
  "stat-swap-out",
  "stat-major-faults",
  "stat-minor-faults",
  "stat-free-memory",
  "stat-total-memory",
  "stat-available-memory",
  "stat-disk-caches",
  "stat-htlb-pgalloc",
  "stat-htlb-pgfail",
];
const NS_PER_SECOND = 1e9;

const balloonState = schema("virtio-balloon", 1, {
  transport: virtioState,
  /** Pages that the guest is to give back. */
  target: u32(),
  /** Pages that it says it has given back. */
  actual: u32(),
  /** The request of the statistics queue that the device has, until it wants new ones. */
  statistics: optional(u16()),
  /** The guest's last statistics. */
  known: list(record({ tag: u16(), value: u64() }), { max: MAX_STATS }),
  /** When they are asked for again. */
  poll: timer(),
});
type BalloonState = Infer<typeof balloonState>;

const options = {
  stats: {
    type: "number",
    help: "seconds between two looks at the guest's statistics; 0 for none",
    default: 0,
    min: 0,
    max: 86_400,
  },
  reporting: {
    type: "boolean",
    help: "whether the guest reports free memory without being asked for it",
    default: true,
  },
  legacy: {
    type: "boolean",
    help:
      "also offer the interface of before virtio 1.0 (a transitional device)",
    default: true,
  },
} as const;

/** What a queue is for. */
type QueueKind = "inflate" | "deflate" | "statistics" | "reporting";

class VirtioBalloon implements Device, VirtioModel {
  readonly deviceId = DEVICE_ID;
  readonly transitionalId?: number;
  readonly classCode = CLASS_OTHER;
  readonly features: bigint;
  readonly queueCount = QUEUE_COUNT;
  readonly queueSize = QUEUE_SIZE;
  readonly configLength = CONFIG_LENGTH;
  readonly commands: Readonly<Record<string, DeviceCommand>> = {
    balloon: ({ value }) => this.#setTarget(value),
    "query-balloon": () => ({ actual: this.#ram - this.#actual * PAGE }),
    "query-statistics": () => this.#askStatistics(),
  };

  readonly #ctx: DeviceContext<BalloonState>;
  readonly #transport: VirtioPci;
  /** Bytes of the guest's memory without a balloon. */
  readonly #ram: number;
  readonly #interval: number;
  readonly #poll: Timer;
  #target = 0;
  #actual = 0;
  #statistics: number | null = null;
  #known: BalloonState["known"] = [];
  #holding = true;
  /** Bytes that were zeroed since the guest last had a turn. */
  #zeroed = 0;

  constructor(
    ctx: DeviceContext<BalloonState>,
    options: { stats: number; reporting: boolean; legacy: boolean },
  ) {
    this.#ctx = ctx;
    const { low, high } = ctx.machine.memory;
    this.#ram = low + high;
    this.#interval = options.stats * NS_PER_SECOND;
    if (options.legacy) this.transitionalId = TRANSITIONAL_PCI_ID;
    this.features = VIRTIO_BALLOON_F_STATS_VQ |
      VIRTIO_BALLOON_F_DEFLATE_ON_OOM |
      (options.reporting ? VIRTIO_BALLOON_F_PAGE_REPORTING : 0n);
    this.#transport = new VirtioPci(ctx, this);
    this.#poll = ctx.clock.timer(() => {
      this.#askStatistics();
      this.#pollLater();
    });
    ctx.snapshot.register({
      save: () => ({
        transport: this.#transport.save(),
        target: this.#target,
        actual: this.#actual,
        statistics: this.#statistics,
        known: [...this.#known],
        poll: this.#poll.save(),
      }),
      restore: (state) => this.#restore(state),
    });
  }

  /** The target stays: it is the user's, and the next guest's driver follows it. */
  reset(): void {
    this.#transport.reset();
    this.#actual = 0;
    this.#statistics = null;
    this.#known = [];
    this.#poll.cancel();
  }

  start(): void {
    this.resume();
  }

  pause(): void {
    this.#holding = true;
  }

  resume(): void {
    this.#holding = false;
    this.#goOn();
  }

  #goOn(): void {
    this.#zeroed = 0;
    for (let queue = 0; queue < QUEUE_COUNT; queue++) this.#serve(queue);
  }

  readConfig(): Uint8Array {
    const view = new DataView(new ArrayBuffer(CONFIG_LENGTH));
    view.setUint32(CONFIG_NUM_PAGES, this.#target, true);
    view.setUint32(CONFIG_ACTUAL, this.#actual, true);
    return new Uint8Array(view.buffer);
  }

  /** The driver says how much it has given back; a legacy driver does so byte by byte. */
  writeConfig(offset: number, size: AccessSize, value: number): void {
    const config = this.readConfig();
    for (let i = 0; i < size; i++) config[offset + i] = value >>> 8 * i;
    this.#actual = new DataView(config.buffer).getUint32(CONFIG_ACTUAL, true);
  }

  negotiated(): void {}

  notify(queue: number): void {
    this.#serve(queue);
  }

  queueReset(queue: number): void {
    if (this.#queues[queue] === "statistics") this.#statistics = null;
  }

  /** What the queues are for: those of features that were not agreed on are not counted. */
  get #queues(): QueueKind[] {
    const { features } = this.#transport;
    const kinds: QueueKind[] = ["inflate", "deflate"];
    if ((features & VIRTIO_BALLOON_F_STATS_VQ) !== 0n) kinds.push("statistics");
    if ((features & VIRTIO_BALLOON_F_PAGE_REPORTING) !== 0n) {
      kinds.push("reporting");
    }
    return kinds;
  }

  /**
   * Does what is in a queue: no more at a time than it holds, should its ring be overwritten by zeroes.
   */
  #serve(queue: number): void {
    const kind = this.#queues[queue];
    if (kind === undefined) return;
    for (let n = 0; n < QUEUE_SIZE && !this.#holding; n++) {
      if (this.#zeroed >= BATCH) return;
      const chain = this.#transport.pop(queue);
      if (chain === null) return;
      if (kind === "statistics") this.#takeStatistics(queue, chain);
      else {
        if (kind === "inflate") this.#inflate(queue, chain);
        if (kind === "reporting") this.#report(chain);
        this.#transport.push(queue, chain.head, 0);
      }
    }
  }

  /** The guest gives pages back, section 5.5.6.1. */
  #inflate(queue: number, { head, readable }: Chain): void {
    const length = totalLength(readable);
    if (length > MAX_PFN_BYTES || length % PFN_BYTES !== 0) {
      this.#transport.needsReset(
        `queue ${queue}: request ${head} has ${length} bytes of page numbers: expected a multiple of ${PFN_BYTES} up to ${MAX_PFN_BYTES}`,
      );
      return;
    }
    const numbers = new DataView(gather(this.#ctx.memory, readable).buffer);
    for (let at = 0; at < length; at += PFN_BYTES) {
      this.#zero({
        address: numbers.getUint32(at, true) * PAGE,
        length: PAGE,
      });
    }
  }

  /** The guest says that pages are free, section 5.5.6.7: a hint, of which the excess is left. */
  #report({ writable }: Chain): void {
    for (const segment of slice(writable, 0, BATCH)) this.#zero(segment);
  }

  /** Makes a part of memory zeroes; what is not memory is not the guest's to give. */
  #zero({ address, length }: Segment): void {
    const { memory } = this.#ctx;
    if (!memory.contains(address, length)) return;
    for (let done = 0; done < length; done += ZEROES.length) {
      memory.write(
        address + done,
        ZEROES.subarray(0, Math.min(ZEROES.length, length - done)),
      );
    }
    if (this.#zeroed < BATCH && this.#zeroed + length >= BATCH) {
      this.#ctx.async(Promise.resolve(), () => this.#goOn(), () => {});
    }
    this.#zeroed += length;
  }

  /** Statistics have come; the request stays until others are wanted, section 5.5.6.3. */
  #takeStatistics(queue: number, { head, readable }: Chain): void {
    if (this.#statistics !== null) {
      this.#transport.push(queue, this.#statistics, 0);
    }
    this.#statistics = head;
    const bytes = gather(
      this.#ctx.memory,
      slice(readable, 0, MAX_STATS * STAT_BYTES),
    );
    const view = new DataView(bytes.buffer);
    const known: BalloonState["known"] = [];
    for (let at = 0; at + STAT_BYTES <= bytes.length; at += STAT_BYTES) {
      known.push({
        tag: view.getUint16(at, true),
        value: view.getBigUint64(at + 2, true),
      });
    }
    this.#known = known;
    if (this.#poll.deadline === undefined) this.#pollLater();
  }

  #pollLater(): void {
    if (this.#interval === 0) return;
    this.#poll.armAt(this.#ctx.clock.now() + this.#interval);
  }

  /** Asks the guest for new statistics, and returns those that it gave last. */
  #askStatistics(): Record<string, number> {
    const queue = this.#queues.indexOf("statistics");
    if (this.#statistics !== null && queue >= 0) {
      const head = this.#statistics;
      this.#statistics = null;
      this.#transport.push(queue, head, 0);
    }
    return Object.fromEntries(
      this.#known.flatMap(({ tag, value }) =>
        STAT_NAMES[tag] === undefined ? [] : [[STAT_NAMES[tag], Number(value)]]
      ),
    );
  }

  #setTarget(value: unknown): void {
    if (
      typeof value !== "number" || !(value > 0) || !Number.isSafeInteger(value)
    ) {
      throw new MachineError(
        `"value" is ${value}: expected the bytes of memory that the guest is to have, up to ${this.#ram}`,
      );
    }
    const target = Math.floor(Math.max(0, this.#ram - value) / PAGE);
    if (target === this.#target) return;
    this.#target = target;
    this.#transport.configChanged();
  }

  #restore(state: BalloonState): void {
    const { transport, target, actual, statistics, known, poll } = state;
    const refuse = (field: string, value: unknown, expected: string): never => {
      throw new SchemaError(field, `is ${value}: expected ${expected}`);
    };
    const pages = this.#ram / PAGE;
    if (target > pages) {
      refuse("target", target, `at most ${pages}, all of memory`);
    }
    if (statistics !== null) {
      const queue = transport.queues[2];
      if (queue === undefined || queue.ring === null) {
        refuse("statistics", statistics, "none, for there is no such queue");
      }
      if (statistics >= queue.size) {
        refuse("statistics", statistics, `less than ${queue.size}`);
      }
    }
    if (poll !== null && poll.remaining > this.#interval) {
      refuse(
        "poll.remaining",
        poll.remaining,
        `at most ${this.#interval}, as the option stats says`,
      );
    }
    this.#transport.prepare(transport)();
    this.#target = target;
    this.#actual = actual;
    this.#statistics = statistics;
    this.#known = known;
    this.#poll.restore(poll);
  }
}

/** The plugin. */
export default definePlugin({
  name: "virtio-balloon",
  version: "1.0.0",
  summary: "virtio memory balloon",
  options,
  state: balloonState,
  create: (ctx, options) => new VirtioBalloon(ctx, options),
});
