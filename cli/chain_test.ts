// Incremental snapshots as files: what they build on is found, checked, and not lost.

import { assert, assertEquals, assertRejects } from "@std/assert";
import { Machine } from "../core/machine.ts";
import { openSource, writeWhole, zstd } from "../host/snapshot_file.ts";
import {
  type Manifest,
  SnapshotReader,
  writeSnapshot,
} from "../snapshot/container.ts";
import { contentOf, pagesOf } from "../snapshot/memory_image.ts";
import { CliError } from "./errors.ts";
import { openSnapshot, restoreSnapshot, saveSnapshot } from "./snapshots.ts";

const MEMORY = 1 << 20;
const PAGE = 4096;

function makeMachine(): Promise<Machine> {
  return Machine.create({
    memory: MEMORY,
    clock: "instructions",
    hostNow: () => performance.now(),
    devices: [],
  });
}

/** A machine and a chain of snapshots of it, each with one more page than the one before. */
async function withChain(
  names: readonly string[],
  use: (folder: string, machine: Machine) => Promise<void>,
): Promise<void> {
  const folder = await Deno.realPath(await Deno.makeTempDir());
  const machine = await makeMachine();
  try {
    for (const [i, name] of names.entries()) {
      machine.memory.writeU8(i * PAGE, i + 1);
      await saveSnapshot(machine, [], `${folder}/${name}`, {
        incremental: i > 0,
      });
    }
    await use(folder, machine);
  } finally {
    await machine.close();
    await Deno.remove(folder, { recursive: true });
  }
}

async function memoryOf(path: string): Promise<Uint8Array> {
  const { reader, close } = await openSnapshot(path);
  const ram = new Uint8Array(reader.bytes("ram"));
  await reader.readMemory("ram", ram);
  close();
  return ram;
}

function refused(path: string, message: string): Promise<Error> {
  return assertRejects(() => openSnapshot(path), CliError, message);
}

Deno.test("a chain of snapshots has one page each, and is whole in another folder", async () => {
  await withChain(["one", "two", "three"], async (folder, machine) => {
    const { reader, files, close } = await openSnapshot(`${folder}/three`);
    assertEquals(
      reader.chain.map((each) => each.storedPages("ram")),
      [1, 1, 1],
    );
    assertEquals(files, ["three", "two", "one"].map((n) => `${folder}/${n}`));
    close();
    await Deno.mkdir(`${folder}/moved`);
    for (const name of ["one", "two", "three"]) {
      await Deno.rename(`${folder}/${name}`, `${folder}/moved/${name}`);
    }
    // Also by a link from elsewhere.
    await Deno.symlink(`${folder}/moved/three`, `${folder}/link`);
    for (const path of ["moved/three", "link"]) {
      assertEquals(
        await memoryOf(`${folder}/${path}`),
        machine.memory.ramBytes,
      );
    }
  });
});

Deno.test("a parent that is missing, damaged or another snapshot is named", async () => {
  await withChain(["one", "two", "three"], async (folder, machine) => {
    const one = await Deno.readFile(`${folder}/one`);
    await Deno.remove(`${folder}/one`);
    await refused(
      `${folder}/three`,
      `cannot open the snapshot "${folder}/three": parent "two": parent "one": there is no file "${folder}/one": put it back`,
    );
    await Deno.mkdir(`${folder}/one`);
    await refused(
      `${folder}/two`,
      `parent "one": "${folder}/one" cannot be opened: it is a folder: put it back`,
    );
    await Deno.remove(`${folder}/one`);
    await Deno.writeFile(`${folder}/one`, one.subarray(0, one.length - 100));
    await refused(`${folder}/two`, 'parent "one": ');
    // Another one of the same name, in the same place.
    machine.memory.writeU8(PAGE, 77);
    await saveSnapshot(machine, [], `${folder}/one`);
    const { message } = await refused(`${folder}/two`, 'parent "one": ');
    assert(message.includes("it has changed since"), message);
    await Deno.writeFile(`${folder}/one`, one);
    (await openSnapshot(`${folder}/three`)).close();
  });
});

