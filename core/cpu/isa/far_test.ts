/** Far transfers, gates and segment loads. */
import { assert, assertEquals } from "@std/assert";
import {
  segmentAttr,
  segmentBase,
  segmentSelector,
  setSegment,
} from "../segments.ts";
import { ATTR, CS, DS, ES, FS, RSP, SS, VECTOR } from "../state.ts";
import {
  AT,
  enterUser,
  frame,
  raises,
  SEL,
  setRsp,
  world,
} from "../testing/world.ts";

function far(opcode: number, selector: number, offset: number): number[] {
  const o = [0, 8, 16, 24].map((s) => (offset >>> s) & 0xff);
  return [opcode, ...o, selector & 0xff, selector >> 8];
}
const JMP = 0xea, CALL = 0x9a;
/** far JMP and CALL through [0x700]. */
const JMP_MEMORY = [0xff, 0x2c, 0x25, 0x00, 0x07, 0x00, 0x00];
const CALL_MEMORY = [0xff, 0x1c, 0x25, 0x00, 0x07, 0x00, 0x00];

Deno.test("far jump in real mode keeps the limit", () => {
  const cpu = world("real");
  cpu.exec(0xea, 0x34, 0x12, 0x00, 0x20);
  assertEquals(cpu.ip, 0x1234n);
  assertEquals(segmentBase(cpu.state, CS), 0x20000n);
});

Deno.test("far jump loads code segments by privilege", () => {
  const cpu = world("protected");
  cpu.exec(...far(JMP, SEL.code16, 0x8000));
  assertEquals(segmentSelector(cpu.state, CS), SEL.code16);
  assertEquals(cpu.ip, 0x8000n);

  const user = world("protected");
  enterUser(user);
  raises(user, far(JMP, SEL.code32, 0), VECTOR.GP, SEL.code32);
  raises(user, far(JMP, 0, 0), VECTOR.GP);
  raises(user, far(JMP, SEL.userData32, 0), VECTOR.GP, SEL.userData32 & ~3);
  raises(user, far(JMP, 0x100, 0), VECTOR.GP, 0x100);
  user.exec(...far(JMP, SEL.conforming, 0x9000));
  assertEquals(user.cpl, 3);
  assertEquals(segmentSelector(user.state, CS), SEL.conforming | 3);
});

Deno.test("far jump checks the limit", () => {
  const cpu = world("protected");
  raises(cpu, far(JMP, SEL.code16, 0x10000), VECTOR.GP);
});

Deno.test("far jump enters 64-bit mode from compatibility mode", () => {
  const cpu = world("long");
  setSegment(cpu.state, CS, SEL.code32, 0, 0xffffffff, 0xc09b);
  cpu.modeChanged();
  cpu.exec(...far(JMP, SEL.code64, 0x9000));
  assert(cpu.code64);
  assertEquals(cpu.ip, 0x9000n);
});

Deno.test("far call and return at one privilege", () => {
  const cpu = world("protected");
  cpu.exec(...far(CALL, SEL.code32, 0x9000));
  assertEquals(frame(cpu, 2, 4), [AT.code + 7, SEL.code32]);
  cpu.exec(0xca, 0x08, 0x00);
  assertEquals(cpu.ip, BigInt(AT.code + 7));
  assertEquals(cpu.state.q[RSP], BigInt(AT.stack + 8));
});

Deno.test("a call gate copies parameters to the inner stack, and RET releases both", () => {
  const cpu = world("protected");
  cpu.gate(AT.gdt + SEL.gate, SEL.code32, AT.handler, 0xec, 2);
  enterUser(cpu);
  cpu.push(4, 0x1111n);
  cpu.push(4, 0x2222n);
  cpu.exec(...far(CALL, SEL.gate | 3, 0x666));
  assertEquals(cpu.cpl, 0);
  assertEquals(cpu.ip, BigInt(AT.handler));
  assertEquals(frame(cpu, 6, 4), [
    AT.code + 7,
    SEL.userCode32,
    0x2222,
    0x1111,
    AT.userStack - 8,
    SEL.userData32,
  ]);
  setSegment(cpu.state, DS, SEL.data32, 0, 0xffffffff, 0xc093);
  cpu.exec(0xca, 0x08, 0x00);
  assertEquals(cpu.cpl, 3);
  assertEquals(cpu.ip, BigInt(AT.code + 7));
  assertEquals(cpu.state.q[RSP], BigInt(AT.userStack));
  assert(segmentAttr(cpu.state, DS) & ATTR.UNUSABLE);
  assert(!(segmentAttr(cpu.state, ES) & ATTR.UNUSABLE));
});

Deno.test("a gate that is absent or too privileged is refused", () => {
  const cpu = world("protected");
  cpu.gate(AT.gdt + SEL.gate, SEL.code32, AT.handler, 0x8c);
  enterUser(cpu);
  raises(cpu, far(CALL, SEL.gate, 0), VECTOR.GP, SEL.gate);
  cpu.gate(AT.gdt + SEL.gate, SEL.code32, AT.handler, 0x6c);
  raises(cpu, far(CALL, SEL.gate, 0), VECTOR.NP, SEL.gate);
  cpu.gate(AT.gdt + SEL.gate, SEL.code32, AT.handler, 0xec);
  raises(cpu, far(JMP, SEL.gate, 0), VECTOR.GP, SEL.code32);
});

