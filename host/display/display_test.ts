import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { inflateSync } from "node:zlib";
import type { Picture, Rectangle } from "../../core/plugin.ts";
import { InputHub } from "../input/hub.ts";
import { Display } from "./display.ts";
import { encodePng } from "./png.ts";
import { parseVncAddress, VncError, VncServer } from "./vnc.ts";

/** A picture that the test draws on. */
class Canvas implements Picture {
  readonly pixels: Uint32Array;
  looks = 0;
  #parts: Rectangle[];

  constructor(readonly width: number, readonly height: number) {
    this.pixels = new Uint32Array(width * height);
    this.#parts = [{ x: 0, y: 0, width, height }];
  }

  dot(x: number, y: number, color: number): void {
    this.pixels[y * this.width + x] = color;
    this.#parts.push({ x, y, width: 1, height: 1 });
  }

  update(): readonly Rectangle[] {
    this.looks++;
    return this.#parts.splice(0);
  }
}

/** A client that speaks the protocol by hand. */
class TestClient {
  readonly #connection: Deno.Conn;
  #held = new Uint8Array(0);

  private constructor(connection: Deno.Conn) {
    this.#connection = connection;
  }

  static async connect(port: number): Promise<TestClient> {
    return new TestClient(await Deno.connect({ hostname: "127.0.0.1", port }));
  }

  async take(count: number): Promise<DataView> {
    while (this.#held.length < count) {
      const buffer = new Uint8Array(1 << 16);
      const read = await this.#connection.read(buffer);
      if (read === null) throw new Error("the server has hung up");
      this.#held = Uint8Array.from([
        ...this.#held,
        ...buffer.subarray(0, read),
      ]);
    }
    const taken = this.#held.slice(0, count);
    this.#held = this.#held.slice(count);
    return new DataView(taken.buffer);
  }

  async bytes(count: number): Promise<number[]> {
    return [...new Uint8Array((await this.take(count)).buffer)];
  }

  async send(...bytes: number[]): Promise<void> {
    await this.#connection.write(Uint8Array.from(bytes));
  }

  async text(text: string): Promise<void> {
    await this.send(...new TextEncoder().encode(text));
  }

  /** Until the server's greeting is over; returns width and height. */
  async open(): Promise<[number, number]> {
    assertEquals(
      String.fromCharCode(...await this.bytes(12)),
      "RFB 003.008\n",
    );
    await this.text("RFB 003.008\n");
    assertEquals(await this.bytes(2), [1, 1]);
    await this.send(1);
    assertEquals(await this.bytes(4), [0, 0, 0, 0]);
    await this.send(1);
    const init = await this.take(24 + 8);
    return [init.getUint16(0), init.getUint16(2)];
  }

  async encodings(...list: number[]): Promise<void> {
    const message = new DataView(new ArrayBuffer(4 + 4 * list.length));
    message.setUint8(0, 2);
    message.setUint16(2, list.length);
    list.forEach((each, i) => message.setInt32(4 + 4 * i, each));
    await this.send(...new Uint8Array(message.buffer));
  }

  async request(incremental: boolean): Promise<void> {
    await this.send(3, incremental ? 1 : 0, 0, 0, 0, 0, 255, 255, 255, 255);
  }

  /** The head of an update, and of its first rectangle: x, y, width, height, encoding. */
  async update(): Promise<[number, number[]]> {
    const count = (await this.take(4)).getUint16(2);
    const head = await this.take(12);
    return [count, [
      ...[0, 2, 4, 6].map((at) => head.getUint16(at)),
      head.getInt32(8),
    ]];
  }

  close(): void {
    this.#connection.close();
  }
}

async function withServer(
  test: (
    server: {
      port: number;
      canvas: Canvas;
      display: Display;
      input: InputHub;
      notes: string[];
      server: VncServer;
    },
  ) => Promise<void>,
): Promise<void> {
  const canvas = new Canvas(16, 8);
  const display = new Display();
  display.show(canvas);
  const input = new InputHub();
  const notes: string[] = [];
  const server = VncServer.listen(
    { transport: "tcp", hostname: "127.0.0.1", port: 0 },
    display,
    input,
    (message) => notes.push(message),
  );
  try {
    await test({ port: server.port!, canvas, display, input, notes, server });
  } finally {
    server.close();
  }
}

Deno.test("encodePng makes a file with the colours of the picture", () => {
  const file = encodePng({
    width: 2,
    height: 1,
    pixels: Uint32Array.of(0x123456, 0xffeedd),
  });
  const view = new DataView(file.buffer);
  assertEquals([...file.subarray(1, 4)], [0x50, 0x4e, 0x47]);
  assertEquals([view.getUint32(16), view.getUint32(20)], [2, 1]);
  const length = view.getUint32(33);
  const lines = inflateSync(file.subarray(41, 41 + length));
  assertEquals([...lines], [0, 0x12, 0x34, 0x56, 0xff, 0xee, 0xdd]);
});

Deno.test("parseVncAddress takes displays and socket files, this host by default", () => {
  assertEquals(parseVncAddress(":1"), {
    transport: "tcp",
    hostname: "127.0.0.1",
    port: 5901,
  });
  assertEquals(parseVncAddress("[::1]:0"), {
    transport: "tcp",
    hostname: "::1",
    port: 5900,
  });
  assertEquals(parseVncAddress("unix=/tmp/x"), {
    transport: "unix",
    path: "/tmp/x",
  });
  for (const wrong of ["", "5900", ":99999", "unix="]) {
    assertThrows(() => parseVncAddress(wrong), VncError, "expected [HOST]:");
  }
});

