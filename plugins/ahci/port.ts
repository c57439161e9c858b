/**
 * A port of an AHCI host bus adapter: its registers, and its commands on their way to the drive
 * (Serial ATA AHCI 1.3.1, sections 3.3, 5.3 and 6.2).
 *
 * A command stays in PxCI, or in PxSACT when it is queued, until it is finished, so what is
 * recorded there is all that a snapshot needs: commands that the drive works on are finished
 * before a save, and those that it has not been given are given after the restore.
 *
 * @module
 */
import type { DeviceContext } from "../../core/plugin.ts";
import {
  type Infer,
  record,
  SchemaError,
  u32,
  u8,
} from "../../snapshot/schema.ts";
import {
  CLB_MASK,
  CMD_CCS_SHIFT,
  CMD_CLO,
  CMD_CR,
  CMD_FR,
  CMD_FRE,
  CMD_POD,
  CMD_ST,
  CMD_SUD,
  CMD_WRITABLE,
  FB_MASK,
  IE_MASK,
  IS_CLEARABLE,
  IS_DHRS,
  IS_DPS,
  IS_HBFS,
  IS_IFS,
  IS_OFS,
  IS_PCS,
  IS_PRCS,
  IS_PSS,
  IS_SDBS,
  IS_TFES,
  PxCI,
  PxCLB,
  PxCLBU,
  PxCMD,
  PxFB,
  PxFBU,
  PxIE,
  PxIS,
  PxSACT,
  PxSCTL,
  PxSERR,
  PxSIG,
  PxSNTF,
  PxSSTS,
  PxTFD,
  RECEIVED_PSFIS,
  RECEIVED_RFIS,
  RECEIVED_SDBFIS,
  SCTL_DET_COMRESET,
  SCTL_DET_MASK,
  SCTL_DET_OFFLINE,
  SCTL_WRITABLE,
  SERR_DIAG_N,
  SERR_DIAG_X,
  SERR_MASK,
  SIG_RESET,
  SLOTS,
  SSTS_NONE,
  SSTS_OFFLINE,
  SSTS_UP,
  STATUS_BSY,
  STATUS_DRDY,
  STATUS_DRQ,
  STATUS_DSC,
  STATUS_ERR,
  TFD_ERROR_SHIFT,
  TFD_RESET,
} from "./registers.ts";
import {
  type AtaOutcome,
  CONTROL_SRST,
  pioSetupFis,
  readH2d,
  registerFis,
  type SataDrive,
  SET_DEVICE_BITS_STATUS,
  setDeviceBitsFis,
} from "./sata.ts";
import { type CommandHeader, readHeader, Task } from "./task.ts";

const TWO_32 = 2 ** 32;
/** ERROR after a reset: the device passed its diagnostics (ACS-3, table 206). */
const DIAGNOSTICS_PASSED = 1;
/** Words of a Register Host to Device FIS. */
const H2D_WORDS = 5;

/** State of a port. */
export const portState = record({
  clb: u32(),
  clbu: u32(),
  fb: u32(),
  fbu: u32(),
  is: u32(),
  ie: u32(),
  cmd: u32(),
  tfd: u32(),
  sig: u32(),
  ssts: u32(),
  sctl: u32(),
  serr: u32(),
  sact: u32(),
  ci: u32(),
  /** One of {@linkcode PHASE}. */
  phase: u8({ max: 3 }),
});
/** State of a port. */
export type PortState = Infer<typeof portState>;

/** Where a port is with its drive: values of `phase`. */
export const PHASE = {
  /** Commands are fetched while PxCMD.ST is set. */
  RUNNING: 0,
  /** An error has stopped the port until PxCMD.ST is cleared (section 6.2.2). */
  HALTED: 1,
  /** The drive's signature waits for PxCMD.FRE. */
  SIGNATURE: 2,
  /** A software reset was begun: the drive waits for its end. */
  RESETTING: 3,
} as const;

/** What a port needs of its controller. */
export interface PortHost {
  readonly ctx: DeviceContext<unknown>;
  /** Whether the function may reach memory. */
  readonly busMaster: boolean;
  /** Interrupt bits of a port have changed; `raised` when one that is enabled was set. */
  interruptChanged(raised: boolean): void;
}

