/**
 * Translated blocks: from instruction bytes to records, kept by physical address and mode, dropped when their bytes change
 * (ENGINE.md sections 1 and 3).
 *
 * A block follows the straight line across branches that are not taken, up to an unconditional branch, the end of the page or
 * {@linkcode MAX_BLOCK} instructions.
 *
 * @module
 */
import { ENGINE_AREA, type GuestMemory, PAGE } from "../memory/memory.ts";
import { type Decoded, type Decoder, MAX_LENGTH } from "./decode.ts";
import { variantKey } from "./interpreter.ts";
import { operandSize } from "./record_operands.ts";
import { HANDLER, REC, RECORD_SIZE } from "./record.ts";
import { CpuState, FS, OFF, ST_STRIDE } from "./state.ts";

/** Longest block, in instructions. */
export const MAX_BLOCK = 64;
/** Records a block may take: two an instruction and the one at the end. */
const MAX_RECORDS = 2 * MAX_BLOCK + 1;
/** Where records live in wasm memory. */
const ARENA_BASE = 4 << 20;
const ARENA_END = ENGINE_AREA - 65536;
/** Records of blocks that run once: cut short, single-stepped, crossing a page. */
const TEMPORARY = ARENA_END;

/** Code width and its place in a block's key. */
export type CodeMode = 16 | 32 | 64;

/** A translated block. */
export interface Block {
  readonly record: number;
  readonly records: number;
  /** Physical address of the first byte, and mode: the key in the cache; -1 - key for a block of two pages. */
  readonly key: number;
  /** Byte range in the page. */
  readonly start: number;
  readonly end: number;
}

/** The blocks of one physical page. */
interface CodePage {
  blocks: Block[];
}

function modeIndex(mode: CodeMode): number {
  return mode === 64 ? 2 : mode === 32 ? 1 : 0;
}

/** Result of {@linkcode BlockCache.translate}. */
export interface Translation {
  record: number;
  /** The last instruction reached the end of the page: nothing could be decoded without the next page. */
  needsNextPage: boolean;
}

/** Translates and keeps blocks; shared by all vCPUs of a machine. */
export class BlockCache {
  private next = ARENA_BASE;
  private readonly byKey = new Map<number, Block>();
  private readonly pages = new Map<number, CodePage>();
  /** Instructions that cross into another page, by the key of their first byte. */
  private readonly crossings = new Map<
    number,
    { block: Block; next: number }
  >();
  private readonly crossingCode = new Uint8Array(MAX_LENGTH);
  private temporaryPage = -1;
  private temporaryRecords = 0;
  /** Decoded instructions of helper records, by record index. */
  private readonly insns: (Decoded | undefined)[] = [];
  private readonly u16: Uint16Array;
  private readonly i32: Int32Array;
  private readonly i64: BigInt64Array;
  /** Called when a page gets its first block: writable TLB entries for it must go. */
  onCodePage: () => void = () => {};
  /** Called when all blocks were dropped: jump caches must be emptied. */
  onFlush: () => void = () => {};
  /** Called for every block kept, with its physical address, for traces. */
  onBlock:
    | ((address: number, mode: CodeMode, insns: readonly Decoded[]) => void)
    | undefined;
  /** Blocks made so far. */
  translated = 0;

  constructor(
    private readonly memory: GuestMemory,
    private readonly decoder: Decoder,
    private readonly handlers: Uint16Array,
  ) {
    this.u16 = new Uint16Array(memory.wasm.buffer);
    this.i32 = new Int32Array(memory.wasm.buffer);
    this.i64 = new BigInt64Array(memory.wasm.buffer);
  }

  /** The instruction of a record that calls a helper. */
  insn(record: number): Decoded {
    return this.insns[(record - ARENA_BASE) >>> 5]!;
  }

  /** The record of the block at physical address `pa`, if it is translated. */
  find(pa: number, mode: CodeMode): number | undefined {
    return this.byKey.get(pa * 4 + modeIndex(mode))?.record;
  }

