import start, { solve_pow } from "@cap.js/wasm/browser/cap_wasm.js";
import bytes from "@cap.js/wasm/browser/cap_wasm_bg.wasm";

export async function init() {
  await start({ module_or_path: bytes });
  return { run: () => String(solve_pow("salt", "ab")) };
}
