// Images that snapshots refer to: never altered, whatever the machine does afterwards.

import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { MachineError } from "../../core/plugin.ts";
import { noise, sha256, withDirectory } from "../../tests/support.ts";
import { openBlock, type Pin, PinnedBlock } from "./mod.ts";
import { PIN_LIST } from "./pins.ts";

const SECTOR = 512;

async function open(
  image: string,
  more: Record<string, unknown> = {},
  user: Parameters<typeof openBlock>[1] = {},
): Promise<PinnedBlock> {
  const disk = await openBlock({ image, ...more }, user);
  assert(disk instanceof PinnedBlock);
  return disk;
}

async function content(disk: PinnedBlock): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size);
  await disk.read(0, bytes);
  return bytes;
}

/** What a snapshot finds in the image that it pinned. */
async function pinned({ image: { files: [{ path, format }] } }: Pin) {
  const disk = await open(path, { format, readonly: true });
  const bytes = await content(disk);
  await disk.close();
  return bytes;
}

async function hashes(pin: Pin): Promise<string[]> {
  const files = pin.image.files.map(({ path }) => Deno.readFile(path));
  return Promise.all((await Promise.all(files)).map(sha256));
}

/** Without printing megabytes. */
function equal(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.from(a.buffer, a.byteOffset, a.length).equals(b);
}

const names = (folder: string) =>
  [...Deno.readDirSync(folder)].map(({ name }) => name)
    .filter((name) => name !== PIN_LIST).sort();

Deno.test("each pin of an image keeps the content of its instant, through overlays, restores and new processes", async () => {
  const sectors = 300;
  const range = {
    sector: fc.nat(sectors - 1),
    count: fc.integer({ min: 1, max: 150 }),
    value: fc.integer({ min: 1, max: 255 }),
  };
  const operation = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({ kind: fc.constant("write"), ...range }),
    },
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant("zero"), ...range }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant("discard"), ...range }),
    },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant("pin"), ...range }) },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant("cancel"), ...range }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant("reopen"), ...range }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant("restore"), ...range }),
    },
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(operation, { maxLength: 30 }),
      fc.boolean(),
      (operations, starts) =>
        withDirectory(async (folder) => {
          const base = `${folder}/disk.img`;
          let model = noise(sectors * SECTOR);
          await Deno.writeFile(base, model);
          let disk = await open(base, starts ? { pin: true } : {});
          const pins: { pin: Pin; was: Uint8Array; sums: string[] }[] = [];
          for (const { kind, sector, count, value } of operations) {
            const offset = sector * SECTOR;
            const length = Math.min(count * SECTOR, disk.size - offset);
            const part = model.subarray(offset, offset + length);
            const one = pins.at(value % Math.max(1, pins.length));
            if (kind === "write") {
              await disk.write(offset, part.fill(value).slice());
            } else if (kind === "zero") {
              part.fill(0);
              await disk.writeZeroes(offset, length, value % 2 === 0);
            } else if (kind === "discard") {
              await disk.discard(offset, length);
              const now = new Uint8Array(length);
              await disk.read(offset, now);
              assert(now.every((byte, i) => byte === 0 || byte === part[i]));
              part.set(now);
            } else if (kind === "pin") {
              // A write before it is in it; one meanwhile is in it or not.
              const late = (offset + length) % disk.size;
              part.fill(value);
              const early = disk.write(offset, part.slice());
              const pinning = disk.pin(`${folder}/snapshot${pins.length}`);
              const before = model.slice();
              const next = disk.write(late, new Uint8Array(SECTOR).fill(7));
              model.fill(7, late, late + SECTOR);
              const [pin] = await Promise.all([pinning, early, next]);
              const was = await pinned(pin);
              assert(equal(was, before) || equal(was, model), "pin");
              pins.push({ pin, was, sums: await hashes(pin) });
            } else if (kind === "cancel") {
              const pin = await disk.pin(`${folder}/unfinished`);
              await pin.cancel();
            } else if (kind === "reopen") {
              const { path, format } = disk;
              await disk.close();
              // One that has overlays, after a restore, is refused without a word on what is to be done.
              disk = await open(path, { format }).catch(() =>
                open(path, { format, pin: true })
              );
            } else if (one !== undefined) {
              await disk.close();
              const { path, format } = one.pin.image.files[0];
              const restoredFrom = `${folder}/snapshot`;
              disk = await open(path, { format }, { restoredFrom });
              model = one.was.slice() as typeof model;
            }
            assert(equal(await content(disk), model), kind);
          }
          await disk.close();
          for (const { pin, was, sums } of pins) {
            assertEquals(await hashes(pin), sums);
            assert(equal(await pinned(pin), was));
          }
        }),
    ),
    { numRuns: 60 },
  );
});

