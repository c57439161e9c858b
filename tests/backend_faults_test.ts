/**
 * Disks whose files fail while a guest uses them: the guest has the I/O error of its device, the
 * user one line that names the file, and what is not concerned goes on.
 */
import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { TestContext } from "../core/testing/context.ts";
import { openBlock } from "../host/block/mod.ts";
import { openNet } from "../host/net/mod.ts";
import ahci from "../plugins/ahci/ahci.ts";
import { ATA } from "../plugins/ahci/ata.ts";
import hd from "../plugins/ahci/hd.ts";
import { AhciDriver } from "../plugins/ahci/testing.ts";
import virtioBlk from "../plugins/virtio/blk.ts";
import { DRIVER_OK, F_EVENT_IDX } from "../plugins/virtio/testing/driver.ts";
import { driverOf } from "../plugins/virtio/testing/rings.ts";
import { noise, withDirectory } from "./support.ts";

const SECTOR = 512;
const SECTORS = 64;
/** ACS-3, section 6.3: status with ERR, and the error UNC. */
const STATUS_ERR = 1;
const ERROR_UNC = 1 << 6;

/** A guest that reads and writes sectors of one disk. */
interface Guest {
  machine: TestContext;
  /** The sector, or undefined after an I/O error. */
  read(sector: number): Promise<Uint8Array | undefined>;
}

type OpenDisk = Awaited<ReturnType<typeof openBlock>>;

function ahciGuest(disk: OpenDisk): Guest {
  const machine = new TestContext();
  machine.addAny(ahci);
  machine.addAny(hd, { backend: disk });
  for (const each of machine.instances) each.start();
  const driver = new AhciDriver(machine);
  driver.start();
  return {
    machine,
    read: async (lba) => {
      const { status, error, data } = await driver.perform({
        command: ATA.READ_DMA_EXT,
        lba,
        count: 1,
        room: SECTOR,
      });
      if ((status & STATUS_ERR) === 0) return data;
      assertEquals(error & ERROR_UNC, ERROR_UNC);
      driver.restart();
      return undefined;
    },
  };
}

function virtioGuest(disk: OpenDisk): Guest {
  const machine = new TestContext();
  machine.addAny(virtioBlk, { backend: disk });
  for (const each of machine.instances) each.start();
  const driver = driverOf(machine);
  driver.negotiate(driver.offered & ~F_EVENT_IDX);
  const ring = driver.queue(0, 8);
  driver.status |= DRIVER_OK;
  const header = driver.memory.allocate(16);
  const data = driver.memory.allocate(SECTOR);
  const status = driver.memory.allocate(1);
  return {
    machine,
    read: async (sector) => {
      const { view } = driver.memory;
      view.setUint32(header, 0, true);
      view.setBigUint64(header + 8, BigInt(sector), true);
      ring.add([
        { address: header, length: 16 },
        { address: data, length: SECTOR, write: true },
        { address: status, length: 1, write: true },
      ]);
      driver.notify(0);
      await machine.settle();
      assertEquals(ring.collect().length, 1);
      const [answer] = driver.memory.bytes(status, 1);
      if (answer === 0) return driver.memory.bytes(data, SECTOR).slice();
      assertEquals(answer, 1);
      return undefined;
    },
  };
}

for (
  const [name, start] of [
    ["virtio-blk", virtioGuest],
    ["ahci-hd", ahciGuest],
  ] as const
) {
  Deno.test(`${name}: an image that was cut short is an I/O error where it is missing, and nowhere else`, async () => {
    await withDirectory(async (folder) => {
      const path = `${folder}/disk.img`;
      const content = noise(SECTORS * SECTOR);
      await Deno.writeFile(path, content);
      const disk = await openBlock({ image: path });
      const { machine, read } = start(disk);
      const sector = (n: number) =>
        content.subarray(n * SECTOR, (n + 1) * SECTOR);
      assertEquals(await read(SECTORS - 1), sector(SECTORS - 1));
      await Deno.truncate(path, SECTORS / 2 * SECTOR);
      assertEquals(await read(SECTORS - 1), undefined);
      assertEquals(machine.logged.length, 1);
      assertMatch(machine.logged[0], /disk\.img/);
      assertEquals(await read(3), sector(3));
      // The user puts it right.
      await Deno.writeFile(path, content);
      assertEquals(await read(SECTORS - 1), sector(SECTORS - 1));
      await machine.stop();
      await disk.close();
      assertEquals(await Deno.readFile(path), content);
    });
  });
}

async function mount(...args: string[]): Promise<boolean> {
  const [program, ...rest] = args;
  const { success } = await new Deno.Command(program, {
    args: rest,
    stderr: "null",
  }).output().catch(() => ({ success: false }));
  return success;
}

Deno.test("a raw image on a full disk is an error of the write that names it, and keeps what it has", async (t) => {
  await withDirectory(async (folder) => {
    const isSmall = await mount(
      ...["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder],
    );
    await t.step({
      name: "on a file system of 64 KiB",
      // Only root may mount one.
      ignore: !isSmall,
      fn: async () => {
        const path = `${folder}/disk.img`;
        await Deno.create(path).then((file) => file.close());
        await Deno.truncate(path, 1 << 20);
        const disk = await openBlock({ image: path });
        const kept = noise(4096);
        await disk.write(0, kept);
        await assertRejects(
          () => disk.write(4096, noise(512 << 10)),
          Error,
          "No space left",
        ).then(({ message }) => assertMatch(message, /disk\.img/));
        const read = new Uint8Array(4096);
        await disk.read(0, read);
        assertEquals(read, kept);
        await disk.close();
      },
    });
    if (isSmall) await mount("umount", folder);
  });
});

Deno.test("a capture on a full disk ends with one line, and the network goes on", async () => {
  const told: string[] = [];
  const { promise, resolve } = Promise.withResolvers<void>();
  const net = await openNet(
    { net: "hub=full", pcap: "/dev/full" },
    "net0",
    (line) => {
      told.push(line);
      resolve();
    },
  );
  const other = await openNet({ net: "hub=full" }, "net1");
  let taken = 0;
  other.onReceive(() => {
    taken++;
    return true;
  });
  for (let i = 0; i < 10; i++) net.send(new Uint8Array(60));
  await promise;
  for (let i = 0; i < 10; i++) net.send(new Uint8Array(60));
  assertEquals(taken, 20);
  await net.close();
  await other.close();
  assertEquals(told.length, 1);
  assertMatch(told[0], /^pcap of net0: cannot write "\/dev\/full": No space/);
});
