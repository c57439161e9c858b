/** Every packed instruction, with MMX and XMM registers, against a model of its lanes; single results from the manuals. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { parseForm } from "../decode.ts";
import {
  CpuState,
  FLAG,
  OFF,
  RAX,
  RCX,
  RDI,
  RDX,
  ST_STRIDE,
} from "../state.ts";
import { PACKED_MODELS } from "../testing/packed_model.ts";
import {
  type Placement,
  REG,
  RM,
  SemanticHarness,
} from "../testing/semantic_harness.ts";
import { allDefinitions, type Definition } from "./define.ts";
import "./crypto.ts";
import "./mmx.ts";
import "./sse_integer.ts";
import "./sse_moves.ts";

const RUNS = 40;
/** Always the same in CI, where chance must not decide. */
const seed = Deno.env.get("CI") === "true"
  ? 1
  : Math.floor(Math.random() * 2 ** 31);
console.log(`packed instructions: fast-check seed ${seed}`);

const byte = fc.oneof(
  fc.constantFrom(0, 1, 0x7f, 0x80, 0xff),
  fc.nat(20),
  fc.nat(255),
);
const vector = fc.uint8Array({ minLength: 16, maxLength: 16 });
const edges = fc.array(byte, { minLength: 16, maxLength: 16 }).map((bytes) =>
  Uint8Array.from(bytes)
);
const count = fc.nat(70).map((n) =>
  Uint8Array.from([n, ...new Uint8Array(15)])
);
const operand = fc.oneof({ weight: 3, arbitrary: edges }, vector, count);

/** Where the register `index` of a kind is, and how long it is. */
function register(kind: "xmm" | "mmx", index: number): [number, number] {
  return kind === "xmm"
    ? [CpuState.xmm(index), 16]
    : [OFF.st + index * ST_STRIDE, 8];
}

/** Compares one form with its model. */
function check(definition: Definition, placement: Placement): void {
  const model = PACKED_MODELS[definition.name];
  const harness = new SemanticHarness();
  const run = harness.prepare(definition, placement);
  const { state } = harness;
  const form = parseForm(definition, 0);
  const kind = "PQN".includes(form.operands[0].letter) ? "mmx" : "xmm";
  const shiftByImmediate = form.extension >= 0 &&
    !definition.name.endsWith("dq");
  const target = form.extension >= 0 && !placement.same ? RM : REG;
  const [d, length] = register(kind, target);
  const [s] = register(kind, placement.same ? REG : RM);
  fc.assert(
    fc.property(
      operand,
      operand,
      operand,
      fc.oneof(fc.nat(255), fc.nat(20)),
      (a, b, xmm0, imm) => {
        state.b.set(xmm0, CpuState.xmm(0));
        if (!placement.memory) state.b.set(b.subarray(0, length), s);
        state.b.set(a.subarray(0, length), d);
        harness.memory.set(b);
        harness.immediate = imm;
        const before = a.slice(0, length);
        let source = placement.memory
          ? b.slice(0, length)
          : placement.same
          ? before
          : b.slice(0, length);
        if (shiftByImmediate) {
          source = Uint8Array.from([
            imm,
            ...new Uint8Array(15),
          ]);
        }
        const expected = state.b.slice();
        expected.set(model(before, source, imm, xmm0), d);
        if (kind === "mmx") expected.fill(0xff, d + 8, d + 10);
        run();
        assertEquals(state.b, expected);
        assertEquals(harness.memory.subarray(0, 16), b);
        assertEquals(harness.recordedFlags, undefined);
      },
    ),
    { numRuns: RUNS, seed },
  );
}

/** Names without a lane model: their own tests follow, and the host CPU test has them all. */
const OTHERS =
  /^(mov|maskmov|lddqu|pmovmskb|pinsr|pextr|insertps|extractps|ptest|pcmp[ei]str|crc32|popcnt|aes|pclmul|emms)/;

for (const definition of allDefinitions()) {
  if (PACKED_MODELS[definition.name] === undefined) {
    if (!OTHERS.test(definition.name)) {
      throw new Error(`${definition.name} has no model in packed_model.ts`);
    }
    continue;
  }
  Deno.test(`model: ${definition.name} ${definition.operands.join(", ")}`, () => {
    const { only } = parseForm(definition, 0);
    if (only !== "r") check(definition, { memory: true });
    if (only !== "m") check(definition, { memory: false });
    if (only !== "m") check(definition, { memory: false, same: true });
  });
}

// ---- single results ----

