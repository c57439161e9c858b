/**
 * Puts a vCPU into the state in which a loaded guest is entered.
 *
 * @module
 */
import type { BootState, SegmentState } from "../boot/types.ts";
import {
  type GuestMemory,
  HIGH_RAM_BASE,
  LOW_RAM_LIMIT,
} from "../memory/memory.ts";
import { MachineError } from "../plugin.ts";
import type { Cpu } from "./cpu.ts";
import { setFirmwareMtrrs } from "./msr.ts";
import { CR0, GPR_NAMES, OFF, SEGMENT_NAMES } from "./state.ts";

/**
 * Resets a vCPU and gives it the state that a loader asks for; maps its read-only memory.
 *
 * @param cpu The vCPU.
 * @param memory Guest memory.
 * @param boot The state.
 * @throws {MachineError} When read-only memory lies where the machine cannot have it.
 */
export function applyBootState(
  cpu: Cpu,
  memory: GuestMemory,
  boot: BootState,
): void {
  for (const { base, bytes } of boot.roms ?? []) {
    if (base + bytes.length !== HIGH_RAM_BASE) {
      throw new MachineError(
        `read-only memory at 0x${
          base.toString(16)
        }: expected it to end at 4 GiB`,
      );
    }
    memory.setRom(bytes);
  }
  cpu.reset();
  const s = cpu.state;
  if (boot.mode !== "real") {
    GPR_NAMES.forEach((name, i) => s.setReg(i, boot.regs?.[name] ?? 0n));
  }
  s.set(OFF.rip, boot.rip);
  s.rflags = Number(boot.rflags);
  s.set(OFF.cr0, boot.cr0 ?? BigInt(CR0.CD | CR0.NW | CR0.ET));
  s.set(OFF.cr3, boot.cr3 ?? 0n);
  s.set(OFF.cr4, boot.cr4 ?? 0n);
  s.set(OFF.efer, boot.efer ?? 0n);
  // A guest that starts in real mode is firmware, which does this itself.
  if (boot.mode !== "real") setFirmwareMtrrs(s, LOW_RAM_LIMIT);
  if (boot.gdt !== undefined) {
    s.set(OFF.gdtBase, boot.gdt.base);
    s.set32(OFF.gdtLimit, boot.gdt.limit);
  }
  if (boot.idt !== undefined) {
    s.set(OFF.idtBase, boot.idt.base);
    s.set32(OFF.idtLimit, boot.idt.limit);
  }
  SEGMENT_NAMES.forEach((name, i) => {
    const segment: SegmentState = boot.segments[name];
    s.set32(OFF.segSelector + 4 * i, segment.selector);
    s.set(OFF.segBase + 8 * i, segment.base);
    s.set32(OFF.segLimit + 4 * i, segment.limit);
    s.set32(OFF.segAttr + 4 * i, segment.attributes);
  });
  cpu.flushTlb(false);
  cpu.modeChanged();
}
