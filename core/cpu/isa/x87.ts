/**
 * The x87 instructions that compute, load and store: opcodes D8 to DF except the control
 * instructions, which are in x87_control.ts.
 *
 * Intel SDM volume 2, the F instructions; appendix A.5 (escape opcodes) for the encodings.
 * The few encodings that no manual lists but every processor has (FFREEP, FXCH4, ...) are here
 * too, under the names that they came to have.
 *
 * @module
 */
import { type FpEnv, IE, isStopped, OE, PE, UE } from "../float/env.ts";
import * as f80 from "../float/float80.ts";
import type { F80, Relation } from "../float/float80.ts";
import type { HelperCpu, Insn } from "../helper.ts";
import { FLAG } from "../state.ts";
import { define, helper, type HelperSemantic } from "./define.ts";
import {
  checkPending,
  CONDITION_CODES,
  environment,
  isEmpty,
  moveTop,
  notePointers,
  overflow,
  pop,
  push,
  pushChecked,
  readSt,
  report,
  setConditions,
  setEmpty,
  SW,
  underflow,
  writeSt,
} from "./x87_state.ts";

type Run = (cpu: HelperCpu, insn: Insn) => void;

/** A waiting instruction that becomes the last instruction. */
function waiting(run: Run): HelperSemantic {
  return helper((cpu, insn) => {
    checkPending(cpu.state);
    run(cpu, insn);
    notePointers(cpu, insn);
  });
}

function x87(name: string, encoding: string, operands: string, run: Run): void {
  define(name, encoding, operands, waiting(run), { unit: "x87" });
}

/** Register number of a register form. */
function sti(insn: Insn): number {
  return insn.rm & 7;
}

// Memory operands, read before anything changes so that faults are precise.

type Source = (cpu: HelperCpu, insn: Insn) => F80;

const float32Source: Source = (cpu, insn) =>
  f80.widen32(cpu.read32(cpu.linear(insn, 4, false)));
const float64Source: Source = (cpu, insn) =>
  f80.widen64(cpu.read64(cpu.linear(insn, 8, false)));
const int16Source: Source = (cpu, insn) =>
  f80.fromInteger(
    BigInt.asIntN(16, BigInt(cpu.read16(cpu.linear(insn, 2, false)))),
  );
const int32Source: Source = (cpu, insn) =>
  f80.fromInteger(BigInt(cpu.read32(cpu.linear(insn, 4, false)) | 0));
const int64Source: Source = (cpu, insn) =>
  f80.fromInteger(BigInt.asIntN(64, cpu.read64(cpu.linear(insn, 8, false))));

/** The ten bytes of an m80 operand. */
function readTenBytes(cpu: HelperCpu, insn: Insn): F80 {
  const at = cpu.linear(insn, 10, false);
  return { sig: cpu.read64(at), se: cpu.read16(at + 8n) };
}

function writeTenBytes(cpu: HelperCpu, insn: Insn, value: F80): void {
  const at = cpu.linear(insn, 10, true);
  cpu.probeWrite(at, 10);
  cpu.write64(at, value.sig);
  cpu.write16(at + 8n, value.se);
}

// Arithmetic with two operands.

type Arithmetic = (x: F80, y: F80, env: FpEnv) => F80;

const subReversed: Arithmetic = (x, y, env) => f80.sub(y, x, env);
const divReversed: Arithmetic = (x, y, env) => f80.div(y, x, env);

/** By ModRM.reg: name and operation of ST(0) with a source. */
const ARITHMETIC: readonly (readonly [number, string, Arithmetic])[] = [
  [0, "add", f80.add],
  [1, "mul", f80.mul],
  [4, "sub", f80.sub],
  [5, "subr", subReversed],
  [6, "div", f80.div],
  [7, "divr", divReversed],
];

