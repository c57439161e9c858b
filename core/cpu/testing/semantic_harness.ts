/**
 * Runs the meaning of one instruction by itself: a wasm function per declaration, with operands at fixed places, no decoder
 * and no translation of addresses. For property tests of semantics that do not branch, push or touch implicit memory.
 *
 * @module
 */
import { parseForm } from "../decode.ts";
import type {
  Emitter,
  FlagEmitter,
  Operand,
  Size,
  Value,
  Variable,
  WasmType,
} from "../emitter.ts";
import type { HelperCpu, Insn } from "../helper.ts";
import type { Definition } from "../isa/define.ts";
import { CpuState, FLAG, OFF, ST_STRIDE, STATE_SIZE } from "../state.ts";
import { ByteWriter, encodeModule } from "../wasm/module.ts";
import { WASM_OPS } from "../wasm/opcodes.ts";

/** Wasm address of the memory operand, of the immediate and of the flags a semantic recorded. */
const MEMORY_OPERAND = STATE_SIZE,
  IMMEDIATE = STATE_SIZE + 64,
  FLAGS = STATE_SIZE + 72;
/** Bytes of the memory operand's surroundings that a test can see. */
const MEMORY_BYTES = 32;
const WASM_PAGES = 1;
/** What {@linkcode FLAGS} holds when no flag was recorded. */
const NO_FLAGS = 0xffffffff;

/** Function index of the import that runs `DefineOptions.fallback`. */
const FALLBACK = 0;

/** Register numbers that ModRM.reg and ModRM.rm name. */
export const REG = 1, RM = 2;

const LOAD: Record<1 | 2 | 4 | 8, number> = {
  1: 0x31,
  2: 0x33,
  4: 0x35,
  8: 0x29,
};
const STORE: Record<1 | 2 | 4 | 8, number> = {
  1: 0x3c,
  2: 0x3d,
  4: 0x3e,
  8: 0x37,
};

/** Where the operands are. */
export interface Placement {
  /** ModRM.rm is memory. */
  readonly memory: boolean;
  /** ModRM.rm names the same register as ModRM.reg. */
  readonly same?: boolean;
  /** Operand size; 4 if not given. */
  readonly size?: 2 | 4 | 8;
}

interface Place extends Operand {
  readonly address: number;
}

interface Local extends Value {
  readonly local: number;
}

function unsupported(what: string): never {
  throw new Error(
    `the semantic harness has no ${what}: test this instruction on the interpreter`,
  );
}

/** An emitter whose operands are at constant addresses. */
class HarnessEmitter implements Emitter {
  readonly long = true;
  readonly code = new ByteWriter(1 << 12);
  readonly locals: WasmType[] = [];

  constructor(readonly size: Size) {}

  readonly flags: FlagEmitter = {
    zpc: (zero, parity, carry) => {
      const bit = (value: Value, position: number) =>
        this.op("i32.shl", value, this.i32(position));
      const all = this.op(
        "i32.or",
        this.op("i32.or", bit(zero, 6), bit(parity, 2)),
        carry,
      );
      this.storeAt(FLAGS, 4, this.op("i64.extend_i32_u", all));
    },
    add: () => unsupported("flags.add"),
    sub: () => unsupported("flags.sub"),
    logic: () => unsupported("flags.logic"),
    inc: () => unsupported("flags.inc"),
    dec: () => unsupported("flags.dec"),
    result: () => unsupported("flags.result"),
    carry: () => unsupported("flags.carry"),
    carryOverflow: () => unsupported("flags.carryOverflow"),
    zero: () => unsupported("flags.zero"),
    getCarry: () => unsupported("flags.getCarry"),
    get: () => unsupported("flags.get"),
    set: () => unsupported("flags.set"),
  };

