// For the crash tests: random changes that are the same for the same seed, and what a disk may hold
// after them. Run as a program it does the changes until it is killed.

import { assert } from "@std/assert";
import { SECTOR_SIZE } from "../types.ts";
import { Qcow2Block } from "./mod.ts";

/** Sectors of the disk. */
export const CRASH_SECTORS = 4096;
/** Sectors of a change at most. */
const LONGEST = 300;
/** Changes at the same time at most. */
const MOST_AT_ONCE = 12;
/** The stamp of a sector of zeroes, and of the sectors of the image under the disk. */
export const ZERO_STAMP = 0;
export const BASE_STAMP = 1;

/** A change; the sectors of a write hold its stamp. */
export interface StampedChange {
  kind: "write" | "zero" | "discard";
  sector: number;
  sectors: number;
  stamp: number;
}

/** Changes that are done at the same time, and whether they are flushed then. */
export interface Batch {
  changes: StampedChange[];
  flush: boolean;
}

/**
 * Changes without end.
 *
 * @param seed Batches of the same seed are equal; stamps of different seeds are not.
 */
export function* crashBatches(seed: number): Generator<Batch> {
  let state = seed * 2654435761 >>> 0 || 1;
  const random = (below: number) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
  for (let stamp = 2 + (seed << 16);;) {
    const changes: StampedChange[] = [];
    const taken = new Set<number>();
    for (let i = 1 + random(MOST_AT_ONCE); i > 0; i--) {
      const sector = random(CRASH_SECTORS);
      const sectors = 1 +
        random(Math.min(LONGEST, CRASH_SECTORS - sector));
      const all = Array.from({ length: sectors }, (_, i) => sector + i);
      if (all.some((sector) => taken.has(sector))) continue;
      for (const sector of all) taken.add(sector);
      const kind = (["write", "write", "write", "zero", "discard"] as const)[
        random(5)
      ];
      changes.push({ kind, sector, sectors, stamp: stamp++ });
    }
    yield { changes, flush: random(3) === 0 };
  }
}

/** Sectors with a stamp. */
export function stamped(
  sector: number,
  sectors: number,
  stamp: number,
): Uint8Array {
  const words = new Uint32Array(sectors * SECTOR_SIZE / 4);
  if (stamp === ZERO_STAMP) return new Uint8Array(words.buffer);
  for (let i = 0; i < words.length; i += 2) {
    words[i] = stamp;
    words[i + 1] = sector + Math.floor(i * 4 / SECTOR_SIZE);
  }
  return new Uint8Array(words.buffer);
}

/** Does the changes of a batch. */
export async function doBatch(
  disk: Qcow2Block,
  { changes, flush }: Batch,
): Promise<void> {
  await Promise.all(changes.map(({ kind, sector, sectors, stamp }) => {
    const start = sector * SECTOR_SIZE;
    const length = sectors * SECTOR_SIZE;
    if (kind === "discard") return disk.discard(start, length);
    if (kind === "zero") {
      return disk.writeZeroes(start, length, stamp % 2 === 0);
    }
    return disk.write(start, stamped(sector, sectors, stamp));
  }));
  if (flush) await disk.flush();
}

/** What each sector of a disk may hold. */
export class Expectation {
  readonly #stamps: Set<number>[];

  /** @param stamp The stamp of all sectors. */
  constructor(stamp: number) {
    this.#stamps = Array.from(
      { length: CRASH_SECTORS },
      () => new Set([stamp]),
    );
  }

  /** Notes changes that are done for good, or that may be done. */
  apply({ changes }: Batch, isCertain: boolean): void {
    for (const { kind, sector, sectors, stamp } of changes) {
      for (let i = sector; i < sector + sectors; i++) {
        if (isCertain && kind !== "discard") this.#stamps[i].clear();
        this.#stamps[i].add(kind === "write" ? stamp : ZERO_STAMP);
      }
    }
  }

  /** Checks the content of a disk; from then on it is what is expected. */
  settle(content: Uint8Array): void {
    const words = new Uint32Array(content.buffer, content.byteOffset);
    this.#stamps.forEach((stamps, sector) => {
      const at = sector * SECTOR_SIZE;
      const stamp = words[at / 4];
      assert(
        stamps.has(stamp),
        `sector ${sector} has the stamp ${stamp}: expected ${[...stamps]}`,
      );
      const bytes = content.subarray(at, at + SECTOR_SIZE);
      const expected = stamped(sector, 1, stamp);
      assert(
        bytes.every((byte, i) => byte === expected[i]),
        `sector ${sector} is a mixture`,
      );
      this.#stamps[sector] = new Set([stamp]);
    });
  }
}

if (import.meta.main) {
  const [path, seed] = Deno.args;
  const say = (line: string) =>
    Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
  const disk = await Qcow2Block.open(path);
  let count = 0;
  for (const batch of crashBatches(Number(seed))) {
    say("begin");
    await doBatch(disk, batch);
    count++;
    if (batch.flush) say(`flushed ${count}`);
  }
}
