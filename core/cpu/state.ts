/**
 * The layout of one vCPU's state in wasm memory, as data: generated code uses the offsets, TypeScript
 * the accessors, and the snapshot schema the names.
 *
 * Everything architectural is here and nowhere else. Lazy flags, the software TLB pointers and the
 * exit record are working state: {@linkcode CpuState.rflags} makes the flags real.
 *
 * @module
 */

/** General registers in encoding order (Intel SDM vol. 2, table 2-2). */
export const GPR_NAMES = [
  "rax",
  "rcx",
  "rdx",
  "rbx",
  "rsp",
  "rbp",
  "rsi",
  "rdi",
  "r8",
  "r9",
  "r10",
  "r11",
  "r12",
  "r13",
  "r14",
  "r15",
] as const;

export const RAX = 0,
  RCX = 1,
  RDX = 2,
  RBX = 3,
  RSP = 4,
  RBP = 5,
  RSI = 6,
  RDI = 7;
export const R11 = 11;

/** Segment registers in encoding order, then LDTR and TR. */
export const SEGMENT_NAMES = [
  "es",
  "cs",
  "ss",
  "ds",
  "fs",
  "gs",
  "ldtr",
  "tr",
] as const;
export const ES = 0, CS = 1, SS = 2, DS = 3, FS = 4, GS = 5, LDTR = 6, TR = 7;

/** Bytes that one vCPU's state takes. */
export const STATE_SIZE = 4096;

/** Byte offsets from the state base. u64 unless said otherwise. */
export const OFF = {
  gpr: 0x000, // 16 x u64
  rip: 0x080, // exact only outside generated code
  zero: 0x088, // always 0: the base or index of an address that has none
  tmp0: 0x090, // linear address made by a legacy-address record
  tmp1: 0x098,
  ripPage: 0x0a0, // RIP minus the offset in its linear page, of the running block
  flagResult: 0x0a8, // sign-extended result: ZF, SF, PF
  flagCarry: 0x0b0, // carry chain shifted so that the carry out is bit 63: CF, OF = bit 63 ^ bit 62
  flagAux: 0x0b8, // bit 4: AF; bit 63: SF inverted; bits 8-15: XORed into the parity byte
  rflags: 0x0c0, // every bit but CF PF AF ZF SF OF
  budget: 0x0c8, // i32: instructions left in this slice
  cpl: 0x0cc, // u32
  jumpKey: 0x0d0, // u32: valid jump-cache entries carry it
  attention: 0x0d4, // u32: non-zero when something is to be looked at on an instruction boundary
  readTlb: 0x0d8, // u32: wasm address of the read TLB of the current privilege
  writeTlb: 0x0dc, // u32
  segBase: 0x0e0, // 8 x u64
  segLimit: 0x120, // 8 x u32, in bytes
  segAttr: 0x140, // 8 x u32: type | S<<4 | DPL<<5 | P<<7 | AVL<<12 | L<<13 | DB<<14 | G<<15 | unusable<<16
  segSelector: 0x160, // 8 x u32
  spMask: 0x180, // 0xffff, 0xffffffff or all ones, by SS.B and mode
  gdtBase: 0x190,
  gdtLimit: 0x198, // u32
  idtBase: 0x1a0,
  idtLimit: 0x1a8, // u32
  cr0: 0x1b0,
  cr2: 0x1b8,
  cr3: 0x1c0,
  cr4: 0x1c8,
  cr8: 0x1d0, // only without a local APIC, whose task priority it is otherwise
  efer: 0x1d8,
  dr: 0x1e0, // 8 x u64 (dr4, dr5 unused)
  fpuTrap: 0x220, // u32: 0 x87 usable, 7 #NM
  sseTrap: 0x224, // u32: 0 SSE usable, 6 #UD, 7 #NM
  mmxTrap: 0x228, // u32: 0 MMX usable, 6 #UD, 7 #NM
  mxcsr: 0x22c, // u32
  fcw: 0x230, // u32 each
  fsw: 0x234, // with TOP in bits 11-13
  ftw: 0x238, // abridged: bit i set when physical register i is not empty
  fop: 0x23c,
  fip: 0x240, // u64
  fdp: 0x248, // u64
  fcs: 0x250, // u32
  fds: 0x254, // u32
  fault: 0x258, // u32: vector of the fault that ended the run
  faultError: 0x25c, // u32: its error code
  faultRecord: 0x260, // u32: record of the instruction that left generated code
  scratch: 0x270, // 16 bytes to pass data between generated code and TypeScript
  st: 0x280, // 8 x 16 bytes: physical x87 registers (80 bits used), MMX in the low 64
  xmm: 0x400, // 16 x 32 bytes: YMM registers
  star: 0x600,
  lstar: 0x608,
  cstar: 0x610,
  fmask: 0x618,
  kernelGsBase: 0x620,
  sysenterCs: 0x628,
  sysenterEsp: 0x630,
  sysenterEip: 0x638,
  pat: 0x640,
  tscAux: 0x648,
  tscOffset: 0x650,
  miscEnable: 0x658,
  mtrrDefType: 0x660,
  mtrrFixed: 0x668, // 11 x u64
  mtrrVariable: 0x6c0, // 16 x u64: base, mask pairs
  xcr0: 0x740,
  xss: 0x748,
  nmiBlocked: 0x750, // u32: 1 from the delivery of an NMI to the next IRET
  pdpte: 0x758, // 4 x u64: the PDPTE registers of PAE paging, loaded with CR3
  access: 0x780, // 16 bytes: memory accesses that cross a page, reach MMIO or hit translated code pass through here
  accessLow: 0x790, // u32: linear address of the pending store, and its upper half
  accessHigh: 0x794,
  accessSize: 0x798, // u32
  jumpCache: 0x79c, // u32: wasm address of this vCPU's jump cache
  segFlat: 0x7a0, // u32: bit n set when segment n needs no limit or type check
} as const;

