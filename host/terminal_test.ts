import { assertEquals } from "@std/assert";
import { EscapeFilter } from "./terminal.ts";

function typed(...pieces: string[]): { guest: string; commands: string[] } {
  const commands: string[] = [];
  const filter = new EscapeFilter({
    quit: () => void commands.push("quit"),
    help: () => void commands.push("help"),
  });
  const guest = pieces.map((piece) =>
    new TextDecoder().decode(filter.feed(new TextEncoder().encode(piece)))
  ).join("");
  return { guest, commands };
}

Deno.test("EscapeFilter passes what is for the guest", () => {
  assertEquals(typed("abc\x03\r"), { guest: "abc\x03\r", commands: [] });
});

Deno.test("EscapeFilter takes commands, also split over two reads", () => {
  assertEquals(typed("a\x01xb"), { guest: "ab", commands: ["quit"] });
  assertEquals(typed("a\x01", "hb"), { guest: "ab", commands: ["help"] });
  assertEquals(typed("\x01?"), { guest: "", commands: ["help"] });
});

Deno.test("EscapeFilter sends Ctrl-A for Ctrl-A Ctrl-A", () => {
  assertEquals(typed("\x01\x01x"), { guest: "\x01x", commands: [] });
});

Deno.test("EscapeFilter drops a key that means nothing", () => {
  assertEquals(typed("\x01qx"), { guest: "x", commands: [] });
});
