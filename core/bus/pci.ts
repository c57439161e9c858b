/**
 * PCI bus 0: configuration mechanism #1 (ports 0xCF8 and 0xCFC, PCI Local Bus 3.0 section
 * 3.2.2.3.2), the enhanced mechanism (ECAM, PCI Express Base 7.2.2), INTx routing, and message
 * signalled interrupts.
 *
 * @module
 */
import {
  type DmaMemory,
  type IoHandler,
  MachineError,
  type PciBar,
  type PciFunctionConfig,
} from "../plugin.ts";
import type { FaultSink, Owner, TraceSinks } from "../fault.ts";
import {
  bool,
  bytes,
  type Infer,
  list,
  record,
  schema,
  SchemaError,
  show,
  str,
  u32,
  u8,
} from "../../snapshot/schema.ts";
import { floating, type Isa, type MemoryMap } from "./isa.ts";
import type { Interrupts } from "./irq.ts";
import { COMMAND, CONFIG_SIZE, REG } from "./pci_config.ts";
import { PciSlotFunction } from "./pci_function.ts";

/** Where the enhanced configuration mechanism is. */
export const ECAM_BASE = 0xe0000000;
/** Its length: 1 MiB for each of 256 buses. */
export const ECAM_LENGTH = 256 << 20;

const SLOTS = 32;
const FUNCTIONS = 8;
const PIRQS = 8;
const MAX_MSIX = 2048;
const MSIX_ENTRY = 16;

const CONFIG_ADDRESS = 0xcf8;
const CONFIG_DATA = 0xcfc;
const CONFIG_DATA_PORTS = 4;
/** Fields of CONFIG_ADDRESS. */
const ADDRESS_ENABLE = 0x80000000;
const ADDRESS_WRITABLE = 0x80fffffc;
const ADDRESS_BUS = 0xff0000;
const ADDRESS_FUNCTION_SHIFT = 8;
const ADDRESS_REGISTER = 0xfc;
/** Fields of an offset in ECAM. */
const ECAM_BUS_SHIFT = 20;
const ECAM_FUNCTION_SHIFT = 12;
const ECAM_REGISTER = 0xfff;

/** Saved state of the PCI bus and of every function's configuration space. */
export const pciSchema = schema("pci", 1, {
  /** The latch at 0xCF8. */
  configAddress: u32(),
  functions: list(
    record({
      slot: u8({ max: SLOTS - 1 }),
      fn: u8({ max: FUNCTIONS - 1 }),
      /** The device that it belongs to. */
      owner: str({ max: 256 }),
      config: bytes(CONFIG_SIZE),
      /** The level that the device drives on its INTx pin. */
      intx: bool(),
      msixTable: bytes({ max: MAX_MSIX * MSIX_ENTRY }),
      msixPending: bytes({ max: MAX_MSIX / 8 }),
    }),
    { max: SLOTS * FUNCTIONS },
  ),
});

/** Saved state of the PCI bus. */
export type PciState = Infer<typeof pciSchema>;
/** Saved state of one function. */
export type PciFunctionState = PciState["functions"][number];

/** What a function is wired to. */
export interface PciWires {
  /** Where I/O BARs are claimed. */
  readonly isa: Isa;
  /** Where memory BARs are claimed. */
  readonly memory: MemoryMap;
  /** Takes what devices throw. */
  readonly fault: FaultSink;
  /** Where accesses are traced. */
  readonly trace: TraceSinks;
  /** Drives the PIRQ of a function's pin. */
  setIntx(fn: PciSlotFunction, pin: number, level: boolean): void;
  /** Sends a message signalled interrupt. */
  message(
    fn: PciSlotFunction,
    address: number,
    addressHigh: number,
    data: number,
  ): void;
}

/** A range from which BARs are placed. */
export interface ResourceWindow {
  /** First address or port. */
  base: number;
  /** Bytes or ports. */
  length: number;
}

