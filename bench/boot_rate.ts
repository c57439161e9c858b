/**
 * Boots the Debian guest to its shell in this process and prints, as JSON, how many instructions
 * that took and how long the vCPU ran. A program of its own, so that nothing else has warmed up
 * or filled the process it is measured in.
 *
 * @module
 */

import { plan } from "../cli/setup.ts";
import { Machine } from "../core/machine.ts";
import type { CharBackend } from "../core/plugin.ts";
import { prepareDebian } from "../host/guests/debian.ts";
import type { BootRate } from "./ours.ts";
import { IN_GUEST, script, SHELL } from "./script.ts";
import { parseMark } from "./session.ts";

const MS_PER_SECOND = 1000;
const LINE_FEED = 0x0a;

/** Hands on what the guest prints, line by line. */
function lineBackend(take: (line: string) => void): CharBackend {
  let line = "";
  return {
    write(bytes) {
      for (const byte of bytes) {
        if (byte === LINE_FEED) {
          take(line);
          line = "";
        } else {
          line += String.fromCharCode(byte);
        }
      }
      return true;
    },
    onInput() {},
    ready() {},
    onDrain() {},
  };
}

async function measure(): Promise<BootRate> {
  const { memory, devices } = await plan({
    mem: "512M",
    cpus: 1,
    clock: "realtime",
  });
  const guest = await prepareDebian({ exec: script(IN_GUEST, SHELL) });
  let reached: { instructions: number; at: number } | undefined;
  const console = lineBackend((line) => {
    if (parseMark(line)?.name !== "shell") return;
    reached = { instructions: machine.cpu.retiredNow, at: performance.now() };
    machine.stop();
  });
  const machine = await Machine.create({
    memory,
    clock: "realtime",
    rtcBase: Date.now(),
    hostNow: () => performance.now(),
    devices: devices.map(({ id, specifier, plugin, options }) => ({
      id,
      specifier,
      plugin,
      options: options.own,
      backend: plugin.backend === "char" ? console : undefined,
    })),
  });
  const { cpu } = machine;
  let cpuMs = 0;
  const run = cpu.run.bind(cpu);
  cpu.run = (count) => {
    const start = performance.now();
    const result = run(count);
    cpuMs += performance.now() - start;
    return result;
  };
  await machine.boot({
    kernel: { bytes: guest.kernel, label: guest.label },
    initrd: { bytes: guest.initrd, label: "initrd" },
    cmdline: guest.cmdline,
  });
  const start = performance.now();
  const result = await machine.run();
  await machine.close();
  if (reached === undefined) {
    throw new Error(`the guest did not reach its shell: ${result.reason}`);
  }
  return {
    instructions: reached.instructions,
    cpuSeconds: cpuMs / MS_PER_SECOND,
    seconds: (reached.at - start) / MS_PER_SECOND,
  };
}

if (import.meta.main) {
  const rate = await measure();
  console.log("@bench boot-rate begin");
  console.log(JSON.stringify(rate));
  console.log("@bench boot-rate end");
}
