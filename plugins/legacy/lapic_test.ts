import { assertEquals, assertThrows } from "@std/assert";
import {
  createTestContext,
  type TestContext,
} from "../../core/testing/context.ts";
import { MsrFault } from "../../core/plugin.ts";
import lapic from "./lapic.ts";
import { testRoundTrip } from "../../tests/golden.ts";

const PAGE = 0xfee0_0000;
const ID = PAGE + 0x20, VERSION = PAGE + 0x30, TPR = PAGE + 0x80;
const PPR = PAGE + 0xa0, EOI = PAGE + 0xb0, LDR = PAGE + 0xd0;
const DFR = PAGE + 0xe0, SVR = PAGE + 0xf0, ESR = PAGE + 0x280;
const ICR_LOW = PAGE + 0x300, ICR_HIGH = PAGE + 0x310;
const LVT_TIMER = PAGE + 0x320, LVT_LINT0 = PAGE + 0x350;
const LVT_ERROR = PAGE + 0x370;
const INITIAL = PAGE + 0x380, CURRENT = PAGE + 0x390, DIVIDE = PAGE + 0x3e0;
const APIC_BASE = 0x1b, TSC_DEADLINE = 0x6e0;
const NONE = -1;

function make() {
  const device = createTestContext(lapic, { recordMessages: false });
  const { machine } = device;
  const take = () =>
    machine.interrupts.pending(0) ? machine.interrupts.acknowledge(0) : NONE;
  const send = (vector: number, level = false, deliveryMode = 0) =>
    machine.interrupts.deliver({
      destination: 0,
      destinationMode: 0,
      deliveryMode,
      vector,
      level,
    });
  const enable = () => machine.store(SVR, 0x1ff);
  return { ...device, take, send, enable, cpu: machine.cpus[0] };
}

Deno.test("lapic is software-disabled, in virtual wire mode, after reset", () => {
  const { machine, take, send, cpu } = make();
  assertEquals(cpu.readMsr(APIC_BASE), 0xfee00900n);
  assertEquals(machine.load(ID), 0);
  assertEquals(machine.load(VERSION), 0x0005_0014);
  assertEquals(machine.load(SVR), 0xff);
  assertEquals(machine.load(LVT_TIMER), 0x1_0000);
  assertEquals(machine.load(LVT_LINT0), 0x700);
  assertEquals(machine.load(DFR), 0xffff_ffff);
  send(0x40);
  assertEquals(take(), NONE);
  machine.interrupts.pic = { acknowledge: () => 0x20 };
  machine.interrupts.setPicOutput(true);
  assertEquals(take(), 0x20);
  machine.interrupts.setPicOutput(false);
  assertEquals(take(), NONE);
});

Deno.test("lapic delivers by priority, within the task priority", () => {
  const { machine, take, send, enable } = make();
  enable();
  send(0x35);
  send(0x52);
  send(0x31);
  assertEquals(take(), 0x52);
  assertEquals(machine.load(PPR), 0x50);
  assertEquals(take(), NONE);
  send(0x61);
  assertEquals(take(), 0x61);
  machine.store(EOI, 0);
  machine.store(EOI, 0);
  machine.store(TPR, 0x30);
  assertEquals(take(), NONE);
  machine.interrupts.localApic(0)!.taskPriority = 2;
  assertEquals(machine.load(TPR), 0x20);
  assertEquals(take(), 0x35);
  machine.store(EOI, 0);
  assertEquals(take(), 0x31);
  assertEquals(machine.load(PAGE + 0x110), 1 << 17);
});

Deno.test("lapic broadcasts the EOI of level-triggered vectors", () => {
  const { machine, take, send, enable } = make();
  const ends: number[] = [];
  machine.interrupts.onEoi((vector) => ends.push(vector));
  enable();
  send(0x41, true);
  send(0x42, false);
  assertEquals([take(), take()], [0x42, NONE]);
  machine.store(EOI, 0);
  assertEquals(take(), 0x41);
  assertEquals(machine.load(PAGE + 0x1a0), 2);
  machine.store(EOI, 0);
  assertEquals(ends, [0x41]);
});

Deno.test("lapic counts down once, from the divided clock", () => {
  const { machine, take, enable } = make();
  enable();
  machine.store(LVT_TIMER, 0xef);
  machine.store(DIVIDE, 0x3);
  machine.store(INITIAL, 1000);
  assertEquals(machine.load(CURRENT), 1000);
  machine.advance(16 * 400);
  assertEquals(machine.load(CURRENT), 600);
  machine.advance(16 * 600 - 1);
  assertEquals(take(), NONE);
  machine.advance(1);
  assertEquals(take(), 0xef);
  assertEquals(machine.load(CURRENT), 0);
  machine.advance(1e6);
  assertEquals(take(), NONE);
});

