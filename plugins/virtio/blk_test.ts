import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import fc from "fast-check";
import type { BlockBackend } from "../../core/plugin.ts";
import { arbitrary } from "../../snapshot/arbitrary.ts";
import virtioBlk from "./blk.ts";
import { MemoryBlock, SECTOR_SIZE } from "../../host/block/mod.ts";
import {
  type Buffer,
  DRIVER_OK,
  F_EVENT_IDX,
  F_INDIRECT,
  F_RING_RESET,
  F_VERSION_1,
  FEATURES_OK,
  type GuestDriver,
  GuestRing,
  NEEDS_RESET,
} from "./testing/driver.ts";
import { type Machine, setUp, type SetUpOptions } from "./testing/machine.ts";

const DISK_SIZE = 3 * 1024 * 1024;
const T = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, DISCARD: 11, ZEROES: 13 };
const S = { OK: 0, IOERR: 1, UNSUPP: 2 };
const F = {
  SEG_MAX: 1n << 2n,
  RO: 1n << 5n,
  BLK_SIZE: 1n << 6n,
  FLUSH: 1n << 9n,
  CONFIG_WCE: 1n << 11n,
  MQ: 1n << 12n,
  DISCARD: 1n << 13n,
  ZEROES: 1n << 14n,
};
const CONFIG_WRITEBACK = 32;
const CONFIG_NUM_QUEUES = 34;
const DEFAULT = F_VERSION_1 | F.FLUSH | F.DISCARD | F.ZEROES | F.CONFIG_WCE;
/** A status byte that the device has not written. */
const UNTOUCHED = 0xee;

/** A backend whose operations wait until the test lets them go. */
class GatedBlock implements BlockBackend {
  readonly size: number;
  readonly readOnly = false;
  readonly log: string[] = [];
  readonly #inner: MemoryBlock;
  #waiting: (() => void)[] = [];
  #open: boolean;

  constructor(size = DISK_SIZE, open = false) {
    this.#inner = new MemoryBlock(size);
    this.size = size;
    this.#open = open;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** The disk itself. */
  get disk(): MemoryBlock {
    return this.#inner;
  }

  /** Lets everything go, now and from now on. */
  open(): void {
    this.#open = true;
    for (const go of this.#waiting.splice(0)) go();
  }

  /** Lets operation `index` of those that wait go. */
  release(index: number): void {
    this.#waiting.splice(index, 1)[0]();
  }

  async #gate(name: string): Promise<void> {
    this.log.push(name);
    if (!this.#open) {
      await new Promise<void>((go) => this.#waiting.push(go));
    }
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    await this.#gate(`read ${offset}`);
    await this.#inner.read(offset, target);
  }

  async write(offset: number, source: Uint8Array): Promise<void> {
    await this.#gate(`write ${offset}`);
    await this.#inner.write(offset, source);
  }

  async flush(): Promise<void> {
    await this.#gate("flush");
  }

  async discard(offset: number, length: number): Promise<void> {
    await this.#gate(`discard ${offset}`);
    await this.#inner.discard(offset, length);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    await this.#gate(`zero ${offset}`);
    await this.#inner.writeZeroes(offset, length, false);
  }
}

/** The same type with nothing read-only. */
type Mutable<T> = T extends bigint ? T
  : { -readonly [K in keyof T]: Mutable<T[K]> };

/** A request in guest memory. */
interface GuestRequest {
  head: number;
  data: Uint8Array;
  readonly status: number;
}

/** Writes a request into a ring; `data` goes to the device, a number is room for its answer. */
function request(
  driver: GuestDriver,
  ring: GuestRing,
  type: number,
  sector: number | bigint,
  data: Uint8Array | number = 0,
  { indirect = false, pieces = 1 } = {},
): GuestRequest {
  const { memory } = driver;
  const header = memory.allocate(16);
  memory.view.setUint32(header, type, true);
  memory.view.setBigUint64(header + 8, BigInt(sector), true);
  const status = memory.allocate(1);
  memory.ram[status] = UNTOUCHED;
  const write = typeof data === "number";
  const length = write ? data : data.length;
  const at = memory.allocate(length);
  if (!write) memory.ram.set(data, at);
  const buffers: Buffer[] = [{ address: header, length: 16 }];
  const piece = Math.ceil(length / pieces);
  for (let done = 0; done < length; done += piece) {
    buffers.push({
      address: at + done,
      length: Math.min(piece, length - done),
      write,
    });
  }
  buffers.push({ address: status, length: 1, write: true });
  return {
    head: ring.add(buffers, indirect),
    data: memory.bytes(at, length),
    get status() {
      return memory.ram[status];
    },
  };
}

/** Submits one request, notifies and waits. */
async function submit(
  { driver, settle }: Machine,
  ring: GuestRing,
  type: number,
  sector: number | bigint,
  data?: Uint8Array | number,
  how?: { indirect?: boolean; pieces?: number },
): Promise<GuestRequest & { length: number }> {
  const made = request(driver, ring, type, sector, data, how);
  driver.notify(0);
  await settle();
  const done = ring.collect();
  assertEquals(done.map(({ head }) => head), [made.head]);
  return {
    head: made.head,
    data: made.data,
    status: made.status,
    length: done[0].length,
  };
}

function pattern(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 9)) * seed);
}