/** A port. */
export class Port {
  readonly #host: PortHost;
  readonly #name: string;
  #drive: SataDrive | null = null;
  #state: PortState = powerOn();
  /** Slots that the drive works on. */
  readonly #tasks = new Map<number, Task>();
  #fetching = false;
  #holding = true;

  /**
   * @param host The controller.
   * @param number The port's number.
   */
  constructor(host: PortHost, number: number) {
    this.#host = host;
    this.#name = `port ${number}`;
  }

  /** Puts a drive in, takes it out, or puts another in its place without the driver's notice. */
  set drive(drive: SataDrive | null) {
    this.#drive?.abort();
    this.#forget();
    const isReplaced = drive !== null && this.#drive !== null;
    this.#drive = drive;
    if (!isReplaced) this.#linkUp();
  }

  /** Whether an enabled interrupt is pending. */
  get interrupting(): boolean {
    return (this.#interrupts & this.#state.ie) !== 0;
  }

  get #interrupts(): number {
    const { is, serr } = this.#state;
    return is | ((serr & SERR_DIAG_X) !== 0 ? IS_PCS : 0) |
      ((serr & SERR_DIAG_N) !== 0 ? IS_PRCS : 0);
  }

  /** Power-on, and GHC.HR. */
  reset(): void {
    this.#drive?.abort();
    this.#forget();
    this.#state = powerOn();
    this.#linkUp();
  }

  /** Takes no more commands from the list. */
  hold(): void {
    this.#holding = true;
  }

  /** Takes commands again. */
  go(): void {
    this.#holding = false;
    this.#fetch();
  }

  /** State, when the drive works on nothing. */
  save(): PortState {
    return { ...this.#state };
  }

  /**
   * Takes a state.
   *
   * @param state The state.
   * @param path Its name in messages.
   * @throws {SchemaError} When no driver could have brought it about.
   */
  restore(state: PortState, path: string): void {
    checkState(state, path, this.#drive !== null);
    this.#forget();
    this.#state = { ...state };
  }

  /** Reads a register. */
  read(offset: number): number {
    const s = this.#state;
    switch (offset) {
      case PxCLB:
        return s.clb;
      case PxCLBU:
        return s.clbu;
      case PxFB:
        return s.fb;
      case PxFBU:
        return s.fbu;
      case PxIS:
        return this.#interrupts >>> 0;
      case PxIE:
        return s.ie;
      case PxCMD:
        return s.cmd;
      case PxTFD:
        return s.tfd;
      case PxSIG:
        return s.sig;
      case PxSSTS:
        return s.ssts;
      case PxSCTL:
        return s.sctl;
      case PxSERR:
        return s.serr;
      case PxSACT:
        return s.sact;
      case PxCI:
        return s.ci;
      default:
        // PxSNTF and PxFBS: CAP.SSNTF and CAP.FBSS are zero. The rest is reserved.
        return 0;
    }
  }

  /** Writes a register. */
  write(offset: number, value: number): void {
    const s = this.#state;
    switch (offset) {
      case PxCLB:
        s.clb = (value & CLB_MASK) >>> 0;
        break;
      case PxCLBU:
        s.clbu = value;
        break;
      case PxFB:
        s.fb = (value & FB_MASK) >>> 0;
        break;
      case PxFBU:
        s.fbu = value;
        break;
      case PxIS:
        s.is = (s.is & ~(value & IS_CLEARABLE)) >>> 0;
        this.#host.interruptChanged(false);
        break;
      case PxIE: {
        const before = this.interrupting;
        s.ie = (value & IE_MASK) >>> 0;
        this.#host.interruptChanged(!before && this.interrupting);
        break;
      }
      case PxCMD:
        this.#command(value);
        break;
      case PxSCTL:
        this.#control(value & SCTL_WRITABLE);
        break;
      case PxSERR:
        s.serr = (s.serr & ~value) >>> 0;
        this.#host.interruptChanged(false);
        break;
      case PxSACT:
        if ((s.cmd & CMD_ST) !== 0) s.sact = (s.sact | value) >>> 0;
        break;
      case PxCI:
        if ((s.cmd & CMD_ST) !== 0) {
          s.ci = (s.ci | value) >>> 0;
          this.#fetch();
        }
        break;
      case PxSNTF:
      default:
        // Read-only, not there, or reserved.
        break;
    }
  }

  /** PxCMD, section 3.3.7. */
  #command(value: number): void {
    const s = this.#state;
    const before = s.cmd;
    s.cmd = ((before & ~CMD_WRITABLE) | (value & CMD_WRITABLE)) >>> 0;
    if ((value & CMD_CLO) !== 0 && (before & CMD_ST) === 0) {
      s.tfd &= ~(STATUS_BSY | STATUS_DRQ);
    }
    if ((value & CMD_FRE) !== 0) {
      s.cmd |= CMD_FR;
      if (s.phase === PHASE.SIGNATURE) this.#sendSignature();
    } else s.cmd &= ~CMD_FR;
    if ((value & CMD_ST) !== 0) {
      s.cmd |= CMD_CR;
      this.#fetch();
      return;
    }
    s.cmd &= ~(CMD_CR | (SLOTS - 1) << CMD_CCS_SHIFT);
    if ((before & CMD_ST) === 0) return;
    // Section 5.3.2.4: what was issued is forgotten.
    s.ci = 0;
    s.sact = 0;
    if (s.phase === PHASE.HALTED) s.phase = PHASE.RUNNING;
    if (this.#tasks.size > 0) {
      this.#drive?.abort();
      this.#forget();
    }
  }

  /** PxSCTL: a driver holds DET at 1, or at 4, and then clears it. */
  #control(value: number): void {
    const s = this.#state;
    const before = s.sctl & SCTL_DET_MASK;
    const now = value & SCTL_DET_MASK;
    s.sctl = value;
    if (now === before) return;
    if (now === SCTL_DET_COMRESET || now === SCTL_DET_OFFLINE) {
      this.#drive?.abort();
      this.#forget();
      s.ssts = now === SCTL_DET_OFFLINE ? SSTS_OFFLINE : SSTS_NONE;
      s.tfd = TFD_RESET;
      s.sig = SIG_RESET;
      s.phase = PHASE.RUNNING;
    } else if (now === 0) {
      this.#drive?.linkReset(true);
      this.#linkUp();
    }
  }

