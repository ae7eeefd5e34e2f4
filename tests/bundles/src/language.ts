// What compilers rewrite for older targets.

enum Kind { A = 1, B }

namespace Bank {
  export let total = 0;
  export function add(amount: number) {
    total += amount;
    return total;
  }
}

class Base {
  constructor(protected readonly x = 1) {}
}

class Derived extends Base {
  #y = 2;
  get() {
    return [this.x, this.#y, Kind[2], ...new Set([1, 2])];
  }
  static async *later() {
    yield 1;
    yield* [2, 3];
  }
}

function* up() {
  yield* [1, 2];
}

async function init() {
  return {
    run: async () => {
      const all: number[] = [];
      for await (const one of Derived.later()) all.push(one);
      return [new Derived().get(), Bank.add(2), all, [...up()], Kind.B];
    },
  };
}
