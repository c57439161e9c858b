/**
 * The x87 control instructions: control and status words, FNINIT, environments, FNSAVE and
 * FRSTOR, FXSAVE and FXRSTOR, and MXCSR's load and store.
 *
 * Intel SDM volume 1: 8.1.10 (environment layouts, figures 8-9 to 8-12), 10.5 (FXSAVE);
 * volume 2 for FXSAVE and LDMXCSR.
 *
 * @module
 */
import { ALL_EXCEPTIONS } from "../float/env.ts";
import {
  examine,
  EXPONENT_MASK,
  FXAM_NORMAL,
  FXAM_ZERO,
} from "../float/float80.ts";
import type { HelperCpu, Insn } from "../helper.ts";
import {
  CpuState,
  CR0,
  CR4,
  GuestFault,
  OFF,
  RAX,
  ST_STRIDE,
  VECTOR,
} from "../state.ts";
import { define, helper } from "./define.ts";
import {
  checkPending,
  clearExceptions,
  initialize,
  readPhysical,
  readSt,
  summarize,
  SW,
  top,
  writeControlWord,
  writePhysical,
} from "./x87_state.ts";

type Run = (cpu: HelperCpu, insn: Insn) => void;

/** A control instruction that does not wait for pending exceptions. */
function nonWaiting(
  name: string,
  encoding: string,
  operands: string,
  run: Run,
  noOracle = false,
): void {
  define(name, encoding, operands, helper(run), { unit: "x87", noOracle });
}

/** A control instruction that does. */
function waiting(
  name: string,
  encoding: string,
  operands: string,
  run: Run,
): void {
  nonWaiting(name, encoding, operands, (cpu, insn) => {
    checkPending(cpu.state);
    run(cpu, insn);
  });
}

nonWaiting("fninit", "db e3", "", (cpu) => initialize(cpu));
nonWaiting("fnclex", "db e2", "", (cpu) => clearExceptions(cpu));
// 8087 and 287 leftovers that do nothing since the 387.
nonWaiting("fneni8087_nop", "db e0", "", () => {});
nonWaiting("fndisi8087_nop", "db e1", "", () => {});
nonWaiting("fnsetpm", "db e4", "", () => {});

nonWaiting("fnstcw", "d9 /7 m", "Mw", (cpu, insn) => {
  cpu.write16(cpu.linear(insn, 2, true), cpu.state.get32(OFF.fcw));
});
waiting("fldcw", "d9 /5 m", "Mw", (cpu, insn) => {
  writeControlWord(cpu, cpu.read16(cpu.linear(insn, 2, false)));
});
nonWaiting("fnstsw", "dd /7 m", "Mw", (cpu, insn) => {
  cpu.write16(cpu.linear(insn, 2, true), cpu.state.get32(OFF.fsw));
});
nonWaiting("fnstsw", "df e0", "", (cpu) => {
  cpu.state.setReg(RAX, BigInt(cpu.state.get32(OFF.fsw)), 2);
});

// FWAIT looks at CR0.TS and CR0.MP only, not at CR0.EM.
define(
  "wait",
  "9b",
  "",
  helper((cpu) => {
    const s = cpu.state;
    const trap = CR0.TS | CR0.MP;
    if ((s.get32(OFF.cr0) & trap) === trap) throw new GuestFault(VECTOR.NM);
    checkPending(s);
  }),
);

// Tags: the state keeps one bit a register, memory images two.

const TAG_VALID = 0, TAG_ZERO = 1, TAG_SPECIAL = 2, TAG_EMPTY = 3;

/** The tag word of FNSTENV, from the registers' contents. */
function fullTagWord(s: CpuState): number {
  const used = s.get32(OFF.ftw);
  let tags = 0;
  for (let n = 0; n < 8; n++) {
    let tag = TAG_EMPTY;
    if (used & (1 << n)) {
      const value = readPhysical(s, n);
      const found = examine(value);
      const ordinary = found === FXAM_NORMAL &&
        (value.se & EXPONENT_MASK) !== 0;
      tag = ordinary ? TAG_VALID : found === FXAM_ZERO ? TAG_ZERO : TAG_SPECIAL;
    }
    tags |= tag << (n * 2);
  }
  return tags;
}

/** The state's tags from a full tag word: only "empty or not" is kept. */
function abridge(tags: number): number {
  let used = 0;
  for (let n = 0; n < 8; n++) {
    if (((tags >> (n * 2)) & 3) !== TAG_EMPTY) used |= 1 << n;
  }
  return used;
}

