/**
 * SMART data of a disk that has no faults: ACS-3, section 7.46 and annex A; the layout of the
 * attributes is SFF-8035i, which every tool reads.
 *
 * @module
 */
import { checksum, SECTOR } from "./ata.ts";

const NS_PER_HOUR = 3.6e12;

/** An attribute. */
interface Attribute {
  readonly id: number;
  /** Whether it foretells failure. */
  readonly prefailure: boolean;
  readonly threshold: number;
  /** Its raw value, from the hours that the disk has been on. */
  raw(hours: number): number;
}

const ATTRIBUTES: readonly Attribute[] = [
  // Raw read error rate.
  { id: 1, prefailure: true, threshold: 6, raw: () => 0 },
  // Reallocated sectors.
  { id: 5, prefailure: true, threshold: 36, raw: () => 0 },
  // Power-on hours.
  { id: 9, prefailure: false, threshold: 0, raw: (hours) => hours },
  // Power cycles.
  { id: 12, prefailure: false, threshold: 0, raw: () => 1 },
  // Airflow temperature.
  { id: 190, prefailure: false, threshold: 50, raw: () => 31 },
  // Pending sectors.
  { id: 197, prefailure: false, threshold: 0, raw: () => 0 },
];

const REVISION = 1;
const FIRST_ATTRIBUTE = 2;
const ATTRIBUTE_BYTES = 12;
const FLAG_PREFAILURE = 1;
const FLAG_ONLINE = 2;
const VALUE_BEST = 100;
/** Self-test status: none was run. */
const OFFLINE_CAPABILITY = 367;
const SMART_CAPABILITY = 368;
const ERROR_LOGGING = 370;
const CHECKSUM = 511;
const SELF_TEST_LOG = 6;
const ERROR_LOG = 1;

function page(fill: (bytes: Uint8Array, view: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(SECTOR);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, REVISION, true);
  fill(bytes, view);
  bytes[CHECKSUM] = checksum(bytes);
  return bytes;
}

/**
 * SMART READ DATA.
 *
 * @param now Virtual nanoseconds since the machine was made.
 * @returns 512 bytes.
 */
export function smartValues(now: number): Uint8Array {
  const hours = Math.floor(now / NS_PER_HOUR);
  return page((bytes, view) => {
    ATTRIBUTES.forEach(({ id, prefailure, raw }, i) => {
      const at = FIRST_ATTRIBUTE + i * ATTRIBUTE_BYTES;
      bytes[at] = id;
      view.setUint16(
        at + 1,
        FLAG_ONLINE | (prefailure ? FLAG_PREFAILURE : 0),
        true,
      );
      bytes[at + 3] = VALUE_BEST;
      bytes[at + 4] = VALUE_BEST;
      view.setUint32(at + 5, raw(hours), true);
    });
    bytes[OFFLINE_CAPABILITY] = 0;
    view.setUint16(SMART_CAPABILITY, 3, true);
    bytes[ERROR_LOGGING] = 1;
  });
}

/** SMART READ THRESHOLDS: 512 bytes. */
export function smartThresholds(): Uint8Array {
  return page((bytes) => {
    ATTRIBUTES.forEach(({ id, threshold }, i) => {
      bytes.set([id, threshold], FIRST_ATTRIBUTE + i * ATTRIBUTE_BYTES);
    });
  });
}

/**
 * SMART READ LOG: the error and the self-test log, which are empty.
 *
 * @param address The log.
 * @returns 512 bytes, or null where there is no such log.
 */
export function smartLog(address: number): Uint8Array | null {
  return address === ERROR_LOG || address === SELF_TEST_LOG
    ? page(() => {})
    : null;
}
