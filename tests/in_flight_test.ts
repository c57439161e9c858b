/**
 * A machine that is saved while its disks and cards work, a hundred times for each: backends answer
 * late, out of order and with errors, and each restored machine goes on where the last one was.
 * What the backend has done, once for each request and no more, is in its journal.
 */
import { assert, assertEquals } from "@std/assert";
import type {
  Backends,
  BlockBackend,
  NetBackend,
  Plugin,
} from "../core/plugin.ts";
import { TestContext } from "../core/testing/context.ts";
import { ATA } from "../plugins/ahci/ata.ts";
import { PxIS, PxSACT, PxTFD } from "../plugins/ahci/registers.ts";
import { AhciDriver } from "../plugins/ahci/testing.ts";
import {
  CTRL_SLU,
  RCTL_BAM,
  RCTL_EN,
  REGISTERS,
  TCTL_EN,
} from "../plugins/e1000/registers.ts";
import { BUILT_IN } from "../plugins/mod.ts";
import { BROADCAST, frameTo } from "../plugins/net/testing.ts";
import { DRIVER_OK, F_EVENT_IDX } from "../plugins/virtio/testing/driver.ts";
import {
  bufferAt,
  driverOf,
  notifyQueue,
  offer,
  RING_SIZE,
  setUpRings,
  usedOf,
} from "../plugins/virtio/testing/rings.ts";
import { Choices } from "./hostile.ts";
import { newSeed } from "./support.ts";

const SAVES = 100;
const RAM = 4 << 20;
const SECTOR = 512;
const DISK = 512 * SECTOR;
/** Turns of the microtask queue until an answer, at most. */
const LATE = 24;
/** Of so many answers one is an error, where there are errors. */
const ERRORS = 10;

/** A disk that answers late and in any order. */
class LateBlock implements BlockBackend {
  readonly size = DISK;
  readonly readOnly = false;
  readonly bytes = new Uint8Array(DISK);
  /** What was written: the first word of the data, in the order in which it was done. */
  readonly written: number[] = [];
  readonly #waiting: (() => void)[] = [];
  readonly #choices: Choices;
  #answering = false;

  constructor(choices: Choices, readonly fails: boolean) {
    this.#choices = choices;
  }

  /** Requests that wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  #ask(perform: () => void): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#waiting.push(() => {
      if (this.fails && this.#choices.once(ERRORS)) {
        reject(new Error("the disk of the test fails"));
      } else {
        perform();
        resolve();
      }
    });
    if (!this.#answering) this.#answer();
    return promise;
  }

  async #answer(): Promise<void> {
    this.#answering = true;
    while (this.#waiting.length > 0) {
      await turns(this.#choices.below(LATE));
      const at = this.#choices.below(this.#waiting.length);
      this.#waiting.splice(at, 1)[0]();
    }
    this.#answering = false;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#ask(() =>
      target.set(this.bytes.subarray(offset, offset + target.length))
    );
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    return this.#ask(() => {
      this.bytes.set(source, offset);
      this.written.push(wordOf(source, 0));
    });
  }

  flush(): Promise<void> {
    return this.#ask(() => {});
  }

  discard(): Promise<void> {
    return this.#ask(() => {});
  }

  writeZeroes(): Promise<void> {
    return this.#ask(() => {});
  }
}

/** A network that is full at times, on both sides. */
class LateNet implements NetBackend {
  readonly link = true;
  /** The numbers of the frames that were sent. */
  readonly sent: number[] = [];
  readonly #choices: Choices;
  readonly #queue: Uint8Array[] = [];
  #full = false;
  #accept: (frame: Uint8Array) => boolean = () => false;
  #drained: () => void = () => {};

  constructor(choices: Choices) {
    this.#choices = choices;
  }

