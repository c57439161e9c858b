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
import { Entropy } from "../entropy.ts";
import type { PluginError, TraceSinks } from "../fault.ts";
import {
  type AnyPlugin,
  Instance,
  type InstanceOptions,
  type Surroundings,
} from "../instance.ts";
import { GuestMemory, PAGE_SIZE } from "../memory/memory.ts";
import {
  TestBlock,
  TestChar,
  TestDisplay,
  TestInput,
  TestNet,
} from "./backends.ts";
import { Meter, metered } from "./metered.ts";
import type {
  AccessSize,
  ApicMessage,
  Backends,
  CpuPort,
  IrqLine,
  LocalApic,
  MsrHandler,
  OptionsOf,
  OptionSpec,
  Plugin,
} from "../plugin.ts";

const DEFAULT_RAM = 16 << 20;
const TEST_LOCAL_APIC_ID = 0;
const NS_PER_MS = 1_000_000;
const PIRQS = 8;
/** Who drives lines by {@linkcode TestContext.line}. */
const GUEST = { id: "guest", plugin: "test" };
/** Timers that fire at one instant, after which time is taken to stand still. */
const FIRINGS_AT_ONCE = 10_000;
/** Turns of the microtask queue that an answer of a backend needs at most to reach its device. */
const TURNS = 16;
/** Answers that follow from answers while a machine is paused. */
const ROUNDS = 1_000;

/** What a test says of the device that it makes. */
export interface TestContextOptions<
  S extends Record<string, OptionSpec>,
  B extends keyof Backends,
> {
  /** Options of the plugin; its defaults hold for the others. */
  options?: Partial<OptionsOf<S>>;
  /** Instance id; the plugin's name and 0 when absent. */
  id?: string;
  /** The backend; a {@linkcode TestChar} or a {@linkcode TestBlock} when the plugin needs one and this is absent. */
  backend?: Backends[B];
  /** Bytes of RAM; 16 MiB when absent. */
  ram?: number;
  /** Wall-clock time at virtual time 0, in milliseconds since 1970 UTC. */
  rtcBase?: number;
  /** Instruction time by default. Whatever it is, time passes only through {@linkcode TestContext.advance}. */
  clock?: ClockMode;
  /** Where accesses are traced. */
  trace?: TraceSinks;
  /** Keep errors of handlers in {@linkcode TestContext.faults}; without it they are thrown to the test. */
  keepFaults?: boolean;
  /** Makes a local APIC that records messages, so that MSI can be seen; true when absent. */
  recordMessages?: boolean;
}

/** An access that a test made. */
export interface ObservedAccess {
  /** I/O ports, or memory. */
  kind: "ports" | "memory";
  /** Port or physical address. */
  address: number;
  /** Bytes. */
  size: AccessSize;
  /** What was written; absent for a read. */
  value?: number;
}

/** A vCPU that only records what is done to it. */
export class TestCpu implements CpuPort {
  /** The calls: `nmi`, `init`, `startup 8`, `interrupt`. */
  readonly calls: string[] = [];
  readonly #clock: Clock;
  readonly #msrs: { first: number; count: number; handler: MsrHandler }[] = [];

  /**
   * A vCPU to which nothing has been done.
   *
   * @param index 0 for the bootstrap processor.
   * @param clock Virtual time: the TSC counts nanoseconds.
   *
   * @internal
   */
  constructor(readonly index: number, clock: Clock) {
    this.#clock = clock;
  }

  claimMsrs(first: number, count: number, handler: MsrHandler): void {
    this.#msrs.push({ first, count, handler });
  }

