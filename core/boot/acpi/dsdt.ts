/**
 * The DSDT of this machine: processors, the PCI host bridge with its windows and interrupt
 * routing, the ISA bridge with the devices behind it, and soft off (ACPI 6.4, chapters 5, 6
 * and 7; PCI Firmware 3.3, section 4.5; Intel ICH9, section 13.1 for the PIRQ registers).
 *
 * @module
 */

import {
  and,
  arg,
  busWindow,
  byteField,
  call,
  concat,
  createDwordField,
  device,
  eisaId,
  EXTENDED_IRQ_NUMBER,
  fixedMemory,
  integer,
  ioPorts,
  ioWindow,
  isaIrq,
  lequal,
  lnot,
  local,
  memoryWindow,
  method,
  name,
  opRegion,
  or,
  otherwise,
  pack,
  path,
  pciIrqs,
  REGION_SPACE,
  resources,
  ret,
  scope,
  store,
  string,
  uuid,
  when,
} from "./aml.ts";
import type { Aml } from "./aml.ts";
import type { AcpiDeclaration } from "./declaration.ts";
import { HPET_BASE, VGA_HOLE_BASE } from "../e820.ts";

/** SLP_TYP for the S5 state: what \_S5 tells the guest to write to PM1a_CNT. */
export const SLP_TYP_S5 = 5;
/** Start of the power-management ports (ICH9's PMBASE). */
export const PM_BASE = 0x600;
/** Ports from PMBASE. */
export const PM_LENGTH = 0x80;
/** The first of the eight global interrupts to which PIRQA to PIRQH are wired. */
export const PIRQ_GSI_BASE = 16;
/** The number of PIRQ lines. */
export const PIRQ_COUNT = 8;

const PCI_SLOTS = 32;
const PCI_PINS = 4;
const LPC_SLOT = 0x1f;
/** LPC configuration: PIRQA-D_ROUT at 0x60, PIRQE-H_ROUT at 0x68, up to 0x6b. */
const PIRQ_ROUT = 0x60;
const PIRQ_ROUT_LENGTH = 0x0c;
/** PIRQn_ROUT bit 7: not routed to the PICs. */
const IRQEN = 0x80;
/** PIRQn_ROUT bits 3:0: the ISA interrupt. */
const IRQ_ROUTING = 0x0f;
/** The interrupts which a link may be given. */
const LINK_IRQS = [5, 10, 11];
/** _STA: present, enabled, shown, functioning; the same but not enabled. */
const STA_ENABLED = 0x0b;
const STA_DISABLED = 0x09;

const LINK_NAMES = [..."ABCDEFGH"].map((letter) => `LNK${letter}`);
const PIRQ_NAMES = [..."ABCDEFGH"].map((letter) => `PRQ${letter}`);

/**
 * The link, from 0 for PIRQA, to which a function's interrupt pin is wired.
 * @param slot The device number, 0 to 31.
 * @param pin 0 for INTA to 3 for INTD.
 * @returns 0 to 7.
 */
export function pirqOf(slot: number, pin: number): number {
  return (slot + pin) % PIRQ_COUNT;
}

function processors(apicIds: readonly number[]): Aml {
  return scope(
    "\\_SB",
    ...apicIds.map((_, uid) =>
      device(
        `C${uid.toString(16).toUpperCase().padStart(3, "0")}`,
        name("_HID", string("ACPI0007")),
        name("_UID", integer(uid)),
      )
    ),
  );
}

/** One routing table: with link devices for the PICs, with global interrupts for the I/O APIC. */
function routing(target: (pirq: number) => Aml[]): Aml {
  const ALL_FUNCTIONS = 0xffff;
  const entries: Aml[] = [];
  for (let slot = 0; slot < PCI_SLOTS; slot++) {
    for (let pin = 0; pin < PCI_PINS; pin++) {
      entries.push(pack(
        integer(slot * 0x10000 + ALL_FUNCTIONS),
        integer(pin),
        ...target(pirqOf(slot, pin)),
      ));
    }
  }
  return pack(...entries);
}

