// The faults that earlier implementations of machine snapshots are known for, and that are not
// those of one device (DESIGN.md, end of section 6): the guest, which looks after the restore, must
// find everything. Devices have theirs beside them: config space, BARs, INTx, MSI-X and the latch
// at 0xCF8 in core/bus/pci_test.ts, rings in plugins/virtio, timers in plugins/legacy.

import { assert, assertEquals, assertThrows } from "@std/assert";
import { fakeElf } from "../core/boot/testing.ts";
import { saveCpu } from "../core/cpu/saved.ts";
import { Machine, type MachineDevice } from "../core/machine.ts";
import { MemoryChardev } from "../host/chardev/memory.ts";
import { BUILT_IN } from "../plugins/mod.ts";
import { SchemaError } from "../snapshot/schema.ts";

const MEMORY = 4 << 20;
const LOAD = 0x100000;
/** Where guests leave what they see. */
const SEEN = 0x200000;
const STACK = 0x300000;
const IDT = 0x210000;
const HANDLER = 0x211000;
const CODE_SELECTOR = 0x10;
const NMI = 2;

/** `SEEN + offset` as a 32-bit displacement without registers. */
function seen(offset: number): number[] {
  return [0x25, ...word(SEEN + offset)];
}

function word(value: number): number[] {
  return [...new Uint8Array(Uint32Array.of(value).buffer)];
}

const MOV_ESP = [0xbc, ...word(STACK)];
const NOP = [0x90];
const STI = [0xfb];
const HLT = [0xf4];
const FOREVER = [0xeb, 0xfe];

async function makeMachine(
  devices: readonly MachineDevice[] = [],
): Promise<Machine> {
  return await Machine.create({
    memory: MEMORY,
    clock: "instructions",
    hostNow: () => performance.now(),
    devices,
  });
}

/** A machine with 64-bit code in it, a stack, and a handler for NMIs. */
async function boot(...code: number[][]): Promise<Machine> {
  const machine = await makeMachine();
  const content = Uint8Array.from([...MOV_ESP, ...code.flat(), ...FOREVER]);
  const kernel = fakeElf({
    bits: 64,
    physical: LOAD,
    entry: BigInt(LOAD),
    content,
  });
  await machine.boot({ kernel: { bytes: kernel, label: "test kernel" } });
  const { memory } = machine;
  memory.writeU16(IDT - 16, 0xfff);
  memory.writeU64(IDT - 14, BigInt(IDT));
  const gate = IDT + NMI * 16;
  memory.writeU16(gate, HANDLER & 0xffff);
  memory.writeU16(gate + 2, CODE_SELECTOR);
  memory.writeU16(gate + 4, 0x8e00);
  memory.writeU16(gate + 6, HANDLER >>> 16);
  return machine;
}

async function run(machine: Machine, count: number): Promise<void> {
  machine.maxInstructions = machine.cpu.retired + count;
  assertEquals((await machine.run()).reason, "instructions");
}

/** A new machine with the state of another. */
async function copyOf(machine: Machine): Promise<Machine> {
  const copy = await makeMachine();
  copy.restore(machine.save());
  return copy;
}

Deno.test("the x87 stack, its status and control words, MXCSR and XMM registers survive", async () => {
  const before = [
    [0x0f, 0x20, 0xe0], // mov rax, cr4
    [0x0d, ...word(0x600)], // or eax, OSFXSR | OSXMMEXCPT
    [0x0f, 0x22, 0xe0], // mov cr4, rax
    [0xdb, 0xe3], // fninit
    [0x66, 0xc7, 0x04, ...seen(0), 0x7f, 0x07], // mov word [0], 0x077f
    [0xd9, 0x2c, ...seen(0)], // fldcw [0]: round down, 64 bits
    [0xd9, 0xeb], // fldpi
    [0xd9, 0xee], // fldz
    [0xd8, 0xf9], // fdivr st0, st1: division by zero
    [0xc7, 0x04, ...seen(0), ...word(0x7f80 | 4)], // mov dword [0], …
    [0x0f, 0xae, 0x14, ...seen(0)], // ldmxcsr: round to zero, ZE set
    [0xb8, ...word(0x12345678)], // mov eax, …
    [0x66, 0x0f, 0x6e, 0xc8], // movd xmm1, eax
  ];
  const machine = await boot(
    ...before,
    [0xdd, 0x3c, ...seen(0x10)], // fnstsw
    [0xd9, 0x3c, ...seen(0x12)], // fnstcw
    [0xdd, 0x1c, ...seen(0x18)], // fstp qword: infinity
    [0xdd, 0x1c, ...seen(0x20)], // fstp qword: pi
    [0x0f, 0xae, 0x1c, ...seen(0x28)], // stmxcsr
    [0x0f, 0x11, 0x0c, ...seen(0x30)], // movups xmm1
  );
  await run(machine, 1 + before.length);
  const copy = await copyOf(machine);
  await run(copy, 10);
  const { memory } = copy;
  const ZE = 4, TOP = 6 << 11;
  assertEquals(memory.readU16(SEEN + 0x10) & (ZE | 7 << 11), ZE | TOP);
  assertEquals(memory.readU16(SEEN + 0x12), 0x077f);
  const view = new DataView(memory.view(SEEN, 0x40).slice().buffer);
  assertEquals(view.getFloat64(0x18, true), Infinity);
  // Rounded down, as the control word says: one unit below the nearest.
  assert(Math.abs(view.getFloat64(0x20, true) - Math.PI) < 1e-15);
  assertEquals(view.getUint32(0x28, true), 0x7f84);
  assertEquals(view.getUint32(0x30, true), 0x12345678);
  await run(machine, 10);
  assertEquals(await copy.stateHash(), await machine.stateHash());
});

