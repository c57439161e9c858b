/**
 * The 82540EM gigabit network card: Intel, PCI/PCI-X Family of Gigabit Ethernet Controllers
 * Software Developer's Manual (317453).
 *
 * @module
 */
import {
  definePlugin,
  type Device,
  type DeviceContext,
  MachineError,
  type PciFunction,
  type Timer,
  type WordRegisters,
  wordwise,
} from "../../core/plugin.ts";
import {
  bool,
  bytes,
  type Infer,
  list,
  record,
  schema,
  SchemaError,
  timer,
  type Type,
  u32,
  u64,
} from "../../snapshot/schema.ts";
import { defaultMac } from "../net/mac.ts";
import { parseMac } from "../net/frame.ts";
import { Nvm, nvmState } from "./nvm.ts";
import { Phy, phyState } from "./phy.ts";
import { Receiver } from "./receive.ts";
import {
  type ArrayName,
  ARRAYS,
  BYTE_COUNTERS,
  type ByteCounterName,
  COUNTER_BASE,
  COUNTER_END,
  type CounterName,
  COUNTERS,
  CTRL_PHY_RST,
  CTRL_RST,
  CTRL_SLU,
  EERD,
  ICR,
  ICR_LSC,
  ICR_MASK,
  ICR_MDAC,
  ICS,
  IMC,
  IMS,
  MDIC,
  RAH_AV,
  type RegisterName,
  REGISTERS,
  STATUS,
  STATUS_ASDV_1000,
  STATUS_FD,
  STATUS_LU,
  STATUS_SPEED_1000,
  WUS,
} from "./registers.ts";
import { transmitState, Transmitter } from "./transmit.ts";

// Identification, section 4.1.
const VENDOR_INTEL = 0x8086;
const DEVICE_82540EM = 0x100e;
const SUBSYSTEM = 0x001e;
const CLASS_ETHERNET = 0x020000;
const REVISION = 2;
/** Power management, PCI Power Management 1.1: PME from D3hot and D0; its state and PME_En are written. */
const CAPABILITY_PM = 0x01;
const PM_BODY = [0x22, 0x48, 0x00, 0x20, 0x00, 0x00];
const PM_WRITABLE = [0x00, 0x00, 0x03, 0x01, 0x00, 0x00];

const MEMORY_BAR_SIZE = 0x2_0000;
const IO_BAR_SIZE = 64;
const IOADDR = 0;
const IODATA = 4;
/** ITR counts 256 ns. */
const ITR_NS = 256;
/** MDIC: interrupt when ready. */
const MDIC_IE = 1 << 29;

/** A record with a `u32` for each name. */
function words<N extends string>(
  names: readonly N[],
): Type<Record<N, number>> {
  return record(
    Object.fromEntries(names.map((name) => [name, u32()])),
  ) as unknown as Type<Record<N, number>>;
}

function namesOf<T extends object>(table: T): (keyof T & string)[] {
  return Object.keys(table) as (keyof T & string)[];
}

const NAMES = namesOf(REGISTERS);
const ARRAY_NAMES = namesOf(ARRAYS);
const COUNTER_NAMES = namesOf(COUNTERS);
const BYTE_COUNTER_NAMES = namesOf(BYTE_COUNTERS);

const arrays = record(
  Object.fromEntries(
    ARRAY_NAMES.map((
      name,
    ) => [name, list(u32(), { length: ARRAYS[name].count })]),
  ),
) as unknown as Type<Record<ArrayName, number[]>>;
const byteCounters = record(
  Object.fromEntries(BYTE_COUNTER_NAMES.map((name) => [name, u64()])),
) as unknown as Type<Record<ByteCounterName, bigint>>;