  /** The link comes up, and the drive sends its signature as soon as FISes are received. */
  #linkUp(): void {
    const s = this.#state;
    s.ssts = this.#drive === null ? SSTS_NONE : SSTS_UP;
    s.tfd = TFD_RESET;
    s.sig = SIG_RESET;
    s.phase = PHASE.RUNNING;
    if (this.#drive === null) return;
    s.serr = (s.serr | SERR_DIAG_X | SERR_DIAG_N) >>> 0;
    this.#host.interruptChanged(this.interrupting);
    s.phase = PHASE.SIGNATURE;
    if ((s.cmd & CMD_FRE) !== 0) this.#sendSignature();
  }

  #sendSignature(): void {
    const s = this.#state;
    const { signature } = this.#drive!;
    s.phase = PHASE.RUNNING;
    s.sig = (signature.count & 0xff | (signature.lba & 0xff_ffff) << 8) >>> 0;
    const outcome = {
      status: STATUS_DRDY | STATUS_DSC,
      error: DIAGNOSTICS_PASSED,
    };
    this.#receive(RECEIVED_RFIS, registerFis(outcome, signature));
    this.#endCommand(outcome.status, outcome.error, IS_DHRS);
  }

  /** Commands that were given to the drive are nobody's any more. */
  #forget(): void {
    for (const task of this.#tasks.values()) task.stale = true;
    this.#tasks.clear();
  }

  /** Puts a FIS where the driver looks for it. */
  #receive(at: number, fis: Uint8Array): void {
    const s = this.#state;
    if ((s.cmd & CMD_FRE) === 0) return;
    try {
      this.#host.ctx.memory.write(s.fb + s.fbu * TWO_32 + at, fis);
    } catch (error) {
      this.#busError(error as Error);
    }
  }

  /** The port cannot reach what the driver told it of: section 6.1.2. */
  #busError(error: Error): void {
    this.#host.ctx.log.warn(`${this.#name}: ${error.message}`);
    this.#halt(IS_HBFS);
  }

  #halt(interrupt: number): void {
    this.#state.phase = PHASE.HALTED;
    this.#raise(interrupt);
  }

  #raise(bits: number): void {
    const s = this.#state;
    const fresh = bits & ~s.is;
    s.is = (s.is | bits) >>> 0;
    this.#host.interruptChanged((fresh & s.ie) !== 0);
  }

  #endCommand(status: number, error: number, interrupt: number): void {
    this.#state.tfd = status | error << TFD_ERROR_SHIFT;
    this.#raise(interrupt);
  }

  /** Gives commands to the drive while it takes them. */
  #fetch(): void {
    if (this.#fetching) return;
    this.#fetching = true;
    try {
      for (;;) {
        const slot = this.#nextSlot();
        if (slot === null) break;
        this.#issue(slot);
      }
    } finally {
      this.#fetching = false;
    }
  }

  /** The next slot to fetch, section 5.3.2.3; null when there is none or it must wait. */
  #nextSlot(): number | null {
    const s = this.#state;
    if (
      this.#holding || s.ci === 0 || (s.cmd & CMD_ST) === 0 ||
      (s.phase !== PHASE.RUNNING && s.phase !== PHASE.RESETTING) ||
      (s.tfd & (STATUS_BSY | STATUS_DRQ)) !== 0 || s.ssts !== SSTS_UP
    ) return null;
    const last = s.cmd >>> CMD_CCS_SHIFT & (SLOTS - 1);
    for (let i = 1; i <= SLOTS; i++) {
      const slot = (last + i) % SLOTS;
      if ((s.ci >>> slot & 1) !== 0 && !this.#tasks.has(slot)) return slot;
    }
    return null;
  }

  #issue(slot: number): void {
    const s = this.#state;
    const { ctx, busMaster } = this.#host;
    s.cmd =
      (s.cmd & ~((SLOTS - 1) << CMD_CCS_SHIFT) | slot << CMD_CCS_SHIFT) >>>
      0;
    let header: CommandHeader;
    try {
      if (!busMaster) throw new Error("bus mastering is off");
      header = readHeader(ctx.memory, s.clb + s.clbu * TWO_32, slot);
    } catch (error) {
      this.#busError(error as Error);
      return;
    }
    const fis = header.words < H2D_WORDS ? null : readH2d(header.fis);
    if (fis === null) {
      ctx.log.warn(
        `${this.#name}: slot ${slot} has no Register FIS of ${H2D_WORDS} words`,
      );
      this.#halt(IS_IFS);
      return;
    }
    if (fis.kind === "control") {
      this.#softwareReset(slot, fis.control, header.clearBusy);
      return;
    }
    if (s.phase === PHASE.RESETTING) {
      // A drive in reset answers nothing.
      s.tfd |= STATUS_BSY;
      return;
    }
    const task = new Task(slot, fis.command, header, ctx.memory, (error) => {
      this.#busError(error);
    });
    this.#tasks.set(slot, task);
    const drive = this.#drive!;
    // A queued command frees the bus at once, by a Register FIS without an interrupt.
    if (drive.isQueued(fis.command)) this.#clearIssued(slot);
    else s.tfd |= STATUS_BSY;
    drive.execute(task, (outcome) => this.#finish(task, outcome));
  }

  #clearIssued(slot: number): void {
    this.#state.ci = (this.#state.ci & ~(1 << slot)) >>> 0;
  }

  /** ACS-3, section 9.3: SRST is set by one FIS, and cleared by the next, which the drive answers. */
  #softwareReset(slot: number, control: number, clearBusy: boolean): void {
    const s = this.#state;
    const isBegin = (control & CONTROL_SRST) !== 0;
    this.#clearIssued(slot);
    if (isBegin) {
      this.#drive!.abort();
      this.#forget();
      s.phase = PHASE.RESETTING;
      if (!clearBusy) s.tfd |= STATUS_BSY;
    } else if (s.phase === PHASE.RESETTING) {
      this.#drive!.linkReset(false);
      this.#sendSignature();
    }
  }

  /** The drive has finished a command. */
  #finish(task: Task, outcome: AtaOutcome): void {
    const { tag, command } = task;
    if (this.#tasks.get(tag) !== task) return;
    this.#tasks.delete(tag);
    if (task.stale) return;
    const s = this.#state;
    const { protocol, status, error } = outcome;
    const registers = outcome.registers ?? command;
    const isError = (status & STATUS_ERR) !== 0;
    let interrupt = (isError ? IS_TFES : 0) | (task.overflow ? IS_OFS : 0) |
      (task.descriptorDone ? IS_DPS : 0);
    if (protocol === "queued") {
      this.#receive(
        RECEIVED_SDBFIS,
        setDeviceBitsFis(outcome, isError ? 0 : 1 << tag),
      );
      if (!isError) s.sact = (s.sact & ~(1 << tag)) >>> 0;
      interrupt |= IS_SDBS;
    } else {
      try {
        task.writeCount();
      } catch (failure) {
        this.#busError(failure as Error);
        return;
      }
      if (protocol === "pio-in") {
        this.#receive(
          RECEIVED_PSFIS,
          pioSetupFis(outcome, registers, task.moved),
        );
        interrupt |= IS_PSS;
      } else {
        this.#receive(RECEIVED_RFIS, registerFis(outcome, registers));
        interrupt |= IS_DHRS;
      }
      // The slot of a command that failed stays, so that the driver finds it (section 6.2.2.1).
      if (!isError) this.#clearIssued(tag);
    }
    if (s.phase === PHASE.HALTED) return;
    if (isError) s.phase = PHASE.HALTED;
    const kept = protocol === "queued" ? s.tfd & ~SET_DEVICE_BITS_STATUS : 0;
    this.#endCommand(
      protocol === "queued"
        ? kept & 0xff | status & SET_DEVICE_BITS_STATUS
        : status,
      error,
      interrupt,
    );
    this.#fetch();
  }
}

