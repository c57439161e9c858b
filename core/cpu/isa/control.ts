/**
 * Near jumps, calls and returns, the stack, and the flags register (Intel SDM vol. 2).
 *
 * @module
 */
import type { Condition, Emitter, Operand, Value } from "../emitter.ts";
import { FLAG, GuestFault, OFF, RBP, RCX, RSP, VECTOR } from "../state.ts";
import { define, helper } from "./define.ts";
import { CONDITION_NAMES, cut, signed } from "./integer.ts";

const STACK = { modes: true, default64: true } as const;
const BRANCH = {
  modes: true,
  force64: true,
  ends: true,
  noOracle: true,
} as const;

// ---- jumps ----

for (let cc = 0; cc < 16; cc++) {
  const code = cc as Condition;
  const name = `j${CONDITION_NAMES()[cc]}`;
  const semantic = (e: Emitter, target: Operand) =>
    e.branch(e.condition(code), target);
  define(name, (0x70 + cc).toString(16), "Jb", semantic, {
    ...BRANCH,
    ends: false,
  });
  define(name, `0f ${(0x80 + cc).toString(16)}`, "Jz", semantic, {
    ...BRANCH,
    ends: false,
  });
}
define("jmp", "eb", "Jb", (e, target) => e.jumpRelative(target), BRANCH);
define("jmp", "e9", "Jz", (e, target) => e.jumpRelative(target), BRANCH);
define(
  "jmp",
  "ff /4",
  "Ev",
  (e, target) => e.jumpIndirect(e.read(target)),
  BRANCH,
);

define("call", "e8", "Jz", (e, target) => {
  e.push(e.size, e.nextRip());
  e.jumpRelative(target);
}, BRANCH);
define("call", "ff /2", "Ev", (e, target) => {
  const rip = e.read(target);
  e.push(e.size, e.nextRip());
  e.jumpIndirect(rip);
}, BRANCH);
define("ret", "c3", "", (e) => {
  const rip = e.peek(e.size);
  e.commitPop(e.size);
  e.jumpIndirect(rip);
}, { ...BRANCH, rep: true });
define("ret", "c2", "Iw", (e, bytes) => {
  const rip = e.peek(e.size);
  const more = e.read(bytes);
  e.commitPop(e.size);
  addToStackPointer(e, more);
  e.jumpIndirect(rip);
}, BRANCH);

function addToStackPointer(e: Emitter, bytes: Value): void {
  const rsp = e.getReg(RSP, 8);
  const sum = e.op("i64.add", rsp, bytes);
  if (e.long) return e.setReg(RSP, 8, sum);
  const mask = e.get(OFF.spMask);
  const kept = e.op("i64.and", rsp, e.op("i64.xor", mask, e.i64(-1)));
  e.setReg(RSP, 8, e.op("i64.or", kept, e.op("i64.and", sum, mask)));
}

// LOOP and JCXZ count in CX, ECX or RCX by the address size: rare, so in TypeScript.
function countBranch(
  taken: (count: bigint, zero: boolean) => boolean,
  decrement: boolean,
) {
  return helper((cpu, insn) => {
    const s = cpu.state;
    const bits = insn.addressSize * 8;
    let count = BigInt.asUintN(bits, s.reg(RCX));
    if (decrement) {
      count = BigInt.asUintN(bits, count - 1n);
      s.setReg(RCX, count, insn.addressSize);
    }
    if (!taken(count, (s.arithmeticFlags() & FLAG.ZF) !== 0)) return;
    const target = cpu.nextRip + insn.imm;
    cpu.jump(
      BigInt.asUintN(insn.mode === 64 ? 64 : insn.size === 2 ? 16 : 32, target),
    );
  });
}
define(
  "loopne",
  "e0",
  "Jb",
  countBranch((n, zero) => n !== 0n && !zero, true),
  BRANCH,
);
define(
  "loope",
  "e1",
  "Jb",
  countBranch((n, zero) => n !== 0n && zero, true),
  BRANCH,
);
define("loop", "e2", "Jb", countBranch((n) => n !== 0n, true), BRANCH);
define("jcxz", "e3", "Jb", countBranch((n) => n === 0n, false), BRANCH);

// ---- stack ----

