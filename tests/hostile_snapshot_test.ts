// Snapshots are untrusted: whatever is in one, there is one clear error or a machine that works.
//
// Each of the 20,000 is a good snapshot with one change (tests/hostile/mutate.ts), most of them
// under hashes that are right. It is opened, planned and restored as the command does it, but with
// backends in memory; a machine that was restored runs 50,000 instructions. Made new for each that
// runs; one that has only refused takes the next, though the command throws it away. What machines
// share in a process anyway is shared: the interpreter's code.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { encode, type ValueType } from "@std/msgpack";
import { SnapshotError } from "../snapshot/container.ts";
import { SchemaError } from "../snapshot/schema.ts";
import { assemble } from "./hostile/file.ts";
import { busyMachine, snapshotOf } from "./hostile/guest.ts";
import { mutantOf, takeApart } from "./hostile/mutate.ts";
import { open, Subject } from "./hostile/subject.ts";
import type { Report, Work } from "./hostile/worker.ts";
import { newSeed } from "./support.ts";

const original = takeApart(await snapshotOf(await busyMachine()));

/** The snapshot with a chunk's payload made anew from what was in it. */
function changed(
  tag: string,
  change: (tree: Record<string, unknown>) => unknown,
): Uint8Array {
  const { chunks, file, trees } = original;
  const number = chunks.findIndex((chunk) => chunk.tag === tag);
  const tree = trees.get(number)!.tree as Record<string, unknown>;
  const payload = encode(change(tree) as ValueType);
  return assemble(file, chunks.with(number, { tag, payload }));
}

/** The snapshot with other bytes as a chunk's payload. */
function withPayload(number: number, payload: Uint8Array): Uint8Array {
  const { chunks, file } = original;
  return assemble(file, chunks.with(number, { ...chunks[number], payload }));
}

const CASES = Number(Deno.env.get("HOSTILE_CASES") ?? 20_000);
/** What a CI machine has. */
const THREADS = 2;
/** A case that takes so long is taken for a hang, in milliseconds. */
const HANG_MS = 120_000;
const LOOK_MS = 1_000;

/** Runs a thread; a case that does not end ends it. */
function thread(seed: number, first: number): Promise<Report> {
  const begun = new Int32Array(new SharedArrayBuffer(4)).fill(-1);
  const worker = new Worker(new URL("hostile/worker.ts", import.meta.url), {
    type: "module",
  });
  const work: Work = { seed, first, step: THREADS, end: CASES, begun };
  return new Promise<Report>((resolve, reject) => {
    let last = -1;
    let since = performance.now();
    const timer = setInterval(() => {
      const now = performance.now();
      const number = Atomics.load(begun, 0);
      if (number !== last) [last, since] = [number, now];
      if (now - since < HANG_MS) return;
      clearInterval(timer);
      worker.terminate();
      const { what } = mutantOf(original, seed, number);
      resolve({ number, what: what(), error: "it does not end" });
    }, LOOK_MS);
    worker.onmessage = ({ data }: MessageEvent<Report>) => {
      clearInterval(timer);
      resolve(data);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      clearInterval(timer);
      reject(new Error(`the thread ended: ${event.message}`));
    };
    worker.postMessage(work);
  });
}

Deno.test(`${CASES} mutated snapshots give one clear error each, or a machine that works`, async () => {
  const seed = newSeed();
  const reports = await Promise.all(
    Array.from({ length: THREADS }, (_, i) => thread(seed, i)),
  );
  let done = 0;
  for (const report of reports) {
    if (!("counts" in report)) {
      throw new Error(
        `case ${report.number}: ${report.what}: ${report.error}`,
      );
    }
    for (const count of Object.values(report.counts)) {
      done += count;
      // Each kind of end is one that many come to, or the test tests nothing.
      assert(count > CASES / 100, JSON.stringify(report.counts));
    }
  }
  assertEquals(done, CASES);
});

