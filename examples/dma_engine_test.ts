import { assertEquals, assertThrows } from "@std/assert";
import {
  createTestContext,
  type Scenario,
  type TestContext,
  testPlugin,
} from "@diapause/diapause";
import dmaEngine from "./dma_engine.ts";
import version1 from "./testdata/dma_engine_v1.json" with { type: "json" };

const SLOT = 1;
const COMMAND = 0x04, BAR0 = 0x10, BAR1 = 0x14, CAPABILITIES = 0x34;
const MEMORY_AND_BUS_MASTER = 0x06;
const MSIX_ID = 0x11;
const MSIX_ENABLE = 0x8000_0000;
const BASE = 0xc000_0000, MSIX_TABLE = 0xc000_1000;
const ID = 0x00, CONTROL = 0x04, ISR = 0x08, IMR = 0x0c, PERIOD = 0x10;
const TICKS = 0x14;
const RING = 0x100, SIZE = 0x108, ENABLE = 0x10c, TAIL = 0x110;
const HEAD = 0x114, FAULT = 0x118;
const SECOND_QUEUE = 0x40;
const RING_AT = 0x10_0000, SOURCE = 0x12_0000, TARGET = 0x14_0000;
const COPY = 1, FILL = 2, CRC32 = 3, INTERRUPT = 0x8000_0000;
const TIMER = 0x8000_0000;
const MS = 1_000_000;
const RATE = 1 << 20;

/** What firmware and a driver do first: BARs, decoding, bus mastering. */
function turnOn(machine: TestContext, command = MEMORY_AND_BUS_MASTER): void {
  machine.configWrite(SLOT, 0, BAR0, BASE);
  machine.configWrite(SLOT, 0, BAR1, MSIX_TABLE);
  machine.configWrite(SLOT, 0, COMMAND, command, 2);
}

function enableMsix(machine: TestContext): void {
  let at = machine.configRead(SLOT, 0, CAPABILITIES, 1);
  while (machine.configRead(SLOT, 0, at, 1) !== MSIX_ID) {
    at = machine.configRead(SLOT, 0, at + 1, 1);
  }
  for (let vector = 0; vector < 3; vector++) {
    const entry = MSIX_TABLE + 16 * vector;
    machine.store(entry, 0xfee0_0000);
    machine.store(entry + 8, 0x40 + vector);
    machine.store(entry + 12, 0);
  }
  machine.configWrite(
    SLOT,
    0,
    at,
    machine.configRead(SLOT, 0, at) | MSIX_ENABLE,
  );
}

/** Turns a queue on, its ring at the given place. */
function openQueue(
  machine: TestContext,
  ring = RING_AT,
  size = 8,
  at = 0,
): void {
  machine.store(BASE + at + RING, ring);
  machine.store(BASE + at + SIZE, size);
  machine.store(BASE + at + ENABLE, 1);
}

interface Work {
  command: number;
  length: number;
  source?: number | bigint;
  target?: number | bigint;
}

function describe(
  machine: TestContext,
  index: number,
  work: Work,
  ring = RING_AT,
): void {
  const at = ring + 32 * index;
  machine.memory.writeU32(at, work.command);
  machine.memory.writeU32(at + 4, work.length);
  machine.memory.writeU64(at + 8, BigInt(work.source ?? SOURCE));
  machine.memory.writeU64(at + 16, BigInt(work.target ?? TARGET));
  machine.memory.writeU64(at + 24, 0n);
}

function status(machine: TestContext, index: number): number {
  return machine.memory.readU32(RING_AT + 32 * index + 24);
}

function set(machine: TestContext, address: number, text: string): void {
  machine.memory.write(address, new TextEncoder().encode(text));
}

function text(machine: TestContext, address: number, length: number): string {
  return new TextDecoder().decode(machine.memory.view(address, length).slice());
}

