import { assertEquals, assertThrows } from "@std/assert";
import { definePlugin } from "../plugin.ts";
import { PluginError } from "../fault.ts";
import { schema, SchemaError, timer, u8 } from "../../snapshot/schema.ts";
import { createTestContext } from "./context.ts";

const PORT = 0x500;
const PERIOD = 1_000;

const blinker = definePlugin({
  name: "blinker",
  version: "1.0.0",
  summary: "an interrupt every microsecond while its port is not zero",
  options: { irq: { type: "number", help: "interrupt line", default: 4 } },
  state: schema("blinker", 1, { value: u8({ max: 9 }), next: timer() }),
  create(ctx, options) {
    let value = 0;
    const line = ctx.isa.irq(options.irq);
    const next = ctx.clock.timer(() => {
      line.pulse();
      next.armAt(ctx.clock.now() + PERIOD);
    });
    ctx.isa.claimPorts(PORT, 1, {
      read: () => value,
      write: (_port, _size, v) => {
        if (v > 9) throw new RangeError(`no level ${v}`);
        value = v;
        if (v === 0) next.cancel();
        else next.armAt(ctx.clock.now() + PERIOD);
      },
    });
    ctx.snapshot.register({
      save: () => ({
        value,
        next: next.deadline === undefined
          ? null
          : { remaining: next.deadline - ctx.clock.now() },
      }),
      restore: (state) => {
        value = state.value;
        if (state.next) next.armAt(ctx.clock.now() + state.next.remaining);
      },
    });
    return {
      reset() {
        value = 0;
        next.cancel();
        line.set(false);
      },
    };
  },
});

Deno.test("createTestContext runs a device on real ports, lines and time", () => {
  const { machine, save } = createTestContext(blinker, { options: { irq: 5 } });
  machine.out(PORT, 3);
  assertEquals(machine.in(PORT), 3);
  machine.advance(2_500);
  assertEquals(machine.isaEvents, [[5, true], [5, false], [5, true], [
    5,
    false,
  ]]);
  assertEquals(save(), { value: 3, next: { remaining: 500 } });
});

Deno.test("createTestContext restores a saved state into another context", () => {
  const first = createTestContext(blinker);
  first.machine.out(PORT, 7);
  first.machine.advance(300);
  const second = createTestContext(blinker);
  second.restore(first.save());
  second.machine.advance(700);
  assertEquals(second.machine.isaEvents.length, 2);
  assertThrows(
    () => second.restore({ value: 10, next: null }),
    SchemaError,
    "blinker0.value is 10: expected an integer from 0 to 9",
  );
});

Deno.test("createTestContext throws what a handler throws, with its place", () => {
  const { machine } = createTestContext(blinker);
  assertThrows(
    () => machine.out(PORT, 10),
    PluginError,
    'plugin "blinker", instance "blinker0", failed in port write at 0x500: RangeError: no level 10',
  );
  const kept = createTestContext(blinker, { keepFaults: true });
  kept.machine.out(PORT, 10);
  assertEquals(kept.machine.faults.length, 1);
});
