import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { encodeCpio } from "./cpio.ts";
import { modulesAlias, modulesDep, parseModule } from "./kmod.ts";
import { readSummed, SUMS, writeSummed } from "./cache.ts";
import { execArchive, ExecOutputFilter, execToken } from "./exec.ts";
import { buildInitramfs } from "./initramfs.ts";
import { GuestUnavailable, prepareDebian } from "./debian.ts";
import { checkInitrd } from "../../core/boot/initrd.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The members of a "newc" archive: mode and name, and what the member holds. */
function listCpio(archive: Uint8Array): Map<string, [number, string]> {
  const members = new Map<string, [number, string]>();
  const text = (at: number, length: number) =>
    decoder.decode(archive.subarray(at, at + length));
  const align4 = (n: number) => Math.ceil(n / 4) * 4;
  for (let at = 0;;) {
    assertEquals(text(at, 6), "070701");
    const field = (i: number) => parseInt(text(at + 6 + i * 8, 8), 16);
    const [mode, size, nameSize] = [field(1), field(6), field(11)];
    const name = text(at + 110, nameSize - 1);
    const contentAt = align4(at + 110 + nameSize);
    at = align4(contentAt + size);
    if (name === "TRAILER!!!") {
      assertEquals(at, archive.length);
      return members;
    }
    members.set(name, [mode, text(contentAt, size)]);
  }
}

Deno.test("encodeCpio makes an archive of directories, files, links and devices", () => {
  const archive = encodeCpio([
    { path: "bin", type: "directory" },
    {
      path: "bin/tool",
      type: "file",
      mode: 0o755,
      content: encoder.encode("x"),
    },
    { path: "bin/link", type: "link", target: "tool" },
    { path: "null", type: "character", major: 1, minor: 3, mode: 0o666 },
  ]);
  assertEquals([...listCpio(archive)], [
    ["bin", [0o40755, ""]],
    ["bin/tool", [0o100755, "x"]],
    ["bin/link", [0o120777, "tool"]],
    ["null", [0o20666, ""]],
  ]);
});

/** An ELF64 object with only the sections that `parseModule` looks at. */
function fakeModule(modinfo: string): Uint8Array {
  const strings = encoder.encode("\0.modinfo\0.shstrtab\0");
  const info = encoder.encode(modinfo);
  const table = 64 + strings.length + info.length;
  const bytes = new Uint8Array(table + 3 * 64);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setBigUint64(0x28, BigInt(table), true);
  view.setUint16(0x3c, 3, true);
  view.setUint16(0x3e, 2, true);
  bytes.set(strings, 64);
  bytes.set(info, 64 + strings.length);
  const section = (i: number, name: number, offset: number, size: number) => {
    view.setUint32(table + i * 64, name, true);
    view.setBigUint64(table + i * 64 + 0x18, BigInt(offset), true);
    view.setBigUint64(table + i * 64 + 0x20, BigInt(size), true);
  };
  section(1, 1, 64 + strings.length, info.length);
  section(2, 10, 64, strings.length);
  return bytes;
}

Deno.test("modulesDep and modulesAlias say what depmod would", () => {
  const ring = parseModule("kernel/a/virtio_ring.ko", fakeModule("depends=\0"));
  const virtio = parseModule(
    "kernel/a/virtio.ko",
    fakeModule("license=GPL\0depends=virtio-ring\0"),
  );
  const disk = parseModule(
    "kernel/b/virtio-blk.ko",
    fakeModule("alias=virtio:d00000002v*\0depends=virtio,virtio_ring\0"),
  );
  assertEquals(disk.name, "virtio_blk");
  assertEquals(
    modulesDep([ring, virtio, disk]),
    "kernel/a/virtio_ring.ko:\n" +
      "kernel/a/virtio.ko: kernel/a/virtio_ring.ko\n" +
      "kernel/b/virtio-blk.ko: kernel/a/virtio.ko kernel/a/virtio_ring.ko\n",
  );
  assertEquals(
    modulesAlias([ring, virtio, disk]),
    "alias virtio:d00000002v* virtio_blk\n",
  );
  assertThrows(
    () => parseModule("x.ko", encoder.encode("nothing")),
    Error,
    "x.ko: not a kernel module",
  );
});

Deno.test("readSummed refuses an altered or missing file", async () => {
  const directory = await Deno.makeTempDir();
  try {
    assertEquals(await readSummed(directory, ["a"]), undefined);
    await writeSummed(directory, { a: encoder.encode("one") });
    assertEquals(
      decoder.decode((await readSummed(directory, ["a"]))![0]),
      "one",
    );
    assertEquals(await readSummed(directory, ["a", "b"]), undefined);
    assertStringIncludes(
      await Deno.readTextFile(`${directory}/${SUMS}`),
      "  a",
    );
    await Deno.writeTextFile(`${directory}/a`, "two");
    assertEquals(await readSummed(directory, ["a"]), undefined);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("ExecOutputFilter passes the command's output only, however it is cut", async () => {
  const command = "echo hello";
  const token = await execToken(command);
  const output = `hello\x1e\n\x1e${token} begin\n\x1e${token}\x1e\xff`;
  const console = `[ 0.1] kernel\x1e\n\x1e${token} begin\n${output}` +
    `\x1e${token} exit 3\n[ 2.0] reboot: Power down\n`;
  const bytes = Uint8Array.from(console, (c) => c.charCodeAt(0));
  for (const size of [1, 2, 7, bytes.length]) {
    const filter = new ExecOutputFilter(token);
    let text = "";
    for (let at = 0; at < bytes.length; at += size) {
      text += String.fromCharCode(
        ...filter.push(bytes.subarray(at, at + size)),
      );
    }
    assertEquals(text, output);
    assertEquals(filter.status, 3);
    assertEquals(filter.log, "[ 0.1] kernel\x1e\n");
  }
});

Deno.test("ExecOutputFilter has no status before the command has ended", async () => {
  const token = await execToken("x");
  const filter = new ExecOutputFilter(token);
  assertEquals(filter.push(encoder.encode("Kernel panic\n")).length, 0);
  assertEquals([filter.started, filter.status], [false, undefined]);
  filter.push(encoder.encode(`\x1e${token} begin\nhalf`));
  assertEquals([filter.started, filter.status], [true, undefined]);
  assertEquals(filter.log, "Kernel panic\n");
});

Deno.test("buildInitramfs is whole, reproducible, and takes a command behind it", async () => {
  const parts = {
    busybox: encoder.encode("busybox"),
    applets: ["bin/busybox", "bin/sh", "linuxrc", "usr/sbin/chroot"],
    release: "6.1.0-test",
    modules: [parseModule("kernel/x.ko", fakeModule("depends=\0"))],
    init: "#!/bin/sh\n",
  };
  const base = buildInitramfs(parts);
  assertEquals(base, buildInitramfs(parts));
  const extra = execArchive("exit 1", await execToken("exit 1"));
  const both = Uint8Array.from([...base, ...extra]);
  await checkInitrd({ bytes: both, label: "initrd" });
  const names = [...listCpio(base).keys()];
  assert(names.indexOf("usr") < names.indexOf("usr/sbin"));
  for (
    const name of [
      "init",
      "bin/sh",
      "usr/sbin",
      "proc",
      "lib/modules/6.1.0-test/modules.dep",
    ]
  ) {
    assert(names.includes(name), name);
  }
  assert(!names.includes("linuxrc"));
});

Deno.test("prepareDebian refuses what is no package name", async () => {
  await assertRejects(
    () => prepareDebian({ kernelPackage: "-o Dir=/" }),
    GuestUnavailable,
    "not the name of a Debian package",
  );
});
