// Block images by what the user asked for.

import { MachineError } from "../../core/plugin.ts";
import { DEFAULT_MEMORY_SIZE, MemoryBlock } from "./memory.ts";
import { formatOf, knownFormat } from "./chain.ts";
import { PinnedBlock } from "./pinned.ts";
import { RemovableBlock } from "./removable.ts";

export type { BlockImage } from "./types.ts";
export { SECTOR_SIZE } from "./types.ts";
export { DEFAULT_MEMORY_SIZE, MemoryBlock } from "./memory.ts";
export { IMAGE_FORMATS, type ImageFormat } from "./chain.ts";
export { type Pin, PinnedBlock } from "./pinned.ts";
export { RawBlock } from "./raw.ts";
export { RemovableBlock } from "./removable.ts";

/** What a block device's options say of its image. */
export interface BlockOptions {
  /** Path of an image file or a block device; a scratch disk in memory when absent. */
  image?: string;
  /** Format of the image; as its name says (`.qcow2`, else raw) when absent. */
  format?: string;
  /** Refuses writes. */
  readonly?: boolean;
  /** Keeps the image as it is (true) or writes to it in place (false): see {@linkcode PinnedOptions.pin}. */
  pin?: boolean;
  /** Bytes of the scratch disk; 64 MiB when absent. */
  size?: number;
}

/** Who opens an image. */
export interface BlockUser {
  /** What the device is called in messages. */
  id?: string;
  /** The snapshot that the image is restored from. */
  restoredFrom?: string;
  /** Tells the user a line. */
  notify?: (message: string) => void;
}

/**
 * Opens the image of a block device.
 *
 * @param options What to open.
 * @param user Who opens it.
 * @returns The image; its user closes it.
 * @throws {MachineError} If it cannot be opened or is no disk; the message names the path and the cause.
 *
 * @example A scratch disk of 1 MiB
 * ```ts
 * import { openBlock } from "./mod.ts";
 *
 * const disk = await openBlock({ size: 1024 * 1024 });
 * await disk.write(512, new Uint8Array(512).fill(1));
 * await disk.close();
 * ```
 */
export async function openBlock(
  options: BlockOptions = {},
  user: BlockUser = {},
): Promise<MemoryBlock | PinnedBlock> {
  const { image, format, readonly = false, pin, size } = options;
  if (image === undefined) {
    for (const name of ["format", "pin"] as const) {
      if (options[name] === undefined) continue;
      throw new MachineError(
        `${name}= is for an image: give image=PATH, or leave it out for a scratch disk in memory`,
      );
    }
    return new MemoryBlock(size ?? DEFAULT_MEMORY_SIZE, readonly);
  }
  if (image === "") {
    throw new MachineError(
      "image= is empty: give the path of an image, or leave it out for a scratch disk in memory",
    );
  }
  if (size !== undefined) {
    throw new MachineError(
      `size=${size} is for a scratch disk in memory: image "${image}" has the size that it has`,
    );
  }
  return await PinnedBlock.open({
    id: user.id ?? "disk",
    path: image,
    format: format === undefined
      ? await formatOf(image)
      : knownFormat(format, image),
    readOnly: readonly,
    pin,
    restoredFrom: user.restoredFrom,
    notify: user.notify,
  });
}

/**
 * Opens a drive whose medium may be changed: with the image that the options name, or empty.
 *
 * @param options What is in it.
 * @param user Who opens it.
 * @returns The drive; its user closes it. A scratch disk in memory, for ever, where `size` asks for one.
 * @throws {MachineError} If the image cannot be opened.
 */
export async function openRemovable(
  options: BlockOptions,
  user: BlockUser & { id: string },
): Promise<RemovableBlock | MemoryBlock> {
  const { image, format, size } = options;
  if (image === undefined && size !== undefined) {
    return new MemoryBlock(size, true);
  }
  if (image === undefined && format !== undefined) {
    throw new MachineError(
      "format= is for an image: give image=PATH, or leave it out for an empty drive",
    );
  }
  const open = async (path: string, format?: string) =>
    await openBlock(
      { image: path, format, readonly: true },
      user,
    ) as PinnedBlock;
  return new RemovableBlock(
    user.id,
    image === undefined ? undefined : await open(image, format),
    open,
  );
}
