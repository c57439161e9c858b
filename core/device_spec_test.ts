import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  assignIds,
  DeviceSpecError,
  isModuleSpecifier,
  parseDeviceSpecs,
  satisfies,
} from "./device_spec.ts";

function spec(
  name: string,
  options: Record<string, string> = {},
  more: { version?: string; id?: string } = {},
) {
  return { name, options: new Map(Object.entries(options)), ...more };
}

Deno.test("parseDeviceSpecs reads a list of names", () => {
  assertEquals(parseDeviceSpecs("virtio-blk,uart"), [
    spec("virtio-blk"),
    spec("uart"),
  ]);
});

Deno.test("parseDeviceSpecs reads version, options and id", () => {
  assertEquals(
    parseDeviceSpecs("uart@1.2.0:backend=unix=/tmp/a:b:irq=4:id=com1"),
    [
      spec("uart", { backend: "unix=/tmp/a:b", irq: "4" }, {
        version: "1.2.0",
        id: "com1",
      }),
    ],
  );
});

Deno.test("parseDeviceSpecs takes a doubled comma as a comma", () => {
  assertEquals(parseDeviceSpecs("virtio-blk:image=a,,b.img,uart"), [
    spec("virtio-blk", { image: "a,b.img" }),
    spec("uart"),
  ]);
});

Deno.test("parseDeviceSpecs keeps an empty value", () => {
  assertEquals(parseDeviceSpecs("x:key="), [spec("x", { key: "" })]);
});

Deno.test("parseDeviceSpecs reads paths and URLs", () => {
  assertEquals(parseDeviceSpecs("./my.dev.ts@2:a=1"), [
    spec("./my.dev.ts", { a: "1" }, { version: "2" }),
  ]);
  assertEquals(parseDeviceSpecs("/a@b/dev.ts"), [spec("/a@b/dev.ts")]);
  assertEquals(parseDeviceSpecs("https://h:8080/x@1.0/d.ts?q=1:speed=9"), [
    spec("https://h:8080/x@1.0/d.ts?q=1", { speed: "9" }),
  ]);
  assertEquals(parseDeviceSpecs("npm:@a/dev@1.2.3:b=c,jsr:@a/dev@1"), [
    spec("npm:@a/dev@1.2.3", { b: "c" }),
    spec("jsr:@a/dev@1"),
  ]);
});

Deno.test("parseDeviceSpecs refuses what is malformed, by name", () => {
  const refused = (text: string, message: string) =>
    assertThrows(() => parseDeviceSpecs(text), DeviceSpecError, message);
  refused("", "has no name");
  refused("uart,", "has no name");
  refused(":irq=4", "has no name");
  refused("uart:irq", 'malformed option "irq" of device "uart"');
  refused("uart:=4", 'malformed option "=4" of device "uart"');
  refused("uart:4=irq", 'malformed option "4=irq" of device "uart"');
  refused("uart:irq=4:irq=3", 'option "irq" of device "uart" is given twice');
  refused("uart@", 'malformed version ""');
  refused("uart@latest", 'malformed version "latest" of device "uart"');
  refused("u art", 'malformed device name "u art"');
  refused("uart:id=", 'malformed id ""');
  refused("uart:id=a b", 'malformed id "a b"');
  refused("uart:id=a,virtio-blk:id=a", 'id "a" is used twice');
});

Deno.test("isModuleSpecifier tells names from modules", () => {
  assertEquals(isModuleSpecifier("virtio-blk"), false);
  assertEquals(isModuleSpecifier("./a.ts"), true);
  assertEquals(isModuleSpecifier("dir/a.ts"), true);
  assertEquals(isModuleSpecifier("npm:dev"), true);
});

Deno.test("assignIds numbers devices around the ids that were given", () => {
  assertEquals(
    assignIds(parseDeviceSpecs("uart,uart:id=uart1,uart,pit,uart:id=com9")),
    ["uart0", "uart1", "uart2", "pit0", "com9"],
  );
});

Deno.test("satisfies compares versions as npm does", () => {
  const table: [string, string, boolean][] = [
    ["1.2.3", "1", true],
    ["1.2.3", "1.2", true],
    ["1.2.3", "1.2.3", true],
    ["1.2.3", "1.2.4", false],
    ["1.2.3", "2", false],
    ["1.9.0", "^1.2", true],
    ["1.2.0", "^1.2.1", false],
    ["2.0.0", "^1.2", false],
    ["0.2.9", "^0.2.1", true],
    ["0.3.0", "^0.2.1", false],
    ["1.2.9", "~1.2.1", true],
    ["1.3.0", "~1.2.1", false],
    ["1.9.0", "~1", true],
    ["1.2.3-rc.1", "1.2.3-rc.1", true],
  ];
  for (const [version, wanted, expected] of table) {
    assertEquals(satisfies(version, wanted), expected, `${version} ${wanted}`);
  }
});

Deno.test("parseDeviceSpecs gives back any value without a key= after a colon", () => {
  const key = fc.stringMatching(/^[a-h][a-z0-9-]{0,6}$/);
  const value = fc.stringMatching(/^[a-z0-9/._=,-]{0,12}$/);
  fc.assert(
    fc.property(fc.dictionary(key, value, { maxKeys: 4 }), (options) => {
      const text = "dev" +
        Object.entries(options).map(([k, v]) =>
          `:${k}=${v.replaceAll(",", ",,")}`
        ).join("");
      assertEquals(parseDeviceSpecs(text), [spec("dev", options)]);
    }),
  );
});

Deno.test("parseDeviceSpecs throws nothing but DeviceSpecError", () => {
  fc.assert(fc.property(fc.string(), (text) => {
    try {
      parseDeviceSpecs(text);
    } catch (error) {
      if (!(error instanceof DeviceSpecError)) throw error;
    }
  }));
});