function range(sector: number, count: number, flags = 0): Uint8Array {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(0, BigInt(sector), true);
  view.setUint32(8, count, true);
  view.setUint32(12, flags, true);
  return new Uint8Array(view.buffer);
}

const disk = () => new MemoryBlock(DISK_SIZE);

/** The same with a backend that finishes at once and with one that does not. */
function both(
  name: string,
  body: (machine: Machine, block: MemoryBlock) => Promise<void>,
  options: SetUpOptions = {},
): void {
  Deno.test(`${name} (immediate backend)`, async () => {
    const block = disk();
    await using machine = await setUp(block, options);
    await body(machine, block);
  });
  Deno.test(`${name} (waiting backend)`, async () => {
    const block = new GatedBlock(DISK_SIZE, true);
    await using machine = await setUp(block, options);
    await body(machine, block.disk);
  });
}

Deno.test("virtio-blk is found on the PCI bus, transitional or modern", async () => {
  await using machine = await setUp(disk());
  const { driver } = machine;
  assertEquals(driver.config(0, 4), 0x1001_1af4);
  assertEquals(driver.config(8, 4), 0x0100_0000);
  assertEquals(driver.config(0x2c, 4), 0x0002_1af4);
  assertEquals([...driver.structures.keys()].sort(), [1, 2, 3, 4, 5]);
  await using modern = await setUp(disk(), { options: { legacy: false } });
  assertEquals(modern.driver.config(0, 4), 0x1042_1af4);
  assertEquals(modern.driver.config(8, 1), 1);
  assertEquals(modern.driver.bars[0], undefined);
});

Deno.test("features: what is not offered, or no VERSION_1, is refused", async () => {
  await using machine = await setUp(disk());
  const { driver } = machine;
  const { offered } = driver;
  for (
    const feature of [
      F_VERSION_1,
      F_INDIRECT,
      F_EVENT_IDX,
      F_RING_RESET,
      F.FLUSH,
      F.CONFIG_WCE,
      F.DISCARD,
      F.ZEROES,
      F.SEG_MAX,
      F.BLK_SIZE,
    ]
  ) assertEquals(offered & feature, feature);
  assertEquals(offered & (F.RO | F.MQ), 0n);
  const PACKED = 1n << 34n;
  assertEquals(driver.negotiate(F_VERSION_1 | PACKED), false);
  assertEquals(driver.negotiate(F.FLUSH), false);
  assertEquals(driver.negotiate(offered), true);
  driver.accept(0n); // too late
  driver.setCommon(0x08, 4, 1);
  assertEquals(driver.common(0x0c, 4), Number(offered >> 32n));
  driver.status = 0;
  assertEquals(driver.common(0x0c, 4), 0);
});

Deno.test("the configuration says what the disk is", async () => {
  await using machine = await setUp(disk());
  const { driver } = machine;
  assertEquals(driver.device(0, 4), DISK_SIZE / SECTOR_SIZE);
  assertEquals(driver.device(4, 4), 0);
  assertEquals(driver.device(20, 4), SECTOR_SIZE);
  assertEquals(driver.device(20, 2), SECTOR_SIZE);
  assertEquals(driver.device(58, 4), 0);
  assertEquals(driver.common(0x12, 2), 1);
  assertEquals(driver.common(0x15, 1), 0);
});

both(
  "what is written is read back, in every shape of request",
  async (machine, block) => {
    const { driver } = machine;
    const ring = driver.start(DEFAULT | F_INDIRECT | F_EVENT_IDX);
    const data = pattern(64 * SECTOR_SIZE);
    for (const indirect of [false, true]) {
      for (const pieces of [1, 3, 50]) {
        const how = { indirect, pieces };
        const out = await submit(machine, ring, T.OUT, 100, data, how);
        assertEquals([out.status, out.length], [S.OK, 1]);
        const back = await submit(machine, ring, T.IN, 100, data.length, how);
        assertEquals([back.status, back.length], [S.OK, data.length + 1]);
        assertEquals(back.data, data);
        data.reverse();
      }
    }
    const raw = new Uint8Array(SECTOR_SIZE);
    await block.read(100 * SECTOR_SIZE, raw);
    assertEquals(raw, data.toReversed().subarray(0, SECTOR_SIZE));
    assertEquals((await submit(machine, ring, T.FLUSH, 0)).status, S.OK);
  },
);

