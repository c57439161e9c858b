import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { MachineError, type PciFunctionConfig } from "../plugin.ts";
import { SchemaError } from "../../snapshot/schema.ts";
import { arbitrary } from "../../snapshot/arbitrary.ts";
import { TestContext } from "../testing/context.ts";
import { parsePciAddress, pciSchema } from "./pci.ts";
import { CAP_MSI, CAP_MSIX, COMMAND, MSI, MSIX, REG } from "./pci_config.ts";

const owner = { id: "card0", plugin: "card" };
const other = { id: "card1", plugin: "card" };
const SLOT = 5;
const IO_BASE = 0xc000;
const MEMORY_BASE = 0xc0000000;
const MSIX_BASE = 0xc0010000;
const MSI_ADDRESS = 0xfee00000;

/** A card with an I/O BAR, a memory BAR, a 64-bit BAR, MSI-X in BAR 4, INTA#. */
function card(extra: Partial<PciFunctionConfig> = {}): PciFunctionConfig {
  return {
    vendor: 0x1234,
    device: 0x5678,
    classCode: 0x020000,
    interruptPin: 1,
    address: { slot: SLOT, fn: 0 },
    bars: [
      {
        index: 0,
        kind: "io",
        size: 32,
        handler: { read: (offset) => offset + 1, write: () => {} },
      },
      {
        index: 1,
        kind: "memory",
        size: 0x4000,
        handler: { read: (offset) => offset + 2, write: () => {} },
      },
      {
        index: 2,
        kind: "memory",
        size: 2 ** 33,
        wide: true,
        prefetchable: true,
        handler: { read: (offset) => offset + 3, write: () => {} },
      },
      { index: 4, kind: "memory", size: 0x1000 },
    ],
    msix: { vectors: 4, bar: 4, tableOffset: 0, pbaOffset: 0x800 },
    ...extra,
  };
}

function plugged(extra: Partial<PciFunctionConfig> = {}) {
  const machine = new TestContext();
  const fn = machine.pci.attach(owner, card(extra));
  return {
    machine,
    fn,
    read: (offset: number, size: 1 | 2 | 4 = 4) =>
      machine.configRead(SLOT, 0, offset, size),
    write: (offset: number, value: number, size: 1 | 2 | 4 = 4) =>
      machine.configWrite(SLOT, 0, offset, value, size),
  };
}

/** Where a capability is; 0 if there is none. */
function capability(
  read: (offset: number, size: 1) => number,
  id: number,
): number {
  let at = read(REG.CAPABILITIES_POINTER, 1);
  while (at !== 0 && read(at, 1) !== id) at = read(at + 1, 1);
  return at;
}

Deno.test("the header says what the device declares", () => {
  const { read } = plugged({ revision: 3, subsystem: 9, subsystemVendor: 8 });
  assertEquals(read(REG.VENDOR_ID), 0x56781234);
  assertEquals(read(REG.REVISION_ID), 0x02000003);
  assertEquals(read(REG.SUBSYSTEM_VENDOR_ID), 0x00090008);
  assertEquals(read(REG.INTERRUPT_PIN, 1), 1);
  assertEquals(read(REG.STATUS, 2) & 0x10, 0x10);
});

Deno.test("sizing a BAR reads its size mask and type bits", () => {
  const { read, write } = plugged();
  for (let bar = 0; bar < 6; bar++) write(REG.BAR0 + 4 * bar, 0xffffffff);
  assertEquals(
    [0, 1, 2, 3, 4, 5].map((bar) => read(REG.BAR0 + 4 * bar)),
    [0xffffffe1, 0xffffc000, 0x0000000c, 0xfffffffe, 0xfffff000, 0],
  );
});

