/**
 * What a workload's measurements look like: one row each, as JSON or in a table.
 *
 * @module
 */

/** Who does the work. */
export type System = "ours" | "tcg" | "native" | "v86";

/** The systems, in the order of the table's columns. */
export const SYSTEMS: readonly System[] = ["ours", "tcg", "native", "v86"];

const HEADINGS: Readonly<Record<System, string>> = {
  ours: "ours",
  tcg: "QEMU TCG",
  native: "native",
  v86: "v86",
};

/** What is measured; less is better in each. */
export type Unit = "s" | "MiB" | "%";

/** What one system measured. */
export interface Sample {
  /** In the workload's unit. */
  value: number;
  /** More numbers, by name. */
  details?: Readonly<Record<string, number>>;
  /** What the workload printed; to be equal on all systems. */
  output?: string;
}

/** A workload's row. Values are null where nothing was measured. */
export interface Row {
  /** The workload. */
  name: string;
  /** The unit of {@linkcode Row.ours} and its neighbours. */
  unit: Unit;
  /** This project. */
  ours: number | null;
  /** QEMU's TCG with one thread. */
  tcg: number | null;
  /** The host itself. */
  native: number | null;
  /** v86. */
  v86: number | null;
  /** The same in seconds; null where the unit is another. */
  ours_s: number | null;
  /** See `ours_s`. */
  tcg_s: number | null;
  /** See `ours_s`. */
  native_s: number | null;
  /** See `ours_s`. */
  v86_s: number | null;
  /** Ours divided by TCG's. */
  ratio: number | null;
  /** More numbers, by system and name: `ours_mips`. */
  details: Record<string, number>;
  /** What went wrong. */
  errors: string[];
}

/** Keeps four significant digits. */
function round(value: number): number {
  return Number(value.toPrecision(4));
}

/**
 * Chooses the best of several samples.
 * @param samples At least one.
 * @returns The one with the least value.
 */
export function best(samples: readonly Sample[]): Sample {
  return samples.reduce((a, b) => b.value < a.value ? b : a);
}

/**
 * Makes a workload's row.
 *
 * @param name The workload.
 * @param unit Its unit.
 * @param samples What each system measured.
 * @param errors What went wrong.
 * @returns The row; it has an error more if the systems' outputs differ.
 */
export function makeRow(
  name: string,
  unit: Unit,
  samples: Readonly<Partial<Record<System, Sample>>>,
  errors: readonly string[] = [],
): Row {
  const value = (system: System) => {
    const sample = samples[system];
    return sample === undefined ? null : round(sample.value);
  };
  const inSeconds = (system: System) => unit === "s" ? value(system) : null;
  const details: Record<string, number> = {};
  const outputs = new Map<string, System[]>();
  for (const system of SYSTEMS) {
    const sample = samples[system];
    if (sample === undefined) continue;
    for (const [key, number] of Object.entries(sample.details ?? {})) {
      details[`${system}_${key}`] = round(number);
    }
    if (sample.output === undefined) continue;
    const same = outputs.get(sample.output) ?? [];
    outputs.set(sample.output, [...same, system]);
  }
  const all = [...errors];
  if (outputs.size > 1) {
    const shown = [...outputs].map(([output, systems]) =>
      `${systems.join(" and ")} "${output}"`
    );
    all.push(`outputs differ: ${shown.join(", ")}`);
  }
  const { ours, tcg } = samples;
  return {
    name,
    unit,
    ours: value("ours"),
    tcg: value("tcg"),
    native: value("native"),
    v86: value("v86"),
    ours_s: inSeconds("ours"),
    tcg_s: inSeconds("tcg"),
    native_s: inSeconds("native"),
    v86_s: inSeconds("v86"),
    ratio: ours === undefined || tcg === undefined || tcg.value === 0
      ? null
      : round(ours.value / tcg.value),
    details,
    errors: all,
  };
}

/**
 * The rows as text for other programs.
 * @param rows The rows.
 * @returns A JSON array.
 */
export function toJson(rows: readonly Row[]): string {
  return JSON.stringify(rows, null, 2);
}

/** A number with about three significant digits, and never an exponent. */
function number(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

function detailsText(row: Row): string {
  return Object.entries(row.details)
    .map(([key, value]) => `${key}=${number(value)}`).join(" ");
}

/**
 * The rows as text for people.
 * @param rows The rows.
 * @returns An aligned table, and below it what went wrong.
 */
export function toTable(rows: readonly Row[]): string {
  const header = [
    "workload",
    ...SYSTEMS.map((system) => HEADINGS[system]),
    "ratio",
    "details",
  ];
  const cells = rows.map((row) => [
    row.name,
    ...SYSTEMS.map((system) => {
      const value = row[system];
      return value === null ? "-" : `${number(value)} ${row.unit}`;
    }),
    row.ratio === null ? "-" : `${number(row.ratio)}x`,
    detailsText(row),
  ]);
  const widths = header.map((_, column) =>
    Math.max(...[header, ...cells].map((line) => line[column].length))
  );
  const lines = [header, ...cells].map((line) =>
    line.map((cell, column) =>
      column === 0 || column === line.length - 1
        ? cell.padEnd(widths[column])
        : cell.padStart(widths[column])
    ).join("  ").trimEnd()
  );
  const errors = rows.flatMap(({ name, errors }) =>
    errors.map((error) => `${name}: ${error}`)
  );
  return [...lines, ...(errors.length > 0 ? ["", ...errors] : [])].join("\n");
}
