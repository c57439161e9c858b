// What devices are connected to: the options that choose it, and opening it.

import { parsePciAddress } from "../core/bus/pci.ts";
import { parseOptions } from "../core/device_options.ts";
import type {
  Backends,
  OptionSpec,
  OptionValue,
  Plugin,
} from "../core/plugin.ts";
import { NET_FORMS } from "../host/net/mod.ts";
import { IMAGE_FORMATS } from "../host/block/chain.ts";
import type { PinnedBlock, RemovableBlock } from "../host/block/mod.ts";
import type { ChardevHost } from "../host/chardev/mod.ts";
import type { InputHub } from "../host/input/hub.ts";

/** The options that a device has for its kind of backend, beside its own. */
export const BACKEND_OPTIONS: Readonly<
  Record<keyof Backends, Readonly<Record<string, OptionSpec>>>
> = {
  char: {
    backend: {
      type: "string",
      help:
        "the console: stdio, null, file=PATH, unix=PATH or pty (the first device without it has stdio, others null)",
    },
  },
  display: {},
  input: {},
  net: {
    net: {
      type: "string",
      help: `the network: ${NET_FORMS.join(", ")}`,
      default: "user",
    },
    hostfwd: {
      type: "string",
      help:
        "ports of the host that lead to the guest: tcp::8022-:22, with ; between several",
    },
    restrict: {
      type: "boolean",
      help: "whether the guest reaches nothing outside its network",
    },
    pcap: {
      type: "string",
      help: "file that all frames are captured in, for Wireshark",
    },
  },
  block: {
    image: {
      type: "string",
      help: "image file or block device; a scratch disk in memory without it",
    },
    format: {
      type: "string",
      help: "qcow2 for a name that ends so, else raw, without it",
      choices: IMAGE_FORMATS,
    },
    readonly: {
      type: "boolean",
      help: "whether writes are refused",
      default: false,
    },
    pin: {
      type: "boolean",
      help:
        "off: writes go to the image itself even if snapshots refer to it, which cannot be restored then; on: to an overlay from the start; without it, to an overlay once a snapshot refers to the image",
    },
    size: { type: "size", help: "bytes of the scratch disk, 64M without it" },
  },
};

/** The options that every device has. */
export const COMMON_OPTIONS: Readonly<Record<string, OptionSpec>> = {
  addr: { type: "string", help: "place on the PCI bus, SLOT or SLOT.FN" },
};

/** What the options of a drive whose medium may be changed mean where they mean something else. */
const REMOVABLE_OPTIONS: Readonly<Record<string, OptionSpec>> = {
  image: {
    type: "string",
    help: "image file that is in the drive; an empty drive without it",
  },
};

/** A device's options, sorted by who takes them. */
export interface SortedOptions {
  /** What the plugin declares, and `addr`, which the machine takes. */
  own: Record<string, OptionValue>;
  /** What chooses the backend. */
  backend: Record<string, OptionValue>;
}

/**
 * All options that a device takes.
 *
 * @param plugin The device's plugin.
 * @returns The plugin's own options, those of its backend, and the common ones.
 */
export function allOptions(plugin: Plugin): Record<string, OptionSpec> {
  return {
    ...plugin.options,
    ...plugin.backend && BACKEND_OPTIONS[plugin.backend],
    ...plugin.removable && REMOVABLE_OPTIONS,
    ...COMMON_OPTIONS,
    ...plugin.options,
  };
}

function pick(
  values: Record<string, OptionValue>,
  specs: Readonly<Record<string, OptionSpec>>,
): Record<string, OptionValue> {
  return Object.fromEntries(
    Object.entries(values).filter(([name]) => Object.hasOwn(specs, name)),
  );
}

/**
 * Types and sorts a device's options.
 *
 * @param plugin The device's plugin.
 * @param given The options as text.
 * @returns The values, sorted.
 * @throws {MachineError} If an option is unknown, malformed or not permitted.
 */
export function sortOptions(
  plugin: Plugin,
  given: ReadonlyMap<string, string>,
): SortedOptions {
  const values = parseOptions(plugin.name, allOptions(plugin), given);
  if (values.addr !== undefined && !Object.hasOwn(plugin.options, "addr")) {
    parsePciAddress(String(values.addr), plugin.name);
  }
  return {
    own: pick(values, { ...COMMON_OPTIONS, ...plugin.options }),
    backend: plugin.backend
      ? pick(values, BACKEND_OPTIONS[plugin.backend])
      : {},
  };
}

/** What backends may need of the process. */
export interface BackendHost extends ChardevHost {
  /** The machine's user. */
  input: InputHub;
}

/** An open backend, and how to close it. */
export interface OpenBackend {
  /** What the device sees. */
  backend: Backends[keyof Backends];
  /** A disk in files, which snapshots pin. */
  image?: PinnedBlock | RemovableBlock;
  /** Flushes and closes it. */
  close(): Promise<void>;
}

/**
 * Opens the backend of a device.
 *
 * @param kind Its kind.
 * @param id The device's id, for messages.
 * @param options The options that choose it; `backend` is set for a chardev.
 * @param host What it may need: a disk tells through `notify` where its writes go.
 * @param restoredFrom The snapshot that the machine is restored from.
 * @param removable Whether a disk is a drive whose medium may be changed.
 * @returns The backend.
 */
export async function openBackend(
  kind: keyof Backends,
  id: string,
  options: Record<string, OptionValue>,
  host: BackendHost,
  restoredFrom?: string,
  removable = false,
): Promise<OpenBackend> {
  if (kind === "char") {
    const { openChardev } = await import("../host/chardev/mod.ts");
    const chardev = await openChardev(String(options.backend), id, host);
    return { backend: chardev, close: () => chardev.close() };
  }
  if (kind === "net") {
    const { openNet } = await import("../host/net/mod.ts");
    const net = await openNet(options, id, host.notify);
    return { backend: net, close: () => net.close() };
  }
  if (kind === "input") {
    const { backend, close } = host.input.connect();
    return { backend, close: () => Promise.resolve(close()) };
  }
  if (kind === "display") {
    const { Display } = await import("../host/display/display.ts");
    return { backend: new Display(), close: () => Promise.resolve() };
  }
  const { openBlock, openRemovable, MemoryBlock } = await import(
    "../host/block/mod.ts"
  );
  const { notify } = host;
  const open = removable ? openRemovable : openBlock;
  const block = await open(options, { id, restoredFrom, notify });
  return {
    backend: block,
    image: block instanceof MemoryBlock ? undefined : block,
    close: () => block.close(),
  };
}
