import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { MachineError } from "../../../core/plugin.ts";
import { createQcow2, Qcow2Block } from "./mod.ts";
import {
  apply,
  assertSame,
  changes,
  noise,
  qemuImg,
  qemuIo,
  withFolder,
} from "./testing.ts";

const KIB = 1024;
const SIZE = 512 * KIB;
/** Most that a file may take on the host after what these tests write to it. */
const MOST_BYTES = 64 * KIB * KIB;

// Header fields, docs/interop/qcow2.txt.
const L1_TABLE_OFFSET = 40;
const REFCOUNT_TABLE_OFFSET = 48;
const SNAPSHOTS_OFFSET = 64;
const INCOMPATIBLE_FEATURES = 72;
const HEADER_END = 112;
const INCOMPATIBLE_CORRUPT = 2n;

/** Bits 9 to 55 of a table's entry. */
const OFFSET_MASK = 0x00fffffffffffe00n;

/** Makes images of some kinds. */
async function makeImages(folder: string): Promise<Uint8Array[]> {
  const content = new Uint8Array(SIZE);
  content.set(noise(100 * KIB, 1), 30 * KIB);
  content.fill(0x11, 200 * KIB, 300 * KIB);
  await Deno.writeFile(`${folder}/raw`, content);
  const images: Uint8Array[] = [];
  for (
    const options of [
      ["-o", "cluster_size=512"],
      ["-o", "cluster_size=4k,compat=0.10", "-c"],
      ["-o", "cluster_size=16k,extended_l2=on,compression_type=zstd", "-c"],
      ["-o", "cluster_size=4k,refcount_bits=2"],
    ]
  ) {
    const path = `${folder}/image`;
    const formats = ["-f", "raw", "-O", "qcow2"];
    await qemuImg("convert", ...formats, ...options, `${folder}/raw`, path);
    if (!options.includes("-c")) {
      await qemuImg("snapshot", "-c", "one", path);
      await qemuIo(path, "write -P 3 0 64k");
    }
    images.push(await Deno.readFile(path));
  }
  // The first one once more, to be repaired when it is opened.
  const dirty = images[0].slice();
  dirty[INCOMPATIBLE_FEATURES + 7] |= 1;
  images.push(dirty);
  return images;
}

/** Places of the words in an image that its reader has to take care of. */
function wordsOf(image: Uint8Array): number[] {
  const view = new DataView(image.buffer);
  const words: number[] = [];
  const add = (start: number, bytes: number) => {
    const end = Math.min(start + bytes, image.length - 8);
    for (let at = start; at < end; at += 4) words.push(at);
  };
  const entry = (at: number) => Number(view.getBigUint64(at) & OFFSET_MASK);
  add(0, HEADER_END);
  // Each field of the header as often as a table.
  add(0, HEADER_END);
  const l1 = entry(L1_TABLE_OFFSET);
  const refcounts = entry(REFCOUNT_TABLE_OFFSET);
  const snapshots = entry(SNAPSHOTS_OFFSET);
  for (const table of [l1, refcounts]) {
    add(table, 32);
    add(entry(table), 128);
  }
  if (snapshots !== 0) add(snapshots, 64);
  return words;
}

/** A change of a word, or the loss of everything behind it. */
const mutation = fc.record({
  word: fc.nat(),
  kind: fc.constantFrom(
    "value" as const,
    "value" as const,
    "value" as const,
    "bit" as const,
    "place" as const,
    "cut" as const,
  ),
  value: fc.oneof(
    fc.constantFrom(0, 1, 2, 9, 21, 63, 0x7fffffff, 0x80000000, 0xffffffff),
    fc.integer({ min: 0, max: 0xffffffff }),
  ),
});

type Mutation = typeof mutation extends fc.Arbitrary<infer T> ? T : never;

function mutate(image: Uint8Array, mutations: Mutation[]): Uint8Array {
  let bytes = image.slice();
  const words = wordsOf(image);
  for (const { word, kind, value } of mutations) {
    const at = words[word % words.length];
    if (at + 8 > bytes.length) continue;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    switch (kind) {
      case "value":
        view.setUint32(at, value);
        break;
      case "bit":
        view.setUint32(at, view.getUint32(at) ^ 1 << value % 32);
        break;
      case "place":
        // Another place of the file, which may be somebody else's.
        view.setBigUint64(
          at,
          1n << 63n | BigInt(value % bytes.length) & OFFSET_MASK,
        );
        break;
      case "cut":
        bytes = bytes.subarray(0, at);
    }
  }
  return bytes;
}

/** Does something that may fail, but only with an error that names the image. */
async function mayFail(
  path: string,
  work: () => Promise<unknown>,
): Promise<boolean> {
  try {
    await work();
    return true;
  } catch (error) {
    assert(error instanceof Error, String(error));
    assert(error.message.includes(path), error.stack);
    return false;
  }
}

Deno.test("a damaged image gives clear errors, and costs no more than its size", async () => {
  await withFolder(async (folder) => {
    const images = await makeImages(folder);
    const path = `${folder}/damaged`;
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(0,4,4,4),
        fc.array(mutation, { minLength: 1, maxLength: 4 }),
        fc.array(changes(SIZE / 512, 100), { minLength: 1, maxLength: 6 }),
        async (index, mutations, requests) => {
          const bytes = mutate(images[index], mutations);
          await Deno.writeFile(path, bytes);
          await mayFail(path, async () => {
            const disk = await Qcow2Block.open(path, true);
            try {
              for (let at = 0; at < Math.min(disk.size, SIZE); at += 8 * KIB) {
                const length = Math.min(8 * KIB, disk.size - at);
                const piece = new Uint8Array(length);
                await mayFail(path, () => disk.read(at, piece));
              }
            } finally {
              await disk.close();
            }
          });
          assertEquals(await Deno.readFile(path), bytes);

          await mayFail(path, async () => {
            const disk = await Qcow2Block.open(path);
            try {
              const model = new Uint8Array(SIZE);
              for (const request of requests) {
                if (request.sector + request.sectors > disk.size / 512) {
                  continue;
                }
                await mayFail(path, () => apply(disk, model, request));
              }
            } finally {
              await mayFail(path, () => disk.close());
            }
          });
          const { blocks } = await Deno.stat(path);
          assert(blocks! * 512 < MOST_BYTES, `${blocks} sectors`);
        },
      ),
      { numRuns: 12000 },
    );
  });
});

