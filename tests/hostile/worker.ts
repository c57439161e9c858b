// One of the threads that take mutants: every N-th of the cases, so that a hang is seen from outside.

/// <reference lib="deno.worker" />

import { busyMachine, snapshotOf } from "./guest.ts";
import { mutantOf, takeApart } from "./mutate.ts";
import { type Outcome, Subject } from "./subject.ts";

/** What a thread is to do. */
export interface Work {
  /** Which mutants there are. */
  seed: number;
  /** The first one. */
  first: number;
  /** From one to the next. */
  step: number;
  /** One past the last. */
  end: number;
  /** Where it tells which one it has begun. */
  begun: Int32Array<SharedArrayBuffer>;
}

/** What a thread tells: that it has done all, or the first that went wrong. */
export type Report =
  | { counts: Record<Outcome, number> }
  | { number: number; what: string; error: string };

async function takeAll(
  { seed, first, step, end, begun }: Work,
): Promise<Report> {
  const original = takeApart(await snapshotOf(await busyMachine()));
  const subject = new Subject();
  const counts: Record<Outcome, number> = {
    "refused by the file": 0,
    "refused by the machine": 0,
    ran: 0,
  };
  for (let number = first; number < end; number += step) {
    Atomics.store(begun, 0, number);
    const { file, what } = mutantOf(original, seed, number);
    try {
      counts[await subject.take(file)]++;
    } catch (error) {
      const { stack, message } = error as Error;
      return { number, what: what(), error: stack ?? message };
    }
  }
  return { counts };
}

self.onmessage = async ({ data }: MessageEvent<Work>) => {
  self.postMessage(await takeAll(data));
  self.close();
};
