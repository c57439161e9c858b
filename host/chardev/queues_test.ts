import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { Batch, INPUT_LIMIT, InputQueue, OutputQueue } from "./queues.ts";

const bytes = (...values: number[]) => Uint8Array.from(values);

Deno.test("OutputQueue gives back what it holds, in order", () => {
  const queue = new OutputQueue();
  queue.push(bytes(1, 2));
  queue.push(bytes(3));
  assertEquals(queue.length, 3);
  assertEquals(queue.take(), bytes(1, 2, 3));
  assertEquals(queue.length, 0);
});

Deno.test("OutputQueue holds the newest bytes, whatever is pushed", () => {
  fc.assert(fc.property(
    fc.array(fc.uint8Array({ maxLength: 12 })),
    fc.integer({ min: 1, max: 10 }),
    (pieces, limit) => {
      const queue = new OutputQueue(limit);
      for (const piece of pieces) queue.push(piece);
      const all = pieces.flatMap((piece) => [...piece]);
      assertEquals([...queue.take()], all.slice(-limit));
    },
  ));
});

Deno.test("OutputQueue puts back as much as there is room for", () => {
  const queue = new OutputQueue(4);
  queue.push(bytes(7, 8));
  queue.unshift(bytes(4, 5, 6));
  assertEquals(queue.take(), bytes(5, 6, 7, 8));
});

Deno.test("Batch writes once a turn, and at once when it is full", async () => {
  const sizes: number[] = [];
  const batch = new Batch((b) => void sizes.push(b.length));
  batch.push(bytes(1));
  batch.push(bytes(2));
  assertEquals(sizes, []);
  await Promise.resolve();
  assertEquals(sizes, [2]);
  batch.push(new Uint8Array(5000));
  assertEquals(sizes, [2, 4096]);
  batch.flush();
  assertEquals(sizes, [2, 4096, 904]);
});

Deno.test("InputQueue offers the rest when the device is ready", () => {
  const taken: number[] = [];
  let room = 2;
  const queue = new InputQueue();
  queue.push(bytes(1, 2, 3));
  queue.open((offered) => {
    const n = Math.min(room, offered.length);
    taken.push(...offered.subarray(0, n));
    room -= n;
    return n;
  });
  assertEquals(taken, [1, 2]);
  queue.push(bytes(4));
  assertEquals(taken, [1, 2]);
  room = 5;
  queue.offer();
  assertEquals(taken, [1, 2, 3, 4]);
});

Deno.test("InputQueue is full at its limit, and says when there is room", async () => {
  const queue = new InputQueue();
  let open = false;
  queue.open((offered) => open ? offered.length : 0);
  queue.push(new Uint8Array(INPUT_LIMIT));
  assert(queue.full);
  const room = queue.room();
  open = true;
  queue.offer();
  await room;
  assert(!queue.full);
});
