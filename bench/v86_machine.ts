/**
 * A machine of v86 in a process: boots a guest, its first serial port on standard output.
 *
 *     v86_machine.ts GUEST MIB save FILE       saves it when it lives, and ends
 *     v86_machine.ts GUEST MIB restore FILE    goes on from there
 *
 * What saving took is JSON on standard error.
 *
 * @module
 */

import { V86 } from "v86";
import { TICK } from "./live_guest.ts";
import type { V86Guest } from "./v86.ts";

const MIB = 1 << 20;
const VGA_MEMORY = 2 * MIB;
/** For what a kernel does after it has started. */
const SETTLE_MS = 1000;

function image(path: string): { buffer: ArrayBuffer } {
  return { buffer: Deno.readFileSync(path).buffer };
}

/** Starts a machine; resolves with it when the guest shows that it lives. */
function start(
  guest: V86Guest,
  mib: number,
  what: Record<string, unknown>,
): Promise<V86> {
  const machine = new V86({
    wasm_path: new URL(import.meta.resolve("v86/build/v86.wasm")).pathname,
    memory_size: mib * MIB,
    vga_memory_size: VGA_MEMORY,
    bios: image(guest.bios),
    vga_bios: image(guest.vgaBios),
    disable_keyboard: true,
    disable_mouse: true,
    disable_speaker: true,
    autostart: true,
    ...what,
  });
  let text = "";
  return new Promise((resolve) => {
    machine.add_listener("serial0-output-byte", (byte: number) => {
      Deno.stdout.writeSync(Uint8Array.of(byte));
      text = (text + String.fromCharCode(byte)).slice(-TICK.length);
      if (text === TICK) resolve(machine);
    });
  });
}

async function save(guest: V86Guest, mib: number, file: string): Promise<void> {
  const machine = await start(guest, mib, {
    bzimage: image(guest.kernel),
    initrd: image(guest.initrd),
    cmdline: guest.cmdline,
  });
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
  const begin = performance.now();
  const seconds = () => (performance.now() - begin) / 1000;
  const state = await machine.save_state();
  const pause = seconds();
  await Deno.writeFile(file, new Uint8Array(state));
  console.error(JSON.stringify({ pause, save: seconds() }));
}

if (import.meta.main) {
  const [guest, mib, verb, file] = Deno.args;
  const what: V86Guest = JSON.parse(guest);
  if (verb === "save") {
    await save(what, Number(mib), file);
    Deno.exit(0);
  }
  await start(what, Number(mib), { initial_state: image(file) });
}
