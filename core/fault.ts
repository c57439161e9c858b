/**
 * What a plugin did wrong at run time: who, doing what, where (DESIGN.md section 3).
 *
 * @module
 */

/** A device instance, as errors and traces name it. */
export interface Owner {
  /** Instance id. */
  readonly id: string;
  /** Name of the plugin. */
  readonly plugin: string;
}

/** A plugin threw in one of its handlers. The machine pauses; the message is complete. */
export class PluginError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "PluginError";
  /** Name of the plugin. */
  readonly plugin: string;
  /** Instance id. */
  readonly instance: string;
  /** What it was doing: `port read`, `timer`, … */
  readonly operation: string;
  /** Port or address, where the operation has one. */
  readonly address: number | undefined;

  /**
   * Makes the error.
   *
   * @param owner The device.
   * @param operation What it was doing.
   * @param address Port or address, where the operation has one.
   * @param cause What it threw.
   */
  constructor(
    owner: Owner,
    operation: string,
    address: number | undefined,
    cause: unknown,
  ) {
    const where = address === undefined ? "" : ` at 0x${address.toString(16)}`;
    const what = cause instanceof Error
      ? `${cause.name}: ${cause.message}`
      : String(cause);
    super(
      `plugin "${owner.plugin}", instance "${owner.id}", failed in ${operation}${where}: ${what}`,
      { cause },
    );
    this.plugin = owner.plugin;
    this.instance = owner.id;
    this.operation = operation;
    this.address = address;
  }
}

/** Takes the error of a plugin that threw. It must not throw where a vCPU is running. */
export type FaultSink = (error: PluginError) => void;

/** Takes trace lines; a category that is absent is not traced. */
export interface TraceSinks {
  /** Port accesses. */
  ports?: (line: string) => void;
  /** Accesses to memory that a device answers. */
  mmio?: (line: string) => void;
  /** Levels of interrupt lines and interrupt messages. */
  irq?: (line: string) => void;
}

/**
 * Formats a number for a message.
 *
 * @param value An unsigned number.
 * @returns Hexadecimal with `0x`.
 */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
