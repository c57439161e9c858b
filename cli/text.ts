// Text for people.

/**
 * Rows of two columns, the second aligned.
 *
 * @param rows The rows.
 * @returns A line each.
 */
export function columns(
  rows: readonly (readonly [string, string])[],
): string[] {
  const width = Math.max(0, ...rows.map(([first]) => first.length));
  return rows.map(([first, second]) => `  ${first.padEnd(width)}  ${second}`);
}
