/**
 * A serial port of a virtio console: virtio 1.2, section 5.3.6. The guest finds it under its name
 * (Linux: `/dev/virtio-ports/NAME`), or as a further console.
 *
 * @module
 */
import {
  type CharBackend,
  definePlugin,
  type Device,
  type DeviceContext,
  MachineError,
} from "../../core/plugin.ts";
import { schema } from "../../snapshot/schema.ts";
import { type SerialDevice, VIRTIO_SERIAL } from "./serial_port.ts";

/** Bytes of a name that drivers have room for, with the message's header. */
const MAX_NAME = 128;

/** All that changes belongs to the controller: the guest's buffers are in its queues. */
const portState = schema("virtio-port", 1, {});

const options = {
  name: {
    type: "string",
    help: "name in the guest; the instance id when absent",
  },
  console: {
    type: "boolean",
    help: "whether the guest is to use it as a console (hvc1 and up)",
    default: false,
  },
  bus: {
    type: "string",
    help: "id of the virtio-console; the first with a free port when absent",
  },
} as const;

/**
 * A backend whose listeners are there from the start: a port that takes another's place is plugged
 * in, and so listened to, only when everything else of it is ready.
 */
function listenedTo(backend: CharBackend): CharBackend {
  let accept: (bytes: Uint8Array) => number = () => 0;
  let drained: () => void = () => {};
  backend.onInput((bytes) => accept(bytes));
  backend.onDrain(() => drained());
  return {
    write: (bytes) => backend.write(bytes),
    ready: () => backend.ready(),
    onInput: (listener) => void (accept = listener),
    onDrain: (listener) => void (drained = listener),
  };
}

class VirtioPort implements Device, SerialDevice {
  readonly backend: CharBackend;

  constructor(
    ctx: DeviceContext<Record<never, never>, "char">,
    readonly name: string,
    readonly isConsole: boolean,
    bus: string | undefined,
  ) {
    const { length } = new TextEncoder().encode(name);
    if (length === 0 || length > MAX_NAME) {
      throw new MachineError(
        `name "${name}" of ${ctx.id} has ${length} bytes: expected 1 to ${MAX_NAME}`,
      );
    }
    this.backend = listenedTo(ctx.backend);
    ctx.ports.plug<SerialDevice>(VIRTIO_SERIAL, this, { controller: bus });
    ctx.snapshot.register({ save: () => ({}), restore: () => {} });
  }

  reset(): void {}
}

/** The plugin. */
export default definePlugin({
  name: "virtio-port",
  version: "1.0.0",
  summary: "serial port on a virtio console",
  options,
  state: portState,
  backend: "char",
  controller: "virtio-console",
  create: (ctx, { name = ctx.id, console, bus }) =>
    new VirtioPort(ctx, name, console, bus),
});
