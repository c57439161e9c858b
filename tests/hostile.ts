/**
 * What hostile drivers put into guest memory: rings, command lists and descriptors that loop,
 * overlap, are huge, or lie where no RAM is, for each kind of device that reads such things.
 *
 * @module
 */
import type { TestContext } from "../core/testing/context.ts";
import { AhciDriver } from "../plugins/ahci/testing.ts";
import {
  CMD_FRE,
  CMD_ST,
  HEADER_BYTES,
  HEADER_CTBA,
  HEADER_PRDTL_SHIFT,
  PRD_BYTES,
  PRD_DBC,
  PxCI,
  PxCLB,
  PxCMD,
  PxFB,
  PxIS,
  PxSACT,
  PxSCTL,
  PxSERR,
  TABLE_ACMD,
  TABLE_PRDT,
} from "../plugins/ahci/registers.ts";
import {
  CTRL_SLU,
  RCTL_BAM,
  RCTL_EN,
  REGISTERS,
  TCTL_EN,
} from "../plugins/e1000/registers.ts";
import {
  DRIVER_OK,
  type GuestDriver,
  NEEDS_RESET,
} from "../plugins/virtio/testing/driver.ts";
import { driverOf } from "../plugins/virtio/testing/rings.ts";

/** A generator of choices (xorshift32): the same ones for the same seed. */
export class Choices {
  #state: number;

  /** @param seed Where it begins. */
  constructor(seed: number) {
    this.#state = seed >>> 0 || 1;
  }

  /** 32 bits. */
  word(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state;
  }

  /** A whole number from 0 up to, and without, `end`. */
  below(end: number): number {
    return this.word() % end;
  }

  /** True once in `n` times, `Infinity` for never. */
  once(n: number): boolean {
    return n !== Infinity && this.below(n) === 0;
  }

  /** One of some values. */
  of<T>(values: readonly T[]): T {
    return values[this.below(values.length)];
  }
}

/** A hostile driver of one device: each call does one thing. */
export type HostileDriver = (choices: Choices) => void;

const TWO_32 = 2 ** 32;
/** Where rings, lists and tables are in most cases. */
const STRUCTURES = 0x10_0000;
const STRUCTURE_BYTES = 0x1_0000;
/** Register windows of devices, the local APIC, and ROM. */
const MMIO = [0xf000_0000, 0xfee0_0000, 0xffff_0000, 0xa_0000, 0xb000_0000];

/** An address that a hostile driver gives: in RAM, at its end, in registers, or nowhere. */
function address(choices: Choices, ram: number): number {
  switch (choices.below(12)) {
    case 0:
      return ram - choices.below(64);
    case 1:
      return choices.of(MMIO) + choices.below(0x2000);
    case 2:
      return ram + choices.word() % (TWO_32 - ram);
    case 3:
      return choices.word() * 2 ** choices.below(21);
    case 4:
    case 5:
      return choices.below(ram);
    default:
      return STRUCTURES + choices.below(16 * STRUCTURE_BYTES);
  }
}

/** A length that a hostile driver gives. */
function length(choices: Choices, ram: number): number {
  return choices.of([
    0,
    1,
    choices.below(64),
    512 * choices.below(64),
    choices.below(0x1_0000),
    ram,
    choices.word(),
  ]);
}

function write64(
  { memory }: TestContext,
  at: number,
  value: number,
): void {
  memory.writeU32(at, value % TWO_32);
  memory.writeU32(at + 4, Math.floor(value / TWO_32));
}

const DESC_BYTES = 16;
const AVAIL = 0x8000;
const USED = 0xa000;
const DESC_NEXT = 1;
const DESC_WRITE = 2;
/** Buffers. */
const DATA = 0x18_0000;
const DATA_PAGES = 16;
/** Buffers of a request to read and to write: those of disks, cards and the like, and odd ones. */
const SHAPES = [[1, 2], [2, 1], [1, 1], [3, 1], [1, 0], [0, 1], [2, 0], [0, 3]];
const MOST_QUEUES = 6;
const COMMON_QUEUES = 0x12;
const COMMON_QUEUE = 0x16;
const COMMON_QUEUE_SIZE = 0x18;
const COMMON_QUEUE_ENABLE = 0x1c;

