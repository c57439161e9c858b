/**
 * Commands, sense data and tables of a CD or DVD drive: SCSI Primary Commands (SPC-3), T10/1416-D,
 * and Multimedia Commands (MMC-6), T10/1836-D.
 *
 * @module
 */

/** Bytes of a block of a data track. */
export const BLOCK = 2048;

/** Operation codes. */
export const SCSI = {
  TEST_UNIT_READY: 0x00,
  REQUEST_SENSE: 0x03,
  INQUIRY: 0x12,
  START_STOP_UNIT: 0x1b,
  PREVENT_ALLOW_MEDIUM_REMOVAL: 0x1e,
  READ_FORMAT_CAPACITIES: 0x23,
  READ_CAPACITY: 0x25,
  READ_10: 0x28,
  SEEK_10: 0x2b,
  READ_SUB_CHANNEL: 0x42,
  READ_TOC_PMA_ATIP: 0x43,
  GET_CONFIGURATION: 0x46,
  GET_EVENT_STATUS_NOTIFICATION: 0x4a,
  READ_DISC_INFORMATION: 0x51,
  READ_TRACK_INFORMATION: 0x52,
  MODE_SENSE_10: 0x5a,
  READ_12: 0xa8,
  READ_DISC_STRUCTURE: 0xad,
  SET_CD_SPEED: 0xbb,
  MECHANISM_STATUS: 0xbd,
  READ_CD: 0xbe,
} as const;

/** A sense key with its additional code and qualifier: SPC-3, section 4.5.6. */
export interface Sense {
  key: number;
  asc: number;
  ascq: number;
}

/** Sense data that this drive gives. */
export const SENSE = {
  NONE: { key: 0, asc: 0, ascq: 0 },
  NOT_READY_NO_MEDIUM: { key: 2, asc: 0x3a, ascq: 0 },
  NOT_READY_TRAY_OPEN: { key: 2, asc: 0x3a, ascq: 2 },
  MEDIUM_ERROR_READ: { key: 3, asc: 0x11, ascq: 0 },
  ILLEGAL_OPERATION_CODE: { key: 5, asc: 0x20, ascq: 0 },
  ILLEGAL_LBA: { key: 5, asc: 0x21, ascq: 0 },
  ILLEGAL_FIELD: { key: 5, asc: 0x24, ascq: 0 },
  ILLEGAL_REMOVAL_PREVENTED: { key: 5, asc: 0x53, ascq: 2 },
  ATTENTION_MEDIUM_CHANGED: { key: 6, asc: 0x28, ascq: 0 },
  ATTENTION_RESET: { key: 6, asc: 0x29, ascq: 0 },
} as const satisfies Record<string, Sense>;

/** Media events of GET EVENT STATUS NOTIFICATION: MMC-6, table 303. */
export const MEDIA_EVENT = {
  NONE: 0,
  EJECT_REQUEST: 1,
  NEW_MEDIA: 2,
  MEDIA_REMOVAL: 3,
} as const;

const FIXED_FORMAT = 0x70;
const SENSE_BYTES = 18;
const LEAD_OUT = 0xaa;
const TRACK_DATA = 0x14;
const FRAMES_PER_SECOND = 75;
const SECONDS_PER_MINUTE = 60;
/** Two seconds before the first block. */
const PREGAP = 150;

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/**
 * Fixed-format sense data, SPC-3 section 4.5.3.
 *
 * @param sense What to tell.
 */
export function senseData({ key, asc, ascq }: Sense): Uint8Array {
  const bytes = new Uint8Array(SENSE_BYTES);
  bytes[0] = FIXED_FORMAT;
  bytes[2] = key;
  bytes[7] = SENSE_BYTES - 8;
  bytes[12] = asc;
  bytes[13] = ascq;
  return bytes;
}

/** Minute, second and frame of a block. */
function msf(lba: number): number[] {
  const frames = lba + PREGAP;
  const seconds = Math.floor(frames / FRAMES_PER_SECOND);
  return [
    Math.floor(seconds / SECONDS_PER_MINUTE) & 0xff,
    seconds % SECONDS_PER_MINUTE,
    frames % FRAMES_PER_SECOND,
  ];
}

function address(lba: number, inMsf: boolean): number[] {
  return inMsf
    ? [0, ...msf(lba)]
    : [lba >>> 24, lba >>> 16 & 0xff, lba >>> 8 & 0xff, lba & 0xff];
}

function withLength(body: number[]): Uint8Array {
  const length = body.length;
  return Uint8Array.of(length >>> 8, length & 0xff, ...body);
}

/**
 * READ TOC/PMA/ATIP of a disc with one data track: MMC-6, section 6.25.
 *
 * @param format 0 the table of contents, 1 the sessions, 2 the raw table.
 * @param blocks Blocks of the disc.
 * @param inMsf Addresses are minutes, seconds and frames.
 * @param first The first track that is wanted; 0xAA for the lead-out.
 * @returns The data, or null where the disc has none such.
 */
