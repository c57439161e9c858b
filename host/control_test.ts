// The control socket against clients that behave badly.

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Qmp } from "../cli/testing.ts";
import { type ControlSocket, listenControl, MAX_MESSAGE } from "./control.ts";
import { JsonMessages } from "./json_messages.ts";

const EVENT_BYTES = 1 << 16;
/** More than a socket and the queue of a client hold. */
const EVENTS = 200;

async function withSocket(
  test: (socket: ControlSocket, path: string) => Promise<void>,
): Promise<void> {
  const directory = await Deno.makeTempDir();
  const path = `${directory}/control`;
  const socket = await listenControl(path, [1, 2, 3], {
    echo: {
      arguments: { text: "string" },
      run: ({ text }) => ({ text }),
    },
    fail: {
      run: () => {
        throw new Error("out of order");
      },
    },
  });
  try {
    await test(socket, path);
  } finally {
    await socket.close();
    await Deno.remove(directory, { recursive: true });
  }
}

Deno.test("JsonMessages finds values however they are cut", () => {
  const text = '{"a":"}\\"]{"}\r\n [1,{"b":[]}]{"c":1} nonsense\n"x"\n';
  const expected = [
    ...['{"a":"}\\"]{"}', '[1,{"b":[]}]', '{"c":1}', "nonsense", '"x"'],
  ];
  const bytes = new TextEncoder().encode(text);
  for (let size = 1; size <= bytes.length; size++) {
    const messages = new JsonMessages(100);
    const found: string[] = [];
    for (let at = 0; at < bytes.length; at += size) {
      found.push(...messages.push(bytes.subarray(at, at + size)));
    }
    assertEquals(found, expected, `in pieces of ${size}`);
  }
});

Deno.test("JsonMessages forgets what came before 0xFF", () => {
  const messages = new JsonMessages(100);
  assertEquals(messages.push(new TextEncoder().encode('{"a":"')), []);
  assertEquals(
    messages.push(new Uint8Array([0xff, ...new TextEncoder().encode("{}")])),
    ["{}"],
  );
});

Deno.test("a control socket answers each of several clients", () =>
  withSocket(async (_socket, path) => {
    const clients = await Promise.all([1, 2, 3].map(() => Qmp.open(path)));
    for (const client of clients) await client.execute("qmp_capabilities");
    const replies = await Promise.all(
      clients.map((client, i) => client.execute("echo", { text: `${i}` })),
    );
    assertEquals(replies, [{ text: "0" }, { text: "1" }, { text: "2" }]);
    assertEquals(await clients[0].ask('{"execute":"fail","id":null}'), {
      id: null,
      error: { class: "GenericError", desc: "out of order" },
    });
    for (const client of clients) client.close();
  }));

Deno.test("a control socket cuts off a message without end", () =>
  withSocket(async (_socket, path) => {
    const client = await Qmp.open(path);
    const endless = new Uint8Array(MAX_MESSAGE + 2).fill(0x5b);
    await client.send(endless).catch(() => {});
    const { error, closed } = await client.next();
    const { desc } = (error ?? { desc: "" }) as { desc: string };
    assert(closed === true || desc.includes("expected a shorter one"));
    client.close();
    const other = await Qmp.open(path);
    assertEquals(await other.execute("qmp_capabilities"), {});
    other.close();
  }));

Deno.test("a control socket lets go of a client that does not read", () =>
  withSocket(async (socket, path) => {
    const client = await Qmp.open(path);
    await client.execute("qmp_capabilities");
    const other = await Qmp.open(path);
    const data = { text: "x".repeat(EVENT_BYTES) };
    for (let i = 0; i < EVENTS; i++) socket.event("NOISE", data);
    let events = 0;
    for (;;) {
      const { closed, event } = await client.next();
      if (closed) break;
      if (event === "NOISE") events++;
    }
    assert(events < EVENTS, `all ${events} events were kept`);
    assertEquals(await other.execute("qmp_capabilities"), {});
    client.close();
    other.close();
  }));

Deno.test("a control socket removes itself, but not what took its place", async () => {
  const directory = await Deno.makeTempDir();
  const path = `${directory}/control`;
  const first = await listenControl(path, [1, 0, 0], {});
  await Deno.remove(path);
  const second = await listenControl(path, [2, 0, 0], {});
  await first.close();
  const connection = await Deno.connect({ transport: "unix", path });
  const buffer = new Uint8Array(256);
  const read = await connection.read(buffer);
  assertStringIncludes(
    new TextDecoder().decode(buffer.subarray(0, read ?? 0)),
    '"major":2',
  );
  connection.close();
  await second.close();
  assertEquals([...Deno.readDirSync(directory)], []);
  await Deno.remove(directory);
});