Deno.test("an incremental snapshot does not replace what it builds on", async () => {
  await withChain(["one", "two"], async (folder, machine) => {
    for (const name of ["one", "two"]) {
      const path = `${folder}/${name}`;
      const before = await Deno.readFile(path);
      await assertRejects(
        () => saveSnapshot(machine, [], path, { incremental: true }),
        CliError,
        `it would build on "${path}" and replace it: give it another name`,
      );
      assertEquals(await Deno.readFile(path), before);
    }
    // In a folder of its own it may have the name.
    await Deno.mkdir(`${folder}/sub`);
    machine.memory.writeU8(0, 99);
    await saveSnapshot(machine, [], `${folder}/sub/two`, { incremental: true });
    assertEquals((await memoryOf(`${folder}/sub/two`))[0], 99);
  });
});

Deno.test("an incremental snapshot is refused when the last one is gone or has changed", async () => {
  await withChain(["one", "two"], async (folder, machine) => {
    const save = () =>
      saveSnapshot(machine, [], `${folder}/new`, { incremental: true });
    await Deno.copyFile(`${folder}/one`, `${folder}/two`);
    await assertRejects(save, CliError, "has changed since: take a full one");
    await Deno.remove(`${folder}/two`);
    await assertRejects(save, CliError, `cannot open the snapshot "${folder}`);
    await saveSnapshot(machine, [], `${folder}/two`);
    await save();
    assertEquals(await memoryOf(`${folder}/new`), machine.memory.ramBytes);
  });
});

Deno.test("a machine restored from a chain continues it", async () => {
  await withChain(["one", "two"], async (folder) => {
    for (const lazy of [false, true]) {
      const machine = await makeMachine();
      const path = `${folder}/two`;
      const { reader, close } = await openSnapshot(path);
      const { loaded } = await restoreSnapshot(machine, reader, path, { lazy });
      machine.memory.writeU8(9 * PAGE, 9);
      await saveSnapshot(machine, [], `${folder}/three`, { incremental: true });
      await loaded;
      close();
      const chain = await openSnapshot(`${folder}/three`);
      assertEquals(
        chain.reader.chain.map((each) => each.storedPages("ram")),
        [1, 1, 1],
      );
      chain.close();
      assertEquals(await memoryOf(`${folder}/three`), machine.memory.ramBytes);
      await machine.close();
    }
  });
});

Deno.test("a chain that is too long or leads back to itself is refused", async () => {
  await withChain(["one"], async (folder, machine) => {
    // What a writer would not make.
    const source = await openSource(`${folder}/one`);
    const { manifest, components } = await SnapshotReader.open(source, zstd);
    source.close();
    const child = async (name: string, parent: Manifest["parent"]) => {
      const content = contentOf(machine.memory.ramBytes);
      let hash = "";
      await writeWhole(`${folder}/${name}`, async (sink) => {
        ({ hash } = await writeSnapshot(
          {
            manifest: { ...manifest, parent },
            components,
            memories: [{ ...pagesOf("ram", content), inherits: true, left: 0 }],
          },
          sink,
          zstd,
        ));
      });
      return hash;
    };
    const { baseline } = machine;
    let hash = baseline!.hash;
    for (let depth = 1; depth <= 64; depth++) {
      const path = depth === 1 ? "one" : `${depth - 1}`;
      hash = await child(`${depth}`, { path, hash });
    }
    const longest = await openSnapshot(`${folder}/63`);
    assertEquals(longest.files.length, 64);
    longest.close();
    await refused(`${folder}/64`, "more than 64 snapshots");
    machine.baseline = { ...baseline!, depth: 63 };
    await assertRejects(
      () => saveSnapshot(machine, [], `${folder}/65`, { incremental: true }),
      CliError,
      "the last snapshot builds on 63 others, and a chain has at most 64: take a full one",
    );
    await child("itself", { path: "itself", hash });
    await refused(`${folder}/itself`, 'parent "itself": ');
  });
});
