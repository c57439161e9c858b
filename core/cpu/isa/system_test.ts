/** Descriptor tables, control and debug registers, MSR and time instructions. */
import { assert, assertEquals } from "@std/assert";
import { DR6 } from "../exceptions.ts";
import { segmentAttr, segmentBase, setSegment } from "../segments.ts";
import { CR0, CR4, EFER, FLAG, FS, LDTR, OFF, TR, VECTOR } from "../state.ts";
import { MSR } from "../msr.ts";
import {
  AT,
  enterUser,
  faultOf,
  raises,
  SEL,
  world,
} from "../testing/world.ts";

const PG = 0x8000_0000n;
/** MOV CRn, RAX and MOV RAX, CRn. */
const toCr = (n: number) => [0x0f, 0x22, 0xc0 | (n << 3)];
const fromCr = (n: number) => [0x0f, 0x20, 0xc0 | (n << 3)];

Deno.test("lgdt and sgdt: 10 bytes in 64-bit mode, 24 bits of base with a 16-bit operand", () => {
  const cpu = world("long");
  cpu.view.setUint16(0x700, 0x7f, true);
  cpu.view.setBigUint64(0x702, 0xffff_8000_1234_5678n, true);
  cpu.exec(0x0f, 0x01, 0x14, 0x25, 0x00, 0x07, 0x00, 0x00);
  assertEquals(cpu.state.get(OFF.gdtBase), 0xffff_8000_1234_5678n);
  assertEquals(cpu.state.get32(OFF.gdtLimit), 0x7f);
  cpu.exec(0x0f, 0x01, 0x04, 0x25, 0x00, 0x08, 0x00, 0x00);
  assertEquals(cpu.memory.slice(0x800, 0x80a), cpu.memory.slice(0x700, 0x70a));
  cpu.view.setBigUint64(0x702, 0x0000_8000_0000_0000n, true);
  raises(cpu, [0x0f, 0x01, 0x1c, 0x25, 0, 7, 0, 0], VECTOR.GP);

  const real = world("real");
  setSegment(real.state, 3, 0, 0, 0xffff, 0x93);
  real.put(0x700, 0xff, 0x03, 0x78, 0x56, 0x34, 0x12);
  real.exec(0x0f, 0x01, 0x1e, 0x00, 0x07);
  assertEquals(real.state.get(OFF.idtBase), 0x345678n);
  real.exec(0x66, 0x0f, 0x01, 0x1e, 0x00, 0x07);
  assertEquals(real.state.get(OFF.idtBase), 0x12345678n);
});

Deno.test("ltr marks the TSS busy and reads 16 bytes in long mode", () => {
  const cpu = world("long");
  cpu.view.setUint32(AT.gdt + SEL.tss + 8, 0xffff8880, true);
  cpu.view.setUint32(AT.gdt + SEL.tss + 12, 0, true);
  cpu.state.q[0] = BigInt(SEL.tss);
  cpu.exec(0x0f, 0x00, 0xd8);
  assertEquals(segmentBase(cpu.state, TR), 0xffff_8880_0000_3000n);
  assertEquals(segmentAttr(cpu.state, TR) & 0xf, 11);
  assertEquals(cpu.memory[AT.gdt + SEL.tss + 5] & 0xf, 11);
  raises(cpu, [0x0f, 0x00, 0xd8], VECTOR.GP, SEL.tss);
  cpu.state.q[0] = 0n;
  raises(cpu, [0x0f, 0x00, 0xd8], VECTOR.GP);
  raises(world("real"), [0x0f, 0x00, 0xd8], VECTOR.UD);
});

Deno.test("lldt takes a null selector or an LDT", () => {
  const cpu = world("protected");
  cpu.state.q[0] = BigInt(SEL.ldt);
  cpu.exec(0x0f, 0x00, 0xd0);
  assertEquals(segmentBase(cpu.state, LDTR), BigInt(AT.ldt));
  cpu.descriptor(AT.ldt + 8, 0x1000, 0xfff, 0x92);
  cpu.state.q[0] = 0xcn;
  cpu.exec(0x8e, 0xe0);
  assertEquals(segmentBase(cpu.state, FS), 0x1000n);
  cpu.state.q[0] = 0n;
  cpu.exec(0x0f, 0x00, 0xd0);
  cpu.state.q[0] = 0xcn;
  raises(cpu, [0x8e, 0xe0], VECTOR.GP, 0xc);
  cpu.state.q[0] = BigInt(SEL.data32);
  raises(cpu, [0x0f, 0x00, 0xd0], VECTOR.GP, SEL.data32);
});

