/**
 * The pure value instructions of WebAssembly by their text names (WebAssembly Core Specification 2.0, 5.4.7 and 5.4.8):
 * numeric, conversion and fixed-width vector instructions. Nothing here reads memory, branches or has an immediate, but
 * for the lane instructions, whose lane byte follows the opcode. i8x16.shuffle, with its sixteen bytes, is not one of them.
 *
 * @module
 */
import type { WasmType } from "../emitter.ts";

/** How one instruction is encoded and what it takes and gives. */
export interface WasmOp {
  /** The whole opcode, prefix byte and LEB128 number included. */
  readonly code: number[];
  /** Operand types, first pushed first. */
  readonly params: WasmType[];
  /** Result type. */
  readonly result: WasmType | null;
  /** A lane index byte follows the opcode. */
  readonly laneImm?: true;
}

/** Prefix byte of the saturating truncations (5.4.7). */
const PREFIX_SATURATING = 0xfc;
/** Prefix byte of the vector instructions (5.4.8). */
const PREFIX_VECTOR = 0xfd;

const ops: Record<string, WasmOp> = {};

/** The opcode bytes of instruction number `number` after `prefix` (none when 0). */
function encode(prefix: number, number: number): number[] {
  if (prefix === 0) return [number];
  return number < 0x80
    ? [prefix, number]
    : [prefix, (number & 0x7f) | 0x80, number >> 7];
}

/**
 * Adds instructions with one signature and consecutive numbers.
 *
 * @param signature `"params -> result"`, each type by name.
 * @param names Text names separated by blanks, put after `stem`; `-` skips a number.
 */
function run(
  prefix: number,
  first: number,
  signature: string,
  stem: string,
  names: string,
  laneImm?: true,
): void {
  const [params, result] = signature.split("->").map((part) => part.trim());
  names.split(" ").forEach((name, i) => {
    if (name === "-") return;
    ops[stem + name] = {
      code: encode(prefix, first + i),
      params: params.split(" ") as WasmType[],
      result: result as WasmType,
      ...(laneImm ? { laneImm } : {}),
    };
  });
}

/** Scalar instructions (5.4.7). */
function scalars(): void {
  const compareInt = "eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u";
  const compareFloat = "eq ne lt gt le ge";
  const unaryInt = "clz ctz popcnt";
  const binaryInt =
    "add sub mul div_s div_u rem_s rem_u and or xor shl shr_s shr_u rotl rotr";
  const unaryFloat = "abs neg ceil floor trunc nearest sqrt";
  const binaryFloat = "add sub mul div min max copysign";
  run(0, 0x45, "i32 -> i32", "i32.", "eqz");
  run(0, 0x46, "i32 i32 -> i32", "i32.", compareInt);
  run(0, 0x50, "i64 -> i32", "i64.", "eqz");
  run(0, 0x51, "i64 i64 -> i32", "i64.", compareInt);
  run(0, 0x5b, "f32 f32 -> i32", "f32.", compareFloat);
  run(0, 0x61, "f64 f64 -> i32", "f64.", compareFloat);
  run(0, 0x67, "i32 -> i32", "i32.", unaryInt);
  run(0, 0x6a, "i32 i32 -> i32", "i32.", binaryInt);
  run(0, 0x79, "i64 -> i64", "i64.", unaryInt);
  run(0, 0x7c, "i64 i64 -> i64", "i64.", binaryInt);
  run(0, 0x8b, "f32 -> f32", "f32.", unaryFloat);
  run(0, 0x92, "f32 f32 -> f32", "f32.", binaryFloat);
  run(0, 0x99, "f64 -> f64", "f64.", unaryFloat);
  run(0, 0xa0, "f64 f64 -> f64", "f64.", binaryFloat);
  run(0, 0xa7, "i64 -> i32", "i32.", "wrap_i64");
  run(0, 0xa8, "f32 -> i32", "i32.", "trunc_f32_s trunc_f32_u");
  run(0, 0xaa, "f64 -> i32", "i32.", "trunc_f64_s trunc_f64_u");
  run(0, 0xac, "i32 -> i64", "i64.", "extend_i32_s extend_i32_u");
  run(0, 0xae, "f32 -> i64", "i64.", "trunc_f32_s trunc_f32_u");
  run(0, 0xb0, "f64 -> i64", "i64.", "trunc_f64_s trunc_f64_u");
  run(0, 0xb2, "i32 -> f32", "f32.", "convert_i32_s convert_i32_u");
  run(0, 0xb4, "i64 -> f32", "f32.", "convert_i64_s convert_i64_u");
  run(0, 0xb6, "f64 -> f32", "f32.", "demote_f64");
  run(0, 0xb7, "i32 -> f64", "f64.", "convert_i32_s convert_i32_u");
  run(0, 0xb9, "i64 -> f64", "f64.", "convert_i64_s convert_i64_u");
  run(0, 0xbb, "f32 -> f64", "f64.", "promote_f32");
  run(0, 0xbc, "f32 -> i32", "i32.", "reinterpret_f32");
  run(0, 0xbd, "f64 -> i64", "i64.", "reinterpret_f64");
  run(0, 0xbe, "i32 -> f32", "f32.", "reinterpret_i32");
  run(0, 0xbf, "i64 -> f64", "f64.", "reinterpret_i64");
  run(0, 0xc0, "i32 -> i32", "i32.", "extend8_s extend16_s");
  run(0, 0xc2, "i64 -> i64", "i64.", "extend8_s extend16_s extend32_s");
  run(
    PREFIX_SATURATING,
    0,
    "f32 -> i32",
    "i32.",
    "trunc_sat_f32_s trunc_sat_f32_u",
  );
  run(
    PREFIX_SATURATING,
    2,
    "f64 -> i32",
    "i32.",
    "trunc_sat_f64_s trunc_sat_f64_u",
  );
  run(
    PREFIX_SATURATING,
    4,
    "f32 -> i64",
    "i64.",
    "trunc_sat_f32_s trunc_sat_f32_u",
  );
  run(
    PREFIX_SATURATING,
    6,
    "f64 -> i64",
    "i64.",
    "trunc_sat_f64_s trunc_sat_f64_u",
  );
}

