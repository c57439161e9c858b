/**
 * The plugin contract: everything that a device sees of the machine.
 *
 * A device is one TypeScript file whose default export is the value of {@linkcode definePlugin}.
 * It receives a {@linkcode DeviceContext} and reaches the machine through nothing else: no device
 * imports another device, and none uses a `Deno.*` or `node:` API.
 *
 * @module
 */
import type { Backends } from "./backend.ts";
import type { Schema, TimerState } from "../snapshot/schema.ts";

export * from "./backend.ts";

/** Width of one bus access in bytes. An 8-byte access reaches a handler as two 4-byte accesses, low half first. */
export type AccessSize = 1 | 2 | 4;

/** A device's answer to programmed I/O. `address` is the port number, or the offset in the claimed region. */
export interface IoHandler {
  /**
   * Reads `size` bytes.
   *
   * @param address Port number (ports) or byte offset from the start of the region (MMIO).
   * @returns An unsigned value; bits above `size` bytes are ignored.
   */
  read(address: number, size: AccessSize): number;
  /** Writes the low `size` bytes of `value`, an unsigned number below 2^32. */
  write(address: number, size: AccessSize, value: number): void;
}

/** A device with 8-bit registers, as {@linkcode bytewise} takes it. */
export interface ByteRegisters {
  /** Reads the register at a port, or at an offset in a region. */
  read(address: number): number;
  /** Writes a byte to the register. */
  write(address: number, value: number): void;
}

/**
 * A handler for wider accesses to a device with 8-bit registers: the bus makes one cycle a byte,
 * the lowest address first.
 *
 * @param device Reads and writes one register.
 * @returns The handler to claim ports or memory with.
 */
export function bytewise(device: ByteRegisters): IoHandler {
  return {
    read(address, size) {
      let value = 0;
      for (let i = 0; i < size; i++) {
        value |= (device.read(address + i) & 0xff) << (8 * i);
      }
      return value >>> 0;
    },
    write(address, size, value) {
      for (let i = 0; i < size; i++) {
        device.write(address + i, value >>> (8 * i) & 0xff);
      }
    },
  };
}

/** Registers of 32 bits at multiples of four. */
export interface WordRegisters {
  /** Reads the register at an offset. */
  read(offset: number): number;
  /** Writes the register at an offset. */
  write(offset: number, value: number): void;
}

/**
 * A handler for registers that are accessed as 32 bits: a narrower read gets its part of the register, a narrower or
 * misaligned write is dropped.
 *
 * @param registers Reads and writes one register.
 * @returns The handler to claim ports or memory with.
 */
export function wordwise(registers: WordRegisters): IoHandler {
  return {
    read(address, size) {
      const value = registers.read(address & ~3) >>> 8 * (address & 3);
      return size === 4 ? value : value & 2 ** (8 * size) - 1;
    },
    write(address, size, value) {
      if (size === 4 && (address & 3) === 0) registers.write(address, value);
    },
  };
}

/** A claim on a range of ports or addresses; releasing it makes the range unclaimed again. */
export interface Claim {
  /** Ends the claim. */
  release(): void;
}

/** One source of a level on a shared interrupt line. The line's level is the OR of its sources. */
export interface IrqLine {
  /** Whether this source asserts the line. Owned and saved by the bus, not by the device. */
  readonly level: boolean;
  /** Asserts or deasserts this source. */
  set(level: boolean): void;
  /** Asserts, then deasserts: one edge. */
  pulse(): void;
}

/** The ISA bus: ports, fixed memory regions, and the 16 ISA interrupt lines. */
export interface IsaBus {
  /**
   * Claims `count` ports from `first`.
   *
   * @throws {MachineError} when any of them is already claimed; the message names the owner.
   */
  claimPorts(first: number, count: number, handler: IoHandler): Claim;
  /**
   * Claims a fixed region of the physical address space (LAPIC, I/O APIC, HPET, VGA windows).
   *
   * @param base Physical address, a multiple of 4 KiB.
   * @param length Bytes, a multiple of 4 KiB.
   */
  claimMemory(base: number, length: number, handler: IoHandler): Claim;
  /** A new source on ISA interrupt line `irq` (0 to 15). Several devices may share a line. */
  irq(irq: number): IrqLine;
}

