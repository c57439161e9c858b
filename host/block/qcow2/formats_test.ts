import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { MachineError } from "../../../core/plugin.ts";
import { Qcow2Block } from "./mod.ts";
import {
  applyAtOnce,
  assertClean,
  assertSame,
  changes,
  check,
  noise,
  qemuImg,
  qemuIo,
  readAll,
  withFolder,
} from "./testing.ts";

const KIB = 1024;
const SIZE = 2 * KIB * KIB + 512;
const SECTORS = SIZE / 512;

/** A disk's content with every kind of cluster: data, zeroes, and what compresses well. */
function mixedContent(): Uint8Array {
  const bytes = new Uint8Array(SIZE);
  bytes.set(noise(500 * KIB, 3), 100 * KIB);
  bytes.fill(0x5a, 700 * KIB, 900 * KIB);
  bytes.set(noise(3 * 512, 4), 1200 * KIB + 512);
  for (let i = 1400 * KIB; i < SIZE; i++) bytes[i] = i >> 11;
  return bytes;
}

/** What qemu-img is asked for, as its `-o` takes it. */
const KINDS = [
  "compat=0.10",
  "compat=0.10,cluster_size=512",
  "compat=1.1,lazy_refcounts=on",
  "cluster_size=2M",
  "cluster_size=512,refcount_bits=64",
  ...[1, 2, 4, 8, 32, 64].map((bits) => `refcount_bits=${bits}`),
  "extended_l2=on",
  "extended_l2=on,cluster_size=16k",
  "extended_l2=on,cluster_size=2M",
  "preallocation=metadata",
  "preallocation=metadata,extended_l2=on",
  "preallocation=falloc",
  "preallocation=full",
  "compression_type=zstd",
];

/** Converts a raw file into an image of a kind. */
async function convert(
  folder: string,
  content: Uint8Array,
  options: string,
  ...more: string[]
): Promise<string> {
  const path = `${folder}/disk.qcow2`;
  await Deno.writeFile(`${folder}/content`, content);
  const formats = ["-f", "raw", "-O", "qcow2", "-o", options];
  await qemuImg("convert", ...formats, ...more, `${folder}/content`, path);
  return path;
}

/** Checks what qemu-img reads from an image, or from a snapshot inside it. */
async function assertContent(
  folder: string,
  path: string,
  content: Uint8Array,
  ...source: string[]
): Promise<void> {
  const out = `${folder}/out`;
  await qemuImg("convert", "-f", "qcow2", "-O", "raw", ...source, path, out);
  assertSame(await Deno.readFile(out), content);
}

/** Changes copies of an image at random; each is checked by qemu-img and compared with an array, then with `also`. */
async function exercise(
  folder: string,
  image: string,
  content: Uint8Array,
  also: (path: string) => Promise<void> = async () => {},
): Promise<void> {
  const path = `${folder}/changed.qcow2`;
  const batch = fc.array(changes(SECTORS, 400), { minLength: 1, maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(
      fc.array(batch, { minLength: 1, maxLength: 6 }),
      async (batches) => {
        await Deno.copyFile(image, path);
        const model = content.slice();
        for (const batch of batches) {
          const disk = await Qcow2Block.open(path);
          await applyAtOnce(disk, model, batch);
          assertSame(await readAll(disk), model);
          await disk.close();
        }
        await assertClean(path);
        await assertContent(folder, path, model);
        await also(path);
      },
    ),
    { numRuns: 2 },
  );
}

for (const options of KINDS) {
  Deno.test(`an image that qemu-img makes with ${options} is read and written`, async () => {
    await withFolder(async (folder) => {
      const content = mixedContent();
      const path = await convert(folder, content, options);
      const disk = await Qcow2Block.open(path, true);
      assertSame(await readAll(disk), content);
      await disk.close();
      await exercise(folder, path, content);
    });
  });
}

for (
  const options of [
    "compression_type=zlib",
    "compression_type=zstd",
    "cluster_size=4k",
    "cluster_size=2M,compression_type=zstd",
    "extended_l2=on",
    "compat=0.10",
  ]
) {
  Deno.test(`a compressed image with ${options} is read and written`, async () => {
    await withFolder(async (folder) => {
      const content = mixedContent();
      const path = await convert(folder, content, options, "-c");
      const result = await qemuImg("check", "--output=json", path);
      assert(JSON.parse(result)["compressed-clusters"] > 0, result);
      const disk = await Qcow2Block.open(path, true);
      assertSame(await readAll(disk), content);
      await disk.close();
      await exercise(folder, path, content);
    });
  });
}

for (
  const [options, ...more] of [
    ["compat=0.10", "-c"],
    ["cluster_size=4k", "-c"],
    ["extended_l2=on", "-c"],
    // More would be counted than these can: of compressed clusters many are in the same place.
    ["refcount_bits=4"],
    ["refcount_bits=64", "-c"],
  ]
) {
  Deno.test(`writes leave the snapshots inside an image with ${options} as they are`, async () => {
    await withFolder(async (folder) => {
      const content = mixedContent();
      const path = await convert(folder, content, options, ...more);
      await qemuImg("snapshot", "-c", "first", path);
      const second = content.slice();
      second.fill(0x77, 150 * KIB, 850 * KIB);
      await qemuIo(path, "write -P 0x77 150k 700k");
      await qemuImg("snapshot", "-c", "second", path);
      await exercise(folder, path, second, async (path) => {
        await assertContent(folder, path, content, "-l", "first");
        await assertContent(folder, path, second, "-l", "second");
        // qemu-img can still go back, and finds nothing wrong after.
        await qemuImg("snapshot", "-a", "first", path);
        await qemuImg("snapshot", "-d", "second", path);
        await assertClean(path);
        await assertContent(folder, path, content);
      });
    });
  });
}

Deno.test("the refcount table grows as the image does", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/disk.qcow2`;
    const options = "cluster_size=512,refcount_bits=64";
    await qemuImg("create", "-f", "qcow2", "-o", options, path, "64M");
    const content = new Uint8Array(64 * KIB * KIB);
    const disk = await Qcow2Block.open(path);
    const piece = 96 * KIB;
    for (let at = 0; at < 12 * KIB * KIB; at += 4 * piece) {
      await Promise.all([0, 1, 2, 3].map((i) => {
        const bytes = noise(piece, at + i);
        content.set(bytes, at + i * piece);
        return disk.write(at + i * piece, bytes);
      }));
    }
    await disk.close();
    await assertClean(path);
    await assertContent(folder, path, content);
  });
});

Deno.test("what was discarded is used again", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/disk.qcow2`;
    await qemuImg("create", "-f", "qcow2", path, "64M");
    const disk = await Qcow2Block.open(path);
    for (let round = 0; round < 20; round++) {
      await disk.write(round * KIB * KIB, noise(KIB * KIB, round));
      await disk.discard(0, (round + 1) * KIB * KIB);
      await disk.flush();
    }
    await disk.close();
    await assertClean(path);
    const { size } = await Deno.stat(path);
    assert(size < 4 * KIB * KIB, `${size}`);
  });
});

