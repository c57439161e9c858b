/**
 * ELF kernels: PVH, entered in 32-bit protected mode through the address in a Xen note
 * (Xen, docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h), and plain
 * ELF64, entered in long mode. The file format is that of the System V gABI, chapters 4 and 5.
 *
 * @module
 */

import type { BootFile, BootModule, BootRequest, BootState } from "./types.ts";
import { BootError, hex } from "./types.ts";
import { lowRamTop } from "./e820.ts";
import {
  BOOT_INFO_ADDRESS,
  BOOT_INFO_SIZE,
  CMDLINE_ADDRESS,
  CMDLINE_SIZE,
  longModeEntry,
  Placement,
  protectedModeEntry,
  writeCmdline,
} from "./entry.ts";

const ELF_MAGIC = [0x7f, 0x45, 0x4c, 0x46];
const EI_CLASS = 4;
const EI_DATA = 5;
const EI_NIDENT = 16;
const ELFCLASS32 = 1;
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const ET_EXEC = 2;
const ET_DYN = 3;
const EM_386 = 3;
const EM_X86_64 = 62;
const EHDR32_SIZE = 52;
const EHDR64_SIZE = 64;
const PT_LOAD = 1;
const PT_NOTE = 4;
const SHT_NOTE = 7;
/** The physical address of the PVH entry point. */
const XEN_ELFNOTE_PHYS32_ENTRY = 18;
const XEN_NOTE_NAME = "Xen\0";

/** A program header. */
export interface ElfSegment {
  /** PT_LOAD and the like. */
  type: number;
  /** Where the content is in the file. */
  offset: number;
  /** Bytes in the file. */
  fileSize: number;
  /** Bytes in memory; what the file does not fill is zero. */
  memorySize: number;
  /** Virtual address. */
  virtual: bigint;
  /** Physical address. */
  physical: number;
}

/** An ELF executable for x86. */
export interface ElfFile {
  /** 32 or 64 bits. */
  bits: 32 | 64;
  /** e_entry. */
  entry: bigint;
  /** The program headers. */
  segments: ElfSegment[];
  /** The XEN_ELFNOTE_PHYS32_ENTRY note's value. */
  pvhEntry?: number;
}

/**
 * Tells whether a file is an ELF file.
 * @param bytes The file.
 * @returns Whether it starts with the ELF signature.
 */
export function isElf(bytes: Uint8Array): boolean {
  return ELF_MAGIC.every((byte, i) => bytes[i] === byte);
}

/**
 * Reads the headers of an ELF executable.
 *
 * @param file The file.
 * @returns Its segments and entry points.
 * @throws {BootError} If it is no x86 executable or is cut short.
 */
