/**
 * What a vCPU needs from the machine around it.
 *
 * @module
 */

/** The vCPU's connections. Sizes are bytes; values are unsigned numbers. */
export interface CpuIo {
  /** Port I/O. */
  portRead(port: number, size: 1 | 2 | 4): number;
  portWrite(port: number, size: 1 | 2 | 4, value: number): void;
  /** Whether an interrupt from the local APIC or the PIC can be delivered. */
  interruptPending(): boolean;
  /** Takes it: the vector, or -1 if it was spurious and gone. */
  acknowledgeInterrupt(): number;
  /** Model-specific registers that devices claim (APIC base, x2APIC, TSC deadline); undefined when nobody claims it. */
  msrRead(index: number): bigint | undefined;
  /** @returns false when nobody claims it. */
  msrWrite(index: number, value: bigint): boolean;
  /** Time-stamp counter without this vCPU's offset. */
  tsc(): bigint;
  /** CR8. */
  taskPriority: number;
  /** FERR#: an unmasked x87 exception with CR0.NE clear (IRQ 13). */
  ferr(level: boolean): void;
  /** The guest's triple fault. */
  tripleFault(): void;
}
