/**
 * What the engine does around instructions: precise exceptions, pages, code that changes, budgets, interrupts.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { AT, Guest } from "./testing/guest.ts";
import { Random } from "./testing/random.ts";
import { FLAG, OFF, RAX, RCX, RDI, RDX, RSI, RSP, VECTOR } from "./state.ts";

const HLT = 0xf4, NOP = 0x90;
const RBX = 3;
/** add rsp, 8; iretq: the end of a handler with an error code. */
const IRET_PAST_ERROR = [0x48, 0x83, 0xc4, 0x08, 0x48, 0xcf];
const IRET = [0x48, 0xcf];
const NOT_MAPPED = AT.data + 0x10000;

/** Runs `code`, which must fault at its first byte, and checks that no register changed. */
function faults(
  guest: Guest,
  code: number[],
  registers: Record<number, number | bigint>,
): { vector: number; errorCode: number | undefined; cr2: number } {
  guest.start(code, registers);
  const s = guest.cpu.state;
  const before = s.q.slice(0, 16), flags = s.rflags;
  let after = before, flagsAfter = flags;
  guest.onEvent = () => {
    after = s.q.slice(0, 16);
    flagsAfter = s.rflags;
    guest.onEvent = () => {};
  };
  assertEquals(guest.run(), "halted");
  assertEquals(guest.events.length, 1);
  assertEquals(guest.events[0].rip, AT.code);
  assertEquals([...after], [...before]);
  assertEquals(flagsAfter, flags);
  const { vector, errorCode } = guest.events[0];
  return { vector, errorCode, cr2: Number(s.get(OFF.cr2)) };
}

Deno.test("divide errors leave everything as it was", () => {
  const guest = new Guest();
  // div ecx by zero; div cl with a quotient beyond 8 bits; idiv rcx of the least number by -1.
  for (
    const [code, registers] of [
      [[0xf7, 0xf1], { [RAX]: 5, [RCX]: 0, [RDX]: 0 }],
      [[0xf6, 0xf1], { [RAX]: 0x1000, [RCX]: 2 }],
      [[0x48, 0xf7, 0xf9], { [RAX]: 1n << 63n, [RDX]: -1n, [RCX]: -1n }],
      [[0x48, 0xf7, 0xf1], { [RAX]: 0, [RDX]: 7, [RCX]: 7 }],
    ] as [number[], Record<number, number | bigint>][]
  ) {
    assertEquals(faults(guest, code, registers).vector, VECTOR.DE);
  }
});

Deno.test("undefined instructions raise #UD", () => {
  const guest = new Guest();
  for (
    const code of [[0x0f, 0x0b], [0x06], [0xf0, 0x01, 0xc8], [0x0f, 0x04], [
      0x0f,
      0xff,
      0xc0,
    ], [0xc4, 0xe2, 0x78, 0x12]]
  ) {
    assertEquals(faults(guest, code, {}).vector, VECTOR.UD);
  }
});

Deno.test("page faults name their access and address, and leave everything as it was", () => {
  const guest = new Guest();
  const at = { [RAX]: NOT_MAPPED + 8, [RCX]: 3 };
  // mov rbx, [rax]; mov [rax], rcx; add [rax], ecx
  assertEquals(faults(guest, [0x48, 0x8b, 0x18], at), {
    vector: VECTOR.PF,
    errorCode: 0,
    cr2: NOT_MAPPED + 8,
  });
  assertEquals(faults(guest, [0x48, 0x89, 0x08], at), {
    vector: VECTOR.PF,
    errorCode: 2,
    cr2: NOT_MAPPED + 8,
  });
  assertEquals(faults(guest, [0x01, 0x08], at), {
    vector: VECTOR.PF,
    errorCode: 2,
    cr2: NOT_MAPPED + 8,
  });
  // A read-only page: present, write.
  guest.map(NOT_MAPPED, 0x150000, 4096, 5n);
  assertEquals(faults(guest, [0x01, 0x08], at), {
    vector: VECTOR.PF,
    errorCode: 3,
    cr2: NOT_MAPPED + 8,
  });
  // Without a stack not even #DF can be delivered: push rcx shuts down, with RSP as it was.
  guest.start([0x51], { [RSP]: NOT_MAPPED + 0x2008 });
  assertEquals(guest.run(), "shutdown");
  assertEquals(guest.events.map((e) => e.vector), [VECTOR.PF]);
  assertEquals(guest.reg(RSP), NOT_MAPPED + 0x2008);
});

