/**
 * Registers of the 82540EM: Intel, PCI/PCI-X Family of Gigabit Ethernet Controllers Software
 * Developer's Manual (317453), chapter 13.
 *
 * @module
 */

/** A register that is stored as it is written. */
export interface Register {
  /** Offset in the memory BAR. */
  readonly offset: number;
  /** Value after a reset. */
  readonly reset: number;
  /** Bits that a driver may write. */
  readonly mask: number;
}

const ALL = 0xffff_ffff;

/** Every register with a value of its own but the arrays, the counters and the interrupt registers. */
export const REGISTERS = {
  CTRL: { offset: 0x0000, reset: 0x0000_0201, mask: 0x787f_ffe9 },
  EECD: { offset: 0x0010, reset: 0, mask: 0x47 },
  CTRL_EXT: { offset: 0x0018, reset: 0, mask: 0x00ff_ffff },
  FCAL: { offset: 0x0028, reset: 0, mask: ALL },
  FCAH: { offset: 0x002c, reset: 0, mask: 0xffff },
  FCT: { offset: 0x0030, reset: 0, mask: 0xffff },
  VET: { offset: 0x0038, reset: 0x8100, mask: 0xffff },
  ITR: { offset: 0x00c4, reset: 0, mask: 0xffff },
  RCTL: { offset: 0x0100, reset: 0, mask: 0x07df_f3ff },
  FCTTV: { offset: 0x0170, reset: 0, mask: 0xffff },
  TXCW: { offset: 0x0178, reset: 0, mask: 0xc000_ffff },
  TCTL: { offset: 0x0400, reset: 0, mask: 0x03ff_fffa },
  TIPG: { offset: 0x0410, reset: 0x0060_200a, mask: 0x3fff_ffff },
  AIT: { offset: 0x0458, reset: 0, mask: 0xffff },
  LEDCTL: { offset: 0x0e00, reset: 0x0706_8302, mask: ALL },
  PBA: { offset: 0x1000, reset: 0x0010_0030, mask: 0xffff },
  FCRTL: { offset: 0x2160, reset: 0, mask: 0x8000_fff8 },
  FCRTH: { offset: 0x2168, reset: 0, mask: 0xfff8 },
  RDBAL: { offset: 0x2800, reset: 0, mask: 0xffff_fff0 },
  RDBAH: { offset: 0x2804, reset: 0, mask: ALL },
  RDLEN: { offset: 0x2808, reset: 0, mask: 0x000f_ff80 },
  RDH: { offset: 0x2810, reset: 0, mask: 0xffff },
  RDT: { offset: 0x2818, reset: 0, mask: 0xffff },
  RDTR: { offset: 0x2820, reset: 0, mask: 0xffff },
  RXDCTL: { offset: 0x2828, reset: 0x0101_0000, mask: 0x013f_3f3f },
  RADV: { offset: 0x282c, reset: 0, mask: 0xffff },
  RSRPD: { offset: 0x2c00, reset: 0, mask: 0x0fff },
  TDBAL: { offset: 0x3800, reset: 0, mask: 0xffff_fff0 },
  TDBAH: { offset: 0x3804, reset: 0, mask: ALL },
  TDLEN: { offset: 0x3808, reset: 0, mask: 0x000f_ff80 },
  TDH: { offset: 0x3810, reset: 0, mask: 0xffff },
  TDT: { offset: 0x3818, reset: 0, mask: 0xffff },
  TIDV: { offset: 0x3820, reset: 0, mask: 0xffff },
  TXDCTL: { offset: 0x3828, reset: 0, mask: 0xfe3f_3f3f },
  TADV: { offset: 0x382c, reset: 0, mask: 0xffff },
  TSPMT: { offset: 0x3830, reset: 0x0100_0400, mask: ALL },
  RXCSUM: { offset: 0x5000, reset: 0, mask: 0x07ff },
  WUC: { offset: 0x5800, reset: 0, mask: 0x0f },
  WUFC: { offset: 0x5808, reset: 0, mask: 0x000f_00ff },
  IPAV: { offset: 0x5838, reset: 0, mask: 0x0001_000f },
  WUPL: { offset: 0x5900, reset: 0, mask: 0xfff },
  MANC: { offset: 0x5820, reset: 0, mask: ALL },
} as const satisfies Record<string, Register>;

/** The name of a stored register. */
export type RegisterName = keyof typeof REGISTERS;

