/** Task switches through JMP, CALL, IRET and gates. */
import { assert, assertEquals } from "@std/assert";
import { deliverEvent } from "./exceptions.ts";
import { segmentSelector, setSegment } from "./segments.ts";
import { CR0, CS, DS, ES, FLAG, OFF, RSP, SS, TR, VECTOR } from "./state.ts";
import type { FlatCpu } from "./testing/flat_cpu.ts";
import { AT, frame, raises, SEL, setGate, world } from "./testing/world.ts";

const BUSY = 2;
const ACCESS = 5;
const ENTRY = 0x60000;
const TASK_STACK = 0x70000;

/** Fills the second TSS with a kernel task. */
function prepare(changes: Partial<Record<number, number>> = {}): FlatCpu {
  const cpu = world("protected");
  const fields: Record<number, number> = {
    0x20: ENTRY, // EIP
    0x24: FLAG.IF | 2, // EFLAGS
    0x28: 0x1111, // EAX
    0x38: TASK_STACK, // ESP
    0x48: SEL.data32, // ES
    0x4c: SEL.code32, // CS
    0x50: SEL.data32, // SS
    0x54: SEL.data32, // DS
    ...changes,
  };
  for (const [offset, value] of Object.entries(fields)) {
    cpu.view.setUint32(AT.tss2 + Number(offset), value, true);
  }
  cpu.memory[AT.gdt + SEL.tss + ACCESS] |= BUSY;
  return cpu;
}

function far(opcode: number, selector: number): number[] {
  return [opcode, 0, 0, 0, 0, selector & 0xff, selector >> 8];
}

function busy(cpu: FlatCpu, selector: number): boolean {
  return (cpu.memory[AT.gdt + selector + ACCESS] & BUSY) !== 0;
}

Deno.test("JMP to a TSS saves the old task and starts the new one", () => {
  const cpu = prepare();
  const state = cpu.state;
  state.q[0] = 0xabcdn;
  state.rflags = FLAG.CF;
  cpu.exec(...far(0xea, SEL.tss2));
  assertEquals(cpu.ip, BigInt(ENTRY));
  assertEquals(state.q[0], 0x1111n);
  assertEquals(state.q[RSP], BigInt(TASK_STACK));
  assertEquals(state.rflags, FLAG.IF | 2);
  assertEquals(segmentSelector(state, TR), SEL.tss2);
  assertEquals(state.get32(OFF.cr0) & CR0.TS, CR0.TS);
  assert(!busy(cpu, SEL.tss) && busy(cpu, SEL.tss2));
  assertEquals(cpu.view.getUint32(AT.tss + 0x20, true), AT.code + 7);
  assertEquals(cpu.view.getUint32(AT.tss + 0x24, true), FLAG.CF | 2);
  assertEquals(cpu.view.getUint32(AT.tss + 0x28, true), 0xabcd);
  assertEquals(cpu.view.getUint16(AT.tss + 0x4c, true), SEL.code32);
});

Deno.test("CALL nests the task and IRET returns from it", () => {
  const cpu = prepare();
  const state = cpu.state;
  cpu.exec(...far(0x9a, SEL.tss2));
  assert(state.rflags & FLAG.NT);
  assert(busy(cpu, SEL.tss) && busy(cpu, SEL.tss2));
  assertEquals(cpu.view.getUint16(AT.tss2, true), SEL.tss);
  cpu.exec(0xcf);
  assertEquals(cpu.ip, BigInt(AT.code + 7));
  assertEquals(segmentSelector(state, TR), SEL.tss);
  assert(busy(cpu, SEL.tss) && !busy(cpu, SEL.tss2));
  // The task resumes after its IRET the next time, with NT clear.
  assertEquals(cpu.view.getUint32(AT.tss2 + 0x20, true), ENTRY + 1);
  assertEquals(cpu.view.getUint32(AT.tss2 + 0x24, true) & FLAG.NT, 0);
});

Deno.test("a busy or absent TSS is refused", () => {
  const cpu = prepare();
  raises(cpu, far(0xea, SEL.tss), VECTOR.GP, SEL.tss);
  cpu.memory[AT.gdt + SEL.tss2 + ACCESS] &= ~0x80;
  raises(cpu, far(0xea, SEL.tss2), VECTOR.NP, SEL.tss2);
  cpu.descriptor(AT.gdt + SEL.tss2, AT.tss2, 0x66, 0x89);
  raises(cpu, far(0xea, SEL.tss2), VECTOR.TS, SEL.tss2);
});

