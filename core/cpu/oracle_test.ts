/**
 * Every declared user-mode form against the host's CPU (ENGINE.md section 5).
 *
 * `DIAPAUSE_ORACLE` is the number of instances, `DIAPAUSE_ORACLE_SEED` the seed, `DIAPAUSE_ORACLE_FORM` a mnemonic to check alone.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { Disassembler } from "./testing/capstone.ts";
import { HostContext, HostCpu } from "./testing/host_cpu.ts";
import { RAX, RCX } from "./state.ts";
import { type Mismatch, Oracle } from "./testing/oracle.ts";

/** CPUID.1:ECX bits of what is checked: SSE3, PCLMULQDQ, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES. */
const FEATURES = [0, 1, 9, 13, 19, 20, 22, 23, 25];

/** Why the test cannot run here, or null. */
function reasonToSkip(): string | null {
  const reason = HostCpu.unavailable();
  if (reason !== null) return reason;
  using host = HostCpu.open();
  const context = new HostContext();
  context.setGpr(RAX, 1n);
  host.run(Uint8Array.of(0x0f, 0xa2), context); // cpuid
  const missing = FEATURES.filter((bit) =>
    ((context.gpr(RCX) >> BigInt(bit)) & 1n) === 0n
  );
  return missing.length === 0
    ? null
    : `this host's CPU lacks the features of CPUID.1:ECX bits ${missing}`;
}

const unavailable = reasonToSkip();
if (unavailable !== null) console.log(`oracle: skipped, ${unavailable}`);

/** The same instances in every run; other seeds look further. */
const DEFAULT_SEED = 20261121;
const DEFAULT_INSTANCES = 60_000;
const CI_INSTANCES = 2_000_000;
/** Mismatches printed in full. */
const SHOWN = 12;
/** Instances of one form that may fault before another form's turn. */
const MAX_FAULTS = 200;

function describe(mismatch: Mismatch, disassembler: Disassembler): string {
  const { instance: { form, bytes } } = mismatch;
  const { definition } = form;
  return [
    `${[...bytes].map((b) => b.toString(16).padStart(2, "0")).join(" ")}   ${
      disassembler.text(bytes)
    }`,
    `  form: ${definition.name} "${definition.encoding}" "${
      definition.operands.join(", ")
    }"`,
    ...mismatch.inputs.map((line) => `  ${line}`),
    ...mismatch.differences.map((line) => `  DIFFERS ${line}`),
  ].join("\n");
}

Deno.test({
  name: "the emulator does what the host's CPU does",
  ignore: unavailable !== null,
}, async () => {
  const seed = Number(
    Deno.env.get("DIAPAUSE_ORACLE_SEED") ?? DEFAULT_SEED,
  );
  const instances = Number(
    Deno.env.get("DIAPAUSE_ORACLE") ??
      (Deno.env.get("CI") === "true" ? CI_INSTANCES : DEFAULT_INSTANCES),
  );
  const only = Deno.env.get("DIAPAUSE_ORACLE_FORM");
  using host = HostCpu.open();
  const disassembler = await Disassembler.open();
  const oracle = new Oracle(host, seed);
  const forms = oracle.forms.filter((form) =>
    only === undefined || form.definition.name === only
  );
  const compared = new Map<number, number>();
  const failures = new Map<number, Mismatch[]>();
  let total = 0, faults = 0;
  while (total < instances) {
    for (const form of forms) {
      let tries = 0;
      for (;;) {
        const outcome = oracle.run(form);
        if (outcome === "faulted") {
          faults++;
          if (++tries < MAX_FAULTS) continue;
          break;
        }
        total++;
        compared.set(form.id, (compared.get(form.id) ?? 0) + 1);
        if (outcome !== "equal") {
          const list = failures.get(form.id) ?? [];
          list.push(outcome);
          failures.set(form.id, list);
        }
        break;
      }
    }
    if (compared.size === 0) break;
  }
  console.log(
    `oracle: ${total} instances over ${compared.size} forms, seed ${seed} (${faults} more faulted)`,
  );
  const missing = forms.filter((form) => !compared.has(form.id)).map((form) =>
    `${form.definition.name} "${form.definition.encoding}"`
  );
  assertEquals(missing, [], "forms of which every instance faulted");
  if (failures.size === 0) return;
  const summary = [...failures.values()].map((list) => {
    const { definition, id } = list[0].instance.form;
    return `${definition.name} "${definition.encoding}": ${list.length} of ${
      compared.get(id)
    } instances`;
  });
  const shown = [...failures.values()].slice(0, SHOWN).map((list) =>
    describe(list[0], disassembler)
  );
  throw new Error(
    `seed ${seed}\n\n${shown.join("\n\n")}\n\n${summary.join("\n")}`,
  );
});
