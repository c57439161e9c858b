/**
 * Where the areas of the vCPUs are in wasm memory, below RAM.
 *
 * @module
 */
import { JUMP_CACHE_ENTRIES } from "./record.ts";

/** vCPU states, `STATE_SIZE` bytes each. */
export const STATE_BASE = 0x10000;
/** Software TLBs, `TLB_BYTES` each. */
export const TLB_BASE = 0x20000;
/** Jump caches. */
export const JUMP_CACHE_BASE = 0x1a0000;
export const JUMP_CACHE_BYTES = JUMP_CACHE_ENTRIES * 16;
/** More vCPUs than this do not fit. */
export const MAX_CPUS = 16;
