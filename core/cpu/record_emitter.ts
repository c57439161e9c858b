/**
 * The emitter of tier 0: operands are fields of a record (ENGINE.md section 1).
 *
 * @module
 */
import type {
  Condition,
  Emitter,
  FlagEmitter,
  Operand,
  Size,
  Value,
  Variable,
  WasmType,
} from "./emitter.ts";
import { allSlowPaths } from "./isa/define.ts";
import { EXIT, READ_TOO, REC, RECORD_SIZE, TLB_ENTRIES } from "./record.ts";
import { RecordFlags } from "./record_flags.ts";
import { CpuState, OFF, RSP, SS, VECTOR } from "./state.ts";
import { W } from "./wasm/codes.ts";
import { ByteWriter, type FunctionType, TYPE_CODE } from "./wasm/module.ts";
import { WASM_OPS } from "./wasm/opcodes.ts";

/** Imported functions, in index order. */
export const IMPORTS: readonly { name: string; type: FunctionType }[] = [
  {
    name: "slowRead",
    type: { params: ["i32", "i32", "i32", "i32", "i32"], results: ["i32"] },
  },
  {
    name: "slowWrite",
    type: { params: ["i32", "i32", "i32", "i32", "i32"], results: ["i32"] },
  },
  { name: "commit", type: { params: ["i32"], results: [] } },
  { name: "helper", type: { params: ["i32", "i32"], results: ["i32"] } },
  { name: "slowPath", type: { params: ["i32", "i32"], results: ["i32"] } },
  {
    name: "checkSegment",
    type: { params: ["i32", "i32", "i32", "i32"], results: ["i32"] },
  },
];
export const SLOW_READ = 0,
  SLOW_WRITE = 1,
  COMMIT = 2,
  HELPER = 3,
  SLOW_PATH = 4,
  CHECK_SEGMENT = 5;

/** Parameters and fixed locals of the interpreter function. */
export const LOCAL_STATE = 0, LOCAL_PC = 1, LOCAL_RIP = 2;
/** The record to start at, 0 once used. */
export const LOCAL_START = 3;
const FIRST_LOCAL = 4;

interface LocalValue extends Value {
  readonly local: number;
}
interface ConstantValue extends Value {
  readonly bytes: readonly number[];
}

/** Where a tier-0 operand is. */
export interface RecordOperand extends Operand {
  /** Record field that holds the state offset, a fixed state offset, or a constant. */
  readonly field?: number;
  readonly fixed?: number;
  readonly constant?: bigint;
  readonly unaligned?: boolean;
  /** Address of the accessed bytes after `readForWrite` or `probeWrite`. */
  host?: LocalValue;
}

const SIZE_MASK: Record<number, bigint> = {
  1: 0xffn,
  2: 0xffffn,
  4: 0xffffffffn,
};
const LOAD: Record<number, number> = {
  1: W.i64Load8u,
  2: W.i64Load16u,
  4: W.i64Load32u,
  8: W.i64Load,
};
const STORE: Record<number, number> = {
  1: W.i64Store8,
  2: W.i64Store16,
  4: W.i64Store32,
  8: W.i64Store,
};
export const EXTEND: Record<number, string> = {
  1: "i64.extend8_s",
  2: "i64.extend16_s",
  4: "i64.extend32_s",
};

/** What an outlined handler returns besides exit reasons. */
export const OUTLINED_NEXT = 0, OUTLINED_FAULT = 1;

/** Thrown when a handler that branches into the dispatch loop is to be outlined. */
export class StaysInLoop extends Error {}

/** Locals of each type that the dispatch loop may have; a handler with more is outlined. */
const LOCALS_IN_LOOP: Record<WasmType, number> = {
  i32: 8,
  i64: 16,
  f32: 4,
  f64: 4,
  v128: 8,
};

/** Makes handlers: {@linkcode Emitter} over record fields. */
export class RecordEmitter implements Emitter {
  readonly out: ByteWriter;
  size: Size = 4;
  long = true;
  readonly flags: FlagEmitter = new RecordFlags(this);

