/**
 * Address translation: page walks and the software TLB (Intel SDM vol. 3, chapter 5; ENGINE.md section 2).
 *
 * Linear addresses are pairs of 32-bit halves and physical addresses are numbers, so that nothing here needs a BigInt.
 *
 * @module
 */
import type { GuestMemory } from "../memory/memory.ts";
import { TLB_ENTRIES } from "./record.ts";
import { isPaePaging, isPdpte, PDPTES } from "./pdpte.ts";
import {
  type CpuState,
  CR0,
  CR4,
  EFER,
  FLAG,
  GuestFault,
  OFF,
  VECTOR,
} from "./state.ts";

/** Kinds of access. */
export const ACCESS = { read: 0, write: 1, execute: 2 } as const;
export type Access = typeof ACCESS[keyof typeof ACCESS];

/** Page-table entry bits. */
const PTE = {
  P: 1,
  RW: 2,
  US: 4,
  A: 0x20,
  D: 0x40,
  PS: 0x80,
  G: 0x100,
} as const;
/** Bit 63 in the upper half of an entry. */
const NX_HIGH = 0x80000000;
/** Bits 51 to 40 in the upper half: reserved with 40 physical address bits. */
const RESERVED_HIGH = 0x000fff00;
/** #PF error code bits. */
const PF = { P: 1, W: 2, U: 4, RSVD: 8, I: 16 } as const;

const ENTRY_BYTES = 16;
const SET_BYTES = TLB_ENTRIES * ENTRY_BYTES;
/** TLB sets: supervisor, supervisor with EFLAGS.AC under SMAP, user; each for reading and for writing. */
export const TLB_SETS = 6;
export const TLB_BYTES = TLB_SETS * SET_BYTES;
/** Execute translations kept in TypeScript. */
const FETCH_ENTRIES = 512;

/** Page walker and TLB of one vCPU. */
export class Mmu {
  /** After a failed translation: the exception and its error code. */
  vector = 0;
  errorCode = 0;
  a20 = true;
  /** Keep nothing, so that every access is seen: data breakpoints. */
  watched = false;
  private readonly words: Uint32Array;
  /** Word indices of filled entries since the last flush: all, and those that a CR3 write keeps. */
  private filled: number[] = [];
  private filledGlobal: number[] = [];
  private global = false;
  private readonly fetchLow = new Uint32Array(FETCH_ENTRIES);
  private readonly fetchHigh = new Uint32Array(FETCH_ENTRIES);
  private readonly fetchKey = new Uint32Array(FETCH_ENTRIES);
  private readonly fetchPage = new Float64Array(FETCH_ENTRIES);
  private generation = 1;
  private globalGeneration = 1;
  /** Whether the last fetch translation is of a global page. */
  fetchGlobal = false;

  /**
   * @param tlb Wasm address of this vCPU's TLBs.
   */
  constructor(
    private readonly memory: GuestMemory,
    private readonly state: CpuState,
    readonly tlb: number,
  ) {
    this.words = memory.words;
    for (let i = 0; i < TLB_BYTES; i += ENTRY_BYTES) {
      this.words[(tlb + i) >> 2] = 1;
      this.words[((tlb + i) >> 2) + 1] = 0;
    }
  }

  /** Wasm addresses of the TLBs for a privilege: 0 supervisor, 1 supervisor with AC, 2 user. */
  tlbAddress(set: number, write: boolean): number {
    return this.tlb + (set * 2 + (write ? 1 : 0)) * SET_BYTES;
  }

  /** Forgets every translation, or every one that is not global. */
  flush(keepGlobal = false): void {
    const words = this.words;
    for (const at of this.filled) {
      words[at] = 1;
      words[at + 1] = 0;
    }
    this.filled.length = 0;
    if (!keepGlobal) {
      for (const at of this.filledGlobal) {
        words[at] = 1;
        words[at + 1] = 0;
      }
      this.filledGlobal.length = 0;
      this.globalGeneration++;
    }
    this.generation++;
  }

  /** Forgets write translations: a page became special. */
  flushWrites(): void {
    for (let set = 0; set < 3; set++) {
      const base = this.tlbAddress(set, true) >> 2;
      for (let i = 0; i < SET_BYTES >> 2; i += ENTRY_BYTES >> 2) {
        this.words[base + i] = 1;
        this.words[base + i + 1] = 0;
      }
    }
  }

