// The orders of a small shop. Its endpoints are asynchronous: a call is answered with the value
// that the Promise resolves to, or with the error that rejects it. Amounts are whole cents.

const prices = { apple: 40, bread: 320, coffee: 890 }
const orders = new Map()

class OrderError extends Error {
  name = 'OrderError'
}

// A real shop would ask another service for the price.
async function priceOf(item) {
  if (!Object.hasOwn(prices, item)) {
    throw new OrderError(`no such item: ${item}`)
  }
  return prices[item]
}

async function amountOf(line) {
  const { item, quantity } = line ?? {}
  if (!Number.isInteger(quantity) || quantity < 1 || quantity > 1000) {
    throw new OrderError(`quantity of ${item} must be 1 to 1000`)
  }
  return quantity * (await priceOf(item))
}

function find(id) {
  const order = orders.get(id)
  if (order === undefined) {
    throw new OrderError(`no such order: ${id}`)
  }
  return order
}

// Returns the price of [{ item, quantity }, ...].
async function quote(lines) {
  if (!Array.isArray(lines) || lines.length === 0) {
    throw new OrderError('an order is a list of at least one { item, quantity }')
  }
  const amounts = await Promise.all(lines.map(amountOf))
  return amounts.reduce((sum, amount) => sum + amount, 0)
}

// Stores nothing when any line of the order is invalid.
async function place(lines) {
  const total = await quote(lines)
  const order = { id: orders.size + 1, total, paid: false }
  orders.set(order.id, order)
  return order
}

async function pay(payment) {
  const { id, amount } = payment ?? {}
  const order = find(id)
  if (order.paid) {
    throw new OrderError(`order ${id} is paid already`)
  }
  if (amount !== order.total) {
    throw new OrderError(`order ${id} costs ${order.total}, not ${amount}`)
  }
  order.paid = true
  return order
}

async function get(id) {
  return find(id)
}

function init() {
  return { quote, place, pay, get }
}
