/**
 * `--guest debian`: Debian's kernel and busybox, fetched once through the host's package tools
 * and kept in the user's cache directory.
 *
 * @module
 */

import {
  downloadPackage,
  extractFiles,
  findPackage,
  type OnProgress,
  resolveKernelPackage,
  unpackPackage,
} from "./apt.ts";
import {
  cacheDirectory,
  GuestUnavailable,
  readSummed,
  sha256,
  writeSummed,
} from "./cache.ts";
import { execArchive, execToken } from "./exec.ts";
import { buildInitramfs, GUEST_MODULES } from "./initramfs.ts";
import { type KernelModule, moduleName, parseModule } from "./kmod.ts";
import init from "./init.sh" with { type: "text" };

export type { GuestProgress, OnProgress } from "./apt.ts";
export { GuestUnavailable } from "./cache.ts";
export { ExecOutputFilter, execToken } from "./exec.ts";

/** The kernel that is used where none is named. */
export const DEFAULT_KERNEL_PACKAGE = "linux-image-cloud-amd64";
const BUSYBOX_PACKAGE = "busybox-static";
/** To be raised when `buildInitramfs` makes something else from the same parts. */
const RECIPE = "1";

/** What {@linkcode prepareDebian} is asked for. */
export interface DebianOptions {
  /** A shell command to run instead of an interactive shell. */
  exec?: string;
  /** The package that contains the kernel, or a meta package that depends on it. */
  kernelPackage?: string;
  /** Is told how far the download has come. */
  onProgress?: OnProgress;
}

/** A guest that is ready to boot. */
export interface DebianGuest {
  /** The kernel, a bzImage. */
  kernel: Uint8Array;
  /** The initial RAM disk. */
  initrd: Uint8Array;
  /** The kernel's command line. */
  cmdline: string;
  /** How to name the guest. */
  label: string;
  /** With `exec`: what {@linkcode ExecOutputFilter} needs. */
  execToken?: string;
}

const KERNEL = "vmlinuz";
const INITRD = "initrd.cpio";
const LABEL = "label";
const CACHED = [KERNEL, INITRD, LABEL];

/**
 * Provides the Debian guest, from the cache or else from Debian's archive.
 *
 * @param options What to boot and what to run in it.
 * @returns Kernel, initial RAM disk and command line.
 * @throws {GuestUnavailable} If the guest is not in the cache and cannot be fetched.
 * @example
 * ```ts
 * const { kernel, initrd, cmdline } = await prepareDebian({ exec: "uname -r" });
 * ```
 */
export async function prepareDebian(
  options: DebianOptions = {},
): Promise<DebianGuest> {
  const { exec, kernelPackage = DEFAULT_KERNEL_PACKAGE, onProgress } = options;
  if (!/^[a-z0-9][a-z0-9+.-]+$/.test(kernelPackage)) {
    throw new GuestUnavailable(
      `"${kernelPackage}" is not the name of a Debian package`,
    );
  }
  // What is made from the packages changes with what makes it.
  const recipe = [RECIPE, init, ...GUEST_MODULES].join("\n");
  const version = (await sha256(new TextEncoder().encode(recipe))).slice(0, 12);
  const root = `${cacheDirectory()}/debian`;
  const directory = `${root}/${kernelPackage}-${version}`;
  let files = await readSummed(directory, CACHED);
  if (files === undefined) {
    await build(root, directory, kernelPackage, onProgress ?? (() => {}));
    files = await readSummed(directory, CACHED);
  }
  if (files === undefined) {
    throw new GuestUnavailable(
      `${directory}: the guest was altered while it was written; try again`,
    );
  }
  const [kernel, base, label] = files;
  const guest: DebianGuest = {
    kernel,
    initrd: base,
    cmdline: "console=ttyS0",
    label: new TextDecoder().decode(label),
  };
  if (exec === undefined) return guest;
  const token = await execToken(exec);
  const archive = execArchive(exec, token);
  const initrd = new Uint8Array(base.length + archive.length);
  initrd.set(base);
  initrd.set(archive, base.length);
  // A panic resets the machine, which ends the run: nobody could do anything else about it.
  const cmdline = `${guest.cmdline} quiet panic=-1`;
  return { ...guest, initrd, cmdline, execToken: token };
}

