// A display as Debian's full kernel uses it: the text of its console is read off screenshots.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { inflateSync } from "node:zlib";
import { diapause } from "../cli/testing.ts";
import { FONT_HEIGHT, startFont } from "../plugins/legacy/vga_font.ts";
import { debianTest, Session, withDirectory } from "./support.ts";

/** Offsets in a PNG file of this program: header and image data are its first two chunks. */
const PNG_WIDTH = 16;
const PNG_HEIGHT = 20;
const PNG_DATA_LENGTH = 33;
const PNG_DATA = 41;
/** Dots of a character. */
const DOTS = 9;

/** Reads text off a picture by the glyphs of the font. */
async function readScreen(path: string): Promise<string> {
  const png = await Deno.readFile(path);
  const view = new DataView(png.buffer);
  const width = view.getUint32(PNG_WIDTH), height = view.getUint32(PNG_HEIGHT);
  const length = view.getUint32(PNG_DATA_LENGTH);
  const lines = inflateSync(png.subarray(PNG_DATA, PNG_DATA + length));
  const font = startFont();
  const glyphs = new Map<string, string>();
  for (let code = 0x20; code < 0x7f; code++) {
    const at = code * FONT_HEIGHT;
    glyphs.set(
      font.subarray(at, at + FONT_HEIGHT).join(),
      String.fromCharCode(code),
    );
  }
  const isLit = (x: number, y: number) =>
    lines[y * (1 + 3 * width) + 1 + 3 * x + 1] !== 0;
  let text = "";
  for (let y = 0; y < height; y += FONT_HEIGHT) {
    for (let x = 0; x < width; x += DOTS) {
      const rows = Array.from({ length: FONT_HEIGHT }, (_, line) => {
        let bits = 0;
        for (let i = 0; i < 8; i++) {
          bits = bits << 1 | (isLit(x + i, y + line) ? 1 : 0);
        }
        return bits;
      });
      text += glyphs.get(rows.join()) ?? "?";
    }
    text += "\n";
  }
  return text;
}

debianTest(
  "the console of Debian's full kernel is seen on a VGA, before a suspend and after the restore",
  async (guest) => {
    await withDirectory(async (directory) => {
      const file = (name: string) => `${directory}/${name}`;
      await Deno.writeFile(file("kernel"), guest.kernel);
      await Deno.writeFile(file("initrd"), guest.initrd);
      const ctl = (socket: string, ...args: string[]) =>
        diapause("ctl", file(socket), ...args);
      const done = { code: 0, stdout: "", stderr: "" };
      const session = new Session(
        ...["--kernel", file("kernel"), "--initrd", file("initrd")],
        ...["--append", "console=tty0 console=ttyS0"],
        ...["--mem", "256M", "--dev", "vga", "--control", file("first")],
      );
      await session.expect("/root # ");
      await session.type(
        "echo seen by its glyphs > /dev/tty0; echo 'wri''tten'",
      );
      await session.expect("written");
      assertEquals(await ctl("first", "screenshot", file("before.png")), done);
      const text = await readScreen(file("before.png"));
      assertStringIncludes(text, "Run /init as init process");
      assertStringIncludes(text, "seen by its glyphs");
      assertEquals((await ctl("first", "suspend", file("snapshot"))).code, 0);
      assertEquals((await session.end()).code, 0);

      const restored = new Session(
        ...["--restore", file("snapshot"), "--control", file("second")],
      );
      await restored.type("echo 'go''es on'");
      await restored.expect("goes on");
      assertEquals(await ctl("second", "screenshot", file("after.png")), done);
      assertEquals(
        await Deno.readFile(file("after.png")),
        await Deno.readFile(file("before.png")),
      );
      await restored.type("echo drawn later > /dev/tty0; echo 'on''ce more'");
      await restored.expect("once more");
      assertEquals(await ctl("second", "screenshot", file("later.png")), done);
      assertStringIncludes(await readScreen(file("later.png")), "drawn later");
      assertEquals(await ctl("second", "quit"), done);
      assertEquals((await restored.end()).code, 0);
    });
  },
  { kernelPackage: "linux-image-amd64" },
);
