/**
 * A virtio disk on the real buses with a guest driver, for tests.
 *
 * @module
 */
import type { BlockBackend, OptionsOf } from "../../../core/plugin.ts";
import { createTestContext } from "../../../core/testing/context.ts";
import type { Infer } from "../../../snapshot/schema.ts";
import virtioBlk from "../blk.ts";
import { type GuestBus, GuestDriver } from "./driver.ts";

/** Enough turns for every promise that is settled to reach its device. */
const TURNS = 50;
/** Completions that lead to others: chunks of a request, requests that waited. */
const ROUNDS = 30;
const RAM_SIZE = 64 << 20;
const DEVICE_ID = "disk";

/** What is not as usual. */
export interface SetUpOptions {
  options?: Partial<OptionsOf<typeof virtioBlk.options>>;
  /** Takes over memory, buses and the device's state of another machine. */
  from?: Machine;
}

/** The state of the device. */
export type BlkState = Infer<typeof virtioBlk.state>;

function context(backend: BlockBackend, options: SetUpOptions["options"]) {
  return createTestContext(virtioBlk, {
    id: DEVICE_ID,
    backend,
    options,
    ram: RAM_SIZE,
    // The image answers when and in which order the test says.
    clock: "realtime",
  });
}

/** The machine. */
export class Machine implements AsyncDisposable {
  readonly #context: ReturnType<typeof context>;
  readonly bus: GuestBus;
  readonly driver: GuestDriver;

  constructor(backend: BlockBackend, { options, from }: SetUpOptions) {
    this.#context = context(backend, options);
    const { machine, instance } = this.#context;
    const { memory } = machine;
    this.bus = {
      in: (port, size) => machine.in(port, size),
      out: (port, size, value) => machine.out(port, value, size),
      read: (address, size) => machine.load(address, size),
      write: (address, size, value) => machine.store(address, value, size),
      ram: memory.bytes.subarray(memory.ramBase, memory.ramBase + RAM_SIZE),
    };
    if (from === undefined) {
      this.driver = GuestDriver.find(this.bus);
      instance.start();
      return;
    }
    const other = from.#context.machine;
    this.bus.ram.set(from.bus.ram);
    machine.interrupts.quietly(() => {
      machine.interrupts.restore(other.interrupts.save());
      machine.pci.restore(other.pci.save());
    });
    this.restore(from.save());
    this.driver = GuestDriver.find(this.bus);
  }

  /** The device's lifecycle. */
  get device() {
    return this.#context.instance;
  }

  /** Vectors of the messages on the APIC bus. */
  get messages(): number[] {
    return this.#context.machine.messages.map(({ vector }) => vector);
  }

  /** The level of the device's PIRQ, as the I/O APIC sees it. */
  get intx(): boolean {
    return this.#context.machine.gsiEvents.at(-1)?.[1] ?? false;
  }

  get log(): string[] {
    return this.#context.machine.logged;
  }

  save(): BlkState {
    return this.#context.save();
  }

  restore(state: BlkState): void {
    this.#context.restore(state);
  }

  /** Delivers what the host has finished; what it has not stays in flight. */
  readonly settle = async (): Promise<void> => {
    const { machine } = this.#context;
    for (let round = 0; round < ROUNDS; round++) {
      for (let turn = 0; turn < TURNS; turn++) await Promise.resolve();
      machine.completions.run();
      if (machine.completions.count === 0) return;
    }
  };

  /** Leaves nothing behind. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#context.instance.stop();
  }
}

/** Makes a machine with a virtio disk. */
// deno-lint-ignore require-await -- what it throws becomes a rejection
export async function setUp(
  backend: BlockBackend,
  options: SetUpOptions = {},
): Promise<Machine> {
  return new Machine(backend, options);
}
