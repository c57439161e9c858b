// `check`: everything that is in the way of restoring a snapshot, found without doing it.

import { Command } from "@cliffy/command";
import { Boot } from "./boot.ts";
import { EXIT_DONE, EXIT_FAILED, reason } from "./errors.ts";
import type { BootChoice } from "./guest.ts";
import {
  openSnapshot,
  planSnapshot,
  type RestoreChanges,
} from "./snapshots.ts";

/** What was found out about a snapshot. */
export interface CheckResult {
  /** What is in the way of a restore. */
  blockers: string[];
  /** What would be in the way of booting again, should the guest reset. */
  notes: string[];
  /** What the user should know of the images. */
  remarks: string[];
}

/**
 * Looks for everything that is in the way of restoring a snapshot: also reads all of it.
 *
 * @param path The snapshot.
 * @param changes What is to be other than it was.
 * @returns What was found.
 */
export async function checkSnapshot(
  path: string,
  changes: RestoreChanges & BootChoice,
): Promise<CheckResult> {
  const blockers: string[] = [];
  const notes: string[] = [];
  const remarks: string[] = [];
  const attempt = async (lines: string[], what: () => unknown) => {
    try {
      await what();
    } catch (error) {
      lines.push(reason(error));
    }
  };
  await attempt(blockers, async () => {
    const { reader, close } = await openSnapshot(path);
    try {
      const plan = await planSnapshot(reader, path, changes);
      blockers.push(...plan.blockers);
      remarks.push(...plan.notes);
      await attempt(blockers, async () => {
        for (const region of reader.regions) {
          await reader.readBlocks(region, () => {});
        }
      });
      let boot: Boot | undefined;
      await attempt(blockers, () => {
        boot = Boot.restore(reader, changes, (line) => notes.push(line));
      });
      if (boot?.exec === undefined) {
        await attempt(notes, () => boot?.load());
      }
    } finally {
      close();
    }
  });
  return { blockers, notes, remarks };
}

/**
 * Prints what was found.
 *
 * @param path The snapshot.
 * @param result What was found.
 * @returns The exit code.
 */
export function reportCheck(
  path: string,
  { blockers, notes, remarks }: CheckResult,
): number {
  for (const line of blockers) console.error(`diapause: ${line}`);
  for (const line of remarks) console.error(`diapause: ${line}`);
  for (const line of notes) console.error(`diapause: after a reset: ${line}`);
  if (blockers.length > 0) return EXIT_FAILED;
  console.log(`${path}: can be restored`);
  return EXIT_DONE;
}

/**
 * Makes the command.
 *
 * @param setExitCode Takes 1 when something is in the way of a restore.
 * @returns The command `check`.
 */
export function checkCommand(setExitCode: (code: number) => void) {
  return new Command()
    .description("List everything that is in the way of restoring a snapshot.")
    .arguments("<file:file>")
    .option(
      "--dev <spec:string>",
      "Backends, ID:key=value…; or another plugin, NAME@VERSION or NAME@PATH.",
      { collect: true },
    )
    .option("--replace <change:string>", "Another plugin: ID=SPEC.", {
      collect: true,
    })
    .action(async ({ dev, replace }, file) => {
      setExitCode(
        reportCheck(file, await checkSnapshot(file, { dev, replace })),
      );
    });
}
