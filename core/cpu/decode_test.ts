/**
 * The decoder against Capstone (ENGINE.md section 5): wherever both decode, the lengths agree; and every declared form is found
 * by its own encoding.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { Decoder, MAX_LENGTH } from "./decode.ts";
import "./isa/all.ts";
import { Disassembler } from "./testing/capstone.ts";
import { encode } from "./testing/encode.ts";
import { Random } from "./testing/random.ts";
import { VECTOR } from "./state.ts";

const decoder = new Decoder();

function hex(bytes: Uint8Array): string {
  return [...bytes].map((b) => b.toString(16).padStart(2, "0")).join(" ");
}

/** Decodes at `at`: the length, or 0. */
function length(code: Uint8Array, at: number, mode: 16 | 32 | 64): number {
  const insn = decoder.decode(code, at, code.length, mode);
  return insn === "more" || "vector" in insn ? 0 : insn.length;
}

/** Capstone leaves out the ModRM byte that these have (Intel SDM vol. 2, UD). */
const SHORTER_IN_CAPSTONE = new Set(["ud0", "ud1"]);

/**
 * A near branch with the prefix 66 in 64-bit code: Capstone takes it as AMD's processors do, with a 2-byte displacement; Intel's ignore
 * the prefix (SDM vol. 2, JMP).
 */
function isShortBranch(code: Uint8Array, mnemonic: string): boolean {
  return /^(j|call|loop|xbegin)/.test(mnemonic) &&
    code.subarray(0, 4).includes(0x66);
}

for (const mode of [16, 32, 64] as const) {
  Deno.test(`Decoder agrees with Capstone about the length of random bytes in ${mode}-bit code`, async () => {
    const disassembler = await Disassembler.open(mode);
    const random = new Random(mode);
    const code = new Uint8Array(16);
    const differences: string[] = [];
    let both = 0;
    for (let i = 0; i < 60_000; i++) {
      for (let j = 0; j < code.length; j++) code[j] = random.u32();
      if (random.oneIn(2)) code[random.below(2)] = 0x0f;
      const mine = length(code, 0, mode);
      if (mine === 0) continue;
      const theirs = disassembler.first(code);
      if (theirs === undefined) continue;
      if (
        SHORTER_IN_CAPSTONE.has(theirs.mnemonic) ||
        (mode === 64 && isShortBranch(code, theirs.mnemonic))
      ) continue;
      both++;
      if (theirs.size !== mine) {
        differences.push(
          `${
            hex(code)
          }: ${mine}, Capstone ${theirs.size} ${theirs.mnemonic} ${theirs.op_str}`,
        );
      }
    }
    assertEquals(differences.slice(0, 40), []);
    if (both < 20_000) {
      throw new Error(`only ${both} instances decoded by both`);
    }
  });
}

/** Programs of the host to sweep, the first two that exist. */
const PROGRAMS = [
  "/bin/busybox",
  "/bin/bash",
  "/usr/lib/x86_64-linux-gnu/libc.so.6",
  "/lib64/libc.so.6",
];
/** Most bytes swept of one program. */
const SWEEP = 400_000;
/** VEX, EVEX and XOP: extensions that the CPU model does not have. */
const EXTENSIONS =
  /^(v|k[a-z]+[bwdq]$|andn|b[el]|pdep|pext|mulx|rorx|s[ah][lr]x|tzcnt|lzcnt|adcx|adox|sha|x(begin|end|test|abort)|endbr)/;

/** The code of an ELF file's section `.text`, or undefined if this is none for x86-64. */
function textSection(file: Uint8Array): Uint8Array | undefined {
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const ELF_MAGIC = 0x464c457f,
    EM_X86_64 = 62,
    SHT_PROGBITS = 1,
    SHF_EXECINSTR = 4n;
  if (
    view.getUint32(0, true) !== ELF_MAGIC ||
    view.getUint16(18, true) !== EM_X86_64
  ) return undefined;
  const at = Number(view.getBigUint64(0x28, true)),
    size = view.getUint16(0x3a, true),
    count = view.getUint16(0x3c, true);
  let largest: Uint8Array | undefined;
  for (let i = 0; i < count; i++) {
    const header = at + i * size;
    if (view.getUint32(header + 4, true) !== SHT_PROGBITS) continue;
    if ((view.getBigUint64(header + 8, true) & SHF_EXECINSTR) === 0n) continue;
    const start = Number(view.getBigUint64(header + 24, true)),
      length = Number(view.getBigUint64(header + 32, true));
    if (largest === undefined || length > largest.length) {
      largest = file.subarray(start, start + length);
    }
  }
  return largest;
}

