/**
 * The record: one instruction as tier 0 executes it, 32 bytes in wasm memory.
 *
 * | offset | what |
 * | --- | --- |
 * | 0 | u16 handler |
 * | 2 | u16 offset of the instruction in its linear page (ripPage + this = RIP) |
 * | 4 | u16 offset of the next instruction |
 * | 6 | u8 instructions from this one to the end of the block |
 * | 7 | u8 scale of the memory operand's index, 0 to 3 |
 * | 8 | u16 state offset of the ModRM.reg (or `+r`) register |
 * | 10 | u16 state offset of the ModRM.rm register, or of the memory operand's base |
 * | 12 | u16 state offset of the index |
 * | 14 | u16 state offset of the segment base |
 * | 16 | i32 displacement |
 * | 20 | i32 branch: record to continue at, 0 not known yet, -1 in another page. Legacy address: segment, size, write |
 * | 24 | i64 immediate; branch: target relative to ripPage |
 *
 * @module
 */

/** Bytes of a record. */
export const RECORD_SIZE = 32;

/** Field offsets. */
export const REC = {
  handler: 0,
  offset: 2,
  next: 4,
  remaining: 6,
  scale: 7,
  reg: 8,
  rm: 10,
  index: 12,
  segment: 14,
  disp: 16,
  target: 20,
  imm: 24,
} as const;

/** Handlers that no instruction declares. */
export const HANDLER = {
  /** A dropped record: continue at REC.target, or look the block up again. */
  reenter: 0,
  /** Continue at the next instruction, in another block. */
  chain: 1,
  /** Leave to TypeScript with RIP at the next instruction. */
  leave: 2,
  /** Raise the exception whose vector is the immediate. */
  fault: 3,
  /** Compute a linear address outside 64-bit mode, or with 32-bit addresses, into tmp0. */
  legacyAddress: 4,
  /** The same without segment (LEA). */
  legacyOffset: 5,
} as const;
/** First handler of a declared form. */
export const FIRST_FORM_HANDLER = 6;

/** Why generated code returned. */
export const EXIT = {
  /** No translated block at RIP. */
  lookup: 0,
  /** The budget does not suffice for the next block. */
  budget: 1,
  /** OFF.fault at OFF.faultRecord. */
  fault: 2,
  /** A helper set RIP or asked to be looked at. */
  leave: 3,
} as const;

/** OFF.fault: not an exception, but an access that must be done with the instruction alone (MMIO). */
export const FAULT_SINGLE = 256;

/** Entries of a vCPU's jump cache: { u64 rip, u32 jumpKey, u32 record }. */
export const JUMP_CACHE_ENTRIES = 4096;
/** Entries of one software TLB: { u64 tag, u32 addend, u32 unused }; a tag of 1 matches nothing. */
export const TLB_ENTRIES = 1024;

/** Set in the size of a slow write whose old bytes the instruction reads first. */
export const READ_TOO = 0x100;
