/**
 * The built-in devices by name, each loaded when it is first used.
 *
 * @module
 */
import type { Plugin } from "../core/plugin.ts";

/** Loads one plugin. */
export type PluginLoader = () => Promise<Plugin>;

/** A module whose default export came from `definePlugin`, whatever its type parameters. */
type PluginModule = { default: unknown };

function loader(load: () => Promise<PluginModule>): PluginLoader {
  return async () => (await load()).default as Plugin;
}

/** Every built-in device. */
export const BUILT_IN: Readonly<Record<string, PluginLoader>> = {
  pic: loader(() => import("./legacy/pic.ts")),
  lapic: loader(() => import("./legacy/lapic.ts")),
  ioapic: loader(() => import("./legacy/ioapic.ts")),
  pit: loader(() => import("./legacy/pit.ts")),
  rtc: loader(() => import("./legacy/rtc.ts")),
  hpet: loader(() => import("./legacy/hpet.ts")),
  q35: loader(() => import("./legacy/q35.ts")),
  lpc: loader(() => import("./legacy/lpc.ts")),
  pmtimer: loader(() => import("./legacy/pmtimer.ts")),
  i8042: loader(() => import("./legacy/i8042.ts")),
  uart: loader(() => import("./legacy/uart.ts")),
  vga: loader(() => import("./legacy/vga.ts")),
  fbuf: loader(() => import("./legacy/fbuf.ts")),
  ahci: loader(() => import("./ahci/ahci.ts")),
  "ahci-hd": loader(() => import("./ahci/hd.ts")),
  "ahci-cd": loader(() => import("./ahci/cd.ts")),
  e1000: loader(() => import("./e1000/e1000.ts")),
  "virtio-net": loader(() => import("./virtio/net.ts")),
  "virtio-blk": loader(() => import("./virtio/blk.ts")),
  "virtio-balloon": loader(() => import("./virtio/balloon.ts")),
  "virtio-console": loader(() => import("./virtio/console.ts")),
  "virtio-port": loader(() => import("./virtio/port.ts")),
  "virtio-rng": loader(() => import("./virtio/rng.ts")),
};

/**
 * The devices that every machine has, in the order in which they are made. One that is named
 * with `--dev` takes the place of the one here.
 */
export const PLATFORM: readonly string[] = [
  "pic",
  "lapic",
  "ioapic",
  "pit",
  "rtc",
  "hpet",
  "q35",
  "lpc",
  "pmtimer",
  "uart",
];
