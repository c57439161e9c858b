// What `deno task new-plugin` writes: a small working device of each bus, and its test.

/** The files of one kind of plugin; `NAME` stands for the plugin's name in them. */
export interface PluginTemplate {
  /** The plugin. */
  plugin: string;
  /** Its test. */
  test: string;
}

const ISA_PLUGIN = `/**
 * NAME: a device on the ISA bus.
 *
 * | port | name   | access | meaning                                                |
 * | ---- | ------ | ------ | ------------------------------------------------------ |
 * | +0   | DELAY  | r/w    | milliseconds until the alarm; 0 stops it               |
 * | +1   | STATUS | r/w1c  | bit 0: the alarm has come; interrupts while it is set  |
 *
 * @module
 */
import { bool, bytewise, definePlugin, schema, timer, u8 } from "@diapause/diapause";

const PORT_COUNT = 2;
const DELAY = 0;
const STATUS_ALARM = 0x01;
const NS_PER_MS = 1_000_000;

export default definePlugin({
  name: "NAME",
  version: "1.0.0",
  summary: "an alarm at two ports",
  options: {
    port: { type: "number", help: "first of its ports", default: 0x500 },
    irq: { type: "number", help: "interrupt line", default: 5, min: 3, max: 15 },
  },
  state: schema("NAME", 1, { delay: u8(), alarm: bool(), next: timer() }),
  create(ctx, options) {
    let delay = 0;
    let alarm = false;
    const line = ctx.isa.irq(options.irq);
    const setAlarm = (value: boolean) => {
      alarm = value;
      line.set(value);
    };
    const next = ctx.clock.timer(() => setAlarm(true));
    ctx.isa.claimPorts(
      options.port,
      PORT_COUNT,
      bytewise({
        read: (port) => port === options.port + DELAY ? delay : Number(alarm),
        write(port, value) {
          if (port !== options.port + DELAY) {
            if (value & STATUS_ALARM) setAlarm(false);
            return;
          }
          delay = value;
          if (delay === 0) next.cancel();
          else next.armAt(ctx.clock.now() + delay * NS_PER_MS);
        },
      }),
    );
    ctx.snapshot.register({
      save: () => ({ delay, alarm, next: next.save() }),
      // The level of the line is the bus's: it comes back by itself.
      restore(state) {
        delay = state.delay;
        alarm = state.alarm;
        next.restore(state.next);
      },
    });
    return {
      reset() {
        delay = 0;
        next.cancel();
        setAlarm(false);
      },
    };
  },
});
`;

const ISA_TEST = `import { assertEquals } from "@std/assert";
import { createTestContext, testPlugin } from "@diapause/diapause";
import plugin from "./NAME.ts";

const DELAY = 0x500;
const STATUS = 0x501;
const MS = 1_000_000;

Deno.test("NAME interrupts when its time has come", () => {
  const { machine } = createTestContext(plugin);
  machine.out(DELAY, 20);
  machine.advance(20 * MS - 1);
  assertEquals(machine.in(STATUS), 0);
  machine.advance(1);
  assertEquals(machine.in(STATUS), 1);
  assertEquals(machine.isaEvents, [[5, true]]);
  machine.out(STATUS, 1);
  assertEquals(machine.isaEvents.at(-1), [5, false]);
});

Deno.test("NAME survives a save at any moment", () =>
  testPlugin(plugin, {
    steps: [
      (machine) => machine.out(DELAY, 3),
      (machine) => machine.advance(2 * MS),
      (machine) => machine.advance(2 * MS),
      (machine) => machine.in(STATUS),
      (machine) => machine.out(STATUS, 1),
    ],
  }));
`;

