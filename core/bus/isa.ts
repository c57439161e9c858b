/**
 * The ISA bus: 65536 I/O ports and fixed regions of memory.
 *
 * An access that lies wholly inside one claim reaches its handler as it is; one that straddles
 * claims is split into bytes, as the bus of the PC does for narrower cards. Nobody's ports read as
 * all ones. PCI I/O BARs lie under the fixed claims.
 *
 * @module
 */
import {
  type AccessSize,
  type Claim,
  type IoHandler,
  type IrqLine,
  type IsaBus,
  MachineError,
} from "../plugin.ts";
import {
  type FaultSink,
  hex,
  type Owner,
  PluginError,
  type TraceSinks,
} from "../fault.ts";

const PORTS = 0x10000;
const PAGE = 4096;

/** Where regions of memory are claimed: the guest's memory map. */
export interface MemoryMap {
  /**
   * Gives a range of physical addresses to a handler.
   *
   * @param base First address.
   * @param length Bytes.
   * @param handler Answers; its address is the offset in the range.
   * @param rank Under the claims without one, and under those of a lower one.
   */
  claim(
    base: number,
    length: number,
    handler: IoHandler,
    rank?: number,
  ): Claim;
}

/** Makes interrupt sources for devices. */
export interface IrqSources {
  /** A new source on ISA line `irq`. */
  isaSource(owner: Owner, irq: number): IrqLine;
}

/** A range that a device has claimed. */
export interface BusClaim {
  /** The device. */
  readonly owner: Owner;
  /** I/O ports, or memory. */
  readonly kind: "ports" | "memory";
  /** First port or address. */
  readonly first: number;
  /** Ports or bytes. */
  readonly count: number;
}

interface PortClaim {
  owner: Owner;
  first: number;
  end: number;
  handler: IoHandler;
  /** The claim is one register of this width at `first`, whoever has the ports after it. */
  register?: AccessSize;
}

/** Ports that the guest placed. */
interface Overlay extends PortClaim {
  rank: number;
}

/**
 * The value that nobody drives.
 *
 * @param size Bytes.
 * @returns All ones.
 */
export function floating(size: AccessSize): number {
  return size === 4 ? 0xffffffff : size === 2 ? 0xffff : 0xff;
}

/**
 * Wraps a handler so that what it throws becomes a {@linkcode PluginError} handed to `fault`,
 * and the access reads as all ones.
 *
 * @param owner The device.
 * @param handler Its handler.
 * @param kind What errors and traces call the access: `mmio`.
 * @param base Function giving the address of offset 0, for messages.
 * @param fault Takes the error.
 * @param trace Takes a line for each access, where it is there.
 * @returns The wrapped handler.
 */
export function guarded(
  owner: Owner,
  handler: IoHandler,
  kind: string,
  base: () => number,
  fault: FaultSink,
  trace?: () => ((line: string) => void) | undefined,
): IoHandler {
  return {
    read(offset, size) {
      let value = floating(size);
      try {
        value = (handler.read(offset, size) & value) >>> 0;
      } catch (error) {
        fault(new PluginError(owner, `${kind} read`, base() + offset, error));
      }
      trace?.()?.(
        `${kind} r${size} ${hex(base() + offset)} = ${hex(value)} ${owner.id}`,
      );
      return value;
    },
    write(offset, size, value) {
      const narrowed = (value & floating(size)) >>> 0;
      trace?.()?.(
        `${kind} w${size} ${hex(base() + offset)} = ${
          hex(narrowed)
        } ${owner.id}`,
      );
      try {
        handler.write(offset, size, narrowed);
      } catch (error) {
        fault(new PluginError(owner, `${kind} write`, base() + offset, error));
      }
    },
  };
}

/** The ports and fixed memory of one machine. */
export class Isa {
  /** Index into {@linkcode #claims} by port; 0 for none. */
  readonly #ports = new Uint16Array(PORTS);
  readonly #claims: (PortClaim | undefined)[] = [undefined];
  #overlays: Overlay[] = [];
  readonly #regions: { owner: Owner; base: number; end: number }[] = [];
  readonly #memory: MemoryMap;
  readonly #fault: FaultSink;
  readonly #trace: TraceSinks;

