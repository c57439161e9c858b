/** IRET, flag instructions, HLT, BOUND and the undefined instructions. */
import { assert, assertEquals } from "@std/assert";
import { segmentAttr, segmentSelector, setSegment } from "../segments.ts";
import { ATTR, CS, DS, ES, FLAG, RSP, SS, VECTOR } from "../state.ts";
import type { FlatCpu } from "../testing/flat_cpu.ts";
import {
  AT,
  enterUser,
  frame,
  raises,
  SEL,
  setGate,
  world,
} from "../testing/world.ts";

/** Pushes words, the last one first on the stack. */
function pushAll(cpu: FlatCpu, size: 4 | 8, words: number[]): void {
  for (const word of words.toReversed()) cpu.push(size, BigInt(word));
}

const IRETQ = [0x48, 0xcf], IRETD = [0xcf];

Deno.test("iretq returns to user mode and drops kernel data segments", () => {
  const cpu = world("long");
  const state = cpu.state;
  setSegment(state, ES, SEL.userData32, 0, 0xffffffff, 0xc0f3);
  pushAll(cpu, 8, [
    0x400000,
    SEL.userCode64,
    FLAG.IF | FLAG.CF | FLAG.RF | FLAG.AC | 2,
    AT.userStack,
    SEL.userData32,
  ]);
  cpu.exec(...IRETQ);
  assertEquals(cpu.ip, 0x400000n);
  assertEquals(cpu.cpl, 3);
  assertEquals(state.q[RSP], BigInt(AT.userStack));
  assertEquals(state.rflags, FLAG.IF | FLAG.CF | FLAG.RF | FLAG.AC | 2);
  assertEquals(segmentSelector(state, SS), SEL.userData32);
  assert(segmentAttr(state, DS) & ATTR.UNUSABLE);
  assertEquals(segmentSelector(state, ES), SEL.userData32);
  // The descriptors' accessed bits are set in memory.
  assertEquals(cpu.memory[AT.gdt + (SEL.userCode64 & ~7) + 5] & 1, 1);
});

Deno.test("iretq to the same privilege restores the stack too, with a null SS", () => {
  const cpu = world("long");
  pushAll(cpu, 8, [0x1234, SEL.code64, 2, 0x7008, 0]);
  cpu.exec(...IRETQ);
  assertEquals(cpu.state.q[RSP], 0x7008n);
  assertEquals(cpu.cpl, 0);
});

Deno.test("iretq checks selectors, canonical addresses and NT", () => {
  const cpu = world("long");
  const push = (words: (number | bigint)[]) => {
    cpu.state.q[RSP] = BigInt(AT.stack);
    for (const word of words.toReversed()) cpu.push(8, BigInt(word));
  };
  push([0x1000, 0, 2, 0x7000, 0]);
  raises(cpu, IRETQ, VECTOR.GP);
  push([0x1000, SEL.data32, 2, 0x7000, 0]);
  raises(cpu, IRETQ, VECTOR.GP, SEL.data32);
  push([0x8000_0000_0000n, SEL.code64, 2, 0x7000, 0]);
  raises(cpu, IRETQ, VECTOR.GP);
  push([0x1000, SEL.userCode64, 2, 0x7000, 0]);
  raises(cpu, IRETQ, VECTOR.GP);
  push([0x1000, SEL.userCode64, 2, 0x7000, SEL.data32]);
  raises(cpu, IRETQ, VECTOR.GP, SEL.data32);
  push([0x1000, SEL.code64, 2, 0x7000, 0]);
  cpu.state.rflags = FLAG.NT;
  raises(cpu, IRETQ, VECTOR.GP);
});

Deno.test("iretq returns to compatibility mode", () => {
  const cpu = world("long");
  pushAll(cpu, 8, [
    0x8000,
    SEL.userCode32,
    FLAG.IF,
    0x1_0000_7000,
    SEL.userData32,
  ]);
  cpu.exec(...IRETQ);
  assert(!cpu.code64);
  assertEquals(cpu.ip, 0x8000n);
  assertEquals(cpu.state.q[RSP], 0x7000n);
});

Deno.test("iretd between privileges in protected mode", () => {
  const cpu = world("protected");
  pushAll(cpu, 4, [
    0x5000,
    SEL.userCode32,
    FLAG.IF | FLAG.ID,
    0x6000,
    SEL.userData32,
  ]);
  cpu.exec(...IRETD);
  assertEquals(cpu.cpl, 3);
  assertEquals(cpu.ip, 0x5000n);
  assertEquals(cpu.state.q[RSP], 0x6000n);
  // CPL 3 with IOPL 0 changes neither IF nor IOPL.
  pushAll(cpu, 4, [0x5100, SEL.userCode32, FLAG.IOPL | FLAG.DF]);
  cpu.exec(...IRETD);
  assertEquals(cpu.ip, 0x5100n);
  assertEquals(cpu.state.rflags, FLAG.IF | FLAG.DF | 2);
  raises(world("real"), [0x0f, 0x05], VECTOR.UD);
});

