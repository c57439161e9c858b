/** The MSR table. */
import { assertEquals } from "@std/assert";
import { CpuModel } from "./cpuid.ts";
import {
  MSR,
  MSRS,
  readMsr,
  readTsc,
  setFirmwareMtrrs,
  writeMsr,
} from "./msr.ts";
import { GuestFault, OFF, VECTOR } from "./state.ts";
import { FlatCpu } from "./testing/flat_cpu.ts";

function refuses(run: () => unknown): void {
  try {
    run();
  } catch (fault) {
    if (!(fault instanceof GuestFault)) throw fault;
    assertEquals([fault.vector, fault.errorCode], [VECTOR.GP, 0]);
    return;
  }
  throw new Error("expected #GP(0)");
}

Deno.test("every register that can be read can be written with what it reads", () => {
  const cpu = new FlatCpu();
  for (const [index, msr] of MSRS) {
    if (index === MSR.BIOS_UPDT_TRIG || !msr.write) continue;
    const value = readMsr(cpu, index);
    writeMsr(cpu, index, value);
    assertEquals(readMsr(cpu, index), value, msr.name);
  }
});

Deno.test("MSRs have their values at reset", () => {
  const cpu = new FlatCpu();
  assertEquals(readMsr(cpu, MSR.PAT), 0x0007_0406_0007_0406n);
  assertEquals(readMsr(cpu, MSR.MISC_ENABLE) & 1n, 1n);
  assertEquals(readMsr(cpu, MSR.MTRRCAP), 0x508n);
  assertEquals(readMsr(cpu, MSR.MCG_CAP), 0n);
  assertEquals(readMsr(cpu, MSR.ARCH_CAPABILITIES) & 1n, 1n);
});

Deno.test("unknown and read-only registers give #GP", () => {
  const cpu = new FlatCpu();
  refuses(() => readMsr(cpu, 0x4b564d00));
  refuses(() => writeMsr(cpu, 0x4b564d00, 0n));
  refuses(() => writeMsr(cpu, MSR.MTRRCAP, 0n));
  refuses(() => readMsr(cpu, MSR.BIOS_UPDT_TRIG));
});

Deno.test("registers of features that are not advertised do not exist", () => {
  const cpu = new FlatCpu(new CpuModel(["fpu", "msr", "tsc"]));
  refuses(() => readMsr(cpu, MSR.TSC_AUX));
  refuses(() => readMsr(cpu, MSR.TSC_ADJUST));
  refuses(() => readMsr(cpu, MSR.ARCH_CAPABILITIES));
});

Deno.test("values are checked", () => {
  const cpu = new FlatCpu();
  refuses(() => writeMsr(cpu, MSR.LSTAR, 1n << 47n));
  refuses(() => writeMsr(cpu, MSR.PAT, 2n));
  refuses(() => writeMsr(cpu, MSR.PAT, 8n));
  refuses(() => writeMsr(cpu, MSR.MTRR_FIX64K_00000, 7n));
  refuses(() => writeMsr(cpu, MSR.MTRR_PHYSBASE0, 1n << 40n));
  refuses(() => writeMsr(cpu, MSR.FMASK, 1n << 32n));
  refuses(() => writeMsr(cpu, MSR.EFER, 1n << 12n));
  writeMsr(cpu, MSR.MTRR_PHYSBASE0 + 1, 0xff_8000_0800n);
  assertEquals(readMsr(cpu, MSR.MTRR_PHYSBASE0 + 1), 0xff_8000_0800n);
});

Deno.test("the TSC can be set, and TSC_ADJUST follows", () => {
  const cpu = new FlatCpu();
  cpu.tscValue = 1000n;
  writeMsr(cpu, MSR.TSC, 5000n);
  assertEquals(readMsr(cpu, MSR.TSC_ADJUST), 4000n);
  cpu.tscValue = 1001n;
  assertEquals(readTsc(cpu), 5001n);
  writeMsr(cpu, MSR.TSC_ADJUST, 0n);
  assertEquals(readTsc(cpu), 1001n);
});

Deno.test("registers that the machine claims come first", () => {
  const cpu = new FlatCpu();
  cpu.claimed.set(MSR.APIC_BASE, 0xfee00900n);
  assertEquals(readMsr(cpu, MSR.APIC_BASE), 0xfee00900n);
  writeMsr(cpu, MSR.APIC_BASE, 0xfee00d00n);
  assertEquals(cpu.claimed.get(MSR.APIC_BASE), 0xfee00d00n);
});

Deno.test("EFER keeps LMA, and a change of NXE drops translations", () => {
  const cpu = new FlatCpu().long64();
  const before = cpu.state.get(OFF.efer);
  const flushes = cpu.flushes;
  writeMsr(cpu, MSR.EFER, (before & ~0x400n) | 0x800n);
  assertEquals(readMsr(cpu, MSR.EFER), before | 0x800n);
  assertEquals(cpu.flushes, flushes + 1);
});

Deno.test("setFirmwareMtrrs leaves values that WRMSR would take", () => {
  const cpu = new FlatCpu();
  setFirmwareMtrrs(cpu.state, 0xc0000000);
  for (const [index, msr] of MSRS) {
    if (msr.feature === "mtrr" && msr.write) {
      writeMsr(cpu, index, readMsr(cpu, index));
    }
  }
  assertEquals(readMsr(cpu, MSR.MTRR_DEF_TYPE), 0xc06n);
  assertEquals(readMsr(cpu, MSR.MTRR_FIX16K_A0000), 0n);
  assertEquals(readMsr(cpu, MSR.MTRR_PHYSBASE0), 0xc0000000n);
  assertEquals(readMsr(cpu, MSR.MTRR_PHYSBASE0 + 1), 0xff_c000_0800n);
});
