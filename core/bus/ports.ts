/**
 * Ports of controllers, into which devices of other plugins are plugged: SATA, USB.
 *
 * Where a device is plugged in follows from the options and the order of the devices, so it is
 * configuration and no state.
 *
 * @module
 */
import type { Owner } from "../fault.ts";
import { MachineError, type PortBuses, type PortPlace } from "../plugin.ts";

interface Controller {
  readonly id: string;
  readonly kind: string;
  /** By port, the id of the device in it. */
  readonly ports: (string | undefined)[];
  onPlug(port: number, device: unknown): void;
}

/** The controllers of a machine. */
export class Ports {
  readonly #controllers = new Map<string, Controller>();

  /**
   * The ports as one device sees them.
   *
   * @param owner The device.
   */
  view(owner: Owner): PortBuses {
    return {
      provide: (kind, count, onPlug) => {
        const { id } = owner;
        const before = this.#controllers.get(id);
        this.#controllers.set(id, {
          id,
          kind,
          ports: before?.ports ?? new Array(count).fill(undefined),
          onPlug: onPlug as Controller["onPlug"],
        });
      },
      plug: (kind, device, wanted = {}) => {
        const place = this.#place(owner.id, kind, wanted);
        const controller = this.#controllers.get(place.controller)!;
        controller.ports[place.port] = owner.id;
        controller.onPlug(place.port, device);
        return place;
      },
    };
  }

  /**
   * Takes a device out, as when its creation has failed.
   *
   * @param owner The device.
   */
  unplug(owner: Owner): void {
    for (const { ports, onPlug } of this.#controllers.values()) {
      const port = ports.indexOf(owner.id);
      if (port < 0) continue;
      ports[port] = undefined;
      onPlug(port, null);
    }
  }

  #place(id: string, kind: string, wanted: Partial<PortPlace>): PortPlace {
    const refuse = (why: string): never => {
      throw new MachineError(`device "${id}": ${why}`);
    };
    const all = [...this.#controllers.values()].filter((c) => c.kind === kind);
    const chosen = wanted.controller === undefined
      ? all
      : all.filter((c) => c.id === wanted.controller);
    if (chosen.length === 0) {
      const names = all.map((c) => `"${c.id}"`).join(", ") || "none";
      return refuse(
        `there is no ${kind} controller${
          wanted.controller === undefined ? "" : ` "${wanted.controller}"`
        } before it: the machine has ${names}`,
      );
    }
    for (const { id: controller, ports } of chosen) {
      const port = ports.indexOf(id);
      if (port >= 0) return { controller, port };
    }
    for (const { id: controller, ports } of chosen) {
      const port = wanted.port ?? ports.indexOf(undefined);
      if (port < 0) continue;
      if (port >= ports.length) {
        return refuse(
          `port ${port} of "${controller}": it has ports 0 to ${
            ports.length - 1
          }`,
        );
      }
      if (ports[port] === undefined) return { controller, port };
      if (wanted.controller !== undefined || chosen.length === 1) {
        return refuse(
          `port ${port} of "${controller}" is taken by "${ports[port]}"`,
        );
      }
    }
    return refuse(
      `every ${kind} port of ${
        chosen.map((c) => `"${c.id}"`).join(", ")
      } is taken: add a controller`,
    );
  }
}
