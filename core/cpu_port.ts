/**
 * What connects a vCPU to the rest of the machine, from both sides: {@linkcode CpuIo} for the
 * vCPU, {@linkcode CpuPort} for interrupt controllers and the chipset.
 *
 * @module
 */
import type { Interrupts } from "./bus/irq.ts";
import type { Isa } from "./bus/isa.ts";
import type { Clock } from "./clock.ts";
import type { Cpu } from "./cpu/cpu.ts";
import type { CpuIo } from "./cpu/io.ts";
import { GuestFault, OFF, VECTOR } from "./cpu/state.ts";
import { type FaultSink, type Owner, PluginError } from "./fault.ts";
import {
  type CpuPort,
  MachineError,
  MsrFault,
  type MsrHandler,
} from "./plugin.ts";

/** FERR# reaches the PICs as this line. */
const FERR_IRQ = 13;

/** The machine around a vCPU. */
export interface CpuSurroundings {
  /** Ports. */
  readonly isa: Isa;
  /** Interrupt wires. */
  readonly interrupts: Interrupts;
  /** Virtual time. */
  readonly clock: Clock;
  /** Takes what devices throw. */
  readonly fault: FaultSink;
  /** INIT reached the bootstrap processor. */
  init(): void;
  /** An interrupt may have become deliverable: a machine that sleeps must look. */
  wake(): void;
}

interface MsrRange {
  first: number;
  end: number;
  handler: MsrHandler;
}

/** The connections of one vCPU. */
export class VcpuPort implements CpuPort {
  readonly index: number;
  /** What the vCPU is made with. */
  readonly io: CpuIo;
  readonly #around: CpuSurroundings;
  readonly #owner: Owner;
  readonly #msrs: MsrRange[] = [];
  #cpu: Cpu | undefined;

  /**
   * The connections of a vCPU that {@linkcode connect} is yet to name.
   *
   * @param index 0 for the bootstrap processor.
   * @param around The machine.
   */
  constructor(index: number, around: CpuSurroundings) {
    this.index = index;
    this.#around = around;
    this.#owner = { id: `cpu${index}`, plugin: "cpu" };
    this.io = this.#makeIo();
  }

  /**
   * Says which vCPU it is.
   *
   * @param cpu The vCPU, made with {@linkcode io}.
   */
  connect(cpu: Cpu): void {
    this.#cpu = cpu;
  }

  #makeIo(): CpuIo {
    const { isa, interrupts, clock } = this.#around;
    const { index } = this;
    const ferr = interrupts.isaSource(this.#owner, FERR_IRQ);
    // CR8 is the local APIC's task priority; without one the vCPU keeps it.
    const state = () => this.#cpu!.state;
    return {
      portRead: (port, size) => isa.read(port, size),
      portWrite: (port, size, value) => isa.write(port, size, value),
      interruptPending: () => interrupts.pending(index),
      acknowledgeInterrupt: () => interrupts.acknowledge(index),
      msrRead: (msr) => this.#msrRead(msr),
      msrWrite: (msr, value) => this.#msrWrite(msr, value),
      tsc: () => BigInt(clock.now()),
      get taskPriority() {
        return interrupts.localApic(index)?.taskPriority ??
          state().get32(OFF.cr8);
      },
      set taskPriority(value) {
        const apic = interrupts.localApic(index);
        if (apic === undefined) state().set32(OFF.cr8, value);
        else apic.taskPriority = value;
      },
      ferr: (level) => ferr.set(level),
      // The slice ends with "shutdown", which tells the same.
      tripleFault: () => {},
    };
  }

  claimMsrs(first: number, count: number, handler: MsrHandler): void {
    const end = first + count;
    if (this.#msrs.some((r) => first < r.end && r.first < end)) {
      throw new MachineError(
        `MSRs 0x${first.toString(16)} to 0x${
          (end - 1).toString(16)
        } of vCPU ${this.index} have an owner already`,
      );
    }
    this.#msrs.push({ first, end, handler });
  }

  #handler(msr: number): MsrHandler | undefined {
    for (const range of this.#msrs) {
      if (msr >= range.first && msr < range.end) return range.handler;
    }
    return undefined;
  }

  #msrRead(msr: number): bigint | undefined {
    const handler = this.#handler(msr);
    if (handler === undefined) return undefined;
    try {
      return BigInt.asUintN(64, handler.read(msr));
    } catch (error) {
      this.#refused(error, "MSR read", msr);
      return 0n;
    }
  }

  #msrWrite(msr: number, value: bigint): boolean {
    const handler = this.#handler(msr);
    if (handler === undefined) return false;
    try {
      handler.write(msr, value);
    } catch (error) {
      this.#refused(error, "MSR write", msr);
    }
    return true;
  }

  /** #GP for the guest, or the fault of a plugin. */
  #refused(error: unknown, operation: string, msr: number): void {
    if (error instanceof MsrFault) throw new GuestFault(VECTOR.GP, 0);
    this.#around.fault(new PluginError(this.#owner, operation, msr, error));
  }

  interruptChanged(): void {
    this.#cpu?.interruptChanged();
    this.#around.wake();
  }

  nmi(): void {
    this.#cpu?.nmi();
    this.#around.wake();
  }

  init(): void {
    this.#around.init();
  }

  startup(_page: number): void {
    // A bootstrap processor that runs ignores start-up messages (Intel SDM vol. 3, 9.4.3).
  }

  #tscOffset(): bigint {
    return this.#cpu?.state.get(OFF.tscOffset) ?? 0n;
  }

  readTsc(): bigint {
    return BigInt.asUintN(64, this.io.tsc() + this.#tscOffset());
  }

  tscToTime(value: bigint): number {
    return Number(BigInt.asIntN(64, value - this.#tscOffset()));
  }
}
