import { assertEquals } from "@std/assert";
import { HostCpu } from "../core/cpu/testing/host_cpu.ts";
import { Machine } from "../core/machine.ts";
import type { CharBackend } from "../core/plugin.ts";
import { plan } from "../cli/setup.ts";
import { LOOP, loopKernel, runLoopNatively } from "./loop.ts";
import { Session } from "./session.ts";

const TURNS = 1000;

/** What the loop computes. */
function expected(turns: number): string {
  const u64 = (value: bigint) => BigInt.asUintN(64, value);
  let rbx = 0n, rdi = 0n, memory = 0n;
  for (let rcx = BigInt(turns); rcx > 0n; rcx--) {
    const rax = u64(memory + rcx);
    rbx ^= rax;
    rbx = u64(rbx << 7n) | rbx >> 57n;
    memory = rbx;
    rdi = u64(rdi + (rax + rbx * 2n & 0xffn));
  }
  return rdi.toString(16).padStart(16, "0");
}

Deno.test({
  name: "runLoopNatively computes what the loop is to compute",
  ignore: HostCpu.unavailable() !== null,
  fn: () => assertEquals(runLoopNatively(TURNS), expected(TURNS)),
});

Deno.test("loopKernel computes the same in the machine, between its marks", async () => {
  const { memory, devices } = await plan({
    mem: "16M",
    cpus: 1,
    clock: "instructions",
  });
  const session = new Session("machine");
  const console: CharBackend = {
    write(bytes) {
      const text = new TextDecoder().decode(bytes);
      const marks = session.push(text, 0, () => undefined);
      if (marks.some(({ event }) => event === "end")) machine.stop();
      return true;
    },
    onInput() {},
    ready() {},
    onDrain() {},
  };
  const machine = await Machine.create({
    memory,
    clock: "instructions",
    hostNow: () => 0,
    devices: devices.map(({ id, plugin, options }) => ({
      id,
      plugin,
      options: options.own,
      backend: plugin.backend === "char" ? console : undefined,
    })),
  });
  await machine.boot({
    kernel: { bytes: loopKernel(TURNS), label: "the loop" },
  });
  const result = await machine.run();
  await machine.close();
  assertEquals(result.reason, "stopped");
  assertEquals(session.span(LOOP).output, expected(TURNS));
});
