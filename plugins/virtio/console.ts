/**
 * virtio-console, a console and other serial ports: virtio 1.2, section 5.3. Port 0 is the
 * device's own console; what is plugged into it has the others.
 *
 * @module
 */
import {
  type AccessSize,
  definePlugin,
  type Device,
  type DeviceContext,
} from "../../core/plugin.ts";
import {
  bool,
  type Infer,
  list,
  record,
  schema,
  SchemaError,
  u16,
  u32,
  u8,
} from "../../snapshot/schema.ts";
import { gather, scatter, slice, totalLength } from "./ring.ts";
import {
  type SerialDevice,
  type SerialHost,
  SerialPort,
  VIRTIO_SERIAL,
} from "./serial_port.ts";
import { virtioState } from "./state.ts";
import { type VirtioModel, VirtioPci } from "./transport.ts";

/** Section 5. */
const DEVICE_ID = 3;
/** Section 4.1.2.1. */
const TRANSITIONAL_PCI_ID = 0x1003;
/** Communication controller, other. */
const CLASS_COMMUNICATION = 0x078000;

// Feature bits, section 5.3.3.
const VIRTIO_CONSOLE_F_SIZE = 1n << 0n;
const VIRTIO_CONSOLE_F_MULTIPORT = 1n << 1n;
const VIRTIO_CONSOLE_F_EMERG_WRITE = 1n << 2n;

// struct virtio_console_config, section 5.3.4.
const CONFIG_COLS = 0;
const CONFIG_ROWS = 2;
const CONFIG_MAX_NR_PORTS = 4;
const CONFIG_EMERG_WR = 8;
const CONFIG_LENGTH = 12;

// Virtqueues, section 5.3.2: port 0, control, and then the other ports.
const CONTROL_RECEIVEQ = 2;
const CONTROL_TRANSMITQ = 3;
const FIRST_PORT_QUEUE = 4;
const QUEUE_SIZE = 64;

// struct virtio_console_control, section 5.3.6.2: id, event, value.
const CONTROL_BYTES = 8;
const VIRTIO_CONSOLE_DEVICE_READY = 0;
const VIRTIO_CONSOLE_DEVICE_ADD = 1;
const VIRTIO_CONSOLE_PORT_READY = 3;
const VIRTIO_CONSOLE_CONSOLE_PORT = 4;
const VIRTIO_CONSOLE_RESIZE = 5;
const VIRTIO_CONSOLE_PORT_OPEN = 6;
const VIRTIO_CONSOLE_PORT_NAME = 7;

/** The messages that a port may owe to the driver, in the order in which they go; a bit each. */
const EVENTS = [
  VIRTIO_CONSOLE_DEVICE_ADD,
  VIRTIO_CONSOLE_CONSOLE_PORT,
  VIRTIO_CONSOLE_RESIZE,
  VIRTIO_CONSOLE_PORT_NAME,
  VIRTIO_CONSOLE_PORT_OPEN,
];
const OWED_BITS = EVENTS.reduce((bits, event) => bits | 1 << event, 0);

/** As many as the queues of a device suffice for, and what most have. */
const MAX_PORTS = 31;
const DEFAULT_PORTS = 4;

const consoleState = schema("virtio-console", 1, {
  transport: virtioState,
  /** The terminal's size as the guest knows it; 0 where there is none. */
  columns: u16(),
  rows: u16(),
  ports: list(
    record({
      /** The guest's driver is ready for it. */
      known: bool(),
      /** The guest has it open. */
      open: bool(),
      /** Bytes of the first request of its transmit queue that were sent. */
      sent: u32(),
      /** Messages that the driver is yet to get, a bit each. */
      owed: u8({ max: OWED_BITS }),
    }),
    { max: MAX_PORTS },
  ),
});
type ConsoleState = Infer<typeof consoleState>;

const options = {
  ports: {
    type: "number",
    help: "ports in all: the console, and virtio-port devices",
    default: DEFAULT_PORTS,
    min: 1,
    max: MAX_PORTS,
  },
  legacy: {
    type: "boolean",
    help:
      "also offer the interface of before virtio 1.0 (a transitional device)",
    default: true,
  },
} as const;

class VirtioConsole implements Device, VirtioModel, SerialHost {
  readonly deviceId = DEVICE_ID;
  readonly transitionalId?: number;
  readonly classCode = CLASS_COMMUNICATION;
  readonly features = VIRTIO_CONSOLE_F_SIZE | VIRTIO_CONSOLE_F_MULTIPORT |
    VIRTIO_CONSOLE_F_EMERG_WRITE;
  readonly queueSize = QUEUE_SIZE;
  readonly configLength = CONFIG_LENGTH;
  readonly queueCount: number;
  readonly transport: VirtioPci;

  readonly #ctx: DeviceContext<ConsoleState, "char">;
  /** By number; what is not plugged in is undefined. */
  readonly #ports: (SerialPort | undefined)[];
  /** Messages that each port owes to the driver. */
  readonly #owed: number[];
  #columns = 0;
  #rows = 0;
  #holding = true;

