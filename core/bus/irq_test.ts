import { assertEquals, assertThrows } from "@std/assert";
import type { ApicMessage, LocalApic } from "../plugin.ts";
import { MachineError } from "../plugin.ts";
import { SchemaError } from "../../snapshot/schema.ts";
import { Interrupts, irqSchema } from "./irq.ts";

const one = { id: "one", plugin: "test" };
const two = { id: "two", plugin: "test" };

function wired() {
  const interrupts = new Interrupts();
  const isa: string[] = [];
  const gsi: string[] = [];
  interrupts.onIsaIrq((irq, level) => isa.push(`${irq}${level ? "+" : "-"}`));
  interrupts.onGsi((irq, level) => gsi.push(`${irq}${level ? "+" : "-"}`));
  return { interrupts, isa, gsi };
}

function apic(id: number, priority: number): LocalApic & {
  accepted: ApicMessage[];
} {
  const accepted: ApicMessage[] = [];
  return {
    id,
    accepted,
    matches: ({ destination }) => destination === 0xff || destination === id,
    accept: (message) => void accepted.push(message),
    pending: () => accepted.length > 0,
    acknowledge: () => accepted.shift()?.vector ?? -1,
    taskPriority: 0,
    arbitrationPriority: priority,
    setExternalInterrupt: () => {},
  };
}

Deno.test("a shared ISA line is the OR of its sources", () => {
  const { interrupts, isa, gsi } = wired();
  const a = interrupts.isaSource(one, 4);
  const b = interrupts.isaSource(two, 4);
  a.set(true);
  b.set(true);
  a.set(false);
  assertEquals([a.level, b.level], [false, true]);
  b.set(false);
  assertEquals(isa, ["4+", "4-"]);
  assertEquals(gsi, ["4+", "4-"]);
  assertThrows(() => interrupts.isaSource(one, 16), MachineError);
});

Deno.test("ISA line 0 is GSI 2", () => {
  const { interrupts, isa, gsi } = wired();
  interrupts.isaSource(one, 0).pulse();
  assertEquals(isa, ["0+", "0-"]);
  assertEquals(gsi, ["2+", "2-"]);
});

Deno.test("a PIRQ is GSI 16 and up, and the ISA line it is routed to on the PICs only", () => {
  const { interrupts, isa, gsi } = wired();
  interrupts.setPirq(2, true, one);
  assertEquals([isa, gsi], [[], ["18+"]]);
  interrupts.routePirq(2, 11);
  interrupts.setPirq(2, true, two);
  interrupts.setPirq(2, false, one);
  interrupts.routePirq(2, 10);
  interrupts.setPirq(2, false, two);
  assertEquals(isa, ["11+", "11-", "10+", "10-"]);
  assertEquals(gsi, ["18+", "18-"]);
});

Deno.test("a PIRQ and an ISA device share the line on the PICs", () => {
  const { interrupts, isa } = wired();
  const line = interrupts.isaSource(one, 11);
  interrupts.routePirq(0, 11);
  line.set(true);
  interrupts.setPirq(0, true, two);
  line.set(false);
  assertEquals(isa, ["11+"]);
  interrupts.setPirq(0, false, two);
  assertEquals(isa, ["11+", "11-"]);
});

Deno.test("messages reach every matching APIC, or the one of lowest priority", () => {
  const { interrupts } = wired();
  const apics = [apic(0, 5), apic(1, 2), apic(2, 2)];
  apics.forEach((a, i) => interrupts.registerLocalApic(i, a));
  const message: ApicMessage = {
    destination: 0xff,
    destinationMode: 0,
    deliveryMode: 0,
    vector: 0x40,
    level: false,
  };
  interrupts.deliver(message);
  assertEquals(apics.map((a) => a.accepted.length), [1, 1, 1]);
  interrupts.deliver({ ...message, deliveryMode: 1 });
  assertEquals(apics.map((a) => a.accepted.length), [1, 2, 1]);
  assertEquals(apics[1].accepted[1].deliveryMode, 0);
});

Deno.test("a message signalled interrupt is decoded from address and data", () => {
  const { interrupts } = wired();
  const target = apic(3, 0);
  interrupts.registerLocalApic(0, target);
  assertEquals(interrupts.message(0xfee03000, 0x0041), true);
  assertEquals(interrupts.message(0xfee0300c, 0xc042), true);
  assertEquals(interrupts.message(0x1000, 0), false);
  assertEquals(target.accepted, [
    {
      destination: 3,
      destinationMode: 0,
      deliveryMode: 0,
      vector: 0x41,
      level: false,
    },
    {
      destination: 3,
      destinationMode: 1,
      deliveryMode: 0,
      vector: 0x42,
      level: true,
    },
  ]);
});

Deno.test("without a local APIC the PICs interrupt the first vCPU", () => {
  const { interrupts } = wired();
  let told = 0;
  interrupts.onPicOutput = () => told++;
  interrupts.pic = { acknowledge: () => 0x21 };
  assertEquals(interrupts.pending(0), false);
  interrupts.setPicOutput(true);
  assertEquals([told, interrupts.pending(0), interrupts.pending(1)], [
    1,
    true,
    false,
  ]);
  assertEquals(interrupts.acknowledge(0), 0x21);
});

Deno.test("Interrupts restores levels and routes without telling anybody", () => {
  const first = wired();
  first.interrupts.isaSource(one, 4).set(true);
  first.interrupts.isaSource(two, 4);
  first.interrupts.routePirq(1, 10);
  first.interrupts.setPicOutput(true);
  const state = irqSchema.validate(first.interrupts.save());

  const second = wired();
  const line = second.interrupts.isaSource(one, 4);
  second.interrupts.isaSource(two, 4);
  second.interrupts.quietly(() => second.interrupts.restore(state));
  assertEquals(second.interrupts.save(), state);
  assertEquals(line.level, true);
  assertEquals(second.isa, []);
  line.set(false);
  assertEquals(second.isa, ["4-"]);
  second.interrupts.setPirq(1, true, one);
  assertEquals(second.isa, ["4-", "10+"]);
});

Deno.test("Interrupts refuses the sources of another machine", () => {
  const first = wired();
  first.interrupts.isaSource(one, 4);
  const state = first.interrupts.save();
  const second = wired();
  second.interrupts.isaSource(one, 5);
  assertThrows(
    () => second.interrupts.restore(state),
    SchemaError,
    "a source on line 4 one[0]: expected one on line 5",
  );
  assertThrows(
    () => wired().interrupts.restore(state),
    SchemaError,
    "has 1 sources",
  );
});
