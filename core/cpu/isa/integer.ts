/**
 * Integer arithmetic, logic, data movement and multiplication (Intel SDM vol. 2).
 *
 * @module
 */
import type { Condition, Emitter, Operand, Value } from "../emitter.ts";
import {
  type CpuState,
  FLAG,
  GuestFault,
  OFF,
  RAX,
  RDX,
  VECTOR,
} from "../state.ts";
import { define, defineSlow, helper } from "./define.ts";

/** `value` modulo 2^(8 * size). */
export function cut(e: Emitter, size: number, value: Value): Value {
  return size >= 8
    ? value
    : e.op("i64.and", value, e.i64((1n << BigInt(size * 8)) - 1n));
}

/** `value` of `size` bytes sign-extended to 64 bits. */
export function signed(e: Emitter, size: number, value: Value): Value {
  return size >= 8 ? value : e.op(
    size === 4
      ? "i64.extend32_s"
      : size === 2
      ? "i64.extend16_s"
      : "i64.extend8_s",
    value,
  );
}

function add(e: Emitter, d: Operand, s: Operand): void {
  const b = e.read(s), a = e.readForWrite(d);
  const r = cut(e, d.size, e.op("i64.add", a, b));
  e.write(d, r);
  e.flags.add(d.size, a, b, r);
}

function adc(e: Emitter, d: Operand, s: Operand): void {
  const b = e.read(s), a = e.readForWrite(d);
  const r = cut(
    e,
    d.size,
    e.op("i64.add", e.op("i64.add", a, b), e.flags.getCarry()),
  );
  e.write(d, r);
  e.flags.add(d.size, a, b, r);
}

function sub(e: Emitter, d: Operand, s: Operand): void {
  const b = e.read(s), a = e.readForWrite(d);
  const r = cut(e, d.size, e.op("i64.sub", a, b));
  e.write(d, r);
  e.flags.sub(d.size, a, b, r);
}

function sbb(e: Emitter, d: Operand, s: Operand): void {
  const b = e.read(s), a = e.readForWrite(d);
  const r = cut(
    e,
    d.size,
    e.op("i64.sub", e.op("i64.sub", a, b), e.flags.getCarry()),
  );
  e.write(d, r);
  e.flags.sub(d.size, a, b, r);
}

function cmp(e: Emitter, d: Operand, s: Operand): void {
  const b = e.read(s), a = e.read(d);
  e.flags.sub(d.size, a, b, cut(e, d.size, e.op("i64.sub", a, b)));
}

function logic(op: string) {
  return (e: Emitter, d: Operand, s: Operand) => {
    const b = e.read(s), a = e.readForWrite(d);
    const r = e.op(op, a, b);
    e.write(d, r);
    e.flags.logic(d.size, r);
  };
}

function test(e: Emitter, d: Operand, s: Operand): void {
  const b = e.read(s), a = e.read(d);
  e.flags.logic(d.size, e.op("i64.and", a, b));
}

const ALU = [
  ["add", add],
  ["or", logic("i64.or")],
  ["adc", adc],
  ["sbb", sbb],
  ["and", logic("i64.and")],
  ["sub", sub],
  ["xor", logic("i64.xor")],
  ["cmp", cmp],
] as const;

const hex = (n: number) => n.toString(16).padStart(2, "0");

ALU.forEach(([name, semantic], i) => {
  const logicAf = ["or", "and", "xor"].includes(name) ? FLAG.AF : 0;
  const writes = name === "cmp" ? {} : { lock: true };
  const options = { undefinedFlags: logicAf };
  define(name, `${hex(i * 8)} /r`, "Eb, Gb", semantic, {
    ...options,
    ...writes,
  });
  define(name, `${hex(i * 8 + 1)} /r`, "Ev, Gv", semantic, {
    ...options,
    ...writes,
  });
  define(name, `${hex(i * 8 + 2)} /r`, "Gb, Eb", semantic, options);
  define(name, `${hex(i * 8 + 3)} /r`, "Gv, Ev", semantic, options);
  define(name, `${hex(i * 8 + 4)}`, "al, Ib", semantic, options);
  define(name, `${hex(i * 8 + 5)}`, "rax, Iz", semantic, options);
  define(name, `80 /${i}`, "Eb, Ib", semantic, { ...options, ...writes });
  define(name, `81 /${i}`, "Ev, Iz", semantic, { ...options, ...writes });
  define(name, `82 /${i}`, "Eb, Ib", semantic, {
    ...options,
    ...writes,
    legacyOnly: true,
  });
  define(name, `83 /${i}`, "Ev, Is", semantic, { ...options, ...writes });
});

