/**
 * Shifts, rotates, bit tests and bit scans (Intel SDM vol. 2).
 *
 * @module
 */
import type { Emitter, Operand, Value } from "../emitter.ts";
import { FLAG } from "../state.ts";
import { define, type DefineOptions } from "./define.ts";
import { cut, signed } from "./integer.ts";

type ShiftBody = (
  e: Emitter,
  size: number,
  a: Value,
  count: Value,
) => { r: Value; carry: Value; overflow: Value };

/** The count as the processor uses it: modulo 32, or 64 for 8-byte operands. */
function maskedCount(e: Emitter, size: number, s: Operand): Value {
  return e.op("i64.and", e.read(s), e.i64(size === 8 ? 63 : 31));
}

const bit = (e: Emitter, v: Value, n: number) =>
  e.op("i64.and", e.op("i64.shr_u", v, e.i64(n)), e.i64(1));
const top = (e: Emitter, size: number, v: Value) => bit(e, v, 8 * size - 1);

const shl: ShiftBody = (e, size, a, count) => {
  const r = cut(e, size, e.op("i64.shl", a, count));
  // The bit shifted out last; beyond the operand's width it is zero (undefined by the specification).
  const before = e.op("i64.shl", a, e.op("i64.sub", count, e.i64(1)));
  const carry = bit(e, before, 8 * size - 1);
  return { r, carry, overflow: e.op("i64.xor", carry, top(e, size, r)) };
};
const shr: ShiftBody = (e, _size, a, count) => {
  const r = e.op("i64.shr_u", a, count);
  const carry = e.op(
    "i64.and",
    e.op("i64.shr_u", a, e.op("i64.sub", count, e.i64(1))),
    e.i64(1),
  );
  return { r, carry, overflow: top(e, _size, a) };
};
const sar: ShiftBody = (e, size, a, count) => {
  const wide = signed(e, size, a);
  const r = cut(e, size, e.op("i64.shr_s", wide, count));
  const carry = e.op(
    "i64.and",
    e.op("i64.shr_s", wide, e.op("i64.sub", count, e.i64(1))),
    e.i64(1),
  );
  return { r, carry, overflow: e.i64(0) };
};

/** SHL, SHR, SAR: all flags change unless the count is zero. */
function shift(body: ShiftBody) {
  return (e: Emitter, d: Operand, s: Operand) => {
    const count = maskedCount(e, d.size, s);
    const a = e.readForWrite(d);
    const { r, carry, overflow } = body(e, d.size, a, count);
    // A count of zero changes nothing (a 4-byte register still loses its upper half).
    e.write(d, e.select(e.op("i64.eqz", count), a, r));
    e.if(
      e.op("i64.ne", count, e.i64(0)),
      () => e.flags.result(d.size, r, carry, overflow),
    );
  };
}

const rol: ShiftBody = (e, size, a, count) => {
  let r: Value;
  if (size === 8) r = e.op("i64.rotl", a, count);
  else {
    const n = e.op("i64.and", count, e.i64(8 * size - 1));
    r = cut(
      e,
      size,
      e.op(
        "i64.or",
        e.op("i64.shl", a, n),
        e.op("i64.shr_u", a, e.op("i64.sub", e.i64(8 * size), n)),
      ),
    );
  }
  const carry = e.op("i64.and", r, e.i64(1));
  return { r, carry, overflow: e.op("i64.xor", carry, top(e, size, r)) };
};
const ror: ShiftBody = (e, size, a, count) => {
  let r: Value;
  if (size === 8) r = e.op("i64.rotr", a, count);
  else {
    const n = e.op("i64.and", count, e.i64(8 * size - 1));
    r = cut(
      e,
      size,
      e.op(
        "i64.or",
        e.op("i64.shr_u", a, n),
        e.op("i64.shl", a, e.op("i64.sub", e.i64(8 * size), n)),
      ),
    );
  }
  const carry = top(e, size, r);
  return {
    r,
    carry,
    overflow: e.op("i64.xor", carry, bit(e, r, 8 * size - 2)),
  };
};
/** Rotates through carry go bit by bit: the counts that occur are small. */
const rcl: ShiftBody = (e, size, a, count) => {
  const r = e.variable(a), carry = e.variable(e.flags.getCarry());
  const left = e.variable(rotateCount(e, size, count));
  e.if(e.op("i64.ne", left, e.i64(0)), () => {
    e.loop(() => {
      const out = top(e, size, r);
      e.set(
        r,
        cut(e, size, e.op("i64.or", e.op("i64.shl", r, e.i64(1)), carry)),
      );
      e.set(carry, out);
      e.set(left, e.op("i64.sub", left, e.i64(1)));
      return e.op("i64.ne", left, e.i64(0));
    });
  });
  return { r, carry, overflow: e.op("i64.xor", carry, top(e, size, r)) };
};
const rcr: ShiftBody = (e, size, a, count) => {
  const r = e.variable(a), carry = e.variable(e.flags.getCarry());
  const left = e.variable(rotateCount(e, size, count));
  e.if(e.op("i64.ne", left, e.i64(0)), () => {
    e.loop(() => {
      const out = e.op("i64.and", r, e.i64(1));
      e.set(
        r,
        e.op(
          "i64.or",
          e.op("i64.shr_u", r, e.i64(1)),
          e.op("i64.shl", carry, e.i64(8 * size - 1)),
        ),
      );
      e.set(carry, out);
      e.set(left, e.op("i64.sub", left, e.i64(1)));
      return e.op("i64.ne", left, e.i64(0));
    });
  });
  return {
    r,
    carry,
    overflow: e.op("i64.xor", top(e, size, r), bit(e, r, 8 * size - 2)),
  };
};
function rotateCount(e: Emitter, size: number, count: Value): Value {
  return size <= 2 ? e.op("i64.rem_u", count, e.i64(8 * size + 1)) : count;
}

