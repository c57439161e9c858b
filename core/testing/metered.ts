/**
 * Guest memory as a device under test sees it: it tells where the device reads and writes, and
 * ends what would go on without end.
 *
 * @module
 */
import type { DmaMemory } from "../plugin.ts";

/** Accesses that one operation of a guest may cause at most. */
const LIMIT = 2_000_000;
/** Places that are remembered. */
const REMEMBERED = 32;

/** Counts what a device does. */
export class Meter {
  /** Addresses that the device last read or wrote, the newest last. */
  recent: number[] = [];
  /** Bytes that the device has moved in this operation. */
  bytes = 0;
  #count = 0;

  /** Accesses of the device in this operation. */
  get accesses(): number {
    return this.#count;
  }

  /** A new operation of the guest begins. */
  restart(): void {
    this.#count = 0;
    this.bytes = 0;
  }

  /**
   * The device did something.
   *
   * @throws {Error} When it has done too much in one operation.
   */
  count(): void {
    if (++this.#count > LIMIT) {
      throw new Error(
        `more than ${LIMIT} accesses in one operation: expected an end`,
      );
    }
  }

  /** The device accessed guest memory. */
  touch(address: number): void {
    this.count();
    const { recent } = this;
    if (recent.at(-1) === address || recent.includes(address)) return;
    recent.push(address);
    if (recent.length > REMEMBERED) recent.shift();
  }
}

/**
 * Puts a meter before guest memory.
 *
 * @param memory The memory.
 * @param meter The meter.
 * @returns What `ctx.memory` is.
 */
export function metered(memory: DmaMemory, meter: Meter): DmaMemory {
  const through = <A extends unknown[], R>(
    access: (address: number, ...rest: A) => R,
  ) =>
  (address: number, ...rest: A): R => {
    meter.touch(address);
    return access.call(memory, address, ...rest);
  };
  const block =
    <R>(access: (address: number, bytes: Uint8Array) => R) =>
    (address: number, bytes: Uint8Array): R => {
      meter.touch(address);
      meter.bytes += bytes.length;
      return access.call(memory, address, bytes);
    };
  return {
    contains: (address, length) => {
      meter.count();
      return memory.contains(address, length);
    },
    view: through(memory.view),
    read: block(memory.read),
    write: block(memory.write),
    readU8: through(memory.readU8),
    readU16: through(memory.readU16),
    readU32: through(memory.readU32),
    readU64: through(memory.readU64),
    writeU8: through(memory.writeU8),
    writeU16: through(memory.writeU16),
    writeU32: through(memory.writeU32),
    writeU64: through(memory.writeU64),
  };
}
