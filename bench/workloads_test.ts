import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { encodeCpio } from "../host/guests/cpio.ts";
import { measureWorkload, selectWorkloads } from "./main.ts";
import { fileOfArchive } from "./native.ts";
import { firstInstructionFirmware, qemuArguments } from "./qemu.ts";
import { usedMemory } from "./script.ts";
import { BenchError } from "./session.ts";
import { type Equipment, type Workload, WORKLOADS } from "./workloads.ts";

/** For workloads that need nothing. */
const NO_EQUIPMENT = {} as Equipment;

Deno.test("every workload has a name of its own and is measured on this project", () => {
  const names = WORKLOADS.map(({ name }) => name);
  assertEquals(new Set(names).size, names.length);
  assert(
    WORKLOADS.every((each) =>
      "rows" in each || each.measure.ours !== undefined
    ),
  );
});

Deno.test("selectWorkloads keeps the order and refuses unknown names", () => {
  assertEquals(
    selectWorkloads("awk, boot").map(({ name }) => name),
    ["boot", "awk"],
  );
  assertEquals(selectWorkloads(undefined).length, WORKLOADS.length);
  assertThrows(
    () => selectWorkloads("bot"),
    Error,
    '--only names "bot": expected one of start, boot,',
  );
  assertThrows(() => selectWorkloads("bot"), Error, 'Did you mean "boot"?');
});

Deno.test("measureWorkload takes the best of the repetitions, system by system", async () => {
  const values = { ours: [6, 4, 5], tcg: [2, 3, 2.5] };
  const order: string[] = [];
  const workload: Workload = {
    name: "test",
    summary: "nothing",
    unit: "s",
    measure: {
      ours: () => ({ value: (order.push("ours"), values.ours.shift()!) }),
      tcg: () => ({ value: (order.push("tcg"), values.tcg.shift()!) }),
      native: () => ({ value: 1 }),
    },
  };
  const row = await measureWorkload(
    workload,
    3,
    new Set(["ours", "tcg"]),
    NO_EQUIPMENT,
    () => {},
  );
  assertEquals([row.ours, row.tcg, row.native, row.ratio], [4, 2, null, 2]);
  assertEquals(order, ["ours", "tcg", "ours", "tcg", "ours", "tcg"]);
});

Deno.test("measureWorkload keeps the others where one system fails", async () => {
  const workload: Workload = {
    name: "test",
    summary: "nothing",
    unit: "s",
    measure: {
      ours: () => Promise.reject(new BenchError("ours: no end of test")),
      tcg: () => ({ value: 2 }),
    },
  };
  const row = await measureWorkload(
    workload,
    2,
    new Set(["ours", "tcg"]),
    NO_EQUIPMENT,
    () => {},
  );
  assertEquals([row.ours, row.tcg, row.ratio], [null, 2, null]);
  assertEquals(row.errors, ["ours: no end of test"]);
});

Deno.test("measureWorkload does not hide a fault of the benchmark", async () => {
  const workload: Workload = {
    name: "test",
    summary: "nothing",
    unit: "s",
    measure: { ours: () => Promise.reject(new TypeError("a fault")) },
  };
  await assertRejects(
    () =>
      measureWorkload(workload, 1, new Set(["ours"]), NO_EQUIPMENT, () => {}),
    TypeError,
    "a fault",
  );
});

Deno.test("fileOfArchive finds a file behind others", () => {
  const content = new TextEncoder().encode("12345");
  const archive = encodeCpio([
    { path: "bin", type: "directory" },
    { path: "bin/odd", type: "file", content: new Uint8Array(3) },
    { path: "bin/busybox", type: "file", content },
  ]);
  assertEquals(fileOfArchive(archive, "bin/busybox"), content);
  assertEquals(fileOfArchive(archive, "bin/none"), undefined);
});

Deno.test("qemuArguments has one thread of TCG and only what the guest has", () => {
  const args = qemuArguments({ kernel: "/k", initrd: "/i", cmdline: "quiet" });
  assertEquals(args[args.indexOf("-accel") + 1], "tcg,thread=single");
  assertEquals(args.slice(args.indexOf("-kernel")), [
    ...["-kernel", "/k", "-initrd", "/i", "-append", "quiet"],
  ]);
  assert(!qemuArguments({ kernel: "/k" }).includes("-initrd"));
});

Deno.test("firstInstructionFirmware writes to the exit port at the reset vector", () => {
  const image = firstInstructionFirmware();
  assertEquals(
    [...image.subarray(image.length - 16, image.length - 10)],
    [0xba, 0x01, 0x05, 0x30, 0xc0, 0xee],
  );
});

Deno.test("usedMemory reads the guest's kernel", () => {
  assertEquals(usedMemory("MemTotal: 482000\nMemFree: 450256"), 31);
  assertEquals(usedMemory("MemTotal: 482000"), undefined);
});
