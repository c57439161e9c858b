import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { TestNet } from "../../core/testing/backends.ts";
import {
  createTestContext,
  type TestContext,
} from "../../core/testing/context.ts";
import { testRoundTrip } from "../../tests/golden.ts";
import { addWords, fold, parseMac, word } from "../net/frame.ts";
import { BROADCAST, frameTo } from "../net/testing.ts";
import virtioNet from "./net.ts";
import {
  DRIVER_OK,
  F_EVENT_IDX,
  F_INDIRECT,
  F_VERSION_1,
  GuestDriver,
  type GuestRing,
  NEEDS_RESET,
} from "./testing/driver.ts";

const MAC = parseMac("52:54:00:12:34:56")!;
const PEER = parseMac("52:54:00:65:43:21")!;
const RAM = 16 << 20;
const HEADER = 12;
const F = {
  CSUM: 1n << 0n,
  MRG_RXBUF: 1n << 15n,
  STATUS: 1n << 16n,
  CTRL_VQ: 1n << 17n,
  CTRL_RX: 1n << 18n,
  CTRL_VLAN: 1n << 19n,
  ANNOUNCE: 1n << 21n,
  MQ: 1n << 22n,
};
const RX = 0, TX = 1, CONTROL = 2;

function driverOf(machine: TestContext): GuestDriver {
  const { memory } = machine;
  return GuestDriver.find({
    in: (port, size) => machine.in(port, size),
    out: (port, size, value) => machine.out(port, value, size),
    read: (address, size) => machine.load(address, size),
    write: (address, size, value) => machine.store(address, value, size),
    ram: memory.bytes.subarray(memory.ramBase, memory.ramBase + memory.ram),
  });
}

/** A card with its driver and three queues. */
class Card {
  readonly net = new TestNet();
  readonly device;
  readonly machine: TestContext;
  readonly driver: GuestDriver;
  readonly rings: GuestRing[];

  constructor(
    features?: bigint,
    options: { mtu?: number; queues?: number } = {},
  ) {
    this.device = createTestContext(virtioNet, {
      options: { mac: "52:54:00:12:34:56", ...options },
      backend: this.net,
      ram: RAM,
      clock: "realtime",
    });
    this.machine = this.device.machine;
    this.device.instance.start();
    this.driver = driverOf(this.machine);
    this.driver.negotiate(features ?? this.driver.offered & ~F_EVENT_IDX);
    const count = 2 * (options.queues ?? 1) + 1;
    this.rings = Array.from(
      { length: count },
      (_, i) => this.driver.queue(i),
    );
    this.driver.status |= DRIVER_OK;
  }

  /** Gives the card room for frames. */
  give(count: number, size = 2048, queue = RX): number[] {
    const addresses: number[] = [];
    for (let i = 0; i < count; i++) {
      const address = this.driver.memory.allocate(size);
      addresses.push(address);
      this.rings[queue].add([{ address, length: size, write: true }]);
    }
    this.driver.notify(queue);
    return addresses;
  }

  /** Sends a frame with a header. */
  send(frame: Uint8Array, header: readonly number[] = []): void {
    const { memory } = this.driver;
    const at = memory.allocate(HEADER + frame.length);
    memory.ram.fill(0, at, at + HEADER);
    memory.ram.set(header, at);
    memory.ram.set(frame, at + HEADER);
    this.rings[TX].add([
      { address: at, length: HEADER },
      { address: at + HEADER, length: frame.length },
    ]);
    this.driver.notify(TX);
  }

  /** Gives a control command; returns its status. */
  command(kind: number, command: number, data: readonly number[]): number {
    const { memory } = this.driver;
    const at = memory.allocate(2 + data.length);
    memory.ram.set([kind, command, ...data], at);
    const status = memory.allocate(1);
    memory.ram[status] = 0xee;
    const queue = this.rings.length - 1;
    this.rings[queue].add([
      { address: at, length: 2 },
      { address: at + 2, length: data.length },
      { address: status, length: 1, write: true },
    ].filter(({ length }) => length > 0));
    this.driver.notify(queue);
    return memory.ram[status];
  }