  /** @param capacity Bytes of code to begin with. */
  constructor(capacity = 1 << 19) {
    this.out = new ByteWriter(capacity);
  }

  /** Enclosing blocks inside the handler, and those around it. */
  private depth = 0;
  /** Branch distances from the handler's own level. */
  targets = { next: 0, enter: 0, lookup: 0, fault: 0 };
  private used = new Map<WasmType, number>();
  private pools = new Map<WasmType, number[]>();
  readonly locals: WasmType[] = [];
  private lastSet = -1;
  private lastSetLocal = -1;
  private readonly slowIds = [...allSlowPaths().keys()];
  /** Whether the handler already left (no fall into the next record). */
  ended = false;

  /** The code is a function of its own, not a part of the dispatch loop. */
  outlined = false;

  /** Where the code is now, for {@linkcode rollBack}. */
  mark(): { length: number; locals: number; pools: Map<WasmType, number> } {
    return {
      length: this.out.length,
      locals: this.locals.length,
      pools: new Map(
        [...this.pools].map(([type, pool]) => [type, pool.length]),
      ),
    };
  }

  /** Forgets the code and the locals since `mark`. */
  rollBack(mark: ReturnType<RecordEmitter["mark"]>): void {
    this.out.length = mark.length;
    this.locals.length = mark.locals;
    for (const [type, pool] of this.pools) {
      pool.length = mark.pools.get(type) ?? 0;
    }
    this.lastSet = -1;
  }

  /** Whether the handler needs more locals than the dispatch loop should have. */
  manyLocals(): boolean {
    return [...this.used].some(([type, n]) => n > LOCALS_IN_LOOP[type]);
  }

  startHandler(): void {
    this.used.clear();
    this.lastSet = -1;
    this.ended = false;
    this.depth = 0;
  }

  // ---- low level ----

  private allocate(type: WasmType): LocalValue {
    let pool = this.pools.get(type);
    if (!pool) this.pools.set(type, pool = []);
    const n = this.used.get(type) ?? 0;
    this.used.set(type, n + 1);
    if (n === pool.length) {
      pool.push(FIRST_LOCAL + this.locals.length);
      this.locals.push(type);
    }
    return { type, local: pool[n] };
  }

  raw(...bytes: number[]): void {
    for (const b of bytes) this.out.u8(b);
  }

  local(opcode: number, index: number): void {
    if (
      opcode === W.localGet && this.lastSet >= 0 &&
      this.lastSetLocal === index && this.out.length === this.lastSet
    ) {
      // The value just stored is wanted again: local.tee.
      const at = this.lastSet - (index < 128 ? 2 : 3);
      this.out.bytes[at] = W.localTee;
      this.lastSet = -1;
      return;
    }
    this.out.u8(opcode);
    this.out.u32(index);
    if (opcode === W.localSet && index < 16384) {
      this.lastSet = this.out.length;
      this.lastSetLocal = index;
    }
  }

  get32Local(index: number): void {
    this.local(W.localGet, index);
  }

  constI32(value: number): void {
    this.out.u8(W.i32Const);
    this.out.s32(value);
  }

  constI64(value: bigint): void {
    this.out.u8(W.i64Const);
    this.out.s64(value);
  }

  /** A memory instruction: `opcode offset=offset` with natural alignment not promised. */
  mem(opcode: number, offset: number): void {
    this.out.u8(opcode);
    this.out.u8(0);
    this.out.u32(offset);
  }

  simd(number: number): void {
    this.out.u8(0xfd);
    this.out.u32(number);
  }

  push1(value: Value): void {
    if ("local" in value) this.local(W.localGet, (value as LocalValue).local);
    else this.out.raw((value as ConstantValue).bytes);
  }

  /** Stores the top of the stack in a new local. */
  pop1(type: WasmType): LocalValue {
    const value = this.allocate(type);
    this.local(W.localSet, value.local);
    return value;
  }

