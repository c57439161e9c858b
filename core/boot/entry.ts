/**
 * The vCPU state in which guests are entered: long mode with identity paging, flat 32-bit
 * protected mode, and the reset vector, with the GDT and page tables they need (Intel SDM
 * vol. 3, sections 3.4.5, 4.5 and 9.1.4), and where in low memory all of it lies.
 *
 * @module
 */

import type {
  BootState,
  GeneralRegister,
  GuestRam,
  SegmentState,
} from "./types.ts";
import { BootError, formatSize, hex } from "./types.ts";
import { EBDA_BASE } from "./e820.ts";

/** The BIOS data area's last byte is before this. */
export const GDT_ADDRESS = 0x500;
/** Linux's boot_params, PVH's hvm_start_info or the multiboot information. */
export const BOOT_INFO_ADDRESS = 0x7000;
/** Bytes set aside for the boot information. */
export const BOOT_INFO_SIZE = 0x2000;
/** PML4, PDPT and four page directories. */
export const PAGE_TABLES_ADDRESS = 0x9000;
/** Bytes of the page tables. */
export const PAGE_TABLES_SIZE = 6 * 0x1000;
/** The command line, and the modules' command lines. */
export const CMDLINE_ADDRESS = 0x20000;
/** Bytes set aside for command lines. */
export const CMDLINE_SIZE = 0x10000;

/** CR0.PE: protection enable. */
const CR0_PE = 1n << 0n;
/** CR0.ET: extension type, fixed at 1. */
const CR0_ET = 1n << 4n;
/** CR0.NW and CR0.CD, set at reset. */
const CR0_NW_CD = 3n << 29n;
/** CR0.PG: paging. */
const CR0_PG = 1n << 31n;
/** CR4.PAE: physical address extension. */
const CR4_PAE = 1n << 5n;
/** EFER.LME and EFER.LMA: long mode enabled and active. */
const EFER_LONG = (1n << 8n) | (1n << 10n);
/** RFLAGS bit 1 is always set. */
const RFLAGS_FIXED = 1n << 1n;

/** Code or data segment. */
const AR_S = 1 << 4;
/** Present. */
const AR_P = 1 << 7;
/** 64-bit code. */
const AR_L = 1 << 13;
/** Default operation size 32 bits. */
const AR_DB = 1 << 14;
/** Limit in units of 4 KiB. */
const AR_G = 1 << 15;
/** VMX: the register holds no usable segment. */
const AR_UNUSABLE = 1 << 16;
/** Type: execute, read, accessed. */
const TYPE_CODE = 0xb;
/** Type: read, write, accessed. */
const TYPE_DATA = 0x3;
/** Type: LDT. */
const TYPE_LDT = 0x2;
/** Type: busy TSS of 32 or 64 bits. */
const TYPE_BUSY_TSS = 0xb;
/** Limit of a TSS without an I/O map (SDM vol. 3, figure 8-2). */
const TSS_LIMIT = 0x67;
/** Limit of the segments at reset. */
const REAL_LIMIT = 0xffff;
const FLAT_LIMIT = 0xffff_ffff;

/** Selector of the code segment: Linux's __BOOT_CS. */
export const BOOT_CS = 0x10;
/** Selector of the data segments: Linux's __BOOT_DS. */
export const BOOT_DS = 0x18;
const BOOT_TSS = 0x20;
const GDT_ENTRIES = 6;

const PAGE_SIZE = 0x1000;
/** Page-table entry bits: present, writable, and page size. */
const PTE_P = 1n << 0n;
const PTE_RW = 1n << 1n;
const PTE_PS = 1n << 7n;
const LARGE_PAGE = 1n << 21n;
const ENTRIES = 512;
/** Page directories: one a GiB of the 4 GiB that are mapped. */
const DIRECTORIES = 4;

/** A code or data descriptor's upper and lower halves from its hidden part. */
function descriptor(segment: SegmentState): bigint {
  const granular = (segment.attributes & AR_G) !== 0;
  const limit = BigInt(granular ? segment.limit >>> 12 : segment.limit);
  const base = segment.base;
  return (limit & 0xffffn) | ((base & 0xff_ffffn) << 16n) |
    (BigInt(segment.attributes & 0xf0ff) << 40n) |
    (((limit >> 16n) & 0xfn) << 48n) | (((base >> 24n) & 0xffn) << 56n);
}

function flat(selector: number, attributes: number): SegmentState {
  return { selector, base: 0n, limit: FLAT_LIMIT, attributes };
}

function systemSegments(): { ldtr: SegmentState; tr: SegmentState } {
  return {
    ldtr: {
      selector: 0,
      base: 0n,
      limit: 0,
      attributes: TYPE_LDT | AR_UNUSABLE,
    },
    tr: {
      selector: BOOT_TSS,
      base: 0n,
      limit: TSS_LIMIT,
      attributes: TYPE_BUSY_TSS | AR_P,
    },
  };
}