/** A driver of any virtio device. */
export function hostileVirtio(machine: TestContext): HostileDriver {
  const { memory } = machine;
  const { ram } = memory;
  let driver: GuestDriver = driverOf(machine);
  let queues = 1;
  const ringOf = (queue: number) => STRUCTURES + queue * STRUCTURE_BYTES;
  const setUp = (choices: Choices) => {
    driver = driverOf(machine);
    const all = driver.offered;
    driver.negotiate(
      choices.once(2) ? all : all & ~(1n << BigInt(choices.below(41))),
    );
    const known = driver.common(COMMON_QUEUES, 2);
    queues = Math.min(known, 1 + choices.below(MOST_QUEUES)) || 1;
    for (let queue = 0; queue < queues; queue++) {
      driver.setCommon(COMMON_QUEUE, 2, queue);
      if (!choices.once(4)) {
        driver.setCommon(COMMON_QUEUE_SIZE, 2, 2 ** choices.below(9));
      }
      const place = (offset: number) =>
        choices.once(64) ? address(choices, ram) : ringOf(queue) + offset;
      driver.place(place(0), place(AVAIL), place(USED));
      driver.setCommon(COMMON_QUEUE_ENABLE, 2, 1);
      memory.writeU16(ringOf(queue) + AVAIL + 2, 0);
    }
    driver.status |= DRIVER_OK;
  };
  /** Writes chains of buffers to read and to write, bad ones once in `bad` descriptors. */
  const describe = (choices: Choices, queue: number, bad: number) => {
    const count = choices.of([8, 32, 256]);
    const heads: number[] = [];
    // One chain, as long as can be, that all entries of the ring share costs a device most.
    const isLong = choices.once(6);
    const isAllWritten = choices.once(2);
    const shape = choices.of(SHAPES);
    for (let i = 0; i < count;) {
      heads.push(i);
      const [read, written] = choices.once(bad) ? choices.of(SHAPES) : shape;
      let readable = isLong ? isAllWritten ? 0 : count : read;
      const links = isLong ? count : read + written;
      for (let link = 0; link < links && i < count; link++, i++) {
        const at = ringOf(queue) + i * DESC_BYTES;
        const isRead = readable-- > 0;
        const isLast = link + 1 === links || i + 1 === count;
        const place = isLong
          ? 0x20_0000
          : DATA + 0x1000 * choices.below(DATA_PAGES);
        write64(machine, at, choices.once(bad) ? address(choices, ram) : place);
        const bytes = isLong
          ? choices.of([0x2_0000, 4096, 1, 0])
          : isRead && link === 0
          ? choices.of([8, 12, 16])
          : isLast
          ? choices.of([1, 512, 4096])
          : 512 * choices.below(9);
        memory.writeU32(
          at + 8,
          choices.once(bad) ? length(choices, ram) : bytes,
        );
        memory.writeU16(
          at + 12,
          choices.once(bad)
            ? choices.word()
            : (isRead ? 0 : DESC_WRITE) | (isLast ? 0 : DESC_NEXT),
        );
        memory.writeU16(
          at + 14,
          choices.once(bad) ? choices.below(count + 2) : i + 1,
        );
      }
    }
    // What a request of a disk, a card or a console begins with.
    for (let page = 0; page < DATA_PAGES; page++) {
      const at = DATA + 0x1000 * page;
      memory.writeU32(
        at,
        choices.once(bad) ? choices.word() : choices.below(14),
      );
      memory.writeU32(at + 4, choices.once(bad) ? choices.word() : 0);
      memory.writeU32(
        at + 8,
        choices.once(bad) ? choices.word() : choices.below(64),
      );
      memory.writeU32(at + 12, choices.once(bad) ? choices.word() : 0);
    }
    const avail = ringOf(queue) + AVAIL;
    for (let i = 0; i < 256; i++) {
      memory.writeU16(
        avail + 4 + 2 * i,
        choices.once(bad) ? choices.word() & 511 : choices.of(heads),
      );
    }
    const now = memory.readU16(avail + 2);
    const more = choices.once(bad)
      ? choices.word()
      : 1 + choices.below(isLong ? 256 : 8);
    memory.writeU16(avail + 2, now + more & 0xffff);
  };
  return (choices) => {
    const isWorking = (driver.status & (DRIVER_OK | NEEDS_RESET)) === DRIVER_OK;
    if (choices.once(isWorking ? 32 : 2)) setUp(choices);
    const queue = choices.once(8)
      ? choices.below(MOST_QUEUES)
      : choices.below(queues);
    if (!choices.once(4)) {
      describe(choices, queue, choices.of([2, 20, 1_000, Infinity]));
    }
    driver.notify(queue);
  };
}