  br(target: "next" | "enter" | "lookup" | "fault", conditional = false): void {
    if (this.outlined) {
      if (target === "enter" || target === "lookup") throw new StaysInLoop();
      if (conditional) this.openIf();
      this.constI32(target === "fault" ? OUTLINED_FAULT : OUTLINED_NEXT);
      this.raw(W.return);
      if (conditional) this.close();
      this.lastSet = -1;
      return;
    }
    this.out.u8(conditional ? W.brIf : W.br);
    this.out.u32(this.targets[target] + this.depth);
  }

  openIf(): void {
    this.raw(W.if, W.void);
    this.depth++;
  }
  openElse(): void {
    this.raw(W.else);
  }
  close(): void {
    this.raw(W.end);
    this.depth--;
  }

  state(opcode: number, offset: number): void {
    this.local(W.localGet, LOCAL_STATE);
    this.mem(opcode, offset);
  }

  record(opcode: number, field: number): void {
    this.local(W.localGet, LOCAL_PC);
    this.mem(opcode, field);
  }

  /** Pushes the wasm address of a state field named by a record field. */
  private fieldAddress(field: number): void {
    this.record(W.i32Load16u, field);
    this.local(W.localGet, LOCAL_STATE);
    this.raw(W.i32Add);
  }

  // ---- constants ----

  private constant(
    type: WasmType,
    write: (w: ByteWriter) => void,
  ): ConstantValue {
    const w = new ByteWriter(32);
    write(w);
    return { type, bytes: [...w.view()] };
  }
  i32(value: number): Value {
    return this.constant("i32", (w) => (w.u8(W.i32Const), w.s32(value)));
  }
  i64(value: number | bigint): Value {
    return this.constant(
      "i64",
      (w) => (w.u8(W.i64Const), w.s64(BigInt(value))),
    );
  }
  f32(value: number): Value {
    return this.constant(
      "f32",
      (
        w,
      ) => (w.u8(W.f32Const),
        w.raw(new Uint8Array(new Float32Array([value]).buffer))),
    );
  }
  f64(value: number): Value {
    return this.constant(
      "f64",
      (
        w,
      ) => (w.u8(W.f64Const),
        w.raw(new Uint8Array(new Float64Array([value]).buffer))),
    );
  }
  v128(bytes: readonly number[]): Value {
    return this.constant("v128", (w) => (w.raw([0xfd, 12]), w.raw(bytes)));
  }

  // ---- values ----

  op(name: string, ...args: Value[]): Value {
    const op = WASM_OPS[name];
    if (op === undefined || op.result === null) {
      throw new Error(`unknown wasm instruction ${name}`);
    }
    if (
      args.length !== op.params.length ||
      args.some((a, i) => a.type !== op.params[i])
    ) {
      throw new Error(
        `${name} takes (${op.params.join(", ")}), not (${
          args.map((a) => a.type).join(", ")
        })`,
      );
    }
    for (const arg of args) this.push1(arg);
    this.out.raw(op.code);
    return this.pop1(op.result);
  }

  lane(name: string, index: number, ...args: Value[]): Value {
    const op = WASM_OPS[name];
    if (op === undefined || op.result === null || !op.laneImm) {
      throw new Error(`unknown wasm lane instruction ${name}`);
    }
    for (const arg of args) this.push1(arg);
    this.out.raw(op.code);
    this.out.u8(index);
    return this.pop1(op.result);
  }

  shuffle(lanes: readonly number[], a: Value, b: Value): Value {
    this.push1(a);
    this.push1(b);
    this.simd(13);
    this.out.raw(lanes);
    return this.pop1("v128");
  }

  variable(init: Value): Variable {
    this.push1(init);
    return { ...this.pop1(init.type), variable: true } as Variable;
  }

  set(variable: Variable, value: Value): void {
    this.push1(value);
    this.local(W.localSet, (variable as unknown as LocalValue).local);
    this.lastSet = -1;
  }

