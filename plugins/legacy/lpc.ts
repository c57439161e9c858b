/**
 * LPC bridge of the ICH9, 00:1f.0 (Intel ICH9 data sheet, 316972, chapter 13): PIRQ routing,
 * reset control, port 0x92 and the POST code. The power management block that its PMBASE
 * points to is `pmtimer.ts`.
 *
 * @module
 */
import {
  type AccessSize,
  bytewise,
  type Claim,
  definePlugin,
  type Device,
  type DeviceContext,
  MachineError,
  type PciFunction,
} from "../../core/plugin.ts";
import { bytes, type Infer, schema, u32, u8 } from "../../snapshot/schema.ts";
import { checkBits } from "./support.ts";

const VENDOR_INTEL = 0x8086;
const DEVICE_ICH9_LPC = 0x2918;
const CLASS_ISA_BRIDGE = 0x06_01_00;
const REVISION = 2;
const SLOT = 0x1f;

// Configuration registers (section 13.1).
/** PMBASE: the power management block at port 0x600. It is fixed there. */
const PMBASE = 0x40;
const PMBASE_VALUE = 0x601;
/** ACPI_CNTL: ACPI_EN, SCI on IRQ 9. Fixed, like PMBASE. */
const ACPI_CNTL = 0x44;
const ACPI_CNTL_VALUE = 0x80;
const PIRQA_ROUT = 0x60;
const PIRQE_ROUT = 0x68;
const PIRQ_BANK = 4;
const PIRQ_COUNT = 8;
/** LPC_I/F decode ranges and enables, 0x80 to 0x93: for devices behind the bridge, of which all are claimed. */
const LPC_IO_DEC = 0x80;
const LPC_IO_DEC_LENGTH = 0x14;
/** GEN_PMCON_1 to GEN_PMCON_3, GEN_PMCON_LOCK (section 13.8.1). */
const GEN_PMCON_1 = 0xa0;
const GEN_PMCON_MASK = [0x3f, 0x06, 0x00, 0x00, 0xff, 0x1f, 0x06];
/** BIOS_CNTL. */
const BIOS_CNTL = 0xdc;
const BIOS_CNTL_MASK = 0x0f;
/** RCBA: base of the chipset configuration registers, and their enable. */
const RCBA = 0xf0;
const RCBA_EN = 0x01;
const RCBA_MASK = 0xffff_c001;
const RCBA_SIZE = 0x4000;

// PIRQn_ROUT (section 13.1.12).
const IRQEN = 0x80;
const IRQ_ROUTING = 0x0f;
const PIRQ_WRITABLE = IRQEN | IRQ_ROUTING;
/** Interrupts a PIRQ may be routed to: not 0, 1, 2, 8 and 13. */
const ROUTABLE = 0xdef8;

// Chipset configuration registers behind RCBA (chapter 10).
/** HPTC: HPET at 0xFED00000, enabled. */
const HPTC = 0x3404;
const HPTC_MASK = 0x83;
const HPTC_RESET = 0x80;
/** GCS: general control and status; the watchdog of the TCO never reboots. */
const GCS = 0x3410;
const GCS_MASK = 0x0c64;
const GCS_NO_REBOOT = 0x20;

// Fixed ports.
const POST_PORT = 0x80;
/** RST_CNT (section 13.7.5). */
const RST_CNT = 0xcf9;
const SYS_RST = 0x02;
const RST_CPU = 0x04;
const FULL_RST = 0x08;
const RST_CNT_STORED = SYS_RST | FULL_RST;
/** PORT92 (section 13.7.3). */
const PORT92 = 0x92;
const INIT_NOW = 0x01;
const ALT_A20_GATE = 0x02;

const lpcState = schema("lpc", 1, {
  /** PIRQA_ROUT to PIRQH_ROUT. */
  pirqRoute: bytes(PIRQ_COUNT),
  rcba: u32(),
  hptc: u32(),
  gcs: u32(),
  resetControl: u8(),
  port92: u8(),
  postCode: u8(),
});

type LpcState = Infer<typeof lpcState>;

function dword(value: number): Uint8Array {
  return Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);
}

