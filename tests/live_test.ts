// Snapshots of a machine that runs on while they are written, chains of them, and machines that run
// before they are restored whole (DESIGN.md section 6).

import { assert, assertEquals, assertRejects } from "@std/assert";
import { fakeElf } from "../core/boot/testing.ts";
import { Machine, type MachineDevice } from "../core/machine.ts";
import { restoreFile, writeMachine } from "../core/machine_file.ts";
import { MachineError } from "../core/plugin.ts";
import { MemoryBlock } from "../host/block/memory.ts";
import { MemoryChardev } from "../host/chardev/memory.ts";
import { openSource, writeWhole, zstd } from "../host/snapshot_file.ts";
import { BUILT_IN, PLATFORM } from "../plugins/mod.ts";
import { SnapshotError, SnapshotReader } from "../snapshot/container.ts";
import { debianTest, noise, withDirectory } from "./support.ts";

const MEMORY = 128 << 20;
const DISK_BYTES = 1 << 20;
const RTC_BASE = Date.UTC(2026, 0, 1);
/** In the decompressor and when the kernel sets up its memory: much is written. */
const BEFORE = 60_000_000;
const AFTER = 200_000_000;
const KERNEL_BASE = 0x100000;
const SCRIBBLED = 0x200000;
const SCRIBBLED_PAGES = 3000;
const imm32 = (value: number) => [0, 8, 16, 24].map((n) => value >>> n & 0xff);
/** For ever: counts in the first word of each page, one page after another. */
const SCRIBBLER = [
  ...[0xbf, ...imm32(SCRIBBLED)], // mov edi, SCRIBBLED
  ...[0xb9, ...imm32(SCRIBBLED_PAGES)], // mov ecx, SCRIBBLED_PAGES
  ...[0x48, 0xff, 0x07], // inc qword [rdi]
  ...[0x48, 0x81, 0xc7, ...imm32(4096)], // add rdi, 4096
  ...[0xff, 0xc9], // dec ecx
  ...[0x75, 0xf2], // jnz to the inc
  ...[0xeb, 0xe6], // jmp to the first
];

/** What the first word of a page is when so many instructions were executed. */
function counted(page: number, instructions: number): number {
  const round = 2 + 4 * SCRIBBLED_PAGES + 1;
  const rounds = Math.floor(instructions / round);
  return rounds + (instructions % round > 2 + 4 * page ? 1 : 0);
}

/** Asserts that a snapshot of the scribbler is whole, and of its moment. */
async function assertScribbled(folder: string, name: string): Promise<void> {
  const { reader, close } = await open(folder, name);
  const ram = new Uint8Array(reader.bytes("ram"));
  await reader.readMemory("ram", ram);
  const words = new DataView(ram.buffer);
  const moment = retiredIn(reader);
  for (let page = 0; page < SCRIBBLED_PAGES; page++) {
    assertEquals(
      words.getUint32(SCRIBBLED + page * 4096, true),
      counted(page, moment),
      `${name}, page ${page}, at ${moment}`,
    );
  }
  close();
}

/** A machine that does nothing but write to its memory. */
async function makeScribbler(
  { boot = true, disk }: { boot?: boolean; disk?: MemoryBlock } = {},
): Promise<Machine> {
  const machine = await Machine.create({
    memory: 16 << 20,
    clock: "instructions",
    hostNow: () => performance.now(),
    devices: disk === undefined ? [] : [{
      id: "disk",
      specifier: "virtio-blk",
      plugin: await BUILT_IN["virtio-blk"](),
      backend: disk,
    }],
  });
  if (boot) {
    const bytes = fakeElf({
      bits: 64,
      physical: KERNEL_BASE,
      entry: BigInt(KERNEL_BASE),
      content: Uint8Array.from(SCRIBBLER),
    });
    await machine.boot({ kernel: { bytes, label: "scribbler" } });
    // No two pages are equal, so that all are stored.
    for (let page = 0; page < SCRIBBLED_PAGES; page++) {
      machine.memory.writeU32(SCRIBBLED + page * 4096 + 8, page + 1);
    }
  }
  return machine;
}

async function makeMachine(): Promise<Machine> {
  const disk = new MemoryBlock(DISK_BYTES);
  await disk.write(DISK_BYTES / 2, noise(DISK_BYTES / 4));
  const names = new Set([...PLATFORM, "uart", "virtio-blk"]);
  const devices: MachineDevice[] = await Promise.all(
    [...names].map(async (name) => ({
      id: `${name}0`,
      specifier: name,
      plugin: await BUILT_IN[name](),
      backend: name === "uart"
        ? new MemoryChardev()
        : name === "virtio-blk"
        ? disk
        : undefined,
    })),
  );
  return await Machine.create({
    memory: MEMORY,
    clock: "instructions",
    hostNow: () => performance.now(),
    rtcBase: RTC_BASE,
    devices,
  });
}