/** A base address register as a device declares it. */
export interface PciBar {
  /** 0 to 5. A 64-bit BAR takes `index` and `index + 1`. */
  index: number;
  /** I/O ports or memory. */
  kind: "io" | "memory";
  /** Bytes, a power of two (memory: at least 4 KiB; I/O: 4 to 256). */
  size: number;
  /** A 64-bit memory BAR. */
  wide?: boolean;
  /** Prefetchable memory. */
  prefetchable?: boolean;
  /** Answers accesses; `address` is the offset in the BAR. Absent for the BAR that only holds the MSI-X table. */
  handler?: IoHandler;
}

/** A capability in configuration space, apart from MSI and MSI-X, which the core makes. */
export interface PciCapability {
  /** Capability ID, PCI Local Bus 3.0 appendix H. */
  id: number;
  /** Everything after the two header bytes. */
  body: Uint8Array;
  /** Bits that the guest may write; all zero when absent. */
  writable?: Uint8Array;
}

/** What a PCI function is; the core keeps its configuration space from this. */
export interface PciFunctionConfig {
  /** Vendor ID. */
  vendor: number;
  /** Device ID. */
  device: number;
  /** Class, subclass and programming interface: 24 bits. */
  classCode: number;
  /** Revision ID; 0 when absent. */
  revision?: number;
  /** Subsystem vendor ID; 0 when absent. */
  subsystemVendor?: number;
  /** Subsystem ID; 0 when absent. */
  subsystem?: number;
  /** INTA# to INTD# as 1 to 4; 0 or absent for none. */
  interruptPin?: number;
  /** Base address registers. */
  bars?: PciBar[];
  /** Capabilities, in the order of the list. */
  capabilities?: PciCapability[];
  /** Number of MSI vectors (a power of two up to 32); absent for no MSI capability. */
  msi?: number;
  /** MSI-X vectors and where the table and the pending bits are. */
  msix?: {
    vectors: number;
    bar: number;
    tableOffset: number;
    pbaOffset: number;
  };
  /** A fixed place on bus 0; the next free slot from 1 when absent. Also overridden by the option `addr=SLOT[.FN]`. */
  address?: { slot: number; fn: number };
  /** Part of a multi-function device (header type bit 7). */
  multifunction?: boolean;
  /**
   * Device-specific configuration registers (offset 0x40 and up) and side effects. Called after the core has
   * applied its own writable mask; `registers.writable` declares plain read/write bytes.
   */
  registers?: {
    /** Initial bytes from offset 0x40 on. */
    initial?: { offset: number; bytes: Uint8Array }[];
    /** Ranges the guest may write. */
    writable?: { offset: number; mask: Uint8Array }[];
    /** Called after a write that touched any writable device-specific byte. */
    onWrite?(offset: number, size: AccessSize): void;
    /**
     * Called before the guest reads at offset 0x40 or above, so that the device can put the value there with
     * {@linkcode PciFunction.writeConfig} (virtio's PCI configuration access capability). Not called for
     * {@linkcode PciFunction.readConfig}.
     */
    onRead?(offset: number, size: AccessSize): void;
  };
}

/** An attached PCI function. Config space, BARs, MSI(-X) state and the INTx level belong to the core and are saved by it. */
export interface PciFunction {
  /** Slot on bus 0. */
  readonly slot: number;
  /** Function number. */
  readonly fn: number;
  /** Asserts or deasserts this function's INTx pin (ignored by the fabric while MSI or MSI-X is enabled). */
  setIntx(level: boolean): void;
  /** Whether the guest enabled MSI-X. */
  readonly msixEnabled: boolean;
  /** Whether the guest enabled MSI. */
  readonly msiEnabled: boolean;
  /** Sends MSI or MSI-X vector `vector`; sets its pending bit if it is masked. Does nothing if neither is enabled. */
  signal(vector: number): void;
  /** Whether the guest set the bus master enable bit; DMA by a function without it is an error in the guest. */
  readonly busMaster: boolean;
  /** Reads the function's own configuration space. */
  readConfig(offset: number, size: AccessSize): number;
  /** Changes the function's own configuration space, ignoring writable masks. */
  writeConfig(offset: number, size: AccessSize, value: number): void;
}

/** PCI bus 0. */
export interface PciBus {
  /**
   * Puts a function on the bus.
   *
   * @throws {MachineError} when the wanted place is taken or the bus is full.
   */
  attach(config: PciFunctionConfig): PciFunction;
}

