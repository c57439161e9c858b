// Disks and network cards together in Debian's full kernel, with its own drivers: file systems
// stay whole, files come over the network whole, and a copy over the network goes on across a
// suspend and a restore.

import { assert, assertEquals } from "@std/assert";
import { diapause } from "../cli/testing.ts";
import { ExecOutputFilter, prepareDebian } from "../host/guests/debian.ts";
import { type Net, openNet } from "../host/net/mod.ts";
import {
  assertCleanLog,
  debianTest,
  noise,
  Session,
  sha256,
  withDirectory,
} from "./support.ts";

const FULL_KERNEL = "linux-image-amd64";
const MIB = 1 << 20;
const FILE_BYTES = 2 * MIB;
const DOWNLOAD_BYTES = 8 * MIB;
/** What a busybox DHCP client does with an address. */
const LEASE = `cat > /tmp/lease <<'END'
#!/bin/sh
[ "$1" = bound ] && ip addr add $ip/$mask dev $interface && \\
  ip route add default via $router dev $interface && \\
  echo "nameserver $dns" > /etc/resolv.conf
exit 0
END
chmod +x /tmp/lease`;

/** Runs a program of the host. */
async function host(program: string, ...args: string[]): Promise<void> {
  const { success, stderr, stdout } = await new Deno.Command(program, {
    args,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = new TextDecoder();
  assert(success, `${program}: ${text.decode(stdout)}${text.decode(stderr)}`);
}

/** Serves bytes to the guest; returns the port. */
function serve(bytes: Uint8Array<ArrayBuffer>) {
  return Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    () => new Response(bytes),
  );
}

/** What the guest does with everything at once. */
function work(port: number): string {
  return `${LEASE}
dmesg -n 1
mkdir -p /hd /cd /va /vb
mount -t iso9660 -o ro /dev/sr0 /cd
for disk in sda:hd vda:va vdb:vb; do
  mount -t ext4 /dev/\${disk%:*} /\${disk#*:}
done
for at in hd cd va vb; do (cd /$at; sha256sum file); done
cp /hd/file /va/from-hd & cp /cd/file /vb/from-cd & cp /vb/file /hd/from-vb
wait
for card in eth0 eth1; do
  ip link set $card up
  udhcpc -i $card -n -q -s /tmp/lease > /dev/null 2>&1
  ping -c 3 10.0.2.2 | grep transmitted
  wget -q -O /hd/$card http://10.0.2.2:${port}/ && (cd /hd; sha256sum $card)
  ip link set $card down
done
sync
for disk in sda:hd vda:va vdb:vb; do
  umount /\${disk#*:}
  mount -t ext4 -o ro /dev/\${disk%:*} /\${disk#*:}
done
sha256sum /va/from-hd /vb/from-cd /hd/from-vb
grep -c -E 'eth|virtio|ahci' /proc/interrupts
echo log:
dmesg
`;
}

for (const append of ["", "pci=nomsi"]) {
  debianTest(
    `Debian uses AHCI, virtio and e1000 at once ${append}`.trim(),
    () =>
      withDirectory(async (directory) => {
        const file = (name: string) => `${directory}/${name}`;
        const contents: Record<string, Uint8Array<ArrayBuffer>> = {};
        for (const [i, name] of ["hd", "cd", "va", "vb"].entries()) {
          contents[name] = noise(FILE_BYTES, i + 1);
          await Deno.mkdir(file(name));
          await Deno.writeFile(file(`${name}/file`), contents[name]);
        }
        for (const name of ["hd", "va", "vb"]) {
          const options = ["-q", "-F", "-d", file(name)];
          await host("mkfs.ext4", ...options, file(`${name}.img`), "48M");
        }
        await host(
          "genisoimage",
          ...["-quiet", "-R", "-o", file("cd.iso"), file("cd")],
        );
        const download = noise(DOWNLOAD_BYTES, 9);
        const server = serve(download);
        const guest = await prepareDebian({
          kernelPackage: FULL_KERNEL,
          exec: work(server.addr.port),
        });
        await Deno.writeFile(file("kernel"), guest.kernel);
        await Deno.writeFile(file("initrd"), guest.initrd);
        const devices = [
          `ahci-hd:image=${file("hd.img")}`,
          `ahci-cd:image=${file("cd.iso")}:readonly=on`,
          `virtio-blk:image=${file("va.img")}`,
          `virtio-blk:image=${file("vb.img")}`,
          "e1000",
          "virtio-net",
          "uart",
        ];
        const { code, stdout } = await diapause(
          ...["--dev", devices.join(), "--kernel", file("kernel")],
          ...["--initrd", file("initrd")],
          ...["--append", `${guest.cmdline} ${append}`],
        );
        await server.shutdown();
        assertEquals(code, 0);
        const filter = new ExecOutputFilter(guest.execToken!);
        const [output, log] = new TextDecoder().decode(
          filter.push(new TextEncoder().encode(stdout)),
        ).split("log:\n");
        const lines = output.split("\n");
        const has = (line: string) =>
          assert(lines.includes(line), `"${line}" is not in:\n${output}`);
        for (const name of ["hd", "cd", "va", "vb"]) {
          has(`${await sha256(contents[name])}  file`);
        }
        has(`${await sha256(contents.hd)}  /va/from-hd`);
        has(`${await sha256(contents.cd)}  /vb/from-cd`);
        has(`${await sha256(contents.vb)}  /hd/from-vb`);
        for (const card of ["eth0", "eth1"]) {
          has(`${await sha256(download)}  ${card}`);
        }
        assertEquals(
          lines.filter((line) => line.includes("transmitted")),
          new Array(2).fill(
            "3 packets transmitted, 3 packets received, 0% packet loss",
          ),
        );
        assertCleanLog(log);
        for (const name of ["hd", "va", "vb"]) {
          await host("e2fsck", "-f", "-n", file(`${name}.img`));
        }
      }),
    { kernelPackage: FULL_KERNEL },
  );
}

/** Carries frames between two networks. */
function bridge(one: Net, two: Net): void {
  one.onReceive((frame) => two.send(frame));
  two.onReceive((frame) => one.send(frame));
  one.onDrain(() => two.ready());
  two.onDrain(() => one.ready());
}

debianTest(
  "a copy over the network goes on across a suspend, and a ping loses nothing but time",
  () =>
    withDirectory(async (directory) => {
      const file = (name: string) => `${directory}/${name}`;
      const download = noise(DOWNLOAD_BYTES, 5);
      // The other end of the cable stays while the machine is gone.
      const user = await openNet({ net: "user" }, "test");
      const cable = await openNet(
        { net: `listen=unix=${file("net")}` },
        "test",
      );
      bridge(user, cable);
      let asked = () => {};
      const isAsked = new Promise<void>((resolve) => asked = resolve);
      const half = DOWNLOAD_BYTES / 2;
      let release = () => {};
      const restored = new Promise<void>((resolve) => release = resolve);
      const server = Deno.serve(
        { hostname: "127.0.0.1", port: 0, onListen: () => {} },
        () =>
          new Response(
            new ReadableStream({
              async pull(controller) {
                controller.enqueue(download.subarray(0, half));
                asked();
                await restored;
                controller.enqueue(download.subarray(half));
                controller.close();
              },
            }),
          ),
      );
      await Deno.writeFile(file("disk"), new Uint8Array(2 * DOWNLOAD_BYTES));
      const control = ["--control", file("control")];
      const first = new Session(
        ...["--guest", "debian", "--mem", "128M", ...control, "--dev"],
        `virtio-blk:image=${file("disk")},virtio-net:net=connect=unix=${
          file("net")
        },uart`,
      );
      await first.expect("/root # ");
      await first.type("stty -echo; dmesg -n 1");
      await first.type(
        "ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0",
      );
      await first.type("ping 10.0.2.2 > /tmp/ping &");
      await first.type(
        `wget -q -O - http://10.0.2.2:${server.addr.port}/ | dd of=/dev/vda bs=4k iflag=fullblock 2> /dev/null; sync; echo copied`,
      );
      await isAsked;
      const suspended = await diapause(
        "ctl",
        ...[file("control"), "suspend", file("suspended")],
      );
      assertEquals(suspended.code, 0, suspended.stderr);
      assertEquals((await first.end()).code, 0);

      const second = new Session("--restore", file("suspended"), ...control);
      release();
      await second.expect("copied");
      await second.type(
        `head -c ${DOWNLOAD_BYTES} /dev/vda | sha256sum; cat /tmp/ping; poweroff -f`,
      );
      const { code, stdout } = await second.end();
      assertEquals(code, 0);
      assert(stdout.includes(await sha256(download)), stdout);
      const replies = [...stdout.matchAll(/seq=(\d+) ttl/g)].map(([, n]) => +n);
      const all = Array.from({ length: replies.at(-1)! + 1 }, (_, i) => i);
      const lost = all.filter((n) => !replies.includes(n));
      // What was on its way when the cable was pulled.
      assert(replies.length > 2 && lost.length <= 1, stdout);
      await server.shutdown();
      await cable.close();
      await user.close();
    }),
);