for (const n of [0, 1]) {
  define("test", `f6 /${n}`, "Eb, Ib", test, { undefinedFlags: FLAG.AF });
  define("test", `f7 /${n}`, "Ev, Iz", test, { undefinedFlags: FLAG.AF });
}
define("test", "84 /r", "Eb, Gb", test, { undefinedFlags: FLAG.AF });
define("test", "85 /r", "Ev, Gv", test, { undefinedFlags: FLAG.AF });
define("test", "a8", "al, Ib", test, { undefinedFlags: FLAG.AF });
define("test", "a9", "rax, Iz", test, { undefinedFlags: FLAG.AF });

function inc(e: Emitter, d: Operand): void {
  const a = e.readForWrite(d);
  const r = cut(e, d.size, e.op("i64.add", a, e.i64(1)));
  e.write(d, r);
  e.flags.inc(d.size, a, r);
}
function dec(e: Emitter, d: Operand): void {
  const a = e.readForWrite(d);
  const r = cut(e, d.size, e.op("i64.sub", a, e.i64(1)));
  e.write(d, r);
  e.flags.dec(d.size, a, r);
}
function neg(e: Emitter, d: Operand): void {
  const a = e.readForWrite(d);
  const zero = e.i64(0);
  const r = cut(e, d.size, e.op("i64.sub", zero, a));
  e.write(d, r);
  e.flags.sub(d.size, zero, a, r);
}
function not(e: Emitter, d: Operand): void {
  e.write(d, cut(e, d.size, e.op("i64.xor", e.readForWrite(d), e.i64(-1))));
}
define("inc", "fe /0", "Eb", inc, { lock: true });
define("inc", "ff /0", "Ev", inc, { lock: true });
define("inc", "40 +r", "Zv", inc, { legacyOnly: true });
define("dec", "fe /1", "Eb", dec, { lock: true });
define("dec", "ff /1", "Ev", dec, { lock: true });
define("dec", "48 +r", "Zv", dec, { legacyOnly: true });
define("neg", "f6 /3", "Eb", neg, { lock: true });
define("neg", "f7 /3", "Ev", neg, { lock: true });
define("not", "f6 /2", "Eb", not, { lock: true });
define("not", "f7 /2", "Ev", not, { lock: true });

// ---- data movement ----

function mov(e: Emitter, d: Operand, s: Operand): void {
  e.write(d, e.read(s));
}
define("mov", "88 /r", "Eb, Gb", mov);
define("mov", "89 /r", "Ev, Gv", mov);
define("mov", "8a /r", "Gb, Eb", mov);
define("mov", "8b /r", "Gv, Ev", mov);
define("mov", "b0 +r", "Zb, Ib", mov);
define("mov", "b8 +r", "Zv, Iv", mov);
define("mov", "c6 /0", "Eb, Ib", mov);
define("mov", "c7 /0", "Ev, Iz", mov);
define("mov", "a0", "al, Ob", mov, { noOracle: true });
define("mov", "a1", "rax, Ov", mov, { noOracle: true });
define("mov", "a2", "Ob, al", mov, { noOracle: true });
define("mov", "a3", "Ov, rax", mov, { noOracle: true });
define(
  "movbe",
  "np 0f 38 f0 /r m",
  "Gv, Mv",
  (e, d, s) => e.write(d, byteSwap(e, d.size, e.read(s))),
  { noOracle: true },
);
define(
  "movbe",
  "np 0f 38 f1 /r m",
  "Mv, Gv",
  (e, d, s) => e.write(d, byteSwap(e, d.size, e.read(s))),
  { noOracle: true },
);

define("movzx", "0f b6 /r", "Gv, Eb", mov);
define("movzx", "0f b7 /r", "Gv, Ew", mov);
define(
  "movsx",
  "0f be /r",
  "Gv, Eb",
  (e, d, s) => e.write(d, cut(e, d.size, signed(e, 1, e.read(s)))),
);
define(
  "movsx",
  "0f bf /r",
  "Gv, Ew",
  (e, d, s) => e.write(d, cut(e, d.size, signed(e, 2, e.read(s)))),
);
define(
  "movsxd",
  "63 /r",
  "Gv, Ez",
  (e, d, s) => e.write(d, cut(e, d.size, signed(e, s.size, e.read(s)))),
  { longOnly: true },
);

