// Debian's full kernel reads the PS/2 keyboard and mouse through its own drivers, across a suspend while a key is held.

import { assert, assertEquals } from "@std/assert";
import { diapause, Qmp } from "../cli/testing.ts";
import { debianTest, Session, withDirectory } from "./support.ts";

/** struct input_event of a 64-bit kernel: two words of time, type, code, value. */
const EVENT_BYTES = 24;
const EV_KEY = 1;
const EV_REL = 2;
const PRESSED = 1, RELEASED = 0, REPEATED = 2;
// Codes of linux/input-event-codes.h.
const KEY_ENTER = 28, KEY_A = 30, KEY_LEFTSHIFT = 42, KEY_X = 45, KEY_C = 46;
const KEY_B = 48, KEY_F5 = 63, BTN_LEFT = 0x110;
const REL_X = 0, REL_Y = 1, REL_WHEEL = 8;

/** The events of a type in a hex dump. */
function events(dump: string, type: number): [number, number][] {
  return dump.split("\n").filter((line) => line.length === 2 * EVENT_BYTES)
    .map((line) => new DataView(Uint8Array.fromHex(line).buffer))
    .filter((event) => event.getUint16(16, true) === type)
    .map((event) => [event.getUint16(18, true), event.getInt32(20, true)]);
}

/** What stands between two lines of a console. */
function between(text: string, from: string, to: string): string {
  return text.split(`\n${from}\n`)[1].split(`\n${to}\n`)[0];
}

debianTest(
  "Debian reads keys and the mouse, and a held key goes on across a suspend",
  (guest) =>
    withDirectory(async (directory) => {
      const file = (name: string) => `${directory}/${name}`;
      const ctl = async (...args: string[]) => {
        const { code, stderr } = await diapause("ctl", file("ctl"), ...args);
        assertEquals(code, 0, stderr);
      };
      const key = async (data: string, down: boolean) => {
        const client = await Qmp.open(file("ctl"));
        await client.execute("qmp_capabilities");
        await client.execute("input-send-event", {
          events: [
            { type: "key", data: { down, key: { type: "qcode", data } } },
          ],
        });
        client.close();
      };
      await Deno.writeFile(file("kernel"), guest.kernel);
      await Deno.writeFile(file("initrd"), guest.initrd);
      const control = ["--control", file("ctl")];
      const first = new Session(
        ...["--kernel", file("kernel"), "--initrd", file("initrd")],
        ...["--append", `${guest.cmdline} quiet`, "--mem", "192M"],
        ...["--dev", "i8042,uart", ...control],
      );
      await first.expect("/root # ");
      await first.type(`stty -echo; dmesg -n 1; modprobe -a evdev psmouse
find() { sed -n "/$1/,/^\\$/s/.*\\(event[0-9]*\\).*/\\1/p" /proc/bus/input/devices; }
grown() { from=$(wc -c < /tmp/keys); until [ $(wc -c < /tmp/keys) -gt $((from + 200)) ]; do sleep 0.1; done; echo $1; }
until [ -n "$(find 'Mouse"')" ]; do sleep 0.1; done
cat /dev/input/$(find keyboard) > /tmp/keys &
cat /dev/input/$(find 'Mouse"') > /tmp/mouse &
echo listening`);
      await first.expect("listening\r\n");
      await ctl("type", "aB\n");
      await ctl("key", "shift-f5");
      await ctl("mouse", "5", "-3", "1");
      await ctl("mouse", "0", "0");
      await key("x", true);
      await first.type("grown repeats");
      await first.expect("repeats\r\n");
      await ctl("suspend", file("suspended"));
      assertEquals((await first.end()).code, 0);

      const second = new Session("--restore", file("suspended"), ...control);
      await second.type("grown repeats-again");
      await second.expect("repeats-again\r\n");
      await key("x", false);
      await ctl("type", "c");
      await ctl("mouse", "-300", "0");
      await second.type(`sleep 0.5; for of in keys mouse; do
  echo; echo $of; hexdump -v -e '${EVENT_BYTES}/1 "%02x" "\\n"' /tmp/$of
done; echo; echo end; dmesg | grep -i -E 'atkbd|psmouse' ; poweroff -f`);
      const { code, stdout } = await second.end();
      assertEquals(code, 0);

      const keys = events(between(stdout, "keys", "mouse"), EV_KEY);
      const repeats = keys.filter(([, value]) => value === REPEATED);
      assert(repeats.length >= 4, `${repeats.length} repetitions`);
      assert(repeats.every(([code]) => code === KEY_X), `${repeats}`);
      assertEquals(
        keys.filter(([, value]) => value !== REPEATED),
        [
          [KEY_A, PRESSED],
          [KEY_A, RELEASED],
          [KEY_LEFTSHIFT, PRESSED],
          [KEY_B, PRESSED],
          [KEY_B, RELEASED],
          [KEY_LEFTSHIFT, RELEASED],
          [KEY_ENTER, PRESSED],
          [KEY_ENTER, RELEASED],
          [KEY_LEFTSHIFT, PRESSED],
          [KEY_F5, PRESSED],
          [KEY_F5, RELEASED],
          [KEY_LEFTSHIFT, RELEASED],
          [KEY_X, PRESSED],
          [KEY_X, RELEASED],
          [KEY_C, PRESSED],
          [KEY_C, RELEASED],
        ],
      );
      const mouse = between(stdout, "mouse", "end");
      assertEquals(events(mouse, EV_KEY), [
        [BTN_LEFT, PRESSED],
        [BTN_LEFT, RELEASED],
      ]);
      const moved = (axis: number) =>
        events(mouse, EV_REL).filter(([code]) => code === axis)
          .reduce((sum, [, value]) => sum + value, 0);
      assertEquals([REL_X, REL_Y, REL_WHEEL].map(moved), [-295, -3, 0]);
      // The drivers complain of codes that they do not know and of bytes that are missing.
      const log = stdout.split("\nend\n")[1];
      assertEquals(log.match(/unknown key|lost sync|spurious/i), null, log);
    }),
  { kernelPackage: "linux-image-amd64" },
);