  if(condition: Value, then: () => void, otherwise?: () => void): void {
    this.push1(condition);
    this.openIf();
    then();
    this.lastSet = -1;
    if (otherwise) {
      this.openElse();
      otherwise();
      this.lastSet = -1;
    }
    this.close();
    this.lastSet = -1;
  }

  select(condition: Value, a: Value, b: Value): Value {
    this.push1(a);
    this.push1(b);
    this.push1(condition);
    if (a.type === "v128") this.raw(0x1c, 1, TYPE_CODE.v128);
    else this.raw(W.select);
    return this.pop1(a.type);
  }

  loop(body: () => Value): void {
    this.raw(W.loop, W.void);
    this.depth++;
    this.lastSet = -1;
    const again = body();
    this.push1(again);
    this.raw(W.brIf, 0);
    this.close();
    this.lastSet = -1;
  }

  // ---- operands ----

  /** The value cut to `size` bytes. */
  truncate(size: Size, value: Value): Value {
    return size >= 8
      ? value
      : this.op("i64.and", value, this.i64(SIZE_MASK[size]));
  }

  read(operand: Operand): Value {
    const o = operand as RecordOperand;
    switch (o.kind) {
      case "imm":
        if (o.constant !== undefined) return this.i64(o.constant);
        this.record(W.i64Load, REC.imm);
        return this.pop1("i64");
      case "mem":
        return this.load(this.linear(), o.size, o.unaligned);
      default:
        if (o.fixed !== undefined) this.get32Local(LOCAL_STATE);
        else this.fieldAddress(o.field!);
        return this.loadHost(o.size, o.fixed ?? 0);
    }
  }

  /** Loads from the wasm address on the stack. */
  private loadHost(size: Size, offset: number): LocalValue {
    if (size === 16) {
      this.simd(0);
      this.out.u8(0);
      this.out.u32(offset);
      return this.pop1("v128");
    }
    this.mem(LOAD[size], offset);
    return this.pop1("i64");
  }

  /** Stores `value` at the wasm address that `address` pushes. */
  private storeHost(
    size: Size,
    offset: number,
    address: () => void,
    value: Value,
  ): void {
    address();
    this.push1(value);
    if (size === 16) {
      this.simd(11);
      this.out.u8(0);
      this.out.u32(offset);
    } else this.mem(STORE[size], offset);
  }

  /** The linear address of the memory operand. */
  private linear(): Value {
    this.fieldAddress(REC.rm);
    this.mem(W.i64Load, 0);
    this.fieldAddress(REC.index);
    this.mem(W.i64Load, 0);
    this.record(W.i64Load8u, REC.scale);
    this.raw(W.i64Shl, W.i64Add);
    this.record(W.i64Load32s, REC.disp);
    this.raw(W.i64Add);
    this.fieldAddress(REC.segment);
    this.mem(W.i64Load, 0);
    this.raw(W.i64Add);
    return this.pop1("i64");
  }

  address(_operand: Operand): Value {
    // LEA: the decoder names no segment in its record, so this is the offset.
    return this.linear();
  }

  /** The wasm address for an access; leaves to the fault exit when there is none. */
  private translate(
    address: Value,
    size: Size,
    write: boolean,
    readToo = false,
  ): LocalValue {
    this.push1(address);
    this.constI64(12n);
    this.raw(W.i64ShrU, W.i32WrapI64);
    this.constI32(TLB_ENTRIES - 1);
    this.raw(W.i32And);
    this.constI32(4);
    this.raw(W.i32Shl);
    this.state(W.i32Load, write ? OFF.writeTlb : OFF.readTlb);
    this.raw(W.i32Add);
    const entry = this.pop1("i32");
    const host = this.allocate("i32");
    this.push1(address);
    if (size > 1) {
      this.constI64(BigInt(size - 1));
      this.raw(W.i64Add);
    }
    this.constI64(-4096n);
    this.raw(W.i64And);
    this.push1(entry);
    this.mem(W.i64Load, 0);
    this.raw(W.i64Ne);
    this.openIf();
    this.lastSet = -1;
    this.local(W.localGet, LOCAL_STATE);
    this.local(W.localGet, LOCAL_PC);
    this.push1(address);
    this.raw(W.i32WrapI64);
    this.push1(address);
    this.constI64(32n);
    this.raw(W.i64ShrU, W.i32WrapI64);
    this.constI32(size | (readToo ? READ_TOO : 0));
    this.raw(W.call, write ? SLOW_WRITE : SLOW_READ);
    this.local(W.localSet, host.local);
    this.lastSet = -1;
    this.push1(host);
    this.raw(W.i32Eqz);
    this.br("fault", true);
    this.openElse();
    this.push1(address);
    this.raw(W.i32WrapI64);
    this.push1(entry);
    this.mem(W.i32Load, 8);
    this.raw(W.i32Add);
    this.local(W.localSet, host.local);
    this.close();
    this.lastSet = -1;
    return host;
  }

