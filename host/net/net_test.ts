import { assertEquals, assertRejects } from "@std/assert";
import { frameTo } from "../../plugins/net/testing.ts";
import { type Net, NetError, openNet } from "./mod.ts";

const ONE = Uint8Array.of(0x52, 0x54, 0, 0, 0, 1);
const TWO = Uint8Array.of(0x52, 0x54, 0, 0, 0, 2);

/** Takes the frames of a network as they come. */
class Card {
  readonly #frames: Uint8Array[] = [];
  #waiting: (() => void) | undefined;

  constructor(net: Net) {
    net.onReceive((frame) => {
      this.#frames.push(frame.slice());
      this.#waiting?.();
      return true;
    });
  }

  async next(): Promise<Uint8Array> {
    while (this.#frames.length === 0) {
      await new Promise<void>((resolve) => this.#waiting = resolve);
    }
    return this.#frames.shift()!;
  }
}

async function linkUp(net: Net): Promise<void> {
  if (net.link) return;
  await new Promise<void>((resolve) =>
    net.onLink(() => net.link ? resolve() : undefined)
  );
}

Deno.test("a hub carries frames to every other card", async () => {
  const nets = await Promise.all(
    ["a", "b", "c"].map((id) => openNet({ net: "hub=test" }, id)),
  );
  const cards = nets.map((net) => new Card(net));
  const frame = frameTo(TWO, ONE, 100);
  nets[0].send(frame);
  assertEquals(await cards[1].next(), frame);
  assertEquals(await cards[2].next(), frame);
  for (const net of nets) await net.close();
});

Deno.test("a hub holds frames that a card has no room for, and drops what is too much", async () => {
  const from = await openNet({ net: "hub=full" }, "a");
  const to = await openNet({ net: "hub=full" }, "b");
  let room = 0;
  let taken = 0;
  to.onReceive(() => {
    if (taken === room) return false;
    taken++;
    return true;
  });
  const frame = frameTo(TWO, ONE, 60);
  for (let i = 0; i < 2000; i++) from.send(frame);
  room = 5000;
  to.ready();
  assertEquals(taken, 1024);
  await from.close();
  await to.close();
});

for (const kind of ["tcp", "unix"]) {
  Deno.test(`a ${kind} stream carries frames both ways, and the link follows it`, async () => {
    const directory = await Deno.makeTempDir();
    const address = kind === "unix"
      ? `unix=${directory}/net`
      : await freePort("tcp");
    const one = await openNet({ net: `listen=${address}` }, "a");
    assertEquals(one.link, false);
    const two = await openNet({ net: `connect=${address}` }, "b");
    const [first, second] = [new Card(one), new Card(two)];
    await linkUp(one);
    for (let length = 46; length < 60_000; length += 7919) {
      one.send(frameTo(TWO, ONE, length));
      two.send(frameTo(ONE, TWO, length));
      assertEquals(await second.next(), frameTo(TWO, ONE, length));
      assertEquals(await first.next(), frameTo(ONE, TWO, length));
    }
    const gone = new Promise<void>((resolve) => one.onLink(resolve));
    await two.close();
    await gone;
    assertEquals(one.link, false);
    await one.close();
    await Deno.remove(directory, { recursive: true });
  });
}

Deno.test("a stream hangs up on a peer that sends no frames, and says so", async () => {
  const address = await freePort("tcp");
  const told: string[] = [];
  let tell = () => {};
  const isTold = new Promise<void>((resolve) => tell = resolve);
  const net = await openNet({ net: `listen=${address}` }, "net0", (message) => {
    told.push(message);
    tell();
  });
  const peer = await Deno.connect({ port: Number(address.split(":")[1]) });
  await peer.write(new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"));
  await isTold;
  assertEquals(
    told[0],
    "net0: the other side sends a frame of 1195725856 bytes: expected at most 65550, each after its length; it is hung up",
  );
  assertEquals(await peer.read(new Uint8Array(1)), null);
  peer.close();
  await net.close();
});

Deno.test("UDP carries frames", async () => {
  const [a, b] = [await freePort("udp"), await freePort("udp")];
  const one = await openNet({ net: `dgram=${a}-${b}` }, "a");
  const two = await openNet({ net: `dgram=${b}-${a}` }, "b");
  const card = new Card(two);
  const frame = frameTo(TWO, ONE, 100);
  one.send(frame);
  assertEquals(await card.next(), frame);
  await one.close();
  await two.close();
});

Deno.test("pcap writes a file of the frames that were sent and taken", async () => {
  const path = await Deno.makeTempFile();
  const one = await openNet({ net: "hub=pcap", pcap: path }, "a");
  const two = await openNet({ net: "hub=pcap" }, "b");
  new Card(one);
  one.send(frameTo(TWO, ONE, 100));
  two.send(frameTo(ONE, TWO, 50));
  await one.close();
  await two.close();
  const bytes = await Deno.readFile(path);
  const view = new DataView(bytes.buffer);
  assertEquals(view.getUint32(0, true), 0xa1b2c3d4);
  assertEquals(bytes.length, 24 + 16 + 114 + 16 + 64);
  assertEquals(view.getUint32(24 + 8, true), 114);
  assertEquals(bytes.slice(40, 154), frameTo(TWO, ONE, 100));
  await Deno.remove(path);
});

Deno.test("networks that cannot be are refused in one line", async () => {
  const refused = (options: Parameters<typeof openNet>[0], message: string) =>
    assertRejects(() => openNet(options, "net0"), NetError, message);
  await refused({ net: "usre" }, 'unknown network "usre" of net0: expected');
  await refused({ net: "hub" }, "write net=hub=NAME");
  await refused({ net: "none=1" }, "write net=none");
  await refused({ net: "listen=1.2.3" }, '"1.2.3" is no address');
  await refused({ net: "connect=unix=/nowhere/x" }, "cannot connect to");
  await refused({ net: "dgram=:1" }, "its own address first");
  await refused({ net: "hub=x", hostfwd: "tcp::1-:2" }, "are for net=user");
  await refused(
    { net: "hub=x", pcap: "/nowhere/x" },
    'pcap of net0: cannot write "/nowhere/x"',
  );
});

/** A port of the host that is free now. */
function freePort(transport: "tcp" | "udp"): Promise<string> {
  if (transport === "tcp") {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    listener.close();
    return Promise.resolve(`127.0.0.1:${port}`);
  }
  return import("./user/sockets.ts").then(async ({ bindUdp }) => {
    const socket = await bindUdp("127.0.0.1", 0);
    const { port } = socket.address();
    await new Promise<void>((resolve) => void socket.close(() => resolve()));
    return `127.0.0.1:${port}`;
  });
}
