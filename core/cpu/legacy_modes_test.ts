/**
 * What differs outside 64-bit mode: 16-bit addresses, segment limits and types, narrow stacks, and the instructions that 64-bit
 * mode does not have (Intel SDM vol. 1, 3.3; vol. 3, 6.3; vol. 2).
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { GuestMemory } from "../memory/memory.ts";
import { Cpu, Engine } from "./cpu.ts";
import { setPdptes } from "./pdpte.ts";
import { setSegment } from "./segments.ts";
import {
  ARITHMETIC_FLAGS,
  ATTR,
  CR0,
  CR4,
  CS,
  DS,
  EFER,
  ES,
  FLAG,
  FS,
  OFF,
  RAX,
  RCX,
  RDI,
  RDX,
  RSI,
  RSP,
  SS,
  VECTOR,
} from "./state.ts";
import { NoDevices } from "./testing/long_mode.ts";

const RBX = 3, RBP = 5;
const HLT = 0xf4;
/** Linear addresses of code, data and stack in every mode. */
const CODE = 0x10000, DATA = 0x20000, STACK = 0x30000;
const PRESENT_DATA = ATTR.P | ATTR.S | 3, PRESENT_CODE = ATTR.P | ATTR.S | 0xb;
const FLAT = 0xffffffff;

/** A vCPU with code at CS:0, data at DS:0, a stack in SS; the interrupt table is empty, so that an exception shuts down. */
class Legacy {
  readonly memory = new GuestMemory(4 << 20);
  readonly cpu = new Cpu(new Engine(this.memory), 0, new NoDevices());
  events: string[] = [];

  constructor(readonly mode: "real" | "protected16" | "protected32") {
    const s = this.cpu.state;
    const big = mode === "protected32" ? ATTR.DB : 0;
    if (mode !== "real") s.set(OFF.cr0, BigInt(CR0.PE | CR0.ET));
    const limit = mode === "protected32" ? 0xfffff : 0xffff;
    setSegment(
      s,
      CS,
      mode === "real" ? CODE >> 4 : 8,
      CODE,
      limit,
      PRESENT_CODE | big,
    );
    for (const segment of [DS, ES, FS]) {
      setSegment(
        s,
        segment,
        mode === "real" ? DATA >> 4 : 16,
        DATA,
        limit,
        PRESENT_DATA | big,
      );
    }
    setSegment(
      s,
      SS,
      mode === "real" ? STACK >> 4 : 24,
      STACK,
      limit,
      PRESENT_DATA | big,
    );
    s.set32(OFF.idtLimit, 0);
    this.cpu.onEvent = (vector, _kind, errorCode, rip) => {
      if (this.events.length === 0) {
        this.events.push(`#${vector} ${errorCode} at ${rip}`);
      }
    };
    this.cpu.modeChanged();
  }

  run(code: number[], registers: Record<number, number> = {}): this {
    const s = this.cpu.state;
    this.memory.write(CODE, Uint8Array.from([...code, HLT]));
    s.set(OFF.rip, 0n);
    s.rflags = 2;
    s.setReg(RSP, 0x8000n);
    for (const [index, value] of Object.entries(registers)) {
      s.setReg(Number(index), BigInt(value >>> 0));
    }
    this.cpu.halted = this.cpu.isShutdown = false;
    this.events = [];
    this.cpu.run(1000);
    return this;
  }

  reg(index: number): number {
    return Number(this.cpu.state.reg(index));
  }
}

Deno.test("16-bit addresses wrap at 64 KiB, and have BP in the stack segment", () => {
  const m = new Legacy("real");
  m.memory.writeU16(DATA + 0x10, 0xbeef);
  m.memory.writeU16(STACK + 0x24, 0xcafe);
  // mov ax, [bx + si + 0x20]; mov cx, [bp + di + 4]; mov dx, ds:[bp + 4]
  m.run([0x8b, 0x40, 0x20, 0x8b, 0x4b, 0x04, 0x3e, 0x8b, 0x56, 0x04], {
    [RBX]: 0xfff0,
    [RSI]: 0x5_0000,
    [RBP]: 0x10,
    [RDI]: 0x10,
  });
  assertEquals([m.reg(RAX), m.reg(RCX)], [0xbeef, 0xcafe]);
  m.memory.writeU16(DATA + 0x34, 0x1234);
  m.run([0x3e, 0x8b, 0x56, 0x04], { [RBP]: 0x30, [RDX]: 0 });
  assertEquals(m.reg(RDX), 0x1234);
  // lea eax, [bp + si - 1]: 16 bits, zero-extended
  m.run([0x66, 0x8d, 0x42, 0xff], { [RBP]: 0, [RSI]: 0, [RAX]: -1 });
  assertEquals(m.reg(RAX), 0xffff);
});

