// Describes what the contract has thrown. Nothing here may throw, whatever the contract has
// prepared.

// The text of a thrown value: that of an error with its causes; that of anything else.
function describe(thrown) {
  let text = "";
  let cause = thrown;
  for (let depth = 0; depth < CAUSES && text.length < TEXT; depth += 1) {
    text += (depth > 0 ? "; cause: " : "") + summary(cause);
    if (!isReadable(cause)) break;
    text += parts(read(cause, "errors"));
    cause = read(cause, "cause");
    if (cause === undefined || cause === thrown) break;
  }
  return apply(toWellFormed, apply(slice, text, [0, TEXT]), []);
}

// The errors that an AggregateError collects.
function parts(errors) {
  let text = "";
  try {
    if (!isArray(errors)) return "";
    for (let i = 0; i < errors.length && i < CAUSES; i += 1) {
      text += (i === 0 ? " [" : "; ") + summary(errors[i]);
    }
    if (text === "") return "";
    return text + (errors.length > CAUSES ? "; ...]" : "]");
  } catch {
    return text + "]";
  }
}

// The report of what the contract has thrown: its text, and its stack if it has one.
function failure(thrown) {
  const text = stringify(describe(thrown));
  const stack = stackOf(thrown);
  return stack === "" ? text : "[" + text + "," + stringify(stack) + "]";
}

// The calls in an error's stack, without the message before them. The worker reads the places in
// it; what else is there is left out.
function stackOf(thrown) {
  if (typeof thrown !== "object" || thrown === null) return "";
  const stack = read(thrown, "stack");
  if (typeof stack !== "string" || stack.length > READABLE) return "";
  const start = apply(indexOf, stack, ["\n    at "]);
  if (start < 0) return "";
  return apply(toWellFormed, apply(slice, stack, [start + 1, start + STACK]), []);
}

// Whether a thrown value has a message, as errors have.
function isReadable(thrown) {
  return (
    typeof thrown === "object" && thrown !== null && typeof read(thrown, "message") === "string"
  );
}

// One thrown value, without its causes.
function summary(thrown) {
  try {
    const text = isReadable(thrown) ? nameAndMessage(thrown) : plainText(thrown);
    return text.length > READABLE
      ? "Error: a text of " + text.length + " characters"
      : apply(slice, text, [0, TEXT]);
  } catch {
    return "Error: something was thrown that cannot be read";
  }
}

function nameAndMessage(error) {
  const message = toText(read(error, "message"));
  const name = read(error, "name");
  const shown = typeof name === "string" && name !== "" ? name : "Error";
  return message === "" ? shown : shown + ": " + message;
}

// What is thrown without a message: objects and lists as JSON, unless they have a text of their
// own; anything else as its text.
function plainText(thrown) {
  if (typeof thrown !== "object" || thrown === null) return toText(thrown);
  const own = read(thrown, "toString");
  if (own !== undefined && own !== objectToString && !isArray(thrown)) return toText(thrown);
  let json;
  try {
    json = write(thrown, TEXT);
  } catch (error) {
    if (error === TOO_LARGE) return "Error: an object of more than " + TEXT + " characters";
  }
  return typeof json === "string" ? json : toText(thrown);
}