Deno.test("lar, lsl, verr and verw report through ZF", () => {
  const cpu = world("protected");
  const ask = (bytes: number[], selector: number) => {
    cpu.state.q[0] = BigInt(selector);
    cpu.state.q[1] = 0xdeadn;
    cpu.exec(...bytes);
    return (cpu.state.rflags & FLAG.ZF) !== 0;
  };
  const lar = [0x0f, 0x02, 0xc8], lsl = [0x0f, 0x03, 0xc8];
  assert(ask(lar, SEL.data32));
  assertEquals(cpu.state.q[1], 0xcf9200n);
  assert(ask(lsl, SEL.data32));
  assertEquals(cpu.state.q[1], 0xffffffffn);
  assert(ask(lsl, SEL.tss));
  assertEquals(cpu.state.q[1], 0x67n);
  assert(!ask(lsl, SEL.gate));
  assert(!ask(lar, 0));
  assert(!ask(lar, 0x1000));
  assertEquals(cpu.state.q[1], 0xdeadn);
  assert(ask([0x0f, 0x00, 0xe0], SEL.code32));
  assert(!ask([0x0f, 0x00, 0xe8], SEL.code32));
  assert(ask([0x0f, 0x00, 0xe8], SEL.data32));
  assert(!ask([0x0f, 0x00, 0xe8], SEL.readOnly));
  enterUser(cpu);
  assert(!ask(lar, SEL.data32));
  assert(ask(lar, SEL.conforming));
});

Deno.test("arpl raises the RPL", () => {
  const cpu = world("protected");
  cpu.state.q[0] = 0x10n;
  cpu.state.q[1] = 3n;
  cpu.exec(0x63, 0xc8);
  assertEquals(cpu.state.q[0], 0x13n);
  assertEquals(cpu.state.rflags & FLAG.ZF, FLAG.ZF);
  cpu.exec(0x63, 0xc8);
  assertEquals(cpu.state.rflags & FLAG.ZF, 0);
});

Deno.test("mov to CR0 refuses impossible combinations", () => {
  const cpu = world("protected");
  const set = (value: bigint) => {
    cpu.state.q[0] = value;
    return toCr(0);
  };
  raises(cpu, set(PG), VECTOR.GP);
  raises(cpu, set(BigInt(CR0.PE | CR0.NW)), VECTOR.GP);
  cpu.exec(...set(1n));
  assertEquals(cpu.state.get(OFF.cr0), BigInt(CR0.PE | CR0.ET));
  const long = world("long");
  long.state.q[0] = 1n << 32n;
  raises(long, toCr(0), VECTOR.GP);
  enterUser(long);
  long.state.q[0] = 1n;
  raises(long, toCr(0), VECTOR.GP);
  raises(long, fromCr(0), VECTOR.GP);
});

Deno.test("paging with EFER.LME enters long mode, and only with PAE", () => {
  const cpu = world("protected");
  const state = cpu.state;
  state.q[1] = BigInt(MSR.EFER);
  state.q[0] = BigInt(EFER.LME);
  state.q[2] = 0n;
  cpu.exec(0x0f, 0x30);
  state.q[0] = PG | BigInt(CR0.PE);
  raises(cpu, toCr(0), VECTOR.GP);
  state.q[0] = BigInt(CR4.PAE);
  cpu.exec(...toCr(4));
  state.q[0] = PG | BigInt(CR0.PE);
  cpu.exec(...toCr(0));
  assertEquals(state.get32(OFF.efer), EFER.LME | EFER.LMA);
  assert(cpu.longMode && !cpu.code64);
  // LME cannot change with paging on, PAE cannot go in long mode.
  state.q[0] = 0n;
  raises(cpu, [0x0f, 0x30], VECTOR.GP);
  raises(cpu, toCr(4), VECTOR.GP);
  state.q[0] = BigInt(CR0.PE);
  cpu.exec(...toCr(0));
  assertEquals(state.get32(OFF.efer), EFER.LME);
});

