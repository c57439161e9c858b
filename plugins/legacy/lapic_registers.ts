/**
 * Register numbers and bits of a local APIC (Intel SDM vol. 3A, chapter 12).
 *
 * @module
 */

/** Where the register page is (section 12.4.1). */
export const APIC_DEFAULT_BASE = 0xfee0_0000;

// Model-specific registers.
/** APIC base and mode. */
export const IA32_APIC_BASE = 0x1b;
/** Deadline of the timer in TSC-deadline mode. */
export const IA32_TSC_DEADLINE = 0x6e0;
/** The first x2APIC register. */
export const X2APIC_FIRST = 0x800;
/** How many numbers x2APIC registers have. */
export const X2APIC_COUNT = 0x40;

// IA32_APIC_BASE (figure 12-26).
/** This is the bootstrap processor. */
export const APIC_BASE_BSP = 1n << 8n;
/** x2APIC mode. */
export const APIC_BASE_EXTD = 1n << 10n;
/** Enabled. */
export const APIC_BASE_EN = 1n << 11n;
/** All bits that are not the address. */
export const APIC_BASE_FLAGS = APIC_BASE_BSP | APIC_BASE_EXTD | APIC_BASE_EN;

// Register numbers: offset in the page >> 4, which is also the MSR - 0x800 (table 12-6).
/** Local APIC ID. */
export const ID = 0x02;
/** Local APIC version. */
export const VERSION = 0x03;
/** Task priority. */
export const TPR = 0x08;
/** Arbitration priority; not in x2APIC mode. */
export const APR = 0x09;
/** Processor priority. */
export const PPR = 0x0a;
/** End of interrupt. */
export const EOI = 0x0b;
/** Logical destination. */
export const LDR = 0x0d;
/** Destination format; not in x2APIC mode. */
export const DFR = 0x0e;
/** Spurious interrupt vector. */
export const SVR = 0x0f;
/** In-service, the first of eight. */
export const ISR = 0x10;
/** Trigger mode, the first of eight. */
export const TMR = 0x18;
/** Interrupt request, the first of eight. */
export const IRR = 0x20;
/** Error status. */
export const ESR = 0x28;
/** Interrupt command; all 64 bits in x2APIC mode. */
export const ICR_LOW = 0x30;
/** High half of the interrupt command; not in x2APIC mode. */
export const ICR_HIGH = 0x31;
/** LVT timer, the first of the table. */
export const LVT_TIMER = 0x32;
/** LVT LINT0. */
export const LVT_LINT0 = 0x35;
/** LVT error, the last of the table. */
export const LVT_ERROR = 0x37;
/** Initial count of the timer. */
export const INITIAL_COUNT = 0x38;
/** Current count of the timer. */
export const CURRENT_COUNT = 0x39;
/** Divide configuration of the timer. */
export const DIVIDE_CONFIGURATION = 0x3e;
/** Self IPI; in x2APIC mode only. */
export const SELF_IPI = 0x3f;

/** Six LVT entries, integrated APIC (figure 12-7). */
export const VERSION_VALUE = 0x0005_0014;
/** LVT entries. */
export const LVT_COUNT = 6;
/** Words of ISR, TMR and IRR. */
export const VECTOR_WORDS = 8;

// SVR (figure 12-23).
/** Value after reset. */
export const SVR_RESET = 0xff;
/** APIC software enable. */
export const SVR_ENABLE = 0x100;
/** Focus processor checking disable. */
export const SVR_FOCUS_DISABLE = 0x200;
/** Writable bits. */
export const SVR_MASK = 0xff | SVR_ENABLE | SVR_FOCUS_DISABLE;

