import { assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { zstd } from "../host/snapshot_file.ts";
import {
  type Manifest,
  SnapshotError,
  SnapshotReader,
  type Source,
  toManifestOptions,
  writeSnapshot,
} from "./container.ts";
import { contentOf, pagesOf } from "./memory_image.ts";
import { schema, SchemaError, timer, u64, u8 } from "./schema.ts";

const PAGE = 4096;
const PAGES = 600;
const lamp = schema("lamp", 1, { level: u8(), ticks: u64(), next: timer() });
const manifest: Manifest = {
  producer: "test",
  parent: null,
  memory: PAGES * PAGE,
  romSize: 0,
  cpus: 1,
  cpuModel: "v2",
  clock: "instructions",
  nsPerInstruction: 1,
  devices: [{
    id: "lamp0",
    plugin: "lamp",
    version: "1.0.0",
    specifier: "./lamp.ts",
    options: toManifestOptions({ colour: "red", watts: 60, on: true }),
    backend: null,
    image: null,
  }],
};
const components = [{
  id: "lamp0",
  schema: lamp.describe(),
  state: { level: 3, ticks: 1n << 63n, next: { remaining: 2 ** 40 } },
}];

function someMemory(): Uint8Array {
  const ram = new Uint8Array(PAGES * PAGE);
  const words = new Uint32Array(ram.buffer);
  let seed = 1;
  for (let page = 0; page < PAGES; page++) {
    if (page % 3 === 0) continue; // zeroes
    if (page % 3 === 1) ram.fill(7, page * PAGE, (page + 1) * PAGE); // equal
    else {
      for (let i = 0; i < PAGE / 4; i++) {
        seed = Math.imul(seed, 1664525) + 1013904223;
        words[page * PAGE / 4 + i] = seed;
      }
    }
  }
  return ram;
}

async function write(ram: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  await writeSnapshot(
    { manifest, components, memories: [pagesOf("ram", contentOf(ram))] },
    {
      write(bytes) {
        parts.push(bytes.slice());
        return Promise.resolve();
      },
    },
    zstd,
  );
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

function source(bytes: Uint8Array): Source {
  return {
    size: bytes.length,
    read: (offset, length) =>
      Promise.resolve(bytes.slice(offset, offset + length)),
  };
}

async function readAll(bytes: Uint8Array) {
  const reader = await SnapshotReader.open(source(bytes), zstd);
  const ram = new Uint8Array(reader.bytes("ram"));
  await reader.readMemory("ram", ram);
  return { reader, ram };
}

Deno.test("a snapshot reads as it was written, equal and zero pages stored once or not", async () => {
  const memory = someMemory();
  const { reader, ram } = await readAll(await write(memory));
  assertEquals(reader.manifest, manifest);
  assertEquals(reader.components, components);
  assertEquals(reader.storedPages("ram"), PAGES / 3 + 1);
  assertEquals(ram, memory);
});

Deno.test("what is no snapshot, or another format, is told", async () => {
  const bytes = await write(someMemory());
  const changed = (at: number, value: number) => {
    const copy = bytes.slice();
    copy[at] = value;
    return copy;
  };
  const cases: [Uint8Array, string][] = [
    [new TextEncoder().encode("#!/bin/sh\n"), "not a snapshot"],
    [changed(8, 0xfe), "byte order"],
    [changed(10, 2), "format version 2"],
    [bytes.subarray(0, bytes.length - 1), "cut off"],
    [bytes.subarray(0, 16), "cut off"],
  ];
  for (const [file, message] of cases) {
    await assertRejects(() => readAll(file), SnapshotError, message);
  }
});

Deno.test("a flipped bit anywhere is one clear error", async () => {
  const bytes = await write(someMemory());
  await fc.assert(
    fc.asyncProperty(
      fc.nat(bytes.length - 1),
      fc.nat(7),
      async (at, bit) => {
        const copy = bytes.slice();
        copy[at] ^= 1 << bit;
        await assertRejects(() => readAll(copy), SnapshotError);
      },
    ),
    { numRuns: 100 },
  );
});

Deno.test("a truncated file is one clear error", async () => {
  const bytes = await write(someMemory());
  await fc.assert(
    fc.asyncProperty(fc.nat(bytes.length - 1), async (length) => {
      await assertRejects(
        () => readAll(bytes.subarray(0, length)),
        SnapshotError,
      );
    }),
    { numRuns: 50 },
  );
});

Deno.test("a component that does not fit its schema is refused by name", async () => {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  const state = { level: 300, ticks: 0n, next: null };
  await writeSnapshot(
    {
      manifest,
      components: [{ ...components[0], state }],
      memories: [pagesOf("ram", contentOf(new Uint8Array(PAGES * PAGE)))],
    },
    {
      write(bytes) {
        parts.push(bytes.slice());
        return Promise.resolve();
      },
    },
    zstd,
  );
  const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  await assertRejects(
    () => readAll(bytes),
    SchemaError,
    "lamp0.level is 300: expected an integer from 0 to 255",
  );
});
