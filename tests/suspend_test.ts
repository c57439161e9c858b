// Suspended and restored while the guest works on its disks and its console: nothing is lost, and
// nothing happens twice (DESIGN.md section 6).
//
// `DIAPAUSE_SUSPEND_MIB` is the size of the disk that the guest sums: 1024 for the whole proof.

import { assert, assertEquals } from "@std/assert";
import { Random } from "../core/cpu/testing/random.ts";
import { diapause } from "../cli/testing.ts";
import {
  assertCleanLog,
  debianTest,
  newSeed,
  noise,
  Session,
  sha256,
  withDirectory,
} from "./support.ts";

const MIB = 1 << 20;
const DISK_MIB = Number(Deno.env.get("DIAPAUSE_SUSPEND_MIB") ?? 48);
const LOG_BYTES = 16 * MIB;
const SECTOR = 512;
const CYCLES = 10;
const CHECKPOINTS = 60;
/** The others hold what has changed since the one before. */
const FULL_EVERY = 10;
/** Of the checkpoints, restored besides the last. */
const CHECKED = 3;
/** What a kernel says of a clock that it no longer trusts, or of time that it has missed. */
const CLOCK_COMPLAINTS =
  /unstable|clocksource.*watchdog|lockup|stall|time (jump|went)/i;

/**
 * Sums the first disk while a counter goes to the console and, a sector each, to the second disk;
 * then shows what is on that, and the kernel's log.
 */
const WORK = `stty -echo
dmesg -n 1
echo begin
count() {
  i=0
  while [ ! -e /tmp/done ]; do
    echo count $i | tee /tmp/line
    dd if=/tmp/line of=/dev/vdb seek=$i conv=sync 2> /dev/null
    i=$((i + 1))
    usleep 20000
  done
  echo $i > /tmp/total
}
sums() {
  while [ ! -e /tmp/enough ]; do
    sha256sum /dev/vda
    echo 3 > /proc/sys/vm/drop_caches
  done
  touch /tmp/done
}
count &
sums &
read -r line
echo $line > /tmp/enough
wait
sync
echo 3 > /proc/sys/vm/drop_caches
echo on the disk:
dd if=/dev/vdb count=$(cat /tmp/total) 2> /dev/null | tr -d '\\0'
echo log:
dmesg
poweroff -f`;

/** A snapshot keeps an image as it is, and the machine says so. */
const DISK_NOTICE =
  /^diapause: virtio-blk[01]: (".*" is kept as it is for the snapshot |writes go to )/;

interface Sample {
  /** Lines of the counter that the console had for sure. */
  least: number;
  file: string;
}

/** The number of the last line of the counter that is complete; -1 without one. */
function counted(text: string): number {
  const lines = [...text.matchAll(/^count (\d+)\r$/gm)];
  return Number(lines.at(-1)?.[1] ?? -1);
}

/** Splits text into lines. */
class TextLineStream extends TransformStream<string, string> {
  constructor() {
    let partial = "";
    super({
      transform(text, controller) {
        const lines = (partial + text).split("\n");
        partial = lines.pop()!;
        for (const line of lines) controller.enqueue(line);
      },
    });
  }
}

/** One machine after another, each going on where the one before was suspended. */
class Chain {
  readonly socket: string;
  #session: Session;
  #before = "";

  constructor(readonly directory: string, ...args: string[]) {
    this.socket = `${directory}/control`;
    this.#session = new Session(...args, "--control", this.socket);
  }

  /** What the guest has printed, on whatever machine. */
  get text(): string {
    return this.#before + this.#session.text;
  }

  get session(): Session {
    return this.#session;
  }

  /** Waits until the counter has gone on. */
  async further(lines: number): Promise<void> {
    const wanted = counted(this.text) + lines;
    await this.#session.expect(`count ${wanted}\r\n`);
  }

  /** Runs a command of the control socket; a connection of its own each time. */
  async control(
    execute: string,
    args: Record<string, unknown> = {},
  ): Promise<void> {
    const connection = await Deno.connect({
      transport: "unix",
      path: this.socket,
    });
    try {
      const lines = connection.readable.pipeThrough(new TextDecoderStream())
        .pipeThrough(new TextLineStream()).getReader();
      const writer = connection.writable.getWriter();
      const ask = (message: unknown) =>
        writer.write(
          new TextEncoder().encode(`${JSON.stringify(message)}\n`),
        );
      await ask({ execute: "qmp_capabilities" });
      await ask({ execute, arguments: args, id: 1 });
      for (;;) {
        const { value, done } = await lines.read();
        assert(!done, `${execute}: the machine closed the connection`);
        const reply = JSON.parse(value);
        if (reply.id !== 1) continue;
        assertEquals(reply.error, undefined);
        return;
      }
    } finally {
      connection.close();
    }
  }

  /** The same through the command `ctl`. */
  async ctl(verb: string, ...args: string[]): Promise<void> {
    const { code, stderr } = await diapause("ctl", this.socket, verb, ...args);
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
  }

  /** Waits for the process's end, which loses nothing that the guest has printed. */
  async end(): Promise<void> {
    const { code, stderr } = await this.#session.end();
    const complaints = stderr.split("\n").filter((line) =>
      line !== "" && !line.includes(": restoring ") && !DISK_NOTICE.test(line)
    );
    assertEquals({ code, complaints }, { code: 0, complaints: [] });
  }

  /** Goes on in a new process. */
  restore(file: string): void {
    this.#before = this.text;
    this.#session = new Session("--restore", file, "--control", this.socket);
  }
}

