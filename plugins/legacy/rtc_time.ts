/**
 * The time, calendar and alarm registers of an MC146818 (Motorola MC146818A data sheet, "Time,
 * calendar and alarm locations"), apart from any clock.
 *
 * @module
 */

/** Register numbers. */
export const REG = {
  SECONDS: 0x00,
  SECONDS_ALARM: 0x01,
  MINUTES: 0x02,
  MINUTES_ALARM: 0x03,
  HOURS: 0x04,
  HOURS_ALARM: 0x05,
  DAY_OF_WEEK: 0x06,
  DAY_OF_MONTH: 0x07,
  MONTH: 0x08,
  YEAR: 0x09,
  A: 0x0a,
  B: 0x0b,
  C: 0x0c,
  D: 0x0d,
  /** Not of the MC146818: where the FADT says that the century is. */
  CENTURY: 0x32,
} as const;

/** The registers that show the time. */
export const CLOCK_REGISTERS: ReadonlySet<number> = new Set([
  REG.SECONDS,
  REG.MINUTES,
  REG.HOURS,
  REG.DAY_OF_WEEK,
  REG.DAY_OF_MONTH,
  REG.MONTH,
  REG.YEAR,
  REG.CENTURY,
]);

/** Register B: binary rather than BCD. */
export const RTC_BINARY = 0x04;
/** Register B: 24 hours rather than 12. */
export const RTC_24H = 0x02;

/** Hours, in 12-hour mode: afternoon. */
const PM = 0x80;
/** Alarm bytes from 0xC0 match everything. */
const DONT_CARE = 0xc0;
const DAYS = 7;
const YEARS = 10_000;
const SECONDS_PER_MINUTE = 60;
const SECONDS_PER_HOUR = 3600;
const SECONDS_PER_DAY = 86_400;

function encode(value: number, control: number): number {
  return control & RTC_BINARY
    ? value
    : Math.floor(value / 10) << 4 | value % 10;
}

function decode(value: number, control: number): number {
  return control & RTC_BINARY ? value : (value >> 4) * 10 + (value & 0x0f);
}

function encodeHours(hours: number, control: number): number {
  if (control & RTC_24H) return encode(hours, control);
  return encode(hours % 12 === 0 ? 12 : hours % 12, control) |
    (hours >= 12 ? PM : 0);
}

function decodeHours(value: number, control: number): number {
  if (control & RTC_24H) return decode(value, control);
  return decode(value & ~PM, control) % 12 + (value & PM ? 12 : 0);
}

function weekday(date: Date): number {
  return date.getUTCDay();
}

/**
 * The registers that show a time.
 *
 * @param time Milliseconds since 1970.
 * @param weekdayOffset Days that the day of the week is ahead of the date.
 * @param control Register B.
 * @returns Values by register number.
 */
export function encodeTime(
  time: number,
  weekdayOffset: number,
  control: number,
): Record<number, number> {
  const date = new Date(time);
  // The registers hold four digits.
  const year = (date.getUTCFullYear() % YEARS + YEARS) % YEARS;
  return {
    [REG.SECONDS]: encode(date.getUTCSeconds(), control),
    [REG.MINUTES]: encode(date.getUTCMinutes(), control),
    [REG.HOURS]: encodeHours(date.getUTCHours(), control),
    [REG.DAY_OF_WEEK]: encode(
      (weekday(date) + weekdayOffset) % DAYS + 1,
      control,
    ),
    [REG.DAY_OF_MONTH]: encode(date.getUTCDate(), control),
    [REG.MONTH]: encode(date.getUTCMonth() + 1, control),
    [REG.YEAR]: encode(year % 100, control),
    [REG.CENTURY]: encode(Math.floor(year / 100), control),
  };
}

/**
 * The time that registers show, however odd they are: a field out of range carries into the next.
 *
 * @param registers Values by register number.
 * @param control Register B.
 * @returns Milliseconds since 1970, and how far the day of the week is ahead of the date.
 */
export function decodeTime(
  registers: Record<number, number>,
  control: number,
): { time: number; weekdayOffset: number } {
  const field = (register: number) => decode(registers[register], control);
  const date = new Date(0);
  date.setUTCFullYear(
    field(REG.CENTURY) * 100 + field(REG.YEAR),
    field(REG.MONTH) - 1,
    field(REG.DAY_OF_MONTH),
  );
  date.setUTCHours(
    decodeHours(registers[REG.HOURS], control),
    field(REG.MINUTES),
    field(REG.SECONDS),
  );
  const ahead = field(REG.DAY_OF_WEEK) - 1 - weekday(date);
  return {
    time: date.getTime(),
    weekdayOffset: (ahead % DAYS + DAYS) % DAYS,
  };
}

/** The values of one alarm byte that match, in order. */
function matches(
  byte: number,
  count: number,
  decoded: (value: number) => number,
): number[] {
  if (byte >= DONT_CARE) return Array.from({ length: count }, (_, i) => i);
  const value = decoded(byte);
  return value < count ? [value] : [];
}

/**
 * When the alarm next matches.
 *
 * @param after Seconds since 1970; the alarm is later.
 * @param registers The alarm registers, by number.
 * @param control Register B.
 * @returns Seconds since 1970; undefined if the alarm never matches.
 */
export function nextAlarm(
  after: number,
  registers: ArrayLike<number>,
  control: number,
): number | undefined {
  const plain = (value: number) => decode(value, control);
  const seconds = matches(registers[REG.SECONDS_ALARM], 60, plain);
  const minutes = matches(registers[REG.MINUTES_ALARM], 60, plain);
  const hours = matches(
    registers[REG.HOURS_ALARM],
    24,
    (value) => decodeHours(value, control),
  );
  if (seconds.length === 0) return undefined;
  const from = after + 1;
  const midnight = Math.floor(from / SECONDS_PER_DAY) * SECONDS_PER_DAY;
  for (const day of [midnight, midnight + SECONDS_PER_DAY]) {
    for (const hour of hours) {
      const atHour = day + hour * SECONDS_PER_HOUR;
      if (atHour + SECONDS_PER_HOUR <= from) continue;
      for (const minute of minutes) {
        const atMinute = atHour + minute * SECONDS_PER_MINUTE;
        if (atMinute + SECONDS_PER_MINUTE <= from) continue;
        for (const second of seconds) {
          if (atMinute + second >= from) return atMinute + second;
        }
      }
    }
  }
  return undefined;
}