Deno.test("a non-canonical address raises #GP(0), a misaligned SSE operand too", () => {
  const guest = new Guest();
  assertEquals(
    faults(guest, [0x48, 0x8b, 0x18], { [RAX]: 1n << 47n }).vector,
    VECTOR.GP,
  );
  assertEquals(faults(guest, [0x0f, 0x28, 0x00], { [RAX]: AT.data + 8 }), {
    vector: VECTOR.GP,
    errorCode: 0,
    cr2: 0,
  });
});

Deno.test("an access that crosses into a page that is not there changes nothing", () => {
  const guest = new Guest();
  const last = NOT_MAPPED - 4;
  guest.poke(last, [1, 2, 3, 4]);
  const at = { [RAX]: last, [RCX]: -1n };
  assertEquals(faults(guest, [0x48, 0x89, 0x08], at), {
    vector: VECTOR.PF,
    errorCode: 2,
    cr2: NOT_MAPPED,
  });
  assertEquals(faults(guest, [0x48, 0x01, 0x08], at), {
    vector: VECTOR.PF,
    errorCode: 2,
    cr2: NOT_MAPPED,
  });
  assertEquals(faults(guest, [0x48, 0x8b, 0x18], at), {
    vector: VECTOR.PF,
    errorCode: 0,
    cr2: NOT_MAPPED,
  });
  assertEquals(guest.memory.readU32(guest.physical(last)), 0x04030201);
});

Deno.test("accesses cross pages that are not neighbours in memory", () => {
  const guest = new Guest();
  // The second page of the data area is moved elsewhere.
  guest.map(AT.data + 0x1000, 0x158000, 4096);
  // mov [rax], rcx; add qword [rax], 1; mov rbx, [rax]; movups xmm0, [rax]; movups [rax + 16], xmm0
  guest.start([
    0x48,
    0x89,
    0x08,
    0x48,
    0x83,
    0x00,
    0x01,
    0x48,
    0x8b,
    0x18,
    0x0f,
    0x10,
    0x00,
    0x0f,
    0x11,
    0x40,
    0x10,
    HLT,
  ], { [RAX]: AT.data + 0xffd, [RCX]: 0x1122334455ffffffn });
  guest.run();
  assertEquals(guest.cpu.state.reg(RBX), 0x1122334456000000n);
  assertEquals(guest.memory.readU16(guest.physical(AT.data + 0xffd)), 0);
  assertEquals(guest.memory.readU32(0x158000), 0x22334456);
  assertEquals(guest.memory.readU64(0x158000 + 13), 0x1122334456000000n);
});

Deno.test("a store is done again after the handler has mapped its page", () => {
  const guest = new Guest();
  guest.handler(VECTOR.PF, IRET_PAST_ERROR);
  guest.onEvent = () => guest.map(NOT_MAPPED, 0x150000, 4096);
  guest.start([0x48, 0x89, 0x08, HLT], { [RAX]: NOT_MAPPED, [RCX]: 0x1234 });
  assertEquals(guest.run(), "halted");
  assertEquals(guest.events.map((e) => e.vector), [VECTOR.PF]);
  assertEquals(guest.memory.readU64(0x150000), 0x1234n);
});

Deno.test("an instruction across two pages runs, follows changes of both, and faults on the second", () => {
  const guest = new Guest();
  const start = AT.code + 0xffb;
  // mov rax, imm64: five bytes in the first page
  const code = [0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, HLT];
  guest.start(code, {}, start).run();
  assertEquals(guest.cpu.state.reg(RAX), 0x0807060504030201n);
  guest.poke(AT.code + 0x1000, [0x44]);
  guest.start([0x48], {}, start).run();
  assertEquals(guest.cpu.state.reg(RAX), 0x0807060544030201n);
  guest.poke(start + 2, [0x11]);
  guest.start([0x48], {}, start).run();
  assertEquals(guest.cpu.state.reg(RAX), 0x0807060544030211n);
  guest.memory.writeU64(guest.entry(AT.code + 0x1000), 0n);
  guest.cpu.flushTlb(false);
  guest.start([0x48], {}, start).run();
  assertEquals(guest.events, [{
    vector: VECTOR.PF,
    errorCode: 0x10,
    rip: start,
  }]);
  assertEquals(guest.cpu.state.get(OFF.cr2), BigInt(AT.code + 0x1000));
});

Deno.test("a page that is mapped elsewhere has other code", () => {
  const guest = new Guest();
  guest.start([0xb0, 1, HLT]).run();
  assertEquals(guest.reg(RAX) & 0xff, 1);
  guest.memory.write(0x150000, Uint8Array.of(0xb0, 2, HLT));
  guest.map(AT.code, 0x150000, 4096);
  guest.cpu.state.set(OFF.rip, BigInt(AT.code));
  guest.cpu.halted = false;
  guest.run();
  assertEquals(guest.reg(RAX) & 0xff, 2);
});