/** Fetches the packages and makes the cached files, in a draft that then takes their place. */
async function build(
  root: string,
  directory: string,
  kernelPackage: string,
  onProgress: OnProgress,
): Promise<void> {
  await Deno.mkdir(root, { recursive: true });
  const draft = await Deno.makeTempDir({ dir: root, prefix: ".new-" });
  try {
    const packages = `${draft}/packages`;
    const unpacked = `${draft}/unpacked`;
    await Deno.mkdir(packages);
    await Deno.mkdir(unpacked);
    const fetch = async (name: string) => {
      const remote = await findPackage(name);
      const deb = await downloadPackage(name, remote, packages, onProgress);
      const archive = `${packages}/${name}.tar`;
      await unpackPackage(deb, archive);
      return archive;
    };
    const versioned = await resolveKernelPackage(kernelPackage);
    const release = versioned.replace(/^linux-image-/, "")
      .replace(/-unsigned$/, "");
    const busyboxFiles = await fetch(BUSYBOX_PACKAGE);
    const kernelFiles = await fetch(versioned);

    await extractFiles(
      busyboxFiles,
      ["./bin/busybox", "./usr/bin/busybox"],
      unpacked,
    );
    const busyboxPath = await firstExisting(
      [`${unpacked}/bin/busybox`, `${unpacked}/usr/bin/busybox`],
      BUSYBOX_PACKAGE,
    );
    await extractFiles(kernelFiles, [`./boot/vmlinuz-${release}`], unpacked);
    const kernelPath = await firstExisting(
      [`${unpacked}/boot/vmlinuz-${release}`],
      versioned,
    );
    const modules = await collectModules(kernelFiles, release, unpacked);
    const kernel = await Deno.readFile(kernelPath);
    const initrd = buildInitramfs({
      busybox: await Deno.readFile(busyboxPath),
      applets: await listApplets(busyboxPath),
      release,
      modules,
      init,
    });
    const finished = `${draft}/finished`;
    await Deno.mkdir(finished);
    await writeSummed(finished, {
      [KERNEL]: kernel,
      [INITRD]: initrd,
      [LABEL]: new TextEncoder().encode(`Debian ${release}`),
    });
    await replaceDirectory(finished, directory);
  } finally {
    await Deno.remove(draft, { recursive: true });
  }
}

/** Another process may be making the same guest: whoever comes last wins, and both are right. */
async function replaceDirectory(from: string, to: string): Promise<void> {
  try {
    await Deno.remove(to, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  try {
    await Deno.rename(from, to);
  } catch (error) {
    const other = await readSummed(to, CACHED);
    if (other === undefined) throw error;
  }
}

async function firstExisting(
  paths: readonly string[],
  packageName: string,
): Promise<string> {
  for (const path of paths) {
    try {
      await Deno.stat(path);
      return path;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  throw new GuestUnavailable(
    `package ${packageName} does not contain ${paths[0].split("/unpacked")[1]}`,
  );
}

async function listApplets(busybox: string): Promise<string[]> {
  try {
    const { stdout, success } = await new Deno.Command(busybox, {
      args: ["--list-full"],
      stdin: "null",
    }).output();
    if (success) {
      return new TextDecoder().decode(stdout).trim().split("\n").sort();
    }
  } catch (error) {
    // An Exec format error: the packages are for another processor.
    if (!(error instanceof Error)) throw error;
  }
  throw new GuestUnavailable(
    "the Debian guest needs a host with amd64 packages: this host cannot run them",
  );
}

/** Takes the guest's modules out of the kernel's package, and then what they need. */
async function collectModules(
  archive: string,
  release: string,
  unpacked: string,
): Promise<KernelModule[]> {
  // Packages for a merged /usr have the modules there.
  const roots = ["lib/modules", "usr/lib/modules"];
  const patternsOf = (names: readonly string[]) =>
    roots.flatMap((root) =>
      names.map((name) =>
        `./${root}/${release}/*/${name.replaceAll("_", "[-_]")}.ko*`
      )
    );
  const modules = new Map<string, KernelModule>();
  const asked = new Set<string>();
  let wanted: string[] = [...GUEST_MODULES];
  while (wanted.length > 0) {
    wanted.forEach((name) => asked.add(name));
    await extractFiles(archive, patternsOf(wanted), unpacked);
    for (const root of roots) {
      const base = `${unpacked}/${root}/${release}`;
      for await (const path of walk(base)) {
        if (!/\.ko(\.\w+)?$/.test(path)) continue;
        const name = moduleName(path);
        if (modules.has(name)) continue;
        const content = await readModule(path);
        const inner = path.slice(base.length + 1).replace(/\.(xz|gz|zst)$/, "");
        modules.set(name, parseModule(inner, content));
      }
    }
    wanted = [...modules.values()].flatMap((module) => module.depends)
      .filter((name) => !asked.has(name));
  }
  return [...modules.values()].sort((a, b) => a.path < b.path ? -1 : 1);
}

async function* walk(directory: string): AsyncGenerator<string> {
  try {
    for await (const entry of Deno.readDir(directory)) {
      const path = `${directory}/${entry.name}`;
      if (entry.isDirectory) yield* walk(path);
      else yield path;
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Reads a module, decompressed: the guest's modprobe does not do that. */
async function readModule(path: string): Promise<Uint8Array> {
  const tools: Record<string, string> = { xz: "xz", gz: "gzip", zst: "zstd" };
  const tool = tools[path.slice(path.lastIndexOf(".") + 1)];
  if (tool === undefined) return await Deno.readFile(path);
  try {
    const { stdout, success } = await new Deno.Command(tool, {
      args: ["-dc", path],
      stdin: "null",
    }).output();
    if (success) return stdout;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  throw new GuestUnavailable(`${path}: cannot be decompressed with ${tool}`);
}