/** Where an environment's fields are: figures 8-9 to 8-12. */
interface Layout {
  /** Bytes of a field: 2 or 4. */
  readonly field: 2 | 4;
  /** Real-address form: linear addresses instead of selectors and offsets. */
  readonly real: boolean;
}

function layoutOf(cpu: HelperCpu, insn: Insn): Layout {
  return { field: insn.size === 2 ? 2 : 4, real: !cpu.protectedMode };
}

/** Fields of an environment: FCW, FSW, FTW, FIP, FCS and FOP, FDP, FDS. */
const ENVIRONMENT_FIELDS = 7;
/** FOP has eleven bits. */
const FOP_MASK = 0x7ff;
/** The upper halves of 32-bit fields that hold 16 bits. */
const RESERVED_HIGH = 0xffff0000;
const REGISTER_BYTES = 10;

function environmentFields(s: CpuState, { field, real }: Layout): number[] {
  const wide = field === 4;
  const high = wide ? RESERVED_HIGH : 0;
  const fop = s.get32(OFF.fop) & FOP_MASK;
  const head = [
    s.get32(OFF.fcw) | high,
    s.get32(OFF.fsw) | high,
    fullTagWord(s) | high,
  ];
  if (!real) {
    return [
      ...head,
      s.get32(OFF.fip),
      (s.get32(OFF.fcs) & 0xffff) | (wide ? fop << 16 : 0),
      s.get32(OFF.fdp),
      (s.get32(OFF.fds) & 0xffff) | high,
    ];
  }
  const ip = (s.get32(OFF.fcs) << 4) + s.get32(OFF.fip);
  const dp = (s.get32(OFF.fds) << 4) + s.get32(OFF.fdp);
  // The bits from 16 up go to bit 12 of the next field: all of them, or in 16-bit form four.
  return [
    ...head,
    (ip & 0xffff) | high,
    ((ip >>> 16) << 12) | fop,
    (dp & 0xffff) | high,
    (dp >>> 16) << 12,
  ];
}

function loadEnvironmentFields(
  cpu: HelperCpu,
  fields: readonly number[],
  { field, real }: Layout,
): void {
  const s = cpu.state;
  const [cw, sw, tags, ip, ipHigh, dp, dpHigh] = fields;
  s.set32(OFF.fsw, sw & 0xffff);
  s.set32(OFF.ftw, abridge(tags));
  if (real) {
    s.set(
      OFF.fip,
      BigInt((ip & 0xffff) | ((ipHigh >>> 12) << 16)) & 0xffffffffn,
    );
    s.set(
      OFF.fdp,
      BigInt((dp & 0xffff) | ((dpHigh >>> 12) << 16)) & 0xffffffffn,
    );
    s.set32(OFF.fcs, 0);
    s.set32(OFF.fds, 0);
    s.set32(OFF.fop, ipHigh & FOP_MASK);
  } else {
    s.set(OFF.fip, BigInt(ip >>> 0));
    s.set(OFF.fdp, BigInt(dp >>> 0));
    s.set32(OFF.fcs, ipHigh & 0xffff);
    s.set32(OFF.fds, dpHigh & 0xffff);
    s.set32(OFF.fop, field === 4 ? (ipHigh >>> 16) & FOP_MASK : 0);
  }
  writeControlWord(cpu, cw & 0xffff);
  settleSummary(cpu);
}

/** ES and B of a loaded status word are what the exceptions and masks make them. */
function settleSummary(cpu: HelperCpu): void {
  const s = cpu.state;
  const pending = (s.get32(OFF.fsw) & ~s.get32(OFF.fcw) & ALL_EXCEPTIONS) !== 0;
  const sw = s.get32(OFF.fsw) & ~(SW.ES | SW.B);
  // Start from the opposite, so that summarize sees the change and FERR# follows.
  s.set32(OFF.fsw, pending ? sw : sw | SW.ES | SW.B);
  summarize(cpu);
}

function encodeFields(
  view: DataView,
  fields: readonly number[],
  field: 2 | 4,
): void {
  fields.forEach((value, i) => {
    if (field === 2) view.setUint16(i * 2, value, true);
    else view.setUint32(i * 4, value, true);
  });
}

function decodeFields(view: DataView, field: 2 | 4): number[] {
  return Array.from(
    { length: ENVIRONMENT_FIELDS },
    (_, i) =>
      field === 2 ? view.getUint16(i * 2, true) : view.getUint32(i * 4, true),
  );
}

