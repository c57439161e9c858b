/**
 * Runs that nobody wrote down: random operations with a save and restore between them, and hostile
 * states (fast-check).
 *
 * @module
 */
import fc from "fast-check";
import { arbitrary } from "../../snapshot/arbitrary.ts";
import { mutations } from "../../snapshot/mutation.ts";
import {
  type Schema,
  SchemaError,
  type TypeDescription,
} from "../../snapshot/schema.ts";
import { PluginError } from "../fault.ts";
import type { TestContext } from "./context.ts";
import { type Hints, operations } from "./generate.ts";
import { describe, type Operation } from "./operation.ts";
import {
  compare,
  RoundTripError,
  type ScenarioStep,
  Subject,
  text,
} from "./subject.ts";

/** What is explored. */
export interface Exploration {
  /** Name of the plugin. */
  name: string;
  /** Makes a machine with the device. */
  make(): TestContext;
  /** The scenario. */
  steps: readonly ScenarioStep[];
  /** Random sequences. */
  runs: number;
  /** Where randomness begins. */
  seed: number;
  /** Throws on a state that no guest could have reached. */
  invariant(state: unknown): void;
}

/** A random run. */
interface Run {
  /** Steps of the scenario that are done first. */
  prefix: number;
  operations: Operation[];
  /** After so many operations the device is saved; every time when it is negative. */
  save: number;
}

const LONGEST_RUN = 24;
/** Operations on a device that has accepted a hostile state. */
const HOSTILE_OPERATIONS = 16;
/** Hostile states for each random sequence. */
const HOSTILE_PER_RUN = 10;
/** Different sequences that hostile states are tried with. */
const HOSTILE_SEQUENCES = 12;
/** States from which hostile ones are made. */
const HOSTILE_BASES = 4;

function show(run: Run): string {
  const lines = run.operations.map((each, i) =>
    `  ${i === run.save ? "(saved and restored)\n  " : ""}${describe(each)}`
  );
  if (run.save === lines.length) lines.push("  (saved and restored)");
  const first = run.prefix === 0
    ? "from the start"
    : `after step ${run.prefix} of the scenario`;
  const when = run.save < 0 ? ", saved and restored before each" : "";
  return `${first}${when}:\n${lines.join("\n")}`;
}

async function begin(
  { make, steps }: Exploration,
  prefix: number,
): Promise<Subject> {
  const subject = new Subject(make(), steps);
  subject.start();
  for (let i = 0; i < prefix; i++) await subject.do({ do: "step" });
  return subject;
}

/** Does a run in a machine, and in one that is a copy of it from some moment on. */
async function follow(explored: Exploration, run: Run): Promise<void> {
  const original = await begin(explored, run.prefix);
  let copy: Subject | undefined;
  for (let i = 0; i <= run.operations.length; i++) {
    const where = `operation ${i + 1}`;
    if (run.save < 0 || run.save === i) {
      await original.machine.pause();
      explored.invariant(original.device.save());
      if (copy !== undefined) {
        await copy.machine.pause();
        const again = copy.transplant(explored.make, `before ${where}`);
        await copy.machine.stop();
        original.machine.resume();
        original.forget();
        copy = again;
      } else {
        copy = original.transplant(explored.make, `before ${where}`);
      }
    }
    if (i === run.operations.length) break;
    const operation = run.operations[i];
    const reply = await original.do(operation);
    if (copy === undefined) continue;
    compare(`${where}: the reply`, reply, await copy.do(operation));
    compare(`${where}: output`, original.observed(), copy.observed());
  }
  if (copy !== undefined) await original.compareEnd(copy, "at the end");
  await original.machine.stop();
  await copy?.machine.stop();
}

/** A run, and what goes wrong in it. */
interface Failure {
  run: Run;
  error: unknown;
}

/** Leaves out of a run what it fails without; fast-check keeps ends of sequences that do not matter. */
async function shortest(
  explored: Exploration,
  failure: Failure,
): Promise<Failure> {
  let best = failure;
  const attempt = async (run: Run) => {
    try {
      await follow(explored, run);
    } catch (error) {
      best = { run, error };
    }
  };
  for (let at = best.run.operations.length - 1; at >= 0; at--) {
    const { run } = best;
    await attempt({
      ...run,
      operations: run.operations.toSpliced(at, 1),
      save: run.save > at ? run.save - 1 : run.save,
    });
  }
  if (best.run.prefix > 0) await attempt({ ...best.run, prefix: 0 });
  // Without a save at all.
  await attempt({ ...best.run, save: Infinity });
  return best;
}

