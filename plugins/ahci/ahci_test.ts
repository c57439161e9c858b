import { assertEquals } from "@std/assert";
import type { BlockBackend } from "../../core/plugin.ts";
import { TestContext } from "../../core/testing/context.ts";
import { MemoryBlock } from "../../host/block/memory.ts";
import ahci from "./ahci.ts";
import { ATA, FEATURE, STATUS_BAD, STATUS_GOOD } from "./ata.ts";
import cd from "./cd.ts";
import hd from "./hd.ts";
import {
  GHC,
  GHC_HR,
  IS,
  IS_HBFS,
  IS_IFS,
  IS_OFS,
  IS_PCS,
  IS_PSS,
  IS_SDBS,
  IS_TFES,
  PxCI,
  PxCLB,
  PxIS,
  PxSACT,
  PxSCTL,
  PxSERR,
  PxSIG,
  PxSSTS,
  PxTFD,
} from "./registers.ts";
import { SCSI } from "./scsi.ts";
import { testRoundTrip } from "../../tests/golden.ts";
import { AhciDriver } from "./testing.ts";

const SECTOR = 512;
const DISK = 1 << 20;
const ASCII_SWAPPED = (bytes: Uint8Array, word: number, length: number) =>
  String.fromCharCode(
    ...Array.from({ length }, (_, i) => bytes[2 * word + (i ^ 1)]),
  ).trim();

function numbered(sectors: number, first = 0): Uint8Array {
  const bytes = new Uint8Array(sectors * SECTOR);
  for (let i = 0; i < bytes.length; i++) {
    bytes[i] = first + Math.floor(i / SECTOR) * 7 + i;
  }
  return bytes;
}

/** A controller and a disk that run. */
function disk(backend: BlockBackend = new MemoryBlock(DISK)) {
  const machine = new TestContext();
  const controller = machine.add(ahci);
  const drive = machine.add(hd, { id: "disk0", backend });
  controller.start();
  const driver = new AhciDriver(machine);
  driver.start();
  return { machine, controller, drive, driver };
}

function cdrom(backend: BlockBackend = new MemoryBlock(DISK, true)) {
  const machine = new TestContext();
  const controller = machine.add(ahci);
  const drive = machine.add(cd, { id: "cd0", backend });
  controller.start();
  const driver = new AhciDriver(machine);
  driver.start();
  const packet = (bytes: number[], room = 0) =>
    driver.perform({
      command: ATA.PACKET,
      features: 1,
      packet: [...bytes, ...new Array(16 - bytes.length).fill(0)],
      room,
    });
  return { machine, controller, drive, driver, packet };
}

Deno.test("a port with a disk shows its signature, and an empty one nothing", () => {
  const { machine, driver } = disk();
  assertEquals(driver.read(PxSIG), 0x0000_0101);
  assertEquals(driver.read(PxSSTS), 0x133);
  assertEquals(driver.read(PxTFD), 0x150);
  const empty = new AhciDriver(machine, 3);
  assertEquals(empty.read(PxSSTS), 0);
  assertEquals(empty.read(PxSIG), 0xffff_ffff);
});

Deno.test("COMRESET brings the link down and up, and PxIS.PCS tells", () => {
  const { driver } = disk();
  driver.write(PxSCTL, 1);
  assertEquals(driver.read(PxSSTS), 0);
  driver.write(PxSCTL, 0);
  assertEquals(driver.read(PxSSTS), 0x133);
  assertEquals(driver.read(PxIS) & IS_PCS, IS_PCS);
  driver.write(PxSERR, 0xffff_ffff);
  assertEquals(driver.read(PxIS) & IS_PCS, 0);
});

