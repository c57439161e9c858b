// `--trace`: which events are logged, and where the lines go.

import { didYouMean } from "../core/nearest.ts";
import { Batch } from "../host/chardev/queues.ts";
import { CliError, reason, UsageError } from "./errors.ts";
import { TRACE_KINDS } from "./run.ts";

/** A kind of event. */
export type TraceKind = typeof TRACE_KINDS[number];

/**
 * Parses the values of `--trace`.
 *
 * @param texts Kinds with commas between them, each as given.
 * @returns The kinds, each once.
 * @throws {UsageError} If one is unknown.
 */
export function parseTraceKinds(texts: readonly string[]): Set<TraceKind> {
  const kinds = new Set<TraceKind>();
  for (const name of texts.flatMap((text) => text.split(","))) {
    const kind = TRACE_KINDS.find((kind) => kind === name);
    if (kind === undefined) {
      throw new UsageError(
        `unknown trace "${name}": expected ${TRACE_KINDS.join(", ")}.${
          didYouMean(name, TRACE_KINDS)
        }`,
      );
    }
    kinds.add(kind);
  }
  return kinds;
}

/** Where trace lines go. */
export interface TraceLog {
  /** For each kind that is wanted, what takes its lines. */
  sinks: Partial<Record<TraceKind, (line: string) => void>>;
  /** Writes the rest. */
  close(): void;
}

/**
 * Opens the trace.
 *
 * @param kinds What to log.
 * @param path The file; standard error without it.
 * @returns The log.
 * @throws {CliError} If the file cannot be written.
 */
export function openTrace(
  kinds: ReadonlySet<TraceKind>,
  path: string | undefined,
): TraceLog {
  if (kinds.size === 0) return { sinks: {}, close() {} };
  let file: Deno.FsFile | undefined;
  try {
    if (path !== undefined) {
      file = Deno.openSync(path, { write: true, create: true, truncate: true });
    }
  } catch (cause) {
    throw new CliError(
      `cannot write trace file "${path}": ${reason(cause)}`,
      undefined,
      { cause },
    );
  }
  const out = file ?? Deno.stderr;
  const batch = new Batch((bytes) => {
    for (let offset = 0; offset < bytes.length;) {
      offset += out.writeSync(bytes.subarray(offset));
    }
  });
  const encoder = new TextEncoder();
  const sinks: TraceLog["sinks"] = {};
  for (const kind of kinds) {
    sinks[kind] = (line) => batch.push(encoder.encode(`${kind}: ${line}\n`));
  }
  return {
    sinks,
    close() {
      batch.flush();
      file?.close();
    },
  };
}
