/**
 * A machine without a vCPU for the tests of devices: the real buses, memory, clock and interrupt
 * wires, and one device in them. The test is the guest: it reads and writes ports, memory and
 * configuration space, and lets virtual time pass.
 *
 * @module
 */
import { Interrupts } from "../bus/irq.ts";
import { Isa } from "../bus/isa.ts";
import { ECAM_BASE, Pci } from "../bus/pci.ts";
import { Ports } from "../bus/ports.ts";
import { Clock, type ClockMode } from "../clock.ts";
import { Completions } from "../completions.ts";
import type { PluginError, TraceSinks } from "../fault.ts";
import { type AnyPlugin, Instance, type Surroundings } from "../instance.ts";
import { GuestMemory } from "../memory/memory.ts";
import type {
  AccessSize,
  ApicMessage,
  Backends,
  CpuPort,
  LocalApic,
  MsrHandler,
  OptionsOf,
  OptionSpec,
  Plugin,
} from "../plugin.ts";

const DEFAULT_RAM = 16 << 20;
const TEST_LOCAL_APIC_ID = 0;

/** What a test says of the device that it makes. */
export interface TestContextOptions<
  S extends Record<string, OptionSpec>,
  B extends keyof Backends,
> {
  /** Options of the plugin; its defaults hold for the others. */
  options?: Partial<OptionsOf<S>>;
  /** Instance id; the plugin's name and 0 when absent. */
  id?: string;
  /** The backend, where the plugin needs one. */
  backend?: Backends[B];
  /** Bytes of RAM; 16 MiB when absent. */
  ram?: number;
  /** Wall-clock time at virtual time 0, in milliseconds since 1970 UTC. */
  rtcBase?: number;
  /** Instruction time by default: it passes only through {@linkcode TestContext.advance}. */
  clock?: ClockMode;
  /** Where accesses are traced. */
  trace?: TraceSinks;
  /** Keep errors of handlers in {@linkcode TestContext.faults}; without it they are thrown to the test. */
  keepFaults?: boolean;
  /** Makes a local APIC that records messages, so that MSI can be seen; true when absent. */
  recordMessages?: boolean;
}

/** A vCPU that only records what is done to it. */
export class TestCpu implements CpuPort {
  /** The calls: `nmi`, `init`, `startup 8`, `interrupt`. */
  readonly calls: string[] = [];
  readonly #msrs: { first: number; count: number; handler: MsrHandler }[] = [];

  /**
   * A vCPU to which nothing has been done.
   *
   * @param index 0 for the bootstrap processor.
   * @param clock Virtual time: the TSC counts nanoseconds.
   */
  constructor(readonly index: number, readonly clock: Clock) {}

  claimMsrs(first: number, count: number, handler: MsrHandler): void {
    this.#msrs.push({ first, count, handler });
  }

  #msr(index: number): MsrHandler {
    const found = this.#msrs.find((m) =>
      index >= m.first && index < m.first + m.count
    );
    if (found === undefined) {
      throw new Error(`no device claims MSR 0x${index.toString(16)}`);
    }
    return found.handler;
  }

  /** RDMSR. */
  readMsr(index: number): bigint {
    return this.#msr(index).read(index);
  }

  /** WRMSR. */
  writeMsr(index: number, value: bigint): void {
    this.#msr(index).write(index, value);
  }

  interruptChanged(): void {
    this.calls.push("interrupt");
  }
  nmi(): void {
    this.calls.push("nmi");
  }
  init(): void {
    this.calls.push("init");
  }
  startup(page: number): void {
    this.calls.push(`startup ${page}`);
  }
  readTsc(): bigint {
    return BigInt(this.clock.now());
  }
  tscToTime(value: bigint): number {
    return Number(value);
  }
}

/** A device among real buses. */
export class TestContext {
  /** Guest memory. */
  readonly memory: GuestMemory;
  /** Ports and fixed memory. */
  readonly isa: Isa;
  /** PCI bus 0. */
  readonly pci: Pci;
  /** Interrupt wires. */
  readonly interrupts: Interrupts;
  /** Virtual time. */
  readonly clock: Clock;
  /** Host work in flight. */
  readonly completions: Completions;
  /** The vCPU. */
  readonly cpus: TestCpu[];
  /** Messages on the APIC bus: MSI, MSI-X and the I/O APIC's. */
  readonly messages: ApicMessage[] = [];
  /** Changes of ISA lines as the PICs see them: `[irq, level]`. */
  readonly isaEvents: [number, boolean][] = [];
  /** Changes of global system interrupts as the I/O APIC sees them: `[gsi, level]`. */
  readonly gsiEvents: [number, boolean][] = [];
  /** What the device asked of the machine: `powerOff`, `reset`, `a20 1`. */
  readonly requests: string[] = [];
  /** Log lines: `warn: …`. */
  readonly logged: string[] = [];
  /** Errors of handlers, with `keepFaults`. */
  readonly faults: PluginError[] = [];
  readonly #around: Surroundings;
  readonly #powerButton: (() => void)[] = [];
  readonly #instances: Instance[] = [];

