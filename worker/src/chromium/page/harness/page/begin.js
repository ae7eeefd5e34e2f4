// The harness: makes the calls of one contract, inside its page. The files of this folder are the
// parts of one function, in the order that `protocol.rs` gives. The worker evaluates it before the
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
//     failed     the call threw; a text, or a list of a text and a stack
//     notjson    the result has no JSON form; a text
//     toolarge   the result is over the limit
//     unknown    the contract has no such endpoint
//     later      the call's promise is pending
//     settled    the call's promise has settled; its result follows in a later reply
//     skipped    the call was not started
//     output     what the call has written so far: [DROPPED, [LINE, ...], UNKNOWN]; UNKNOWN lines
//                more may be this call's or another's
//     unknown-output
//                lines of which it is not known which call has written them, in the same form
//
// JSON text written by `stringify` has no line breaks. A reply is bounded: once it has `REPLY`
// characters, only the result that is being written is added.
(function (resultLimit) {
"use strict";
