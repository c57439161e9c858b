/**
 * What a SATA port and the drive in it have to do with each other, and the frames that they
 * exchange: Serial ATA 3.x, section 10.5 (frame information structures).
 *
 * @module
 */

/** The kind of bus, as {@linkcode PortBuses} names it. */
export const SATA = "sata";

// FIS types.
const FIS_REGISTER_H2D = 0x27;
const FIS_REGISTER_D2H = 0x34;
const FIS_PIO_SETUP = 0x5f;
const FIS_SET_DEVICE_BITS = 0xa1;
/** Byte 1: the interrupt bit of what a device sends, and the command bit of what it gets. */
const FIS_I = 1 << 6;
const FIS_C = 1 << 7;
const FIS_PIO_D = 1 << 5;
/** Device control: software reset. */
export const CONTROL_SRST = 1 << 2;
const REGISTER_FIS_BYTES = 20;
const SET_DEVICE_BITS_BYTES = 8;
/** Status bits that a Set Device Bits FIS leaves alone: BSY and DRQ. */
export const SET_DEVICE_BITS_STATUS = 0x77;

/** The task file as a Register Host to Device FIS brings it: ACS-3, section 6.2. */
export interface AtaCommand {
  /** COMMAND. */
  readonly command: number;
  /** FEATURE, 16 bits. */
  readonly features: number;
  /** LBA, 48 bits. */
  readonly lba: number;
  /** COUNT, 16 bits. */
  readonly count: number;
  /** DEVICE. */
  readonly device: number;
}

/** What a device register FIS says beside status and error. */
export interface AtaRegisters {
  /** LBA, 48 bits. */
  lba: number;
  /** COUNT, 16 bits. */
  count: number;
  /** DEVICE. */
  device: number;
}

/** How a command ends, and which FIS tells it. */
export interface AtaOutcome {
  /**
   * `pio-in`: PIO Setup before the data, whose end status it holds. `register`: Register FIS at the end. `queued`: Set
   * Device Bits FIS.
   */
  readonly protocol: "pio-in" | "register" | "queued";
  /** STATUS. */
  readonly status: number;
  /** ERROR. */
  readonly error: number;
  /** Registers; those of the command where absent. */
  readonly registers?: AtaRegisters;
}

/** A command in a drive, and the guest's buffers for it. */
export interface AtaTask {
  /** The task file. */
  readonly command: AtaCommand;
  /** The packet of a PACKET command: 16 bytes. */
  readonly packet: Uint8Array;
  /** Command slot; the tag of a queued command. */
  readonly tag: number;
  /** Bytes of the guest's buffers. */
  readonly room: number;
  /** Copies into the guest's buffers at an offset; what does not fit is dropped, and noted as an overflow. */
  toGuest(offset: number, bytes: Uint8Array): void;
  /** Copies out of the guest's buffers; what they do not hold is zero, and noted as an overflow. */
  fromGuest(offset: number, length: number): Uint8Array;
}

/** A drive, as its port sees it. */
export interface SataDrive {
  /** What the drive answers to a reset with: ACS-3, table 206. */
  readonly signature: AtaRegisters;
  /** Whether a command is queued (NCQ): the port may give others before it ends. */
  isQueued(command: AtaCommand): boolean;
  /**
   * Begins a command.
   *
   * @param task The command.
   * @param done Called once, unless a reset comes first; possibly before this returns.
   */
  execute(task: AtaTask, done: (outcome: AtaOutcome) => void): void;
  /** Forgets the commands that it works on: the driver has stopped the port. */
  abort(): void;
  /** COMRESET when `hard`, or a software reset. */
  linkReset(hard: boolean): void;
}

/** What a Register Host to Device FIS says. */
export type H2dFis =
  | { kind: "command"; command: AtaCommand }
  | { kind: "control"; control: number };

/**
 * Reads a Register Host to Device FIS.
 *
 * @param fis The FIS: 20 bytes.
 * @returns What it says, or null when it is another FIS.
 */
export function readH2d(fis: Uint8Array): H2dFis | null {
  if (fis[0] !== FIS_REGISTER_H2D) return null;
  if ((fis[1] & FIS_C) === 0) return { kind: "control", control: fis[15] };
  return {
    kind: "command",
    command: {
      command: fis[2],
      features: fis[3] | fis[11] << 8,
      lba: readLba(fis),
      count: fis[12] | fis[13] << 8,
      device: fis[7],
    },
  };
}

/** The LBA of a register FIS: bytes 4 to 6 and 8 to 10. */
function readLba(fis: Uint8Array): number {
  const low = fis[4] | fis[5] << 8 | fis[6] << 16;
  const high = fis[8] | fis[9] << 8 | fis[10] << 16;
  return high * 2 ** 24 + low;
}

function register(
  type: number,
  flags: number,
  { status, error }: { status: number; error: number },
  { lba, count, device }: AtaRegisters,
): Uint8Array {
  const fis = new Uint8Array(REGISTER_FIS_BYTES);
  fis.set([type, flags, status, error]);
  const high = Math.floor(lba / 2 ** 24);
  fis.set([lba, lba >>> 8, lba >>> 16, device], 4);
  fis.set([high, high >>> 8, high >>> 16], 8);
  fis.set([count, count >>> 8], 12);
  return fis;
}

/**
 * Makes a Register Device to Host FIS.
 *
 * @param outcome Status and error.
 * @param registers The other registers.
 */
export function registerFis(
  outcome: { status: number; error: number },
  registers: AtaRegisters,
): Uint8Array {
  return register(FIS_REGISTER_D2H, FIS_I, outcome, registers);
}

/**
 * Makes the PIO Setup FIS of data that go to the host.
 *
 * @param outcome Status and error at the end.
 * @param registers The other registers.
 * @param length Bytes of data.
 */
export function pioSetupFis(
  outcome: { status: number; error: number },
  registers: AtaRegisters,
  length: number,
): Uint8Array {
  const fis = register(FIS_PIO_SETUP, FIS_I | FIS_PIO_D, outcome, registers);
  fis[15] = outcome.status;
  fis.set([length, length >>> 8], 16);
  return fis;
}

/**
 * Makes a Set Device Bits FIS.
 *
 * @param outcome Status and error.
 * @param finished Tags that are finished, a bit each.
 */
export function setDeviceBitsFis(
  outcome: { status: number; error: number },
  finished: number,
): Uint8Array {
  const fis = new Uint8Array(SET_DEVICE_BITS_BYTES);
  fis.set([
    FIS_SET_DEVICE_BITS,
    FIS_I,
    outcome.status & SET_DEVICE_BITS_STATUS,
    outcome.error,
  ]);
  new DataView(fis.buffer).setUint32(4, finished, true);
  return fis;
}
