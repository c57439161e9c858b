/**
 * A device's place in its machine: what it has claimed of the buses, and the context through which
 * it reaches them (DESIGN.md section 3).
 *
 * A device of a running machine is replaced by giving its place to a successor. While the
 * successor is made it claims what its predecessor holds, and nothing happens on the buses; when
 * it {@linkcode Place.takeOver takes over}, everything changes hands at once, and what the buses
 * keep (levels, BARs, configuration space, MSI-X) stays as it is. Until then nothing that it says
 * reaches the machine, and afterwards nothing that its predecessor says does.
 *
 * @module
 */
import { hex, type Owner } from "./fault.ts";
import type { PciSlotFunction } from "./bus/pci_function.ts";
import type { Surroundings } from "./instance.ts";
import {
  type BlockBackend,
  type CharBackend,
  type Claim,
  type CpuPort,
  type DisplayBackend,
  type InputBackend,
  type InterruptFabric,
  type IrqLine,
  type IsaBus,
  type MachineControl,
  MachineError,
  type MsrHandler,
  type NetBackend,
  type PciBus,
  type PciFunction,
  type Picture,
  type PortBuses,
  type PortPlace,
  type RemovableMedia,
} from "./plugin.ts";

/** Something on a bus that one device has at a time. */
interface Holding {
  /** Puts it on the bus, or gives it to this device where it is there. */
  connect(): void;
  /** Takes it off the bus, or leaves it to the other device. */
  disconnect(): void;
}

/** Something of a bus that stays when the device changes: the bus calls whoever has it. */
interface Shared<T> {
  /** What the device gave. */
  target: T;
}

/** The place of one device. */
export class Place {
  readonly #owner: Owner;
  readonly #around: Surroundings;
  #before: Place | undefined;
  /** By what it is, as messages say it. */
  readonly #holdings = new Map<string, Holding>();
  /** Those of {@linkcode #holdings} that are on the buses. */
  readonly #connected = new Set<Holding>();
  readonly #shared = new Map<string, Shared<unknown>>();
  readonly #lines = new Map<string, IrqLine>();
  readonly #functions: PciSlotFunction[] = [];
  readonly #places = new Map<string, PortPlace>();
  readonly #counts = new Map<string, number>();
  /** Whether the device is the machine's. */
  #live: boolean;

  /**
   * A place in which nothing is claimed yet.
   *
   * @param owner The device.
   * @param around The machine.
   * @param before The place of the device that it is to replace.
   */
  constructor(owner: Owner, around: Surroundings, before?: Place) {
    this.#owner = owner;
    this.#around = around;
    this.#before = before;
    this.#live = before === undefined;
  }

