/**
 * The engine: what the vCPUs of a machine share, and the imports through which generated code comes back to TypeScript.
 *
 * @module
 */
import type { GuestMemory } from "../memory/memory.ts";
import { BlockCache } from "./blocks.ts";
import type { Cpu } from "./cpu.ts";
import { Decoder } from "./decode.ts";
import { buildInterpreter, type InterpreterCode } from "./interpreter.ts";
import "./isa/all.ts";
import { allSlowPaths } from "./isa/define.ts";

/** All that 32 bits address. */
const MAX_WASM_PAGES = 0x10000;
/** The interpreter, made once: it is the same for all machines, whatever the size of their memory. */
let interpreter: InterpreterCode | undefined;

/** The code shared by the vCPUs of a machine: decoder, interpreter, block cache. */
export class Engine {
  readonly decoder = new Decoder();
  readonly blocks: BlockCache;
  readonly cpus: Cpu[] = [];
  readonly run: (state: number, record: number) => number;
  /** The vCPU that is running generated code. */
  current!: Cpu;

  constructor(readonly memory: GuestMemory) {
    const code = interpreter ??= buildInterpreter(this.decoder.forms, {
      initial: 1,
      maximum: MAX_WASM_PAGES,
    });
    this.blocks = new BlockCache(memory, this.decoder, code.handlers);
    const slowPaths = [...allSlowPaths().values()];
    const instance = new WebAssembly.Instance(code.module, {
      m: {
        memory: memory.wasm,
        slowRead: (
          _s: number,
          _pc: number,
          low: number,
          high: number,
          size: number,
        ) => this.current.slowRead(low, high, size),
        slowWrite: (
          _s: number,
          _pc: number,
          low: number,
          high: number,
          size: number,
        ) => this.current.slowWrite(low, high, size),
        commit: () => this.current.commit(),
        helper: (_s: number, record: number) => this.current.callHelper(record),
        slowPath: (record: number, id: number) =>
          this.current.callSlowPath(record, slowPaths[id]),
        checkSegment: (
          _s: number,
          _pc: number,
          offset: number,
          check: number,
        ) => this.current.checkSegment(offset, check),
      },
    });
    this.run = instance.exports.run as (
      state: number,
      record: number,
    ) => number;
    this.blocks.onCodePage =
      memory.onWatch =
        () => this.cpus.forEach((cpu) => cpu.mmu.flushWrites());
    this.blocks.onFlush = () =>
      this.cpus.forEach((cpu) => cpu.clearJumpCache());
    memory.onCodeWrite = (address, length) => {
      this.blocks.invalidate(address, length);
    };
    memory.onMapChanged = () => this.cpus.forEach((cpu) => cpu.flushTlb(false));
  }
}
