// Which clusters of an image hold its own tables. Guest data must never be written there, whatever
// the tables say.

/** An image whose tables contradict each other: it must not be written any more. */
export class CorruptError extends Error {
  override readonly name = "CorruptError";
}

/** The clusters that hold tables. */
export class Owners {
  readonly #clusterSize: number;
  readonly #clusters = new Map<number, string>();

  /** @param clusterSize Bytes of a cluster. */
  constructor(clusterSize: number) {
    this.#clusterSize = clusterSize;
  }

  /**
   * Notes a table.
   *
   * @param what What it is, for messages.
   * @param offset Its place in the file.
   * @param length Its bytes.
   */
  add(what: string, offset: number, length: number): void {
    const first = Math.floor(offset / this.#clusterSize);
    const end = Math.ceil((offset + length) / this.#clusterSize);
    for (let cluster = first; cluster < end; cluster++) {
      this.#clusters.set(cluster, what);
    }
  }

  /**
   * Forgets a table.
   *
   * @param offset Its place in the file.
   * @param length Its bytes.
   */
  remove(offset: number, length: number): void {
    const first = Math.floor(offset / this.#clusterSize);
    const end = Math.ceil((offset + length) / this.#clusterSize);
    for (let cluster = first; cluster < end; cluster++) {
      this.#clusters.delete(cluster);
    }
  }

  /** What is in a cluster; undefined if it is no table. */
  at(cluster: number): string | undefined {
    return this.#clusters.get(cluster);
  }

  /**
   * Checks that a range of the file is free of tables.
   *
   * @param what What is to be there, for messages.
   * @param offset First byte.
   * @param length Bytes.
   * @throws {CorruptError} If it is not.
   */
  check(what: string, offset: number, length: number): void {
    const first = Math.floor(offset / this.#clusterSize);
    const end = Math.ceil((offset + length) / this.#clusterSize);
    for (let cluster = first; cluster < end; cluster++) {
      const owner = this.#clusters.get(cluster);
      if (owner !== undefined) {
        throw new CorruptError(
          `${what} is at ${cluster * this.#clusterSize}, where ${owner} is`,
        );
      }
    }
  }
}
