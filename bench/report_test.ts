import { assertEquals } from "@std/assert";
import { best, makeRow, toJson, toTable } from "./report.ts";

Deno.test("makeRow divides ours by TCG's, and has null where nothing was measured", () => {
  const row = makeRow("awk", "s", {
    ours: { value: 8, details: { guest_s: 8.01 }, output: "42" },
    tcg: { value: 2, output: "42" },
  });
  assertEquals(row, {
    name: "awk",
    unit: "s",
    ours: 8,
    tcg: 2,
    native: null,
    v86: null,
    ours_s: 8,
    tcg_s: 2,
    native_s: null,
    v86_s: null,
    ratio: 4,
    details: { ours_guest_s: 8.01 },
    errors: [],
  });
});

Deno.test("makeRow has no seconds where the unit is another", () => {
  const row = makeRow("rss", "MiB", { ours: { value: 300 } });
  assertEquals([row.ours, row.ours_s, row.ratio], [300, null, null]);
});

Deno.test("makeRow reports outputs that differ", () => {
  const row = makeRow("sha256", "s", {
    ours: { value: 1, output: "ab" },
    tcg: { value: 1, output: "cd" },
    native: { value: 1, output: "cd" },
  }, ["v86 is missing"]);
  assertEquals(row.errors, [
    "v86 is missing",
    'outputs differ: ours "ab", tcg and native "cd"',
  ]);
});

Deno.test("best takes the least value", () => {
  const samples = [{ value: 3 }, { value: 1, output: "x" }, { value: 2 }];
  assertEquals(best(samples), { value: 1, output: "x" });
});

Deno.test("toJson is an array with every key in every row", () => {
  const rows = [
    makeRow("boot", "s", { ours: { value: 1.23456 } }),
    makeRow("idle", "%", {}),
  ];
  const parsed = JSON.parse(toJson(rows));
  assertEquals(parsed, rows);
  assertEquals(Object.keys(parsed[1]), Object.keys(parsed[0]));
  assertEquals(parsed[0].ours_s, 1.235);
});

Deno.test("toTable aligns its columns and ends with the errors", () => {
  const rows = [
    makeRow("boot", "s", { ours: { value: 12.5 }, tcg: { value: 2.5 } }),
    makeRow("rss", "MiB", { ours: { value: 1234 } }, ["QEMU: no end"]),
  ];
  assertEquals(
    toTable(rows),
    [
      "workload      ours  QEMU TCG  native  v86  ratio  details",
      "boot        12.5 s    2.50 s       -    -  5.00x",
      "rss       1234 MiB         -       -    -      -",
      "",
      "rss: QEMU: no end",
    ].join("\n"),
  );
});