  private take(type: WasmType): Local {
    this.locals.push(type);
    const local = this.locals.length - 1;
    this.code.u8(0x21);
    this.code.u32(local);
    return { type, local };
  }
  private put1(value: Value): void {
    this.code.u8(0x20);
    this.code.u32((value as Local).local);
  }
  private constant(type: WasmType, write: () => void): Value {
    write();
    return this.take(type);
  }
  i32(value: number): Value {
    return this.constant(
      "i32",
      () => (this.code.u8(0x41), this.code.s32(value)),
    );
  }
  i64(value: number | bigint): Value {
    return this.constant(
      "i64",
      () => (this.code.u8(0x42), this.code.s64(BigInt(value))),
    );
  }
  f32(value: number): Value {
    return this.constant(
      "f32",
      () => (this.code.u8(0x43),
        this.code.raw(new Uint8Array(new Float32Array([value]).buffer))),
    );
  }
  f64(value: number): Value {
    return this.constant(
      "f64",
      () => (this.code.u8(0x44),
        this.code.raw(new Uint8Array(new Float64Array([value]).buffer))),
    );
  }
  v128(bytes: readonly number[]): Value {
    if (bytes.length !== 16) {
      throw new Error(`a v128 constant has 16 bytes, not ${bytes.length}`);
    }
    return this.constant(
      "v128",
      () => (this.code.raw([0xfd, 12]), this.code.raw(bytes)),
    );
  }
  op(name: string, ...args: Value[]): Value {
    return this.apply(name, args);
  }
  lane(name: string, index: number, ...args: Value[]): Value {
    return this.apply(name, args, index);
  }
  private apply(name: string, args: Value[], lane?: number): Value {
    const op = WASM_OPS[name];
    if (op === undefined || op.result === null) {
      throw new Error(`unknown wasm instruction ${name}`);
    }
    if ((lane === undefined) === (op.laneImm === true)) {
      throw new Error(`${name}: is it a lane instruction?`);
    }
    if (args.map((a) => a.type).join() !== op.params.join()) {
      throw new Error(
        `${name} takes (${op.params.join(", ")}), not (${
          args.map((a) => a.type).join(", ")
        })`,
      );
    }
    for (const arg of args) this.put1(arg);
    this.code.raw(op.code);
    if (lane !== undefined) this.code.u8(lane);
    return this.take(op.result);
  }
  shuffle(lanes: readonly number[], a: Value, b: Value): Value {
    if (lanes.length !== 16) {
      throw new Error(`a shuffle has 16 lanes, not ${lanes.length}`);
    }
    this.put1(a);
    this.put1(b);
    this.code.raw([0xfd, 13]);
    this.code.raw(lanes);
    return this.take("v128");
  }
  variable(init: Value): Variable {
    this.put1(init);
    return { ...this.take(init.type), variable: true } as Variable;
  }
  set(variable: Variable, value: Value): void {
    this.put1(value);
    this.code.u8(0x21);
    this.code.u32((variable as unknown as Local).local);
  }
  if(condition: Value, then: () => void, otherwise?: () => void): void {
    this.put1(condition);
    this.code.raw([0x04, 0x40]);
    then();
    if (otherwise) {
      this.code.u8(0x05);
      otherwise();
    }
    this.code.u8(0x0b);
  }
  select(condition: Value, a: Value, b: Value): Value {
    this.put1(a);
    this.put1(b);
    this.put1(condition);
    if (a.type === "v128") this.code.raw([0x1c, 1, 0x7b]);
    else this.code.u8(0x1b);
    return this.take(a.type);
  }
  loop(body: () => Value): void {
    this.code.raw([0x03, 0x40]);
    this.put1(body());
    this.code.raw([0x0d, 0, 0x0b]);
  }

