/**
 * Page walks: permissions, error codes, accessed and dirty bits, page sizes, in the three paging modes (Intel SDM vol. 3,
 * chapter 5, and 4.7 for the error codes).
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { GuestMemory } from "../memory/memory.ts";
import { ACCESS, type Access, Mmu, TLB_BYTES } from "./mmu.ts";
import { setPdptes } from "./pdpte.ts";
import { CpuState, CR0, CR4, EFER, FLAG, OFF, VECTOR } from "./state.ts";

const STATE = 0x10000, TLB = 0x20000;
const P = 1n,
  RW = 2n,
  US = 4n,
  A = 0x20n,
  D = 0x40n,
  PS = 0x80n,
  G = 0x100n,
  NX = 1n << 63n;
/** Where the tables are, and the page that is mapped. */
const PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, PT = 0x4000, FRAME = 0x7000;
const LINEAR = 0x5678;
const READ = ACCESS.read, WRITE = ACCESS.write, EXECUTE = ACCESS.execute;

class Walker {
  readonly memory = new GuestMemory(8 << 20);
  readonly state = new CpuState(this.memory.wasm, STATE);
  readonly mmu = new Mmu(this.memory, this.state, TLB);

  constructor(
    cr0 = CR0.WP,
    cr4: number = CR4.PAE,
    efer: number = EFER.LMA | EFER.LME | EFER.NXE,
  ) {
    this.state.set(OFF.cr0, BigInt(CR0.PE | cr0) | BigInt(CR0.PG));
    this.state.set(OFF.cr4, BigInt(cr4));
    this.state.set(OFF.efer, BigInt(efer));
    this.state.set(OFF.cr3, BigInt(PML4));
  }

  /** Four levels to {@linkcode LINEAR}; each takes all rights but those of the last level. */
  fourLevels(last: bigint): this {
    const { memory } = this;
    memory.writeU64(PML4, BigInt(PDPT) | P | RW | US);
    memory.writeU64(PDPT, BigInt(PD) | P | RW | US);
    memory.writeU64(PD, BigInt(PT) | P | RW | US);
    memory.writeU64(PT + (LINEAR >>> 12) * 8, BigInt(FRAME) | last);
    return this;
  }

  /** The physical address, or the error code of #PF as "#PF code". */
  walk(
    access: Access,
    user = false,
    linear: number | bigint = LINEAR,
    implicit = false,
  ): string {
    const wide = BigInt.asUintN(64, BigInt(linear));
    const pa = this.mmu.translate(
      Number(wide & 0xffffffffn),
      Number(wide >> 32n),
      access,
      user,
      implicit,
    );
    if (pa >= 0) return pa.toString(16);
    return this.mmu.vector === VECTOR.PF
      ? `#PF ${this.mmu.errorCode.toString(16)}`
      : `#${this.mmu.vector} ${this.mmu.errorCode}`;
  }

  /** Read, write and execute as supervisor, then as user. */
  all(linear: number | bigint = LINEAR): string {
    return [false, true].flatMap((user) =>
      [READ, WRITE, EXECUTE].map((access) => this.walk(access, user, linear))
    ).join(" ");
  }
}

Deno.test("translate without paging gives the address itself, and A20 cuts it", () => {
  const w = new Walker();
  w.state.set(OFF.cr0, 1n);
  assertEquals(w.walk(WRITE, true, 0x123456), "123456");
  w.mmu.a20 = false;
  assertEquals(w.walk(WRITE, true, 0x123456), "23456");
});

Deno.test("translate obeys present, writable, user and NX", () => {
  assertEquals(
    new Walker().fourLevels(0n).all(),
    "#PF 0 #PF 2 #PF 10 #PF 4 #PF 6 #PF 14",
  );
  assertEquals(
    new Walker().fourLevels(P | RW | US).all(),
    "7678 7678 7678 7678 7678 7678",
  );
  assertEquals(
    new Walker().fourLevels(P | RW).all(),
    "7678 7678 7678 #PF 5 #PF 7 #PF 15",
  );
  assertEquals(
    new Walker().fourLevels(P | US).all(),
    "7678 #PF 3 7678 7678 #PF 7 7678",
  );
  assertEquals(
    new Walker().fourLevels(P | RW | US | NX).all(),
    "7678 7678 #PF 11 7678 7678 #PF 15",
  );
});