/** Rotates change CF and OF alone. */
function rotate(body: ShiftBody) {
  return (e: Emitter, d: Operand, s: Operand) => {
    const count = maskedCount(e, d.size, s);
    const a = e.readForWrite(d);
    const { r, carry, overflow } = body(e, d.size, a, count);
    e.write(d, e.select(e.op("i64.eqz", count), a, r));
    e.if(
      e.op("i64.ne", count, e.i64(0)),
      () => e.flags.carryOverflow(carry, overflow),
    );
  };
}

const GROUP2 = [
  ["rol", rotate(rol)],
  ["ror", rotate(ror)],
  ["rcl", rotate(rcl)],
  ["rcr", rotate(rcr)],
  ["shl", shift(shl)],
  ["shr", shift(shr)],
  ["shl", shift(shl)],
  ["sar", shift(sar)],
] as const;
GROUP2.forEach(([name, semantic], i) => {
  // OF is defined for counts of 1 only; AF never; CF of SHL and SHR not for counts beyond the width.
  const isShift = i >= 4;
  const byOne: DefineOptions = { undefinedFlags: isShift ? FLAG.AF : 0 };
  const byMany: DefineOptions = {
    undefinedFlags: FLAG.OF | (isShift ? FLAG.AF | FLAG.CF : 0),
  };
  define(name, `c0 /${i}`, "Eb, Ib", semantic, byMany);
  define(name, `c1 /${i}`, "Ev, Ib", semantic, byMany);
  define(name, `d0 /${i}`, "Eb, 1", semantic, byOne);
  define(name, `d1 /${i}`, "Ev, 1", semantic, byOne);
  define(name, `d2 /${i}`, "Eb, cl", semantic, byMany);
  define(name, `d3 /${i}`, "Ev, cl", semantic, byMany);
});

/** SHLD and SHRD. For 2-byte operands and counts above 16 the result is undefined; this gives what processors do. */
function doubleShift(left: boolean) {
  return (e: Emitter, d: Operand, s: Operand, c: Operand) => {
    const size = d.size, bits = 8 * size;
    const b = e.read(s);
    const count = maskedCount(e, size, c);
    const a = e.readForWrite(d);
    const back = e.op("i64.sub", e.i64(bits), count);
    let r: Value, carry: Value;
    if (size === 2) {
      // A 48-bit pattern a:b:a shifted as a whole.
      const wide = left
        ? e.op(
          "i64.or",
          e.op(
            "i64.or",
            e.op("i64.shl", a, e.i64(32)),
            e.op("i64.shl", b, e.i64(16)),
          ),
          a,
        )
        : e.op(
          "i64.or",
          e.op(
            "i64.or",
            e.op("i64.shl", a, e.i64(32)),
            e.op("i64.shl", b, e.i64(16)),
          ),
          a,
        );
      r = left
        ? cut(e, 2, e.op("i64.shr_u", e.op("i64.shl", wide, count), e.i64(32)))
        : cut(e, 2, e.op("i64.shr_u", wide, count));
      carry = left ? bit(e, e.op("i64.shl", wide, count), 48) : e.op(
        "i64.and",
        e.op("i64.shr_u", wide, e.op("i64.sub", count, e.i64(1))),
        e.i64(1),
      );
    } else {
      r = left
        ? e.op("i64.or", e.op("i64.shl", a, count), e.op("i64.shr_u", b, back))
        : e.op("i64.or", e.op("i64.shr_u", a, count), e.op("i64.shl", b, back));
      r = cut(e, size, r);
      carry = e.op(
        "i64.and",
        e.op("i64.shr_u", a, left ? back : e.op("i64.sub", count, e.i64(1))),
        e.i64(1),
      );
    }
    const zero = e.op("i64.eqz", count);
    e.write(d, e.select(zero, a, r));
    e.if(e.op("i32.eqz", zero), () => {
      e.flags.result(
        size,
        r,
        carry,
        e.op("i64.xor", top(e, size, a), top(e, size, r)),
      );
    });
  };
}
const DOUBLE_UNDEFINED: DefineOptions = { undefinedFlags: FLAG.AF | FLAG.OF };
define("shld", "0f a4 /r", "Ev, Gv, Ib", doubleShift(true), DOUBLE_UNDEFINED);
define("shld", "0f a5 /r", "Ev, Gv, cl", doubleShift(true), DOUBLE_UNDEFINED);
define("shrd", "0f ac /r", "Ev, Gv, Ib", doubleShift(false), DOUBLE_UNDEFINED);
define("shrd", "0f ad /r", "Ev, Gv, cl", doubleShift(false), DOUBLE_UNDEFINED);

