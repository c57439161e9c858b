/**
 * Helpers for the tests of the loaders: guest memory as one array, and hand-made kernels.
 *
 * @module
 */

import type { GuestRam } from "./types.ts";

/** Guest memory that can be looked at. */
export class TestRam implements GuestRam {
  /** Bytes of RAM. */
  readonly size: number;
  /** The content. */
  readonly bytes: Uint8Array;
  /** The same, for integers. */
  readonly view: DataView;

  /** @param size Bytes of RAM. */
  constructor(size: number) {
    this.size = size;
    this.bytes = new Uint8Array(size);
    this.view = new DataView(this.bytes.buffer);
  }

  /** Copies bytes to memory. */
  write(pa: number, bytes: Uint8Array): void {
    this.bytes.set(bytes, pa);
  }

  /** Reads a little-endian 64-bit integer. */
  u64(pa: number): number {
    return Number(this.view.getBigUint64(pa, true));
  }

  /** Reads a little-endian 32-bit integer. */
  u32(pa: number): number {
    return this.view.getUint32(pa, true);
  }

  /** Reads a zero-terminated string. */
  text(pa: number): string {
    return new TextDecoder().decode(
      this.bytes.subarray(pa, this.bytes.indexOf(0, pa)),
    );
  }
}

/** What of a hand-made bzImage differs from the usual. */
export interface FakeKernelOptions {
  /** Protocol version. */
  version?: number;
  /** xloadflags. */
  xloadflags?: number;
  /** pref_address. */
  preferred?: number;
  /** init_size. */
  initSize?: number;
  /** initrd_addr_max. */
  initrdMax?: number;
}

/**
 * A bzImage of one setup sector and 4 KiB of code, each byte 0x90.
 * @param options What differs from the usual.
 * @returns The file.
 */
export function fakeBzImage(options: FakeKernelOptions = {}): Uint8Array {
  const CODE = 4096;
  const SETUP = 1024;
  const bytes = new Uint8Array(SETUP + CODE).fill(0x90, SETUP);
  const view = new DataView(bytes.buffer);
  bytes[0x1f1] = 1;
  view.setUint32(0x1f4, CODE / 16, true);
  view.setUint16(0x1fe, 0xaa55, true);
  bytes[0x201] = 0x66;
  view.setUint32(0x202, 0x53726448, true);
  view.setUint16(0x206, options.version ?? 0x20f, true);
  view.setUint32(0x22c, options.initrdMax ?? 0x7fffffff, true);
  view.setUint32(0x230, 0x200000, true);
  bytes[0x234] = 1;
  view.setUint16(0x236, options.xloadflags ?? 1, true);
  view.setUint32(0x238, 2047, true);
  view.setBigUint64(0x258, BigInt(options.preferred ?? 0x1000000), true);
  view.setUint32(0x260, options.initSize ?? 0x400000, true);
  return bytes;
}

/** What a hand-made ELF file contains. */
export interface FakeElfOptions {
  /** 32 or 64 bits. */
  bits: 32 | 64;
  /** Physical address; the virtual one is `virtual`. */
  physical: number;
  /** Virtual address; the same as the physical one if left out. */
  virtual?: bigint;
  /** e_entry. */
  entry: bigint;
  /** The content of the only segment. */
  content: Uint8Array;
  /** Bytes in memory. */
  memorySize?: number;
  /** The PVH note's value. */
  pvh?: number;
}

/**
 * An ELF executable with one loadable segment and maybe a PVH note.
 * @param options What it contains.
 * @returns The file.
 */
export function fakeElf(options: FakeElfOptions): Uint8Array {
  const { bits, physical, entry, content, pvh } = options;
  const wide = bits === 64;
  const virtual = options.virtual ?? BigInt(physical);
  const header = wide ? 64 : 52;
  const programSize = wide ? 56 : 32;
  const programs = pvh === undefined ? 1 : 2;
  const noteAt = header + programs * programSize;
  const contentAt = noteAt + 20;
  const bytes = new Uint8Array(contentAt + content.length);
  const view = new DataView(bytes.buffer);
  const word = (at: number, value: bigint | number) =>
    wide
      ? view.setBigUint64(at, BigInt(value), true)
      : view.setUint32(at, Number(value), true);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, wide ? 62 : 3, true);
  word(0x18, entry);
  word(wide ? 0x20 : 0x1c, header);
  view.setUint16(wide ? 0x36 : 0x2a, programSize, true);
  view.setUint16(wide ? 0x38 : 0x2c, programs, true);
  const program = (
    at: number,
    type: number,
    [offset, va, pa, fileSize, memorySize]: (number | bigint)[],
  ) => {
    const step = wide ? 8 : 4;
    view.setUint32(at, type, true);
    [offset, va, pa, fileSize, memorySize].forEach((value, i) =>
      word(at + (wide ? 8 : 4) + i * step, value)
    );
  };
  program(header, 1, [
    contentAt,
    virtual,
    physical,
    content.length,
    options.memorySize ?? content.length,
  ]);
  if (pvh !== undefined) {
    program(header + programSize, 4, [noteAt, 0, 0, 20, 20]);
    view.setUint32(noteAt, 4, true);
    view.setUint32(noteAt + 4, 4, true);
    view.setUint32(noteAt + 8, 18, true);
    bytes.set(new TextEncoder().encode("Xen\0"), noteAt + 12);
    view.setUint32(noteAt + 16, pvh, true);
  }
  bytes.set(content, contentAt);
  return bytes;
}

/**
 * A cpio archive of one file.
 * @param content The file's content.
 * @returns The archive.
 */
export function fakeCpio(content: Uint8Array): Uint8Array {
  const parts: number[] = [];
  const entry = (name: string, data: Uint8Array) => {
    const pad = () => {
      while (parts.length % 4 !== 0) parts.push(0);
    };
    const fields = [1, 0o100644, 0, 0, 1, 0, data.length, 0, 0, 0, 0];
    const text = "070701" +
      [...fields, name.length + 1, 0]
        .map((field) => field.toString(16).padStart(8, "0")).join("");
    parts.push(...new TextEncoder().encode(text + name + "\0"));
    pad();
    for (const byte of data) parts.push(byte);
    pad();
  };
  entry("file", content);
  entry("TRAILER!!!", new Uint8Array());
  return Uint8Array.from(parts);
}
