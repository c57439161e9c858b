// What QMP's clients do with keys and pointers: QEMU's commands `send-key` and `input-send-event` (QAPI schema,
// "ui"), and `x-type` and `x-mouse` of this program's own.

import { didYouMean } from "../core/nearest.ts";
import {
  type ControlArguments,
  type ControlCommand,
  ControlError,
} from "../host/control.ts";
import { BUTTON, InputError, type InputHub } from "../host/input/hub.ts";
import { KEY_NAMES, keysOf } from "../host/input/keys.ts";

/** How long `send-key` holds keys, where the client does not say. */
const DEFAULT_HOLD_MS = 100;
const MAX_HOLD_MS = 60_000;
/** Counts and positions that one event may have. */
const MOST_MOTION = 32767;

const BUTTON_BITS: Readonly<Record<string, number>> = {
  ...BUTTON,
  // QEMU's names of these two.
  side: BUTTON.back,
  extra: BUTTON.forward,
};
/** Buttons that are turns of the wheel. */
const WHEEL_STEPS: Readonly<Record<string, number>> = {
  "wheel-up": 1,
  "wheel-down": -1,
};
const BUTTON_MASK = Object.values(BUTTON).reduce<number>(
  (all, bit) => all | bit,
  0,
);

/**
 * Finds a key.
 *
 * @param name Its name.
 * @returns Its usage.
 * @throws {ControlError} When there is none.
 */