  send(frame: Uint8Array): boolean {
    if (this.#full) return false;
    if (this.#choices.once(3)) {
      this.#full = true;
      this.#drainLater();
      return false;
    }
    this.sent.push(numberOf(frame));
    return true;
  }

  async #drainLater(): Promise<void> {
    await turns(this.#choices.below(LATE));
    this.#full = false;
    this.#drained();
  }

  /** A frame comes in. */
  receive(frame: Uint8Array): void {
    this.#queue.push(frame);
    this.ready();
  }

  /** Frames that wait for the card, or for the network. */
  get waiting(): number {
    return this.#queue.length + Number(this.#full);
  }

  onReceive(accept: (frame: Uint8Array) => boolean): void {
    this.#accept = accept;
  }

  ready(): void {
    while (this.#queue.length > 0 && this.#accept(this.#queue[0])) {
      this.#queue.shift();
    }
  }

  onDrain(listener: () => void): void {
    this.#drained = listener;
  }

  onLink(): void {}
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await null;
}

function wordOf(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true);
}

/** A block of data that begins with a number. */
function numbered(number: number): Uint8Array {
  const bytes = new Uint8Array(SECTOR).fill(number);
  new DataView(bytes.buffer).setUint32(0, number, true);
  return bytes;
}

const FRAME_NUMBER = 14;
const FRAME_PAYLOAD = 64;

function numberedFrame(number: number): Uint8Array {
  const frame = frameTo(BROADCAST, BROADCAST.map(() => 2), FRAME_PAYLOAD);
  new DataView(frame.buffer).setUint32(FRAME_NUMBER, number, true);
  return frame;
}

function numberOf(frame: Uint8Array): number {
  return wordOf(frame, FRAME_NUMBER);
}

/** A machine with one device, which is replaced by a copy at every save. */
class Saved {
  machine: TestContext;

  private constructor(
    readonly plugin: Plugin,
    readonly controller: Plugin | undefined,
    readonly backend: Backends[keyof Backends],
    readonly options: Record<string, number>,
  ) {
    this.machine = this.#make();
  }

  static async with(
    name: string,
    backend: Backends[keyof Backends],
    options: Record<string, number> = {},
  ): Promise<Saved> {
    const plugin = await BUILT_IN[name]();
    const { controller } = plugin;
    return new Saved(
      plugin,
      controller === undefined ? undefined : await BUILT_IN[controller](),
      backend,
      options,
    );
  }

  #make(): TestContext {
    const machine = new TestContext({ ram: RAM, clock: "realtime" });
    if (this.controller !== undefined) machine.addAny(this.controller);
    const { backend, options } = this;
    machine.addAny(this.plugin, { backend, options });
    return machine;
  }

  start(): void {
    for (const instance of this.machine.instances) instance.start();
  }

  /** Saves the machine and goes on in another one. */
  async save(): Promise<void> {
    const { machine } = this;
    await machine.pause();
    const states = machine.instances.map((instance) => instance.save());
    await machine.stop();
    const next = this.#make();
    next.continue(machine, () => {
      next.instances.forEach((each, i) => each.restore(states[i]));
    });
    this.machine = next;
    this.start();
  }

  /** Waits for all that the backend has to answer. */
  async settle(): Promise<void> {
    do {
      await turns(LATE);
      await this.machine.settle();
    } while ((this.backend as LateBlock | LateNet).waiting > 0);
  }
}

const seed = newSeed();
const BLK_QUEUES = 4;
const [T_IN, T_OUT, S_OK, S_IOERR] = [0, 1, 0, 1];
const NOT_DONE = 0xff;
/** Requests of a queue: each has three descriptors. */
const SLOTS = 16;
const QUEUE_BYTES = 0x8000;
const QUEUES = 0x10_0000;
const [AVAIL, USED, HEADERS, DATA] = [0x1000, 0x1800, 0x2000, 0x4000];
const DESCRIPTORS = 64;
/** Sectors from here on are only read. */
const READ_ONLY = 256;

