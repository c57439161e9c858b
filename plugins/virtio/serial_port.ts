/**
 * A port of a virtio console and what is plugged into it: virtio 1.2, section 5.3.6. Bytes go
 * straight from the guest's buffers to the backend and back, so a port holds none, whatever moment
 * it is saved at.
 *
 * @module
 */
import type { CharBackend, DmaMemory } from "../../core/plugin.ts";
import { gather, scatter, slice, totalLength } from "./ring.ts";
import type { VirtioPci } from "./transport.ts";

/** The kind of bus, as {@linkcode PortBuses} names it. */
export const VIRTIO_SERIAL = "virtio-serial";

/** Bytes handed to a backend at a time. */
const CHUNK = 1 << 16;
/** Bytes sent before the guest goes on, so that a driver that never stops does not stop the machine. */
const BATCH = 1 << 20;
/** Bytes of one request at most. */
const MAX_REQUEST = 2 ** 32 - 1;
/** The most buffers that any driver has in a queue: more come from one whose ring the device writes over. */
const MAX_BUFFERS = 1 << 15;

/** What is plugged into a port. */
export interface SerialDevice {
  /** Its name in the guest; empty for none. */
  readonly name: string;
  /** Whether the guest is to use it as a console. */
  readonly isConsole: boolean;
  /** What it is connected to. */
  readonly backend: CharBackend;
}

/** What a port needs of its controller. */
export interface SerialHost {
  /** Guest memory. */
  readonly memory: DmaMemory;
  /** The transport. */
  readonly transport: VirtioPci;
  /** Whether the machine is paused. */
  readonly holding: boolean;
  /** Whether the guest knows of ports, and opens them. */
  readonly multiport: boolean;
  /** Calls back when the guest has had a turn. */
  later(call: () => void): void;
}

/** A port. */
export class SerialPort {
  /** What is plugged in. */
  readonly device: SerialDevice;
  /** The guest's driver is ready for it. */
  known = false;
  /** The guest has it open. */
  open = false;
  /** Bytes of the first request of the transmit queue that are with the backend. */
  sent = 0;
  readonly #host: SerialHost;
  readonly #receiveQueue: number;
  readonly #transmitQueue: number;
  /** The backend said that it is full. Of the host, so not part of the state. */
  #isFull = false;
  /** Sending goes on at the next turn. */
  #isLater = false;

  /**
   * Connects a device to two queues.
   *
   * @param host The controller.
   * @param device What is plugged in.
   * @param receiveQueue The queue of buffers for the guest; the one for the backend is next.
   */
  constructor(host: SerialHost, device: SerialDevice, receiveQueue: number) {
    this.#host = host;
    this.device = device;
    this.#receiveQueue = receiveQueue;
    this.#transmitQueue = receiveQueue + 1;
    device.backend.onInput((input) => this.#receive(input));
    device.backend.onDrain(() => {
      this.#isFull = false;
      this.send();
    });
  }

  /** The driver is gone. */
  reset(): void {
    this.known = false;
    this.open = false;
    this.sent = 0;
  }

  /** The machine goes on, perhaps with another backend. */
  resume(): void {
    this.#isFull = false;
    this.send();
    this.device.backend.ready();
  }

  /** The guest has buffers for input, or has opened the port. */
  ready(): void {
    if (!this.#host.holding) this.device.backend.ready();
  }

  /** Sends what the guest has put into the queue, as far as the backend takes it. */
  send(): void {
    const { transport } = this.#host;
    const queue = this.#transmitQueue;
    let batch = 0;
    for (let n = 0; n < MAX_BUFFERS; n++) {
      if (this.#host.holding || this.#isFull || this.#isLater) return;
      const chain = transport.pop(queue);
      if (chain === null) return;
      const total = totalLength(chain.readable);
      if (total > MAX_REQUEST) {
        transport.needsReset(
          `queue ${queue}: request ${chain.head} has ${total} bytes: expected at most ${MAX_REQUEST}`,
        );
        return;
      }
      while (this.sent < total && !this.#isFull && batch < BATCH) {
        const parts = slice(chain.readable, this.sent, CHUNK);
        const bytes = gather(this.#host.memory, parts);
        this.sent += bytes.length;
        batch += bytes.length;
        this.#isFull = !this.device.backend.write(bytes);
      }
      if (this.sent < total) transport.untake(queue, 1);
      else {
        this.sent = 0;
        transport.push(queue, chain.head, 0);
      }
      if (batch >= BATCH && !this.#isFull) {
        this.#isLater = true;
        this.#host.later(() => {
          this.#isLater = false;
          this.send();
        });
      }
    }
  }

  /** Puts input into the guest's buffers; returns how many bytes found room. */
  #receive(input: Uint8Array): number {
    const { transport, memory } = this.#host;
    const queue = this.#receiveQueue;
    if (this.#host.holding || this.#host.multiport && !this.open) return 0;
    let taken = 0;
    for (let n = 0; n < MAX_BUFFERS && taken < input.length; n++) {
      const chain = transport.pop(queue);
      if (chain === null) break;
      const room = totalLength(chain.writable);
      if (room === 0) {
        transport.needsReset(
          `queue ${queue}: request ${chain.head} has no room: expected a buffer to write`,
        );
        break;
      }
      const part = input.subarray(taken, taken + room);
      scatter(memory, chain.writable, part);
      taken += part.length;
      transport.push(queue, chain.head, part.length);
    }
    return taken;
  }
}
