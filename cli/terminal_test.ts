// The command on a terminal: `script` (bsdutils) gives it one.

import { assertEquals, assertMatch } from "@std/assert";
import { CODE, COMMAND, kernelFile } from "./testing.ts";

const TESTDATA = new URL("./testdata/", import.meta.url).pathname;

/** A shell on a terminal of its own that runs the command between two looks at its modes. */
class TerminalSession {
  readonly #process: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reader: ReadableStreamDefaultReader<string>;
  #text = "";

  constructor(...args: string[]) {
    const quoted = [...COMMAND, ...args].map((word) =>
      `'${word.replaceAll("'", "'\\''")}'`
    ).join(" ");
    const modes = "stty -g | sed 's/^/modes=/'";
    this.#process = new Deno.Command("script", {
      args: [
        "-qec",
        `sh -c "${modes}; sh -c 'echo pid=\\$\\$; exec \\"\\$@\\"' - ${quoted}; echo code=\\$?; ${modes}; echo bye"`,
        "/dev/null",
      ],
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
      env: { NO_COLOR: "1", SHELL: "/bin/sh" },
    }).spawn();
    this.#writer = this.#process.stdin.getWriter();
    this.#reader = this.#process.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
  }

  /** Reads on until the terminal shows it. */
  async expect(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.#text);
      if (match) return match;
      const { value, done } = await this.#reader.read();
      if (done) throw new Error(`${pattern} is not in:\n${this.#text}`);
      this.#text += value;
    }
  }

  async type(keys: string): Promise<void> {
    await this.#writer.write(new TextEncoder().encode(keys));
  }

  /** The exit code of the command, once the terminal's modes are seen to be as before. */
  async end(): Promise<number> {
    await this.expect(/\nbye/);
    await this.#writer.close();
    while (!(await this.#reader.read()).done);
    await this.#process.status;
    const [before, after] = this.#text.matchAll(/modes=(\S+)/g);
    assertEquals(after[1], before[1]);
    return Number(/code=(\d+)/.exec(this.#text)?.[1]);
  }
}

async function echoKernel(): Promise<string> {
  return await kernelFile(CODE.print("#"), CODE.idle);
}

Deno.test("Ctrl-A h helps and Ctrl-A x quits, on a terminal that is given back", async () => {
  const session = new TerminalSession("--kernel", await echoKernel());
  await session.expect(/#/);
  await session.type("\x01h");
  await session.expect(/Ctrl-A x {4}quit/);
  await session.type("\x01x");
  assertEquals(await session.end(), 0);
});

Deno.test("signals end the machine in order and give the terminal back", async () => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    const session = new TerminalSession("--kernel", await echoKernel());
    await session.expect(/#/);
    const [, pid] = await session.expect(/pid=(\d+)/);
    Deno.kill(Number(pid), signal);
    assertEquals(await session.end(), 0, signal);
  }
});

Deno.test("errors give the terminal back", async () => {
  const kernel = await kernelFile(CODE.readPort(0x500), CODE.idle);
  const broken = new TerminalSession(
    ...["--kernel", kernel],
    ...["--dev", `${TESTDATA}throws_in_handler.ts`],
  );
  assertMatch((await broken.expect(/wire came off/))[0], /off/);
  assertEquals(await broken.end(), 1);
  const fault = new TerminalSession(
    ...["--kernel", await kernelFile(CODE.tripleFault)],
  );
  assertEquals(await fault.end(), 1);
});
