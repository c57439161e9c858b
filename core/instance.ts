/**
 * One device of a machine: makes its context, keeps its callbacks, and turns whatever it throws
 * into a {@linkcode PluginError}.
 *
 * @module
 */
import type { Pci } from "./bus/pci.ts";
import type { Ports } from "./bus/ports.ts";
import type { Isa } from "./bus/isa.ts";
import type { Interrupts } from "./bus/irq.ts";
import type { Clock } from "./clock.ts";
import type { Completions } from "./completions.ts";
import { checkOptions } from "./device_options.ts";
import type { Entropy } from "./entropy.ts";
import { type FaultSink, type Owner, PluginError } from "./fault.ts";
import {
  type Backends,
  type BlockBackend,
  type CharBackend,
  type CpuPort,
  type Device,
  type DeviceContext,
  type DisplayBackend,
  type DmaMemory,
  type FirmwareNode,
  type InputBackend,
  type MachineControl,
  MachineError,
  type NetBackend,
  type OptionSpec,
  type OptionValue,
  type Picture,
  type Plugin,
  type Rectangle,
} from "./plugin.ts";
import { adoptState } from "./adopt.ts";
import { Place } from "./place.ts";

/**
 * A plugin of any options, state and backend. Its `create` takes `never`: only
 * {@linkcode Instance} calls it, with what the plugin itself declares.
 */
export interface AnyPlugin extends
  Omit<
    Plugin<Record<string, OptionSpec>, unknown, keyof Backends>,
    "create"
  > {
  /** See {@linkcode Plugin.create}. */
  create(ctx: never, options: never): Device;
}

/** What devices are connected to: the parts of one machine. */
export interface Surroundings {
  /** Ports and fixed memory. */
  readonly isa: Isa;
  /** PCI bus 0. */
  readonly pci: Pci;
  /** Ports of controllers. */
  readonly ports: Ports;
  /** Interrupt wires. */
  readonly interrupts: Interrupts;
  /** Guest memory. */
  readonly memory: DmaMemory;
  /** Virtual time. */
  readonly clock: Clock;
  /** Randomness. */
  readonly entropy: Entropy;
  /** Host work in flight. */
  readonly completions: Completions;
  /** What the chipset may ask of the machine. */
  readonly machine: MachineControl;
  /** The vCPUs. */
  readonly cpus: readonly CpuPort[];
  /** Takes what devices throw. */
  readonly fault: FaultSink;
  /** Takes a device's log. */
  log(owner: Owner, level: "debug" | "warn", message: string): void;
  /** Host input has reached a device: a guest that sleeps must look. */
  wake(): void;
}

/** What a device is made from. */
export interface InstanceOptions {
  /** Instance id. */
  id: string;
  /** Typed options, defaults included. */
  options?: Record<string, OptionValue>;
  /** The backend that the plugin asks for. */
  backend?: Backends[keyof Backends];
  /** Where the user wants its first PCI function. */
  pciAddress?: { slot: number; fn: number };
}

/** Adds declared defaults to options. */
function withDefaults(
  specs: Record<string, OptionSpec>,
  given: Record<string, OptionValue>,
): Record<string, OptionValue> {
  const values: Record<string, OptionValue> = {};
  for (const [name, spec] of Object.entries(specs)) {
    if (spec.default !== undefined) values[name] = spec.default;
  }
  return { ...values, ...given };
}

/** Keys and motions that a device holds while it does not run; what comes after them is lost. */
const MAX_HELD_EVENTS = 4096;

/** A device of a machine. */
export class Instance {
  /** Its id and the name of its plugin. */
  readonly owner: Owner;
  /** Its plugin. */
  readonly plugin: AnyPlugin;
  /** The options that it was made with, defaults included. */
  readonly options: Readonly<Record<string, OptionValue>>;
  /** What it declared to the firmware tables. */
  readonly nodes: FirmwareNode[] = [];
  readonly #around: Surroundings;
  readonly #made: InstanceOptions;
  readonly #place: Place;
  readonly #device: Device;
  /** What the user does while it does not run. */
  readonly #held: (() => void)[] = [];
  #started = false;
  #paused = false;
  #save: (() => unknown) | undefined;
  #restore: ((value: unknown) => void) | undefined;

