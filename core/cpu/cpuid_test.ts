/** The CPUID leaves. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type CpuidResult, CpuModel, type Feature, TSC_HZ } from "./cpuid.ts";

const ON = { apicEnabled: true, osxsave: false };

function text(words: number[]): string {
  const bytes = new Uint8Array(new Uint32Array(words).buffer);
  return new TextDecoder().decode(bytes).replace(/\0+$/, "");
}

Deno.test("CpuModel v2 has every feature of x86-64-v2", () => {
  const model = new CpuModel("v2");
  const v2: Feature[] = [
    ...["cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"] as const,
    ...["cx16", "lahf_lm", "popcnt", "sse3", "sse4_1", "sse4_2"] as const,
    ...["ssse3"] as const,
  ];
  for (const feature of v2) assert(model.has(feature), feature);
  for (const feature of ["avx", "xsave", "vme", "pcid"] as const) {
    assert(!model.has(feature), feature);
  }
  const [, , ecx, edx] = model.cpuid(1, 0, ON);
  assert(ecx & (1 << 20) && ecx & (1 << 23) && edx & (1 << 26));
  assert(!(ecx & (1 << 28)));
});

Deno.test("CpuModel names itself", () => {
  const model = new CpuModel();
  const brand = [0x80000002, 0x80000003, 0x80000004].flatMap((leaf) =>
    model.cpuid(leaf, 0, ON)
  );
  assertEquals(text(brand), "Diapause vCPU");
  const [, b, c, d] = model.cpuid(0x4000_0000, 0, ON);
  assertEquals(text([b, c, d]), "DiapausevCPU");
  // Family 6, model 0x36.
  assertEquals(model.cpuid(1, 0, ON)[0], 0x30669);
});

Deno.test("CpuModel gives the TSC frequency in leaf 15H and the address sizes", () => {
  const model = new CpuModel();
  assertEquals(model.cpuid(0x15, 0, ON), [1, 1, TSC_HZ, 0]);
  assertEquals(model.cpuid(0x80000008, 0, ON)[0], 0x3028);
});

Deno.test("CpuModel follows the APIC enable and OSXSAVE", () => {
  const model = new CpuModel();
  const apic = 1 << 9, osxsave = 1 << 27;
  const on = model.cpuid(1, 0, { apicEnabled: true, osxsave: true });
  const off = model.cpuid(1, 0, { apicEnabled: false, osxsave: false });
  assertEquals([on[3] & apic, on[2] & osxsave], [apic, osxsave]);
  assertEquals([off[3] & apic, off[2] & osxsave], [0, 0]);
});

Deno.test("CpuModel answers out-of-range leaves with the highest basic one", () => {
  const model = new CpuModel();
  const last: CpuidResult = model.cpuid(0x16, 0, ON);
  for (const leaf of [0x17, 0x3fff_ffff, 0x4000_0001, 0x8000_0009, -1]) {
    assertEquals(model.cpuid(leaf, 0, ON), last);
  }
});

Deno.test("CpuModel describes the topology in leaf 0BH", () => {
  const model = new CpuModel("v2", 2, 4);
  assertEquals(model.cpuid(0xb, 0, ON), [0, 1, 0x100, 2]);
  assertEquals(model.cpuid(0xb, 1, ON), [2, 4, 0x201, 2]);
  assertEquals(model.cpuid(0xb, 2, ON), [0, 0, 2, 2]);
  assertEquals(model.cpuid(1, 0, ON)[1] >>> 24, 2);
});

Deno.test("CpuModel refuses unknown features by name", () => {
  assertThrows(
    () => new CpuModel(["sse", "sse9"] as unknown as Feature[]),
    RangeError,
    'CPU feature "sse9" does not exist',
  );
});
