/**
 * The manifest: what a machine was made from (docs/snapshot-format.md, section 4).
 *
 * @module
 */
import {
  bool,
  f64,
  list,
  optional,
  record,
  schema,
  str,
  u32,
  union,
} from "./schema.ts";

/** Components and devices of a snapshot at most. */
export const MAX_COMPONENTS = 4096;
/** Files of an image at most: overlays, and the file at their bottom. */
export const MAX_IMAGE_FILES = 4096;

const optionValue = union({
  text: record({ value: str({ max: 65536 }) }),
  number: record({ value: f64() }),
  flag: record({ value: bool() }),
});
const options = list(
  record({ name: str({ max: 256 }), value: optionValue }),
  { max: 256 },
);

const image = record({
  size: f64(),
  pinned: bool(),
  files: list(
    record({
      path: str({ max: 4096 }),
      relative: str({ max: 4096 }),
      format: str({ max: 16 }),
      size: f64(),
      bytes: f64(),
      modified: f64(),
      fingerprint: str({ max: 64 }),
    }),
    { max: MAX_IMAGE_FILES },
  ),
});

/** Which snapshot the pages come from that this one does not have. */
export interface ManifestParent {
  /** Its file, as a path from the folder of the file that names it. */
  path: string;
  /** The hash of that file's whole, 64 hexadecimal digits. */
  hash: string;
}

/** What a machine was made from. */
export const manifestSchema = schema("manifest", 1, {
  /** The program that wrote it. */
  producer: str({ max: 256 }),
  /** The snapshot that has the pages which this one leaves out; null where it has all. */
  parent: optional(
    record({ path: str({ max: 4096 }), hash: str({ max: 64 }) }),
  ),
  /** Bytes of RAM. */
  memory: f64(),
  /** Bytes kept for a firmware image. */
  romSize: f64(),
  /** Number of vCPUs. */
  cpus: u32({ min: 1, max: 255 }),
  /** Model of the vCPU. */
  cpuModel: str({ max: 64 }),
  /** `realtime` or `instructions`. */
  clock: str({ max: 32 }),
  /** Virtual nanoseconds of an instruction. */
  nsPerInstruction: f64(),
  /** Devices in the order in which they are made. */
  devices: list(
    record({
      id: str({ max: 256 }),
      plugin: str({ max: 256 }),
      version: str({ max: 64 }),
      specifier: str({ max: 4096 }),
      options,
      /** What it was connected to; null where its plugin needs nothing. */
      backend: optional(options),
      /** The files of its disk; null where it has none. */
      image: optional(image),
    }),
    { max: MAX_COMPONENTS },
  ),
});

/** What a machine was made from. */
export interface Manifest {
  /** The program that wrote it. */
  producer: string;
  /** The snapshot that has the pages which this one leaves out; null where it has all. */
  parent: ManifestParent | null;
  /** Bytes of RAM. */
  memory: number;
  /** Bytes kept for a firmware image. */
  romSize: number;
  /** Number of vCPUs. */
  cpus: number;
  /** Model of the vCPU. */
  cpuModel: string;
  /** `realtime` or `instructions`. */
  clock: string;
  /** Virtual nanoseconds of an instruction. */
  nsPerInstruction: number;
  /** Devices in the order in which they are made. */
  devices: {
    id: string;
    plugin: string;
    version: string;
    specifier: string;
    options: ManifestOptions;
    backend: ManifestOptions | null;
    image: ManifestImage | null;
  }[];
}

/** A disk in files, as it was when the state was taken (docs/snapshot-format.md, section "Disks"). */
export interface ManifestImage {
  /** Bytes of the disk. */
  size: number;
  /** Whether nothing is written to the files any more. */
  pinned: boolean;
  /** The files, the one on top first, each an overlay on the next. */
  files: ManifestImageFile[];
}

/** A file of a disk. */
export interface ManifestImageFile {
  /** Absolute path. */
  path: string;
  /** The path as seen from the folder of the snapshot. */
  relative: string;
  /** How it holds the disk: `raw` or `qcow2`. */
  format: string;
  /** Bytes of the disk that it holds. */
  size: number;
  /** Bytes of the file. */
  bytes: number;
  /** When it was last written, milliseconds since 1970 UTC; 0 for a block device. */
  modified: number;
  /** SHA-256 of its size and samples of its content, in hexadecimal. */
  fingerprint: string;
}

/** Options as a manifest has them. */
export type ManifestOptions = {
  /** The option. */
  name: string;
  /** Its value, tagged with its type. */
  value:
    | { tag: "text"; value: string }
    | { tag: "number"; value: number }
    | { tag: "flag"; value: boolean };
}[];

/**
 * Options in the form of a manifest.
 *
 * @param values The options.
 * @returns The same as a list.
 */
export function toManifestOptions(
  values: Readonly<Record<string, string | number | boolean>>,
): ManifestOptions {
  return Object.entries(values).map(([name, value]) => ({
    name,
    value: typeof value === "string"
      ? { tag: "text", value }
      : typeof value === "number"
      ? { tag: "number", value }
      : { tag: "flag", value },
  }));
}

/**
 * Options in the form that plugins take.
 *
 * @param list Options of a manifest.
 * @returns The options by name.
 */
export function fromManifestOptions(
  list: ManifestOptions,
): Record<string, string | number | boolean> {
  return Object.fromEntries(list.map(({ name, value }) => [name, value.value]));
}
