/**
 * The host's own x86-64 CPU as an oracle (ENGINE.md section 5): runs instruction bytes with given
 * registers and returns the registers after them.
 *
 * Machine code is mapped through Deno's FFI. It loads a context block, runs the bytes and stores the
 * block again; its layout is {@linkcode HostContext}. The bytes must end by falling through, and may touch
 * no memory but {@linkcode HostCpu.scratch} and the pages beside it, which are not there. A fault ends the run:
 * the signals for it have a handler that notes the exception and continues where the registers are stored.
 *
 * FXSAVE and FXRSTOR: Intel SDM vol. 1, 10.5; the calling convention: System V ABI for AMD64, 3.2.
 *
 * @module
 */

const PROT_READ_WRITE = 1 | 2;
const PROT_EXEC = 4;
const MAP_PRIVATE = 0x02;
const MAP_ANONYMOUS = 0x20;
/** Addresses below 2 GiB, so that absolute disp32 operands reach them. */
const MAP_32BIT = 0x40;

const LIBC = {
  mmap: {
    parameters: ["usize", "usize", "i32", "i32", "i32", "i64"],
    result: "isize",
  },
  munmap: { parameters: ["usize", "usize"], result: "i32" },
  mprotect: { parameters: ["usize", "usize", "i32"], result: "i32" },
  sigaction: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  sigaltstack: { parameters: ["buffer", "buffer"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

const PAGE_SIZE = 4096;
/** Bytes of scratch memory. */
export const SCRATCH_SIZE = 64 * 1024;
/** The most instruction bytes in one run. */
export const MAX_CODE = PAGE_SIZE - 16;

// The context block.
const GPR = 0;
const GPR_COUNT = 16;
const RSP = 4;
const RFLAGS = 0x80;
const FXSAVE = 0x200;
const FXSAVE_SIZE = 512;
/** Bytes of a context. */
export const CONTEXT_SIZE: number = FXSAVE + FXSAVE_SIZE;
/** Behind the context, for the trampoline alone: the host's stack pointer. */
const HOST_RSP = CONTEXT_SIZE;
/** Then what the signal handler notes: vector, error code, CR2; and the handlers that were there, by signal. */
const FAULT_VECTOR = HOST_RSP + 8;
const FAULT_CODE = FAULT_VECTOR + 8;
const FAULT_ADDRESS = FAULT_CODE + 8;
const OLD_HANDLERS = FAULT_ADDRESS + 8;
/** No exception. */
const NO_FAULT = 0xff;

/** Signals that exceptions become (Linux, arch/x86/kernel/traps.c). */
const SIGNALS = { SIGILL: 4, SIGTRAP: 5, SIGBUS: 7, SIGFPE: 8, SIGSEGV: 11 };
/** `struct sigaction` of glibc: handler, 128 bytes of mask, flags. */
const SIGACTION_SIZE = 152, SIGACTION_FLAGS = 136;
const SA_SIGINFO = 4, SA_ONSTACK = 0x08000000, SA_NODEFER = 0x40000000;
/** Bytes of the stack that the handler runs on, and of `stack_t`. */
const SIGNAL_STACK = 64 * 1024, STACK_T_SIZE = 24, STACK_T_LENGTH = 16;
/** Offsets in `ucontext_t` (sys/ucontext.h): RIP, error code, vector and CR2 among the registers. */
const UC_RIP = 40 + 16 * 8,
  UC_ERR = 40 + 19 * 8,
  UC_TRAPNO = 40 + 20 * 8,
  UC_CR2 = 40 + 22 * 8;
/** Where in the trampoline's page the handler is. */
const HANDLER_OFFSET = 0x800;

/** An exception of the code that was run. */
export interface HostFault {
  readonly vector: number;
  readonly errorCode: number;
  /** CR2, for #PF. */
  readonly address: bigint;
}

// The FXSAVE area, Intel SDM vol. 1, table 10-2.
const FX_FCW = 0;
const FX_FSW = 2;
const FX_FTW = 4;
const FX_FOP = 6;
const FX_FIP = 8;
const FX_FDP = 16;
const FX_MXCSR = 24;
const FX_ST = 32;
const FX_ST_SIZE = 10;
const FX_XMM = 160;
const FX_SLOT = 16;

/** Reset values of the control words: every exception masked, nearest, extended precision. */
const FCW_DEFAULT = 0x037f;
const MXCSR_DEFAULT = 0x1f80;
/** MXCSR bits that every x86-64 CPU has; FXRSTOR faults on others. */
const MXCSR_MASK = 0xffff;
/** CF, PF, AF, ZF, SF, DF and OF: the flags that code may have set on entry, and those returned. */
export const FLAGS_MASK = 0xcd5n;
/** RFLAGS bit 1, which is always set. */
const FLAGS_FIXED = 2n;

/** The registers of user mode. Every setter takes the low bits of its value. */
export class HostContext {
  /** The block as the trampoline has it. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;

  /**
   * Wraps a block.
   *
   * @param bytes The block, {@linkcode CONTEXT_SIZE} bytes; a new one in its reset state when absent.
   */
  constructor(bytes?: Uint8Array<ArrayBuffer>) {
    this.bytes = bytes ?? new Uint8Array(CONTEXT_SIZE);
    if (this.bytes.length !== CONTEXT_SIZE) {
      throw new RangeError(
        `a host context of ${this.bytes.length} bytes: expected ${CONTEXT_SIZE}`,
      );
    }
    this.#view = new DataView(this.bytes.buffer, this.bytes.byteOffset);
    if (bytes === undefined) this.reset();
  }

  /** Zeroes everything but the control words, as FNINIT and power-on leave them. */
  reset(): void {
    this.bytes.fill(0);
    this.rflags = FLAGS_FIXED;
    this.fcw = FCW_DEFAULT;
    this.mxcsr = MXCSR_DEFAULT;
  }

  /** General-purpose register `i`: 0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 RSP, 5 RBP, 6 RSI, 7 RDI, 8 to 15 R8 to R15. */
  gpr(i: number): bigint {
    return this.#view.getBigUint64(GPR + i * 8, true);
  }

  /** Sets general-purpose register `i`. */
  setGpr(i: number, value: bigint): void {
    this.#view.setBigUint64(GPR + i * 8, value, true);
  }

  /** RFLAGS, as far as {@linkcode FLAGS_MASK} goes. */
  get rflags(): bigint {
    return this.#view.getBigUint64(RFLAGS, true);
  }
  set rflags(value: bigint) {
    this.#view.setBigUint64(RFLAGS, value & FLAGS_MASK | FLAGS_FIXED, true);
  }

  /** XMM register `i`: a view of its 16 bytes. */
  xmm(i: number): Uint8Array {
    const at = FXSAVE + FX_XMM + i * FX_SLOT;
    return this.bytes.subarray(at, at + FX_SLOT);
  }

  /** ST(i) (from the top, as FXSAVE has them), and MMi in its first 8 bytes: a view of its 10 bytes. */
  st(i: number): Uint8Array {
    const at = FXSAVE + FX_ST + i * FX_SLOT;
    return this.bytes.subarray(at, at + FX_ST_SIZE);
  }

  /** The whole FXSAVE area: a view of its 512 bytes. */
  get fxsave(): Uint8Array {
    return this.bytes.subarray(FXSAVE, FXSAVE + FXSAVE_SIZE);
  }

  /** MXCSR. */
  get mxcsr(): number {
    return this.#view.getUint32(FXSAVE + FX_MXCSR, true);
  }
  set mxcsr(value: number) {
    this.#view.setUint32(FXSAVE + FX_MXCSR, value & MXCSR_MASK, true);
  }

  /** x87 control word. */
  get fcw(): number {
    return this.#view.getUint16(FXSAVE + FX_FCW, true);
  }
  set fcw(value: number) {
    this.#view.setUint16(FXSAVE + FX_FCW, value, true);
  }

  /** x87 status word. */
  get fsw(): number {
    return this.#view.getUint16(FXSAVE + FX_FSW, true);
  }
  set fsw(value: number) {
    this.#view.setUint16(FXSAVE + FX_FSW, value, true);
  }

  /** Abridged x87 tag word: bit i is set where physical register i is not empty. */
  get ftw(): number {
    return this.#view.getUint8(FXSAVE + FX_FTW);
  }
  set ftw(value: number) {
    this.#view.setUint8(FXSAVE + FX_FTW, value);
  }

  /** Last x87 opcode. AMD CPUs keep it and the pointers only while an exception is pending. */
  get fop(): number {
    return this.#view.getUint16(FXSAVE + FX_FOP, true);
  }

  /** Last x87 instruction pointer; see {@linkcode fop}. */
  get fip(): bigint {
    return this.#view.getBigUint64(FXSAVE + FX_FIP, true);
  }

  /** Last x87 data pointer; see {@linkcode fop}. */
  get fdp(): bigint {
    return this.#view.getBigUint64(FXSAVE + FX_FDP, true);
  }

  /** Takes over every register of another context. */
  copyFrom(other: HostContext): void {
    this.bytes.set(other.bytes);
  }
}

/** The host CPU, ready to run code. */
export class HostCpu implements Disposable {
  /** Memory that the code may touch, below 2 GiB. */
  readonly scratch: Uint8Array<ArrayBuffer>;
  /** Address of {@linkcode scratch}. */
  readonly scratchAddress: number;
  /** Address of the first instruction byte, for RIP-relative operands. */
  readonly codeAddress: number;
  readonly #libc: Deno.DynamicLibrary<typeof LIBC>;
  readonly #mappings: { address: number; length: number }[] = [];
  readonly #code: Uint8Array<ArrayBuffer>;
  readonly #context: HostContext;
  readonly #exit: number;
  readonly #enter: () => void;
  readonly #notes: DataView;
  readonly #oldActions = new Map<number, Uint8Array<ArrayBuffer>>();
  readonly #oldStack = new Uint8Array(STACK_T_SIZE);

  private constructor() {
    this.#libc = Deno.dlopen("libc.so.6", LIBC);
    // Each in its own mapping: a store near code that is running is slow.
    const frame = this.#map(PAGE_SIZE, PROT_READ_WRITE | PROT_EXEC);
    const code = this.#map(PAGE_SIZE, PROT_READ_WRITE | PROT_EXEC);
    const context = this.#map(PAGE_SIZE, PROT_READ_WRITE);
    const scratch = this.#map(SCRATCH_SIZE + 2 * PAGE_SIZE, PROT_READ_WRITE);
    for (const guard of [0, SCRATCH_SIZE + PAGE_SIZE]) {
      this.#libc.symbols.mprotect(
        BigInt(scratch.address + guard),
        BigInt(PAGE_SIZE),
        0,
      );
    }
    this.#code = code.bytes;
    this.codeAddress = code.address;
    this.scratchAddress = scratch.address + PAGE_SIZE;
    this.scratch = memoryAt(this.scratchAddress, SCRATCH_SIZE);
    this.#notes = new DataView(context.bytes.buffer);
    this.#context = new HostContext(context.bytes.subarray(0, CONTEXT_SIZE));
    const entry = entryCode(frame.address, code.address, context.address);
    frame.bytes.set(entry);
    this.#exit = frame.address + entry.length;
    frame.bytes.set(exitCode(context.address), entry.length);
    frame.bytes.set(
      handlerCode(code.address, context.address, this.#exit),
      HANDLER_OFFSET,
    );
    this.#catchFaults(frame.address + HANDLER_OFFSET);
    const pointer = Deno.UnsafePointer.create(BigInt(frame.address));
    const call = new Deno.UnsafeFnPointer(
      pointer as Deno.PointerObject<
        { parameters: []; result: "void" }
      >,
      { parameters: [], result: "void" },
    );
    this.#enter = () => call.call();
  }

  /**
   * Maps the memory and the trampoline.
   *
   * @returns The CPU.
   * @throws {Error} Where {@linkcode HostCpu.unavailable} gives a reason, or the host refuses executable memory.
   */
  static open(): HostCpu {
    const reason = HostCpu.unavailable();
    if (reason !== null) throw new Error(reason);
    return new HostCpu();
  }

  /**
   * Says whether it can work here.
   *
   * @returns Why this host's CPU cannot be used, for the message of a skipped test; null if it can.
   */
  static unavailable(): string | null {
    const { arch, os } = Deno.build;
    if (arch !== "x86_64" || os !== "linux") {
      return `the host CPU oracle needs Linux on x86-64, and this is ${os} on ${arch}`;
    }
    if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") {
      return "the host CPU oracle needs --allow-ffi";
    }
    return null;
  }

  /**
   * Runs instructions, up to their end or to a fault.
   *
   * @param code Instruction bytes; control must reach their end.
   * @param context Registers before, and on return after.
   * @returns The exception that ended them, or null.
   * @throws {RangeError} If the code is too long.
   */
  run(code: Uint8Array, context: HostContext): HostFault | null {
    if (code.length > MAX_CODE) {
      throw new RangeError(
        `${code.length} bytes of code: expected at most ${MAX_CODE}`,
      );
    }
    this.#code.set(code);
    const jump = new Assembler(this.codeAddress + code.length);
    jump.jump(this.#exit);
    this.#code.set(jump.bytes, code.length);
    this.#context.copyFrom(context);
    // Values written to the block itself may set what would trap the host.
    this.#context.rflags &= FLAGS_MASK;
    this.#context.mxcsr &= MXCSR_MASK;
    this.#notes.setUint32(FAULT_VECTOR, NO_FAULT, true);
    this.#enter();
    context.copyFrom(this.#context);
    context.rflags &= FLAGS_MASK;
    const vector = this.#notes.getUint32(FAULT_VECTOR, true);
    if (vector === NO_FAULT) return null;
    return {
      vector,
      errorCode: this.#notes.getUint32(FAULT_CODE, true),
      address: this.#notes.getBigUint64(FAULT_ADDRESS, true),
    };
  }

  /** Installs the signal handler, on a stack of its own: the guest's RSP may be anything. */
  #catchFaults(handler: number): void {
    const { symbols } = this.#libc;
    const stack = new Uint8Array(STACK_T_SIZE);
    const view = new DataView(stack.buffer);
    view.setBigUint64(
      0,
      BigInt(this.#map(SIGNAL_STACK, PROT_READ_WRITE).address),
      true,
    );
    view.setBigUint64(STACK_T_LENGTH, BigInt(SIGNAL_STACK), true);
    symbols.sigaltstack(stack, this.#oldStack);
    for (const signal of Object.values(SIGNALS)) {
      const action = new Uint8Array(SIGACTION_SIZE);
      const old = new Uint8Array(SIGACTION_SIZE);
      const fields = new DataView(action.buffer);
      fields.setBigUint64(0, BigInt(handler), true);
      fields.setUint32(
        SIGACTION_FLAGS,
        SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
        true,
      );
      symbols.sigaction(signal, action, old);
      this.#oldActions.set(signal, old);
      this.#notes.setBigUint64(
        OLD_HANDLERS + signal * 8,
        new DataView(old.buffer).getBigUint64(0, true),
        true,
      );
    }
  }

  /** Unmaps everything; the scratch memory must not be touched after it. */
  [Symbol.dispose](): void {
    for (const [signal, old] of this.#oldActions) {
      this.#libc.symbols.sigaction(signal, old, new Uint8Array(SIGACTION_SIZE));
    }
    this.#libc.symbols.sigaltstack(
      this.#oldStack,
      new Uint8Array(STACK_T_SIZE),
    );
    for (const { address, length } of this.#mappings.splice(0)) {
      this.#libc.symbols.munmap(BigInt(address), BigInt(length));
    }
    this.#libc.close();
  }

  #map(length: number, protection: number) {
    const address = Number(
      this.#libc.symbols.mmap(
        0n,
        BigInt(length),
        protection,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT,
        -1,
        0n,
      ),
    );
    if (address === -1) {
      throw new Error(
        `the host refuses to map ${length} bytes of memory with protection ${protection} below 2 GiB`,
      );
    }
    this.#mappings.push({ address, length });
    return { address, bytes: memoryAt(address, length) };
  }
}

/** Memory of the process as an array. */
function memoryAt(address: number, length: number): Uint8Array<ArrayBuffer> {
  const pointer = Deno.UnsafePointer.create(BigInt(address));
  return new Uint8Array(
    Deno.UnsafePointerView.getArrayBuffer(pointer!, length),
  );
}

let shared: HostCpu | undefined;

/**
 * Runs instructions on one CPU that is opened at first use and kept.
 *
 * @param code Instruction bytes; control must reach their end.
 * @param context Registers before, and on return after.
 *
 * @example
 * ```ts ignore
 * const context = new HostContext();
 * context.setGpr(0, 41n);
 * runOnHost(new Uint8Array([0x48, 0xff, 0xc0]), context); // inc rax
 * context.gpr(0); // 42n
 * ```
 */
export function runOnHost(code: Uint8Array, context: HostContext): void {
  hostCpu().run(code, context);
}

/**
 * The CPU that {@linkcode runOnHost} uses, for its scratch memory.
 *
 * @returns The CPU, opened at first use.
 */
export function hostCpu(): HostCpu {
  shared ??= HostCpu.open();
  return shared;
}

/** The few instructions of the trampoline. Absolute addresses are below 2 GiB. */
class Assembler {
  readonly #bytes: number[] = [];
  readonly #base: number;

  constructor(base: number) {
    this.#base = base;
  }

  get bytes(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }

  /** Bytes as they are. */
  raw(...bytes: number[]): void {
    this.#bytes.push(...bytes);
  }

  /** An opcode whose operand is memory at an absolute address: ModRM with SIB, no base, no index. */
  memory(opcode: number[], reg: number, address: number): void {
    this.raw(...opcode, (reg & 7) << 3 | 4, 0x25);
    this.#imm32(address);
  }

  /** mov between a 64-bit register and memory. */
  move(direction: "load" | "store", reg: number, address: number): void {
    const rex = 0x48 | (reg >> 3) << 2;
    this.memory([rex, direction === "load" ? 0x8b : 0x89], reg, address);
  }

  /** jmp rel32. */
  jump(target: number): void {
    this.raw(0xe9);
    this.#imm32(target - (this.#base + this.#bytes.length + 4));
  }

  #imm32(value: number): void {
    this.raw(
      value & 0xff,
      value >> 8 & 0xff,
      value >> 16 & 0xff,
      value >> 24 & 0xff,
    );
  }
}