/** Distance between XMM registers. */
export const XMM_STRIDE = 32;
/** Distance between x87/MMX registers. */
export const ST_STRIDE = 16;

/** EFLAGS bits (Intel SDM vol. 1, 3.4.3). */
export const FLAG = {
  CF: 1 << 0,
  FIXED: 1 << 1,
  PF: 1 << 2,
  AF: 1 << 4,
  ZF: 1 << 6,
  SF: 1 << 7,
  TF: 1 << 8,
  IF: 1 << 9,
  DF: 1 << 10,
  OF: 1 << 11,
  IOPL: 3 << 12,
  NT: 1 << 14,
  RF: 1 << 16,
  VM: 1 << 17,
  AC: 1 << 18,
  VIF: 1 << 19,
  VIP: 1 << 20,
  ID: 1 << 21,
} as const;

/** CF PF AF ZF SF OF. */
export const ARITHMETIC_FLAGS = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF |
  FLAG.SF | FLAG.OF;

/** CR0 bits. PG is bit 31: compare unsigned. */
export const CR0 = {
  PE: 1,
  MP: 2,
  EM: 4,
  TS: 8,
  ET: 16,
  NE: 32,
  WP: 1 << 16,
  AM: 1 << 18,
  NW: 1 << 29,
  CD: 1 << 30,
  PG: 0x80000000,
} as const;

/** CR4 bits. */
export const CR4 = {
  VME: 1,
  PVI: 2,
  TSD: 4,
  DE: 8,
  PSE: 16,
  PAE: 32,
  MCE: 64,
  PGE: 128,
  PCE: 256,
  OSFXSR: 512,
  OSXMMEXCPT: 1024,
  UMIP: 1 << 11,
  FSGSBASE: 1 << 16,
  PCIDE: 1 << 17,
  OSXSAVE: 1 << 18,
  SMEP: 1 << 20,
  SMAP: 1 << 21,
} as const;

/** IA32_EFER bits. */
export const EFER = {
  SCE: 1,
  LME: 1 << 8,
  LMA: 1 << 10,
  NXE: 1 << 11,
} as const;

/** Exception vectors (Intel SDM vol. 3, table 6-1). */
export const VECTOR = {
  DE: 0,
  DB: 1,
  NMI: 2,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
  MC: 18,
  XM: 19,
} as const;

/** Thrown by TypeScript helpers to raise an exception in the guest; the instruction has had no effect. */
export class GuestFault {
  /**
   * @param vector Exception vector.
   * @param errorCode Error code, for the vectors that push one.
   */
  constructor(readonly vector: number, readonly errorCode = 0) {}
}

/** Segment attribute bits in {@linkcode OFF.segAttr}. */
export const ATTR = {
  TYPE: 0xf,
  S: 0x10,
  DPL: 0x60,
  P: 0x80,
  AVL: 0x1000,
  L: 0x2000,
  DB: 0x4000,
  G: 0x8000,
  UNUSABLE: 0x10000,
} as const;

