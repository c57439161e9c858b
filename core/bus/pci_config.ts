/**
 * PCI configuration space as bytes: the type 0 header and capabilities (PCI Local Bus 3.0,
 * chapter 6 and appendix H).
 *
 * @module
 */
import {
  type AccessSize,
  MachineError,
  type PciBar,
  type PciFunctionConfig,
} from "../plugin.ts";
import { hex, type Owner } from "../fault.ts";

/** Bytes of the configuration space of a conventional function. */
export const CONFIG_SIZE = 256;

/** Offsets in the type 0 header (figure 6-1). */
export const REG = {
  VENDOR_ID: 0x00,
  DEVICE_ID: 0x02,
  COMMAND: 0x04,
  STATUS: 0x06,
  REVISION_ID: 0x08,
  CACHE_LINE_SIZE: 0x0c,
  LATENCY_TIMER: 0x0d,
  HEADER_TYPE: 0x0e,
  BAR0: 0x10,
  SUBSYSTEM_VENDOR_ID: 0x2c,
  SUBSYSTEM_ID: 0x2e,
  CAPABILITIES_POINTER: 0x34,
  INTERRUPT_LINE: 0x3c,
  INTERRUPT_PIN: 0x3d,
} as const;
/** End of the header. */
export const HEADER_END = 0x40;
/** Base address registers of a type 0 header. */
export const BARS = 6;

/** Bits of the command register (table 6-1). */
export const COMMAND = {
  IO: 1 << 0,
  MEMORY: 1 << 1,
  BUS_MASTER: 1 << 2,
  PARITY: 1 << 6,
  SERR: 1 << 8,
  INTX_DISABLE: 1 << 10,
} as const;
const COMMAND_WRITABLE = COMMAND.IO | COMMAND.MEMORY | COMMAND.BUS_MASTER |
  COMMAND.PARITY | COMMAND.SERR | COMMAND.INTX_DISABLE;

/** Bits of the status register (table 6-2). */
export const STATUS = { INTERRUPT: 1 << 3, CAPABILITIES: 1 << 4 } as const;

/** Low bits of a base address register (6.2.5.1). */
const BAR_IO = 1 << 0;
const BAR_64 = 2 << 1;
const BAR_PREFETCHABLE = 1 << 3;
const BAR_IO_TYPE_BITS = 0x3;
const BAR_MEMORY_TYPE_BITS = 0xf;
const MULTIFUNCTION = 0x80;

/** Capability ID of MSI (appendix H). */
export const CAP_MSI = 0x05;
/** Capability ID of MSI-X. */
export const CAP_MSIX = 0x11;

/** Registers of the MSI capability with 64-bit address and masking (6.8.1). */
export const MSI = {
  CONTROL: 2,
  ADDRESS: 4,
  ADDRESS_HIGH: 8,
  DATA: 12,
  MASK: 16,
  PENDING: 20,
  SIZE: 24,
} as const;
/** Message control: MSI is enabled. */
export const MSI_ENABLE = 1 << 0;
const MSI_CAPABLE_SHIFT = 1;
/** Message control: log2 of the vectors granted. */
export const MSI_ENABLED_SHIFT = 4;
/** Its width. */
export const MSI_ENABLED_MASK = 7;
const MSI_64BIT = 1 << 7;
const MSI_MASKING = 1 << 8;
/** Most MSI vectors of a function. */
const MSI_MAX = 32;

/** Registers of the MSI-X capability (6.8.2.3). */
export const MSIX = { CONTROL: 2, TABLE: 4, PBA: 8, SIZE: 12 } as const;
/** Message control: MSI-X is enabled. */
export const MSIX_ENABLE = 1 << 15;
/** Message control: all vectors are masked. */
export const MSIX_FUNCTION_MASK = 1 << 14;
/** Bytes of an MSI-X table entry. */
export const MSIX_ENTRY = 16;
/** Most MSI-X vectors of a function. */
const MSIX_MAX = 2048;

const MEMORY_BAR_MIN = 4096;
const IO_BAR_MIN = 4;
const IO_BAR_MAX = 256;

/** A configuration space as it is after reset. */
export interface ConfigLayout {
  /** Values after reset. */
  initial: Uint8Array;
  /** Bits that the guest may write. */
  writable: Uint8Array;
  /** Bits that belong to the device, not to the header or MSI(-X): a write to them is told to it. */
  device: Uint8Array;
  /** Offset of the MSI capability; 0 for none. */
  msi: number;
  /** Offset of the MSI-X capability; 0 for none. */
  msix: number;
  /** Offsets of the two bytes, ID and next pointer, at which each capability begins. */
  headers: number[];
  /** The BARs by index. */
  bars: readonly PciBar[];
}

/** Little-endian write of `size` bytes. */
function put(bytes: Uint8Array, at: number, size: number, value: number): void {
  for (let i = 0; i < size; i++) bytes[at + i] = value >>> (8 * i);
}