Deno.test("rights are those of all levels together", () => {
  for (
    const [table, bits, expected] of [
      [PML4, P | US, "7678 #PF 3 7678 7678 #PF 7 7678"],
      [PDPT, P | RW, "7678 7678 7678 #PF 5 #PF 7 #PF 15"],
      [PD, P | RW | US | NX, "7678 7678 #PF 11 7678 7678 #PF 15"],
    ] as const
  ) {
    const w = new Walker().fourLevels(P | RW | US);
    w.memory.writeU64(table, (w.memory.readU64(table) & 0xff000n) | bits);
    assertEquals(w.all(), expected);
  }
});

Deno.test("a supervisor may write read-only pages with WP clear", () => {
  assertEquals(
    new Walker(0).fourLevels(P | US).all(),
    "7678 7678 7678 7678 #PF 7 7678",
  );
});

Deno.test("SMEP and SMAP keep the supervisor from user pages", () => {
  const smep = new Walker(CR0.WP, CR4.PAE | CR4.SMEP).fourLevels(P | RW | US);
  assertEquals(smep.all(), "7678 7678 #PF 11 7678 7678 7678");
  const smap = new Walker(CR0.WP, CR4.PAE | CR4.SMAP).fourLevels(P | RW | US);
  assertEquals(smap.all(), "#PF 1 #PF 3 7678 7678 7678 7678");
  // EFLAGS.AC lifts SMAP, but not for accesses that the processor makes by itself.
  smap.state.rflags = 2 | FLAG.AC;
  assertEquals(smap.all(), "7678 7678 7678 7678 7678 7678");
  assertEquals(smap.walk(READ, false, LINEAR, true), "#PF 1");
});

Deno.test("the error code says instruction fetch only where NX or SMEP exists", () => {
  const plain = new Walker(CR0.WP, CR4.PAE, EFER.LMA | EFER.LME).fourLevels(
    P | RW,
  );
  assertEquals(plain.walk(EXECUTE, true), "#PF 5");
  const smep = new Walker(CR0.WP, CR4.PAE | CR4.SMEP, EFER.LMA | EFER.LME)
    .fourLevels(P | RW);
  assertEquals(smep.walk(EXECUTE, true), "#PF 15");
});

Deno.test("reserved bits raise #PF with RSVD", () => {
  assertEquals(
    new Walker().fourLevels(P | RW | US | (1n << 51n)).walk(READ),
    "#PF 9",
  );
  // NX is reserved without EFER.NXE.
  assertEquals(
    new Walker(CR0.WP, CR4.PAE, EFER.LMA | EFER.LME).fourLevels(
      P | RW | US | NX,
    ).walk(READ, true),
    "#PF d",
  );
  // PS in the fourth level; address bits below a large page's size.
  const w = new Walker().fourLevels(P | RW | US);
  w.memory.writeU64(PML4, w.memory.readU64(PML4) | PS);
  assertEquals(w.walk(WRITE), "#PF b");
  const large = new Walker().fourLevels(P);
  large.memory.writeU64(PD, 0x202000n | P | RW | US | PS);
  assertEquals(large.walk(READ), "#PF 9");
});

Deno.test("accessed and dirty bits are set when an access succeeds", () => {
  const w = new Walker().fourLevels(P | US);
  const bits = (table: number) => w.memory.readU64(table) & (A | D);
  const last = PT + (LINEAR >>> 12) * 8;
  assertEquals(w.walk(WRITE), "#PF 3");
  assertEquals([PML4, PDPT, PD, last].map(bits), [0n, 0n, 0n, 0n]);
  w.walk(READ);
  assertEquals([PML4, PDPT, PD, last].map(bits), [A, A, A, A]);
  w.memory.writeU64(last, w.memory.readU64(last) | RW);
  w.walk(WRITE);
  assertEquals([PML4, PDPT, PD, last].map(bits), [A, A, A, A | D]);
});

Deno.test("pages of 2 MiB and 1 GiB", () => {
  const w = new Walker().fourLevels(P);
  w.memory.writeU64(PD, 0x600000n | P | RW | US | PS);
  assertEquals(w.walk(WRITE, true, 0x1fedcb), "7fedcb");
  assertEquals(w.memory.readU64(PD) & (A | D), A | D);
  w.memory.writeU64(PDPT, 0x40000000n | P | RW | PS);
  assertEquals(w.walk(READ, false, 0x12345678), "52345678");
  assertEquals(w.walk(READ, true, 0x12345678), "#PF 5");
});

