/**
 * Commands, status and errors of ATA devices: ATA/ATAPI Command Set 3 (ACS-3), T13/2161-D.
 *
 * @module
 */

import { MachineError } from "../../core/plugin.ts";

/** Bytes of a sector. */
export const SECTOR = 512;

/** Command codes, ACS-3 annex B. */
export const ATA = {
  NOP: 0x00,
  DATA_SET_MANAGEMENT: 0x06,
  DEVICE_RESET: 0x08,
  RECALIBRATE: 0x10,
  READ_SECTORS: 0x20,
  READ_SECTORS_EXT: 0x24,
  READ_DMA_EXT: 0x25,
  READ_NATIVE_MAX_ADDRESS_EXT: 0x27,
  READ_MULTIPLE_EXT: 0x29,
  READ_LOG_EXT: 0x2f,
  WRITE_SECTORS: 0x30,
  WRITE_SECTORS_EXT: 0x34,
  WRITE_DMA_EXT: 0x35,
  WRITE_MULTIPLE_EXT: 0x39,
  WRITE_DMA_FUA_EXT: 0x3d,
  READ_VERIFY: 0x40,
  READ_VERIFY_EXT: 0x42,
  READ_LOG_DMA_EXT: 0x47,
  READ_FPDMA_QUEUED: 0x60,
  WRITE_FPDMA_QUEUED: 0x61,
  SEEK: 0x70,
  EXECUTE_DEVICE_DIAGNOSTIC: 0x90,
  INITIALIZE_DEVICE_PARAMETERS: 0x91,
  PACKET: 0xa0,
  IDENTIFY_PACKET_DEVICE: 0xa1,
  SMART: 0xb0,
  READ_MULTIPLE: 0xc4,
  WRITE_MULTIPLE: 0xc5,
  SET_MULTIPLE_MODE: 0xc6,
  READ_DMA: 0xc8,
  WRITE_DMA: 0xca,
  WRITE_MULTIPLE_FUA_EXT: 0xce,
  STANDBY_IMMEDIATE: 0xe0,
  IDLE_IMMEDIATE: 0xe1,
  STANDBY: 0xe2,
  IDLE: 0xe3,
  CHECK_POWER_MODE: 0xe5,
  SLEEP: 0xe6,
  FLUSH_CACHE: 0xe7,
  FLUSH_CACHE_EXT: 0xea,
  IDENTIFY_DEVICE: 0xec,
  SET_FEATURES: 0xef,
  READ_NATIVE_MAX_ADDRESS: 0xf8,
} as const;

/** Subcommands of SET FEATURES, ACS-3 section 7.45. */
export const FEATURE = {
  ENABLE_WRITE_CACHE: 0x02,
  SET_TRANSFER_MODE: 0x03,
  ENABLE_APM: 0x05,
  ENABLE_SATA: 0x10,
  DISABLE_READ_LOOK_AHEAD: 0x55,
  DISABLE_REVERT: 0x66,
  DISABLE_WRITE_CACHE: 0x82,
  DISABLE_APM: 0x85,
  DISABLE_SATA: 0x90,
  ENABLE_READ_LOOK_AHEAD: 0xaa,
  ENABLE_REVERT: 0xcc,
} as const;

// STATUS and ERROR, ACS-3 sections 6.2 and 6.3.
export const STATUS_GOOD = 0x50;
export const STATUS_BAD = 0x51;
export const ERROR_ABRT = 1 << 2;
export const ERROR_IDNF = 1 << 4;
export const ERROR_UNC = 1 << 6;
/** DEVICE: LBA addressing. */
export const DEVICE_LBA = 1 << 6;
/** DEVICE of a queued write: forced unit access. */
export const DEVICE_FUA = 1 << 7;

/** Characters of a serial number at most. */
export const MAX_SERIAL = 20;

/**
 * Checks a serial number.
 *
 * @param serial The serial number.
 * @throws {MachineError} When IDENTIFY data cannot hold it.
 */
export function checkSerial(serial: string): void {
  if (serial.length <= MAX_SERIAL && !/[^ -~]/.test(serial)) return;
  throw new MachineError(
    `serial "${serial}": the serial number of an ATA device has at most ${MAX_SERIAL} characters of ASCII`,
  );
}

/** Words of IDENTIFY data. */
const IDENTIFY_WORDS = 256;
const WORD_INTEGRITY = 255;
const INTEGRITY_SIGNATURE = 0xa5;

/**
 * Makes the data of IDENTIFY DEVICE or IDENTIFY PACKET DEVICE.
 *
 * @param words Words by number; the others are zero.
 * @param texts Strings by the word that they begin at, with their length in bytes.
 * @returns 512 bytes, with the checksum of ACS-3, section 7.12.7.85.
 */
export function identifyData(
  words: Readonly<Record<number, number>>,
  texts: Readonly<Record<number, readonly [text: string, length: number]>>,
): Uint8Array {
  const bytes = new Uint8Array(2 * IDENTIFY_WORDS);
  const view = new DataView(bytes.buffer);
  for (const [word, value] of Object.entries(words)) {
    view.setUint16(2 * Number(word), value, true);
  }
  for (const [word, [text, length]] of Object.entries(texts)) {
    // ATA strings are padded with spaces, and the bytes of each word are swapped.
    const padded = text.padEnd(length).slice(0, length);
    for (let i = 0; i < length; i++) {
      bytes[2 * Number(word) + (i ^ 1)] = padded.charCodeAt(i);
    }
  }
  bytes[2 * WORD_INTEGRITY] = INTEGRITY_SIGNATURE;
  bytes[2 * WORD_INTEGRITY + 1] = checksum(bytes);
  return bytes;
}

/**
 * The byte that makes the sum of all bytes zero, when it takes the place of the last, which is zero.
 *
 * @param bytes The bytes.
 */
export function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}
