import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import fs from "node:fs";
import { MachineError } from "../../../core/plugin.ts";
import { createQcow2, Qcow2Block } from "./mod.ts";
import {
  apply,
  applyAtOnce,
  assertClean,
  assertSame,
  changes,
  noise,
  qemuImg,
  readAll,
  withFolder,
} from "./testing.ts";

const KIB = 1024;
/** Where the header extensions of the images begin that createQcow2 makes. */
const EXTENSIONS = 112;

Deno.test("createQcow2 makes an empty image that qemu-img accepts", async () => {
  await withFolder(async (folder) => {
    for (
      const [clusterSize, size] of [
        [512, 512],
        [512, 64 * KIB * KIB],
        [4 * KIB, 100 * KIB * KIB + 512],
        [64 * KIB, 8 * 2 ** 40],
        [2048 * KIB, 2 ** 50],
      ]
    ) {
      const path = `${folder}/${clusterSize}-${size}.qcow2`;
      await createQcow2(path, { size, clusterSize });
      await assertClean(path);
      const disk = await Qcow2Block.open(path, true);
      assertEquals(disk.size, size);
      const last = new Uint8Array(512).fill(1);
      await disk.read(size - 512, last);
      assertEquals(last, new Uint8Array(512));
      await disk.close();
    }
  });
});

Deno.test("createQcow2 does not replace a file", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/disk.qcow2`;
    await Deno.writeTextFile(path, "mine");
    await assertRejects(
      () => createQcow2(path, { size: 512 }),
      Deno.errors.AlreadyExists,
    );
    assertEquals(await Deno.readTextFile(path), "mine");
  });
});

Deno.test("a qcow2 image and its overlays behave as an array of bytes, also for qemu-img", async () => {
  const size = 300 * KIB + 512;
  const sectors = size / 512;
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(512, 4 * KIB, 64 * KIB),
      fc.constantFrom("none" as const, "raw" as const, "qcow2" as const),
      fc.array(fc.array(changes(sectors, 200), { maxLength: 8 }), {
        maxLength: 8,
      }),
      (clusterSize, base, batches) =>
        withFolder(async (folder) => {
          const path = `${folder}/disk.qcow2`;
          const model = new Uint8Array(size);
          let backing: { path: string; format: "raw" | "qcow2" } | undefined;
          if (base !== "none") {
            // Shorter than the overlay.
            const content = noise(200 * KIB, 1);
            model.set(content);
            backing = { path: `base.${base}`, format: base };
            const under = `${folder}/base.${base}`;
            if (base === "raw") await Deno.writeFile(under, content);
            else {
              await createQcow2(under, { size: content.length });
              const disk = await Qcow2Block.open(under);
              await disk.write(0, content);
              await disk.close();
            }
          }
          await createQcow2(path, { size, backing, clusterSize });
          for (const batch of batches) {
            const disk = await Qcow2Block.open(path);
            await applyAtOnce(disk, model, batch);
            assertSame(await readAll(disk), model);
            await disk.close();
          }
          await assertClean(path);
          await Deno.writeFile(`${folder}/model`, model);
          const raw = ["-f", "qcow2", "-F", "raw", path, `${folder}/model`];
          await qemuImg("compare", ...raw);
        }),
    ),
    { numRuns: 25 },
  );
});

Deno.test("zeroes that are there already, and discards of nothing, take no room", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/disk.qcow2`;
    const size = 64 * KIB * KIB;
    await createQcow2(path, { size });
    const before = await Deno.readFile(path);
    const disk = await Qcow2Block.open(path);
    await disk.writeZeroes(512, size - 1024, false);
    await disk.writeZeroes(0, size, true);
    await disk.discard(0, size);
    await disk.close();
    assertSame(await Deno.readFile(path), before);
  });
});

Deno.test("an overlay finds its base beside itself, whatever the folder", async () => {
  await withFolder(async (folder) => {
    await Deno.mkdir(`${folder}/a/b`, { recursive: true });
    await Deno.writeFile(`${folder}/a/base.img`, noise(64 * KIB, 7));
    const path = `${folder}/a/b/top.qcow2`;
    const backing = { path: "../base.img", format: "raw" } as const;
    await createQcow2(path, { size: 64 * KIB, backing });
    await Deno.rename(`${folder}/a`, `${folder}/c`);
    const disk = await Qcow2Block.open(`${folder}/c/b/top.qcow2`);
    assertSame(await readAll(disk), noise(64 * KIB, 7));
    await disk.close();
  });
});

