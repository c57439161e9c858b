import { assertEquals, assertThrows } from "@std/assert";
import {
  createTestContext,
  type TestContext,
} from "../../core/testing/context.ts";
import { testRoundTrip } from "../../tests/golden.ts";
import i8042 from "./i8042.ts";
import { KEYS } from "./scancodes.ts";

const DATA = 0x60;
const COMMAND = 0x64;
const OUTPUT_FULL = 0x01;
const AUX_FULL = 0x20;
const ACK = 0xfa;
const BYTE_NS = 660_000;
const MS = 1_000_000;
const A = 0x04, PRINT = 0x46, PAUSE = 0x48, INSERT = 0x49, SHIFT = 0xe1;
const CTRL = 0xe0, ALT = 0xe2;

function make(translated = false) {
  const device = createTestContext(i8042);
  device.instance.start();
  const { machine } = device;
  // Interrupts on, translation as asked.
  command(machine, 0x60, translated ? 0x47 : 0x07);
  machine.isaEvents.length = 0;
  return device;
}

function command(machine: TestContext, value: number, data?: number): void {
  machine.out(COMMAND, value);
  if (data !== undefined) machine.out(DATA, data);
}

/** Reads all that comes within a time; the mouse's bytes are above 0xff. */
function drain(machine: TestContext, ns = 0): number[] {
  const bytes: number[] = [];
  const end = machine.clock.now() + ns;
  // The controller keeps one byte of a break code for itself.
  for (let silent = 0; silent < 2 || machine.clock.now() < end; silent++) {
    machine.advance(BYTE_NS);
    const status = machine.in(COMMAND);
    if (!(status & OUTPUT_FULL)) continue;
    bytes.push(machine.in(DATA) | (status & AUX_FULL ? 0x100 : 0));
    silent = -1;
  }
  return bytes;
}

/** Sends bytes to the keyboard; returns what it answers. */
function keyboard(machine: TestContext, ...bytes: number[]): number[] {
  return bytes.flatMap((byte) => {
    machine.out(DATA, byte);
    return drain(machine);
  });
}

/** Sends bytes to the mouse; returns what it answers. */
function mouse(machine: TestContext, ...bytes: number[]): number[] {
  return bytes.flatMap((byte) => {
    command(machine, 0xd4, byte);
    return drain(machine).map((value) => value & 0xff);
  });
}

function press(machine: TestContext, ...usages: number[]): void {
  machine.input.key(true, ...usages);
  machine.input.key(false, ...usages.toReversed());
}

Deno.test("i8042 answers its own commands as the reference has it", () => {
  const { machine } = make();
  const ask = (value: number) => {
    machine.out(COMMAND, value);
    assertEquals(machine.in(COMMAND) & OUTPUT_FULL, OUTPUT_FULL);
    return machine.in(DATA);
  };
  assertEquals(ask(0xaa), 0x55);
  assertEquals(ask(0xab), 0);
  assertEquals(ask(0xa9), 0);
  assertEquals(ask(0xa4), 0xf1);
  assertEquals(ask(0x20), 0x07);
  machine.out(COMMAND, 0xad);
  machine.out(COMMAND, 0xa7);
  assertEquals(ask(0x20), 0x37);
  machine.out(COMMAND, 0xae);
  machine.out(COMMAND, 0xa8);
  assertEquals(ask(0x20), 0x07);
  command(machine, 0x7f, 0xa5);
  assertEquals(ask(0x3f), 0xa5);
  assertEquals(ask(0xc0), 0x80);
  assertEquals(ask(0xd0) & 0x03, 0x03);
  assertEquals(machine.in(COMMAND), 0x1c);
  // What has been read stays in the buffer.
  assertEquals(machine.in(DATA), machine.in(DATA));
});

