// Displays as users have them: screenshots by ctl, and a VNC server.

import { assertEquals, assertMatch } from "@std/assert";
import { CODE, COMMAND, diapause, kernelFile } from "./testing.ts";

/** Runs a machine with a VGA that idles, while its control socket is there; then quits it. */
async function whileRunning(
  directory: string,
  args: string[],
  use: (ctl: (...args: string[]) => ReturnType<typeof diapause>) => Promise<
    void
  >,
): Promise<void> {
  const [program, ...first] = COMMAND;
  const socket = `${directory}/control`;
  const watcher = Deno.watchFs(directory);
  const child = new Deno.Command(program, {
    args: [...first, ...args, "--control", socket],
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  for await (const { kind, paths } of watcher) {
    if (kind !== "remove" && paths.includes(socket)) break;
  }
  await use((...args) => diapause("ctl", socket, ...args));
  assertEquals((await child.status).code, 0);
}

Deno.test("ctl takes the same screenshot before a suspend and after the restore", async () => {
  const directory = await Deno.makeTempDir();
  const kernel = await kernelFile(CODE.idle);
  const shot = (name: string) => `${directory}/${name}.png`;
  const vnc = `${directory}/vnc`;
  const done = { code: 0, stdout: "", stderr: "" };
  try {
    const args = ["--kernel", kernel, "--mem", "16M", "--dev", "vga,fbuf"];
    await whileRunning(
      directory,
      [...args, "--vnc", `unix=${vnc}`],
      async (ctl) => {
        assertEquals(await ctl("screenshot", shot("before")), done);
        assertEquals(await ctl("screenshot", shot("other"), "fbuf0"), done);
        const wrong = await ctl("screenshot", shot("none"), "uart0");
        assertEquals(wrong.code, 1);
        assertMatch(wrong.stderr, /"uart0": the machine has vga0, fbuf0/);
        assertEquals((await Deno.stat(vnc)).mode! & 0o777, 0o600);
        const client = await Deno.connect({ transport: "unix", path: vnc });
        const greeting = new Uint8Array(12);
        await client.read(greeting);
        assertEquals(new TextDecoder().decode(greeting), "RFB 003.008\n");
        client.close();
        assertEquals((await ctl("suspend", `${directory}/snap`)).code, 0);
      },
    );
    await whileRunning(
      directory,
      ["--restore", `${directory}/snap`],
      async (ctl) => {
        assertEquals(await ctl("screenshot", shot("after")), done);
        assertEquals(await ctl("quit"), done);
      },
    );
    const before = await Deno.readFile(shot("before"));
    const size = (png: Uint8Array) => {
      const view = new DataView(png.buffer);
      return [view.getUint32(16), view.getUint32(20)];
    };
    assertEquals(size(before), [720, 400]);
    assertEquals(size(await Deno.readFile(shot("other"))), [1024, 768]);
    assertEquals(await Deno.readFile(shot("after")), before);
  } finally {
    await Deno.remove(kernel);
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("--vnc says what is wrong with it", async () => {
  const wrong = await diapause("--vnc", "5900", "--guest", "monitor");
  assertEquals(wrong.code, 2);
  assertMatch(wrong.stderr, /--vnc is "5900": expected \[HOST\]:DISPLAY/);
  const kernel = await kernelFile(CODE.idle);
  const none = await diapause("--vnc", ":0", "--kernel", kernel);
  await Deno.remove(kernel);
  assertEquals(none.code, 1);
  assertMatch(none.stderr, /--vnc: the machine has no display/);
});
