// Contracts in pages of one Chromium, driven by puppeteer.

import puppeteer from "puppeteer-core";

// As in the original service.
const LIMIT_MS = 2000;

export class Pages {
  #browser;
  #pages = new Map();

  static async launch(executablePath, args) {
    const pages = new Pages();
    pages.#browser = await puppeteer.launch({ executablePath, args, headless: "shell" });
    return pages;
  }

  async load(address, executable) {
    const page = await this.#browser.newPage();
    await page.setRequestInterception(true);
    page.on("request", (request) => request.abort());
    await page.evaluate((source) => {
      globalThis.contract = (0, eval)("0," + source);
    }, executable);
    this.#pages.set(address, page);
  }

  async execute(address, method, argument) {
    const page = this.#pages.get(address);
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error("a call ran longer than its limit")), LIMIT_MS);
    });
    const call = (method, argument) => globalThis.contract[method](argument);
    try {
      return await Promise.race([page.evaluate(call, method, argument), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  close() {
    return this.#browser.close();
  }
}