Deno.test("lapic counts periodically, and only interrupts unmasked", () => {
  const { machine, take, enable } = make();
  enable();
  machine.store(DIVIDE, 0xb);
  machine.store(LVT_TIMER, 0x2_00ef);
  machine.store(INITIAL, 1000);
  let count = 0;
  for (let i = 0; i < 5; i++) {
    machine.advance(1000);
    if (take() === 0xef) count++;
    machine.store(EOI, 0);
  }
  assertEquals(count, 5);
  machine.advance(300);
  assertEquals(machine.load(CURRENT), 700);
  machine.store(LVT_TIMER, 0x3_00ef);
  machine.advance(5000);
  assertEquals(take(), NONE);
  assertEquals(machine.load(CURRENT), 700);
  machine.store(INITIAL, 0);
  assertEquals(machine.load(CURRENT), 0);
});

Deno.test("lapic fires at the TSC deadline", () => {
  const { machine, take, enable, cpu } = make();
  enable();
  cpu.writeMsr(TSC_DEADLINE, 500n);
  assertEquals(cpu.readMsr(TSC_DEADLINE), 0n);
  machine.store(LVT_TIMER, 0x4_00ee);
  cpu.writeMsr(TSC_DEADLINE, 500n);
  machine.advance(499);
  assertEquals(take(), NONE);
  assertEquals(cpu.readMsr(TSC_DEADLINE), 500n);
  machine.advance(1);
  assertEquals(take(), 0xee);
  assertEquals(cpu.readMsr(TSC_DEADLINE), 0n);
  machine.store(EOI, 0);
  // One in the past fires at once, one of zero never.
  cpu.writeMsr(TSC_DEADLINE, 1n);
  assertEquals(take(), 0xee);
  machine.store(EOI, 0);
  cpu.writeMsr(TSC_DEADLINE, 1n << 63n);
  cpu.writeMsr(TSC_DEADLINE, 0n);
  machine.advance(1e9);
  assertEquals(take(), NONE);
});

Deno.test("lapic matches physical, flat and cluster destinations", () => {
  const { machine } = make();
  const apic = machine.interrupts.localApic(0)!;
  const matches = (destination: number, destinationMode: 0 | 1) =>
    apic.matches({
      destination,
      destinationMode,
      deliveryMode: 0,
      vector: 0x40,
      level: false,
    });
  assertEquals([0, 1, 0xff].map((d) => matches(d, 0)), [true, false, true]);
  machine.store(LDR, 0x0200_0000);
  assertEquals([2, 3, 4, 0xff].map((d) => matches(d, 1)), [
    true,
    true,
    false,
    true,
  ]);
  machine.store(DFR, 0x0fff_ffff);
  machine.store(LDR, 0x3200_0000);
  assertEquals([0x32, 0x3f, 0x31, 0x22, 0xff].map((d) => matches(d, 1)), [
    true,
    true,
    false,
    false,
    true,
  ]);
});

Deno.test("lapic sends interrupts to itself and by destination", () => {
  const { machine, take, enable, cpu } = make();
  enable();
  machine.store(ICR_LOW, 0x4_0050);
  assertEquals(take(), 0x50);
  machine.store(ICR_HIGH, 0);
  machine.store(ICR_LOW, 0x4051);
  machine.store(ICR_LOW, 0xc_4052);
  machine.store(EOI, 0);
  assertEquals(take(), 0x51);
  assertEquals(machine.load(ICR_LOW), 0xc_4052);
  machine.store(ICR_LOW, 0x4400);
  machine.store(ICR_LOW, 0x4608);
  assertEquals(cpu.calls.filter((c) => c !== "interrupt"), [
    "nmi",
    "startup 8",
  ]);
  machine.store(ICR_LOW, 0x4500);
  assertEquals(cpu.calls.at(-1), "init");
  assertEquals(machine.load(SVR), 0xff);
});

Deno.test("lapic notes illegal vectors in ESR and interrupts", () => {
  const { machine, take, enable, send } = make();
  enable();
  machine.store(LVT_ERROR, 0xfe);
  machine.store(ICR_LOW, 0x4005);
  assertEquals(take(), 0xfe);
  assertEquals(machine.load(ESR), 0);
  machine.store(ESR, 0);
  assertEquals(machine.load(ESR), 0x20);
  send(3);
  machine.store(ESR, 0);
  assertEquals(machine.load(ESR), 0x40);
  machine.store(ESR, 0);
  assertEquals(machine.load(ESR), 0);
});

