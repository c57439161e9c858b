/** Breakpoints and single steps on the whole engine (Intel SDM vol. 3, chapter 18). */
import { assertEquals } from "@std/assert";
import { FLAG, OFF, RCX, RDI, RSP } from "./state.ts";
import { LongMode } from "./testing/long_mode.ts";

const CODE = 0x200000, HANDLER = 0x201000, IDT = 0x202000, GDT = 0x203000;
const STACK = 0x205000, DATA = 0x206000;
/** IRETQ after a HLT, so that each #DB stops the run. */
const HANDLER_CODE = [0xf4, 0x48, 0xcf];
const DR7_FIXED = 0x400;

/** A vCPU that stops at each #DB, in its handler. */
class Debugged {
  readonly m = new LongMode();
  readonly cpu = this.m.cpu;
  readonly state = this.cpu.state;

  constructor(code: number[]) {
    const { memory } = this.m;
    this.m.map(CODE, CODE, 0x10000);
    code.forEach((byte, i) => memory.writeU8(CODE + i, byte));
    HANDLER_CODE.forEach((byte, i) => memory.writeU8(HANDLER + i, byte));
    memory.writeU64(GDT + 8, 0x00af9b000000ffffn);
    memory.writeU64(GDT + 16, 0x00cf93000000ffffn);
    memory.writeU64(
      IDT + 16,
      (BigInt(HANDLER >>> 16) << 48n) | 0x8e00_0008_0000n |
        BigInt(HANDLER & 0xffff),
    );
    const s = this.state;
    s.set(OFF.gdtBase, BigInt(GDT));
    s.set32(OFF.gdtLimit, 0xff);
    s.set(OFF.idtBase, BigInt(IDT));
    s.set32(OFF.idtLimit, 0xfff);
    s.q[RSP] = BigInt(STACK);
    s.set(OFF.rip, BigInt(CODE));
  }

  /** Enables breakpoint 0 with its R/W and LEN fields. */
  breakpoint(address: number, field: number): this {
    this.state.set(OFF.dr, BigInt(address));
    this.state.set(OFF.dr + 56, BigInt(DR7_FIXED | 2 | (field << 16)));
    this.cpu.modeChanged();
    return this;
  }

  /** Runs to the next #DB: what the handler finds, or undefined when the guest ends at another HLT. */
  next(): { rip: number; dr6: number; rf: boolean } | undefined {
    this.cpu.halted = false;
    assertEquals(this.cpu.run(1000), "halted");
    const s = this.state;
    if (Number(s.get(OFF.rip)) !== HANDLER + 1) return undefined;
    const at = Number(s.q[RSP]);
    const { memory } = this.m;
    const dr6 = s.get32(OFF.dr + 48) & 0xe00f;
    s.set(OFF.dr + 48, 0xffff0ff0n);
    return {
      rip: Number(memory.readU64(at)) - CODE,
      dr6,
      rf: (memory.readU64(at + 16) & BigInt(FLAG.RF)) !== 0n,
    };
  }
}

const BS = 0x4000;

Deno.test("an execution breakpoint faults before its instruction, once", () => {
  const d = new Debugged([0x90, 0x90, 0x90, 0xf4]).breakpoint(CODE + 1, 0);
  assertEquals(d.next(), { rip: 1, dr6: 1, rf: true });
  assertEquals(d.next(), undefined);
  assertEquals(d.state.get(OFF.rip), BigInt(CODE + 4));
});

Deno.test("a write breakpoint traps after the store, and not after a load", () => {
  const load = [0x8a, 0x07], store = [0x88, 0x07];
  const d = new Debugged([...load, ...store, 0x90, 0xf4])
    .breakpoint(DATA, 1);
  d.state.q[RDI] = BigInt(DATA);
  assertEquals(d.next(), { rip: 4, dr6: 1, rf: false });
  assertEquals(d.next(), undefined);
});

Deno.test("a read breakpoint sees loads next to stores in the same page", () => {
  const d = new Debugged([
    ...[0x48, 0x8b, 0x47, 0x08], // RDI + 8
    ...[0x8a, 0x07],
    0xf4,
  ]).breakpoint(DATA, 3);
  d.state.q[RDI] = BigInt(DATA);
  assertEquals(d.next(), { rip: 6, dr6: 1, rf: false });
  assertEquals(d.next(), undefined);
});

Deno.test("string instructions and pushes meet data breakpoints", () => {
  const d = new Debugged([0xf3, 0xaa, 0xf4]).breakpoint(DATA + 40, 1);
  d.state.q[RDI] = BigInt(DATA);
  d.state.q[RCX] = 64n;
  assertEquals(d.next()?.dr6, 1);

  const push = new Debugged([0x50, 0x90, 0xf4]).breakpoint(STACK - 8, 0x9);
  assertEquals(push.next()?.rip, 1);
});

Deno.test("single steps follow each instruction that began with TF", () => {
  // PUSHFQ; OR [RSP], 100H; POPFQ; NOP; NOP; HLT
  const d = new Debugged([
    ...[0x9c, 0x48, 0x81, 0x0c, 0x24, 0x00, 0x01, 0x00, 0x00, 0x9d],
    ...[0x90, 0x90, 0xf4],
  ]);
  assertEquals(d.next(), { rip: 11, dr6: BS, rf: false });
  assertEquals(d.next(), { rip: 12, dr6: BS, rf: false });
});

Deno.test("INT n and SYSCALL that clear TF are not stepped into", () => {
  const d = new Debugged([0x0f, 0x05]);
  const s = d.state;
  s.set(OFF.star, 0x0008n << 32n);
  s.set(OFF.lstar, BigInt(CODE + 0x100));
  s.set(OFF.fmask, BigInt(FLAG.TF));
  d.m.memory.writeU8(CODE + 0x100, 0xf4);
  s.rflags = FLAG.TF;
  assertEquals(d.next(), undefined);
  assertEquals(s.get(OFF.rip), BigInt(CODE + 0x101));
});

Deno.test("MOV to DR7 with GD set is itself trapped", () => {
  const d = new Debugged([0x0f, 0x23, 0xf8, 0xf4]);
  d.state.set(OFF.dr + 56, BigInt(DR7_FIXED | 0x2000));
  assertEquals(d.next(), { rip: 0, dr6: 0x2000, rf: true });
  assertEquals(d.next(), undefined);
});
