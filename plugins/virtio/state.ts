/**
 * What a virtio PCI device keeps about its driver, and its form in a snapshot: virtio 1.2, sections 2.1,
 * 2.2 and 4.1.4.3. A snapshot is untrusted: {@linkcode validateState} refuses what no driver could have caused.
 *
 * @module
 */
import type { DmaMemory } from "../../core/plugin.ts";
import {
  bool,
  gpa,
  type Infer,
  list,
  optional,
  record,
  SchemaError,
  u16,
  u32,
  u64,
  u8,
} from "../../snapshot/schema.ts";
import {
  layOut,
  MAX_QUEUE_SIZE,
  Ring,
  type RingFeatures,
  type Segment,
} from "./ring.ts";

// Device status, section 2.1.
/** The guest has seen the device. */
export const ACKNOWLEDGE = 1;
/** The guest has a driver for it. */
export const DRIVER = 2;
/** The driver is ready. */
export const DRIVER_OK = 4;
/** Features are agreed on. */
export const FEATURES_OK = 8;
/** The device cannot go on. */
export const DEVICE_NEEDS_RESET = 64;
/** The driver has given up. */
export const FAILED = 128;
/** All of them. */
export const STATUS_BITS = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK |
  DEVICE_NEEDS_RESET | FAILED;

// ISR status, section 4.1.4.5.
/** A queue has something for the driver. */
export const ISR_QUEUE = 1;
/** The configuration or the status has changed. */
export const ISR_CONFIG = 2;

/** No MSI-X vector is assigned, section 4.1.4.3. */
export const VIRTIO_MSI_NO_VECTOR = 0xffff;

// Feature bits that belong to the transport and the rings, section 6.
/** Legacy: a request's parts may be split anywhere. */
export const VIRTIO_F_ANY_LAYOUT = 1n << 27n;
/** Indirect descriptor tables. */
export const VIRTIO_F_INDIRECT_DESC = 1n << 28n;
/** used_event and avail_event. */
export const VIRTIO_F_EVENT_IDX = 1n << 29n;
/** The interface of virtio 1.0 and later. */
export const VIRTIO_F_VERSION_1 = 1n << 32n;
/** Queues can be reset one by one. */
export const VIRTIO_F_RING_RESET = 1n << 40n;

/** The most virtqueues of any device. */
const MAX_QUEUES = 64;

/** One virtqueue as the driver configures it. */
export interface Queue {
  /** queue_size. */
  size: number;
  /** queue_msix_vector. */
  vector: number;
  /** queue_enable. */
  enabled: boolean;
  /** queue_desc: the descriptor area. */
  desc: bigint;
  /** queue_driver: the available ring. */
  driver: bigint;
  /** queue_device: the used ring. */
  device: bigint;
  /** Present while enabled, unless what the driver gave is no ring. */
  ring: Ring | null;
}

/** A queue as after a reset. */
export function newQueue(size: number): Queue {
  return {
    size,
    vector: VIRTIO_MSI_NO_VECTOR,
    enabled: false,
    desc: 0n,
    driver: 0n,
    device: 0n,
    ring: null,
  };
}

/** The state of every virtio PCI device: the field `transport` of its schema. */
export const virtioState = record({
  deviceFeatureSelect: u32(),
  driverFeatureSelect: u32(),
  driverFeatures: u64(),
  status: u8(),
  isr: u8({ max: ISR_QUEUE | ISR_CONFIG }),
  configGeneration: u8(),
  configVector: u16(),
  queueSelect: u16(),
  queues: list(
    record({
      size: u16({ min: 1, max: MAX_QUEUE_SIZE }),
      vector: u16(),
      enabled: bool(),
      desc: u64(),
      driver: u64(),
      device: u64(),
      /** Where the rings are mapped; null unless the queue is enabled and what the registers say is in RAM. */
      ring: optional(record({
        desc: gpa(),
        avail: gpa(),
        used: gpa(),
        lastAvail: u16(),
        usedIdx: u16(),
      })),
    }),
    { max: MAX_QUEUES },
  ),
});

/** The value of {@linkcode virtioState}. */
export type VirtioState = Infer<typeof virtioState>;

/** What a device is, as far as its state depends on it. */
export interface StateLimits {
  /** Features offered on the modern interface. */
  features: bigint;
  /** Number of virtqueues. */
  queueCount: number;
  /** Largest Queue Size. */
  queueSize: number;
}

