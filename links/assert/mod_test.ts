import {
  assert,
  assertAlmostEquals,
  assertArrayIncludes,
  assertEquals,
  AssertionError,
  assertMatch,
  assertNotEquals,
  assertObjectMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
  equal,
} from "@std/assert";

Deno.test("equal compares deeply", () => {
  const cyclic: { self?: unknown } = {};
  cyclic.self = cyclic;
  const other: { self?: unknown } = {};
  other.self = other;
  for (
    const [a, b] of [
      [1, 1],
      [NaN, NaN],
      [0, -0],
      [1n, 1n],
      [{ a: [1, { b: 2 }] }, { a: [1, { b: 2 }] }],
      [new Uint8Array([1, 2]), new Uint8Array([1, 2])],
      [new Map([["a", { b: 1 }]]), new Map([["a", { b: 1 }]])],
      [new Set([{ a: 1 }, 2]), new Set([2, { a: 1 }])],
      [new Date(5), new Date(5)],
      [/a/g, /a/g],
      [cyclic, other],
      [Object.assign(Object.create(null), { a: 1 }), { a: 1 }],
    ]
  ) assert(equal(a, b), Deno.inspect([a, b]));
  for (
    const [a, b] of [
      [1, 2],
      [1, 1n],
      [null, undefined],
      [{ a: undefined }, {}],
      [[1], [1, 2]],
      [new Uint8Array(1), new Uint16Array(1)],
      [new Uint8Array([1]), new Uint8Array([2])],
      [new Map([["a", 1]]), new Map([["a", 2]])],
      [new Map<unknown, unknown>([["a", undefined]]), new Map([["b", 1]])],
      [new Set([1]), new Set([2])],
      [/a/g, /a/i],
      [new (class A {})(), new (class B {})()],
    ]
  ) assert(!equal(a, b), Deno.inspect([a, b]));
});

Deno.test("assertions throw AssertionError, and only where they fail", () => {
  const fails = (fn: () => void, message: string) =>
    assertThrows(fn, AssertionError, message);
  assertEquals({ a: 1 }, { a: 1 });
  fails(() => assertEquals({ a: 1 }, { a: 2 }), "Values are not equal.");
  fails(() => assertEquals(1, 2, "why"), "Values are not equal: why");
  fails(() => assertNotEquals(1, 1), "not to be");
  fails(() => assertStrictEquals({}, {}), "not reference-equal");
  assertAlmostEquals(0.1 + 0.2, 0.3);
  fails(() => assertAlmostEquals(1, 2), "to be close to");
  fails(() => assertStringIncludes("abc", "d"), 'to contain: "d"');
  fails(() => assertMatch("abc", /d/), "to match");
  assertArrayIncludes([{ a: 1 }, 2], [{ a: 1 }]);
  fails(() => assertArrayIncludes([1], [2]), "missing");
  assertObjectMatch({ a: { b: 1, c: 2 }, d: 3 }, { a: { b: 1 } });
  fails(() => assertObjectMatch({ a: { b: 1 } }, { a: { b: 2 } }), "not equal");
});

Deno.test("assertThrows checks class and message, and returns the error", () => {
  const thrown = assertThrows(
    () => {
      throw new TypeError("hello world");
    },
    TypeError,
    "world",
  );
  assertEquals(thrown.message, "hello world");
  assertThrows(
    () => assertThrows(() => {}),
    AssertionError,
    "Expected function to throw",
  );
  assertThrows(
    () =>
      assertThrows(() => {
        throw new TypeError("a");
      }, RangeError),
    AssertionError,
    'instance of "RangeError", but was "TypeError"',
  );
});

Deno.test("assertRejects wants a promise that rejects", async () => {
  await assertRejects(() => Promise.reject(new Error("x")), Error, "x");
  await assertRejects(
    () => assertRejects(() => Promise.resolve()),
    AssertionError,
    "Expected function to reject",
  );
  await assertRejects(
    () =>
      assertRejects(() => {
        throw new Error();
      }),
    AssertionError,
    "Function throws when expected to reject",
  );
});