  load(address: Value, size: Size, unaligned = true): Value {
    if (size === 16 && !unaligned) this.checkAligned(address);
    const host = this.translate(address, size, false);
    this.push1(host);
    return this.loadHost(size, 0);
  }

  private checkAligned(address: Value): void {
    const low = this.op("i64.and", address, this.i64(15));
    this.faultIf(this.op("i64.ne", low, this.i64(0)), VECTOR.GP, 0);
  }

  store(address: Value, size: Size, value: Value): void {
    this.storeAt(this.translate(address, size, true), size, value);
  }

  /** Stores at a translated address, and hands the bytes on when it is the access buffer. */
  private storeAt(host: LocalValue, size: Size, value: Value): void {
    this.storeHost(size, 0, () => this.push1(host), value);
    this.push1(host);
    this.local(W.localGet, LOCAL_STATE);
    this.constI32(OFF.access);
    this.raw(W.i32Add, W.i32Eq);
    this.openIf();
    this.local(W.localGet, LOCAL_STATE);
    this.raw(W.call, COMMIT);
    this.close();
    this.lastSet = -1;
  }

  readForWrite(operand: Operand): Value {
    const o = operand as RecordOperand;
    if (o.kind !== "mem") return this.read(operand);
    this.probe(o, true);
    this.push1(o.host!);
    return this.loadHost(o.size, 0);
  }

  probeWrite(operand: Operand): void {
    this.probe(operand as RecordOperand, false);
  }

  private probe(o: RecordOperand, readToo: boolean): void {
    if (o.kind !== "mem") return;
    const address = this.linear();
    if (o.size === 16 && !o.unaligned) this.checkAligned(address);
    o.host = this.translate(address, o.size, true, readToo);
  }

  write(operand: Operand, value: Value): void {
    const o = operand as RecordOperand;
    if (o.kind === "mem") {
      if (o.host === undefined) this.probeWrite(operand);
      this.storeAt(o.host!, o.size, value);
      return;
    }
    const address = o.fixed !== undefined
      ? () => this.local(W.localGet, LOCAL_STATE)
      : () => this.fieldAddress(o.field!);
    if (o.kind === "reg" && o.size === 4) value = this.truncate(4, value);
    this.storeHost(
      o.kind === "reg" && o.size === 4 ? 8 : o.size,
      o.fixed ?? 0,
      address,
      value,
    );
    if (o.kind === "mmx") {
      // The exponent of a register written by MMX is all ones (Intel SDM vol. 1, 9.2.2).
      address();
      this.constI64(0xffffn);
      this.mem(W.i64Store16, (o.fixed ?? 0) + 8);
    }
  }

  writeXmmZero(operand: Operand, value: Value): void {
    const o = operand as RecordOperand;
    const low = o.size === 4 ? this.truncate(4, value) : value;
    this.storeHost(
      16,
      0,
      () => this.fieldAddress(o.field!),
      this.lane("i64x2.replace_lane", 0, this.v128(new Array(16).fill(0)), low),
    );
  }

  getReg(index: number, size: Size): Value {
    this.state(LOAD[size], OFF.gpr + index * 8);
    return this.pop1("i64");
  }