Deno.test("lapic software disable masks the local vector table", () => {
  const { machine, enable } = make();
  machine.store(LVT_TIMER, 0x40);
  assertEquals(machine.load(LVT_TIMER), 0x1_0040);
  enable();
  machine.store(LVT_TIMER, 0x40);
  assertEquals(machine.load(LVT_TIMER), 0x40);
  machine.store(SVR, 0xff);
  assertEquals(machine.load(LVT_TIMER), 0x1_0040);
});

Deno.test("lapic takes LINT0 as a fixed interrupt", () => {
  const { machine, take, enable } = make();
  enable();
  machine.store(LVT_LINT0, 0x66);
  machine.interrupts.setPicOutput(true);
  assertEquals(take(), 0x66);
  machine.store(EOI, 0);
  assertEquals(take(), NONE);
  machine.interrupts.setPicOutput(false);
  machine.store(LVT_LINT0, 0x8066);
  machine.interrupts.setPicOutput(true);
  assertEquals(take(), 0x66);
  assertEquals(machine.load(LVT_LINT0), 0xc066);
  machine.store(EOI, 0);
  assertEquals(take(), 0x66);
});

Deno.test("lapic takes ExtINT by message", () => {
  const { machine, take, enable, send } = make();
  enable();
  machine.store(LVT_LINT0, 0x1_0700);
  machine.interrupts.pic = { acknowledge: () => 0x33 };
  send(0, false, 7);
  assertEquals(take(), 0x33);
  assertEquals(take(), NONE);
});

Deno.test("lapic has its registers in MSRs in x2APIC mode", () => {
  const { machine, take, cpu } = make();
  assertThrows(() => cpu.readMsr(0x802), MsrFault);
  cpu.writeMsr(APIC_BASE, 0xfee00d00n);
  assertEquals(machine.load(VERSION), 0xffff_ffff);
  assertEquals(cpu.readMsr(0x802), 0n);
  assertEquals(cpu.readMsr(0x80d), 1n);
  cpu.writeMsr(0x80f, 0x1ffn);
  cpu.writeMsr(0x83f, 0x77n);
  assertEquals(take(), 0x77);
  cpu.writeMsr(0x80b, 0n);
  cpu.writeMsr(0x830, 0x4078n);
  assertEquals(take(), 0x78);
  assertEquals(cpu.readMsr(0x830), 0x4078n);
  for (
    const [msr, value] of [
      [0x802, 0n],
      [0x803, 0n],
      [0x808, 0x100n],
      [0x80b, 1n],
      [0x80e, 0n],
      [0x80f, 0x1_0000n],
      [0x828, 1n],
      [0x831, 0n],
      [0x832, 0x1000n],
      [0x839, 0n],
      [0x83e, 4n],
      [APIC_BASE, 0xfee00900n],
      [APIC_BASE, 0xfee00500n],
      [APIC_BASE, 0xfed00d00n],
    ] as const
  ) {
    assertThrows(
      () => cpu.writeMsr(msr, value),
      MsrFault,
      undefined,
      `${msr.toString(16)}`,
    );
  }
  for (const msr of [0x80b, 0x80e, 0x831, 0x83f, 0x804]) {
    assertThrows(() => cpu.readMsr(msr), MsrFault);
  }
  cpu.writeMsr(APIC_BASE, 0xfee00000n);
  assertThrows(() => cpu.writeMsr(APIC_BASE, 0xfee00c00n), MsrFault);
  cpu.writeMsr(APIC_BASE, 0xfee00800n);
  assertEquals(machine.load(SVR), 0xff);
});

Deno.test("lapic restores what it saved, and its timer goes on", () => {
  const { machine, save, enable, send } = make();
  enable();
  send(0x41, true);
  machine.interrupts.acknowledge(0);
  send(0x44);
  machine.store(LVT_TIMER, 0x2_00ef);
  machine.store(DIVIDE, 0xb);
  machine.store(INITIAL, 1000);
  machine.advance(2_300);
  const state = save();
  const other = make();
  other.machine.clock.advance(machine.clock.now());
  other.restore(state);
  assertEquals(other.save(), state);
  assertEquals(other.machine.load(CURRENT), 700);
  other.machine.advance(700);
  assertEquals(other.take(), 0xef);
  other.machine.advance(1000);
  assertEquals(other.machine.load(CURRENT), 1000);
});

