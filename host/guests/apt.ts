/**
 * Debian packages, through the host's own tools: `apt-cache` and `apt-get download` find and
 * fetch them, `dpkg-deb` and `tar` take files out of them.
 *
 * @module
 */

import { GuestUnavailable, sha256 } from "./cache.ts";

/** How far something long has come. */
export interface GuestProgress {
  /** What is being done. */
  what: string;
  /** Bytes done. */
  done: number;
  /** Bytes in all. */
  total: number;
}

/** Is told of progress. */
export type OnProgress = (progress: GuestProgress) => void;

/** A package as the archive has it. */
export interface RemotePackage {
  /** The file that `apt-get download` makes. */
  file: string;
  /** Bytes. */
  size: number;
  /** SHA-256 in hexadecimal. */
  sha256: string;
}

async function run(
  command: string,
  args: string[],
  cwd?: string,
): Promise<string> {
  let output: Deno.CommandOutput;
  try {
    output = await new Deno.Command(command, {
      args,
      ...(cwd === undefined ? {} : { cwd }),
      env: { LC_ALL: "C" },
      stdin: "null",
    }).output();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new GuestUnavailable(
        `the Debian guest needs ${command}, which this host does not have`,
      );
    }
    throw error;
  }
  if (!output.success) {
    const reason = new TextDecoder().decode(output.stderr).trim()
      .split("\n").filter((line) => !line.startsWith("W:")).join("; ");
    throw new GuestUnavailable(
      `${command} ${args[0]} failed: ${reason || `exit status ${output.code}`}`,
    );
  }
  return new TextDecoder().decode(output.stdout);
}

/**
 * The versioned kernel package behind a meta package.
 *
 * @param name For example `linux-image-amd64`.
 * @returns The package that contains the kernel; the same if it is no meta package.
 * @throws {GuestUnavailable} If apt does not know the package.
 */
export async function resolveKernelPackage(name: string): Promise<string> {
  const text = await run("apt-cache", ["depends", "--important", name]);
  const found = /^ {2}Depends: (linux-image-\d\S*)$/m.exec(text);
  if (found !== null) return found[1];
  if (!text.startsWith(`${name}\n`)) {
    throw new GuestUnavailable(
      `package ${name} is not in the host's package lists; run: apt-get update`,
    );
  }
  return name;
}

/**
 * Asks where a package comes from.
 *
 * @param name The package.
 * @returns Its file, size and checksum.
 * @throws {GuestUnavailable} If apt does not know the package.
 */
export async function findPackage(name: string): Promise<RemotePackage> {
  const text = await run("apt-get", ["download", "--print-uris", name]);
  const found = /^'[^']*' (\S+) (\d+) SHA256:([0-9a-f]{64})$/m.exec(text);
  if (found === null) {
    throw new GuestUnavailable(
      `package ${name} cannot be downloaded; run: apt-get update`,
    );
  }
  return { file: found[1], size: Number(found[2]), sha256: found[3] };
}

/**
 * Downloads a package and checks it.
 *
 * @param name The package.
 * @param remote What {@linkcode findPackage} said of it.
 * @param directory Where to.
 * @param onProgress Is told how much is there, a few times a second.
 * @returns The path of the file.
 * @throws {GuestUnavailable} If the download fails or the checksum is wrong.
 */
export async function downloadPackage(
  name: string,
  remote: RemotePackage,
  directory: string,
  onProgress: OnProgress,
): Promise<string> {
  const POLL_MS = 100;
  const path = `${directory}/${remote.file}`;
  const report = (done: number) =>
    onProgress({ what: `fetching ${name}`, done, total: remote.size });
  report(0);
  const timer = setInterval(() => {
    Deno.stat(path).then(({ size }) => report(size), () => {});
  }, POLL_MS);
  try {
    // The directory is the user's own, where apt's download user may not write.
    await run(
      "apt-get",
      ["download", "-o", "APT::Sandbox::User=root", name],
      directory,
    );
  } finally {
    clearInterval(timer);
  }
  const sum = await sha256(await Deno.readFile(path));
  if (sum !== remote.sha256) {
    throw new GuestUnavailable(
      `${remote.file}: SHA-256 is ${sum}, expected ${remote.sha256}; try again`,
    );
  }
  report(remote.size);
  return path;
}

/**
 * Decompresses a package's files, to be picked from with {@linkcode extractFiles}.
 *
 * @param deb The package's file.
 * @param archive Where the tar archive goes.
 */
export async function unpackPackage(
  deb: string,
  archive: string,
): Promise<void> {
  const child = spawn("dpkg-deb", ["--fsys-tarfile", deb], "piped");
  const file = await Deno.open(archive, { write: true, create: true });
  await child.stdout.pipeTo(file.writable);
  const { success } = await child.status;
  if (!success) throw new GuestUnavailable(`${deb}: cannot be unpacked`);
}

/**
 * Takes files out of a package.
 *
 * @param archive What {@linkcode unpackPackage} made.
 * @param patterns Shell patterns of paths such as `./boot/vmlinuz-*`; ones that match nothing
 * are no error.
 * @param directory Where to.
 */
export async function extractFiles(
  archive: string,
  patterns: readonly string[],
  directory: string,
): Promise<void> {
  // The status tells only whether a pattern matched nothing; what is missing, its user finds.
  await spawn(
    "tar",
    ["-xf", archive, "-C", directory, "--wildcards", ...patterns],
    "null",
  ).status;
}

function spawn(
  command: string,
  args: string[],
  stdout: "piped" | "null",
): Deno.ChildProcess {
  try {
    return new Deno.Command(command, {
      args,
      stdin: "null",
      stdout,
      stderr: "null",
    }).spawn();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new GuestUnavailable(
      `the Debian guest needs ${command}, which this host does not have`,
    );
  }
}