  setReg(index: number, size: Size, value: Value): void {
    if (size === 4) value = this.truncate(4, value);
    this.storeHost(
      size === 4 ? 8 : size,
      OFF.gpr + index * 8,
      () => this.local(W.localGet, LOCAL_STATE),
      value,
    );
  }

  getXmm(index: number): Value {
    this.local(W.localGet, LOCAL_STATE);
    return this.loadHost(16, CpuState.xmm(index));
  }

  setXmm(index: number, value: Value): void {
    this.storeHost(
      16,
      CpuState.xmm(index),
      () => this.local(W.localGet, LOCAL_STATE),
      value,
    );
  }

  get(offset: number): Value {
    this.state(W.i64Load, offset);
    return this.pop1("i64");
  }
  put(offset: number, value: Value): void {
    this.storeHost(8, offset, () => this.local(W.localGet, LOCAL_STATE), value);
  }
  get32(offset: number): Value {
    this.state(W.i32Load, offset);
    return this.pop1("i32");
  }
  put32(offset: number, value: Value): void {
    this.local(W.localGet, LOCAL_STATE);
    this.push1(value);
    this.mem(W.i32Store, offset);
  }

  // ---- stack ----

  /** RSP moved by `delta`, as an address in SS. */
  private stackAddress(delta: number): { offset: Value; linear: Value } {
    const rsp = this.getReg(RSP, 8);
    let offset = delta === 0 ? rsp : this.op("i64.add", rsp, this.i64(delta));
    if (this.long) return { offset, linear: offset };
    offset = this.op("i64.and", offset, this.get(OFF.spMask));
    return {
      offset,
      linear: this.op("i64.add", offset, this.get(OFF.segBase + SS * 8)),
    };
  }

  private checkStack(offset: Value, size: Size, write: boolean): void {
    if (this.long) return;
    this.state(W.i32Load, OFF.segFlat);
    this.constI32(1 << SS);
    this.raw(W.i32And, W.i32Eqz);
    this.openIf();
    this.lastSet = -1;
    this.local(W.localGet, LOCAL_STATE);
    this.local(W.localGet, LOCAL_PC);
    this.push1(offset);
    this.raw(W.i32WrapI64);
    this.constI32(SS | (size << 8) | (write ? 1 << 16 : 0));
    this.raw(W.call, CHECK_SEGMENT);
    this.br("fault", true);
    this.close();
    this.lastSet = -1;
  }

  private setStackPointer(offset: Value): void {
    if (this.long) return this.setReg(RSP, 8, offset);
    const mask = this.get(OFF.spMask);
    const kept = this.op(
      "i64.and",
      this.getReg(RSP, 8),
      this.op("i64.xor", mask, this.i64(-1)),
    );
    this.setReg(
      RSP,
      8,
      this.op("i64.or", kept, this.op("i64.and", offset, mask)),
    );
  }

  push(size: Size, value: Value): void {
    const { offset, linear } = this.stackAddress(-size);
    this.checkStack(offset, size, true);
    this.store(this.truncateLinear(linear), size, value);
    this.setStackPointer(offset);
  }

  peek(size: Size): Value {
    const { offset, linear } = this.stackAddress(0);
    this.checkStack(offset, size, false);
    return this.load(this.truncateLinear(linear), size);
  }

  private truncateLinear(linear: Value): Value {
    return this.long ? linear : this.truncate(4, linear);
  }

  commitPop(size: Size): void {
    this.setStackPointer(this.stackAddress(size).offset);
  }

  // ---- control ----

