// What the command says of a snapshot that it cannot open, restore or write: one line each, exit
// code 1, and nothing else changed.

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { decode, encode, type ValueType } from "@std/msgpack";
import { CODE, COMMAND, diapause, kernelFile } from "../cli/testing.ts";
import { assemble, chunksOf } from "./hostile/file.ts";
import { withDirectory } from "./support.ts";

/** jmp to itself: counts instructions, and nothing else. */
const LOOP = [0xeb, 0xfe];

type Tree = Record<string, unknown>;

/** Arguments with which a machine runs for a moment and is saved. */
async function saving(kernel: string, file: string): Promise<string[]> {
  await Deno.writeFile(`${kernel}.img`, new Uint8Array(4096));
  return [
    ...["--kernel", kernel, "--mem", "16M", "--clock", "instructions"],
    ...["--dev", `uart,virtio-blk:image=${kernel}.img`],
    ...["--max-instructions", "3000", "--snapshot", file],
  ];
}

/** The file with a change in the payload of each chunk that is chosen. */
function changed(
  file: Uint8Array,
  tag: string,
  change: (tree: Tree) => Tree,
): Uint8Array {
  return assemble(
    file,
    chunksOf(file).map((chunk) =>
      chunk.tag !== tag ? chunk : {
        tag,
        payload: encode(change(decode(chunk.payload) as Tree) as ValueType),
      }
    ),
  );
}

function device(tree: Tree, id: string, change: Tree): Tree {
  const devices = tree.devices as Tree[];
  return {
    ...tree,
    devices: devices.map((each) =>
      each.id === id ? { ...each, ...change } : each
    ),
  };
}

/** What stands on standard error: one line of the command's own. */
function line({ code, stderr }: { code: number; stderr: string }): string {
  assertEquals(code, 1, stderr);
  assert(/^diapause: [^\n]*\n$/.test(stderr), `not one line: ${stderr}`);
  return stderr;
}