/** The declaration of a name with these operands. */
function find(name: string, operands: string): Definition {
  const found = allDefinitions().find((d) =>
    d.name === name && d.operands.join(", ") === operands
  );
  assert(found, `${name} ${operands} is not declared`);
  return found;
}

const hex = (bytes: Uint8Array) =>
  Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
const bytesOf = (text: string) =>
  Uint8Array.from(text.match(/../g)!, (pair) => parseInt(pair, 16));

/** The destination register after an instruction, all of it, in memory order. */
function result(
  name: string,
  operands: string,
  d: string,
  s: string,
  imm = 0,
  memory = false,
): string {
  const harness = new SemanticHarness();
  const run = harness.prepare(find(name, operands), { memory });
  const dst = operands[0], src = operands.split(", ")[1]?.[0] ?? "";
  const place = (letter: string, index: number) =>
    "GERZ".includes(letter)
      ? index * 8
      : "PQN".includes(letter)
      ? OFF.st + index * ST_STRIDE
      : CpuState.xmm(index);
  const index = (letter: string) => "VPG".includes(letter) ? REG : RM;
  const at = place(dst, index(dst));
  harness.state.b.set(bytesOf(d), at);
  if (memory) harness.memory.set(bytesOf(s));
  else harness.state.b.set(bytesOf(s), place(src, index(src)));
  harness.immediate = imm;
  run();
  const all = "GER".includes(dst) ? 8 : "PQN".includes(dst) ? 8 : 16;
  return memory && "MWE".includes(dst)
    ? hex(harness.memory.subarray(0, 16))
    : hex(harness.state.b.subarray(at, at + all));
}

const D = "000102030405060708090a0b0c0d0e0f",
  S = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

Deno.test("scalar loads clear the register, register moves keep it", () => {
  assertEquals(
    result("movss", "Vd, Md", D, S, 0, true),
    "f0f1f2f3" + "0".repeat(24),
  );
  assertEquals(result("movss", "Vd, Ud", D, S), "f0f1f2f3" + D.slice(8));
  assertEquals(
    result("movsd", "Vq, Mq", D, S, 0, true),
    S.slice(0, 16) + "0".repeat(16),
  );
  assertEquals(result("movsd", "Vq, Uq", D, S), S.slice(0, 16) + D.slice(16));
  assertEquals(result("movq", "Vq, Wq", D, S), S.slice(0, 16) + "0".repeat(16));
  assertEquals(result("movq", "Uq, Vq", D, S), S.slice(0, 16) + "0".repeat(16));
  assertEquals(result("movd", "Vy, Ey", D, S), S.slice(0, 8) + "0".repeat(24));
});

Deno.test("halves move", () => {
  assertEquals(result("movhlps", "Vq, Ux", D, S), S.slice(16) + D.slice(16));
  assertEquals(
    result("movlhps", "Vx, Uq", D, S),
    D.slice(0, 16) + S.slice(0, 16),
  );
  assertEquals(
    result("movlps", "Vq, Mq", D, S, 0, true),
    S.slice(0, 16) + D.slice(16),
  );
  assertEquals(
    result("movhpd", "Vx, Mq", D, S, 0, true),
    D.slice(0, 16) + S.slice(0, 16),
  );
});

Deno.test("elements are inserted and extracted", () => {
  assertEquals(
    result("pextrb", "Rd, Vx, Ib", "ffffffffffffffff", S, 0x13),
    "f3" + "0".repeat(14),
  );
  assertEquals(
    result("pextrw", "Gd, Ux, Ib", "ffffffffffffffff", S, 9),
    "f2f3" + "0".repeat(12),
  );
  assertEquals(
    result("extractps", "Ed, Vx, Ib", "ffffffffffffffff", S, 2),
    "f8f9fafb" + "0".repeat(8),
  );
  assertEquals(
    result("pextrq", "Eq, Vx, Ib", "ffffffffffffffff", S, 1),
    S.slice(16),
  );
  assertEquals(
    result("pinsrb", "Vx, Mb, Ib", D, S, 0x1f, true),
    D.slice(0, 30) + "f0",
  );
  assertEquals(
    result("pinsrw", "Vx, Mw, Ib", D, S, 2, true),
    "00010203f0f1" + D.slice(12),
  );
  assertEquals(
    result("pinsrd", "Vx, Ed, Ib", D, S, 3, true),
    D.slice(0, 24) + "f0f1f2f3",
  );
  assertEquals(
    result("pinsrw", "Pq, Mw, Ib", "0001020304050607", S, 7, true),
    "000102030405f0f1",
  );
  // Lane 2 of the source to lane 1, lanes 0 and 3 cleared.
  assertEquals(
    result("insertps", "Vx, Ux, Ib", D, S, 0x99),
    "00000000" + "f8f9fafb" + D.slice(16, 24) + "00000000",
  );
  assertEquals(
    result("insertps", "Vx, Md, Ib", D, S, 0xf0, true),
    D.slice(0, 24) + "f0f1f2f3",
  );
});