Deno.test("a 64-bit call gate switches to RSP of the TSS with a null SS", () => {
  const cpu = world("long");
  cpu.gate(AT.gdt + SEL.gate, SEL.code64, AT.handler, 0xec);
  enterUser(cpu);
  cpu.view.setUint32(0x700, 0, true);
  cpu.view.setUint16(0x704, SEL.gate | 3, true);
  cpu.exec(...CALL_MEMORY);
  assertEquals(cpu.cpl, 0);
  assertEquals(frame(cpu, 4, 8), [
    AT.code + 7,
    SEL.userCode64,
    AT.userStack,
    SEL.userData32,
  ]);
  cpu.exec(0x48, 0xcb);
  assertEquals(cpu.cpl, 3);
  assertEquals(cpu.ip, BigInt(AT.code + 7));
  assertEquals(cpu.state.q[RSP], BigInt(AT.userStack));
});

Deno.test("64-bit far jump takes a 64-bit offset with REX.W", () => {
  const cpu = world("long");
  cpu.view.setBigUint64(0x700, 0xffff_8000_0000_1000n, true);
  cpu.view.setUint16(0x708, SEL.code64, true);
  cpu.exec(0x48, ...JMP_MEMORY);
  assertEquals(cpu.ip, 0xffff_8000_0000_1000n);
  raises(world("long"), far(JMP, SEL.code64, 0), VECTOR.UD);
});

Deno.test("mov to a segment register checks its descriptor", () => {
  const cpu = world("protected");
  const load = (selector: number) => {
    cpu.state.q[0] = BigInt(selector);
    return [0x8e, 0xd8]; // MOV DS, AX
  };
  cpu.exec(...load(SEL.userData32));
  assertEquals(segmentSelector(cpu.state, DS), SEL.userData32);
  assertEquals(cpu.memory[AT.gdt + 0x25] & 1, 1);
  raises(cpu, load(SEL.absent), VECTOR.NP, SEL.absent);
  raises(cpu, load(SEL.tss), VECTOR.GP, SEL.tss);
  raises(cpu, load(SEL.data32 | 4), VECTOR.GP, SEL.data32 | 4);
  cpu.exec(...load(0));
  assert(segmentAttr(cpu.state, DS) & ATTR.UNUSABLE);
  cpu.state.q[0] = BigInt(SEL.data32);
  cpu.exec(0x8e, 0xd0);
  assert(cpu.inhibited);
  cpu.state.q[0] = BigInt(SEL.readOnly);
  raises(cpu, [0x8e, 0xd0], VECTOR.GP, SEL.readOnly);
  cpu.state.q[0] = 0n;
  raises(cpu, [0x8e, 0xd0], VECTOR.GP);
  raises(cpu, [0x8e, 0xc8], VECTOR.UD);
  raises(cpu, [0x8e, 0xf0], VECTOR.UD);
});

Deno.test("user code may not load kernel data segments", () => {
  const cpu = world("protected");
  enterUser(cpu);
  cpu.state.q[0] = BigInt(SEL.data32);
  raises(cpu, [0x8e, 0xc0], VECTOR.GP, SEL.data32);
  cpu.state.q[0] = BigInt(SEL.conforming);
  cpu.exec(0x8e, 0xc0);
});

Deno.test("mov from a segment register: 16 bits to memory, zero-extended to a register", () => {
  const cpu = world("long");
  cpu.state.q[0] = ~0n & 0xffff_ffff_ffff_ffffn;
  cpu.exec(0x8c, 0xc8);
  assertEquals(cpu.state.q[0], BigInt(SEL.code64));
  cpu.view.setUint32(0x700, 0xffffffff, true);
  cpu.exec(0x8c, 0x0c, 0x25, 0x00, 0x07, 0x00, 0x00);
  assertEquals(cpu.view.getUint32(0x700, true), 0xffff0000 + SEL.code64);
});

Deno.test("pop of a segment register that faults leaves the stack", () => {
  const cpu = world("long");
  cpu.push(8, BigInt(SEL.tss));
  raises(cpu, [0x0f, 0xa1], VECTOR.GP, SEL.tss);
  setRsp(cpu, AT.stack);
  cpu.push(8, BigInt(SEL.userData32));
  cpu.exec(0x0f, 0xa1);
  assertEquals(segmentSelector(cpu.state, FS), SEL.userData32);
  assertEquals(cpu.state.q[RSP], BigInt(AT.stack));
  cpu.exec(0x0f, 0xa0);
  assertEquals(frame(cpu, 1, 8), [SEL.userData32]);
});

Deno.test("lss loads pointer and stack segment in real mode", () => {
  const cpu = world("real");
  setSegment(cpu.state, DS, 0, 0, 0xffff, 0x93);
  cpu.put(0x700, 0x00, 0x80, 0x00, 0x40);
  cpu.exec(0x0f, 0xb2, 0x26, 0x00, 0x07);
  assertEquals(segmentBase(cpu.state, SS), 0x40000n);
  assertEquals(cpu.state.q[RSP], 0x8000n);
});
