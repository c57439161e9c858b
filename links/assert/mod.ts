// Stand-in for @std/assert 1.0.19: the assertions this project uses, with the original's
// signatures and meaning. See ../README.md.

import { inspect } from "node:util";
import { equal } from "./equal.ts";

export { equal };

/** Any constructor. */
// deno-lint-ignore no-explicit-any
export type AnyConstructor = new (...args: any[]) => any;
/** The instance type of a constructor. */
export type GetConstructorType<T extends AnyConstructor> = InstanceType<T>;
/** A value as `assertArrayIncludes` takes it. */
export type ArrayLikeArg<T> = ArrayLike<T> & object;
/** A value that is falsy. */
export type Falsy = false | 0 | 0n | "" | null | undefined;

/** Error thrown when an assertion fails. */
export class AssertionError extends Error {
  /**
   * @param message The error message.
   * @param options Additional options.
   */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "AssertionError";
  }
}

function suffix(msg: string | undefined): string {
  return msg ? `: ${msg}` : ".";
}

function format(value: unknown): string {
  return inspect(value, {
    depth: Infinity,
    sorted: true,
    maxArrayLength: 200,
    compact: false,
  });
}

/** `[Diff] Actual / Expected`, lines that differ marked with - and +. */
function difference(actual: unknown, expected: unknown): string {
  const bothStrings = typeof actual === "string" &&
    typeof expected === "string";
  const lines = (value: unknown) =>
    (bothStrings ? String(value) : format(value)).split("\n");
  const a = lines(actual);
  const b = lines(expected);
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  let tail = 0;
  while (
    tail < a.length - head && tail < b.length - head &&
    a[a.length - 1 - tail] === b[b.length - 1 - tail]
  ) tail++;
  return [
    "",
    "",
    "    [Diff] Actual / Expected",
    "",
    "",
    ...a.slice(0, head).map((line) => `    ${line}`),
    ...a.slice(head, a.length - tail).map((line) => `-   ${line}`),
    ...b.slice(head, b.length - tail).map((line) => `+   ${line}`),
    ...a.slice(a.length - tail).map((line) => `    ${line}`),
    "",
  ].join("\n");
}

/** Throws unless `expr` is truthy. */
export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) throw new AssertionError(msg);
}

/** Throws unless `expr` is falsy. */
export function assertFalse(expr: unknown, msg = ""): asserts expr is Falsy {
  if (expr) throw new AssertionError(msg);
}

/** Throws, always. */
export function fail(msg?: string): never {
  throw new AssertionError(`Failed assertion${suffix(msg)}`);
}

/** Throws: the line was to be unreachable. */
export function unreachable(reason?: string): never {
  throw new AssertionError(reason ?? "Unreachable");
}

/** Throws unless the values are deeply equal. */
export function assertEquals<T>(actual: T, expected: T, msg?: string): void {
  if (equal(actual, expected)) return;
  throw new AssertionError(
    `Values are not equal${suffix(msg)}${difference(actual, expected)}`,
  );
}

/** Throws if the values are deeply equal. */
export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void {
  if (!equal(actual, expected)) return;
  throw new AssertionError(
    `Expected actual: ${format(actual)} not to be: ${format(expected)}${
      suffix(msg)
    }`,
  );
}

/** Throws unless `Object.is(actual, expected)`. */
export function assertStrictEquals<T>(
  actual: unknown,
  expected: T,
  msg?: string,
): asserts actual is T {
  if (Object.is(actual, expected)) return;
  throw new AssertionError(
    format(actual) === format(expected)
      ? `Values have the same structure but are not reference-equal${
        suffix(msg)
      }\n\n${format(actual)}\n`
      : `Values are not strictly equal${suffix(msg)}${
        difference(actual, expected)
      }`,
  );
}

/** Throws if `Object.is(actual, expected)`. */
export function assertNotStrictEquals<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  if (!Object.is(actual, expected)) return;
  throw new AssertionError(
    `Expected "actual" to not be strictly equal to: ${format(actual)}${
      suffix(msg)
    }\n`,
  );
}

/** Throws unless the numbers differ by at most `tolerance` (default 1e-7 of `expected`). */
export function assertAlmostEquals(
  actual: number,
  expected: number,
  tolerance?: number,
  msg?: string,
): void {
  if (Object.is(actual, expected)) return;
  const limit = tolerance ??
    (Number.isFinite(expected) ? Math.abs(expected * 1e-7) : 1e-7);
  const delta = Math.abs(expected - actual);
  if (delta <= limit) return;
  const show = (n: number) => Number.isInteger(n) ? n : n.toExponential();
  throw new AssertionError(
    `Expected actual: "${show(actual)}" to be close to "${
      show(expected)
    }": delta "${show(delta)}" is greater than "${show(limit)}"${suffix(msg)}`,
  );
}