/** Vector instructions (5.4.8). */
function vectors(): void {
  const unary = "v128 -> v128";
  const binary = "v128 v128 -> v128";
  const test = "v128 -> i32";
  const shift = "v128 i32 -> v128";
  const vector = (
    first: number,
    signature: string,
    stem: string,
    names: string,
    laneImm?: true,
  ) => run(PREFIX_VECTOR, first, signature, stem, names, laneImm);

  vector(14, binary, "i8x16.", "swizzle");
  vector(15, "i32 -> v128", "", "i8x16.splat i16x8.splat i32x4.splat");
  vector(18, "i64 -> v128", "", "i64x2.splat");
  vector(19, "f32 -> v128", "", "f32x4.splat");
  vector(20, "f64 -> v128", "", "f64x2.splat");

  vector(21, test, "i8x16.", "extract_lane_s extract_lane_u", true);
  vector(23, shift, "i8x16.", "replace_lane", true);
  vector(24, test, "i16x8.", "extract_lane_s extract_lane_u", true);
  vector(26, shift, "i16x8.", "replace_lane", true);
  vector(27, test, "i32x4.", "extract_lane", true);
  vector(28, shift, "i32x4.", "replace_lane", true);
  vector(29, "v128 -> i64", "i64x2.", "extract_lane", true);
  vector(30, "v128 i64 -> v128", "i64x2.", "replace_lane", true);
  vector(31, "v128 -> f32", "f32x4.", "extract_lane", true);
  vector(32, "v128 f32 -> v128", "f32x4.", "replace_lane", true);
  vector(33, "v128 -> f64", "f64x2.", "extract_lane", true);
  vector(34, "v128 f64 -> v128", "f64x2.", "replace_lane", true);

  const compareInt = "eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u";
  vector(35, binary, "i8x16.", compareInt);
  vector(45, binary, "i16x8.", compareInt);
  vector(55, binary, "i32x4.", compareInt);
  vector(65, binary, "f32x4.", "eq ne lt gt le ge");
  vector(71, binary, "f64x2.", "eq ne lt gt le ge");
  vector(214, binary, "i64x2.", "eq ne lt_s gt_s le_s ge_s");

  vector(77, unary, "v128.", "not");
  vector(78, binary, "v128.", "and andnot or xor");
  vector(82, "v128 v128 v128 -> v128", "v128.", "bitselect");
  vector(83, test, "v128.", "any_true");

  vector(94, unary, "", "f32x4.demote_f64x2_zero f64x2.promote_low_f32x4");
  vector(103, unary, "f32x4.", "ceil floor trunc nearest");
  vector(116, unary, "f64x2.", "ceil floor");
  vector(122, unary, "f64x2.", "trunc");
  vector(148, unary, "f64x2.", "nearest");

  vector(96, unary, "i8x16.", "abs neg popcnt");
  vector(99, test, "i8x16.", "all_true bitmask");
  vector(101, binary, "i8x16.", "narrow_i16x8_s narrow_i16x8_u");
  vector(107, shift, "i8x16.", "shl shr_s shr_u");
  vector(
    110,
    binary,
    "i8x16.",
    "add add_sat_s add_sat_u sub sub_sat_s sub_sat_u - - min_s min_u max_s max_u - avgr_u",
  );

  vector(
    124,
    unary,
    "",
    "i16x8.extadd_pairwise_i8x16_s i16x8.extadd_pairwise_i8x16_u",
  );
  vector(
    126,
    unary,
    "",
    "i32x4.extadd_pairwise_i16x8_s i32x4.extadd_pairwise_i16x8_u",
  );

  vector(128, unary, "i16x8.", "abs neg");
  vector(130, binary, "i16x8.", "q15mulr_sat_s");
  vector(131, test, "i16x8.", "all_true bitmask");
  vector(133, binary, "i16x8.", "narrow_i32x4_s narrow_i32x4_u");
  vector(
    135,
    unary,
    "i16x8.",
    "extend_low_i8x16_s extend_high_i8x16_s extend_low_i8x16_u extend_high_i8x16_u",
  );
  vector(139, shift, "i16x8.", "shl shr_s shr_u");
  vector(
    142,
    binary,
    "i16x8.",
    "add add_sat_s add_sat_u sub sub_sat_s sub_sat_u - mul min_s min_u max_s max_u - avgr_u",
  );
  vector(
    156,
    binary,
    "i16x8.",
    "extmul_low_i8x16_s extmul_high_i8x16_s extmul_low_i8x16_u extmul_high_i8x16_u",
  );

  vector(160, unary, "i32x4.", "abs neg");
  vector(163, test, "i32x4.", "all_true bitmask");
  vector(
    167,
    unary,
    "i32x4.",
    "extend_low_i16x8_s extend_high_i16x8_s extend_low_i16x8_u extend_high_i16x8_u",
  );
  vector(171, shift, "i32x4.", "shl shr_s shr_u");
  vector(
    174,
    binary,
    "i32x4.",
    "add - - sub - - - mul min_s min_u max_s max_u dot_i16x8_s",
  );
  vector(
    188,
    binary,
    "i32x4.",
    "extmul_low_i16x8_s extmul_high_i16x8_s extmul_low_i16x8_u extmul_high_i16x8_u",
  );

  vector(192, unary, "i64x2.", "abs neg");
  vector(195, test, "i64x2.", "all_true bitmask");
  vector(
    199,
    unary,
    "i64x2.",
    "extend_low_i32x4_s extend_high_i32x4_s extend_low_i32x4_u extend_high_i32x4_u",
  );
  vector(203, shift, "i64x2.", "shl shr_s shr_u");
  vector(206, binary, "i64x2.", "add - - sub - - - mul");
  vector(
    220,
    binary,
    "i64x2.",
    "extmul_low_i32x4_s extmul_high_i32x4_s extmul_low_i32x4_u extmul_high_i32x4_u",
  );

  vector(224, unary, "f32x4.", "abs neg - sqrt");
  vector(228, binary, "f32x4.", "add sub mul div min max pmin pmax");
  vector(236, unary, "f64x2.", "abs neg - sqrt");
  vector(240, binary, "f64x2.", "add sub mul div min max pmin pmax");
  vector(
    248,
    unary,
    "",
    "i32x4.trunc_sat_f32x4_s i32x4.trunc_sat_f32x4_u f32x4.convert_i32x4_s f32x4.convert_i32x4_u",
  );
  vector(252, unary, "i32x4.", "trunc_sat_f64x2_s_zero trunc_sat_f64x2_u_zero");
  vector(254, unary, "f64x2.", "convert_low_i32x4_s convert_low_i32x4_u");
}

scalars();
vectors();

/** Every pure value instruction by its text name. */
export const WASM_OPS: Readonly<Record<string, WasmOp>> = ops;
