/**
 * A DMA engine on the PCI bus: it copies and fills memory and computes checksums, as descriptors
 * in rings say, and tells by interrupt when it is done.
 *
 * ```
 * deno run -A mod.ts --dev ./examples/dma_engine.ts:queues=4,uart
 * ```
 *
 * # Datasheet
 *
 * PCI: vendor 1234, device D3A0, class 088000. BAR 0 has the registers (4 KiB, memory), BAR 1 the
 * MSI-X table and, from 0x800 on, its pending bits (4 KiB, memory). Queue n interrupts by MSI-X
 * vector n, the timer by the vector after the last queue's. Without MSI-X, INTA# is high while a
 * bit is set in both ISR and IMR.
 *
 * Registers are 32 bits wide and must be accessed so: other reads give 0, other writes are lost.
 *
 * | offset | name    | access | meaning                                                             |
 * | ------ | ------- | ------ | ------------------------------------------------------------------- |
 * | 0x00   | ID      | r      | 0x444D41 ("DMA") in bits 31:8, the number of queues in bits 7:0     |
 * | 0x04   | CONTROL | w      | bit 0 resets the engine                                             |
 * | 0x08   | ISR     | r/w1c  | bit n: queue n has news; bit 31: the timer has ticked               |
 * | 0x0C   | IMR     | r/w    | which bits of ISR interrupt                                         |
 * | 0x10   | PERIOD  | r/w    | microseconds from tick to tick; 0 stops the timer                   |
 * | 0x14   | TICKS   | r      | ticks since reset, modulo 2^32                                      |
 *
 * An MSI-X message is sent when a bit of ISR is raised while its bit in IMR is set, and when a bit
 * is set in IMR while its bit in ISR is set. Queue n has these, from 0x100 + 0x40 × n on:
 *
 * | offset | name     | access | meaning                                                            |
 * | ------ | -------- | ------ | ------------------------------------------------------------------ |
 * | 0x00   | RING_LOW | r/w    | address of the ring, a multiple of 32                              |
 * | 0x04   | RING_HIGH| r/w    | its upper half                                                     |
 * | 0x08   | SIZE     | r/w    | descriptors in the ring: a power of two from 2 to 256              |
 * | 0x0C   | ENABLE   | r/w    | bit 0: the queue is on; turning it off drops its work, HEAD, TAIL and FAULT |
 * | 0x10   | TAIL     | r/w    | the doorbell: index after the last descriptor that is ready        |
 * | 0x14   | HEAD     | r      | index of the descriptor that is worked on, or will be next         |
 * | 0x18   | FAULT    | r      | why the queue has stopped; 0 while it has not                      |
 *
 * RING_LOW, RING_HIGH and SIZE cannot be changed while the queue is on. FAULT: 1 the ring is not
 * aligned, not in memory, or its SIZE is not possible; 2 TAIL is not below SIZE; 3 bus mastering
 * is off. A queue with a fault does nothing until it is turned off and on.
 *
 * A descriptor has 32 bytes:
 *
 * | offset | bytes | what                                                                          |
 * | ------ | ----- | ----------------------------------------------------------------------------- |
 * | 0      | 4     | bits 7:0 operation: 0 none, 1 copy, 2 fill, 3 CRC-32; bit 31: interrupt when done |
 * | 4      | 4     | length in bytes, at most 1 MiB                                                |
 * | 8      | 8     | source address; fill: the byte                                                |
 * | 16     | 8     | target address; not used by CRC-32                                            |
 * | 24     | 4     | written by the engine: 1 done, else an error: 0x80000001 no such operation, 0x80000002 too long, 0x80000003 source not in memory, 0x80000004 target not in memory |
 * | 28     | 4     | written by the engine: the CRC-32 (IEEE 802.3), else 0                        |
 *
 * Descriptors are done in order, each queue by itself. A descriptor is read when the engine comes
 * to it, its memory when it is done, after 1 µs and the time that its length takes at the option
 * `rate`. An error interrupts always, and the engine goes on with the next descriptor.
 *
 * @module
 */
import {
  type AccessSize,
  definePlugin,
  type DeviceContext,
  gpa,
  type Infer,
  list,
  MachineError,
  optional,
  type PciFunction,
  record,
  schema,
  type Timer,
  timer,
  u32,
  u64,
} from "@diapause/diapause";

