// Several disks and consoles at once, in a real guest: what is written stays, and only there.

import { assertEquals } from "@std/assert";
import { diapause } from "../cli/testing.ts";
import { debianTest, noise, sha256, withDirectory } from "./support.ts";

const SIZE = 1 << 20;
const BLOCK = 4096;
/** Bytes of the output of `seq 100000`. */
const SEQ_LENGTH = 588_895;

/** One line of output each; the guest's own words for errors. */
const SCRIPT = [
  "cd /sys/block; for d in *; do echo $d $(cat $d/size $d/ro $d/serial); done",
  "sha256sum /dev/vda /dev/vdb",
  "seq 100000 | dd of=/dev/vdc conv=fsync 2>/dev/null",
  `head -c ${SEQ_LENGTH} /dev/vdc | tail -n 1`,
  "dd if=/dev/vda of=/dev/vdb bs=4k count=3 skip=2 seek=5 conv=fsync 2>/dev/null",
  "dd if=/dev/vdb bs=4k 2>/dev/null | sha256sum",
  "dd if=/dev/vdb of=/dev/vda bs=4k count=1 2>/dev/null; echo write to a read-only disk: $?",
  "blockdev --setrw /dev/vda 2>/dev/null; dd if=/dev/vdb of=/dev/vda bs=4k count=1 2>/dev/null",
  "echo and again: $?",
  "echo on the second console > /dev/ttyS1",
  "echo on the third > /dev/ttyS2",
  "blkdiscard /dev/vdc; dd if=/dev/vdc bs=1M 2>/dev/null | tr -d '\\0' | wc -c",
  "sync",
].join("\n");

debianTest(
  "a guest uses several disks and consoles at once",
  () =>
    withDirectory(async (directory) => {
      const file = (name: string) => `${directory}/${name}`;
      const [a, b] = [noise(SIZE, 1), noise(SIZE, 2)];
      await Deno.writeFile(file("a"), a);
      await Deno.writeFile(file("b"), b);
      const disks = [
        `virtio-blk:image=${file("a")}:readonly=on:serial=first`,
        `virtio-blk:image=${file("b")}:queues=2:legacy=off:id=second`,
        "virtio-blk:size=8M",
      ];
      const consoles = [
        "uart",
        `uart:backend=file=${file("ttyS1")}`,
        `uart:backend=file=${file("ttyS2")}`,
      ];
      const { code, stdout, stderr } = await diapause(
        // With memory above 4 GiB, where the kernel puts what devices may reach there.
        ...["--dev", disks.join(), "--dev", consoles.join(), "--mem", "3584M"],
        ...["--guest", "debian", "--exec", SCRIPT],
      );

      const copied = b.slice();
      copied.set(a.subarray(2 * BLOCK, 5 * BLOCK), 5 * BLOCK);
      assertEquals({ code, stderr }, { code: 0, stderr: "" });
      assertEquals(stdout.split("\n"), [
        "vda 2048 1 first",
        "vdb 2048 0 second",
        "vdc 16384 0 virtio-blk1",
        `${await sha256(a)}  /dev/vda`,
        `${await sha256(b)}  /dev/vdb`,
        "100000",
        `${await sha256(copied)}  -`,
        "write to a read-only disk: 1",
        "and again: 1",
        "0",
        "",
      ]);
      assertEquals(await Deno.readFile(file("a")), a);
      assertEquals(await Deno.readFile(file("b")), copied);
      assertEquals(
        await Deno.readTextFile(file("ttyS1")),
        "on the second console\r\n",
      );
      assertEquals(
        await Deno.readTextFile(file("ttyS2")),
        "on the third\r\n",
      );
    }),
);