Deno.test("Decoder agrees with Capstone about the length of every instruction of real programs", async () => {
  const disassembler = await Disassembler.open(64);
  const programs = PROGRAMS.map((path) => {
    try {
      return Deno.readFileSync(path);
    } catch {
      return undefined;
    }
  }).filter((file) => file !== undefined).map(textSection).filter((text) =>
    text !== undefined
  ).slice(0, 2);
  if (programs.length === 0) {
    return console.log("no x86-64 program on this host: skipped");
  }
  for (const text of programs) {
    const differences: string[] = [];
    const unknown = new Map<string, number>();
    let known = 0;
    for (let at = 0; at < Math.min(text.length - MAX_LENGTH, SWEEP);) {
      const code = text.subarray(at, at + MAX_LENGTH);
      const theirs = disassembler.first(code);
      if (theirs === undefined) {
        at++;
        continue;
      }
      at += theirs.size;
      const mine = length(code, 0, 64);
      if (EXTENSIONS.test(theirs.mnemonic)) continue;
      if (mine === theirs.size) known++;
      else if (mine === 0) {
        unknown.set(
          `${theirs.mnemonic}: ${hex(code.subarray(0, theirs.size))}`,
          1,
        );
      } else {differences.push(
          `${
            hex(code)
          }: ${mine}, Capstone ${theirs.size} ${theirs.mnemonic} ${theirs.op_str}`,
        );}
    }
    assertEquals(differences, []);
    assertEquals(
      [...unknown.keys()].slice(0, 20),
      [],
      "instructions of a program that do not decode",
    );
    if (known < 1000) throw new Error(`only ${known} instructions`);
  }
});

Deno.test("Decoder finds every form by its own encoding", () => {
  const random = new Random(1);
  const missed: string[] = [];
  for (const form of decoder.forms) {
    if (form.definition.options.legacyOnly) continue;
    for (let i = 0; i < 8; i++) {
      const { bytes } = encode(form, random);
      const padded = new Uint8Array(32);
      padded.set(bytes);
      const insn = decoder.decode(padded, 0, padded.length, 64);
      const found = insn !== "more" && "form" in insn
        ? insn.form.definition
        : undefined;
      // XCHG of RAX with itself is NOP.
      if (
        found?.name === form.definition.name ||
        (found?.name === "nop" && form.definition.name === "xchg")
      ) continue;
      missed.push(
        `${form.definition.name} "${form.definition.encoding}": ${
          hex(bytes)
        } is ${found?.name}`,
      );
    }
  }
  assertEquals(missed, []);
});

Deno.test("Decoder asks for more bytes, and refuses what is too long or not declared", () => {
  const bytes = Uint8Array.of(0x48, 0x81, 0x84, 0x24, 1, 2, 3, 4, 5, 6, 7, 8);
  for (let end = 0; end < bytes.length; end++) {
    assertEquals(decoder.decode(bytes, 0, end, 64), "more");
  }
  assertEquals(length(bytes, 0, 64), bytes.length);
  const long = new Uint8Array(16).fill(0x66);
  assertEquals(decoder.decode(long, 0, 16, 64), { vector: VECTOR.GP });
  assertEquals(decoder.decode(long, 0, 14, 64), "more");
  assertEquals(decoder.decode(Uint8Array.of(0x0f, 0x04), 0, 2, 64), {
    vector: VECTOR.UD,
  });
  // PUSH ES does not exist in 64-bit mode; LOCK needs a memory destination.
  assertEquals(decoder.decode(Uint8Array.of(0x06), 0, 1, 64), {
    vector: VECTOR.UD,
  });
  assertEquals(decoder.decode(Uint8Array.of(0xf0, 0x01, 0xc0), 0, 3, 64), {
    vector: VECTOR.UD,
  });
});
