/**
 * String instructions (Intel SDM vol. 2, "String Operations" in vol. 1, 7.3.9).
 *
 * A repeated instruction works page by page on the bytes themselves, commits RCX, RSI and RDI after each stretch, and comes
 * back to itself after {@linkcode STRETCH} bytes so that interrupts are taken in between.
 *
 * @module
 */
import type { HelperCpu, Insn } from "../helper.ts";
import { ES, FLAG, OFF, RAX, RCX, RDI, RSI } from "../state.ts";
import { define, helper } from "./define.ts";

/** Bytes done by one execution of a repeated instruction. */
const STRETCH = 65536;

type Width = 1 | 2 | 4 | 8;

/** What the instructions share: pointers, count and step, in the address size. */
class StringOperation {
  readonly bits: number;
  readonly step: bigint;
  /** Elements left, as a number: never more than one stretch. */
  left: number;
  private readonly repeated: boolean;
  private total: bigint;

  constructor(
    readonly cpu: HelperCpu,
    readonly insn: Insn,
    readonly width: Width,
  ) {
    const s = cpu.state;
    this.bits = insn.addressSize * 8;
    this.step = BigInt(s.get32(OFF.rflags) & FLAG.DF ? -width : width);
    this.repeated = insn.rep !== 0;
    this.total = this.repeated ? BigInt.asUintN(this.bits, s.reg(RCX)) : 1n;
    const most = STRETCH / width;
    this.left = this.total > BigInt(most) ? most : Number(this.total);
  }

  get forward(): boolean {
    return this.step > 0n;
  }

  source(bytes: number): bigint {
    return this.cpu.segmentAddress(
      this.insn.segment,
      BigInt.asUintN(this.bits, this.cpu.state.reg(RSI)),
      bytes,
      false,
    );
  }

  destination(bytes: number, write: boolean): bigint {
    return this.cpu.segmentAddress(
      ES,
      BigInt.asUintN(this.bits, this.cpu.state.reg(RDI)),
      bytes,
      write,
    );
  }

  /** Elements until the pointer would leave its page or wrap in its address size. */
  room(linear: bigint, pointer: number): number {
    const inPage = Number(linear & 0xfffn);
    const offset = BigInt.asUintN(this.bits, this.cpu.state.reg(pointer));
    const bytes = this.forward ? 4096 - inPage : inPage + this.width;
    let elements = Math.floor(bytes / this.width);
    if (this.bits < 64) {
      const last = 1n << BigInt(this.bits);
      const limit = this.forward ? last - offset : offset + BigInt(this.width);
      elements = Math.min(elements, Number(limit / BigInt(this.width)));
    }
    return elements;
  }

  /** Commits `elements` done. */
  advance(elements: number, source: boolean, destination: boolean): void {
    const s = this.cpu.state;
    const distance = this.step * BigInt(elements);
    const move = (register: number) =>
      s.setReg(
        register,
        BigInt.asUintN(this.bits, s.reg(register) + distance),
        this.insn.addressSize,
      );
    if (source) move(RSI);
    if (destination) move(RDI);
    this.left -= elements;
    if (this.repeated) {
      this.total -= BigInt(elements);
      s.setReg(RCX, this.total, this.insn.addressSize);
    }
  }

  /** Comes back to this instruction when elements are left for the next stretch. */
  finish(): void {
    if (this.repeated && this.total > 0n) this.cpu.jump(this.cpu.rip);
  }

  get limited(): boolean {
    return this.cpu.state.get32(OFF.segFlat) === 0x3f;
  }
}

/** Reads one element. */
function load(cpu: HelperCpu, at: bigint, width: Width): bigint {
  return width === 8 ? cpu.read64(at) : BigInt(
    width === 4 ? cpu.read32(at) : width === 2 ? cpu.read16(at) : cpu.read8(at),
  );
}

