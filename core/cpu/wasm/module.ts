/**
 * A WebAssembly binary encoder: a byte writer and the module's sections (WebAssembly core specification 2.0, chapter 5).
 *
 * @module
 */
import type { WasmType } from "../emitter.ts";

/** Binary codes of value types (section 5.3). */
export const TYPE_CODE: Record<WasmType, number> = {
  i32: 0x7f,
  i64: 0x7e,
  f32: 0x7d,
  f64: 0x7c,
  v128: 0x7b,
};

/** Bytes of a growing code buffer; LEB128 in place, no intermediate arrays. */
export class ByteWriter {
  bytes: Uint8Array;
  length = 0;

  constructor(capacity = 1 << 16) {
    this.bytes = new Uint8Array(capacity);
  }

  private grow(more: number): void {
    let capacity = this.bytes.length;
    while (capacity < this.length + more) capacity *= 2;
    const bytes = new Uint8Array(capacity);
    bytes.set(this.bytes.subarray(0, this.length));
    this.bytes = bytes;
  }

  /** One byte. */
  u8(value: number): void {
    if (this.length === this.bytes.length) this.grow(1);
    this.bytes[this.length++] = value;
  }

  /** Unsigned LEB128 of a number below 2^32. */
  u32(value: number): void {
    value >>>= 0;
    while (value > 0x7f) {
      this.u8((value & 0x7f) | 0x80);
      value >>>= 7;
    }
    this.u8(value);
  }

  /** Signed LEB128 of a 32-bit number. */
  s32(value: number): void {
    value |= 0;
    for (;;) {
      const low = value & 0x7f;
      value >>= 7;
      if ((value === 0 && !(low & 0x40)) || (value === -1 && low & 0x40)) {
        return this.u8(low);
      }
      this.u8(low | 0x80);
    }
  }

  /** Signed LEB128 of a 64-bit number. */
  s64(value: bigint): void {
    value = BigInt.asIntN(64, value);
    if (value >= -0x80000000n && value <= 0x7fffffffn) {
      return this.s32(Number(value));
    }
    for (;;) {
      const low = Number(value & 0x7fn);
      value >>= 7n;
      if ((value === 0n && !(low & 0x40)) || (value === -1n && low & 0x40)) {
        return this.u8(low);
      }
      this.u8(low | 0x80);
    }
  }

  /** Raw bytes. */
  raw(source: ArrayLike<number>): void {
    if (this.length + source.length > this.bytes.length) {
      this.grow(source.length);
    }
    this.bytes.set(source, this.length);
    this.length += source.length;
  }

  /** A name: length and UTF-8. */
  name(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.u32(bytes.length);
    this.raw(bytes);
  }

  /** What was written. */
  view(): Uint8Array<ArrayBuffer> {
    return this.bytes.subarray(0, this.length) as Uint8Array<ArrayBuffer>;
  }
}

/** A function type. */
export interface FunctionType {
  params: readonly WasmType[];
  results: readonly WasmType[];
}

/** One function body: its locals (after the parameters) and its code without the final `end`. */
export interface FunctionBody {
  name: string;
  type: FunctionType;
  locals: readonly WasmType[];
  code: Uint8Array;
}

/** A module that imports `m.memory` and functions of `m`, and exports its functions by name. */
export function encodeModule(
  memory: { initial: number; maximum: number },
  imports: readonly { name: string; type: FunctionType }[],
  functions: readonly FunctionBody[],
): Uint8Array<ArrayBuffer> {
  const out = new ByteWriter(
    functions.reduce((sum, f) => sum + f.code.length + 64, 4096),
  );
  out.raw([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
  const section = (id: number, fill: (w: ByteWriter) => void) => {
    const body = new ByteWriter(1024);
    fill(body);
    out.u8(id);
    out.u32(body.length);
    out.raw(body.view());
  };
  const types = [...imports, ...functions].map((f) => f.type);
  section(1, (w) => {
    w.u32(types.length);
    for (const type of types) {
      w.u8(0x60);
      w.u32(type.params.length);
      for (const p of type.params) w.u8(TYPE_CODE[p]);
      w.u32(type.results.length);
      for (const r of type.results) w.u8(TYPE_CODE[r]);
    }
  });
  section(2, (w) => {
    w.u32(imports.length + 1);
    w.name("m");
    w.name("memory");
    w.raw([2, 1]);
    w.u32(memory.initial);
    w.u32(memory.maximum);
    imports.forEach((f, i) => {
      w.name("m");
      w.name(f.name);
      w.u8(0);
      w.u32(i);
    });
  });
  section(3, (w) => {
    w.u32(functions.length);
    functions.forEach((_f, i) => w.u32(imports.length + i));
  });
  section(7, (w) => {
    w.u32(functions.length);
    functions.forEach((f, i) => {
      w.name(f.name);
      w.u8(0);
      w.u32(imports.length + i);
    });
  });
  section(10, (w) => {
    w.u32(functions.length);
    for (const f of functions) {
      const head = new ByteWriter(256);
      const groups: [WasmType, number][] = [];
      for (const type of f.locals) {
        const last = groups.at(-1);
        if (last && last[0] === type) last[1]++;
        else groups.push([type, 1]);
      }
      head.u32(groups.length);
      for (const [type, count] of groups) {
        head.u32(count);
        head.u8(TYPE_CODE[type]);
      }
      w.u32(head.length + f.code.length + 1);
      w.raw(head.view());
      w.raw(f.code);
      w.u8(0x0b);
    }
  });
  return out.view();
}
