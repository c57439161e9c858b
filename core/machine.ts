/**
 * The machine: assembles memory, buses, clock, vCPU and devices, and runs them in slices on the
 * event loop (DESIGN.md section 7).
 *
 * @module
 */
import { Interrupts } from "./bus/irq.ts";
import { Isa } from "./bus/isa.ts";
import { parsePciAddress, Pci, readBar } from "./bus/pci.ts";
import { Ports } from "./bus/ports.ts";
import {
  declareAcpi,
  installAcpi,
  loadFirmware,
  loadKernel,
  PCI_HOLE_BASE,
  PCI_HOLE_LENGTH,
  pcMemoryMap,
} from "./boot/index.ts";
import type { BootScreen } from "./boot/types.ts";
import type { BootState } from "./boot/index.ts";
import { Clock } from "./clock.ts";
import { Completions } from "./completions.ts";
import { applyBootState } from "./cpu/boot_state.ts";
import { Cpu, Engine } from "./cpu/cpu.ts";
import { VcpuPort } from "./cpu_port.ts";
import { Entropy } from "./entropy.ts";
import type { Owner, PluginError } from "./fault.ts";
import { type AnyPlugin, Instance, type Surroundings } from "./instance.ts";
import type { AbsentPages } from "./memory/absent.ts";
import { GuestMemory } from "./memory/memory.ts";
import {
  type BackendContent,
  type FirmwareNode,
  MachineError,
} from "./plugin.ts";
import {
  isOwnId,
  type MachineState,
  restoreMachine,
  saveMachine,
  type SessionPart,
} from "./machine_snapshot.ts";
import { EventLoopTurn } from "./event_loop.ts";
import type {
  Baseline,
  BootOptions,
  MachineConfiguration,
  MachineDevice,
  MachineOptions,
  RunResult,
} from "./machine_options.ts";
import { traceCpu } from "./trace_cpu.ts";
import { hashMachine } from "./state_hash.ts";

export type {
  Baseline,
  BootOptions,
  MachineConfiguration,
  MachineDevice,
  MachineOptions,
  MachineTrace,
  RunResult,
} from "./machine_options.ts";

/** I/O ports from which BARs are given. */
const PCI_PORTS = { base: 0xc000, length: 0x4000 };
const PCI_MEMORY = { base: PCI_HOLE_BASE, length: PCI_HOLE_LENGTH };

/** Instructions of a slice at most: V8 replaces slow code only between calls. */
const MAX_SLICE = 1_000_000;
const MIN_SLICE = 1_000;
/** Real time of a slice, and between two visits to the event loop, in milliseconds. */
const SLICE_MS = 4;
/** The same while something waits for the host. */
const BUSY_SLICE_MS = 1;
/** Timers nearer than this are waited for on the event loop, not with a host timer. */
const SPIN_MS = 0.25;
/** A guest that waits for nothing is looked at this often, in milliseconds. */
const LONG_SLEEP_MS = 10_000;
/** So long does a guest wait that writes faster than a snapshot of it, in milliseconds. */
const CATCH_UP_MS = 5;
const NS_PER_MS = 1e6;

/** A machine. */
export class Machine {
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
   * Randomness for devices.
   *
   * @internal
   */
  readonly entropy: Entropy;
  /**
   * The vCPU.
   *
   * @internal
   */
  readonly cpu: Cpu;
  /** What the program around the machine keeps in its snapshots. */
  session: SessionPart | undefined;
  readonly #completions: Completions;
  readonly #instances: Instance[] = [];
  readonly #options: MachineOptions;
  /** What the devices are made from. */
  readonly #devices: MachineDevice[];
  readonly #powerButton: (() => void)[] = [];
  /** Why the run is to end, as soon as something says so. */
  #end: RunResult | undefined;
  #running = false;
  #started = false;
  #closed = false;
  /** In the middle of {@linkcode Cpu.run}. */
  #inSlice = false;
  /** Wakes a run that sleeps. */
  #wake: (() => void) | undefined;
  /** Something happened since the run last looked. */
  #woken = false;
  /** The user wants it paused. */
  #paused = false;
  /** Work of {@linkcode attend} under way. */
  #attended = 0;
  /** Sections of {@linkcode whilePaused} under way. */
  #holds = 0;
  /** The pause that is in place or on its way, and whether it is in place. */
  #pausing: Promise<void> | undefined;
  #isPaused = false;
  /** Pages that are still in the snapshot that this machine was restored from. */
  #absent: AbsentPages | undefined;
  /**
   * The last snapshot that was written of this machine or restored into it, which an incremental
   * one can build on.
   *
   * @internal
   */
  baseline: Baseline | undefined;
  /** What waits for the run to reach its pause. */
  #pauseReached: (() => void) | undefined;
  #resumed: (() => void) | undefined;
  /** Estimated instructions a millisecond of host time. */
  #speed = 50_000;
  #limit: number;