Deno.test("a pinned image gets an overlay at its first write, and one only", async () => {
  await withDirectory(async (folder) => {
    const base = `${folder}/disk.img`;
    await Deno.writeFile(base, noise(1 << 20));
    await Deno.chmod(base, 0o600);
    const told: string[] = [];
    const disk = await open(base, {}, {
      id: "virtio-blk0",
      notify: (line) => told.push(line),
    });
    const sector = new Uint8Array(SECTOR).fill(1);
    await disk.write(0, sector);
    assertEquals(names(folder), ["disk.img"]);
    await disk.pin(`${folder}/a.snap`);
    await disk.pin(`${folder}/b.snap`);
    await disk.read(0, sector);
    await disk.flush();
    await disk.discard(0, 1 << 20);
    assertEquals(names(folder), ["disk.img"], "nothing was written");
    await Promise.all([1, 2, 3].map((i) => disk.write(i * SECTOR, sector)));
    assertEquals(names(folder), ["disk.1.qcow2", "disk.img"]);
    assertEquals((await Deno.stat(disk.path)).mode! & 0o777, 0o600);
    await disk.pin(`${folder}/c.snap`);
    await disk.pin(`${folder}/d.snap`);
    await disk.write(0, sector);
    assertEquals(names(folder), ["disk.1.qcow2", "disk.2.qcow2", "disk.img"]);
    assertEquals(disk.path, `${folder}/disk.2.qcow2`);
    await disk.close();
    assertEquals(told.length, 2);
    for (
      const part of [
        `virtio-blk0: "${base}" is kept as it is for the snapshot "${folder}/b.snap"`,
        `writes go to "${folder}/disk.1.qcow2"`,
        "qemu-img commit",
        "qemu-img rebase",
      ]
    ) assertStringIncludes(told[0], part);
    assertEquals(
      told[1],
      `virtio-blk0: writes go to "${folder}/disk.2.qcow2" from now on`,
    );
  });
});

Deno.test("an image that a snapshot refers to is kept by a machine that knows nothing of the snapshot", async () => {
  await withDirectory(async (folder) => {
    const base = `${folder}/disk.img`;
    const bytes = noise(1 << 16);
    await Deno.writeFile(base, bytes);
    const sector = new Uint8Array(SECTOR).fill(1);
    const first = await open(base);
    await first.pin(`${folder}/vm.snap`);
    await first.close();
    assertEquals(names(folder), ["disk.img"]);

    const told: string[] = [];
    const second = await open(base, {}, { notify: (line) => told.push(line) });
    await second.write(0, sector);
    await second.close();
    assertEquals(await Deno.readFile(base), bytes);
    assertStringIncludes(told[0], `the snapshot "${folder}/vm.snap"`);

    // Its content is not the newest any more: the user is asked what they want.
    const refused = await assertRejects(() => open(base), MachineError);
    for (const part of ["disk.1.qcow2", "pin=on", "pin=off"]) {
      assertStringIncludes(refused.message, part);
    }
    const fork = await open(base, { pin: true });
    await fork.write(0, sector);
    assertEquals(fork.path, `${folder}/disk.2.qcow2`);
    await fork.close();
    assertEquals(await Deno.readFile(base), bytes);
    const forced = await open(base, { pin: false });
    await forced.write(0, sector);
    await forced.close();
    assertEquals((await Deno.readFile(base)).subarray(0, SECTOR), sector);
  });
});

Deno.test("an image is kept by whatever link it is opened", async () => {
  await withDirectory(async (folder) => {
    const base = `${folder}/disk.img`;
    const bytes = noise(1 << 16);
    await Deno.writeFile(base, bytes);
    await Deno.mkdir(`${folder}/links`);
    const link = `${folder}/links/system.img`;
    await Deno.symlink(base, link);
    const disk = await open(link);
    await disk.pin(`${folder}/vm.snap`);
    await disk.close();
    const again = await open(base);
    await again.write(0, new Uint8Array(SECTOR));
    await again.close();
    assertEquals(await Deno.readFile(base), bytes);
    assertEquals(again.path, `${folder}/disk.1.qcow2`);
    await assertRejects(() => open(link), MachineError, "disk.1.qcow2");
  });
});

Deno.test("a snapshot that could not be replaced keeps its image", async () => {
  await withDirectory(async (folder) => {
    const base = `${folder}/disk.img`;
    const bytes = noise(1 << 16);
    await Deno.writeFile(base, bytes);
    const disk = await open(base);
    await disk.pin(`${folder}/vm.snap`);
    const failed = await disk.pin(`${folder}/vm.snap`);
    await failed.cancel();
    await disk.close();
    const again = await open(base);
    await again.write(0, new Uint8Array(SECTOR));
    await again.close();
    assertEquals(await Deno.readFile(base), bytes);
  });
});

Deno.test("pin=off takes the mark of a snapshot away", async () => {
  await withDirectory(async (folder) => {
    const base = `${folder}/disk.img`;
    await Deno.writeFile(base, noise(1 << 16));
    const sector = new Uint8Array(SECTOR).fill(1);
    let disk = await open(base);
    const cancelled = await disk.pin(`${folder}/unfinished`);
    await cancelled.cancel();
    await disk.write(0, sector);
    await disk.pin(`${folder}/vm.snap`);
    await disk.close();
    for (const options of [{ pin: false }, {}]) {
      disk = await open(base, options);
      const { image } = await disk.pin(`${folder}/other.snap`);
      assertEquals(image.pinned, options.pin !== false);
      if (options.pin === false) await disk.write(0, sector.fill(2));
      await disk.close();
    }
    assertEquals(names(folder), ["disk.img"]);
  });
});

