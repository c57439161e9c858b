import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { DmaError, type DmaMemory } from "../../core/plugin.ts";
import {
  type Chain,
  gather,
  layOut,
  Ring,
  RingError,
  scatter,
  slice,
  totalLength,
} from "./ring.ts";
import { GuestMemory, GuestRing } from "./testing/driver.ts";

const RAM = 0x20_0000;

/** Guest RAM from address 0 on, and nothing else. */
function dma(ram: Uint8Array): DmaMemory {
  const data = new DataView(ram.buffer);
  const contains = (address: number, length: number) =>
    address >= 0 && address + length <= ram.length;
  const check = (address: number, length: number) => {
    if (!contains(address, length)) throw new DmaError(`0x${address}`);
    return address;
  };
  return {
    contains,
    view: (a, n) => ram.subarray(check(a, n), a + n),
    read: (a, target) =>
      target.set(ram.subarray(check(a, target.length), a + target.length)),
    write: (a, source) => ram.set(source, check(a, source.length)),
    readU8: (a) => data.getUint8(check(a, 1)),
    readU16: (a) => data.getUint16(check(a, 2), true),
    readU32: (a) => data.getUint32(check(a, 4), true),
    readU64: (a) => data.getBigUint64(check(a, 8), true),
    writeU8: (a, v) => data.setUint8(check(a, 1), v),
    writeU16: (a, v) => data.setUint16(check(a, 2), v, true),
    writeU32: (a, v) => data.setUint32(check(a, 4), v, true),
    writeU64: (a, v) => data.setBigUint64(check(a, 8), v, true),
  };
}

function setUp({ size = 8, indirect = true, eventIdx = false } = {}) {
  const ram = new Uint8Array(RAM);
  const memory = dma(ram);
  const guest = new GuestRing(new GuestMemory(ram), size);
  const layout = layOut(memory, size, {
    desc: BigInt(guest.desc),
    avail: BigInt(guest.avail),
    used: BigInt(guest.used),
  });
  const ring = new Ring(memory, size, layout, { indirect, eventIdx });
  return { ram, memory, guest, ring };
}

Deno.test("a ring gives requests in order and takes them back in any", () => {
  const { guest, ring } = setUp();
  assertEquals(ring.pop(), null);
  const first = guest.add([
    { address: 0x1000, length: 16 },
    { address: 0x2000, length: 512, write: true },
  ]);
  const second = guest.add([{ address: 0x3000, length: 4 }]);
  const chain: Chain = {
    head: first,
    readable: [{ address: 0x1000, length: 16 }],
    writable: [{ address: 0x2000, length: 512 }],
  };
  assertEquals(ring.pop(), chain);
  assertEquals(ring.pop()?.head, second);
  assertEquals(ring.pop(), null);
  assert(ring.push(second, 0));
  assert(ring.push(first, 512));
  assertEquals(guest.collect(), [{ head: second, length: 0 }, {
    head: first,
    length: 512,
  }]);
  assertEquals(ring.chain(first), chain);
});

Deno.test("indexes wrap at 65536", () => {
  const { guest, ring } = setUp({ size: 4, eventIdx: true });
  for (let i = 0; i < 70_000; i++) {
    guest.usedEvent = i & 0xffff;
    const head = guest.add([{ address: 0x1000, length: 1 }]);
    assertEquals(ring.pop()?.head, head);
    assertEquals(ring.pop(), null);
    assertEquals(guest.availEvent, guest.availIdx);
    assert(ring.push(head, 1));
    assertEquals(guest.collect().length, 1);
  }
});

Deno.test("VIRTQ_AVAIL_F_NO_INTERRUPT suppresses interrupts", () => {
  const { guest, ring } = setUp();
  guest.noInterrupt = true;
  const head = guest.add([{ address: 0x1000, length: 1 }]);
  ring.pop();
  assertEquals(ring.push(head, 0), false);
});

Deno.test("used_event asks for one interrupt", () => {
  const { guest, ring } = setUp({ eventIdx: true });
  guest.noInterrupt = true; // has no meaning with event indexes
  guest.usedEvent = 2;
  const wants = [];
  for (let i = 0; i < 5; i++) {
    guest.add([{ address: 0x1000, length: 1 }]);
    wants.push(ring.push(ring.pop()!.head, 0));
  }
  assertEquals(wants, [false, false, true, false, false]);
});

