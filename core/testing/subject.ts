/**
 * A device under test in a machine of its own: it does operations, and is saved and restored into
 * another machine, in which everything must go on alike.
 *
 * @module
 */
import { decode, encode, type ValueType } from "@std/msgpack";
import { fromJson } from "../../snapshot/json.ts";
import { toJson, type TypeDescription } from "../../snapshot/schema.ts";
import { fromWire } from "../../snapshot/wire.ts";
import { PluginError } from "../fault.ts";
import type { Instance } from "../instance.ts";
import type { TestContext } from "./context.ts";
import { type Operation, perform } from "./operation.ts";

/** What a plugin did differently after a restore, or did wrong. Its message names the place. */
export class RoundTripError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "RoundTripError";
}

/** One step of a guest, or of time: what it returns must be equal in the copy. */
export type ScenarioStep = (machine: TestContext) => unknown;

/** Characters shown on both sides of where two values differ. */
const SHOWN = 60;

/** A value as text, to be compared. */
export function text(value: unknown): string {
  return JSON.stringify(toJson(value)) ?? "undefined";
}

/**
 * Compares what must be equal.
 *
 * @param what What it is, for the message.
 * @param original In the machine that was saved.
 * @param copy In the one that was restored.
 * @param names What to call the two.
 * @throws {RoundTripError} Where they differ.
 */
export function compare(
  what: string,
  original: unknown,
  copy: unknown,
  names: [string, string] = [
    "the restored device",
    "the saved one",
  ],
): void {
  const [one, other] = [text(original), text(copy)];
  if (one === other) return;
  let at = 0;
  while (one[at] === other[at]) at++;
  const near = (all: string) =>
    all.slice(Math.max(0, at - SHOWN), at + SHOWN) +
    (all.length > at + SHOWN ? "…" : "");
  const dots = at > SHOWN ? "…" : "";
  throw new RoundTripError(
    `${what}: ${names[0]} has ${dots}${near(other)}: expected ${dots}${
      near(one)
    }, as ${names[1]}`,
  );
}

/** A device under test. */
export class Subject {
  /** Steps of the scenario that were done. */
  done = 0;
  /** What went to each backend before it was forgotten. */
  readonly #gone: (string | number)[][];

  /**
   * Starts a new machine.
   *
   * @param machine The machine.
   * @param steps The scenario.
   */
  constructor(
    readonly machine: TestContext,
    readonly steps: readonly ScenarioStep[],
  ) {
    this.#gone = this.backends.map(() => []);
  }

  /** The device; the others of the machine are what it needs. */
  get device(): Instance {
    return this.machine.instances.at(-1)!;
  }

  /** The machine runs. */
  start(): void {
    for (const instance of this.machine.instances) instance.start();
  }

  /**
   * Does the scenario's next step.
   *
   * @returns Its reply.
   */
  async step(): Promise<unknown> {
    const { machine } = this;
    machine.meter.restart();
    const reply = await this.steps[this.done++](machine);
    await machine.settle();
    return reply;
  }

  /**
   * Does an operation. What a step of the scenario throws is its reply: it may not expect what
   * came before it.
   *
   * @returns Its reply.
   * @throws {PluginError} When the device throws.
   */
  async do(operation: Operation): Promise<unknown> {
    const { machine } = this;
    if (operation.do !== "step") {
      machine.meter.restart();
      const reply = perform(machine, operation);
      await machine.settle();
      return reply;
    }
    if (this.done >= this.steps.length) return "no step is left";
    try {
      return await this.step();
    } catch (error) {
      if (error instanceof PluginError) throw error;
      return `throws ${error}`;
    }
  }

  /** Everything that has left the devices since {@linkcode forget}. */
  observed(): Record<string, unknown> {
    const { machine } = this;
    return {
      messages: machine.messages,
      isaEvents: machine.isaEvents,
      gsiEvents: machine.gsiEvents,
      requests: machine.requests,
      cpu: machine.cpus[0].calls.filter((call) => call !== "interrupt"),
      pending: machine.interrupts.pending(0),
      sent: machine.chars.map(({ sent }) => sent),
      frames: machine.nets.map(({ sent }) => sent),
      disk: machine.blocks.map(({ journal }) => journal),
      // Only where there are any: golden snapshots of other devices were made without.
      ...machine.inputs.length > 0 &&
        { leds: machine.inputs.map(({ leds }) => leds) },
    };
  }

