/**
 * Random operations on what a device has claimed, which the buses tell (fast-check).
 *
 * @module
 */
import fc from "fast-check";
import type { AccessSize } from "../plugin.ts";
import type { TestContext } from "./context.ts";
import type { Operation } from "./operation.ts";

/** Registers, and values, that a scenario uses: random operations try them more often. */
export interface Hints {
  /** Accesses to ports and memory. */
  accesses: { kind: "ports" | "memory"; address: number; size: AccessSize }[];
  /** Values written. */
  values: number[];
}

const PAGE = 4096;
/** Most devices have their registers at the start. */
const NEAR = 0x40;
const CONFIG_SIZE = 256;
const CONFIG_HEADER = 0x40;
const MICROSECOND = 1_000;
const MILLISECOND = 1_000_000;
const SECOND = 1_000_000_000;
const LONGEST_INPUT = 24;
/** Right and lower edges of a tablet. */
const TABLET_MAX = 0x7fff;
/** A and B, Print Screen, Pause, both Controls, Shift, Alt. */
const USUAL_KEYS = [0x04, 0x05, 0x46, 0x48, 0xe0, 0xe4, 0xe1, 0xe6];
/** How often operations of each kind are tried, in proportion. */
const WEIGHT = {
  step: 4,
  access: 12,
  hint: 12,
  config: 2,
  wait: 4,
  stall: 2,
  backend: 6,
  disk: 16,
  poke: 2,
  wires: 6,
  rare: 1,
};

const SIZES: readonly AccessSize[] = [1, 2, 4];
/** Values where registers tend to go wrong. */
const EDGES = [
  0,
  1,
  0x7f,
  0x80,
  0xff,
  0x100,
  0x7fff,
  0xffff,
  0x10000,
  0x7fffffff,
  0x80000000,
  0xffffffff,
];

function values(hints: Hints): fc.Arbitrary<number> {
  const known = hints.values.length > 0 ? hints.values : EDGES;
  return fc.oneof(
    { arbitrary: fc.constantFrom(...known), weight: 3 },
    { arbitrary: fc.nat(0xff), weight: 4 },
    { arbitrary: fc.constantFrom(...EDGES), weight: 2 },
    { arbitrary: fc.nat(31).map((bit) => 2 ** bit), weight: 1 },
    { arbitrary: fc.nat(0xffffffff), weight: 1 },
  );
}

/** An offset in a range, mostly where registers are. */
function offsets(length: number): fc.Arbitrary<number> {
  const aligned = (below: number, step: number) =>
    fc.nat(Math.max(0, Math.ceil(below / step) - 1)).map((n) => n * step);
  return fc.oneof(
    { arbitrary: aligned(Math.min(length, NEAR), 4), weight: 3 },
    { arbitrary: aligned(Math.min(length, PAGE), 16), weight: 3 },
    { arbitrary: aligned(Math.min(length, PAGE), 4), weight: 2 },
    { arbitrary: fc.nat(Math.min(length, NEAR) - 1), weight: 1 },
    { arbitrary: fc.nat(length - 1), weight: 1 },
  );
}

/** Wide registers are mostly accessed whole. */
const wideSizes = fc.oneof(
  { arbitrary: fc.constant<AccessSize>(4), weight: 3 },
  { arbitrary: fc.constantFrom(...SIZES), weight: 2 },
);
/** Narrow registers are mostly accessed one by one, and otherwise mostly on a boundary. */
function portAccesses(
  first: number,
  count: number,
): fc.Arbitrary<{ port: number; size: AccessSize }> {
  const port = fc.nat(count - 1).map((n) => first + n);
  return fc.oneof(
    {
      arbitrary: port.map((port) => ({ port, size: 1 as AccessSize })),
      weight: 6,
    },
    {
      arbitrary: fc.tuple(port, fc.constantFrom<AccessSize>(2, 4)).map((
        [port, size],
      ) => ({ port: port - port % size, size })),
      weight: 2,
    },
    {
      arbitrary: record({ port, size: fc.constantFrom(...SIZES) }),
      weight: 1,
    },
  );
}

type Weighted = { arbitrary: fc.Arbitrary<Operation>; weight: number };

function record<T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }) {
  return fc.record(model, { noNullPrototype: true }) as fc.Arbitrary<T>;
}