both("a request of several MiB goes in chunks", async (machine) => {
  const { driver } = machine;
  const ring = driver.start(DEFAULT);
  const data = pattern(DISK_SIZE, 3);
  await submit(machine, ring, T.OUT, 0, data, { pieces: 7 });
  const back = await submit(machine, ring, T.IN, 0, DISK_SIZE, { pieces: 5 });
  assertEquals(back.data, data);
});

both("get-id gives the serial number", async (machine) => {
  const ring = machine.driver.start(DEFAULT);
  const id = await submit(machine, ring, T.GET_ID, 0, 20);
  assertEquals([id.status, id.length], [S.OK, 21]);
  assertEquals(
    new TextDecoder().decode(id.data).replace(/\0+$/, ""),
    "WD-1234567890",
  );
  const short = await submit(machine, ring, T.GET_ID, 0, 4);
  assertEquals(new TextDecoder().decode(short.data), "WD-1");
}, { options: { serial: "WD-1234567890" } });

both(
  "discard and write-zeroes take lists of ranges",
  async (machine, block) => {
    const { driver } = machine;
    const ring = driver.start(DEFAULT);
    await block.write(0, new Uint8Array(DISK_SIZE).fill(0xff));
    const ranges = new Uint8Array([...range(8, 8), ...range(32, 1, 1)]);
    const zero = await submit(machine, ring, T.ZEROES, 0, ranges);
    assertEquals([zero.status, zero.length], [S.OK, 1]);
    const all = new Uint8Array(DISK_SIZE);
    await block.read(0, all);
    for (let sector = 0; sector < 64; sector++) {
      const zeroed = sector >= 8 && sector < 16 || sector === 32;
      assertEquals(all[sector * SECTOR_SIZE], zeroed ? 0 : 0xff);
    }
    const discard = await submit(machine, ring, T.DISCARD, 0, range(100, 4));
    assertEquals(discard.status, S.OK);
  },
);

both("requests that cannot be done say why", async (machine) => {
  const { driver } = machine;
  const ring = driver.start(DEFAULT);
  const sectors = DISK_SIZE / SECTOR_SIZE;
  const one = new Uint8Array(SECTOR_SIZE);
  const status = async (
    type: number,
    sector: number | bigint,
    data?: Uint8Array | number,
  ) => (await submit(machine, ring, type, sector, data)).status;
  assertEquals(await status(T.IN, sectors, 512), S.IOERR);
  assertEquals(await status(T.IN, sectors - 1, 1024), S.IOERR);
  assertEquals(await status(T.IN, (1n << 64n) - 1n, 512), S.IOERR);
  assertEquals(await status(T.IN, 0, 100), S.IOERR);
  assertEquals(await status(T.OUT, sectors, one), S.IOERR);
  assertEquals(await status(T.OUT, 0, one.subarray(1)), S.IOERR);
  assertEquals(await status(T.DISCARD, 0, range(sectors, 1)), S.IOERR);
  assertEquals(await status(T.DISCARD, 0, range(0, 1, 1)), S.UNSUPP);
  assertEquals(await status(T.ZEROES, 0, range(0, 0xffff_ffff)), S.IOERR);
  assertEquals(await status(T.ZEROES, 0, range(0, 1, 2)), S.UNSUPP);
  assertEquals(await status(T.ZEROES, 0, one.subarray(0, 15)), S.IOERR);
  assertEquals(await status(T.ZEROES, 0), S.IOERR);
  for (const type of [2, 3, 5, 9, 14, 0xffff_ffff]) {
    assertEquals(await status(type, 0, 512), S.UNSUPP);
  }
  assertEquals(await status(T.IN, 0, 512), S.OK);
});

Deno.test("discard that was not negotiated is unsupported", async () => {
  await using machine = await setUp(disk());
  const ring = machine.driver.start(F_VERSION_1);
  const { status } = await submit(machine, ring, T.DISCARD, 0, range(0, 1));
  assertEquals(status, S.UNSUPP);
});