/** PCI bus 0 of one machine. */
export class Pci {
  readonly #functions: (PciSlotFunction | undefined)[] = Array(
    SLOTS * FUNCTIONS,
  ).fill(undefined);
  readonly #wires: PciWires;
  #configAddress = 0;

  /**
   * An empty bus.
   *
   * @param isa The ports: 0xCF8 to 0xCFF and I/O BARs are claimed there.
   * @param memory The memory map: ECAM and memory BARs are claimed there.
   * @param ram Guest RAM, to which a message that is no interrupt is written.
   * @param interrupts Lines and messages.
   * @param fault Takes the errors of devices.
   * @param trace Where accesses are traced.
   */
  constructor(
    isa: Isa,
    memory: MemoryMap,
    ram: DmaMemory,
    interrupts: Interrupts,
    fault: FaultSink,
    trace: TraceSinks = {},
  ) {
    this.#wires = {
      isa,
      memory,
      fault,
      trace,
      setIntx: (fn, pin, level) =>
        interrupts.setPirq((fn.slot + pin - 1) % PIRQS, level, fn.owner),
      message: (fn, address, addressHigh, data) => {
        trace.irq?.(
          `msi ${fn.owner.id} address 0x${address.toString(16)} data 0x${
            data.toString(16)
          }`,
        );
        if (addressHigh === 0 && interrupts.message(address, data)) return;
        const target = addressHigh * 2 ** 32 + address;
        if (ram.contains(target, 4)) ram.writeU32(target, data);
      },
    };
    const owner: Owner = { id: "pci", plugin: "pci" };
    isa.claimPorts(owner, CONFIG_ADDRESS, 1, this.#addressPort(), 4);
    isa.claimPorts(owner, CONFIG_DATA, CONFIG_DATA_PORTS, this.#dataPort());
    isa.claimMemory(owner, ECAM_BASE, ECAM_LENGTH, this.#ecam());
  }

  #addressPort(): IoHandler {
    return {
      read: () => this.#configAddress,
      write: (_port, _size, value) => {
        this.#configAddress = (value & ADDRESS_WRITABLE) >>> 0;
      },
    };
  }

  /** The function and register that CONFIG_ADDRESS selects. */
  #selected(port: number): [PciSlotFunction | undefined, number] {
    const address = this.#configAddress;
    const register = (address & ADDRESS_REGISTER) + (port - CONFIG_DATA);
    const off = (address & ADDRESS_ENABLE) === 0 ||
      (address & ADDRESS_BUS) !== 0;
    const index = (address >>> ADDRESS_FUNCTION_SHIFT) & 0xff;
    return [off ? undefined : this.#functions[index], register];
  }

  #dataPort(): IoHandler {
    return {
      read: (port, size) => {
        const [fn, register] = this.#selected(port);
        return fn?.guestRead(register, size) ?? floating(size);
      },
      write: (port, size, value) => {
        const [fn, register] = this.#selected(port);
        fn?.guestWrite(register, size, value);
      },
    };
  }

  #ecam(): IoHandler {
    const select = (offset: number) =>
      offset >>> ECAM_BUS_SHIFT === 0
        ? this.#functions[offset >>> ECAM_FUNCTION_SHIFT]
        : undefined;
    return {
      read: (offset, size) =>
        select(offset)?.guestRead(offset & ECAM_REGISTER, size) ??
          floating(size),
      write: (offset, size, value) =>
        select(offset)?.guestWrite(offset & ECAM_REGISTER, size, value),
    };
  }

  /**
   * The bus as one device sees it.
   *
   * @param owner The device.
   * @param address Where the user wants its first function, if anywhere.
   * @returns What `ctx.pci` is.
   */
  view(
    owner: Owner,
    address?: { slot: number; fn: number },
  ): { attach(config: PciFunctionConfig): PciSlotFunction } {
    let wanted = address;
    return {
      attach: (config) => {
        const placed = wanted === undefined
          ? config
          : { ...config, address: wanted };
        wanted = undefined;
        return this.attach(owner, placed);
      },
    };
  }

  /**
   * Puts a function on the bus.
   *
   * @param owner The device.
   * @param config What it declares.
   * @returns The function.
   * @throws {MachineError} When the declaration is wrong, the place is taken or the bus is full.
   */
  attach(owner: Owner, config: PciFunctionConfig): PciSlotFunction {
    const { slot, fn } = config.address ?? this.#freePlace(owner);
    if (
      !Number.isInteger(slot) || slot < 0 || slot >= SLOTS ||
      !Number.isInteger(fn) || fn < 0 || fn >= FUNCTIONS
    ) {
      throw new MachineError(
        `device "${owner.id}": PCI address ${slot}.${fn}: expected a slot from 0 to ${
          SLOTS - 1
        } and a function from 0 to ${FUNCTIONS - 1}`,
      );
    }
    const index = slot * FUNCTIONS + fn;
    const other = this.#functions[index];
    if (other !== undefined) {
      throw new MachineError(
        `device "${owner.id}": PCI address ${slot}.${fn} is taken by device "${other.owner.id}": give it another addr=SLOT[.FN]`,
      );
    }
    const made = new PciSlotFunction(owner, config, slot, fn, this.#wires);
    this.#functions[index] = made;
    const shared = this.#functions.slice(
      slot * FUNCTIONS,
      (slot + 1) * FUNCTIONS,
    ).filter((f) => f !== undefined);
    if (shared.length > 1) { for (const f of shared) f.markMultifunction(); }
    return made;
  }

  #freePlace(owner: Owner): { slot: number; fn: number } {
    for (let slot = 1; slot < SLOTS; slot++) {
      const from = slot * FUNCTIONS;
      const free = this.#functions.slice(from, from + FUNCTIONS)
        .every((f) => f === undefined);
      if (free) return { slot, fn: 0 };
    }
    throw new MachineError(
      `device "${owner.id}": no free slot on PCI bus 0: remove a device, or share a slot with addr=SLOT.FN`,
    );
  }

  /** The functions, in the order of their addresses. */
  get functions(): readonly PciSlotFunction[] {
    return this.#functions.filter((f) => f !== undefined);
  }

  /** RST# on the bus. */
  reset(): void {
    this.#configAddress = 0;
    for (const fn of this.functions) fn.reset();
  }

  /**
   * Places the BARs as firmware does, and turns their decoding on: kernels that are loaded
   * without firmware rely on it. Largest first, so that nothing is wasted.
   *
   * @param io Ports to give.
   * @param memory Addresses below 4 GiB to give.
   * @throws {MachineError} When the BARs do not fit.
   */
  assignResources(io: ResourceWindow, memory: ResourceWindow): void {
    const wanted = this.functions.flatMap((fn) =>
      fn.bars.map((bar) => ({ fn, bar }))
    );
    wanted.sort((a, b) => b.bar.size - a.bar.size);
    const next = { io: io.base, memory: memory.base };
    const end = {
      io: io.base + io.length,
      memory: memory.base + memory.length,
    };
    for (const { fn, bar } of wanted) {
      const { kind, size } = bar;
      const address = Math.ceil(next[kind] / size) * size;
      if (address + size > end[kind]) {
        throw new MachineError(
          `device "${fn.owner.id}": no room for BAR ${bar.index} of ${size} bytes in the PCI window: remove a device`,
        );
      }
      next[kind] = address + size;
      placeBar(fn, bar, address);
    }
    for (const fn of this.functions) {
      const kinds = new Set(fn.bars.map((bar) => bar.kind));
      const command = (kinds.has("io") ? COMMAND.IO : 0) |
        (kinds.has("memory") ? COMMAND.MEMORY : 0);
      if (command !== 0) fn.guestWrite(REG.COMMAND, 2, command);
    }
  }

  /** The state of the bus. */
  save(): PciState {
    return {
      configAddress: this.#configAddress,
      functions: this.functions.map((fn) => fn.save()),
    };
  }

  /**
   * Restores the bus: everything is checked first. To be called inside
   * {@linkcode Interrupts.quietly}, after the interrupt wires.
   *
   * @param state A validated state.
   * @throws {SchemaError} When it has other functions than this machine, or one that cannot be.
   */
  restore(state: PciState): void {
    const mine = this.functions;
    if ((state.configAddress & ~ADDRESS_WRITABLE) !== 0) {
      throw new SchemaError(
        "pci.configAddress",
        `is 0x${
          state.configAddress.toString(16)
        }: expected reserved bits clear`,
      );
    }
    if (state.functions.length !== mine.length) {
      throw new SchemaError(
        "pci.functions",
        `has ${state.functions.length} functions: expected the ${mine.length} of this machine`,
      );
    }
    mine.forEach((fn, i) => {
      const saved = state.functions[i];
      const path = `pci.functions[${i}]`;
      if (
        saved.slot !== fn.slot || saved.fn !== fn.fn ||
        saved.owner !== fn.owner.id
      ) {
        throw new SchemaError(
          path,
          `is device ${
            show(saved.owner)
          } at ${saved.slot}.${saved.fn}: expected "${fn.owner.id}" at ${fn.slot}.${fn.fn}`,
        );
      }
      fn.check(saved, path);
    });
    this.#configAddress = state.configAddress;
    mine.forEach((fn, i) => fn.restore(state.functions[i]));
  }
}

