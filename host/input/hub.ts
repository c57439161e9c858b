// The user of a machine: where the control socket and displays bring keys and pointers together, and the keyboards and
// mice of the machine get them.

import type { InputBackend } from "../../core/plugin.ts";

/** Buttons of a pointer as a bit mask. */
export const BUTTON = {
  left: 1,
  right: 2,
  middle: 4,
  back: 8,
  forward: 16,
} as const;

/** Keys that wait to be typed at most. */
const MAX_WAITING = 8192;
/** From one key to the next: a guest that is slow keeps up, or its keyboard's buffer holds what comes. */
const KEY_MS = 5;

type Key = (usage: number, down: boolean) => void;
type Motion = (a: number, b: number, wheel: number, buttons: number) => void;

/** What one device listens to. */
interface Listener {
  key?: Key;
  pointer?: Motion;
  tablet?: Motion;
}

/** One thing to do, and how long to wait after it. */
interface Step {
  act(): void;
  pauseMs: number;
}

/** Too much waits to be typed. */
export class InputError extends Error {
  /** The class's name, as `Error` has it. */
  override name = "InputError";
}

/**
 * Keys and pointers of one machine. Of several keyboards the one that was connected last has the keys, as in QEMU;
 * likewise of mice and tablets.
 *
 * @example
 * ```ts ignore
 * const hub = new InputHub();
 * const { backend, close } = hub.connect(); // for a device
 * hub.key(0x04, true); // A goes down
 * ```
 */
export class InputHub {
  readonly #listeners: Listener[] = [];
  readonly #watchers = new Set<(leds: number) => void>();
  readonly #waiting: Step[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #idle = Promise.withResolvers<void>();
  #buttons = 0;
  #leds = 0;

  /**
   * Connects a device.
   *
   * @returns What the device sees, and how to disconnect it.
   */
  connect(): { backend: InputBackend; close(): void } {
    const listener: Listener = {};
    this.#listeners.push(listener);
    return {
      backend: {
        onKey: (key) => void (listener.key = key),
        onPointer: (pointer) => void (listener.pointer = pointer),
        onTablet: (tablet) => void (listener.tablet = tablet),
        setLeds: (leds) => {
          if (leds === this.#leds) return;
          this.#leds = leds;
          for (const watch of this.#watchers) watch(leds);
        },
      },
      close: () => {
        this.#listeners.splice(this.#listeners.indexOf(listener), 1);
        if (this.#listeners.length > 0) return;
        clearTimeout(this.#timer);
        this.#waiting.length = 0;
        this.#becomeIdle();
      },
    };
  }

  #last<K extends keyof Listener>(kind: K): Listener[K] {
    return this.#listeners.findLast((each) => each[kind] !== undefined)?.[kind];
  }

  /** Whether the machine has a keyboard. */
  get hasKeyboard(): boolean {
    return this.#last("key") !== undefined;
  }

  /** Whether the machine has a mouse. */
  get hasPointer(): boolean {
    return this.#last("pointer") !== undefined;
  }

  /** Whether the machine has a tablet: who has positions gives them to it rather than to a mouse. */
  get hasTablet(): boolean {
    return this.#last("tablet") !== undefined;
  }

  /** LEDs of the keyboard: 1 num, 2 caps, 4 scroll. */
  get leds(): number {
    return this.#leds;
  }

  /**
   * Watches the LEDs.
   *
   * @param watch Called with them when they change.
   * @returns Ends watching.
   */
  watchLeds(watch: (leds: number) => void): () => void {
    this.#watchers.add(watch);
    return () => void this.#watchers.delete(watch);
  }

  /** Buttons that are down. */
  get buttons(): number {
    return this.#buttons;
  }

  /**
   * A key goes down or up.
   *
   * @param usage Its usage on HID page 7.
   * @param down Whether it goes down.
   */
  key(usage: number, down: boolean): void {
    this.#last("key")?.(usage, down);
  }

  /**
   * The mouse is moved, or a button goes down or up.
   *
   * @param dx Counts to the right.
   * @param dy Counts towards the user.
   * @param wheel Steps away from the user.
   * @param buttons Those that are down, a mask of {@linkcode BUTTON}s; as they were without it.
   */
  move(dx: number, dy: number, wheel = 0, buttons = this.#buttons): void {
    this.#buttons = buttons;
    this.#last("pointer")?.(dx, dy, wheel, buttons);
  }

  /**
   * The tablet's pen is moved, or a button goes down or up.
   *
   * @param x 0 to 32767 from the left.
   * @param y 0 to 32767 from the top.
   * @param wheel Steps away from the user.
   * @param buttons Those that are down; as they were without it.
   */
  point(x: number, y: number, wheel = 0, buttons = this.#buttons): void {
    this.#buttons = buttons;
    this.#last("tablet")?.(x, y, wheel, buttons);
  }

  /**
   * Types: each key for a moment, one after the other, behind what is still being typed.
   *
   * @param chords Usages that are pressed together, in that order, and released in the other.
   * @param holdMs Milliseconds that keys are down.
   * @returns Resolves when all is typed.
   * @throws {InputError} When too much waits already.
   */
  type(chords: readonly (readonly number[])[], holdMs = 0): Promise<void> {
    const steps = chords.flatMap((usages): Step[] => [
      {
        act: () => usages.forEach((usage) => this.key(usage, true)),
        pauseMs: holdMs,
      },
      {
        act: () => usages.toReversed().forEach((each) => this.key(each, false)),
        pauseMs: KEY_MS,
      },
    ]);
    if (this.#waiting.length + steps.length > MAX_WAITING) {
      throw new InputError(
        `${chords.length} keys, and ${
          Math.ceil(this.#waiting.length / 2)
        } wait to be typed: expected ${
          MAX_WAITING / 2
        } at most; type in smaller parts`,
      );
    }
    if (steps.length === 0) return Promise.resolve();
    if (this.#timer === undefined) {
      this.#idle = Promise.withResolvers();
      this.#waiting.push(...steps);
      this.#play();
    } else {
      this.#waiting.push(...steps);
    }
    return this.#idle.promise;
  }

  #play(): void {
    const step = this.#waiting.shift();
    if (step === undefined) return this.#becomeIdle();
    step.act();
    this.#timer = setTimeout(() => this.#play(), step.pauseMs);
  }

  #becomeIdle(): void {
    this.#timer = undefined;
    this.#idle.resolve();
  }
}