const VENDOR = 0x1234;
const DEVICE = 0xd3a0;
const CLASS_SYSTEM_PERIPHERAL = 0x088000;
const BAR_SIZE = 0x1000;
const MSIX_BAR = 1;
const PBA_OFFSET = 0x800;
const MAX_QUEUES = 8;

const ID = 0x00, CONTROL = 0x04, ISR = 0x08, IMR = 0x0c;
const PERIOD = 0x10, TICKS = 0x14;
const ID_MAGIC = 0x444d41;
const CONTROL_RESET = 1;
const ISR_TIMER = 0x8000_0000;

const QUEUES_OFFSET = 0x100;
const QUEUE_STRIDE = 0x40;
const RING_LOW = 0x00, RING_HIGH = 0x04, SIZE = 0x08, ENABLE = 0x0c;
const TAIL = 0x10, HEAD = 0x14, FAULT = 0x18;
const SIZE_MIN = 2;
const SIZE_MAX = 256;
const FAULT_NONE = 0, FAULT_RING = 1, FAULT_TAIL = 2, FAULT_BUS_MASTER = 3;

const DESCRIPTOR_BYTES = 32;
const AT_LENGTH = 4, AT_SOURCE = 8, AT_TARGET = 16, AT_STATUS = 24;
const AT_RESULT = 28;
const OPERATION_MASK = 0xff;
const OP_NONE = 0, OP_COPY = 1, OP_FILL = 2, OP_CRC32 = 3;
const FLAG_INTERRUPT = 0x8000_0000;
const MAX_LENGTH = 1 << 20;
const DONE = 1;
const ERROR_OPERATION = 0x8000_0001;
const ERROR_LENGTH = 0x8000_0002;
const ERROR_SOURCE = 0x8000_0003;
const ERROR_TARGET = 0x8000_0004;

const LATENCY_NS = 1000;
const NS_PER_US = 1000;
const NS_PER_SECOND = 1e9;
const TWO_32 = 0x1_0000_0000;

const descriptor = record({
  command: u32(),
  length: u32(),
  source: u64(),
  target: u64(),
});
type Descriptor = Infer<typeof descriptor>;

const state = schema("dma-engine", 1, {
  isr: u32(),
  imr: u32(),
  period: u32(),
  ticks: u32(),
  tick: timer(),
  queues: list(
    record({
      ringLow: u32(),
      ringHigh: u32(),
      size: u32(),
      /** Where the ring is while the queue is on; null while it is off or has a wrong ring. */
      ring: gpa(),
      enabled: u32({ max: 1 }),
      head: u32({ max: SIZE_MAX - 1 }),
      tail: u32({ max: SIZE_MAX - 1 }),
      fault: u32({ max: FAULT_BUS_MASTER }),
      /** The descriptor that is worked on, as it was read, and the time until it is done. */
      current: optional(descriptor),
      done: timer(),
    }),
    { max: MAX_QUEUES },
  ),
});
type State = Infer<typeof state>;
type QueueState = State["queues"][number];
type Context = DeviceContext<State>;

/** What a queue needs of the engine. */
interface QueueHost {
  readonly ctx: Context;
  readonly rate: number;
  isBusMaster(): boolean;
  interrupt(): void;
}

/** CRC-32 of IEEE 802.3: reflected, polynomial 0xEDB88320. */
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let crc = n;
  for (let bit = 0; bit < 8; bit++) {
    crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return crc;
});