Deno.test("BARs answer where the guest puts them, while decoding is on", () => {
  const { machine, write } = plugged();
  write(REG.BAR0, IO_BASE);
  write(REG.BAR0 + 4, MEMORY_BASE);
  assertEquals(machine.in(IO_BASE + 4), 0xff);
  assertEquals(machine.load(MEMORY_BASE), 0xffffffff);
  write(REG.COMMAND, COMMAND.IO, 2);
  assertEquals(machine.in(IO_BASE + 4), 5);
  assertEquals(machine.load(MEMORY_BASE), 0xffffffff);
  write(REG.COMMAND, COMMAND.MEMORY, 2);
  assertEquals(machine.in(IO_BASE + 4), 0xff);
  assertEquals(machine.load(MEMORY_BASE + 8), 10);
});

Deno.test("a BAR that is moved answers in the new place only", () => {
  const { machine, write } = plugged();
  write(REG.COMMAND, COMMAND.IO | COMMAND.MEMORY, 2);
  write(REG.BAR0 + 4, MEMORY_BASE);
  write(REG.BAR0 + 4, MEMORY_BASE + 0x100000);
  assertEquals(machine.load(MEMORY_BASE), 0xffffffff);
  assertEquals(machine.load(MEMORY_BASE + 0x100010), 0x12);
  write(REG.BAR0 + 4, 0xffffffff);
  assertEquals(machine.load(MEMORY_BASE + 0x100010), 0xffffffff);
});

Deno.test("a 64-bit BAR is decoded above 4 GiB", () => {
  const { machine, write } = plugged();
  write(REG.COMMAND, COMMAND.MEMORY, 2);
  write(REG.BAR0 + 8, 0);
  write(REG.BAR0 + 12, 4);
  assertEquals(machine.load(4 * 2 ** 32 + 0x10), 0x13);
});

Deno.test("a BAR never covers a fixed region", () => {
  const { machine, write } = plugged();
  machine.isa.claimMemory(other, 0xfee00000, 0x1000, {
    read: () => 0x77,
    write: () => {},
  });
  write(REG.COMMAND, COMMAND.MEMORY, 2);
  write(REG.BAR0 + 4, 0xfee00000);
  assertEquals(machine.load(0xfee00000), 0x77);
  assertEquals(machine.load(0xfee01000), 0x1002);
});

Deno.test("of BARs at one place the first function's answers, in whatever order they came there", () => {
  const answering = (value: number) => ({
    read: () => value,
    write: () => {},
  });
  const two = () => {
    const machine = new TestContext();
    for (const [slot, owned] of [[SLOT, owner], [SLOT + 1, other]] as const) {
      machine.pci.attach(owned, {
        vendor: 0x1234,
        device: 0x5678,
        classCode: 0x020000,
        address: { slot, fn: 0 },
        bars: [
          { index: 0, kind: "io", size: 32, handler: answering(slot) },
          { index: 1, kind: "memory", size: 4096, handler: answering(slot) },
        ],
      });
    }
    const answers = () => [machine.in(IO_BASE), machine.load(MEMORY_BASE)];
    return { machine, answers };
  };
  for (const order of [[SLOT, SLOT + 1], [SLOT + 1, SLOT]]) {
    const { machine, answers } = two();
    for (const slot of order) {
      machine.configWrite(slot, 0, REG.BAR0, IO_BASE, 4);
      machine.configWrite(slot, 0, REG.BAR0 + 4, MEMORY_BASE, 4);
      machine.configWrite(slot, 0, REG.COMMAND, 0x03, 2);
    }
    assertEquals(answers(), [SLOT, SLOT]);
    const copy = two();
    copy.machine.pci.restore(machine.pci.save());
    assertEquals(copy.answers(), [SLOT, SLOT]);
  }
});

Deno.test("configuration mechanism 1 and ECAM see the same registers", () => {
  fc.assert(fc.property(
    fc.nat(0x3f),
    fc.constantFrom<1 | 2 | 4>(1, 2, 4),
    fc.integer({ min: 0, max: 0xffffffff }),
    (dword, size, value) => {
      const { machine, read } = plugged();
      const offset = dword * 4;
      machine.out(0xcf8, 0x80000000 | (SLOT << 11) | offset, 4);
      machine.out(0xcfc, value, size);
      for (const part of [0, 1, 2, 3]) {
        assertEquals(machine.in(0xcfc + part), read(offset + part, 1));
      }
      assertEquals(machine.in(0xcfc, 4), read(offset));
    },
  ));
});

