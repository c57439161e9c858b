/**
 * Memory as the vCPU sees it: what generated code leaves to TypeScript (TLB misses, page crossings, MMIO, ROM, translated
 * code), and the accesses of instructions written in TypeScript.
 *
 * @module
 */
import type { AccessSize } from "../plugin.ts";
import { type GuestMemory, PAGE } from "../memory/memory.ts";
import type { BlockCache, CodeMode } from "./blocks.ts";
import { dataBreakpoints } from "./breakpoints.ts";
import type { Insn } from "./helper.ts";
import { STATE_BASE, TLB_BASE } from "./layout.ts";
import { ACCESS, Mmu, TLB_BYTES } from "./mmu.ts";
import { FAULT_SINGLE, READ_TOO } from "./record.ts";
import {
  ATTR,
  CpuState,
  CR0,
  EFER,
  FLAG,
  FS,
  GuestFault,
  OFF,
  RSP,
  SS,
  STATE_SIZE,
  VECTOR,
} from "./state.ts";

/** The part of a vCPU that reads and writes memory. */
export abstract class CpuMemory {
  readonly state: CpuState;
  readonly mmu: Mmu;
  protected readonly memory: GuestMemory;
  /** Wasm address of OFF.access. */
  protected readonly accessAddress: number;
  /** Doing one instruction on its own: MMIO is allowed. */
  protected single = false;
  protected mode: CodeMode = 16;
  /** TLB set of the current privilege (see `Mmu.tlbAddress`). */
  protected tlbSet = 0;

  /** @param index Which of the areas for vCPUs is this one's. */
  constructor(
    memory: GuestMemory,
    protected readonly blocks: BlockCache,
    index: number,
  ) {
    this.memory = memory;
    const base = STATE_BASE + index * STATE_SIZE;
    this.state = new CpuState(memory.wasm, base);
    this.mmu = new Mmu(memory, this.state, TLB_BASE + index * TLB_BYTES);
    this.accessAddress = base + OFF.access;
  }

  /** See `HelperCpu.readPdptes`. */
  readPdptes(cr3: bigint): readonly bigint[] {
    return this.mmu.readPdptes(cr3);
  }

  /** RIP of the instruction after the current helper's. */
  abstract get nextRip(): bigint;

  protected setCr2(low: number, high: number): void {
    this.state.d[OFF.cr2 >> 2] = low;
    this.state.d[(OFF.cr2 >> 2) + 1] = high;
  }

  /** The instruction that {@linkcode step} runs ends in a single-step trap. */
  protected stepping = false;

  /** DR6 bits of the data breakpoints that it met. */
  protected dataHits = 0;

  /** Notes the data breakpoints that an access meets. */
  private watch(
    low: number,
    high: number,
    bytes: number,
    write: boolean,
  ): void {
    this.dataHits |= dataBreakpoints(
      this.state,
      (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0),
      bytes,
      write,
    );
  }

  /** A TLB miss: the wasm address of the bytes (or of the access buffer that has them), or 0 with OFF.fault set. */
  slowRead(low: number, high: number, sizeWord: number): number {
    const size = sizeWord & 0xff;
    low >>>= 0;
    high >>>= 0;
    const user = this.cpl === 3;
    if (this.mmu.watched) this.watch(low, high, size, false);
    if ((low & 0xfff) + size > 4096) {
      const bytes = this.memory.bytes;
      for (let i = 0; i < size; i++) {
        const at = (low + i) >>> 0;
        const page = i === 0 || (at & 0xfff) === 0;
        if (!page) continue;
        const pa = this.mmu.translate(
          at,
          this.carry(low, high, i),
          ACCESS.read,
          user,
        );
        if (pa < 0) return this.accessFault(at, this.carry(low, high, i));
        const count = i === 0 ? 4096 - (low & 0xfff) : size - i;
        const host = this.memory.host(pa);
        if (host >= 0) this.memory.present(host);
        else if (!this.single) return this.singleFault();
        for (let j = 0; j < count; j++) {
          bytes[this.accessAddress + i + j] = host < 0
            ? this.memory.mmioRead(pa + j, 1)
            : bytes[host + j];
        }
      }
      return this.accessAddress;
    }
    const pa = this.mmu.translate(low, high, ACCESS.read, user);
    if (pa < 0) return this.accessFault(low, high);
    const host = this.memory.host(pa);
    if (host < 0) {
      if (!this.single) return this.singleFault();
      this.mmioToBuffer(pa, size);
      return this.accessAddress;
    }
    this.memory.present(host);
    this.mmu.fill(low, high, host, false, this.tlbSet);
    return host;
  }