function powerOn(): PortState {
  return {
    clb: 0,
    clbu: 0,
    fb: 0,
    fbu: 0,
    is: 0,
    ie: 0,
    cmd: CMD_SUD | CMD_POD,
    tfd: TFD_RESET,
    sig: SIG_RESET,
    ssts: SSTS_NONE,
    sctl: 0,
    serr: 0,
    sact: 0,
    ci: 0,
    phase: PHASE.RUNNING,
  };
}

/** Refuses what no driver could have brought about. */
function checkState(state: PortState, path: string, hasDrive: boolean): void {
  const check = (field: keyof PortState, ok: boolean, expected: string) => {
    if (ok) return;
    throw new SchemaError(
      `${path}.${field}`,
      `is 0x${state[field].toString(16)}: expected ${expected}`,
    );
  };
  const inside = (field: keyof PortState, mask: number) =>
    check(
      field,
      (state[field] & ~mask) === 0,
      `no bits outside 0x${(mask >>> 0).toString(16)}`,
    );
  inside("clb", CLB_MASK);
  inside("fb", FB_MASK);
  inside("is", IS_CLEARABLE);
  inside("ie", IE_MASK);
  inside(
    "cmd",
    CMD_WRITABLE | CMD_SUD | CMD_POD | CMD_FR | CMD_CR |
      (SLOTS - 1) << CMD_CCS_SHIFT,
  );
  inside("sctl", SCTL_WRITABLE);
  inside("serr", SERR_MASK);
  inside("tfd", 0xffff);
  const { cmd, ssts, ci, sact } = state;
  check(
    "ssts",
    ssts === SSTS_NONE || ssts === SSTS_OFFLINE || ssts === SSTS_UP && hasDrive,
    `0x${SSTS_UP.toString(16)} with a drive, or 0`,
  );
  const isRunning = (cmd & CMD_ST) !== 0;
  check(
    "cmd",
    (cmd & CMD_ST) !== 0 === ((cmd & CMD_CR) !== 0) &&
      (cmd & CMD_FRE) !== 0 === ((cmd & CMD_FR) !== 0),
    "CR as ST, and FR as FRE",
  );
  check("ci", isRunning || ci === 0, "0 while ST is clear");
  check("sact", isRunning || sact === 0, "0 while ST is clear");
  check(
    "phase",
    state.phase === PHASE.RUNNING || state.phase === PHASE.HALTED || hasDrive,
    "0 or 1 without a drive",
  );
}