Deno.test("an operand beyond the limit raises #GP, in the stack segment #SS", () => {
  const m = new Legacy("real");
  assertEquals(m.run([0x8b, 0x07], { [RBX]: 0xffff }).events, ["#13 0 at 0"]);
  assertEquals(m.run([0x8a, 0x07], { [RBX]: 0xffff }).events, []);
  assertEquals(m.run([0x8b, 0x46, 0], { [RBP]: 0xffff }).events, [
    "#12 0 at 0",
  ]);
  // A 32-bit address in 16-bit code: mov al, [ebx]
  assertEquals(m.run([0x67, 0x8a, 0x03], { [RBX]: 0x10000 }).events, [
    "#13 0 at 0",
  ]);
  assertEquals(m.run([0x67, 0x8a, 0x03], { [RBX]: 0xffff }).events, []);
});

Deno.test("a 16-bit stack wraps, and keeps the upper half of ESP", () => {
  const m = new Legacy("real");
  m.run([0x50], { [RSP]: 0x12340000, [RAX]: 0xabcd });
  assertEquals(m.reg(RSP), 0x1234fffe);
  assertEquals(m.memory.readU16(STACK + 0xfffe), 0xabcd);
  m.run([0x5b], { [RSP]: 0x1234fffe });
  assertEquals([m.reg(RSP), m.reg(RBX) & 0xffff], [0x12340000, 0xabcd]);
  // call, ret in 16 bits: the return address has two bytes.
  m.run([0xe8, 1, 0, HLT, 0x58]);
  assertEquals([m.reg(RAX) & 0xffff, m.reg(RSP)], [3, 0x8000]);
});

Deno.test("jumps in 16-bit code wrap IP, and beyond the limit raise #GP at the jump", () => {
  const m = new Legacy("real");
  m.memory.writeU8(CODE + 0xfff8, HLT);
  m.run([0xe9, 0xf5, 0xff]); // jmp -11 from 3
  assertEquals([m.events, Number(m.cpu.state.get(OFF.rip))], [[], 0xfff9]);
  const p = new Legacy("protected32");
  setSegment(p.cpu.state, CS, 8, CODE, 0xff, PRESENT_CODE | ATTR.DB);
  p.cpu.modeChanged();
  assertEquals(p.run([0xe9, 0xfb, 0x01, 0, 0]).events, ["#13 0 at 0"]);
  assertEquals(p.run([0x0f, 0x84, 0xfa, 0x01, 0, 0]).events, []); // je, not taken
  // Running off the end of the segment.
  setSegment(p.cpu.state, CS, 8, CODE, 1, PRESENT_CODE | ATTR.DB);
  p.cpu.modeChanged();
  assertEquals(p.run([0x90, 0x90]).events, ["#13 0 at 2"]);
});

