/**
 * One PCI function: its configuration space, the mapping of its BARs, INTx, MSI and MSI-X
 * (PCI Local Bus 3.0, sections 6.2, 6.7 and 6.8).
 *
 * @module
 */
import {
  type AccessSize,
  type Claim,
  type IoHandler,
  MachineError,
  type PciBar,
  type PciFunction,
  type PciFunctionConfig,
} from "../plugin.ts";
import { hex, type Owner, PluginError } from "../fault.ts";
import { SchemaError } from "../../snapshot/schema.ts";
import { floating, guarded } from "./isa.ts";
import {
  BARS,
  COMMAND,
  CONFIG_SIZE,
  type ConfigLayout,
  get,
  HEADER_END,
  layOutConfig,
  MSI,
  MSI_ENABLE,
  MSI_ENABLED_MASK,
  MSI_ENABLED_SHIFT,
  MSIX,
  MSIX_ENABLE,
  MSIX_ENTRY,
  MSIX_FUNCTION_MASK,
  REG,
  STATUS,
} from "./pci_config.ts";
import type { PciFunctionState, PciWires } from "./pci.ts";

const PORTS = 0x10000;
/** Functions of a slot. */
const FUNCTIONS = 8;
const FOUR_GIB = 0x1_0000_0000;
/** Offsets in an MSI-X table entry (6.8.2.6 to 6.8.2.9). */
const ENTRY_ADDRESS = 0;
const ENTRY_ADDRESS_HIGH = 4;
const ENTRY_DATA = 8;
const ENTRY_CONTROL = 12;
const ENTRY_MASKED = 1;
/** Header type: another function shares the slot. */
const MULTIFUNCTION = 0x80;
/** Where a 64-bit base would no longer be an exact number. */
const ADDRESS_LIMIT = 2 ** 52;

/** A mapped BAR. */
interface Mapping {
  address: number;
  claim: Claim;
}

/** A function on the bus: what its device holds, and what the bus calls. */
export class PciSlotFunction implements PciFunction {
  readonly slot: number;
  readonly fn: number;
  #owner: Owner;
  #config: PciFunctionConfig;
  #layout: ConfigLayout;
  readonly #wires: PciWires;
  readonly #bytes: Uint8Array;
  readonly #mappings: (Mapping | undefined)[] = Array(BARS).fill(undefined);
  /** Its MSI-X table, and a pending bit for each vector. */
  readonly #table: Uint8Array;
  readonly #pending: Uint8Array;
  /** The level that the device drives. */
  #intx = false;
  /** The level that reaches the PIRQ. */
  #asserted = false;

  /**
   * A function after reset.
   *
   * @param owner The device.
   * @param config What it declares.
   * @param slot Slot on bus 0.
   * @param fn Function number.
   * @param wires The bus.
   */
  constructor(
    owner: Owner,
    config: PciFunctionConfig,
    slot: number,
    fn: number,
    wires: PciWires,
  ) {
    this.#owner = owner;
    this.#config = config;
    this.slot = slot;
    this.fn = fn;
    this.#wires = wires;
    this.#layout = layOutConfig(owner, config);
    this.#bytes = this.#layout.initial.slice();
    const vectors = config.msix?.vectors ?? 0;
    this.#table = new Uint8Array(vectors * MSIX_ENTRY);
    this.#pending = new Uint8Array(Math.ceil(vectors / 64) * 8);
    this.#resetTable();
  }

  /** The device that it belongs to. */
  get owner(): Owner {
    return this.#owner;
  }

  /** What the device declared. */
  get config(): PciFunctionConfig {
    return this.#config;
  }

  /** The declared BARs. */
  get bars(): readonly PciBar[] {
    return this.#layout.bars;
  }