Deno.test("a read-only disk offers RO and refuses writes", async () => {
  const block = new MemoryBlock(DISK_SIZE, true);
  await using machine = await setUp(block);
  const { driver } = machine;
  assertEquals(driver.offered & (F.RO | F.DISCARD | F.CONFIG_WCE), F.RO);
  const ring = driver.start(F_VERSION_1 | F.RO);
  const out = await submit(machine, ring, T.OUT, 0, pattern(512));
  assertEquals(out.status, S.IOERR);
  const back = await submit(machine, ring, T.IN, 0, 512);
  assertEquals([back.status, back.data[5]], [S.OK, 0]);
});

Deno.test("an error of the image is an I/O error of the request, and is logged", async () => {
  class Broken extends GatedBlock {
    override read(): Promise<void> {
      return Promise.reject(new Error("medium error"));
    }
  }
  await using machine = await setUp(new Broken());
  const ring = machine.driver.start(DEFAULT);
  const { status, length } = await submit(machine, ring, T.IN, 0, 512);
  assertEquals([status, length], [S.IOERR, 0]);
  assertMatch(machine.log.join(), /medium error/);
});

Deno.test("without FLUSH, or with writeback off, a write is flushed before it is done", async () => {
  const block = new GatedBlock(DISK_SIZE, true);
  await using machine = await setUp(block);
  const { driver } = machine;
  const writes = async (features: bigint, prepare = () => {}) => {
    const ring = driver.start(features);
    prepare();
    block.log.length = 0;
    await submit(machine, ring, T.OUT, 0, pattern(512));
    return block.log.join();
  };
  assertEquals(await writes(DEFAULT), "write 0");
  assertEquals(await writes(F_VERSION_1), "write 0,flush");
  assertEquals(driver.device(CONFIG_WRITEBACK, 1), 0);
  assertEquals(
    await writes(DEFAULT, () => driver.setDevice(CONFIG_WRITEBACK, 1, 0)),
    "write 0,flush",
  );
  assertEquals(
    await writes(DEFAULT, () => {
      driver.setDevice(CONFIG_WRITEBACK, 1, 0);
      driver.setDevice(CONFIG_WRITEBACK, 1, 1);
    }),
    "write 0",
  );
});

Deno.test("INTx: the ISR says why, and reading it deasserts the line", async () => {
  await using machine = await setUp(disk());
  const { driver } = machine;
  const ring = driver.start(DEFAULT);
  assertEquals(machine.intx, false);
  await submit(machine, ring, T.FLUSH, 0);
  assertEquals(machine.intx, true);
  assertEquals(driver.config(6, 2) & 8, 8);
  assertEquals(driver.isr(), 1);
  assertEquals(machine.intx, false);
  assertEquals(driver.isr(), 0);
  ring.noInterrupt = true;
  await submit(machine, ring, T.FLUSH, 0);
  assertEquals(machine.intx, false);
});

Deno.test("MSI-X: queue and configuration have their own vectors", async () => {
  await using machine = await setUp(disk());
  const { driver } = machine;
  driver.enableMsix(0x40);
  driver.negotiate(DEFAULT);
  driver.setCommon(0x10, 2, 0);
  assertEquals(driver.common(0x10, 2), 0);
  driver.setCommon(0x10, 2, 2); // there are two vectors
  assertEquals(driver.common(0x10, 2), 0xffff);
  driver.setCommon(0x10, 2, 0);
  const ring = driver.queue(0, undefined, 1);
  driver.status = driver.status | DRIVER_OK;
  await submit(machine, ring, T.FLUSH, 0);
  assertEquals(machine.messages, [0x41]);
  assertEquals([driver.isr(), machine.intx], [0, false]);
  ring.offer(999);
  driver.notify(0);
  assertEquals(machine.messages, [0x41, 0x40]);
  assertEquals(driver.status & NEEDS_RESET, NEEDS_RESET);
});

Deno.test("event index: one interrupt where the driver asks for it", async () => {
  await using machine = await setUp(disk());
  const { driver } = machine;
  driver.enableMsix(0x40);
  const ring = driver.start(DEFAULT | F_EVENT_IDX, 1);
  ring.usedEvent = 2;
  for (let i = 0; i < 5; i++) request(driver, ring, T.FLUSH, 0);
  driver.notify(0);
  assertEquals(ring.collect().length, 5);
  assertEquals(machine.messages, [0x41]);
  assertEquals(ring.availEvent, 5);
});

