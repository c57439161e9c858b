/**
 * What the legacy devices share: fixed-rate tick counters in virtual time, 8-bit register
 * files on wider buses, and the checks that a restored state passes before it is taken.
 *
 * @module
 */
import {
  type DeviceClock,
  MachineError,
  type Timer,
} from "../../core/plugin.ts";

/** Virtual nanoseconds in a second. */
export const NS_PER_SECOND = 1e9;

/** Exact floor of a quotient of integers below 2^53. */
function quotient(dividend: number, divisor: number): number {
  return (dividend - dividend % divisor) / divisor;
}

/**
 * The number of whole ticks of an oscillator that have passed at a virtual time.
 *
 * @param time Virtual nanoseconds.
 * @param hertz The oscillator's frequency, below 9 MHz or a divisor of 1 GHz.
 */
export function ticksAt(time: number, hertz: number): number {
  const ns = Math.floor(time);
  if (NS_PER_SECOND % hertz === 0) return quotient(ns, NS_PER_SECOND / hertz);
  const seconds = quotient(ns, NS_PER_SECOND);
  return seconds * hertz +
    quotient((ns % NS_PER_SECOND) * hertz, NS_PER_SECOND);
}

/**
 * The first virtual nanosecond at which {@linkcode ticksAt} is `tick`.
 *
 * @param tick A tick count.
 * @param hertz The oscillator's frequency.
 */
export function timeOfTick(tick: number, hertz: number): number {
  if (NS_PER_SECOND % hertz === 0) return tick * (NS_PER_SECOND / hertz);
  const seconds = quotient(tick, hertz);
  const rest = (tick % hertz) * NS_PER_SECOND;
  return seconds * NS_PER_SECOND + quotient(rest + hertz - 1, hertz);
}

/**
 * Lets a timer that is due, but that the event loop has not come to, fire before the guest
 * changes what it depends on.
 *
 * @param timer The timer.
 * @param clock The clock that it runs on.
 * @param fire What it does.
 */
export function settleTimer(
  timer: Timer,
  clock: DeviceClock,
  fire: () => void,
): void {
  const { deadline } = timer;
  if (deadline === undefined || deadline > clock.now()) return;
  timer.cancel();
  fire();
}

/**
 * Refuses a restored value that no guest could have brought about.
 *
 * @param ok Whether the value is possible.
 * @param field The field's name.
 * @param value The value.
 * @param expected What it must be.
 * @throws {MachineError} Unless `ok`.
 */
export function check(
  ok: boolean,
  field: string,
  value: number | bigint | boolean | string,
  expected: string,
): void {
  if (ok) return;
  const shown = typeof value === "number" || typeof value === "bigint"
    ? `0x${value.toString(16)}`
    : String(value);
  throw new MachineError(
    `state field ${field} is ${shown}: expected ${expected}; the snapshot is damaged or was altered`,
  );
}

/**
 * Refuses reserved bits in a restored register.
 *
 * @param field The field's name.
 * @param value The register.
 * @param mask The bits that may be set.
 * @throws {MachineError} When any other bit is.
 */
export function checkBits(field: string, value: number, mask: number): void {
  check(
    (value & ~mask) === 0,
    field,
    value,
    `no bits outside 0x${(mask >>> 0).toString(16)}`,
  );
}
