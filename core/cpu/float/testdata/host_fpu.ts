/**
 * The host's own x87 and SSE, for tests: compiles host_fpu.c and runs batches of instructions
 * through it. Only on x86-64 Linux with a C compiler; {@link hostFpu} says why not elsewhere.
 *
 * @module
 */

const RECORD_SIZE = 112 + 128 + 16 + 16 + 8 + 8 + 4 + 4 + 16;
const FPU = 0, MEMORY = 112, XMM0 = 240, XMM1 = 256, RAX = 272, RFLAGS = 280;
const MXCSR = 288, SIGNAL = 292, CODE = 296;
const FPU_CW = 0, FPU_SW = 4, FPU_TW = 8, FPU_REGISTERS = 28;

/** An 80-bit datum. */
export interface Datum {
  readonly se: number;
  readonly sig: bigint;
}

/** One instruction and the state it starts from. */
export interface HostCase {
  readonly code: readonly number[];
  /** ST(0), ST(1), ... */
  readonly st?: readonly Datum[];
  readonly controlWord?: number;
  /** The bytes at RDI. */
  readonly memory?: Uint8Array;
  readonly xmm0?: bigint;
  readonly xmm1?: bigint;
  readonly mxcsr?: number;
  readonly rax?: bigint;
}

/** What the instruction left. */
export interface HostResult {
  readonly statusWord: number;
  readonly tagWord: number;
  readonly st: readonly Datum[];
  readonly memory: Uint8Array;
  readonly xmm0: bigint;
  readonly mxcsr: number;
  readonly rax: bigint;
  readonly rflags: number;
  /** The signal it ended with, or 0. */
  readonly signal: number;
}

/** Runs a batch on the host. */
export type HostFpu = (cases: readonly HostCase[]) => Promise<HostResult[]>;

let cached: Promise<HostFpu | string> | undefined;

/**
 * Compiles the runner, once.
 *
 * @returns The runner, or the reason why there is none.
 */
export function hostFpu(): Promise<HostFpu | string> {
  return cached ??= build();
}

async function build(): Promise<HostFpu | string> {
  if (Deno.build.arch !== "x86_64" || Deno.build.os !== "linux") {
    return `not x86-64 Linux but ${Deno.build.arch} ${Deno.build.os}`;
  }
  const directory = await Deno.makeTempDir({ prefix: "host-fpu-" });
  const program = `${directory}/host_fpu`;
  const source = new URL("./host_fpu.c", import.meta.url).pathname;
  try {
    const args = ["-O1", "-mno-red-zone", "-o", program, source];
    const { success, stderr } = await new Deno.Command("gcc", { args })
      .output();
    if (!success) return `gcc failed: ${new TextDecoder().decode(stderr)}`;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "no gcc here";
    throw error;
  }
  globalThis.addEventListener(
    "unload",
    () => Deno.removeSync(directory, { recursive: true }),
  );
  return (cases) => run(program, cases);
}

async function run(
  program: string,
  cases: readonly HostCase[],
): Promise<HostResult[]> {
  const input = new Uint8Array(cases.length * RECORD_SIZE);
  cases.forEach((c, i) =>
    encode(c, input.subarray(i * RECORD_SIZE, (i + 1) * RECORD_SIZE))
  );
  const command = new Deno.Command(program, {
    stdin: "piped",
    stdout: "piped",
  });
  const child = command.spawn();
  const writer = child.stdin.getWriter();
  const written = writer.write(input).then(() => writer.close());
  const { stdout } = await child.output();
  await written;
  if (stdout.length !== input.length) {
    throw new Error(
      `host_fpu answered ${stdout.length} bytes to ${input.length}`,
    );
  }
  return cases.map((_, i) =>
    decode(stdout.slice(i * RECORD_SIZE, (i + 1) * RECORD_SIZE))
  );
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function setBig128(v: DataView, at: number, value: bigint): void {
  v.setBigUint64(at, BigInt.asUintN(64, value), true);
  v.setBigUint64(at + 8, value >> 64n, true);
}

function encode(c: HostCase, bytes: Uint8Array): void {
  const v = view(bytes);
  const st = c.st ?? [];
  const top = (8 - st.length) & 7;
  v.setUint32(FPU + FPU_CW, c.controlWord ?? 0x37f, true);
  v.setUint32(FPU + FPU_SW, top << 11, true);
  let tags = 0xffff;
  for (let i = 0; i < st.length; i++) {
    tags &= ~(3 << (((top + i) & 7) * 2));
    v.setBigUint64(FPU + FPU_REGISTERS + i * 10, st[i].sig, true);
    v.setUint16(FPU + FPU_REGISTERS + i * 10 + 8, st[i].se, true);
  }
  v.setUint32(FPU + FPU_TW, tags, true);
  if (c.memory) bytes.set(c.memory, MEMORY);
  setBig128(v, XMM0, c.xmm0 ?? 0n);
  setBig128(v, XMM1, c.xmm1 ?? 0n);
  v.setBigUint64(RAX, c.rax ?? 0n, true);
  v.setBigUint64(RFLAGS, 0x202n, true);
  v.setUint32(MXCSR, c.mxcsr ?? 0x1f80, true);
  bytes.fill(0x90, CODE, CODE + 16);
  bytes.set(c.code, CODE);
}

function decode(bytes: Uint8Array): HostResult {
  const v = view(bytes);
  const st = Array.from({ length: 8 }, (_, i) => ({
    sig: v.getBigUint64(FPU + FPU_REGISTERS + i * 10, true),
    se: v.getUint16(FPU + FPU_REGISTERS + i * 10 + 8, true),
  }));
  return {
    statusWord: v.getUint16(FPU + FPU_SW, true),
    tagWord: v.getUint16(FPU + FPU_TW, true),
    st,
    memory: bytes.slice(MEMORY, MEMORY + 128),
    xmm0: v.getBigUint64(XMM0, true) | (v.getBigUint64(XMM0 + 8, true) << 64n),
    mxcsr: v.getUint32(MXCSR, true),
    rax: v.getBigUint64(RAX, true),
    rflags: Number(v.getBigUint64(RFLAGS, true)),
    signal: v.getUint32(SIGNAL, true),
  };
}
