import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import fs from "node:fs";
import {
  BASE_STAMP,
  type Batch,
  CRASH_SECTORS,
  crashBatches,
  doBatch,
  Expectation,
  stamped,
  ZERO_STAMP,
} from "./crash_writer.ts";
import { Qcow2Block } from "./mod.ts";
import {
  assertSame,
  check,
  qemuImg,
  qemuIo,
  readAll,
  withFolder,
} from "./testing.ts";

const SIZE = CRASH_SECTORS * 512;
const WRITER = new URL("./crash_writer.ts", import.meta.url).pathname;

/** Images: options of qemu-img, and whether they are on another. */
const KINDS = [
  { options: "cluster_size=4k", hasBase: true },
  { options: "cluster_size=64k", hasBase: false },
  // The refcount table has to grow for the disk.
  { options: "cluster_size=512,refcount_bits=64", hasBase: false },
  { options: "cluster_size=16k,extended_l2=on", hasBase: true },
];

async function create(
  folder: string,
  { options, hasBase }: typeof KINDS[number],
): Promise<string> {
  const path = `${folder}/disk.qcow2`;
  const base = `${folder}/base.img`;
  await Deno.writeFile(base, stamped(0, CRASH_SECTORS, BASE_STAMP));
  const backing = hasBase ? ["-b", base, "-F", "raw"] : [];
  const size = String(SIZE);
  await qemuImg("create", "-f", "qcow2", "-o", options, ...backing, path, size);
  return path;
}

const expectationOf = ({ hasBase }: typeof KINDS[number]) =>
  new Expectation(hasBase ? BASE_STAMP : ZERO_STAMP);

/** Checks an image after a crash: qemu-img finds no error, and the content is one that may be there. */
async function assertSurvived(
  path: string,
  expectation: Expectation,
): Promise<void> {
  assertEquals((await check(path)).errors, 0);
  const disk = await Qcow2Block.open(path);
  try {
    expectation.settle(await readAll(disk));
  } finally {
    await disk.close();
  }
}

/** Writes to an image in a process of its own, and kills that after so many lines; returns its lines. */
async function writeUntilKilled(
  path: string,
  seed: number,
  lines: number,
): Promise<string[]> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", WRITER, path, String(seed)],
    stdout: "piped",
  }).spawn();
  let text = "";
  for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) {
    text += part;
    if (text.split("\n").length > lines) {
      try {
        child.kill("SIGKILL");
      } catch {
        // It has been killed already: this is the rest of what it said.
      }
    }
  }
  const { signal } = await child.status;
  assertEquals(signal, "SIGKILL");
  return text.split("\n").slice(0, -1);
}

for (const kind of KINDS) {
  Deno.test(`an image with ${kind.options} has all that was flushed when its process is killed`, async () => {
    await withFolder(async (folder) => {
      const path = await create(folder, kind);
      const expectation = expectationOf(kind);
      for (let round = 1; round <= 6; round++) {
        const lines = await writeUntilKilled(path, round, 5 * round * round);
        const flushed = Number(
          lines.findLast((line) => line.startsWith("flushed"))?.split(" ")[1] ??
            0,
        );
        let begun = lines.filter((line) => line === "begin").length;
        assert(begun > 0);
        let number = 0;
        for (const batch of crashBatches(round)) {
          if (begun-- === 0) break;
          expectation.apply(batch, ++number <= flushed);
        }
        await assertSurvived(path, expectation);
      }
    });
  });
}

/** What happened to the file, in order. */
type Event =
  | { kind: "write"; number: number; position: number; bytes: Uint8Array }
  | { kind: "written" | "syncing" | "synced"; number: number }
  | { kind: "begin" | "flushed"; batch: Batch };

/** Records every write to files and every wait for the host's disk while `work` runs. */
async function record(
  work: (events: Event[]) => Promise<void>,
): Promise<Event[]> {
  const events: Event[] = [];
  const { write, fdatasync } = fs;
  let number = 0;
  const patched = fs as unknown as Record<string, unknown>;
  patched.write = (
    fd: number,
    buffer: Uint8Array,
    offset: number,
    length: number,
    position: number,
    done: (error: Error | null, count: number) => void,
  ) => {
    const bytes = buffer.slice(offset, offset + length);
    const write_ = ++number;
    events.push({ kind: "write", number: write_, position, bytes });
    write(fd, buffer, offset, length, position, (error, count) => {
      events.push({ kind: "written", number: write_ });
      done(error, count);
    });
  };
  patched.fdatasync = (fd: number, done: (error: Error | null) => void) => {
    const sync = ++number;
    events.push({ kind: "syncing", number: sync });
    fdatasync(fd, (error) => {
      events.push({ kind: "synced", number: sync });
      done(error);
    });
  };
  try {
    await work(events);
  } finally {
    Object.assign(patched, { write, fdatasync });
  }
  return events;
}