Deno.test("protected mode checks types, limits and presence of data segments", () => {
  const m = new Legacy("protected32");
  const s = m.cpu.state;
  const use = (attr: number, limit = 0xfff) => {
    setSegment(s, DS, 16, DATA, limit, attr);
    m.cpu.modeChanged();
  };
  const load = [0x8b, 0x03], store = [0x89, 0x03]; // [ebx]
  use(PRESENT_DATA | ATTR.DB);
  assertEquals(m.run(load, { [RBX]: 0xffc }).events, []);
  assertEquals(m.run(load, { [RBX]: 0xffd }).events, ["#13 0 at 0"]);
  assertEquals(m.run(store, { [RBX]: 0xffffffff }).events, ["#13 0 at 0"]);
  // Read-only data; execute-only and readable code.
  use((PRESENT_DATA & ~2) | ATTR.DB);
  assertEquals([
    m.run(load, { [RBX]: 0 }).events,
    m.run(store, { [RBX]: 0 }).events,
  ], [[], ["#13 0 at 0"]]);
  use(ATTR.P | ATTR.S | 9);
  assertEquals(m.run(load, { [RBX]: 0 }).events, ["#13 0 at 0"]);
  use(PRESENT_CODE);
  assertEquals([
    m.run(load, { [RBX]: 0 }).events,
    m.run(store, { [RBX]: 0 }).events,
  ], [[], ["#13 0 at 0"]]);
  // Expand-down: valid above the limit, to 64 KiB or 4 GiB.
  use(PRESENT_DATA | 4 | ATTR.DB);
  assertEquals(m.run(load, { [RBX]: 0xfff }).events, ["#13 0 at 0"]);
  assertEquals(m.run(load, { [RBX]: 0x1000 }).events, []);
  use(PRESENT_DATA | 4);
  assertEquals(m.run(load, { [RBX]: 0xfffd }).events, ["#13 0 at 0"]);
  // A null selector.
  use(ATTR.UNUSABLE, 0);
  assertEquals(m.run(load, { [RBX]: 0 }).events, ["#13 0 at 0"]);
});

Deno.test("linear addresses wrap at 4 GiB", () => {
  const m = new Legacy("protected32");
  setSegment(
    m.cpu.state,
    DS,
    16,
    0xfffff000,
    FLAT,
    PRESENT_DATA | ATTR.DB | ATTR.G,
  );
  m.cpu.modeChanged();
  m.memory.writeU32(DATA, 0x55667788);
  m.run([0x8b, 0x03], { [RBX]: 0x1000 + DATA });
  assertEquals(m.reg(RAX), 0x55667788);
  // mov al, [moffs32]; string instructions in both segments
  m.run([0xa0, 0x03, 0x10, 0x02, 0x00], { [RAX]: 0 });
  assertEquals(m.reg(RAX), 0x55);
});

Deno.test("PUSHA, POPA, ENTER and LEAVE in 32-bit and 16-bit code", () => {
  for (const mode of ["protected16", "protected32"] as const) {
    const m = new Legacy(mode);
    const size = mode === "protected32" ? 4 : 2;
    const registers = {
      [RAX]: 0x1111,
      [RCX]: 0x2222,
      [RDX]: 0x3333,
      [RBX]: 0x4444,
      [RBP]: 0x5555,
      [RSI]: 0x6666,
      [RDI]: 0x7777,
    };
    m.run([0x60], registers);
    assertEquals(m.reg(RSP), 0x8000 - 8 * size);
    const words = Array.from(
      { length: 8 },
      (_, i) => m.memory.readU16(STACK + 0x8000 - 8 * size + i * size),
    );
    assertEquals(words, [
      0x7777,
      0x6666,
      0x5555,
      0x8000,
      0x4444,
      0x3333,
      0x2222,
      0x1111,
    ]);
    m.run([0x60, 0x31, 0xc0, 0x31, 0xff, 0x61], registers);
    assertEquals([m.reg(RAX), m.reg(RDI), m.reg(RSP)], [
      0x1111,
      0x7777,
      0x8000,
    ]);
    m.run([0xc8, 0x10, 0, 2, 0xc9], { [RBP]: 0x7000 });
    assertEquals([m.reg(RBP), m.reg(RSP)], [0x7000, 0x8000]);
    m.run([0xc8, 0x10, 0, 2], { [RBP]: 0x7000 });
    assertEquals([m.reg(RBP), m.reg(RSP)], [
      0x8000 - size,
      0x8000 - 3 * size - 0x10,
    ]);
  }
});

