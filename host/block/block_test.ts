import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { MachineError } from "../../core/plugin.ts";
import { type BlockImage, MemoryBlock, openBlock } from "./mod.ts";

const SIZE = 256 * 1024;

/** Calls `body` with the path of a new file of `size` bytes, byte i of sector n being n. */
async function withImage(
  size: number,
  body: (path: string) => Promise<void>,
): Promise<void> {
  const path = await Deno.makeTempFile({ prefix: "diapause-block-" });
  try {
    const bytes = new Uint8Array(size);
    bytes.forEach((_, i) => bytes[i] = i >> 9);
    await Deno.writeFile(path, bytes);
    await body(path);
  } finally {
    await Deno.remove(path);
  }
}

async function rejects(work: Promise<unknown>, ...parts: string[]) {
  const error = await assertRejects(() => work, MachineError);
  for (const part of parts) assert(error.message.includes(part), error.message);
}

Deno.test("openBlock without an image makes a scratch disk of 64 MiB", async () => {
  const disk = await openBlock();
  assertEquals(disk.size, 64 * 1024 * 1024);
  assertEquals(disk.readOnly, false);
  await disk.close();
});

Deno.test("openBlock names the path and the cause", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const path = `${directory}/no such.img`;
    await rejects(openBlock({ image: path }), path, "no such file");
    await rejects(openBlock({ image: directory }), directory, "is a directory");
    await rejects(openBlock({ image: "/dev/null" }), "/dev/null", "neither");
    await rejects(openBlock({ image: "" }), "empty");
    await rejects(openBlock({ image: path, size: 512 }), path, "size=512");
    await rejects(openBlock({ size: 1000 }), "1000", "multiple of 512");
    await rejects(openBlock({ size: 0 }), "empty");
    for (const size of [0, 511, 513, 100_000]) {
      Deno.writeFileSync(path, new Uint8Array(size));
      const part = size === 0 ? "empty" : "multiple of 512";
      await rejects(openBlock({ image: path }), path, part);
    }
    Deno.writeFileSync(path, new Uint8Array(512));
    Deno.chmodSync(path, 0);
    if (Deno.uid() !== 0) {
      await rejects(openBlock({ image: path }), path, "permission denied");
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("a raw image answers many requests at once, each with its own sector", async () => {
  await withImage(SIZE, async (path) => {
    const disk = await openBlock({ image: path });
    assertEquals(disk.size, SIZE);
    const sectors = Array.from({ length: 64 }, (_, i) => (i * 37) % 256);
    const read = await Promise.all(sectors.map(async (sector) => {
      const target = new Uint8Array(512);
      await disk.read(sector * 512, target);
      return target;
    }));
    read.forEach((bytes, i) =>
      assertEquals(bytes, new Uint8Array(512).fill(sectors[i]))
    );
    await disk.close();
  });
});

Deno.test("a raw image keeps what is written to it", async () => {
  await withImage(SIZE, async (path) => {
    const disk = await openBlock({ image: path });
    await disk.write(1024, new Uint8Array(2048).fill(0xaa));
    await disk.flush();
    await disk.discard(0, 512);
    await disk.writeZeroes(8192, 65536, false);
    await disk.writeZeroes(131072, 65536, true);
    await disk.close();
    const bytes = await Deno.readFile(path);
    assertEquals(bytes.length, SIZE);
    assert(bytes.subarray(1024, 3072).every((b) => b === 0xaa));
    assert(bytes.subarray(8192, 8192 + 65536).every((b) => b === 0));
    assert(bytes.subarray(131072, 131072 + 65536).every((b) => b === 0));
    assertEquals(bytes[3072], 6);
    await assertRejects(
      () => disk.read(0, new Uint8Array(512)),
      Error,
      "closed",
    );
  });
});

Deno.test("a read-only image refuses writes and leaves the file alone", async () => {
  await withImage(SIZE, async (path) => {
    const before = await Deno.readFile(path);
    const disk = await openBlock({ image: path, readonly: true });
    const sector = new Uint8Array(512);
    await assertRejects(() => disk.write(0, sector), Error, "read-only");
    await assertRejects(() => disk.discard(0, 512), Error, "read-only");
    await assertRejects(
      () => disk.writeZeroes(0, 512, true),
      Error,
      "read-only",
    );
    await disk.read(512, sector);
    assertEquals(sector[0], 1);
    await disk.flush();
    await disk.close();
    assertEquals(await Deno.readFile(path), before);
  });
});

Deno.test("an image that was cut short gives an error that names it", async () => {
  await withImage(SIZE, async (path) => {
    const disk = await openBlock({ image: path });
    await Deno.truncate(path, 4096);
    const error = await assertRejects(
      () => disk.read(4096, new Uint8Array(512)),
      Error,
    );
    assert(error.message.includes(path), error.message);
    await disk.close();
  });
});

Deno.test("accesses outside an image or across sectors are refused", async () => {
  await withImage(SIZE, async (path) => {
    for (
      const disk of [await openBlock({ image: path }), new MemoryBlock(SIZE)]
    ) {
      for (
        const [offset, length] of [[SIZE, 512], [-512, 512], [1, 512], [0, 100]]
      ) {
        const bytes = new Uint8Array(length);
        await assertRejects(() => disk.read(offset, bytes), RangeError);
        await assertRejects(() => disk.write(offset, bytes), RangeError);
        await assertRejects(() => disk.discard(offset, length), RangeError);
      }
      await disk.close();
    }
  });
});

Deno.test("a scratch disk allocates only what is not zero", async () => {
  const disk = new MemoryBlock(1024 ** 4);
  assertEquals(disk.allocated, 0);
  await disk.write(1024 ** 3, new Uint8Array(1024 * 1024));
  assertEquals(disk.allocated, 0);
  await disk.write(1024 ** 4 - 512, new Uint8Array(512).fill(1));
  assertEquals(disk.allocated, 64 * 1024);
  await disk.discard(0, 1024 ** 4);
  assertEquals(disk.allocated, 0);
});

Deno.test("every kind of image behaves as an array of bytes", async () => {
  const sectors = 400;
  const operation = fc.record({
    kind: fc.constantFrom("read", "write", "zero", "unmap"),
    sector: fc.nat(sectors - 1),
    count: fc.integer({ min: 1, max: 200 }),
    value: fc.integer({ min: 1, max: 255 }),
  });
  const obeys = async (disk: BlockImage, operations: fc.Arbitrary<unknown>) => {
    const model = new Uint8Array(disk.size);
    await disk.writeZeroes(0, disk.size, true);
    await fc.assert(
      fc.asyncProperty(
        operations as fc.Arbitrary<
          { kind: string; sector: number; count: number; value: number }[]
        >,
        async (list) => {
          for (const { kind, sector, count, value } of list) {
            const offset = sector * 512;
            const length = Math.min(count * 512, disk.size - offset);
            const part = model.subarray(offset, offset + length);
            if (kind === "read") {
              const target = new Uint8Array(length);
              await disk.read(offset, target);
              assertEquals(target, part);
            } else if (kind === "write") {
              await disk.write(offset, part.fill(value));
            } else {
              part.fill(0);
              await disk.writeZeroes(offset, length, kind === "unmap");
            }
          }
        },
      ),
      { numRuns: 20 },
    );
    await disk.close();
  };
  const operations = fc.array(operation, { maxLength: 20 });
  await obeys(new MemoryBlock(sectors * 512), operations);
  await withImage(sectors * 512, async (path) => {
    await obeys(await openBlock({ image: path }), operations);
  });
});