  /** INVLPG: forgets one page. */
  invalidate(low: number): void {
    const index = (low >>> 12) & (TLB_ENTRIES - 1);
    for (let set = 0; set < TLB_SETS; set++) {
      const at = (this.tlb + set * SET_BYTES + index * ENTRY_BYTES) >> 2;
      this.words[at] = 1;
      this.words[at + 1] = 0;
    }
    this.generation++;
    this.globalGeneration++;
  }

  /** Puts a translation into the TLB of `set`. */
  fill(
    low: number,
    high: number,
    host: number,
    write: boolean,
    set: number,
  ): void {
    if (this.watched) return;
    const at = (this.tlbAddress(set, write) >> 2) +
      ((low >>> 12) & (TLB_ENTRIES - 1)) * (ENTRY_BYTES >> 2);
    this.words[at] = low & ~0xfff;
    this.words[at + 1] = high;
    this.words[at + 2] = host - low;
    (this.global ? this.filledGlobal : this.filled).push(at);
    if (this.filled.length > 4 * TLB_ENTRIES * TLB_SETS) this.compact();
  }

  /** Bounds the lists of filled entries. */
  private compact(): void {
    this.filled = [...new Set(this.filled)];
    this.filledGlobal = [...new Set(this.filledGlobal)];
  }

  /** The wasm address from the TLB of `set`, or -1. */
  cached(low: number, high: number, write: boolean, set: number): number {
    const at = (this.tlbAddress(set, write) >> 2) +
      ((low >>> 12) & (TLB_ENTRIES - 1)) * (ENTRY_BYTES >> 2);
    if (
      this.words[at] !== ((low & ~0xfff) >>> 0) ||
      this.words[at + 1] !== high >>> 0
    ) return -1;
    return (low + this.words[at + 2]) >>> 0;
  }

  /** Translates an instruction fetch, with a cache. -1 on a fault. */
  fetch(low: number, high: number, user: boolean): number {
    const index = (low >>> 12) & (FETCH_ENTRIES - 1);
    const userBit = user ? 1 : 0;
    const page = (low & ~0xfff) >>> 0;
    if (this.fetchLow[index] === page && this.fetchHigh[index] === high >>> 0) {
      const key = this.fetchKey[index];
      const global = (key & 2) !== 0;
      if (key === this.fetchKeyFor(global, userBit)) {
        this.fetchGlobal = global;
        return this.fetchPage[index] + (low & 0xfff);
      }
    }
    const pa = this.translate(low, high, ACCESS.execute, user);
    if (pa >= 0) {
      const host = this.memory.host(pa);
      if (host >= 0) this.memory.present(host);
      this.fetchGlobal = this.global;
      this.fetchLow[index] = page;
      this.fetchHigh[index] = high;
      this.fetchKey[index] = this.fetchKeyFor(this.global, userBit);
      this.fetchPage[index] = pa - (low & 0xfff);
    }
    return pa;
  }

  private fetchKeyFor(global: boolean, userBit: number): number {
    return (((global ? this.globalGeneration : this.generation) << 2) |
      (global ? 2 : 0) | userBit) >>> 0;
  }

  private fault(
    access: Access,
    user: boolean,
    present: boolean,
    reserved = false,
  ): -1 {
    this.vector = VECTOR.PF;
    const s = this.state;
    const nx = (s.get32(OFF.efer) & EFER.NXE) !== 0 &&
      (s.get32(OFF.cr4) & CR4.PAE) !== 0;
    const fetchBit =
      access === ACCESS.execute && (nx || (s.get32(OFF.cr4) & CR4.SMEP) !== 0)
        ? PF.I
        : 0;
    this.errorCode = (present ? PF.P : 0) |
      (access === ACCESS.write ? PF.W : 0) | (user ? PF.U : 0) |
      (reserved ? PF.RSVD : 0) | fetchBit;
    return -1;
  }

  private mask(pa: number): number {
    return this.a20 || pa % 0x200000 < 0x100000 ? pa : pa - 0x100000;
  }

