// Value types of options and arguments.

import { ValidationError } from "./errors.ts";

/** A value to parse, and where it came from. */
export interface ArgumentValue {
  /** `Option` or `Argument`. */
  label: string;
  /** Type name. */
  type: string;
  /** Option flag or argument name. */
  name: string;
  /** The text given. */
  value: string;
}

/** A type that parses option and argument values. */
export abstract class Type<TValue> {
  /** Parses `type.value`, or throws a `ValidationError`. */
  abstract parse(type: ArgumentValue): TValue;
  /** The values that help lists. */
  values?(): TValue[];
}

/** The error of a value that is not of its type. */
export function invalidType(
  { label, name, value, type }: ArgumentValue,
  expected?: readonly unknown[],
): ValidationError {
  const hint = expected
    ? ` Expected values: ${expected.map((v) => `"${v}"`).join(", ")}`
    : "";
  return new ValidationError(
    `${label} "${name}" must be of type "${type}", but got "${value}".${hint}`,
  );
}

/** Allows only the given values. */
export class EnumType<const TValue extends string | number | boolean>
  extends Type<TValue> {
  readonly #allowed: readonly TValue[];

  /** @param values The allowed values. */
  constructor(values: readonly TValue[]) {
    super();
    this.#allowed = values;
  }

  /** Parses one of the allowed values. */
  override parse(type: ArgumentValue): TValue {
    const found = this.#allowed.find((value) => String(value) === type.value);
    if (found === undefined) throw invalidType(type, this.#allowed);
    return found;
  }

  /** The allowed values. */
  override values(): TValue[] {
    return this.#allowed.slice();
  }
}

class TextType extends Type<string> {
  override parse({ value }: ArgumentValue): string {
    return value;
  }
}

class NumberType extends Type<number> {
  override parse(type: ArgumentValue): number {
    const value = Number(type.value);
    if (type.value.trim() === "" || !Number.isFinite(value)) {
      throw invalidType(type);
    }
    return value;
  }
}

class IntegerType extends Type<number> {
  override parse(type: ArgumentValue): number {
    if (!/^[+-]?\d+$/.test(type.value)) throw invalidType(type);
    return Number(type.value);
  }
}

class BooleanType extends Type<boolean> {
  override parse(type: ArgumentValue): boolean {
    if (type.value === "true" || type.value === "1") return true;
    if (type.value === "false" || type.value === "0") return false;
    throw invalidType(type, ["true", "false", "1", "0"]);
  }
}

/** The types every command knows. */
export const BUILT_IN: Readonly<Record<string, Type<unknown>>> = {
  string: new TextType(),
  file: new TextType(),
  secret: new TextType(),
  number: new NumberType(),
  integer: new IntegerType(),
  boolean: new BooleanType(),
};