function readImage(cpu: HelperCpu, insn: Insn, bytes: number): DataView {
  const image = new Uint8Array(bytes);
  cpu.readBytes(cpu.linear(insn, bytes, false), image);
  return new DataView(image.buffer);
}

function writeImage(cpu: HelperCpu, at: bigint, image: DataView): void {
  cpu.probeWrite(at, image.byteLength);
  cpu.writeBytes(at, new Uint8Array(image.buffer));
}

nonWaiting("fnstenv", "d9 /6 m", "M", (cpu, insn) => {
  const s = cpu.state;
  const layout = layoutOf(cpu, insn);
  const image = new DataView(
    new ArrayBuffer(ENVIRONMENT_FIELDS * layout.field),
  );
  encodeFields(image, environmentFields(s, layout), layout.field);
  writeImage(cpu, cpu.linear(insn, image.byteLength, true), image);
  s.set32(OFF.fcw, s.get32(OFF.fcw) | ALL_EXCEPTIONS);
  summarize(cpu);
}, true);

waiting("fldenv", "d9 /4 m", "M", (cpu, insn) => {
  const layout = layoutOf(cpu, insn);
  const image = readImage(cpu, insn, ENVIRONMENT_FIELDS * layout.field);
  loadEnvironmentFields(cpu, decodeFields(image, layout.field), layout);
});

nonWaiting("fnsave", "dd /6 m", "M", (cpu, insn) => {
  const s = cpu.state;
  const layout = layoutOf(cpu, insn);
  const start = ENVIRONMENT_FIELDS * layout.field;
  const image = new DataView(new ArrayBuffer(start + 8 * REGISTER_BYTES));
  encodeFields(image, environmentFields(s, layout), layout.field);
  for (let i = 0; i < 8; i++) {
    const { se, sig } = readSt(s, i);
    image.setBigUint64(start + i * REGISTER_BYTES, sig, true);
    image.setUint16(start + i * REGISTER_BYTES + 8, se, true);
  }
  writeImage(cpu, cpu.linear(insn, image.byteLength, true), image);
  initialize(cpu);
}, true);

waiting("frstor", "dd /4 m", "M", (cpu, insn) => {
  const s = cpu.state;
  const layout = layoutOf(cpu, insn);
  const start = ENVIRONMENT_FIELDS * layout.field;
  const image = readImage(cpu, insn, start + 8 * REGISTER_BYTES);
  loadEnvironmentFields(cpu, decodeFields(image, layout.field), layout);
  for (let i = 0; i < 8; i++) {
    const sig = image.getBigUint64(start + i * REGISTER_BYTES, true);
    const se = image.getUint16(start + i * REGISTER_BYTES + 8, true);
    writePhysical(s, (top(s) + i) & 7, { se, sig });
  }
});

// FXSAVE and FXRSTOR.

/** Field offsets of the FXSAVE area (SDM vol. 1, table 10-2). */
const FX = {
  FCW: 0,
  FSW: 2,
  FTW: 4,
  FOP: 6,
  FIP: 8,
  FCS: 12,
  FDP: 16,
  FDS: 20,
  MXCSR: 24,
  MXCSR_MASK: 28,
  ST: 32,
  XMM: 160,
} as const;
const FX_BYTES = 512;
const FX_ALIGNMENT = 15n;
/** Bytes that FXSAVE writes: what follows is software's. */
const FX_WRITTEN = 416;
/** MXCSR bits that exist. */
export const MXCSR_MASK = 0xffff;

/** XMM registers that FXSAVE sees in the current mode. */
function xmmRegisters(cpu: HelperCpu): number {
  if ((cpu.state.get32(OFF.cr4) & CR4.OSFXSR) === 0) return 0;
  return cpu.code64 ? 16 : 8;
}

function fxAddress(cpu: HelperCpu, insn: Insn, write: boolean): bigint {
  const at = cpu.linear(insn, FX_BYTES, write);
  if ((at & FX_ALIGNMENT) !== 0n) throw new GuestFault(VECTOR.GP, 0);
  return at;
}