Deno.test("lapic refuses states that it cannot be in", () => {
  const { save, restore } = make();
  const state = save();
  const broken = (change: Record<string, unknown>) => () =>
    restore({ apics: [{ ...state.apics[0], ...change }] });
  assertThrows(() => restore({ apics: [] }), Error, "apics");
  assertThrows(broken({ base: 0xfee00500n }), Error, "apics.0.base");
  assertThrows(broken({ svr: 0x400 }), Error, "apics.0.svr");
  assertThrows(broken({ dfr: 0 }), Error, "apics.0.dfr");
  assertThrows(
    broken({ irr: [1, 0, 0, 0, 0, 0, 0, 0] }),
    Error,
    "apics.0.irr.0",
  );
  assertThrows(broken({ tscDeadline: 5n }), Error, "apics.0.tscDeadline");
  const { lvt } = state.apics[0];
  assertThrows(broken({ lvt: lvt.with(0, 0x50) }), Error, "apics.0.lvt.0");
  assertThrows(broken({ timer: { remaining: 1 } }), Error, "apics.0.timer");
  const counting = { initialCount: 10, divide: 0 };
  assertThrows(
    broken({ ...counting, timer: { remaining: 21 } }),
    Error,
    "apics.0.timer",
  );
  broken({ ...counting, timer: { remaining: 20 } })();
});

/** Sends an interrupt message. */
function message(
  machine: TestContext,
  vector: number,
  level = false,
  deliveryMode = 0,
): void {
  machine.interrupts.deliver({
    destination: 0,
    destinationMode: 0,
    deliveryMode,
    vector,
    level,
  });
}

testRoundTrip(lapic, {
  make: () => ({ recordMessages: false }),
  steps: [
    (machine) => machine.store(SVR, 0x1ff),
    (machine) => machine.store(LVT_LINT0, 0x8041),
    (machine) => machine.interrupts.setPicOutput(true),
    // A one-shot, its divisor changed on the way.
    (machine) => machine.store(DIVIDE, 0x03),
    (machine) => machine.store(LVT_TIMER, 0x50),
    (machine) => machine.store(INITIAL, 1000),
    (machine) => machine.advance(7_001),
    (machine) => machine.load(CURRENT),
    (machine) => machine.store(DIVIDE, 0x00),
    (machine) => machine.advance(1_200),
    // Interrupts in service, waiting, and held back by the task priority.
    (machine) => machine.interrupts.acknowledge(0),
    (machine) => message(machine, 0x61, true),
    (machine) => machine.interrupts.acknowledge(0),
    (machine) => [message(machine, 0x52), message(machine, 0x73)],
    (machine) => machine.store(TPR, 0x80),
    (machine) => [machine.load(PPR), machine.interrupts.pending(0)],
    (machine) => machine.store(EOI, 0),
    (machine) => machine.store(TPR, 0x20),
    (machine) => machine.interrupts.acknowledge(0),
    (machine) => [machine.store(EOI, 0), machine.store(EOI, 0)],
    // Periodic, saved within a period.
    (machine) => machine.store(LVT_TIMER, 0x2_0055),
    (machine) => machine.store(INITIAL, 40_000),
    (machine) => machine.advance(130_000),
    (machine) => [machine.load(CURRENT), machine.interrupts.pending(0)],
    (machine) => machine.interrupts.acknowledge(0),
    // An error, an IPI to itself, half of an ICR.
    (machine) => machine.store(LVT_ERROR, 0xfe),
    (machine) => machine.store(ICR_HIGH, 0x0100_0000),
    (machine) => machine.store(ICR_LOW, 0x4_0005),
    (machine) => machine.store(ICR_LOW, 0x4_0077),
    (machine) => [machine.store(ESR, 0), machine.load(ESR)],
    // TSC deadline.
    (machine) => machine.store(LVT_TIMER, 0x4_0056),
    (machine) =>
      machine.cpus[0].writeMsr(
        TSC_DEADLINE,
        BigInt(machine.clock.now() + 90_000),
      ),
    (machine) => machine.advance(89_999),
    (machine) => machine.advance(1),
    (machine) => machine.cpus[0].readMsr(TSC_DEADLINE),
    (machine) => [machine.store(LDR, 0x0200_0000), machine.load(DFR)],
    // An ExtINT and a start-up message; then x2APIC mode.
    (machine) => message(machine, 0, false, 7),
    (machine) => message(machine, 9, false, 6),
    (machine) => machine.cpus[0].writeMsr(APIC_BASE, 0xfee00d00n),
    (machine) => machine.cpus[0].writeMsr(0x83f, 0x88n),
    (machine) => machine.cpus[0].readMsr(0x80d),
    (machine) => machine.interrupts.acknowledge(0),
    (machine) => machine.cpus[0].readMsr(0x80a),
  ],
}, import.meta.url);