  /** What has gone to backends, from the start, in order of content: requests may overtake each other. */
  get output(): unknown {
    const { machine } = this;
    const all = [...machine.chars, ...machine.nets].map(({ sent }) => sent);
    const disks = machine.blocks.map(({ journal }) => journal);
    return this.#gone.map((gone, i) =>
      i < all.length
        ? [...gone, ...all[i]]
        : [...gone, ...disks[i - all.length]].sort()
    );
  }

  /** The backends of the machine. */
  get backends(): { isQuiet: boolean; isDisturbed: boolean }[] {
    const { chars, nets, blocks } = this.machine;
    return [...chars, ...nets, ...blocks];
  }

  /** Forgets what has left the devices. */
  forget(): void {
    const { machine } = this;
    [
      ...machine.chars.map(({ sent }) => sent),
      ...machine.nets.map(({ sent }) => sent),
      ...machine.blocks.map(({ journal }) => journal),
    ].forEach((events, i) => this.#gone[i].push(...events));
    const { messages, isaEvents, gsiEvents, requests, cpus } = machine;
    const all: unknown[][] = [
      messages,
      isaEvents,
      gsiEvents,
      requests,
      cpus[0].calls,
      ...machine.chars.map(({ sent }) => sent),
      ...machine.nets.map(({ sent }) => sent),
      ...machine.blocks.map(({ journal }) => journal),
    ];
    for (const events of all) events.length = 0;
  }

  /** The state of all devices, by id. */
  save(): Map<string, unknown> {
    return new Map(
      this.machine.instances.map((each) => [each.owner.id, each.save()]),
    );
  }

  /**
   * Saves the machine, which must be paused, into a new one; both go on.
   *
   * @param make Makes the new machine, with the same devices.
   * @param where For messages.
   * @returns The copy.
   */
  transplant(make: () => TestContext, where: string): Subject {
    const seen = text(this.observed());
    const saved = this.save();
    for (const [id, state] of this.save()) {
      compare(`${where}: a second save`, saved.get(id), state, [
        "it",
        "the first",
      ]);
    }
    if (text(this.observed()) !== seen) {
      throw new RoundTripError(
        `${where}: saving sent ${
          text(this.observed())
        }: expected nothing beyond ${seen}`,
      );
    }
    const copy = new Subject(make(), this.steps);
    copy.done = this.done;
    copy.machine.continue(this.machine, () => {
      for (const { owner, plugin } of this.machine.instances) {
        const { description } = plugin.state.type;
        const state = throughFile(description, saved.get(owner.id), where);
        const instance = copy.machine.instances.find((each) =>
          each.owner.id === owner.id
        )!;
        instance.restore(state, plugin.state.version);
      }
    });
    compare(
      `${where}: the state`,
      [...saved.values()],
      [...copy.save().values()],
    );
    this.machine.resume();
    copy.start();
    this.forget();
    copy.forget();
    return copy;
  }

  /** Compares everything with a copy, at the end. */
  async compareEnd(copy: Subject, where: string): Promise<void> {
    await this.machine.pause();
    await copy.machine.pause();
    const [from, to] = [this.machine, copy.machine];
    compare(
      `${where}: the final state`,
      [...this.save().values()],
      [...copy.save().values()],
    );
    compare(`${where}: the bus`, from.pci.save(), to.pci.save());
    compare(
      `${where}: interrupt lines`,
      from.interrupts.save(),
      to.interrupts.save(),
    );
    compare(
      `${where}: output`,
      this.observed(),
      copy.observed(),
    );
    from.blocks.forEach(({ bytes }, i) => {
      if (differ(bytes, to.blocks[i].bytes) >= 0) {
        throw new RoundTripError(`${where}: the disks differ`);
      }
    });
    const at = differ(
      from.memory.words.subarray(from.memory.ramBase / 4),
      to.memory.words.subarray(to.memory.ramBase / 4),
    );
    if (at >= 0) {
      throw new RoundTripError(
        `${where}: memory differs at 0x${
          (at * 4).toString(16)
        }: DMA was not equal`,
      );
    }
  }
}

/** Where two arrays of equal length differ first; -1 for nowhere. */
function differ(
  a: Uint32Array | Uint8Array,
  b: Uint32Array | Uint8Array,
): number {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return i;
  return -1;
}

/**
 * Writes a state and reads it again, as MessagePack in a snapshot and as JSON in a report.
 *
 * @param type Its type.
 * @param state The state.
 * @param where For messages.
 * @returns The state as read from MessagePack.
 * @throws {RoundTripError} When either changes it.
 */
function throughFile(
  type: TypeDescription,
  state: unknown,
  where: string,
): unknown {
  const read = fromWire(type, decode(encode(state as ValueType)));
  compare(`${where}: the state in a snapshot`, state, read, [
    "it",
    "it was saved",
  ]);
  const json = fromJson(type, JSON.parse(text(state)));
  compare(`${where}: the state as JSON`, state, json, ["it", "it was saved"]);
  return read;
}
