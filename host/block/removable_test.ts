import { assertEquals, assertRejects } from "@std/assert";
import { TestContext } from "../../core/testing/context.ts";
import { MachineError } from "../../core/plugin.ts";
import ahci from "../../plugins/ahci/ahci.ts";
import cd from "../../plugins/ahci/cd.ts";
import { ATA } from "../../plugins/ahci/ata.ts";
import { AhciDriver } from "../../plugins/ahci/testing.ts";
import { withDirectory } from "../../tests/support.ts";
import { openRemovable, type RemovableBlock } from "./mod.ts";

const BLOCK = 2048;
const [TEST_UNIT_READY, READ_10, PREVENT_ALLOW, START_STOP] = [
  0x00,
  0x28,
  0x1e,
  0x1b,
];

async function disc(path: string, fill: number, blocks = 4): Promise<string> {
  await Deno.writeFile(path, new Uint8Array(blocks * BLOCK).fill(fill));
  return path;
}

/** A drive and its guest. */
async function guest(image?: string) {
  const drive = await openRemovable({ image }, { id: "cd0" }) as RemovableBlock;
  const machine = new TestContext();
  machine.addAny(ahci);
  const instance = machine.addAny(cd, { id: "cd0", backend: drive });
  for (const each of machine.instances) each.start();
  const driver = new AhciDriver(machine);
  driver.start();
  const packet = async (...bytes: number[]) => {
    const { status, error, data } = await driver.perform({
      command: ATA.PACKET,
      packet: [...bytes, ...Array(12 - bytes.length).fill(0)],
      room: BLOCK,
    });
    if ((status & 1) !== 0) driver.restart();
    else driver.acknowledge();
    return (status & 1) === 0 ? data[0] : `sense ${error >>> 4}`;
  };
  const read = () => packet(READ_10, 0, 0, 0, 0, 0, 0, 0, 1);
  // The reset, and then a medium that has changed, are told once.
  const ready = async () => {
    await packet(TEST_UNIT_READY);
    return await packet(TEST_UNIT_READY);
  };
  return { drive, machine, instance, packet, read, ready };
}

Deno.test("a guest reads the medium that is in the drive, and is told of every change", async () => {
  await withDirectory(async (folder) => {
    const one = await disc(`${folder}/one.iso`, 1);
    const two = await disc(`${folder}/two.iso`, 2, 8);
    const { drive, packet, read, ready, machine } = await guest(one);
    await ready();
    assertEquals(await read(), 1);
    await drive.change(two);
    assertEquals(await packet(TEST_UNIT_READY), "sense 6");
    assertEquals(await read(), 2);
    assertEquals(drive.size, 8 * BLOCK);
    await drive.eject();
    assertEquals(await read(), "sense 2");
    assertEquals(drive.size, 0);
    await drive.eject();
    await drive.change(one);
    await ready();
    assertEquals(await read(), 1);
    await machine.stop();
    await drive.close();
  });
});

Deno.test("a drive without an image is empty until a medium is put in", async () => {
  await withDirectory(async (folder) => {
    const { drive, read, ready, machine } = await guest();
    await ready();
    assertEquals(await read(), "sense 2");
    assertEquals(await drive.pin(`${folder}/s`), undefined);
    await drive.change(await disc(`${folder}/one.iso`, 1));
    await ready();
    assertEquals(await read(), 1);
    await machine.stop();
    await drive.close();
  });
});

Deno.test("a medium that the guest locks stays in, unless it is forced out", async () => {
  await withDirectory(async (folder) => {
    const one = await disc(`${folder}/one.iso`, 1);
    const { drive, packet, read, ready, machine } = await guest(one);
    await ready();
    await packet(PREVENT_ALLOW, 0, 0, 0, 1);
    await assertRejects(() => drive.eject(), MachineError, 'medium in "cd0"');
    await assertRejects(() => drive.change(one), MachineError, "keeps");
    assertEquals(await read(), 1);
    await drive.eject(true);
    assertEquals(await read(), "sense 2");
    await machine.stop();
    await drive.close();
  });
});

Deno.test("an image that cannot be opened leaves the medium in", async () => {
  await withDirectory(async (folder) => {
    const one = await disc(`${folder}/one.iso`, 1);
    const { drive, read, ready, machine } = await guest(one);
    await ready();
    await assertRejects(
      () => drive.change(`${folder}/none.iso`),
      MachineError,
      "none.iso",
    );
    assertEquals(await read(), 1);
    await machine.stop();
    await drive.close();
  });
});

Deno.test("a tray that the guest opened holds the medium, across a restore and a reset", async () => {
  await withDirectory(async (folder) => {
    const one = await disc(`${folder}/one.iso`, 1);
    const { drive, packet, read, ready, instance, machine } = await guest(one);
    await ready();
    await packet(START_STOP, 0, 0, 0, 2);
    assertEquals(await read(), "sense 2");
    const other = await guest(one);
    other.instance.restore(instance.save());
    assertEquals(await other.read(), "sense 2");
    await other.packet(START_STOP, 0, 0, 0, 3);
    await other.ready();
    assertEquals(await other.read(), 1);
    instance.reset();
    await ready();
    assertEquals(await read(), 1);
    const { image } = (await drive.pin(`${folder}/s`))!;
    assertEquals(image.files.map(({ path }) => path), [one]);
    for (const each of [machine, other.machine]) await each.stop();
    for (const each of [drive, other.drive]) await each.close();
  });
});