/** By ModRM.reg: the same with ST(i) as destination, where the reversed forms change places. */
const ARITHMETIC_TO_STI: readonly (readonly [number, string, Arithmetic])[] = [
  [0, "add", f80.add],
  [1, "mul", f80.mul],
  [4, "subr", subReversed],
  [5, "sub", f80.sub],
  [6, "divr", divReversed],
  [7, "div", f80.div],
];

/** ST(0) = ST(0) op source. */
function arithmeticFrom(source: Source, operation: Arithmetic): Run {
  return (cpu, insn) => {
    const s = cpu.state;
    const y = source(cpu, insn);
    if (isEmpty(s, 0)) {
      if (underflow(cpu)) writeSt(s, 0, f80.DEFAULT_NAN);
      return;
    }
    const env = environment(s);
    const result = operation(readSt(s, 0), y, env);
    if (report(cpu, env)) writeSt(s, 0, result);
  };
}

/** ST(destination) = ST(destination) op ST(source), and perhaps a pop. */
function arithmeticRegisters(
  cpu: HelperCpu,
  to: number,
  from: number,
  operation: Arithmetic,
  pops: boolean,
): void {
  const s = cpu.state;
  if (isEmpty(s, to) || isEmpty(s, from)) {
    if (!underflow(cpu)) return;
    writeSt(s, to, f80.DEFAULT_NAN);
  } else {
    const env = environment(s);
    const result = operation(readSt(s, to), readSt(s, from), env);
    if (!report(cpu, env)) return;
    writeSt(s, to, result);
  }
  if (pops) pop(s);
}

const MEMORY_SOURCES: readonly (readonly [string, string, string, Source])[] = [
  ["d8", "f", "Md", float32Source],
  ["dc", "f", "Mq", float64Source],
  ["da", "fi", "Md", int32Source],
  ["de", "fi", "Mw", int16Source],
];

for (const [opcode, prefix, operand, source] of MEMORY_SOURCES) {
  for (const [reg, name, operation] of ARITHMETIC) {
    x87(
      `${prefix}${name}`,
      `${opcode} /${reg} m`,
      operand,
      arithmeticFrom(source, operation),
    );
  }
}
for (const [reg, name, operation] of ARITHMETIC) {
  x87(
    `f${name}`,
    `d8 /${reg} r`,
    "",
    (cpu, insn) => arithmeticRegisters(cpu, 0, sti(insn), operation, false),
  );
}
for (const [reg, name, operation] of ARITHMETIC_TO_STI) {
  x87(
    `f${name}`,
    `dc /${reg} r`,
    "",
    (cpu, insn) => arithmeticRegisters(cpu, sti(insn), 0, operation, false),
  );
  x87(
    `f${name}p`,
    `de /${reg} r`,
    "",
    (cpu, insn) => arithmeticRegisters(cpu, sti(insn), 0, operation, true),
  );
}

// Comparisons.

/** Condition codes of a relation. */
function conditionsOf(relation: Relation): number {
  switch (relation) {
    case f80.UNORDERED:
      return CONDITION_CODES;
    case f80.LESS:
      return SW.C0;
    case f80.EQUAL:
      return SW.C3;
    default:
      return 0;
  }
}

/**
 * Compares ST(0) with what is at hand (undefined: an empty register) and pops. An unmasked
 * exception keeps it from popping, not from setting the condition codes.
 */
function compare(
  cpu: HelperCpu,
  y: F80 | undefined,
  quietly: boolean,
  pops: number,
): void {
  const s = cpu.state;
  let relation: Relation = f80.UNORDERED;
  let completed: boolean;
  if (isEmpty(s, 0) || y === undefined) {
    completed = underflow(cpu);
  } else {
    const env = environment(s);
    relation = f80.compare(readSt(s, 0), y, quietly, env);
    completed = report(cpu, env);
  }
  setConditions(s, CONDITION_CODES, conditionsOf(relation));
  for (let i = 0; completed && i < pops; i++) pop(s);
}

