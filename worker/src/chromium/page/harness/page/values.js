// Writes results as JSON text, within the limit. Objects that JSON has no form for are written as
// the lists that they stand for; `docs/values.md` lists them.

let budget = 0; // Characters left for the text that is being written.

// Whether an object holds a string, as `new String("x")` does. The first two checks only avoid
// the exception for nearly all other objects: the length of a boxed string is not configurable.
function isBoxedString(object) {
  if (!hasOwn(object, "length")) return false;
  if (getOwnPropertyDescriptor(object, "length").configurable) return false;
  return accepts(valueOf, object);
}

// Whether a built-in method accepts an object as its `this`: whether the object is of that kind,
// whatever it calls itself.
function accepts(method, object) {
  try {
    apply(method, object, []);
    return true;
  } catch {
    return false;
  }
}

// The elements of something that counts how many there are.
function listOf(length, each) {
  if (length > budget) throw TOO_LARGE;
  const list = [];
  let index = 0;
  each((element) => {
    put(list, index, element);
    index += 1;
  });
  return list;
}

function elementsOf(array) {
  const length = apply(lengthOfArray, array, []);
  return listOf(length, (add) => {
    for (let i = 0; i < length; i += 1) add(array[i]);
  });
}

// The fewest characters that an element of a list takes as text, with its comma.
function leastLength(element) {
  if (typeof element === "string") return element.length + 3;
  return element === undefined ? 5 : 2;
}

// What an iterator has left. It may be endless.
function rest(iterator) {
  const next = iterator.next;
  return listOf(0, (add) => {
    let left = budget;
    for (;;) {
      const step = apply(next, iterator, []);
      if (step.done) return;
      const value = step.value;
      left -= leastLength(value);
      if (left < 0) throw TOO_LARGE;
      add(value);
    }
  });
}

// The name and the message of an error, and what it has in addition to other errors.
function fieldsOf(error) {
  const fields = { __proto__: null, name: error.name, message: error.message };
  if (hasOwn(error, "cause")) fields.cause = error.cause;
  if (hasOwn(error, "errors")) fields.errors = error.errors;
  const own = keys(error);
  for (let i = 0; i < own.length; i += 1) fields[own[i]] = error[own[i]];
  return fields;
}

// What is written instead of an object that is neither plain nor a list. The kind that an object
// names is only a hint: contracts may choose it.
function listed(object) {
  const kind = object[toStringTag];
  if (typeof kind !== "string") return isError(object) ? fieldsOf(object) : object;
  if (isView(object)) {
    if (!accepts(lengthOfView, object)) return elementsOf(object);
    const buffer = apply(bufferOfView, object, []);
    const offset = apply(offsetOfView, object, []);
    return elementsOf(new NativeUint8Array(buffer, offset, apply(lengthOfView, object, [])));
  }
  if (kind === "Map" && accepts(sizeOfMap, object)) {
    return listOf(apply(sizeOfMap, object, []), (add) => {
      apply(forEachOfMap, object, [(value, key) => add([key, value])]);
    });
  }
  if (kind === "Set" && accepts(sizeOfSet, object)) {
    return listOf(apply(sizeOfSet, object, []), (add) => {
      apply(forEachOfSet, object, [(value) => add(value)]);
    });
  }
  if (kind === "ArrayBuffer" && accepts(lengthOfBuffer, object)) {
    return elementsOf(new NativeUint8Array(object));
  }
  if (apply(isPrototypeOf, iteratorPrototype, [object])) return rest(object);
  return isError(object) ? fieldsOf(object) : object;
}

// Stops values that are small in memory but huge as text, such as an array whose elements are all
// one other array, whose elements are all a third. Called for every value that is about to be
// written. Counts at least a seventh of what is written, and never more.
function count(key, value) {
  const inList = isArray(this);
  let type = typeof value;
  let length = 1;
  if (type === "object" && value !== null && !isArray(value)) {
    if (isRawJSON(value)) {
      length = value.rawJSON.length;
    } else if (isBoxedString(value)) {
      value = toText(value);
      type = "string";
    } else {
      const prototype = getPrototypeOf(value);
      if (prototype !== objectPrototype && prototype !== null) value = listed(value);
    }
  } else if (type === "bigint") {
    value = toText(value);
    type = "string";
  }
  if (type === "object") {
    if (value === null) length = 4;
    // Each element has more than one character. The engine itself refuses the longest lists.
    else if (isArray(value) && value.length > budget) throw TOO_LARGE;
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

// Returns the JSON text of a value, of about `limit` characters at most; undefined if it has none.
function write(value, limit) {
  const type = typeof value;
  if (type === "string") {
    if (value.length > limit) throw TOO_LARGE;
    return stringify(value);
  }
  // Functions and BigInts may have a `toJSON`, too.
  if (value === null || (type !== "object" && type !== "function" && type !== "bigint")) {
    return stringify(value);
  }
  budget = limit + 4; // The value itself has no key.
  return stringify(value, count);
}

// What an asynchronous generator has left.
async function restLater(generator) {
  const list = [];
  let left = resultLimit;
  for (let index = 0; ; index += 1) {
    const step = await apply(nextOfAsyncGenerator, generator, []);
    if (step.done) return list;
    const value = step.value;
    left -= leastLength(value);
    if (left < 0) throw TOO_LARGE;
    put(list, index, value);
  }
}

function isAsyncGenerator(value) {
  return typeof value === "object" && apply(isPrototypeOf, asyncGeneratorPrototype, [value]);
}