Deno.test("the legacy interface works as before virtio 1.0", async () => {
  const block = disk();
  await using machine = await setUp(block);
  const { driver } = machine;
  assertEquals(driver.legacy(0x14, 4), DISK_SIZE / SECTOR_SIZE);
  const features = BigInt(driver.legacy(0, 4));
  assertEquals(features & F.FLUSH, F.FLUSH);
  driver.setLegacy(0x12, 1, 0);
  driver.setLegacy(0x12, 1, 3);
  driver.setLegacy(4, 4, Number(F.FLUSH | F_INDIRECT | F_EVENT_IDX));
  driver.setLegacy(0x0e, 2, 0);
  assertEquals(driver.legacy(0x08, 4), 0);
  const ring = new GuestRing(driver.memory, driver.legacy(0x0c, 2), true);
  driver.setLegacy(0x08, 4, ring.desc / 4096);
  assertEquals(driver.legacy(0x08, 4), ring.desc / 4096);
  const go = async (
    type: number,
    sector: number,
    data: Uint8Array | number,
  ) => {
    const made = request(driver, ring, type, sector, data);
    driver.setLegacy(0x10, 2, 0);
    await machine.settle();
    assertEquals(ring.collect().length, 1);
    return made;
  };
  // Before DRIVER_OK, as some legacy drivers do.
  assertEquals((await go(T.OUT, 5, pattern(1024))).status, S.OK);
  driver.setLegacy(0x12, 1, 7);
  assertEquals((await go(T.IN, 5, 1024)).data, pattern(1024));
  assertEquals(machine.intx, true);
  assertEquals(driver.legacy(0x13, 1), 1);
  assertEquals(machine.intx, false);

  driver.enableMsix(0x50);
  driver.setLegacy(0x16, 2, 1);
  assertEquals(driver.legacy(0x16, 2), 1);
  assertEquals(driver.legacy(0x18, 4), DISK_SIZE / SECTOR_SIZE);
  ring.usedEvent = 2;
  await go(T.IN, 5, 1024);
  assertEquals(machine.messages, [0x51]);
  driver.setLegacy(0x08, 4, 0);
  assertEquals(driver.legacy(0x08, 4), 0);
});

Deno.test("the PCI configuration access capability reaches both BARs", async () => {
  await using machine = await setUp(disk());
  const { driver } = machine;
  assertEquals(driver.configAccess(4, 0x2000, 4), DISK_SIZE / SECTOR_SIZE);
  driver.configAccess(4, 0x14, 1, 3);
  assertEquals(driver.configAccess(4, 0x14, 1), 3);
  assertEquals(driver.status, 3);
  assertEquals(driver.configAccess(0, 0x12, 1), 3);
  assertEquals(driver.configAccess(4, 0x1e, 2), 0);
  driver.configAccess(4, 0xffff_fffc, 4, 1); // outside: nothing happens
  driver.configAccess(5, 0, 4, 1);
  assertEquals(driver.status, 3);
});

Deno.test("a queue of the driver's size, reset and enabled again", async () => {
  await using machine = await setUp(disk());
  const { driver } = machine;
  const ring = driver.start(DEFAULT | F_RING_RESET, 0xffff, 16);
  assertEquals(ring.size, 16);
  driver.setCommon(0x18, 2, 8); // not while it is enabled
  assertEquals(driver.common(0x18, 2), 16);
  await submit(machine, ring, T.FLUSH, 0);
  driver.setCommon(0x3a, 2, 1);
  assertEquals(driver.common(0x3a, 2), 0);
  assertEquals(driver.common(0x1c, 2), 0);
  driver.setCommon(0x18, 2, 7); // no power of two
  driver.setCommon(0x18, 2, 512); // more than the device has
  assertEquals(driver.common(0x18, 2), 256);
  const again = driver.queue(0, 32);
  assertEquals((await submit(machine, again, T.FLUSH, 0)).status, S.OK);
});

Deno.test("several queues", async () => {
  await using machine = await setUp(disk(), { options: { queues: 3 } });
  const { driver } = machine;
  assertEquals(driver.offered & F.MQ, F.MQ);
  assertEquals(driver.device(CONFIG_NUM_QUEUES, 2), 3);
  driver.negotiate(DEFAULT | F.MQ);
  const rings = [0, 1, 2].map((i) => driver.queue(i));
  driver.status = driver.status | DRIVER_OK;
  rings.forEach((ring, i) => {
    request(driver, ring, T.OUT, i, pattern(512, i + 1));
    driver.notify(i);
    assertEquals(ring.collect().length, 1);
  });
  driver.notify(3);
});