  /** The upper half of low + i. */
  private carry(low: number, high: number, i: number): number {
    return low + i > 0xffffffff
      ? (this.mode === 64 ? (high + 1) >>> 0 : 0)
      : high;
  }

  private accessFault(low: number, high: number): 0 {
    this.state.set32(OFF.fault, this.mmu.vector);
    this.state.set32(OFF.faultError, this.mmu.errorCode);
    if (this.mmu.vector === VECTOR.PF) this.setCr2(low, high);
    return 0;
  }

  private singleFault(): 0 {
    this.state.set32(OFF.fault, FAULT_SINGLE);
    return 0;
  }

  private mmioToBuffer(pa: number, size: number): void {
    const view = this.memory.view8;
    forEachAccess(pa, size, (offset, bytes) => {
      const value = this.memory.mmioRead(pa + offset, bytes);
      const at = this.accessAddress + offset;
      if (bytes === 4) view.setUint32(at, value, true);
      else if (bytes === 2) view.setUint16(at, value, true);
      else view.setUint8(at, value);
    });
  }

  /** Like {@linkcode slowRead} for a store; the access buffer is handed to {@linkcode commit} after it was written. */
  slowWrite(low: number, high: number, sizeWord: number): number {
    const size = sizeWord & 0xff;
    const readToo = (sizeWord & READ_TOO) !== 0;
    low >>>= 0;
    high >>>= 0;
    const user = this.cpl === 3;
    const s = this.state;
    if (this.mmu.watched) this.watch(low, high, size, true);
    if ((low & 0xfff) + size > 4096) {
      const first = 4096 - (low & 0xfff);
      const nextLow = (low + first) >>> 0,
        nextHigh = this.carry(low, high, first);
      const pa = this.mmu.translate(low, high, ACCESS.write, user);
      if (pa < 0) return this.accessFault(low, high);
      const next = this.mmu.translate(nextLow, nextHigh, ACCESS.write, user);
      if (next < 0) return this.accessFault(nextLow, nextHigh);
      if (
        !this.single && (this.memory.host(pa) < 0 || this.memory.host(next) < 0)
      ) return this.singleFault();
      if (readToo && this.slowRead(low, high, size) === 0) return 0;
      s.set32(OFF.accessLow, low);
      s.set32(OFF.accessHigh, high);
      s.set32(OFF.accessSize, size);
      return this.accessAddress;
    }
    const pa = this.mmu.translate(low, high, ACCESS.write, user);
    if (pa < 0) return this.accessFault(low, high);
    const host = this.memory.host(pa);
    if (host < 0) {
      if (!this.single) return this.singleFault();
      if (readToo) this.mmioToBuffer(pa, size);
      s.set32(OFF.accessLow, low);
      s.set32(OFF.accessHigh, high);
      s.set32(OFF.accessSize, size);
      return this.accessAddress;
    }
    this.memory.beforeWrite(host);
    const flags = this.memory.pageFlags(host);
    if (flags & PAGE.ROM) {
      if (readToo) {
        this.memory.bytes.copyWithin(this.accessAddress, host, host + size);
      }
      s.set32(OFF.accessSize, 0); // commit drops it
      return this.accessAddress;
    }
    if (flags & PAGE.CODE) {
      if (
        this.blocks.invalidate(pa, size) &&
        this.memory.pageFlags(host) === 0
      ) {
        this.mmu.fill(low, high, host, true, this.tlbSet);
      }
      return host;
    }
    this.mmu.fill(low, high, host, true, this.tlbSet);
    return host;
  }