  constructor(
    ctx: DeviceContext<ConsoleState, "char">,
    ports: number,
    legacy: boolean,
  ) {
    this.#ctx = ctx;
    if (legacy) this.transitionalId = TRANSITIONAL_PCI_ID;
    this.queueCount = FIRST_PORT_QUEUE + 2 * (ports - 1);
    this.transport = new VirtioPci(ctx, this);
    this.#ports = new Array(ports).fill(undefined);
    this.#owed = new Array(ports).fill(0);
    this.#plug(0, { name: "", isConsole: true, backend: ctx.backend });
    ctx.backend.onResize?.(() => this.#resized());
    ctx.ports.provide<SerialDevice>(
      VIRTIO_SERIAL,
      ports - 1,
      (port, device) => this.#plug(port + 1, device),
    );
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  reset(): void {
    this.transport.reset();
    this.#owed.fill(0);
    for (const port of this.#ports) port?.reset();
  }

  start(): void {
    this.resume();
  }

  pause(): void {
    this.#holding = true;
  }

  resume(): void {
    this.#holding = false;
    this.#resized();
    this.#takeControl();
    this.#giveControl();
    for (const port of this.#ports) port?.resume();
  }

  readConfig(): Uint8Array {
    const view = new DataView(new ArrayBuffer(CONFIG_LENGTH));
    view.setUint16(CONFIG_COLS, this.#columns, true);
    view.setUint16(CONFIG_ROWS, this.#rows, true);
    view.setUint32(CONFIG_MAX_NR_PORTS, this.#ports.length, true);
    return new Uint8Array(view.buffer);
  }

  /** A character of a guest that has nothing else, section 5.3.4. */
  writeConfig(offset: number, _size: AccessSize, value: number): void {
    if (offset === CONFIG_EMERG_WR) {
      this.#ctx.backend.write(Uint8Array.of(value));
    }
  }

  negotiated(): void {}

  notify(queue: number): void {
    if (this.#holding) return;
    if (queue === CONTROL_RECEIVEQ) return this.#giveControl();
    if (queue === CONTROL_TRANSMITQ) return this.#takeControl();
    const port = this.#ports[portOf(queue)];
    if ((queue & 1) === 0) port?.ready();
    else port?.send();
  }

  queueReset(queue: number): void {
    if (queue === CONTROL_RECEIVEQ || queue === CONTROL_TRANSMITQ) return;
    const port = this.#ports[portOf(queue)];
    if (port !== undefined && (queue & 1) === 1) port.sent = 0;
  }

  get memory() {
    return this.#ctx.memory;
  }

  get holding(): boolean {
    return this.#holding;
  }

  get multiport(): boolean {
    return (this.transport.features & VIRTIO_CONSOLE_F_MULTIPORT) !== 0n;
  }

  later(call: () => void): void {
    this.#ctx.async(Promise.resolve(), call, () => {});
  }

  #plug(number: number, device: SerialDevice | null): void {
    const before = this.#ports[number];
    if (device === null) {
      this.#ports[number] = undefined;
      return;
    }
    const queue = number === 0 ? 0 : FIRST_PORT_QUEUE + 2 * (number - 1);
    const port = new SerialPort(this, device, queue);
    // One that replaces another goes on where that one was.
    if (before !== undefined) {
      port.known = before.known;
      port.open = before.open;
      port.sent = before.sent;
    }
    this.#ports[number] = port;
  }

  /** The terminal has another size, or is another. */
  #resized(): void {
    const { columns, rows } = this.#ctx.backend.size ?? { columns: 0, rows: 0 };
    if (this.#holding || columns === this.#columns && rows === this.#rows) {
      return;
    }
    this.#columns = columns;
    this.#rows = rows;
    if (!this.multiport) this.transport.configChanged();
    else if (this.#ports[0]!.known) this.#owe(0, VIRTIO_CONSOLE_RESIZE);
  }

  #owe(port: number, event: number): void {
    this.#owed[port] |= 1 << event;
    this.#giveControl();
  }

  /** Gives the driver the messages that are due, as far as it has room. */
  #giveControl(): void {
    if (this.#holding || !this.multiport) return;
    for (const event of EVENTS) {
      for (const [number, port] of this.#ports.entries()) {
        if (port === undefined || (this.#owed[number] & 1 << event) === 0) {
          continue;
        }
        if (!this.#give(number, event, this.#content(event, port))) return;
        this.#owed[number] &= ~(1 << event);
      }
    }
  }

  /** What follows a message. */
  #content(event: number, { device }: SerialPort): Uint8Array {
    switch (event) {
      case VIRTIO_CONSOLE_PORT_NAME:
        return new TextEncoder().encode(device.name);
      case VIRTIO_CONSOLE_RESIZE: {
        // struct virtio_console_resize: cols, rows.
        const view = new DataView(new ArrayBuffer(4));
        view.setUint16(0, this.#columns, true);
        view.setUint16(2, this.#rows, true);
        return new Uint8Array(view.buffer);
      }
      default:
        return new Uint8Array();
    }
  }

  /** Gives one message; false when there is no room for it yet. */
  #give(id: number, event: number, content: Uint8Array): boolean {
    const chain = this.transport.pop(CONTROL_RECEIVEQ);
    if (chain === null) return false;
    const message = new Uint8Array(CONTROL_BYTES + content.length);
    const view = new DataView(message.buffer);
    view.setUint32(0, id, true);
    view.setUint16(4, event, true);
    view.setUint16(6, 1, true);
    message.set(content, CONTROL_BYTES);
    const room = totalLength(chain.writable);
    if (room < message.length) {
      this.transport.needsReset(
        `control request ${chain.head} has room for ${room} bytes: expected ${message.length} for event ${event} of port ${id}`,
      );
      return false;
    }
    scatter(this.memory, chain.writable, message);
    this.transport.push(CONTROL_RECEIVEQ, chain.head, message.length);
    return true;
  }

  /** Takes the driver's messages: no more than the queue has, should its ring be overwritten by answers. */
  #takeControl(): void {
    for (let n = 0; n < QUEUE_SIZE; n++) {
      if (this.#holding || !this.multiport) return;
      const chain = this.transport.pop(CONTROL_TRANSMITQ);
      if (chain === null) return;
      const { head, readable } = chain;
      const length = totalLength(readable);
      if (length < CONTROL_BYTES) {
        this.transport.needsReset(
          `control request ${head} has ${length} bytes: expected ${CONTROL_BYTES}`,
        );
        return;
      }
      // More than the message is allowed, and not looked at.
      const message = new DataView(
        gather(this.memory, slice(readable, 0, CONTROL_BYTES)).buffer,
      );
      this.transport.push(CONTROL_TRANSMITQ, head, 0);
      this.#obey(
        message.getUint32(0, true),
        message.getUint16(4, true),
        message.getUint16(6, true) !== 0,
      );
    }
  }

  #obey(id: number, event: number, value: boolean): void {
    if (event === VIRTIO_CONSOLE_DEVICE_READY) {
      if (!value) return;
      this.#ports.forEach((port, number) => {
        if (port !== undefined) this.#owe(number, VIRTIO_CONSOLE_DEVICE_ADD);
      });
      return;
    }
    const port = this.#ports[id];
    if (port === undefined) {
      this.#ctx.log.warn(
        `the driver speaks of port ${id}, which is not there`,
      );
      return;
    }
    if (event === VIRTIO_CONSOLE_PORT_OPEN) {
      port.open = value;
      if (value) port.ready();
    } else if (event === VIRTIO_CONSOLE_PORT_READY && value) {
      port.known = true;
      const { name, isConsole } = port.device;
      if (isConsole) this.#owe(id, VIRTIO_CONSOLE_CONSOLE_PORT);
      if (id === 0 && this.#rows > 0) this.#owe(id, VIRTIO_CONSOLE_RESIZE);
      if (name !== "") this.#owe(id, VIRTIO_CONSOLE_PORT_NAME);
      this.#owe(id, VIRTIO_CONSOLE_PORT_OPEN);
    }
  }

  #save(): ConsoleState {
    return {
      transport: this.transport.save(),
      columns: this.#columns,
      rows: this.#rows,
      ports: this.#ports.map((port, number) => ({
        known: port?.known ?? false,
        open: port?.open ?? false,
        sent: port?.sent ?? 0,
        owed: this.#owed[number],
      })),
    };
  }

