// Finding the images of a snapshot again, and telling when they are not what they were.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { noise, withDirectory } from "../../tests/support.ts";
import type { ManifestImage } from "../../snapshot/manifest.ts";
import { openBlock, PinnedBlock } from "./mod.ts";
import { examineOther, findImage } from "./recorded.ts";

const SECTOR = 512;

/** Makes an image of a raw file with two overlays, and what a snapshot says of it. */
async function makeImage(
  folder: string,
  size: number,
): Promise<ManifestImage> {
  await Deno.writeFile(`${folder}/disk.img`, noise(size));
  const disk = await openBlock({ image: `${folder}/disk.img` });
  if (!(disk instanceof PinnedBlock)) throw new Error("not in a file");
  for (const name of ["a", "b"]) {
    await disk.pin(`${folder}/${name}.snap`);
    await disk.write(size - SECTOR, noise(SECTOR));
  }
  const { image } = await disk.pin(`${folder}/vm.snap`);
  await disk.close();
  return image;
}

const problem = async (image: ManifestImage, snapshot: string) =>
  (await findImage(image, snapshot)).problem ?? "";

Deno.test("the image of a snapshot is found where it was, and beside the snapshot after a move", async () => {
  await withDirectory(async (folder) => {
    const old = `${folder}/old`;
    await Deno.mkdir(old);
    const image = await makeImage(old, 1 << 16);
    assertEquals(
      image.files.map(({ path, format, relative }) => ({
        path,
        format,
        relative,
      })),
      ["disk.2.qcow2", "disk.1.qcow2", "disk.img"].map((name) => ({
        path: `${old}/${name}`,
        format: name.endsWith("img") ? "raw" : "qcow2",
        relative: name,
      })),
    );
    assertEquals(await findImage(image, `${old}/vm.snap`), {
      path: `${old}/disk.2.qcow2`,
      format: "qcow2",
    });
    await Deno.rename(old, `${folder}/new`);
    assertEquals(await findImage(image, `${folder}/new/vm.snap`), {
      path: `${folder}/new/disk.2.qcow2`,
      format: "qcow2",
    });
    assertEquals(
      await problem(image, `${folder}/vm.snap`),
      `image "${old}/disk.2.qcow2" of ${
        image.files[0].bytes
      } bytes is not there, nor "${folder}/disk.2.qcow2"`,
    );
    // Another image at the old place does not hide the one beside the snapshot.
    await Deno.mkdir(old);
    await makeImage(old, 1 << 17);
    assertEquals(
      (await findImage(image, `${folder}/new/vm.snap`)).path,
      `${folder}/new/disk.2.qcow2`,
    );
  });
});

Deno.test("an image that is missing, changed or of another size is named", async () => {
  await withDirectory(async (folder) => {
    const base = `${folder}/disk.img`;
    const snapshot = `${folder}/vm.snap`;
    const size = 1 << 16;
    const image = await makeImage(folder, size);
    const bytes = await Deno.readFile(base);

    await Deno.writeFile(base, bytes.map((byte) => byte + 1));
    assertStringIncludes(
      await problem(image, snapshot),
      `image "${base}" of ${size} bytes was changed`,
    );
    await Deno.writeFile(base, noise(2 * size));
    assertStringIncludes(
      await problem(image, snapshot),
      `image "${base}" is ${2 * size} bytes: expected ${size}`,
    );
    await Deno.remove(base);
    assertStringIncludes(
      await problem(image, snapshot),
      `"${base}": there is no such file (the base of "${folder}/disk.1.qcow2")`,
    );
    // The same content again is the same image, whatever its date is.
    await Deno.writeFile(base, bytes);
    await Deno.utime(base, 1, 1);
    assertEquals((await findImage(image, snapshot)).problem, undefined);
    assertEquals((await findImage(image, snapshot)).note, undefined);
  });
});

Deno.test("of a large image samples are compared, and a new date is told", async () => {
  await withDirectory(async (folder) => {
    const base = `${folder}/disk.img`;
    const image = await makeImage(folder, 3 << 20);
    assertEquals((await findImage(image, `${folder}/vm.snap`)).note, undefined);
    await Deno.utime(base, 1, 1);
    assertStringIncludes(
      (await findImage(image, `${folder}/vm.snap`)).note ?? "",
      `image "${base}" has the date 1970-01-01T00:00:01.000Z`,
    );
    for (const at of [0, (3 << 20) - 1]) {
      const file = await Deno.open(base, { read: true, write: true });
      await file.seek(at, Deno.SeekMode.Start);
      const [byte] = (await Deno.readFile(base)).subarray(at);
      await file.write(Uint8Array.of(byte ^ 1));
      assertStringIncludes(
        await problem(image, `${folder}/vm.snap`),
        "was changed",
      );
      await file.seek(at, Deno.SeekMode.Start);
      await file.write(Uint8Array.of(byte));
      file.close();
    }
  });
});

Deno.test("an image in the place of another has to be of its size, and other content is told", async () => {
  await withDirectory(async (folder) => {
    const size = 1 << 16;
    const image = await makeImage(folder, size);
    const other = `${folder}/other.img`;
    await Deno.writeFile(other, noise(size, 2));
    const { problem, note } = await examineOther(image, other, "raw");
    assertEquals(problem, undefined);
    assertStringIncludes(note ?? "", "has other content");
    await Deno.writeFile(other, noise(2 * size));
    assertStringIncludes(
      (await examineOther(image, other, "raw")).problem ?? "",
      `is a disk of ${2 * size} bytes: expected ${size}`,
    );
    const moved = `${folder}/moved.qcow2`;
    await Deno.rename(image.files[0].path, moved);
    assertEquals(await examineOther(image, moved, "qcow2"), {
      path: moved,
      format: "qcow2",
    });
  });
});