Deno.test("a hundred snapshots leave a few overlays to read through, and each its content", async () => {
  await withDirectory(async (folder) => {
    const base = `${folder}/disk.img`;
    const model = noise(1 << 20);
    await Deno.writeFile(base, model);
    let disk = await open(base);
    const pins: { pin: Pin; was: Uint8Array; sums: string[] }[] = [];
    const random = noise(400);
    for (let i = 0; i < 100; i++) {
      const pin = await disk.pin(`${folder}/${i}.snap`);
      assert(pin.image.files.length <= 64, `${pin.image.files.length} files`);
      if (i % 20 === 0) {
        pins.push({ pin, was: model.slice(), sums: await hashes(pin) });
      }
      const offset = (random[i] << 3 | i & 7) * SECTOR;
      const part = model.subarray(offset, offset + SECTOR).fill(i);
      if (i % 3 === 0) await disk.writeZeroes(offset, SECTOR, true);
      else await disk.write(offset, part.slice());
      if (i % 3 === 0) part.fill(0);
    }
    assert(equal(await content(disk), model), "the disk itself");
    const { path } = disk;
    await disk.close();
    assertEquals(path, `${folder}/disk.100.qcow2`);
    disk = await open(path);
    assert(equal(await content(disk), model), "the disk, opened again");
    await disk.close();
    for (const { pin, was, sums } of pins) {
      assertEquals(await hashes(pin), sums);
      assert(equal(await pinned(pin), was), pin.image.files[0].path);
    }
  });
});

Deno.test("an overlay that cannot be made is an error of the write, and harms nothing", async () => {
  await withDirectory(async (folder) => {
    const base = `${folder}/disk.img`;
    const bytes = noise(1 << 16);
    await Deno.writeFile(base, bytes);
    const disk = await open(base);
    await disk.pin(`${folder}/vm.snap`);
    const away = `${folder}-away`;
    await Deno.rename(folder, away);
    try {
      const error = await assertRejects(
        () => disk.write(0, new Uint8Array(SECTOR)),
        Error,
      );
      assertStringIncludes(error.message, base);
      assertStringIncludes(error.message, `"${folder}" cannot be made`);
    } finally {
      await Deno.rename(away, folder);
    }
    assertEquals(await content(disk), bytes);
    assertEquals(names(folder), ["disk.img"]);
    // And when the cause has gone it goes on.
    await disk.write(0, new Uint8Array(SECTOR));
    await disk.close();
    assertEquals(names(folder), ["disk.1.qcow2", "disk.img"]);
    assertEquals(await Deno.readFile(base), bytes);
  });
});

Deno.test("two machines write one image never, and restore one snapshot at once", async () => {
  await withDirectory(async (folder) => {
    const base = `${folder}/disk.img`;
    await Deno.writeFile(base, noise(1 << 16));
    const disk = await open(base);
    for (const options of [{}, { readonly: true }, { pin: true }]) {
      const error = await assertRejects(
        () => open(base, options),
        MachineError,
      );
      assertStringIncludes(error.message, "another machine");
    }
    await disk.pin(`${folder}/vm.snap`);
    const restored = { restoredFrom: `${folder}/vm.snap` };
    const clones = [
      await open(base, {}, restored),
      await open(base, {}, restored),
    ];
    const all = [disk, ...clones];
    await Promise.all(
      all.map((one, i) => one.write(0, new Uint8Array(SECTOR).fill(i))),
    );
    for (const [i, one] of all.entries()) {
      const sector = new Uint8Array(SECTOR);
      await one.read(0, sector);
      assertEquals(sector[0], i);
    }
    assertEquals(new Set(all.map(({ path }) => path)).size, 3);
    const error = await assertRejects(
      () => open(base, { pin: false }),
      MachineError,
    );
    assertStringIncludes(error.message, "another machine");
    for (const one of all) await one.close();
  });
});

Deno.test("the format of an image is what its name says, if its content does not say otherwise", async () => {
  await withDirectory(async (folder) => {
    const raw = `${folder}/x.qcow2`;
    await Deno.writeFile(raw, noise(1 << 16));
    assertStringIncludes(
      (await assertRejects(() => open(raw), MachineError)).message,
      "say format=raw",
    );
    const disk = await open(raw, { format: "raw" });
    assertEquals(disk.size, 1 << 16);
    await disk.pin(`${folder}/snapshot`);
    await disk.write(0, new Uint8Array(SECTOR));
    const { path } = disk;
    await disk.close();
    const renamed = `${folder}/overlay.img`;
    await Deno.rename(path, renamed);
    assertStringIncludes(
      (await assertRejects(() => open(renamed), MachineError)).message,
      "say format=qcow2",
    );
    await (await open(renamed, { format: "qcow2" })).close();
    await Deno.remove(raw);
    assertStringIncludes(
      (await assertRejects(
        () => open(renamed, { format: "qcow2" }),
        MachineError,
      )).message,
      `"${raw}"`,
    );
  });
});