  /** Carries the bytes of the access buffer to where they belong. */
  commit(): void {
    const s = this.state;
    const size = s.get32(OFF.accessSize);
    const low = s.get32(OFF.accessLow), high = s.get32(OFF.accessHigh);
    let done = 0;
    while (done < size) {
      const at = (low + done) >>> 0;
      const count = Math.min(size - done, 4096 - (at & 0xfff));
      const pa = this.mmu.translate(
        at,
        this.carry(low, high, done),
        ACCESS.write,
        this.cpl === 3,
      );
      this.storePhysical(
        pa,
        this.memory.bytes.subarray(
          this.accessAddress + done,
          this.accessAddress + done + count,
        ),
      );
      done += count;
    }
  }

  /** A store to RAM with invalidation, to MMIO, or (lost) to ROM. */
  private storePhysical(pa: number, source: Uint8Array): void {
    const host = this.memory.host(pa);
    if (host >= 0) {
      const flags = this.memory.pageFlags(host);
      if (flags & PAGE.ROM) return;
      this.memory.beforeWrite(host);
      if (flags & PAGE.CODE) this.blocks.invalidate(pa, source.length);
      this.memory.bytes.set(source, host);
      return;
    }
    const view = new DataView(source.buffer, source.byteOffset, source.length);
    forEachAccess(pa, source.length, (offset, bytes) => {
      const value = bytes === 4
        ? view.getUint32(offset, true)
        : bytes === 2
        ? view.getUint16(offset, true)
        : view.getUint8(offset);
      this.memory.mmioWrite(pa + offset, bytes, value);
    });
  }

  /** Segment limit and type check of generated code outside 64-bit mode: 0, or 1 with OFF.fault set. */
  checkSegment(offset: number, check: number): number {
    try {
      this.checkedBase(
        check & 7,
        offset >>> 0,
        (check >> 8) & 0xff,
        (check & (1 << 16)) !== 0,
      );
      return 0;
    } catch (error) {
      if (!(error instanceof GuestFault)) throw error;
      this.state.set32(OFF.fault, error.vector);
      this.state.set32(OFF.faultError, error.errorCode);
      return 1;
    }
  }

  get cpl(): number {
    return this.state.get32(OFF.cpl);
  }

  get protectedMode(): boolean {
    return (this.state.get32(OFF.cr0) & CR0.PE) !== 0 && !this.v86;
  }

  get v86(): boolean {
    return (this.state.get32(OFF.rflags) & FLAG.VM) !== 0;
  }

  get longMode(): boolean {
    return (this.state.get32(OFF.efer) & EFER.LMA) !== 0;
  }

  get code64(): boolean {
    return this.mode === 64;
  }

  effectiveAddress(insn: Insn): bigint {
    const s = this.state;
    let offset = BigInt(insn.disp);
    if (insn.base === -2) offset += this.nextRip;
    else if (insn.base >= 0) offset += s.reg(insn.base);
    if (insn.index >= 0) offset += s.reg(insn.index) << BigInt(insn.scale);
    return BigInt.asUintN(insn.addressSize * 8, offset);
  }

  linear(insn: Insn, bytes: number, write: boolean): bigint {
    return this.segmentAddress(
      insn.segment,
      this.effectiveAddress(insn),
      bytes,
      write,
    );
  }

  segmentAddress(
    segment: number,
    offset: bigint,
    bytes: number,
    write: boolean,
  ): bigint {
    if (this.mode === 64) {
      if (segment >= FS) {
        offset = BigInt.asUintN(
          64,
          offset + this.state.get(OFF.segBase + segment * 8),
        );
      }
      return offset;
    }
    const at = Number(offset);
    return BigInt(
      (this.checkedBase(segment, at, bytes, write) + at) % 0x100000000,
    );
  }

  /** The segment's base, after the checks of Intel SDM vol. 3, 6.3 and 6.4. */
  private checkedBase(
    segment: number,
    offset: number,
    bytes: number,
    write: boolean,
  ): number {
    const s = this.state;
    const base = s.get32(OFF.segBase + segment * 8);
    if (s.get32(OFF.segFlat) & (1 << segment)) return base;
    const attr = s.get32(OFF.segAttr + segment * 4);
    const vector = segment === SS ? VECTOR.SS : VECTOR.GP;
    if (this.protectedMode) {
      if (attr & ATTR.UNUSABLE || (attr & ATTR.P) === 0) {
        throw new GuestFault(vector, 0);
      }
      const code = (attr & 8) !== 0;
      if (write ? code || (attr & 2) === 0 : code && (attr & 2) === 0) {
        throw new GuestFault(vector, 0);
      }
    }
    const limit = s.get32(OFF.segLimit + segment * 4);
    const last = offset + bytes - 1;
    if ((attr & 0xc) === 4 && this.protectedMode) {
      const top = attr & ATTR.DB ? 0xffffffff : 0xffff;
      if (offset <= limit || last > top) throw new GuestFault(vector, 0);
    } else if (last > limit) throw new GuestFault(vector, 0);
    return base;
  }

