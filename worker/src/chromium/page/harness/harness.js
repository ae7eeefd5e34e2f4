// Makes the calls of one contract, inside its page. The worker evaluates this function before the
// contract's code. It holds the returned object by a debugger handle only: no name in the page leads
// to it.
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
//     skipped    the call was not started
//
// JSON text written by `stringify` has no line breaks.
(function (resultLimit) {
  "use strict";

  const SLICE = 5; // `run` starts no further call after so many milliseconds.
  const REPLY = 1 << 20; // `run` starts no further call once its reply has so many characters.
  const TEXT = 2000; // Most characters of an error's text.
  const ENDPOINTS = 1000; // Most endpoints of a contract.
  const NAME = 256; // Most characters of an endpoint's name.
  const NONE = -1;
  const TOO_LARGE = { __proto__: null };

  const { apply, ownKeys } = Reflect;
  const { create, defineProperty, freeze } = Object;
  const { isArray } = Array;
  const { parse, stringify } = JSON;
  const { now } = performance;
  const { slice, toWellFormed } = String.prototype;
  const { then } = Promise.prototype;
  const { isPrototypeOf } = Object.prototype;
  const clock = performance;
  const evaluate = eval;
  const toText = String;
  const NativePromise = Promise;
  const promisePrototype = Promise.prototype;

  let source = ""; // The pieces of the executable that have arrived.
  let contract; // `this` of every call.
  let endpoints = create(null); // Name to function.
  let running = NONE;
  let pending = 0;
  let ready = ""; // Lines for the next reply.
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
    return apply(toWellFormed, apply(slice, text, [0, TEXT]), []);
  }

  // Stops values that are small in memory but huge as text, such as an array whose elements are all
  // one other array, whose elements are all a third. Counts less than is really written.
  function count(key, value) {
    const type = typeof value;
    if (type !== "undefined" && type !== "function" && type !== "symbol") {
      budget -= isArray(this) ? 1 : key.length + 1;
      if (type === "string") budget -= value.length;
      if (budget < 0) throw TOO_LARGE;
    }
    return value;
  }

  function finish(id, value) {
    const type = typeof value;
    let json;
    try {
      if (type === "string" && value.length > resultLimit) throw TOO_LARGE;
      budget = resultLimit;
      json = type === "object" && value !== null ? stringify(value, count) : stringify(value);
    } catch (thrown) {
      if (thrown === TOO_LARGE) report(id, "toolarge");
      else report(id, "notjson", stringify(describe(thrown)));
      return;
    }
    if (json !== undefined) {
      // Counts UTF-16 units. A text has at most as many units as bytes, and the worker counts bytes.
      if (json.length > resultLimit) report(id, "toolarge");
      else report(id, "ok", json);
    } else if (type === "function" || type === "symbol") {
      report(id, "notjson", stringify("a " + type + " has no JSON form"));
    } else {
      report(id, "ok", "null");
    }
  }

  function isPromise(value) {
    if (value === null || (typeof value !== "object" && typeof value !== "function")) return false;
    return apply(isPrototypeOf, promisePrototype, [value]) || typeof value.then === "function";
  }

  // `await` looks up no method of a native promise. A thenable's `then` is the contract's own code.
  async function settle(id, value) {
    let result;
    let thrown;
    let fulfilled = false;
    try {
      result = await value;
      fulfilled = true;
    } catch (reason) {
      thrown = reason;
    }
    // A promise may settle after another call was terminated; `running` must keep naming that call.
    const before = running;
    running = id;
    if (fulfilled) finish(id, result);
    else report(id, "failed", stringify(describe(thrown)));
    running = before;
    pending -= 1;
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

  // Calls: [[id, method], [id, method, argument], ...].
  function run(text) {
    const calls = parse(text);
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

  // Returns the results of promises that have settled since the last reply; waits for the first one
  // if there is none. The own properties protect the promise: the debugger, which awaits it, finds
  // them instead of the contract's.
  function collect() {
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
      // After the comma a brace starts an object instead of a block. Nothing is added at the end, so
      // the source may end with a semicolon or a comment.
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

  return freeze({ __proto__: null, run, collect, status, feed, compile, load });
})
