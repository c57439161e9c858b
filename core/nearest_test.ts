import { assertEquals } from "@std/assert";
import { didYouMean, nearest } from "./nearest.ts";

const NAMES = ["uart", "virtio-blk", "virtio-net", "pit", "pic"];

Deno.test("nearest finds a mistyped name", () => {
  assertEquals(nearest("virtio-blok", NAMES), "virtio-blk");
  assertEquals(nearest("virtoi-blk", NAMES), "virtio-blk");
  assertEquals(nearest("UART", NAMES), "uart");
  assertEquals(nearest("uar", NAMES), "uart");
});

Deno.test("nearest finds the name that begins so", () => {
  assertEquals(nearest("virtio-b", NAMES), "virtio-blk");
});

Deno.test("nearest says nothing where no name is near", () => {
  assertEquals(nearest("floppy", NAMES), undefined);
  assertEquals(nearest("", NAMES), undefined);
  assertEquals(nearest("x", []), undefined);
});

Deno.test("didYouMean is a hint or nothing", () => {
  assertEquals(didYouMean("uarrt", NAMES), ' Did you mean "uart"?');
  assertEquals(didYouMean("floppy", NAMES), "");
});
