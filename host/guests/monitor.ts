/**
 * `--guest monitor`: a small guest of this repository that lists the machine's memory, PCI
 * devices and interrupts, reads disk sectors, and asks for commands on the first uart.
 *
 * @module
 */

/** A guest that is ready to boot. */
export interface MonitorGuest {
  /** The kernel, an ELF file. */
  kernel: Uint8Array;
  /** Its command line: commands separated by semicolons, which are run first. */
  cmdline: string;
  /** How to name the guest. */
  label: string;
}

/**
 * Provides the monitor.
 *
 * @param protocol How it is to be entered: ELF64 with a PVH note, or ELF32 with a multiboot
 * header.
 * @returns The kernel.
 * @throws {Error} If the image is missing from the installation.
 * @example
 * ```ts
 * const { kernel } = await prepareMonitor();
 * ```
 */
export async function prepareMonitor(
  protocol: "pvh" | "multiboot" = "pvh",
): Promise<MonitorGuest> {
  const name = protocol === "pvh" ? "monitor.elf" : "monitor-multiboot.elf";
  // Works for a file and, where the program was itself imported from a URL, for that.
  const response = await fetch(new URL(`monitor/${name}`, import.meta.url));
  if (!response.ok) {
    throw new Error(
      `${response.url}: ${response.status} ${response.statusText}`,
    );
  }
  return {
    kernel: new Uint8Array(await response.arrayBuffer()),
    cmdline: "",
    label: "the monitor",
  };
}
