/**
 * The physical address space: RAM and ROM in one `WebAssembly.Memory`, and MMIO regions (DESIGN.md section 4).
 *
 * Layout of the wasm memory: the engine's own area (vCPU state, software TLBs, translated records), then RAM, then ROM.
 * One byte of flags a page says what is special about it; a page with a flag never has a writable TLB entry.
 *
 * @module
 */
import {
  type AccessSize,
  type Claim,
  DmaError,
  type DmaMemory,
  type IoHandler,
  MachineError,
} from "../plugin.ts";
import { pageHasher } from "./page_hash.ts";

export const PAGE_SIZE = 4096;
/** First physical address of the PCI hole: RAM above this size continues at 4 GiB. */
export const LOW_RAM_LIMIT = 0xc0000000;
/** Where RAM continues. */
export const HIGH_RAM_BASE = 0x100000000;
/** Start of the legacy video window: MMIO even though RAM surrounds it. */
const VIDEO_BASE = 0xa0000;
const VIDEO_END = 0xc0000;

/** Page flag bits. */
export const PAGE = {
  /** Instructions of this page are translated: writes must drop them. */
  CODE: 1,
  /** Writes are ignored. */
  ROM: 2,
  /** A snapshot that is being written still needs the content: a write keeps a copy first. */
  COW: 4,
  /** Not written since the last snapshot that was written or restored. */
  CLEAN: 8,
  /** Known to be all zeroes. */
  ZERO: 16,
  /** The content is still in the snapshot's file: any access loads it first. */
  ABSENT: 32,
} as const;
/** Flags that the first write ends, after what they ask for was done. */
export const PAGE_WATCHED = PAGE.COW | PAGE.CLEAN | PAGE.ZERO | PAGE.ABSENT;

/** Loads pages that are not there yet. */
export interface PageLoader {
  /** Loads one page, by its index in {@linkcode GuestMemory.flags}, and clears its flag. */
  load(page: number): void;
  /** Loads all that is not there yet. */
  loadRest(): void;
}

/** Keeps the content that a snapshot in progress needs. */
export interface PageKeeper {
  /** Called before the first write to a page with the flag COW, with its index in {@linkcode GuestMemory.flags}. */
  keep(page: number): void;
  /** Whether so much is kept that the guest should wait for the snapshot. */
  readonly behind: boolean;
}

/** A region that a handler answers. */
interface MmioRegion {
  base: number;
  end: number;
  handler: IoHandler;
  rank: number;
}

/** Of a region that lies over all that have a rank. */
const NO_RANK = -1;

/** Bytes of wasm memory below RAM: vCPU states, TLBs, jump cache, records. */
export const ENGINE_AREA = 48 << 20;

/** The physical memory of one machine. */
export class GuestMemory implements DmaMemory {
  readonly wasm: WebAssembly.Memory;
  /** Every byte of the wasm memory. */
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  readonly view8: DataView;
  /** Flags by RAM/ROM page: index = (wasm address - ramBase) / 4096. */
  readonly flags: Uint8Array;
  readonly ramBase = ENGINE_AREA;
  /** Bytes of RAM below 3 GiB and above 4 GiB. */
  readonly low: number;
  readonly high: number;
  readonly romBase: number;
  /** Pages of the wasm memory (64 KiB). */
  readonly wasmPages: number;
  private rom: { base: number; length: number; host: number } | undefined;
  private regions: MmioRegion[] = [];
  private last: MmioRegion | undefined;
  /** Called before translated code is overwritten: physical address and length. */
  onCodeWrite: (address: number, length: number) => void = () => {};
  /** Loads pages with the flag ABSENT. */
  loader: PageLoader | undefined;
  /** Keeps the content of pages with the flag COW. */
  keeper: PageKeeper | undefined;
  /** Called when pages get flags that a write must see: writable TLB entries must go. */
  onWatch: () => void = () => {};
  /** Called when the address map changes: TLB entries may be stale. */
  onMapChanged: () => void = () => {};
  /** Called on an access nobody claims. */
  onUnclaimed: (address: number, size: number, write: boolean) => void =
    () => {};

