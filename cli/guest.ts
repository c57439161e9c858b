// What to boot: the user's own kernel, or a guest that is made for them.

import type { BootFile } from "../core/boot/types.ts";
import { ExecOutputFilter } from "../host/guests/exec.ts";
import { CliError, reason } from "./errors.ts";
import type { RunOptions } from "./run.ts";

/** What the user asks to boot. */
export type BootChoice = Partial<
  Pick<RunOptions, "kernel" | "initrd" | "append" | "guest" | "exec">
>;

/** A guest that is ready to boot. */
export interface Guest {
  /** The guest that was made for the user; null for files of their own. */
  name: "debian" | "monitor" | null;
  /** The kernel. */
  kernel: BootFile;
  /** The initial RAM disk. */
  initrd?: BootFile;
  /** The kernel's command line. */
  cmdline: string;
  /** One line that tells the user what boots, where they did not choose it. */
  notice?: string;
  /** With `--exec`: what takes the command's output out of the console's. */
  exec?: ExecOutputFilter;
}

const OWN_KERNEL_HINT = "--kernel FILE boots your own";

/**
 * Reads a file that is to be booted.
 *
 * @param what What it is, for messages.
 * @param path The file.
 * @returns Its content, labelled with the path.
 * @throws {CliError} If it cannot be read.
 */
export async function readBootFile(
  what: string,
  path: string,
): Promise<BootFile> {
  try {
    return { bytes: await Deno.readFile(path), label: path };
  } catch (cause) {
    throw new CliError(
      `cannot read ${what} "${path}": ${reason(cause)}`,
      undefined,
      { cause },
    );
  }
}

function join(...parts: (string | undefined)[]): string {
  return parts.filter((part) => part !== undefined && part !== "").join(" ");
}

async function debian(options: BootChoice): Promise<Guest> {
  const { prepareDebian } = await import("../host/guests/debian.ts");
  const { ProgressReporter } = await import("../host/guests/progress.ts");
  const reporter = new ProgressReporter();
  try {
    const guest = await prepareDebian({
      exec: options.exec,
      onProgress: (progress) => reporter.update(progress),
    });
    return {
      name: "debian",
      kernel: { bytes: guest.kernel, label: guest.label },
      initrd: { bytes: guest.initrd, label: `${guest.label} initramfs` },
      cmdline: join(guest.cmdline, options.append),
      exec: guest.execToken === undefined
        ? undefined
        : new ExecOutputFilter(guest.execToken),
    };
  } finally {
    await reporter.close();
  }
}

async function monitor(options: BootChoice): Promise<Guest> {
  const { prepareMonitor } = await import("../host/guests/monitor.ts");
  const guest = await prepareMonitor();
  return {
    name: "monitor",
    kernel: { bytes: guest.kernel, label: guest.label },
    cmdline: join(guest.cmdline, options.append),
  };
}

/** Debian where it can be had, and else the monitor; says which. */
async function defaultGuest(options: BootChoice): Promise<Guest> {
  const { GuestUnavailable } = await import("../host/guests/cache.ts");
  try {
    const guest = await debian(options);
    return {
      ...guest,
      notice: `booting ${guest.kernel.label}; ${OWN_KERNEL_HINT}`,
    };
  } catch (error) {
    if (!(error instanceof GuestUnavailable)) throw error;
    return {
      ...await monitor(options),
      notice: `booting the monitor, for ${reason(error)}; ${OWN_KERNEL_HINT}`,
    };
  }
}

/**
 * Reads or makes what the options ask to boot.
 *
 * @param options The options of `run`.
 * @returns The guest.
 * @throws {CliError} If a file cannot be read or the guest cannot be had.
 */
export async function chooseGuest(options: BootChoice): Promise<Guest> {
  if (options.kernel !== undefined) {
    return {
      name: null,
      kernel: await readBootFile("kernel", options.kernel),
      initrd: options.initrd === undefined
        ? undefined
        : await readBootFile("initrd", options.initrd),
      cmdline: options.append ?? "",
    };
  }
  if (options.guest === undefined && options.exec === undefined) {
    return await defaultGuest(options);
  }
  try {
    return options.guest === "monitor"
      ? await monitor(options)
      : await debian(options);
  } catch (error) {
    const { GuestUnavailable } = await import("../host/guests/cache.ts");
    if (!(error instanceof GuestUnavailable)) throw error;
    throw new CliError(reason(error), undefined, { cause: error });
  }
}