export function parseElf(file: BootFile): ElfFile {
  const { bytes, label } = file;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (!isElf(bytes)) throw new BootError(label, "not an ELF file");
  const truncated = (what: string, end: number) =>
    new BootError(
      label,
      `kernel is truncated: ${what} ends at byte ${end}, the file has ${bytes.length}`,
    );
  const wide = bytes[EI_CLASS] === ELFCLASS64;
  const headerSize = wide ? EHDR64_SIZE : EHDR32_SIZE;
  if (bytes.length < headerSize) throw truncated("the ELF header", headerSize);
  const type = view.getUint16(EI_NIDENT, true);
  const machine = view.getUint16(EI_NIDENT + 2, true);
  if (
    (!wide && bytes[EI_CLASS] !== ELFCLASS32) ||
    bytes[EI_DATA] !== ELFDATA2LSB ||
    (machine !== EM_386 && machine !== EM_X86_64)
  ) {
    throw new BootError(
      label,
      `not an x86 kernel: ELF class ${bytes[EI_CLASS]}, machine ${machine}; ` +
        `expected machine ${EM_386} or ${EM_X86_64}, little-endian`,
    );
  }
  if (type !== ET_EXEC && type !== ET_DYN) {
    throw new BootError(
      label,
      `not a kernel: ELF type ${type} is not an executable (${ET_EXEC})`,
    );
  }
  const word = (at: number): bigint =>
    wide ? view.getBigUint64(at, true) : BigInt(view.getUint32(at, true));
  const size = (at: number): number => Number(word(at));
  const entry = word(0x18);
  const programAt = size(wide ? 0x20 : 0x1c);
  const sectionAt = size(wide ? 0x28 : 0x20);
  const counts = wide ? 0x36 : 0x2a;
  const programSize = view.getUint16(counts, true);
  const programCount = view.getUint16(counts + 2, true);
  const sectionSize = view.getUint16(counts + 4, true);
  const sectionCount = view.getUint16(counts + 6, true);
  const PHDR_SIZE = wide ? 56 : 32;
  const SHDR_SIZE = wide ? 64 : 40;
  if (programCount === 0 || programSize < PHDR_SIZE) {
    throw new BootError(label, "not a kernel: it has no program headers");
  }
  const programEnd = programAt + programCount * programSize;
  if (programEnd > bytes.length) {
    throw truncated("the program header table", programEnd);
  }

  const segments: ElfSegment[] = [];
  const notes: { offset: number; size: number }[] = [];
  for (let i = 0; i < programCount; i++) {
    const at = programAt + i * programSize;
    const segment: ElfSegment = {
      type: view.getUint32(at, true),
      offset: size(at + (wide ? 8 : 4)),
      virtual: word(at + (wide ? 16 : 8)),
      physical: size(at + (wide ? 24 : 12)),
      fileSize: size(at + (wide ? 32 : 16)),
      memorySize: size(at + (wide ? 40 : 20)),
    };
    segments.push(segment);
    if (segment.type !== PT_LOAD && segment.type !== PT_NOTE) continue;
    const end = segment.offset + segment.fileSize;
    if (end > bytes.length) throw truncated(`segment ${i}`, end);
    if (segment.type === PT_LOAD && segment.memorySize < segment.fileSize) {
      throw new BootError(
        label,
        `segment ${i} is damaged: ${segment.fileSize} bytes in the file, ` +
          `${segment.memorySize} in memory`,
      );
    }
    if (segment.type === PT_NOTE) {
      notes.push({ offset: segment.offset, size: segment.fileSize });
    }
  }
  const sectionEnd = sectionAt + sectionCount * sectionSize;
  if (
    notes.length === 0 && sectionSize >= SHDR_SIZE &&
    sectionEnd <= bytes.length
  ) {
    for (let i = 0; i < sectionCount; i++) {
      const at = sectionAt + i * sectionSize;
      if (view.getUint32(at + 4, true) !== SHT_NOTE) continue;
      const offset = size(at + (wide ? 24 : 16));
      const length = size(at + (wide ? 32 : 20));
      if (offset + length <= bytes.length) notes.push({ offset, size: length });
    }
  }
  const pvhEntry = findPvhEntry(view, notes);
  return {
    bits: wide ? 64 : 32,
    entry,
    segments,
    ...(pvhEntry === undefined ? {} : { pvhEntry }),
  };
}

/** Walks notes: name length, content length, type, then name and content padded to 4 bytes. */
function findPvhEntry(
  view: DataView,
  notes: readonly { offset: number; size: number }[],
): number | undefined {
  const NOTE_HEADER = 12;
  for (const { offset, size } of notes) {
    let at = offset;
    const end = offset + size;
    while (at + NOTE_HEADER <= end) {
      const nameSize = view.getUint32(at, true);
      const contentSize = view.getUint32(at + 4, true);
      const type = view.getUint32(at + 8, true);
      const nameAt = at + NOTE_HEADER;
      const contentAt = nameAt + align(nameSize, 4);
      at = contentAt + align(contentSize, 4);
      if (
        at > end || type !== XEN_ELFNOTE_PHYS32_ENTRY || contentSize < 4 ||
        nameSize !== XEN_NOTE_NAME.length
      ) continue;
      const name = String.fromCharCode(
        ...Array.from(
          { length: nameSize },
          (_, i) => view.getUint8(nameAt + i),
        ),
      );
      if (name === XEN_NOTE_NAME) return view.getUint32(contentAt, true);
    }
  }
  return undefined;
}