define("push", "50 +r", "Zv", (e, s) => e.push(s.size, e.read(s)), {
  ...STACK,
  noOracle: true,
});
define("push", "ff /6", "Ev", (e, s) => e.push(s.size, e.read(s)), {
  ...STACK,
  noOracle: true,
});
define(
  "push",
  "68",
  "Iz",
  (e, s) => e.push(e.size, cut(e, e.size, signed(e, s.size, e.read(s)))),
  { ...STACK, noOracle: true },
);
define("push", "6a", "Is", (e, s) => e.push(e.size, e.read(s)), {
  ...STACK,
  noOracle: true,
});
define("pop", "58 +r", "Zv", (e, d) => {
  const value = e.peek(d.size);
  e.commitPop(d.size);
  e.write(d, value);
}, { ...STACK, noOracle: true });
// POP m: an address with RSP as its base uses the RSP after the pop (Intel SDM vol. 2, POP).
define("pop", "8f /0 r", "Rv", (e, d) => {
  const value = e.peek(d.size);
  e.commitPop(d.size);
  e.write(d, value);
}, { ...STACK, noOracle: true });
define(
  "pop",
  "8f /0 m",
  "Mv",
  helper((cpu, insn) => {
    const s = cpu.state;
    const before = s.reg(RSP);
    const value = cpu.pop(insn.size);
    try {
      cpu.writeRm(insn, insn.size, value);
    } catch (error) {
      s.q[RSP] = before;
      throw error;
    }
  }),
  { ...STACK, noOracle: true },
);

define(
  "pusha",
  "60",
  "",
  helper((cpu, insn) => {
    const s = cpu.state;
    const size = insn.size as 2 | 4;
    const old = s.reg(RSP);
    const values = [0, 1, 2, 3, 4, 5, 6, 7].map((i) =>
      BigInt.asUintN(size * 8, s.reg(i))
    );
    try {
      for (const value of values) cpu.push(size, value);
    } catch (error) {
      s.q[RSP] = old;
      throw error;
    }
  }),
  { legacyOnly: true },
);
define(
  "popa",
  "61",
  "",
  helper((cpu, insn) => {
    const s = cpu.state;
    const size = insn.size as 2 | 4;
    const old = s.reg(RSP);
    const values: bigint[] = [];
    try {
      for (let i = 7; i >= 0; i--) values[i] = cpu.pop(size);
    } catch (error) {
      s.q[RSP] = old;
      throw error;
    }
    for (let i = 0; i < 8; i++) if (i !== RSP) s.setReg(i, values[i], size);
  }),
  { legacyOnly: true },
);

define(
  "leave",
  "c9",
  "",
  helper((cpu, insn) => {
    const s = cpu.state;
    const mask = s.get(OFF.spMask);
    const old = s.reg(RSP);
    s.q[RSP] = (old & ~mask) | (s.reg(RBP) & mask);
    try {
      s.setReg(RBP, cpu.pop(insn.size), insn.size);
    } catch (error) {
      s.q[RSP] = old;
      throw error;
    }
  }),
  { default64: true, legacyOnly: true },
);
define("leave", "c9", "", (e) => {
  const frame = e.getReg(RBP, 8);
  const value = e.load(frame, e.size);
  e.setReg(RSP, 8, e.op("i64.add", frame, e.i64(e.size)));
  e.setReg(RBP, e.size, value);
}, { ...STACK, longOnly: true, noOracle: true });

define(
  "enter",
  "c8",
  "Iw, Ib",
  helper((cpu, insn) => {
    const s = cpu.state;
    const size = insn.size;
    const mask = s.get(OFF.spMask);
    const level = insn.imm2 & 31;
    const oldRsp = s.reg(RSP);
    try {
      cpu.push(size, BigInt.asUintN(size * 8, s.reg(RBP)));
      const frame = s.reg(RSP);
      let from = s.reg(RBP);
      for (let i = 1; i < level; i++) {
        from -= BigInt(size);
        const at = cpu.segmentAddress(2, from & mask, size, false);
        cpu.push(
          size,
          size === 8
            ? cpu.read64(at)
            : BigInt(size === 4 ? cpu.read32(at) : cpu.read16(at)),
        );
      }
      if (level > 0) cpu.push(size, BigInt.asUintN(size * 8, frame));
      const rsp = s.reg(RSP);
      const moved = (rsp - insn.imm) & mask;
      cpu.probeWrite(cpu.segmentAddress(2, moved, size, true), size);
      s.q[RSP] = (rsp & ~mask) | moved;
      s.setReg(RBP, frame & mask, size);
    } catch (error) {
      s.q[RSP] = oldRsp;
      throw error;
    }
  }),
  { default64: true, noOracle: true },
);

// ---- flags ----

/** What POPF can change at CPL 0, apart from the arithmetic flags. */
const POPF_PLAIN = FLAG.IF | FLAG.DF | FLAG.NT | FLAG.ID;