define(
  "lea",
  "8d /r m",
  "Gv, M",
  (e, d, s) => e.write(d, cut(e, d.size, e.address(s))),
);

function xchg(e: Emitter, d: Operand, s: Operand): void {
  const b = e.read(s), a = e.readForWrite(d);
  e.write(d, b);
  e.write(s, a);
}
define("xchg", "86 /r", "Eb, Gb", xchg, { lock: true });
define("xchg", "87 /r", "Ev, Gv", xchg, { lock: true });
define("xchg", "90 +r", "Zv, rax", xchg);
// 90 without REX.B is NOP and leaves the upper half of RAX alone.
define("nop", "nb 90", "", () => {}, { rep: true });

function byteSwap(e: Emitter, size: number, v: Value): Value {
  const part = (shift: number, mask: bigint, w: Value) =>
    e.op(
      "i64.or",
      e.op("i64.shl", e.op("i64.and", w, e.i64(mask)), e.i64(shift)),
      e.op("i64.and", e.op("i64.shr_u", w, e.i64(shift)), e.i64(mask)),
    );
  let w = part(8, 0x00ff00ff00ff00ffn, v);
  if (size === 2) return cut(e, 2, w);
  w = part(16, 0x0000ffff0000ffffn, w);
  if (size === 4) return cut(e, 4, w);
  return e.op("i64.rotl", w, e.i64(32));
}
define("bswap", "0f c8 +r", "Zv", (e, d) => {
  // With a 16-bit operand the result is undefined; processors give zero.
  e.write(d, d.size === 2 ? e.i64(0) : byteSwap(e, d.size, e.read(d)));
});

for (let cc = 0; cc < 16; cc++) {
  const code = cc as Condition;
  define(
    `cmov${CONDITION_NAMES()[cc]}`,
    `0f ${hex(0x40 + cc)} /r`,
    "Gv, Ev",
    (e, d, s) => {
      const value = e.read(s);
      e.write(d, e.select(e.condition(code), value, e.read(d)));
    },
  );
  define(
    `set${CONDITION_NAMES()[cc]}`,
    `0f ${hex(0x90 + cc)} /r`,
    "Eb",
    (e, d) => {
      e.write(d, e.op("i64.extend_i32_u", e.condition(code)));
    },
  );
}

/** Suffixes of the condition codes, in encoding order. */
export function CONDITION_NAMES(): readonly string[] {
  return [
    "o",
    "no",
    "b",
    "ae",
    "e",
    "ne",
    "be",
    "a",
    "s",
    "ns",
    "p",
    "np",
    "l",
    "ge",
    "le",
    "g",
  ];
}

define("cbw", "98", "", (e) => {
  const size = e.size as 2 | 4 | 8;
  const half = (size / 2) as 1 | 2 | 4;
  e.setReg(RAX, size, cut(e, size, signed(e, half, e.getReg(RAX, half))));
}, { modes: true });
define("cwd", "99", "", (e) => {
  const size = e.size;
  e.setReg(
    RDX,
    size,
    cut(
      e,
      size,
      e.op("i64.shr_s", signed(e, size, e.getReg(RAX, size)), e.i64(63)),
    ),
  );
}, { modes: true });

define("cmpxchg", "0f b0 /r", "Eb, Gb", cmpxchg, { lock: true });
define("cmpxchg", "0f b1 /r", "Ev, Gv", cmpxchg, { lock: true });
function cmpxchg(e: Emitter, d: Operand, s: Operand): void {
  const source = e.read(s), a = e.readForWrite(d);
  const acc = e.getReg(RAX, d.size);
  const equal = e.op("i64.eq", acc, a);
  e.write(d, e.select(equal, source, a));
  // When equal the accumulator is not written, not even its upper half.
  e.if(e.op("i32.eqz", equal), () => e.setReg(RAX, d.size, a));
  e.flags.sub(d.size, acc, a, cut(e, d.size, e.op("i64.sub", acc, a)));
}

