/**
 * The directory in which guests are kept between runs, with checksums.
 *
 * @module
 */

/** A guest that this host cannot provide; the message says why. */
export class GuestUnavailable extends Error {
  /** The class's name, as `Error` has it. */
  override name = "GuestUnavailable";
}

/**
 * The user's cache directory for this program.
 * @returns `$XDG_CACHE_HOME/diapause`, or `~/.cache/diapause`.
 * @throws {GuestUnavailable} If neither variable is set.
 */
export function cacheDirectory(): string {
  const base = Deno.env.get("XDG_CACHE_HOME");
  if (base) return `${base}/diapause`;
  const home = Deno.env.get("HOME");
  if (home) return `${home}/.cache/diapause`;
  throw new GuestUnavailable(
    "no directory to keep the guest in: set HOME or XDG_CACHE_HOME",
  );
}

/**
 * A file's SHA-256.
 * @param bytes The content.
 * @returns The sum in hexadecimal.
 */
export async function sha256(bytes: Uint8Array): Promise<string> {
  const digest = await crypto.subtle.digest(
    "SHA-256",
    bytes as Uint8Array<ArrayBuffer>,
  );
  return new Uint8Array(digest).toHex();
}

/** The name of the file with the checksums; its format is that of `sha256sum`. */
export const SUMS = "SHA256SUMS";

/**
 * Writes files and their checksums; the checksums last, so that a directory with them is whole.
 *
 * @param directory An existing directory.
 * @param files Content by name.
 */
export async function writeSummed(
  directory: string,
  files: Readonly<Record<string, Uint8Array>>,
): Promise<void> {
  let sums = "";
  for (const [name, content] of Object.entries(files)) {
    await Deno.writeFile(`${directory}/${name}`, content);
    sums += `${await sha256(content)}  ${name}\n`;
  }
  const draft = `${directory}/${SUMS}.new`;
  await Deno.writeTextFile(draft, sums);
  await Deno.rename(draft, `${directory}/${SUMS}`);
}

/**
 * Reads files and compares them with their checksums.
 *
 * @param directory Where they are.
 * @param names Which.
 * @returns Their content in the same order; undefined if one is missing or altered.
 */
export async function readSummed(
  directory: string,
  names: readonly string[],
): Promise<Uint8Array[] | undefined> {
  try {
    const sums = new Map(
      (await Deno.readTextFile(`${directory}/${SUMS}`)).trimEnd().split("\n")
        .map((line) => line.split("  ", 2).reverse() as [string, string]),
    );
    return await Promise.all(names.map(async (name) => {
      const content = await Deno.readFile(`${directory}/${name}`);
      if (sums.get(name) !== await sha256(content)) {
        throw new Deno.errors.NotFound(name);
      }
      return content;
    }));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