/** Saves what the calling convention keeps, loads the context, and jumps to the code. */
function entryCode(at: number, code: number, context: number): Uint8Array {
  const a = new Assembler(at);
  a.raw(0x53, 0x55); // push rbx; push rbp
  a.raw(0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57); // push r12 to r15
  a.raw(0x9c); // pushfq
  a.raw(0x48, 0x83, 0xec, 0x08); // sub rsp, 8
  a.raw(0x0f, 0xae, 0x1c, 0x24); // stmxcsr [rsp]
  a.raw(0xd9, 0x7c, 0x24, 0x04); // fnstcw [rsp + 4]
  a.move("store", RSP, context + HOST_RSP);
  a.memory([0x48, 0x0f, 0xae], 1, context + FXSAVE); // fxrstor64
  a.memory([0xff], 6, context + RFLAGS); // push
  a.raw(0x9d); // popfq
  for (let i = 0; i < GPR_COUNT; i++) a.move("load", i, context + GPR + i * 8);
  a.jump(code);
  return a.bytes;
}

/** Stores the context and returns as the calling convention says. */
function exitCode(context: number): Uint8Array {
  const a = new Assembler(0);
  for (let i = 0; i < GPR_COUNT; i++) {
    a.move("store", i, context + GPR + i * 8);
  }
  a.move("load", RSP, context + HOST_RSP);
  a.raw(0x9c); // pushfq
  a.memory([0x8f], 0, context + RFLAGS); // pop
  a.memory([0x48, 0x0f, 0xae], 0, context + FXSAVE); // fxsave64
  a.raw(0xdb, 0xe3); // fninit
  a.raw(0xd9, 0x6c, 0x24, 0x04); // fldcw [rsp + 4]
  a.raw(0x0f, 0xae, 0x14, 0x24); // ldmxcsr [rsp]
  a.raw(0x48, 0x83, 0xc4, 0x08); // add rsp, 8
  a.raw(0x9d); // popfq
  a.raw(0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c); // pop r15 to r12
  a.raw(0x5d, 0x5b, 0xc3); // pop rbp; pop rbx; ret
  return a.bytes;
}