Deno.test("IDENTIFY DEVICE tells size, serial number and features", async () => {
  const { driver } = disk();
  const { status, data, moved } = await driver.perform({
    command: ATA.IDENTIFY_DEVICE,
    room: SECTOR,
  });
  assertEquals([status, moved], [STATUS_GOOD, SECTOR]);
  assertEquals(driver.read(PxIS) & IS_PSS, IS_PSS);
  const view = new DataView(data.buffer);
  assertEquals(view.getBigUint64(200, true), BigInt(DISK / SECTOR));
  assertEquals(ASCII_SWAPPED(data, 10, 20), "disk0");
  assertEquals(data.reduce((sum, byte) => sum + byte, 0) & 0xff, 0);
});

for (
  const [name, write, read] of [
    ["DMA", ATA.WRITE_DMA_EXT, ATA.READ_DMA_EXT],
    ["PIO", ATA.WRITE_SECTORS_EXT, ATA.READ_SECTORS_EXT],
    ["28-bit DMA", ATA.WRITE_DMA, ATA.READ_DMA],
    ["FUA", ATA.WRITE_DMA_FUA_EXT, ATA.READ_DMA_EXT],
  ] as const
) {
  Deno.test(`${name}: what is written is read, over several buffers`, async () => {
    const { driver } = disk();
    const data = numbered(9);
    const written = await driver.perform({
      command: write,
      lba: 5,
      count: 9,
      data,
    });
    assertEquals([written.status, written.moved], [STATUS_GOOD, data.length]);
    const back = await driver.perform({
      command: read,
      lba: 5,
      count: 9,
      room: data.length,
    });
    assertEquals(back.data, data);
    assertEquals(driver.read(PxCI), 0);
  });
}

Deno.test("queued commands run at once, and each clears its bit of PxSACT", async () => {
  const { machine, driver } = disk();
  for (let slot = 0; slot < 32; slot++) {
    driver.issue(slot, {
      command: ATA.WRITE_FPDMA_QUEUED,
      lba: slot,
      features: 1,
      count: slot << 3,
      data: numbered(1, slot),
      queued: true,
    });
  }
  await machine.settle();
  assertEquals([driver.read(PxSACT), driver.read(PxCI)], [0, 0]);
  assertEquals(driver.acknowledge() & IS_SDBS, IS_SDBS);
  const { data } = await driver.perform({
    command: ATA.READ_FPDMA_QUEUED,
    lba: 31,
    features: 1,
    room: SECTOR,
    queued: true,
  });
  assertEquals(data, numbered(1, 31));
});

Deno.test("a queued command that fails stops the port until its log is read", async () => {
  const { driver } = disk();
  const bad = {
    command: ATA.READ_FPDMA_QUEUED,
    lba: DISK / SECTOR,
    features: 1,
    room: SECTOR,
    queued: true,
  };
  const { status } = await driver.perform(bad, 7);
  assertEquals(status, STATUS_BAD);
  assertEquals(driver.read(PxSACT), 1 << 7);
  assertEquals(driver.acknowledge() & IS_TFES, IS_TFES);
  driver.restart();
  const other = { command: ATA.FLUSH_CACHE_EXT };
  assertEquals((await driver.perform(other)).status, STATUS_BAD);
  driver.restart();
  const log = await driver.perform({
    command: ATA.READ_LOG_EXT,
    lba: 0x10,
    count: 1,
    room: SECTOR,
  });
  assertEquals([log.status, log.data[0], log.data[3]], [STATUS_GOOD, 7, 0x10]);
  assertEquals((await driver.perform(other)).status, STATUS_GOOD);
});

Deno.test("a command that fails leaves its slot in PxCI and sets PxIS.TFES", async () => {
  const { driver } = disk();
  const { status, error } = await driver.perform({
    command: ATA.READ_DMA_EXT,
    lba: DISK / SECTOR - 1,
    count: 2,
    room: 2 * SECTOR,
  }, 3);
  assertEquals([status, error], [STATUS_BAD, 0x10]);
  assertEquals(driver.read(PxCI), 1 << 3);
  assertEquals(driver.read(PxIS) & IS_TFES, IS_TFES);
  driver.restart();
  assertEquals(driver.read(PxCI), 0);
});