  /**
   * @param ram Bytes of RAM, a multiple of 4 KiB, at least 1 MiB.
   * @param romSize Bytes kept for a firmware ROM.
   * @throws {MachineError} when the size is not possible.
   */
  constructor(readonly ram: number, romSize = 0) {
    if (ram % PAGE_SIZE !== 0 || ram < 1 << 20) {
      throw new MachineError(
        `memory of ${ram} bytes: expected a multiple of 4 KiB, at least 1 MiB`,
      );
    }
    const total = ENGINE_AREA + ram + romSize;
    if (total > 0xffff0000) {
      throw new MachineError(
        `memory of ${ram / (1 << 20)} MiB: expected at most ${
          Math.floor((0xffff0000 - ENGINE_AREA) / (1 << 20))
        } MiB on this build (a 32-bit wasm memory)`,
      );
    }
    this.wasmPages = Math.ceil(total / 65536);
    try {
      this.wasm = new WebAssembly.Memory({
        initial: this.wasmPages,
        maximum: this.wasmPages,
      });
    } catch (cause) {
      throw new MachineError(
        `memory of ${
          ram / (1 << 20)
        } MiB: this host has no room for it: give the machine less, or end other programs`,
        { cause },
      );
    }
    this.bytes = new Uint8Array(this.wasm.buffer);
    this.words = new Uint32Array(this.wasm.buffer);
    this.view8 = new DataView(this.wasm.buffer);
    this.low = Math.min(ram, LOW_RAM_LIMIT);
    this.high = ram - this.low;
    this.romBase = ENGINE_AREA + ram;
    this.flags = new Uint8Array(Math.ceil((ram + romSize) / PAGE_SIZE))
      .fill(PAGE.ZERO);
  }

  /** RAM size, as boot loaders ask for it. */
  get size(): number {
    return this.ram;
  }

  /**
   * Installs a firmware image that ends at 4 GiB.
   *
   * @param image Length a multiple of 4 KiB and at most the constructor's `romSize`.
   */
  setRom(image: Uint8Array): void {
    const host = this.romBase;
    this.bytes.set(image, host);
    this.rom = {
      base: HIGH_RAM_BASE - image.length,
      length: image.length,
      host,
    };
    this.flags.fill(
      PAGE.ROM,
      (host - this.ramBase) / PAGE_SIZE,
      (host + image.length - this.ramBase) / PAGE_SIZE,
    );
    this.onMapChanged();
  }

  private hasher: ((host: number) => number) | undefined;

  /** A hash of the page at wasm address `host`; 0 exactly when every byte is zero. */
  hashPage(host: number): number {
    this.hasher ??= pageHasher(this.wasm, this.wasmPages);
    return this.hasher(host);
  }

  /** All of RAM. */
  get ramBytes(): Uint8Array {
    return this.bytes.subarray(this.ramBase, this.ramBase + this.ram);
  }

  /** The installed firmware image; undefined without one. */
  get romImage(): Uint8Array | undefined {
    const rom = this.rom;
    return rom && this.bytes.subarray(rom.host, rom.host + rom.length);
  }

  /** The wasm address of a physical address in RAM or ROM; -1 for MMIO and holes. */
  host(address: number): number {
    if (address < this.low) {
      return address >= VIDEO_BASE && address < VIDEO_END
        ? -1
        : address + this.ramBase;
    }
    if (address >= HIGH_RAM_BASE) {
      return address < HIGH_RAM_BASE + this.high
        ? address - HIGH_RAM_BASE + this.low + this.ramBase
        : -1;
    }
    const rom = this.rom;
    if (rom !== undefined && address >= rom.base) {
      return address - rom.base + rom.host;
    }
    return -1;
  }

  /** Flags of the page at wasm address `host`. */
  pageFlags(host: number): number {
    return this.flags[(host - this.ramBase) >>> 12];
  }

  setPageFlag(host: number, flag: number): void {
    this.flags[(host - this.ramBase) >>> 12] |= flag;
  }

  clearPageFlag(host: number, flag: number): void {
    this.flags[(host - this.ramBase) >>> 12] &= ~flag;
  }

  /** Makes the page at wasm address `host` be there. */
  present(host: number): void {
    const page = (host - this.ramBase) >>> 12;
    if (this.flags[page] & PAGE.ABSENT) this.loader!.load(page);
  }

  /** To be called before a write to the page at wasm address `host`, unless a writable TLB entry leads there. */
  beforeWrite(host: number): void {
    const page = (host - this.ramBase) >>> 12;
    const flags = this.flags[page];
    if ((flags & PAGE_WATCHED) === 0) return;
    if (flags & PAGE.ABSENT) this.loader!.load(page);
    if (flags & PAGE.COW) this.keeper!.keep(page);
    this.flags[page] &= ~PAGE_WATCHED;
  }

  /** RAM was filled from outside: nothing is known of its pages. */
  forgetContent(): void {
    const pages = this.ram / PAGE_SIZE;
    for (let page = 0; page < pages; page++) {
      this.flags[page] &= ~PAGE_WATCHED;
    }
  }

