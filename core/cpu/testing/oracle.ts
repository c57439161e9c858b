/**
 * The emulator against the host's CPU (ENGINE.md section 5): the same random instructions, registers and memory go through both,
 * and what they leave must agree.
 *
 * @module
 */
import { type Form, MAX_LENGTH } from "../decode.ts";
import {
  ARITHMETIC_FLAGS,
  FLAG,
  GPR_NAMES,
  OFF,
  RBP,
  RBX,
  RCX,
  RDI,
  RDX,
  RSI,
  RSP,
  ST_STRIDE,
  VECTOR,
  XMM_STRIDE,
} from "../state.ts";
import { encode, type Instance, isBranch, MARKER, STRINGS } from "./encode.ts";
import {
  CONTEXT_SIZE,
  FLAGS_MASK,
  HostContext,
  type HostCpu,
  SCRATCH_SIZE,
} from "./host_cpu.ts";
import {
  ANY_ORDER,
  APPROXIMATE,
  C1_UNSPECIFIED,
  closeExtended,
  closeSingles,
  ENTERS_MMX,
  QUOTIENT,
  SIZE_UNSPECIFIED,
  TRANSCENDENTAL,
  UPPER_UNSPECIFIED,
} from "./tolerances.ts";
import { LongMode } from "./long_mode.ts";
import {
  DATA_KINDS,
  putData,
  putFloat80,
  putInteger,
  Random,
} from "./random.ts";

/** Guest-physical places of the scratch memory and of the page with the code. */
const SCRATCH_PA = 0x200000, PAGE_SIZE = 4096;
const CODE_PA = 0x300000;
const HLT = 0xf4;

/** Word offsets in a {@linkcode HostContext}. */
const CTX = {
  gpr: 0,
  rflags: 0x80 >> 2,
  fcw: 0x200 >> 2,
  ftw: 0x204 >> 2,
  mxcsr: (0x200 + 24) >> 2,
  st: (0x200 + 32) >> 2,
  xmm: (0x200 + 160) >> 2,
};
const GPR_WORDS = 32, ST_WORDS = 4, XMM_WORDS = 4;
/** Words of the context that the emulator has, and that a fault must leave alone: registers, MXCSR, x87 and XMM. */
const KEPT_BY_FAULTS = new Set<number>([CTX.fcw, CTX.ftw, CTX.mxcsr]);
for (let i = 0; i < GPR_WORDS; i++) KEPT_BY_FAULTS.add(CTX.gpr + i);
for (let i = 0; i < 16 * XMM_WORDS; i++) KEPT_BY_FAULTS.add(CTX.xmm + i);
for (let i = 0; i < 8; i++) {
  KEPT_BY_FAULTS.add(CTX.st + i * ST_WORDS).add(CTX.st + i * ST_WORDS + 1);
}
/** Flags that instances start with at random: the arithmetic ones and DF. */
const RANDOM_FLAGS = Number(FLAGS_MASK);
/** Bytes of memory set at random around an operand, and where in them it is. */
const WINDOW = 256, WINDOW_OPERAND = 128;
/** Largest bit offset, in bits, of a bit-string operand. */
const BIT_REACH = 500;
/** More than an instance and the HLT after it take. */
const MOST_INSTRUCTIONS = 64;
/** How often all of the scratch memory is compared, in instances. */
const FULL_COMPARE = 512;
/** MXCSR: exceptions masked; rounding, flush-to-zero, denormals-are-zero and the sticky flags at random. */
const MXCSR_MASKS = 0x1f80, MXCSR_RANDOM = 0xe07f;
/** x87 control: exceptions masked, precision and rounding at random. */
const FCW_MASKS = 0x3f, FCW_CONTROL = 0xf00, FCW_FIXED = 0x40;
/** x87 status: condition codes, TOP and the sticky flags. */
const FSW_RANDOM = 0x7f7f, FSW_STICKY = 0x7f;
/** Words of the context that are compared for the x87 unit: FCW and FSW, FTW. */
const X87_TAG_MASK = 0xff;
/** Invalid operation, and stack fault. */
const FSW_SUMMARY = 0x8080;
const FSW_IE = 1, FSW_SF = 0x40;
/** C0 to C3, and C1 alone. */
const FSW_CONDITION = 0x4700, FSW_C1 = 0x200;
/** C1 and PE: whether and in which direction a result was rounded. */
const FSW_ROUNDED = 0x0220;

/** Instructions with a bit offset in a register. */
const BIT_STRINGS = new Set(["bt", "bts", "btr", "btc"]);