Deno.test("an instruction may change the next one of its own block", () => {
  const guest = new Guest();
  // mov byte [rip + 1], cl; mov al, 1 (the immediate is what is changed); inc cl; cmp cl, 5; jb start; hlt
  const code = [
    0x88,
    0x0d,
    1,
    0,
    0,
    0,
    0xb0,
    1,
    0x00,
    0xc3,
    0xfe,
    0xc1,
    0x80,
    0xf9,
    5,
    0x72,
    0xef,
    HLT,
  ];
  guest.start(code, { [RCX]: 2, [RBX]: 0, [RAX]: 0 });
  assertEquals(guest.run(), "halted");
  // add bl, al each time: 2 + 3 + 4
  assertEquals(guest.reg(RBX), 9);
  // The same one instruction at a time, and in steps of three.
  for (const step of [1, 3]) {
    guest.start(code, { [RCX]: 2, [RBX]: 0, [RAX]: 0 });
    while (guest.run(step) === "budget");
    assertEquals(guest.reg(RBX), 9);
  }
});

Deno.test("string stores and pushes may change code, too", () => {
  const guest = new Guest();
  // rep stosb over the two bytes that follow: nop, nop become inc-free 0x90; then the bytes written decide.
  // mov ecx, 1; lea rdi, [rip + 4]; stosb; mov bl, 1 -> mov bl, al
  const code = [0x48, 0x8d, 0x3d, 2, 0, 0, 0, 0xaa, 0xb3, 1, HLT];
  for (const value of [7, 9]) {
    guest.start(code, { [RAX]: value, [RBX]: 0 }).run();
    assertEquals(guest.reg(RBX) & 0xff, value);
  }
  // push rax over the instruction after it: HLT NOPs become "mov bl, 3; hlt"
  const pushed = [0x50, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, HLT];
  guest.start(pushed, {
    [RAX]: 0x9090909090f403b3n,
    [RSP]: AT.code + 9,
    [RBX]: 0,
  }).run();
  assertEquals(guest.reg(RBX) & 0xff, 3);
});

Deno.test("run(n) retires exactly n instructions, whatever the shapes of the blocks", () => {
  // A program of random blocks: arithmetic, forward branches that depend on data, calls, string instructions, a loop around.
  const random = new Random(7);
  const code: number[] = [];
  for (let i = 0; i < 60; i++) {
    const kind = random.below(8);
    if (kind === 0) code.push(0x75, 3, 0x48, 0xff, 0xc0); // jne over inc rax
    else if (kind === 1) code.push(0xeb, 2, 0x0f, 0x0b); // jmp over ud2
    else if (kind === 2) code.push(0xe8, 1, 0, 0, 0, 0xf8, 0x48, 0x83, 0xc4, 8); // call over clc; add rsp, 8
    else if (kind === 3) code.push(0x89, 0xc2, 0x83, 0xe2, 7); // mov edx, eax; and edx, 7
    else if (kind === 4) code.push(0x51, 0xb9, 3, 0, 0, 0, 0xf3, 0xaa, 0x59); // push rcx; mov ecx, 3; rep stosb; pop rcx
    else if (kind === 5) code.push(0x0f, 0xa2); // cpuid
    else if (kind === 6) code.push(0x7a, 0); // jp to the next
    else code.push(0x48, 0x01, 0xc3); // add rbx, rax
  }
  code.push(0x48, 0xc7, 0xc7, 0, 0, 0x50, 0); // mov rdi, data
  const back = -(code.length + 5);
  code.push(0xe9, back & 0xff, (back >> 8) & 0xff, 0xff, 0xff);
  const guest = new Guest();
  const registers = { [RAX]: 5, [RCX]: 3, [RBX]: 1, [RDI]: AT.data, [RDX]: 0 };
  const total = 3000;
  const trace: string[] = [];
  const state = () =>
    `${guest.rip.toString(16)} ${
      guest.cpu.state.q.slice(0, 8).join(" ")
    } ${guest.cpu.state.rflags}`;
  guest.start(code, registers);
  for (let i = 0; i < total; i++) {
    const before = guest.cpu.retired;
    assertEquals(guest.run(1), "budget");
    assertEquals(guest.cpu.retired, before + 1);
    trace.push(state());
  }
  for (let round = 0; round < 4; round++) {
    guest.start(code, registers);
    for (let done = 0; done < total;) {
      const count = Math.min(
        1 + random.below(round === 0 ? 3 : round === 1 ? 40 : 700),
        total - done,
      );
      const before = guest.cpu.retired;
      guest.run(count);
      done += count;
      assertEquals(guest.cpu.retired, before + count);
      assertEquals(state(), trace[done - 1], `after ${done} instructions`);
    }
  }
});