  private loadAt(address: number, size: Size): Value {
    this.code.raw([0x41, 0]);
    this.code.raw(size === 16 ? [0xfd, 0, 0] : [LOAD[size], 0]);
    this.code.u32(address);
    return this.take(size === 16 ? "v128" : "i64");
  }
  private storeAt(address: number, size: Size, value: Value): void {
    this.code.raw([0x41, 0]);
    this.put1(value);
    this.code.raw(size === 16 ? [0xfd, 11, 0] : [STORE[size], 0]);
    this.code.u32(address);
  }
  read(operand: Operand): Value {
    return this.loadAt((operand as Place).address, operand.size);
  }
  readForWrite(operand: Operand): Value {
    return this.read(operand);
  }
  probeWrite(): void {}
  write(operand: Operand, value: Value): void {
    const { address, kind, size } = operand as Place;
    if (kind === "reg" && size === 4) {
      return this.storeAt(
        address,
        8,
        this.op("i64.and", value, this.i64(0xffffffffn)),
      );
    }
    this.storeAt(address, size, value);
    if (kind === "mmx") this.storeAt(address + 8, 2, this.i64(0xffff));
  }
  writeXmmZero(operand: Operand, value: Value): void {
    const { address, size } = operand as Place;
    const low = size === 4
      ? this.op("i64.and", value, this.i64(0xffffffffn))
      : value;
    this.storeAt(address, 8, low);
    this.storeAt(address + 8, 8, this.i64(0));
  }
  getReg(index: number, size: Size): Value {
    return this.loadAt(OFF.gpr + index * 8, size);
  }
  setReg(): void {
    unsupported("setReg");
  }
  getXmm(index: number): Value {
    return this.loadAt(CpuState.xmm(index), 16);
  }
  setXmm(index: number, value: Value): void {
    this.storeAt(CpuState.xmm(index), 16, value);
  }
  get(offset: number): Value {
    return this.loadAt(offset, 8);
  }
  put(offset: number, value: Value): void {
    this.storeAt(offset, 8, value);
  }
  get32(offset: number): Value {
    return this.op("i32.wrap_i64", this.loadAt(offset, 4));
  }
  put32(offset: number, value: Value): void {
    this.storeAt(offset, 4, this.op("i64.extend_i32_u", value));
  }
  faultIf(condition: Value): void {
    this.put1(condition);
    this.code.raw([0x04, 0x40, 0x00, 0x0b]);
  }

  address(): never {
    return unsupported("address");
  }
  load(): never {
    return unsupported("load");
  }
  store(): never {
    return unsupported("store");
  }
  push(): never {
    return unsupported("push");
  }
  peek(): never {
    return unsupported("peek");
  }
  commitPop(): never {
    return unsupported("commitPop");
  }
  condition(): never {
    return unsupported("condition");
  }
  nextRip(): never {
    return unsupported("nextRip");
  }
  jumpRelative(): never {
    return unsupported("jumpRelative");
  }
  branch(): never {
    return unsupported("branch");
  }
  jumpIndirect(): never {
    return unsupported("jumpIndirect");
  }
  fallbackIf(condition: Value): void {
    this.put1(condition);
    this.code.raw([0x04, 0x40, 0x10, FALLBACK, 0x0f, 0x0b]);
  }
  isLast(): never {
    return unsupported("isLast");
  }
  slow(): never {
    return unsupported("slow");
  }
}

/** One vCPU state, one memory operand and one immediate, on which prepared instructions act. */
export class SemanticHarness {
  private readonly wasm = new WebAssembly.Memory({
    initial: WASM_PAGES,
    maximum: WASM_PAGES,
  });
  /** The state. */
  readonly state: CpuState = new CpuState(this.wasm, 0);
  /** The memory operand is at the start of these bytes. */
  readonly memory: Uint8Array = new Uint8Array(
    this.wasm.buffer,
    MEMORY_OPERAND,
    MEMORY_BYTES,
  );
  private readonly view = new DataView(this.wasm.buffer);
  /** How often an instruction left to its TypeScript version. */
  fallbacks = 0;

  /** Sets the immediate. */
  set immediate(value: number) {
    this.view.setBigUint64(IMMEDIATE, BigInt(value), true);
  }

  /** The flags the last instruction recorded, or undefined when it recorded none. */
  get recordedFlags(): number | undefined {
    const flags = this.view.getUint32(FLAGS, true);
    return flags === NO_FLAGS ? undefined : flags;
  }

