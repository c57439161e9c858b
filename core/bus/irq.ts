/**
 * The wires between devices and interrupt controllers: the 16 ISA lines, PIRQA to PIRQH, the
 * global system interrupts, the PIC's INTR output, and messages on the APIC bus.
 *
 * Routing is that of the ICH9 (datasheet sections 5.8 and 5.9): PIRQA to PIRQH are GSI 16 to 23
 * on the I/O APIC, and whichever ISA line the PIRQ registers name on the PICs only.
 *
 * @module
 */
import {
  type ApicMessage,
  type InterruptController,
  type InterruptFabric,
  type IrqLine,
  type LocalApic,
  MachineError,
} from "../plugin.ts";
import { hex, type Owner, type TraceSinks } from "../fault.ts";
import type { IrqSources } from "./isa.ts";
import {
  bool,
  type Infer,
  list,
  optional,
  record,
  schema,
  SchemaError,
  str,
  u8,
} from "../../snapshot/schema.ts";

/** Lines of the two PICs. */
export const ISA_IRQS = 16;
/** PIRQA to PIRQH. */
export const PIRQS = 8;
/** GSI of PIRQA. */
const PIRQ_GSI = 16;
/** The timer's ISA line and the GSI it has (ACPI: interrupt source override of every PC). */
const TIMER_IRQ = 0;
const TIMER_GSI = 2;
const MAX_SOURCES = 1024;

/** Message signalled interrupts: Intel SDM vol. 3, 12.11.1 and 12.11.2. */
const MSI_BASE = 0xfee00000;
const MSI_END = 0xfef00000;
const MSI_DESTINATION_SHIFT = 12;
const MSI_REDIRECTION_HINT = 1 << 3;
const MSI_DESTINATION_MODE = 1 << 2;
const MSI_VECTOR = 0xff;
const MSI_DELIVERY_SHIFT = 8;
const MSI_DELIVERY = 7;
const MSI_TRIGGER_LEVEL = 1 << 15;
/** Delivery mode 1: the processor of lowest priority among those addressed. */
const LOWEST_PRIORITY = 1;
const FIXED = 0;

/** Saved state of the interrupt wires. */
export const irqSchema = schema("irq", 1, {
  /** Every source on an ISA line: its device, its number among that device's sources, its line and level. */
  sources: list(
    record({
      owner: str({ max: 256 }),
      index: u8(),
      irq: u8({ max: ISA_IRQS - 1 }),
      level: bool(),
    }),
    { max: MAX_SOURCES },
  ),
  /** The ISA line of each PIRQ; null for none. */
  routes: list(optional(u8({ max: ISA_IRQS - 1 })), { length: PIRQS }),
  /** INTR of the PICs. */
  picOutput: bool(),
});

/** Saved state of the interrupt wires. */
export type IrqState = Infer<typeof irqSchema>;

interface Source {
  owner: string;
  index: number;
  irq: number;
  level: boolean;
}

/** The interrupt wires of one machine. */
export class Interrupts implements InterruptFabric, IrqSources {
  /** The PIC pair. */
  pic: InterruptController | null = null;
  /** See {@linkcode InterruptFabric.legacyReplacement}; the HPET sets it. */
  legacyReplacement = false;
  /** Called when an interrupt may have become deliverable at a vCPU without a local APIC. */
  onPicOutput: () => void = () => {};
  readonly #sources: Source[] = [];
  /** Asserting sources by ISA line, those of PIRQs left out. */
  readonly #isaAsserted = new Uint16Array(ISA_IRQS);
  /** Asserting functions by PIRQ. */
  readonly #pirqAsserted = new Uint16Array(PIRQS);
  readonly #routes: (number | null)[] = Array(PIRQS).fill(null);
  readonly #isaSinks: ((irq: number, level: boolean) => void)[] = [];
  readonly #gsiSinks: ((gsi: number, level: boolean) => void)[] = [];
  readonly #eoiListeners: ((vector: number) => void)[] = [];
  readonly #apics: LocalApic[] = [];
  readonly #trace: TraceSinks;
  #picOutput = false;
  #muted = false;

  /**
   * Wires without devices.
   *
   * @param trace Where lines and messages are traced.
   */
  constructor(trace: TraceSinks = {}) {
    this.#trace = trace;
  }

  /**
   * A new source on an ISA line.
   *
   * @param owner The device.
   * @param irq The line, 0 to 15.
   * @returns The source.
   * @throws {MachineError} When there is no such line.
   */
  isaSource(owner: Owner, irq: number): IrqLine {
    if (!Number.isInteger(irq) || irq < 0 || irq >= ISA_IRQS) {
      throw new MachineError(
        `device "${owner.id}" asks for interrupt line ${irq}: expected 0 to ${
          ISA_IRQS - 1
        }`,
      );
    }
    const index = this.#sources.filter((s) => s.owner === owner.id).length;
    const source: Source = { owner: owner.id, index, irq, level: false };
    this.#sources.push(source);
    const set = (level: boolean) => this.#setSource(source, level);
    return {
      get level() {
        return source.level;
      },
      set,
      pulse() {
        set(true);
        set(false);
      },
    };
  }