/** Where a device is plugged in. */
export interface PortPlace {
  /** Id of the controller. */
  controller: string;
  /** Its port, from 0. */
  port: number;
}

/** Ports that controllers have for the devices of other plugins: SATA, USB. `D` is what the kind of bus asks of a device. */
export interface PortBuses {
  /**
   * Offers the ports of a controller.
   *
   * @param kind Kind of bus: `sata`.
   * @param count Number of ports.
   * @param onPlug Called with a device when one is plugged in, and with null when it is taken out.
   */
  provide<D>(
    kind: string,
    count: number,
    onPlug: (port: number, device: D | null) => void,
  ): void;
  /**
   * Plugs this device in. The device of an id that is plugged in already, such as one that is being replaced, takes
   * that one's place.
   *
   * @param kind Kind of bus.
   * @param device What the controller is to see of it.
   * @param wanted The controller and the port; the first that is free where absent.
   * @returns Where it is.
   * @throws {MachineError} When there is no such controller or port, or it is taken.
   */
  plug<D>(kind: string, device: D, wanted?: Partial<PortPlace>): PortPlace;
}

/** Guest memory as a bus master sees it: bounds-checked, dirty-tracked, invalidating translated code it overwrites. */
export interface DmaMemory {
  /** Whether `[address, address + length)` is wholly inside RAM. */
  contains(address: number, length: number): boolean;
  /**
   * A view of guest RAM for reading only: bytes that are put into it are missed by snapshots and by translated code, so
   * use {@linkcode write}. It is valid until the next return to the event loop.
   *
   * @throws {DmaError} when the range is not wholly inside RAM.
   */
  view(address: number, length: number): Uint8Array;
  /** Copies guest RAM into `target`. @throws {DmaError} outside RAM. */
  read(address: number, target: Uint8Array): void;
  /** Copies `source` into guest RAM. @throws {DmaError} outside RAM. */
  write(address: number, source: Uint8Array): void;
  /** Reads a byte. @throws {DmaError} outside RAM. */
  readU8(address: number): number;
  /** Reads 16 bits, little-endian. @throws {DmaError} outside RAM. */
  readU16(address: number): number;
  /** Reads 32 bits, little-endian. @throws {DmaError} outside RAM. */
  readU32(address: number): number;
  /** Reads 64 bits, little-endian. @throws {DmaError} outside RAM. */
  readU64(address: number): bigint;
  /** Writes a byte. @throws {DmaError} outside RAM. */
  writeU8(address: number, value: number): void;
  /** Writes 16 bits, little-endian. @throws {DmaError} outside RAM. */
  writeU16(address: number, value: number): void;
  /** Writes 32 bits, little-endian. @throws {DmaError} outside RAM. */
  writeU32(address: number, value: number): void;
  /** Writes 64 bits, little-endian. @throws {DmaError} outside RAM. */
  writeU64(address: number, value: bigint): void;
}

/** A one-shot timer in virtual time. */
export interface Timer {
  /** Absolute virtual nanoseconds at which it fires, or undefined when it is not armed. */
  readonly deadline: number | undefined;
  /** Arms (or re-arms) the timer at an absolute virtual time; a time in the past fires at the next slice boundary. */
  armAt(deadline: number): void;
  /** Disarms the timer. */
  cancel(): void;
  /** What a field of the type `timer()` holds of it: the time that remains, or null when it is not armed. */
  save(): TimerState;
  /** Arms the timer again as {@linkcode save} found it, or disarms it. */
  restore(state: TimerState): void;
}

/** Virtual time. Numbers are virtual nanoseconds since the machine was made, exact below 2^53 (104 days). */
export interface DeviceClock {
  /** Virtual nanoseconds now. */
  now(): number;
  /** Makes a timer; `fire` runs between slices with `now()` at or after the deadline. */
  timer(fire: () => void): Timer;
  /** Wall-clock time of the guest in milliseconds since 1970 UTC: the machine's `--rtc` base plus virtual time. */
  wallTime(): number;
}

