/**
 * A machine as a snapshot object, and back: every component's state with its schema, and the
 * memory (DESIGN.md section 6).
 *
 * The order of restoring is time first, then the wires, then devices, then the vCPU, for each
 * looks at those before it. Everything that can be checked without a device is checked before
 * anything is changed, and the machine that is changed is a new one: who restores throws it away
 * when it fails.
 *
 * @module
 */
import { irqSchema } from "./bus/irq.ts";
import { pciSchema } from "./bus/pci.ts";
import { clockSchema } from "./clock.ts";
import { checkCpu } from "./cpu/check_saved.ts";
import { restoreCpu } from "./cpu/restored.ts";
import { cpuSchema, saveCpu } from "./cpu/saved.ts";
import type { AnyPlugin } from "./instance.ts";
import type { Machine } from "./machine.ts";
import { difference } from "../snapshot/difference.ts";
import { FrozenMemory } from "./memory/freeze.ts";
import {
  contentOf,
  pagesOf,
  type PageSource,
} from "../snapshot/memory_image.ts";
import {
  type Schema,
  schema,
  type SchemaDescription,
  SchemaError,
  u64,
} from "../snapshot/schema.ts";

/** The state of one component. */
export interface ComponentState {
  /** Component: `cpu0`, `clock`, or the id of a device. */
  id: string;
  /** The schema that the state fits. */
  schema: SchemaDescription;
  /** The state. */
  state: unknown;
}

/** A machine's state: components, and memory by reference or by copy. */
export interface MachineState {
  /** The components, in the order of saving. */
  components: ComponentState[];
  /** Guest RAM, contiguous: what is below 3 GiB, then what is above 4 GiB. */
  ram: Uint8Array;
  /** The firmware image that ends at 4 GiB. */
  rom?: Uint8Array;
}

/** State of the machine itself. */
export const machineSchema = schema("machine", 2, {
  /** Instructions that the vCPU has retired. */
  retired: u64(),
  /** The generator of random bytes. */
  entropy: u64(),
}, {
  1: (old) => ({ ...old as { retired: bigint }, entropy: 0n }),
});

/** Ids that the machine itself has; no device may have them. */
const MACHINE = "machine";
const CLOCK = "clock";
const IRQ = "irq";
const PCI = "pci";
const CPU = "cpu0";
/** Id of what the program around the machine keeps; another program leaves it alone. */
const SESSION = "session";
const OWN_IDS = [MACHINE, CLOCK, IRQ, PCI, SESSION];

/** State that the program around a machine keeps in its snapshots. */
export interface SessionPart {
  /** Its schema. */
  readonly schema: Schema<unknown>;
  /** Called while the machine is paused; changes nothing. */
  save(): unknown;
}

/**
 * Whether no device may have an id, for the machine has it.
 *
 * @param id The id.
 */
export function isOwnId(id: string): boolean {
  return OWN_IDS.includes(id) || /^cpu\d+$/.test(id);
}

function component<T>(
  id: string,
  schema: Schema<T>,
  state: unknown,
): ComponentState {
  return { id, schema: schema.describe(), state: schema.validate(state) };
}

function saveComponents(machine: Machine): ComponentState[] {
  const { cpu } = machine;
  return [
    component(MACHINE, machineSchema, {
      retired: BigInt(cpu.retired),
      entropy: machine.entropy.save(),
    }),
    component(CLOCK, clockSchema, machine.clock.save()),
    component(IRQ, irqSchema, machine.interrupts.save()),
    component(PCI, pciSchema, machine.pci.save()),
    ...machine.devices.map((device) => ({
      id: device.owner.id,
      schema: device.plugin.state.describe(),
      state: device.save(),
    })),
    component(CPU, cpuSchema, saveCpu(cpu)),
    ...machine.session === undefined
      ? []
      : [component(SESSION, machine.session.schema, machine.session.save())],
  ];
}

/**
 * Takes the state of a machine that is paused or does not run; disks in memory are not in it.
 *
 * @param machine The machine.
 * @returns Its state; `ram` and `rom` are views, valid until it runs again.
 * @throws {PluginError} When a device fails to save.
 */
export function saveMachine(machine: Machine): MachineState {
  const { memory } = machine;
  memory.loader?.loadRest();
  return {
    components: saveComponents(machine),
    ram: memory.ramBytes,
    rom: memory.romImage,
  };
}

/** Everything of a machine at one instant; it may run on. */
export interface FrozenMachine {
  /** The components. */
  components: ComponentState[];
  /** RAM, the firmware image, disks in memory. */
  memories: PageSource[];
  /**
   * Ends it.
   *
   * @param written Whether a snapshot of it is there, and is what the next one may build on.
   */
  end(written: boolean): void;
}

/** The name of a disk's content in a snapshot. */
export function diskRegion(id: string): string {
  return `disk:${id}`;
}

/**
 * Freezes a machine that is paused or does not run. How long this takes does not depend on how
 * much is in its memory.
 *
 * @param machine The machine; nothing else freezes it until the end.
 * @param incremental Leaves out the pages of RAM that are as in the last snapshot.
 * @returns What is frozen; the caller ends it.
 * @throws {PluginError} When a device fails to save.
 */