  condition(code: Condition): Value {
    const carry = () =>
      this.op("i64.lt_s", this.get(OFF.flagCarry), this.i64(0));
    const zero = () => this.op("i64.eqz", this.get(OFF.flagResult));
    const overflowWord = () => {
      const c = this.get(OFF.flagCarry);
      return this.op("i64.xor", c, this.op("i64.shl", c, this.i64(1)));
    };
    const signWord = () =>
      this.op("i64.xor", this.get(OFF.flagResult), this.get(OFF.flagAux));
    const negative = (v: Value) => this.op("i64.lt_s", v, this.i64(0));
    let value: Value;
    switch (code >> 1) {
      case 0:
        value = negative(overflowWord());
        break;
      case 1:
        value = carry();
        break;
      case 2:
        value = zero();
        break;
      case 3:
        value = this.op("i32.or", carry(), zero());
        break;
      case 4:
        value = negative(signWord());
        break;
      case 5: {
        const p = this.op(
          "i64.xor",
          this.get(OFF.flagResult),
          this.op("i64.shr_u", this.get(OFF.flagAux), this.i64(8)),
        );
        const ones = this.op(
          "i64.popcnt",
          this.op("i64.and", p, this.i64(0xff)),
        );
        value = this.op("i64.eqz", this.op("i64.and", ones, this.i64(1)));
        break;
      }
      case 6:
        value = negative(this.op("i64.xor", signWord(), overflowWord()));
        break;
      default:
        value = this.op(
          "i32.or",
          zero(),
          negative(this.op("i64.xor", signWord(), overflowWord())),
        );
    }
    return code & 1 ? this.op("i32.eqz", value) : value;
  }

  nextRip(): Value {
    this.state(W.i64Load, OFF.ripPage);
    this.record(W.i64Load16u, REC.next);
    this.raw(W.i64Add);
    const rip = this.pop1("i64");
    return this.long ? rip : this.truncate(4, rip);
  }

  /** Continues at the record named by REC.target, or at ripPage + imm; an unconditional branch is the last of its block. */
  private takeBranch(conditional: boolean): void {
    this.record(W.i32Load, REC.target);
    const target = this.pop1("i32");
    this.push1(target);
    this.constI32(0);
    this.raw(W.i32GtS);
    this.openIf();
    this.lastSet = -1;
    if (conditional) this.refund();
    this.push1(target);
    this.local(W.localSet, LOCAL_PC);
    this.lastSet = -1;
    this.br("enter");
    this.close();
    this.lastSet = -1;
    this.state(W.i64Load, OFF.ripPage);
    this.record(W.i64Load, REC.imm);
    this.raw(W.i64Add);
    let rip: Value = this.pop1("i64");
    if (!this.long) rip = this.truncate(this.size === 2 ? 2 : 4, rip);
    if (conditional) this.refund();
    this.push1(rip);
    this.local(W.localSet, LOCAL_RIP);
    this.lastSet = -1;
    if (!this.long) this.checkCodeLimit(conditional);
    this.push1(target);
    this.openIf();
    this.lastSet = -1;
    this.br("lookup");
    this.close();
    // Same page, not linked yet: TypeScript finds the block and links this record.
    this.leave(EXIT.lookup, true);
  }

  /** #GP(0) when the new RIP is beyond the CS limit; nothing was committed but the budget, which the exit refunds. */
  private checkCodeLimit(refunded: boolean): void {
    this.local(W.localGet, LOCAL_RIP);
    this.state(W.i64Load32u, OFF.segLimit + 1 * 4);
    this.raw(0x56); // i64.gt_u
    this.openIf();
    if (refunded) this.unrefund();
    this.constFault(VECTOR.GP, 0);
    this.close();
    this.lastSet = -1;
  }

  /** Gives back the instructions of the block after this one. */
  refund(): void {
    this.local(W.localGet, LOCAL_STATE);
    this.state(W.i32Load, OFF.budget);
    this.record(W.i32Load8u, REC.remaining);
    this.raw(W.i32Add);
    this.constI32(1);
    this.raw(W.i32Sub);
    this.mem(W.i32Store, OFF.budget);
  }

  private unrefund(): void {
    this.local(W.localGet, LOCAL_STATE);
    this.state(W.i32Load, OFF.budget);
    this.record(W.i32Load8u, REC.remaining);
    this.raw(W.i32Sub);
    this.constI32(1);
    this.raw(W.i32Add);
    this.mem(W.i32Store, OFF.budget);
  }