  /**
   * Buses without devices.
   *
   * @param options RAM, clock, traces.
   */
  constructor(
    options: TestContextOptions<Record<string, OptionSpec>, keyof Backends> =
      {},
  ) {
    const fault = (error: PluginError) => {
      if (options.keepFaults !== true) throw error;
      this.faults.push(error);
    };
    const trace = options.trace ?? {};
    this.memory = new GuestMemory(options.ram ?? DEFAULT_RAM);
    this.clock = new Clock({
      mode: options.clock ?? "instructions",
      hostNow: () => performance.now(),
      rtcBase: options.rtcBase ?? 0,
    }, fault);
    this.clock.resume();
    this.completions = new Completions(this.clock, fault);
    this.interrupts = new Interrupts(trace);
    this.isa = new Isa(this.memory, fault, trace);
    this.pci = new Pci(
      this.isa,
      this.memory,
      this.memory,
      this.interrupts,
      fault,
      trace,
    );
    this.interrupts.onIsaIrq((irq, level) => this.isaEvents.push([irq, level]));
    this.interrupts.onGsi((gsi, level) => this.gsiEvents.push([gsi, level]));
    if (options.recordMessages !== false) {
      this.interrupts.registerLocalApic(0, this.#recorder());
    }
    this.cpus = [new TestCpu(0, this.clock)];
    this.#around = {
      isa: this.isa,
      pci: this.pci,
      ports: new Ports(),
      interrupts: this.interrupts,
      memory: this.memory,
      clock: this.clock,
      completions: this.completions,
      cpus: this.cpus,
      fault,
      machine: {
        powerOff: () => void this.requests.push("powerOff"),
        reset: () => void this.requests.push("reset"),
        setA20: (enabled) => void this.requests.push(`a20 ${enabled ? 1 : 0}`),
        onPowerButton: (listener) => void this.#powerButton.push(listener),
        memory: { low: this.memory.low, high: this.memory.high },
      },
      log: (_owner, level, message) =>
        void this.logged.push(`${level}: ${message}`),
      wake: () => {},
    };
  }

  #recorder(): LocalApic {
    return {
      id: TEST_LOCAL_APIC_ID,
      matches: () => true,
      accept: (message) => void this.messages.push(message),
      pending: () => false,
      acknowledge: () => -1,
      taskPriority: 0,
      arbitrationPriority: 0,
      setExternalInterrupt: () => {},
    };
  }

  /**
   * Adds a device, created and reset.
   *
   * @param plugin Its plugin.
   * @param options What it is made from.
   * @returns The device.
   */
  add<
    S extends Record<string, OptionSpec>,
    T,
    B extends keyof Backends,
  >(
    plugin: Plugin<S, T, B>,
    options: TestContextOptions<S, B> = {},
  ): Instance {
    const instance = new Instance(
      plugin as unknown as AnyPlugin,
      this.#around,
      {
        id: options.id ?? `${plugin.name}${this.#instances.length}`,
        options: options.options as Record<string, string> | undefined,
        backend: options.backend,
      },
    );
    this.#instances.push(instance);
    instance.reset();
    return instance;
  }

  /** Presses the power button. */
  pressPowerButton(): void {
    for (const listener of this.#powerButton) listener();
  }

  /** `IN`. */
  in(port: number, size: AccessSize = 1): number {
    return this.isa.read(port, size);
  }

  /** `OUT`. */
  out(port: number, value: number, size: AccessSize = 1): void {
    this.isa.write(port, size, value);
  }

  /** A load from a physical address that a device answers. */
  load(address: number, size: AccessSize = 4): number {
    return this.memory.mmioRead(address, size);
  }

  /** A store to a physical address that a device answers. */
  store(address: number, value: number, size: AccessSize = 4): void {
    this.memory.mmioWrite(address, size, value);
  }

  /** Reads configuration space through ECAM. */
  configRead(
    slot: number,
    fn: number,
    offset: number,
    size: AccessSize = 4,
  ): number {
    return this.load(configAddress(slot, fn, offset), size);
  }

  /** Writes configuration space through ECAM. */
  configWrite(
    slot: number,
    fn: number,
    offset: number,
    value: number,
    size: AccessSize = 4,
  ): void {
    this.store(configAddress(slot, fn, offset), value, size);
  }

  /**
   * Lets virtual time pass: timers fire in order, each at its deadline.
   *
   * @param ns Virtual nanoseconds.
   */
  advance(ns: number): void {
    const end = this.clock.now() + ns;
    for (;;) {
      const next = this.clock.nextDeadline;
      if (next === undefined || next > end) break;
      this.clock.advance(next);
      this.clock.fireDue();
    }
    this.clock.advance(end);
  }

  /** Waits for host work and delivers its results. */
  settle(): Promise<void> {
    return this.completions.drain();
  }
}

function configAddress(slot: number, fn: number, offset: number): number {
  return ECAM_BASE + (slot << 15) + (fn << 12) + offset;
}

/** A device under test and what surrounds it. */
export interface DeviceUnderTest<T> {
  /** The surroundings. */
  readonly machine: TestContext;
  /** The device. */
  readonly instance: Instance;
  /** Its state, validated by its schema. */
  save(): T;
  /** Restores a state of the current version, or of an older one. */
  restore(value: unknown, version?: number): void;
}

/**
 * Makes a device in a {@linkcode TestContext}, created and reset.
 *
 * @param plugin The device's plugin.
 * @param options Its options, its backend, and what surrounds it.
 * @returns The device and its surroundings.
 * @example
 * ```ts ignore
 * const { machine, save } = createTestContext(uart, { options: { irq: 4 }, backend });
 * machine.out(0x3f8, 0x41);
 * assertEquals(save().lsr & LSR_THRE, LSR_THRE);
 * ```
 */
export function createTestContext<
  S extends Record<string, OptionSpec>,
  T,
  B extends keyof Backends = keyof Backends,
>(
  plugin: Plugin<S, T, B>,
  options: TestContextOptions<S, B> = {},
): DeviceUnderTest<T> {
  const { options: _, backend: __, ...surroundings } = options;
  const machine = new TestContext(surroundings);
  const instance = machine.add(plugin, options);
  return {
    machine,
    instance,
    save: () => instance.save() as T,
    restore: (value, version) => instance.restore(value, version),
  };
}
