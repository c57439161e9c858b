// The files of an image: a raw file alone, or qcow2 overlays down to the file at their bottom.

import fs from "node:fs";
import { basename, dirname, extname, resolve } from "node:path";
import { MachineError } from "../../core/plugin.ts";
import { deviceBytes, imageKind, openError } from "./file.ts";
import {
  hasMagic,
  type Header,
  HEADER_BYTES,
  headerClusterBytes,
  parseHeader,
} from "./qcow2/header.ts";
import { findBacking } from "./qcow2/mod.ts";

/** How a file holds a disk. */
export type ImageFormat = "raw" | "qcow2";

/** Every format, for options and messages. */
export const IMAGE_FORMATS: readonly ImageFormat[] = ["raw", "qcow2"];

/** One file of an image. */
export interface ImageFile {
  /** Absolute path. */
  path: string;
  /** How it holds the disk. */
  format: ImageFormat;
  /** Bytes of the disk that it holds. */
  size: number;
}

/** Files on top of each other at most: more are taken for a loop. */
const MAX_FILES = 4096;

/** The first bytes of a file, or all of a shorter one. */
function readStart(path: string, length: number): Uint8Array {
  const fd = fs.openSync(path, "r");
  try {
    const bytes = new Uint8Array(length);
    return bytes.subarray(0, fs.readSync(fd, bytes, 0, length, 0));
  } finally {
    fs.closeSync(fd);
  }
}

/** The header of a qcow2 image; undefined for a file that does not begin as one. */
function readHeader(path: string): Header | undefined {
  const start = readStart(path, HEADER_BYTES);
  if (!hasMagic(start)) return undefined;
  return parseHeader(path, readStart(path, headerClusterBytes(start)));
}

/**
 * The format of an image that the user did not name.
 *
 * A guest can write what it likes to the start of a raw disk, a qcow2 header that names a file of the host as its
 * base included: so the name decides, and where name and content disagree the user has to.
 *
 * @param path The file.
 * @returns Its format.
 * @throws {MachineError} If its name and its content disagree, or it is no file that can be read.
 */
export async function formatOf(path: string): Promise<ImageFormat> {
  await imageKind(path);
  let start: Uint8Array;
  try {
    start = readStart(path, HEADER_BYTES);
  } catch (cause) {
    throw openError(path, true, cause);
  }
  const named: ImageFormat = extname(path).toLowerCase() === ".qcow2"
    ? "qcow2"
    : "raw";
  const found: ImageFormat = hasMagic(start) ? "qcow2" : "raw";
  if (found === named) return named;
  throw new MachineError(
    found === "qcow2"
      ? `image "${path}" begins as a qcow2 image does: say format=qcow2 if it is one, or format=raw if the guest wrote that`
      : `image "${path}" has the name of a qcow2 image, but does not begin as one: say format=raw if it is a raw image`,
  );
}

/**
 * The files of an image, as their headers name them.
 *
 * @param path The file on top.
 * @param format Its format.
 * @returns The files, the one on top first.
 * @throws {MachineError} If one is missing or is not what it should be; the message names it.
 */
export async function chainOf(
  path: string,
  format: ImageFormat,
): Promise<ImageFile[]> {
  const files: ImageFile[] = [];
  for (let next = resolve(path);;) {
    if (files.length === MAX_FILES) {
      throw new MachineError(
        `image "${path}" has more than ${MAX_FILES} files under it: expected that no file is under itself`,
      );
    }
    const kind = await kindOf(next, files.at(-1));
    if (format === "raw") {
      const size = kind === "device"
        ? await deviceBytes(next)
        : (await Deno.stat(next)).size;
      files.push({ path: next, format, size });
      return files;
    }
    const header = readHeader(next);
    if (header === undefined) {
      throw new MachineError(`image "${next}" is not a qcow2 image`);
    }
    files.push({ path: next, format, size: header.size });
    const { backing } = header;
    if (backing === undefined) return files;
    ({ path: next, format } = findBacking(next, backing));
  }
}

/** What a file is to the host, which an overlay may be based on. */
async function kindOf(
  path: string,
  overlay: ImageFile | undefined,
): Promise<"file" | "device"> {
  try {
    return await imageKind(path);
  } catch (cause) {
    if (overlay === undefined) throw cause;
    throw new MachineError(
      `${(cause as Error).message} (the base of "${overlay.path}")`,
      { cause },
    );
  }
}

/**
 * Reads the name of a format.
 *
 * @param name The name.
 * @param image The image that has it, for messages.
 * @returns The format.
 * @throws {MachineError} If there is no such format.
 */
export function knownFormat(name: string, image: string): ImageFormat {
  const format = IMAGE_FORMATS.find((format) => format === name);
  if (format !== undefined) return format;
  throw new MachineError(
    `the format of image "${image}" is "${name}": expected ${
      IMAGE_FORMATS.join(" or ")
    }`,
  );
}

/** The file under an overlay; undefined for what is none, or cannot be read. */
function baseOf(path: string): string | undefined {
  try {
    const backing = readHeader(path)?.backing;
    return backing && findBacking(path, backing).path;
  } catch {
    return undefined;
  }
}

/** Name of the overlays of an image: its own without the ending, a number, and the format. */
const OVERLAY_NAME = /^(.*)\.(\d+)\.qcow2$/s;

/**
 * Names for an overlay of an image, each to be tried until one is free: `disk.img` gives `disk.1.qcow2`,
 * `disk.2.qcow2` and so on, and `disk.4.qcow2` gives `disk.5.qcow2`.
 *
 * @param path The image.
 */
export function* overlayNames(path: string): Generator<string> {
  const name = basename(path);
  const [, stem, number] = OVERLAY_NAME.exec(name) ??
    [name, name.slice(0, name.length - extname(name).length), "0"];
  for (let n = Number(number) + 1;; n++) yield `${stem}.${n}.qcow2`;
}

/**
 * The overlays of an image that lie beside it, and their overlays, under the names of {@linkcode overlayNames}.
 *
 * @param path The image.
 * @returns Paths of those that have none themselves, the one written last first.
 */
export function latestOverlays(path: string): string[] {
  const folder = dirname(resolve(path));
  const prefix = overlayNames(path).next().value!.replace(/\d+\.qcow2$/, "");
  const parents = new Map<string, string>();
  for (const { name } of Deno.readDirSync(folder)) {
    if (!name.startsWith(prefix) || !OVERLAY_NAME.test(name)) continue;
    const overlay = resolve(folder, name);
    const base = baseOf(overlay);
    if (base !== undefined) parents.set(overlay, base);
  }
  const isOn = (overlay: string): boolean => {
    const seen = new Set<string>();
    for (
      let at = parents.get(overlay);
      at !== undefined && !seen.has(at);
      at = parents.get(at)
    ) {
      if (at === resolve(path)) return true;
      seen.add(at);
    }
    return false;
  };
  const bases = new Set(parents.values());
  return [...parents.keys()]
    .filter((overlay) => !bases.has(overlay) && isOn(overlay))
    .map((overlay) => ({
      overlay,
      written: Deno.statSync(overlay).mtime?.getTime() ?? 0,
    }))
    .sort((a, b) => b.written - a.written)
    .map(({ overlay }) => overlay);
}