/** Arrays of registers: offset of the first, and their number. */
export const ARRAYS = {
  /** Multicast table, section 13.5.1. */
  MTA: { offset: 0x5200, count: 128 },
  /** Receive addresses, low and high, section 13.5.2. */
  RA: { offset: 0x5400, count: 32 },
  /** VLAN filter table, section 13.5.4. */
  VFTA: { offset: 0x5600, count: 128 },
  /** IPv4 addresses that wake. */
  IP4AT: { offset: 0x5840, count: 8 },
  /** Lengths, masks and values of flexible filters that wake. */
  FFLT: { offset: 0x5f00, count: 8 },
  FFMT: { offset: 0x9000, count: 256 },
  FFVT: { offset: 0x9800, count: 256 },
} as const;

/** The name of an array. */
export type ArrayName = keyof typeof ARRAYS;

// Registers that are made at each read, or that do something.
export const STATUS = 0x0008;
export const EERD = 0x0014;
export const MDIC = 0x0020;
export const ICR = 0x00c0;
export const ICS = 0x00c8;
export const IMS = 0x00d0;
export const IMC = 0x00d8;
export const WUS = 0x5810;

// CTRL, section 13.4.1.
export const CTRL_SLU = 1 << 6;
export const CTRL_RST = 1 << 26;
export const CTRL_VME = 1 << 30;
export const CTRL_PHY_RST = 0x8000_0000;

// STATUS, section 13.4.2: full duplex, 1000 Mbit/s, and the link.
export const STATUS_FD = 1 << 0;
export const STATUS_LU = 1 << 1;
export const STATUS_SPEED_1000 = 2 << 6;
export const STATUS_ASDV_1000 = 2 << 8;

// ICR, section 13.4.17.
export const ICR_TXDW = 1 << 0;
export const ICR_TXQE = 1 << 1;
export const ICR_LSC = 1 << 2;
export const ICR_RXDMT0 = 1 << 4;
export const ICR_RXO = 1 << 6;
export const ICR_RXT0 = 1 << 7;
export const ICR_MDAC = 1 << 9;
/** Causes that there are. */
export const ICR_MASK = 0x0001_f6df;

// RCTL, section 13.4.22.
export const RCTL_EN = 1 << 1;
export const RCTL_UPE = 1 << 3;
export const RCTL_MPE = 1 << 4;
export const RCTL_LPE = 1 << 5;
export const RCTL_RDMTS_SHIFT = 8;
export const RCTL_MO_SHIFT = 12;
export const RCTL_BAM = 1 << 15;
export const RCTL_BSIZE_SHIFT = 16;
export const RCTL_VFE = 1 << 18;
export const RCTL_CFIEN = 1 << 19;
export const RCTL_CFI = 1 << 20;
export const RCTL_BSEX = 1 << 25;
export const RCTL_SECRC = 1 << 26;

// TCTL, section 13.4.33.
export const TCTL_EN = 1 << 1;
export const TCTL_PSP = 1 << 3;

// RXCSUM, section 13.4.31.
export const RXCSUM_PCSS = 0xff;
export const RXCSUM_IPOFLD = 1 << 8;
export const RXCSUM_TUOFLD = 1 << 9;

/** RAH: the address is valid. */
export const RAH_AV = 0x8000_0000;

// Counters, section 13.7; each is cleared by a read.
export const COUNTERS = {
  MPC: 0x4010,
  PRC64: 0x405c,
  PRC127: 0x4060,
  PRC255: 0x4064,
  PRC511: 0x4068,
  PRC1023: 0x406c,
  PRC1522: 0x4070,
  GPRC: 0x4074,
  BPRC: 0x4078,
  MPRC: 0x407c,
  GPTC: 0x4080,
  RNBC: 0x40a0,
  ROC: 0x40ac,
  TPR: 0x40d0,
  TPT: 0x40d4,
  PTC64: 0x40d8,
  PTC127: 0x40dc,
  PTC255: 0x40e0,
  PTC511: 0x40e4,
  PTC1023: 0x40e8,
  PTC1522: 0x40ec,
  MPTC: 0x40f0,
  BPTC: 0x40f4,
  TSCTC: 0x40f8,
} as const;
/** The name of a counter. */
export type CounterName = keyof typeof COUNTERS;

/** Counters of bytes: 64 bits, cleared by a read of the upper half. */
export const BYTE_COUNTERS = {
  GORC: 0x4088,
  GOTC: 0x4090,
  TOR: 0x40c0,
  TOT: 0x40c8,
} as const;
/** The name of a counter of bytes. */
export type ByteCounterName = keyof typeof BYTE_COUNTERS;
/** The range in which all counters are; what has no name counts nothing here. */
export const COUNTER_BASE = 0x4000;
export const COUNTER_END = 0x4100;

/** Bytes of a descriptor. */
export const DESCRIPTOR = 16;
