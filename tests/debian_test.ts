// Debian's kernels, booted as a user would: what the command prints, and what the kernel logs.

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { COMMAND, diapause } from "../cli/testing.ts";
import { ExecOutputFilter } from "../host/guests/exec.ts";
import {
  assertCleanLog,
  debianTest,
  noise,
  Session,
  sha256,
  withDirectory,
} from "./support.ts";

const FULL_KERNEL = "linux-image-amd64";
const SCRATCH_DISK = 64 << 20;

debianTest(
  "--exec prints the command's output and ends with its status",
  async ({ label }) => {
    const command = "uname -r; ls /sys/block; sha256sum /dev/vda; exit 7";
    const outcome = await diapause(
      ...["--dev", "virtio-blk,uart", "--guest", "debian", "--exec", command],
    );
    const release = label.replace("Debian ", "");
    const sum = await sha256(new Uint8Array(SCRATCH_DISK));
    assertEquals(outcome, {
      code: 7,
      stdout: `${release}\nvda\n${sum}  /dev/vda\n`,
      stderr: "",
    });
  },
);

debianTest(
  "the shell on the console works and the boot log is clean",
  async () => {
    const session = new Session(
      "--guest",
      "debian",
      "--dev",
      "virtio-blk,uart",
    );
    await session.expect("/root # ");
    await session.type("echo $((6 * 7)) > /tmp/answer");
    await session.type("cat /tmp/answer /proc/interrupts");
    await session.expect("\n42\r\n");
    await session.type("sleep 1; echo input has ended; poweroff -f");
    await session.endInput();
    const { code, stdout, stderr } = await session.end();
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    assertStringIncludes(stdout, "\ninput has ended\n");
    assertStringIncludes(stdout, "reboot: Power down");
    assertCleanLog(stdout);
    // The PCI bus, the clocks and the disk are found by the drivers made for them.
    assertStringIncludes(stdout, "PCI: Using ACPI for IRQ routing");
    assertStringIncludes(
      stdout,
      "3 comparators, 64-bit 100.000000 MHz counter",
    );
    assertStringIncludes(stdout, "TSC deadline timer available");
    assertStringIncludes(stdout, "rtc_cmos 00:00: registered as rtc0");
    assertStringIncludes(stdout, "[vda] 131072 512-byte logical blocks");
    assertMatch(stdout, /PCI-MSI \d+-edge +virtio0-req\.0/);
  },
);

const WHOLE_CHECK = "uname -r; ls /sys/block; sha256sum /dev/vda";

debianTest(
  "Debian's full kernel boots with the user's initrd and a clean log",
  ({ kernel, initrd, label, execToken = "" }) =>
    withDirectory(async (directory) => {
      const image = noise(3 << 20);
      const file = (name: string) => `${directory}/${name}`;
      await Deno.writeFile(file("kernel"), kernel);
      await Deno.writeFile(file("initrd"), initrd);
      await Deno.writeFile(file("disk"), image);
      const { code, stdout, stderr } = await diapause(
        ...["--kernel", file("kernel"), "--initrd", file("initrd")],
        ...["--append", "console=ttyS0"],
        ...["--dev", `virtio-blk:image=${file("disk")},uart`],
      );
      assertEquals({ code, stderr }, { code: 0, stderr: "" });
      assertCleanLog(stdout);
      const filter = new ExecOutputFilter(execToken);
      const output = filter.push(new TextEncoder().encode(stdout));
      assertEquals(
        new TextDecoder().decode(output),
        `${label.replace("Debian ", "")}\nvda\n${await sha256(
          image,
        )}  /dev/vda\n`,
      );
      assertEquals(filter.status, 0);
    }),
  { kernelPackage: FULL_KERNEL, exec: WHOLE_CHECK },
);

debianTest(
  "--exec ends when nobody reads its output, and when the guest is lost",
  async () => {
    const [program, ...first] = COMMAND;
    const process = new Deno.Command(program, {
      args: [...first, "--guest", "debian", "--exec", "yes"],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const reader = process.stdout.getReader();
    await reader.read();
    await reader.cancel();
    const [{ code }, stderr] = await Promise.all([
      process.status,
      new Response(process.stderr).text(),
    ]);
    const SIGPIPE = 13;
    assertEquals({ code, stderr }, { code: 128 + SIGPIPE, stderr: "" });

    const lost = await diapause(
      ...["--guest", "debian", "--exec", "echo c > /proc/sysrq-trigger"],
    );
    assertEquals(lost.code, 1);
    assertStringIncludes(lost.stdout, "Kernel panic - not syncing");
    assertEquals(
      lost.stderr,
      "diapause: the run ended before the command did\n",
    );
  },
);

debianTest("two runs with the clock of instructions are equal", async () => {
  const run = () =>
    diapause(
      ...["--guest", "debian", "--mem", "128M", "--dev", "virtio-blk,uart"],
      ...["--clock", "instructions", "--print-hash", "--exec"],
      "date; cat /proc/uptime /proc/interrupts; sha256sum /dev/urandom & " +
        "sleep 0.1; kill $!; head -c 16 /dev/urandom | hexdump -C",
    );
  const first = await run();
  assertEquals(first.code, 0, first.stderr);
  assertMatch(first.stderr, /^state-hash: [0-9a-f]{64}\n$/);
  assertStringIncludes(first.stdout, " 2026\n");
  assertEquals(await run(), first);
});
