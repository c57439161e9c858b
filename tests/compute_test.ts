// Work done in the guest, compared with the same done on the host: whole programs find what
// tests of single instructions do not.

import { assert, assertEquals } from "@std/assert";
import { diapause } from "../cli/testing.ts";
import { debianTest, noise, sha256, withDirectory } from "./support.ts";

const SIZE = 512 << 10;
const NUMBERS = 2000;
/** The "minimal standard" generator: its products fit a double, so awk and JavaScript agree. */
const NEXT = (x: number) => x * 16807 % 2147483647;

const AWK_NUMBERS = `awk 'BEGIN { x = 1; for (i = 0; i < ${NUMBERS}; i++) {` +
  ` x = x * 16807 % 2147483647; print x } }'`;
/** Without functions: Debian's static busybox is built with none. */
const AWK_DOUBLES = `awk 'BEGIN { x = 12345; for (i = 0; i < ${NUMBERS}; i++) {
  x = x * 16807 % 2147483647; a = x / 65537 - 9000
  x = x * 16807 % 2147483647; b = x / 2147483647 + 1e-9
  printf "%.17g %.17g %.17g %.17g %.17g %d\\n", a + b, a - b, a * b, a / b, a % b, a
} }'`;

function doubles(): number[][] {
  let x = 12345;
  return Array.from({ length: NUMBERS }, () => {
    x = NEXT(x);
    const a = x / 65537 - 9000;
    x = NEXT(x);
    const b = x / 2147483647 + 1e-9;
    // busybox's own remainder, which rounds twice.
    const rest = a - Math.trunc(a / b) * b;
    return [a + b, a - b, a * b, a / b, rest, Math.trunc(a)];
  });
}

/** Ways to compile the program: for 64-bit mode, and for compatibility mode with the x87. */
const COMPILED = {
  numbers64: "-march=x86-64-v2",
  numbers32: "-m32 -march=pentium4",
};

/**
 * Compiles the program of numbers, for what the vCPU has.
 *
 * @returns False where there is no compiler, which a machine of CI has.
 */
async function compile(output: string, options: string): Promise<boolean> {
  const source = new URL("testdata/numbers.c", import.meta.url).pathname;
  const common = "-O2 -static -nostdlib -ffreestanding " +
    "-fno-stack-protector -fno-tree-loop-distribute-patterns";
  try {
    const { success, stderr } = await new Deno.Command("gcc", {
      args: [...`${common} ${options}`.split(" "), "-o", output, source],
      stdin: "null",
    }).output();
    assert(success, new TextDecoder().decode(stderr));
    return true;
  } catch (error) {
    if (
      !(error instanceof Deno.errors.NotFound) || Deno.env.get("CI") === "true"
    ) throw error;
    console.log("skipped: gcc is missing");
    return false;
  }
}

/** Fills bytes up to whole sectors. */
function sectors(bytes: Uint8Array): Uint8Array {
  const image = new Uint8Array(Math.ceil(bytes.length / 512) * 512);
  image.set(bytes);
  return image;
}

function numbers(): number[] {
  let x = 1;
  return Array.from({ length: NUMBERS }, () => x = NEXT(x));
}