export function toc(
  format: number,
  blocks: number,
  inMsf: boolean,
  first: number,
): Uint8Array | null {
  switch (format) {
    case 0: {
      if (first > 1 && first !== LEAD_OUT) return null;
      const track = [0, TRACK_DATA, 1, 0, ...address(0, inMsf)];
      const leadOut = [0, TRACK_DATA, LEAD_OUT, 0, ...address(blocks, inMsf)];
      return withLength([
        1,
        1,
        ...first === LEAD_OUT ? [] : track,
        ...leadOut,
      ]);
    }
    case 1:
      return withLength([1, 1, 0, TRACK_DATA, 1, 0, ...address(0, inMsf)]);
    case 2: {
      const point = (point: number, at: number[]) => [
        1,
        TRACK_DATA,
        0,
        point,
        0,
        0,
        0,
        0,
        ...at,
      ];
      return withLength([
        1,
        1,
        ...point(0xa0, [1, 0, 0]),
        ...point(0xa1, [1, 0, 0]),
        ...point(0xa2, msf(blocks)),
        ...point(1, msf(0)),
      ]);
    }
    default:
      return null;
  }
}

/** Discs of more blocks are DVDs: 99 minutes of CD. */
const CD_BLOCKS = 99 * SECONDS_PER_MINUTE * FRAMES_PER_SECOND;
const PROFILE_CD_ROM = 0x08;
const PROFILE_DVD_ROM = 0x10;
const FEATURE_CURRENT = 1;
const FEATURE_PERSISTENT = 2;

/** One feature of a drive: MMC-6, section 5. */
interface Feature {
  readonly code: number;
  readonly flags: number;
  readonly data: readonly number[];
}

/**
 * GET CONFIGURATION: MMC-6, section 6.5.
 *
 * @param blocks Blocks of the disc; 0 without one.
 * @param type 0 all features, 1 those that are current, 2 the one of code `start`.
 * @param start The first feature that is wanted.
 */
export function configuration(
  blocks: number,
  type: number,
  start: number,
): Uint8Array {
  const profile = blocks === 0
    ? 0
    : blocks > CD_BLOCKS
    ? PROFILE_DVD_ROM
    : PROFILE_CD_ROM;
  const ifCurrent = (is: boolean) => is ? FEATURE_CURRENT : 0;
  const always = FEATURE_CURRENT | FEATURE_PERSISTENT;
  const features: Feature[] = [
    // Profile list.
    {
      code: 0,
      flags: always,
      data: [PROFILE_DVD_ROM, PROFILE_CD_ROM].flatMap((p) => [
        0,
        p,
        ifCurrent(p === profile),
        0,
      ]),
    },
    // Core: the interface is ATAPI.
    { code: 1, flags: 2 << 2 | always, data: [0, 0, 0, 2, 1, 0, 0, 0] },
    // Removable medium: a tray, eject, lock.
    { code: 3, flags: 2 << 2 | always, data: [0x29, 0, 0, 0] },
    // Random readable.
    {
      code: 0x10,
      flags: ifCurrent(blocks > 0),
      data: [0, 0, BLOCK >>> 8, 0, 0, 16, 0, 0],
    },
    // CD read.
    {
      code: 0x1e,
      flags: ifCurrent(profile === PROFILE_CD_ROM),
      data: [0, 0, 0, 0],
    },
    // DVD read.
    { code: 0x1f, flags: ifCurrent(profile === PROFILE_DVD_ROM), data: [] },
  ];
  const body = features.filter(({ code, flags }) =>
    type === 2
      ? code === start
      : code >= start && (type === 0 || (flags & FEATURE_CURRENT) !== 0)
  ).flatMap(({ code, flags, data }) => [
    code >>> 8,
    code & 0xff,
    flags,
    data.length,
    ...data,
  ]);
  const bytes = new Uint8Array(8 + body.length);
  view(bytes).setUint32(0, bytes.length - 4);
  bytes[7] = profile;
  bytes.set(body, 8);
  return bytes;
}

const PAGE_ERROR_RECOVERY = 0x01;
const PAGE_CAPABILITIES = 0x2a;
const PAGE_ALL = 0x3f;
const MODE_HEADER_BYTES = 8;

/**
 * MODE SENSE (10): MMC-6, section 6.11 and SPC-3, section 6.10.
 *
 * @param page The mode page, or 3Fh for all.
 * @param locked Whether the medium is locked in.
 * @returns The data, or null where there is no such page.
 */
export function modePages(page: number, locked: boolean): Uint8Array | null {
  const speed = [0x2b, 0x12];
  const pages: Readonly<Record<number, readonly number[]>> = {
    [PAGE_ERROR_RECOVERY]: [0, 5, 0, 0, 0, 0, 0, 0, 0, 0],
    [PAGE_CAPABILITIES]: [
      // Reads CD-R, CD-RW, DVD-ROM; writes nothing.
      0x3b,
      0,
      // Multiple sessions; mode 2 forms 1 and 2.
      0x70,
      0,
      // A tray, eject, lock, and whether it is locked.
      0x29 | (locked ? 2 : 0),
      0,
      ...speed,
      0,
      0,
      2,
      0,
      ...speed,
      0,
      0,
      0,
      0,
      0,
      0,
    ],
  };
  const wanted = page === PAGE_ALL ? Object.keys(pages).map(Number) : [page];
  if (wanted.some((code) => pages[code] === undefined)) return null;
  const body = wanted.flatMap((code) => [
    code,
    pages[code].length,
    ...pages[code],
  ]);
  const bytes = new Uint8Array(MODE_HEADER_BYTES + body.length);
  view(bytes).setUint16(0, bytes.length - 2);
  bytes.set(body, MODE_HEADER_BYTES);
  return bytes;
}
