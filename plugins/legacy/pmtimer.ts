/**
 * Power management block of the ICH9 at PMBASE (Intel ICH9 data sheet, 316972, section 13.8.3;
 * ACPI 6.4, section 4.8): PM timer, PM1a events and control, GPE0, SMI control, and the
 * advanced power management ports 0xB2 and 0xB3.
 *
 * ACPI mode is on from the start, as firmware would leave it. No processor here has system
 * management mode, so SMI registers keep what is written and raise nothing.
 *
 * @module
 */
import {
  bytewise,
  definePlugin,
  type Device,
  type DeviceContext,
  type IrqLine,
  type Timer,
} from "../../core/plugin.ts";
import {
  bytes,
  type Infer,
  schema,
  timer,
  u16,
  u32,
  u8,
} from "../../snapshot/schema.ts";
import { check, checkBits, ticksAt, timeOfTick } from "./support.ts";

const PMBASE = 0x600;
const PORT_COUNT = 0x80;
const SCI_IRQ = 9;
const PM_TIMER_HERTZ = 3_579_545;
/** The counter has 32 bits; TMR_STS is set whenever the highest changes. */
const PM_TIMER_HALF = 2 ** 31;

// Offsets from PMBASE.
const PM1_STS = 0x00;
const PM1_EN = 0x02;
const PM1_CNT = 0x04;
const PM1_TMR = 0x08;
const GPE0_STS = 0x20;
const GPE0_EN = 0x28;
const GPE0_LENGTH = 8;
const SMI_EN = 0x30;
const SMI_STS = 0x34;

// PM1_STS (section 13.8.3.1); the enables in PM1_EN are in the same places.
const TMR_STS = 0x0001;
const GBL_STS = 0x0020;
const PWRBTN_STS = 0x0100;
const RTC_STS = 0x0400;
/** The events that this machine has. */
const PM1_STS_SET = TMR_STS | PWRBTN_STS;
const PM1_EN_MASK = TMR_STS | GBL_STS | PWRBTN_STS | RTC_STS;

// PM1_CNT (section 13.8.3.3).
const SCI_EN = 0x0001;
const BM_RLD = 0x0002;
const SLP_TYP_SHIFT = 10;
const SLP_TYP_MASK = 0x1c00;
const SLP_EN = 0x2000;
const PM1_CNT_STORED = SCI_EN | BM_RLD | SLP_TYP_MASK;
/** Soft off: as this machine's \_S5 says, and as the ICH9's own encoding has it. */
const SLP_TYP_S5 = 5;
const SLP_TYP_ICH9_S5 = 7;

// SMI_EN and SMI_STS (sections 13.8.3.12 and 13.8.3.13).
const APMC_EN = 0x20;
const APM_STS = 0x20;
/** All but reserved bits; EOS, bit 1, reads as one. */
const SMI_EN_MASK = 0x0606_787f;

// Advanced power management (section 13.7.6).
const APM_CNT = 0xb2;
const APM_PORTS = 2;
/** What a guest with other tables than ours writes to turn ACPI mode on and off. */
const ACPI_ENABLE = 0x02;
const ACPI_DISABLE = 0x03;

const pmState = schema("pmtimer", 1, {
  pm1Status: u16(),
  pm1Enable: u16(),
  pm1Control: u16(),
  gpeStatus: bytes(GPE0_LENGTH),
  gpeEnable: bytes(GPE0_LENGTH),
  smiEnable: u32(),
  smiStatus: u32(),
  apmControl: u8(),
  apmStatus: u8(),
  timer: timer(),
});

type PmState = Infer<typeof pmState>;

/** Byte `index` of a register. */
function byteOf(value: number, index: number): number {
  return value >>> (8 * index) & 0xff;
}

/** A register with one of its bytes replaced. */
function withByte(register: number, index: number, value: number): number {
  return (register & ~(0xff << 8 * index) | value << 8 * index) >>> 0;
}

class PowerManagement implements Device {
  readonly #ctx: DeviceContext<PmState>;
  readonly #sci: IrqLine;
  readonly #timer: Timer;
  #pm1Status = 0;
  #pm1Enable = 0;
  #pm1Control = SCI_EN;
  readonly #gpeStatus = new Uint8Array(GPE0_LENGTH);
  readonly #gpeEnable = new Uint8Array(GPE0_LENGTH);
  #smiEnable = 0;
  #smiStatus = 0;
  #apmControl = 0;
  #apmStatus = 0;
  /** Half turns of the timer when TMR_STS was last worked out. */
  #halfTurns = 0;