/**
 * Copies the loadable segments to their physical addresses.
 *
 * @param request Where and what.
 * @param elf The parsed kernel.
 * @param placement Where memory is taken.
 * @throws {BootError} If a segment lies outside RAM or over another part.
 */
export function loadSegments(
  request: BootRequest,
  elf: ElfFile,
  placement: Placement,
): void {
  const { bytes, label } = request.kernel;
  const loadable = elf.segments.filter((s) =>
    s.type === PT_LOAD && s.memorySize > 0
  );
  if (loadable.length === 0) {
    throw new BootError(label, "not a kernel: it has no loadable segments");
  }
  for (const segment of loadable) {
    const { physical, offset, fileSize, memorySize } = segment;
    placement.claim(label, "kernel segment", physical, memorySize);
    request.ram.write(physical, bytes.subarray(offset, offset + fileSize));
    if (memorySize > fileSize) {
      request.ram.write(
        physical + fileSize,
        new Uint8Array(memorySize - fileSize),
      );
    }
  }
}

/**
 * The physical address of the entry point: where e_entry, a virtual address, is loaded.
 * @param elf The parsed kernel.
 * @param label The kernel, for the message.
 * @returns The address.
 * @throws {BootError} If no segment contains it.
 */
export function physicalEntry(elf: ElfFile, label: string): number {
  for (const { type, virtual, memorySize, physical } of elf.segments) {
    const offset = elf.entry - virtual;
    if (type === PT_LOAD && offset >= 0n && offset < BigInt(memorySize)) {
      return physical + Number(offset);
    }
  }
  // Some linker scripts give the physical address itself.
  const entry = Number(elf.entry);
  const inside = elf.segments.some((s) =>
    s.type === PT_LOAD && entry >= s.physical &&
    entry < s.physical + s.memorySize
  );
  if (inside) return entry;
  throw new BootError(
    label,
    `entry point ${hex(elf.entry)} lies in no loadable segment`,
  );
}

/** A module in guest memory. */
export interface PlacedModule {
  /** First address. */
  address: number;
  /** Bytes. */
  size: number;
  /** Address of its zero-terminated string. */
  cmdline: number;
}

/**
 * Writes the kernel's command line, the modules and their strings.
 *
 * @param request Where and what; the initrd comes first.
 * @param placement Where memory is taken.
 * @returns Where the modules are. The kernel's command line is at `CMDLINE_ADDRESS`.
 */
export function loadModules(
  request: BootRequest,
  placement: Placement,
): PlacedModule[] {
  const { ram, kernel, initrd, cmdline } = request;
  const modules: BootModule[] = [
    ...(initrd === undefined ? [] : [initrd]),
    ...(request.modules ?? []),
  ];
  let textAt = writeCmdline(ram, kernel.label, cmdline, CMDLINE_SIZE);
  return modules.map((module) => {
    const size = module.bytes.length;
    const address = placement.claimHigh(module.label, "module", size, 2 ** 32);
    ram.write(address, module.bytes);
    const text = CMDLINE_ADDRESS + textAt;
    textAt += writeCmdline(
      ram,
      module.label,
      module.cmdline ?? "",
      CMDLINE_SIZE,
      textAt,
    );
    return { address, size, cmdline: text };
  });
}

const HVM_START_MAGIC = 0x336ec578;
const START_INFO_VERSION = 1;
const START_INFO_SIZE = 56;
const MODULE_ENTRY_SIZE = 32;
const MEMMAP_ENTRY_SIZE = 24;

