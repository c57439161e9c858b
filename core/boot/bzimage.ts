/**
 * Linux's bzImage, entered by the 64-bit boot protocol
 * (Linux, Documentation/arch/x86/boot.rst and zero-page.rst).
 *
 * The names of the fields are those of `struct setup_header` and `struct boot_params`.
 *
 * @module
 */

import type { BootRequest, BootState } from "./types.ts";
import { BootError, formatSize, hex } from "./types.ts";
import { encodeE820, lowRamTop } from "./e820.ts";
import { writeScreenInfo } from "./screen_info.ts";
import {
  BOOT_INFO_ADDRESS,
  CMDLINE_ADDRESS,
  longModeEntry,
  Placement,
  writeCmdline,
} from "./entry.ts";

// Offsets in the image's first sector and in boot_params alike.
const SETUP_SECTS = 0x1f1;
const SYSSIZE = 0x1f4;
const VID_MODE = 0x1fa;
const BOOT_FLAG = 0x1fe;
const JUMP_LENGTH = 0x201;
const HEADER = 0x202;
const VERSION = 0x206;
const TYPE_OF_LOADER = 0x210;
const LOADFLAGS = 0x211;
const RAMDISK_IMAGE = 0x218;
const RAMDISK_SIZE = 0x21c;
const CMD_LINE_PTR = 0x228;
const INITRD_ADDR_MAX = 0x22c;
const KERNEL_ALIGNMENT = 0x230;
const RELOCATABLE_KERNEL = 0x234;
const XLOADFLAGS = 0x236;
const CMDLINE_SIZE = 0x238;
const PREF_ADDRESS = 0x258;
const INIT_SIZE = 0x260;
// Offsets in boot_params only.
const ACPI_RSDP_ADDR = 0x070;
const E820_ENTRIES = 0x1e8;
const E820_TABLE = 0x2d0;
const BOOT_PARAMS_SIZE = 0x1000;
const E820_MAX_ENTRIES = 128;

const BOOT_FLAG_MAGIC = 0xaa55;
const HEADER_MAGIC = 0x53726448; // "HdrS"
/** The protocol that has xloadflags, and with them the 64-bit entry point: Linux 3.8. */
const PROTOCOL_2_12 = 0x020c;
/** The loader has no assigned number. */
const LOADER_UNDEFINED = 0xff;
/** VGA mode "normal". */
const VID_MODE_NORMAL = 0xffff;
/** loadflags: the protected-mode code is loaded at 0x100000 or above. */
const LOADED_HIGH = 1 << 0;
/** xloadflags: the kernel has the 64-bit entry point at 0x200. */
const XLF_KERNEL_64 = 1 << 0;
const ENTRY_64_OFFSET = 0x200;
const SECTOR = 512;
/** What setup_sects means when it is zero. */
const DEFAULT_SETUP_SECTS = 4;
/** The unit of syssize. */
const PARAGRAPH = 16;
const LOWEST_LOAD_ADDRESS = 0x100000;

/**
 * Tells whether a file is a Linux bzImage.
 * @param bytes The file.
 * @returns Whether it has the boot sector's and the setup header's signatures.
 */
export function isBzImage(bytes: Uint8Array): boolean {
  if (bytes.length < HEADER + 4) return false;
  const view = viewOf(bytes);
  return view.getUint16(BOOT_FLAG, true) === BOOT_FLAG_MAGIC &&
    view.getUint32(HEADER, true) === HEADER_MAGIC;
}

/**
 * Loads a Linux kernel, its initial RAM disk and its command line, and writes the zero page.
 *
 * @param request What to boot and where to put it.
 * @returns The state in which the kernel's 64-bit entry point is called.
 * @throws {BootError} If the kernel is none, is cut short, is too old, or does not fit.
 */
