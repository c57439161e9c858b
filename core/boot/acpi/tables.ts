/**
 * The ACPI tables and where they lie: RSDP, RSDT, XSDT, FADT, FACS, DSDT, MADT, MCFG, HPET
 * (ACPI 6.4, section 5.2; PCI Firmware 3.3, section 4.1.2; IA-PC HPET 1.0a, section 3.2.4).
 *
 * @module
 */

import { concat } from "./aml.ts";
import { encodeDsdt, PM_BASE } from "./dsdt.ts";
import type { AcpiDeclaration } from "./declaration.ts";
import type { GuestRam } from "../types.ts";
import {
  BIOS_AREA_BASE,
  HIGH_MEMORY_BASE,
  HPET_BASE,
  IOAPIC_BASE,
  LAPIC_BASE,
} from "../e820.ts";

/** PM1a_EVT_BLK: status and enable. */
export const PM1A_EVT_BLK = PM_BASE;
/** PM1a_CNT_BLK. */
export const PM1A_CNT_BLK = PM_BASE + 0x04;
/** PM_TMR_BLK. */
export const PM_TMR_BLK = PM_BASE + 0x08;
/** GPE0_BLK: status and enable, 64 events. */
export const GPE0_BLK = PM_BASE + 0x20;
/** Bytes of GPE0_BLK. */
export const GPE0_BLK_LEN = 16;
/** The ISA interrupt of the power-management events. */
export const SCI_INT = 9;
/** The reset control register. */
export const RESET_REG = 0xcf9;
/** What resets the machine when written there: RST_CPU and SYS_RST. */
export const RESET_VALUE = 0x06;

const OEM_ID = "DIAPAU";
const OEM_TABLE_ID = "DIAPAUSE";
const OEM_REVISION = 1;
const CREATOR_ID = "DIAP";
const CREATOR_REVISION = 1;
const HEADER_SIZE = 36;
const TABLE_CHECKSUM = 9;
/** ACPI 6.4 numbers of the tables' own formats. */
const FADT_REVISION = 6;
const FADT_MINOR = 4;
const FADT_SIZE = 276;
const MADT_REVISION = 5;
const DSDT_REVISION = 2;
const RSDP_SIZE = 36;
const RSDP_V1_SIZE = 20;
const FACS_SIZE = 64;
const FACS_ALIGNMENT = 64;
const TABLE_ALIGNMENT = 16;

/** Little-endian bytes, written one field after another. */
class Fields {
  readonly #bytes: number[] = [];

  /** Appends integers of a width in bytes. */
  put(width: number, ...values: (number | bigint)[]): this {
    for (const value of values) {
      let rest = BigInt(value);
      for (let i = 0; i < width; i++) {
        this.#bytes.push(Number(rest & 0xffn));
        rest >>= 8n;
      }
    }
    return this;
  }

  /** Appends ASCII text, filled up with spaces. */
  text(text: string, width: number): this {
    return this.put(
      1,
      ...new TextEncoder().encode(text.padEnd(width).slice(0, width)),
    );
  }

  /** Appends a generic address structure (section 5.2.3.2). */
  address(space: number, bits: number, access: number, at: number): this {
    return this.put(1, space, bits, 0, access).put(8, at);
  }

