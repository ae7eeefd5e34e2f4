// Makes the calls of a message, and reports their results.

let incoming = ""; // The pieces of a message that have arrived.
let taken; // The calls of the message that arrived in pieces.
let contract; // `this` of every call.
let endpoints = create(null); // Name to function.
let running = NONE;
let pending = 0;
let ready = ""; // Lines for the next reply.
let first; // Settled promises whose results wait for room in a reply: a linked list.
let last;
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

// Ends a call with what it has written.
function endCall(id, kind, json) {
  if (kept > 0) reportOutput(id);
  report(id, kind, json);
}

function report(id, kind, json) {
  ready += "\n" + id + " " + kind + (json === undefined ? "" : " " + json);
}

function finish(id, value) {
  const type = typeof value;
  let json;
  try {
    json = write(value, resultLimit);
  } catch (thrown) {
    if (thrown === TOO_LARGE) endCall(id, "toolarge");
    else endCall(id, "notjson", stringify(describe(thrown)));
    return;
  }
  if (json !== undefined) {
    // Counts UTF-16 units. A text has at most as many units as bytes, which the worker counts.
    if (json.length > resultLimit) endCall(id, "toolarge");
    // Only raw JSON can have a lone surrogate that is not escaped. No message could carry it.
    else if (!apply(isWellFormed, json, [])) endCall(id, "notjson", '"it is not well-formed"');
    else endCall(id, "ok", json);
  } else if (type === "function" || type === "symbol") {
    endCall(id, "notjson", stringify("a " + type + " has no JSON form"));
  } else {
    endCall(id, "ok", "null");
  }
}

// Writes the outcome of a promise.
function conclude(id, fulfilled, value) {
  // A promise may settle after another call was terminated; `running` must keep naming that call.
  const before = running;
  running = id;
  if (fulfilled) finish(id, value);
  else if (value === TOO_LARGE) endCall(id, "toolarge");
  else endCall(id, "failed", failure(value));
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
  if (call.length > 3) keepOutput(id, call[3]);
  try {
    const endpoint = endpoints[call[1]];
    if (endpoint === undefined) {
      endCall(id, "unknown");
    } else {
      const value = apply(endpoint, contract, call.length > 2 ? [call[2]] : []);
      if (isPromise(value)) {
        pending += 1;
        report(id, "later");
        settle(id, value);
      } else if (isAsyncGenerator(value)) {
        pending += 1;
        report(id, "later");
        settle(id, restLater(value));
      } else {
        finish(id, value);
      }
    }
  } catch (thrown) {
    endCall(id, "failed", failure(thrown));
  }
  running = NONE;
}

// The text of which some arguments, from this one on, are the parts.
function join(parts, from) {
  let text = "";
  for (let i = from; i < parts.length; i += 1) text += parts[i];
  return text;
}

// Appends the next piece of a message: the arguments are IS-LAST, PART, .... With its last
// piece the message is parsed.
function take(parts) {
  incoming += join(parts, 1);
  if (parts[0]) {
    const text = incoming;
    incoming = "";
    taken = parse(text);
  }
  return "";
}

// Starts the calls of a message: [[id, method], [id, method, argument], ...]. A fourth element is
// how many lines of the call's output are kept. Without a part it is the message that was taken.
function run(parts) {
  const calls = parts.length === 0 ? taken : parse(join(parts, 0));
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
// hold; waits for the first one if there is none.
function collect() {
  flush();
  if (ready !== "" || pending === 0) return reply();
  return protect(
    new NativePromise((resolve) => {
      deliver = resolve;
    }),
  );
}

// Returns everything that may not have arrived. The worker asks for it when a limit has passed.
function status() {
  let text = "" + running;
  for (let i = 0; i < 4; i += 1) text += recent[(replies + i) & 3];
  return text + ready + openOutputs();
}
