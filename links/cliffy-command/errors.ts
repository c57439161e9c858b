// The errors of @cliffy/command, and its closest-name hints.

/** Options of a {@linkcode ValidationError}. */
export interface ValidationErrorOptions extends ErrorOptions {
  /** Exit code, 2 by default. */
  exitCode?: number;
}

/** The command was wrongly used by the user. */
export class ValidationError extends Error {
  /** Exit code of the process. */
  readonly exitCode: number;

  /**
   * @param message The error message.
   * @param options Exit code and cause.
   */
  constructor(
    message: string,
    { exitCode, cause }: ValidationErrorOptions = {},
  ) {
    super(message, { cause });
    this.exitCode = exitCode ?? 2;
  }
}

function levenshtein(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitute = row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitute, row[j] + 1, next[j - 1] + 1));
    }
    row = next;
  }
  return row[b.length];
}

/** ` Did you mean KIND "NAME"?` with the nearest of `names`; empty where there are none. */
export function didYouMean(
  kind: string,
  name: string,
  names: readonly string[],
): string {
  if (names.length === 0) return "";
  const nearest = names.reduce((best, other) =>
    levenshtein(name, other) < levenshtein(name, best) ? other : best
  );
  return ` Did you mean ${kind} "${nearest}"?`;
}
