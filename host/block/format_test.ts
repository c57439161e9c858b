import { assert, assertEquals, assertRejects } from "@std/assert";
import { MachineError } from "../../core/plugin.ts";
import { openBlock } from "./mod.ts";
import { createQcow2 } from "./qcow2/mod.ts";
import { withFolder } from "./qcow2/testing.ts";

const SIZE = 1024 * 1024;

async function refused(
  options: Parameters<typeof openBlock>[0],
  ...parts: string[]
): Promise<void> {
  const { message } = await assertRejects(
    () => openBlock(options),
    MachineError,
  );
  for (const part of parts) assert(message.includes(part), message);
}

Deno.test("a raw disk that its guest wrote a qcow2 header to is never opened as qcow2 by itself", async () => {
  await withFolder(async (folder) => {
    const image = `${folder}/disk.img`;
    const secret = `${folder}/secret`;
    await Deno.writeFile(secret, new Uint8Array(512).fill(0x53));
    const backing = { path: secret, format: "raw" } as const;
    await createQcow2(image, { size: SIZE, backing });
    await Deno.truncate(image, SIZE);
    const written = await Deno.readFile(image);

    await refused({ image }, image, "format=raw", "format=qcow2");
    const disk = await openBlock({ image, format: "raw" });
    const bytes = new Uint8Array(SIZE);
    await disk.read(0, bytes);
    assertEquals(bytes, written);
    await disk.close();
    // Even where the rest of the header makes no sense.
    const VERSION = 4;
    written.fill(0xff, VERSION, VERSION + 32);
    await Deno.writeFile(image, written);
    await refused({ image }, image, "format=raw");
  });
});

Deno.test("the name of an image says its format, and format= where it does not", async () => {
  await withFolder(async (folder) => {
    const named = `${folder}/disk.QCOW2`;
    const unnamed = `${folder}/cloud.img`;
    const raw = `${folder}/raw.qcow2`;
    for (const path of [named, unnamed]) {
      await createQcow2(path, { size: SIZE });
    }
    await Deno.writeFile(raw, new Uint8Array(SIZE / 2));
    const sizeOf = async (options: Parameters<typeof openBlock>[0]) => {
      const disk = await openBlock(options);
      await disk.close();
      return disk.size;
    };
    assertEquals(await sizeOf({ image: named }), SIZE);
    await refused({ image: unnamed }, unnamed, "format=qcow2");
    assertEquals(await sizeOf({ image: unnamed, format: "qcow2" }), SIZE);
    await refused({ image: raw }, raw, "format=raw");
    assertEquals(await sizeOf({ image: raw, format: "raw" }), SIZE / 2);
    await refused({ image: raw, format: "qcow2" }, raw, "not a qcow2 image");
    await refused({ image: raw, format: "vmdk" }, "vmdk", "raw or qcow2");
    await refused({ format: "raw" }, "format=");
  });
});