  private constructor(options: MachineOptions) {
    this.#options = options;
    this.#devices = [...options.devices];
    this.#limit = options.maxInstructions ?? Infinity;
    const trace = options.trace ?? {};
    const fault = (error: PluginError) =>
      this.#finish({ reason: "plugin-error", error });
    this.memory = new GuestMemory(options.memory, options.romSize ?? 0);
    this.clock = new Clock({
      mode: options.clock ?? "realtime",
      hostNow: options.hostNow,
      nsPerInstruction: options.nsPerInstruction,
      rtcBase: options.rtcBase,
    }, fault);
    this.entropy = new Entropy(this.clock.mode);
    this.#completions = new Completions(this.clock, fault);
    this.#completions.onReady = () => this.#notify();
    this.#completions.onAwaited = () => {
      if (this.#inSlice) this.#endSlice();
    };
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
    const engine = new Engine(this.memory);
    const port = new VcpuPort(0, {
      isa: this.isa,
      interrupts: this.interrupts,
      clock: this.clock,
      fault,
      init: () => this.#finish({ reason: "reset" }),
      wake: () => this.#notify(),
    });
    this.cpu = new Cpu(engine, 0, port.io);
    port.connect(this.cpu);
    this.interrupts.onPicOutput = () => port.interruptChanged();
    this.clock.retired = () => this.cpu.retiredNow;
    this.clock.onEarlier = () => {
      if (this.#inSlice) this.#endSlice();
    };
    traceCpu(engine, this.cpu, trace);
    this.#createDevices(port, fault);
  }

  /**
   * Makes a machine: its devices are created and reset, and nothing runs.
   *
   * @param options What it is made from.
   * @returns The machine.
   * @throws {MachineError} When options contradict each other: an id twice, ports that clash, too much memory.
   * @throws {PluginError} When a plugin throws while its device is created.
   */
  static create(options: MachineOptions): Promise<Machine> {
    return new Promise((resolve) => resolve(new Machine(options)));
  }

  #createDevices(port: VcpuPort, fault: (error: PluginError) => void): void {
    const { cpus = 1, devices, log = () => {} } = this.#options;
    if (cpus !== 1) {
      throw new MachineError(
        `${cpus} vCPUs: expected 1, all that this version has`,
      );
    }
    const around: Surroundings = {
      isa: this.isa,
      pci: this.pci,
      ports: new Ports(),
      interrupts: this.interrupts,
      memory: this.memory,
      clock: this.clock,
      entropy: this.entropy,
      completions: this.#completions,
      cpus: [port],
      fault,
      machine: {
        powerOff: () => this.#finish({ reason: "poweroff" }),
        reset: () => this.#finish({ reason: "reset" }),
        setA20: (enabled) => this.#setA20(enabled),
        onPowerButton: (listener) => void this.#powerButton.push(listener),
        memory: { low: this.memory.low, high: this.memory.high },
      },
      log: (owner: Owner, level, message) => log(owner.id, level, message),
      wake: () => this.#notify(),
    };
    const ids = new Set<string>();
    for (const device of devices) {
      const { id, backend } = device;
      const plugin = device.plugin as AnyPlugin;
      if (ids.has(id)) {
        throw new MachineError(
          `id "${id}" is used twice: give each device its own id`,
        );
      }
      if (isOwnId(id)) {
        throw new MachineError(
          `id "${id}" is that of a part of the machine: give the device another`,
        );
      }
      ids.add(id);
      const { addr, ...own } = device.options ?? {};
      const options = Object.hasOwn(plugin.options, "addr")
        ? { ...device.options }
        : own;
      const pciAddress = addr === undefined || "addr" in options
        ? undefined
        : parsePciAddress(String(addr), id);
      this.#instances.push(
        new Instance(plugin, around, { id, options, backend, pciAddress }),
      );
    }
    for (const instance of this.#instances) instance.reset();
    if (this.#end?.reason === "plugin-error") throw this.#end.error;
  }

  #setA20(enabled: boolean): void {
    if (this.cpu.mmu.a20 === enabled) return;
    this.cpu.mmu.a20 = enabled;
    this.cpu.flushTlb(false);
  }

