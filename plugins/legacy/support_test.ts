import { assertEquals, assertThrows } from "@std/assert";
import { bytewise, MachineError } from "../../core/plugin.ts";
import { check, checkBits, ticksAt, timeOfTick } from "./support.ts";

const PIT_HZ = 1_193_182;
const PM_HZ = 3_579_545;

Deno.test("timeOfTick is the first nanosecond of its tick", () => {
  for (const hertz of [PIT_HZ, PM_HZ, 32768, 1e8]) {
    for (
      const tick of [0, 1, 2, 65535, hertz - 1, hertz, 7 * hertz + 3, 1e10 + 7]
    ) {
      const time = timeOfTick(tick, hertz);
      assertEquals(ticksAt(time, hertz), tick, `${tick} at ${hertz} Hz`);
      if (time > 0) assertEquals(ticksAt(time - 1, hertz), tick - 1);
    }
  }
});

Deno.test("bytewise makes one cycle for each byte", () => {
  const writes: [number, number][] = [];
  const io = bytewise({
    read: (address) => address,
    write: (address, value) => void writes.push([address, value]),
  });
  assertEquals(io.read(0xf0, 4), 0xf3f2f1f0);
  io.write(8, 2, 0x1234);
  assertEquals(writes, [[8, 0x34], [9, 0x12]]);
});

Deno.test("check names the field and the value", () => {
  check(true, "count", 1, "anything");
  assertThrows(
    () => check(false, "count", 300, "at most 255"),
    MachineError,
    "state field count is 0x12c: expected at most 255",
  );
  assertThrows(() => checkBits("ier", 0x10, 0x0f), MachineError, "ier is 0x10");
});
