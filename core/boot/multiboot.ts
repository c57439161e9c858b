/**
 * Multiboot kernels (Multiboot Specification 0.6.96): ELF32, or any file with the header's
 * address fields, entered in 32-bit protected mode.
 *
 * @module
 */

import type { BootRequest, BootState } from "./types.ts";
import { BootError, hex } from "./types.ts";
import { EBDA_BASE, HIGH_MEMORY_BASE, lowRamTop } from "./e820.ts";
import {
  BOOT_INFO_ADDRESS,
  BOOT_INFO_SIZE,
  CMDLINE_ADDRESS,
  Placement,
  protectedModeEntry,
} from "./entry.ts";
import {
  isElf,
  loadModules,
  loadSegments,
  parseElf,
  physicalEntry,
} from "./elf.ts";

const HEADER_MAGIC = 0x1badb002;
/** What EAX holds when the kernel is entered. */
const BOOTLOADER_MAGIC = 0x2badb002;
/** The header lies in the first 8192 bytes. */
const SEARCH = 8192;
const HEADER_SIZE = 12;
const HEADER_WITH_ADDRESSES = 32;
// Header flags, section 3.1.2. Bits 0 to 15 are requirements.
const ALIGN_MODULES = 1 << 0;
const MEMORY_INFO = 1 << 1;
const ADDRESS_FIELDS = 1 << 16;
const REQUIRED = 0xffff;
// Information flags, section 3.3.
const INFO_MEMORY = 1 << 0;
const INFO_CMDLINE = 1 << 2;
const INFO_MODS = 1 << 3;
const INFO_MMAP = 1 << 6;
const INFO_LOADER_NAME = 1 << 9;
const INFO_SIZE = 88;
const MODULE_SIZE = 16;
const MMAP_SIZE = 24;
const LOADER_NAME = "Diapause\0";
const KIB = 1024;

interface Header {
  offset: number;
  flags: number;
}

/**
 * Finds the multiboot header.
 * @param bytes The file.
 * @returns Its place and flags, or undefined if there is none.
 */
export function findMultibootHeader(bytes: Uint8Array): Header | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = Math.min(bytes.length, SEARCH) - HEADER_SIZE;
  for (let offset = 0; offset <= end; offset += 4) {
    if (view.getUint32(offset, true) !== HEADER_MAGIC) continue;
    const flags = view.getUint32(offset + 4, true);
    const sum = HEADER_MAGIC + flags + view.getUint32(offset + 8, true);
    if (sum % 2 ** 32 === 0) return { offset, flags };
  }
  return undefined;
}

/** Loads the kernel by the header's address fields (section 3.1.3); returns its entry point. */
function loadByAddresses(
  request: BootRequest,
  header: Header,
  placement: Placement,
): number {
  const { bytes, label } = request.kernel;
  if (header.offset + HEADER_WITH_ADDRESSES > bytes.length) {
    throw new BootError(label, "kernel is truncated in its multiboot header");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const field = (i: number) => view.getUint32(header.offset + i, true);
  const headerAddress = field(12);
  const load = field(16);
  const loadEnd = field(20);
  const bssEnd = field(24);
  const entry = field(28);
  const fileStart = header.offset - (headerAddress - load);
  const size = loadEnd === 0 ? bytes.length - fileStart : loadEnd - load;
  if (fileStart < 0 || size < 0) {
    throw new BootError(
      label,
      `multiboot header's addresses contradict each other: ` +
        `load ${hex(load)}..${hex(loadEnd)}, header ${hex(headerAddress)}`,
    );
  }
  if (fileStart + size > bytes.length) {
    throw new BootError(
      label,
      `kernel is truncated: its content ends at byte ${fileStart + size}, ` +
        `the file has ${bytes.length}`,
    );
  }
  const bss = Math.max(0, bssEnd - (load + size));
  placement.claim(label, "kernel", load, size + bss);
  request.ram.write(load, bytes.subarray(fileStart, fileStart + size));
  if (bss > 0) request.ram.write(load + size, new Uint8Array(bss));
  return entry;
}

/**
 * Loads a multiboot kernel.
 *
 * @param request What to boot and where to put it; the initrd is the first module.
 * @returns The state in which it is entered: EBX points to the multiboot information.
 * @throws {BootError} If it has no header, asks for what is not there, or does not fit.
 */
export function loadMultiboot(request: BootRequest): BootState {
  const { ram, kernel, memoryMap } = request;
  const { bytes, label } = kernel;
  const header = findMultibootHeader(bytes);
  if (header === undefined) {
    throw new BootError(
      label,
      `not a multiboot kernel: no header in the first ${SEARCH} bytes`,
    );
  }
  const unknown = header.flags & REQUIRED & ~(ALIGN_MODULES | MEMORY_INFO);
  if (unknown !== 0) {
    throw new BootError(
      label,
      `multiboot header requires features ${
        hex(unknown)
      } that this loader does not have`,
    );
  }
  const placement = new Placement(lowRamTop(ram.size));
  let entry: number;
  if ((header.flags & ADDRESS_FIELDS) !== 0) {
    entry = loadByAddresses(request, header, placement);
  } else if (isElf(bytes)) {
    const elf = parseElf(kernel);
    if (elf.bits !== 32) {
      throw new BootError(
        label,
        "64-bit ELF kernel has a multiboot header without address fields: " +
          "expected ELF32, or flag 16 set",
      );
    }
    loadSegments(request, elf, placement);
    entry = physicalEntry(elf, label);
  } else {
    throw new BootError(
      label,
      "multiboot kernel is no ELF file and its header has no address fields",
    );
  }
  const modules = loadModules(request, placement);

  const modulesAt = INFO_SIZE;
  const mapAt = modulesAt + modules.length * MODULE_SIZE;
  const nameAt = mapAt + memoryMap.length * MMAP_SIZE;
  const size = nameAt + LOADER_NAME.length;
  if (size > BOOT_INFO_SIZE) {
    throw new BootError(label, `too many modules: ${modules.length}`);
  }
  const info = new DataView(new ArrayBuffer(size));
  const put = (at: number, ...values: number[]) =>
    values.forEach((value, i) => info.setUint32(at + 4 * i, value, true));
  put(
    0,
    INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER_NAME,
    EBDA_BASE / KIB, // mem_lower
    (lowRamTop(ram.size) - HIGH_MEMORY_BASE) / KIB, // mem_upper
  );
  put(16, CMDLINE_ADDRESS, modules.length, BOOT_INFO_ADDRESS + modulesAt);
  put(44, memoryMap.length * MMAP_SIZE, BOOT_INFO_ADDRESS + mapAt);
  put(64, BOOT_INFO_ADDRESS + nameAt);
  modules.forEach((module, i) => {
    const { address, cmdline } = module;
    put(modulesAt + i * MODULE_SIZE, address, address + module.size, cmdline);
  });
  memoryMap.forEach((region, i) => {
    const at = mapAt + i * MMAP_SIZE;
    put(at, MMAP_SIZE - 4); // the size field does not count itself
    info.setBigUint64(at + 4, BigInt(region.base), true);
    info.setBigUint64(at + 12, BigInt(region.length), true);
    put(at + 20, region.type);
  });
  const out = new Uint8Array(info.buffer);
  out.set(new TextEncoder().encode(LOADER_NAME), nameAt);
  ram.write(BOOT_INFO_ADDRESS, out);
  return protectedModeEntry(ram, entry, {
    rax: BigInt(BOOTLOADER_MAGIC),
    rbx: BigInt(BOOT_INFO_ADDRESS),
  });
}
