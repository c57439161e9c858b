/**
 * Diapause: an x86-64 PC whose devices are plugins.
 *
 * Run, this module is the command; imported, it is the library: the machine, the plugin
 * contract, and the schemas of device state.
 *
 * @example A machine that runs a kernel, with its console in memory
 * ```ts ignore
 * import { BUILT_IN, Machine, PLATFORM } from "./mod.ts";
 * import { MemoryChardev } from "./host/chardev/memory.ts";
 *
 * const console = new MemoryChardev();
 * const machine = await Machine.create({
 *   memory: 256 << 20,
 *   clock: "instructions",
 *   hostNow: () => performance.now(),
 *   devices: await Promise.all(PLATFORM.map(async (name) => ({
 *     id: `${name}0`,
 *     plugin: await BUILT_IN[name](),
 *     backend: name === "uart" ? console : undefined,
 *   }))),
 * });
 * await machine.boot({
 *   kernel: { bytes: await Deno.readFile("vmlinuz"), label: "vmlinuz" },
 *   cmdline: "console=ttyS0",
 * });
 * const running = machine.run();
 * await console.waitFor("login: ");
 * machine.stop();
 * await running;
 * await machine.close();
 * ```
 *
 * @module
 */

export * from "./core/plugin.ts";
export * from "./snapshot/schema.ts";
export { fromJson } from "./snapshot/json.ts";
export {
  createTestContext,
  type DeviceUnderTest,
  type ObservedAccess,
  TestContext,
  type TestContextOptions,
  TestCpu,
} from "./core/testing/context.ts";
export {
  TestBlock,
  TestChar,
  TestDisplay,
  TestInput,
  TestNet,
} from "./core/testing/backends.ts";
export {
  type Companion,
  type GoldenComponent,
  type GoldenSnapshot,
  goldenSnapshot,
  RoundTripError,
  type Scenario,
  type ScenarioStep,
  testPlugin,
} from "./core/testing/test_plugin.ts";
export {
  type Baseline,
  type BootOptions,
  Machine,
  type MachineConfiguration,
  type MachineDevice,
  type MachineOptions,
  type MachineTrace,
  type RunResult,
} from "./core/machine.ts";
export type {
  ComponentState,
  MachineState,
  SessionPart,
} from "./core/machine_snapshot.ts";
export {
  type DeviceSpec,
  DeviceSpecError,
  parseDeviceSpecs,
} from "./core/device_spec.ts";
export { parseOptions, parseSize } from "./core/device_options.ts";
export { type Owner, PluginError, type TraceSinks } from "./core/fault.ts";
export type { AnyPlugin, InstanceOptions } from "./core/instance.ts";
export {
  BootError,
  type BootFile,
  type BootModule,
} from "./core/boot/types.ts";
export type { ClockMode } from "./core/clock.ts";
export {
  type RestoredMachine,
  restoreFile,
  type RestoreOptions,
  type SaveOptions,
  writeMachine,
} from "./core/machine_file.ts";
export {
  type Codec,
  type ImageBlock,
  type Manifest,
  type ManifestImage,
  type ManifestImageFile,
  type ManifestOptions,
  type ManifestParent,
  type OpenOptions,
  type Sink,
  SnapshotError,
  SnapshotReader,
  type Source,
  type StoredComponent,
  type SyncCodec,
  type WrittenSnapshot,
} from "./snapshot/container.ts";
export { BUILT_IN, PLATFORM, type PluginLoader } from "./plugins/mod.ts";

if (import.meta.main) {
  // Not awaited: a device that the command loads may import this module, and would wait for ever.
  import("./cli/main.ts").then(async ({ main }) =>
    Deno.exit(await main(Deno.args))
  );
}