function compareRegister(
  cpu: HelperCpu,
  i: number,
  quietly: boolean,
  pops: number,
): void {
  const s = cpu.state;
  compare(cpu, isEmpty(s, i) ? undefined : readSt(s, i), quietly, pops);
}

for (const [opcode, prefix, operand, source] of MEMORY_SOURCES) {
  x87(
    `${prefix}com`,
    `${opcode} /2 m`,
    operand,
    (cpu, insn) => compare(cpu, source(cpu, insn), false, 0),
  );
  x87(
    `${prefix}comp`,
    `${opcode} /3 m`,
    operand,
    (cpu, insn) => compare(cpu, source(cpu, insn), false, 1),
  );
}
for (
  const [name, encoding, quietly, pops] of [
    ["fcom", "d8 /2 r", false, 0],
    ["fcomp", "d8 /3 r", false, 1],
    ["fcom2", "dc /2 r", false, 0],
    ["fcomp3", "dc /3 r", false, 1],
    ["fcomp5", "de /2 r", false, 1],
    ["fucom", "dd /4 r", true, 0],
    ["fucomp", "dd /5 r", true, 1],
  ] as const
) {
  x87(
    name,
    encoding,
    "",
    (cpu, insn) => compareRegister(cpu, sti(insn), quietly, pops),
  );
}
x87("fcompp", "de d9", "", (cpu) => compareRegister(cpu, 1, false, 2));
x87("fucompp", "da e9", "", (cpu) => compareRegister(cpu, 1, true, 2));
x87("ftst", "d9 e4", "", (cpu) => compare(cpu, f80.ZERO, false, 0));

/** EFLAGS of a relation. */
function flagsOf(relation: Relation): number {
  switch (relation) {
    case f80.UNORDERED:
      return FLAG.ZF | FLAG.PF | FLAG.CF;
    case f80.LESS:
      return FLAG.CF;
    case f80.EQUAL:
      return FLAG.ZF;
    default:
      return 0;
  }
}

function compareToFlags(
  cpu: HelperCpu,
  i: number,
  quietly: boolean,
  pops: boolean,
): void {
  const s = cpu.state;
  let relation: Relation = f80.UNORDERED;
  let completed: boolean;
  if (isEmpty(s, 0) || isEmpty(s, i)) {
    completed = underflow(cpu);
  } else {
    const env = environment(s);
    relation = f80.compare(readSt(s, 0), readSt(s, i), quietly, env);
    completed = report(cpu, env);
  }
  s.setArithmeticFlags(flagsOf(relation));
  if (completed && pops) pop(s);
}

for (
  const [name, encoding, quietly, pops] of [
    ["fucomi", "db /5 r", true, false],
    ["fcomi", "db /6 r", false, false],
    ["fucompi", "df /5 r", true, true],
    ["fcompi", "df /6 r", false, true],
  ] as const
) {
  x87(
    name,
    encoding,
    "",
    (cpu, insn) => compareToFlags(cpu, sti(insn), quietly, pops),
  );
}

/** C3, C2 and C0 of FXAM's three bits. */
function examination(bits: number): number {
  return (bits & 4 ? SW.C3 : 0) | (bits & 2 ? SW.C2 : 0) |
    (bits & 1 ? SW.C0 : 0);
}

x87("fxam", "d9 e5", "", (cpu) => {
  const s = cpu.state;
  const x = readSt(s, 0);
  const found = isEmpty(s, 0) ? f80.FXAM_EMPTY : f80.examine(x);
  const sign = x.se & f80.SIGN ? SW.C1 : 0;
  setConditions(s, CONDITION_CODES | SW.C1, examination(found) | sign);
});

// Loads.

