// Disks in files, in snapshots: kept as they are when the machine is saved, found again when it is
// restored.

import { formatOf, knownFormat } from "../host/block/chain.ts";
import type { Pin } from "../host/block/mod.ts";
import { examineOther, findImage } from "../host/block/recorded.ts";
import type { OptionValue } from "../core/plugin.ts";
import type { ManifestImage } from "../snapshot/container.ts";
import { CliError, reason } from "./errors.ts";
import type { PlannedDevice } from "./setup.ts";

/** The images of a machine that is being saved. */
export class ImagePins {
  readonly #devices: readonly PlannedDevice[];
  readonly #snapshot: string;
  readonly #pins: Pin[] = [];
  /** What the devices are connected to, by id, as options that choose it; exact once {@linkcode take} has resolved. */
  readonly backends: ReadonlyMap<string, Record<string, OptionValue>>;

  /**
   * Pins nothing yet.
   *
   * @param devices The machine's devices.
   * @param scratch Its disks in memory, whose size is told even where the user left it out.
   * @param snapshot Path of the snapshot.
   */
  constructor(
    devices: readonly PlannedDevice[],
    scratch: readonly { id: string; size: number }[],
    snapshot: string,
  ) {
    this.#devices = devices;
    this.#snapshot = snapshot;
    this.backends = new Map(
      devices.flatMap(({ id, plugin, options }) =>
        plugin.backend === undefined ? [] : [[id, { ...options.backend }]]
      ),
    );
    for (const { id, size } of scratch) {
      Object.assign(this.backends.get(id) ?? {}, { size });
    }
  }

  /**
   * Pins every image, while the machine stands still.
   *
   * @returns What the snapshot has to say of each, by device.
   */
  async take(): Promise<ReadonlyMap<string, ManifestImage>> {
    const images = new Map<string, ManifestImage>();
    for (const { id, image } of this.#devices) {
      if (image === undefined) continue;
      const pin = await image.pin(this.#snapshot);
      const backend = this.backends.get(id)!;
      if (pin === undefined) {
        // An empty drive.
        delete backend.image;
        delete backend.format;
        continue;
      }
      this.#pins.push(pin);
      images.set(id, pin.image);
      const [{ path, format }] = pin.image.files;
      Object.assign(backend, { image: path, format });
    }
    return images;
  }

  /** Lets go of the images, for the snapshot was not finished. */
  async cancel(): Promise<void> {
    for (const pin of this.#pins) await pin.cancel();
  }
}

/**
 * Finds the image that a device of a snapshot had, or checks the one that the user gives for it.
 *
 * @param id The device.
 * @param recorded What the snapshot says of its image; null where it had a disk in memory.
 * @param backend The options of its backend; the image that was found is put there.
 * @param isGiven Whether the user gave the image.
 * @param snapshot Path of the snapshot.
 * @returns What the user should know, if anything.
 * @throws {CliError} If the image cannot be used; the message names the device.
 */
export async function planImage(
  id: string,
  recorded: ManifestImage | null,
  backend: Record<string, OptionValue>,
  isGiven: boolean,
  snapshot: string,
): Promise<string | undefined> {
  const say = (line: string) => `device "${id}": ${line}`;
  const path = backend.image;
  if (typeof path !== "string") return undefined;
  if (recorded === null) {
    delete backend.size;
    return say(
      `image "${path}" takes the place of a disk in memory, whose content is left out`,
    );
  }
  const find = async () => {
    if (!isGiven) return await findImage(recorded, snapshot);
    const format = backend.format === undefined
      ? await formatOf(path)
      : knownFormat(String(backend.format), path);
    return await examineOther(recorded, path, format);
  };
  const found = await find().catch((cause) => {
    throw new CliError(say(reason(cause)), undefined, { cause });
  });
  const { problem, note } = found;
  if (problem !== undefined) {
    const why = recorded.pinned
      ? ""
      : " (its device has pin=off, so it was written on)";
    throw new CliError(
      say(`${problem}${why}: give another with --dev ${id}:image=PATH`),
    );
  }
  backend.image = found.path;
  backend.format = found.format;
  return note && say(note);
}
