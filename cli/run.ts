// `run`: makes a machine of the command line and runs it. The default command.

import { Command, EnumType } from "@cliffy/command";

/** What `--trace` can log. */
export const TRACE_KINDS = [
  "blocks",
  "exceptions",
  "ports",
  "mmio",
  "irq",
] as const;

/** `--mem` and `--clock` where neither the user nor a snapshot says. */
export const DEFAULT_MEMORY = "512M";
export const DEFAULT_CLOCK = "realtime";

/**
 * Makes the command.
 *
 * @param setExitCode Takes the exit code that the run ended with.
 * @returns The command `run`.
 */
export function runCommand(setExitCode: (code: number) => void) {
  return new Command()
    .description("Boot a guest, its console on this terminal. The default.")
    .type("clock", new EnumType(["realtime", "instructions"]))
    .type("guest", new EnumType(["debian", "monitor"]))
    .option(
      "--dev <spec:string>",
      "Devices: NAME[@VERSION][:key=value]…, with commas between them.",
      { collect: true },
    )
    .option(
      "--mem <size:string>",
      `Guest memory; ${DEFAULT_MEMORY} when absent.`,
    )
    .option("--cpus <number:integer>", "Number of vCPUs.", { default: 1 })
    .option(
      "--clock <mode:clock>",
      `Where the guest's time comes from; ${DEFAULT_CLOCK} when absent.`,
    )
    .option("--kernel <file:file>", "Kernel to boot.", {
      conflicts: ["guest", "exec"],
    })
    .option("--initrd <file:file>", "Initial RAM disk of the kernel.", {
      depends: ["kernel"],
    })
    .option("--append <text:string>", "Added to the kernel's command line.")
    .option("--guest <name:guest>", "A guest that is made for you.")
    .option(
      "--exec <command:string>",
      "Run a command in the debian guest; print its output only.",
    )
    .option(
      "--trace <list:string>",
      `Log events: ${TRACE_KINDS.join(", ")}.`,
      { collect: true },
    )
    .option("--trace-file <file:file>", "Where the trace goes.", {
      depends: ["trace"],
    })
    .option("--print-hash", "Print the hash of the machine's state at exit.")
    .option(
      "--max-instructions <number:integer>",
      "End the run after so many instructions.",
    )
    .option("--restore <file:file>", "Go on from a snapshot.", {
      conflicts: ["exec"],
    })
    .option(
      "--replace <change:string>",
      "With --restore, another plugin in the place of a device: ID=SPEC.",
      { collect: true, depends: ["restore"] },
    )
    .option(
      "--lazy",
      "With --restore, run at once and load memory when it is touched, the rest meanwhile.",
      { depends: ["restore"] },
    )
    .option("--check", "With --restore, list what is in its way, and end.", {
      depends: ["restore"],
    })
    .option(
      "--snapshot <file:file>",
      "Where SIGUSR2, and the end by --max-instructions, save the machine.",
    )
    .option(
      "--control <path:file>",
      "A UNIX socket that speaks QMP; ctl is its client.",
    )
    .option(
      "--vnc <address:string>",
      "Show the first display to VNC clients: [HOST]:DISPLAY, such as :0, or unix=PATH.",
    )
    .example("disk and console:", "--dev virtio-blk:image=disk.img,uart")
    .example("your own kernel:", "--kernel bzImage --append console=ttyS0")
    .action(async (options) => {
      const { run } = await import("./session.ts");
      setExitCode(await run(options));
    });
}

/** The options of the command, parsed. */
export interface RunOptions {
  /** `--dev`, each as given. */
  dev?: string[];
  /** `--mem`. */
  mem?: string;
  /** `--cpus`. */
  cpus: number;
  /** `--clock`. */
  clock?: "realtime" | "instructions";
  /** `--kernel`. */
  kernel?: string;
  /** `--initrd`. */
  initrd?: string;
  /** `--append`. */
  append?: string;
  /** `--guest`. */
  guest?: "debian" | "monitor";
  /** `--exec`. */
  exec?: string;
  /** `--trace`, each as given. */
  trace?: string[];
  /** `--trace-file`. */
  traceFile?: string;
  /** `--print-hash`. */
  printHash?: true;
  /** `--max-instructions`. */
  maxInstructions?: number;
  /** `--restore`. */
  restore?: string;
  /** `--lazy`. */
  lazy?: true;
  /** `--replace`, each as given. */
  replace?: string[];
  /** `--check`. */
  check?: true;
  /** `--control`. */
  control?: string;
  /** `--vnc`. */
  vnc?: string;
  /** `--snapshot`. */
  snapshot?: string;
}