const PCI_PLUGIN = `/**
 * NAME: a device on the PCI bus that adds up 32-bit words in guest memory.
 *
 * BAR 0 has 32-bit registers, 4 KiB:
 *
 * | offset | name    | access | meaning                                              |
 * | ------ | ------- | ------ | ---------------------------------------------------- |
 * | 0x00   | ADDRESS | r/w    | guest-physical address of the words                  |
 * | 0x04   | COUNT   | r/w    | a write starts: how many words, at most 65536        |
 * | 0x08   | STATUS  | r/w1c  | bit 0 done, bit 1 error, bit 7 busy (read-only)      |
 * | 0x0C   | SUM     | r      | the sum modulo 2^32                                  |
 *
 * It takes 10 ns a word. When it is done or has found an error, it interrupts: by MSI-X vector 0
 * where the guest has turned that on, else by INTA# until bits 0 and 1 of STATUS are clear.
 *
 * @module
 */
import { definePlugin, schema, timer, u32, u8 } from "@diapause/diapause";

const ADDRESS = 0x00;
const COUNT = 0x04;
const STATUS = 0x08;
const SUM = 0x0c;
const STATUS_DONE = 0x01;
const STATUS_ERROR = 0x02;
const STATUS_BUSY = 0x80;
const MAX_COUNT = 0x1_0000;
const NS_PER_WORD = 10;
const BAR_SIZE = 0x1000;

export default definePlugin({
  name: "NAME",
  version: "1.0.0",
  summary: "adds up words in guest memory",
  options: {},
  state: schema("NAME", 1, {
    address: u32(),
    count: u32(),
    status: u8({ max: STATUS_DONE | STATUS_ERROR }),
    sum: u32(),
    /** The work that is under way, if it is armed. */
    work: timer(),
  }),
  create(ctx) {
    let address = 0, count = 0, status = 0, sum = 0;
    const work = ctx.clock.timer(() => finish(add()));
    const fn = ctx.pci.attach({
      vendor: 0x1234,
      device: 0xd000,
      classCode: 0xff0000,
      interruptPin: 1,
      bars: [
        { index: 0, kind: "memory", size: BAR_SIZE, handler: { read, write } },
        { index: 1, kind: "memory", size: BAR_SIZE },
      ],
      msix: { vectors: 1, bar: 1, tableOffset: 0, pbaOffset: 0x800 },
    });

    function read(offset: number): number {
      const busy = work.deadline === undefined ? 0 : STATUS_BUSY;
      switch (offset) {
        case ADDRESS:
          return address;
        case COUNT:
          return count;
        case STATUS:
          return status | busy;
        case SUM:
          return sum;
        default:
          return 0;
      }
    }

    function write(offset: number, size: number, value: number): void {
      if (size !== 4) return;
      if (offset === STATUS) {
        status &= ~value;
        fn.setIntx(status !== 0);
      }
      // The registers of work that is under way cannot be changed.
      if (work.deadline !== undefined) return;
      if (offset === ADDRESS) address = value;
      if (offset === COUNT) {
        count = value;
        const words = Math.min(count, MAX_COUNT);
        work.armAt(ctx.clock.now() + words * NS_PER_WORD);
      }
    }

    /** Adds up; says with which status that has ended. The guest's numbers are not to be trusted. */
    function add(): number {
      const length = 4 * count;
      if (!fn.busMaster || count > MAX_COUNT) return STATUS_ERROR;
      if (!ctx.memory.contains(address, length)) return STATUS_ERROR;
      sum = 0;
      for (let at = 0; at < length; at += 4) {
        sum = (sum + ctx.memory.readU32(address + at)) >>> 0;
      }
      return STATUS_DONE;
    }

    function finish(how: number): void {
      status |= how;
      fn.setIntx(true);
      fn.signal(0);
    }

    ctx.snapshot.register({
      save: () => ({ address, count, status, sum, work: work.save() }),
      // The level of INTA# and the MSI-X table are the bus's: they come back by themselves.
      restore(state) {
        ({ address, count, status, sum } = state);
        work.restore(state.work);
      },
    });
    return {
      reset() {
        address = count = status = sum = 0;
        work.cancel();
        fn.setIntx(false);
      },
    };
  },
});
`;

const PCI_TEST = `import { assertEquals } from "@std/assert";
import {
  createTestContext,
  type TestContext,
  testPlugin,
} from "@diapause/diapause";
import plugin from "./NAME.ts";

const SLOT = 1;
const COMMAND = 0x04;
const MEMORY_AND_BUS_MASTER = 0x06;
const BAR0 = 0x10;
const BASE = 0xc000_0000;
const ADDRESS = BASE;
const COUNT = BASE + 0x04;
const STATUS = BASE + 0x08;
const SUM = BASE + 0x0c;
const WORDS = 0x10_0000;

/** What firmware and a driver do first. */
function turnOn(machine: TestContext): void {
  machine.configWrite(SLOT, 0, BAR0, BASE);
  machine.configWrite(SLOT, 0, COMMAND, MEMORY_AND_BUS_MASTER, 2);
}

function start(machine: TestContext, words: number[]): void {
  words.forEach((word, i) => machine.memory.writeU32(WORDS + 4 * i, word));
  machine.store(ADDRESS, WORDS);
  machine.store(COUNT, words.length);
}

Deno.test("NAME adds up and interrupts", () => {
  const { machine } = createTestContext(plugin);
  turnOn(machine);
  start(machine, [1, 2, 0xffff_ffff]);
  machine.advance(29);
  assertEquals(machine.load(STATUS), 0x80);
  machine.advance(1);
  assertEquals([machine.load(STATUS), machine.load(SUM)], [1, 2]);
  assertEquals(machine.gsiEvents.map(([, level]) => level), [true]);
  machine.store(STATUS, 1);
  assertEquals(machine.gsiEvents.map(([, level]) => level), [true, false]);
});

Deno.test("NAME refuses words that are not in memory", () => {
  const { machine } = createTestContext(plugin);
  turnOn(machine);
  machine.store(ADDRESS, 0xffff_fff0);
  machine.store(COUNT, 100);
  machine.advance(1000);
  assertEquals(machine.load(STATUS), 2);
});

Deno.test("NAME survives a save at any moment", () =>
  testPlugin(plugin, {
    steps: [
      (machine) => turnOn(machine),
      (machine) => start(machine, [1, 2, 3, 4]),
      (machine) => machine.advance(25),
      (machine) => machine.advance(25),
      (machine) => [machine.load(STATUS), machine.load(SUM)],
      (machine) => machine.store(STATUS, 1),
    ],
  }));
`;

/** By bus. */
export const TEMPLATES: Readonly<Record<"isa" | "pci", PluginTemplate>> = {
  isa: { plugin: ISA_PLUGIN, test: ISA_TEST },
  pci: { plugin: PCI_PLUGIN, test: PCI_TEST },
};