Deno.test("an image that cannot be read gives an uncorrectable error", async () => {
  class Broken extends MemoryBlock {
    override readonly immediate = undefined as never;
    override read(): Promise<void> {
      return Promise.reject(new Error("the image is broken"));
    }
  }
  const { machine, driver } = disk(new Broken(DISK));
  const { status, error } = await driver.perform({
    command: ATA.READ_DMA_EXT,
    count: 1,
    room: SECTOR,
  });
  assertEquals([status, error], [STATUS_BAD, 0x40]);
  assertEquals(machine.logged, ["warn: the image is broken"]);
});

Deno.test("TRIM makes sectors read as zeroes", async () => {
  const { driver } = disk();
  await driver.perform({
    command: ATA.WRITE_DMA_EXT,
    lba: 128,
    count: 128,
    data: numbered(128),
  });
  const list = new Uint8Array(SECTOR);
  new DataView(list.buffer).setBigUint64(0, 128n | 128n << 48n, true);
  const { status } = await driver.perform({
    command: ATA.DATA_SET_MANAGEMENT,
    features: 1,
    count: 1,
    data: list,
  });
  assertEquals(status, STATUS_GOOD);
  const { data } = await driver.perform({
    command: ATA.READ_DMA_EXT,
    lba: 128,
    count: 1,
    room: SECTOR,
  });
  assertEquals(data, new Uint8Array(SECTOR));
});

Deno.test("SMART tells that the disk is well", async () => {
  const { driver } = disk();
  const smart = (features: number, room = 0) =>
    driver.perform({ command: ATA.SMART, features, lba: 0xc24f00, room });
  assertEquals((await smart(0xda)).status, STATUS_GOOD);
  const { data } = await smart(0xd0, SECTOR);
  assertEquals(data[2], 1);
  assertEquals(data.reduce((sum, byte) => sum + byte, 0) & 0xff, 0);
  await smart(0xd9);
  assertEquals((await smart(0xd0, SECTOR)).status, STATUS_BAD);
});

Deno.test("buffers that are too small set PxIS.OFS, and nothing else is written", async () => {
  const { driver } = disk();
  const { moved } = await driver.perform({
    command: ATA.READ_DMA_EXT,
    count: 4,
    room: SECTOR,
  });
  assertEquals(moved, SECTOR);
  assertEquals(driver.read(PxIS) & IS_OFS, IS_OFS);
});

Deno.test("a command list outside memory is a host bus error", async () => {
  const { machine, driver } = disk();
  driver.write(PxCLB, 0xf800_0000);
  driver.write(PxCI, 1);
  await machine.settle();
  assertEquals(driver.read(PxIS) & IS_HBFS, IS_HBFS);
  driver.write(PxCLB, 0x1_0000);
  driver.restart();
  const { status } = await driver.perform({ command: ATA.FLUSH_CACHE });
  assertEquals(status, STATUS_GOOD);
});

Deno.test("a FIS of another type is an interface error", () => {
  const { machine, driver } = disk();
  machine.memory.writeU32(0x1_0000, 5);
  machine.memory.writeU32(0x1_0008, 0x2_0000);
  machine.memory.writeU8(0x2_0000, 0x46);
  driver.write(PxCI, 1);
  assertEquals(driver.read(PxIS) & IS_IFS, IS_IFS);
});

Deno.test("software reset brings the signature back", () => {
  const { driver } = disk();
  driver.softReset();
  assertEquals(driver.read(PxTFD), 0x150);
  assertEquals(driver.read(PxCI), 0);
});

Deno.test("GHC.HR resets the ports", () => {
  const { driver } = disk();
  driver.global(GHC, GHC_HR);
  assertEquals(driver.global(GHC), 0x8000_0000);
  assertEquals(driver.read(PxCLB), 0);
  assertEquals(driver.read(PxSSTS), 0x133);
});

