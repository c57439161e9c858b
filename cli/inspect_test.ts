// Snapshots on the command line: saved, looked at, restored in a new process.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { CODE, diapause, kernelFile } from "./testing.ts";

/** jmp to itself: counts instructions, and nothing else. */
const LOOP = [0xeb, 0xfe];

async function inDirectory(
  test: (directory: string) => Promise<void>,
): Promise<void> {
  const directory = await Deno.makeTempDir();
  try {
    await test(directory);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** Runs a kernel for some instructions and saves it. */
async function save(file: string, image: string, count: number) {
  const kernel = await kernelFile(CODE.print("a"), LOOP);
  await Deno.writeFile(image, new Uint8Array(4096));
  try {
    return await diapause(
      ...["--kernel", kernel, "--mem", "16M", "--clock", "instructions"],
      ...["--dev", `uart,virtio-blk:image=${image}`],
      ...["--max-instructions", `${count}`, "--snapshot", file],
      "--print-hash",
    );
  } finally {
    await Deno.remove(kernel);
  }
}

Deno.test("--restore goes on where --snapshot saved", async () => {
  await inDirectory(async (directory) => {
    const disk = `${directory}/disk.img`;
    const early = await save(`${directory}/early`, disk, 3000);
    const late = await save(`${directory}/late`, disk, 9000);
    assertEquals([early.code, late.code], [0, 0]);
    for (const lazy of [[], ["--lazy"]]) {
      const resumed = await diapause(
        ...["--restore", `${directory}/early`, ...lazy],
        ...["--max-instructions", "9000", "--print-hash"],
      );
      assertEquals(resumed.stderr, late.stderr);
      assertEquals([early.stdout, resumed.stdout], ["a", ""]);
    }

    const { code, stdout } = await diapause(
      ...["diff", `${directory}/early`, `${directory}/late`],
    );
    assertEquals(code, 1);
    assertStringIncludes(stdout, "machine.retired: 0xbb8 | 0x2328\n");
    assertEquals(
      await diapause("diff", `${directory}/late`, `${directory}/late`),
      { code: 0, stdout: "", stderr: "" },
    );
    const json = JSON.parse(
      (await diapause("inspect", `${directory}/early`, "--json")).stdout,
    );
    assertEquals(json.manifest.memory, 16 << 20);
    assertEquals(json.components[0], {
      id: "machine",
      schema: { name: "machine", version: 2 },
      state: { retired: "3000", entropy: "0" },
    });
  });
});

Deno.test("--restore refuses a memory and a clock that are not the snapshot's", async () => {
  await inDirectory(async (directory) => {
    const file = `${directory}/snapshot`;
    await save(file, `${directory}/disk.img`, 3000);
    const restore = (...args: string[]) =>
      diapause("--restore", file, "--max-instructions", "4000", ...args);
    const other = ["--mem", "32M", "--clock", "realtime"];
    const refused = await restore(...other);
    assertEquals(refused.code, 1);
    assertStringIncludes(
      refused.stderr,
      "--mem is 32M, but the snapshot is of a machine with 16M: leave it out; " +
        '--clock is realtime, but the snapshot is of a machine with the clock "instructions": leave it out',
    );
    const checked = await restore("--check", ...other);
    assertEquals(checked.code, 1);
    assertEquals(checked.stderr.match(/leave it out$/gm)?.length, 2);
    const same = await restore("--mem", "16384K", "--clock", "instructions");
    assertEquals(same, { code: 0, stdout: "", stderr: "" });
  });
});

Deno.test("check names what is missing, and --dev puts another image in its place", async () => {
  await inDirectory(async (directory) => {
    const disk = `${directory}/disk.img`;
    const file = `${directory}/snapshot`;
    await save(file, disk, 3000);
    await Deno.rename(disk, `${directory}/moved.img`);
    const lost = await diapause("check", file);
    assertEquals(lost.code, 1);
    assertStringIncludes(lost.stderr, `image "${disk}"`);
    assertStringIncludes(lost.stderr, "--dev virtio-blk0:image=PATH");
    const restored = await diapause("--restore", file);
    assertEquals(restored.code, 1);
    assertStringIncludes(restored.stderr, `image "${disk}"`);
    const found = await diapause(
      ...["check", file, "--dev"],
      `virtio-blk0:image=${directory}/moved.img`,
    );
    assertEquals(
      [found.code, found.stdout],
      [0, `${file}: can be restored\n`],
    );
    // The kernel was a temporary file.
    assertStringIncludes(found.stderr, "after a reset: cannot read kernel");
  });
});

Deno.test("what is no snapshot is refused", async () => {
  await inDirectory(async (directory) => {
    const file = `${directory}/text`;
    await Deno.writeTextFile(file, "hello");
    for (const command of [["inspect", file], ["--restore", file]]) {
      const { code, stderr } = await diapause(...command);
      assertEquals(code, 1);
      assertStringIncludes(stderr, "this is not a snapshot");
    }
  });
});

/** Where the first block of pages is (docs/snapshot-format.md, sections 1, 3 and 6). */
function firstBlock(file: Uint8Array): number {
  const view = new DataView(file.buffer, file.byteOffset);
  const trailer = file.length - 48;
  const chunks = Number(view.getBigUint64(trailer, true));
  let payload = 16;
  for (let entry = trailer - 48 * chunks; entry < trailer; entry += 48) {
    const tag = String.fromCharCode(...file.subarray(entry, entry + 4));
    if (tag === "PAGE") return payload;
    payload += Number(view.getBigUint64(entry + 8, true));
  }
  throw new Error("the snapshot has no block of pages");
}

Deno.test("a damaged block of pages is named, before the guest runs or when it is touched", async () => {
  await inDirectory(async (directory) => {
    const file = `${directory}/vm.snap`;
    await save(file, `${directory}/disk.img`, 3000);
    const bytes = await Deno.readFile(file);
    bytes[firstBlock(bytes) + 20] ^= 1;
    await Deno.writeFile(file, bytes);
    const damage = /chunk \d+ \(PAGE\) at byte \d+ is damaged/;
    for (const command of [["check", file], ["--restore", file]]) {
      const { code, stderr } = await diapause(...command);
      assertEquals([code, damage.test(stderr)], [1, true], stderr);
    }
    const { code, stderr } = await diapause("--restore", file, "--lazy");
    assertEquals(code, 1);
    assertStringIncludes(stderr, "memory cannot be loaded: chunk ");
    assertEquals(damage.test(stderr), true, stderr);
  });
});
