import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  CONTEXT_SIZE,
  FLAGS_MASK,
  HostContext,
  HostCpu,
  hostCpu,
  MAX_CODE,
  runOnHost,
} from "./host_cpu.ts";

const CF = 1n;
const PF = 4n;
const ZF = 0x40n;
const DF = 0x400n;
const OF = 0x800n;
const [RAX, RCX, RDX, , RSP] = [0, 1, 2, 3, 4];

const unavailable = HostCpu.unavailable();
if (unavailable !== null) console.log(`skipped: ${unavailable}`);

function onHost(name: string, body: () => void): void {
  Deno.test({ name, ignore: unavailable !== null, fn: body });
}

/** A context whose stack is in the scratch memory. */
function context(): HostContext {
  const made = new HostContext();
  const { scratchAddress } = hostCpu();
  made.setGpr(RSP, BigInt(scratchAddress + 0x8000));
  return made;
}

function run(c: HostContext, ...code: number[]): void {
  runOnHost(Uint8Array.from(code), c);
}

onHost("no instructions leave every register as it was", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: CONTEXT_SIZE, maxLength: CONTEXT_SIZE }),
      (bytes) => {
        const before = context();
        const rsp = before.gpr(RSP);
        for (let i = 0; i < 16; i++) {
          before.setGpr(
            i,
            new DataView(bytes.buffer).getBigUint64(i * 8, true),
          );
          before.xmm(i).set(bytes.subarray(256 + i * 16, 272 + i * 16));
        }
        before.setGpr(RSP, rsp);
        for (let i = 0; i < 8; i++) {
          before.st(i).set(bytes.subarray(512 + i * 10, 522 + i * 10));
        }
        before.rflags = BigInt(bytes[128] | bytes[129] << 8);
        before.ftw = bytes[130];
        before.mxcsr = MXCSR_MASKED | bytes[131] & 0x3f | bytes[132] << 13;
        const after = new HostContext(before.bytes.slice());
        run(after);
        for (let i = 0; i < 16; i++) {
          assertEquals(after.gpr(i), before.gpr(i));
          assertEquals(after.xmm(i), before.xmm(i));
        }
        for (let i = 0; i < 8; i++) assertEquals(after.st(i), before.st(i));
        assertEquals(after.rflags, before.rflags);
        assertEquals(after.ftw, before.ftw);
        assertEquals(after.mxcsr, before.mxcsr);
      },
    ),
  );
});

/** Every SSE exception masked. */
const MXCSR_MASKED = 0x1f80;

onHost("add sets registers and flags", () => {
  const c = context();
  c.setGpr(RAX, 0xffff_ffff_ffff_ffffn);
  c.setGpr(RCX, 1n);
  c.rflags = OF;
  run(c, 0x48, 0x01, 0xc8); // add rax, rcx
  assertEquals(c.gpr(RAX), 0n);
  assertEquals(c.rflags & (CF | PF | ZF | OF), CF | PF | ZF);
});

onHost("flags go in: adc, setc, and the direction flag", () => {
  const c = context();
  c.rflags = CF | DF;
  c.setGpr(RAX, 5n);
  run(c, 0x48, 0x83, 0xd0, 0x00); // adc rax, 0
  assertEquals(c.gpr(RAX), 6n);
  assertEquals(c.rflags & DF, DF);
  assertEquals(c.rflags & ~FLAGS_MASK, 2n);
});

onHost("memory operands and the stack are in scratch memory", () => {
  const c = context();
  const { scratch, scratchAddress } = hostCpu();
  new DataView(scratch.buffer).setBigUint64(16, 0x1122334455667788n, true);
  c.setGpr(RCX, BigInt(scratchAddress));
  run(c, 0xff, 0x71, 0x10, 0x5a); // push [rcx + 16]; pop rdx
  assertEquals(c.gpr(RDX), 0x1122334455667788n);
  run(c, 0xc7, 0x01, 0x78, 0x56, 0x34, 0x12); // mov dword [rcx], 0x12345678
  assertEquals([...scratch.subarray(0, 4)], [0x78, 0x56, 0x34, 0x12]);
});