/** A destination of an interrupt message on the APIC bus (Intel SDM vol. 3, 12.6 and 12.11). */
export interface ApicMessage {
  /** Destination field: an APIC ID, or a logical destination. */
  destination: number;
  /** 0 physical, 1 logical. */
  destinationMode: 0 | 1;
  /** 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 6 start-up, 7 ExtINT. */
  deliveryMode: number;
  /** Interrupt vector. */
  vector: number;
  /** True for level-triggered. */
  level: boolean;
}

/** What a local APIC offers to the rest of the machine. */
export interface LocalApic {
  /** APIC ID (8 bits, or 32 in x2APIC mode). */
  readonly id: number;
  /** Whether the message is addressed to this APIC. */
  matches(message: ApicMessage): boolean;
  /** Accepts a message already matched to it. */
  accept(message: ApicMessage): void;
  /** Whether an interrupt (from its IRR, or ExtINT through LINT0) can be delivered now. */
  pending(): boolean;
  /** Takes the highest-priority interrupt and returns its vector (INTA cycle); -1 when it was spurious and nothing is to be delivered. */
  acknowledge(): number;
  /** CR8 (task priority, 0 to 15). */
  taskPriority: number;
  /** Arbitration priority for lowest-priority delivery (lower is preferred). */
  readonly arbitrationPriority: number;
  /** The level of the PIC's INTR output, wired to LINT0. */
  setExternalInterrupt(level: boolean): void;
}

/** The i8259 pair as the rest of the machine sees it. */
export interface InterruptController {
  /** INTA cycle: returns the vector. */
  acknowledge(): number;
}

/** The wires between interrupt controllers. Only interrupt-controller and chipset plugins use it. */
export interface InterruptFabric {
  /** Calls `sink(irq, level)` on every change of the level of an ISA line, 0 to 15 (the PICs listen). */
  onIsaIrq(sink: (irq: number, level: boolean) => void): void;
  /**
   * Calls `sink(gsi, level)` on every change of a global system interrupt, 0 to 23 (the I/O APIC listens).
   * ISA IRQ n is GSI n, but IRQ 0 is GSI 2; PIRQA to PIRQH are GSI 16 to 23.
   */
  onGsi(sink: (gsi: number, level: boolean) => void): void;
  /** Routes PIRQA to PIRQH (0 to 7) to an ISA line as the LPC bridge's PIRQ registers say; null for none. */
  routePirq(pirq: number, irq: number | null): void;
  /** The PIC pair; `null` when the machine has none. */
  pic: InterruptController | null;
  /** Drives the INTR output of the PIC pair, which goes to LINT0 of the first local APIC, or straight to the vCPU without one. */
  setPicOutput(level: boolean): void;
  /** Registers the local APIC of vCPU `index`. */
  registerLocalApic(index: number, apic: LocalApic): void;
  /** Sends a message on the APIC bus (I/O APIC, MSI, IPI). */
  deliver(message: ApicMessage): void;
  /** Called by a local APIC on EOI of a level-triggered vector. */
  broadcastEoi(vector: number): void;
  /**
   * LEG_RT_CNF of the HPET: while it is true the PIT and the RTC do not drive IRQ 0 and IRQ 8
   * (IA-PC HPET 1.0a, section 2.3.5).
   */
  legacyReplacement?: boolean;
  /** The I/O APIC listens for EOIs. */
  onEoi(listener: (vector: number) => void): void;
}

/** Handles one model-specific register range. */
export interface MsrHandler {
  /** Reads a register; throws {@linkcode MsrFault} for #GP. */
  read(index: number): bigint;
  /** Writes a register; throws {@linkcode MsrFault} for #GP. */
  write(index: number, value: bigint): void;
}

/** Thrown by an {@linkcode MsrHandler} to give the guest #GP(0). */
export class MsrFault extends Error {
  /** The class's name, as `Error` has it. */
  override name = "MsrFault";
}

/** A vCPU as an interrupt controller or chipset device sees it. */
export interface CpuPort {
  /** 0 for the bootstrap processor. */
  readonly index: number;
  /** Claims a range of model-specific registers. */
  claimMsrs(first: number, count: number, handler: MsrHandler): void;
  /** To be called whenever {@linkcode LocalApic.pending} may have become true: the vCPU looks at its next boundary. */
  interruptChanged(): void;
  /** Makes a non-maskable interrupt pending. */
  nmi(): void;
  /** INIT (keeps memory; waits for start-up unless it is the bootstrap processor). */
  init(): void;
  /** Start-up IPI with the page number of the entry point. */
  startup(page: number): void;
  /** Time-stamp counter now. */
  readTsc(): bigint;
  /** Virtual time at which the TSC reaches `value`. */
  tscToTime(value: bigint): number;
}