function writeGdt(
  ram: GuestRam,
  cs: SegmentState,
  ds: SegmentState,
  tr: SegmentState,
): { base: bigint; limit: number } {
  const bytes = new Uint8Array(GDT_ENTRIES * 8);
  const view = new DataView(bytes.buffer);
  for (const segment of [cs, ds, tr]) {
    view.setBigUint64(segment.selector, descriptor(segment), true);
  }
  ram.write(GDT_ADDRESS, bytes);
  return { base: BigInt(GDT_ADDRESS), limit: bytes.length - 1 };
}

/** Writes page tables that map the first 4 GiB to themselves with 2 MiB pages. */
function writeIdentityMap(ram: GuestRam): void {
  const bytes = new Uint8Array(PAGE_TABLES_SIZE);
  const view = new DataView(bytes.buffer);
  const base = BigInt(PAGE_TABLES_ADDRESS);
  const page = BigInt(PAGE_SIZE);
  view.setBigUint64(0, (base + page) | PTE_P | PTE_RW, true);
  for (let i = 0; i < DIRECTORIES; i++) {
    const directory = base + page * BigInt(2 + i);
    view.setBigUint64(PAGE_SIZE + i * 8, directory | PTE_P | PTE_RW, true);
    for (let j = 0; j < ENTRIES; j++) {
      const physical = BigInt(i * ENTRIES + j) * LARGE_PAGE;
      view.setBigUint64(
        (2 + i) * PAGE_SIZE + j * 8,
        physical | PTE_P | PTE_RW | PTE_PS,
        true,
      );
    }
  }
  ram.write(PAGE_TABLES_ADDRESS, bytes);
}

/**
 * Prepares an entry in 64-bit mode with the first 4 GiB mapped to themselves.
 * @param ram Where GDT and page tables are written.
 * @param rip The entry point.
 * @param regs General registers that are not zero.
 * @returns The state to enter.
 */
export function longModeEntry(
  ram: GuestRam,
  rip: number,
  regs: Partial<Record<GeneralRegister, bigint>>,
): BootState {
  const cs = flat(BOOT_CS, TYPE_CODE | AR_S | AR_P | AR_L | AR_G);
  const ds = flat(BOOT_DS, TYPE_DATA | AR_S | AR_P | AR_DB | AR_G);
  const system = systemSegments();
  writeIdentityMap(ram);
  return {
    mode: "long",
    rip: BigInt(rip),
    regs,
    rflags: RFLAGS_FIXED,
    cr0: CR0_PG | CR0_ET | CR0_PE,
    cr3: BigInt(PAGE_TABLES_ADDRESS),
    cr4: CR4_PAE,
    efer: EFER_LONG,
    gdt: writeGdt(ram, cs, ds, system.tr),
    idt: { base: 0n, limit: 0 },
    segments: { cs, ds, es: ds, fs: ds, gs: ds, ss: ds, ...system },
  };
}

/**
 * Prepares an entry in flat 32-bit protected mode without paging.
 * @param ram Where the GDT is written.
 * @param rip The entry point.
 * @param regs General registers that are not zero.
 * @returns The state to enter.
 */
export function protectedModeEntry(
  ram: GuestRam,
  rip: number,
  regs: Partial<Record<GeneralRegister, bigint>>,
): BootState {
  const cs = flat(BOOT_CS, TYPE_CODE | AR_S | AR_P | AR_DB | AR_G);
  const ds = flat(BOOT_DS, TYPE_DATA | AR_S | AR_P | AR_DB | AR_G);
  const system = systemSegments();
  return {
    mode: "protected",
    rip: BigInt(rip),
    regs,
    rflags: RFLAGS_FIXED,
    cr0: CR0_ET | CR0_PE,
    cr3: 0n,
    cr4: 0n,
    efer: 0n,
    gdt: writeGdt(ram, cs, ds, system.tr),
    idt: { base: 0n, limit: 0 },
    segments: { cs, ds, es: ds, fs: ds, gs: ds, ss: ds, ...system },
  };
}

/**
 * The state after RESET (Intel SDM vol. 3, table 9-1): the first instruction is fetched from
 * 16 bytes below 4 GiB.
 * @returns The state to enter.
 */
export function resetVectorEntry(): BootState {
  const data: SegmentState = {
    selector: 0,
    base: 0n,
    limit: REAL_LIMIT,
    attributes: TYPE_DATA | AR_S | AR_P,
  };
  return {
    mode: "real",
    rip: 0xfff0n,
    rflags: RFLAGS_FIXED,
    cr0: CR0_NW_CD | CR0_ET,
    cr3: 0n,
    cr4: 0n,
    efer: 0n,
    gdt: { base: 0n, limit: REAL_LIMIT },
    idt: { base: 0n, limit: REAL_LIMIT },
    segments: {
      cs: {
        selector: 0xf000,
        base: 0xffff_0000n,
        limit: REAL_LIMIT,
        attributes: TYPE_CODE | AR_S | AR_P,
      },
      ds: data,
      es: data,
      fs: data,
      gs: data,
      ss: data,
      ldtr: { ...data, attributes: TYPE_LDT | AR_P },
      tr: { ...data, attributes: TYPE_BUSY_TSS | AR_P },
    },
  };
}

