// A drive whose medium the user puts in, changes and takes out while the machine runs.

import { MachineError, type RemovableMedia } from "../../core/plugin.ts";
import type { Pin, PinnedBlock } from "./pinned.ts";
import type { BlockImage } from "./types.ts";

type MediaEvent = Parameters<Parameters<RemovableMedia["onChange"]>[0]>[0];

/** A drive, with a medium that guests only read, or empty. */
export class RemovableBlock implements BlockImage {
  /** Its guest only reads. */
  readonly readOnly = true;
  /** What the drive's device sees of the medium. */
  readonly media: RemovableMedia;
  readonly #id: string;
  readonly #open: (path: string, format?: string) => Promise<PinnedBlock>;
  #medium: PinnedBlock | undefined;
  #locked = false;
  /** The guest has opened the tray; what lies in it is not in the drive. */
  #ejected = false;
  #listener: (event: MediaEvent) => void = () => {};

  /**
   * A drive.
   *
   * @param id What the device is called in messages.
   * @param medium What is in it; nothing when undefined.
   * @param open Opens another medium.
   */
  constructor(
    id: string,
    medium: PinnedBlock | undefined,
    open: (path: string, format?: string) => Promise<PinnedBlock>,
  ) {
    this.#id = id;
    this.#medium = medium;
    this.#open = open;
    const isPresent = () => this.#medium !== undefined && !this.#ejected;
    this.media = {
      get present() {
        return isPresent();
      },
      onChange: (listener) => {
        this.#listener = listener;
      },
      lock: (locked) => {
        this.#locked = locked;
      },
      eject: () => {
        this.#ejected = true;
      },
      load: () => {
        this.#ejected = false;
      },
    };
  }

  /** Bytes of the medium; 0 while there is none. */
  get size(): number {
    return this.media.present ? this.#medium!.size : 0;
  }

  /** Reads from the medium. */
  async read(offset: number, target: Uint8Array): Promise<void> {
    if (!this.media.present) throw new Error("there is no medium in the drive");
    await this.#medium!.read(offset, target);
  }

  /** Rejects: the medium is only read. */
  write(): Promise<void> {
    return this.#refuse();
  }

  /** There is nothing to make durable. */
  async flush(): Promise<void> {
  }

  /** Rejects: the medium is only read. */
  discard(): Promise<void> {
    return this.#refuse();
  }

  /** Rejects: the medium is only read. */
  writeZeroes(): Promise<void> {
    return this.#refuse();
  }

  #refuse(): Promise<never> {
    return Promise.reject(new Error("the medium is read-only"));
  }

  /**
   * Puts another medium in.
   *
   * @param path Its image.
   * @param format The image's format; as its name says when absent.
   * @param force Though the guest keeps the present one in.
   * @throws {MachineError} If the image cannot be opened, or the guest keeps the present medium: both leave it in.
   */
  async change(path: string, format?: string, force = false): Promise<void> {
    this.#checkLock(force);
    const next = await this.#open(path, format);
    const before = this.#medium;
    this.#medium = next;
    this.#ejected = false;
    this.#listener("inserted");
    await before?.close();
  }

  /**
   * Takes the medium out; nothing happens where there is none.
   *
   * @param force Though the guest keeps it in.
   * @throws {MachineError} If the guest keeps it in; the guest is told that the user wants it.
   */
  async eject(force = false): Promise<void> {
    const before = this.#medium;
    if (before === undefined) return;
    this.#checkLock(force);
    this.#medium = undefined;
    this.#ejected = false;
    this.#listener("removed");
    await before.close();
  }

  #checkLock(force: boolean): void {
    if (!this.#locked || force || this.#medium === undefined) return;
    this.#listener("requested");
    throw new MachineError(
      `the guest keeps the medium in "${this.#id}": it has been asked to let go; try again, or force it`,
    );
  }

  /**
   * Keeps the medium as it is, for a snapshot.
   *
   * @param snapshot Path of the snapshot.
   * @returns The hold on it; undefined when the drive is empty.
   */
  async pin(snapshot: string): Promise<Pin | undefined> {
    return await this.#medium?.pin(snapshot);
  }

  /**
   * Checks that {@linkcode pin} would succeed.
   *
   * @param snapshot Path of the snapshot.
   */
  async checkPin(snapshot: string): Promise<void> {
    await this.#medium?.checkPin(snapshot);
  }

  /** Lets go of the medium. */
  async close(): Promise<void> {
    await this.#medium?.close();
  }
}