/** Makes an image with two clusters of data, changes its bytes, and calls `body`. */
async function withChanged(
  change: (view: DataView<ArrayBuffer>) => void,
  body: (path: string) => Promise<void>,
): Promise<void> {
  await withFolder(async (folder) => {
    const path = `${folder}/disk.qcow2`;
    await createQcow2(path, { size: SIZE });
    const disk = await Qcow2Block.open(path);
    await disk.write(0, noise(128 * KIB, 5));
    await disk.close();
    const bytes = await Deno.readFile(path);
    change(new DataView(bytes.buffer));
    await Deno.writeFile(path, bytes);
    await body(path);
  });
}

/** Place of the first entry of the first L2 table. */
function firstEntry(view: DataView): number {
  const l1 = Number(view.getBigUint64(L1_TABLE_OFFSET));
  return Number(view.getBigUint64(l1) & OFFSET_MASK);
}

const features = async (path: string) =>
  new DataView((await Deno.readFile(path)).buffer)
    .getBigUint64(INCOMPATIBLE_FEATURES);

Deno.test("guest data are not written over the tables of an image, which is marked as corrupt", async () => {
  let header = new Uint8Array();
  await withChanged((view) => {
    // The first cluster is where the L1 table is.
    view.setBigUint64(
      firstEntry(view),
      1n << 63n | view.getBigUint64(L1_TABLE_OFFSET),
    );
    header = new Uint8Array(view.buffer);
  }, async (path) => {
    const sector = new Uint8Array(512);
    const read = await Qcow2Block.open(path, true);
    await read.read(0, sector);
    await read.close();
    assertEquals(await features(path), 0n);

    const disk = await Qcow2Block.open(path);
    await assertRejects(() => disk.write(0, sector), Error, "the L1 table");
    // Nothing else is written from now on; it can be read.
    await assertRejects(() => disk.write(64 * KIB, sector), Error, path);
    await disk.read(64 * KIB, sector);
    assertSame(sector, noise(128 * KIB, 5).subarray(64 * KIB, 64 * KIB + 512));
    await disk.close();
    assertEquals(await features(path), INCOMPATIBLE_CORRUPT);
    const after = await Deno.readFile(path);
    after.set(header.subarray(0, HEADER_END));
    assertSame(after, header);

    await assertRejects(() => Qcow2Block.open(path), MachineError, "corrupt");
    const again = await Qcow2Block.open(path, true);
    await again.close();
  });
});

Deno.test("a request with a damaged part fails, and the next ones do not", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/disk.qcow2`;
    await createQcow2(path, { size: SIZE, clusterSize: 512 });
    const content = noise(SIZE, 8);
    const disk = await Qcow2Block.open(path);
    await disk.write(0, content);
    await disk.close();
    const bytes = await Deno.readFile(path);
    const view = new DataView(bytes.buffer);
    // The last entry of the first table: compressed, where no file reaches. Nor does it to the next table.
    const ENTRIES = 512 / 8;
    const last = firstEntry(view) + (ENTRIES - 1) * 8;
    view.setBigUint64(last, 1n << 62n | OFFSET_MASK);
    const secondTable = Number(view.getBigUint64(L1_TABLE_OFFSET)) + 8;
    view.setBigUint64(secondTable, 1n << 63n | OFFSET_MASK);
    await Deno.writeFile(path, bytes);

    const damaged = await Qcow2Block.open(path, true);
    const target = new Uint8Array(4 * 512);
    const start = (ENTRIES - 2) * 512;
    await damaged.read(start, target.subarray(0, 512));
    await assertRejects(() => damaged.read(start, target), Error, path);
    await damaged.read(0, target);
    assertSame(target, content.subarray(0, target.length));
    await damaged.close();
  });
});

Deno.test("a file that was cut short gives an error where its data are missing", async () => {
  await withChanged(() => {}, async (path) => {
    const { size } = await Deno.stat(path);
    await Deno.truncate(path, size - 64 * KIB);
    const disk = await Qcow2Block.open(path, true);
    const sector = new Uint8Array(512);
    await disk.read(0, sector);
    await assertRejects(() => disk.read(64 * KIB, sector), Error, path);
    await disk.close();
  });
});

Deno.test("an image of a later format is refused, and names what it needs", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/disk.qcow2`;
    await qemuImg("create", "-f", "qcow2", path, "1M");
    const bytes = await Deno.readFile(path);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(INCOMPATIBLE_FEATURES, 1n << 40n);
    await Deno.writeFile(path, bytes);
    await assertRejects(() => Qcow2Block.open(path), MachineError, "bit 40");
    view.setBigUint64(INCOMPATIBLE_FEATURES, 0n);
    const VERSION = 4;
    view.setUint32(VERSION, 4);
    await Deno.writeFile(path, bytes);
    await assertRejects(() => Qcow2Block.open(path), MachineError, "version 4");
  });
});
