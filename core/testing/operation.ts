/**
 * What a guest, a host and time can do to a device under test, as data: it can be generated, made
 * shorter when it fails, and printed.
 *
 * @module
 */
import { hex } from "../fault.ts";
import { type AccessSize, type ApicMessage, MsrFault } from "../plugin.ts";
import type { TestContext } from "./context.ts";

/** One operation. */
export type Operation =
  | { do: "in"; port: number; size: AccessSize }
  | { do: "out"; port: number; size: AccessSize; value: number }
  | { do: "load"; address: number; size: AccessSize }
  | { do: "store"; address: number; size: AccessSize; value: number }
  | ({ do: "read bar"; size: AccessSize } & BarPlace)
  | ({ do: "write bar"; size: AccessSize; value: number } & BarPlace)
  | ({ do: "read config"; offset: number; size: AccessSize } & Place)
  | (
    & { do: "write config"; offset: number; size: AccessSize; value: number }
    & Place
  )
  | { do: "rdmsr"; msr: number }
  | { do: "wrmsr"; msr: number; value: bigint }
  | { do: "poke"; recent: number; offset: number; value: number }
  | { do: "wait"; ns: number }
  | { do: "stall"; ns: number }
  | { do: "type"; bytes: number[] }
  | { do: "block output" }
  | { do: "drain output" }
  | { do: "receive"; frame: Uint8Array }
  | { do: "link"; level: boolean }
  | { do: "key"; usage: number; down: boolean }
  | { do: "move"; dx: number; dy: number; wheel: number; buttons: number }
  | { do: "point"; x: number; y: number; wheel: number; buttons: number }
  | { do: "hold disk" }
  | { do: "release disk" }
  | { do: "answer disk"; which: number; fails: boolean }
  | { do: "line"; irq: number; level: boolean }
  | { do: "pirq"; pirq: number; level: boolean }
  | { do: "eoi"; vector: number }
  | { do: "acknowledge" }
  | { do: "message"; message: ApicMessage }
  | { do: "task priority"; value: number }
  | { do: "external interrupt"; level: boolean }
  | { do: "power button" }
  | { do: "reset" }
  | { do: "step" };

/** A function on PCI bus 0. */
interface Place {
  slot: number;
  fn: number;
}

/** An offset in a base address register. */
interface BarPlace extends Place {
  bar: number;
  offset: number;
}

/** Timers that one wait may fire: a period of a nanosecond does not have to be sat out. */
const MOST_FIRINGS = 2_000;
/** Where firmware puts BARs. */
const PORT_WINDOW = { base: 0xc000, length: 0x3000 };
const MEMORY_WINDOW = { base: 0xc0000000, length: 0x10000000 };

/**
 * Writes an operation as a line of a report.
 *
 * @param operation The operation.
 * @returns `out 0x3f8 = 0x41`.
 */
export function describe(operation: Operation): string {
  const { do: what } = operation;
  const width = "size" in operation && operation.size > 1
    ? `.${operation.size * 8}`
    : "";
  const value = "value" in operation
    ? ` = ${
      typeof operation.value === "bigint"
        ? `0x${operation.value.toString(16)}`
        : hex(operation.value)
    }`
    : "";
  const place = "slot" in operation ? `${operation.slot}.${operation.fn} ` : "";
  switch (what) {
    case "in":
    case "out":
      return `${what}${width} ${hex(operation.port)}${value}`;
    case "load":
    case "store":
      return `${what}${width} ${hex(operation.address)}${value}`;
    case "read bar":
    case "write bar":
      return `${what}${width} ${place}BAR${operation.bar}+${
        hex(operation.offset)
      }${value}`;
    case "read config":
    case "write config":
      return `${what}${width} ${place}${hex(operation.offset)}${value}`;
    case "rdmsr":
    case "wrmsr":
      return `${what} ${hex(operation.msr)}${value}`;
    case "poke":
      return `poke (last DMA address but ${operation.recent}) + ${operation.offset}${value}`;
    case "wait":
      return `wait ${operation.ns} ns`;
    case "stall":
      return `wait ${operation.ns} ns without timers`;
    case "type":
      return `type ${operation.bytes.map(hex).join(" ")}`;
    case "receive":
      return `receive a frame of ${operation.frame.length} bytes: ${operation.frame.toHex()}`;
    case "link":
      return `the link goes ${operation.level ? "up" : "down"}`;
    case "key":
      return `key ${hex(operation.usage)} goes ${
        operation.down ? "down" : "up"
      }`;
    case "move":
    case "point": {
      const { do: _, ...motion } = operation;
      return `${what} ${JSON.stringify(motion)}`;
    }
    case "answer disk":
      return `answer disk request ${operation.which}${
        operation.fails ? " with an error" : ""
      }`;
    case "line":
      return `IRQ ${operation.irq} ${operation.level ? "rises" : "falls"}`;
    case "pirq":
      return `PIRQ ${operation.pirq} ${operation.level ? "rises" : "falls"}`;
    case "eoi":
      return `EOI of vector ${hex(operation.vector)}`;
    case "message":
      return `APIC message ${JSON.stringify(operation.message)}`;
    case "task priority":
      return `task priority${value}`;
    case "external interrupt":
      return `INTR ${operation.level ? "rises" : "falls"}`;
    default:
      return what;
  }
}