Deno.test("decimal and ASCII adjustments follow the specification's algorithms", () => {
  const m = new Legacy("protected32");
  const run = (code: number[], ax: number, flags: number): [number, number] => {
    // push flags; popf; the instruction; pushf; pop ebx
    m.run([0x68, flags & 0xff, flags >> 8, 0, 0, 0x9d, ...code, 0x9c, 0x5b], {
      [RAX]: ax,
    });
    return [m.reg(RAX), m.reg(RBX) & ARITHMETIC_FLAGS];
  };
  const status = (al: number) => {
    let parity = FLAG.PF as number;
    for (let i = 0; i < 8; i++) if ((al >> i) & 1) parity ^= FLAG.PF;
    return (al === 0 ? FLAG.ZF : 0) | (al & 0x80 ? FLAG.SF : 0) | parity;
  };
  const defined = ARITHMETIC_FLAGS & ~FLAG.OF;
  for (let al = 0; al < 256; al++) {
    for (const flags of [0, FLAG.CF, FLAG.AF, FLAG.CF | FLAG.AF]) {
      const low = (al & 15) > 9 || (flags & FLAG.AF) !== 0,
        high = al > 0x99 || (flags & FLAG.CF) !== 0;
      const change = (low ? 6 : 0) + (high ? 0x60 : 0);
      const aux = low ? FLAG.AF : 0, carry = high ? FLAG.CF : 0;
      const sum = (al + change) & 0xff, difference = (al - change) & 0xff;
      const [daa, daaFlags] = run([0x27], al, flags);
      assertEquals(
        [daa, daaFlags & defined],
        [sum, aux | carry | status(sum)],
        `daa ${al} ${flags}`,
      );
      const [das, dasFlags] = run([0x2f], al, flags);
      const borrow = carry | (low && al < 6 ? FLAG.CF : 0);
      assertEquals([das, dasFlags & defined], [
        difference,
        aux | borrow | status(difference),
      ], `das ${al} ${flags}`);
      const asciiFlags = low ? FLAG.AF | FLAG.CF : 0;
      const [aaa, aaaFlags] = run([0x37], 0x0200 | al, flags);
      const added = low ? (0x0200 + al + 0x106) & 0xff0f : 0x0200 | (al & 15);
      assertEquals(
        [aaa, aaaFlags & (FLAG.AF | FLAG.CF)],
        [added, asciiFlags],
        `aaa ${al} ${flags}`,
      );
      const [aas, aasFlags] = run([0x3f], 0x0200 | al, flags);
      const subtracted = low
        ? (((0x0200 | al) - 6 - 0x100) & 0xff0f)
        : 0x0200 | (al & 15);
      assertEquals([aas, aasFlags & (FLAG.AF | FLAG.CF)], [
        subtracted,
        asciiFlags,
      ], `aas ${al} ${flags}`);
    }
    assertEquals(
      run([0xd4, 10], al, 0)[0],
      (Math.floor(al / 10) << 8) | al % 10,
    );
    assertEquals(run([0xd5, 10], 0x0300 | al, 0)[0], (al + 30) & 0xff);
  }
  assertEquals(m.run([0xd4, 0], { [RAX]: 5 }).events, [
    `#${VECTOR.DE} undefined at 0`,
  ]);
  // SALC, INC and DEC of one byte.
  assertEquals(
    m.run([0xf9, 0xd6, 0x43, 0x4e], { [RAX]: 0, [RBX]: 7, [RSI]: 0 }).reg(RAX),
    0xff,
  );
  assertEquals([m.reg(RBX), m.reg(RSI)], [8, 0xffffffff]);
});

Deno.test("string instructions in 16-bit code wrap SI and DI, and stop at the segment's limit", () => {
  const m = new Legacy("real");
  m.memory.writeU8(DATA + 0xffff, 0x77);
  m.memory.writeU8(DATA, 0x78);
  m.run([0xf3, 0xa4], { [RSI]: 0xffff, [RDI]: 0x100, [RCX]: 2 });
  assertEquals([m.memory.readU16(DATA + 0x100), m.reg(RSI), m.reg(RCX)], [
    0x7877,
    1,
    0,
  ]);
  setSegment(m.cpu.state, ES, DATA >> 4, DATA, 0x1fff, PRESENT_DATA);
  m.cpu.modeChanged();
  m.run([0xf3, 0xaa], { [RDI]: 0x1ff0, [RCX]: 0x20, [RAX]: 1 });
  assertEquals([m.events, m.reg(RDI), m.reg(RCX)], [
    ["#13 0 at 0"],
    0x2000,
    0x10,
  ]);
});