  constructor(ctx: DeviceContext<PmState>) {
    this.#ctx = ctx;
    this.#sci = ctx.isa.irq(SCI_IRQ);
    this.#timer = ctx.clock.timer(() => this.#update());
    const registers = bytewise({
      read: (port) => this.#read(port - PMBASE),
      write: (port, value) => this.#write(port - PMBASE, value),
    });
    ctx.isa.claimPorts(PMBASE, PORT_COUNT, {
      // The timer is one register: its bytes must be of one moment.
      read: (port, size) =>
        (port & ~3) === PMBASE + PM1_TMR
          ? this.#readTimer(port & 3)
          : registers.read(port, size),
      write: registers.write,
    });
    ctx.isa.claimPorts(
      APM_CNT,
      APM_PORTS,
      bytewise({
        read: (port) => port === APM_CNT ? this.#apmControl : this.#apmStatus,
        write: (port, value) =>
          port === APM_CNT
            ? this.#writeApmControl(value)
            : void (this.#apmStatus = value),
      }),
    );
    ctx.machine.onPowerButton(() => {
      this.#pm1Status |= PWRBTN_STS;
      this.#update();
    });
    ctx.declare({ kind: "pmtimer", base: PMBASE + PM1_TMR, irq: SCI_IRQ });
    ctx.snapshot.register({
      save: () => this.#save(),
      restore: (state) => this.#restore(state),
    });
  }

  reset(): void {
    this.#pm1Status = 0;
    this.#pm1Enable = 0;
    this.#pm1Control = SCI_EN;
    this.#gpeStatus.fill(0);
    this.#gpeEnable.fill(0);
    this.#smiEnable = 0;
    this.#smiStatus = 0;
    this.#apmControl = 0;
    this.#apmStatus = 0;
    this.#halfTurns = this.#presentHalfTurns;
    this.#update();
  }

  get #ticks(): number {
    return ticksAt(this.#ctx.clock.now(), PM_TIMER_HERTZ);
  }

  get #presentHalfTurns(): number {
    return Math.floor(this.#ticks / PM_TIMER_HALF);
  }

  #readTimer(byte: number): number {
    return (this.#ticks % (2 * PM_TIMER_HALF)) >>> (8 * byte);
  }

  /** Works out TMR_STS, drives SCI, and arms the timer if it can interrupt. */
  #update(): void {
    const halfTurns = this.#presentHalfTurns;
    if (halfTurns !== this.#halfTurns) this.#pm1Status |= TMR_STS;
    this.#halfTurns = halfTurns;
    const event = (this.#pm1Status & this.#pm1Enable) !== 0 ||
      this.#gpeStatus.some((status, i) => status & this.#gpeEnable[i]);
    const level = event && (this.#pm1Control & SCI_EN) !== 0;
    if (level !== this.#sci.level) this.#sci.set(level);
    if (this.#pm1Enable & TMR_STS && !(this.#pm1Status & TMR_STS)) {
      this.#timer.armAt(
        timeOfTick((halfTurns + 1) * PM_TIMER_HALF, PM_TIMER_HERTZ),
      );
    } else {
      this.#timer.cancel();
    }
  }

  #read(offset: number): number {
    if (offset < PM1_EN) {
      this.#update();
      return byteOf(this.#pm1Status, offset - PM1_STS);
    }
    if (offset < PM1_CNT) return byteOf(this.#pm1Enable, offset - PM1_EN);
    if (offset < PM1_CNT + 2) return byteOf(this.#pm1Control, offset - PM1_CNT);
    // A wider access that began before the timer.
    if (offset >= PM1_TMR && offset < PM1_TMR + 4) {
      return this.#readTimer(offset - PM1_TMR);
    }
    if (offset >= GPE0_STS && offset < GPE0_EN) {
      return this.#gpeStatus[offset - GPE0_STS];
    }
    if (offset >= GPE0_EN && offset < SMI_EN) {
      return this.#gpeEnable[offset - GPE0_EN];
    }
    if (offset >= SMI_EN && offset < SMI_STS) {
      return byteOf(this.#smiEnable, offset - SMI_EN);
    }
    if (offset >= SMI_STS && offset < SMI_STS + 4) {
      return byteOf(this.#smiStatus, offset - SMI_STS);
    }
    return 0;
  }

  #write(offset: number, value: number): void {
    if (offset < PM1_EN) {
      this.#update();
      this.#pm1Status &= ~(value << 8 * (offset - PM1_STS));
    } else if (offset < PM1_CNT) {
      this.#pm1Enable = withByte(this.#pm1Enable, offset - PM1_EN, value) &
        PM1_EN_MASK;
    } else if (offset < PM1_CNT + 2) {
      this.#writeControl(withByte(this.#pm1Control, offset - PM1_CNT, value));
    } else if (offset >= GPE0_STS && offset < GPE0_EN) {
      this.#gpeStatus[offset - GPE0_STS] &= ~value;
    } else if (offset >= GPE0_EN && offset < SMI_EN) {
      this.#gpeEnable[offset - GPE0_EN] = value;
    } else if (offset >= SMI_EN && offset < SMI_STS) {
      this.#smiEnable =
        (withByte(this.#smiEnable, offset - SMI_EN, value) & SMI_EN_MASK) >>> 0;
    } else if (offset >= SMI_STS && offset < SMI_STS + 4) {
      this.#smiStatus =
        (this.#smiStatus & ~(value << 8 * (offset - SMI_STS))) >>> 0;
    }
    this.#update();
  }

  #writeControl(value: number): void {
    this.#pm1Control = value & PM1_CNT_STORED;
    if (!(value & SLP_EN)) return;
    const type = (value & SLP_TYP_MASK) >> SLP_TYP_SHIFT;
    if (type === SLP_TYP_S5 || type === SLP_TYP_ICH9_S5) {
      this.#ctx.machine.powerOff();
    } else {
      this.#ctx.log.warn(
        `the guest asked for sleep type ${type}: this machine has S5 ` +
          `(${SLP_TYP_S5}) only, and goes on`,
      );
    }
  }

  #writeApmControl(value: number): void {
    this.#apmControl = value;
    if (this.#smiEnable & APMC_EN) this.#smiStatus |= APM_STS;
    if (value === ACPI_ENABLE) this.#pm1Control |= SCI_EN;
    if (value === ACPI_DISABLE) this.#pm1Control &= ~SCI_EN;
    this.#update();
  }

  #save(): PmState {
    // What time has already brought about; it changes nothing that can be seen.
    const pending = this.#presentHalfTurns !== this.#halfTurns ? TMR_STS : 0;
    return {
      pm1Status: this.#pm1Status | pending,
      pm1Enable: this.#pm1Enable,
      pm1Control: this.#pm1Control,
      gpeStatus: this.#gpeStatus.slice(),
      gpeEnable: this.#gpeEnable.slice(),
      smiEnable: this.#smiEnable,
      smiStatus: this.#smiStatus,
      apmControl: this.#apmControl,
      apmStatus: this.#apmStatus,
      timer: this.#timer.save(),
    };
  }

  #restore(state: PmState): void {
    checkBits("pm1Status", state.pm1Status, PM1_STS_SET);
    checkBits("pm1Enable", state.pm1Enable, PM1_EN_MASK);
    checkBits("pm1Control", state.pm1Control, PM1_CNT_STORED);
    checkBits("smiEnable", state.smiEnable, SMI_EN_MASK);
    checkBits("smiStatus", state.smiStatus, APM_STS);
    // Nothing raises a general purpose event.
    state.gpeStatus.forEach((status, i) =>
      checkBits(`gpeStatus.${i}`, status, 0)
    );
    const isAwaited = (state.pm1Enable & ~state.pm1Status & TMR_STS) !== 0;
    const turn = (this.#presentHalfTurns + 1) * PM_TIMER_HALF;
    const left = timeOfTick(turn, PM_TIMER_HERTZ) - this.#ctx.clock.now();
    const remaining = state.timer?.remaining;
    check(
      isAwaited
        ? remaining === left
        // It is due, and its status is shown already.
        : remaining === undefined || remaining === 0,
      "timer",
      String(remaining),
      isAwaited
        ? `${left}, when the highest bit changes`
        : "not armed, since TMR_STS is set or not enabled",
    );
    this.#pm1Status = state.pm1Status;
    this.#pm1Enable = state.pm1Enable;
    this.#pm1Control = state.pm1Control;
    this.#gpeStatus.set(state.gpeStatus);
    this.#gpeEnable.set(state.gpeEnable);
    this.#smiEnable = state.smiEnable;
    this.#smiStatus = state.smiStatus;
    this.#apmControl = state.apmControl;
    this.#apmStatus = state.apmStatus;
    this.#halfTurns = this.#presentHalfTurns;
    this.#timer.restore(state.timer);
  }
}

/** ACPI power management: timer, events, soft off. */
export default definePlugin({
  name: "pmtimer",
  version: "1.0.0",
  summary: "ACPI power management: PM timer, PM1a, GPE0",
  options: {},
  state: pmState,
  create: (ctx) => new PowerManagement(ctx),
});