/**
 * Does an operation, all but `step`, which belongs to the scenario.
 *
 * @param machine What with.
 * @param operation What.
 * @returns What the guest gets.
 */
export function perform(machine: TestContext, operation: Operation): unknown {
  const apic = machine.interrupts.localApic(0);
  switch (operation.do) {
    case "in":
      return machine.in(operation.port, operation.size);
    case "out":
      return machine.out(operation.port, operation.value, operation.size);
    case "load":
      return machine.load(operation.address, operation.size);
    case "store":
      return machine.store(
        operation.address,
        operation.value,
        operation.size,
      );
    case "read bar":
    case "write bar":
      return accessBar(machine, operation);
    case "read config": {
      const { slot, fn, offset, size } = operation;
      return machine.configRead(slot, fn, offset, size);
    }
    case "write config": {
      const { slot, fn, offset, size, value } = operation;
      return machine.configWrite(slot, fn, offset, value, size);
    }
    case "rdmsr":
    case "wrmsr":
      return accessMsr(machine, operation);
    case "poke": {
      const { recent } = machine.meter;
      const near = recent.at(-1 - operation.recent);
      const address = (near ?? 0) + operation.offset;
      if (machine.memory.contains(address, 1)) {
        machine.memory.writeU8(address, operation.value);
      }
      return undefined;
    }
    case "wait":
      return machine.advance(operation.ns, MOST_FIRINGS);
    case "stall":
      return machine.stall(operation.ns);
    case "type":
      return machine.chars[0]?.type(operation.bytes);
    case "block output":
      for (const each of [...machine.chars, ...machine.nets]) each.block();
      return undefined;
    case "drain output":
      for (const each of [...machine.chars, ...machine.nets]) each.drain();
      return undefined;
    case "receive":
      return machine.nets[0]?.receive(operation.frame);
    case "link":
      for (const net of machine.nets) net.link = operation.level;
      return undefined;
    case "key":
      return machine.inputs[0]?.key(operation.down, operation.usage);
    case "move": {
      const { dx, dy, wheel, buttons } = operation;
      return machine.inputs[0]?.move(dx, dy, wheel, buttons);
    }
    case "point": {
      const { x, y, wheel, buttons } = operation;
      return machine.inputs[0]?.point(x, y, wheel, buttons);
    }
    case "hold disk":
      return machine.blocks[0]?.hold();
    case "release disk":
      return machine.blocks[0]?.release();
    case "answer disk":
      return machine.blocks[0]?.answer(
        operation.which,
        operation.fails ? new Error("an error of the test's disk") : undefined,
      );
    case "line":
      return machine.line(operation.irq, operation.level);
    case "pirq":
      return machine.pirq(operation.pirq, operation.level);
    case "eoi":
      return machine.interrupts.broadcastEoi(operation.vector);
    case "acknowledge":
      // A CPU acknowledges only what asks for it.
      return machine.interrupts.pending(0)
        ? machine.interrupts.acknowledge(0)
        : machine.interrupts.pic?.acknowledge();
    case "message":
      return machine.interrupts.deliver(operation.message);
    case "task priority":
      if (apic !== undefined) apic.taskPriority = operation.value;
      return undefined;
    case "external interrupt":
      return apic?.setExternalInterrupt(operation.level);
    case "power button":
      return machine.pressPowerButton();
    case "reset":
      return machine.reset();
    case "step":
      return undefined;
  }
}

function accessMsr(
  machine: TestContext,
  operation: Operation & { do: "rdmsr" | "wrmsr" },
): unknown {
  const [cpu] = machine.cpus;
  try {
    return operation.do === "rdmsr"
      ? cpu.readMsr(operation.msr)
      : cpu.writeMsr(operation.msr, operation.value);
  } catch (error) {
    if (error instanceof MsrFault) return "#GP";
    throw error;
  }
}

/** Places the BARs as firmware does, where the guest has not. */
function accessBar(
  machine: TestContext,
  operation: Operation & { do: "read bar" | "write bar" },
): unknown {
  const fn = machine.pci.functions.find(({ slot, fn }) =>
    slot === operation.slot && fn === operation.fn
  );
  const bar = fn?.bars.find(({ index }) => index === operation.bar);
  if (fn === undefined || bar === undefined) return "no BAR";
  if (fn.decoded(bar) === undefined) {
    machine.pci.assignResources(PORT_WINDOW, MEMORY_WINDOW);
  }
  const base = fn.decoded(bar);
  if (base === undefined) return "not decoded";
  const at = base + operation.offset;
  const { size } = operation;
  if (operation.do === "read bar") {
    return bar.kind === "io" ? machine.in(at, size) : machine.load(at, size);
  }
  return bar.kind === "io"
    ? machine.out(at, operation.value, size)
    : machine.store(at, operation.value, size);
}