/** What the scenario does. */
interface Learned {
  hints: Hints;
  /** The machine at its end. */
  machine: TestContext;
  /** After how many steps something waits for a backend. */
  busy: number[];
}

async function learn(explored: Exploration): Promise<Learned> {
  const accesses = new Map<string, Hints["accesses"][number]>();
  const values = new Set<number>();
  const subject = new Subject(explored.make(), explored.steps);
  subject.machine.watchAccesses(({ kind, address, size, value }) => {
    accesses.set(`${kind} ${address} ${size}`, { kind, address, size });
    if (value !== undefined) values.add(value >>> 0);
  });
  subject.start();
  const busy: number[] = [];
  while (subject.done < subject.steps.length) {
    await subject.do({ do: "step" });
    if (subject.machine.blocks.some(({ waiting }) => waiting > 0)) {
      busy.push(subject.done);
    }
  }
  const hints = { accesses: [...accesses.values()], values: [...values] };
  return { hints, machine: subject.machine, busy };
}

/**
 * Tests random runs and hostile states.
 *
 * @param explored What is explored.
 * @throws {RoundTripError} With the shortest sequence that was found, and the seed.
 */
export async function explore(explored: Exploration): Promise<void> {
  const { hints, machine, busy } = await learn(explored);
  const { steps, seed, runs, name } = explored;
  const operation = operations(machine, hints, true);
  const run = fc.record<Run>({
    prefix: busy.length === 0
      ? fc.nat(steps.length)
      : fc.oneof(fc.nat(steps.length), fc.constantFrom(...busy)),
    operations: fc.array(operation, { minLength: 1, maxLength: LONGEST_RUN }),
    save: fc.oneof(fc.constant(-1), fc.nat(LONGEST_RUN)),
  }).map((run) => ({
    ...run,
    save: Math.min(run.save, run.operations.length),
  }));
  const result = await fc.check(
    fc.asyncProperty(run, (run) => follow(explored, run)),
    { seed, numRuns: runs },
  );
  if (result.failed) {
    const { run: found, error: cause } = await shortest(explored, {
      run: result.counterexample![0],
      error: result.errorInstance,
    });
    throw new RoundTripError(
      `${name}, ${show(found)}\n${
        cause instanceof Error ? cause.message : cause
      }\nseed ${seed}`,
      { cause },
    );
  }
  await hostile(explored, operations(machine, hints, false));
}

/** A hostile state, and the machine from which it was taken. */
interface Hostile {
  base: Subject;
  path: string;
  shown: string;
  state: unknown;
}

/** States that a guest brings about, to be made hostile. */
async function bases(
  explored: Exploration,
  operation: fc.Arbitrary<Operation>,
): Promise<Subject[]> {
  const sequences = fc.sample(
    fc.array(operation, { minLength: 0, maxLength: LONGEST_RUN }),
    { seed: explored.seed, numRuns: HOSTILE_BASES },
  );
  const made: Subject[] = [];
  for (const [i, sequence] of sequences.entries()) {
    const last = explored.steps.length;
    const prefix = Math.round(last * (i + 1) / HOSTILE_BASES);
    const subject = await begin(explored, prefix);
    if (i % 2 === 1) { for (const each of sequence) await subject.do(each); }
    await subject.machine.pause();
    made.push(subject);
  }
  return made;
}

function hostileStates(
  { seed, runs }: Exploration,
  subjects: Subject[],
): Hostile[] {
  const all: Hostile[] = [];
  const wanted = runs * HOSTILE_PER_RUN;
  const { state: schema } = subjects[0].device.plugin;
  for (const base of subjects) {
    const good = base.device.save();
    for (const each of mutations(schema.type.description, good)) {
      all.push({ base, ...each });
    }
  }
  const random = fc.sample(
    arbitrary(schema as Schema<Record<string, unknown>>, {
      ram: subjects[0].machine.memory.ram,
    }),
    { seed, numRuns: Math.ceil(wanted / 4) },
  );
  random.forEach((state, i) => {
    const base = subjects[i % subjects.length];
    const good = base.device.save() as Record<string, unknown>;
    all.push({ base, path: "", shown: "random", state });
    for (const [path, value] of Object.entries(state)) {
      all.push({
        base,
        path,
        shown: text(value),
        state: { ...good, [path]: value },
      });
    }
  });
  // Spread evenly over the fields, the same ones for the same seed.
  const share = all.length / wanted;
  if (share <= 1) return all;
  const offset = (seed >>> 0) % Math.ceil(share);
  return Array.from(
    { length: wanted },
    (_, i) => all[Math.floor(i * share + offset) % all.length],
  );
}

