/** Port instructions, the I/O permission bitmap and I/O breakpoints. */
import { assertEquals } from "@std/assert";
import { DR6 } from "../exceptions.ts";
import {
  CR4,
  FLAG,
  OFF,
  RAX,
  RCX,
  RDI,
  RDX,
  RSI,
  TR,
  VECTOR,
} from "../state.ts";
import {
  AT,
  enterUser,
  raises,
  SEL,
  setGate,
  world,
} from "../testing/world.ts";

Deno.test("in and out move the operand size and no more", () => {
  const cpu = world("long");
  const state = cpu.state;
  cpu.ports.set(0x60, 0xa5);
  state.q[RAX] = 0x1122_3344_5566_7788n;
  cpu.exec(0xe4, 0x60);
  assertEquals(state.q[RAX], 0x1122_3344_5566_77a5n);
  state.q[RDX] = 0xffff_0060n;
  cpu.exec(0x66, 0xed);
  assertEquals(state.q[RAX], 0x1122_3344_5566_00a5n);
  cpu.exec(0xed);
  assertEquals(state.q[RAX], 0xa5n);
  state.q[RAX] = 0xffff_ffff_89ab_cdefn;
  cpu.exec(0xee);
  cpu.exec(0x66, 0xef);
  cpu.exec(0xe7, 0xf4);
  assertEquals(cpu.writes, [
    { port: 0x60, size: 1, value: 0xef },
    { port: 0x60, size: 2, value: 0xcdef },
    { port: 0xf4, size: 4, value: 0x89abcdef },
  ]);
});

Deno.test("user code needs IOPL or a clear bit for every port", () => {
  const cpu = world("long");
  const state = cpu.state;
  enterUser(cpu);
  cpu.view.setUint16(AT.tss + 102, 0x68, true);
  raises(cpu, [0xe4, 0x60], VECTOR.GP);
  state.rflags = FLAG.IOPL;
  cpu.exec(0xe4, 0x60);
  state.rflags = 0;
  // A bitmap after the TSS: ports 0x60 to 0x62 are permitted.
  state.set32(OFF.segLimit + TR * 4, 0x68 + 0x20);
  cpu.memory.fill(0xff, AT.tss + 0x68, AT.tss + 0x90);
  cpu.memory[AT.tss + 0x68 + 0x0c] = 0xf8;
  cpu.exec(0xe4, 0x60);
  cpu.exec(0x66, 0xe5, 0x61);
  raises(cpu, [0x66, 0xe5, 0x62], VECTOR.GP);
  raises(cpu, [0xe5, 0x60], VECTOR.GP);
  state.q[RDX] = 0x3f8n;
  raises(cpu, [0xec], VECTOR.GP);
});

Deno.test("rep outsb moves RSI and RCX, backwards with DF", () => {
  const cpu = world("long");
  const state = cpu.state;
  cpu.put(0x700, 1, 2, 3);
  state.q[RSI] = 0x702n;
  state.q[RCX] = 3n;
  state.q[RDX] = 0x3f8n;
  state.rflags = FLAG.DF;
  cpu.exec(0xf3, 0x6e);
  assertEquals(cpu.writes.map((w) => w.value), [3, 2, 1]);
  assertEquals([state.q[RSI], state.q[RCX]], [0x6ffn, 0n]);
  assertEquals(cpu.ip, BigInt(AT.code + 2));
});

Deno.test("rep insw stops at a page fault with its registers right", () => {
  const cpu = world("long");
  const state = cpu.state;
  cpu.ports.set(0x1f0, 0x4241);
  state.q[RDI] = 0xffcn;
  state.q[RCX] = 4n;
  state.q[RDX] = 0x1f0n;
  cpu.unmapped.add(1n);
  setGate(cpu, 14, 0x8e, SEL.code64);
  cpu.state.set(OFF.idtBase, BigInt(AT.idt));
  let fault: unknown;
  try {
    cpu.exec(0xf3, 0x66, 0x6d);
  } catch (error) {
    fault = error;
  }
  assertEquals((fault as { vector: number }).vector, VECTOR.PF);
  assertEquals([state.q[RDI], state.q[RCX]], [0x1000n, 2n]);
  assertEquals(cpu.ip, BigInt(AT.code));
});

Deno.test("a long rep ins is done in parts at the same instruction", () => {
  const cpu = world("long");
  cpu.state.q[RDI] = 0x60000n;
  cpu.state.q[RCX] = 1500n;
  cpu.exec(0xf3, 0x6c);
  assertEquals(cpu.ip, BigInt(AT.code));
  assertEquals(cpu.state.q[RCX], 476n);
  cpu.exec(0xf3, 0x6c);
  assertEquals(cpu.ip, BigInt(AT.code + 2));
});

Deno.test("an I/O breakpoint traps after the instruction", () => {
  const cpu = world("long");
  const state = cpu.state;
  setGate(cpu, 1, 0x8e, SEL.code64);
  state.set(OFF.cr4, BigInt(CR4.PAE | CR4.DE));
  state.set(OFF.dr + 8, 0x60n);
  state.set(OFF.dr + 56, 0x400n | (1n << 2n) | (2n << 20n));
  cpu.exec(0xe4, 0x61);
  cpu.exec(0xe6, 0x60);
  assertEquals(cpu.ip, BigInt(AT.handler));
  assertEquals(state.get32(OFF.dr + 48) & 15, DR6.B1);
  assertEquals(
    cpu.view.getBigUint64(Number(state.q[4]), true),
    BigInt(AT.code + 4),
  );
});
