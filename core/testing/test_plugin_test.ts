import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { schema, SchemaError, timer, u8 } from "../../snapshot/schema.ts";
import { definePlugin } from "../plugin.ts";
import type { TestContext } from "./context.ts";
import {
  type GoldenSnapshot,
  goldenSnapshot,
  RoundTripError,
  testPlugin,
} from "./test_plugin.ts";

const PORT = 0x500;

/** A device that counts when its timer fires; `whole` says whether it saves the timer. */
function blinker(whole: boolean) {
  return definePlugin({
    name: "blinker",
    version: "2.0.0",
    summary: "test device",
    options: {},
    state: schema("blinker", 2, { count: u8(), next: timer() }, {
      1: (old) => ({ ...old as { count: number }, next: null }),
    }),
    create(ctx) {
      let count = 0;
      const timer = ctx.clock.timer(() => void (count = count + 1 & 0xff));
      ctx.isa.claimPorts(PORT, 1, {
        read: () => count,
        write: (_port, _size, value) => timer.armAt(ctx.clock.now() + value),
      });
      const left = () =>
        timer.deadline === undefined || !whole
          ? null
          : { remaining: timer.deadline - ctx.clock.now() };
      ctx.snapshot.register({
        save: () => ({ count, next: left() }),
        restore(state) {
          count = state.count;
          if (state.next !== null) {
            timer.armAt(ctx.clock.now() + state.next.remaining);
          }
        },
      });
      return {
        reset() {
          count = 0;
          timer.cancel();
        },
      };
    },
  });
}

const scenario: Parameters<typeof testPlugin>[1]["steps"] = [
  (machine) => machine.out(PORT, 100),
  (machine) => machine.advance(60),
  (machine) => machine.advance(60),
  (machine) => machine.in(PORT),
];

Deno.test("testPlugin accepts a plugin that saves all, and migrates old states", async () => {
  await testPlugin(blinker(true), {
    steps: scenario,
    golden: [{ version: 1, state: { count: 3 } }],
  });
});

Deno.test("testPlugin finds a timer that is not armed again", async () => {
  await assertRejects(
    () => testPlugin(blinker(false), { steps: scenario }),
    RoundTripError,
    "saved after step 1, in step 4: the reply",
  );
});

/** A device with one fault, if any. */
type Fault =
  | "forgets the mask"
  | "saves another state each time"
  | "interrupts while it is saved"
  | "trusts the index"
  | "refuses with a TypeError"
  | "rearms for ever"
  | "allocates what the state says"
  | "throws on a wide access"
  | "sends again what it sent"
  | "loses what is in flight";

const TABLE = [3, 5, 7];

/** A device with a table, a mask that no step of the scenario touches, a timer, a line and a disk. */
function faulty(fault?: Fault) {
  return definePlugin({
    name: "faulty",
    version: "1.0.0",
    summary: "test device",
    options: {},
    backend: "block",
    state: schema("faulty", 1, {
      index: u8(),
      mask: u8(),
      writes: u8(),
      period: u8(),
    }),
    create(ctx) {
      const state = { index: 0, mask: 0xff, writes: 0, period: 0 };
      let isPaused = false;
      const line = ctx.isa.irq(5);
      const arm = () => {
        if (state.period > 0) timer.armAt(ctx.clock.now() + state.period);
      };
      const timer = ctx.clock.timer(() => {
        if (fault === "rearms for ever" && state.period > 7) {
          timer.armAt(ctx.clock.now());
        } else state.period = 0;
      });
      const write = (left: number) => {
        state.writes = left;
        if (left === 0 || isPaused) return;
        ctx.async(ctx.backend.write(512 * left, new Uint8Array(512)), () => {
          const again = fault === "sends again what it sent" && isPaused;
          if (fault === "loses what is in flight" && isPaused) state.writes = 0;
          else write(again ? left : left - 1);
        }, () => write(0));
      };
      ctx.isa.claimPorts(PORT, 4, {
        read(port, size) {
          if (size === 4 && fault === "throws on a wide access") {
            throw new RangeError("four bytes");
          }
          if (port === PORT) {
            const value = TABLE[state.index];
            if (value === undefined) throw new RangeError("outside the table");
            return value & state.mask;
          }
          return port === PORT + 1 ? state.mask : state.writes;
        },
        write(port, _size, value) {
          if (port === PORT) state.index = value % TABLE.length;
          else if (port === PORT + 1) state.mask = value & 0xff;
          else if (port === PORT + 2) {
            if (state.writes === 0) write(value & 3);
          } else {
            state.period = value & 7;
            timer.cancel();
            arm();
          }
        },
      });
      ctx.snapshot.register({
        save() {
          if (fault === "saves another state each time") state.mask ^= 1;
          if (fault === "interrupts while it is saved") line.pulse();
          return { ...state, period: state.period };
        },
        restore(saved) {
          if (fault === "refuses with a TypeError" && saved.index > 2) {
            throw new TypeError("Cannot read properties of undefined");
          }
          if (fault === "allocates what the state says") {
            new Array(2 ** 32 * (saved.index >> 7));
          }
          if (fault !== "trusts the index" && saved.index >= TABLE.length) {
            throw new SchemaError(
              "index",
              `is ${saved.index}: expected 0 to 2`,
            );
          }
          const { mask } = state;
          Object.assign(state, saved);
          if (fault === "forgets the mask") state.mask = mask;
          arm();
        },
      });
      return {
        reset() {
          Object.assign(state, { index: 0, mask: 0xff, writes: 0, period: 0 });
          timer.cancel();
        },
        pause: () => void (isPaused = true),
        start: () => write(state.writes),
        resume() {
          isPaused = false;
          write(state.writes);
        },
      };
    },
  });
}