/** Typed access to one vCPU's state from TypeScript. */
export class CpuState {
  /** u64 view of the state, index = offset / 8. */
  readonly q: BigUint64Array;
  /** u32 view, index = offset / 4. */
  readonly d: Uint32Array;
  /** Bytes. */
  readonly b: Uint8Array;
  /** For unaligned or float accesses. */
  readonly view: DataView;

  constructor(memory: WebAssembly.Memory, readonly base: number) {
    const buffer = memory.buffer;
    this.q = new BigUint64Array(buffer, base, STATE_SIZE / 8);
    this.d = new Uint32Array(buffer, base, STATE_SIZE / 4);
    this.b = new Uint8Array(buffer, base, STATE_SIZE);
    this.view = new DataView(buffer, base, STATE_SIZE);
  }

  /** Reads a u64 field. */
  get(offset: number): bigint {
    return this.q[offset >> 3];
  }
  /** Writes a u64 field (truncated). */
  set(offset: number, value: bigint): void {
    this.q[offset >> 3] = value;
  }
  /** Reads the low 32 bits of a field as a number. */
  get32(offset: number): number {
    return this.d[offset >> 2];
  }
  /** Writes 32 bits of a field; the upper half of a u64 field stays. */
  set32(offset: number, value: number): void {
    this.d[offset >> 2] = value;
  }
  /** General register `index` as u64. */
  reg(index: number): bigint {
    return this.q[index];
  }
  /** Sets general register `index` as a write of `size` bytes does: 4 clears the upper half, 1 and 2 keep the rest. */
  setReg(index: number, value: bigint, size: 1 | 2 | 4 | 8 = 8): void {
    if (size === 8) this.q[index] = value;
    else if (size === 4) this.q[index] = value & 0xffffffffn;
    else if (size === 2) {
      this.view.setUint16(index * 8, Number(value & 0xffffn), true);
    } else this.b[index * 8] = Number(value & 0xffn);
  }
  /** The arithmetic flags, computed from the lazy ones. */
  arithmeticFlags(): number {
    const d = this.d;
    const resLo = d[OFF.flagResult >> 2], resHi = d[(OFF.flagResult >> 2) + 1];
    const carryHi = d[(OFF.flagCarry >> 2) + 1];
    const auxLo = d[OFF.flagAux >> 2], auxHi = d[(OFF.flagAux >> 2) + 1];
    let flags = carryHi >>> 31;
    let p = (resLo ^ (auxLo >>> 8)) & 0xff;
    p ^= p >> 4;
    if ((0x9669 >> (p & 15)) & 1) flags |= FLAG.PF;
    flags |= auxLo & FLAG.AF;
    if ((resLo | resHi) === 0) flags |= FLAG.ZF;
    if ((resHi ^ auxHi) >>> 31) flags |= FLAG.SF;
    if (((carryHi ^ (carryHi << 1)) >>> 31) & 1) flags |= FLAG.OF;
    return flags;
  }
  /** RFLAGS, all bits, as a number below 2^32. */
  get rflags(): number {
    return this.d[OFF.rflags >> 2] | FLAG.FIXED | this.arithmeticFlags();
  }
  /** Sets every bit of RFLAGS; reserved bits are the caller's to mask. */
  set rflags(value: number) {
    this.d[OFF.rflags >> 2] = (value & ~ARITHMETIC_FLAGS) | FLAG.FIXED;
    this.d[(OFF.rflags >> 2) + 1] = 0;
    this.setArithmeticFlags(value);
  }
  /** Sets CF PF AF ZF SF OF from the same bits of `value`. */
  setArithmeticFlags(value: number): void {
    const d = this.d;
    const zero = (value & FLAG.ZF) !== 0;
    // A non-zero result with even parity (bit pattern 3), sign clear; the aux word then corrects SF and PF.
    const result = zero ? 0 : 3;
    d[OFF.flagResult >> 2] = result;
    d[(OFF.flagResult >> 2) + 1] = 0;
    const carry = value & FLAG.CF ? 1 : 0;
    const overflow = value & FLAG.OF ? 1 : 0;
    d[OFF.flagCarry >> 2] = 0;
    d[(OFF.flagCarry >> 2) + 1] = (carry << 31) | ((carry ^ overflow) << 30);
    d[OFF.flagAux >> 2] = (value & FLAG.AF) | (value & FLAG.PF ? 0 : 0x100);
    d[(OFF.flagAux >> 2) + 1] = value & FLAG.SF ? 0x80000000 : 0;
  }
  /** Byte offset of XMM register `index` from the state base. */
  static xmm(index: number): number {
    return OFF.xmm + index * XMM_STRIDE;
  }
}