async function runTo(machine: Machine, instructions: number): Promise<void> {
  machine.maxInstructions = instructions;
  assertEquals((await machine.run()).reason, "instructions");
}

/** Saves to a file of a folder. */
function save(machine: Machine, folder: string, name: string, parent?: string) {
  return writeMachine(machine, {
    file: (write) => writeWhole(`${folder}/${name}`, write),
    name,
    parent: parent === undefined ? undefined : () => Promise.resolve(parent),
    codec: zstd,
    producer: "test",
  });
}

async function open(folder: string, name: string) {
  const sources = [await openSource(`${folder}/${name}`)];
  const reader = await SnapshotReader.open(sources[0], zstd, {
    openParent: async (path) => {
      const source = await openSource(`${folder}/${path}`);
      sources.push(source);
      return source;
    },
  });
  return { reader, close: () => sources.forEach((each) => each.close()) };
}

/** The instruction at which a snapshot was taken. */
function retiredIn(reader: SnapshotReader): number {
  const { state } = reader.components.find(({ id }) => id === "machine")!;
  return Number((state as { retired: bigint }).retired);
}

debianTest(
  "a snapshot of a running machine is that of its moment, and the machine goes on as if it was not taken",
  (guest) =>
    withDirectory(async (folder) => {
      const boot = {
        kernel: { bytes: guest.kernel, label: guest.label },
        initrd: { bytes: guest.initrd, label: "initramfs" },
        cmdline: guest.cmdline,
      };
      const machine = await makeMachine();
      await machine.boot(boot);
      await runTo(machine, BEFORE);
      machine.maxInstructions = AFTER;
      const running = machine.run();
      await save(machine, folder, "live");
      const whileWritten = machine.cpu.retired;
      assertEquals((await running).reason, "instructions");
      const end = await machine.stateHash();
      await save(machine, folder, "child", "live");
      await machine.close();

      const { reader, close } = await open(folder, "live");
      const moment = retiredIn(reader);
      assert(moment < whileWritten, "the guest ran while it was saved");

      const paused = await makeMachine();
      await paused.boot(boot);
      await runTo(paused, moment);
      await paused.pause();
      const then = await paused.stateHash();
      paused.resume();
      await runTo(paused, AFTER);
      assertEquals(await paused.stateHash(), end);
      await paused.close();

      for (const lazy of [false, true]) {
        const restored = await makeMachine();
        const { loaded } = await restoreFile(restored, reader, { lazy });
        if (!lazy) assertEquals(await restored.stateHash(), then);
        await runTo(restored, AFTER);
        await loaded;
        assertEquals(await restored.stateHash(), end, lazy ? "lazy" : "eager");
        await restored.close();
      }
      close();

      const chain = await open(folder, "child");
      const last = await makeMachine();
      await restoreFile(last, chain.reader);
      assertEquals(await last.stateHash(), end);
      await last.close();
      chain.close();
    }),
);

Deno.test("checkpoints of a guest that writes all the time are each what memory was", async () => {
  await withDirectory(async (folder) => {
    const machine = await makeScribbler();
    const running = machine.run();
    const names = ["full", "second", "third", "fourth", "fifth"];
    for (const [i, name] of names.entries()) {
      await save(machine, folder, name, i === 0 ? undefined : names[i - 1]);
    }
    machine.stop();
    await running;
    await machine.close();
    for (const name of names) await assertScribbled(folder, name);
  });
});

Deno.test("a guest that writes faster than its snapshot waits for it", async () => {
  const machine = await makeScribbler();
  const seen: number[] = [];
  machine.memory.keeper = {
    keep() {},
    get behind() {
      seen.push(machine.cpu.retired);
      return seen.length <= 3;
    },
  };
  await runTo(machine, 1000);
  assertEquals(seen.slice(0, 4), [0, 0, 0, 0]);
  await machine.close();
});

Deno.test("two checkpoints at the same time are written one after the other", async () => {
  await withDirectory(async (folder) => {
    const machine = await makeScribbler();
    const running = machine.run();
    await Promise.all(["a", "b"].map((name) => save(machine, folder, name)));
    machine.stop();
    await running;
    const moments: number[] = [];
    for (const name of ["a", "b"]) {
      const { reader, close } = await open(folder, name);
      await reader.readMemory("ram", new Uint8Array(reader.bytes("ram")));
      moments.push(retiredIn(reader));
      close();
    }
    assert(moments[0] < moments[1], `${moments}`);
    await machine.close();
  });
});

