/**
 * The same measurements of v86, which runs 32-bit guests: Debian's 686 kernel with the same
 * initramfs, made from 32-bit packages.
 *
 * @module
 */

import {
  downloadPackage,
  extractFiles,
  findPackage,
  resolveKernelPackage,
  unpackPackage,
} from "../host/guests/apt.ts";
import { GuestUnavailable } from "../host/guests/cache.ts";
import { execArchive, execToken } from "../host/guests/exec.ts";
import { buildInitramfs } from "../host/guests/initramfs.ts";
import init from "../host/guests/init.sh" with { type: "text" };
import { ALIVE, LiveGuest, type SnapshotTimes } from "./live_guest.ts";
import { denoRun } from "./ours.ts";
import { IN_GUEST, script } from "./script.ts";
import { BenchError } from "./session.ts";

/** The last Debian with a 32-bit kernel. */
const SUITE = "bookworm";
const ARCHIVE =
  "deb [arch=i386 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " +
  `http://deb.debian.org/debian ${SUITE} main\n`;
const KERNEL_PACKAGE = "linux-image-686";
const BUSYBOX_PACKAGE = "busybox-static";
const BUSYBOX = "bin/busybox";
const FIRMWARE_PACKAGE = "seabios";
const BIOS = "usr/share/seabios/bios.bin";
const VGA_BIOS = "usr/share/seabios/vgabios-stdvga.bin";

/** What v86 boots. */
export interface V86Guest {
  /** Path of the kernel. */
  kernel: string;
  /** Path of the initial RAM disk. */
  initrd: string;
  /** The kernel's command line. */
  cmdline: string;
  /** Path of the BIOS. */
  bios: string;
  /** Path of the video BIOS. */
  vgaBios: string;
}

/** Lets apt use lists of its own, for another architecture; the host's stay as they are. */
async function withApt<T>(
  directory: string,
  use: () => Promise<T>,
): Promise<T> {
  const root = `${directory}/apt`;
  await Deno.mkdir(`${root}/lists/partial`, { recursive: true });
  await Deno.mkdir(`${root}/cache/archives/partial`, { recursive: true });
  await Deno.writeTextFile(`${root}/sources.list`, ARCHIVE);
  await Deno.writeTextFile(
    `${root}/apt.conf`,
    `Dir::State::Lists "${root}/lists";
Dir::State::status "/dev/null";
Dir::Cache "${root}/cache";
Dir::Etc::SourceList "${root}/sources.list";
Dir::Etc::SourceParts "-";
APT::Architecture "i386";
APT::Architectures { "i386"; };
APT::Sandbox::User "root";
`,
  );
  Deno.env.set("APT_CONFIG", `${root}/apt.conf`);
  try {
    return await use();
  } finally {
    Deno.env.delete("APT_CONFIG");
  }
}

async function update(): Promise<void> {
  const { success, stderr } = await new Deno.Command("apt-get", {
    args: ["update"],
    stdin: "null",
  }).output();
  if (success) return;
  throw new BenchError(
    `apt-get update for i386: ${new TextDecoder().decode(stderr).trim()}`,
  );
}

/**
 * Gets the guest and the firmware.
 *
 * @param directory A directory for files.
 * @returns What v86 is to boot.
 * @throws {BenchError} If they cannot be had.
 */
export async function prepareV86(directory: string): Promise<V86Guest> {
  const fetch = async (name: string, files: readonly string[]) => {
    const remote = await findPackage(name);
    const deb = await downloadPackage(name, remote, directory, () => {});
    const archive = `${directory}/${name}.tar`;
    await unpackPackage(deb, archive);
    await extractFiles(archive, files.map((file) => `./${file}`), directory);
  };
  try {
    return await withApt(directory, async () => {
      await update();
      const kernelPackage = await resolveKernelPackage(KERNEL_PACKAGE);
      const release = kernelPackage.replace(/^linux-image-/, "");
      const kernel = `boot/vmlinuz-${release}`;
      await fetch(kernelPackage, [kernel]);
      await fetch(BUSYBOX_PACKAGE, [BUSYBOX]);
      await fetch(FIRMWARE_PACKAGE, [BIOS, VGA_BIOS]);
      await Deno.writeFile(
        `${directory}/initrd-686`,
        await buildInitrd(`${directory}/${BUSYBOX}`, release),
      );
      return {
        kernel: `${directory}/${kernel}`,
        initrd: `${directory}/initrd-686`,
        cmdline: "console=ttyS0 quiet panic=-1",
        bios: `${directory}/${BIOS}`,
        vgaBios: `${directory}/${VGA_BIOS}`,
      };
    });
  } catch (error) {
    if (!(error instanceof GuestUnavailable)) throw error;
    throw new BenchError(`v86: ${error.message}`, { cause: error });
  }
}

/** The Debian guest's initial RAM disk with a 32-bit busybox, and without drivers: a serial port needs none. */
async function buildInitrd(
  busybox: string,
  release: string,
): Promise<Uint8Array> {
  const { stdout } = await new Deno.Command(busybox, {
    args: ["--list-full"],
    stdin: "null",
  }).output();
  const base = buildInitramfs({
    busybox: await Deno.readFile(busybox),
    applets: new TextDecoder().decode(stdout).trim().split("\n"),
    release,
    modules: [],
    init,
  });
  const command = script(IN_GUEST, ALIVE);
  const archive = execArchive(command, await execToken(command));
  const initrd = new Uint8Array(base.length + archive.length);
  initrd.set(base);
  initrd.set(archive, base.length);
  return initrd;
}

/**
 * Measures v86's `save_state` and `restore_state`, the state in a file as the others have it.
 *
 * @param directory A directory for files.
 * @param guest What to boot.
 * @param mib The guest's memory.
 * @returns What it took.
 * @throws {BenchError} If something fails.
 */
export async function measureV86Snapshot(
  directory: string,
  guest: V86Guest,
  mib: number,
): Promise<SnapshotTimes> {
  const file = `${directory}/v86-${mib}`;
  const run = (...args: string[]) =>
    denoRun("bench/v86_machine.ts", [JSON.stringify(guest), `${mib}`, ...args]);
  const title = `v86, ${mib} MiB`;
  let saved: { pause: number; save: number };
  {
    await using machine = new LiveGuest(title, run("save", file));
    await machine.alive();
    saved = JSON.parse(await machine.errors());
  }
  await using copy = new LiveGuest(
    `${title}, restored`,
    run("restore", file),
  );
  return {
    ...saved,
    restore: await copy.alive(),
    bytes: (await Deno.stat(file)).size,
  };
}