Deno.test("INTx follows IS, and is cleared port first", async () => {
  const { machine, driver } = disk();
  machine.gsiEvents.length = 0;
  driver.acknowledge();
  machine.gsiEvents.length = 0;
  await driver.perform({ command: ATA.FLUSH_CACHE });
  const [[gsi]] = machine.gsiEvents;
  driver.global(IS, 1);
  assertEquals(driver.global(IS), 1);
  driver.acknowledge();
  assertEquals(driver.global(IS), 0);
  assertEquals(machine.gsiEvents, [[gsi, true], [gsi, false]]);
});

Deno.test("SET FEATURES turns the write cache off, and IDENTIFY shows it", async () => {
  const { driver } = disk();
  await driver.perform({
    command: ATA.SET_FEATURES,
    features: FEATURE.DISABLE_WRITE_CACHE,
  });
  const { data } = await driver.perform({
    command: ATA.IDENTIFY_DEVICE,
    room: SECTOR,
  });
  assertEquals(data[2 * 85] & 1 << 5, 0);
});

Deno.test("a cd drive shows its signature and refuses IDENTIFY DEVICE", async () => {
  const { driver } = cdrom();
  assertEquals(driver.read(PxSIG), 0xeb14_0101);
  const { status } = await driver.perform({
    command: ATA.IDENTIFY_DEVICE,
    room: SECTOR,
  });
  assertEquals(status, STATUS_BAD);
});

Deno.test("a cd drive tells of its reset once, then reads blocks", async () => {
  const backend = new MemoryBlock(DISK);
  backend.immediate.write(2048 * 3, numbered(4));
  const { driver, packet } = cdrom(backend);
  assertEquals((await packet([SCSI.TEST_UNIT_READY])).error, 6 << 4 | 4);
  driver.restart();
  const sense = await packet([SCSI.REQUEST_SENSE, 0, 0, 0, 18], 18);
  assertEquals([sense.data[2], sense.data[12]], [6, 0x29]);
  assertEquals((await packet([SCSI.TEST_UNIT_READY])).status, STATUS_GOOD);
  const capacity = await packet([SCSI.READ_CAPACITY], 8);
  assertEquals([...capacity.data], [0, 0, 1, 255, 0, 0, 8, 0]);
  const read = await packet([SCSI.READ_10, 0, 0, 0, 0, 3, 0, 0, 1], 2048);
  assertEquals(read.data, numbered(4));
});

Deno.test("a cd drive refuses what it has not, with sense data", async () => {
  const { driver, packet } = cdrom();
  await packet([SCSI.TEST_UNIT_READY]);
  driver.restart();
  const sense = async (bytes: number[]) => {
    assertEquals((await packet(bytes, 2048)).status, STATUS_BAD);
    driver.restart();
    const { data } = await packet([SCSI.REQUEST_SENSE, 0, 0, 0, 18], 18);
    return [data[2], data[12]];
  };
  assertEquals(await sense([0xff]), [5, 0x20]);
  assertEquals(await sense([SCSI.READ_10, 0, 0, 0, 2, 0, 0, 0, 1]), [5, 0x21]);
  assertEquals(await sense([SCSI.MODE_SENSE_10, 0, 9]), [5, 0x24]);
});

Deno.test("a cd drive opens its tray unless it is locked", async () => {
  const { driver, packet } = cdrom();
  await packet([SCSI.TEST_UNIT_READY]);
  driver.restart();
  await packet([SCSI.PREVENT_ALLOW_MEDIUM_REMOVAL, 0, 0, 0, 1]);
  assertEquals(
    (await packet([SCSI.START_STOP_UNIT, 0, 0, 0, 2])).status,
    STATUS_BAD,
  );
  driver.restart();
  await packet([SCSI.PREVENT_ALLOW_MEDIUM_REMOVAL]);
  await packet([SCSI.START_STOP_UNIT, 0, 0, 0, 2]);
  assertEquals((await packet([SCSI.TEST_UNIT_READY])).status, STATUS_BAD);
  driver.restart();
  await packet([SCSI.START_STOP_UNIT, 0, 0, 0, 3]);
  const events = await packet(
    [SCSI.GET_EVENT_STATUS_NOTIFICATION, 1, 0, 0, 16, 0, 0, 0, 8],
    8,
  );
  assertEquals([...events.data.subarray(4, 6)], [2, 2]);
});

