/**
 * Every MMX, packed integer, move, AES and string instruction against the host CPU: registers, memory and flags after each
 * form, with register, memory and equal operands.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { type Form, parseForm } from "../decode.ts";
import { CpuState, OFF, RDI, ST_STRIDE } from "../state.ts";
import {
  HostContext,
  HostCpu,
  hostCpu,
  runOnHost,
} from "../testing/host_cpu.ts";
import {
  type Placement,
  REG,
  RM,
  SemanticHarness,
} from "../testing/semantic_harness.ts";
import { allDefinitions } from "./define.ts";
import "./crypto.ts";
import "./mmx.ts";
import "./sse_integer.ts";
import "./sse_moves.ts";

/** ModRM.rm of the memory operand: [rbx]. */
const RBX = 3, RSP = 4;
const RUNS = 40;
const MEMORY = 32;
const XMM_USED = 3;
const unavailable = HostCpu.unavailable();
if (unavailable !== null) console.log(`skipped: ${unavailable}`);

/** Instruction bytes of a form. */
function encode(
  form: Form,
  placement: Placement,
  immediate: number,
): Uint8Array {
  const size = placement.size ?? 4;
  const bytes: number[] = [];
  if (size === 2) bytes.push(0x66);
  if (form.prefix > 0) bytes.push(form.prefix);
  if (size === 8 || form.w === 1) bytes.push(0x48);
  bytes.push(
    ...[[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]][form.map],
    form.opcode,
  );
  if (form.extension !== -2) {
    const reg = form.extension >= 0 ? form.extension : REG;
    bytes.push(
      placement.memory
        ? reg << 3 | RBX
        : 0xc0 | reg << 3 | (placement.same ? REG : RM),
    );
  }
  if (form.operands.some((o) => o.letter === "I")) bytes.push(immediate);
  return Uint8Array.from(bytes);
}

/** The placements that make sense for a form. */
function placements(form: Form): Placement[] {
  const sizes: (2 | 4 | 8)[] = form.operands.some((o) => o.width === "v")
    ? [2, 4, 8]
    : form.operands.some((o) => o.width === "y") ||
        form.definition.name.startsWith("pcmpestr")
    ? [4, 8]
    : [4];
  const kinds: Placement[] = [];
  if (form.only !== "r") kinds.push({ memory: true });
  if (form.only !== "m") {
    kinds.push({ memory: false }, { memory: false, same: true });
  }
  return sizes.flatMap((size) => kinds.map((kind) => ({ ...kind, size })));
}

const byte = fc.oneof(
  fc.constantFrom(0, 1, 0x7f, 0x80, 0xff),
  fc.nat(15),
  fc.nat(255),
);
const vector = fc.oneof(
  { weight: 4, arbitrary: fc.array(byte, { minLength: 16, maxLength: 16 }) },
  // A small count, and the same small number in every byte.
  {
    weight: 1,
    arbitrary: fc.nat(70).map((n) => [n, ...new Array<number>(15).fill(0)]),
  },
  {
    weight: 1,
    arbitrary: fc.nat(255).map((n) => new Array<number>(16).fill(n)),
  },
);

const inputs = fc.record({
  xmm: fc.array(vector, { minLength: XMM_USED, maxLength: XMM_USED }),
  mmx: fc.array(vector, { minLength: 2, maxLength: 2 }),
  memory: fc.tuple(vector, vector).map(([a, b]) => [...a, ...b]),
  gpr: fc.array(fc.oneof(fc.bigInt(0n, (1n << 64n) - 1n), fc.bigInt(0n, 20n)), {
    minLength: 3,
    maxLength: 3,
  }),
  immediate: fc.oneof(fc.nat(255), fc.nat(20)),
});

for (const [id, definition] of allDefinitions().entries()) {
  const form = parseForm(definition, id);
  const title = `host CPU: ${definition.name} ${
    definition.operands.join(", ")
  } (${definition.encoding})`;
  Deno.test({
    name: title,
    ignore: unavailable !== null,
    fn: () => {
      for (const placement of placements(form)) compare(form, placement);
    },
  });
}

/** Runs random inputs through both. */
function compare(form: Form, placement: Placement): void {
  const harness = new SemanticHarness();
  const run = harness.prepare(form.definition, placement);
  const { state } = harness;
  const host = hostCpu();
  const usesFlags = ["ptest", "popcnt"].includes(form.definition.name) ||
    form.definition.name.startsWith("pcmp");
  fc.assert(
    fc.property(inputs, (input) => {
      const context = new HostContext();
      for (let i = 0; i < XMM_USED; i++) {
        context.xmm(i).set(input.xmm[i]);
        state.b.set(input.xmm[i], CpuState.xmm(i));
      }
      for (const [i, bytes] of input.mmx.entries()) {
        context.st(REG + i).set(bytes.slice(0, 10));
        state.b.set(bytes.slice(0, 10), OFF.st + (REG + i) * ST_STRIDE);
      }
      input.gpr.forEach((value, i) => {
        context.setGpr(i, value);
        state.setReg(i, value);
      });
      context.setGpr(RBX, BigInt(host.scratchAddress));
      context.setGpr(RDI, BigInt(host.scratchAddress));
      state.setReg(RDI, BigInt(host.scratchAddress));
      context.setGpr(RSP, BigInt(host.scratchAddress + 0x8000));
      host.scratch.set(input.memory);
      harness.memory.set(input.memory);
      harness.immediate = input.immediate;

      run();
      runOnHost(encode(form, placement, input.immediate), context);

      const mine = {
        xmm: input.xmm.map((
          _,
          i,
        ) => [...state.b.subarray(CpuState.xmm(i), CpuState.xmm(i) + 16)]),
        mmx: input.mmx.map((_, i) => {
          const at = OFF.st + (REG + i) * ST_STRIDE;
          return [...state.b.subarray(at, at + 10)];
        }),
        gpr: input.gpr.map((_, i) => state.reg(i)),
        memory: [...harness.memory],
        flags: harness.recordedFlags ?? 0,
      };
      const theirs = {
        xmm: input.xmm.map((_, i) => [...context.xmm(i)]),
        mmx: input.mmx.map((_, i) => [...context.st(REG + i)]),
        gpr: input.gpr.map((_, i) => context.gpr(i)),
        memory: [...host.scratch.subarray(0, MEMORY)],
        flags: usesFlags ? Number(context.rflags & 0x8d5n) : 0,
      };
      assertEquals(
        mine,
        theirs,
        `${form.definition.name} ${JSON.stringify(placement)}`,
      );
    }),
    { numRuns: RUNS },
  );
}
