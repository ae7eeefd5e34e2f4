// The built-in objects as they were before the contract's code ran, and the limits of the harness.

const SLICE = 5; // `run` starts no further call after so many milliseconds.
const REPLY = 1 << 20; // A reply takes no further result once it has so many characters.
const TEXT = 2000; // Most characters of an error's text.
const READABLE = 1 << 24; // A longer text is not read: copying it could exhaust the heap.
const STACK = 8192; // Most characters of an error's stack.
const FRAMES = 20; // Calls that an error's stack has. The contract may choose another number.
const CAUSES = 8; // Most errors whose causes are named in a text.
const ENDPOINTS = 1000; // Most endpoints of a contract.
const NAME = 256; // Most characters of an endpoint's name.
const NAMES = 1 << 16; // Most characters of all names of endpoints.
const SCHEMAS = 1 << 16; // Most characters of the schemas of all endpoints.
const NONE = -1;
const TOO_LARGE = { __proto__: null };

const page = globalThis;
const { apply, ownKeys } = Reflect;
const { create, defineProperty, freeze, getOwnPropertyDescriptor, getPrototypeOf, hasOwn, keys } =
  Object;
const { isArray } = Array;
const { isView } = ArrayBuffer;
const { isError } = Error;
const { isRawJSON, parse, stringify } = JSON;
const { now } = performance;
const { indexOf, isWellFormed, slice, toWellFormed, valueOf } = String.prototype;
const { toFixed } = Number.prototype;
const { then } = Promise.prototype;
const { isPrototypeOf, toString: objectToString } = Object.prototype;
const { toStringTag } = Symbol;
const { forEach: forEachOfMap } = Map.prototype;
const { forEach: forEachOfSet } = Set.prototype;
const clock = performance;
const evaluate = eval;
const toText = String;
const NativeArrayBuffer = ArrayBuffer;
const NativeFunction = Function;
const NativePromise = Promise;
const NativeRangeError = RangeError;
const NativeUint8Array = Uint8Array;
const objectPrototype = Object.prototype;
const promisePrototype = Promise.prototype;
const iteratorPrototype = Iterator.prototype;
const asyncGeneratorPrototype = getPrototypeOf(async function* () {}).prototype;
const { next: nextOfAsyncGenerator } = asyncGeneratorPrototype;
const typedArrayPrototype = getPrototypeOf(NativeUint8Array.prototype);
const sizeOfMap = getterOf(Map.prototype, "size");
const sizeOfSet = getterOf(Set.prototype, "size");
const lengthOfArray = getterOf(typedArrayPrototype, "length");
const lengthOfBuffer = getterOf(ArrayBuffer.prototype, "byteLength");
const bufferOfView = getterOf(DataView.prototype, "buffer");
const lengthOfView = getterOf(DataView.prototype, "byteLength");
const offsetOfView = getterOf(DataView.prototype, "byteOffset");

function getterOf(object, name) {
  return getOwnPropertyDescriptor(object, name).get;
}

// Reads a field of a value that the contract made.
function read(object, key) {
  try {
    return object[key];
  } catch {
    return undefined;
  }
}

// Sets an element of a list of the harness. An assignment could run a setter of the contract.
function put(list, index, value) {
  defineProperty(list, index, {
    __proto__: null,
    value,
    writable: true,
    enumerable: true,
    configurable: true,
  });
}

// A promise for the debugger, which looks up `then` and `constructor` when it awaits one: it finds
// the own properties instead of what the contract has put into the prototype.
function protect(promise) {
  defineProperty(promise, "then", { __proto__: null, value: then });
  defineProperty(promise, "constructor", { __proto__: null, value: undefined });
  return promise;
}