Deno.test("virtio-blk loses no request and does none twice, saved 100 times with all queues busy", async () => {
  const choices = new Choices(seed);
  const disk = new LateBlock(choices, true);
  for (let i = READ_ONLY; i < DISK / SECTOR; i++) {
    disk.bytes.set(numbered(i), i * SECTOR);
  }
  const saved = await Saved.with("virtio-blk", disk, { queues: BLK_QUEUES });
  const driver = driverOf(saved.machine);
  driver.negotiate(driver.offered & ~F_EVENT_IDX);
  for (let queue = 0; queue < BLK_QUEUES; queue++) {
    driver.setCommon(0x16, 2, queue);
    driver.setCommon(0x18, 2, DESCRIPTORS);
    const at = QUEUES + queue * QUEUE_BYTES;
    driver.place(at, at + AVAIL, at + USED);
    driver.setCommon(0x1c, 2, 1);
  }
  driver.status |= DRIVER_OK;
  const { bar, offset } = driver.structures.get(2)!;
  const notify = driver.bars[bar] + offset;
  saved.start();

  type Pending = { serial: number; sector: number; isRead: boolean };
  const pending: (Pending | undefined)[][] = Array.from(
    { length: BLK_QUEUES },
    () => Array(SLOTS).fill(undefined),
  );
  const usedIndex = Array(BLK_QUEUES).fill(0);
  const expected: number[] = [];
  let [serial, issued, done, inFlight] = [0, 0, 0, 0];

  const issue = (queue: number, slot: number) => {
    const { memory } = saved.machine;
    const base = QUEUES + queue * QUEUE_BYTES;
    const isRead = choices.once(3);
    const sector = choices.below(READ_ONLY) + (isRead ? READ_ONLY : 0);
    const number = ++serial;
    pending[queue][slot] = { serial: number, sector, isRead };
    issued++;
    const header = base + HEADERS + slot * 32;
    memory.writeU32(header, isRead ? T_IN : T_OUT);
    memory.writeU64(header + 8, BigInt(sector));
    memory.writeU8(header + 16, NOT_DONE);
    const data = base + DATA + slot * SECTOR;
    memory.write(data, numbered(isRead ? 0 : number));
    [
      [header, 16, 1],
      [data, SECTOR, isRead ? 3 : 1],
      [header + 16, 1, 2],
    ].forEach(([address, length, flags], i) => {
      const at = base + (slot * 3 + i) * 16;
      memory.writeU64(at, BigInt(address));
      memory.writeU32(at + 8, length);
      memory.writeU16(at + 12, flags);
      memory.writeU16(at + 14, slot * 3 + i + 1);
    });
    const index = memory.readU16(base + AVAIL + 2);
    memory.writeU16(base + AVAIL + 4 + index % DESCRIPTORS * 2, slot * 3);
    memory.writeU16(base + AVAIL + 2, index + 1 & 0xffff);
  };
  const collect = (queue: number) => {
    const { memory } = saved.machine;
    const base = QUEUES + queue * QUEUE_BYTES;
    while (memory.readU16(base + USED + 2) !== usedIndex[queue]) {
      const element = base + USED + 4 + usedIndex[queue] % DESCRIPTORS * 8;
      const slot = memory.readU32(element) / 3;
      usedIndex[queue] = usedIndex[queue] + 1 & 0xffff;
      const request = pending[queue][slot];
      assert(request !== undefined, `slot ${slot} was given back twice`);
      pending[queue][slot] = undefined;
      done++;
      const status = memory.readU8(base + HEADERS + slot * 32 + 16);
      if (status === S_IOERR) continue;
      assertEquals(status, S_OK);
      if (request.isRead) {
        const data = memory.readU32(base + DATA + slot * SECTOR);
        assertEquals(data, request.sector);
      } else expected.push(request.serial);
    }
  };
  for (let round = 0; round < SAVES; round++) {
    for (let queue = 0; queue < BLK_QUEUES; queue++) {
      for (let slot = 0; slot < SLOTS; slot++) {
        if (pending[queue][slot] === undefined && choices.once(2)) {
          issue(queue, slot);
        }
      }
      saved.machine.store(notify + queue * driver.notifyMultiplier, queue, 2);
    }
    await turns(choices.below(LATE));
    inFlight += disk.waiting;
    await saved.save();
    for (let queue = 0; queue < BLK_QUEUES; queue++) collect(queue);
  }
  await saved.settle();
  for (let queue = 0; queue < BLK_QUEUES; queue++) collect(queue);
  assertEquals(done, issued);
  assertEquals(disk.written.toSorted(), expected.toSorted());
  assert(inFlight > 10 * SAVES, `${inFlight} requests were in flight`);
  await saved.machine.stop();
});

const TAGS = 32;
const LOG_NCQ_ERROR = 0x10;