Deno.test("STI and MOV SS shield one instruction from interrupts", () => {
  const guest = new Guest();
  const deliveredAt = (code: number[], flags: number) => {
    guest.start(code, { [RAX]: 0x10 });
    guest.cpu.state.rflags = 2 | flags;
    guest.io.pending = 0x40;
    guest.cpu.interruptChanged();
    guest.run();
    guest.io.pending = -1;
    guest.cpu.interruptChanged();
    return guest.events.map((e) => e.rip - AT.code);
  };
  assertEquals(deliveredAt([NOP, NOP, HLT], FLAG.IF), [0]);
  assertEquals(deliveredAt([0xfb, NOP, NOP, HLT], 0), [2]); // sti
  assertEquals(deliveredAt([0xfb, 0xfa, NOP, HLT], 0), []); // sti; cli
  assertEquals(deliveredAt([0xfb, HLT], 0), [2]); // sti; hlt: woken after the HLT
  guest.start([0x8e, 0xd0, NOP, NOP, HLT], { [RAX]: 0x10 });
  guest.cpu.state.rflags = 2 | FLAG.IF;
  guest.cpu.run(0);
  // mov ss, ax runs first; the interrupt that came meanwhile waits for the NOP.
  assertEquals(guest.cpu.run(1), "budget");
  guest.io.pending = 0x40;
  guest.cpu.interruptChanged();
  guest.run();
  assertEquals(guest.events.map((e) => e.rip - AT.code), [3]);
});

Deno.test("an NMI is taken with IF clear, and blocked until IRET", () => {
  const guest = new Guest();
  guest.handler(VECTOR.NMI, [NOP, NOP, ...IRET]);
  guest.start([NOP, NOP, NOP, HLT]);
  guest.cpu.nmi();
  guest.run(1);
  guest.cpu.nmi();
  guest.run(1);
  assertEquals(guest.events.length, 1);
  guest.run();
  assertEquals(guest.events.map((e) => [e.vector, e.rip - AT.code]), [[2, 0], [
    2,
    0,
  ]]);
});

Deno.test("repeated string instructions stop at a fault with their registers at the element, and go on", () => {
  const guest = new Guest();
  const start = NOT_MAPPED - 24;
  for (
    const [name, code] of [["movsd", [0xf3, 0xa5, HLT]], ["stosd", [
      0xf3,
      0xab,
      HLT,
    ]]] as [string, number[]][]
  ) {
    guest.memory.writeU64(guest.entry(NOT_MAPPED), 0n);
    guest.cpu.flushTlb(false);
    guest.handler(VECTOR.PF, [HLT]);
    guest.start(code, {
      [RCX]: 10,
      [RSI]: AT.data,
      [RDI]: start,
      [RAX]: 0x11223344,
    });
    guest.run();
    assertEquals(guest.events, [{
      vector: VECTOR.PF,
      errorCode: 2,
      rip: AT.code,
    }], name);
    assertEquals([guest.reg(RCX), guest.reg(RDI)], [4, NOT_MAPPED], name);
    assertEquals(guest.reg(RSI), name === "movsd" ? AT.data + 24 : AT.data);
    // The handler maps the page.
    guest.handler(VECTOR.PF, IRET_PAST_ERROR);
    guest.onEvent = () => guest.map(NOT_MAPPED, 0x150000, 4096);
    guest.start(code, {
      [RCX]: 10,
      [RSI]: AT.data,
      [RDI]: start,
      [RAX]: 0x11223344,
    });
    assertEquals(guest.run(), "halted");
    guest.onEvent = () => {};
    assertEquals([guest.reg(RCX), guest.reg(RDI)], [0, start + 40], name);
  }
  assertEquals(guest.memory.readU32(0x150000 + 12), 0x11223344);
});

