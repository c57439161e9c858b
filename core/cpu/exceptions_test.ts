/** Event delivery in every mode, escalation, and the frames it leaves. */
import { assert, assertEquals } from "@std/assert";
import { debugTrap, deliverEvent, DR6, DR7 } from "./exceptions.ts";
import { segmentAttr, segmentSelector, setV86Segment } from "./segments.ts";
import { ATTR, CS, DS, ES, FLAG, FS, GS, OFF, RSP, SS, TR } from "./state.ts";
import { AT, enterUser, frame, SEL, setGate, world } from "./testing/world.ts";

const INTERRUPT = 0x8e, TRAP = 0x8f, USER = 0x60;

Deno.test("deliverEvent uses the interrupt vector table in real mode", () => {
  const cpu = world("real");
  cpu.view.setUint16(0x21 * 4, 0x1234, true);
  cpu.view.setUint16(0x21 * 4 + 2, 0x5000, true);
  cpu.state.rflags = FLAG.IF | FLAG.TF | FLAG.CF;
  deliverEvent(cpu, { vector: 0x21, kind: "external" });
  assertEquals(cpu.ip, 0x1234n);
  assertEquals(segmentSelector(cpu.state, CS), 0x5000);
  assertEquals(cpu.state.rflags & (FLAG.IF | FLAG.TF | FLAG.CF), FLAG.CF);
  assertEquals(cpu.state.q[RSP], 0xffan);
  assertEquals(frame(cpu, 3, 2, 0x20ffa), [
    0x100,
    0x1000,
    FLAG.IF | FLAG.TF | FLAG.CF | 2,
  ]);
});

Deno.test("deliverEvent in long mode pushes SS, aligns the stack and clears IF for interrupt gates", () => {
  const cpu = world("long");
  setGate(cpu, 14, INTERRUPT, SEL.code64);
  cpu.state.q[RSP] = BigInt(AT.stack) + 5n;
  cpu.state.rflags = FLAG.IF | FLAG.NT;
  deliverEvent(cpu, { vector: 14, kind: "fault", errorCode: 6 });
  assertEquals(cpu.ip, BigInt(AT.handler));
  assertEquals(frame(cpu, 6, 8), [
    6,
    AT.code,
    SEL.code64,
    FLAG.IF | FLAG.NT | FLAG.RF | 2,
    AT.stack + 5,
    SEL.data32,
  ]);
  assertEquals(cpu.state.q[RSP], BigInt(AT.stack - 48));
  assertEquals(
    cpu.state.rflags & (FLAG.IF | FLAG.NT | FLAG.RF),
    0,
  );
  assertEquals(segmentSelector(cpu.state, SS), SEL.data32);
});

Deno.test("deliverEvent in long mode changes to the stack of the inner privilege and a null SS", () => {
  const cpu = world("long");
  enterUser(cpu);
  setGate(cpu, 0x80, TRAP | USER, SEL.code64);
  cpu.state.rflags = FLAG.IF;
  cpu.exec(0xcd, 0x80);
  assertEquals(cpu.cpl, 0);
  assertEquals(segmentSelector(cpu.state, SS), 0);
  assert(segmentAttr(cpu.state, SS) & ATTR.UNUSABLE);
  assertEquals(frame(cpu, 5, 8), [
    AT.code + 2,
    SEL.userCode64,
    FLAG.IF | 2,
    AT.userStack,
    SEL.userData32,
  ]);
  assertEquals(cpu.state.q[RSP], BigInt(AT.kernelStack - 40));
  assertEquals(cpu.state.rflags & FLAG.IF, FLAG.IF);
});

Deno.test("deliverEvent uses the interrupt stack table", () => {
  const cpu = world("long");
  setGate(cpu, 2, INTERRUPT, SEL.code64, AT.handler, 1);
  deliverEvent(cpu, { vector: 2, kind: "nmi" });
  assertEquals(cpu.state.q[RSP], BigInt(AT.istStack - 40));
  assertEquals(cpu.state.get32(OFF.nmiBlocked), 1);
  cpu.exec(0x48, 0xcf);
  assertEquals(cpu.ip, BigInt(AT.code));
  assertEquals(cpu.state.get32(OFF.nmiBlocked), 0);
});