Deno.test("an exception through a task gate pushes its error code in the new task", () => {
  const cpu = prepare();
  setGate(cpu, 13, 0x85, SEL.tss2, 0);
  deliverEvent(cpu, { vector: 13, kind: "fault", errorCode: 0x123 });
  assertEquals(cpu.ip, BigInt(ENTRY));
  assertEquals(frame(cpu, 1, 4), [0x123]);
  // A fault: the old task resumes at the instruction, with RF.
  assertEquals(cpu.view.getUint32(AT.tss + 0x20, true), AT.code);
  assert(cpu.view.getUint32(AT.tss + 0x24, true) & FLAG.RF);
  cpu.pop(4);
  cpu.exec(0xcf);
  assertEquals(cpu.ip, BigInt(AT.code));
});

Deno.test("a JMP through a task gate", () => {
  const cpu = prepare();
  cpu.gate(AT.gdt + SEL.taskGate, SEL.tss2, 0, 0x85);
  cpu.exec(...far(0xea, SEL.taskGate));
  assertEquals(cpu.ip, BigInt(ENTRY));
});

Deno.test("a bad segment in the new task faults in the new task", () => {
  const cpu = prepare({ 0x54: SEL.absent });
  setGate(cpu, 11, 0x8e, SEL.code32);
  cpu.step(...far(0xea, SEL.tss2));
  assertEquals(cpu.ip, BigInt(AT.handler));
  assertEquals(segmentSelector(cpu.state, TR), SEL.tss2);
  assertEquals(frame(cpu, 3, 4), [SEL.absent, ENTRY, SEL.code32]);
});

Deno.test("a user task runs at CPL 3", () => {
  const cpu = prepare({
    0x4c: SEL.userCode32,
    0x50: SEL.userData32,
    0x54: SEL.userData32,
    0x48: 0,
  });
  cpu.exec(...far(0xea, SEL.tss2));
  assertEquals(cpu.cpl, 3);
  assertEquals(segmentSelector(cpu.state, SS), SEL.userData32);
  assertEquals(segmentSelector(cpu.state, ES), 0);
});

Deno.test("a virtual-8086 task loads its selectors as paragraphs", () => {
  const cpu = prepare({
    0x20: 0x100,
    0x24: FLAG.VM | 2,
    0x4c: 0x1000,
    0x54: 0x3000,
  });
  cpu.exec(...far(0xea, SEL.tss2));
  assert(cpu.v86);
  assertEquals(cpu.cpl, 3);
  assertEquals(cpu.state.get(OFF.segBase + DS * 8), 0x30000n);
  assertEquals(cpu.state.get(OFF.segBase + CS * 8), 0x10000n);
});

Deno.test("the trap bit of a TSS raises #DB with BT", () => {
  const cpu = prepare({ 0x64: 1 });
  setGate(cpu, 1, 0x8e, SEL.code32);
  cpu.exec(...far(0xea, SEL.tss2));
  assertEquals(cpu.ip, BigInt(AT.handler));
  assert(cpu.state.get32(OFF.dr + 48) & 0x8000);
  assertEquals(frame(cpu, 1, 4), [ENTRY]);
});

Deno.test("16-bit task state segments", () => {
  const cpu = prepare();
  const state = cpu.state;
  cpu.descriptor(AT.gdt + SEL.tss2, AT.tss2, 43, 0x81);
  cpu.memory.fill(0, AT.tss2, AT.tss2 + 104);
  const put = (offset: number, value: number) =>
    cpu.view.setUint16(AT.tss2 + offset, value, true);
  put(14, 0x8000);
  put(16, FLAG.DF | 2);
  put(18, 0x5555);
  put(26, 0x9000);
  put(34, SEL.data32);
  put(36, SEL.code32);
  put(38, SEL.data32);
  put(40, SEL.data32);
  setSegment(state, ES, 0, 0, 0, 0x10000);
  cpu.exec(...far(0xea, SEL.tss2));
  assertEquals(cpu.ip, 0x8000n);
  assertEquals(state.q[0] & 0xffffn, 0x5555n);
  assertEquals(state.q[RSP] & 0xffffn, 0x9000n);
  assertEquals(state.rflags & FLAG.DF, FLAG.DF);
});