/** Names of fields, at any depth. */
function fieldNames(type: TypeDescription, into = new Set<string>()) {
  switch (type.kind) {
    case "record":
      for (const [name, of] of Object.entries(type.fields)) {
        into.add(name);
        fieldNames(of, into);
      }
      break;
    case "list":
    case "optional":
      fieldNames(type.of, into);
      break;
    case "union":
      for (const of of Object.values(type.tags)) fieldNames(of, into);
      break;
  }
  return into;
}

/** Tries to restore; returns the machine that runs with the state, or undefined when it was refused as it should. */
function restoreHostile(
  explored: Exploration,
  { base, path, shown, state }: Hostile,
  names: Set<string>,
): Subject | undefined {
  const subject = new Subject(explored.make(), explored.steps);
  subject.done = base.done;
  const { id } = subject.device.owner;
  let refusal: unknown;
  subject.machine.continue(base.machine, () => {
    for (const { owner, plugin } of base.machine.instances) {
      const to = subject.machine.instances.find((i) => i.owner.id === owner.id);
      if (owner.id !== id) {
        const good = base.machine.instances.find((i) =>
          i.owner.id === owner.id
        );
        to!.restore(good!.save(), plugin.state.version);
        continue;
      }
      try {
        to!.restore(state);
      } catch (error) {
        refusal = error;
      }
    }
  });
  if (refusal === undefined) return subject;
  const message = refusal instanceof Error ? refusal.message : String(refusal);
  const isOurs = refusal instanceof SchemaError ||
    refusal instanceof PluginError && isRefusal(refusal.cause);
  const named = message.match(/[A-Za-z_][A-Za-z0-9_]*/g) ?? [];
  if (
    isOurs && message.includes(id) &&
    (path === "" || named.some((word) => names.has(word)))
  ) return undefined;
  throw new RoundTripError(
    `a state with ${path} ${shown} is refused with ${
      refusal instanceof Error ? refusal.name : "what is no error"
    } "${message}": expected an error that names "${id}" and the field`,
  );
}

/** Whether an error is one that a device means, not one that happened to it. */
function isRefusal(cause: unknown): boolean {
  return cause instanceof Error &&
    (cause instanceof SchemaError || cause.name === "MachineError");
}

/** Runs operations on a device with a hostile state; returns what it does wrong. */
async function tryHostile(
  explored: Exploration,
  candidate: Hostile,
  sequence: readonly Operation[],
  names: Set<string>,
): Promise<unknown> {
  let done = 0;
  let subject: Subject | undefined;
  try {
    subject = restoreHostile(explored, candidate, names);
    if (subject === undefined) return undefined;
    explored.invariant(subject.device.save());
    subject.start();
    for (const each of sequence) {
      await subject.do(each);
      done++;
    }
    // What it saves, it must take.
    await subject.machine.pause();
    explored.invariant(subject.device.save());
    const again = subject.transplant(explored.make, "saved again");
    await again.machine.stop();
    return undefined;
  } catch (error) {
    return error ?? `operation ${done}`;
  } finally {
    await subject?.machine.stop();
  }
}

async function hostile(
  explored: Exploration,
  operation: fc.Arbitrary<Operation>,
): Promise<void> {
  const { seed, name } = explored;
  const subjects = await bases(explored, operation);
  const sequences = fc.sample(
    fc.array(operation, {
      minLength: HOSTILE_OPERATIONS,
      maxLength: HOSTILE_OPERATIONS,
    }),
    { seed, numRuns: HOSTILE_SEQUENCES },
  );
  const { description } = subjects[0].device.plugin.state.type;
  const names = fieldNames(description);
  for (const [i, each] of hostileStates(explored, subjects).entries()) {
    let sequence = sequences[i % sequences.length];
    let wrong = await tryHostile(explored, each, sequence, names);
    if (wrong === undefined) continue;
    // Shorter, while it still goes wrong.
    for (let at = sequence.length - 1; at >= 0; at--) {
      const shorter = sequence.toSpliced(at, 1);
      const still = await tryHostile(explored, each, shorter, names);
      if (still === undefined) continue;
      sequence = shorter;
      wrong = still;
    }
    const lines = sequence.map((operation) => `  ${describe(operation)}`);
    throw new RoundTripError(
      `${name}: restored with ${
        each.path === "" ? "a random state" : `${each.path} = ${each.shown}`
      }\nstate ${text(each.state)}\n${
        lines.length === 0 ? "" : `then:\n${lines.join("\n")}\n`
      }${
        wrong instanceof Error ? `${wrong.name}: ${wrong.message}` : wrong
      }\nseed ${seed}`,
      { cause: wrong },
    );
  }
  for (const subject of subjects) await subject.machine.stop();
}