/** What a chipset device may ask of the whole machine. */
export interface MachineControl {
  /** Ends the run: the guest turned the machine off (ACPI S5). */
  powerOff(): void;
  /** Resets every device and vCPU (port 0xCF9, keyboard controller, triple fault policy). */
  reset(): void;
  /** The A20 gate. */
  setA20(enabled: boolean): void;
  /** Called when the user asks for an orderly shutdown (power button). */
  onPowerButton(listener: () => void): void;
  /** The index of the vCPU that makes the present access; absent on a machine with one vCPU. */
  readonly currentCpu?: number;
  /** Bytes of guest RAM below 4 GiB and above it (CMOS reports them). */
  readonly memory: { low: number; high: number };
}

/** A value for one option of a plugin. */
export type OptionValue = string | number | boolean;

/** One typed option of a plugin. */
export interface OptionSpec {
  /** `size` takes 64M and the like, and yields bytes. */
  type: "string" | "number" | "boolean" | "size";
  /** One line for `plugins NAME`. */
  help: string;
  /** Value when it is not given; an option without it is undefined. */
  default?: OptionValue;
  /** Permitted values. */
  choices?: readonly string[];
  /** Least number or size that is permitted. */
  min?: number;
  /** Greatest number or size that is permitted. */
  max?: number;
}

/** The TypeScript type of the options declared by `S`. */
export type OptionsOf<S extends Record<string, OptionSpec>> = {
  [K in keyof S]: S[K] extends { type: "number" | "size"; default: number }
    ? number
    : S[K] extends { type: "number" | "size" } ? number | undefined
    : S[K] extends { type: "boolean"; default: boolean } ? boolean
    : S[K] extends { type: "boolean" } ? boolean | undefined
    : S[K] extends { default: string } ? string
    : string | undefined;
};

/** Registers the state of a device. */
export interface SnapshotPort<T> {
  /**
   * Registers the device's callbacks. `save` returns a plain value of the plugin's state schema and changes nothing;
   * `restore` gets a migrated and validated value and touches no other device.
   */
  register(callbacks: { save(): T; restore(value: T): void }): void;
}

/** A device's log. Lines carry the instance id. */
export interface DeviceLog {
  /** Logs what helps to find a fault of the device. */
  debug(message: string): void;
  /** Logs what the user should know: a guest that misuses the device. */
  warn(message: string): void;
}

/** What the firmware tables must say of a legacy device (section 7 of the design). */
export interface FirmwareNode {
  /** What the device is. */
  kind:
    | "uart"
    | "ps2"
    | "rtc"
    | "pit"
    | "hpet"
    | "pmtimer"
    | "ioapic"
    | "lpc"
    | "vga"
    | "screen";
  /** Of a `screen`: the BAR that is its frame buffer, 32 bits a pixel (0x00RRGGBB), and its size. */
  screen?: { bar: number; width: number; height: number };
  /** First port or base address. */
  base?: number;
  /** ISA interrupt. */
  irq?: number;
  /** I/O APIC ID and the like. */
  id?: number;
}

/** All that a device sees of the machine. */
export interface DeviceContext<
  T = unknown,
  B extends keyof Backends = keyof Backends,
> {
  /** Instance id: `uart0`, or what `id=` gave. */
  readonly id: string;
  /** Ports, fixed memory regions and ISA interrupts. */
  readonly isa: IsaBus;
  /** PCI bus 0. */
  readonly pci: PciBus;
  /** Ports of controllers for the devices of other plugins. */
  readonly ports: PortBuses;
  /** The wires between interrupt controllers. */
  readonly interrupts: InterruptFabric;
  /** Guest memory. */
  readonly memory: DmaMemory;
  /** Virtual time and timers. */
  readonly clock: DeviceClock;
  /** Power, reset and the like. */
  readonly machine: MachineControl;
  /** The vCPUs. */
  readonly cpus: readonly CpuPort[];
  /**
   * Fills an array with random bytes: the host's where time is real, so that no two machines share any, and those of
   * the machine's own generator, which is saved, where time is made of instructions.
   */
  entropy(target: Uint8Array): void;
  /** The backend that the plugin's `backend` asked for. */
  readonly backend: Backends[B];
  /** Takes the callbacks that save and restore the device's state. */
  readonly snapshot: SnapshotPort<T>;
  /** The device's log. */
  readonly log: DeviceLog;
  /** Declares the device to ACPI and other firmware tables. */
  declare(node: FirmwareNode): void;
  /**
   * Runs host work that finishes later (a backend promise). The machine counts it as in flight: pausing waits for it
   * unless the device records it. `done` and `failed` run between slices.
   */
  async<R>(
    work: Promise<R>,
    done: (result: R) => void,
    failed: (error: Error) => void,
  ): void;
}