Deno.test("empty slots, other buses and the extended space read as all ones", () => {
  const { machine, read } = plugged();
  assertEquals(machine.configRead(6, 0, 0), 0xffffffff);
  assertEquals(machine.load(0xe0000000 + (1 << 20) + (SLOT << 15)), 0xffffffff);
  assertEquals(read(0x100), 0xffffffff);
  machine.out(0xcf8, 0x80010000 | (SLOT << 11), 4);
  assertEquals(machine.in(0xcfc, 4), 0xffffffff);
  machine.out(0xcf8, SLOT << 11, 4);
  assertEquals(machine.in(0xcfc, 4), 0xffffffff);
});

Deno.test("INTx pins share PIRQs by slot and pin", () => {
  const { machine, fn } = plugged();
  const sharing = machine.pci.attach(
    other,
    card({ address: { slot: 13, fn: 0 } }),
  );
  fn.setIntx(true);
  sharing.setIntx(true);
  fn.setIntx(false);
  assertEquals(machine.gsiEvents, [[16 + 5, true]]);
  sharing.setIntx(false);
  assertEquals(machine.gsiEvents, [[21, true], [21, false]]);
});

Deno.test("INTx shows in the status register and obeys its disable bit", () => {
  const { machine, fn, read, write } = plugged();
  fn.setIntx(true);
  assertEquals(read(REG.STATUS, 2) & 8, 8);
  write(REG.COMMAND, COMMAND.INTX_DISABLE, 2);
  assertEquals(machine.interrupts.gsiLevel(21), false);
  assertEquals(read(REG.STATUS, 2) & 8, 8);
  write(REG.COMMAND, 0, 2);
  assertEquals(machine.interrupts.gsiLevel(21), true);
});

/** Enables MSI-X with entry `i` sending vector 0x40 + i, unmasked. */
function enableMsix({ machine, read, write }: ReturnType<typeof plugged>) {
  const at = capability(read, 0x11);
  write(REG.COMMAND, COMMAND.MEMORY, 2);
  write(REG.BAR0 + 16, MSIX_BASE);
  for (let i = 0; i < 4; i++) {
    machine.store(MSIX_BASE + 16 * i, MSI_ADDRESS);
    machine.store(MSIX_BASE + 16 * i + 8, 0x40 + i);
    machine.store(MSIX_BASE + 16 * i + 12, 0);
  }
  write(at + MSIX.CONTROL, 0x8000, 2);
  return at;
}

Deno.test("MSI-X entries start masked and their capability says where they are", () => {
  const context = plugged();
  const { machine, read, write } = context;
  const at = capability(read, 0x11);
  assertEquals(read(at + MSIX.CONTROL, 2), 3);
  assertEquals(read(at + MSIX.TABLE), 4);
  assertEquals(read(at + MSIX.PBA), 0x804);
  write(REG.COMMAND, COMMAND.MEMORY, 2);
  write(REG.BAR0 + 16, MSIX_BASE);
  assertEquals(machine.load(MSIX_BASE + 12), 1);
});

Deno.test("MSI-X sends the entry's message and keeps INTx quiet", () => {
  const context = plugged();
  enableMsix(context);
  const { machine, fn } = context;
  fn.setIntx(true);
  fn.signal(2);
  assertEquals(machine.messages.map((m) => m.vector), [0x42]);
  assertEquals(machine.gsiEvents, []);
  assert(fn.msixEnabled);
});

Deno.test("a masked MSI-X vector is pending until it is unmasked", () => {
  const context = plugged();
  enableMsix(context);
  const { machine, fn } = context;
  machine.store(MSIX_BASE + 16 + 12, 1);
  fn.signal(1);
  fn.signal(1);
  assertEquals(machine.messages, []);
  assertEquals(machine.load(MSIX_BASE + 0x800), 2);
  machine.store(MSIX_BASE + 0x800, 0);
  assertEquals(machine.load(MSIX_BASE + 0x800), 2);
  machine.store(MSIX_BASE + 16 + 12, 0);
  assertEquals(machine.messages.map((m) => m.vector), [0x41]);
  assertEquals(machine.load(MSIX_BASE + 0x800), 0);
});