Deno.test("nothing is taken before DRIVER_OK, without bus mastering, or after a mistake", async () => {
  await using machine = await setUp(disk());
  const { driver } = machine;
  driver.negotiate(DEFAULT);
  const ring = driver.queue(0);
  request(driver, ring, T.FLUSH, 0);
  driver.notify(0);
  assertEquals(ring.collect().length, 0);
  driver.status = driver.status | DRIVER_OK;
  assertEquals(ring.collect().length, 1);
  driver.setConfig(4, 2, 3);
  request(driver, ring, T.FLUSH, 0);
  driver.notify(0);
  assertEquals(ring.collect().length, 0);
  driver.setConfig(4, 2, 7);
  driver.notify(0);
  assertEquals(ring.collect().length, 1);
  ring.offer(0x7fff);
  driver.notify(0);
  assertEquals(driver.status & NEEDS_RESET, NEEDS_RESET);
  assertEquals(driver.isr(), 3);
  driver.status = 0x0f; // does not clear it
  assertEquals(driver.status & NEEDS_RESET, NEEDS_RESET);
  const again = driver.start(DEFAULT);
  assertEquals(driver.status, 0x0f);
  assertEquals((await submit(machine, again, T.FLUSH, 0)).status, S.OK);
});

Deno.test("a ring that is not in RAM needs a reset", async () => {
  await using machine = await setUp(disk());
  const { driver } = machine;
  for (
    const [desc, avail, used] of [
      [0x7fff_f000, 0x1000, 0x2000],
      [0x1000, 2 ** 52, 0x2000],
      [0x1008, 0x1000, 0x2000],
    ]
  ) {
    driver.negotiate(DEFAULT);
    driver.setCommon(0x16, 2, 0);
    driver.place(desc, avail, used);
    driver.setCommon(0x1c, 2, 1);
    assertEquals(driver.status & NEEDS_RESET, NEEDS_RESET);
    driver.status = driver.status | DRIVER_OK;
    driver.notify(0);
  }
});

Deno.test("a request without a header or a status byte needs a reset", async () => {
  for (
    const buffers of [
      [{ address: 0x1000, length: 15 }, {
        address: 0x2000,
        length: 1,
        write: true,
      }],
      [{ address: 0x1000, length: 16 }],
    ]
  ) {
    await using machine = await setUp(disk());
    const { driver } = machine;
    const ring = driver.start(DEFAULT);
    ring.add(buffers);
    driver.notify(0);
    assertEquals(driver.status & NEEDS_RESET, NEEDS_RESET);
    assertEquals(ring.collect().length, 0);
  }
});

Deno.test("at most 64 requests are in flight, and the rest follow", async () => {
  const block = new GatedBlock();
  await using machine = await setUp(block);
  const { driver } = machine;
  const ring = driver.start(DEFAULT);
  for (let i = 0; i < 80; i++) request(driver, ring, T.OUT, i, pattern(512));
  driver.notify(0);
  assertEquals(block.waiting, 64);
  block.release(3);
  await machine.settle();
  assertEquals(block.waiting, 64);
  assertEquals(ring.collect().length, 1);
  block.open();
  await machine.settle();
  assertEquals(ring.collect().length, 79);
});

Deno.test("after a reset nothing of an old request reaches the guest, and new ones wait for it", async () => {
  const block = new GatedBlock();
  await using machine = await setUp(block);
  const { driver } = machine;
  const first = driver.start(DEFAULT);
  const old = request(driver, first, T.IN, 0, 512);
  old.data.fill(0xaa);
  driver.notify(0);
  const ring = driver.start(DEFAULT);
  const made = request(driver, ring, T.OUT, 0, pattern(512));
  driver.notify(0);
  assertEquals(block.log, ["read 0"]);
  block.open();
  await machine.settle();
  assertEquals(first.collect().length, 0);
  assertEquals([old.status, old.data[0]], [UNTOUCHED, 0xaa]);
  assertEquals(block.log, ["read 0", "write 0"]);
  assertEquals(made.status, S.OK);
});

Deno.test("pause finishes what is in flight and holds what is new", async () => {
  const block = new GatedBlock();
  await using machine = await setUp(block);
  const { driver, device } = machine;
  const ring = driver.start(DEFAULT);
  const first = request(driver, ring, T.OUT, 0, pattern(512));
  driver.notify(0);
  const paused = device.pause!();
  const second = request(driver, ring, T.OUT, 1, pattern(512));
  driver.notify(0);
  block.open();
  await paused;
  assertEquals([first.status, second.status], [S.OK, UNTOUCHED]);
  assertEquals(machine.save().inFlight, []);
  device.resume!();
  await machine.settle();
  assertEquals(second.status, S.OK);
  assertEquals(block.log, ["write 0", "write 512"]);
  assertEquals(ring.collect().length, 2);
});