for (const fails of [false, true]) {
  const how = fails ? ", with errors" : "";
  Deno.test(`ahci-hd loses no request and does none twice, saved 100 times with 32 tags busy${how}`, async () => {
    const choices = new Choices(seed);
    const disk = new LateBlock(choices, fails);
    const saved = await Saved.with("ahci-hd", disk);
    new AhciDriver(saved.machine).start();
    saved.start();
    const pending: (number | undefined)[] = Array(TAGS).fill(undefined);
    const expected: number[] = [];
    let [serial, inFlight] = [0, 0];
    const issue = (tag: number) =>
      new AhciDriver(saved.machine).issue(tag, {
        command: ATA.WRITE_FPDMA_QUEUED,
        lba: choices.below(DISK / SECTOR),
        features: 1,
        count: tag << 3,
        data: numbered(pending[tag]!),
        queued: true,
      });
    /** Takes what is done; after an error all that is left is issued again, as drivers do. */
    const collect = () => {
      const driver = new AhciDriver(saved.machine);
      const active = driver.read(PxSACT);
      for (let tag = 0; tag < TAGS; tag++) {
        if (pending[tag] === undefined || (active >>> tag & 1) !== 0) continue;
        expected.push(pending[tag]!);
        pending[tag] = undefined;
      }
      const isError = (driver.read(PxTFD) & 1) !== 0;
      assertEquals((driver.read(PxIS) & 1 << 30) !== 0, isError);
      if (!isError) {
        driver.acknowledge();
        return;
      }
      assert(fails);
      driver.restart();
      // The drive takes nothing until it has told which command failed.
      driver.issue(0, {
        command: ATA.READ_LOG_EXT,
        lba: LOG_NCQ_ERROR,
        count: 1,
        room: SECTOR,
      });
      driver.acknowledge();
      for (let tag = 0; tag < TAGS; tag++) {
        if (pending[tag] !== undefined) issue(tag);
      }
    };
    for (let round = 0; round < SAVES; round++) {
      for (let tag = 0; tag < TAGS; tag++) {
        if (pending[tag] !== undefined || choices.once(3)) continue;
        pending[tag] = ++serial;
        issue(tag);
      }
      await turns(choices.below(LATE));
      inFlight += disk.waiting;
      await saved.save();
      collect();
    }
    for (let i = 0; pending.some((each) => each !== undefined); i++) {
      assert(i < SAVES, "the disk does not come to an end");
      await saved.settle();
      collect();
    }
    const all = Array.from({ length: serial }, (_, i) => i + 1);
    const ascending = (a: number, b: number) => a - b;
    assertEquals(expected.toSorted(ascending), all);
    // What a driver issues again may be done again, but by the driver's wish alone.
    const written = fails ? [...new Set(disk.written)] : disk.written;
    assertEquals(written.toSorted(ascending), all);
    assert(inFlight > 5 * SAVES, `${inFlight} requests were in flight`);
    await saved.machine.stop();
  });
}

const CD_BLOCK = 2048;
const READ_10 = 0x28;

Deno.test("ahci-cd ends every read, saved 100 times during one", async () => {
  const choices = new Choices(seed);
  const disk = new LateBlock(choices, true);
  for (let i = 0; i < DISK / CD_BLOCK; i++) {
    disk.bytes.set(numbered(i), i * CD_BLOCK);
  }
  const saved = await Saved.with("ahci-cd", disk);
  new AhciDriver(saved.machine).start();
  saved.start();
  let [good, bad, inFlight] = [0, 0, 0];
  for (let round = 0; round < SAVES; round++) {
    const block = choices.below(DISK / CD_BLOCK);
    new AhciDriver(saved.machine).issue(0, {
      command: ATA.PACKET,
      packet: [READ_10, 0, 0, 0, 0, block, 0, 0, 1],
      room: CD_BLOCK,
    });
    await turns(choices.below(LATE));
    inFlight += disk.waiting;
    await saved.save();
    await saved.settle();
    const driver = new AhciDriver(saved.machine);
    const { status, data } = driver.reply(0, CD_BLOCK);
    if ((status & 1) !== 0) {
      bad++;
      driver.restart();
    } else {
      good++;
      assertEquals(wordOf(data, 0), block);
      driver.acknowledge();
    }
  }
  assertEquals(good + bad, SAVES);
  assert(good > SAVES / 2 && inFlight > SAVES / 4, `${good}, ${inFlight}`);
  await saved.machine.stop();
});

/** A driver of a card. Its rings are in guest memory, and its place in them here. */
interface CardDriver {
  setUp(machine: TestContext): void;
  /** Sends a frame; false when the ring is full. */
  send(machine: TestContext, frame: Uint8Array): boolean;
  /** Takes the frames that have come in. */
  receive(machine: TestContext): Uint8Array[];
}

const NET_HEADER = 12;

function virtioNetDriver(): CardDriver {
  const [RX, TX] = [0, 1];
  let [sent, received] = [0, 0];
  return {
    setUp: (machine) => {
      setUpRings(machine, 2);
      for (let slot = 0; slot < RING_SIZE; slot++) {
        offer(machine, RX, slot, SECTOR);
      }
      notifyQueue(machine, RX);
    },
    send: (machine, frame) => {
      if ((sent - usedOf(machine, TX)[0] & 0xffff) >= RING_SIZE) return false;
      const whole = new Uint8Array(NET_HEADER + frame.length);
      whole.set(frame, NET_HEADER);
      offer(machine, TX, sent++ % RING_SIZE, whole);
      notifyQueue(machine, TX);
      return true;
    },
    receive: (machine) => {
      const frames: Uint8Array[] = [];
      while ((usedOf(machine, RX)[0] - received & 0xffff) > 0) {
        const slot = received++ % RING_SIZE;
        const frame = new Uint8Array(14 + FRAME_PAYLOAD);
        machine.memory.read(bufferAt(RX, slot) + NET_HEADER, frame);
        frames.push(frame);
        offer(machine, RX, slot, SECTOR);
      }
      notifyQueue(machine, RX);
      return frames;
    },
  };
}

