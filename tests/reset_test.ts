// A restored guest that resets boots again, from the files that were booted.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { CODE, diapause, kernelFile } from "../cli/testing.ts";
import { debianTest, Session } from "./support.ts";

/** jmp to itself. */
const LOOP = [0xeb, 0xfe];

/** Prints a letter, waits for a key, and resets. */
const kernelThatPrints = (letter: string) =>
  kernelFile(CODE.print(letter), CODE.waitForInput, CODE.reset, CODE.idle);

Deno.test("a restored guest that resets boots again", async () => {
  const directory = await Deno.makeTempDir();
  const [socket, file] = [`${directory}/control`, `${directory}/snapshot`];
  const kernel = await kernelThatPrints("a");
  const ctl = (...args: string[]) => diapause("ctl", socket, ...args);
  const restore = (...more: string[]) =>
    new Session("--restore", file, "--control", socket, ...more);
  try {
    const first = new Session(
      ...["--kernel", kernel, "--mem", "16M", "--dev", "uart"],
      ...["--control", socket],
    );
    await first.expect("a");
    assertEquals((await ctl("suspend", file)).code, 0);
    assertEquals((await first.end()).code, 0);

    const second = restore();
    await second.type("");
    await second.expect("a");
    assertEquals((await ctl("reset")).code, 0);
    await second.expect("a");
    // What it boots goes along from snapshot to snapshot.
    assertEquals((await ctl("suspend", file)).code, 0);
    assertEquals((await second.end()).stderr, "");

    const other = await kernelThatPrints("b");
    await Deno.rename(other, kernel);
    const changed = restore();
    await changed.type("");
    const refused = await changed.end();
    assertEquals([refused.code, refused.stdout], [1, ""]);
    assertStringIncludes(
      refused.stderr,
      `cannot boot again: kernel "${kernel}" has`,
    );
    const meant = restore("--kernel", kernel);
    await meant.type("");
    await meant.expect("b");
    assertEquals((await ctl("quit")).code, 0);
    assertEquals((await meant.end()).stderr, "");

    const third = await kernelThatPrints("c");
    const given = restore("--kernel", third);
    await given.type("");
    await given.expect("c");
    assertEquals((await ctl("quit")).code, 0);
    assertEquals((await given.end()).stderr, "");
    await Deno.remove(third);

    await Deno.remove(kernel);
    const check = await diapause("check", file);
    assertEquals(check.code, 0);
    assertStringIncludes(
      check.stderr,
      `after a reset: cannot read kernel "${kernel}"`,
    );
    const lost = restore();
    for (;;) {
      const { code, stderr } = await ctl("reset");
      if (stderr.includes("cannot reach")) continue;
      assertEquals(code, 1);
      assertStringIncludes(stderr, `cannot read kernel "${kernel}"`);
      break;
    }
    assertEquals((await ctl("status")).stdout, "running\n");
    await lost.type("");
    const { code, stderr } = await lost.end();
    assertEquals(code, 1);
    assertStringIncludes(stderr, "the guest has reset itself, and cannot boot");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

debianTest(
  "--exec goes on in another process, with the command's output and status",
  async () => {
    const directory = await Deno.makeTempDir();
    const [socket, file] = [`${directory}/control`, `${directory}/snapshot`];
    try {
      const command = "echo one; sleep 2; echo two; exit 7";
      const first = new Session("--exec", command, "--control", socket);
      await first.expect("one");
      assertEquals((await diapause("ctl", socket, "suspend", file)).code, 0);
      const { code, stdout, stderr } = await first.end();
      assertEquals([code, stdout], [1, "one\n"]);
      assertStringIncludes(stderr, `--restore ${file} goes on with it`);
      const second = await diapause("--restore", file);
      assertEquals([second.code, second.stdout], [7, "two\n"]);
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
);

Deno.test("check and restore name every blocker of a snapshot at once", async () => {
  const directory = await Deno.makeTempDir();
  const file = `${directory}/snapshot`;
  const kernel = await kernelFile(LOOP);
  const [image, lost] = [`${directory}/disk`, `${directory}/lost`];
  await Deno.writeFile(image, new Uint8Array(4096));
  try {
    await diapause(
      ...["--kernel", kernel, "--mem", "16M", "--max-instructions", "9"],
      ...["--dev", `uart,virtio-blk:image=${image}`, "--snapshot", file],
    );
    await Deno.rename(image, lost);
    const changes = [
      ...["--dev", "uart0:bakend=null", "--dev", "uart@7"],
      ...["--replace", "nothing=uart", "--replace", "hpet0=uart"],
    ];
    const expected = [
      '--replace "nothing=uart": expected ID=SPEC',
      'device "uart0": device "uart" is version',
      'hpet0 has the state of "hpet": the plugin "uart" takes that of "uart"',
      `device "virtio-blk0": image "${image}"`,
    ];
    for (
      const command of [
        ["check", file, ...changes],
        ["--restore", file, "--check", ...changes],
        ["--restore", file, ...changes],
      ]
    ) {
      const { code, stderr } = await diapause(...command);
      assertEquals(code, 1);
      for (const line of expected) assertStringIncludes(stderr, line);
    }
    const good = await diapause(
      ...["--restore", file, "--check"],
      ...["--dev", `virtio-blk0:image=${lost}`],
    );
    assertEquals([good.code, good.stderr], [0, ""]);
    for (const path of [directory, `${directory}/none`]) {
      const { code, stderr } = await diapause("--restore", path);
      assertEquals(code, 1);
      assertStringIncludes(stderr, `cannot open the snapshot "${path}"`);
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
    await Deno.remove(kernel);
  }
});

Deno.test("code that a snapshot brings along is not run unless the user names it", async () => {
  const directory = await Deno.makeTempDir();
  const file = `${directory}/snapshot`;
  const kernel = await kernelFile(LOOP);
  const scratch = new URL("../cli/testdata/scratch.ts", import.meta.url);
  const code = `data:text/javascript;base64,${
    btoa(`export { default } from "${scratch}"`)
  }`;
  try {
    const { code: saved, stderr } = await diapause(
      ...["--kernel", kernel, "--mem", "16M", "--max-instructions", "9"],
      ...["--dev", `${code.replaceAll(",", ",,")}:id=mine`],
      ...["--snapshot", file],
    );
    assertEquals([saved, stderr], [0, ""]);
    const check = await diapause("check", file);
    assertEquals(check.code, 1);
    assertStringIncludes(check.stderr, 'device "mine": the snapshot names');
    const named = await diapause(
      ...["check", file, "--replace", `mine=${code.replaceAll(",", ",,")}`],
    );
    assertEquals([named.code, named.stderr], [0, ""]);
  } finally {
    await Deno.remove(directory, { recursive: true });
    await Deno.remove(kernel);
  }
});
