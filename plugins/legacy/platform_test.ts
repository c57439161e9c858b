// What holds for every device of the platform: whatever a guest writes, the state that is saved
// can be restored, and goes on as the original does; whatever a snapshot says, it is refused or
// the device still works.

import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { createTestContext } from "../../core/testing/context.ts";
import { PluginError } from "../../core/fault.ts";
import {
  type AccessSize,
  type CharBackend,
  MsrFault,
  type Plugin,
} from "../../core/plugin.ts";
import { arbitrary } from "../../snapshot/arbitrary.ts";
import { SchemaError } from "../../snapshot/schema.ts";
import hpet from "./hpet.ts";
import ioapic from "./ioapic.ts";
import lapic from "./lapic.ts";
import lpc from "./lpc.ts";
import pic from "./pic.ts";
import pit from "./pit.ts";
import pmtimer from "./pmtimer.ts";
import q35 from "./q35.ts";
import rtc from "./rtc.ts";
import uart from "./uart.ts";

/** A range that a device answers: ports, memory, model-specific registers, or its own configuration space. */
type Place = [
  kind: "port" | "memory" | "msr" | "config",
  first: number,
  count: number,
];

interface Subject {
  plugin: unknown;
  places: Place[];
}

const SUBJECTS: Subject[] = [
  { plugin: uart, places: [["port", 0x3f8, 8]] },
  {
    plugin: pic,
    places: [["port", 0x20, 2], ["port", 0xa0, 2], ["port", 0x4d0, 2]],
  },
  { plugin: pit, places: [["port", 0x40, 4], ["port", 0x61, 1]] },
  { plugin: rtc, places: [["port", 0x70, 4]] },
  {
    plugin: lapic,
    places: [
      ["memory", 0xfee0_0000, 0x400],
      ["msr", 0x1b, 1],
      ["msr", 0x6e0, 1],
      ["msr", 0x800, 0x40],
    ],
  },
  { plugin: ioapic, places: [["memory", 0xfec0_0000, 0x44]] },
  { plugin: hpet, places: [["memory", 0xfed0_0000, 0x160]] },
  {
    plugin: pmtimer,
    places: [["port", 0x600, 0x40], ["port", 0xb2, 2]],
  },
  {
    plugin: lpc,
    places: [["config", 0x1f << 3, 0x100], ["port", 0x92, 1], [
      "port",
      0xcf9,
      1,
    ], ["port", 0x80, 1]],
  },
  { plugin: q35, places: [["config", 0, 0x100]] },
];

const LINE: CharBackend = {
  write: () => true,
  onInput: () => {},
  ready: () => {},
  onDrain: () => {},
};

type AnyPlugin = Plugin<Record<string, never>, unknown, "char">;

function make(subject: Subject) {
  return createTestContext(subject.plugin as AnyPlugin, {
    backend: LINE,
    recordMessages: subject.plugin !== lapic,
    rtcBase: Date.UTC(2026, 10, 21),
  });
}

type Made = ReturnType<typeof make>;

interface Access {
  place: number;
  offset: number;
  size: AccessSize;
  write: boolean;
  value: number;
  then: number;
}

/** Register values: any, and those of few bits, which make sense more often. */
const value = fc.oneof(
  fc.integer({ min: 0, max: 0xffff_ffff }),
  fc.integer({ min: 0, max: 0xff }),
  fc.integer({ min: 0, max: 31 }).map((bit) => 2 ** bit),
);

const access: fc.Arbitrary<Access> = fc.record({
  place: fc.nat(15),
  offset: fc.nat(0xfff),
  size: fc.constantFrom<AccessSize>(1, 2, 4),
  write: fc.boolean(),
  value,
  then: fc.constantFrom(0, 1, 100, 10_000, 1_000_000, 700_000_000),
});