/** void handler(int signal, siginfo_t *, ucontext_t *): a fault of the code continues at `exit`, any other goes where it went. */
function handlerCode(
  code: number,
  context: number,
  exit: number,
): Uint8Array {
  const a = new Assembler(0);
  const RAX = 0;
  const fromUcontext = (offset: number) =>
    a.raw(0x48, 0x8b, 0x82, ...word(offset)); // mov rax, [rdx + offset]
  fromUcontext(UC_RIP);
  a.raw(0x48, 0x2d, ...word(code)); // sub rax, code
  a.raw(0x48, 0x3d, ...word(PAGE_SIZE)); // cmp rax, 4096
  const inside = new Assembler(0);
  const note = (offset: number, to: number) => {
    inside.raw(0x48, 0x8b, 0x82, ...word(offset));
    inside.move("store", RAX, context + to);
  };
  note(UC_TRAPNO, FAULT_VECTOR);
  note(UC_ERR, FAULT_CODE);
  note(UC_CR2, FAULT_ADDRESS);
  inside.raw(0x48, 0xc7, 0x82, ...word(UC_RIP), ...word(exit)); // mov qword [rdx + rip], exit
  inside.raw(0xc3); // ret
  a.raw(0x73, inside.bytes.length); // jae over it
  a.raw(...inside.bytes);
  a.raw(0x48, 0x8b, 0x04, 0xfd, ...word(context + OLD_HANDLERS)); // mov rax, [rdi * 8 + old handlers]
  a.raw(0xff, 0xe0); // jmp rax
  return a.bytes;
}

/** A little-endian 32-bit word. */
function word(value: number): number[] {
  return [value & 0xff, value >> 8 & 0xff, value >> 16 & 0xff, value >>> 24];
}