debianTest(
  "a guest at work goes on through ten suspends and sixty checkpoints",
  () =>
    withDirectory(async (directory) => {
      const random = new Random(newSeed());
      const file = (name: string) => `${directory}/${name}`;
      const expected = await makeDisk(file("disk"));
      await Deno.writeFile(file("log"), new Uint8Array(LOG_BYTES));
      const chain = new Chain(
        directory,
        ...["--guest", "debian", "--mem", "128M", "--dev"],
        `virtio-blk:image=${file("disk")},virtio-blk:image=${file("log")},uart`,
      );
      await chain.session.expect("/root # ");
      await chain.session.type(`cat > work <<'END'\n${WORK}\nEND`);
      await chain.session.type("sh work");
      await chain.session.expect("\nbegin\r\n");

      for (let i = 0; i < CYCLES; i++) {
        await chain.further(1 + random.below(8));
        await chain.control("x-suspend", { file: file("suspended") });
        await chain.end();
        chain.restore(file("suspended"));
      }

      const checked = new Set<number>();
      while (checked.size < CHECKED) checked.add(random.below(CHECKPOINTS - 1));
      const samples: Sample[] = [];
      for (let i = 0; i < CHECKPOINTS; i++) {
        await chain.further(1);
        const least = counted(chain.text);
        const target = file(`checkpoint-${i}`);
        const incremental = i % FULL_EVERY !== 0;
        await chain.control("x-checkpoint", { file: target, incremental });
        if (checked.has(i)) samples.push({ least, file: target });
      }
      await chain.ctl("stop");
      await chain.ctl("checkpoint", file("checkpoint"));
      await chain.ctl("quit");
      await chain.end();
      chain.restore(file("checkpoint"));
      await chain.session.type("enough");
      await chain.end();

      const [, console, onDisk, log] = chain.text.replaceAll("\r\n", "\n")
        .split(/^(?:begin|on the disk:|log:)\n/m);
      const lines = console.split("\n");
      const sum = `${expected}  /dev/vda`;
      assert(lines.includes(sum));
      const counts = lines.filter((line) => line !== sum);
      const total = counts.length - 1;
      const all = Array.from({ length: total }, (_, i) => `count ${i}`);
      assertEquals(counts, [...all, ""]);
      assertEquals(onDisk, all.map((line) => `${line}\n`).join(""));
      assertCleanLog(log);
      assertEquals(
        log.split("\n").filter((line) => CLOCK_COMPLAINTS.test(line)),
        [],
      );
      assert(total * SECTOR < LOG_BYTES);

      for (const { least, file } of samples) {
        const copy = new Chain(directory, "--restore", file);
        await copy.session.expect("\ncount ");
        await copy.session.expect("\ncount ");
        await copy.control("quit");
        await copy.end();
        const numbers = [...copy.text.matchAll(/^count (\d+)\r$/gm)]
          .map((match) => Number(match[1]));
        // The guest is ahead of what was read of its console, by as much as a pipe holds.
        assert(
          numbers[0] >= least && numbers[0] < total,
          `${file} begins at ${numbers[0]}: expected ${least} to ${total}`,
        );
        assertEquals(numbers, numbers.map((_, i) => numbers[0] + i));
      }
    }),
);

/** Makes an image, its second half noise in patches with holes between; returns its SHA-256. */
async function makeDisk(path: string): Promise<string> {
  const image = new Uint8Array(DISK_MIB * MIB);
  for (let at = 0; at < DISK_MIB; at += 2) {
    image.set(noise(MIB, at + 1), at * MIB);
  }
  await Deno.writeFile(path, image);
  return await sha256(image);
}

const USED_MIB = 100;
const PROGRAM_MIB = 88;
const LARGEST_MIB = 60;
/** Reads a program into the page cache until so much of the guest's memory is in use. */
const READ_PROGRAM = `used() {
  awk '/^MemTotal/ { t = $2 } /^MemFree/ { f = $2 } END { print int((t - f) / 1024) }' /proc/meminfo
}
exec 5< /dev/vda
i=0
while [ $(used) -lt ${USED_MIB} ]; do
  dd if=/dev/vda of=/dev/null bs=1M skip=$i count=1 2> /dev/null
  i=$((i + 1))
done
echo in use: $(used)`;

debianTest(
  "a guest of 512 MiB that uses 100 MiB of them has a snapshot below 60 MiB",
  () =>
    withDirectory(async (directory) => {
      const file = (name: string) => `${directory}/${name}`;
      // What a page cache holds is programs and libraries.
      await Deno.copyFile(Deno.execPath(), file("program"));
      await Deno.truncate(file("program"), PROGRAM_MIB * MIB);
      const chain = new Chain(
        directory,
        ...["--guest", "debian", "--mem", "512M"],
        ...["--dev", `virtio-blk:image=${file("program")},uart`],
      );
      await chain.session.expect("/root # ");
      await chain.session.type(`cat > work <<'END'\n${READ_PROGRAM}\nEND`);
      await chain.session.type("sh work");
      await chain.session.expect(`\nin use: ${USED_MIB}`);
      await chain.ctl("checkpoint", file("snapshot"));
      await chain.ctl("quit");
      await chain.end();
      const { size } = await Deno.stat(file("snapshot"));
      assert(
        size < LARGEST_MIB * MIB,
        `${size / MIB} MiB: expected less than ${LARGEST_MIB}`,
      );
    }),
);