x87("fld", "d9 /0 m", "Md", (cpu, insn) => {
  const bits = cpu.read32(cpu.linear(insn, 4, false));
  pushChecked(cpu, () => loaded(cpu, (env) => f80.fromFloat32(bits, env)));
});
x87("fld", "dd /0 m", "Mq", (cpu, insn) => {
  const bits = cpu.read64(cpu.linear(insn, 8, false));
  pushChecked(cpu, () => loaded(cpu, (env) => f80.fromFloat64(bits, env)));
});

/** A converted operand; an unmasked IE keeps it from being pushed, an unmasked DE does not. */
function loaded(cpu: HelperCpu, convert: (env: FpEnv) => F80): F80 | undefined {
  const env = environment(cpu.state);
  const value = convert(env);
  report(cpu, env);
  return (env.flags & ~env.masks & IE) === 0 ? value : undefined;
}

x87("fld", "db /5 m", "M", (cpu, insn) => {
  const value = readTenBytes(cpu, insn);
  pushChecked(cpu, () => value);
});
x87("fbld", "df /4 m", "M", (cpu, insn) => {
  const { se, sig } = readTenBytes(cpu, insn);
  pushChecked(cpu, () => f80.fromBcd((BigInt(se) << 64n) | sig));
});
for (
  const [encoding, operand, source] of [
    ["df /0 m", "Mw", int16Source],
    ["db /0 m", "Md", int32Source],
    ["df /5 m", "Mq", int64Source],
  ] as const
) {
  x87("fild", encoding, operand, (cpu, insn) => {
    const value = source(cpu, insn);
    pushChecked(cpu, () => value);
  });
}

x87("fld", "d9 /0 r", "", (cpu, insn) => {
  const s = cpu.state;
  const i = sti(insn);
  pushChecked(cpu, () => {
    if (!isEmpty(s, i)) return readSt(s, i);
    return underflow(cpu) ? f80.DEFAULT_NAN : undefined;
  });
});

for (
  const [name, opcode, constant] of [
    ["fld1", "e8", () => f80.ONE],
    ["fldl2t", "e9", (env: FpEnv) => f80.LOAD_L2T[env.rounding]],
    ["fldl2e", "ea", (env: FpEnv) => f80.LOAD_L2E[env.rounding]],
    ["fldpi", "eb", (env: FpEnv) => f80.LOAD_PI[env.rounding]],
    ["fldlg2", "ec", (env: FpEnv) => f80.LOAD_LG2[env.rounding]],
    ["fldln2", "ed", (env: FpEnv) => f80.LOAD_LN2[env.rounding]],
    ["fldz", "ee", () => f80.ZERO],
  ] as const
) {
  x87(
    name,
    `d9 ${opcode}`,
    "",
    (cpu) => pushChecked(cpu, () => constant(environment(cpu.state))),
  );
}

// Stores.

/** How one kind of store converts ST(0) and writes it. */
interface Store {
  readonly bytes: number;
  /** Converts; the result is the bits to write. */
  readonly convert: (x: F80, env: FpEnv) => bigint;
  /** What is stored for an empty register. */
  readonly indefinite: bigint;
}

const FLOAT32: Store = {
  bytes: 4,
  convert: (x, env) => BigInt(f80.toFloat32(x, env)),
  indefinite: 0xffc00000n,
};
const FLOAT64: Store = {
  bytes: 8,
  convert: f80.toFloat64,
  indefinite: 0xfff8000000000000n,
};
const BCD: Store = {
  bytes: 10,
  convert: f80.toBcd,
  indefinite: 0xffffc000000000000000n,
};

function integerStore(width: 16 | 32 | 64, truncate: boolean): Store {
  return {
    bytes: width / 8,
    convert: (x, env) => f80.toInteger(x, width, truncate, env),
    indefinite: 1n << BigInt(width - 1),
  };
}

