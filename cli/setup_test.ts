import { assertEquals, assertRejects } from "@std/assert";
import { PLATFORM } from "../plugins/mod.ts";
import { UsageError } from "./errors.ts";
import type { RunOptions } from "./run.ts";
import { plan } from "./setup.ts";

function options(changes: Partial<RunOptions> = {}): RunOptions {
  return { cpus: 1, ...changes };
}

async function backends(...dev: string[]): Promise<string[]> {
  const { devices } = await plan(options({ dev }));
  return devices.filter(({ plugin }) => plugin.backend === "char").map((
    { id, options },
  ) => `${id}=${options.backend.backend}`);
}

Deno.test("plan adds the platform's devices", async () => {
  const { devices, memory } = await plan(options({ dev: ["virtio-blk"] }));
  assertEquals(memory, 512 << 20);
  assertEquals(devices.map(({ plugin }) => plugin.name), [
    ...PLATFORM,
    "virtio-blk",
  ]);
});

Deno.test("plan lets a device that is named replace the platform's", async () => {
  const { devices } = await plan(options({ dev: ["virtio-blk,uart:irq=3"] }));
  const uarts = devices.filter(({ plugin }) => plugin.name === "uart");
  assertEquals(uarts.map(({ options }) => options.own), [{ irq: 3 }]);
});

Deno.test("plan gives the terminal to the first console that has none", async () => {
  assertEquals(await backends(), ["uart0=stdio"]);
  assertEquals(await backends("uart,uart"), ["uart0=stdio", "uart1=null"]);
  assertEquals(await backends("uart:backend=null", "uart"), [
    "uart0=null",
    "uart1=stdio",
  ]);
  assertEquals(await backends("uart,uart:backend=stdio:id=console"), [
    "uart0=null",
    "console=stdio",
  ]);
});

Deno.test("plan refuses wrong options in one line", async () => {
  const refused = async (changes: Partial<RunOptions>, message: string) => {
    const error = await assertRejects(
      () => plan(options(changes)),
      Error,
      message,
    );
    assertEquals(error.message.includes("\n"), false);
  };
  await refused({ mem: "lots" }, '--mem is "lots"');
  await refused({ cpus: 2 }, "--cpus is 2: expected 1");
  await refused({ maxInstructions: 0 }, "expected a number above 0");
  await refused({ exec: "ls", guest: "monitor" }, "--guest monitor");
  await refused({ trace: ["port"] }, 'Did you mean "ports"?');
  await refused({ dev: ["uart:irq=99"] }, "expected a number from 0 to 15");
  await refused({ dev: ["uart:id=a", "uart:id=a"] }, 'id "a" is used twice');
  await assertRejects(
    () => plan(options({ dev: ["uart:bakend=null"] })),
    UsageError,
    'unknown option "bakend" of device "uart"',
  );
});
