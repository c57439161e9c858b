/**
 * What the loaders of `core/boot` take and give back: guest memory, the memory map, and the
 * vCPU state in which the guest is entered.
 *
 * @module
 */

/** The part of guest memory that a loader needs. */
export interface GuestRam {
  /** Bytes of RAM in all, the part above 4 GiB included. */
  readonly size: number;
  /**
   * Copies bytes to guest-physical memory.
   * @param pa The guest-physical address.
   * @param bytes What to write there.
   */
  write(pa: number, bytes: Uint8Array): void;
}

/** A range of guest-physical addresses and what it is (ACPI 6.4, table 15.5). */
export interface MemoryRegion {
  /** First address. */
  base: number;
  /** Length in bytes. */
  length: number;
  /** An address range type: {@linkcode E820_RAM} and the others in `e820.ts`. */
  type: number;
}

/** A file that the guest is started from, and the name to use for it in messages. */
export interface BootFile {
  /** The file's content. */
  bytes: Uint8Array;
  /** How a message names it, usually its path. */
  label: string;
}

/** A module for the guest (multiboot, PVH): a file with a command line of its own. */
export interface BootModule extends BootFile {
  /** The module's string. */
  cmdline?: string;
}

/** What firmware would have left on the screen: text of a VGA, or a linear frame buffer of 32 bits a pixel. */
export type BootScreen =
  | { kind: "text" }
  | { kind: "linear"; base: number; width: number; height: number };

/** What to boot. */
export interface BootRequest {
  /** Where to load it. */
  ram: GuestRam;
  /** The map that the guest is told (see `pcMemoryMap`). */
  memoryMap: readonly MemoryRegion[];
  /** The kernel. */
  kernel: BootFile;
  /** The initial RAM disk; for PVH and multiboot it is the first module. */
  initrd?: BootFile;
  /** Further modules (PVH and multiboot only). */
  modules?: readonly BootModule[];
  /** The kernel's command line. */
  cmdline: string;
  /** Guest-physical address of the ACPI RSDP, where there is one. */
  rsdp?: number;
  /** The screen that the kernel may write to (Linux only), where there is one. */
  screen?: BootScreen;
}

/** A segment register with its hidden part. */
export interface SegmentState {
  /** The visible selector. */
  selector: number;
  /** Base address. */
  base: bigint;
  /** Limit in bytes, after scaling by the granularity bit. */
  limit: number;
  /** Access rights as VMX has them (Intel SDM vol. 3, table 24-2). */
  attributes: number;
}

/** The general registers by name. */
export type GeneralRegister =
  | "rax"
  | "rbx"
  | "rcx"
  | "rdx"
  | "rsi"
  | "rdi"
  | "rbp"
  | "rsp"
  | "r8"
  | "r9"
  | "r10"
  | "r11"
  | "r12"
  | "r13"
  | "r14"
  | "r15";

/** The segment registers, LDTR and TR included. */
export interface SegmentStates {
  /** Code segment. */
  cs: SegmentState;
  /** Data segment. */
  ds: SegmentState;
  /** Extra segment. */
  es: SegmentState;
  /** FS. */
  fs: SegmentState;
  /** GS. */
  gs: SegmentState;
  /** Stack segment. */
  ss: SegmentState;
  /** Local descriptor table. */
  ldtr: SegmentState;
  /** Task register. */
  tr: SegmentState;
}

/** A range of read-only memory outside RAM that the machine must map. */
export interface RomImage {
  /** Guest-physical address of the first byte. */
  base: number;
  /** The content. */
  bytes: Uint8Array;
}

/** The state of the first vCPU when the guest starts. What is not named has its reset value. */
export interface BootState {
  /** Long, protected (32-bit, no paging) or real mode. */
  mode: "long" | "protected" | "real";
  /** Where to start: an offset in CS. */
  rip: bigint;
  /** General registers that are not zero. */
  regs?: Partial<Record<GeneralRegister, bigint>>;
  /** RFLAGS; interrupts are off in all modes. */
  rflags: bigint;
  /** CR0. */
  cr0?: bigint;
  /** CR3. */
  cr3?: bigint;
  /** CR4. */
  cr4?: bigint;
  /** The EFER MSR. */
  efer?: bigint;
  /** GDTR. */
  gdt?: { base: bigint; limit: number };
  /** IDTR. */
  idt?: { base: bigint; limit: number };
  /** Segment registers. */
  segments: SegmentStates;
  /** Read-only memory to map, for a firmware image. */
  roms?: RomImage[];
}

/** A guest that cannot be started: the message names the file, the fault and the remedy. */
export class BootError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "BootError";
  /** The file at fault. */
  readonly label: string;

  /**
   * Makes the error; its message starts with the label.
   *
   * @param label The file at fault.
   * @param message What is wrong with it.
   */
  constructor(label: string, message: string) {
    super(`${label}: ${message}`);
    this.label = label;
  }
}

/**
 * Formats a number of bytes for a message.
 * @param bytes The number.
 * @returns The same in the largest unit that keeps it readable.
 */
export function formatSize(bytes: number): string {
  const KIB = 1024;
  const MIB = KIB * KIB;
  if (bytes >= 10 * MIB) return `${Math.ceil(bytes / MIB)} MiB`;
  if (bytes >= 10 * KIB) return `${Math.ceil(bytes / KIB)} KiB`;
  return `${bytes} bytes`;
}

/**
 * Formats an address for a message.
 * @param value The address.
 * @returns Hexadecimal with the `0x` prefix.
 */
export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}