  bytes(address: number, length: number): Uint8Array {
    return this.driver.memory.bytes(address, length).slice();
  }

  /** Whether a frame gets past the filters. */
  takes(frame: Uint8Array): boolean {
    this.give(1);
    this.net.receive(frame);
    return this.rings[RX].collect().length === 1;
  }
}

Deno.test("configuration tells address, link and MTU", () => {
  const card = new Card(undefined, { mtu: 9000 });
  const bytes = Array.from({ length: 12 }, (_, i) => card.driver.device(i, 1));
  assertEquals(bytes, [...MAC, 1, 0, 1, 0, 0x28, 0x23]);
});

Deno.test("a frame that the guest sends reaches the network", () => {
  const card = new Card();
  const frame = frameTo(PEER, MAC, 300);
  card.send(frame);
  assertEquals(card.net.frames, [frame]);
  assertEquals(card.rings[TX].collect().length, 1);
});

Deno.test("frames wait while the network is full, and are sent once and in order", () => {
  const card = new Card();
  card.net.block();
  for (let i = 0; i < 3; i++) card.send(frameTo(PEER, MAC, 60 + i));
  assertEquals(card.rings[TX].collect(), []);
  card.net.drain();
  assertEquals(card.net.frames.map(({ length }) => length), [74, 75, 76]);
  assertEquals(card.rings[TX].collect().length, 3);
});

Deno.test("a received frame has a header and one interrupt", () => {
  const card = new Card();
  const [at] = card.give(1);
  const frame = frameTo(MAC, PEER, 500);
  card.net.receive(frame);
  const [{ length }] = card.rings[RX].collect();
  assertEquals(length, HEADER + frame.length);
  assertEquals([...card.bytes(at, HEADER)], [
    ...new Array(10).fill(0),
    1,
    0,
  ]);
  assertEquals(card.bytes(at + HEADER, frame.length), frame);
});

Deno.test("a long frame is merged over several buffers", () => {
  const card = new Card();
  const addresses = card.give(4, 400);
  const frame = frameTo(MAC, PEER, 1000);
  card.net.receive(frame);
  const used = card.rings[RX].collect();
  assertEquals(used.map(({ length }) => length), [400, 400, 226]);
  assertEquals(card.bytes(addresses[0] + 10, 1)[0], 3);
  const all = addresses.slice(0, 3).flatMap((at, i) => [
    ...card.bytes(at, used[i].length),
  ]);
  assertEquals(all.slice(HEADER), [...frame]);
});

Deno.test("a frame waits until there are buffers enough, and none is lost", () => {
  const card = new Card();
  card.give(1, 400);
  card.net.receive(frameTo(MAC, PEER, 1000));
  assertEquals(card.net.waiting, 1);
  assertEquals(card.rings[RX].collect(), []);
  card.give(3, 400);
  assertEquals(card.net.waiting, 0);
  assertEquals(card.rings[RX].collect().length, 3);
});

Deno.test("the card adds the checksum that the driver left to it", () => {
  const card = new Card();
  const frame = frameTo(PEER, MAC, 100);
  frame.fill(0, 30, 32);
  card.send(frame, [1, 0, 0, 0, 0, 0, 14, 0, 16, 0]);
  const [sent] = card.net.frames;
  assertEquals(fold(addWords(sent, 14, sent.length)), 0);
});

Deno.test("a long TCP segment is split into frames with their own sums", () => {
  const card = new Card();
  const frame = frameTo(PEER, MAC, 40 + 4000, 0x0800);
  frame.fill(0, 14, 54);
  frame[14] = 0x45;
  frame[23] = 6;
  frame.set([10, 0, 2, 15, 10, 0, 2, 2], 26);
  frame[46] = 0x50;
  card.send(frame, [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0]);
  const sent = card.net.frames;
  assertEquals(sent.map(({ length }) => length), [1514, 1514, 1134]);
  for (const part of sent) {
    const end = 14 + word(part, 16);
    const pseudo = addWords(part, 26, 34) + 6 + end - 34;
    assertEquals(fold(addWords(part, 34, end, pseudo)), 0);
  }
});

