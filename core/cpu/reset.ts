/**
 * The vCPU's state after power-on and RESET# (Intel SDM vol. 3, table 10-1).
 *
 * @module
 */
import { MSR_RESET } from "./msr.ts";
import {
  ATTR,
  type CpuState,
  CR0,
  CS,
  DS,
  ES,
  FS,
  GS,
  LDTR,
  OFF,
  RDX,
  SS,
  TR,
} from "./state.ts";

/** Present, data or code, accessed, writable or readable. */
const DATA = ATTR.P | ATTR.S | 3;
const CODE = ATTR.P | ATTR.S | 0xb;
/** Default MXCSR: all exceptions masked (vol. 1, 10.2.3). */
export const MXCSR_RESET = 0x1f80;
/** x87 control word after RESET# (vol. 3, table 10-1). */
const FCW_RESET = 0x40;
/** Family 6: what EDX holds after reset. */
const SIGNATURE = 0x600n;

/** Puts a cleared state into its reset values; execution starts at FFFF:FFF0 below 4 GiB. */
export function resetCpu(s: CpuState): void {
  s.rflags = 0;
  s.set(OFF.rip, 0xfff0n);
  s.setReg(RDX, SIGNATURE);
  s.set(OFF.cr0, BigInt(CR0.CD | CR0.NW | CR0.ET));
  for (const segment of [ES, SS, DS, FS, GS]) {
    s.set32(OFF.segLimit + segment * 4, 0xffff);
    s.set32(OFF.segAttr + segment * 4, DATA);
  }
  s.set32(OFF.segSelector + CS * 4, 0xf000);
  s.set(OFF.segBase + CS * 8, 0xffff0000n);
  s.set32(OFF.segLimit + CS * 4, 0xffff);
  s.set32(OFF.segAttr + CS * 4, CODE);
  s.set32(OFF.segLimit + LDTR * 4, 0xffff);
  s.set32(OFF.segAttr + LDTR * 4, ATTR.P | 2);
  s.set32(OFF.segLimit + TR * 4, 0xffff);
  s.set32(OFF.segAttr + TR * 4, ATTR.P | 0xb);
  s.set32(OFF.gdtLimit, 0xffff);
  s.set32(OFF.idtLimit, 0xffff);
  s.set(OFF.dr + 6 * 8, 0xffff0ff0n);
  s.set(OFF.dr + 7 * 8, 0x400n);
  s.set32(OFF.mxcsr, MXCSR_RESET);
  s.set32(OFF.fcw, FCW_RESET);
  s.set(OFF.pat, MSR_RESET.PAT);
  s.set(OFF.miscEnable, MSR_RESET.MISC_ENABLE);
  s.set(OFF.xcr0, 1n);
}
