import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { BootError, loadFirmware, loadKernel, pcMemoryMap } from "./index.ts";
import type { BootRequest, SegmentState } from "./index.ts";
import { checkInitrd } from "./initrd.ts";
import { fakeBzImage, fakeCpio, fakeElf, TestRam } from "./testing.ts";

const MIB = 1 << 20;

function request(
  kernel: Uint8Array,
  more: Partial<BootRequest> & { mib?: number } = {},
): BootRequest & { ram: TestRam } {
  const ram = new TestRam((more.mib ?? 64) * MIB);
  return {
    ...more,
    ram,
    memoryMap: pcMemoryMap(ram.size),
    kernel: { bytes: kernel, label: "vmlinuz" },
    cmdline: more.cmdline ?? "console=ttyS0",
  };
}

async function refused(
  kernel: Uint8Array,
  more: Partial<BootRequest> & { mib?: number },
  ...parts: string[]
): Promise<void> {
  const error = await assertRejects(
    () => loadKernel(request(kernel, more)),
    BootError,
  );
  for (const part of parts) assertStringIncludes(error.message, part);
}

/** Decodes a GDT entry as the processor would. */
function descriptor(ram: TestRam, at: number): Omit<SegmentState, "selector"> {
  const low = ram.u32(at);
  const high = ram.u32(at + 4);
  const raw = (low & 0xffff) | (high & 0xf0000);
  return {
    base: BigInt(low >>> 16) | BigInt(high & 0xff) << 16n |
      BigInt(high >>> 24) << 24n,
    limit: (high & 1 << 23) !== 0 ? (raw * 4096 + 4095) : raw,
    attributes: (high >>> 8) & 0xf0ff,
  };
}

Deno.test("loadKernel enters a bzImage by the 64-bit protocol", async () => {
  const initrd = { bytes: fakeCpio(Uint8Array.of(1, 2, 3)), label: "initrd" };
  const boot = request(fakeBzImage(), { initrd, rsdp: 0xe0000 });
  const { ram } = boot;
  const state = await loadKernel(boot);
  assertEquals(state.mode, "long");
  assertEquals(state.rip, 0x1000200n);
  assertEquals(state.cr0, 0x8000_0011n);
  assertEquals(state.cr4, 0x20n);
  assertEquals(state.efer, 0x500n);
  assertEquals(ram.bytes[0x1000000], 0x90);
  const zero = Number(state.regs!.rsi);
  assertEquals(ram.u64(zero + 0x70), 0xe0000);
  assertEquals(ram.text(ram.u32(zero + 0x228)), "console=ttyS0");
  const initrdAt = ram.u32(zero + 0x218);
  assertEquals(ram.u32(zero + 0x21c), initrd.bytes.length);
  assertEquals(initrdAt, 64 * MIB - 4096);
  assertEquals(
    ram.bytes.subarray(initrdAt, initrdAt + initrd.bytes.length),
    initrd.bytes,
  );
  assertEquals(ram.bytes[zero + 0x1e8], boot.memoryMap.length);
  boot.memoryMap.forEach(({ base, length, type }, i) => {
    const at = zero + 0x2d0 + 20 * i;
    assertEquals([ram.u64(at), ram.u64(at + 8), ram.u32(at + 16)], [
      base,
      length,
      type,
    ]);
  });
  assertEquals(state.segments.cs.selector, 0x10);
  assertEquals(state.segments.ds.selector, 0x18);
  assertEquals(state.segments.cs.attributes, 0xa09b);
  assertEquals(state.segments.ds.attributes, 0xc093);
  for (const segment of [state.segments.cs, state.segments.ds]) {
    const { selector, ...hidden } = segment;
    assertEquals(descriptor(ram, Number(state.gdt!.base) + selector), hidden);
  }
});

Deno.test("loadKernel maps 4 GiB to themselves for long mode", async () => {
  const boot = request(fakeBzImage());
  const { ram } = boot;
  const state = await loadKernel(boot);
  const translate = (va: number): number => {
    let table = Number(state.cr3);
    for (const shift of [39, 30, 21]) {
      const index = Math.floor(va / 2 ** shift) % 512;
      const entry = ram.u64(table + index * 8);
      assertEquals(entry % 4, 3);
      if (shift === 21) {
        assertEquals(entry & 0x80, 0x80);
        return Math.floor(entry / 2 ** 21) * 2 ** 21 + va % 2 ** 21;
      }
      table = Math.floor(entry / 4096) * 4096;
    }
    throw new Error("unreachable");
  };
  for (const va of [0, 0x1000200, 0x7fff_ffff, 0xfee0_0020, 0xffff_ffff]) {
    assertEquals(translate(va), va);
  }
});

Deno.test("loadKernel puts a relocatable kernel lower in a small machine", async () => {
  const boot = request(fakeBzImage(), { mib: 8 });
  assertEquals((await loadKernel(boot)).rip, 0x200200n);
});

