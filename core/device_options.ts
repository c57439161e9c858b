// The typed options of a device, from the text that `--dev` gives.

import { didYouMean } from "./nearest.ts";
import { MachineError } from "./plugin.ts";
import type { OptionSpec, OptionValue } from "./plugin.ts";

const SIZE_UNITS: Readonly<Record<string, number>> = {
  "": 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};
const SIZE = /^(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:i?B)?)?$/i;
const NUMBER = /^(?:0x[0-9a-f]+|-?\d+(?:\.\d+)?)$/i;
const TRUE = ["on", "true", "yes", "1"];
const FALSE = ["off", "false", "no", "0"];

/**
 * Parses a size such as `512M` or `2G`: powers of 1024.
 *
 * @param text A number, and a unit out of K, M, G and T (`KiB` and `KB` mean the same).
 * @returns Bytes, or `undefined` if the text is no size in whole bytes.
 *
 * @example
 * ```ts
 * import { parseSize } from "./device_options.ts";
 *
 * parseSize("64K"); // 65536
 * ```
 */
export function parseSize(text: string): number | undefined {
  const match = SIZE.exec(text);
  if (!match) return undefined;
  const bytes = Number(match[1]) * SIZE_UNITS[(match[2] ?? "").toUpperCase()];
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/**
 * Formats bytes as {@linkcode parseSize} reads them.
 *
 * @param bytes A whole number.
 * @returns The shortest text.
 */
export function formatSize(bytes: number): string {
  const unit =
    Object.keys(SIZE_UNITS).findLast((unit) =>
      bytes !== 0 && bytes % SIZE_UNITS[unit] === 0
    ) ?? "";
  return `${bytes / SIZE_UNITS[unit]}${unit}`;
}

function parseValue(text: string, spec: OptionSpec): OptionValue | undefined {
  switch (spec.type) {
    case "string":
      return text;
    case "number":
      return NUMBER.test(text) ? Number(text) : undefined;
    case "size":
      return parseSize(text);
    case "boolean":
      if (TRUE.includes(text)) return true;
      return FALSE.includes(text) ? false : undefined;
  }
}

const EXPECTED: Readonly<Record<OptionSpec["type"], string>> = {
  string: "text",
  number: "a number",
  size: "a size such as 64M",
  boolean: "on or off",
};

/**
 * Says what an option takes, for help and errors.
 *
 * @param spec The option's declaration.
 * @returns A phrase such as `a number from 1 to 4`.
 */
export function describeOption(spec: OptionSpec): string {
  if (spec.choices) return `one of ${spec.choices.join(", ")}`;
  const show = (n: number) => spec.type === "size" ? formatSize(n) : `${n}`;
  const { min, max } = spec;
  if (min !== undefined && max !== undefined) {
    return `${EXPECTED[spec.type]} from ${show(min)} to ${show(max)}`;
  }
  if (min !== undefined) return `${EXPECTED[spec.type]}, at least ${show(min)}`;
  if (max !== undefined) return `${EXPECTED[spec.type]}, at most ${show(max)}`;
  return EXPECTED[spec.type];
}

function isPermitted(value: OptionValue, spec: OptionSpec): boolean {
  if (spec.choices && !spec.choices.includes(String(value))) return false;
  if (typeof value !== "number") return true;
  return value >= (spec.min ?? -Infinity) && value <= (spec.max ?? Infinity);
}

function hasType(value: OptionValue, spec: OptionSpec): boolean {
  switch (spec.type) {
    case "string":
      return typeof value === "string";
    case "boolean":
      return typeof value === "boolean";
    case "number":
      return typeof value === "number" && Number.isFinite(value);
    case "size":
      return Number.isSafeInteger(value) && value as number >= 0;
  }
}

/**
 * Checks options that are typed already, as a snapshot or a program gives them.
 *
 * @param device The device, for messages.
 * @param specs The options that the plugin declares.
 * @param given The options.
 * @throws {MachineError} If an option is unknown, of another type or not permitted.
 */
export function checkOptions(
  device: string,
  specs: Readonly<Record<string, OptionSpec>>,
  given: Readonly<Record<string, OptionValue>>,
): void {
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(specs, name)) throw unknownOption(device, specs, name);
    const spec = specs[name];
    if (!hasType(value, spec) || !isPermitted(value, spec)) {
      throw new MachineError(
        `option "${name}" of device "${device}" is ${
          JSON.stringify(value)
        }: expected ${describeOption(spec)}`,
      );
    }
  }
}

function unknownOption(
  device: string,
  specs: Readonly<Record<string, OptionSpec>>,
  name: string,
): MachineError {
  const names = Object.keys(specs);
  return new MachineError(
    `unknown option "${name}" of device "${device}": it takes ${
      names.length === 0 ? "no options" : names.join(", ")
    }.${didYouMean(name, names)}`,
  );
}

/**
 * Types the options of a device.
 *
 * @param device The device, for messages: its plugin's name or its id.
 * @param specs The options that the plugin declares.
 * @param given The options as text.
 * @returns A value for each option that is given or has a default.
 * @throws {MachineError} If an option is unknown, malformed or not permitted.
 *
 * @example
 * ```ts
 * import { parseOptions } from "./device_options.ts";
 *
 * const specs = { irq: { type: "number", help: "interrupt line", default: 4 } } as const;
 * parseOptions("uart", specs, new Map([["irq", "3"]])); // { irq: 3 }
 * ```
 */
export function parseOptions(
  device: string,
  specs: Readonly<Record<string, OptionSpec>>,
  given: ReadonlyMap<string, string>,
): Record<string, OptionValue> {
  const values: Record<string, OptionValue> = {};
  for (const [name, spec] of Object.entries(specs)) {
    if (spec.default !== undefined) values[name] = spec.default;
  }
  for (const [name, text] of given) {
    if (!Object.hasOwn(specs, name)) throw unknownOption(device, specs, name);
    const value = parseValue(text, specs[name]);
    if (value === undefined || !isPermitted(value, specs[name])) {
      throw new MachineError(
        `option "${name}" of device "${device}" is "${text}": expected ${
          describeOption(specs[name])
        }`,
      );
    }
    values[name] = value;
  }
  return values;
}
