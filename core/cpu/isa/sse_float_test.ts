/**
 * Every SSE floating-point instruction against the host CPU: registers, MXCSR, EFLAGS and
 * unmasked exceptions, from registers and memory, by the fast and the exact path.
 */
import { assert, assertEquals } from "@std/assert";
import { type Form, parseForm } from "../decode.ts";
import { againstHost } from "../float/testdata/against_host.ts";
import type { HostResult } from "../float/testdata/host_fpu.ts";
import type { Operands } from "../float/testdata/operands.ts";
import {
  type Placement,
  REG,
  RM,
  SemanticHarness,
} from "../testing/semantic_harness.ts";
import { CpuState, CR4, GuestFault, OFF, ST_STRIDE, VECTOR } from "../state.ts";
import { allDefinitions } from "./define.ts";
import "./sse_float.ts";
import "./sse_convert.ts";

const SIGFPE = 8;
const ARITHMETIC_FLAGS = 0x8d5;
const RDI = 7;
/** Numbers of the MMX registers that stand for the harness's. */
const MMX_USED = 2;

/** Instruction bytes: registers are xmm0/rax/mm0 and xmm1/rax/mm1, memory is [rdi]. */
function encode(form: Form, placement: Placement, immediate: number): number[] {
  const bytes: number[] = [];
  if (form.prefix > 0) bytes.push(form.prefix);
  if (placement.size === 8) bytes.push(0x48);
  bytes.push(
    ...[[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]][form.map],
    form.opcode,
  );
  const general = form.operands.some((o) => o.letter === "E");
  const rm = general || placement.same ? 0 : 1;
  bytes.push(placement.memory ? RDI : 0xc0 | rm);
  if (form.operands.some((o) => o.letter === "I")) bytes.push(immediate);
  return bytes;
}

function placements(form: Form): Placement[] {
  const sizes = form.operands.some((o) => o.width === "y")
    ? [4, 8] as const
    : [4] as const;
  const general = form.operands.some((o) => o.letter === "E");
  const kinds: Placement[] = [{ memory: true }, { memory: false }];
  if (!general) kinds.push({ memory: false, same: true });
  return sizes.flatMap((size) => kinds.map((kind) => ({ ...kind, size })));
}

/** What the elements of a source are. */
function sourceKind(name: string): "f32" | "f64" | "i32" {
  if (/^cvt(si|dq|pi)2/.test(name)) return "i32";
  const converted = /^cvtt?(ps|ss|pd|sd)2/.exec(name)?.[1];
  return /[ps]s$/.test(converted ?? name) ? "f32" : "f64";
}

/** A number to compute with: often ordinary, so that both paths are taken. */
function element(o: Operands, kind: "f32" | "f64" | "i32"): bigint {
  if (kind === "i32") {
    return BigInt.asUintN(32, o.next() >> BigInt(o.below(40)));
  }
  const extreme = kind === "f32" ? o.f32() : o.f64();
  if (o.below(3) === 0) return extreme;
  const [fraction, bias, width] = kind === "f32"
    ? [23, 127, 32]
    : [52, 1023, 64];
  const range = o.pick([4, 40, 140]);
  const exponent = Math.min(
    Math.max(bias + o.below(range) - (range >> 1), 1),
    2 * bias,
  );
  // Often few bits, so that results are exact.
  const cleared = BigInt(o.below(2) ? 0 : o.below(fraction));
  const low = (BigInt.asUintN(fraction, o.next()) >> cleared) << cleared;
  return (BigInt(o.below(2)) << BigInt(width - 1)) |
    (BigInt(exponent) << BigInt(fraction)) | low;
}

/** A vector: sometimes ordinary numbers alone, so that the fast path of vectors is taken. */
function vector(o: Operands, kind: "f32" | "f64" | "i32"): bigint {
  const width = kind === "f64" ? 64 : 32;
  let bits = 0n;
  for (let at = 0; at < 128; at += width) {
    bits |= element(o, kind) << BigInt(at);
  }
  return bits;
}

function mxcsrValue(o: Operands): number {
  const masks = o.below(5) === 0 ? o.below(64) : 0x3f;
  const rounding = o.below(2) ? 0 : o.below(4);
  const flags = o.below(2) ? 0x20 : o.below(3) ? 0 : o.below(64);
  const modes = (o.below(5) === 0 ? 1 << 6 : 0) |
    (o.below(5) === 0 ? 1 << 15 : 0);
  return (masks << 7) | (rounding << 13) | flags | modes;
}

