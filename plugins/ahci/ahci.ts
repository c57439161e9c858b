/**
 * The SATA controller of the ICH9 in AHCI mode: Serial ATA AHCI 1.3.1, and Intel's ICH9 datasheet
 * (316972), chapter 15.
 *
 * Drives are plugins of their own, `ahci-hd` and `ahci-cd`, that are plugged into its ports.
 *
 * @module
 */
import {
  definePlugin,
  type Device,
  type DeviceContext,
  type PciFunction,
  type WordRegisters,
  wordwise,
} from "../../core/plugin.ts";
import {
  bool,
  type Infer,
  list,
  schema,
  SchemaError,
  u32,
  u8,
} from "../../snapshot/schema.ts";
import { Port, type PortHost, portState } from "./port.ts";
import {
  BOHC,
  CAP,
  CAP2,
  CAP_ISS_GEN3,
  CAP_NCS_SHIFT,
  CAP_PSC,
  CAP_S64A,
  CAP_SALP,
  CAP_SAM,
  CAP_SCLO,
  CAP_SNCQ,
  CAP_SSC,
  CCC_CTL,
  CCC_PORTS,
  EM_CTL,
  EM_LOC,
  GHC,
  GHC_AE,
  GHC_HR,
  GHC_IE,
  IS,
  PI,
  PORT_BASE,
  PORT_BYTES,
  SLOTS,
  VERSION_1_3_1,
  VS,
} from "./registers.ts";
import { SATA, type SataDrive } from "./sata.ts";

// Identification, ICH9 datasheet, section 15.1.
const VENDOR_INTEL = 0x8086;
const ICH9_AHCI = 0x2922;
const CLASS_SATA_AHCI = 0x010601;
const REVISION = 2;
/** MAP, section 15.1.30: the mode is AHCI. */
const CONFIG_MAP = 0x90;
const MAP_AHCI = 0x40;
/** PCS, section 15.1.31: every port is enabled. */
const CONFIG_PCS = 0x92;

/** ABAR, the memory registers. */
const ABAR = 5;
const ABAR_SIZE = 0x1000;
/** Index and data ports to the same registers (AHCI 1.3.1, section 2.1.11; ICH9, section 15.3). */
const INDEX_BAR = 4;
const INDEX_BAR_SIZE = 32;
const INDEX_OFFSET = 0x10;
const DATA_OFFSET = 0x14;
const INDEX_MASK = 0xffc;

const MAX_PORTS = 6;

const ahciState = schema("ahci", 1, {
  /** GHC.IE. */
  interruptEnable: bool(),
  /** IS. */
  is: u8(),
  /** The index register. */
  index: u32(),
  ports: list(portState, { max: MAX_PORTS }),
});

const options = {
  ports: {
    type: "number",
    help: "number of ports",
    default: MAX_PORTS,
    min: 1,
    max: MAX_PORTS,
  },
} as const;

/** The controller. */
class Ahci implements Device, PortHost, WordRegisters {
  readonly ctx: DeviceContext<Infer<typeof ahciState>>;
  readonly #function: PciFunction;
  readonly #ports: Port[];
  #interruptEnable = false;
  #is = 0;
  #index = 0;

  constructor(ctx: DeviceContext<Infer<typeof ahciState>>, ports: number) {
    this.ctx = ctx;
    this.#ports = Array.from({ length: ports }, (_, i) => new Port(this, i));
    const map = new Uint8Array([MAP_AHCI]);
    const enabled = new Uint8Array([2 ** ports - 1]);
    this.#function = ctx.pci.attach({
      vendor: VENDOR_INTEL,
      device: ICH9_AHCI,
      classCode: CLASS_SATA_AHCI,
      revision: REVISION,
      interruptPin: 1,
      msi: 1,
      bars: [
        {
          index: INDEX_BAR,
          kind: "io",
          size: INDEX_BAR_SIZE,
          handler: wordwise(this.#indexed()),
        },
        {
          index: ABAR,
          kind: "memory",
          size: ABAR_SIZE,
          handler: wordwise(this),
        },
      ],
      registers: {
        initial: [
          { offset: CONFIG_MAP, bytes: map },
          { offset: CONFIG_PCS, bytes: enabled },
        ],
      },
    });
    ctx.ports.provide<SataDrive>(SATA, ports, (port, drive) => {
      this.#ports[port].drive = drive;
    });
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  get busMaster(): boolean {
    return this.#function.busMaster;
  }

  reset(): void {
    this.#index = 0;
    this.#resetController();
  }

  start(): void {
    this.resume();
  }