/** Instructions with implicit memory operands, that are prepared by name. */
const EXTRAS = new Set([
  ...STRINGS,
  "push",
  "pop",
  "leave",
  "enter",
  "pushf",
  "popf",
  "xlat",
  "movbe",
  "std",
  "fence",
  "clflush",
  "prefetch",
]);
/** MOV with an absolute offset. */
const MOV_OFFSET = 0xa0, MOV_OFFSET_LAST = 0xa3;

/** Whether a form that is kept out of the plain oracle can be checked nevertheless. */
function isExtra(form: Form): boolean {
  const { name } = form.definition;
  if (name === "mov") {
    return form.map === 0 && form.opcode >= MOV_OFFSET &&
      form.opcode <= MOV_OFFSET_LAST;
  }
  if (isBranch(form)) return true;
  // Pushes and pops of segment registers are in map 1.
  return EXTRAS.has(name) &&
    (form.map === 0 || (name !== "push" && name !== "pop"));
}

/** What one instance came to. */
export type Outcome = "equal" | "faulted" | Mismatch;

/** An instance on which the two differ. */
export interface Mismatch {
  readonly instance: Instance;
  /** Registers and memory before, by line. */
  readonly inputs: readonly string[];
  /** "field: host …, emulator …". */
  readonly differences: readonly string[];
}

function hex(value: number | bigint, digits: number): string {
  return value.toString(16).padStart(digits, "0");
}

/** Runs instances on the emulator and on the host. */
export class Oracle {
  readonly random: Random;
  readonly machine = new LongMode();
  /** The forms that can be checked, by declaration order. */
  readonly forms: readonly Form[];
  /** Whether some memory operands are to fault on the emulator. */
  faults = true;
  /** Vector of the exception that ended the last instance on the emulator, -1 without one. */
  lastFault = -1;
  readonly #host: HostCpu;
  readonly #before = new HostContext();
  readonly #after = new HostContext();
  readonly #words: Uint32Array;
  readonly #afterWords: Uint32Array;
  readonly #guest = new Uint32Array(CONTEXT_SIZE >> 2);
  readonly #guestScratch: Uint8Array;
  readonly #guestScratchWords: Uint32Array;
  readonly #hostScratchWords: Uint32Array;
  readonly #code = new Uint8Array(32);
  readonly #atFault = new Uint32Array(CONTEXT_SIZE >> 2);
  #faultAddress = 0n;
  #faultRip = 0n;
  #target = 0;
  #extra = false;
  #count = 0;