Deno.test("lazy flags survive as the flags that they stand for", async () => {
  const OF = 1 << 11, SF = 1 << 7, AF = 1 << 4, PF = 4, ZF = 1 << 6, CF = 1;
  const cases: [number[], number][] = [
    [[0xb0, 0x7f, 0x04, 0x01], OF | SF | AF], // mov al, 0x7f; add al, 1
    [[0xb0, 0xff, 0x04, 0x01], ZF | AF | PF | CF], // mov al, 0xff; add al, 1
    [[0xb0, 0x03, 0x3c, 0x05], CF | SF | AF], // mov al, 3; cmp al, 5
    [[0xb0, 0x81, 0xd0, 0xe0], OF | CF], // mov al, 0x81; shl al, 1
  ];
  for (const [code, flags] of cases) {
    // pushfq; pop rax; mov [0], eax
    const machine = await boot(code, [0x9c, 0x58, 0x89, 0x04, ...seen(0)]);
    await run(machine, 3);
    const copy = await copyOf(machine);
    await run(copy, 3);
    const all = OF | SF | AF | PF | ZF | CF;
    const undefinedToo = code[2] === 0xd0 ? AF : 0;
    assertEquals(
      copy.memory.readU32(SEEN) & all & ~undefinedToo,
      flags & ~undefinedToo,
    );
  }
});

Deno.test("a pending NMI, the one behind it, and what holds them off survive at every instruction", async () => {
  const machine = await boot(
    [0x0f, 0x01, 0x1c, 0x25, ...word(IDT - 16)], // lidt
    STI,
    ...Array(30).fill(NOP),
  );
  // inc dword [0]; three nops; iretq
  machine.memory.write(
    HANDLER,
    Uint8Array.from([
      0xff,
      0x04,
      ...seen(0),
      ...NOP,
      ...NOP,
      ...NOP,
      0x48,
      0xcf,
    ]),
  );
  // After STI, which holds everything off for one instruction.
  await run(machine, 3);
  assert(saveCpu(machine.cpu).inhibited);
  machine.cpu.nmi();
  let copy = await copyOf(machine);
  const counts: number[] = [];
  for (let step = 0; step < 16; step++) {
    // A second one, while the first is being handled.
    if (step === 3) { for (const each of [machine, copy]) each.cpu.nmi(); }
    await run(machine, 1);
    await run(copy, 1);
    assertEquals(await copy.stateHash(), await machine.stateHash(), `${step}`);
    assertEquals(saveCpu(copy.cpu), saveCpu(machine.cpu));
    counts.push(copy.memory.readU32(SEEN));
    copy = await copyOf(copy);
  }
  // A nop, the handler's five instructions, and the handler again after its IRETQ.
  assertEquals(counts.slice(0, 8), [0, 1, 1, 1, 1, 1, 2, 2]);
  assertEquals(counts.at(-1), 2);
});

Deno.test("a halted guest is still halted, and an NMI wakes it", async () => {
  const machine = await boot(
    [0x0f, 0x01, 0x1c, 0x25, ...word(IDT - 16)],
    HLT,
    [0xff, 0x04, ...seen(4)], // inc dword [4]
  );
  machine.memory.write(
    HANDLER,
    Uint8Array.from([0xff, 0x04, ...seen(0), 0x48, 0xcf]),
  );
  assertEquals(machine.cpu.run(10), "halted");
  const copy = await copyOf(machine);
  assert(copy.cpu.halted);
  assertEquals(copy.cpu.run(10), "halted");
  copy.cpu.nmi();
  copy.cpu.run(3);
  assertEquals(copy.memory.readU32(SEEN), 1);
  assertEquals(copy.memory.readU32(SEEN + 4), 1);
});

Deno.test("CR8 of a machine without a local APIC survives", async () => {
  const machine = await boot(
    [0xb8, ...word(9)], // mov eax, 9
    [0x44, 0x0f, 0x22, 0xc0], // mov cr8, rax
    [0x44, 0x0f, 0x20, 0xc3], // mov rbx, cr8
    [0x89, 0x1c, ...seen(0)], // mov [0], ebx
  );
  await run(machine, 3);
  const copy = await copyOf(machine);
  await run(copy, 2);
  assertEquals(copy.memory.readU32(SEEN), 9);
});

Deno.test("each device gets its own state, whatever the order in which they were made", async () => {
  const plugin = await BUILT_IN.uart();
  const uarts = (): MachineDevice[] =>
    [["first", 0x3f8, 4], ["second", 0x2f8, 3], ["third", 0x3e8, 4]].map(
      ([id, port, irq]) => ({
        id: String(id),
        plugin,
        options: { port, irq },
        backend: new MemoryChardev(),
      }),
    );
  const SCRATCH = 7;
  const machine = await makeMachine(uarts());
  const bases = [0x3f8, 0x2f8, 0x3e8];
  bases.forEach((base, i) => machine.isa.write(base + SCRATCH, 1, 0x11 * i));
  const copy = await makeMachine(uarts().reverse());
  copy.restore(machine.save());
  assertEquals(bases.map((base) => copy.isa.read(base + SCRATCH, 1)), [
    0x00,
    0x11,
    0x22,
  ]);
});

Deno.test("memory of another size is refused, not warned of", async () => {
  const machine = await makeMachine();
  const state = machine.save();
  const other = await makeMachine();
  assertThrows(
    () => other.restore({ ...state, ram: state.ram.subarray(4096) }),
    SchemaError,
    `memory is ${MEMORY - 4096} bytes: expected the ${MEMORY} of the machine`,
  );
});
