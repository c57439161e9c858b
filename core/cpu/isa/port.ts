/**
 * Port input and output (Intel SDM vol. 1, chapter 19; vol. 2: IN, OUT, INS, OUTS).
 *
 * @module
 */
import { ioBreakpoints } from "../breakpoints.ts";
import { debugTrap } from "../exceptions.ts";
import type { HelperCpu, Insn } from "../helper.ts";
import {
  segmentAttr,
  segmentBase,
  segmentLimit,
  SYSTEM_TYPE,
  TSS_BUSY,
} from "../segments.ts";
import {
  ATTR,
  ES,
  FLAG,
  GuestFault,
  OFF,
  RAX,
  RCX,
  RDI,
  RDX,
  RSI,
  TR,
  VECTOR,
} from "../state.ts";
import { define, helper } from "./define.ts";
import { iopl } from "./interrupts.ts";

/** Offset of the I/O map base in the TSS (SDM vol. 3, figure 8-2). */
const TSS_IO_MAP_BASE = 102;
const TSS32_MINIMUM_LIMIT = 103;
/** Elements that one step of REP INS or OUTS moves before interrupts are looked at. */
const REP_CHUNK = 1024;

/**
 * Checks that the current privilege may use ports (SDM vol. 1, 19.5).
 *
 * @throws {GuestFault} #GP(0)
 */
export function checkPort(cpu: HelperCpu, port: number, size: number): void {
  if (!cpu.v86 && (!cpu.protectedMode || cpu.cpl <= iopl(cpu))) return;
  const state = cpu.state;
  const type = segmentAttr(state, TR) & (ATTR.TYPE | ATTR.S | ATTR.UNUSABLE);
  const limit = segmentLimit(state, TR);
  if ((type & ~TSS_BUSY) !== SYSTEM_TYPE.TSS32 || limit < TSS32_MINIMUM_LIMIT) {
    throw new GuestFault(VECTOR.GP, 0);
  }
  const base = segmentBase(state, TR);
  const map = Number(
    cpu.readSystem(BigInt.asUintN(64, base + BigInt(TSS_IO_MAP_BASE)), 2),
  );
  const offset = map + (port >> 3);
  // Two bytes are always read, so that a port range may cross a byte.
  if (offset + 1 > limit) throw new GuestFault(VECTOR.GP, 0);
  const bits =
    Number(cpu.readSystem(BigInt.asUintN(64, base + BigInt(offset)), 2)) >>
    (port & 7);
  if (bits & ((1 << size) - 1)) throw new GuestFault(VECTOR.GP, 0);
}

function trapOnBreakpoint(
  cpu: HelperCpu,
  port: number,
  size: number,
  rip?: bigint,
): void {
  const causes = ioBreakpoints(cpu.state, port, size);
  if (causes) debugTrap(cpu, causes, rip ?? cpu.nextRip);
}

function input(cpu: HelperCpu, port: number, size: 1 | 2 | 4): void {
  checkPort(cpu, port, size);
  const state = cpu.state;
  const value = cpu.io.portRead(port, size);
  if (size === 4) {
    state.d[RAX * 2] = value;
    state.d[RAX * 2 + 1] = 0;
  } else if (size === 2) state.view.setUint16(RAX * 8, value, true);
  else state.b[RAX * 8] = value;
  trapOnBreakpoint(cpu, port, size);
}

function output(cpu: HelperCpu, port: number, size: 1 | 2 | 4): void {
  checkPort(cpu, port, size);
  const rax = cpu.state.d[RAX * 2];
  cpu.io.portWrite(
    port,
    size,
    size === 4 ? rax : size === 2 ? rax & 0xffff : rax & 0xff,
  );
  cpu.endBlock();
  trapOnBreakpoint(cpu, port, size);
}

function dx(cpu: HelperCpu): number {
  return cpu.state.d[RDX * 2] & 0xffff;
}

function portSize(insn: Insn): 2 | 4 {
  return insn.size === 2 ? 2 : 4;
}

