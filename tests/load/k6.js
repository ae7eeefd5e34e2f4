// Puts load on a running farm with k6: loads an example contract, calls it at a constant rate, and
// unloads it.
//
//   k6 run --env URL=http://127.0.0.1:9000 --env RATE=500 tests/load/k6.js
//
// README.md in this folder lists the variables. The exit code is 0 when all thresholds hold.

import http from "k6/http";
import exec from "k6/execution";
import { check } from "k6";

const URL = (__ENV.URL || "http://127.0.0.1:9000").replace(/\/+$/, "");
const RATE = Number(__ENV.RATE || 200);
const DURATION = __ENV.DURATION || "30s";
const P95_MS = Number(__ENV.P95_MS || 100);
// An address that nothing else uses: the contract is unloaded at the end.
const ADDRESS = __ENV.ADDRESS || "k6-example";

const EXECUTABLE = "{ add: ({ number1, number2 }) => number1 + number2 }";
const JSON_BODY = { headers: { "Content-Type": "application/json" } };

export const options = {
  scenarios: {
    // Calls are due whether or not the earlier ones are answered, so that stalls cannot be hidden.
    calls: {
      executor: "constant-arrival-rate",
      rate: RATE,
      timeUnit: "1s",
      duration: DURATION,
      preAllocatedVUs: Math.max(10, Math.ceil(RATE / 10)),
      // Enough for each call to take two seconds.
      maxVUs: Math.max(20, RATE * 2),
    },
  },
  thresholds: {
    "http_req_failed{name:call}": ["rate==0"],
    "http_req_duration{name:call}": [`p(95)<${P95_MS}`],
    checks: ["rate==1"],
    // Calls that were due when no caller was free to send them.
    dropped_iterations: ["count==0"],
  },
  summaryTrendStats: ["min", "med", "p(90)", "p(95)", "p(99)", "max"],
};

function post(path, body, name) {
  return http.post(URL + path, JSON.stringify(body), { ...JSON_BODY, tags: { name } });
}

export function setup() {
  const load = { contractAddress: ADDRESS, executable: EXECUTABLE };
  const answer = post("/loadSmartContract", load, "load");
  if (answer.status !== 204) {
    exec.test.abort(`the contract cannot be loaded: ${answer.status} ${answer.body || answer.error}`);
  }
}

export default function () {
  const number1 = exec.scenario.iterationInTest;
  const answer = post(`/execute/${ADDRESS}/add`, { number1, number2: 2 }, "call");
  check(answer, {
    "status is 200": (r) => r.status === 200,
    "the result is its own": (r) => r.status === 200 && r.json("data") === number1 + 2,
  });
}

export function teardown() {
  post("/unloadSmartContract", { contractAddress: ADDRESS }, "unload");
}
