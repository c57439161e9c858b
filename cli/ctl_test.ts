// The control socket as users have it: ctl, and a QMP client of their own.

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { CODE, COMMAND, diapause, kernelFile, Qmp } from "./testing.ts";

/** Runs a machine; waits for its control socket. */
async function start(
  socket: string,
  args: string[],
): Promise<Deno.ChildProcess> {
  const [program, ...first] = COMMAND;
  const watcher = Deno.watchFs(socket.slice(0, socket.lastIndexOf("/")));
  const child = new Deno.Command(program, {
    args: [...first, ...args, "--control", socket],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  for await (const { kind, paths } of watcher) {
    if (kind !== "remove" && paths.includes(socket)) break;
  }
  return child;
}

/** Runs a test with a folder, a kernel that idles and a path for a socket. */
async function withMachine(
  test: (setup: {
    directory: string;
    socket: string;
    kernel: string;
    /** Options of a small machine. */
    args: string[];
    ctl: (...args: string[]) => ReturnType<typeof diapause>;
  }) => Promise<void>,
  ...code: (readonly number[])[]
): Promise<void> {
  const directory = await Deno.makeTempDir();
  const socket = `${directory}/control`;
  const kernel = await kernelFile(...code);
  try {
    await test({
      directory,
      socket,
      kernel,
      args: ["--kernel", kernel, "--mem", "16M", "--dev", "uart"],
      ctl: (...args) => diapause("ctl", socket, ...args),
    });
  } finally {
    await Deno.remove(kernel);
    await Deno.remove(directory, { recursive: true });
  }
}

Deno.test("ctl stops, continues, suspends and quits a machine", () =>
  withMachine(async ({ directory, socket, args, ctl }) => {
    const child = await start(socket, args);
    const done = { code: 0, stdout: "", stderr: "" };
    assertEquals((await Deno.stat(socket)).mode! & 0o777, 0o600);
    assertEquals(await ctl("status"), { ...done, stdout: "running\n" });
    assertEquals(await ctl("stop"), done);
    assertEquals((await ctl("status")).stdout, "paused\n");
    assertEquals(
      JSON.parse((await ctl("status", "--json")).stdout),
      { status: "paused", singlestep: false, running: false },
    );
    assertEquals((await ctl("cont")).code, 0);
    assertEquals((await ctl("status")).stdout, "running\n");
    assertMatch((await ctl("query-devices")).stdout, /^ {2}uart0 +uart \d/m);
    const failed = await ctl("checkpoint", `${directory}/none/file`);
    assertEquals(failed.code, 1);
    assertStringIncludes(failed.stderr, "cannot save to");
    const file = `${directory}/snapshot`;
    const check = await ctl("checkpoint", file, "--check");
    assertEquals(check, { ...done, stdout: `${file}: can be saved\n` });
    const bad = await ctl("checkpoint", `${directory}/none/f`, "--check");
    assertEquals(bad.code, 1);
    assertStringIncludes(bad.stderr, `cannot write in "${directory}/none"`);
    const saved = await ctl("checkpoint", file);
    assertEquals(saved.code, 0);
    assertMatch(saved.stdout, /^saved to .*snapshot: \d+\.\d KiB; /);
    const more = await ctl("checkpoint", `${file}-2`, "--incremental");
    assertEquals(more.code, 0, more.stderr);
    assertStringIncludes((await ctl("query-snapshot")).stdout, "snapshot-2");
    const lost = await ctl("suspend", `${directory}/none/file`);
    assertEquals(lost.code, 1);
    assertEquals((await ctl("status")).stdout, "running\n");
    assertEquals((await ctl("suspend", file)).code, 0);
    assertEquals((await child.output()).code, 0);
    assertStringIncludes((await ctl("status")).stderr, "cannot reach");

    const again = await start(socket, ["--restore", file]);
    assertEquals((await ctl("status")).stdout, "running\n");
    assertEquals((await ctl("quit")).code, 0);
    assertEquals((await again.output()).code, 0);
  }, CODE.idle));

Deno.test("ctl changes and ejects the medium of a drive, and snapshots know which it is", () =>
  withMachine(async ({ directory, socket, args, ctl }) => {
    const disc = `${directory}/disc.iso`;
    await Deno.writeFile(disc, new Uint8Array(4096).fill(1));
    const child = await start(socket, [...args, "--dev", "ahci-cd:id=cd"]);
    const other = await ctl("eject", "uart0");
    assertEquals(other.code, 1);
    assertStringIncludes(other.stderr, "is no drive");
    const missing = await ctl("change", "cd", `${directory}/none.iso`);
    assertEquals(missing.code, 1);
    assertStringIncludes(missing.stderr, "none.iso");
    assertEquals((await ctl("change", "cd", disc)).code, 0);
    const file = `${directory}/snapshot`;
    const saved = await ctl("suspend", file);
    assertEquals(saved.code, 0, saved.stderr);
    assertEquals((await child.output()).code, 0);
    assertStringIncludes((await diapause("inspect", file)).stdout, disc);

    const again = await start(socket, ["--restore", file]);
    assertEquals((await ctl("eject", "cd")).code, 0);
    // The medium is nobody's any more.
    await Deno.remove(disc);
    const empty = await ctl("suspend", file);
    assertEquals(empty.code, 0, empty.stderr);
    assertEquals((await again.output()).code, 0);

    const last = await start(socket, ["--restore", file]);
    assertEquals((await ctl("quit")).code, 0);
    assertEquals((await last.output()).code, 0);
  }, CODE.idle));

Deno.test("ctl refuses what it does not know", () =>
  withMachine(async ({ ctl }) => {
    const refused = async (message: string, ...args: string[]) => {
      const { code, stderr } = await ctl(...args);
      assertEquals(code, 2);
      assertStringIncludes(stderr, message);
    };
    await refused('Did you mean "stop"?', "stopp");
    await refused("ctl checkpoint: expected FILE after it", "checkpoint");
    await refused("ctl stop: expected nothing after it", "stop", "it");
    await refused("ctl stop has no option --check", "stop", "--check");
    await refused('SIZE is "much": expected the memory', "balloon", "much");
    await refused(
      "ctl replace-device: expected ID SPEC",
      "replace-device",
      "x",
    );
  }, CODE.idle));

Deno.test("ctl types and moves the mouse, where there are any", () =>
  withMachine(async ({ socket, args, ctl }) => {
    const refused = async (message: string, ...words: string[]) => {
      const { code, stderr } = await ctl(...words);
      assertEquals(code, 1);
      assertStringIncludes(stderr, message);
    };
    const done = { code: 0, stdout: "", stderr: "" };
    const child = await start(socket, [...args.slice(0, -1), "i8042,uart"]);
    assertEquals(await ctl("type", 'Hello, "world"!\n'), done);
    assertEquals(await ctl("key", "ctrl-alt-del"), done);
    assertEquals(await ctl("mouse", "-5", "3"), done);
    await refused("is on no key of a US keyboard", "type", "naïve");
    await refused('there is no key "ctlr"', "key", "ctlr-a");
    await refused(
      '"buttons" is 32: expected the sum of',
      "mouse",
      "0",
      "0",
      "32",
    );
    await refused(
      '"dx" is 40000: expected a whole number',
      "mouse",
      "40000",
      "0",
    );
    assertStringIncludes((await ctl("mouse", "1")).stderr, "DX DY [BUTTONS]");
    assertEquals(await ctl("quit"), done);
    await child.output();
    const bare = await start(socket, args);
    await refused("the machine has no keyboard: give it one", "type", "a");
    await refused("the machine has no mouse", "mouse", "1", "1");
    await ctl("quit");
    await bare.output();
  }, CODE.idle));

Deno.test("a QMP client finds what it finds in QEMU", () =>
  withMachine(async ({ socket, args }) => {
    const child = await start(socket, args);
    const client = await Qmp.open(socket);
    const watcher = await Qmp.open(socket);
    await watcher.ask('{"execute":"qmp_capabilities"}');
    const error = (kind: string, desc: string, id?: unknown) => ({
      ...id === undefined ? {} : { id },
      error: { class: kind, desc },
    });
    assertEquals(
      await client.ask('{"execute":"query-status"}'),
      error(
        "CommandNotFound",
        "Expecting capabilities negotiation with 'qmp_capabilities'",
      ),
    );
    assertEquals(
      await client.ask(
        '{"execute":"qmp_capabilities","arguments":{"enable":[]},"id":{"a":1}}',
      ),
      { return: {}, id: { a: 1 } },
    );
    assertEquals(
      await client.ask('{"execute":"qmp_capabilities"}'),
      error(
        "CommandNotFound",
        "Capabilities negotiation is already complete, command ignored",
      ),
    );
    assertEquals(
      await client.ask('{"execute":"nosuch","id":3}'),
      error("CommandNotFound", "The command nosuch has not been found", 3),
    );
    for (
      const [request, desc] of [
        ['{"id":5}', "QMP input lacks member 'execute'"],
        ["[1]", "QMP input must be a JSON object"],
        ['{"execute":5}', "QMP input member 'execute' must be a string"],
        ['{"execute":"stop","x":1}', "QMP input member 'x' is unexpected"],
        [
          '{"execute":"stop","arguments":[]}',
          "QMP input member 'arguments' must be an object",
        ],
        [
          '{"execute":"stop","arguments":{"bad":1}}',
          "Parameter 'bad' is unexpected",
        ],
        ['{"execute":"x-checkpoint"}', "Parameter 'file' is missing"],
        [
          '{"execute":"x-checkpoint","arguments":{"file":1}}',
          "Invalid parameter type for 'file', expected: string",
        ],
      ]
    ) {
      const { error } = await client.ask(request);
      assertEquals(error, { class: "GenericError", desc }, request);
    }
    assertStringIncludes(
      JSON.stringify(await client.ask("{bad json}")),
      "JSON parse error",
    );
    await client.send('{"execute":"qu');
    await client.send('ery-kvm"}{"execute":"query-target","id":"}"}\n');
    assertEquals(await client.next(), {
      return: { enabled: false, present: false },
    });
    assertEquals(await client.next(), { return: { arch: "x86_64" }, id: "}" });
    const ask = async (execute: string) =>
      (await client.ask(JSON.stringify({ execute }))).return;
    assertEquals(await ask("query-memory-size-summary"), {
      "base-memory": 16 << 20,
      "plugged-memory": 0,
    });
    assertEquals(
      (await ask("query-chardev") as unknown[])[0],
      { label: "uart0", filename: "stdio", "frontend-open": true },
    );
    assertEquals(await ask("query-block"), []);
    const commands = await ask("query-commands") as { name: string }[];
    assertEquals(
      commands.filter(({ name }) => !name.startsWith("x-")).map((c) => c.name)
        .sort(),
      [
        ...[
          "balloon",
          "blockdev-change-medium",
          "cont",
          "eject",
          "input-send-event",
          "query-balloon",
          "query-block",
          "query-chardev",
          "query-commands",
        ],
        ...["query-cpus-fast", "query-iothreads", "query-kvm"],
        ...["query-memory-size-summary", "query-name", "query-pci"],
        ...["query-status", "query-target", "query-version", "quit"],
        ...["screendump", "send-key", "stop"],
        ...["system_powerdown", "system_reset"],
      ],
    );
    assertEquals(
      (await client.ask('{"execute":"balloon","arguments":{"value":1}}')).error,
      {
        class: "DeviceNotActive",
        desc: 'no device of the machine has the command "balloon"',
      },
    );
    const none = '"arguments":{"id":"uart0","command":"none"}';
    assertEquals(
      (await client.ask(`{"execute":"x-device-command",${none}}`)).error,
      {
        class: "GenericError",
        desc: 'device "uart0" has no command "none": expected none',
      },
    );
    const names: unknown[] = [];
    for (
      const execute of [
        ...["stop", "stop", "cont", "cont", "system_powerdown"],
        ...["system_reset", "quit"],
      ]
    ) {
      await client.send(JSON.stringify({ execute, id: execute }));
      for (;;) {
        const { event, id, data } = await client.next();
        names.push(event === undefined ? id : data ? [event, data] : event);
        if (id === execute) break;
      }
    }
    const reset = ["RESET", { guest: false, reason: "host-qmp-system-reset" }];
    const shutdown = ["SHUTDOWN", { guest: false, reason: "host-qmp-quit" }];
    assertEquals(names, [
      ...["STOP", "stop", "stop", "RESUME", "cont", "cont"],
      ...["POWERDOWN", "system_powerdown", reset, "system_reset"],
      ...[shutdown, "quit"],
    ]);
    const { timestamp, event } = await watcher.next();
    assertEquals(event, "STOP");
    assertEquals(Object.keys(timestamp as object), ["seconds", "microseconds"]);
    assertEquals((await child.output()).code, 0);
    client.close();
    watcher.close();
  }, CODE.idle));

Deno.test("a guest's own power-off is told to QMP clients", () =>
  withMachine(
    async ({ socket, directory, kernel }) => {
      const console = `${directory}/console`;
      const child = await start(
        socket,
        ["--kernel", kernel, "--dev", `uart:backend=unix=${console}`],
      );
      const client = await Qmp.open(socket);
      await client.ask('{"execute":"qmp_capabilities"}');
      const line = await Deno.connect({ transport: "unix", path: console });
      await line.write(new Uint8Array([1]));
      const { event, data } = await client.next();
      assertEquals([event, data], ["SHUTDOWN", {
        guest: true,
        reason: "guest-shutdown",
      }]);
      assertEquals((await child.output()).code, 0);
      client.close();
      line.close();
    },
    ...[CODE.waitForInput, CODE.powerOff, CODE.idle],
  ));

Deno.test("--control takes the place of a dead machine's socket, but not of a live one's or of a file", () =>
  withMachine(async ({ socket, args, ctl, directory }) => {
    const killed = await start(socket, args);
    killed.kill("SIGKILL");
    await killed.output();
    assertEquals((await Deno.lstat(socket)).isSocket, true);
    assertStringIncludes((await ctl("status")).stderr, "cannot reach");
    const next = await start(socket, args);
    assertEquals((await ctl("status")).stdout, "running\n");
    const refused = async (path: string, message: string) => {
      const { code, stderr } = await diapause(...args, "--control", path);
      assertEquals(code, 1);
      assertStringIncludes(stderr, message);
    };
    await refused(socket, "another machine listens there");
    await Deno.writeTextFile(`${directory}/text`, "mine");
    await refused(`${directory}/text`, "no socket");
    assertEquals(await Deno.readTextFile(`${directory}/text`), "mine");
    await refused(`${directory}/none/control`, "cannot listen on");
    await refused(`${directory}/${"x".repeat(100)}`, "expected at most 107");
    next.kill("SIGTERM");
    await next.output();
  }, CODE.idle));

Deno.test("SIGUSR2 saves a machine, each time", () =>
  withMachine(
    async ({ directory, args }) => {
      const [program, ...first] = COMMAND;
      const file = `${directory}/snapshot`;
      const child = new Deno.Command(program, {
        args: [...first, ...args, "--snapshot", file],
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
      }).spawn();
      const output = child.stdout.pipeThrough(new TextDecoderStream())
        .getReader();
      const lines = child.stderr.pipeThrough(new TextDecoderStream())
        .getReader();
      assertEquals((await output.read()).value, "a");
      for (let i = 0; i < 2; i++) {
        child.kill("SIGUSR2");
        assertEquals(
          (await lines.read()).value,
          `diapause: saved to "${file}"\n`,
        );
        await Deno.remove(file);
      }
      child.kill("SIGTERM");
      await child.status;
      await output.cancel();
      await lines.cancel();
    },
    CODE.print("a"),
    CODE.idle,
  ));