  /**
   * The PDPTE registers that a CR3 stands for under PAE paging (4.4.1).
   *
   * @param cr3 The value of CR3.
   * @returns The four; none where paging is another.
   * @throws {GuestFault} #GP(0) when a present one has reserved bits set.
   */
  readPdptes(cr3: bigint): bigint[] {
    if (!isPaePaging(this.state)) return [];
    const table = Number(cr3 & 0xffffffe0n);
    return Array.from({ length: PDPTES }, (_, i) => {
      const host = this.memory.host(this.mask(table + 8 * i));
      if (host >= 0) this.memory.present(host);
      const entry = host < 0
        ? 0xffff_ffff_ffff_ffffn
        : this.memory.view8.getBigUint64(host, true);
      if (!isPdpte(entry)) throw new GuestFault(VECTOR.GP, 0);
      return entry;
    });
  }

  /**
   * Walks the page tables, setting accessed and dirty bits.
   *
   * @param low Low half of the linear address. @param high Its upper half.
   * @param user Whether the access is made with CPL 3.
   * @param implicit A supervisor access to a system structure: never one to a user page under SMAP.
   * @returns the physical address, or -1 with {@linkcode vector} and {@linkcode errorCode} set (CR2 is the caller's to set).
   */
  translate(
    low: number,
    high: number,
    access: Access,
    user: boolean,
    implicit = false,
  ): number {
    const s = this.state;
    low >>>= 0;
    const cr0 = s.get32(OFF.cr0);
    if ((cr0 & CR0.PG) === 0) {
      this.global = true;
      return this.mask(low);
    }
    const cr4 = s.get32(OFF.cr4);
    const efer = s.get32(OFF.efer);
    const nxe = (efer & EFER.NXE) !== 0;
    const cr3 = s.get32(OFF.cr3);
    const words = this.words;
    let levels: number;
    let table: number;
    if (efer & EFER.LMA) {
      const top = high >>> 15;
      if (top !== 0 && top !== 0x1ffff) {
        this.vector = VECTOR.GP;
        this.errorCode = 0;
        return -1;
      }
      levels = 4;
      table = (cr3 & ~0xfff) >>> 0;
      table += (s.d[(OFF.cr3 >> 2) + 1] & 0xfffff) * 0x100000000;
    } else if (cr4 & CR4.PAE) {
      // Not from memory: CR3 stands for four registers that its write has loaded (4.4.1).
      const at = (OFF.pdpte >> 2) + 2 * (low >>> 30);
      const pdpteLow = s.d[at];
      if ((pdpteLow & PTE.P) === 0) return this.fault(access, user, false);
      levels = 2;
      table = ((pdpteLow & ~0xfff) >>> 0) + (s.d[at + 1] & 0xff) * 0x100000000;
    } else {
      return this.translate32(low, access, user, implicit, cr0, cr3, cr4);
    }
    let writable = true, userPage = true, executable = true;
    const entries: number[] = this.walkEntries;
    let depth = 0;
    for (let level = levels; level >= 1; level--) {
      const index = level === 4
        ? (high >>> 7) & 511
        : level === 3
        ? ((high & 0x7f) << 2) | (low >>> 30)
        : level === 2
        ? (low >>> 21) & 511
        : (low >>> 12) & 511;
      const host = this.memory.host(this.mask(table + index * 8));
      if (host < 0) return this.fault(access, user, true, true);
      this.memory.present(host);
      const at = host >>> 2;
      const entryLow = words[at], entryHigh = words[at + 1];
      if ((entryLow & PTE.P) === 0) return this.fault(access, user, false);
      if (
        (entryHigh & RESERVED_HIGH) !== 0 ||
        (!nxe && (entryHigh & NX_HIGH) !== 0)
      ) {
        return this.fault(access, user, true, true);
      }
      if ((entryLow & PTE.RW) === 0) writable = false;
      if ((entryLow & PTE.US) === 0) userPage = false;
      if ((entryHigh & NX_HIGH) !== 0) executable = false;
      entries[depth++] = at;
      const address = ((entryLow & ~0xfff) >>> 0) +
        (entryHigh & 0xff) * 0x100000000;
      const large = level > 1 && (entryLow & PTE.PS) !== 0;
      if (!large && level > 1) {
        table = address;
        continue;
      }
      let pa: number;
      if (level === 1) pa = address + (low & 0xfff);
      else if (level === 2) {
        if (entryLow & 0x1fe000) return this.fault(access, user, true, true);
        pa = address - (entryLow & 0x1ff000) + (low & 0x1fffff);
      } else if (level === 3) {
        if (entryLow & 0x3fffe000) return this.fault(access, user, true, true);
        pa = address - (entryLow & 0x3ffff000) + (low & 0x3fffffff);
      } else return this.fault(access, user, true, true);
      if (
        !this.permitted(
          access,
          user,
          implicit,
          writable,
          userPage,
          executable,
          cr0,
          cr4,
        )
      ) {
        return this.fault(access, user, true);
      }
      for (let i = 0; i < depth; i++) this.mark(entries[i], PTE.A);
      if (access === ACCESS.write) this.mark(at, PTE.D);
      this.global = (entryLow & PTE.G) !== 0 && (cr4 & CR4.PGE) !== 0;
      return this.mask(pa);
    }
    return this.fault(access, user, false);
  }