Deno.test("iret in real mode pops 16-bit words", () => {
  const cpu = world("real");
  for (const word of [FLAG.IF | FLAG.ZF, 0x3000, 0x200]) {
    cpu.push(2, BigInt(word));
  }
  cpu.exec(0xcf);
  assertEquals(cpu.ip, 0x200n);
  assertEquals(segmentSelector(cpu.state, CS), 0x3000);
  assertEquals(cpu.state.rflags, FLAG.IF | FLAG.ZF | 2);
  assertEquals(cpu.state.q[RSP], 0x1000n);
});

Deno.test("int3, into and int1 save the next instruction", () => {
  for (
    const [bytes, vector] of [[[0xcc], 3], [[0xce], 4], [[0xf1], 1]] as [
      number[],
      number,
    ][]
  ) {
    const cpu = world("protected");
    setGate(cpu, vector, 0x8f, SEL.code32);
    cpu.state.rflags = FLAG.OF;
    cpu.exec(...bytes);
    assertEquals(cpu.ip, BigInt(AT.handler));
    assertEquals(frame(cpu, 3, 4), [AT.code + 1, SEL.code32, FLAG.OF | 2]);
  }
  const quiet = world("protected");
  quiet.exec(0xce);
  assertEquals(quiet.ip, BigInt(AT.code + 1));
  raises(world("long"), [0xce], VECTOR.UD);
});

Deno.test("cli and sti follow IOPL, and sti holds interrupts off", () => {
  const cpu = world("long");
  cpu.exec(0xfb);
  assert(cpu.inhibited);
  assertEquals(cpu.state.rflags & FLAG.IF, FLAG.IF);
  cpu.exec(0xfa);
  assertEquals(cpu.state.rflags & FLAG.IF, 0);
  enterUser(cpu);
  raises(cpu, [0xfa], VECTOR.GP);
  raises(cpu, [0xfb], VECTOR.GP);
  cpu.state.rflags = FLAG.IOPL;
  cpu.exec(0xfb);
  assertEquals(cpu.state.rflags, FLAG.IOPL | FLAG.IF | 2);
});

Deno.test("pushf hides RF and VM; popf obeys the privilege", () => {
  const cpu = world("long");
  cpu.state.rflags = FLAG.RF | FLAG.IF | FLAG.CF;
  cpu.exec(0x9c);
  assertEquals(frame(cpu, 1, 8), [FLAG.IF | FLAG.CF | 2]);
  cpu.state.q[RSP] = BigInt(AT.stack);
  cpu.push(8, BigInt(FLAG.IOPL | FLAG.ID | FLAG.AC | FLAG.VM | FLAG.VIF));
  cpu.exec(0x9d);
  assertEquals(cpu.state.rflags, FLAG.IOPL | FLAG.ID | FLAG.AC | 2);
  enterUser(cpu);
  cpu.state.rflags = FLAG.IF;
  cpu.push(8, BigInt(FLAG.IOPL | FLAG.DF));
  cpu.exec(0x9d);
  assertEquals(cpu.state.rflags, FLAG.IF | FLAG.DF | 2);
  cpu.state.rflags = FLAG.AC;
  cpu.push(2, BigInt(FLAG.ZF));
  cpu.exec(0x66, 0x9d);
  assertEquals(cpu.state.rflags, FLAG.AC | FLAG.ZF | 2);
});

Deno.test("hlt waits at CPL 0 only", () => {
  const cpu = world("long");
  cpu.exec(0xf4);
  assert(cpu.halted);
  enterUser(cpu);
  raises(cpu, [0xf4], VECTOR.GP);
});

Deno.test("bound raises #BR outside its signed bounds", () => {
  const cpu = world("protected");
  cpu.view.setInt32(0x600, -5, true);
  cpu.view.setInt32(0x604, 5, true);
  for (
    const [value, inside] of [[-5, true], [5, true], [6, false], [-6, false]]
  ) {
    cpu.state.q[0] = BigInt.asUintN(32, BigInt(value as number));
    const bytes = [0x62, 0x05, 0x00, 0x06, 0x00, 0x00];
    if (inside) cpu.exec(...bytes);
    else raises(cpu, bytes, VECTOR.BR);
  }
});

Deno.test("ud0, ud1 and ud2 are undefined", () => {
  for (const bytes of [[0x0f, 0xff, 0xc0], [0x0f, 0xb9, 0xc0], [0x0f, 0x0b]]) {
    raises(world("long"), bytes, VECTOR.UD);
  }
});
