// The monitor on this machine: by both protocols, with a disk, through resets.

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { diapause } from "../cli/testing.ts";
import { prepareMonitor } from "../host/guests/monitor.ts";
import { noise, Session, withDirectory } from "./support.ts";

const COMMANDS = "mem; pci; irq; read 1; poweroff";
const SECTOR = 512;

/** A sector as the monitor prints it. */
function dump(bytes: Uint8Array): string {
  const line = (at: number) => {
    const row = [...bytes.subarray(at, at + 16)];
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0"));
    const text = row.map((byte) =>
      byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "."
    );
    return `${at.toString(16).padStart(3, "0")}  ${hex.join(" ")}  ${
      text.join("")
    }\n`;
  };
  return Array.from({ length: SECTOR / 16 }, (_, i) => line(16 * i)).join("");
}

function assertInventory(stdout: string, protocol: string, disk: Uint8Array) {
  const text = stdout.replaceAll("\r\n", "\n");
  assertStringIncludes(text, `memory map (${protocol})`);
  assertStringIncludes(text, "000000100000-000003ffffff RAM\n");
  assertStringIncludes(text, "RAM: 65151 KiB\n");
  assertStringIncludes(text, "00:00.0 8086:29c0 class 060000\n");
  assertStringIncludes(text, "00:01.0 1af4:1001 class 010000 INTA\n");
  assertStringIncludes(text, "00:1f.0 8086:2918 class 060100\n");
  assertMatch(text, /IRQ {2}0 +[1-9]\d* +enabled timer/);
  assertMatch(text, /IRQ {2}4 +\d+ +enabled uart/);
  assertStringIncludes(text, dump(disk.subarray(SECTOR, 2 * SECTOR)));
}

Deno.test("the monitor lists the machine and reads its disk, by both protocols", async () => {
  await withDirectory(async (directory) => {
    const image = noise(64 << 10);
    const disk = `${directory}/disk`;
    await Deno.writeFile(disk, image);
    const common = [
      ...["--mem", "64M", "--dev", `virtio-blk:image=${disk},uart`],
      ...["--append", COMMANDS],
    ];
    const pvh = await diapause("--guest", "monitor", ...common);
    assertEquals([pvh.code, pvh.stderr], [0, ""]);
    assertInventory(pvh.stdout, "PVH", image);

    const kernel = `${directory}/kernel`;
    await Deno.writeFile(kernel, (await prepareMonitor("multiboot")).kernel);
    const multiboot = await diapause("--kernel", kernel, ...common);
    assertEquals([multiboot.code, multiboot.stderr], [0, ""]);
    assertInventory(multiboot.stdout, "multiboot", image);
  });
});

Deno.test("a guest that resets the machine starts again", async () => {
  const session = new Session("--guest", "monitor", "--mem", "64M");
  for (let i = 0; i < 3; i++) {
    await session.expect("Diapause monitor");
    await session.expect("> ");
    await session.type("reboot");
  }
  await session.expect("Diapause monitor");
  await session.expect("> ");
  await session.type("poweroff");
  const { code, stderr } = await session.end();
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
});