function assertOrder<T>(
  holds: boolean,
  actual: T,
  expected: T,
  relation: string,
  msg: string | undefined,
): void {
  if (holds) return;
  throw new AssertionError(
    msg ?? `Expect ${format(actual)} ${relation} ${format(expected)}`,
  );
}

/** Throws unless `actual > expected`. */
export function assertGreater<T>(actual: T, expected: T, msg?: string): void {
  assertOrder(actual > expected, actual, expected, ">", msg);
}

/** Throws unless `actual >= expected`. */
export function assertGreaterOrEqual<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  assertOrder(actual >= expected, actual, expected, ">=", msg);
}

/** Throws unless `actual < expected`. */
export function assertLess<T>(actual: T, expected: T, msg?: string): void {
  assertOrder(actual < expected, actual, expected, "<", msg);
}

/** Throws unless `actual <= expected`. */
export function assertLessOrEqual<T>(
  actual: T,
  expected: T,
  msg?: string,
): void {
  assertOrder(actual <= expected, actual, expected, "<=", msg);
}

/** Throws if `actual` is `undefined` or `null`. */
export function assertExists<T>(
  actual: T,
  msg?: string,
): asserts actual is NonNullable<T> {
  if (actual !== undefined && actual !== null) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to not be null or undefined${suffix(msg)}`,
  );
}

/** Throws unless `actual instanceof expectedType`. */
export function assertInstanceOf<T extends AnyConstructor>(
  actual: unknown,
  expectedType: T,
  msg = "",
): asserts actual is GetConstructorType<T> {
  if (actual instanceof expectedType) return;
  const name = actual === null
    ? "null"
    : typeof actual === "object"
    ? actual.constructor?.name ?? "Object"
    : typeof actual;
  throw new AssertionError(
    `Expected object to be an instance of "${expectedType.name}" but was "${name}"${
      suffix(msg)
    }`,
  );
}

/** Throws unless `actual` includes `expected`. */
export function assertStringIncludes(
  actual: string,
  expected: string,
  msg?: string,
): void {
  if (actual.includes(expected)) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to contain: "${expected}"${suffix(msg)}`,
  );
}

/** Throws unless `actual` holds every one of `expected`, compared deeply. */
export function assertArrayIncludes<T>(
  actual: ArrayLikeArg<T>,
  expected: ArrayLikeArg<T>,
  msg?: string,
): void {
  const present = Array.from(actual);
  const missing = Array.from(expected).filter((item) =>
    !present.some((other) => equal(item, other))
  );
  if (missing.length === 0) return;
  throw new AssertionError(
    `Expected actual: "${format(actual)}" to include: "${format(expected)}"${
      suffix(msg)
    }\nmissing: ${format(missing)}`,
  );
}

/** Throws unless `actual` matches `expected`. */
export function assertMatch(
  actual: string,
  expected: RegExp,
  msg?: string,
): void {
  if (expected.test(actual)) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to match: "${expected}"${suffix(msg)}`,
  );
}

/** Throws if `actual` matches `expected`. */
export function assertNotMatch(
  actual: string,
  expected: RegExp,
  msg?: string,
): void {
  if (!expected.test(actual)) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to not match: "${expected}"${suffix(msg)}`,
  );
}

/** The part of `actual` that has the shape of `expected`. */
function intersection(actual: unknown, expected: unknown): unknown {
  if (
    actual === null || typeof actual !== "object" || expected === null ||
    typeof expected !== "object" || actual instanceof RegExp
  ) {
    return actual;
  }
  if (actual instanceof Map && expected instanceof Map) {
    return new Map(
      [...actual].filter(([key]) => expected.has(key)).map((
        [key, value],
      ) => [key, intersection(value, expected.get(key))]),
    );
  }
  if (actual instanceof Set && expected instanceof Set) {
    return new Set([...actual].filter((item) => expected.has(item)));
  }
  const result: Record<PropertyKey, unknown> = {};
  for (const key of Reflect.ownKeys(actual)) {
    if (!(key in expected)) continue;
    if (Array.isArray(actual) && key === "length") continue;
    result[key] = intersection(
      (actual as Record<PropertyKey, unknown>)[key],
      (expected as Record<PropertyKey, unknown>)[key],
    );
  }
  return result;
}

/** Throws unless `actual` is a superset of `expected`, deeply. */
export function assertObjectMatch(
  // deno-lint-ignore no-explicit-any
  actual: Record<PropertyKey, any>,
  expected: Record<PropertyKey, unknown>,
  msg?: string,
): void {
  assertEquals(
    intersection(actual, expected),
    intersection(expected, expected),
    msg,
  );
}

