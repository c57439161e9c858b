// The plugins of examples/ in the hands of a real guest, across a suspend and a restore.

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { diapause } from "../cli/testing.ts";
import { fakeElf } from "../core/boot/testing.ts";
import { encodeCpio } from "../host/guests/cpio.ts";
import {
  assertCleanLog,
  debianTest,
  Session,
  withDirectory,
} from "./support.ts";

const EXAMPLES = new URL("../examples", import.meta.url).pathname;

/**
 * A program for the guest, whose kernel has no /dev/port: reads a port's number, two bytes, from
 * its input and prints the port's value; with a third byte, writes that to the port.
 */
const PORT_PROGRAM = [
  ...[0xb8, 172, 0, 0, 0, 0xbf, 3, 0, 0, 0, 0x0f, 0x05], // iopl(3)
  ...[0x31, 0xc0, 0x31, 0xff, 0x48, 0x89, 0xe6], // read(0, rsp, 3)
  ...[0xba, 3, 0, 0, 0, 0x0f, 0x05],
  ...[0x66, 0x8b, 0x14, 0x24], // mov dx, [rsp]
  ...[0x83, 0xf8, 0x03, 0x75, 0x07], // cmp eax, 3; jne to the read
  ...[0x8a, 0x44, 0x24, 0x02, 0xee, 0xeb, 0x15], // out dx, [rsp + 2]; jmp to the end
  ...[0xec, 0x88, 0x04, 0x24], // in [rsp], dx
  ...[0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0], // write(1, rsp, 1)
  ...[0xba, 1, 0, 0, 0, 0x0f, 0x05],
  ...[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05], // exit(0)
];
const PROGRAM_AT = 0x40_0000;
/** Where fakeElf puts the content: an address must have the same offset in its page. */
const ELF_HEADERS = 140;
/** p_flags of the first program header: readable, writable and executable. */
const ELF_FLAGS = 68;

function portProgram(): Uint8Array {
  const entry = PROGRAM_AT + ELF_HEADERS;
  const elf = fakeElf({
    bits: 64,
    physical: entry,
    entry: BigInt(entry),
    content: Uint8Array.from(PORT_PROGRAM),
  });
  elf[ELF_FLAGS] = 7;
  return elf;
}

/** Memory that the kernel leaves alone, so that /dev/mem gives it to the test. */
const RESERVED = 0xf00_0000;
const RESERVE = `memmap=1M$0x${RESERVED.toString(16)}`;
/** 256 KiB take sixteen virtual seconds: the copy is in flight when the machine is saved. */
const RATE = "16K";

/** Names for registers, and for reading and writing them. */
const TOOLS = `
byte() { printf "\\\\$(printf %o $1)"; }
outb() { { byte $(($1 & 255)); byte $(($1 >> 8)); byte $2; } > /tmp/out; port < /tmp/out; }
inb() { { byte $(($1 & 255)); byte $(($1 >> 8)); } > /tmp/in; echo $(port < /tmp/in | od -An -tu1); }
hex() { printf 0x%x $(($1)); }
load() { devmem $(hex "$1") 32; }
store() { devmem $(hex "$1") 32 $(hex "$2"); }
fn=$(dirname $(grep -l 0xd3a0 /sys/bus/pci/devices/*/device))
regs=$(sed -n 1p $fn/resource | cut -d' ' -f1)
msix=$(sed -n 2p $fn/resource | cut -d' ' -f1)
config() { printf "\\\\$2" | dd of=$fn/config bs=1 seek=$(($1)) conv=notrunc 2>/dev/null; }
ram=${RESERVED}
describe() { # INDEX COMMAND LENGTH SOURCE TARGET
  store ram+32*$1 $2; store ram+32*$1+4 $3; store ram+32*$1+24 0
  store ram+32*$1+8 $4; store ram+32*$1+12 0; store ram+32*$1+16 $5; store ram+32*$1+20 0
}
`;

/** CRC-32 of the four bytes that are copied. */
const CRC = "0x9F7C5069";

