// Disks in snapshots, with a real guest: each snapshot finds its disks as they were at its instant.

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { diapause } from "../cli/testing.ts";
import { debianTest, Session, sha256, withDirectory } from "./support.ts";

const IMAGE_SIZE = 8 << 20;

/** What the guest has written at each instant, as `seq` prints it: numbers up to this one. */
const INSTANTS = [20_000, 30_000];

function seq(last: number): Uint8Array<ArrayBuffer> {
  const numbers = Array.from({ length: last }, (_, i) => `${i + 1}\n`);
  return new TextEncoder().encode(numbers.join(""));
}

/** Writes to a file on the image, and to the disk in memory. */
const write = (last: number) =>
  `seq ${last} > /mnt/file; seq ${last} | dd of=/dev/vdb conv=fsync 2>/dev/null; sync; echo written=$?`;

/** Reads both from the disks. */
const sums = (last: number) =>
  `kill $!; sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum < /mnt/file; head -c ${
    seq(last).length
  } /dev/vdb | sha256sum`;

const fileSum = async (path: string) => await sha256(await Deno.readFile(path));

debianTest(
  "each of a guest's snapshots finds its disks as they were, and the image is as at the first",
  () =>
    withDirectory(async (folder) => {
      const image = `${folder}/disk.img`;
      const control = `${folder}/control`;
      const snapshot = (i: number) => `${folder}/${i}.snap`;
      const ctl = async (...args: string[]) => {
        const { code, stderr } = await diapause("ctl", control, ...args);
        assertEquals(code, 0, stderr);
      };
      await Deno.writeFile(image, new Uint8Array(IMAGE_SIZE));

      const first = new Session(
        ...["--guest", "debian", "--mem", "128M", "--control", control],
        ...["--dev", `uart,virtio-blk:image=${image},virtio-blk:size=1234944`],
      );
      await first.expect("/root # ");
      await first.type("mke2fs /dev/vda > /dev/null; mount /dev/vda /mnt");
      // Requests are under way at each instant.
      await first.type(
        "(while :; do dd if=/dev/vda of=/mnt/busy bs=64k count=4 conv=fsync 2>/dev/null; done) &",
      );
      const pinned: string[] = [];
      for (const [i, last] of INSTANTS.entries()) {
        await first.type(write(last));
        await first.expect("written=0");
        const isLast = i === INSTANTS.length - 1;
        await ctl(isLast ? "suspend" : "checkpoint", snapshot(i));
        if (i === 0) pinned.push(await fileSum(image));
        else assertEquals(await fileSum(image), pinned[0]);
      }
      const { code, stderr } = await first.end();
      assertEquals(code, 0, stderr);
      assertStringIncludes(stderr, `writes go to "${folder}/disk.1.qcow2"`);
      pinned.push(await fileSum(`${folder}/disk.1.qcow2`));

      for (const [i, last] of [...INSTANTS.entries()].reverse()) {
        const again = new Session("--restore", snapshot(i));
        const sum = await sha256(seq(last));
        await again.type(sums(last));
        await again.expect(`${sum}  -`);
        await again.expect(`${sum}  -`);
        await again.type(write(100 + i));
        await again.expect("written=0");
        await again.type("poweroff -f");
        const end = await again.end();
        assertEquals(end.code, 0, end.stderr);
        assertStringIncludes(end.stderr, `writes go to "${folder}/disk.`);
      }
      const files = ["disk.img", "disk.1.qcow2"];
      assertEquals(
        await Promise.all(files.map((name) => fileSum(`${folder}/${name}`))),
        pinned,
      );
      for (const { name } of Deno.readDirSync(folder)) {
        if (!name.endsWith(".qcow2")) continue;
        const check = await new Deno.Command("qemu-img", {
          args: ["check", "-q", `${folder}/${name}`],
          stderr: "piped",
        }).output().catch(() => undefined);
        // Where there is no qemu-img, the tests of qcow2 stand for it.
        assert(check === undefined || check.success, name);
      }
    }),
);
