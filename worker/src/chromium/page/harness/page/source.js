// Turns the executable into endpoints.
//
// The executable is the body of a function, as a module is in Node.js. So its declarations are its
// own, whatever names the page has: a `var status` of a script would be the page's `status`, which
// holds nothing but text.

let head = ""; // Comments and directives before the executable's first statement.
let body = ""; // The executable from there on.

Error.stackTraceLimit = FRAMES;

// How stacks name the executable: the last such comment in a source counts.
const URL_COMMENT = "\n//# sourceURL=contract.js";

// Appends the next piece of the executable: the arguments are IS-HEAD, PART, ....
function feed(parts) {
  const piece = join(parts, 1);
  if (parts[0]) head += piece;
  else body += piece;
  return "";
}

// The parameter that takes the value of an expression, and as many spaces.
const VALUE = "$executable$";
const SET_VALUE = "$executable$=";
const NO_VALUE = "             ";

// Compiles the executable, and runs none of it. What begins like an expression is one, if it
// compiles as such: a literal `{ a() {} }` could be a block, too. Nothing but a line break is added
// to the end, so the executable may end with a comment. The function returns a list of `init`,
// which may be a `const`, and of the expression's value.
function compile(mayBeExpression) {
  const init = '\n;return [typeof init === "function" ? init : undefined';
  if (mayBeExpression) {
    try {
      const end = init + ", " + VALUE + "]" + URL_COMMENT;
      return NativeFunction(VALUE, head + SET_VALUE + body + end);
    } catch {
      // It begins with a block, or does not compile at all.
    }
  }
  const start = mayBeExpression ? NO_VALUE : "";
  return NativeFunction(head + start + body + init + "]" + URL_COMMENT);
}

// Throws the syntax error of an executable that does not compile; runs none of it. Unlike an error
// of `compile`, it has the text and the place that it would have in a file. Nothing is caught,
// because only the debugger learns the place.
function locate(mayBeExpression) {
  evaluate(head + "throw 0;" + (mayBeExpression ? "0," : "") + body);
}

function syntaxError(mayBeExpression, thrown) {
  try {
    locate(mayBeExpression);
  } catch (located) {
    if (located !== 0) return located;
  }
  return thrown;
}

// Runs the executable that was sent. The reply is one of
//
//     endpoints [NAMES]  and in a second line `schemas JSON`, if it has some
//     none               it ran, but defined no endpoints
//     invalid TEXT       it does not compile
//     threw TEXT         or a list of a text and a stack
function load(mayBeExpression) {
  return protect(loadLater(mayBeExpression));
}

async function loadLater(mayBeExpression) {
  let main;
  try {
    main = compile(mayBeExpression);
  } catch (thrown) {
    return "invalid " + stringify(describe(syntaxError(mayBeExpression, thrown)));
  }
  head = "";
  body = "";
  try {
    const returned = apply(main, page, []);
    let value = read(returned, 1);
    let init = read(returned, 0);
    for (;;) {
      const found = adopt(value);
      if (found !== "none") return found;
      if (isPromise(value)) {
        value = await value;
        // An asynchronous bundle may have assigned it meanwhile.
        if (init === undefined) init = page.init;
      } else if (typeof init === "function") {
        value = apply(init, undefined, []);
        init = null;
      } else {
        return "none";
      }
    }
  } catch (thrown) {
    return "threw " + failure(thrown);
  }
}

// Takes the own functions of the contract's object as endpoints. Further ones are ignored once the
// limits are reached, as are those that no request can name.
function adopt(object) {
  if (typeof object !== "object" || object === null) return "none";
  const table = create(null);
  const own = ownKeys(object);
  let names = "";
  let found = 0;
  for (let i = 0; i < own.length && found < ENDPOINTS; i += 1) {
    const name = own[i];
    if (typeof name !== "string" || name === "" || name.length > NAME) continue;
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
  return "endpoints [" + names + "]" + schemasOf(object);
}

// The schemas that a contract has beside its endpoints.
function schemasOf(object) {
  const schemas = read(object, "schemas");
  if (typeof schemas !== "object" || schemas === null) return "";
  let json;
  try {
    json = write(schemas, SCHEMAS);
  } catch (thrown) {
    if (thrown !== TOO_LARGE) throw thrown;
  }
  if (json === undefined || json.length > SCHEMAS || !apply(isWellFormed, json, [])) {
    throw new NativeRangeError("schemas must be JSON of at most " + SCHEMAS + " bytes");
  }
  return "\nschemas " + json;
}
