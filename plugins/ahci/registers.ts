/**
 * Registers and structures of an AHCI host bus adapter: Serial ATA AHCI 1.3.1, sections 3 and 4.
 *
 * @module
 */

// Generic host control, section 3.1.
export const CAP = 0x00;
export const GHC = 0x04;
export const IS = 0x08;
export const PI = 0x0c;
export const VS = 0x10;
export const CCC_CTL = 0x14;
export const CCC_PORTS = 0x18;
export const EM_LOC = 0x1c;
export const EM_CTL = 0x20;
export const CAP2 = 0x24;
export const BOHC = 0x28;

// CAP, section 3.1.1. The lowest five bits are the number of ports less one.
export const CAP_NCS_SHIFT = 8;
export const CAP_PSC = 1 << 13;
export const CAP_SSC = 1 << 14;
export const CAP_SAM = 1 << 18;
export const CAP_ISS_GEN3 = 3 << 20;
export const CAP_SCLO = 1 << 24;
export const CAP_SALP = 1 << 26;
export const CAP_SNCQ = 1 << 30;
export const CAP_S64A = 0x8000_0000;

// GHC, section 3.1.2.
export const GHC_HR = 1 << 0;
export const GHC_IE = 1 << 1;
export const GHC_AE = 0x8000_0000;

/** VS: version 1.3.1. */
export const VERSION_1_3_1 = 0x0001_0301;

/** Offset of the first port's registers, and bytes of each, section 3. */
export const PORT_BASE = 0x100;
export const PORT_BYTES = 0x80;

// Port registers, section 3.3.
export const PxCLB = 0x00;
export const PxCLBU = 0x04;
export const PxFB = 0x08;
export const PxFBU = 0x0c;
export const PxIS = 0x10;
export const PxIE = 0x14;
export const PxCMD = 0x18;
export const PxTFD = 0x20;
export const PxSIG = 0x24;
export const PxSSTS = 0x28;
export const PxSCTL = 0x2c;
export const PxSERR = 0x30;
export const PxSACT = 0x34;
export const PxCI = 0x38;
export const PxSNTF = 0x3c;
export const PxFBS = 0x40;

/** PxCLB is aligned to 1 KiB, PxFB to 256 bytes. */
export const CLB_MASK = 0xffff_fc00;
export const FB_MASK = 0xffff_ff00;

// PxIS and PxIE, sections 3.3.5 and 3.3.6.
export const IS_DHRS = 1 << 0;
export const IS_PSS = 1 << 1;
export const IS_SDBS = 1 << 3;
export const IS_DPS = 1 << 5;
/** Reflects PxSERR.DIAG.X. */
export const IS_PCS = 1 << 6;
/** Reflects PxSERR.DIAG.N. */
export const IS_PRCS = 1 << 22;
export const IS_OFS = 1 << 24;
export const IS_IFS = 1 << 27;
export const IS_HBDS = 1 << 28;
export const IS_HBFS = 1 << 29;
export const IS_TFES = 1 << 30;
/** Bits that PxIE has. */
export const IE_MASK = 0xfdc0_00ff;
/** Bits of PxIS that a driver clears by writing ones; the others reflect PxSERR. */
export const IS_CLEARABLE = IE_MASK & ~(IS_PCS | IS_PRCS) & ~(1 << 4);

// PxCMD, section 3.3.7.
export const CMD_ST = 1 << 0;
export const CMD_SUD = 1 << 1;
export const CMD_POD = 1 << 2;
export const CMD_CLO = 1 << 3;
export const CMD_FRE = 1 << 4;
export const CMD_CCS_SHIFT = 8;
export const CMD_FR = 1 << 14;
export const CMD_CR = 1 << 15;
export const CMD_ATAPI = 1 << 24;
export const CMD_DLAE = 1 << 25;
/** Bits of PxCMD that a driver sets and clears. PxCMD.ICC reads as zero: a change of the link's state is done at once. */
export const CMD_WRITABLE = CMD_ST | CMD_FRE | CMD_ATAPI | CMD_DLAE;

// PxTFD, section 3.3.8: status, and the error register above it.
export const STATUS_ERR = 1 << 0;
export const STATUS_DRQ = 1 << 3;
export const STATUS_DSC = 1 << 4;
export const STATUS_DF = 1 << 5;
export const STATUS_DRDY = 1 << 6;
export const STATUS_BSY = 1 << 7;
export const TFD_ERROR_SHIFT = 8;
/** What the task file holds before the first FIS has come. */
export const TFD_RESET = 0x7f;
export const SIG_RESET = 0xffff_ffff;

// PxSSTS and PxSCTL, sections 3.3.10 and 3.3.11.
/** A device is there and the link is up, at 6 Gbit/s, active. */
export const SSTS_UP = 0x133;
export const SSTS_NONE = 0x000;
/** The link is off: PxSCTL.DET is 4. */
export const SSTS_OFFLINE = 0x004;
export const SCTL_DET_MASK = 0xf;
export const SCTL_DET_COMRESET = 1;
export const SCTL_DET_OFFLINE = 4;
export const SCTL_WRITABLE = 0xfff;

// PxSERR, section 3.3.12.
export const SERR_DIAG_N = 1 << 16;
export const SERR_DIAG_X = 1 << 26;
export const SERR_MASK = 0x07ff_0f03;

// Command header, section 4.2.2.
export const HEADER_BYTES = 32;
export const HEADER_CFL_MASK = 0x1f;
export const HEADER_A = 1 << 5;
export const HEADER_C = 1 << 10;
export const HEADER_PRDTL_SHIFT = 16;
export const HEADER_PRDBC = 4;
export const HEADER_CTBA = 8;
export const HEADER_CTBAU = 12;
export const CTBA_MASK = 0xffff_ff80;

// Command table, section 4.2.3.
export const TABLE_CFIS_BYTES = 64;
export const TABLE_ACMD = 0x40;
export const TABLE_ACMD_BYTES = 16;
export const TABLE_PRDT = 0x80;
export const PRD_BYTES = 16;
export const PRD_DBAU = 4;
export const PRD_DBC = 12;
/** Byte count less one. */
export const PRD_DBC_MASK = 0x3f_ffff;
export const PRD_I = 0x8000_0000;

// Received FIS area, section 4.2.1.
export const RECEIVED_PSFIS = 0x20;
export const RECEIVED_RFIS = 0x40;
export const RECEIVED_SDBFIS = 0x58;

/** Command slots of a port. */
export const SLOTS = 32;