function setVector(s: CpuState, n: number, bits: bigint): void {
  s.set(CpuState.xmm(n), BigInt.asUintN(64, bits));
  s.set(CpuState.xmm(n) + 8, bits >> 64n);
}

function getVector(s: CpuState, n: number): bigint {
  return s.get(CpuState.xmm(n)) | (s.get(CpuState.xmm(n) + 8) << 64n);
}

function bytesOf(bits: bigint): Uint8Array {
  return Uint8Array.from(
    { length: 16 },
    (_, i) => Number((bits >> BigInt(i * 8)) & 0xffn),
  );
}

/** Whether each binary32 is within the documented error of an approximation of the host's. */
function approximates(actual: bigint, host: bigint): void {
  const view = new DataView(new ArrayBuffer(16));
  for (let at = 0n; at < 128n; at += 32n) {
    view.setUint32(0, Number((actual >> at) & 0xffffffffn));
    view.setUint32(4, Number((host >> at) & 0xffffffffn));
    const x = view.getFloat32(0), y = view.getFloat32(4);
    if (view.getUint32(0) === view.getUint32(4)) continue;
    // Both within 1.5 * 2^-12 of the truth; next to the smallest normal number one may be zero.
    const tiny = Math.abs(x) < 2 ** -125 && Math.abs(y) < 2 ** -125;
    assert(
      tiny || Math.abs(x - y) <= Math.abs(y) * 3 * 2 ** -12,
      `${x} for ${y}`,
    );
  }
}

const definitions = allDefinitions();
let fastPaths = 0, exactPaths = 0;

for (const [id, definition] of definitions.entries()) {
  const form = parseForm(definition, id);
  const { name } = definition;
  for (const placement of placements(form)) {
    const how = placement.memory
      ? "memory"
      : placement.same
      ? "same register"
      : "registers";
    const harness = new SemanticHarness();
    const run = harness.prepare(definition, placement);
    const title = `${name} ${how}${placement.size === 8 ? " REX.W" : ""}`;
    Deno.test(`sse ${title} agrees with the host`, () =>
      againstHost((o) => {
        const s = harness.state;
        const kind = sourceKind(name);
        const x = vector(o, kind === "i32" ? "f32" : kind);
        let y = placement.same ? x : o.below(8) === 0 ? x : vector(o, kind);
        if (form.operands.some((p) => p.letter === "E")) {
          y = o.next() >> BigInt(o.below(64));
        }
        const mxcsr = mxcsrValue(o);
        const immediate = name.startsWith("round") ? o.below(16) : o.below(256);
        harness.immediate = immediate;
        const mmx = Array.from(
          { length: 8 },
          () => ({ se: 0xffff, sig: o.next() }),
        );
        setVector(s, REG, x);
        if (!placement.same) setVector(s, RM, y);
        s.setReg(REG, 0n);
        s.setReg(RM, BigInt.asUintN(64, y));
        harness.memory.set(bytesOf(y));
        for (let i = 0; i < MMX_USED; i++) {
          s.set(OFF.st + (REG + i) * ST_STRIDE, mmx[i].sig);
          s.set32(OFF.st + (REG + i) * ST_STRIDE + 8, 0xffff);
        }
        s.set32(OFF.ftw, 0xff);
        s.set32(OFF.fsw, 0);
        s.set32(OFF.fcw, 0x37f);
        s.set32(OFF.mxcsr, mxcsr);
        s.set32(OFF.cr4, CR4.OSXMMEXCPT);
        const before = harness.fallbacks;
        let vectorNumber = -1;
        try {
          run();
        } catch (error) {
          if (!(error instanceof GuestFault)) throw error;
          vectorNumber = error.vector;
        }
        if (harness.fallbacks > before) exactPaths++;
        else fastPaths++;
        const mine = {
          xmm: getVector(s, REG),
          mxcsr: s.get32(OFF.mxcsr),
          gpr: s.reg(REG),
          mmx: s.get(OFF.st + REG * ST_STRIDE),
          flags: harness.recordedFlags,
        };
        return {
          host: {
            code: encode(form, placement, immediate),
            st: mmx,
            xmm0: x,
            xmm1: y,
            memory: bytesOf(y),
            mxcsr,
            rax: form.operands.some((p) => p.letter === "E")
              ? BigInt.asUintN(64, y)
              : 0n,
          },
          text:
            `${title} ${x.toString(16)} ${y.toString(16)} mxcsr=${
              mxcsr.toString(16)
            } ` +
            `imm=${immediate}`,
          verify: (result) => verify(name, form, mine, vectorNumber, result),
        };
      }, 1));
  }
}