Deno.test("the upper half of the address space, and addresses outside both halves", () => {
  const w = new Walker().fourLevels(P | RW | US);
  w.memory.writeU64(PML4 + 511 * 8, BigInt(PDPT) | P | RW | US);
  w.memory.writeU64(PDPT + 511 * 8, BigInt(PD) | P | RW | US);
  w.memory.writeU64(PD + 511 * 8, BigInt(PT) | P | RW | US);
  w.memory.writeU64(PT + 511 * 8, BigInt(FRAME) | P | RW | US);
  assertEquals(w.walk(READ, false, 0xffff_ffff_ffff_f123n), "7123");
  for (
    const linear of [0x0000_8000_0000_0000n, 0xffff_7fff_ffff_ffffn, 1n << 63n]
  ) {
    assertEquals(w.walk(READ, false, linear), `#${VECTOR.GP} 0`);
  }
});

Deno.test("32-bit paging, with 4 MiB pages where PSE is set", () => {
  const w = new Walker(CR0.WP, CR4.PSE, 0);
  w.memory.writeU32(PML4, PT | 7);
  w.memory.writeU32(PT + 5 * 4, FRAME | 7);
  assertEquals(w.all(), "7678 7678 7678 7678 7678 7678");
  w.memory.writeU32(PT + 5 * 4, FRAME | 1);
  // No NX here, and no instruction bit in the error code.
  assertEquals(w.all(), "7678 #PF 3 7678 #PF 5 #PF 7 #PF 5");
  w.memory.writeU32(PML4 + 4, 0x400000 | 0x80 | 7);
  assertEquals(w.walk(WRITE, true, 0x400000 + 0x123456), "523456");
  assertEquals(w.memory.readU32(PML4 + 4) & 0x60, 0x60);
  // PSE-36: bits 13 to 20 are the address's bits 32 to 39.
  w.memory.writeU32(PML4 + 4, 0x400000 | (1 << 13) | 0x80 | 7);
  assertEquals(w.walk(READ, true, 0x400000), "100400000");
  w.state.set(OFF.cr4, 0n);
  w.memory.writeU32(PML4 + 4, PT | 0x80 | 7);
  w.memory.writeU32(PT, FRAME | 7);
  assertEquals(w.walk(READ, true, 0x400123), "7123");
});

Deno.test("PAE paging has three levels and NX", () => {
  const w = new Walker(CR0.WP, CR4.PAE, EFER.NXE);
  w.memory.writeU64(PML4 + 3 * 8, BigInt(PD) | P);
  setPdptes(w.state, w.mmu.readPdptes(BigInt(PML4)));
  // What is in memory counts when CR3 is loaded, and not later.
  w.memory.writeU64(PML4 + 3 * 8, 0n);
  w.memory.writeU64(PD + 511 * 8, BigInt(PT) | P | RW | US);
  w.memory.writeU64(PT + 511 * 8, BigInt(FRAME) | P | RW | US);
  assertEquals(w.all(0xfffff123), "7123 7123 7123 7123 7123 7123");
  w.memory.writeU64(PT + 511 * 8, BigInt(FRAME) | P | RW | US | NX);
  assertEquals(w.all(0xfffff123), "7123 7123 #PF 11 7123 7123 #PF 15");
  w.memory.writeU64(PD + 511 * 8, 0x400000n | P | RW | PS);
  assertEquals(w.walk(WRITE, false, 0xffe01234), "401234");
  assertEquals(w.walk(READ, false, 0x1234), "#PF 0");
});

Deno.test("the TLB keeps global pages over a CR3 write alone, and forgets single pages", () => {
  const w = new Walker(CR0.WP, CR4.PAE | CR4.PGE).fourLevels(P | RW | US | G);
  assertEquals(TLB_BYTES > 0, true);
  const fill = (linear: number) => {
    w.walk(READ, false, linear);
    w.mmu.fill(linear, 0, w.memory.host(FRAME) + (linear & 0xfff), false, 0);
  };
  w.memory.writeU64(PT + 6 * 8, BigInt(FRAME) | P | RW | US);
  const known = () =>
    [LINEAR, 0x6000].map((linear) => w.mmu.cached(linear, 0, false, 0) >= 0);
  fill(LINEAR);
  fill(0x6000);
  assertEquals(known(), [true, true]);
  assertEquals(w.mmu.cached(LINEAR, 0, false, 0), w.memory.host(FRAME) + 0x678);
  w.mmu.flush(true);
  assertEquals(known(), [true, false]);
  fill(0x6000);
  w.mmu.invalidate(LINEAR);
  assertEquals(known(), [false, true]);
  fill(LINEAR);
  w.mmu.flush(false);
  assertEquals(known(), [false, false]);
});