async function gunzip(
  bytes: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(
    new DecompressionStream("gzip"),
  );
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The text of the sections that `echo ==` begins. */
function sections(stdout: string): string[][] {
  return stdout.split("==\n").slice(1).map((part) =>
    part.trimEnd().split("\n")
  );
}

debianTest(
  "programs in the guest compute what the host does",
  () =>
    withDirectory(async (directory) => {
      const file = (name: string) => `${directory}/${name}`;
      // Half of it compresses well.
      const image = noise(SIZE);
      for (let i = 0; i < SIZE / 2; i++) image[i] = 0x20 + image[i] % 4;
      await Deno.writeFile(file("in"), image);
      await Deno.writeFile(file("out"), new Uint8Array(2 * SIZE));
      const steps = [
        "md5sum < /dev/vda; sha1sum < /dev/vda; sha512sum < /dev/vda",
        // The compressed bytes go to the other disk; their number is printed.
        "gzip -c < /dev/vda > /tmp/gz; dd if=/tmp/gz of=/dev/vdb conv=fsync 2>/dev/null; " +
        "wc -c < /tmp/gz; gunzip -c < /tmp/gz | cmp - /dev/vda && echo same",
        `${AWK_NUMBERS} > /tmp/n; sort -n < /tmp/n`,
        "sort /tmp/n | md5sum; awk '{ s += $1 } END { printf \"%.0f\\n\", s }' /tmp/n",
        "dd if=/dev/vda bs=512 skip=1000 count=2 conv=swab 2>/dev/null | od -An -v -tx1 | tr -d ' \\n'; echo",
        AWK_DOUBLES,
        // Processes, pipes, signals, and 64-bit arithmetic in the shell.
        "i=0; while [ $i -lt 50 ]; do (exit $((i % 7))) || s=$((s + $?)); i=$((i + 1)); done; echo $s",
        "x=1; for i in $(seq 60); do x=$((x * 6364136223846793005 + 1442695040888963407)); done; echo $x",
        "sh -c 'trap \"echo caught; exit\" USR1; kill -USR1 $$; while :; do :; done'",
        "echo '2^521 - 1; scale=40; sqrt(2); 10^50 / 7' | BC_LINE_LENGTH=0 bc",
      ];
      const script = steps.map((step) => `echo ==\n${step}\n`).join("");
      const { code, stdout, stderr } = await diapause(
        ...["--dev", `virtio-blk:image=${file("in")}`],
        ...["--dev", `virtio-blk:image=${file("out")}`],
        ...["--guest", "debian", "--exec", script],
      );
      assertEquals({ code, stderr }, { code: 0, stderr: "" });
      const [
        sums,
        zipped,
        sorted,
        total,
        swapped,
        floats,
        status,
        lcg,
        trap,
        bc,
      ] = sections(stdout);

      const { createHash } = await import("node:crypto");
      const hash = (algorithm: string, data: Uint8Array | string) =>
        createHash(algorithm).update(data).digest("hex");
      assertEquals(sums, [
        `${hash("md5", image)}  -`,
        `${hash("sha1", image)}  -`,
        `${hash("sha512", image)}  -`,
      ]);

      assertEquals(zipped[1], "same");
      const out = await Deno.readFile(file("out"));
      assertEquals(
        await sha256(await gunzip(out.slice(0, Number(zipped[0])))),
        await sha256(image),
      );

      const expected = numbers();
      assertEquals(
        sorted,
        expected.toSorted((x, y) => x - y).map(String),
      );
      const text = expected.map(String).sort().map((line) => `${line}\n`);
      assertEquals(total, [
        `${hash("md5", text.join(""))}  -`,
        String(expected.reduce((sum, x) => sum + x, 0)),
      ]);

      const swab = image.slice(1000 * 512, 1002 * 512);
      for (let i = 0; i < swab.length; i += 2) {
        [swab[i], swab[i + 1]] = [swab[i + 1], swab[i]];
      }
      assertEquals(swapped, [swab.toHex()]);

      assertEquals(
        floats.map((line) => line.split(" ").map(Number)),
        doubles(),
      );

      let sum = 0;
      for (let i = 0; i < 50; i++) sum += i % 7;
      assertEquals(status, [String(sum)]);
      let x = 1n;
      for (let i = 0; i < 60; i++) {
        x = BigInt.asIntN(64, x * 6364136223846793005n + 1442695040888963407n);
      }
      assertEquals(lcg, [String(x)]);
      assertEquals(trap, ["caught"]);
      const SCALE = 10n ** 40n;
      const seventh = String(10n ** 50n * SCALE / 7n);
      assertEquals(bc, [
        String(2n ** 521n - 1n),
        "1.4142135623730950488016887242096980785696",
        `${seventh.slice(0, -40)}.${seventh.slice(-40)}`,
      ]);
    }),
);

/** What the program prints here; undefined where the host cannot run it, as with 32 bits. */
async function runNatively(program: string): Promise<string | undefined> {
  try {
    const { stdout } = await new Deno.Command(program).output();
    return new TextDecoder().decode(stdout);
  } catch (error) {
    console.log(`skipped: ${error instanceof Error ? error.message : error}`);
    return undefined;
  }
}

debianTest(
  "compiled programs print the same in the guest as on the host",
  () =>
    withDirectory(async (directory) => {
      const disks: string[] = [];
      let expected = "";
      for (const [name, options] of Object.entries(COMPILED)) {
        const program = `${directory}/${name}`;
        if (!await compile(program, options)) return;
        const native = await runNatively(program);
        if (native === undefined) continue;
        assertEquals(native.split("\n").length, 8);
        expected += native.repeat(3);
        // What follows the program on the disk does not matter to it.
        await Deno.writeFile(
          `${program}.disk`,
          sectors(await Deno.readFile(program)),
        );
        disks.push(`virtio-blk:image=${program}.disk:readonly=on`);
      }
      const { code, stdout, stderr } = await diapause(
        ...["--dev", disks.join(), "--guest", "debian", "--exec"],
        // All at once, so that the kernel switches between them and their registers.
        "for d in /dev/vd?; do p=p${d#/dev/vd}; cat $d > $p; chmod +x $p; done; " +
          "for p in p?; do for i in 1 2 3; do ./$p > $p.$i & done; done; wait; " +
          "cat p?.?",
      );
      assertEquals({ code, stderr }, { code: 0, stderr: "" });
      assertEquals(stdout, expected);
    }),
);
