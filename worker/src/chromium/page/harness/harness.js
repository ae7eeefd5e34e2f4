// Makes the calls of one contract, inside its page. The worker evaluates this function before any
// line of the contract, and holds the object that it returns by a debugger's handle alone: no name
// in the page leads here.
//
// The contract may change every built-in object afterwards. So everything that is needed is taken
// now, and what the language would look up by itself later is not used: no spread, destructuring,
// for-of or template, no methods of arrays, strings, maps or promises, no descriptor with a
// prototype. Strict code, so that neither `caller` nor a stack trace hands these functions out.
//
// In comes one JSON text; out goes one string, which is
//
//     RUNNING                    the call that is running; -1: none
//     ID KIND [JSON]             one line per call that has something to tell
//
// with these kinds: ok, its result; failed, notjson, a sentence; toolarge; unknown, no such endpoint;
// later, its promise is pending; skipped, not started. JSON text made by `stringify` has no line breaks.
(function (resultLimit) {
  "use strict";

  const SLICE = 5; // Milliseconds after which `run` starts no further call.
  const ANSWER = 1 << 20; // Characters of answer after which `run` starts no further call.
  const TEXT = 2000; // Characters of an error's text.
  const ENDPOINTS = 1000;
  const NAME = 256; // Characters of an endpoint's name.
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

  let source = ""; // What has arrived of the executable.
  let contract; // `this` of every call.
  let endpoints = create(null); // Name to function.
  let running = NONE;
  let pending = 0;
  let ready = ""; // Lines that no answer has carried yet.
  let budget = 0; // What is left for the result that is being written.
  let deliver; // Resolves the promise of `collect`.
  // The lines of the last answers: one that got lost on its way can be had again from `status`.
  const recent = ["", "", "", ""];
  let answers = 0;

  function answer() {
    const lines = ready;
    ready = "";
    recent[answers & 3] = lines;
    answers += 1;
    return running + lines;
  }

  function tell(id, kind, json) {
    ready += "\n" + id + " " + kind + (json === undefined ? "" : " " + json);
  }

  function read(object, key) {
    try {
      return object[key];
    } catch {
      return undefined;
    }
  }

  // What was thrown, as a sentence. Nothing in here may throw, whatever the contract prepared.
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

  // Stops values that are small in memory and endless on paper, such as one array that is all the
  // elements of another, which is all the elements of a third. Takes less than is really written.
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
      if (thrown === TOO_LARGE) tell(id, "toolarge");
      else tell(id, "notjson", stringify(describe(thrown)));
      return;
    }
    if (json !== undefined) {
      // In UTF-16 units, of which the text has at most as many as bytes: the worker counts those.
      if (json.length > resultLimit) tell(id, "toolarge");
      else tell(id, "ok", json);
    } else if (type === "function" || type === "symbol") {
      tell(id, "notjson", stringify("a " + type + " has no JSON form"));
    } else {
      tell(id, "ok", "null");
    }
  }

  function isPromise(value) {
    if (value === null || (typeof value !== "object" && typeof value !== "function")) return false;
    return apply(isPrototypeOf, promisePrototype, [value]) || typeof value.then === "function";
  }

  // `await` looks up no method of a native promise; a thenable's `then` is its own affair.
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
    // Promises may also settle after a call was ended from outside, which must stay known.
    const before = running;
    running = id;
    if (fulfilled) finish(id, result);
    else tell(id, "failed", stringify(describe(thrown)));
    running = before;
    pending -= 1;
    if (deliver !== undefined) {
      const resolve = deliver;
      deliver = undefined;
      deliverSoon(resolve);
    }
  }

  // Lets those come along that settle in the same breath.
  async function deliverSoon(resolve) {
    let length;
    do {
      length = ready.length;
      await undefined;
      await undefined;
    } while (ready.length !== length && ready.length < ANSWER);
    resolve(answer());
  }

  function start(id, call) {
    running = id;
    try {
      const endpoint = endpoints[call[1]];
      if (endpoint === undefined) {
        tell(id, "unknown");
      } else {
        const value = apply(endpoint, contract, call.length > 2 ? [call[2]] : []);
        if (isPromise(value)) {
          pending += 1;
          tell(id, "later");
          settle(id, value);
        } else {
          finish(id, value);
        }
      }
    } catch (thrown) {
      tell(id, "failed", stringify(describe(thrown)));
    }
    running = NONE;
  }

  // Calls: [[id, method], [id, method, argument], ...].
  function run(text) {
    const calls = parse(text);
    const end = apply(now, clock, []) + SLICE;
    const cut = running !== NONE; // The last one was ended from outside: this page is done for.
    for (let i = 0; i < calls.length; i += 1) {
      const call = calls[i];
      if (cut || (i > 0 && (ready.length > ANSWER || apply(now, clock, []) >= end))) {
        tell(call[0], "skipped");
      } else {
        start(call[0], call);
      }
    }
    return answer();
  }

  // What has settled since; waits for the first when nothing has. Own properties keep the promise
  // out of reach: whoever awaits it finds these instead of the contract's.
  function collect() {
    if (ready !== "" || pending === 0) return answer();
    const promise = new NativePromise((resolve) => {
      deliver = resolve;
    });
    defineProperty(promise, "then", { __proto__: null, value: then });
    defineProperty(promise, "constructor", { __proto__: null, value: undefined });
    return promise;
  }

  // Everything that may not have arrived. Asked when a page does not answer any more.
  function status() {
    let text = "" + running;
    for (let i = 0; i < 4; i += 1) text += recent[(answers + i) & 3];
    return text + ready;
  }

  // Makes the own functions of the contract's object its endpoints: "endpoints [NAMES]" or "none".
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

  // Takes the next piece of the executable; gives how much there is.
  function feed(piece) {
    source += piece;
    return "" + source.length;
  }

  // Evaluates the executable: an object literal, or a script that defines `init`. Adds "threw TEXT"
  // to the answers of `adopt`. An indirect eval, so it is global code; `init` is looked up within,
  // where also a `const` is seen.
  function load(isLiteral) {
    try {
      // The comma makes the brace an object's and not a block's, and leaves the end of the source
      // alone: a semicolon and comments may stand there.
      if (isLiteral) return adopt(evaluate("0," + source));
      const init = evaluate(source + '\n;[typeof init === "function" ? init : undefined]')[0];
      return init === undefined ? "none" : adopt(apply(init, undefined, []));
    } catch (thrown) {
      return "threw " + stringify(describe(thrown));
    }
  }

  return freeze({ __proto__: null, run, collect, status, feed, load });
})