const e1000State = schema("e1000", 1, {
  /** The address that the option gave, which the EEPROM was made with. */
  mac: bytes(6),
  registers: words(NAMES),
  arrays,
  counters: words(COUNTER_NAMES),
  byteCounters,
  icr: u32({ max: ICR_MASK }),
  ims: u32({ max: ICR_MASK }),
  eerd: u32(),
  mdic: u32(),
  /** The address of the I/O window. */
  ioAddress: u32(),
  /** A received frame waits for room, and the driver was told. */
  receiveWaits: bool(),
  /** Until it fires no interrupt is raised (ITR). */
  throttle: timer(),
  /** Until it fires a received frame is not told of (RDTR), and at the latest then (RADV). */
  receiveDelay: timer(),
  receiveLimit: timer(),
  /** The same for sending (TIDV, TADV). */
  transmitDelay: timer(),
  transmitLimit: timer(),
  nvm: nvmState,
  phy: phyState,
  transmit: transmitState,
});
type E1000State = Infer<typeof e1000State>;

const options = {
  mac: {
    type: "string",
    help: "address of the card; made of the instance id when absent",
  },
} as const;

/** What the two halves of the card see of it. */
export interface Card {
  readonly ctx: DeviceContext<unknown, "net">;
  readonly registers: Record<RegisterName, number>;
  readonly arrays: Record<ArrayName, Uint32Array>;
  readonly busMaster: boolean;
  /** Whether the machine is paused. */
  readonly holding: boolean;
  /** Sets interrupt causes. */
  interrupt(causes: number): void;
  /** Sets a cause after the delay that the driver has set for receiving or sending. */
  interruptLater(kind: "receive" | "transmit"): void;
  /** Counts. */
  count(name: CounterName, by?: number): void;
  /** Counts bytes. */
  countBytes(name: ByteCounterName, by: number): void;
}

/** What puts an interrupt off, so that one tells of several frames. */
interface Delay {
  /** Since the last frame. */
  readonly delay: Timer;
  /** Since the first. */
  readonly limit: Timer;
  readonly cause: number;
  fire(): void;
}

/** The card. */
class E1000 implements Device, Card, WordRegisters {
  readonly ctx: DeviceContext<E1000State, "net">;
  readonly registers: Record<RegisterName, number>;
  readonly arrays: Record<ArrayName, Uint32Array>;
  readonly #mac: Uint8Array;
  readonly #function: PciFunction;
  readonly #counters: Record<CounterName, number>;
  readonly #byteCounters: Record<ByteCounterName, bigint>;
  readonly #nvm: Nvm;
  readonly #phy = new Phy();
  readonly #receiver: Receiver;
  readonly #transmitter: Transmitter;
  readonly #throttle: Timer;
  readonly #delays: Record<"receive" | "transmit", Delay>;
  #icr = 0;
  #ims = 0;
  #eerd = 0;
  #mdic = 0;
  #ioAddress = 0;
  holding = true;

