/**
 * x87 and SSE floating point on the whole engine: decoding, operands in memory, flags as the next
 * instructions see them, and both ways out of a fast path. Each instruction's results are compared
 * with the host in x87_test.ts and sse_float_test.ts.
 */
import { assertEquals } from "@std/assert";
import { LongMode } from "../testing/long_mode.ts";
import { CpuState, OFF, RAX, RBX, RCX, RDI } from "../state.ts";
import "./all.ts";

const CODE = 0x400000, DATA = 0x600000;
const HLT = 0xf4;

/** Runs code to its HLT with RDI at a page of data. */
function run(code: number[], prepare: (m: LongMode) => void): LongMode {
  const m = new LongMode();
  m.map(CODE, CODE, 0x1000);
  m.map(DATA, DATA, 0x1000);
  m.memory.write(CODE, Uint8Array.from([...code, HLT]));
  const s = m.cpu.state;
  s.set32(OFF.mxcsr, 0x1f80);
  s.set32(OFF.fcw, 0x37f);
  s.set(OFF.rip, BigInt(CODE));
  s.setReg(RDI, BigInt(DATA));
  prepare(m);
  m.cpu.run(1000);
  assertEquals(m.cpu.halted, true);
  return m;
}

const cells = new DataView(new ArrayBuffer(8));

function bits(value: number): bigint {
  cells.setFloat64(0, value);
  return cells.getBigUint64(0);
}

function number(value: bigint): number {
  cells.setBigUint64(0, value);
  return cells.getFloat64(0);
}

Deno.test("engine UCOMISD sets CF, PF and ZF for Jcc and SETcc", () => {
  // ucomisd xmm0, xmm1; setc al; setp bl; setz cl
  const code = [
    0x66,
    0x0f,
    0x2e,
    0xc1,
    0x0f,
    0x92,
    0xc0,
    0x0f,
    0x9a,
    0xc3,
    0x0f,
    0x94,
    0xc1,
  ];
  for (
    const [x, y, c, p, z] of [
      [1, 2, 1n, 0n, 0n],
      [2, 1, 0n, 0n, 0n],
      [2, 2, 0n, 0n, 1n],
      [0, -0, 0n, 0n, 1n],
      [NaN, 1, 1n, 1n, 1n],
      [1, Infinity, 1n, 0n, 0n],
      [5e-324, 1, 1n, 0n, 0n],
    ] as const
  ) {
    const m = run(code, ({ cpu: { state: s } }) => {
      s.set(CpuState.xmm(0), bits(x));
      s.set(CpuState.xmm(1), bits(y));
    });
    const s = m.cpu.state;
    assertEquals(
      [s.reg(RAX) & 1n, s.reg(RBX) & 1n, s.reg(RCX) & 1n],
      [c, p, z],
      `${x} ${y}`,
    );
  }
});

Deno.test("engine ADDSD takes memory operands by the fast and the exact path", () => {
  const code = [0xf2, 0x0f, 0x58, 0x47, 0x08]; // addsd xmm0, [rdi+8]
  for (
    const [x, y, flags] of [
      [1.5, 2.25, 0],
      [0.1, 0.2, 0x20],
      [1, 5e-324, 0x22],
      [Infinity, -Infinity, 0x01],
      [1e308, 1e308, 0x28],
    ] as const
  ) {
    const m = run(code, ({ cpu: { state: s }, memory }) => {
      s.set(CpuState.xmm(0), bits(x));
      s.set(CpuState.xmm(0) + 8, 0x1234n);
      memory.writeU64(DATA + 8, bits(y));
    });
    const s = m.cpu.state;
    assertEquals(number(s.get(CpuState.xmm(0))), x + y);
    assertEquals(s.get(CpuState.xmm(0) + 8), 0x1234n);
    assertEquals(s.get32(OFF.mxcsr), 0x1f80 | flags);
  }
});

Deno.test("engine x87 loads, adds and stores through memory", () => {
  // fld qword [rdi]; fadd qword [rdi+8]; fld st(0); fmulp; fstp qword [rdi+16]; fnstsw ax
  const code = [
    ...[0xdd, 0x07, 0xdc, 0x47, 0x08, 0xd9, 0xc0, 0xde, 0xc9],
    ...[0xdd, 0x5f, 0x10, 0xdf, 0xe0],
  ];
  const m = run(code, ({ memory }) => {
    memory.writeU64(DATA, bits(1.5));
    memory.writeU64(DATA + 8, bits(2.25));
  });
  assertEquals(number(m.memory.readU64(DATA + 16)), 3.75 * 3.75);
  assertEquals(m.cpu.state.reg(RAX) & 0xffffn, 0n);
  assertEquals(m.cpu.state.get32(OFF.ftw), 0);
  assertEquals(m.cpu.state.get(OFF.fip), BigInt(CODE + 9));
  assertEquals(m.cpu.state.get(OFF.fdp), BigInt(DATA + 16));
});

Deno.test("engine FXSAVE64 and FXRSTOR64 bring everything back", () => {
  // fldpi; fxsave64 [rdi]; fninit; pxor xmm0, xmm0; fxrstor64 [rdi]
  const code = [
    ...[0xd9, 0xeb, 0x48, 0x0f, 0xae, 0x07, 0xdb, 0xe3],
    ...[0x66, 0x0f, 0xef, 0xc0, 0x48, 0x0f, 0xae, 0x0f],
  ];
  const m = run(
    code,
    ({ cpu: { state: s } }) => s.set(CpuState.xmm(0), 0x55aan),
  );
  const s = m.cpu.state;
  assertEquals(s.get(CpuState.xmm(0)), 0x55aan);
  assertEquals(s.get32(OFF.ftw), 0x80);
  assertEquals(s.get(OFF.st + 7 * 16), 0xc90fdaa22168c235n);
  assertEquals(s.get(OFF.fip), BigInt(CODE));
});