Deno.test("the first write ends the bitmaps of an image, as its header asks for", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/disk.qcow2`;
    await qemuImg("create", "-f", "qcow2", path, "1M");
    await qemuImg("bitmap", "--add", path, "dirty");
    const bitmaps = async () =>
      JSON.parse(await qemuImg("info", "--output=json", path))[
        "format-specific"
      ].data.bitmaps?.length ?? 0;
    const read = await Qcow2Block.open(path);
    await read.read(0, new Uint8Array(512));
    await read.close();
    assertEquals(await bitmaps(), 1);
    const disk = await Qcow2Block.open(path);
    await disk.write(0, new Uint8Array(512));
    await disk.close();
    assertEquals(await bitmaps(), 0);
  });
});

Deno.test("images of a kind that is not supported are refused with what to do", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/disk.qcow2`;
    const data = `data_file=${folder}/data`;
    // crypt_method, the last byte of its field.
    const CRYPT_METHOD = 35;
    for (
      const [options, byte, part] of [
        [["-o", data], 0, "file of their own"],
        [[], 2, "encrypted"],
      ] as const
    ) {
      await qemuImg("create", "-f", "qcow2", ...options, path, "1M");
      const bytes = await Deno.readFile(path);
      bytes[CRYPT_METHOD] = byte;
      await Deno.writeFile(path, bytes);
      const error = await assertRejects(
        () => Qcow2Block.open(path, true),
        MachineError,
      );
      assert(error.message.includes(part), error.message);
      assert(error.message.includes("qemu-img convert"), error.message);
    }
  });
});

for (
  const options of ["cluster_size=64k", "cluster_size=512,refcount_bits=64"]
) {
  Deno.test(`an image with lazy refcounts and ${options} that was not closed is repaired when it is opened`, async () => {
    await withFolder(async (folder) => {
      const content = mixedContent();
      const lazy = `lazy_refcounts=on,${options}`;
      const path = await convert(folder, content, lazy, "-c");
      await qemuImg("snapshot", "-c", "first", path);
      await qemuIo(path, "write -P 1 300k 100k");
      content.fill(1, 300 * KIB, 400 * KIB);
      await assertRejects(
        () => qemuIo(path, "write -P 2 350k 900k", "flush", "abort"),
      );
      content.fill(2, 350 * KIB, 1250 * KIB);
      const before = await Deno.readFile(path);
      assert((await check(path)).errors > 0);

      const read = await Qcow2Block.open(path, true);
      assertSame(await readAll(read), content);
      await read.close();
      assertSame(await Deno.readFile(path), before);
      const disk = await Qcow2Block.open(path);
      assertSame(await readAll(disk), content);
      await disk.close();
      await assertClean(path);
      await exercise(folder, path, content, async (path) => {
        await qemuImg("snapshot", "-a", "first", path);
        await assertClean(path);
      });
    });
  });
}
