import { assertEquals, assertRejects } from "@std/assert";
import { loadPlugin } from "./devices.ts";
import { CliError, EXIT_FAILED, EXIT_USAGE, UsageError } from "./errors.ts";

const TESTDATA = new URL("./testdata/", import.meta.url).pathname;

Deno.test("loadPlugin loads a built-in device", async () => {
  const plugin = await loadPlugin({ name: "uart", version: "1" });
  assertEquals(plugin.name, "uart");
});

Deno.test("loadPlugin suggests the name that was meant", async () => {
  const error = await assertRejects(
    () => loadPlugin({ name: "virtio-blok" }),
    UsageError,
    'unknown device "virtio-blok". Did you mean "virtio-blk"?',
  );
  assertEquals(error.exitCode, EXIT_USAGE);
});

Deno.test("loadPlugin imports a device by path and by URL", async () => {
  const path = `${TESTDATA}scratch.ts`;
  assertEquals((await loadPlugin({ name: path })).name, "scratch");
  const url = new URL(path, "file:").href;
  assertEquals((await loadPlugin({ name: url })).name, "scratch");
});

Deno.test("loadPlugin says which file failed, and why", async () => {
  const refused = async (name: string, message: string) => {
    const error = await assertRejects(
      () => loadPlugin({ name }),
      CliError,
      message,
    );
    assertEquals(error.exitCode, EXIT_FAILED);
    assertEquals(error.message.includes("\n"), false);
  };
  const file = `${TESTDATA}throws_on_import.ts`;
  await refused(file, `cannot load device "${file}": broken at the top`);
  await refused(`${TESTDATA}missing.ts`, "missing.ts");
  await refused(
    `${TESTDATA}no_plugin.ts`,
    "its default export must come from definePlugin",
  );
});

Deno.test("loadPlugin refuses another version than the one asked for", async () => {
  await assertRejects(
    () => loadPlugin({ name: `${TESTDATA}scratch.ts`, version: "2" }),
    CliError,
    "is version 1.0.0, but 2 was asked for",
  );
});