function writeBits(
  cpu: HelperCpu,
  at: bigint,
  bytes: number,
  bits: bigint,
): void {
  switch (bytes) {
    case 2:
      return cpu.write16(at, Number(BigInt.asUintN(16, bits)));
    case 4:
      return cpu.write32(at, Number(BigInt.asUintN(32, bits)));
    case 8:
      return cpu.write64(at, BigInt.asUintN(64, bits));
    default:
      cpu.probeWrite(at, bytes);
      cpu.write64(at, BigInt.asUintN(64, bits));
      cpu.write16(at + 8n, Number(BigInt.asUintN(16, bits >> 64n)));
  }
}

/** An unmasked overflow or underflow keeps a store to memory from happening, too. */
function storeStopped(env: FpEnv): boolean {
  return isStopped(env) || (env.flags & ~env.masks & (OE | UE)) !== 0;
}

function store({ bytes, convert, indefinite }: Store, pops: boolean): Run {
  return (cpu, insn) => {
    const s = cpu.state;
    const at = cpu.linear(insn, bytes, true);
    if (isEmpty(s, 0)) {
      cpu.probeWrite(at, bytes);
      if (!underflow(cpu)) return;
      writeBits(cpu, at, bytes, indefinite);
    } else {
      const env = environment(s);
      const bits = convert(readSt(s, 0), env);
      const stopped = storeStopped(env);
      if (stopped) {
        cpu.probeWrite(at, bytes);
        env.roundedUp = false;
        env.flags &= ~PE;
      } else {
        writeBits(cpu, at, bytes, bits);
      }
      report(cpu, env);
      if (stopped) return;
    }
    if (pops) pop(s);
  };
}

for (
  const [name, encoding, operand, kind, pops] of [
    ["fst", "d9 /2 m", "Md", FLOAT32, false],
    ["fstp", "d9 /3 m", "Md", FLOAT32, true],
    ["fst", "dd /2 m", "Mq", FLOAT64, false],
    ["fstp", "dd /3 m", "Mq", FLOAT64, true],
    ["fist", "df /2 m", "Mw", integerStore(16, false), false],
    ["fistp", "df /3 m", "Mw", integerStore(16, false), true],
    ["fist", "db /2 m", "Md", integerStore(32, false), false],
    ["fistp", "db /3 m", "Md", integerStore(32, false), true],
    ["fistp", "df /7 m", "Mq", integerStore(64, false), true],
    ["fisttp", "df /1 m", "Mw", integerStore(16, true), true],
    ["fisttp", "db /1 m", "Md", integerStore(32, true), true],
    ["fisttp", "dd /1 m", "Mq", integerStore(64, true), true],
    ["fbstp", "df /6 m", "M", BCD, true],
  ] as const
) {
  x87(name, encoding, operand, store(kind, pops));
}

x87("fstp", "db /7 m", "M", (cpu, insn) => {
  const s = cpu.state;
  if (isEmpty(s, 0)) {
    cpu.probeWrite(cpu.linear(insn, 10, true), 10);
    if (!underflow(cpu)) return;
    writeTenBytes(cpu, insn, f80.DEFAULT_NAN);
  } else {
    writeTenBytes(cpu, insn, readSt(s, 0));
    setConditions(s, SW.C1, 0);
  }
  pop(s);
});

/** FST and FSTP to a register. */
function copyTo(pops: boolean): Run {
  return (cpu, insn) => {
    const s = cpu.state;
    if (isEmpty(s, 0)) {
      if (!underflow(cpu)) return;
      writeSt(s, sti(insn), f80.DEFAULT_NAN);
    } else {
      setConditions(s, SW.C1, 0);
      writeSt(s, sti(insn), readSt(s, 0));
    }
    if (pops) pop(s);
  };
}

x87("fst", "dd /2 r", "", copyTo(false));
x87("fstp", "dd /3 r", "", copyTo(true));
x87("fstp1", "d9 /3 r", "", (cpu, insn) => {
  // Unlike FSTP: an empty ST(0) is popped without a word.
  if (isEmpty(cpu.state, 0)) pop(cpu.state);
  else copyTo(true)(cpu, insn);
});
x87("fstp8", "df /2 r", "", copyTo(true));
x87("fstp9", "df /3 r", "", copyTo(true));