// ---- bit tests ----

const BT_OPS: readonly (readonly [
  string,
  ((e: Emitter, a: Value, mask: Value) => Value) | undefined,
])[] = [
  ["bt", undefined],
  ["bts", (e, a, m) => e.op("i64.or", a, m)],
  ["btr", (e, a, m) => e.op("i64.and", a, e.op("i64.xor", m, e.i64(-1)))],
  ["btc", (e, a, m) => e.op("i64.xor", a, m)],
];
const BT_UNDEFINED = FLAG.OF | FLAG.SF | FLAG.AF | FLAG.PF;
BT_OPS.forEach(([name, change], i) => {
  const options: DefineOptions = {
    undefinedFlags: BT_UNDEFINED,
    ...(change ? { lock: true } : {}),
  };
  const semantic = (e: Emitter, d: Operand, s: Operand) => {
    const n = e.op("i64.and", e.read(s), e.i64(8 * d.size - 1));
    const a = change ? e.readForWrite(d) : e.read(d);
    if (change) e.write(d, change(e, a, e.op("i64.shl", e.i64(1), n)));
    e.flags.carry(e.op("i64.and", e.op("i64.shr_u", a, n), e.i64(1)));
  };
  define(name, `0f ba /${4 + i}`, "Ev, Ib", semantic, options);
  const opcode = (0xa3 + 8 * i).toString(16);
  define(name, `0f ${opcode} /r r`, "Rv, Gv", semantic, options);
  // The memory form addresses a bit string: the bit offset is signed and reaches beyond the operand.
  define(
    name,
    `0f ${opcode} /r m`,
    "Ev, Gv",
    (e: Emitter, d: Operand, s: Operand) => {
      const offset = signed(e, d.size, e.read(s));
      const bytes = e.op(
        "i64.shl",
        e.op(
          "i64.shr_s",
          offset,
          e.i64(d.size === 8 ? 6 : d.size === 4 ? 5 : 4),
        ),
        e.i64(d.size === 8 ? 3 : d.size === 4 ? 2 : 1),
      );
      const n = e.op("i64.and", offset, e.i64(8 * d.size - 1));
      const address = e.op("i64.add", e.address(d), bytes);
      const a = e.load(address, d.size);
      if (change) {
        e.store(address, d.size, change(e, a, e.op("i64.shl", e.i64(1), n)));
      }
      e.flags.carry(e.op("i64.and", e.op("i64.shr_u", a, n), e.i64(1)));
    },
    options,
  );
});

// ---- bit scans ----

const SCAN_UNDEFINED: DefineOptions = {
  undefinedFlags: FLAG.CF | FLAG.OF | FLAG.SF | FLAG.AF | FLAG.PF,
};
function scan(forward: boolean) {
  return (e: Emitter, d: Operand, s: Operand) => {
    const v = e.read(s);
    const zero = e.op("i64.eqz", v);
    const index = forward
      ? e.op("i64.ctz", v)
      : e.op("i64.sub", e.i64(63), e.op("i64.clz", v));
    // With a zero source the destination keeps its value, all 64 bits of it.
    e.if(e.op("i32.eqz", zero), () => e.write(d, index));
    e.flags.zpc(zero, e.i32(0), e.i32(0));
  };
}
define("bsf", "0f bc /r", "Gv, Ev", scan(true), SCAN_UNDEFINED);
define("bsr", "0f bd /r", "Gv, Ev", scan(false), SCAN_UNDEFINED);
