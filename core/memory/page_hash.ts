/**
 * Hashes pages of a wasm memory in place with SIMD: a few times as fast as a loop in TypeScript, and one pass tells
 * pages of zeroes too.
 *
 * @module
 */
import { W } from "../cpu/wasm/codes.ts";
import { ByteWriter, encodeModule } from "../cpu/wasm/module.ts";
import { WASM_OPS } from "../cpu/wasm/opcodes.ts";

const PAGE_BYTES = 4096;
const VECTOR_BYTES = 16;
/** Independent sums, so that one multiplication does not wait for the other. */
const LANES = 4;
/** FNV-1a over 32-bit words. */
const BASIS = 0x811c9dc5;
const PRIME = 0x01000193;
const SHIFT = 15;
/** Finalizer of MurmurHash3. */
const MIX = [0x85ebca6b, 0xc2b2ae35] as const;
const I32_LANES = 4;

/** v128.load and its alignment, 2^4 (WebAssembly core specification 2.0, 5.4.8). */
const V128_LOAD = [0xfd, 0, 4];

/** Parameters and locals: address; its end, the hash; what any word had; the sums. */
const LOCAL = { at: 0, end: 1, hash: 2, any: 3, sums: 4 } as const;

/** Writes `hash(address)`. */
function hashCode(): Uint8Array {
  const out = new ByteWriter(1024);
  const op = (name: string, lane?: number) => {
    out.raw(WASM_OPS[name].code);
    if (lane !== undefined) out.u8(lane);
  };
  const get = (local: number) => out.raw([W.localGet, local]);
  const set = (local: number) => out.raw([W.localSet, local]);
  const constant = (value: number) => {
    out.u8(W.i32Const);
    out.s32(value);
  };
  get(LOCAL.at);
  constant(PAGE_BYTES);
  op("i32.add");
  set(LOCAL.end);
  for (let i = 0; i < LANES; i++) {
    constant(BASIS + i);
    op("i32x4.splat");
    set(LOCAL.sums + i);
  }
  out.raw([W.loop, W.void]);
  for (let i = 0; i < LANES; i++) {
    // any |= v; sum = (sum ^ v) * PRIME; sum ^= sum >>> SHIFT, for a product carries upwards only
    get(LOCAL.at);
    out.raw(V128_LOAD);
    out.u32(i * VECTOR_BYTES);
    out.raw([W.localTee, LOCAL.sums + LANES]);
    get(LOCAL.any);
    op("v128.or");
    set(LOCAL.any);
    get(LOCAL.sums + i);
    get(LOCAL.sums + LANES);
    op("v128.xor");
    constant(PRIME);
    op("i32x4.splat");
    op("i32x4.mul");
    out.raw([W.localTee, LOCAL.sums + i]);
    get(LOCAL.sums + i);
    constant(SHIFT);
    op("i32x4.shr_u");
    op("v128.xor");
    set(LOCAL.sums + i);
  }
  get(LOCAL.at);
  constant(LANES * VECTOR_BYTES);
  op("i32.add");
  out.raw([W.localTee, LOCAL.at]);
  get(LOCAL.end);
  op("i32.lt_u");
  out.raw([W.brIf, 0, W.end]);
  get(LOCAL.any);
  op("v128.any_true");
  op("i32.eqz");
  out.raw([W.if, W.void]);
  constant(0);
  out.raw([W.return, W.end]);
  // Every word of every sum is mixed in turn.
  for (let i = 0; i < LANES * I32_LANES; i++) {
    get(LOCAL.hash);
    get(LOCAL.sums + Math.floor(i / I32_LANES));
    op("i32x4.extract_lane", i % I32_LANES);
    op("i32.xor");
    constant(MIX[0] | 0);
    op("i32.mul");
    out.raw([W.localTee, LOCAL.hash]);
    get(LOCAL.hash);
    constant(15);
    op("i32.shr_u");
    op("i32.xor");
    constant(MIX[1] | 0);
    op("i32.mul");
    set(LOCAL.hash);
  }
  // Zero says that every byte is zero.
  get(LOCAL.hash);
  constant(1);
  get(LOCAL.hash);
  out.u8(W.select);
  return out.view();
}

/**
 * Makes the hash of a memory's pages.
 *
 * @param memory The memory.
 * @param pages Its size in units of 64 KiB, which is also its maximum.
 * @returns Takes the address of a page; returns a 32-bit hash, which is 0 exactly when every byte is zero.
 */
export function pageHasher(
  memory: WebAssembly.Memory,
  pages: number,
): (address: number) => number {
  const bytes = encodeModule({ initial: pages, maximum: pages }, [], [{
    name: "hash",
    type: { params: ["i32"], results: ["i32"] },
    locals: ["i32", "i32", "v128", "v128", "v128", "v128", "v128", "v128"],
    code: hashCode(),
  }]);
  const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes), {
    m: { memory },
  });
  return instance.exports.hash as (address: number) => number;
}
