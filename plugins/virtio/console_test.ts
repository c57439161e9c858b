import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import {
  createTestContext,
  type TestContext,
} from "../../core/testing/context.ts";
import type { AnyPlugin } from "../../core/instance.ts";
import { testRoundTrip } from "../../tests/golden.ts";
import virtioConsole from "./console.ts";
import virtioPort from "./port.ts";
import {
  DRIVER_OK,
  F_EVENT_IDX,
  F_VERSION_1,
  type GuestDriver,
  type GuestRing,
  NEEDS_RESET,
} from "./testing/driver.ts";
import {
  bufferAt,
  driverOf,
  notifyQueue,
  offer,
  setUpRings,
  usedOf,
} from "./testing/rings.ts";

const RX = 0, TX = 1, CONTROL_RX = 2, CONTROL_TX = 3, RX1 = 4, TX1 = 5;
const READY = 0, ADD = 1, PORT_READY = 3, CONSOLE = 4, RESIZE = 5;
const OPEN = 6, NAME = 7;

function control(id: number, event: number, value = 1): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setUint32(0, id, true);
  view.setUint16(4, event, true);
  view.setUint16(6, value, true);
  return new Uint8Array(view.buffer);
}

/** A console with its driver, and a further port. */
class Console {
  readonly device = createTestContext(virtioConsole, {
    options: { ports: 2 },
    ram: 16 << 20,
  });
  readonly machine: TestContext = this.device.machine;
  readonly driver: GuestDriver;
  readonly rings: GuestRing[];
  readonly buffers = new Map<number, Map<number, number>>();

  constructor(features?: bigint, port = true) {
    if (port) {
      this.machine.addAny(virtioPort as unknown as AnyPlugin, {
        id: "port",
        options: { name: "agent", console: false },
      });
    }
    for (const each of this.machine.instances) each.start();
    this.driver = driverOf(this.machine);
    this.driver.negotiate(features ?? this.driver.offered & ~F_EVENT_IDX);
    this.rings = Array.from({ length: 6 }, (_, i) => this.driver.queue(i));
    this.driver.status |= DRIVER_OK;
  }

  give(queue: number, count: number, length = 64): void {
    const known = this.buffers.get(queue) ?? new Map<number, number>();
    this.buffers.set(queue, known);
    for (let i = 0; i < count; i++) {
      const address = this.driver.memory.allocate(length);
      const head = this.rings[queue].add([{ address, length, write: true }]);
      known.set(head, address);
    }
    this.driver.notify(queue);
  }

  send(queue: number, bytes: Uint8Array): void {
    const { memory } = this.driver;
    const address = memory.allocate(Math.max(1, bytes.length));
    memory.ram.set(bytes, address);
    this.rings[queue].add([{ address, length: bytes.length }]);
    this.driver.notify(queue);
  }

  text(queue: number, text: string): void {
    this.send(queue, new TextEncoder().encode(text));
  }

  /** What came into the buffers of a queue. */
  received(queue: number): Uint8Array[] {
    const known = this.buffers.get(queue)!;
    return this.rings[queue].collect().map(({ head, length }) =>
      this.driver.memory.bytes(known.get(head)!, length).slice()
    );
  }

  receivedText(queue: number): string {
    return this.received(queue).map((each) => new TextDecoder().decode(each))
      .join("|");
  }

  /** Control messages: port, event and what follows. */
  messages(): [number, number, string][] {
    return this.received(CONTROL_RX).map((bytes) => {
      const view = new DataView(bytes.buffer);
      return [
        view.getUint32(0, true),
        view.getUint16(4, true),
        bytes.subarray(8).toHex(),
      ];
    });
  }

  /** Everything of section 5.3.6.2 until the ports are open. */
  open(): void {
    this.give(CONTROL_RX, 16, 256);
    this.send(CONTROL_TX, control(0, READY));
    for (const id of [0, 1]) {
      this.send(CONTROL_TX, control(id, PORT_READY));
      this.send(CONTROL_TX, control(id, OPEN));
    }
  }
}

function output({ machine }: Console, which = 0): string {
  return String.fromCharCode(...machine.chars[which].sent);
}

Deno.test("a driver without ports has one console, both ways", () => {
  const console = new Console(F_VERSION_1);
  console.text(TX, "hello");
  assertEquals(output(console), "hello");
  console.give(RX, 2, 4);
  console.machine.char.type("abcdef");
  assertEquals(console.receivedText(RX), "abcd|ef");
});

Deno.test("ports are added, named and opened when the driver says that it is ready", () => {
  const console = new Console();
  console.give(CONTROL_RX, 16, 256);
  console.send(CONTROL_TX, control(0, READY));
  assertEquals(console.messages(), [[0, ADD, ""], [1, ADD, ""]]);
  console.send(CONTROL_TX, control(0, PORT_READY));
  assertEquals(console.messages(), [[0, CONSOLE, ""], [0, OPEN, ""]]);
  console.send(CONTROL_TX, control(1, PORT_READY));
  assertEquals(console.messages(), [
    [1, NAME, new TextEncoder().encode("agent").toHex()],
    [1, OPEN, ""],
  ]);
});