  /**
   * The devices, in the order in which they were made.
   *
   * @internal
   */
  get devices(): readonly Instance[] {
    return this.#instances;
  }

  /** Makes the run end. The first reason counts, but one that stops goes before a reset. */
  #finish(result: RunResult): void {
    if (this.#end === undefined || this.#end.reason === "reset") {
      this.#end = result;
    }
    if (this.#inSlice) this.#endSlice();
    this.#notify();
  }

  /** Ends the slice after the instruction that is being executed. */
  #endSlice(): void {
    this.cpu.stop();
    this.cpu.endBlock();
  }

  /** Wakes a run that sleeps. */
  #notify(): void {
    this.#woken = true;
    this.#wake?.();
  }

  /**
   * Power-on state: every device, the buses and the vCPU. Guest memory stays as it is.
   */
  reset(): void {
    this.#setA20(true);
    this.pci.reset();
    for (const instance of this.#instances) instance.reset();
    this.cpu.reset();
  }

  /**
   * Loads a guest: places the PCI resources, makes the ACPI tables, loads the kernel, and puts the
   * vCPU where it starts.
   *
   * @param boot What to boot.
   * @throws {BootError} When a file is not what it should be.
   */
  async boot(boot: BootOptions): Promise<void> {
    applyBootState(this.cpu, this.memory, await this.#load(boot));
  }

  #load(boot: BootOptions): Promise<BootState> | BootState {
    const ram = this.memory;
    if (boot.firmware !== undefined) return loadFirmware(ram, boot.firmware);
    if (boot.kernel === undefined) {
      throw new MachineError("nothing to boot: give a kernel or a firmware");
    }
    this.pci.assignResources(PCI_PORTS, PCI_MEMORY);
    return loadKernel({
      ram,
      memoryMap: pcMemoryMap(ram.size),
      kernel: boot.kernel,
      initrd: boot.initrd,
      modules: boot.modules,
      cmdline: boot.cmdline ?? "",
      rsdp: installAcpi(ram, this.#acpi()),
      screen: this.#screen(),
    });
  }

  /** What firmware would have left on the first display. */
  #screen(): BootScreen | undefined {
    for (const { nodes, owner } of this.#instances) {
      for (const { kind, screen } of nodes) {
        if (kind === "vga") return { kind: "text" };
        if (screen === undefined) continue;
        const { bar, width, height } = screen;
        const fn = this.pci.functions.find((fn) => fn.owner.id === owner.id)!;
        const base = readBar(fn, bar);
        return { kind: "linear", base, width, height };
      }
    }
    return undefined;
  }

  /** What the devices declared, as the firmware tables say it. */
  #acpi(): ReturnType<typeof declareAcpi> {
    const nodes = this.#instances.flatMap((instance) => instance.nodes);
    const first = (kind: FirmwareNode["kind"]) =>
      nodes.find((node) => node.kind === kind);
    return declareAcpi({
      cpus: 1,
      ioapicId: first("ioapic")?.id ?? 0,
      uarts: nodes.flatMap(({ kind, base, irq }) =>
        kind === "uart" && base !== undefined && irq !== undefined
          ? [{ port: base, irq }]
          : []
      ),
      ps2: first("ps2") !== undefined,
      hpet: first("hpet") !== undefined,
    });
  }

  /**
   * Runs until something ends the run.
   *
   * @returns Why it ended.
   * @throws {MachineError} When the machine runs already or is closed.
   */
  async run(): Promise<RunResult> {
    if (this.#running) throw new MachineError("the machine runs already");
    if (this.#closed) throw new MachineError("the machine is closed");
    this.#running = true;
    const turn = new EventLoopTurn();
    try {
      if (!this.#started) {
        this.#started = true;
        for (const instance of this.#instances) instance.start();
      }
      if (this.#pausing === undefined) this.clock.resume();
      const result = await this.#loop(turn);
      this.clock.pause();
      this.#end = undefined;
      if (result.reason === "poweroff" || result.reason === "stopped") {
        await this.#completions.drain();
      }
      return result;
    } finally {
      turn.close();
      this.#running = false;
      this.#pauseReached?.();
    }
  }

  async #loop(turn: EventLoopTurn): Promise<RunResult> {
    const { hostNow } = this.#options;
    let visited = hostNow();
    for (;;) {
      while (
        this.#pausing !== undefined && this.#end === undefined &&
        !this.#completions.holdsGuest
      ) {
        this.#pauseReached?.();
        await new Promise<void>((resolve) => this.#resumed = resolve);
        visited = hostNow();
      }
      this.clock.fireDue();
      this.#completions.run();
      if (this.#end !== undefined) return this.#end;
      const awaited = this.#completions.awaited();
      if (awaited !== undefined) {
        await Promise.race([awaited, this.#sleep(LONG_SLEEP_MS)]);
        this.#wake?.();
        this.#woken = false;
        continue;
      }
      if (this.cpu.retired >= this.#limit) return { reason: "instructions" };
      if (this.memory.keeper?.behind) {
        await this.#sleep(CATCH_UP_MS);
        this.#woken = false;
        continue;
      }
      this.#woken = false;
      const result = this.#slice();
      if (result === "shutdown") {
        this.#finish({ reason: "triple-fault", state: this.cpu.describe() });
      } else if (
        result === "halted" && this.#end === undefined &&
        this.cpu.retired < this.#limit
      ) {
        await this.#idle(turn);
      }
      const now = hostNow();
      if (now - visited >= this.#sliceMs) {
        await turn.wait(this.#hostAnswers);
        visited = hostNow();
      }
    }
  }

  /** Whether something waits for the host. */
  get #hostAnswers(): boolean {
    return this.#completions.count > 0 || this.#attended > 0;
  }

  /**
   * Looks often for the host's answers while work on this machine waits for them: files that are
   * written or read.
   *
   * @internal
   * @param work The work.
   * @returns What it returns.
   */
  async attend<T>(work: () => Promise<T>): Promise<T> {
    this.#attended++;
    try {
      return await work();
    } finally {
      this.#attended--;
    }
  }

  /** How long a slice may take. */
  get #sliceMs(): number {
    return this.#hostAnswers ? BUSY_SLICE_MS : SLICE_MS;
  }

  /** How many instructions the vCPU may run until something else is to be looked at. */
  #budget(): number {
    const next = this.clock.nextDeadline;
    const left = next === undefined ? Infinity : next - this.clock.now();
    if (this.clock.mode === "instructions") {
      const until = Math.ceil(left / this.clock.nsPerInstruction);
      return Math.max(1, Math.min(until, MAX_SLICE));
    }
    const budget = Math.round(
      this.#speed * Math.min(this.#sliceMs, Math.max(0, left / NS_PER_MS)),
    );
    return Math.min(Math.max(MIN_SLICE, budget), MAX_SLICE);
  }

  /** Runs the vCPU once. */
  #slice(): ReturnType<Cpu["run"]> {
    const { hostNow } = this.#options;
    const budget = Math.min(this.#budget(), this.#limit - this.cpu.retired);
    const before = this.cpu.retired;
    const start = hostNow();
    this.#inSlice = true;
    let result: ReturnType<Cpu["run"]>;
    try {
      result = this.cpu.run(budget);
    } catch (error) {
      // The instruction that needed the page was not carried out, nor will it be.
      if (this.#end?.reason !== "memory-lost") throw error;
      result = "stopped";
    } finally {
      this.#inSlice = false;
    }
    const retired = this.cpu.retired - before;
    if (retired >= MIN_SLICE) {
      const passed = Math.max(hostNow() - start, 1e-3);
      // A slow average, so that one page of cold code does not shorten the slices after it.
      this.#speed += (retired / passed - this.#speed) / 8;
    }
    return result;
  }

  /** The vCPU is halted: passes the time until the next timer or host event. */
  async #idle(turn: EventLoopTurn): Promise<void> {
    const next = this.clock.nextDeadline;
    if (this.clock.mode === "instructions") {
      if (next !== undefined) this.clock.advance(next);
      else await this.#sleep(LONG_SLEEP_MS);
      return;
    }
    const left = next === undefined
      ? LONG_SLEEP_MS
      : (next - this.clock.now()) / NS_PER_MS;
    if (left <= 0) return;
    if (left < SPIN_MS) await turn.wait();
    else await this.#sleep(Math.min(left, LONG_SLEEP_MS));
  }

  /** Resolves after some time, or sooner when {@linkcode #notify} is called. */
  #sleep(ms: number): Promise<void> {
    if (this.#woken) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(wake, Math.max(1, Math.round(ms)));
      this.#wake = wake;
    });
  }

  /** Ends the run with the reason `stopped`; a run that begins later ends at once. */
  stop(): void {
    this.#finish({ reason: "stopped" });
    this.#resumed?.();
  }

  /** Whether the machine is paused. */
  get paused(): boolean {
    return this.#paused;
  }

  /**
   * Stops the vCPU at an instruction boundary, time, and the devices; resolves when nothing is in
   * flight any more.
   */
  async pause(): Promise<void> {
    this.#paused = true;
    await this.#reachPause();
  }

  #reachPause(): Promise<void> {
    return this.#pausing ??= this.#stopAll();
  }

  async #stopAll(): Promise<void> {
    if (this.#running) {
      const reached = new Promise<void>((resolve) => {
        this.#pauseReached = resolve;
      });
      if (this.#inSlice) this.#endSlice();
      this.#notify();
      await reached;
      this.#pauseReached = undefined;
    }
    this.clock.pause();
    // A snapshot cannot say how late a timer is: what is due happens before the devices rest.
    this.clock.fireAllDue();
    for (const instance of this.#instances) await instance.pause();
    await this.#completions.drain();
    // What a TLB holds is no state. Without it the machine goes on as one that is restored here does.
    this.cpu.flushTlb(false);
    this.#isPaused = true;
  }

  /** Goes on after {@linkcode pause}. */
  resume(): void {
    this.#paused = false;
    this.#goOn();
  }

  /**
   * Does something while the machine is paused; afterwards it goes on, unless {@linkcode pause}
   * was called. Sections may overlap.
   *
   * @param section What to do.
   * @returns What it returns.
   */
  async whilePaused<T>(section: () => T | Promise<T>): Promise<T> {
    this.#holds++;
    try {
      await this.#reachPause();
      return await section();
    } finally {
      this.#holds--;
      this.#goOn();
    }
  }

  #goOn(): void {
    if (this.#pausing === undefined || this.#paused || this.#holds > 0) return;
    if (!this.#isPaused) {
      void this.#pausing.then(() => this.#goOn());
      return;
    }
    this.#pausing = undefined;
    this.#isPaused = false;
    for (const instance of this.#instances) instance.resume();
    if (this.#running) this.clock.resume();
    this.#resumed?.();
  }

  /** Ends the run with the reason `reset`, as a guest's own reset does. */
  requestReset(): void {
    this.#finish({ reason: "reset" });
    this.#resumed?.();
  }

  /** Presses the power button: asks the guest to shut down. */
  pressPowerButton(): void {
    for (const listener of this.#powerButton) listener();
    this.#notify();
  }

  /**
   * Puts another plugin, or another version, in the place of a device, which may be in use: its
   * state goes over, and what the buses keep of it stays. The machine is paused meanwhile.
   *
   * @param id The device.
   * @param made The plugin, how it was named, and options that are to be others than before.
   * @throws {MachineError} When there is no such device, or the plugin does not fit its place.
   * @throws {SchemaError} When the plugin does not take the device's state.
   * @throws {PluginError} When a plugin throws. After any error the device is what it was.
   */
  replaceDevice(
    id: string,
    made: Pick<MachineDevice, "plugin" | "specifier" | "options">,
  ): Promise<void> {
    return this.whilePaused(async () => {
      const index = this.#instances.findIndex((each) => each.owner.id === id);
      if (index < 0) {
        throw new MachineError(
          `there is no device "${id}": the machine has ${
            this.#instances.map((each) => each.owner.id).join(", ")
          }`,
        );
      }
      const old = this.#instances[index];
      const next = old.successor(made.plugin as AnyPlugin, made.options);
      next.takeOver();
      this.#instances[index] = next;
      const { options } = this.#devices[index];
      const kept = Object.entries(options ?? {}).filter(([name]) =>
        name === "addr" || Object.hasOwn(next.plugin.options, name)
      );
      this.#devices[index] = {
        ...this.#devices[index],
        ...made,
        options: { ...Object.fromEntries(kept), ...made.options },
      };
      await old.stop();
    });
  }

  /** Ends the machine: host work in flight is finished, devices release what they hold. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.stop();
    this.#absent?.stop();
    await this.#completions.drain();
    for (const instance of this.#instances) await instance.stop();
  }

  /**
   * Disks whose content belongs into snapshots, by the id of their device.
   *
   * @internal
   */
  get contents(): { id: string; size: number; content: BackendContent }[] {
    return this.#devices.flatMap(({ id, backend }) =>
      backend !== undefined && "content" in backend &&
        backend.content !== undefined
        ? [{ id, size: backend.size, content: backend.content }]
        : []
    );
  }

  /**
   * Takes pages of RAM from a snapshot while the machine runs already.
   *
   * @internal
   */
  loadFrom(pages: AbsentPages): void {
    this.#absent = pages;
    pages.onLost = (error) => this.#finish({ reason: "memory-lost", error });
  }

  /**
   * The machine's state. Pause it first, unless it does not run.
   *
   * @returns The state; its memory is a view, valid until the machine runs again.
   * @throws {MachineError} When the machine runs.
   * @throws {PluginError} When a device fails to save.
   */
  save(): MachineState {
    if (this.#running && !this.#isPaused) {
      throw new MachineError("the machine runs: pause it before it is saved");
    }
    return saveMachine(this);
  }

  /**
   * Puts a saved state into this machine, which must be new: when it throws, the machine is to be
   * thrown away.
   *
   * @param state The state.
   * @throws {SchemaError} When it does not fit; the error names the component and the field.
   * @throws {PluginError} When a device refuses it.
   */
  restore(state: MachineState): void {
    if (this.#started) {
      throw new MachineError("the machine has run: restore into a new one");
    }
    restoreMachine(this, state);
  }

  /** What this machine was made from, as a snapshot's manifest tells it. */
  get configuration(): MachineConfiguration {
    const { memory, romSize = 0 } = this.#options;
    return {
      memory,
      romSize,
      clock: this.clock.mode,
      nsPerInstruction: this.clock.nsPerInstruction,
      devices: this.#devices.map(({ id, specifier, options }, i) => {
        const { plugin } = this.#instances[i];
        return {
          id,
          plugin: plugin.name,
          version: plugin.version,
          specifier: specifier ?? plugin.name,
          options: { ...options },
        };
      }),
    };
  }

  /** The run ends when the vCPU has retired so many instructions. */
  set maxInstructions(limit: number) {
    this.#limit = limit;
  }

  /**
   * A hash of everything that the guest could tell apart: vCPU, RAM, buses, devices, time.
   *
   * @returns SHA-256 in hexadecimal.
   */
  stateHash(): Promise<string> {
    return hashMachine(this);
  }
}