  /**
   * Translates the block at physical address `pa` in RAM or ROM and keeps it.
   *
   * @param limit Bytes of code left before the CS limit.
   */
  translate(pa: number, mode: CodeMode, limit: number): Translation {
    if (this.next + MAX_RECORDS * RECORD_SIZE > ARENA_END) this.flush();
    const host = this.memory.host(pa);
    const start = pa & 0xfff;
    const end = Math.min(
      host + Math.min(4096 - start, limit),
      host - start + 4096,
    );
    const made = this.write(
      this.next,
      this.memory.bytes,
      host,
      end,
      start,
      mode,
      MAX_BLOCK,
      HANDLER.chain,
    );
    if (made.instructions === 0) return { record: 0, needsNextPage: true };
    this.onBlock?.(pa, mode, made.decoded);
    const key = pa * 4 + modeIndex(mode);
    const block: Block = {
      record: this.next,
      records: made.records,
      key,
      start,
      end: start + made.bytes,
    };
    this.next += made.records * RECORD_SIZE;
    this.byKey.set(key, block);
    this.addToPage(pa, block);
    this.translated++;
    return { record: block.record, needsNextPage: false };
  }

  /**
   * The block of the one instruction that begins at `pa` and ends in the page of `next`; it depends on both pages.
   *
   * @param next Physical address of the byte after the end of the first page.
   * @returns its record, or 0 when the instruction does not end within 15 bytes.
   */
  crossing(pa: number, next: number, mode: CodeMode): number {
    const key = pa * 4 + modeIndex(mode);
    const known = this.crossings.get(key);
    if (known !== undefined && known.next === next) return known.block.record;
    if (this.next + MAX_RECORDS * RECORD_SIZE > ARENA_END) this.flush();
    const first = 4096 - (pa & 0xfff);
    const { bytes } = this.memory;
    const code = this.crossingCode;
    const host = this.memory.host(pa), nextHost = this.memory.host(next);
    code.set(bytes.subarray(host, host + first));
    code.set(bytes.subarray(nextHost, nextHost + MAX_LENGTH - first), first);
    const made = this.write(
      this.next,
      code,
      0,
      MAX_LENGTH,
      pa & 0xfff,
      mode,
      1,
      HANDLER.chain,
    );
    if (made.instructions === 0) return 0;
    this.onBlock?.(pa, mode, made.decoded);
    const record = this.next;
    this.next += made.records * RECORD_SIZE;
    // Two entries, one a page: dropping either drops the records and this key.
    const block = {
      record,
      records: made.records,
      key: -key - 1,
      start: pa & 0xfff,
      end: 4096,
    };
    this.addToPage(pa, block);
    this.addToPage(next, { ...block, start: 0, end: made.bytes - first });
    this.crossings.set(key, { block, next });
    return record;
  }

  private addToPage(pa: number, block: Block): void {
    const page = Math.floor(pa / 4096);
    const code = this.pages.get(page);
    if (code) {
      code.blocks.push(block);
      return;
    }
    this.pages.set(page, { blocks: [block] });
    this.memory.setPageFlag(this.memory.host(pa), PAGE.CODE);
    this.onCodePage();
  }

  /**
   * Translates up to `count` instructions into records that run once and then leave.
   *
   * @param page Physical page that `code` is in, for more than one instruction: a store that drops a block of it ends the run;
   *   -1 when the code is a copy of one instruction.
   * @returns the record, or 0 when the bytes end inside the first instruction.
   */
  temporary(
    code: Uint8Array,
    length: number,
    offset: number,
    mode: CodeMode,
    count: number,
    page = -1,
  ): number {
    const made = this.write(
      TEMPORARY,
      code,
      0,
      length,
      offset,
      mode,
      Math.min(count, MAX_BLOCK),
      HANDLER.leave,
    );
    this.temporaryPage = page;
    this.temporaryRecords = made.records;
    return made.instructions === 0 ? 0 : TEMPORARY;
  }