  /** Holds new commands; the drives finish those that they have. */
  pause(): void {
    for (const port of this.#ports) port.hold();
  }

  resume(): void {
    for (const port of this.#ports) port.go();
  }

  interruptChanged(raised: boolean): void {
    this.#ports.forEach((port, i) => {
      if (port.interrupting) this.#is |= 1 << i;
    });
    this.#drive(raised);
  }

  /** Drives the pin, or sends a message when `raised` says that there is something new to tell. */
  #drive(raised: boolean): void {
    const level = this.#interruptEnable && this.#is !== 0;
    this.#function.setIntx(level);
    if (level && raised) this.#function.signal(0);
  }

  /** GHC.HR, section 10.4.3. */
  #resetController(): void {
    this.#interruptEnable = false;
    this.#is = 0;
    for (const port of this.#ports) port.reset();
    this.#drive(false);
  }

  /** The registers, through the window of two ports. */
  #indexed(): WordRegisters {
    return {
      read: (offset) =>
        offset === INDEX_OFFSET
          ? this.#index
          : offset === DATA_OFFSET
          ? this.read(this.#index)
          : 0,
      write: (offset, value) => {
        if (offset === INDEX_OFFSET) this.#index = value & INDEX_MASK;
        else if (offset === DATA_OFFSET) this.write(this.#index, value);
      },
    };
  }

  #port(offset: number): Port | undefined {
    return offset < PORT_BASE
      ? undefined
      : this.#ports[Math.floor((offset - PORT_BASE) / PORT_BYTES)];
  }

  /** Reads a register. */
  read(offset: number): number {
    const port = this.#port(offset);
    if (port !== undefined) return port.read((offset - PORT_BASE) % PORT_BYTES);
    const ports = this.#ports.length;
    switch (offset) {
      case CAP:
        return (ports - 1 | SLOTS - 1 << CAP_NCS_SHIFT | CAP_PSC | CAP_SSC |
          CAP_SAM | CAP_ISS_GEN3 | CAP_SCLO | CAP_SALP | CAP_SNCQ |
          CAP_S64A) >>> 0;
      case GHC:
        return (GHC_AE | (this.#interruptEnable ? GHC_IE : 0)) >>> 0;
      case IS:
        return this.#is;
      case PI:
        return 2 ** ports - 1;
      case VS:
        return VERSION_1_3_1;
      case CCC_CTL:
      case CCC_PORTS:
      case EM_LOC:
      case EM_CTL:
      case CAP2:
      case BOHC:
      default:
        // Coalescing, enclosure management and BIOS hand-off are not there (CAP, CAP2).
        return 0;
    }
  }

  /** Writes a register; software does not write less than 32 bits (section 3). */
  write(offset: number, value: number): void {
    const port = this.#port(offset);
    if (port !== undefined) {
      port.write((offset - PORT_BASE) % PORT_BYTES, value);
      return;
    }
    switch (offset) {
      case GHC: {
        if ((value & GHC_HR) !== 0) {
          this.#resetController();
          break;
        }
        const before = this.#interruptEnable;
        this.#interruptEnable = (value & GHC_IE) !== 0;
        this.#drive(!before);
        break;
      }
      case IS:
        this.#is &= ~value;
        // A port that still interrupts sets its bit again, and tells (section 10.7.2.1).
        this.#ports.forEach((port, i) => {
          if (port.interrupting) this.#is |= 1 << i;
        });
        this.#drive(true);
        break;
    }
  }

  #save(): Infer<typeof ahciState> {
    return {
      interruptEnable: this.#interruptEnable,
      is: this.#is,
      index: this.#index,
      ports: this.#ports.map((port) => port.save()),
    };
  }

  #restore(state: Infer<typeof ahciState>): void {
    const { length } = this.#ports;
    const refuse = (field: string, value: string, expected: string): never => {
      throw new SchemaError(field, `is ${value}: expected ${expected}`);
    };
    if (state.ports.length !== length) {
      refuse("ports", `of ${state.ports.length} ports`, `${length}`);
    }
    if (state.is >= 2 ** length) {
      refuse("is", `0x${state.is.toString(16)}`, `bits of ${length} ports`);
    }
    if ((state.index & ~INDEX_MASK) !== 0) {
      refuse("index", `0x${state.index.toString(16)}`, "a register's offset");
    }
    this.#ports.forEach((port, i) => {
      port.restore(state.ports[i], `ports[${i}]`);
    });
    this.#interruptEnable = state.interruptEnable;
    this.#is = state.is;
    this.#index = state.index;
  }
}

/** The AHCI controller. */
export default definePlugin({
  name: "ahci",
  version: "1.0.0",
  summary: "ICH9 AHCI SATA controller with up to 6 ports",
  options,
  state: ahciState,
  create: (ctx, { ports }) => new Ahci(ctx, ports),
});