  #restore(state: ConsoleState): void {
    const { transport, columns, rows, ports } = state;
    if (ports.length !== this.#ports.length) {
      throw new SchemaError(
        "ports",
        `is a list of ${ports.length}: expected ${this.#ports.length}, as the option ports says`,
      );
    }
    ports.forEach(({ known, open, sent, owed }, number) => {
      if ((owed & ~OWED_BITS) !== 0) {
        throw new SchemaError(
          `ports[${number}].owed`,
          `is ${owed}: expected bits of ${OWED_BITS}`,
        );
      }
      if (
        this.#ports[number] === undefined &&
        (known || open || sent > 0 || owed > 0)
      ) {
        throw new SchemaError(
          `ports[${number}]`,
          "is in use: expected a port with nothing in it, as the devices say",
        );
      }
    });
    this.transport.prepare(transport)();
    this.#columns = columns;
    this.#rows = rows;
    ports.forEach(({ known, open, sent, owed }, number) => {
      const port = this.#ports[number];
      this.#owed[number] = owed;
      if (port === undefined) return;
      port.known = known;
      port.open = open;
      port.sent = sent;
    });
  }
}

/** The port that has a queue. */
function portOf(queue: number): number {
  return queue < CONTROL_RECEIVEQ
    ? 0
    : 1 + Math.floor((queue - FIRST_PORT_QUEUE) / 2);
}

/** The plugin. */
export default definePlugin({
  name: "virtio-console",
  version: "1.0.0",
  summary: "virtio console, with ports for virtio-port devices",
  options,
  state: consoleState,
  backend: "char",
  create: (ctx, { ports, legacy }) => new VirtioConsole(ctx, ports, legacy),
});
