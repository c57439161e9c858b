/**
 * The floating-point environment of one operation: rounding, precision, masks and the
 * exceptions it raised. Shared by the x87 and the SSE arithmetic.
 *
 * Intel SDM volume 1: 8.1.3 (x87 status word), 8.1.5 (x87 control word), 10.2.3 (MXCSR).
 * The six exception flags have the same order in all three registers.
 *
 * @module
 */

/** Invalid operation. */
export const IE = 1 << 0;
/** Denormal operand. */
export const DE = 1 << 1;
/** Divide by zero. */
export const ZE = 1 << 2;
/** Numeric overflow. */
export const OE = 1 << 3;
/** Numeric underflow. */
export const UE = 1 << 4;
/** Inexact result (precision). */
export const PE = 1 << 5;

/** The exceptions found before a result is computed: unmasked, the operation does not happen. */
export const PRE_COMPUTATION = IE | DE | ZE;
/** All six exceptions. */
export const ALL_EXCEPTIONS = 0x3f;

/** Rounding control as x87 FCW.RC and MXCSR.RC encode it. */
export type Rounding = 0 | 1 | 2 | 3;
/** Round to nearest, ties to even. */
export const ROUND_NEAREST = 0;
/** Round toward minus infinity. */
export const ROUND_DOWN = 1;
/** Round toward plus infinity. */
export const ROUND_UP = 2;
/** Round toward zero (truncate). */
export const ROUND_ZERO = 3;

/** Significand bits that x87 precision control rounds to. */
export type Precision = 24 | 53 | 64;

/**
 * What an operation reads and reports. The caller sets the controls, clears `flags` and
 * `roundedUp`, runs one operation and merges `flags` into the sticky register.
 *
 * When {@link isStopped} finds an unmasked pre-computation exception, the operation did not
 * happen: what it returned has no meaning and {@link raised} are the flags to merge.
 */
export interface FpEnv {
  /** Rounding control. */
  rounding: Rounding;
  /** x87 precision control; ignored by binary32 and binary64 operations. */
  precision: Precision;
  /** Exceptions that are masked (bit set = masked), in the order of {@link IE} to {@link PE}. */
  masks: number;
  /** Exceptions raised so far. */
  flags: number;
  /** True if the last rounding increased the magnitude: x87 C1. */
  roundedUp: boolean;
  /** MXCSR.DAZ: denormal inputs count as zeros. */
  daz: boolean;
  /** MXCSR.FTZ: tiny results become zeros while UE is masked. */
  ftz: boolean;
}

/**
 * Whether an unmasked pre-computation exception kept the operation from happening.
 *
 * @param env The environment after the operation.
 * @returns True if the destination must not be written.
 */
export function isStopped(env: FpEnv): boolean {
  return (env.flags & ~env.masks & PRE_COMPUTATION) !== 0;
}

/**
 * The exceptions to merge into the sticky flags: those of a result that was not computed, for
 * {@link isStopped}, do not count.
 *
 * @param env The environment after the operation.
 * @returns The flags.
 */
export function raised(env: FpEnv): number {
  return isStopped(env) ? env.flags & PRE_COMPUTATION : env.flags;
}

/**
 * Makes an environment, by default that of FNINIT: nearest, 64 bits, everything masked.
 *
 * @param controls Fields that differ from the default.
 * @returns A fresh environment with no exception raised.
 */
export function fpEnv(controls: Partial<FpEnv> = {}): FpEnv {
  return {
    rounding: ROUND_NEAREST,
    precision: 64,
    masks: ALL_EXCEPTIONS,
    flags: 0,
    roundedUp: false,
    daz: false,
    ftz: false,
    ...controls,
  };
}