Deno.test("requests in flight are submitted again by the machine that is restored", async () => {
  const block = new GatedBlock();
  await using machine = await setUp(block);
  const { driver } = machine;
  driver.enableMsix(0x40);
  const ring = driver.start(DEFAULT | F_INDIRECT, 1);
  const data = pattern(1024);
  request(driver, ring, T.OUT, 8, data);
  request(driver, ring, T.IN, 16, 2048, { pieces: 3, indirect: true });
  request(driver, ring, T.FLUSH, 0);
  driver.notify(0);
  const state = machine.save();
  assertEquals(state.inFlight.length, 3);
  assertEquals(machine.save(), state);

  const other = new GatedBlock(DISK_SIZE, true);
  await other.disk.write(16 * 512, pattern(2048, 5));
  await using copy = await setUp(other, { from: machine });
  assertEquals(copy.save(), state);
  assertEquals(other.log, []);
  copy.device.resume!();
  await copy.settle();
  assertEquals(other.log, ["write 4096", "read 8192", "flush"]);
  const written = new Uint8Array(1024);
  await other.disk.read(8 * 512, written);
  assertEquals(written, data);
  const used = copy.driver.memory.view.getUint16(ring.used + 2, true);
  assertEquals(used, 3);
  assertEquals(copy.messages, [0x41, 0x41, 0x41]);
  assertEquals(copy.save().inFlight, []);
  copy.device.resume!();
  assertEquals(other.log.length, 3);

  // The first machine goes on as if nothing had happened.
  block.open();
  await machine.settle();
  assertEquals(ring.collect().length, 3);
  assertEquals(block.log, ["write 4096", "read 8192", "flush"]);
});

Deno.test("a pause does not make the disk look for requests of which it was not told", async () => {
  await using machine = await setUp(disk());
  const { driver, device } = machine;
  const ring = driver.start(DEFAULT);
  request(driver, ring, T.OUT, 0, pattern(512));
  const state = machine.save();
  await device.pause();
  assertEquals(machine.save(), state);
  device.resume();
  assertEquals([machine.save(), ring.collect().length], [state, 0]);
  driver.notify(0);
  assertEquals(ring.collect().length, 1);
});

Deno.test("requests of which the disk was told while it was full are taken after a restore", async () => {
  const block = new GatedBlock();
  await using machine = await setUp(block);
  const { driver } = machine;
  const ring = driver.start(DEFAULT);
  for (let i = 0; i < 80; i++) request(driver, ring, T.OUT, i, pattern(512));
  driver.notify(0);
  const state = machine.save();
  assertEquals(state.notified, [0]);
  await using copy = await setUp(disk(), { from: machine });
  copy.device.resume();
  await copy.settle();
  const used = copy.driver.memory.view.getUint16(ring.used + 2, true);
  assertEquals([used, copy.save().notified], [80, []]);
  block.open();
  await machine.settle();
});

Deno.test("a state of version 1 has every queue looked into", async () => {
  await using machine = await setUp(disk(), { options: { queues: 2 } });
  const { notified: _, ...first } = machine.save();
  assertEquals(virtioBlk.state.migrate(first, 1).notified, [0, 1]);
});

Deno.test("a state that no driver could have caused is refused, and says where", async () => {
  await using machine = await setUp(new GatedBlock());
  const { driver } = machine;
  const ring = driver.start(DEFAULT);
  request(driver, ring, T.FLUSH, 0);
  driver.notify(0);
  const good = machine.save();
  type State = Mutable<typeof good>;
  const refuses = (part: string, change: (state: State) => void) => {
    const state = structuredClone(good);
    change(state as State);
    const error = assertThrows(() => machine.restore(state), Error);
    assert(error.message.includes(part), error.message);
    assertEquals(machine.save(), good);
  };
  refuses("capacity", (s) => s.capacity = 4n);
  refuses("transport.status", (s) => s.transport.status = 0x1f);
  refuses("driverFeatures", (s) => s.transport.driverFeatures |= 1n << 34n);
  refuses("driverFeatures", (s) => s.transport.driverFeatures = F.FLUSH);
  refuses("configVector", (s) => s.transport.configVector = 2);
  refuses("transport.queues", (s) => s.transport.queues = []);
  refuses("queues[0].size", (s) => s.transport.queues[0].size = 3);
  refuses("queues[0].size", (s) => s.transport.queues[0].size = 512);
  refuses("queues[0].vector", (s) => s.transport.queues[0].vector = 9);
  refuses("queues[0].ring", (s) => s.transport.queues[0].enabled = false);
  refuses("queues[0].ring", (s) => s.transport.queues[0].ring = null);
  refuses(
    "ring.used",
    (s) => s.transport.queues[0].ring!.used!.length -= 2,
  );
  refuses(
    "ring.desc",
    (s) => s.transport.queues[0].ring!.desc!.address += 16n,
  );
  refuses("ring.avail", (s) => s.transport.queues[0].ring!.avail = null);
  refuses("queues[0].ring", (s) => s.transport.queues[0].desc += 1n << 40n);
  refuses("inFlight", (s) => s.transport.queues[0].ring!.lastAvail = 7);
  refuses("inFlight[0]", (s) => s.inFlight[0].head = 256);
  refuses("inFlight[0]", (s) => s.inFlight[0].queue = 1);
  refuses("inFlight[1]", (s) => s.inFlight.push({ ...s.inFlight[0] }));
  refuses("inFlight", (s) => s.inFlight = []);
  refuses("notified[0]", (s) => s.notified = [1]);
  refuses("notified[1]", (s) => s.notified = [0, 0]);
});

