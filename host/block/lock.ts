// Locks on image files (flock(2)): any number of readers, or one writer. They end with the process
// that holds them, however it ends.

import { MachineError } from "../../core/plugin.ts";

/** What a lock permits others: `shared` to read, `exclusive` nothing. */
export type LockKind = "shared" | "exclusive";

/** A lock on an image file, held until it is released. */
export class ImageLock {
  readonly #path: string;
  readonly #file: Deno.FsFile;

  private constructor(path: string, file: Deno.FsFile) {
    this.#path = path;
    this.#file = file;
  }

  /**
   * Locks a file.
   *
   * @param path The file.
   * @param kind For writing it, or for reading.
   * @returns The lock.
   * @throws {MachineError} If another machine, or another device of this one, is in the way.
   */
  static acquire(path: string, kind: LockKind): ImageLock {
    const file = Deno.openSync(path, { read: true });
    const lock = new ImageLock(path, file);
    try {
      lock.change(kind);
      return lock;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /**
   * Changes the lock's kind.
   *
   * @param kind The new one.
   * @throws {MachineError} If somebody else is in the way; the lock is then a shared one, if it can be.
   */
  change(kind: LockKind): void {
    let isFree = true;
    try {
      isFree = this.#file.tryLockSync(kind === "exclusive");
      // A conversion that fails has lost the lock that there was, flock(2).
      if (!isFree && kind === "exclusive") this.#file.tryLockSync(false);
    } catch {
      // A file system without locks (some network ones): the user has to take care.
    }
    if (isFree) return;
    const [user, hint] = kind === "exclusive"
      ? ["in use by", "end that one, or give this one readonly=on or a copy"]
      : ["written by", "end that one, or give this one a copy"];
    throw new MachineError(
      `image "${this.#path}" is ${user} another machine or device: ${hint}`,
    );
  }

  /** Ends the lock. */
  release(): void {
    this.#file.close();
  }
}