  /** The bytes so far. */
  bytes(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

const GAS_MEMORY = 0;
const GAS_IO = 1;

function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}

/** Puts the header (section 5.2.6) before a table's body. */
function table(
  signature: string,
  revision: number,
  body: Uint8Array,
): Uint8Array {
  const header = new Fields()
    .text(signature, 4)
    .put(4, HEADER_SIZE + body.length)
    .put(1, revision, 0)
    .text(OEM_ID, 6)
    .text(OEM_TABLE_ID, 8)
    .put(4, OEM_REVISION)
    .text(CREATOR_ID, 4)
    .put(4, CREATOR_REVISION);
  const bytes = concat([header.bytes(), body]);
  bytes[TABLE_CHECKSUM] = checksum(bytes);
  return bytes;
}

/** FADT (section 5.2.9). */
function fadt(
  declaration: AcpiDeclaration,
  facs: number,
  dsdt: number,
): Uint8Array {
  const PROFILE_DESKTOP = 1;
  // Flags, table 5.10.
  const WBINVD = 1 << 0;
  const PROC_C1 = 1 << 2;
  const SLP_BUTTON = 1 << 5; // no fixed sleep button
  const FIX_RTC = 1 << 6; // no RTC wake status
  const TMR_VAL_EXT = 1 << 8;
  const RESET_REG_SUP = 1 << 10;
  // IA-PC boot architecture flags, table 5.11.
  const LEGACY_DEVICES = 1 << 0;
  const HAS_8042 = 1 << 1;
  const VGA_NOT_PRESENT = 1 << 2;
  const C2_UNSUPPORTED = 0xfff;
  const C3_UNSUPPORTED = 0xfff;
  const PM1_EVT_LEN = 4;
  const PM1_CNT_LEN = 2;
  const PM_TMR_LEN = 4;
  const CENTURY = 0x32; // the CMOS byte
  const WORD_ACCESS = 2;
  const DWORD_ACCESS = 3;
  const BYTE_ACCESS = 1;
  const bootFlags = (declaration.uarts.length > 0 ? LEGACY_DEVICES : 0) |
    (declaration.ps2 ? HAS_8042 : 0) |
    (declaration.vga ? 0 : VGA_NOT_PRESENT);
  const body = new Fields()
    .put(4, facs, dsdt)
    .put(1, 0, PROFILE_DESKTOP)
    .put(2, SCI_INT)
    .put(4, 0) // SMI_CMD: ACPI mode is always on
    .put(1, 0, 0, 0, 0) // ACPI_ENABLE, ACPI_DISABLE, S4BIOS_REQ, PSTATE_CNT
    .put(4, PM1A_EVT_BLK, 0, PM1A_CNT_BLK, 0, 0, PM_TMR_BLK, GPE0_BLK, 0)
    .put(1, PM1_EVT_LEN, PM1_CNT_LEN, 0, PM_TMR_LEN, GPE0_BLK_LEN, 0, 0, 0)
    .put(2, C2_UNSUPPORTED, C3_UNSUPPORTED, 0, 0)
    .put(1, 0, 0) // DUTY_OFFSET, DUTY_WIDTH
    .put(1, 0, 0, CENTURY) // DAY_ALRM, MON_ALRM, CENTURY
    .put(2, bootFlags)
    .put(1, 0)
    .put(
      4,
      WBINVD | PROC_C1 | SLP_BUTTON | FIX_RTC | TMR_VAL_EXT | RESET_REG_SUP,
    )
    .address(GAS_IO, 8, BYTE_ACCESS, RESET_REG)
    .put(1, RESET_VALUE)
    .put(2, 0) // ARM_BOOT_ARCH
    .put(1, FADT_MINOR)
    .put(8, 0) // X_FIRMWARE_CTRL: FIRMWARE_CTRL is set
    .put(8, dsdt)
    .address(GAS_IO, PM1_EVT_LEN * 8, WORD_ACCESS, PM1A_EVT_BLK)
    .address(0, 0, 0, 0) // X_PM1b_EVT_BLK
    .address(GAS_IO, PM1_CNT_LEN * 8, WORD_ACCESS, PM1A_CNT_BLK)
    .address(0, 0, 0, 0) // X_PM1b_CNT_BLK
    .address(0, 0, 0, 0) // X_PM2_CNT_BLK
    .address(GAS_IO, PM_TMR_LEN * 8, DWORD_ACCESS, PM_TMR_BLK)
    .address(GAS_IO, GPE0_BLK_LEN * 8, BYTE_ACCESS, GPE0_BLK)
    .address(0, 0, 0, 0) // X_GPE1_BLK
    .address(0, 0, 0, 0) // SLEEP_CONTROL_REG
    .address(0, 0, 0, 0) // SLEEP_STATUS_REG
    .put(8, 0) // hypervisor vendor identity
    .bytes();
  if (body.length + HEADER_SIZE !== FADT_SIZE) {
    throw new Error(
      `FADT has ${body.length + HEADER_SIZE} bytes, not ${FADT_SIZE}`,
    );
  }
  return table("FACP", FADT_REVISION, body);
}

/** FACS (section 5.2.10). */
function facs(): Uint8Array {
  const VERSION = 2;
  return new Fields()
    .text("FACS", 4)
    .put(4, FACS_SIZE, 0, 0, 0, 0) // signature, waking vector, lock, flags
    .put(8, 0)
    .put(1, VERSION)
    .put(1, ...new Array<number>(FACS_SIZE - 33).fill(0))
    .bytes();
}

/** MADT (section 5.2.12). */
function madt(declaration: AcpiDeclaration): Uint8Array {
  const PCAT_COMPAT = 1 << 0;
  const PROCESSOR_LOCAL_APIC = 0;
  const IO_APIC = 1;
  const INTERRUPT_SOURCE_OVERRIDE = 2;
  const LOCAL_APIC_NMI = 4;
  const PROCESSOR_LOCAL_X2APIC = 9;
  const LOCAL_X2APIC_NMI = 10;
  const ENABLED = 1 << 0;
  const ALL_PROCESSORS = 0xff;
  const ALL_X2APIC_PROCESSORS = 0xffff_ffff;
  const LINT1 = 1;
  const ISA_BUS = 0;
  const TIMER_GSI = 2;
  // MPS INTI flags, table 5.26.
  const CONFORMS = 0;
  const ACTIVE_HIGH_LEVEL = 0b11_01;
  /** Local APIC entries hold 8 bits, and 255 is the broadcast identifier. */
  const FIRST_X2APIC_ID = 255;

  const fields = new Fields().put(4, LAPIC_BASE, PCAT_COMPAT);
  let hasX2apic = false;
  declaration.apicIds.forEach((id, uid) => {
    if (id < FIRST_X2APIC_ID) {
      fields.put(1, PROCESSOR_LOCAL_APIC, 8, uid, id).put(4, ENABLED);
    } else {
      hasX2apic = true;
      fields.put(1, PROCESSOR_LOCAL_X2APIC, 16, 0, 0).put(4, id, ENABLED, uid);
    }
  });
  fields.put(1, IO_APIC, 12, declaration.ioapicId, 0).put(4, IOAPIC_BASE, 0);
  const override = (irq: number, gsi: number, flags: number) =>
    fields.put(1, INTERRUPT_SOURCE_OVERRIDE, 10, ISA_BUS, irq)
      .put(4, gsi).put(2, flags);
  override(0, TIMER_GSI, CONFORMS);
  override(SCI_INT, SCI_INT, ACTIVE_HIGH_LEVEL);
  fields.put(1, LOCAL_APIC_NMI, 6, ALL_PROCESSORS).put(2, CONFORMS)
    .put(1, LINT1);
  if (hasX2apic) {
    fields.put(1, LOCAL_X2APIC_NMI, 12).put(2, CONFORMS)
      .put(4, ALL_X2APIC_PROCESSORS).put(1, LINT1, 0, 0, 0);
  }
  return table("APIC", MADT_REVISION, fields.bytes());
}

function mcfg(declaration: AcpiDeclaration): Uint8Array {
  const { base, buses } = declaration.ecam;
  return table(
    "MCFG",
    1,
    new Fields().put(8, 0).put(8, base).put(2, 0).put(1, 0, buses - 1)
      .put(4, 0).bytes(),
  );
}

function hpet(): Uint8Array {
  /** Low half of General Capabilities: Intel, legacy routing, 64 bits, 3 timers, revision 1. */
  const EVENT_TIMER_BLOCK_ID = 0x8086_a201;
  const MINIMUM_TICK = 128;
  return table(
    "HPET",
    1,
    new Fields()
      .put(4, EVENT_TIMER_BLOCK_ID)
      .address(GAS_MEMORY, 64, 0, HPET_BASE)
      .put(1, 0)
      .put(2, MINIMUM_TICK)
      .put(1, 0)
      .bytes(),
  );
}

function rsdp(rsdt: number, xsdt: number): Uint8Array {
  const REVISION = 2;
  const CHECKSUM = 8;
  const EXTENDED_CHECKSUM = 32;
  const bytes = new Fields()
    .text("RSD PTR ", 8)
    .put(1, 0)
    .text(OEM_ID, 6)
    .put(1, REVISION)
    .put(4, rsdt, RSDP_SIZE)
    .put(8, xsdt)
    .put(1, 0, 0, 0, 0)
    .bytes();
  bytes[CHECKSUM] = checksum(bytes.subarray(0, RSDP_V1_SIZE));
  bytes[EXTENDED_CHECKSUM] = checksum(bytes);
  return bytes;
}

/** One table and its place in guest memory. */
export interface PlacedTable {
  /** The table's signature. */
  signature: string;
  /** Guest-physical address. */
  address: number;
  /** The table. */
  bytes: Uint8Array;
}

/**
 * Makes the ACPI tables.
 *
 * @param declaration What the machine consists of.
 * @param base Where the RSDP goes, in the BIOS area so that a guest finds it by scanning.
 * @param limit The first address past the room for the tables.
 * @returns The RSDP first, then the other tables.
 * @throws {RangeError} If the tables do not fit.
 */
export function buildAcpiTables(
  declaration: AcpiDeclaration,
  base: number = BIOS_AREA_BASE,
  limit: number = HIGH_MEMORY_BASE,
): PlacedTable[] {
  const placed: PlacedTable[] = [];
  let next = align(base + RSDP_SIZE, FACS_ALIGNMENT);
  const place = (
    signature: string,
    bytes: Uint8Array,
    alignment = TABLE_ALIGNMENT,
  ): number => {
    const address = align(next, alignment);
    next = address + bytes.length;
    if (next > limit) {
      throw new RangeError(
        `ACPI tables need memory up to 0x${
          next.toString(16)
        }: only that below ` +
          `0x${limit.toString(16)} is set aside for them`,
      );
    }
    placed.push({ signature, address, bytes });
    return address;
  };
  const facsAt = place("FACS", facs(), FACS_ALIGNMENT);
  const dsdtAt = place(
    "DSDT",
    table("DSDT", DSDT_REVISION, encodeDsdt(declaration)),
  );
  const roots = [
    place("FACP", fadt(declaration, facsAt, dsdtAt)),
    place("APIC", madt(declaration)),
    place("MCFG", mcfg(declaration)),
  ];
  if (declaration.hpet) roots.push(place("HPET", hpet()));
  const rsdt = place(
    "RSDT",
    table("RSDT", 1, new Fields().put(4, ...roots).bytes()),
  );
  const xsdt = place(
    "XSDT",
    table("XSDT", 1, new Fields().put(8, ...roots).bytes()),
  );
  return [
    { signature: "RSD PTR ", address: base, bytes: rsdp(rsdt, xsdt) },
    ...placed,
  ];
}

/**
 * Makes the ACPI tables and writes them to guest memory.
 *
 * @param ram Guest memory.
 * @param declaration What the machine consists of.
 * @returns The guest-physical address of the RSDP.
 */
export function installAcpi(
  ram: GuestRam,
  declaration: AcpiDeclaration,
): number {
  const tables = buildAcpiTables(declaration);
  for (const { address, bytes } of tables) ram.write(address, bytes);
  return tables[0].address;
}

function align(address: number, alignment: number): number {
  return Math.ceil(address / alignment) * alignment;
}