/** Writes one element. */
function store(cpu: HelperCpu, at: bigint, width: Width, value: bigint): void {
  if (width === 8) cpu.write64(at, value);
  else if (width === 4) cpu.write32(at, Number(value & 0xffffffffn));
  else if (width === 2) cpu.write16(at, Number(value & 0xffffn));
  else cpu.write8(at, Number(value & 0xffn));
}

function movs(cpu: HelperCpu, insn: Insn, width: Width): void {
  if (quick(cpu, insn, width, true)) return;
  const op = new StringOperation(cpu, insn, width);
  const bytes = cpu.memoryBytes;
  while (op.left > 0) {
    const from = op.source(width), to = op.destination(width, true);
    const elements = Math.min(op.left, op.room(from, RSI), op.room(to, RDI));
    if (elements > 1 && op.forward && op.limited) {
      const length = elements * width;
      const source = cpu.direct(from, length, false);
      const target = source < 0 ? -1 : cpu.direct(to, length, true);
      if (target >= 0) {
        if (target > source && target < source + length) {
          // Overlapping upwards: each element must see the ones before it.
          const distance = target - source;
          if (distance < width) {
            for (let i = 0; i < elements; i++) {
              bytes.copyWithin(
                target + i * width,
                source + i * width,
                source + (i + 1) * width,
              );
            }
          } else {
            const unit = distance - (distance % width);
            for (let i = 0; i < length; i += unit) {
              bytes.copyWithin(
                target + i,
                source + i,
                source + Math.min(length, i + unit),
              );
            }
          }
        } else bytes.copyWithin(target, source, source + length);
        op.advance(elements, true, true);
        continue;
      }
    }
    store(cpu, to, width, load(cpu, from, width));
    op.advance(1, true, true);
  }
  op.finish();
}

/** Word indices of the halves of the registers used here. */
const ECX = RCX * 2, EDI = RDI * 2, ESI = RSI * 2;

/**
 * The common case of a repeated STOS or MOVS in 64-bit mode, without a BigInt: upwards, within one page at each end.
 *
 * @returns whether it was done.
 */
function quick(
  cpu: HelperCpu,
  insn: Insn,
  width: Width,
  move: boolean,
): boolean {
  const s = cpu.state, d = s.d;
  if (
    insn.mode !== 64 || insn.addressSize !== 8 || insn.segment >= 4 ||
    insn.rep === 0
  ) return false;
  const count = d[ECX];
  if (d[ECX + 1] !== 0 || count > 4096 || s.get32(OFF.rflags) & FLAG.DF) {
    return false;
  }
  if (count === 0) return true;
  const length = count * width;
  const to = d[EDI], from = d[ESI];
  if ((to & 0xfff) + length > 4096 || to + length > 0xffffffff) return false;
  const bytes = cpu.memoryBytes;
  if (move) {
    if ((from & 0xfff) + length > 4096 || from + length > 0xffffffff) {
      return false;
    }
    const source = cpu.cachedHost(from, d[ESI + 1], false);
    const target = source < 0 ? -1 : cpu.cachedHost(to, d[EDI + 1], true);
    if (target < 0 || (target > source && target < source + length)) {
      return false;
    }
    bytes.copyWithin(target, source, source + length);
    d[ESI] = from + length;
  } else {
    const low = d[RAX * 2], high = d[RAX * 2 + 1];
    const byte = low & 0xff;
    const same = width === 1 ||
      (low === byte * 0x1010101 && (width === 4 || high === low)) ||
      (width === 2 && (low & 0xffff) === byte * 0x101);
    if (!same) return false;
    const target = cpu.cachedHost(to, d[EDI + 1], true);
    if (target < 0) return false;
    bytes.fill(byte, target, target + length);
  }
  d[EDI] = to + length;
  d[ECX] = 0;
  return true;
}