Deno.test("filters follow the control queue", () => {
  const card = new Card();
  const group = Uint8Array.of(1, 0, 0x5e, 0, 0, 0xfb);
  assertEquals(card.takes(frameTo(MAC, PEER, 60)), true);
  assertEquals(card.takes(frameTo(PEER, PEER, 60)), false);
  assertEquals(card.takes(frameTo(BROADCAST, PEER, 60)), true);
  assertEquals(card.takes(frameTo(group, PEER, 60)), false);
  assertEquals(card.command(1, 0, [0, 0, 0, 0, 1, 0, 0, 0, ...group]), 0);
  assertEquals(card.takes(frameTo(group, PEER, 60)), true);
  assertEquals(card.command(0, 0, [1]), 0);
  assertEquals(card.takes(frameTo(PEER, PEER, 60)), true);
  assertEquals(card.command(0, 0, [0]), 0);
  assertEquals(card.command(1, 1, [...PEER]), 0);
  assertEquals(card.takes(frameTo(PEER, MAC, 60)), true);
  assertEquals(card.takes(frameTo(MAC, PEER, 60)), false);
});

Deno.test("VLAN filter lets through what was added", () => {
  const card = new Card();
  const frame = frameTo(MAC, PEER, 60, 0x8100);
  frame.set([0, 7], 14);
  assertEquals(card.takes(frame), false);
  assertEquals(card.command(2, 0, [7, 0]), 0);
  assertEquals(card.takes(frame), true);
  assertEquals(card.command(2, 1, [7, 0]), 0);
  assertEquals(card.takes(frame), false);
});

Deno.test("commands that are none are refused", () => {
  const card = new Card();
  const ERROR = 1;
  for (
    const [kind, command, data] of [
      [9, 0, []],
      [0, 9, [1]],
      [0, 0, []],
      [1, 0, [255, 255, 255, 255]],
      [1, 1, [1, 2, 3]],
      [2, 0, [0xff, 0xff]],
      [4, 0, [9, 0]],
    ] as const
  ) assertEquals(card.command(kind, command, data), ERROR);
});

Deno.test("the link shows in the configuration, and the guest is asked to announce itself", () => {
  const card = new Card();
  card.net.link = false;
  assertEquals(card.driver.device(6, 2), 0);
  card.net.link = true;
  assertEquals(card.driver.device(6, 2), 3);
  assertEquals(card.command(3, 0, []), 0);
  assertEquals(card.driver.device(6, 2), 1);
});

Deno.test("several pairs: flows are spread, and one flow stays in its queue", () => {
  const card = new Card(undefined, { queues: 4 });
  for (let pair = 0; pair < 4; pair++) card.give(20, 2048, 2 * pair);
  assertEquals(card.command(4, 0, [4, 0]), 0);
  const counts = new Map<number, number>();
  for (let flow = 0; flow < 16; flow++) {
    const frame = frameTo(MAC, PEER, 60, 0x0800);
    frame.fill(0, 14, 58);
    frame[37] = flow;
    card.net.receive(frame);
    card.net.receive(frame);
    const [queue, ...others] = [0, 2, 4, 6].filter((queue) =>
      card.rings[queue].collect().length === 2
    );
    assertEquals(others, []);
    counts.set(queue, (counts.get(queue) ?? 0) + 1);
  }
  assertEquals(counts.size, 4);
});

Deno.test("a driver that breaks the rules stops the card, and nothing else", () => {
  const card = new Card();
  const { memory } = card.driver;
  const at = memory.allocate(4);
  card.rings[TX].add([{ address: at, length: 4 }]);
  card.driver.notify(TX);
  assertEquals(card.driver.status & NEEDS_RESET, NEEDS_RESET);
  assertMatch(card.machine.logged[0], /queue 1: request 0 has no header of 12/);
  card.net.receive(frameTo(MAC, PEER, 60));
  const other = new Card(
    F_VERSION_1 | F.CSUM | F.MRG_RXBUF | F.STATUS | F_INDIRECT,
  );
  other.give(1, 4);
  other.net.receive(frameTo(MAC, PEER, 60));
  assertEquals(other.net.waiting, 1);
});