  /**
   * Makes an instruction ready.
   *
   * @returns A function that runs it once.
   * @throws {Error} The semantic uses something the harness does not have.
   */
  prepare(definition: Definition, placement: Placement): () => void {
    const size = placement.size ?? 4;
    const semantic = definition.semantic;
    const clear = () => this.view.setUint32(FLAGS, NO_FLAGS, true);
    if (typeof semantic !== "function") {
      return () => {
        clear();
        const before = this.state.arithmeticFlags();
        this.state.setArithmeticFlags(FLAG.AF);
        const insn = this.instruction(placement, size);
        semantic.run(this.helperCpu(), insn);
        const flags = this.state.arithmeticFlags();
        if (flags !== FLAG.AF) this.view.setUint32(FLAGS, flags, true);
        this.state.setArithmeticFlags(before);
      };
    }
    const e = new HarnessEmitter(size);
    semantic(e, ...this.operands(definition, placement, size));
    const bytes = encodeModule(
      { initial: WASM_PAGES, maximum: WASM_PAGES },
      [{ name: "fallback", type: { params: [], results: [] } }],
      [{
        name: "run",
        type: { params: [], results: [] },
        locals: e.locals,
        code: e.code.view(),
      }],
    );
    const fallback = () => {
      this.fallbacks++;
      definition.options.fallback!.run(
        this.helperCpu(),
        this.instruction(placement, size),
      );
    };
    const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes), {
      m: { memory: this.wasm, fallback },
    });
    const run = instance.exports.run as () => void;
    return () => {
      clear();
      run();
    };
  }

  private operands(
    definition: Definition,
    placement: Placement,
    size: 2 | 4 | 8,
  ): Place[] {
    const widths: Record<string, Size> = {
      b: 1,
      s: 1,
      w: 2,
      d: 4,
      q: 8,
      x: 16,
      u: 16,
      v: size,
      y: size === 8 ? 8 : 4,
    };
    return parseForm(definition, 0).operands.map(
      ({ letter, width, text }): Place => {
        const bytes = widths[width];
        if (bytes === undefined) {
          throw new Error(
            `${definition.name}: the semantic harness has no operand ${text}`,
          );
        }
        const rm = placement.same ? REG : RM;
        const inMemory: Place = {
          kind: "mem",
          size: bytes,
          address: MEMORY_OPERAND,
        };
        switch (letter) {
          case "I":
            return { kind: "imm", size: bytes, address: IMMEDIATE };
          case "M":
            return inMemory;
          case "G":
            return { kind: "reg", size: bytes, address: OFF.gpr + REG * 8 };
          case "V":
            return { kind: "xmm", size: bytes, address: CpuState.xmm(REG) };
          case "P":
            return {
              kind: "mmx",
              size: bytes,
              address: OFF.st + REG * ST_STRIDE,
            };
          case "E":
          case "R":
            return placement.memory
              ? inMemory
              : { kind: "reg", size: bytes, address: OFF.gpr + rm * 8 };
          case "W":
          case "U":
            return placement.memory
              ? inMemory
              : { kind: "xmm", size: bytes, address: CpuState.xmm(rm) };
          case "Q":
          case "N":
            return placement.memory
              ? inMemory
              : { kind: "mmx", size: bytes, address: OFF.st + rm * ST_STRIDE };
          default:
            throw new Error(
              `${definition.name}: the semantic harness has no operand ${text}`,
            );
        }
      },
    );
  }

  private instruction(placement: Placement, size: 2 | 4 | 8): Insn {
    return {
      name: "test",
      length: 0,
      mode: 64,
      size,
      addressSize: 8,
      opcode: 0,
      mod: placement.memory ? 0 : 3,
      reg: REG,
      rm: placement.same ? REG : RM,
      opReg: 0,
      segment: 3,
      base: -1,
      index: -1,
      scale: 0,
      disp: 0,
      imm: this.view.getBigUint64(IMMEDIATE, true),
      imm2: 0,
      rep: 0,
      lock: false,
      rex: size === 8,
      rexW: size === 8,
    };
  }

  /** Helpers see the memory operand at linear address 0, and again at any address a register gives. */
  private helperCpu(): HelperCpu {
    const at = (linear: bigint) => Number(linear % BigInt(MEMORY_BYTES));
    const cpu: Partial<HelperCpu> = {
      state: this.state,
      linear: () => 0n,
      segmentAddress: (_segment, offset) => offset,
      readBytes: (linear, target) =>
        target.set(
          this.memory.subarray(at(linear), at(linear) + target.length),
        ),
      read32: (linear) =>
        this.view.getUint32(MEMORY_OPERAND + at(linear), true),
      read64: (linear) =>
        this.view.getBigUint64(MEMORY_OPERAND + at(linear), true),
      readRm: (insn, size) => {
        const from = insn.mod === 3 ? insn.rm * 8 : MEMORY_OPERAND;
        const bits = this.view.getBigUint64(from, true);
        return BigInt.asUintN(size * 8, bits);
      },
      write8: (linear, value) => {
        this.memory[at(linear)] = value;
      },
      probeWrite: () => {},
    };
    return cpu as HelperCpu;
  }
}
