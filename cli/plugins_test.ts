import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { BUILT_IN } from "../plugins/mod.ts";
import { diapause } from "./testing.ts";

Deno.test("plugins NAME tells a device's version, state, backend and options", async () => {
  const { code, stdout } = await diapause("plugins", "virtio-blk");
  assertEquals(code, 0);
  assertMatch(stdout, /^virtio-blk \d+\.\d+\.\d+\n/);
  assertMatch(stdout, /^State: +"virtio-blk" version \d/m);
  assertMatch(stdout, /^Backend: +block$/m);
  assertMatch(stdout, /^ {2}readonly +.*on or off \(default off\)$/m);
});

Deno.test("plugins NAME --schema prints the JSON Schema of a device's state", async () => {
  const { stdout } = await diapause("plugins", "uart", "--schema");
  const schema = JSON.parse(stdout);
  assertEquals(schema.$schema, "https://json-schema.org/draft/2020-12/schema");
  assertEquals(schema.title, "uart");
  assertEquals(schema.properties.lcr, {
    type: "integer",
    minimum: 0,
    maximum: 255,
  });
  assertEquals(schema.required.includes("lcr"), true);
});

Deno.test("plugins --json tells programs what people are told", async () => {
  const all = JSON.parse((await diapause("plugins", "--json")).stdout);
  assertEquals(
    all.map(({ name }: { name: string }) => name),
    Object.keys(BUILT_IN).sort(),
  );
  const one = JSON.parse((await diapause("plugins", "uart", "--json")).stdout);
  assertEquals(one.name, "uart");
  assertEquals(one.backend, "char");
  assertEquals(one.options.irq.type, "number");
});

Deno.test("plugins refuses a schema of nothing, and a device that is none", async () => {
  const none = await diapause("plugins", "--schema");
  assertEquals(none.code, 2);
  assertStringIncludes(none.stderr, "expected a device");
  const other = await diapause("plugins", "uarrt", "--schema");
  assertEquals(other.code, 2);
  assertStringIncludes(other.stderr, 'Did you mean "uart"?');
});