  constructor(ctx: DeviceContext<E1000State, "net">, mac: Uint8Array) {
    this.ctx = ctx;
    this.#mac = mac;
    this.registers = zeroes(NAMES);
    this.#counters = zeroes(COUNTER_NAMES);
    this.#byteCounters = Object.fromEntries(
      BYTE_COUNTER_NAMES.map((name) => [name, 0n]),
    ) as Record<ByteCounterName, bigint>;
    this.arrays = Object.fromEntries(
      ARRAY_NAMES.map((name) => [name, new Uint32Array(ARRAYS[name].count)]),
    ) as Record<ArrayName, Uint32Array>;
    this.#nvm = new Nvm(mac);
    this.#receiver = new Receiver(this);
    this.#transmitter = new Transmitter(this);
    this.#throttle = ctx.clock.timer(() => this.#update());
    this.#delays = {
      receive: this.#delay(Receiver.CAUSE),
      transmit: this.#delay(Transmitter.CAUSE),
    };
    this.#function = ctx.pci.attach({
      vendor: VENDOR_INTEL,
      device: DEVICE_82540EM,
      classCode: CLASS_ETHERNET,
      revision: REVISION,
      subsystemVendor: VENDOR_INTEL,
      subsystem: SUBSYSTEM,
      interruptPin: 1,
      bars: [
        {
          index: 0,
          kind: "memory",
          size: MEMORY_BAR_SIZE,
          handler: wordwise(this),
        },
        {
          index: 1,
          kind: "io",
          size: IO_BAR_SIZE,
          handler: wordwise(this.#ports()),
        },
      ],
      capabilities: [{
        id: CAPABILITY_PM,
        body: Uint8Array.from(PM_BODY),
        writable: Uint8Array.from(PM_WRITABLE),
      }],
    });
    ctx.backend.onReceive((frame) => this.#receiver.receive(frame));
    ctx.backend.onDrain(() => this.#transmitter.run());
    ctx.backend.onLink(() => this.interrupt(ICR_LSC));
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  get busMaster(): boolean {
    return this.#function.busMaster;
  }

  /** Power-on. */
  reset(): void {
    this.#nvm.reset();
    this.#phy.reset();
    this.#ioAddress = 0;
    for (const values of Object.values(this.arrays)) values.fill(0);
    this.#softReset();
  }

  start(): void {
    this.resume();
  }

  pause(): void {
    this.holding = true;
  }

  resume(): void {
    this.holding = false;
    this.#transmitter.run();
    this.ctx.backend.ready();
  }

  interrupt(causes: number): void {
    this.#icr |= causes;
    this.#update();
  }

  interruptLater(kind: "receive" | "transmit"): void {
    const { delay, limit, cause } = this.#delays[kind];
    const { RDTR, RADV, TIDV, TADV } = this.registers;
    const [wait, most] = kind === "receive" ? [RDTR, RADV] : [TIDV, TADV];
    if (wait === 0) {
      this.interrupt(cause);
      return;
    }
    const now = this.ctx.clock.now();
    // Both count 1.024 us (sections 13.4.30 and 13.4.41).
    delay.armAt(now + wait * DELAY_NS);
    if (most > 0 && limit.deadline === undefined) {
      limit.armAt(now + most * DELAY_NS);
    }
  }

  count(name: CounterName, by = 1): void {
    // They stay at their greatest value.
    this.#counters[name] = Math.min(0xffff_ffff, this.#counters[name] + by);
  }

  countBytes(name: ByteCounterName, by: number): void {
    this.#byteCounters[name] = BigInt.asUintN(
      64,
      this.#byteCounters[name] + BigInt(by),
    );
  }

  /** A delay whose end sets a cause. */
  #delay(cause: number): Delay {
    const { clock } = this.ctx;
    const fire = () => {
      made.delay.cancel();
      made.limit.cancel();
      this.interrupt(cause);
    };
    const made = {
      delay: clock.timer(fire),
      limit: clock.timer(fire),
      cause,
      fire,
    };
    return made;
  }

  /** Drives the pin as ICR, IMS and the throttle say (section 3.2.7). */
  #update(): void {
    if ((this.#icr & this.#ims) === 0) {
      this.#function.setIntx(false);
      return;
    }
    if (this.#throttle.deadline !== undefined) return;
    this.#function.setIntx(true);
    const { ITR } = this.registers;
    if (ITR > 0) this.#throttle.armAt(this.ctx.clock.now() + ITR * ITR_NS);
  }

  /** CTRL.RST, section 14.4: everything but the EEPROM, the PHY, and the tables. */
  #softReset(): void {
    for (const name of NAMES) this.registers[name] = REGISTERS[name].reset;
    for (const name of COUNTER_NAMES) this.#counters[name] = 0;
    for (const name of BYTE_COUNTER_NAMES) this.#byteCounters[name] = 0n;
    this.#throttle.cancel();
    for (const { delay, limit } of Object.values(this.#delays)) {
      delay.cancel();
      limit.cancel();
    }
    this.#icr = 0;
    this.#ims = 0;
    this.#eerd = 0;
    this.#mdic = 0;
    this.#transmitter.reset();
    this.#receiver.waits = false;
    // The first receive address comes from the EEPROM (section 13.5.2).
    const mac = this.#nvm.mac;
    const view = new DataView(mac.buffer);
    this.arrays.RA.fill(0);
    this.arrays.RA[0] = view.getUint32(0, true);
    this.arrays.RA[1] = view.getUint16(4, true) | RAH_AV;
    this.#function?.setIntx(false);
  }

  /** The registers, through the window of two ports (section 13.2.2). */
  #ports(): WordRegisters {
    return {
      read: (offset) =>
        offset === IOADDR
          ? this.#ioAddress
          : offset === IODATA
          ? this.read(this.#ioAddress & ~3)
          : 0,
      write: (offset, value) => {
        if (offset === IOADDR) this.#ioAddress = value;
        else if (offset === IODATA) this.write(this.#ioAddress & ~3, value);
      },
    };
  }

  /** Reads a register. */
  read(offset: number): number {
    switch (offset) {
      case STATUS:
        return STATUS_FD | STATUS_SPEED_1000 | STATUS_ASDV_1000 |
          (this.ctx.backend.link && (this.registers.CTRL & CTRL_SLU) !== 0
            ? STATUS_LU
            : 0);
      case EERD:
        return this.#eerd;
      case MDIC:
        return this.#mdic;
      case ICR: {
        const causes = this.#icr;
        this.#icr = 0;
        this.#update();
        return causes;
      }
      case ICS:
        return this.#icr;
      case IMS:
        return this.#ims;
    }
    const name = BY_OFFSET.get(offset);
    if (name === "EECD") return this.#nvm.eecd;
    if (name !== undefined) return this.registers[name];
    const entry = arrayAt(offset);
    if (entry !== null) return this.arrays[entry.name][entry.index];
    return offset >= COUNTER_BASE && offset < COUNTER_END
      ? this.#readCounter(offset)
      : 0;
  }

  #readCounter(offset: number): number {
    const counter = COUNTER_BY_OFFSET.get(offset);
    if (counter !== undefined) {
      const value = this.#counters[counter];
      this.#counters[counter] = 0;
      return value;
    }
    for (const name of BYTE_COUNTER_NAMES) {
      const value = this.#byteCounters[name];
      if (offset === BYTE_COUNTERS[name]) {
        return Number(BigInt.asUintN(32, value));
      }
      if (offset !== BYTE_COUNTERS[name] + 4) continue;
      this.#byteCounters[name] = 0n;
      return Number(value >> 32n);
    }
    return 0;
  }

  /** Writes a register; registers are written whole (section 13.2). */
  write(offset: number, value: number): void {
    switch (offset) {
      case EERD:
        this.#eerd = this.#nvm.read(value);
        return;
      case MDIC:
        this.#mdic = this.#phy.access(value, this.ctx.backend.link);
        if ((value & MDIC_IE) !== 0) this.interrupt(ICR_MDAC);
        return;
      case ICR:
        this.#icr &= ~value;
        this.#update();
        return;
      case ICS:
        this.interrupt(value & ICR_MASK);
        return;
      case IMS:
        this.#ims |= value & ICR_MASK;
        this.#update();
        return;
      case IMC:
        this.#ims &= ~value;
        this.#update();
        return;
      case WUS:
        // Nothing wakes a machine that is on.
        return;
    }
    const name = BY_OFFSET.get(offset);
    if (name !== undefined) {
      this.#store(name, (value & REGISTERS[name].mask) >>> 0, value);
      return;
    }
    const entry = arrayAt(offset);
    if (entry !== null) this.arrays[entry.name][entry.index] = value;
  }

  /** A stored register, and what its write does. */
  #store(name: RegisterName, value: number, written: number): void {
    if (name === "CTRL" && (written & CTRL_RST) !== 0) {
      this.#softReset();
      return;
    }
    if (name === "CTRL" && (written & CTRL_PHY_RST) !== 0) this.#phy.reset();
    this.registers[name] = value;
    switch (name) {
      case "EECD":
        this.#nvm.eecd = written;
        break;
      case "TDT":
      case "TCTL":
        this.#transmitter.run();
        break;
      case "RDT":
      case "RCTL":
        this.#receiver.changed();
        break;
      case "RDTR":
        // FPD: what waits is told at once (section 13.4.30).
        if ((written & RDTR_FPD) !== 0) {
          const { delay, limit, fire } = this.#delays.receive;
          if (delay.deadline !== undefined || limit.deadline !== undefined) {
            fire();
          }
        }
        break;
    }
  }

  #save(): E1000State {
    const { receive, transmit } = this.#delays;
    return {
      mac: this.#mac.slice(),
      registers: { ...this.registers },
      arrays: Object.fromEntries(
        ARRAY_NAMES.map((name) => [name, [...this.arrays[name]]]),
      ) as Record<ArrayName, number[]>,
      counters: { ...this.#counters },
      byteCounters: { ...this.#byteCounters },
      icr: this.#icr,
      ims: this.#ims,
      eerd: this.#eerd,
      mdic: this.#mdic,
      ioAddress: this.#ioAddress,
      receiveWaits: this.#receiver.waits,
      throttle: this.#throttle.save(),
      receiveDelay: receive.delay.save(),
      receiveLimit: receive.limit.save(),
      transmitDelay: transmit.delay.save(),
      transmitLimit: transmit.limit.save(),
      nvm: this.#nvm.save(),
      phy: this.#phy.save(),
      transmit: this.#transmitter.save(),
    };
  }

  #restore(state: E1000State): void {
    for (const name of NAMES) {
      const extra = state.registers[name] & ~REGISTERS[name].mask &
        ~REGISTERS[name].reset;
      if (extra !== 0) {
        throw new SchemaError(
          `registers.${name}`,
          `is 0x${
            state.registers[name].toString(16)
          }: expected no bits outside 0x${REGISTERS[name].mask.toString(16)}`,
        );
      }
    }
    const { receive, transmit } = this.#delays;
    this.#mac.set(state.mac);
    Object.assign(this.registers, state.registers);
    for (const name of ARRAY_NAMES) {
      this.arrays[name].set(state.arrays[name]);
    }
    Object.assign(this.#counters, state.counters);
    Object.assign(this.#byteCounters, state.byteCounters);
    this.#icr = state.icr;
    this.#ims = state.ims;
    this.#eerd = state.eerd;
    this.#mdic = state.mdic;
    this.#ioAddress = state.ioAddress;
    this.#receiver.waits = state.receiveWaits;
    this.#throttle.restore(state.throttle);
    receive.delay.restore(state.receiveDelay);
    receive.limit.restore(state.receiveLimit);
    transmit.delay.restore(state.transmitDelay);
    transmit.limit.restore(state.transmitLimit);
    this.#nvm.restore(state.nvm);
    this.#phy.restore(state.phy);
    this.#transmitter.restore(state.transmit);
  }
}

/** RDTR: flush partial descriptors. */
const RDTR_FPD = 0x8000_0000;
/** The unit of RDTR, RADV, TIDV and TADV. */
const DELAY_NS = 1024;

const BY_OFFSET: ReadonlyMap<number, RegisterName> = new Map(
  NAMES.map((name) => [REGISTERS[name].offset, name]),
);
const COUNTER_BY_OFFSET: ReadonlyMap<number, CounterName> = new Map(
  COUNTER_NAMES.map((name) => [COUNTERS[name], name]),
);

/** The entry of an array of registers at an offset. */
function arrayAt(offset: number): { name: ArrayName; index: number } | null {
  for (const name of ARRAY_NAMES) {
    const { offset: first, count } = ARRAYS[name];
    const index = (offset - first) >> 2;
    if (index >= 0 && index < count) return { name, index };
  }
  return null;
}

function zeroes<N extends string>(names: readonly N[]): Record<N, number> {
  return Object.fromEntries(names.map((name) => [name, 0])) as Record<
    N,
    number
  >;
}

/** The network card. */
export default definePlugin({
  name: "e1000",
  version: "1.0.0",
  summary: "Intel 82540EM gigabit network card",
  options,
  state: e1000State,
  backend: "net",
  create: (ctx, { mac = defaultMac(ctx.id) }) => {
    const address = parseMac(mac);
    if (address === null) {
      throw new MachineError(
        `mac "${mac}": expected six bytes such as 52:54:00:12:34:56, not of a group`,
      );
    }
    return new E1000(ctx, address);
  },
});
