// Exit codes, and the errors that carry them.

/** The run ended as asked. */
export const EXIT_DONE = 0;
/** Something failed: a file, a plugin, the guest. */
export const EXIT_FAILED = 1;
/** The command line is wrong. */
export const EXIT_USAGE = 2;

/** An error whose message is for the user: one line, no stack. */
export class CliError extends Error {
  /** Exit code of the process. */
  readonly exitCode: number;

  /**
   * @param message What is wrong with what, what was expected, and what to do.
   * @param exitCode Exit code of the process.
   * @param options The cause.
   */
  constructor(
    message: string,
    exitCode: number = EXIT_FAILED,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = "CliError";
    this.exitCode = exitCode;
  }
}

/** A wrong command line. */
export class UsageError extends CliError {
  /** @param message What is wrong, and what would be right. */
  constructor(message: string) {
    super(message, EXIT_USAGE);
    this.name = "UsageError";
  }
}

/**
 * A text that may come from a file, for a terminal: what is not printed is written as an escape.
 *
 * @param text Any text.
 * @returns One line that a terminal shows and does not obey.
 */
export function shownText(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    (c) => `\\u{${c.codePointAt(0)!.toString(16)}}`,
  );
}

/**
 * The first line of an error's message, for a sentence of its own.
 *
 * @param error Anything that was thrown.
 * @returns One line.
 */
export function reason(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  const line = text.split("\n", 1)[0] ||
    (error instanceof Error ? error.name : "");
  return shownText(line);
}
