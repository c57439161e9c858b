// A save leaves the old snapshot or the new one, whole, whatever ends it.

import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { writeMachine } from "../core/machine_file.ts";
import { openSource, writeWhole, zstd } from "../host/snapshot_file.ts";
import { SnapshotReader } from "../snapshot/container.ts";
import { busyMachine, MARK, snapshotOf } from "./hostile/guest.ts";
import { withDirectory } from "./support.ts";

const KILLS = 50;
/** A save of the small machine takes a few of them. */
const LONGEST_WAIT_MS = 40;

/** The number in a snapshot, after all of it has been read and checked. */
async function numberIn(path: string): Promise<number> {
  const source = await openSource(path);
  try {
    const reader = await SnapshotReader.open(source, zstd);
    const ram = new Uint8Array(reader.bytes("ram"));
    await reader.readMemory("ram", ram);
    return new DataView(ram.buffer).getUint32(MARK, true);
  } finally {
    source.close();
  }
}

async function names(directory: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { name } of Deno.readDir(directory)) found.push(name);
  return found.sort();
}

/** Lets a process save over `path`, kills it, and returns the last number that it has told. */
async function saveAndKill(
  original: string,
  path: string,
  first: number,
): Promise<number> {
  const saver = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--no-check"],
      new URL("hostile/saver.ts", import.meta.url).pathname,
      ...[original, path, String(first), String(MARK)],
    ],
    stdin: "null",
    stdout: "piped",
  }).spawn();
  let told = "";
  const reader = saver.stdout.pipeThrough(new TextDecoderStream()).getReader();
  while (!told.includes("\n")) {
    const { value, done } = await reader.read();
    assert(!done, "the process ended by itself");
    told += value;
  }
  await new Promise((resolve) =>
    setTimeout(resolve, Math.random() * LONGEST_WAIT_MS)
  );
  saver.kill("SIGKILL");
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    told += value;
  }
  await saver.status;
  return Number(told.trimEnd().split("\n").at(-1));
}

Deno.test("kill -9 at any moment of a save leaves the old snapshot or the new one", async () => {
  await withDirectory(async (directory) => {
    const original = `${directory}/original.snap`;
    await Deno.writeFile(original, await snapshotOf(await busyMachine()));
    const path = `${directory}/machine.snap`;
    let inSave = 0;
    for (let kill = 0, first = 1; kill < KILLS; kill++) {
      const last = await saveAndKill(original, path, first);
      const found = await numberIn(path);
      // The next one may be in its place before the process could tell.
      assert(found === last || found === last + 1, `${found} after ${last}`);
      const left = await names(directory);
      if (left.length > 2) {
        inSave++;
        assertEquals(left[0], ".machine.snap.part");
      }
      assertEquals(left.slice(-2), ["machine.snap", "original.snap"]);
      first = found + 1;
    }
    assert(inSave > 0, "no kill fell into a save");
    // What the last one left is taken over by the next save of that name.
    await writeWhole(path, (sink) => sink.write(new Uint8Array(1)));
    assertEquals(await names(directory), ["machine.snap", "original.snap"]);
  });
});

Deno.test("a save that fails leaves the old snapshot, no file of its own, and a machine that goes on", async () => {
  await withDirectory(async (directory) => {
    const path = `${directory}/machine.snap`;
    const machine = await busyMachine();
    const save = (most = Infinity) =>
      writeMachine(machine, {
        codec: zstd,
        producer: "test",
        file: (write) =>
          writeWhole(path, (sink) => {
            let left = most;
            return write({
              write(bytes) {
                left -= bytes.length;
                if (left < 0) {
                  throw new Error("No space left on device (os error 28)");
                }
                return sink.write(bytes);
              },
            });
          }),
      });
    machine.memory.writeU32(MARK, 1);
    await save();
    machine.memory.writeU32(MARK, 2);
    for (const most of [0, 100, 10_000]) {
      await assertRejects(() => save(most), Error, "No space left");
      assertEquals(await numberIn(path), 1);
      assertEquals(await names(directory), ["machine.snap"]);
    }
    machine.maxInstructions = machine.cpu.retired + 10_000;
    assertEquals((await machine.run()).reason, "instructions");
    await save();
    assertEquals(await numberIn(path), 2);
    await machine.close();
  });
});

Deno.test("a save refuses what is no file, and a name that is being saved", async () => {
  await withDirectory(async (directory) => {
    const none = () => Promise.resolve();
    await Deno.mkdir(`${directory}/folder`);
    await assertRejects(
      () => writeWhole(`${directory}/folder`, none),
      Error,
      "there is a folder of that name",
    );
    await Deno.symlink("/etc/hostname", `${directory}/.trap.part`);
    await assertRejects(
      () => writeWhole(`${directory}/trap`, none),
      Error,
      "is a link",
    );
    await writeWhole(`${directory}/twice`, async (sink) => {
      await sink.write(new Uint8Array(10));
      await assertRejects(
        () => writeWhole(`${directory}/twice`, none),
        Error,
        "another process is saving to it",
      );
    });
    assertEquals((await Deno.stat(`${directory}/twice`)).size, 10);
    assertEquals(await names(directory), [".trap.part", "folder", "twice"]);
    const error = await assertRejects(() => openSource(directory), Error);
    assertStringIncludes(error.message, "folder");
    await assertRejects(() => openSource("/dev/zero"), Error, "regular");
  });
});
