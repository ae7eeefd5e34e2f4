// Makes the calls of one contract, inside its page. The worker evaluates this function before the
// contract's code. It holds the returned object by a debugger handle only: no name in the page
// leads to it.
//
// The contract may later change every built-in object. So the built-ins that are needed are saved
// here at the start, and language features that look up built-ins implicitly are not used: no
// spread, destructuring, for-of or template literals; no methods of arrays, strings, maps or
// promises; no property descriptors with a prototype. The code is strict, so that neither `caller`
// nor a stack trace exposes these functions.
//
// The input is one JSON text. The output is one string:
//
//     RUNNING                    the call that is running; -1: none
//     ID KIND [JSON]             one line for each call with an update
//
// The kinds are:
//
//     ok         the call's result
//     failed     the call threw; a text
//     notjson    the result has no JSON form; a text
//     toolarge   the result is over the limit
//     unknown    the contract has no such endpoint
//     later      the call's promise is pending
//     settled    the call's promise has settled; its result follows in a later reply
//     skipped    the call was not started
//
// JSON text written by `stringify` has no line breaks. A reply is bounded: once it has `REPLY`
// characters, only the result that is being written is added.
(function (resultLimit) {
  "use strict";

  const SLICE = 5; // `run` starts no further call after so many milliseconds.
  const REPLY = 1 << 20; // A reply takes no further result once it has so many characters.
  const TEXT = 2000; // Most characters of an error's text.
  const READABLE = 1 << 24; // A longer text is not read: copying it could exhaust the heap.
  const ENDPOINTS = 1000; // Most endpoints of a contract.
  const NAME = 256; // Most characters of an endpoint's name.
  const NAMES = 1 << 16; // Most characters of all names of endpoints.
  const NONE = -1;
  const TOO_LARGE = { __proto__: null };

  const { apply, ownKeys } = Reflect;
  const { create, defineProperty, freeze, getOwnPropertyDescriptor, hasOwn } = Object;
  const { isArray } = Array;
  const { isRawJSON, parse, stringify } = JSON;
  const { now } = performance;
  const { isWellFormed, slice, toWellFormed, valueOf } = String.prototype;
  const { then } = Promise.prototype;
  const { isPrototypeOf } = Object.prototype;
  const clock = performance;
  const evaluate = eval;
  const toText = String;
  const NativePromise = Promise;
  const promisePrototype = Promise.prototype;

  let source = ""; // The pieces of the executable that have arrived.
  let incoming = ""; // The pieces of a message that have arrived.
  let taken; // The calls of the message that arrived in pieces.
  let contract; // `this` of every call.
  let endpoints = create(null); // Name to function.
  let running = NONE;
  let pending = 0;
  let ready = ""; // Lines for the next reply.
  let first; // Settled promises whose results wait for room in a reply: a linked list.
  let last;
  let budget = 0; // Characters left for the result that is being written.
  let deliver; // Resolves the promise of `collect`.
  // The lines of the last replies: `status` repeats them, in case one did not arrive.
  const recent = ["", "", "", ""];
  let replies = 0;

  function reply() {
    const lines = ready;
    ready = "";
    recent[replies & 3] = lines;
    replies += 1;
    return running + lines;
  }

  function report(id, kind, json) {
    ready += "\n" + id + " " + kind + (json === undefined ? "" : " " + json);
  }

  function read(object, key) {
    try {
      return object[key];
    } catch {
      return undefined;
    }
  }

  // Describes a thrown value in a text. Must not throw, whatever the contract has prepared.
  function describe(thrown) {
    let text;
    try {
      if (typeof thrown === "object" && thrown !== null) {
        const message = read(thrown, "message");
        const name = read(thrown, "name");
        if (typeof message === "string") {
          text = typeof name === "string" && name !== "" ? name : "Error";
          if (message !== "") text += ": " + message;
        }
      }
      if (text === undefined) text = toText(thrown);
    } catch {
      text = "Error: something was thrown that cannot be read";
    }
    if (text.length > READABLE) text = "Error: a text of " + text.length + " characters";
    return apply(toWellFormed, apply(slice, text, [0, TEXT]), []);
  }

  // Whether an object holds a string, as `new String("x")` does. The first two checks only avoid
  // the exception for nearly all other objects: the length of a boxed string is not configurable.
  function isBoxedString(object) {
    if (!hasOwn(object, "length")) return false;
    if (getOwnPropertyDescriptor(object, "length").configurable) return false;
    try {
      apply(valueOf, object, []);
      return true;
    } catch {
      return false;
    }
  }

  // Stops values that are small in memory but huge as text, such as an array whose elements are all
  // one other array, whose elements are all a third. Called for every value that is about to be
  // written. Counts at least a seventh of what is written, and never more.
  function count(key, value) {
    const inList = isArray(this);
    let type = typeof value;
    let length = 1;
    if (type === "object") {
      if (value === null) {
        length = 4;
      } else if (isArray(value)) {
        // Each element has more than one character. The engine itself refuses the longest lists.
        if (value.length > budget) throw TOO_LARGE;
      } else if (isRawJSON(value)) {
        length = value.rawJSON.length;
      } else if (isBoxedString(value)) {
        value = toText(value);
        type = "string";
      }
    } else if (type === "number") {
      if ((value | 0) !== value) length = 3;
    } else if (type === "undefined" || type === "function" || type === "symbol") {
      if (!inList) return value; // Left out.
      length = 4;
    }
    if (type === "string") length = value.length + 2;
    budget -= length + (inList ? 1 : key.length + 4);
    if (budget < 0) throw TOO_LARGE;
    return value;
  }

  // Returns the JSON text of a result; undefined if it has none.
  function write(value, type) {
    if (type === "string") {
      if (value.length > resultLimit) throw TOO_LARGE;
      return stringify(value);
    }
    // Functions and BigInts may have a `toJSON`, too.
    if (value === null || (type !== "object" && type !== "function" && type !== "bigint")) {
      return stringify(value);
    }
    budget = resultLimit + 4; // The value itself has no key.
    return stringify(value, count);
  }

  function finish(id, value) {
    const type = typeof value;
    let json;
    try {
      json = write(value, type);
    } catch (thrown) {
      if (thrown === TOO_LARGE) report(id, "toolarge");
      else report(id, "notjson", stringify(describe(thrown)));
      return;
    }
    if (json !== undefined) {
      // Counts UTF-16 units. A text has at most as many units as bytes, which the worker counts.
      if (json.length > resultLimit) report(id, "toolarge");
      // Only raw JSON can have a lone surrogate that is not escaped. No message could carry it.
      else if (!apply(isWellFormed, json, [])) report(id, "notjson", '"it is not well-formed"');
      else report(id, "ok", json);
    } else if (type === "function" || type === "symbol") {
      report(id, "notjson", stringify("a " + type + " has no JSON form"));
    } else {
      report(id, "ok", "null");
    }
  }

  // Writes the outcome of a promise.
  function conclude(id, fulfilled, value) {
    // A promise may settle after another call was terminated; `running` must keep naming that call.
    const before = running;
    running = id;
    if (fulfilled) finish(id, value);
    else report(id, "failed", stringify(describe(value)));
    running = before;
  }

  // Writes the results that wait, as long as the reply has room.
  function flush() {
    while (first !== undefined && ready.length < REPLY) {
      const settled = first;
      first = settled.next;
      if (first === undefined) last = undefined;
      conclude(settled.id, settled.fulfilled, settled.value);
    }
  }

  function isPromise(value) {
    if (value === null || (typeof value !== "object" && typeof value !== "function")) return false;
    return apply(isPrototypeOf, promisePrototype, [value]) || typeof value.then === "function";
  }

  // `await` looks up no method of a native promise. A thenable's `then` is the contract's own code.
  async function settle(id, value) {
    let outcome;
    let fulfilled = false;
    try {
      outcome = await value;
      fulfilled = true;
    } catch (reason) {
      outcome = reason;
    }
    pending -= 1;
    if (first === undefined && ready.length < REPLY) {
      conclude(id, fulfilled, outcome);
    } else {
      const settled = { id, fulfilled, value: outcome, next: undefined };
      if (first === undefined) first = settled;
      else last.next = settled;
      last = settled;
      report(id, "settled");
    }
    if (deliver !== undefined) {
      const resolve = deliver;
      deliver = undefined;
      deliverSoon(resolve);
    }
  }

  // Yields until no more promises settle in the same turn, so that their results join the reply.
  async function deliverSoon(resolve) {
    let length;
    do {
      length = ready.length;
      await undefined;
      await undefined;
    } while (ready.length !== length && ready.length < REPLY);
    resolve(reply());
  }

  function start(id, call) {
    running = id;
    try {
      const endpoint = endpoints[call[1]];
      if (endpoint === undefined) {
        report(id, "unknown");
      } else {
        const value = apply(endpoint, contract, call.length > 2 ? [call[2]] : []);
        if (isPromise(value)) {
          pending += 1;
          report(id, "later");
          settle(id, value);
        } else {
          finish(id, value);
        }
      }
    } catch (thrown) {
      report(id, "failed", stringify(describe(thrown)));
    }
    running = NONE;
  }

  // Appends the next piece of a message. With its last piece the message is parsed.
  function take(piece, isLast) {
    incoming += piece;
    if (isLast) {
      const text = incoming;
      incoming = "";
      taken = parse(text);
    }
    return "";
  }

  // Starts the calls of a message: [[id, method], [id, method, argument], ...]. Without a text it
  // is the one that was taken.
  function run(text) {
    const calls = text === undefined ? taken : parse(text);
    taken = undefined;
    const end = apply(now, clock, []) + SLICE;
    const terminated = running !== NONE; // A call was terminated: this page is not used any more.
    for (let i = 0; i < calls.length; i += 1) {
      const call = calls[i];
      if (terminated || (i > 0 && (ready.length > REPLY || apply(now, clock, []) >= end))) {
        report(call[0], "skipped");
      } else {
        start(call[0], call);
      }
    }
    return reply();
  }

  // Returns results of promises that have settled since the last reply, as many as a reply may
  // hold; waits for the first one if there is none. The own properties protect the promise: the
  // debugger, which awaits it, finds them instead of the contract's.
  function collect() {
    flush();
    if (ready !== "" || pending === 0) return reply();
    const promise = new NativePromise((resolve) => {
      deliver = resolve;
    });
    defineProperty(promise, "then", { __proto__: null, value: then });
    defineProperty(promise, "constructor", { __proto__: null, value: undefined });
    return promise;
  }

  // Returns everything that may not have arrived. The worker asks for it when a limit has passed.
  function status() {
    let text = "" + running;
    for (let i = 0; i < 4; i += 1) text += recent[(replies + i) & 3];
    return text + ready;
  }

  // Takes the own functions of the contract's object as endpoints: "endpoints [NAMES]" or "none".
  // Further ones are ignored once the limits are reached.
  function adopt(object) {
    if (typeof object !== "object" || object === null) return "none";
    const table = create(null);
    const keys = ownKeys(object);
    let names = "";
    let found = 0;
    for (let i = 0; i < keys.length && found < ENDPOINTS; i += 1) {
      const name = keys[i];
      if (typeof name !== "string" || name.length > NAME) continue;
      if (apply(toWellFormed, name, []) !== name) continue;
      const endpoint = object[name];
      if (typeof endpoint !== "function") continue;
      if (names.length + name.length > NAMES) break;
      table[name] = endpoint;
      names += (found > 0 ? "," : "") + stringify(name);
      found += 1;
    }
    if (found === 0) return "none";
    contract = object;
    endpoints = table;
    return "endpoints [" + names + "]";
  }

  // Appends the next piece of the executable; returns the length so far.
  function feed(piece) {
    source += piece;
    return "" + source.length;
  }

  // Evaluates the executable: an object literal, or a script that defines `init`. Returns what
  // `adopt` returns, or "threw TEXT". The indirect eval makes it global code. `init` is looked up
  // inside the eval, where a `const` is visible, too.
  function load(isLiteral) {
    try {
      // After the comma a brace starts an object instead of a block. Nothing is added at the end,
      // so the source may end with a semicolon or a comment.
      if (isLiteral) return adopt(evaluate("0," + source));
      const init = evaluate(source + '\n;[typeof init === "function" ? init : undefined]')[0];
      return init === undefined ? "none" : adopt(apply(init, undefined, []));
    } catch (thrown) {
      return "threw " + stringify(describe(thrown));
    }
  }

  // Compiles the executable that was sent, and runs none of it: what is put before it throws first.
  // Nothing is caught, because only the debugger learns where a syntax error is.
  function compile(isLiteral) {
    evaluate("throw 0;" + (isLiteral ? "0," : "") + source);
  }

  return freeze({ __proto__: null, take, run, collect, status, feed, compile, load });
})
