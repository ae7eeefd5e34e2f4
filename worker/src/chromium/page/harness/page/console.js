// The page's console. What a contract writes is kept only for calls whose callers asked for it; for
// all others a method of the console returns at once. Lines leave with the outcome of their call,
// never by themselves.
//
// A line belongs to the call that runs. After an `await` no call runs: then it belongs to the only
// pending call, if there is one. Otherwise it is not known whose it is. Such lines leave with the
// next outcome of a call, but apart from its own: they may be what another caller must not see.

const LINE = 2048; // Most characters of a line.
const OUTPUT = 1 << 14; // Most characters of all lines of a call. Older ones are dropped.
const UNKNOWN = 100; // Most lines that leave together and of which it is not known whose they are.
const LABELS = 100; // Most timers and counters.

let outputs = create(null); // The output of each call that keeps some, by its id.
let kept = 0; // How many there are.
let unknownOutput = newOutput(UNKNOWN); // Lines of which it is not known whose they are.
let unknownLines = 0; // How many of those were written.
let printing = false; // An argument that is printed may print, too.
const timers = create(null);
const counters = create(null);
let labels = 0;

// Room for the last lines, so many.
function newOutput(room) {
  return { __proto__: null, lines: create(null), first: 0, next: 0, length: 0, room, before: 0 };
}

// From here on the lines of a call are kept.
function keepOutput(id, room) {
  const output = newOutput(room);
  output.before = unknownLines;
  outputs[id] = output;
  kept += 1;
}

// Ends it, and reports the lines if there are any.
function reportOutput(id) {
  if (unknownOutput.next > 0) {
    report(id, "unknown-output", textOf(unknownOutput, 0));
    unknownOutput = newOutput(UNKNOWN);
  }
  const output = outputs[id];
  if (output === undefined) return;
  delete outputs[id];
  kept -= 1;
  const unknown = unknownLines - output.before;
  if (output.next > 0 || unknown > 0) report(id, "output", textOf(output, unknown));
}

// [DROPPED,[LINE, ...],UNKNOWN]
function textOf(output, unknown) {
  const list = [];
  for (let i = output.first; i < output.next; i += 1) put(list, list.length, output.lines[i]);
  return "[" + output.first + "," + stringify(list) + "," + unknown + "]";
}

// What the calls that have not ended have written so far: lines of a reply.
function openOutputs() {
  let text = "";
  if (kept === 0) return text;
  const ids = ownKeys(outputs);
  for (let i = 0; i < ids.length && text.length < REPLY; i += 1) {
    const output = outputs[ids[i]];
    const unknown = unknownLines - output.before;
    if (output.next > 0 || unknown > 0) {
      text += "\n" + ids[i] + " output " + textOf(output, unknown);
    }
  }
  if (unknownOutput.next > 0) {
    const id = running === NONE ? ids[0] : running;
    text += "\n" + id + " unknown-output " + textOf(unknownOutput, 0);
  }
  return text;
}

// The output that a line belongs to; undefined if that of its call is not kept. The outcome of a
// call that is not pending any more may wait for room in a reply.
function currentOutput() {
  if (running !== NONE) return outputs[running];
  if (pending === 1 && kept === 1 && first === undefined) return outputs[ownKeys(outputs)[0]];
  unknownLines += 1;
  return unknownOutput;
}

function print(values) {
  if (kept === 0 || printing) return;
  const output = currentOutput();
  if (output === undefined) return;
  printing = true;
  const left = budget; // A result that is being written may print.
  try {
    const text = formatted(values);
    append(output, apply(toWellFormed, apply(slice, text, [0, LINE]), []));
  } finally {
    budget = left;
    printing = false;
  }
}

function append(output, line) {
  output.lines[output.next] = line;
  output.next += 1;
  output.length += line.length;
  while (output.next - output.first > output.room || output.length > OUTPUT) {
    output.length -= output.lines[output.first].length;
    delete output.lines[output.first];
    output.first += 1;
  }
}