Deno.test("the MSI-X function mask holds back every vector", () => {
  const context = plugged();
  const at = enableMsix(context);
  const { machine, fn, write } = context;
  write(at + MSIX.CONTROL, 0xc000, 2);
  fn.signal(0);
  fn.signal(3);
  assertEquals(machine.messages, []);
  write(at + MSIX.CONTROL, 0x8000, 2);
  assertEquals(machine.messages.map((m) => m.vector), [0x40, 0x43]);
});

Deno.test("MSI sends one of the vectors that the guest granted", () => {
  const context = plugged({ msix: undefined, msi: 4 });
  const { machine, fn, read, write } = context;
  const at = capability(read, 0x05);
  assertEquals(read(at + MSI.CONTROL, 2), 0x184);
  fn.signal(1);
  assertEquals(machine.messages, []);
  write(at + MSI.ADDRESS, MSI_ADDRESS);
  write(at + MSI.DATA, 0x50, 2);
  write(at + MSI.CONTROL, 0x21, 2);
  for (const vector of [0, 1, 3]) fn.signal(vector);
  write(at + MSI.CONTROL, 0x01, 2);
  fn.signal(3);
  assertEquals(machine.messages.map((m) => m.vector), [0x50, 0x51, 0x53, 0x50]);
});

Deno.test("a masked MSI vector is pending until it is unmasked", () => {
  const { machine, fn, read, write } = plugged({ msix: undefined, msi: 2 });
  const at = capability(read, 0x05);
  write(at + MSI.ADDRESS, MSI_ADDRESS);
  write(at + MSI.DATA, 0x50, 2);
  write(at + MSI.CONTROL, 0x11, 2);
  write(at + MSI.MASK, 2);
  fn.signal(1);
  assertEquals([machine.messages.length, read(at + MSI.PENDING)], [0, 2]);
  write(at + MSI.MASK, 0);
  assertEquals(machine.messages.map((m) => m.vector), [0x51]);
  assertEquals(read(at + MSI.PENDING), 0);
});

Deno.test("a message that is no interrupt is written to memory", () => {
  const context = plugged();
  enableMsix(context);
  context.machine.store(MSIX_BASE, 0x2000);
  context.fn.signal(0);
  assertEquals(context.machine.memory.readU32(0x2000), 0x40);
});

Deno.test("capabilities and device registers do not overlap, and only writable bits change", () => {
  const written: [number, number][] = [];
  const { read, write } = plugged({
    capabilities: [{
      id: 9,
      body: Uint8Array.of(6, 1, 2, 3),
      writable: Uint8Array.of(0, 0, 0xf0, 0),
    }],
    registers: {
      initial: [{ offset: 0x40, bytes: Uint8Array.of(1, 2, 3, 4) }],
      writable: [{ offset: 0x60, mask: Uint8Array.of(0x0f) }],
      onWrite: (offset, size) => written.push([offset, size]),
    },
  });
  const at = capability(read, 9);
  assertEquals(read(0x40), 0x04030201);
  write(0x40, 0xffffffff);
  write(0x60, 0xff, 1);
  write(at, 0xffffffff);
  write(at + 4, 0xff, 1);
  assertEquals(read(0x40), 0x04030201);
  assertEquals(read(0x60, 1), 0x0f);
  assertEquals(read(at + 2, 4), 0x03f20106);
  assertEquals(written, [[0x60, 1], [at + 4, 1]]);
});

Deno.test("onRead lets the device put the value there", () => {
  const machine = new TestContext();
  let reads = 0;
  const fn = machine.pci.attach(
    owner,
    card({
      registers: { onRead: (offset) => fn.writeConfig(offset, 1, ++reads) },
    }),
  );
  assertEquals(machine.configRead(SLOT, 0, 0xf0, 1), 1);
  assertEquals(machine.configRead(SLOT, 0, 0xf0, 1), 2);
  assertEquals(fn.readConfig(0xf0, 1), 2);
});