testRoundTrip(ahci, {
  steps: [
    (machine) => new AhciDriver(machine).start(),
    (machine) => new AhciDriver(machine).read(PxSSTS),
    (machine) => new AhciDriver(machine, 5).write(PxSCTL, 1),
    (machine) => new AhciDriver(machine, 5).write(PxSCTL, 0),
    (machine) => new AhciDriver(machine).global(GHC),
  ],
}, import.meta.url);

testRoundTrip(hd, {
  beside: () => [{ plugin: ahci, id: "ahci0" }],
  steps: [
    (machine) => new AhciDriver(machine).start(),
    (machine) =>
      new AhciDriver(machine).issue(0, {
        command: ATA.WRITE_DMA_EXT,
        lba: 3,
        count: 4,
        data: numbered(4),
      }),
    (machine) => new AhciDriver(machine).acknowledge(),
    (machine) => {
      const driver = new AhciDriver(machine);
      for (let slot = 1; slot < 5; slot++) {
        driver.issue(slot, {
          command: slot === 3 ? ATA.WRITE_FPDMA_QUEUED : ATA.READ_FPDMA_QUEUED,
          lba: slot,
          features: 2,
          count: slot << 3,
          room: 2 * SECTOR,
          queued: true,
        });
      }
    },
    (machine) => new AhciDriver(machine).reply(2, 2 * SECTOR).data.slice(0, 9),
    (machine) => new AhciDriver(machine).acknowledge(),
    (machine) =>
      new AhciDriver(machine).issue(6, {
        command: ATA.READ_FPDMA_QUEUED,
        lba: 1e9,
        features: 1,
        room: SECTOR,
        queued: true,
      }),
    (machine) => new AhciDriver(machine).restart(),
    (machine) =>
      new AhciDriver(machine).issue(0, {
        command: ATA.READ_LOG_EXT,
        lba: 0x10,
        count: 1,
        room: SECTOR,
      }),
    (machine) => new AhciDriver(machine).reply(0, SECTOR).data.slice(0, 16),
    (machine) =>
      new AhciDriver(machine).issue(0, { command: ATA.FLUSH_CACHE_EXT }),
  ],
}, import.meta.url);

testRoundTrip(cd, {
  beside: () => [{ plugin: ahci, id: "ahci0" }],
  steps: [
    (machine) => new AhciDriver(machine).start(),
    ...[
      [SCSI.TEST_UNIT_READY],
      [SCSI.REQUEST_SENSE, 0, 0, 0, 18],
      [SCSI.READ_10, 0, 0, 0, 0, 1, 0, 0, 2],
      [SCSI.PREVENT_ALLOW_MEDIUM_REMOVAL, 0, 0, 0, 1],
      [SCSI.START_STOP_UNIT, 0, 0, 0, 2],
      [SCSI.REQUEST_SENSE, 0, 0, 0, 18],
      [SCSI.PREVENT_ALLOW_MEDIUM_REMOVAL],
      [SCSI.START_STOP_UNIT, 0, 0, 0, 2],
      [SCSI.START_STOP_UNIT, 0, 0, 0, 3],
      [SCSI.GET_EVENT_STATUS_NOTIFICATION, 1, 0, 0, 16, 0, 0, 0, 8],
    ].flatMap((packet) => [
      (machine: TestContext) =>
        new AhciDriver(machine).issue(0, {
          command: ATA.PACKET,
          features: 1,
          packet: [...packet, ...new Array(16 - packet.length).fill(0)],
          room: 4096,
        }),
      (machine: TestContext) => {
        const driver = new AhciDriver(machine);
        const reply = driver.reply(0, 24);
        if ((reply.status & 1) !== 0) driver.restart();
        return reply;
      },
    ]),
  ],
}, import.meta.url);
