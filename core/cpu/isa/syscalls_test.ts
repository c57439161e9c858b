/** SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the bases. */
import { assert, assertEquals } from "@std/assert";
import { segmentAttr, segmentSelector } from "../segments.ts";
import {
  CS,
  EFER,
  FLAG,
  FS,
  GS,
  OFF,
  R11,
  RCX,
  RDX,
  RSP,
  SS,
  VECTOR,
} from "../state.ts";
import { AT, enterUser, faultOf, world } from "../testing/world.ts";

function prepare() {
  const cpu = world("long");
  const state = cpu.state;
  state.set(OFF.star, (0x0023n << 48n) | (0x0010n << 32n));
  state.set(OFF.lstar, 0xffff_ffff_8000_0000n);
  state.set(OFF.fmask, BigInt(FLAG.IF | FLAG.DF | FLAG.CF | FLAG.AC));
  return cpu;
}

Deno.test("syscall and sysret make a round trip", () => {
  const cpu = prepare();
  const state = cpu.state;
  enterUser(cpu);
  state.rflags = FLAG.IF | FLAG.CF | FLAG.ZF;
  cpu.exec(0x0f, 0x05);
  assertEquals(cpu.ip, 0xffff_ffff_8000_0000n);
  assertEquals(state.q[RCX], BigInt(AT.code + 2));
  assertEquals(state.q[R11], BigInt(FLAG.IF | FLAG.CF | FLAG.ZF | 2));
  assertEquals(state.rflags, FLAG.ZF | 2);
  assertEquals(cpu.cpl, 0);
  assertEquals(segmentSelector(state, CS), 0x10);
  assertEquals(segmentSelector(state, SS), 0x18);
  assertEquals(segmentAttr(state, CS), 0xa09b);
  assertEquals(segmentAttr(state, SS), 0xc093);
  assertEquals(state.q[RSP], BigInt(AT.userStack));

  cpu.exec(0x48, 0x0f, 0x07);
  assertEquals(cpu.ip, BigInt(AT.code + 2));
  assertEquals(state.rflags, FLAG.IF | FLAG.CF | FLAG.ZF | 2);
  assertEquals(cpu.cpl, 3);
  assertEquals(segmentSelector(state, CS), 0x33);
  assertEquals(segmentSelector(state, SS), 0x2b);
  assertEquals(segmentAttr(state, CS), 0xa0fb);
});

Deno.test("sysret without REX.W enters compatibility mode", () => {
  const cpu = prepare();
  cpu.state.q[RCX] = 0x1_0000_2000n;
  cpu.state.q[R11] = 2n;
  cpu.exec(0x0f, 0x07);
  assert(!cpu.code64);
  assertEquals(cpu.ip, 0x2000n);
  assertEquals(segmentSelector(cpu.state, CS), 0x23);
});

Deno.test("sysret refuses a target that is not canonical, with the state of the kernel", () => {
  const cpu = prepare();
  cpu.state.q[RCX] = 0x8000_0000_0000n;
  const fault = faultOf(cpu, 0x48, 0x0f, 0x07);
  assertEquals(fault.vector, VECTOR.GP);
  assertEquals(cpu.cpl, 0);
});

Deno.test("syscall is undefined without EFER.SCE and outside 64-bit code", () => {
  const cpu = prepare();
  cpu.state.set(OFF.efer, BigInt(EFER.LMA | EFER.LME));
  assertEquals(
    faultOf(cpu, 0x0f, 0x05).vector,
    VECTOR.UD,
  );
  const legacy = world("protected");
  assertEquals(
    faultOf(legacy, 0x0f, 0x05).vector,
    VECTOR.UD,
  );
});

Deno.test("sysenter and sysexit in protected mode", () => {
  const cpu = world("protected");
  const state = cpu.state;
  state.set(OFF.sysenterCs, 0x08n);
  state.set(OFF.sysenterEsp, 0x7000n);
  state.set(OFF.sysenterEip, 0x9000n);
  enterUser(cpu);
  state.rflags = FLAG.IF;
  cpu.exec(0x0f, 0x34);
  assertEquals(cpu.ip, 0x9000n);
  assertEquals(state.q[RSP], 0x7000n);
  assertEquals(cpu.cpl, 0);
  assertEquals(state.rflags, 2);
  state.q[RDX] = 0x5000n;
  state.q[RCX] = 0x6000n;
  cpu.exec(0x0f, 0x35);
  assertEquals(cpu.ip, 0x5000n);
  assertEquals(state.q[RSP], 0x6000n);
  assertEquals(cpu.cpl, 3);
  assertEquals(segmentSelector(state, CS), 0x1b);
  assertEquals(segmentSelector(state, SS), 0x23);
  state.set(OFF.sysenterCs, 0n);
  assertEquals(
    faultOf(cpu, 0x0f, 0x34).vector,
    VECTOR.GP,
  );
});

Deno.test("swapgs exchanges the bases at CPL 0", () => {
  const cpu = world("long");
  const base = OFF.segBase + GS * 8;
  cpu.state.set(base, 0x1234n);
  cpu.state.set(OFF.kernelGsBase, 0xffff_8880_0000_0000n);
  cpu.exec(0x0f, 0x01, 0xf8);
  assertEquals(cpu.state.get(base), 0xffff_8880_0000_0000n);
  assertEquals(cpu.state.get(OFF.kernelGsBase), 0x1234n);
  enterUser(cpu);
  assertEquals(
    faultOf(cpu, 0x0f, 0x01, 0xf8).vector,
    VECTOR.GP,
  );
});

Deno.test("wrfsbase and rdfsbase need CR4.FSGSBASE", () => {
  const cpu = world("long");
  cpu.state.q[0] = 0x7fff_0000_1234n;
  const write = [0xf3, 0x48, 0x0f, 0xae, 0xd0];
  assertEquals(
    faultOf(cpu, ...write).vector,
    VECTOR.UD,
  );
  cpu.state.set(OFF.cr4, cpu.state.get(OFF.cr4) | (1n << 16n));
  cpu.exec(...write);
  assertEquals(cpu.state.get(OFF.segBase + FS * 8), 0x7fff_0000_1234n);
  cpu.exec(0xf3, 0x48, 0x0f, 0xae, 0xc3);
  assertEquals(cpu.state.q[3], 0x7fff_0000_1234n);
  cpu.state.q[0] = 0x8000_0000_0000n;
  assertEquals(
    faultOf(cpu, ...write).vector,
    VECTOR.GP,
  );
});