// Moves between registers.

const exchange: Run = (cpu, insn) => {
  const s = cpu.state;
  const i = sti(insn);
  const empty0 = isEmpty(s, 0), emptyI = isEmpty(s, i);
  if (empty0 || emptyI) {
    if (!underflow(cpu)) return;
  } else {
    setConditions(s, SW.C1, 0);
  }
  const x = empty0 ? f80.DEFAULT_NAN : readSt(s, 0);
  const y = emptyI ? f80.DEFAULT_NAN : readSt(s, i);
  writeSt(s, 0, y);
  writeSt(s, i, x);
};

x87("fxch", "d9 /1 r", "", exchange);
x87("fxch4", "dd /1 r", "", exchange);
x87("fxch7", "df /1 r", "", exchange);

/** Conditional moves, by opcode and ModRM.reg: the flags looked at, and whether they must be set. */
for (
  const [name, encoding, flags, wanted] of [
    ["fcmovb", "da /0 r", FLAG.CF, true],
    ["fcmove", "da /1 r", FLAG.ZF, true],
    ["fcmovbe", "da /2 r", FLAG.CF | FLAG.ZF, true],
    ["fcmovu", "da /3 r", FLAG.PF, true],
    ["fcmovnb", "db /0 r", FLAG.CF, false],
    ["fcmovne", "db /1 r", FLAG.ZF, false],
    ["fcmovnbe", "db /2 r", FLAG.CF | FLAG.ZF, false],
    ["fcmovnu", "db /3 r", FLAG.PF, false],
  ] as const
) {
  x87(name, encoding, "", (cpu, insn) => {
    const s = cpu.state;
    if (isEmpty(s, 0) || isEmpty(s, sti(insn))) {
      if (underflow(cpu)) writeSt(s, 0, f80.DEFAULT_NAN);
      return;
    }
    setConditions(s, SW.C1, 0);
    if (((s.arithmeticFlags() & flags) !== 0) === wanted) {
      writeSt(s, 0, readSt(s, sti(insn)));
    }
  });
}

x87("ffree", "dd /0 r", "", (cpu, insn) => setEmpty(cpu.state, sti(insn)));
x87("ffreep", "df /0 r", "", (cpu, insn) => {
  setEmpty(cpu.state, sti(insn));
  pop(cpu.state);
});
x87("fincstp", "d9 f7", "", (cpu) => {
  moveTop(cpu.state, 1);
  setConditions(cpu.state, SW.C1, 0);
});
x87("fdecstp", "d9 f6", "", (cpu) => {
  moveTop(cpu.state, -1);
  setConditions(cpu.state, SW.C1, 0);
});
x87("fnop", "d9 d0", "", () => {});

// Functions of one operand.

for (
  const [name, opcode, operation] of [
    ["fchs", "e0", f80.negate],
    ["fabs", "e1", f80.abs],
    ["fsqrt", "fa", f80.sqrt],
    ["frndint", "fc", f80.roundToInteger],
    ["f2xm1", "f0", f80.exp2Minus1],
  ] as const
) {
  x87(name, `d9 ${opcode}`, "", (cpu) => {
    const s = cpu.state;
    if (isEmpty(s, 0)) {
      if (underflow(cpu)) writeSt(s, 0, f80.DEFAULT_NAN);
      return;
    }
    const env = environment(s);
    const result = operation(readSt(s, 0), env);
    if (report(cpu, env)) writeSt(s, 0, result);
  });
}

