// The architecture that the farm replaces: one Node.js process with express and puppeteer, one page
// per contract, no queue. The interface is the farm's.
//
//     node express.js PORT CHROMIUM [ARGUMENT..]

import express from "express";

import { Pages } from "./pages.js";

const [port, chromium, ...browserArguments] = process.argv.slice(2);
const pages = await Pages.launch(chromium, browserArguments);
const app = express();
app.use(express.json({ strict: false, limit: "64mb" }));

app.post("/loadSmartContract", async (request, response) => {
  await pages.load(request.body.contractAddress, request.body.executable);
  response.status(204).end();
});

app.post("/execute/:address/:method", async (request, response) => {
  const { address, method } = request.params;
  response.json(await pages.execute(address, method, request.body));
});

app.get("/healthz", (_, response) => response.end());
app.listen(Number(port), "127.0.0.1");
process.on("SIGTERM", async () => {
  await pages.close();
  process.exit(0);
});