function e1000Driver(): CardDriver {
  const BAR = 0xf000_0000;
  const RING = 8;
  const [TX_RING, RX_RING] = [0x1_0000, 0x1_1000];
  const [TX_DATA, RX_DATA, BUFFER] = [0x2_0000, 0x4_0000, 2048];
  const EOP_IFCS_RS = 0x0b;
  const DD = 1;
  let [sent, received] = [0, 0];
  const write = (
    machine: TestContext,
    { offset }: { offset: number },
    value: number,
  ) => machine.store(BAR + offset, value);
  return {
    setUp: (machine) => {
      machine.configWrite(1, 0, 0x10, BAR);
      machine.configWrite(1, 0, 4, 6);
      write(machine, REGISTERS.CTRL, CTRL_SLU);
      for (let i = 0; i < RING; i++) {
        machine.memory.writeU32(RX_RING + i * 16, RX_DATA + i * BUFFER);
      }
      write(machine, REGISTERS.RDBAL, RX_RING);
      write(machine, REGISTERS.RDLEN, RING * 16);
      write(machine, REGISTERS.RDT, RING - 1);
      write(machine, REGISTERS.TDBAL, TX_RING);
      write(machine, REGISTERS.TDLEN, RING * 16);
      write(machine, REGISTERS.RCTL, RCTL_EN | RCTL_BAM);
      write(machine, REGISTERS.TCTL, TCTL_EN);
    },
    send: (machine, frame) => {
      const head = machine.load(BAR + REGISTERS.TDH.offset);
      const slot = sent % RING;
      if ((slot + 1) % RING === head) return false;
      machine.memory.write(TX_DATA + slot * BUFFER, frame);
      const at = TX_RING + slot * 16;
      machine.memory.writeU64(at, BigInt(TX_DATA + slot * BUFFER));
      machine.memory.writeU32(at + 8, frame.length | EOP_IFCS_RS << 24);
      write(machine, REGISTERS.TDT, ++sent % RING);
      return true;
    },
    receive: (machine) => {
      const { memory } = machine;
      const frames: Uint8Array[] = [];
      for (;;) {
        const at = RX_RING + received % RING * 16;
        if ((memory.readU8(at + 12) & DD) === 0) break;
        memory.writeU8(at + 12, 0);
        const frame = new Uint8Array(14 + FRAME_PAYLOAD);
        memory.read(RX_DATA + received % RING * BUFFER, frame);
        frames.push(frame);
        write(machine, REGISTERS.RDT, received++ % RING);
      }
      return frames;
    },
  };
}

for (
  const [name, make] of [
    ["virtio-net", virtioNetDriver],
    ["e1000", e1000Driver],
  ] as const
) {
  Deno.test(`${name} loses no frame and sends none twice, saved 100 times with both rings full`, async () => {
    const choices = new Choices(seed);
    const net = new LateNet(choices);
    const saved = await Saved.with(name, net);
    const driver = make();
    driver.setUp(saved.machine);
    saved.start();
    const got: number[] = [];
    let [sent, arrived, waited] = [0, 0, 0];
    for (let round = 0; round < SAVES; round++) {
      for (let i = choices.below(12); i > 0; i--) {
        if (driver.send(saved.machine, numberedFrame(sent + 1))) sent++;
      }
      for (let i = choices.below(12); i > 0; i--) {
        net.receive(numberedFrame(++arrived));
      }
      await turns(choices.below(LATE));
      waited += net.waiting;
      await saved.save();
      got.push(...driver.receive(saved.machine).map(numberOf));
    }
    for (let i = 0; i < SAVES; i++) {
      await turns(LATE);
      await saved.machine.settle();
      got.push(...driver.receive(saved.machine).map(numberOf));
    }
    const upTo = (last: number) =>
      Array.from({ length: last }, (_, i) => i + 1);
    assertEquals(net.sent, upTo(sent));
    assertEquals(got, upTo(arrived));
    assert(waited > SAVES, `${waited} frames waited`);
    await saved.machine.stop();
  });
}
