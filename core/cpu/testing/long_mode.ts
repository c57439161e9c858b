/**
 * A vCPU in long mode with nothing around it but memory and page tables, for the oracle and for tests.
 *
 * @module
 */
import { GuestMemory } from "../../memory/memory.ts";
import { Cpu, Engine } from "../cpu.ts";
import type { CpuIo } from "../io.ts";
import { FLAT_CODE64, FLAT_DATA, setSegment } from "../segments.ts";
import { CR0, CR4, CS, DS, EFER, ES, FS, GS, OFF, SS } from "../state.ts";

/** A {@linkcode CpuIo} of a machine without devices. */
export class NoDevices implements CpuIo {
  taskPriority = 0;
  /** Vector of a pending external interrupt, or -1. */
  pending = -1;
  /** Whether the guest shut down. */
  shutdown = false;
  portRead(): number {
    return 0xffffffff;
  }
  portWrite(): void {}
  interruptPending(): boolean {
    return this.pending >= 0;
  }
  acknowledgeInterrupt(): number {
    const vector = this.pending;
    this.pending = -1;
    return vector;
  }
  msrRead(): undefined {
    return undefined;
  }
  msrWrite(): boolean {
    return false;
  }
  tsc(): bigint {
    return 0n;
  }
  ferr(): void {}
  tripleFault(): void {
    this.shutdown = true;
  }
}

/** Page-table bits: present, writable, user. */
const PRESENT_WRITE_USER = 7;
const PML4 = 0x10000;
/** Tables are taken from here on. */
const FIRST_TABLE = 0x11000;

/** A vCPU in long mode at CPL 0, and its page tables. */
export class LongMode {
  readonly memory: GuestMemory;
  readonly engine: Engine;
  readonly io = new NoDevices();
  readonly cpu: Cpu;
  #nextTable = FIRST_TABLE;

  /** @param ram Bytes of guest memory; nothing is mapped. */
  constructor(ram = 16 << 20) {
    this.memory = new GuestMemory(ram);
    this.engine = new Engine(this.memory);
    this.cpu = new Cpu(this.engine, 0, this.io);
    const s = this.cpu.state;
    s.set(
      OFF.cr0,
      BigInt(CR0.PE | CR0.MP | CR0.ET | CR0.NE | CR0.WP) | BigInt(CR0.PG),
    );
    s.set(OFF.cr3, BigInt(PML4));
    s.set(OFF.cr4, BigInt(CR4.PAE | CR4.OSFXSR | CR4.OSXMMEXCPT));
    s.set(OFF.efer, BigInt(EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE));
    setSegment(s, CS, 0x08, 0, 0xffffffff, FLAT_CODE64);
    for (const segment of [ES, SS, DS, FS, GS]) {
      setSegment(s, segment, 0x10, 0, 0xffffffff, FLAT_DATA);
    }
    s.set32(OFF.idtLimit, 0);
    this.cpu.modeChanged();
    this.cpu.flushTlb(false);
  }

  /**
   * Maps 4 KiB pages.
   *
   * @param linear First linear address, a multiple of 4096.
   * @param physical First physical address.
   * @param bytes Length.
   * @param bits Page-table bits of the last level, NX as bit 63.
   */
  map(
    linear: number,
    physical: number,
    bytes: number,
    bits: bigint = BigInt(PRESENT_WRITE_USER),
  ): void {
    for (let offset = 0; offset < bytes; offset += 4096) {
      this.memory.writeU64(
        this.entry(linear + offset),
        BigInt(physical + offset) | bits,
      );
    }
    this.cpu.flushTlb(false);
  }

  /** The physical address of the last-level entry for a linear address; tables above it are made. */
  entry(linear: number): number {
    const page = BigInt(linear) >> 12n;
    let table = PML4;
    for (let level = 3n; level > 0n; level--) {
      const at = table + Number((page >> (9n * level)) & 511n) * 8;
      let next = this.memory.readU64(at);
      if (next === 0n) {
        next = BigInt(this.#nextTable | PRESENT_WRITE_USER);
        this.#nextTable += 4096;
        this.memory.writeU64(at, next);
      }
      table = Number(next & ~0xfffn);
    }
    return table + Number(page & 511n) * 8;
  }
}
