// Builds the bundles that `tests/e2e/bundles.rs` loads, and says for each what Node.js makes of it:
// one line `NAME JSON`. Its argument is the folder to write to.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { transformSync } from "@babel/core";
import { build } from "esbuild";
import ts from "typescript";

const folder = process.argv[2];
const source = (name) => new URL(`src/${name}`, import.meta.url).pathname;
mkdirSync(folder, { recursive: true });

async function bundle(name, options = {}) {
  const file = join(folder, `${name}.js`);
  await build({
    entryPoints: [source(options.entry ?? `${name}.js`)],
    bundle: true,
    format: "iife",
    target: "es2022",
    globalName: "bundle",
    footer: { js: "var init = bundle.init;" },
    loader: { ".wasm": "binary" },
    outfile: file,
    logLevel: "error",
    ...options.esbuild,
  });
  return file;
}

function compiled(name, text) {
  const file = join(folder, `${name}.js`);
  writeFileSync(file, text);
  return file;
}

const language = readFileSync(source("language.ts"), "utf8");
const transpile = (target) =>
  ts.transpileModule(language, {
    compilerOptions: {
      target: ts.ScriptTarget[target],
      module: ts.ModuleKind.None,
      alwaysStrict: true,
      downlevelIteration: true,
      inlineSourceMap: true,
    },
  }).outputText;
const babel = (text) =>
  transformSync(text, {
    configFile: false,
    sourceType: "script",
    presets: [["@babel/preset-env", { targets: "ie 11" }]],
  }).code;

const files = {
  lodash: await bundle("lodash"),
  "lodash-minified": await bundle("lodash-minified", {
    entry: "lodash.js",
    esbuild: { minify: true },
  }),
  // Without a name: the bundle itself assigns `init`.
  "lodash-assigned": await bundle("lodash-assigned", {
    entry: "lodash.js",
    esbuild: {
      globalName: undefined,
      footer: undefined,
      stdin: {
        contents: 'import { init } from "./lodash.js"; globalThis.init = init;',
        resolveDir: source(""),
      },
      entryPoints: undefined,
    },
  }),
  ajv: await bundle("ajv"),
  decimal: await bundle("decimal"),
  curves: await bundle("curves"),
  zone: await bundle("zone"),
  wasm: await bundle("wasm"),
  ses: await bundle("ses", { esbuild: { banner: { js: '"use strict";' } } }),
  "typescript-es5": compiled("typescript-es5", transpile("ES5")),
  "typescript-es2017": compiled("typescript-es2017", transpile("ES2017")),
  "typescript-es2022": compiled("typescript-es2022", transpile("ES2022")),
  babel: compiled("babel", babel(transpile("ES2022"))),
};

// A process for each, because some of them change the built-in objects.
const inNode = `
  const text = require("node:fs").readFileSync(process.argv[1], "utf8");
  const start = new Function(text + "\\n;return init")();
  Promise.resolve(start()).then(async (contract) => {
    console.log(JSON.stringify(await contract.run()));
  });`;
for (const [name, file] of Object.entries(files)) {
  const result = execFileSync(process.execPath, ["-e", inNode, file], { encoding: "utf8" });
  console.log(name, result.trim());
}