// LVT (figure 12-8).
/** Vector. */
export const LVT_VECTOR = 0xff;
/** Place of the delivery mode, in ICR too. */
export const LVT_DELIVERY_SHIFT = 8;
/** Delivery mode. */
export const LVT_DELIVERY = 0x700;
/** Pin polarity. */
export const LVT_POLARITY = 0x2000;
/** Remote IRR. */
export const LVT_REMOTE_IRR = 0x4000;
/** Level-triggered. */
export const LVT_LEVEL = 0x8000;
/** Masked. */
export const LVT_MASKED = 0x1_0000;
/** Timer mode. */
export const LVT_TIMER_MODE = 0x6_0000;
/** Writable bits of LINT0 and LINT1. */
export const LVT_LINT_MASK = LVT_VECTOR | LVT_DELIVERY | LVT_POLARITY |
  LVT_LEVEL |
  LVT_MASKED;
/** Writable bits of timer, thermal, performance, LINT0, LINT1 and error. */
export const LVT_WRITABLE: readonly number[] = [
  LVT_VECTOR | LVT_MASKED | LVT_TIMER_MODE,
  LVT_VECTOR | LVT_DELIVERY | LVT_MASKED,
  LVT_VECTOR | LVT_DELIVERY | LVT_MASKED,
  LVT_LINT_MASK,
  LVT_LINT_MASK,
  LVT_VECTOR | LVT_MASKED,
];
/** LINT0 in the table. */
export const LVT_INDEX_LINT0 = LVT_LINT0 - LVT_TIMER;
/** Error in the table. */
export const LVT_INDEX_ERROR = LVT_ERROR - LVT_TIMER;

// Delivery modes (section 12.6.1).
/** Fixed. */
export const FIXED = 0;
/** Lowest priority. */
export const LOWEST_PRIORITY = 1;
/** Non-maskable interrupt. */
export const NMI = 4;
/** INIT. */
export const INIT = 5;
/** Start-up. */
export const STARTUP = 6;
/** As if from an external controller. */
export const EXTINT = 7;
/** LINT0 of the bootstrap processor as firmware leaves it, in virtual wire mode (MP 1.4, section 3.6.2.2). */
export const LINT0_VIRTUAL_WIRE = EXTINT << LVT_DELIVERY_SHIFT;

// ICR (figure 12-12).
/** Vector. */
export const ICR_VECTOR = 0xff;
/** Logical destination mode. */
export const ICR_LOGICAL = 0x800;
/** Level: assert. */
export const ICR_ASSERT = 0x4000;
/** Trigger mode: level. */
export const ICR_LEVEL = 0x8000;
/** Place of the destination shorthand. */
export const ICR_SHORTHAND_SHIFT = 18;
/** Writable bits of the low half. */
export const ICR_WRITABLE = 0x000c_cfff;
/** No shorthand: to the destination. */
export const SHORTHAND_NONE = 0;
/** To self. */
export const SHORTHAND_SELF = 1;
/** To all including self. */
export const SHORTHAND_ALL = 2;

// ESR (figure 12-9).
/** Send illegal vector. */
export const ESR_SEND_ILLEGAL_VECTOR = 0x20;
/** Receive illegal vector. */
export const ESR_RECEIVE_ILLEGAL_VECTOR = 0x40;
/** Illegal register address. */
export const ESR_ILLEGAL_REGISTER = 0x80;
/** All errors that are detected. */
export const ESR_MASK = ESR_SEND_ILLEGAL_VECTOR | ESR_RECEIVE_ILLEGAL_VECTOR |
  ESR_ILLEGAL_REGISTER;
/** Vectors 0 to 15 are reserved. */
export const FIRST_VECTOR = 16;

/** Destination of all, in 8 bits. */
export const XAPIC_BROADCAST = 0xff;
/** Destination of all, in 32 bits. */
export const X2APIC_BROADCAST = 0xffff_ffff;
/** Flat model, and value after reset. */
export const DFR_FLAT = 0xffff_ffff;
/** Model. */
export const DFR_MODEL = 0xf000_0000;
/** Priority class of a vector or priority. */
export const CLASS = 0xf0;