Deno.test("i8042 switches A20 and resets the machine", () => {
  const { machine } = make();
  command(machine, 0xd1, 0xdd);
  command(machine, 0xd1, 0xdf);
  machine.out(COMMAND, 0xdd);
  machine.out(COMMAND, 0xdf);
  assertEquals(machine.requests, ["a20 0", "a20 1", "a20 0", "a20 1"]);
  machine.requests.length = 0;
  machine.out(COMMAND, 0xff);
  assertEquals(machine.requests, []);
  machine.out(COMMAND, 0xfe);
  command(machine, 0xd1, 0x02);
  assertEquals(machine.requests, ["reset", "a20 1", "reset"]);
});

Deno.test("i8042 loops bytes back as if devices had sent them, with their interrupts", () => {
  const { machine } = make();
  command(machine, 0xd3, 0x5a);
  assertEquals(machine.in(COMMAND) & 0x21, 0x21);
  assertEquals(machine.isaEvents, [[12, true]]);
  assertEquals(machine.in(DATA), 0x5a);
  command(machine, 0xd2, 0xa5);
  assertEquals(machine.in(COMMAND) & 0x21, 0x01);
  assertEquals(machine.in(DATA), 0xa5);
  assertEquals(machine.isaEvents.slice(1), [
    [12, false],
    [1, true],
    [1, false],
  ]);
});

Deno.test("i8042 interrupts once for each byte, at the pace of the line", () => {
  const { machine } = make();
  machine.input.key(true, INSERT);
  assertEquals(machine.in(COMMAND) & OUTPUT_FULL, 0);
  machine.advance(BYTE_NS);
  assertEquals(machine.isaEvents, [[1, true]]);
  // A second read finds the same byte, not the next one.
  assertEquals([machine.in(DATA), machine.in(DATA)], [0xe0, 0xe0]);
  assertEquals(machine.isaEvents, [[1, true], [1, false]]);
  machine.advance(BYTE_NS);
  assertEquals(machine.in(DATA), 0x70);
  // Without its clock the keyboard waits.
  machine.out(COMMAND, 0xad);
  machine.input.key(false, INSERT);
  assertEquals(drain(machine), []);
  machine.out(COMMAND, 0xae);
  assertEquals(drain(machine), [0xe0, 0xf0, 0x70]);
});

Deno.test("the keyboard types in every set, and the controller translates", () => {
  const codes = (set: number | undefined, ...usages: number[]) => {
    const { machine } = make(set === undefined);
    if (set !== undefined) {
      assertEquals(keyboard(machine, 0xf0, set), [ACK, ACK]);
      assertEquals(keyboard(machine, 0xf0, 0), [ACK, ACK, set]);
    }
    press(machine, ...usages);
    return drain(machine);
  };
  assertEquals(codes(1, A), [0x1e, 0x9e]);
  assertEquals(codes(2, A), [0x1c, 0xf0, 0x1c]);
  assertEquals(codes(3, A), [0x1c]);
  assertEquals(codes(undefined, A), [0x1e, 0x9e]);
  assertEquals(codes(2, INSERT), [0xe0, 0x70, 0xe0, 0xf0, 0x70]);
  assertEquals(codes(undefined, INSERT), [0xe0, 0x52, 0xe0, 0xd2]);
  assertEquals(codes(3, INSERT), [0x67]);
  assertEquals(codes(3, SHIFT), [0x12, 0xf0, 0x12]);
  assertEquals(codes(undefined, 0x40), [0x41, 0xc1]); // F7
});

Deno.test("Print Screen and Pause send what they always sent", () => {
  const codes = (...usages: number[]) => {
    const { machine } = make(true);
    press(machine, ...usages);
    return drain(machine);
  };
  const hex = (text: string) => [...Uint8Array.fromHex(text)];
  assertEquals(codes(PRINT), hex("e02ae037e0b7e0aa"));
  assertEquals(codes(ALT, PRINT), hex("3854d4b8"));
  assertEquals(codes(CTRL, PRINT), hex("1de037e0b79d"));
  assertEquals(codes(PAUSE), hex("e11d45e19dc5"));
  assertEquals(codes(CTRL, PAUSE), hex("1de046e0c69d"));
});

