// The control socket as users have it: ctl, and a QMP client of their own.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { CODE, COMMAND, diapause, kernelFile } from "./testing.ts";

/** Runs a machine that idles; waits for its control socket. */
async function start(
  socket: string,
  args: string[],
): Promise<Deno.ChildProcess> {
  const [program, ...first] = COMMAND;
  const watcher = Deno.watchFs(socket.slice(0, socket.lastIndexOf("/")));
  const child = new Deno.Command(program, {
    args: [...first, ...args, "--control", socket],
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  for await (const { paths } of watcher) {
    if (paths.some((path) => path.endsWith("/control"))) break;
  }
  return child;
}

Deno.test("ctl stops, continues, suspends and quits a machine", async () => {
  const directory = await Deno.makeTempDir();
  const socket = `${directory}/control`;
  const kernel = await kernelFile(CODE.idle);
  try {
    const child = await start(
      socket,
      ["--kernel", kernel, "--mem", "16M", "--dev", "uart"],
    );
    assertEquals((await Deno.stat(socket)).mode! & 0o777, 0o600);
    const ctl = (...args: string[]) => diapause("ctl", socket, ...args);
    const status = async () => JSON.parse((await ctl("status")).stdout).status;
    assertEquals(await status(), "running");
    assertEquals((await ctl("stop")).code, 0);
    assertEquals(await status(), "paused");
    assertEquals((await ctl("cont")).code, 0);
    assertEquals(await status(), "running");
    assertStringIncludes((await ctl("query-devices")).stdout, '"uart0"');
    const failed = await ctl("checkpoint", `${directory}/none/file`);
    assertEquals(failed.code, 1);
    assertStringIncludes(failed.stderr, "cannot save to");
    const file = `${directory}/snapshot`;
    assertEquals(await ctl("checkpoint", file), {
      code: 0,
      stdout: "",
      stderr: "",
    });
    assertEquals((await ctl("suspend", file)).code, 0);
    assertEquals((await child.status).code, 0);
    assertStringIncludes((await ctl("status")).stderr, "cannot reach");

    const again = await start(socket, ["--restore", file]);
    assertEquals(await status(), "running");
    assertEquals((await ctl("quit")).code, 0);
    assertEquals((await again.status).code, 0);
  } finally {
    await Deno.remove(kernel);
    await Deno.remove(directory, { recursive: true });
  }
});
