/**
 * The PHY of the 82540EM, reached through MDIC: Intel 317453, section 13.4.6 and chapter 8; the
 * registers are those of IEEE 802.3, clause 22, and of the Marvell 88E1000 family.
 *
 * @module
 */
import { type Infer, list, record, u16 } from "../../snapshot/schema.ts";

const REGISTERS = 32;
const PHY_ADDRESS = 1;

// MDIC.
const MDIC_DATA_MASK = 0xffff;
const MDIC_REGISTER_SHIFT = 16;
const MDIC_PHY_SHIFT = 21;
const MDIC_FIELD_MASK = 0x1f;
const MDIC_OP_WRITE = 1 << 26;
const MDIC_OP_READ = 2 << 26;
const MDIC_OP_MASK = 3 << 26;
const MDIC_READY = 1 << 28;
const MDIC_ERROR = 1 << 30;

// Registers.
const CONTROL = 0;
const STATUS = 1;
const ID_1 = 2;
const ID_2 = 3;
const ADVERTISEMENT = 4;
const PARTNER_ABILITY = 5;
const GIGABIT_CONTROL = 9;
const GIGABIT_STATUS = 10;
const EXTENDED_STATUS = 15;
const SPECIFIC_CONTROL = 16;
const SPECIFIC_STATUS = 17;
const INTERRUPT_ENABLE = 18;
const EXTENDED_SPECIFIC_CONTROL = 20;
const PAGE_SELECT = 29;
const GENERAL_CONTROL = 30;

const CONTROL_RESET = 1 << 15;
const CONTROL_RESTART = 1 << 9;
const STATUS_LINK = 1 << 2;
const STATUS_NEGOTIATED = 1 << 5;
/** 1000 Mbit/s, full duplex, resolved, link. */
const SPECIFIC_UP = 0xac00;
const SPECIFIC_LINK = 1 << 10;
const PARTNER_GIGABIT = 0x3c00;
const PARTNER_ALL = 0x45e1;

const RESET: Readonly<Record<number, number>> = {
  [CONTROL]: 0x1140,
  [STATUS]: 0x7949,
  [ID_1]: 0x0141,
  [ID_2]: 0x0c20,
  [ADVERTISEMENT]: 0x0de1,
  [GIGABIT_CONTROL]: 0x0e00,
  [EXTENDED_STATUS]: 0x3000,
  [SPECIFIC_CONTROL]: 0x0360,
  [EXTENDED_SPECIFIC_CONTROL]: 0x0d60,
};
/** Registers that a driver may write. */
const WRITABLE: ReadonlySet<number> = new Set([
  CONTROL,
  ADVERTISEMENT,
  GIGABIT_CONTROL,
  SPECIFIC_CONTROL,
  INTERRUPT_ENABLE,
  EXTENDED_SPECIFIC_CONTROL,
  PAGE_SELECT,
  GENERAL_CONTROL,
]);

/** State of the PHY. */
export const phyState = record({
  registers: list(u16(), { length: REGISTERS }),
});

/** The PHY. */
export class Phy {
  #registers = powerOn();

  /** Power-on. */
  reset(): void {
    this.#registers = powerOn();
  }

  /**
   * MDIC: reads or writes a register.
   *
   * @param mdic What the driver writes.
   * @param link Whether the cable is in: negotiation takes no time.
   * @returns What it reads afterwards.
   */
  access(mdic: number, link: boolean): number {
    const register = mdic >>> MDIC_REGISTER_SHIFT & MDIC_FIELD_MASK;
    const phy = mdic >>> MDIC_PHY_SHIFT & MDIC_FIELD_MASK;
    const operation = mdic & MDIC_OP_MASK;
    if (phy !== PHY_ADDRESS) return (mdic | MDIC_READY | MDIC_ERROR) >>> 0;
    if (operation === MDIC_OP_READ) {
      return ((mdic & ~MDIC_DATA_MASK) | this.#read(register, link) |
        MDIC_READY) >>> 0;
    }
    if (operation === MDIC_OP_WRITE) {
      this.#write(register, mdic & MDIC_DATA_MASK);
      return (mdic | MDIC_READY) >>> 0;
    }
    return (mdic | MDIC_READY | MDIC_ERROR) >>> 0;
  }

  save(): Infer<typeof phyState> {
    return { registers: [...this.#registers] };
  }

  restore(state: Infer<typeof phyState>): void {
    this.#registers = Uint16Array.from(state.registers);
  }

  #read(register: number, link: boolean): number {
    const value = this.#registers[register];
    switch (register) {
      case STATUS:
        return value | (link ? STATUS_LINK | STATUS_NEGOTIATED : 0);
      case PARTNER_ABILITY:
        return link ? PARTNER_ALL : 0;
      case GIGABIT_STATUS:
        return link ? PARTNER_GIGABIT : 0;
      case SPECIFIC_STATUS:
        return link ? SPECIFIC_UP : SPECIFIC_UP & ~SPECIFIC_LINK;
      default:
        return value;
    }
  }

  #write(register: number, value: number): void {
    if (!WRITABLE.has(register)) return;
    if (register === CONTROL && (value & CONTROL_RESET) !== 0) {
      this.reset();
      return;
    }
    this.#registers[register] = register === CONTROL
      ? value & ~CONTROL_RESTART
      : value;
  }
}

function powerOn(): Uint16Array {
  return Uint16Array.from(
    { length: REGISTERS },
    (_, register) => RESET[register] ?? 0,
  );
}