Deno.test("every key of a set has a code of its own", () => {
  const codes = [...KEYS].filter(([usage]) =>
    // The key with # is that with \ of other keyboards; Pause has Num Lock's code behind its prefix.
    usage !== 0x32 && usage !== PAUSE
  ).map(([, { set2, extended }]) => set2 | (extended ? 0xe000 : 0));
  assertEquals(new Set(codes).size, codes.length);
  const set3 = [...KEYS.values()].flatMap(({ set3 }) => set3 || []);
  assertEquals(new Set(set3).size, set3.length);
});
Deno.test("the keyboard obeys its commands", () => {
  const { machine } = make();
  assertEquals(keyboard(machine, 0xee), [0xee]);
  assertEquals(keyboard(machine, 0xf2), [ACK, 0xab, 0x83]);
  assertEquals(keyboard(machine, 0xed, 0x07), [ACK, ACK]);
  assertEquals(machine.input.leds, 7);
  assertEquals(keyboard(machine, 0xed, 0x04), [ACK, ACK]);
  assertEquals(machine.input.leds, 2);
  assertEquals(keyboard(machine, 0xed, 0x08), [ACK, 0xfe]);
  // A command in place of the option.
  assertEquals(keyboard(machine, 0xf2), [ACK, 0xab, 0x83]);
  assertEquals(keyboard(machine, 0xfe), [0x83]);
  assertEquals(keyboard(machine, 0x17), [0xfe]);
  assertEquals(keyboard(machine, 0xf5), [ACK]);
  press(machine, A);
  assertEquals(drain(machine), []);
  assertEquals(keyboard(machine, 0xf4), [ACK]);
  press(machine, A);
  assertEquals(drain(machine).length, 3);
  assertEquals(keyboard(machine, 0xff), [ACK, 0xaa]);
  assertEquals(machine.input.leds, 0);
  // Modes of set 3: all keys, then one.
  assertEquals(keyboard(machine, 0xf0, 3, 0xf8), [ACK, ACK, ACK]);
  press(machine, A);
  assertEquals(drain(machine), [0x1c, 0xf0, 0x1c]);
  assertEquals(keyboard(machine, 0xfd, 0x1c), [ACK, ACK]);
  press(machine, A);
  assertEquals(drain(machine), [0x1c]);
  assertEquals(keyboard(machine, 0xf6, 0xf0, 0), [ACK, ACK, ACK, 2]);
});

Deno.test("a held key repeats after the delay, at the rate", () => {
  const { machine } = make();
  machine.input.key(true, A);
  assertEquals(drain(machine, 499 * MS), [0x1c]);
  // 10.9 a second: 11 in the next second, with that at its start.
  assertEquals(drain(machine, 1000 * MS).length, 11);
  // The last key repeats, no other.
  machine.input.key(true, SHIFT);
  machine.input.key(false, A);
  assertEquals(drain(machine, 600 * MS).slice(0, 5), [
    ...[0x12, 0xf0, 0x1c, 0x12, 0x12],
  ]);
  machine.input.key(false, SHIFT);
  assertEquals(drain(machine, 600 * MS), [0xf0, 0x12]);
  // 30 a second after a quarter of one.
  assertEquals(keyboard(machine, 0xf3, 0x00), [ACK, ACK]);
  machine.input.key(true, A);
  drain(machine, 249 * MS);
  assertEquals(drain(machine, 1000 * MS).length, 30);
});

Deno.test("a held key goes on repeating after a restore, at its moment", () => {
  const { machine, save } = make();
  machine.input.key(true, A);
  drain(machine, 490 * MS);
  const other = make();
  other.machine.clock.advance(machine.clock.now());
  other.restore(save());
  assertEquals(other.save(), save());
  for (const each of [machine, other.machine]) {
    assertEquals(drain(each, 20 * MS), [0x1c]);
    each.input.key(false, A);
    assertEquals(drain(each, 600 * MS), [0xf0, 0x1c]);
  }
});

Deno.test("the keyboard tells when a guest reads too slowly, and does not repeat meanwhile", () => {
  const { machine, save } = make();
  machine.input.key(true, A);
  machine.advance(60_000 * MS);
  assertEquals(save().keyboard.buffer.length, 16);
  machine.input.key(false, A);
  for (let i = 0; i < 500; i++) press(machine, A);
  const bytes = drain(machine);
  assertEquals(bytes.at(-1), 0);
  assertEquals(bytes.filter((byte) => byte === 0).length, 1);
});