  /** Forgets everything. */
  flush(): void {
    for (const page of this.pages.keys()) {
      const host = this.memory.host(page * 4096);
      if (host >= 0) this.memory.clearPageFlag(host, PAGE.CODE);
    }
    for (let r = ARENA_BASE; r < this.next; r += RECORD_SIZE) {
      this.u16[(r + REC.handler) >> 1] = HANDLER.reenter;
    }
    this.pages.clear();
    this.byKey.clear();
    this.crossings.clear();
    this.insns.length = 0;
    this.next = ARENA_BASE;
    this.onFlush();
  }

  /**
   * Drops the blocks made from bytes in `[pa, pa + length)`.
   *
   * @returns whether any was dropped.
   */
  invalidate(pa: number, length: number): boolean {
    let dropped = false;
    const last = Math.floor((pa + length - 1) / 4096);
    for (let page = Math.floor(pa / 4096); page <= last; page++) {
      const code = this.pages.get(page);
      if (code === undefined) continue;
      const from = pa - page * 4096, to = pa + length - page * 4096;
      const kept = code.blocks.filter((b) => {
        if (b.end <= from || b.start >= to) return true;
        this.drop(b);
        return false;
      });
      if (kept.length === code.blocks.length) continue;
      dropped = true;
      if (page === this.temporaryPage) this.dropTemporary();
      code.blocks = kept;
      if (kept.length === 0) {
        this.pages.delete(page);
        this.memory.clearPageFlag(this.memory.host(page * 4096), PAGE.CODE);
      }
    }
    return dropped;
  }

  /** Makes what is left of the temporary records leave: their page is not watched any more, or they are stale. */
  private dropTemporary(): void {
    this.temporaryPage = -1;
    for (let i = 0; i < this.temporaryRecords; i++) {
      const record = TEMPORARY + i * RECORD_SIZE;
      this.u16[(record + REC.handler) >> 1] = HANDLER.reenter;
      this.i32[(record + REC.target) >> 2] = 0;
    }
  }

  private drop(block: Block): void {
    if (block.key < 0) this.crossings.delete(-block.key - 1);
    else this.byKey.delete(block.key);
    for (let i = 0; i < block.records; i++) {
      const record = block.record + i * RECORD_SIZE;
      this.u16[(record + REC.handler) >> 1] = HANDLER.reenter;
      this.i32[(record + REC.target) >> 2] = 0;
    }
  }

  /** Lets a branch record, or one that was dropped, continue at `target` directly. */
  link(record: number, target: number): void {
    this.i32[(record + REC.target) >> 2] = target;
  }

  /** Writes the records of a block. */
  private write(
    first: number,
    code: Uint8Array,
    at: number,
    end: number,
    offset: number,
    mode: CodeMode,
    count: number,
    last: number,
  ): {
    records: number;
    instructions: number;
    bytes: number;
    decoded: readonly Decoded[];
  } {
    let record = first;
    let pageOffset = offset;
    let instructions = 0;
    const begin = at;
    const decoded: Decoded[] = [];
    const starts: number[] = [];
    let ended = false;
    while (instructions < count && !ended) {
      const insn = this.decoder.decode(code, at, end, mode);
      if (insn === "more") break;
      starts.push(record);
      if ("vector" in insn) {
        this.clear(record, pageOffset, pageOffset);
        this.u16[(record + REC.handler) >> 1] = HANDLER.fault;
        this.i64[(record + REC.imm) >> 3] = BigInt(insn.vector);
        record += RECORD_SIZE;
        instructions++;
        ended = true;
        // The byte that does not decode belongs to the block: changing it must drop the block.
        at = Math.min(end, at + MAX_LENGTH);
        break;
      }
      decoded.push(insn);
      const next = pageOffset + insn.length;
      record = this.writeInsn(record, insn, pageOffset, next);
      ended = insn.form.definition.options.ends === true;
      pageOffset = next;
      at += insn.length;
      instructions++;
      if (pageOffset >= 4096) break;
    }
    if (instructions === 0) {
      return { records: 0, instructions, bytes: 0, decoded };
    }
    if (!ended || last === HANDLER.leave) {
      this.clear(record, pageOffset, pageOffset);
      this.u16[(record + REC.handler) >> 1] = last;
      starts.push(record);
      record += RECORD_SIZE;
    } else starts.push(record);
    const bytes = this.memory.bytes;
    for (let i = 0; i < instructions; i++) {
      for (let r = starts[i]; r < starts[i + 1]; r += RECORD_SIZE) {
        bytes[r + REC.remaining] = instructions - i;
      }
    }
    // The record at the end retires nothing: its refund is one less than none.
    for (let r = starts[instructions]; r < record; r += RECORD_SIZE) {
      bytes[r + REC.remaining] = 0;
    }
    return {
      records: (record - first) / RECORD_SIZE,
      instructions,
      bytes: at - begin,
      decoded,
    };
  }

