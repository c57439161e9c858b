import { assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { newSeed } from "../../../tests/support.ts";
import { type Net, NetError, openNet } from "../mod.ts";
import { bindUdp } from "./sockets.ts";
import { CARD, GATEWAY, GUEST, isArpReply, TestGuest } from "./testing.ts";

const FIN = 1, SYN = 2, RST = 4, ACK = 16;
const MSS_1460 = [2, 4, 5, 0xb4];

async function withGuest(
  use: (guest: TestGuest, net: Net) => Promise<void>,
  hostfwd?: string,
): Promise<void> {
  const net = await openNet({ net: "user", hostfwd }, "net0");
  try {
    await use(new TestGuest(net), net);
  } finally {
    await net.close();
  }
}

/** A client of TCP in the guest, which acknowledges all that comes in order. */
class Client {
  readonly guest: TestGuest;
  readonly ports: { from: number; to: number };
  sequence = 1000;
  acknowledgment = 0;
  readonly #parts: Uint8Array[] = [];
  received = 0;
  flags = 0;

  constructor(guest: TestGuest, to: number, from = 40_000) {
    this.guest = guest;
    this.ports = { from, to };
  }

  async open(): Promise<void> {
    this.guest.tcp(GATEWAY, {
      ...this.ports,
      sequence: this.sequence,
      flags: SYN,
      options: MSS_1460,
    });
    const answer = await this.guest.segment();
    assertEquals(answer.flags, SYN | ACK);
    this.sequence++;
    this.acknowledgment = answer.sequence + 1 >>> 0;
    this.acknowledge();
  }

  acknowledge(): void {
    this.send(new Uint8Array(0));
  }

  send(data: Uint8Array, flags = 0): void {
    this.guest.tcp(GATEWAY, {
      ...this.ports,
      sequence: this.sequence,
      acknowledgment: this.acknowledgment,
      flags: ACK | flags,
      data,
    });
    this.sequence = this.sequence + data.length + (flags & FIN) >>> 0;
  }

  /** Takes segments until something holds. */
  async until(isDone: () => boolean): Promise<void> {
    while (!isDone()) {
      const segment = await this.guest.segment();
      this.flags |= segment.flags;
      if (segment.sequence !== this.acknowledgment) continue;
      const isFin = (segment.flags & FIN) !== 0;
      if (segment.data.length === 0 && !isFin) continue;
      this.#parts.push(segment.data.slice());
      this.received += segment.data.length;
      this.acknowledgment = segment.sequence + segment.data.length +
          (isFin ? 1 : 0) >>> 0;
      this.acknowledge();
    }
  }

  get bytes(): Uint8Array {
    const all = new Uint8Array(this.received);
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }
}

function numbered(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => i * 31 + (i >>> 8));
}

Deno.test("the gateway answers ARP for its addresses and no others", () =>
  withGuest(async (guest) => {
    guest.arp(Uint8Array.of(10, 0, 2, 99));
    guest.arp(GATEWAY);
    assertEquals(isArpReply(await guest.frame(), GATEWAY), true);
    assertEquals(guest.pending, 0);
  }));

Deno.test("the gateway answers echo, and says that others cannot be reached", () =>
  withGuest(async (guest) => {
    guest.ping(GATEWAY, 7);
    const { payload } = await guest.packet();
    assertEquals([payload[0], payload[7]], [0, 7]);
    guest.ping(Uint8Array.of(192, 0, 2, 1), 1);
    assertEquals((await guest.packet()).payload[0], 3);
  }));

Deno.test("DHCP offers and gives 10.0.2.15, with router, names and mask", () =>
  withGuest(async (guest) => {
    for (const [type, answer] of [[1, 2], [3, 5]]) {
      const message = new Uint8Array(300);
      message.set([1, 1, 6, 0, 1, 2, 3, 4]);
      message.set(CARD, 28);
      message.set([0x63, 0x82, 0x53, 0x63, 53, 1, type, 255], 236);
      guest.udp(
        new Uint8Array(4).fill(255),
        { from: 68, to: 67 },
        message,
        new Uint8Array(4),
      );
      const { payload } = await guest.packet();
      const reply = payload.subarray(8);
      assertEquals([...reply.subarray(4, 8)], [1, 2, 3, 4]);
      assertEquals(reply.subarray(16, 20), GUEST);
      assertEquals([...reply.subarray(240, 243)], [53, 1, answer]);
    }
  }));

Deno.test("UDP goes to the host and back", () =>
  withGuest(async (guest) => {
    const server = await bindUdp("127.0.0.1", 0);
    server.on("message", (data, { port, address }) => {
      server.send(Uint8Array.from(data, (byte) => byte + 1), port, address);
    });
    const { port } = server.address();
    guest.udp(GATEWAY, { from: 5000, to: port }, Uint8Array.of(1, 2, 3));
    const { payload, source } = await guest.packet();
    assertEquals(source, GATEWAY);
    assertEquals([...payload.subarray(8)], [2, 3, 4]);
    await new Promise<void>((resolve) => void server.close(() => resolve()));
  }));