Deno.test("the mouse reports motion and buttons as the reference has it", () => {
  const { machine } = make();
  assertEquals(mouse(machine, 0xff), [ACK, 0xaa, 0x00]);
  machine.input.move(5, 5);
  assertEquals(drain(machine), []);
  assertEquals(mouse(machine, 0xf4), [ACK]);
  machine.isaEvents.length = 0;
  machine.input.move(5, 3, 0, 1);
  assertEquals(drain(machine, 20 * MS), [0x129, 0x105, 0x1fd]);
  assertEquals(machine.isaEvents.slice(0, 2), [[12, true], [12, false]]);
  machine.input.move(-300, -300);
  assertEquals(drain(machine, 30 * MS), [
    ...[0x118, 0x101, 0x1ff],
    ...[0x118, 0x1d3, 0x12d],
  ]);
  // Clicks between two samples are not lost.
  for (const buttons of [1, 0, 2, 0]) machine.input.move(0, 0, 0, buttons);
  assertEquals(
    drain(machine, 60 * MS).filter((_, i) => i % 3 === 0),
    [0x109, 0x108, 0x10a, 0x108],
  );
  assertEquals(mouse(machine, 0xe9), [ACK, 0x20, 0x02, 100]);
  assertEquals(mouse(machine, 0xe8, 3, 0xe7, 0xf3, 200, 0xe9), [
    ...[ACK, ACK, ACK, ACK, ACK],
    ...[ACK, 0x30, 0x03, 200],
  ]);
  machine.input.move(3, 0);
  assertEquals(drain(machine, 20 * MS), [0x108, 0x103, 0x100]);
  machine.input.move(4, 0);
  assertEquals(drain(machine, 20 * MS), [0x108, 0x106, 0x100]);
});

Deno.test("the mouse is polled in remote mode, and echoes in wrap mode", () => {
  const { machine } = make();
  assertEquals(mouse(machine, 0xf0), [ACK]);
  machine.input.move(1, -2, 0, 4);
  assertEquals(drain(machine, 50 * MS), []);
  assertEquals(mouse(machine, 0xeb), [ACK, 0x0c, 1, 2]);
  assertEquals(mouse(machine, 0xeb), [ACK, 0x0c, 0, 0]);
  assertEquals(mouse(machine, 0xee, 0xf4, 0x12, 0xec), [
    ...[ACK, 0xf4, 0x12, ACK],
  ]);
  assertEquals(mouse(machine, 0xea, 0xe9), [ACK, ACK, 0x02, 0x02, 100]);
  assertEquals(mouse(machine, 0xf3, 33), [ACK, 0xfe]);
});

Deno.test("the mouse grows a wheel and buttons for those who knock", () => {
  const { machine } = make();
  const knock = (...rates: number[]) => {
    for (const rate of rates) mouse(machine, 0xf3, rate);
    return mouse(machine, 0xf2);
  };
  assertEquals(knock(100), [ACK, 0]);
  assertEquals(knock(200, 100, 80), [ACK, 3]);
  mouse(machine, 0xf4);
  machine.input.move(1, 0, 9);
  // Seven steps at most fit.
  assertEquals(drain(machine, 40 * MS), [
    ...[0x108, 0x101, 0x100, 0x1f9],
    ...[0x108, 0x100, 0x100, 0x1fe],
  ]);
  assertEquals(knock(200, 200, 80), [ACK, 4]);
  machine.input.move(0, 0, -1, 0x1a);
  assertEquals(drain(machine, 40 * MS), [0x10a, 0x100, 0x100, 0x131]);
  assertEquals(mouse(machine, 0xff), [ACK, 0xaa, 0x00]);
});