  /**
   * Creates the device.
   *
   * @param plugin Its plugin.
   * @param around The machine.
   * @param made What it is made from.
   * @param before The device whose place it is to take, with {@linkcode takeOver}.
   * @throws {MachineError} When a declaration clashes with another device's.
   * @throws {PluginError} When the plugin throws anything else, or registers no state.
   */
  constructor(
    plugin: AnyPlugin,
    around: Surroundings,
    made: InstanceOptions,
    before?: Instance,
  ) {
    this.owner = { id: made.id, plugin: plugin.name };
    this.plugin = plugin;
    checkOptions(made.id, plugin.options, made.options ?? {});
    this.options = withDefaults(plugin.options, made.options ?? {});
    this.#around = around;
    this.#made = made;
    this.#place = new Place(
      this.owner,
      around,
      before === undefined ? undefined : before.#place,
    );
    if (plugin.backend !== undefined && made.backend === undefined) {
      throw new MachineError(
        `device "${made.id}" needs a ${plugin.backend} backend: none was given`,
      );
    }
    try {
      this.#device = plugin.create(
        this.#context(made) as never,
        this.options as never,
      );
    } catch (error) {
      this.#place.abandon();
      if (before === undefined) {
        around.interrupts.forget(this.owner);
        around.ports.unplug(this.owner);
      }
      if (error instanceof MachineError) throw error;
      throw new PluginError(this.owner, "create", undefined, error);
    }
    if (this.#save === undefined) {
      throw new PluginError(
        this.owner,
        "create",
        undefined,
        new MachineError("it did not call ctx.snapshot.register"),
      );
    }
  }

  #context(made: InstanceOptions): DeviceContext {
    const { owner, nodes } = this;
    const around = this.#around;
    const place = this.#place;
    return {
      id: owner.id,
      isa: place.isa(),
      pci: place.pci(made.pciAddress),
      ports: place.ports(),
      interrupts: place.interrupts(),
      memory: around.memory,
      clock: around.clock.view(owner),
      machine: place.machine(),
      cpus: place.cpus(),
      entropy: (target) => around.entropy.fill(target),
      backend: this.#backend(made.backend),
      snapshot: {
        register: ({ save, restore }) => {
          this.#save = save;
          this.#restore = restore;
        },
      },
      log: {
        debug: (message) => around.log(owner, "debug", message),
        warn: (message) => around.log(owner, "warn", message),
      },
      declare: (node) => void nodes.push(node),
      async: (work, done, failed) =>
        around.completions.add(owner, work, done, failed),
    };
  }

  /** The backend, its calls into the device guarded. */
  #backend(
    backend: Backends[keyof Backends] | undefined,
  ): Backends[keyof Backends] {
    switch (this.plugin.backend) {
      case "char":
        return this.#charBackend(backend as CharBackend);
      case "net":
        return this.#netBackend(backend as NetBackend);
      case "input":
        return this.#inputBackend(backend as InputBackend);
      case "display":
        return this.#displayBackend(backend as DisplayBackend);
      case "block":
        return this.#place.block(backend as BlockBackend);
      default:
        return backend as Backends[keyof Backends];
    }
  }

  #inputBackend(backend: InputBackend): InputBackend {
    const own = this.#place.input(backend);
    const guarded = (listener: (...event: number[]) => void) => {
      const deliver = (...event: number[]) => {
        this.#guard("user input", () => listener(...event));
        this.#around.wake();
      };
      return (...event: number[]) => {
        if (this.#started && !this.#paused) deliver(...event);
        else if (this.#held.length < MAX_HELD_EVENTS) {
          this.#held.push(() => deliver(...event));
        }
      };
    };
    return {
      onKey: (listener) => {
        const take = guarded((usage, down) => listener(usage, down === 1));
        own.onKey((usage, down) => take(usage, down ? 1 : 0));
      },
      onPointer: (listener) =>
        own.onPointer(guarded(listener as (...motion: number[]) => void)),
      onTablet: (listener) =>
        own.onTablet(guarded(listener as (...position: number[]) => void)),
      setLeds: own.setLeds,
    };
  }

  /** Gives the device what the user did while it was paused. */
  #deliverHeld(): void {
    for (const deliver of this.#held.splice(0)) deliver();
  }

  #displayBackend(backend: DisplayBackend): DisplayBackend {
    const own = this.#place.display(backend);
    const guarded = (picture: Picture): Picture => ({
      width: picture.width,
      height: picture.height,
      get pixels() {
        return picture.pixels;
      },
      update: () => {
        let changed: readonly Rectangle[] = [];
        this.#guard("display", () => changed = picture.update());
        return changed;
      },
    });
    return { show: (picture) => own.show(guarded(picture)) };
  }

  #netBackend(backend: NetBackend): NetBackend {
    const own = this.#place.net(backend);
    const told = (operation: string, listener: () => void) => () => {
      this.#guard(operation, listener);
      this.#around.wake();
    };
    return {
      send: own.send,
      ready: own.ready,
      get link() {
        return own.link;
      },
      onReceive: (accept) =>
        own.onReceive((frame) => {
          let taken = true;
          this.#guard("network input", () => taken = accept(frame));
          this.#around.wake();
          return taken;
        }),
      onDrain: (listener) => own.onDrain(told("network output", listener)),
      onLink: (listener) => own.onLink(told("network link", listener)),
    };
  }

  #charBackend(backend: CharBackend): CharBackend {
    const own = this.#place.char(backend);
    const told = (operation: string, listener: () => void) => () => {
      this.#guard(operation, listener);
      this.#around.wake();
    };
    return {
      write: own.write,
      ready: own.ready,
      get size() {
        return own.size;
      },
      onInput: (accept) =>
        own.onInput((bytes) => {
          let taken = bytes.length;
          this.#guard("host input", () => taken = accept(bytes));
          this.#around.wake();
          return taken;
        }),
      onDrain: (listener) => own.onDrain(told("host output", listener)),
      onResize: (listener) => own.onResize?.(told("console size", listener)),
    };
  }

  #guard(operation: string, call: () => void): void {
    try {
      call();
    } catch (error) {
      this.#around.fault(
        new PluginError(this.owner, operation, undefined, error),
      );
    }
  }

  async #guardAsync(
    operation: string,
    call: () => void | Promise<void>,
  ): Promise<void> {
    try {
      await call();
    } catch (error) {
      this.#around.fault(
        new PluginError(this.owner, operation, undefined, error),
      );
    }
  }

  /** Power-on state. */
  reset(): void {
    this.#guard("reset", () => this.#device.reset());
  }

  /** The machine starts to run. */
  start(): void {
    if (this.#started) return;
    this.#started = true;
    this.#guard("start", () => this.#device.start?.());
    this.#deliverHeld();
  }

  /**
   * Makes a device that can take this one's place: it has this one's backend, and those of its
   * options that it knows. Until it does take it, this one goes on as if there were none.
   *
   * @param plugin Its plugin.
   * @param options Options that are to be others than this one's.
   * @returns The device, with this one's state; {@linkcode takeOver} or {@linkcode abandon} it.
   * @throws {MachineError} When it cannot: the message says all that is in the way.
   * @throws {SchemaError} When it does not take this one's state.
   * @throws {PluginError} When either plugin throws.
   */
  successor(
    plugin: AnyPlugin,
    options: Readonly<Record<string, OptionValue>> = {},
  ): Instance {
    const { id } = this.owner;
    if (plugin.backend !== this.plugin.backend) {
      throw new MachineError(
        `device "${id}": plugin "${plugin.name}" needs ${
          plugin.backend === undefined
            ? "no backend"
            : `a ${plugin.backend} backend`
        }, and the device has ${
          this.plugin.backend === undefined
            ? "none"
            : `a ${this.plugin.backend} backend`
        }`,
      );
    }
    const kept = Object.fromEntries(
      Object.entries(this.options).filter(([name]) =>
        Object.hasOwn(plugin.options, name)
      ),
    );
    const made = { ...this.#made, options: { ...kept, ...options } };
    const { name, version } = this.plugin.state;
    const state = adoptState(plugin, { name, version, state: this.save() }, {
      path: id,
      contains: (address, length) =>
        this.#around.memory.contains(address, length),
    });
    const next = new Instance(plugin, this.#around, made, this);
    try {
      next.#device.reset();
      next.#put(state);
      const missing = next.#place.missing();
      if (missing.length > 0) {
        throw new MachineError(
          `device "${id}": plugin "${plugin.name}" does not claim ${
            missing.join(", ")
          }, which the guest knows from plugin "${this.plugin.name}"`,
        );
      }
    } catch (error) {
      next.abandon();
      if (error instanceof MachineError || error instanceof PluginError) {
        throw error;
      }
      throw new PluginError(next.owner, "reset", undefined, error);
    }
    return next;
  }

  /** Takes the place of the device that this is the {@linkcode successor} of. */
  takeOver(): void {
    this.#place.takeOver();
  }

  /** Gives up what it has claimed. */
  abandon(): void {
    this.#place.abandon();
  }

  /** Holds new work; resolves when what is in flight is finished or recorded. */
  pause(): Promise<void> {
    this.#paused = true;
    return this.#guardAsync("pause", () => this.#device.pause?.());
  }

  /** Takes held work up again; starts a device that has not been paused since it took its place. */
  resume(): void {
    if (!this.#paused) return this.start();
    this.#paused = false;
    this.#guard("resume", () => this.#device.resume?.());
    this.#deliverHeld();
  }

  /** The machine ends. */
  stop(): Promise<void> {
    return this.#guardAsync("stop", () => this.#device.stop?.());
  }

  /** Names of what the user may ask of the device. */
  get commands(): readonly string[] {
    return Object.keys(this.#device.commands ?? {});
  }

  /**
   * Asks something of the device.
   *
   * @param name One of {@linkcode commands}.
   * @param args What goes with it.
   * @returns Its answer.
   * @throws {MachineError} When the device cannot do it.
   * @throws {PluginError} When it throws anything else.
   */
  command(name: string, args: Readonly<Record<string, unknown>>): unknown {
    try {
      const answer = this.#device.commands![name](args);
      this.#around.wake();
      return answer;
    } catch (error) {
      if (error instanceof MachineError) throw error;
      throw new PluginError(this.owner, `command ${name}`, undefined, error);
    }
  }

  /**
   * The device's state.
   *
   * @returns A value that its schema has validated.
   * @throws {PluginError} When it throws, or its state does not fit its own schema.
   */
  save(): unknown {
    try {
      return this.plugin.state.validate(this.#save!(), {
        path: this.owner.id,
      });
    } catch (error) {
      throw new PluginError(this.owner, "save", undefined, error);
    }
  }

  /**
   * Restores the device's state after migrating and validating it.
   *
   * @param value The state as it was saved.
   * @param version The version of the schema that it was saved with.
   * @param name The name of that schema.
   * @throws {SchemaError} When it does not fit.
   * @throws {PluginError} When the device refuses it.
   */
  restore(
    value: unknown,
    version: number = this.plugin.state.version,
    name: string = this.plugin.state.name,
  ): void {
    const saved = { name, version, state: value };
    this.#put(adoptState(this.plugin, saved, {
      path: this.owner.id,
      contains: (address, length) =>
        this.#around.memory.contains(address, length),
    }));
  }

  #put(state: unknown): void {
    try {
      this.#restore!(state);
    } catch (error) {
      throw new PluginError(this.owner, "restore", undefined, error);
    }
  }
}
