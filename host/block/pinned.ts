// A disk in files that snapshots may pin (DESIGN.md section 6, "Disks"). A pinned file is never written
// again: the first write after a pin goes to a new qcow2 overlay beside it.

import fs from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import { MachineError } from "../../core/plugin.ts";
import type {
  ManifestImage,
  ManifestImageFile,
} from "../../snapshot/manifest.ts";
import {
  chainOf,
  type ImageFile,
  type ImageFormat,
  latestOverlays,
  overlayNames,
} from "./chain.ts";
import { type FileIdentity, identify } from "./identity.ts";
import { ImageLock } from "./lock.ts";
import { copyUpper, countToMerge } from "./merge.ts";
import { findPin, forgetPins, notePin } from "./pins.ts";
import { createQcow2, Qcow2Block } from "./qcow2/mod.ts";
import { imageKind, openError } from "./file.ts";
import { RawBlock } from "./raw.ts";
import { type BlockImage, checkRange } from "./types.ts";

/** The hold that a snapshot has on an image. */
export interface Pin {
  /** The image at that instant. */
  readonly image: ManifestImage;
  /** Ends the hold, of a snapshot that was not finished. */
  cancel(): Promise<void>;
}

/** How an image is opened. */
export interface PinnedOptions {
  /** What the device is called in messages. */
  id: string;
  /** Path of the file on top. */
  path: string;
  /** Its format. */
  format: ImageFormat;
  /** Whether writes are refused. */
  readOnly?: boolean;
  /**
   * Whether the file is kept as it is, so that even the first write goes to an overlay (true), or written whatever
   * refers to it (false). Without it, the former where a snapshot refers to the file.
   */
  pin?: boolean;
  /** The snapshot that the image is restored from: the file is kept as it is, but for `pin` being false. */
  restoredFrom?: string;
  /** Tells the user a line. */
  notify?: (message: string) => void;
}

/** Why the file on top must not be written. */
interface Holder {
  /** Who, for messages. */
  readonly name: string;
  /** The snapshot, if it is one. */
  readonly snapshot?: string;
}

const heldBySnapshot = (snapshot: string): Holder => ({
  name: `the snapshot "${snapshot}"`,
  snapshot,
});

/** A disk in files. */
export class PinnedBlock implements BlockImage {
  /** Bytes. */
  readonly size: number;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  readonly #id: string;
  readonly #inPlace: boolean;
  readonly #notify: (message: string) => void;
  /** The files, the one on top first, and their locks. */
  #files: ImageFile[];
  #locks: ImageLock[];
  #top: BlockImage;
  /** Whether the file on top takes writes as it is. */
  #writing: boolean;
  /** Who refers to the file on top. */
  #holders: Holder[];
  /** Whether the user knows what overlays are. */
  #explained = false;
  readonly #mutations = new Set<Promise<void>>();
  /** What the files that do not change are recognized by. */
  readonly #identities = new Map<string, FileIdentity>();
  /** Changes of the file on top, one after the other. */
  #changes: Promise<unknown> = Promise.resolve();
  #closed = false;

  private constructor(
    options: PinnedOptions,
    files: ImageFile[],
    locks: ImageLock[],
    top: BlockImage,
    holder: Holder | undefined,
  ) {
    const { id, readOnly = false, pin, notify = () => {} } = options;
    this.#id = id;
    this.#inPlace = pin === false;
    this.#notify = notify;
    this.#files = files;
    this.#locks = locks;
    this.#top = top;
    this.#writing = !readOnly && holder === undefined;
    this.#holders = holder === undefined ? [] : [holder];
    this.size = top.size;
    this.readOnly = readOnly;
  }

