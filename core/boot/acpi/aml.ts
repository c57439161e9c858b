/**
 * An encoder of AML, the ACPI machine language (ACPI 6.4, chapter 20). Each function takes
 * encoded terms and returns an encoded term; resource descriptors follow section 6.4.
 *
 * @module
 */

/** An encoded term. */
export type Aml = Uint8Array;

// Opcodes, ACPI 6.4 section 20.3.
const ZERO_OP = 0x00;
const ONE_OP = 0x01;
const NAME_OP = 0x08;
const BYTE_PREFIX = 0x0a;
const WORD_PREFIX = 0x0b;
const DWORD_PREFIX = 0x0c;
const STRING_PREFIX = 0x0d;
const QWORD_PREFIX = 0x0e;
const SCOPE_OP = 0x10;
const BUFFER_OP = 0x11;
const PACKAGE_OP = 0x12;
const METHOD_OP = 0x14;
const DUAL_NAME_PREFIX = 0x2e;
const MULTI_NAME_PREFIX = 0x2f;
const EXT_OP_PREFIX = 0x5b;
const ROOT_CHAR = 0x5c;
const PARENT_PREFIX_CHAR = 0x5e;
const LOCAL0_OP = 0x60;
const ARG0_OP = 0x68;
const STORE_OP = 0x70;
const AND_OP = 0x7b;
const OR_OP = 0x7d;
const CREATE_DWORD_FIELD_OP = 0x8a;
const LNOT_OP = 0x92;
const LEQUAL_OP = 0x93;
const IF_OP = 0xa0;
const ELSE_OP = 0xa1;
const RETURN_OP = 0xa4;
// After EXT_OP_PREFIX.
const OP_REGION_OP = 0x80;
const FIELD_OP = 0x81;
const DEVICE_OP = 0x82;

const SERIALIZED = 1 << 3;
const NAME_SEG_LENGTH = 4;

/**
 * Joins byte strings.
 * @param parts What to join.
 * @returns One array.
 */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function bytes(...values: number[]): Uint8Array {
  return Uint8Array.from(values);
}

function little(value: number | bigint, width: number): Uint8Array {
  const out = new Uint8Array(width);
  let rest = BigInt(value);
  for (let i = 0; i < width; i++) {
    out[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  return out;
}

function op(opcode: number, ...operands: Aml[]): Aml {
  return concat([bytes(opcode), ...operands]);
}

/** PkgLength (section 20.2.4): it counts itself. */
function pkgLength(content: number): Uint8Array {
  if (content + 1 < 0x40) return bytes(content + 1);
  for (let extra = 1; extra <= 3; extra++) {
    const total = content + 1 + extra;
    if (total < 1 << (4 + 8 * extra)) {
      return concat([
        bytes(extra << 6 | total & 0xf),
        little(total >> 4, extra),
      ]);
    }
  }
  throw new RangeError(`AML package of ${content} bytes is too long`);
}

function pkg(opcode: readonly number[], ...content: Aml[]): Aml {
  const body = concat(content);
  return concat([Uint8Array.from(opcode), pkgLength(body.length), body]);
}

function nameSegment(segment: string): Uint8Array {
  if (!/^[A-Z_][A-Z0-9_]{0,3}$/.test(segment)) {
    throw new RangeError(`"${segment}" is not an ACPI name segment`);
  }
  return new TextEncoder().encode(segment.padEnd(NAME_SEG_LENGTH, "_"));
}

/**
 * A NameString; as a term, a reference to the object or a call of a method without arguments.
 * @param path For example `\\_SB.PCI0`, `^PICF` or `_CRS`.
 * @returns The encoded name.
 */
export function path(path: string): Aml {
  const prefix = /^(\\|\^*)(.*)$/.exec(path)!;
  const lead = Uint8Array.from(
    [...prefix[1]],
    (c) => c === "\\" ? ROOT_CHAR : PARENT_PREFIX_CHAR,
  );
  if (prefix[2] === "") return concat([lead, bytes(0)]);
  const segments = prefix[2].split(".").map(nameSegment);
  const count = segments.length === 1
    ? bytes()
    : segments.length === 2
    ? bytes(DUAL_NAME_PREFIX)
    : bytes(MULTI_NAME_PREFIX, segments.length);
  return concat([lead, count, ...segments]);
}

/**
 * An integer in its shortest form.
 * @param value From 0 to 2^64 - 1.
 * @returns The encoded integer.
 */
export function integer(value: number | bigint): Aml {
  const n = BigInt(value);
  if (n < 0n || n >= 1n << 64n) throw new RangeError(`AML integer ${value}`);
  if (n === 0n) return bytes(ZERO_OP);
  if (n === 1n) return bytes(ONE_OP);
  if (n < 1n << 8n) return op(BYTE_PREFIX, little(n, 1));
  if (n < 1n << 16n) return op(WORD_PREFIX, little(n, 2));
  if (n < 1n << 32n) return op(DWORD_PREFIX, little(n, 4));
  return op(QWORD_PREFIX, little(n, 8));
}

/**
 * An ASCII string.
 * @param text The text.
 * @returns The encoded string.
 */
export function string(text: string): Aml {
  return op(STRING_PREFIX, new TextEncoder().encode(text), bytes(0));
}

/**
 * A buffer.
 * @param content Its bytes.
 * @returns The encoded buffer.
 */
export function buffer(content: Uint8Array): Aml {
  return pkg([BUFFER_OP], integer(content.length), content);
}

/**
 * A package of at most 255 elements.
 * @param elements Encoded objects or names.
 * @returns The encoded package.
 */
export function pack(...elements: Aml[]): Aml {
  return pkg([PACKAGE_OP], bytes(elements.length), ...elements);
}

/**
 * A compressed EISA identifier (section 19.6.37).
 * @param id Three letters and four hexadecimal digits.
 * @returns The encoded integer.
 */
export function eisaId(id: string): Aml {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id)) {
    throw new RangeError(`"${id}" is not an EISA identifier`);
  }
  const letter = (i: number) => id.charCodeAt(i) - 0x40;
  const digits = parseInt(id.slice(3), 16);
  const big = letter(0) << 26 | letter(1) << 21 | letter(2) << 16 | digits;
  return op(DWORD_PREFIX, little(BigInt(big >>> 0), 4).reverse());
}

