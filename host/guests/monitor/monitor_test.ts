import { assert, assertEquals } from "@std/assert";
import { buildMonitor, compilerIdentity } from "./build.ts";
import { prepareMonitor } from "../monitor.ts";
import {
  kernelKind,
  loadKernel,
  pcMemoryMap,
} from "../../../core/boot/index.ts";
import { TestRam } from "../../../core/boot/testing.ts";

function contains(bytes: Uint8Array, text: string): boolean {
  return new TextDecoder("latin1").decode(bytes).includes(text);
}

Deno.test("the monitor's images are what its sources build", async () => {
  const identity = await compilerIdentity();
  const { kernel } = await prepareMonitor();
  if (identity === undefined || !contains(kernel, identity)) {
    const reason = identity === undefined
      ? "gcc is missing"
      : `the images are of another compiler than ${identity}`;
    if (Deno.env.get("CI") === "true") throw new Error(reason);
    console.log(`skipped: ${reason}`);
    return;
  }
  const built = await buildMonitor();
  const fix = "run: deno run -A host/guests/monitor/build.ts";
  assertEquals(built["monitor.elf"], kernel, fix);
  assertEquals(
    built["monitor-multiboot.elf"],
    (await prepareMonitor("multiboot")).kernel,
    fix,
  );
});

Deno.test("the monitor's images are loaded as what they are", async () => {
  for (const protocol of ["pvh", "multiboot"] as const) {
    const { kernel, label, cmdline } = await prepareMonitor(protocol);
    assertEquals(kernelKind(kernel, label), protocol);
    const ram = new TestRam(16 << 20);
    const state = await loadKernel({
      ram,
      memoryMap: pcMemoryMap(ram.size),
      kernel: { bytes: kernel, label },
      cmdline,
    });
    const CLD = 0xfc;
    assertEquals(state.mode, "protected");
    assertEquals(ram.bytes[Number(state.rip)], CLD);
  }
});

/** Boots an image in QEMU with commands on its command line; undefined where there is no QEMU. */
async function qemu(
  protocol: "pvh" | "multiboot",
  commands: string,
): Promise<string | undefined> {
  const directory = await Deno.makeTempDir({ prefix: "diapause-monitor-" });
  try {
    const sector = new Uint8Array(1024);
    sector.set(new TextEncoder().encode("the second sector"), 512);
    await Deno.writeFile(`${directory}/disk`, sector);
    await Deno.writeFile(
      `${directory}/kernel`,
      (await prepareMonitor(protocol)).kernel,
    );
    const { stdout, stderr, success } = await new Deno.Command(
      "qemu-system-x86_64",
      {
        args: [
          ..."-accel tcg -M q35 -m 64 -no-reboot -display none".split(" "),
          ..."-monitor none -serial stdio -net none".split(" "),
          ...["-drive", `if=virtio,format=raw,file=${directory}/disk`],
          ...["-kernel", `${directory}/kernel`, "-append", commands],
        ],
        stdin: "null",
      },
    ).output();
    assert(success, new TextDecoder().decode(stderr));
    return new TextDecoder().decode(stdout);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    console.log("skipped: qemu-system-x86_64 is missing");
    return undefined;
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

Deno.test("the monitor runs in QEMU by both protocols", async () => {
  for (const protocol of ["pvh", "multiboot"] as const) {
    // QEMU puts the file's name before a multiboot kernel's command line.
    const text = await qemu(protocol, "; mem; pci; irq; read 1; poweroff");
    if (text === undefined) return;
    for (
      const part of [
        `memory map (${protocol === "pvh" ? "PVH" : "multiboot"})`,
        "000000100000-",
        "00:00.0 8086:29c0 class 060000",
        "1af4:1001",
        "enabled uart",
        "the second secto",
      ]
    ) {
      assert(text.includes(part), `${protocol}: no "${part}" in:\n${text}`);
    }
  }
});