function make() {
  const device = createTestContext(dmaEngine, { options: { rate: RATE } });
  turnOn(device.machine);
  return device;
}

/** What the golden snapshots go on with: it stays as it is. */
export const scenario: Scenario<typeof dmaEngine.options> = {
  make: () => ({ options: { rate: RATE } }),
  steps: [
    (machine) => turnOn(machine),
    (machine) => machine.load(BASE + ID),
    (machine) => machine.store(BASE + IMR, 0x8000_0003),
    (machine) => machine.store(BASE + PERIOD, 700),
    (machine) => openQueue(machine),
    (machine) => {
      set(machine, SOURCE, "copied by the engine");
      describe(machine, 0, { command: COPY, length: 2048 });
      describe(machine, 1, { command: CRC32 | INTERRUPT, length: 1024 });
      describe(machine, 2, { command: 9, length: 1 });
      machine.store(BASE + TAIL, 3);
    },
    (machine) => machine.advance(1 * MS),
    // A descriptor that is worked on was read before: this does not change it.
    (machine) => describe(machine, 0, { command: FILL, length: 16 }),
    (machine) => machine.advance(1.5 * MS),
    (machine) => machine.load(BASE + HEAD),
    (machine) => enableMsix(machine),
    (machine) => machine.advance(2 * MS),
    (machine) => [machine.load(BASE + ISR), machine.load(BASE + TICKS)],
    (machine) => machine.store(BASE + ISR, 0xffff_ffff),
    (machine) => openQueue(machine, RING_AT + 4096, 4, SECOND_QUEUE),
    (machine) => {
      const ring = RING_AT + 4096;
      describe(machine, 0, {
        command: FILL | INTERRUPT,
        length: 512,
        source: 0x55,
      }, ring);
      machine.store(BASE + SECOND_QUEUE + TAIL, 1);
    },
    (machine) => machine.store(BASE + TAIL, 100),
    (machine) => machine.advance(2 * MS),
    (machine) => machine.load(BASE + FAULT),
    (machine) => text(machine, TARGET, 20),
  ],
};

Deno.test("dma-engine survives a save at any moment, work and timer in flight", () =>
  testPlugin(dmaEngine, { ...scenario, golden: [version1] }));

Deno.test("dma-engine copies, fills and sums in the order of the ring, and takes its time", () => {
  const { machine } = make();
  openQueue(machine);
  set(machine, SOURCE, "123456789");
  describe(machine, 0, { command: COPY, length: 9 });
  describe(machine, 1, { command: CRC32, length: 9, source: TARGET });
  describe(machine, 2, {
    command: FILL,
    length: 2,
    source: 0x2a,
    target: TARGET + 7,
  });
  machine.store(BASE + TAIL, 3);
  machine.advance(9000);
  assertEquals([status(machine, 0), text(machine, TARGET, 1)], [0, "\0"]);
  machine.advance(1 * MS);
  assertEquals([0, 1, 2].map((i) => status(machine, i)), [1, 1, 1]);
  assertEquals(text(machine, TARGET, 9), "1234567**");
  // The check value of CRC-32.
  assertEquals(machine.memory.readU32(RING_AT + 32 + 28), 0xcbf43926);
  assertEquals(machine.load(BASE + HEAD), 3);
  assertEquals(machine.load(BASE + ISR), 0);
});

Deno.test("dma-engine interrupts by MSI-X where the guest enables it, and by INTx where not", () => {
  const { machine } = make();
  machine.store(BASE + IMR, TIMER | 3);
  openQueue(machine);
  describe(machine, 0, { command: INTERRUPT, length: 0 });
  describe(machine, 1, { command: INTERRUPT, length: 0 });
  machine.store(BASE + TAIL, 1);
  machine.advance(1 * MS);
  assertEquals(machine.gsiEvents.map(([, level]) => level), [true]);
  assertEquals(machine.messages, []);
  machine.store(BASE + ISR, 1);
  assertEquals(machine.gsiEvents.map(([, level]) => level), [true, false]);

  enableMsix(machine);
  machine.store(BASE + TAIL, 2);
  machine.store(BASE + PERIOD, 600);
  machine.advance(1 * MS);
  assertEquals(machine.messages.map(({ vector }) => vector), [0x40, 0x42]);
  assertEquals(machine.gsiEvents.length, 2);
  assertEquals(machine.load(BASE + TICKS), 1);
});

