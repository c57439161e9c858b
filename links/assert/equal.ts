// Stand-in for `equal` of @std/assert 1.0.19: deep equality as its documentation and tests
// state it.

/** Pairs already under comparison, so that cyclic values end. */
type Seen = Map<object, object>;

function sameConstructor(a: object, b: object): boolean {
  const nullOrObject = (c: unknown) => c === undefined || c === Object;
  return a.constructor === b.constructor ||
    nullOrObject(a.constructor) && nullOrObject(b.constructor);
}

function isPrimitive(value: unknown): boolean {
  return value === null ||
    typeof value !== "object" && typeof value !== "function";
}

function ownKeys(value: object): PropertyKey[] {
  const symbols = Object.getOwnPropertySymbols(value).filter((symbol) =>
    Object.prototype.propertyIsEnumerable.call(value, symbol)
  );
  return [...Object.keys(value), ...symbols];
}

function isNumericArray(value: object): value is Uint8Array {
  return ArrayBuffer.isView(value) && !(value instanceof DataView);
}

function equalElements(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i] && !(Number.isNaN(a[i]) && Number.isNaN(b[i]))) {
      return false;
    }
  }
  return true;
}

function equalSets(a: Set<unknown>, b: Set<unknown>, seen: Seen): boolean {
  if (a.size !== b.size) return false;
  const rest = new Set(b);
  for (const item of a) {
    if (rest.delete(item)) continue;
    if (isPrimitive(item)) return false;
    let found = false;
    for (const other of rest) {
      if (!compare(item, other, seen)) continue;
      rest.delete(other);
      found = true;
      break;
    }
    if (!found) return false;
  }
  return true;
}

function equalMaps(
  a: Map<unknown, unknown>,
  b: Map<unknown, unknown>,
  seen: Seen,
): boolean {
  if (a.size !== b.size) return false;
  const rest = new Map(b);
  for (const [key, value] of a) {
    if (isPrimitive(key) || rest.has(key)) {
      if (!rest.has(key) || !compare(value, rest.get(key), seen)) return false;
      rest.delete(key);
      continue;
    }
    let found = false;
    for (const [otherKey, otherValue] of rest) {
      if (!compare(key, otherKey, seen) || !compare(value, otherValue, seen)) {
        continue;
      }
      rest.delete(otherKey);
      found = true;
      break;
    }
    if (!found) return false;
  }
  return true;
}

function compare(a: unknown, b: unknown, seen: Seen): boolean {
  if (typeof a === "number" && typeof b === "number") {
    return a === b || Number.isNaN(a) && Number.isNaN(b);
  }
  if (Object.is(a, b)) return true;
  if (
    a === null || b === null || typeof a !== "object" || typeof b !== "object"
  ) {
    return false;
  }
  if (a instanceof Date && b instanceof Date) {
    return Object.is(a.getTime(), b.getTime());
  }
  if (
    a instanceof RegExp && b instanceof RegExp ||
    a instanceof URL && b instanceof URL
  ) {
    return String(a) === String(b);
  }
  if (!sameConstructor(a, b)) return false;
  for (const Weak of [WeakMap, WeakSet]) {
    if (a instanceof Weak) {
      throw new TypeError(`cannot compare ${Weak.name} instances`);
    }
  }
  if (a instanceof WeakRef && b instanceof WeakRef) {
    return compare(a.deref(), b.deref(), seen);
  }
  if (seen.get(a) === b) return true;
  if (isNumericArray(a) && isNumericArray(b)) return equalElements(a, b);
  seen.set(a, b);
  const keys = ownKeys(a);
  if (keys.length !== ownKeys(b).length) return false;
  if (a instanceof Set && b instanceof Set) return equalSets(a, b, seen);
  if (a instanceof Map && b instanceof Map) return equalMaps(a, b, seen);
  return keys.every((key) =>
    key in b &&
    compare(
      (a as Record<PropertyKey, unknown>)[key],
      (b as Record<PropertyKey, unknown>)[key],
      seen,
    )
  );
}

/**
 * Deep equality comparison used in assertions.
 *
 * @param c The actual value.
 * @param d The expected value.
 * @returns Whether the values are deeply equal.
 */
export function equal(c: unknown, d: unknown): boolean {
  return compare(c, d, new Map());
}
