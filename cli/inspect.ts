// `inspect` and `diff`: snapshots looked at without running them.

import { Command } from "@cliffy/command";
import type { SnapshotReader } from "../snapshot/container.ts";
import { fromManifestOptions } from "../snapshot/container.ts";
import { differingPages } from "../snapshot/compare.ts";
import { PAGE_BYTES } from "../snapshot/memory_image.ts";
import { toJson } from "../snapshot/schema.ts";
import { EXIT_DONE, EXIT_FAILED, shownText } from "./errors.ts";
import { openSnapshot } from "./snapshots.ts";

/** Longer texts are cut off in what people read. */
const MAX_TEXT = 72;

/** Opens a snapshot for the time of `use`. */
async function using<T>(
  path: string,
  use: (reader: SnapshotReader) => T | Promise<T>,
): Promise<T> {
  const { reader, close } = await openSnapshot(path);
  try {
    return await use(reader);
  } finally {
    close();
  }
}

function asJson(reader: SnapshotReader): unknown {
  const { manifest, components } = reader;
  return {
    manifest: {
      ...manifest,
      devices: manifest.devices.map((device) => ({
        ...device,
        options: fromManifestOptions(device.options),
        backend: device.backend && fromManifestOptions(device.backend),
      })),
    },
    components: components.map(({ id, schema, state }) => ({
      id,
      schema: { name: schema.name, version: schema.version },
      state: toJson(state),
    })),
    memory: Object.fromEntries(
      reader.regions.map((region) => [region, {
        bytes: reader.bytes(region),
        storedPages: reader.storedPages(region),
      }]),
    ),
  };
}

/** Every leaf of a value, with its path. */
function* leaves(value: unknown, path: string): Generator<[string, string]> {
  if (value instanceof Uint8Array) {
    yield [path, value.toHex()];
  } else if (Array.isArray(value)) {
    for (const [i, each] of value.entries()) {
      yield* leaves(each, `${path}[${i}]`);
    }
  } else if (typeof value === "object" && value !== null) {
    for (const [key, each] of Object.entries(value)) {
      yield* leaves(each, `${path}.${key}`);
    }
  } else {
    yield [
      path,
      typeof value === "bigint" ? `0x${value.toString(16)}` : String(value),
    ];
  }
}

function cut(text: string): string {
  const shown = shownText(text);
  return shown.length > MAX_TEXT ? `${shown.slice(0, MAX_TEXT)}…` : shown;
}

function asText(reader: SnapshotReader): string {
  const { manifest, components } = reader;
  const lines = [
    `written by ${manifest.producer}`,
    `memory ${manifest.memory} bytes, ${
      reader.storedPages("ram")
    } distinct pages; clock ${manifest.clock}; cpu ${manifest.cpuModel}`,
  ];
  if (manifest.parent !== null) {
    lines.push(
      `builds on ${manifest.parent.path}, hash ${manifest.parent.hash}`,
    );
  }
  for (const region of reader.regions) {
    if (region === "ram") continue;
    lines.push(
      `${region} ${reader.bytes(region)} bytes, ${
        reader.storedPages(region)
      } distinct pages`,
    );
  }
  for (const { id, plugin, version, specifier, image } of manifest.devices) {
    lines.push(`device ${id}: ${plugin} ${version} from ${specifier}`);
    for (const { path, format, bytes } of image?.files ?? []) {
      lines.push(`  image ${JSON.stringify(path)}, ${format}, ${bytes} bytes`);
    }
  }
  for (const { id, schema, state } of components) {
    lines.push("", `${id} (${schema.name}, version ${schema.version})`);
    for (const [path, text] of leaves(state, id)) {
      lines.push(`  ${path} = ${cut(text)}`);
    }
  }
  return lines.map(shownText).join("\n");
}

/** The fields that differ, and those that only one has. */
function differences(a: SnapshotReader, b: SnapshotReader): string[] {
  const all = (reader: SnapshotReader) =>
    new Map([
      ...leaves(reader.manifest, "manifest"),
      ...reader.components.flatMap(({ id, state }) => [...leaves(state, id)]),
    ]);
  const left = all(a);
  const right = all(b);
  return [...new Set([...left.keys(), ...right.keys()])].flatMap((path) => {
    const one = left.get(path) ?? "(none)";
    const other = right.get(path) ?? "(none)";
    return one === other ? [] : [`${path}: ${cut(one)} | ${cut(other)}`];
  });
}

/** The ranges of pages that differ in a memory. */
async function pageDifferences(
  a: SnapshotReader,
  b: SnapshotReader,
  region: string,
): Promise<string[]> {
  const hex = (page: number) => `0x${(page * PAGE_BYTES).toString(16)}`;
  return (await differingPages(a, b, region)).map(({ first, pages }) =>
    `${region}: ${hex(first)} to ${hex(first + pages)}, ${pages} pages`
  );
}

/**
 * Makes the command `inspect`.
 *
 * @returns The command.
 */
export function inspectCommand() {
  return new Command()
    .description("Print a snapshot, without the plugins that made it.")
    .arguments("<file:file>")
    .option("--json", "Print JSON.")
    .action(async ({ json }, file) => {
      console.log(
        await using(
          file,
          (reader) =>
            json ? JSON.stringify(asJson(reader), null, 2) : asText(reader),
        ),
      );
    });
}

/**
 * Makes the command `diff`.
 *
 * @param setExitCode Takes 1 when the snapshots differ.
 * @returns The command.
 */
export function diffCommand(setExitCode: (code: number) => void) {
  return new Command()
    .description(
      "Name the fields and pages in which two snapshots differ; the exit code is 1 if any do.",
    )
    .arguments("<first:file> <second:file>")
    .action(async (_options, first, second) => {
      const lines = await using(first, (a) =>
        using(second, async (b) => {
          const found = differences(a, b);
          for (const region of new Set([...a.regions, ...b.regions])) {
            found.push(...await pageDifferences(a, b, region));
          }
          return found;
        }));
      for (const line of lines) console.log(line);
      setExitCode(lines.length > 0 ? EXIT_FAILED : EXIT_DONE);
    });
}
