/**
 * A SATA CD or DVD drive for a port of an AHCI controller: the PACKET feature set of ACS-3, with
 * the commands of Multimedia Commands (MMC-6), T10/1836-D.
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
  DEVICE_LBA,
  ERROR_ABRT,
  FEATURE,
  identifyData,
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
import {
  BLOCK,
  configuration,
  MEDIA_EVENT,
  modePages,
  SCSI,
  SENSE,
  type Sense,
  senseData,
  toc,
} from "./scsi.ts";

/** ACS-3, table 206: signature of a device with the PACKET feature set. */
const SIGNATURE: AtaRegisters = { lba: 0xeb1401, count: 1, device: 0 };
const VENDOR = "DIAPAUSE";
const PRODUCT = "CD-ROM";
const FIRMWARE = "1.0";
/** COUNT at the end of a PACKET command: the interrupt reason is status. */
const REASON_STATUS = 3;
const SENSE_KEY_SHIFT = 4;
/** Bytes moved at a time between the guest and the image. */
const CHUNK = 1 << 20;

// Bytes and bits of packets.
const STOP_START = 1 << 0;
const STOP_LOAD_EJECT = 1 << 1;
const PREVENT = 1 << 0;
const TOC_MSF = 1 << 1;
const INQUIRY_VITAL = 1 << 0;
const VITAL_PAGES = 0x00;
const VITAL_SERIAL = 0x80;
const EVENT_POLLED = 1 << 0;
const EVENT_CLASS_MEDIA = 4;
const EVENT_NOT_AVAILABLE = 1 << 7;
const MEDIA_PRESENT = 1 << 1;
const MEDIA_TRAY_OPEN = 1 << 0;
/** READ CD: the user data alone. */
const READ_CD_USER_DATA = 0x10;
const READ_CD_SELECTION = 0xf8;

/** Commands that are answered though the drive has something else to tell first: SPC-3, section 5.8.7. */
const BEFORE_ATTENTION: ReadonlySet<number> = new Set([
  SCSI.REQUEST_SENSE,
  SCSI.INQUIRY,
  SCSI.GET_CONFIGURATION,
  SCSI.GET_EVENT_STATUS_NOTIFICATION,
]);

const senseType = record({ key: u8({ max: 15 }), asc: u8(), ascq: u8() });

const cdState = schema("ahci-cd", 1, {
  /** Size of the medium in bytes, which the guest has seen; 0 without one. */
  size: u64(),
  /** What REQUEST SENSE tells. */
  sense: senseType,
  /** What the next command is refused with; key 0 for nothing. */
  attention: senseType,
  /** The guest keeps the user from taking the medium out. */
  locked: bool(),
  /** The guest has opened the tray. */
  trayOpen: bool(),
  /** The event that the guest has not asked for yet. */
  event: u8({ max: MEDIA_EVENT.MEDIA_REMOVAL }),
});
type CdState = Infer<typeof cdState>;

/** A packet that fails. */
class PacketError extends Error {
  constructor(readonly sense: Sense, message = "") {
    super(message);
  }
}

/** The drive. */
class CdDrive implements Device, SataDrive {
  readonly signature = SIGNATURE;
  readonly #ctx: DeviceContext<CdState, "block">;
  readonly #block: BlockBackend;
  readonly #serial: string;
  readonly #requests: BlockRequests;
  #state: CdState;

