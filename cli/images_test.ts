// Images of a snapshot on the command line: found again, or named with what is wrong and what to do.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { dirname } from "node:path";
import { noise, withDirectory } from "../tests/support.ts";
import { diapause, kernelFile } from "./testing.ts";

const SIZE = 65536;
/** jmp to itself. */
const LOOP = [0xeb, 0xfe];

/** Saves a machine with two disks in files and one in memory; its kernel is in the folder above. */
async function save(folder: string): Promise<void> {
  const kernel = `${dirname(folder)}/kernel`;
  await Deno.rename(await kernelFile(LOOP), kernel);
  await Deno.mkdir(folder);
  for (const name of ["a", "b"]) {
    await Deno.writeFile(`${folder}/${name}.img`, noise(SIZE));
  }
  const disks = ["a", "b"].map((name) =>
    `virtio-blk:id=${name}:image=${folder}/${name}.img`
  );
  const { code, stderr } = await diapause(
    ...["--kernel", kernel, "--mem", "16M", "--clock", "instructions"],
    ...["--dev", `${disks.join()},virtio-blk:size=20K`],
    ...["--max-instructions", "1000", "--snapshot", `${folder}/vm.snap`],
  );
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
}

const restore = (file: string, ...args: string[]) =>
  diapause("--restore", file, "--max-instructions", "2000", ...args);

Deno.test("a folder with a snapshot and its images can be moved", async () => {
  await withDirectory(async (folder) => {
    await save(`${folder}/old`);
    await Deno.rename(`${folder}/old`, `${folder}/new`);
    const file = `${folder}/new/vm.snap`;
    assertEquals(await diapause("check", file), {
      code: 0,
      stdout: `${file}: can be restored\n`,
      stderr: "",
    });
    assertEquals((await restore(file)).code, 0);
    await Deno.rename(file, `${folder}/vm.snap`);
    assertEquals((await restore(`${folder}/vm.snap`)).code, 1);
  });
});

Deno.test("check lists every image that is not as it was, and a restore begins nothing", async () => {
  await withDirectory(async (above) => {
    const folder = `${above}/vm`;
    await save(folder);
    const file = `${folder}/vm.snap`;
    await Deno.writeFile(`${folder}/a.img`, noise(2 * SIZE));
    await Deno.writeFile(`${folder}/b.img`, noise(SIZE, 2));
    const { code, stderr } = await diapause("check", file);
    assertEquals(code, 1);
    const lines = stderr.trimEnd().split("\n");
    assertEquals(lines.length, 2);
    for (
      const [i, [id, what]] of [
        ["a", `is a disk of ${2 * SIZE} bytes: expected ${SIZE}`],
        ["b", `of ${SIZE} bytes was changed since the snapshot was made`],
      ].entries()
    ) {
      for (
        const part of [
          `device "${id}": image "${folder}/${id}.img" ${what}`,
          `--dev ${id}:image=PATH`,
        ]
      ) assertStringIncludes(lines[i], part);
    }
    const refused = await restore(file);
    assertEquals(refused.code, 1);
    assertStringIncludes(refused.stderr, 'device "a"');
    assertStringIncludes(refused.stderr, 'device "b"');

    await Deno.writeFile(`${folder}/copy.img`, noise(SIZE));
    const given = await restore(
      file,
      ...["--dev", `a:image=${folder}/copy.img,b:image=${folder}/b.img`],
    );
    assertEquals(given.code, 0);
    assertStringIncludes(given.stderr, `image "${folder}/b.img" has other`);
    assertEquals(given.stderr.includes("copy.img"), false);
  });
});
