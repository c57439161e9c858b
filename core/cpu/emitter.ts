/**
 * The interface between the meaning of an instruction and the code that is made of it (ENGINE.md section 1).
 *
 * A semantic is a function that calls an {@linkcode Emitter}. The interpreter's emitter makes a handler whose operands
 * are fields of a record; the compiler's emitter makes straight code with constant operands. A semantic must not know
 * which: it sees operands only through {@linkcode Emitter.read} and its kin.
 *
 * Rules for a semantic, so that faults are precise:
 * 1. Read (and with {@linkcode Emitter.readForWrite}, check for writing) all memory operands first.
 * 2. Then write memory, then flags, then registers. After the first register or flag write nothing may fault.
 *
 * @module
 */

/** A wasm value type. */
export type WasmType = "i32" | "i64" | "f32" | "f64" | "v128";

/** A value: computed once, usable any number of times within the semantic that made it. */
export interface Value {
  readonly type: WasmType;
}

/** A mutable variable of a semantic. */
export interface Variable extends Value {
  readonly variable: true;
}

/** Operand width in bytes. */
export type Size = 1 | 2 | 4 | 8 | 16;

/** An operand as the emitter hands it to the semantic; opaque but for its kind and width. */
export interface Operand {
  /** Where it is: general register, memory, immediate, XMM register, MMX register. */
  readonly kind: "reg" | "mem" | "imm" | "xmm" | "mmx";
  readonly size: Size;
}

/** Condition codes as encoded in Jcc, SETcc, CMOVcc (Intel SDM vol. 1, appendix B). */
export type Condition =
  | 0
  | 1
  | 2
  | 3
  | 4
  | 5
  | 6
  | 7
  | 8
  | 9
  | 10
  | 11
  | 12
  | 13
  | 14
  | 15;

/** Records the arithmetic flags. Values are i64, zero-extended from `size`. */
export interface FlagEmitter {
  /** After r = a + b (with carry in or not). */
  add(size: Size, a: Value, b: Value, r: Value): void;
  /** After r = a - b (with borrow in or not). */
  sub(size: Size, a: Value, b: Value, r: Value): void;
  /** After AND, OR, XOR, TEST: CF = OF = AF = 0. */
  logic(size: Size, r: Value): void;
  /** After INC: CF stays. */
  inc(size: Size, a: Value, r: Value): void;
  /** After DEC: CF stays. */
  dec(size: Size, a: Value, r: Value): void;
  /** SF ZF PF from `r`; CF and OF are i64 values 0 or 1; AF = 0. */
  result(size: Size, r: Value, carry: Value, overflow: Value): void;
  /** ZF PF CF from i32 values 0 or 1; OF = SF = AF = 0 (COMISD, PTEST). */
  zpc(zero: Value, parity: Value, carry: Value): void;
  /** CF alone from an i64 value 0 or 1; the others stay. */
  carry(carry: Value): void;
  /** CF and OF alone from i64 values 0 or 1; the others stay. */
  carryOverflow(carry: Value, overflow: Value): void;
  /** ZF alone from an i32 value 0 or 1; the others stay. */
  zero(zero: Value): void;
  /** CF as an i64 value 0 or 1. */
  getCarry(): Value;
  /** CF PF AF ZF SF OF in their EFLAGS positions, as i64. */
  get(): Value;
  /** Sets CF PF AF ZF SF OF from their EFLAGS positions in an i64 value. */
  set(flags: Value): void;
}

/** Makes the code of one instruction. */
export interface Emitter {
  /** Operand size of this variant (of the operands written with `v` in the encoding). */
  readonly size: Size;
  /** Whether this variant is for 64-bit mode (only declarations with `modes` have two). */
  readonly long: boolean;
  readonly flags: FlagEmitter;

  /** Constants. */
  i32(value: number): Value;
  i64(value: number | bigint): Value;
  f32(value: number): Value;
  f64(value: number): Value;
  /** Sixteen bytes. */
  v128(bytes: readonly number[]): Value;

