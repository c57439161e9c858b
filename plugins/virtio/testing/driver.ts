/**
 * A small guest driver for tests: finds a virtio function on the PCI bus through ports 0xCF8 and 0xCFC, sets it up
 * by the modern or the legacy interface, and keeps its split rings in guest memory: virtio 1.2, sections 3.1 and 4.1.
 *
 * @module
 */

/** The guest's view of the machine. */
export interface GuestBus {
  in(port: number, size: 1 | 2 | 4): number;
  out(port: number, size: 1 | 2 | 4, value: number): void;
  read(address: number, size: 1 | 2 | 4): number;
  write(address: number, size: 1 | 2 | 4, value: number): void;
  /** Guest RAM from address 0. */
  readonly ram: Uint8Array;
}

const CONFIG_ADDRESS = 0xcf8;
const CONFIG_DATA = 0xcfc;
const CONFIG_ENABLE = 0x8000_0000;
const VIRTIO_VENDOR = 0x1af4;
/** Where the driver puts BARs. */
const IO_BASE = 0xc000;
const MEMORY_BASE = 0xf000_0000;
const BAR_SPACING = 0x10_0000;
const MSI_ADDRESS = 0xfee0_0000;
const COMMAND_IO_MEMORY_MASTER = 7;

export const ACKNOWLEDGE = 1;
export const DRIVER = 2;
export const DRIVER_OK = 4;
export const FEATURES_OK = 8;
export const NEEDS_RESET = 64;

export const F_INDIRECT = 1n << 28n;
export const F_EVENT_IDX = 1n << 29n;
export const F_VERSION_1 = 1n << 32n;
export const F_RING_RESET = 1n << 40n;

const DESC_F_NEXT = 1;
const DESC_F_WRITE = 2;
const DESC_F_INDIRECT = 4;

/** A descriptor as a test writes it. */
export interface Descriptor {
  address: number | bigint;
  length: number;
  flags?: number;
  next?: number;
}

/** One buffer of a request. */
export interface Buffer {
  address: number;
  length: number;
  /** The device writes it. */
  write?: boolean;
}

/** Hands out guest memory from 1 MiB on. */
export class GuestMemory {
  readonly view: DataView;
  #next = 0x10_0000;

  constructor(readonly ram: Uint8Array) {
    this.view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
  }