  #resetTable(): void {
    this.#table.fill(0);
    this.#pending.fill(0);
    for (let at = 0; at < this.#table.length; at += MSIX_ENTRY) {
      this.#table[at + ENTRY_CONTROL] = ENTRY_MASKED;
    }
  }

  /** RST#: the configuration space as it was first, no BAR mapped, INTx low. */
  reset(): void {
    const headerType = this.#bytes[REG.HEADER_TYPE];
    this.#bytes.set(this.#layout.initial);
    this.#bytes[REG.HEADER_TYPE] = headerType;
    this.#resetTable();
    this.#intx = false;
    this.#changed();
  }

  /** Sets header type bit 7: another function shares the slot. */
  markMultifunction(): void {
    this.#bytes[REG.HEADER_TYPE] |= MULTIFUNCTION;
  }

  get #command(): number {
    return get(this.#bytes, REG.COMMAND, 2);
  }

  get busMaster(): boolean {
    return (this.#command & COMMAND.BUS_MASTER) !== 0;
  }

  get msiEnabled(): boolean {
    const at = this.#layout.msi;
    return at !== 0 && (this.#bytes[at + MSI.CONTROL] & MSI_ENABLE) !== 0;
  }

  get #msixControl(): number {
    const at = this.#layout.msix;
    return at === 0 ? 0 : get(this.#bytes, at + MSIX.CONTROL, 2);
  }

  get msixEnabled(): boolean {
    return (this.#msixControl & MSIX_ENABLE) !== 0;
  }

  setIntx(level: boolean): void {
    if (level === this.#intx) return;
    this.#intx = level;
    this.#updateIntx();
  }

  #updateIntx(): void {
    const { interruptPin = 0 } = this.config;
    if (interruptPin === 0) return;
    if (this.#intx) this.#bytes[REG.STATUS] |= STATUS.INTERRUPT;
    else this.#bytes[REG.STATUS] &= ~STATUS.INTERRUPT;
    const asserted = this.#intx && !this.msiEnabled && !this.msixEnabled &&
      (this.#command & COMMAND.INTX_DISABLE) === 0;
    if (asserted === this.#asserted) return;
    this.#asserted = asserted;
    this.#wires.setIntx(this, interruptPin, asserted);
  }

  signal(vector: number): void {
    if (this.msixEnabled) this.#signalMsix(vector);
    else if (this.msiEnabled) this.#signalMsi(vector);
  }

  #signalMsix(vector: number): void {
    const vectors = this.config.msix?.vectors ?? 0;
    if (vector < 0 || vector >= vectors) return;
    const at = vector * MSIX_ENTRY;
    const masked = (this.#msixControl & MSIX_FUNCTION_MASK) !== 0 ||
      (this.#table[at + ENTRY_CONTROL] & ENTRY_MASKED) !== 0;
    if (masked) {
      this.#pending[vector >> 3] |= 1 << (vector & 7);
      return;
    }
    this.#pending[vector >> 3] &= ~(1 << (vector & 7));
    this.#wires.message(
      this,
      get(this.#table, at + ENTRY_ADDRESS, 4),
      get(this.#table, at + ENTRY_ADDRESS_HIGH, 4),
      get(this.#table, at + ENTRY_DATA, 4),
    );
  }

  #signalMsi(vector: number): void {
    const at = this.#layout.msi;
    const bytes = this.#bytes;
    const enabled = 1 <<
      ((bytes[at + MSI.CONTROL] >> MSI_ENABLED_SHIFT) & MSI_ENABLED_MASK);
    const offered = this.config.msi ?? 1;
    // A guest that grants fewer vectors has them shared (6.8.3.4).
    const sent = vector & (Math.min(enabled, offered) - 1);
    const bit = 2 ** sent;
    const pending = get(bytes, at + MSI.PENDING, 4);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    if (((get(bytes, at + MSI.MASK, 4) >>> sent) & 1) !== 0) {
      view.setUint32(at + MSI.PENDING, (pending | bit) >>> 0, true);
      return;
    }
    view.setUint32(at + MSI.PENDING, (pending & ~bit) >>> 0, true);
    const data = get(bytes, at + MSI.DATA, 2);
    this.#wires.message(
      this,
      get(bytes, at + MSI.ADDRESS, 4),
      get(bytes, at + MSI.ADDRESS_HIGH, 4),
      (data & ~(enabled - 1)) | sent,
    );
  }

  /** Sends what became pending while it was masked and no longer is. */
  #sendPending(): void {
    if (this.msixEnabled) {
      if ((this.#msixControl & MSIX_FUNCTION_MASK) !== 0) return;
      for (let byte = 0; byte < this.#pending.length; byte++) {
        for (let bit = 0; this.#pending[byte] >> bit !== 0; bit++) {
          if ((this.#pending[byte] >> bit & 1) !== 0) {
            this.#signalMsix(8 * byte + bit);
          }
        }
      }
    } else if (this.msiEnabled) {
      const at = this.#layout.msi;
      const ready = get(this.#bytes, at + MSI.PENDING, 4) &
        ~get(this.#bytes, at + MSI.MASK, 4);
      for (let vector = 0; ready >>> vector !== 0 && vector < 32; vector++) {
        if ((ready >>> vector & 1) !== 0) this.#signalMsi(vector);
      }
    }
  }

  readConfig(offset: number, size: AccessSize): number {
    if (offset < 0 || offset + size > CONFIG_SIZE) return floating(size);
    return get(this.#bytes, offset, size);
  }

  writeConfig(offset: number, size: AccessSize, value: number): void {
    if (offset < 0 || offset + size > CONFIG_SIZE) return;
    for (let i = 0; i < size; i++) this.#bytes[offset + i] = value >>> (8 * i);
    if (this.#isCore(offset, size)) this.#changed();
  }

  /**
   * The guest reads configuration space.
   *
   * @param offset 0 to 255.
   * @param size Bytes.
   * @returns The value.
   */
  guestRead(offset: number, size: AccessSize): number {
    const { registers } = this.config;
    if (offset >= HEADER_END && registers?.onRead !== undefined) {
      this.#told("config read", offset, () => registers.onRead!(offset, size));
    }
    return this.readConfig(offset, size);
  }

  /**
   * The guest writes configuration space.
   *
   * @param offset 0 to 255.
   * @param size Bytes.
   * @param value What.
   */
  guestWrite(offset: number, size: AccessSize, value: number): void {
    if (offset + size > CONFIG_SIZE) return;
    const { writable, device } = this.#layout;
    let toDevice = false;
    for (let i = 0; i < size; i++) {
      const at = offset + i;
      const mask = writable[at];
      this.#bytes[at] = (this.#bytes[at] & ~mask) |
        ((value >>> (8 * i)) & mask);
      if (device[at] !== 0) toDevice = true;
    }
    if (this.#isCore(offset, size)) this.#changed();
    const { registers } = this.config;
    if (toDevice && registers?.onWrite !== undefined) {
      this.#told(
        "config write",
        offset,
        () => registers.onWrite!(offset, size),
      );
    }
  }

  /** Whether any of these registers matters to the core: command, BARs, MSI and MSI-X. */
  #isCore(offset: number, size: number): boolean {
    if (offset < HEADER_END) return true;
    const { msi, msix } = this.#layout;
    const touches = (at: number, length: number) =>
      at !== 0 && offset < at + length && offset + size > at;
    return touches(msi, MSI.SIZE) || touches(msix, MSIX.SIZE);
  }

  #told(operation: string, offset: number, call: () => void): void {
    try {
      call();
    } catch (error) {
      this.#wires.fault(new PluginError(this.owner, operation, offset, error));
    }
  }

  /** Brings everything that hangs on the configuration space up to date. */
  #changed(): void {
    for (const bar of this.#layout.bars) this.#map(bar);
    this.#updateIntx();
    this.#sendPending();
  }

  /**
   * Where a BAR is decoded.
   *
   * @param bar The BAR.
   * @returns Its address; undefined where decoding is off or the address is none.
   */
  decoded(bar: PciBar): number | undefined {
    const enable = bar.kind === "io" ? COMMAND.IO : COMMAND.MEMORY;
    if ((this.#command & enable) === 0) return undefined;
    const address = this.barAddress(bar);
    if (address === 0) return undefined;
    const limit = bar.kind === "io"
      ? PORTS
      : bar.wide === true
      ? ADDRESS_LIMIT
      : FOUR_GIB;
    return address + bar.size < limit ? address : undefined;
  }

  /**
   * The address in a BAR.
   *
   * @param bar The BAR.
   * @returns The address, decoded or not.
   */
  barAddress(bar: PciBar): number {
    const at = REG.BAR0 + 4 * bar.index;
    const low = get(this.#bytes, at, 4);
    const address = low - low % (bar.kind === "io" ? 4 : 16);
    return bar.wide === true
      ? address + get(this.#bytes, at + 4, 4) * FOUR_GIB
      : address;
  }

  #map(bar: PciBar): void {
    const address = this.decoded(bar);
    const mapping = this.#mappings[bar.index];
    if (mapping?.address === address) return;
    mapping?.claim.release();
    this.#mappings[bar.index] = undefined;
    if (address === undefined) return;
    const handler = this.#handler(bar);
    const rank = (this.slot * FUNCTIONS + this.fn) * BARS + bar.index;
    const claim = bar.kind === "io"
      ? this.#wires.isa.overlayPorts(
        this.owner,
        address,
        bar.size,
        handler,
        rank,
      )
      : this.#wires.memory.claim(
        address,
        bar.size,
        guarded(
          this.owner,
          handler,
          "mmio",
          () => address,
          this.#wires.fault,
          () => this.#wires.trace.mmio,
        ),
        rank,
      );
    this.#mappings[bar.index] = { address, claim };
  }

  /** What answers in a BAR: the device, but the core where the MSI-X structures are. */
  #handler(bar: PciBar): IoHandler {
    const none: IoHandler = { read: () => 0, write: () => {} };
    const device = bar.handler ?? none;
    const { msix } = this.config;
    if (msix === undefined || msix.bar !== bar.index) return device;
    const { tableOffset, pbaOffset } = msix;
    const inside = (offset: number, start: number, bytes: Uint8Array) =>
      offset >= start && offset < start + bytes.length;
    return {
      read: (offset, size) => {
        if (inside(offset, tableOffset, this.#table)) {
          return get(this.#table, offset - tableOffset, size);
        }
        if (inside(offset, pbaOffset, this.#pending)) {
          return get(this.#pending, offset - pbaOffset, size);
        }
        return device.read(offset, size);
      },
      write: (offset, size, value) => {
        if (inside(offset, tableOffset, this.#table)) {
          this.#writeTable(offset - tableOffset, size, value);
        } else if (!inside(offset, pbaOffset, this.#pending)) {
          device.write(offset, size, value);
        }
      },
    };
  }

  #writeTable(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size && offset + i < this.#table.length; i++) {
      this.#table[offset + i] = value >>> (8 * i);
    }
    const entry = offset - offset % MSIX_ENTRY;
    // Reserved bits of the vector control and of the address read as zero.
    this.#table[entry + ENTRY_ADDRESS] &= ~3;
    this.#table[entry + ENTRY_CONTROL] &= ENTRY_MASKED;
    this.#table.fill(0, entry + ENTRY_CONTROL + 1, entry + MSIX_ENTRY);
    this.#sendPending();
  }

  /**
   * Checks that another device could have this function without the guest seeing it in the
   * configuration space; changes nothing.
   *
   * @param owner The other device.
   * @param config What it declares.
   * @throws {MachineError} Where it declares something else.
   */
  requireSame(owner: Owner, config: PciFunctionConfig): void {
    const mine = this.#layout;
    const other = layOutConfig(owner, config);
    for (let at = 0; at < CONFIG_SIZE; at++) {
      const ignored = at === REG.HEADER_TYPE ? MULTIFUNCTION : 0;
      const fixed = ~(mine.writable[at] | ignored) & 0xff;
      if (
        mine.writable[at] !== other.writable[at] ||
        ((mine.initial[at] ^ other.initial[at]) & fixed) !== 0
      ) {
        throw new MachineError(
          `device "${owner.id}": plugin "${owner.plugin}" declares another configuration space, from offset ${
            hex(at)
          } on: the guest knows that of plugin "${this.#owner.plugin}"`,
        );
      }
    }
  }

  /**
   * Gives the function, as it is, to another device.
   *
   * @param owner The device.
   * @param config What it declares, which {@linkcode requireSame} has accepted.
   */
  become(owner: Owner, config: PciFunctionConfig): void {
    for (const mapping of this.#mappings) mapping?.claim.release();
    this.#mappings.fill(undefined);
    this.#owner = owner;
    this.#config = config;
    this.#layout = layOutConfig(owner, config);
    for (const bar of this.#layout.bars) this.#map(bar);
  }

  /** The state of the function that the bus saves. */
  save(): PciFunctionState {
    return {
      slot: this.slot,
      fn: this.fn,
      owner: this.owner.id,
      config: this.#bytes.slice(),
      intx: this.#intx,
      msixTable: this.#table.slice(),
      msixPending: this.#pending.slice(),
    };
  }

  /** The bits at an offset that MSI sets itself: those of the vectors that it has. */
  #msiPending(offset: number): number {
    const { msi } = this.#layout;
    const byte = offset - msi - MSI.PENDING;
    if (msi === 0 || byte < 0 || byte >= 4) return 0;
    const vectors = 2 ** (this.config.msi ?? 1) - 1;
    return Math.floor(vectors / 2 ** (8 * byte)) & 0xff;
  }

  /**
   * Checks a state against this function, changing nothing.
   *
   * @param state A validated state.
   * @param path How errors name it.
   * @throws {SchemaError} Where no guest could have brought it about.
   */
  check(state: PciFunctionState, path: string): void {
    const { initial, writable, headers } = this.#layout;
    for (let at = 0; at < CONFIG_SIZE; at++) {
      // What is neither a header nor MSI(-X) is the device's, which may have written it.
      const isHeader = headers.includes(at) || headers.includes(at - 1);
      if (!this.#isCore(at, 1) && !isHeader) continue;
      const ignored = at === REG.STATUS
        ? STATUS.INTERRUPT
        : at === REG.HEADER_TYPE
        ? MULTIFUNCTION
        : this.#msiPending(at);
      const fixed = ~(writable[at] | ignored) & 0xff;
      if (((state.config[at] ^ initial[at]) & fixed) !== 0) {
        throw new SchemaError(
          `${path}.config[${hex(at)}]`,
          `is ${hex(state.config[at])}: expected ${
            hex(initial[at] & fixed)
          } in the bits ${hex(fixed)}, as device "${this.owner.id}" has them`,
        );
      }
    }
    const size = (field: "msixTable" | "msixPending", length: number) => {
      if (state[field].length === length) return;
      throw new SchemaError(
        `${path}.${field}`,
        `is ${
          state[field].length
        } bytes: expected ${length}, as device "${this.owner.id}" has them`,
      );
    };
    size("msixTable", this.#table.length);
    size("msixPending", this.#pending.length);
    const vectors = this.config.msix?.vectors ?? 0;
    for (let vector = 0; vector < this.#pending.length * 8; vector++) {
      const pending = (state.msixPending[vector >> 3] >> (vector & 7)) & 1;
      if (pending !== 0 && vector >= vectors) {
        throw new SchemaError(
          `${path}.msixPending`,
          `has vector ${vector} pending: expected vectors below ${vectors}`,
        );
      }
    }
    for (let at = 0; at < state.msixTable.length; at += MSIX_ENTRY) {
      const reserved = (get(state.msixTable, at + ENTRY_CONTROL, 4) &
        ~ENTRY_MASKED) |
        (state.msixTable[at + ENTRY_ADDRESS] & 3);
      if (reserved !== 0) {
        throw new SchemaError(
          `${path}.msixTable[${at / MSIX_ENTRY}]`,
          "has reserved bits set: expected zeroes",
        );
      }
    }
  }

  /**
   * Takes a state that {@linkcode check} has accepted; maps the BARs and tells the interrupt lines.
   *
   * @param state The state.
   */
  restore(state: PciFunctionState): void {
    this.#bytes.set(state.config);
    this.#intx = state.intx;
    this.#table.set(state.msixTable);
    this.#pending.set(state.msixPending);
    for (const bar of this.#layout.bars) this.#map(bar);
    this.#updateIntx();
  }
}