  /** The wasm address of `bytes` at a linear address within one page, or -1 for MMIO; throws #PF. */
  private hostFor(
    low: number,
    high: number,
    write: boolean,
    user: boolean,
    implicit: boolean,
  ): number {
    // Implicit accesses never have the right that EFLAGS.AC gives; those of an interrupted user are a supervisor's.
    const set = user ? 2 : implicit || this.cpl === 3 ? 0 : this.tlbSet;
    const host = this.mmu.cached(low, high, write, set);
    if (host >= 0) return host;
    return this.hostMiss(low, high, write, user, implicit, set);
  }

  /** {@linkcode hostFor} when the TLB has nothing. */
  private hostMiss(
    low: number,
    high: number,
    write: boolean,
    user: boolean,
    implicit: boolean,
    set: number,
  ): number {
    const pa = this.mmu.translate(
      low,
      high,
      write ? ACCESS.write : ACCESS.read,
      user,
      implicit,
    );
    if (pa < 0) {
      if (this.mmu.vector === VECTOR.PF) this.setCr2(low, high);
      throw new GuestFault(this.mmu.vector, this.mmu.errorCode);
    }
    this.lastPhysical = pa;
    const host = this.memory.host(pa);
    if (host < 0) return -1;
    if (write) {
      const flags = this.memory.pageFlags(host);
      if (flags & PAGE.ROM) return -1;
      this.memory.beforeWrite(host);
      if (flags & PAGE.CODE) {
        this.blocks.invalidate(pa, 8);
        return host;
      }
    } else this.memory.present(host);
    this.mmu.fill(low, high, host, write, set);
    return host;
  }

  private lastPhysical = 0;

  private access(
    linear: bigint,
    buffer: Uint8Array,
    write: boolean,
    user: boolean,
    implicit: boolean,
  ): void {
    let done = 0;
    // All pages are checked before a byte is stored.
    if (write && Number(linear & 0xfffn) + buffer.length > 4096) {
      this.probe(linear, buffer.length, user, implicit);
    }
    while (done < buffer.length) {
      const at = BigInt.asUintN(64, linear + BigInt(done));
      const low = Number(at & 0xffffffffn),
        high = this.mode === 64 || this.longMode ? Number(at >> 32n) : 0;
      const count = Math.min(buffer.length - done, 4096 - (low & 0xfff));
      const host = this.hostFor(low, high, write, user, implicit);
      const part = buffer.subarray(done, done + count);
      if (write) {
        if (host < 0) this.storePhysical(this.lastPhysical, part);
        else {
          const pa = this.memory.pageFlags(host) & PAGE.CODE
            ? this.lastPhysical
            : -1;
          if (pa >= 0) this.blocks.invalidate(pa, count);
          this.memory.bytes.set(part, host);
        }
      } else if (host < 0) {
        const pa = this.lastPhysical;
        const view = new DataView(part.buffer, part.byteOffset, part.length);
        forEachAccess(pa, count, (offset, bytes) => {
          const value = this.memory.mmioRead(pa + offset, bytes);
          if (bytes === 4) view.setUint32(offset, value, true);
          else if (bytes === 2) view.setUint16(offset, value, true);
          else view.setUint8(offset, value);
        });
      } else part.set(this.memory.bytes.subarray(host, host + count));
      done += count;
    }
  }

  private probe(
    linear: bigint,
    bytes: number,
    user: boolean,
    implicit: boolean,
  ): void {
    let done = 0;
    while (done < bytes) {
      const at = BigInt.asUintN(64, linear + BigInt(done));
      const low = Number(at & 0xffffffffn);
      this.hostFor(
        low,
        this.longMode ? Number(at >> 32n) : 0,
        true,
        user,
        implicit,
      );
      done += 4096 - (low & 0xfff);
    }
  }

