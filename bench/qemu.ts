/**
 * Runs the same guests under QEMU's TCG, with one thread, where it is installed.
 *
 * The machine is as ours: the Q35 chipset, 512 MiB, an x86-64-v2 processor, a serial port, no
 * network card and no display.
 *
 * @module
 */

import {
  BenchError,
  runSession,
  type Session,
  type SessionOptions,
} from "./session.ts";

/** QEMU's program. */
export const PROGRAM = "qemu-system-x86_64";
const BASE_ARGUMENTS: readonly string[] = [
  ...["-M", "q35", "-accel", "tcg,thread=single", "-cpu", "Nehalem"],
  ...["-m", "512", "-nographic", "-no-reboot", "-nic", "none", "-vga", "none"],
];

/** What to boot. */
export interface QemuGuest {
  /** Path of the kernel. */
  kernel: string;
  /** Path of the initial RAM disk. */
  initrd?: string;
  /** The kernel's command line. */
  cmdline?: string;
  /** Path of a firmware image instead of QEMU's own. */
  firmware?: string;
  /** More arguments. */
  extra?: readonly string[];
}

/**
 * The arguments for a guest.
 * @param guest What to boot.
 * @returns What follows the program's name.
 */
export function qemuArguments(guest: QemuGuest): string[] {
  const { kernel, initrd, cmdline, firmware, extra = [] } = guest;
  const optional = (name: string, value: string | undefined) =>
    value === undefined ? [] : [name, value];
  return [
    ...BASE_ARGUMENTS,
    ...optional("-bios", firmware),
    ...["-kernel", kernel],
    ...optional("-initrd", initrd),
    ...optional("-append", cmdline),
    ...extra,
  ];
}

/**
 * Looks for QEMU.
 * @returns Its version; undefined if it is not installed.
 */
export async function qemuVersion(): Promise<string | undefined> {
  try {
    const { stdout } = await new Deno.Command(PROGRAM, {
      args: ["--version"],
      stdin: "null",
    }).output();
    return /version (\S+)/.exec(new TextDecoder().decode(stdout))?.[1];
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/**
 * Runs QEMU.
 *
 * @param guest What to boot.
 * @param options When to end it.
 * @returns Its session.
 */
export function runQemu(
  guest: QemuGuest,
  options?: SessionOptions,
): Promise<Session> {
  return runSession(
    "QEMU",
    { command: PROGRAM, args: qemuArguments(guest) },
    options,
  );
}

const FIRMWARE_SIZE = 64 * 1024;
/** The reset vector, below the end of the image: Intel SDM vol. 3, 10.1.4. */
const RESET_VECTOR = 16;
/** Port of QEMU's device isa-debug-exit, which ends QEMU with status 2·value + 1. */
const EXIT_PORT = 0x501;
const EXIT_DEVICE = ["-device", `isa-debug-exit,iobase=${EXIT_PORT},iosize=1`];
const EXIT_STATUS = 1;

/**
 * A firmware whose first instructions end QEMU.
 * @returns The image.
 */
export function firstInstructionFirmware(): Uint8Array {
  const HLT = 0xf4;
  const image = new Uint8Array(FIRMWARE_SIZE).fill(HLT);
  image.set([
    ...[0xba, EXIT_PORT & 0xff, EXIT_PORT >> 8], // mov dx, EXIT_PORT
    ...[0x30, 0xc0], // xor al, al
    0xee, // out dx, al
  ], FIRMWARE_SIZE - RESET_VECTOR);
  return image;
}

/**
 * Measures the time from QEMU's start to its end by the first guest instructions, with the kernel
 * and initial RAM disk loaded.
 *
 * @param guest What to boot, with {@linkcode firstInstructionFirmware} as its firmware.
 * @returns Seconds.
 * @throws {BenchError} If QEMU ended otherwise.
 */
export async function qemuStartSeconds(
  guest: QemuGuest & { firmware: string },
): Promise<number> {
  const start = performance.now();
  const { code, stderr } = await new Deno.Command(PROGRAM, {
    args: qemuArguments({ ...guest, extra: EXIT_DEVICE }),
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  const seconds = (performance.now() - start) / 1000;
  if (code !== EXIT_STATUS) {
    throw new BenchError(
      `QEMU ended with status ${code}, expected ${EXIT_STATUS}: ${
        new TextDecoder().decode(stderr).trim()
      }`,
    );
  }
  return seconds;
}