Deno.test("an image under itself is refused, and a missing base is named", async () => {
  await withFolder(async (folder) => {
    const [a, b, c] = ["a", "b", "c"].map((name) => `${folder}/${name}.qcow2`);
    const size = 512;
    const on = (path: string) => ({
      size,
      backing: { path, format: "qcow2" as const },
    });
    await createQcow2(a, on("b.qcow2"));
    await createQcow2(b, on(a));
    await createQcow2(c, on("gone.qcow2"));
    const loop = await assertRejects(() => Qcow2Block.open(a), MachineError);
    assert(loop.message.includes("under itself"), loop.message);
    const gone = await assertRejects(() => Qcow2Block.open(c), MachineError);
    assert(gone.message.includes(`${folder}/gone.qcow2`), gone.message);
    assert(gone.message.includes(c), gone.message);
  });
});

Deno.test("a base whose format is not told, or that is no file, is refused with what to do", async () => {
  await withFolder(async (folder) => {
    await Deno.writeFile(`${folder}/base.img`, new Uint8Array(512));
    const path = `${folder}/disk.qcow2`;
    const cases = [
      ["base.img", 0x11111111, ["-F FORMAT", "base.img"]],
      ["nbd://host/disk", undefined, ["nbd://host/disk", "only files"]],
      ["json:{}", undefined, ["json:{}", "only files"]],
    ] as const;
    for (const [name, extension, parts] of cases) {
      const backing = { path: name, format: "raw" } as const;
      await createQcow2(path, { size: 512, backing });
      if (extension !== undefined) {
        // Another type in the place of the one that tells the format.
        const bytes = await Deno.readFile(path);
        new DataView(bytes.buffer).setUint32(EXTENSIONS, extension);
        await Deno.writeFile(path, bytes);
      }
      const { message } = await assertRejects(
        () => Qcow2Block.open(path, true),
        MachineError,
      );
      for (const part of [path, ...parts]) {
        assert(message.includes(part), message);
      }
      await Deno.remove(path);
    }
  });
});