Deno.test("32-bit code runs behind two-level and PAE page tables", () => {
  for (const pae of [false, true]) {
    const m = new Legacy("protected32");
    const s = m.cpu.state;
    const TABLE = 0x100000, SECOND = 0x101000, FRAME = 0x140000;
    // The low megabyte as it is; the page of DATA + 0x1000 is elsewhere and read-only.
    if (pae) {
      m.memory.writeU64(TABLE, BigInt(SECOND | 1));
      m.memory.writeU64(SECOND, BigInt(0x102000 | 7));
      for (let i = 0; i < 512; i++) {
        m.memory.writeU64(0x102000 + i * 8, BigInt((i << 12) | 7));
      }
      m.memory.writeU64(
        0x102000 + ((DATA >> 12) + 1) * 8,
        BigInt(FRAME | 5) | (1n << 63n),
      );
      s.set(OFF.cr4, BigInt(CR4.PAE));
      s.set(OFF.efer, BigInt(EFER.NXE));
    } else {
      m.memory.writeU32(TABLE, SECOND | 7);
      for (let i = 0; i < 1024; i++) {
        m.memory.writeU32(SECOND + i * 4, (i << 12) | 7);
      }
      m.memory.writeU32(SECOND + ((DATA >> 12) + 1) * 4, FRAME | 5);
    }
    s.set(OFF.cr3, BigInt(TABLE));
    s.set(OFF.cr0, BigInt(CR0.PE | CR0.ET | CR0.WP) | BigInt(CR0.PG));
    setPdptes(s, m.cpu.readPdptes(BigInt(TABLE)));
    m.cpu.modeChanged();
    m.cpu.flushTlb(false);
    m.memory.writeU32(FRAME, 0x99);
    m.run([0x8b, 0x83, 0x00, 0x10, 0, 0], { [RBX]: 0 });
    assertEquals([m.reg(RAX), m.events], [0x99, []]);
    assertEquals(m.run([0x89, 0x83, 0x00, 0x10, 0, 0], { [RBX]: 0 }).events, [
      "#14 3 at 0",
    ]);
    assertEquals(s.get32(OFF.cr2), DATA + 0x1000);
    // jmp there: NX with PAE, plain bytes without.
    m.memory.writeU8(FRAME, HLT);
    const jump = [0xb8, 0, 0x10, 0x01, 0, 0xff, 0xe0]; // mov eax, DATA + 0x1000 - CODE; jmp eax
    assertEquals(m.run(jump).events, pae ? ["#14 17 at 69632"] : []);
  }
});

Deno.test("PAE paging takes its four top entries when CR0, CR3 or CR4 is written, not at each walk", () => {
  const m = new Legacy("protected32");
  const s = m.cpu.state;
  const TABLE = 0x100000, OTHER = 0x104000, SECOND = 0x101000;
  m.memory.writeU64(TABLE, BigInt(SECOND | 1));
  m.memory.writeU64(SECOND, BigInt(0x83)); // 2 MiB
  m.memory.writeU64(OTHER, BigInt(SECOND | 0x1 | 0x20));
  m.memory.writeU8(DATA + 0x200, 0x42);
  const toCr = (register: number) => [0x0f, 0x22, 0xc0 | register << 3];
  const load = (value: number) => [
    0xb8,
    ...new Uint8Array(Uint32Array.of(value).buffer),
  ];
  const on = (CR0.PE | CR0.ET | CR0.PG) >>> 0;
  m.run([
    ...[...load(CR4.PAE), ...toCr(4), ...load(TABLE), ...toCr(3)],
    ...[...load(on), ...toCr(0)],
  ]);
  assertEquals([m.events, s.get(OFF.pdpte)], [[], BigInt(SECOND | 1)]);
  // Memory may say what it likes until then, over a flush of the TLB too.
  m.memory.writeU64(TABLE, 0n);
  m.cpu.flushTlb(false);
  m.run([0x8a, 0x83, 0, 2, 0, 0], { [RBX]: 0 });
  assertEquals([m.events, m.reg(RAX) & 0xff], [[], 0x42]);
  // Reserved bits are #GP, and nothing has changed.
  const code = [...load(OTHER), ...toCr(3)];
  assertEquals(m.run(code).events, [`#${VECTOR.GP} 0 at 5`]);
  assertEquals([s.get(OFF.cr3), s.get(OFF.pdpte)], [
    BigInt(TABLE),
    BigInt(SECOND | 1),
  ]);
});