  /**
   * A bus on which nothing is claimed.
   *
   * @param memory The memory map.
   * @param fault Takes the errors of handlers.
   * @param trace Where accesses are traced.
   */
  constructor(memory: MemoryMap, fault: FaultSink, trace: TraceSinks = {}) {
    this.#memory = memory;
    this.#fault = fault;
    this.#trace = trace;
  }

  /**
   * The bus as one device sees it.
   *
   * @param owner The device.
   * @param sources Makes its interrupt lines.
   * @returns What `ctx.isa` is.
   */
  view(owner: Owner, sources: IrqSources): IsaBus {
    return {
      claimPorts: (first, count, handler) =>
        this.claimPorts(owner, first, count, handler),
      claimMemory: (base, length, handler) =>
        this.claimMemory(owner, base, length, handler),
      irq: (irq) => sources.isaSource(owner, irq),
    };
  }

  /**
   * Claims ports.
   *
   * @param owner The device.
   * @param first First port.
   * @param count Number of ports.
   * @param handler Answers.
   * @param register The claim is one register of this width at `first`; `count` must be 1.
   * @returns The claim.
   * @throws {MachineError} When a port does not exist or has an owner.
   */
  claimPorts(
    owner: Owner,
    first: number,
    count: number,
    handler: IoHandler,
    register?: AccessSize,
  ): Claim {
    const end = first + count;
    if (
      !Number.isInteger(first) || !Number.isInteger(count) || first < 0 ||
      count < 1 || end > PORTS
    ) {
      throw new MachineError(
        `device "${owner.id}" claims ${count} ports from ${
          hex(first)
        }: expected at least one, between 0x0 and 0xffff`,
      );
    }
    for (let port = first; port < end; port++) {
      const other = this.#claims[this.#ports[port]];
      if (other !== undefined) {
        throw new MachineError(
          `device "${owner.id}" claims ports ${hex(first)} to ${
            hex(end - 1)
          }, but ${hex(port)} belongs to device "${other.owner.id}" (${
            hex(other.first)
          } to ${hex(other.end - 1)}): give one of them other ports`,
        );
      }
    }
    const claim: PortClaim = { owner, first, end, handler, register };
    let index = this.#claims.indexOf(undefined, 1);
    if (index < 0) index = this.#claims.length;
    this.#claims[index] = claim;
    this.#ports.fill(index, first, end);
    return {
      release: () => {
        if (this.#claims[index] !== claim) return;
        this.#claims[index] = undefined;
        this.#ports.fill(0, first, end);
      },
    };
  }

  /**
   * Claims ports that the guest placed (a PCI I/O BAR): they lie under the fixed claims and those
   * of a lower rank, and may overlap anything.
   *
   * @param owner The device.
   * @param first First port.
   * @param count Number of ports.
   * @param handler Answers; its address is the offset from `first`.
   * @param rank Its rank.
   * @returns The claim.
   */
  overlayPorts(
    owner: Owner,
    first: number,
    count: number,
    handler: IoHandler,
    rank: number,
  ): Claim {
    const overlay: Overlay = {
      rank,
      owner,
      first,
      end: first + count,
      handler: {
        read: (port, size) => handler.read(port - first, size),
        write: (port, size, value) => handler.write(port - first, size, value),
      },
    };
    this.#overlays.push(overlay);
    this.#overlays.sort((a, b) => a.rank - b.rank);
    return {
      release: () => {
        this.#overlays = this.#overlays.filter((o) => o !== overlay);
      },
    };
  }

  /**
   * Claims a fixed region of memory.
   *
   * @param owner The device.
   * @param base First address, a multiple of 4 KiB.
   * @param length Bytes, a multiple of 4 KiB.
   * @param handler Answers; its address is the offset from `base`.
   * @returns The claim.
   * @throws {MachineError} When it is not whole pages or overlaps another fixed region.
   */
  claimMemory(
    owner: Owner,
    base: number,
    length: number,
    handler: IoHandler,
  ): Claim {
    const end = base + length;
    if (
      base % PAGE !== 0 || length % PAGE !== 0 || length <= 0 || base < 0 ||
      !Number.isSafeInteger(end)
    ) {
      throw new MachineError(
        `device "${owner.id}" claims ${length} bytes of memory at ${
          hex(base)
        }: expected whole pages of 4 KiB`,
      );
    }
    const other = this.#regions.find((r) => base < r.end && r.base < end);
    if (other !== undefined) {
      throw new MachineError(
        `device "${owner.id}" claims memory ${hex(base)} to ${
          hex(end - 1)
        }, but ${hex(other.base)} to ${
          hex(other.end - 1)
        } belongs to device "${other.owner.id}": give one of them another base`,
      );
    }
    const region = { owner, base, end };
    this.#regions.push(region);
    const claim = this.#memory.claim(
      base,
      length,
      guarded(
        owner,
        handler,
        "mmio",
        () => base,
        this.#fault,
        () => this.#trace.mmio,
      ),
    );
    return {
      release: () => {
        const index = this.#regions.indexOf(region);
        if (index < 0) return;
        this.#regions.splice(index, 1);
        claim.release();
      },
    };
  }

