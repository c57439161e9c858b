/**
 * What a snapshot holds of a local APIC, and what it may not hold.
 *
 * @module
 */
import {
  bool,
  type Infer,
  list,
  record,
  timer,
  u32,
  u64,
} from "../../snapshot/schema.ts";
import {
  APIC_BASE_BSP,
  APIC_BASE_EN,
  APIC_BASE_EXTD,
  APIC_BASE_FLAGS,
  APIC_DEFAULT_BASE,
  DFR_FLAT,
  DFR_MODEL,
  ESR_MASK,
  FIRST_VECTOR,
  ICR_WRITABLE,
  LINT0_VIRTUAL_WIRE,
  LVT_COUNT,
  LVT_INDEX_LINT0,
  LVT_MASKED,
  LVT_REMOTE_IRR,
  LVT_TIMER_MODE,
  LVT_WRITABLE,
  SVR_ENABLE,
  SVR_MASK,
  VECTOR_WORDS,
} from "./lapic_registers.ts";
import {
  TIMER_DIVIDE_MASK,
  TIMER_MODE_SHIFT,
  TIMER_MODE_TSC_DEADLINE,
  timerDivisor,
} from "./lapic_timer.ts";
import { check, checkBits } from "./support.ts";

/** State of one local APIC. */
export const apicState = record({
  base: u64(),
  /** APIC ID as xAPIC mode has it, where it can be written. */
  id: u32({ max: 0xff }),
  tpr: u32({ max: 0xff }),
  /** LDR's bits 31:24; x2APIC mode derives its own. */
  logical: u32({ max: 0xff }),
  dfr: u32(),
  svr: u32(),
  isr: list(u32(), { length: VECTOR_WORDS }),
  tmr: list(u32(), { length: VECTOR_WORDS }),
  irr: list(u32(), { length: VECTOR_WORDS }),
  esr: u32(),
  esrPending: u32(),
  icrLow: u32(),
  icrHigh: u32(),
  lvt: list(u32(), { length: LVT_COUNT }),
  initialCount: u32(),
  divide: u32({ max: TIMER_DIVIDE_MASK }),
  tscDeadline: u64(),
  timer: timer(),
  /** The level of LINT0, which is the PICs' INTR. */
  externalLevel: bool(),
  /** An ExtINT message waits for its INTA cycle. */
  externalMessage: bool(),
});

/** State of one local APIC. */
export type ApicState = Infer<typeof apicState>;

/**
 * Refuses what a guest could not have reached.
 *
 * @param path Where the state is, for the message.
 * @param state The state.
 * @param bootstrap Whether it is the bootstrap processor's.
 * @throws {MachineError} When it is impossible.
 */
export function checkApicState(
  path: string,
  state: ApicState,
  bootstrap: boolean,
): void {
  const flags = state.base & APIC_BASE_FLAGS;
  check(
    state.base - flags === BigInt(APIC_DEFAULT_BASE) &&
      (flags & (APIC_BASE_EN | APIC_BASE_EXTD)) !== APIC_BASE_EXTD &&
      ((flags & APIC_BASE_BSP) !== 0n) === bootstrap,
    `${path}.base`,
    state.base,
    "the default address and a mode that exists",
  );
  check(
    (state.dfr | DFR_MODEL) >>> 0 === DFR_FLAT,
    `${path}.dfr`,
    state.dfr,
    "ones in bits 27:0",
  );
  checkBits(`${path}.svr`, state.svr, SVR_MASK);
  checkBits(`${path}.esr`, state.esr, ESR_MASK);
  checkBits(`${path}.esrPending`, state.esrPending, ESR_MASK);
  checkBits(`${path}.icrLow`, state.icrLow, ICR_WRITABLE);
  if (!(flags & APIC_BASE_EXTD)) {
    checkBits(`${path}.icrHigh`, state.icrHigh, 0xff00_0000);
  }
  state.lvt.forEach((entry, i) =>
    checkBits(
      `${path}.lvt.${i}`,
      entry,
      LVT_WRITABLE[i] | (i === LVT_INDEX_LINT0 ? LVT_REMOTE_IRR : 0),
    )
  );
  for (const field of ["isr", "irr", "tmr"] as const) {
    checkBits(`${path}.${field}.0`, state[field][0], -1 << FIRST_VECTOR);
  }
  const isSoftwareEnabled = (state.svr & SVR_ENABLE) !== 0;
  state.lvt.forEach((entry, i) =>
    check(
      isSoftwareEnabled || (entry & LVT_MASKED) !== 0 ||
        (i === LVT_INDEX_LINT0 && entry === LINT0_VIRTUAL_WIRE),
      `${path}.lvt.${i}`,
      entry,
      "masked, since the APIC is disabled by software",
    )
  );
  const deadlineMode = (state.lvt[0] & LVT_TIMER_MODE) >> TIMER_MODE_SHIFT ===
    TIMER_MODE_TSC_DEADLINE;
  check(
    state.tscDeadline === 0n || deadlineMode,
    `${path}.tscDeadline`,
    state.tscDeadline,
    "0 outside TSC-deadline mode",
  );
  const remaining = state.timer?.remaining ?? 0;
  check(
    state.timer === null ||
      (deadlineMode ? state.tscDeadline !== 0n : state.initialCount > 0 &&
        remaining <= state.initialCount * timerDivisor(state.divide)),
    `${path}.timer`,
    remaining,
    deadlineMode
      ? "not armed without a TSC deadline"
      : "at most what the initial count takes",
  );
}
