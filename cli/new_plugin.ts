// `deno task new-plugin NAME`: writes a plugin that works, and its test.
//
// The files import this project as `@diapause/diapause`. Inside this repository that is its own
// name; elsewhere a deno.json says where it is, and one is written where there is none.

import { Command, ValidationError } from "@cliffy/command";
import { dirname, isAbsolute, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import denoConfig from "../deno.json" with { type: "json" };
import { BUILT_IN } from "../plugins/mod.ts";
import { CliError, EXIT_DONE, EXIT_FAILED, reason } from "./errors.ts";
import { TEMPLATES } from "./new_plugin_templates.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");
const NAME = /^[a-z][a-z0-9-]*$/;
const CONFIGS = ["deno.json", "deno.jsonc"];
const ASSERT = "@std/assert";

/** What is asked for. */
export interface NewPluginOptions {
  /** Name of the plugin. */
  name: string;
  /** The bus it is on. */
  bus: "isa" | "pci";
  /** Folder of the files. */
  directory: string;
}

/** The deno.json that holds for a folder; undefined where there is none. */
async function findConfig(directory: string): Promise<string | undefined> {
  for (let at = directory;; at = dirname(at)) {
    for (const name of CONFIGS) {
      const path = join(at, name);
      if (await exists(path)) return path;
    }
    if (dirname(at) === at) return undefined;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** What a folder outside this repository needs to find this project and what it needs itself. */
function outsideConfig(): { imports: Record<string, string>; links: string[] } {
  const { name, version, imports, links } = denoConfig;
  return {
    imports: { [name]: `jsr:${name}@^${version}`, [ASSERT]: imports[ASSERT] },
    links: [ROOT, ...links.map((link) => resolve(ROOT, link))],
  };
}

/**
 * Writes the files.
 *
 * @param options What is asked for.
 * @returns Paths of the files.
 * @throws {CliError} When the name will not do, a file is there already, or cannot be written.
 */
export async function newPlugin(options: NewPluginOptions): Promise<string[]> {
  const { name, bus } = options;
  const directory = resolve(options.directory);
  if (!NAME.test(name)) {
    throw new CliError(
      `"${name}" cannot be the name of a plugin: expected a small letter, then small letters, digits and -`,
    );
  }
  if (Object.hasOwn(BUILT_IN, name)) {
    throw new CliError(
      `"${name}" is a built-in device: give the plugin another name`,
    );
  }
  const files: [path: string, text: string][] = [
    [join(directory, `${name}.ts`), TEMPLATES[bus].plugin],
    [join(directory, `${name}_test.ts`), TEMPLATES[bus].test],
  ];
  for (const file of files) file[1] = file[1].replaceAll("NAME", name);
  const isInside = !relative(ROOT, directory).startsWith("..") &&
    !isAbsolute(relative(ROOT, directory));
  if (!isInside) {
    const config = await findConfig(directory);
    const wanted = outsideConfig();
    if (config === undefined) {
      files.push([join(directory, CONFIGS[0]), JSON.stringify(wanted)]);
    } else if (!(await Deno.readTextFile(config)).includes(denoConfig.name)) {
      throw new CliError(
        `"${config}" does not say where "${denoConfig.name}" is: add to it ${
          JSON.stringify(wanted)
        }`,
      );
    }
  }
  for (const [path] of files) {
    if (await exists(path)) {
      throw new CliError(
        `"${path}" is there already: give the plugin another name, or remove the file`,
      );
    }
  }
  try {
    await Deno.mkdir(directory, { recursive: true });
    for (const [path, text] of files) {
      await Deno.writeTextFile(path, text, { createNew: true });
    }
  } catch (cause) {
    throw new CliError(
      `cannot write to "${directory}": ${reason(cause)}`,
      EXIT_FAILED,
      { cause },
    );
  }
  const paths = files.map(([path]) => path);
  // The lines of the templates are as long as the name makes them.
  await new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--quiet", ...paths],
    cwd: directory,
  }).output();
  return paths;
}

/**
 * Runs the command line.
 *
 * @param args Its arguments.
 * @returns The exit code.
 */
export async function main(args: readonly string[]): Promise<number> {
  const command = new Command()
    .name("deno task new-plugin")
    .description("Write a plugin that works, and its test, to start from.")
    .help({ colors: false })
    .throwErrors()
    .arguments("<name:string>")
    .option(
      "--isa",
      "A device on the ISA bus: ports and an interrupt. The default.",
    )
    .option(
      "--pci",
      "A device on the PCI bus: registers in memory, DMA, MSI-X.",
      {
        conflicts: ["isa"],
      },
    )
    .option("--dir <directory:file>", "Where to write it.", { default: "." })
    .action(async ({ pci, dir }, name) => {
      // Deno runs tasks where deno.json is.
      const from = Deno.env.get("INIT_CWD") ?? Deno.cwd();
      const paths = await newPlugin({
        name,
        bus: pci ? "pci" : "isa",
        directory: resolve(from, dir),
      });
      for (const path of paths) console.log(relative(from, path) || path);
    });
  try {
    await command.parse([...args]);
    return EXIT_DONE;
  } catch (error) {
    if (!(error instanceof ValidationError || error instanceof CliError)) {
      throw error;
    }
    console.error(`new-plugin: ${error.message}`);
    return error.exitCode;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