function crc32(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

class Queue {
  readonly #host: QueueHost;
  readonly #done: Timer;
  #ringLow = 0;
  #ringHigh = 0;
  #size = 0;
  #ring: number | null = null;
  #enabled = 0;
  #head = 0;
  #tail = 0;
  #fault = FAULT_NONE;
  #current: Descriptor | null = null;

  constructor(host: QueueHost) {
    this.#host = host;
    this.#done = host.ctx.clock.timer(() => this.#finish());
  }

  reset(): void {
    this.#ringLow = this.#ringHigh = this.#size = 0;
    this.#turnOff();
  }

  read(register: number): number {
    switch (register) {
      case RING_LOW:
        return this.#ringLow;
      case RING_HIGH:
        return this.#ringHigh;
      case SIZE:
        return this.#size;
      case ENABLE:
        return this.#enabled;
      case TAIL:
        return this.#tail;
      case HEAD:
        return this.#head;
      case FAULT:
        return this.#fault;
      default:
        return 0;
    }
  }

  write(register: number, value: number): void {
    if (register === ENABLE) {
      if ((value & 1) === 0) this.#turnOff();
      else if (this.#enabled === 0) this.#turnOn();
    } else if (register === TAIL) {
      this.#ringDoorbell(value);
    } else if (this.#enabled === 0) {
      if (register === RING_LOW) this.#ringLow = value;
      else if (register === RING_HIGH) this.#ringHigh = value;
      else if (register === SIZE) this.#size = value;
    }
  }

  #turnOff(): void {
    this.#done.cancel();
    this.#ring = this.#current = null;
    this.#enabled = this.#head = this.#tail = 0;
    this.#fault = FAULT_NONE;
  }

  #turnOn(): void {
    this.#enabled = 1;
    const address = this.#ringHigh * TWO_32 + this.#ringLow;
    if (this.#isRing(address, this.#size)) this.#ring = address;
    else this.#stop(FAULT_RING);
  }

  #isRing(address: number, size: number): boolean {
    return size >= SIZE_MIN && size <= SIZE_MAX && (size & (size - 1)) === 0 &&
      address % DESCRIPTOR_BYTES === 0 &&
      this.#host.ctx.memory.contains(address, size * DESCRIPTOR_BYTES);
  }

  #stop(fault: number): void {
    this.#fault = fault;
    this.#host.interrupt();
  }

  #ringDoorbell(tail: number): void {
    if (this.#enabled === 0 || this.#fault !== FAULT_NONE) return;
    if (tail >= this.#size) return this.#stop(FAULT_TAIL);
    this.#tail = tail;
    this.#begin();
  }

  /** Reads the next descriptor, if there is one and no other is worked on. */
  #begin(): void {
    if (this.#ring === null || this.#current !== null) return;
    if (this.#fault !== FAULT_NONE || this.#head === this.#tail) return;
    if (!this.#host.isBusMaster()) return this.#stop(FAULT_BUS_MASTER);
    const { memory, clock } = this.#host.ctx;
    const at = this.#ring + this.#head * DESCRIPTOR_BYTES;
    this.#current = {
      command: memory.readU32(at),
      length: memory.readU32(at + AT_LENGTH),
      source: memory.readU64(at + AT_SOURCE),
      target: memory.readU64(at + AT_TARGET),
    };
    const moved = Math.min(this.#current.length, MAX_LENGTH);
    const duration = LATENCY_NS + moved * NS_PER_SECOND / this.#host.rate;
    this.#done.armAt(clock.now() + duration);
  }

  #finish(): void {
    const { memory } = this.#host.ctx;
    const { command } = this.#current!;
    const { status, result } = this.#perform(this.#current!);
    const at = this.#ring! + this.#head * DESCRIPTOR_BYTES;
    memory.writeU32(at + AT_RESULT, result);
    memory.writeU32(at + AT_STATUS, status);
    this.#current = null;
    this.#head = (this.#head + 1) % this.#size;
    if (status !== DONE || command >= FLAG_INTERRUPT) this.#host.interrupt();
    this.#begin();
  }

  #perform(work: Descriptor): { status: number; result: number } {
    const { memory } = this.#host.ctx;
    const { length } = work;
    const operation = work.command & OPERATION_MASK;
    const answer = (status: number, result = 0) => ({ status, result });
    if (operation === OP_NONE) return answer(DONE);
    if (operation > OP_CRC32) return answer(ERROR_OPERATION);
    if (length > MAX_LENGTH) return answer(ERROR_LENGTH);
    // Beyond 2^53 a number is not exact, but also nowhere near memory.
    const source = Number(work.source);
    const target = Number(work.target);
    if (operation !== OP_FILL && !memory.contains(source, length)) {
      return answer(ERROR_SOURCE);
    }
    if (operation !== OP_CRC32 && !memory.contains(target, length)) {
      return answer(ERROR_TARGET);
    }
    switch (operation) {
      case OP_COPY:
        // A copy of the source: the two may overlap.
        memory.write(target, memory.view(source, length).slice());
        return answer(DONE);
      case OP_FILL:
        memory.write(
          target,
          new Uint8Array(length).fill(Number(work.source & 0xffn)),
        );
        return answer(DONE);
      default:
        return answer(DONE, crc32(memory.view(source, length)));
    }
  }

  save(): QueueState {
    return {
      ringLow: this.#ringLow,
      ringHigh: this.#ringHigh,
      size: this.#size,
      ring: this.#ring === null ? null : {
        address: BigInt(this.#ring),
        length: this.#size * DESCRIPTOR_BYTES,
      },
      enabled: this.#enabled,
      head: this.#head,
      tail: this.#tail,
      fault: this.#fault,
      current: this.#current,
      done: this.#done.save(),
    };
  }

  /** Refuses what no guest could have brought about: a snapshot is not to be trusted. */
  check(saved: QueueState, path: string): void {
    const { ring, size, enabled, fault, current, done } = saved;
    const require = (ok: boolean, field: string, expected: string) => {
      if (ok) return;
      throw new MachineError(
        `state field ${path}.${field}: expected ${expected}`,
      );
    };
    const hasRing = enabled === 1 && fault !== FAULT_RING;
    require(
      (ring !== null) === hasRing,
      "ring",
      hasRing ? "the ring of a queue that is on" : "none",
    );
    if (ring !== null) {
      const address = saved.ringHigh * TWO_32 + saved.ringLow;
      require(
        Number(ring.address) === address && this.#isRing(address, size) &&
          ring.length === size * DESCRIPTOR_BYTES,
        "ring",
        "the ring that the registers name",
      );
    }
    const limit = ring === null ? 1 : size;
    require(saved.head < limit, "head", `an index below ${limit}`);
    require(saved.tail < limit, "tail", `an index below ${limit}`);
    require(enabled === 1 || fault === FAULT_NONE, "fault", "0 when it is off");
    require(
      (current === null) === (done === null),
      "done",
      "armed with current",
    );
    require(
      current === null || ring !== null && saved.head !== saved.tail,
      "current",
      "null when there is nothing to do",
    );
    require(
      current !== null || saved.head === saved.tail || fault !== FAULT_NONE,
      "current",
      "the descriptor at head",
    );
  }

  restore(saved: QueueState): void {
    this.#ringLow = saved.ringLow;
    this.#ringHigh = saved.ringHigh;
    this.#size = saved.size;
    this.#ring = saved.ring === null ? null : Number(saved.ring.address);
    this.#enabled = saved.enabled;
    this.#head = saved.head;
    this.#tail = saved.tail;
    this.#fault = saved.fault;
    this.#current = saved.current;
    this.#done.restore(saved.done);
  }
}