define("xadd", "0f c0 /r", "Eb, Gb", xadd, { lock: true });
define("xadd", "0f c1 /r", "Ev, Gv", xadd, { lock: true });
function xadd(e: Emitter, d: Operand, s: Operand): void {
  const b = e.read(s), a = e.readForWrite(d);
  const r = cut(e, d.size, e.op("i64.add", a, b));
  if (d.kind === "mem") {
    e.write(d, r);
    e.write(s, a);
  } else {
    e.write(s, a);
    e.write(d, r);
  }
  e.flags.add(d.size, a, b, r);
}

define(
  "cmpxchg8b",
  "0f c7 /1 m",
  "M",
  helper((cpu, insn) => {
    const s = cpu.state;
    const wide = insn.rexW;
    const half = wide ? 64n : 32n;
    const at = cpu.linear(insn, wide ? 16 : 8, true);
    if (wide && at & 15n) throw gp();
    cpu.probeWrite(at, wide ? 16 : 8);
    const low = wide ? cpu.read64(at) : BigInt(cpu.read32(at));
    const high = wide ? cpu.read64(at + 8n) : BigInt(cpu.read32(at + 4n));
    const mask = (1n << half) - 1n;
    const equal = (s.reg(RAX) & mask) === low && (s.reg(RDX) & mask) === high;
    const newLow = equal ? s.reg(3) & mask : low,
      newHigh = equal ? s.reg(1) & mask : high;
    if (wide) {
      cpu.write64(at, newLow);
      cpu.write64(at + 8n, newHigh);
    } else {
      cpu.write32(at, Number(newLow));
      cpu.write32(at + 4n, Number(newHigh));
    }
    if (!equal) {
      s.setReg(RAX, low, wide ? 8 : 4);
      s.setReg(RDX, high, wide ? 8 : 4);
    }
    s.setArithmeticFlags(
      (s.arithmeticFlags() & ~FLAG.ZF) | (equal ? FLAG.ZF : 0),
    );
  }),
  { lock: true },
);

function gp(): GuestFault {
  return new GuestFault(VECTOR.GP, 0);
}

// ---- multiplication and division ----

const MUL_UNDEFINED = FLAG.SF | FLAG.ZF | FLAG.AF | FLAG.PF;

/** The upper 64 bits of an unsigned 64 x 64 product. */
function mulHigh(e: Emitter, a: Value, b: Value): Value {
  const low = (v: Value) => e.op("i64.and", v, e.i64(0xffffffffn));
  const high = (v: Value) => e.op("i64.shr_u", v, e.i64(32));
  const al = low(a), ah = high(a), bl = low(b), bh = high(b);
  const ll = e.op("i64.mul", al, bl);
  const mid = e.op("i64.add", e.op("i64.mul", ah, bl), high(ll));
  const mid2 = e.op("i64.add", e.op("i64.mul", al, bh), low(mid));
  return e.op(
    "i64.add",
    e.op("i64.add", e.op("i64.mul", ah, bh), high(mid)),
    high(mid2),
  );
}

/** The upper 64 bits of a signed product. */
function mulHighSigned(e: Emitter, a: Value, b: Value): Value {
  const unsigned = mulHigh(e, a, b);
  const correct = (x: Value, y: Value) =>
    e.op("i64.and", e.op("i64.shr_s", x, e.i64(63)), y);
  return e.op(
    "i64.sub",
    e.op("i64.sub", unsigned, correct(a, b)),
    correct(b, a),
  );
}

function setProduct(e: Emitter, size: number, low: Value, high: Value): void {
  if (size === 1) {
    e.setReg(RAX, 2, e.op("i64.or", low, e.op("i64.shl", high, e.i64(8))));
  } else {
    e.setReg(RAX, size as 2 | 4 | 8, low);
    e.setReg(RDX, size as 2 | 4 | 8, high);
  }
}

function mulFlags(e: Emitter, size: number, low: Value, overflow: Value): void {
  const wide = e.op("i64.extend_i32_u", overflow);
  e.flags.result(size as 1 | 2 | 4 | 8, low, wide, wide);
}

function mul(e: Emitter, s: Operand): void {
  const size = s.size;
  const b = e.read(s), a = e.getReg(RAX, size);
  const product = e.op("i64.mul", a, b);
  const low = cut(e, size, product);
  const high = size === 8
    ? mulHigh(e, a, b)
    : cut(e, size, e.op("i64.shr_u", product, e.i64(8 * size)));
  mulFlags(e, size, low, e.op("i64.ne", high, e.i64(0)));
  setProduct(e, size, low, high);
}
define("mul", "f6 /4", "Eb", mul, { undefinedFlags: MUL_UNDEFINED });
define("mul", "f7 /4", "Ev", mul, { undefinedFlags: MUL_UNDEFINED });

