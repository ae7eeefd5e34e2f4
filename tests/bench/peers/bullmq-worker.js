// The worker of `bullmq-api.js`.
//
//     node bullmq-worker.js REDIS-PORT CHROMIUM [ARGUMENT..]

import { Worker } from "bullmq";

import { Pages } from "./pages.js";

// As many calls at a time as the benchmark has callers.
const CONCURRENCY = 256;

const [redisPort, chromium, ...browserArguments] = process.argv.slice(2);
const pages = await Pages.launch(chromium, browserArguments);
const work = ({ name, data }) =>
  name === "load"
    ? pages.load(data.contractAddress, data.executable)
    : pages.execute(data.address, data.method, data.argument);
const worker = new Worker("contracts", work, {
  connection: { host: "127.0.0.1", port: Number(redisPort) },
  concurrency: CONCURRENCY,
});
await worker.waitUntilReady();
process.on("SIGTERM", async () => {
  await worker.close(true);
  await pages.close();
  process.exit(0);
});
