// docs/plugins.md: its code is written to files as its blocks are named, checked, tested and run.

import { assert, assertEquals } from "@std/assert";
import { newPlugin } from "../cli/new_plugin.ts";
import { COMMAND } from "../cli/testing.ts";
import { withDirectory } from "./support.ts";

const DOCUMENT = new URL("../docs/plugins.md", import.meta.url);
/** A fenced block: what is said of it, and its text. */
const BLOCK = /^```(\S+) (\S+)\n([\s\S]*?)^```$/gm;
const UNNAMED = /^```(ts|js|json)\n/m;
/** How the document calls the command. */
const CALL = "deno run -A mod.ts ";

async function deno(cwd: string, args: readonly string[]): Promise<void> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd,
    stdin: "null",
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  assertEquals(
    code,
    0,
    `deno ${args.join(" ")}: ${decoder.decode(stdout)}${
      decoder.decode(stderr)
    }`,
  );
}

Deno.test("the code of docs/plugins.md works in a folder of its own", () =>
  withDirectory(async (directory) => {
    const text = await Deno.readTextFile(DOCUMENT);
    assert(!UNNAMED.test(text), "a block of code has no name");
    // Its deno.json says where Diapause is.
    await newPlugin({ name: "first", bus: "isa", directory });
    const commands: string[] = [];
    for (const [, language, name, block] of text.matchAll(BLOCK)) {
      if (language === "ts") {
        await Deno.writeTextFile(`${directory}/${name}`, block);
      } else commands.push(...block.trim().split("\n"));
    }
    await deno(directory, ["lint"]);
    await deno(directory, ["test", "-A"]);
    await deno(directory, ["check"]);
    const [, ...first] = COMMAND;
    for (const command of commands) {
      assert(command.startsWith(CALL), command);
      await deno(directory, [
        ...first,
        ...command.slice(CALL.length).split(" "),
      ]);
    }
  }));
