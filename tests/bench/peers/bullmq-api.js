// What one would put together today: BullMQ between an express server and a worker with puppeteer.
// This is the server; `bullmq-worker.js` is the worker.
//
//     node bullmq-api.js PORT REDIS-PORT

import { Queue, QueueEvents } from "bullmq";
import express from "express";

// A job that is removed at once may be gone before its end is noticed, which fails the call.
const KEPT = { removeOnComplete: { count: 10_000 }, removeOnFail: { count: 10_000 } };

const [port, redisPort] = process.argv.slice(2);
const connection = { host: "127.0.0.1", port: Number(redisPort) };
const queue = new Queue("contracts", { connection });
const events = new QueueEvents("contracts", { connection });
events.setMaxListeners(0);
await events.waitUntilReady();
const app = express();
app.use(express.json({ strict: false, limit: "64mb" }));

async function ask(name, data) {
  const job = await queue.add(name, data, KEPT);
  return job.waitUntilFinished(events);
}

app.post("/loadSmartContract", async (request, response) => {
  await ask("load", request.body);
  response.status(204).end();
});

app.post("/execute/:address/:method", async (request, response) => {
  const { address, method } = request.params;
  response.json(await ask("execute", { address, method, argument: request.body }));
});

app.get("/healthz", (_, response) => response.end());
app.listen(Number(port), "127.0.0.1");
process.on("SIGTERM", () => process.exit(0));
