// What a machine boots, now and when its guest resets it, also after a restore. A snapshot names
// it, with hashes, as it names the images of disks; docs/architecture.md, "Booting again", says why.

import { createHash } from "node:crypto";
import { resolve } from "node:path";
import type { BootFile } from "../core/boot/types.ts";
import {
  bytes,
  f64,
  type Infer,
  list,
  optional,
  record,
  schema,
  SchemaError,
  str,
} from "../snapshot/schema.ts";
import type { SnapshotReader } from "../snapshot/container.ts";
import { ExecOutputFilter, execStateType } from "../host/guests/exec.ts";
import { CliError, reason } from "./errors.ts";
import {
  type BootChoice,
  chooseGuest,
  type Guest,
  readBootFile,
} from "./guest.ts";

const HASH_BYTES = 32;
/** Digits of a hash that messages show. */
const SHOWN_DIGITS = 16;
const HINT = "give --kernel or --guest with --restore";
const ROLES = ["kernel", "initrd"] as const;
type Role = typeof ROLES[number];

/** What a run keeps in its snapshots. */
export const sessionSchema = schema("session", 1, {
  /** The guest that was made for the user: `debian`, `monitor`; null for files of their own. */
  guest: optional(str({ max: 64 })),
  /** What was booted. */
  files: list(
    record({
      /** `kernel` or `initrd`. */
      role: str({ max: 16 }),
      /** Absolute path; for a guest, what it is called. */
      path: str({ max: 4096 }),
      size: f64(),
      sha256: bytes(HASH_BYTES),
    }),
    { max: ROLES.length },
  ),
  /** The kernel's command line. */
  cmdline: str({ max: 65536 }),
  /** With `--exec`: how far its command has come. */
  exec: optional(execStateType),
});

/** What a run keeps in its snapshots. */
export type SessionState = Infer<typeof sessionSchema>;

/** Id of the component that holds it. */
export const SESSION = "session";

function describeFile(
  role: Role,
  { bytes, label }: BootFile,
  isOwn: boolean,
): SessionState["files"][number] {
  return {
    role,
    path: isOwn ? resolve(label) : label,
    size: bytes.length,
    sha256: new Uint8Array(createHash("sha256").update(bytes).digest()),
  };
}

/** What a machine boots. */
export class Boot {
  /** With `--exec`: what takes the command's output out of the console's. */
  readonly exec: ExecOutputFilter | undefined;
  readonly #options: BootChoice;
  readonly #notify: (message: string) => void;
  #guest: Guest | undefined;
  #record: Omit<SessionState, "exec"> | undefined;

  private constructor(
    options: BootChoice,
    notify: (message: string) => void,
    exec: ExecOutputFilter | undefined,
  ) {
    this.#options = options;
    this.#notify = notify;
    this.exec = exec;
  }

  /**
   * Reads or makes what the options ask to boot.
   *
   * @param options What to boot.
   * @param notify Takes what the user should know.
   * @returns What is to be booted.
   * @throws {CliError} If a file cannot be read or the guest cannot be had.
   */
  static async choose(
    options: BootChoice,
    notify: (message: string) => void,
  ): Promise<Boot> {
    const guest = await chooseGuest(options);
    const boot = new Boot(options, notify, guest.exec);
    boot.#guest = guest;
    return boot;
  }

  /**
   * Takes what was booted from a snapshot; nothing is read before it is booted again.
   *
   * @param reader The snapshot.
   * @param options What the user asks to boot goes before what the snapshot names.
   * @param notify Takes what the user should know.
   * @returns What is to be booted after a reset.
   * @throws {CliError} When the snapshot says something impossible.
   */
  static restore(
    reader: SnapshotReader,
    options: BootChoice,
    notify: (message: string) => void,
  ): Boot {
    try {
      return Boot.#restore(reader, options, notify);
    } catch (cause) {
      if (!(cause instanceof SchemaError)) throw cause;
      throw new CliError(`cannot restore: ${reason(cause)}`, undefined, {
        cause,
      });
    }
  }