  /** The registers that devices have claimed. */
  get msrs(): readonly { first: number; count: number }[] {
    return this.#msrs;
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
    return BigInt(this.#clock.now());
  }
  tscToTime(value: bigint): number {
    return Number(value);
  }
}

/**
 * A device among real buses. A test accesses it as a guest does, with `in`, `out`, `load`, `store`, `configRead` and
 * `configWrite`; `memory` is guest memory (its methods are those of {@linkcode DmaMemory}), and `clock.now()` virtual
 * time, which {@linkcode TestContext.advance} lets pass.
 */
export class TestContext {
  /**
   * Guest memory.
   *
   * @internal
   */
  readonly memory: GuestMemory;
  /**
   * Ports and fixed memory.
   *
   * @internal
   */
  readonly isa: Isa;
  /**
   * PCI bus 0.
   *
   * @internal
   */
  readonly pci: Pci;
  /**
   * Interrupt wires.
   *
   * @internal
   */
  readonly interrupts: Interrupts;
  /**
   * Virtual time.
   *
   * @internal
   */
  readonly clock: Clock;
  /**
   * Randomness.
   *
   * @internal
   */
  readonly entropy: Entropy;
  /**
   * Host work in flight.
   *
   * @internal
   */
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
  /**
   * What devices do with guest memory.
   *
   * @internal
   */
  readonly meter: Meter = new Meter();
  /** Character backends that were made for devices. */
  readonly chars: TestChar[] = [];
  /** Block backends that were made for devices. */
  readonly blocks: TestBlock[] = [];
  /** Network backends that were made for devices. */
  readonly nets: TestNet[] = [];
  /** Displays that were made for devices. */
  readonly displays: TestDisplay[] = [];
  /**
   * The users that were made for devices.
   *
   * @internal
   */
  readonly inputs: TestInput[] = [];
  readonly #watchers: ((access: ObservedAccess) => void)[] = [];
  readonly #recorder: LocalApic = {
    id: TEST_LOCAL_APIC_ID,
    matches: () => true,
    accept: (message) => void this.messages.push(message),
    pending: () => false,
    acknowledge: () => -1,
    taskPriority: 0,
    arbitrationPriority: 0,
    setExternalInterrupt: () => {},
  };
  readonly #lines = new Map<number, IrqLine>();
  readonly #pirqs: boolean[] = Array(PIRQS).fill(false);
  /** Host time in nanoseconds: the test's own. */
  #hostNs = 0;
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
      hostNow: () => this.#hostNow,
      rtcBase: options.rtcBase ?? 0,
    }, fault);
    this.clock.resume();
    this.entropy = new Entropy(this.clock.mode);
    // Answers of a backend overtake each other, as they do in real time.
    this.completions = new Completions(
      new Clock({ mode: "realtime" }, fault),
      fault,
    );
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
      this.interrupts.registerLocalApic(0, this.#recorder);
    }
    this.cpus = [new TestCpu(0, this.clock)];
    this.#around = {
      isa: this.isa,
      pci: this.pci,
      ports: new Ports(),
      interrupts: this.interrupts,
      memory: metered(this.memory, this.meter),
      clock: this.clock,
      entropy: this.entropy,
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

  /** Whether messages on the APIC bus are recorded: no device is the local APIC. */
  get recordsMessages(): boolean {
    return this.interrupts.localApic(0) === this.#recorder;
  }

  /**
   * Adds a device, created and reset.
   *
   * @param plugin Its plugin.
   * @param options What it is made from.
   * @returns The device.
   *
   * @internal
   */
  add<
    S extends Record<string, OptionSpec>,
    T,
    B extends keyof Backends,
  >(
    plugin: Plugin<S, T, B>,
    options: TestContextOptions<S, B> = {},
  ): Instance {
    const { id, options: given } = options;
    return this.addAny(plugin as unknown as AnyPlugin, {
      ...(id === undefined ? {} : { id }),
      options: given as InstanceOptions["options"],
      ...("backend" in options ? { backend: options.backend } : {}),
    });
  }

  /**
   * Adds a device of a plugin whose types are not known, created and reset.
   *
   * @param plugin Its plugin.
   * @param made What it is made from.
   * @returns The device.
   *
   * @internal
   */
  addAny(plugin: AnyPlugin, made: Partial<InstanceOptions> = {}): Instance {
    const instance = new Instance(plugin, this.#around, {
      id: `${plugin.name}${this.#instances.length}`,
      ...("backend" in made ? {} : { backend: this.#backend(plugin.backend) }),
      ...made,
    });
    this.#instances.push(instance);
    instance.reset();
    return instance;
  }

  #backend(
    kind: keyof Backends | undefined,
  ): Backends[keyof Backends] | undefined {
    switch (kind) {
      case "char": {
        const made = new TestChar();
        this.chars.push(made);
        return made;
      }
      case "block": {
        const made = new TestBlock();
        this.blocks.push(made);
        return made;
      }
      case "net": {
        const made = new TestNet();
        this.nets.push(made);
        return made;
      }
      case "input": {
        const made = new TestInput();
        this.inputs.push(made);
        return made;
      }
      case "display": {
        const made = new TestDisplay();
        this.displays.push(made);
        return made;
      }
      default:
        return undefined;
    }
  }

  /**
   * The devices, in the order of {@linkcode add}.
   *
   * @internal
   */
  get instances(): readonly Instance[] {
    return this.#instances;
  }

  /**
   * The other end of the first character stream.
   *
   * @throws {TypeError} When no backend was made for a device.
   */
  get char(): TestChar {
    return there(this.chars, "character");
  }

  /**
   * The disk of the first device that has one.
   *
   * @throws {TypeError} When no backend was made for a device.
   */
  get block(): TestBlock {
    return there(this.blocks, "block");
  }

  /**
   * The network of the first card.
   *
   * @throws {TypeError} When no backend was made for a device.
   */
  get net(): TestNet {
    return there(this.nets, "network");
  }

  /**
   * The display of the first device that has one.
   *
   * @throws {TypeError} When no backend was made for a device.
   */
  get display(): TestDisplay {
    return there(this.displays, "display");
  }

  /**
   * The user of the first device that has one.
   *
   * @throws {TypeError} When no backend was made for a device.
   */
  get input(): TestInput {
    return there(this.inputs, "input");
  }

  /**
   * Drives an ISA interrupt line from outside.
   *
   * @param irq 0 to 15.
   * @param level Its level.
   */
  line(irq: number, level: boolean): void {
    this.#line(irq).set(level);
  }

  #line(irq: number): IrqLine {
    let line = this.#lines.get(irq);
    if (line === undefined) {
      line = this.interrupts.isaSource(GUEST, irq);
      this.#lines.set(irq, line);
    }
    return line;
  }

  /**
   * Makes the sources of the lines that were driven in another machine.
   *
   * @param sources The saved sources.
   */
  driveLines(sources: readonly { owner: string; irq: number }[]): void {
    for (const { owner, irq } of sources) {
      if (owner === GUEST.id) this.#line(irq);
    }
  }

  /**
   * Drives a PIRQ from outside.
   *
   * @param pirq 0 to 7 for PIRQA to PIRQH.
   * @param level Its level.
   */
  pirq(pirq: number, level: boolean): void {
    if (this.#pirqs[pirq] === level) return;
    this.#pirqs[pirq] = level;
    this.interrupts.setPirq(pirq, level, GUEST);
  }

  /** The PIRQs that are driven from outside. */
  get drivenPirqs(): readonly boolean[] {
    return this.#pirqs;
  }

  /** Resets the bus and every device. */
  reset(): void {
    this.pci.reset();
    for (const instance of this.#instances) instance.reset();
  }

  /** Presses the power button. */
  pressPowerButton(): void {
    for (const listener of this.#powerButton) listener();
  }

  /**
   * Watches what a test does through {@linkcode in}, {@linkcode out}, {@linkcode load} and {@linkcode store}.
   *
   * @param watcher Called with each access.
   */
  watchAccesses(watcher: (access: ObservedAccess) => void): void {
    this.#watchers.push(watcher);
  }

  #observe(access: ObservedAccess): void {
    for (const watcher of this.#watchers) watcher(access);
  }

  /** `IN`. */
  in(port: number, size: AccessSize = 1): number {
    this.#observe({ kind: "ports", address: port, size });
    return this.isa.read(port, size);
  }

  /** `OUT`. */
  out(port: number, value: number, size: AccessSize = 1): void {
    this.#observe({ kind: "ports", address: port, size, value });
    this.isa.write(port, size, value);
  }

  /** A load from a physical address that a device answers. */
  load(address: number, size: AccessSize = 4): number {
    this.#observe({ kind: "memory", address, size });
    return this.memory.mmioRead(address, size);
  }

  /** A store to a physical address that a device answers. */
  store(address: number, value: number, size: AccessSize = 4): void {
    this.#observe({ kind: "memory", address, size, value });
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

  /** Host time in milliseconds; half a nanosecond more makes its conversion exact. */
  get #hostNow(): number {
    return this.#hostNs === 0 ? 0 : (this.#hostNs + 0.5) / NS_PER_MS;
  }

  #moveTo(time: number): void {
    if (this.clock.mode === "instructions") this.clock.advance(time);
    else this.#hostNs += Math.max(0, time - this.clock.now());
  }

  /**
   * Lets virtual time pass: timers fire in order, each at its deadline.
   *
   * @param ns Virtual nanoseconds; whole ones pass.
   * @param most Timers that may fire; after so many, time stops early.
   * @throws {Error} When timers keep firing at one instant.
   */
  advance(ns: number, most: number = Infinity): void {
    const end = this.clock.now() + Math.floor(ns);
    let fired = 0;
    let atOnce = 0;
    for (;;) {
      const next = this.clock.nextDeadline;
      if (next === undefined || next > end) break;
      if (fired++ >= most) return;
      atOnce = next <= this.clock.now() ? atOnce + 1 : 0;
      if (atOnce > FIRINGS_AT_ONCE) {
        throw new Error(
          `timers fired ${atOnce} times at ${this.clock.now()} ns: expected time to go on`,
        );
      }
      this.#moveTo(next);
      this.clock.fireDue();
    }
    this.#moveTo(end);
  }

  /**
   * Lets virtual time pass in which no timer fires: a slice of the vCPU, during which the event loop waits. What is due
   * fires in the next {@linkcode advance}.
   *
   * @param ns Virtual nanoseconds.
   */
  stall(ns: number): void {
    this.#moveTo(this.clock.now() + Math.floor(ns));
  }

  /** Waits for host work and delivers its results; what a {@linkcode TestBlock} holds back stays in flight. */
  async settle(): Promise<void> {
    if (this.blocks.length === 0) return await this.completions.drain();
    for (;;) {
      if (this.completions.count === 0) return;
      for (let turn = 0; turn < TURNS; turn++) await null;
      if (!this.completions.run()) return;
    }
  }

  /**
   * Pauses the devices as a machine does before it is saved: timers that are due fire, backends answer what is in
   * flight, and take output again.
   *
   * @throws {Error} When a device does not come to rest.
   */
  async pause(): Promise<void> {
    this.advance(0);
    let paused = false;
    const done = (async () => {
      for (const instance of this.#instances) await instance.pause();
      paused = true;
    })();
    if (this.blocks.length === 0) await done;
    for (let round = 0; !paused || this.completions.count > 0; round++) {
      if (this.blocks.length === 0) await this.completions.drain();
      for (const block of this.blocks) block.answerAll();
      for (let turn = 0; turn < TURNS; turn++) await null;
      this.completions.run();
      if (round > ROUNDS) {
        throw new Error(
          `the pause does not end: ${this.completions.count} pieces of host work in flight, all answered`,
        );
      }
    }
    await done;
    for (const char of this.chars) char.drain();
    for (const net of this.nets) net.drain();
  }

  /** Goes on after {@linkcode pause}. */
  resume(): void {
    for (const instance of this.#instances) instance.resume();
  }

  /**
   * Takes over everything of a paused machine but the state of its devices: memory, time, buses,
   * and what waits in backends. Devices are restored, and then run, by `restore`.
   *
   * @param other A machine with the same devices.
   * @param restore Restores the devices, while interrupt controllers are not told of levels.
   */
  continue(other: TestContext, restore: () => void): void {
    copyUsed(other.memory, this.memory);
    this.clock.restore(other.clock.save());
    this.entropy.restore(other.entropy.save());
    this.meter.recent = [...other.meter.recent];
    this.chars.forEach((char, i) => char.continue(other.chars[i]));
    this.blocks.forEach((block, i) => block.continue(other.blocks[i]));
    this.nets.forEach((net, i) => net.continue(other.nets[i]));
    this.driveLines(other.interrupts.save().sources);
    this.interrupts.quietly(() => {
      this.interrupts.restore(other.interrupts.save());
      other.#pirqs.forEach((level, pirq) => this.pirq(pirq, level));
      this.pci.restore(other.pci.save());
      restore();
    });
  }

  /** Ends the machine. */
  async stop(): Promise<void> {
    for (const instance of this.#instances) await instance.stop();
  }
}

/** Copies the pages that are not zero: most are, and touching them would cost more than all else. */
function copyUsed(from: GuestMemory, to: GuestMemory): void {
  const { words } = from;
  const end = from.ramBase + from.ram;
  for (let at = from.ramBase; at < end; at += PAGE_SIZE) {
    const last = (at + PAGE_SIZE) / 4;
    let any = 0;
    for (let i = at / 4; i < last && any === 0; i += 4) {
      any = words[i] | words[i + 1] | words[i + 2] | words[i + 3];
    }
    if (any !== 0) to.bytes.set(from.bytes.subarray(at, at + PAGE_SIZE), at);
  }
}

function there<T>(made: T[], kind: string): T {
  const [first] = made;
  if (first === undefined) {
    throw new TypeError(
      `no ${kind} backend was made: add a device that asks for one, without giving one`,
    );
  }
  return first;
}

function configAddress(slot: number, fn: number, offset: number): number {
  return ECAM_BASE + (slot << 15) + (fn << 12) + offset;
}

/** A device under test and what surrounds it. */
export interface DeviceUnderTest<T> {
  /** The surroundings. */
  readonly machine: TestContext;
  /**
   * The device.
   *
   * @internal
   */
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
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import uart from "../../plugins/legacy/uart.ts";
 * import { createTestContext } from "./context.ts";
 *
 * const { machine, instance, save } = createTestContext(uart, { options: { irq: 5 } });
 * instance.start();
 * machine.out(0x3f8, 0x41); // the transmitter
 * assertEquals(machine.char.sent, [0x41]);
 * machine.out(0x3ff, 7); // the scratch register
 * assertEquals(save().scr, 7);
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
