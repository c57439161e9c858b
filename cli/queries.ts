// What QMP's clients ask of a machine's hardware, in the shapes of QEMU's replies (QAPI schema).

import type { Machine } from "../core/machine.ts";
import type { PciSlotFunction } from "../core/bus/pci_function.ts";
import { REG } from "../core/bus/pci_config.ts";
import type { Backends, BlockBackend } from "../core/plugin.ts";
import type { ControlCommand } from "../host/control.ts";
import type { PlannedDevice } from "./setup.ts";

/** Bytes from which class and subclass are read: behind revision and programming interface. */
const CLASS_OFFSET = REG.REVISION_ID + 2;

function pciDevice(fn: PciSlotFunction): Record<string, unknown> {
  const word = (offset: number) => fn.readConfig(offset, 2);
  const pin = fn.config.interruptPin ?? 0;
  return {
    bus: 0,
    slot: fn.slot,
    function: fn.fn,
    qdev_id: fn.owner.id,
    class_info: { class: word(CLASS_OFFSET) },
    id: {
      vendor: word(REG.VENDOR_ID),
      device: word(REG.DEVICE_ID),
      "subsystem-vendor": word(REG.SUBSYSTEM_VENDOR_ID),
      subsystem: word(REG.SUBSYSTEM_ID),
    },
    irq_pin: pin,
    ...pin === 0 ? {} : { irq: fn.readConfig(REG.INTERRUPT_LINE, 1) },
    regions: fn.bars.map((bar) => ({
      bar: bar.index,
      type: bar.kind,
      size: bar.size,
      // -1 where it is not decoded, as QEMU has it.
      address: fn.decoded(bar) ?? -1,
      ...bar.kind === "memory"
        ? {
          prefetch: bar.prefetchable === true,
          mem_type_64: bar.wide === true,
        }
        : {},
    })),
  };
}

/**
 * The queries about a machine's hardware.
 *
 * @param machine The machine.
 * @param devices Its devices.
 * @param backends What they are connected to.
 * @returns The commands by name.
 */
export function hardwareQueries(
  machine: Machine,
  devices: readonly PlannedDevice[],
  backends: readonly (Backends[keyof Backends] | undefined)[],
): Record<string, ControlCommand> {
  const query = (run: () => unknown): ControlCommand => ({ run });
  return {
    "query-name": query(() => ({})),
    "query-kvm": query(() => ({ enabled: false, present: false })),
    "query-target": query(() => ({ arch: "x86_64" })),
    "query-cpus-fast": query(() => [{
      "cpu-index": 0,
      "qom-path": "/machine/cpu[0]",
      "thread-id": Deno.pid,
      props: { "socket-id": 0, "core-id": 0, "thread-id": 0 },
      target: "x86_64",
    }]),
    "query-memory-size-summary": query(() => ({
      "base-memory": machine.configuration.memory,
      "plugged-memory": 0,
    })),
    "query-iothreads": query(() => []),
    "query-chardev": query(() =>
      devices.filter(({ plugin }) => plugin.backend === "char")
        .map(({ id, options }) => ({
          label: id,
          filename: String(options.backend.backend),
          "frontend-open": true,
        }))
    ),
    "query-block": query(() =>
      devices.flatMap(({ id, plugin, options }, i) =>
        plugin.backend === "block"
          ? [{
            device: id,
            qdev: id,
            type: "unknown",
            locked: false,
            removable: false,
            "io-status": "ok",
            inserted: inserted(backends[i] as BlockBackend, options.backend),
          }]
          : []
      )
    ),
    "query-pci": query(() => [{
      bus: 0,
      devices: machine.pci.functions.map(pciDevice),
    }]),
  };
}

/** A disk's image, none of its rates limited. */
function inserted(
  { size, readOnly }: BlockBackend,
  { image, format }: PlannedDevice["options"]["backend"],
): Record<string, unknown> {
  const filename = String(image ?? "memory");
  const drv = image === undefined ? "memory" : String(format ?? "raw");
  const unlimited = Object.fromEntries(
    ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"]
      .map((name) => [name, 0]),
  );
  return {
    file: filename,
    ro: readOnly,
    drv,
    encrypted: false,
    detect_zeroes: "off",
    write_threshold: 0,
    backing_file_depth: 0,
    ...unlimited,
    cache: { writeback: true, direct: false, "no-flush": false },
    image: { filename, format: drv, "virtual-size": size },
  };
}