class DmaEngine {
  readonly #ctx: Context;
  readonly #fn: PciFunction;
  readonly #queues: Queue[];
  readonly #tick: Timer;
  #isr = 0;
  #imr = 0;
  #period = 0;
  #ticks = 0;
  #due = 0;

  constructor(
    ctx: Context,
    { queues, rate }: { queues: number; rate: number },
  ) {
    this.#ctx = ctx;
    this.#fn = ctx.pci.attach({
      vendor: VENDOR,
      device: DEVICE,
      classCode: CLASS_SYSTEM_PERIPHERAL,
      revision: 1,
      interruptPin: 1,
      bars: [
        {
          index: 0,
          kind: "memory",
          size: BAR_SIZE,
          handler: {
            read: (offset, size) => this.#read(offset, size),
            write: (offset, size, value) => this.#write(offset, size, value),
          },
        },
        { index: MSIX_BAR, kind: "memory", size: BAR_SIZE },
      ],
      msix: {
        vectors: queues + 1,
        bar: MSIX_BAR,
        tableOffset: 0,
        pbaOffset: PBA_OFFSET,
      },
    });
    this.#queues = Array.from({ length: queues }, (_, n) =>
      new Queue({
        ctx,
        rate,
        isBusMaster: () => this.#fn.busMaster,
        interrupt: () => this.#raise(2 ** n),
      }));
    this.#tick = ctx.clock.timer(() => this.#ticked());
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (saved) => this.#restore(saved),
    });
  }

  reset(): void {
    this.#tick.cancel();
    this.#isr =
      this.#imr =
      this.#period =
      this.#ticks =
        0;
    for (const queue of this.#queues) queue.reset();
    this.#fn.setIntx(false);
  }

  #read(offset: number, size: AccessSize): number {
    if (size !== 4) return 0;
    switch (offset) {
      case ID:
        return ID_MAGIC * 2 ** 8 + this.#queues.length;
      case ISR:
        return this.#isr;
      case IMR:
        return this.#imr;
      case PERIOD:
        return this.#period;
      case TICKS:
        return this.#ticks;
      default:
        return this.#queueAt(offset)?.read(offset % QUEUE_STRIDE) ?? 0;
    }
  }

  #write(offset: number, size: AccessSize, value: number): void {
    if (size !== 4) return;
    switch (offset) {
      case CONTROL:
        if (value & CONTROL_RESET) this.reset();
        break;
      case ISR:
        this.#isr = (this.#isr & ~value) >>> 0;
        this.#updateIntx();
        break;
      case IMR: {
        const added = value & this.#bits & ~this.#imr & this.#isr;
        this.#imr = (value & this.#bits) >>> 0;
        this.#updateIntx();
        this.#sendMessages(added >>> 0);
        break;
      }
      case PERIOD:
        this.#period = value;
        this.#due = this.#ctx.clock.now() + value * NS_PER_US;
        if (value === 0) this.#tick.cancel();
        else this.#tick.armAt(this.#due);
        break;
      default:
        this.#queueAt(offset)?.write(offset % QUEUE_STRIDE, value);
    }
  }

  #queueAt(offset: number): Queue | undefined {
    return this.#queues[Math.floor((offset - QUEUES_OFFSET) / QUEUE_STRIDE)];
  }

  /** The bits that ISR and IMR have. */
  get #bits(): number {
    return ISR_TIMER + 2 ** this.#queues.length - 1;
  }

  #raise(bit: number): void {
    this.#isr = (this.#isr | bit) >>> 0;
    this.#updateIntx();
    this.#sendMessages((bit & this.#imr) >>> 0);
  }

  #updateIntx(): void {
    // The bus keeps the pin low while the guest has MSI-X on.
    this.#fn.setIntx((this.#isr & this.#imr) !== 0);
  }

  #sendMessages(bits: number): void {
    if (!this.#fn.msixEnabled) return;
    this.#queues.forEach((_, n) => {
      if (bits & 2 ** n) this.#fn.signal(n);
    });
    if (bits >= ISR_TIMER) this.#fn.signal(this.#queues.length);
  }

  /** Counts every tick that is due: the host may have been late. */
  #ticked(): void {
    const period = this.#period * NS_PER_US;
    const late = this.#ctx.clock.now() - this.#due;
    const passed = 1 + Math.floor(late / period);
    this.#ticks = (this.#ticks + passed) % TWO_32;
    this.#due += passed * period;
    this.#tick.armAt(this.#due);
    this.#raise(ISR_TIMER);
  }

  #save(): State {
    return {
      isr: this.#isr,
      imr: this.#imr,
      period: this.#period,
      ticks: this.#ticks,
      tick: this.#tick.save(),
      queues: this.#queues.map((queue) => queue.save()),
    };
  }

  #restore(saved: State): void {
    const require = (ok: boolean, field: string, expected: string) => {
      if (ok) return;
      throw new MachineError(`state field ${field}: expected ${expected}`);
    };
    require(
      saved.queues.length === this.#queues.length,
      "queues",
      `the ${this.#queues.length} that the option queues says`,
    );
    const known = (bits: number) => (bits & ~this.#bits) === 0;
    require(known(saved.isr), "isr", "only bits that exist");
    require(known(saved.imr), "imr", "only bits that exist");
    require(
      saved.tick === null
        ? saved.period === 0
        : saved.tick.remaining <= saved.period * NS_PER_US,
      "tick",
      "armed as period says",
    );
    this.#queues.forEach((queue, n) =>
      queue.check(saved.queues[n], `queues[${n}]`)
    );
    this.#isr = saved.isr;
    this.#imr = saved.imr;
    this.#period = saved.period;
    this.#ticks = saved.ticks;
    this.#tick.restore(saved.tick);
    this.#due = this.#tick.deadline ?? 0;
    this.#queues.forEach((queue, n) => queue.restore(saved.queues[n]));
  }
}

export default definePlugin({
  name: "dma-engine",
  version: "1.0.0",
  summary: "copies, fills and checksums memory",
  options: {
    queues: {
      type: "number",
      help: "number of queues",
      default: 2,
      min: 1,
      max: MAX_QUEUES,
    },
    rate: {
      type: "size",
      help: "bytes in a second of virtual time",
      default: 1 << 30,
      min: 1,
    },
  },
  state,
  create: (ctx, options) => new DmaEngine(ctx, options),
});