Deno.test("string instructions go down with DF, and compare until they differ", () => {
  const guest = new Guest();
  guest.poke(AT.data, [1, 2, 3, 4, 5, 6, 7, 8]);
  guest.poke(AT.data + 0x100, [1, 2, 3, 9, 5, 6, 7, 8]);
  // std; rep movsb: eight bytes upwards by two, from their end
  guest.start([0xfd, 0xf3, 0xa4, 0xfc, HLT], {
    [RCX]: 8,
    [RSI]: AT.data + 7,
    [RDI]: AT.data + 9,
  }).run();
  assertEquals(guest.peek(AT.data + 2), 0x0807060504030201n);
  guest.poke(AT.data, [1, 2, 3, 4, 5, 6, 7, 8]);
  guest.start([0xf3, 0xa6, HLT], {
    [RCX]: 8,
    [RSI]: AT.data,
    [RDI]: AT.data + 0x100,
  }).run();
  assertEquals([guest.reg(RCX), guest.reg(RSI) - AT.data], [4, 4]);
  // repne scasb for 7
  guest.start([0xf2, 0xae, HLT], { [RCX]: 100, [RAX]: 7, [RDI]: AT.data })
    .run();
  assertEquals([guest.reg(RCX), guest.reg(RDI) - AT.data], [93, 7]);
  // With a count of zero nothing happens, not even to the flags.
  guest.start([0xf3, 0xa6, HLT], {
    [RCX]: 0,
    [RSI]: NOT_MAPPED,
    [RDI]: NOT_MAPPED,
  });
  guest.cpu.state.rflags = 2 | FLAG.CF;
  guest.run();
  assertEquals(guest.cpu.state.rflags & FLAG.CF, FLAG.CF);
  assertEquals(guest.events, []);
});

Deno.test("32-bit addresses in 64-bit code wrap at 4 GiB", () => {
  const guest = new Guest();
  guest.poke(AT.data + 0x20, [0xef, 0xbe]);
  // mov ebx, [eax + ecx * 4 + 0x20] with a sum beyond 4 GiB and rubbish above
  guest.start([0x67, 0x8b, 0x5c, 0x88, 0x20, HLT], {
    [RAX]: 0xdead_0000_0000n + BigInt(AT.data) + 8n,
    [RCX]: 0xfff_ffff_fffen,
  }).run();
  assertEquals(guest.reg(RBX), 0xbeef);
  // lea rbx, [eax - 1]
  guest.start([0x67, 0x48, 0x8d, 0x58, 0xff, HLT], { [RAX]: 0n }).run();
  assertEquals(guest.cpu.state.reg(RBX), 0xffffffffn);
});

Deno.test("stack and control instructions", () => {
  const guest = new Guest();
  const top = AT.stack + 0x8000;
  // push rsp; pop rax; push -2; pop rbx; push 0x12345678; push word 5 (66); pop cx (66); pop rdx
  guest.start([
    0x54,
    0x58,
    0x6a,
    0xfe,
    0x5b,
    0x68,
    0x78,
    0x56,
    0x34,
    0x92,
    0x66,
    0x6a,
    5,
    0x66,
    0x59,
    0x5a,
    HLT,
  ], { [RCX]: -1n }).run();
  assertEquals(guest.reg(RAX), top);
  assertEquals(guest.cpu.state.reg(RBX), 0xfffffffffffffffen);
  assertEquals(guest.cpu.state.reg(RCX), 0xffffffffffff0005n);
  assertEquals(guest.cpu.state.reg(RDX), 0xffffffff92345678n);
  assertEquals(guest.reg(RSP), top);
  // enter 0x20, 0; leave; call +2 over jmp +4; ret 8
  guest.start([
    0x6a,
    1,
    0xe8,
    2,
    0,
    0,
    0,
    0xeb,
    7,
    0xc8,
    0x20,
    0,
    0,
    0xc9,
    0xc2,
    8,
    0,
    HLT,
  ], { 5: 0x77 });
  // jmp +7 lands on the HLT after "ret 8"
  guest.poke(AT.code + 7, [0xeb, 8]);
  guest.run();
  assertEquals([guest.reg(RSP), guest.reg(5), guest.rip - AT.code], [
    top,
    0x77,
    18,
  ]);
  // pop qword [rsp]: the address is that after the pop
  guest.start([0x6a, 1, 0x6a, 2, 0x8f, 0x04, 0x24, HLT]).run();
  assertEquals(guest.reg(RSP), top - 8);
  assertEquals(guest.peek(top - 8), 2n);
  // pop rsp
  guest.start([0x68, 0, 0, 0x60, 0, 0x5c, HLT]).run();
  assertEquals(guest.reg(RSP), AT.stack);
  // mov ecx, 5; add eax, ecx; loop
  guest.start([0xb9, 5, 0, 0, 0, 0x01, 0xc8, 0xe2, 0xfc, 0xe3, 1, 0x0f, HLT], {
    [RAX]: 0,
  }).run();
  assertEquals([guest.reg(RAX), guest.reg(RCX), guest.events.length], [
    15,
    0,
    0,
  ]);
});
