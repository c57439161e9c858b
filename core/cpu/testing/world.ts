/**
 * The descriptor tables that the tests of system instructions share.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { FlatCpu } from "./flat_cpu.ts";
import { setSegment } from "../segments.ts";
import { CS, DS, ES, GuestFault, OFF, SS, TR } from "../state.ts";

/** Selectors in the test GDT. */
export const SEL = {
  code32: 0x08,
  data32: 0x10,
  userCode32: 0x1b,
  userData32: 0x23,
  code64: 0x28,
  userCode64: 0x33,
  tss: 0x38, // 16 bytes in long mode
  code16: 0x48,
  data16: 0x50,
  conforming: 0x58,
  tss2: 0x60,
  gate: 0x70, // 16 bytes in long mode
  absent: 0x80,
  ldt: 0x88, // 16 bytes in long mode
  taskGate: 0x98,
  readOnly: 0xa0,
} as const;

/** Addresses in the test memory. */
export const AT = {
  gdt: 0x1000,
  idt: 0x2000,
  tss: 0x3000,
  tss2: 0x4000,
  ldt: 0x5000,
  code: 0x10000,
  handler: 0x18000,
  stack: 0x20000,
  kernelStack: 0x30000,
  istStack: 0x40000,
  userStack: 0x50000,
} as const;

const GDT_LIMIT = 0xff, IDT_LIMIT = 0xfff, TSS_LIMIT = 0x67;
const TSS32_SS0 = 8, TSS_ESP0 = 4, TSS64_IST1 = 36;
const FLAT = 0xfffff;
/** Flags nibble: G, D/B, L. */
const G = 8, D = 4, L = 2;
/** Access bytes (accessed bit clear, so that it can be seen to be set). */
const CODE = 0x9a,
  DATA = 0x92,
  USER = 0x60,
  TSS_ACCESS = 0x89,
  LDT_ACCESS = 0x82;

/** A vCPU with tables; `mode` says in which it starts, at CPL 0. */
export function world(mode: "real" | "protected" | "long"): FlatCpu {
  const cpu = new FlatCpu();
  const at = (selector: number) => AT.gdt + (selector & ~7);
  cpu.descriptor(at(SEL.code32), 0, FLAT, CODE, G | D);
  cpu.descriptor(at(SEL.data32), 0, FLAT, DATA, G | D);
  cpu.descriptor(at(SEL.userCode32), 0, FLAT, CODE | USER, G | D);
  cpu.descriptor(at(SEL.userData32), 0, FLAT, DATA | USER, G | D);
  cpu.descriptor(at(SEL.code64), 0, FLAT, CODE, G | L);
  cpu.descriptor(at(SEL.userCode64), 0, FLAT, CODE | USER, G | L);
  cpu.descriptor(at(SEL.tss), AT.tss, TSS_LIMIT, TSS_ACCESS);
  cpu.descriptor(at(SEL.code16), 0, 0xffff, CODE);
  cpu.descriptor(at(SEL.data16), 0, 0xffff, DATA);
  cpu.descriptor(at(SEL.conforming), 0, FLAT, CODE | 4, G | D);
  cpu.descriptor(at(SEL.tss2), AT.tss2, TSS_LIMIT, TSS_ACCESS);
  cpu.descriptor(at(SEL.absent), 0, FLAT, DATA & ~0x80, G | D);
  cpu.descriptor(at(SEL.ldt), AT.ldt, 0xff, LDT_ACCESS);
  cpu.descriptor(at(SEL.readOnly), 0, FLAT, 0x90, G | D);
  const state = cpu.state;
  state.set(OFF.gdtBase, BigInt(AT.gdt));
  state.set32(OFF.gdtLimit, GDT_LIMIT);
  if (mode !== "real") {
    state.set(OFF.idtBase, BigInt(AT.idt));
    state.set32(OFF.idtLimit, IDT_LIMIT);
  }
  if (mode === "protected") {
    cpu.protected32();
    cpu.view.setUint32(AT.tss + TSS_ESP0, AT.kernelStack, true);
    cpu.view.setUint16(AT.tss + TSS32_SS0, SEL.data32, true);
    setSegment(state, CS, SEL.code32, 0, 0xffffffff, 0xc09b);
  } else if (mode === "long") {
    cpu.long64();
    cpu.view.setBigUint64(AT.tss + TSS_ESP0, BigInt(AT.kernelStack), true);
    cpu.view.setBigUint64(AT.tss + TSS64_IST1, BigInt(AT.istStack), true);
    setSegment(state, CS, SEL.code64, 0, 0xffffffff, 0xa09b);
  }
  if (mode !== "real") {
    setSegment(state, TR, SEL.tss, AT.tss, TSS_LIMIT, 0x8b);
    cpu.ip = BigInt(AT.code);
  } else {
    setSegment(state, CS, 0x1000, 0x10000, 0xffff, 0x9b);
    setSegment(state, SS, 0x2000, 0x20000, 0xffff, 0x93);
    cpu.ip = 0x100n;
  }
  cpu.modeChanged();
  setRsp(cpu, mode === "real" ? 0x1000 : AT.stack);
  return cpu;
}

/** Sets RSP. */
export function setRsp(cpu: FlatCpu, value: number | bigint): void {
  cpu.state.q[4] = BigInt(value);
}

/** Puts the vCPU at CPL 3 in flat segments. */
export function enterUser(cpu: FlatCpu): void {
  const long = cpu.longMode;
  const state = cpu.state;
  setSegment(
    state,
    CS,
    long ? SEL.userCode64 : SEL.userCode32,
    0,
    0xffffffff,
    long ? 0xa0fb : 0xc0fb,
  );
  for (const segment of [SS, DS, ES]) {
    setSegment(state, segment, SEL.userData32, 0, 0xffffffff, 0xc0f3);
  }
  cpu.modeChanged();
  setRsp(cpu, AT.userStack);
}

/** Installs an IDT gate for `vector`. */
export function setGate(
  cpu: FlatCpu,
  vector: number,
  access: number,
  selector: number,
  offset: number = AT.handler,
  ist = 0,
): void {
  cpu.gate(
    AT.idt + vector * (cpu.longMode ? 16 : 8),
    selector,
    offset,
    access,
    ist,
  );
}

/** The words on the stack from the top. */
export function frame(
  cpu: FlatCpu,
  count: number,
  size: 2 | 4 | 8,
  address = Number(cpu.state.q[4]),
): number[] {
  const words = [];
  for (let i = 0; i < count; i++) {
    const at = address + i * size;
    words.push(
      size === 2
        ? cpu.view.getUint16(at, true)
        : size === 4
        ? cpu.view.getUint32(at, true)
        : Number(cpu.view.getBigUint64(at, true)),
    );
  }
  return words;
}

/** The exception that an instruction raises. @throws when it raises none. */
export function faultOf(cpu: FlatCpu, ...bytes: number[]): GuestFault {
  try {
    cpu.exec(...bytes);
  } catch (fault) {
    if (fault instanceof GuestFault) return fault;
    throw fault;
  }
  throw new Error(
    `${bytes.map((b) => b.toString(16)).join(" ")} raised nothing`,
  );
}

/** Asserts that an instruction raises an exception and changes no register. */
export function raises(
  cpu: FlatCpu,
  bytes: number[],
  vector: number,
  errorCode = 0,
): void {
  const before = cpu.state.b.slice(0, OFF.cr2);
  const fault = faultOf(cpu, ...bytes);
  assertEquals([fault.vector, fault.errorCode], [vector, errorCode]);
  assertEquals(cpu.state.b.slice(0, OFF.cr2), before);
}
