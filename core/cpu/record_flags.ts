/**
 * Lazy arithmetic flags as tier 0 keeps them in OFF.flagResult, OFF.flagCarry and OFF.flagAux (see `state.ts`).
 *
 * @module
 */
import type { Condition, FlagEmitter, Size, Value } from "./emitter.ts";
import { EXTEND, type RecordEmitter } from "./record_emitter.ts";
import { FLAG, OFF } from "./state.ts";

/** Lazy flags in OFF.flagResult, flagCarry and flagAux. */
export class RecordFlags implements FlagEmitter {
  constructor(private readonly e: RecordEmitter) {}

  private signed(size: Size, r: Value): Value {
    return size >= 8 ? r : this.e.op(EXTEND[size], r);
  }

  /** Puts bit (8 * size - 1) in bit 63. */
  private align(size: Size, v: Value): Value {
    return size >= 8 ? v : this.e.op("i64.shl", v, this.e.i64(64 - 8 * size));
  }

  private aux(a: Value, b: Value, r: Value): Value {
    const e = this.e;
    return e.op(
      "i64.and",
      e.op("i64.xor", e.op("i64.xor", a, b), r),
      e.i64(FLAG.AF),
    );
  }

  private put(result: Value, carry: Value, aux: Value): void {
    this.e.put(OFF.flagResult, result);
    this.e.put(OFF.flagCarry, carry);
    this.e.put(OFF.flagAux, aux);
  }

  private not(v: Value): Value {
    return this.e.op("i64.xor", v, this.e.i64(-1));
  }

  private addCarry(size: Size, a: Value, b: Value, r: Value): Value {
    const e = this.e;
    return this.align(
      size,
      e.op(
        "i64.or",
        e.op("i64.and", a, b),
        e.op("i64.and", e.op("i64.or", a, b), this.not(r)),
      ),
    );
  }

  private subCarry(size: Size, a: Value, b: Value, r: Value): Value {
    const e = this.e;
    const na = this.not(a);
    return this.align(
      size,
      e.op(
        "i64.or",
        e.op("i64.and", na, b),
        e.op("i64.and", e.op("i64.or", na, b), r),
      ),
    );
  }

  add(size: Size, a: Value, b: Value, r: Value): void {
    this.put(
      this.signed(size, r),
      this.addCarry(size, a, b, r),
      this.aux(a, b, r),
    );
  }

  sub(size: Size, a: Value, b: Value, r: Value): void {
    this.put(
      this.signed(size, r),
      this.subCarry(size, a, b, r),
      this.aux(a, b, r),
    );
  }

  logic(size: Size, r: Value): void {
    this.put(this.signed(size, r), this.e.i64(0), this.e.i64(0));
  }

  /** CF kept in bit 63; bit 62 so that OF = bit 63 ^ bit 62 is the overflow of the carry chain. */
  private keepCarry(chain: Value): Value {
    const e = this.e;
    const overflow = e.op(
      "i64.shr_u",
      e.op("i64.xor", chain, e.op("i64.shl", chain, e.i64(1))),
      e.i64(63),
    );
    return this.carryWord(this.getCarry(), overflow);
  }

  private carryWord(carry: Value, overflow: Value): Value {
    const e = this.e;
    return e.op(
      "i64.or",
      e.op("i64.shl", carry, e.i64(63)),
      e.op("i64.shl", e.op("i64.xor", carry, overflow), e.i64(62)),
    );
  }

  inc(size: Size, a: Value, r: Value): void {
    const one = this.e.i64(1);
    this.put(
      this.signed(size, r),
      this.keepCarry(this.addCarry(size, a, one, r)),
      this.aux(a, one, r),
    );
  }

  dec(size: Size, a: Value, r: Value): void {
    const one = this.e.i64(1);
    this.put(
      this.signed(size, r),
      this.keepCarry(this.subCarry(size, a, one, r)),
      this.aux(a, one, r),
    );
  }

  result(size: Size, r: Value, carry: Value, overflow: Value): void {
    this.put(
      this.signed(size, r),
      this.carryWord(carry, overflow),
      this.e.i64(0),
    );
  }

  zpc(zero: Value, parity: Value, carry: Value): void {
    // As CpuState.setArithmeticFlags: result 3 or 0, both of even parity; the aux word corrects PF; CF without overflow.
    const e = this.e;
    const result = e.select(zero, e.i64(0), e.i64(3));
    const aux = e.op(
      "i64.shl",
      e.op("i64.extend_i32_u", e.op("i32.eqz", parity)),
      e.i64(8),
    );
    const chain = e.op(
      "i64.shl",
      e.op("i64.extend_i32_s", e.op("i32.sub", e.i32(0), carry)),
      e.i64(62),
    );
    this.put(result, chain, aux);
  }

  carry(carry: Value): void {
    const e = this.e;
    const old = e.get(OFF.flagCarry);
    const overflow = e.op(
      "i64.shr_u",
      e.op("i64.xor", old, e.op("i64.shl", old, e.i64(1))),
      e.i64(63),
    );
    e.put(OFF.flagCarry, this.carryWord(carry, overflow));
  }

  carryOverflow(carry: Value, overflow: Value): void {
    this.e.put(OFF.flagCarry, this.carryWord(carry, overflow));
  }

  zero(zero: Value): void {
    const e = this.e;
    const others = e.op("i64.and", this.get(), e.i64(~FLAG.ZF));
    this.set(
      e.op(
        "i64.or",
        others,
        e.op("i64.shl", e.op("i64.extend_i32_u", zero), e.i64(6)),
      ),
    );
  }

  getCarry(): Value {
    return this.e.op("i64.shr_u", this.e.get(OFF.flagCarry), this.e.i64(63));
  }

  get(): Value {
    const e = this.e;
    const bit = (code: Condition, position: number) =>
      e.op(
        "i64.shl",
        e.op("i64.extend_i32_u", e.condition(code)),
        e.i64(position),
      );
    let flags = this.getCarry();
    for (const value of [bit(10, 2), bit(4, 6), bit(8, 7), bit(0, 11)]) {
      flags = e.op("i64.or", flags, value);
    }
    return e.op(
      "i64.or",
      flags,
      e.op("i64.and", e.get(OFF.flagAux), e.i64(FLAG.AF)),
    );
  }

  set(flags: Value): void {
    const e = this.e;
    const bit = (position: number) =>
      e.op("i64.and", e.op("i64.shr_u", flags, e.i64(position)), e.i64(1));
    // See CpuState.setArithmeticFlags: result 3 (even parity) or 0; the aux word corrects PF and SF.
    const result = e.op("i64.mul", e.op("i64.xor", bit(6), e.i64(1)), e.i64(3));
    const odd = e.op("i64.shl", e.op("i64.xor", bit(2), e.i64(1)), e.i64(8));
    const sign = e.op("i64.shl", bit(7), e.i64(63));
    const aux = e.op(
      "i64.or",
      e.op("i64.or", odd, sign),
      e.op("i64.and", flags, e.i64(FLAG.AF)),
    );
    this.put(result, this.carryWord(bit(0), bit(11)), aux);
  }
}