/**
 * A UUID as a buffer, in ACPI's byte order (section 19.6.142).
 * @param uuid The usual form with dashes.
 * @returns The encoded buffer.
 */
export function uuid(uuid: string): Aml {
  const ORDER = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  const digits = uuid.replaceAll("-", "");
  return buffer(Uint8Array.from(
    ORDER,
    (i) => parseInt(digits.slice(2 * i, 2 * i + 2), 16),
  ));
}

/**
 * A call of a method with arguments.
 * @param at The method.
 * @param args Its arguments.
 * @returns The encoded expression.
 */
export function call(at: string, ...args: Aml[]): Aml {
  return concat([path(at), ...args]);
}

/**
 * `Name (path, object)`.
 * @param at The name.
 * @param object Its value.
 * @returns The encoded definition.
 */
export function name(at: string, object: Aml): Aml {
  return op(NAME_OP, path(at), object);
}

/**
 * `Scope (path) { … }`.
 * @param at The scope.
 * @param terms Its content.
 * @returns The encoded scope.
 */
export function scope(at: string, ...terms: Aml[]): Aml {
  return pkg([SCOPE_OP], path(at), ...terms);
}

/**
 * `Device (path) { … }`.
 * @param at The device.
 * @param terms Its content.
 * @returns The encoded device.
 */
export function device(at: string, ...terms: Aml[]): Aml {
  return pkg([EXT_OP_PREFIX, DEVICE_OP], path(at), ...terms);
}

/**
 * `Method (path, args, Serialized) { … }`.
 * @param at The method.
 * @param args Number of arguments, 0 to 7.
 * @param terms Its content.
 * @returns The encoded method.
 */
export function method(at: string, args: number, ...terms: Aml[]): Aml {
  return pkg([METHOD_OP], path(at), bytes(args | SERIALIZED), ...terms);
}

/** RegionSpace values (section 19.6.100). */
export const REGION_SPACE = { SystemMemory: 0, SystemIO: 1, PciConfig: 2 };

/**
 * `OperationRegion (path, space, offset, length)`.
 * @param at The region's name.
 * @param space A value of {@linkcode REGION_SPACE}.
 * @param offset First byte.
 * @param length Bytes.
 * @returns The encoded region.
 */
export function opRegion(
  at: string,
  space: number,
  offset: number,
  length: number,
): Aml {
  return concat([
    bytes(EXT_OP_PREFIX, OP_REGION_OP),
    path(at),
    bytes(space),
    integer(offset),
    integer(length),
  ]);
}