Deno.test("an indirect table is a chain of its own, and may follow direct descriptors", () => {
  const { guest, ring } = setUp();
  const buffers = Array.from(
    { length: 20 },
    (_, i) => ({ address: 0x1000 + i * 256, length: 256, write: i > 9 }),
  );
  guest.add(buffers, true);
  const chain = ring.pop()!;
  assertEquals(chain.readable.length, 10);
  assertEquals(totalLength(chain.writable), 2560);

  const table = guest.memory.allocate(16);
  guest.describe(0, { address: 0x5000, length: 8 }, table);
  guest.describe(4, { address: 0x4000, length: 8, flags: 1, next: 5 });
  guest.describe(5, { address: table, length: 16, flags: 4 });
  guest.offer(4);
  assertEquals(ring.pop()!.readable, [{ address: 0x4000, length: 8 }, {
    address: 0x5000,
    length: 8,
  }]);
});

Deno.test("what the specification forbids gives an error that says what", async (t) => {
  const ok = { address: 0x1000, length: 16 };
  const cases: [string, (guest: GuestRing) => void, string][] = [
    ["a head outside the ring", (g) => g.offer(8), "not in a table of 8"],
    ["a next outside the ring", (g) => {
      g.describe(0, { ...ok, flags: 1, next: 9 });
      g.offer(0);
    }, "descriptor 9"],
    ["a loop", (g) => {
      g.describe(0, { ...ok, flags: 1, next: 1 });
      g.describe(1, { ...ok, flags: 1, next: 0 });
      g.offer(0);
    }, "loop"],
    ["a descriptor that is its own next", (g) => {
      g.describe(3, { ...ok, flags: 1, next: 3 });
      g.offer(3);
    }, "loop"],
    ["a buffer outside RAM", (g) => {
      g.describe(0, { address: RAM - 8, length: 16 });
      g.offer(0);
    }, "not in RAM"],
    ["a buffer at the end of the address space", (g) => {
      g.describe(0, { address: -16n, length: 32 });
      g.offer(0);
    }, "not in RAM"],
    ["a buffer of 4 GiB", (g) => {
      g.describe(0, { address: 0, length: 0xffff_ffff });
      g.offer(0);
    }, "not in RAM"],
    ["a readable buffer after a writable one", (g) => {
      g.describe(0, { ...ok, flags: 3, next: 1 });
      g.describe(1, ok);
      g.offer(0);
    }, "after one to write"],
    ["an indirect table with a next", (g) => {
      g.describe(0, { ...ok, flags: 5, next: 1 });
      g.offer(0);
    }, "followed by"],
    ["an indirect table of a wrong size", (g) => {
      g.describe(0, { address: 0x1000, length: 17, flags: 4 });
      g.offer(0);
    }, "17 bytes"],
    ["an empty indirect table", (g) => {
      g.describe(0, { address: 0x1000, length: 0, flags: 4 });
      g.offer(0);
    }, "0 bytes"],
    ["an indirect table outside RAM", (g) => {
      g.describe(0, { address: RAM, length: 16, flags: 4 });
      g.offer(0);
    }, "not in RAM"],
    ["an indirect table in an indirect table", (g) => {
      const table = g.memory.allocate(16);
      g.describe(0, { address: table, length: 16, flags: 4 }, table);
      g.describe(0, { address: table, length: 16, flags: 4 });
      g.offer(0);
    }, "in an indirect table"],
    ["a huge indirect chain", (g) => {
      const table = g.memory.allocate(16 * 4096);
      for (let i = 0; i < 4096; i++) {
        g.describe(i, { ...ok, flags: 1, next: (i + 1) % 4096 }, table);
      }
      g.describe(0, { address: table, length: 16 * 4096, flags: 4 });
      g.offer(0);
    }, "more than 1024"],
    ["an available index that jumps", (g) => {
      g.memory.view.setUint16(g.avail + 2, 9, true);
    }, "from 0 to 9"],
  ];
  for (const [name, prepare, part] of cases) {
    await t.step(name, () => {
      const { guest, ring } = setUp();
      prepare(guest);
      assertThrows(() => ring.pop(), RingError, part);
    });
  }
  await t.step("an indirect table that was not negotiated", () => {
    const { guest, ring } = setUp({ indirect: false });
    guest.add([ok], true);
    assertThrows(() => ring.pop(), RingError, "not negotiated");
  });
});