  /** What devices have claimed for good, for tools and tests; PCI BARs are not in it. */
  get claims(): readonly BusClaim[] {
    return [
      ...this.#claims.filter((claim) => claim !== undefined).map((
        { owner, first, end },
      ): BusClaim => ({ owner, kind: "ports", first, count: end - first })),
      ...this.#regions.map(({ owner, base, end }): BusClaim => ({
        owner,
        kind: "memory",
        first: base,
        count: end - base,
      })),
    ];
  }

  /** Who answers at a port. */
  #claimAt(port: number): PortClaim | undefined {
    const claim = this.#claims[this.#ports[port]];
    if (claim !== undefined || this.#overlays.length === 0) return claim;
    return this.#overlays.find((o) => port >= o.first && port < o.end);
  }

  /** Who answers an access as a whole; undefined where it must be split or nobody does. */
  #wholeClaim(port: number, size: AccessSize): PortClaim | undefined {
    const claim = this.#claimAt(port);
    if (claim === undefined) return undefined;
    if (claim.register !== undefined) {
      return port === claim.first && size === claim.register
        ? claim
        : undefined;
    }
    return port + size <= claim.end ? claim : undefined;
  }

  /**
   * An `IN`.
   *
   * @param port The port.
   * @param size Bytes.
   * @returns The value, unsigned.
   */
  read(port: number, size: AccessSize): number {
    const claim = this.#wholeClaim(port, size);
    let value: number;
    if (claim !== undefined) {
      value = this.#call(claim, port, size);
    } else if (size === 1) {
      value = 0xff;
    } else {
      value = 0;
      for (let i = 0; i < size; i++) {
        const at = (port + i) % PORTS;
        const part = this.#wholeClaim(at, 1);
        const byte = part === undefined ? 0xff : this.#call(part, at, 1);
        value = (value | (byte << (8 * i))) >>> 0;
      }
    }
    this.#trace.ports?.(
      `port r${size} ${hex(port)} = ${hex(value)} ${claim?.owner.id ?? "-"}`,
    );
    return value;
  }

  #call(claim: PortClaim, port: number, size: AccessSize): number {
    try {
      return (claim.handler.read(port, size) & floating(size)) >>> 0;
    } catch (error) {
      this.#fault(new PluginError(claim.owner, "port read", port, error));
      return floating(size);
    }
  }

  /**
   * An `OUT`.
   *
   * @param port The port.
   * @param size Bytes.
   * @param value The value.
   */
  write(port: number, size: AccessSize, value: number): void {
    const claim = this.#wholeClaim(port, size);
    const narrowed = (value & floating(size)) >>> 0;
    this.#trace.ports?.(
      `port w${size} ${hex(port)} = ${hex(narrowed)} ${claim?.owner.id ?? "-"}`,
    );
    if (claim !== undefined) {
      this.#put(claim, port, size, narrowed);
      return;
    }
    if (size === 1) return;
    for (let i = 0; i < size; i++) {
      const at = (port + i) % PORTS;
      const part = this.#wholeClaim(at, 1);
      if (part !== undefined) {
        this.#put(part, at, 1, (narrowed >>> (8 * i)) & 0xff);
      }
    }
  }

  #put(claim: PortClaim, port: number, size: AccessSize, value: number): void {
    try {
      claim.handler.write(port, size, value);
    } catch (error) {
      this.#fault(new PluginError(claim.owner, "port write", port, error));
    }
  }
}
