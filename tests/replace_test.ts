// Devices of a running Debian guest replaced while it uses them; and replaced at a restore.

import { assertEquals, assertStringIncludes } from "@std/assert";
import { CODE, diapause, kernelFile, Qmp } from "../cli/testing.ts";
import { Machine } from "../core/machine.ts";
import type { Plugin } from "../core/plugin.ts";
import { MemoryBlock } from "../host/block/mod.ts";
import { MemoryChardev } from "../host/chardev/memory.ts";
import { Display } from "../host/display/display.ts";
import { InputHub } from "../host/input/hub.ts";
import { openNone } from "../host/net/none.ts";
import { BUILT_IN, PLATFORM } from "../plugins/mod.ts";
import { toJson } from "../snapshot/schema.ts";
import { debianTest, Session } from "./support.ts";

const TESTDATA = new URL("./testdata/", import.meta.url).pathname;
const [BLK, UART] = [`${TESTDATA}other_blk.ts`, `${TESTDATA}other_uart.ts`];
const DISK_BYTES = 4 << 20;
const LINES = 200;
/** Each device is replaced this often. */
const ROUNDS = 8;
/** Reads and writes the disk while it prints. */
const WORK = [
  "echo begin",
  "(for i in 1 2 3; do sha256sum /dev/vda; done > /sums) &",
  "(for i in 1 2 3; do sha256sum /dev/vdb; " +
  "dd if=/dev/vda of=/dev/vdb bs=64k conv=fsync 2>/dev/null; done) > /dev/null &",
  `i=0; while [ $i -lt ${LINES} ]; do echo line $i of ${LINES}; i=$((i+1)); done`,
  "wait; uniq /sums; sha256sum < /dev/vdb",
].join("\n");

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const sum = await crypto.subtle.digest("SHA-256", bytes);
  return new Uint8Array(sum).toHex();
}