Deno.test("dma-engine answers hostile descriptors with an error, and goes on", () => {
  const { machine } = make();
  openQueue(machine);
  const RAM = 16 << 20;
  const hostile: [Work, number][] = [
    [{ command: 4, length: 1 }, 0x8000_0001],
    [{ command: COPY, length: 0xffff_ffff }, 0x8000_0002],
    [{ command: COPY, length: 2, source: RAM - 1 }, 0x8000_0003],
    [
      { command: CRC32, length: 1, source: 0xffff_ffff_ffff_ffffn },
      0x8000_0003,
    ],
    [{ command: COPY, length: 2, target: RAM - 1 }, 0x8000_0004],
    [{ command: FILL, length: 1, target: BASE }, 0x8000_0004],
    [{ command: COPY, length: 4 }, 1],
  ];
  hostile.forEach(([work], i) => describe(machine, i, work));
  machine.store(BASE + TAIL, hostile.length);
  machine.advance(10_000 * MS);
  assertEquals(
    hostile.map((_, i) => status(machine, i)),
    hostile.map(([, expected]) => expected),
  );
  assertEquals(machine.load(BASE + ISR), 1);
  assertEquals(machine.load(BASE + FAULT), 0);
});

Deno.test("dma-engine stops a queue with a wrong ring, and starts it again", () => {
  const { machine } = make();
  const faultOf = (ring: number, size: number) => {
    machine.store(BASE + ENABLE, 0);
    openQueue(machine, ring, size);
    return machine.load(BASE + FAULT);
  };
  assertEquals(faultOf(RING_AT + 4, 8), 1);
  assertEquals(faultOf(RING_AT, 7), 1);
  assertEquals(faultOf(RING_AT, 512), 1);
  assertEquals(faultOf(0xffff_ffe0, 8), 1);
  assertEquals(faultOf(RING_AT, 8), 0);
  machine.store(BASE + TAIL, 8);
  assertEquals(machine.load(BASE + FAULT), 2);
  assertEquals(faultOf(RING_AT, 8), 0);
  machine.configWrite(SLOT, 0, COMMAND, 0x02, 2);
  machine.store(BASE + TAIL, 1);
  assertEquals(machine.load(BASE + FAULT), 3);
  machine.store(BASE + CONTROL, 1);
  assertEquals([ENABLE, SIZE, FAULT].map((at) => machine.load(BASE + at)), [
    0,
    0,
    0,
  ]);
});

Deno.test("dma-engine refuses a snapshot that no guest could have brought about", () => {
  const { machine, save, restore } = make();
  openQueue(machine);
  describe(machine, 0, { command: COPY, length: 4 });
  machine.store(BASE + TAIL, 1);
  const good = save();
  const refuse = (
    change: (queue: typeof good.queues[number]) => void,
    message: string,
  ) => {
    const altered = structuredClone(good);
    change(altered.queues[0]);
    assertThrows(() => make().restore(altered), Error, message);
  };
  refuse(
    (queue) => queue.ring!.address = 0xffff_f000n,
    "wholly inside guest RAM",
  );
  refuse((queue) => queue.ring!.address += 32n, "queues[0].ring");
  refuse((queue) => queue.head = 8, "queues[0].head");
  refuse((queue) => queue.tail = 9, "queues[0].tail");
  refuse((queue) => queue.done = null, "queues[0].done");
  refuse((queue) => queue.fault = 4, "an integer from 0 to 3");
  restore(good);
});
