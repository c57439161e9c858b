/**
 * What kernel modules say of themselves in their `.modinfo` section, and from it the files that
 * `modprobe` reads: the packages leave it to `depmod` to make them after the installation.
 *
 * @module
 */

/** A kernel module. */
export interface KernelModule {
  /** Its name, underscores for dashes. */
  name: string;
  /** Its path below the directory of the kernel's modules. */
  path: string;
  /** The names of the modules that it needs directly. */
  depends: string[];
  /** Patterns of the devices and names that it serves. */
  aliases: string[];
  /** The file, decompressed. */
  content: Uint8Array;
}

/**
 * The name of the module that a file contains.
 * @param path The file's path.
 * @returns The name with underscores, without directory and extension.
 */
export function moduleName(path: string): string {
  const file = path.slice(path.lastIndexOf("/") + 1);
  return file.replace(/\.ko(\.\w+)?$/, "").replaceAll("-", "_");
}

/**
 * Reads a module's `.modinfo` section.
 *
 * @param path Its path below the directory of the kernel's modules.
 * @param content The file, decompressed.
 * @returns What it says.
 * @throws {Error} If the file is no 64-bit ELF object with such a section.
 */
export function parseModule(path: string, content: Uint8Array): KernelModule {
  const fields = modinfo(path, content).split("\0");
  const values = (key: string) =>
    fields.filter((field) => field.startsWith(`${key}=`))
      .map((field) => field.slice(key.length + 1));
  return {
    name: moduleName(path),
    path,
    depends: values("depends").flatMap((list) => list.split(","))
      .filter((name) => name !== "")
      .map((name) => name.replaceAll("-", "_")),
    aliases: values("alias"),
    content,
  };
}

function modinfo(path: string, content: Uint8Array): string {
  const ELF64_HEADER = 64;
  const SECTION_HEADER = 64;
  const decoder = new TextDecoder();
  const view = new DataView(
    content.buffer,
    content.byteOffset,
    content.byteLength,
  );
  const broken = () => new Error(`${path}: not a kernel module`);
  if (content.length < ELF64_HEADER || view.getUint32(0) !== 0x7f454c46) {
    throw broken();
  }
  const table = Number(view.getBigUint64(0x28, true));
  const count = view.getUint16(0x3c, true);
  const names = view.getUint16(0x3e, true);
  if (table + count * SECTION_HEADER > content.length || names >= count) {
    throw broken();
  }
  const section = (i: number) => {
    const at = table + i * SECTION_HEADER;
    const offset = Number(view.getBigUint64(at + 0x18, true));
    const size = Number(view.getBigUint64(at + 0x20, true));
    return {
      name: view.getUint32(at, true),
      bytes: content.subarray(offset, offset + size),
    };
  };
  const strings = section(names).bytes;
  for (let i = 0; i < count; i++) {
    const { name, bytes } = section(i);
    const end = strings.indexOf(0, name);
    if (decoder.decode(strings.subarray(name, end)) === ".modinfo") {
      return decoder.decode(bytes);
    }
  }
  throw broken();
}

/**
 * The names of all that a module needs, itself excluded, what is needed last first.
 * @param name The module.
 * @param modules Modules by name.
 * @returns Names in the order of `modules.dep`.
 */
function requirements(
  name: string,
  modules: ReadonlyMap<string, KernelModule>,
): string[] {
  const order: string[] = [];
  const visit = (current: string) => {
    for (const next of modules.get(current)?.depends ?? []) {
      const at = order.indexOf(next);
      if (at >= 0) order.splice(at, 1);
      order.push(next);
      visit(next);
    }
  };
  visit(name);
  return order.filter((needed) => modules.has(needed));
}

/**
 * The text of `modules.dep`.
 * @param modules The modules.
 * @returns A line for each: its path, and the paths of what it needs.
 */
export function modulesDep(modules: readonly KernelModule[]): string {
  const byName = new Map(modules.map((module) => [module.name, module]));
  return modules.map(({ name, path }) => {
    const needed = requirements(name, byName)
      .map((other) => ` ${byName.get(other)!.path}`);
    return `${path}:${needed.join("")}\n`;
  }).join("");
}

/**
 * The text of `modules.alias`.
 * @param modules The modules.
 * @returns A line for each alias.
 */
export function modulesAlias(modules: readonly KernelModule[]): string {
  return modules.flatMap(({ name, aliases }) =>
    aliases.map((alias) => `alias ${alias} ${name}\n`)
  ).join("");
}