Deno.test("a read-only qcow2 image refuses writes and leaves the file alone", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/disk.qcow2`;
    await createQcow2(path, { size: 64 * KIB });
    const before = await Deno.readFile(path);
    const disk = await Qcow2Block.open(path, true);
    const sector = new Uint8Array(512);
    await assertRejects(() => disk.write(0, sector), Error, "read-only");
    await assertRejects(() => disk.discard(0, 512), Error, "read-only");
    await assertRejects(() => disk.writeZeroes(0, 512, true), Error, path);
    await disk.flush();
    await disk.close();
    await assertRejects(() => disk.read(0, sector), Error, "closed");
    assertEquals(await Deno.readFile(path), before);
  });
});

Deno.test("requests that overlap are done in some order, and leave the image whole", async () => {
  const size = 200 * KIB;
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(512, 4 * KIB, 64 * KIB),
      fc.array(fc.array(changes(size / 512, 100), { maxLength: 100 }), {
        maxLength: 4,
      }),
      (clusterSize, batches) =>
        withFolder(async (folder) => {
          const path = `${folder}/disk.qcow2`;
          await createQcow2(path, { size, clusterSize });
          const disk = await Qcow2Block.open(path);
          for (const batch of batches) {
            const before = await readAll(disk);
            // A sector is what it was, zeroes, or what one of the writes has there.
            const allowed = Array.from(
              { length: size / 512 },
              (_, i) =>
                new Set([text(before, i), text(new Uint8Array(512), 0)]),
            );
            for (const { kind, sector, sectors, seed } of batch) {
              if (kind !== "write") continue;
              const bytes = noise(sectors * 512, seed);
              for (let i = 0; i < sectors; i++) {
                allowed[sector + i].add(text(bytes, i));
              }
            }
            await Promise.all(
              batch.map((change) => apply(disk, before.slice(), change)),
            );
            const after = await readAll(disk);
            allowed.forEach((texts, i) =>
              assert(texts.has(text(after, i)), `sector ${i}`)
            );
          }
          await disk.close();
          await assertClean(path);
        }),
    ),
    { numRuns: 15 },
  );

  function text(bytes: Uint8Array, sector: number): string {
    return bytes.subarray(sector * 512, sector * 512 + 512).toString();
  }
});

/** Lets writes to files fail as long as `body` runs, if `fails` says so of a write. */
async function withFailures(
  fails: () => boolean,
  body: () => Promise<void>,
): Promise<void> {
  const { write, fdatasync } = fs;
  type Callback = (error: Error | null, count?: number) => void;
  const failing =
    <Arguments extends unknown[]>(call: (...args: Arguments) => void) =>
    (...args: Arguments) => {
      if (!fails()) return call(...args);
      const done = args.at(-1) as Callback;
      queueMicrotask(() => done(new Error("no space left on device")));
    };
  const patched = fs as unknown as Record<string, unknown>;
  patched.write = failing(write as (...args: unknown[]) => void);
  patched.fdatasync = failing(fdatasync as (...args: unknown[]) => void);
  try {
    await body();
  } finally {
    Object.assign(patched, { write, fdatasync });
  }
}

Deno.test("a qcow2 image is whole after the host could not write", async () => {
  const size = 200 * KIB;
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(512, 4 * KIB, 64 * KIB),
      fc.integer({ min: 1, max: 6 }),
      fc.array(fc.array(changes(size / 512, 100), { maxLength: 6 }), {
        maxLength: 12,
      }),
      (clusterSize, rarity, batches) =>
        withFolder(async (folder) => {
          const path = `${folder}/disk.qcow2`;
          await createQcow2(path, { size, clusterSize });
          const model = new Uint8Array(size);
          const disk = await Qcow2Block.open(path);
          for (const [i, batch] of batches.entries()) {
            if (i % 2 === 0) {
              await applyAtOnce(disk, model, batch);
              assertSame(await readAll(disk), model);
              continue;
            }
            let count = 0;
            let failures = 0;
            const fails = () => {
              if (++count % rarity !== 0) return false;
              failures++;
              return true;
            };
            await withFailures(fails, async () => {
              for (const change of batch) {
                try {
                  await applyAtOnce(disk, model, [change]);
                } catch (error) {
                  assert(failures > 0, String(error));
                  // Some of it may have been done, and nothing else.
                  const start = change.sector * 512;
                  const length = change.sectors * 512;
                  await disk.read(start, model.subarray(start, start + length));
                }
              }
            });
            assertSame(await readAll(disk), model);
          }
          await disk.close();
          await assertClean(path);
          const again = await Qcow2Block.open(path, true);
          assertSame(await readAll(again), model);
          await again.close();
        }),
    ),
    { numRuns: 30 },
  );
});

Deno.test("an image whose tables do not fit in memory is read and written", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/disk.qcow2`;
    const size = 64 * KIB * KIB;
    await createQcow2(path, { size, clusterSize: 512 });
    const disk = await Qcow2Block.open(path);
    // One sector in each L2 table, in an order that is far from theirs.
    const tables = size / (32 * KIB);
    const places = Array.from(
      { length: tables },
      (_, i) => (i * 1021 % tables) * 32 * KIB + i % 64 * 512,
    );
    await Promise.all(places.map((at, i) => disk.write(at, noise(512, i))));
    const target = new Uint8Array(512);
    for (const [i, at] of places.entries()) {
      await disk.read(at, target);
      assertSame(target, noise(512, i));
    }
    await disk.close();
    await assertClean(path);
  });
});

Deno.test("a long chain of overlays is read through", async () => {
  await withFolder(async (folder) => {
    const size = 64 * KIB;
    const path = (i: number) => `${folder}/${i}.qcow2`;
    await createQcow2(path(0), { size });
    const base = await Qcow2Block.open(path(0));
    await base.write(0, noise(size, 1));
    await base.close();
    const count = 300;
    for (let i = 1; i <= count; i++) {
      const backing = { path: `${i - 1}.qcow2`, format: "qcow2" } as const;
      await createQcow2(path(i), { size, backing });
    }
    const disk = await Qcow2Block.open(path(count));
    await disk.write(512, noise(512, 2));
    const expected = noise(size, 1);
    expected.set(noise(512, 2), 512);
    assertSame(await readAll(disk), expected);
    await disk.close();
  });
});
