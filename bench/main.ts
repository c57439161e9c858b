/**
 * `deno task bench`: measures workloads on this project, and beside it under QEMU's TCG and on
 * the host itself where that can be done.
 *
 * @module
 */

import { Command, ValidationError } from "@cliffy/command";
import { GuestUnavailable } from "../host/guests/cache.ts";
import { didYouMean } from "../core/nearest.ts";
import {
  best,
  makeRow,
  type Row,
  type Sample,
  type System,
  SYSTEMS,
  toJson,
  toTable,
} from "./report.ts";
import { BenchError } from "./session.ts";
import {
  Equipment,
  type RowsWorkload,
  type Workload,
  WORKLOADS,
} from "./workloads.ts";

const EXIT_FAILED = 1;

/**
 * The workloads that `--only` names.
 *
 * @param only Names with commas between them; undefined means all.
 * @returns The workloads, in the order in which they are measured.
 * @throws {ValidationError} If a name is unknown.
 */
export function selectWorkloads(
  only: string | undefined,
): (Workload | RowsWorkload)[] {
  if (only === undefined) return [...WORKLOADS];
  const known = WORKLOADS.map(({ name }) => name);
  const names = only.split(",").map((name) => name.trim());
  for (const name of names) {
    if (known.includes(name)) continue;
    throw new ValidationError(
      `--only names "${name}": expected one of ${known.join(", ")}.${
        didYouMean(name, known)
      }`,
    );
  }
  return WORKLOADS.filter(({ name }) => names.includes(name));
}

/**
 * Measures a workload, the systems in turn, so that what else the host does meets them alike.
 *
 * @param workload The workload.
 * @param repeat How often; the best counts.
 * @param systems The systems that can be measured.
 * @param equipment What they need.
 * @param note Is told what is measured.
 * @returns Its row; a system that fails is an error in it.
 */
export async function measureWorkload(
  workload: Workload,
  repeat: number,
  systems: ReadonlySet<System>,
  equipment: Equipment,
  note: (text: string) => void,
): Promise<Row> {
  const { name, unit, measure } = workload;
  const samples = new Map<System, Sample[]>();
  const failed = new Map<System, string>();
  for (let i = 0; i < repeat; i++) {
    for (const system of SYSTEMS) {
      const run = measure[system];
      if (run === undefined || !systems.has(system)) continue;
      if (failed.has(system)) continue;
      try {
        const sample = await run(equipment);
        samples.set(system, [...samples.get(system) ?? [], sample]);
        note(`${name}: ${system} ${sample.value.toPrecision(3)} ${unit}`);
      } catch (error) {
        if (!(error instanceof BenchError)) throw error;
        failed.set(system, error.message);
        note(`${name}: ${system} failed`);
      }
    }
  }
  const bests = Object.fromEntries(
    [...samples].map(([system, all]) => [system, best(all)]),
  );
  return makeRow(name, unit, bests, [...failed.values()]);
}

function note(text: string): void {
  console.error(`bench: ${text}`);
}

async function bench(
  options: { only?: string; json?: boolean; repeat: number },
): Promise<number> {
  const workloads = selectWorkloads(options.only);
  if (options.repeat < 1) {
    throw new ValidationError(
      `--repeat is ${options.repeat}: expected a number above 0.`,
    );
  }
  await using equipment = await Equipment.open();
  const systems = equipment.systems();
  note(
    equipment.qemu === undefined
      ? "QEMU is not installed (qemu-system-x86_64): nothing to compare with"
      : `QEMU ${equipment.qemu}, Deno ${Deno.version.deno}`,
  );
  const rows: Row[] = [];
  for (const workload of workloads) {
    note(`${workload.name}: ${workload.summary}`);
    const { repeat } = options;
    rows.push(
      ...("rows" in workload
        ? await workload.rows(equipment, repeat, note)
        : [await measureWorkload(workload, repeat, systems, equipment, note)]),
    );
  }
  console.log(options.json ? toJson(rows) : toTable(rows));
  return rows.some(({ errors }) => errors.length > 0) ? EXIT_FAILED : 0;
}

/**
 * Runs the command line.
 *
 * @param args The arguments after the program's name.
 * @returns The exit code: 0, 1 if something could not be measured, 2 if the command line is wrong.
 */
export async function main(args: readonly string[]): Promise<number> {
  let exitCode = 0;
  const cli = new Command()
    .name("bench")
    .description(
      `Measure workloads here and, where they can be, under QEMU's TCG and natively: ${
        WORKLOADS.map(({ name }) => name).join(", ")
      }.`,
    )
    .help({ colors: false })
    .throwErrors()
    .option("--only <names:string>", "Workloads, with commas between them.")
    .option("--json", "Print a JSON array instead of a table.")
    .option("--repeat <times:integer>", "Measure so often; the best counts.", {
      default: 1,
    })
    .action(async (options) => {
      exitCode = await bench(options);
    });
  try {
    await cli.parse([...args]);
  } catch (error) {
    if (error instanceof ValidationError) {
      console.error(`bench: ${error.message} See --help.`);
      return error.exitCode;
    }
    if (error instanceof GuestUnavailable) {
      console.error(`bench: ${error.message}`);
      return EXIT_FAILED;
    }
    throw error;
  }
  return exitCode;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