/**
 * `Field (region, ByteAcc, NoLock, Preserve) { … }`.
 * @param region The operation region.
 * @param units Name and bits of each field; an empty name skips the bits.
 * @returns The encoded field list.
 */
export function byteField(region: string, units: [string, number][]): Aml {
  const BYTE_ACC = 1;
  return pkg(
    [EXT_OP_PREFIX, FIELD_OP],
    path(region),
    bytes(BYTE_ACC),
    ...units.map(([unit, bits]) =>
      // The unit's length is a PkgLength that does not count itself.
      concat([unit === "" ? bytes(0) : nameSegment(unit), fieldLength(bits)])
    ),
  );
}

function fieldLength(bits: number): Uint8Array {
  return bits < 0x40 ? bytes(bits) : bytes(1 << 6 | bits & 0xf, bits >> 4);
}

/**
 * `CreateDWordField (buffer, byte, name)`.
 * @param source The buffer.
 * @param index Byte offset of the field.
 * @param at The field's name.
 * @returns The encoded statement.
 */
export function createDwordField(source: Aml, index: number, at: string): Aml {
  return op(CREATE_DWORD_FIELD_OP, source, integer(index), path(at));
}

/**
 * `ArgN`.
 * @param n 0 to 6.
 * @returns The encoded object.
 */
export function arg(n: number): Aml {
  return bytes(ARG0_OP + n);
}

/**
 * `LocalN`.
 * @param n 0 to 7.
 * @returns The encoded object.
 */
export function local(n: number): Aml {
  return bytes(LOCAL0_OP + n);
}

/**
 * `Store (source, target)`.
 * @param source The value.
 * @param target Where it goes.
 * @returns The encoded statement.
 */
export function store(source: Aml, target: Aml): Aml {
  return op(STORE_OP, source, target);
}

/**
 * `And (a, b, target)`.
 * @param a An operand.
 * @param b An operand.
 * @param target Where the result goes as well; nowhere if left out.
 * @returns The encoded expression.
 */
export function and(a: Aml, b: Aml, target: Aml = bytes(0)): Aml {
  return op(AND_OP, a, b, target);
}

/**
 * `Or (a, b, target)`.
 * @param a An operand.
 * @param b An operand.
 * @param target Where the result goes as well; nowhere if left out.
 * @returns The encoded expression.
 */
export function or(a: Aml, b: Aml, target: Aml = bytes(0)): Aml {
  return op(OR_OP, a, b, target);
}

/**
 * `LEqual (a, b)`.
 * @param a An operand.
 * @param b An operand.
 * @returns The encoded expression.
 */
export function lequal(a: Aml, b: Aml): Aml {
  return op(LEQUAL_OP, a, b);
}

/**
 * `LNot (a)`.
 * @param a The operand.
 * @returns The encoded expression.
 */
export function lnot(a: Aml): Aml {
  return op(LNOT_OP, a);
}

/**
 * `If (condition) { … }`.
 * @param condition The predicate.
 * @param terms Its content.
 * @returns The encoded statement.
 */
export function when(condition: Aml, ...terms: Aml[]): Aml {
  return pkg([IF_OP], condition, ...terms);
}

/**
 * `Else { … }`, directly after {@linkcode when}.
 * @param terms Its content.
 * @returns The encoded statement.
 */
export function otherwise(...terms: Aml[]): Aml {
  return pkg([ELSE_OP], ...terms);
}

/**
 * `Return (value)`.
 * @param value The result.
 * @returns The encoded statement.
 */
export function ret(value: Aml): Aml {
  return op(RETURN_OP, value);
}

// Resource descriptors, section 6.4.

/**
 * A resource template: the descriptors with their end tag.
 * @param descriptors Encoded descriptors.
 * @returns The encoded buffer.
 */
export function resources(...descriptors: Uint8Array[]): Aml {
  const END_TAG = 0x79;
  return buffer(concat([...descriptors, bytes(END_TAG, 0)]));
}

/**
 * A fixed range of I/O ports that decodes 16 bits (section 6.4.2.5).
 * @param port The first port.
 * @param length Number of ports, at most 255.
 * @returns The descriptor.
 */
export function ioPorts(port: number, length: number): Uint8Array {
  const IO = 0x47;
  const DECODE_16 = 1;
  const ALIGNMENT = 1;
  return concat([
    bytes(IO, DECODE_16),
    little(port, 2),
    little(port, 2),
    bytes(ALIGNMENT, length),
  ]);
}