class LpcBridge implements Device {
  readonly #ctx: DeviceContext<LpcState>;
  readonly #pci: PciFunction;
  readonly #pirqRoute = new Uint8Array(PIRQ_COUNT).fill(IRQEN);
  #rcba = 0;
  #rcbaClaim: Claim | undefined;
  #hptc = HPTC_RESET;
  #gcs = GCS_NO_REBOOT;
  #resetControl = 0;
  #port92 = ALT_A20_GATE;
  #postCode = 0;

  constructor(ctx: DeviceContext<LpcState>) {
    this.#ctx = ctx;
    const pirqs = new Uint8Array(PIRQ_BANK).fill(IRQEN);
    const pirqMask = new Uint8Array(PIRQ_BANK).fill(PIRQ_WRITABLE);
    this.#pci = ctx.pci.attach({
      vendor: VENDOR_INTEL,
      device: DEVICE_ICH9_LPC,
      classCode: CLASS_ISA_BRIDGE,
      revision: REVISION,
      address: { slot: SLOT, fn: 0 },
      multifunction: true,
      registers: {
        initial: [
          { offset: PMBASE, bytes: dword(PMBASE_VALUE) },
          { offset: ACPI_CNTL, bytes: Uint8Array.of(ACPI_CNTL_VALUE) },
          { offset: PIRQA_ROUT, bytes: pirqs },
          { offset: PIRQE_ROUT, bytes: pirqs },
        ],
        writable: [
          { offset: PIRQA_ROUT, mask: pirqMask },
          { offset: PIRQE_ROUT, mask: pirqMask },
          {
            offset: LPC_IO_DEC,
            mask: new Uint8Array(LPC_IO_DEC_LENGTH).fill(0xff),
          },
          { offset: GEN_PMCON_1, mask: Uint8Array.from(GEN_PMCON_MASK) },
          { offset: BIOS_CNTL, mask: Uint8Array.of(BIOS_CNTL_MASK) },
          { offset: RCBA, mask: dword(RCBA_MASK) },
        ],
        onWrite: (offset, size) => this.#configWritten(offset, size),
      },
    });
    ctx.isa.claimPorts(
      RST_CNT,
      1,
      bytewise({
        read: () => this.#resetControl,
        write: (_port, value) => this.#writeResetControl(value),
      }),
    );
    ctx.isa.claimPorts(
      PORT92,
      1,
      bytewise({
        read: () => this.#port92,
        write: (_port, value) => this.#writePort92(value),
      }),
    );
    ctx.isa.claimPorts(
      POST_PORT,
      1,
      bytewise({
        read: () => this.#postCode,
        write: (_port, value) => void (this.#postCode = value),
      }),
    );
    ctx.declare({ kind: "lpc" });
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  reset(): void {
    this.#pirqRoute.fill(IRQEN);
    this.#hptc = HPTC_RESET;
    this.#gcs = GCS_NO_REBOOT;
    this.#resetControl = 0;
    this.#port92 = ALT_A20_GATE;
    this.#postCode = 0;
    for (let pirq = 0; pirq < PIRQ_COUNT; pirq++) {
      this.#pci.writeConfig(this.#pirqOffset(pirq), 1, IRQEN);
      this.#ctx.interrupts.routePirq(pirq, null);
    }
    this.#pci.writeConfig(RCBA, 4, 0);
    this.#mapRcba(0);
  }

  #pirqOffset(pirq: number): number {
    return pirq < PIRQ_BANK ? PIRQA_ROUT + pirq : PIRQE_ROUT + pirq - PIRQ_BANK;
  }

  #configWritten(offset: number, size: AccessSize): void {
    const touches = (first: number, count: number) =>
      offset < first + count && first < offset + size;
    if (touches(RCBA, 4)) this.#mapRcba(this.#pci.readConfig(RCBA, 4));
    for (let pirq = 0; pirq < PIRQ_COUNT; pirq++) {
      const at = this.#pirqOffset(pirq);
      if (!touches(at, 1)) continue;
      this.#pirqRoute[pirq] = this.#pci.readConfig(at, 1);
      this.#routePirq(pirq);
    }
  }

  #routePirq(pirq: number): void {
    const register = this.#pirqRoute[pirq];
    const irq = register & IRQ_ROUTING;
    const routed = !(register & IRQEN) && (ROUTABLE >> irq & 1) !== 0;
    this.#ctx.interrupts.routePirq(pirq, routed ? irq : null);
  }

  #mapRcba(value: number): void {
    if (value === this.#rcba) return;
    this.#rcba = value;
    this.#rcbaClaim?.release();
    this.#rcbaClaim = undefined;
    if (!(value & RCBA_EN)) return;
    try {
      this.#rcbaClaim = this.#ctx.isa.claimMemory(
        (value & ~RCBA_EN) >>> 0,
        RCBA_SIZE,
        {
          read: (offset, size) => this.#readChipset(offset, size),
          write: (offset, size, written) =>
            this.#writeChipset(offset, size, written),
        },
      );
    } catch (error) {
      // A guest's mistake is not the machine's: what was there first stays.
      if (!(error instanceof MachineError)) throw error;
      this.#ctx.log.warn(`RCBA is not mapped: ${error.message}`);
    }
  }

  #readChipset(offset: number, size: AccessSize): number {
    const byte = offset & 3;
    const register = offset - byte;
    const value = register === HPTC
      ? this.#hptc
      : register === GCS
      ? this.#gcs
      : 0;
    return byte + size > 4 ? 0 : value >>> (8 * byte);
  }

  #writeChipset(offset: number, size: AccessSize, value: number): void {
    const shift = 8 * (offset & 3);
    const bits = size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1;
    const merge = (old: number, mask: number) => {
      const written = bits << shift & mask;
      return (old & ~written | value << shift & written) >>> 0;
    };
    if (offset - (offset & 3) === HPTC) {
      this.#hptc = merge(this.#hptc, HPTC_MASK);
    }
    if (offset - (offset & 3) === GCS) this.#gcs = merge(this.#gcs, GCS_MASK);
  }

  /** RST_CPU rising resets; INIT# and PLTRST# come to the same in this machine. */
  #writeResetControl(value: number): void {
    this.#resetControl = value & RST_CNT_STORED;
    if (value & RST_CPU) this.#ctx.machine.reset();
  }

  #writePort92(value: number): void {
    const rising = value & ~this.#port92;
    this.#port92 = value & (INIT_NOW | ALT_A20_GATE);
    this.#ctx.machine.setA20((value & ALT_A20_GATE) !== 0);
    if (rising & INIT_NOW) this.#ctx.cpus[0]?.init();
  }

  #save(): LpcState {
    return {
      pirqRoute: this.#pirqRoute.slice(),
      rcba: this.#rcba,
      hptc: this.#hptc,
      gcs: this.#gcs,
      resetControl: this.#resetControl,
      port92: this.#port92,
      postCode: this.#postCode,
    };
  }

  #restore(state: LpcState): void {
    state.pirqRoute.forEach((register, i) =>
      checkBits(`pirqRoute.${i}`, register, PIRQ_WRITABLE)
    );
    checkBits("rcba", state.rcba, RCBA_MASK);
    checkBits("hptc", state.hptc, HPTC_MASK | HPTC_RESET);
    checkBits("gcs", state.gcs, GCS_MASK | GCS_NO_REBOOT);
    checkBits("resetControl", state.resetControl, RST_CNT_STORED);
    checkBits("port92", state.port92, INIT_NOW | ALT_A20_GATE);
    this.#mapRcba(state.rcba);
    this.#pirqRoute.set(state.pirqRoute);
    for (let pirq = 0; pirq < PIRQ_COUNT; pirq++) this.#routePirq(pirq);
    this.#hptc = state.hptc;
    this.#gcs = state.gcs;
    this.#resetControl = state.resetControl;
    this.#port92 = state.port92;
    this.#postCode = state.postCode;
  }
}

/** The ISA bridge of the chipset. */
export default definePlugin({
  name: "lpc",
  version: "1.0.0",
  summary: "ICH9 LPC bridge: PIRQ routing, reset, port 0x92",
  options: {},
  state: lpcState,
  create: (ctx) => new LpcBridge(ctx),
});