export function loadBzImage(request: BootRequest): BootState {
  const { ram, kernel, initrd, memoryMap } = request;
  const { bytes, label } = kernel;
  if (!isBzImage(bytes)) {
    throw new BootError(
      label,
      "not a Linux kernel: the boot sector signature 0xaa55 and " +
        '"HdrS" at 0x202 are missing',
    );
  }
  const view = viewOf(bytes);
  const version = view.getUint16(VERSION, true);
  if (version < PROTOCOL_2_12) {
    throw new BootError(
      label,
      `boot protocol ${version >> 8}.${version & 0xff} is too old: ` +
        "expected 2.12 or later (Linux 3.8), which has a 64-bit entry point",
    );
  }
  const setupSize = SECTOR *
    (1 + (bytes[SETUP_SECTS] || DEFAULT_SETUP_SECTS));
  const codeSize = bytes.length < INIT_SIZE + 4
    ? 0
    : view.getUint32(SYSSIZE, true) * PARAGRAPH;
  if (codeSize === 0 || bytes.length < setupSize + codeSize) {
    throw new BootError(
      label,
      `kernel is truncated: its header names ${setupSize + codeSize} bytes, ` +
        `the file has ${bytes.length}`,
    );
  }
  if ((view.getUint16(XLOADFLAGS, true) & XLF_KERNEL_64) === 0) {
    throw new BootError(
      label,
      "kernel has no 64-bit entry point (XLF_KERNEL_64 is clear): " +
        "expected a 64-bit x86 kernel",
    );
  }
  if (memoryMap.length > E820_MAX_ENTRIES) {
    throw new BootError(
      label,
      `memory map has ${memoryMap.length} entries: the kernel takes ${E820_MAX_ENTRIES}`,
    );
  }

  const lowTop = lowRamTop(ram.size);
  const placement = new Placement(lowTop);
  const initSize = Math.max(view.getUint32(INIT_SIZE, true), codeSize);
  const load = chooseLoadAddress(view, label, initSize, lowTop);
  placement.claim(label, "kernel", load, initSize);
  ram.write(load, bytes.subarray(setupSize));

  const params = new Uint8Array(BOOT_PARAMS_SIZE);
  const zero = viewOf(params);
  params.set(
    bytes.subarray(SETUP_SECTS, HEADER + bytes[JUMP_LENGTH]),
    SETUP_SECTS,
  );
  params[TYPE_OF_LOADER] = LOADER_UNDEFINED;
  params[LOADFLAGS] |= LOADED_HIGH;
  zero.setUint16(VID_MODE, VID_MODE_NORMAL, true);
  if (request.rsdp !== undefined) {
    zero.setBigUint64(ACPI_RSDP_ADDR, BigInt(request.rsdp), true);
  }
  if (request.screen !== undefined) writeScreenInfo(zero, request.screen);
  params[E820_ENTRIES] = memoryMap.length;
  params.set(encodeE820(memoryMap), E820_TABLE);

  if (initrd !== undefined && initrd.bytes.length > 0) {
    const ceiling = view.getUint32(INITRD_ADDR_MAX, true) + 1;
    const size = initrd.bytes.length;
    const at = placement.claimHigh(initrd.label, "initrd", size, ceiling);
    ram.write(at, initrd.bytes);
    zero.setUint32(RAMDISK_IMAGE, at, true);
    zero.setUint32(RAMDISK_SIZE, size, true);
  } else if (initrd !== undefined) {
    throw new BootError(initrd.label, "initrd is empty");
  }

  writeCmdline(ram, label, request.cmdline, view.getUint32(CMDLINE_SIZE, true));
  zero.setUint32(CMD_LINE_PTR, CMDLINE_ADDRESS, true);
  ram.write(BOOT_INFO_ADDRESS, params);
  return longModeEntry(ram, load + ENTRY_64_OFFSET, {
    rsi: BigInt(BOOT_INFO_ADDRESS),
  });
}

/**
 * Where the protected-mode code goes: where it prefers to be, or, if it can be moved, the
 * lowest aligned address from which it fits.
 */
function chooseLoadAddress(
  view: DataView,
  label: string,
  initSize: number,
  lowTop: number,
): number {
  const preferred = Number(view.getBigUint64(PREF_ADDRESS, true));
  if (preferred + initSize <= lowTop) return preferred;
  if (view.getUint8(RELOCATABLE_KERNEL) !== 0) {
    const alignment = view.getUint32(KERNEL_ALIGNMENT, true) || 1;
    const lowest = Math.ceil(LOWEST_LOAD_ADDRESS / alignment) * alignment;
    if (lowest + initSize <= lowTop) return lowest;
  }
  throw new BootError(
    label,
    `guest memory is too small: the kernel needs ${
      formatSize(initSize)
    } from ` +
      `${hex(preferred)}, guest RAM below 4 GiB ends at ${hex(lowTop)}; ` +
      "give the guest more memory (--mem)",
  );
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