Deno.test("software interrupts need a gate of their privilege", () => {
  const cpu = world("long");
  enterUser(cpu);
  setGate(cpu, 0x81, INTERRUPT, SEL.code64);
  setGate(cpu, 13, INTERRUPT, SEL.code64, AT.handler + 0x100);
  cpu.exec(0xcd, 0x81);
  assertEquals(cpu.ip, BigInt(AT.handler + 0x100));
  // A fault of INT n: the error code has IDT but not EXT, and RIP is that of the instruction.
  assertEquals(frame(cpu, 2, 8), [0x81 * 8 + 2, AT.code]);
});

Deno.test("a fault while an external interrupt is delivered has EXT", () => {
  const cpu = world("long");
  setGate(cpu, 13, INTERRUPT, SEL.code64);
  setGate(cpu, 11, INTERRUPT, SEL.code64);
  setGate(cpu, 0x40, INTERRUPT & ~0x80, SEL.code64);
  deliverEvent(cpu, { vector: 0x40, kind: "external" });
  assertEquals(cpu.ip, BigInt(AT.handler));
  assertEquals(frame(cpu, 1, 8), [0x40 * 8 + 3]);
});

Deno.test("contributory faults in a row become #DF, and one more a shutdown", () => {
  const cpu = world("long");
  setGate(cpu, 8, INTERRUPT, SEL.code64, AT.handler, 1);
  deliverEvent(cpu, { vector: 13, kind: "fault", errorCode: 0 });
  assertEquals(cpu.ip, BigInt(AT.handler));
  assertEquals(frame(cpu, 2, 8), [0, AT.code]);
  assert(!cpu.isShutdown);

  const hopeless = world("long");
  deliverEvent(hopeless, { vector: 13, kind: "fault", errorCode: 0 });
  assert(hopeless.isShutdown);
});

Deno.test("a page fault during a page fault is a double fault, during #UD it is not", () => {
  const cpu = world("long");
  setGate(cpu, 8, INTERRUPT, SEL.code64, AT.handler + 8, 1);
  setGate(cpu, 14, INTERRUPT, SEL.code64, AT.handler, 1);
  setGate(cpu, 6, INTERRUPT, SEL.code64, AT.handler + 16);
  cpu.unmapped.add(BigInt(AT.stack - 8) >> 12n);
  deliverEvent(cpu, { vector: 6, kind: "fault" });
  assertEquals(cpu.ip, BigInt(AT.handler));
  assertEquals(cpu.state.get(OFF.cr2), BigInt(AT.stack - 8));

  const second = world("long");
  setGate(second, 8, INTERRUPT, SEL.code64, AT.handler + 8, 1);
  setGate(second, 14, INTERRUPT, SEL.code64, AT.handler);
  second.unmapped.add(BigInt(AT.stack - 8) >> 12n);
  deliverEvent(second, { vector: 14, kind: "fault", errorCode: 0 });
  assertEquals(second.ip, BigInt(AT.handler + 8));
});

Deno.test("a failed delivery leaves the registers as they were", () => {
  const cpu = world("long");
  enterUser(cpu);
  setGate(cpu, 13, INTERRUPT, SEL.code64, AT.handler, 1);
  setGate(cpu, 0x30, INTERRUPT, SEL.data32);
  deliverEvent(cpu, { vector: 0x30, kind: "external" });
  // #GP(selector + EXT) with the user's frame.
  assertEquals(frame(cpu, 6, 8), [
    SEL.data32 | 1,
    AT.code,
    SEL.userCode64,
    FLAG.RF | 2,
    AT.userStack,
    SEL.userData32,
  ]);
});

Deno.test("deliverEvent in protected mode switches stacks through the TSS", () => {
  const cpu = world("protected");
  enterUser(cpu);
  setGate(cpu, 13, INTERRUPT, SEL.code32);
  deliverEvent(cpu, { vector: 13, kind: "fault", errorCode: 0x18 });
  assertEquals(cpu.cpl, 0);
  assertEquals(frame(cpu, 6, 4), [
    0x18,
    AT.code,
    SEL.userCode32,
    FLAG.RF | 2,
    AT.userStack,
    SEL.userData32,
  ]);
  assertEquals(segmentSelector(cpu.state, SS), SEL.data32);
});

