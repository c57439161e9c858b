// Devices of a running Debian guest replaced while it uses them; and replaced at a restore.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { CODE, diapause, kernelFile, Qmp } from "../cli/testing.ts";
import { debianTest, Session } from "./support.ts";

const TESTDATA = new URL("./testdata/", import.meta.url).pathname;
const [BLK, UART] = [`${TESTDATA}other_blk.ts`, `${TESTDATA}other_uart.ts`];
const DISK_BYTES = 4 << 20;
const LINES = 200;
/** Each device is replaced this often. */
const ROUNDS = 8;
/** Reads and writes the disk while it prints. */
const WORK = [
  "echo begin",
  "(for i in 1 2 3; do sha256sum /dev/vda; done > /sums) &",
  "(for i in 1 2 3; do sha256sum /dev/vdb; " +
  "dd if=/dev/vda of=/dev/vdb bs=64k conv=fsync 2>/dev/null; done) > /dev/null &",
  `i=0; while [ $i -lt ${LINES} ]; do echo line $i of ${LINES}; i=$((i+1)); done`,
  "wait; uniq /sums; sha256sum < /dev/vdb",
].join("\n");

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const sum = await crypto.subtle.digest("SHA-256", bytes);
  return new Uint8Array(sum).toHex();
}

debianTest(
  "a Debian guest uses its disks and console while they are replaced",
  async () => {
    const directory = await Deno.makeTempDir();
    const socket = `${directory}/control`;
    const content = new Uint8Array(DISK_BYTES);
    for (let i = 0; i < content.length; i += 4096) content[i] = i >> 12;
    await Deno.writeFile(`${directory}/a`, content);
    await Deno.writeFile(`${directory}/b`, new Uint8Array(DISK_BYTES));
    try {
      const session = new Session(
        ...["--dev", `virtio-blk:image=${directory}/a:readonly=on`],
        ...["--dev", `virtio-blk:image=${directory}/b,uart`],
        ...["--control", socket, "--exec", WORK],
      );
      await session.expect("begin");
      const client = await Qmp.open(socket);
      await client.execute("qmp_capabilities");
      for (let round = 0; round < ROUNDS; round++) {
        for (const id of ["virtio-blk0", "uart0", "virtio-blk1"]) {
          const specifier = id === "uart0" ? UART : BLK;
          await client.execute("x-replace-device", { id, specifier });
        }
      }
      const { code, stdout, stderr } = await session.end();
      client.close();
      const lines = Array.from(
        { length: LINES },
        (_, i) => `line ${i} of ${LINES}\n`,
      );
      const sum = await sha256(content);
      assertEquals(
        stdout,
        `begin\n${lines.join("")}${sum}  /dev/vda\n${sum}  -\n`,
      );
      assertEquals([code, stderr], [0, ""]);
      assertEquals(await sha256(await Deno.readFile(`${directory}/b`)), sum);
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
);

Deno.test("a snapshot is restored with other backends and other plugins", async () => {
  const directory = await Deno.makeTempDir();
  const [file, image] = [`${directory}/snapshot`, `${directory}/disk`];
  const [console, socket] = [`${directory}/out`, `${directory}/control`];
  const kernel = await kernelFile(
    CODE.print("a"),
    CODE.waitForInput,
    ...[CODE.print("b"), CODE.powerOff, CODE.idle],
  );
  await Deno.writeFile(image, new Uint8Array(4096));
  try {
    const first = new Session(
      ...["--kernel", kernel, "--mem", "16M", "--control", socket],
      ...["--dev", `uart,virtio-blk:image=${image}`],
    );
    await first.expect("a");
    assertEquals((await diapause("ctl", socket, "suspend", file)).code, 0);
    assertEquals((await first.end()).code, 0);
    const moved = `${directory}/moved`;
    await Deno.rename(image, moved);
    const changes = [
      ...["--dev", `virtio-blk0:image=${moved}`, "--dev", `uart@${UART}`],
      ...["--replace", `virtio-blk0=${BLK}:serial=other`],
    ];
    const check = await diapause("check", file, ...changes);
    assertEquals([check.code, check.stderr], [0, ""]);
    const other = await diapause(
      ...["check", file, "--replace"],
      `virtio-blk0=virtio-blk:image=${moved}:serial=new`,
    );
    assertEquals([other.code, other.stderr], [0, ""]);
    const second = new Session("--restore", file, ...changes);
    await second.type("");
    const { code, stdout, stderr } = await second.end();
    assertEquals([code, stdout, stderr], [0, "b", ""]);

    const elsewhere = `uart0:backend=file=${console}`;
    const third = new Session(
      ...["--restore", file, ...changes, "--dev", elsewhere],
      ...["--control", socket],
    );
    for (;;) {
      const { stdout } = await diapause("ctl", socket, "query-devices");
      if (stdout === "") continue;
      assertStringIncludes(stdout, "uart-successor 9.0.0");
      assertStringIncludes(stdout, "virtio-blk-successor 9.0.0");
      break;
    }
    const back = await diapause(
      ...["ctl", socket, "replace-device", "uart0", "uart"],
    );
    assertEquals(back.code, 1);
    assertStringIncludes(
      back.stderr,
      'of the schema "uart", and this build reads up to',
    );
    const moving = await diapause(
      ...["ctl", socket, "replace-device", "virtio-blk0"],
      `${BLK}:image=elsewhere`,
    );
    assertEquals(moving.code, 1);
    assertStringIncludes(moving.stderr, 'option "image" of device');
    assertEquals((await diapause("ctl", socket, "quit")).code, 0);
    assertEquals((await third.end()).code, 0);
    assertEquals(await Deno.readTextFile(console), "");
  } finally {
    await Deno.remove(directory, { recursive: true });
    await Deno.remove(kernel);
  }
});