/**
 * Little-endian read.
 *
 * @param bytes From where.
 * @param at Offset.
 * @param size Bytes.
 * @returns The unsigned value.
 */
export function get(bytes: Uint8Array, at: number, size: AccessSize): number {
  let value = 0;
  for (let i = size - 1; i >= 0; i--) value = value * 256 + bytes[at + i];
  return value;
}

function isPowerOfTwo(n: number): boolean {
  return Number.isSafeInteger(n) && n > 0 && Number.isInteger(Math.log2(n));
}

function checkBars(owner: Owner, bars: readonly PciBar[]): void {
  const used = new Set<number>();
  const wrong = (bar: PciBar, message: string): never => {
    throw new MachineError(
      `device "${owner.id}": BAR ${bar.index} of ${bar.size} bytes: ${message}`,
    );
  };
  for (const bar of bars) {
    const last = bar.index + (bar.wide === true ? 1 : 0);
    if (!Number.isInteger(bar.index) || bar.index < 0 || last >= BARS) {
      wrong(bar, `expected an index from 0 to ${BARS - 1}`);
    }
    for (let i = bar.index; i <= last; i++) {
      if (used.has(i)) wrong(bar, `BAR ${i} is declared twice`);
      used.add(i);
    }
    if (!isPowerOfTwo(bar.size)) wrong(bar, "expected a power of two");
    if (bar.kind === "io") {
      if (bar.size < IO_BAR_MIN || bar.size > IO_BAR_MAX || bar.wide === true) {
        wrong(bar, `expected ${IO_BAR_MIN} to ${IO_BAR_MAX} bytes, not 64-bit`);
      }
    } else if (
      bar.size < MEMORY_BAR_MIN || (bar.wide !== true && bar.size > 2 ** 31)
    ) {
      wrong(bar, "expected at least 4 KiB, and a 64-bit BAR above 2 GiB");
    }
  }
}

/** Places capabilities in configuration space where nothing else is. */
class Placement {
  readonly #used = new Uint8Array(CONFIG_SIZE);
  #last: number = REG.CAPABILITIES_POINTER;

  constructor(readonly owner: Owner, readonly layout: ConfigLayout) {
    this.#used.fill(1, 0, HEADER_END);
  }

  reserve(offset: number, length: number): void {
    if (offset < HEADER_END || offset + length > CONFIG_SIZE) {
      throw new MachineError(
        `device "${this.owner.id}": ${length} configuration bytes at ${
          hex(offset)
        }: expected them from 0x40 to 0xff`,
      );
    }
    this.#used.fill(1, offset, offset + length);
  }