  /** Stores the exit record and LOCAL_RIP, and returns `reason`. */
  leave(reason: number, withRecord: boolean): void {
    this.local(W.localGet, LOCAL_STATE);
    this.local(W.localGet, LOCAL_RIP);
    this.mem(W.i64Store, OFF.rip);
    this.local(W.localGet, LOCAL_STATE);
    if (withRecord) this.local(W.localGet, LOCAL_PC);
    else this.constI32(0);
    this.mem(W.i32Store, OFF.faultRecord);
    this.constI32(reason);
    this.raw(W.return);
  }

  jumpRelative(_target: Operand): void {
    this.takeBranch(false);
    this.ended = true;
  }

  branch(condition: Value, _target: Operand): void {
    this.push1(condition);
    this.openIf();
    this.lastSet = -1;
    this.takeBranch(true);
    this.close();
    this.lastSet = -1;
  }

  jumpIndirect(rip: Value): void {
    if (!this.long) rip = this.truncate(this.size === 2 ? 2 : 4, rip);
    this.push1(rip);
    this.local(W.localSet, LOCAL_RIP);
    this.lastSet = -1;
    if (!this.long) this.checkCodeLimit(false);
    this.br("lookup");
    this.ended = true;
  }

  private constFault(vector: number, errorCode: number): void {
    this.local(W.localGet, LOCAL_STATE);
    this.constI32(vector);
    this.mem(W.i32Store, OFF.fault);
    this.local(W.localGet, LOCAL_STATE);
    this.constI32(errorCode);
    this.mem(W.i32Store, OFF.faultError);
    this.br("fault");
  }

  faultIf(condition: Value, vector: number, errorCode = 0): void {
    this.push1(condition);
    this.openIf();
    this.constFault(vector, errorCode);
    this.close();
    this.lastSet = -1;
  }

  /** #UD or #NM when the state field `offset` says that a unit is not usable. */
  checkUnit(offset: number): void {
    this.state(W.i32Load, offset);
    const vector = this.pop1("i32");
    this.push1(vector);
    this.openIf();
    this.lastSet = -1;
    this.local(W.localGet, LOCAL_STATE);
    this.push1(vector);
    this.mem(W.i32Store, OFF.fault);
    this.local(W.localGet, LOCAL_STATE);
    this.constI32(0);
    this.mem(W.i32Store, OFF.faultError);
    this.br("fault");
    this.close();
    this.lastSet = -1;
  }

  slow(name: string): void {
    const id = this.slowIds.indexOf(name);
    if (id < 0) throw new Error(`no slow path ${name}`);
    this.local(W.localGet, LOCAL_PC);
    this.constI32(id);
    this.raw(W.call, SLOW_PATH);
    this.br("fault", true);
    this.lastSet = -1;
  }

  fallbackIf(condition: Value): void {
    this.push1(condition);
    this.openIf();
    this.lastSet = -1;
    this.callHelper();
    this.close();
    this.lastSet = -1;
  }

  isLast(): Value {
    this.record(W.i32Load8u, REC.remaining);
    this.constI32(1);
    this.raw(W.i32Eq);
    return this.pop1("i32");
  }

  /** Calls the TypeScript version; 0 goes on at the next record, 1 is a fault, 2 leaves with RIP set. */
  callHelper(): void {
    this.local(W.localGet, LOCAL_STATE);
    this.local(W.localGet, LOCAL_PC);
    this.raw(W.call, HELPER);
    const code = this.pop1("i32");
    this.push1(code);
    this.openIf();
    this.lastSet = -1;
    this.push1(code);
    this.constI32(1);
    this.raw(W.i32Eq);
    this.br("fault", true);
    this.refund();
    this.constI32(EXIT.leave);
    this.raw(W.return);
    this.close();
    this.lastSet = -1;
    this.advance();
    this.br("next");
  }

  advance(): void {
    this.local(W.localGet, LOCAL_PC);
    this.constI32(RECORD_SIZE);
    this.raw(W.i32Add);
    this.local(W.localSet, LOCAL_PC);
    this.lastSet = -1;
  }
}