  /**
   * Opens an image.
   *
   * @param options Which, and how.
   * @returns The image.
   * @throws {MachineError} If a file of it is missing, in use or no image, or newer content is in an overlay of it.
   */
  static async open(options: PinnedOptions): Promise<PinnedBlock> {
    const { format, readOnly = false, pin, restoredFrom } = options;
    let path = resolve(options.path);
    const locks: ImageLock[] = [];
    try {
      // Pins and overlays are those of the file, by whatever link it is reached. A device's links are what lasts.
      if (await imageKind(path) === "file") path = await Deno.realPath(path);
      const files = await chainOf(path, format);
      let holder: Holder | undefined;
      if (!readOnly && pin !== false) {
        if (restoredFrom !== undefined) {
          holder = heldBySnapshot(resolve(restoredFrom));
        } else if (pin === true) holder = { name: "pin=on" };
        else holder = await findHolder(path);
      }
      const writing = !readOnly && holder === undefined;
      for (const [i, { path }] of files.entries()) {
        const kind = writing && i === 0 ? "exclusive" : "shared";
        locks.push(ImageLock.acquire(path, kind));
      }
      const top = await openFile(files[0], writing);
      if (writing) await forgetPins(path).catch(() => {});
      if (holder !== undefined) {
        const folder = await overlayFolder(path, holder.snapshot);
        const problem = folderProblem(folder);
        if (problem !== undefined) {
          options.notify?.(
            `${options.id}: ${problem}: what the guest writes will fail, for "${path}" is kept as it is for ${holder.name}`,
          );
        }
      }
      return new PinnedBlock(options, files, locks, top, holder);
    } catch (error) {
      for (const lock of locks) lock.release();
      throw openError(path, readOnly, error);
    }
  }

  /** Path of the file that has the newest content. */
  get path(): string {
    return this.#files[0].path;
  }

  /** Format of that file. */
  get format(): ImageFormat {
    return this.#files[0].format;
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#top.read(offset, target);
  }

  write(offset: number, source: Uint8Array): Promise<void> {
    return this.#mutate((top) => top.write(offset, source));
  }