/**
 * An edge-triggered, active-high ISA interrupt (section 6.4.2.1).
 * @param irq 0 to 15.
 * @param shared Whether another device uses it too.
 * @returns The descriptor.
 */
export function isaIrq(irq: number, shared = false): Uint8Array {
  const IRQ_NO_FLAGS = 0x22;
  const IRQ = 0x23;
  const EDGE_HIGH = 1 << 0;
  const SHARED = 1 << 4;
  return shared
    ? concat([bytes(IRQ), little(1 << irq, 2), bytes(EDGE_HIGH | SHARED)])
    : concat([bytes(IRQ_NO_FLAGS), little(1 << irq, 2)]);
}

/**
 * Level-triggered, active-low, shared interrupts: an extended interrupt descriptor
 * (section 6.4.3.6) from which one is chosen.
 * @param irqs The possible interrupts.
 * @returns The descriptor. The first interrupt's number is at {@linkcode EXTENDED_IRQ_NUMBER}.
 */
export function pciIrqs(irqs: readonly number[]): Uint8Array {
  const EXTENDED_INTERRUPT = 0x89;
  const CONSUMER = 1 << 0;
  const ACTIVE_LOW = 1 << 2;
  const SHARED = 1 << 3;
  return concat([
    bytes(EXTENDED_INTERRUPT),
    little(2 + 4 * irqs.length, 2),
    bytes(CONSUMER | ACTIVE_LOW | SHARED, irqs.length),
    ...irqs.map((irq) => little(irq, 4)),
  ]);
}

/** Byte offset of the first interrupt number in an extended interrupt descriptor. */
export const EXTENDED_IRQ_NUMBER = 5;

/**
 * A fixed range of 32-bit memory (section 6.4.3.4).
 * @param base First address.
 * @param length Bytes.
 * @returns The descriptor.
 */
export function fixedMemory(base: number, length: number): Uint8Array {
  const MEMORY32_FIXED = 0x86;
  const PAYLOAD = 9;
  const READ_WRITE = 1;
  return concat([
    bytes(MEMORY32_FIXED),
    little(PAYLOAD, 2),
    bytes(READ_WRITE),
    little(base, 4),
    little(length, 4),
  ]);
}

/** A range that a bridge passes on to its bus. */
export interface Window {
  /** First address, port or bus number. */
  base: number;
  /** How many. */
  length: number;
}

/** Address space descriptors (section 6.4.3.5): the general flags fix both ends. */
const FIXED_RANGE = 1 << 2 | 1 << 3;

function addressSpace(
  tag: number,
  width: number,
  resourceType: number,
  typeFlags: number,
  window: Window,
): Uint8Array {
  const field = (value: number) => little(value, width);
  const body = concat([
    bytes(resourceType, FIXED_RANGE, typeFlags),
    field(0), // granularity
    field(window.base),
    field(window.base + window.length - 1),
    field(0), // translation
    field(window.length),
  ]);
  return concat([bytes(tag), little(body.length, 2), body]);
}

const WORD_SPACE = 0x88;
const DWORD_SPACE = 0x87;
const QWORD_SPACE = 0x8a;
const SPACE_MEMORY = 0;
const SPACE_IO = 1;
const SPACE_BUS = 2;
/** I/O: the entire range, whether or not it is ISA's. */
const ENTIRE_RANGE = 3;
/** Memory: writable. */
const MEMORY_WRITABLE = 1 << 0;

/**
 * Bus numbers that a bridge passes on.
 * @param window The range.
 * @returns The descriptor.
 */
export function busWindow(window: Window): Uint8Array {
  return addressSpace(WORD_SPACE, 2, SPACE_BUS, 0, window);
}

/**
 * I/O ports that a bridge passes on.
 * @param window The range.
 * @returns The descriptor.
 */
export function ioWindow(window: Window): Uint8Array {
  return addressSpace(WORD_SPACE, 2, SPACE_IO, ENTIRE_RANGE, window);
}

/**
 * Memory that a bridge passes on.
 * @param window The range, of 32 or 64 bits.
 * @returns The descriptor.
 */
export function memoryWindow(window: Window): Uint8Array {
  const wide = window.base + window.length > 2 ** 32;
  return addressSpace(
    wide ? QWORD_SPACE : DWORD_SPACE,
    wide ? 8 : 4,
    SPACE_MEMORY,
    MEMORY_WRITABLE,
    window,
  );
}
