/**
 * Debug registers as conditions (Intel SDM vol. 3, 17.2): which enabled breakpoints an access meets.
 *
 * @module
 */
import { type CpuState, CR4, OFF } from "./state.ts";

/** R/W fields of DR7. */
const KIND = { EXECUTE: 0, WRITE: 1, IO: 2, READ_WRITE: 3 } as const;
const COUNT = 4;
const CONTROL_SHIFT = 16;
/** DR7.L0 to G3. */
const ENABLES = 0xff;

/** Bytes by the LEN field of DR7. */
const LENGTHS = [1, 2, 8, 4] as const;

function dr7(state: CpuState): number {
  return state.d[(OFF.dr + 7 * 8) >> 2];
}

/** Whether any breakpoint is enabled: nothing else need be asked when not. */
export function breakpointsEnabled(state: CpuState): boolean {
  return (dr7(state) & ENABLES) !== 0;
}

/** Whether a breakpoint on data is enabled, so that accesses must be watched. */
export function dataBreakpointsEnabled(state: CpuState): boolean {
  const control = dr7(state);
  if (!(control & ENABLES)) return false;
  for (let i = 0; i < COUNT; i++) {
    // R/W 1 and 3 are the kinds of data.
    if ((control >> (i * 2)) & 3 && (control >>> (CONTROL_SHIFT + i * 4)) & 1) {
      return true;
    }
  }
  return false;
}

function match(
  state: CpuState,
  address: bigint,
  size: number,
  wanted: (kind: number) => boolean,
): number {
  const control = dr7(state);
  if (!(control & ENABLES)) return 0;
  let causes = 0;
  for (let i = 0; i < COUNT; i++) {
    if (!((control >> (i * 2)) & 3)) continue;
    const field = (control >>> (CONTROL_SHIFT + i * 4)) & 15;
    if (!wanted(field & 3)) continue;
    const length = BigInt(LENGTHS[field >> 2]);
    const start = state.q[(OFF.dr >> 3) + i] & ~(length - 1n);
    if (address < start + length && start < address + BigInt(size)) {
      causes |= 1 << i;
    }
  }
  return causes;
}

/** DR6 bits of the breakpoints on execution at linear address `rip`; to be asked before the instruction, unless RF is set. */
export function codeBreakpoints(state: CpuState, rip: bigint): number {
  return match(state, rip, 1, (kind) => kind === KIND.EXECUTE);
}

/** DR6 bits of the breakpoints on a data access; the trap follows the instruction. */
export function dataBreakpoints(
  state: CpuState,
  linear: bigint,
  size: number,
  write: boolean,
): number {
  return match(
    state,
    linear,
    size,
    (kind) => kind === KIND.READ_WRITE || (write && kind === KIND.WRITE),
  );
}

/** DR6 bits of the breakpoints on a port access; they exist with CR4.DE. */
export function ioBreakpoints(
  state: CpuState,
  port: number,
  size: number,
): number {
  if (!breakpointsEnabled(state) || !(state.get32(OFF.cr4) & CR4.DE)) return 0;
  return match(state, BigInt(port), size, (kind) => kind === KIND.IO);
}