  allocate(length: number, alignment = 16): number {
    const at = Math.ceil(this.#next / alignment) * alignment;
    this.#next = at + length;
    if (this.#next > this.ram.length) throw new RangeError("guest memory full");
    this.ram.fill(0, at, at + length);
    return at;
  }

  bytes(address: number, length: number): Uint8Array {
    return this.ram.subarray(address, address + length);
  }
}

/** A split ring, the driver's side. */
export class GuestRing {
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  #free = 0;
  #availIdx = 0;
  #usedIdx = 0;

  constructor(
    readonly memory: GuestMemory,
    readonly size: number,
    legacy = false,
  ) {
    if (legacy) {
      const usedAt = Math.ceil((16 * size + 6 + 2 * size) / 4096) * 4096;
      this.desc = memory.allocate(usedAt + 6 + 8 * size, 4096);
      this.avail = this.desc + 16 * size;
      this.used = this.desc + usedAt;
    } else {
      this.desc = memory.allocate(16 * size, 16);
      this.avail = memory.allocate(6 + 2 * size, 2);
      this.used = memory.allocate(6 + 8 * size, 4);
    }
  }

  /** Writes a descriptor of a table. */
  describe(index: number, descriptor: Descriptor, table = this.desc): void {
    const { view } = this.memory;
    const at = table + index * 16;
    view.setBigUint64(at, BigInt.asUintN(64, BigInt(descriptor.address)), true);
    view.setUint32(at + 8, descriptor.length, true);
    view.setUint16(at + 12, descriptor.flags ?? 0, true);
    view.setUint16(at + 14, descriptor.next ?? 0, true);
  }

  /** Makes a head available. */
  offer(head: number): void {
    const { view } = this.memory;
    const slot = this.#availIdx % this.size;
    view.setUint16(this.avail + 4 + slot * 2, head, true);
    this.#availIdx = (this.#availIdx + 1) & 0xffff;
    view.setUint16(this.avail + 2, this.#availIdx, true);
  }

  /** Writes a chain into the next free descriptors (round robin) and makes it available. */
  add(buffers: Buffer[], indirect = false): number {
    const count = indirect ? 1 : buffers.length;
    if (this.#free + count > this.size) this.#free = 0;
    const head = this.#free;
    this.#free += count;
    const table = indirect
      ? this.memory.allocate(16 * buffers.length)
      : this.desc;
    const first = indirect ? 0 : head;
    buffers.forEach(({ address, length, write }, i) => {
      const last = i === buffers.length - 1;
      this.describe(first + i, {
        address,
        length,
        flags: (last ? 0 : DESC_F_NEXT) | (write ? DESC_F_WRITE : 0),
        next: last ? 0 : first + i + 1,
      }, table);
    });
    if (indirect) {
      this.describe(head, {
        address: table,
        length: 16 * buffers.length,
        flags: DESC_F_INDIRECT,
      });
    }
    this.offer(head);
    return head;
  }

  /** Takes what the device has given back. */
  collect(): { head: number; length: number }[] {
    const { view } = this.memory;
    const done = [];
    while (this.#usedIdx !== view.getUint16(this.used + 2, true)) {
      const at = this.used + 4 + (this.#usedIdx % this.size) * 8;
      done.push({
        head: view.getUint32(at, true),
        length: view.getUint32(at + 4, true),
      });
      this.#usedIdx = (this.#usedIdx + 1) & 0xffff;
    }
    return done;
  }

  get availIdx(): number {
    return this.#availIdx;
  }

  /** avail.flags: 1 asks for no interrupts. */
  set noInterrupt(value: boolean) {
    this.memory.view.setUint16(this.avail, value ? 1 : 0, true);
  }

  /** used_event: interrupt when the used index passes it. */
  set usedEvent(value: number) {
    this.memory.view.setUint16(this.avail + 4 + this.size * 2, value, true);
  }

  /** avail_event: the device wants to hear when the available index passes it. */
  get availEvent(): number {
    return this.memory.view.getUint16(this.used + 4 + this.size * 8, true);
  }
}

/** Where a capability says a structure is. */
interface Structure {
  bar: number;
  offset: number;
  length: number;
  at: number;
}

/** The driver. */
export class GuestDriver {
  readonly memory: GuestMemory;
  readonly bars: number[] = [];
  readonly structures = new Map<number, Structure>();
  /** Offset of the MSI-X capability. */
  msixAt = 0;
  notifyMultiplier = 0;

  constructor(readonly bus: GuestBus, readonly slot: number) {
    this.memory = new GuestMemory(bus.ram);
    this.#assignBars();
    this.#walkCapabilities();
  }

  /** The first virtio function on bus 0. */
  static find(bus: GuestBus): GuestDriver {
    for (let slot = 0; slot < 32; slot++) {
      bus.out(CONFIG_ADDRESS, 4, CONFIG_ENABLE | slot << 11);
      if ((bus.in(CONFIG_DATA, 4) & 0xffff) === VIRTIO_VENDOR) {
        return new GuestDriver(bus, slot);
      }
    }
    throw new Error("no virtio function on bus 0");
  }

  config(offset: number, size: 1 | 2 | 4): number {
    const address = CONFIG_ENABLE | this.slot << 11 | offset & 0xfc;
    this.bus.out(CONFIG_ADDRESS, 4, address >>> 0);
    return this.bus.in(CONFIG_DATA + (offset & 3), size);
  }

  setConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    const address = CONFIG_ENABLE | this.slot << 11 | offset & 0xfc;
    this.bus.out(CONFIG_ADDRESS, 4, address >>> 0);
    this.bus.out(CONFIG_DATA + (offset & 3), size, value >>> 0);
  }

  #assignBars(): void {
    for (let i = 0; i < 6; i++) {
      const at = 0x10 + i * 4;
      this.setConfig(at, 4, 0xffff_ffff);
      const mask = this.config(at, 4);
      if (mask === 0) continue;
      if ((mask & 1) !== 0) {
        this.bars[i] = IO_BASE + i * 0x100;
        this.setConfig(at, 4, this.bars[i]);
      } else {
        this.bars[i] = MEMORY_BASE + i * BAR_SPACING;
        this.setConfig(at, 4, this.bars[i]);
        if ((mask & 6) === 4) this.setConfig(0x10 + ++i * 4, 4, 0);
      }
    }
    this.setConfig(4, 2, COMMAND_IO_MEMORY_MASTER);
  }

  #walkCapabilities(): void {
    for (let at = this.config(0x34, 1); at !== 0; at = this.config(at + 1, 1)) {
      const id = this.config(at, 1);
      if (id === 0x11) this.msixAt = at;
      if (id !== 0x09) continue;
      const type = this.config(at + 3, 1);
      this.structures.set(type, {
        at,
        bar: this.config(at + 4, 1),
        offset: this.config(at + 8, 4),
        length: this.config(at + 12, 4),
      });
      if (type === 2) this.notifyMultiplier = this.config(at + 16, 4);
    }
  }

  #address(type: number, offset: number): number {
    const { bar, offset: base } = this.structures.get(type)!;
    return this.bars[bar] + base + offset;
  }

  common(offset: number, size: 1 | 2 | 4): number {
    return this.bus.read(this.#address(1, offset), size);
  }

  setCommon(offset: number, size: 1 | 2 | 4, value: number): void {
    this.bus.write(this.#address(1, offset), size, value);
  }

  /** Reads and clears the ISR. */
  isr(): number {
    return this.bus.read(this.#address(3, 0), 1);
  }

  device(offset: number, size: 1 | 2 | 4): number {
    return this.bus.read(this.#address(4, offset), size);
  }

  setDevice(offset: number, size: 1 | 2 | 4, value: number): void {
    this.bus.write(this.#address(4, offset), size, value);
  }

  get status(): number {
    return this.common(0x14, 1);
  }
  set status(value: number) {
    this.setCommon(0x14, 1, value);
  }

  get offered(): bigint {
    let features = 0n;
    for (const half of [0, 1]) {
      this.setCommon(0x00, 4, half);
      features |= BigInt(this.common(0x04, 4)) << BigInt(half * 32);
    }
    return features;
  }

  accept(features: bigint): void {
    for (const half of [0, 1]) {
      this.setCommon(0x08, 4, half);
      this.setCommon(
        0x0c,
        4,
        Number(features >> BigInt(half * 32) & 0xffff_ffffn),
      );
    }
  }

  /** Section 3.1.1 up to FEATURES_OK. @returns whether the device took the features. */
  negotiate(features: bigint): boolean {
    this.status = 0;
    this.status = ACKNOWLEDGE;
    this.status = ACKNOWLEDGE | DRIVER;
    this.accept(features);
    this.status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    return (this.status & FEATURES_OK) !== 0;
  }

  /** Sets up a queue and enables it. */
  queue(index: number, size?: number, vector = 0xffff): GuestRing {
    this.setCommon(0x16, 2, index);
    if (size !== undefined) this.setCommon(0x18, 2, size);
    const ring = new GuestRing(this.memory, this.common(0x18, 2));
    this.setCommon(0x1a, 2, vector);
    this.place(ring.desc, ring.avail, ring.used);
    this.setCommon(0x1c, 2, 1);
    return ring;
  }

  /** Writes the three addresses of the selected queue. */
  place(desc: number, avail: number, used: number): void {
    [desc, avail, used].forEach((address, i) => {
      this.setCommon(0x20 + i * 8, 4, address % 2 ** 32);
      this.setCommon(0x24 + i * 8, 4, Math.floor(address / 2 ** 32));
    });
  }

  /** Everything of section 3.1.1 with one queue. */
  start(features: bigint, vector = 0xffff, size?: number): GuestRing {
    if (!this.negotiate(features)) throw new Error("features refused");
    const ring = this.queue(0, size, vector);
    this.status = this.status | DRIVER_OK;
    return ring;
  }

  notify(queue: number): void {
    this.bus.write(
      this.#address(2, queue * this.notifyMultiplier),
      2,
      queue,
    );
  }

  /** Enables MSI-X; vector n of the function is interrupt vector `base + n`. */
  enableMsix(base: number): void {
    const count = (this.config(this.msixAt + 2, 2) & 0x7ff) + 1;
    const table = this.config(this.msixAt + 4, 4);
    const at = this.bars[table & 7] + (table & ~7);
    for (let i = 0; i < count; i++) {
      this.bus.write(at + i * 16, 4, MSI_ADDRESS);
      this.bus.write(at + i * 16 + 4, 4, 0);
      this.bus.write(at + i * 16 + 8, 4, base + i);
      this.bus.write(at + i * 16 + 12, 4, 0);
    }
    this.setConfig(this.msixAt + 2, 2, 0x8000);
  }

  /** A legacy register. */
  legacy(offset: number, size: 1 | 2 | 4): number {
    return this.bus.in(this.bars[0] + offset, size);
  }

  setLegacy(offset: number, size: 1 | 2 | 4, value: number): void {
    this.bus.out(this.bars[0] + offset, size, value);
  }

  /** Access through the PCI configuration access capability, section 4.1.4.9. */
  configAccess(
    bar: number,
    offset: number,
    length: 1 | 2 | 4,
    value?: number,
  ): number {
    const { at } = this.structures.get(5)!;
    this.setConfig(at + 4, 1, bar);
    this.setConfig(at + 8, 4, offset);
    this.setConfig(at + 12, 4, length);
    if (value === undefined) return this.config(at + 16, length);
    this.setConfig(at + 16, length, value);
    return value;
  }
}