/** A device's lifecycle: create, reset, start, pause, paused, (save), resume, stop. All are optional but `reset`. */
export interface Device {
  /** Power-on state, as after RESET#. Called once before the guest runs and at every machine reset. */
  reset(): void;
  /** The machine starts to run. */
  start?(): void;
  /** Hold new work; resolve when what is in flight is finished or recorded. */
  pause?(): void | Promise<void>;
  /** Take held work up again. */
  resume?(): void;
  /** The machine ends: release host resources. */
  stop?(): void | Promise<void>;
  /** What the user may ask of it while the machine runs or is paused, by name; the control socket passes it on. */
  readonly commands?: Readonly<Record<string, DeviceCommand>>;
}

/**
 * Something that the user may ask of a device.
 *
 * @param args What they gave with it, by name; nothing of it has been checked.
 * @returns The answer, as JSON has it; nothing for none.
 * @throws {MachineError} When it cannot be done; the message is for the user.
 */
export type DeviceCommand = (
  args: Readonly<Record<string, unknown>>,
) => unknown;

/** A plugin: see {@linkcode definePlugin}. */
export interface Plugin<
  S extends Record<string, OptionSpec> = Record<string, OptionSpec>,
  T = unknown,
  B extends keyof Backends = keyof Backends,
> {
  /** What `--dev` says. */
  readonly name: string;
  /** Semantic version, recorded in every snapshot. */
  readonly version: string;
  /** One line for `plugins`. */
  readonly summary: string;
  /** The options that `--dev` may give. */
  readonly options: S;
  /** The current state schema and its migrations. */
  readonly state: Schema<T>;
  /**
   * States of other plugins that it takes, by the name of their schema: what makes such a state, of any version, one of
   * its own present schema. Under its own name, what takes states that are newer than its schema. It throws where it
   * does not take one.
   */
  readonly accepts?: Readonly<
    Record<string, (state: unknown, version: number) => T>
  >;
  /** The kind of backend it needs, if any. Options `backend=` (char) or `image=` (block) choose it. */
  readonly backend?: B;
  /** Whether the user may change the medium of its disk while the machine runs: it has one that is only read, or none. */
  readonly removable?: boolean;
  /** The plugin of the controller that it is plugged into: a machine that has none gets one. */
  readonly controller?: string;
  /** Makes the device; claims what it needs and registers its state. */
  create(ctx: DeviceContext<T, B>, options: OptionsOf<S>): Device;
}

/**
 * Declares a plugin; the identity function with types.
 *
 * @example A device with one scratch register at port 0x500
 * ```ts ignore
 * export default definePlugin({
 *   name: "scratch",
 *   version: "1.0.0",
 *   summary: "one byte at port 0x500",
 *   options: {},
 *   state: schema("scratch", 1, { value: u8() }),
 *   create(ctx) {
 *     let value = 0;
 *     ctx.isa.claimPorts(0x500, 1, { read: () => value, write: (_port, _size, v) => void (value = v) });
 *     ctx.snapshot.register({ save: () => ({ value }), restore: (s) => void (value = s.value) });
 *     return { reset: () => void (value = 0) };
 *   },
 * });
 * ```
 */
export function definePlugin<
  const S extends Record<string, OptionSpec>,
  T,
  B extends keyof Backends = keyof Backends,
>(plugin: Plugin<S, T, B>): Plugin<S, T, B> {
  return plugin;
}

/** A wrong use of the machine by its user or by a plugin: the message is complete and meant for them. */
export class MachineError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "MachineError";
}

/** A device addressed guest memory that is not there. */
export class DmaError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "DmaError";
}
