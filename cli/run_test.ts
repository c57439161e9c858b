import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { fakeBzImage } from "../core/boot/testing.ts";
import { CODE, diapause, kernelFile } from "./testing.ts";

const TESTDATA = new URL("./testdata/", import.meta.url).pathname;

/** Runs the command, which is to end with one line on standard error. */
async function refused(
  code: number,
  message: string,
  ...args: string[]
): Promise<void> {
  const outcome = await diapause(...args);
  assertStringIncludes(outcome.stderr, message);
  assertEquals(outcome.code, code, outcome.stderr);
  assertEquals(outcome.stdout, "");
  assertMatch(outcome.stderr, /^diapause: [^\n]+\n$/);
}

async function temporary(name: string, content: Uint8Array): Promise<string> {
  const path = `${await Deno.makeTempDir()}/${name}`;
  await Deno.writeFile(path, content);
  return path;
}

Deno.test("run refuses a device that is unknown, and suggests one", async () => {
  await refused(
    2,
    'unknown device "virtio-blok". Did you mean "virtio-blk"?',
    ...["--dev", "virtio-blok,uart"],
  );
});

Deno.test("run refuses an option that is unknown or malformed", async () => {
  await refused(2, 'Did you mean option "--mem"?', "--memm", "1G");
  await refused(
    2,
    'unknown option "imaeg" of device "virtio-blk"',
    ...["--dev", "virtio-blk:imaeg=x"],
  );
  await refused(
    2,
    'malformed option "readonly"',
    "--dev",
    "virtio-blk:readonly",
  );
  await refused(
    2,
    "expected a number from 0 to 15",
    ...["--dev", "uart:irq=forty"],
  );
  await refused(2, 'Option "--clock" must be of type', "--clock", "sundial");
  await refused(2, 'unknown trace "port"', "--trace", "port");
  await refused(2, 'Unknown command "rnu"', "rnu");
});

Deno.test("run refuses an image that is missing, unreadable or no disk", async () => {
  const kernel = await kernelFile(CODE.idle);
  const image = (path: string) => [
    ...["--kernel", kernel],
    ...["--dev", `virtio-blk:image=${path}`],
  ];
  await refused(1, "/no/such/disk.img", ...image("/no/such/disk.img"));
  await refused(1, "/etc", ...image("/etc"));
  const odd = await temporary("odd.img", new Uint8Array(1000));
  await refused(1, "not a multiple of 512", ...image(odd));
});

Deno.test("run refuses a kernel that is missing or no kernel", async () => {
  await refused(1, 'cannot read kernel "/no/such"', "--kernel", "/no/such");
  const text = await temporary("notes.txt", new Uint8Array(5000).fill(0x61));
  await refused(1, "not a kernel", "--kernel", text);
});

Deno.test("run refuses an initrd that is truncated", async () => {
  const kernel = await temporary("bzImage", fakeBzImage());
  const whole = new Uint8Array(
    await new Response(
      new Blob([new Uint8Array(9000)]).stream().pipeThrough(
        new CompressionStream("gzip"),
      ),
    ).arrayBuffer(),
  );
  const initrd = await temporary(
    "initrd.gz",
    whole.subarray(0, whole.length / 2),
  );
  await refused(1, "initrd.gz", "--kernel", kernel, "--initrd", initrd);
});

Deno.test("run refuses memory that is too small, too much or no size", async () => {
  const kernel = await kernelFile(CODE.idle);
  await refused(2, '--mem is "lots"', "--mem", "lots");
  await refused(1, "at least 1 MiB", "--kernel", kernel, "--mem", "64K");
  await refused(1, "at most", "--kernel", kernel, "--mem", "64G");
});

Deno.test("run refuses an id that is used twice", async () => {
  await refused(
    2,
    'id "a" is used twice',
    "--dev",
    "uart:id=a,virtio-blk:id=a",
  );
});

Deno.test("run names a device file that throws", async () => {
  const kernel = await kernelFile(CODE.readPort(0x500), CODE.idle);
  const device = (name: string) => [
    ...["--kernel", kernel],
    ...["--dev", `${TESTDATA}${name}:id=mine`],
  ];
  await refused(
    1,
    'throws_on_import.ts": broken at the top',
    ...device("throws_on_import.ts"),
  );
  await refused(
    1,
    'plugin "stillborn", instance "mine", failed in create: Error: no crystal found',
    ...device("throws_on_create.ts"),
  );
  await refused(
    1,
    'plugin "fragile", instance "mine", failed in port read at 0x500: Error: wire came off',
    ...device("throws_in_handler.ts"),
  );
});

Deno.test("run prints the processor's state after a triple fault", async () => {
  const kernel = await kernelFile(CODE.tripleFault);
  const { code, stderr } = await diapause("--kernel", kernel);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "triple fault");
  assertMatch(stderr, /rip/i);
});

Deno.test("run shows the console and ends with the guest", async () => {
  const kernel = await kernelFile(
    CODE.print("h"),
    CODE.print("i"),
    CODE.powerOff,
    CODE.idle,
  );
  const { code, stdout, stderr } = await diapause(
    ...["--kernel", kernel, "--dev", "virtio-blk,uart"],
  );
  assertEquals({ code, stdout, stderr }, { code: 0, stdout: "hi", stderr: "" });
});

Deno.test("run connects consoles as their options say", async () => {
  const kernel = await kernelFile(CODE.print("x"), CODE.powerOff, CODE.idle);
  const log = `${await Deno.makeTempDir()}/console`;
  const { code, stdout } = await diapause(
    ...["--kernel", kernel, "--dev", `uart:backend=file=${log}`],
  );
  assertEquals({ code, stdout }, { code: 0, stdout: "" });
  assertEquals(await Deno.readTextFile(log), "x");
});

Deno.test("run is equal, bit for bit, with the clock of instructions", async () => {
  const kernel = await kernelFile(CODE.print("x"), CODE.powerOff, CODE.idle);
  const hash = async () => {
    const { stderr } = await diapause(
      ...["--kernel", kernel, "--clock", "instructions", "--print-hash"],
    );
    return /^state-hash: ([0-9a-f]{64})$/m.exec(stderr)?.[1];
  };
  const first = await hash();
  assert(first !== undefined);
  assertEquals(await hash(), first);
});

Deno.test("run ends after --max-instructions", async () => {
  const kernel = await kernelFile([0xeb, 0xfe]);
  const { code, stderr } = await diapause(
    ...["--kernel", kernel, "--max-instructions", "1000"],
  );
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
});

Deno.test("run writes a trace of what is asked for", async () => {
  const kernel = await kernelFile(CODE.print("x"), CODE.powerOff, CODE.idle);
  const trace = `${await Deno.makeTempDir()}/trace`;
  const { code } = await diapause(
    ...["--kernel", kernel, "--trace", "ports,blocks", "--trace-file", trace],
  );
  assertEquals(code, 0);
  const text = await Deno.readTextFile(trace);
  assertMatch(text, /^ports: .*3f8/m);
  assertMatch(text, /^blocks: 0x100000 /m);
  assertEquals(/^irq: /m.test(text), false);
});

Deno.test("plugins lists devices and their options", async () => {
  const list = await diapause("plugins");
  assertEquals(list.code, 0);
  assertMatch(list.stdout, /^ {2}uart \d+\.\d+\.\d+ +16550A/m);
  const disk = await diapause("plugins", "virtio-blk");
  assertMatch(disk.stdout, /^ {2}image +.*: text$/m);
  await refused(2, 'Did you mean "uart"?', "plugins", "uarrt");
});
