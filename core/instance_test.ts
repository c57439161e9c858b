import { assertEquals, assertThrows } from "@std/assert";
import { PluginError } from "./fault.ts";
import {
  type CharBackend,
  definePlugin,
  type DeviceContext,
  MachineError,
} from "./plugin.ts";
import { schema, SchemaError, u8 } from "../snapshot/schema.ts";
import { createTestContext, TestContext } from "./testing/context.ts";

const nowhere: CharBackend = {
  write: () => true,
  onInput() {},
  ready() {},
  onDrain() {},
};

/** A plugin whose `create` is given. */
function plugin(
  create: (ctx: DeviceContext<{ value: number }, "char">) => void,
) {
  return definePlugin({
    name: "thing",
    version: "1.0.0",
    summary: "test device",
    options: {
      irq: { type: "number", help: "line", default: 3 },
      note: { type: "string", help: "text" },
    },
    state: schema("thing", 2, { value: u8() }, {
      1: (old) => ({ value: (old as { level: number }).level }),
    }),
    backend: "char",
    create(ctx: DeviceContext<{ value: number }, "char">) {
      create(ctx);
      return { reset() {} };
    },
  });
}

function registered(value = 1) {
  let last = value;
  return plugin((ctx) =>
    ctx.snapshot.register({
      save: () => ({ value: last }),
      restore: (state) => {
        if (state.value > 9) throw new RangeError(`no level ${state.value}`);
        last = state.value;
      },
    })
  );
}

Deno.test("an instance has its options with defaults", () => {
  const { instance } = createTestContext(registered(), {
    options: { note: "x" },
    backend: nowhere,
  });
  assertEquals(instance.options, { irq: 3, note: "x" });
});

Deno.test("create names a plugin that throws, and leaves no interrupt source behind", () => {
  const machine = new TestContext();
  const error = assertThrows(() =>
    machine.add(
      plugin((ctx) => {
        ctx.isa.irq(4).set(true);
        throw new TypeError("no such chip");
      }),
      { id: "broken", backend: nowhere },
    ), PluginError);
  assertEquals(
    error.message,
    'plugin "thing", instance "broken", failed in create: TypeError: no such chip',
  );
  assertEquals(machine.interrupts.save().sources, []);
  assertEquals(machine.isaEvents, [[4, true], [4, false]]);
});

Deno.test("create refuses a device without state or without its backend", () => {
  assertThrows(
    () => createTestContext(plugin(() => {}), { backend: nowhere }),
    PluginError,
    "did not call ctx.snapshot.register",
  );
  assertThrows(
    () => createTestContext(registered(), { backend: undefined }),
    MachineError,
    'device "thing0" needs a char backend',
  );
});

Deno.test("save checks the state against its schema", () => {
  const { instance } = createTestContext(registered(300), {
    backend: nowhere,
  });
  assertThrows(
    () => instance.save(),
    PluginError,
    "failed in save: SchemaError: thing0.value is 300",
  );
});

Deno.test("restore migrates, validates, and names a device that refuses", () => {
  const { instance, save, restore } = createTestContext(registered(), {
    backend: nowhere,
  });
  restore({ level: 7 }, 1);
  assertEquals(save(), { value: 7 });
  assertThrows(() => instance.restore({ value: 1 }, 3), SchemaError);
  assertThrows(
    () => restore({ value: 10 }),
    PluginError,
    "failed in restore: RangeError: no level 10",
  );
});
