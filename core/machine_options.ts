/**
 * What a machine is made from and boots, and what comes of it.
 *
 * @module
 */
import type { BootFile, BootModule } from "./boot/index.ts";
import type { ClockMode } from "./clock.ts";
import type { PluginError, TraceSinks } from "./fault.ts";
import type { Backends, OptionValue } from "./plugin.ts";

/** The categories of {@linkcode MachineOptions.trace}. */
export interface MachineTrace extends TraceSinks {
  /** Blocks of guest code when they are translated. */
  blocks?: (line: string) => void;
  /** Exceptions and interrupts that the vCPU takes. */
  exceptions?: (line: string) => void;
}

/** One device to make. */
export interface MachineDevice {
  /** Instance id; each once. */
  id: string;
  /** How the user named the plugin; recorded in snapshots. */
  specifier?: string;
  /** The plugin. */
  plugin: unknown;
  /** Typed options; `addr` places the first PCI function. */
  options?: Readonly<Record<string, OptionValue>>;
  /** The backend that the plugin asks for. */
  backend?: Backends[keyof Backends];
}

/** What a machine is made from. */
export interface MachineOptions {
  /** Bytes of RAM. */
  memory: number;
  /** Virtual CPUs; 1 in this version. */
  cpus?: number;
  /** How virtual time passes; `realtime` when absent. */
  clock?: ClockMode;
  /** Virtual nanoseconds of one instruction with the clock `instructions`; 1 when absent. */
  nsPerInstruction?: number;
  /** The guest's wall-clock time at the start, in milliseconds since 1970 UTC. */
  rtcBase?: number;
  /** Host monotonic time in milliseconds. */
  hostNow: () => number;
  /** Devices in the order in which they are made: the platform's first. */
  devices: readonly MachineDevice[];
  /** Bytes of address space kept for a firmware image below 4 GiB. */
  romSize?: number;
  /** The run ends when the vCPU has retired this many instructions. */
  maxInstructions?: number;
  /** What is traced, a line each. */
  trace?: MachineTrace;
  /** Takes the log of devices. */
  log?: (id: string, level: "debug" | "warn", message: string) => void;
}

/** What a machine was made from. */
export interface MachineConfiguration {
  /** Bytes of RAM. */
  memory: number;
  /** Bytes of address space kept for a firmware image. */
  romSize: number;
  /** How virtual time passes. */
  clock: ClockMode;
  /** Virtual nanoseconds of one instruction with the clock `instructions`. */
  nsPerInstruction: number;
  /** The devices, in the order in which they were made. */
  devices: {
    id: string;
    plugin: string;
    version: string;
    specifier: string;
    options: Readonly<Record<string, OptionValue>>;
  }[];
}

/** What to boot: a kernel, or a firmware image. */
export interface BootOptions {
  /** The kernel. */
  kernel?: BootFile;
  /** A firmware image instead of a kernel. */
  firmware?: BootFile;
  /** The initial RAM disk. */
  initrd?: BootFile;
  /** Modules (PVH and multiboot). */
  modules?: readonly BootModule[];
  /** The kernel's command line. */
  cmdline?: string;
}

/** Why a run ended. */
export type RunResult =
  /** The guest turned the machine off. */
  | { reason: "poweroff" }
  /** The guest asked for a reset: {@linkcode Machine.reset}, boot and run again. */
  | { reason: "reset" }
  /** The vCPU shut down; `state` is its registers as text. */
  | { reason: "triple-fault"; state: string }
  /** A plugin threw; the machine is as it was at the end of that instruction. */
  | { reason: "plugin-error"; error: PluginError }
  /** RAM could not be loaded from the snapshot; the machine cannot go on. */
  | { reason: "memory-lost"; error: unknown }
  /** {@linkcode Machine.stop} was called. */
  | { reason: "stopped" }
  /** The vCPU has retired `maxInstructions`. */
  | { reason: "instructions" };

/** A snapshot that pages with the flag CLEAN are in. */
export interface Baseline {
  /** What the host calls it: the path of its file. */
  name: string;
  /** Its hash. */
  hash: string;
  /** How many snapshots it builds on. */
  depth: number;
}
