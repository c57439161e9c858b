import { assert, assertEquals, assertThrows } from "@std/assert";
import { MachineError } from "../core/plugin.ts";
import { InputHub } from "../host/input/hub.ts";
import { allOptions, openBackend, sortOptions } from "./backends.ts";
import { loadPlugin } from "./devices.ts";

const HOST = {
  escape: { quit() {}, help() {} },
  notify() {},
  input: new InputHub(),
};

Deno.test("sortOptions tells a plugin's options from its backend's", async () => {
  const uart = await loadPlugin({ name: "uart" });
  const sorted = sortOptions(
    uart,
    new Map([["irq", "3"], ["backend", "file=/tmp/log"]]),
  );
  assertEquals(sorted.own, { irq: 3 });
  assertEquals(sorted.backend, { backend: "file=/tmp/log" });
});

Deno.test("sortOptions knows all that a device takes", async () => {
  const uart = await loadPlugin({ name: "uart" });
  assert(Object.hasOwn(allOptions(uart), "backend"));
  assertThrows(
    () => sortOptions(uart, new Map([["bakend", "null"]])),
    MachineError,
    'Did you mean "backend"?',
  );
});

Deno.test("sortOptions reads a place on the PCI bus", async () => {
  const disk = await loadPlugin({ name: "virtio-blk" });
  const at = (addr: string) =>
    sortOptions(disk, new Map([["addr", addr]])).own.addr;
  assertEquals(at("3"), "3");
  assertThrows(() => at("32"), MachineError, "32");
  assertThrows(() => at("1.8"), MachineError, "1.8");
});

Deno.test("openBackend opens consoles and images", async () => {
  const console = await openBackend("char", "uart0", { backend: "null" }, HOST);
  await console.close();
  const disk = await openBackend("block", "disk0", { size: 4096 }, HOST);
  assertEquals("size" in disk.backend && disk.backend.size, 4096);
  await disk.close();
});