Deno.test("16-bit gates push 16-bit frames", () => {
  const cpu = world("protected");
  setGate(cpu, 0x20, 0x86, SEL.code32, 0x8000);
  deliverEvent(cpu, { vector: 0x20, kind: "external" });
  assertEquals(frame(cpu, 3, 2), [AT.code & 0xffff, SEL.code32, 2]);
  assertEquals(cpu.ip, 0x8000n);
});

Deno.test("an interrupt from virtual-8086 mode saves the data segments, and IRET restores them", () => {
  const cpu = world("protected");
  const state = cpu.state;
  setGate(cpu, 0x20, INTERRUPT, SEL.code32);
  state.rflags = FLAG.VM | FLAG.IF;
  for (
    const [segment, selector] of [
      [CS, 0x1000],
      [SS, 0x2000],
      [DS, 0x3000],
      [
        ES,
        0x4000,
      ],
      [FS, 0x5000],
      [GS, 0x6000],
    ]
  ) setV86Segment(state, segment, selector);
  cpu.modeChanged();
  cpu.ip = 0x100n;
  state.q[RSP] = 0x800n;
  deliverEvent(cpu, { vector: 0x20, kind: "external" });
  assert(!cpu.v86);
  assertEquals(cpu.cpl, 0);
  assertEquals(frame(cpu, 9, 4), [
    0x100,
    0x1000,
    FLAG.VM | FLAG.IF | 2,
    0x800,
    0x2000,
    0x4000,
    0x3000,
    0x5000,
    0x6000,
  ]);
  assertEquals(segmentSelector(state, DS), 0);
  cpu.exec(0xcf);
  assert(cpu.v86);
  assertEquals(cpu.cpl, 3);
  assertEquals(cpu.ip, 0x100n);
  assertEquals(state.q[RSP], 0x800n);
  assertEquals(segmentSelector(state, GS), 0x6000);
  assertEquals(segmentSelector(state, DS), 0x3000);
});

Deno.test("INT n in virtual-8086 mode needs IOPL 3", () => {
  const cpu = world("protected");
  setGate(cpu, 13, INTERRUPT, SEL.code32);
  setGate(cpu, 0x21, INTERRUPT | USER, SEL.code32, AT.handler + 0x40);
  cpu.state.rflags = FLAG.VM;
  for (const segment of [CS, SS, DS, ES, FS, GS]) {
    setV86Segment(cpu.state, segment, 0x1000);
  }
  cpu.modeChanged();
  cpu.ip = 0x10n;
  cpu.step(0xcd, 0x21);
  assertEquals(cpu.ip, BigInt(AT.handler));
  assertEquals(frame(cpu, 2, 4), [0, 0x10]);
});

Deno.test("debugTrap reports its cause and clears general detect", () => {
  const cpu = world("long");
  setGate(cpu, 1, INTERRUPT, SEL.code64);
  cpu.state.set(OFF.dr + 7 * 8, BigInt(DR7.GD | DR7.FIXED));
  debugTrap(cpu, DR6.BS);
  assertEquals(
    cpu.state.get32(OFF.dr + 6 * 8),
    (0xffff0ff0 | DR6.BS) >>> 0,
  );
  assertEquals(cpu.state.get32(OFF.dr + 7 * 8), DR7.FIXED);
  // A trap does not set RF in the image.
  assertEquals(frame(cpu, 3, 8)[2], 2);
});

Deno.test("a TSS too short for the stack gives #TS", () => {
  const cpu = world("long");
  enterUser(cpu);
  cpu.state.set32(OFF.segLimit + TR * 4, 4);
  setGate(cpu, 0x20, INTERRUPT, SEL.code64);
  setGate(cpu, 10, INTERRUPT, SEL.code64);
  deliverEvent(cpu, { vector: 0x20, kind: "external" });
  assert(cpu.isShutdown); // #TS needs the same stack, and so does #DF
});