/** Throws an error that names the field. */
function refuse(field: string, value: unknown, expected: string): never {
  throw new SchemaError(
    `transport.${field}`,
    `is ${value}: expected ${expected}`,
  );
}

/** Hexadecimal for messages. */
function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

/**
 * Checks a saved state against the device that is to take it.
 *
 * @throws {SchemaError} If no driver could have brought the device into it; the message names the field.
 */
export function validateState(state: VirtioState, limits: StateLimits): void {
  const { status, driverFeatures, queues } = state;
  if ((status & ~STATUS_BITS) !== 0) {
    refuse("status", hex(status), `bits of ${hex(STATUS_BITS)}`);
  }
  if ((status & FEATURES_OK) !== 0) {
    if (
      (driverFeatures & ~limits.features) !== 0n ||
      (driverFeatures & VIRTIO_F_VERSION_1) === 0n
    ) {
      refuse(
        "driverFeatures",
        hex(driverFeatures),
        `VIRTIO_F_VERSION_1 and others of ${
          hex(limits.features)
        }, which this device offers`,
      );
    }
  }
  const vector = (field: string, value: number) => {
    if (value > limits.queueCount && value !== VIRTIO_MSI_NO_VECTOR) {
      refuse(
        field,
        value,
        `a vector up to ${limits.queueCount}, or ${VIRTIO_MSI_NO_VECTOR} for none`,
      );
    }
  };
  vector("configVector", state.configVector);
  if (queues.length !== limits.queueCount) {
    refuse("queues", `a list of ${queues.length}`, `${limits.queueCount}`);
  }
  queues.forEach((queue, i) => {
    const { size } = queue;
    if (size === 0 || (size & (size - 1)) !== 0 || size > limits.queueSize) {
      refuse(
        `queues[${i}].size`,
        size,
        `a power of two up to ${limits.queueSize}`,
      );
    }
    vector(`queues[${i}].vector`, queue.vector);
    if (queue.ring !== null && !queue.enabled) {
      refuse(`queues[${i}].ring`, "there", "none while the queue is disabled");
    }
    if (
      queue.ring === null && queue.enabled &&
      (status & DEVICE_NEEDS_RESET) === 0
    ) {
      refuse(`queues[${i}].ring`, "missing", "one while the queue is enabled");
    }
  });
}

/** Queues in the form of {@linkcode virtioState}. */
export function saveQueues(queues: readonly Queue[]): VirtioState["queues"] {
  const pointer = ({ address, length }: Segment) => ({
    address: BigInt(address),
    length,
  });
  return queues.map(({ ring, ...queue }) => ({
    ...queue,
    ring: ring && {
      desc: pointer(ring.layout.desc),
      avail: pointer(ring.layout.avail),
      used: pointer(ring.layout.used),
      lastAvail: ring.lastAvail,
      usedIdx: ring.usedIdx,
    },
  }));
}

/**
 * Makes queues of saved ones that {@linkcode validateState} has passed.
 *
 * @throws {SchemaError} If a ring is not where the registers say, or not in RAM.
 */
export function restoreQueues(
  queues: VirtioState["queues"],
  memory: DmaMemory,
  features: RingFeatures,
): Queue[] {
  return queues.map(({ ring, ...queue }, i) => {
    if (ring === null) return { ...queue, ring };
    const where = `queues[${i}]`;
    let layout;
    try {
      layout = layOut(memory, queue.size, {
        desc: queue.desc,
        avail: queue.driver,
        used: queue.device,
      });
    } catch (error) {
      refuse(`${where}.ring`, (error as Error).message, "a ring in RAM");
    }
    for (const part of ["desc", "avail", "used"] as const) {
      const { address, length } = layout[part];
      const saved = ring[part];
      if (
        saved === null || Number(saved.address) !== address ||
        saved.length !== length
      ) {
        refuse(
          `${where}.ring.${part}`,
          saved === null
            ? "null"
            : `${saved.length} bytes at ${hex(saved.address)}`,
          `${length} bytes at ${hex(address)}, as the queue's registers say`,
        );
      }
    }
    return {
      ...queue,
      ring: new Ring(
        memory,
        queue.size,
        layout,
        features,
        ring.lastAvail,
        ring.usedIdx,
      ),
    };
  });
}
