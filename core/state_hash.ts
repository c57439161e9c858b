/**
 * The state hash: SHA-256 over everything that a guest could tell apart, for comparing runs.
 *
 * @module
 */
import { irqSchema } from "./bus/irq.ts";
import { pciSchema } from "./bus/pci.ts";
import { clockSchema } from "./clock.ts";
import { cpuSchema, saveCpu } from "./cpu/saved.ts";
import type { Machine } from "./machine.ts";
import { PAGE_SIZE } from "./memory/memory.ts";
import type { BackendContent } from "./plugin.ts";
import { toJson } from "../snapshot/schema.ts";

/** RAM is hashed in parts of this many bytes: the digest takes a buffer as a whole. */
const CHUNK = 16 << 20;
const DIGEST_BYTES = 32;

async function sha256(bytes: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(
    await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>),
  );
}

/**
 * Hashes a machine that does not run. Every component is its schema's JSON form, in the order of
 * its declaration; guest RAM is the hashes of its parts of 16 MiB, a disk in memory those of its
 * pages that are not zero.
 *
 * @param machine The machine.
 * @returns SHA-256 in hexadecimal.
 */
export async function hashMachine(machine: Machine): Promise<string> {
  const { memory } = machine;
  memory.loader?.loadRest();
  const components: [string, unknown][] = [
    ["cpu0", cpuSchema.validate(saveCpu(machine.cpu))],
    ["clock", clockSchema.validate(machine.clock.save())],
    ["irq", irqSchema.validate(machine.interrupts.save())],
    ["pci", pciSchema.validate(machine.pci.save())],
    ...machine.devices.map((device): [string, unknown] => [
      device.owner.id,
      device.save(),
    ]),
  ];
  const states = new TextEncoder().encode(
    JSON.stringify(components.map(([id, state]) => [id, toJson(state)])),
  );
  const parts: Uint8Array[] = [states];
  const ram = memory.ramBytes;
  for (let at = 0; at < ram.length; at += CHUNK) {
    parts.push(await sha256(ram.subarray(at, at + CHUNK)));
  }
  for (const { content } of machine.contents) {
    parts.push(await hashContent(content));
  }
  return (await sha256(joined(parts))).toHex();
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Hashes a disk: each page that is not zero after its number, a part at a time, each after the hash of the one before. */
async function hashContent(content: BackendContent): Promise<Uint8Array> {
  const frozen = content.freeze();
  try {
    let digest = new Uint8Array(DIGEST_BYTES);
    let parts: Uint8Array[] = [];
    const pages = Math.ceil(frozen.bytes / PAGE_SIZE);
    for (let index = 0; index < pages; index++) {
      const page = frozen.page(index);
      if (page !== undefined) {
        parts.push(new Uint8Array(Uint32Array.of(index).buffer), page);
      }
      if (parts.length >= CHUNK / PAGE_SIZE || index === pages - 1) {
        digest = await sha256(joined([digest, ...parts]));
        parts = [];
      }
    }
    return digest;
  } finally {
    frozen.release();
  }
}