/** Does batches on an image, and tells when. */
async function writeBatches(
  path: string,
  seed: number,
  events: Event[],
): Promise<void> {
  const disk = await Qcow2Block.open(path);
  let count = 0;
  for (const batch of crashBatches(seed)) {
    events.push({ kind: "begin", batch });
    await doBatch(disk, batch);
    if (batch.flush) events.push({ kind: "flushed", batch });
    if (++count === 25) break;
  }
  await disk.close();
}

/** The file after the host lost its power: what was not waited for is there in part. */
function afterPowerLoss(
  start: Uint8Array,
  events: Event[],
  random: (below: number) => number,
): Uint8Array {
  const written = new Set<number>();
  const waited = new Map<number, Set<number>>();
  let durable = new Set<number>();
  let size = start.length;
  for (const event of events) {
    if (event.kind === "written") written.add(event.number);
    if (event.kind === "syncing") waited.set(event.number, new Set(written));
    if (event.kind === "synced") {
      durable = durable.union(waited.get(event.number)!);
    }
    if (event.kind === "write") {
      size = Math.max(size, event.position + event.bytes.length);
    }
  }
  const bytes = new Uint8Array(size);
  bytes.set(start);
  let end = start.length;
  for (const event of events) {
    if (event.kind !== "write") continue;
    const { position, number } = event;
    for (let at = 0; at < event.bytes.length; at += 512) {
      if (!durable.has(number) && random(2) === 0) continue;
      const part = event.bytes.subarray(at, at + 512);
      bytes.set(part, position + at);
      end = Math.max(end, position + at + part.length);
    }
  }
  return bytes.subarray(0, end);
}

/** Random numbers, the same for the same seed. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

for (const kind of KINDS) {
  Deno.test(`an image with ${kind.options} has all that was flushed when the host loses its power`, async () => {
    await withFolder(async (folder) => {
      const path = await create(folder, kind);
      const start = await Deno.readFile(path);
      await fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 1, max: 1000 }),
          fc.array(fc.tuple(fc.nat(), fc.integer({ min: 1 })), {
            minLength: 8,
            maxLength: 8,
          }),
          async (seed, crashes) => {
            await Deno.writeFile(path, start);
            const events = await record((events) =>
              writeBatches(path, seed, events)
            );
            for (const [moment, choice] of crashes) {
              const before = events.slice(0, moment % (events.length + 1));
              const random = randomFrom(choice);
              const crashed = `${folder}/crashed.qcow2`;
              const bytes = afterPowerLoss(start, before, random);
              await Deno.writeFile(crashed, bytes);
              const expectation = expectationOf(kind);
              const last = before.findLastIndex(({ kind }) =>
                kind === "flushed"
              );
              before.forEach((event, i) => {
                if (event.kind !== "begin") return;
                expectation.apply(event.batch, i < last);
              });
              await assertSurvived(crashed, expectation);
            }
          },
        ),
        { numRuns: 3, endOnFailure: true },
      );
    });
  });
}

Deno.test("the repair of an image is done or not when the host loses its power", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/disk.qcow2`;
    const options = "lazy_refcounts=on,cluster_size=4k";
    const size = String(SIZE);
    await qemuImg("create", "-f", "qcow2", "-o", options, path, size);
    // It ends without closing the image.
    await assertRejects(() =>
      qemuIo(path, "write -P 7 100k 300k", "flush", "abort")
    );
    const start = await Deno.readFile(path);
    const events = await record(async () => {
      await (await Qcow2Block.open(path)).close();
    });
    assert(events.length > 0);
    for (let moment = 0; moment <= events.length; moment++) {
      for (let choice = 1; choice <= 4; choice++) {
        const before = events.slice(0, moment);
        const bytes = afterPowerLoss(start, before, randomFrom(choice));
        await Deno.writeFile(path, bytes);
        const disk = await Qcow2Block.open(path);
        const content = await readAll(disk);
        await disk.close();
        assertEquals((await check(path)).errors, 0);
        const expected = new Uint8Array(SIZE);
        expected.fill(7, 100 * 1024, 400 * 1024);
        assertSame(content, expected);
      }
    }
  });
});
