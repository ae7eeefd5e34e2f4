// The shortest form of a contract: one object literal whose functions are the endpoints. A literal
// has no variables of its own, so the count is a global. No other contract can see it.
{
  increment: () => (globalThis.count = (globalThis.count ?? 0) + 1),

  add: (n) => {
    if (!Number.isSafeInteger(n)) {
      throw new TypeError('add takes a whole number')
    }
    return (globalThis.count = (globalThis.count ?? 0) + n)
  },

  value: () => globalThis.count ?? 0,
}
