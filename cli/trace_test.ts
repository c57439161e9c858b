import { assertEquals, assertThrows } from "@std/assert";
import { CliError, UsageError } from "./errors.ts";
import { openTrace, parseTraceKinds } from "./trace.ts";

Deno.test("parseTraceKinds takes lists", () => {
  assertEquals(
    parseTraceKinds(["ports,mmio", "irq"]),
    new Set(["ports", "mmio", "irq"] as const),
  );
  assertThrows(
    () => parseTraceKinds(["port"]),
    UsageError,
    'unknown trace "port": expected blocks, exceptions, ports, mmio, irq. Did you mean "ports"?',
  );
});

Deno.test("openTrace writes lines to the file", async () => {
  const path = await Deno.makeTempFile();
  const trace = openTrace(new Set(["ports"]), path);
  trace.sinks.ports?.("out 0x80");
  assertEquals(trace.sinks.irq, undefined);
  trace.close();
  assertEquals(await Deno.readTextFile(path), "ports: out 0x80\n");
  await Deno.remove(path);
});

Deno.test("openTrace names a file that cannot be written", () => {
  assertThrows(
    () => openTrace(new Set(["irq"]), "/no/such/dir/trace"),
    CliError,
    'cannot write trace file "/no/such/dir/trace"',
  );
});