for (
  const [name, opcode, operation] of [["fsin", "fe", f80.sine], [
    "fcos",
    "ff",
    f80.cosine,
  ]] as const
) {
  x87(name, `d9 ${opcode}`, "", (cpu) => {
    const s = cpu.state;
    setConditions(s, SW.C2, 0);
    if (isEmpty(s, 0)) {
      if (underflow(cpu)) writeSt(s, 0, f80.DEFAULT_NAN);
      return;
    }
    const env = environment(s);
    const result = operation(readSt(s, 0), env);
    if (result === undefined) setConditions(s, SW.C1 | SW.C2, SW.C2);
    else if (report(cpu, env)) writeSt(s, 0, result);
  });
}

/** Functions with two results: one replaces ST(0), the other is pushed. */
type TwoResults = (
  x: F80,
  env: FpEnv,
) => readonly [replaced: F80, pushed: F80] | undefined;

for (
  const [name, opcode, operation] of [
    ["fptan", "f2", (x, env) => {
      const r = f80.tangent(x, env);
      return r && [r.tan, r.pushed];
    }],
    ["fsincos", "fb", (x, env) => {
      const r = f80.sineCosine(x, env);
      return r && [r.sin, r.cos];
    }],
    ["fxtract", "f4", (x, env) => {
      const r = f80.extract(x, env);
      return [r.exponent, r.significand];
    }],
  ] as readonly (readonly [string, string, TwoResults])[]
) {
  const trigonometric = name !== "fxtract";
  x87(name, `d9 ${opcode}`, "", (cpu) => {
    const s = cpu.state;
    if (trigonometric) setConditions(s, SW.C2, 0);
    if (isEmpty(s, 0) || !isEmpty(s, -1)) {
      if (!(isEmpty(s, 0) ? underflow(cpu) : overflow(cpu))) return;
      writeSt(s, 0, f80.DEFAULT_NAN);
      push(s, f80.DEFAULT_NAN);
      return;
    }
    const env = environment(s);
    const results = operation(readSt(s, 0), env);
    if (results === undefined) return setConditions(s, SW.C1 | SW.C2, SW.C2);
    if (!report(cpu, env)) return;
    writeSt(s, 0, results[0]);
    push(s, results[1]);
  });
}

// Functions of two operands.

for (
  const [name, opcode, operation] of [
    ["fyl2x", "f1", f80.yLog2],
    ["fyl2xp1", "f9", f80.yLog2Plus1],
    ["fpatan", "f3", f80.arctangent],
  ] as const
) {
  x87(name, `d9 ${opcode}`, "", (cpu) => {
    const toSt1: Arithmetic = (y, x, env) => operation(x, y, env);
    arithmeticRegisters(cpu, 1, 0, toSt1, true);
  });
}

x87(
  "fscale",
  "d9 fd",
  "",
  (cpu) => arithmeticRegisters(cpu, 0, 1, f80.scale, false),
);

/** C0, C3 and C1 of the low three bits of a quotient. */
function quotientConditions(quotient: number): number {
  return (quotient & 4 ? SW.C0 : 0) | (quotient & 2 ? SW.C3 : 0) |
    (quotient & 1 ? SW.C1 : 0);
}

for (
  const [name, opcode, nearest] of [["fprem", "f8", false], [
    "fprem1",
    "f5",
    true,
  ]] as const
) {
  x87(name, `d9 ${opcode}`, "", (cpu) => {
    const s = cpu.state;
    if (isEmpty(s, 0) || isEmpty(s, 1)) {
      if (!underflow(cpu)) return;
      writeSt(s, 0, f80.DEFAULT_NAN);
      setConditions(s, CONDITION_CODES, 0);
      return;
    }
    const env = environment(s);
    const { value, quotient, incomplete } = f80.remainder(
      readSt(s, 0),
      readSt(s, 1),
      nearest,
      env,
    );
    if (!report(cpu, env)) return;
    writeSt(s, 0, value);
    const conditions = quotientConditions(quotient) | (incomplete ? SW.C2 : 0);
    setConditions(s, CONDITION_CODES | SW.C1, conditions);
  });
}