Deno.test("loadKernel keeps the initrd below initrd_addr_max", async () => {
  const kernel = fakeBzImage({ initrdMax: 0x1ff_ffff });
  const initrd = { bytes: fakeCpio(new Uint8Array(5000)), label: "initrd" };
  const boot = request(kernel, { initrd });
  const state = await loadKernel(boot);
  const at = boot.ram.u32(Number(state.regs!.rsi) + 0x218);
  assert(at + initrd.bytes.length <= 0x2000000);
});

Deno.test("loadKernel names what is wrong with a kernel or an initrd", async () => {
  const kernel = fakeBzImage();
  await refused(new Uint8Array(4096), {}, "vmlinuz: not a kernel");
  await refused(new Uint8Array(), {}, "vmlinuz: not a kernel", "empty");
  await refused(kernel.subarray(0, 3000), {}, "truncated", "5120", "3000");
  await refused(kernel.subarray(0, 0x210), {}, "truncated");
  await refused(fakeBzImage({ version: 0x204 }), {}, "protocol 2.4", "2.12");
  await refused(fakeBzImage({ xloadflags: 0 }), {}, "no 64-bit entry");
  await refused(kernel, { mib: 4 }, "memory is too small", "--mem");
  await refused(
    kernel,
    { cmdline: "x".repeat(3000) },
    "command line of 3000 bytes",
  );
  const cpio = fakeCpio(new Uint8Array(3000));
  const cut = { bytes: cpio.subarray(0, 2000), label: "initrd.img" };
  await refused(kernel, { initrd: cut }, "initrd.img: initrd is truncated");
  const none = { bytes: new Uint8Array(), label: "initrd.img" };
  await refused(kernel, { initrd: none }, "initrd.img: initrd is empty");
  const large = { bytes: fakeCpio(new Uint8Array(MIB * 6)), label: "big.img" };
  await refused(kernel, { initrd: large, mib: 10 }, "big.img", "too large");
});

Deno.test("checkInitrd accepts whole archives and refuses cut ones", async () => {
  const cpio = fakeCpio(crypto.getRandomValues(new Uint8Array(3000)));
  const whole = [...cpio, ...new Array<number>(512).fill(0), ...cpio];
  await checkInitrd({ bytes: Uint8Array.from(whole), label: "two" });
  const gzip = new Uint8Array(
    await new Response(
      new Blob([cpio as Uint8Array<ArrayBuffer>]).stream()
        .pipeThrough(new CompressionStream("gzip")),
    ).arrayBuffer(),
  );
  await checkInitrd({ bytes: gzip, label: "gzip" });
  await checkInitrd({
    bytes: Uint8Array.from([...cpio, 0, 0, 0, 0, ...gzip]),
    label: "both",
  });
  // A zstd frame of one raw block of five bytes, content size in the header.
  const zstd = Uint8Array.from(
    [0x28, 0xb5, 0x2f, 0xfd, 0x20, 5, 0x29, 0, 0, 1, 2, 3, 4, 5],
  );
  await checkInitrd({ bytes: zstd, label: "zstd" });
  const lz4 = Uint8Array.from([2, 0x21, 0x4c, 0x18, 3, 0, 0, 0, 1, 2, 3]);
  await checkInitrd({ bytes: lz4, label: "lz4" });
  const cut = [
    cpio.subarray(0, -100),
    gzip.subarray(0, -3),
    gzip.subarray(0, 500),
    zstd.subarray(0, -1),
    lz4.subarray(0, -1),
    Uint8Array.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 1, 2, 3]),
  ];
  for (const bytes of cut) {
    const error = await assertRejects(
      () => checkInitrd({ bytes, label: "cut" }),
      BootError,
    );
    assertStringIncludes(error.message, "cut: initrd is truncated");
  }
});

Deno.test("loadKernel enters a PVH kernel with hvm_start_info", async () => {
  const kernel = fakeElf({
    bits: 64,
    physical: 0x200000,
    virtual: 0xffff_ffff_8020_0000n,
    entry: 0xffff_ffff_8020_0000n,
    content: Uint8Array.of(1, 2, 3, 4),
    memorySize: 0x3000,
    pvh: 0x200040,
  });
  const boot = request(kernel, {
    initrd: { bytes: Uint8Array.of(9, 8, 7), label: "initrd" },
    modules: [{ bytes: Uint8Array.of(6), label: "module", cmdline: "a b" }],
    rsdp: 0xe0000,
  });
  const { ram } = boot;
  const state = await loadKernel(boot);
  assertEquals([state.mode, state.rip], ["protected", 0x200040n]);
  assertEquals(state.cr0, 0x11n);
  assertEquals(ram.bytes.subarray(0x200000, 0x200005).join(), "1,2,3,4,0");
  const info = Number(state.regs!.rbx);
  assertEquals([ram.u32(info), ram.u32(info + 4)], [0x336ec578, 1]);
  assertEquals(ram.u32(info + 12), 2);
  assertEquals(ram.text(ram.u64(info + 24)), "console=ttyS0");
  assertEquals(ram.u64(info + 32), 0xe0000);
  const list = ram.u64(info + 16);
  assertEquals(ram.bytes[ram.u64(list)], 9);
  assertEquals(ram.u64(list + 8), 3);
  assertEquals(ram.text(ram.u64(list + 32 + 16)), "a b");
  const map = ram.u64(info + 40);
  assertEquals(ram.u32(info + 48), boot.memoryMap.length);
  assertEquals(ram.u64(map + 8), boot.memoryMap[0].length);
  for (const segment of [state.segments.cs, state.segments.ds]) {
    const { selector, ...hidden } = segment;
    assertEquals(descriptor(ram, Number(state.gdt!.base) + selector), hidden);
  }
});