define("pushf", "9c", "", (e) => {
  // In virtual-8086 mode IOPL decides; that and RF, VM are the TypeScript version's business.
  if (!e.long) {
    e.fallbackIf(
      e.op(
        "i64.ne",
        e.op("i64.and", e.get(OFF.rflags), e.i64(FLAG.VM)),
        e.i64(0),
      ),
    );
  }
  const system = e.op(
    "i64.and",
    e.get(OFF.rflags),
    e.i64(~(FLAG.RF | FLAG.VM)),
  );
  e.push(
    e.size,
    cut(
      e,
      e.size,
      e.op("i64.or", e.op("i64.or", system, e.i64(FLAG.FIXED)), e.flags.get()),
    ),
  );
}, { ...STACK, noOracle: true, fallback: fallbackPushf() });

define("popf", "9d", "", (e) => {
  const value = e.peek(e.size);
  const old = e.get(OFF.rflags);
  const changed = e.op("i64.xor", value, old);
  // Only a popf at CPL 0 that touches nothing but the plain flags, and opens no window for a pending interrupt, stays here.
  const others = FLAG.TF | FLAG.IOPL | FLAG.AC | FLAG.VM | FLAG.RF | FLAG.VIF |
    FLAG.VIP;
  const special = e.op(
    "i64.ne",
    e.op("i64.and", changed, e.i64(e.size === 2 ? others & 0xffff : others)),
    e.i64(0),
  );
  const notSystem = e.op("i32.ne", e.get32(OFF.cpl), e.i32(0));
  const pending = e.op("i32.ne", e.get32(OFF.attention), e.i32(0));
  e.fallbackIf(e.op("i32.or", e.op("i32.or", special, notSystem), pending));
  e.commitPop(e.size);
  const plain = e.size === 2 ? POPF_PLAIN & 0xffff : POPF_PLAIN;
  e.put(
    OFF.rflags,
    e.op(
      "i64.or",
      e.op("i64.and", old, e.i64(~plain)),
      e.op("i64.and", value, e.i64(plain)),
    ),
  );
  e.flags.set(value);
}, { ...STACK, noOracle: true, fallback: fallbackPopf() });

/** CPL beyond IOPL: #GP(0). Virtual-8086 mode has CPL 3 and the same rule. */
function checkIopl(e: Emitter): void {
  const iopl = e.op(
    "i64.and",
    e.op("i64.shr_u", e.get(OFF.rflags), e.i64(12)),
    e.i64(3),
  );
  e.faultIf(
    e.op("i32.gt_u", e.get32(OFF.cpl), e.op("i32.wrap_i64", iopl)),
    VECTOR.GP,
  );
}

define("cli", "fa", "", (e) => {
  checkIopl(e);
  e.put(OFF.rflags, e.op("i64.and", e.get(OFF.rflags), e.i64(~FLAG.IF)));
}, { noOracle: true });
define("sti", "fb", "", (e) => {
  checkIopl(e);
  // With something pending the interrupt shadow of one instruction matters; at the end of a block something may come.
  e.fallbackIf(
    e.op(
      "i32.or",
      e.op("i32.ne", e.get32(OFF.attention), e.i32(0)),
      e.isLast(),
    ),
  );
  e.put(OFF.rflags, e.op("i64.or", e.get(OFF.rflags), e.i64(FLAG.IF)));
}, {
  noOracle: true,
  fallback: helper((cpu) => {
    const s = cpu.state;
    const was = s.get32(OFF.rflags) & FLAG.IF;
    s.set32(OFF.rflags, s.get32(OFF.rflags) | FLAG.IF);
    if (was === 0) cpu.inhibitInterrupts();
    else cpu.endBlock();
  }),
});

function fallbackPushf() {
  return helper((cpu, insn) => {
    const s = cpu.state;
    const flags = s.rflags;
    if (cpu.v86 && (flags & FLAG.IOPL) !== FLAG.IOPL) {
      throw new GuestFault(VECTOR.GP, 0);
    }
    cpu.push(
      insn.size,
      BigInt.asUintN(
        insn.size * 8,
        BigInt((flags & ~(FLAG.RF | FLAG.VM)) >>> 0),
      ),
    );
  });
}

function fallbackPopf() {
  return helper((cpu, insn) => {
    const s = cpu.state;
    const old = s.rflags;
    const iopl = (old >> 12) & 3;
    if (cpu.v86 && iopl !== 3) throw new GuestFault(VECTOR.GP, 0);
    const value = Number(cpu.pop(insn.size) & 0xffffffffn);
    let mask: number = FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF |
      FLAG.OF | FLAG.TF | FLAG.DF | FLAG.NT | FLAG.AC | FLAG.ID;
    if (cpu.cpl === 0) mask |= FLAG.IOPL;
    if (cpu.cpl <= iopl) mask |= FLAG.IF;
    if (insn.size === 2) mask &= 0xffff;
    s.rflags = ((old & ~mask) | (value & mask)) & ~FLAG.RF;
    if ((old ^ s.rflags) & FLAG.AC) cpu.modeChanged();
    cpu.endBlock();
  });
}