/**
 * Loads a kernel with a PVH entry point.
 *
 * @param request What to boot and where to put it.
 * @param elf The parsed kernel.
 * @returns The state in which it is entered: 32-bit, EBX points to hvm_start_info.
 * @throws {BootError} If the kernel has no such entry, or something does not fit.
 */
export function loadPvh(
  request: BootRequest,
  elf: ElfFile = parseElf(request.kernel),
): BootState {
  const { ram, kernel, memoryMap } = request;
  if (elf.pvhEntry === undefined) {
    throw new BootError(
      kernel.label,
      "kernel has no PVH entry point: " +
        `no Xen ELF note of type ${XEN_ELFNOTE_PHYS32_ENTRY}`,
    );
  }
  const placement = new Placement(lowRamTop(ram.size));
  loadSegments(request, elf, placement);
  const modules = loadModules(request, placement);

  const modulesAt = START_INFO_SIZE;
  const mapAt = modulesAt + modules.length * MODULE_ENTRY_SIZE;
  const size = mapAt + memoryMap.length * MEMMAP_ENTRY_SIZE;
  if (size > BOOT_INFO_SIZE) {
    throw new BootError(kernel.label, `too many modules: ${modules.length}`);
  }
  const info = new DataView(new ArrayBuffer(size));
  const put = (at: number, value: number) =>
    info.setBigUint64(at, BigInt(value), true);
  info.setUint32(0, HVM_START_MAGIC, true);
  info.setUint32(4, START_INFO_VERSION, true);
  info.setUint32(12, modules.length, true);
  if (modules.length > 0) put(16, BOOT_INFO_ADDRESS + modulesAt);
  put(24, CMDLINE_ADDRESS);
  put(32, request.rsdp ?? 0);
  put(40, BOOT_INFO_ADDRESS + mapAt);
  info.setUint32(48, memoryMap.length, true);
  modules.forEach((module, i) => {
    const at = modulesAt + i * MODULE_ENTRY_SIZE;
    put(at, module.address);
    put(at + 8, module.size);
    put(at + 16, module.cmdline);
  });
  memoryMap.forEach((region, i) => {
    const at = mapAt + i * MEMMAP_ENTRY_SIZE;
    put(at, region.base);
    put(at + 8, region.length);
    info.setUint32(at + 16, region.type, true);
  });
  ram.write(BOOT_INFO_ADDRESS, new Uint8Array(info.buffer));
  return protectedModeEntry(ram, elf.pvhEntry, {
    rbx: BigInt(BOOT_INFO_ADDRESS),
  });
}

/**
 * Loads an ELF64 kernel that has no boot protocol: it is entered in long mode, the first 4 GiB
 * mapped to themselves, with the command line's address in RDI and the RSDP's in RSI.
 *
 * @param request What to boot and where to put it.
 * @param elf The parsed kernel.
 * @returns The state in which it is entered.
 * @throws {BootError} If it is no ELF64 file, or something does not fit.
 */
export function loadElf64(
  request: BootRequest,
  elf: ElfFile = parseElf(request.kernel),
): BootState {
  const { ram, kernel } = request;
  if (elf.bits !== 64) {
    throw new BootError(
      kernel.label,
      "32-bit ELF kernel has neither a PVH note nor a multiboot header: " +
        "there is no way to enter it",
    );
  }
  if (request.initrd !== undefined || (request.modules ?? []).length > 0) {
    throw new BootError(
      kernel.label,
      "plain ELF64 kernel takes no initrd or modules: " +
        "that needs a bzImage, PVH or multiboot kernel",
    );
  }
  const placement = new Placement(lowRamTop(ram.size));
  loadSegments(request, elf, placement);
  writeCmdline(ram, kernel.label, request.cmdline, CMDLINE_SIZE);
  return longModeEntry(ram, physicalEntry(elf, kernel.label), {
    rdi: BigInt(CMDLINE_ADDRESS),
    rsi: BigInt(request.rsdp ?? 0),
  });
}

function align(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}
