// For the tests of qcow2 images: qemu-img as the reference, and random requests against an array.

import { Buffer } from "node:buffer";
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { BlockImage } from "../types.ts";

/** Runs qemu-img; fails with what it said if it fails. */
export async function qemuImg(...args: string[]): Promise<string> {
  return await run("qemu-img", args);
}

/** Runs qemu-io commands on an image. */
export async function qemuIo(
  path: string,
  ...commands: string[]
): Promise<string> {
  return await run("qemu-io", [
    "-f",
    "qcow2",
    ...commands.flatMap((command) => ["-c", command]),
    path,
  ]);
}

async function run(program: string, args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args })
    .output();
  const text = new TextDecoder();
  if (!success) {
    throw new Error(
      `${program} ${args.join(" ")}: ${text.decode(stdout)}${
        text.decode(stderr)
      }`,
    );
  }
  return text.decode(stdout);
}

/** What `qemu-img check` finds. */
export interface CheckResult {
  errors: number;
  leaks: number;
}

/** Checks an image with qemu-img. */
export async function check(path: string): Promise<CheckResult> {
  const { stdout, stderr } = await new Deno.Command("qemu-img", {
    args: ["check", "-f", "qcow2", "--output=json", path],
  }).output();
  const text = new TextDecoder().decode(stdout);
  try {
    const result = JSON.parse(text);
    return {
      errors: (result.corruptions ?? 0) + (result["check-errors"] ?? 0),
      leaks: result.leaks ?? 0,
    };
  } catch {
    throw new Error(
      `qemu-img check: ${text}${new TextDecoder().decode(stderr)}`,
    );
  }
}

/** Checks that qemu-img finds nothing wrong with an image. */
export async function assertClean(path: string): Promise<void> {
  assertEquals(await check(path), { errors: 0, leaks: 0 });
}

/** Calls `body` with the path of a new folder. */
export async function withFolder(
  body: (folder: string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "diapause-qcow2-" });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Bytes that look random, the same for the same seed. */
export function noise(length: number, seed: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = seed * 2654435761 | 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return new Uint8Array(words.buffer, 0, length);
}

/** A change of a disk, in sectors. */
export interface Change {
  kind: "write" | "discard" | "zero" | "unmap" | "flush";
  sector: number;
  sectors: number;
  seed: number;
}

/**
 * Random changes of a disk.
 *
 * @param sectors Sectors of the disk.
 * @param longest Sectors of a change at most.
 */
export function changes(
  sectors: number,
  longest: number,
): fc.Arbitrary<Change> {
  return fc.record({
    kind: fc.constantFrom(
      "write" as const,
      "write" as const,
      "write" as const,
      "discard" as const,
      "zero" as const,
      "unmap" as const,
      "flush" as const,
    ),
    sector: fc.nat(sectors - 1),
    sectors: fc.integer({ min: 1, max: longest }),
    seed: fc.nat(),
  }).map((change) => ({
    ...change,
    sectors: Math.min(change.sectors, sectors - change.sector),
  }));
}

/**
 * Does a change to an image, and to the bytes that it should have.
 *
 * @param disk The image.
 * @param model Its bytes.
 * @param change The change.
 */
export async function apply(
  disk: BlockImage,
  model: Uint8Array,
  { kind, sector, sectors, seed }: Change,
): Promise<void> {
  const start = sector * 512;
  const length = sectors * 512;
  const part = model.subarray(start, start + length);
  switch (kind) {
    case "write": {
      const bytes = noise(length, seed);
      part.set(bytes);
      return await disk.write(start, bytes);
    }
    case "zero":
    case "unmap":
      part.fill(0);
      return await disk.writeZeroes(start, length, kind === "unmap");
    case "discard":
      await disk.discard(start, length);
      // What it reads as then is the image's choice.
      return await disk.read(start, part);
    case "flush":
      return await disk.flush();
  }
}

/** Does changes at the same time, as far as they do not touch the same sectors. */
export async function applyAtOnce(
  disk: BlockImage,
  model: Uint8Array,
  batch: readonly Change[],
): Promise<void> {
  const taken = new Set<number>();
  await Promise.all(batch.map((change) => {
    const { sector, sectors } = change;
    const touched = Array.from({ length: sectors }, (_, i) => sector + i);
    if (touched.some((sector) => taken.has(sector))) return;
    for (const sector of touched) taken.add(sector);
    return apply(disk, model, change);
  }));
}

/** All bytes of a disk, read in pieces of a size that divides no cluster. */
export async function readAll(disk: BlockImage): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size);
  const piece = 7 * 512 * 11;
  for (let at = 0; at < disk.size; at += piece) {
    await disk.read(at, bytes.subarray(at, at + piece));
  }
  return bytes;
}

/** Whether two arrays have the same bytes; without the difference, which would be long. */
export function assertSame(actual: Uint8Array, expected: Uint8Array): void {
  assertEquals(actual.length, expected.length);
  if (Buffer.compare(actual, expected) === 0) return;
  const at = actual.findIndex((byte, i) => byte !== expected[i]);
  throw new Error(
    `byte ${at} (sector ${at >> 9}) is ${actual[at]}: expected ${expected[at]}`,
  );
}