  constructor(
    ctx: DeviceContext<CdState, "block">,
    { serial, place }: DriveIdentity,
  ) {
    checkSerial(serial);
    this.#ctx = ctx;
    this.#block = ctx.backend;
    this.#serial = serial;
    this.#requests = new BlockRequests(ctx);
    this.#state = this.#powerOn();
    ctx.backend.media?.onChange((event) => this.#mediaChanged(event));
    ctx.ports.plug<SataDrive>(SATA, this, place);
    ctx.snapshot.register({
      save: () => ({ ...this.#state }),
      restore: (state) => this.#restore(state),
    });
  }

  reset(): void {
    this.#requests.cancel();
    // A tray that the guest has opened is pulled in.
    this.#block.media?.load();
    this.#state = this.#powerOn();
    this.#block.media?.lock(false);
  }

  /** The controller gives no more commands; those under way are finished. */
  pause(): Promise<void> {
    return this.#requests.drain();
  }

  isQueued(): boolean {
    return false;
  }

  execute(task: AtaTask, done: (outcome: AtaOutcome) => void): void {
    this.#requests.start(this.#perform(task), done);
  }

  abort(): void {
    this.#requests.cancel();
  }

  linkReset(hard: boolean): void {
    this.#requests.cancel();
    if (hard) this.#state.attention = { ...SENSE.ATTENTION_RESET };
  }

  /** Blocks of the medium; 0 where there is none that the guest can read. */
  get #blocks(): number {
    const { media, size } = this.#block;
    if (this.#state.trayOpen || media?.present === false) return 0;
    return Math.floor(size / BLOCK);
  }

  #powerOn(): CdState {
    return {
      size: BigInt(this.#block.size),
      sense: { ...SENSE.NONE },
      attention: { ...SENSE.ATTENTION_RESET },
      locked: false,
      trayOpen: false,
      event: MEDIA_EVENT.NONE,
    };
  }

  #restore(state: CdState): void {
    if (state.size !== BigInt(this.#block.size)) {
      throw new SchemaError(
        "size",
        `is ${state.size} bytes, but the image given has ${this.#block.size}: give the image that the snapshot was made with, or one of its size`,
      );
    }
    this.#state = { ...state };
    this.#block.media?.lock(state.locked);
  }

  /** The user has changed the medium, or asks for it. */
  #mediaChanged(event: "inserted" | "removed" | "requested"): void {
    const state = this.#state;
    state.size = BigInt(this.#block.size);
    if (event === "requested") state.event = MEDIA_EVENT.EJECT_REQUEST;
    else if (event === "removed") state.event = MEDIA_EVENT.MEDIA_REMOVAL;
    else {
      state.event = MEDIA_EVENT.NEW_MEDIA;
      state.attention = { ...SENSE.ATTENTION_MEDIUM_CHANGED };
      state.trayOpen = false;
    }
  }

  *#perform(task: AtaTask): BlockSteps<AtaOutcome> {
    const { command } = task;
    const good: AtaOutcome = {
      protocol: "register",
      status: STATUS_GOOD,
      error: 0,
    };
    switch (command.command) {
      case ATA.PACKET:
        return yield* this.#packet(task);
      case ATA.IDENTIFY_PACKET_DEVICE:
        task.toGuest(0, this.#identify());
        return { ...good, protocol: "pio-in" };
      case ATA.DEVICE_RESET:
        return { ...good, status: 0, error: 1, registers: SIGNATURE };
      case ATA.EXECUTE_DEVICE_DIAGNOSTIC:
        return { ...good, error: 1, registers: SIGNATURE };
      case ATA.SET_FEATURES:
        if (this.#takesFeature(command)) return good;
        break;
      case ATA.FLUSH_CACHE:
      case ATA.STANDBY_IMMEDIATE:
      case ATA.IDLE_IMMEDIATE:
      case ATA.SLEEP:
        return good;
      case ATA.CHECK_POWER_MODE:
        return { ...good, registers: { ...command, count: 0xff } };
      case ATA.IDENTIFY_DEVICE:
      case ATA.READ_SECTORS:
        // ACS-3, section 7.12.3: refused, with the signature that tells what this is.
        return {
          ...good,
          status: STATUS_BAD,
          error: ERROR_ABRT,
          registers: SIGNATURE,
        };
    }
    return { ...good, status: STATUS_BAD, error: ERROR_ABRT };
  }

  #takesFeature({ features }: AtaCommand): boolean {
    const feature = features & 0xff;
    return feature === FEATURE.SET_TRANSFER_MODE ||
      feature === FEATURE.ENABLE_REVERT || feature === FEATURE.DISABLE_REVERT;
  }

  /** A PACKET command: MMC-6 annex A tells how ATA and SCSI status go together. */
  *#packet(task: AtaTask): BlockSteps<AtaOutcome> {
    const registers = { lba: 0, count: REASON_STATUS, device: DEVICE_LBA };
    try {
      this.#refuseBefore(task.packet[0]);
      const isSenseRead = task.packet[0] === SCSI.REQUEST_SENSE;
      if (!isSenseRead) this.#state.sense = { ...SENSE.NONE };
      const data = yield* this.#scsi(task);
      if (data !== null) task.toGuest(0, data);
      return { protocol: "register", status: STATUS_GOOD, error: 0, registers };
    } catch (failure) {
      if (!(failure instanceof PacketError)) throw failure;
      const { sense, message } = failure;
      if (message !== "") this.#ctx.log.warn(message);
      this.#state.sense = { ...sense };
      return {
        protocol: "register",
        status: STATUS_BAD,
        error: sense.key << SENSE_KEY_SHIFT | ERROR_ABRT,
        registers,
      };
    }
  }

  #refuseBefore(operation: number): void {
    const { attention } = this.#state;
    if (attention.key === 0 || BEFORE_ATTENTION.has(operation)) return;
    this.#state.attention = { ...SENSE.NONE };
    throw new PacketError(attention);
  }

  #requireMedium(): number {
    const blocks = this.#blocks;
    if (blocks > 0) return blocks;
    throw new PacketError(
      this.#state.trayOpen
        ? SENSE.NOT_READY_TRAY_OPEN
        : SENSE.NOT_READY_NO_MEDIUM,
    );
  }

