/**
 * A stack that is not, or not yet, the current one: transfers between privileges and tasks write their frame to it
 * before they commit to anything (Intel SDM vol. 3, 6.12.1 and 5.8.5).
 *
 * @module
 */
import type { HelperCpu } from "./helper.ts";
import {
  type Descriptor,
  segmentAttr,
  segmentBase,
  segmentLimit,
  TYPE,
} from "./segments.ts";
import { ATTR, type CpuState, GuestFault, RSP, SS, VECTOR } from "./state.ts";

const ALL_ONES = 0xffff_ffff_ffff_ffffn;

/** Mask of the current stack pointer: by CS.L and SS.B. */
export function stackMask(cpu: HelperCpu): bigint {
  if (cpu.code64) return ALL_ONES;
  return segmentAttr(cpu.state, SS) & ATTR.DB ? 0xffff_ffffn : 0xffffn;
}

/** Sets the part of RSP that the stack's width uses. */
export function setStackPointer(
  state: CpuState,
  mask: bigint,
  value: bigint,
): void {
  if (mask === ALL_ONES) state.q[RSP] = value;
  else if (mask === 0xffffn) {
    state.view.setUint16(RSP * 8, Number(value & 0xffffn), true);
  } else state.q[RSP] = value & 0xffff_ffffn;
}

/** A stack pointer with the segment it is in. {@linkcode commit} moves RSP; before that nothing changes but memory. */
export class Stack {
  private constructor(
    private readonly cpu: HelperCpu,
    private readonly base: bigint,
    private readonly limit: number,
    private readonly attr: number,
    /** Mask of the pointer. */
    readonly mask: bigint,
    /** The pointer, masked. */
    public pointer: bigint,
    private readonly cpl: number,
    private readonly error: number,
  ) {}

  /** The current stack. Its faults are #SS(`ext`). */
  static current(cpu: HelperCpu, ext = 0): Stack {
    const state = cpu.state;
    const mask = stackMask(cpu);
    return new Stack(
      cpu,
      segmentBase(state, SS),
      segmentLimit(state, SS),
      segmentAttr(state, SS),
      mask,
      state.q[RSP] & mask,
      cpu.cpl,
      ext,
    );
  }

  /** A stack in a descriptor's segment. Its faults are #SS(`error`). */
  static inSegment(
    cpu: HelperCpu,
    descriptor: Descriptor,
    pointer: bigint,
    cpl: number,
    error: number,
  ): Stack {
    const attr = descriptor.attr;
    const mask = attr & ATTR.DB ? 0xffff_ffffn : 0xffffn;
    return new Stack(
      cpu,
      BigInt(descriptor.base),
      descriptor.limit,
      attr,
      mask,
      pointer & mask,
      cpl,
      error,
    );
  }

  /** A flat stack of 64-bit code. */
  static flat(
    cpu: HelperCpu,
    pointer: bigint,
    cpl: number,
    error: number,
  ): Stack {
    return new Stack(cpu, 0n, 0, 0, ALL_ONES, pointer, cpl, error);
  }

  /** Pushes without committing. */
  push(size: 2 | 4 | 8, value: bigint): void {
    const pointer = (this.pointer - BigInt(size)) & this.mask;
    this.cpu.writeAs(
      this.cpl,
      this.linear(pointer, size),
      size,
      BigInt.asUintN(size * 8, value),
    );
    this.pointer = pointer;
  }

  /** Pops without committing. */
  pop(size: 2 | 4 | 8): bigint {
    const value = this.cpu.readAs(
      this.cpl,
      this.linear(this.pointer, size),
      size,
    );
    this.pointer = (this.pointer + BigInt(size)) & this.mask;
    return value;
  }

  /** Reads above the pointer without moving it. */
  peek(offset: number, size: 2 | 4 | 8): bigint {
    return this.cpu.readAs(
      this.cpl,
      this.linear((this.pointer + BigInt(offset)) & this.mask, size),
      size,
    );
  }

  /** Moves the pointer up by `bytes`. */
  skip(bytes: number): void {
    this.pointer = (this.pointer + BigInt(bytes)) & this.mask;
  }

  /** Sets RSP. */
  commit(): void {
    setStackPointer(this.cpu.state, this.mask, this.pointer);
  }

  /** The linear address of a slot, after the checks of the segment. */
  private linear(pointer: bigint, size: number): bigint {
    if (this.mask === ALL_ONES) {
      const sign = BigInt.asIntN(64, pointer) >> 47n;
      if (sign !== 0n && sign !== -1n) {
        throw new GuestFault(VECTOR.SS, this.error);
      }
      return pointer;
    }
    const first = Number(pointer);
    const last = first + size - 1;
    const expandDown =
      (this.attr & (TYPE.CODE | TYPE.EXPAND_DOWN)) === TYPE.EXPAND_DOWN;
    const top = this.attr & ATTR.DB ? 0xffff_ffff : 0xffff;
    const ok = expandDown
      ? first > this.limit && last <= top
      : last <= this.limit;
    if (!ok) throw new GuestFault(VECTOR.SS, this.error);
    const linear = this.base + pointer;
    return this.cpu.longMode
      ? BigInt.asUintN(64, linear)
      : BigInt.asUintN(32, linear);
  }
}