function stos(cpu: HelperCpu, insn: Insn, width: Width): void {
  if (quick(cpu, insn, width, false)) return;
  const op = new StringOperation(cpu, insn, width);
  const bytes = cpu.memoryBytes;
  const value = BigInt.asUintN(width * 8, cpu.state.reg(RAX));
  while (op.left > 0) {
    const to = op.destination(width, true);
    const elements = Math.min(op.left, op.room(to, RDI));
    if (elements > 1 && op.forward && op.limited) {
      const length = elements * width;
      const target = cpu.direct(to, length, true);
      if (target >= 0) {
        if (width === 1 || value === 0n) {
          bytes.fill(Number(value & 0xffn), target, target + length);
        } else {
          for (let i = 0; i < width; i++) {
            bytes[target + i] = Number((value >> BigInt(8 * i)) & 0xffn);
          }
          for (let done = width as number; done < length; done *= 2) {
            bytes.copyWithin(
              target + done,
              target,
              target + Math.min(done, length - done),
            );
          }
        }
        op.advance(elements, false, true);
        continue;
      }
    }
    store(cpu, to, width, value);
    op.advance(1, false, true);
  }
  op.finish();
}

function lods(cpu: HelperCpu, insn: Insn, width: Width): void {
  const op = new StringOperation(cpu, insn, width);
  while (op.left > 0) {
    cpu.state.setReg(RAX, load(cpu, op.source(width), width), width);
    op.advance(1, true, false);
  }
  op.finish();
}

/** Flags of a - b for elements of `width` bytes. */
function compareFlags(a: bigint, b: bigint, width: Width): number {
  const bits = BigInt(width * 8);
  const r = BigInt.asUintN(width * 8, a - b);
  let parity = Number(r & 0xffn);
  parity ^= parity >> 4;
  const sign = (v: bigint) => (v >> (bits - 1n)) & 1n;
  const overflow = sign(a) !== sign(b) && sign(r) !== sign(a);
  return (a < b ? FLAG.CF : 0) | ((0x9669 >> (parity & 15)) & 1 ? FLAG.PF : 0) |
    ((a ^ b ^ r) & 0x10n ? FLAG.AF : 0) | (r === 0n ? FLAG.ZF : 0) |
    (sign(r) ? FLAG.SF : 0) | (overflow ? FLAG.OF : 0);
}

/** CMPS and SCAS: the next operands come from `operands`; F3 repeats while equal, F2 while not. */
function compare(
  cpu: HelperCpu,
  insn: Insn,
  width: Width,
  withSource: boolean,
): void {
  const op = new StringOperation(cpu, insn, width);
  const acc = BigInt.asUintN(width * 8, cpu.state.reg(RAX));
  while (op.left > 0) {
    const a = withSource ? load(cpu, op.source(width), width) : acc;
    const b = load(cpu, op.destination(width, false), width);
    op.advance(1, withSource, true);
    cpu.state.setArithmeticFlags(compareFlags(a, b, width));
    if (insn.rep !== 0 && (a === b) !== (insn.rep === 0xf3)) return;
  }
  op.finish();
}

for (const byte of [true, false]) {
  const width = (insn: Insn): Width => byte ? 1 : insn.size;
  const code = (opcode: number) => (opcode + (byte ? 0 : 1)).toString(16);
  const options = { ends: false, noOracle: true } as const;
  define(
    "movs",
    code(0xa4),
    "",
    helper((cpu, insn) => movs(cpu, insn, width(insn))),
    options,
  );
  define(
    "cmps",
    code(0xa6),
    "",
    helper((cpu, insn) => compare(cpu, insn, width(insn), true)),
    options,
  );
  define(
    "stos",
    code(0xaa),
    "",
    helper((cpu, insn) => stos(cpu, insn, width(insn))),
    options,
  );
  define(
    "lods",
    code(0xac),
    "",
    helper((cpu, insn) => lods(cpu, insn, width(insn))),
    options,
  );
  define(
    "scas",
    code(0xae),
    "",
    helper((cpu, insn) => compare(cpu, insn, width(insn), false)),
    options,
  );
}