/** A link device (section 6.2.13): PNP0C0F, steered by one PIRQn_ROUT register. */
function link(index: number): Aml {
  const rout = `\\_SB.PCI0.ISA.${PIRQ_NAMES[index]}`;
  return device(
    LINK_NAMES[index],
    name("_HID", eisaId("PNP0C0F")),
    name("_UID", integer(index)),
    name("_PRS", resources(pciIrqs(LINK_IRQS))),
    method(
      "_STA",
      0,
      when(and(path(rout), integer(IRQEN)), ret(integer(STA_DISABLED))),
      ret(integer(STA_ENABLED)),
    ),
    method("_DIS", 0, or(path(rout), integer(IRQEN), path(rout))),
    method("_CRS", 0, ret(call("\\_SB.IQCR", path(rout)))),
    method(
      "_SRS",
      1,
      createDwordField(arg(0), EXTENDED_IRQ_NUMBER, "IRQN"),
      store(path("IRQN"), path(rout)),
    ),
  );
}

/** The current resources of a link whose PIRQn_ROUT register is the argument. */
function linkResources(): Aml {
  return method(
    "IQCR",
    1,
    name("IQRB", resources(pciIrqs([0]))),
    createDwordField(path("IQRB"), EXTENDED_IRQ_NUMBER, "IRQN"),
    when(
      lnot(and(arg(0), integer(IRQEN))),
      store(and(arg(0), integer(IRQ_ROUTING)), path("IRQN")),
    ),
    ret(path("IQRB")),
  );
}

/** _OSC of a PCI host bridge (PCI Firmware 3.3, section 4.5.1): all that is asked is granted. */
function operatingSystemCapabilities(): Aml {
  const PCI_HOST_BRIDGE = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
  const REVISION = 1;
  const UNRECOGNIZED_UUID = 0x04;
  const UNRECOGNIZED_REVISION = 0x08;
  const CAPABILITIES_MASKED = 0x10;
  const CONTROL = 0x1f;
  const set = (bit: number) => or(path("CDW1"), integer(bit), path("CDW1"));
  return method(
    "_OSC",
    4,
    createDwordField(arg(3), 0, "CDW1"),
    when(
      lequal(arg(0), uuid(PCI_HOST_BRIDGE)),
      createDwordField(arg(3), 8, "CDW3"),
      and(path("CDW3"), integer(CONTROL), local(0)),
      when(
        lnot(lequal(arg(1), integer(REVISION))),
        set(UNRECOGNIZED_REVISION),
      ),
      when(
        lnot(lequal(path("CDW3"), local(0))),
        set(CAPABILITIES_MASKED),
      ),
      store(local(0), path("CDW3")),
    ),
    otherwise(set(UNRECOGNIZED_UUID)),
    ret(arg(3)),
  );
}

function hostBridge(declaration: AcpiDeclaration): Aml {
  const { ecam, pciHole, pciHole64 } = declaration;
  const CONFIG_ADDRESS = 0xcf8;
  const CONFIG_PORTS = 8;
  const afterConfig = CONFIG_ADDRESS + CONFIG_PORTS;
  const windows = [
    busWindow({ base: 0, length: ecam.buses }),
    ioPorts(CONFIG_ADDRESS, CONFIG_PORTS),
    ioWindow({ base: 0, length: CONFIG_ADDRESS }),
    ioWindow({ base: afterConfig, length: 0x10000 - afterConfig }),
    memoryWindow({ base: VGA_HOLE_BASE, length: 0x20000 }),
    memoryWindow(pciHole),
  ];
  if (pciHole64 !== undefined) windows.push(memoryWindow(pciHole64));
  return device(
    "PCI0",
    name("_HID", eisaId("PNP0A08")),
    name("_CID", eisaId("PNP0A03")),
    name("_UID", integer(0)),
    name("_SEG", integer(0)),
    name("_BBN", integer(0)),
    name("_CRS", resources(...windows)),
    operatingSystemCapabilities(),
    name("PRTP", routing((pirq) => [path(LINK_NAMES[pirq]), integer(0)])),
    name(
      "PRTA",
      routing((pirq) => [integer(0), integer(PIRQ_GSI_BASE + pirq)]),
    ),
    method(
      "_PRT",
      0,
      when(path("\\PICF"), ret(path("PRTA"))),
      ret(path("PRTP")),
    ),
    isaBridge(declaration),
  );
}

