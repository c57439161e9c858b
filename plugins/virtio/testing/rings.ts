/**
 * Rings at fixed places in guest memory, for round-trip tests: each step of a scenario may run in
 * another machine, so all that a step must know is in the guest's memory.
 *
 * @module
 */
import type { TestContext } from "../../../core/testing/context.ts";
import { DRIVER_OK, F_EVENT_IDX, GuestDriver } from "./driver.ts";

/** Descriptors of each ring. */
export const RING_SIZE = 8;
const RINGS = 0x10_0000;
const RING_SPACING = 0x3000;
const AVAIL = 0x1000;
const USED = 0x2000;
const NOTIFY_AT = 0x13_f000;
const BUFFERS = 0x14_0000;
const BUFFERS_SPACING = 0x8000;
/** Bytes of a buffer at most. */
export const BUFFER_BYTES = 0x1000;
const MSI_VECTOR = 0x40;
const DESC_WRITE = 2;

/**
 * The driver of the machine's virtio function.
 *
 * @param machine The machine.
 */
export function driverOf(machine: TestContext): GuestDriver {
  const { memory } = machine;
  return GuestDriver.find({
    in: (port, size) => machine.in(port, size),
    out: (port, size, value) => machine.out(port, value, size),
    read: (address, size) => machine.load(address, size),
    write: (address, size, value) => machine.store(address, value, size),
    ram: memory.bytes.subarray(memory.ramBase, memory.ramBase + memory.ram),
  });
}

/**
 * Where the descriptors of a queue are.
 *
 * @param queue The queue.
 */
export function ringAt(queue: number): number {
  return RINGS + queue * RING_SPACING;
}

/**
 * Sets the device up with all that it offers but event indexes, and MSI-X.
 *
 * @param machine The machine.
 * @param queues How many of its queues, from 0.
 */
export function setUpRings(machine: TestContext, queues: number): void {
  const driver = driverOf(machine);
  driver.negotiate(driver.offered & ~F_EVENT_IDX);
  driver.enableMsix(MSI_VECTOR);
  driver.setCommon(0x10, 2, 0);
  for (let queue = 0; queue < queues; queue++) {
    driver.setCommon(0x16, 2, queue);
    driver.setCommon(0x18, 2, RING_SIZE);
    driver.setCommon(0x1a, 2, queue + 1);
    const at = ringAt(queue);
    driver.place(at, at + AVAIL, at + USED);
    driver.setCommon(0x1c, 2, 1);
  }
  driver.status |= DRIVER_OK;
  const { bar, offset } = driver.structures.get(2)!;
  machine.memory.writeU32(NOTIFY_AT, driver.bars[bar] + offset);
}

/**
 * Where the buffer of a descriptor is.
 *
 * @param queue The queue.
 * @param slot The descriptor.
 */
export function bufferAt(queue: number, slot: number): number {
  return BUFFERS + queue * BUFFERS_SPACING + slot * BUFFER_BYTES;
}

/**
 * Makes a request of one buffer available, without telling.
 *
 * @param machine The machine.
 * @param queue The queue.
 * @param slot The descriptor.
 * @param content Bytes for the device to read, or how many it is to write.
 */
export function offer(
  { memory }: TestContext,
  queue: number,
  slot: number,
  content: Uint8Array | number,
): void {
  const ring = ringAt(queue);
  const address = bufferAt(queue, slot);
  const isWritten = typeof content === "number";
  if (!isWritten) memory.write(address, content);
  memory.writeU64(ring + slot * 16, BigInt(address));
  memory.writeU32(
    ring + slot * 16 + 8,
    isWritten ? content : content.length,
  );
  memory.writeU32(ring + slot * 16 + 12, isWritten ? DESC_WRITE : 0);
  const index = memory.readU16(ring + AVAIL + 2);
  memory.writeU16(ring + AVAIL + 4 + index % RING_SIZE * 2, slot);
  memory.writeU16(ring + AVAIL + 2, index + 1 & 0xffff);
}

/**
 * Tells the device of requests.
 *
 * @param machine The machine.
 * @param queue The queue.
 */
export function notifyQueue(machine: TestContext, queue: number): void {
  machine.store(machine.memory.readU32(NOTIFY_AT) + 4 * queue, queue, 2);
}

/**
 * The used index of a queue, and the length of what came back last.
 *
 * @param machine The machine.
 * @param queue The queue.
 */
export function usedOf(
  { memory }: TestContext,
  queue: number,
): [index: number, length: number] {
  const used = ringAt(queue) + USED;
  const index = memory.readU16(used + 2);
  const last = used + 4 + ((index - 1) & (RING_SIZE - 1)) * 8;
  return [index, memory.readU32(last + 4)];
}
