// The vCPU on pages that a snapshot still needs, and on pages that are still in a snapshot's file.

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { AbsentPages } from "../memory/absent.ts";
import { FrozenMemory } from "../memory/freeze.ts";
import { imageBlocks, sameImage, takePages } from "../memory/testing.ts";
import { OFF, RAX, RCX, RDI, RSI } from "./state.ts";
import { AT, Guest } from "./testing/guest.ts";

const PAGE = 4096;
const HLT = 0xf4;
/** Bytes of a linear address as an immediate. */
const imm32 = (value: number) => [0, 8, 16, 24].map((n) => value >>> n & 0xff);

/** Freezes, which takes the writable translations away. */
function freeze(guest: Guest): FrozenMemory {
  return new FrozenMemory(guest.memory, false);
}

/** What the snapshot has in the end. */
function imageOf(frozen: FrozenMemory): Uint8Array {
  const image = new Uint8Array(frozen.bytes);
  takePages(frozen, image);
  frozen.end(true);
  return image;
}

/** Takes all of RAM away: the guest finds it where a lazy restore has it. */
function makeAbsent(guest: Guest): AbsentPages {
  const { memory, cpu } = guest;
  const blocks = imageBlocks(memory.ramBytes, 2);
  memory.ramBytes.fill(0);
  cpu.flushTlb(false);
  guest.engine.blocks.flush();
  return new AbsentPages(memory, blocks);
}

Deno.test("stores of every kind to a frozen page leave the snapshot as it was", () => {
  const page = AT.data;
  const stores: [string, number[]][] = [
    ["mov byte", [0xc6, 0x07, 0x55]],
    ["mov qword", [0x48, 0x89, 0x07]],
    ["across two pages", [0x48, 0x89, 0x87, ...imm32(PAGE - 3)]],
    ["add to memory", [0x48, 0x01, 0x07]],
    ["lock xadd", [0xf0, 0x48, 0x0f, 0xc1, 0x07]],
    ["rep stosb", [0xb9, ...imm32(PAGE + 100), 0xf3, 0xaa]],
    ["rep movsq", [0xb9, ...imm32(600), 0xf3, 0x48, 0xa5]],
    ["movups", [0x0f, 0x11, 0x07]],
    ["fxsave", [0x0f, 0xae, 0x07]],
    ["push", [0x48, 0x89, 0xfc, 0x50]],
  ];
  for (const [name, store] of stores) {
    const guest = new Guest();
    const content = new Uint8Array(4 * PAGE).map((_, i) => i * 7);
    guest.poke(page, content);
    guest.start([...store, HLT], {
      [RAX]: 0x1122334455667788n,
      [RDI]: page + (name === "push" ? PAGE : 0),
      [RSI]: page + 2 * PAGE + 1,
      [RCX]: 1,
    });
    const expected = guest.memory.ramBytes.slice();
    const frozen = freeze(guest);
    assertEquals(guest.run(), "halted", name);
    assertEquals(guest.events, [], name);
    assert(!sameImage(guest.memory.ramBytes, expected), `${name} stores`);
    assert(sameImage(imageOf(frozen), expected), name);
  }
});

Deno.test("a store to a page that is saved already needs no copy, and is in the next snapshot", () => {
  const guest = new Guest();
  guest.poke(AT.data, [1]);
  guest.start([0xc6, 0x07, 0x55, HLT], { [RDI]: AT.data });
  const frozen = freeze(guest);
  const image = imageOf(frozen);
  assertEquals(image[guest.physical(AT.data)], 1);
  guest.run();
  const next = new FrozenMemory(guest.memory, true);
  takePages(next, image);
  next.end(true);
  assert(sameImage(image, guest.memory.ramBytes));
  assertEquals(image[guest.physical(AT.data)], 0x55);
});

Deno.test("code that changes itself on a frozen page runs as changed, and is saved as it was", () => {
  const guest = new Guest();
  // inc byte [imm32 of the mov below]; mov eax, 7; hlt. Run twice: the second time the code is translated and frozen.
  const mov = AT.code + 7;
  guest.start([0xfe, 0x04, 0x25, ...imm32(mov + 1), 0xb8, ...imm32(7), HLT]);
  guest.run();
  assertEquals(guest.reg(RAX), 8);
  const expected = guest.memory.ramBytes.slice();
  const frozen = freeze(guest);
  for (const value of [9, 10]) {
    guest.cpu.state.set(OFF.rip, BigInt(AT.code));
    guest.cpu.halted = false;
    guest.run();
    assertEquals(guest.reg(RAX), value);
  }
  assert(sameImage(imageOf(frozen), expected));
});