function isaDevice(
  at: string,
  id: string,
  uid: number | undefined,
  ...descriptors: Uint8Array[]
): Aml {
  return device(
    at,
    name("_HID", eisaId(id)),
    ...(uid === undefined ? [] : [name("_UID", integer(uid))]),
    name("_STA", integer(0x0f)),
    name("_CRS", resources(...descriptors)),
  );
}

function isaBridge(declaration: AcpiDeclaration): Aml {
  const { uarts, ps2, hpet } = declaration;
  const UART_PORTS = 8;
  const children = [
    isaDevice(
      "PIC",
      "PNP0000",
      undefined,
      ioPorts(0x20, 2),
      ioPorts(0xa0, 2),
      ioPorts(0x4d0, 2),
      isaIrq(2),
    ),
    isaDevice("PIT", "PNP0100", undefined, ioPorts(0x40, 4), isaIrq(0)),
    isaDevice("RTC", "PNP0B00", undefined, ioPorts(0x70, 2), isaIrq(8)),
  ];
  uarts.forEach(({ port, irq }, i) => {
    const shared = uarts.some((other, j) => j !== i && other.irq === irq);
    children.push(isaDevice(
      `COM${(i + 1).toString(16).toUpperCase().slice(-1)}`,
      "PNP0501",
      i + 1,
      ioPorts(port, UART_PORTS),
      isaIrq(irq, shared),
    ));
  });
  if (ps2) {
    children.push(
      isaDevice(
        "KBD",
        "PNP0303",
        undefined,
        ioPorts(0x60, 1),
        ioPorts(0x64, 1),
        isaIrq(1),
      ),
      isaDevice("MOU", "PNP0F13", undefined, isaIrq(12)),
    );
  }
  if (hpet) {
    const HPET_LENGTH = 0x400;
    children.push(isaDevice(
      "HPET",
      "PNP0103",
      undefined,
      fixedMemory(HPET_BASE, HPET_LENGTH),
    ));
  }
  return device(
    "ISA",
    name("_ADR", integer(LPC_SLOT * 0x10000)),
    opRegion("PIRQ", REGION_SPACE.PciConfig, PIRQ_ROUT, PIRQ_ROUT_LENGTH),
    byteField("PIRQ", [
      ...PIRQ_NAMES.slice(0, 4).map((n): [string, number] => [n, 8]),
      ["", 32],
      ...PIRQ_NAMES.slice(4).map((n): [string, number] => [n, 8]),
    ]),
    ...children,
  );
}

/** What is on the board itself: the configuration space and the power-management ports. */
function motherboard(declaration: AcpiDeclaration): Aml {
  const { base, buses } = declaration.ecam;
  const BYTES_A_BUS = 0x10_0000;
  return isaDevice(
    "MBRD",
    "PNP0C02",
    0,
    ioPorts(PM_BASE, PM_LENGTH),
    fixedMemory(base, buses * BYTES_A_BUS),
  );
}

/**
 * Encodes the body of the DSDT.
 * @param declaration What the machine consists of.
 * @returns AML without the table's header.
 */
export function encodeDsdt(declaration: AcpiDeclaration): Uint8Array {
  return concat([
    name("\\PICF", integer(0)),
    method("\\_PIC", 1, store(arg(0), path("\\PICF"))),
    name(
      "\\_S5",
      pack(integer(SLP_TYP_S5), integer(0), integer(0), integer(0)),
    ),
    processors(declaration.apicIds),
    scope(
      "\\_SB",
      linkResources(),
      hostBridge(declaration),
      ...LINK_NAMES.map((_, i) => link(i)),
      motherboard(declaration),
    ),
  ]);
}