  /** Links a capability in; returns its offset. */
  add(id: number, length: number): number {
    const { initial } = this.layout;
    for (let at = HEADER_END; at + length <= CONFIG_SIZE; at += 4) {
      if (this.#used.subarray(at, at + length).includes(1)) continue;
      this.reserve(at, length);
      initial[this.#last] = at;
      initial[at] = id;
      initial[REG.STATUS] |= STATUS.CAPABILITIES;
      this.#last = at + 1;
      this.layout.headers.push(at);
      return at;
    }
    throw new MachineError(
      `device "${this.owner.id}": no room for capability ${
        hex(id)
      } of ${length} bytes in its configuration space`,
    );
  }
}

function layOutBars(layout: ConfigLayout): void {
  const { initial, writable } = layout;
  for (const bar of layout.bars) {
    const at = REG.BAR0 + 4 * bar.index;
    const typeBits = bar.kind === "io"
      ? BAR_IO_TYPE_BITS
      : BAR_MEMORY_TYPE_BITS;
    initial[at] = bar.kind === "io"
      ? BAR_IO
      : (bar.wide === true ? BAR_64 : 0) |
        (bar.prefetchable === true ? BAR_PREFETCHABLE : 0);
    const low = bar.size > 0xffffffff ? 0 : ~(bar.size - 1) & ~typeBits;
    put(writable, at, 4, low >>> 0);
    if (bar.wide === true) {
      const high = 2 ** 32 - Math.max(1, bar.size / 2 ** 32);
      put(writable, at + 4, 4, bar.size > 2 ** 32 ? high : 0xffffffff);
    }
  }
}

function addMsi(
  owner: Owner,
  vectors: number,
  layout: ConfigLayout,
  placement: Placement,
): void {
  if (!isPowerOfTwo(vectors) || vectors > MSI_MAX) {
    throw new MachineError(
      `device "${owner.id}": ${vectors} MSI vectors: expected a power of two up to ${MSI_MAX}`,
    );
  }
  const at = placement.add(CAP_MSI, MSI.SIZE);
  const { initial, writable } = layout;
  put(
    initial,
    at + MSI.CONTROL,
    2,
    (Math.log2(vectors) << MSI_CAPABLE_SHIFT) | MSI_64BIT | MSI_MASKING,
  );
  put(
    writable,
    at + MSI.CONTROL,
    2,
    MSI_ENABLE | (MSI_ENABLED_MASK << MSI_ENABLED_SHIFT),
  );
  put(writable, at + MSI.ADDRESS, 4, 0xfffffffc);
  put(writable, at + MSI.ADDRESS_HIGH, 4, 0xffffffff);
  put(writable, at + MSI.DATA, 2, 0xffff);
  put(writable, at + MSI.MASK, 4, 2 ** vectors - 1);
  layout.msi = at;
}

function addMsix(
  owner: Owner,
  msix: NonNullable<PciFunctionConfig["msix"]>,
  layout: ConfigLayout,
  placement: Placement,
): void {
  const { vectors, bar, tableOffset, pbaOffset } = msix;
  const size = layout.bars.find((b) => b.index === bar && b.kind === "memory")
    ?.size ?? 0;
  const tableEnd = tableOffset + vectors * MSIX_ENTRY;
  const pbaEnd = pbaOffset + Math.ceil(vectors / 64) * 8;
  if (
    !Number.isInteger(vectors) || vectors < 1 || vectors > MSIX_MAX ||
    tableOffset % 8 !== 0 || pbaOffset % 8 !== 0 || tableEnd > size ||
    pbaEnd > size || (tableOffset < pbaEnd && pbaOffset < tableEnd)
  ) {
    throw new MachineError(
      `device "${owner.id}": MSI-X table of ${vectors} vectors at ${
        hex(tableOffset)
      } and pending bits at ${
        hex(pbaOffset)
      } of BAR ${bar}: expected 1 to ${MSIX_MAX} vectors, both multiples of 8 apart from each other inside a memory BAR`,
    );
  }
  const at = placement.add(CAP_MSIX, MSIX.SIZE);
  put(layout.initial, at + MSIX.CONTROL, 2, vectors - 1);
  put(layout.initial, at + MSIX.TABLE, 4, tableOffset | bar);
  put(layout.initial, at + MSIX.PBA, 4, pbaOffset | bar);
  put(
    layout.writable,
    at + MSIX.CONTROL,
    2,
    MSIX_ENABLE | MSIX_FUNCTION_MASK,
  );
  layout.msix = at;
}

/**
 * Makes the configuration space of a function.
 *
 * @param owner Its device, for messages.
 * @param config What the device declares.
 * @returns Values after reset and writable bits.
 * @throws {MachineError} When the declaration is wrong.
 */
export function layOutConfig(
  owner: Owner,
  config: PciFunctionConfig,
): ConfigLayout {
  const bars = config.bars ?? [];
  checkBars(owner, bars);
  const layout: ConfigLayout = {
    initial: new Uint8Array(CONFIG_SIZE),
    writable: new Uint8Array(CONFIG_SIZE),
    device: new Uint8Array(CONFIG_SIZE),
    msi: 0,
    msix: 0,
    headers: [],
    bars,
  };
  const { initial, writable } = layout;
  put(initial, REG.VENDOR_ID, 2, config.vendor);
  put(initial, REG.DEVICE_ID, 2, config.device);
  initial[REG.REVISION_ID] = config.revision ?? 0;
  put(initial, REG.REVISION_ID + 1, 3, config.classCode);
  initial[REG.HEADER_TYPE] = config.multifunction === true ? MULTIFUNCTION : 0;
  put(initial, REG.SUBSYSTEM_VENDOR_ID, 2, config.subsystemVendor ?? 0);
  put(initial, REG.SUBSYSTEM_ID, 2, config.subsystem ?? 0);
  initial[REG.INTERRUPT_PIN] = config.interruptPin ?? 0;
  put(writable, REG.COMMAND, 2, COMMAND_WRITABLE);
  writable[REG.CACHE_LINE_SIZE] = 0xff;
  writable[REG.LATENCY_TIMER] = 0xff;
  writable[REG.INTERRUPT_LINE] = 0xff;
  layOutBars(layout);

  const placement = new Placement(owner, layout);
  const registers = config.registers ?? {};
  for (const { offset, bytes } of registers.initial ?? []) {
    placement.reserve(offset, bytes.length);
    initial.set(bytes, offset);
  }
  for (const { offset, mask } of registers.writable ?? []) {
    placement.reserve(offset, mask.length);
    writable.set(mask, offset);
    layout.device.set(mask, offset);
  }
  if (config.msix) addMsix(owner, config.msix, layout, placement);
  if (config.msi !== undefined) addMsi(owner, config.msi, layout, placement);
  for (const capability of config.capabilities ?? []) {
    const at = placement.add(capability.id, 2 + capability.body.length);
    initial.set(capability.body, at + 2);
    if (capability.writable) {
      writable.set(capability.writable, at + 2);
      layout.device.set(capability.writable, at + 2);
    }
  }
  return layout;
}