Deno.test("input waits while the machine is paused, and none is lost", async () => {
  const { machine, instance } = make();
  mouse(machine, 0xf4);
  await machine.pause();
  press(machine, A);
  machine.input.move(1, 1);
  assertEquals(drain(machine), []);
  machine.resume();
  assertEquals(drain(machine), [0x1c, 0xf0, 0x1c, 0x108 | 0x20, 0x101, 0x1ff]);
  await instance.stop();
});

Deno.test("i8042 refuses states that it cannot be in", () => {
  const { save, restore } = make();
  const state = save();
  const refuse = (change: Record<string, unknown>, field: string) =>
    assertThrows(() => restore({ ...state, ...change }), Error, field);
  refuse({ commandByte: 0x80 }, "commandByte");
  refuse({ command: 0x10 }, "command");
  refuse({ reply: { value: 1, aux: false } }, "reply");
  refuse({ line: { remaining: 1e9 } }, "line.remaining");
  const { keyboard, mouse } = state;
  refuse({ keyboard: { ...keyboard, set: 4 } }, "keyboard.set");
  refuse({ keyboard: { ...keyboard, pressed: [0xff] } }, "pressed[0]");
  refuse({ keyboard: { ...keyboard, pressed: [A, A] } }, "pressed[1]");
  refuse({ keyboard: { ...keyboard, repeating: A } }, "keyboard.repeating");
  refuse({ mouse: { ...mouse, rate: 50 } }, "mouse.rate");
  refuse({ mouse: { ...mouse, id: 1 } }, "mouse.id");
  refuse({ mouse: { ...mouse, sample: { remaining: 5 } } }, "mouse.sample");
});

testRoundTrip(i8042, {
  steps: [
    // A driver probes: self-test, loop-back, command byte, identities.
    (machine) => [machine.out(COMMAND, 0xaa), machine.in(DATA)],
    (machine) => command(machine, 0xd3, 0x5a),
    (machine) => [machine.in(COMMAND), machine.in(DATA)],
    (machine) => command(machine, 0x60, 0x47),
    (machine) => machine.out(DATA, 0xf2),
    (machine) => machine.advance(BYTE_NS / 2),
    (machine) => drain(machine),
    (machine) => machine.out(DATA, 0xed),
    (machine) => [drain(machine), machine.out(DATA, 0x02)],
    (machine) => drain(machine),
    (machine) => mouse(machine, 0xf3, 200, 0xf3, 100, 0xf3),
    (machine) => mouse(machine, 80, 0xf2, 0xf4),
    // Keys and motion at once, a code half sent.
    (machine) => machine.input.key(true, INSERT),
    (machine) => machine.input.move(300, -5, 2, 1),
    (machine) => machine.input.move(1, 0, 0, 0),
    (machine) => [machine.advance(BYTE_NS), machine.in(DATA)],
    (machine) => machine.input.key(false, INSERT),
    (machine) => drain(machine, 5 * MS),
    (machine) => drain(machine, 30 * MS),
    // A held key repeats.
    (machine) => machine.input.key(true, A),
    (machine) => drain(machine, 400 * MS),
    (machine) => drain(machine, 400 * MS),
    (machine) => machine.input.key(true, SHIFT),
    (machine) => machine.input.key(false, A),
    (machine) => drain(machine, 700 * MS),
    // Set 3 with a mode of its own; remote and wrap mode.
    (machine) => keyboard(machine, 0xf0, 3, 0xfc, 0x1c),
    (machine) => press(machine, A),
    (machine) => drain(machine),
    (machine) => mouse(machine, 0xf0),
    (machine) => machine.input.move(4, 4, 0, 2),
    (machine) => mouse(machine, 0xeb, 0xe7, 0xe9),
    (machine) => mouse(machine, 0xee, 0x11),
    // A reply of the controller behind a byte of the keyboard.
    (machine) => machine.input.key(true, PAUSE),
    (machine) => machine.advance(BYTE_NS),
    (machine) => machine.out(COMMAND, 0x20),
    (machine) => [machine.in(DATA), machine.in(DATA)],
    (machine) => command(machine, 0xd1, 0x01),
    (machine) => keyboard(machine, 0xff),
  ],
}, import.meta.url);
