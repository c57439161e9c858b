// The grammar of `--dev`: SPEC,SPEC… with SPEC = NAME[@VERSION][:key=value]…
//
// NAME is a built-in device, a path (it begins with `.` or `/`) or any specifier that can be
// imported (`https:`, `npm:`, `jsr:`, `file:`, `data:`). A colon begins an option where
// `key=` follows it, so URLs and values may hold colons. `,,` is a comma that separates
// nothing. The key `id` names the instance.

/** One device to make, as `--dev` says it. */
export interface DeviceSpec {
  /** Built-in name, path or import specifier. */
  name: string;
  /** Version the plugin must have: `1`, `1.2`, `1.2.3`, or one of those after `^` or `~`. */
  version?: string;
  /** Options as text, in the order given; typed by the plugin's own declaration. */
  options: Map<string, string>;
  /** Instance id, where one was given. */
  id?: string;
}

/** A `--dev` text that does not follow the grammar. */
export class DeviceSpecError extends Error {
  /**
   * Makes the error.
   *
   * @param message What is wrong, where, and what would be right.
   */
  constructor(message: string) {
    super(message);
    this.name = "DeviceSpecError";
  }
}

const GRAMMAR = "NAME[@VERSION][:key=value]…";
const ID = /^[A-Za-z][A-Za-z0-9_.-]*$/;
const BUILT_IN_NAME = /^[A-Za-z][A-Za-z0-9_-]*$/;
const VERSION =
  /^[\^~]?\d+(?:\.\d+(?:\.\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?)?)?$/;
const SCHEME = /^(?:https?|npm|jsr|file|data|node):/;
const OPTION_START = /:(?=[A-Za-z][A-Za-z0-9_-]*=)/;
const PATH_VERSION = /^(.*)@([\^~]?\d[^@/\\]*)$/s;

/**
 * Says whether a device name is a path or URL rather than a built-in name.
 *
 * @param name The `name` of a {@linkcode DeviceSpec}.
 * @returns Whether it names a module to import.
 */
export function isModuleSpecifier(name: string): boolean {
  return SCHEME.test(name) || /[./\\]/.test(name);
}

/** Splits at single commas; a doubled comma is a comma. */
function splitList(text: string): string[] {
  const parts = [""];
  for (let i = 0; i < text.length; i++) {
    if (text[i] !== ",") {
      parts[parts.length - 1] += text[i];
    } else if (text[i + 1] === ",") {
      parts[parts.length - 1] += ",";
      i++;
    } else {
      parts.push("");
    }
  }
  return parts;
}

function parseName(text: string, head: string): DeviceSpec {
  if (head === "") {
    throw new DeviceSpecError(
      `device "${text}" has no name: write ${GRAMMAR}`,
    );
  }
  const options = new Map<string, string>();
  // A URL or package specifier says its own version.
  if (SCHEME.test(head)) return { name: head, options };
  let name = head;
  let version: string | undefined;
  if (isModuleSpecifier(head)) {
    [, name, version] = PATH_VERSION.exec(head) ?? [head, head, undefined];
  } else {
    const colon = head.indexOf(":");
    if (colon >= 0) {
      const option = head.slice(colon + 1);
      throw new DeviceSpecError(
        `malformed option "${option}" of device "${
          head.slice(0, colon)
        }": write :key=value`,
      );
    }
    const at = head.indexOf("@");
    if (at >= 0) {
      name = head.slice(0, at);
      version = head.slice(at + 1);
    }
    if (!BUILT_IN_NAME.test(name)) {
      throw new DeviceSpecError(
        `malformed device name "${name}": expected letters, digits, - and _, or a path beginning with ./ or /, or a URL`,
      );
    }
  }
  if (version === undefined) return { name, options };
  if (!VERSION.test(version)) {
    throw new DeviceSpecError(
      `malformed version "${version}" of device "${name}": write a semantic version such as 1.2.0, or ^1.2`,
    );
  }
  return { name, version, options };
}

