/**
 * Builds the monitor, the guest that needs nothing but this repository.
 *
 * `deno run -A host/guests/monitor/build.ts` writes `monitor.elf` (ELF64, PVH) and
 * `monitor-multiboot.elf` (ELF32, multiboot); equal sources and equal tools give equal bytes.
 * It needs gcc and binutils, version 12 and 2.40 for the images in the repository.
 *
 * @module
 */

const SOURCE = new URL(".", import.meta.url).pathname;
const C_FILES = [
  "main.c",
  "console.c",
  "text.c",
  "boot_info.c",
  "interrupts.c",
  "pci.c",
  "disk.c",
  "power.c",
];
const C_FLAGS = [
  "-std=c11",
  "-Os",
  "-Wall",
  "-Wextra",
  "-Werror",
  "-ffreestanding",
  "-fno-pic",
  "-fno-stack-protector",
  "-fno-asynchronous-unwind-tables",
  "-fcf-protection=none",
  "-mgeneral-regs-only",
  "-mno-red-zone",
  "-m64",
  "-march=x86-64",
];
const LINK_FLAGS = [
  "-m64",
  "-nostdlib",
  "-static",
  "-no-pie",
  "-Wl,--build-id=none",
  "-Wl,-z,max-page-size=4096",
  "-Wl,-z,noexecstack",
  "-Wl,--no-warn-rwx-segments",
];

/** The images by file name. */
export type MonitorImages = Record<
  "monitor.elf" | "monitor-multiboot.elf",
  Uint8Array
>;

async function run(command: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, {
    args,
    cwd: SOURCE,
    env: { LC_ALL: "C" },
  }).output();
  if (!success) {
    throw new Error(
      `${command} ${args.join(" ")}:\n${new TextDecoder().decode(stderr)}`,
    );
  }
  return new TextDecoder().decode(stdout);
}

/**
 * The compiler's name and version as it notes them in the images.
 * @returns For example `GCC: (Debian 12.2.0-14) 12.2.0`; undefined if there is none.
 */
export async function compilerIdentity(): Promise<string | undefined> {
  try {
    const first = (await run("gcc", "--version")).split("\n")[0];
    const parts = /^\S+ (\(.*\) \S+)$/.exec(first);
    return `GCC: ${parts === null ? first : parts[1]}`;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/**
 * Builds both images.
 * @returns Their content.
 * @throws {Error} With the tool's message, if the sources do not compile.
 */
export async function buildMonitor(): Promise<MonitorImages> {
  const directory = await Deno.makeTempDir({ prefix: "diapause-monitor-" });
  try {
    const link = async (defines: string[], name: string) => {
      const output = `${directory}/${name}`;
      await run(
        "gcc",
        ...C_FLAGS,
        ...LINK_FLAGS,
        ...defines,
        "-T",
        "link.ld",
        "-o",
        output,
        "boot.S",
        ...C_FILES,
      );
      await run("strip", "--strip-all", "--keep-section=.comment", output);
      return output;
    };
    const pvh = await link([], "pvh");
    const wide = await link(["-DMULTIBOOT"], "multiboot64");
    const multiboot = `${directory}/multiboot`;
    await run("objcopy", "-O", "elf32-i386", wide, multiboot);
    return {
      "monitor.elf": await Deno.readFile(pvh),
      "monitor-multiboot.elf": await Deno.readFile(multiboot),
    };
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

if (import.meta.main) {
  for (const [name, content] of Object.entries(await buildMonitor())) {
    await Deno.writeFile(`${SOURCE}${name}`, content);
    console.log(`${name}: ${content.length} bytes`);
  }
}