  private clear(record: number, offset: number, next: number): void {
    const w = record >> 2;
    for (let i = 0; i < 8; i++) this.i32[w + i] = 0;
    this.u16[(record + REC.offset) >> 1] = offset;
    this.u16[(record + REC.next) >> 1] = next;
    this.u16[(record + REC.reg) >> 1] = OFF.zero;
    this.u16[(record + REC.rm) >> 1] = OFF.zero;
    this.u16[(record + REC.index) >> 1] = OFF.zero;
    this.u16[(record + REC.segment) >> 1] = OFF.zero;
  }

  /** Writes one instruction, with a record before it for an address that needs more than base + index + displacement. */
  private writeInsn(
    record: number,
    insn: Decoded,
    offset: number,
    next: number,
  ): number {
    const { form } = insn;
    const { u16, i64 } = this;
    const semantic = form.definition.semantic;
    this.clear(record, offset, next);
    if (typeof semantic !== "function") {
      u16[(record + REC.handler) >> 1] = this.handlers[form.id * 12];
      this.insns[(record - ARENA_BASE) >>> 5] = insn;
      return record + RECORD_SIZE;
    }
    const memoryOperand = form.operands.find((o) =>
      o.letter === "O" ||
      (insn.mod !== 3 && insn.mod >= 0 && "EMWQ".includes(o.letter))
    );
    let fromTemporary = false;
    if (memoryOperand !== undefined) {
      const lea = memoryOperand.text === "M";
      const displacement = memoryOperand.letter === "O"
        ? insn.imm
        : BigInt(insn.disp) + (insn.base === -2 ? BigInt(next) : 0n);
      const small = displacement >= -0x80000000n && displacement <= 0x7fffffffn;
      fromTemporary = insn.mode !== 64 || insn.addressSize !== 8 || !small;
      if (fromTemporary) {
        u16[(record + REC.handler) >> 1] = lea
          ? HANDLER.legacyOffset
          : HANDLER.legacyAddress;
        this.writeAddress(record, insn);
        this.i32[(record + REC.disp) >> 2] = insn.addressSize === 8
          ? -1
          : insn.addressSize === 4
          ? 0
          : 0xffff;
        i64[(record + REC.imm) >> 3] = displacement;
        this.i32[(record + REC.target) >> 2] = insn.mode === 64
          ? -1
          : insn.segment |
            (operandSize(memoryOperand, insn.size, false) << 8) |
            (writesMemory(insn) ? 1 << 16 : 0);
        if (insn.mode !== 64 || insn.segment >= FS) {
          u16[(record + REC.segment) >> 1] = OFF.segBase + insn.segment * 8;
        }
        record += RECORD_SIZE;
        this.clear(record, offset, next);
        u16[(record + REC.rm) >> 1] = OFF.tmp0;
      } else {
        this.writeAddress(record, insn);
        this.i32[(record + REC.disp) >> 2] = Number(displacement);
        if (!lea && insn.segment >= FS) {
          u16[(record + REC.segment) >> 1] = OFF.segBase + insn.segment * 8;
        }
      }
    }
    const memory = memoryOperand !== undefined && memoryOperand.letter !== "O";
    const size = form.sized && form.operands.some((o) => o.width === "y") &&
        !form.operands.some((o) => o.width === "v")
      ? insn.rexW ? 8 : 4
      : insn.size;
    u16[(record + REC.handler) >> 1] =
      this.handlers[variantKey(form, size, memory, insn.mode === 64)];
    for (const operand of form.operands) {
      const byte = operand.width === "b";
      switch (operand.letter) {
        case "G":
          u16[(record + REC.reg) >> 1] = gprOffset(insn.reg, byte, insn.rex);
          break;
        case "Z":
          u16[(record + REC.reg) >> 1] = gprOffset(insn.opReg, byte, insn.rex);
          break;
        case "V":
          u16[(record + REC.reg) >> 1] = CpuState.xmm(insn.reg);
          break;
        case "P":
          u16[(record + REC.reg) >> 1] = OFF.st + (insn.reg & 7) * ST_STRIDE;
          break;
        case "E":
        case "R":
          if (insn.mod === 3) {
            u16[(record + REC.rm) >> 1] = gprOffset(insn.rm, byte, insn.rex);
          }
          break;
        case "W":
        case "U":
          if (insn.mod === 3) {
            u16[(record + REC.rm) >> 1] = CpuState.xmm(insn.rm);
          }
          break;
        case "Q":
        case "N":
          if (insn.mod === 3) {
            u16[(record + REC.rm) >> 1] = OFF.st + (insn.rm & 7) * ST_STRIDE;
          }
          break;
        case "I": {
          // Sign-extended immediates take the operand size.
          const bits = 8 *
            (operand.width === "z" || operand.width === "s"
              ? insn.size
              : operandSize(operand, insn.size, insn.mode === 64));
          i64[(record + REC.imm) >> 3] = BigInt.asUintN(bits, insn.imm);
          break;
        }
        case "J": {
          i64[(record + REC.imm) >> 3] = BigInt(next) + insn.imm;
          const target = next + Number(insn.imm);
          this.i32[(record + REC.target) >> 2] = target >= 0 && target < 4096 &&
              (insn.mode !== 16 && insn.size !== 2)
            ? 0
            : -1;
          break;
        }
      }
    }
    if (form.definition.options.fallback) {
      this.insns[(record - ARENA_BASE) >>> 5] = insn;
    }
    return record + RECORD_SIZE;
  }