  #setSource(source: Source, level: boolean): void {
    if (source.level === level) return;
    source.level = level;
    this.#trace.irq?.(`irq ${source.irq} ${level ? 1 : 0} ${source.owner}`);
    const { irq } = source;
    const before = this.#isaAsserted[irq];
    const picBefore = this.isaLevel(irq);
    this.#isaAsserted[irq] = before + (level ? 1 : -1);
    if ((before > 0) !== (this.#isaAsserted[irq] > 0)) {
      this.#tellGsi(irq === TIMER_IRQ ? TIMER_GSI : irq, level);
    }
    this.#tellIsa(irq, picBefore);
  }

  /** Tells the PICs if the level of `irq` is no longer `before`. */
  #tellIsa(irq: number, before: boolean): void {
    const level = this.isaLevel(irq);
    if (level === before || this.#muted) return;
    for (const sink of this.#isaSinks) sink(irq, level);
  }

  #tellGsi(gsi: number, level: boolean): void {
    if (this.#muted) return;
    for (const sink of this.#gsiSinks) sink(gsi, level);
  }

  /**
   * The level of an ISA line as the PICs see it.
   *
   * @param irq The line.
   * @returns The OR of its sources and of the PIRQs routed to it.
   */
  isaLevel(irq: number): boolean {
    if (this.#isaAsserted[irq] > 0) return true;
    for (let pirq = 0; pirq < PIRQS; pirq++) {
      if (this.#routes[pirq] === irq && this.#pirqAsserted[pirq] > 0) {
        return true;
      }
    }
    return false;
  }

  /**
   * The level of a global system interrupt as the I/O APIC sees it.
   *
   * @param gsi 0 to 23.
   * @returns Whether it is asserted.
   */
  gsiLevel(gsi: number): boolean {
    if (gsi >= PIRQ_GSI) return this.#pirqAsserted[gsi - PIRQ_GSI] > 0;
    if (gsi === TIMER_GSI) return this.#isaAsserted[TIMER_IRQ] > 0;
    return gsi !== TIMER_IRQ && this.#isaAsserted[gsi] > 0;
  }

  /**
   * One function more, or less, asserts a PIRQ.
   *
   * @param pirq 0 to 7.
   * @param level Whether it asserts.
   * @param owner The function's device.
   */
  setPirq(pirq: number, level: boolean, owner: Owner): void {
    this.#trace.irq?.(
      `pirq ${String.fromCharCode(65 + pirq)} ${level ? 1 : 0} ${owner.id}`,
    );
    const route = this.#routes[pirq];
    const isaBefore = route !== null && this.isaLevel(route);
    const before = this.#pirqAsserted[pirq] > 0;
    this.#pirqAsserted[pirq] += level ? 1 : -1;
    const now = this.#pirqAsserted[pirq] > 0;
    if (before === now) return;
    this.#tellGsi(PIRQ_GSI + pirq, now);
    if (route !== null) this.#tellIsa(route, isaBefore);
  }

  /** See {@linkcode InterruptFabric.routePirq}. */
  routePirq(pirq: number, irq: number | null): void {
    const old = this.#routes[pirq];
    if (old === irq) return;
    const oldBefore = old !== null && this.isaLevel(old);
    const newBefore = irq !== null && this.isaLevel(irq);
    this.#routes[pirq] = irq;
    if (old !== null) this.#tellIsa(old, oldBefore);
    if (irq !== null) this.#tellIsa(irq, newBefore);
  }

  /** See {@linkcode InterruptFabric.onIsaIrq}. */
  onIsaIrq(sink: (irq: number, level: boolean) => void): void {
    this.#isaSinks.push(sink);
  }

  /** See {@linkcode InterruptFabric.onGsi}. */
  onGsi(sink: (gsi: number, level: boolean) => void): void {
    this.#gsiSinks.push(sink);
  }

  /** How many listen to each kind of wire, for tests. */
  get listeners(): { isa: number; gsi: number; eoi: number } {
    return {
      isa: this.#isaSinks.length,
      gsi: this.#gsiSinks.length,
      eoi: this.#eoiListeners.length,
    };
  }

  /** See {@linkcode InterruptFabric.setPicOutput}. */
  setPicOutput(level: boolean): void {
    this.#picOutput = level;
    if (this.#apics[0] !== undefined) {
      this.#apics[0].setExternalInterrupt(level);
    } else if (level) {
      this.onPicOutput();
    }
  }

  /** See {@linkcode InterruptFabric.registerLocalApic}. */
  registerLocalApic(index: number, apic: LocalApic): void {
    this.#apics[index] = apic;
    if (index === 0) apic.setExternalInterrupt(this.#picOutput);
  }

  /**
   * The local APIC of a vCPU.
   *
   * @param index The vCPU.
   * @returns The APIC, if there is one.
   */
  localApic(index: number): LocalApic | undefined {
    return this.#apics[index];
  }

  /** See {@linkcode InterruptFabric.deliver}. */
  deliver(message: ApicMessage): void {
    this.#trace.irq?.(
      `apic vector ${hex(message.vector)} mode ${message.deliveryMode} to ${
        message.destinationMode === 1 ? "logical" : "physical"
      } ${hex(message.destination)}${message.level ? " level" : ""}`,
    );
    let preferred: LocalApic | undefined;
    for (const apic of this.#apics) {
      if (apic === undefined || !apic.matches(message)) continue;
      if (message.deliveryMode !== LOWEST_PRIORITY) {
        apic.accept(message);
      } else if (
        preferred === undefined ||
        apic.arbitrationPriority < preferred.arbitrationPriority
      ) {
        preferred = apic;
      }
    }
    preferred?.accept({ ...message, deliveryMode: FIXED });
  }

  /**
   * A message signalled interrupt.
   *
   * @param address Message address.
   * @param data Message data.
   * @returns Whether the address is that of an interrupt; if not, it is a plain memory write.
   */
  message(address: number, data: number): boolean {
    if (address < MSI_BASE || address >= MSI_END) return false;
    let deliveryMode = (data >>> MSI_DELIVERY_SHIFT) & MSI_DELIVERY;
    if ((address & MSI_REDIRECTION_HINT) !== 0 && deliveryMode === FIXED) {
      deliveryMode = LOWEST_PRIORITY;
    }
    this.deliver({
      destination: (address >>> MSI_DESTINATION_SHIFT) & 0xff,
      destinationMode: (address & MSI_DESTINATION_MODE) === 0 ? 0 : 1,
      deliveryMode,
      vector: data & MSI_VECTOR,
      level: (data & MSI_TRIGGER_LEVEL) !== 0,
    });
    return true;
  }

  /** See {@linkcode InterruptFabric.broadcastEoi}. */
  broadcastEoi(vector: number): void {
    for (const listener of this.#eoiListeners) listener(vector);
  }

  /** See {@linkcode InterruptFabric.onEoi}. */
  onEoi(listener: (vector: number) => void): void {
    this.#eoiListeners.push(listener);
  }

  /**
   * Whether a vCPU can be given an interrupt, apart from its interrupt flag.
   *
   * @param index The vCPU.
   */
  pending(index: number): boolean {
    const apic = this.#apics[index];
    return apic === undefined ? index === 0 && this.#picOutput : apic.pending();
  }

  /**
   * The INTA cycle of a vCPU.
   *
   * @param index The vCPU.
   * @returns The vector; -1 for none.
   */
  acknowledge(index: number): number {
    const apic = this.#apics[index];
    if (apic !== undefined) return apic.acknowledge();
    return index === 0 && this.#picOutput ? this.pic?.acknowledge() ?? -1 : -1;
  }

  /** Removes the sources of a device that could not be created. */
  forget(owner: Owner): void {
    for (let i = this.#sources.length - 1; i >= 0; i--) {
      if (this.#sources[i].owner !== owner.id) continue;
      this.#setSource(this.#sources[i], false);
      this.#sources.splice(i, 1);
    }
  }

  /**
   * Runs something in which changes of level are not told to interrupt controllers: they restore
   * what they saw themselves.
   *
   * @param restore What to run.
   */
  quietly(restore: () => void): void {
    this.#muted = true;
    try {
      restore();
    } finally {
      this.#muted = false;
    }
  }

  /** The state of the wires. PCI functions save their own INTx level. */
  save(): IrqState {
    return {
      sources: this.#sources.map((source) => ({ ...source })),
      routes: [...this.#routes],
      picOutput: this.#picOutput,
    };
  }

  /**
   * Restores the state of the wires, telling nobody.
   *
   * @param state A validated state.
   * @throws {SchemaError} When it has other sources than this machine.
   */
  restore(state: IrqState): void {
    const key = (s: Omit<Source, "level">) => `${s.owner}[${s.index}]`;
    const saved = new Map(state.sources.map((s) => [key(s), s]));
    if (
      saved.size !== this.#sources.length ||
      saved.size !== state.sources.length
    ) {
      throw new SchemaError(
        "irq.sources",
        `has ${state.sources.length} sources: expected the ${this.#sources.length} of this machine's devices`,
      );
    }
    for (const source of this.#sources) {
      const other = saved.get(key(source));
      if (other === undefined || other.irq !== source.irq) {
        throw new SchemaError(
          "irq.sources",
          `has ${
            other === undefined ? "no source" : `a source on line ${other.irq}`
          } ${key(source)}: expected one on line ${source.irq}`,
        );
      }
    }
    this.#isaAsserted.fill(0);
    for (const source of this.#sources) {
      source.level = saved.get(key(source))!.level;
      if (source.level) this.#isaAsserted[source.irq]++;
    }
    for (let pirq = 0; pirq < PIRQS; pirq++) {
      this.#routes[pirq] = state.routes[pirq];
    }
    this.#picOutput = state.picOutput;
  }
}