  /**
   * @param host The host's CPU.
   * @param seed Of the random numbers.
   */
  constructor(host: HostCpu, seed: number) {
    this.random = new Random(seed);
    this.#host = host;
    this.#words = new Uint32Array(this.#before.bytes.buffer);
    this.#afterWords = new Uint32Array(this.#after.bytes.buffer);
    const { machine } = this;
    machine.map(host.scratchAddress, SCRATCH_PA, SCRATCH_SIZE);
    machine.map(host.codeAddress, CODE_PA, 4096);
    const at = machine.memory.host(SCRATCH_PA);
    this.#guestScratch = machine.memory.bytes.subarray(at, at + SCRATCH_SIZE);
    this.#guestScratchWords = new Uint32Array(
      this.#guestScratch.buffer,
      at,
      SCRATCH_SIZE >> 2,
    );
    this.#hostScratchWords = new Uint32Array(
      host.scratch.buffer,
      host.scratch.byteOffset,
      SCRATCH_SIZE >> 2,
    );
    machine.cpu.onEvent = (vector, _kind, _errorCode, rip) => {
      if (this.lastFault >= 0) return;
      this.lastFault = vector;
      this.#faultRip = rip;
      // As the handler would find it: the delivery itself fails.
      this.#faultAddress = machine.cpu.state.get(OFF.cr2);
      this.#readGuest();
      this.#atFault.set(this.#guest);
    };
    this.forms = machine.engine.decoder.forms.filter((form) => {
      const { options } = form.definition;
      if (options.legacyOnly || options.privileged) return false;
      return !options.noOracle || isExtra(form);
    });
  }

  /** Runs one random instance of `form`. */
  run(form: Form): Outcome {
    let instance = encode(form, this.random);
    // All the prefixes at once make an instruction that is too long.
    while (instance.bytes.length > MAX_LENGTH) {
      instance = encode(form, this.random);
    }
    this.#prepare(instance);
    return this.#compare(instance);
  }

  /** Random registers and memory that suit an instance. */
  #prepare(instance: Instance): void {
    const { random } = this;
    const { form, memory } = instance;
    const { name, options } = form.definition;
    const words = this.#words;
    for (let i = 0; i < GPR_WORDS; i += 2) putInteger(random, words, i);
    words[CTX.rflags] = (random.u32() & RANDOM_FLAGS) | FLAG.FIXED;
    if (random.oneIn(2)) words[RCX * 2] = random.below(72);
    if (name === "div" || name === "idiv") this.#dividend(instance);
    // Where the operand is: anywhere in the middle of the scratch memory, often across a page boundary.
    let offset = 0x4000 + (random.below(0x8000) & ~0xf);
    if (random.oneIn(8)) offset = (offset & 0xf000) - 16;
    const aligned = form.operands.some((o) => o.width === "x") ||
      name === "cmpxchg8b";
    this.#target = offset - WINDOW_OPERAND;
    let target = this.#host.scratchAddress + offset +
      (aligned || random.oneIn(3) ? 0 : random.below(32));
    // Faults now and then: a misaligned operand, one that crosses into the page behind the scratch memory or is all in it.
    const sized = instance.size !== 2 || !SIZE_UNSPECIFIED.has(name);
    if (this.faults && memory !== undefined && sized && random.oneIn(32)) {
      target = aligned && random.oneIn(3)
        ? target + 1 + random.below(15)
        : this.#host.scratchAddress + SCRATCH_SIZE + 8 - random.below(24);
    }
    this.#setRegister(
      RSP,
      this.#host.scratchAddress + 0xe000 + (random.below(256) << 4),
    );
    // With one register as base and index only every second address can be had.
    if (memory !== undefined && memory.base === memory.index) {
      target -= (target - memory.disp) & 1;
    }
    if (memory !== undefined && name !== "lea") this.#address(instance, target);
    if (name === "maskmovdqu" || name === "maskmovq") {
      this.#setRegister(RDI, target);
    }

    // 16-bit double shifts by more than 16 are undefined.
    if ((name === "shld" || name === "shrd") && instance.size === 2) {
      words[RCX * 2] &= ~0x10;
      if (instance.form.operands[2].letter === "I") {
        instance.bytes[instance.bytes.length - 1] &= ~0x10;
      }
    }
    const unit = options.unit;
    const kind = unit === "sse" || unit === "mmx"
      ? random.below(4)
      : unit === "x87"
      ? 2 + random.below(3)
      : random.below(2);
    this.#extra = options.noOracle === true;
    if (this.#extra) this.#implicitOperands(instance, target);
    const window = this.#target >> 2;
    if (!this.#extra) {
      putData(
        random,
        this.#guestScratchWords,
        window,
        WINDOW >> 2,
        kind % DATA_KINDS,
      );
    }
    const inside = target + 16 <= this.#host.scratchAddress + SCRATCH_SIZE;
    if (unit === "x87" && inside) {
      this.#unalignedData(target - this.#host.scratchAddress, kind);
    }
    // Some CPUs have bit 17 (misaligned operands), so what is reserved differs.
    if (name === "ldmxcsr") {
      const at = target - this.#host.scratchAddress;
      this.#guestScratch.fill(0, at + 2, Math.min(at + 4, SCRATCH_SIZE));
    }
    if (this.#extra) this.#hostScratchWords.set(this.#guestScratchWords);
    else {
      this.#hostScratchWords.set(
        this.#guestScratchWords.subarray(window, window + (WINDOW >> 2)),
        window,
      );
      // Operands at the end, of which some fault.
      const end = (SCRATCH_SIZE >> 2) - 8;
      this.#hostScratchWords.set(this.#guestScratchWords.subarray(end), end);
    }
    if (unit === "sse") {
      putData(random, words, CTX.xmm, 16 * XMM_WORDS, kind);
    } else if (this.#count % 16 === 0) {
      putData(random, words, CTX.xmm, 16 * XMM_WORDS, 0);
    }
    words[CTX.mxcsr] = MXCSR_MASKS |
      (random.oneIn(2) ? 0 : random.u32() & MXCSR_RANDOM);
    // Unmasked exceptions raise #XM.
    if (this.faults && random.oneIn(16)) {
      words[CTX.mxcsr] &= ~(random.u32() & MXCSR_MASKS);
    }
    if (unit === "x87" || unit === "mmx" || this.#count % 16 === 0) {
      for (let i = 0; i < 8; i++) {
        const at = CTX.st + i * ST_WORDS;
        if (unit === "mmx") {
          putData(random, words, at, 2, kind);
          words[at + 2] = 0xffff;
        } else putFloat80(random, words, at);
      }
      const control = FCW_MASKS | FCW_FIXED |
        (random.oneIn(2) ? 0x300 : random.u32() & FCW_CONTROL);
      const unmasked = this.faults && random.oneIn(16)
        ? random.u32() & FCW_MASKS
        : 0;
      let status = random.u32() &
        (random.oneIn(2) ? FSW_RANDOM : FSW_RANDOM & ~FSW_STICKY);
      // Pending unmasked exceptions raise #MF in waiting instructions.
      if ((status & unmasked) !== 0) status |= FSW_SUMMARY;
      words[CTX.fcw] = (control & ~unmasked) | (status << 16);
      words[CTX.ftw] = random.oneIn(4)
        ? random.u32() & X87_TAG_MASK
        : X87_TAG_MASK;
    }
  }

  /** Registers and memory of the instructions in {@linkcode EXTRAS}. */
  #implicitOperands(instance: Instance, target: number): void {
    const { random } = this;
    const words = this.#words;
    const { scratchAddress } = this.#host;
    const { name } = instance.form.definition;
    putData(random, this.#guestScratchWords, this.#target >> 2, WINDOW >> 2, 1);
    // The stack, and with POPF an image without TF, NT, AC and IOPL.
    const stack = (words[RSP * 2] - scratchAddress) >>> 2;
    if (stack < (SCRATCH_SIZE >> 2) - 4) {
      putData(random, this.#guestScratchWords, stack & ~3, 16, 1);
    }
    if (name === "popf") {
      this.#guestScratchWords[stack] = (random.u32() & RANDOM_FLAGS) |
        FLAG.FIXED | FLAG.IF;
    }
    if (name === "leave" || name === "enter") {
      this.#setRegister(RBP, scratchAddress + 0xc000 + random.below(0x1000));
      // Not more than 2 KiB of frame.
      if (name === "enter") instance.bytes[instance.bytes.length - 2] &= 7;
    }
    if (isBranch(instance.form)) this.#branchTarget(instance, target, stack);
    if (name === "xlat") this.#setRegister(RBX, target);
    if (!STRINGS.has(name)) return;
    words[RCX * 2] = random.below(48);
    words[RCX * 2 + 1] = instance.short ? random.u32() : 0;
    const source = 0x4000 + random.below(0x3000);
    const destination = random.oneIn(2)
      ? source + random.below(96) - 48
      : 0x8000 + random.below(0x3000);
    this.#setRegister(RSI, scratchAddress + source);
    this.#setRegister(RDI, scratchAddress + destination);
    if (instance.short) words[RSI * 2 + 1] = words[RDI * 2 + 1] = random.u32();
    // Few values, so that comparisons go on for a while.
    const values = [
      0x01010101,
      0x01010101,
      0x01010101,
      random.oneIn(2) ? 0x01010101 : random.u32(),
    ];
    for (const at of [source, destination]) {
      const first = (at - 400) >> 2;
      for (let i = 0; i < 200; i++) {
        this.#guestScratchWords[first + i] = random.oneIn(24)
          ? random.u32()
          : random.pick(values);
      }
    }
    if (random.oneIn(2)) words[0] = words[1] = 0x01010101;
  }

  /** Where an indirect branch or return goes: to the marker or behind it. The counts of loops are small. */
  #branchTarget(instance: Instance, target: number, stack: number): void {
    const { random } = this;
    const { form, bytes, memory } = instance;
    const words = this.#words;
    const to = this.#host.codeAddress + bytes.length -
      (random.oneIn(2) ? MARKER.length : 0);
    if (form.definition.name === "ret") {
      this.#guestScratchWords[stack] = to;
      this.#guestScratchWords[stack + 1] = 0;
    } else if (form.operands[0].letter === "E") {
      if (memory === undefined) {
        const rm = (bytes[bytes.length - MARKER.length - 1] & 7) |
          (hasRexB(bytes) ? 8 : 0);
        this.#setRegister(rm, to);
      } else if (target + 8 <= this.#host.scratchAddress + SCRATCH_SIZE) {
        new DataView(this.#guestScratch.buffer, this.#guestScratch.byteOffset)
          .setBigUint64(
            target - this.#host.scratchAddress,
            BigInt(to),
            true,
          );
      }
    } else if (random.oneIn(2)) {
      words[RCX * 2] = random.below(3);
      words[RCX * 2 + 1] = random.oneIn(2) ? 0 : random.u32();
    }
  }

  /** Makes quotients that fit likely. */
  #dividend(instance: Instance): void {
    const words = this.#words;
    if (this.random.oneIn(4)) return;
    const byte = instance.form.operands[0].width === "b";
    const negative = instance.form.definition.name === "idiv" &&
      (words[byte ? 0 : 1] & 0x80000000) !== 0;
    if (byte) words[0] = (words[0] & ~0xff00) | (this.random.below(4) << 8);
    words[RDX * 2] = words[RDX * 2 + 1] = negative ? 0xffffffff : 0;
  }

  #setRegister(index: number, value: number): void {
    this.#words[index * 2] = value >>> 0;
    this.#words[index * 2 + 1] = Math.floor(value / 0x100000000) >>> 0;
  }

  /** Sets base, index or displacement so that the operand is at `target`. */
  #address(instance: Instance, target: number): void {
    const memory = instance.memory!;
    const words = this.#words;
    const { random } = this;
    const bitString = instance.reg >= 0 &&
      BIT_STRINGS.has(instance.form.definition.name);
    if (bitString) {
      const value = random.below(2 * BIT_REACH) - BIT_REACH;
      words[instance.reg * 2] = value;
      words[instance.reg * 2 + 1] = value < 0 ? 0xffffffff : 0;
    }
    const { base, index, scale, short } = memory;
    let indexValue = 0n;
    if (index >= 0) {
      const tight = base < 0 || base === RSP ||
        (bitString && (index === instance.reg || base === instance.reg));
      if (tight && !(bitString && index === instance.reg)) {
        this.#setRegister(index, random.below(16));
      }
      indexValue =
        (BigInt(words[index * 2]) | BigInt(words[index * 2 + 1]) << 32n) <<
        BigInt(scale);
    }
    if (memory.dispAt >= 0) {
      const next = this.#host.codeAddress + instance.bytes.length -
        (isBranch(instance.form) ? MARKER.length : 0);
      const disp = base === -2
        ? target - next
        : target - Number(BigInt.asIntN(32, indexValue));
      new DataView(instance.bytes.buffer).setInt32(memory.dispAt, disp, true);
      return;
    }
    if (base === RSP || (bitString && base === instance.reg)) {
      // These registers keep their values: what is left to choose is the index, or nothing.
      if (base === RSP) {
        const rsp = target - memory.disp - Number(indexValue);
        if (this.#inScratch(rsp)) return this.#setRegister(RSP, rsp);
      }
    }
    if (base === index) {
      // base + base: the sum must be the even target.
      const half = BigInt.asUintN(64, BigInt(target) - BigInt(memory.disp));
      return this.#setWide(base, half >> 1n);
    }
    let value = BigInt(target) - BigInt(memory.disp) - indexValue;
    value = short
      ? BigInt.asUintN(32, value) | BigInt(random.u32()) << 32n
      : BigInt.asUintN(64, value);
    this.#setWide(base, value);
  }

  #setWide(index: number, value: bigint): void {
    this.#words[index * 2] = Number(value & 0xffffffffn);
    this.#words[index * 2 + 1] = Number(value >> 32n);
  }

  #inScratch(address: number): boolean {
    const offset = address - this.#host.scratchAddress;
    return offset >= 0x1000 && offset < SCRATCH_SIZE - 0x1000;
  }

  /** Puts a value where the operand really is, aligned or not. */
  #unalignedData(offset: number, kind: number): void {
    const part = new Uint32Array(4);
    putData(this.random, part, 0, 4, kind % DATA_KINDS);
    this.#guestScratch.set(new Uint8Array(part.buffer, 0, 10), offset);
  }

  /** Whether the address an instance uses is inside the scratch memory: what is left to chance is checked, not trusted. */
  #runGuest(instance: Instance): boolean {
    const { cpu, memory } = this.machine;
    const s = cpu.state;
    const words = this.#words;
    s.d.set(words.subarray(0, GPR_WORDS), OFF.gpr >> 2);
    // The host runs with interrupts on: PUSHF shows it.
    s.rflags = words[CTX.rflags] | FLAG.IF;
    for (let i = 0; i < 16; i++) {
      s.d.set(
        words.subarray(CTX.xmm + i * XMM_WORDS, CTX.xmm + (i + 1) * XMM_WORDS),
        (OFF.xmm + i * XMM_STRIDE) >> 2,
      );
    }
    s.set32(OFF.mxcsr, words[CTX.mxcsr]);
    const fsw = words[CTX.fcw] >>> 16;
    s.set32(OFF.fcw, words[CTX.fcw] & 0xffff);
    s.set32(OFF.fsw, fsw);
    s.set32(OFF.ftw, words[CTX.ftw] & X87_TAG_MASK);
    const top = (fsw >> 11) & 7;
    for (let i = 0; i < 8; i++) {
      const from = CTX.st + i * ST_WORDS;
      s.d.set(
        words.subarray(from, from + 3),
        (OFF.st + ((top + i) & 7) * ST_STRIDE) >> 2,
      );
    }
    const length = instance.bytes.length;
    this.#code.set(instance.bytes);
    this.#code[length] = HLT;
    memory.write(CODE_PA, this.#code.subarray(0, length + 1));
    s.set(OFF.rip, BigInt(this.#host.codeAddress));
    cpu.halted = false;
    cpu.isShutdown = false;
    this.lastFault = -1;
    cpu.run(MOST_INSTRUCTIONS);
    return this.lastFault < 0;
  }

  /** The emulator's state as a context. */
  #readGuest(): void {
    const s = this.machine.cpu.state;
    const out = this.#guest;
    out.set(s.d.subarray(OFF.gpr >> 2, (OFF.gpr >> 2) + GPR_WORDS), CTX.gpr);
    out[CTX.rflags] = s.rflags;
    for (let i = 0; i < 16; i++) {
      const from = (OFF.xmm + i * XMM_STRIDE) >> 2;
      out.set(s.d.subarray(from, from + XMM_WORDS), CTX.xmm + i * XMM_WORDS);
    }
    out[CTX.mxcsr] = s.get32(OFF.mxcsr);
    const fsw = s.get32(OFF.fsw);
    out[CTX.fcw] = (s.get32(OFF.fcw) & 0xffff) | (fsw << 16);
    out[CTX.ftw] = s.get32(OFF.ftw);
    const top = (fsw >> 11) & 7;
    for (let i = 0; i < 8; i++) {
      const from = (OFF.st + ((top + i) & 7) * ST_STRIDE) >> 2;
      out.set(s.d.subarray(from, from + 3), CTX.st + i * ST_WORDS);
    }
  }

  #compare(instance: Instance): Outcome {
    this.#count++;
    const { form } = instance;
    const window = this.#target >> 2;
    const windowWords = WINDOW >> 2;
    if (!this.#runGuest(instance)) return this.#checkFault(instance);
    this.#after.copyFrom(this.#before);
    const hostFault = this.#host.run(instance.bytes, this.#after);
    this.#readGuest();
    const differences: string[] = [];
    if (hostFault !== null) {
      differences.push(`vector: host ${hostFault.vector}, emulator none`);
    }
    const host = this.#afterWords, guest = this.#guest;
    const { rip, expectedRip } = {
      rip: this.machine.cpu.state.get(OFF.rip),
      expectedRip: BigInt(this.#host.codeAddress + instance.bytes.length + 1),
    };
    if (rip !== expectedRip) {
      differences.push(
        `rip: host ${hex(expectedRip - 1n, 8)}, emulator ${hex(rip - 1n, 8)}`,
      );
    }
    for (let i = 0; i < GPR_WORDS; i += 2) {
      if (host[i] === guest[i] && host[i + 1] === guest[i + 1]) continue;
      // The low half counts where the operand size is 4.
      if (
        host[i] === guest[i] && instance.size === 4 &&
        UPPER_UNSPECIFIED.has(form.definition.name)
      ) continue;
      differences.push(`${GPR_NAMES[i >> 1]}: ${pair(host, guest, i, 2)}`);
    }
    const undefinedFlags = form.definition.options.undefinedFlags ?? 0;
    const flagMask = (ARITHMETIC_FLAGS | FLAG.DF) & ~undefinedFlags;
    const flags = (host[CTX.rflags] ^ guest[CTX.rflags]) & flagMask;
    if (flags !== 0) {
      const names = [
        "CF",
        "",
        "PF",
        "",
        "AF",
        "",
        "ZF",
        "SF",
        "",
        "",
        "DF",
        "OF",
      ].filter((_, i) => (flags >> i) & 1);
      differences.push(
        `flags ${names.join(" ")}: ${pair(host, guest, CTX.rflags, 1)}`,
      );
    }
    this.#compareVectors(form, differences);
    // CVTPI2PS of memory enters MMX on Intel's processors and does not on AMD's.
    if (form.definition.name !== "cvtpi2ps" || instance.memory === undefined) {
      this.#compareX87(form, differences);
    }
    const full = this.#extra || this.#count % FULL_COMPARE === 0 ||
      differences.length > 0;
    this.#compareMemory(
      full ? 0 : window,
      full ? SCRATCH_SIZE >> 2 : windowWords,
      differences,
    );
    if (differences.length === 0) return "equal";
    const inputs = this.#inputs(instance);
    // The next instance starts from equal memory.
    this.#hostScratchWords.set(this.#guestScratchWords);
    return { instance, inputs, differences };
  }

  /**
   * The emulator faulted. It must have left everything as it was, and the host must do the same; but an address that is nowhere
   * near the scratch memory is not tried on the host, where it may be something.
   */
  #checkFault(instance: Instance): Outcome {
    // A branch that went astray: its target faulted, not it.
    if (Number(this.#faultRip) !== this.#host.codeAddress) {
      this.#hostScratchWords.set(this.#guestScratchWords);
      if (isBranch(instance.form)) return "faulted";
    }
    const { name, operands } = instance.form.definition;
    const differences: string[] = [];
    const aligned = operands.some((o) => o.endsWith("x")) ||
      name === "cmpxchg8b";
    const outside = Number(this.#faultAddress) - this.#host.scratchAddress;
    const reasonable = this.lastFault === VECTOR.PF
      ? outside < 0 || outside >= SCRATCH_SIZE
      : this.lastFault === VECTOR.GP
      // Misaligned on purpose, or an address that is not canonical because a register it needs kept its value.
      ? aligned || name === "ldmxcsr" || instance.memory?.base === RSP ||
        BIT_STRINGS.has(name)
      : this.lastFault === VECTOR.DE
      ? name === "div" || name === "idiv"
      : this.lastFault === VECTOR.MF || this.lastFault === VECTOR.XM;
    if (!reasonable) {
      differences.push(
        `vector ${this.lastFault}: not expected of the emulator`,
      );
    }
    const before = this.#words, after = this.#atFault;
    for (let i = 0; i < after.length; i++) {
      // #XM is the one that leaves a trace: its flags in MXCSR.
      if (i === CTX.mxcsr && this.lastFault === VECTOR.XM) continue;
      if (KEPT_BY_FAULTS.has(i) && before[i] !== after[i]) {
        differences.push(
          `context word ${i}: before the fault ${hex(before[i], 8)}, after it ${
            hex(after[i], 8)
          }`,
        );
      }
    }
    const guarded = outside >= SCRATCH_SIZE &&
      outside < SCRATCH_SIZE + PAGE_SIZE;
    // Known difference: the emulator does not wrap the address of a bit string at 4 GiB.
    const known = (BIT_STRINGS.has(name) && instance.memory?.short === true) ||
      (name === "cvtpi2ps" && this.lastFault === VECTOR.MF);
    if ((this.lastFault !== VECTOR.PF || guarded) && !known) {
      this.#after.copyFrom(this.#before);
      const fault = this.#host.run(instance.bytes, this.#after);
      const vector = fault?.vector ?? "none";
      // Known difference: #GP where the processor raises #SS for an address in the stack segment that is not canonical.
      const stack = vector === VECTOR.SS && this.lastFault === VECTOR.GP;
      if (vector !== this.lastFault && !stack) {
        differences.push(`vector: host ${vector}, emulator ${this.lastFault}`);
      } else if (
        vector === VECTOR.PF && fault!.address !== this.#faultAddress &&
        !ANY_ORDER.has(name)
      ) {
        differences.push(
          `cr2: host ${hex(fault!.address, 8)}, emulator ${
            hex(this.#faultAddress, 8)
          }`,
        );
      }
      for (const i of KEPT_BY_FAULTS) {
        if (this.#afterWords[i] === after[i]) continue;
        if (
          i >= CTX.fcw && i < CTX.xmm && i !== CTX.mxcsr && ENTERS_MMX.has(name)
        ) continue;
        differences.push(
          `context word ${i}: host ${hex(this.#afterWords[i], 8)}, emulator ${
            hex(after[i], 8)
          }`,
        );
      }
    }
    this.#compareMemory(0, SCRATCH_SIZE >> 2, differences);
    if (differences.length === 0) return "faulted";
    this.#hostScratchWords.set(this.#guestScratchWords);
    return { instance, inputs: this.#inputs(instance), differences };
  }

  #compareVectors(form: Form, differences: string[]): void {
    const host = this.#afterWords, guest = this.#guest;
    const approximate = APPROXIMATE.has(form.definition.name);
    for (let i = CTX.xmm; i < CTX.xmm + 16 * XMM_WORDS; i += XMM_WORDS) {
      let same = true;
      for (let j = 0; j < XMM_WORDS; j++) {
        if (
          host[i + j] !== guest[i + j] &&
          !(approximate && closeSingles(host[i + j], guest[i + j]))
        ) same = false;
      }
      if (!same) {
        differences.push(
          `xmm${(i - CTX.xmm) / XMM_WORDS}: ${pair(host, guest, i, XMM_WORDS)}`,
        );
      }
    }
    if (host[CTX.mxcsr] !== guest[CTX.mxcsr]) {
      differences.push(`mxcsr: ${pair(host, guest, CTX.mxcsr, 1)}`);
    }
  }

  #compareX87(form: Form, differences: string[]): void {
    const host = this.#afterWords, guest = this.#guest;
    const inexact = TRANSCENDENTAL.has(form.definition.name);
    let statusMask = inexact ? ~FSW_ROUNDED : ~0;
    const { name, encoding } = form.definition;
    const status = guest[CTX.fcw] >>> 16;
    if (C1_UNSPECIFIED.has(name)) statusMask &= ~FSW_C1;
    const nan = (guest[CTX.st + 2] & 0x7fff) === 0x7fff;
    if (QUOTIENT.has(name) && (nan || status & (FSW_IE | FSW_SUMMARY))) {
      statusMask &= ~FSW_CONDITION;
    }
    // FLD of an empty register onto a full one: underflow or overflow.
    if (encoding.startsWith("d9 /0 r") && status & FSW_SF) {
      statusMask &= ~FSW_C1;
    }
    if ((host[CTX.fcw] ^ guest[CTX.fcw]) & 0xffff) {
      differences.push(
        `fcw: host ${hex(host[CTX.fcw] & 0xffff, 4)}, emulator ${
          hex(guest[CTX.fcw] & 0xffff, 4)
        }`,
      );
    }
    const hostStatus = host[CTX.fcw] >>> 16,
      guestStatus = guest[CTX.fcw] >>> 16;
    if ((hostStatus ^ guestStatus) & statusMask) {
      differences.push(
        `fsw: host ${hex(hostStatus, 4)}, emulator ${hex(guestStatus, 4)}${
          (hostStatus ^ guestStatus) & ~FSW_CONDITION
            ? ""
            : " (condition codes)"
        }`,
      );
    }
    if ((host[CTX.ftw] ^ guest[CTX.ftw]) & X87_TAG_MASK) {
      differences.push(
        `ftw: host ${hex(host[CTX.ftw] & 0xff, 2)}, emulator ${
          hex(guest[CTX.ftw] & 0xff, 2)
        }`,
      );
    }
    for (let i = 0; i < 8; i++) {
      const at = CTX.st + i * ST_WORDS;
      if (
        host[at] === guest[at] && host[at + 1] === guest[at + 1] &&
        (host[at + 2] & 0xffff) === (guest[at + 2] & 0xffff)
      ) {
        continue;
      }
      if (inexact && closeExtended(host, guest, at)) continue;
      const text = (w: Uint32Array) =>
        `${hex(w[at + 2] & 0xffff, 4)}.${hex(w[at + 1], 8)}${hex(w[at], 8)}`;
      differences.push(`st${i}: host ${text(host)}, emulator ${text(guest)}`);
    }
  }

  #compareMemory(from: number, count: number, differences: string[]): void {
    const host = this.#hostScratchWords, guest = this.#guestScratchWords;
    for (let i = from; i < from + count; i++) {
      if (host[i] === guest[i]) continue;
      differences.push(
        `[${hex(this.#host.scratchAddress + i * 4, 8)}]: host ${
          hex(host[i], 8)
        }, emulator ${hex(guest[i], 8)}`,
      );
      if (differences.length > 8) return;
    }
  }

  #inputs(instance: Instance): string[] {
    const words = this.#words;
    const lines: string[] = [];
    const quad = (i: number) => hex(words[i + 1], 8) + hex(words[i], 8);
    for (let i = 0; i < 16; i += 4) {
      lines.push(
        GPR_NAMES.slice(i, i + 4).map((name, j) =>
          `${name} ${quad((i + j) * 2)}`
        ).join("  "),
      );
    }
    lines.push(
      `rflags ${hex(words[CTX.rflags], 3)}  operand ${
        hex(this.#host.scratchAddress + this.#target + WINDOW_OPERAND, 8)
      }`,
    );
    const unit = instance.form.definition.options.unit;
    if (unit === "sse") {
      lines.push(`mxcsr ${hex(words[CTX.mxcsr], 4)}`);
      for (let i = 0; i < 16; i++) {
        const at = CTX.xmm + i * XMM_WORDS;
        lines.push(
          `xmm${i} ${[3, 2, 1, 0].map((j) => hex(words[at + j], 8)).join("_")}`,
        );
      }
    } else if (unit !== undefined) {
      lines.push(
        `fcw ${hex(words[CTX.fcw] & 0xffff, 4)}  fsw ${
          hex(words[CTX.fcw] >>> 16, 4)
        }  ftw ${hex(words[CTX.ftw], 2)}`,
      );
      for (let i = 0; i < 8; i++) {
        const at = CTX.st + i * ST_WORDS;
        lines.push(`st${i} ${hex(words[at + 2] & 0xffff, 4)}.${quad(at)}`);
      }
    }
    return lines;
  }
}

/** Whether a REX prefix among the first bytes has B. */
function hasRexB(bytes: Uint8Array): boolean {
  const rex = bytes.find((byte) => (byte & 0xf0) === 0x40);
  return rex !== undefined && (rex & 1) !== 0;
}

/** Both sides of a difference, the most significant word first. */
function pair(
  host: Uint32Array,
  guest: Uint32Array,
  at: number,
  count: number,
): string {
  const text = (w: Uint32Array) => {
    let out = "";
    for (let i = count - 1; i >= 0; i--) out += hex(w[at + i], 8);
    return out;
  };
  return `host ${text(host)}, emulator ${text(guest)}`;
}
