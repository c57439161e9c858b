/**
 * A SATA disk for a port of an AHCI controller: ATA/ATAPI Command Set 3 (ACS-3), T13/2161-D, and
 * Serial ATA 3.x, section 13.6 (native command queuing).
 *
 * @module
 */
import {
  type BlockBackend,
  definePlugin,
  type Device,
  type DeviceContext,
} from "../../core/plugin.ts";
import {
  bool,
  type Infer,
  optional,
  record,
  schema,
  SchemaError,
  u64,
  u8,
} from "../../snapshot/schema.ts";
import { BlockRequests, type BlockSteps } from "../storage/host_work.ts";
import {
  ATA,
  checkSerial,
  checksum,
  DEVICE_FUA,
  DEVICE_LBA,
  ERROR_ABRT,
  ERROR_IDNF,
  ERROR_UNC,
  FEATURE,
  identifyData,
  SECTOR,
  STATUS_BAD,
  STATUS_GOOD,
} from "./ata.ts";
import { type DriveIdentity, driveOptions, identityOf } from "./drive.ts";
import {
  type AtaCommand,
  type AtaOutcome,
  type AtaRegisters,
  type AtaTask,
  SATA,
  type SataDrive,
} from "./sata.ts";
import { smartLog, smartThresholds, smartValues } from "./smart.ts";

/** ACS-3, table 206: signature of an ATA device. */
const SIGNATURE: AtaRegisters = { lba: 1, count: 1, device: 0 };
const MODEL = "DIAPAUSE HARDDISK";
const FIRMWARE = "1.0";

/** Sectors that 28-bit commands reach. */
const LBA28_SECTORS = 0x0fff_ffff;
/** A count of zero is the greatest. */
const COUNT28_ZERO = 0x100;
const COUNT48_ZERO = 0x1_0000;
/** Sectors of a DRQ block at most. */
const MAX_MULTIPLE = 16;
const QUEUE_DEPTH = 32;
/** Bytes moved at a time between the guest and the image. */
const CHUNK = 1 << 20;
/** Blocks of 512 bytes that one DATA SET MANAGEMENT takes, and the ranges in each. */
const TRIM_BLOCKS = 8;
const TRIM_FEATURE = 1;
const TRIM_ENTRY_BYTES = 8;
const TRIM_COUNT_SHIFT = 48n;
const LBA_MASK = 0xffff_ffff_ffffn;

// The geometry of words 1, 3 and 6, which no driver of this century uses.
const CYLINDERS = 16383;
const HEADS = 16;
const SECTORS_PER_TRACK = 63;

// CHECK POWER MODE, ACS-3 section 7.3.
const POWER_ACTIVE = 0xff;
const POWER_STANDBY = 0x00;

// Logs of READ LOG EXT, ACS-3 annex A.
const LOG_DIRECTORY = 0x00;
const LOG_NCQ_ERROR = 0x10;
const LOG_VERSION = 1;
const NCQ_ERROR_NOT_QUEUED = 0x80;
const NCQ_ERROR_CHECKSUM = 511;

// SMART: subcommands and the key in LBA, ACS-3 section 7.46.
const SMART_READ_DATA = 0xd0;
const SMART_READ_THRESHOLDS = 0xd1;
const SMART_AUTOSAVE = 0xd2;
const SMART_EXECUTE_OFFLINE = 0xd4;
const SMART_READ_LOG = 0xd5;
const SMART_ENABLE = 0xd8;
const SMART_DISABLE = 0xd9;
const SMART_RETURN_STATUS = 0xda;
const SMART_KEY = 0xc24f;
const LBA_MIDDLE_SHIFT = 8;

/** SET TRANSFER MODE: the kind in the upper five bits, and the greatest mode of each. */
const TRANSFER_MODES: Readonly<Record<number, number>> = {
  0b00000: 1,
  0b00001: 4,
  0b00100: 2,
  0b01000: 6,
};
const ULTRA_DMA = 0b01000;
const MULTIWORD_DMA = 0b00100;
const UDMA_5 = 0x45;