function imul1(e: Emitter, s: Operand): void {
  const size = s.size;
  const b = signed(e, size, e.read(s)),
    a = signed(e, size, e.getReg(RAX, size));
  const product = e.op("i64.mul", a, b);
  const low = cut(e, size, product);
  const high = size === 8
    ? mulHighSigned(e, a, b)
    : cut(e, size, e.op("i64.shr_s", product, e.i64(8 * size)));
  const expected = cut(
    e,
    size,
    e.op("i64.shr_s", signed(e, size, low), e.i64(63)),
  );
  mulFlags(e, size, low, e.op("i64.ne", high, expected));
  setProduct(e, size, low, high);
}
define("imul", "f6 /5", "Eb", imul1, { undefinedFlags: MUL_UNDEFINED });
define("imul", "f7 /5", "Ev", imul1, { undefinedFlags: MUL_UNDEFINED });

function imulInto(e: Emitter, d: Operand, x: Operand, y: Operand): void {
  const size = d.size;
  const a = signed(e, size, e.read(x)), b = signed(e, size, e.read(y));
  const product = e.op("i64.mul", a, b);
  const low = cut(e, size, product);
  const overflow = size === 8
    ? e.op(
      "i64.ne",
      mulHighSigned(e, a, b),
      e.op("i64.shr_s", product, e.i64(63)),
    )
    : e.op("i64.ne", product, signed(e, size, low));
  mulFlags(e, size, low, overflow);
  e.write(d, low);
}
define("imul", "0f af /r", "Gv, Ev", (e, d, s) => imulInto(e, d, d, s), {
  undefinedFlags: MUL_UNDEFINED,
});
define("imul", "69 /r", "Gv, Ev, Iz", imulInto, {
  undefinedFlags: MUL_UNDEFINED,
});
define("imul", "6b /r", "Gv, Ev, Is", imulInto, {
  undefinedFlags: MUL_UNDEFINED,
});

const DIV_UNDEFINED = FLAG.CF | FLAG.OF | FLAG.SF | FLAG.ZF | FLAG.AF | FLAG.PF;

/** 128-bit division of RDX:RAX by the divisor in OFF.scratch; the quotient goes to scratch, the remainder to scratch + 8. */
function divideWide(isSigned: boolean) {
  return (cpu: { state: CpuState }) => {
    const s = cpu.state;
    const bits = isSigned ? BigInt.asIntN : BigInt.asUintN;
    const divisor = bits(64, s.get(OFF.scratch));
    const dividend = bits(128, (s.reg(RDX) << 64n) | s.reg(RAX));
    if (divisor === 0n) throw new GuestFault(VECTOR.DE);
    const quotient = dividend / divisor;
    if (bits(64, quotient) !== quotient) throw new GuestFault(VECTOR.DE);
    s.set(OFF.scratch, BigInt.asUintN(64, quotient));
    s.set(OFF.scratch + 8, BigInt.asUintN(64, dividend % divisor));
  };
}
defineSlow("div64", divideWide(false));
defineSlow("idiv64", divideWide(true));

function setQuotient(
  e: Emitter,
  size: number,
  quotient: Value,
  remainder: Value,
): void {
  setProduct(e, size, cut(e, size, quotient), cut(e, size, remainder));
}

function div(e: Emitter, s: Operand): void {
  const size = s.size;
  const b = e.read(s);
  e.faultIf(e.op("i64.eqz", b), VECTOR.DE);
  if (size === 8) {
    const high = e.getReg(RDX, 8);
    e.if(e.op("i64.eqz", high), () => {
      const a = e.getReg(RAX, 8);
      setQuotient(e, 8, e.op("i64.div_u", a, b), e.op("i64.rem_u", a, b));
    }, () => {
      e.put(OFF.scratch, b);
      e.slow("div64");
      setQuotient(e, 8, e.get(OFF.scratch), e.get(OFF.scratch + 8));
    });
    return;
  }
  const a = size === 1 ? e.getReg(RAX, 2) : e.op(
    "i64.or",
    e.getReg(RAX, size),
    e.op("i64.shl", e.getReg(RDX, size), e.i64(8 * size)),
  );
  const quotient = e.op("i64.div_u", a, b);
  e.faultIf(e.op("i64.ne", cut(e, size, quotient), quotient), VECTOR.DE);
  setQuotient(e, size, quotient, e.op("i64.rem_u", a, b));
}
define("div", "f6 /6", "Eb", div, { undefinedFlags: DIV_UNDEFINED });
define("div", "f7 /6", "Ev", div, { undefinedFlags: DIV_UNDEFINED });