interface Mine {
  readonly xmm: bigint;
  readonly mxcsr: number;
  readonly gpr: bigint;
  readonly mmx: bigint;
  readonly flags: number | undefined;
}

function verify(
  name: string,
  form: Form,
  mine: Mine,
  vectorNumber: number,
  result: HostResult,
): void {
  assertEquals(result.signal, vectorNumber === -1 ? 0 : SIGFPE, "signal");
  assertEquals(mine.mxcsr.toString(16), result.mxcsr.toString(16), "MXCSR");
  if (vectorNumber !== -1) {
    assertEquals(vectorNumber, VECTOR.XM);
    return;
  }
  if (/^r(cp|sqrt)/.test(name)) return approximates(mine.xmm, result.xmm0);
  assertEquals(mine.xmm.toString(16), result.xmm0.toString(16), "XMM");
  if (form.operands[0].letter === "G") {
    assertEquals(mine.gpr.toString(16), result.rax.toString(16), "register");
  }
  if (form.operands[0].letter === "P") {
    assertEquals(mine.mmx.toString(16), result.st[0].sig.toString(16), "MMX");
  }
  if (mine.flags !== undefined) {
    assertEquals(mine.flags, result.rflags & ARITHMETIC_FLAGS, "flags");
  }
}

Deno.test("sse tests took the fast and the exact path", () => {
  if (fastPaths + exactPaths === 0) return; // no host to compare with
  assert(fastPaths > 1000, `only ${fastPaths} fast`);
  assert(exactPaths > 1000, `only ${exactPaths} exact`);
});

Deno.test("sse raises #UD for an unmasked exception that the system does not expect", () => {
  const definition = definitions.find((d) => d.name === "divsd")!;
  const harness = new SemanticHarness();
  const run = harness.prepare(definition, { memory: false });
  harness.state.set32(OFF.mxcsr, 0);
  harness.state.set32(OFF.cr4, 0);
  let fault: unknown;
  try {
    run();
  } catch (error) {
    fault = error;
  }
  assert(fault instanceof GuestFault);
  assertEquals(fault.vector, VECTOR.UD);
  assertEquals(harness.state.get32(OFF.mxcsr), 1);
});

/** Bits of a double in the low half of a vector. */
function double(value: number): bigint {
  return new BigUint64Array(new Float64Array([value]).buffer)[0];
}

Deno.test("sse takes the fast path for ordinary numbers, exact results without PE included", () => {
  for (
    const [name, x, y, mxcsr] of [
      ["addsd", 1, 2, 0x1f80],
      ["addsd", 0.1, 0.2, 0x1fa0],
      ["addsd", 0, 0.2, 0x1fa0],
      ["subsd", 3, 3, 0x1f80],
      ["mulsd", 1.5, 3, 0x1f80],
      ["mulsd", 0, 3.1, 0x1f80],
      ["mulsd", 0.1, 3.1, 0x1fa0],
      ["divsd", 6, 3, 0x1f80],
      ["divsd", 1, 3, 0x1fa0],
      ["sqrtsd", 0, 9, 0x1f80],
      ["ucomisd", -1, 0, 0x1f80],
      ["cvttsd2si", 0, 7, 0x1f80],
      ["cvttsd2si", 0, 7.5, 0x1fa0],
    ] as const
  ) {
    const harness = new SemanticHarness();
    const definition = definitions.find((d) => d.name === name)!;
    const run = harness.prepare(definition, { memory: false });
    setVector(harness.state, REG, double(x));
    setVector(harness.state, RM, double(y));
    harness.state.set32(OFF.mxcsr, mxcsr);
    run();
    assertEquals(harness.fallbacks, 0, `${name} ${x} ${y}`);
    assertEquals(harness.state.get32(OFF.mxcsr), mxcsr);
  }
});