Deno.test("leaving paging is refused to 64-bit code", () => {
  const cpu = world("long");
  cpu.state.q[0] = 1n;
  raises(cpu, toCr(0), VECTOR.GP);
});

Deno.test("CR3 and CR4 refuse reserved bits; CR4 bits follow CPUID", () => {
  const cpu = world("long");
  const state = cpu.state;
  state.q[0] = 1n << 40n;
  raises(cpu, toCr(3), VECTOR.GP);
  state.q[0] = 0x5000n;
  cpu.exec(...toCr(3));
  assertEquals(state.get(OFF.cr3), 0x5000n);
  for (const bit of [CR4.VME, CR4.SMAP, CR4.OSXSAVE, 1 << 30]) {
    state.q[0] = BigInt(CR4.PAE | bit);
    raises(cpu, toCr(4), VECTOR.GP);
  }
  state.q[0] = BigInt(CR4.PAE | CR4.PGE | CR4.FSGSBASE | CR4.OSFXSR);
  const flushes = cpu.flushes;
  cpu.exec(...toCr(4));
  assertEquals(cpu.flushes, flushes + 1);
  raises(cpu, toCr(1), VECTOR.UD);
  raises(cpu, fromCr(5), VECTOR.UD);
});

Deno.test("CR8 is the task priority", () => {
  const cpu = world("long");
  cpu.state.q[0] = 9n;
  cpu.exec(0x44, 0x0f, 0x22, 0xc0);
  assertEquals(cpu.io.taskPriority, 9);
  cpu.exec(0x44, 0x0f, 0x20, 0xc3);
  assertEquals(cpu.state.q[3], 9n);
  cpu.state.q[0] = 16n;
  raises(cpu, [0x44, 0x0f, 0x22, 0xc0], VECTOR.GP);
});

Deno.test("a fault of modeChanged leaves the control register", () => {
  const cpu = world("long");
  const original = cpu.modeChanged.bind(cpu);
  let once = true;
  cpu.modeChanged = () => {
    if (!once) return original();
    once = false;
    throw faultOf(world("long"), 0x0f, 0x0b);
  };
  cpu.state.q[0] = 0x5000n;
  raises(cpu, toCr(3), VECTOR.UD);
});

Deno.test("lmsw sets PE but does not clear it; clts clears TS", () => {
  const cpu = world("real");
  cpu.state.set(OFF.cr0, 0x10n);
  cpu.state.q[0] = BigInt(CR0.PE | CR0.TS);
  cpu.exec(0x0f, 0x01, 0xf0);
  assertEquals(cpu.state.get32(OFF.cr0), CR0.PE | CR0.TS | CR0.ET);
  cpu.state.q[0] = 0n;
  cpu.exec(0x0f, 0x01, 0xf0);
  assertEquals(cpu.state.get32(OFF.cr0), CR0.PE | CR0.ET);
  cpu.state.set32(OFF.cr0, CR0.PE | CR0.TS);
  cpu.exec(0x0f, 0x06);
  assertEquals(cpu.state.get32(OFF.cr0), CR0.PE);
  cpu.exec(0x0f, 0x01, 0xe3);
  assertEquals(cpu.state.q[3], BigInt(CR0.PE));
});

Deno.test("debug registers: fixed bits, aliases and general detect", () => {
  const cpu = world("long");
  const state = cpu.state;
  state.q[0] = 0xffff_ffffn;
  cpu.exec(0x0f, 0x23, 0xf0); // DR6
  assertEquals(state.get(OFF.dr + 48), 0xffff_efffn);
  state.q[0] = 0xffff_ffffn & ~0x2000n;
  cpu.exec(0x0f, 0x23, 0xe8); // DR5 is DR7 without CR4.DE
  assertEquals(state.get(OFF.dr + 56), 0xffff_07ffn);
  state.q[0] = 1n << 32n;
  raises(cpu, [0x0f, 0x23, 0xf8], VECTOR.GP);
  raises(cpu, [0x44, 0x0f, 0x23, 0xc0], VECTOR.UD);
  state.set(OFF.cr4, BigInt(CR4.PAE | CR4.DE));
  raises(cpu, [0x0f, 0x23, 0xe8], VECTOR.UD);

  state.q[0] = 0x2000n;
  cpu.exec(0x0f, 0x23, 0xf8);
  state.set(OFF.dr + 48, 0xffff_0ff0n);
  assertEquals(faultOf(cpu, 0x0f, 0x21, 0xc3).vector, VECTOR.DB);
  assertEquals(state.get32(OFF.dr + 48), (0xffff_0ff0 | DR6.BD) >>> 0);
});

