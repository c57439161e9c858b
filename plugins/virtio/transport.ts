/**
 * The virtio PCI transport: virtio 1.2, section 4.1 (PCI), 2.1 to 2.6 (status, features, queues, reset)
 * and, for a transitional device, the legacy interface of sections 4.1.4.10 and 2.7.2.
 *
 * A device gives a {@linkcode VirtioModel}; the transport keeps everything that is common to all of them.
 *
 * @module
 */
import type {
  AccessSize,
  DeviceContext,
  IoHandler,
  PciBar,
  PciFunction,
} from "../../core/plugin.ts";
import {
  CAP_BAR,
  CAP_EXTRA,
  CAP_LEN,
  CAP_LENGTH,
  CAP_OFFSET,
  findConfigAccess,
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  VIRTIO_PCI_CAP_PCI_CFG,
  virtioCapability,
} from "./capability.ts";
import {
  type Chain,
  layOut,
  Ring,
  RingError,
  type RingFeatures,
} from "./ring.ts";
import {
  DEVICE_NEEDS_RESET,
  DRIVER_OK,
  FEATURES_OK,
  ISR_CONFIG,
  ISR_QUEUE,
  newQueue,
  type Queue,
  restoreQueues,
  saveQueues,
  STATUS_BITS,
  validateState,
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
  VIRTIO_MSI_NO_VECTOR,
  type VirtioState,
} from "./state.ts";

// Identification, section 4.1.2.
const VENDOR_ID = 0x1af4;
const MODERN_DEVICE_BASE = 0x1040;
const MODERN_REVISION = 1;
const TRANSITIONAL_REVISION = 0;

// BARs: the legacy registers, the MSI-X structures, and everything modern.
const LEGACY_BAR = 0;
const MSIX_BAR = 1;
const MSIX_BAR_SIZE = 0x1000;
const MSIX_PBA_OFFSET = 0x800;
const MODERN_BAR = 4;
const MODERN_BAR_SIZE = 0x4000;
const REGION_SIZE = 0x1000;
const COMMON_OFFSET = 0x0000;
const ISR_OFFSET = 0x1000;
const DEVICE_OFFSET = 0x2000;
const NOTIFY_OFFSET = 0x3000;
const NOTIFY_MULTIPLIER = 4;

/** Length of struct virtio_pci_common_cfg, section 4.1.4.3. */
const COMMON_LENGTH = 0x3c;

const LOW_32 = 0xffff_ffffn;

// Legacy registers, section 4.1.4.10.
const LEGACY_DEVICE_FEATURES = 0x00;
const LEGACY_DRIVER_FEATURES = 0x04;
const LEGACY_QUEUE_ADDRESS = 0x08;
const LEGACY_QUEUE_SIZE = 0x0c;
const LEGACY_QUEUE_SELECT = 0x0e;
const LEGACY_QUEUE_NOTIFY = 0x10;
const LEGACY_DEVICE_STATUS = 0x12;
const LEGACY_ISR_STATUS = 0x13;
const LEGACY_CONFIG_VECTOR = 0x14;
const LEGACY_QUEUE_VECTOR = 0x16;
const LEGACY_CONFIG = 0x14;
const LEGACY_CONFIG_MSIX = 0x18;
/** Unit of the legacy queue address, and alignment of its used ring (section 2.7.2). */
const LEGACY_PAGE = 4096n;

/** What a kind of device puts behind the transport. */
export interface VirtioModel {
  /** Virtio device ID, section 5. */
  readonly deviceId: number;
  /** PCI device ID with the legacy interface (section 4.1.2); absent for a device without it. */
  readonly transitionalId?: number;
  /** PCI class code. */
  readonly classCode: number;
  /** Features of the device type; the transport adds its own. */
  readonly features: bigint;
  /** Number of virtqueues. */
  readonly queueCount: number;
  /** Largest Queue Size, a power of two. */
  readonly queueSize: number;
  /** Bytes of device configuration space. */
  readonly configLength: number;
  /** The device configuration space now. */
  readConfig(): Uint8Array;
  /** The driver wrote to it. */
  writeConfig(offset: number, size: AccessSize, value: number): void;
  /** Features were agreed on. */
  negotiated(): void;
  /** There may be requests in a queue that can be taken. */
  notify(queue: number): void;
  /** The driver took a queue back: what was taken from it must never be given back. */
  queueReset(queue: number): void;
  /** The driver reset the device: likewise for every queue. */
  reset(): void;
}