/** Commands of ACS-3 that move data, and some others. */
const ATA_COMMANDS = [
  0x06, // DATA SET MANAGEMENT
  0x08, // DEVICE RESET
  0x20, // READ SECTORS
  0x25, // READ DMA EXT
  0x29, // READ MULTIPLE EXT
  0x30, // WRITE SECTORS
  0x35, // WRITE DMA EXT
  0x60, // READ FPDMA QUEUED
  0x60,
  0x61, // WRITE FPDMA QUEUED
  0x61,
  0xa0, // PACKET
  0xa0,
  0xa0,
  0xa1, // IDENTIFY PACKET DEVICE
  0xb0, // SMART
  0xca, // WRITE DMA
  0xea, // FLUSH CACHE EXT
  0xec, // IDENTIFY DEVICE
  0xef, // SET FEATURES
];
const PACKETS = [0x12, 0x28, 0xa8, 0xbe, 0x43, 0x5a, 0x1b, 0x1e, 0x4a, 0x25];
const FIS_H2D = 0x27;
const FIS_COMMAND = 0x80;
const MOST_PORTS = 2;
const HEADER_ATAPI = 1 << 5;
const RECEIVED = 0x1_0000;
const TABLES = 0x2_0000;
const TABLE_STRIDE = 0x1000;
const MOST_ENTRIES = 64;
const ATA_PACKET = 0xa0;
/** PxIS: errors that stop the port. */
const IS_ERRORS = 0x7d80_0000;

/** A driver of an AHCI controller. */
export function hostileAhci(machine: TestContext): HostileDriver {
  const { memory } = machine;
  const { ram } = memory;
  const ports = Array.from(
    { length: MOST_PORTS },
    (_, port) => new AhciDriver(machine, port),
  );
  const list = (port: number) => STRUCTURES + port * 0x1000;
  const restart = (choices: Choices, number: number) => {
    const port = ports[number];
    port.start();
    port.write(PxCMD, 0);
    port.write(PxSCTL, 1);
    port.write(PxSCTL, 0);
    port.write(PxCLB, choices.once(32) ? address(choices, ram) : list(number));
    port.write(PxFB, choices.once(32) ? address(choices, ram) : RECEIVED);
    port.write(PxSERR, 0xffff_ffff);
    port.write(PxCMD, CMD_FRE);
    port.acknowledge();
    port.write(PxCMD, CMD_FRE | CMD_ST);
  };
  const command = (
    choices: Choices,
    number: number,
    slot: number,
    bad: number,
  ) => {
    const table = TABLES + slot * TABLE_STRIDE;
    const isPacket = choices.once(3);
    const entries = choices.once(bad)
      ? choices.word() & 0xffff
      : choices.below(MOST_ENTRIES);
    const words = choices.once(bad) ? choices.below(32) : 5;
    const header = list(number) + slot * HEADER_BYTES;
    memory.writeU32(
      header,
      (words | (isPacket ? HEADER_ATAPI : 0) |
        entries << HEADER_PRDTL_SHIFT) >>> 0,
    );
    write64(
      machine,
      header + HEADER_CTBA,
      choices.once(bad) ? address(choices, ram) : table,
    );
    const fis = new Uint8Array(20);
    fis[0] = choices.once(bad) ? choices.word() : FIS_H2D;
    fis[1] = choices.once(bad) ? choices.word() : FIS_COMMAND;
    fis[2] = isPacket ? ATA_PACKET : choices.of(ATA_COMMANDS);
    // FEATURE and COUNT, which have changed places where a command is queued.
    fis[3] = choices.of([0, 1, 3, 8, 0xd0]);
    fis[4] = choices.below(200);
    fis[7] = 0x40;
    fis[12] = choices.of([0, 1, 8, slot << 3]);
    for (let i = 2; i < fis.length; i++) {
      if (choices.once(bad)) fis[i] = choices.word();
    }
    memory.write(table, fis);
    const packet = new Uint8Array(12);
    packet[0] = choices.of(PACKETS);
    packet[5] = choices.below(64);
    packet[8] = choices.below(64);
    for (let i = 1; i < packet.length; i++) {
      if (choices.once(bad)) packet[i] = choices.word();
    }
    memory.write(table + TABLE_ACMD, packet);
    for (let i = 0; i < Math.min(entries, MOST_ENTRIES); i++) {
      const prd = table + TABLE_PRDT + i * PRD_BYTES;
      write64(
        machine,
        prd,
        choices.once(bad) ? address(choices, ram) : DATA + 0x1000 * (i & 15),
      );
      memory.writeU32(
        prd + PRD_DBC,
        choices.once(bad)
          ? length(choices, ram)
          : 512 * (1 + choices.below(9)) - 1,
      );
    }
  };
  return (choices) => {
    const number = choices.once(16) ? 1 : 0;
    const port = ports[number];
    const isWorking = (port.read(PxCMD) & CMD_ST) !== 0 &&
      (port.read(PxIS) & IS_ERRORS) === 0 && port.read(PxCI) === 0;
    if (choices.once(isWorking ? 32 : 2)) restart(choices, number);
    let slots = 0;
    const bad = choices.of([3, 50, 1_000, Infinity]);
    for (let n = choices.of([1, 1, 4, 32]); n > 0; n--) {
      const slot = choices.below(32);
      command(choices, number, slot, bad);
      slots |= 1 << slot;
    }
    if (!choices.once(4)) port.write(PxSACT, slots >>> 0);
    port.write(PxCI, slots >>> 0);
  };
}

