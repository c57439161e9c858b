import { assert } from "@std/assert";
import { EventLoopTurn } from "./event_loop.ts";

/** As long as a slice of a busy guest. */
const BUSY_MS = 4;
const MAX_TURNS = 500;

Deno.test("EventLoopTurn.wait lets sockets be served while the thread is busy", async () => {
  const path = await Deno.makeTempFile();
  await Deno.remove(path);
  const listener = Deno.listen({ transport: "unix", path });
  let answered = false;
  const talk = (async () => {
    const accepting = listener.accept();
    const client = await Deno.connect({ transport: "unix", path });
    const server = await accepting;
    await client.write(new Uint8Array(1));
    await server.read(new Uint8Array(1));
    client.close();
    server.close();
    answered = true;
  })();
  const turn = new EventLoopTurn();
  let turns = 0;
  for (; !answered && turns < MAX_TURNS; turns++) {
    const start = performance.now();
    while (performance.now() - start < BUSY_MS);
    await turn.wait();
  }
  turn.close();
  assert(answered, `nothing was served in ${turns} turns`);
  await talk;
  listener.close();
  await Deno.remove(path).catch(() => {});
});