/** A register of the common configuration structure. */
interface Register {
  offset: number;
  width: 1 | 2 | 4;
  read(): number;
  write?(value: number): void;
}

/** A virtio device on the PCI bus. */
export class VirtioPci {
  readonly #ctx: Pick<DeviceContext, "pci" | "memory" | "log">;
  readonly #model: VirtioModel;
  readonly #transitional: boolean;
  readonly #offered: bigint;
  readonly #function: PciFunction;
  readonly #queues: Queue[];
  readonly #registers: Register[];
  readonly #modern: IoHandler;
  readonly #legacy: IoHandler;
  readonly #configAccess: number;
  #deviceFeatureSelect = 0;
  #driverFeatureSelect = 0;
  #driverFeatures = 0n;
  #status = 0;
  #isr = 0;
  #configGeneration = 0;
  #configVector = VIRTIO_MSI_NO_VECTOR;
  #queueSelect = 0;

  /** What the rings need to know; read at each use, for a legacy driver may set up a queue before it writes its features. */
  readonly #ringFeatures: RingFeatures;

  /**
   * Puts the device on the bus.
   *
   * @param ctx The device's view of the machine.
   * @param model The device behind the transport.
   */
  constructor(
    ctx: Pick<DeviceContext, "pci" | "memory" | "log">,
    model: VirtioModel,
  ) {
    this.#ctx = ctx;
    this.#model = model;
    this.#transitional = model.transitionalId !== undefined;
    this.#offered = model.features | VIRTIO_F_INDIRECT_DESC |
      VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1 | VIRTIO_F_RING_RESET;
    const negotiated = (bit: bigint) => (this.features & bit) !== 0n;
    this.#ringFeatures = {
      get indirect() {
        return negotiated(VIRTIO_F_INDIRECT_DESC);
      },
      get eventIdx() {
        return negotiated(VIRTIO_F_EVENT_IDX);
      },
    };
    this.#queues = Array.from(
      { length: model.queueCount },
      () => newQueue(model.queueSize),
    );
    this.#registers = this.#commonRegisters();
    this.#modern = {
      read: (address, size) => this.#readModern(address, size),
      write: (address, size, value) => this.#writeModern(address, size, value),
    };
    this.#legacy = {
      read: (address, size) => this.#readLegacy(address, size),
      write: (address, size, value) => this.#writeLegacy(address, size, value),
    };
    this.#function = this.#attach();
    // Looked for now: later its bytes are a guest's, or a snapshot's.
    this.#configAccess = findConfigAccess(this.#function);
  }

  /** What driver and device agreed on. */
  get features(): bigint {
    return this.#driverFeatures &
      (this.#offered | (this.#transitional ? VIRTIO_F_ANY_LAYOUT : 0n));
  }

  /** Whether the driver uses the modern interface. */
  get #version1(): boolean {
    return (this.#driverFeatures & VIRTIO_F_VERSION_1) !== 0n;
  }

  /** Whether requests may be taken (section 2.1; legacy drivers use queues before DRIVER_OK, section 3.1.2). */
  get #live(): boolean {
    return (this.#status & DEVICE_NEEDS_RESET) === 0 &&
      ((this.#status & DRIVER_OK) !== 0 || !this.#version1) &&
      this.#function.busMaster;
  }

  /** Whether the driver lets the device use its queues. */
  get running(): boolean {
    return this.#live;
  }

  /**
   * Takes the next request of a queue.
   *
   * @returns The request; `null` when there is none, or the driver's mistake has stopped the device.
   */
  pop(queue: number): Chain | null {
    const { ring } = this.#queues[queue];
    if (ring === null || !this.#live) return null;
    return this.#guard(queue, () => ring.pop());
  }

  /**
   * Reads a request again that was taken before, from its first descriptor.
   *
   * @returns The request; `null` when it is none any more, which stops the device.
   */
  chain(queue: number, head: number): Chain | null {
    const { ring } = this.#queues[queue];
    return ring === null ? null : this.#guard(queue, () => ring.chain(head));
  }

  /** Makes requests of a queue that were taken last available again. */
  untake(queue: number, count: number): void {
    this.#queues[queue].ring?.untake(count);
  }

  /** Gives a request back, with the number of bytes written from the start of its writable buffers. */
  push(queue: number, head: number, length: number): void {
    const { ring, vector } = this.#queues[queue];
    if (ring === null || (this.#status & DEVICE_NEEDS_RESET) !== 0) return;
    if (ring.push(head, length)) this.#interrupt(ISR_QUEUE, vector);
  }

  /** Tells the driver that the device configuration space has changed, section 2.5. */
  configChanged(): void {
    this.#configGeneration = (this.#configGeneration + 1) & 0xff;
    if ((this.#status & DRIVER_OK) !== 0) {
      this.#interrupt(ISR_CONFIG, this.#configVector);
    }
  }

  /** Stops the device until the driver resets it: it made a mistake that the device cannot go on from, section 2.1.1. */
  needsReset(reason: string): void {
    if ((this.#status & DEVICE_NEEDS_RESET) !== 0) return;
    this.#ctx.log.warn(`device needs reset: ${reason}`);
    this.#status |= DEVICE_NEEDS_RESET;
    if ((this.#status & DRIVER_OK) !== 0) {
      this.#interrupt(ISR_CONFIG, this.#configVector);
    }
  }

  /** Puts every register to its reset value, section 2.4. The model is not called. */
  reset(): void {
    this.#deviceFeatureSelect = 0;
    this.#driverFeatureSelect = 0;
    this.#driverFeatures = 0n;
    this.#status = 0;
    this.#configVector = VIRTIO_MSI_NO_VECTOR;
    this.#queueSelect = 0;
    for (let i = 0; i < this.#queues.length; i++) {
      this.#queues[i] = newQueue(this.#model.queueSize);
    }
    this.#clearIsr();
  }

  /** The value of {@linkcode virtioState}. */
  save(): VirtioState {
    return {
      deviceFeatureSelect: this.#deviceFeatureSelect,
      driverFeatureSelect: this.#driverFeatureSelect,
      driverFeatures: this.#driverFeatures,
      status: this.#status,
      isr: this.#isr,
      configGeneration: this.#configGeneration,
      configVector: this.#configVector,
      queueSelect: this.#queueSelect,
      queues: saveQueues(this.#queues),
    };
  }

  /**
   * Checks a saved state.
   *
   * @returns Takes it over.
   * @throws {SchemaError} If no driver could have brought the device into it.
   */
  prepare(state: VirtioState): () => void {
    validateState(state, {
      features: this.#offered,
      queueCount: this.#model.queueCount,
      queueSize: this.#model.queueSize,
    });
    const queues = restoreQueues(
      state.queues,
      this.#ctx.memory,
      this.#ringFeatures,
    );
    return () => {
      this.#queues.splice(0, this.#queues.length, ...queues);
      this.#deviceFeatureSelect = state.deviceFeatureSelect;
      this.#driverFeatureSelect = state.driverFeatureSelect;
      this.#driverFeatures = state.driverFeatures;
      this.#status = state.status;
      this.#isr = state.isr;
      this.#configGeneration = state.configGeneration;
      this.#configVector = state.configVector;
      this.#queueSelect = state.queueSelect;
    };
  }

  /** Makes the function: identification, BARs and capabilities. */
  #attach(): PciFunction {
    const { deviceId, classCode, queueCount, configLength } = this.#model;
    const { transitionalId } = this.#model;
    const bars: PciBar[] = [
      { index: MSIX_BAR, kind: "memory", size: MSIX_BAR_SIZE },
      {
        index: MODERN_BAR,
        kind: "memory",
        size: MODERN_BAR_SIZE,
        wide: true,
        prefetchable: true,
        handler: this.#modern,
      },
    ];
    if (this.#transitional) {
      let size = 1;
      while (size < LEGACY_CONFIG_MSIX + configLength) size *= 2;
      bars.unshift({
        index: LEGACY_BAR,
        kind: "io",
        size,
        handler: this.#legacy,
      });
    }
    const pciConfig = virtioCapability(VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0, 0);
    const writable = pciConfig.body.map((_, i) => {
      const at = i + CAP_LEN;
      return at === CAP_BAR || at >= CAP_OFFSET ? 0xff : 0;
    });
    return this.#ctx.pci.attach({
      vendor: VENDOR_ID,
      device: transitionalId ?? MODERN_DEVICE_BASE + deviceId,
      revision: this.#transitional ? TRANSITIONAL_REVISION : MODERN_REVISION,
      classCode,
      subsystemVendor: VENDOR_ID,
      subsystem: this.#transitional ? deviceId : MODERN_DEVICE_BASE + deviceId,
      interruptPin: 1,
      bars,
      msix: {
        vectors: queueCount + 1,
        bar: MSIX_BAR,
        tableOffset: 0,
        pbaOffset: MSIX_PBA_OFFSET,
      },
      capabilities: [
        virtioCapability(
          VIRTIO_PCI_CAP_COMMON_CFG,
          MODERN_BAR,
          COMMON_OFFSET,
          COMMON_LENGTH,
        ),
        virtioCapability(VIRTIO_PCI_CAP_ISR_CFG, MODERN_BAR, ISR_OFFSET, 1),
        // Section 4.1.4.6: for the types of device that have any.
        ...configLength === 0 ? [] : [virtioCapability(
          VIRTIO_PCI_CAP_DEVICE_CFG,
          MODERN_BAR,
          DEVICE_OFFSET,
          configLength,
        )],
        virtioCapability(
          VIRTIO_PCI_CAP_NOTIFY_CFG,
          MODERN_BAR,
          NOTIFY_OFFSET,
          queueCount * NOTIFY_MULTIPLIER,
          NOTIFY_MULTIPLIER,
        ),
        { ...pciConfig, writable },
      ],
      registers: {
        onRead: (offset, size) => this.#configAccessed(offset, size, false),
        onWrite: (offset, size) => this.#configAccessed(offset, size, true),
      },
    });
  }

  /** Does what the PCI configuration access capability says when its data are touched, section 4.1.4.9. */
  #configAccessed(offset: number, size: number, write: boolean): void {
    const config = this.#function;
    const capability = this.#configAccess;
    const data = capability + CAP_EXTRA;
    if (offset + size <= data || offset >= data + 4) return;
    const length = config.readConfig(capability + CAP_LENGTH, 4);
    const address = config.readConfig(capability + CAP_OFFSET, 4);
    const bar = config.readConfig(capability + CAP_BAR, 1);
    if (length !== 1 && length !== 2 && length !== 4) return;
    const target = bar === MODERN_BAR
      ? { handler: this.#modern, size: MODERN_BAR_SIZE }
      : bar === LEGACY_BAR && this.#transitional
      ? {
        handler: this.#legacy,
        size: LEGACY_CONFIG_MSIX + this.#model.configLength,
      }
      : undefined;
    if (
      target === undefined || address % length !== 0 ||
      address + length > target.size
    ) return;
    if (write) {
      target.handler.write(address, length, config.readConfig(data, length));
    } else {
      config.writeConfig(data, length, target.handler.read(address, length));
    }
  }

  /** Runs a ring operation; the driver's mistakes stop the device. */
  #guard<R>(queue: number, operation: () => R): R | null {
    try {
      return operation();
    } catch (error) {
      if (!(error instanceof RingError)) throw error;
      this.needsReset(`queue ${queue}: ${error.message}`);
      return null;
    }
  }

  /** Signals an MSI-X vector, or INTx with its cause in the ISR, section 4.1.5.3 and 4.1.5.4. */
  #interrupt(cause: number, vector: number): void {
    if (this.#function.msixEnabled) {
      if (vector !== VIRTIO_MSI_NO_VECTOR) this.#function.signal(vector);
      return;
    }
    this.#isr |= cause;
    this.#function.setIntx(true);
  }

  /** Reads the ISR status, which clears it and deasserts INTx, section 4.1.4.5. */
  #clearIsr(): number {
    const isr = this.#isr;
    this.#isr = 0;
    this.#function.setIntx(false);
    return isr;
  }

  /** The features shown in the 32 bits that `select` chooses. */
  #featureWord(features: bigint, select: number): number {
    return select > 1 ? 0 : Number((features >> BigInt(select * 32)) & LOW_32);
  }

  #writeDriverFeatures(value: number): void {
    if (this.#driverFeatureSelect > 1 || (this.#status & FEATURES_OK) !== 0) {
      return;
    }
    const shift = BigInt(this.#driverFeatureSelect * 32);
    this.#driverFeatures = this.#driverFeatures & ~(LOW_32 << shift) |
      BigInt(value >>> 0) << shift;
  }

  /** The legacy interface has no FEATURES_OK: what is written is agreed, as far as it is offered. */
  #writeLegacyFeatures(value: number): void {
    if ((this.#status & FEATURES_OK) !== 0) return;
    this.#driverFeatures = BigInt(value >>> 0) & this.#legacyOffered;
    this.#model.negotiated();
  }

  get #legacyOffered(): bigint {
    return this.#offered & LOW_32 | VIRTIO_F_ANY_LAYOUT;
  }

  /** Device status, section 2.1 and 3.1.1. */
  #writeStatus(value: number): void {
    if (value === 0) {
      this.reset();
      this.#model.reset();
      return;
    }
    const before = this.#status;
    let status = value & STATUS_BITS & ~DEVICE_NEEDS_RESET |
      before & DEVICE_NEEDS_RESET;
    if ((status & FEATURES_OK & ~before) !== 0) {
      const unknown = this.#driverFeatures & ~this.#offered;
      if (unknown !== 0n || !this.#version1) {
        this.#ctx.log.warn(
          unknown !== 0n
            ? `driver wants features 0x${
              unknown.toString(16)
            }, which are not offered`
            : "driver does not accept VIRTIO_F_VERSION_1 on the modern interface",
        );
        status &= ~FEATURES_OK;
      }
    }
    this.#status = status;
    if ((status & FEATURES_OK & ~before) !== 0) this.#model.negotiated();
    if ((status & DRIVER_OK & ~before) !== 0) {
      for (let i = 0; i < this.#queues.length; i++) this.#model.notify(i);
    }
  }

  /** An MSI-X vector as the driver sets it; one that does not exist reads back as none, section 4.1.5.1.2. */
  #vector(value: number): number {
    return value <= this.#model.queueCount ? value : VIRTIO_MSI_NO_VECTOR;
  }

  /** Sets up the rings of a queue; what is no ring stops the device. */
  #enable(index: number): void {
    const queue = this.#queues[index];
    if (queue.enabled) return;
    queue.enabled = true;
    const { memory } = this.#ctx;
    queue.ring = this.#guard(index, () => {
      const layout = layOut(memory, queue.size, {
        desc: queue.desc,
        avail: queue.driver,
        used: queue.device,
      });
      return new Ring(memory, queue.size, layout, this.#ringFeatures);
    });
  }

  /** Takes a queue back, section 2.6.1; done at once, for the model forgets what is under way. */
  #resetQueue(index: number): void {
    this.#queues[index] = newQueue(this.#model.queueSize);
    this.#model.queueReset(index);
  }

  #notify(queue: number): void {
    if (queue < this.#queues.length && this.#live) this.#model.notify(queue);
  }

  /** The common configuration structure, section 4.1.4.3. */
  #commonRegisters(): Register[] {
    const selected = (): Queue | undefined => this.#queues[this.#queueSelect];
    const address = (
      offset: number,
      name: "desc" | "driver" | "device",
    ): Register[] =>
      [0, 1].map((half) => ({
        offset: offset + half * 4,
        width: 4,
        read: () => this.#featureWord(selected()?.[name] ?? 0n, half),
        write: (value) => {
          const queue = selected();
          if (queue === undefined || queue.enabled) return;
          const shift = BigInt(half * 32);
          queue[name] = queue[name] & ~(LOW_32 << shift) |
            BigInt(value >>> 0) << shift;
        },
      }));
    return [
      {
        offset: 0x00, // device_feature_select
        width: 4,
        read: () => this.#deviceFeatureSelect,
        write: (value) => void (this.#deviceFeatureSelect = value),
      },
      {
        offset: 0x04, // device_feature
        width: 4,
        read: () => this.#featureWord(this.#offered, this.#deviceFeatureSelect),
      },
      {
        offset: 0x08, // driver_feature_select
        width: 4,
        read: () => this.#driverFeatureSelect,
        write: (value) => void (this.#driverFeatureSelect = value),
      },
      {
        offset: 0x0c, // driver_feature
        width: 4,
        read: () =>
          this.#featureWord(this.#driverFeatures, this.#driverFeatureSelect),
        write: (value) => this.#writeDriverFeatures(value),
      },
      {
        offset: 0x10, // config_msix_vector
        width: 2,
        read: () => this.#configVector,
        write: (value) => void (this.#configVector = this.#vector(value)),
      },
      { offset: 0x12, width: 2, read: () => this.#queues.length }, // num_queues
      {
        offset: 0x14, // device_status
        width: 1,
        read: () => this.#status,
        write: (value) => this.#writeStatus(value),
      },
      { offset: 0x15, width: 1, read: () => this.#configGeneration }, // config_generation
      {
        offset: 0x16, // queue_select
        width: 2,
        read: () => this.#queueSelect,
        write: (value) => void (this.#queueSelect = value),
      },
      {
        offset: 0x18, // queue_size
        width: 2,
        read: () => selected()?.size ?? 0,
        write: (value) => {
          const queue = selected();
          const valid = value !== 0 && (value & (value - 1)) === 0 &&
            value <= this.#model.queueSize;
          if (queue !== undefined && !queue.enabled && valid) {
            queue.size = value;
          }
        },
      },
      {
        offset: 0x1a, // queue_msix_vector
        width: 2,
        read: () => selected()?.vector ?? VIRTIO_MSI_NO_VECTOR,
        write: (value) => {
          const queue = selected();
          if (queue !== undefined) queue.vector = this.#vector(value);
        },
      },
      {
        offset: 0x1c, // queue_enable
        width: 2,
        read: () => selected()?.enabled ? 1 : 0,
        write: (value) => {
          if (value === 1 && selected() !== undefined) {
            this.#enable(this.#queueSelect);
          }
        },
      },
      {
        offset: 0x1e, // queue_notify_off
        width: 2,
        read: () => selected() === undefined ? 0 : this.#queueSelect,
      },
      ...address(0x20, "desc"),
      ...address(0x28, "driver"),
      ...address(0x30, "device"),
      {
        offset: 0x3a, // queue_reset
        width: 2,
        read: () => 0,
        write: (value) => {
          const negotiated = (this.features & VIRTIO_F_RING_RESET) !== 0n;
          if (value === 1 && negotiated && selected() !== undefined) {
            this.#resetQueue(this.#queueSelect);
          }
        },
      },
    ];
  }

  #readCommon(offset: number, size: number): number {
    let value = 0;
    for (const register of this.#registers) {
      const shift = (register.offset - offset) * 8;
      if (shift >= size * 8 || shift <= -register.width * 8) continue;
      const bits = register.read();
      value |= shift >= 0 ? bits << shift : bits >>> -shift;
    }
    return value >>> 0;
  }

  #readModern(address: number, size: AccessSize): number {
    const offset = address % REGION_SIZE;
    switch (address - offset) {
      case COMMON_OFFSET:
        return this.#readCommon(offset, size);
      case ISR_OFFSET:
        return offset === 0 ? this.#clearIsr() : 0;
      case DEVICE_OFFSET:
        return readBytes(this.#model.readConfig(), offset, size);
      default:
        return 0;
    }
  }

  #writeModern(address: number, size: AccessSize, written: number): void {
    const value = lowBytes(written, size);
    const offset = address % REGION_SIZE;
    switch (address - offset) {
      case COMMON_OFFSET: {
        // Section 4.1.3.1: the driver uses each field's natural width.
        const register = this.#registers.find((r) => r.offset === offset);
        if (register?.width === size) register.write?.(value);
        break;
      }
      case DEVICE_OFFSET:
        this.#writeDeviceConfig(offset, size, value);
        break;
      case NOTIFY_OFFSET:
        this.#notify(Math.floor(offset / NOTIFY_MULTIPLIER));
        break;
    }
  }

  #writeDeviceConfig(offset: number, size: AccessSize, value: number): void {
    if (offset + size <= this.#model.configLength) {
      this.#model.writeConfig(offset, size, value);
    }
  }

  /** Where the device configuration starts in the legacy BAR, section 4.1.4.10. */
  get #legacyConfig(): number {
    return this.#function.msixEnabled ? LEGACY_CONFIG_MSIX : LEGACY_CONFIG;
  }

  #readLegacy(address: number, size: AccessSize): number {
    const config = this.#legacyConfig;
    if (address >= config) {
      return readBytes(this.#model.readConfig(), address - config, size);
    }
    const queue = this.#queues[this.#queueSelect];
    switch (address) {
      case LEGACY_DEVICE_FEATURES:
        return Number(this.#legacyOffered);
      case LEGACY_DRIVER_FEATURES:
        return Number(this.#driverFeatures & LOW_32);
      case LEGACY_QUEUE_ADDRESS:
        return Number((queue?.desc ?? 0n) / LEGACY_PAGE & LOW_32);
      case LEGACY_QUEUE_SIZE:
        return queue?.size ?? 0;
      case LEGACY_QUEUE_SELECT:
        return this.#queueSelect;
      case LEGACY_DEVICE_STATUS:
        return this.#status;
      case LEGACY_ISR_STATUS:
        return this.#clearIsr();
      case LEGACY_CONFIG_VECTOR:
        return this.#configVector;
      case LEGACY_QUEUE_VECTOR:
        return queue?.vector ?? VIRTIO_MSI_NO_VECTOR;
      default:
        return 0;
    }
  }

  #writeLegacy(address: number, size: AccessSize, written: number): void {
    const value = lowBytes(written, size);
    const config = this.#legacyConfig;
    if (address >= config) {
      this.#writeDeviceConfig(address - config, size, value);
      return;
    }
    const queue = this.#queues[this.#queueSelect];
    switch (address) {
      case LEGACY_DRIVER_FEATURES:
        this.#writeLegacyFeatures(value);
        break;
      case LEGACY_QUEUE_ADDRESS:
        if (queue !== undefined) this.#setLegacyQueue(BigInt(value >>> 0));
        break;
      case LEGACY_QUEUE_SELECT:
        this.#queueSelect = value & 0xffff;
        break;
      case LEGACY_QUEUE_NOTIFY:
        this.#notify(value & 0xffff);
        break;
      case LEGACY_DEVICE_STATUS:
        this.#writeStatus(value & 0xff);
        break;
      case LEGACY_CONFIG_VECTOR:
        this.#configVector = this.#vector(value);
        break;
      case LEGACY_QUEUE_VECTOR:
        if (queue !== undefined) queue.vector = this.#vector(value);
        break;
    }
  }

  /** The legacy layout of a queue in one run of pages, section 2.7.2; page 0 takes the queue back. */
  #setLegacyQueue(page: bigint): void {
    const index = this.#queueSelect;
    const { vector } = this.#queues[index];
    this.#resetQueue(index);
    const queue = this.#queues[index];
    queue.vector = vector;
    if (page === 0n) return;
    const layout = legacyLayout(page * LEGACY_PAGE, queue.size);
    Object.assign(queue, layout);
    this.#enable(index);
  }
}

/** Section 2.7.2: descriptors, then the available ring, then the used ring on the next page. */
function legacyLayout(base: bigint, size: number) {
  const driver = base + BigInt(size * 16);
  const end = driver + BigInt(6 + size * 2);
  const device = (end + LEGACY_PAGE - 1n) / LEGACY_PAGE * LEGACY_PAGE;
  return { desc: base, driver, device };
}

/** A little-endian value of some bytes; those beyond the end are 0. */
function readBytes(bytes: Uint8Array, offset: number, size: number): number {
  let value = 0;
  for (let i = size - 1; i >= 0; i--) {
    value = value << 8 | (bytes[offset + i] ?? 0);
  }
  return value >>> 0;
}

/** The low `size` bytes of a value. */
function lowBytes(value: number, size: AccessSize): number {
  return size === 4 ? value >>> 0 : value & ((1 << (size * 8)) - 1);
}
