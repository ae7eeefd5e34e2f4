// Cloudflare's workerd: V8 isolates in one process, without a queue. Its contracts are known at
// start: it loads none while it runs. A first worker passes each call to the contract in its path.
//
//     node workerd.js PORT WORKERD FOLDER CONTRACT..

import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

const [port, program, folder, ...contracts] = process.argv.slice(2);

const router = `export default {
  fetch(request, env) {
    return env[new URL(request.url).pathname.split("/")[2]].fetch(request);
  },
};`;

const contract = (number) => `// ${number}
const contract = { add: ({ number1, number2 }) => number1 + number2 };
export default {
  async fetch(request) {
    const method = new URL(request.url).pathname.split("/")[3];
    return Response.json(await contract[method](await request.json()));
  },
};`;

const bindings = contracts.map((name) => `(name = "${name}", service = "${name}")`);
const service = (name, more) =>
  `(name = "${name}", worker = (modules = [(name = "main", esModule = embed "${name}.js")],
    compatibilityDate = "2026-01-01"${more}))`;
const services = [
  service("router", `, bindings = [${bindings.join(", ")}]`),
  ...contracts.map((name) => service(name, "")),
];
writeFileSync(join(folder, "router.js"), router);
contracts.forEach((name, number) => writeFileSync(join(folder, `${name}.js`), contract(number)));
const config = join(folder, "config.capnp");
writeFileSync(
  config,
  `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [${services.join(",\n")}],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "router")],
);
`,
);
const running = spawn(program, ["serve", config], { stdio: "inherit" });
running.on("exit", (code) => process.exit(code ?? 0));
process.on("SIGTERM", () => running.kill("SIGTERM"));