function fxsave(cpu: HelperCpu, insn: Insn): void {
  const s = cpu.state;
  const at = fxAddress(cpu, insn, true);
  cpu.probeWrite(at, FX_BYTES);
  const bytes = new Uint8Array(FX_WRITTEN);
  cpu.readBytes(at, bytes);
  const image = new DataView(bytes.buffer);
  image.setUint16(FX.FCW, s.get32(OFF.fcw), true);
  image.setUint16(FX.FSW, s.get32(OFF.fsw), true);
  image.setUint16(FX.FTW, s.get32(OFF.ftw) & 0xff, true);
  image.setUint16(FX.FOP, s.get32(OFF.fop) & FOP_MASK, true);
  if (insn.rexW) {
    image.setBigUint64(FX.FIP, s.get(OFF.fip), true);
    image.setBigUint64(FX.FDP, s.get(OFF.fdp), true);
  } else {
    image.setUint32(FX.FIP, s.get32(OFF.fip), true);
    image.setUint32(FX.FCS, s.get32(OFF.fcs) & 0xffff, true);
    image.setUint32(FX.FDP, s.get32(OFF.fdp), true);
    image.setUint32(FX.FDS, s.get32(OFF.fds) & 0xffff, true);
  }
  image.setUint32(FX.MXCSR, s.get32(OFF.mxcsr), true);
  image.setUint32(FX.MXCSR_MASK, MXCSR_MASK, true);
  for (let i = 0; i < 8; i++) {
    const { se, sig } = readSt(s, i);
    const field = FX.ST + i * ST_STRIDE;
    image.setBigUint64(field, sig, true);
    image.setBigUint64(field + 8, BigInt(se), true);
  }
  for (let i = 0, n = xmmRegisters(cpu); i < n; i++) {
    const from = CpuState.xmm(i);
    bytes.set(s.b.subarray(from, from + 16), FX.XMM + i * 16);
  }
  cpu.writeBytes(at, bytes);
}

function fxrstor(cpu: HelperCpu, insn: Insn): void {
  const s = cpu.state;
  const at = fxAddress(cpu, insn, false);
  const bytes = new Uint8Array(FX_BYTES);
  cpu.readBytes(at, bytes);
  const image = new DataView(bytes.buffer);
  const mxcsr = image.getUint32(FX.MXCSR, true);
  const sse = (s.get32(OFF.cr4) & CR4.OSFXSR) !== 0;
  if (sse && (mxcsr & ~MXCSR_MASK) !== 0) throw new GuestFault(VECTOR.GP, 0);
  s.set32(OFF.fsw, image.getUint16(FX.FSW, true));
  s.set32(OFF.ftw, image.getUint8(FX.FTW));
  s.set32(OFF.fop, image.getUint16(FX.FOP, true) & FOP_MASK);
  if (insn.rexW) {
    s.set(OFF.fip, image.getBigUint64(FX.FIP, true));
    s.set(OFF.fdp, image.getBigUint64(FX.FDP, true));
    s.set32(OFF.fcs, 0);
    s.set32(OFF.fds, 0);
  } else {
    s.set(OFF.fip, BigInt(image.getUint32(FX.FIP, true)));
    s.set(OFF.fdp, BigInt(image.getUint32(FX.FDP, true)));
    s.set32(OFF.fcs, image.getUint16(FX.FCS, true));
    s.set32(OFF.fds, image.getUint16(FX.FDS, true));
  }
  for (let i = 0; i < 8; i++) {
    const field = FX.ST + i * ST_STRIDE;
    const sig = image.getBigUint64(field, true),
      se = image.getUint16(field + 8, true);
    writePhysical(s, (top(s) + i) & 7, { se, sig });
  }
  if (sse) s.set32(OFF.mxcsr, mxcsr);
  for (let i = 0, n = xmmRegisters(cpu); i < n; i++) {
    s.b.set(
      bytes.subarray(FX.XMM + i * 16, FX.XMM + (i + 1) * 16),
      CpuState.xmm(i),
    );
  }
  writeControlWord(cpu, image.getUint16(FX.FCW, true));
  settleSummary(cpu);
}

nonWaiting("fxsave", "np 0f ae /0 m", "M", fxsave, true);
nonWaiting("fxrstor", "np 0f ae /1 m", "M", fxrstor, true);

define(
  "ldmxcsr",
  "np 0f ae /2 m",
  "Md",
  helper((cpu, insn) => {
    const value = cpu.read32(cpu.linear(insn, 4, false));
    if ((value & ~MXCSR_MASK) !== 0) throw new GuestFault(VECTOR.GP, 0);
    cpu.state.set32(OFF.mxcsr, value);
  }),
  { unit: "sse" },
);
define(
  "stmxcsr",
  "np 0f ae /3 m",
  "Md",
  helper((cpu, insn) =>
    cpu.write32(cpu.linear(insn, 4, true), cpu.state.get32(OFF.mxcsr))
  ),
  { unit: "sse" },
);