const hdState = schema("ahci-hd", 1, {
  /** Size of the disk in sectors, which the guest has seen. */
  capacity: u64(),
  writeCache: bool(),
  readLookAhead: bool(),
  smart: bool(),
  standby: bool(),
  /** Sectors of a DRQ block of READ and WRITE MULTIPLE; 0 when they are off. */
  multiple: u8({ max: MAX_MULTIPLE }),
  /** SET TRANSFER MODE's last. */
  transferMode: u8(),
  /** The queued command that failed, until its log is read: all others are refused. */
  queuedError: optional(record({
    tag: u8({ max: QUEUE_DEPTH - 1 }),
    error: u8(),
    lba: u64(),
    device: u8(),
    /** COUNT of a queued command is its tag. */
    count: u8(),
  })),
});
type HdState = Infer<typeof hdState>;

/** A command that fails. */
class AtaError extends Error {
  constructor(readonly error: number, message = "") {
    super(message);
  }
}

/** The disk. */
class HardDisk implements Device, SataDrive {
  readonly signature = SIGNATURE;
  readonly #ctx: DeviceContext<HdState, "block">;
  readonly #block: BlockBackend;
  readonly #serial: string;
  readonly #requests: BlockRequests;
  #state: HdState;

  constructor(
    ctx: DeviceContext<HdState, "block">,
    { serial, place }: DriveIdentity,
  ) {
    checkSerial(serial);
    this.#ctx = ctx;
    this.#block = ctx.backend;
    this.#serial = serial;
    this.#requests = new BlockRequests(ctx);
    this.#state = this.#powerOn();
    ctx.ports.plug<SataDrive>(SATA, this, place);
    ctx.snapshot.register({
      save: () => ({ ...this.#state }),
      restore: (state) => this.#restore(state),
    });
  }

  /** A reset of the machine: the controller resets its ports, and they their drives. */
  reset(): void {
    this.#requests.cancel();
    this.#state = this.#powerOn();
  }

  /** The controller gives no more commands; those under way are finished. */
  pause(): Promise<void> {
    return this.#requests.drain();
  }

  isQueued({ command }: AtaCommand): boolean {
    return command === ATA.READ_FPDMA_QUEUED ||
      command === ATA.WRITE_FPDMA_QUEUED;
  }

  execute(task: AtaTask, done: (outcome: AtaOutcome) => void): void {
    this.#requests.start(this.#outcome(task), done);
  }

  abort(): void {
    this.#requests.cancel();
  }

  linkReset(hard: boolean): void {
    this.#requests.cancel();
    this.#state.queuedError = null;
    this.#state.standby = false;
    if (!hard) return;
    this.#state.writeCache = true;
    this.#state.readLookAhead = true;
    this.#state.multiple = 0;
  }

  get #sectors(): number {
    return this.#block.size / SECTOR;
  }

  #powerOn(): HdState {
    return {
      capacity: BigInt(this.#sectors),
      writeCache: true,
      readLookAhead: true,
      smart: true,
      standby: false,
      multiple: 0,
      transferMode: UDMA_5,
      queuedError: null,
    };
  }

  #restore(state: HdState): void {
    const refuse = (field: string, why: string): never => {
      throw new SchemaError(field, why);
    };
    if (state.capacity !== BigInt(this.#sectors)) {
      refuse(
        "capacity",
        `is ${state.capacity} sectors, but the image given has ${this.#sectors}: give the image that the snapshot was made with, or one of its size`,
      );
    }
    if (!isMultiple(state.multiple)) {
      refuse("multiple", `is ${state.multiple}: expected a power of two, or 0`);
    }
    if (!isTransferMode(state.transferMode)) {
      refuse("transferMode", `is ${state.transferMode}: expected a known mode`);
    }
    this.#state = { ...state };
  }

  /** Does a command, and turns what fails into status and error. */
  *#outcome(task: AtaTask): BlockSteps<AtaOutcome> {
    const { command } = task;
    const protocol = this.isQueued(command) ? "queued" : "register";
    try {
      const log = command.lba & 0xff;
      const isLogRead = command.command === ATA.READ_LOG_EXT ||
        command.command === ATA.READ_LOG_DMA_EXT;
      // Serial ATA, section 13.6.3.3: after an error only this log is read.
      if (
        this.#state.queuedError !== null &&
        !(isLogRead && log === LOG_NCQ_ERROR)
      ) throw new AtaError(ERROR_ABRT);
      return {
        protocol,
        status: STATUS_GOOD,
        error: 0,
        ...yield* this.#perform(task),
      };
    } catch (failure) {
      const { error, message } = failure instanceof AtaError
        ? failure
        : { error: ERROR_ABRT, message: (failure as Error).message };
      if (message !== "") this.#ctx.log.warn(message);
      if (protocol === "queued" && this.#state.queuedError === null) {
        this.#state.queuedError = {
          tag: task.tag,
          error,
          lba: BigInt(command.lba),
          device: command.device,
          count: command.count & 0xff,
        };
      }
      return { protocol, status: STATUS_BAD, error };
    }
  }

  /** Does a command; returns what is not as usual. */
  *#perform(task: AtaTask): BlockSteps<Partial<AtaOutcome>> {
    const { command } = task;
    switch (command.command) {
      case ATA.IDENTIFY_DEVICE:
        return this.#pioIn(task, this.#identify());
      case ATA.READ_SECTORS:
      case ATA.READ_MULTIPLE:
      case ATA.READ_SECTORS_EXT:
      case ATA.READ_MULTIPLE_EXT:
        this.#requireMultiple(command);
        yield* this.#read(task, rangeOf(command));
        return { protocol: "pio-in" };
      case ATA.READ_DMA:
      case ATA.READ_DMA_EXT:
        yield* this.#read(task, rangeOf(command));
        return {};
      case ATA.READ_FPDMA_QUEUED:
        yield* this.#read(task, queuedRangeOf(command));
        return {};
      case ATA.WRITE_SECTORS:
      case ATA.WRITE_MULTIPLE:
      case ATA.WRITE_SECTORS_EXT:
      case ATA.WRITE_MULTIPLE_EXT:
      case ATA.WRITE_DMA:
      case ATA.WRITE_DMA_EXT:
        this.#requireMultiple(command);
        yield* this.#write(task, rangeOf(command), false);
        return {};
      case ATA.WRITE_DMA_FUA_EXT:
      case ATA.WRITE_MULTIPLE_FUA_EXT:
        this.#requireMultiple(command);
        yield* this.#write(task, rangeOf(command), true);
        return {};
      case ATA.WRITE_FPDMA_QUEUED:
        yield* this.#write(
          task,
          queuedRangeOf(command),
          (command.device & DEVICE_FUA) !== 0,
        );
        return {};
      case ATA.FLUSH_CACHE:
      case ATA.FLUSH_CACHE_EXT:
        yield (block) => block.flush();
        return {};
      case ATA.DATA_SET_MANAGEMENT:
        return yield* this.#trim(task);
      case ATA.READ_VERIFY:
      case ATA.READ_VERIFY_EXT:
        this.#inside(rangeOf(command));
        return {};
      case ATA.READ_LOG_EXT:
        return this.#pioIn(task, this.#log(command));
      case ATA.READ_LOG_DMA_EXT:
        task.toGuest(0, this.#log(command));
        return {};
      case ATA.SMART:
        return this.#smart(task);
      case ATA.SET_FEATURES:
        return this.#setFeatures(command);
      case ATA.SET_MULTIPLE_MODE:
        if (!isMultiple(command.count)) throw new AtaError(ERROR_ABRT);
        this.#state.multiple = command.count;
        return {};
      case ATA.READ_NATIVE_MAX_ADDRESS:
      case ATA.READ_NATIVE_MAX_ADDRESS_EXT: {
        const last = this.#sectors - 1;
        const lba = command.command === ATA.READ_NATIVE_MAX_ADDRESS
          ? Math.min(last, LBA28_SECTORS - 1)
          : last;
        return { registers: { lba, count: 0, device: DEVICE_LBA } };
      }
      case ATA.EXECUTE_DEVICE_DIAGNOSTIC:
        return { error: 1, registers: SIGNATURE };
      case ATA.CHECK_POWER_MODE:
        return {
          registers: {
            ...command,
            count: this.#state.standby ? POWER_STANDBY : POWER_ACTIVE,
          },
        };
      case ATA.STANDBY:
      case ATA.STANDBY_IMMEDIATE:
      case ATA.SLEEP:
        if (this.#state.writeCache) yield (block) => block.flush();
        this.#state.standby = true;
        return {};
      case ATA.IDLE:
      case ATA.IDLE_IMMEDIATE:
      case ATA.RECALIBRATE:
      case ATA.SEEK:
      case ATA.INITIALIZE_DEVICE_PARAMETERS:
        this.#state.standby = false;
        return {};
      default:
        throw new AtaError(ERROR_ABRT);
    }
  }

  #pioIn(task: AtaTask, data: Uint8Array): Partial<AtaOutcome> {
    task.toGuest(0, data);
    return { protocol: "pio-in" };
  }

  /** READ and WRITE MULTIPLE need SET MULTIPLE MODE first. */
  #requireMultiple({ command }: AtaCommand): void {
    if (MULTIPLE.has(command) && this.#state.multiple === 0) {
      throw new AtaError(ERROR_ABRT);
    }
  }

  /** Bytes of a range that is inside the disk. */
  #inside({ lba, sectors }: Range): { offset: number; length: number } {
    if (lba + sectors > this.#sectors) throw new AtaError(ERROR_IDNF);
    return { offset: lba * SECTOR, length: sectors * SECTOR };
  }

  *#read(task: AtaTask, range: Range): BlockSteps<void> {
    const { offset, length } = this.#inside(range);
    this.#state.standby = false;
    for (let at = 0; at < length; at += CHUNK) {
      const bytes = new Uint8Array(Math.min(CHUNK, length - at));
      try {
        yield (block) => block.read(offset + at, bytes);
      } catch (error) {
        throw new AtaError(ERROR_UNC, (error as Error).message);
      }
      task.toGuest(at, bytes);
    }
  }

  *#write(task: AtaTask, range: Range, fua: boolean): BlockSteps<void> {
    const { offset, length } = this.#inside(range);
    if (this.#block.readOnly) throw new AtaError(ERROR_ABRT);
    this.#state.standby = false;
    for (let at = 0; at < length; at += CHUNK) {
      const bytes = task.fromGuest(at, Math.min(CHUNK, length - at));
      yield (block) => block.write(offset + at, bytes);
    }
    if (fua || !this.#state.writeCache) yield (block) => block.flush();
  }

  /** DATA SET MANAGEMENT, ACS-3 section 7.5: TRIM. Every range is checked before any is done. */
  *#trim(task: AtaTask): BlockSteps<Partial<AtaOutcome>> {
    const { features, count } = task.command;
    if (
      (features & TRIM_FEATURE) === 0 || count === 0 || count > TRIM_BLOCKS ||
      this.#block.readOnly
    ) throw new AtaError(ERROR_ABRT);
    const list = task.fromGuest(0, count * SECTOR);
    const view = new DataView(list.buffer);
    const ranges: { offset: number; length: number }[] = [];
    for (let at = 0; at < list.length; at += TRIM_ENTRY_BYTES) {
      const entry = view.getBigUint64(at, true);
      const sectors = Number(entry >> TRIM_COUNT_SHIFT);
      if (sectors === 0) continue;
      ranges.push(this.#inside({ lba: Number(entry & LBA_MASK), sectors }));
    }
    for (const { offset, length } of ranges) {
      yield (block) => block.discard(offset, length);
    }
    return {};
  }

  /** READ LOG EXT, ACS-3 section 7.23: a page of a log, and zeroes where more pages are asked for. */
  #log({ lba, count }: AtaCommand): Uint8Array {
    if (count === 0 || count > TRIM_BLOCKS) throw new AtaError(ERROR_ABRT);
    const bytes = new Uint8Array(count * SECTOR);
    const view = new DataView(bytes.buffer);
    switch (lba & 0xff) {
      case LOG_DIRECTORY:
        view.setUint16(0, LOG_VERSION, true);
        view.setUint16(2 * LOG_NCQ_ERROR, 1, true);
        return bytes;
      case LOG_NCQ_ERROR:
        this.#queuedErrorLog(bytes);
        return bytes;
      default:
        throw new AtaError(ERROR_ABRT);
    }
  }

  /** Log 10h, Serial ATA section 13.7: reading it ends the error. */
  #queuedErrorLog(bytes: Uint8Array): void {
    const failed = this.#state.queuedError;
    this.#state.queuedError = null;
    if (failed === null) bytes[0] = NCQ_ERROR_NOT_QUEUED;
    else {
      const { tag, error, lba, device, count } = failed;
      const byte = (shift: bigint) => Number(lba >> shift & 0xffn);
      bytes.set([tag, 0, STATUS_BAD, error, byte(0n), byte(8n), byte(16n)]);
      bytes.set([device, byte(24n), byte(32n), byte(40n)], 7);
      bytes[12] = count;
    }
    bytes[NCQ_ERROR_CHECKSUM] = checksum(bytes.subarray(0, SECTOR));
  }

  /** SMART, ACS-3 section 7.46: what tools ask to see whether the disk is well. */
  #smart(task: AtaTask): Partial<AtaOutcome> {
    const { features, lba } = task.command;
    if (lba >>> LBA_MIDDLE_SHIFT !== SMART_KEY) throw new AtaError(ERROR_ABRT);
    const subcommand = features & 0xff;
    if (!this.#state.smart && subcommand !== SMART_ENABLE) {
      throw new AtaError(ERROR_ABRT);
    }
    switch (subcommand) {
      case SMART_READ_DATA:
        return this.#pioIn(task, smartValues(this.#ctx.clock.now()));
      case SMART_READ_THRESHOLDS:
        return this.#pioIn(task, smartThresholds());
      case SMART_READ_LOG: {
        const log = smartLog(lba & 0xff);
        if (log === null) throw new AtaError(ERROR_ABRT);
        return this.#pioIn(task, log);
      }
      case SMART_AUTOSAVE:
      case SMART_EXECUTE_OFFLINE:
        return {};
      case SMART_ENABLE:
      case SMART_DISABLE:
        this.#state.smart = subcommand === SMART_ENABLE;
        return {};
      case SMART_RETURN_STATUS:
        // The key comes back unchanged: no threshold is exceeded.
        return {};
      default:
        throw new AtaError(ERROR_ABRT);
    }
  }

  #setFeatures({ features, count }: AtaCommand): Partial<AtaOutcome> {
    switch (features & 0xff) {
      case FEATURE.ENABLE_WRITE_CACHE:
        this.#state.writeCache = true;
        return {};
      case FEATURE.DISABLE_WRITE_CACHE:
        this.#state.writeCache = false;
        return {};
      case FEATURE.ENABLE_READ_LOOK_AHEAD:
        this.#state.readLookAhead = true;
        return {};
      case FEATURE.DISABLE_READ_LOOK_AHEAD:
        this.#state.readLookAhead = false;
        return {};
      case FEATURE.SET_TRANSFER_MODE:
        if (!isTransferMode(count & 0xff)) throw new AtaError(ERROR_ABRT);
        this.#state.transferMode = count & 0xff;
        return {};
      case FEATURE.ENABLE_REVERT:
      case FEATURE.DISABLE_REVERT:
        return {};
      default:
        throw new AtaError(ERROR_ABRT);
    }
  }

  /** IDENTIFY DEVICE, ACS-3 section 7.12.7. */
  #identify(): Uint8Array {
    const { writeCache, readLookAhead, smart, multiple, transferMode } =
      this.#state;
    const sectors = this.#sectors;
    const short = Math.min(sectors, LBA28_SECTORS);
    const commands = 1 | (writeCache ? 1 << 5 : 0) |
      (readLookAhead ? 1 << 6 : 0);
    const [kind, mode] = [transferMode >>> 3, transferMode & 7];
    const long = BigInt(sectors);
    const word = (n: bigint) => Number(long >> 16n * n & 0xffffn);
    return identifyData({
      0: 0x0040,
      1: CYLINDERS,
      3: HEADS,
      6: SECTORS_PER_TRACK,
      47: 0x8000 | MAX_MULTIPLE,
      // LBA and DMA; standby timers as the standard has them; IORDY.
      49: 0x2f00,
      50: 0x4000,
      // Words 64 to 70 and 88 are valid.
      53: 0x0006,
      59: (multiple > 0 ? 0x100 : 0) | multiple,
      60: short & 0xffff,
      61: short >>> 16,
      63: 0x07 | (kind === MULTIWORD_DMA ? 1 << mode + 8 : 0),
      64: 0x0003,
      65: 120,
      66: 120,
      67: 120,
      68: 120,
      69: 0,
      75: QUEUE_DEPTH - 1,
      // Gen 1 to 3; NCQ; NCQ's log.
      76: 0x010e,
      80: 0x01fe,
      // SMART, power management, write cache, look-ahead, NOP.
      82: 0x4061 | 1 << 3,
      // FLUSH CACHE and EXT, 48 bits.
      83: 0x7400,
      84: 0x4060,
      85: 0x4000 | commands & ~1 | (smart ? 1 : 0) | 1 << 3,
      86: 0x3400,
      87: 0x4060,
      88: 0x3f | (kind === ULTRA_DMA ? 1 << mode + 8 : 0),
      100: word(0n),
      101: word(1n),
      102: word(2n),
      103: word(3n),
      // One logical sector a physical one.
      106: 0x4000,
      // TRIM, and the blocks that it takes.
      105: this.#block.readOnly ? 0 : TRIM_BLOCKS,
      169: this.#block.readOnly ? 0 : 1,
      // Not a rotating medium.
      217: 1,
      222: 0x10ff,
    }, {
      10: [this.#serial, 20],
      23: [FIRMWARE, 8],
      27: [MODEL, 40],
    });
  }
}