  /** Makes writes durable; a pinned file is durable already. */
  async flush(): Promise<void> {
    if (this.#writing) await this.#top.flush();
  }

  /** Does nothing to a pinned file: a discard need not change what is read, and is not worth an overlay. */
  async discard(offset: number, length: number): Promise<void> {
    if (this.#writing || this.readOnly) {
      await this.#mutate((top) => top.discard(offset, length));
    } else checkRange(this.size, offset, length);
  }

  writeZeroes(offset: number, length: number, unmap: boolean): Promise<void> {
    return this.#mutate((top) => top.writeZeroes(offset, length, unmap));
  }

  /**
   * Checks that the image could be kept for a snapshot.
   *
   * @param snapshot Path of the snapshot.
   * @throws {MachineError} If the guest could not write any more then.
   */
  async checkPin(snapshot: string): Promise<void> {
    if (this.#inPlace || this.readOnly) return;
    const problem = folderProblem(await overlayFolder(this.path, snapshot));
    if (problem === undefined) return;
    throw new MachineError(
      `image "${this.path}" cannot be kept for a snapshot, for ${problem}: pin=off writes to it in place, or use a copy in a folder of yours`,
    );
  }

  /**
   * Makes the content durable, and keeps the files as they are for a snapshot; with `pin` false it only tells what
   * they are now.
   *
   * @param snapshot Path of the snapshot.
   * @returns The hold.
   */
  pin(snapshot: string): Promise<Pin> {
    return this.#change(async () => {
      const wasWriting = this.#writing;
      const top = this.#top;
      await this.checkPin(snapshot);
      if (!this.#inPlace) this.#writing = false;
      try {
        await Promise.allSettled(this.#mutations);
        if (wasWriting) await this.#top.flush();
        if (wasWriting && !this.#inPlace) {
          await (await this.#open(this.#files, false)).close();
          this.#locks[0].change("shared");
        }
        return await this.#hold(resolve(snapshot));
      } catch (error) {
        // What could not be written yet is still in the open file.
        if (this.#top === top) this.#writing = wasWriting;
        // If that fails the next write tries again.
        else await this.#becomeWritable().catch(() => {});
        throw error;
      }
    });
  }

  /** Finishes what is under way and lets go of the files. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#changes;
    await this.#top.close();
    for (const lock of this.#locks) lock.release();
  }

  async #hold(snapshot: string): Promise<Pin> {
    const files: ManifestImageFile[] = [];
    for (const file of this.#files) {
      const isFinal = file !== this.#files[0] || !this.#writing;
      const known = isFinal ? this.#identities.get(file.path) : undefined;
      const identity = known ?? await identify(file.path);
      if (isFinal) this.#identities.set(file.path, identity);
      const place = relative(dirname(snapshot), file.path);
      files.push({ ...file, ...identity, relative: place });
    }
    const image: ManifestImage = {
      size: this.size,
      pinned: !this.#inPlace,
      files,
    };
    if (this.#inPlace) return { image, cancel: () => Promise.resolve() };
    const { path } = this;
    const holder = heldBySnapshot(snapshot);
    this.#holders.push(holder);
    let isNew = false;
    if (await imageKind(path) === "file") {
      // Where the list cannot be written this machine still keeps to it.
      isNew = await notePin(path, files[0], snapshot).catch(() => false);
    }
    return {
      image,
      cancel: () =>
        this.#change(async () => {
          this.#holders = this.#holders.filter((other) => other !== holder);
          // A snapshot of that name which was there before still needs it.
          if (isNew) await forgetPins(path, snapshot).catch(() => {});
        }),
    };
  }

  /** Does a change of the file on top after those before it. */
  #change<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#changes.then(work);
    this.#changes = done.catch(() => {});
    return done;
  }

  /** Does something to the content, once the file on top takes it. */
  async #mutate(work: (top: BlockImage) => Promise<void>): Promise<void> {
    while (!this.#writing && !this.readOnly) {
      if (this.#closed) throw new Error(`image "${this.path}" is closed`);
      await this.#change(() => this.#becomeWritable());
    }
    const running = work(this.#top);
    this.#mutations.add(running);
    try {
      await running;
    } finally {
      this.#mutations.delete(running);
    }
  }

  /** Makes an overlay if the file on top is pinned, else opens that for writing again. */
  async #becomeWritable(): Promise<void> {
    if (this.#writing) return;
    if (this.#holders.length > 0) await this.#addOverlay();
    else {
      this.#locks[0].change("exclusive");
      this.#identities.delete(this.path);
      await (await this.#open(this.#files, true)).close();
    }
    this.#writing = true;
  }

  /** Opens the files anew; returns what was open, to be closed when it has finished. */
  async #open(files: ImageFile[], writing: boolean): Promise<BlockImage> {
    const top = await openFile(files[0], writing);
    const old = this.#top;
    this.#top = top;
    this.#files = files;
    return old;
  }

  async #addOverlay(): Promise<void> {
    const [{ path: base }] = this.#files;
    const holder = this.#holders.at(-1)!;
    let folder = dirname(base);
    try {
      folder = await overlayFolder(base, holder.snapshot);
      const count = countToMerge(this.#files);
      await this.#useOverlay(folder, count).catch((error) => {
        // There may still be room for one that is empty.
        if (count === 0) throw error;
        return this.#useOverlay(folder, 0);
      });
    } catch (cause) {
      throw new Error(
        `cannot write: "${base}" is kept for ${holder.name}, and an overlay in "${folder}" cannot be made: ${
          (cause as Error).message
        }`,
        { cause },
      );
    }
    this.#holders = [];
    this.#notify(`${this.#id}: ${this.#explain(base, this.path, holder)}`);
  }

  /** Makes an overlay with the content of some files on top, based on what is under them, and puts it on top. */
  async #useOverlay(folder: string, count: number): Promise<void> {
    const under = this.#files.slice(count);
    const path = await createOverlay(
      folder,
      this.path,
      under[0],
      this.size,
    );
    const file: ImageFile = { path, format: "qcow2", size: this.size };
    let lock: ImageLock | undefined;
    let top: BlockImage | undefined;
    try {
      lock = ImageLock.acquire(path, "exclusive");
      top = await openFile(file, true);
      if (this.#top instanceof Qcow2Block && count > 0) {
        await copyUpper(this.#top, count, top);
      }
    } catch (error) {
      await top?.close().catch(() => {});
      lock?.release();
      await Deno.remove(path).catch(() => {});
      throw error;
    }
    const old = this.#top;
    const merged = this.#locks.splice(0, count, lock);
    this.#top = top;
    this.#files = [file, ...under];
    // It was opened for reading only: closing it changes nothing.
    await old.close().catch(() => {});
    for (const lock of merged) lock.release();
  }

  #explain(base: string, overlay: string, holder: Holder): string {
    const moved = `writes go to "${overlay}" from now on`;
    if (this.#explained) return moved;
    this.#explained = true;
    return `"${base}" is kept as it is for ${holder.name}: ${moved} (when the machine is off, "qemu-img rebase -b '' ${overlay}" makes that independent, and "qemu-img commit ${overlay}" merges it into ${
      basename(base)
    }, which ends the use of the snapshot)`;
  }
}

/** Opens one file of an image; what it is based on is opened with it, for reading. */
function openFile(
  { path, format }: ImageFile,
  writing: boolean,
): Promise<BlockImage> {
  return format === "raw"
    ? RawBlock.open(path, !writing)
    : Qcow2Block.open(path, !writing);
}

/** Who refers to an image that the user names. */
async function findHolder(path: string): Promise<Holder | undefined> {
  const [overlay, ...others] = latestOverlays(path);
  if (overlay !== undefined) {
    const name = basename(path);
    throw new MachineError(
      `image "${path}" is the base of "${overlay}"${
        others.length === 0 ? "" : ` (and ${others.length} more)`
      }, which has what was written since a snapshot was taken: image=${overlay} goes on from there, pin=on starts a new overlay on ${name}, and pin=off writes to ${name} itself, which spoils its overlays and its snapshots`,
    );
  }
  const snapshot = await findPin(path);
  return snapshot === undefined ? undefined : heldBySnapshot(snapshot);
}

/** Where an overlay goes: beside its base, but that of a block device beside the snapshot, or here without one. */
async function overlayFolder(base: string, snapshot = "."): Promise<string> {
  const isDevice = await imageKind(base) === "device";
  return dirname(resolve(isDevice ? snapshot : base));
}

/** What keeps files from being made in a folder. */
function folderProblem(folder: string): string | undefined {
  try {
    fs.accessSync(folder, fs.constants.W_OK);
    return undefined;
  } catch (error) {
    return `no overlay can be made in "${folder}" (${
      (error as NodeJS.ErrnoException).code
    })`;
  }
}

/** Makes an overlay on a file, under the first name after another that is free. */
async function createOverlay(
  folder: string,
  above: string,
  base: ImageFile,
  size: number,
): Promise<string> {
  const isDevice = await imageKind(base.path) === "device";
  const name = relative(folder, base.path);
  const backing = {
    path: isDevice
      ? base.path
      // What is before a colon would be taken for a protocol.
      : name.includes(":")
      ? `./${name}`
      : name,
    format: base.format,
  };
  for (const candidate of overlayNames(above)) {
    const path = join(folder, candidate);
    try {
      await createQcow2(path, { size, backing });
    } catch (error) {
      if (error instanceof Deno.errors.AlreadyExists) continue;
      throw error;
    }
    // Nobody may read it who may not read what it is made of.
    const { mode } = await Deno.stat(above);
    if (mode !== null) await Deno.chmod(path, mode & 0o666);
    const directory = await Deno.open(folder);
    try {
      await directory.sync();
    } finally {
      directory.close();
    }
    return path;
  }
  throw new Error("no name is free");
}
