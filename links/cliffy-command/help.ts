// The help text, laid out as @cliffy/command does with colors off.

import type { Definition, OptionDefinition } from "./command.ts";

/** Options of the generated help. */
export interface HelpOptions {
  /** Show the types of values. */
  types?: boolean;
  /** Show defaults, conflicts and possible values. */
  hints?: boolean;
  /** Color the text. The stand-in never does. */
  colors?: boolean;
  /** Show whole descriptions rather than their first line. */
  long?: boolean;
}

const INDENT = "  ";

/** Pads columns to their widest cell. */
function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column].length))
  );
  const used = (_: string, column: number) => widths[column] > 0;
  return rows.map((row) =>
    INDENT +
    row.map((cell, column) => cell.padEnd(widths[column])).filter(used)
      .join("  ").trimEnd()
  ).join("\n");
}

function section(label: string, body: string): string {
  return body === "" ? "" : `\n${label}:\n\n${body}\n`;
}

function withoutTypes(definition: string): string {
  return definition.replaceAll(/:[^>\]]+(\[\])?(?=[>\]])/g, "");
}

function describe(text: string, long: boolean | undefined): string {
  return long ? text.trim() : text.trim().split("\n", 1)[0];
}

function hints(definition: Definition, option: OptionDefinition): string {
  const list: string[] = [];
  if (option.settings.required) list.push("required");
  if (option.settings.default !== undefined) {
    list.push(`Default: ${JSON.stringify(option.settings.default)}`);
  }
  const flags = (names: string[]) => names.map((n) => `--${n}`).join(", ");
  if (option.settings.depends?.length) {
    list.push(`Depends: ${flags(option.settings.depends)}`);
  }
  if (option.settings.conflicts?.length) {
    list.push(`Conflicts: ${flags(option.settings.conflicts)}`);
  }
  const values = definition.typeOf(option.type)?.values?.();
  if (values?.length) {
    list.push(`Values: ${values.map((v) => JSON.stringify(v)).join(", ")}`);
  }
  return list.length ? `(${list.join(", ")})` : "";
}

/** The help text of a command. */
export function generateHelp(
  definition: Definition,
  options: HelpOptions,
): string {
  const { types = false, hints: withHints = true, long } = options;
  const show = (text: string) => types ? text : withoutTypes(text);
  const head = [
    `Usage:   ${[definition.path, show(definition.argumentsText)].join(" ")}`
      .trimEnd(),
  ];
  if (definition.version) head.push(`Version: ${definition.version}`);
  const shown = definition.options.filter((o) => !o.settings.hidden);
  return `\n${head.join("\n")}\n` +
    section(
      "Description",
      definition.description.trim().split("\n").map((line) =>
        (INDENT + line.trim()).trimEnd()
      ).join("\n").trimEnd(),
    ) +
    section(
      "Options",
      table([
        ["-h, --help", "", "-", "Show this help.", ""],
        ...definition.version
          ? [[
            "-V, --version",
            "",
            "-",
            "Show the version number for this program.",
            "",
          ]]
          : [],
        ...shown.map((option) => [
          option.flags.join(", "),
          show(option.typeText),
          "-",
          describe(option.description, long),
          withHints ? hints(definition, option) : "",
        ]),
      ]),
    ) +
    section(
      "Commands",
      table(definition.children.map((child) => [
        child.name,
        show(child.argumentsText),
        "-",
        describe(child.description, false),
      ])),
    ) +
    section(
      "Examples",
      definition.examples.map(([name, text]) => `${INDENT}${name} ${text}`)
        .join("\n"),
    );
}
