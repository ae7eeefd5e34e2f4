// A guessing game like that of Plutus: one caller locks an amount behind a secret word, and a
// caller who guesses the word gets the amount. This is the form with functions and `init`. The
// game's state is held in variables, which live as long as the contract's page.

const nothingLocked = { secret: null, amount: 0, guesses: 0 }
let game = { ...nothingLocked }

// Everything that a caller may know: all but the secret.
function publicState() {
  return { locked: game.secret !== null, amount: game.amount, guesses: game.guesses }
}

function initialise() {
  game = { ...nothingLocked }
  return publicState()
}

function lock(argument) {
  const { secret, amount } = argument ?? {}
  if (typeof secret !== 'string' || secret === '') {
    throw new TypeError('secret must be a word')
  }
  if (!Number.isSafeInteger(amount) || amount <= 0) {
    throw new RangeError('amount must be a whole number above 0')
  }
  if (game.secret !== null) {
    throw new Error(`${game.amount} is locked already; guess it first`)
  }
  game = { secret, amount, guesses: 0 }
  return publicState()
}

function guess(argument) {
  const word = argument?.guess
  if (typeof word !== 'string') {
    throw new TypeError('guess must be a word')
  }
  if (game.secret === null) {
    throw new Error('nothing is locked; call lock first')
  }
  game.guesses += 1
  if (word !== game.secret) {
    return { correct: false, guesses: game.guesses }
  }
  const won = { correct: true, guesses: game.guesses, paid: game.amount }
  game = { ...nothingLocked }
  return won
}

// The arguments of the endpoints as JSON Schemas; null where an endpoint takes no argument.
function schema() {
  return {
    initialise: null,
    lock: {
      type: 'object',
      properties: {
        secret: { type: 'string', minLength: 1 },
        amount: { type: 'integer', minimum: 1 },
      },
      required: ['secret', 'amount'],
    },
    guess: {
      type: 'object',
      properties: { guess: { type: 'string' } },
      required: ['guess'],
    },
    schema: null,
  }
}

function init() {
  return { initialise, lock, guess, schema }
}
