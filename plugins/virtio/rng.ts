/**
 * virtio-rng, an entropy source: virtio 1.2, section 5.4.
 *
 * @module
 */
import {
  definePlugin,
  type Device,
  type DeviceContext,
  type Timer,
} from "../../core/plugin.ts";
import {
  type Infer,
  schema,
  SchemaError,
  timer,
  u32,
} from "../../snapshot/schema.ts";
import { type Chain, scatter, totalLength } from "./ring.ts";
import { virtioState } from "./state.ts";
import { type VirtioModel, VirtioPci } from "./transport.ts";

/** Section 5. */
const DEVICE_ID = 4;
/** Section 4.1.2.1. */
const TRANSITIONAL_PCI_ID = 0x1005;
/** A device that fits into no class, PCI Code and ID Assignment, section 1.1. */
const CLASS_OTHER = 0xff0000;

/** Section 5.4.2. */
const REQUESTQ = 0;
const QUEUE_SIZE = 64;
/** Bytes for one request at most; a driver asks again for the rest (section 5.4.6.2). */
const MAX_REQUEST = 1 << 16;
const NS_PER_SECOND = 1e9;
const MAX_RATE = 2 ** 32 - 1;

const rngState = schema("virtio-rng", 1, {
  transport: virtioState,
  /** Bytes that the guest has had since the period began. */
  given: u32(),
  /** Ends the period that the rate counts in; armed while there is one. */
  period: timer(),
});
type RngState = Infer<typeof rngState>;

const options = {
  rate: {
    type: "size",
    help: "bytes a second that the guest can have; any number when absent",
    min: 1,
    max: MAX_RATE,
  },
  legacy: {
    type: "boolean",
    help:
      "also offer the interface of before virtio 1.0 (a transitional device)",
    default: true,
  },
} as const;

class VirtioRng implements Device, VirtioModel {
  readonly deviceId = DEVICE_ID;
  readonly transitionalId?: number;
  readonly classCode = CLASS_OTHER;
  readonly features = 0n;
  readonly queueCount = 1;
  readonly queueSize = QUEUE_SIZE;
  readonly configLength = 0;

  readonly #ctx: DeviceContext<RngState>;
  readonly #transport: VirtioPci;
  readonly #rate: number | undefined;
  readonly #period: Timer;
  #given = 0;
  #holding = true;

  constructor(
    ctx: DeviceContext<RngState>,
    rate: number | undefined,
    legacy: boolean,
  ) {
    this.#ctx = ctx;
    this.#rate = rate;
    if (legacy) this.transitionalId = TRANSITIONAL_PCI_ID;
    this.#transport = new VirtioPci(ctx, this);
    this.#period = ctx.clock.timer(() => {
      this.#given = 0;
      this.#serve();
    });
    ctx.snapshot.register({
      save: () => ({
        transport: this.#transport.save(),
        given: this.#given,
        period: this.#period.save(),
      }),
      restore: (state) => this.#restore(state),
    });
  }

  reset(): void {
    // The period goes on: a driver that resets the device gets no more for it.
    this.#transport.reset();
  }

  start(): void {
    this.resume();
  }

  pause(): void {
    this.#holding = true;
  }

  resume(): void {
    this.#holding = false;
    this.#serve();
  }

  readConfig(): Uint8Array {
    return new Uint8Array();
  }

  writeConfig(): void {}

  negotiated(): void {}

  notify(): void {
    this.#serve();
  }

  /** Requests are answered within a call, so nothing of the queue is kept. */
  queueReset(): void {}

  /** Bytes that the guest can have now. */
  get #left(): number {
    return this.#rate === undefined ? Infinity : this.#rate - this.#given;
  }

  /** Answers requests: no more than the ring has, should the driver's ring lie where the answers go. */
  #serve(): void {
    for (let n = 0; n < QUEUE_SIZE; n++) {
      if (this.#holding || this.#left <= 0) return;
      const chain = this.#transport.pop(REQUESTQ);
      if (chain === null) return;
      this.#answer(chain);
    }
  }

  #answer({ head, readable, writable }: Chain): void {
    const room = totalLength(writable);
    if (room === 0 || readable.length > 0) {
      this.#transport.needsReset(
        `request ${head} has ${room} bytes to write and ${
          totalLength(readable)
        } to read: expected some to write and none to read`,
      );
      return;
    }
    const length = Math.min(room, MAX_REQUEST, this.#left);
    const bytes = new Uint8Array(length);
    this.#ctx.entropy(bytes);
    scatter(this.#ctx.memory, writable, bytes);
    if (this.#rate !== undefined) {
      this.#given += length;
      if (this.#period.deadline === undefined) {
        this.#period.armAt(this.#ctx.clock.now() + NS_PER_SECOND);
      }
    }
    this.#transport.push(REQUESTQ, head, length);
  }

  #restore(state: RngState): void {
    const { transport, given, period } = state;
    if (given > 0 && period === null) {
      throw new SchemaError(
        "given",
        `is ${given}: expected 0 where no period has begun`,
      );
    }
    if (period !== null && period.remaining > NS_PER_SECOND) {
      throw new SchemaError(
        "period.remaining",
        `is ${period.remaining}: expected at most ${NS_PER_SECOND}`,
      );
    }
    this.#transport.prepare(transport)();
    this.#given = given;
    this.#period.restore(period);
  }
}

/** The plugin. */
export default definePlugin({
  name: "virtio-rng",
  version: "1.0.0",
  summary: "virtio entropy source",
  options,
  state: rngState,
  create: (ctx, { rate, legacy }) => new VirtioRng(ctx, rate, legacy),
});
