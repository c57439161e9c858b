import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { Clock, clockSchema } from "./clock.ts";
import { SchemaError } from "../snapshot/schema.ts";

const owner = { id: "dev0", plugin: "dev" };

function raise(error: Error): never {
  throw error;
}

/** A clock whose instructions and host time the test turns by hand. */
function handClock(mode: "realtime" | "instructions", nsPerInstruction = 1) {
  const hand = { ms: 1000, retired: 0 };
  const clock = new Clock({
    mode,
    nsPerInstruction,
    hostNow: () => hand.ms,
    rtcBase: 5000,
  }, raise);
  clock.retired = () => hand.retired;
  return { clock, hand };
}

Deno.test("Clock in instruction time counts retired instructions and jumps", () => {
  const { clock, hand } = handClock("instructions", 2.5);
  hand.retired = 3;
  assertEquals(clock.now(), 7);
  clock.advance(100);
  hand.retired = 5;
  assertEquals(clock.now(), 105);
  clock.advance(50);
  assertEquals(clock.now(), 105);
});

Deno.test("Clock in real time follows the host and stands still while paused", () => {
  const { clock, hand } = handClock("realtime");
  hand.ms += 5;
  assertEquals(clock.now(), 0);
  clock.resume();
  hand.ms += 2;
  assertEquals(clock.now(), 2_000_000);
  clock.pause();
  hand.ms += 100;
  assertEquals(clock.now(), 2_000_000);
  clock.resume();
  hand.ms += 0.5;
  assertEquals(clock.now(), 2_500_000);
  assertEquals(clock.wallTime(), 5002.5);
});

Deno.test("Clock never goes back when the host's does", () => {
  const { clock, hand } = handClock("realtime");
  clock.resume();
  hand.ms -= 10;
  assertEquals(clock.now(), 0);
});

Deno.test("Clock.fireDue fires by deadline, then by order of arming", () => {
  fc.assert(fc.property(
    fc.array(fc.nat(20), { maxLength: 60 }),
    fc.array(fc.nat(59), { maxLength: 20 }),
    (deadlines, cancelled) => {
      const { clock } = handClock("instructions");
      const fired: number[] = [];
      const timers = deadlines.map((deadline, i) => {
        const timer = clock.timer(owner, () => fired.push(i));
        timer.armAt(deadline);
        return timer;
      });
      for (const i of cancelled) timers[i]?.cancel();
      const expected = deadlines.map((deadline, i) => ({ deadline, i }))
        .filter(({ i }) => !cancelled.includes(i))
        .sort((a, b) => a.deadline - b.deadline || a.i - b.i)
        .map(({ i }) => i);
      clock.advance(20);
      clock.fireDue();
      assertEquals(fired, expected);
      assertEquals(clock.nextDeadline, undefined);
    },
  ));
});

Deno.test("a timer armed again in its own handler waits for the next call", () => {
  const { clock } = handClock("instructions");
  let count = 0;
  const timer = clock.timer(owner, () => {
    count++;
    timer.armAt(0);
  });
  timer.armAt(0);
  assert(clock.fireDue());
  assertEquals(count, 1);
  assert(clock.fireDue());
  assertEquals(count, 2);
});

Deno.test("a timer tells its deadline and re-arming moves it", () => {
  const { clock } = handClock("instructions");
  const timer = clock.timer(owner, () => {});
  assertEquals(timer.deadline, undefined);
  timer.armAt(10.2);
  assertEquals(timer.deadline, 11);
  timer.armAt(5);
  assertEquals(clock.nextDeadline, 5);
  timer.armAt(Infinity);
  assertEquals(timer.deadline, undefined);
  assertThrows(() => timer.armAt(NaN), RangeError);
});

Deno.test("Clock.onEarlier is told of a deadline before all others only", () => {
  const { clock } = handClock("instructions");
  const told: number[] = [];
  clock.onEarlier = (deadline) => told.push(deadline);
  clock.timer(owner, () => {}).armAt(100);
  clock.timer(owner, () => {}).armAt(200);
  clock.timer(owner, () => {}).armAt(50);
  assertEquals(told, [100, 50]);
});

Deno.test("Clock restores the time that it saved", () => {
  const first = handClock("instructions");
  first.hand.retired = 12345;
  const state = clockSchema.validate(first.clock.save());
  const second = handClock("instructions");
  second.hand.retired = 99;
  second.clock.restore(state);
  assertEquals(second.clock.now(), 12345);
  assertEquals(second.clock.save(), state);
  assertThrows(
    () => second.clock.restore({ now: 1n << 60n, retired: 0n, rtcBase: 0 }),
    SchemaError,
    "expected nanoseconds below 2^53",
  );
});

Deno.test("a timer that is armed beyond the end of time can be saved and restored", () => {
  const clock = new Clock({ mode: "instructions" }, (error) => {
    throw error;
  });
  clock.advance(5);
  const timer = clock.timer({ id: "t", plugin: "t" }, () => {});
  timer.armAt(2 ** 60);
  const saved = timer.save();
  assertEquals(saved, { remaining: Number.MAX_SAFE_INTEGER - 5 });
  clock.advance(10);
  timer.restore(saved);
  assertEquals(timer.deadline, Number.MAX_SAFE_INTEGER);
});

Deno.test("Clock restores fractions of a nanosecond, and takes the state of version 1", () => {
  const make = () => {
    const clock = new Clock(
      { mode: "instructions", nsPerInstruction: 0.3 },
      (error) => {
        throw error;
      },
    );
    let retired = 5;
    clock.retired = () => retired;
    return { clock, at: (n: number) => (retired = n, clock.now()) };
  };
  const first = make();
  const second = make();
  second.clock.restore(clockSchema.validate(first.clock.save()));
  for (let n = 5; n < 30; n++) assertEquals(second.at(n), first.at(n));
  const old = clockSchema.migrate({ now: 7n, rtcBase: 1 }, 1);
  assertEquals(old, { now: 7n, retired: 0n, rtcBase: 1 });
});
