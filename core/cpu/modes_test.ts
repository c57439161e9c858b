/** The whole engine through real, protected, virtual-8086, compatibility and long mode (testdata/modes.s). */
import { assertEquals } from "@std/assert";
import { GuestMemory } from "../memory/memory.ts";
import { Cpu, Engine } from "./cpu.ts";
import { CS, OFF } from "./state.ts";
import { NoDevices } from "./testing/long_mode.ts";

const ENTRY = 0x1000;
const DEBUG_PORT = 0xe9;

/** Runs the guest in slices of `slice` instructions and returns what it wrote. */
function run(slice: number): { text: string; cpu: Cpu } {
  const memory = new GuestMemory(4 << 20);
  const image = Deno.readFileSync(
    new URL("./testdata/modes.bin", import.meta.url),
  );
  image.forEach((byte, i) => memory.writeU8(ENTRY + i, byte));
  let text = "";
  const io = new class extends NoDevices {
    override portWrite(port?: number, _size?: number, value?: number): void {
      if (port === DEBUG_PORT) text += String.fromCharCode(value ?? 0);
    }
  }();
  const cpu = new Cpu(new Engine(memory), 0, io);
  cpu.state.set32(OFF.segSelector + CS * 4, 0);
  cpu.state.set(OFF.segBase + CS * 8, 0n);
  cpu.state.set(OFF.rip, BigInt(ENTRY));
  cpu.modeChanged();
  for (let i = 0; i < 2000 / slice; i++) {
    if (cpu.run(slice) !== "budget") break;
  }
  return { text, cpu };
}

Deno.test("a guest passes through every mode and back to user code", () => {
  const { text, cpu } = run(2000);
  assertEquals(text, "RiPIUGSVvCLBDFustcwxxxxxH", cpu.describe());
  assertEquals(cpu.halted, true);
});

Deno.test("it does the same one instruction at a time", () => {
  const whole = run(2000), single = run(1);
  assertEquals(single.text, whole.text);
  assertEquals(single.cpu.retired, whole.cpu.retired);
  assertEquals(single.cpu.describe(), whole.cpu.describe());
});
