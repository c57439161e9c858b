/** Every entry of the opcode table, assembled into a module of its own and validated by the engine. */
import { assert, assertEquals } from "@std/assert";
import type { WasmType } from "../emitter.ts";
import { WASM_OPS, type WasmOp } from "./opcodes.ts";

const TYPE_BYTE: Record<WasmType, number> = {
  i32: 0x7f,
  i64: 0x7e,
  f32: 0x7d,
  f64: 0x7c,
  v128: 0x7b,
};

/** A module with one function that applies `op` to its parameters. */
function moduleOf(op: WasmOp): Uint8Array<ArrayBuffer> {
  const section = (id: number, body: number[]) => [id, body.length, ...body];
  const type = [
    0x60,
    op.params.length,
    ...op.params.map((t) => TYPE_BYTE[t]),
    ...(op.result === null ? [0] : [1, TYPE_BYTE[op.result]]),
  ];
  const body = [
    0,
    ...op.params.flatMap((_, i) => [0x20, i]),
    ...op.code,
    ...(op.laneImm ? [0] : []),
    0x0b,
  ];
  return new Uint8Array([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, ...type]),
    ...section(3, [1, 0]),
    ...section(7, [1, 1, 0x66, 0, 0]),
    ...section(10, [1, body.length, ...body]),
  ]);
}

Deno.test("every opcode validates with its signature", () => {
  for (const [name, op] of Object.entries(WASM_OPS)) {
    assert(WebAssembly.validate(moduleOf(op)), name);
  }
});

Deno.test("no opcode is listed twice, and none is missing", () => {
  const codes = new Set(Object.values(WASM_OPS).map((op) => op.code.join(" ")));
  assertEquals(codes.size, Object.keys(WASM_OPS).length);
  // Single-byte opcodes are dense from i32.eqz (0x45) to i64.extend32_s (0xc4).
  for (let code = 0x45; code <= 0xc4; code++) {
    assert(codes.has(String(code)), `opcode ${code.toString(16)} is missing`);
  }
  // 236 vector instructions, less the 22 with a memory argument, v128.const and i8x16.shuffle.
  assertEquals(
    Object.values(WASM_OPS).filter((op) => op.code[0] === 0xfd).length,
    212,
  );
});

Deno.test("names mean what they say", () => {
  const call = (name: string, ...args: (number | bigint)[]) => {
    const instance = new WebAssembly.Instance(
      new WebAssembly.Module(moduleOf(WASM_OPS[name])),
    );
    return (instance.exports.f as (
      ...args: (number | bigint)[]
    ) => number | bigint)(...args);
  };
  assertEquals(call("i32.div_u", -1, 2), 0x7fffffff);
  assertEquals(call("i64.rotl", 1n, 63n), -(1n << 63n));
  assertEquals(call("i64.extend32_s", 0xffffffffn), -1n);
  assertEquals(call("f64.copysign", 2, -1), -2);
  assertEquals(call("i32.trunc_sat_f64_u", -5), 0);
  assertEquals(call("i64.reinterpret_f64", 1), 0x3ff0000000000000n);
});
