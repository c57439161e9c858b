/**
 * Makes the Debian guest's initramfs: busybox, the drivers that may be needed, and `/init`.
 *
 * @module
 */

import { type CpioEntry, encodeCpio } from "./cpio.ts";
import { type KernelModule, modulesAlias, modulesDep } from "./kmod.ts";

/** The drivers that the guest brings along where its kernel has them as modules. */
export const GUEST_MODULES: readonly string[] = [
  "virtio_pci",
  "virtio_blk",
  "virtio_net",
  "virtio_console",
  "virtio_rng",
  "virtio_balloon",
  "virtio_scsi",
  "ahci",
  "sd_mod",
  "sr_mod",
  "e1000",
  "xhci_pci",
  "usbhid",
  "hid_generic",
  "i8042",
  "atkbd",
  "psmouse",
  "evdev",
  "usb_storage",
  "ext4",
  "crc32c_generic",
  "isofs",
  "vfat",
  "nls_ascii",
  "nls_cp437",
  "af_packet",
];

/** What the initramfs is made from. */
export interface InitramfsParts {
  /** The static busybox. */
  busybox: Uint8Array;
  /** Absolute paths of busybox's applets, as `busybox --list-full` prints them, without the `/`. */
  applets: readonly string[];
  /** The kernel's release, as `uname -r` prints it. */
  release: string;
  /** Drivers with all that they need. */
  modules: readonly KernelModule[];
  /** `/init`. */
  init: string;
}

const BUSYBOX = "bin/busybox";
const PROFILE = "PS1='\\w \\$ '\n";

/**
 * Makes the archive. It is not compressed: a guest copies it faster than it inflates it.
 *
 * @param parts What goes in.
 * @returns A cpio archive; equal parts give equal bytes.
 */
export function buildInitramfs(parts: InitramfsParts): Uint8Array {
  const { busybox, applets, release, modules, init } = parts;
  const encoder = new TextEncoder();
  const moduleRoot = `lib/modules/${release}`;
  const files: CpioEntry[] = [
    { path: "init", type: "file", mode: 0o755, content: encoder.encode(init) },
    { path: BUSYBOX, type: "file", mode: 0o755, content: busybox },
    {
      path: "etc/profile",
      type: "file",
      content: encoder.encode(PROFILE),
    },
    {
      path: "etc/passwd",
      type: "file",
      content: encoder.encode("root::0:0:root:/root:/bin/sh\n"),
    },
    {
      path: "etc/group",
      type: "file",
      content: encoder.encode("root:x:0:\n"),
    },
    { path: "dev/console", type: "character", major: 5, minor: 1 },
    { path: "dev/null", type: "character", major: 1, minor: 3, mode: 0o666 },
    ...applets.filter((applet) => applet.includes("/") && applet !== BUSYBOX)
      .map((applet): CpioEntry => ({
        path: applet,
        type: "link",
        target: `/${BUSYBOX}`,
      })),
    ...modules.map((module): CpioEntry => ({
      path: `${moduleRoot}/${module.path}`,
      type: "file",
      content: module.content,
    })),
    {
      path: `${moduleRoot}/modules.dep`,
      type: "file",
      content: encoder.encode(modulesDep(modules)),
    },
    {
      path: `${moduleRoot}/modules.alias`,
      type: "file",
      content: encoder.encode(modulesAlias(modules)),
    },
  ];
  const directories = new Set(["proc", "sys", "dev", "tmp", "root", "mnt"]);
  for (const { path } of files) {
    for (let at = path.indexOf("/"); at >= 0; at = path.indexOf("/", at + 1)) {
      directories.add(path.slice(0, at));
    }
  }
  return encodeCpio([
    ...[...directories].sort().map((path): CpioEntry => ({
      path,
      type: "directory",
    })),
    ...files,
  ]);
}