Deno.test("accessed and dirty bits that the walk sets do not reach the snapshot", () => {
  const guest = new Guest();
  const entry = guest.entry(AT.data);
  guest.start([0xc6, 0x07, 0x55, HLT], { [RDI]: AT.data });
  const before = guest.memory.readU64(entry);
  const frozen = freeze(guest);
  guest.run();
  assertEquals(guest.memory.readU64(entry), before | 0x60n);
  const image = imageOf(frozen);
  assertEquals(
    new DataView(image.buffer).getBigUint64(entry, true),
    before,
  );
});

Deno.test("a guest whose RAM is absent runs as one whose RAM is there", () => {
  const program = [
    ...[0x48, 0xff, 0x07], // inc qword [rdi]
    ...[0x48, 0x8b, 0x07], // mov rax, [rdi]
    ...[0x48, 0x03, 0x06], // add rax, [rsi]
    0x50, // push rax
    ...[0x48, 0x8b, 0x8e, ...imm32(PAGE - 4)], // mov rcx, [rsi + 4092]
    ...[0x0f, 0x0b], // ud2: the handler is in a page of its own
  ];
  const make = () => {
    const guest = new Guest();
    guest.poke(AT.data, new Uint8Array(3 * PAGE).map((_, i) => i * 3));
    // In a page and the next: the last instruction crosses into it.
    return guest.start(
      program,
      { [RDI]: AT.data, [RSI]: AT.data + PAGE },
      AT.code + PAGE - program.length + 3,
    );
  };
  const there = make();
  there.run();
  const lazy = make();
  const pages = makeAbsent(lazy);
  lazy.run();
  assertEquals(lazy.events, there.events);
  for (const register of [RAX, RCX]) {
    assertEquals(lazy.reg(register), there.reg(register));
  }
  pages.loadRest();
  assert(sameImage(lazy.memory.ramBytes, there.memory.ramBytes));
});

Deno.test("pages that come while the guest runs change nothing for it", () => {
  // Sums a table while a stranger loads pages between slices: mov/add/loop over three pages, writing each sum back.
  const program = [
    ...[0x48, 0x03, 0x07], // add rax, [rdi]
    ...[0x48, 0x89, 0x07], // mov [rdi], rax
    ...[0x48, 0x83, 0xc7, 0x40], // add rdi, 64
    ...[0xe2, 0xf4], // loop
    HLT,
  ];
  const make = () => {
    const guest = new Guest();
    guest.poke(AT.data, new Uint8Array(8 * PAGE).map((_, i) => i * 5));
    return guest.start(program, { [RDI]: AT.data, [RCX]: 8 * PAGE / 64 });
  };
  const there = make();
  there.run();
  fc.assert(
    fc.property(
      fc.array(
        fc.record({ count: fc.integer({ min: 1, max: 400 }), page: fc.nat(7) }),
      ),
      (slices) => {
        const lazy = make();
        const pages = makeAbsent(lazy);
        for (const { count, page } of slices) {
          lazy.run(count);
          lazy.memory.present(
            lazy.memory.host(lazy.physical(AT.data) + page * PAGE),
          );
        }
        lazy.run();
        pages.loadRest();
        assertEquals(lazy.reg(RAX), there.reg(RAX));
        assert(sameImage(lazy.memory.ramBytes, there.memory.ramBytes));
      },
    ),
    { numRuns: 6 },
  );
});

Deno.test("DMA and the vCPU see each other's writes on pages that are absent or frozen", () => {
  const guest = new Guest();
  guest.poke(AT.data, [1, 2, 3, 4]);
  guest.start([0x8b, 0x07, 0xff, 0x47, 0x04, HLT], { [RDI]: AT.data });
  makeAbsent(guest);
  guest.poke(AT.data, [5]);
  const frozen = new FrozenMemory(guest.memory, false);
  guest.poke(AT.data + 1, [6]);
  guest.run();
  assertEquals(guest.reg(RAX), 0x04030605);
  assertEquals(guest.peek(AT.data), 0x1_04030605n);
  const image = imageOf(frozen);
  assertEquals(
    new DataView(image.buffer).getBigUint64(guest.physical(AT.data), true),
    0x04030205n,
  );
});