Deno.test("a snapshot that cannot be restored is one line that says why", async () => {
  await withDirectory(async (directory) => {
    const kernel = await kernelFile(CODE.print("a"), LOOP);
    const path = `${directory}/machine.snap`;
    const saved = await diapause(...await saving(kernel, path));
    assertEquals([saved.code, saved.stdout], [0, "a"], saved.stderr);
    const good = await Deno.readFile(path);
    const header = (at: number, value: number) =>
      assemble(good, chunksOf(good), {
        header: (bytes) => void (bytes[at] = value),
      });
    const larger = (bytes: number) =>
      changed(
        changed(good, "MANI", (tree) => ({ ...tree, memory: bytes })),
        "PMAP",
        (tree) => tree.region === "ram" ? { ...tree, bytes } : tree,
      );
    const cases: [string, Uint8Array, RegExp][] = [
      [
        "newer state",
        changed(good, "COMP", (tree) => {
          const schema = tree.schema as Tree;
          return tree.id === "uart0"
            ? { ...tree, schema: { ...schema, version: 77 } }
            : tree;
        }),
        /uart0.*version 77.*up to version \d/,
      ],
      [
        "newer cpu",
        changed(good, "COMP", (tree) => {
          const schema = tree.schema as Tree;
          return tree.id === "cpu0"
            ? { ...tree, schema: { ...schema, version: 88 } }
            : tree;
        }),
        /cpu0.*version 88.*up to version \d/,
      ],
      ["newer format", header(10, 9), /format version 9.*this build reads 1/],
      ["byte order", header(9, 0xff).with(8, 0xfe).with(9, 0xff), /byte order/],
      ["text", new TextEncoder().encode("hello\n"), /not a snapshot/],
      ["ELF", await Deno.readFile("/bin/true"), /not a snapshot/],
      ["empty", new Uint8Array(0), /not a snapshot/],
      ["cut off", good.subarray(0, good.length / 2), /cut off or damaged/],
      ["damaged", good.with(40, good[40] ^ 4), /chunk 0 \(MANI\).*hash/],
      [
        "no such plugin",
        changed(
          good,
          "MANI",
          (tree) => device(tree, "uart0", { specifier: "./gone.ts" }),
        ),
        /device "uart0": cannot load device ".\/gone.ts"/,
      ],
      [
        "no such device",
        changed(
          good,
          "MANI",
          (tree) => device(tree, "uart0", { specifier: "urat" }),
        ),
        /device "uart0": unknown device "urat"/,
      ],
      ["too much memory", larger(0xffff0000), /memory of .* at most \d+ MiB/],
      ["too little memory", larger(4096), /chunk \d+ \(PMAP\).*pages/],
      [
        "escapes",
        changed(good, "MANI", (tree) => ({ ...tree, clock: "\x1b[2J\x9b" })),
        /clock is "\\u001b\[2J\\u\{9b\}"/,
      ],
    ];
    for (const [name, bytes, message] of cases) {
      const file = `${directory}/${name}.snap`;
      await Deno.writeFile(file, bytes);
      const text = line(await diapause("--restore", file));
      assert(message.test(text), `${name}: ${text}`);
    }
    await Deno.writeFile(
      `${directory}/titled.snap`,
      changed(good, "MANI", (tree) => ({ ...tree, producer: "\x1b]0;x\x07" })),
    );
    const shown = await diapause("inspect", `${directory}/titled.snap`);
    assertStringIncludes(shown.stdout, "written by \\u{1b}]0;x\\u{7}\n");
    assertStringIncludes(
      line(await diapause("--restore", directory)),
      "it is a folder",
    );
    assertStringIncludes(
      line(await diapause("--restore", `${directory}/none.snap`)),
      `cannot open the snapshot "${directory}/none.snap": there is no such file\n`,
    );
    await Deno.remove(`${kernel}.img`);
    const lost = line(await diapause("--restore", path));
    assertStringIncludes(lost, `image "${kernel}.img"`);
    assertStringIncludes(lost, "--dev virtio-blk0:image=PATH");
    await Deno.writeFile(`${kernel}.img`, new Uint8Array(8192));
    assertStringIncludes(
      line(await diapause("--restore", path)),
      "virtio-blk0",
    );
    await Deno.remove(`${kernel}.img`);
    await Deno.remove(kernel);
  });
});

Deno.test("a snapshot that cannot be written is one line, and the old one is as it was", async () => {
  await withDirectory(async (directory) => {
    const kernel = await kernelFile(CODE.print("a"), LOOP);
    const path = `${directory}/machine.snap`;
    await diapause(...await saving(kernel, path));
    const good = await Deno.readFile(path);
    // Files may have 8 KiB: what a full disk is to a program, without being root.
    const [program, ...first] = COMMAND;
    const full = await new Deno.Command("bash", {
      args: [
        "-c",
        "trap '' XFSZ; ulimit -f 8; exec \"$@\"",
        ...["-", program, ...first, ...await saving(kernel, path)],
      ],
      stdin: "null",
      env: { NO_COLOR: "1" },
    }).output();
    const text = new TextDecoder().decode(full.stderr);
    assertEquals(full.code, 1, text);
    assertStringIncludes(text, `cannot save to "${path}": File too large`);
    assertEquals(await Deno.readFile(path), good);
    for (
      const [target, message] of [
        [directory, "there is a folder of that name"],
        [
          `${directory}/none/machine.snap`,
          `there is no folder "${directory}/none"`,
        ],
        ["/sys/machine.snap", "(os error"],
      ]
    ) {
      const text = line(await diapause(...await saving(kernel, target)));
      assertStringIncludes(text, `cannot save to "${target}"`);
      assertStringIncludes(text, message);
    }
    const left = [...Deno.readDirSync(directory)].map(({ name }) => name);
    assertEquals(left.filter((name) => name.endsWith(".part")), []);
    await Deno.remove(`${kernel}.img`);
    await Deno.remove(kernel);
  });
});