debianTest(
  "a Debian guest uses its disks and console while they are replaced",
  async () => {
    const directory = await Deno.makeTempDir();
    const socket = `${directory}/control`;
    const content = new Uint8Array(DISK_BYTES);
    for (let i = 0; i < content.length; i += 4096) content[i] = i >> 12;
    await Deno.writeFile(`${directory}/a`, content);
    await Deno.writeFile(`${directory}/b`, new Uint8Array(DISK_BYTES));
    try {
      const session = new Session(
        ...["--dev", `virtio-blk:image=${directory}/a:readonly=on`],
        ...["--dev", `virtio-blk:image=${directory}/b,uart`],
        ...["--control", socket, "--exec", WORK],
      );
      await session.expect("begin");
      const client = await Qmp.open(socket);
      await client.execute("qmp_capabilities");
      for (let round = 0; round < ROUNDS; round++) {
        for (const id of ["virtio-blk0", "uart0", "virtio-blk1"]) {
          const specifier = id === "uart0" ? UART : BLK;
          await client.execute("x-replace-device", { id, specifier });
        }
      }
      const { code, stdout, stderr } = await session.end();
      client.close();
      const lines = Array.from(
        { length: LINES },
        (_, i) => `line ${i} of ${LINES}\n`,
      );
      const sum = await sha256(content);
      assertEquals(
        stdout,
        `begin\n${lines.join("")}${sum}  /dev/vda\n${sum}  -\n`,
      );
      assertEquals([code, stderr], [0, ""]);
      assertEquals(await sha256(await Deno.readFile(`${directory}/b`)), sum);
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
);

Deno.test("a snapshot is restored with other backends and other plugins", async () => {
  const directory = await Deno.makeTempDir();
  const [file, image] = [`${directory}/snapshot`, `${directory}/disk`];
  const [console, socket] = [`${directory}/out`, `${directory}/control`];
  const kernel = await kernelFile(
    CODE.print("a"),
    CODE.waitForInput,
    ...[CODE.print("b"), CODE.powerOff, CODE.idle],
  );
  await Deno.writeFile(image, new Uint8Array(4096));
  try {
    const first = new Session(
      ...["--kernel", kernel, "--mem", "16M", "--control", socket],
      ...["--dev", `uart,virtio-blk:image=${image}`],
    );
    await first.expect("a");
    assertEquals((await diapause("ctl", socket, "suspend", file)).code, 0);
    assertEquals((await first.end()).code, 0);
    const moved = `${directory}/moved`;
    await Deno.rename(image, moved);
    const changes = [
      ...["--dev", `virtio-blk0:image=${moved}`, "--dev", `uart@${UART}`],
      ...["--replace", `virtio-blk0=${BLK}:serial=other`],
    ];
    const check = await diapause("check", file, ...changes);
    assertEquals([check.code, check.stderr], [0, ""]);
    const other = await diapause(
      ...["check", file, "--replace"],
      `virtio-blk0=virtio-blk:image=${moved}:serial=new`,
    );
    assertEquals([other.code, other.stderr], [0, ""]);
    const second = new Session("--restore", file, ...changes);
    await second.type("");
    const { code, stdout, stderr } = await second.end();
    assertEquals([code, stdout, stderr], [0, "b", ""]);

    const elsewhere = `uart0:backend=file=${console}`;
    const third = new Session(
      ...["--restore", file, ...changes, "--dev", elsewhere],
      ...["--control", socket],
    );
    for (;;) {
      const { stdout } = await diapause("ctl", socket, "query-devices");
      if (stdout === "") continue;
      assertStringIncludes(stdout, "uart-successor 9.0.0");
      assertStringIncludes(stdout, "virtio-blk-successor 9.0.0");
      break;
    }
    const back = await diapause(
      ...["ctl", socket, "replace-device", "uart0", "uart"],
    );
    assertEquals(back.code, 1);
    assertStringIncludes(
      back.stderr,
      'of the schema "uart", and this build reads up to',
    );
    const moving = await diapause(
      ...["ctl", socket, "replace-device", "virtio-blk0"],
      `${BLK}:image=elsewhere`,
    );
    assertEquals(moving.code, 1);
    assertStringIncludes(moving.stderr, 'option "image" of device');
    assertEquals((await diapause("ctl", socket, "quit")).code, 0);
    assertEquals((await third.end()).code, 0);
    assertEquals(await Deno.readTextFile(console), "");
  } finally {
    await Deno.remove(directory, { recursive: true });
    await Deno.remove(kernel);
  }
});

/** A machine with every built-in device, and its console. */
async function fullMachine(): Promise<
  { machine: Machine; console: MemoryChardev }
> {
  const console = new MemoryChardev();
  const names = [
    ...PLATFORM,
    ...Object.keys(BUILT_IN).filter((name) => !PLATFORM.includes(name)),
  ];
  const plugins = await Promise.all(names.map((name) => BUILT_IN[name]()));
  // Controllers before what is plugged into them.
  const order = (plugin: Plugin) => plugin.controller === undefined ? 0 : 1;
  plugins.sort((a, b) => order(a) - order(b));
  const machine = await Machine.create({
    memory: 256 << 20,
    clock: "instructions",
    hostNow: () => performance.now(),
    rtcBase: Date.UTC(2026, 0, 1),
    devices: plugins.map((plugin) => ({
      id: `${plugin.name}0`,
      specifier: plugin.name,
      plugin,
      backend: plugin.name === "uart"
        ? console
        : plugin.backend === "char"
        ? new MemoryChardev()
        : plugin.backend === "block"
        ? new MemoryBlock(1 << 20)
        : plugin.backend === "net"
        ? openNone()
        : plugin.backend === "display"
        ? new Display()
        : plugin.backend === "input"
        ? new InputHub().connect().backend
        : undefined,
    })),
  });
  return { machine, console };
}

/** What is saved, in a form that can be compared. */
function components(machine: Machine): unknown {
  return machine.save().components.map(({ id, state }) => [id, toJson(state)]);
}

debianTest(
  "every built-in device can be replaced by itself, and nothing shows",
  async (guest) => {
    const MOMENT = 300_000_017;
    const FURTHER = 30_000_000;
    const runTo = async (machine: Machine, end: number) => {
      machine.maxInstructions = end;
      assertEquals((await machine.run()).reason, "instructions");
    };
    const { machine, console } = await fullMachine();
    await machine.boot({
      kernel: { bytes: guest.kernel, label: guest.label },
      initrd: { bytes: guest.initrd, label: "initramfs" },
      cmdline: guest.cmdline,
    });
    await runTo(machine, MOMENT);
    await machine.pause();
    const { machine: copy, console: copyConsole } = await fullMachine();
    copy.restore(machine.save());
    await copy.pause();
    const before = components(copy);
    for (const { id, specifier } of copy.configuration.devices) {
      const plugin = await BUILT_IN[specifier]();
      await copy.replaceDevice(id, { plugin, specifier });
      assertEquals(components(copy), before, id);
    }
    machine.resume();
    copy.resume();
    const printed = console.text().length;
    const end = machine.cpu.retired + FURTHER;
    await runTo(machine, end);
    await runTo(copy, end);
    assertEquals(copyConsole.text(), console.text().slice(printed));
    assertEquals(await copy.stateHash(), await machine.stateHash());
    await machine.close();
    await copy.close();
  },
);
