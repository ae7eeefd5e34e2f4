import "ses";

lockdown({ errorTaming: "unsafe", consoleTaming: "unsafe", overrideTaming: "severe" });

const compartment = new Compartment({ globals: { x: 40 }, __options__: true });

export const init = () => ({
  run: () => [
    compartment.evaluate("x + 2"),
    Object.isFrozen(Array.prototype),
    typeof compartment.globalThis.document,
  ],
});