/** Sectors of a command. */
interface Range {
  readonly lba: number;
  readonly sectors: number;
}

/** Commands that move DRQ blocks of SET MULTIPLE MODE. */
const MULTIPLE: ReadonlySet<number> = new Set([
  ATA.READ_MULTIPLE,
  ATA.READ_MULTIPLE_EXT,
  ATA.WRITE_MULTIPLE,
  ATA.WRITE_MULTIPLE_EXT,
  ATA.WRITE_MULTIPLE_FUA_EXT,
]);
/** Commands with a 28-bit address, whose upper four bits are in DEVICE. */
const SHORT: ReadonlySet<number> = new Set([
  ATA.READ_SECTORS,
  ATA.READ_MULTIPLE,
  ATA.READ_DMA,
  ATA.READ_VERIFY,
  ATA.WRITE_SECTORS,
  ATA.WRITE_MULTIPLE,
  ATA.WRITE_DMA,
]);

function rangeOf({ command, lba, count, device }: AtaCommand): Range {
  if ((device & DEVICE_LBA) === 0) throw new AtaError(ERROR_ABRT);
  if (!SHORT.has(command)) return { lba, sectors: count || COUNT48_ZERO };
  return {
    lba: (lba & 0xff_ffff) + (device & 0xf) * 2 ** 24,
    sectors: count & 0xff || COUNT28_ZERO,
  };
}

/** Queued commands have their count in FEATURE. */
function queuedRangeOf({ lba, features }: AtaCommand): Range {
  return { lba, sectors: features || COUNT48_ZERO };
}

/** Whether SET MULTIPLE MODE takes a count: a power of two up to the greatest, or zero. */
function isMultiple(count: number): boolean {
  return count <= MAX_MULTIPLE && (count & count - 1) === 0;
}

function isTransferMode(mode: number): boolean {
  const greatest = TRANSFER_MODES[mode >>> 3];
  return greatest !== undefined && (mode & 7) <= greatest;
}

/** The SATA disk. */
export default definePlugin({
  name: "ahci-hd",
  version: "1.0.0",
  summary: "SATA disk on an AHCI controller",
  options: driveOptions,
  state: hdState,
  backend: "block",
  controller: "ahci",
  create: (ctx, options) => new HardDisk(ctx, identityOf(ctx.id, options)),
});
