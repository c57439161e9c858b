// The nearest of some names to one that was mistyped, for error messages.

/** Edit distance: insertions, deletions, substitutions and swaps of neighbours. */
function distance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let cost = Math.min(
        row[j - 1] + (same ? 0 : 1),
        row[j] + 1,
        next[j - 1] + 1,
      );
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        cost = Math.min(cost, before[j - 2] + 1);
      }
      next.push(cost);
    }
    before = row;
    row = next;
  }
  return row[b.length];
}

/**
 * Finds the name that was probably meant.
 *
 * @param name What was typed.
 * @param names What could have been typed.
 * @returns The nearest name, or `undefined` where none is near (more than a third of the
 * longer one's letters differ, and neither begins with the other).
 *
 * @example
 * ```ts
 * import { nearest } from "./nearest.ts";
 *
 * nearest("virtio-blok", ["uart", "virtio-blk"]); // "virtio-blk"
 * ```
 */
export function nearest(
  name: string,
  names: Iterable<string>,
): string | undefined {
  let best: string | undefined;
  let bestDistance = Infinity;
  const typed = name.toLowerCase();
  for (const other of names) {
    const known = other.toLowerCase();
    const d = distance(typed, known);
    const limit = Math.max(
      1,
      Math.floor(Math.max(name.length, other.length) / 3),
    );
    const begins = typed !== "" &&
      (known.startsWith(typed) || typed.startsWith(known));
    if ((d <= limit || begins) && d < bestDistance) {
      best = other;
      bestDistance = d;
    }
  }
  return best;
}

/**
 * The hint that ends an error message: ` Did you mean "NAME"?`, or nothing.
 *
 * @param name What was typed.
 * @param names What could have been typed.
 * @returns The hint, beginning with a space, or the empty string.
 */
export function didYouMean(name: string, names: Iterable<string>): string {
  const near = nearest(name, names);
  return near === undefined ? "" : ` Did you mean "${near}"?`;
}
