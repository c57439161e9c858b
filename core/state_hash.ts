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
import { toJson } from "../snapshot/schema.ts";

/** RAM is hashed in parts of this many bytes: the digest takes a buffer as a whole. */
const CHUNK = 16 << 20;
const DIGEST_BYTES = 32;

async function sha256(bytes: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(
    await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>),
  );
}

/**
 * Hashes a machine that does not run. Every component is its schema's JSON form, in the order of
 * its declaration; guest RAM is the hashes of its parts of 16 MiB.
 *
 * @param machine The machine.
 * @returns SHA-256 in hexadecimal.
 */
export async function hashMachine(machine: Machine): Promise<string> {
  const { memory } = machine;
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
  const chunks = Math.ceil(memory.ram / CHUNK);
  const all = new Uint8Array(states.length + chunks * DIGEST_BYTES);
  all.set(states);
  for (let i = 0; i < chunks; i++) {
    const from = memory.ramBase + i * CHUNK;
    const to = memory.ramBase + Math.min(memory.ram, (i + 1) * CHUNK);
    all.set(
      await sha256(memory.bytes.subarray(from, to)),
      states.length + i * DIGEST_BYTES,
    );
  }
  const digest = await sha256(all);
  return Array.from(digest, (b) => b.toString(16).padStart(2, "0")).join("");
}
