import { assertEquals, assertThrows } from "@std/assert";
import { MachineError } from "../plugin.ts";
import type { PluginError } from "../fault.ts";
import { TestContext } from "../testing/context.ts";

const one = { id: "one", plugin: "test" };
const two = { id: "two", plugin: "test" };

/** A handler that records its accesses and answers with its tag in every byte. */
function recorder(tag: number) {
  const calls: string[] = [];
  return {
    calls,
    handler: {
      read(address: number, size: number) {
        calls.push(`r${size} ${address.toString(16)}`);
        return tag * 0x01010101;
      },
      write(address: number, size: number, value: number) {
        calls.push(`w${size} ${address.toString(16)}=${value.toString(16)}`);
      },
    },
  };
}

Deno.test("unclaimed ports read as all ones and lose writes", () => {
  const machine = new TestContext();
  machine.out(0x80, 1);
  assertEquals(machine.in(0x80), 0xff);
  assertEquals(machine.in(0x80, 2), 0xffff);
  assertEquals(machine.in(0x80, 4), 0xffffffff);
});

Deno.test("an access inside one claim reaches its handler whole and narrowed", () => {
  const machine = new TestContext();
  const { calls, handler } = recorder(0x5a);
  machine.isa.claimPorts(one, 0x300, 4, handler);
  assertEquals(machine.in(0x300, 4), 0x5a5a5a5a);
  assertEquals(machine.in(0x302, 2), 0x5a5a);
  machine.out(0x303, 0x1ff);
  assertEquals(calls, ["r4 300", "r2 302", "w1 303=ff"]);
});

Deno.test("an access across claims is split into bytes, low first", () => {
  const machine = new TestContext();
  const first = recorder(0x11);
  const second = recorder(0x22);
  machine.isa.claimPorts(one, 0x300, 1, first.handler);
  machine.isa.claimPorts(two, 0x302, 1, second.handler);
  assertEquals(machine.in(0x300, 4), 0xff22ff11);
  machine.out(0x300, 0xddccbbaa, 4);
  assertEquals(first.calls, ["r1 300", "w1 300=aa"]);
  assertEquals(second.calls, ["r1 302", "w1 302=cc"]);
});

Deno.test("claimPorts refuses ports of another device and names it", () => {
  const machine = new TestContext();
  const { handler } = recorder(0);
  const claim = machine.isa.claimPorts(one, 0x3f8, 8, handler);
  assertThrows(
    () => machine.isa.claimPorts(two, 0x3ff, 2, handler),
    MachineError,
    'device "two" claims ports 0x3ff to 0x400, but 0x3ff belongs to device "one" (0x3f8 to 0x3ff)',
  );
  claim.release();
  machine.isa.claimPorts(two, 0x3f8, 8, handler);
  claim.release();
  assertEquals(machine.in(0x3f8), 0);
  assertThrows(
    () => machine.isa.claimPorts(one, 0xffff, 2, handler),
    MachineError,
  );
});

Deno.test("a register claim answers only its own width", () => {
  const machine = new TestContext();
  const reset = recorder(0x33);
  machine.isa.claimPorts(one, 0xcf9, 1, reset.handler);
  machine.out(0xcf8, 0x80000000, 4);
  assertEquals(reset.calls, []);
  assertEquals(machine.in(0xcf8, 4), 0x80000000);
  assertEquals(machine.in(0xcf8), 0xff);
  assertEquals(machine.in(0xcf9), 0x33);
});

Deno.test("overlaid ports lie under fixed claims and give offsets", () => {
  const machine = new TestContext();
  const fixed = recorder(0x11);
  const overlay = recorder(0x22);
  const claim = machine.isa.overlayPorts(two, 0x300, 16, overlay.handler, 0);
  machine.isa.claimPorts(one, 0x304, 4, fixed.handler);
  assertEquals(machine.in(0x304), 0x11);
  assertEquals(machine.in(0x308, 4), 0x22222222);
  assertEquals(overlay.calls, ["r4 8"]);
  claim.release();
  assertEquals(machine.in(0x308), 0xff);
});

Deno.test("claimMemory maps a region and refuses overlap and part pages", () => {
  const machine = new TestContext();
  const { calls, handler } = recorder(0x44);
  const claim = machine.isa.claimMemory(one, 0xfed00000, 0x1000, handler);
  assertEquals(machine.load(0xfed00010), 0x44444444);
  assertEquals(calls, ["r4 10"]);
  assertThrows(
    () => machine.isa.claimMemory(two, 0xfed00000, 0x1000, handler),
    MachineError,
    'belongs to device "one"',
  );
  assertThrows(
    () => machine.isa.claimMemory(two, 0xfed01010, 0x1000, handler),
    MachineError,
    "whole pages",
  );
  claim.release();
  assertEquals(machine.load(0xfed00010), 0xffffffff);
});

Deno.test("a handler that throws reads as all ones and is reported with its address", () => {
  const machine = new TestContext({ keepFaults: true });
  const handler = {
    read(): number {
      throw new RangeError("bad read");
    },
    write() {
      throw new RangeError("bad write");
    },
  };
  machine.isa.claimPorts(one, 0x300, 1, handler);
  machine.isa.claimMemory(one, 0xfed00000, 0x1000, handler);
  assertEquals(machine.in(0x300), 0xff);
  machine.store(0xfed00020, 1);
  assertEquals(
    machine.faults.map((f: PluginError) => [f.operation, f.address]),
    [
      ["port read", 0x300],
      ["mmio write", 0xfed00020],
    ],
  );
});

Deno.test("traces have a line for each access", () => {
  const lines: string[] = [];
  const sink = (line: string) => void lines.push(line);
  const machine = new TestContext({ trace: { ports: sink, mmio: sink } });
  const { handler } = recorder(0x11);
  machine.isa.claimPorts(one, 0x300, 1, handler);
  machine.isa.claimMemory(one, 0xfed00000, 0x1000, handler);
  machine.out(0x300, 5);
  machine.in(0x400);
  machine.load(0xfed00004);
  assertEquals(lines, [
    "port w1 0x300 = 0x5 one",
    "port r1 0x400 = 0xff -",
    "mmio r4 0xfed00004 = 0x11111111 one",
  ]);
});