  /**
   * Any pure wasm instruction without immediates by its text name: `op("i64.add", a, b)`, `op("i8x16.add_sat_s", a, b)`,
   * `op("f64.promote_f32", x)`, `op("i64.extend_i32_u", c)`.
   */
  op(name: string, ...args: Value[]): Value;
  /** A lane instruction: `lane("i32x4.extract_lane", 2, v)`, `lane("i16x8.replace_lane", n, v, x)`. */
  lane(name: string, index: number, ...args: Value[]): Value;
  /** i8x16.shuffle. */
  shuffle(lanes: readonly number[], a: Value, b: Value): Value;

  /** A variable with an initial value. */
  variable(init: Value): Variable;
  set(variable: Variable, value: Value): void;
  /** `condition` is i32. */
  if(condition: Value, then: () => void, otherwise?: () => void): void;
  select(condition: Value, a: Value, b: Value): Value;
  /** Repeats `body` while the i32 value it returns is not zero. */
  loop(body: () => Value): void;

  /**
   * An operand's value: i64 zero-extended for sizes 1 to 8, v128 for 16. An XMM operand of size 4 or 8 gives its low
   * bytes. A 16-byte memory operand faults when misaligned, unless its encoding letter is `u`.
   */
  read(operand: Operand): Value;
  /** Like {@linkcode read} for an operand that this instruction also writes: checks write access first. */
  readForWrite(operand: Operand): Value;
  /** Checks that a memory operand could be written, without reading it. */
  probeWrite(operand: Operand): void;
  /**
   * Writes an operand. A 4-byte general register clears its upper half. An XMM operand of size 4 or 8 keeps the bytes above;
   * to clear them use {@linkcode writeXmmZero}.
   */
  write(operand: Operand, value: Value): void;
  /** Writes 4 or 8 low bytes of an XMM register from an i64 and clears the bytes above, to bit 127. */
  writeXmmZero(operand: Operand, value: Value): void;
  /** The linear address of a memory operand as i64; for the operand letter `M` without a size (LEA) the offset alone. */
  address(operand: Operand): Value;

  /** A general register's low `size` bytes as i64. */
  getReg(index: number, size: Size): Value;
  setReg(index: number, size: Size, value: Value): void;
  /** XMM register by number (the implicit XMM0). */
  getXmm(index: number): Value;
  setXmm(index: number, value: Value): void;
  /** A field of the vCPU state (see OFF): i64, or i32 with `get32`. */
  get(offset: number): Value;
  put(offset: number, value: Value): void;
  get32(offset: number): Value;
  put32(offset: number, value: Value): void;

  /** Loads `size` bytes at linear address `address` (i64): i64 zero-extended, or v128. */
  load(address: Value, size: Size): Value;
  store(address: Value, size: Size, value: Value): void;
  /** Pushes `size` bytes on the guest stack. */
  push(size: Size, value: Value): void;
  /** Reads the top of the stack without moving RSP; `commitPop` moves it. */
  peek(size: Size): Value;
  commitPop(size: Size): void;

  /** An i32 value, 1 when the condition holds. */
  condition(code: Condition): Value;
  /** RIP of the next instruction (i64). */
  nextRip(): Value;
  /** Continues at the relative target (encoding J). */
  jumpRelative(target: Operand): void;
  /** Continues at the relative target if `condition` (i32) is not zero. */
  branch(condition: Value, target: Operand): void;
  /** Continues at `rip` (i64), truncated to the operand size. */
  jumpIndirect(rip: Value): void;

  /**
   * Leaves to the TypeScript version of this instruction (`DefineOptions.fallback`) if `condition` (i32) is not zero; to be
   * called before any effect.
   */
  fallbackIf(condition: Value): void;
  /** Whether (i32) this is the last instruction of its block, after which the machine may look at interrupts. */
  isLast(): Value;
  /** Raises an exception if `condition` (i32) is not zero. */
  faultIf(condition: Value, vector: number, errorCode?: number): void;
  /**
   * Calls a TypeScript slow path inside a semantic (see `define.ts`, slow paths): it may read and write any state and
   * throw GuestFault. Values are passed through OFF.scratch.
   */
  slow(name: string): void;
}
