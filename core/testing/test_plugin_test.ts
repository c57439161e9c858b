import { assertRejects } from "@std/assert";
import pit from "../../plugins/legacy/pit.ts";
import rtc from "../../plugins/legacy/rtc.ts";
import uart from "../../plugins/legacy/uart.ts";
import { MemoryChardev } from "../../host/chardev/memory.ts";
import { schema, timer, u8 } from "../../snapshot/schema.ts";
import { definePlugin } from "../plugin.ts";
import { RoundTripError, testPlugin } from "./test_plugin.ts";

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

Deno.test("testPlugin accepts devices of the platform", async () => {
  await testPlugin(pit, {
    steps: [
      (machine) => machine.out(0x43, 0x34),
      (machine) => machine.out(0x40, 0x10),
      (machine) => machine.out(0x40, 0x27),
      (machine) => machine.advance(3_000_000),
      (machine) => machine.out(0x43, 0),
      (machine) => machine.in(0x40),
      (machine) => machine.in(0x40),
      (machine) => machine.advance(30_000_000),
    ],
  });
  await testPlugin(rtc, {
    steps: [
      (machine) => machine.out(0x70, 0x0b),
      (machine) => machine.out(0x71, 0x52),
      (machine) => machine.advance(2_000_000_000),
      (machine) => machine.out(0x70, 0),
      (machine) => machine.in(0x71),
    ],
  });
  await testPlugin(uart, {
    make: () => ({ backend: new MemoryChardev() }),
    steps: [
      (machine) => machine.out(0x3f9, 2),
      (machine) => machine.out(0x3f8, 65),
      (machine) => machine.advance(1_000_000),
      (machine) => machine.in(0x3fa),
      (machine) => machine.in(0x3fd),
    ],
  });
});