Deno.test("sign bits are gathered", () => {
  const signs = "80000000" + "00000080" + "000000ff" + "ffffff7f";
  assertEquals(
    result("movmskps", "Gd, Ux", "ffffffffffffffff", signs),
    "06" + "0".repeat(14),
  );
  assertEquals(
    result("movmskpd", "Gd, Ux", "ffffffffffffffff", signs),
    "01" + "0".repeat(14),
  );
  assertEquals(
    result("pmovmskb", "Gd, Ux", "ffffffffffffffff", signs),
    "8178" + "0".repeat(12),
  );
  assertEquals(
    result("pmovmskb", "Gd, Nq", "ffffffffffffffff", signs),
    "81" + "0".repeat(14),
  );
});

Deno.test("AES rounds give the examples of FIPS 197 and Intel's white paper", () => {
  // FIPS 197, appendix B, round 1: start of round xor key expansion.
  assertEquals(
    result(
      "aesenc",
      "Vx, Wx",
      "193de3bea0f4e22b9ac68d2ae9f84808",
      "a0fafe1788542cb123a339392a6c7605",
    ),
    "a49c7ff2689f352b6b5bea43026a5049",
  );
  // Gueron, "Intel AES New Instructions Set", figure 8 onwards, in memory order.
  const state = bytesOf("7b5b54657374566563746f725d53475d").reverse();
  const key = bytesOf("48692853686179295b477565726f6e5d").reverse();
  const expect = (text: string) => hex(bytesOf(text).reverse());
  const both = [hex(state), hex(key)] as const;
  assertEquals(
    result("aesenc", "Vx, Wx", ...both),
    expect("a8311c2f9fdba3c58b104b58ded7e595"),
  );
  assertEquals(
    result("aesenclast", "Vx, Wx", ...both),
    expect("c7fb881e938c5964177ec42553fdc611"),
  );
  assertEquals(
    result("aesdec", "Vx, Wx", ...both),
    expect("138ac342faea2787b58eb95eb730392a"),
  );
  assertEquals(
    result("aesdeclast", "Vx, Wx", ...both),
    expect("c5a391ef6b317f95d410637b72a593d0"),
  );
  // FIPS 197, appendix B, round 1: after and before MixColumns.
  assertEquals(
    result("aesimc", "Vx, Wx", D, "046681e5e0cb199a48f8d37a2806264c"),
    "d4bf5d30e0b452aeb84111f11e2798e5",
  );
  // FIPS 197, appendix A.1: w4 = w0 xor the turned word.
  assertEquals(
    result(
      "aeskeygenassist",
      "Vx, Wx, Ib",
      D,
      "2b7e151628aed2a6abf7158809cf4f3c",
      1,
    ).slice(24),
    "8b84eb01",
  );
});

Deno.test("PCLMULQDQ multiplies without carries", () => {
  fc.assert(
    fc.property(
      vector,
      vector,
      fc.constantFrom(0, 1, 0x10, 0x11, 0xee),
      (a, b, imm) => {
        const quad = (v: Uint8Array, high: number) =>
          new DataView(v.buffer).getBigUint64(high ? 8 : 0, true);
        const x = quad(a, imm & 1), y = quad(b, imm & 0x10);
        let product = 0n;
        for (let i = 0n; i < 64n; i++) if (y >> i & 1n) product ^= x << i;
        const expected = Uint8Array.from(
          { length: 16 },
          (_, i) => Number(product >> BigInt(8 * i) & 0xffn),
        );
        assertEquals(
          result("pclmulqdq", "Vx, Wx, Ib", hex(a), hex(b), imm),
          hex(expected),
        );
      },
    ),
    { numRuns: RUNS, seed },
  );
});