  /**
   * Gives a range of physical addresses to a handler. A later claim lies over an earlier one. One with a `rank` (a PCI
   * BAR, which the guest may place anywhere) lies below all that have none, and below those of a lower rank: who
   * answers does not depend on who came first, which no snapshot tells.
   */
  claim(
    base: number,
    length: number,
    handler: IoHandler,
    rank = NO_RANK,
  ): Claim {
    const region = { base, end: base + length, handler, rank };
    const at = this.regions.findIndex((other) => other.rank >= rank);
    this.regions.splice(at < 0 ? this.regions.length : at, 0, region);
    this.last = undefined;
    this.onMapChanged();
    return {
      release: () => {
        this.regions = this.regions.filter((r) => r !== region);
        this.last = undefined;
        this.onMapChanged();
      },
    };
  }

  private region(address: number): MmioRegion | undefined {
    const last = this.last;
    if (last !== undefined && address >= last.base && address < last.end) {
      return last;
    }
    for (const region of this.regions) {
      if (address >= region.base && address < region.end) {
        return this.last = region;
      }
    }
    return undefined;
  }

  /** An MMIO read; all ones where nobody answers. */
  mmioRead(address: number, size: AccessSize): number {
    const region = this.region(address);
    if (region === undefined) {
      this.onUnclaimed(address, size, false);
      return size === 4 ? 0xffffffff : size === 2 ? 0xffff : 0xff;
    }
    return region.handler.read(address - region.base, size) >>> 0;
  }

  /** An MMIO write; lost where nobody answers. */
  mmioWrite(address: number, size: AccessSize, value: number): void {
    const region = this.region(address);
    if (region === undefined) this.onUnclaimed(address, size, true);
    else region.handler.write(address - region.base, size, value >>> 0);
  }

  /** Whether the range is wholly in RAM. */
  contains(address: number, length: number): boolean {
    if (!(address >= 0) || !(length >= 0)) return false;
    if (address < this.low) {
      return address + length <= this.low &&
        !(address < VIDEO_END && address + length > VIDEO_BASE && length > 0);
    }
    return address >= HIGH_RAM_BASE &&
      address + length <= HIGH_RAM_BASE + this.high;
  }

  private ramAddress(address: number, length: number): number {
    if (!this.contains(address, length)) {
      throw new DmaError(
        `DMA to 0x${
          address.toString(16)
        }, ${length} bytes: not wholly inside RAM`,
      );
    }
    return address < this.low
      ? address + this.ramBase
      : address - HIGH_RAM_BASE + this.low + this.ramBase;
  }

  private readable(address: number, length: number): number {
    const host = this.ramAddress(address, length);
    if (this.loader !== undefined) {
      for (let at = host; at < host + length; at += PAGE_SIZE) this.present(at);
      if (length > 0) this.present(host + length - 1);
    }
    return host;
  }

  private writable(address: number, length: number): number {
    const host = this.ramAddress(address, length);
    if (length > 0) {
      const first = (host - this.ramBase) >>> 12,
        last = (host + length - 1 - this.ramBase) >>> 12;
      let code = false;
      for (let page = first; page <= last; page++) {
        const flags = this.flags[page];
        if (flags === 0) continue;
        if (flags & PAGE_WATCHED) {
          this.beforeWrite(this.ramBase + page * PAGE_SIZE);
        }
        if (flags & PAGE.CODE) code = true;
      }
      if (code) this.onCodeWrite(address, length);
    }
    return host;
  }

  view(address: number, length: number): Uint8Array {
    const host = this.readable(address, length);
    return this.bytes.subarray(host, host + length);
  }
  read(address: number, target: Uint8Array): void {
    const host = this.readable(address, target.length);
    target.set(this.bytes.subarray(host, host + target.length));
  }
  write(address: number, source: Uint8Array): void {
    this.bytes.set(source, this.writable(address, source.length));
  }
  readU8(address: number): number {
    return this.bytes[this.readable(address, 1)];
  }
  readU16(address: number): number {
    return this.view8.getUint16(this.readable(address, 2), true);
  }
  readU32(address: number): number {
    return this.view8.getUint32(this.readable(address, 4), true);
  }
  readU64(address: number): bigint {
    return this.view8.getBigUint64(this.readable(address, 8), true);
  }
  writeU8(address: number, value: number): void {
    this.bytes[this.writable(address, 1)] = value;
  }
  writeU16(address: number, value: number): void {
    this.view8.setUint16(this.writable(address, 2), value, true);
  }
  writeU32(address: number, value: number): void {
    this.view8.setUint32(this.writable(address, 4), value, true);
  }
  writeU64(address: number, value: bigint): void {
    this.view8.setBigUint64(this.writable(address, 8), value, true);
  }
}