/** Reads and writes at what devices have claimed. */
function accesses(machine: TestContext, hints: Hints): Weighted[] {
  const ids = new Set(machine.instances.map(({ owner }) => owner.id));
  const value = values(hints);
  const found: fc.Arbitrary<Operation>[] = [];
  for (const { owner, kind, first, count } of machine.isa.claims) {
    if (!ids.has(owner.id)) continue;
    if (kind === "ports") {
      const access = portAccesses(first, count);
      found.push(
        access.map((at) => ({ do: "in", ...at })),
        fc.tuple(access, value).map(([at, value]) => ({
          do: "out",
          ...at,
          value,
        })),
      );
    } else {
      const address = offsets(count).map((n) => first + n);
      found.push(
        record({ do: fc.constant("load" as const), address, size: wideSizes }),
        record({
          do: fc.constant("store" as const),
          address,
          size: wideSizes,
          value,
        }),
      );
    }
  }
  for (const { first, count } of machine.cpus[0].msrs) {
    const msr = fc.nat(count - 1).map((n) => first + n);
    const wide = fc.oneof(
      { arbitrary: value.map(BigInt), weight: 4 },
      { arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), weight: 1 },
    );
    found.push(
      record({ do: fc.constant("rdmsr" as const), msr }),
      record({ do: fc.constant("wrmsr" as const), msr, value: wide }),
    );
  }
  for (const { slot, fn, bars } of machine.pci.functions) {
    for (const { index, size: length, handler } of bars) {
      if (handler === undefined) continue;
      const place = {
        slot: fc.constant(slot),
        fn: fc.constant(fn),
        bar: fc.constant(index),
        offset: offsets(length),
        size: wideSizes,
      };
      found.push(
        record({ do: fc.constant("read bar" as const), ...place }),
        record({ do: fc.constant("write bar" as const), ...place, value }),
      );
    }
  }
  return found.length === 0
    ? []
    : [{ arbitrary: fc.oneof(...found), weight: WEIGHT.access }];
}

/** Configuration space of the functions. */
function config(machine: TestContext, hints: Hints): Weighted[] {
  const places = machine.pci.functions.map(({ slot, fn }) => ({ slot, fn }));
  if (places.length === 0) return [];
  const make = (
    { slot, fn }: { slot: number; fn: number },
  ): fc.Arbitrary<Operation> => {
    const offset = fc.oneof(
      fc.nat(CONFIG_HEADER / 4 - 1).map((n) => n * 4),
      fc.nat(CONFIG_SIZE / 4 - 1).map((n) => n * 4),
      fc.nat(CONFIG_SIZE - 4),
    );
    const place = { slot: fc.constant(slot), fn: fc.constant(fn), offset };
    return fc.oneof(
      record({
        do: fc.constant("read config" as const),
        ...place,
        size: wideSizes,
      }),
      record({
        do: fc.constant("write config" as const),
        ...place,
        size: wideSizes,
        value: values(hints),
      }),
    );
  };
  return [{ arbitrary: fc.oneof(...places.map(make)), weight: WEIGHT.config }];
}

/** What the scenario accesses, with other values. */
function hinted(hints: Hints): Weighted[] {
  if (hints.accesses.length === 0) return [];
  const access = fc.tuple(
    fc.constantFrom(...hints.accesses),
    fc.boolean(),
    values(hints),
  ).map(([{ kind, address, size }, writes, value]): Operation => {
    if (kind === "ports") {
      return writes
        ? { do: "out", port: address, size, value }
        : { do: "in", port: address, size };
    }
    return writes
      ? { do: "store", address, size, value }
      : { do: "load", address, size };
  });
  return [{ arbitrary: access, weight: WEIGHT.hint }];
}

/** Broadcast and other frames of every legal length, and a few others. */
const frame = fc.tuple(
  fc.constantFrom(0xff, 0x01, 0x52),
  fc.constantFrom(14, 60, 64, 590, 1514, 1518, 9000),
  fc.nat(0xff),
).map(([to, length, fill]) =>
  new Uint8Array(length).fill(to, 0, 6).fill(fill, 6)
);

function backends(machine: TestContext): Weighted[] {
  const found: fc.Arbitrary<Operation>[] = [];
  if (machine.chars.length > 0) {
    found.push(
      record({
        do: fc.constant("type" as const),
        bytes: fc.array(fc.nat(0xff), {
          minLength: 1,
          maxLength: LONGEST_INPUT,
        }),
      }),
      fc.constant({ do: "block output" }),
      fc.constant({ do: "drain output" }),
    );
  }
  if (machine.nets.length > 0) {
    found.push(
      record({ do: fc.constant("receive" as const), frame }),
      record({ do: fc.constant("receive" as const), frame }),
      fc.constant({ do: "block output" }),
      fc.constant({ do: "drain output" }),
      record({ do: fc.constant("link" as const), level: fc.boolean() }),
    );
  }
  if (machine.inputs.length > 0) {
    const wheel = fc.integer({ min: -10, max: 10 });
    const buttons = fc.nat(0x1f);
    const count = fc.oneof(
      fc.integer({ min: -20, max: 20 }),
      fc.integer({ min: -1000, max: 1000 }),
    );
    const position = fc.nat(TABLET_MAX);
    const key = record({
      do: fc.constant("key" as const),
      usage: fc.oneof(
        fc.constantFrom(...USUAL_KEYS),
        fc.integer({ min: 0, max: 0xff }),
      ),
      down: fc.boolean(),
    });
    found.push(
      key,
      key,
      record({
        do: fc.constant("move" as const),
        dx: count,
        dy: count,
        wheel,
        buttons,
      }),
      record({
        do: fc.constant("point" as const),
        x: position,
        y: position,
        wheel,
        buttons,
      }),
    );
  }
  if (machine.blocks.length > 0) {
    const answer = record({
      do: fc.constant("answer disk" as const),
      which: fc.nat(7),
      fails: fc.boolean(),
    });
    found.push(
      fc.constant({ do: "hold disk" }),
      fc.constant({ do: "release disk" }),
      answer,
      answer,
      answer,
      answer,
    );
  }
  return found.length === 0 ? [] : [{
    arbitrary: fc.oneof(...found),
    weight: machine.blocks.length > 0 ? WEIGHT.disk : WEIGHT.backend,
  }];
}