Deno.test("an address that is none is refused", () => {
  assertThrows(
    () =>
      createTestContext(virtioNet, {
        options: { mac: "nonsense" },
        backend: new TestNet(),
      }),
    Error,
    'mac "nonsense": expected six bytes',
  );
});

/** Where the round trip keeps its rings: at fixed places, for the next step may run in another machine. */
const RING_SIZE = 8;
const ringAt = (queue: number) => 0x10_0000 + queue * 0x3000;
const BUFFERS = 0x12_0000;
const NOTIFY_AT = 0x11_f000;

function setUpQueues(machine: TestContext): void {
  const driver = driverOf(machine);
  driver.negotiate(driver.offered & ~F_EVENT_IDX);
  driver.enableMsix(0x40);
  for (const queue of [RX, TX, CONTROL]) {
    driver.setCommon(0x16, 2, queue);
    driver.setCommon(0x18, 2, RING_SIZE);
    driver.setCommon(0x1a, 2, queue + 1);
    const at = ringAt(queue);
    driver.place(at, at + 0x1000, at + 0x2000);
    driver.setCommon(0x1c, 2, 1);
  }
  driver.status |= DRIVER_OK;
  const { bar, offset } = driver.structures.get(2)!;
  machine.memory.writeU32(NOTIFY_AT, driver.bars[bar] + offset);
}

/** Makes one buffer available. */
function offer(
  { memory }: TestContext,
  queue: number,
  slot: number,
  length: number,
  isWritten: boolean,
): number {
  const ring = ringAt(queue);
  const address = BUFFERS + queue * 0x8000 + slot * 0x800;
  memory.writeU64(ring + slot * 16, BigInt(address));
  memory.writeU32(ring + slot * 16 + 8, length);
  memory.writeU32(ring + slot * 16 + 12, isWritten ? 2 : 0);
  const index = memory.readU16(ring + 0x1002);
  memory.writeU16(ring + 0x1004 + index % RING_SIZE * 2, slot);
  memory.writeU16(ring + 0x1002, index + 1 & 0xffff);
  return address;
}

function notifyQueue(machine: TestContext, queue: number): void {
  machine.store(machine.memory.readU32(NOTIFY_AT) + 4 * queue, queue, 2);
}

function transmit(machine: TestContext, slot: number, length: number): void {
  const at = offer(machine, TX, slot, HEADER + length, false);
  machine.memory.write(at, new Uint8Array(HEADER));
  machine.memory.write(at + HEADER, frameTo(PEER, MAC, length - 14));
  notifyQueue(machine, TX);
}

function usedIndexes({ memory }: TestContext): number[] {
  return [RX, TX, CONTROL].map((queue) =>
    memory.readU16(ringAt(queue) + 0x2002)
  );
}

testRoundTrip(virtioNet, {
  make: () => ({ options: { mac: "52:54:00:12:34:56" } }),
  steps: [
    setUpQueues,
    (machine) => transmit(machine, 0, 100),
    (machine) => machine.nets[0].block(),
    (machine) => transmit(machine, 1, 200),
    (machine) => machine.nets[0].drain(),
    usedIndexes,
    (machine) => {
      const at = offer(machine, CONTROL, 0, 3, false);
      machine.memory.write(at, Uint8Array.of(2, 0, 5));
      notifyQueue(machine, CONTROL);
    },
    usedIndexes,
    (machine) => void (machine.nets[0].link = false),
    (machine) => void (machine.nets[0].link = true),
    (machine) => machine.nets[0].receive(frameTo(MAC, PEER, 900)),
    (machine) => void offer(machine, RX, 0, 500, true),
    (machine) => notifyQueue(machine, RX),
    (machine) => void offer(machine, RX, 1, 500, true),
    (machine) => notifyQueue(machine, RX),
    usedIndexes,
  ],
}, import.meta.url);
