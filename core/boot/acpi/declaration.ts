/**
 * What the ACPI tables are made from: a plain description of the machine.
 *
 * @module
 */

import { ECAM_BASE, PCI_HOLE_BASE, PCI_HOLE_LENGTH } from "../e820.ts";
import type { Window } from "./aml.ts";

/** What the machine consists of, as far as ACPI says it. */
export interface AcpiDeclaration {
  /** The APIC identifier of each processor; the first is the one that boots. */
  apicIds: readonly number[];
  /** The I/O APIC's identifier. */
  ioapicId: number;
  /** 16550 UARTs. */
  uarts: readonly { port: number; irq: number }[];
  /** Whether there is an i8042. */
  ps2: boolean;
  /** Whether there is an HPET. */
  hpet: boolean;
  /** Whether there is a VGA adapter. */
  vga: boolean;
  /** PCI Express configuration space: where, and for how many buses. */
  ecam: { base: number; buses: number };
  /** Memory below 4 GiB from which BARs are given. */
  pciHole: Window;
  /** Memory above 4 GiB from which BARs are given. */
  pciHole64?: Window;
}

/** What {@linkcode declareAcpi} fills in. */
export type AcpiOptions =
  & Partial<Omit<AcpiDeclaration, "apicIds">>
  & {
    /** The number of processors, or the APIC identifier of each. */
    cpus: number | readonly number[];
  };

const ALL_BUSES = 256;

/**
 * Completes a description with what this machine usually has.
 *
 * @param options What differs; only `cpus` must be given.
 * @returns The whole description.
 * @example
 * ```ts
 * const acpi = declareAcpi({ cpus: 1, uarts: [{ port: 0x3f8, irq: 4 }] });
 * ```
 */
export function declareAcpi(options: AcpiOptions): AcpiDeclaration {
  const { cpus, ...rest } = options;
  return {
    apicIds: typeof cpus === "number"
      ? Array.from({ length: cpus }, (_, i) => i)
      : cpus,
    ioapicId: 0,
    uarts: [],
    ps2: false,
    hpet: true,
    vga: false,
    ecam: { base: ECAM_BASE, buses: ALL_BUSES },
    pciHole: { base: PCI_HOLE_BASE, length: PCI_HOLE_LENGTH },
    ...rest,
  };
}
