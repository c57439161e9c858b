/** Breakpoint matching. */
import { assertEquals } from "@std/assert";
import {
  breakpointsEnabled,
  codeBreakpoints,
  dataBreakpoints,
  ioBreakpoints,
} from "./breakpoints.ts";
import { CpuState, CR4, OFF } from "./state.ts";

function state(dr7: number, ...addresses: bigint[]): CpuState {
  const s = new CpuState(new WebAssembly.Memory({ initial: 1 }), 0);
  addresses.forEach((address, i) => s.set(OFF.dr + i * 8, address));
  s.set(OFF.dr + 56, BigInt(dr7));
  return s;
}

Deno.test("codeBreakpoints meets execution breakpoints alone", () => {
  const s = state(0b1001 | (1 << 20), 0x1000n, 0x1000n);
  assertEquals(codeBreakpoints(s, 0x1000n), 1);
  assertEquals(codeBreakpoints(s, 0x1001n), 0);
  assertEquals(breakpointsEnabled(s), true);
  assertEquals(breakpointsEnabled(state(0x400)), false);
});

Deno.test("dataBreakpoints tells writes from reads, and aligns its length", () => {
  // 0: write, 4 bytes; 1: read or write, 8 bytes.
  const s = state(0b0101 | (0xd << 16) | (0xb << 20), 0x2003n, 0x3000n);
  assertEquals(dataBreakpoints(s, 0x2000n, 1, true), 1);
  assertEquals(dataBreakpoints(s, 0x1fffn, 2, true), 1);
  assertEquals(dataBreakpoints(s, 0x2000n, 4, false), 0);
  assertEquals(dataBreakpoints(s, 0x3007n, 1, false), 2);
  assertEquals(dataBreakpoints(s, 0x3008n, 8, true), 0);
});

Deno.test("ioBreakpoints exist with CR4.DE", () => {
  const s = state(1 | (2 << 16), 0x60n);
  assertEquals(ioBreakpoints(s, 0x60, 1), 0);
  s.set(OFF.cr4, BigInt(CR4.DE));
  assertEquals(ioBreakpoints(s, 0x60, 1), 1);
  assertEquals(ioBreakpoints(s, 0x5f, 2), 1);
  assertEquals(ioBreakpoints(s, 0x61, 1), 0);
});