Deno.test("what a payload claims to hold is not made room for", async () => {
  const claims = [0xdd, 0xdf].map((first) => {
    const claim = [first, 0x01, 0xff, 0xff, 0xff];
    return Uint8Array.from({ length: 5000 }, (_, i) => claim[i % 5]);
  });
  const nested = new Uint8Array(1 << 20).fill(0x91);
  const many = new Uint8Array(3 << 20).fill(0xc0);
  many.set([0xdd, 0, 0x2f, 0xff, 0xfb]);
  for (const payload of [...claims, nested, many]) {
    await assertRejects(
      () => open(withPayload(1, payload)),
      SnapshotError,
      "chunk 1 (COMP)",
    );
  }
});

Deno.test("keys that are there twice, or are no texts, are refused", async () => {
  const twice = Uint8Array.of(0x82, 0xa1, 0x61, 1, 0xa1, 0x61, 2);
  const number = Uint8Array.of(0x81, 1, 2);
  const time = Uint8Array.of(0x81, 0xa1, 0x61, 0xd6, 0xff, 0, 0, 0, 0);
  for (
    const [payload, message] of [
      [twice, "the key at byte 4 is a second"],
      [number, "the key at byte 1 is no text"],
      [time, "byte 3 is 0xd6, which begins no value here"],
    ] as const
  ) {
    await assertRejects(
      () => open(withPayload(1, payload)),
      SnapshotError,
      message,
    );
  }
});

Deno.test("a memory is as large as the manifest says before its map is read", async () => {
  const larger = changed("PMAP", (tree) => ({ ...tree, bytes: 2 ** 32 }));
  await assertRejects(() => open(larger), SchemaError, "PMAP");
  const disk = changed("PMAP", (tree) => ({ ...tree, region: "disk:none0" }));
  await assertRejects(
    () => open(disk),
    SchemaError,
    "expected ram, rom or the disk of a device of the manifest",
  );
});

Deno.test("thousands of devices, or two of one id, are one error", async () => {
  const subject = new Subject();
  type Devices = { devices: { id: string; plugin: string }[] };
  const devices = (make: (d: Devices["devices"]) => unknown[]) =>
    changed("MANI", (tree) => ({
      ...tree,
      devices: make((tree as unknown as Devices).devices),
    }));
  for (const plugin of ["uart", "virtio-blk", "lapic"]) {
    const many = devices((all) => {
      const one = all.find((device) => device.plugin === plugin)!;
      const more = Array.from(
        { length: 4000 },
        (_, i) => ({ ...one, id: `d${i}` }),
      );
      return [...all, ...more];
    });
    assertEquals(await subject.take(many), "refused by the machine");
  }
  const twice = devices((all) => [...all, all[0]]);
  assertEquals(await subject.take(twice), "refused by the machine");
  const tooMany = devices((all) => Array(4097).fill(all[0]));
  await assertRejects(() => open(tooMany), SchemaError, "at most 4096");
});

Deno.test("capabilities whose bodies are others do not keep their device from being found", async () => {
  const { chunks, file, trees } = original;
  const number = chunks.findIndex((_, i) =>
    (trees.get(i)?.tree as { id?: string } | undefined)?.id === "pci"
  );
  const tree = structuredClone(trees.get(number)!.tree) as {
    state: { functions: { owner: string; config: Uint8Array }[] };
  };
  const { config } = tree.state.functions.find(({ owner }) =>
    owner === "virtio-blk0"
  )!;
  const VENDOR_SPECIFIC = 9, CFG_TYPE = 3, CAPABILITIES_POINTER = 0x34;
  for (let at = config[CAPABILITIES_POINTER]; at !== 0; at = config[at + 1]) {
    if (config[at] === VENDOR_SPECIFIC) config[at + CFG_TYPE] = 0xee;
  }
  const payload = encode(tree as unknown as ValueType);
  const changed = assemble(
    file,
    chunks.with(number, { tag: "COMP", payload }),
  );
  assertEquals(await new Subject().take(changed), "ran");
});