/** Throws unless `error` is an `ErrorClass` whose message includes `msgMatches`. */
export function assertIsError<E extends Error = Error>(
  error: unknown,
  // deno-lint-ignore no-explicit-any
  ErrorClass?: abstract new (...args: any[]) => E,
  msgMatches?: string | RegExp,
  msg?: string,
): asserts error is E {
  if (!(error instanceof Error)) {
    throw new AssertionError(
      `Expected "error" to be an Error object${suffix(msg)}`,
    );
  }
  if (ErrorClass && !(error instanceof ErrorClass)) {
    throw new AssertionError(
      `Expected error to be instance of "${ErrorClass.name}", but was "${error.constructor?.name}"${
        suffix(msg)
      }`,
    );
  }
  const matches = !msgMatches ||
    (typeof msgMatches === "string"
      ? error.message.includes(msgMatches)
      : msgMatches.test(error.message));
  if (!matches) {
    throw new AssertionError(
      `Expected error message to include ${
        typeof msgMatches === "string"
          ? JSON.stringify(msgMatches)
          : String(msgMatches)
      }, but got ${JSON.stringify(error.message)}${suffix(msg)}`,
    );
  }
}

// deno-lint-ignore no-explicit-any
type ErrorConstructorOf<E> = abstract new (...args: any[]) => E;

/** The optional arguments of `assertThrows` and `assertRejects`, told apart. */
function expectation<E extends Error>(
  classOrMsg: ErrorConstructorOf<E> | string | undefined,
  includesOrMsg: string | undefined,
  msg: string | undefined,
): { Class?: ErrorConstructorOf<E>; includes?: string; msg?: string } {
  return typeof classOrMsg === "string"
    ? { msg: classOrMsg }
    : { Class: classOrMsg, includes: includesOrMsg, msg };
}

/** Throws unless `fn` throws; returns what it threw. */
export function assertThrows(fn: () => unknown, msg?: string): unknown;
/** Throws unless `fn` throws an `ErrorClass`, its message including `msgIncludes`. */
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  // deno-lint-ignore no-explicit-any
  ErrorClass: abstract new (...args: any[]) => E,
  msgIncludes?: string,
  msg?: string,
): E;
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  classOrMsg?: ErrorConstructorOf<E> | string,
  includesOrMsg?: string,
  msg?: string,
): unknown {
  const want = expectation(classOrMsg, includesOrMsg, msg);
  let thrown: { error: unknown } | undefined;
  try {
    fn();
  } catch (error) {
    thrown = { error };
  }
  if (!thrown) {
    throw new AssertionError(`Expected function to throw${suffix(want.msg)}`);
  }
  if (want.Class) {
    if (!(thrown.error instanceof Error)) {
      throw new AssertionError(
        `A non-Error object was thrown${suffix(want.msg)}`,
      );
    }
    assertIsError(thrown.error, want.Class, want.includes, want.msg);
  }
  return thrown.error;
}

/** Rejects unless the promise that `fn` returns rejects; resolves to the reason. */
export function assertRejects(
  fn: () => PromiseLike<unknown>,
  msg?: string,
): Promise<unknown>;
/** Rejects unless `fn`'s promise rejects with an `ErrorClass` including `msgIncludes`. */
export function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  // deno-lint-ignore no-explicit-any
  ErrorClass: abstract new (...args: any[]) => E,
  msgIncludes?: string,
  msg?: string,
): Promise<E>;
export async function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  classOrMsg?: ErrorConstructorOf<E> | string,
  includesOrMsg?: string,
  msg?: string,
): Promise<unknown> {
  const want = expectation(classOrMsg, includesOrMsg, msg);
  let promise: PromiseLike<unknown> | undefined;
  try {
    promise = fn();
  } catch {
    // Told below: a synchronous throw is not a rejection.
  }
  if (typeof promise?.then !== "function") {
    throw new AssertionError(
      `Function throws when expected to reject${suffix(want.msg)}`,
    );
  }
  let rejected: { error: unknown } | undefined;
  try {
    await promise;
  } catch (error) {
    rejected = { error };
  }
  if (!rejected) {
    throw new AssertionError(`Expected function to reject${suffix(want.msg)}`);
  }
  if (want.Class) {
    if (!(rejected.error instanceof Error)) {
      throw new AssertionError(
        `A non-Error object was rejected${suffix(want.msg)}`,
      );
    }
    assertIsError(rejected.error, want.Class, want.includes, want.msg);
  }
  return rejected.error;
}