Deno.test("wrmsr and rdmsr", () => {
  const cpu = world("long");
  const state = cpu.state;
  state.q[1] = BigInt(MSR.FS_BASE);
  state.q[0] = 0x1234_5678n;
  state.q[2] = 0x7fffn;
  cpu.exec(0x0f, 0x30);
  assertEquals(segmentBase(state, FS), 0x7fff_1234_5678n);
  state.q[2] = 0x8000n;
  raises(cpu, [0x0f, 0x30], VECTOR.GP);
  state.q[0] = state.q[2] = ~0n & 0xffff_ffff_ffff_ffffn;
  cpu.exec(0x0f, 0x32);
  assertEquals([state.q[0], state.q[2]], [0x1234_5678n, 0x7fffn]);
  state.q[1] = 0xc000_1234n;
  raises(cpu, [0x0f, 0x32], VECTOR.GP);
  enterUser(cpu);
  state.q[1] = BigInt(MSR.FS_BASE);
  raises(cpu, [0x0f, 0x32], VECTOR.GP);
});

Deno.test("rdtsc obeys CR4.TSD; rdtscp gives TSC_AUX; rdpmc has no counter", () => {
  const cpu = world("long");
  cpu.tscValue = 0x1_2345_6789n;
  cpu.state.set(OFF.tscOffset, 1n);
  cpu.state.set(OFF.tscAux, 7n);
  cpu.exec(0x0f, 0x01, 0xf9);
  assertEquals(
    [cpu.state.q[0], cpu.state.q[2], cpu.state.q[1]],
    [0x2345_678an, 1n, 7n],
  );
  enterUser(cpu);
  cpu.exec(0x0f, 0x31);
  cpu.state.set(OFF.cr4, BigInt(CR4.PAE | CR4.TSD));
  raises(cpu, [0x0f, 0x31], VECTOR.GP);
  raises(cpu, [0x0f, 0x33], VECTOR.GP);
});

Deno.test("invlpg uses the segment base outside 64-bit mode and for FS", () => {
  const cpu = world("long");
  cpu.state.q[0] = 0xffff_8000_0000_1000n;
  cpu.exec(0x0f, 0x01, 0x38);
  cpu.state.set(OFF.segBase + FS * 8, 0x10_0000n);
  cpu.state.q[0] = 0x3000n;
  cpu.exec(0x64, 0x0f, 0x01, 0x38);
  assertEquals(cpu.invalidated, [0xffff_8000_0000_1000n, 0x10_3000n]);
  enterUser(cpu);
  raises(cpu, [0x0f, 0x01, 0x38], VECTOR.GP);
  raises(cpu, [0x0f, 0x09], VECTOR.GP);
});

Deno.test("cpuid answers in four registers and clears their upper halves", () => {
  const cpu = world("long");
  cpu.state.q[0] = 0n;
  cpu.state.q[3] = ~0n & 0xffff_ffff_ffff_ffffn;
  cpu.exec(0x0f, 0xa2);
  const name = new Uint8Array(12);
  const view = new DataView(name.buffer);
  [3, 2, 1].forEach((register, i) =>
    view.setUint32(i * 4, Number(cpu.state.q[register]), true)
  );
  assertEquals(new TextDecoder().decode(name), "GenuineIntel");
});

Deno.test("serialize does nothing, where it is advertised", () => {
  world("long").exec(0x0f, 0x01, 0xe8);
});

Deno.test("mov from a control register ignores ModRM.mod", () => {
  const cpu = world("long");
  cpu.state.set(OFF.cr2, 0x1234n);
  cpu.exec(0x0f, 0x20, 0x13);
  assertEquals(cpu.state.q[3], 0x1234n);
});
