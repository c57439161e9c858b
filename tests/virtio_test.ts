// Debian's own drivers of the smaller virtio devices, across a suspend and a restore in another
// process: entropy, consoles and their ports, and the balloon as a QMP client moves it.

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Qmp } from "../cli/testing.ts";
import { debianTest, Session, withDirectory } from "./support.ts";

const MIB = 1 << 20;
const MEMORY = 192;
/** What the guest keeps while its balloon is large. */
const KEPT = 112;

/** What the guest fills with bytes that cannot be compressed, and frees. */
const NOISE = 64;
/** The most that a snapshot takes which has none of them. */
const SNAPSHOT = 32;

debianTest(
  "Debian uses entropy, ports and a balloon, before and after a restore",
  (guest) =>
    withDirectory(async (directory) => {
      const file = (name: string) => `${directory}/${name}`;
      await Deno.writeFile(file("kernel"), guest.kernel);
      await Deno.writeFile(file("initrd"), guest.initrd);
      const control = ["--control", file("control")];
      const ask = async (name: string, args: Record<string, unknown> = {}) => {
        const client = await Qmp.open(file("control"));
        await client.execute("qmp_capabilities");
        const reply = await client.execute(name, args);
        client.close();
        return reply as Record<string, number>;
      };
      let session = new Session(
        ...["--kernel", file("kernel"), "--initrd", file("initrd")],
        ...["--append", `${guest.cmdline} quiet`, "--mem", `${MEMORY}M`],
        ...["--dev", "uart:backend=stdio,virtio-rng,virtio-balloon"],
        ...["--dev", `virtio-console:backend=file=${file("hvc0")}`],
        ...[
          "--dev",
          `virtio-port:backend=file=${file("port")}:name=org.test.0`,
        ],
        ...control,
      );
      let number = 0;
      /** Runs a line in the guest and waits for its end; returns what it printed. */
      const run = async (line: string): Promise<string> => {
        const before = session.text.length;
        await session.type(`${line}; echo "done"-${++number}`);
        await session.expect(`done-${number}\r\n`);
        return session.text.slice(before);
      };
      /** Moves the balloon, and waits until the guest has followed. */
      const balloon = async (mib: number) => {
        await ask("balloon", { value: mib * MIB });
        do await run("usleep 20000"); while (
          (await ask("query-balloon")).actual !== mib * MIB
        );
      };
      await session.expect("# ");
      assertStringIncludes(
        await run("cat /sys/class/misc/hw_random/rng_current"),
        "virtio_rng",
      );
      assertStringIncludes(await run("head -c 64 /dev/hwrng | wc -c"), "\n64");
      assertStringIncludes(
        await run("cat /sys/class/virtio-ports/*p1/name"),
        "org.test.0",
      );
      await run(
        "exec 5<>$(echo /dev/vport*p1); echo one >&5; echo one > /dev/hvc0",
      );
      assertEquals(await ask("query-balloon"), { actual: MEMORY * MIB });
      await run(`head -c ${NOISE}M /dev/urandom > /tmp/noise; rm /tmp/noise`);
      await balloon(KEPT);
      const statistics = await ask("x-device-command", {
        id: "virtio-balloon0",
        command: "query-statistics",
      });
      assert(statistics["stat-total-memory"] > 0);

      await ask("x-suspend", { file: file("snapshot") });
      await session.end();
      const { size } = await Deno.stat(file("snapshot"));
      assert(size < SNAPSHOT * MIB, `the snapshot has ${size} bytes`);
      session = new Session("--restore", file("snapshot"), ...control);
      await run("echo two >&5; echo two > /dev/hvc0");
      assertStringIncludes(await run("head -c 64 /dev/hwrng | wc -c"), "\n64");
      assertEquals(await ask("query-balloon"), { actual: KEPT * MIB });
      await balloon(MEMORY);
      await session.type(
        "dmesg | grep -c -i -E 'virtio.*(error|fail|broken)'; poweroff -f",
      );
      const { code, stdout } = await session.end();
      assertEquals(code, 0);
      assertStringIncludes(stdout, "\n0\n");
      for (const name of ["hvc0", "port"]) {
        const text = await Deno.readTextFile(file(name));
        assertEquals(text.replaceAll("\r\n", "\n"), "one\ntwo\n");
      }
    }),
);
