// Finding the image that a snapshot was made with, and telling whether it still is that image
// (docs/snapshot-format.md, section "Disks").

import { dirname, resolve } from "node:path";
import { MachineError } from "../../core/plugin.ts";
import type {
  ManifestImage,
  ManifestImageFile,
} from "../../snapshot/manifest.ts";
import { chainOf, type ImageFormat, knownFormat } from "./chain.ts";
import { identify, isWholeFingerprint } from "./identity.ts";

/** Where an image is, and what is to be said of it. */
export interface FoundImage {
  /** Path of the file on top. */
  path: string;
  /** Its format. */
  format: ImageFormat;
  /** Why it cannot be used; none when it can. */
  problem?: string;
  /** What the user should know although it can be used. */
  note?: string;
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch {
    return false;
  }
}

/** A time for people; as it is where it cannot be one, for a snapshot may say anything. */
function date(ms: number): string {
  const time = new Date(ms);
  return Number.isNaN(time.getTime()) ? `${ms}` : time.toISOString();
}

/** Compares a file with what the snapshot says of it. */
async function compare(
  path: string,
  recorded: ManifestImageFile,
): Promise<{ problem?: string; note?: string }> {
  const { bytes, modified, fingerprint } = await identify(path);
  if (bytes !== recorded.bytes && recorded.format === "raw") {
    return {
      problem:
        `image "${path}" is ${bytes} bytes: expected ${recorded.bytes}, as when the snapshot was made`,
    };
  }
  if (fingerprint !== recorded.fingerprint) {
    const when = modified === 0 ? "" : ` (written ${date(modified)})`;
    return {
      problem:
        `image "${path}" of ${bytes} bytes was changed since the snapshot was made${when}, when it had ${recorded.bytes} bytes: the guest's memory no longer fits it`,
    };
  }
  if (modified === recorded.modified || isWholeFingerprint(bytes)) return {};
  return {
    note: `image "${path}" has the date ${date(modified)}, and had ${
      date(recorded.modified)
    } when the snapshot was made; samples of its content are the same`,
  };
}

/** Compares an image, with all files under it, with what the snapshot says. */
async function examine(
  path: string,
  { size, files }: ManifestImage,
): Promise<FoundImage> {
  const format = knownFormat(files[0].format, path);
  const found: FoundImage = { path, format };
  try {
    const chain = await chainOf(path, format);
    if (chain[0].size !== size) {
      return { ...found, problem: otherSize(path, chain[0].size, size) };
    }
    for (const [i, recorded] of files.entries()) {
      const file = chain.at(i);
      if (file === undefined || file.format !== recorded.format) {
        return {
          ...found,
          problem: `image "${path}" is no longer based on "${recorded.path}"`,
        };
      }
      const { problem, note } = await compare(file.path, recorded);
      if (problem !== undefined) return { ...found, problem };
      if (note !== undefined) found.note ??= note;
    }
    return found;
  } catch (error) {
    return { ...found, problem: (error as Error).message };
  }
}

const otherSize = (path: string, is: number, was: number) =>
  `image "${path}" is a disk of ${is} bytes: expected ${was}, as when the snapshot was made`;

/**
 * Finds the image that a snapshot was made with: where it was, else at the same place as seen from the snapshot.
 *
 * @param image What the snapshot says.
 * @param snapshot Path of the snapshot.
 * @returns The image, or what is wrong.
 * @throws {MachineError} If the snapshot says something that cannot be.
 */
export async function findImage(
  image: ManifestImage,
  snapshot: string,
): Promise<FoundImage> {
  if (image.files.length === 0) {
    throw new MachineError(
      "the snapshot names no file of an image: it is damaged",
    );
  }
  const [{ path, relative, format, bytes }] = image.files;
  const folder = await Deno.realPath(dirname(resolve(snapshot)));
  const beside = resolve(folder, relative);
  let first: FoundImage | undefined;
  for (const candidate of new Set([path, beside])) {
    if (!await exists(candidate)) continue;
    const found = await examine(candidate, image);
    if (found.problem === undefined) return found;
    first ??= found;
  }
  const places = path === beside ? "" : `, nor "${beside}"`;
  return first ?? {
    path,
    format: knownFormat(format, path),
    problem: `image "${path}" of ${bytes} bytes is not there${places}`,
  };
}

/**
 * Looks at an image that the user gives in the place of the one that a snapshot was made with.
 *
 * @param image What the snapshot says.
 * @param path The image.
 * @param format Its format.
 * @returns The image; it has to be of the same size, and may have other content.
 */
export async function examineOther(
  image: ManifestImage,
  path: string,
  format: ImageFormat,
): Promise<FoundImage> {
  const found: FoundImage = { path: resolve(path), format };
  try {
    const [{ size }] = await chainOf(path, format);
    if (size !== image.size) {
      return {
        ...found,
        problem: otherSize(path, size, image.size),
      };
    }
    const { fingerprint } = await identify(path);
    if (fingerprint === image.files[0].fingerprint) return found;
    return {
      ...found,
      note:
        `image "${path}" has other content than the one that the snapshot was made with: what the guest has in memory may not fit it`,
    };
  } catch (error) {
    return { ...found, problem: (error as Error).message };
  }
}