  static #restore(
    reader: SnapshotReader,
    options: BootChoice,
    notify: (message: string) => void,
  ): Boot {
    const saved = reader.components.find(({ id }) => id === SESSION);
    if (saved === undefined) return new Boot(options, notify, undefined);
    const { schema: { name, version }, state } = saved;
    if (name !== sessionSchema.name) {
      throw new SchemaError(
        SESSION,
        `has the state of "${name}": expected that of "${sessionSchema.name}"`,
      );
    }
    const { exec, ...record } = sessionSchema.migrate(state, version);
    const boot = new Boot(
      options,
      notify,
      exec === null ? undefined : ExecOutputFilter.restore(exec),
    );
    boot.#record = record;
    return boot;
  }

  /** One line that tells the user what boots, where they did not choose it. */
  get notice(): string | undefined {
    return this.#guest?.notice;
  }

  /** What snapshots keep of it. */
  save(): SessionState {
    return { ...this.prepareRecord(), exec: this.exec?.save() ?? null };
  }

  /** Hashes the files, once: to be called before the machine is paused for a snapshot. */
  prepareRecord(): Omit<SessionState, "exec"> {
    if (this.#record !== undefined) return this.#record;
    const guest = this.#guest;
    const isOwn = this.#options.kernel !== undefined;
    return this.#record = {
      guest: guest?.name ?? null,
      files: ROLES.flatMap((role) => {
        const file = guest?.[role];
        return file === undefined ? [] : [describeFile(role, file, isOwn)];
      }),
      cmdline: guest?.cmdline ?? "",
    };
  }

  /**
   * What is to be booted, read now unless it was before.
   *
   * @returns The files.
   * @throws {CliError} When there is nothing that could be booted; the message says what.
   */
  async load(): Promise<Guest> {
    return this.#guest ??= await this.#find();
  }

  async #find(): Promise<Guest> {
    const { kernel, guest: named } = this.#options;
    if (kernel !== undefined || named !== undefined) {
      const guest = await chooseGuest(this.#options);
      const before = this.#record;
      this.#record = undefined;
      const keepsCmdline = guest.name === before?.guest &&
        this.#options.append === undefined;
      return keepsCmdline ? { ...guest, cmdline: before!.cmdline } : guest;
    }
    const record = this.#record;
    if (record === undefined || record.files.length === 0) {
      throw new CliError(
        `the snapshot does not say what was booted: ${HINT}`,
      );
    }
    const guest = await this.#recorded(record);
    for (const role of ROLES) {
      const before = record.files.find((file) => file.role === role);
      const file = guest[role];
      if (before === undefined || file === undefined) continue;
      const now = describeFile(role, file, record.guest === null);
      if (now.sha256.toHex() === before.sha256.toHex()) continue;
      const change = `${role} "${now.path}" has ${now.size} bytes and SHA-256 ${
        now.sha256.toHex().slice(0, SHOWN_DIGITS)
      }…, and that of the snapshot, "${before.path}", had ${before.size} and ${
        before.sha256.toHex().slice(0, SHOWN_DIGITS)
      }…`;
      // A snapshot from elsewhere must not show its guest any file that it names.
      if (record.guest === null) {
        throw new CliError(`${change}: ${HINT}`);
      }
      this.#notify(`the guest boots again, but not as before: ${change}`);
    }
    return guest;
  }

  /** The guest that a snapshot names, its command line as it was. */
  async #recorded(record: Omit<SessionState, "exec">): Promise<Guest> {
    const { guest, files, cmdline } = record;
    try {
      if (guest === "debian" || guest === "monitor") {
        const made = await chooseGuest({ guest });
        return { ...made, cmdline };
      }
      if (guest !== null) {
        throw new CliError(`this build has no guest "${guest}"`);
      }
      const read = async (role: Role) => {
        const file = files.find((each) => each.role === role);
        return file && await readBootFile(role, file.path);
      };
      const kernel = await read("kernel");
      if (kernel === undefined) throw new CliError("there is no kernel");
      return { name: null, kernel, initrd: await read("initrd"), cmdline };
    } catch (error) {
      throw new CliError(`${reason(error)}: ${HINT}`, undefined, {
        cause: error,
      });
    }
  }
}
