/**
 * virtio-blk, saved and restored at any moment, with requests in flight.
 */
import type { TestContext } from "../../core/testing/context.ts";
import { testRoundTrip } from "../../tests/golden.ts";
import virtioBlk from "./blk.ts";
import { DRIVER_OK, F_EVENT_IDX, GuestDriver } from "./testing/driver.ts";

/** Where the scenario keeps its rings and buffers, and what the next step must know. */
const RING = { desc: 0x10_0000, avail: 0x10_1000, used: 0x10_2000, size: 8 };
const HEADERS = 0x10_4000, DATA = 0x10_8000, STATUSES = 0x10_5000;
const NOTIFY_AT = 0x10_6000;
const [T_IN, T_OUT, T_FLUSH, T_GET_ID, T_WRITE_ZEROES] = [0, 1, 4, 8, 13];
const DESC_NEXT = 1, DESC_WRITE = 2;

/** Finds the disk, places its BARs, and makes one queue of eight. */
function setUpQueue(machine: TestContext, msix: boolean): void {
  const { memory } = machine;
  const driver = GuestDriver.find({
    in: (port, size) => machine.in(port, size),
    out: (port, size, value) => machine.out(port, value, size),
    read: (address, size) => machine.load(address, size),
    write: (address, size, value) => machine.store(address, value, size),
    ram: memory.bytes.subarray(memory.ramBase, memory.ramBase + memory.ram),
  });
  driver.negotiate(driver.offered & ~F_EVENT_IDX);
  driver.setCommon(0x16, 2, 0);
  driver.setCommon(0x18, 2, RING.size);
  if (msix) {
    driver.enableMsix(0x40);
    driver.setCommon(0x10, 2, 0);
    driver.setCommon(0x1a, 2, 1);
  }
  driver.place(RING.desc, RING.avail, RING.used);
  driver.setCommon(0x1c, 2, 1);
  driver.status |= DRIVER_OK;
  const { bar, offset } = driver.structures.get(2)!;
  memory.writeU32(NOTIFY_AT, driver.bars[bar] + offset);
}

/** Makes a request available: its header, data and status are three descriptors from `3 * slot`. */
function request(
  { memory }: TestContext,
  slot: number,
  type: number,
  sector: number,
  length: number,
  fill?: number,
): void {
  const header = HEADERS + slot * 16;
  const data = DATA + slot * 0x1000;
  memory.writeU32(header, type);
  memory.writeU64(header + 8, BigInt(sector));
  if (fill !== undefined) memory.write(data, new Uint8Array(length).fill(fill));
  const toDevice = type === T_OUT || type === T_WRITE_ZEROES;
  const buffers = [
    { address: header, length: 16, flags: 0 },
    { address: data, length, flags: toDevice ? 0 : DESC_WRITE },
    { address: STATUSES + slot, length: 1, flags: DESC_WRITE },
  ].filter((buffer) => buffer.length > 0);
  buffers.forEach(({ address, length, flags }, i) => {
    const at = RING.desc + (slot * 3 + i) * 16;
    const last = i === buffers.length - 1;
    memory.writeU64(at, BigInt(address));
    memory.writeU32(at + 8, length);
    memory.writeU16(at + 12, flags | (last ? 0 : DESC_NEXT));
    memory.writeU16(at + 14, last ? 0 : slot * 3 + i + 1);
  });
  memory.writeU8(STATUSES + slot, 0xff);
  const index = memory.readU16(RING.avail + 2);
  memory.writeU16(RING.avail + 4 + (index % RING.size) * 2, slot * 3);
  memory.writeU16(RING.avail + 2, index + 1 & 0xffff);
}

function notify(machine: TestContext): void {
  machine.store(machine.memory.readU32(NOTIFY_AT), 0, 2);
}

/** What the driver sees: the used ring, and the statuses of two requests. */
function outcome({ memory }: TestContext) {
  return [
    memory.readU16(RING.used + 2),
    memory.readU8(STATUSES),
    memory.readU8(STATUSES + 1),
    memory.readU32(DATA),
  ];
}

testRoundTrip(virtioBlk, {
  steps: [
    (machine) => setUpQueue(machine, true),
    (machine) => request(machine, 0, T_OUT, 3, 1024, 0xa5),
    (machine) => notify(machine),
    outcome,
    // A request made available, and not announced.
    (machine) => request(machine, 0, T_IN, 4, 512),
    (machine) => notify(machine),
    outcome,
    // Two in flight, answered late, the second first.
    (machine) => machine.block.hold(),
    (machine) => request(machine, 0, T_OUT, 8, 2048, 0x11),
    (machine) => notify(machine),
    (machine) => request(machine, 1, T_IN, 3, 512),
    (machine) => notify(machine),
    (machine) => machine.block.answer(1),
    outcome,
    (machine) => machine.block.answer(),
    outcome,
    (machine) => machine.block.release(),
    // Flush, identity, and a request that asks for too much.
    (machine) => request(machine, 0, T_FLUSH, 0, 0),
    (machine) => request(machine, 1, T_GET_ID, 0, 20),
    (machine) => notify(machine),
    outcome,
    (machine) => request(machine, 0, T_IN, 1 << 20, 512),
    (machine) => notify(machine),
    outcome,
    // The driver starts again, with a line instead of messages and requests in flight.
    (machine) => machine.block.hold(),
    (machine) => request(machine, 0, T_OUT, 1, 512, 0x77),
    (machine) => notify(machine),
    (machine) => {
      machine.memory.write(RING.avail, new Uint8Array(0x2000));
      machine.configWrite(1, 0, 4, 7, 2);
      setUpQueue(machine, false);
    },
    (machine) => machine.block.release(),
    (machine) => request(machine, 1, T_IN, 1, 512),
    (machine) => notify(machine),
    outcome,
  ],
}, import.meta.url);