  private writeAddress(record: number, insn: Decoded): void {
    const { u16 } = this;
    if (insn.base === -2) u16[(record + REC.rm) >> 1] = OFF.ripPage;
    else if (insn.base >= 0) u16[(record + REC.rm) >> 1] = insn.base * 8;
    if (insn.index >= 0) {
      u16[(record + REC.index) >> 1] = insn.index * 8;
      this.memory.bytes[record + REC.scale] = insn.scale;
    }
  }
}

/** State offset of a general register; AH CH DH BH without REX are the second bytes of the first four. */
function gprOffset(index: number, byte: boolean, rex: boolean): number {
  return byte && !rex && index >= 4 && index < 8
    ? (index - 4) * 8 + 1
    : index * 8;
}

/** Whether the memory operand, the first operand, is written; a read-only use of it is only checked more strictly when segments are odd. */
function writesMemory(insn: Decoded): boolean {
  const first = insn.form.operands[0];
  return "EMWQO".includes(first.letter) &&
    !READ_ONLY_FIRST.has(insn.form.definition.name);
}

/** Instructions whose first operand is only read. */
const READ_ONLY_FIRST = new Set([
  "cmp",
  "test",
  "bt",
  "push",
  "call",
  "jmp",
  "mul",
  "imul",
  "div",
  "idiv",
  "nop",
  "prefetch",
  "ldmxcsr",
]);
