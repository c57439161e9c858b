/**
 * The traces of the vCPU: blocks that are translated, exceptions and interrupts that are taken.
 *
 * @module
 */
import type { Cpu, Engine } from "./cpu/cpu.ts";
import type { MachineTrace } from "./machine_options.ts";

/**
 * Connects the traces of a vCPU.
 *
 * @param engine Its engine.
 * @param cpu The vCPU.
 * @param trace Where they go.
 */
export function traceCpu(engine: Engine, cpu: Cpu, trace: MachineTrace): void {
  const { blocks, exceptions } = trace;
  if (exceptions !== undefined) {
    cpu.onEvent = (vector, kind, errorCode, rip) => {
      const code = errorCode === undefined
        ? ""
        : ` error 0x${errorCode.toString(16)}`;
      exceptions(
        `${kind} 0x${vector.toString(16)}${code} rip 0x${rip.toString(16)}`,
      );
    };
  }
  if (blocks !== undefined) {
    engine.blocks.onBlock = (address, mode, insns) =>
      blocks(
        `0x${address.toString(16)} ${mode}-bit, ${insns.length} instructions: ${
          insns.map((insn) => insn.form.definition.name).join(" ")
        }`,
      );
  }
}