/** Performs an access as a vCPU would; what it reads. */
function perform(device: Made, { places }: Subject, step: Access): string {
  const { machine } = device;
  const [kind, first, count] = places[step.place % places.length];
  const at = first + step.offset % count;
  const { size, write } = step;
  let result: number | bigint = 0;
  switch (kind) {
    case "port":
      if (write) machine.out(at, step.value, size);
      else result = machine.in(at, size);
      break;
    case "memory": {
      const aligned = at - at % size;
      if (write) machine.store(aligned, step.value, size);
      else result = machine.load(aligned, size);
      break;
    }
    case "config": {
      const offset = step.offset % count & ~(size - 1);
      const slot = first >> 3;
      if (write) machine.configWrite(slot, 0, offset, step.value, size);
      else result = machine.configRead(slot, 0, offset, size);
      break;
    }
    case "msr":
      try {
        if (write) machine.cpus[0].writeMsr(at, BigInt(step.value));
        else result = machine.cpus[0].readMsr(at);
      } catch (error) {
        if (!(error instanceof MsrFault)) throw error;
        return "#GP";
      }
  }
  // Timers of a nanosecond would take long to go through.
  machine.advance(lively(device) ? Math.min(step.then, 1000) : step.then);
  return String(result);
}

/** Whether the next timer is so near that there may be very many of them. */
function lively({ machine }: Made): boolean {
  const next = machine.clock.nextDeadline;
  return next !== undefined && next - machine.clock.now() < 10_000;
}

for (const subject of SUBJECTS) {
  const { name, state } = subject.plugin as AnyPlugin;

  Deno.test(`${name} goes on from whatever state a guest brings about`, () => {
    fc.assert(
      fc.property(
        fc.array(access, { maxLength: 60 }),
        fc.array(access, { minLength: 20, maxLength: 40 }),
        (before, after) => {
          const original = make(subject);
          for (const step of before) perform(original, subject, step);
          const saved = original.save();
          assertEquals(original.save(), saved);
          const copy = make(subject);
          copy.machine.clock.advance(original.machine.clock.now());
          copy.machine.interrupts.quietly(() => {
            copy.restore(saved);
            copy.machine.interrupts.restore(
              original.machine.interrupts.save(),
            );
          });
          copyConfiguration(original, copy, subject);
          assertEquals(copy.save(), saved);
          original.machine.isaEvents.length = 0;
          copy.machine.isaEvents.length = 0;
          for (const step of after) {
            assertEquals(
              perform(copy, subject, step),
              perform(original, subject, step),
            );
          }
          assertEquals(copy.save(), original.save());
          assertEquals(copy.machine.isaEvents, original.machine.isaEvents);
        },
      ),
      { numRuns: 60 },
    );
  });

  Deno.test(`${name} refuses a random state, or works with it`, () => {
    fc.assert(
      fc.property(
        arbitrary(state),
        fc.array(fc.boolean(), { minLength: 40, maxLength: 40 }),
        fc.array(access, { maxLength: 20 }),
        (random, choices, steps) => {
          const device = make(subject);
          // Most fields as they were, or nothing would ever be accepted.
          const mixed = mix(device.save(), random, choices);
          try {
            device.restore(mixed);
          } catch (error) {
            if (
              !(error instanceof PluginError || error instanceof SchemaError)
            ) {
              throw error;
            }
            return;
          }
          for (const step of steps) perform(device, subject, step);
          device.save();
        },
      ),
      { numRuns: 150 },
    );
  });
}

/** Configuration space is the bus's: what the core restores. */
function copyConfiguration(from: Made, to: Made, { places }: Subject): void {
  for (const [kind, at] of places) {
    if (kind !== "config") continue;
    const slot = at >> 3;
    for (let offset = 0; offset < 0x100; offset += 4) {
      to.machine.configWrite(
        slot,
        0,
        offset,
        from.machine.configRead(slot, 0, offset),
      );
    }
  }
}

/** Takes fields of `random` where a choice says so; one in eight. */
function mix(value: unknown, random: unknown, choices: boolean[]): unknown {
  let next = 0;
  const take = () => {
    const at = next++;
    return [0, 1, 2].every((i) => choices[(at * 3 + i) % choices.length]);
  };
  const walk = (own: unknown, other: unknown): unknown => {
    if (Array.isArray(own) && Array.isArray(other)) {
      return own.map((item, i) =>
        i < other.length ? walk(item, other[i]) : item
      );
    }
    if (
      own !== null && typeof own === "object" && !ArrayBuffer.isView(own) &&
      other !== null && typeof other === "object" && !ArrayBuffer.isView(other)
    ) {
      return Object.fromEntries(
        Object.entries(own).map(([key, item]) => [
          key,
          walk(item, (other as Record<string, unknown>)[key]),
        ]),
      );
    }
    return take() ? other : own;
  };
  return walk(value, random);
}