/** The guest sets both devices going and leaves them at it. */
const BEFORE = `
outb 0x300 0x5A; outb 0x306 200; outb 0x305 1
for letter in 72 105 10; do outb 0x307 $letter; done
echo digits $(inb 0x301) $(inb 0x302)
config 4 006
store regs+0x100 ram; store regs+0x108 8; store regs+0x10c 1
store msix ram+0xf000; store msix+4 0; store msix+8 0x600df00d; store msix+12 0
config 0x43 200
store regs+0x0c 1
store ram+0x10000 0x20414d44
describe 0 1 4 ram+0x10000 ram+0x20000
describe 1 3 4 ram+0x20000 0
describe 2 1 4 0xffff0000 ram
describe 3 0x80000001 0x40000 ram+0x10000 ram+0x50000
store ram+0xf000 0
store regs+0x110 3
while [ $(($(load regs+0x114))) != 3 ]; do :; done
echo copied $(load ram+0x20000) crc $(load ram+32+28) bad $(load ram+64+24) message $(load ram+0xf000)
store ram+0x4fffc 0x21646e65
store regs+0x08 1
store ram+0xf000 0
store regs+0x110 4
while [ ! -e /tmp/go ]; do :; done &
echo in flight $(load ram+96+24) $(load ram+0xf000)
`;

const AFTER = `
echo card $(inb 0x300) history $(inb 0x303)
outb 0x307 33
while [ $(($(load ram+96+24))) = 0 ]; do sleep 1; done
echo finished $(load ram+0x50000) $(load ram+0x8fffc) message $(load ram+0xf000)
while [ $(($(inb 0x304) & 4)) = 0 ]; do sleep 1; done
echo watchdog expired
dmesg
poweroff -f
`;

/** The guest's files with the program and the scripts in them. */
async function writeGuest(
  directory: string,
  { kernel, initrd }: { kernel: Uint8Array; initrd: Uint8Array },
): Promise<string[]> {
  const script = (path: string, text: string) => ({
    path,
    type: "file" as const,
    content: new TextEncoder().encode(`${TOOLS}${text}`),
  });
  const added = encodeCpio([
    {
      path: "bin/port",
      type: "file",
      content: portProgram(),
      mode: 0o755,
    },
    script("before", BEFORE),
    script("after", AFTER),
  ]);
  await Deno.writeFile(`${directory}/kernel`, kernel);
  const file = await Deno.create(`${directory}/initrd`);
  for (const part of [initrd, added]) {
    for (let at = 0; at < part.length;) {
      at += await file.write(part.subarray(at));
    }
  }
  file.close();
  return ["--kernel", `${directory}/kernel`, "--initrd", `${directory}/initrd`];
}

debianTest(
  "a guest uses the example plugins, and goes on with them in a new process",
  (guest) =>
    withDirectory(async (directory) => {
      const [socket, snapshot, log] = ["socket", "snapshot", "card.log"]
        .map((name) => `${directory}/${name}`);
      const devices = [
        `${EXAMPLES}/post_card.ts:backend=file=${log}`,
        `${EXAMPLES}/dma_engine.ts:rate=${RATE}`,
        "uart",
      ];
      const first = new Session(
        ...await writeGuest(directory, guest),
        ...["--append", `${guest.cmdline} ${RESERVE}`, "--mem", "256M"],
        ...["--clock", "instructions", "--control", socket],
        ...["--dev", devices.join(",")],
      );
      await first.expect("/root # ");
      await first.type("sh /before");
      // The digits show 5 and A; the point is lit because the watchdog runs.
      await first.expect(`\ndigits ${0x77} ${0x6d | 0x80}`);
      await first.expect(`\ncopied 0x20414D44 crc ${CRC} bad 0x80000003`);
      await first.expect("message 0x600DF00D");
      await first.expect("\nin flight 0x00000000 0x00000000");
      const suspended = await diapause("ctl", socket, "suspend", snapshot);
      assertEquals([suspended.code, suspended.stderr], [0, ""]);
      const ended = await first.end();
      assertEquals([ended.code, ended.stderr], [0, ""]);
      assertEquals(await Deno.readTextFile(log), "Hi\n");

      const second = new Session("--restore", snapshot);
      await second.type("touch /tmp/go");
      await second.type("sh /after");
      const { code, stdout, stderr } = await second.end();
      assertEquals([code, stderr], [0, ""]);
      assertStringIncludes(stdout, `\ncard ${0x5a} history ${0x5a}\n`);
      assertStringIncludes(
        stdout,
        "\nfinished 0x20414D44 0x21646E65 message 0x600DF00D\n",
      );
      assertStringIncludes(stdout, "\nwatchdog expired\n");
      assertCleanLog(stdout);
      assert((await Deno.readTextFile(log)).endsWith("!"));
    }),
);