function parseOne(text: string): DeviceSpec {
  const [head, ...rest] = text.trim().split(new RegExp(OPTION_START, "g"));
  const spec = parseName(text, head);
  for (const option of rest) {
    const equals = option.indexOf("=");
    const key = option.slice(0, equals);
    const value = option.slice(equals + 1);
    if (spec.options.has(key)) {
      throw new DeviceSpecError(
        `option "${key}" of device "${spec.name}" is given twice`,
      );
    }
    spec.options.set(key, value);
  }
  const id = spec.options.get("id");
  if (id === undefined) return spec;
  if (!ID.test(id)) {
    throw new DeviceSpecError(
      `malformed id "${id}" of device "${spec.name}": expected a letter, then letters, digits, _, - and .`,
    );
  }
  spec.options.delete("id");
  return { ...spec, id };
}

/**
 * Parses the value of one `--dev`.
 *
 * @param text One or more SPECs with commas between them.
 * @returns The devices, in order.
 * @throws {DeviceSpecError} If the text does not follow the grammar or names an id twice.
 *
 * @example
 * ```ts
 * import { parseDeviceSpecs } from "./device_spec.ts";
 *
 * const [disk, console] = parseDeviceSpecs("virtio-blk:image=disk.img:id=root,uart");
 * disk.options.get("image"); // "disk.img"
 * disk.id; // "root"
 * console.name; // "uart"
 * ```
 */
export function parseDeviceSpecs(text: string): DeviceSpec[] {
  const specs = splitList(text).map(parseOne);
  requireDistinctIds(specs);
  return specs;
}

/**
 * Refuses a list of devices in which two have the same id.
 *
 * @param specs The devices.
 * @throws {DeviceSpecError} If an id is used twice.
 */
export function requireDistinctIds(specs: readonly DeviceSpec[]): void {
  const owners = new Map<string, string>();
  for (const { id, name } of specs) {
    if (id === undefined) continue;
    const owner = owners.get(id);
    if (owner !== undefined) {
      throw new DeviceSpecError(
        `id "${id}" is used twice, by ${owner} and by ${name}: give each device its own id`,
      );
    }
    owners.set(id, name);
  }
}

/**
 * The ids of a machine's devices: the given one, or the plugin's name and the lowest number
 * that is free.
 *
 * @param specs The devices, each with the name its plugin declares.
 * @returns One id for each device, in order.
 * @throws {DeviceSpecError} If an id is used twice.
 */
export function assignIds(specs: readonly DeviceSpec[]): string[] {
  requireDistinctIds(specs);
  const taken = new Set(
    specs.flatMap(({ id }) => id === undefined ? [] : [id]),
  );
  return specs.map(({ id, name }) => {
    if (id !== undefined) return id;
    let number = 0;
    while (taken.has(`${name}${number}`)) number++;
    taken.add(`${name}${number}`);
    return `${name}${number}`;
  });
}

/**
 * Says whether a version satisfies what a {@linkcode DeviceSpec} asks for. A shortened
 * version stands for every version that begins so; `^` and `~` mean what they mean in npm.
 *
 * @param version The plugin's own version.
 * @param wanted The `version` of a spec.
 * @returns Whether the plugin will do.
 */
export function satisfies(version: string, wanted: string): boolean {
  const operator = /^[\^~]/.exec(wanted)?.[0];
  const numbers = (text: string) =>
    text.replace(/^[\^~]/, "").replace(/[-+].*$/, "").split(".").map(Number);
  const have = numbers(version);
  const want = numbers(wanted);
  if (operator === undefined) {
    return /[-+]/.test(wanted)
      ? version === wanted
      : want.every((n, i) => have[i] === n);
  }
  const leading = want.findIndex((n) => n !== 0);
  const first = leading < 0 ? want.length - 1 : leading;
  const fixed = operator === "^" ? first + 1 : Math.min(2, want.length);
  for (let i = 0; i < fixed; i++) if (have[i] !== (want[i] ?? 0)) return false;
  for (let i = fixed; i < 3; i++) {
    const difference = have[i] - (want[i] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return true;
}