Deno.test("CRC32 of a check string, by every operand size", () => {
  const harness = new SemanticHarness();
  const steps = [
    {
      size: 1,
      run: harness.prepare(find("crc32", "Gd, Eb"), { memory: true }),
    },
    {
      size: 2,
      run: harness.prepare(find("crc32", "Gd, Ev"), { memory: true, size: 2 }),
    },
    {
      size: 4,
      run: harness.prepare(find("crc32", "Gd, Ev"), { memory: true, size: 4 }),
    },
    {
      size: 8,
      run: harness.prepare(find("crc32", "Gd, Ev"), { memory: true, size: 8 }),
    },
  ];
  const text = new TextEncoder().encode("123456789");
  for (const { size, run } of steps) {
    harness.state.setReg(RCX, 0xffffffffn);
    let at = 0;
    for (; at + size <= text.length; at += size) {
      harness.memory.set(text.subarray(at, at + size));
      run();
    }
    for (; at < text.length; at++) {
      harness.memory[0] = text[at];
      steps[0].run();
    }
    // The check value of CRC-32C in the catalogue of parametrised CRC algorithms.
    assertEquals(harness.state.reg(RCX) ^ 0xffffffffn, 0xe3069283n);
  }
});

Deno.test("POPCNT and PTEST set their flags", () => {
  const harness = new SemanticHarness();
  const popcnt = harness.prepare(find("popcnt", "Gv, Ev"), {
    memory: false,
    size: 8,
  });
  harness.state.setReg(RM, 0xf0f0_0000_0000_0001n);
  popcnt();
  assertEquals([harness.state.reg(REG), harness.recordedFlags], [9n, 0]);
  harness.state.setReg(RM, 0n);
  popcnt();
  assertEquals([harness.state.reg(REG), harness.recordedFlags], [0n, FLAG.ZF]);

  const ptest = harness.prepare(find("ptest", "Vx, Wx"), { memory: true });
  const flags = (d: number, s: number) => {
    harness.state.b.fill(d, CpuState.xmm(REG), CpuState.xmm(REG) + 16);
    harness.memory.fill(s);
    ptest();
    return harness.recordedFlags;
  };
  assertEquals(flags(0x0f, 0xf0), FLAG.ZF);
  assertEquals(flags(0x0f, 0x0f), FLAG.CF);
  assertEquals(flags(0x0f, 0x00), FLAG.ZF | FLAG.CF);
  assertEquals(flags(0x0f, 0x18), 0);
});

Deno.test("string comparison finds, ranges, equals and searches", () => {
  const text = (s: string) => hex(new TextEncoder().encode(s.padEnd(16, "\0")));
  const index = (first: string, second: string, control: number) =>
    Number(bigRegister(first, second, control) & 0xffffffffn);
  const bigRegister = (first: string, second: string, control: number) => {
    const harness = new SemanticHarness();
    harness.state.b.set(bytesOf(text(first)), CpuState.xmm(REG));
    harness.state.b.set(bytesOf(text(second)), CpuState.xmm(RM));
    harness.immediate = control;
    harness.prepare(find("pcmpistri", "Vx, Wu, Ib"), { memory: false })();
    return harness.state.reg(RCX);
  };
  assertEquals(index("xyz", "a quick lazy", 0x00), 10); // equal any
  assertEquals(index("09", "room 101", 0x04), 5); // ranges
  assertEquals(index("same", "sane", 0x18), 2); // equal each, negated: the first difference
  assertEquals(index("101", "room 101", 0x0c), 5); // equal ordered
  assertEquals(index("q", "nothing here", 0x00), 16);
  assertEquals(index("o", "room", 0x40), 2); // last

  const harness = new SemanticHarness();
  harness.state.setReg(RAX, BigInt.asUintN(64, -2n));
  harness.state.setReg(RDX, 100n);
  harness.state.b.set(bytesOf(text("oz")), CpuState.xmm(REG));
  harness.memory.set(bytesOf(text("zoo")));
  harness.immediate = 0x40;
  harness.prepare(find("pcmpestrm", "Vx, Wu, Ib"), { memory: true })();
  assertEquals(
    hex(harness.state.b.subarray(CpuState.xmm(0), CpuState.xmm(0) + 16)),
    "ffffff" + "0".repeat(26),
  );
  assertEquals(harness.recordedFlags, FLAG.CF | FLAG.SF | FLAG.OF);
});

Deno.test("MASKMOVDQU stores the chosen bytes alone", () => {
  const harness = new SemanticHarness();
  harness.state.setReg(RDI, 2n);
  harness.state.b.set(bytesOf(D), CpuState.xmm(REG));
  harness.state.b.set(bytesOf("80" + "7f".repeat(14) + "ff"), CpuState.xmm(RM));
  harness.memory.fill(0xaa);
  harness.prepare(find("maskmovdqu", "Vx, Ux"), { memory: false })();
  assertEquals(
    hex(harness.memory.subarray(0, 20)),
    "aaaa00" + "aa".repeat(14) + "0faaaa",
  );
});