onHost("every general-purpose register goes in and out", () => {
  const c = context();
  const rsp = c.gpr(RSP);
  for (let i = 0; i < 16; i++) if (i !== RSP) c.setGpr(i, BigInt(i * 0x101));
  // inc of each but rsp, then lea rsp, [rsp + 8]
  const code: number[] = [];
  for (let i = 0; i < 16; i++) {
    if (i !== RSP) code.push(0x48 | i >> 3, 0xff, 0xc0 | i & 7);
  }
  run(c, ...code, 0x48, 0x8d, 0x64, 0x24, 0x08);
  for (let i = 0; i < 16; i++) {
    assertEquals(c.gpr(i), i === RSP ? rsp + 8n : BigInt(i * 0x101 + 1));
  }
});

onHost("SSE: addps with MXCSR rounding and flags", () => {
  const c = context();
  const floats = (i: number) => {
    const bytes = c.xmm(i);
    return new Float32Array(bytes.buffer, bytes.byteOffset, 4);
  };
  floats(3).set([1, 2, 3, 2 ** 25]);
  floats(12).set([10, 20, 30, 1]);
  const ROUND_UP = 0x4000;
  c.mxcsr = MXCSR_MASKED | ROUND_UP;
  run(c, 0x41, 0x0f, 0x58, 0xdc); // addps xmm3, xmm12
  assertEquals([...floats(3)], [11, 22, 33, 2 ** 25 + 4]);
  const PE = 0x20;
  assertEquals(c.mxcsr, MXCSR_MASKED | ROUND_UP | PE);
});

onHost("x87: fldpi and fld1 push, and faddp pops", () => {
  const c = context();
  run(c, 0xd9, 0xeb, 0xd9, 0xe8); // fldpi; fld1
  assertEquals(c.ftw, 0b1100_0000);
  assertEquals(c.fsw >> 11 & 7, 6);
  assertEquals([...c.st(0)], [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
  assertEquals(
    [...c.st(1)],
    [0x35, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9, 0x00, 0x40],
  );
  run(c, 0xde, 0xc1); // faddp
  assertEquals(c.ftw, 0b1000_0000);
  assertEquals(c.fsw >> 11 & 7, 7);
});

onHost("MMX: paddb", () => {
  const c = context();
  c.st(0).set([1, 2, 3, 4, 5, 6, 7, 8]);
  c.st(1).set([10, 20, 30, 40, 50, 60, 70, 250]);
  run(c, 0x0f, 0xfc, 0xc1); // paddb mm0, mm1
  assertEquals([...c.st(0)], [11, 22, 33, 44, 55, 66, 77, 2, 0xff, 0xff]);
  assertEquals(c.ftw, 0xff);
});

onHost("RIP-relative operands are relative to codeAddress", () => {
  const c = context();
  run(c, 0x48, 0x8d, 0x05, 0, 0, 0, 0); // lea rax, [rip]
  assertEquals(c.gpr(RAX), BigInt(hostCpu().codeAddress + 7));
});

onHost("what would trap the host is not loaded", () => {
  const c = context();
  const view = new DataView(c.bytes.buffer);
  view.setBigUint64(0x80, 0xffff_ffff_ffff_ffffn, true); // TF and AC among them
  view.setUint32(0x200 + 24, 0xffff_1f80, true); // reserved MXCSR bits
  run(c, 0x90);
  assertEquals(c.rflags, FLAGS_MASK | 2n);
  assertEquals(c.mxcsr, 0x1f80);
});

onHost(
  "a JavaScript computation is not disturbed by what the code leaves behind",
  () => {
    const c = context();
    c.mxcsr = MXCSR_MASKED | 0x6000; // towards zero
    c.fcw = 0x0c7f;
    c.rflags = DF;
    run(c, 0xd9, 0xeb);
    assertEquals(0.1 + 0.2, 0.30000000000000004);
    assertEquals(
      new Uint8Array(100).fill(7).slice(3, 50).every((b) => b === 7),
      true,
    );
  },
);

onHost("code that is too long is refused", () => {
  assertThrows(
    () => run(context(), ...new Array(MAX_CODE + 1).fill(0x90)),
    RangeError,
    "at most",
  );
});

onHost("a CPU of its own can be opened and let go", () => {
  using cpu = HostCpu.open();
  const c = new HostContext();
  c.setGpr(RSP, BigInt(cpu.scratchAddress + 0x8000));
  cpu.run(Uint8Array.of(0x48, 0xff, 0xc0), c);
  assertEquals(c.gpr(RAX), 1n);
});