  private readonly walkEntries: number[] = [0, 0, 0, 0];

  /** Sets bits of the table entry at a word index. */
  private mark(at: number, bits: number): void {
    if ((this.words[at] & bits) === bits) return;
    this.memory.beforeWrite(at * 4);
    this.words[at] |= bits;
  }

  private permitted(
    access: Access,
    user: boolean,
    implicit: boolean,
    writable: boolean,
    userPage: boolean,
    executable: boolean,
    cr0: number,
    cr4: number,
  ): boolean {
    if (access === ACCESS.execute && !executable) return false;
    if (user) return userPage && (writable || access !== ACCESS.write);
    if (userPage) {
      if (access === ACCESS.execute) return (cr4 & CR4.SMEP) === 0;
      if (
        cr4 & CR4.SMAP &&
        (implicit || (this.state.get32(OFF.rflags) & FLAG.AC) === 0)
      ) return false;
    }
    return access !== ACCESS.write || writable || (cr0 & CR0.WP) === 0;
  }

  /** Two-level paging with 4-byte entries (Intel SDM vol. 3, 5.3). */
  private translate32(
    low: number,
    access: Access,
    user: boolean,
    implicit: boolean,
    cr0: number,
    cr3: number,
    cr4: number,
  ): number {
    const words = this.words;
    const directory = this.memory.host(
      this.mask(((cr3 & ~0xfff) >>> 0) + (low >>> 22) * 4),
    );
    if (directory < 0) return this.fault(access, user, false);
    this.memory.present(directory);
    const pdeAt = directory >>> 2;
    const pde = words[pdeAt];
    if ((pde & PTE.P) === 0) return this.fault(access, user, false);
    let at = pdeAt;
    let entry = pde;
    let pa: number;
    if (pde & PTE.PS && cr4 & CR4.PSE) {
      if (pde & (1 << 21)) return this.fault(access, user, true, true);
      pa = ((pde & 0xffc00000) >>> 0) + ((pde >>> 13) & 0xff) * 0x100000000 +
        (low & 0x3fffff);
    } else {
      const table = this.memory.host(
        this.mask(((pde & ~0xfff) >>> 0) + ((low >>> 12) & 1023) * 4),
      );
      if (table < 0) return this.fault(access, user, false);
      this.memory.present(table);
      at = table >>> 2;
      entry = words[at];
      if ((entry & PTE.P) === 0) return this.fault(access, user, false);
      pa = ((entry & ~0xfff) >>> 0) + (low & 0xfff);
    }
    const both = pde & entry;
    if (
      !this.permitted(
        access,
        user,
        implicit,
        (both & PTE.RW) !== 0,
        (both & PTE.US) !== 0,
        true,
        cr0,
        cr4,
      )
    ) {
      return this.fault(access, user, true);
    }
    this.mark(pdeAt, PTE.A);
    this.mark(at, PTE.A | (access === ACCESS.write ? PTE.D : 0));
    this.global = (entry & PTE.G) !== 0 && (cr4 & CR4.PGE) !== 0;
    return this.mask(pa);
  }
}