/** Writes a BAR as the guest would. */
function placeBar(fn: PciSlotFunction, bar: PciBar, address: number): void {
  const at = REG.BAR0 + 4 * bar.index;
  fn.guestWrite(at, 4, address % 2 ** 32);
  if (bar.wide === true) {
    fn.guestWrite(at + 4, 4, Math.floor(address / 2 ** 32));
  }
}

/**
 * Where a 32-bit memory BAR is.
 *
 * @param fn The function.
 * @param index The BAR's number.
 * @returns Its address.
 */
export function readBar(fn: PciSlotFunction, index: number): number {
  return (fn.readConfig(REG.BAR0 + 4 * index, 4) & ~0xf) >>> 0;
}

/**
 * Parses the option `addr=SLOT[.FN]`, hexadecimal or decimal as in C.
 *
 * @param text The option's value.
 * @param device The device, for messages.
 * @returns The place on bus 0.
 * @throws {MachineError} When it is malformed.
 */
export function parsePciAddress(
  text: string,
  device: string,
): { slot: number; fn: number } {
  const match = /^(0x[0-9a-f]+|\d+)(?:\.([0-7]))?$/i.exec(text);
  const slot = Number(match?.[1]);
  if (match === null || slot >= SLOTS) {
    throw new MachineError(
      `option "addr" of device "${device}" is "${text}": expected SLOT or SLOT.FN, such as 5 or 0x1f.2`,
    );
  }
  return { slot, fn: Number(match[2] ?? 0) };
}