function idiv(e: Emitter, s: Operand): void {
  const size = s.size;
  const b = signed(e, size, e.read(s));
  e.faultIf(e.op("i64.eqz", b), VECTOR.DE);
  if (size === 8) {
    const a = e.getReg(RAX, 8);
    // The dividend fits 64 bits, and the one quotient that does not (minimum / -1) is left to the slow path.
    const simple = e.op(
      "i32.and",
      e.op("i64.eq", e.getReg(RDX, 8), e.op("i64.shr_s", a, e.i64(63))),
      e.op("i64.ne", b, e.i64(-1)),
    );
    e.if(simple, () => {
      setQuotient(e, 8, e.op("i64.div_s", a, b), e.op("i64.rem_s", a, b));
    }, () => {
      e.put(OFF.scratch, b);
      e.slow("idiv64");
      setQuotient(e, 8, e.get(OFF.scratch), e.get(OFF.scratch + 8));
    });
    return;
  }
  const a = size === 1 ? signed(e, 2, e.getReg(RAX, 2)) : size === 2
    ? signed(
      e,
      4,
      e.op(
        "i64.or",
        e.getReg(RAX, 2),
        e.op("i64.shl", e.getReg(RDX, 2), e.i64(16)),
      ),
    )
    : e.op(
      "i64.or",
      e.getReg(RAX, 4),
      e.op("i64.shl", e.getReg(RDX, 4), e.i64(32)),
    );
  // The minimum by -1 would trap in wasm; its quotient does not fit in any case.
  if (size === 4) {
    e.faultIf(
      e.op(
        "i32.and",
        e.op("i64.eq", a, e.i64(-0x8000000000000000n)),
        e.op("i64.eq", b, e.i64(-1)),
      ),
      VECTOR.DE,
    );
  }
  const quotient = e.op("i64.div_s", a, b);
  e.faultIf(e.op("i64.ne", signed(e, size, quotient), quotient), VECTOR.DE);
  setQuotient(e, size, quotient, e.op("i64.rem_s", a, b));
}
define("idiv", "f6 /7", "Eb", idiv, { undefinedFlags: DIV_UNDEFINED });
define("idiv", "f7 /7", "Ev", idiv, { undefinedFlags: DIV_UNDEFINED });

// ---- decimal adjustment ----

const AL = 0, AH = 1;

define("daa", "27", "", helper((cpu) => decimalAdjust(cpu.state, 1)), {
  legacyOnly: true,
});
define("das", "2f", "", helper((cpu) => decimalAdjust(cpu.state, -1)), {
  legacyOnly: true,
});
function decimalAdjust(s: CpuState, sign: 1 | -1): void {
  let flags = s.arithmeticFlags();
  const old = s.b[AL], oldCarry = flags & FLAG.CF;
  let al = old;
  let carry = 0, aux = 0;
  if ((old & 15) > 9 || flags & FLAG.AF) {
    al += sign * 6;
    if (al < 0 || al > 0xff) carry = FLAG.CF;
    if (oldCarry) carry = FLAG.CF;
    aux = FLAG.AF;
  }
  if (old > 0x99 || oldCarry) {
    al += sign * 0x60;
    carry = FLAG.CF;
  } else if (sign === 1) carry = 0;
  al &= 0xff;
  flags = carry | aux | resultFlags(al);
  s.b[AL] = al;
  s.setArithmeticFlags(flags);
}

/** SF, ZF and PF of a byte. */
function resultFlags(value: number): number {
  let ones = value ^ (value >> 4);
  ones = (0x9669 >> (ones & 15)) & 1;
  return (value === 0 ? FLAG.ZF : 0) | (value & 0x80 ? FLAG.SF : 0) |
    (ones ? FLAG.PF : 0);
}

