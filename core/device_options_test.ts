import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  describeOption,
  formatSize,
  parseOptions,
  parseSize,
} from "./device_options.ts";
import { MachineError } from "./plugin.ts";
import type { OptionSpec } from "./plugin.ts";

const SPECS: Record<string, OptionSpec> = {
  irq: { type: "number", help: "line", default: 4, min: 0, max: 15 },
  port: { type: "number", help: "first port" },
  size: { type: "size", help: "bytes", min: 512 },
  fifo: { type: "boolean", help: "FIFOs", default: true },
  mode: { type: "string", help: "mode", choices: ["fast", "slow"] },
};

const given = (options: Record<string, string>) =>
  parseOptions("uart", SPECS, new Map(Object.entries(options)));

Deno.test("parseSize reads powers of 1024", () => {
  assertEquals(parseSize("512"), 512);
  assertEquals(parseSize("64K"), 65536);
  assertEquals(parseSize("1.5m"), 1.5 * 2 ** 20);
  assertEquals(parseSize("2GiB"), 2 ** 31);
  for (const text of ["", "M", "-1M", "1X", "0.3K", "1e3", "9999999T"]) {
    assertEquals(parseSize(text), undefined, text);
  }
});

Deno.test("formatSize is the inverse of parseSize", () => {
  assertEquals(formatSize(2 ** 29), "512M");
  fc.assert(fc.property(fc.nat(), (bytes) => {
    assertEquals(parseSize(formatSize(bytes)), bytes);
  }));
});

Deno.test("parseOptions gives defaults and typed values", () => {
  assertEquals(given({}), { irq: 4, fifo: true });
  assertEquals(
    given({ irq: "3", port: "0x3f8", size: "1K", fifo: "off", mode: "slow" }),
    { irq: 3, port: 0x3f8, size: 1024, fifo: false, mode: "slow" },
  );
});

Deno.test("parseOptions names what is wrong", () => {
  const refused = (options: Record<string, string>, message: string) =>
    assertThrows(() => given(options), MachineError, message);
  refused({ qri: "1" }, 'unknown option "qri" of device "uart"');
  refused({ ports: "1" }, 'Did you mean "port"?');
  refused({ irq: "x" }, 'is "x": expected a number from 0 to 15');
  refused({ irq: "16" }, "expected a number from 0 to 15");
  refused({ size: "256" }, "expected a size such as 64M, at least 512");
  refused({ fifo: "maybe" }, "expected on or off");
  refused({ mode: "medium" }, "expected one of fast, slow");
  refused({ constructor: "1" }, "unknown option");
});

Deno.test("describeOption says what an option takes", () => {
  assertEquals(describeOption(SPECS.port), "a number");
  assertEquals(
    describeOption({ type: "size", help: "", max: 1024 }),
    "a size such as 64M, at most 1K",
  );
});