const message = record({
  do: fc.constant("message" as const),
  message: record({
    destination: fc.constantFrom(0, 1, 0xff),
    destinationMode: fc.constantFrom<0 | 1>(0, 1),
    deliveryMode: fc.constantFrom(0, 0, 0, 1, 4, 5, 6, 7),
    vector: fc.oneof(fc.integer({ min: 0x10, max: 0xff }), fc.nat(0xff)),
    level: fc.boolean(),
  }),
});

/** What interrupt controllers listen to. */
function wires(machine: TestContext): Weighted[] {
  const { interrupts } = machine;
  const found: fc.Arbitrary<Operation>[] = [];
  const { isa, gsi, eoi } = interrupts.listeners;
  // The machine itself listens once, to record.
  if (isa > 1 || gsi > 1) {
    found.push(
      record({
        do: fc.constant("line" as const),
        irq: fc.nat(15),
        level: fc.boolean(),
      }),
      record({
        do: fc.constant("pirq" as const),
        pirq: fc.nat(7),
        level: fc.boolean(),
      }),
    );
  }
  if (eoi > 0) {
    found.push(
      record({ do: fc.constant("eoi" as const), vector: fc.nat(0xff) }),
    );
  }
  if (interrupts.pic !== null) found.push(fc.constant({ do: "acknowledge" }));
  if (!machine.recordsMessages) {
    found.push(
      message,
      message,
      fc.constant({ do: "acknowledge" }),
      record({ do: fc.constant("task priority" as const), value: fc.nat(15) }),
      record({
        do: fc.constant("external interrupt" as const),
        level: fc.boolean(),
      }),
    );
  }
  return found.length === 0
    ? []
    : [{ arbitrary: fc.oneof(...found), weight: WEIGHT.wires }];
}

/** Time, from a tick of a fast timer to an alarm. */
const wait: fc.Arbitrary<Operation> = record({
  do: fc.constant("wait" as const),
  ns: fc.oneof(
    { arbitrary: fc.integer({ min: 1, max: MICROSECOND }), weight: 2 },
    { arbitrary: fc.integer({ min: 1, max: MILLISECOND }), weight: 3 },
    { arbitrary: fc.integer({ min: 1, max: 50 * MILLISECOND }), weight: 3 },
    { arbitrary: fc.integer({ min: 1, max: 3 * SECOND }), weight: 1 },
  ),
});

/** A slice of the vCPU. */
const stall: fc.Arbitrary<Operation> = record({
  do: fc.constant("stall" as const),
  ns: fc.oneof(
    fc.integer({ min: 1, max: MICROSECOND }),
    fc.integer({ min: 1, max: 5 * MILLISECOND }),
  ),
});

const poke: fc.Arbitrary<Operation> = record({
  do: fc.constant("poke" as const),
  recent: fc.nat(15),
  offset: fc.nat(31),
  value: fc.oneof(fc.constantFrom(0, 1, 2, 3, 0xff), fc.nat(0xff)),
});

/**
 * Random operations.
 *
 * @param machine A machine with the devices, in which the scenario was run.
 * @param hints What the scenario did.
 * @param steps Whether the scenario's next step is one of the operations.
 * @returns An arbitrary of one operation.
 */
export function operations(
  machine: TestContext,
  hints: Hints,
  steps: boolean,
): fc.Arbitrary<Operation> {
  const rare: fc.Arbitrary<Operation> = fc.constantFrom<Operation>(
    { do: "reset" },
    { do: "power button" },
  );
  const all: Weighted[] = [
    ...accesses(machine, hints),
    ...hinted(hints),
    ...config(machine, hints),
    ...backends(machine),
    ...wires(machine),
    { arbitrary: wait, weight: WEIGHT.wait },
    { arbitrary: stall, weight: WEIGHT.stall },
    { arbitrary: rare, weight: WEIGHT.rare },
  ];
  if (steps) {
    all.push({ arbitrary: fc.constant({ do: "step" }), weight: WEIGHT.step });
  }
  if (machine.meter.recent.length > 0) {
    all.push({ arbitrary: poke, weight: WEIGHT.poke });
  }
  return fc.oneof(...all);
}