const E1000_BAR = 0xf000_0000;
const E1000_SLOT = 1;
const BAR0 = 0x10;
const COMMAND = 4;
const COMMAND_MEMORY_MASTER = 6;
/** RCTL without the reserved bits; sizes and filters are left to chance. */
const RCTL_MASK = 0x07ff_ffff;

/** A driver of an e1000. */
export function hostileE1000(machine: TestContext): HostileDriver {
  const { memory } = machine;
  const { ram } = memory;
  const write = (register: { offset: number }, value: number) =>
    machine.store(E1000_BAR + register.offset, value >>> 0);
  const [tx, rx] = [STRUCTURES, STRUCTURES + 8 * STRUCTURE_BYTES];
  const setUp = (choices: Choices) => {
    machine.configWrite(E1000_SLOT, 0, BAR0, E1000_BAR);
    machine.configWrite(E1000_SLOT, 0, COMMAND, COMMAND_MEMORY_MASTER, 2);
    const size = () =>
      choices.once(8) ? choices.word() : 128 << choices.below(13);
    const place = (at: number) => choices.once(12) ? address(choices, ram) : at;
    const [from, to] = [place(tx), place(rx)];
    write(REGISTERS.CTRL, CTRL_SLU);
    write(REGISTERS.TDBAL, from % TWO_32);
    write(REGISTERS.TDBAH, from / TWO_32);
    write(REGISTERS.TDLEN, size());
    write(REGISTERS.RDBAL, to % TWO_32);
    write(REGISTERS.RDBAH, to / TWO_32);
    write(REGISTERS.RDLEN, size());
    write(
      REGISTERS.RCTL,
      choices.once(4) ? choices.word() & RCTL_MASK : RCTL_EN | RCTL_BAM,
    );
    write(REGISTERS.TCTL, TCTL_EN);
  };
  return (choices) => {
    const isWorking = (machine.configRead(E1000_SLOT, 0, COMMAND, 2) &
          COMMAND_MEMORY_MASTER) === COMMAND_MEMORY_MASTER &&
      machine.load(E1000_BAR + REGISTERS.TCTL.offset) === TCTL_EN;
    if (choices.once(isWorking ? 32 : 2)) setUp(choices);
    const isReceive = choices.once(3);
    const count = choices.of([4, 32, 128]);
    const bad = choices.of([2, 20, 1_000, Infinity]);
    for (let i = 0; i < count; i++) {
      const at = (isReceive ? rx : tx) + i * DESC_BYTES;
      write64(
        machine,
        at,
        choices.once(bad) ? address(choices, ram) : DATA + 0x1000 * (i & 15),
      );
      const command = choices.once(bad)
        ? choices.word()
        : choices.of([0x09, 0x29, 0x25, 0x2d, 0x2c, 0x08, 0x69]);
      const bytes = choices.once(bad)
        ? length(choices, ram) & 0xf_ffff
        : choices.below(3_000);
      memory.writeU32(
        at + 8,
        (bytes | choices.below(2) << 20 | command << 24) >>> 0,
      );
      memory.writeU32(at + 12, choices.once(2) ? 0 : choices.word());
    }
    const tail = choices.once(bad) ? choices.word() : choices.below(count);
    write(isReceive ? REGISTERS.RDT : REGISTERS.TDT, tail);
  };
}
