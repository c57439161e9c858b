/**
 * Property tests whose oracle is the host's CPU: for every seed, a batch of cases made from it
 * must come out of the host as expected.
 *
 * @module
 */

import fc from "fast-check";
import { type HostCase, hostFpu, type HostResult } from "./host_fpu.ts";
import { Operands } from "./operands.ts";

/** Cases that one start of the host's program runs. */
const BATCH = 1000;
const RUNS = 3;

/** One case. */
export interface Check {
  readonly host: HostCase;
  /** What went in, for the message. */
  readonly text: string;
  /** Throws if the host disagrees. */
  readonly verify: (result: HostResult) => void;
}

/**
 * Runs cases on the host and verifies each; prints why and passes where there is no host to ask.
 *
 * @param make Makes a case from a stream of operands.
 * @param runs How many batches.
 * @throws Error naming the case that the host disagrees with.
 */
export async function againstHost(
  make: (o: Operands) => Check,
  runs = RUNS,
): Promise<void> {
  const host = await hostFpu();
  if (typeof host === "string") {
    console.log(`skipped, the oracle is this host's CPU: ${host}`);
    return;
  }
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 0, max: 0x7fffffff }), async (seed) => {
      const o = new Operands(seed);
      const checks = Array.from({ length: BATCH }, () => make(o));
      const results = await host(checks.map((c) => c.host));
      checks.forEach((check, i) => {
        try {
          check.verify(results[i]);
        } catch (error) {
          throw new Error(`${check.text}: ${(error as Error).message}`);
        }
      });
    }),
    { numRuns: runs, endOnFailure: true },
  );
}