export function freezeMachine(
  machine: Machine,
  incremental: boolean,
): FrozenMachine {
  const { memory } = machine;
  const components = saveComponents(machine);
  const disks = machine.contents.map(({ id, content }) => ({
    region: diskRegion(id),
    frozen: content.freeze(),
  }));
  const ram = new FrozenMemory(memory, incremental);
  const memories: PageSource[] = [ram];
  const rom = memory.romImage;
  if (rom !== undefined) memories.push(pagesOf("rom", contentOf(rom)));
  for (const { region, frozen } of disks) {
    memories.push(pagesOf(region, frozen));
  }
  return {
    components,
    memories,
    end(written) {
      ram.end(written);
      for (const { frozen } of disks) frozen.release();
    },
  };
}

/**
 * A state that does not fit because the schema of its version was changed is not damaged: its
 * plugin is another build.
 *
 * @param error What the restore of a device threw.
 * @param saved The state.
 * @param plugin The device's plugin.
 * @returns The error to be thrown.
 */
function explain(
  error: unknown,
  { schema }: ComponentState,
  plugin: AnyPlugin,
): unknown {
  const { state, name } = plugin;
  if (
    !(error instanceof SchemaError) || schema.name !== state.name ||
    schema.version !== state.version
  ) return error;
  const found = difference(schema.type, state.type.description);
  if (found === undefined) return error;
  const message = error.message.slice(error.path.length + 1);
  return new SchemaError(
    error.path,
    `${message}. The snapshot was made by an incompatible build of the plugin "${name}", whose state has the same version ${schema.version} but another schema (${found}): use that build, or give the changed state a new version and a migration`,
  );
}

/**
 * Puts a state into a machine that was just created from the same configuration.
 *
 * @param machine The machine; when this throws it is to be thrown away.
 * @param saved The state. Where its `ram` is already the machine's own memory it is not copied.
 * @throws {SchemaError} When a component is missing, unknown, of a newer version, or impossible.
 * @throws {PluginError} When a device refuses its state.
 */
export function restoreMachine(machine: Machine, saved: MachineState): void {
  const { memory, cpu, clock, interrupts, pci } = machine;
  const components = new Map<string, ComponentState>();
  for (const each of saved.components) {
    if (components.has(each.id)) {
      throw new SchemaError(each.id, "is there twice: expected it once");
    }
    components.set(each.id, each);
  }
  const known = new Map<string, string>([
    [MACHINE, machineSchema.name],
    [CLOCK, clockSchema.name],
    [IRQ, irqSchema.name],
    [PCI, pciSchema.name],
    [CPU, cpuSchema.name],
    ...machine.devices.map((d): [string, string] => [
      d.owner.id,
      d.plugin.state.name,
    ]),
  ]);
  for (const [id, name] of known) {
    const found = components.get(id);
    if (found === undefined) {
      throw new SchemaError(id, "is missing in the snapshot");
    }
    const plugin = machine.devices.find((d) => d.owner.id === id)?.plugin;
    const isAccepted = Object.hasOwn(plugin?.accepts ?? {}, found.schema.name);
    if (found.schema.name !== name && !isAccepted) {
      throw new SchemaError(
        id,
        `has the state of "${found.schema.name}": expected that of "${name}"`,
      );
    }
  }
  for (const id of components.keys()) {
    if (!known.has(id) && id !== SESSION) {
      throw new SchemaError(id, "is in the snapshot, but not in the machine");
    }
  }
  if (saved.ram.length !== memory.ram) {
    throw new SchemaError(
      "memory",
      `is ${saved.ram.length} bytes: expected the ${memory.ram} of the machine`,
    );
  }
  const state = <T>(id: string, schema: Schema<T>): T => {
    const { state, schema: { version } } = components.get(id)!;
    return schema.migrate(state, version, { path: id });
  };
  const cpuState = state(CPU, cpuSchema);
  checkCpu(cpuState, CPU, cpu.model);
  const clockState = state(CLOCK, clockSchema);
  const irqState = state(IRQ, irqSchema);
  const pciState = state(PCI, pciSchema);
  const { retired, entropy } = state(MACHINE, machineSchema);
  if (retired > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new SchemaError(
      "machine.retired",
      `is ${retired}: expected a number below 2^53`,
    );
  }

  const own = memory.ramBytes;
  if (
    saved.ram.buffer !== own.buffer || saved.ram.byteOffset !== own.byteOffset
  ) {
    own.set(saved.ram);
    memory.forgetContent();
  }
  if (saved.rom !== undefined) memory.setRom(saved.rom);
  cpu.retired = Number(retired);
  clock.restore(clockState);
  machine.entropy.restore(entropy);
  interrupts.quietly(() => {
    interrupts.restore(irqState);
    pci.restore(pciState);
    for (const device of machine.devices) {
      const saved = components.get(device.owner.id)!;
      const { state, schema } = saved;
      try {
        device.restore(state, schema.version, schema.name);
      } catch (error) {
        throw explain(error, saved, device.plugin);
      }
    }
  });
  restoreCpu(cpu, cpuState, Number(retired));
}