  private readonly word = new DataView(new ArrayBuffer(8));

  private readonly wordBytes = new Uint8Array(this.word.buffer);

  private readonly wordParts = [1, 2, 4, 8].reduce<Record<number, Uint8Array>>(
    (parts, n) => {
      parts[n] = this.wordBytes.subarray(0, n);
      return parts;
    },
    {},
  );

  private readValue(
    linear: bigint,
    bytes: number,
    user: boolean,
    implicit: boolean,
  ): bigint {
    const low = Number(linear & 0xffffffffn);
    const high = this.longMode ? Number((linear >> 32n) & 0xffffffffn) : 0;
    if (this.mmu.watched && !implicit) this.watch(low, high, bytes, false);
    if ((low & 0xfff) + bytes <= 4096) {
      const host = this.hostFor(low, high, false, user, implicit);
      if (host >= 0) {
        const view = this.memory.view8;
        return bytes === 8 ? view.getBigUint64(host, true) : BigInt(
          bytes === 4
            ? view.getUint32(host, true)
            : bytes === 2
            ? view.getUint16(host, true)
            : view.getUint8(host),
        );
      }
    }
    this.word.setBigUint64(0, 0n);
    this.access(linear, this.wordParts[bytes], false, user, implicit);
    return this.word.getBigUint64(0, true);
  }

  private writeValue(
    linear: bigint,
    bytes: number,
    value: bigint,
    user: boolean,
    implicit: boolean,
  ): void {
    const low = Number(linear & 0xffffffffn);
    if ((low & 0xfff) + bytes <= 4096) {
      const high = this.longMode ? Number((linear >> 32n) & 0xffffffffn) : 0;
      const host = this.mmu.cached(
        low,
        high,
        true,
        user ? 2 : implicit || this.cpl === 3 ? 0 : this.tlbSet,
      );
      // A write translation is that of plain RAM.
      if (host >= 0) {
        const view = this.memory.view8;
        if (bytes === 8) view.setBigUint64(host, value, true);
        else if (bytes === 4) {
          view.setUint32(host, Number(BigInt.asUintN(32, value)), true);
        } else if (bytes === 2) {
          view.setUint16(host, Number(BigInt.asUintN(16, value)), true);
        } else view.setUint8(host, Number(BigInt.asUintN(8, value)));
        return;
      }
    }
    if (this.mmu.watched && !implicit) {
      this.watch(low, this.longMode ? Number(linear >> 32n) : 0, bytes, true);
    }
    this.word.setBigUint64(0, value, true);
    this.access(linear, this.wordParts[bytes], true, user, implicit);
  }

  read8(linear: bigint): number {
    return Number(this.readValue(linear, 1, this.cpl === 3, false));
  }

  read16(linear: bigint): number {
    return Number(this.readValue(linear, 2, this.cpl === 3, false));
  }

  read32(linear: bigint): number {
    return Number(this.readValue(linear, 4, this.cpl === 3, false));
  }

  read64(linear: bigint): bigint {
    return this.readValue(linear, 8, this.cpl === 3, false);
  }

  readBytes(linear: bigint, target: Uint8Array): void {
    this.access(linear, target, false, this.cpl === 3, false);
  }

  write8(linear: bigint, value: number): void {
    this.writeValue(linear, 1, BigInt(value & 0xff), this.cpl === 3, false);
  }

  write16(linear: bigint, value: number): void {
    this.writeValue(linear, 2, BigInt(value & 0xffff), this.cpl === 3, false);
  }

  write32(linear: bigint, value: number): void {
    this.writeValue(linear, 4, BigInt(value >>> 0), this.cpl === 3, false);
  }

  write64(linear: bigint, value: bigint): void {
    this.writeValue(linear, 8, value, this.cpl === 3, false);
  }

  writeBytes(linear: bigint, source: Uint8Array): void {
    this.access(linear, source, true, this.cpl === 3, false);
  }

  get memoryBytes(): Uint8Array {
    return this.memory.bytes;
  }