// The values of one line. A first text with `%s` and the like takes the next values.
function formatted(values) {
  let text = "";
  let i = 0;
  if (values.length > 1 && typeof values[0] === "string") {
    const format = values[0];
    let from = 0;
    i = 1;
    while (i < values.length && text.length < LINE) {
      const at = apply(indexOf, format, ["%", from]);
      if (at < 0) break;
      const kind = apply(slice, format, [at + 1, at + 2]);
      text += apply(slice, format, [from, at]);
      from = at + 2;
      if (kind === "%") text += "%";
      else if (kind === "" || apply(indexOf, "sdifoOjc", [kind]) < 0) text += "%" + kind;
      else {
        if (kind !== "c") text += shown(values[i]);
        i += 1;
      }
    }
    text += apply(slice, format, [from, from + LINE]);
  }
  for (; i < values.length && text.length < LINE; i += 1) {
    text += (i > 0 ? " " : "") + shown(values[i]);
  }
  return text;
}

// One value: a text as it is, an error as it would be reported, anything else as a result.
function shown(value) {
  try {
    if (typeof value === "string") return apply(slice, value, [0, LINE]);
    if (typeof value === "object" && value !== null) {
      return isReadable(value) ? describe(value) : write(value, LINE) || "undefined";
    }
    return apply(slice, toText(value), [0, LINE]);
  } catch (thrown) {
    return thrown === TOO_LARGE ? "(over " + LINE + " characters)" : "(unreadable)";
  }
}

// A list with one more element in front.
function after(first, values) {
  const list = [first];
  for (let i = 0; i < values.length; i += 1) put(list, i + 1, values[i]);
  return list;
}

function labelOf(label) {
  return label === undefined ? "default" : apply(slice, shown(label), [0, NAME]);
}

function setLabel(table, name, value) {
  if (!(name in table)) {
    if (labels >= LABELS) return;
    labels += 1;
  }
  table[name] = value;
}

function removeLabel(table, name) {
  if (!(name in table)) return;
  delete table[name];
  labels -= 1;
}

function printElapsed(name, values) {
  if (name in timers) {
    const took = apply(now, clock, []) - timers[name];
    print(after(name + ": " + apply(toFixed, took, [3]) + " ms", values));
  }
}

// The methods of the console, by name. While nobody reads, none of them looks at its arguments.
const methods = {
  __proto__: null,
  assert(condition, ...values) {
    if (kept > 0 && !condition) print(after("Assertion failed", values));
  },
  count(label) {
    if (kept === 0) return;
    const name = labelOf(label);
    setLabel(counters, name, (counters[name] || 0) + 1);
    print([name + ": " + counters[name]]);
  },
  countReset(label) {
    if (kept > 0) removeLabel(counters, labelOf(label));
  },
  time(label) {
    if (kept > 0) setLabel(timers, labelOf(label), apply(now, clock, []));
  },
  timeLog(label, ...values) {
    if (kept > 0) printElapsed(labelOf(label), values);
  },
  timeEnd(label) {
    if (kept === 0) return;
    const name = labelOf(label);
    printElapsed(name, []);
    removeLabel(timers, name);
  },
  trace(...values) {
    if (kept > 0) print(after("Trace:", values));
  },
  clear() {},
  groupEnd() {},
  profile() {},
  profileEnd() {},
  timeStamp() {},
};

// Gives the page this console. The browser's own one would keep what is written.
function installConsole() {
  const own = {};
  const names = [
    "debug", "dir", "dirxml", "error", "group", "groupCollapsed", "info", "log", "table", "warn",
  ];
  for (let i = 0; i < names.length; i += 1) {
    // A method of its own for each name, as in browsers.
    own[names[i]] = { [names[i]](...values) { print(values); } }[names[i]];
  }
  const others = ownKeys(methods);
  for (let i = 0; i < others.length; i += 1) own[others[i]] = methods[others[i]];
  defineProperty(page, "console", {
    __proto__: null,
    value: own,
    writable: true,
    enumerable: false,
    configurable: true,
  });
}

installConsole();