define("aaa", "37", "", helper((cpu) => asciiAdjust(cpu.state, 1)), {
  legacyOnly: true,
});
define("aas", "3f", "", helper((cpu) => asciiAdjust(cpu.state, -1)), {
  legacyOnly: true,
});
function asciiAdjust(s: CpuState, sign: 1 | -1): void {
  const flags = s.arithmeticFlags();
  let set = 0;
  if ((s.b[AL] & 15) > 9 || flags & FLAG.AF) {
    s.setReg(
      RAX,
      BigInt(((s.b[AL] | (s.b[AH] << 8)) + sign * 0x106) & 0xffff),
      2,
    );
    set = FLAG.CF | FLAG.AF;
  }
  s.b[AL] &= 15;
  s.setArithmeticFlags(set | resultFlags(s.b[AL]));
}

define(
  "aam",
  "d4",
  "Ib",
  helper((cpu, insn) => {
    const s = cpu.state;
    const base = Number(insn.imm);
    if (base === 0) throw new GuestFault(VECTOR.DE);
    const al = s.b[AL];
    s.b[AH] = Math.floor(al / base);
    s.b[AL] = al % base;
    s.setArithmeticFlags(resultFlags(s.b[AL]));
  }),
  { legacyOnly: true },
);
define(
  "aad",
  "d5",
  "Ib",
  helper((cpu, insn) => {
    const s = cpu.state;
    s.b[AL] = (s.b[AL] + s.b[AH] * Number(insn.imm)) & 0xff;
    s.b[AH] = 0;
    s.setArithmeticFlags(resultFlags(s.b[AL]));
  }),
  { legacyOnly: true },
);
define(
  "salc",
  "d6",
  "",
  helper((cpu) => {
    cpu.state.b[AL] = cpu.state.arithmeticFlags() & FLAG.CF ? 0xff : 0;
  }),
  { legacyOnly: true },
);

// ---- flags ----

define("clc", "f8", "", (e) => e.flags.carry(e.i64(0)));
define("stc", "f9", "", (e) => e.flags.carry(e.i64(1)));
define(
  "cmc",
  "f5",
  "",
  (e) => e.flags.carry(e.op("i64.xor", e.flags.getCarry(), e.i64(1))),
);
define(
  "cld",
  "fc",
  "",
  (e) => e.put(OFF.rflags, e.op("i64.and", e.get(OFF.rflags), e.i64(~FLAG.DF))),
);
define(
  "std",
  "fd",
  "",
  (e) => e.put(OFF.rflags, e.op("i64.or", e.get(OFF.rflags), e.i64(FLAG.DF))),
  { noOracle: true },
);
const AH_FLAGS = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF;
define("lahf", "9f", "", (e) => {
  const flags = e.op(
    "i64.or",
    e.op("i64.and", e.flags.get(), e.i64(AH_FLAGS)),
    e.i64(FLAG.FIXED),
  );
  const rest = e.op("i64.and", e.getReg(RAX, 8), e.i64(~0xff00n));
  e.setReg(RAX, 8, e.op("i64.or", rest, e.op("i64.shl", flags, e.i64(8))));
});
define("sahf", "9e", "", (e) => {
  const ah = e.op(
    "i64.and",
    e.op("i64.shr_u", e.getReg(RAX, 8), e.i64(8)),
    e.i64(AH_FLAGS),
  );
  e.flags.set(
    e.op("i64.or", ah, e.op("i64.and", e.flags.get(), e.i64(FLAG.OF))),
  );
});

// ---- hints and fences ----

for (const opcode of ["18", "19", "1a", "1b", "1c", "1d", "1e", "1f"]) {
  define("nop", `0f ${opcode} /r`, "Ev", () => {});
}
define("prefetch", "0f 0d /r m", "Mb", () => {}, { noOracle: true });
for (const n of [5, 6, 7]) {
  define("fence", `np 0f ae /${n} r`, "Rv", () => {}, {
    rep: true,
    noOracle: true,
  });
}
define("clflush", "np 0f ae /7 m", "Mb", (e, m) => void e.read(m), {
  noOracle: true,
});

// ---- table lookup ----

define(
  "xlat",
  "d7",
  "",
  helper((cpu, insn) => {
    const s = cpu.state;
    const mask = (1n << BigInt(insn.addressSize * 8)) - 1n;
    const at = cpu.segmentAddress(
      insn.segment,
      (s.reg(3) + BigInt(s.b[AL])) & mask,
      1,
      false,
    );
    s.b[AL] = cpu.read8(at);
  }),
  { noOracle: true },
);
