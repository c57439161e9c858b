// Stand-in for @std/msgpack 1.0.3 over npm:@msgpack/msgpack: the same bytes (every bigint is a
// 64-bit integer, every other number the shortest integer or a float64) and the same refusals
// (`undefined`, class instances, extension types). See ../README.md.

import {
  decode as decodeBytes,
  encode as encodeBytes,
  ExtData,
} from "@msgpack/msgpack";

/** A value that MessagePack can hold. */
export type ValueType =
  | number
  | bigint
  | string
  | boolean
  | null
  | Uint8Array<ArrayBufferLike>
  | readonly ValueType[]
  | ValueMap;

/** A map of MessagePack values. */
export interface ValueMap {
  /** The value of a key. */
  [index: string | number]: ValueType;
}

const INT64_MIN = -(1n << 63n);
const UINT64_LIMIT = 1n << 64n;
/** Integers as bigint exactly where the encoding is 64 bits wide; depth bounded by the stack. */
const OPTIONS = {
  useBigInt64: true,
  maxDepth: Number.MAX_SAFE_INTEGER,
} as const;

function refuseUnencodable(value: unknown): void {
  switch (typeof value) {
    case "number":
    case "string":
    case "boolean":
      return;
    case "bigint":
      if (value >= INT64_MIN && value < UINT64_LIMIT) return;
      throw new Error("Cannot safely encode bigint larger than 64 bits");
    case "object":
      if (value === null || value instanceof Uint8Array) return;
      if (Array.isArray(value)) return value.forEach(refuseUnencodable);
      if (Object.getPrototypeOf(value) === Object.prototype) {
        return Object.values(value).forEach(refuseUnencodable);
      }
  }
  throw new Error("Cannot safely encode value into messagepack");
}

function refuseExtensions(value: unknown): void {
  if (value instanceof ExtData) throw new Error("ext not implemented yet");
  if (value instanceof Uint8Array) return;
  if (value !== null && typeof value === "object") {
    Object.values(value).forEach(refuseExtensions);
  }
}

/**
 * Encode a value to MessagePack.
 *
 * @param object The value to encode.
 * @returns The encoded bytes.
 */
export function encode(object: ValueType): Uint8Array<ArrayBuffer> {
  refuseUnencodable(object);
  return encodeBytes(object, OPTIONS);
}

/**
 * Decode a MessagePack value.
 *
 * @param data MessagePack bytes.
 * @returns The decoded value.
 */
export function decode(data: Uint8Array): ValueType {
  let value: unknown;
  try {
    value = decodeBytes(data, OPTIONS);
  } catch (error) {
    if (error instanceof RangeError && error.message.startsWith("Extra ")) {
      throw new EvalError("Messagepack decode did not consume whole array");
    }
    throw error;
  }
  refuseExtensions(value);
  return value as ValueType;
}
