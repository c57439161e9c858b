// `deno task new-plugin` as its users have it: inside this repository, and elsewhere.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { diapause, type Outcome } from "./testing.ts";

const ROOT = new URL("..", import.meta.url).pathname;

async function deno(cwd: string, ...args: string[]): Promise<Outcome> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd,
    stdin: "null",
    env: { NO_COLOR: "1", INIT_CWD: cwd },
  }).output();
  const decoder = new TextDecoder();
  return {
    code,
    stdout: decoder.decode(stdout),
    stderr: decoder.decode(stderr),
  };
}

/** The task, as run in a folder. */
function newPlugin(cwd: string, ...args: string[]): Promise<Outcome> {
  const config = ["--config", `${ROOT}deno.json`];
  return deno(cwd, "task", "--quiet", ...config, "new-plugin", ...args);
}

/** Asserts that a folder passes all that a new plugin is to pass. */
async function assertGood(directory: string, tests: number): Promise<void> {
  for (
    // `deno test` checks types too, as `deno check` does.
    const args of [["fmt", "--check"], ["lint"], ["test", "-A"]]
  ) {
    const { code, stdout, stderr } = await deno(directory, ...args);
    assertEquals(code, 0, `deno ${args.join(" ")}: ${stdout}${stderr}`);
    if (args[0] === "test") {
      assertStringIncludes(stdout, `${tests} passed | 0 failed`);
    }
  }
}

Deno.test("new-plugin makes plugins that pass everything in a folder of their own", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const isa = await newPlugin(directory, "my-alarm");
    assertEquals([isa.code, isa.stderr], [0, ""]);
    assertEquals(isa.stdout, "my-alarm.ts\nmy-alarm_test.ts\ndeno.json\n");
    const pci = await newPlugin(directory, "adder", "--pci", "--dir", ".");
    assertEquals([pci.code, pci.stdout], [0, "adder.ts\nadder_test.ts\n"]);
    await assertGood(directory, 5);
    const described = await diapause("plugins", `${directory}/my-alarm.ts`);
    assertStringIncludes(described.stdout, "my-alarm 1.0.0");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("new-plugin needs no deno.json inside the repository", async () => {
  const directory = await Deno.makeTempDir({
    dir: ROOT,
    prefix: "new-plugin-",
  });
  try {
    const made = await newPlugin(directory, "my-alarm", "--isa");
    assertEquals(made.stdout, "my-alarm.ts\nmy-alarm_test.ts\n");
    await assertGood(directory, 2);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("new-plugin refuses what it cannot write, and wrong usage", async () => {
  const directory = await Deno.makeTempDir();
  const refuse = async (args: string[], exitCode: number, message: string) => {
    const { code, stderr } = await newPlugin(directory, ...args);
    assertEquals(code, exitCode, stderr);
    assertStringIncludes(stderr, message);
  };
  try {
    await refuse(["My_Alarm"], 1, '"My_Alarm" cannot be the name of a plugin');
    await refuse(["uart"], 1, '"uart" is a built-in device');
    await refuse([], 2, "name");
    await refuse(["alarm", "--pci", "--isa"], 2, "--isa");
    await refuse(["alarm", "--usb"], 2, "--usb");
    await Deno.writeTextFile(`${directory}/alarm_test.ts`, "");
    await refuse(["alarm"], 1, 'alarm_test.ts" is there already');
    await Deno.writeTextFile(`${directory}/deno.json`, "{}");
    await refuse(
      ["other"],
      1,
      'does not say where "@diapause/diapause" is: add',
    );
    const files = [...Deno.readDirSync(directory)].map(({ name }) => name);
    assertEquals(files.sort(), ["alarm_test.ts", "deno.json"]);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