  direct(linear: bigint, bytes: number, write: boolean): number {
    if (this.mmu.watched) {
      this.watch(
        Number(linear & 0xffffffffn),
        this.longMode ? Number(linear >> 32n) : 0,
        bytes,
        write,
      );
    }
    const host = this.hostFor(
      Number(linear & 0xffffffffn),
      this.longMode ? Number(linear >> 32n) : 0,
      write,
      this.cpl === 3,
      false,
    );
    if (write && host >= 0 && this.memory.pageFlags(host) & PAGE.CODE) {
      this.blocks.invalidate(this.lastPhysical, bytes);
    }
    return host;
  }

  cachedHost(low: number, high: number, write: boolean): number {
    return this.mmu.cached(low, high, write, this.tlbSet);
  }

  probeWrite(linear: bigint, bytes: number): void {
    this.probe(linear, bytes, this.cpl === 3, false);
  }

  readSystem(linear: bigint, bytes: 1 | 2 | 4 | 8): bigint {
    return this.readValue(linear, bytes, false, true);
  }

  writeSystem(linear: bigint, bytes: 1 | 2 | 4 | 8, value: bigint): void {
    this.writeValue(linear, bytes, value, false, true);
  }

  writeAs(cpl: number, linear: bigint, bytes: 2 | 4 | 8, value: bigint): void {
    this.writeValue(linear, bytes, value, cpl === 3, false);
  }

  readAs(cpl: number, linear: bigint, bytes: 2 | 4 | 8): bigint {
    return this.readValue(linear, bytes, cpl === 3, false);
  }

  readReg(insn: Insn, index: number, size: 1 | 2 | 4 | 8): bigint {
    if (size === 1 && !insn.rex && index >= 4 && index < 8) {
      return BigInt(this.state.b[(index - 4) * 8 + 1]);
    }
    return BigInt.asUintN(size * 8, this.state.reg(index));
  }

  writeReg(
    insn: Insn,
    index: number,
    size: 1 | 2 | 4 | 8,
    value: bigint,
  ): void {
    if (size === 1 && !insn.rex && index >= 4 && index < 8) {
      this.state.b[(index - 4) * 8 + 1] = Number(value & 0xffn);
    } else this.state.setReg(index, BigInt.asUintN(64, value), size);
  }

  readRm(insn: Insn, size: 1 | 2 | 4 | 8): bigint {
    if (insn.mod === 3) return this.readReg(insn, insn.rm, size);
    return this.readValue(
      this.linear(insn, size, false),
      size,
      this.cpl === 3,
      false,
    );
  }

  writeRm(insn: Insn, size: 1 | 2 | 4 | 8, value: bigint): void {
    if (insn.mod === 3) this.writeReg(insn, insn.rm, size, value);
    else {this.writeValue(
        this.linear(insn, size, true),
        size,
        value,
        this.cpl === 3,
        false,
      );}
  }

  push(size: 2 | 4 | 8, value: bigint): void {
    const s = this.state;
    const mask = s.get(OFF.spMask);
    const rsp = s.reg(RSP);
    const offset = (rsp - BigInt(size)) & mask;
    const linear = this.segmentAddress(SS, offset, size, true);
    this.writeValue(linear, size, value, this.cpl === 3, false);
    s.q[RSP] = (rsp & ~mask) | offset;
  }

  pop(size: 2 | 4 | 8): bigint {
    const s = this.state;
    const mask = s.get(OFF.spMask);
    const rsp = s.reg(RSP);
    const linear = this.segmentAddress(SS, rsp & mask, size, false);
    const value = this.readValue(linear, size, this.cpl === 3, false);
    s.q[RSP] = BigInt.asUintN(
      64,
      (rsp & ~mask) | ((rsp + BigInt(size)) & mask),
    );
    return value;
  }
}

/** Splits an access into naturally aligned parts of 4, 2 or 1 bytes. */
function forEachAccess(
  address: number,
  length: number,
  each: (offset: number, bytes: AccessSize) => void,
): void {
  let offset = 0;
  while (offset < length) {
    const left = length - offset, at = address + offset;
    const bytes: AccessSize = left >= 4 && at % 4 === 0
      ? 4
      : left >= 2 && at % 2 === 0
      ? 2
      : 1;
    each(offset, bytes);
    offset += bytes;
  }
}
