/**
 * Starting a guest: what kind of kernel a file is, where its parts go, the memory map and the
 * ACPI tables.
 *
 * @module
 */

import type { BootRequest, BootState, GuestRam } from "./types.ts";
import { BootError } from "./types.ts";
import { EBDA_BASE } from "./e820.ts";
import { isBzImage, loadBzImage } from "./bzimage.ts";
import { checkInitrd } from "./initrd.ts";
import { isElf, loadElf64, loadPvh, parseElf } from "./elf.ts";
import { findMultibootHeader, loadMultiboot } from "./multiboot.ts";

export * from "./types.ts";
export * from "./e820.ts";
export { loadBzImage } from "./bzimage.ts";
export { checkInitrd } from "./initrd.ts";
export { loadElf64, loadPvh, parseElf } from "./elf.ts";
export type { ElfFile, ElfSegment } from "./elf.ts";
export { loadMultiboot } from "./multiboot.ts";
export { loadFirmware } from "./firmware.ts";
export { declareAcpi } from "./acpi/declaration.ts";
export type { AcpiDeclaration, AcpiOptions } from "./acpi/declaration.ts";
export type { Window } from "./acpi/aml.ts";
export { buildAcpiTables, installAcpi } from "./acpi/tables.ts";
export type { PlacedTable } from "./acpi/tables.ts";
export {
  PIRQ_COUNT,
  PIRQ_GSI_BASE,
  pirqOf,
  PM_BASE,
  SLP_TYP_S5,
} from "./acpi/dsdt.ts";

/** The kinds of kernel. */
export type KernelKind = "bzimage" | "pvh" | "multiboot" | "elf64";

/**
 * Tells what kind of kernel a file is.
 *
 * @param bytes The file.
 * @param label How a message names it.
 * @returns The kind; undefined if it is none.
 * @throws {BootError} If it is an ELF file, but a damaged one.
 */
export function kernelKind(
  bytes: Uint8Array,
  label: string,
): KernelKind | undefined {
  if (isBzImage(bytes)) return "bzimage";
  if (isElf(bytes)) {
    const elf = parseElf({ bytes, label });
    if (elf.pvhEntry !== undefined) return "pvh";
    return findMultibootHeader(bytes) === undefined ? "elf64" : "multiboot";
  }
  return findMultibootHeader(bytes) === undefined ? undefined : "multiboot";
}

/**
 * Loads a kernel of any kind.
 *
 * @param request What to boot and where to put it.
 * @returns The vCPU state in which the guest starts.
 * @throws {BootError} With the file's label, what is wrong with it and what to do.
 * @example
 * ```ts
 * const ram = { size: 512 << 20, write: (pa: number, bytes: Uint8Array) => memory.set(bytes, pa) };
 * const rsdp = installAcpi(ram, declareAcpi({ cpus: 1 }));
 * const state = await loadKernel({
 *   ram,
 *   memoryMap: pcMemoryMap(ram.size),
 *   kernel: { bytes: vmlinuz, label: "vmlinuz" },
 *   cmdline: "console=ttyS0",
 *   rsdp,
 * });
 * ```
 */
export async function loadKernel(request: BootRequest): Promise<BootState> {
  const { ram, kernel, initrd } = request;
  const kind = kernelKind(kernel.bytes, kernel.label);
  if (kind === undefined) {
    throw new BootError(
      kernel.label,
      kernel.bytes.length === 0
        ? "not a kernel: the file is empty"
        : "not a kernel: expected a Linux bzImage, an ELF file (PVH, multiboot or " +
          "plain ELF64) or a multiboot image",
    );
  }
  if (kind === "bzimage" && (request.modules ?? []).length > 0) {
    throw new BootError(
      kernel.label,
      "a Linux bzImage takes one initrd and no modules",
    );
  }
  if (kind === "bzimage" && initrd !== undefined) await checkInitrd(initrd);
  writeBiosData(ram);
  switch (kind) {
    case "bzimage":
      return loadBzImage(request);
    case "pvh":
      return loadPvh(request);
    case "multiboot":
      return loadMultiboot(request);
    case "elf64":
      return loadElf64(request);
  }
}

/** What kernels read of the BIOS data area: where the extended area is, and memory below it. */
function writeBiosData(ram: GuestRam): void {
  const EBDA_SEGMENT = 0x40e;
  const BASE_MEMORY_KIB = 0x413;
  const word = (value: number) => Uint8Array.of(value & 0xff, value >> 8);
  ram.write(EBDA_SEGMENT, word(EBDA_BASE >> 4));
  ram.write(BASE_MEMORY_KIB, word(EBDA_BASE >> 10));
}