Deno.test("messages wait for the driver's buffers, and none is lost or doubled", () => {
  const console = new Console();
  console.send(CONTROL_TX, control(0, READY));
  console.send(CONTROL_TX, control(1, PORT_READY));
  console.send(CONTROL_TX, control(1, PORT_READY));
  console.give(CONTROL_RX, 1, 256);
  assertEquals(console.messages(), [[0, ADD, ""]]);
  console.give(CONTROL_RX, 16, 256);
  assertEquals(console.messages().map(([id, event]) => [id, event]), [
    [1, ADD],
    [1, NAME],
    [1, OPEN],
  ]);
});

Deno.test("each port has its own stream", () => {
  const console = new Console();
  console.open();
  console.text(TX, "console");
  console.text(TX1, "port");
  assertEquals([output(console), output(console, 1)], ["console", "port"]);
  console.give(RX, 4);
  console.give(RX1, 4);
  console.machine.chars[0].type("to the console");
  console.machine.chars[1].type("to the port");
  assertEquals(console.receivedText(RX), "to the console");
  assertEquals(console.receivedText(RX1), "to the port");
});

Deno.test("input waits until the guest opens the port, and while the machine is paused", async () => {
  const console = new Console();
  console.give(RX1, 4);
  console.machine.chars[1].type("early");
  assertEquals(console.receivedText(RX1), "");
  console.open();
  assertEquals(console.receivedText(RX1), "early");
  await console.machine.pause();
  console.machine.chars[1].type("late");
  assertEquals(console.receivedText(RX1), "");
  console.machine.resume();
  assertEquals(console.receivedText(RX1), "late");
});

Deno.test("output stops while the backend is full, and goes on where it stopped", () => {
  const console = new Console();
  const bytes = new Uint8Array(200_000).map((_, i) => i);
  console.machine.char.block();
  console.send(TX, bytes);
  assertEquals(console.machine.char.sent.length, 65536);
  assertEquals(console.device.save().ports[0].sent, 65536);
  assertEquals(console.rings[TX].collect(), []);
  console.machine.char.drain();
  assertEquals(Uint8Array.from(console.machine.char.sent), bytes);
  assertEquals(console.rings[TX].collect().length, 1);
});

Deno.test("a request of many megabytes lets the guest go on between its parts", async () => {
  const console = new Console();
  const address = console.driver.memory.allocate(1 << 20);
  const part = { address, length: 1 << 20 };
  console.rings[TX].add([part, part, part]);
  console.driver.notify(TX);
  assertEquals(console.machine.char.sent.length, 1 << 20);
  await console.machine.settle();
  assertEquals(console.machine.char.sent.length, 3 << 20);
  assertEquals(console.rings[TX].collect().length, 1);
});

Deno.test("the terminal's size reaches the guest, and each change of it", () => {
  const console = new Console();
  console.machine.char.size = { columns: 132, rows: 43 };
  assertEquals(console.driver.device(0, 4), 43 << 16 | 132);
  console.open();
  const resizes = () =>
    console.messages().filter(([, event]) => event === RESIZE);
  assertEquals(resizes(), [[0, RESIZE, "84002b00"]]);
  console.machine.char.size = { columns: 80, rows: 24 };
  console.machine.char.size = { columns: 80, rows: 24 };
  assertEquals(resizes(), [[0, RESIZE, "50001800"]]);
});

Deno.test("a driver without ports is told of a size by the configuration", () => {
  const console = new Console(F_VERSION_1 | 1n);
  const before = console.driver.common(0x15, 1);
  console.machine.char.size = { columns: 100, rows: 30 };
  assertEquals(console.driver.common(0x15, 1), before + 1);
  assertEquals(console.driver.device(0, 2), 100);
});

Deno.test("an emergency character goes out before anything is set up", () => {
  const console = new Console(F_VERSION_1);
  console.driver.status = 0;
  console.driver.setDevice(8, 4, 0x21);
  assertEquals(output(console), "!");
});

Deno.test("messages for ports that are not there are logged and do no harm", () => {
  const console = new Console(undefined, false);
  console.open();
  console.send(CONTROL_TX, control(0xffff_ffff, OPEN));
  console.send(CONTROL_TX, control(0, 99));
  assertEquals(console.driver.status & NEEDS_RESET, 0);
  assertMatch(
    console.machine.logged.join("\n"),
    /speaks of port 4294967295, which is not there/,
  );
});