Deno.test("a VNC client gets the picture, then only what changes", async () => {
  await withServer(async ({ port, canvas }) => {
    canvas.dot(3, 2, 0x112233);
    const client = await TestClient.connect(port);
    assertEquals(await client.open(), [16, 8]);
    await client.request(false);
    assertEquals(await client.update(), [1, [0, 0, 16, 8, 0]]);
    const pixels = await client.take(4 * 16 * 8);
    assertEquals(pixels.getUint32(4 * (2 * 16 + 3), true), 0x112233);
    await client.request(true);
    canvas.dot(15, 7, 0x445566);
    assertEquals(await client.update(), [1, [15, 7, 1, 1, 0]]);
    assertEquals((await client.take(4)).getUint32(0, true), 0x445566);
    client.close();
  });
});

Deno.test("a VNC client has its own pixel format and zlib", async () => {
  await withServer(async ({ port, canvas }) => {
    canvas.pixels.fill(0xff8000);
    const client = await TestClient.connect(port);
    await client.open();
    // 16 bits, big-endian, 5-6-5.
    await client.send(0, 0, 0, 0, 16, 16, 1, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0);
    await client.send(0, 0, 0);
    await client.encodings(6);
    await client.request(false);
    assertEquals(await client.update(), [1, [0, 0, 16, 8, 6]]);
    const length = (await client.take(4)).getUint32(0);
    const packed = Uint8Array.from(await client.bytes(length));
    const raw = inflateSync(packed, { finishFlush: 2 });
    assertEquals(raw.length, 2 * 16 * 8);
    assertEquals([...raw.subarray(0, 2)], [0xfc, 0x00]);
    client.close();
  });
});

Deno.test("a VNC client is told of another size", async () => {
  await withServer(async ({ port, display }) => {
    const client = await TestClient.connect(port);
    await client.open();
    await client.encodings(-223);
    await client.request(true);
    assertEquals(await client.update(), [1, [0, 0, 16, 8, 0]]);
    await client.bytes(4 * 16 * 8);
    await client.request(true);
    display.show(new Canvas(20, 10));
    assertEquals(await client.update(), [2, [0, 0, 20, 10, -223]]);
    client.close();
  });
});

Deno.test("keys of a VNC client go to the keyboard, and go up when it leaves", async () => {
  await withServer(async ({ port, input, notes }) => {
    const seen: [number, boolean][] = [];
    const done = Promise.withResolvers<void>();
    input.connect().backend.onKey((usage, down) => {
      seen.push([usage, down]);
      if (seen.length === 4) done.resolve();
    });
    const client = await TestClient.connect(port);
    await client.open();
    await client.send(4, 1, 0, 0, 0, 0, 0xff, 0x0d); // Return
    await client.send(4, 0, 0, 0, 0, 0, 0xff, 0x0d);
    await client.send(255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x1e); // XT's A
    client.close();
    await done.promise;
    assertEquals(seen, [
      [0x28, true],
      [0x28, false],
      [0x04, true],
      [0x04, false],
    ]);
    assertEquals(notes, []);
  });
});

Deno.test("a display that nobody waits for is not looked at", () => {
  // A timer that is left over fails the test.
  const canvas = new Canvas(4, 4);
  const display = new Display();
  display.show(canvas);
  const viewer = { waits: false, resized() {}, changed() {} };
  display.add(viewer);
  display.look();
  assertEquals(canvas.looks, 0);
  display.update();
  assertEquals(canvas.looks, 1);
});

Deno.test("ten VNC clients are served, and an eleventh is told why not", async () => {
  await withServer(async ({ port }) => {
    const clients: TestClient[] = [];
    for (let i = 0; i < 10; i++) {
      const client = await TestClient.connect(port);
      await client.open();
      clients.push(client);
    }
    const last = await TestClient.connect(port);
    await last.take(12);
    await last.text("RFB 003.008\n");
    assertEquals(await last.bytes(1), [0]);
    const length = (await last.take(4)).getUint32(0);
    assertEquals(
      String.fromCharCode(...await last.bytes(length)),
      "10 clients are connected already",
    );
    [...clients, last].forEach((client) => client.close());
  });
});

Deno.test("a VNC client that breaks the protocol is hung up on, and the reason told", async () => {
  const broken: [number[], RegExp][] = [
    [[77], /message of type 77/],
    [[0, 0, 0, 0, 24, 24, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0], /24 bits/],
    [
      [0, 0, 0, 0, 8, 8, 0, 0, 0, 7, 0, 7, 0, 3, 0, 3, 6, 0, 0, 0],
      /colour map/,
    ],
    [
      [0, 0, 0, 0, 8, 8, 0, 1, 1, 0, 0, 7, 0, 3, 0, 3, 6, 0, 0, 0],
      /256 at bit/,
    ],
    [[2, 0, 255, 255], /65535 encodings/],
    [[6, 0, 0, 0, 255, 255, 255, 255], /cut 4294967295 bytes/],
  ];
  for (const [bytes, expected] of broken) {
    await withServer(async ({ port, notes }) => {
      const client = await TestClient.connect(port);
      await client.open();
      await client.send(...bytes);
      await assertRejects(() => client.take(1));
      assertEquals(notes.length, 1);
      assertEquals(expected.test(notes[0]), true, notes[0]);
      client.close();
    });
  }
});

Deno.test("a VNC client without the greeting is hung up on", async () => {
  await withServer(async ({ port, notes }) => {
    const client = await TestClient.connect(port);
    await client.take(12);
    await client.text("GET / HTTP/1.1\r\n");
    await assertRejects(() => client.take(1));
    assertEquals(/expected RFB 003.008/.test(notes[0]), true);
    client.close();
  });
});
