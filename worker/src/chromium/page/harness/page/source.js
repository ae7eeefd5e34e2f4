// Turns the executable into endpoints.
//
// The executable is the body of a function, as a module is in Node.js. So its declarations are its
// own, whatever names the page has: a `var status` of a script would be the page's `status`, which
// holds nothing but text.

let head = ""; // Comments and directives before the executable's first statement.
let body = ""; // The executable from there on.

// Appends the next piece of the executable.
function feed(piece, isHead) {
  if (isHead) head += piece;
  else body += piece;
  return "";
}

// Compiles the executable, and runs none of it. `isScript` tells how its function is to be used: a
// script returns a list with its `init`, which may be a `const`; an expression its value. Where
// the text could be both, such as a literal `{ a() {} }`, it is an expression.
function compile(mayBeExpression) {
  if (mayBeExpression) {
    try {
      // This compiles only if the body is one statement. Nothing but a line break is added to its
      // end, so it may end with a semicolon or a comment.
      NativeFunction(head + "do 0," + body + "\nwhile(0)");
      return { __proto__: null, main: NativeFunction(head + "return 0," + body), isScript: false };
    } catch {
      // It is a script, or nothing.
    }
  }
  const init = '\n;return [typeof init === "function" ? init : undefined]';
  return { __proto__: null, main: NativeFunction(head + body + init), isScript: true };
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

// Calls a function `init`; undefined if there is none.
function initialise(init) {
  return typeof init === "function" ? apply(init, undefined, []) : undefined;
}

// Runs the executable that was sent. The reply is one of
//
//     endpoints [NAMES]
//     none               it ran, but defined no endpoints
//     invalid TEXT       it does not compile
//     threw TEXT
function load(mayBeExpression) {
  return protect(loadLater(mayBeExpression));
}

async function loadLater(mayBeExpression) {
  let compiled;
  try {
    compiled = compile(mayBeExpression);
  } catch (thrown) {
    return "invalid " + stringify(describe(syntaxError(mayBeExpression, thrown)));
  }
  head = "";
  body = "";
  try {
    let value = apply(compiled.main, page, []);
    let mayAssignInit = true;
    if (compiled.isScript) {
      value = initialise(read(value, 0));
      mayAssignInit = false;
    }
    for (;;) {
      const found = adopt(value);
      if (found !== "none") return found;
      if (isPromise(value)) {
        value = await value;
      } else if (mayAssignInit) {
        // A bundle in one expression can only have assigned `globalThis.init`.
        mayAssignInit = false;
        value = initialise(page.init);
      } else {
        return "none";
      }
    }
  } catch (thrown) {
    return "threw " + stringify(describe(thrown));
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
  return "endpoints [" + names + "]";
}