Deno.test("layOut refuses rings that are not aligned or not in RAM", () => {
  const memory = dma(new Uint8Array(RAM));
  const good = { desc: 0x1000n, avail: 0x2000n, used: 0x3000n };
  assertEquals(layOut(memory, 256, good).used.length, 4 + 256 * 8 + 2);
  const refuses = (part: Partial<typeof good>, why: string) =>
    assertThrows(
      () => layOut(memory, 256, { ...good, ...part }),
      RingError,
      why,
    );
  refuses({ desc: 0x1008n }, "aligned to 16");
  refuses({ avail: 0x2001n }, "aligned to 2");
  refuses({ used: 0x3002n }, "aligned to 4");
  refuses({ desc: BigInt(RAM - 4080) }, "not in RAM");
  refuses({ used: BigInt(RAM - 2048) }, "not in RAM");
  refuses({ desc: 0xffff_ffff_ffff_fff0n }, "not in RAM");
});

Deno.test("any bytes in a ring give requests inside RAM or a RingError, and never a hang", () => {
  const u16 = fc.oneof(
    fc.integer({ min: 0, max: 15 }),
    fc.integer({ min: 0, max: 0xffff }),
  );
  const descriptor = fc.record({
    address: fc.oneof(
      fc.integer({ min: 0, max: RAM + 4096 }).map(BigInt),
      fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    ),
    length: fc.oneof(
      fc.integer({ min: 0, max: 4096 }),
      fc.integer({ min: 0, max: 256 }).map((n) => n * 16),
      fc.integer({ min: 0, max: 0xffff_ffff }),
    ),
    flags: fc.oneof(fc.integer({ min: 0, max: 7 }), u16),
    next: u16,
  });
  fc.assert(
    fc.property(
      fc.array(descriptor, { minLength: 16, maxLength: 16 }),
      fc.array(descriptor, { minLength: 32, maxLength: 32 }),
      fc.array(u16, { minLength: 16, maxLength: 16 }),
      u16,
      fc.boolean(),
      (descriptors, table, heads, idx, eventIdx) => {
        const { memory, guest, ring } = setUp({ size: 16, eventIdx });
        const at = guest.memory.allocate(16 * table.length);
        table.forEach((d, i) => guest.describe(i, d, at));
        descriptors.forEach((d, i) => {
          // Let some indirect tables be where there is one.
          const address = (d.flags & 4) !== 0 && i % 2 === 0
            ? BigInt(at)
            : d.address;
          guest.describe(i, { ...d, address });
        });
        heads.forEach((head, i) =>
          guest.memory.view.setUint16(guest.avail + 4 + i * 2, head, true)
        );
        guest.memory.view.setUint16(guest.avail + 2, idx, true);
        try {
          for (let n = 0;; n++) {
            const chain = ring.pop();
            if (chain === null) break;
            assert(n < 16);
            for (
              const { address, length } of [
                ...chain.readable,
                ...chain.writable,
              ]
            ) assert(length > 0 && memory.contains(address, length));
            assert(chain.readable.length + chain.writable.length <= 1040);
            ring.push(chain.head, 0);
          }
        } catch (error) {
          assert(error instanceof RingError, String(error));
        }
      },
    ),
    { numRuns: 300 },
  );
});

Deno.test("slice, gather and scatter treat buffers as one run of bytes", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 50 }), { maxLength: 8 }),
      fc.nat(300),
      fc.nat(300),
      (lengths, from, length) => {
        const ram = new Uint8Array(1024);
        ram.forEach((_, i) => ram[i] = i * 7);
        const memory = dma(ram);
        let address = 0;
        const segments = lengths.map((length) => {
          address += 100;
          return { address, length };
        });
        const all = gather(memory, segments);
        const part = slice(segments, from, length);
        assertEquals(gather(memory, part), all.slice(from, from + length));
        const bytes = new Uint8Array(totalLength(part)).fill(0xee);
        scatter(memory, part, bytes);
        all.fill(0xee, from, from + length);
        assertEquals(gather(memory, segments), all);
      },
    ),
  );
});