Deno.test("Pci.attach finds free slots, marks shared ones, and refuses taken ones", () => {
  const machine = new TestContext();
  const free = card({ address: undefined });
  assertEquals(machine.pci.attach(owner, free).slot, 1);
  assertEquals(machine.pci.attach(owner, free).slot, 2);
  machine.pci.attach(other, card({ address: { slot: 2, fn: 1 } }));
  assertEquals(machine.configRead(2, 0, REG.HEADER_TYPE, 1), 0x80);
  assertEquals(machine.configRead(2, 1, REG.HEADER_TYPE, 1), 0x80);
  assertThrows(
    () => machine.pci.attach(other, card({ address: { slot: 1, fn: 0 } })),
    MachineError,
    'device "card1": PCI address 1.0 is taken by device "card0"',
  );
  for (let i = 0; i < 29; i++) machine.pci.attach(owner, free);
  assertThrows(
    () => machine.pci.attach(owner, free),
    MachineError,
    "no free slot",
  );
});

Deno.test("Pci.attach refuses declarations that cannot be", () => {
  const refused = (extra: Partial<PciFunctionConfig>, message: string) => {
    const machine = new TestContext();
    assertThrows(
      () => machine.pci.attach(owner, card(extra)),
      MachineError,
      message,
    );
  };
  refused({ bars: [{ index: 0, kind: "memory", size: 5000 }] }, "power of two");
  refused({ bars: [{ index: 0, kind: "io", size: 512 }] }, "4 to 256 bytes");
  refused(
    { bars: [{ index: 5, kind: "memory", size: 4096, wide: true }] },
    "an index from 0 to 5",
  );
  refused(
    { msix: { vectors: 4, bar: 0, tableOffset: 0, pbaOffset: 0x800 } },
    "inside a memory BAR",
  );
  refused({ msi: 3 }, "a power of two up to 32");
});

Deno.test("parsePciAddress takes SLOT and SLOT.FN", () => {
  assertEquals(parsePciAddress("5", "x"), { slot: 5, fn: 0 });
  assertEquals(parsePciAddress("0x1f.2", "x"), { slot: 31, fn: 2 });
  assertThrows(() => parsePciAddress("32", "x"), MachineError);
  assertThrows(() => parsePciAddress("1.8", "x"), MachineError);
});

Deno.test("Pci.assignResources gives every BAR its own aligned place", () => {
  const machine = new TestContext();
  const bars = card().bars!.filter((bar) => bar.size <= 0x10000);
  for (let i = 0; i < 3; i++) {
    machine.pci.attach(owner, card({ address: undefined, bars }));
  }
  machine.pci.assignResources(
    { base: 0xc000, length: 0x1000 },
    { base: 0xc0000000, length: 0x1000000 },
  );
  const places: [number, number][] = [];
  for (const fn of machine.pci.functions) {
    for (const bar of fn.bars) {
      const address = fn.decoded(bar);
      assert(address !== undefined && address % bar.size === 0);
      places.push([address, address + bar.size]);
    }
  }
  places.sort((a, b) => a[0] - b[0]);
  for (let i = 1; i < places.length; i++) {
    assert(places[i - 1][1] <= places[i][0]);
  }
});

Deno.test("Pci.reset brings back the first state", () => {
  const context = plugged();
  const before = context.machine.pci.save();
  enableMsix(context);
  context.fn.setIntx(true);
  context.machine.out(0xcf8, 0x80001234, 4);
  context.machine.pci.reset();
  assertEquals(context.machine.pci.save(), before);
  assertEquals(context.machine.load(MSIX_BASE), 0xffffffff);
});