Deno.test("a snapshot that cannot be written leaves the machine running, and the chain whole", async () => {
  await withDirectory(async (folder) => {
    const machine = await makeScribbler();
    const running = machine.run();
    await save(machine, folder, "full");
    let room = 10_000;
    const full = writeMachine(machine, {
      file: (write) =>
        write({
          write(bytes) {
            room -= bytes.length;
            return room > 0
              ? Promise.resolve()
              : Promise.reject(new Error("no space left on device"));
          },
        }),
      name: "never",
      codec: zstd,
      producer: "test",
    });
    await assertRejects(() => full, Error, "no space left on device");
    assertEquals(machine.memory.keeper, undefined);
    await save(machine, folder, "child", "full");
    machine.stop();
    assertEquals((await running).reason, "stopped");
    await machine.close();
    await assertScribbled(folder, "child");
  });
});

Deno.test("an incremental snapshot needs one before it, also after a restore", async () => {
  await withDirectory(async (folder) => {
    const machine = await makeScribbler();
    await assertRejects(
      () => save(machine, folder, "child", "none"),
      MachineError,
      "take a full one first",
    );
    await runTo(machine, 20_000);
    await save(machine, folder, "full");
    await machine.close();
    const { reader, close } = await open(folder, "full");
    const restored = await makeScribbler({ boot: false });
    await restoreFile(restored, reader, { name: "full", lazy: true });
    await runTo(restored, 21_000);
    const { storedPages } = await save(restored, folder, "child", "full");
    const hash = await restored.stateHash();
    await restored.close();
    close();
    assert(storedPages < 400, `${storedPages} of the pages that are used`);
    const chain = await open(folder, "child");
    const last = await makeScribbler({ boot: false });
    await restoreFile(last, chain.reader);
    assertEquals(await last.stateHash(), hash);
    await last.close();
    chain.close();
  });
});

Deno.test("a damaged block that is found late ends the run and names the chunk", async () => {
  await withDirectory(async (folder) => {
    const machine = await makeScribbler();
    await runTo(machine, 20_000);
    await save(machine, folder, "full");
    await machine.close();
    const path = `${folder}/full`;
    for (const when of ["touched", "streamed"]) {
      const { reader, close } = await open(folder, "full");
      const restored = await makeScribbler({ boot: false });
      const bytes = await Deno.readFile(path);
      const at = bytes.length >> 1;
      bytes[at] ^= 1;
      // In place, as a failing disk does it.
      await Deno.writeFile(path, bytes);
      const { loaded } = await restoreFile(restored, reader, { lazy: true });
      if (when === "streamed") await loaded;
      const result = await restored.run();
      assertEquals(result.reason, "memory-lost");
      assert(result.reason === "memory-lost");
      assert(result.error instanceof SnapshotError);
      assert(
        /chunk \d+ \(PAGE\) at byte \d+ is damaged/.test(result.error.message),
        result.error.message,
      );
      await loaded;
      await restored.close();
      close();
      bytes[at] ^= 1;
      await Deno.writeFile(path, bytes);
    }
  });
});

Deno.test("a file that is replaced while a machine loads from it does not matter", async () => {
  await withDirectory(async (folder) => {
    const machine = await makeScribbler();
    await runTo(machine, 20_000);
    await save(machine, folder, "full");
    const hash = await machine.stateHash();
    const { reader, close } = await open(folder, "full");
    const restored = await makeScribbler({ boot: false });
    const { loaded } = await restoreFile(restored, reader, {
      name: "full",
      lazy: true,
    });
    await runTo(machine, 30_000);
    await save(machine, folder, "full");
    await loaded;
    assertEquals(await restored.stateHash(), hash);
    await restored.close();
    await machine.close();
    close();
  });
});

Deno.test("the content of a disk in memory is saved and restored, and its size is checked", async () => {
  await withDirectory(async (folder) => {
    const disk = new MemoryBlock(DISK_BYTES + 512);
    await disk.write(4096, noise(8192));
    await disk.write(DISK_BYTES, new Uint8Array(512).fill(3));
    const machine = await makeScribbler({ disk });
    await runTo(machine, 1000);
    const hash = await machine.stateHash();
    const saved = save(machine, folder, "disk");
    await saved;
    await disk.write(4096, new Uint8Array(512).fill(1));
    assert(await machine.stateHash() !== hash, "the disk is in the hash");
    await machine.close();
    const { reader, close } = await open(folder, "disk");
    assertEquals(reader.regions, ["ram", "disk:disk"]);
    const restored = await makeScribbler({
      boot: false,
      disk: new MemoryBlock(DISK_BYTES + 512),
    });
    await restoreFile(restored, reader);
    assertEquals(await restored.stateHash(), hash);
    await restored.close();
    const other = new MemoryBlock(DISK_BYTES);
    const wrong = await makeScribbler({ boot: false, disk: other });
    await assertRejects(
      () => restoreFile(wrong, reader),
      MachineError,
      `the snapshot has ${DISK_BYTES + 512} bytes of the disk of device "disk"`,
    );
    assertEquals(other.allocated, 0);
    await wrong.close();
    close();
  });
});