define(
  "in",
  "e4",
  "al, Ib",
  helper((cpu, insn) => input(cpu, Number(insn.imm) & 0xff, 1)),
  { noOracle: true },
);
define(
  "in",
  "e5",
  "rax, Ib",
  helper((cpu, insn) => input(cpu, Number(insn.imm) & 0xff, portSize(insn))),
  {
    noOracle: true,
  },
);
define("in", "ec", "al, dx", helper((cpu) => input(cpu, dx(cpu), 1)), {
  noOracle: true,
});
define(
  "in",
  "ed",
  "rax, dx",
  helper((cpu, insn) => input(cpu, dx(cpu), portSize(insn))),
  { noOracle: true },
);
define(
  "out",
  "e6",
  "Ib, al",
  helper((cpu, insn) => output(cpu, Number(insn.imm) & 0xff, 1)),
  {
    ends: true,
    noOracle: true,
  },
);
define(
  "out",
  "e7",
  "Ib, rax",
  helper((cpu, insn) => output(cpu, Number(insn.imm) & 0xff, portSize(insn))),
  {
    ends: true,
    noOracle: true,
  },
);
define("out", "ee", "dx, al", helper((cpu) => output(cpu, dx(cpu), 1)), {
  ends: true,
  noOracle: true,
});
define(
  "out",
  "ef",
  "dx, rax",
  helper((cpu, insn) => output(cpu, dx(cpu), portSize(insn))),
  {
    ends: true,
    noOracle: true,
  },
);

function addressMask(insn: Insn): bigint {
  return insn.addressSize === 8
    ? 0xffff_ffff_ffff_ffffn
    : insn.addressSize === 4
    ? 0xffff_ffffn
    : 0xffffn;
}

/** Moves one element; `index` is the masked RSI or RDI. */
type PortMove = (
  cpu: HelperCpu,
  insn: Insn,
  port: number,
  size: 1 | 2 | 4,
  index: bigint,
) => void;

function moveIn(
  cpu: HelperCpu,
  _insn: Insn,
  port: number,
  size: 1 | 2 | 4,
  index: bigint,
): void {
  const address = cpu.segmentAddress(ES, index, size, true);
  cpu.probeWrite(address, size);
  const value = cpu.io.portRead(port, size);
  if (size === 1) cpu.write8(address, value);
  else if (size === 2) cpu.write16(address, value);
  else cpu.write32(address, value);
}

function moveOut(
  cpu: HelperCpu,
  insn: Insn,
  port: number,
  size: 1 | 2 | 4,
  index: bigint,
): void {
  const address = cpu.segmentAddress(insn.segment, index, size, false);
  const value = size === 1
    ? cpu.read8(address)
    : size === 2
    ? cpu.read16(address)
    : cpu.read32(address);
  cpu.io.portWrite(port, size, value);
}

function stringPort(
  cpu: HelperCpu,
  insn: Insn,
  size: 1 | 2 | 4,
  register: number,
  move: PortMove,
): void {
  const state = cpu.state;
  const port = dx(cpu);
  const mask = addressMask(insn);
  let unfinished = false;
  const step = state.get32(OFF.rflags) & FLAG.DF ? -BigInt(size) : BigInt(size);
  if (!insn.rep) {
    checkPort(cpu, port, size);
    const index = state.q[register] & mask;
    move(cpu, insn, port, size, index);
    state.setReg(register, (index + step) & mask, insn.addressSize);
  } else {
    let count = state.q[RCX] & mask;
    if (count === 0n) return;
    checkPort(cpu, port, size);
    for (let i = 0; i < REP_CHUNK && count > 0n; i++) {
      const index = state.q[register] & mask;
      move(cpu, insn, port, size, index);
      // Registers move with each element, so that a fault in the next finds them right.
      count--;
      state.setReg(register, (index + step) & mask, insn.addressSize);
      state.setReg(RCX, count, insn.addressSize);
    }
    unfinished = count > 0n;
    if (unfinished) cpu.jump(cpu.rip);
  }
  cpu.endBlock();
  trapOnBreakpoint(cpu, port, size, unfinished ? cpu.rip : undefined);
}

define(
  "ins",
  "6c",
  "",
  helper((cpu, insn) => stringPort(cpu, insn, 1, RDI, moveIn)),
  { ends: true, noOracle: true },
);
define(
  "ins",
  "6d",
  "",
  helper((cpu, insn) => stringPort(cpu, insn, portSize(insn), RDI, moveIn)),
  {
    ends: true,
    noOracle: true,
  },
);
define(
  "outs",
  "6e",
  "",
  helper((cpu, insn) => stringPort(cpu, insn, 1, RSI, moveOut)),
  { ends: true, noOracle: true },
);
define(
  "outs",
  "6f",
  "",
  helper((cpu, insn) => stringPort(cpu, insn, portSize(insn), RSI, moveOut)),
  {
    ends: true,
    noOracle: true,
  },
);