Deno.test("Pci restores config space, mapped BARs, INTx, MSI-X pending bits and the latch", () => {
  const first = plugged();
  enableMsix(first);
  first.machine.store(MSIX_BASE + 12, 1);
  first.fn.signal(0);
  first.machine.out(0xcf8, 0x80002804, 4);
  const state = pciSchema.validate(first.machine.pci.save());

  const second = plugged();
  second.machine.interrupts.quietly(() => second.machine.pci.restore(state));
  assertEquals(second.machine.pci.save(), state);
  assertEquals(second.machine.in(0xcf8, 4), 0x80002804);
  assertEquals(second.machine.load(MSIX_BASE + 0x800), 1);
  assertEquals(second.machine.messages, []);
  second.machine.store(MSIX_BASE + 12, 0);
  assertEquals(second.machine.messages.map((m) => m.vector), [0x40]);
});

Deno.test("Pci restores an asserted INTx pin without an edge, and drops it with one", () => {
  const first = plugged();
  first.fn.setIntx(true);
  const second = plugged();
  second.machine.interrupts.quietly(() =>
    second.machine.pci.restore(first.machine.pci.save())
  );
  assertEquals(second.machine.gsiEvents, []);
  assertEquals(second.machine.interrupts.gsiLevel(21), true);
  second.fn.setIntx(false);
  assertEquals(second.machine.gsiEvents, [[21, false]]);
});

Deno.test("Pci refuses states that no guest could have made, and changes nothing", () => {
  const { machine } = plugged();
  const before = machine.pci.save();
  const refused = (
    change: (state: typeof before) => void,
    message: string,
  ) => {
    const state = machine.pci.save();
    change(state);
    assertThrows(() => machine.pci.restore(state), SchemaError, message);
    assertEquals(machine.pci.save(), before);
  };
  refused((s) => s.functions[0].config[0] ^= 1, "pci.functions[0].config[0x0]");
  refused((s) => s.functions[0].config[REG.BAR0] |= 2, "config[0x10]");
  refused((s) => s.functions[0].slot = 6, 'expected "card0" at 5.0');
  refused((s) => s.functions[0].msixTable[13] = 1, "reserved bits");
  refused((s) => s.functions[0].msixPending[0] = 0x10, "vector 4 pending");
  refused((s) => s.configAddress = 1, "reserved bits clear");
  refused((s) => s.functions.pop(), "has 0 functions");
});

Deno.test("Pci refuses what no guest can write of MSI and MSI-X, and takes pending bits", () => {
  for (
    const [extra, id, fixed, pending] of [
      [{}, CAP_MSIX, [0, 1, 2, 4, 8], undefined],
      [{ msix: undefined, msi: 4 }, CAP_MSI, [0, 1, 3, 14, 17, 21], 20],
    ] as const
  ) {
    const { machine, read } = plugged(extra);
    const at = capability(read, id);
    for (const offset of fixed) {
      const state = machine.pci.save();
      state.functions[0].config[at + offset] ^= offset === 2 ? 1 : 8;
      assertThrows(
        () => machine.pci.restore(state),
        SchemaError,
        `pci.functions[0].config[0x${(at + offset).toString(16)}]`,
      );
    }
    if (pending === undefined) continue;
    const state = machine.pci.save();
    state.functions[0].config[at + pending] = 0xf;
    machine.pci.restore(state);
    state.functions[0].config[at + pending] = 0x10;
    assertThrows(() => machine.pci.restore(state), SchemaError, "config[");
  }
});

Deno.test("Pci refuses a list of capabilities that is another", () => {
  const { machine, read } = plugged({
    capabilities: [{ id: 9, body: new Uint8Array(6) }],
  });
  const at = capability(read, 9);
  for (const offset of [0, 1]) {
    const state = machine.pci.save();
    state.functions[0].config[at + offset] ^= 0x20;
    assertThrows(() => machine.pci.restore(state), SchemaError, "config[");
  }
  const state = machine.pci.save();
  state.functions[0].config[at + 2] ^= 0x20;
  machine.pci.restore(state);
});

Deno.test("the PCI schema accepts its arbitrary values", () => {
  fc.assert(
    fc.property(arbitrary(pciSchema), (state) => {
      assertEquals(pciSchema.validate(state), state);
    }),
    { numRuns: 10 },
  );
});
