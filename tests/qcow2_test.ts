// qcow2 images under a real guest: it reads what qemu-img made, and qemu-img reads what it wrote.

import { assert, assertEquals } from "@std/assert";
import { diapause } from "../cli/testing.ts";
import { assertClean, qemuImg } from "../host/block/qcow2/testing.ts";
import { debianTest, noise, sha256, withDirectory } from "./support.ts";

const SIZE = 4 << 20;
const CONTENT = 1 << 20;

/** One line of output each, with the sums of the disks. */
const SCRIPT = [
  "sha256sum /dev/vda",
  "mke2fs /dev/vdb > /dev/null && mount /dev/vdb /mnt",
  "dd if=/dev/vda of=/mnt/copy bs=64k 2>/dev/null",
  "for i in $(seq 60); do seq $i 900 > /mnt/$i; done; sync",
  "rm /mnt/1*; umount /mnt",
  "blkdiscard -o 1M -l 1M /dev/vda; dd if=/dev/vdb of=/dev/vda bs=5k seek=30 count=99 conv=notrunc 2>/dev/null",
  "sync; echo 3 > /proc/sys/vm/drop_caches",
  "sha256sum /dev/vda /dev/vdb",
].join("\n");

debianTest(
  "a guest's disks are qcow2 images that qemu-img made, and can read again",
  () =>
    withDirectory(async (folder) => {
      const content = noise(SIZE, 1);
      content.fill(0x41, CONTENT, 2 * CONTENT).fill(0, 3 * CONTENT);
      const file = (name: string) => `${folder}/${name}`;
      await Deno.writeFile(file("raw"), content);
      const convert = ["convert", "-f", "raw", "-O", "qcow2", "-c"];
      const zstd = ["-o", "compression_type=zstd"];
      await qemuImg(...convert, ...zstd, file("raw"), file("base.qcow2"));
      const create = ["create", "-f", "qcow2"];
      const backing = ["-b", "base.qcow2", "-F", "qcow2"];
      await qemuImg(...create, ...backing, file("overlay.qcow2"));
      const extended = ["-o", "extended_l2=on,cluster_size=128k"];
      await qemuImg(...create, ...extended, file("new.img"), "8M");
      const base = await Deno.readFile(file("base.qcow2"));

      const disks = [
        `virtio-blk:image=${file("overlay.qcow2")}`,
        `virtio-blk:image=${file("new.img")}:format=qcow2`,
      ];
      const { code, stdout, stderr } = await diapause(
        ...["--dev", `uart,${disks}`, "--guest", "debian", "--exec", SCRIPT],
      );
      assertEquals({ code, stderr }, { code: 0, stderr: "" });

      const sums: string[] = [];
      for (const name of ["overlay.qcow2", "new.img"]) {
        await assertClean(file(name));
        const formats = ["-f", "qcow2", "-O", "raw"];
        await qemuImg("convert", ...formats, file(name), file("raw"));
        sums.push(await sha256(await Deno.readFile(file("raw"))));
      }
      assertEquals(stdout.split("\n"), [
        `${await sha256(content)}  /dev/vda`,
        `${sums[0]}  /dev/vda`,
        `${sums[1]}  /dev/vdb`,
        "",
      ]);
      assert(sums[0] !== await sha256(content));
      assertEquals(await Deno.readFile(file("base.qcow2")), base);
    }),
);