Deno.test("any requests and any bytes in the ring leave the device working or in need of a reset", async () => {
  const u16 = fc.oneof(fc.nat(15), fc.nat(0xffff));
  const descriptor = fc.record({
    address: fc.oneof(fc.nat(0x8000), fc.nat(0x7fff_ffff)),
    length: fc.oneof(
      fc.constantFrom(1, 16, 512, 1024, 4096),
      fc.nat(0xffff_ffff),
    ),
    flags: fc.nat(7),
    next: u16,
  });
  await using machine = await setUp(disk());
  const { driver } = machine;
  await fc.assert(
    fc.asyncProperty(
      fc.array(descriptor, { minLength: 16, maxLength: 16 }),
      fc.array(u16, { minLength: 1, maxLength: 16 }),
      fc.array(fc.nat(14), { minLength: 8, maxLength: 8 }),
      async (descriptors, heads, types) => {
        const ring = driver.start(DEFAULT | F_INDIRECT, 0xffff, 16);
        types.forEach((type, i) => {
          driver.memory.ram.fill(0, i * 4096, i * 4096 + 4096);
          driver.memory.view.setUint32(i * 4096, type, true);
        });
        descriptors.forEach((d, i) => ring.describe(i, d));
        heads.forEach((head) => ring.offer(head));
        driver.notify(0);
        await machine.settle();
        const done = ring.collect();
        const broken = (driver.status & NEEDS_RESET) !== 0;
        assert(broken || done.length === heads.length);
        assertEquals(driver.status & FEATURES_OK, FEATURES_OK);
        machine.restore(machine.save());
      },
    ),
    { numRuns: 200 },
  );
});

Deno.test("any state is refused whole, or gives a device that works or needs a reset", async () => {
  await using machine = await setUp(disk());
  const { driver, device } = machine;
  const ring = driver.start(DEFAULT, 0xffff, 16);
  const good = machine.save();
  const { queues: _, ...registers } = good.transport;
  let taken = 0;
  await fc.assert(
    fc.asyncProperty(
      arbitrary(virtioBlk.state, { ram: driver.memory.ram.length }),
      fc.subarray(Object.keys(registers) as (keyof typeof registers)[]),
      fc.record({ lastAvail: fc.nat(0xffff), behind: fc.nat(3) }),
      fc.uint8Array({ minLength: 64, maxLength: 256 }),
      async (random, keep, { lastAvail, behind }, bytes) => {
        const state = structuredClone(good) as Mutable<typeof good>;
        for (const key of keep) {
          (state.transport as Record<string, unknown>)[key] =
            random.transport[key];
        }
        state.inFlight = Array.from(
          { length: behind },
          (_, head) => ({ queue: 0, head }),
        );
        const saved = state.transport.queues[0].ring!;
        saved.lastAvail = lastAvail;
        saved.usedIdx = (lastAvail - behind) & 0xffff;
        driver.memory.ram.set(bytes, ring.desc);
        const before = machine.save();
        for (const candidate of [random, state]) {
          try {
            machine.restore(candidate);
            taken++;
          } catch {
            assertEquals(machine.save(), before);
            continue;
          }
          device.resume();
          driver.notify(0);
          await machine.settle();
          machine.save();
        }
        machine.restore(good);
      },
    ),
    { numRuns: 150 },
  );
  assert(taken > 0);
});

Deno.test("a serial number that is too long is refused", async () => {
  let message = "";
  try {
    await using _ = await setUp(disk(), {
      options: { serial: "x".repeat(21) },
    });
  } catch (error) {
    message = (error as Error).message;
  }
  assertMatch(message, /21 bytes.*at most 20/);
});