  /** Does a packet; returns the data, up to what it asks for, or null where there are none. */
  *#scsi(task: AtaTask): BlockSteps<Uint8Array | null> {
    const { packet } = task;
    const view = new DataView(packet.buffer, packet.byteOffset, packet.length);
    const length8 = packet[4];
    const length16 = view.getUint16(7);
    switch (packet[0]) {
      case SCSI.TEST_UNIT_READY:
      case SCSI.SEEK_10:
        this.#requireMedium();
        return null;
      case SCSI.REQUEST_SENSE: {
        const { sense, attention } = this.#state;
        const told = sense.key === 0 ? attention : sense;
        this.#state.sense = { ...SENSE.NONE };
        if (told === attention) this.#state.attention = { ...SENSE.NONE };
        return senseData(told).subarray(0, length8);
      }
      case SCSI.INQUIRY:
        return this.#inquiry(packet).subarray(0, view.getUint16(3));
      case SCSI.START_STOP_UNIT:
        this.#startStop(packet[4]);
        return null;
      case SCSI.PREVENT_ALLOW_MEDIUM_REMOVAL:
        this.#state.locked = (packet[4] & PREVENT) !== 0;
        this.#block.media?.lock(this.#state.locked);
        return null;
      case SCSI.READ_FORMAT_CAPACITIES:
        return Uint8Array.of(
          0,
          0,
          0,
          8,
          ...word(this.#requireMedium()),
          2,
          0,
          BLOCK >>> 8,
          0,
        ).subarray(0, length16);
      case SCSI.READ_CAPACITY:
        return Uint8Array.of(
          ...word(this.#requireMedium() - 1),
          ...word(BLOCK),
        );
      case SCSI.READ_10:
        return yield* this.#read(task, view.getUint32(2), length16);
      case SCSI.READ_12:
        return yield* this.#read(task, view.getUint32(2), view.getUint32(6));
      case SCSI.READ_CD: {
        const blocks = packet[6] << 16 | packet[7] << 8 | packet[8];
        const selection = packet[9] & READ_CD_SELECTION;
        if (selection === 0 || blocks === 0) return null;
        if (selection !== READ_CD_USER_DATA) {
          throw new PacketError(SENSE.ILLEGAL_FIELD);
        }
        return yield* this.#read(task, view.getUint32(2), blocks);
      }
      case SCSI.READ_TOC_PMA_ATIP: {
        // Old hosts ask for the format in the last byte.
        const format = packet[2] & 0xf || packet[9] >>> 6;
        return found(toc(
          format,
          this.#requireMedium(),
          (packet[1] & TOC_MSF) !== 0,
          packet[6],
        )).subarray(0, length16);
      }
      case SCSI.READ_SUB_CHANNEL:
        this.#requireMedium();
        return Uint8Array.of(0, 0x15, 0, 0).subarray(0, length16);
      case SCSI.GET_CONFIGURATION:
        return configuration(this.#blocks, packet[1] & 3, view.getUint16(2))
          .subarray(0, length16);
      case SCSI.GET_EVENT_STATUS_NOTIFICATION:
        return this.#events(packet).subarray(0, length16);
      case SCSI.READ_DISC_INFORMATION:
        this.#requireMedium();
        return discInformation().subarray(0, length16);
      case SCSI.READ_TRACK_INFORMATION:
        return trackInformation(this.#requireMedium()).subarray(0, length16);
      case SCSI.MODE_SENSE_10:
        return found(modePages(packet[2] & 0x3f, this.#state.locked))
          .subarray(0, length16);
      case SCSI.READ_DISC_STRUCTURE:
        return found(discStructure(packet[7], this.#requireMedium()))
          .subarray(0, view.getUint16(8));
      case SCSI.SET_CD_SPEED:
        return null;
      case SCSI.MECHANISM_STATUS:
        return new Uint8Array(8).subarray(0, view.getUint16(8));
      default:
        throw new PacketError(SENSE.ILLEGAL_OPERATION_CODE);
    }
  }

  *#read(task: AtaTask, lba: number, blocks: number): BlockSteps<null> {
    if (lba + blocks > this.#requireMedium()) {
      throw new PacketError(SENSE.ILLEGAL_LBA);
    }
    const length = blocks * BLOCK;
    for (let at = 0; at < length && at < task.room; at += CHUNK) {
      const bytes = new Uint8Array(Math.min(CHUNK, length - at));
      try {
        yield (block) => block.read(lba * BLOCK + at, bytes);
      } catch (error) {
        throw new PacketError(
          SENSE.MEDIUM_ERROR_READ,
          (error as Error).message,
        );
      }
      task.toGuest(at, bytes);
    }
    return null;
  }

  /** INQUIRY, SPC-3 section 6.4, with the vital product data that tools ask for. */
  #inquiry(packet: Uint8Array): Uint8Array {
    const CD_ROM = 5;
    if ((packet[1] & INQUIRY_VITAL) === 0) {
      if (packet[2] !== 0) throw new PacketError(SENSE.ILLEGAL_FIELD);
      const REMOVABLE = 0x80;
      const VERSION_SPC3 = 5;
      const RESPONSE_FORMAT = 0x32;
      return Uint8Array.of(
        CD_ROM,
        REMOVABLE,
        VERSION_SPC3,
        RESPONSE_FORMAT,
        31,
        0,
        0,
        0,
        ...text(VENDOR, 8),
        ...text(PRODUCT, 16),
        ...text(FIRMWARE, 4),
      );
    }
    const page = (body: number[]) =>
      Uint8Array.of(CD_ROM, packet[2], 0, body.length, ...body);
    switch (packet[2]) {
      case VITAL_PAGES:
        return page([VITAL_PAGES, VITAL_SERIAL]);
      case VITAL_SERIAL:
        return page(text(this.#serial, this.#serial.length));
      default:
        throw new PacketError(SENSE.ILLEGAL_FIELD);
    }
  }

  /** START STOP UNIT, MMC-6 section 6.42. */
  #startStop(flags: number): void {
    if ((flags & STOP_LOAD_EJECT) === 0) return;
    const state = this.#state;
    if ((flags & STOP_START) === 0) {
      if (state.locked) throw new PacketError(SENSE.ILLEGAL_REMOVAL_PREVENTED);
      if (state.trayOpen) return;
      state.trayOpen = true;
      state.event = MEDIA_EVENT.MEDIA_REMOVAL;
      this.#block.media?.eject();
    } else if (state.trayOpen) {
      state.trayOpen = false;
      this.#block.media?.load();
      state.size = BigInt(this.#block.size);
      if (this.#blocks === 0) return;
      state.event = MEDIA_EVENT.NEW_MEDIA;
      state.attention = { ...SENSE.ATTENTION_MEDIUM_CHANGED };
    }
  }

  /** GET EVENT STATUS NOTIFICATION, MMC-6 section 6.6: media events, polled. */
  #events(packet: Uint8Array): Uint8Array {
    if ((packet[1] & EVENT_POLLED) === 0) {
      throw new PacketError(SENSE.ILLEGAL_FIELD);
    }
    const supported = 1 << EVENT_CLASS_MEDIA;
    if ((packet[4] & supported) === 0) {
      return Uint8Array.of(0, 2, EVENT_NOT_AVAILABLE, supported);
    }
    const { event, trayOpen } = this.#state;
    this.#state.event = MEDIA_EVENT.NONE;
    const status = (this.#blocks > 0 ? MEDIA_PRESENT : 0) |
      (trayOpen ? MEDIA_TRAY_OPEN : 0);
    return Uint8Array.of(
      0,
      6,
      EVENT_CLASS_MEDIA,
      supported,
      event,
      status,
      0,
      0,
    );
  }

  /** IDENTIFY PACKET DEVICE, ACS-3 section 7.13. */
  #identify(): Uint8Array {
    return identifyData({
      // ATAPI, CD-ROM, removable, DRQ within 50 us, packets of 12 bytes.
      0: 0x85c0,
      49: 0x0f00,
      50: 0x4000,
      53: 0x0006,
      63: 0x0007,
      64: 0x0003,
      65: 120,
      66: 120,
      67: 120,
      68: 120,
      76: 0x000e,
      80: 0x01f0,
      // PACKET, DEVICE RESET, NOP.
      82: 0x4210,
      83: 0x4000,
      84: 0x4000,
      85: 0x4210,
      86: 0,
      87: 0x4000,
      88: 0x203f,
      222: 0x10ff,
    }, {
      10: [this.#serial, 20],
      23: [FIRMWARE, 8],
      27: [`${VENDOR} ${PRODUCT}`, 40],
    });
  }
}

/** The data, where the drive has them. */
function found(data: Uint8Array | null): Uint8Array {
  if (data === null) throw new PacketError(SENSE.ILLEGAL_FIELD);
  return data;
}

function word(value: number): number[] {
  return [
    value >>> 24,
    value >>> 16 & 0xff,
    value >>> 8 & 0xff,
    value & 0xff,
  ];
}

function text(value: string, length: number): number[] {
  return [...value.padEnd(length)].map((char) => char.charCodeAt(0));
}

/** READ DISC INFORMATION, MMC-6 section 6.21: complete, one session of one track. */
function discInformation(): Uint8Array {
  const bytes = new Uint8Array(34);
  bytes.set([0, 32, 0x0e, 1, 1, 1, 1, 0x20]);
  bytes.fill(0xff, 16, 24);
  return bytes;
}

/** READ TRACK INFORMATION, MMC-6 section 6.26. */
function trackInformation(blocks: number): Uint8Array {
  const bytes = new Uint8Array(36);
  bytes.set([0, 34, 1, 1, 0, 4, 1]);
  bytes.set(word(blocks), 24);
  return bytes;
}

/** READ DISC STRUCTURE, MMC-6 section 6.22: the physical format (0) and the copyright (1) of a DVD. */
function discStructure(format: number, blocks: number): Uint8Array | null {
  const FIRST_SECTOR = 0x30000;
  if (format === 1) return Uint8Array.of(0, 6, 0, 0, 0, 0, 0, 0);
  if (format !== 0) return null;
  const bytes = new Uint8Array(4 + 2048);
  bytes.set([bytes.length - 2 >>> 8, bytes.length - 2 & 0xff]);
  bytes.set([1, 0x0f, 1, 0, ...word(FIRST_SECTOR)], 4);
  bytes.set(word(FIRST_SECTOR + blocks - 1), 12);
  return bytes;
}

/** The SATA CD drive. */
export default definePlugin({
  name: "ahci-cd",
  version: "1.0.0",
  summary: "SATA CD/DVD drive on an AHCI controller",
  options: driveOptions,
  state: cdState,
  backend: "block",
  removable: true,
  controller: "ahci",
  create: (ctx, options) => new CdDrive(ctx, identityOf(ctx.id, options)),
});
