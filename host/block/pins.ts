// Which images of a folder snapshots refer to: a text file beside the images, a line of JSON for
// each pin. With it a machine that is started on such an image, and knows nothing of the snapshot,
// does not write to it either.

import { basename, dirname, join } from "node:path";
import { type FileIdentity, identify } from "./identity.ts";

/** Name of the list, in the folder of the images. */
export const PIN_LIST = ".diapause-pinned";

/** An image that a snapshot refers to. */
interface Pin {
  /** Name of the image. */
  image: string;
  /** Bytes of the image. */
  bytes: number;
  /** Its {@linkcode FileIdentity.fingerprint}. */
  fingerprint: string;
  /** Path of the snapshot. */
  snapshot: string;
}

async function readList(path: string): Promise<Pin[]> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
  return text.split("\n").flatMap((line) => {
    try {
      const pin = JSON.parse(line);
      return typeof pin?.image === "string" ? [pin as Pin] : [];
    } catch {
      // An empty line, or one that the user wrote.
      return [];
    }
  });
}

const listOf = (image: string) => join(dirname(image), PIN_LIST);

/**
 * Notes that a snapshot refers to an image.
 *
 * @param image Path of the image.
 * @param identity What it is.
 * @param snapshot Path of the snapshot.
 * @returns Whether it was not noted before.
 */
export async function notePin(
  image: string,
  { bytes, fingerprint }: FileIdentity,
  snapshot: string,
): Promise<boolean> {
  const pin: Pin = { image: basename(image), bytes, fingerprint, snapshot };
  const path = listOf(image);
  const isNoted = (await readList(path)).some((other) =>
    other.image === pin.image && other.fingerprint === fingerprint &&
    other.snapshot === snapshot
  );
  if (isNoted) return false;
  await Deno.writeTextFile(path, `${JSON.stringify(pin)}\n`, { append: true });
  return true;
}

/**
 * Finds the snapshot that refers to an image as it is now.
 *
 * @param image Path of the image.
 * @returns Path of the latest such snapshot; undefined when there is none, or the image has been changed since.
 */
export async function findPin(image: string): Promise<string | undefined> {
  const pins = (await readList(listOf(image))).filter((pin) =>
    pin.image === basename(image)
  );
  if (pins.length === 0) return undefined;
  const { bytes, fingerprint } = await identify(image);
  return pins.findLast((pin) =>
    pin.bytes === bytes && pin.fingerprint === fingerprint
  )?.snapshot;
}

/**
 * Forgets pins of an image.
 *
 * @param image Path of the image.
 * @param snapshot Of this snapshot only; of all when absent, because the image is going to be written.
 */
export async function forgetPins(
  image: string,
  snapshot?: string,
): Promise<void> {
  const path = listOf(image);
  const pins = await readList(path);
  const others = pins.filter((pin) =>
    pin.image !== basename(image) ||
    snapshot !== undefined && pin.snapshot !== snapshot
  );
  if (others.length === pins.length) return;
  if (others.length === 0) return await Deno.remove(path);
  const text = others.map((pin) => `${JSON.stringify(pin)}\n`).join("");
  await Deno.writeTextFile(path, text);
}
