/**
 * Whether a plugin takes a state that was saved, by itself or by another plugin, and the state as
 * the plugin takes it (DESIGN.md section 6, "Versions").
 *
 * @module
 */
import type { AnyPlugin } from "./instance.ts";
import { SchemaError } from "../snapshot/schema.ts";

/** A state with the schema that it was saved with. */
export interface SavedState {
  /** Name of the schema. */
  name: string;
  /** Its version. */
  version: number;
  /** The state. */
  state: unknown;
}

/** What a plugin's schema checks a state with. */
export type AdoptOptions = NonNullable<
  Parameters<AnyPlugin["state"]["migrate"]>[2]
>;

/**
 * Makes a saved state one of the plugin's present schema.
 *
 * @param plugin The plugin.
 * @param saved The state.
 * @param options The name of the state in errors, and what else its schema is checked with.
 * @returns The state, migrated and validated.
 * @throws {SchemaError} When it is of a schema or a version that the plugin does not take, or does
 * not fit.
 */
export function adoptState(
  plugin: AnyPlugin,
  saved: SavedState,
  options: AdoptOptions,
): unknown {
  const { name, version, state } = saved;
  const own = plugin.state;
  const path = options.path ?? plugin.name;
  if (name === own.name && version <= own.version) {
    return own.migrate(state, version, options);
  }
  const accepts = plugin.accepts ?? {};
  if (!Object.hasOwn(accepts, name)) {
    if (name === own.name) return own.migrate(state, version, options);
    const others = Object.keys(accepts).map((other) => ` or "${other}"`);
    throw new SchemaError(
      path,
      `has the state of "${name}": the plugin "${plugin.name}" takes that of "${own.name}"${
        others.join("")
      }`,
    );
  }
  let converted: unknown;
  try {
    converted = accepts[name](state, version);
  } catch (error) {
    throw new SchemaError(
      path,
      `has the state of "${name}", version ${version}, which the plugin "${plugin.name}" does not take: ${
        error instanceof Error ? error.message : error
      }`,
    );
  }
  return own.validate(converted, options);
}