Deno.test("TCP carries bytes both ways, and both sides close", () =>
  withGuest(async (guest) => {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const data = numbered(300_000);
    const echoed = (async () => {
      const socket = await listener.accept();
      const got: number[] = [];
      for await (const part of socket.readable) {
        got.push(...part);
        if (got.length === 5000) break;
      }
      return got;
    })();
    const client = new Client(guest, listener.addr.port);
    await client.open();
    for (let at = 0; at < 5000; at += 1000) {
      client.send(data.subarray(at, at + 1000));
    }
    assertEquals(await echoed, [...data.subarray(0, 5000)]);
    listener.close();
  }));

Deno.test("TCP sends a file in order, as the guest acknowledges it", () =>
  withGuest(async (guest) => {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const data = numbered(2_000_000);
    const serving = (async () => {
      const socket = await listener.accept();
      for (let at = 0; at < data.length;) {
        at += await socket.write(data.subarray(at));
      }
      await socket.closeWrite();
      const end = await socket.read(new Uint8Array(1));
      socket.close();
      return end;
    })();
    const client = new Client(guest, listener.addr.port);
    await client.open();
    await client.until(() => (client.flags & FIN) !== 0);
    assertEquals(client.received, data.length);
    assertEquals(client.bytes, data);
    client.send(new Uint8Array(0), FIN);
    assertEquals(await serving, null);
    listener.close();
  }));

Deno.test("TCP sends again what the guest has not acknowledged", () =>
  withGuest(async (guest) => {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const accepted = listener.accept();
    const client = new Client(guest, listener.addr.port);
    await client.open();
    const socket = await accepted;
    await socket.write(Uint8Array.of(1, 2, 3));
    const first = await guest.segment();
    const again = await guest.segment();
    assertEquals([...again.data], [1, 2, 3]);
    assertEquals(again.sequence, first.sequence);
    socket.close();
    listener.close();
  }));

Deno.test("nobody at the port, or of a forgotten connection, is a reset", () =>
  withGuest(async (guest) => {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    listener.close();
    guest.tcp(GATEWAY, { from: 1, to: port, sequence: 5, flags: SYN });
    const refused = await guest.segment();
    assertEquals([refused.flags, refused.acknowledgment], [RST | ACK, 6]);
    guest.tcp(GATEWAY, {
      from: 2,
      to: port,
      sequence: 5,
      acknowledgment: 77,
      flags: ACK,
    });
    const reset = await guest.segment();
    assertEquals([reset.flags, reset.sequence], [RST, 77]);
  }));

Deno.test("hostfwd leads a connection of the host to the guest", async () => {
  const probe = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = probe.addr;
  probe.close();
  await withGuest(async (guest) => {
    guest.arp(GATEWAY);
    await guest.frame();
    const host = await Deno.connect({ port });
    const syn = await guest.segment();
    assertEquals([syn.flags, syn.destinationPort], [SYN, 22]);
    const ports = { from: 22, to: syn.sourcePort };
    guest.tcp(GATEWAY, {
      ...ports,
      sequence: 500,
      acknowledgment: syn.sequence + 1 >>> 0,
      flags: SYN | ACK,
    });
    assertEquals((await guest.segment()).flags & ACK, ACK);
    guest.tcp(GATEWAY, {
      ...ports,
      sequence: 501,
      acknowledgment: syn.sequence + 1 >>> 0,
      flags: ACK,
      data: new TextEncoder().encode("SSH-2.0"),
    });
    const buffer = new Uint8Array(16);
    const count = await host.read(buffer);
    assertEquals(
      new TextDecoder().decode(buffer.subarray(0, count!)),
      "SSH-2.0",
    );
    host.close();
  }, `tcp::${port}-:22`);
});

Deno.test("hostfwd that cannot be is refused in one line", async () => {
  const refused = (hostfwd: string, message: string) =>
    assertRejects(
      () => openNet({ net: "user", hostfwd }, "net0"),
      NetError,
      message,
    );
  await refused("tcp:8022", 'hostfwd "tcp:8022" of net0: it is malformed');
  await refused("tcp::99999-:22", "there is no port 99999");
  const taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await refused(`tcp::${taken.addr.port}-:22`, "choose another port");
  taken.close();
});

Deno.test("malformed frames of every kind do no harm", () =>
  withGuest(async (guest, net) => {
    const seed = newSeed();
    const types = fc.constantFrom(0x0800, 0x0806, 0x86dd, 0x1234);
    const start = fc.constantFrom(
      [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6],
      [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17],
      [0x60, 0, 0, 0, 0, 40, 58, 255],
      [0x4f],
      [],
    );
    fc.assert(
      fc.property(
        types,
        start,
        fc.uint8Array({ maxLength: 120 }),
        (type, head, rest) => {
          guest.ethernet(type, Uint8Array.of(...head, ...rest));
        },
      ),
      { numRuns: 3000, seed },
    );
    net.send(new Uint8Array(3));
    guest.ping(GATEWAY, 9);
    for (;;) {
      const frame = await guest.frame();
      if (frame[23] === 1 && frame[34] === 0 && frame[41] === 9) break;
    }
  }));