  /** Numbers things of one kind in the order in which a device asks for them. */
  #next(kind: string): number {
    const number = this.#counts.get(kind) ?? 0;
    this.#counts.set(kind, number + 1);
    return number;
  }

  #hold(what: string, holding: Holding): void {
    if (this.#live || !this.#before!.#holdings.has(what)) {
      holding.connect();
      this.#connected.add(holding);
    }
    this.#holdings.set(what, holding);
  }

  #claim(what: string, make: () => Claim): Claim {
    let claim: Claim | undefined;
    const holding: Holding = {
      connect: () => claim = make(),
      disconnect: () => {
        claim?.release();
        claim = undefined;
      },
    };
    this.#hold(what, holding);
    return {
      release: () => {
        holding.disconnect();
        this.#connected.delete(holding);
        if (this.#holdings.get(what) === holding) this.#holdings.delete(what);
      },
    };
  }

  /** What a bus is given once, and calls the present device through. */
  #share<T>(
    what: string,
    target: T,
    connect: (shared: Shared<T>) => void,
  ): Shared<T> {
    const before = this.#before;
    let shared: Shared<T>;
    if (before === undefined) {
      shared = { target };
      connect(shared);
    } else {
      shared = before.#shared.get(what) as Shared<T> | undefined ??
        this.#refuse(what);
    }
    this.#shared.set(what, shared);
    this.#hold(what, {
      connect: () => shared.target = target,
      disconnect() {},
    });
    return shared;
  }

  /** Refuses what a successor asks for beyond what its predecessor has, where the bus has no room for it. */
  #refuse(what: string): never {
    throw new MachineError(
      `device "${this.#owner.id}": ${what}: the device that it replaces has none, and the guest knows that one`,
    );
  }

  /**
   * What it lacks of what its predecessor has.
   *
   * @returns Each, as messages name it.
   */
  missing(): string[] {
    const before = this.#before;
    if (before === undefined) return [];
    return [...before.#holdings.keys()]
      .filter((what) => !this.#holdings.has(what));
  }

  /** Gives everything of the predecessor to this device; cannot fail. */
  takeOver(): void {
    const before = this.#before!;
    this.#around.clock.cancel(before.#owner);
    for (const holding of before.#connected) holding.disconnect();
    before.#connected.clear();
    before.#live = false;
    this.#before = undefined;
    this.#live = true;
    for (const holding of this.#holdings.values()) {
      if (this.#connected.has(holding)) continue;
      holding.connect();
      this.#connected.add(holding);
    }
  }

  /** Takes off the buses what this device has claimed; its predecessor, if any, has the rest. */
  abandon(): void {
    this.#around.clock.cancel(this.#owner);
    for (const holding of this.#connected) holding.disconnect();
    this.#connected.clear();
    this.#live = false;
  }

  /** See {@linkcode DeviceContext.isa}. */
  isa(): IsaBus {
    const { isa } = this.#around;
    const owner = this.#owner;
    const range = (first: number, count: number) =>
      `${hex(first)} to ${hex(first + count - 1)}`;
    return {
      claimPorts: (first, count, handler) =>
        this.#claim(
          `ports ${range(first, count)}`,
          () => isa.claimPorts(owner, first, count, handler),
        ),
      claimMemory: (base, length, handler) =>
        this.#claim(
          `memory ${range(base, length)}`,
          () => isa.claimMemory(owner, base, length, handler),
        ),
      irq: (irq) => this.#line(irq),
    };
  }

  #line(irq: number): IrqLine {
    const what = `source ${this.#next("irq")}, interrupt line ${irq}`;
    const before = this.#before;
    const line = before === undefined
      ? this.#around.interrupts.isaSource(this.#owner, irq)
      : before.#lines.get(what) ?? this.#refuse(what);
    this.#lines.set(what, line);
    this.#hold(what, { connect() {}, disconnect() {} });
    const set = (level: boolean) => {
      if (this.#live) line.set(level);
    };
    return {
      get level() {
        return line.level;
      },
      set,
      pulse() {
        set(true);
        set(false);
      },
    };
  }

  /**
   * See {@linkcode DeviceContext.pci}.
   *
   * @param wanted Where the user wants its first function.
   */
  pci(wanted?: { slot: number; fn: number }): PciBus {
    const bus = this.#around.pci.view(this.#owner, wanted);
    return {
      attach: (config) => {
        const number = this.#next("pci");
        const what = `PCI function ${number}`;
        const before = this.#before;
        if (before === undefined) {
          const fn = bus.attach(config);
          this.#functions.push(fn);
          this.#hold(what, { connect() {}, disconnect() {} });
          return this.#handle(fn);
        }
        const fn = before.#functions[number] ?? this.#refuse(what);
        fn.requireSame(this.#owner, config);
        this.#functions.push(fn);
        this.#hold(what, {
          connect: () => fn.become(this.#owner, config),
          disconnect() {},
        });
        return this.#handle(fn);
      },
    };
  }

  #handle(fn: PciSlotFunction): PciFunction {
    const isLive = () => this.#live;
    return {
      slot: fn.slot,
      fn: fn.fn,
      setIntx: (level) => {
        if (isLive()) fn.setIntx(level);
      },
      get msixEnabled() {
        return fn.msixEnabled;
      },
      get msiEnabled() {
        return fn.msiEnabled;
      },
      signal: (vector) => {
        if (isLive()) fn.signal(vector);
      },
      get busMaster() {
        return fn.busMaster;
      },
      readConfig: (offset, size) => fn.readConfig(offset, size),
      writeConfig: (offset, size, value) => {
        if (isLive()) fn.writeConfig(offset, size, value);
      },
    };
  }

  /** See {@linkcode DeviceContext.ports}. */
  ports(): PortBuses {
    const bus = this.#around.ports.view(this.#owner);
    return {
      provide: <D>(
        kind: string,
        count: number,
        onPlug: (port: number, device: D | null) => void,
      ) => {
        const what = `${count} ${kind} ports`;
        const before = this.#before;
        const plugged = before === undefined
          ? new Map<number, unknown>()
          : before.#plugged(what);
        const shared = this.#share(
          what,
          { onPlug, plugged },
          (shared) =>
            bus.provide<D>(kind, count, (port, device) => {
              shared.target.plugged.set(port, device);
              shared.target.onPlug(port, device);
            }),
        );
        if (shared.target.onPlug === onPlug) return;
        for (const [port, device] of plugged) {
          onPlug(port, device as D | null);
        }
      },
      plug: (kind, device, wanted) => {
        const what = `the ${kind} port`;
        const before = this.#before;
        const place = before === undefined
          ? bus.plug(kind, device, wanted)
          : before.#places.get(what) ?? this.#refuse(what);
        this.#places.set(what, place);
        this.#hold(what, {
          connect: () => {
            if (before !== undefined) bus.plug(kind, device, place);
          },
          disconnect() {},
        });
        return place;
      },
    };
  }

  /** The devices in the ports that this device provides. */
  #plugged(what: string): Map<number, unknown> {
    const shared = this.#shared.get(what) as
      | Shared<{ plugged: Map<number, unknown> }>
      | undefined;
    return shared?.target.plugged ?? new Map();
  }

  /** See {@linkcode DeviceContext.interrupts}. */
  interrupts(): InterruptFabric {
    const { interrupts } = this.#around;
    const isLive = () => this.#live;
    const held = (what: string, connect: () => void) =>
      this.#hold(what, { connect, disconnect() {} });
    const listener = <A extends unknown[]>(
      what: string,
      target: (...args: A) => void,
      listen: (call: (...args: A) => void) => void,
    ) =>
      void this.#share(
        `${what} ${this.#next(what)}`,
        target,
        (shared) => listen((...args) => shared.target(...args)),
      );
    return {
      onIsaIrq: (sink) =>
        listener(
          "listener to ISA interrupts",
          sink,
          (call) => interrupts.onIsaIrq(call),
        ),
      onGsi: (sink) =>
        listener(
          "listener to system interrupts",
          sink,
          (call) => interrupts.onGsi(call),
        ),
      onEoi: (sink) =>
        listener("listener to EOIs", sink, (call) => interrupts.onEoi(call)),
      routePirq: (pirq, irq) => {
        if (isLive()) interrupts.routePirq(pirq, irq);
      },
      get pic() {
        return interrupts.pic;
      },
      set pic(pic) {
        held("the PICs", () => interrupts.pic = pic);
      },
      setPicOutput: (level) => {
        if (isLive()) interrupts.setPicOutput(level);
      },
      registerLocalApic: (index, apic) =>
        held(
          `local APIC ${index}`,
          () => interrupts.registerLocalApic(index, apic),
        ),
      deliver: (message) => {
        if (isLive()) interrupts.deliver(message);
      },
      broadcastEoi: (vector) => {
        if (isLive()) interrupts.broadcastEoi(vector);
      },
      get legacyReplacement() {
        return interrupts.legacyReplacement;
      },
      set legacyReplacement(on) {
        if (isLive()) interrupts.legacyReplacement = on;
      },
    };
  }

  /** See {@linkcode DeviceContext.cpus}. */
  cpus(): readonly CpuPort[] {
    return this.#around.cpus.map((cpu) => this.#cpu(cpu));
  }

  #cpu(cpu: CpuPort): CpuPort {
    const isLive = () => this.#live;
    return {
      index: cpu.index,
      claimMsrs: (first, count, handler) =>
        void this.#share<MsrHandler>(
          `MSRs ${hex(first)} to ${
            hex(first + count - 1)
          } of vCPU ${cpu.index}`,
          handler,
          (shared) =>
            cpu.claimMsrs(first, count, {
              read: (index) => shared.target.read(index),
              write: (index, value) => shared.target.write(index, value),
            }),
        ),
      interruptChanged: () => {
        if (isLive()) cpu.interruptChanged();
      },
      nmi: () => {
        if (isLive()) cpu.nmi();
      },
      init: () => {
        if (isLive()) cpu.init();
      },
      startup: (page) => {
        if (isLive()) cpu.startup(page);
      },
      readTsc: () => cpu.readTsc(),
      tscToTime: (value) => cpu.tscToTime(value),
    };
  }

  /** See {@linkcode DeviceContext.machine}. */
  machine(): MachineControl {
    const { machine } = this.#around;
    const isLive = () => this.#live;
    return {
      powerOff: () => {
        if (isLive()) machine.powerOff();
      },
      reset: () => {
        if (isLive()) machine.reset();
      },
      setA20: (enabled) => {
        if (isLive()) machine.setA20(enabled);
      },
      onPowerButton: (listener) =>
        void this.#share(
          `listener to the power button ${this.#next("power")}`,
          listener,
          (shared) => machine.onPowerButton(() => shared.target()),
        ),
      get currentCpu() {
        return machine.currentCpu;
      },
      memory: machine.memory,
    };
  }

  /**
   * The image of the device. Of a drive whose medium comes and goes, the machine's device is told.
   *
   * @param backend The image.
   * @returns The same, as the device sees it.
   */
  block(backend: BlockBackend): BlockBackend {
    const { media } = backend;
    if (media === undefined) return backend;
    const isLive = () => this.#live;
    const own: RemovableMedia = {
      get present() {
        return media.present;
      },
      onChange: (listener) =>
        void this.#share(
          "the changes of its medium",
          listener,
          (shared) => media.onChange((event) => shared.target(event)),
        ),
      lock: (locked) => {
        if (isLive()) media.lock(locked);
      },
      eject: () => {
        if (isLive()) media.eject();
      },
      load: () => {
        if (isLive()) media.load();
      },
    };
    return new Proxy(backend, {
      get(target, key) {
        if (key === "media") return own;
        const value = Reflect.get(target, key, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }

  /**
   * The character stream of the device: of the machine's devices one has its input.
   *
   * @param backend The stream.
   * @returns The same, as the device sees it.
   */
  char(backend: CharBackend): CharBackend {
    return {
      write: (bytes) => backend.write(bytes),
      ready: () => {
        if (this.#live) backend.ready();
      },
      onInput: (accept) =>
        void this.#share(
          "the input of its console",
          accept,
          (shared) => backend.onInput((bytes) => shared.target(bytes)),
        ),
      onDrain: (listener) =>
        void this.#share(
          "the output of its console",
          listener,
          (shared) => backend.onDrain(() => shared.target()),
        ),
      get size() {
        return backend.size;
      },
      onResize: (listener) =>
        void this.#share(
          "the size of its console",
          listener,
          (shared) => backend.onResize?.(() => shared.target()),
        ),
    };
  }

  /**
   * The network of the device: of the machine's devices one has its frames.
   *
   * @param backend The network.
   * @returns The same, as the device sees it.
   */
  net(backend: NetBackend): NetBackend {
    return {
      send: (frame) => backend.send(frame),
      ready: () => {
        if (this.#live) backend.ready();
      },
      get link() {
        return backend.link;
      },
      onReceive: (accept) =>
        void this.#share(
          "the frames of its network",
          accept,
          (shared) => backend.onReceive((frame) => shared.target(frame)),
        ),
      onDrain: (listener) =>
        void this.#share(
          "the room of its network",
          listener,
          (shared) => backend.onDrain(() => shared.target()),
        ),
      onLink: (listener) =>
        void this.#share(
          "the link of its network",
          listener,
          (shared) => backend.onLink(() => shared.target()),
        ),
    };
  }

  /**
   * The keys and pointers of the device: of the machine's devices one has them.
   *
   * @param backend Where they come from.
   * @returns The same, as the device sees it.
   */
  input(backend: InputBackend): InputBackend {
    return {
      onKey: (listener) =>
        void this.#share(
          "its keys",
          listener,
          (shared) =>
            backend.onKey((usage, down) => shared.target(usage, down)),
        ),
      onPointer: (listener) =>
        void this.#share(
          "its pointer",
          listener,
          (shared) =>
            backend.onPointer((...motion) => shared.target(...motion)),
        ),
      onTablet: (listener) =>
        void this.#share(
          "its tablet",
          listener,
          (shared) =>
            backend.onTablet((...position) => shared.target(...position)),
        ),
      setLeds: (leds) => {
        if (this.#live) backend.setLeds(leds);
      },
    };
  }

  /**
   * The display of the device: what it shows is seen as soon as it is the machine's device.
   *
   * @param backend Who looks.
   * @returns The same, as the device sees it.
   */
  display(backend: DisplayBackend): DisplayBackend {
    let shown: Picture | undefined;
    this.#hold("its display", {
      connect: () => {
        if (shown !== undefined) backend.show(shown);
      },
      disconnect() {},
    });
    return {
      show: (picture) => {
        shown = picture;
        if (this.#live) backend.show(picture);
      },
    };
  }
}