export function usageOf(name: string): number {
  const usage = KEY_NAMES.get(name);
  if (usage !== undefined) return usage;
  throw new ControlError(
    `there is no key "${name}": expected a name as in QEMU's sendkey, such as a, ret, ctrl or f1.${
      didYouMean(name, [...KEY_NAMES.keys()])
    }`,
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function bad(what: string, expected: string): never {
  throw new ControlError(
    `Invalid parameter type for '${what}', expected: ${expected}`,
  );
}

function recordOf(value: unknown, what: string): Record<string, unknown> {
  return isRecord(value) ? value : bad(what, "object");
}

function listOf(value: unknown, what: string): unknown[] {
  return Array.isArray(value) ? value : bad(what, "array");
}

function numberOf(value: unknown, what: string, least: number): number {
  if (
    typeof value === "number" && Number.isInteger(value) && value >= least &&
    value <= MOST_MOTION
  ) return value;
  throw new ControlError(
    `"${what}" is ${
      JSON.stringify(value)
    }: expected a whole number from ${least} to ${MOST_MOTION}`,
  );
}

/** A key as QEMU's union KeyValue has it. */
function keyOf(value: unknown): number {
  const { type, data } = recordOf(value, "key");
  if (type !== "qcode" || typeof data !== "string") {
    throw new ControlError(
      `a key is ${
        JSON.stringify(value)
      }: expected {"type": "qcode", "data": NAME}`,
    );
  }
  return usageOf(data);
}

function requireDevice(there: boolean, what: string, devices: string): void {
  if (there) return;
  throw new ControlError(
    `the machine has no ${what}: give it one, --dev ${devices}`,
    "DeviceNotFound",
  );
}

/** Does one of the events of `input-send-event`, when `acts`; only checks it otherwise. */
class Events {
  readonly #hub: InputHub;
  #x: number | undefined;
  #y: number | undefined;
  #dx = 0;
  #dy = 0;
  #wheel = 0;
  #buttons: number;
  /** What is to be done when all events have been understood. */
  readonly #acts: (() => void)[] = [];

  constructor(hub: InputHub) {
    this.#hub = hub;
    this.#buttons = hub.buttons;
  }

  add(event: unknown): void {
    const { type, data } = recordOf(event, "events");
    const given = recordOf(data, "data");
    switch (type) {
      case "key": {
        const usage = keyOf(given.key);
        const down = given.down === true;
        this.#acts.push(() => this.#hub.key(usage, down));
        return;
      }
      case "btn":
        return this.#button(String(given.button), given.down === true);
      case "rel":
      case "abs": {
        const { axis } = given;
        if (axis !== "x" && axis !== "y") {
          throw new ControlError(`an axis is "${axis}": expected "x" or "y"`);
        }
        const least = type === "abs" ? 0 : -MOST_MOTION;
        const value = numberOf(given.value, "value", least);
        if (type === "rel") {
          if (axis === "x") this.#dx += value;
          else this.#dy += value;
        } else if (axis === "x") this.#x = value;
        else this.#y = value;
        return;
      }
      default:
        throw new ControlError(
          `an event is of the type "${type}": expected "key", "btn", "rel" or "abs"`,
        );
    }
  }

  #button(name: string, down: boolean): void {
    const steps = WHEEL_STEPS[name];
    const bit = BUTTON_BITS[name];
    if (steps !== undefined) {
      if (down) this.#wheel += steps;
    } else if (bit === undefined) {
      throw new ControlError(
        `there is no button "${name}": expected ${
          [...Object.keys(BUTTON_BITS), ...Object.keys(WHEEL_STEPS)].join(", ")
        }`,
      );
    } else {
      this.#buttons = down ? this.#buttons | bit : this.#buttons & ~bit;
    }
  }

  act(): void {
    for (const act of this.#acts) act();
    const hub = this.#hub;
    const isAbsolute = this.#x !== undefined || this.#y !== undefined;
    const isClick = this.#buttons !== hub.buttons || this.#wheel !== 0;
    if (this.#dx !== 0 || this.#dy !== 0 || isClick && !isAbsolute) {
      hub.move(this.#dx, this.#dy, this.#wheel, this.#buttons);
    }
    if (isAbsolute) {
      hub.point(this.#x ?? 0, this.#y ?? 0, this.#wheel, this.#buttons);
    }
  }
}

async function type(
  hub: InputHub,
  chords: readonly (readonly number[])[],
  holdMs?: number,
): Promise<void> {
  requireDevice(hub.hasKeyboard, "keyboard", "i8042");
  try {
    await hub.type(chords, holdMs);
  } catch (error) {
    if (error instanceof InputError) throw new ControlError(error.message);
    throw error;
  }
}

/**
 * The commands about keys and pointers.
 *
 * @param hub The machine's user.
 * @returns The commands by name.
 */
export function inputCommands(
  hub: InputHub,
): Record<string, ControlCommand> {
  return {
    "send-key": {
      arguments: { keys: "array", "hold-time": "number?" },
      run: async (args: ControlArguments) => {
        const usages = listOf(args.keys, "keys").map(keyOf);
        const hold = args["hold-time"] === undefined
          ? DEFAULT_HOLD_MS
          : Math.min(numberOf(args["hold-time"], "hold-time", 0), MAX_HOLD_MS);
        await type(hub, [usages], hold);
      },
    },
    "input-send-event": {
      arguments: { device: "string?", head: "number?", events: "array" },
      run: (args: ControlArguments) => {
        const events = new Events(hub);
        for (const event of listOf(args.events, "events")) events.add(event);
        events.act();
      },
    },
    "x-type": {
      arguments: { text: "string" },
      run: async ({ text }: ControlArguments) => {
        const chords = Array.from(text as string, (character) => {
          const keys = keysOf(character);
          if (keys !== undefined) return keys;
          throw new ControlError(
            `${
              JSON.stringify(character)
            } is on no key of a US keyboard: expected ASCII`,
          );
        });
        await type(hub, chords);
      },
    },
    "x-mouse": {
      arguments: { dx: "number", dy: "number", buttons: "number?" },
      run: ({ dx, dy, buttons = 0 }: ControlArguments) => {
        requireDevice(hub.hasPointer, "mouse", "i8042");
        const down = buttons as number;
        if ((down & ~BUTTON_MASK) !== 0 || !Number.isInteger(down)) {
          throw new ControlError(
            `"buttons" is ${down}: expected the sum of ${
              Object.entries(BUTTON).map(([name, bit]) => `${bit} (${name})`)
                .join(", ")
            }`,
          );
        }
        hub.move(
          numberOf(dx, "dx", -MOST_MOTION),
          numberOf(dy, "dy", -MOST_MOTION),
          0,
          down,
        );
      },
    },
  };
}