Deno.test("requests that are none stop the device", () => {
  const broken: [RegExp, (console: Console) => void][] = [
    [
      /control request 0 has 4 bytes: expected 8/,
      (console) => console.send(CONTROL_TX, new Uint8Array(4)),
    ],
    [
      /control request 0 has room for 7 bytes: expected 8 for event 1/,
      (console) => {
        console.give(CONTROL_RX, 1, 7);
        console.send(CONTROL_TX, control(0, READY));
      },
    ],
    [
      /queue 4: request 0 has no room/,
      (console) => {
        console.open();
        console.text(RX1, "not to write");
        console.machine.chars[1].type("x");
      },
    ],
    [
      /queue 1: request 0 has 5138022400 bytes: expected at most 4294967295/,
      (console) => {
        const part = { address: 1 << 20, length: 14 << 20 };
        console.rings[TX].add(new Array(350).fill(part), true);
        console.driver.notify(TX);
      },
    ],
  ];
  for (const [message, act] of broken) {
    const console = new Console();
    act(console);
    assertEquals(console.driver.status & NEEDS_RESET, NEEDS_RESET);
    assertMatch(console.machine.logged[0], message);
  }
});

Deno.test("a reset of the device closes its ports and owes nothing", () => {
  const console = new Console();
  console.send(CONTROL_TX, control(0, READY));
  console.open();
  console.driver.status = 0;
  assertEquals(
    console.device.save().ports,
    [0, 1].map(() => ({ known: false, open: false, sent: 0, owed: 0 })),
  );
});

Deno.test("a state with a port in use where nothing is plugged in is refused", () => {
  const console = new Console(undefined, false);
  const state = console.device.save();
  state.ports[1].open = true;
  assertThrows(
    () => console.device.restore(state),
    Error,
    "ports[1] is in use: expected a port with nothing in it",
  );
});

Deno.test("a name that the guest has no room for is refused", () => {
  const console = new Console(undefined, false);
  assertThrows(
    () =>
      console.machine.addAny(virtioPort as unknown as AnyPlugin, {
        options: { name: "x".repeat(129) },
      }),
    Error,
    "has 129 bytes: expected 1 to 128",
  );
});

/** Buffers for control messages, and a message. */
function command(
  machine: TestContext,
  slot: number,
  message: Uint8Array,
): void {
  offer(machine, CONTROL_TX, slot, message);
  notifyQueue(machine, CONTROL_TX);
}

testRoundTrip(virtioConsole, {
  make: () => ({ options: { ports: 2 } }),
  steps: [
    (machine) => setUpRings(machine, 4),
    (machine) => command(machine, 0, control(0, READY)),
    (machine) => offer(machine, CONTROL_RX, 0, 256),
    (machine) => notifyQueue(machine, CONTROL_RX),
    (machine) => command(machine, 1, control(0, PORT_READY)),
    (machine) => usedOf(machine, CONTROL_RX),
    (machine) => machine.char.type("typed early"),
    (machine) => offer(machine, CONTROL_RX, 1, 256),
    (machine) => notifyQueue(machine, CONTROL_RX),
    (machine) => [
      usedOf(machine, CONTROL_RX),
      machine.memory.readU32(bufferAt(CONTROL_RX, 1) + 4),
    ],
    (machine) => command(machine, 2, control(0, OPEN)),
    (machine) => offer(machine, RX, 0, 4),
    (machine) => notifyQueue(machine, RX),
    (machine) => offer(machine, RX, 1, 64),
    (machine) => notifyQueue(machine, RX),
    (machine) => usedOf(machine, RX),
    (machine) => offer(machine, TX, 0, new TextEncoder().encode("hello")),
    (machine) => notifyQueue(machine, TX),
    (machine) => machine.char.block(),
    (machine) => offer(machine, TX, 1, new TextEncoder().encode("more")),
    (machine) => notifyQueue(machine, TX),
    (machine) => offer(machine, TX, 2, new TextEncoder().encode("and more")),
    (machine) => notifyQueue(machine, TX),
    (machine) => machine.char.drain(),
    (machine) => usedOf(machine, TX),
  ],
}, import.meta.url);

testRoundTrip(virtioPort, {
  make: () => ({ options: { name: "agent" } }),
  beside: () => [{
    plugin: virtioConsole as unknown as AnyPlugin,
    options: { ports: 2 },
  }],
  steps: [
    (machine) => setUpRings(machine, 6),
    (machine) => command(machine, 0, control(1, OPEN)),
    (machine) => machine.chars[1].type("a question"),
    (machine) => offer(machine, RX1, 0, 64),
    (machine) => notifyQueue(machine, RX1),
    (machine) => usedOf(machine, RX1),
    (machine) => offer(machine, TX1, 0, new TextEncoder().encode("an answer")),
    (machine) => notifyQueue(machine, TX1),
    (machine) => usedOf(machine, TX1),
  ],
}, import.meta.url);