const faultyScenario = {
  steps: [
    (machine: TestContext) => machine.out(PORT, 1),
    (machine: TestContext) => machine.block.hold(),
    (machine: TestContext) => machine.out(PORT + 2, 3),
    (machine: TestContext) => machine.block.answer(),
    (machine: TestContext) => machine.block.release(),
    (machine: TestContext) => [machine.in(PORT), machine.in(PORT + 2)],
  ],
  runs: 20,
};

for (
  const [fault, expected] of [
    ["forgets the mask", /saved and restored|the state: the restored device/],
    ["saves another state each time", /a second save/],
    ["interrupts while it is saved", /saving sent .*\[5,true\]/],
    [
      "trusts the index",
      /restored with index = \d+\n.*\nthen:\n {2}(in|load).*\n.*outside the table\nseed 1/,
    ],
    [
      "refuses with a TypeError",
      /is refused with PluginError .*TypeError.*expected an error that names "faulty0" and the field/,
    ],
    ["allocates what the state says", /RangeError: Invalid array length/],
    [
      "throws on a wide access",
      /faulty, from the start:\n {2}in\.32 0x500\n.*RangeError: four bytes\nseed 1/,
    ],
    ["rearms for ever", /timers fired 10001 times at \d+ ns/],
    ["sends again what it sent", /what went to backends in all/],
    ["loses what is in flight", /what went to backends in all/],
  ] as [Fault, RegExp][]
) {
  Deno.test(`testPlugin finds a device that ${fault}`, async () => {
    const test = () =>
      testPlugin(faulty(fault), { ...faultyScenario, seed: 1 });
    const first = await assertRejects(test, RoundTripError);
    assertMatch(first.message, expected);
    // The same seed finds the same.
    const second = await assertRejects(test, RoundTripError);
    assertEquals(second.message, first.message);
  });
}

Deno.test("testPlugin accepts the device without a fault", () =>
  testPlugin(faulty(), faultyScenario));

Deno.test("testPlugin holds states to what the author says is reachable", async () => {
  const error = await assertRejects(
    () =>
      testPlugin(faulty(), {
        ...faultyScenario,
        invariant({ period }) {
          if (period > 7) throw new Error("a period has three bits");
        },
      }),
    RoundTripError,
  );
  assertMatch(
    error.message,
    /restored with period = \d+\n.*\nError: a period has three bits/,
  );
});

Deno.test("a golden snapshot goes on as it did, and names the step where it does not", async () => {
  const golden = JSON.parse(
    JSON.stringify(await goldenSnapshot(faulty(), faultyScenario)),
  );
  assertEquals([golden.version, golden.after], [1, 3]);
  const test = (changed: Partial<GoldenSnapshot>) =>
    testPlugin(faulty(), {
      ...faultyScenario,
      golden: [{ ...golden, ...changed }],
      runs: 0,
    });
  await test({});
  await assertRejects(
    () => test({ replies: golden.replies.with(2, [[9, 9], {}]) }),
    RoundTripError,
    "golden snapshot of version 1: step 6 now gives [[5,0]",
  );
  await assertRejects(
    () => test({ replies: [] }),
    RoundTripError,
    "a scenario of 3 steps, and this one has 6",
  );
});