/** A range of guest memory that a loader has used. */
interface Claim {
  start: number;
  end: number;
  what: string;
}

/** Keeps the parts of a guest's memory image apart. */
export class Placement {
  readonly #claims: Claim[];
  readonly #limit: number;

  /**
   * @param limit The first address past the RAM below 4 GiB.
   */
  constructor(limit: number) {
    this.#limit = limit;
    this.#claims = [
      { start: 0, end: GDT_ADDRESS + GDT_ENTRIES * 8, what: "the boot GDT" },
      {
        start: BOOT_INFO_ADDRESS,
        end: BOOT_INFO_ADDRESS + BOOT_INFO_SIZE,
        what: "the boot information",
      },
      {
        start: PAGE_TABLES_ADDRESS,
        end: PAGE_TABLES_ADDRESS + PAGE_TABLES_SIZE,
        what: "the boot page tables",
      },
      {
        start: CMDLINE_ADDRESS,
        end: CMDLINE_ADDRESS + CMDLINE_SIZE,
        what: "the command line",
      },
      { start: EBDA_BASE, end: 0x100000, what: "the BIOS area" },
    ];
  }

  /**
   * Claims a range for a file.
   * @param label The file, for the message.
   * @param what What of it goes there.
   * @param start First address.
   * @param length Bytes.
   * @throws {BootError} If it does not fit in RAM or another part is there.
   */
  claim(label: string, what: string, start: number, length: number): void {
    const end = start + length;
    if (end > this.#limit) {
      throw new BootError(
        label,
        `${what} needs memory up to ${hex(end)}, but guest RAM below 4 GiB ` +
          `ends at ${hex(this.#limit)}; give the guest more memory (--mem)`,
      );
    }
    for (const other of this.#claims) {
      if (start < other.end && other.start < end) {
        throw new BootError(
          label,
          `${what} at ${hex(start)}..${hex(end)} overlaps ${other.what} at ` +
            `${hex(other.start)}..${hex(other.end)}`,
        );
      }
    }
    this.#claims.push({ start, end, what: `${what} of ${label}` });
  }

  /**
   * Claims the highest free, page-aligned range.
   * @param label The file, for the message.
   * @param what What of it goes there.
   * @param length Bytes.
   * @param ceiling The range ends at or below this.
   * @returns The first address.
   * @throws {BootError} If no gap is large enough.
   */
  claimHigh(
    label: string,
    what: string,
    length: number,
    ceiling: number,
  ): number {
    const FLOOR = 0x100000;
    let top = Math.min(this.#limit, ceiling);
    const above = this.#claims.toSorted((a, b) => b.end - a.end);
    for (const claim of above) {
      const start = pageDown(top - length);
      if (start >= Math.max(claim.end, FLOOR)) break;
      top = Math.min(top, claim.start);
    }
    const start = pageDown(top - length);
    if (start < FLOOR) {
      throw new BootError(
        label,
        `${what} is too large: ${
          formatSize(length)
        } do not fit beside the kernel in ` +
          `guest RAM below ${hex(Math.min(this.#limit, ceiling))}; ` +
          `give the guest more memory (--mem)`,
      );
    }
    this.claim(label, what, start, length);
    return start;
  }
}

function pageDown(address: number): number {
  return Math.floor(address / PAGE_SIZE) * PAGE_SIZE;
}

/**
 * Writes a command line, with its terminating zero, where guests are told to find it.
 * @param ram Guest memory.
 * @param label The kernel, for the message.
 * @param cmdline The text.
 * @param limit The most bytes that the kernel takes.
 * @param offset Where in the area for command lines it goes.
 * @returns Bytes written.
 * @throws {BootError} If it is too long or holds a zero byte.
 */
export function writeCmdline(
  ram: GuestRam,
  label: string,
  cmdline: string,
  limit: number,
  offset = 0,
): number {
  const text = new TextEncoder().encode(cmdline);
  const room = Math.min(limit, CMDLINE_SIZE - 1 - offset);
  if (text.length > room) {
    throw new BootError(
      label,
      `command line of ${text.length} bytes is too long: the kernel takes ${room}`,
    );
  }
  if (text.includes(0)) {
    throw new BootError(label, "command line contains a zero byte");
  }
  const bytes = new Uint8Array(text.length + 1);
  bytes.set(text);
  ram.write(CMDLINE_ADDRESS + offset, bytes);
  return bytes.length;
}
