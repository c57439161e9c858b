/**
 * Golden snapshots of a device: its state as an older version saved it, with what surrounded it,
 * in a JSON file that is kept for as long as the version is to be read.
 *
 * @module
 */
import { irqSchema } from "../bus/irq.ts";
import { pciSchema } from "../bus/pci.ts";
import { clockSchema } from "../clock.ts";
import { fromJson } from "../../snapshot/json.ts";
import {
  type Schema,
  toJson,
  type TypeDescription,
} from "../../snapshot/schema.ts";
import type { TestContext } from "./context.ts";
import { RoundTripError, type Subject, text } from "./subject.ts";

/** The state of a component, in JSON form, with its schema. */
export interface GoldenComponent {
  /** Id of the component. */
  id: string;
  /** Its schema at that version: a `SchemaDescription`, in a type that an imported JSON file has. */
  schema: { name: string; version: number; type: object };
  /** Its state, as `toJson` gives it. */
  state: unknown;
}

/** A golden snapshot, as it is in its file. */
export interface GoldenSnapshot {
  /** The plugin, and its version that wrote this. */
  plugin: { name: string; version: string };
  /** Version of its state schema. */
  version: number;
  /** Steps of the scenario that had been done. */
  after: number;
  /** Clock, wires, bus, and then the devices. */
  components: GoldenComponent[];
  /** Guest memory that is not zero: hexadecimal address, and base64. */
  memory: Record<string, string>;
  /** What disks hold, in the same form. */
  disks: Record<string, string>[];
  /** PIRQs that were driven from outside; none when absent. */
  pirqs?: boolean[];
  /** State of the generator of random bytes, in decimal; 0 when absent. */
  entropy?: string;
  /** Host input that the device had not taken. */
  input: number[][];
  /** What the later steps replied, in JSON form. */
  replies: unknown[];
}

const PAGE = 4096;

function describe<T>(
  id: string,
  schema: Schema<T>,
  state: unknown,
): GoldenComponent {
  return { id, schema: schema.describe(), state: toJson(state) };
}

/** The pages that are not zero, without the zeroes at their ends. */
function sparse(bytes: Uint8Array): Record<string, string> {
  const found: Record<string, string> = {};
  for (let at = 0; at < bytes.length; at += PAGE) {
    const page = bytes.subarray(at, at + PAGE);
    const first = page.findIndex((byte) => byte !== 0);
    if (first < 0) continue;
    const last = page.findLastIndex((byte) => byte !== 0);
    found[`0x${(at + first).toString(16)}`] = toJson(
      page.subarray(first, last + 1),
    ) as string;
  }
  return found;
}

function fill(into: Uint8Array, from: Record<string, string>): void {
  for (const [address, encoded] of Object.entries(from)) {
    into.set(
      fromJson({ kind: "bytes" }, encoded, address) as Uint8Array,
      Number(address),
    );
  }
}

function ram({ memory }: TestContext): Uint8Array {
  return memory.bytes.subarray(memory.ramBase, memory.ramBase + memory.ram);
}

/**
 * Makes a golden snapshot of a device in the middle of its scenario.
 *
 * @param subject A new machine with it, started.
 * @param after Steps that are done before.
 * @returns What to keep.
 */
export async function takeGolden(
  subject: Subject,
  after: number,
): Promise<GoldenSnapshot> {
  const { machine, device } = subject;
  while (subject.done < after) await subject.step();
  await machine.pause();
  const { plugin } = device;
  const golden: GoldenSnapshot = {
    plugin: { name: plugin.name, version: plugin.version },
    version: plugin.state.version,
    after,
    components: [
      describe("clock", clockSchema, machine.clock.save()),
      describe("irq", irqSchema, machine.interrupts.save()),
      describe("pci", pciSchema, machine.pci.save()),
      ...machine.instances.map((each) =>
        describe(each.owner.id, each.plugin.state, each.save())
      ),
    ],
    memory: sparse(ram(machine)),
    disks: machine.blocks.map(({ bytes }) => sparse(bytes)),
    pirqs: [...machine.drivenPirqs],
    entropy: `${machine.entropy.save()}`,
    input: machine.chars.map(({ waiting }) => [...waiting]),
    replies: [],
  };
  machine.resume();
  golden.replies = await replies(subject);
  return golden;
}

/** What the steps that are left reply, and what leaves the devices. */
async function replies(subject: Subject): Promise<unknown[]> {
  const found: unknown[] = [];
  subject.forget();
  while (subject.done < subject.steps.length) {
    const reply = await subject.step();
    found.push(JSON.parse(text([reply ?? null, subject.observed()])));
    subject.forget();
  }
  return found;
}

/**
 * Restores a golden snapshot into a new machine and goes on with the scenario.
 *
 * @param subject The new machine.
 * @param golden The snapshot.
 * @throws {SchemaError} When a state does not migrate.
 * @throws {RoundTripError} When the guest sees anything else than then.
 */
export async function continueGolden(
  subject: Subject,
  golden: GoldenSnapshot,
): Promise<void> {
  const { machine, steps } = subject;
  const where = `golden snapshot of version ${golden.version}`;
  if (golden.after + golden.replies.length !== steps.length) {
    throw new RoundTripError(
      `${where}: it was made with a scenario of ${
        golden.after + golden.replies.length
      } steps, and this one has ${steps.length}: keep the scenario that it was made with`,
    );
  }
  const of = (id: string) => {
    const found = golden.components.find((each) => each.id === id);
    if (found === undefined) {
      throw new RoundTripError(
        `${where}: "${id}" is missing in it: expected ${
          golden.components.map((each) => `"${each.id}"`).join(", ")
        }`,
      );
    }
    return found;
  };
  const decoded = (id: string) => {
    const { schema, state } = of(id);
    return fromJson(schema.type as TypeDescription, state, id);
  };
  const migrated = <T>(id: string, schema: Schema<T>): T =>
    schema.migrate(decoded(id), of(id).schema.version, { path: id });
  fill(ram(machine), golden.memory);
  machine.clock.restore(migrated("clock", clockSchema));
  machine.entropy.restore(BigInt(golden.entropy ?? 0));
  machine.chars.forEach((char, i) => char.type(golden.input[i]));
  machine.blocks.forEach(({ bytes }, i) => fill(bytes, golden.disks[i]));
  const irq = migrated("irq", irqSchema);
  machine.driveLines(irq.sources);
  machine.interrupts.quietly(() => {
    machine.interrupts.restore(irq);
    golden.pirqs?.forEach((level, pirq) => machine.pirq(pirq, level));
    machine.pci.restore(migrated("pci", pciSchema));
    for (const instance of machine.instances) {
      const { id } = instance.owner;
      instance.restore(decoded(id), of(id).schema.version);
    }
  });
  subject.done = golden.after;
  subject.start();
  const now = await replies(subject);
  now.forEach((each, i) => {
    const [one, other] = [text(golden.replies[i]), text(each)];
    if (one === other) return;
    throw new RoundTripError(
      `${where}: step ${
        golden.after + i + 1
      } now gives ${other}: expected ${one}, as then`,
    );
  });
}