Deno.test("loadKernel enters a plain ELF64 kernel in long mode", async () => {
  const kernel = fakeElf({
    bits: 64,
    physical: 0x400000,
    virtual: 0xffff_8000_0040_0000n,
    entry: 0xffff_8000_0040_0002n,
    content: Uint8Array.of(0x90, 0x90, 0xf4),
  });
  const state = await loadKernel(request(kernel));
  assertEquals([state.mode, state.rip], ["long", 0x400002n]);
  const initrd = { bytes: Uint8Array.of(1), label: "i" };
  await refused(kernel, { initrd }, "takes no initrd");
  await refused(kernel.subarray(0, -1), {}, "truncated");
});

Deno.test("loadKernel names what is wrong with an ELF kernel", async () => {
  const elf = (physical: number, bits: 32 | 64 = 64) =>
    fakeElf({
      bits,
      physical,
      entry: BigInt(physical),
      content: Uint8Array.of(0xf4),
    });
  await refused(elf(0x9000), {}, "overlaps the boot page tables");
  await refused(elf(0x8000000), {}, "more memory (--mem)");
  await refused(elf(0x200000, 32), {}, "neither a PVH note nor a multiboot");
  const arm = elf(0x200000);
  arm[18] = 183;
  await refused(arm, {}, "not an x86 kernel", "machine 183");
});

function multibootHeader(flags: number, ...addresses: number[]): Uint8Array {
  const fields = [0x1badb002, flags, -(0x1badb002 + flags) >>> 0, ...addresses];
  return new Uint8Array(Uint32Array.from(fields).buffer);
}

Deno.test("loadKernel enters a multiboot ELF32 kernel with modules", async () => {
  const content = new Uint8Array(64);
  content.set(multibootHeader(3));
  const kernel = fakeElf({
    bits: 32,
    physical: 0x100000,
    entry: 0x10000cn,
    content,
  });
  const boot = request(kernel, {
    modules: [{ bytes: Uint8Array.of(5, 6), label: "m", cmdline: "module x" }],
  });
  const { ram } = boot;
  const state = await loadKernel(boot);
  assertEquals([state.mode, state.rip], ["protected", 0x10000cn]);
  assertEquals(state.regs!.rax, 0x2badb002n);
  const info = Number(state.regs!.rbx);
  assertEquals(ram.u32(info), 0x24d);
  assertEquals(ram.u32(info + 4), 639);
  assertEquals(ram.u32(info + 8), 63 * 1024);
  assertEquals(ram.text(ram.u32(info + 16)), "console=ttyS0");
  assertEquals(ram.u32(info + 20), 1);
  const module = ram.u32(info + 24);
  const [start, end] = [ram.u32(module), ram.u32(module + 4)];
  assertEquals(ram.bytes.subarray(start, end), Uint8Array.of(5, 6));
  assertEquals(ram.text(ram.u32(module + 8)), "module x");
  const map = ram.u32(info + 48);
  assertEquals(ram.u32(info + 44), 24 * boot.memoryMap.length);
  assertEquals(ram.u32(map), 20);
  assertEquals(ram.u64(map + 12), boot.memoryMap[0].length);
});

Deno.test("loadKernel enters a multiboot kernel by the header's addresses", async () => {
  const file = new Uint8Array(4096 + 256);
  const at = 0x200000;
  file.set(
    multibootHeader(0x10003, at + 16, at, at + 4096, at + 8192, at + 64),
    256 + 16,
  );
  file[256 + 64] = 0xf4;
  const boot = request(file);
  const state = await loadKernel(boot);
  assertEquals(state.rip, BigInt(at + 64));
  assertEquals(boot.ram.bytes[at + 64], 0xf4);
  await refused(file.subarray(0, 2000), {}, "truncated");
  const vbe = file.slice();
  vbe.set(multibootHeader(0x10010, at + 16, at, 0, 0, at), 256 + 16);
  await refused(vbe, {}, "requires features 0x10");
});

Deno.test("loadFirmware shadows the image's end below 1 MiB", () => {
  const bytes = new Uint8Array(256 * 1024).map((_, i) => i >> 12);
  const ram = new TestRam(2 * MIB);
  const state = loadFirmware(ram, { bytes, label: "bios.bin" });
  assertEquals(state.roms![0].base, 2 ** 32 - bytes.length);
  assertEquals(ram.bytes[0xe0000], 32);
  assertEquals(ram.bytes[0xfffff], 63);
  assertEquals(state.segments.cs.base + state.rip, 0xffff_fff0n);
});
